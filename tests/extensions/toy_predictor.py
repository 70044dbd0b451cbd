"""Predictors of another package: one that follows from place and date, and one from a table."""

from __future__ import annotations

import numpy as np
import xarray as xr

from fluxcube.cubes.supplied import SuppliedPredictor


def day_length(cube):
    """Return the hours of daylight of each local date, at the towers of a cube or in the cells of a forcing."""
    time = np.unique(cube.time.values.astype("datetime64[D]")).astype("datetime64[ns]")
    dates = xr.DataArray(time, coords={"time": time}, dims="time")
    declination = np.deg2rad(-23.44 * np.cos(2 * np.pi * (dates.dt.dayofyear + 10) / 365))
    latitude = np.deg2rad(cube.latitude.reset_coords(drop=True))
    half = np.arccos(np.clip(-np.tan(latitude) * np.tan(declination), -1, 1))
    hours = 24 / np.pi * half
    if "site" not in cube.dims:
        hours = hours.expand_dims(longitude=cube.longitude.values)
    return hours.assign_attrs(units="h")


DAY_LENGTH = SuppliedPredictor(
    values=day_length,
    units="h",
    bounds=(0, 24),
    long_name="hours of daylight",
    delay_days=0,  # known in advance
)
