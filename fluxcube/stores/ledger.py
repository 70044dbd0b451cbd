"""The ledger of a store that is written region by region: which regions are on the disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import google_crc32c

from fluxcube.errors import StoreError
from fluxcube.parsing import parse_json, read_bytes
from fluxcube.stores.manifest import LEDGER
from fluxcube.stores.reading import open_group


def done_regions(path: str | os.PathLike) -> dict[str, int]:
    """Return the regions that `mark_done` recorded, by key, with their number of missing values.

    A last line that a kill cut off does not count. A store without a ledger has no such regions.
    """
    try:
        text = read_bytes(_ledger(path))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise StoreError(f"{_ledger(path)} cannot be read ({error}): write the store again with overwrite.") from error
    entries = (_entry(line) for line in text.split(b"\n")[:-1])
    return {key: missing for key, missing in entries if key}


def mark_done(path: str | os.PathLike, regions: Mapping[str, int]) -> None:
    """Record, durably, that regions of a store are written.

    The existence of their chunks would not prove it: chunks without a value are never stored.

    Parameters
    ----------
    path : path
        The store.
    regions : mapping of str to int
        By key, the number of values that are missing in each although they were expected.
    """
    if not regions:
        return
    ledger = _ledger(path)
    if not ledger.parent.exists():
        # A group of its own: a loose file in the store's root would make every reader warn.
        open_group(Path(path), "r+").create_group(LEDGER)
    with open(ledger, "ab+") as file:
        lines = b"".join(_line(key, n) for key, n in regions.items())
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            lines = lines if file.read(1) == b"\n" else b"\n" + lines
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


def _ledger(path: str | os.PathLike) -> Path:
    return Path(path) / LEDGER / "regions.jsonl"


def _line(key: str, missing: int) -> bytes:
    """Return the entry of a region, with a checksum: a changed key would declare another region as written."""
    about = {"done": key, "missing": int(missing)}
    return json.dumps(about | {"crc32c": _checksum(about)}).encode() + b"\n"


def _entry(line: bytes) -> tuple[str, int]:
    """Return the region of an entry and its number of missing values; "" if a kill or a bad disk left no whole one.

    Entries of earlier versions have no checksum.
    """
    try:
        about = parse_json(line, dict)
    except ValueError:
        return "", 0
    key, missing = about.get("done"), about.get("missing", 0)
    expected = about.get("crc32c")
    if not isinstance(key, str) or not isinstance(missing, int):
        return "", 0
    good = expected is None or expected == _checksum({"done": key, "missing": missing})
    return (key, missing) if good else ("", 0)


def _checksum(about: Mapping[str, object]) -> int:
    return google_crc32c.value(json.dumps(about).encode())
