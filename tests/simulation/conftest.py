"""The small planet and its raw files, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from fluxcube.simulation import Planet


@pytest.fixture(scope="session")
def small_planet() -> Planet:
    """The planet of `planet_files`."""
    return Planet(seed=0, quick=True)


@pytest.fixture(scope="session")
def small_raw(planet_files) -> Path:
    return planet_files
