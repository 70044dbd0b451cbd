"""Lock a name in a bucket against other writers, on any machine, by objects that are created only if absent.

Beside ``NAME`` lie objects ``.NAME.lock/NUMBER.json``, each created once: who created the one with the highest number
writes. The number is what a later writer counts from, so that a writer that lost its lock finds a higher one before it
publishes. The owner rewrites ``NUMBER.ID.beat``, which no other writer touches, every few seconds. A lock without such
a sign of life for a minute, by the clock of the service, counts as left behind.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict

from fluxcube.errors import StoreError
from fluxcube.stores import lock as disk_lock
from fluxcube.stores.objects import Bucket, Entry
from fluxcube.stores.owners import Owner, is_running, parse_owner, this_process

_log = logging.getLogger(__name__)


class BucketLock:
    """A lock of a bucket that this process holds."""

    def __init__(self, bucket: Bucket, number: int, owner: Owner) -> None:
        self.bucket, self.owner, self._number = bucket, owner, number
        self._objects = _objects(bucket)
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="fluxcube-lock", daemon=True)
        self._heart.start()

    def _beat(self) -> None:
        while not self._ended.wait(disk_lock.HEARTBEAT):
            with contextlib.suppress(StoreError):
                self._objects.write(f"{self._number:06d}.{self.owner.nonce}.beat", b"")

    def check(self) -> None:
        """Raise a StoreError if another writer took over the lock, as it may while a machine sleeps."""
        highest = max(_numbers(self._objects.entries()), default=0)
        if highest != self._number or _owner(self._objects, self._number) != self.owner:
            raise StoreError(f"{self.bucket}: another writer took it over while this one was stopped; run again.")

    def release(self) -> None:
        """Remove the lock, unless another writer took it over."""
        self._ended.set()
        self._heart.join()
        with contextlib.suppress(StoreError):
            if _owner(self._objects, self._number) == self.owner:
                self._objects.remove(f"{self._number:06d}.json", f"{self._number:06d}.{self.owner.nonce}.beat")


@contextmanager
def bucket_lock(bucket: Bucket) -> Iterator[BucketLock]:
    """Lock a name in a bucket against other writers until the block ends.

    Parameters
    ----------
    bucket : Bucket
        What is written; it need not exist.

    Yields
    ------
    BucketLock

    Raises
    ------
    StoreError
        If another writer is writing it, or the service ignores the condition of a write.
    """
    lock = BucketLock(bucket, *_acquired(bucket))
    try:
        yield lock
    finally:
        lock.release()


def _objects(bucket: Bucket) -> Bucket:
    return bucket.beside(f".{bucket.name}.lock")


def _acquired(bucket: Bucket) -> tuple[int, Owner]:
    """Create the object with the next number, and return the number and its owner."""
    objects, owner = _objects(bucket), this_process()
    found = objects.entries()
    highest = max(_numbers(found), default=0)
    if highest:
        holder = _owner(objects, highest)
        silence = _silent_for(objects, found, highest)
        if not _has_ended(holder) and silence < disk_lock.SILENCE:
            raise StoreError(_refusal(bucket, holder, silence))
        _log.info("%s: taking over the lock of %s, which has ended", bucket, holder or "another run")
    number, data = highest + 1, json.dumps(asdict(owner)).encode()
    if not objects.create(f"{number:06d}.json", data):
        raise StoreError(_refusal(bucket, _owner(objects, number), 0.0))
    if objects.create(f"{number:06d}.json", data):
        objects.remove(f"{number:06d}.json")
        raise StoreError(
            f"{bucket}: the service ignores the condition of a write (If-None-Match), so that two writers cannot be "
            "kept apart: write to a disk and copy, or use a service that observes it."
        )
    objects.remove(*found)  # of writers that have ended
    return number, owner


def _numbers(entries: Mapping[str, Entry]) -> list[int]:
    return [int(name[:6]) for name in entries if name.endswith(".json") and name[:6].isdigit()]


def _owner(objects: Bucket, number: int) -> Owner | None:
    return parse_owner(objects.read(f"{number:06d}.json") or b"")


def _silent_for(objects: Bucket, entries: Mapping[str, Entry], number: int) -> float:
    """Return the seconds since the owner of a lock gave a sign of life, by the clock of the service."""
    probe = f"clock-{os.urandom(6).hex()}"
    objects.write(probe, b"")
    now = objects.entries()[probe].modified
    objects.remove(probe)
    signs = [entry.modified for name, entry in entries.items() if name.startswith(f"{number:06d}.")]
    return (now - max(signs)).total_seconds()


def _has_ended(holder: Owner | None) -> bool:
    """Return whether the owner was a process of this machine that no longer runs; False if that is not known."""
    return holder is not None and is_running(holder, system_decides=False) is False


def _refusal(bucket: Bucket, holder: Owner | None, silence: float) -> str:
    who = f"another run ({holder})" if holder else "another run"
    return (
        f"{bucket}: {who} is writing it; wait until it has ended, or stop it. It was active {silence:.0f} s ago, and "
        f"{disk_lock.SILENCE:.0f} s without a sign of life free the lock."
    )
