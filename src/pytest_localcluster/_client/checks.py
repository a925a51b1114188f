"""What a session may be given: its target, its config, the timeout of a run."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

from .._clock import Deadline
from .._context import address_of
from .._proto.config_pb2 import ConfigProto
from ..errors import SpecError

__all__ = ["check_config", "check_feeds", "check_target", "deadline_for"]


def deadline_for(timeout: float | None, config: ConfigProto | None) -> Deadline:
    """Return the deadline of a step; the config's, if it has one, where no ``timeout`` is given."""
    if timeout is None:
        ms = 0 if config is None else config.operation_timeout_in_ms
        return Deadline(ms / 1000 if ms > 0 else None)
    number = isinstance(timeout, numbers.Real) and not isinstance(timeout, bool)
    if not number or not 0 < timeout < math.inf:
        raise ValueError(f"timeout={timeout!r} is no time for a step: use seconds above 0, or None")
    return Deadline(timeout)


def check_target(target: object) -> None:
    """Raise TypeError if ``target`` is no string (a Server is none), SpecError if no address."""
    if not isinstance(target, str):
        has = getattr(target, "target", None)
        remedy = ": pass its target attribute" if isinstance(has, str) else ""
        raise TypeError(
            f"a session's target is a string such as grpc://localhost:41234, not {target!r}{remedy}"
        )
    host, _, port = address_of(target).rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise SpecError(f"target {target!r} cannot be dialled", remedy="use grpc://host:port")


def check_feeds(feed_dict: object) -> None:
    """Raise TypeError if ``feed_dict`` is no mapping."""
    if not isinstance(feed_dict, Mapping):
        raise TypeError(
            f"feed_dict is a dict from Tensors to values, such as {{x: images}}, not {feed_dict!r}"
        )


def check_config(config: Any) -> ConfigProto | None:
    """Return a copy of a ConfigProto, ours or TensorFlow's, as ours; TypeError if it is neither."""
    if config is None:
        return None
    if getattr(getattr(config, "DESCRIPTOR", None), "name", None) != "ConfigProto":
        raise TypeError(
            f"config={config!r} is no ConfigProto: use pytest_localcluster.ConfigProto "
            "or tf.compat.v1.ConfigProto"
        )
    # Through bytes: TensorFlow's is another class, and a copy is not changed by the caller later.
    return ConfigProto.FromString(config.SerializeToString())
