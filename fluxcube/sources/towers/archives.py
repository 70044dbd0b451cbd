"""Open published files safely: plain files, gzip files, and entries of zips, which are never unpacked to disk."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Protocol

from fluxcube.errors import SourceError, printable

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

#: Maximum size of one entry in bytes: a tower's 30 years of half-hours with 270 columns are about 1 GB.
MAX_BYTES = 4 << 30
#: Maximum compression ratio of an entry of more than `_RATIO_FROM` bytes: tables of -9999 reach about 150.
MAX_RATIO = 300
#: Maximum compression ratio of a spreadsheet, whose cells are short texts.
MAX_SHEET_RATIO = 60
_RATIO_FROM = 64 << 20
_MAX_ENTRIES = 10_000
_BLOCK = 1 << 20

_SHORTEST_GZIP = 18

#: Compression methods of zips that Python reads, and names of others. Windows packs files of 2 GB and more with
#: Deflate64.
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
_METHODS |= {getattr(zipfile, "ZIP_ZSTANDARD", zipfile.ZIP_STORED)}
_OTHER_METHODS = {
    1: "Shrink",
    6: "Implode",
    9: "Deflate64",
    10: "PKWARE Implode",
    93: "Zstandard",
    95: "XZ",
    96: "JPEG",
    97: "WavPack",
    98: "PPMd",
    99: "AES",
}

# Errors of the standard library for archives that are cut, altered, or compressed by a method it does not know.
_BROKEN = (
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    UnicodeDecodeError,
    EOFError,
    OSError,
    NotImplementedError,
)


@dataclass(frozen=True, order=True)
class Location:
    """A file, or one entry of a zip.

    Examples
    --------
    >>> str(Location(Path("a.zip"), "b.csv"))
    'a.zip!b.csv'
    """

    path: Path
    member: str | None = None

    def __str__(self) -> str:
        """Return path and entry for messages, with control characters escaped."""
        return printable(f"{self.path}!{self.member}" if self.member else str(self.path))

    @property
    def name(self) -> str:
        """Name of the file itself, without folders."""
        # Some programs write a zip's folders with backslashes.
        return PurePosixPath(self.member.replace("\\", "/")).name if self.member else self.path.name


@dataclass(frozen=True)
class Entry:
    """What the directory of a zip states about one of its files.

    Attributes
    ----------
    name : str
        Name with folders.
    size : int
        Unpacked size in bytes.
    checksum : int
        CRC-32 of the unpacked bytes.
    date : tuple of int
        Year, month, day, hour, minute and second of its last change.
    fault : str
        Why it cannot be unpacked; "" if it can.
    """

    name: str
    size: int
    checksum: int
    date: tuple[int, ...]
    fault: str = ""


def is_zip(path: str | os.PathLike) -> bool:
    """Return whether a file is a zip, by its name."""
    return Path(path).suffix.lower() == ".zip"


def list_members(path: str | os.PathLike) -> tuple[str, ...]:
    """Return the names of the files in a zip, after checking that all of them are harmless.

    Raises
    ------
    SourceError
        If the zip is cut or broken, or an entry's name is absolute or has ``..``, or an entry is a link,
        encrypted, or larger than any tower file can be.
    """
    return tuple(entry.name for entry in list_entries(path))


def list_entries(path: str | os.PathLike) -> tuple[Entry, ...]:
    """Return what the directory of a zip states about its files, after checking that all of them are harmless.

    Raises
    ------
    SourceError
        As for `list_members`.
    """
    with _open_zip(Path(path)) as archive:
        return tuple(
            Entry(entry.filename, entry.file_size, entry.CRC, entry.date_time, _unknown_method(entry))
            for entry in archive.infolist()
            if not entry.is_dir()
        )


def checksum_of_gzip(path: str | os.PathLike) -> int:
    """Return the CRC-32 of the unpacked bytes that a gzip file states at its end.

    Raises
    ------
    SourceError
        If the file is missing, or too short for a gzip file.
    """
    with _open_plain(Path(path)) as plain:
        if os.fstat(plain.fileno()).st_size < _SHORTEST_GZIP:
            raise _broken(Location(Path(path)), EOFError("too short"))
        plain.seek(-8, os.SEEK_END)
        return struct.unpack("<I", plain.read(4))[0]


def check_zip(data: bytes, location: Location) -> None:
    """Check that the content of a spreadsheet is a zip whose entries are all harmless.

    Parameters
    ----------
    data : bytes
        Content of the file.
    location : Location
        The file, for messages.

    Raises
    ------
    SourceError
        As for `list_members`; and if the unpacked entries together are larger than those of any spreadsheet.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except _BROKEN as error:
        raise _broken(location, error) from error
    _check_entries(location.path if location.member is None else PurePosixPath(str(location)), entries)
    total = sum(entry.file_size for entry in entries)
    if total > max(_RATIO_FROM, MAX_SHEET_RATIO * len(data)):
        raise SourceError(
            f"{location}: {len(data)} bytes unpack to {total} bytes, more than any spreadsheet; check where "
            "the file came from"
        )


