"""Daily surface reflectance: bands and vegetation indices, with the last clear value carried forward."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fluxcube.indices import evi, ndvi, ndwi, nirv
from fluxcube.variables import BANDS

#: Indices that stand beside the bands, each of the seven reflectances in the order of `BANDS`.
INDICES = {
    "NDVI": lambda r: ndvi(r["red"], r["nir"]),
    "EVI": lambda r: evi(r["red"], r["nir"], r["blue"]),
    "NIRv": lambda r: nirv(r["red"], r["nir"]),
    "NDWI": lambda r: ndwi(r["nir"], r["swir3"]),
}
#: Maximum number of days for which a clear-sky value is carried forward.
OLDEST = 32
#: Larger indices, in absolute value, result from a denominator near zero and are discarded.
_WIDEST = 2.0


def carried(
    reflectance: np.ndarray | None, days: np.ndarray | None, time: np.ndarray, names: Sequence[str]
) -> np.ndarray:
    """Return bands and indices on each day of a time axis: the last clear value, up to 32 days old.

    Parameters
    ----------
    reflectance : (n, d, 7) float or None
        Of the places, bands in the order of `fluxcube.variables.BANDS`; NaN is not clear.
    days : (d,) datetime64
        Local dates, ascending.
    time : (t,) datetime64
        Local dates of the axis.
    names : sequence of str
        Bands, NDVI, EVI, NIRv or NDWI.

    Returns
    -------
    (n, t, names) float32
        NaN where there is no clear value in the last 32 days. Later days are never used.

    Examples
    --------
    >>> clear = np.stack([np.full((1, 7), 0.1), np.full((1, 7), np.nan)], 1)
    >>> days = np.array(["2020-01-02", "2020-01-03"], "datetime64[D]")
    >>> carried(clear, days, np.arange("2020-01-01", "2020-01-04", dtype="datetime64[D]"), ["red"]).ravel()
    array([nan, 0.1, 0.1], dtype=float32)
    """
    if reflectance is None or days is None or not len(days):
        n = 0 if reflectance is None else len(reflectance)
        return np.full((n or 1, len(time), len(names)), np.nan, np.float32)
    bands = {band: np.asarray(reflectance[..., i], float) for i, band in enumerate(BANDS[:7])}
    seen = np.stack([bands[name] if name in bands else INDICES[name](bands) for name in names], -1)
    seen[np.abs(seen) > _WIDEST] = np.nan
    index = np.maximum.accumulate(np.where(np.isfinite(seen), np.arange(len(days))[:, None], -1), axis=1)
    day = np.asarray(days).astype("datetime64[D]").astype(np.int64)
    now = np.asarray(time).astype("datetime64[D]").astype(np.int64)
    at = np.searchsorted(day, now, side="right") - 1
    latest = np.where((at >= 0)[:, None], index[:, np.maximum(at, 0)], -1)
    out = np.take_along_axis(seen, np.maximum(latest, 0), axis=1)
    fresh = (latest >= 0) & (now[:, None] - day[np.maximum(latest, 0)] <= OLDEST)
    return np.where(fresh, out, np.nan).astype(np.float32)
