"""The process that owns a lock: how a lock file names it, and whether it still runs."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from fluxcube.errors import printable

#: Maximum number of bytes of a lock file that are read; a whole one has about 250.
_LONGEST = 4096


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
    space : str
        Identifier of the list of processes in which `pid` counts: containers have lists of their own.
    disk : int
        Number of the mounted disk on which the lock is; 0 if unknown. The system's locks exclude each other on one
        mounted disk only: if one folder is mounted twice (FUSE), each mount has its own.
    """

    host: str
    boot: str
    pid: int
    start: int
    nonce: str
    space: str = ""
    disk: int = 0

    def __str__(self) -> str:
        return f"process {self.pid} on {printable(self.host)}"


def this_process(disk: int = 0) -> Owner:
    """Return this process as the owner of a new lock on a mounted disk."""
    pid = os.getpid()
    return Owner(socket.gethostname(), _boot(), pid, start_of(pid), os.urandom(8).hex(), _space(), disk)


def read_owner(file: Path | int) -> Owner | None:
    """Return the owner that a lock file, or an open one, names; None if it names none or cannot be read."""
    try:
        handle = file if isinstance(file, int) else os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            return parse_owner(os.pread(handle, _LONGEST, 0))
        finally:
            if handle is not file:
                os.close(handle)
    except OSError:
        return None


def parse_owner(content: bytes) -> Owner | None:
    """Return the owner that the content of a lock names; None if it names none."""
    try:
        found = json.loads(content)
        host, boot, nonce = (str(found[key]) for key in ("host", "boot", "nonce"))
        space, disk = str(found.get("space", "")), int(found.get("disk", 0))
        return Owner(host, boot, int(found["pid"]), int(found["start"]), nonce, space, disk)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def is_running(owner: Owner, *, system_decides: bool) -> bool | None:
    """Return whether the owner of a lock file still runs; None if that cannot be known here.

    Parameters
    ----------
    owner : Owner
        Owner that the lock file names.
    system_decides : bool
        Whether the system gave the lock of the file to this process, and its locks exclude each other: then an owner on
        this machine has ended, or it would still have the lock.
    """
    here = this_process()
    if (owner.boot, "" if owner.boot else owner.host) != (here.boot, "" if here.boot else here.host):
        return None  # another machine
    if system_decides:
        return False
    if owner.space != here.space or not owner.start:
        return None  # a container with its own numbers of processes, or a system without a list of them
    return start_of(owner.pid) == owner.start


def start_of(pid: int) -> int:
    """Return when a process started, in ticks; 0 if there is none with this number, or the system has no list."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _space() -> str:
    try:
        return str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        return ""
