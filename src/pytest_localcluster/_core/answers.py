"""Answers to the questions of tasks about test modules, given where the modules themselves are."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeAlias

from . import pickling
from .identity import own_origin
from .stand_ins import Answer, Question, StandIn
from .test_files import goes_by_value

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Send", "answer", "reply", "route"]

Send: TypeAlias = "Callable[[Answer | None], None]"
"""Takes an answer, None if there is none."""

_router: Callable[[Question, Send], None] | None = None


def route(router: Callable[[Question, Send], None]) -> None:
    """Have questions about modules of other processes given to ``router``."""
    global _router
    _router = router


def reply(question: Question, send: Send) -> None:
    """Have ``send`` called with the answer, now or later; with None if there is none."""
    if _router is not None and question.origin != own_origin():
        _router(question, send)
    else:
        send(answer(question))


def answer(question: Question) -> Answer:
    """Return the answer of this process."""
    module = sys.modules.get(question.module)
    if question.kind == "package":
        return _package(question.module, module)
    if module is None or not goes_by_value(question.module):
        return "missing", None
    if question.kind == "module":
        return "module", _home(module)
    if getattr(module, "__file__", None) != question.file:
        return "missing", None  # another file of this name has come after it
    try:
        value = getattr(module, question.name)
    except AttributeError:
        return "missing", None
    except BaseException as error:  # of a __getattr__ of the module's own
        return "refused", f"the module raised {type(error).__name__}: {error}"
    try:
        return pickling.dump_named(value)
    except Exception as error:
        return "refused", f"it cannot be pickled: {type(error).__name__}: {error}"


def _home(module: Any) -> tuple[Any, ...]:
    scope = vars(module)
    path = list(scope["__path__"]) if "__path__" in scope else None
    origin = module.home.origin if isinstance(module, StandIn) else own_origin()
    return origin, module.__name__, scope.get("__file__"), scope.get("__package__"), path, True


def _package(name: str, module: Any) -> Answer:
    """Return the file and path of a package that test modules are in: pytest may have made it."""
    prefix = f"{name}."
    if module is None or not any(
        one.startswith(prefix) and goes_by_value(one) for one in list(sys.modules)
    ):
        return "missing", None
    return "package", (getattr(module, "__file__", None), list(getattr(module, "__path__", ())))
