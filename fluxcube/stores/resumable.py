"""The life of a store that is written region by region, on a disk or in a bucket: locked, created, finished, removed.

On a disk such a store may be replaced. In a bucket it is written once: a bucket cannot rename, so that a replacement
could not be complete or absent.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from zarr.core.group import GroupMetadata

from fluxcube.errors import StoreError, overwrite_option
from fluxcube.stores.bucket_lock import BucketLock, bucket_lock
from fluxcube.stores.building import finish, remove, store_lock
from fluxcube.stores.ledger import check_recorded, recorded_files
from fluxcube.stores.lock import WriterLock
from fluxcube.stores.manifest import LEDGER, MANIFEST
from fluxcube.stores.objects import Bucket, is_bucket, place
from fluxcube.stores.reading import is_url, store_attrs
from fluxcube.stores.swap import placing
from fluxcube.stores.uploads import download, upload_new, work_folder

_ROOT = "zarr.json"
_URL_AS_PATH = re.compile(r"(s3|s3a|gs|gcs|az|abfs|abfss):/(?!/)")

Place = Path | Bucket


def target(path: str | os.PathLike, storage_options: Mapping[str, object] | None = None) -> Place:
    """Return the place of a store that is to be written, from its path or URL.

    Raises
    ------
    StoreError
        If it is the URL of a service that is only read, such as https, or a URL that became a Path.
    """
    if not is_url(path) and _URL_AS_PATH.match(os.fspath(path)):
        raise StoreError(f"{path}: pass a URL as text; as a Path it loses a slash.")
    if is_url(path) and not is_bucket(path):
        raise StoreError(f"{path}: expected a path, or a URL of s3, gs or az; stores at other URLs are only read.")
    found = place(path, storage_options)
    return found if isinstance(found, Bucket) else found.absolute()


def address(place: Place) -> tuple[Path | str, Mapping[str, object] | None]:
    """Return a place as the path (or URL) and the storage options that `fluxcube.stores.reading` expects."""
    return (place.url, place.options) if isinstance(place, Bucket) else (place, None)


def exists(place: Place) -> bool:
    """Return whether there is a store, or on a disk anything else, at a place."""
    return place.read(_ROOT) is not None if isinstance(place, Bucket) else place.exists()


def is_readable(place: Place) -> bool:
    """Return whether this process finds a store at a place."""
    return place.read(_ROOT) is not None if isinstance(place, Bucket) else (place / _ROOT).is_file()


def attrs_of(place: Place) -> dict[str, object]:
    """Return the attributes of the store at a place (StoreError if there is none)."""
    if not isinstance(place, Bucket):
        return store_attrs(place)
    if (root := place.read(_ROOT)) is None:
        raise StoreError(f"{place}: no store there; check the address.")
    try:
        return dict(json.loads(root)["attributes"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"{place}/{_ROOT}: expected the metadata of a Zarr group, found other content.") from error


@contextmanager
def writing(place: Place) -> Iterator[WriterLock | BucketLock]:
    """Lock a place against other writers until the block ends.

    Raises
    ------
    StoreError
        If another process or thread is writing it, or its parent folder does not exist.
    """
    if isinstance(place, Bucket):
        with bucket_lock(place) as lock:
            yield lock
        return
    if not place.parent.is_dir():
        raise StoreError(f"cannot write {place}: the folder {place.parent} does not exist; make it first.")
    with store_lock(place) as disk_lock:
        yield disk_lock


@contextmanager
def creating(place: Place) -> Iterator[Path]:
    """Yield a folder to create a store in (`fluxcube.stores.arrays.create`), and move or send it to its place.

    Raises
    ------
    StoreError
        If something is there that this call did not write, the disk is full, or the service cannot be reached.
    """
    if not isinstance(place, Bucket):
        with placing(place) as folder:
            yield folder
        return
    with work_folder() as parent:
        folder = parent / "store"
        yield folder
        (folder / LEDGER).mkdir()
        (folder / LEDGER / _ROOT).write_text(json.dumps(GroupMetadata(zarr_format=3).to_dict()), "utf-8")
        upload_new(folder, place)


def replacing_advice(place: Place) -> str:
    """Return what to do about a store that is in the way, as the end of a message."""
    if isinstance(place, Bucket):
        return (
            "stores in buckets are not replaced; choose another name, or remove it with the tool of the service first."
        )
    return f"pass {overwrite_option()} to replace it, or choose another path."


def remove_old(place: Place) -> None:
    """Remove a store of a disk that is replaced; refuse to do so in a bucket (StoreError)."""
    if isinstance(place, Bucket):
        raise StoreError(f"{place} exists: {replacing_advice(place)}")
    remove(place)


def remove_new(place: Place) -> None:
    """Remove a store that this process created and in which no region is written."""
    if isinstance(place, Bucket):
        place.remove(_ROOT)  # first, so that no half of a store opens
        place.remove(*place.entries())
    else:
        remove(place)


def finish_regions(place: Place, lock: WriterLock | BucketLock, attrs: Mapping[str, object] | None = None) -> None:
    """Mark a store as complete and write its manifest, as `fluxcube.stores.building.finish` does.

    In a bucket, the digests are those that were recorded with the regions. Only objects without a record (coordinates,
    metadata), and those that changed after their record, are read.

    Raises
    ------
    StoreError
        If another writer took over the lock, or an object that was written is missing.
    """
    lock.check()
    if not isinstance(place, Bucket):
        check_recorded(place)
        finish(place, attrs)
        return
    listed = place.entries()
    known = {
        key: entry
        for key, (entry, recorded) in recorded_files(place, listed).items()
        if listed[key].size == entry[0] and listed[key].modified <= recorded
    }
    other = [key for key in listed if key not in known and not key.startswith((f"{LEDGER}/", f"{MANIFEST}/"))]
    with work_folder() as folder:
        download(place, other, folder)
        finish(folder, attrs, known=known)
        for file in sorted((folder / MANIFEST).iterdir()):
            place.upload(f"{MANIFEST}/{file.name}", file)
        lock.check()
        place.upload(_ROOT, folder / _ROOT)
