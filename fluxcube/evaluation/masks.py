"""Subsets of the time steps of each tower by percentiles: heat, cold, dry air, dry months, and seasonal transitions."""

from __future__ import annotations

import numpy as np
import xarray as xr

from fluxcube.cubes.climatology import MONTHS
from fluxcube.errors import SchemaError
from fluxcube.resolution import HOURLY, Resolution, resolution_of

#: Subsets of `subset_masks`, in the order of the tables.
SUBSETS = ("heat", "cold", "dry air", "dry month", "green-up", "senescence")
#: Days whose mean vapour pressure deficit defines a dry month; at least half of their time steps must have a value.
_DAYS = 30
#: Share of the largest monthly change of NIRv in a year from which a month is a transition.
_SLOPE = 0.5


def subset_masks(cube: xr.Dataset, *, percentile: float = 95.0) -> xr.Dataset:
    """Return the time steps of each tower that are extreme there, and those of seasonal transitions.

    Percentiles are those of the tower itself, over its daylight hours (SW_IN_POT above 0) or, of a daily cube, its days
    that have a value: time steps are extreme relative to what the place is used to.

    Parameters
    ----------
    cube : xr.Dataset
        Cube of towers with the predictors TA, VPD and, of an hourly cube, SW_IN_POT; with `surface_climatology` for
        transitions.
    percentile : float
        Percentile above which daylight hours, or days, are hot or dry (%). Cold ones are below 100 minus it.

    Returns
    -------
    xr.Dataset
        Boolean arrays (site, time): ``heat`` and ``cold`` (TA of daylight hours or days), ``dry air`` (VPD of these),
        ``dry month`` (mean VPD of the 30 days until that time step above its 90th percentile), ``green-up`` and
        ``senescence`` (months in which the mean seasonal cycle of NIRv rises, or falls, by at least half of its
        largest monthly change). Transitions are absent without `surface_climatology`.

    Raises
    ------
    SchemaError
        If the Dataset is no cube of towers, or lacks one of these predictors.
    """
    check_subsets(cube)
    resolution = resolution_of(cube)
    values = {name: cube["predictors"].sel(variable=name, drop=True).load() for name in _needed(resolution)}
    heat, dry = values["TA"], values["VPD"]
    if resolution is HOURLY:
        heat, dry = (one.where(values["SW_IN_POT"] > 0) for one in (heat, dry))
    steps = _DAYS * resolution.steps_per_day
    month = values["VPD"].rolling(time=steps, min_periods=steps // 2).mean()
    masks = {
        "heat": heat >= _percentile(heat, percentile),
        "cold": heat <= _percentile(heat, 100 - percentile),
        "dry air": dry >= _percentile(dry, percentile),
        "dry month": month >= _percentile(month, 90),
    }
    if "surface_climatology" in cube:
        masks |= _transitions(cube)
    return xr.Dataset(masks).reset_coords(drop=True)


def check_subsets(cube: xr.Dataset) -> None:
    """Refuse data that are no cube of towers, or lack the predictors of `subset_masks` (SchemaError)."""
    if not {"site", "time", "variable"} <= set(cube.dims):
        raise SchemaError(
            "subsets need an hourly cube or a daily cube of towers with its predictors, found dims "
            f"{sorted(map(str, cube.dims))}; pass the cube."
        )
    needed = _needed(resolution_of(cube))
    if lacking := set(needed) - set(map(str, cube["variable"].values)):
        raise SchemaError(
            f"subsets need the predictors {', '.join(needed)} of the cube, found none of {sorted(lacking)}; build the "
            "cube with them, or pass masks of your own as subsets=."
        )


def _needed(resolution: Resolution) -> tuple[str, ...]:
    return ("TA", "VPD", "SW_IN_POT") if resolution is HOURLY else ("TA", "VPD")


def _percentile(values: xr.DataArray, percentile: float) -> xr.DataArray:
    """Return the percentile of each tower; NaN, which nothing exceeds, where it has no value."""
    known = values.notnull().any("time")
    quantile = values.where(known, 0.0).quantile(percentile / 100, "time", skipna=True)
    return quantile.where(known).drop_vars("quantile")


def _transitions(cube: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return the hours of the months in which the mean seasonal cycle of NIRv rises or falls the most."""
    cycle = cube["surface_climatology"].sel(feature="NIRv", statistic=list(MONTHS)).values.astype(float)
    change = (np.roll(cycle, -1, 1) - np.roll(cycle, 1, 1)) / 2  # of each month, from the one before to the one after
    month = cube["time"].dt.month.values - 1
    masks = {}
    for name, sign in (("green-up", 1), ("senescence", -1)):
        slope = sign * change
        steep = (slope > 0) & (slope >= _SLOPE * np.fmax.reduce(slope, 1)[:, None])
        masks[name] = xr.DataArray(
            steep[:, month], dims=("site", "time"), coords={n: cube[n] for n in ("site", "time")}
        )
    return masks
