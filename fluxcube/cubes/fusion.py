"""Several publications of one site become one record: hour by hour, variable by variable, counted by source."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError
from fluxcube.timestamps import HOUR
from fluxcube.variables import table

#: Fused as one unit, so that NEE = RECO - GPP never mixes two publications: NEE leads, its partition follows.
CARBON_UNIT = ("NEE", "GPP_NT", "RECO_NT", "GPP_DT", "RECO_DT")

RULES = ("newest", "quality")
_PARTS = ("", "_QC", "_COVERAGE")
_EMPTY = {"": np.nan, "_QC": -1, "_COVERAGE": 0}
_DTYPES = {"": np.float32, "_QC": np.int8, "_COVERAGE": np.float32}


def fuse(sources: Sequence[tuple[int, str, xr.Dataset]], *, rule: str = "newest") -> tuple[xr.Dataset, dict]:
    """Fuse hourly records of one site.

    Parameters
    ----------
    sources : sequence of (rank, name, xr.Dataset)
        Records as `to_hourly` gives them; a lower rank is a newer publication. Their order does not matter.
    rule : {"newest", "quality"}
        For each hour and variable, the newest publication that has a value wins (CarbonSense's rule); or the one
        with the best flag, the newest among equals.

    Returns
    -------
    record : xr.Dataset
        Every hour from the first to the last of any source.
    report : dict
        Per variable and source: ``hours`` given, ``flags`` (how many of 0, 1, 2, 3), ``first`` and ``last`` hour.

    Raises
    ------
    ConfigError
        If there is no such rule.

    Notes
    -----
    NEE, its flag and its partitions are one unit: an hour takes all of them from the source whose NEE it takes, or,
    where no source has NEE, from the first that has any of them.
    """
    if rule not in RULES:
        raise ConfigError(f"rule must be one of {', '.join(RULES)}, found {rule!r}.")
    ordered = sorted(sources, key=lambda source: source[:2])
    time = _axis([ds for _, _, ds in ordered])
    present = {name for _, _, ds in ordered for name in ds.data_vars if name in table()}
    names = [name for name in table() if name in present]  # table order: the order of sources must not matter
    stacks = {name: _stack(name, [ds for _, _, ds in ordered], time) for name in names}
    choices = _choices(stacks, names, rule)
    record = {}
    for name in names:
        for part in _PARTS:
            record[name + part] = ("time", np.take_along_axis(stacks[name][part], choices[name][None], 0)[0])
    report = {name: _given(stacks[name], choices[name], [label for _, label, _ in ordered], time) for name in names}
    return xr.Dataset(record, coords={"time": time}), report


def _axis(records: Sequence[xr.Dataset]) -> np.ndarray:
    first = min(ds.time.values[0] for ds in records)
    last = max(ds.time.values[-1] for ds in records)
    return np.arange(first, last + HOUR, HOUR)


def _stack(name: str, records: Sequence[xr.Dataset], time: np.ndarray) -> dict[str, np.ndarray]:
    """Values, flags and coverage of one variable (source, time), on the common axis."""
    stacks = {part: np.full((len(records), len(time)), _EMPTY[part], _DTYPES[part]) for part in _PARTS}
    for i, ds in enumerate(records):
        if name in ds:
            start = int((ds.time.values[0] - time[0]) / HOUR)
            for part in _PARTS:
                stacks[part][i, start : start + ds.sizes["time"]] = ds[name + part].values
    return stacks


def _choices(stacks: dict, names: Sequence[str], rule: str) -> dict[str, np.ndarray]:
    """Which source each hour of each variable comes from (time,); the first where none has a value."""
    unit = [name for name in CARBON_UNIT if name in names]
    choices = {name: _best(stacks[name][""], stacks[name]["_QC"], rule) for name in names if name not in unit}
    if unit:
        lead = stacks[unit[0]]
        anything = np.stack([np.isfinite(stacks[name][""]) for name in unit]).any(0)
        leads = np.isfinite(lead[""]) if unit[0] == "NEE" else anything
        chosen = np.where(leads.any(0), _best(lead[""], lead["_QC"], rule), anything.argmax(0))
        choices |= dict.fromkeys(unit, chosen)
    return choices


def _best(values: np.ndarray, flags: np.ndarray, rule: str) -> np.ndarray:
    """First source with a value, or with the best flag (argmin takes the first of equals)."""
    absent = ~np.isfinite(values)
    score = np.where(absent, 127, flags if rule == "quality" else 0)
    return score.argmin(0)


def _given(stack: dict, choice: np.ndarray, labels: Sequence[str], time: np.ndarray) -> dict:
    """What each source gave of one variable."""
    values, flags = (np.take_along_axis(stack[part], choice[None], 0)[0] for part in ("", "_QC"))
    report = {}
    for i, label in enumerate(labels):
        mine = np.flatnonzero((choice == i) & np.isfinite(values))
        if len(mine):
            report[label] = {
                "hours": len(mine),
                "flags": np.bincount(flags[mine], minlength=4).tolist(),
                "first": str(time[mine[0]].astype("datetime64[h]")),
                "last": str(time[mine[-1]].astype("datetime64[h]")),
            }
    return report
