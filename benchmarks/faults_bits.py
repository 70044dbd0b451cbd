"""Flipped bits in files of stores and checkpoints: each must be an error that names the place, or change nothing."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path

import dask
import numpy as np
import xarray as xr
from tower_files import write_raw
from training_helpers import FAST, TINY, small_cube

import fluxcube as fc
from fluxcube.errors import FluxcubeError
from fluxcube.models import checkpoint
from fluxcube.simulation.example import example_forcing, example_maps
from fluxcube.stores.manifest import verify

#: What libraries below raise; the message does not name the store, which counts against it.
UNNAMED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, OSError, MemoryError)
#: Kinds of places, and how each is read whole.
Reader = Callable[[Path], object]


def values(ds: xr.Dataset) -> object:
    """Return everything of a Dataset that a user could see."""
    with dask.config.set(scheduler="synchronous"):
        ds = ds.load()
    arrays = {
        str(name): (v.dims, v.dtype, v.attrs, v.values.tobytes() if v.dtype != object else v.values.tolist())
        for name, v in ds.variables.items()
    }
    return arrays, ds.attrs


def model(folder: Path) -> object:
    """Return the weights and the metadata of a checkpoint, and its area of applicability."""
    found, about = checkpoint.load(folder)
    part = checkpoint.applicability(folder)
    return found.weights(), about, part and part.to_bytes()


def make(folder: Path, only: Collection[str] = ()) -> dict[str, tuple[Path, Reader]]:
    """Write one place of each kind."""
    write_raw(folder / "raw", days=2)
    forcing = example_forcing(shape=(2, 2), days=3).chunk(latitude=1, time=24)
    maps = example_maps(shape=(2, 2), days=4).chunk(time=24)
    cube = small_cube()

    def fit(name: str, **options: object) -> None:
        fc.fit(cube, target="NEE", out=folder / name, **options)

    kinds: dict[str, tuple[Callable[[], object], Reader]] = {
        "cube.zarr": (
            lambda: fc.build_carbonsense(folder / "raw", folder / "cube.zarr"),
            lambda path: values(fc.open_carbonsense(path)),
        ),
        "daily.zarr": (
            lambda: fc.build_carbonsense(folder / "raw", folder / "daily.zarr", resolution="daily"),
            lambda path: values(fc.open_carbonsense(path)),
        ),
        "forcing.zarr": (
            lambda: fc.write_forcing(forcing, folder / "forcing.zarr", workers=1),
            lambda path: values(fc.open_forcing(path)),
        ),
        "maps.zarr": (
            lambda: fc.write_maps(maps, folder / "maps.zarr", workers=1, scheduler="threads"),
            lambda path: values(fc.open_maps(path)),
        ),
        "eco": (lambda: fit("eco", model="ecoperceiver", config=TINY, training=FAST), model),
        "xgb": (lambda: fit("xgb", model="xgboost"), model),
        "linear": (lambda: fit("linear", model="sw-linear"), model),
    }
    chosen = {name: kind for name, kind in kinds.items() if name in only or not only}
    for write, _ in chosen.values():
        write()
    return {name: (folder / name, read) for name, (_, read) in chosen.items()}


def flip(file: Path, rng: np.random.Generator) -> bytes:
    """Flip one bit of a file; return its content before."""
    content = file.read_bytes()
    changed = bytearray(content)
    changed[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    file.write_bytes(changed)
    return content


def outcome(path: Path, read: Reader, whole: object) -> str:
    """Return what reading a place with a flipped bit gave."""
    try:
        found = read(path)
    except FluxcubeError as error:
        return "named" if path.name in str(error) else f"without the name: {error}"
    except UNNAMED as error:
        return f"unnamed {type(error).__name__}: {error}"
    return "no effect" if found == whole else "other values"


def main(seed: int, count: int, only: Collection[str] = ()) -> list[tuple[str, int, int, str]]:
    rng, rows = np.random.default_rng(seed), []
    with tempfile.TemporaryDirectory() as folder:
        places = make(Path(folder), only)
        for at, (name, (path, read)) in enumerate(places.items()):
            whole, seen, examples = read(path), Counter(), []
            files = sorted(file for file in path.rglob("*") if file.is_file() and file.stat().st_size)
            weights = np.array([file.stat().st_size for file in files], float)
            tried = count // len(places) + (at < count % len(places))
            for number in range(tried):  # half of them by size, so that large files and small ones are both met
                file = files[rng.choice(len(files), p=weights / weights.sum() if number % 2 else None)]
                before = flip(file, rng)
                found = outcome(path, read, whole)
                if found in ("no effect",) and (path / "manifest").is_dir() and "ledger" not in file.parts:
                    found = "no effect, verified" if verified(path) else found
                file.write_bytes(before)
                kind = found.partition(":")[0]
                seen[kind] += 1
                if kind not in ("named", "no effect", "no effect, verified"):
                    examples.append(f"{file.relative_to(path)}: {found}"[:160])
            held = sum(seen[kind] for kind in ("named", "no effect", "no effect, verified"))
            notes = ", ".join(f"{n} {kind}" for kind, n in seen.most_common())
            rows.append(
                (
                    f"flipped bit, {name}",
                    tried,
                    held,
                    notes + (f"; e.g. {json.dumps(examples[:3])}" if examples else ""),
                )
            )
    return rows


def verified(path: Path) -> bool:
    """Return whether `inspect --verify` reports a fault."""
    try:
        return bool(verify(path).faults)
    except (FluxcubeError, *UNNAMED):
        return True
