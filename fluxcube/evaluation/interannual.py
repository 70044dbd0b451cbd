"""Differences between years at each site: their sign, their amplitude and their trend, observed and predicted."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fluxcube.errors import ConfigError
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

#: Minimum numbers: days of a month, months of a year, years of a trend.
_MONTH, _YEAR, _TREND = 15, 6, 5
_SCORES = ("sign_agreement", "amplitude_ratio", "corr", "rmse")
_COLUMNS = (
    "target",
    "units",
    "site",
    "igbp",
    "model",
    "n_years",
    "first_year",
    "last_year",
    *_SCORES,
    "trend_observed",
    "trend",
)


def interannual(
    obs: Observed,
    predictions: Predictions = None,
    *,
    min_years: int = 3,
    limits: QualityOptions | None = None,
) -> pd.DataFrame:
    """Compare the annual anomalies of each site, observed and predicted, on common rows.

    The anomaly of a year is the mean of the anomalies of its months (at least 6) from the mean of that calendar month
    over all years. The mean seasonal cycle is therefore removed first: a year in which the winter was not measured
    would otherwise have a large anomaly, which every model has, too, since it is scored on the same days. A month needs
    15 days, and a day half of its hours. Calendar months that were measured in one year only have no anomaly.

    Parameters
    ----------
    obs, predictions
        As `fluxcube.compare` takes them; or `fluxcube.evaluation.common_rows.CommonRows`, and no predictions.
    min_years : int
        Minimum number of years of a site, at least 2. Other sites are left out.
    limits : mapping, optional
        The limit of quality, `max_qc` or `min_quality`, as `fluxcube.compare` takes it.

    Returns
    -------
    pd.DataFrame
        A row per target, site and model with columns target, units, site, igbp (if known), model, n_years, first_year,
        last_year; sign_agreement, the share of years whose anomalies have the same sign (0.5 by chance);
        amplitude_ratio, the standard deviation of the predicted anomalies over that of the observed ones; corr, their
        correlation; rmse, of the anomalies, in `units`; trend_observed and trend, the Theil-Sen slopes in `units` per
        year (NaN with fewer than 5 years).

    Raises
    ------
    ConfigError
        If `min_years` is below 2.

    References
    ----------
    Theil-Sen slope: Sen 1968, doi:10.1080/01621459.1968.10480934
    """
    if isinstance(min_years, bool) or not isinstance(min_years, int) or min_years < 2:
        raise ConfigError(f"min_years={min_years!r}: expected a whole number of at least 2.")
    rows = rows_in_common(obs, predictions, **(limits or {}))
    out = []
    for target, one in rows.targets.items():
        site, year, anomaly = annual_anomalies(one, rows)
        known = "igbp" in one.places
        for at in np.unique(site):
            here = site == at
            if here.sum() < min_years:
                continue
            about = {"target": target, "units": one.units, "site": one.sites[at]}
            about |= {"igbp": str(one.places["igbp"].values[at])} if known else {}
            out += [about | row for row in _site_rows(year[here], anomaly[here], rows.models)]
    table = pd.DataFrame(out, columns=list(_COLUMNS))
    table.attrs = dict(rows.attrs) | {"min_years": min_years}
    return table


def interannual_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return the median over sites, and the 10th and 90th percentile, of each measure of `interannual`.

    Parameters
    ----------
    table : pd.DataFrame
        Table returned by `interannual`.

    Returns
    -------
    pd.DataFrame
        A row per target and model with columns target, units, model, n_sites; sign_agreement, amplitude_ratio, corr and
        rmse (medians over sites), whose percentiles end in ``_p10`` and ``_p90``; n_trends, the number of sites with a
        trend; trend_sign_agreement, the share of them whose trends have the same sign.
    """
    out = []
    for (target, model), rows in table.groupby(["target", "model"], sort=False):
        row: dict[str, object] = {"target": target, "units": rows["units"].iloc[0], "model": model}
        row["n_sites"] = len(rows)
        for name in _SCORES:
            values = rows[name].dropna()
            low, middle, high = np.percentile(values, (10, 50, 90)) if len(values) else (np.nan,) * 3
            row |= {name: middle, f"{name}_p10": low, f"{name}_p90": high}
        trends = rows[["trend_observed", "trend"]].dropna()
        same = np.sign(trends["trend"]) == np.sign(trends["trend_observed"])
        row |= {"n_trends": len(trends), "trend_sign_agreement": float(same.mean()) if len(trends) else np.nan}
        out.append(row)
    return pd.DataFrame(out)


