"""Levels that are told once, and records on their way."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from pytest_localcluster._core import logging as records
from pytest_localcluster._core import settings

NAME = "tests.of_levels"


@pytest.fixture(autouse=True)
def levels() -> Iterator[None]:
    yield
    logging.getLogger(NAME).setLevel(logging.NOTSET)
    logging.disable(logging.NOTSET)


def test_levels_are_news_once() -> None:
    one, two = records.Levels(), records.Levels()
    first = one.news()
    assert first is not None
    assert first["root"] == logging.root.level
    assert NAME not in first
    assert one.news() is None
    logging.getLogger(NAME).setLevel(logging.DEBUG)
    assert one.news() == {NAME: logging.DEBUG}
    assert one.news() is None
    assert (two.news() or {})[NAME] == logging.DEBUG
    logging.getLogger(NAME).setLevel(logging.NOTSET)
    logging.disable(logging.INFO)
    assert one.news() == two.news() == {NAME: logging.NOTSET, None: logging.INFO}


def test_a_change_that_was_taken_back_is_none() -> None:
    one = records.Levels()
    one.news()
    logging.getLogger(NAME).setLevel(logging.DEBUG)
    logging.getLogger(NAME).setLevel(logging.NOTSET)
    assert one.news() is None


def test_settings_are_news_together() -> None:
    one = settings.Settings()
    assert one.news() is not None
    assert one.news() is None
    logging.getLogger(NAME).setLevel(logging.DEBUG)
    assert one.news() == settings.News(filters=None, levels={NAME: logging.DEBUG})


def test_levels_are_applied() -> None:
    records.apply({NAME: logging.ERROR, None: logging.DEBUG})
    logger = logging.getLogger(NAME)
    assert [logger.isEnabledFor(level) for level in (10, 20, 30, 40)] == [False, False, False, True]
    logger.setLevel(logging.DEBUG)
    assert [logger.isEnabledFor(level) for level in (10, 20)] == [False, True]


def test_who_subscribes_hears_of_each_change() -> None:
    heard: list[int] = []

    def changed() -> Future[None]:
        heard.append(logging.getLogger(NAME).level)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    before = logging.root.manager.__dict__.copy()
    records.subscribe(changed)
    logger = logging.getLogger(NAME)
    assert not logger.isEnabledFor(logging.INFO)
    logger.setLevel(logging.INFO)
    assert logger.isEnabledFor(logging.INFO), "what logging itself remembers is renewed"
    logger.setLevel(logging.ERROR)
    records.unsubscribe(changed)
    records.unsubscribe(changed)
    logger.setLevel(logging.DEBUG)
    assert heard == [logging.INFO, logging.ERROR]
    assert logging.root.manager.__dict__.keys() == before.keys()


def test_records_wait_for_the_end_of_a_pause(caplog: pytest.LogCaptureFixture) -> None:
    record = records.dump(logging.makeLogRecord({"name": NAME, "levelno": 30, "msg": "now"}))
    records.pause()
    records.receive("/job:ps/task:0", [record])
    assert caplog.messages == []
    records.resume()
    records.receive("/job:ps/task:0", [{**record, "msg": "then"}])
    assert caplog.messages == ["now", "then"]


@pytest.mark.parametrize("style", ["%", "{", "$"])
def test_formatters_show_the_task_and_messages_do_not(style: str) -> None:
    formats = {"%": "%(message)s", "{": "{message}", "$": "$message"}
    formatter = logging.Formatter(formats[style], style=style)  # type: ignore[arg-type]
    record = logging.makeLogRecord({"msg": "loss %d", "args": (3,)})
    records.mark(record, "/job:ps/task:0")
    for _ in range(2):
        assert formatter.format(record) == "[/job:ps/task:0] loss 3"
    assert record.getMessage() == record.message == "loss 3"
    assert record.task == "/job:ps/task:0"  # type: ignore[attr-defined]
    assert isinstance(record, logging.LogRecord)
    records.mark(record, "/job:ps/task:1")  # of an outer cluster
    assert formatter.format(record) == "[/job:ps/task:0] loss 3"


def test_a_record_of_a_class_of_its_own() -> None:
    class Own(logging.LogRecord):
        pass

    record = Own("x", 30, "f", 1, "text", (), None)
    records.mark(record, "/job:ps/task:0")
    assert isinstance(record, Own)
    assert logging.Formatter().format(record) == "[/job:ps/task:0] text"
