"""Find tower archives and site metadata in folders, and select which of them are read.

File names and the directories of zips and tars are read, and time stamps where these do not suffice.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fluxcube.errors import ConfigError, SourceError, printable
from fluxcube.sources.towers.archives import Entry, Location, is_zip, list_entries
from fluxcube.sources.towers.networks import (
    DAILY_TABLE,
    Archive,
    Network,
    has_table_ending,
    is_badm,
    is_hidden,
    network_of_file,
    networks,
    orders,
    parse_name,
    parse_stem,
)
from fluxcube.sources.towers.overlap import select_archives
from fluxcube.sources.towers.readers import reader_of_network
from fluxcube.sources.towers.selection import (
    first_names,
    is_daily,
    preference,
    reason_to_ignore,
    reason_without_daily,
    tables_in_zip,
    version_numbers,
)
from fluxcube.sources.towers.sitenames import fault_of_site, find_twins

#: A MODIS product in the name of a table.
_SATELLITE = re.compile(r"(?<![A-Za-z])M[COY]D(\d\d[A-Z]|OC)\w*", re.IGNORECASE)
_TAR = re.compile(r"(?i)\.(tar|tar\.gz|tgz|tar\.xz|tar\.bz2)$")
_PACKED = (".7z", ".rar", ".bz2", ".xz", ".zst", ".lz4", ".z")
_BINARY = (".nc", ".nc4", ".h5", ".hdf5", ".parquet", ".feather", ".mat", ".rdata", ".rds")
_SPREADSHEETS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")
#: Files of one folder of CarbonSense v1, which contains one window of a site.
_WINDOW_FILES = {"meta.json", "predictors.csv", "targets.csv"}

#: Maximum number of files of one site and network whose order is distinguished.
_FILES_OF_A_SITE = 1000


@dataclass(frozen=True)
class Discovery:
    """The files that were found under the raw folders.

    Attributes
    ----------
    archives : tuple of Archive
        Archives to read, by site and then rank.
    badm : tuple of Location
        Files of site metadata, for `read_badm`.
    bad_sites : tuple of (str, str)
        Sites whose name cannot be that of a site (`fluxcube.sources.towers.sitenames`): the name with control
        characters escaped, and what is wrong with it.
    ignored : tuple of (str, str)
        Every other csv, gz, zip and tar file, and every other file with the name of a tower's archive: its path, and
        why it is ignored.
    """

    archives: tuple[Archive, ...]
    badm: tuple[Location, ...]
    ignored: tuple[tuple[str, str], ...]
    bad_sites: tuple[tuple[str, str], ...] = ()

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites that have an archive."""
        return tuple(dict.fromkeys(archive.site for archive in self.archives))


def discover(
    raw: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    order: str = "newest",
    resolution: str = "hourly",
) -> Discovery:
    """Find tower archives and site metadata under one or more folders, by name.

    Files are read as published: zip, csv or csv.gz, and the published CarbonSense as a tar, its folders, or an SQLite
    file. Only file names and the directories of zips and tars are read (a tar.gz has no directory and is read whole),
    and the time stamps of tables where a site has several of one network that their names do not distinguish. Of one
    network's archives of a site, those whose time steps another one has (an older version, a SUBSET beside its
    FULLSET, an unpacked copy) are ignored and listed as such; of the others, the newest supplies a value that several
    have. A zip that cannot be listed, and AmeriFlux BASE where a site has
    nothing else, stay in the list: reading them reports what is wrong.

    Parameters
    ----------
    raw : path or sequence of paths
        Folders, which are searched with their subfolders (except hidden ones), or files.
    order : {"newest", "paper"}
        Which network is preferred where several contain a site.
    resolution : {"hourly", "daily"}
        With "daily": each network's daily (DD) tables and, where those do not cover its half-hourly or hourly archive
        of a site, that archive, from which daily values can be computed.

    Returns
    -------
    Discovery

    Raises
    ------
    SourceError
        If a path does not exist.
    ConfigError
        If there is no such order or resolution.
    """
    if order not in orders():
        raise ConfigError(f"order={order!r}: expected one of {', '.join(orders())}")
    roots = [raw] if isinstance(raw, (str, os.PathLike)) else list(raw)
    search = _Search(daily=is_daily(resolution))
    for path in _files([Path(root) for root in roots], search.ignored):
        _add_path(path, search)
    bad_sites = _remove_bad_sites(search)
    archives = [replace(archive, rank=_rank(archive, order)) for archive in _selected(search)]
    archives.sort(key=lambda archive: (archive.site, archive.rank, *preference(archive, search.daily)))
    return Discovery(tuple(archives), tuple(search.badm), tuple(search.ignored), bad_sites)


