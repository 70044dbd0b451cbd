"""Places of towers, from a cube or a table, and what colours them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import SchemaError, to_type, unknown
from fluxcube.geometry import west_to_east
from fluxcube.plotting.projections import Box
from fluxcube.samples.features import class_of

#: A cube or other Dataset with coordinates on site, or a table with a row for each tower.
Places: TypeAlias = xr.Dataset | xr.DataArray | pd.DataFrame
#: Margin (share of the extent; degrees) around the towers of a region.
_MARGIN, _LEAST = 0.12, 2.0
#: Towers spread wider than this (degrees of longitude, of latitude) are on a map of the world.
_WORLDWIDE = (120.0, 75.0)
_UNITS = {"elevation": "m", "utc_offset": "h"}
WORLD = Box(-180.0, 180.0, -60.0, 85.0)


def places_of(data: Places) -> pd.DataFrame:
    """Return a row for each tower with latitude, longitude and what else is known of it, by its name.

    Parameters
    ----------
    data : xr.Dataset, xr.DataArray or pd.DataFrame
        With latitude and longitude on site; or a table with these columns, and `site` as a column or the index.

    Raises
    ------
    SchemaError
        If the places are missing.
    """
    if not isinstance(data, pd.DataFrame):
        table = _site_table(data)
    else:
        table = data.drop_duplicates("site").set_index("site") if "site" in data else data
    if missing := {"latitude", "longitude"} - set(table):
        table_of = to_type(python="fluxcube.known_sites()", shell="towers.csv with the header site,latitude,longitude")
        raise SchemaError(
            f"expected towers with latitude and longitude, found no {', '.join(sorted(missing))}: pass a cube, or a "
            f"table with the columns site, latitude and longitude, such as {table_of}."
        )
    known = np.isfinite(table[["latitude", "longitude"]].to_numpy(float)).all(1)
    if not known.any():
        raise SchemaError("latitude and longitude of every tower are missing; there is no place to draw.")
    return table[known]


def _site_table(data: xr.Dataset | xr.DataArray) -> pd.DataFrame:
    if "site" not in data.dims and "site" not in data.coords:
        raise SchemaError(f"expected data of towers with the dimension site, found {tuple(data.dims)}; pass a cube.")
    names = np.atleast_1d(data["site"].values).astype(str)
    columns = {
        str(name): np.broadcast_to(coord.values, len(names))
        for name, coord in data.coords.items()
        if name != "site" and coord.dims in ((), ("site",))
    }
    return pd.DataFrame(columns, index=pd.Index(names, name="site"))


def values_of(places: pd.DataFrame, by: object) -> tuple[str, pd.Series]:
    """Return what colours towers: its name, and its value at each of them, "unknown" or NaN where there is none.

    Parameters
    ----------
    places : pd.DataFrame
        As `places_of` returns it.
    by : str, xr.DataArray, pd.Series or mapping
        A column; or values by site, e.g. a score of ``fluxcube.evaluate(..., by="site")`` for one target.

    Raises
    ------
    UnknownNameError
        If the table does not have the column.
    SchemaError
        If the values are not one for each site.
    """
    if isinstance(by, str):
        name, values = by, places[_column(places, by)]
    else:
        series = _by_site(by)
        name, values = str(series.name or "value"), series.reindex(places.index)
        values.attrs = dict(series.attrs)
        if not values.notna().any():
            raise SchemaError(
                f"by: expected values of the towers {', '.join(places.index[:3])}, ..., found values of "
                f'{", ".join(map(str, series.index[:3]))}; score them by site, fluxcube.evaluate(..., by="site").'
            )
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        units = {"units": str(values.attrs.get("units", _UNITS.get(name, "")))}
        values = values.astype(float)
        values.attrs = units
        return name, values
    return name, pd.Series([_label(name, value) for value in values], index=places.index)


def _column(places: pd.DataFrame, by: str) -> str:
    """Return a column, by its name or its plural: tables of known towers have `networks`."""
    found = next((name for name in (by, f"{by}s", by.removesuffix("s")) if name in places), None)
    if found is None:
        raise unknown("column of the towers", by, [str(c) for c in places if c not in ("latitude", "longitude")])
    return found


def _by_site(by: object) -> pd.Series:
    if isinstance(by, xr.DataArray):
        by = by.squeeze(drop=True)
        if by.ndim != 1:
            raise SchemaError(
                f'by: expected one value for each site, found dims {by.dims}; select one, e.g. .sel(target="NEE").'
            )
        values = pd.Series(by.values, index=by[by.dims[0]].values.astype(str), name=by.name)
        values.attrs = {"units": str(by.attrs.get("units", ""))}
        return values
    if isinstance(by, pd.Series | Mapping):
        return pd.Series(by)
    raise SchemaError(f"by: expected a column, or values by site, found {type(by).__name__}; pass a Series.")


def _label(name: str, value: object) -> str:
    text = "" if value is None or (isinstance(value, float) and np.isnan(value)) else str(value)
    if name in ("igbp", "koppen"):
        return class_of(name, text) or "unknown"
    return text.split(";")[0].strip() or "unknown"


def box_of(places: pd.DataFrame, bbox: tuple[float, float, float, float] | None = None) -> Box:
    """Return what a map of towers shows: a box (west, south, east, north), their region, or the world."""
    if bbox is not None:
        west, south, east, north = map(float, bbox)
        if not south < north or west == east:
            raise SchemaError(f"bbox: expected west, south, east and north in degrees, found {bbox}; exchange them.")
        return Box(west, east if east > west else east + 360.0, south, north)
    lon, lat = (_ends(axis) for axis in (west_to_east(np.unique(places["longitude"]))[1], places["latitude"]))
    return _box_around(lon, lat)


def _ends(values: object) -> tuple[float, float]:
    array = np.asarray(values, float)
    return float(array.min()), float(array.max())


def _box_around(lon: tuple[float, float], lat: tuple[float, float]) -> Box:
    """Return the box of towers between two longitudes and two latitudes."""
    spread = lon[1] - lon[0], lat[1] - lat[0]
    if spread[0] > _WORLDWIDE[0] or spread[1] > _WORLDWIDE[1]:
        low, high = min(WORLD.south, lat[0] - _LEAST), max(WORLD.north, lat[1] + _LEAST)
        return Box(WORLD.west, WORLD.east, max(low, -90.0), min(high, 90.0))
    wide, tall = (max(_MARGIN * width, _LEAST) for width in spread)
    return Box(lon[0] - wide, lon[1] + wide, max(-90.0, lat[0] - tall), min(90.0, lat[1] + tall))
