"""The life of a store on a disk: built beside its place, finished, replaced, removed, by the holder of its lock."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fluxcube.errors import StoreError, overwrite_option
from fluxcube.stores.files import disk_errors
from fluxcube.stores.lock import WriterLock, check_held, writer_lock
from fluxcube.stores.manifest import LEDGER, STORE_ID, foreign_files, write_manifest
from fluxcube.stores.reading import is_url, open_group
from fluxcube.stores.states import keep_state
from fluxcube.stores.swap import building_place, clear_leftovers, place_store, replace_store

_SPILL = ".parts"
#: NumPy parses a header with `ast`, whose counter of levels Python 3.11 shares between threads (SystemError).
_PARSING = threading.Lock()


@contextmanager
def store_lock(path: str | os.PathLike, *, parents: bool = False) -> Iterator[WriterLock]:
    """Lock the path of a store against other writers, and remove what killed ones left there.

    Parameters
    ----------
    path : path
        The store, which need not exist.
    parents : bool
        Create its parent folders; by default they must exist.

    Raises
    ------
    StoreError
        If another process or thread is writing it, it is a URL, or its parent folder does not exist; if the disk is
        full or may not be written, also while the block writes.
    """
    if is_url(path):
        raise StoreError(f"{path}: stores are written to a disk; write there, then copy the folder to its bucket.")
    with disk_errors(path):
        if parents:
            Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
        with writer_lock(path) as lock:
            clear_leftovers(Path(path))
            yield lock


@contextmanager
def staging(path: str | os.PathLike, *, overwrite: bool = False, keep: bool = False) -> Iterator[Path]:
    """Yield a folder beside `path` to build a store in, and move it to `path` when the block ends without an error.

    The caller holds the lock of `path` (`store_lock`).

    Parameters
    ----------
    path : path
        Final path of the store.
    overwrite : bool
        Replace a store of fluxcube that exists there. It stays until the new one is complete.
    keep : bool
        Keep the store that is replaced, as a state of its own (`fluxcube.stores.states`).

    Yields
    ------
    Path
        For `create` and `write_region`. It is removed if the block raises; a killed process leaves it, and the next
        build of the same store removes it.

    Raises
    ------
    StoreError
        If `path` exists and `overwrite` is not set, or fluxcube did not write what exists there; also if that is so
        when the block ends: what appeared meanwhile stays. If the disk is full.
    """
    path = Path(path).absolute()
    check_target(path, overwrite=overwrite)
    building = building_place(path)
    try:
        with disk_errors(path):
            yield building
            finish(building)
            check_target(path, overwrite=overwrite)
            if path.exists():
                if keep:
                    keep_state(path)
                replace_store(building, path)
            else:
                place_store(building, path)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def finish(
    path: str | os.PathLike,
    attrs: Mapping[str, object] | None = None,
    *,
    known: Mapping[str, tuple[int, str]] | None = None,
) -> None:
    """Mark a store as complete, so that it opens, and add `attrs` to its attributes.

    The mark is True, unless `attrs` contains another one: 1 can be an attribute of a NetCDF file, too.
    The manifest is written, and the identifier of the content becomes the attribute ``store_id``
    (`fluxcube.stores.manifest`). Temporary files are removed: arrays that `spill` wrote, and shards that killed
    processes did not finish. `known` is the size and digest of files that lie elsewhere, in a bucket. StoreError if
    this process lost the lock of the store.
    """
    check_held(path)
    shutil.rmtree(Path(path) / _SPILL, ignore_errors=True)
    if (Path(path) / LEDGER).is_dir():
        for part in Path(path).glob("*/c/**/*.partial"):
            part.unlink(missing_ok=True)
    group = open_group(Path(path), "r+")
    final = {"complete": True, **(attrs or {})}
    store_id = write_manifest(Path(path), {**group.attrs, **final}, known)
    check_held(path)
    group.update_attributes({**final, STORE_ID: store_id})


def remove(path: str | os.PathLike) -> None:
    """Remove a store after renaming it, so that a kill leaves no half of it at its path."""
    path = Path(path).absolute()
    check_held(path)
    _check_only_ours(path)
    renamed = building_place(path)
    shutil.rmtree(renamed, ignore_errors=True)
    os.replace(path, renamed)
    shutil.rmtree(renamed)


def spill(path: str | os.PathLike, key: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays to a temporary file of a store that is being built; `unspill` reads them, `finish` removes them.

    Parameters
    ----------
    path : path
        The store, which need not have been created yet.
    key : str
        Name of these arrays.
    arrays : mapping of str to numpy.ndarray
        Numbers or fixed-width strings.

    Raises
    ------
    StoreError
        If the key contains a path, so that the file would lie outside the store.
    """
    file = _spill_file(path, key)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, allow_pickle=False, **arrays)


def unspill(path: str | os.PathLike, key: str) -> dict[str, np.ndarray]:
    """Return the arrays that `spill` wrote."""
    with _PARSING, np.load(_spill_file(path, key), allow_pickle=False) as arrays:
        return dict(arrays)


def spilled(path: str | os.PathLike, start: str) -> list[str]:
    """Return the keys of `spill` that begin with `start`, in order; `start` contains the first dot of these keys."""
    names = (entry.name.removesuffix(".npz") for entry in _spill_file(path, start).parent.glob("*.npz"))
    return sorted(name for name in names if name.startswith(start))


def _spill_file(path: str | os.PathLike, key: str) -> Path:
    """Return the temporary file of a key, in a folder for its text before the first dot.

    Each site thus has a folder of its own: `spilled` would otherwise list the files of all sites for each site.
    """
    if not key or "/" in key or "\\" in key or "\0" in key:
        raise StoreError(f"{path}: expected a name of arrays without a path, found {key!r}.")
    return Path(path) / _SPILL / key.partition(".")[0] / f"{key}.npz"


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse to write where something exists (StoreError), unless it is a store of fluxcube that may be replaced."""
    if not path.exists() and not path.is_symlink():
        return
    if not overwrite:
        raise StoreError(f"{path} exists: pass {overwrite_option()} to replace it, or choose another path.")
    if path.is_symlink():
        real = os.path.realpath(path)
        raise StoreError(f"{path} is a symbolic link, and is not replaced: pass the path that it leads to ({real}).")
    if not (path / "zarr.json").is_file() or "fluxcube_version" not in open_group(path, "r").attrs:
        raise StoreError(f"{path} was not written by fluxcube, and is not replaced: choose another path.")
    _check_only_ours(path)


def _check_only_ours(path: Path) -> None:
    """Raise a StoreError if a store contains files of others, which would be removed with it."""
    if others := foreign_files(path):
        raise StoreError(
            f"{path} contains files that fluxcube did not write ({', '.join(others[:3])}), and is not replaced: "
            "move them away, or choose another path."
        )
