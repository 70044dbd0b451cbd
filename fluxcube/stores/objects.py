"""Objects of a bucket (``s3://``, ``gs://``, ``az://``) below one URL: read, write, list, and create if absent.

A bucket has no rename, no hard links and no locks of the system. What makes writing to it safe is one operation that
all services have: creating an object only if there is none of that name. The server decides which of two writers was
first. fsspec's packages (s3fs, gcsfs, adlfs) send the requests; `storage_options` are theirs.
"""

from __future__ import annotations

import errno
import os
import sys
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxcube.errors import StoreError, missing_package

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem
    from zarr.storage import FsspecStore

#: The extra of fluxcube and the package of fsspec that reach each service.
_PACKAGES = {
    "s3": ("s3", "s3fs"),
    "s3a": ("s3", "s3fs"),
    "gs": ("gs", "gcsfs"),
    "gcs": ("gs", "gcsfs"),
    "az": ("az", "adlfs"),
    "abfs": ("az", "adlfs"),
    "abfss": ("az", "adlfs"),
}
#: Errors of the disk that a copy is written to; s3fs uses other numbers for what the service answers.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
#: Names under which the services' listings give the time of the last change.
_TIMES = ("LastModified", "updated", "last_modified", "mtime")


@dataclass(frozen=True)
class Entry:
    """An object in a listing.

    Attributes
    ----------
    size : int
        In bytes.
    modified : datetime.datetime
        Time of its last change, by the clock of the service, in UTC.
    """

    size: int
    modified: datetime


def is_bucket(path: object) -> bool:
    """Return whether a path lies in a bucket that can be written to.

    Examples
    --------
    >>> is_bucket("s3://b/carbonsense.zarr"), is_bucket("https://x.org/carbonsense.zarr"), is_bucket("carbonsense.zarr")
    (True, False, False)
    """
    return isinstance(path, Bucket) or (isinstance(path, str) and path.partition("://")[0] in _PACKAGES)


def place(path: str | os.PathLike | Bucket, storage_options: Mapping[str, object] | None = None) -> Path | Bucket:
    """Return a path of a disk, or a URL of a bucket, as the object that reads and writes there.

    Raises
    ------
    StoreError
        If it is another URL: as a path, it would name folders such as "https:", with the password of the URL.
    """
    if isinstance(path, Bucket):
        return path
    if "://" in str(path) and not is_bucket(path):
        raise StoreError(f"{path}: expected a path, or a URL of s3, gs or az; copy the files to one of these.")
    return Bucket(str(path), dict(storage_options or {})) if is_bucket(path) else Path(path)


