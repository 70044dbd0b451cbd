"""The ledger of a store that is written region by region: which regions are on the disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from fluxcube.stores.lock import check_held
from fluxcube.stores.manifest import LEDGER
from fluxcube.stores.reading import open_group


def done_regions(path: str | os.PathLike) -> dict[str, int]:
    """Return the regions that `mark_done` recorded, by key, with their number of missing values.

    A last line that a kill cut off does not count. A store without a ledger has no such regions.
    """
    try:
        text = _ledger(path).read_bytes()
    except FileNotFoundError:
        return {}
    entries = (json.loads(line) for line in text.split(b"\n")[:-1] if _is_entry(line))
    return {entry["done"]: entry.get("missing", 0) for entry in entries}


def mark_done(path: str | os.PathLike, regions: Mapping[str, int]) -> None:
    """Record, durably, that regions of a store are written.

    The existence of their chunks would not prove it: chunks without a value are never stored.

    Parameters
    ----------
    path : path
        The store.
    regions : mapping of str to int
        By key, the number of values that are missing in each although they were expected.

    Raises
    ------
    StoreError
        If this process lost the lock of the store: another run may have replaced it.
    """
    if not regions:
        return
    check_held(path)
    ledger = _ledger(path)
    if not ledger.parent.exists():
        # A group of its own: a loose file in the store's root would make every reader warn.
        open_group(Path(path), "r+").create_group(LEDGER)
    with open(ledger, "ab+") as file:
        lines = b"".join(json.dumps({"done": key, "missing": n}).encode() + b"\n" for key, n in regions.items())
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            lines = lines if file.read(1) == b"\n" else b"\n" + lines
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


def _ledger(path: str | os.PathLike) -> Path:
    return Path(path) / LEDGER / "regions.jsonl"


def _is_entry(line: bytes) -> bool:
    """Return whether a line is a whole entry of the ledger, not the rest of one that a kill cut off."""
    try:
        return "done" in json.loads(line)
    except ValueError:
        return False
