"""Values of a user's own predictor, from tables, mappings, files or xarray, as one labelled array in declared units."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError, SourceError
from fluxcube.sources.modis.surface_columns import parse_days
from fluxcube.sources.netcdf import open_netcdf
from fluxcube.sources.plaintable import read_plain_table
from fluxcube.units import convert
from fluxcube.variables import STATIC, Variable

log = logging.getLogger(__name__)

#: Dimension of the times of the values: UTC hours of an hourly predictor, local dates of a daily one.
DATE_DIM = "date"
_NAMES = {
    "site": ("site", "site_id", "siteid", "station", "tower"),
    DATE_DIM: ("date", "time", "day", "calendar_date", "timestamp", "datetime"),
    "latitude": ("latitude", "lat", "y"),
    "longitude": ("longitude", "lon", "lng", "x"),
}
#: More than this share of values beyond the declared bounds shows other units, scaled integers or another variable.
_MAX_OUTSIDE = 0.5
#: Number of values of a lazy array that are read to compare them with the bounds.
_SAMPLE = 100_000
#: Numbers that are dates: 20180704, and year and day of the year, 2018185.
_DATED_NUMBERS = ((19000101, 21001231), (1900001, 2100366))
#: Texts that are dates by the rules of reflectance: 2018185, A2018185, and 04/07/2018 where the column shows the order.
_OTHER_DATES = r"A?[12]\d{6}|\d{1,2}/\d{1,2}/\d{4}"
_DAY_OR_MONTH = r"\d{1,2}[./-]\d{1,2}[./-]\d{2,4}(?!\d)"

Values: TypeAlias = xr.DataArray | xr.Dataset | pd.DataFrame | pd.Series | Mapping[str, float] | str | os.PathLike


@dataclass(frozen=True, eq=False)
class Source:
    """Values of a predictor.

    Attributes
    ----------
    array : xr.DataArray
        (site,), (site, date), (latitude, longitude) or (latitude, longitude, date), in any order.
    units : str or None
        Units that the source records.
    labelled : bool
        Whether the source is an array, which records its units, and not a table.
    """

    array: xr.DataArray
    units: str | None
    labelled: bool

    def in_units(self, row: Variable, units: str | None) -> Source:
        """Return the values in the declared units.

        Raises
        ------
        ConfigError
            If an array has no units and none are passed, or the units cannot be converted.
        """
        from_units = units or self.units
        if from_units is None and self.labelled:
            raise ConfigError(
                f"{row.name}: the array has no attribute units, so that it cannot be compared with the declared "
                f"{row.units!r}: set array.attrs['units'], or pass units=."
            )
        if from_units is None or " ".join(from_units.split()) == " ".join(row.units.split()):
            return replace(self, units=row.units)
        try:
            shift, one = convert(np.array([0.0, 1.0]), from_units, row.units, name=row.name)
        except ConfigError as error:
            raise ConfigError(
                f"{row.name}: the values are in {from_units!r}, and it is declared in {row.units!r}: {error}"
            ) from error
        changed = self.array * (one - shift) + shift if (shift, one) != (0.0, 1.0) else self.array
        return replace(self, array=changed, units=row.units)


def read_values(values: Values, name: str, column: str | None, row: Variable) -> Source:
    """Return the values of a predictor as one labelled array.

    Parameters
    ----------
    values : DataArray, Dataset, DataFrame, Series, mapping, path
        As `fluxcube.add_predictor` documents it.
    name, column : str, str or None
        Name of the predictor; variable or column of its values, where that is another.
    row : Variable
        Declaration.

    Returns
    -------
    Source

    Raises
    ------
    SchemaError
        If dimensions, columns or times are not as expected.
    SourceError
        If a file is neither NetCDF nor CSV.
    """
    if isinstance(values, (str, os.PathLike)):
        values = _read_file(Path(values))
    if isinstance(values, Mapping) and not isinstance(values, (xr.Dataset, pd.DataFrame)):
        values = pd.Series(values)
    labelled = isinstance(values, (xr.DataArray, xr.Dataset))
    if isinstance(values, xr.Dataset):
        values = _chosen(values, column or name)
    elif isinstance(values, pd.DataFrame):
        values = _from_table(values, column or name, row)
    elif isinstance(values, pd.Series):
        values = _from_series(values, row)
    if not isinstance(values, xr.DataArray):
        raise SchemaError(
            f"{name}: expected a DataArray, Dataset, table, mapping of sites or path, found {type(values).__name__}."
        )
    array = _lazy(_renamed(values, name))
    if DATE_DIM in array.dims and row.kind != STATIC:
        array = _in_order(array.assign_coords({DATE_DIM: _times(array[DATE_DIM].values, row)}), row)
    elif row.kind != STATIC:
        raise SchemaError(
            f"{name} is declared {row.kind}, and its values have no dimension time: pass a series, or declare it with "
            "kind='static'."
        )
    units = values.attrs.get("units")
    return Source(array.astype("float64" if array.dtype.kind != "f" else array.dtype), units and str(units), labelled)


def _read_file(path: Path) -> xr.Dataset | pd.DataFrame:
    name = path.name.lower()
    if not path.exists():
        raise SourceError(f"{path}: no such file; check the path.")
    if name.endswith((".nc", ".nc4")):
        return open_netcdf(path, chunks="auto")  # named by path and time of change, as a stopped run needs
    if name.endswith((".csv", ".csv.gz")):
        return read_plain_table(path)
    raise SourceError(f"{path}: expected a NetCDF file (.nc) or a CSV table (.csv, .csv.gz): open it, and pass that.")


def _chosen(values: xr.Dataset, name: str) -> xr.DataArray:
    if name in values.data_vars:
        return values[name]
    raise SchemaError(
        f"expected the variable {name}, found {', '.join(map(str, values.data_vars))}: pass column=, the name of one."
    )


def _column(table: pd.DataFrame, kind: str) -> str | None:
    """Return the column of sites or dates of a table, whatever its case, or None."""
    return next((str(c) for c in table.columns if str(c).lower() in _NAMES[kind]), None)


def _from_table(table: pd.DataFrame, column: str, row: Variable) -> xr.DataArray:
    """Return the values of a tidy table, one row per site and time (SchemaError if it is none)."""
    if table.index.names != [None]:
        table = table.reset_index()
    site, date = _column(table, "site"), _column(table, DATE_DIM)
    static = row.kind == STATIC
    if column not in table or site is None or (date is None and not static):
        needed = ("site", column) if static else ("site", "date", column)
        raise SchemaError(
            f"{row.name}: expected a table with the columns {', '.join(needed)}, found "
            f"{', '.join(map(str, table.columns))}: rename them, or pass column=, the column of the values."
        )
    keys = [site] if static else [site, str(date)]
    numbers = pd.to_numeric(table[column], errors="coerce")
    if lost := int((numbers.isna() & table[column].notna()).sum()):
        raise SchemaError(f"{row.name}: {lost} entries of the column {column} are no numbers: convert them.")
    part = table[keys].assign(value=numbers)
    if not static:
        part[date] = _times(part[date].to_numpy(), row)
    twice = part.duplicated(keys)
    if twice.any():
        first = ", ".join(map(str, part.loc[twice, keys].iloc[0]))
        raise SchemaError(
            f"{row.name}: {int(twice.sum())} entries have a site and date that another one has, the first {first}: "
            f"keep one value of each, e.g. the mean: table.groupby({keys})[{column!r}].mean().reset_index()."
        )
    wide = part.set_index(keys)["value"]
    if static:
        return xr.DataArray(wide.to_numpy(float), {"site": wide.index.astype(str).to_numpy(object)}, ("site",))
    wide = wide.unstack()
    coords = {"site": wide.index.astype(str).to_numpy(object), DATE_DIM: wide.columns.to_numpy("datetime64[ns]")}
    return xr.DataArray(wide.to_numpy(float), coords, ("site", DATE_DIM))


def _from_series(values: pd.Series, row: Variable) -> xr.DataArray:
    """Return the values of a series with the index site, or site and date."""
    if values.index.nlevels == 1 and row.kind == STATIC:
        frame = pd.DataFrame({"site": values.index.astype(str), row.name: values.to_numpy()})
    elif values.index.nlevels == 2:
        first, second = (values.index.get_level_values(level) for level in (0, 1))
        frame = pd.DataFrame({"site": first.astype(str), "date": second, row.name: values.to_numpy()})
    else:
        raise SchemaError(
            f"{row.name}: expected a series with the index (site, date), or site for a static predictor, found the "
            f"index {list(values.index.names)}: pass a table with the columns site, date and {row.name}."
        )
    return _from_table(frame, row.name, row)


def _renamed(array: xr.DataArray, name: str) -> xr.DataArray:
    """Return an array with the dimensions site or latitude and longitude, and date."""
    array = array.squeeze([d for d in array.dims if array.sizes[d] == 1 and _role(str(d)) is None], drop=True)
    if curved := [str(c) for c in array.coords if array[c].ndim == 2 and _role(str(c)) in ("latitude", "longitude")]:
        raise SchemaError(
            f"{name}: {curved[0]} has two dimensions: regrid the map to a latitude and a longitude of one dimension."
        )
    roles = {str(dim): _role(str(dim)) for dim in array.dims}
    kinds = set(roles.values())
    if None in kinds or not ({"site"} == kinds - {DATE_DIM} or {"latitude", "longitude"} == kinds - {DATE_DIM}):
        raise SchemaError(
            f"{name}: expected the dimensions (site, time), (site), (latitude, longitude, time) or (latitude, "
            f"longitude), found {array.dims}: rename or select."
        )
    array = array.rename({old: new for old, new in roles.items() if new is not None and old != new})
    if missing := [dim for dim in array.dims if dim not in array.coords]:
        raise SchemaError(f"{name}: the dimension {missing[0]} has no coordinate: assign its labels.")
    array = array.drop_vars([c for c in array.coords if c not in array.dims])
    _check_degrees(array, name)
    return array


def _lazy(array: xr.DataArray) -> xr.DataArray:
    """Return a map of an opened file as a Dask array, and series of an opened file in RAM."""
    if "site" in array.dims:
        return array.compute()
    in_ram = isinstance(array.variable._data, np.ndarray)
    return array if in_ram or array.chunks is not None else array.chunk("auto")


def _role(dim: str) -> str | None:
    return next((role for role, names in _NAMES.items() if dim.lower() in names), None)


def _check_degrees(array: xr.DataArray, name: str) -> None:
    for dim, limit in (("latitude", 90), ("longitude", 360)):
        if dim in array.dims and not (np.abs(array[dim].values.astype(float)) <= limit + 1e-6).all():
            raise SchemaError(
                f"{name}: {dim} must be in degrees, found values up to {np.abs(array[dim].values).max():g}: reproject "
                "the map to degrees (EPSG:4326)."
            )
        if dim in array.dims and len(np.unique(array[dim].values)) < array.sizes[dim]:
            raise SchemaError(f"{name}: {dim} has the same value more than once: remove the duplicates.")


def _times(values: np.ndarray, row: Variable) -> np.ndarray:
    """Return times as datetime64[ns]: whole hours of an hourly predictor, dates of a daily one (SchemaError)."""
    labels = np.asarray(values)
    if labels.dtype.kind in "iuf":
        dated = [(labels >= low).all() and (labels <= high).all() for low, high in _DATED_NUMBERS]
        if labels.dtype.kind != "f" and len(labels) and any(dated):
            labels = labels.astype(str)
        else:
            raise SchemaError(
                f"{row.name}: expected dates such as 2018-07-04, found numbers such as {labels[:1].tolist()}: a day of "
                "the year needs its year; convert it to dates."
            )
    times = pd.Series(labels.astype("datetime64[ns]")) if labels.dtype.kind == "M" else _parsed(labels, row)
    if times.dt.tz is not None:
        if row.kind == "daily":
            raise SchemaError(f"{row.name}: dates of a daily predictor are local: remove the time zone.")
        times = times.dt.tz_convert("UTC").dt.tz_localize(None)
    step, noun = ("D", "dates") if row.kind == "daily" else ("h", "whole hours (UTC)")
    stamps = times.to_numpy("datetime64[ns]")
    if np.isnat(stamps).any():
        raise SchemaError(f"{row.name}: {int(np.isnat(stamps).sum())} entries have no time: remove them.")
    if (stamps != stamps.astype(f"datetime64[{step}]")).any():
        other = stamps[stamps != stamps.astype(f"datetime64[{step}]")][0].astype("datetime64[m]")
        raise SchemaError(
            f"{row.name} is declared {row.kind}: expected {noun}, found {other}: aggregate the values to {row.kind} "
            "ones, or declare another kind."
        )
    return stamps


def _parsed(labels: np.ndarray, row: Variable) -> pd.Series:
    """Return the times of texts; SchemaError if they can be read in two ways or not at all."""
    texts = pd.Series(labels, name="date")
    words = texts.astype(str).str.strip()
    expected = f"{row.name}: expected dates such as 2018-07-04"
    try:
        if row.kind == "daily" and words.str.fullmatch(_OTHER_DATES).any():
            return pd.Series(parse_days(words, row.name).astype("datetime64[ns]"))
        if (mixed := words[words.str.match(_DAY_OR_MONTH)]).size:
            raise SchemaError(
                f"{expected}, found {mixed.iloc[0]!r}, in which the day or the month can be first: convert them with "
                "pandas.to_datetime(..., format='%d/%m/%Y')."
            )
        return pd.to_datetime(texts)
    except SourceError as error:
        raise SchemaError(
            f"{expected} ({error}) Here, convert them with pandas.to_datetime(..., format='%d/%m/%Y') instead."
        ) from error
    except (ValueError, TypeError, OverflowError) as error:
        raise SchemaError(
            f"{expected}, found {words.iloc[0]!r}: convert them with pandas.to_datetime ({str(error).splitlines()[0]})."
        ) from error


def _in_order(array: xr.DataArray, row: Variable) -> xr.DataArray:
    """Return an array whose times increase; raise a SchemaError if one occurs twice."""
    times = array[DATE_DIM].values
    unique, counts = np.unique(times, return_counts=True)
    if (counts > 1).any():
        raise SchemaError(
            f"{row.name}: {int((counts > 1).sum())} times occur more than once, the first "
            f"{unique[counts > 1][0].astype('datetime64[h]')}: keep one value of each."
        )
    return array if (np.diff(times) > np.timedelta64(0)).all() else array.sortby(DATE_DIM)


def within_limits(source: Source, row: Variable) -> Source:
    """Return the values, NaN beyond the declared bounds.

    Raises
    ------
    ConfigError
        If most values are beyond the bounds, as of other units or scaled integers. Of a lazy array, a sample is read.
    """
    array, (low, high) = source.array, row.bounds
    sample = np.asarray((array if array.chunks is None else _some(array)).values, float)
    finite = sample[np.isfinite(sample)]
    outside = (finite < low) | (finite > high)
    if finite.size and outside.mean() > _MAX_OUTSIDE:
        raise ConfigError(
            f"{row.name}: {outside.mean():.0%} of the values lie beyond the declared bounds {low:g} to {high:g} "
            f"{row.units}, such as {np.median(finite[outside]):g}: they have other units, a scale factor that was not "
            "applied, or a value for missing data; convert them, or declare other bounds."
        )
    if outside.any():
        log.warning(
            "%s: %d of %d values lie beyond the declared bounds %g to %g %s, such as %g: they are missing",
            *(row.name, int(outside.sum()), finite.size, low, high, row.units, finite[outside][0]),
        )
    return replace(source, array=array.where((array >= low) & (array <= high)))


def _some(array: xr.DataArray) -> xr.DataArray:
    """Return the middle time step of a lazy array, thinned to about `_SAMPLE` values."""
    part = array.isel({DATE_DIM: array.sizes[DATE_DIM] // 2}) if DATE_DIM in array.dims else array
    step = max(1, int((part.size / _SAMPLE) ** (1 / max(1, part.ndim))))
    return part.isel({dim: slice(None, None, step) for dim in part.dims})
