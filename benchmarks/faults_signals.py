"""Send signals at random moments to every command, and check how it ends and whether it can be continued.

    python benchmarks/faults_signals.py --count 120 --seed 0

A draw starts a command in an empty folder, sends it Ctrl-C (once or twice), SIGTERM (once or twice), SIGHUP or SIGUSR1
after a random part of its normal duration, to the process alone, to its group (as a terminal does) or to all its
processes (as SLURM does), and reports exit status, seconds until the end, lines on standard error, processes that still
exist 3 seconds later, and folders of an unfinished build. The command is then repeated, and its result compared with
that of an undisturbed one. With SIGKILL, orphans and the repetition are checked only.

Commands run in copies of this process, which has imported what they need; `--program` starts the program instead.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

MARK = "FLUXCUBE_FAULT_DRAW"
PROGRAM = "--program" in sys.argv
KINDS = ("INT", "INT INT", "TERM", "TERM TERM", "HUP", "USR1", "KILL")
#: Seconds until the end after which a draw fails, by the first signal.
LIMITS = {"INT": 5.0, "TERM": 28.0, "HUP": 28.0, "USR1": 28.0, "KILL": 5.0}
_TRAIN = ["--predictors", "TA,SW_IN,VPD", "--target", "NEE"]


@dataclass(frozen=True)
class Command:
    """A command of the command line.

    Attributes
    ----------
    name : str
    words : callable
        Returns the arguments for a folder of inputs and an output folder.
    result : callable
        Returns a digest of the result in the output folder.
    repeat : tuple of str
        Further arguments of the repetition.
    """

    name: str
    words: Callable[[Path, Path], list[object]]
    result: Callable[[Path], str]
    repeat: tuple[str, ...] = ()


@dataclass
class Outcome:
    """What the draws of one command and signal showed."""

    count: int = 0
    finished: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    seconds: float = 0.0
    orphans: int = 0
    left: int = 0
    tracebacks: int = 0
    lines: int = 0
    late: int = 0
    equal: int = 0
    repeated: int = 0
    faults: list[str] = field(default_factory=list)


def files(pattern: str) -> Callable[[Path], str]:
    """Return a function that computes the digest of the files of an output folder that match a pattern."""

    def digest(out: Path) -> str:
        total = hashlib.sha256()
        for path in sorted(out.glob(pattern)):
            if path.is_file():
                total.update(path.relative_to(out).as_posix().encode() + b"\0" + path.read_bytes())
        return total.hexdigest()

    return digest


def store_id(out: Path) -> str:
    """Return the identifier of the content of a store."""
    return json.loads((out / "s.zarr" / "zarr.json").read_text())["attributes"]["store_id"]


def commands() -> list[Command]:
    """Return the commands that are disturbed."""
    weights = files("run/**/model*")
    small = [
        "--preset",
        "small",
        "--epochs",
        2,
        "--set",
        "training.windows_per_epoch=64",
        "--set",
        "training.val_windows=64",
    ]
    trees = ["--set", "config.n_estimators=30", "--set", "config.search_rows=3000"]
    return [
        Command("build", lambda i, o: _build(i, o / "s.zarr", 4), store_id),
        Command("append", _append, store_id),
        Command("train xgboost", lambda i, o: _train(i, o, "xgboost", "--set", "config.n_estimators=40"), weights),
        Command("train ecoperceiver", lambda i, o: _train(i, o, "ecoperceiver", *small), weights),
        Command("train seeds", lambda i, o: _train(i, o, "xgboost", *trees, "--seeds", 2, "--jobs", 2), weights),
        Command("train search", lambda i, o: _train(i, o, "xgboost", *trees[2:], "--search", 2), weights),
        Command("train ct-lstm", lambda i, o: _daily(i, o, "ct-lstm", *small[2:]), weights),
        Command("train tam-lstm", lambda i, o: _daily(i, o, "tam-lstm", *small[2:]), weights),
        Command("forcing", _forcing, store_id),
        Command("upscale threads", lambda i, o: _upscale(i, o), store_id),
        Command("upscale processes", lambda i, o: _upscale(i, o, True), store_id),
        Command(
            "evaluate",
            lambda i, o: ["evaluate", i / "xgb", i / "cube.zarr", "--out", o / "t.csv", "--draws", 100],
            files("t.csv"),
        ),
        Command("verify", lambda i, o: ["inspect", i / "cube.zarr", "--verify"], lambda o: ""),
    ]


def _append(inputs: Path, out: Path) -> list[object]:
    if not (out / "s.zarr").exists():
        shutil.copytree(inputs / "few.zarr", out / "s.zarr")
    return [*_build(inputs, out / "s.zarr", 4), "--append"]


def _build(inputs: Path, store: Path, sites: int, *options: object) -> list[object]:
    names = json.loads((inputs / "xgb" / "split.json").read_text())["train"][:sites]
    few = [word for name in names for word in ("--site", name)]
    return ["build", inputs / "towers", store, *options, *few]


def _train(inputs: Path, out: Path, model: str, *options: object) -> list[object]:
    return ["train", inputs / "cube.zarr", out / "run", "--model", model, *_TRAIN, *options]


def _daily(inputs: Path, out: Path, model: str, *options: object) -> list[object]:
    return ["train", inputs / "daily.zarr", out / "run", "--model", model, *_TRAIN, *options]


def _forcing(inputs: Path, out: Path) -> list[object]:
    land = next((inputs / "land_cover").glob("*.tif"))
    return ["forcing", inputs / "era5", out / "s.zarr", "--modis", inputs / "modis", "--land-cover", land]


def _upscale(inputs: Path, out: Path, processes: bool = False) -> list[object]:
    words = [
        "upscale",
        inputs / "xgb",
        inputs / "forcing.zarr",
        out / "s.zarr",
        "--time-chunk",
        48,
        "--workers",
        2,
        "--time",
        "2018-06-03/2018-06-12",
    ]
    return [*words, "--patience", 120, *(["--scheduler", "processes"] if processes else [])]


def prepare(folder: Path) -> Path:
    """Write the inputs of all commands: a simulated planet, cubes of it, a model and a forcing."""
    from fluxcube.simulation import Planet, write_raw

    write_raw(Planet(seed=0, quick=True), folder)
    raw = folder / "raw"
    for words in (
        ["build", raw / "towers", raw / "cube.zarr", "--modis", raw / "modis"],
        ["build", raw / "towers", raw / "daily.zarr", "--resolution", "daily"],
        _forcing(raw, raw),
        ["train", raw / "cube.zarr", raw / "run", "--model", "xgboost", *_TRAIN, "--set", "config.n_estimators=20"],
    ):
        run(words, {}).wait()
    (raw / "s.zarr").rename(raw / "forcing.zarr")
    (raw / "run").rename(raw / "xgb")
    run(_build(raw, raw / "few.zarr", 2), {}).wait()
    return raw


class Copy:
    """A copy of this process that runs a command, with the part of the interface of Popen that is used here."""

    def __init__(self, words: list[object], variables: dict[str, str], errors: Path | str) -> None:
        self.pid, self.status = os.fork(), None
        if self.pid:
            return
        status = 1
        try:
            os.setsid()
            for number, path in ((0, os.devnull), (1, os.devnull), (2, errors)):
                os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
            os.environ.update(variables)
            sys.argv = ["fluxcube", *map(str, words)]
            from fluxcube.cli import main

            main()
            status = 0
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            sys.stderr.flush()
            os._exit(status)

    def poll(self) -> int | None:
        """Return the exit status, or None while the process runs."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status

    def wait(self, timeout: float = 1e9) -> int:
        """Return the exit status when the process has ended."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("fluxcube", timeout)
            time.sleep(0.02)
        return int(self.status or 0)

    def send_signal(self, number: int) -> None:
        """Send a signal to the process."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the process."""
        self.send_signal(signal.SIGKILL)


