"""Stores at a URL (``s3://``, ``gs://``, ``az://``, ``https://``): read one state, and compare with its manifest.

A state of a cube in a bucket never changes. In any other layout (maps, forcings, a cube that was copied), somebody
could replace objects while they are read: the object that is written last, or once, is therefore read again after
each read of values, and must be what it was when the store was opened.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any

from zarr.abc.store import ByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore

from fluxcube.errors import StoreError, missing_package, to_type
from fluxcube.stores.manifest import (
    LEDGER,
    MANIFEST,
    MANIFEST_FILE,
    STORE_ID,
    Entries,
    Progress,
    Verification,
    absences,
    conclusion,
    entry_of,
    fault_of,
    lacks_manifest,
    parse_manifest,
)
from fluxcube.stores.objects import Bucket, access_errors, forget_exit_hooks, is_bucket
from fluxcube.stores.states import STATE, STATES, bucket_states, choose_state, is_inside, is_state_name, newest_record

_ROOT = "zarr.json"
#: Object that is written once, by kind of store, while the store is not complete and its root may change.
_WITNESSES = {"maps": "time/zarr.json", "forcing": "time/zarr.json"}
#: Schemes of fsspec's packages that do not read the last bytes of an object.
_NO_SUFFIX = {"az", "abfs", "abfss"}
#: Number of times that a store is opened anew if a writer removed the state that was current.
_ATTEMPTS = 5


class RemoteStore(FsspecStore):
    """Objects of one state of a store at a URL.

    Attributes
    ----------
    url : str
        Address of the store, for messages.
    place : str
        Address of its objects: that of the store, or of a state.
    immutable : bool
        Whether the objects are those of a state, which never changes; else those are read only while the witness is
        what it was.
    """

    url: str = ""
    place: str = ""
    immutable: bool = False
    _witness: str = ""
    _tag: str = ""
    _entries: Entries | None = None
    #: The request of the witness that runs, and the one that follows, which reads that ended meanwhile wait for.
    _running: asyncio.Task[None] | None = None
    _next: asyncio.Task[None] | None = None

    @classmethod
    def at(cls, url: str, options: Mapping[str, object], shown: str = "") -> RemoteStore:
        """Return the store at an address, not yet pinned (StoreError if it cannot be reached)."""
        try:
            # Listings are not cached: they would not show what writers do.
            store = cls.from_url(url, storage_options={"use_listings_cache": False, **options}, read_only=True)
        except ImportError as error:
            raise _lacking(url, error) from error
        except access_errors() as error:
            raise _unreachable(url, error) from None
        assert isinstance(store, RemoteStore)
        forget_exit_hooks(store.fs)
        store.url, store.place = shown or url, url
        return store

    def pin(self, witness: str) -> None:
        """Read the witness, with which it is compared after each read."""
        found = self.read(witness)
        if found is None:
            raise StoreError(f"{self.url}: the object {witness} is missing: copy the store again.")
        self._witness, self._tag = witness, _digest(found)

    def read(self, key: str) -> bytes | None:
        """Return the bytes of an object as they are now, without a check; None if there is none."""
        found = sync(self._fetch(key))
        return None if found is None else found.to_bytes()

    def written(self) -> frozenset[str]:
        """Return the names of the files that the manifest lists; none if it has no manifest."""
        return frozenset(self.manifest())

    def manifest(self) -> Entries:
        """Return the size and digest of each object as the manifest lists them; nothing without a manifest."""
        return sync(self._manifest())

    def with_read_only(self, read_only: bool = False) -> RemoteStore:
        """Return the store itself, which is only read."""
        if not read_only:
            raise NotImplementedError("a store at a URL is opened to read only")
        return copy.copy(self)

    def __getstate__(self) -> dict[str, object]:
        dropped = ("_entries", "_running", "_next")
        return {key: value for key, value in self.__dict__.items() if key not in dropped}

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other) and isinstance(other, RemoteStore) and self._tag == other._tag

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return the bytes of an object, or of a part of it; None if the store has no such object."""
        found = await self._fetch(key, prototype, byte_range)
        await self._check()
        if found is None:
            await self._check_absent(key)
        elif key.endswith(f"/{_ROOT}"):
            await self._check_metadata(key, found)
        return found

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return the bytes of parts of objects; None for each object that the store does not have."""
        requests = list(key_ranges)
        try:
            found = await super().get_partial_values(prototype, requests)
        except access_errors() as error:
            raise _unreachable(self.url, error) from None
        await self._check()
        for (key, _), value in zip(requests, found, strict=True):
            if value is None:
                await self._check_absent(key)
        return found

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names in a folder of the store."""
        found = [name async for name in super().list_dir(prefix)]
        await self._check()
        if self.immutable and await self._fetch(_ROOT) is None:
            raise self._removed()
        for name in found:
            yield name

    async def _fetch(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        try:
            if isinstance(byte_range, SuffixByteRequest) and set(self._schemes()) & _NO_SUFFIX:
                byte_range = await self._from_start(key, byte_range)
            found = await super().get(key, prototype or default_buffer_prototype(), byte_range)
            return None if found is None else _cut(found, byte_range)
        except FileNotFoundError:
            return None
        except ImportError as error:
            raise _lacking(self.url, error) from error
        except access_errors() as error:
            raise _unreachable(self.url, error) from None

    def _schemes(self) -> tuple[str, ...]:
        scheme = self.fs.protocol
        return (scheme,) if isinstance(scheme, str) else tuple(scheme)

    async def _from_start(self, key: str, part: SuffixByteRequest) -> RangeByteRequest:
        """Return the last bytes of an object as a range from its start."""
        size = await self.getsize(key)
        return RangeByteRequest(max(0, size - part.suffix), size)

    async def _check(self) -> None:
        """Raise a StoreError if the store changed; reads that end at about the same time share one request."""
        if not self._tag:
            return
        loop = asyncio.get_running_loop()
        if self._next is None or self._next.done() or self._next.get_loop() is not loop:
            before = self._running
            if before is not None and (before.done() or before.get_loop() is not loop):
                before = None
            self._next = loop.create_task(self._compare(before))
        await asyncio.shield(self._next)

    async def _compare(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before})
        # Reads that end from here on need a request that begins later.
        self._running, self._next = self._next, None
        found = await self._fetch(self._witness)
        if found is None or _digest(found.to_bytes()) != self._tag:
            raise StoreError(
                f"{self.url}: the store was replaced, moved or removed since it was opened, and its arrays are read by "
                "position; open it again."
            )

    async def _manifest(self) -> Entries:
        if self._entries is None:
            found = await self._fetch(MANIFEST_FILE)
            if found is None and self.immutable:
                raise self._removed()
            self._entries = {} if found is None else parse_manifest(found.to_bytes(), self.url)
        return self._entries

    async def _check_metadata(self, key: str, found: Buffer) -> None:
        """Raise a StoreError if the metadata of an array, or a document, are other than those that were written."""
        listed = (await self._manifest()).get(key)
        if listed is not None and hashlib.blake2b(found.to_bytes(), digest_size=16).hexdigest() != listed[1]:
            raise StoreError(f"{self.url}: {key} was changed since the store was written: copy the store again.")

    async def _check_absent(self, key: str) -> None:
        """Raise a StoreError if an object that is not there was there when the store was finished."""
        if key not in await self._manifest():
            return
        if self.immutable and await self._fetch(_ROOT) is None:
            raise self._removed()
        raise StoreError(
            f"{self.url}: the object {key} is missing, which was there when the store was written: copy it again."
        )

    def _removed(self) -> StoreError:
        return StoreError(
            f"{self.url}: the state that was opened has been replaced and removed since; open the store again, and "
            f"write with {to_type(python='keep=True', shell='--keep')} if readers must be able to finish."
        )


