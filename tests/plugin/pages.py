"""What is on the page of a timeline."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any


def data_of(page: Path) -> dict[str, Any]:
    """Return what a page draws."""
    match = re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"))
    assert match is not None
    found: dict[str, Any] = json.loads(match[1])
    return found


def words(page: Path) -> set[str]:
    """Return what it calls bars and marks."""
    rows = [row for group in data_of(page)["groups"] for row in group["rows"]]
    return {bar[3] for row in rows for bar in row["bars"]} | {
        m[2] for r in rows for m in r["marks"]
    }
