"""Replace an old store with a new one in one step, and remove what killed processes left beside it.

A store is built in a folder beside its final path, named after the process that builds it: ``.NAME.building-PID``.
While the two are exchanged, the old one is ``.NAME.replaced-PID``.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fluxcube.errors import StoreError

_log = logging.getLogger(__name__)
_guard = threading.Lock()
_claimed: set[Path] = set()


def building_place(path: Path) -> Path:
    """Return the folder in which this process builds the store of a path."""
    return path.with_name(f".{path.name}.building-{os.getpid()}")


def not_created(path: Path, error: OSError) -> StoreError:
    """Return the error for a store that could not be moved to its path: another run was faster, or the disk is full."""
    if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and path.exists():
        return StoreError(f"{path}: another run is writing it; wait until it has ended, or stop it.")
    return unwritable(path, error)


def unwritable(path: Path, error: Exception) -> StoreError:
    """Return the error for a store or a file that the disk does not accept."""
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return StoreError(f"cannot write {path} ({why}): make room there, or write to another disk.")


@contextmanager
def build_lock(path: str | os.PathLike) -> Iterator[None]:
    """Lock a store against other builds, from the moment it is read until it is replaced.

    Leftovers of killed runs are removed first; a store that a killed run had moved away is moved back.

    Raises
    ------
    StoreError
        If another process, or another thread of this one, is writing the store.
    """
    path = Path(path).absolute()
    clear_leftovers(path)
    mine = building_place(path)
    with _guard:
        if path in _claimed:
            raise StoreError(f"{path}: another thread is writing it; build one at a time.")
        _claimed.add(path)
    try:
        mine.mkdir(parents=True, exist_ok=True)
        others = [entry.name.rpartition("-")[2] for entry in path.parent.glob(f".{path.name}.building-*")]
        if others := sorted(set(others) - {str(os.getpid())}):
            raise StoreError(f"{path}: process {', '.join(others)} is writing it; wait until it has ended.")
        yield
    finally:
        shutil.rmtree(mine, ignore_errors=True)
        with _guard:
            _claimed.discard(path)


def describe_moved_store(path: Path) -> str:
    """Return where a killed run left the store of a path, as text for a message; "" if it left none."""
    left = sorted(path.absolute().parent.glob(f".{path.name}.replaced-*")) if path.absolute().parent.is_dir() else []
    return f"a killed run left it as {left[0].name}: rename it, or run what was killed again." if left else ""


def replace_store(building: Path, path: Path) -> None:
    """Move a finished store to its path, and remove the store that was there."""
    old = path.with_name(f".{path.name}.replaced-{os.getpid()}")
    if path.exists():
        os.replace(path, old)
    os.replace(building, path)
    shutil.rmtree(old, ignore_errors=True)


def clear_leftovers(path: Path) -> None:
    """Remove leftovers of killed runs; a store that one of them had moved away is moved back."""
    path = path.absolute()
    if not path.parent.is_dir():
        return
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(building|replaced)-(\d+)")
    for entry in sorted(path.parent.iterdir()):
        match = pattern.fullmatch(entry.name)
        if not match or _runs(int(match[2])) or (int(match[2]) == os.getpid() and path in _claimed):
            continue
        if match[1] == "replaced" and not path.exists():
            os.replace(entry, path)
            continue
        _log.info("removing %s, left by a run that was killed", entry)
        shutil.rmtree(entry, ignore_errors=True)


def _runs(pid: int) -> bool:
    """Return whether another process with this id is running."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def link_file(source: Path, target: Path) -> None:
    """Create a hard link to a file, or a copy where hard links are not possible."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # no hard links here, or too many of one file
        shutil.copyfile(source, target)
