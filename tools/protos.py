"""Generate src/pytest_localcluster/_proto from protos/, and the code of the example's services.

``python tools/protos.py [OUT]`` writes to a folder like this one if it is given OUT.

Run by `make protos` in a venv that has exactly the releases named here. Generated code runs with
the protobuf that made it and with newer ones, so these are the oldest that the package supports.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RELEASES = {"grpcio-tools": "1.74.0", "protobuf": "6.31.1"}
SERVICES = ("master", "worker")


def generate(out: Path) -> None:
    """Write the modules, stubs and service classes under ``out``, a folder like the project's.

    Raises:
        SystemExit: this interpreter has other releases of the generator.
    """
    for name, wanted in RELEASES.items():
        if (found := version(name)) != wanted:
            raise SystemExit(f"{name} {found} would write other code; {wanted} is needed")
    source = ROOT / "protos"
    protos = sorted(source.glob("pytest_localcluster/_proto/*.proto"))
    services = [path for path in protos if path.stem in SERVICES]
    _protoc(source, out / "src", protos, services)
    for proto in sorted(ROOT.glob("conftest_examples/*/*.proto")):
        _protoc(proto.parent, out / proto.parent.relative_to(ROOT), [proto], [proto])


def _protoc(source: Path, out: Path, protos: list[Path], services: list[Path]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{source}"]
    subprocess.run([*protoc, f"--python_out={out}", f"--pyi_out={out}", *protos], check=True)
    subprocess.run([*protoc, f"--grpc_python_out={out}", *services], check=True)
    for proto in protos:
        stub = (out / proto.relative_to(source)).with_name(f"{proto.stem}_pb2.pyi")
        # protoc says of such a mapping nothing at all, which strict checkers take for unknown.
        text = stub.read_text(encoding="utf-8").replace(", _Mapping]", ", _Mapping[str, object]]")
        stub.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
