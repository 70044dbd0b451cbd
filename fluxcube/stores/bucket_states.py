"""Write a store to a bucket: build it in a temporary folder, upload it as a new state, and record the state.

Every moment is a complete store, the old one or the new one: the objects of a state are written below a name of their
own, and the state becomes current by one conditional write, its record (`fluxcube.stores.states`). Objects that equal
those of the state before are copied within the service, and do not travel again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zarr.core.group import GroupMetadata

from fluxcube.errors import StoreError, overwrite_option
from fluxcube.stores.bucket_lock import BucketLock, bucket_lock
from fluxcube.stores.download import named_as
from fluxcube.stores.manifest import MANIFEST_FILE, STORE_ID, Progress, parse_manifest, read_manifest
from fluxcube.stores.objects import Bucket, is_bucket, place
from fluxcube.stores.reading import is_url
from fluxcube.stores.states import STATE, Record, is_inside, newest_record, read_record, states_of

_log = logging.getLogger(__name__)

_ROOT = "zarr.json"
#: Number of objects that are sent or received at once.
_REQUESTS = 8
_BYTES_OF_NUMBER = 6


@contextmanager
def working_copy(
    store: str | os.PathLike,
    storage_options: Mapping[str, object] | None = None,
    *,
    append: bool = False,
    overwrite: bool = False,
    keep: bool = False,
    progress: Progress | None = None,
) -> Iterator[Path]:
    """Yield the path where a store is written: on a disk its own, for a bucket that of a temporary copy.

    The copy is published when the block ends without an error; errors then name the URL, not the copy. While the block
    runs, other writers of the URL are refused. Temporary files lie where the environment variable ``TMPDIR`` says.

    Parameters
    ----------
    store : path or URL
        The store, which need not exist.
    storage_options : mapping, optional
        Options of fsspec for a URL.
    append : bool
        Copy the current state of an existing store first, which the block may then change.
    overwrite : bool
        Replace an existing store.
    keep : bool
        Keep the state that is replaced (in a bucket; on a disk, `fluxcube.stores.building.staging` keeps it).
    progress : callable, optional
        ``progress(done, total, text)``, for each object that is downloaded or uploaded.

    Raises
    ------
    StoreError
        If another writer is writing the store, something exists at a URL that may not be replaced or was changed
        meanwhile, or the service cannot be reached.
    """
    if not is_url(store):
        yield Path(store)
        return
    if not is_bucket(store):
        raise StoreError(
            f"{store}: expected a path, or an address in a bucket (s3://, gs://, az://); other URLs are only read."
        )
    bucket = place(str(store), storage_options)
    assert isinstance(bucket, Bucket)
    with bucket_lock(bucket) as lock, tempfile.TemporaryDirectory(prefix="fluxcube-") as folder:
        base = _Base.of(bucket)
        base.check(overwrite=append or overwrite)
        path = Path(folder) / bucket.name
        if append and base.place is not None:
            _download(base, path, progress)
        before = _stamp(path)
        with named_as(bucket, path):
            yield path
        if path.exists() and _stamp(path) != before:
            _publish(lock, base, path, keep=keep, progress=progress)


@dataclass(frozen=True)
class _Base:
    """What a bucket contains when a writer begins.

    Attributes
    ----------
    bucket : Bucket
        Address of the store.
    number : int
        Number of the newest record; 0 without one.
    folder : str
        Folder of the current state; "" if there is none, or the store lies at the address itself.
    place : Bucket or None
        Where the files of the current state lie; None if there is no store.
    kept : tuple of str
        Folders of earlier states that stay.
    occupied : bool
        Whether anything is at the address.
    written_here : bool
        Whether fluxcube wrote it.
    """

    bucket: Bucket
    number: int = 0
    folder: str = ""
    place: Bucket | None = None
    kept: tuple[str, ...] = ()
    occupied: bool = False
    written_here: bool = False

    @classmethod
    def of(cls, bucket: Bucket) -> _Base:
        """Return what a bucket contains now."""
        root, record = bucket.read(_ROOT), newest_record(bucket)
        number = record.number if record else 0
        attrs = {} if root is None else _attributes(root)
        if STATE in attrs and record is not None:
            state = states_of(bucket) / record.folder
            return cls(bucket, number, record.folder, state, record.kept, occupied=True, written_here=True)
        # A state whose pointer was removed or replaced by hand stays: whoever did that may want it back.
        kept = (*record.kept, record.folder) if record else ()
        if root is None:
            return cls(bucket, number, kept=kept, occupied=bool(bucket.entries()))
        known = "fluxcube_version" in attrs
        return cls(bucket, number, place=bucket if known else None, kept=kept, occupied=True, written_here=known)

    def check(self, *, overwrite: bool) -> None:
        """Refuse to write where something exists, unless it is a store of fluxcube that may be replaced."""
        if self.occupied and not overwrite:
            raise StoreError(f"{self.bucket} exists: pass {overwrite_option()} to replace it, or write elsewhere.")
        if self.occupied and not self.written_here:
            raise StoreError(f"{self.bucket} was not written by fluxcube, and is not replaced: write elsewhere.")


def _attributes(root: bytes) -> dict[str, Any]:
    try:
        attrs = json.loads(root)["attributes"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return attrs if isinstance(attrs, dict) else {}


def _stamp(path: Path) -> tuple[bytes, bytes] | None:
    """Return what shows a change of a local store: its root, and its manifest with the digests of reports, too."""
    with contextlib.suppress(OSError):
        return (path / _ROOT).read_bytes(), (path / MANIFEST_FILE).read_bytes()
    return None


def _download(base: _Base, path: Path, progress: Progress | None) -> None:
    """Copy the current state to a folder, and compare it with its manifest."""
    source = base.place
    assert source is not None
    entries = source.entries()
    data = source.read(MANIFEST_FILE)
    expected = {} if data is None else parse_manifest(data, base.bucket)
    for key, (size, _) in expected.items():
        if key not in entries or entries[key].size != size:
            found = f"{entries[key].size} bytes" if key in entries else "none"
            raise StoreError(
                f"{base.bucket}: expected {size} bytes in the object {key}, found {found}: copy the store again."
            )
    if base.folder and not expected:
        raise StoreError(f"{base.bucket}: its state {source} is missing or has no manifest: copy the store again.")
    keys = [key for key in entries if not key.endswith("/")]  # others mark folders
    if outside := [key for key in keys if not is_inside(key)]:
        raise StoreError(f"{source}: the name of the object {outside[0]!r} leads out of the store: remove it.")
    _in_threads(lambda key: source.download(key, path / key), keys, progress, "download")


def _publish(lock: BucketLock, base: _Base, path: Path, *, keep: bool, progress: Progress | None) -> None:
    """Upload a finished store as a new state, make it the current one, and remove what is no longer needed."""
    attrs = _attributes((path / _ROOT).read_bytes())
    record = Record(base.number + 1, _folder(attrs), _kept(base, keep=keep))
    states = states_of(base.bucket)
    abandoned = _abandoned(base, states)
    with contextlib.ExitStack() as undo:
        undo.push(lambda kind, error, trace: _discard_after(kind, states / record.folder))
        _upload(base, path, states / record.folder, progress)
        if keep and base.place is base.bucket:
            _copy_direct(base, states / record.kept[-1])
        lock.check()
        _check_unchanged(base)
        undo.pop_all()  # from here on the record may exist, even if the service's answer is lost
    _commit(base, record)
    lock.check()
    _write_pointer(base, record, attrs)
    with _tolerated(base.bucket):
        _remove(states, abandoned)
        if base.place is base.bucket:
            _remove(base.bucket, _files_of_store(base.bucket))
        elif base.folder and not keep:
            _discard(states / base.folder)


def _folder(attrs: Mapping[str, Any]) -> str:
    return f"{attrs[STORE_ID]}-{os.urandom(_BYTES_OF_NUMBER).hex()}"


def _kept(base: _Base, *, keep: bool) -> tuple[str, ...]:
    """Return the folders of the states that stay beside the new one."""
    if not keep or base.place is None:
        return base.kept
    if base.folder:
        return (*base.kept, base.folder)
    attrs = _attributes(base.bucket.read(_ROOT) or b"")
    if STORE_ID not in attrs:
        raise StoreError(f"{base.bucket}: an earlier version wrote it, without an identifier: it cannot be kept.")
    return (*base.kept, _folder(attrs))


def _abandoned(base: _Base, states: Bucket) -> list[str]:
    """Return the objects of states that killed writers did not finish.

    They are listed before the new record is created and removed after it: a writer that was only stopped, and goes on
    meanwhile, finds its number taken.
    """
    known = {base.folder, *base.kept}
    found = [(key.partition("/")[0], key) for key in states.entries()]
    return [key for folder, key in found if folder not in known and not key.startswith("records/")]


def _upload(base: _Base, path: Path, target: Bucket, progress: Progress | None) -> None:
    """Write the objects of a new state, and compare their sizes with those of the files."""
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    same = _same_files(base, path)

    def send(key: str) -> None:
        if key in same and base.place is not None:
            base.place.copy(key, target, key)
        else:
            target.upload(key, files[key])

    _in_threads(send, files, progress, "upload")
    found = {key: entry.size for key, entry in target.entries().items()}
    for key, file in files.items():
        if found.get(key) != file.stat().st_size:
            raise StoreError(f"{base.bucket}: the object {key} did not arrive whole: write it again.")


def _same_files(base: _Base, path: Path) -> set[str]:
    """Return the files whose size and digest are those of the state before."""
    data = None if base.place is None else base.place.read(MANIFEST_FILE)
    if data is None:
        return set()
    before, now = parse_manifest(data, base.bucket), read_manifest(path) or {}
    return {key for key, entry in now.items() if before.get(key) == entry}


def _copy_direct(base: _Base, target: Bucket) -> None:
    """Copy a store that lies at the address itself to the states that are kept."""
    _in_threads(lambda key: base.bucket.copy(key, target, key), [*_files_of_store(base.bucket), _ROOT])


def _check_unchanged(base: _Base) -> None:
    """Raise a StoreError if something appeared at the address since the writer began."""
    if not base.occupied and base.bucket.entries():
        raise StoreError(
            f"{base.bucket} appeared while it was being written, and is not replaced: write to another name."
        )


def _commit(base: _Base, record: Record) -> None:
    """Create the record that makes a state the current one."""
    if states_of(base.bucket).create(record.key, record.encode()):
        return
    if read_record(base.bucket, record.number) != record:  # else the request was sent twice, and arrived
        raise StoreError(f"{base.bucket}: another writer published a state first; run again to write on top of it.")


def _write_pointer(base: _Base, record: Record, attrs: Mapping[str, Any]) -> None:
    """Write ``NAME/zarr.json``, which names the current state."""
    named = {
        "kind": attrs.get("kind"),
        STATE: record.folder,
        STORE_ID: attrs[STORE_ID],
        "long_name": f"the arrays are in {states_of(base.bucket).name}/{record.folder}",
    }
    data = json.dumps(GroupMetadata(attributes=named, zarr_format=3).to_dict()).encode()
    if base.occupied:
        base.bucket.write(_ROOT, data)
    elif not base.bucket.create(_ROOT, data):
        found = _attributes(base.bucket.read(_ROOT) or b"")
        if found.get(STATE) != record.folder:
            raise StoreError(f"{base.bucket} appeared while it was being written, and is not replaced.")


def _files_of_store(bucket: Bucket) -> list[str]:
    """Return the objects of the arrays and groups of a store that lies at an address, without its root."""
    keys = list(bucket.entries())
    nodes = {key.partition("/")[0] for key in keys if key.endswith(f"/{_ROOT}")}
    return [key for key in keys if "/" in key and key.partition("/")[0] in nodes]


def _discard_after(kind: type[BaseException] | None, state: Bucket) -> None:
    """Remove what was uploaded before an error; after an interrupt, the next writer does so."""
    if kind is not None and issubclass(kind, Exception):
        _discard(state)


def _discard(state: Bucket) -> None:
    with _tolerated(state):
        state.remove(_ROOT)  # first, so that no reader opens a state of which parts are gone
        _remove(state, state.entries())


def _remove(bucket: Bucket, keys: Iterable[str]) -> None:
    _in_threads(lambda key: bucket.remove(key), keys)


@contextmanager
def _tolerated(bucket: Bucket) -> Iterator[None]:
    """Log an error of removing what is no longer needed: the next writer removes it."""
    try:
        yield
    except StoreError as error:
        _log.warning("%s: objects that are no longer needed could not be removed (%s)", bucket, error)


def _in_threads(
    function: Callable[[str], None], keys: Iterable[str], progress: Progress | None = None, text: str = ""
) -> None:
    pool = ThreadPoolExecutor(_REQUESTS)
    try:
        futures = {pool.submit(function, key): key for key in keys}
        for done, future in enumerate(as_completed(futures), 1):
            future.result()
            if progress is not None:
                progress(done, len(futures), f"{text} {futures[future]}")
    finally:
        pool.shutdown(cancel_futures=True)