def _cut(found: Buffer, part: ByteRequest | None) -> Buffer:
    """Return the requested part of what was sent: a server that does not know ranges sends the whole object."""
    if isinstance(part, SuffixByteRequest) and len(found) > part.suffix:
        return found[len(found) - part.suffix :]
    if isinstance(part, RangeByteRequest) and len(found) > part.end - part.start:
        return found[part.start : part.end]
    return found


def open_remote(
    url: str, options: Mapping[str, object] | None = None, *, kind: str = "", version: str | None = None
) -> RemoteStore:
    """Open one state of the store at a URL.

    Parameters
    ----------
    url : str
        Address of the store.
    options : mapping, optional
        Options of fsspec.
    kind : str
        Expected kind of store.
    version : str, optional
        `store_id` of an earlier state that is kept in the bucket, or its first characters.

    Raises
    ------
    StoreError
        If there is no store, no such state, or it cannot be reached.
    """
    url, options = url.rstrip("/"), options or {}
    for _ in range(_ATTEMPTS):
        store = RemoteStore.at(url, options)
        root = store.read(_ROOT)
        if root is None:
            raise StoreError(f"{url}: no store there; check the address.")
        attrs = _attributes(root, url)
        if version is None and STATE not in attrs:
            store.pin(_ROOT if attrs.get("complete") else _WITNESSES.get(kind, _ROOT))
            return store
        if (state := _state(url, options, attrs, version)) is not None:
            return state
    raise StoreError(f"{url}: its state {attrs[STATE]} does not exist: the folder {url}{STATES} was changed by hand.")


