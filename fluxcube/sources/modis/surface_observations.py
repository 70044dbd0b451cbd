"""Observations of reflectance as files contain them, and the conversion of stored numbers to reflectances.

One entry is one day of one site, or of one pixel around a site. Readers of all formats return `Observations`;
`decode` converts their stored numbers, `surface_merge` joins files, and `surface_summary` applies the quality flags.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fluxcube.errors import SourceError
from fluxcube.variables import SURFACE_BANDS

log = logging.getLogger(__name__)

#: Bands that are reflectances.
REFLECTANCES = SURFACE_BANDS[:-1]
#: Stored numbers that mean missing in MODIS products and in the exports of them.
FILLS = (-28672.0, 32767.0, -32767.0, -32768.0, 65535.0, -9999.0)
#: Lowest and highest valid reflectance by product; of others, those of MOD09GA (-100 to 16000, x 0.0001).
_VALID = {"MCD43A4": (0.0, 1.0)}
_VALID_ELSEWHERE = (-0.01, 1.6)
#: Medians beyond which numbers cannot be reflectances, and the number of entries that a median is computed from.
_LARGEST_MEDIAN, _SMALLEST, _SAMPLE, _FEWEST = 2.0, 1e-3, 400, 5
#: Bands in which hardly any view of land is darker than `_SMALLEST`: at each of 157 towers at most 0.6 % of them are.
_NEVER_DARK = ("red", "nir", "green", "swir1")
#: Share, and number, of so dark values of a site that are reported; share of zeros that no place has.
_DARK_SHARE, _DARK_COUNT, _MOST_ZEROS = 0.05, 10, 0.5
#: Share of the values of a band, besides known fill values, that may be invalid.
_MOST_INVALID = 0.2


@dataclass(frozen=True, kw_only=True)
class Observations:
    """Entries of one file.

    Attributes
    ----------
    source : str
        The file, for messages.
    sites : tuple of str
        Names.
    site : (n,) int
        Index into `sites`.
    day : (n,) datetime64[D]
        Date.
    bands : dict of str to (n,) float
        Reflectance by band of `SURFACE_BANDS`: as stored, or decoded (NaN where missing).
    flags : dict of str to (n,) float
        Quality flags and angles by name, NaN where missing.
    latitude, longitude : (site,) float64
        Degrees; NaN where the file does not state them.
    product, collection : str
        Such as "MOD09GA" and "061"; "" where unknown.
    scale, offset : mapping of str to float
        By band, where the file declares them: reflectance = stored x scale + offset.
    fills : mapping of str to float
        Fill value by band, where the file declares it.
    pixel : (n,) int64, optional
        Number of the pixel where there are several around a site; None if each entry is a whole site.
    area : (site,) int, optional
        Number of pixels of each site, where the reader knows it.
    period : int
        Number of days that an entry is composed of. `day` is the last one.
    screened : bool
        Whether cloudy views may have been removed from the file already: False for extracts of all views.
    """

    source: str
    sites: tuple[str, ...]
    site: np.ndarray
    day: np.ndarray
    bands: dict[str, np.ndarray]
    flags: dict[str, np.ndarray] = field(default_factory=dict)
    latitude: np.ndarray
    longitude: np.ndarray
    product: str = ""
    collection: str = ""
    scale: Mapping[str, float] = field(default_factory=dict)
    offset: Mapping[str, float] = field(default_factory=dict)
    fills: Mapping[str, float] = field(default_factory=dict)
    pixel: np.ndarray | None = None
    area: np.ndarray | None = None
    period: int = 1
    screened: bool = True


def decode(observations: Observations, *, scale: float | None = None, missing: Sequence[float] = ()) -> Observations:
    """Convert stored numbers to reflectances, NaN where they are fill or invalid.

    Parameters
    ----------
    observations : Observations
        As stored.
    scale : float, optional
        Factor of all reflectances; by default the one that the file declares, else 1.
    missing : sequence of float
        Stored numbers that mean missing, besides `FILLS` and the declared fill value.

    Returns
    -------
    Observations
        With reflectances as float32.

    Raises
    ------
    SourceError
        If the numbers of a band and site are no reflectances after scaling, or too many are invalid.
    """
    low, high = _VALID.get(observations.product, _VALID_ELSEWHERE)
    order = np.argsort(observations.site, kind="stable")
    bounds = np.searchsorted(observations.site[order], np.arange(len(observations.sites) + 1))
    zero = _all_zero(observations.bands)
    bands: dict[str, np.ndarray] = {}
    for name, stored in observations.bands.items():
        gone = ~np.isfinite(stored) | zero
        for fill in (*FILLS, *missing, *([observations.fills[name]] if name in observations.fills else [])):
            gone |= stored == fill
        if name == "snow":
            invalid = ~gone & ((stored < 0) | (stored > 1))
            _check_invalid(observations, name, invalid, gone, stored, (0, 1))
            bands[name] = np.where(gone | invalid, np.nan, stored).astype(np.float32)
            continue
        factor = observations.scale.get(name, 1.0) if scale is None else scale
        shift = observations.offset.get(name, 0.0) if scale is None else 0.0
        values = stored * np.float64(factor) + shift if factor != 1.0 or shift else stored
        for fill in FILLS:  # a fill value that was scaled like a reflectance
            gone |= np.abs(values - fill * 1e-4) < 1e-6
        known = np.where(gone, np.nan, values)[order]
        _check_scale(observations, name, known, bounds, factor)
        _check_dark(observations, name, known, bounds)
        invalid = ~gone & ((values < low) | (values > high))
        _check_invalid(observations, name, invalid, gone, values, (low, high))
        bands[name] = np.where(gone | invalid, np.nan, values).astype(np.float32)
    if count := int(np.count_nonzero(zero)):
        log.warning("%s: %d entries in which every band is 0 are missing (masked pixels)", observations.source, count)
    return replace(observations, bands=bands, scale={}, offset={}, fills={})


def _all_zero(bands: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return whether all reflectances (n,) are exactly 0, as exports of integers write masked pixels."""
    stored = [values for name, values in bands.items() if name in REFLECTANCES]
    return np.logical_and.reduce([values == 0 for values in stored]) if len(stored) > 1 else np.zeros((), bool)