def run(words: list[object], variables: dict[str, str], errors: Path | None = None) -> subprocess.Popen | Copy:
    """Start a command in a session of its own."""
    if not PROGRAM:
        return Copy(words, variables, errors or os.devnull)
    command = [str(Path(sys.executable).parent / "fluxcube"), *map(str, words)]
    with open(errors or os.devnull, "wb") as file:
        environment = {**os.environ, **variables}
        return subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=file, env=environment, start_new_session=True
        )


def load() -> None:
    """Import what commands import on first use."""
    import importlib

    for name in ("catalog", "cli", "cubes.carbonsense", "evaluation.skill", "inference.grid", "inference.towers"):
        importlib.import_module(f"fluxcube.{name}")
    for name in ("maps.store", "training.fit", "training.descent", "models.boosting", "training.search"):
        importlib.import_module(f"fluxcube.{name}")
    for name in ("distributed", "torch._dynamo", "torch.optim", "xgboost", "rasterio", "netCDF4", "scipy.stats"):
        importlib.import_module(name)


def processes(mark: str) -> list[int]:
    """Return the processes that have a mark in their environment, which children inherit."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            zombie = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0") and not zombie:
                found.append(int(entry.name))
    return found


def send(process: subprocess.Popen | Copy, number: int, to: str, mark: str) -> None:
    """Send a signal to a process, to its group, or to all its descendants."""
    with contextlib.suppress(ProcessLookupError):
        if to == "process":
            process.send_signal(number)
        elif to == "group":
            os.killpg(process.pid, number)
        else:
            for pid in {*processes(mark), process.pid}:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)


def draw(command: Command, kind: str, to: str, wait: float, inputs: Path, out: Path, outcome: Outcome) -> bool:
    """Disturb a command once; return whether the signal met it."""
    mark, errors = f"{random.getrandbits(64):x}", out.parent / f"{out.name}.err"
    process = run(command.words(inputs, out), {MARK: mark}, errors)
    numbers = [getattr(signal, f"SIG{name}") for name in kind.split()]
    time.sleep(wait)
    if process.poll() is not None:
        return False
    for number in numbers:
        begun = time.monotonic()
        send(process, number, to, mark)
        time.sleep(0.2 if len(numbers) > 1 else 0.0)
    try:
        status = process.wait(60)
    except subprocess.TimeoutExpired:
        status = 999
        process.kill()
    took = time.monotonic() - begun
    end = time.monotonic() + 3
    while (left := processes(mark)) and time.monotonic() < end:
        time.sleep(0.1)
    _judge(command, kind, to, status, took, left, out, errors.read_text(errors="replace"), outcome)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return True


def _judge(
    command: Command,
    kind: str,
    to: str,
    status: int,
    took: float,
    left: list[int],
    out: Path,
    text: str,
    outcome: Outcome,
) -> None:
    first = kind.split()[0]
    expected = -signal.SIGKILL if first == "KILL" else 128 + getattr(signal, f"SIG{first}")
    told = [line for line in text.splitlines() if not line.startswith(("WARNING", "INFO"))]
    building = [path.name for path in out.rglob(".*.building-*")] if first != "KILL" else []
    bad = "Traceback" in text or "Exception ignored" in text or "terminate called" in text or "invalid pointer" in text
    outcome.count += 1
    outcome.finished += status == 0
    outcome.statuses[status] = outcome.statuses.get(status, 0) + 1
    outcome.seconds = max(outcome.seconds, took)
    outcome.orphans += bool(left)
    outcome.left += bool(building)
    outcome.tracebacks += bad
    outcome.lines = max(outcome.lines, len(told))
    outcome.late += took > LIMITS[first]
    if status not in (0, expected) or took > LIMITS[first] or left or building or bad or len(told) > 1:
        tail = " | ".join(text.splitlines()[-6:])
        outcome.faults.append(
            f"{command.name}, {kind} to {to}: status {status}, {took:.1f} s, orphans {left}, left {building}: {tail}"
        )


def repeat(command: Command, expected: str, inputs: Path, out: Path, outcome: Outcome) -> None:
    """Run a command to its end after a draw, unless it had ended, and compare the result."""
    errors = out.parent / f"{out.name}.again"
    status = run(command.words(inputs, out), {}, errors).wait()
    text = errors.read_text(errors="replace")
    done = status == 1 and ("finished" in text or "exists" in text)  # the signal came after the result
    outcome.repeated += 1
    found = command.result(out) if status in (0, 3) or done else ""
    if found == expected and (status in (0, 3) or done):
        outcome.equal += 1
    else:
        outcome.faults.append(
            f"{command.name}: repetition ended with {status}, equal {found == expected}: {text[-600:]}"
        )


def main(
    seed: int = 0,
    count: int = 120,
    only: str = "",
    folder: Path | None = None,
    minutes: float = 1e9,
    repeated: float = 1.0,
    heavy: bool = False,
) -> int:
    """Run the draws, print a table, and return the number of faults.

    `repeated` is the share of draws whose command is repeated.
    """
    rng = random.Random(seed)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # of a bench in the background, whose commands inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not PROGRAM:
        load()
    base = Path(tempfile.mkdtemp(prefix="faults-signals-")) if folder is None else folder
    inputs = base / "inputs" / "raw"
    if not inputs.exists():
        prepare(base / "inputs")
    chosen = [c for c in commands() if only in c.name]
    cache = base / "normal.json"
    normal: dict[str, tuple[float, str]] = json.loads(cache.read_text()) if cache.exists() else {}
    table: dict[tuple[str, str], Outcome] = {}
    end = time.monotonic() + 60 * minutes
    if not heavy:
        chosen = [c for c in chosen if c.name not in ("train seeds", "train search")]
    for number in range(count):
        if time.monotonic() > end:
            break
        command = chosen[number % len(chosen)]
        kind, to = rng.choice(KINDS), rng.choice(("process", "group", "all"))
        part = rng.uniform(0.05, 1.0)
        if command.name not in normal:
            out = Path(tempfile.mkdtemp(dir=base))
            begun = time.monotonic()
            status = run(command.words(inputs, out), {}, base / "normal.err").wait()
            if status:
                sys.exit(f"{command.name} ended with {status}: {(base / 'normal.err').read_text()[-2000:]}")
            normal[command.name] = time.monotonic() - begun, command.result(out)
            print(f"{command.name}: {normal[command.name][0]:.1f} s undisturbed", flush=True)
            cache.write_text(json.dumps(normal))
            shutil.rmtree(out)
        seconds, expected = normal[command.name]
        outcome = table.setdefault((command.name, kind), Outcome())
        out, before = Path(tempfile.mkdtemp(dir=base)), len(outcome.faults)
        if draw(command, kind, to, part * seconds, inputs, out, outcome) and rng.random() < repeated:
            repeat(command, expected, inputs, out, outcome)
        for fault in outcome.faults[before:]:
            print(f"FAULT {number}: {fault}", flush=True)
        shutil.rmtree(out, ignore_errors=True)
    print("| command | signal | n | exit status | max s | orphans | left | tracebacks | late | repeated equal |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for (name, kind), o in sorted(table.items()):
        statuses = ", ".join(f"{status} ({n})" for status, n in sorted(o.statuses.items()))
        print(
            f"| {name} | {kind} | {o.count} | {statuses} | {o.seconds:.1f} | {o.orphans} | {o.left} | {o.tracebacks} "
            f"| {o.late} | {o.equal} of {o.repeated} |"
        )
    return sum(len(o.faults) for o in table.values())


if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--only", default="", help="commands whose name contains this text")
    parser.add_argument("--folder", type=Path, default=None, help="folder for inputs, which are kept there")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no draw after this time")
    parser.add_argument("--repeated", type=float, default=1.0, help="share of the draws whose command is repeated")
    parser.add_argument("--heavy", action="store_true", help="also ensembles and searches, which take long")
    parser.add_argument("--program", action="store_true", help="start the program, whose imports take long")
    options = parser.parse_args()
    main(options.seed, options.count, options.only, options.folder, options.minutes, options.repeated, options.heavy)
