"""Read tables of one point (CSV), as the Climate Data Store delivers them for its time series of ERA5 and ERA5-Land."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import SourceError
from fluxcube.sources.era5.parameters import meaning_of

_TIMES, _PLACE = ("valid_time", "time"), ("latitude", "longitude")


def read_point_table(path: str | os.PathLike, name: str) -> xr.Dataset:
    """Read a table with one row for each hour and one column for each parameter.

    A table declares no units: they are those of the Climate Data Store, which `fluxcube.sources.era5.checks` tests.

    Parameters
    ----------
    path : path
        CSV file with the columns ``valid_time`` (UTC), ``latitude``, ``longitude``, and parameters by short name.
    name : str
        Name of the file in error messages.

    Returns
    -------
    xr.Dataset
        Parameters (valid_time,) with their units, and a latitude and a longitude without dimensions.

    Raises
    ------
    SourceError
        If a column is absent, the table is not of one point, or times or numbers cannot be read.
    """
    try:
        table = pd.read_csv(path)
    except (ValueError, OSError) as problem:
        raise SourceError(
            f"{name}: cannot be read as CSV ({problem}): download it again, or request NetCDF."
        ) from problem
    time = next((column for column in _TIMES if column in table), None)
    if time is None or not set(_PLACE) <= set(table):
        raise SourceError(
            f"{name}: a table of ERA5 needs the columns valid_time, latitude and longitude, found "
            f"{', '.join(map(str, table.columns[:8]))}: request NetCDF from the CDS."
        )
    if len(table[[*_PLACE]].drop_duplicates()) != 1:
        raise SourceError(f"{name}: a table of ERA5 must be of one point, found several: request NetCDF of a grid.")
    try:
        # Without a format 02.07.2019 would be read as the 7th of February.
        stamps = pd.to_datetime(table[time], utc=True, format="ISO8601").dt.tz_localize(None).to_numpy("datetime64[ns]")
    except ValueError as problem:
        raise SourceError(
            f"{name}: {time} cannot be read as a time such as 2019-07-01 13:00, found {table[time].iloc[0]!r}: write "
            "times in this order, or download it again."
        ) from problem
    _check_numbers(table, name)
    arrays = {
        column: ("valid_time", table[column].to_numpy(np.float64), {"units": units})
        for column in map(str, table.columns)
        if (units := _units(column))
    }
    place = {axis: float(table[axis].iloc[0]) for axis in _PLACE}
    return xr.Dataset(arrays, coords={"valid_time": stamps, **place})


def _check_numbers(table: pd.DataFrame, name: str) -> None:
    """Refuse text in a column of a parameter, which would be left out for it."""
    for column in map(str, table.columns):
        if _units(column) and not pd.api.types.is_numeric_dtype(table[column]):
            texts = table[column].dropna()
            texts = texts[pd.to_numeric(texts, errors="coerce").isna()]
            raise SourceError(
                f"{name}: {column} must contain numbers, found {', '.join(map(repr, texts[:1])) or 'text'}: correct "
                "it, or download it again."
            )


def _units(column: str) -> str:
    """Return the units in which the CDS delivers a parameter; "" for other columns."""
    meaning = meaning_of(column)
    return meaning.units if meaning else ""
