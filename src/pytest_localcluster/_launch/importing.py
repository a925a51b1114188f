"""Runs in the forkserver, before anything else: what its tasks will need is imported once, here."""

from __future__ import annotations

import faulthandler
import gc
import importlib
import os
import traceback

from pytest_localcluster import _coverage
from pytest_localcluster._launch.booted import import_as_the_user
from pytest_localcluster._launch.wire import DUMP_SIGNAL

__all__ = ["import_ahead"]

_DEPENDENCIES = frozenset(
    {
        *("pytest_localcluster", "cloudpickle", "google", "grpc", "grpc_health"),
        *("numpy", "tensorflow", "concurrent"),
    }
)
"""Packages that runtimes need, which import the standard library as if no other file were there."""


def import_ahead(modules: list[str]) -> BaseException | None:
    """Import the modules; return what one of them raised, which each task will."""
    faulthandler.enable()
    faulthandler.register(DUMP_SIGNAL, all_threads=True)
    os.write(1, b"ready to import\n")  # from here on the dump signal does no harm
    if _coverage.VARIABLE in os.environ:
        importlib.import_module("coverage").process_startup()
    for module in modules:
        if module.partition(".")[0] not in _DEPENDENCIES:
            import_as_the_user()
        os.write(1, f"importing {module}\n".encode())
        try:
            importlib.import_module(module)
        except BaseException as error:
            traceback.print_exc()
            error.add_note(f"while the launcher imported {module!r} ahead for its tasks")
            return error
    import_as_the_user()
    # A task's first garbage collections would else look at all that is here, and so copy its pages.
    gc.collect()
    gc.freeze()
    return None
