"""What README and manual tell a reader to write, written and run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent

# What the snippets take for granted.
PREAMBLE = """
import os
import numpy as np
import pytest
from pytest_localcluster import *

gradient = np.ones((64, 10))
"""


def snippets(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def test_the_first_test_of_the_readme(pytester: pytest.Pytester) -> None:
    first, *_ = snippets("README.md", "python")
    pytester.makepyfile(PREAMBLE + first)
    pytester.runpytest_subprocess("-p", "no:asyncio").assert_outcomes(passed=1)


def test_the_step_of_the_readme(pytester: pytest.Pytester) -> None:
    _, step, _ = snippets("README.md", "python")
    body = "".join(f"    {line}\n" for line in step.splitlines())
    check = "    assert ps[0].variables()['weights'].sum() == pytest.approx(-64)\n"
    nowhere_else = "    assert ps[1].variables() == {}\n"
    pytester.makepyfile(PREAMBLE + "def test_step():\n" + body + check + nowhere_else)
    pytester.runpytest_subprocess("-p", "no:asyncio").assert_outcomes(passed=1)


def test_the_runtimes_of_the_readme() -> None:
    from pytest_localcluster import ClusterConfig, CommandRuntime, ServicerRuntime

    def cluster(**fields: Any) -> None:
        made.append(ClusterConfig(**fields))

    made: list[ClusterConfig] = []
    names = {
        "CommandRuntime": CommandRuntime,
        "ServicerRuntime": ServicerRuntime,
        "add_ps": lambda server, task: None,
        "add_worker": lambda server, task: None,
    }
    *_, markers = snippets("README.md", "python")
    exec(markers.replace("@pytest.mark.cluster", "cluster"), {**names, "cluster": cluster})
    assert len(made) == 4
    (snippet,) = snippets("docs/reference/reference.md", "python")
    cluster(**eval(f"dict({snippet})", names))  # our own manual


def test_where_to_keep_state(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        helpers="""
        seen = []

        def count():
            seen.append(1)
            return len(seen)
        """,
        test_it="""
        import helpers

        seen = []

        def count():
            seen.append(1)
            return len(seen)

        def test_it(local_cluster):
            worker = local_cluster.workers[0]
            assert [worker.run(count) for _ in range(3)] == [1, 1, 1]
            assert [worker.run(helpers.count) for _ in range(3)] == [1, 2, 3]
            assert seen == helpers.seen == []
        """,
    )
    pytester.runpytest_subprocess("-p", "no:asyncio").assert_outcomes(passed=1)


def test_services_of_ones_own(pytester: pytest.Pytester) -> None:
    found = snippets("docs/how-to/own-services.md", "python")
    for module in ("words_pb2", "words_pb2_grpc", "word_count"):
        code = ROOT / f"conftest_examples/own_services/{module}.py"
        shutil.copy(code, pytester.path)
    imports = """
import asyncio
import grpc
from word_count import Totals
from words_pb2 import WatchRequest
from words_pb2_grpc import TotalsStub, add_TotalsServicer_to_server
"""
    pytester.makepyfile(PREAMBLE + imports + "\n\n".join(found))
    pytester.runpytest_subprocess("-p", "no:asyncio").assert_outcomes(passed=3)


def test_the_test_module_inside_tasks(pytester: pytest.Pytester) -> None:
    snippet, *_ = snippets("docs/how-to/inside-tasks.md", "python")
    pytester.makepyfile(PREAMBLE + "import multiprocessing\n" + snippet)
    pytester.runpytest_subprocess("-p", "no:asyncio").assert_outcomes(passed=3)


def test_what_tasks_warn(pytester: pytest.Pytester) -> None:
    _, snippet, *_ = snippets("docs/how-to/inside-tasks.md", "python")
    pytester.makepyfile(PREAMBLE + "import warnings\n" + snippet)
    pytester.runpytest_subprocess("-p", "no:asyncio").assert_outcomes(passed=1, warnings=0)


def test_what_crosses_the_border_of_a_task(pytester: pytest.Pytester) -> None:
    page = (ROOT / "docs/how-to/inside-tasks.md").read_text(encoding="utf-8")
    _, _, section = page.partition("\n## Exceptions\n")
    parts = re.findall(r"^```python\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)
    own = [part for part in parts if "Unreachable" in part or "test_a_view_in_a_task" in part]
    pytester.makepyfile(PREAMBLE + "import threading\n" + "\n\n".join(own))
    pytester.runpytest_subprocess("-p", "no:asyncio").assert_outcomes(passed=2)


def test_what_tasks_log_and_await(pytester: pytest.Pytester) -> None:
    parts = snippets("docs/how-to/inside-tasks.md", "python")
    (logs,) = (part for part in parts if "caplog" in part)
    (coroutines,) = (part for part in parts if "async def" in part)
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    marked = "pytestmark = pytest.mark.cluster(workers=1, ps=0)\n"
    pytester.makepyfile(PREAMBLE + "import asyncio, logging\n" + marked + logs + coroutines)
    pytester.runpytest_subprocess().assert_outcomes(passed=3, warnings=0)


def test_the_timeline_that_is_shown(pytester: pytest.Pytester) -> None:
    (snippet,) = snippets("docs/how-to/timeline.md", "python")
    pytester.makepyfile(test_training=PREAMBLE + snippet)
    result = pytester.runpytest_subprocess("-p", "no:asyncio", "--cluster-timeline=failed")
    result.assert_outcomes(failed=1)
    page = pytester.path / "cluster-timelines/test_training.test_training_goes_on.html"
    text = page.read_text(encoding="utf-8")
    assert "kill SIGKILL" in text
    assert "UnavailableError" in text


def test_a_cluster_that_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_localcluster import LocalCluster
    from pytest_localcluster._cli import _parser
    from pytest_localcluster._clusterfile import read_cluster_file

    page = "docs/how-to/running-cluster.md"
    (snippet,) = snippets(page, "python")
    with LocalCluster(workers=2) as cluster, monkeypatch.context() as patch:
        for name, value in cluster.environ().items():
            patch.setenv(name, value)
        exec(PREAMBLE + snippet, {})
        assert set(cluster.ps[0].variables()) == {"w"}
    (fields,) = snippets(page, "json")
    (tmp_path / "cluster.json").write_text(fields)
    assert read_cluster_file(tmp_path / "cluster.json").runtimes == {"cache": "command"}
    text = (ROOT / page).read_text(encoding="utf-8")
    commands = re.findall(r"python -m pytest_localcluster (\w+[^\n)`]*)", text)
    assert {_parser().parse_args(line.split()).command for line in commands} == {
        "up",
        "env",
        "down",
        "doctor",
    }


@pytest.mark.parametrize("target", ["demo", "test", "test-all", "docs", "bench", "bench-peers"])
def test_make_has_the_targets_that_are_named(target: str) -> None:
    assert f"make {target}" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"\n{target}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
