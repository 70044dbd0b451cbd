"""Select the tables to read by their names: which ones of a zip, in which order, and why others are ignored."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from fluxcube.errors import ConfigError, SourceError
from fluxcube.sources.towers.archives import Location, is_zip, list_members
from fluxcube.sources.towers.networks import DAILY_TABLE, HOURLY_TABLES, Archive, networks, parse_name
from fluxcube.variables import RESOLUTIONS

#: Products of archives that contain reanalysis at the tower, and what reads them.
REANALYSIS = ("ERAI", "ERA5")
_DRIVERS = ", but reanalysis, which is read as drivers where these are requested (drivers=True, --drivers)"


def choose_member(path: str | os.PathLike[str], *, resolution: str = "hourly") -> str:
    """Return the entry of a tower's zip that contains its half-hourly or hourly table, or its daily table.

    Parameters
    ----------
    path : path
        The zip.
    resolution : {"hourly", "daily"}
        "hourly" (default) for the half-hourly or hourly table.

    Returns
    -------
    str
        Name of the entry.

    Raises
    ------
    SourceError
        If the zip is broken or unsafe, or contains no such table, or tables of several sites or of several periods.
    ConfigError
        If there is no such resolution.
    """
    path, daily = Path(path), is_daily(resolution)
    tables = tables_in_zip(path, list_members(path), daily)
    tables = [archive for archive in tables if not daily or archive.resolution == DAILY_TABLE]
    if not tables:
        what = "daily table (..._DD_...csv)" if daily else "half-hourly or hourly table (..._HH_... or ..._HR_...csv)"
        raise SourceError(
            f"{path}: no {what} in this zip; found {first_names(list_members(path))}. Get the full archive of the site"
        )
    tables = [archive for archive in tables if not networks()[archive.network].refused] or tables
    sites = {archive.site for archive in tables}
    if len(sites) > 1:
        raise SourceError(f"{path}: tables of {', '.join(sorted(sites))} in one zip; choose one with member=")
    best = min(tables, key=lambda archive: preference(archive, daily))
    others = [table for table in tables if table is not best and _is_rival(best, table)]
    if others:
        names = first_names([str(table.member) for table in (best, *others)])
        raise SourceError(
            f"{path}: expected one table of {best.site} in this zip, found {names}; choose one with member="
        )
    return best.member or ""


def _is_rival(best: Archive, table: Archive) -> bool:
    """Return whether a table has other values than the preferred one, as far as their names state it."""
    same = all(getattr(best, what) == getattr(table, what) for what in ("network", "version", "product", "resolution"))
    return same or not covers_years(best, table)


def is_daily(resolution: str) -> bool:
    """Return whether a resolution is "daily".

    Raises
    ------
    ConfigError
        If it is neither "hourly" nor "daily".
    """
    if resolution not in RESOLUTIONS:
        raise ConfigError(f"resolution={resolution!r}: expected one of {', '.join(RESOLUTIONS)}")
    return resolution == "daily"


def tables_in_zip(path: Path, members: Iterable[str], daily: bool) -> list[Archive]:
    """Return the tables to read in a zip, in the order of the zip.

    Parameters
    ----------
    path : Path
        The zip.
    members : iterable of str
        Names of its entries.
    daily : bool
        Whether daily tables are read, too.
    """
    tables = []
    for member in members:
        archive = parse_name(Location(path, member).name)
        if archive is not None and not is_zip(member) and not reason_to_ignore(archive, daily):
            tables.append(replace(archive, path=path, member=member))
    return tables


def reason_to_ignore(archive: Archive | None, daily: bool, *, zipped: bool = False) -> str:
    """Return why a file is not read, by its name; "" if it is read.

    Parameters
    ----------
    archive : Archive or None
        What its name states (`parse_name`).
    daily : bool
        Whether daily tables are read, too.
    zipped : bool
        Whether it is a zip, which may contain a table of another resolution than its name states.
    """
    if archive is None:
        return "its name matches no network in networks.yml and no site metadata (a table of sites is called sites.csv)"
    network = networks()[archive.network]
    if network.refused:
        return ""  # stays in the list, so that reading it reports what is wrong
    if network.products and archive.product not in network.products:
        return f"{archive.product} contains no tower measurements{_DRIVERS if archive.product in REANALYSIS else ''}"
    if archive.resolution in HOURLY_TABLES or (zipped and not archive.resolution):
        return ""
    return reason_without_daily(archive, daily) or _reason_of_resolution(archive, daily)


def reason_without_daily(archive: Archive, daily: bool) -> str:
    """Return why a network's daily tables are not read; "" if the archive is not daily, or is read."""
    return networks()[archive.network].why_no_days if daily and archive.resolution == DAILY_TABLE else ""


