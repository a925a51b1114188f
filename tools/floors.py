"""Print, as a constraints file, the oldest release of everything that pyproject.toml asks for.

``make test-oldest`` installs under these constraints, so a floor that is not true fails there.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

_FLOOR = re.compile(r"(?P<name>[A-Za-z0-9._-]+)>=(?P<version>[0-9.]+)")


def floors(pyproject: Path, extras: list[str]) -> list[str]:
    """Return ``name==floor`` for the dependencies of the package and of ``extras``.

    Raises:
        SystemExit: a dependency states no floor.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    wanted: list[str] = list(project["dependencies"])
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    lines = []
    for requirement in wanted:
        if requirement.startswith(project["name"]):
            continue  # an extra that takes in another one
        match = _FLOOR.fullmatch(requirement)
        if match is None:
            raise SystemExit(f"{pyproject}: {requirement!r} states no floor; write name>=version")
        lines.append(f"{match['name']}=={match['version']}")
    return lines


if __name__ == "__main__":
    root = Path(__file__).resolve().parent.parent
    print("\n".join(floors(root / "pyproject.toml", sys.argv[1:])))
