"""A new store takes an old one's place in one step, and what killed runs left beside it is cleared away.

A store is made in a folder beside its place, named after the process that makes it: ``.NAME.building-PID``. While the
two are exchanged, the old one is ``.NAME.replaced-PID``.
"""

from __future__ import annotations

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
    """Return where this process makes the store of a path."""
    return path.with_name(f".{path.name}.building-{os.getpid()}")


@contextmanager
def alone(path: str | os.PathLike) -> Iterator[None]:
    """Let no other run change a store in the meantime, from when it is read until it is replaced.

    What a killed run left of the store is cleared first; a store that it had moved away comes back.

    Raises
    ------
    StoreError
        If another run, or another thread of this one, writes the store.
    """
    path = Path(path).absolute()
    clear_leftovers(path)
    mine = building_place(path)
    with _guard:
        if path in _claimed:
            raise StoreError(f"{path}: another thread is writing it; one at a time.")
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


def moved_away(path: Path) -> str:
    """Say where a store is that a run, killed between two renames, left beside its place."""
    left = sorted(path.absolute().parent.glob(f".{path.name}.replaced-*")) if path.absolute().parent.is_dir() else []
    return f"a killed run left it as {left[0].name}: rename it, or run what was killed again." if left else ""


def take_place(building: Path, path: Path) -> None:
    """Move a finished store to its place, and what was there away."""
    old = path.with_name(f".{path.name}.replaced-{os.getpid()}")
    if path.exists():
        os.replace(path, old)
    os.replace(building, path)
    shutil.rmtree(old, ignore_errors=True)


def clear_leftovers(path: Path) -> None:
    """Remove what killed runs left of the same store; a store that one had moved away comes back."""
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
    """Return whether another process of that number runs."""
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
    """Let a file stand in another place, too: by a hard link, or by a copy where there are none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # no hard links here, or too many of one file
        shutil.copyfile(source, target)
