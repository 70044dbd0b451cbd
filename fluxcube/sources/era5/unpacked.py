"""Unpack entries of a zip that only a library can read from a file of its own, such as NetCDF."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

from fluxcube.errors import SourceError
from fluxcube.sources.towers.archives import Location, list_members, open_stream, size_of

#: Room left on the disk beside what is unpacked.
_SPARE = 64 << 20


def unpack(path: str | os.PathLike, member: str) -> Path:
    """Return a file that holds one entry of a zip, unpacked once and kept for other processes of this user.

    Nothing is written before every entry's name and size has been found harmless (`list_members`). The file lies in a
    folder of the user's own below the system's temporary one (TMPDIR), under a name that the zip's path, size and date
    and the entry tell; what the entry calls itself makes no path. It appears whole or not at all.

    Raises
    ------
    SourceError
        If the zip is broken or unsafe, or the disk has no room for the entry.

    See Also
    --------
    fluxcube.sources.towers.archives : for all that can be read as a stream, which is never unpacked to disk.
    """
    path = Path(path).resolve()
    list_members(path)
    location, about = Location(path, member), path.stat()
    key = hashlib.sha256(f"{path}|{about.st_size}|{about.st_mtime_ns}|{member}".encode()).hexdigest()[:32]
    folder = _own_folder()
    target, size = folder / f"{key}{Path(location.name).suffix}", size_of(location)
    if target.is_file() and target.stat().st_size == size:
        return target
    if (free := shutil.disk_usage(folder).free) < size + _SPARE:
        raise SourceError(
            f"{location}: needs {size >> 20} MiB to be unpacked in {folder}, where {free >> 20} MiB are free: make "
            "room, set TMPDIR to a larger disk, or unpack it yourself."
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
    """A folder that nobody else can write to: names in a shared temporary folder could be taken by others first."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"fluxcube-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode) or (hasattr(os, "getuid") and (about.st_uid != user or about.st_mode & 0o077)):
        raise SourceError(f"{folder} must be a folder that belongs to you alone: remove it, or set TMPDIR.")
    return folder
