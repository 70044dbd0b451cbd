"""The surface climatology of places: quantiles and monthly means of clear views over their whole record."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: Statistics of a surface climatology: quantiles, and the mean of each month of the year.
STATISTICS = ("p10", "p50", "p90", *(f"m{month:02d}" for month in range(1, 13)))


def surface_features(bands: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the features of a surface climatology of some bands."""
    return tuple(bands)


def surface_climatology(values: np.ndarray, days: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    """Return the statistics (n, statistic, feature) of clear views (n, d, b) on some days (d,)."""
    month = days.astype("datetime64[M]").astype(int) % 12
    out = np.full((len(values), len(STATISTICS), len(bands)), np.nan, np.float32)
    for place, record in enumerate(values):
        for band in range(len(bands)):
            clear = np.isfinite(record[:, band])
            if clear.sum() >= 20:
                out[place, :3, band] = np.percentile(record[clear, band], (10, 50, 90))
            for m in range(12):
                if (clear & (month == m)).any():
                    out[place, 3 + m, band] = record[clear & (month == m), band].mean()
    return out
