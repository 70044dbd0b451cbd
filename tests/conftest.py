"""Fixtures that several parts share."""

from __future__ import annotations

from pathlib import Path

import pytest

_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real towers, ERA5 and MODIS; tests that need it are skipped where it is missing."""
    if not _SHARED.is_dir():
        pytest.skip(f"no real data: {_SHARED} is missing")
    return _SHARED


@pytest.fixture(scope="session")
def planet_files(tmp_path_factory) -> Path:
    """Raw files of the small simulated planet: towers/, era5/, modis/, land_cover/."""
    from fluxcube.simulation import Planet, write_raw

    return write_raw(Planet(seed=0, quick=True), tmp_path_factory.mktemp("planet"))


@pytest.fixture(scope="session")
def cube_store(planet_files, tmp_path_factory) -> Path:
    """The cube built from the small planet's towers and chips, as <folder>/carbonsense.zarr."""
    import fluxcube as fc

    store = tmp_path_factory.mktemp("stores") / "carbonsense.zarr"
    fc.build_carbonsense(planet_files / "towers", store, modis=planet_files / "modis")
    return store
