"""``doctor``: tries what clusters need of the machine, and says what to mend."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from . import limits, machine, software, strays
from .checks import PROBLEM, WARNING, Check, tried
from .view import console_for

__all__ = ["run"]


def run(given: argparse.Namespace) -> int:
    """Look at everything and show it; return 1 if something will not work."""
    looks = (*machine.LOOKS, *limits.LOOKS, *software.LOOKS, *strays.LOOKS)
    checks = [check for look in looks for check in tried(look)]
    if not _show_table(checks, plain=given.plain):
        for check in checks:
            print(f"{check.state:8} {check.what}: {check.found}")
            if remedy := _remedy(check):
                print(f"           To fix this: {remedy}")
    problems = sum(check.state == PROBLEM for check in checks)
    warnings = sum(check.state == WARNING for check in checks)
    print(f"{problems} problems, {warnings} warnings")
    return 1 if problems else 0


def _remedy(check: Check) -> str:
    return check.remedy if check.state in (WARNING, PROBLEM) else ""


def _show_table(checks: Sequence[Check], *, plain: bool) -> bool:
    """Show them as a table, if there is a terminal for it; tell whether there was."""
    console = console_for(plain=plain, what="the table")
    if console is None:
        return False
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in ("", "what", "found", "to fix it"):
        table.add_column(column, overflow="fold")
    for check in checks:
        color = {WARNING: "yellow", PROBLEM: "red"}.get(check.state, "green")
        table.add_row(
            Text(check.state, color), Text(check.what), Text(check.found), Text(_remedy(check))
        )
    console.print(table)
    return True
