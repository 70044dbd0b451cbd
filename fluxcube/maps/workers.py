"""Workers that compute regions of maps: threads of this process, processes on this machine, or a Dask cluster."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import dask.config
from dask.system import CPU_COUNT

from fluxcube.devices import card_ids, device_name, find_device
from fluxcube.errors import ConfigError, StoreError, to_type
from fluxcube.maps.teams import make_teams, start_team, text_of
from fluxcube.stores.resumable import Place, is_readable

if TYPE_CHECKING:
    from distributed import Client, Worker

logger = logging.getLogger(__name__)

#: Number of tasks sent to a cluster for each of its threads: one runs, the others wait there.
_AHEAD = 3
#: Seconds without any worker after which a run stops; a cluster's queue may need that long to replace one.
_PATIENCE = 900.0
#: Seconds within which a worker must be there: a cluster may have to start it.
_START = 180.0
#: Seconds within which the scheduler of an address must answer: nothing is computed without it.
_CONNECT = 8.0
#: Seconds without an answer after which a message says what is waited for, and between two such messages.
_NOTICE, _NOTICE_AGAIN = 5.0, 60.0
#: Seconds without a sign of life after which a worker is reported; it sends one every few seconds.
_SILENT = 8.0
#: Seconds without a sign of life after which the scheduler of this machine restarts a worker.
_HUNG = "60s"
#: Land cells times time steps for which processes are not worth starting: ten minutes of the published model on a core.
_SMALL = 1_000_000
#: Bytes of data in a task, such as a forcing that was loaded or persisted, beyond which threads are used, which share
#: that data: processes would receive a copy with each task. Dask warns from this size on.
_SENT = 10 * 2**20
#: Dask keeps its last 1,000 messages for developers, with the graph of a task in each: the RAM of this process would
#: grow with the first 1,000 regions.
_SHORT_LOGS = {"distributed.admin.low-level-log-length": 10}
#: Bytes of RAM that a worker needs before it reads anything: Python, NumPy, Dask and torch.
BASE_BYTES = 600 * 2**20


class TaskFuture(Protocol):
    """What is used of the futures of `concurrent.futures` and of Dask."""

    def add_done_callback(self, fn: Callable[[Any], object], /) -> None:
        """Call `fn` with the future when its task has ended."""
        ...

    def cancel(self) -> object:
        """Cancel the task if it has not started."""
        ...

    def cancelled(self) -> bool:
        """Return whether the task was cancelled."""
        ...

    def exception(self) -> BaseException | None:
        """Return the error of the task, None if it ended without one."""
        ...

    def result(self) -> Any:
        """Return what the task returned."""
        ...


class Workers(Protocol):
    """Run tasks and return futures.

    Attributes
    ----------
    text : str
        Description for the user: processes, RAM, dashboard.
    threads : int
        Number of tasks that run at once.
    devices : tuple of str
        Names of the devices that compute, such as "CPU"; empty if they are unknown.
    """

    text: str
    threads: int
    devices: tuple[str, ...]

    def capacity(self) -> int:
        """Return the maximum number of tasks that run or wait at once."""
        ...

    def submit(self, task: Callable[[], object]) -> TaskFuture:
        """Start a task."""
        ...

    def check(self) -> None:
        """Raise StoreError if the tasks that were started can never end."""
        ...


class Threads:
    """Threads of this process, for small jobs and for data that are in no file."""

    def __init__(self, count: int, device: str = "cpu"):
        name = device_name(find_device(device))
        self.threads = count
        self.devices: tuple[str, ...] = (name,)
        self.text = f"{count} threads of this process" + (f" on {name}" if name != "CPU" else "")
        self._pool = ThreadPoolExecutor(count, "fluxcube-region")

    def capacity(self) -> int:
        """Return the maximum number of tasks that run or wait at once."""
        return self.threads

    def submit(self, task: Callable[[], object]) -> TaskFuture:
        """Start a task."""
        return self._pool.submit(task)

    def check(self) -> None:
        """Do nothing: threads of this process are always there."""

    def close(self) -> None:
        """Wait for the running tasks, and start no others."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class Cluster:
    """Workers of a Dask scheduler.

    Parameters
    ----------
    client : distributed.Client
        A client that is connected to the scheduler.
    text : str
        Description for the user; by default the address.
    parents : sequence of subprocess.Popen
        Processes of this machine whose children the workers are.
    patience : float
        Seconds without a sign of life of any worker after which a run stops.
    """

    def __init__(
        self,
        client: Client,
        text: str = "",
        parents: Sequence[subprocess.Popen] = (),
        patience: float = _PATIENCE,
    ):
        self.client, self._count, self._counted_at, self.threads = client, 0, -1.0, 0
        self._parents, self._patience = parents, patience
        self.devices: tuple[str, ...] = ()
        self._signs = _SignsOfLife()
        link = client.dashboard_link
        self.text = (text or f"cluster {_address(client)}") + (f", dashboard {link}" if link else "")

    def capacity(self) -> int:
        """Return the maximum number of tasks that run or wait at once."""
        self._count_threads()
        return _AHEAD * max(1, self.threads)

    def submit(self, task: Callable[[], object]) -> TaskFuture:
        """Start a task."""
        self._count += 1
        try:
            return self.client.submit(task, key=f"region-{self.client.id}-{self._count}", pure=False)
        except (OSError, RuntimeError) as error:
            raise StoreError("the Dask scheduler is gone") from error

    def check(self, patience: float | None = None) -> None:
        """Raise StoreError if the scheduler or the local workers are gone, or if no worker shows a sign of life.

        Parameters
        ----------
        patience : float, optional
            Seconds that may pass without one; by default those of the cluster.
        """
        patience = self._patience if patience is None else patience
        ended = [status for parent in self._parents if (status := parent.poll()) is not None]
        if self._parents and len(ended) == len(self._parents):
            raise StoreError(
                f"the worker processes have ended (status {ended[0]}), perhaps for lack of memory: run again with "
                "fewer workers"
            )
        self._count_threads()
        self._signs.report(patience)
        if (silence := self._signs.silence()) > patience:
            raise StoreError(
                f"no worker has {'shown a sign of life' if self.threads else 'been connected'} for {silence:.0f} s: "
                f"start workers, or wait longer ({_longer()})"
            )

    def _count_threads(self) -> None:
        """Count the threads of the connected workers, at most once a second."""
        now = time.monotonic()
        if now - self._counted_at < 1.0:
            return
        if self.client.status != "running":
            raise StoreError("the Dask scheduler is gone")
        try:
            workers = _answer(lambda: self.client.scheduler_info(n_workers=-1), self._patience)["workers"]
        except StoreError:
            raise
        except (OSError, TimeoutError, RuntimeError) as error:
            raise StoreError("the Dask scheduler is gone") from error
        self._counted_at, self.threads = now, sum(worker["nthreads"] for worker in workers.values())
        self._signs.update({address: worker["last_seen"] for address, worker in workers.items()})


