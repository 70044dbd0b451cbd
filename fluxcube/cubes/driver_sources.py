"""Sources of drivers at towers beside the tower's own weather: files of reanalysis, tables, Datasets and forcings."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.cubes.checks import within_bounds
from fluxcube.cubes.hourly import to_hourly
from fluxcube.cubes.layout import Place
from fluxcube.cubes.localdays import to_daily
from fluxcube.cubes.own_maps import at_towers
from fluxcube.cubes.stamps import stamp
from fluxcube.errors import ConfigError, SourceError
from fluxcube.resolution import DAILY, resolution_of
from fluxcube.sources.netcdf import open_netcdf
from fluxcube.sources.plaintable import read_plain_table
from fluxcube.sources.towers.archives import Location
from fluxcube.sources.towers.csvfile import read_header
from fluxcube.sources.towers.networks import DAILY_TABLE, Archive, is_badm, parse_name
from fluxcube.sources.towers.plausible import measured_values
from fluxcube.sources.towers.reanalysis import ENDINGS, find_reanalysis, read_reanalysis, with_flags
from fluxcube.stores.files import visible_files
from fluxcube.stores.reading import is_url, open_store
from fluxcube.units import convert
from fluxcube.variables import COMPUTED, predictors, table

#: A file or folder, a table, or a Dataset: series of sites, another cube, or a forcing.
DriverSource: TypeAlias = str | os.PathLike | xr.Dataset | pd.DataFrame

_DAY_MINUTES = 1440
_CELLS = ("latitude", "longitude")
_SITE_COLUMNS = ("site", "site_id", "siteid", "station", "tower")
_TIME_COLUMNS = ("time", "date", "day", "datetime", "timestamp", "timestamp_start")
#: Texts in which the day or the month can be first.
_DAY_OR_MONTH = r"\d{1,2}[./-]\d{1,2}[./-]\d{2,4}(?!\d)"


class Drivers(Protocol):
    """Where the drivers of towers come from; `record` returns None for a tower that the source lacks."""

    @property
    def product(self) -> str:
        """Name of the product, for the attributes of the cube."""

    def record(self, place: Place, resolution: str) -> xr.Dataset | None:
        """Return the drivers (time,) of a tower in the time steps of a cube, in the units of the variable table."""

    def digest(self, place: Place, resolution: str) -> str:
        """Return a digest of what the drivers of a tower are read from; "" if there is nothing."""


@dataclass(frozen=True)
class TableDrivers:
    """Reanalysis files of towers (`fluxcube.sources.towers.reanalysis`), by site, the preferred one first."""

    archives: Mapping[str, Sequence[Archive]]

    @property
    def product(self) -> str:
        """Products and networks of the files, such as "ERAI of ICOS Warm Winter 2020"."""
        names = {f"{a.product} of {a.network}" for archives in self.archives.values() for a in archives}
        return ", ".join(sorted(names))

    def record(self, place: Place, resolution: str) -> xr.Dataset | None:
        """Return hours, or days from half-hours where there are any (TA_RANGE needs them), else from daily tables."""
        chosen = self._chosen(place, resolution)
        records = [
            _in_steps(read_reanalysis(archive, utc_offset=_offset(place)), resolution, place) for archive in chosen
        ]
        return _combined(records)

    def digest(self, place: Place, resolution: str) -> str:
        """Return a digest of the files of a tower."""
        chosen = self._chosen(place, resolution)
        return _hash(json.dumps(stamp(chosen, None)["archives"]).encode()) if chosen else ""

    def _chosen(self, place: Place, resolution: str) -> list[Archive]:
        archives = self.archives.get(str(place["site"]), ())
        hours = [archive for archive in archives if archive.resolution != DAILY_TABLE][:1]
        days = [archive for archive in archives if archive.resolution == DAILY_TABLE][:1]
        return [*hours, *(days if resolution == DAILY.name else ())]


@dataclass(frozen=True, eq=False)
class SeriesDrivers:
    """Series of sites in RAM: records (time,) as `fluxcube.sources.towers.reanalysis.read_reanalysis` returns them."""

    records: Mapping[str, xr.Dataset]
    product: str

    def record(self, place: Place, resolution: str) -> xr.Dataset | None:
        """Return the series of the site of the tower's name."""
        found = self.records.get(str(place["site"]))
        return None if found is None else _in_steps(found, resolution, place)

    def digest(self, place: Place, resolution: str) -> str:
        """Return a digest of the values of a tower."""
        return _digest_record(self.records.get(str(place["site"])))


