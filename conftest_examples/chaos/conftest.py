"""A line to be learned, small enough to see what a fault does to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


@pytest.fixture
def samples() -> tuple[Any, Any]:
    """Points ``x`` of shape (256, 2) and what they should give: ``3 x0 - 2 x1``."""
    points = np.random.default_rng(0).normal(size=(256, 2))
    return points, points @ [3.0, -2.0]
