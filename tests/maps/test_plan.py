"""Plans of maps: their tasks and reads are those of the run, their hours are those of the sample, scaled."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
import xarray as xr
import zarr
from inference_fakes import fake
from services.arco import ZarrService, write_arco
from typer.testing import CliRunner

import fluxcube as fc
from fluxcube.cli import app
from fluxcube.errors import ConfigError
from fluxcube.maps.regions import even_chunks, regions
from fluxcube.planning import maps as planning
from fluxcube.planning.globe import number_of_hours, plan_globe
from fluxcube.planning.land import land_cells
from fluxcube.planning.maps import MapPlan, plan_maps, scale
from fluxcube.planning.reads import ArrayReads, count_reads
from fluxcube.planning.sample import MapSample, TaskSample
from fluxcube.planning.tiles import Tasks
from fluxcube.simulation.example import example_forcing
from fluxcube.simulation.globe import global_forcing

SEED = "ecoperceiver-towers/seed-0"


def tasks_of(forcing, model=None, **options):
    model = model or fake()
    return Tasks.of(forcing, lambda part: fc.upscale(model, part, **options), model.hours_before())


def land_forcing(shape=(10, 14), days=6, **chunks):
    forcing = example_forcing(shape=shape, days=days)
    rng = np.random.default_rng(1)
    land = forcing.land_fraction.copy(data=(rng.random(shape) < 0.4).astype(float))
    land[:4, :6] = 0.0
    return forcing.assign_coords(land_fraction=land).chunk({"latitude": 4, "longitude": 6, "time": 48} | chunks)


@pytest.mark.parametrize("options", [{"time_chunk": 24}, {"time_chunk": 48, "time": slice("2018-06-03", "2018-06-05")}])
def test_tasks_are_those_of_the_maps_without_their_graph(options):
    forcing = land_forcing()
    tasks = tasks_of(forcing, **options)
    maps = even_chunks(fc.upscale(fake(), forcing, **options))
    todo = [region for region in regions(maps).values() if region.land]
    assert tasks.count == len(todo) and tasks.cells == int((forcing.land_fraction > 0).sum())
    assert tasks.steps.tolist() == list(maps.chunksizes["time"])
    assert tasks.total[0] == len(todo) and tasks.total[1] == sum(region.land for region in todo)
    work = tasks.work(*np.indices((len(tasks.blocks), len(tasks.steps))).reshape(2, -1))
    np.testing.assert_allclose(work.sum(0), tasks.total)


def test_chosen_tasks_are_reproducible_have_land_and_contain_each_kind_of_chunk():
    tasks = tasks_of(land_forcing(days=10), time_chunk=24)
    chosen = tasks.choose(6, seed=3)
    assert chosen == tasks.choose(6, seed=3) != tasks.choose(6, seed=4)
    assert {0} < {part for _, part in chosen} and all(tasks.land[tuple(tasks.blocks[block])] for block, _ in chosen)
    assert len(tasks.choose(1000, seed=0)) <= tasks.count
    with pytest.raises(ConfigError, match="sample_tasks"):
        tasks.choose(0, seed=0)


def counted(monkeypatch):
    """Count the chunks that stores of Zarr read."""
    reads = Counter()
    real = zarr.storage.LocalStore.get

    async def get(self, key, *args, **options):
        value = await real(self, key, *args, **options)
        reads[key] += value is not None and "/c/" in key
        return value

    monkeypatch.setattr(zarr.storage.LocalStore, "get", get)
    return reads


@pytest.mark.filterwarnings("ignore:The specified chunks separate")
def test_chunks_of_a_plain_zarr_store_are_read_as_often_as_planned(tmp_path, monkeypatch):
    forcing = land_forcing(days=6).drop_vars("modis").drop_dims(["day", "band", "y", "x"], errors="ignore")
    encoding = {"predictors": {"chunks": (4, 3, 24, 6)}}
    forcing.load().to_zarr(tmp_path / "plain.zarr", encoding=encoding, zarr_format=3, consolidated=False)
    lazy = xr.open_zarr(tmp_path / "plain.zarr", chunks={"latitude": 4, "longitude": 6, "time": 48}, consolidated=False)
    texts = {name: coord.astype(object) for name, coord in lazy.coords.items() if coord.dtype.kind == "T"}
    lazy = lazy.assign_coords(texts)
    lazy = lazy.assign_coords({name: coord.compute() for name, coord in lazy.coords.items()})
    model = dataclasses.replace(fake(), spec=dataclasses.replace(fake().spec, bands=()))
    options = {"time_chunk": 24, "allow_missing": True}
    (reads,) = count_reads(tasks_of(lazy, model, **options), 5)
    maps = fc.upscale(model, lazy, **options)
    seen = counted(monkeypatch)
    fc.write_maps(maps, tmp_path / "maps.zarr", scheduler="threads", workers=1)
    read = {key: n for key, n in seen.items() if n and key.startswith("predictors/c/")}
    assert reads.chunks == sum(read.values()) and reads.distinct_chunks == len(read)
    assert reads.bytes > reads.distinct_bytes > 0


def test_a_box_that_cuts_the_chunks_of_a_store_reads_whole_chunks(tmp_path):
    forcing = land_forcing(shape=(16, 16), latitude=8, longitude=8)
    store = fc.write_forcing(forcing, tmp_path / "forcing.zarr")
    whole, cut = fc.open_forcing(store), fc.open_forcing(store).isel(latitude=slice(4, 12), longitude=slice(4, 12))
    found = [{r.name: r for r in count_reads(tasks_of(ds, allow_missing=True), 5)} for ds in (whole, cut)]
    one, other = (reads["predictors"] for reads in found)
    # 8 x 8 cells in four blocks of 8 x 8: each is read completely.
    assert other.needed < one.needed and other.distinct_bytes == one.distinct_bytes
    assert found[0].keys() == {"predictors", "modis"}
    # Chips are stored in two bytes a value: these are needed, and no fewer are read.
    assert all(reads.bytes >= reads.needed for reads in found[0].values())


def test_chunks_of_the_globe_are_counted_as_a_server_counts_them_and_a_copy_is_advised(tmp_path, caplog):
    write_arco(tmp_path, before=0, hours=26, after=0, step=30.0)
    with ZarrService(tmp_path) as service:
        time = ("2019-07-01T00", "2019-07-02T00")
        forcing = fc.open_forcing(
            f"{service.url}/arco.zarr", time=time, igbp="GRA", chunks={"latitude": 2, "longitude": 3}
        )
        options = {"allow_missing": True, "time_chunk": 24}
        plan = plan_maps(fake(), forcing, sample_tasks=1, scheduler="threads", **options)
        before = len(service.chunks())
        fc.write_maps(fc.upscale(fake(), forcing, **options), tmp_path / "m.zarr", scheduler="threads", workers=1)
        assert sum(one.chunks for one in plan.reads) == len(service.chunks()) - before
    assert all(one.distinct_chunks == 26 for one in plan.reads) and plan.amplification > planning.WASTE
    assert "fluxcube.copy_era5" in caplog.text and any("copy_era5" in note for note in plan.notes)


def test_advice_fits_the_cause_of_chunks_that_are_read_too_often():
    def note(name, chunks, total):
        reads = ArrayReads(
            name=name, chunks=chunks, bytes=10**9, distinct_chunks=10, distinct_bytes=10**8, needed=10**7
        )
        plan = planned(reads=(reads,), total=total)
        assert plan.amplification == 100 and max(map(len, plan.text().splitlines())) <= 100
        return plan.notes[0]

    long, short = (10.0, 1000.0, 2000.0), (10.0, 1000.0, 30_000.0)
    assert "copy_era5" in note("t2m", 1000, long) and "fluxcube forcing FILES" in note("t2m", 100, long)
    assert "whole" in note("predictors", 1000, long)
    assert "--time-chunk" in note("t2m", 1000, short) and "30 time steps" in note("predictors", 10, short)
    few = ArrayReads(name="t2m", chunks=1, bytes=10**8, distinct_chunks=1, distinct_bytes=1, needed=10**7)
    assert not any("are read" in text for text in planned(reads=(few,)).notes)


def planned(**changes):
    task = TaskSample(
        place="x",
        work=(1.0, 100.0, 200.0),
        land=100,
        cpu=2.0,
        wall=4.0,
        memory=5,
        read=300,
        written=50,
        missing=0,
        gpu=False,
    )
    sample = MapSample(tasks=(task,), start_cpu=3.0, start_wall=5.0, parent_cpu=1.0)
    values = {
        "outputs": ("NEE",),
        "shape": (10, 4, 5),
        "step": "hours",
        "land_cells": 10,
        "blocks": 2,
        "time_chunks": 3,
        "chunk": (4, 4, 4),
        "total": (10.0, 1000.0, 2000.0),
        "reads": (),
        "sample": sample,
        "workers": 2,
        "price_gpu": 3.0,
        "price_cpu": 0.1,
        "cores_per_gpu": 10.0,
        "region_bytes": 7,
        "client_bytes": 8,
    }
    return MapPlan(**values | changes)


def test_hours_bytes_and_costs_are_those_of_the_sample_scaled():
    plan = planned()
    assert plan.tasks == 6 and plan.cell_steps == 100
    assert plan.cpu_hours.estimate == pytest.approx((20 + 2 * 3 + 1) / 3600)
    assert plan.wall_hours.estimate == pytest.approx((40 / 2 + 5) / 3600)
    assert planned(workers=5).wall_hours.estimate == pytest.approx((40 * 2 / 6 + 5) / 3600)  # one has two tasks
    assert plan.gpu_hours.estimate == pytest.approx(plan.cpu_hours.estimate / 10)
    assert (plan.bytes_written, plan.disk_bytes_read) == (500, 3000)
    assert plan.cost == pytest.approx((plan.cpu_hours.estimate * 0.1, plan.gpu_hours.estimate * 3))
    on_gpu = dataclasses.replace(plan.sample.tasks[0], gpu=True)
    measured = planned(sample=dataclasses.replace(plan.sample, tasks=(on_gpu,)))
    assert measured.gpu_hours.estimate == pytest.approx(40 / 3600) and "measured" in measured.text()
    assert "assumption" in plan.text() and "one task" in plan.text() and max(map(len, plan.text().splitlines())) <= 100


def test_time_is_fitted_to_land_and_steps_and_the_range_is_that_of_the_sample():
    work = np.array([[1, 10, 30], [1, 40, 90], [1, 100, 130], [1, 70, 100]], float)
    values = work @ [2.0, 0.5, 0.1]
    found = scale(work, values, np.array([50, 9000, 12000.0]))
    assert found.estimate == pytest.approx(100 + 4500 + 1200) and found.low == pytest.approx(found.high)
    noisy = scale(work, values * [0.9, 1.1, 1.0, 1.0], np.array([50, 9000, 12000.0]))
    assert noisy.low < noisy.estimate < noisy.high
    falling = scale(np.array([[1, 10.0], [1, 20.0]]), np.array([5.0, 3.0]), np.array([10.0, 300.0]))
    assert falling.estimate == pytest.approx(40.0)  # no coefficient is negative
    assert scale(work, np.zeros(4), work.sum(0)).estimate == 0.0


def test_a_plan_writes_no_maps_and_the_command_prints_a_table_or_json(tmp_path, monkeypatch):
    store = tmp_path / "forcing.zarr"
    fc.write_forcing(example_forcing(shape=(4, 4), days=40).chunk(latitude=2, longitude=2), store)
    monkeypatch.setattr(planning, "measure_tasks", threads(planning.measure_tasks))
    before = sorted(tmp_path.rglob("*"))
    command = ["upscale", SEED, str(store), "--plan", "--time-chunk", "24", "--time", "2018-07-08/2018-07-09"]
    command += ["--sample-tasks", "2", "--workers", "7", "--price-cpu", "0.5"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    for word in ("8: 4 blocks of up to 2 x 2 cells", "read: predictors", "CPU-hours", "with 7 workers", "0.5 USD"):
        assert word in done.stdout, done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100 and sorted(tmp_path.rglob("*")) == before
    numbers = json.loads(CliRunner().invoke(app, [*command, "--format", "json"]).stdout)
    assert numbers["tasks"] == 8 and numbers["workers"] == 7 and len(numbers["sample"]["tasks"]) == 2
    assert numbers["cpu_hours"]["low"] <= numbers["cpu_hours"]["estimate"] <= numbers["cpu_hours"]["high"]
    wrong = CliRunner().invoke(app, [*command, "--format", "yaml"])
    assert isinstance(wrong.exception, ConfigError) and "table or json" in str(wrong.exception)
    without = CliRunner().invoke(app, ["upscale", SEED, str(store)])
    assert isinstance(without.exception, ConfigError) and "--plan" in str(without.exception)
    both = CliRunner().invoke(app, [*command[:3], str(tmp_path / "maps.zarr"), *command[3:]])
    assert both.exit_code == 0 and sorted(tmp_path.rglob("*")) == before  # the path is that of the real command


def threads(real):
    """Measure in this process, which does not start others."""
    return lambda *args, **options: real(*args, **options | {"scheduler": "threads"})


def test_a_worker_process_measures_itself(tmp_path):
    forcing = fc.open_forcing(fc.write_forcing(example_forcing(shape=(2, 3), days=40), tmp_path / "f.zarr"))
    options = {"time": slice("2018-07-08", "2018-07-09"), "time_chunk": 24}
    plan = fc.plan_maps(SEED, forcing, sample_tasks=2, **options)
    for task in plan.sample.tasks:
        assert task.cpu > 0 and task.wall > 0 and task.written > 0 and task.missing == 0 and not task.gpu
        assert task.read > 1000 and 2**27 < task.memory < 2**31
    assert plan.sample.start_cpu > 0.5 and plan.sample.parent_cpu > 0.2


def test_a_global_plan_has_the_land_of_the_globe_and_its_own_chunks(monkeypatch):
    fixed = MapSample(tasks=planned().sample.tasks, start_cpu=1.0, start_wall=1.0, parent_cpu=0.0)
    monkeypatch.setattr(planning, "measure_tasks", lambda *args, **options: fixed)
    coarse, fine = (plan_globe(SEED, resolution=step, period=("2018", "2018")) for step in (1.0, 0.25))
    assert 14 < fine.land_cells / coarse.land_cells < 17 and fine.shape == (8760, 600, 1440)
    assert fine.time_chunks == coarse.time_chunks and fine.tasks > 16_000
    (reads,) = fine.reads
    assert 2 < reads.bytes / reads.needed < 10 and reads.bytes > reads.distinct_bytes
    assert fine.client_bytes > coarse.client_bytes
    alps = plan_globe(SEED, resolution=0.25, period=("2018", "2018"), bbox=(5.0, 43.0, 17.0, 48.0))
    assert 800 < alps.land_cells < 48 * 20 and alps.tasks == 6 * alps.time_chunks


def test_a_simulated_forcing_is_valid_in_its_bounds_and_takes_no_ram():
    land = np.ones((720, 1440), bool)
    forcing = global_forcing(land, resolution=0.25, start="2018", hours=8760, predictors=("DOY", "TOD", "TA", "VPD"))
    part = forcing.predictors[100:103, 5:7, 40:90].compute()
    assert np.isfinite(part).all() and part.sel(variable="TOD").max() < 24 and forcing.nbytes > 1e11
    chips = global_forcing(land[:8, :8], resolution=0.25, start="2018", hours=48, predictors=["TA"], bands=True).modis
    assert float(chips.max()) <= 1 and float(chips.min()) >= 0 and chips.sizes["day"] == 9


def test_land_is_where_it_is_known_to_be_also_across_the_antimeridian():
    land = land_cells(1.0, (-180.0, -60.0, 180.0, 90.0))
    places = {(47, 8): True, (-25, 134): True, (0, -30): False, (66, -179): True, (66, 179): True, (-50, 0): False}
    found = {place: bool(land[90 - place[0] - 1, place[1] + 180]) for place in places}
    assert found == places and 0.28 < land.mean() < 0.34
    assert land_cells(1.0, (170.0, 60.0, 190.0, 70.0)).sum() > 50
    assert land_cells(1.0, (0.0, -60.0, 360.0, 90.0)).sum() == pytest.approx(land.sum(), abs=3)


def test_faults_of_a_plan_are_named():
    forcing = land_forcing()
    for options, text in (
        ({"price_cpu": 0.0}, "price_cpu=0"),
        ({"workers": -1}, "workers=-1"),
        ({"sample_tasks": 0}, "sample_tasks=0"),
        ({"scheduler": "tcp://x"}, "processes or threads"),
    ):
        with pytest.raises(ConfigError, match=text):
            plan_maps(fake(), forcing, **options)
    sea = forcing.assign_coords(land_fraction=forcing.land_fraction * 0)
    with pytest.raises(ConfigError, match="no cell of the grid has land"):
        plan_maps(fake(), sea)
    with pytest.raises(ConfigError, match="resolution=0"):
        plan_globe(SEED, resolution=0, period=("2018", "2018"))
    with pytest.raises(ConfigError, match="no cell of the grid has land"):
        plan_globe(SEED, resolution=1.0, period=("2018", "2018"), bbox=(-30.0, -10.0, -20.0, 0.0))
    for period in (("2019", "2018"), ("x", "y"), ("2018",)):
        with pytest.raises(ConfigError, match="period: expected the first and the last time"):
            number_of_hours(period)


def test_a_device_that_does_not_exist_is_refused_before_the_sample_is_computed(monkeypatch):
    monkeypatch.setattr("fluxcube.devices.card_count", lambda: 0)
    reported = []
    with pytest.raises(ConfigError, match=r"device is 'cuda', but"):
        plan_maps(
            SEED,
            example_forcing(days=3),
            device="cuda",
            allow_missing=True,
            scheduler="threads",
            progress=lambda *args: reported.append(args),
        )
    assert not reported


@pytest.mark.parametrize("number", [float("inf"), float("nan"), -1.0])
def test_prices_that_json_cannot_express_are_refused(number):
    with pytest.raises(ConfigError, match=r"positive, finite numbers, found .*price_gpu"):
        plan_maps(fake(), land_forcing(), price_gpu=number)
