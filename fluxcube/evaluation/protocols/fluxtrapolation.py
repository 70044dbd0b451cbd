"""Scales and metrics of FLUXtrapolation, as its code computes them (arXiv:2605.19812).

They are kept apart from fluxcube's own (`fluxcube.evaluation.scales`) because they differ: every hour counts, masked or
not; the mean prediction of a week, a month or a site includes days that are left out of the mean observation; r2_score
is a squared correlation; and bias is observation minus prediction. One thing is not as in its code: relative metrics
are NaN where the mean observation is a rounding error, as of anomalies, and not a number of any size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fluxcube.errors import unknown

#: Scales of the benchmark, by its own names.
SCALES = ("hourly", "daily", "weekly", "monthly", "seasonal", "anom", "iav", "spatial")
#: Metrics of the benchmark, by its own names.
METRICS = ("mse", "rmse", "mae", "nse", "r2_score", "bias", "relative_mae", "relative_bias")
#: Percentiles over environments.
PERCENTILES = {"median": 0.5, "p10": 0.1, "p90": 0.9}
#: Scales of the benchmark's leaderboard; "spatial" is named site-mean there.
LEADERBOARD_SCALES = ("hourly", "weekly", "seasonal", "anom", "iav", "spatial")
#: Scales whose environments are sites in every setting.
_MULTI_YEAR = ("seasonal", "anom", "iav")
#: Share of the mean absolute observation below which a mean is a rounding error, as of anomalies.
_ROUNDING = 1e-12
#: Minimum numbers: hours of a day; days of a week, of a month and of a year; years of a day of the year.
_DAY, _WEEK, _MONTH, _YEAR, _REPEATS = 12, 4, 15, 183, 2


@dataclass(frozen=True)
class _Pairs:
    """Pairs of values: environment number, date or time, observation, prediction; (rows,) each."""

    env: np.ndarray
    time: np.ndarray
    obs: np.ndarray
    pred: np.ndarray

    def rows(self, mask: np.ndarray) -> _Pairs:
        return _Pairs(self.env[mask], self.time[mask], self.obs[mask], self.pred[mask])

    @property
    def complete(self) -> np.ndarray:
        """Mask of the rows in which both values are present."""
        return np.isfinite(self.obs) & np.isfinite(self.pred)


def environment_scores(
    site: np.ndarray, time: np.ndarray, obs: np.ndarray, pred: np.ndarray, *, by_year: bool = False
) -> pd.DataFrame:
    """Compute the benchmark's metrics of each environment at each of its scales.

    Parameters
    ----------
    site : (rows,) str
        Site of each row.
    time : (rows,) datetime64
        Local time of each row, hourly; daily rows have no finer scale than "daily", at which they are used as they are.
    obs, pred : (rows,) float
        Observations (NaN where missing) and predictions.
    by_year : bool
        Whether an environment is a site and year, as in the split in time.

    Returns
    -------
    pd.DataFrame
        Columns scale, env, n_samples (with missing observations), then `METRICS`; a row per scale and environment.

    Examples
    --------
    >>> hours = np.arange("2020-01-01", "2020-01-03", dtype="datetime64[h]")
    >>> values = np.arange(48.0)
    >>> table = environment_scores(np.full(48, "XX-Aaa"), hours, values, values + 1).set_index("scale")
    >>> float(table.bias["daily"]), int(table.n_samples["daily"])
    (-1.0, 2)
    """
    sites, number = np.unique(np.asarray(site, str), return_inverse=True)
    time = np.asarray(time).astype("datetime64[s]")
    whole = _Pairs(number, time, np.asarray(obs, float), np.asarray(pred, float))
    names, env = _environments(sites, number, time) if by_year else (sites.tolist(), number)
    frames = []
    for scale in SCALES:
        long = scale in _MULTI_YEAR
        pairs = _at_scale(whole if long else _Pairs(env, time, whole.obs, whole.pred), scale)
        frames.append(_metrics(pairs, sites.tolist() if long else names).assign(scale=scale))
    out = pd.concat(frames, ignore_index=True)
    return out[["scale", "env", "n_samples", *METRICS]]


def _environments(sites: np.ndarray, number: np.ndarray, time: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Return the names of sites and years as the benchmark writes them, and the number of that of each row."""
    year = time.astype("datetime64[Y]").astype(int) + 1970
    first = year.min(initial=1970)
    kinds, env = np.unique(number * 1000 + (year - first), return_inverse=True)
    return [f"('{sites[kind // 1000]}', {first + kind % 1000})" for kind in kinds.tolist()], env


