"""Mean diurnal and seasonal cycles of observations and models, by group of sites."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from fluxcube.errors import ConfigError, unknown
from fluxcube.evaluation.common_rows import (
    CommonRows,
    Observed,
    Predictions,
    TargetRows,
    groups_of,
    means_by_site,
    rows_in_common,
)
from fluxcube.evaluation.sums import QualityOptions
from fluxcube.resolution import Resolution

#: Minimum numbers: rows of a local hour of the whole record, rows of a local hour of one month, local hours of a month,
#: and days of a month of daily data.
_HOUR, _MONTH_HOUR, _HOURS, _DAYS = 10, 3, 20, 15
#: Values of x by kind of cycle.
_BINS = {"diurnal": np.arange(24), "seasonal": np.arange(1, 13)}

_COLUMNS = ("target", "units", "group", "model", "x", "mean", "low", "high", "n_sites")

CycleKind = Literal["diurnal", "seasonal"]


def mean_cycles(
    obs: Observed,
    predictions: Predictions = None,
    *,
    kind: CycleKind = "diurnal",
    by: str | None = "igbp",
    limits: QualityOptions | None = None,
) -> pd.DataFrame:
    """Compute the mean cycle of the observations and of every model, on common rows, each site with the same weight.

    The diurnal cycle of a site is the mean of its common rows in each local solar hour, at least 10. The value of a
    month of hourly data is the mean over local hours of the mean of each hour (at least 3 rows each, and 20 of the 24
    hours), so that nights, which are measured less often, have their weight; that of daily data is the mean of at least
    15 days. Only sites with a complete cycle count, so that the mean over sites does not jump where some of them have
    no measured value. Sites that are never measured in one month have no seasonal cycle.

    Parameters
    ----------
    obs, predictions
        As `fluxcube.compare` takes them; or `fluxcube.evaluation.common_rows.CommonRows`, and no predictions.
    kind : {"diurnal", "seasonal"}
        Diurnal cycles need hourly data.
    by : str, optional
        Coordinate of the groups: igbp, koppen, climate or another coordinate of the sites. Default: igbp. The group
        "all" comes first; None returns only this group.
    limits : mapping, optional
        The limit of quality, `max_qc` or `min_quality`, as `fluxcube.compare` takes it.

    Returns
    -------
    pd.DataFrame
        Columns target, units, group, model ("observed", then the models), x, mean, low, high and n_sites. x is the
        local solar hour from 0 to 23; or the month from 1 to 12, which is half a year later in the south, so that 7 is
        midsummer everywhere. mean, low and high are the mean, the 10th and the 90th percentile over sites. Groups
        without a site with a complete cycle are absent.

    Raises
    ------
    ConfigError
        If the diurnal cycle of daily data is requested.
    SchemaError
        If the sites have no coordinate `by`, or nothing is in common.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> cube = example_cube(days=15, gaps=0)
    >>> table = mean_cycles(cube, {"same": cube.fluxes.sel(target=["GPP_NT"])}, by=None)
    >>> len(table), table.n_sites.unique().tolist()
    (48, [4])
    """
    if kind not in _BINS:
        raise unknown("kind of cycle", kind, _BINS)
    rows = rows_in_common(obs, predictions, **(limits or {}))
    if kind == "diurnal" and rows.resolution.steps_per_day == 1:
        raise ConfigError('kind="diurnal": expected hourly data, found daily data; use kind="seasonal".')
    tables = [_target_cycles(target, rows, kind, by) for target in rows.targets]
    out = pd.concat([one for one in tables if len(one)] or tables[:1], ignore_index=True)
    out.attrs = dict(rows.attrs) | {"kind": kind, "by": by}
    return out


def _target_cycles(target: str, rows: CommonRows, kind: CycleKind, by: str | None) -> pd.DataFrame:
    one = rows.targets[target]
    cycles = _site_cycles(one, kind, rows.resolution)
    complete = np.isfinite(cycles).all((1, 2))
    frames = []
    for group, mask in groups_of(one.places, by).items():
        chosen = cycles[mask & complete]
        if not len(chosen):
            continue
        low, high = np.percentile(chosen, (10, 90), axis=0)
        for j, model in enumerate(rows.series):
            about = {"target": target, "units": one.units, "group": group, "model": model, "n_sites": len(chosen)}
            values = {"x": _BINS[kind], "mean": chosen.mean(0)[:, j], "low": low[:, j], "high": high[:, j]}
            frames.append(pd.DataFrame(about | values, columns=list(_COLUMNS)))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(_COLUMNS))


def _site_cycles(rows: TargetRows, kind: CycleKind, resolution: Resolution) -> np.ndarray:
    """Return the mean (site, bin, series) of each bin; NaN in bins with too few rows."""
    sites = rows.places.sizes["place"]
    if kind == "diurnal":
        return _binned(rows, _hour_of(rows), 24, _HOUR)
    if resolution.steps_per_day == 1:
        return _binned(rows, _month_of(rows), 12, _DAYS)
    composite = _binned(rows, _month_of(rows) * 24 + _hour_of(rows), 288, _MONTH_HOUR).reshape(sites, 12, 24, -1)
    known = np.isfinite(composite[..., 0])
    number = known.sum(2)[..., None]
    total = np.where(known[..., None], composite, 0.0).sum(2)
    return np.where(number >= _HOURS, total / np.maximum(number, 1), np.nan)


def _binned(rows: TargetRows, bin_of: np.ndarray, bins: int, min_rows: int) -> np.ndarray:
    """Return the mean (site, bin, series) of the rows of each bin; NaN in bins with too few rows."""
    site, at, means, count = means_by_site(rows, bin_of)
    out = np.full((rows.places.sizes["place"], bins, rows.values.shape[1]), np.nan)
    enough = count >= min_rows
    out[site[enough], at[enough]] = means[enough]
    return out


def _hour_of(rows: TargetRows) -> np.ndarray:
    """Return the local hour (N,) of each row, from 0."""
    return (rows.time - rows.time.astype("datetime64[D]")).astype("timedelta64[h]").astype(np.int64)


def _month_of(rows: TargetRows) -> np.ndarray:
    """Return the month (N,) of each row, from 0 for January in the north and for July in the south."""
    month = rows.time.astype("datetime64[M]").astype(np.int64) % 12
    south = np.zeros(rows.places.sizes["place"], bool)
    if "latitude" in rows.places:
        south = rows.places["latitude"].values.astype(float) < 0
    return (month + 6 * south[rows.site]) % 12
