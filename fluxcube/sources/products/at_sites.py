"""Read a product at towers in place: only the chunks of their cells, with the number of requests and bytes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from fluxcube.errors import SchemaError, unknown
from fluxcube.sources.products.axes import HOUR
from fluxcube.sources.products.open import Source, open_product
from fluxcube.sources.products.stores import Traffic


def read_at_sites(
    source: Source,
    sites: xr.Dataset,
    product: str | None = None,
    *,
    time: slice | None = None,
    fluxes: tuple[str, ...] | None = None,
    storage_options: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """Read the cells of a product that contain towers, and join days and hours to hourly time steps.

    Parameters
    ----------
    source, product, storage_options
        As `open_product` takes them.
    sites : xr.Dataset
        A cube, or any Dataset with the coordinates site, latitude and longitude (degrees).
    time : slice of str, optional
        Period, such as ``slice("2005", "2014")``; by default all of it.
    fluxes : tuple of str, optional
        Fluxes to read, such as ``("NEE",)``; by default all of them.

    Returns
    -------
    xr.Dataset
        In RAM, (site, time), NaN at towers outside of the cells of the product; the coordinates ``cell_latitude`` and
        ``cell_longitude`` (degrees); the attributes ``requests``, ``bytes_read`` (as received, compressed) and
        ``retries`` count what was read of Zarr stores.

    Raises
    ------
    SchemaError
        If `sites` has no sites with places, or the product has no time in the period.
    SourceError
        As `open_product` raises it, and if values cannot be read.
    UnknownNameError
        If the product has no such flux.
    """
    missing = [name for name in ("site", "latitude", "longitude") if name not in sites.coords]
    if missing:
        raise SchemaError(f"expected sites with the coordinates site, latitude and longitude, found no {missing[0]}.")
    traffic = Traffic()
    maps = open_product(source, product, storage_options=storage_options, traffic=traffic)
    for name in fluxes or ():
        if name not in maps.data_vars:
            raise unknown("flux", name, maps.data_vars)
    maps = maps[list(fluxes)] if fluxes is not None else maps
    maps = maps if time is None else maps.sel(time=time)
    if not maps.sizes["time"]:
        raise SchemaError(f"{maps.attrs['source']} has no time step in {time}.")
    rows, columns, inside = _cells(maps, sites)
    values = maps.isel(latitude=rows, longitude=columns).load().where(inside)
    values = values.rename(latitude="cell_latitude", longitude="cell_longitude")
    values = values.assign_coords(site=sites["site"].values)
    values = joined_hours(values) if HOUR in values.dims else values
    counts = {"requests": traffic.requests, "bytes_read": traffic.bytes, "retries": traffic.retries}
    return values.transpose("site", "time", ...).assign_attrs({**maps.attrs, **counts})


def joined_hours(values: xr.Dataset) -> xr.Dataset:
    """Return values of (time, hour, ...), time being days, with hourly time steps instead.

    Examples
    --------
    >>> days = np.array(["2001-01-01", "2001-01-02"], "datetime64[ns]")
    >>> ds = xr.Dataset({"NEE": (("time", "hour"), np.arange(48.0).reshape(2, 24))}, {"time": days, "hour": range(24)})
    >>> str(joined_hours(ds).time.values[-1])[:13], float(joined_hours(ds).NEE[-1])
    ('2001-01-02T23', 47.0)
    """
    hours = values["time"].values[:, None] + values[HOUR].values.astype("timedelta64[h]")[None, :]
    attrs = values["time"].attrs | {"long_name": str(values[HOUR].attrs.get("long_name", "start of the hour"))}
    out = values.stack(_step=("time", HOUR), create_index=False).drop_vars(["time", HOUR], errors="ignore")
    return out.rename(_step="time").assign_coords(time=("time", hours.reshape(-1), attrs))


def _cells(maps: xr.Dataset, sites: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Return the row and the column of the cell nearest to each site, and whether the site is in that cell."""
    rows, row_inside = _nearest(maps["latitude"].values, sites["latitude"].values)
    columns, column_inside = _nearest(maps["longitude"].values, sites["longitude"].values, circle=True)
    found = (xr.DataArray(values, dims="site") for values in (rows, columns, row_inside & column_inside))
    return next(found), next(found), next(found)


def _nearest(centres: np.ndarray, points: np.ndarray, *, circle: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return the position of the nearest of ascending centres, and whether it is within half a cell (and a little)."""
    away = points[:, None].astype(float) - centres[None, :]
    away = np.abs((away + 180.0) % 360.0 - 180.0 if circle else away)
    away[~np.isfinite(away)] = np.inf
    nearest = away.argmin(1)
    step = float(np.median(np.diff(centres))) if centres.size > 1 else 1.0
    return nearest, away[np.arange(points.size), nearest] <= step / 2 * (1 + 1e-3)
