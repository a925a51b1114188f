"""The page: one file, all text escaped, bounded whatever happened."""

from __future__ import annotations

import itertools
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from pytest_localcluster._timeline import page
from pytest_localcluster._timeline.page import page_of
from pytest_localcluster._timeline.story import (
    Arrow,
    Bar,
    Group,
    Mark,
    Row,
    Story,
    duration,
    size,
)

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\"'\u2028]]>"


class Reader(HTMLParser):
    """What a browser would make of a page: its elements, and the text in each."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.data = ""
        self._in_data = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_data = ("id", "data") in attrs

    def handle_endtag(self, tag: str) -> None:
        self._in_data = False

    def handle_data(self, data: str) -> None:
        if self._in_data:
            self.data += data
        self.text.append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    return reader


def data_of(html: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(read(html).data)
    return found


def story_of(*groups: Group, test: str = "test_it", failure: str = "") -> Story:
    story = Story(test, "failed" if failure else "passed", failure, 0, 10**9)
    story.groups = [
        Group("the test", "", [Row("phases", [Bar("phase", "call", 0, 10**9)])]),
        *groups,
    ]
    return story


def test_text_stays_text() -> None:
    bar = Bar("op", EVIL, 10, 20, {EVIL: EVIL, "error": EVIL}, failed=True)
    rows = [Row(EVIL, [bar], [Mark("log", EVIL, 15), Mark("death", EVIL, 16, {EVIL: EVIL})])]
    story = story_of(Group(EVIL, EVIL, rows), test=EVIL, failure=EVIL)
    story.arrows = [Arrow("tensor", EVIL, bar, 11, bar, 12, 1)]
    story.left_out = [EVIL]
    html = page_of(story)
    plain = page_of(
        story_of(Group("a", "b", [Row("c", [Bar("op", "d", 1, 2, failed=True)])]), failure="e")
    )
    reader = read(html)

    def elements(of: str) -> list[str]:
        return [tag for tag, _ in read(of).tags if tag not in ("tr", "td", "button", "li")]

    assert elements(html) == elements(plain)
    assert not [
        name for _, attributes in reader.tags for name in attributes if name.startswith("on")
    ]
    assert "".join(reader.text).count(EVIL) >= 5  # title, heading, failure, table, what is left out
    group = json.loads(reader.data)["groups"][1]
    assert group["name"] == EVIL
    assert group["rows"][0]["bars"][0][3] == EVIL


def test_nothing_is_fetched_from_anywhere() -> None:
    html = page_of(story_of())
    reader = read(html)
    allowed = {"link": "data:,"}
    for tag, attributes in reader.tags:
        for name in ("src", "href"):
            assert attributes.get(name) in (None, allowed.get(tag)), (tag, attributes)
    policy = next(a["content"] for _, a in reader.tags if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert re.findall(r"https?://[^\"' ]+", html) == ["http://www.w3.org/2000/svg"]
    assert "@import" not in html
    assert "url(" not in html.replace("url(#tip)", "").replace("url(#inside)", "")


def test_what_matters_is_there_without_a_script() -> None:
    row = Row(
        "life",
        [Bar("life", "running", 0, 500_000_000)],
        [
            Mark("ready", "ready", 10**7),
            Mark("death", "died on its own: was killed by SIGSEGV", 5 * 10**8, failed=True),
        ],
    )
    step = Bar("step", "loss", 10**8, 2 * 10**8, {"error": "no luck"}, failed=True)
    fault = Row("faults", [Bar("fault", "partition between a and b", 10**8, 3 * 10**8)])
    story = story_of(
        Group("/job:ps/task:0", "native", [row, fault, Row("steps", [step])]), failure="assert 0"
    )
    html = page_of(story)
    table = html.partition("<tbody>")[2].partition("</tbody>")[0]
    lines = [" | ".join(re.findall(r">([^<>]+)<", line)) for line in table.strip().splitlines()]
    assert lines == [
        "0.000 ms | the test | call begins",
        "10.000 ms | /job:ps/task:0 | ready",
        "100.000 ms | /job:ps/task:0 | partition between a and b",
        "200.000 ms | /job:ps/task:0 | loss failed no luck",
        "500.000 ms | /job:ps/task:0 | died on its own: was killed by SIGSEGV",
    ]
    assert "<pre>assert 0</pre>" in html
    assert '<html lang="en">' in html


def test_a_page_is_bounded() -> None:
    story = story_of(failure="x" * 10**6)
    for task in range(4):
        ops = [Bar("op", f"operation_{n}", n * 10_000, n * 10_000 + 5_000) for n in range(20_000)]
        ops[0].failed = True  # which is shown however early it was
        lines = [Mark("log", "y" * 400, n * 10_000) for n in range(2000)]
        story.groups.append(
            Group(f"/job:worker/task:{task}", "", [Row("device", ops), Row("log", [], lines)])
        )
        story.arrows += [
            Arrow("tensor", "t", one, one.end, two, two.begin)
            for one, two in itertools.pairwise(ops)
        ]
    html = page_of(story)
    assert len(html) < 1_500_000
    data = data_of(html)
    shown = [row["bars"] for group in data["groups"][1:] for row in group["rows"] if row["bars"]]
    assert sum(map(len, shown)) == page.MOST_BARS + 4
    assert [bars[0][3] for bars in shown] == ["operation_0"] * 4
    assert [bars[-1][3] for bars in shown] == ["operation_19999"] * 4
    assert len(data["arrows"]) <= page.MOST_ARROWS
    said = read(html).text
    assert f"on this page: the first {80_000 - page.MOST_BARS - 4} bars; the trace has them" in said
    assert f"on this page: the first {8000 - page.MOST_LINES} lines of logs" in said


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0 \u00b5s"),
        (812_000, "812 \u00b5s"),
        (3_250_000, "3.25 ms"),
        (61 * 10**9, "61 s"),
        (4000 * 10**9, "4000 s"),
    ],
)
def test_durations(nanoseconds: int, text: str) -> None:
    assert duration(nanoseconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(12, "12 bytes"), (1024, "1 KiB"), (1 << 20, "1 MiB"), (3 << 29, "1.5 GiB")],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text
