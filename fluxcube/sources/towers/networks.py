"""Which files are towers, of which network, and which of them win: names and zip directories only.

Everything that is particular to a network stands in ``data/networks.yml``.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from types import MappingProxyType

import yaml

from fluxcube.errors import ConfigError, SourceError
from fluxcube.sources.towers.archives import Location, is_zip, list_members
from fluxcube.variables import RESOLUTIONS

_TOKENS = {
    "<site>": r"(?P<site>(?-i:[A-Z]{2}-[A-Za-z0-9]{3}))",
    "<product>": r"(?P<product>[A-Z0-9]+)",
    "<resolution>": r"(?P<resolution>HH|HR|DD|WW|MM|YY)",
    "<years>": r"(?P<first>\d{4})-(?P<last>\d{4})",
}
_COPY = r"(?:[ .(].*)?"
_ENDING = re.compile(r"(?i)\.(zip|csv|csv\.gz)$")
_TAR = re.compile(r"(?i)\.(tar|tar\.gz|tgz|tar\.xz|tar\.bz2)$")
_HOURLY, _DAILY = ("HH", "HR"), "DD"


@dataclass(frozen=True, kw_only=True)
class Network:
    """One publication of tower data, a row of ``data/networks.yml``."""

    name: str
    names: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    products: tuple[str, ...] = ()
    product: str = ""
    reader: str | None = None
    daily: bool = False
    why_no_days: str = ""
    best_flag: int = 0
    why: str = ""
    licence: str = ""
    citation: str = ""
    doi: str = ""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A tower's file, as its name describes it.

    Attributes
    ----------
    path : Path
        The file itself; of the published CarbonSense, the folder of a site, or the file of all sites.
    member : str or None
        Entry of a zip; None for a plain or gzip file, and for a zip that cannot be listed: the reader says why. In a
        file of many sites, the site.
    site, network, product, resolution, version : str
        From the name; `resolution` is "" where the name does not say.
    first_year, last_year : int or None
        None where the name does not say.
    rank : int
        Lower is preferred where several archives have a site: the newest publication, then the newest version.
    """

    path: Path
    member: str | None = None
    site: str
    network: str
    product: str
    resolution: str
    first_year: int | None = None
    last_year: int | None = None
    version: str = ""
    rank: int = 0

    @property
    def location(self) -> Location:
        """Where the archive lies."""
        return Location(self.path, self.member)


