"""Random damage to fluxcube's own files: `python benchmarks/faults_own.py [--seed 0] [--count 3000]`.

Each mutation changes one file of a store, a run, a split or a ledger, byte by byte or in its structure, and opens the
whole in a process of limited time and RAM, 25 after each other. Of a container that fluxcube wrote, the same values
must come back, or an error of fluxcube. A container of an earlier version has no checksums of its metadata, and JSON
with a new seal is as its author wrote it: other values are possible there, but no other error, crash or wait.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import importlib
import json
import math
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr

import fluxcube as fc
from fluxcube.errors import FluxcubeError
from fluxcube.inference import loading
from fluxcube.models import checkpoint
from fluxcube.simulation.example import example_cube, example_forcing

SECONDS, RAM, BATCH = 60, 6 << 30, 25
OUTCOMES = ("same values", "error of fluxcube", "other values", "another error", "crash", "hang")
DEEP = 100_000
VALUES = [
    None,
    True,
    0,
    -1,
    5,
    2**31,
    2**63,
    10**30,
    0.5,
    -1e300,
    math.nan,
    math.inf,
    "",
    "x",
    "NaN",
    "../../x",
    "é" * 9,
]
VALUES += [[], {}, [1], ["x"], [[1]], {"a": 1}, [None], {"": {}}, "0" * 5000, [1, 2**50, 30]]


@dataclasses.dataclass(frozen=True)
class Container:
    """Files in a folder, how to read them, and whether other values are a failure."""

    name: str
    folder: Path
    read: Callable[[Path], object]
    strict: bool = True
    seal: Callable[[Path], None] | None = None

    @property
    def path(self) -> Path:
        return self.folder / self.name


def digest(*parts: object) -> str:
    """Return a digest of arrays, Datasets, bytes and texts."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, xr.Dataset):
            for name in sorted(map(str, part.variables)):
                values = part[name].values
                sha.update(f"{name} {part[name].dims} {values.dtype} {sorted(part[name].attrs.items())!r}".encode())
                sha.update(repr(values.tolist()).encode() if values.dtype.kind in "OT" else values.tobytes())
            attrs = {
                name: value
                for name, value in part.attrs.items()
                if name != "complete" and not name.endswith("_version")
            }
            sha.update(repr(sorted(attrs.items())).encode())
        else:
            sha.update(part if isinstance(part, bytes) else repr(part).encode())
    return sha.hexdigest()


def read_cube(path: Path) -> str:
    return digest(fc.open_carbonsense(path).load(scheduler="synchronous"))


def read_forcing(path: Path) -> str:
    return digest(fc.open_forcing(path).load(scheduler="synchronous"))


def read_maps(path: Path) -> str:
    return digest(fc.open_maps(path).load(scheduler="synchronous"))


def read_run(path: Path) -> str:
    model = fc.load_model(path)
    values = fc.predict(model, example_cube(sites=2, days=4), uncertainty=bool(model.calibrated))
    return digest(values.load(scheduler="synchronous"), json.dumps(model.spec.to_dict()))


def read_split(path: Path) -> str:
    from fluxcube.samples.partition import Split

    return digest(Split.load(path).to_dict())


def read_ledger(path: Path) -> object:
    """Return the regions that an unfinished store has; fewer of them are computed again, so only others are a fault."""
    from fluxcube.stores.ledger import done_regions

    return done_regions(path)


def read_state(path: Path) -> str:
    from fluxcube.training.state import read_request, read_weights

    weights, features, _ = read_weights(path / "state.safetensors")
    request = read_request(path / "state.safetensors")
    return digest(*(value.numpy() for _, value in sorted(weights.items())), features, request)


#: Readers that take a second: their containers get a fourth of the mutations of the others.
SLOW = (read_cube,)


def make_quick(folder: Path) -> None:
    """Write the containers that take no time, in a process of its own, since threads do not survive a fork."""
    from fluxcube.samples.partition import Split
    from fluxcube.stores.ledger import mark_done

    split = Split(train=("XX-S00", "XX-S01", "XX-S02"), val=("XX-S03",), test=("XX-S04",))
    fc.fit(example_cube(sites=8, days=5), model="sw-linear", out=folder / "linear", split=split, target="NEE")
    split.save(folder / "split.json")
    forcing = example_forcing(shape=(2, 3), days=6)
    fc.write_forcing(forcing.chunk(latitude=1, time=72), folder / "forcing.zarr")
    (folder / "ledger/ledger").mkdir(parents=True)
    mark_done(folder / "ledger", {f"{row}:{row + 4},0:{row}": row for row in range(40)})


