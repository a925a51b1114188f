"""The rules of the house: imports go down, files state their purpose, generated code is current."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"
PACKAGE = SRC / "pytest_localcluster"
GENERATED = PACKAGE / "_proto"

# Room to floor; a folder is one room. What is not named here is refused, so that a new room is
# given its place.
FLOORS = {
    "errors": 0,
    "_spec": 0,
    "_config": 0,
    "_clock": 0,
    "_held": 0,
    "_proto": 0,
    "_moments": 0,
    "_core": 1,
    "_ring": 1,
    "_ports": 1,
    "_logs": 1,
    "_context": 1,
    "_coverage": 1,
    "_clusterfile": 1,
    "_fingerprint": 1,
    "_program": 1,
    "_rendezvous": 1,
    "_warned": 1,
    "_tensors": 1,
    "_graph": 1,
    "_channel": 1,
    "_direct": 1,
    "_streams": 1,
    "_tls": 1,
    "_links": 1,
    "_client": 2,
    "_launch": 2,
    "_runtimes": 2,
    "_exit": 3,
    "_observer": 3,
    "_results": 3,
    "_terminal": 3,
    "_launchers": 3,
    "_setup": 3,
    "_life": 3,
    "_lives": 3,
    "_server": 3,
    "_stacks": 3,
    "_net": 3,
    "_chaos": 3,
    "_faults": 3,
    "_cluster": 3,
    "_ancestor": 3,
    "_attach": 3,
    "_attached": 3,
    "_foreign": 3,
    "_handover": 3,
    "_timeline": 3,
    "_probe": 3,
    "_steward": 3,
    "_plugin": 4,
    "plugin": 4,
    "_cli": 4,
    "__main__": 4,
    "__init__": 4,
}


def sources() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if GENERATED not in path.parents]


def handwritten() -> list[Path]:
    folders = (ROOT / name for name in ("tests", "conftest_examples", "tools"))
    files = (path for folder in folders for path in sorted(folder.rglob("*.py")))
    return [*sources(), *(path for path in files if "_pb2" not in path.name)]


def room(module: str) -> str:
    """Return the room of a module of the package: ``_client`` for pytest_localcluster._client.x."""
    _, _, rest = module.partition(".")
    return rest.partition(".")[0] or "__init__"


def module_name(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and module of every import of the package's own, at whatever depth it stands."""
    module = module_name(path)
    package = module if path.stem == "__init__" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "pytest_localcluster":
                    yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                base = package.split(".")[: len(package.split(".")) - node.level + 1]
                origin = ".".join([*base, *filter(None, [node.module])])
            if origin.partition(".")[0] != "pytest_localcluster":
                continue
            for alias in node.names:
                # `from . import x` imports the module x, if there is one of that name.
                inner = f"{origin}.{alias.name}"
                file = SRC.joinpath(*inner.split("."))
                is_module = file.with_suffix(".py").exists() or (file / "__init__.py").exists()
                yield node.lineno, inner if is_module else origin


def misplaced(path: Path) -> Iterator[str]:
    """Yield the imports of ``path`` that go up or to a sibling on floor 2."""
    own = room(module_name(path))
    if own == "__init__":
        return  # the door opens on every floor
    for line, module in imports(path):
        other = room(module)
        where = f"{path.relative_to(ROOT)}:{line}: {own} (floor {FLOORS[own]}) imports {module}"
        if other not in FLOORS:
            yield f"{where}, which has no floor"
        elif FLOORS[other] > FLOORS[own]:
            yield f"{where} (floor {FLOORS[other]}): imports go down only"
        elif other != own and FLOORS[other] == FLOORS[own] == 2:
            yield f"{where}: its sibling"


def test_every_room_has_a_floor() -> None:
    rooms = {room(module_name(path)) for path in sources()}
    assert rooms <= FLOORS.keys(), "give the new room its floor in FLOORS"


