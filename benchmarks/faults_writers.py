"""Two writers and a reader on one path, interleaved at random, compared with a small model of the store.

The writers are real processes. Each stops before every step that changes a name on the disk, until the bench lets it
continue. There it can be killed or suspended, and the other writer can take over its lock, on the same machine or on
another one (whose system locks are separate). The model knows what the store contains after each operation that was
committed: the path must lead to that, a reader must get the values of what it opened or an error of fluxcube, and
nothing that was committed may be lost.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import xarray as xr
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from processes import Fork

from fluxcube.errors import FluxcubeError
from fluxcube.stores import lock as locks
from fluxcube.stores import owners
from fluxcube.stores.arrays import ArraySpec, create
from fluxcube.stores.building import check_target, staging, store_lock
from fluxcube.stores.reading import open_store, store_attrs
from fluxcube.stores.shards import adopt, write_run

HOURS = 48
SITES = ("AA-One", "BB-Two", "CC-Thr", "DD-Fou")
OPERATIONS = ("append", "append", "append", "overwrite", "build")
#: Functions of `os` before which a writer stops.
POINTS = ("rename", "replace", "link", "unlink", "rmdir", "mkdir")
#: Seconds between touches of a lock, and that a lock is watched for.
BEAT = 0.02

Content = dict[str, float]


def write(path: Path, operation: str, site: str, value: float, token: str) -> None:
    """Build, replace or extend a store of sites; the sites are stored by position, in the order of their names."""
    with store_lock(path):
        before = []
        if operation == "append":
            with open_store(path, kind="cube", dask=False) as ds:
                before = ds.site.values.tolist()
        check_target(path, overwrite=operation != "build")
        with staging(path, overwrite=operation != "build") as building:
            sites = sorted({*before, site})
            time_axis = np.datetime64("2018-06-01", "ns") + np.arange(HOURS) * np.timedelta64(1, "h")
            coords = xr.Dataset(coords={"site": np.array(sites, object), "time": time_axis})
            spec = ArraySpec(
                dims=("site", "time", "target"),
                shape=(len(sites), HOURS, 1),
                dtype="float32",
                chunks=(1, 24, 1),
                shards=(1, HOURS, 1),
                fill_value=np.nan,
                checksum=True,
            )
            create(building, coords, {"fluxes": spec}, {"kind": "cube", "token": token})
            places = {at: sites.index(name) for at, name in enumerate(before) if name != site}
            adopt(building, path, places)
            write_run(building, "fluxes", sites.index(site), 0, np.full((HOURS, 1), value, "float32"))


def content(path: Path) -> Content:
    """Return the values of a store by site."""
    with open_store(path, kind="cube", dask=False) as ds:
        return {site: of_site(ds, at) for at, site in enumerate(ds.site.values.tolist())}


def of_site(ds: xr.Dataset, at: int) -> float:
    """Return the value of a site, which is the same in every hour; NaN if it is not."""
    values = np.unique(ds.fluxes[at].values)
    return float(values[0]) if len(values) == 1 else np.nan


class Writer:
    """A process that writes, step by step.

    Parameters
    ----------
    path : Path
        The store.
    operation, site, value, token
        As of `write`.
    host : str
        Its machine.
    """

    def __init__(self, path: Path, operation: str, site: str, value: float, token: str, host: str):
        self.operation, self.site, self.value, self.token = operation, site, value, token
        self.committed, self.ended, self.frozen, self.last = False, False, False, ""
        reading, self._control = os.pipe()
        self._process = Fork(lambda output: self._main(path, host, reading, output))
        os.close(reading)
        self.step = self._next
        self._next(go=False)

    def _main(self, path: Path, host: str, reading: int, output: object) -> None:
        os.close(self._control)
        on_host(host, path.parent)
        main = threading.main_thread()

        def stopping(name: str, function: Callable) -> Callable:
            def stopped(*arguments: object, **named: object) -> object:
                if threading.current_thread() is main:
                    print(f"before {name}", file=output)
                    os.read(reading, 1)
                return function(*arguments, **named)

            return stopped

        for name in POINTS:
            setattr(os, name, stopping(name, getattr(os, name)))
        try:
            write(path, self.operation, self.site, self.value, self.token)
        except FluxcubeError as error:
            print(f"error {error}", file=output)
        except BaseException as error:  # to be reported as what no user should see
            frames = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
            print(f"traceback {error!r} in {' '.join(frames[-6:])}", file=output)
        else:
            print("done", file=output)

    def _next(self, go: bool = True) -> str:
        """Let it do one step; return what it does next, or how it ended."""
        if go:
            os.write(self._control, b"g")
        self.last = self._process.output.readline().strip() or "traceback: it ended without a word"
        if not self.last.startswith("before"):
            self.ended = True
            self._process.wait()
            os.close(self._control)
        return self.last

    def kill(self) -> None:
        self.ended = True
        self._process.kill()
        os.close(self._control)

    def freeze(self) -> None:
        """Suspend it; its threads stop as well."""
        os.kill(self._process.pid, signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)
        self.frozen = True

    def wake(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)
        self.frozen = False


def on_host(host: str, folder: Path) -> None:
    """Let this process be one of a machine: its locks exclude those of the same machine only."""
    locks.HEARTBEAT, locks._RACE, locks._APART, locks.SILENCE = BEAT, BEAT, BEAT / 10, 50 * BEAT
    owners._boot = lambda: host
    kept, flock = [], locks._flock

    def flock_there(handle: int) -> bool | None:
        shadow = folder.parent / f"{folder.name}-{host}-{os.fstat(handle).st_ino}"
        kept.append(os.open(shadow, os.O_RDWR | os.O_CREAT))
        return flock(kept[-1])

    locks._flock = flock_there


class Machine(RuleBasedStateMachine):
    """The store, its writers and its readers; violations are counted, not raised."""

    template: ClassVar[Path]
    seen: ClassVar[Counter] = Counter()
    faults: ClassVar[list[str]] = []

    def __init__(self) -> None:
        super().__init__()
        self.parent = Path(tempfile.mkdtemp())
        self.folder = self.parent / "f"
        self.folder.mkdir()
        self.path = self.folder / "s.zarr"
        self.model: Content | None = None
        self.token: str | None = None
        self.writers: dict[str, Writer] = {}
        self.readers: list[SimpleNamespace] = []
        self.count, self.story = 0, []
        Machine.seen["interleavings"] += 1
        if Machine.seen["interleavings"] % 100 == 0:
            print(dict(Machine.seen), Machine.faults[:3], file=sys.stderr, flush=True)

    @initialize(there=st.sampled_from((True, True, True, False)))
    def begin(self, there: bool) -> None:
        """Begin with a store of two sites, or without one."""
        if there:
            shutil.copytree(Machine.template, self.path)
            self.model, self.token = {SITES[1]: 0.25, SITES[3]: 0.5}, "t0"

    def fault(self, text: str) -> None:
        Machine.faults.append(f"{text}; after: {', '.join(self.story[-12:])}")

    # ---- what is at the path

    def visible(self) -> str | None:
        """Return the token of the store at the path; None if there is none, "moved" while it is exchanged."""
        try:
            return str(store_attrs(self.path)["token"])
        except FluxcubeError:
            return "moved" if list(self.folder.glob(".s.zarr.replaced-*")) else None

    def observe(self, writer: Writer) -> None:
        """Compare what is at the path with the model after a step of a writer."""
        found = self.visible()
        if found == self.token or (found == "moved" and self.token is not None):
            return
        if found != writer.token or writer.committed:
            self.fault(f"the path has {found}, the model {self.token}")
            return
        writer.committed = True
        Machine.seen["commits"] += 1
        expected = {writer.site: writer.value}
        if writer.operation == "append":
            expected = {**(self.model or {}), **expected}
        if writer.operation == "build" and self.model is not None:
            self.fault("a build replaced a store")
        self.model, self.token = expected, writer.token
        if (there := content(self.path)) != expected:
            self.fault(f"committed {there}, expected {expected}: an update was lost")

    # ---- writers

    def _free(self) -> bool:
        return any(name not in self.writers for name in "AB")

    def _awake(self) -> list[str]:
        return [name for name, writer in self.writers.items() if not writer.frozen]

    @precondition(_free)
    @rule(operation=st.sampled_from(OPERATIONS), site=st.sampled_from(SITES), host=st.sampled_from(("one", "two")))
    def start(self, operation: str, site: str, host: str) -> None:
        name = next(name for name in "AB" if name not in self.writers)
        self.count += 1
        self.story.append(f"{name} {operation} {site} on {host}")
        writer = Writer(self.path, operation, site, float(self.count), f"t{self.count}", host)
        self.writers[name] = writer
        self._after(name, writer)

    @precondition(lambda self: self._awake())
    @rule(data=st.data(), steps=st.integers(1, 15))
    def advance(self, data: st.DataObject, steps: int) -> None:
        self._step(data.draw(st.sampled_from(self._awake())), steps)

    @precondition(lambda self: self._awake())
    @rule(data=st.data(), before=st.sampled_from(("rename", "rename", "unlink", "end", "end")))
    def advance_to(self, data: st.DataObject, before: str) -> None:
        """Continue up to the exchange of the stores, or to the end."""
        self._step(data.draw(st.sampled_from(self._awake())), 10_000, before)

    def _step(self, name: str, steps: int, before: str = "") -> None:
        writer = self.writers[name]
        for _ in range(steps):
            writer.step()
            self._after(name, writer)
            if writer.ended or writer.last == f"before {before}":
                break
        self.story.append(f"{name}: {writer.last[:60]}")

    def _after(self, name: str, writer: Writer) -> None:
        self.observe(writer)
        if not writer.ended:
            return
        del self.writers[name]
        kind = writer.last.partition(" ")[0]
        Machine.seen[kind] += 1
        if "took it over" in writer.last or "was removed" in writer.last:
            Machine.seen["lost its lock"] += 1
        if kind == "done" and not writer.committed:
            self.fault("a writer that reported success committed nothing")
        if kind not in ("done", "error"):
            self.fault(writer.last)

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), how=st.sampled_from(("kill", "suspend", "suspend", "wake", "wake")))
    def disturb(self, data: st.DataObject, how: str) -> None:
        """Kill a writer, suspend it for so long that its lock is left behind, or wake it."""
        name = data.draw(st.sampled_from(sorted(self.writers)))
        writer = self.writers[name]
        if how != "kill" and writer.frozen == (how == "suspend"):
            return
        self.story.append(f"{how} {name}")
        Machine.seen[how] += 1
        if how == "kill":
            del self.writers[name]
            writer.kill()
            self.observe(writer)
        elif how == "suspend":
            writer.freeze()
            self.age()
        else:
            writer.wake()

    @rule()
    def age(self) -> None:
        """Let a long time pass: a lock that nobody touches is silent."""
        for file in self.folder.glob(".s.zarr.lock*"):
            with contextlib.suppress(FileNotFoundError):
                os.utime(file, (time.time() - 1000,) * 2)

    # ---- readers

    @precondition(lambda self: self.token is not None)
    @rule()
    def open(self) -> None:
        try:
            ds = open_store(self.path, kind="cube", dask=False)
        except FluxcubeError:
            if self.visible() != "moved":
                self.fault("a complete store does not open")
            return
        self.story.append("open")
        self.readers.append(SimpleNamespace(ds=ds, content=dict(self.model or {}), at=-1))

    @precondition(lambda self: self.readers)
    @rule()
    def read(self) -> None:
        """Let every reader read one more site."""
        for reader in self.readers:
            reader.at = (reader.at + 1) % len(reader.content)
            site = sorted(reader.content)[reader.at]
            try:
                found = of_site(reader.ds, reader.at)
            except FluxcubeError:
                Machine.seen["reads refused"] += 1
                continue
            Machine.seen["reads"] += 1
            if found != reader.content[site]:
                self.fault(f"read {found} for {site}, expected {reader.content[site]}")

    def teardown(self) -> None:
        """Let everything end; then the path has what the model has, and nothing else is left."""
        for name, writer in list(self.writers.items()):
            if writer.frozen:
                writer.wake()
            self._step(name, 10_000, "end")
        self.age()

        def clear(output: object) -> None:
            on_host("three", self.folder)
            with store_lock(self.path):
                pass

        if Fork(clear).wait() != 0:
            self.fault("the path cannot be locked any more")
        if (found := self.visible()) != self.token or (found and content(self.path) != self.model):
            self.fault(f"in the end the path has {found}, the model {self.token}")
        if left := sorted(set(os.listdir(self.folder)) - {"s.zarr"}):
            self.fault(f"left {left}")
        shutil.rmtree(self.parent)


@contextlib.contextmanager
def errors_only(logger: logging.Logger) -> Iterator[None]:
    """Report no takeover of a lock, of which there are hundreds."""
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def main(seed_: int, count: int, steps: int = 25) -> list[tuple[str, int, int, str]]:
    Machine.seen, Machine.faults = Counter(), []
    rules = settings(
        max_examples=count,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    with tempfile.TemporaryDirectory() as folder, errors_only(logging.getLogger("fluxcube")):
        Machine.template = Path(folder) / "s.zarr"
        write(Machine.template, "build", SITES[3], 0.5, "t")
        write(Machine.template, "append", SITES[1], 0.25, "t0")
        run_state_machine_as_test(seed(seed_)(Machine), settings=rules)
    tried = Machine.seen.pop("interleavings")
    notes = ", ".join(f"{n} {what}" for what, n in sorted(Machine.seen.items()))
    return [("two writers and a reader", tried, tried - len(Machine.faults), "; ".join([notes, *Machine.faults[:3]]))]
