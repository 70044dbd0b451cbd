"""Views of a cube that make some values missing, or scale them: lazily, by flags, by length of gap, by quality."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, unknown
from fluxcube.normalisation import normalise
from fluxcube.resolution import resolution_of
from fluxcube.schema import STACKS

_WORST_FLAG = 3
_HOURS_A_DAY = 24
#: Parts of a stack that mean nothing without its value.
_WITH_VALUE = ("", "_randunc", "_jointunc")

Limit = float | Mapping[str, float]


def check_limits(ds: xr.Dataset, max_qc: Limit | None, max_fill_days: Limit | None, min_quality: Limit | None) -> None:
    """Refuse limits that a cube's resolution has no arrays for, or that are no numbers that could be.

    Raises
    ------
    ConfigError
        Saying what to give instead.
    UnknownNameError
        If a mapping names no variable or target of the cube.
    """
    daily = resolution_of(ds) == "daily"
    if daily and max_qc is not None:
        raise ConfigError(
            f"max_qc={max_qc!r}: a daily cube has no flags; use min_quality=, the share of the day that is measured or "
            "good fill, from 0 to 1 (best)."
        )
    if daily and max_fill_days is not None:
        raise ConfigError(
            f"max_fill_days={max_fill_days!r}: a daily cube does not tell which hours were filled; use min_quality=, "
            "or the hourly cube."
        )
    if not daily and min_quality is not None:
        raise ConfigError(
            f"min_quality={min_quality!r}: an hourly cube has flags; use max_qc=, from 0 (measured) to {_WORST_FLAG}."
        )
    _check(
        ds,
        "max_qc",
        max_qc,
        lambda x: float(x).is_integer() and 0 <= x <= _WORST_FLAG,
        f"whole numbers from 0 (measured) to {_WORST_FLAG}",
    )
    _check(ds, "max_fill_days", max_fill_days, lambda x: x >= 0, "numbers of days, 0 or more")
    _check(ds, "min_quality", min_quality, lambda x: 0 <= x <= 1, "shares of a day from 0 to 1 (best)")


def _check(ds: xr.Dataset, name: str, limit: Limit | None, valid, expected: str) -> None:
    if limit is None:
        return
    limits = dict(limit) if isinstance(limit, Mapping) else {}
    known = [str(label) for dim in STACKS.values() for label in ds[dim].values]
    for label in limits:
        if label not in known:
            raise unknown("variable or target", label, known)
    for one in limits.values() if isinstance(limit, Mapping) else [limit]:
        number = isinstance(one, (int, float, np.integer, np.floating)) and not isinstance(one, bool)
        if not number or np.isnan(one) or not valid(one):
            raise ConfigError(f"{name}={limit!r}: expected {expected}.")


def mask_flags(ds: xr.Dataset, max_qc: Limit) -> xr.Dataset:
    """Make values with a worse flag missing, each variable by its own; the flags stay."""
    keep = {s: ds[f"{s}_qc"] <= _each(ds, d, max_qc, _WORST_FLAG).astype(np.int8) for s, d in STACKS.items()}
    return _kept(ds, keep).assign_attrs(max_qc=_recorded(max_qc))


def mask_quality(ds: xr.Dataset, min_quality: Limit) -> xr.Dataset:
    """Make days missing of which a smaller share is measured or good fill; one of unknown quality, too."""
    keep = {}
    for stack, dim in STACKS.items():
        least = _each(ds, dim, min_quality, -np.inf).astype(np.float32)
        keep[stack] = (ds[f"{stack}_quality"] >= least) | np.isneginf(least)
    return _kept(ds, keep).assign_attrs(min_quality=_recorded(min_quality))


def in_long_fills(flags: np.ndarray, days: float) -> np.ndarray:
    """Say which hours lie in a gap longer than so many days.

    Parameters
    ----------
    flags : (..., time) int8
        Flags of one variable: 0 measured, 1 to 3 filled, -1 no value.
    days : float
        A gap is a run of hours that are not measured, without those at its ends that have no value; its length is that
        of the whole run, with the hours that have no value within it.

    Returns
    -------
    (..., time) bool

    Examples
    --------
    >>> in_long_fills(np.int8([0, 1, -1, 1, 0, 2, -1, -1, 0]), 2 / 24).astype(int)
    array([0, 1, 1, 1, 0, 0, 0, 0, 0])
    """
    out = np.zeros(flags.shape, bool)
    for row, found in zip(flags.reshape(-1, flags.shape[-1]), out.reshape(-1, flags.shape[-1]), strict=True):
        filled = np.flatnonzero(row > 0)
        if not len(filled):
            continue
        # Gaps differ in how many measured hours came before them.
        gap = np.searchsorted(np.flatnonzero(row == 0), filled)
        first = np.flatnonzero(np.concatenate([[True], gap[1:] != gap[:-1]]))
        last = np.concatenate([first[1:], [len(filled)]]) - 1
        start, stop = filled[first], filled[last] + 1
        for i in np.flatnonzero(stop - start > days * _HOURS_A_DAY):
            found[start[i] : stop[i]] = True
    return out


def mask_fills(ds: xr.Dataset, whole: xr.Dataset, max_fill_days: Limit) -> xr.Dataset:
    """Make the filled values of long gaps missing; the flags stay.

    Parameters
    ----------
    ds : xr.Dataset
        A part of an hourly cube.
    whole : xr.Dataset
        The cube with all of its time: a gap that `ds` cuts keeps its length. Its flags are read, a site at a time.
    max_fill_days : number or mapping of str to number
        Longest gap (`in_long_fills`) that is kept, in days.

    Returns
    -------
    xr.Dataset
        `ds` with such values missing, and the attribute ``max_fill_days``.
    """
    begin = int(whole.indexes["time"].get_indexer(ds.indexes["time"][:1])[0])
    cut = {"site": whole.indexes["site"].get_indexer(ds.indexes["site"])}
    keep = {}
    for stack, dim in STACKS.items():
        days = _each(ds, dim, max_fill_days, np.inf)
        if np.isinf(days).all():
            continue
        flags = whole[f"{stack}_qc"].reset_coords(drop=True).chunk({"site": 1, "time": -1, dim: -1})
        found = xr.apply_ufunc(
            _in_long_fills,
            flags.isel({dim: whole.indexes[dim].get_indexer(ds.indexes[dim]), **cut}),
            kwargs={"days": tuple(days.values)},
            dask="parallelized",
            output_dtypes=[bool],
        )
        keep[stack] = ~found.isel(time=slice(begin, begin + ds.sizes["time"])).chunk(ds[stack].chunksizes)
    return _kept(ds, keep).assign_attrs(max_fill_days=_recorded(max_fill_days))


def _in_long_fills(flags: np.ndarray, days: tuple[float, ...]) -> np.ndarray:
    """`in_long_fills` of (site, time, name), each name by its own limit."""
    out = np.zeros(flags.shape, bool)
    for i, most in enumerate(days):
        if np.isinf(most):
            continue
        out[..., i] = in_long_fills(np.ascontiguousarray(flags[..., i]), most)
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
    """Return a limit as an attribute: a mapping as text, because netCDF has no attributes with names in them."""
    if not isinstance(limit, Mapping):
        return _plain(limit)
    return json.dumps({str(label): _plain(number) for label, number in limit.items()})


def _plain(number: float) -> int | float:
    return int(number) if float(number).is_integer() else float(number)


def scale_by_bounds(ds: xr.Dataset) -> xr.Dataset:
    """Scale a cube's stacks by their variables' bounds, as `fluxcube.normalisation` does; uncertainties likewise."""
    resolution, arrays = resolution_of(ds).name, {}
    for stack, dim in STACKS.items():
        names = [str(name) for name in ds[dim].values]
        arrays[stack] = xr.apply_ufunc(
            normalise,
            ds[stack],
            dask="parallelized",
            output_dtypes=[np.float32],
            keep_attrs=True,
            kwargs={"names": names, "mask": stack == "predictors", "resolution": resolution},
        )
        one, none = (normalise(np.full(len(names), v), names, mask=False, resolution=resolution) for v in (1.0, 0.0))
        width = xr.DataArray((one - none).astype(np.float32), dims=dim)
        for name in (stack + ending for ending in _WITH_VALUE[1:]):
            if name in ds:
                arrays[name] = (ds[name] * width).assign_attrs(ds[name].attrs)
    for units, dim in (("units", "variable"), ("target_units", "target")):
        ds = ds.assign_coords({units: (dim, np.full(ds.sizes[dim], "1", object))})
    return ds.assign(arrays).assign_attrs(normalized="by bounds: cyclic to [-1, 1), others to [-0.5, 0.5)")
