"""Where the regions of maps are computed: threads of this process, processes of this machine, or a cluster."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dask.system import CPU_COUNT

from fluxcube.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger(__name__)

#: Tasks handed to a cluster for each of its threads: one runs, the others wait there.
_AHEAD = 3
#: Seconds without any worker after which a run gives up; queues of clusters may need that long to replace one.
_PATIENCE = 900.0
#: Seconds in which processes of this machine, or a cluster that is named, must answer.
_START = 180.0
#: Land cells times hours that are not worth starting processes for: ten minutes of the published model on a core.
_SMALL = 1_000_000
#: Bytes that a worker needs before it has read anything: Python, NumPy, Dask and torch.
BASE_BYTES = 600 * 2**20


class Workers(Protocol):
    """Takes tasks and gives futures.

    Attributes
    ----------
    text : str
        What was chosen, for a person: processes, memory, dashboard.
    """

    text: str

    def room(self) -> int:
        """Return how many tasks may be under way at once."""
        ...

    def submit(self, work: Callable[[], int]) -> Future:
        """Begin a task."""
        ...

    def check(self) -> None:
        """Raise StoreError if nothing that was begun can ever end."""
        ...


class Threads:
    """Threads of this process, for a small job and for what is in no file."""

    def __init__(self, count: int):
        self.count, self.text = count, f"{count} threads of this process"
        self._pool = ThreadPoolExecutor(count, "fluxcube-region")

    def room(self) -> int:
        """Return how many tasks may be under way at once."""
        return self.count

    def submit(self, work: Callable[[], int]) -> Future:
        """Begin a task."""
        return self._pool.submit(work)

    def check(self) -> None:
        """Do nothing: threads do not get lost."""

    def close(self) -> None:
        """End: what runs is finished, nothing new begins."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class Cluster:
    """Workers of a Dask scheduler.

    Parameters
    ----------
    client : distributed.Client
        Connected to it.
    text : str
        What was chosen.
    """

    def __init__(self, client: Client, text: str = ""):
        self.client, self._count, self._asked, self._threads = client, 0, -1.0, 0
        self._seen = time.monotonic()
        link = client.dashboard_link
        self.text = (text or f"cluster {client.scheduler.address}") + (f", dashboard {link}" if link else "")

    def room(self) -> int:
        """Return how many tasks may be under way at once."""
        self._ask()
        return _AHEAD * max(1, self._threads)

    def submit(self, work: Callable[[], int]) -> Future:
        """Begin a task."""
        self._count += 1
        try:
            return self.client.submit(work, key=f"region-{self.client.id}-{self._count}", pure=False)
        except (OSError, RuntimeError) as error:
            raise StoreError("the Dask scheduler is gone") from error

    def check(self) -> None:
        """Raise StoreError if the scheduler is gone, or no worker has been there for long."""
        self._ask()
        if time.monotonic() - self._seen > _PATIENCE:
            raise StoreError(f"no worker has been connected for {_PATIENCE / 60:.0f} minutes")

    def _ask(self) -> None:
        """Count the threads of the workers that are there, at most once a second."""
        now = time.monotonic()
        if now - self._asked < 1.0:
            return
        if self.client.status != "running":
            raise StoreError("the Dask scheduler is gone")
        try:
            workers = self.client.scheduler_info(n_workers=-1)["workers"]
        except (OSError, TimeoutError, RuntimeError) as error:
            raise StoreError("the Dask scheduler is gone") from error
        self._asked, self._threads = now, sum(worker["nthreads"] for worker in workers.values())
        self._seen = now if workers else self._seen


@contextlib.contextmanager
def workers_for(
    scheduler: object, count: int | None, cell_hours: int, task_bytes: int, path: Path
) -> Iterator[Workers]:
    """Give what regions are computed with.

    Parameters
    ----------
    scheduler : None, "threads", "processes", str or Client
        As `fluxcube.write_maps` takes it.
    count : int or None
        Regions in flight on this machine.
    cell_hours : int
        Land cells times hours that are to be done.
    task_bytes : int
        What a region takes; 0 unknown.
    path : path
        The store, which all workers must see.

    Yields
    ------
    Workers

    Raises
    ------
    ConfigError
        If a region does not fit in a worker's memory.
    StoreError
        If there is no such scheduler, or its workers cannot run tasks.
    """
    client = _active_client() if scheduler is None else scheduler
    if client is None:
        client = "processes" if cell_hours > _SMALL and (count or CPU_COUNT) > 1 else "threads"
    with contextlib.ExitStack() as stack:
        if client == "threads":
            workers: Workers = Threads(_fitting(count, task_bytes))
            stack.callback(workers.close)
        else:
            if client == "processes":
                client, text = stack.enter_context(_processes(_fitting(count, task_bytes)))
            elif isinstance(client, str):
                client, text = stack.enter_context(_connected(client)), ""
            else:
                text = ""
            workers = Cluster(client, text)
            _check_cluster(client, path, task_bytes)
        yield workers


