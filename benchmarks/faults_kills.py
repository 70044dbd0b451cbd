"""Processes killed at random moments: what was there stays, and the same call again gives what an undisturbed one does.

Most runs are forked from this process, which has imported everything; the workers of maps are processes of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import faulthandler
import functools
import os
import random
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import dask
from cluster_job import make_maps
from processes import HELPERS, Fork, environment
from tower_files import columns, write_archive, write_raw
from training_helpers import FAST, TINY, small_cube

import fluxcube as fc
from fluxcube.errors import FluxcubeError
from fluxcube.simulation.example import example_forcing

DAYS = 2
#: Functions of `os` before which half of the kills happen: steps that others can see. The others happen at any moment.
STEPS = ("rename", "replace", "link", "unlink", "rmdir", "mkdir", "fsync", "ftruncate")
#: Seconds after which a run that was not killed counts as hanging.
PATIENCE = 120.0
Files = dict[str, bytes]


@dataclass(frozen=True)
class Case:
    """A kind of run.

    Attributes
    ----------
    prepare : callable
        Writes what is there before, into a folder.
    run : callable
        The run, in that folder.
    result : str
        Name of what it writes.
    opened : callable
        Reads the result whole; a FluxcubeError where it is not complete.
    resumes : bool
        Whether a part of the result may be at its path: otherwise it is absent, the old one or the new one.
    weight : int
        Share of all kills.
    """

    prepare: Callable[[Path], object]
    run: Callable[[Path], object]
    result: str
    opened: Callable[[Path], object]
    resumes: bool = False
    weight: int = 10


def tree(folder: Path) -> Files:
    """Return every file of a result; the lines of a ledger are sorted, and durations are left out of logs."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "log.csv":
            content = path.read_bytes()
            if path.name == "regions.jsonl":
                content = b"\n".join(sorted(set(content.splitlines())))
            found[path.relative_to(folder).as_posix()] = content
    return found


def run_files(folder: Path) -> Files:
    """Return the files of a training run that another machine would repeat: weights, and area of applicability."""
    return {name: content for name, content in tree(folder).items() if name.startswith(("model", "applic", "split"))}


def cases(base: Path) -> dict[str, Case]:
    """Write what the runs start with, and return the kinds of runs."""
    write_raw(base / "raw", days=DAYS)
    _in_fork(lambda: fc.build_carbonsense(base / "raw", base / "cube.zarr", sites=["FJ-Ddd", "NP-Ccc"]))
    write_archive(base / "other", "NP-Ccc", columns(DAYS * 48, 9), start="2010-03-01T00:00")
    shutil.copy(base / "raw" / "sites.csv", base / "other")
    forcing = example_forcing(shape=(3, 4), days=30).chunk(latitude=1, longitude=2, time=240)
    cube = small_cube()
    training = dataclasses.replace(FAST, checkpoint_seconds=0.02)

    def copy_cube(folder: Path) -> None:
        shutil.copytree(base / "cube.zarr", folder / "cube.zarr")

    def nothing(folder: Path) -> None:
        pass

    def fit(folder: Path, **settings: object) -> None:
        fc.fit(cube, target=("NEE",), seed=4, out=folder / "run", **settings)

    open_cube = functools.partial(_loaded, fc.open_carbonsense)
    return {
        "build": Case(
            nothing, lambda f: fc.build_carbonsense(base / "raw", f / "cube.zarr"), "cube.zarr", open_cube, weight=25
        ),
        "append": Case(
            copy_cube,
            lambda f: fc.build_carbonsense(base / "raw", f / "cube.zarr", append=True),
            "cube.zarr",
            open_cube,
            weight=30,
        ),
        "overwrite": Case(
            copy_cube,
            lambda f: fc.build_carbonsense(base / "other", f / "cube.zarr", overwrite=True),
            "cube.zarr",
            open_cube,
            weight=25,
        ),
        "forcing": Case(
            nothing,
            lambda f: fc.write_forcing(forcing, f / "forcing.zarr", workers=2),
            "forcing.zarr",
            functools.partial(_loaded, fc.open_forcing),
            True,
            25,
        ),
        "maps, threads": Case(
            nothing,
            lambda f: fc.write_maps(make_maps(0.005), f / "maps.zarr", workers=2, scheduler="threads"),
            "maps.zarr",
            functools.partial(_loaded, fc.open_maps),
            True,
            25,
        ),
        "training, EcoPerceiver": Case(
            nothing,
            lambda f: fit(f, model="ecoperceiver", config=TINY, training=training),
            "run",
            fc.load_model,
            True,
            20,
        ),
        "training, XGBoost": Case(nothing, lambda f: fit(f, model="xgboost"), "run", fc.load_model, True, 20),
    }