@dataclass(frozen=True)
class Discovery:
    """What a folder holds.

    Attributes
    ----------
    archives : tuple of Archive
        To be read, by site and then rank.
    badm : tuple of Location
        Site metadata, for `read_badm`.
    ignored : tuple of (str, str)
        Every other csv, gz, zip and tar file, and every other file of a tower's name, and why it is left aside.
    """

    archives: tuple[Archive, ...]
    badm: tuple[Location, ...]
    ignored: tuple[tuple[str, str], ...]

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites that have an archive."""
        return tuple(dict.fromkeys(archive.site for archive in self.archives))


@functools.cache
def networks() -> Mapping[str, Network]:
    """Return every network by name.

    Examples
    --------
    >>> networks()["FLUXNET2015"].doi
    '10.1038/s41597-020-0534-3'
    """
    rows = {**_tables()["networks"], **_tables()["refused"]}
    as_tuples = {"names", "products", "files"}
    return MappingProxyType(
        {
            name: Network(name=name, **{k: tuple(v) if k in as_tuples else v for k, v in row.items()})
            for name, row in rows.items()
        }
    )


def parse_name(name: str) -> Archive | None:
    """Read site, network, product, resolution, years and version from a file name; None if no network has such names.

    Examples
    --------
    >>> archive = parse_name("FLX_US-MMS_FLUXNET2015_SUBSET_HR_2012-2014_1-4.zip")
    >>> archive.network, archive.site, archive.product, archive.resolution, archive.last_year
    ('FLUXNET2015', 'US-MMS', 'SUBSET', 'HR', 2014)
    >>> parse_name("AMF_US-Ha1_FLUXNET_FLUXMET_HR_1991-2025_v1.3_r1.csv").network
    'FLUXNET Shuttle 2026'
    """
    return _parse_stem(_ENDING.sub("", name), Path(name)) if _ENDING.search(name) else None


def _parse_stem(stem: str, path: Path) -> Archive | None:
    for network, pattern in _patterns():
        match = pattern.fullmatch(stem)
        if match:
            return _described(network, match.groupdict(), path)
    return None


def is_badm(name: str | os.PathLike) -> bool:
    """Return whether a file, by its name and folder, is one of site metadata that `read_badm` reads.

    Examples
    --------
    >>> is_badm("AMF_US-Ha1_BIF_20201218.xlsx"), is_badm("DATA/BDAM/JP-Tak_General.xlsx"), is_badm("General.xlsx")
    (True, True, False)
    """
    path = Path(name).as_posix().replace("\\", "/")
    if _is_shadow(path.rpartition("/")[2]):
        return False
    return any(
        re.fullmatch(pattern, path if "/" in pattern else path.rpartition("/")[2], re.IGNORECASE)
        for pattern in _tables()["badm"]
    )


def _is_shadow(name: str) -> bool:
    """Return whether a file is what macOS or a spreadsheet program leaves beside another one of that name."""
    return name.startswith((".", "~$"))


def choose_member(path: str | os.PathLike, *, resolution: str = "hourly") -> str:
    """Return the entry of a tower's zip that holds its half-hours or hours, or its days.

    Parameters
    ----------
    path : path
    resolution : str
        "hourly" (default) or "daily".

    Raises
    ------
    SourceError
        If the zip is broken or unsafe, or holds no such table, or those of several sites.
    """
    path, daily = Path(path), _is_daily(resolution)
    found = _members(path, list_members(path), daily)
    found = [archive for archive in found if not daily or archive.resolution == _DAILY]
    if not found:
        what = "daily table (..._DD_...csv)" if daily else "half-hourly or hourly table (..._HH_... or ..._HR_...csv)"
        raise SourceError(
            f"{path}: no {what} in this zip; it holds {_some(list_members(path))}. Get the full archive of the site"
        )
    refused = _tables()["refused"]
    found = [archive for archive in found if archive.network not in refused] or found
    sites = {archive.site for archive in found}
    if len(sites) > 1:
        raise SourceError(f"{path}: tables of {', '.join(sorted(sites))} in one zip; say which with member=")
    return min(found, key=lambda archive: _preference(archive, daily)).member


def discover(
    raw: str | os.PathLike | Sequence[str | os.PathLike], *, order: str = "newest", resolution: str = "hourly"
) -> Discovery:
    """Find tower archives and site metadata under one or more folders, by name.

    Files are taken as published: zip, csv or csv.gz, and the published CarbonSense as a tar, its folders, or an SQLite
    file. Only file names and the directories of zips and tars are read (a tar.gz has none: all of it is). Of one
    network's archives of a site, one that another covers (an older version, a SUBSET beside its FULLSET, an unpacked
    copy) is left aside, and said so. A zip that cannot be listed, and AmeriFlux BASE where it is all a site has, stay
    in the list: reading them tells what is wrong.

    Parameters
    ----------
    raw : path or sequence of paths
        Folders, searched with their subfolders (hidden ones aside), or files.
    order : str
        Which publication wins: "newest" (default) or "paper".
    resolution : str
        "hourly" (default), or "daily": each network's daily (DD) tables, and where those do not cover its half-hourly
        or hourly archive of a site, that archive, from which days can be made.

    Raises
    ------
    SourceError
        If a path does not exist.
    ConfigError
        If there is no such order or resolution.
    """
    if order not in _tables()["orders"]:
        raise ConfigError(f"order={order!r}: expected one of {', '.join(_tables()['orders'])}")
    roots = [raw] if isinstance(raw, (str, os.PathLike)) else list(raw)
    search = _Search(daily=_is_daily(resolution))
    for path in _files([Path(root) for root in roots], search.ignored):
        _sort_in(path, search)
    kept = [replace(archive, rank=_rank(archive, order)) for archive in _resolve(search)]
    kept.sort(key=lambda archive: (archive.site, archive.rank, *_preference(archive, search.daily)))
    return Discovery(tuple(kept), tuple(search.badm), tuple(search.ignored))


@dataclass
class _Search:
    """What has been found so far."""

    daily: bool = False
    found: list[Archive] = field(default_factory=list)
    badm: list[Location] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)

    def ignore(self, path: object, why: str) -> None:
        self.ignored.append((str(path), why))


def _is_daily(resolution: str) -> bool:
    if resolution not in RESOLUTIONS:
        raise ConfigError(f"resolution={resolution!r}: expected one of {', '.join(RESOLUTIONS)}")
    return resolution == "daily"


@functools.cache
def _tables() -> Mapping[str, object]:
    return yaml.safe_load(resources.files("fluxcube").joinpath("data/networks.yml").read_text("utf-8"))


@functools.cache
def _patterns() -> tuple[tuple[Network, re.Pattern], ...]:
    return tuple((network, _compile(name)) for network in networks().values() for name in network.names)


def _compile(name: str) -> re.Pattern:
    for token, group in _TOKENS.items():
        name = name.replace(token, group)
    return re.compile(name + _COPY, re.IGNORECASE)


def _described(network: Network, groups: dict[str, str | None], path: Path) -> Archive:
    years = (int(groups[key]) if groups.get(key) else None for key in ("first", "last"))
    first, last = years
    return Archive(
        path=path,
        site=groups["site"],
        network=network.name,
        product=(groups.get("product") or network.product).upper(),
        resolution=(groups.get("resolution") or "").upper(),
        first_year=first,
        last_year=last,
        version=groups.get("version") or "",
    )


def _files(roots: Iterable[Path], ignored: list[tuple[str, str]]) -> Iterator[Path]:
    """Yield every candidate file once, in order of name."""
    seen: set[Path] = set()
    for root in roots:
        if not root.exists():
            raise SourceError(f"{root}: no such file or folder, where tower files were expected")
        for path in [root] if root.is_file() else _walk(root, ignored):
            if _is_candidate(path) and path.resolve() not in seen:
                seen.add(path.resolve())
                yield path


def _walk(root: Path, ignored: list[tuple[str, str]]) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in folders:
            if os.path.islink(os.path.join(folder, name)):
                ignored.append((os.path.join(folder, name), "a link to a folder: name its target among the folders"))
        if _is_window(names):
            yield Path(folder).absolute().parent
            continue
        yield from (Path(folder, name) for name in sorted(names) if not _is_shadow(name))


def _is_window(names: Sequence[str]) -> bool:
    """Return whether a folder holds one window of a site in the form of CarbonSense v1."""
    return {"meta.json", "predictors.csv", "targets.csv"}.issubset(names)


def _is_candidate(path: Path) -> bool:
    name = path.name
    known = bool(_ENDING.search(name) or _TAR.search(name) or _many_sites(name)) or is_badm(path) or path.is_dir()
    return known or _parse_stem(name, path) is not None


@functools.lru_cache(maxsize=4096)
def _many_sites(name: str) -> Network | None:
    """Return the network of a file that holds many sites, by its name."""
    files = ((network, pattern) for network in networks().values() for pattern in network.files)
    return next((network for network, pattern in files if re.fullmatch(pattern, name, re.IGNORECASE)), None)


def _sort_in(path: Path, search: _Search) -> None:
    """Put one file, or the folder of a site, where it belongs."""
    if path.is_dir():
        search.found.append(_unpacked(path))
    elif network := _many_sites(path.name):
        _sort_many(path, network, search)
    elif _TAR.search(path.name):
        search.ignore(path, "a tar file: unpack it, and what is in it is found")
    elif is_badm(path):
        search.badm.append(Location(path))
    elif is_zip(path):
        _sort_zip(path, search)
    elif not _ENDING.search(path.name):
        search.ignore(
            path, "the name of a tower's archive without .zip, .csv or .csv.gz: give it the ending that it had"
        )
    else:
        archive = parse_name(path.name)
        why = _why_not(archive, search.daily)
        if why:
            search.ignore(path, why)
        else:
            search.found.append(replace(archive, path=path))


def _unpacked(folder: Path) -> Archive:
    """Describe the folder of a site in the form of CarbonSense v1."""
    return Archive(path=folder, site=folder.name, network="CarbonSense v1", product="", resolution="")


def _sort_many(path: Path, network: Network, search: _Search) -> None:
    module = importlib.import_module(f"fluxcube.sources.towers.{network.reader}")
    try:
        sites = module.list_sites(path)
    except SourceError as error:
        search.ignore(path, str(error))
        return
    search.found.extend(
        Archive(path=path, member=site, site=site, network=network.name, product="", resolution="") for site in sites
    )


def _sort_zip(path: Path, search: _Search) -> None:
    outer = parse_name(path.name)
    if outer and not networks()[outer.network].reader:
        search.found.append(replace(outer, path=path))
        return
    try:
        members = list_members(path)
    except SourceError as error:
        if outer and not _why_not(outer, search.daily, zipped=True):
            search.found.append(replace(outer, path=path))
        else:
            search.ignore(path, str(error))
        return
    badm = [Location(path, member) for member in members if is_badm(path / member)]
    tables = _members(path, members, search.daily)
    search.badm.extend(badm)
    search.found.extend(tables)
    if not tables and not badm:
        search.ignore(path, _why_empty(outer, members, search.daily))


def _why_empty(outer: Archive | None, members: Sequence[str], daily: bool) -> str:
    if any(is_zip(member) for member in members):
        return "zips within a zip: unpack the outer one"
    inside = next((archive for member in members if (archive := parse_name(Path(member).name))), None)
    unread = _why_no_days(inside, daily) if inside else ""
    kind = "daily, half-hourly or hourly" if daily else "half-hourly or hourly"
    why = _why_not(outer, daily, zipped=True) if outer else ""
    return why or unread or f"holds no {kind} table of a tower, but {_some(members)}"


def _why_not(archive: Archive | None, daily: bool, *, zipped: bool = False) -> str:
    """Return why a named file is not read, "" if it is."""
    if archive is None:
        return "its name is of no network in networks.yml, nor of site metadata (a table of sites is called sites.csv)"
    network = networks()[archive.network]
    if archive.network in _tables()["refused"]:
        return ""
    if not network.reader:
        return network.why
    if archive.product not in network.products:
        return f"{archive.product} holds no tower measurements"
    if archive.resolution in _HOURLY or (zipped and not archive.resolution):
        return ""
    return _why_no_days(archive, daily) or _why_resolution(archive, daily)


def _why_no_days(archive: Archive, daily: bool) -> str:
    """Return why a network's daily tables are not read, "" where this is none or it is read."""
    asked = daily and archive.resolution == _DAILY
    return networks()[archive.network].why_no_days if asked else ""