@contextmanager
def open_stream(location: Location, watch: Callable[[bytes], None] | None = None) -> Iterator[io.BufferedReader]:
    """Open a file for reading its uncompressed bytes.

    Parameters
    ----------
    location : Location
        A plain file, a ``.gz`` file, or an entry of a zip.
    watch : callable, optional
        Called with every block of bytes as it is read.

    Yields
    ------
    io.BufferedReader
        The uncompressed bytes.

    Raises
    ------
    SourceError
        If the file is missing, cut, broken or unsafe; also while the stream is read.
    """
    with ExitStack() as stack:
        raw, limit = _open_raw(location, stack)
        yield stack.enter_context(_Reader(_Stream(raw, location, limit, watch), _BLOCK))


class _Reader(io.BufferedReader):
    """A buffered reader that allocates no more memory than the file has bytes, however many are requested."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size <= _BLOCK:
            return super().read(size)
        blocks, left = [], size
        while left and (block := super().read(min(left, _BLOCK))):
            blocks.append(block)
            left -= len(block)
        return b"".join(blocks)


def size_of(location: Location) -> int:
    """Return the unpacked size of a file in bytes without unpacking it; for a gzip file, the size that it states.

    Raises
    ------
    SourceError
        If the file is missing, cut, broken or unsafe.
    """
    if location.member is not None:
        with _open_zip(location.path) as archive:
            return _entry(archive, location.path, location.member).file_size
    with _open_plain(location.path) as plain:
        size = os.fstat(plain.fileno()).st_size
        if location.path.suffix.lower() != ".gz" or size < 4:
            return size
        plain.seek(-4, os.SEEK_END)
        return struct.unpack("<I", plain.read(4))[0]


class _Readable(Protocol):
    """A file, an entry of a zip, or a gzip stream."""

    def read(self, size: int = -1, /) -> bytes: ...


class _Stream(io.RawIOBase):
    """Bytes of one location; broken compression and absurd sizes raise a SourceError that names the location."""

    def __init__(self, raw: _Readable, location: Location, limit: int, watch: Callable[[bytes], None] | None):
        self._raw, self._location, self._left, self._watch = raw, location, limit, watch

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        room = memoryview(buffer)
        try:
            block = self._raw.read(len(room))
        except _BROKEN as error:
            raise _broken(self._location, error) from error
        self._left -= len(block)
        if self._left < 0:
            raise _too_large(self._location)
        if self._watch is not None and block:
            self._watch(block)
        room[: len(block)] = block
        return len(block)


def _open_raw(location: Location, stack: ExitStack) -> tuple[_Readable, int]:
    """Return the uncompressed stream of a location and its maximum size in bytes."""
    if location.member is not None:
        return _open_member(location.path, location.member, stack)
    plain = stack.enter_context(_open_plain(location.path))
    if location.path.suffix.lower() != ".gz":
        return plain, MAX_BYTES
    size = os.fstat(plain.fileno()).st_size
    return stack.enter_context(gzip.GzipFile(fileobj=plain)), _limit(size)


def _open_member(path: Path, member: str, stack: ExitStack) -> tuple[_Readable, int]:
    archive = stack.enter_context(_open_zip(path))
    entry = _entry(archive, path, member)
    if fault := _unknown_method(entry):
        raise SourceError(f"{Location(path, member)}: {fault}")
    try:
        plain = stack.enter_context(archive.open(entry))
    except _BROKEN as error:
        raise _broken(Location(path, member), error) from error
    if not entry.filename.lower().endswith(".gz"):
        return plain, entry.file_size
    return stack.enter_context(gzip.GzipFile(fileobj=plain)), _limit(entry.file_size)


def _limit(size: int) -> int:
    """Return the maximum uncompressed size in bytes of a gzip file of `size` bytes."""
    return min(MAX_BYTES, max(_RATIO_FROM, MAX_RATIO * size))


def _entry(archive: zipfile.ZipFile, path: Path, member: str) -> zipfile.ZipInfo:
    try:
        return archive.getinfo(member)
    except KeyError:
        raise SourceError(
            f"{path}: no entry {member!r} in this zip; choose one that it has, such as "
            f"{', '.join(archive.namelist()[:3])}"
        ) from None


def check_regular(path: Path) -> None:
    """Refuse a pipe or a device, which may never end; a folder and a missing file are left to `open`.

    Raises
    ------
    SourceError
        If the path leads to a pipe, a socket or a device.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise SourceError(f"{path}: expected a file, found a pipe, socket or device; check its path")


