"""Join the two dimensions time (days) and hour of a product to one of hourly time steps."""

from __future__ import annotations

import numpy as np
import xarray as xr

from fluxcube.errors import SchemaError

_DAY = np.timedelta64(1, "D")
#: Minimum step of mean diurnal cycles of longer periods (of months), which are not joined.
_PERIOD = np.timedelta64(8, "D")


def join_hours(data: xr.Dataset) -> xr.Dataset:
    """Return data with hourly time steps in place of the dimensions time (days) and hour; other data as they are.

    Mean diurnal cycles of months or years keep their dimension hour, since they contain no hours of single days.
    Variables without the dimension hour are left out.

    Parameters
    ----------
    data : xr.Dataset
        Variables with the dimensions time and hour. The coordinate hour contains the start, the middle or the end of
        each step, in hours; without it, the steps divide the day.

    Returns
    -------
    xr.Dataset
        Dims (..., time), lazy if the data are; `time` is the start of each step, in increasing order.

    Raises
    ------
    SchemaError
        If the hours do not divide the day into equal steps, or time contains no dates.

    Examples
    --------
    >>> days = np.array(["2001-01-01", "2001-01-02"], "datetime64[ns]")
    >>> both = xr.Dataset({"NEE": (("time", "hour"), np.arange(4.0).reshape(2, 2))}, {"time": days, "hour": [0, 12]})
    >>> join_hours(both).NEE.values, join_hours(both).time.dt.hour.values
    (array([0., 1., 2., 3.]), array([ 0, 12,  0, 12]))
    """
    if not {"time", "hour"} <= set(data.dims) or not _are_days(data):
        return data
    data = data.sortby("time") if not data.indexes["time"].is_monotonic_increasing else data
    starts = _starts(data)
    order = np.argsort(starts, kind="stable")
    days = data["time"].values.astype("datetime64[D]").astype("datetime64[s]")
    seconds = np.round(starts[order] * 3600).astype("timedelta64[s]")
    time = (days[:, None] + seconds).ravel().astype("datetime64[ns]")
    step = np.timedelta64(round(86400 / len(starts)), "s")
    joined = {
        str(name): _joined(array if (np.diff(order) == 1).all() else array.isel(hour=order))
        for name, array in data.data_vars.items()
        if {"time", "hour"} <= set(array.dims)
    }
    coords = {str(name): c.variable for name, c in data.coords.items() if not {"time", "hour"} & set(c.dims)}
    attrs = {"standard_name": "time", "long_name": "start of the hour, UTC", "bounds": "time_bnds"}
    bounds = np.stack([time, time + step], 1)
    return xr.Dataset(
        joined, coords | {"time": ("time", time, attrs), "time_bnds": (("time", "bnds"), bounds)}, data.attrs
    )


def _joined(array: xr.DataArray) -> xr.Variable:
    variable = array.variable.transpose(..., "time", "hour")
    if variable.chunks is not None:
        variable = variable.chunk({"hour": -1})
    *others, _, _ = variable.dims
    data = variable.data.reshape(*variable.shape[:-2], -1)
    return xr.Variable((*others, "time"), data, variable.attrs)


def _are_days(data: xr.Dataset) -> bool:
    """Return whether the time steps are days, not longer periods."""
    time = data["time"].values if "time" in data.coords else np.array([])
    if time.dtype.kind != "M":
        raise SchemaError("maps with the dimensions time and hour: expected dates along time, found none; decode them.")
    bounds = data.coords.get("time_bnds")
    if bounds is not None and bounds.ndim == 2 and bounds.dtype.kind == "M" and len(time):
        return bool((np.diff(bounds.values, axis=1) <= _DAY).all())
    steps = np.diff(np.sort(time.astype("datetime64[D]")))
    return len(steps) == 0 or bool(steps.min() < _PERIOD)


def _starts(data: xr.Dataset) -> np.ndarray:
    """Return the start (hour,) of each step in hours."""
    count = data.sizes["hour"]
    width = 24 / count
    if "hour_bnds" in data.coords and data["hour_bnds"].ndim == 2:
        hour = _as_hours(data["hour_bnds"].values).min(1)
    else:
        hour = _as_hours(data["hour"].values) if "hour" in data.coords else np.arange(count) * width
    starts = hour - (hour.min() if np.isclose(hour.min(), [width / 2, width]).any() else 0.0)
    if not np.allclose(np.sort(starts), np.arange(count) * width, atol=1e-3):
        raise SchemaError(
            f"maps: expected the coordinate hour to divide the day into {count} equal steps, found "
            f"{', '.join(f'{value:g}' for value in hour[:5])}, ...; select all hours, or average them."
        )
    return starts


def _as_hours(values: np.ndarray) -> np.ndarray:
    """Return hours as numbers; xarray decodes them to time differences if their unit is h."""
    if values.dtype.kind == "m":
        return values / np.timedelta64(1, "h")
    return values.astype(float)
