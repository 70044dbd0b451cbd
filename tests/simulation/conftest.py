"""The raw files of one small planet, written once for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from fluxcube.simulation import Planet, write_raw


@pytest.fixture(scope="session")
def small_planet() -> Planet:
    return Planet(seed=3, quick=True)


@pytest.fixture(scope="session")
def small_raw(small_planet, tmp_path_factory) -> Path:
    return write_raw(small_planet, tmp_path_factory.mktemp("planet"))
