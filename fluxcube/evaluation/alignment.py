"""Observations and predictions before they are aligned: maps are sampled at towers, other dimensions are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from fluxcube.errors import SchemaError
from fluxcube.evaluation.common_steps import longest_step, step_days
from fluxcube.maps.at_sites import SAMPLING, sample_at_sites
from fluxcube.maps.axes import is_gridded
from fluxcube.resolution import DAILY, HOURLY

_CELLS = {"latitude", "longitude"}
Labelled = xr.Dataset | xr.DataArray


def at_sites(obs: Labelled, predictions: Mapping[str, Labelled]) -> dict[str, Labelled]:
    """Return predictions of which maps are sampled at the sites of the observations, in their nearest cell.

    Standard deviations (NAME_std) of predictions that will be averaged over the longer time steps of maps are left out:
    they describe single time steps. Predictions that have sites already, and all of them if the observations are maps,
    are returned as they are.

    Parameters
    ----------
    obs : xr.Dataset or xr.DataArray
        Observations.
    predictions : mapping of str to xr.Dataset or xr.DataArray
        Predictions by model name.

    Raises
    ------
    SchemaError
        If some are no labelled arrays with time steps, or the sites have no coordinates.
    """
    for name, data in {"the observations": obs, **predictions}.items():
        check_labelled(name, data)
    if "site" not in obs.dims:
        return dict(predictions)
    out: dict[str, Labelled] = {}
    for name, data in predictions.items():
        out[name] = _in_order(sample_at_sites(data, obs)) if is_gridded(data) else data
    if not any("cell_distance" in data.coords for data in out.values()):
        return out
    longest = longest_step(obs, out)
    for name, data in out.items():
        if isinstance(data, xr.Dataset) and step_days(data) < 0.99 * longest:
            out[name] = data.drop_vars([v for v in data.data_vars if str(v).endswith("_std")])
    return out


def _in_order(data: Labelled) -> Labelled:
    """Return sampled maps in the order of time; a stamp within an hour or a day becomes that of its start."""
    time = data["time"] if "time" in data.coords else None
    if time is None or time.dtype.kind != "M":
        return data
    data = data if data.indexes["time"].is_monotonic_increasing else data.sortby("time")
    step = step_days(data) * 24
    unit = next((unit for unit, hours in (("h", 1), ("D", 24)) if abs(step - hours) < 0.01 * hours), None)
    if unit is None:
        return data
    starts = data["time"].values.astype(f"datetime64[{unit}]").astype("datetime64[ns]")
    return data.assign_coords(time=("time", starts, data["time"].attrs))


def sampling_notes(predictions: Mapping[str, Labelled]) -> dict[str, str]:
    """Return the attribute of scores that records how maps were sampled; nothing if there are none."""
    notes = {name: str(data.attrs[SAMPLING]) for name, data in predictions.items() if SAMPLING in data.attrs}
    return {SAMPLING: " | ".join(f"{name}: {note}" for name, note in notes.items())} if notes else {}


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
    if set(obs.dims) >= _CELLS and "site" in array.dims:
        return f"{have}: sample the maps at the towers first, fluxcube.sample_at_sites(maps, cube)."
    only = " and ".join(sorted(map(str, set(obs.dims) ^ set(array.dims))))
    return f"{have}: expected the same dims. Select one entry of {only} with isel, or average over it."


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
