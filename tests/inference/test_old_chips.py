"""Chips of a grid are looked at for a month: chunks do not change that, and what is read does not grow with a run."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from inference_fakes import fake

from fluxcube.inference.cells import CHIP_DAYS
from fluxcube.inference.grid import upscale
from fluxcube.simulation.example import example_forcing


@pytest.fixture(scope="module")
def forcing():
    """Chips of the first days, and then none for long."""
    ds = example_forcing(shape=(2, 3), days=90)
    gone = (ds.day > ds.day[2]) & (ds.day < ds.day[-1])
    return ds.assign(modis=ds.modis.where(~gone))


def test_chunks_do_not_change_how_long_a_chip_is_seen(forcing):
    maps = [upscale(fake(), forcing, time_chunk=hours).NEE.values for hours in (24, 240, 2160)]
    for other in maps[1:]:
        np.testing.assert_allclose(other, maps[0], rtol=2e-5, atol=1e-5)
    without = upscale(fake(), forcing.assign(modis=forcing.modis * np.nan)).NEE.values
    same = np.isclose(maps[0], without, rtol=2e-5, atol=1e-5)[:, 1, 1]
    noon = (forcing.day.values[2] - forcing.time.values[0]) // np.timedelta64(1, "h") + 12
    seen = np.flatnonzero(~same)
    seen = seen[seen < 24 * 80]  # the last chip comes then
    assert noon + 24 * CHIP_DAYS - 2 <= seen.max() <= noon + 24 * CHIP_DAYS + 6


def test_what_is_read_of_chips_does_not_grow_with_the_run(forcing):
    read = set()

    def reader(block, block_info):
        read.add(block_info[0]["chunk-location"][2])
        return block

    chips = forcing.modis.data if hasattr(forcing.modis.data, "dask") else da.from_array(forcing.modis.values)
    chips = chips.rechunk({2: 1}).map_blocks(reader, dtype="float32", meta=np.empty((0,) * 6, "float32"))
    lazy = forcing.chunk(latitude=2, longitude=3).assign(modis=(forcing.modis.dims, chips))
    maps = upscale(fake(), lazy, time_chunk=240)
    maps.NEE.isel(time=slice(1920, 2160)).compute(scheduler="synchronous")
    days = forcing.day.values[sorted(read)]
    assert days.min() >= forcing.time.values[1920] - np.timedelta64(CHIP_DAYS + 4, "D") > forcing.day.values[0]