def test_imports_go_down() -> None:
    assert [message for path in sources() for message in misplaced(path)] == []


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("_spec.py", "from ._cluster import LocalCluster", "imports go down only"),
        ("_spec.py", "from . import _client", "imports go down only"),
        ("_spec.py", "import pytest_localcluster._client", "imports go down only"),
        ("_client/x.py", "from .._runtimes import find_runtime", "its sibling"),
        ("_client/x.py", "def f():\n    from .._cluster import x", "imports go down only"),
        ("_client/x.py", "from ..nowhere import x", "which has no floor"),
    ],
)
def test_a_wrong_import_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, line: str, message: str
) -> None:
    package = tmp_path / "pytest_localcluster"
    for folder in (package, package / "_client"):
        folder.mkdir()
        (folder / "__init__.py").touch()
    path = package / file
    path.write_text(line, encoding="utf-8")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    monkeypatch.setitem(globals(), "SRC", tmp_path)
    (found,) = misplaced(path)
    assert message in found


def test_the_package_has_no_import_cycle() -> None:
    # Every module alone, in a fresh interpreter: an order that only happens to work shows here.
    modules = [module_name(path) for path in sources() if path.stem != "__main__"]
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    for known in [m for m in sys.modules if m.startswith('pytest_localcluster')]:\n"
        "        if '._proto' not in known: del sys.modules[known]\n"
        "    importlib.import_module(name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *modules], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", handwritten(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_says_what_it_is_for(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if text:
        assert ast.get_docstring(ast.parse(text))


def test_the_plugin_costs_next_to_nothing() -> None:
    code = (
        "import sys, pytest, pytest_localcluster.plugin, pytest_localcluster\n"
        "heavy = {'grpc', 'numpy', 'google.protobuf', 'cloudpickle', 'portpicker', 'xdist'}\n"
        "print(sorted(heavy & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def generator() -> Path:
    """Return the interpreter that has protoc; `make test` makes it."""
    default = ROOT / ".venv-protos/bin/python"
    return Path(os.environ.get("PROTOC_PYTHON", default))


def test_generated_code_is_current(tmp_path: Path) -> None:
    if not generator().exists():
        pytest.skip("no protoc of the right release here; `make protos` and `make test` install it")
    subprocess.run([generator(), ROOT / "tools/protos.py", tmp_path], check=True)
    fresh = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*_pb2*.py*")}
    kept = {
        path.relative_to(ROOT): path.read_bytes()
        for folder in (GENERATED, ROOT / "conftest_examples/own_services")
        for path in folder.glob("*_pb2*.py*")
    }
    assert fresh, "protoc wrote nothing"
    assert {name for name in fresh.keys() | kept.keys() if fresh.get(name) != kept.get(name)} == (
        set()
    ), "run `make protos`"


def test_public_names() -> None:
    import pytest_localcluster

    assert sorted(pytest_localcluster.__all__) == sorted(
        [
            "ClusterConfig",
            "ClusterError",
            "ClusterSpec",
            "CommandRuntime",
            "ConfigProto",
            "DeviceSpec",
            "LocalCluster",
            "NativeRuntime",
            "PortError",
            "PortLease",
            "RayLauncher",
            "Server",
            "ServerExited",
            "ServicerRuntime",
            "Session",
            "SpecError",
            "StartError",
            "StartTimeout",
            "StopError",
            "Task",
            "TensorFlowRuntime",
            "UnsupportedError",
            "Variable",
            "cluster_fixture",
            "constant",
            "control_dependencies",
            "create_local_cluster",
            "current_task",
            "device",
            "errors",
            "function",
            "group",
            "lease_port",
            "placeholder",
            "replica_device_setter",
            "variables_initializer",
        ]
    )


def test_public_names_are_shown_where_they_are_imported_from() -> None:
    import pytest_localcluster

    for name in pytest_localcluster.__all__:
        thing = getattr(pytest_localcluster, name)
        assert getattr(thing, "__name__", name).rpartition(".")[2] == name
        if isinstance(thing, type) and name != "ConfigProto":
            assert thing.__module__ == "pytest_localcluster", name


def test_types_are_published() -> None:
    assert (PACKAGE / "py.typed").exists()
