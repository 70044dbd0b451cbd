"""Fixtures that several parts share."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from once import make_once

from fluxcube import progress

# Who starts tests in the background (`make test &`) starts them with Ctrl-C ignored, also in every process of theirs.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Commands write a line after some seconds, which a test on a busy machine must not take for a message.
progress.FIRST = 3600.0

_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real towers, ERA5 and MODIS; tests that need it are skipped where it is missing."""
    if not _SHARED.is_dir():
        pytest.skip(f"no real data: {_SHARED} is missing")
    return _SHARED


@pytest.fixture(scope="session")
def planet_files(tmp_path_factory) -> Path:
    """Raw files of the small simulated planet: towers/, era5/, modis/, land_cover/; tests must not change them."""
    from fluxcube.simulation import Planet, write_raw

    planet = Planet(seed=0, quick=True)
    return make_once(tmp_path_factory, "planet", lambda folder: write_raw(planet, folder)) / "raw"


@pytest.fixture(scope="session")
def cube_store(planet_files, tmp_path_factory) -> Path:
    """The cube built from the small planet, <folder>/carbonsense.zarr; tests must not change it."""
    import fluxcube as fc

    def build(folder: Path) -> None:
        fc.build_carbonsense(planet_files / "towers", folder / "carbonsense.zarr", modis=planet_files / "modis")

    return make_once(tmp_path_factory, "stores", build) / "carbonsense.zarr"


@pytest.fixture(scope="module")
def short_applicability():
    """Weight inputs by the errors of few windows, for tests that train a model only to see something else.

    Tests of the area of applicability take the number of windows that users get.
    """
    from fluxcube.training import applicability

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(applicability, "_WINDOWS", (8, 8))
        patch.setattr(applicability, "_ROWS", 64)
        yield
