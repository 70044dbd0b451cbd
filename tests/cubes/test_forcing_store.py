"""Forcing stores: the same values and maps as from files; writing can be resumed."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest

from fluxcube.cubes.forcing_store import is_forcing_store, open_forcing_store, write_forcing
from fluxcube.errors import ConfigError, StoreError, UnknownNameError
from fluxcube.simulation.example import example_forcing
from fluxcube.stores.ledger import done_regions


@pytest.fixture(scope="module")
def forcing():
    ds = example_forcing(shape=(5, 7), days=130).isel(time=slice(3, 3000))
    land = np.ones((5, 7))
    land[:2, :3] = 0.0
    ds["modis"] = (ds.modis * 1e4).round() / np.float32(1e4)
    return ds.chunk(latitude=2, longitude=3).assign_coords(land_fraction=(("latitude", "longitude"), land))


@pytest.fixture(scope="module")
def store(forcing, tmp_path_factory):
    return write_forcing(forcing, tmp_path_factory.mktemp("forcing") / "forcing.zarr")


def test_a_store_gives_back_what_was_written(forcing, store):
    opened = open_forcing_store(store)
    land = forcing.land_fraction > 0
    np.testing.assert_array_equal(opened.predictors, forcing.predictors.where(land))
    np.testing.assert_allclose(opened.modis, forcing.modis.where(land), rtol=0, atol=1e-7)
    assert opened.predictors.dtype == opened.modis.dtype == np.float32
    for name in forcing.coords:
        np.testing.assert_array_equal(opened[name].values, forcing[name].values)
    assert not (store / "predictors/c/0/0").exists() and (store / "predictors/c/0/1/0/0").is_file()
    assert opened.predictors.chunksizes["latitude"] == (2, 2, 1)
    assert is_forcing_store(store) and not is_forcing_store(store.parent) and not is_forcing_store(["a.nc"])


def test_parts_are_those_of_the_whole(forcing, store):
    lat, lon = forcing.latitude.values, forcing.longitude.values
    box = (lon[2] - 0.01, min(lat[1], lat[3]), lon[5] + 0.01, max(lat[1], lat[3]))
    part = open_forcing_store(store, bbox=box, time=slice("2018-06-03", "2018-06-05T07"), predictors=["TA", "TOD"])
    np.testing.assert_array_equal(part.longitude, lon[2:6])
    assert set(part.latitude.values) == set(lat[1:4]) and part.sizes["time"] == 56
    np.testing.assert_array_equal(part.predictors, open_forcing_store(store).predictors.sel(part.predictors.indexes))
    shifted = open_forcing_store(store, bbox=(box[0] + 360, box[1], box[2] + 360, box[3]))
    np.testing.assert_array_equal(shifted.longitude, part.longitude)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"bbox": (100, -80, 110, -70)}, ConfigError, "contains no cell of the forcing, which has latitudes"),
        ({"time": slice("1999", "2000")}, ConfigError, "selects no hour: the forcing runs from 2018-06-01T03"),
        ({"predictors": "TAA"}, UnknownNameError, "TA"),
    ],
)
def test_what_lies_outside_is_refused(store, options, error, words):
    with pytest.raises(error, match=words):
        open_forcing_store(store, **options)


def broken(forcing):
    def fail(block, block_info):
        if block_info[0]["chunk-location"][:2] == (2, 2):
            raise OSError("unreadable")
        return block

    data = da.map_blocks(fail, forcing.predictors.data, dtype="float32", name="kept", meta=np.empty((0,) * 4, "f4"))
    return forcing.assign(predictors=(forcing.predictors.dims, data))


def test_a_run_that_failed_goes_on_and_nothing_else_is_replaced(forcing, store, tmp_path):
    path = tmp_path / "forcing.zarr"
    with pytest.raises(StoreError, match=r"predictors:4:5,6:7,0:2208,0:6: unreadable"):
        write_forcing(broken(forcing), path, workers=1)
    done = done_regions(path)
    assert len(done) == 14
    with pytest.raises(StoreError, match="not finished"):
        open_forcing_store(path)
    with pytest.raises(StoreError, match="overwrite"):  # of another forcing
        write_forcing(forcing, path)
    mended = broken(forcing)
    mended = mended.assign(
        predictors=mended.predictors.copy(
            data=da.map_blocks(
                lambda block: block,
                forcing.predictors.data,
                dtype="float32",
                name="kept",
                meta=np.empty((0,) * 4, "f4"),
            )
        )
    )
    seen = []
    write_forcing(mended, path, progress=lambda *step: seen.append(step))
    assert len(seen) == seen[0][1] - len(done)
    for name in ("predictors", "modis"):
        np.testing.assert_array_equal(open_forcing_store(path)[name], open_forcing_store(store)[name])
    (tmp_path / "thesis").mkdir()
    with pytest.raises(StoreError):
        write_forcing(forcing, tmp_path / "thesis", overwrite=True)