@dataclass(frozen=True)
class Bucket:
    """A URL of a bucket, and the objects below it.

    Attributes
    ----------
    url : str
        Such as ``s3://bucket/folder/carbonsense.zarr``, without a last slash.
    options : mapping
        `storage_options` of fsspec. They may contain credentials, and are never printed.

    Raises
    ------
    StoreError
        By each method, if the service cannot be reached or refuses.
    """

    url: str
    options: Mapping[str, object] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        scheme, _, rest = self.url.partition("://")
        bucket, _, key = rest.rstrip("/").partition("/")
        if scheme not in _PACKAGES or not bucket or any(part in ("", ".", "..") for part in key.split("/") if key):
            raise StoreError(f"{self.url}: expected an address such as s3://bucket/folder/name.zarr; check it.")
        object.__setattr__(self, "url", f"{scheme}://{rest.rstrip('/')}")

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, key: str) -> Bucket:
        return Bucket(f"{self.url}/{key}", self.options)

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rpartition("/")[2]

    def beside(self, name: str) -> Bucket:
        """Return another name in the same folder."""
        folder = self.url.rpartition("/")[0]
        if folder.endswith(":/"):
            raise StoreError(f"{self.url}: expected a name in a bucket, found the bucket; add a name.")
        return Bucket(f"{folder}/{name}", self.options)

    def read(self, key: str = "") -> bytes | None:
        """Return the bytes of an object; None if there is none."""
        with self._requests() as files:
            try:
                return files.cat_file(self._path(key))
            except FileNotFoundError:
                return None

    def write(self, key: str, data: bytes) -> None:
        """Write an object in one piece; one of the same name is replaced."""
        with self._requests() as files:
            files.pipe_file(self._path(key), data)

    def create(self, key: str, data: bytes) -> bool:
        """Write an object if there is none of this name; return whether there was none."""
        with self._requests() as files:
            try:
                files.pipe_file(self._path(key), data, mode="create")
            except FileExistsError:
                return False
            except access_errors() as error:
                if _is_conflict(error):
                    return False
                raise
        return True

    def entries(self, key: str = "") -> dict[str, Entry]:
        """Return all objects below a key as they are now, by their names below this URL."""
        with self._requests() as files:
            try:
                found = files.find(self._path(key), detail=True)
            except FileNotFoundError:
                return {}
        start = len(self._path("").rstrip("/")) + 1
        return {
            path[start:]: Entry(int(about.get("size") or 0), _modified(about))
            for path, about in found.items()
            if about.get("type") == "file" and len(path) > start
        }

    def remove(self, *keys: str) -> None:
        """Remove objects; those that do not exist count as removed."""
        with self._requests() as files:
            for key in keys:
                try:
                    files.rm_file(self._path(key))
                except FileNotFoundError:
                    continue

    def copy(self, key: str, target: Bucket, target_key: str) -> None:
        """Copy an object within the service, so that its bytes do not travel through this machine."""
        with self._requests() as files:
            files.cp_file(self._path(key), target._path(target_key))

    def upload(self, key: str, file: Path) -> None:
        """Write an object from a file."""
        with self._requests() as files:
            files.put_file(str(file), self._path(key))

    def download(self, key: str, file: Path) -> None:
        """Write a file from an object (StoreError if there is none)."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with self._requests() as files:
            files.get_file(self._path(key), str(file))

    def zarr_store(self, *, read_only: bool) -> FsspecStore:
        """Return a Zarr store of the objects below this URL."""
        from zarr.storage import FsspecStore

        with self._requests():
            store = FsspecStore.from_url(self.url, storage_options=_fsspec_options(self.options), read_only=read_only)
            forget_exit_hooks(store.fs)
            return store

    def _path(self, key: str) -> str:
        base = self.url.partition("://")[2]
        return f"{base}/{key}" if key else base

    def _files(self) -> AbstractFileSystem:
        import fsspec

        scheme = self.url.partition("://")[0]
        return fsspec.filesystem(scheme, **_fsspec_options(self.options))

    @contextmanager
    def _requests(self) -> Iterator[AbstractFileSystem]:
        """Yield the file system, and turn its errors into a StoreError that repeats no credentials."""
        extra, package = _PACKAGES[self.url.partition("://")[0]]
        try:
            yield self._files()
        except ImportError as error:
            raise missing_package(package, extra, f"reaching {self.url}") from error
        except StoreError:
            raise
        except FileNotFoundError:
            raise StoreError(f"{self.url}: the bucket or the object does not exist; check the address.") from None
        except access_errors() as error:
            if isinstance(error, OSError) and error.errno in _FULL:
                raise StoreError(
                    f"{self.url}: no room for a copy of it ({os.strerror(error.errno)}); set TMPDIR to another disk."
                ) from None
            # The class only, and no traceback of it: the message of another library might repeat the credentials.
            raise StoreError(
                f"{self.url}: cannot be reached ({type(error).__name__}); check the address, storage_options and "
                "credentials."
            ) from None


def forget_exit_hooks(files: object) -> None:
    """Let an asynchronous file system end with the process.

    adlfs would close its client at exit in a loop that such a file system does not have, which prints a traceback.
    """
    registry = getattr(weakref.finalize, "_registry", {})
    for hook in [hook for hook in list(registry) if (about := hook.peek()) and about[0] is files]:
        if None in hook.peek()[2]:  # the loop that would be used
            hook.atexit = False


def access_errors() -> tuple[type[Exception], ...]:
    """Return the errors of a URL that cannot be reached, with those of the services' packages that are in use."""
    found: list[type[Exception]] = [OSError, ValueError, TypeError, RuntimeError]
    for module, names in (
        ("botocore.exceptions", ("BotoCoreError", "ClientError")),
        ("aiohttp", ("ClientError",)),
        ("gcsfs.retry", ("HttpError",)),
        ("google.auth.exceptions", ("GoogleAuthError",)),
        ("azure.core.exceptions", ("AzureError",)),
    ):
        if module in sys.modules:
            found += [getattr(sys.modules[module], name) for name in names]
    return tuple(found)


def _fsspec_options(options: Mapping[str, object]) -> dict[str, Any]:
    """Return options without the cache of listings, which would not show what other writers do."""
    return {"use_listings_cache": False, **options}


def _modified(about: Mapping[str, Any]) -> datetime:
    found = next((about[name] for name in _TIMES if about.get(name)), None)
    if isinstance(found, str):
        found = datetime.fromisoformat(found)
    if not isinstance(found, datetime):
        return datetime.now(UTC)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _is_conflict(error: Exception) -> bool:
    """Return whether a service refused to create an object because there is one, or another writer was quicker."""
    code = getattr(error, "code", None) or getattr(error, "status_code", None)
    text = f"{error} {error.__cause__ or ''}"
    return str(code) in ("409", "412") or any(word in text for word in ("PreconditionFailed", "ConditionalRequest"))