def make_all(folder: Path) -> None:
    """Write the other containers, too."""
    from fluxcube.maps.store import write_maps
    from fluxcube.samples.partition import Split
    from fluxcube.simulation import Planet, write_raw

    make_quick(folder)
    cube, split = example_cube(sites=8, days=5), Split.load(folder / "split.json")
    options = {"split": split, "target": "NEE"}
    fc.fit(cube, model="xgboost", out=folder / "trees", config={"n_estimators": 6}, **options)
    fc.fit(cube, model="ecoperceiver", out=folder / "network", epochs=1, **options)
    fc.fit(cube, model="sw-linear", out=folder / "ensemble", seeds=2, **options)
    checkpoint.save = _stopped  # an unfinished training stays
    with contextlib.suppress(KeyboardInterrupt):
        fc.fit(cube, model="ecoperceiver", out=folder / "state", epochs=1, **options)
    forcing = fc.open_forcing(folder / "forcing.zarr")
    write_maps(fc.upscale(folder / "linear", forcing, time_chunk=48), folder / "maps.zarr", scheduler="threads")
    write_raw(Planet(seed=0, quick=True), folder / "planet")
    fc.build_carbonsense(folder / "planet/raw/towers", folder / "cube.zarr", sites=["US-Zen", "ES-Zcr", "IN-Zcr"])
    shutil.rmtree(folder / "planet")
    for store in ("cube", "maps"):
        old = Path(shutil.copytree(folder / f"{store}.zarr", folder / f"{store}-old.zarr"))
        shutil.rmtree(old / "manifest")
        meta = json.loads((old / "zarr.json").read_bytes())
        meta["attributes"].pop("store_id")
        (old / "zarr.json").write_text(json.dumps(meta))


def _stopped(*args: object) -> None:
    raise KeyboardInterrupt


def containers(folder: Path) -> list[Container]:
    """Return the containers that `make_all` wrote."""
    found = [
        Container("cube.zarr", folder, read_cube),
        Container("cube-old.zarr", folder, read_cube, strict=False),
        Container("forcing.zarr", folder, read_forcing),
        Container("maps.zarr", folder, read_maps),
        Container("maps-old.zarr", folder, read_maps, strict=False),
        Container("linear", folder, read_run),
        Container("trees", folder, read_run),
        Container("network", folder, read_run),
        Container("ensemble", folder, read_run),
        Container("trees", folder, read_run, strict=False, seal=reseal),
        Container("network", folder, read_run, strict=False, seal=reseal),
        Container("split.json", folder, read_split, strict=False),
        Container("ledger", folder, read_ledger),
        Container("state", folder, read_state),
    ]
    return [one for one in found if one.path.exists()]


def reseal(run: Path) -> None:
    """Give the JSON of a run, if it still is one, the digests of its files and a new seal, as an attacker would."""
    if not (run / "run.json").is_file():
        return
    try:
        about = json.loads((run / "run.json").read_text())
        files = {n: hashlib.sha256((run / n).read_bytes()).hexdigest() for n in about["files"] if (run / n).is_file()}
        about |= {"files": files, "digest": checkpoint._combined(files)}
        about.pop("seal", None)
        (run / "run.json").write_text(json.dumps(about | {"seal": checkpoint._seal(about)}))
    except (ValueError, TypeError, AttributeError, KeyError, OSError, RecursionError):
        return


def chosen_file(container: Container, rng: np.random.Generator) -> Path:
    """Return a file of a container: first its kind is drawn, so that chunks do not outnumber metadata."""
    if container.path.is_file():
        return container.path
    kinds: dict[str, list[Path]] = {}
    for path in sorted(p for p in container.path.rglob("*") if p.is_file()):
        inside = path.relative_to(container.path)
        kind = "chunk" if "c" in inside.parts else path.name if path.name != "zarr.json" else str(len(inside.parts))
        kinds.setdefault(kind, []).append(path)
    group = kinds[sorted(kinds)[rng.integers(len(kinds))]]
    return group[rng.integers(len(group))]


def mutated(content: bytes, name: str, rng: np.random.Generator) -> tuple[str, bytes]:
    """Return how a content is changed, and the changed content."""
    if name.endswith((".json", ".jsonl")) and rng.random() < 0.7:
        return structural(content, rng)
    if name.endswith(".safetensors") and rng.random() < 0.5:
        size = int.from_bytes(content[:8], "little")
        how, head = structural(content[8 : 8 + size], rng)
        return f"header: {how}", len(head).to_bytes(8, "little") + head + content[8 + size :]
    return bytewise(content, rng)


