"""A Dataset that was opened before its store was replaced raises an error; it never returns another site's values."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from tower_files import write_raw

from fluxcube.catalog import open_carbonsense
from fluxcube.cubes.carbonsense import build_carbonsense
from fluxcube.errors import StoreError
from fluxcube.stores.pinned import PinnedStore

REPLACED = "replaced, moved or removed since it was opened"


@pytest.fixture(scope="module")
def templates(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("templates")
    write_raw(folder / "raw", days=2)
    build_carbonsense(folder / "raw", folder / "c.zarr", sites=["NP-Ccc"])
    return folder


@pytest.fixture
def store(templates, tmp_path) -> Path:
    return shutil.copytree(templates / "c.zarr", tmp_path / "c.zarr")


def loads(ds: xr.Dataset) -> np.ndarray:
    return ds.fluxes.sel(site="NP-Ccc", target="NEE").values


@pytest.mark.parametrize("how", ["append", "overwrite"])
def test_reading_after_the_store_was_replaced_is_an_error(store, templates, how):
    ds = open_carbonsense(store)
    before = loads(ds)
    build_carbonsense(templates / "raw", store, **{how: True})  # FJ-Ddd sorts before NP-Ccc: positions move
    with pytest.raises(StoreError, match=REPLACED):
        loads(ds)
    again = open_carbonsense(store).sel(time=ds.time)
    assert np.array_equal(loads(again), before, equal_nan=True)


def test_a_coordinate_that_was_not_yet_read_is_the_same_error(store, templates):
    group = PinnedStore(store)
    ds = xr.open_zarr(group, consolidated=False, chunks=None, decode_cf=False)
    build_carbonsense(templates / "raw", store, append=True)
    with pytest.raises(StoreError, match=REPLACED):
        ds.elevation.values  # noqa: B018


def test_a_removed_store_is_no_store_of_missing_values(store):
    ds = open_carbonsense(store)
    shutil.rmtree(store)
    with pytest.raises(StoreError, match=REPLACED):
        loads(ds)


def test_a_worker_that_opens_the_pickled_dataset_sees_the_same_store(store, templates):
    sent = pickle.dumps(open_carbonsense(store))
    assert np.isfinite(loads(pickle.loads(sent))).any()
    build_carbonsense(templates / "raw", store, append=True)
    with pytest.raises(StoreError, match=REPLACED):
        loads(pickle.loads(sent))


def test_an_open_store_can_be_read_while_another_is_built_beside_it(store, templates, tmp_path):
    ds = open_carbonsense(store)
    before = loads(open_carbonsense(store))
    build_carbonsense(templates / "raw", tmp_path / "other.zarr")
    assert np.isfinite(before).any()
    np.testing.assert_array_equal(loads(ds), before)
