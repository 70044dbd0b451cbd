"""Faults of disk, input, tasks and memory: complete or a named error, resumable, and the same bit by bit."""

from __future__ import annotations

import dataclasses
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import dask
import numpy as np
import pytest
from cluster_job import SlowModel, make_maps
from inference_fakes import fake
from processes import Fork, environment

import fluxcube as fc
from fluxcube.cubes.forcing_store import open_forcing_store, write_forcing
from fluxcube.errors import ConfigError, StoreError
from fluxcube.inference.grid import upscale
from fluxcube.maps import workers as workers_module
from fluxcube.maps import writer as writer_module
from fluxcube.maps.regions import region_tasks, regions
from fluxcube.maps.store import open_maps, write_maps
from fluxcube.schema import REGION_BYTES
from fluxcube.simulation.example import example_forcing
from fluxcube.stores.ledger import done_regions

HERE = Path(__file__).parent


def values(store) -> dict[str, bytes]:
    return {str(f.relative_to(store)): f.read_bytes() for f in sorted(Path(store).glob("*/c/**/*")) if f.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_maps(make_maps(days=6), tmp_path_factory.mktemp("whole") / "maps.zarr", workers=1)


def test_a_full_disk_is_named_and_the_rest_is_written_when_there_is_room(whole, tmp_path):
    store = tmp_path / "maps.zarr"
    with pytest.raises(KeyboardInterrupt):
        write_maps(make_maps(days=6), store, workers=1, progress=interrupt_after(1))
    least = min(map(len, values(whole).values()))

    def no_room(*progress):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the system then refuses to write, as where a disk is full
        resource.setrlimit(resource.RLIMIT_FSIZE, (least - 1, resource.RLIM_INFINITY))

    def run(output):
        with pytest.raises(StoreError) as caught:
            write_maps(make_maps(days=6), store, progress=no_room)  # full once the run has begun
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, resource.RLIM_INFINITY))
        print(*str(caught.value).splitlines(), file=output)

    process = Fork(run)
    last = process.output.read()
    assert process.wait() == 0 and "make room there" in last and "of 24 regions" in last
    assert not list(store.rglob("*.partial"))
    with pytest.raises(StoreError, match="not finished"):
        open_maps(store)
    write_maps(make_maps(days=6), store)
    assert values(store) == values(whole)


def test_an_unreadable_chunk_of_forcing_is_named_and_the_others_are_written(tmp_path):
    forcing = example_forcing(shape=(4, 6), days=12).chunk(latitude=2, longitude=3)
    source = write_forcing(forcing, tmp_path / "forcing.zarr")

    def maps():
        return upscale(fake(), open_forcing_store(source), time_chunk=48)

    whole = write_maps(maps(), tmp_path / "whole.zarr")
    shard = source / "predictors/c/1/0/0/0"
    good = shard.read_bytes()
    damaged = bytearray(good)
    damaged[1000] ^= 255
    shard.write_bytes(bytes(damaged))
    store = tmp_path / "maps.zarr"
    lat = forcing.latitude.values[2:]
    where = f"latitude {lat.min():g} to {lat.max():g}, longitude {forcing.longitude.values[0]:g}"
    with pytest.raises(StoreError, match=rf"of 24 regions could not be written.*{where}.*failed 3 times.*checksum"):
        write_maps(maps(), store)
    assert 18 <= len(done_regions(store)) < 24
    shard.write_bytes(good)
    write_maps(maps(), store)
    assert values(store) == values(whole)


def test_blocks_without_values_are_written_and_counted(tmp_path):
    forcing = example_forcing(shape=(4, 6), days=6)
    forcing["predictors"][:2, :3, 48:96] = np.nan
    forcing = forcing.assign_coords(land_fraction=forcing.land_fraction * 0 + 1)
    maps = upscale(fake(context=5), forcing.chunk(latitude=2, longitude=3), time_chunk=24, stride=1)
    store = write_maps(maps, tmp_path / "maps.zarr")
    opened = open_maps(store)
    start = 4 * 24  # hours whose windows would begin before the forcing
    assert opened.attrs["missing_cell_hours"] == int(np.isnan(opened.NEE.values).sum()) == 2 * 3 * 48 + start
    assert opened.attrs["land_cell_hours"] == opened.NEE.size
    share = 100 * opened.attrs["missing_cell_hours"] / opened.NEE.size
    assert f"{share:.1f}% of the land's cell-hours have no value" in fc.inspect(store)


