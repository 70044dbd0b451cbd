"""The ledger of a folder of fetched files: which are complete, and which requests are under way.

``fetch.jsonl`` has one JSON object per line, appended when a file is complete or a request is submitted. It contains no
credentials.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fluxcube.errors import FetchError
from fluxcube.fetch.addresses import public
from fluxcube.fetch.items import LEDGER, LOCK, Item, within
from fluxcube.stores.lock import InUseError, check_held, writer_lock
from fluxcube.stores.swap import unwritable

_BLOCK = 1 << 20


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Return the hexadecimal digest of a file, read in blocks of 1 MiB."""
    total = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            total.update(block)
    return total.hexdigest()


class Ledger:
    """The ledger of one folder.

    Any number of processes may read it; the one that fetches keeps the lock (`locked`).

    Parameters
    ----------
    folder : path
        Folder of the files; it need not exist to be read.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self._guard = threading.Lock()
        self._read_bytes = 0
        self._files: dict[str, dict[str, Any]] = {}
        self._requests: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"Ledger({str(self.folder)!r})"

    def entry(self, name: str) -> dict[str, Any] | None:
        """Return the last entry of a file, or None: name, key, size, sha256, url, etag, time, source, about."""
        self._refresh()
        return self._files.get(name)

    def entry_of_key(self, key: str) -> dict[str, Any] | None:
        """Return the last entry of a file that was fetched for a key, or None: for names that the service chooses."""
        self._refresh()
        return next((entry for entry in reversed(self._files.values()) if entry["key"] == key), None)

    def done(self, item: Item, *, verify: bool = False) -> bool:
        """Return whether the file of an item is there, complete, from the same request.

        Parameters
        ----------
        item : Item
            A different key, exact size or checksum than the recorded one means that the service has something else.
        verify : bool
            Also compute the file's checksum.
        """
        entry = self.entry(item.name)
        if entry is None or entry["key"] != item.key or (item.exact and entry["size"] != item.size):
            return False
        recorded = entry.get("checksum")
        if item.checksum and recorded and recorded[0] == item.checksum[0] and recorded[1] != item.checksum[1].lower():
            return False
        path = within(self.folder, item)
        if not path.is_file() or path.stat().st_size != entry["size"]:
            return False
        return not verify or digest(path) == entry["sha256"]

    def request_id(self, item: Item) -> str | None:
        """Return the id under which the request of an item was submitted, or None."""
        self._refresh()
        return self._requests.get(item.key)

    def submitted(self, item: Item, request_id: str) -> None:
        """Record, durably, the id of a submitted request."""
        self._append({"kind": "request", "key": item.key, "id": request_id, "time": _now()})

    def forget(self, item: Item) -> None:
        """Record that the submitted request of an item cannot be used any more."""
        self._append({"kind": "request", "key": item.key, "id": None, "time": _now()})

    def record(
        self, item: Item, path: Path, *, sha256: str = "", url: str = "", etag: str = "", source: str = ""
    ) -> None:
        """Record, durably, that the file of an item is complete.

        Parameters
        ----------
        item : Item
        path : Path
            The complete file.
        sha256 : str
            Its digest; computed if "".
        url, etag, source : str
            Where it came from; credentials in the URL are left out.
        """
        entry = {
            "kind": "file",
            "name": item.name,
            "key": item.key,
            "size": path.stat().st_size,
            "sha256": sha256 or digest(path),
            "checksum": [item.checksum[0], item.checksum[1].lower()] if item.checksum else None,
            "url": public(url),
            "etag": etag,
            "time": _now(),
            "source": source,
            "about": dict(item.about),
        }
        self._append(entry)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against another fetch; the folder is made if it does not exist.

        Raises
        ------
        FetchError
            If another fetch is writing to the folder.
        StoreError
            If the disk does not accept the folder or the lock.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(Path(error.filename or self.folder), error) from error
        with ExitStack() as stack:
            try:
                stack.enter_context(writer_lock(self.folder, file=self.folder / LOCK))
            except InUseError as error:
                raise FetchError(
                    f"{self.folder}: another fetch is writing there; wait until it has ended, or choose another folder "
                    f"({error})."
                ) from error
            yield

    def check_unlocked(self) -> None:
        """Raise FetchError if another fetch is writing to the folder: before what is recorded in the user's name."""
        with self.locked():
            pass

    def _append(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry, default=str).encode() + b"\n"
        check_held(self.folder)
        with self._guard:
            try:
                with open(self.folder / LEDGER, "ab+") as file:
                    if file.seek(0, os.SEEK_END):
                        file.seek(-1, os.SEEK_END)
                        line = line if file.read(1) == b"\n" else b"\n" + line
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise unwritable(self.folder / LEDGER, error) from error

    def _refresh(self) -> None:
        """Read the lines that were appended since the last time. A line that a kill cut off does not count."""
        with self._guard:
            try:
                with open(self.folder / LEDGER, "rb") as file:
                    if os.fstat(file.fileno()).st_size < self._read_bytes:  # another file
                        self._read_bytes, self._files, self._requests = 0, {}, {}
                    file.seek(self._read_bytes)
                    text = file.read()
            except (FileNotFoundError, NotADirectoryError):
                self._read_bytes, self._files, self._requests = 0, {}, {}
                return
            except OSError as error:
                raise FetchError(
                    f"{self.folder / LEDGER} cannot be read ({error.strerror}): correct its rights, or choose another "
                    "folder."
                ) from error
            lines = text[: text.rfind(b"\n") + 1]
            self._read_bytes += len(lines)
            for line in lines.split(b"\n"):
                self._add(_parsed(line))

    def _add(self, entry: dict[str, Any]) -> None:
        if entry.get("kind") == "file" and _is_file(entry):
            self._files[entry["name"]] = entry
        elif entry.get("kind") == "request" and isinstance(entry.get("key"), str):
            if entry.get("id"):
                self._requests[entry["key"]] = str(entry["id"])
            else:
                self._requests.pop(entry["key"], None)


def _is_file(entry: dict[str, Any]) -> bool:
    """Return whether a line about a file, which could have been edited, has what the ledger needs."""
    kinds = {"name": str, "key": str, "size": int, "sha256": str}
    checksum = entry.get("checksum")
    pair = isinstance(checksum, list) and len(checksum) == 2 and all(isinstance(part, str) for part in checksum)
    good = all(isinstance(entry.get(name), kind) for name, kind in kinds.items())
    return good and (checksum is None or pair) and isinstance(entry.get("about") or {}, dict)


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(line) if line.strip() else {}
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
