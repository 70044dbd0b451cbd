"""Time scales: means over days, weeks, months and years, the seasonal cycle, anomalies and means of sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError, unknown
from fluxcube.evaluation.common_steps import check_days, check_unaveraged
from fluxcube.evaluation.periods import ALL, Periods, check_coordinates, periods_of, within
from fluxcube.evaluation.sums import Labelled, Sums, aligned, data_resolution, sums_of, without_empty_years
from fluxcube.moments import Moments, grouped_moments, moments
from fluxcube.resolution import DEFAULT, HOURLY, Default, Resolution

#: Scales of hourly data, in the order of the tables. Daily data have all of them except the first.
SCALES = ("hourly", "daily", "weekly", "monthly", "seasonal", "anomaly", "interannual", "spatial")
#: Argument `scales` of the public functions: True for all scales, some of them, or None for no scales.
Scales = bool | Sequence[str] | None

#: Minimum numbers: days of a week, of a month and of a year; years of a day of the year; years of a site.
_WEEK, _MONTH, _YEAR, _REPEATS, _YEARS = 4, 15, 183, 2, 2
#: Kinds of periods that the values of a scale do not have, since they are means over several of them.
_UNDEFINED: Mapping[str, tuple[str, ...]] = {
    "hourly": (),
    "seasonal": ("year", "time_of_day"),
    "interannual": ("season", "time_of_day"),
    "spatial": ("season", "year", "time_of_day"),
}
_THURSDAY = 3


class Series(NamedTuple):
    """Values of one site at one scale.

    Attributes
    ----------
    values : (N, series) float
        Observations and predictions.
    when : (N,) datetime64
        Local time or date of each value: a week has that of its Thursday, a month and a year that of the first day, a
        day of the year one of a common year.
    """

    values: np.ndarray
    when: np.ndarray


def scale_sums(
    obs: Labelled,
    predictions: Mapping[str, Labelled],
    *,
    scales: Scales = True,
    qc: xr.DataArray | None = None,
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
    periods: Sequence[str] = (),
    subsets: xr.Dataset | None = None,
) -> dict[str, Sums]:
    """Compute the sums of each site at each scale, in one pass over the time steps of each site.

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
    scales : bool or sequence of str
        Scales to compute; True: all that the data have.
    periods : sequence of str
        Kinds of periods to separate, of `fluxcube.evaluation.periods.KINDS`. Values at a scale that are means over
        several periods of a kind are in none: n is 0. A subset has values at the resolution of the data alone.
    subsets : xr.Dataset, optional
        Boolean arrays (site, time) by name of the subset, for periods "subset".

    Returns
    -------
    dict of str to Sums
        Sums by scale, in the order of `SCALES`; daily data have no hourly scale.

    Raises
    ------
    SchemaError
        If the data have no dimension site, or hourly data have no longitude.
    UnknownNameError
        If a scale is unknown, or daily data do not have it.

    References
    ----------
    FLUXtrapolation, arXiv:2605.19812 (scales and minimum shares)
    """
    import dask

    _chosen(scales, data_resolution(obs))  # refused before anything is sampled
    data = aligned(obs, predictions, qc=qc, max_qc=max_qc, min_quality=min_quality)
    resolution = data.resolution
    check_days(data.attrs, "time scales")
    if subsets is not None:
        check_unaveraged(data.attrs, "subsets of time steps")
    chosen = _chosen(scales, resolution)
    _check_places(data.pairs, resolution)
    first = next(iter(data.pairs.values()))[0]
    split = periods_of(tuple(dict.fromkeys(periods)), first["time"].values, resolution, subsets, undefined=True)
    if set(split.kinds) - {"subset"}:
        check_coordinates(first, split.kinds, resolution)
    masks = [None if name == ALL or subsets is None else within(subsets, name, first) for name in split.subsets]
    found: dict[str, dict[str, list[Moments]]] = {scale: {t: [] for t in data.pairs} for scale in chosen}
    rows: dict[str, dict[str, int]] = {t: dict.fromkeys(of, 0) for t, of in data.rows.items()}
    for i in range(first.sizes["site"]):
        shift = resolution.solar_shift(first.longitude.values[i] if not resolution.local else 0.0)
        south = float(first.latitude.values[i]) if "season" in split.kinds else 0.0
        # All fluxes of a site at once: lazy predictions of a model are computed together.
        loaded, counts = dask.compute(
            {t: [a.variable[i] for a in arrays] for t, arrays in data.pairs.items()},
            {t: {step: count.variable[i] for step, count in of.items()} for t, of in data.rows.items()},
        )
        inside = [None if mask is None else mask.variable[i].values for mask in masks]
        for target, arrays in loaded.items():
            values = np.stack([np.asarray(a.values, float) for a in arrays], -1)
            common = np.isfinite(values).all(1)
            local = first["time"].values[common].astype("datetime64[s]") + shift
            series = series_at_scales(values[common], local, resolution)
            of_time = [None if mask is None else mask[common] for mask in inside]
            for scale in chosen:
                found[scale][target].append(_moments(series[scale], scale, split, south, of_time, resolution))
            rows[target] = {step: rows[target][step] + int(count) for step, count in counts[target].items()}
    sums = {
        scale: sums_of(data, {t: Moments(*map(np.stack, zip(*m, strict=True))) for t, m in of.items()}, split, rows)
        for scale, of in found.items()
    }
    return without_empty_years(sums)


def undefined_kinds(scale: str) -> tuple[str, ...]:
    """Return the kinds of periods that the values of a scale do not have.

    Examples
    --------
    >>> undefined_kinds("monthly"), undefined_kinds("interannual")
    (('time_of_day',), ('season', 'time_of_day'))
    """
    return _UNDEFINED.get(scale, ("time_of_day",))


def _chosen(scales: Scales, resolution: Resolution) -> tuple[str, ...]:
    """Return the scales to compute, in the order of `SCALES`."""
    have = SCALES[SCALES.index(resolution.name) :]
    if scales is True:
        return have
    names = [scales] if isinstance(scales, str) else list(scales or ())
    for name in names:
        if name not in have:
            raise unknown(f"scale of {resolution} data", name, have)
    if not names:
        raise ConfigError(f"scales: expected True or some of {', '.join(have)}, found none.")
    return tuple(scale for scale in have if scale in names)


def _check_places(pairs: Mapping[str, tuple[xr.DataArray, ...]], resolution: Resolution) -> None:
    for first, *_ in pairs.values():
        placed = resolution.local or "longitude" in first.coords
        if first.dims != ("site", "time") or not placed:
            raise SchemaError(
                "time scales need sites: expected dims (site, time) and the coordinate longitude, found "
                f"{first.dims} and {sorted(map(str, first.coords))}; pass the fluxes of a tower cube."
            )


def _moments(
    series: Series,
    scale: str,
    periods: Periods,
    latitude: float,
    masks: Sequence[np.ndarray | None],
    resolution: Resolution,
) -> Moments:
    """Return moments (period, model) of the series of one site; the first column contains the observations."""
    if not periods.kinds:
        whole = moments(series.values[:, :1], series.values[:, 1:], axis=0)
        return Moments(*(x[None] for x in whole))
    undefined = undefined_kinds(scale)
    number = periods.numbers(series.when, latitude, undefined=undefined)
    parts = []
    for mask in masks or [None]:
        inside = number
        if mask is not None:  # masks are of single time steps, which only the scale of the data has
            inside = (
                np.where(mask, number, -1) if scale == resolution.name and len(mask) == len(number) else number * 0 - 1
            )
        parts.append(grouped_moments(series.values[:, 0], series.values[:, 1:].T, inside, periods.disjoint))
    # (model, period) of each subset
    return Moments(*(np.concatenate(x, -1).T for x in zip(*parts, strict=True)))


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
    return {scale: series.values for scale, series in series_at_scales(values, local, resolution).items()}


def series_at_scales(values: np.ndarray, local: np.ndarray, resolution: Resolution = HOURLY) -> dict[str, Series]:
    """Average the series of one site at each scale, as `at_scales`, with the dates of the values.

    Parameters
    ----------
    values, local, resolution
        As `at_scales` takes them.

    Returns
    -------
    dict of str to Series
        By scale of `SCALES`.
    """
    # A day needs half of its hours, or its one daily value.
    day, daily = _means(values, local.astype("datetime64[D]").astype(int), (resolution.steps_per_day + 1) // 2)
    date = day.astype("datetime64[D]")
    month, year = date.astype("datetime64[M]").astype(int), date.astype("datetime64[Y]").astype(int)
    day_of_year = (date - date.astype("datetime64[Y]")).astype(int)
    weeks, weekly = _means(daily, (day + 3) // 7, _WEEK)  # 1970-01-01 was a Thursday
    months, monthly = _means(daily, month, _MONTH)
    years, yearly = _means(daily, year, _YEAR)
    cycle_day, cycle = _means(daily, day_of_year, _REPEATS)
    known = np.isin(day_of_year, cycle_day)
    several, enough = len(yearly) >= _YEARS, len(daily) >= _MONTH
    return {
        "hourly": Series(values, local),
        "daily": Series(daily, date),
        "weekly": Series(weekly, (7 * weeks).astype("datetime64[D]")),
        "monthly": Series(monthly, months.astype("datetime64[M]")),
        "seasonal": Series(cycle, np.datetime64("2001-01-01") + cycle_day),
        "anomaly": Series(daily[known] - cycle[np.searchsorted(cycle_day, day_of_year[known])], date[known]),
        "interannual": Series(
            yearly - yearly.mean(0) if several else yearly[:0], years[: len(yearly) * several].astype("datetime64[Y]")
        ),
        "spatial": Series(daily.mean(0, keepdims=True) if enough else daily[:0], date[: int(enough)]),
    }


def _means(values: np.ndarray, label: np.ndarray, min_count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels (G,) of at least `min_count` values, and the means (G, series) of their values."""
    if not len(label):
        return label, values
    if (np.diff(label) < 0).any():
        order = np.argsort(label, kind="stable")
        values, label = values[order], label[order]
    start = np.flatnonzero(np.diff(label, prepend=label[0] - 1))
    count = np.diff(start, append=len(label))
    enough = count >= min_count
    return label[start][enough], (np.add.reduceat(values, start, axis=0) / count[:, None])[enough]
