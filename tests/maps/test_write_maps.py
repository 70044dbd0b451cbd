"""Writing maps: whole or resumable, never over something else."""

from __future__ import annotations

import json
import sys
import threading
import time

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from inference_fakes import fake
from processes import Fork

from fluxcube.errors import ConfigError, SchemaError, StoreError
from fluxcube.inference.grid import upscale
from fluxcube.maps import workers
from fluxcube.maps.regions import RegionTask, even_chunks, region_tasks, regions, sent_bytes
from fluxcube.maps.store import open_maps, write_maps
from fluxcube.schema import DEVICE, REGION_BYTES
from fluxcube.simulation.example import example_forcing
from fluxcube.stores.ledger import done_regions


@pytest.fixture
def forcing():
    ds = example_forcing(shape=(5, 7), days=5).isel(time=slice(0, 110))
    land = np.ones((5, 7))
    land[:2, :3] = 0.0  # one region without land
    return ds.chunk(latitude=2, longitude=3).assign_coords(land_fraction=(("latitude", "longitude"), land))


@pytest.fixture
def maps(forcing):
    return upscale(fake(), forcing, time_chunk=48)


REGIONS = 3 * 3 * 3


def test_what_is_written_is_what_was_set_up(maps, tmp_path):
    seen = []
    path = write_maps(maps, tmp_path / "maps.zarr", progress=lambda *step: seen.append(step))
    opened = open_maps(path)
    for name in ("NEE", "GPP_NT", "RECO"):
        np.testing.assert_array_equal(opened[name].values, maps[name].values)
        assert opened[name].chunks == maps[name].chunks
        assert opened[name].attrs["units"] == "umol m-2 s-1"
        assert opened[name].attrs["cell_methods"] == "time: mean"
    for name in ("time", "latitude", "longitude", "land_fraction", "igbp", "time_bnds"):
        np.testing.assert_array_equal(opened[name].values, maps[name].values)
    kept = {name: value for name, value in maps.attrs.items() if name not in (REGION_BYTES, DEVICE)}
    assert {name: opened.attrs[name] for name in kept} == kept and REGION_BYTES not in opened.attrs
    assert (maps.attrs[DEVICE], opened.attrs[DEVICE]) == ("cpu", "CPU")  # requested, and used
    assert (maps.attrs[DEVICE], opened.attrs[DEVICE]) == ("cpu", "CPU")  # requested, and used
    ocean = 3
    assert [s[:2] for s in seen] == [(i + ocean, REGIONS) for i in range(REGIONS - ocean + 1)]
    assert "threads of this process" in seen[0][2]
    assert all("cell-hours/s" in s[2] and s[2].endswith("left") for s in seen[1:])
    assert seen[-1][2].startswith(f"{29 * 110:,} of {29 * 110:,} cell-hours") and " 0:00 left" in seen[-1][2]


def test_regions_without_land_take_no_space(maps, tmp_path):
    path = write_maps(maps, tmp_path / "maps.zarr")
    assert not (path / "NEE/c/0/0/0").exists()
    assert (path / "NEE/c/0/1/1").exists()
    assert len(done_regions(path)) == REGIONS


@pytest.mark.parametrize("count", [1, 3])
def test_workers_change_nothing(maps, tmp_path, count):
    a = open_maps(write_maps(maps, tmp_path / "a.zarr", workers=count))
    xr.testing.assert_identical(a.load(), open_maps(write_maps(maps, tmp_path / "b.zarr")).load())


def broken(maps, at):
    """Maps of which one region cannot be computed."""

    def fail(block, block_info):
        if block_info[0]["chunk-location"] == at:
            raise RuntimeError("this region fails")
        return block

    data = da.map_blocks(fail, maps.NEE.data, dtype="float32", meta=np.empty((0, 0, 0), "float32"))
    return maps.assign(NEE=(maps.NEE.dims, data, maps.NEE.attrs))


def test_a_run_that_failed_goes_on_with_the_rest(maps, tmp_path):
    path = tmp_path / "maps.zarr"
    with pytest.raises(StoreError, match=r"1 of 27 regions.*this region fails.*26 of 27 regions"):
        write_maps(broken(maps, (1, 1, 1)), path, workers=1)
    done = done_regions(path)
    assert len(done) == REGIONS - 1
    with pytest.raises(StoreError, match="not finished"):
        open_maps(path)
    partial = open_maps(path, partial=True)
    np.testing.assert_array_equal(partial.NEE[:48].values, maps.NEE[:48].values)
    seen = []
    write_maps(maps, path, progress=lambda *step: seen.append(step))
    assert [step[:2] for step in seen] == [(REGIONS - 1, REGIONS), (REGIONS, REGIONS)]
    np.testing.assert_array_equal(open_maps(path).NEE.values, maps.NEE.values)


