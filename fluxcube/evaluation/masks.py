"""Subsets of the time steps of each tower by percentiles: heat, cold, dry air, dry months, and seasonal transitions."""

from __future__ import annotations

import numpy as np
import xarray as xr

from fluxcube.cubes.climatology import MONTHS
from fluxcube.errors import SchemaError

#: Subsets of `subset_masks`, in the order of the tables.
SUBSETS = ("heat", "cold", "dry air", "dry month", "green-up", "senescence")
#: Days whose mean vapour pressure deficit defines a dry month, and their minimum number of hours.
_DAYS, _HOURS = 30, 360
#: Share of the largest monthly change of NIRv in a year from which a month is a transition.
_SLOPE = 0.5


def subset_masks(cube: xr.Dataset, *, percentile: float = 95.0) -> xr.Dataset:
    """Return the hours of each tower that are extreme there, and those of seasonal transitions.

    Percentiles are those of the tower itself, over its daylight hours (SW_IN_POT above 0) that have a value: hours are
    extreme relative to what the place is used to.

    Parameters
    ----------
    cube : xr.Dataset
        Hourly cube of towers with the predictors TA, VPD and SW_IN_POT; with `surface_climatology` for transitions.
    percentile : float
        Percentile above which daylight hours are hot or dry (%). Cold hours are below 100 minus it.

    Returns
    -------
    xr.Dataset
        Boolean arrays (site, time): ``heat`` and ``cold`` (TA of daylight hours), ``dry air`` (VPD of daylight hours),
        ``dry month`` (mean VPD of the 30 days until that hour above its 90th percentile), ``green-up`` and
        ``senescence`` (months in which the mean seasonal cycle of NIRv rises, or falls, by at least half of its
        largest monthly change). Transitions are absent without `surface_climatology`.

    Raises
    ------
    SchemaError
        If the cube is not hourly, or lacks one of these predictors.
    """
    check_subsets(cube)
    values = {name: cube["predictors"].sel(variable=name, drop=True).load() for name in ("TA", "VPD", "SW_IN_POT")}
    light = values["SW_IN_POT"] > 0
    heat, dry = (values[name].where(light) for name in ("TA", "VPD"))
    month = values["VPD"].rolling(time=24 * _DAYS, min_periods=_HOURS).mean()
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
    """Refuse a cube that is not hourly, or lacks the predictors of `subset_masks` (SchemaError)."""
    hourly = {"site", "time", "variable"} <= set(cube.dims)
    lacking = {"TA", "VPD", "SW_IN_POT"} - set(map(str, cube["variable"].values)) if hourly else set()
    if not hourly or lacking:
        raise SchemaError(
            "subsets need an hourly cube of towers with the predictors TA, VPD and SW_IN_POT, found "
            f"{f'none of {sorted(lacking)}' if hourly else f'dims {sorted(map(str, cube.dims))}'}."
        )


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
