"""Stores appear whole or not at all, open as written, and never lose half a shard."""

from __future__ import annotations

import json
import os
import shutil
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from processes import Fork

from fluxcube.errors import ConfigError, StoreError, from_shell
from fluxcube.stores.arrays import ArraySpec, create
from fluxcube.stores.building import finish, spill, staging, store_lock, unspill
from fluxcube.stores.documents import read_documents, write_documents
from fluxcube.stores.ledger import done_regions, mark_done
from fluxcube.stores.reading import dask_chunked, open_store
from fluxcube.stores.shards import adopt, write_region, write_run

HOURS, SITES, LABELS = 50, 3, 4
SHARD = 32


def coords(start: str = "2001-01-01") -> xr.Dataset:
    hours = np.datetime64(start, "h") + np.arange(HOURS)
    bounds = np.stack([hours, hours + np.timedelta64(1, "h")], 1)
    return xr.Dataset(
        coords={
            "site": ("site", np.array(["US-A", "DE-Bé", "X"], object)),
            "time": ("time", hours.astype("datetime64[ns]")),
            "time_bnds": (("time", "bnds"), bounds.astype("datetime64[ns]")),
            "variable": ("variable", np.array(list("abcd"), object)),
            "cyclic": ("variable", np.array([True, False, False, True])),
            "elevation": ("site", np.array([1.5, np.nan, -3.0])),
            "igbp": ("site", np.array(["DBF", "", "WET"], object)),
            "time_start": ("site", np.full(SITES, np.datetime64("2001-01-01T07", "ns"))),
        }
    )


def spec(dtype: str, **more: object) -> ArraySpec:
    return ArraySpec(
        dims=("site", "time", "variable"),
        shape=(SITES, HOURS, LABELS),
        dtype=dtype,
        chunks=(1, 8, LABELS),
        shards=(1, SHARD, LABELS),
        **more,
    )


ARRAYS = {
    "values": spec("float32", fill_value=np.nan, attrs={"long_name": "values"}),
    "flags": spec("int8", fill_value=-1),
    "share": spec("uint8", attrs={"scale_factor": 0.01}),
}
SHAPE = (1, HOURS, LABELS)


def whole(site: int) -> tuple[slice, ...]:
    return slice(site, site + 1), slice(0, HOURS), slice(0, LABELS)


def write_all(path: Path) -> None:
    rng = np.random.default_rng(1)
    create(path, coords(), ARRAYS, {"kind": "cube", "title": "t"})
    write_region(path, "values", whole(1), rng.normal(size=SHAPE).astype("float32"))
    write_region(path, "flags", whole(1), rng.integers(-1, 4, SHAPE).astype("int8"))
    write_region(path, "share", whole(1), rng.integers(0, 101, SHAPE).astype("uint8"))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with staging(tmp_path / "s.zarr") as building:
        write_all(building)
    return tmp_path / "s.zarr"