def _active_client() -> Client | None:
    """Return the Dask client that the caller has made, if any."""
    if "distributed" not in sys.modules:
        return None
    from distributed import Client

    try:
        return Client.current()
    except ValueError:
        return None


def _fitting(count: int | None, task_bytes: int) -> int:
    """Return how many regions this machine works on at once: what is asked, else as cores and memory allow."""
    from distributed.system import MEMORY_LIMIT

    most = int(0.8 * MEMORY_LIMIT // (BASE_BYTES + task_bytes))
    if most < 1:
        raise _too_large(task_bytes, MEMORY_LIMIT)
    if count is not None and count < 1:
        raise ConfigError(f"workers must be 1 or more, found {count}.")
    return count or max(1, min(CPU_COUNT, most))


def _too_large(task_bytes: int, limit: int) -> ConfigError:
    return ConfigError(
        f"a region would take about {task_bytes / 2**30:.1f} GiB of memory, and a worker has {limit / 2**30:.1f} GiB "
        f"(of which {BASE_BYTES / 2**30:.1f} GiB are needed before it reads anything): make the chunks smaller, "
        "forcing.chunk(latitude=16, longitude=16, time=...) and time_chunk=... of upscale."
    )


@contextlib.contextmanager
def _processes(count: int) -> Iterator[tuple[Client, str]]:
    """Start a scheduler in this process and workers in others, one thread each, which end with it.

    The workers come from the command line of Dask: started by Python's multiprocessing, each would run the caller's
    script again from its top.
    """
    from distributed import Client, LocalCluster
    from distributed.system import MEMORY_LIMIT

    memory = int(0.9 * MEMORY_LIMIT / count)
    with LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=":0", silence_logs=logging.CRITICAL) as cluster:
        command = [
            sys.executable,
            "-m",
            "distributed.cli.dask_worker",
            cluster.scheduler_address,
            "--nworkers",
            str(count),
            "--nthreads",
            "1",
            "--memory-limit",
            str(memory),
            "--no-dashboard",
            "--death-timeout",
            str(int(_START)),
        ]
        log = subprocess.DEVNULL if not logger.isEnabledFor(logging.INFO) else None
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            with Client(cluster, set_as_default=False) as client:
                yield client, f"{count} processes of one thread and {memory / 2**30:.1f} GiB each"
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _connected(address: str):
    """Connect to a scheduler that runs already."""
    from distributed import Client

    try:
        return Client(address, timeout=_START, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise StoreError(f"no Dask scheduler answers at {address}: {error}") from error


def _check_cluster(client: Client, path: Path, task_bytes: int) -> None:
    """Refuse, before the first task, workers that lack fluxcube, the store or the memory."""
    from fluxcube import __version__

    try:
        client.wait_for_workers(1, timeout=_START)
    except TimeoutError as error:
        raise StoreError(f"{client.scheduler.address}: no worker answered within {_START:.0f} s.") from error
    for worker, found in sorted(client.run(_look, str(path), on_error="return").items()):
        if isinstance(found, (ImportError, AttributeError)):
            raise StoreError(f"worker {worker} cannot import this fluxcube ({found}): install the same there.")
        if isinstance(found, BaseException):  # it died: others may be there, or come
            continue
        version, sees, limit = found
        if version != __version__:
            raise StoreError(f"worker {worker} has fluxcube {version}, this process {__version__}: install the same.")
        if not sees:
            raise StoreError(f"worker {worker} does not see {path}: write to a folder that all workers share.")
        if limit and limit < BASE_BYTES + task_bytes:
            raise _too_large(task_bytes, limit)


def _look(path: str, dask_worker=None) -> tuple[str, bool, int]:
    """Tell of the worker this runs on: its version, whether it sees a store, and its memory limit (0: none)."""
    from fluxcube import __version__

    return __version__, (Path(path) / "zarr.json").is_file(), dask_worker.memory_manager.memory_limit or 0
