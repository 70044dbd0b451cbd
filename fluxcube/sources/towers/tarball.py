"""List and read the files of a tar without unpacking it to disk, after checking all of its headers."""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from fluxcube.errors import SourceError

#: Maximum number of files in a tar: the published CarbonSense has some 2,000.
MAX_FILES = 200_000
#: Maximum size of one file in bytes, and maximum compression ratio of a tar that unpacks to more than `_RATIO_FROM`.
MAX_BYTES, MAX_RATIO = 4 << 30, 300
_RATIO_FROM = 64 << 20
_LONGEST_HEADER = 1 << 20

_MAGIC = {b"\x1f\x8b": gzip.GzipFile, b"BZh": bz2.BZ2File, b"\xfd7zXZ": lzma.LZMAFile}
# A header that describes the next one, which describes the next one, ends in a RecursionError.
_BROKEN = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Member:
    """A file of a tar: its name, and the position and number of its bytes in the uncompressed stream."""

    name: str
    offset: int
    size: int


def list_tar(path: str | os.PathLike) -> tuple[Member, ...]:
    """Return the files of a tar, after checking that all of its entries are harmless.

    Parameters
    ----------
    path : path
        Plain, or compressed by gzip, bzip2 or xz (recognised by its first bytes). A compressed one is read whole.

    Returns
    -------
    tuple of Member
        In the order of the tar, without folders. The list is cached until the file changes.

    Raises
    ------
    SourceError
        If the tar is cut or broken, or an entry's name is absolute, contains ``..`` or occurs twice, or an entry is a
        link, a device or larger than any file of such an archive.
    """
    path = Path(path)
    try:
        state = path.stat()
    except OSError as error:
        raise SourceError(f"{path}: expected a tar file, found none ({error.strerror}); check its path") from error
    return _listed(path, state.st_mtime_ns, state.st_size)


def read_member(path: str | os.PathLike, member: Member, limit: int) -> bytes:
    """Return the bytes of one file of a tar.

    Raises
    ------
    SourceError
        If the file is larger than `limit` bytes, or the tar is cut.
    """
    where = f"{path}!{member.name}"
    if member.size > limit:
        raise SourceError(f"{where}: {member.size} bytes, more than the {limit} that such a file may have")
    with _opened(Path(path)) as (stream, _):
        try:
            stream.seek(member.offset)
            data = stream.read(member.size)
        except _BROKEN as error:
            raise _broken(where, error) from error
    if len(data) != member.size:
        raise _broken(where, f"ends after {len(data)} of {member.size} bytes")
    return data


@functools.lru_cache(maxsize=4)
def _listed(path: Path, changed: int, size: int) -> tuple[Member, ...]:
    members: dict[str, Member] = {}
    with _opened(path) as (stream, compressed):
        try:
            with tarfile.open(fileobj=_Shallow(stream, path), mode="r:") as tar:
                for entry in tar:
                    _check(entry, members, path, max(_RATIO_FROM, MAX_RATIO * size) if compressed else size)
                    if not entry.isdir():
                        members[entry.name] = Member(entry.name, entry.offset_data, entry.size)
                end = tar.offset
            stream.seek(end)
            whole = stream.read(512) == bytes(512)
            if whole:
                _read_to_end(stream, path, max(_RATIO_FROM, MAX_RATIO * size))
        except _BROKEN as error:
            raise _broken(path, error) from error
    if not whole:
        raise _broken(path, "its end is missing")
    return tuple(members.values())


def _read_to_end(stream: io.BufferedIOBase, path: Path, room: int) -> None:
    """Refuse a tar with bytes behind its end; the checksum of a compressed one is compared there."""
    while block := stream.read(_LONGEST_HEADER):
        room -= len(block)
        if room < 0:
            raise SourceError(f"{path}: far more bytes behind its last file than a tar has; get it from its publisher")
        if block.count(0) < len(block):
            raise SourceError(f"{path}: files behind its end, as of two tars in one; get it from its publisher")


def _check(entry: tarfile.TarInfo, members: dict[str, Member], path: Path, room: int) -> None:
    fault = "occurs twice" if entry.name in members else _fault(entry, room)
    if len(members) >= MAX_FILES:
        fault = f"is one of more than {MAX_FILES}"
    if fault:
        raise SourceError(
            f"{path}: entry {entry.name[:200]!r} {fault}; this tar is not read. Get it from its publisher"
        )


def _fault(entry: tarfile.TarInfo, room: int) -> str:
    """Return what is wrong with an entry, "" when nothing is."""
    windows = PureWindowsPath(entry.name)
    if entry.name.startswith(("/", "\\")) or windows.drive:
        return "has an absolute name"
    if ".." in windows.parts:
        return "has '..' in its name"
    if entry.issym() or entry.islnk():
        return "is a link"
    if not entry.isdir() and entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        return "is not a plain file"
    if entry.size < 0 or entry.size > min(MAX_BYTES, room):
        return f"is {entry.size} bytes large, more than it can be"
    return ""


class _Shallow(io.RawIOBase):
    """The stream of a tar for reading its headers only: a long read cannot be that of a header, and is refused."""

    def __init__(self, stream: io.BufferedIOBase, path: Path):
        self._stream, self._path = stream, path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LONGEST_HEADER:
            raise SourceError(
                f"{self._path}: a header of {size} bytes, larger than in any regular tar; get it from its publisher"
            )
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


@contextmanager
def _opened(path: Path) -> Iterator[tuple[io.BufferedIOBase, bool]]:
    """Open the uncompressed stream of a tar; yield it, and whether the tar is compressed."""
    with ExitStack() as stack:
        try:
            plain = stack.enter_context(open(path, "rb"))
            start = plain.read(6)
            plain.seek(0)
        except OSError as error:
            raise SourceError(f"{path}: cannot be read ({error.strerror}); check its path") from error
        opener = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)
        if opener is None:
            yield plain, False
        else:
            yield stack.enter_context(gzip.GzipFile(fileobj=plain) if opener is gzip.GzipFile else opener(plain)), True


def _broken(where: object, error: object) -> SourceError:
    return SourceError(
        f"{where}: cut or broken ({str(error) or type(error).__name__}), where a whole tar was expected; download it "
        "again"
    )
