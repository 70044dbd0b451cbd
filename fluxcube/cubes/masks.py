"""Lazy views of a cube in which values are masked, by flag, length of gap or quality, or scaled."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, unknown
from fluxcube.normalisation import normalise
from fluxcube.resolution import HOURLY, ROUNDING, refuse_other_option, resolution_of
from fluxcube.schema import DRIVERS, STACKS, USED_DRIVERS, driver_sources

#: Parts of a stack that are masked together with its values.
_WITH_VALUE = ("", "_randunc", "_jointunc")

Limit = float | Mapping[str, float]


def check_limits(ds: xr.Dataset, max_qc: Limit | None, max_fill_days: Limit | None, min_quality: Limit | None) -> None:
    """Refuse limits for which the cube's resolution has no arrays, or whose numbers are impossible.

    Raises
    ------
    ConfigError
        With what to pass instead.
    UnknownNameError
        If a mapping names no variable or target of the cube.
    """
    resolution = resolution_of(ds)
    passed = {"max_qc": max_qc, "max_fill_days": max_fill_days, "min_quality": min_quality}
    limits = {name: limit for name, limit in passed.items() if limit is not None}
    refuse_other_option(resolution, limits)
    if max_fill_days is not None and resolution is not HOURLY:
        raise ConfigError(
            f"max_fill_days={max_fill_days!r} needs the flags of hourly values, and the cube is {resolution}: pass "
            f"{resolution.option}=, or open the hourly cube."
        )
    for name, limit in limits.items():
        for number in _numbers(ds, limit):
            if name == "max_fill_days":
                _check_days(number)
            else:
                resolution.check_limit(number)


def _numbers(ds: xr.Dataset, limit: Limit) -> list[object]:
    """Return the numbers of a limit, after checking that its names are in the cube."""
    if not isinstance(limit, Mapping):
        return [limit]
    known = [str(label) for dim in STACKS.values() for label in ds[dim].values]
    for label in limit:
        if label not in known:
            raise unknown("variable or target", label, known)
    return list(limit.values())


def _check_days(days: object) -> None:
    number = float(days) if isinstance(days, int | float | np.integer | np.floating) else np.nan
    if isinstance(days, bool) or not number >= 0:
        raise ConfigError(f"max_fill_days={days!r}: expected a number of days, 0 or more.")


def mask_flags(ds: xr.Dataset, max_qc: Limit) -> xr.Dataset:
    """Mask the values whose flag is above the limit, of each variable by its own; the flags stay."""
    keep = {s: ds[f"{s}_qc"] <= _each(ds, d, max_qc, HOURLY.accepted[1]).astype(np.int8) for s, d in STACKS.items()}
    return _kept(ds, keep).assign_attrs(max_qc=_recorded(max_qc))


def mask_quality(ds: xr.Dataset, min_quality: Limit) -> xr.Dataset:
    """Mask the days of which a smaller share is measured or good fill, and those of unknown quality."""
    keep = {}
    for stack, dim in STACKS.items():
        minimum = (_each(ds, dim, min_quality, -np.inf) - ROUNDING).astype(np.float32)
        keep[stack] = (ds[f"{stack}_quality"] >= minimum) | np.isneginf(minimum)
    return _kept(ds, keep).assign_attrs(min_quality=_recorded(min_quality))


def in_long_fills(flags: np.ndarray, days: float) -> np.ndarray:
    """Return which hours are part of a gap longer than `days`.

    Parameters
    ----------
    flags : (..., time) int8
        Flags of one variable: 0 measured, 1 to 3 filled, -1 no value.
    days : float
        Maximum length. A gap is a sequence of hours that are not measured; hours without a value count within it, but
        not at its ends.

    Returns
    -------
    (..., time) bool

    Examples
    --------
    >>> in_long_fills(np.int8([0, 1, -1, 1, 0, 2, -1, -1, 0]), 2 / 24).astype(int)
    array([0, 1, 1, 1, 0, 0, 0, 0, 0])
    """
    out = np.zeros(flags.shape, bool)
    for row, within in zip(flags.reshape(-1, flags.shape[-1]), out.reshape(-1, flags.shape[-1]), strict=True):
        filled = np.flatnonzero(row > 0)
        if not len(filled):
            continue
        # Gaps differ in how many measured hours came before them.
        gap = np.searchsorted(np.flatnonzero(row == 0), filled)
        first = np.flatnonzero(np.concatenate([[True], gap[1:] != gap[:-1]]))
        last = np.concatenate([first[1:], [len(filled)]]) - 1
        start, stop = filled[first], filled[last] + 1
        for i in np.flatnonzero(stop - start > days * HOURLY.steps_per_day):
            within[start[i] : stop[i]] = True
    return out


def mask_fills(ds: xr.Dataset, whole: xr.Dataset, max_fill_days: Limit) -> xr.Dataset:
    """Mask the filled values of long gaps; the flags stay.

    Parameters
    ----------
    ds : xr.Dataset
        A selection of an hourly cube.
    whole : xr.Dataset
        The cube with its whole time axis, so that a gap keeps its length where `ds` cuts it. Its flags are read, one
        site at a time.
    max_fill_days : number or mapping of str to number
        Maximum length of a gap (`in_long_fills`) whose fills are kept, in days.

    Returns
    -------
    xr.Dataset
        `ds` with these values masked, and the attribute ``max_fill_days``.
    """
    begin = int(whole.indexes["time"].get_indexer(ds.indexes["time"][:1])[0])
    cut = {"site": whole.indexes["site"].get_indexer(ds.indexes["site"])}
    keep = {}
    for stack, dim in STACKS.items():
        if stack == "predictors" and USED_DRIVERS in ds.attrs:  # no gaps, unlike the flags of the towers' own
            continue
        days = _each(ds, dim, max_fill_days, np.inf)
        if np.isinf(days).all():
            continue
        flags = whole[f"{stack}_qc"].reset_coords(drop=True).chunk({"site": 1, "time": -1, dim: -1})
        long = xr.apply_ufunc(
            _in_long_fills,
            flags.isel({dim: whole.indexes[dim].get_indexer(ds.indexes[dim]), **cut}),
            kwargs={"days": tuple(days.values)},
            dask="parallelized",
            output_dtypes=[bool],
        )
        keep[stack] = ~long.isel(time=slice(begin, begin + ds.sizes["time"])).chunk(ds[stack].chunksizes)
    return _kept(ds, keep).assign_attrs(max_fill_days=_recorded(max_fill_days))


def _in_long_fills(flags: np.ndarray, days: tuple[float, ...]) -> np.ndarray:
    """Return `in_long_fills` of flags (site, time, name), each name by its own limit."""
    out = np.zeros(flags.shape, bool)
    for i, maximum in enumerate(days):
        if np.isinf(maximum):
            continue
        out[..., i] = in_long_fills(np.ascontiguousarray(flags[..., i]), maximum)
    return out


def _each(ds: xr.Dataset, dim: str, limit: Limit, default: float) -> xr.DataArray:
    """Return the limit of each label (dim,)."""
    of = limit.get if isinstance(limit, Mapping) else lambda label, _: limit
    labels = [str(label) for label in ds[dim].values]
    return xr.DataArray(np.array([of(label, default) for label in labels], float), dims=dim, coords={dim: labels})


def _kept(ds: xr.Dataset, keep: Mapping[str, xr.DataArray]) -> xr.Dataset:
    arrays = {}
    for stack, mask in keep.items():
        mask = mask.drop_vars(list(mask.coords))
        for name in (stack + ending for ending in _WITH_VALUE):
            if name in ds:
                arrays[name] = ds[name].where(mask)
    return ds.assign(arrays)


def _recorded(limit: Limit) -> str | int | float:
    """Return a limit as an attribute: a mapping as JSON, because a netCDF attribute cannot be a mapping."""
    if not isinstance(limit, Mapping):
        return _plain(limit)
    return json.dumps({str(label): _plain(number) for label, number in limit.items()})


def _plain(number: float) -> int | float:
    return int(number) if float(number).is_integer() else float(number)


def scale_by_bounds(ds: xr.Dataset) -> xr.Dataset:
    """Scale a cube's stacks by their variables' bounds, as `fluxcube.normalisation` does; uncertainties likewise."""
    resolution, arrays = resolution_of(ds).name, {}
    stacks = [*STACKS.items(), *((DRIVERS + name, "variable") for name in driver_sources(ds))]
    for stack, dim in stacks:
        names = [str(name) for name in ds[dim].values]
        arrays[stack] = xr.apply_ufunc(
            normalise,
            ds[stack],
            dask="parallelized",
            output_dtypes=[np.float32],
            keep_attrs=True,
            kwargs={"names": names, "mask": dim == "variable", "resolution": resolution},
        )
        one, none = (normalise(np.full(len(names), v), names, mask=False, resolution=resolution) for v in (1.0, 0.0))
        width = xr.DataArray((one - none).astype(np.float32), dims=dim)
        for name in (stack + ending for ending in _WITH_VALUE[1:]):
            if name in ds:
                arrays[name] = (ds[name] * width).assign_attrs(ds[name].attrs)
    for units, dim in (("units", "variable"), ("target_units", "target")):
        ds = ds.assign_coords({units: (dim, np.full(ds.sizes[dim], "1", object))})
    return ds.assign(arrays).assign_attrs(normalized="by bounds: cyclic to [-1, 1), others to [-0.5, 0.5)")
