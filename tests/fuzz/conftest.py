"""What all fuzzing shares: limits of time and memory on every case."""

from __future__ import annotations

import pytest
from fuzz_limits import bounded


@pytest.fixture(autouse=True)
def _bounded():
    with bounded():
        yield