def _loaded(function: Callable, path: Path) -> object:
    with dask.config.set(scheduler="synchronous"):
        return function(path).load()


@dataclass
class Tally:
    """What was seen of one kind.

    Attributes
    ----------
    tried : int
        Number of kills.
    faults : list of str
        What was wrong, one text for each kill after which something was.
    seen : Counter
        Where the kills met the run.
    """

    tried: int = 0
    faults: list[str] = field(default_factory=list)
    seen: Counter = field(default_factory=Counter)

    def row(self, kind: str) -> tuple[str, int, int, str]:
        notes = ", ".join(f"{n} {what}" for what, n in sorted(self.seen.items()))
        return kind, self.tried, self.tried - len(self.faults), "; ".join([notes, *self.faults[:3]])[:600]


def bench(kind: str, case: Case, count: int, rng: random.Random, base: Path) -> tuple[str, int, int, str]:
    """Kill runs of one kind, and run each to its end."""
    tally, content = Tally(), run_files if case.result == "run" else tree
    first = base / f"{kind}-0"
    first.mkdir()
    case.prepare(first)
    old = tree(first / case.result)
    whole = base / f"{kind}-1"
    seconds, steps = _undisturbed(case, first, whole)
    expected, names = content(whole / case.result), sorted(os.listdir(whole))
    while tally.tried < count:
        folder = base / f"{kind}-try"
        folder.mkdir()
        case.prepare(folder)
        status, fault = -signal.SIGKILL, ""
        for again in range(rng.choice((1, 1, 2))):  # some runs are killed again when they resume
            if tally.tried % 2:
                status = _fork(case, folder, stop=rng.randint(1, steps)).wait()
            else:
                status = _kill(case, folder, rng.uniform(0, seconds))
            if status != -signal.SIGKILL:
                break
            tally.tried += 1
            where, wrong = _state(case, folder, old, expected, content)
            tally.seen[where + (", resumed" if again else "")] += 1
            fault = fault or wrong
            if where == "after":
                break  # it is complete, and would be refused
        if status == -signal.SIGKILL:
            status = _fork(case, folder).wait()
            if where == "after" and status == 1 and re.search("exists|finished run", _last_words(folder)):
                status = 0  # it was complete, and is not replaced unless that is requested
        fault = fault or _final(case, folder, status, expected, content, names)
        if fault:
            tally.faults.append(fault)
        shutil.rmtree(folder)
    return tally.row(f"kill, {kind}")


def _final(
    case: Case, folder: Path, status: int, expected: Files, content: Callable[[Path], Files], names: list[str]
) -> str:
    """Return what is wrong after a run that ended with a status; "" if nothing is."""
    if status != 0:
        return f"the run after the kill ended with {status}: {_last_words(folder)}"
    if content(folder / case.result) != expected:
        return "the result differs"
    left = sorted(set(os.listdir(folder)) - set(names))
    return f"left {left}" if left else ""


def _in_fork(function: Callable[[], object]) -> None:
    if Fork(lambda output: function()).wait() != 0:
        raise RuntimeError("what the bench begins with could not be made")


def _undisturbed(case: Case, first: Path, folder: Path) -> tuple[float, int]:
    """Run without a kill; return the seconds that it takes, and the number of steps before which `_fork` can stop."""
    shutil.copytree(first, folder)
    start = time.perf_counter()
    process = _fork(case, folder)
    lines = process.output.read().split()
    if process.wait() != 0:
        raise RuntimeError(f"{folder.name}: the undisturbed run failed: {_last_words(folder)}")
    return time.perf_counter() - start, int(lines[-1])


