"""Scores at up to eight time scales: a model that predicts the seasons may not predict what differs between years."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import SchemaError
from fluxcube.evaluation.skill import score_table
from fluxcube.evaluation.sums import Labelled, Sums, aligned_pairs, data_resolution
from fluxcube.resolution import DEFAULT, HOURLY, Default, Resolution
from fluxcube.scores import Moments, moments

#: Scales of hourly data, in the order of the tables; daily data have all but the first.
SCALES = ("hourly", "daily", "weekly", "monthly", "seasonal", "anomaly", "interannual", "spatial")

#: Minimum days of a week, of a month and of a year, years of a day of the year, years of a site.
_WEEK, _MONTH, _YEAR, _REPEATS, _YEARS = 4, 15, 183, 2, 2


def scale_table(
    obs: Labelled,
    predictions: Mapping[str, Labelled],
    *,
    qc: xr.DataArray | None = None,
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
    **options: object,
) -> pd.DataFrame:
    """Score predictions at eight time scales, or seven of daily data, all from one row mask.

    Parameters
    ----------
    obs, predictions, qc, max_qc, min_quality
        As `fluxcube.compare` takes them; of towers.
    **options
        Of `score_table`: clusters, draws, seed, level, against.

    Returns
    -------
    pd.DataFrame
        As `score_table`, the scale as group; n counts hours, days, weeks, months, days of the year, days, years and
        sites.

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
    """Reduce predictions and observations to sums of sites at each scale.

    Days, weeks (from Monday), months and years are of local mean solar time. Of hourly data, a day is the mean of its
    common hours, at least 12; daily data have local dates already. A week needs 4 such days, a month 15, a year 183.
    The seasonal cycle is the mean of each day of the year over at least 2 years; anomalies are days minus that cycle;
    interannual values are years minus the mean of the site's years, at least 2; spatial values are the means of the
    days of each site, at least 15.

    Parameters
    ----------
    obs, predictions, qc, max_qc, min_quality
        As `fluxcube.compare` takes them; of towers.

    Returns
    -------
    dict of str to Sums
        By scale, in the order of `SCALES`; daily data have no hourly scale.

    Raises
    ------
    SchemaError
        If they are not of sites, or hourly sites have no longitude.

    References
    ----------
    FLUXtrapolation, arXiv:2605.19812 (scales and least shares)
    """
    pairs, places, attrs = aligned_pairs(obs, predictions, qc=qc, max_qc=max_qc, min_quality=min_quality)
    resolution = data_resolution(obs)
    scales = SCALES[SCALES.index(resolution.name) :]
    found: dict[str, dict[str, list]] = {scale: {} for scale in scales}
    for target, arrays in pairs.items():
        placed = resolution.local or "longitude" in arrays[0].coords
        if arrays[0].dims != ("site", "time") or not placed:
            raise SchemaError(
                "time scales need sites: expected dims (site, time) and the coordinate longitude, found "
                f"{arrays[0].dims} and {sorted(map(str, arrays[0].coords))}; pass the fluxes of a tower cube."
            )
        for i in range(arrays[0].sizes["site"]):
            values = np.stack([a.isel(site=i).values.astype(float) for a in arrays], -1)
            common = np.isfinite(values).all(1)
            shift = resolution.solar_shift(arrays[0].longitude.values[i] if not resolution.local else 0.0)
            local = arrays[0].time.values[common].astype("datetime64[s]") + shift
            rows = at_scales(values[common], local, resolution)
            for scale in scales:
                found[scale].setdefault(target, []).append(_moments(rows[scale]))
    return {
        scale: Sums(
            tuple(predictions),
            {t: Moments(*(np.stack(x)[:, None] for x in zip(*rows, strict=True))) for t, rows in by_target.items()},
            places,
            attrs,
        )
        for scale, by_target in found.items()
    }


def _moments(rows: np.ndarray) -> Moments:
    """Moments (model,) of rows (R, 1 + models), the observation first."""
    return moments(rows[:, :1], rows[:, 1:], axis=0)


def at_scales(values: np.ndarray, local: np.ndarray, resolution: Resolution = HOURLY) -> dict[str, np.ndarray]:
    """Average the series of one site at each scale.

    Parameters
    ----------
    values : (R, series) float
        Time steps at which every series has a value.
    local : (R,) datetime64
        Their local times, or dates.
    resolution : Resolution
        Of the time steps.

    Returns
    -------
    dict of str to (N, series) float
        By scale of `SCALES`; N may be 0. The hourly scale has the values as they are.
    """
    # At least half the hours of a day, or the one daily value.
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
        "anomaly": _less(daily, day_of_year, cycle_day, cycle),
        "interannual": yearly - yearly.mean(0) if len(yearly) >= _YEARS else yearly[:0],
        "spatial": daily.mean(0, keepdims=True) if len(daily) >= _MONTH else daily[:0],
    }


def _means(values: np.ndarray, label: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels (G,) that at least `least` rows have, and the means (G, series) of their rows."""
    labels, at, count = np.unique(label, return_inverse=True, return_counts=True)
    total = np.zeros((len(labels), values.shape[1]))
    np.add.at(total, at, values)
    kept = count >= least
    return labels[kept], total[kept] / count[kept, None]


def _less(values: np.ndarray, label: np.ndarray, labels: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Rows less the mean of their label, where it has one."""
    known = np.isin(label, labels)
    return values[known] - means[np.searchsorted(labels, label[known])]
