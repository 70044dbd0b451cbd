"""Copy objects of a bucket to a folder of this machine, under names that cannot lie outside it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fluxcube.errors import FluxcubeError, StoreError
from fluxcube.stores.objects import Bucket, is_bucket

_FORBIDDEN = ("\\", ":", "\0", "\n", "\r", "\x1b")


def bucket_of(run: object, options: Mapping[str, object] | None = None) -> Bucket | None:
    """Return the bucket of a run that is passed as a URL, or as a result of `fluxcube.fit`; None if it is in none."""
    found = run if isinstance(run, Bucket) else getattr(run, "path", run)
    if isinstance(found, Bucket):
        return found
    return Bucket(found, dict(options or {})) if isinstance(found, str) and is_bucket(found) else None


def download(bucket: Bucket, names: Iterable[str], folder: Path) -> None:
    """Copy objects into a folder, which is created.

    Parameters
    ----------
    bucket : Bucket
        Its objects have the names relative to its URL.
    names : iterable of str
        Objects to copy, as `Bucket.entries` returns them.
    folder : Path
        Folder of this machine.

    Raises
    ------
    StoreError
        If a name would lie outside the folder, or an object cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        bucket.download(name, folder / checked_name(bucket, name))


def checked_name(bucket: Bucket, name: str) -> str:
    """Return the name of an object; refuse one that is no relative path of a file (StoreError)."""
    if any(part in ("", ".", "..") for part in name.split("/")) or any(text in name for text in _FORBIDDEN):
        raise StoreError(
            f"{bucket} contains an object with the name {name!r:.80}, which is no name of a file: remove it."
        )
    return name


@contextmanager
def downloaded(bucket: Bucket, accept: Callable[[str], bool]) -> Iterator[Path]:
    """Yield a temporary folder with those objects of a bucket whose names are accepted.

    Parameters
    ----------
    bucket : Bucket
        What to copy.
    accept : callable
        ``accept(name)``: whether to copy an object.

    Raises
    ------
    StoreError
        If the bucket cannot be reached.
    """
    with tempfile.TemporaryDirectory(prefix="fluxcube-") as temporary:
        folder = Path(temporary).resolve() / bucket.name
        with named_as(bucket, folder):
            download(bucket, [name for name in bucket.entries() if accept(name)], folder)
            yield folder


@contextmanager
def named_as(bucket: Bucket, folder: Path) -> Iterator[None]:
    """Let errors about a copy name the bucket that it is of, not the folder of this machine."""
    try:
        yield
    except FluxcubeError as error:
        if str(folder) not in str(error):
            raise
        raise type(error)(str(error).replace(str(folder), bucket.url)) from error
