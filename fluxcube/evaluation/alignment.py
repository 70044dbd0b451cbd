"""Checks of observations and predictions before they are aligned: labelled arrays with the same dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from fluxcube.errors import SchemaError
from fluxcube.resolution import DAILY, HOURLY

_CELLS = {"latitude", "longitude"}
#: How maps are sampled at towers; without a tolerance, a tower outside the maps would get the values of their edge.
_SAMPLE = 'maps.sel(latitude=cube.latitude, longitude=cube.longitude, method="nearest", tolerance={tolerance:g})'


def check_labelled(name: str, data: object) -> None:
    """Refuse data that are not labelled arrays with time steps (SchemaError)."""
    if not isinstance(data, xr.Dataset | xr.DataArray):
        raise SchemaError(
            f"{name}: expected an xarray Dataset or DataArray, found {type(data).__name__}; pass a labelled array, "
            'xr.DataArray(values, dims=("site", "time"), coords=...).'
        )
    if "time" not in data.dims or "time" not in data.coords:
        raise SchemaError(
            f"{name}: expected the dimension time with its coordinate, found dims {tuple(map(str, data.dims))}; keep "
            "the time axis: select several time steps, and average after scoring."
        )


def check_same_dims(obs: xr.DataArray, predictions: Sequence[xr.DataArray]) -> None:
    """Refuse observations and predictions of different kinds of places or time steps.

    Raises
    ------
    SchemaError
        If one has sites and the other cells of a grid, one has hourly and the other daily or monthly time steps, or
        labels repeat; the message reports what to type.
    """
    for array in (obs, *predictions):
        for dim in array.dims:
            if dim in array.indexes and not array.indexes[dim].is_unique:
                index = array.indexes[dim]
                raise SchemaError(
                    f"{array.name}: {dim} {index[index.duplicated()][0]} is there twice; keep one, "
                    f'array.drop_duplicates("{dim}").'
                )
    for array in predictions:
        if set(array.dims) != set(obs.dims):
            raise SchemaError(_other_dims(obs, array))
        _check_steps(obs, array)


def _other_dims(obs: xr.DataArray, array: xr.DataArray) -> str:
    have = f"observations have dims {tuple(map(str, obs.dims))} and predictions {tuple(map(str, array.dims))}"
    kinds = {"site" if "site" in a.dims else "cell" if set(a.dims) >= _CELLS else "" for a in (obs, array)}
    if kinds == {"site", "cell"}:
        sample = _SAMPLE.format(tolerance=_cell_size(obs if "site" in array.dims else array))
        return f"{have}: sample the maps at the towers first, {sample}."
    only = " and ".join(sorted(map(str, set(obs.dims) ^ set(array.dims))))
    return f"{have}: expected the same dims. Select one entry of {only} with isel, or average over it."


def _cell_size(maps: xr.DataArray) -> float:
    """Return the largest distance between neighbouring rows or columns of maps, degrees; 0.25 for a single cell."""
    steps = [np.abs(np.diff(maps[dim].values.astype(float))) for dim in sorted(_CELLS) if dim in maps.coords]
    return round(max((float(step.max()) for step in steps if step.size), default=0.25), 6)


def _check_steps(obs: xr.DataArray, array: xr.DataArray) -> None:
    """Refuse daily, weekly or monthly means beside finer data: a mean would be compared with its first time step."""
    if obs["time"].dtype.kind != "M" or array["time"].dtype.kind != "M":
        return
    steps = {
        name: np.diff(a["time"].values[:8]).min() for name, a in (("obs", obs), ("pred", array)) if a.sizes["time"] > 1
    }
    if len(steps) < 2 or steps["obs"] == steps["pred"]:
        return
    coarse = obs if steps["obs"] > steps["pred"] else array
    if _are_periods(coarse["time"].values, max(steps.values()), min(steps.values())):
        raise SchemaError(
            f"observations are {_step_word(steps['obs'])} and predictions {_step_word(steps['pred'])}: the value of a "
            "period would be compared with its first step. Average the finer data over the same periods, or build a "
            "daily cube. If these are single steps, select the same ones of the others: obs.sel(time=pred.time)."
        )


def _are_periods(time: np.ndarray, step: np.timedelta64, finer: np.timedelta64) -> bool:
    """Return whether time stamps are the starts of daily, weekly, monthly or annual periods."""
    days = time.astype("datetime64[D]")
    if step < DAILY.step or not (time == days).all():
        return False
    if finer < DAILY.step:
        return True
    months = bool((days == days.astype("datetime64[M]")).all())
    return months or (len(days) > 2 and len(np.unique(np.diff(days))) == 1)


def _step_word(step: np.timedelta64) -> str:
    words = {HOURLY.step: "hourly", DAILY.step: "daily"}
    return words.get(step, f"in steps of {step / DAILY.step:g} days")
