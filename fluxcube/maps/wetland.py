"""Weigh methane fluxes by the wetland fraction of cells: towers measure them over wetlands, a part of most cells."""

from __future__ import annotations

import logging

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError
from fluxcube.maps.store import Maps, as_maps
from fluxcube.units import convert

log = logging.getLogger(__name__)

#: Flux that is per area of wetland.
FLUX = "FCH4"
#: Attribute of a flux that was divided by the area of land instead.
WEIGHTED = "weighted_by"

_CELLS = ("latitude", "longitude")
#: Maximum distance of cell centres, as a share of the grid's step: that of coordinates stored as float32.
_ROUNDING = 1e-3
#: A wetland fraction must be known for this share of the land, and a warning is logged if more of it is off the land.
_KNOWN, _OFF_LAND = 0.9, 0.01
#: Maximum share of the land with an unknown wetland fraction that is not reported.
_UNNOTED = 0.01


def is_weighted(array: xr.DataArray) -> bool:
    """Return whether a methane flux is per area of land already (`weight_by_wetland`)."""
    return bool(array.attrs.get(WEIGHTED))


def needs_wetland(names: tuple[str, ...] | list[str], maps: xr.Dataset) -> bool:
    """Return whether a total of some fluxes of maps needs a wetland fraction."""
    return any(name == FLUX and not is_weighted(maps[name]) for name in names)


def weight_by_wetland(maps: Maps, wetland: xr.DataArray) -> xr.Dataset:
    """Return maps whose FCH4 is per area of land, instead of per area of wetland, as towers measure it.

    Land that is no wetland is taken to have no flux.

    Parameters
    ----------
    maps : xr.Dataset, path or URL
        Flux maps with FCH4 and the coordinate land_fraction, as returned by `fluxcube.upscale`.
    wetland : xr.DataArray
        Share of the area of each cell that is wetland, on the grid of the maps: (latitude, longitude), with ``month``
        (1 to 12) for a mean annual cycle, or with ``time``. Units "1" or "%". It may extend beyond the maps.

    Returns
    -------
    xr.Dataset
        The maps, lazily, with FCH4, FCH4_std and FCH4_spread multiplied by wetland over land fraction; other fluxes are
        unchanged.

    Raises
    ------
    SchemaError
        If the maps have no FCH4 or no land fraction, or `wetland` is on another grid or has other dimensions.
    ConfigError
        If the maps are weighted already; or if values or units of `wetland` are no fractions, it is unknown for more
        than a tenth of the land, or a month of the maps has none.

    References
    ----------
    Zhang et al. 2021 (WAD2M, a monthly wetland fraction), doi:10.5194/essd-13-2001-2021.

    Examples
    --------
    >>> import fluxcube as fc
    >>> wetland = xr.open_dataset("wad2m.nc").Fw  # doctest: +SKIP
    >>> maps = fc.weight_by_wetland(fc.open_maps("maps.zarr"), wetland)  # doctest: +SKIP
    """
    maps = as_maps(maps)
    if FLUX not in maps:
        raise SchemaError(f"wetland=: expected maps with {FLUX}, found {', '.join(map(str, maps.data_vars))}.")
    share = wetland_steps(maps, wetland)
    land = maps.land_fraction.where(maps.land_fraction > 0)
    factor = (share / land).astype("float32")
    out = maps.copy()
    source = str(wetland.attrs.get("long_name", wetland.name or "wetland fraction"))
    for name in (FLUX, f"{FLUX}_std", f"{FLUX}_spread"):
        if name in maps:
            flux = maps[name]
            weighted = xr.where((factor == 0) & land.notnull(), np.float32(0), flux * factor).transpose(*flux.dims)
            out[name] = weighted.astype(flux.dtype).assign_attrs(flux.attrs | {WEIGHTED: source, "area": "land"})
    return out.drop_vars(f"{FLUX}_variance", errors="ignore")


def wetland_steps(maps: xr.Dataset, wetland: xr.DataArray) -> xr.DataArray:
    """Return the wetland fraction, of the area of each cell, on the grid and at the time steps of maps.

    Parameters
    ----------
    maps : xr.Dataset
        Flux maps with FCH4 and the coordinate land_fraction.
    wetland : xr.DataArray
        As in `weight_by_wetland`.

    Returns
    -------
    xr.DataArray
        (latitude, longitude), or (time, latitude, longitude) where `wetland` varies; 0 to 1, and NaN where unknown.

    Raises
    ------
    SchemaError, ConfigError
        As `weight_by_wetland`.
    """
    if not isinstance(wetland, xr.DataArray):
        raise SchemaError(
            f"wetland: expected a DataArray (latitude, longitude), found {type(wetland).__name__}: select the variable."
        )
    if "land_fraction" not in maps.coords:
        raise SchemaError("wetland: expected maps with the coordinate land_fraction: assign it.")
    if FLUX in maps and is_weighted(maps[FLUX]):
        raise ConfigError(
            f"{FLUX} of these maps was already weighted by {maps[FLUX].attrs[WEIGHTED]!r}: leave out wetland=."
        )
    extra = set(wetland.dims) - set(_CELLS)
    if not set(_CELLS) <= set(wetland.dims) or extra - {"time", "month"} or len(extra) > 1:
        raise SchemaError(
            "wetland: expected the dimensions (latitude, longitude), with time or month (1 to 12) if it varies, found "
            f"{wetland.dims}: rename or select."
        )
    share = _as_fraction(_on_grid(wetland, maps))
    _check_known(share, maps)
    if extra:
        share = share.isel({extra.copy().pop(): _entries(share, maps)}).rename({extra.pop(): "time"})
        share = share.assign_coords(time=maps.time.values)
    return share.transpose(*(["time"] if "time" in share.dims else []), *_CELLS)


