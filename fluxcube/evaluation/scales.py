"""Scores at up to eight time scales: a model may predict seasons well and differences between years badly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import SchemaError
from fluxcube.evaluation.common_steps import check_days
from fluxcube.evaluation.skill import IntervalOptions, score_table
from fluxcube.evaluation.sums import Labelled, Sums, aligned_pairs, scored_resolution
from fluxcube.moments import Moments, moments
from fluxcube.resolution import DEFAULT, HOURLY, Default, Resolution

#: Scales of hourly data, in the order of the tables. Daily data have all of them except the first.
SCALES = ("hourly", "daily", "weekly", "monthly", "seasonal", "anomaly", "interannual", "spatial")

#: Minimum numbers: days of a week, of a month and of a year; years of a day of the year; years of a site.
_WEEK, _MONTH, _YEAR, _REPEATS, _YEARS = 4, 15, 183, 2, 2


def scale_table(
    obs: Labelled,
    predictions: Mapping[str, Labelled],
    *,
    qc: xr.DataArray | None = None,
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
    **options: Unpack[IntervalOptions],
) -> pd.DataFrame:
    """Compute scores at eight time scales (seven for daily data) on a common row mask.

    Parameters
    ----------
    obs, predictions, qc, max_qc, min_quality
        As `fluxcube.compare` takes them; data of towers.
    **options
        Options of intervals: clusters, draws, seed, level and against, as `score_table` takes them.

    Returns
    -------
    pd.DataFrame
        Table of `score_table` with the scale as the group. n is the number of hours, days, weeks, months, days of the
        year, days, years and sites.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> cube = example_cube(days=30, gaps=0)
    >>> table = scale_table(cube, {"same": cube.fluxes.sel(target=["NEE"])})
    >>> table.set_index("group").n[["hourly", "daily", "weekly", "seasonal"]].tolist()
    [2880, 120, 16, 0]
    """
    sums = scale_sums(obs, predictions, qc=qc, max_qc=max_qc, min_quality=min_quality)
    tables = [score_table(one, **options).assign(group=scale) for scale, one in sums.items()]
    out = pd.concat(tables, ignore_index=True)
    out["target"] = pd.Categorical(out["target"], list(dict.fromkeys(out["target"])), ordered=True)
    out = out.sort_values("target", kind="stable").astype({"target": object}).reset_index(drop=True)
    out.attrs = dict(tables[0].attrs) | {"by": "scale"}
    return out


def scale_sums(
    obs: Labelled,
    predictions: Mapping[str, Labelled],
    *,
    qc: xr.DataArray | None = None,
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
) -> dict[str, Sums]:
    """Compute the sums of each site at each scale.

    Days, weeks (from Monday), months and years follow local mean solar time. The value of a day is the mean of its
    common hours, at least 12; daily data have local dates already. The value of a longer period is the mean of its
    days: at least 4 for a week, 15 for a month and 183 for a year. The seasonal cycle is the mean of each day of the
    year over at least 2 years. Anomalies are daily values minus that cycle. Interannual values are yearly values minus
    their mean over the years of the site, at least 2. Spatial values are the means of the daily values of each site, at
    least 15.

    Parameters
    ----------
    obs, predictions, qc, max_qc, min_quality
        As `fluxcube.compare` takes them; data of towers.

    Returns
    -------
    dict of str to Sums
        Sums by scale, in the order of `SCALES`; daily data have no hourly scale.

    Raises
    ------
    SchemaError
        If the data have no dimension site, or hourly data have no longitude.

    References
    ----------
    FLUXtrapolation, arXiv:2605.19812 (scales and minimum shares)
    """
    import dask

    pairs, places, attrs, units = aligned_pairs(obs, predictions, qc=qc, max_qc=max_qc, min_quality=min_quality)
    resolution = scored_resolution(obs, attrs)
    check_days(attrs, "time scales")
    scales = SCALES[SCALES.index(resolution.name) :]
    by_scale: dict[str, dict[str, list[Moments]]] = {scale: {} for scale in scales}
    _check_places(pairs, resolution)
    first = next(iter(pairs.values()))[0]
    for i in range(first.sizes["site"]):
        shift = resolution.solar_shift(first.longitude.values[i] if not resolution.local else 0.0)
        # All fluxes of a site at once: lazy predictions of a model are computed together.
        loaded = dask.compute(*([a.isel(site=i) for a in arrays] for arrays in pairs.values()))
        for target, arrays in zip(pairs, loaded, strict=True):
            values = np.stack([a.values.astype(float) for a in arrays], -1)
            common = np.isfinite(values).all(1)
            local = arrays[0].time.values[common].astype("datetime64[s]") + shift
            series = at_scales(values[common], local, resolution)
            for scale in scales:
                by_scale[scale].setdefault(target, []).append(_moments(series[scale]))
    return {
        scale: Sums(
            tuple(predictions),
            {t: Moments(*(np.stack(x)[:, None] for x in zip(*sites, strict=True))) for t, sites in by_target.items()},
            places,
            attrs,
            units,
        )
        for scale, by_target in by_scale.items()
    }


def _check_places(pairs: Mapping[str, tuple[xr.DataArray, ...]], resolution: Resolution) -> None:
    for first, *_ in pairs.values():
        placed = resolution.local or "longitude" in first.coords
        if first.dims != ("site", "time") or not placed:
            raise SchemaError(
                "time scales need sites: expected dims (site, time) and the coordinate longitude, found "
                f"{first.dims} and {sorted(map(str, first.coords))}; pass the fluxes of a tower cube."
            )


def _moments(series: np.ndarray) -> Moments:
    """Return moments (model,) of series (N, 1 + models); the first column contains the observations."""
    return moments(series[:, :1], series[:, 1:], axis=0)


def at_scales(values: np.ndarray, local: np.ndarray, resolution: Resolution = HOURLY) -> dict[str, np.ndarray]:
    """Average the series of one site at each scale.

    Parameters
    ----------
    values : (T, series) float
        Time steps at which every series has a value.
    local : (T,) datetime64
        Their local times, or dates.
    resolution : Resolution
        Resolution of the time steps.

    Returns
    -------
    dict of str to (N, series) float
        Values by scale of `SCALES`; N may be 0. The hourly scale contains the original values.
    """
    # A day needs half of its hours, or its one daily value.
    day, daily = _means(values, local.astype("datetime64[D]").astype(int), (resolution.steps_per_day + 1) // 2)
    date = day.astype("datetime64[D]")
    month, year = date.astype("datetime64[M]").astype(int), date.astype("datetime64[Y]").astype(int)
    day_of_year = (date - date.astype("datetime64[Y]")).astype(int)
    cycle_day, cycle = _means(daily, day_of_year, _REPEATS)
    yearly = _means(daily, year, _YEAR)[1]
    return {
        "hourly": values,
        "daily": daily,
        "weekly": _means(daily, (day + 3) // 7, _WEEK)[1],  # 1970-01-01 was a Thursday
        "monthly": _means(daily, month, _MONTH)[1],
        "seasonal": cycle,
        "anomaly": _anomalies(daily, day_of_year, cycle_day, cycle),
        "interannual": yearly - yearly.mean(0) if len(yearly) >= _YEARS else yearly[:0],
        "spatial": daily.mean(0, keepdims=True) if len(daily) >= _MONTH else daily[:0],
    }


def _means(values: np.ndarray, label: np.ndarray, min_count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels (G,) of at least `min_count` values, and the means (G, series) of their values."""
    labels, at, count = np.unique(label, return_inverse=True, return_counts=True)
    total = np.zeros((len(labels), values.shape[1]))
    np.add.at(total, at, values)
    enough = count >= min_count
    return labels[enough], total[enough] / count[enough, None]


def _anomalies(values: np.ndarray, label: np.ndarray, labels: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return values minus the mean of their label, for labels that have a mean."""
    known = np.isin(label, labels)
    return values[known] - means[np.searchsorted(labels, label[known])]