def test_an_incomplete_map_says_so(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write_maps(make_maps(days=6), tmp_path / "maps.zarr", workers=1, progress=interrupt_after(5))
    opened = open_maps(tmp_path / "maps.zarr", partial=True)
    assert opened.attrs["complete"] == 0
    assert (opened.attrs["regions_done"], opened.attrs["regions"]) == (5, 24)
    assert "NOT COMPLETE: 5 of 24 regions" in fc.inspect(tmp_path / "maps.zarr")


def interrupt_after(count):
    def progress(done, total, text):
        if done == count:
            raise KeyboardInterrupt

    return progress


def test_one_run_at_a_time_writes_a_store(tmp_path):
    store, seen = tmp_path / "maps.zarr", []

    def again(done, total, text):
        if not seen:
            with pytest.raises(StoreError, match=r"another run .* is writing it") as caught:
                write_maps(make_maps(days=6), store)
            seen.append(caught)

    write_maps(make_maps(days=6), store, progress=again)
    assert seen


def test_what_a_killed_run_left_on_a_cluster_does_not_write_into_another_models_store(tmp_path):
    maps = make_maps(days=6)
    late = next(region_tasks(maps, tmp_path / "maps.zarr", list(regions(maps).values())))
    store = write_maps(maps.assign_attrs(model_digest="another"), tmp_path / "maps.zarr")
    before = values(store)
    with pytest.raises(StoreError, match="of another model"):
        late()
    assert values(store) == before


def test_chunks_too_large_for_memory_are_refused_before_the_first_task(tmp_path):
    maps, seen = make_maps(days=6), []
    with pytest.raises(ConfigError, match=r"a region would take about 4096\.\d GiB of memory.*time_chunk"):
        write_maps(
            maps.assign_attrs({REGION_BYTES: 2**42}), tmp_path / "maps.zarr", progress=lambda *step: seen.append(step)
        )
    assert not seen and not (tmp_path / "maps.zarr").exists()
    path = write_maps(maps.assign_attrs({REGION_BYTES: 2**20}), tmp_path / "maps.zarr")
    assert REGION_BYTES not in open_maps(path).attrs


def test_a_task_that_kills_its_worker_each_time_is_named(tmp_path, monkeypatch):
    import distributed  # noqa: F401  (its defaults must be there before one of them is changed)

    monkeypatch.setattr(writer_module, "_TRIES", 1)
    monkeypatch.setenv("PYTHONPATH", environment(HERE)["PYTHONPATH"])
    store = tmp_path / "maps.zarr"
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        pytest.raises(StoreError, match=r"could not be written.*KilledWorker.*the same call writes the others"),
    ):
        write_maps(day(make_maps(days=9, model=Deadly)), store, scheduler="processes", workers=1)
    write_maps(day(make_maps(days=9)), store)
    assert open_maps(store).attrs["complete"]


def day(maps):
    return maps.isel(time=slice(0, 24))


@dataclasses.dataclass(frozen=True)
class Deadly(SlowModel):
    """Ends its process in the northern half of the cells."""

    def predict(self, batch):
        if batch.numbers[:, 0].max() > 46.8 / 180:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().predict(batch)


@pytest.mark.parametrize("kind", ["refuses", "is silent"])
def test_no_store_is_made_for_a_scheduler_that_is_not_there(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(workers_module, "_CONNECT", 1.0)
    store = tmp_path / "maps.zarr"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1] if kind == "is silent" else 9
        with pytest.raises(
            StoreError, match=rf"tcp://127\.0\.0\.1:{port}.*dask scheduler --port {port}.*leave out scheduler "
        ):
            write_maps(make_maps(days=2), store, scheduler=f"tcp://127.0.0.1:{port}")
    assert not store.exists() and not list(tmp_path.iterdir())


def test_no_workers_are_named_in_one_message(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(workers_module, "_START", 1.0)
    monkeypatch.setattr(workers_module, "_NOTICE", 0.2)
    from distributed import Client, LocalCluster

    maps = make_maps(days=2)
    with LocalCluster(n_workers=0, dashboard_address=None) as cluster, Client(cluster) as client:
        with pytest.raises(StoreError, match="no worker answered"):
            write_maps(maps, tmp_path / "maps.zarr", scheduler=client)
        assert [text for text in caplog.messages if "no worker is connected" in text] == [
            "no worker is connected; waiting for one for up to 1 s (patience=SECONDS)"
        ]
        monkeypatch.setattr(workers_module, "_PATIENCE", -1.0)
        monkeypatch.setattr(workers_module, "_check_cluster", lambda *args: None)
        monkeypatch.setattr(writer_module, "_CHECK_EVERY", 0.1)
        with pytest.raises(StoreError, match=r"no worker has been connected.*0 of 8 regions"):
            write_maps(maps, tmp_path / "maps.zarr", scheduler=client)
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        with pytest.raises(StoreError, match=r"worker processes have ended .status 0.*fewer workers"):
            workers_module.Cluster(client, parents=[ended]).check()