def _on_grid(wetland: xr.DataArray, maps: xr.Dataset) -> xr.DataArray:
    """Return the cells of a wetland map that are those of flux maps (SchemaError if some are not there)."""
    at = {}
    for dim in _CELLS:
        if dim not in wetland.coords:
            raise SchemaError(f"wetland: expected the coordinate {dim} in degrees: assign it.")
        own, other = (ds[dim].values.astype(float) for ds in (maps, wetland))
        step = abs(float(np.median(np.diff(own)))) if len(own) > 1 else 1.0
        away = np.abs(other[None, :] - own[:, None])
        away = np.minimum(away % 360, -away % 360) if dim == "longitude" else away
        nearest = away.argmin(1)
        if (wrong := away[np.arange(len(own)), nearest] > _ROUNDING * step).any():
            other_step = np.median(np.abs(np.diff(other))) if len(other) > 1 else np.nan
            raise SchemaError(
                f"wetland: it has no cell at {dim} {own[wrong][0]:g} of the maps (steps: maps {step:g}, wetland "
                f"{other_step:g} degrees): compute the mean wetland fraction of each cell of the maps, and pass that."
            )
        at[dim] = nearest
    return wetland.isel(at).assign_coords({dim: maps[dim].values for dim in _CELLS})


def _as_fraction(wetland: xr.DataArray) -> xr.DataArray:
    """Return a wetland fraction from 0 to 1 (ConfigError if the values cannot be one)."""
    units = wetland.attrs.get("units")
    if units is not None:
        scale = float(convert(np.asarray(1.0), str(units), "1", name="wetland"))
        wetland = wetland * scale if scale != 1 else wetland
    low, high = float(wetland.min()), float(wetland.max())
    if np.isnan(low):
        raise ConfigError(
            "wetland: every value is missing (NaN) at the cells of the maps, expected shares from 0 to 1: check the "
            "area, the variable and the fill value of the file; if missing values mean no wetland, pass "
            "wetland.fillna(0)."
        )
    if not (low >= -1e-6 and high <= 1 + 1e-6):
        hint = "if they are percent, set wetland.attrs['units'] = '%'" if low >= 0 else "mask the missing values"
        raise ConfigError(f"wetland: expected shares of the area of a cell, 0 to 1, found {low:g} to {high:g}: {hint}.")
    return wetland.clip(0, 1)


def _check_known(share: xr.DataArray, maps: xr.Dataset) -> None:
    """Refuse a wetland fraction that is unknown for much of the land; log a warning if much of it is off the land."""
    time = [dim for dim in share.dims if dim not in _CELLS]
    land = maps.land_fraction.fillna(0)
    width = np.cos(np.deg2rad(maps.latitude))
    known = float((share.notnull().all(time) * land * width).sum() / (land * width).sum())
    if known < _KNOWN:
        raise ConfigError(
            f"wetland: it is unknown for {1 - known:.1%} of the land of the maps: if missing values mean no wetland, "
            "pass wetland.fillna(0)."
        )
    if 1 - known > _UNNOTED:
        log.warning("wetland: it is unknown for %.1f %% of the land, which counts as no wetland", 100 * (1 - known))
    area = share.mean(time) * width
    total = float(area.sum())
    if total > 0 and (off := float(area.where(land == 0).sum()) / total) > _OFF_LAND:
        log.warning("%.1f %% of the wetland lies in cells without land, which have no flux: not counted", 100 * off)


def _entries(share: xr.DataArray, maps: xr.Dataset) -> np.ndarray:
    """Return the entry of a varying wetland fraction for each time step of maps (time,)."""
    steps = maps.time.values.astype("datetime64[M]")
    if "month" in share.dims:
        months = share.month.values.tolist() if "month" in share.coords else []
        if sorted(months) != list(range(1, 13)):
            raise SchemaError(f"wetland: expected the months 1 to 12, found {months}: assign the coordinate month.")
        return np.array([months.index(month) for month in (steps.astype(int) % 12 + 1).tolist()])
    if "time" not in share.coords or not np.issubdtype(share.time.dtype, np.datetime64):
        raise SchemaError("wetland: expected dates along time: assign them, or rename the dimension to month.")
    stamps = share.time.values.astype("datetime64[M]")
    if len(np.unique(stamps)) < len(stamps):
        raise SchemaError("wetland: expected at most one map for each month: average them by month.")
    if len(missing := np.setdiff1d(steps, stamps)):
        raise ConfigError(
            f"wetland: it has no map of {missing[0]}: pass a map of each month of the maps, a mean annual cycle with "
            "the dimension month, or one map without time."
        )
    order = np.argsort(stamps)
    return order[np.searchsorted(stamps[order], steps)]
