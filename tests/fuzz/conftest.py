"""What all fuzzing shares: limits of time and memory on every case, and 10,000 cases only when they are asked for."""

from __future__ import annotations

import pytest
from fuzz_limits import bounded


def pytest_collection_modifyitems(config, items):
    """Leave the long runs out unless ``-m slow`` asks for them."""
    if "slow" in config.getoption("markexpr"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="10,000 cases: opt in with -m slow"))


@pytest.fixture(autouse=True)
def _bounded():
    with bounded():
        yield