def _check_scale(observations: Observations, band: str, values: np.ndarray, bounds: np.ndarray, factor: float) -> None:
    """Refuse a site whose values of a band, sorted by site, are too large or too small for reflectances."""
    for site, (start, stop) in enumerate(itertools.pairwise(bounds)):
        sample = values[start:stop]
        fault, median = scale_fault(sample)
        if not fault:
            continue
        fits = [f for f in (1.0, 1e-4, 1e-2, 1e-3) if 0.003 <= median / factor * f <= 1.2]
        raise SourceError(
            f"{observations.source}: {band} of {observations.sites[site]} has a median of {median:.3g}, where a "
            f"reflectance from 0 to 1 is expected: the values {fault} (factor {factor:g})"
            + (f"; pass scale={fits[0]:g}." if fits else "; pass the scale= that the product documents.")
        )


def _check_dark(observations: Observations, band: str, values: np.ndarray, bounds: np.ndarray) -> None:
    """Refuse a site at which a band is mostly 0, and report one with many values that are too dark for land."""
    doubtful = []
    for site, (start, stop) in enumerate(itertools.pairwise(bounds)):
        sample = values[start:stop][np.isfinite(values[start:stop])]
        name = observations.sites[site]
        if sample.size >= _DARK_COUNT and np.count_nonzero(sample == 0) > _MOST_ZEROS * sample.size:
            raise SourceError(
                f"{observations.source}: {band} of {name} is exactly 0 on {np.count_nonzero(sample == 0)} of "
                f"{sample.size} days: 0 stands for missing there; pass missing=[0], or leave the band out."
            )
        dark = int(np.count_nonzero(np.abs(sample) < _SMALLEST)) if band in _NEVER_DARK else 0
        if dark >= _DARK_COUNT and dark > _DARK_SHARE * sample.size:
            doubtful.append(f"{name} ({dark} of {sample.size})")
    if doubtful:
        log.warning(
            "%s: many values of %s are below %g at %s%s: they may be scaled twice, or 0 may stand for missing "
            "(missing=[0]); or the place is water",
            *(observations.source, band, _SMALLEST, ", ".join(doubtful[:5]), ", ..." if len(doubtful) > 5 else ""),
        )


def scale_fault(values: np.ndarray) -> tuple[str, float]:
    """Return what is wrong with the scale of the reflectances of one band and site, and their median.

    Parameters
    ----------
    values : (n,) float
        Reflectances, NaN where missing.

    Returns
    -------
    fault : str
        "are not scaled", "were scaled twice", or "" if the values can be reflectances.
    median : float
        Median of the absolute values of a sample; NaN if there are none.

    Examples
    --------
    >>> scale_fault(np.array([512.0, 700.0, 655.0])), scale_fault(np.array([0.25, 0.75]))
    (('are not scaled', 655.0), ('', 0.5))
    """
    sample = np.abs(values[np.isfinite(values)])
    if not sample.size:
        return "", float("nan")
    sample = sample[:: max(sample.size // _SAMPLE, 1)]
    median = float(np.median(sample))
    if sample.size >= _FEWEST and 0 < np.quantile(sample, 0.95) < _SMALLEST:
        return "were scaled twice", median
    return ("are not scaled" if median > _LARGEST_MEDIAN else ""), median


def _check_invalid(
    observations: Observations,
    band: str,
    invalid: np.ndarray,
    gone: np.ndarray,
    values: np.ndarray,
    valid: tuple[float, float],
) -> None:
    """Report values beyond the valid range, and refuse a band that has many: fill values or a wrong scale."""
    count, total = int(invalid.sum()), int((~gone).sum())
    if not count:
        return
    first = int(np.flatnonzero(invalid)[0])
    where = f"{observations.sites[int(observations.site[first])]}, {observations.day[first]}"
    text = (
        f"{observations.source}: {count} of {total} values of {band} are beyond {valid[0]:g} to {valid[1]:g}, the "
        f"first {values[first]:.6g} ({where})"
    )
    # Bright snow can exceed the valid range of MCD43A4 on many days: values beyond any product's are evidence.
    low, high = valid if band == "snow" else _VALID_ELSEWHERE
    if np.count_nonzero(invalid & ((values < low) | (values > high))) > _MOST_INVALID * total:
        raise SourceError(
            f"{text}: fill values were taken for values or averaged into them, or the values are in other units (snow "
            "is a share from 0 to 1). Pass missing= with the fill value, or scale=, or convert the column."
        )
    log.warning("%s: they are missing", text)
