"""Write single files: each appears under its name when it is complete, and a full disk is reported by name."""

from __future__ import annotations

import errno
import functools
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from fluxcube.errors import FluxcubeError, StoreError
from fluxcube.stores.swap import unwritable

if TYPE_CHECKING:
    import pandas as pd

#: Errors of a disk that accepts no more: full, over quota, read-only, a file too large, defective.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)
#: Errors of a path that may not be written.
_DENIED = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def disk_errors(path: str | os.PathLike) -> Iterator[None]:
    """Raise errors of the disk in the block as a StoreError that names the path that is written.

    Parameters
    ----------
    path : path
        File, folder or store that the block writes.

    Raises
    ------
    StoreError
        If the disk is full, over quota, read-only or defective, or the path or something below it may not be written.
        Errors of other files, which the block reads, stay as they are.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, FluxcubeError) or not _is_written(error, Path(path).absolute()):
            raise
        place = path if error.errno in FULL else error.filename
        raise unwritable(Path(place), error) from error


def names_disk_errors(argument: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that applies `disk_errors` to a function, with the path in one of its arguments."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def named(*args: P.args, **kwargs: P.kwargs) -> R:
            with disk_errors(str(signature.bind(*args, **kwargs).arguments[argument])):
                return function(*args, **kwargs)

        return named

    return decorate


def _is_written(error: OSError, path: Path) -> bool:
    """Return whether an error is of the disk that is written: it accepts no more, or denies a path in that folder."""
    if error.errno in FULL:
        return True
    names = [Path(os.fsdecode(name)).absolute() for name in (error.filename, error.filename2) if _is_path(name)]
    return error.errno in _DENIED and any(_is_near(name, path) for name in names)


def _is_near(name: Path, path: Path) -> bool:
    """Return whether a file is beside a path, above or below it."""
    return name.parent == path.parent or name in path.parents or path in (name, *name.parents)


def _is_path(name: object) -> bool:
    return isinstance(name, str | bytes)


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary file beside `path`, and move it to `path` when the block ends without an error.

    Parameters
    ----------
    path : path
        File to write; an existing one stays until the new one is complete.

    Yields
    ------
    Path
        With the ending of `path`. It is removed if the block raises.

    Raises
    ------
    StoreError
        If the folder does not exist, or the disk does not accept the file.
    """
    path = Path(path)
    if not path.absolute().parent.is_dir():
        raise StoreError(f"cannot write {path}: the folder {path.parent} does not exist; make it first.")
    temporary = path.with_name(f".{path.stem}.making-{os.urandom(6).hex()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except FluxcubeError:
        raise
    except (OSError, RuntimeError) as error:
        if _is_of_disk(error, temporary):
            raise unwritable(path, error) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text in UTF-8, in one step; errors as of `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8")


def write_csv(path: str | os.PathLike, table: pd.DataFrame) -> None:
    """Write a table without its index as CSV, in one step; errors as of `replacing`."""
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False)


def visible_files(folder: Path) -> list[Path]:
    """Return the files of a folder and of its folders, sorted, without hidden ones.

    Hidden folders contain what is not complete: a fetch, or a copy, writes there first.
    """
    inside = (path for path in folder.rglob("*") if path.is_file())
    return sorted(p for p in inside if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def _is_of_disk(error: OSError | RuntimeError, temporary: Path) -> bool:
    """Return whether an error is of the file that is written, not of the data that are read for it.

    The NetCDF library reports every failure of the disk as a RuntimeError.
    """
    if not isinstance(error, OSError):
        return str(error).startswith("NetCDF:")
    named = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return error.errno in FULL or any(Path(name).name == temporary.name for name in named)
