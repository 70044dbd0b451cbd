"""Find and read the reanalysis at a tower that publishers add to its archive: ERAI and ERA5 files of ONEFlux.

ONEFlux regresses the reanalysis of a tower's cell on the tower's own weather, variable by variable, so that the values
are closer to the tower than those of a grid. Time stamps are those of the tower's other files: local standard time.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube.errors import SourceError
from fluxcube.sources.towers import codes as missing_codes
from fluxcube.sources.towers.archives import Location, is_zip, list_members
from fluxcube.sources.towers.csvfile import read_numbers
from fluxcube.sources.towers.networks import DAILY_TABLE, HOURLY_TABLES, Archive, orders, parse_name
from fluxcube.sources.towers.oneflux_daily import STAMP, dates_of
from fluxcube.sources.towers.plausible import measured_values
from fluxcube.sources.towers.selection import REANALYSIS, version_numbers
from fluxcube.sources.towers.stamped import (
    AS_PUBLISHED,
    MISSING,
    Dialect,
    Layer,
    attrs_of,
    check_stamps,
    find_source,
    read_stamped,
)
from fluxcube.stores.files import visible_files
from fluxcube.timestamps import Offset
from fluxcube.variables import COMPUTED, Variable, predictors

#: Endings of the names of variables of a reanalysis, as ONEFlux and users write them.
ENDINGS = ("_ERA", "_ERA5", "_ERAI")

_DAY_MINUTES = 1440


def find_reanalysis(roots: Iterable[str | os.PathLike]) -> dict[str, tuple[Archive, ...]]:
    """Find the reanalysis files of towers in folders, zips and files, by name.

    Parameters
    ----------
    roots : iterable of path
        Folders, which are searched with their folders, or files.

    Returns
    -------
    dict of str to tuple of Archive
        Half-hourly, hourly and daily tables of each site, sites in order. The preferred table comes first: that of the
        newest publication, then of its newest version, then the one that ends last.

    Raises
    ------
    SourceError
        If a root does not exist.
    """
    found: dict[str, list[Archive]] = defaultdict(list)
    for root in map(Path, roots):
        if not root.exists():
            raise SourceError(
                f"{root}: expected a file or folder with reanalysis of towers, found none; check its path."
            )
        for path in visible_files(root) if root.is_dir() else [root]:
            for archive in _tables_of(path):
                found[archive.site].append(archive)
    return {site: tuple(sorted(found[site], key=_preference)) for site in sorted(found)}


def is_reanalysis(archive: Archive | None) -> bool:
    """Return whether a file, by its name, is a half-hourly, hourly or daily table of reanalysis at a tower."""
    return archive is not None and archive.product in REANALYSIS and archive.resolution in (*HOURLY_TABLES, DAILY_TABLE)


def _tables_of(path: Path) -> list[Archive]:
    """Return the tables of reanalysis in a file; a zip that cannot be listed has none, as its towers report."""
    if not is_zip(path):
        archive = parse_name(path.name)
        return [replace(archive, path=path)] if archive is not None and is_reanalysis(archive) else []
    try:
        members = list_members(path)
    except SourceError:
        return []
    named = ((member, parse_name(Location(path, member).name)) for member in members if not is_zip(member))
    return [replace(a, path=path, member=member) for member, a in named if a is not None and is_reanalysis(a)]


def _preference(archive: Archive) -> tuple:
    newest = list(orders()["newest"])
    rank = newest.index(archive.network) if archive.network in newest else len(newest)
    version = tuple(-number for number in version_numbers(archive.version))
    return rank, version, -(archive.last_year or 0), str(archive.path), archive.member or ""


def read_reanalysis(archive: Archive, *, utc_offset: Offset) -> xr.Dataset:
    """Read a table of reanalysis at a tower at its own time step.

    Parameters
    ----------
    archive : Archive
        From `find_reanalysis`.
    utc_offset : float or sequence of (start, float)
        Hours east of UTC of the tower's standard time; daily tables do not use it.

    Returns
    -------
    xr.Dataset
        Dim time: UTC starts of half-hours or hours, or local dates. One float32 variable (time,) for each predictor of
        the variable table that the file has, in the table's units, NaN where missing, and ``NAME_QC`` int8 (0, or -1
        where there is no value). Attributes ``step_minutes``, ``source_file``, ``site``, ``network``.

    Raises
    ------
    SourceError
        If the table has no variable of a reanalysis, or its content is not what it should be.
    """
    if archive.resolution == DAILY_TABLE:
        return _read_days(archive)
    return read_stamped(find_source(archive), _DIALECT, utc_offset=utc_offset, variables=_names("hourly"))


def _names(resolution: str) -> tuple[str, ...]:
    return tuple(name for name in predictors(resolution, declared=False) if name not in COMPUTED)


def _columns(name: str) -> tuple[str, ...]:
    return tuple(name + ending for ending in ENDINGS)


def _layers(row: Variable) -> list[Layer]:
    return [Layer(column=column, assumed=0) for column in _columns(row.name)]


def _check_header(header: Sequence[str], location: Location) -> None:
    check_stamps(header, location)
    _check_columns(header, location, "hourly")


def _check_columns(header: Sequence[str], location: Location, resolution: str) -> None:
    if not {column for name in _names(resolution) for column in _columns(name)}.intersection(header):
        raise SourceError(
            f"{location}, line 1: expected variables of a reanalysis (TA_ERA, SW_IN_ERA, VPD_ERA, ...), found "
            f"{', '.join(header[:5])[:200]}; {AS_PUBLISHED}"
        )


_DIALECT = Dialect(layers=_layers, check_header=_check_header)


def _read_days(archive: Archive) -> xr.Dataset:
    """Return a daily table: means of local days, and sums of precipitation (mm d-1)."""
    location, names = archive.location, _names("daily")

    def choose(header: Sequence[str]) -> list[str]:
        if STAMP not in header:
            raise SourceError(f"{location}, line 1: expected a column {STAMP}, found {', '.join(header[:4])[:200]}")
        _check_columns(header, location, "daily")
        return [STAMP, *(column for name in names for column in _columns(name) if column in header)]

    frame = read_numbers(location, choose, integers=(STAMP,))
    time = dates_of(frame, location)
    arrays: dict[str, np.ndarray] = {}
    found: dict[str, Mapping[str, int]] = {}
    for name in names:
        column = next((column for column in _columns(name) if column in frame), None)
        if column is not None:
            values = frame[column].to_numpy(copy=True)
            values[values == MISSING] = np.nan
            arrays[name], codes = measured_values(name, values, f"{location}, column {column}", "daily")
            found |= {name: missing_codes.added({}, codes)} if codes else {}
    return with_flags(arrays, time.astype("datetime64[ns]"), "daily").assign_attrs(
        step_minutes=_DAY_MINUTES,
        source_file=location.path.name,
        site=archive.site,
        network=archive.network,
        missing_codes=json.dumps(found),
    )


def with_flags(arrays: Mapping[str, np.ndarray], time: np.ndarray, resolution: str) -> xr.Dataset:
    """Return arrays (time,) as a record, with the flag 0 where there is a value and -1 elsewhere."""
    record: dict[str, tuple] = {}
    for name, values in arrays.items():
        values = np.asarray(values, np.float32)
        record[name] = ("time", values, attrs_of(name, resolution))
        record[f"{name}_QC"] = ("time", np.where(np.isfinite(values), 0, -1).astype(np.int8))
    return xr.Dataset(record, coords={"time": ("time", time)})
