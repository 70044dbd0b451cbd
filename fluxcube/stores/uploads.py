"""Write the files of a store to a bucket: to a folder of this machine first, then as objects.

The objects therefore equal the files of the same store on a disk, byte by byte, and so does its ``store_id``. The size
and the digest of each object are taken from the file that was sent, so that no value is read back.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from fluxcube.errors import StoreError
from fluxcube.stores.files import FULL
from fluxcube.stores.manifest import Entries, file_entries
from fluxcube.stores.objects import Bucket

_ROOT = "zarr.json"
#: Number of requests at once.
_THREADS = 16


@contextmanager
def work_folder() -> Iterator[Path]:
    """Yield an empty folder among the temporary files of this machine, and remove it at the end.

    Raises
    ------
    StoreError
        If it cannot be created, or its disk is full.
    """
    try:
        temporary = tempfile.TemporaryDirectory(prefix="fluxcube-", ignore_cleanup_errors=True)
    except OSError as error:
        raise StoreError(
            f"no temporary folder can be created ({error}): set TMPDIR to a folder of your own."
        ) from error
    with temporary as folder:
        try:
            yield Path(folder)
        except OSError as error:
            if isinstance(error, StoreError) or error.errno not in FULL:
                raise
            raise StoreError(
                f"cannot write to the temporary folder {folder} ({error.strerror}): make room there, or set TMPDIR to "
                "a larger disk."
            ) from error


def upload_new(folder: Path, bucket: Bucket) -> None:
    """Create a store in a bucket from a folder; its root is created last, so that it opens only when it is whole.

    Objects that a killed run of the same call left there are kept, since they are equal.

    Raises
    ------
    StoreError
        If there are other objects, which are never replaced; or if another writer created the store meanwhile.
    """
    files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    if others := sorted(bucket.entries().keys() - files.keys()):
        raise _not_empty(bucket, others[0])
    create = functools.partial(_create, bucket, folder)
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(create, [key for key in files if key != _ROOT]))
    if not bucket.create(_ROOT, files[_ROOT].read_bytes()):
        raise StoreError(f"{bucket}: another writer created it meanwhile; choose another name.")


def _create(bucket: Bucket, folder: Path, key: str) -> None:
    data = (folder / key).read_bytes()
    if not bucket.create(key, data) and bucket.read(key) != data:
        raise _not_empty(bucket, key)


def _not_empty(bucket: Bucket, key: str) -> StoreError:
    return StoreError(
        f"{bucket} contains objects that do not belong to this store, such as {key}, and they are not replaced: choose "
        "another name, or remove them with the tool of the service."
    )


def send_shards(bucket: Bucket, name: str, write: Callable[[Path], Iterable[str]]) -> Entries:
    """Write shards of an array to a folder, and send them to a bucket.

    Parameters
    ----------
    bucket : Bucket
        The store.
    name : str
        Its array.
    write : callable
        Writes the shards to a store on a disk, whose folder is its argument, and returns their keys. A shard that has
        no file, because it contains only the fill value, is removed from the bucket.

    Returns
    -------
    dict of str to (int, str)
        Size and digest of each shard that has a file.

    Raises
    ------
    StoreError
        If there is no such array, the service cannot be reached, or the disk of the temporary files is full.
    """
    if (metadata := bucket.read(f"{name}/{_ROOT}")) is None:
        raise StoreError(f"{bucket}: has no array {name}; check its name.")
    with work_folder() as folder:
        (folder / name).mkdir()
        (folder / name / _ROOT).write_bytes(metadata)
        keys = write(folder)
        entries = {key: entry for key, entry in file_entries(folder).items() if "/c/" in key}
        for key in entries:
            bucket.upload(key, folder / key)
        bucket.remove(*(key for key in keys if key not in entries))
    return entries


def download(bucket: Bucket, keys: Iterable[str], folder: Path) -> None:
    """Download objects to the files of the same names in a folder, several at once."""
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda key: bucket.download(key, folder / key), keys))


def read_all(bucket: Bucket, keys: Iterable[str]) -> list[bytes]:
    """Return the bytes of objects, in the same order; b"" for one that does not exist."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return [data or b"" for data in pool.map(bucket.read, keys)]