def _fork(case: Case, folder: Path, stop: int = 0) -> Fork:
    """Start a run, which kills itself before a step of `STEPS`, counted from 1, and writes the number of its steps."""
    count, guard = [0], threading.Lock()

    def counted(function: Callable) -> Callable:
        def step(*arguments: object, **named: object) -> object:
            with guard:
                count[0] += 1
                if count[0] == stop:
                    os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        return step

    def run(output: TextIO) -> None:
        _quiet(folder.parent / "stderr")
        for name in STEPS:
            setattr(os, name, counted(getattr(os, name)))
        try:
            case.run(folder)
        except BaseException:  # the process ends without showing it
            traceback.print_exc()
            raise
        print(count[0], file=output)

    return Fork(run)


def _kill(case: Case, folder: Path, after: float) -> int:
    """Start a run and kill it after some seconds; return how it ended."""
    process = _fork(case, folder)
    time.sleep(after)
    os.kill(process.pid, signal.SIGKILL)
    return process.wait()


def _quiet(log: Path | str = os.devnull) -> None:
    """Write messages to a file, and end this process after some time, whatever happens."""
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), 2)
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)  # pytest's does not write to descriptor 2
    faulthandler.dump_traceback_later(PATIENCE - 10, exit=True)
    signal.alarm(300)


def _last_words(folder: Path) -> str:
    """Return the last line that a run in a folder wrote to its standard error."""
    return (folder.parent / "stderr").read_text(errors="replace").strip().rpartition("\n")[2][:200]


def _state(case: Case, folder: Path, old: Files, new: Files, content: Callable[[Path], Files]) -> tuple[str, str]:
    """Return what is at the path after a kill, and what is wrong with it ("" if nothing is)."""
    path = folder / case.result
    if not path.exists():
        moved = [name for name in os.listdir(folder) if ".replaced-" in name]
        return ("moved aside" if moved else "before"), ("the old store is gone" if old and not moved else "")

    def read(output: object) -> None:  # this process stays without threads, which a fork would not copy
        try:
            case.opened(path)
        except FluxcubeError as error:
            print(f"{error}", file=output)

    reader = Fork(read)
    error = reader.output.readline().strip()
    if reader.wait() != 0 or error:
        return ("unfinished", "") if case.resumes and error else ("damaged", f"it does not open: {error}")
    found = content(path)
    if found == new:
        return "after", ""
    if old and tree(path) == old:
        return "old one", ""
    return "other", "it opens, and is neither the old nor the new one"


# ---- maps on processes


class Cluster:
    """A scheduler and two nannies with a worker each, forked from this process."""

    def __init__(self) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.scheduler = Fork(functools.partial(_scheduler, self.port))
        self.nannies = [Fork(functools.partial(_nanny, self.address)) for _ in range(2)]

    def kill(self, kind: str, rng: random.Random) -> None:
        """Kill one process of a kind; another nanny follows one that was killed."""
        if kind == "scheduler":
            self.scheduler.kill()
            return
        nanny = self.nannies.pop(rng.randrange(len(self.nannies)))
        if kind == "worker":
            self.nannies.append(nanny)
            for child in _children(nanny.pid):
                os.kill(child, signal.SIGKILL)
            return
        nanny.kill()
        self.nannies.append(Fork(functools.partial(_nanny, self.address)))

    def close(self) -> None:
        for process in (*self.nannies, self.scheduler):
            children = _children(process.pid)
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                process.kill()
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _scheduler(port: int, output: object) -> None:
    from distributed import Scheduler

    async def serve() -> None:
        async with Scheduler(host="127.0.0.1", port=port, dashboard=False) as scheduler:
            await scheduler.finished()

    _quiet()
    asyncio.run(serve())


def _nanny(address: str, output: object) -> None:
    from distributed import Nanny

    async def serve() -> None:
        async with Nanny(address, nthreads=1, memory_limit=0, dashboard=False, death_timeout=20) as nanny:
            await nanny.finished()

    _quiet()
    with dask.config.set({"distributed.worker.multiprocessing-method": "fork"}):
        asyncio.run(serve())