@dataclass
class _Search:
    """The files found so far."""

    daily: bool = False
    archives: list[Archive] = field(default_factory=list)
    badm: list[Location] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)
    entries: dict[Location, Entry] = field(default_factory=dict)

    def ignore(self, path: object, why: str) -> None:
        self.ignored.append((printable(str(path)), printable(why)))


def _files(roots: Iterable[Path], ignored: list[tuple[str, str]]) -> Iterator[Path]:
    """Yield every candidate file once, in order of name."""
    seen: set[Path] = set()
    for root in roots:
        if not root.exists():
            raise SourceError(f"{root}: no such file or folder, where tower files were expected; check its path")
        for path in [root] if root.is_file() else _walk(root, ignored):
            if not _is_candidate(path):
                continue
            if not (path.is_file() or path.is_dir()):  # a pipe or a device may never end
                ignored.append((printable(str(path)), "no regular file: a link without a target, a pipe or a device"))
            elif path.resolve() not in seen:
                seen.add(path.resolve())
                yield path


def _walk(root: Path, ignored: list[tuple[str, str]]) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in folders:
            path = os.path.join(folder, name)
            if os.path.islink(path):
                ignored.append((printable(path), "a link to a folder: add its target to the folders"))
        if _WINDOW_FILES.issubset(names):
            yield Path(folder).absolute().parent
            continue
        yield from (Path(folder, name) for name in sorted(names) if not is_hidden(name))


def _is_candidate(path: Path) -> bool:
    name = path.name
    known = bool(has_table_ending(name) or _TAR.search(name) or network_of_file(name)) or is_badm(path) or path.is_dir()
    return known or parse_stem(name, path) is not None


def _remove_bad_sites(search: _Search) -> tuple[tuple[str, str], ...]:
    """Remove the archives of sites with an impossible name, or one that differs from another in case only.

    Return these names, and what is wrong with them.
    """
    files = {archive.site: archive.path.name for archive in search.archives}
    faults = {site: f"{name}: {fault_of_site(site)}" for site, name in files.items() if fault_of_site(site)}
    for site, other in find_twins(sorted(files.keys() - faults.keys())).items():
        faults[site] = f"{files[site]}: its name differs from that of {other} in case only; rename one of the two sites"
    search.archives = [archive for archive in search.archives if archive.site not in faults]
    return tuple((printable(repr(site)), printable(why)) for site, why in sorted(faults.items()))


def _add_path(path: Path, search: _Search) -> None:
    """Add one file, or the folder of a site, to the archives, the metadata, or the ignored files."""
    if path.is_dir():
        search.archives.append(_whole_file(path, path.name, "CarbonSense v1"))
    elif network := network_of_file(path.name):
        _add_sites(path, network, search)
    elif _TAR.search(path.name):
        search.ignore(path, "a tar file: unpack it, and its files are found")
    elif is_badm(path):
        search.badm.append(Location(path))
    elif is_zip(path):
        _add_zip(path, search)
    elif not has_table_ending(path.name):
        search.ignore(path, _reason_of_ending(path))
    else:
        _add_table(path, search)


def _reason_of_ending(path: Path) -> str:
    if path.suffix.lower() in _SPREADSHEETS:
        return "a spreadsheet: save it as CSV under the same name, with the extension .csv"
    if path.suffix.lower() in _PACKED:
        return f"packed as {path.suffix}, which is not read: unpack it, and the CSV or zip file in it is found"
    if path.suffix.lower() in _BINARY:
        return f"{path.suffix} files are not read: save it as CSV under the same name, with the extension .csv"
    return "the name of a tower's archive without .zip, .csv or .csv.gz: add the extension again"


def _add_table(path: Path, search: _Search) -> None:
    archive = parse_name(path.name)
    reason = reason_to_ignore(archive, search.daily)
    if archive is None and _SATELLITE.search(path.name):
        reason = (
            "named after a MODIS product: reflectance is read with --surface (chips with --modis), other variables are "
            "predictors of fluxcube.add_predictor"
        )
    if archive is None or reason:
        search.ignore(path, reason)
    else:
        search.archives.append(replace(archive, path=path))


def _whole_file(path: Path, site: str, network: str, member: str | None = None) -> Archive:
    """Return the archive of a site in a file or folder whose name states nothing else."""
    return Archive(path=path, member=member, site=site, network=network, product="", resolution="")


