"""Test the decimal codec: every bit is recovered, decimal values take less space, and stores open with xarray."""

from __future__ import annotations

import subprocess
import sys
import zlib

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcube.decimals import decode_columns, encode_columns, snap
from fluxcube.stores.arrays import ArraySpec, create
from fluxcube.stores.building import staging
from fluxcube.stores.reading import open_store
from fluxcube.stores.shards import write_run

SPECIAL = [0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, 3.4e38, -3.4e38, 16777216.0, 0.1, -9999.0]
ANY = st.integers(0, 2**32 - 1).map(lambda bits: np.uint32(bits).view(np.float32))
DECIMAL = st.integers(-(10**6), 10**6).map(lambda n: np.float32(n / 1000))
BLOCKS = st.tuples(st.integers(1, 40), st.integers(1, 4)).flatmap(
    lambda shape: hnp.arrays(np.float32, shape, elements=ANY | DECIMAL | st.sampled_from(SPECIAL).map(np.float32))
)


def bits(block: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(block).view(np.uint32)


@given(BLOCKS)
@settings(max_examples=100, deadline=None)
def test_every_bit_is_recovered(block):
    np.testing.assert_array_equal(bits(decode_columns(encode_columns(block), block.shape)), bits(block))


def tower(seed: int = 0, hours: int = 1461) -> np.ndarray:
    """Means of half-hours with three decimals, some missing, and a column of nothing."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.normal(0, 0.3, 2 * hours))
    columns = [10 + walk, rng.gamma(0.5, 100, 2 * hours), 400 + walk, rng.normal(0, 5, 2 * hours)]
    halves = np.stack(columns, 1).round(3).astype(np.float32)
    block = halves.astype(float).reshape(hours, 2, -1).mean(1).astype(np.float32)
    block[rng.random(block.shape) < 0.1] = np.nan
    return np.concatenate([block, np.full((hours, 1), np.nan, np.float32)], 1)


def test_snapped_values_equal_the_decimals_of_the_source():
    block = tower()
    for column in block[:, :4].T:
        exact = np.rint(column.astype(float) * 2000) / 2000
        np.testing.assert_array_equal(snap(column), exact.astype(np.float32))
        np.testing.assert_allclose(snap(column), column, rtol=0, atol=2.0**-23 * np.nanmax(np.abs(column)))
        np.testing.assert_array_equal(snap(snap(column)), snap(column))


def test_columns_without_a_decimal_step_are_unchanged():
    rng = np.random.default_rng(0)
    for column in (rng.normal(size=500), np.sqrt(np.arange(500.0)), np.full(500, np.nan), np.arange(50) / 7):
        column = column.astype(np.float32)
        np.testing.assert_array_equal(bits(snap(column)), bits(column))


def test_compressed_size_is_below_that_of_netcdf():
    """At most 70 % of what NetCDF4 makes of the same values: shuffled bytes, zlib 4."""
    block = np.stack([snap(column) for column in tower().T], 1)
    shuffled = [np.ascontiguousarray(column).view(np.uint8).reshape(-1, 4).T.tobytes() for column in block.T]
    netcdf = sum(len(zlib.compress(column, 4)) for column in shuffled)
    assert len(encode_columns(block)) < 0.7 * netcdf


@pytest.fixture
def store(tmp_path):
    hours = np.arange("2001-01-01", "2001-03-01", dtype="datetime64[h]").astype("datetime64[ns]")
    values = np.stack([snap(column) for column in tower(hours=len(hours)).T], 1)
    names = {"time": hours, "variable": np.array(list("abcde"), object), "site": np.array(["X", "Y"], object)}
    shape = (2, *values.shape)
    spec = ArraySpec(
        dims=("site", "time", "variable"),
        shape=shape,
        dtype="float32",
        chunks=(1, 100, 5),
        shards=(1, 2000, 5),
        fill_value=np.nan,
        decimals=True,
    )
    with staging(tmp_path / "s.zarr") as building:
        create(building, xr.Dataset(coords=names), {"values": spec}, {"kind": "cube"})
        write_run(building, "values", 1, 0, values)
    return tmp_path / "s.zarr", values


def test_a_store_with_the_codec_opens_like_any_store(store):
    path, values = store
    ds = open_store(path, kind="cube")
    np.testing.assert_array_equal(bits(ds["values"][1].values), bits(values))
    assert ds["values"][0].isnull().all() and ds["values"].dtype == np.float32


def test_xarray_finds_the_codec_by_its_entry_point(store):
    """By entry point: the reader imports nothing of fluxcube."""
    path, values = store
    code = (
        "import sys, numpy, xarray; assert 'fluxcube' not in sys.modules; "
        "ds = xarray.open_zarr(sys.argv[1], consolidated=False); "
        "print(float(numpy.nansum(ds['values'].values.astype(float))))"
    )
    run = [sys.executable, "-W", "ignore", "-c", code, str(path)]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(np.nansum(values.astype(float)))