def _at_scale(rows: _Pairs, scale: str) -> _Pairs:
    """Return the pairs of one scale."""
    if scale == "hourly":
        return rows
    daily = _daily(rows)
    if scale == "daily":
        return daily
    measured, day = daily.complete, daily.time.astype("datetime64[D]")
    if scale in ("weekly", "monthly"):
        # 1970-01-01 was a Thursday, and weeks begin on Monday.
        key = (day.astype(int) + 3) // 7 if scale == "weekly" else day.astype("datetime64[M]").astype(int)
        return _means(daily, key, measured, _WEEK if scale == "weekly" else _MONTH)
    day_of_year = (day - day.astype("datetime64[Y]")).astype(int)
    if scale == "seasonal":
        return _means(daily.rows(measured), day_of_year[measured], measured[measured], _REPEATS)
    if scale == "anom":
        return _anomalies(daily, day_of_year, measured)
    whole = daily.rows(measured)
    years = whole.time.astype("datetime64[Y]").astype(int)
    yearly = _means(whole, years, np.ones(len(years), bool), _YEAR if scale == "iav" else 1)
    centre = _means(yearly, np.zeros(len(yearly.env), int), np.ones(len(yearly.env), bool), 1)
    if scale == "spatial":
        return centre
    at = np.searchsorted(centre.env, yearly.env)
    return _Pairs(yearly.env, yearly.time, yearly.obs - centre.obs[at], yearly.pred - centre.pred[at])


def _daily(rows: _Pairs) -> _Pairs:
    """Return daily means of all hours, with a missing observation for days of too few hours; or daily rows as given."""
    day = rows.time.astype("datetime64[D]").astype(int)
    key = _joint(rows.env, day)
    if len(np.unique(key)) == len(key):
        return rows
    out = _means(rows, day, np.ones(len(day), bool), _DAY)
    return _Pairs(out.env, out.time.astype("datetime64[D]"), out.obs, out.pred)


