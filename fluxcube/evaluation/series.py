"""Series of each site: means over periods of 8 days or months, small enough for a page."""

from __future__ import annotations

import json
from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import unknown
from fluxcube.evaluation.common_rows import (
    CommonRows,
    Observed,
    Predictions,
    TargetRows,
    daily_means,
    means_by_site,
    rows_in_common,
)
from fluxcube.evaluation.sums import QualityOptions

#: Minimum number of days of a period.
_MIN_DAYS = {"8D": 4, "month": 15}
_PER_YEAR = {"8D": 46, "month": 12}

Step = Literal["8D", "month"]


def site_series(
    obs: Observed, predictions: Predictions = None, *, step: Step = "8D", limits: QualityOptions | None = None
) -> xr.Dataset:
    """Average the common rows of each site over periods of 8 days or months.

    The mean of a period is that of its days: at least 4 of 8 days or 15 of a month, each with at least half of its
    time steps. Periods of 8 days begin on 1 January of each year, like those of MODIS.

    Parameters
    ----------
    obs, predictions
        As `fluxcube.compare` takes them; or `fluxcube.evaluation.common_rows.CommonRows`, and no predictions.
    step : {"8D", "month"}
        Length of the periods.
    limits : mapping, optional
        The limit of quality, `max_qc` or `min_quality`, as `fluxcube.compare` takes it.

    Returns
    -------
    xr.Dataset
        One float32 variable per flux, (site, time, model) in its units, NaN where there are too few days; time is the
        first day of the period in local time, and model begins with "observed". Periods in which no site has a value
        are absent.

    Raises
    ------
    SchemaError
        If nothing is in common.
    """
    if step not in _MIN_DAYS:
        raise unknown("step", step, _MIN_DAYS)
    rows = rows_in_common(obs, predictions, **(limits or {}))
    arrays = {target: _target_series(one, rows, step) for target, one in rows.targets.items()}
    out = xr.merge([array.rename(target) for target, array in arrays.items()], join="outer", compat="override")
    return out.assign_attrs({**rows.attrs, "step": step})


def _target_series(rows: TargetRows, common: CommonRows, step: Step) -> xr.DataArray:
    days = daily_means(rows, common.resolution)
    site, period, means, count = means_by_site(days, _period_of(days.time, step))
    enough = count >= _MIN_DAYS[step]
    site, period, means = site[enough], period[enough], means[enough]
    periods, at = np.unique(period, return_inverse=True)
    values = np.full((rows.places.sizes["place"], len(periods), means.shape[1]), np.nan, np.float32)
    values[site, at] = means
    coords = {"site": rows.sites, "time": _start_of(periods, step), "model": list(common.series)}
    return xr.DataArray(values, coords, ("site", "time", "model"), attrs={"units": rows.units})


def _period_of(time: np.ndarray, step: Step) -> np.ndarray:
    """Return the number (N,) of the period of each time, counted through the years."""
    if step == "month":
        return time.astype("datetime64[M]").astype(np.int64)
    year = time.astype("datetime64[Y]")
    day = (time.astype("datetime64[D]") - year.astype("datetime64[D]")).astype(np.int64)
    return year.astype(np.int64) * _PER_YEAR["8D"] + day // 8


def _start_of(period: np.ndarray, step: Step) -> np.ndarray:
    if step == "month":
        return period.astype("datetime64[M]").astype("datetime64[ns]")
    year, part = np.divmod(period, _PER_YEAR["8D"])
    first = year.astype("datetime64[Y]").astype("datetime64[D]")
    return (first + 8 * part.astype("timedelta64[D]")).astype("datetime64[ns]")


def series_json(series: xr.Dataset, target: str, *, digits: int = 3) -> str:
    """Return the series of one flux as compact JSON, for a page.

    Parameters
    ----------
    series : xr.Dataset
        As `site_series` returned it.
    target : str
        The flux.
    digits : int
        Number of significant digits of the largest value of the flux (its 99th percentile); all values are rounded to
        the same decimal place.

    Returns
    -------
    str
        An object with ``step``, ``units``, ``models``, ``scale`` and ``sites``, a list of objects with ``site``, ``t``,
        the days since 1970-01-01 of the periods that have a value, and ``v``, one list for each model with values
        divided by ``scale``, which are whole numbers. Sites without a value are absent.
    """
    array = series[target]
    values = array.values
    size = np.nanpercentile(np.abs(values), 99) if np.isfinite(values).any() else 1.0
    scale = 10.0 ** (int(np.floor(np.log10(max(size, 1e-12)))) + 1 - digits)
    days = array["time"].values.astype("datetime64[D]").astype(int)
    sites = []
    for name, one in zip(array["site"].values.tolist(), values, strict=True):
        known = np.isfinite(one).all(1)
        if known.any():
            whole = np.rint(one[known] / scale).astype(int)
            sites.append({"site": str(name), "t": days[known].tolist(), "v": whole.T.tolist()})
    about = {"step": series.attrs["step"], "units": str(array.attrs.get("units", "")), "scale": scale}
    return json.dumps(about | {"models": array["model"].values.tolist(), "sites": sites}, separators=(",", ":"))


def worst_sites(scores: pd.DataFrame, target: str, *, model: str, score: str = "nse", number: int = 10) -> pd.DataFrame:
    """Return the sites at which a model has the lowest skill, worst first.

    Parameters
    ----------
    scores : pd.DataFrame
        Scores by site, as `fluxcube.evaluation.sitemeans.site_scores` returns them.
    target, model : str
        Flux and model.
    score : {"nse", "corr2", "rmse", "mae"}
        Score; of the two errors, the largest is the worst.
    number : int
        Maximum number of sites.

    Returns
    -------
    pd.DataFrame
        The table rows of these sites; sites without the score are left out.
    """
    rows = scores[(scores["target"] == target) & (scores["model"] == model)].dropna(subset=[score])
    return rows.sort_values(score, ascending=score not in ("rmse", "mae"), kind="stable").head(number)
