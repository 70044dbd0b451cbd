"""Select which of several files of one site and network are read, so that every time step of any of them is used.

Names decide where they state different years, versions or products. Where they do not, the time stamps of the tables
decide: a table is set aside only if another one has all of its time steps, or has the same bytes.
"""

from __future__ import annotations

import functools
import itertools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from fluxcube.errors import SourceError, printable
from fluxcube.sources.towers.archives import Entry, Location, checksum_of_gzip, is_zip, open_stream, size_of
from fluxcube.sources.towers.networks import DAILY_TABLE, Archive, networks
from fluxcube.sources.towers.selection import covers_years, is_interim, preference, release_order, version_numbers
from fluxcube.sources.towers.timesteps import SLOT, read_slots, time_of

#: Tables whose names differ in version, product or time step are compared by their time stamps up to this size in
#: bytes, which takes a fraction of a second; larger ones by their names alone.
MAX_COMPARED = 64 << 20
#: Date of the entries of a zip that was written without dates.
_NO_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Selection:
    """The archives of one site and network that are read, newest first, and the others with the reasons.

    Reasons are "" for tables that the publisher packed with a fuller one in the same zip; they need not be listed.
    """

    archives: tuple[Archive, ...]
    ignored: tuple[tuple[Archive, str], ...]


def select_archives(archives: Sequence[Archive], entries: Mapping[Location, Entry], *, daily: bool) -> Selection:
    """Select which archives of one site and network are read.

    Parameters
    ----------
    archives : sequence of Archive
        All of one site and one network.
    entries : mapping of Location to Entry
        What the directories of zips state about archives in zips.
    daily : bool
        Whether daily tables are preferred.

    Returns
    -------
    Selection
    """
    if len(archives) == 1:
        return Selection(tuple(archives), ())
    kept: list[_File] = []
    ignored: list[tuple[Archive, str]] = []
    for file in _ordered([_File(archive, entries.get(archive.location)) for archive in archives], daily):
        better = next((other for other in kept if _replaces(other, file)), None)
        if better is None:
            kept.append(file)
        else:
            ignored.append((file.archive, "" if _packed_with(better, file) else _reason(better, file)))
    return Selection(tuple(file.archive for file in kept), tuple(ignored))


@dataclass(eq=False)
class _File:
    """An archive, and what its file contains, which is read only where it is needed."""

    archive: Archive
    entry: Entry | None = None

    @property
    def fault(self) -> str:
        """Why the file cannot be read, as far as is known without reading it; "" otherwise."""
        if self.entry is not None:
            return self.entry.fault
        return "cut or broken" if is_zip(self.archive.path) and self.archive.member is None else ""

    @functools.cached_property
    def is_table(self) -> bool:
        """Whether the file is one readable table of one site, and not a publication of many sites."""
        network = networks().get(self.archive.network)
        several = network is None or network.refused or self.archive.path.is_dir() or bool(network.files)
        return not several and not self.fault

    @functools.cached_property
    def size(self) -> int:
        """Unpacked size in bytes; -1 where it is unknown."""
        if self.entry is not None:
            return self.entry.size
        try:
            return size_of(self.archive.location) if self.is_table else -1
        except SourceError:
            return -1

    @functools.cached_property
    def checksum(self) -> int:
        """CRC-32 of the unpacked bytes; -1 where they cannot be read."""
        if self.entry is not None:
            return self.entry.checksum
        try:
            if self.archive.path.suffix.lower() == ".gz":
                return checksum_of_gzip(self.archive.path)
            return _checksum(self.archive.location)
        except SourceError:
            return -1

    @functools.cached_property
    def slots(self) -> np.ndarray | None:
        """Every half-hour that the table has a row for, (n,) int64, ascending; None where that is unknown."""
        try:
            return read_slots(self.archive.location) if self.is_table else None
        except SourceError:
            return None

    @property
    def last(self) -> str:
        """End of the last row as text."""
        return "unknown" if self.slots is None else str(time_of(self.slots[-1] + 1))

    @property
    def date(self) -> tuple[int, ...]:
        """Date of the entry in its zip; the earliest one where there is none."""
        return _NO_DATE if self.entry is None else self.entry.date


def _ordered(files: list[_File], daily: bool) -> list[_File]:
    """Return files in the order of preference, by name; files whose names cannot tell them apart, by content."""
    files = sorted(files, key=lambda file: (bool(file.fault), *preference(file.archive, daily)))
    out: list[_File] = []
    for _, alike in itertools.groupby(files, lambda file: (bool(file.fault), release_order(file.archive, daily))):
        group = list(alike)
        same = not group[0].is_table or all(_identical(group[0], file) for file in group[1:])
        out += group if same else sorted(group, key=_by_content)
    return out


def _by_content(file: _File) -> tuple:
    """Return a sort key of files whose names do not state which is newer: the newest, then the fullest, comes first."""
    if file.slots is None:
        return True, 0, 0, (), ()
    date = tuple(-number for number in file.date)
    release = tuple(-number for number in _release_of_folder(file.archive))
    return False, -int(file.slots[-1]), -len(file.slots), date, release


def _release_of_folder(archive: Archive) -> tuple[int, ...]:
    """Return the numbers in the name of the folder, such as (2024, 1) of ``icos_2024-1``."""
    return version_numbers(_folder_of(archive))


def _folder_of(archive: Archive) -> str:
    """Return the name of the folder of a table, in its zip or on the disk."""
    inner = PurePosixPath((archive.member or "").replace("\\", "/")).parent.name
    return inner or archive.path.absolute().parent.name