def test_done_regions_are_not_computed_again(maps, tmp_path):
    path = tmp_path / "maps.zarr"
    with pytest.raises(StoreError, match="this region fails"):
        write_maps(broken(maps, (2, 2, 2)), path, workers=1)  # the last of all
    assert len(done_regions(path)) == REGIONS - 1
    with pytest.raises(StoreError, match="this region fails"):  # nothing but the last is tried
        write_maps(broken(maps, (2, 2, 2)), path)
    write_maps(broken(maps, (0, 1, 1)), path)
    np.testing.assert_array_equal(open_maps(path).NEE.values, maps.NEE.values)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.assign_attrs(model_digest="another"), "model_digest"),
        (lambda m: m.assign_attrs(stride_hours=3), "stride_hours"),
        (lambda m: m.isel(latitude=slice(0, 4)), "latitude"),
        (lambda m: m[["NEE", "RECO"]], "GPP_NT"),
        (lambda m: m.chunk(time=24), "chunks"),
    ],
)
def test_maps_of_something_else_are_not_mixed(maps, tmp_path, change, words):
    path = tmp_path / "maps.zarr"
    with pytest.raises(StoreError, match="this region fails"):
        write_maps(broken(maps, (1, 1, 1)), path, workers=1)
    with pytest.raises(StoreError, match=words):
        write_maps(change(maps), path)
    other = change(maps)
    write_maps(other, path, overwrite=True)
    np.testing.assert_array_equal(open_maps(path).NEE.values, other.NEE.values)


def test_finished_maps_are_replaced_only_when_asked(maps, tmp_path):
    path = write_maps(maps, tmp_path / "maps.zarr")
    with pytest.raises(StoreError, match=r"finished.*overwrite"):
        write_maps(maps, path)
    write_maps((maps + 1).assign_attrs(maps.attrs), path, overwrite=True)
    np.testing.assert_allclose(open_maps(path).NEE.values, maps.NEE.values + 1, rtol=1e-6)


def test_resume_off_asks_for_overwrite(maps, tmp_path):
    path = tmp_path / "maps.zarr"
    with pytest.raises(StoreError, match="this region fails"):
        write_maps(broken(maps, (1, 1, 1)), path, workers=1)
    with pytest.raises(StoreError, match="resume is off"):
        write_maps(maps, path, resume=False)


@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_but_maps_is_ever_removed(maps, tmp_path, overwrite):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("years of work")
    with pytest.raises(StoreError):
        write_maps(maps, tmp_path / "thesis", overwrite=overwrite)
    assert (tmp_path / "thesis/chapter.txt").read_text() == "years of work"


def test_an_absent_folder_is_named(maps, tmp_path):
    with pytest.raises(StoreError, match="nowhere"):
        write_maps(maps, tmp_path / "nowhere/maps.zarr")


def test_uneven_chunks_are_refused_with_the_remedy(maps, tmp_path):
    with pytest.raises(ConfigError, match=r"maps\.chunk\(latitude=3\)"):
        write_maps(maps.chunk(latitude=(1, 3, 1)), tmp_path / "maps.zarr")


def test_maps_in_memory_and_single_regions(maps, tmp_path):
    opened = open_maps(write_maps(maps.isel(time=slice(0, 30)).compute(), tmp_path / "maps.zarr"))
    assert opened.NEE.chunks == ((30,), (5,), (7,))
    with pytest.raises(SchemaError):
        write_maps(maps.drop_vars(list(maps.data_vars)), tmp_path / "none.zarr")


def test_killed_by_the_system_it_goes_on(tmp_path):
    path, forcing = tmp_path / "maps.zarr", example_forcing(shape=(4, 4), days=8)
    maps = upscale(fake(), forcing.chunk(latitude=2, longitude=2), time_chunk=24)

    def run(output):
        def progress(done, total, text):
            print(f"{done} done", file=output)
            time.sleep(0.2)

        write_maps(maps, path, workers=2, progress=progress)

    Fork(run).kill_at("3 done")
    before = done_regions(path)
    assert 3 <= len(before) < 32
    ledger = path / "ledger/regions.jsonl"
    ledger.write_bytes(ledger.read_bytes() + b'{"done": "0:24,')  # a line that the kill cut off
    assert done_regions(path) == before
    write_maps(maps, path, workers=2)
    np.testing.assert_allclose(open_maps(path).NEE.values, upscale(fake(), forcing).NEE.values, rtol=2e-5, atol=1e-5)
    assert json.loads((path / "zarr.json").read_text())["attributes"]["complete"] == 1


@pytest.mark.parametrize(("limit", "expected"), [(1_000, "threads"), (10 * 2**20, "processes")])
def test_a_forcing_in_ram_is_not_sent_to_processes(maps, tmp_path, monkeypatch, limit, expected):
    """A loaded or persisted forcing would be copied into each task: threads share it."""

    def no_processes(count):
        raise StoreError("processes were chosen")

    monkeypatch.setattr(workers, "_SMALL", 0)
    monkeypatch.setattr(workers, "_SENT", limit)
    monkeypatch.setattr(workers, "_processes", no_processes)
    if expected == "processes":
        with pytest.raises(StoreError, match="processes were chosen"):
            write_maps(maps, tmp_path / "maps.zarr", workers=2)
        return
    seen = []
    write_maps(maps, tmp_path / "maps.zarr", workers=2, progress=lambda *step: seen.append(step))
    assert "threads of this process" in seen[0][2]


def test_the_size_of_a_task_is_that_of_its_data(forcing, tmp_path):
    maps = even_chunks(upscale(fake(), forcing.persist(scheduler="synchronous"), time_chunk=120))
    land = [region for region in regions(maps).values() if region.land]
    assert sent_bytes(next(region_tasks(maps, tmp_path, land))) > forcing.predictors[:2, :3].nbytes
    unsendable = RegionTask(tmp_path, land[0], {"a": (open, threading.Lock())}, {}, "")
    assert sent_bytes(unsendable) == sys.maxsize