@dataclass(frozen=True, eq=False)
class GridDrivers:
    """A forcing: a tower has the values of the cell that contains it."""

    forcing: xr.Dataset
    product: str

    def record(self, place: Place, resolution: str) -> xr.Dataset | None:
        """Return the values of the tower's cell; None for a tower beyond the grid or on a cell without values."""
        series = self._series(place)
        return None if series is None else _in_steps(series, resolution, place)

    def _series(self, place: Place) -> xr.Dataset | None:
        """Return the values of the tower's cell in the time steps of the forcing."""
        latitude, longitude = (np.array([float(place[dim])]) for dim in _CELLS)
        try:
            cell = at_towers(self.forcing["predictors"].transpose(*_CELLS, ...), latitude, longitude, "drivers")
        except ConfigError:  # beyond the grid
            return None
        known = _names(resolution_of(self.forcing).name)
        names = [str(name) for name in self.forcing["variable"].values if str(name) in known]
        values = cell.isel(site=0).sel(variable=names).transpose("variable", "time").compute().values
        if not np.isfinite(values).any():
            return None
        steps = resolution_of(self.forcing)
        arrays = dict(zip(names, values, strict=True))
        record = with_flags(arrays, self.forcing["time"].values, steps.name)
        return record.assign_attrs(step_minutes=_DAY_MINUTES // steps.steps_per_day)

    def digest(self, place: Place, resolution: str) -> str:
        """Return a digest of the values of the tower's cell."""
        return _digest_record(self._series(place))


@dataclass(frozen=True)
class JoinedDrivers:
    """Several sources: a tower has the drivers of the first one that has it."""

    parts: tuple[Drivers, ...] = field(default_factory=tuple)

    @property
    def product(self) -> str:
        """Products of all sources."""
        return "; ".join(dict.fromkeys(part.product for part in self.parts))

    def record(self, place: Place, resolution: str) -> xr.Dataset | None:
        """Return the record of the first source that has the tower."""
        records = (part.record(place, resolution) for part in self.parts)
        return next((record for record in records if record is not None), None)

    def digest(self, place: Place, resolution: str) -> str:
        """Return the digest of the first source that has the tower."""
        return next((digest for part in self.parts if (digest := part.digest(place, resolution))), "")


def as_driver_sources(sources: DriverSource | Sequence[DriverSource]) -> tuple[DriverSource, ...]:
    """Return one source or several as a tuple."""
    if isinstance(sources, (str, os.PathLike, xr.Dataset, pd.DataFrame)):
        return (sources,)
    return tuple(sources)


def open_drivers(sources: DriverSource | Sequence[DriverSource]) -> JoinedDrivers:
    """Open the sources of drivers; files of reanalysis are listed, tables are read.

    Parameters
    ----------
    sources : path, xr.Dataset, pandas.DataFrame or sequence of these
        As `fluxcube.add_drivers` describes them.

    Raises
    ------
    SourceError
        If a path does not exist, or a source contains no drivers of towers.
    """
    parts: list[Drivers] = []
    for source in as_driver_sources(sources):
        parts += _opened(source)
    if not parts:
        raise SourceError("drivers: expected at least one source, found none; pass a folder, file, table or Dataset.")
    return JoinedDrivers(tuple(parts))


def _opened(source: DriverSource) -> list[Drivers]:
    if isinstance(source, pd.DataFrame):
        return [SeriesDrivers(_from_table(source, "drivers"), _product(source.attrs, "table"))]
    if isinstance(source, xr.Dataset):
        return [_from_dataset(source, "drivers")]
    path = Path(source)
    if is_url(source) or (path / "zarr.json").is_file():
        return [_from_dataset(open_store(source, kind="forcing"), str(source))]
    if path.suffix.lower() in (".nc", ".nc4"):
        with open_netcdf(path) as ds:
            return [_from_dataset(ds.load(), str(path))]
    return _from_files(path)


def _from_files(path: Path) -> list[Drivers]:
    """Return the reanalysis files of a folder or file, and its tables of several sites."""
    archives = find_reanalysis([path])
    records: dict[str, xr.Dataset] = {}
    names = []
    for file in visible_files(path) if path.is_dir() else [path]:
        if _is_site_table(file):
            more = _from_table(read_plain_table(file), file.name)
            if twice := sorted(records.keys() & more.keys()):
                raise SourceError(f"{file}: {twice[0]} is also in another table of {path}; keep one of them.")
            records |= more
            names.append(file.name)
    parts: list[Drivers] = [TableDrivers(archives)] if archives else []
    parts += [SeriesDrivers(records, ", ".join(names))] if records else []
    if not parts:
        raise SourceError(
            f"{path}: expected files of reanalysis at towers (..._ERAI_HH_..., ..._ERA5_DD_...csv, also in zips), or a "
            "table with the columns site, date, TA_ERA, ..., found none; check the folder."
        )
    return parts


def _is_site_table(file: Path) -> bool:
    """Return whether a file is a CSV table of sites, times and drivers, by its name and its header."""
    if not file.name.lower().endswith((".csv", ".csv.gz")) or parse_name(file.name) or is_badm(file):
        return False
    try:
        header = read_header(Location(file))
    except SourceError:
        return False
    return None not in _keys(header) and bool(_driver_columns(header))


def _keys(columns: Iterable[object]) -> tuple[str | None, str | None]:
    """Return the columns of sites and of times, whatever their case; None where there is none."""
    names = {str(column).lower(): str(column) for column in columns}
    site = next((names[name] for name in _SITE_COLUMNS if name in names), None)
    return site, next((names[name] for name in _TIME_COLUMNS if name in names), None)


def _names(resolution: str) -> tuple[str, ...]:
    """Return the predictors that a source can have: all but those that follow from place and time."""
    return tuple(name for name in predictors(resolution, declared=False) if name not in COMPUTED)


def _driver_columns(columns: Iterable[object]) -> dict[str, str]:
    """Return the column of each variable of the table, which a source names NAME, NAME_ERA or NAME_ERA5."""
    names = {str(column) for column in columns}
    known = dict.fromkeys([*_names("hourly"), *_names("daily")])
    found = {name: next((name + e for e in ("", *ENDINGS) if name + e in names), "") for name in known}
    return {name: column for name, column in found.items() if column}


def _from_table(frame: pd.DataFrame, where: str) -> dict[str, xr.Dataset]:
    """Return the records of the sites of a tidy table: columns of site, time and drivers."""
    if frame.index.names != [None]:
        frame = frame.reset_index()
    site, time = _keys(frame.columns)
    columns = _driver_columns(frame.columns)
    if site is None or time is None or not columns:
        raise SourceError(
            f"{where}: expected a table with the columns site, date (or time) and drivers such as TA or TA_ERA, found "
            f"{', '.join(map(str, frame.columns[:8]))}; rename its columns."
        )
    stamps = _times(frame[time], where)
    numbers = pd.DataFrame({name: _numbers(frame[column], where) for name, column in columns.items()})
    records = {}
    for name, rows in frame.reset_index(drop=True).groupby(site, sort=True, observed=True).indices.items():
        values = {variable: numbers[variable].to_numpy()[rows] for variable in numbers}
        records[str(name)] = _record(values, stamps[rows], f"{where}, {name}")
    return records


def _numbers(column: pd.Series, where: str) -> np.ndarray:
    """Return the numbers of a column (row,) float; raise a SourceError for other texts than blank ones."""
    numbers = pd.to_numeric(column, errors="coerce")
    bad = numbers.isna() & column.notna() & (column.astype(str).str.strip() != "")
    if bad.any():
        raise SourceError(
            f"{where}: {int(bad.sum())} entries of the column {column.name} are no numbers, such as "
            f"{column[bad].iloc[0]!r}; convert them."
        )
    return numbers.to_numpy(float)


def _times(column: pd.Series, where: str) -> np.ndarray:
    """Return the times of a table (row,) datetime64[ns]: local dates, or UTC starts of hours."""
    if column.dtype.kind in "iu":
        column = column.astype(str)
    if column.dtype.kind != "M" and column.astype(str).str.match(_DAY_OR_MONTH).any():
        raise SourceError(
            f"{where}: expected times such as 2018-07-04, found {column.iloc[0]!r}, in which the day or the month can "
            "be first; convert them with pandas.to_datetime(..., format='%d/%m/%Y')."
        )
    try:
        form = None if column.dtype.kind == "M" else "ISO8601"
        times = pd.to_datetime(column, utc=True, format=form).dt.tz_localize(None).to_numpy("datetime64[ns]")
    except (ValueError, TypeError, OverflowError) as error:
        raise SourceError(f"{where}: expected times such as 2018-07-04, found {column.iloc[0]!r} ({error})") from error
    if np.isnat(times).any():
        raise SourceError(f"{where}: {int(np.isnat(times).sum())} rows have no time; remove them.")
    return times


def _record(arrays: Mapping[str, np.ndarray], time: np.ndarray, where: str) -> xr.Dataset:
    """Return series (time,) in the table's units as a record in order of time, without codes for missing values."""
    order = np.argsort(time, kind="stable")
    time = time[order]
    steps = np.diff(time.astype("datetime64[m]")).astype(int)
    if (steps == 0).any():
        raise SourceError(f"{where}: {time[1:][steps == 0][0]} is there more than once; keep one row of each time.")
    daily = len(time) > 0 and (time == time.astype("datetime64[D]")).all()
    resolution, step = ("daily", _DAY_MINUTES) if daily else ("hourly", int(steps.min(initial=60)))
    if not daily and step not in (30, 60):
        raise SourceError(f"{where}: expected days, hours or half-hours, found steps of {step} minutes; average them.")
    known, values = table(resolution), {}
    for name, array in arrays.items():
        if name in known:
            values[name], _ = measured_values(name, array[order], f"{where}, {name}", resolution)
    return with_flags(values, time, resolution).assign_attrs(step_minutes=step, source_file=where)


def _from_dataset(ds: xr.Dataset, where: str) -> Drivers:
    """Return a Dataset as drivers: a forcing, another tower cube, or variables (site, time)."""
    if "predictors" in ds and set(_CELLS) <= set(ds.dims):
        return GridDrivers(ds, _product(ds.attrs, "forcing"))
    if "predictors" in ds and "site" in ds.dims:
        labels = [str(name) for name in ds["variable"].values]
        ds = xr.Dataset({name: ds["predictors"].isel(variable=i, drop=True) for i, name in enumerate(labels)})
    columns = _driver_columns(ds.data_vars)
    names = {name: ds[column] for name, column in columns.items() if set(ds[column].dims) == {"site", "time"}}
    if not names or ds["time"].dtype.kind != "M":
        raise SourceError(
            f"{where}: expected a forcing, or variables such as TA or TA_ERA with the dimensions (site, time) and "
            f"dates, found {', '.join(f'{n} {v.dims}' for n, v in list(ds.data_vars.items())[:4])}."
        )
    daily = bool((ds["time"].values == ds["time"].values.astype("datetime64[D]")).all())
    arrays = {name: _converted(array, name, daily=daily) for name, array in names.items()}
    records = {}
    for i, site in enumerate(ds["site"].values):
        values = {name: array.isel(site=i).values for name, array in arrays.items()}
        if any(np.isfinite(array).any() for array in values.values()):
            records[str(site)] = _record(values, ds["time"].values, f"{where}, {site}")
    return SeriesDrivers(records, _product(ds.attrs, "Dataset"))


def _converted(array: xr.DataArray, name: str, *, daily: bool) -> xr.DataArray:
    """Return a variable in the units of the table; without units, it is taken to be in these."""
    row = table("daily" if daily else "hourly").get(name)
    units = str(array.attrs.get("units", "") or "")
    if row is None or not units or units == row.units:
        return array
    shift, one = convert(np.array([0.0, 1.0]), units, row.units, name=name)
    return array * (one - shift) + shift if (shift, one) != (0.0, 1.0) else array


def _product(attrs: Mapping, default: str) -> str:
    return str(attrs.get("product") or attrs.get("source") or attrs.get("title") or default)


def _offset(place: Place) -> float:
    return float(place["utc_offset"])


def _in_steps(record: xr.Dataset, resolution: str, place: Place) -> xr.Dataset:
    """Return a record in the time steps of a cube: UTC hours, or local days of the tower's standard time.

    Raises
    ------
    SourceError
        If the record is daily and the cube is hourly.
    """
    names = [str(name) for name in record.data_vars if not str(name).endswith("_QC")]
    daily = int(record.attrs["step_minutes"]) == _DAY_MINUTES
    if resolution != DAILY.name and daily:
        raise SourceError(
            f"drivers of {place['site']}: expected half-hours or hours for an hourly cube, found days; pass hourly "
            "files, or build a daily cube."
        )
    if daily:
        return record[names]
    record, _ = within_bounds(record, names)
    steps = to_daily(record, utc_offset=_offset(place)) if resolution == DAILY.name else to_hourly(record)
    return steps[[name for name in steps.data_vars if str(name) in _names(resolution)]]


def _combined(records: Sequence[xr.Dataset]) -> xr.Dataset | None:
    """Return the variables of all records, each from the first record that has values of it; None without records."""
    if not records:
        return None
    known: dict[str, xr.DataArray] = {}
    for record in records:
        for name, array in record.data_vars.items():
            if str(name) not in known or not np.isfinite(known[str(name)].values).any():
                known[str(name)] = array
    return xr.merge([array.rename(name) for name, array in known.items()], join="outer", combine_attrs="drop_conflicts")


def _digest_record(record: xr.Dataset | None) -> str:
    if record is None:
        return ""
    arrays = [record[name].values for name in sorted(map(str, record.data_vars))]
    return _hash(*(np.ascontiguousarray(array).tobytes() for array in (record["time"].values, *arrays)))


def _hash(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]