def _replaces(other: _File, file: _File) -> bool:
    """Return whether one file makes another one unnecessary."""
    if not covers_years(other.archive, file.archive):
        return False
    if file.fault:
        return not other.fault
    if not (other.is_table and file.is_table) or _identical(other, file) or _packed_with(other, file):
        return True
    differ = bool(_difference(other.archive, file.archive))
    stated = None not in (other.archive.first_year, file.archive.first_year)
    if differ and stated and max(other.size, file.size) > MAX_COMPARED:
        return True
    if other.slots is None or file.slots is None:
        return differ  # the names state that it is older or smaller; otherwise reading it reports what is wrong
    return len(file.slots) <= len(other.slots) and bool(np.isin(file.slots, other.slots, assume_unique=True).all())


def _identical(one: _File, other: _File) -> bool:
    return one.size == other.size != -1 and one.checksum == other.checksum != -1


def _packed_with(better: _File, file: _File) -> bool:
    """Return whether a publisher packed two products, or the days and the hours, of the same years into one zip."""
    one, two = better.archive, file.archive
    if one.path != two.path or one.version != two.version or is_interim(one) != is_interim(two):
        return False
    other_step = (one.resolution == DAILY_TABLE) != (two.resolution == DAILY_TABLE)
    return one.product != two.product or other_step


def _difference(better: Archive, archive: Archive) -> str:
    """Return which part of their names differs: "version", "product", "resolution" or ""."""
    for what in ("version", "product", "resolution"):
        one, two = getattr(better, what), getattr(archive, what)
        if one and two and one != two:
            return what
    return ""


def _reason(better: _File, file: _File) -> str:
    """Return why a file is not read, as a text that names the file that is read instead."""
    name = name_beside(better.archive, file.archive)
    if file.fault:
        return f"{file.fault}; {name} of the same site is read instead"
    network = networks()[file.archive.network]
    if network.refused:
        return f"{network.name}, which is not read; see {name}"
    if what := _difference(better.archive, file.archive):
        one, two = getattr(better.archive, what), getattr(file.archive, what)
        return f"{what} {two}: {one} of the same site and years is read instead, from {name}"
    if not (better.is_table and file.is_table):
        return f"{network.name} has one publication of a site, which is read from {name} instead"
    if _identical(better, file):
        return f"the same data as {name}, which is read instead"
    return f"{name} has all of its time steps and is read instead: {_why_newer(better, file)}"


def _why_newer(better: _File, file: _File) -> str:
    """Return why the other one of two tables with different values is taken for the newer one."""
    if is_interim(file.archive) != is_interim(better.archive):
        return "this is an INTERIM table, the other one the final table"
    if better.slots is None or file.slots is None or better.slots[-1] != file.slots[-1]:
        return f"this table ends at {file.last}, the other one at {better.last}"
    if len(better.slots) != len(file.slots):
        hours = (f"{len(slots) * SLOT / 60:g}" for slots in (file.slots, better.slots))
        return "this table has {} hours, the other one {}".format(*hours)
    if better.date != file.date:
        return f"this table was packed on {_day(file.date)}, the other one on {_day(better.date)}"
    if _release_of_folder(better.archive) != _release_of_folder(file.archive):
        return f"{_folder_of(better.archive)} is a newer release than {_folder_of(file.archive)}"
    return (
        "other bytes with the same time steps, and neither names nor dates state which table is newer; remove the older"
    )


def _day(date: Sequence[int]) -> str:
    return "an unknown date" if date == _NO_DATE else "{:04d}-{:02d}-{:02d}".format(*date)


def name_beside(archive: Archive, other: Archive) -> str:
    """Return the shortest name of an archive that differs from that of another one.

    Examples
    --------
    >>> from pathlib import Path
    >>> table = dict(site="XX-One", network="", product="", resolution="")
    >>> one, two = (Archive(path=Path(path), member="t.csv", **table) for path in ("a/t.zip", "b/t.zip"))
    >>> name_beside(one, two)
    'a/t.zip'
    """
    if archive.path == other.path:
        names = [Location(a.path, a.member).name for a in (archive, other)]
        return printable(names[0] if names[0] != names[1] else str(archive.member))
    parts, others = archive.path.parts, other.path.parts
    count = next((n for n in range(1, len(parts) + 1) if parts[-n:] != others[-n:]), len(parts))
    return printable("/".join(parts[-count:]))


def name_among(archive: Archive, archives: Sequence[Archive]) -> str:
    """Return the name of an archive's table, with as many of its folders as distinguish it from the other archives.

    Examples
    --------
    >>> from pathlib import Path
    >>> table = dict(site="XX-One", network="", product="", resolution="")
    >>> pair = [Archive(path=Path(path), **table) for path in ("a/t.csv", "b/t.csv")]
    >>> name_among(pair[0], pair[:1]), name_among(pair[0], pair)
    ('t.csv', 'a/t.csv')
    """
    others = [other.location for other in archives if other.location != archive.location]
    if archive.location.name not in {other.name for other in others}:
        return archive.location.name
    ending = f"!{archive.member}" if archive.member else ""
    parts = archive.path.parts
    for count in range(1, len(parts) + 1):
        if all((other.path.parts[-count:], other.member) != (parts[-count:], archive.member) for other in others):
            return "/".join(parts[-count:]) + ending
    return f"{archive.path}{ending}"


def _checksum(location: Location) -> int:
    checksum = 0
    with open_stream(location) as stream:
        while block := stream.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum
