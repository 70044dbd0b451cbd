"""Check that a file of ERA5 is complete: the lengths that it states, since the service publishes no checksums."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path

from fluxcube.errors import FetchError


def check_complete(path: Path) -> None:
    """Check the end of a NetCDF-4 or GRIB file, and the checksums inside a zip.

    Parameters
    ----------
    path : Path
        Files of other formats are accepted.

    Raises
    ------
    FetchError
        If the file was cut short, or is damaged; it is removed.
    """
    with open(path, "rb") as file:
        head = file.read(64)
    if head.startswith(b"PK"):
        problem = _fault_of_zip(path)
    elif head.startswith(b"GRIB"):
        problem = _fault_of_grib(path)
    else:
        problem = _fault_of_hdf5(path, head)
    if problem:
        path.unlink()
        raise FetchError(f"{path.name}: {problem}; it was removed. Run the same command again.")


def _fault_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        return f"the zip is damaged or was cut short ({error})"
    return f"its member {damaged} is damaged" if damaged else ""


def _fault_of_grib(path: Path) -> str:
    """Return whether each message has its end (``7777``) where its length states it."""
    size, position, number = path.stat().st_size, 0, 0
    with open(path, "rb") as file:
        while position < size:
            file.seek(position)
            head = file.read(16)
            if not head.startswith(b"GRIB") or len(head) < 16:
                return "" if number and not head.strip(b"\0") else f"message {number + 1} is damaged"
            number += 1
            length = int.from_bytes(head[8:16] if head[7] == 2 else head[4:7], "big")
            if head[7] != 2 and length & 0x800000:  # GRIB 1 counts large messages in units of 120 bytes
                return ""
            file.seek(max(position + length - 4, 0))
            if length < 16 or file.read(4) != b"7777":
                return f"message {number} is damaged or was cut short"
            position += length
    return ""


def _fault_of_hdf5(path: Path, head: bytes) -> str:
    """Return whether the file is shorter than its superblock states (HDF5 File Format Specification, II.A)."""
    if not head.startswith(b"\x89HDF"):
        return ""
    version = head[8]
    offsets = {0: (13, 40), 1: (13, 44), 2: (9, 28), 3: (9, 28)}
    if version not in offsets or head[offsets[version][0]] != 8:
        return ""
    start = offsets[version][1]
    end, size = int.from_bytes(head[start : start + 8], "little"), os.path.getsize(path)
    return f"expected {end} bytes, as its header states, found {size}" if size < end else ""
