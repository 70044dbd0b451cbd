"""Lock a path against other writers: threads, processes, containers, and other machines that share the disk.

A writer of ``NAME`` holds the file ``.NAME.lock`` beside it. The file is locked by the operating system (``flock``),
which releases the lock when the process ends in any way. On the same machine, and in its containers, that lock alone
decides. Another machine may not see it: the file therefore names its owner, who touches it every few seconds. A lock
of another machine counts as left behind when it was not touched for a minute. Where the disk has no locks, the owner's
process id and its start decide on the same machine.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

from fluxcube.errors import StoreError

_fcntl: ModuleType | None
try:
    import fcntl as _fcntl
except ImportError:  # not on this system
    _fcntl = None

_log = logging.getLogger(__name__)
#: Seconds between two touches of a lock, and without a touch after which a lock of another machine is left behind.
HEARTBEAT, SILENCE = 10.0, 60.0
#: Seconds after which a lock that the system does not keep is read again: another machine may have written it as well.
_RACE = 1.0
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@dataclass(frozen=True)
class Owner:
    """A process that writes.

    Attributes
    ----------
    host : str
        Name of its machine or container.
    boot : str
        Identifier of the machine's start, which its containers share; "" if the system has none.
    pid, start : int
        Number of the process, and the time of its start in ticks of the system's clock; 0 if unknown.
    nonce : str
        Distinguishes this lock from others of the process.
    """

    host: str
    boot: str
    pid: int
    start: int
    nonce: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def this_process() -> Owner:
    """Return this process as the owner of a new lock."""
    return Owner(socket.gethostname(), _boot(), os.getpid(), _start(os.getpid()), os.urandom(8).hex())


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _start(pid: int) -> int:
    """Return when a process started, in ticks; 0 if there is none with this number, or the system has no list."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


class WriterLock:
    """A lock that this process holds."""

    def __init__(self, path: Path, file: Path, handle: int, owner: Owner) -> None:
        self.path, self._file, self._handle, self.owner = path, file, handle, owner
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="fluxcube-lock", daemon=True)
        self._heart.start()

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT):
            with contextlib.suppress(OSError):
                os.utime(self._handle if os.utime in os.supports_fd else self._file)

    def check(self) -> None:
        """Raise a StoreError if another process took over the lock, as it may while a machine sleeps."""
        if _read_owner(self._file) != self.owner:
            raise StoreError(f"{self.path}: another process took it over while this one was stopped; run again.")

    def release(self) -> None:
        """Remove the lock, unless another process took it over."""
        self._ended.set()
        with contextlib.suppress(OSError):
            if _read_owner(self._file) == self.owner:
                self._file.unlink()
        os.close(self._handle)


def lock_file(path: Path) -> Path:
    """Return the file that is locked while a path is written."""
    return path.with_name(f".{path.name}.lock")


@contextmanager
def writer_lock(path: str | os.PathLike) -> Iterator[WriterLock]:
    """Lock a path against other writers until the block ends; the system releases the lock with the process.

    Parameters
    ----------
    path : path
        What is written; it need not exist, its parent folder must.

    Yields
    ------
    WriterLock

    Raises
    ------
    StoreError
        If another process or thread is writing it, or the lock cannot be written.
    """
    path = Path(path).absolute()
    file = lock_file(path)
    try:
        handle, alone = _acquired(path, file)
    except PermissionError as error:
        raise StoreError(f"cannot write {path} ({error.strerror}): write to a folder of your own.") from error
    except FileNotFoundError as error:
        raise StoreError(f"cannot write {path}: the folder {path.parent} does not exist; make it first.") from error
    owner = this_process()
    try:
        os.ftruncate(handle, 0)
        content = json.dumps(asdict(owner)).encode()
        if os.pwrite(handle, content, 0) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        with contextlib.suppress(OSError):
            file.unlink()
        os.close(handle)
        raise StoreError(
            f"cannot write {path} ({error.strerror}): make room there, or write to another disk."
        ) from error
    lock = WriterLock(path, file, handle, owner)
    try:
        if not alone:
            time.sleep(_RACE)
            lock.check()
        yield lock
    finally:
        lock.release()


def _acquired(path: Path, file: Path) -> tuple[int, bool]:
    """Return the handle of a lock file that no other process holds, and whether the system alone decided that."""
    while True:
        handle, acquired = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644), False
        try:
            locked, holder = _flock(handle), _read_owner(file)
            if locked is False or (holder and _lives(holder, file, by_system=locked is True)):
                raise StoreError(_refusal(path, file, holder))
            acquired = _is_same(handle, file)  # a process that released the lock may have removed the file meanwhile
            if acquired:
                if holder:
                    _log.info("%s: taking over the lock of %s, which has ended", path, holder)
                return handle, locked is True and (holder is None or holder.boot == this_process().boot)
        finally:
            if not acquired:
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


def _lives(owner: Owner, file: Path, *, by_system: bool) -> bool:
    """Return whether the owner of a lock that the system let this process have may still be writing."""
    here = this_process()
    if owner.boot and owner.boot == here.boot:
        if by_system:  # one kernel: its lock is enough, also between containers
            return False
        if owner.host == here.host:  # otherwise it may be a process of another container, with its own numbers
            return owner.start != 0 and _start(owner.pid) == owner.start
    return _silent_for(file) < SILENCE


def _silent_for(file: Path) -> float:
    """Return how long ago a lock was touched, in seconds of the clock of its disk."""
    probe = file.with_name(f"{file.name}.{os.getpid()}.clock")
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
        return now - file.stat().st_mtime
    except OSError:
        return max(0.0, time.time() - file.stat().st_mtime)


def _refusal(path: Path, file: Path, holder: Owner | None) -> str:
    who = f"another run ({holder})" if holder else "another run"
    here = this_process()
    wait = "wait until it has ended, or stop it"
    if holder and holder.boot != here.boot:
        wait += (
            f"; it was active {_silent_for(file):.0f} s ago, and {SILENCE:.0f} s without a sign of life free the lock. "
            f"If it was killed, {file.name} may be removed"
        )
    return f"{path}: {who} is writing it; {wait}."


def _read_owner(file: Path) -> Owner | None:
    """Return the owner that a lock file names; None if it names none."""
    try:
        found = json.loads(file.read_bytes()[:4096])
        return Owner(
            str(found["host"]), str(found["boot"]), int(found["pid"]), int(found["start"]), str(found["nonce"])
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _is_same(handle: int, file: Path) -> bool:
    """Return whether a path still leads to an open file."""
    try:
        state, found = os.fstat(handle), os.stat(file, follow_symlinks=False)
    except OSError:
        return False
    return (state.st_dev, state.st_ino) == (found.st_dev, found.st_ino)
