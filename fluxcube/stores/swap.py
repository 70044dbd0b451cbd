"""Replace an old store with a new one in one step, and remove what killed processes left beside it.

A store is built in a folder beside its final path, ``.NAME.building-ID`` with a random number. While the two are
exchanged, the old one is ``.NAME.replaced-ID``. Both belong to the process that holds the lock of the path
(`fluxcube.stores.lock`), so that whoever acquires the lock finds only leftovers.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fluxcube.errors import StoreError
from fluxcube.interrupts import removed_at_end
from fluxcube.stores.lock import check_held

_log = logging.getLogger(__name__)


def building_place(path: Path) -> Path:
    """Return a new name for a folder in which the store of a path is built."""
    return removed_at_end(path.with_name(f".{path.name}.building-{os.urandom(6).hex()}"))


def not_created(path: Path, error: OSError) -> StoreError:
    """Return the error for a store that could not be moved to its path: something is there, or the disk is full."""
    if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) and path.exists():
        return StoreError(f"{path} appeared while it was being written, and is not replaced: write to another path.")
    return unwritable(path, error)


def unwritable(path: object, error: Exception) -> StoreError:
    """Return the error for a store or a file that the disk does not accept."""
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    denied = getattr(error, "errno", None) in (errno.EACCES, errno.EPERM)
    effective = os.access in os.supports_effective_ids
    denied = denied and isinstance(path, Path) and not os.access(path.parent, os.W_OK, effective_ids=effective)
    hint = "write to a folder of your own" if denied else "make room there, or write to another disk"
    return StoreError(f"cannot write {path} ({why}): {hint}.")


def describe_moved_store(path: Path) -> str:
    """Return where a killed run left the store of a path, as text for a message; "" if it left none."""
    left = sorted(path.absolute().parent.glob(f".{path.name}.replaced-*")) if path.absolute().parent.is_dir() else []
    return f"a killed run left it as {left[0].name}: rename it, or run what was killed again." if left else ""


def place_store(building: Path, path: Path) -> None:
    """Move a finished store to its path, where nothing may be.

    Raises
    ------
    StoreError
        If something appeared there meanwhile, this process lost the lock of the path, or the disk does not accept it.
    """
    check_held(path)
    try:
        os.rename(building, path)  # a file, or a folder with files, is not replaced
    except OSError as error:
        raise not_created(path, error) from error


@contextmanager
def placing(path: Path) -> Iterator[Path]:
    """Yield a folder beside a path to build a store in, and move it to the path, where nothing may be, in one step.

    Raises
    ------
    StoreError
        If something appeared there meanwhile, or the disk does not accept the store; the folder is then removed.
    """
    building = building_place(path)
    try:
        yield building
        place_store(building, path)
    except StoreError:
        raise
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def replace_store(building: Path, path: Path) -> None:
    """Move a finished store to its path, and remove the store that was there; StoreError if the lock was lost."""
    check_held(path)
    old = path.with_name(f".{path.name}.replaced-{os.urandom(6).hex()}")
    try:
        os.rename(path, old)
    except FileNotFoundError as error:
        raise StoreError(f"{path} was moved or removed while its new version was written: run again.") from error
    try:
        place_store(building, path)
    except StoreError:
        if not path.exists():
            os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def clear_leftovers(path: Path) -> None:
    """Remove leftovers of killed runs of a path whose lock this process holds; a store that was moved is moved back."""
    path = path.absolute()
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(building|replaced)-[0-9a-f]{{1,12}}")
    for entry in sorted(path.parent.iterdir()):
        match = pattern.fullmatch(entry.name)
        if not match or entry.is_symlink() or not entry.is_dir():
            continue
        if match[1] == "replaced" and not path.exists():
            os.rename(entry, path)
            continue
        _log.info("removing %s, left by a run that was killed", entry)
        shutil.rmtree(entry, ignore_errors=True)


def link_file(source: Path, target: Path) -> None:
    """Create a hard link to a file, or a copy where hard links are not possible."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # no hard links here, or too many of one file
        shutil.copyfile(source, target)