def annual_anomalies(rows: TargetRows, common: CommonRows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the annual anomalies of each site, without the mean seasonal cycle.

    Returns
    -------
    site : (Y,) int
        Position of the site.
    year : (Y,) int
        Calendar year in local time.
    anomaly : (Y, series) float
        In the units of the flux; their mean over the years of a site is 0.
    """
    days = daily_means(rows, common.resolution)
    site, month, means, count = means_by_site(days, days.time.astype("datetime64[M]").astype(np.int64))
    enough = count >= _MONTH
    site, month, means = site[enough], month[enough], means[enough]
    key = site.astype(np.int64) * 12 + month % 12
    times = np.bincount(key)
    cycle = np.stack([np.bincount(key, weights=column) for column in means.T], 1)
    repeated = times[key] > 1
    anomaly = means[repeated] - (cycle / np.maximum(times, 1)[:, None])[key[repeated]]
    return _yearly(site[repeated], month[repeated] // 12 + 1970, anomaly, rows)


def _yearly(
    site: np.ndarray, year: np.ndarray, anomaly: np.ndarray, rows: TargetRows
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average the anomalies of months over years, and subtract their mean over the years of each site."""
    monthly = TargetRows(site, rows.time[:0], anomaly, {}, {}, rows.places, rows.units)
    site, year, means, count = means_by_site(monthly, year)
    enough = count >= _YEAR
    site, year, means = site[enough], year[enough], means[enough]
    if not len(site):
        return site, year, means
    number = np.bincount(site)
    mean = np.stack([np.bincount(site, weights=column) for column in means.T], 1) / np.maximum(number, 1)[:, None]
    return site, year, means - mean[site]


def _site_rows(year: np.ndarray, anomaly: np.ndarray, models: tuple[str, ...]) -> list[dict[str, object]]:
    """Return the table rows of one site, from anomalies (year, series)."""
    about = {"n_years": len(year), "first_year": int(year.min()), "last_year": int(year.max())}
    observed = anomaly[:, 0]
    trend = theil_sen(year, observed)
    return [
        about
        | {"model": model, **_agreement(observed, predicted)}
        | {"trend_observed": trend}
        | {"trend": theil_sen(year, predicted)}
        for model, predicted in zip(models, anomaly.T[1:], strict=True)
    ]


def _agreement(observed: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return the measures of agreement of anomalies (year,); NaN where the observed or predicted ones do not vary."""
    spread, own = observed.std(), predicted.std()
    varies = spread > 1e-6 and own > 1e-6
    return {
        "sign_agreement": float((np.sign(observed) == np.sign(predicted)).mean()),
        "amplitude_ratio": float(own / spread) if spread > 1e-6 else np.nan,
        "corr": float(np.corrcoef(observed, predicted)[0, 1]) if varies else np.nan,
        "rmse": float(np.sqrt(((predicted - observed) ** 2).mean())),
    }


def theil_sen(year: np.ndarray, values: np.ndarray) -> float:
    """Return the median slope between all pairs of years; NaN with fewer than 5 years.

    Parameters
    ----------
    year : (Y,) int
        Different years.
    values : (Y,) float

    Examples
    --------
    >>> theil_sen(np.arange(2000, 2006), np.array([0.0, 1.0, 2.0, 30.0, 4.0, 5.0]))
    1.0
    """
    if len(year) < _TREND:
        return np.nan
    first, second = np.triu_indices(len(year), 1)
    return float(np.median((values[second] - values[first]) / (year[second] - year[first])))
