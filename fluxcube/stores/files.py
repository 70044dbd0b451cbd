"""Write single files: each appears under its name when it is complete, and a full disk is reported by name."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fluxcube.errors import FluxcubeError, StoreError
from fluxcube.stores.swap import unwritable

#: Errors of a disk that accepts no more: full, over quota, read-only, a file too large, defective.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)


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
    temporary = path.with_name(f".{path.stem}.making-{os.getpid()}{path.suffix}")
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
