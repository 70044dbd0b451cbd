"""Unpack entries of a zip to disk for libraries that cannot read a stream, such as NetCDF's."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

from fluxcube.errors import SourceError
from fluxcube.sources.towers.archives import Location, list_members, open_stream, size_of

#: Bytes that stay free on the disk after unpacking.
_SPARE = 64 << 20


def unpack(path: str | os.PathLike, entry: str) -> Path:
    """Unpack one entry of a zip once, and keep the file for other processes of this user.

    Nothing is written before the names and sizes of all entries have been checked (`list_members`). The file is in a
    private folder of the user below the system's temporary one (TMPDIR). Its name is a hash of the zip's path, size,
    date and the entry's name, so that an entry's own name never becomes a path. It appears whole or not at all.

    Parameters
    ----------
    path : path
        Zip file.
    entry : str
        Name of the entry.

    Returns
    -------
    Path
        The unpacked file.

    Raises
    ------
    SourceError
        If the zip is broken or unsafe, or the disk has no room for the entry.

    See Also
    --------
    fluxcube.sources.towers.archives : for formats that are read as a stream and never unpacked to disk.
    """
    path = Path(path).resolve()
    list_members(path)
    location, state = Location(path, entry), path.stat()
    key = hashlib.sha256(f"{path}|{state.st_size}|{state.st_mtime_ns}|{entry}".encode()).hexdigest()[:32]
    folder = _own_folder()
    target, size = folder / f"{key}{Path(location.name).suffix}", size_of(location)
    if target.is_file() and target.stat().st_size == size:
        return target
    if (free := shutil.disk_usage(folder).free) < size + _SPARE:
        raise SourceError(
            f"{location}: needs {size >> 20} MiB to be unpacked in {folder}, where {free >> 20} MiB are free: free "
            "space, set TMPDIR to a larger disk, or unpack it yourself."
        )
    handle, part = tempfile.mkstemp(prefix=f"{key}.", suffix=".part", dir=folder)
    try:
        with os.fdopen(handle, "wb") as out, open_stream(location) as stream:
            shutil.copyfileobj(stream, out, 1 << 20)
        os.replace(part, target)
    finally:
        Path(part).unlink(missing_ok=True)
    return target


def _own_folder() -> Path:
    """Return a folder to which nobody else can write: in a shared folder others could create the same names first."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"fluxcube-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if not stat.S_ISDIR(state.st_mode) or (hasattr(os, "getuid") and (state.st_uid != user or state.st_mode & 0o077)):
        raise SourceError(f"{folder} must be a folder that belongs to you alone: remove it, or set TMPDIR.")
    return folder