def _why_resolution(archive: Archive, daily: bool) -> str:
    if daily and archive.resolution == _DAILY and networks()[archive.network].daily:
        return ""
    read = "daily (DD), half-hourly (HH) and hourly (HR)" if daily else "half-hourly (HH) and hourly (HR)"
    return f"resolution {archive.resolution or 'unknown'}: only {read} files are read"


def _members(path: Path, members: Iterable[str], daily: bool) -> list[Archive]:
    """Return the readable tables of a zip, the best one for each site and network."""
    best: dict[tuple[str, str], Archive] = {}
    for member in members:
        archive = parse_name(Location(path, member).name)
        if archive is None or is_zip(member) or _why_not(archive, daily):
            continue
        archive = replace(archive, path=path, member=member)
        key = archive.site, archive.network
        best[key] = min(best.get(key, archive), archive, key=lambda a: _preference(a, daily))
    return list(best.values())


def _some(members: Sequence[str]) -> str:
    shown = ", ".join(Location(Path(), member).name for member in members[:3])
    return f"{shown} and {len(members) - 3} more" if len(members) > 3 else shown or "nothing"


def _version(text: str) -> tuple[int, int, int]:
    """Return a version's numbers, so that a newer one is greater: "v1.3_r1" is (1, 3, 1), "beta-3" (3, 0, 0)."""
    numbers = [int(number) for number in re.findall(r"\d+", text)][:3]
    return tuple(numbers + [0] * (3 - len(numbers)))


