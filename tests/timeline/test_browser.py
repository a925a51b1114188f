"""The page in a real browser: it draws what there is, and runs nothing that is only text."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from pytest_localcluster import Variable, device
from pytest_localcluster._timeline.page import page_of
from pytest_localcluster._timeline.story import Arrow, Bar, Group, Mark, Row, Story
from tests.timeline.conftest import Start, Tell

pytestmark = pytest.mark.needs("chromium")

Show = Callable[..., str]

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--enable-logging=stderr", "--window-size=1200,900"),
)


@pytest.fixture
def show(tmp_path: Path) -> Show:
    """Return what a browser makes of a page; it must have nothing to complain of."""

    def show(page: str, *options: str, part: str = "") -> str:
        file = tmp_path / "page.html"
        file.write_text(page, encoding="utf-8")
        done = subprocess.run(
            [
                "chromium",
                *OPTIONS,
                f"--user-data-dir={tmp_path / 'profile'}",
                *(options or ("--dump-dom",)),
                file.as_uri() + part,
            ],
            capture_output=True,
            encoding="utf-8",
            timeout=100,
            check=True,
        )
        said = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
        assert said == []
        return done.stdout

    return show


def drawn(dom: str, element: str, css: str) -> int:
    """Return how many elements of a kind were drawn in the lanes."""
    lanes = dom.partition('id="lanes"')[2].partition('id="legend"')[0]
    return len(re.findall(rf'<{element} class="{css}', lanes))


def texts(dom: str) -> list[str]:
    lanes = dom.partition('id="lanes"')[2].partition('id="legend"')[0]
    return [unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", lanes)]


def test_a_real_page(show: Show, start: Start, tell: Tell) -> None:
    cluster = start(workers=2, ps=1)
    with device("/job:ps/task:0"):
        w = Variable(np.ones(8), name="w")
    with device("/job:worker/task:1"):
        there = w.read() + 1.0
    with cluster.session() as session:
        session.run(w.initializer)
        session.run(there)
    cluster.run(print, "words")
    cluster.ps[0].kill()
    dom = show(page_of(tell(cluster)))
    assert {"the test", "/job:ps/task:0", "/job:worker/task:0", "life", "steps"} <= set(texts(dom))
    assert drawn(dom, "rect", "bar k-session") == 2
    assert drawn(dom, "rect", "bar k-op") >= 2  # one on each task at least, in its own pixel
    assert drawn(dom, "path", "mark k-death") == 1
    assert drawn(dom, "path", "mark k-log") == 2
    assert drawn(dom, "path", "arrow tensor") == 1
    assert "hidden" in dom.partition('id="left-out"')[2].partition(">")[0]


def test_zooming_shows_more(show: Show) -> None:
    story = Story("test_it", "passed", "", 0, 10**9)
    ops = [Bar("op", f"op_{n}", n * 1000, n * 1000 + 900) for n in range(1000)]
    story.groups = [Group("/job:ps/task:0", "", [Row("device", ops)])]
    page = page_of(story)
    # A second is not wide enough to tell 1000 operations of its first millisecond apart.
    assert 1 <= drawn(show(page), "rect", "bar k-op") <= 3
    closer = show(page, part="#0.1-0.2")
    assert 100 <= drawn(closer, "rect", "bar k-op") <= 103
    assert "100 \u00b5s to 200 \u00b5s of 1.000 s" in closer
    closest = show(page, part="#0.1-0.105")
    assert {"op_101", "op_104"} <= set(texts(closest))


def test_its_buttons_and_keys(show: Show) -> None:
    story = Story("test_it", "passed", "", 0, 10**9)
    phases = [Bar("phase", "setup", 0, 7 * 10**8), Bar("phase", "call", 7 * 10**8, 10**9)]
    ops = [Bar("op", f"op_{n}", n * 10**8, n * 10**8 + 10**7) for n in range(10)]
    story.groups = [Group("the test", "", [Row("phases", phases)]), Group("a", "", [Row("b", ops)])]
    deeds = {
        "click('in')": "250.0 ms to 750.0 ms",
        "click('in');click('right')": "375.0 ms to 875.0 ms",
        "click('in');click('left');click('left')": "0 ms to 500.0 ms",
        "click('in');click('all')": "0 ms to 1.000 s",
        "click('call')": "680.0 ms to 1.000 s",
        "press('+');press('+');press('-')": "250.0 ms to 750.0 ms",
        "press('c')": "680.0 ms to 1.000 s",
        "press('n');press('n');press('n')": "0 ms to 1.000 s",
    }
    script = "".join(
        f"click('all');{deed};told.push(document.getElementById('range').textContent);"
        for deed in deeds
    )
    page = page_of(story).replace(
        "</body>",
        "<script>const told=[];"
        "const click=what=>document.querySelector(`[data-do=${what}]`).click();"
        "const press=key=>document.getElementById('lanes').dispatchEvent("
        "new KeyboardEvent('keydown',{key}));"
        f"{script}document.title=JSON.stringify(told)</script></body>",
    )
    dom = show(page)
    (title,) = re.findall(r"<title>(.*?)</title>", dom)
    assert json.loads(unescape(title)) == [f"{seen} of 1.000 s" for seen in deeds.values()]
    details = dom.partition('id="details"')[2].partition("</section>")[0]
    assert "op_1" in details, "the third bar, by when it began"


def test_text_runs_nothing(show: Show) -> None:
    evil = (
        "</script><script>document.title='owned'</script><img src=x onerror=document.title='owned'>"
    )
    one = Bar("op", evil, 0, 10**9, {evil: evil}, failed=True)
    two = Bar("recv", "b", 10**8, 2 * 10**8)
    rows = [Row(evil, [one]), Row("b", [two], [Mark("log", evil, 10**8)])]
    story = Story(evil, "failed", evil, 0, 10**9, [Group(evil, evil, rows)])
    story.arrows = [Arrow("tensor", evil, one, 10**8, two, 2 * 10**8)]
    story.left_out = [evil]
    # What one chooses is shown in words: with a script of the test's own, from outside.
    press = "document.getElementById('lanes').dispatchEvent(new KeyboardEvent('keydown',{key:'n'}))"
    page = page_of(story).replace("</body>", f"<script>{press}</script></body>")
    dom = show(page)
    (title,) = re.findall(r"<title>(.*?)</title>", dom, re.DOTALL)
    assert unescape(title) == evil
    assert dom.count("<img") == 0
    details = dom.partition('id="details"')[2].partition("</section>")[0]
    assert evil in unescape(details)
    assert "it failed" in details


def test_in_the_light_and_in_the_dark(show: Show, tmp_path: Path) -> None:
    story = Story(
        "test_it", "passed", "", 0, 10**9, [Group("a", "", [Row("b", [Bar("op", "c", 0, 10**9)])])]
    )
    page = page_of(story)
    colours = "document.title=getComputedStyle(document.body).backgroundColor"
    page = page.replace("</body>", f"<script>{colours}</script></body>")
    found = [
        re.findall(r"<title>(.*?)</title>", show(page, *options, "--dump-dom"))
        for options in ((), ("--blink-settings=preferredColorScheme=0",))
    ]
    assert found == [["rgb(255, 255, 255)"], ["rgb(13, 17, 23)"]]


def test_a_full_page_is_quick(show: Show) -> None:
    story = Story("test_it", "passed", "", 0, 10**9)
    for task in range(4):
        ops = [Bar("op", f"op_{n}", n * 10_000, n * 10_000 + 5_000) for n in range(20_000)]
        story.groups.append(Group(f"/job:worker/task:{task}", "", [Row("device", ops)]))
    page = page_of(story).replace(
        "</body>",
        "<script>const t=performance.now();"
        "for(let i=0;i<5;i++)document.querySelector('[data-do=in]').click();"
        "document.title=JSON.stringify({ms:(performance.now()-t)/5,"
        "nodes:document.querySelectorAll('#lanes *').length})</script></body>",
    )
    (title,) = re.findall(r"<title>(.*?)</title>", show(page))
    told = json.loads(unescape(title))
    assert told["nodes"] < 12_000
    assert told["ms"] < 2000