def _answer(question: Callable[[], Any], patience: float) -> Any:
    """Return the answer of the scheduler; Dask itself would wait for one that hangs without end."""
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(question())
        except (OSError, TimeoutError, RuntimeError, ValueError, MemoryError, OverflowError) as error:
            answers.put(error)

    threading.Thread(target=ask, name="fluxcube-scheduler", daemon=True).start()
    try:
        answer = answers.get(timeout=_NOTICE)
    except queue.Empty:
        logger.warning("the Dask scheduler does not answer; waiting for up to %.0f s (%s)", patience, _longer())
        try:
            answer = answers.get(timeout=max(0.0, patience - _NOTICE))
        except queue.Empty:
            raise StoreError(f"the Dask scheduler gave no answer for {patience:.0f} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


class _SignsOfLife:
    """Signs of life of workers, by the clock of this process: that of the scheduler may be another one."""

    def __init__(self) -> None:
        self._any, self._reported = time.monotonic(), -_NOTICE_AGAIN
        self._workers: dict[str, tuple[float, float]] = {}

    def update(self, last_seen: dict[str, float]) -> None:
        """Record when the scheduler heard from each connected worker."""
        now, before = time.monotonic(), self._workers
        changed = {address for address, seen in last_seen.items() if before.get(address, (None,))[0] != seen}
        self._workers = {a: (seen, now) if a in changed else before[a] for a, seen in last_seen.items()}
        self._any = now if changed else self._any

    def silence(self) -> float:
        """Return the seconds since the last sign of life of any worker."""
        return time.monotonic() - self._any

    def report(self, patience: float) -> None:
        """Warn of silent workers, at most once a minute."""
        now = time.monotonic()
        silent = sorted(address for address, (_, at) in self._workers.items() if now - at > _SILENT)
        if now - self._reported < _NOTICE_AGAIN or not (silent or (not self._workers and self.silence() > _NOTICE)):
            return
        self._reported = now
        if silent:
            logger.warning("workers without a sign of life for more than %.0f s: %s", _SILENT, ", ".join(silent))
        else:
            logger.warning("no worker is connected; waiting for one for up to %.0f s (%s)", patience, _longer())


@contextlib.contextmanager
def connected(scheduler: str | Client | None, patience: float | None = None) -> Iterator[str | Client | None]:
    """Yield a client of the scheduler with this address; what is no address is yielded as it is.

    Parameters
    ----------
    scheduler, patience
        As in `fluxcube.write_maps`.

    Raises
    ------
    ConfigError
        If `patience` is no number of seconds above 0.
    StoreError
        If no scheduler answers in time.
    """
    if patience is not None and not patience > 0:
        raise ConfigError(f"patience: expected a number of seconds above 0, found {patience}.")
    if not isinstance(scheduler, str) or scheduler in ("threads", "processes"):
        yield scheduler
        return
    with dask.config.set(_SHORT_LOGS), _connected(scheduler, _CONNECT if patience is None else patience) as client:
        yield client


@contextlib.contextmanager
def workers_for(
    scheduler: str | Client | None,
    count: int | None,
    cell_steps: int,
    task_bytes: int,
    path: Place,
    sent_bytes: Callable[[], int] = lambda: 0,
    patience: float | None = None,
    device: str = "cpu",
    inputs: Callable[[], Sequence[str]] = tuple,
) -> Iterator[Workers]:
    """Yield the workers that compute regions, and stop them at the end.

    Parameters
    ----------
    scheduler : None, "threads", "processes", str or Client
        As in `fluxcube.write_maps`.
    count : int or None
        Number of regions computed at once on this machine.
    cell_steps : int
        Number of land cells times time steps to compute.
    task_bytes : int
        RAM of one region in bytes; 0 if unknown.
    path : Path or Bucket
        The store, which all workers must be able to read.
    sent_bytes : callable
        Returns the number of bytes that would be sent to a process with each task; called if processes are an option.
    patience : float, optional
        As in `fluxcube.write_maps`.
    device : str
        Device of the processes that compute (`fluxcube.devices.check_device`).
    inputs : callable
        Returns the paths that tasks read, which all workers of a cluster must find; called for a cluster.

    Yields
    ------
    Workers

    Raises
    ------
    ConfigError
        If a region does not fit in a worker's RAM, or a worker has no such device.
    StoreError
        If there is no such scheduler, or its workers cannot run tasks.
    """
    start = _START if patience is None else patience
    client = _active_client() if scheduler is None else scheduler
    if client is None:
        large = cell_steps > _SMALL and (count or CPU_COUNT) > 1
        client = "processes" if large and sent_bytes() <= _SENT else "threads"
    with contextlib.ExitStack() as stack:
        if client == "threads":
            threads = Threads(_worker_count(count, task_bytes), device)
            stack.callback(threads.close)
            yield threads
            return
        stack.enter_context(dask.config.set(_SHORT_LOGS))
        text, parents = "", list[subprocess.Popen]()
        if client == "processes":
            cards, count = card_ids(device), _worker_count(count, task_bytes)
            client, text, parents = stack.enter_context(_processes(count, cards) if cards else _processes(count))
        elif isinstance(client, str):
            client = stack.enter_context(_connected(client, _CONNECT if patience is None else patience))
        cluster = Cluster(client, text, parents, _PATIENCE if patience is None else patience)
        _check_cluster(cluster, start, path, task_bytes, device, () if parents else inputs())
        yield cluster


def _active_client() -> Client | None:
    """Return the active Dask client of the caller, if there is one."""
    if "distributed" not in sys.modules:
        return None
    from distributed import Client

    try:
        return Client.current()
    except ValueError:
        return None


def _worker_count(count: int | None, task_bytes: int) -> int:
    """Return the number of regions computed at once: the requested one, else what cores and RAM allow."""
    from distributed.system import MEMORY_LIMIT

    fitting = int(0.8 * MEMORY_LIMIT // (BASE_BYTES + task_bytes))
    if fitting < 1:
        raise _too_large(task_bytes, MEMORY_LIMIT)
    if count is not None and count < 1:
        raise ConfigError(f"workers: expected 1 or more, found {count}.")
    return count or max(1, min(CPU_COUNT, fitting))


def _too_large(task_bytes: int, limit: int) -> ConfigError:
    return ConfigError(
        f"a region would take about {task_bytes / 2**30:.1f} GiB of memory, and a worker has {limit / 2**30:.1f} GiB "
        f"(of which {BASE_BYTES / 2**30:.1f} GiB are needed before it reads anything): make the chunks smaller, "
        "forcing.chunk(latitude=16, longitude=16, time=...) and time_chunk=... of upscale."
    )


@contextlib.contextmanager
def _processes(count: int, cards: Sequence[str] = ()) -> Iterator[tuple[Client, str, list[subprocess.Popen]]]:
    """Start a scheduler in this process and workers in other processes; stop them at the end.

    Parameters
    ----------
    count : int
        Number of regions that are computed at once.
    cards : sequence of str
        Cards of this machine, as CUDA_VISIBLE_DEVICES identifies them; each has a process.
    """
    from distributed import Client, LocalCluster
    from distributed.system import MEMORY_LIMIT

    teams = make_teams(count, cards)
    memory_limit = int(0.9 * MEMORY_LIMIT / sum(team.processes for team in teams))
    with (
        dask.config.set({"distributed.scheduler.worker-ttl": _HUNG, "distributed.admin.tick.interval": "1s"}),
        LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=":0", silence_logs=logging.CRITICAL) as cluster,
    ):
        processes = [start_team(team, cluster.scheduler_address, memory_limit, _START) for team in teams]
        try:
            with Client(cluster, set_as_default=False) as client:
                yield client, text_of(teams, memory_limit), processes
            for process in processes:
                process.terminate()
            for process in processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
        finally:
            for process in processes:
                process.kill()  # its children end with it
                process.wait()


def _connected(address: str, patience: float) -> Client:
    """Connect to a scheduler, which may start within `patience` seconds."""
    from distributed import Client

    class Quiet(Client):
        def __del__(self) -> None:  # Dask waits 10 s for a scheduler that it never reached, and prints the failure
            if self.status in ("running", "closing"):
                super().__del__()

    end = time.monotonic() + patience
    try:
        _wait_for_port(address, end, patience)
        left = max(1.0, end - time.monotonic())
        return _answer(lambda: Quiet(address, timeout=left, set_as_default=False), left)
    except StoreError as error:
        raise StoreError(f"{address}: {error}: {_advice(address)}") from error
    except (OSError, TimeoutError) as error:
        raise StoreError(
            f"no Dask scheduler answers at {address} within {patience:.0f} s ({error}): {_advice(address)}"
        ) from error
    except ValueError as error:
        raise StoreError(f"{address} is no address of a Dask scheduler ({error}): pass tcp://host:port.") from error
    except (MemoryError, OverflowError) as error:  # it takes the answer of another protocol for a huge number
        raise StoreError(f"what answers at {address} is no Dask scheduler: check the address.") from error


def _wait_for_port(address: str, end: float, patience: float) -> None:
    """Wait until the host of an address accepts connections, until a time; raise the last OSError if it does not."""
    url, notice = urlsplit(address), time.monotonic() + _NOTICE
    if url.scheme not in ("tcp", "tls") or not url.hostname or url.port is None:
        return  # of another protocol, or for Dask to refuse
    while True:
        left = end - time.monotonic()
        try:
            with socket.create_connection((url.hostname, url.port), timeout=min(max(left, 0.1), _NOTICE)):
                return
        except OSError:
            if end - time.monotonic() < 1.0:
                raise
        if time.monotonic() >= notice - 1.0 and patience > _CONNECT:
            logger.warning(
                "no Dask scheduler answers at %s; waiting for up to %.0f s (%s)", address, patience, _longer()
            )
            notice = math.inf
        time.sleep(0.5)


def _wait_for_worker(cluster: Cluster, patience: float) -> None:
    """Wait until a worker is connected (StoreError if none is in time)."""
    end = time.monotonic() + patience
    while True:
        try:
            cluster.client.wait_for_workers(1, timeout=max(0.01, min(_NOTICE, end - time.monotonic())))
            return
        except TimeoutError as error:
            if time.monotonic() >= end:
                raise StoreError(
                    f"{_address(cluster.client)}: no worker answered within {patience:.0f} s: start workers (dask "
                    f"worker {_address(cluster.client)}), or wait longer ({_longer()})."
                ) from error
            cluster.check(patience)


def _address(client: Client) -> str:
    return str(client.scheduler.address) if client.scheduler is not None else "that is closed"


def _check_cluster(
    cluster: Cluster, patience: float, path: Place, task_bytes: int, device: str, inputs: Sequence[str] = ()
) -> None:
    """Raise an error, before the first task, if no worker comes, or one lacks something that its tasks need.

    These are fluxcube, access to the store and to the inputs, RAM, and the device.
    """
    from fluxcube import __version__

    _wait_for_worker(cluster, patience)
    client, devices = cluster.client, {}
    for worker, state in sorted(client.run(_worker_state, path, tuple(inputs), device, on_error="return").items()):
        if isinstance(state, ConfigError):
            raise ConfigError(f"worker {worker}: {state}")
        if isinstance(state, (ImportError, AttributeError)):
            raise StoreError(f"worker {worker} cannot import this fluxcube ({state}): install the same there.")
        if isinstance(state, StoreError):  # no credentials there, or no network
            raise StoreError(f"worker {worker}: {state}")
        if isinstance(state, BaseException):  # it died: others may be connected, or follow
            continue
        version, sees, limit, unseen, devices[worker] = state
        if version != __version__:
            raise StoreError(f"worker {worker} has fluxcube {version}, this process {__version__}: install the same.")
        if not sees:
            raise StoreError(f"worker {worker} cannot read {path}: write to a folder or bucket that all workers share.")
        if unseen:
            raise StoreError(
                f"worker {worker} on the host {unseen[0]} cannot find {unseen[1]}, which the maps are computed from: "
                "make the same path available on all hosts, or read it from a bucket."
            )
        if limit and limit < BASE_BYTES + task_bytes:
            raise _too_large(task_bytes, limit)
    _check_devices(devices, device)
    cluster.devices = tuple(sorted(set(devices.values())))


def _check_devices(devices: Mapping[str, str], device: str) -> None:
    """Refuse workers of which some have a card and others do not, unless the user allowed that (ConfigError)."""
    without = [worker for worker, name in devices.items() if name == "CPU"]
    if device == "auto" and 0 < len(without) < len(devices):
        raise ConfigError(
            f"device is 'auto', but {len(devices) - len(without)} workers have a GPU and {len(without)} do not "
            f"({', '.join(without[:3])}{' ...' if len(without) > 3 else ''}): fluxes would differ in their last "
            "digits. Pass device='cuda,cpu' to use both, device='cpu', or stop the workers without a GPU."
        )


def _worker_state(
    path: Place, inputs: Sequence[str], device: str, dask_worker: Worker
) -> tuple[str, bool, int, tuple[str, str] | None, str]:
    """Return a worker's version of fluxcube, whether it can read a store, and its memory limit (0: none).

    Then follow its host and the first of the inputs that it cannot find, None if it finds all, and its device.
    """
    from fluxcube import __version__

    unseen = next((name for name in inputs if not os.path.exists(name)), None)
    limit = dask_worker.memory_manager.memory_limit or 0
    lacks = None if unseen is None else (socket.gethostname(), unseen)
    return __version__, is_readable(path), limit, lacks, device_name(find_device(device))


def _advice(address: str) -> str:
    """Return what to do about a scheduler that does not answer."""
    port = urlsplit(address).port or 8786
    return (
        f"check the address, start one there (dask scheduler --port {port}), or leave out "
        f"{to_type(python='scheduler', shell='--scheduler')} to compute on this machine; if it is about to start, wait "
        f"longer ({_longer()})."
    )


def _longer() -> str:
    """Return what to type to wait longer."""
    return to_type(python="patience=SECONDS", shell="--patience SECONDS")