def _reason_of_resolution(archive: Archive, daily: bool) -> str:
    if daily and archive.resolution == DAILY_TABLE and networks()[archive.network].daily:
        return ""
    read = "daily (DD), half-hourly (HH) and hourly (HR)" if daily else "half-hourly (HH) and hourly (HR)"
    is_daily = archive.resolution == DAILY_TABLE and networks()[archive.network].daily
    advice = "; a daily cube reads it: resolution='daily' (--resolution daily)" if is_daily else ""
    return f"resolution {archive.resolution or 'unknown'}: only {read} files are read{advice}"


def first_names(members: Sequence[str]) -> str:
    """Return the first three names of a zip's entries, and the number of others, as a text for messages."""
    shown = ", ".join(Location(Path(), member).name for member in members[:3])
    return f"{shown} and {len(members) - 3} more" if len(members) > 3 else shown or "nothing"


def version_numbers(text: str) -> tuple[int, int, int]:
    """Return the numbers of a version, so that a newer version is greater.

    Examples
    --------
    >>> version_numbers("v1.3_r1"), version_numbers("beta-3")
    ((1, 3, 1), (3, 0, 0))
    """
    first, second, third, *_ = (*(int(number) for number in re.findall(r"\d+", text)), 0, 0, 0)
    return first, second, third


def is_interim(archive: Archive) -> bool:
    """Return whether an archive is, by its name, an INTERIM table of ICOS, which a final one follows."""
    return "_INTERIM" in archive.location.name.upper()


def covers_years(better: Archive, archive: Archive) -> bool:
    """Return whether an archive contains all years of another one, as far as their names state years."""
    if better.first_year is None or better.last_year is None:
        return True
    if archive.first_year is None or archive.last_year is None:
        return True
    return better.first_year <= archive.first_year and archive.last_year <= better.last_year


def release_order(archive: Archive, daily: bool = False) -> tuple:
    """Return a sort key of the archives of one site and network by what their names state of their content.

    Preferred are, in this order: readable zips, the newest version, daily tables (if `daily`, and they state a
    quality), the fullest product, half-hourly tables, final before INTERIM tables, the latest end, and the earliest
    start.
    """
    products = networks()[archive.network].products
    product = products.index(archive.product) if archive.product in products else len(products)
    broken = is_zip(archive.path) and archive.member is None
    newest = tuple(-number for number in version_numbers(archive.version))
    days_first = daily and networks()[archive.network].daily_quality
    step = archive.resolution != DAILY_TABLE if days_first else archive.resolution == DAILY_TABLE
    kind = (step, product, archive.resolution != "HH", is_interim(archive))
    return broken, newest, kind, -(archive.last_year or 0), archive.first_year or 0


def preference(archive: Archive, daily: bool = False) -> tuple:
    """Return a sort key of the archives of one site and network; the preferred archive comes first.

    Archives that their names do not distinguish (`release_order`) are in this order: zips before gzip before plain
    files, and short names first: the name of a copy ("... (1).zip") is longer.
    """
    suffix = {".zip": 0, ".gz": 1}.get(archive.path.suffix.lower(), 2)
    path = archive.path
    return *release_order(archive, daily), suffix, len(path.name), str(path), archive.member or ""
