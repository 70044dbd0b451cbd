"""Maps on real `dask scheduler` and `dask worker` processes over TCP, which are killed."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from cluster_job import SlowModel, make_maps
from processes import HELPERS, environment

from fluxcube.errors import StoreError
from fluxcube.maps.store import write_maps
from fluxcube.stores.ledger import done_regions
from fluxcube.stores.reading import store_attrs

ENV = environment(DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT="10s")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Processes:
    """A scheduler and workers, each a process of its own with a group of its own."""

    def __init__(self, log: Path):
        self.port, self.log = free_port(), open(log, "ab")  # noqa: SIM115
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.workers: list[subprocess.Popen] = []
        self.start_scheduler()

    def start_scheduler(self):
        place = ("--host", "127.0.0.1", "--port", str(self.port))
        self.scheduler = self._start("dask_scheduler", *place, "--no-dashboard")

    def _start(self, module: str, *args: str) -> subprocess.Popen:
        command = [sys.executable, "-m", f"distributed.cli.{module}", *args]
        return subprocess.Popen(command, env=ENV, stdout=self.log, stderr=self.log, start_new_session=True)

    def add_worker(self) -> subprocess.Popen:
        args = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0", "--death-timeout", "30")
        self.workers.append(self._start("dask_worker", self.address, *args))
        return self.workers[-1]

    def close(self):
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()
        self.log.close()


@pytest.fixture
def cluster(tmp_path):
    processes = Processes(tmp_path / "cluster.log")
    try:
        yield processes
    finally:
        processes.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The files of a store that one thread wrote in one go."""
    return lambda days: files(
        write_maps(make_maps(days=days), tmp_path_factory.mktemp("whole") / "maps.zarr", workers=1)
    )


def files(store: Path) -> dict[str, bytes]:
    """Every file of a store but the ledger, whose lines come as regions end."""
    found = {str(f.relative_to(store)): f.read_bytes() for f in sorted(store.rglob("*")) if f.is_file()}
    ledger = found.pop("ledger/regions.jsonl").splitlines()
    assert len(set(ledger)) == len(ledger)
    return found


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


def test_a_cluster_writes_what_one_thread_does(cluster, undisturbed, tmp_path):
    cluster.add_worker(), cluster.add_worker()
    seen = []
    store = write_maps(
        make_maps(), tmp_path / "maps.zarr", scheduler=cluster.address, progress=lambda *step: seen.append(step)
    )
    assert files(store) == undisturbed(10)
    assert cluster.address in seen[0][2] and seen[-1][:2] == (40, 40)


def kill_at_random(cluster: Processes, run: list[str], kills: int, seed: int, store: Path, kinds: tuple[str, ...]):
    """Run a program to its end while what it needs is killed; the run itself, too, if asked, and begun again."""
    rng, killed = random.Random(seed), {kind: 0 for kind in kinds}
    process = subprocess.Popen(run, env=ENV, start_new_session=True)
    try:
        wait_for(store.exists)
        while sum(killed.values()) < kills:
            time.sleep(rng.uniform(0.1, 1.2))
            if process.poll() is not None and (store / "zarr.json").exists() and complete(store):
                break
            kind = rng.choice(kinds)
            if kind == "worker":
                cluster.workers.pop(rng.randrange(len(cluster.workers))).kill()
                cluster.add_worker()
            elif kind == "run":
                process.kill()
            elif kind == "scheduler":
                cluster.scheduler.kill()
                cluster.scheduler.wait()
                cluster.start_scheduler()
                cluster.workers = [worker for worker in cluster.workers if worker.kill()]
                cluster.add_worker(), cluster.add_worker()
            killed[kind] += 1
            if process.poll() is not None or kind == "run":
                process.wait()
                process = subprocess.Popen(run, env=ENV, start_new_session=True)
        while not complete(store):  # nothing is killed any more: it may need to be begun once more, not twice
            if process.wait(120) != 0:
                process = subprocess.Popen(run, env=ENV, start_new_session=True)
    finally:
        process.kill()
        process.wait()
    return killed


def complete(store: Path) -> bool:
    return bool(store_attrs(store).get("complete"))


@pytest.mark.parametrize(
    ("kills", "days", "pause", "kinds"),
    [
        pytest.param(3, 8, 0.2, ("worker",), marks=pytest.mark.proof),
        pytest.param(24, 30, 0.4, ("worker", "worker", "run", "scheduler"), marks=pytest.mark.slow),
    ],
)
def test_kills_at_random_moments_change_nothing(cluster, undisturbed, tmp_path, kills, days, pause, kinds):
    cluster.add_worker(), cluster.add_worker()
    store = tmp_path / "maps.zarr"
    run = [sys.executable, str(HELPERS / "cluster_job.py"), str(store), cluster.address, str(pause), str(days)]
    killed = kill_at_random(cluster, run, kills, 1, store, kinds)
    assert sum(killed.values()) == kills
    assert files(store) == undisturbed(days)
    print(killed)


@pytest.mark.proof
def test_a_scheduler_that_dies_is_named_and_the_rest_is_done_elsewhere(cluster, undisturbed, tmp_path):
    cluster.add_worker()
    store = tmp_path / "maps.zarr"

    def kill():
        wait_for(lambda: store.exists() and len(done_regions(store)) > 3)
        cluster.scheduler.kill()

    threading.Thread(target=kill).start()
    with pytest.raises(StoreError, match=r"scheduler is gone.*of 40 regions.*the same call"):
        write_maps(make_maps(pause=0.2), store, scheduler=cluster.address)
    assert 3 < len(done_regions(store)) < 40
    write_maps(make_maps(), store)
    assert files(store) == undisturbed(10)


class Deadly(SlowModel):
    def predict(self, batch):
        os.kill(os.getpid(), signal.SIGKILL)