def _joint(env: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Return one number for each pair of an environment and a key, in the order of both."""
    low = key.min(initial=0)
    return env.astype(np.int64) * (key.max(initial=0) - low + 1) + (key - low)


def _means(rows: _Pairs, key: np.ndarray, counted: np.ndarray, minimum: int) -> _Pairs:
    """Return the means of groups; the observation is missing where fewer than `minimum` rows are `counted`.

    The time of the result is the key.
    """
    _, first, at = np.unique(_joint(rows.env, key), return_index=True, return_inverse=True)
    size = len(first)
    obs, pred = (_mean(values, at, size) for values in (rows.obs, rows.pred))
    enough = np.bincount(at, counted, minlength=size) >= minimum
    return _Pairs(rows.env[first], key[first], np.where(enough, obs, np.nan), pred)


def _mean(values: np.ndarray, at: np.ndarray, size: int) -> np.ndarray:
    """Return the mean of the finite values of each group; NaN for groups without any."""
    finite = np.isfinite(values)
    total = np.bincount(at, np.where(finite, values, 0.0), minlength=size)
    count = np.bincount(at, finite, minlength=size)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _anomalies(daily: _Pairs, day_of_year: np.ndarray, measured: np.ndarray) -> _Pairs:
    """Return all daily values minus the mean seasonal cycle of the complete days."""
    masked = _Pairs(
        daily.env, daily.time, np.where(measured, daily.obs, np.nan), np.where(measured, daily.pred, np.nan)
    )
    cycle = _means(masked, day_of_year, measured, _REPEATS)
    at = np.searchsorted(_joint(cycle.env, cycle.time), _joint(daily.env, day_of_year))
    return _Pairs(daily.env, daily.time, daily.obs - cycle.obs[at], daily.pred - cycle.pred[at])


def _metrics(pairs: _Pairs, names: list[str]) -> pd.DataFrame:
    """Return the metrics of each environment that has a row."""
    size = len(names)
    samples = np.bincount(pairs.env, minlength=size)
    both = pairs.rows(pairs.complete)
    at, obs, error = both.env, both.obs, both.pred - both.obs
    n = np.bincount(at, minlength=size).astype(float)

    def mean(values: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.bincount(at, values, minlength=size) / n

    average = mean(obs)
    from_obs, from_pred = obs - average[at], both.pred - mean(both.pred)[at]
    constant_obs, constant_pred = (_constant(values, at, size) for values in (obs, both.pred))
    mse, mae, bias = mean(error**2), mean(np.abs(error)), mean(-error)
    with np.errstate(invalid="ignore", divide="ignore"):
        nse = np.where(constant_obs, np.nan, 1 - mse / mean(from_obs**2))
        corr2 = mean(from_obs * from_pred) ** 2 / (mean(from_obs**2) * mean(from_pred**2))
        relative = np.where(np.abs(average) <= _ROUNDING * mean(np.abs(obs)), np.nan, average)
        values = {
            "mse": mse,
            "rmse": np.sqrt(mse),
            "mae": mae,
            "nse": nse,
            "r2_score": np.where(constant_obs | constant_pred, np.nan, corr2),
            "bias": bias,
            "relative_mae": mae / relative,
            "relative_bias": bias / relative,
        }
    out = pd.DataFrame({"env": names, "n_samples": samples, **values})
    return out[out["n_samples"] > 0].reset_index(drop=True)


def _constant(values: np.ndarray, at: np.ndarray, size: int) -> np.ndarray:
    """Return which groups have no two different values."""
    low, high = np.full(size, np.inf), np.full(size, -np.inf)
    np.minimum.at(low, at, values)
    np.maximum.at(high, at, values)
    return ~(high > low)


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the median, and the 10th and 90th percentile, of each metric over environments.

    The benchmark's code reports the median and the 90th percentile of errors; of nse and r2_score, of which more is
    better, the 10th percentile is the bad end.

    Parameters
    ----------
    scores : pd.DataFrame
        Columns target, setting, model, scale and those of `environment_scores`.

    Returns
    -------
    pd.DataFrame
        Columns target, setting, model, scale, n_environments, n_samples, then ``<metric>_median``, ``_p10`` and
        ``_p90``; environments without a value of a metric are left out of it.
    """
    groups = scores.groupby(["target", "setting", "model", "scale"], sort=False)
    out = groups.agg(n_environments=("env", "size"), n_samples=("n_samples", "sum"))
    for metric in METRICS:
        for name, share in PERCENTILES.items():
            out[f"{metric}_{name}"] = groups[metric].quantile(share)
    return out.reset_index()


def leaderboard(scores: pd.DataFrame, *, baseline: str, metric: str = "rmse", percentile: float = 0.5) -> pd.DataFrame:
    """Return the skill of each model over a baseline, as the benchmark's leaderboard: 1 - error / error of baseline.

    Parameters
    ----------
    scores : pd.DataFrame
        As `summary` takes it; several settings and models, the baseline included.
    baseline : str
        Model that has a skill of 0; the benchmark's code uses its linear regression, "lr", or "constant".
    metric : {"rmse", "mae", "mse"}
        An error, of which smaller is better.
    percentile : float
        Percentile of the environments that is compared: 0.5 or 0.9.

    Returns
    -------
    pd.DataFrame
        A row per target and model, best first, with columns target, model, skill (mean over settings and scales with
        equal weights) and one column for each setting and scale of `LEADERBOARD_SCALES`.

    Raises
    ------
    UnknownNameError
        If the scores lack the baseline.
    """
    if baseline not in set(scores["model"]):
        raise unknown("model", baseline, scores["model"].unique())
    rows = scores[scores["scale"].isin(LEADERBOARD_SCALES)]
    wide = rows.pivot_table(
        index=["target", "model"],
        columns=["setting", "scale"],
        values=metric,
        aggfunc=lambda values: values.quantile(percentile),
    )
    reference = wide.xs(baseline, level="model").reindex(wide.index.get_level_values("target"))
    skill = 1 - wide / reference.to_numpy()
    columns: Mapping[str, pd.Series] = {f"{setting} {scale}": skill[setting, scale] for setting, scale in skill}
    out = pd.DataFrame({"skill": skill.mean(axis=1), **columns}).reset_index()
    return out.sort_values(["target", "skill"], ascending=[True, False], ignore_index=True)
