"""Lazy arrays of products: any selection has the values that numpy selects, and each chunk is read once."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from xarray.core import indexing

from fluxcube.sources.products.lazy import FluxArray, Gate, Part, SumArray

SHAPE = (7, 3, 6, 8)
DIMS = ("time", "hour", "lat", "lon")
RNG = np.random.default_rng(0)
#: Stored: rows from the north, columns from 0 to 360, days of the second file first; product: all in order.
VALUES = RNG.normal(size=SHAPE).astype("f4")
ROWS, COLUMNS = np.arange(6)[::-1], np.roll(np.arange(8), 3)
ORDER = np.array([4, 5, 6, 0, 1, 2, 3])


class Counted:
    """An array of a file that records what is read of it."""

    def __init__(self, values: np.ndarray, chunks: tuple[int, ...]) -> None:
        self.reads: list[tuple[slice, ...]] = []
        self.variable = xr.Variable(DIMS, indexing.LazilyIndexedArray(_Recording(values, self.reads)))
        self.variable.encoding["chunks"] = chunks


class _Recording(xr.backends.BackendArray):
    def __init__(self, values, reads):
        self.values, self.reads, self.shape, self.dtype = values, reads, values.shape, values.dtype

    def __getitem__(self, key):
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key):
        self.reads.append(key)
        return self.values[key]


def product(chunks=(2, 3, 2, 3), scale=1.0):
    """An array of two files, and the files."""
    stored = VALUES[:, :, ROWS][..., np.argsort(COLUMNS)]
    files = [Counted(stored[4:], chunks), Counted(stored[:4], chunks)]
    orders = (None, ROWS.copy(), COLUMNS.copy())
    parts = [
        Part(file.variable, DIMS, orders, "file", threads) for file, threads in zip(files, (True, False), strict=True)
    ]
    steps = np.array([[1, 0], [1, 1], [1, 2], [1, 3], [0, 0], [0, 1], [0, 2]])
    return FluxArray(parts, steps, scale, SHAPE, Gate(2)), files


@pytest.fixture(scope="module", autouse=True)
def _small_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fluxcube.sources.products.lazy._BLOCK", 1)
        yield


def variable(array):
    return xr.Variable(DIMS, indexing.LazilyIndexedArray(array))


INDEX = st.one_of(
    st.integers(0, 2),
    st.slices(3),
    st.lists(st.integers(0, 2), min_size=1, max_size=4).map(np.array),
)


@settings(max_examples=20, deadline=None)
@given(st.tuples(INDEX, INDEX, INDEX, INDEX), st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), min_size=1))
def test_every_selection_is_that_of_numpy(key, places):
    """Basic, outer and pointwise selections, and selections of selections."""
    array, lazy = xr.Variable(DIMS, VALUES), variable(product()[0])
    np.testing.assert_array_equal(lazy[key].values, array[key].values)
    rows, columns = (xr.Variable("site", [place[n] for place in places]) for n in (0, 1))
    sites = {"lat": rows, "lon": columns}
    expected = array[:, :, rows, columns]
    found = lazy[:, :, rows, columns]
    np.testing.assert_array_equal(found.values, expected.values)
    np.testing.assert_array_equal(found[2:5, 1].values, expected[2:5, 1].values)
    assert lazy.isel(time=slice(1, 6), hour=2).isel(sites).equals(array.isel(time=slice(1, 6), hour=2).isel(sites))


def test_positions_from_the_end_and_empty_selections():
    array, lazy = xr.Variable(DIMS, VALUES), variable(product()[0])
    last = {"lat": xr.Variable("site", [-1, 0, -6]), "lon": xr.Variable("site", [-1, -8, 2])}
    np.testing.assert_array_equal(lazy.isel(last).values, array.isel(last).values)
    assert lazy.isel(time=[-1, -7]).equals(array.isel(time=[-1, -7]))
    none = {"lat": xr.Variable("site", np.zeros(0, int)), "lon": xr.Variable("site", np.zeros(0, int))}
    assert lazy.isel(none).values.shape == (7, 3, 0) and lazy.isel(time=[], hour=0).values.shape == (0, 6, 8)
    with pytest.raises(IndexError):
        lazy.isel(lat=xr.Variable("site", [6]), lon=xr.Variable("site", [0])).values  # noqa: B018


def test_points_read_only_their_chunks_each_once():
    """Two far corners: no bounding box, and cells of one chunk share it."""
    array, files = product()
    rows, columns = xr.Variable("site", [0, 5, 0]), xr.Variable("site", [0, 7, 1])
    variable(array)[:, :, rows, columns].load()
    for file, days in zip(files, (3, 4), strict=True):
        chunks = {tuple(one.start // size for one, size in zip(read, (2, 3, 2, 3), strict=True)) for read in file.reads}
        assert len(file.reads) == len(chunks)
        assert len(chunks) == -(-days // 2) * len(
            {(ROWS[r] // 2, COLUMNS[c] // 3) for r, c in ((0, 0), (5, 7), (0, 1))}
        )


def test_files_without_the_period_are_not_read():
    array, files = product()
    variable(array)[5:, :, 2, 2].load()
    assert files[0].reads and not files[1].reads


def test_a_factor_of_each_time_step_follows_the_selection():
    factor = np.arange(1.0, 8.0)
    array, _ = product(scale=factor)
    expected = VALUES * factor[:, None, None, None]
    found = variable(array)[np.array([6, 1]), 0, :, 3]
    np.testing.assert_allclose(found.values, expected[[6, 1], 0, :, 3], rtol=1e-6)


def test_a_sum_reads_each_term_once_and_again_from_the_last_selection():
    (nee, files), (gpp, _) = product(), product(scale=2.0)
    lazy = [variable(one)[:, :, 1, 2].values for one in (nee, gpp, SumArray([(nee, 1.0), (gpp, 1.0)]))]
    before = len(files[0].reads)
    np.testing.assert_allclose(lazy[2], lazy[0] + lazy[1], rtol=1e-6)
    again = variable(nee)[:, :, 1, 2].values
    assert len(files[0].reads) == before
    again[:] = 0.0  # what a user does with values does not change the next ones
    np.testing.assert_array_equal(variable(nee)[:, :, 1, 2].values, lazy[0])


def test_undeclared_missing_values_and_times_without_a_file_are_nan():
    values = np.zeros((2, 1, 1, 1), "f4")
    values[:, 0, 0, 0] = [-9999.0, 9.96921e36]
    part = Part(Counted(values, (1, 1, 1, 1)).variable, DIMS, (None, None, None), "file", False)
    array = FluxArray([part], np.array([[0, 0], [0, 1], [-1, -1]]), 2.0, (3, 1, 1, 1), Gate())
    assert np.isnan(variable(array).values).all()


def test_arrays_survive_pickling_and_dask():
    array, _ = product()
    values = pickle.loads(pickle.dumps(variable(array)))[1:3, :, :, 0].values
    np.testing.assert_array_equal(values, VALUES[1:3, :, :, 0])
    chunked = variable(array).chunk({"time": 2, "lat": 4})
    np.testing.assert_array_equal(chunked.max("time").values, VALUES.max(0))