def files(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_opens_as_written_lazily_and_without_a_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with staging(tmp_path / "s.zarr") as building:
            write_all(building)
            mark_done(building, {"a": 0})
        ds = open_store(tmp_path / "s.zarr", kind="cube")
        loaded = ds.load()
    for name, coord in coords().coords.items():
        xr.testing.assert_equal(ds[name].drop_vars(ds[name].coords), coord.drop_vars(coord.coords))
        assert ds[name].dtype == coord.dtype, name
    assert set(ds.data_vars) == set(ARRAYS)
    assert [ds[name].dtype for name in ARRAYS] == ["float32", "int8", "float32"]
    rng = np.random.default_rng(1)
    np.testing.assert_array_equal(loaded["values"][1], rng.normal(size=SHAPE).astype("float32")[0])
    np.testing.assert_array_equal(loaded["flags"][1], rng.integers(-1, 4, SHAPE)[0])
    np.testing.assert_allclose(loaded["share"][1], rng.integers(0, 101, SHAPE)[0] / 100, rtol=1e-6)
    assert loaded["values"][0].isnull().all() and (loaded["flags"][0] == -1).all() and (loaded["share"][0] == 0).all()


def test_arrays_are_dask_with_a_chunk_a_shard(store):
    ds = open_store(store, kind="cube")
    assert ds["values"].chunks == ((1,) * SITES, (SHAPE[1] - HOURS % SHARD, HOURS % SHARD), (LABELS,))
    again = open_store(store, kind="cube")
    assert again["values"].data.name == ds["values"].data.name
    lazy = open_store(store, kind="cube", dask=False)
    one, other = (dask_chunked(lazy.isel(site=[0, i]))["values"] for i in (1, 2))
    assert one.data.name != other.data.name
    np.testing.assert_array_equal(one, ds["values"].isel(site=[0, 1]))


def test_empty_chunks_are_not_stored(store):
    assert {p for p in files(store) if p.startswith("values/c")} == {"values/c/1/0/0", "values/c/1/1/0"}


def test_equal_input_gives_equal_bytes(tmp_path):
    for name in "ab":
        with staging(tmp_path / name) as building:
            write_all(building)
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.parametrize(
    "part", [slice(0, 16), slice(16, 32), slice(0, 40), slice(32, 49), slice(0, 51), slice(None), slice(8, 8)]
)
def test_a_region_never_cuts_a_shard(store, part):
    size = len(range(*part.indices(HOURS)))
    with pytest.raises(ConfigError, match="cuts a shard in dimension 1"):
        write_region(store, "flags", (slice(0, 1), part, slice(0, LABELS)), np.zeros((1, size, LABELS), "int8"))


def test_values_must_fit_the_region(store):
    with pytest.raises(ConfigError, match="expects"):
        write_region(store, "flags", whole(0), np.zeros((1, 1, LABELS), "int8"))
    with pytest.raises(ConfigError, match="of int8"):
        write_region(store, "flags", whole(0), np.zeros(SHAPE, "float32"))
    with pytest.raises(StoreError, match="no array flag"):
        write_region(store, "flag", whole(0), np.zeros(SHAPE, "int8"))


def test_concurrent_writers_of_whole_shards_lose_nothing(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(SITES, HOURS, LABELS)).astype("float32")
    create(tmp_path / "s", coords(), ARRAYS, {"kind": "cube"})
    parts = [(i, t) for i in range(SITES) for t in (slice(0, SHARD), slice(SHARD, HOURS))]
    with ThreadPoolExecutor(4) as pool:
        list(
            pool.map(
                lambda p: write_region(
                    tmp_path / "s", "values", (slice(p[0], p[0] + 1), p[1], slice(0, LABELS)), values[p[0], p[1]][None]
                ),
                parts,
            )
        )
    ds = open_store(tmp_path / "s", kind="cube", allow_partial=True)
    np.testing.assert_array_equal(ds["values"], values)


def test_a_replaced_store_is_not_written_through_a_stale_handle(tmp_path):
    for fill in (1, 2):
        with staging(tmp_path / "s", overwrite=True) as building:
            shape = (SITES + fill, HOURS, LABELS)
            arrays = {"flags": ArraySpec(**{**vars(ARRAYS["flags"]), "shape": shape})}
            create(building, xr.Dataset(), arrays, {"kind": "cube"})
            write_region(
                building, "flags", (slice(SITES, SITES + fill), *whole(0)[1:]), np.full((fill, *SHAPE[1:]), fill, "i1")
            )
    flags = open_store(tmp_path / "s", kind="cube").flags
    assert (flags[-2:] == 2).all() and flags.shape == shape


def test_nothing_opens_before_it_is_whole(tmp_path):
    create(tmp_path / "s", coords(), ARRAYS, {"kind": "maps"})
    with pytest.raises(StoreError, match="not finished"):
        open_store(tmp_path / "s", kind="maps")
    assert open_store(tmp_path / "s", kind="maps", allow_partial=True)["values"].isnull().all()
    finish(tmp_path / "s")
    other = "expected a store of kind 'cube', found 'maps': "
    with pytest.raises(StoreError, match=f"{other}fluxcube.open_maps opens it"):
        open_store(tmp_path / "s", kind="cube")
    with from_shell(), pytest.raises(StoreError, match=f"{other}pass one that `fluxcube build` wrote"):
        open_store(tmp_path / "s", kind="cube")
    with pytest.raises(StoreError, match="no store there"):
        open_store(tmp_path / "absent", kind="cube")
    with pytest.raises(StoreError, match="expected a Zarr group"):
        open_store(tmp_path / "s/time", kind="cube")
    for text in ("[]", "{"):
        (tmp_path / "s/zarr.json").write_text(text)
        with pytest.raises(StoreError, match="expected a Zarr group"):
            open_store(tmp_path / "s", kind="cube")


def test_an_error_leaves_nothing_and_the_old_store_as_it_was(store):
    before = files(store)
    with pytest.raises(KeyError), staging(store, overwrite=True) as building:
        write_all(building)
        raise KeyError
    assert files(store) == before
    assert os.listdir(store.parent) == [store.name]


def test_a_store_is_replaced_only_when_asked_and_only_a_store(store, tmp_path):
    with pytest.raises(StoreError, match="exists"), staging(store):
        pytest.fail("must be refused before any work")
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers/thesis.txt").write_text("years of work")
    with (
        pytest.raises(StoreError, match="not written by fluxcube"),
        staging(tmp_path / "papers", overwrite=True),
    ):
        pytest.fail("must be refused before any work")
    with staging(store, overwrite=True) as building:
        create(building, coords("2010-01-01"), {}, {"kind": "cube"})
        assert open_store(store, kind="cube").time[0] == np.datetime64("2001-01-01")
    assert open_store(store, kind="cube").time[0] == np.datetime64("2010-01-01")
    assert sorted(os.listdir(tmp_path)) == ["papers", store.name]


def test_a_killed_run_leaves_nothing_that_opens_and_the_next_cleans_up(tmp_path):
    path = tmp_path / "s.zarr"

    def run(output):
        with store_lock(path), staging(path) as building:
            write_all(building)
            print("written", file=output)
            time.sleep(60)

    Fork(run).kill_at("written")
    (left,) = tmp_path.glob(".s.zarr.building-*")
    assert not path.exists()
    with pytest.raises(StoreError, match="not finished"):
        open_store(left, kind="cube")
    with store_lock(path), staging(path) as building:
        write_all(building)
    assert [p.name for p in tmp_path.iterdir()] == ["s.zarr"]


def test_a_store_that_a_killed_run_had_moved_away_comes_back(store):
    os.replace(store, store.with_name(f".{store.name}.replaced-0123456789ab"))
    with store_lock(store), pytest.raises(StoreError, match="exists"), staging(store):
        pytest.fail("must be refused")
    open_store(store, kind="cube")


def test_what_appears_during_a_build_is_not_replaced(tmp_path):
    with pytest.raises(StoreError, match="exists: pass overwrite"), staging(tmp_path / "s.zarr") as building:
        write_all(building)
        (tmp_path / "s.zarr").mkdir()
        (tmp_path / "s.zarr/thesis.txt").write_text("years of work")
    assert (tmp_path / "s.zarr/thesis.txt").exists() and os.listdir(tmp_path) == ["s.zarr"]


def test_what_replaces_a_store_during_a_build_is_not_replaced(store):
    with pytest.raises(StoreError, match="not written by fluxcube"), staging(store, overwrite=True) as building:
        write_all(building)
        shutil.rmtree(store)
        store.mkdir()
        (store / "thesis.txt").write_text("years of work")
    assert (store / "thesis.txt").exists()


def test_ledger_survives_a_torn_line(tmp_path):
    create(tmp_path / "s", coords(), ARRAYS, {"kind": "maps"})
    assert done_regions(tmp_path / "s") == {}
    assert done_regions(tmp_path / "absent") == {}
    for key in ("a", "b"):
        mark_done(tmp_path / "s", {key: 1})
    (ledger,) = (tmp_path / "s").rglob("*.jsonl")
    with open(ledger, "ab") as file:
        file.write(b'{"done": "c"')
    assert done_regions(tmp_path / "s") == {"a": 1, "b": 1}
    mark_done(tmp_path / "s", {"d": 7, "e": 0})
    assert done_regions(tmp_path / "s") == {"a": 1, "b": 1, "d": 7, "e": 0}


def test_provenance_has_versions_and_no_date(store):
    attrs = open_store(store, kind="cube").attrs
    assert attrs["fluxcube_version"] and attrs["zarr_version"] and attrs["title"] == "t"
    text = json.dumps(attrs)
    assert time.strftime("%Y-%m") not in text and time.strftime("%Y%m%d") not in text


def test_times_keep_their_unit_and_nat_is_refused(tmp_path):
    odd = np.array(["2001-01-01T00:00:30", "2001-01-02T00:00:30"], "datetime64[ns]")
    create(tmp_path / "a", xr.Dataset(coords={"time": odd}), {}, {"kind": "maps"})
    assert (open_store(tmp_path / "a", kind="maps", allow_partial=True).time.values == odd).all()
    with pytest.raises(ConfigError, match="NaT"):
        create(tmp_path / "b", xr.Dataset(coords={"time": np.array(["NaT"], "M8[ns]")}), {}, {"kind": "maps"})


def test_what_is_spilled_comes_back_and_is_not_part_of_the_store(tmp_path):
    with staging(tmp_path / "s") as building:
        spill(building, "US-A", {"x": np.arange(3.0), "names": np.array(["TA", "P"])})
        write_all(building)
        back = unspill(building, "US-A")
    assert back["x"].tolist() == [0, 1, 2] and back["names"].tolist() == ["TA", "P"]
    assert not [name for name in files(tmp_path / "s") if "parts" in name]


def test_a_run_is_all_that_a_place_holds_and_only_its_chunks_are_made(tmp_path):
    """A shard of 32 hours, of which a run of 5 touches one chunk or two; what was there before is gone."""
    rng = np.random.default_rng(2)
    path = tmp_path / "s"
    create(path, coords(), ARRAYS, {"kind": "cube"})
    for start, length in ((0, HOURS), (3, 4), (30, 5), (HOURS - 1, 1), (8, 8)):
        values = rng.normal(size=(length, LABELS)).astype("float32")
        write_run(path, "values", 1, start, values)
        held = open_store(path, kind="cube", allow_partial=True)["values"].values
        assert np.isnan(held[[0, 2]]).all() and int(np.isfinite(held[1]).sum()) == values.size
        np.testing.assert_array_equal(held[1, start : start + length], values)
    sizes = {}
    for length in (8, 32):
        write_run(path, "values", 1, 0, rng.normal(size=(length, LABELS)).astype("float32"))
        sizes[length] = sum(len(data) for name, data in files(path).items() if name.startswith("values/c/1/"))
    assert sizes[8] < 0.6 * sizes[32]


def test_a_run_equals_the_region_of_its_shards(tmp_path):
    """Byte for byte what `write_region` makes of the same values."""
    values = np.full((1, HOURS, LABELS), np.nan, "float32")
    values[0, 11:45] = np.random.default_rng(3).normal(size=(34, LABELS))
    for name in "ab":
        create(tmp_path / name, coords(), ARRAYS, {"kind": "cube"})
    write_run(tmp_path / "a", "values", 2, 11, values[0, 11:45])
    for part in (slice(0, SHARD), slice(SHARD, HOURS)):
        write_region(tmp_path / "b", "values", (slice(2, 3), part, slice(0, LABELS)), values[:, part])
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_run_must_fit(tmp_path):
    create(tmp_path / "s", coords(), ARRAYS, {"kind": "cube"})
    for at, start, values, said in (
        (0, HOURS - 2, np.zeros((3, LABELS), "f4"), "does not lie within"),
        (SITES, 0, np.zeros((3, LABELS), "f4"), "does not lie within"),
        (0, 0, np.zeros((0, LABELS), "f4"), "does not lie within"),
        (0, 0, np.zeros((3, LABELS + 1), "f4"), "expected values"),
    ):
        with pytest.raises(ConfigError, match=said):
            write_run(tmp_path / "s", "values", at, start, values)
    with pytest.raises(ConfigError, match="of int8"):
        write_run(tmp_path / "s", "flags", 0, 0, np.zeros((3, LABELS), "f4"))
    wide = {**vars(ARRAYS["flags"]), "shards": (SITES, SHARD, LABELS)}
    create(tmp_path / "w", coords(), {"flags": ArraySpec(**wide)}, {"kind": "cube"})
    with pytest.raises(ConfigError, match="more than one place"):
        write_run(tmp_path / "w", "flags", 0, 0, np.zeros((3, LABELS), "i1"))


def test_shards_of_another_layout_are_not_taken_over(store, tmp_path):
    for name, change in (("chunks", {"chunks": (1, 16, LABELS)}), ("dtype", {"dtype": "int16"})):
        spec_ = ArraySpec(**{**vars(ARRAYS["flags"]), **change})
        create(tmp_path / name, coords(), {"flags": spec_}, {"kind": "cube"})
        with pytest.raises(StoreError, match="another version of fluxcube"):
            adopt(tmp_path / name, store, {1: 0})
    longer = {**vars(ARRAYS["flags"]), "shape": (SITES + 1, HOURS + 7, LABELS)}
    create(tmp_path / "longer", xr.Dataset(), {"flags": ArraySpec(**longer)}, {"kind": "cube"})
    adopt(tmp_path / "longer", store, {1: 3})
    held = open_store(tmp_path / "longer", kind="cube", allow_partial=True).flags.values
    np.testing.assert_array_equal(held[3, :HOURS], open_store(store, kind="cube").flags[1])
    assert (held[:3] == -1).all() and (held[3, HOURS:] == -1).all()


def test_documents_are_read_by_name_and_cost_opening_nothing(tmp_path):
    told = {"US-A": {"x": [1, 2.5, None], "y": {"z": "Ä"}}, "B": {}}
    with staging(tmp_path / "s") as building:
        write_all(building)
        write_documents(building, "report", told)
    assert read_documents(tmp_path / "s", "report") == (told,)
    assert read_documents(tmp_path / "s", "none") == ({},)
    assert "report" not in open_store(tmp_path / "s", kind="cube").variables


def test_dask_chunks_lie_on_stored_ones_wherever_a_part_begins(store):
    lazy = open_store(store, kind="cube", dask=False)
    whole = open_store(store, kind="cube")
    for begin in (0, 1, 8, 15, 16, 47):
        part = dask_chunked(lazy.isel(time=slice(begin, None)), begin={"time": begin}, time=16)
        edges = begin + np.cumsum(part["values"].chunks[1])[:-1]
        assert (edges % 16 == 0).all() and max(part["values"].chunks[1]) <= 16
        np.testing.assert_array_equal(part["values"], whole["values"][:, begin:])


def test_a_url_is_only_read():
    with pytest.raises(StoreError, match="written to a disk"), store_lock("s3://bucket/s.zarr"):
        pytest.fail("must be refused before any work")