def _state(
    url: str, options: Mapping[str, object], attrs: Mapping[str, object], version: str | None
) -> RemoteStore | None:
    """Return the chosen state; None if a writer removed it meanwhile."""
    if version is not None:
        current = {str(attrs[STORE_ID]): url} if STORE_ID in attrs and STATE not in attrs else {}
        chosen = choose_state(version, {**remote_states(url, options), **current}, url)
        if chosen == url:
            return open_remote(url, options)
        folder = chosen.rpartition("/")[2]
    else:
        record = newest_record(Bucket(url, options)) if is_bucket(url) else None
        folder = record.folder if record is not None else str(attrs[STATE])
    if not is_state_name(folder):
        raise StoreError(f"{url}/{_ROOT} is damaged: expected the name of a state, found another text.")
    state = RemoteStore.at(f"{url}{STATES}/{folder}", options, url)
    state.immutable = True
    return state if state.read(_ROOT) is not None else None


def remote_states(url: str, options: Mapping[str, object]) -> dict[str, str]:
    """Return the addresses of the states of a store, by the names of their folders; none outside buckets."""
    if not is_bucket(url):
        return {}
    return {name: place.url for name, place in bucket_states(Bucket(url, options)).items()}


def verify_remote(
    url: str, options: Mapping[str, object] | None = None, *, progress: Progress | None = None
) -> Verification:
    """Read every object of a complete store at a URL, and compare it with its checksums and with the manifest.

    Objects are read one by one into a temporary folder; only those in a bucket can be listed, so that elsewhere objects
    that are not in the manifest are not found.

    Raises
    ------
    StoreError
        If there is no store, it has no manifest, or it cannot be reached.
    """
    store = open_remote(url, options)
    attrs, data = _attributes(store.read(_ROOT) or b"{}", url), store.read(MANIFEST_FILE)
    if data is None:
        raise lacks_manifest(url)
    expected = parse_manifest(data, url)
    faults = absences(expected, _listed(store.place, options)) if is_bucket(url) else []
    found: dict[str, tuple[int, str]] = {}
    with tempfile.TemporaryDirectory(prefix="fluxcube-") as folder:
        # The metadata of an array are needed to understand its chunks, and stay until the end.
        for done, key in enumerate(sorted(expected, key=lambda key: "/c/" in key), 1):
            content = store.read(key)
            if content is not None and (entry := _entry_of(Path(folder), key, content, expected[key], faults)):
                found[key] = entry
            elif content is None and not is_bucket(url):
                faults.append(f"{key}: it is missing")
            if progress is not None:
                progress(done, len(expected), key)
    return conclusion(found, attrs, len(found), faults)


def _listed(place: str, options: Mapping[str, object] | None) -> list[str]:
    """Return the names of the objects of a store, without its root, its ledger and its manifest."""
    keys = [key for key in Bucket(place, options or {}).entries() if not key.endswith("/")]
    return [key for key in keys if "/" in key and key.partition("/")[0] not in (LEDGER, MANIFEST)]


def _entry_of(
    folder: Path, key: str, content: bytes, expected: tuple[int, str], faults: list[str]
) -> tuple[int, str] | None:
    """Return the size and digest of an object, and add to `faults` what is wrong with it."""
    if not is_inside(key):
        faults.append(f"{key}: a name that leads out of the store")
        return None
    file = folder / key
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    entry = entry_of(folder, key)
    if fault := fault_of(folder, key, expected, entry):
        faults.append(f"{key}: {fault}")
    if "/c/" in key:
        file.unlink()
    return entry


def _attributes(root: bytes, url: str) -> dict[str, Any]:
    """Return the attributes in the metadata of a group; none if it has none, which opening the group reports."""
    try:
        attrs = json.loads(root).get("attributes", {})
    except (ValueError, AttributeError, RecursionError) as error:
        raise StoreError(f"{url}/{_ROOT} is damaged ({type(error).__name__}): copy the store again.") from error
    return attrs if isinstance(attrs, dict) else {}


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _lacking(url: str, error: ImportError) -> ImportError:
    scheme = url.partition("://")[0]
    extra = {"gs": "gs", "gcs": "gs", "az": "az", "abfs": "az", "abfss": "az", "http": "cloud", "https": "cloud"}
    package = str(getattr(error, "name", None) or "s3fs")
    return missing_package(package, extra.get(scheme, "s3"), f"opening {url}")


def _unreachable(url: str, error: Exception) -> StoreError:
    """Return the error for a URL; of another library's message, which might repeat credentials, the class only."""
    if isinstance(error, StoreError):
        return error
    return StoreError(
        f"{url}: cannot be opened ({type(error).__name__}); check the address, storage_options and credentials."
    )
