"""What strangers and machines find here: the sample project, the fragments, the workflow."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

import pytest_localcluster

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "tests/sample_project"
FIXTURES = {"cluster_config", "cluster_factory", "lease_port", "local_cluster"}


def sample() -> list[ast.Module]:
    return [ast.parse(path.read_text(encoding="utf-8")) for path in SAMPLE.glob("*.py")]


def makefile_targets() -> set[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z-]+):", text, flags=re.MULTILINE))


def test_the_sample_project_uses_every_public_name() -> None:
    imported = {
        alias.name
        for module in sample()
        for node in ast.walk(module)
        if isinstance(node, ast.ImportFrom) and node.module == "pytest_localcluster"
        for alias in node.names
    }
    assert set(pytest_localcluster.__all__) - imported == set()
    arguments = {
        node.arg for module in sample() for node in ast.walk(module) if isinstance(node, ast.arg)
    }
    defined = {
        node.name
        for module in sample()
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef)
    }
    assert FIXTURES - arguments - defined == set()


def test_fragments_are_named_after_their_kind() -> None:
    kinds = {
        kind["directory"]
        for kind in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
            "towncrier"
        ]["type"]
    }
    fragments = [path for path in (ROOT / "changes").iterdir() if path.name != "template.md"]
    for path in fragments:
        issue, *_, kind, suffix = path.name.split(".")
        assert (issue.isdigit(), kind in kinds, suffix) == (True, True, "md"), path.name
        text = path.read_text(encoding="utf-8")
        assert text.rstrip().endswith("."), f"{path.name}: sentences, please"


@pytest.mark.parametrize("path", [".github/workflows/ci.yml", ".ci/run", "CONTRIBUTING.md"])
def test_machines_and_people_call_targets_that_are_there(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    called = set(re.findall(r"(?:^|`|run: )\s*make ([a-z][a-z-]+)", text, flags=re.MULTILINE))
    assert called, "it calls none"
    assert called - makefile_targets() == set()


def test_the_workflow_has_every_python_that_we_say_we_support() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = re.findall(r":: (3\.\d+)$", "\n".join(project["classifiers"]), flags=re.MULTILINE)
    workflow = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    (matrix,) = re.findall(r"python: \[(.*)\]", workflow)
    assert re.findall(r"3\.\d+", matrix) == named
    run = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert f"for version in {' '.join(named)};" in run