def structural(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """Replace, remove or nest one value of a JSON text."""
    lines = content.split(b"\n")
    at = int(rng.integers(len(lines))) if content.count(b"\n{") else None
    try:
        value = json.loads(content if at is None else lines[at])
    except ValueError:
        return bytewise(content, rng)
    keys, parent = [], value
    while isinstance(parent, dict | list) and len(parent):
        places = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
        key = places[rng.integers(len(places))]
        keys.append((parent, key))
        parent = parent[key]
        if rng.random() < 0.25:
            break
    new = VALUES[rng.integers(len(VALUES))]
    how = f"{'/'.join(str(key) for _, key in keys)} = {new!r:.40}"
    if not keys:
        value = new
    elif rng.random() < 0.15:
        how = f"without {'/'.join(str(key) for _, key in keys)}"
        del keys[-1][0][keys[-1][1]]
    else:
        keys[-1][0][keys[-1][1]] = new
    text = json.dumps(value).encode()
    if rng.random() < 0.03:
        how, text = "nested deeply", b"[" * DEEP
    if at is None:
        return how, text
    lines[at] = text
    return how, b"\n".join(lines)


def bytewise(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """Flip, set, remove, insert, zero or copy bytes."""
    out, size = bytearray(content), len(content)
    at = int(rng.integers(max(size, 1)))
    span = int(rng.integers(1, 1 + max(1, min(size // 2, 500))))
    how = int(rng.integers(8))
    if how == 0 and size:
        out[at] ^= 1 << int(rng.integers(8))
    elif how == 1 and size:
        for place in rng.integers(size, size=int(rng.integers(1, 20))):
            out[place] = int(rng.integers(256))
    elif how == 2:
        del out[at : at + span]
    elif how == 3:
        out[at:at] = rng.bytes(span)
    elif how == 4:
        out[at : at + span] = bytes(len(out[at : at + span]))
    elif how == 5:
        del out[at:]
    elif how == 6:
        out += rng.bytes(span)
    else:
        out[at : at + span] = out[:span]
    return ("flip", "set", "remove", "insert", "zero", "cut", "append", "copy")[how] + f" at {at}", bytes(out)


def damage(path: Path, rng: np.random.Generator) -> str:
    """Change one file, or put something else in its place; return how."""
    how = int(rng.integers(40))
    if how >= 5:
        text, content = mutated(path.read_bytes(), path.name, rng)
        path.write_bytes(content)
        return text
    path.unlink()
    if how == 1:
        path.mkdir()
    elif how == 2:
        path.write_bytes(b"")
    elif how == 3:
        os.mkfifo(path)
    elif how == 4:
        path.symlink_to(path.name)
    return ("removed", "a folder", "empty", "a pipe", "a link to itself")[how]


def restore(path: Path, content: bytes) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    path.write_bytes(content)


def in_child(call: Callable[[Callable[[object], None]], None], seconds: int) -> tuple[list, str]:
    """Call a function in a process of its own; return what it sent, and the signal that ended it or "".

    Parameters
    ----------
    call : callable
        Receives a function that sends a value of JSON to this process.
    seconds : int
        Time until the process is ended, counted from what it sent last.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _limited(call, writing, seconds)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        lines = stream.read().split(b"\n")[:-1]
    status = os.waitpid(pid, 0)[1]
    ended = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else ""
    return [json.loads(line) for line in lines], ended or ("" if status == 0 else "SIGABRT")


def _limited(call: Callable[[Callable[[object], None]], None], writing: int, seconds: int) -> None:
    """Call a function within limits of time and RAM, and end the process."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + RAM, used + RAM))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def send(value: object) -> None:
        signal.alarm(seconds)
        line = json.dumps(value).encode() + b"\n"
        while line:
            line = line[os.write(writing, line) :]

    signal.alarm(seconds)
    code = 1
    try:
        call(send)
        code = 0
    finally:
        os._exit(code)


def result_of(container: Container) -> tuple[str, str]:
    """Read a container; return the outcome and its text."""
    try:
        return "value", json.dumps(container.read(container.path))
    except FluxcubeError as error:
        return "error of fluxcube", f"{type(error).__name__}: {error!s:.300}"
    except BaseException as error:
        ours = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
        return "another error", f"{type(error).__name__}: {error!s:.200} at {' '.join(ours[-6:])}"


def outcome(container: Container, expected: str, found: str, text: str) -> str:
    """Return the outcome of a mutation."""
    if found != "value":
        return found
    if container.read is read_ledger:  # a region that is not recorded is computed again
        return "same values" if json.loads(text).items() <= json.loads(expected).items() else "other values"
    return "same values" if text == expected else "other values"


def expected_of(container: Container) -> str:
    """Return the values of an undamaged container, and import here what reading it imports, without its threads."""

    def call(send: Callable[[object], None]) -> None:
        result = result_of(container)
        send([*result, sorted(sys.modules)])

    found, text, modules = in_child(call, 10 * SECONDS)[0][0]
    if found != "value":
        raise RuntimeError(f"{container.name} cannot be read undamaged: {text}")
    for name in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    return text


def damage_one(container: Container, seed: int, number: int, send: Callable[[object], None]) -> None:
    """Damage a container, read it, send how it was damaged and the result, and restore it."""
    rng = np.random.default_rng((seed, number, len(container.name), container.strict))
    path = chosen_file(container, rng)
    before, about = path.read_bytes(), container.path / "run.json"
    sealed = about.read_bytes() if container.seal else b""
    how = f"{path.relative_to(container.folder)}: {damage(path, rng)}"
    if container.seal:
        container.seal(container.path)
    send(["begin", number, how])
    loading._loaded.clear()  # a process reads a model once
    result = result_of(container)
    restore(path, before)
    if container.seal:
        restore(about, sealed)
    send(["end", number, how, *result])


def attack(container: Container, seed: int, numbers: range) -> list[tuple[int, str, str, str]]:
    """Damage a container once for each number; return number, how, outcome and text of each."""
    expected, results, todo = expected_of(container), [], list(numbers)
    whole = container.path.rglob("*") if container.path.is_dir() else [container.path]
    files = {path: path.read_bytes() for path in whole if path.is_file()}
    while todo:
        batch = todo[:BATCH]
        sent, ended = in_child(lambda send, b=batch: [damage_one(container, seed, n, send) for n in b], SECONDS)
        for _, number, how, found, text in (one for one in sent if one[0] == "end"):
            results.append((number, how, outcome(container, expected, found, text), text))
            todo.remove(number)
        if ended:
            _, number, how, *_ = sent[-1] if sent and sent[-1][0] == "begin" else ("", todo[0], "unknown")
            results.append((number, how, "hang" if ended == "SIGALRM" else "crash", ended))
            todo.remove(number)
            for path, content in files.items():
                if not path.is_file() or path.is_symlink() or path.read_bytes() != content:
                    restore(path, content)
    return results


def failures(container: Container, results: list[tuple[int, str, str, str]]) -> list[tuple[int, str, str, str]]:
    """Return the results that must not be."""
    allowed = OUTCOMES[: 2 if container.strict else 3]
    return [one for one in results if one[2] not in allowed]


def main(seed: int = 0, count: int = 3000, only: str = "", folder: Path | None = None, *, quick: bool = False) -> int:
    """Print the table of outcomes; return the number of failures."""
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        if not (place / "ledger").exists():
            place.mkdir(exist_ok=True)
            if (found := in_child_without_limits(lambda: (make_quick if quick else make_all)(place))) != 0:
                raise SystemExit(f"the containers could not be written ({found})")
        chosen = [one for one in containers(place) if any(part in one.name for part in only.split(","))]
        shares, failed, total = [1 if one.read in SLOW else 4 for one in chosen], 0, 0
        sys.stdout.write(f"| container | {' | '.join(OUTCOMES)} | s |\n| --- |{' ---: |' * (len(OUTCOMES) + 1)}\n")
        for container, share in zip(chosen, shares, strict=True):
            start = time.monotonic()
            results = attack(container, seed, range(-(-count * share // sum(shares))))
            total += len(results)
            counts = Counter(one[2] for one in results)
            name = container.name + (" with a new seal" if container.seal else "")
            cells = " | ".join(str(counts[o]) for o in OUTCOMES)
            sys.stdout.write(f"| {name} | {cells} | {time.monotonic() - start:.0f} |\n")
            for number, how, what, text in failures(container, results):
                failed += 1
                sys.stdout.write(f"  {number} {how}: {what}: {text:.300}\n")
            sys.stdout.flush()
    sys.stdout.write(f"seed {seed}, {total} mutations, {failed} failures\n")
    return failed


def in_child_without_limits(call: Callable[[], object]) -> int:
    """Call a function in a process of its own; return its exit status."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            call()
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    return os.waitpid(pid, 0)[1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--only", default="", help="parts of names of containers, separated by commas")
    parser.add_argument("--folder", type=Path, help="folder that keeps the containers")
    parser.add_argument("--quick", action="store_true", help="only containers that are written at once")
    options = parser.parse_args()
    sys.exit(bool(main(options.seed, options.count, options.only, options.folder, quick=options.quick)))