def clusters(count: int, rng: random.Random, base: Path) -> list[tuple[str, int, int, str]]:
    """Kill clients, workers, nannies and schedulers of maps on a TCP cluster."""
    tallies = {kind: Tally() for kind in ("client", "worker", "nanny", "scheduler")}
    whole = base / "whole.zarr"
    _in_fork(lambda: fc.write_maps(make_maps(), whole, workers=1, scheduler="threads"))
    expected = tree(whole)
    for number in range(count):
        kind, store = list(tallies)[number % 4], base / f"cluster-{number}" / "maps.zarr"
        tally = tallies[kind]
        store.parent.mkdir()
        cluster, start = Cluster(), time.perf_counter()
        try:
            fault = _one(cluster, kind, store, rng, tally)
        finally:
            cluster.close()
        tally.tried += 1
        if not fault and tree(store) != expected:
            fault = "the result differs"
        if not fault and os.listdir(store.parent) != ["maps.zarr"]:
            fault = f"left {os.listdir(store.parent)}"
        if fault:
            tally.faults.append(f"{fault} ({time.perf_counter() - start:.0f} s)")
    return [tally.row(f"kill, maps on a TCP cluster, {kind}") for kind, tally in tallies.items() if tally.tried]


def _one(cluster: Cluster, kind: str, store: Path, rng: random.Random, tally: Tally) -> str:
    def write(address: str) -> Fork:
        def run(output: object) -> None:
            _quiet()
            fc.write_maps(make_maps(0.05), store, scheduler=address, progress=lambda done, *_: print(done, file=output))

        return Fork(run)

    client = write(cluster.address)
    if not client.output.readline():
        return "the client did not start"
    time.sleep(rng.uniform(0, 1.5))
    if kind == "client":
        os.kill(client.pid, signal.SIGKILL)
    else:
        cluster.kill(kind, rng)
    status = _wait(client)
    tally.seen[f"ended with {status}"] += 1
    if status is None:
        return "it hangs"
    if status == 0:
        return ""
    if kind == "scheduler":
        cluster.close()
        cluster.__init__()
    client = write(cluster.address)
    status = _wait(client)
    return "" if status == 0 else f"the next run ended with {status}"


def _wait(process: Fork) -> int | None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        pid, status = os.waitpid(process.pid, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    process.kill()
    return None


def local_processes(count: int, rng: random.Random, base: Path) -> list[tuple[str, int, int, str]]:
    """Kill runs whose workers are processes of this machine, which must end by themselves."""
    tally = Tally()
    whole = base / "whole-processes.zarr"
    _in_fork(lambda: fc.write_maps(make_maps(), whole, workers=1, scheduler="threads"))
    expected = tree(whole)
    os.environ["PYTHONPATH"] = environment(HELPERS)["PYTHONPATH"]
    for number in range(count):
        store = base / f"processes-{number}" / "maps.zarr"
        store.parent.mkdir()

        def run(output: object, store: Path = store) -> None:
            _quiet()
            fc.write_maps(
                make_maps(0.02),
                store,
                scheduler="processes",
                workers=1,
                progress=lambda done, *_: print(done, file=output),
            )

        client = Fork(run)
        client.output.readline()
        time.sleep(rng.uniform(0, 1.0))
        descendants = _descendants(client.pid)
        os.kill(client.pid, signal.SIGKILL)
        client.wait()
        tally.tried += 1
        if (status := Fork(run).wait()) != 0:
            tally.faults.append(f"the next run ended with {status}")
        elif tree(store) != expected:
            tally.faults.append("the result differs")
        end = time.monotonic() + 30
        while (left := [pid for pid in descendants if Path(f"/proc/{pid}").exists()]) and time.monotonic() < end:
            time.sleep(0.1)
        if left:
            tally.faults.append(f"{len(left)} orphans after 30 s")
    return [tally.row("kill, maps on local processes")]


def _descendants(pid: int) -> list[int]:
    children = _children(pid)
    return children + [below for child in children for below in _descendants(child)]


def main(seed: int, count: int, only: Collection[str] = ()) -> list[tuple[str, int, int, str]]:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder, dask.config.set({"distributed.comm.timeouts.connect": "3s"}):
        base = Path(folder)
        kinds = {kind: case for kind, case in cases(base).items() if kind in only or not only}
        total = sum(case.weight for case in kinds.values()) + (0 if only else 30)
        rows = []
        for kind, case in kinds.items():
            rows.append(bench(kind, case, max(1, round(count * case.weight / total)), rng, base))
            print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
        if count >= 50 and not only:  # seconds for each
            rows += local_processes(max(1, round(count * 6 / total)), rng, base)
            rows += clusters(max(4, round(count * 24 / total)), rng, base)
    return rows
