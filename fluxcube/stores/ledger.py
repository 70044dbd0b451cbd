"""The ledger of a store that is written region by region: which regions are on the disk, or in the bucket.

On a disk it is one file, to which lines are appended. In a bucket, where nothing can be appended, each record is an
object of its own. A record also contains the size and digest of the shards that were written: a shard that was lost
before the store is finished would otherwise be missing values.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import google_crc32c

from fluxcube.errors import StoreError
from fluxcube.parsing import parse_json, read_bytes
from fluxcube.stores.lock import check_held
from fluxcube.stores.manifest import LEDGER, Entries
from fluxcube.stores.objects import Bucket, Entry
from fluxcube.stores.reading import open_group
from fluxcube.stores.uploads import read_all
from fluxcube.tabletext import counted

_SUFFIX = ".jsonl"


def done_regions(path: str | os.PathLike | Bucket) -> dict[str, int]:
    """Return the regions that `mark_done` recorded, by key, with their number of missing values.

    A last line that a kill cut off does not count. A store without a ledger has no such regions. A region does not
    count if one of its files or objects was lost since; on a disk, also if one has another size.
    """
    if isinstance(path, Bucket):
        listed = path.entries()
        records = [record for record, _ in _records(path, listed)]
        return {r["done"]: r.get("missing", 0) for r in records if r.get("files", {}).keys() <= listed.keys()}
    return {r["done"]: r.get("missing", 0) for r in _on_disk(path) if not _lost(Path(path), r)}


def check_recorded(path: str | os.PathLike) -> None:
    """Raise a StoreError if a file of a store on a disk was lost after its region was recorded."""
    if lost := [key for record in _on_disk(path) for key in _lost(Path(path), record)]:
        raise StoreError(
            f"{path} lacks {counted(len(lost), 'file')} of its regions, such as {lost[0]}; run the same call "
            "again, which writes these regions again."
        )


def _on_disk(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Return the last entry of each region in the ledger of a store on a disk."""
    try:
        text = read_bytes(_ledger(path))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise StoreError(f"{_ledger(path)} cannot be read ({error}): write the store again with overwrite.") from error
    return list({entry["done"]: entry for entry in _parsed(text)}.values())


def _lost(path: Path, record: Mapping[str, Any]) -> list[str]:
    """Return the files of a recorded region that are not there in their size; those of earlier versions list none."""
    return [key for key, (size, _) in record.get("files", {}).items() if _size(path / key) != size]


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except OSError:
        return None


def recorded_files(bucket: Bucket, listed: Mapping[str, Entry]) -> dict[str, tuple[tuple[int, str], datetime]]:
    """Return the size and digest of each object that `mark_done` recorded, and the time of the record.

    Parameters
    ----------
    bucket : Bucket
        The store.
    listed : mapping of str to Entry
        Its objects.

    Raises
    ------
    StoreError
        If a recorded object is not among them.
    """
    found = {}
    for record, recorded in _records(bucket, listed):
        for key, (size, digest) in record.get("files", {}).items():
            found[key] = (int(size), str(digest)), recorded
    if lost := sorted(found.keys() - listed.keys()):
        raise StoreError(
            f"{bucket} lacks {counted(len(lost), 'object')} of its regions, such as {lost[0]}; run the same call "
            "again, which writes these regions again."
        )
    return found


def mark_done(
    path: str | os.PathLike | Bucket, regions: Mapping[str, int], files: Mapping[str, Entries] | None = None
) -> None:
    """Record, durably, that regions of a store are written.

    The existence of their chunks would not prove it: chunks without a value are never stored.

    Parameters
    ----------
    path : path or Bucket
        The store.
    regions : mapping of str to int
        By key, the number of values that are missing in each although they were expected.
    files : mapping of str to Entries, optional
        By key, the size and digest of the shards of a region.

    Raises
    ------
    StoreError
        If this process lost the lock of a store on a disk: another run may have replaced it.
    """
    if not regions:
        return
    entries: list[dict[str, Any]] = [
        {"done": key, "missing": n, "files": (files or {}).get(key, {})} for key, n in regions.items()
    ]
    if isinstance(path, Bucket):
        lines = _lines(entries)
        # Later records have later names; the random part distinguishes those of one moment.
        if not path.create(f"{LEDGER}/{time.time_ns():020d}-{os.urandom(4).hex()}{_SUFFIX}", lines):
            raise StoreError(f"{path}: a record of the ledger has the name of another one; run the same call again.")
        return
    check_held(path)
    ledger = _ledger(path)
    if not ledger.parent.exists():
        # A group of its own: a loose file in the store's root would make every reader warn.
        open_group(Path(path), "r+").create_group(LEDGER)
    with open(ledger, "ab+") as file:
        lines = _lines(entries)
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            lines = lines if file.read(1) == b"\n" else b"\n" + lines
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


def _lines(entries: list[dict[str, Any]]) -> bytes:
    """Return entries as lines with a checksum each: a changed key would declare another region as written."""
    return b"".join(json.dumps(entry | {"crc32c": _checksum(entry)}).encode() + b"\n" for entry in entries)


def _records(bucket: Bucket, listed: Mapping[str, Entry]) -> list[tuple[dict[str, Any], datetime]]:
    """Return the last entry of each region in the ledger of a bucket, and its time."""
    last: dict[str, tuple[dict[str, Any], datetime]] = {}
    keys = sorted(key for key in listed if key.startswith(f"{LEDGER}/") and key.endswith(_SUFFIX))
    for key, text in zip(keys, read_all(bucket, keys), strict=True):
        for entry in _parsed(text):
            last[entry["done"]] = entry, listed[key].modified
    return list(last.values())


def _parsed(text: bytes) -> Iterator[dict[str, Any]]:
    """Yield the whole entries of a ledger: a kill or a bad disk may have left others.

    Entries of earlier versions have no checksum.
    """
    for line in text.split(b"\n")[:-1]:
        try:
            entry = parse_json(line, dict)
        except ValueError:
            continue
        expected = entry.pop("crc32c", None)
        good = isinstance(entry.get("done"), str) and isinstance(entry.get("missing", 0), int)
        good = good and isinstance(entry.get("files", {}), dict)
        if good and (expected is None or expected == _checksum(entry)):
            yield entry


def _ledger(path: str | os.PathLike) -> Path:
    return Path(path) / LEDGER / "regions.jsonl"


def _checksum(about: Mapping[str, object]) -> int:
    return google_crc32c.value(json.dumps(about).encode())