def _add_sites(path: Path, network: Network, search: _Search) -> None:
    """Add every site of a file that contains many sites."""
    try:
        sites = reader_of_network(network).list_sites(path)
    except SourceError as error:
        search.ignore(path, str(error))
        return
    search.archives.extend(_whole_file(path, site, network.name, site) for site in sites)


def _add_zip(path: Path, search: _Search) -> None:
    outer = parse_name(path.name)
    if outer and networks()[outer.network].refused:
        search.archives.append(replace(outer, path=path))
        return
    try:
        entries = list_entries(path)
    except SourceError as error:
        if outer and not reason_to_ignore(outer, search.daily, zipped=True):
            search.archives.append(replace(outer, path=path))
        else:
            search.ignore(path, str(error))
        return
    members = tuple(entry.name for entry in entries)
    badm = [Location(path, member) for member in members if is_badm(path / member)]
    tables = tables_in_zip(path, members, search.daily)
    search.badm.extend(badm)
    search.archives.extend(tables)
    by_name = {entry.name: entry for entry in entries}
    search.entries |= {table.location: by_name[table.location.member or ""] for table in tables}
    if any(is_zip(member) for member in members):
        search.ignore(path, _NESTED)
    elif not tables and (outer or not badm or _tower_inside(members)):
        search.ignore(path, _reason_of_zip(outer, members, search.daily))
    elif tables and outer is None:
        # A publisher's archive may contain other files; in any other zip, each table is listed that is not read.
        for location in (Location(path, member) for member in members):
            if _is_unknown_table(location.name) and not is_badm(path / (location.member or "")):
                search.ignore(location, reason_to_ignore(None, search.daily))


def _is_unknown_table(name: str) -> bool:
    """Return whether a file in a zip has the extension of a table, and a name that states nothing."""
    return has_table_ending(name) and not is_hidden(name) and parse_name(name) is None


_NESTED = "zips within a zip: unpack the outer one"


def _tower_inside(members: Sequence[str]) -> Archive | None:
    """Return what the first entry of a zip with the name of a tower's archive is, by its name; None if none has one."""
    archives = (parse_name(Location(Path(), member).name) for member in members)
    return next((archive for archive in archives if archive is not None), None)


def _reason_of_zip(outer: Archive | None, members: Sequence[str], daily: bool) -> str:
    """Return why nothing of a zip is read."""
    inside = _tower_inside(members)
    unread = reason_without_daily(inside, daily) if inside else ""
    sheets = [member for member in members if Path(member).suffix.lower() in _SPREADSHEETS and not is_badm(member)]
    if inside is None and sheets:
        return f"expected a table as CSV, found spreadsheets ({first_names(sheets)}): save them as CSV"
    kind = "daily, half-hourly or hourly" if daily else "half-hourly or hourly"
    reason = reason_to_ignore(outer, daily, zipped=True) if outer else ""
    return reason or unread or f"expected a {kind} table of a tower, found {first_names(members)}"


def _rank(archive: Archive, order: str) -> int:
    """Return the rank of an archive, whose `rank` is its place among those of its site and network."""
    names = orders()[order]
    place = names.index(archive.network) if archive.network in names else len(names)
    if archive.resolution == DAILY_TABLE and not networks()[archive.network].daily_quality:
        place += len(names) + 1
    major, minor, patch = (min(number, 99) for number in version_numbers(archive.version))
    version = 10**6 - 1 - (major * 10**4 + minor * 100 + patch)
    return (place * 10**6 + version) * _FILES_OF_A_SITE + min(archive.rank, _FILES_OF_A_SITE - 1)


def _selected(search: _Search) -> list[Archive]:
    """Return the archives to read, those of one site and network newest first; the others are ignored."""
    groups: dict[tuple[str, str], list[Archive]] = {}
    for archive in search.archives:
        groups.setdefault((archive.site, archive.network), []).append(archive)
    out: list[Archive] = []
    for group in groups.values():
        selection = select_archives(group, search.entries, daily=search.daily)
        out += (replace(archive, rank=rank) for rank, archive in enumerate(selection.archives))
        for archive, why in selection.ignored:
            if why:
                search.ignore(archive.location, why)
    return _without_refused(out, search)


def _without_refused(archives: Sequence[Archive], search: _Search) -> list[Archive]:
    """Remove archives of refused networks where the site has another archive."""
    refused = [archive for archive in archives if networks()[archive.network].refused]
    good = {archive.site for archive in archives if archive not in refused}
    for archive in refused:
        if archive.site in good:
            search.ignore(archive.location, f"{archive.network}: the site's other files are read instead")
    return [archive for archive in archives if archive not in refused or archive.site not in good]
