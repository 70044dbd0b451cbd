"""Lock a path against other writers: threads, processes, containers, and other machines that share the disk.

A writer of ``NAME`` holds the file ``.NAME.lock`` beside it, which names its owner. It appears with this content in one
step (a hard link), so that one of several writers that start together gets it on any disk. The file is also locked by
the operating system (``flock``), which releases the lock when the process ends in any way: on the same machine, and in
its containers, that decides whether the owner of an old lock file has ended. Another machine may not see such a lock.
The owner therefore touches the file every few seconds, and a lock of another machine that was not touched for a minute
is watched, then taken over. Where the disk has no locks, the number of the process and its start decide on the same
machine.

A writer that was stopped for longer may lose its lock to another one. It notices that before it publishes anything:
whatever writes for others to read calls `check_held`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

from fluxcube.errors import StoreError
from fluxcube.stores.owners import Owner, is_running, read_owner, this_process

_fcntl: ModuleType | None
try:
    import fcntl as _fcntl
except ImportError:  # not on this system
    _fcntl = None

_log = logging.getLogger(__name__)
#: Seconds between two touches of a lock, and without a touch after which a lock of another machine is left behind.
HEARTBEAT, SILENCE = 10.0, 60.0
#: Number of heartbeats for which such a lock is watched before it is taken over: clocks of two machines may differ.
_WATCHED = 2.5
#: Seconds after which a lock is read again that another machine may have taken over at the same time.
_RACE = 1.0
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EMLINK, errno.EXDEV, errno.EINVAL)
#: First byte of a lock file: of one that a kill or a crash of the machine left, there may be no content, or zeros.
_BEGIN = (b"{", b"", b"\0")
#: How often a lock file is read before it counts as lost, since a shared disk may fail for a moment, and seconds apart.
_READS, _APART = 3, 0.2


class InUseError(StoreError):
    """Another process is writing what this one was to write."""


class WriterLock:
    """A lock that this process holds.

    Attributes
    ----------
    path : Path
        What is written.
    owner : Owner
        This process, as the lock file names it.
    """

    def __init__(self, path: Path, file: Path, handle: int, owner: Owner) -> None:
        self.path, self.owner = path, owner
        self._file = file
        self._handle: int | None = handle
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="fluxcube-lock", daemon=True)
        self._heart.start()

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT):
            with contextlib.suppress(OSError):
                # The handle, not the path, which may lead to the lock of another process by now.
                os.utime(self._handle if self._handle is not None and os.utime in os.supports_fd else self._file)

    def is_held(self) -> bool:
        """Return whether the lock file still names this owner."""
        return _names(self._file, self.owner)

    def check(self) -> None:
        """Raise a StoreError if another process took over the lock, as it may while a machine sleeps."""
        if not self.is_held():
            raise self.lost()

    def lost(self) -> StoreError:
        """Return the error for a lock that this process lost."""
        return _lost(self.path, self._file)

    def release(self) -> None:
        """Remove the lock, unless another process took it over."""
        self._ended.set()
        with contextlib.suppress(OSError):
            if os.getpid() == self.owner.pid and read_owner(self._file) == self.owner:
                self._file.unlink()
        self.close()

    def close(self) -> None:
        """Close the handle of the lock file; the system releases its lock when no process has it open."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)


#: Locks of this process by the path that is written. Like its open files, they belong to the process as a whole: what
#: writes a file of a store, and a fork, must find them.
_HELD: dict[Path, WriterLock] = {}


def _close_after_fork() -> None:
    """Close the copies of lock files that a forked process has: with them, it would keep the locks of a killed one."""
    for lock in _HELD.values():
        with contextlib.suppress(OSError):
            lock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_after_fork)


def lock_file(path: Path) -> Path:
    """Return the file that is locked while a path is written."""
    return path.with_name(f".{path.name}.lock")


def owner_of(path: str | os.PathLike) -> Owner | None:
    """Return this process as the owner of the lock of a path, for `check_owner` elsewhere; None if it has none."""
    lock = _HELD.get(_real(path))
    return lock.owner if lock is not None else None


def check_owner(path: str | os.PathLike, owner: Owner) -> None:
    """Raise a StoreError if a path is not locked by an owner any more, on whose behalf this process writes."""
    file = lock_file(_real(path))
    if not _names(file, owner):
        raise _lost(Path(path), file)


def check_held(path: str | os.PathLike) -> None:
    """Raise a StoreError if this process locked a path, or a folder that contains it, and lost that lock.

    Called before each step that others can read: a store moved to its path, an entry in a ledger, a training state.

    Parameters
    ----------
    path : path
        What is about to be written; nothing is checked if this process holds no lock of it.
    """
    if not _HELD:
        return
    place = _real(path)
    for folder in (place, *place.parents):
        lock = _HELD.get(folder)
        if lock is not None:
            lock.check()


@contextmanager
def writer_lock(path: str | os.PathLike, *, file: Path | None = None) -> Iterator[WriterLock]:
    """Lock a path against other writers until the block ends; the system releases the lock with the process.

    Parameters
    ----------
    path : path
        What is written; it need not exist, its parent folder must. A symbolic link locks what it leads to.
    file : Path, optional
        Lock file, if it is not to be ``.NAME.lock`` beside the path.

    Yields
    ------
    WriterLock

    Raises
    ------
    InUseError
        If another process or thread is writing it.
    StoreError
        If the lock cannot be written; if the block raises an error after another process took over the lock, which is
        then the cause.
    """
    path = _real(path)
    file = file or lock_file(path)
    try:
        handle, owner, alone = _acquire(path, file)
    except StoreError:
        raise
    except OSError as error:
        raise _unwritable(path, error) from error
    lock = _HELD[path] = WriterLock(path, file, handle, owner)
    try:
        if not alone:
            time.sleep(_RACE)
            lock.check()
        yield lock
    except (OSError, ValueError, LookupError, RuntimeError) as error:
        if lock.is_held():
            raise
        raise lock.lost() from error
    finally:
        _HELD.pop(path, None)
        lock.release()


def _real(path: str | os.PathLike) -> Path:
    return Path(os.path.realpath(path))


def _unwritable(path: Path, error: OSError) -> StoreError:
    if isinstance(error, FileNotFoundError) and not path.parent.is_dir():
        return StoreError(f"cannot write {path}: the folder {path.parent} does not exist; make it first.")
    if isinstance(error, FileNotFoundError):
        return StoreError(f"cannot lock {path}: its lock was removed while it was written; run again.")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return StoreError(f"cannot write {path} ({error.strerror}): write to a folder of your own.")
    if error.errno == errno.ENAMETOOLONG:
        return StoreError(f"cannot write {path} ({error.strerror}): choose a shorter name.")
    return StoreError(f"cannot write {path} ({error.strerror}): make room there, or write to another disk.")


def _names(file: Path, owner: Owner) -> bool:
    """Return whether a lock file names an owner; read again if it names none, which a shared disk may cause."""
    for left in reversed(range(_READS)):
        found = read_owner(file)
        if found is not None or not left:
            return found == owner
        time.sleep(_APART)
    return False


def _lost(path: Path, file: Path) -> StoreError:
    if (found := read_owner(file)) is not None:
        return StoreError(f"{path}: another run ({found}) took it over while this one was stopped; run again.")
    return StoreError(
        f"{path}: its lock {file.name} was removed, and another run may have written it since; run again."
    )


def _acquire(path: Path, file: Path) -> tuple[int, Owner, bool]:
    """Return an open lock file of this process, its owner, and whether no other machine can have got it as well."""
    own = file.with_name(f"{file.name}.{os.urandom(8).hex()}")
    handle = os.open(own, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    alone = None
    try:
        owner = this_process(os.fstat(handle).st_dev)
        content = json.dumps(asdict(owner), separators=(",", ":")).encode()
        if os.pwrite(handle, content, 0) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(handle)  # other machines see a name before its content otherwise
        _flock(handle)
        while alone is None:
            alone = _create(own, file, handle)
            if alone is None:
                alone = _take_over(path, own, file)
        _clear_unnamed(file)
        return handle, owner, alone
    finally:
        if alone is None:
            os.close(handle)
        own.unlink(missing_ok=True)


def _create(own: Path, file: Path, handle: int) -> bool | None:
    """Give a new lock file its name; return whether no other process can have done so, None if the name is taken."""
    try:
        os.link(own, file)
    except FileExistsError:
        return True if _is_same(handle, file) else None  # an answer that was lost on the way, or another's file
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    else:
        return True
    try:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644))
    except FileExistsError:
        return None
    os.replace(own, file)
    return False


def _clear_unnamed(file: Path) -> None:
    """Remove lock files of processes that were killed before theirs got its name."""
    pattern = re.compile(rf"{re.escape(file.name)}\.[0-9a-f]{{16}}")
    for entry in [entry for entry in file.parent.iterdir() if pattern.fullmatch(entry.name)]:
        with contextlib.suppress(OSError):
            handle = _open_lock(entry)
            try:
                owner, ours = read_owner(handle), _flock(handle) is True
                system_decides = ours and owner is not None and _on_its_disk(owner, handle)
                running = owner and is_running(owner, system_decides=system_decides)
                if running is False or _silent_for(file, handle) > SILENCE:
                    entry.unlink()
            finally:
                os.close(handle)


def _on_its_disk(owner: Owner, handle: int) -> bool:
    return owner.disk in (0, os.fstat(handle).st_dev)


def _take_over(path: Path, own: Path, file: Path) -> bool | None:
    """Replace the lock file of a process that has ended; return as `_create` does, None if it is gone by now.

    Raises
    ------
    InUseError
        If its owner may still be writing.
    """
    try:
        old = _open_lock(file)
    except FileNotFoundError:
        return None
    try:
        locked, holder = _flock(old), read_owner(old)
        if locked is False:
            raise InUseError(_refusal(path, file, holder, old))
        system_decides = locked is True and (holder is None or _on_its_disk(holder, old))
        certain = holder is None and system_decides and _silent_for(file, old) > SILENCE
        if holder is not None:
            certain = is_running(holder, system_decides=system_decides) is False and system_decides
            if not certain and not _has_ended(path, file, old, holder, system_decides=system_decides):
                raise InUseError(_refusal(path, file, holder, old))
        if not _is_same(old, file):
            return None
        if holder is not None:
            _log.info("%s: taking over the lock of %s, which has ended", path, holder)
        os.replace(own, file)
        return certain
    finally:
        os.close(old)


def _open_lock(file: Path) -> int:
    """Open an existing lock file, also that of another user, which can only be read."""
    flags = os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        handle = os.open(file, os.O_RDWR | flags)
    except PermissionError:
        handle = os.open(file, os.O_RDONLY | flags)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise _foreign(file) from error
        raise
    if stat.S_ISREG(os.fstat(handle).st_mode) and os.pread(handle, 1, 0) in _BEGIN:
        return handle
    os.close(handle)
    raise _foreign(file)


def _foreign(file: Path) -> StoreError:
    return StoreError(
        f"{file}: expected a lock of fluxcube, found something else, which is not replaced; move it away."
    )


def _has_ended(path: Path, file: Path, old: int, holder: Owner, *, system_decides: bool) -> bool:
    """Return whether the owner of a lock that the system's lock alone does not decide about has ended.

    A lock that was not touched for a minute is watched for a while, since the clocks of two machines may differ. So is,
    for longer, one that was touched in the future.
    """
    running = is_running(holder, system_decides=system_decides)
    silent = _silent_for(file, old)
    if running is not None or -HEARTBEAT < silent < SILENCE:
        return running is False
    seconds = _WATCHED * HEARTBEAT if silent >= SILENCE else SILENCE
    _log.warning(
        "%s: its lock of %s was not touched for a minute; watching it for %.0f s before it is taken over",
        path,
        holder,
        seconds,
    )
    before, end = _seen(file), time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(min(1.0, seconds / 20))
        if _seen(file) != before:
            return False
    return True


def _seen(file: Path) -> tuple[int, int, Owner | None] | None:
    """Return what changes when an owner touches a lock, or another process takes it over; opened, it is not cached."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        state = os.fstat(handle)
        return state.st_mtime_ns, state.st_ino, read_owner(handle)
    finally:
        os.close(handle)


def _flock(handle: int) -> bool | None:
    """Return whether the system locked a file; None if it cannot lock files there."""
    if _fcntl is None:
        return None
    try:
        _fcntl.flock(handle, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _log.info("files cannot be locked there (%s): the owners that lock files name decide", error.strerror)
        return None
    return True


def _silent_for(file: Path, handle: int) -> float:
    """Return how long ago a lock was touched, in seconds of the clock of its disk."""
    probe = file.with_name(f"{file.name}.{os.urandom(8).hex()}")
    try:
        probe.touch()
        now = probe.stat().st_mtime
    except OSError:
        now = time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return now - os.fstat(handle).st_mtime


def _refusal(path: Path, file: Path, holder: Owner | None, handle: int) -> str:
    who = f"another run ({holder})" if holder else "another run"
    here = this_process()
    wait = "wait until it has ended, or stop it"
    if holder and (holder.boot != here.boot or holder.space != here.space):
        wait += (
            f"; it was active {max(_silent_for(file, handle), 0):.0f} s ago, and {SILENCE:.0f} s without a sign of "
            f"life free the lock. If it was killed, {file.name} may be removed"
        )
    return f"{path}: {who} is writing it; {wait}."


def _is_same(handle: int, file: Path) -> bool:
    """Return whether a path still leads to an open file."""
    try:
        state, found = os.fstat(handle), os.stat(file, follow_symlinks=False)
    except OSError:
        return False
    return (state.st_dev, state.st_ino) == (found.st_dev, found.st_ino)
