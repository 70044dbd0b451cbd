"""Long-term statistics of the surface reflectance of a place: percentiles and the mean seasonal cycle.

The statistics describe the place, not a time: they use the whole record of reflectance, also years in which a tower did
not measure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fluxcube.errors import ConfigError
from fluxcube.indices import INDICES, index_of

#: Percentiles by the name of their statistic.
PERCENTILES = {"p10": 10.0, "p50": 50.0, "p90": 90.0}
#: Names of the monthly means, January to December.
MONTHS = tuple(f"m{month:02d}" for month in range(1, 13))
#: Labels of the dimension `statistic`.
STATISTICS = (*PERCENTILES, *MONTHS)
#: Minimum number of clear views for percentiles.
MIN_VIEWS = 20


def surface_features(bands: Sequence[str]) -> tuple[str, ...]:
    """Return the labels of the dimension `feature`: the bands, then the indices that these bands suffice for.

    Examples
    --------
    >>> surface_features(("red", "nir"))
    ('red', 'nir', 'NDVI', 'NIRv')
    """
    return (*bands, *(name for name, index in INDICES.items() if set(index.bands) <= set(bands)))


def surface_climatology(values: np.ndarray, days: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    """Compute the long-term statistics of bands and indices at each place.

    Parameters
    ----------
    values : (n, d, b) float
        Reflectance of n places; NaN where there is no clear view.
    days : (d,) datetime64
        Dates, in any order.
    bands : sequence of str
        Names of the b bands (`fluxcube.variables.SURFACE_BANDS`).

    Returns
    -------
    (n, 15, f) float32
        `STATISTICS` of each of the f `surface_features`. Percentiles are interpolated linearly between clear views, and
        NaN with fewer than 20 of them. A monthly mean is that of all clear views in the month, over all years; a month
        without any has the value between those of the nearest months before and after it, interpolated linearly around
        the year. Indices outside their bounds are left out.

    Raises
    ------
    ConfigError
        If the numbers of days or bands differ from those of the values.

    Examples
    --------
    >>> days = np.arange("2004-01-01", "2006-01-01", dtype="datetime64[D]")
    >>> values = np.full((1, len(days), 2), [0.1, 0.3], np.float32)
    >>> surface_climatology(values, days, ("red", "nir"))[0, 1].round(2).tolist()
    [0.10000000149011612, 0.30000001192092896, 0.5, 0.15000000596046448]
    """
    values = np.asarray(values, np.float32)
    if values.ndim != 3 or values.shape[1:] != (len(days), len(bands)):
        raise ConfigError(
            f"expected reflectance (place, {len(days)} days, {len(bands)} bands), found values of {values.shape}."
        )
    return view_statistics(np.stack(_features(values, bands), 1), days).transpose(0, 2, 1)


def view_statistics(views: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Compute the long-term statistics of clear views, as `surface_climatology` describes them.

    Parameters
    ----------
    views : (n, f, d) float
        Values of f features; NaN where there is no clear view.
    days : (d,) datetime64
        Dates, in any order.

    Returns
    -------
    (n, f, 15) float32
        In the order of `STATISTICS`.
    """
    monthly = _monthly_means(views, np.asarray(days).astype("datetime64[M]").astype(int) % 12)
    return np.concatenate([_percentiles(views), _fill_months(monthly)], 2).astype(np.float32)


def _features(values: np.ndarray, bands: Sequence[str]) -> list[np.ndarray]:
    """Return bands and indices (place, day) each, in the order of `surface_features`."""
    by_band = {band: values[..., i] for i, band in enumerate(bands)}
    columns = list(by_band.values())
    for name in surface_features(bands)[len(bands) :]:
        low, high = INDICES[name].bounds
        index = np.asarray(index_of(name, by_band), np.float32)
        columns.append(np.where((index >= low) & (index <= high), index, np.float32(np.nan)))
    return columns


def _percentiles(views: np.ndarray) -> np.ndarray:
    """Return percentiles (place, feature, 3) of views (place, feature, day)."""
    count = np.isfinite(views).sum(2)
    # NaN is sorted last, so that the views are the first `count` values.
    ordered = np.sort(views, 2)
    out = np.full((*views.shape[:2], len(PERCENTILES)), np.nan)
    if not views.shape[2]:
        return out
    for i, percent in enumerate(PERCENTILES.values()):
        at = np.maximum(count - 1, 0) * (percent / 100)
        below = np.floor(at).astype(int)
        above = np.minimum(below + 1, np.maximum(count - 1, 0))
        low, high = (np.take_along_axis(ordered, n[..., None], 2)[..., 0].astype(float) for n in (below, above))
        out[..., i] = np.where(count >= MIN_VIEWS, low + (high - low) * (at - below), np.nan)
    return out


def _monthly_means(views: np.ndarray, month: np.ndarray) -> np.ndarray:
    """Return the means (place, feature, 12) of views (place, feature, day) by month (day,), from 0."""
    out = np.full((*views.shape[:2], 12), np.nan)
    for i in range(12):
        mine = views[..., month == i]
        seen = np.isfinite(mine)
        count = seen.sum(2)
        total = np.where(seen, mine, 0).sum(2, dtype=float)
        out[..., i] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return out


def _fill_months(means: np.ndarray) -> np.ndarray:
    """Return monthly means (..., 12) with those that are NaN interpolated linearly around the year."""
    if np.isfinite(means).all():
        return means
    year = np.concatenate([means] * 3, -1)
    at, seen = np.arange(year.shape[-1]), np.isfinite(year)
    before = np.maximum.accumulate(np.where(seen, at, -1), -1)
    after = np.minimum.accumulate(np.where(seen, at, at.size)[..., ::-1], -1)[..., ::-1]
    before, after = before[..., 12:24], np.minimum(after[..., 12:24], at.size - 1)
    low, high = (np.take_along_axis(year, np.maximum(n, 0), -1) for n in (before, after))
    share = (at[12:24] - before) / np.maximum(after - before, 1)
    filled = low + (high - low) * share
    return np.where(np.isfinite(means), means, filled)