def _open_plain(path: Path) -> io.BufferedReader:
    try:
        check_regular(path)
        return open(path, "rb")
    except OSError as error:
        raise SourceError(
            f"{path}: expected a readable file, found none ({error.strerror}); check its path and permissions"
        ) from error


@contextmanager
def _open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    with _open_plain(path) as plain:
        try:
            archive = zipfile.ZipFile(plain)
        except _BROKEN as error:
            raise _broken(Location(path), error) from error
        with archive:
            _check_entries(path, archive.infolist())
            yield archive


def _check_entries(path: PurePath, entries: list[zipfile.ZipInfo]) -> None:
    if len(entries) > _MAX_ENTRIES:
        raise SourceError(
            f"{path}: expected at most {_MAX_ENTRIES} entries in a zip, found {len(entries)} entries; unpack the files "
            "that you need"
        )
    names: set[str] = set()
    for entry in entries:
        fault = "occurs twice" if entry.filename in names else _fault(entry)
        if fault:
            raise SourceError(
                f"{path}: entry {entry.filename!r} {fault}; this zip is not read. Get it from its publisher"
            )
        names.add(entry.filename)


def _fault(entry: zipfile.ZipInfo) -> str:
    """Return what is wrong with an entry, "" when nothing is."""
    if not entry.filename:
        return "has no name"
    windows = PureWindowsPath(entry.filename)
    if entry.filename.startswith(("/", "\\")) or windows.drive:
        return "has an absolute name"
    if ".." in windows.parts:
        return "has '..' in its name"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "is a symbolic link"
    if entry.flag_bits & 1:
        return "is encrypted"
    if entry.file_size > MAX_BYTES:
        return f"is {entry.file_size >> 20} MiB large, more than the limit of {MAX_BYTES >> 20} MiB"
    if entry.file_size > max(_RATIO_FROM, MAX_RATIO * entry.compress_size):
        return f"grows from {entry.compress_size} to {entry.file_size} bytes, more than any table"
    return ""


def _unknown_method(entry: zipfile.ZipInfo) -> str:
    """Return what to do with an entry that is packed with a method that Python does not read; "" if it is read."""
    if entry.compress_type in _METHODS:
        return ""
    name = _OTHER_METHODS.get(entry.compress_type, f"method {entry.compress_type}")
    return f"packed with a method that Python does not read ({name}): unpack it, and what is in it is found"


def _broken(location: Location, error: Exception) -> SourceError:
    return SourceError(
        f"{location}: cut or broken ({error or type(error).__name__}), where a whole zip or gzip file was expected; "
        "download it again"
    )


def _too_large(location: Location) -> SourceError:
    return SourceError(f"{location}: far more bytes than a tower file can have; check where the file came from")