def _preference(archive: Archive, daily: bool = False) -> tuple:
    """Order archives of one site and network, best first: whole, newest, fullest, half-hourly, longest, zipped.

    Of one version, days come before hours where days are asked for. A copy's name ("... (1).zip") is the longer one.
    """
    products = networks()[archive.network].products
    product = products.index(archive.product) if archive.product in products else len(products)
    span = (archive.last_year or 0) - (archive.first_year or 0)
    broken = is_zip(archive.path) and archive.member is None
    newest = tuple(-number for number in _version(archive.version))
    suffix = {".zip": 0, ".gz": 1}.get(archive.path.suffix.lower(), 2)
    days = (daily and archive.resolution != _DAILY, product, archive.resolution != "HH")
    name = archive.path.name
    return broken, newest, days, -span, suffix, len(name), str(archive.path), archive.member or ""


def _rank(archive: Archive, order: str) -> int:
    names = _tables()["orders"][order]
    place = names.index(archive.network) if archive.network in names else len(names)
    major, minor, patch = (min(number, 99) for number in _version(archive.version))
    return place * 10**6 + 10**6 - 1 - (major * 10**4 + minor * 100 + patch)


def _resolve(search: _Search) -> list[Archive]:
    """Leave aside what another archive of the same site and network covers."""
    kept: dict[tuple[str, str], list[Archive]] = {}
    for archive in sorted(search.found, key=lambda a: _preference(a, search.daily)):
        others = kept.setdefault((archive.site, archive.network), [])
        better = next((other for other in others if _covers(other, archive)), None)
        if better is None:
            others.append(archive)
        else:
            search.ignore(archive.location, _why_covered(better, archive))
    return _without_refused([archive for archives in kept.values() for archive in archives], search)


def _covers(better: Archive, archive: Archive) -> bool:
    """Return whether one archive of a site and network has all years of another, as far as their names say."""
    if None in (better.first_year, better.last_year, archive.first_year, archive.last_year):
        return True
    return better.first_year <= archive.first_year and archive.last_year <= better.last_year


def _why_covered(better: Archive, archive: Archive) -> str:
    for name, what in (("version", "version"), ("product", "product"), ("resolution", "resolution")):
        one, two = getattr(better, name), getattr(archive, name)
        if one and two and one != two:
            return f"{what} {two}: {one} of the same site and years is read instead, from {better.path.name}"
    return f"the same data as {better.path.name}, which is read instead"


def _without_refused(kept: Sequence[Archive], search: _Search) -> list[Archive]:
    """Drop products that the reader refuses where the site has another archive."""
    refused = _tables()["refused"]
    good = {archive.site for archive in kept if archive.network not in refused}
    for archive in kept:
        if archive.network in refused and archive.site in good:
            search.ignore(archive.location, f"{archive.network}: the site's other files are read instead")
    return [archive for archive in kept if archive.network not in refused or archive.site not in good]
