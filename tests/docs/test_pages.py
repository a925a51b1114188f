"""The pages whose examples are tests: each page, from top to bottom, is one complete module."""

from __future__ import annotations

import html
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pytest_localcluster
from tests.test_docs import ROOT, snippets
from tests.test_house import FLOORS

# How many tests pass on each page, and what they need beside pytest-localcluster[test].
PAGES: dict[str, tuple[int, tuple[str, ...]]] = {
    "docs/how-to/any-program.md": (3, ()),
    "docs/how-to/fault-tolerance.md": (7, ()),
    "docs/how-to/from-dask-and-ray.md": (3, ()),
    "docs/how-to/from-tensorflow.md": (3, ()),
    "docs/how-to/from-torch.md": (2, ("torch",)),
}
INI = """
[pytest]
addopts = -p no:cacheprovider -p no:asyncio -p no:xdist
filterwarnings = error
"""


def pages() -> list[Any]:
    return [
        pytest.param(page, marks=pytest.mark.needs(*needs) if needs else (), id=Path(page).stem)
        for page, (_, needs) in PAGES.items()
    ]


@pytest.mark.parametrize("page", pages())
def test_a_page(pytester: pytest.Pytester, page: str) -> None:
    passed, _ = PAGES[page]
    pytester.makeini(INI)
    pytester.makepyfile("\n".join(snippets(page, "python")))
    pytester.runpytest_subprocess(timeout=100).assert_outcomes(passed=passed)


def recipes() -> list[str]:
    """Return the command line of pytest in each recipe for a CI."""
    blocks = snippets("docs/how-to/ci.md", "yaml")
    return [line for block in blocks for line in re.findall(r"- (?:run: )?(pytest .*)", block)]


def test_there_is_one_recipe_for_both_services() -> None:
    first, second = recipes()
    assert first == second


def test_what_a_recipe_keeps(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]")
    pytester.makepyfile(
        """
        def test_red(local_cluster):
            local_cluster.ps[0].run(print, "loading checkpoint")
            assert False
        """
    )
    _, *arguments = shlex.split(recipes()[0])
    kept = [argument.replace("-n auto", "-n 1") for argument in arguments]
    pytester.runpytest_subprocess(*kept, timeout=100).assert_outcomes(failed=1)
    (log,) = pytester.path.glob("reports/logs/*/ps-0.log")
    assert "loading checkpoint" in log.read_text()
    assert "loading checkpoint" in (pytester.path / "reports/junit.xml").read_text()


def executed() -> str:
    tests = (ROOT / "tests").rglob("test_*.py")
    return "\n".join(path.read_text(encoding="utf-8") for path in tests)


def documents() -> list[Path]:
    built = ROOT / "docs/_build"
    pages = [path for path in sorted((ROOT / "docs").rglob("*.md")) if built not in path.parents]
    return [ROOT / "README.md", *pages]


def test_no_page_with_code_is_forgotten() -> None:
    tests = executed()
    for page in documents():
        name = str(page.relative_to(ROOT))
        if re.search(r"^```python\n", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
            assert f'"{name}"' in tests, f"{name} has code that no test runs"


def test_options_and_targets_that_are_named_are_there(pytestconfig: pytest.Config) -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in documents())
    for option in set(re.findall(r"--(cluster-[a-z-]+[a-z])", text)):
        assert hasattr(pytestconfig.option, option.replace("-", "_")), option
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"(?:`|\$ )make ([a-z][a-z-]+)", text)):
        assert re.search(rf"^{target}\b[a-z -]*:", makefile, flags=re.MULTILINE), target


def test_every_page_is_in_a_room() -> None:
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    for page in documents()[1:]:
        room, _, _ = str(page.relative_to(ROOT / "docs")).rpartition("/")
        inside = f"\n{room}/*\n" if room else f"\n{page.stem}\n"
        assert page.stem == "index" or inside in index, f"{page} is in no toctree"


ARCHITECTURE = ROOT / "docs/explanation/architecture.md"


def test_the_floors_of_the_architecture_are_those_of_the_house() -> None:
    rows = re.findall(
        r"^\| (\d) \| (.*?) \|", ARCHITECTURE.read_text(encoding="utf-8"), re.MULTILINE
    )
    told = {room: int(floor) for floor, names in rows for room in re.findall(r"`(\w+)`", names)}
    assert {room: FLOORS[room] for room in told} == told
    assert set(told.values()) == set(FLOORS.values())


def test_files_that_the_architecture_names_are_there() -> None:
    package = Path(pytest_localcluster.__file__).parent
    folders = [
        ROOT,
        package,
        package / "_client",
        package / "_launch",
        package / "_runtimes/native",
    ]
    folders += [ROOT / "tests", ROOT / "tests/conformance"]
    named = re.findall(
        r"`((?:tests/)?[\w/]+\.py|tests/\w+|_\w+/)`", ARCHITECTURE.read_text("utf-8")
    )
    assert len(named) > 30
    missing = [name for name in named if not any((folder / name).exists() for folder in folders)]
    assert missing == []


def test_the_picture_shows_what_a_red_test_shows(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools/picture.py"), str(tmp_path / "fresh.svg")]
    subprocess.run(command, check=True, timeout=100, stdin=subprocess.DEVNULL)
    shown = [words(path) for path in (tmp_path / "fresh.svg", ROOT / "docs/red-report.svg")]
    assert shown[0] == shown[1], "make picture"
    assert "Captured log /job:worker/task:1 call" in shown[1]
    assert "step 3: weight 3.8416" in shown[1]


def words(picture: Path) -> str:
    """Return what a picture of a terminal says, but for numbers that no two runs share."""
    text = html.unescape(re.sub(r"<[^>]*>", "", picture.read_text(encoding="utf-8")))
    text = text.replace("\xa0", " ").partition("a red test")[2]
    return re.sub(r"localhost:\d+|pid \d+|=+ 1 failed in .*", "", text)
