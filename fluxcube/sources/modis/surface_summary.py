"""Apply the quality flags to observations of reflectance, and average the clear pixels of a site and day."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fluxcube.errors import SourceError
from fluxcube.sources.modis.quality import QualityRules, snow_flag
from fluxcube.sources.modis.surface_observations import Observations
from fluxcube.variables import SURFACE_BANDS


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Clear reflectance by site and day.

    Attributes
    ----------
    site, day : (n,) int, (n,) datetime64[D]
        Each pair occurs once.
    values : (n, band) float32
        Bands of `SURFACE_BANDS`; NaN where not clear, fill or missing.
    share : (n,) float32
        Share of the pixels that are clear and valid, 0 to 1.
    """

    site: np.ndarray
    day: np.ndarray
    values: np.ndarray
    share: np.ndarray


def summarise(observations: Observations, settings: QualityRules) -> Summary:
    """Apply the quality flags, and average the clear pixels of each site and day.

    A band is missing where fewer than half of the pixels of the site are clear and valid.

    Raises
    ------
    SourceError
        If the file lacks a flag of the rules.
    """
    good, of_band = _masks(observations, settings)
    values = np.full((len(good), len(SURFACE_BANDS)), np.nan, np.float32)
    for i, name in enumerate(SURFACE_BANDS):
        if name in observations.bands:
            use = good & of_band[name] if name in of_band else good
            values[:, i] = np.where(use, observations.bands[name], np.nan)
    if "snow" not in observations.bands and "state_1km" in observations.flags:
        values[:, -1] = np.where(good, snow_flag(observations.flags["state_1km"]), np.nan)
    valid = np.logical_or.reduce(np.isfinite(values[:, :-1]), axis=1)
    values[~valid] = np.nan
    if observations.pixel is None:
        return Summary(site=observations.site, day=observations.day, values=values, share=valid.astype(np.float32))
    return _mean_of_pixels(observations, values)


def _masks(observations: Observations, settings: QualityRules) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return which entries (n,) pass the rules, and by band which pass the rules of that band."""
    good, of_band = np.ones(len(observations.site), bool), {}
    for name in settings.rules:
        per_band = [flag for flag in observations.flags if flag.startswith(f"{name}:")]
        for flag in per_band:
            of_band[flag.split(":")[1]] = settings.passes(name, observations.flags[flag])
        if name in observations.flags:
            good &= settings.passes(name, observations.flags[name])
        elif not per_band and not settings.optional:
            raise SourceError(
                f"{observations.source}: expected the flag {name} of quality=, found "
                f"{', '.join(sorted(observations.flags)) or 'no flags'}: correct its name."
            )
    if settings.max_view_zenith is not None:
        if "view_zenith" not in observations.flags:
            raise SourceError(
                f"{observations.source}: max_view_zenith needs the view zenith angle (SensorZenith), which the file "
                "lacks: name its column with columns={'view_zenith': ...}, or remove the option."
            )
        good &= observations.flags["view_zenith"] <= settings.max_view_zenith
    return good, of_band


def _mean_of_pixels(observations: Observations, values: np.ndarray) -> Summary:
    """Return the mean of valid pixels by site and day; entries are sorted by site, day and pixel."""
    site, day = observations.site, observations.day
    new = np.ones(len(site), bool)
    new[1:] = (site[1:] != site[:-1]) | (day[1:] != day[:-1])
    starts = np.flatnonzero(new)
    total = _number_of_pixels(observations)[site[starts]]
    means = np.full((len(starts), values.shape[1]), np.nan, np.float32)
    share = np.zeros(len(starts), np.float32)
    for i in range(values.shape[1]):
        valid = np.isfinite(values[:, i])
        count = np.add.reduceat(valid, starts, dtype=np.int64)
        sums = np.add.reduceat(np.where(valid, values[:, i], 0).astype(np.float64), starts)
        enough = (count * 2 >= total) & (count > 0)
        means[:, i] = np.where(enough, sums / np.maximum(count, 1), np.nan)
        if i < values.shape[1] - 1:
            np.maximum(share, count / total, out=share, casting="same_kind")
    return Summary(site=site[starts], day=day[starts], values=means, share=share)


def _number_of_pixels(observations: Observations) -> np.ndarray:
    """Return the number of pixels (site,) that ever have a reflectance, at least 1."""
    if observations.area is not None:
        return np.maximum(observations.area, 1)
    assert observations.pixel is not None
    seen = np.zeros(len(observations.site), bool)
    for name, values in observations.bands.items():
        seen |= np.isfinite(values) & (name != "snow")
    pairs = np.unique(np.stack([observations.site[seen], observations.pixel[seen]]), axis=1)
    return np.maximum(np.bincount(pairs[0].astype(np.intp), minlength=len(observations.sites)), 1)
