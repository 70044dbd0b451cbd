"""Fuse several publications of one site to one record, by time step and variable, and count what each supplied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from fluxcube.cubes.hourly import UNCERTAINTIES
from fluxcube.errors import ConfigError
from fluxcube.resolution import Resolution, find_resolution
from fluxcube.variables import table

#: Variables fused as one unit, so that NEE = RECO - GPP never mixes two publications: the partition follows NEE.
CARBON_UNIT = ("NEE", "GPP_NT", "RECO_NT", "GPP_DT", "RECO_DT")

RULES = ("newest", "quality")
_PARTS = ("", "_QC", "_COVERAGE", "_QUALITY", *UNCERTAINTIES)
_ABSENT, _UNKNOWN = np.int8(127), np.int8(2)  # greater than every flag; greater than every share
_EMPTY = {"_QC": -1, "_COVERAGE": 0}  # other parts: NaN


def fuse(
    sources: Sequence[tuple[int, str, xr.Dataset]], *, rule: str = "newest", resolution: str = "hourly"
) -> tuple[xr.Dataset, dict]:
    """Fuse hourly or daily records of one site.

    Parameters
    ----------
    sources : sequence of (rank, name, xr.Dataset)
        Records as `to_hourly` or `fluxcube.cubes.localdays.to_daily` returns them; a lower rank is a newer publication.
        Their order does not matter.
    rule : {"newest", "quality"}
        For each time step and variable, the newest publication that has a value is used (CarbonSense's rule); or the
        one with the best flag (in daily records: the highest quality, unknown being lowest), the newest among equals.
    resolution : {"hourly", "daily"}
        Resolution of the records.

    Returns
    -------
    record : xr.Dataset
        Every time step from the first to the last of any source; per variable the values, flags and coverage, and
        uncertainties where any source has them. All of these come from the source of the value.
    report : dict
        Per variable and source: number of ``hours`` supplied, ``flags`` (numbers of 0, 1, 2, 3), ``first`` and ``last``
        hour. For daily records: number of ``days`` supplied, their mean ``quality`` (None where unknown), ``first`` and
        ``last`` day.

    Raises
    ------
    ConfigError
        If the rule is unknown, or two sources have the same name, so that the report could not distinguish them.

    Notes
    -----
    NEE, its flag and its partitions are one unit: for each time step all of them come from the source of NEE or, where
    no source has NEE, from the first one (with rule "quality": the one with the best flag) that has any of them. Each
    source was aggregated on its own: nothing is interpolated between sources, whatever their native steps were.
    """
    if rule not in RULES:
        raise ConfigError(f"rule must be one of {', '.join(RULES)}, found {rule!r}.")
    ordered = sorted(sources, key=lambda source: source[:2])
    labels = [label for _, label, _ in ordered]
    if len(set(labels)) < len(labels):
        raise ConfigError(f"sources to fuse must have different names, found {', '.join(labels)}.")
    row, known = find_resolution(resolution), table(resolution)
    time = _axis([ds for _, _, ds in ordered], row.step)
    present = {name for _, _, ds in ordered for name in ds.data_vars if name in known}
    names = [name for name in known if name in present]  # in table order, independent of the order of sources
    stacks = {name: _stack(name, [ds for _, _, ds in ordered], time, row.step) for name in names}
    choices = _choices(stacks, names, rule)
    record = {}
    for name in names:
        for part, stack in stacks[name].items():
            record[name + part] = ("time", _taken(stack, choices[name]))
    report = {name: _count(stacks[name], choices[name], labels, time, row) for name in names}
    return xr.Dataset(record, coords={"time": time}), report


def _axis(records: Sequence[xr.Dataset], step: np.timedelta64) -> np.ndarray:
    first = min(ds.time.values[0] for ds in records)
    last = max(ds.time.values[-1] for ds in records)
    return np.arange(first, last + step, step)


def _stack(name: str, records: Sequence[xr.Dataset], time: np.ndarray, step: np.timedelta64) -> dict[str, np.ndarray]:
    """Return the arrays (source, time) of one variable on the common axis, by the ending of their names."""
    stacks = {}
    places = [_places(ds.time.values, time[0], step) for ds in records]
    for part in _PARTS:
        arrays = {i: ds[name + part] for i, ds in enumerate(records) if name + part in ds}
        if not arrays:
            continue
        dtype = next(iter(arrays.values())).dtype
        stacks[part] = np.full((len(records), len(time)), _EMPTY.get(part, np.nan), dtype)
        for i, array in arrays.items():
            stacks[part][i, places[i]] = array.values
    return stacks


def _places(time: np.ndarray, origin: np.datetime64, step: np.timedelta64) -> slice | np.ndarray:
    """Return the positions of a record's steps on the common axis; a slice if the record has no gaps."""
    first, last = (int((t - origin) / step) for t in time[[0, -1]])
    if last - first == len(time) - 1:
        return slice(first, last + 1)
    return ((time - origin) / step).astype(np.int64)


def _taken(stack: np.ndarray, choice: np.ndarray) -> np.ndarray:
    """Return the values (time,) of the source chosen for each step."""
    return stack[0] if len(stack) == 1 else np.take_along_axis(stack, choice[None], 0)[0]


def _choices(stacks: dict, names: Sequence[str], rule: str) -> dict[str, np.ndarray]:
    """Return the index of the source of each step (time,) of each variable; the first where none has a value."""
    unit = [name for name in CARBON_UNIT if name in names]
    choices = {name: _best(_scores(stacks[name], rule)) for name in names if name not in unit}
    if unit:
        scores = {name: _scores(stacks[name], rule) for name in unit}
        anything = np.min(list(scores.values()), 0)
        nee = scores.get("NEE", np.full_like(anything, _ABSENT))
        led = (nee != _ABSENT).any(0)
        choices |= dict.fromkeys(unit, np.where(led, _best(nee), _best(anything)))
    return choices


def _scores(stack: dict[str, np.ndarray], rule: str) -> np.ndarray:
    """Return the difference of each value (source, time) from the best possible one."""
    return np.where(np.isfinite(stack[""]), _badness(stack) if rule == "quality" else np.int8(0), _ABSENT)


def _badness(stack: dict[str, np.ndarray]) -> np.ndarray:
    """Return the flag of each value (source, time), or 1 minus its quality."""
    if "_QC" in stack:
        return stack["_QC"]
    return np.where(np.isnan(stack["_QUALITY"]), np.float32(_UNKNOWN), 1 - stack["_QUALITY"])


def _best(scores: np.ndarray) -> np.ndarray:
    """Return the best source of each step (time,); among equals argmin returns the first, which is the newest."""
    return scores.argmin(0)


def _count(stack: dict, choice: np.ndarray, labels: Sequence[str], time: np.ndarray, row: Resolution) -> dict:
    """Return what each source supplied of one variable: number of time steps, quality, and first and last step."""
    values, quality = (_taken(stack[part], choice) for part in ("", row.quality.upper()))
    report = {}
    for i, label in enumerate(labels):
        mine = np.flatnonzero((choice == i) & np.isfinite(values))
        if len(mine):
            first, last = (str(time[at].astype(f"datetime64[{row.unit}]")) for at in mine[[0, -1]])
            report[label] = {row.steps: len(mine), **_quality(quality[mine], row), "first": first, "last": last}
    return report


def _quality(quality: np.ndarray, row: Resolution) -> dict[str, Any]:
    """Return the number of values of each flag, or the mean quality of the days whose quality is known."""
    if row.lower_is_better:
        return {"flags": np.bincount(quality, minlength=4).tolist()}
    known = quality[np.isfinite(quality)]
    return {"quality": round(float(known.mean()), 4) if len(known) else None}
