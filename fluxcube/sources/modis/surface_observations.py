"""Observations of reflectance as files contain them: stored numbers become reflectances, files become one series.

One entry is one day of one site, or of one pixel around a site. Readers of all formats return `Observations`;
`decode` converts their stored numbers, `merge` joins the files, and `summarise` applies the quality flags.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fluxcube.errors import SourceError
from fluxcube.sources.modis.quality import QualityRules, snow_flag
from fluxcube.variables import SURFACE_BANDS

log = logging.getLogger(__name__)

#: Bands that are reflectances.
REFLECTANCES = SURFACE_BANDS[:-1]
#: Stored numbers that mean missing in MODIS products and in the exports of them.
FILLS = (-28672.0, 32767.0, -32767.0, -32768.0, 65535.0, -9999.0)
#: Lowest and highest valid reflectance by product; of others, those of MOD09GA (-100 to 16000, x 0.0001).
_VALID = {"MCD43A4": (0.0, 1.0)}
_VALID_ELSEWHERE = (-0.01, 1.6)
#: Products that supply bands of one another.
_FAMILY = {"MODOCGA": "MOD09GA", "MYDOCGA": "MYD09GA", "MOD09GA_STATE": "MOD09GA"}
#: Medians beyond which numbers cannot be reflectances, and the number of entries that a median is computed from.
_LARGEST_MEDIAN, _SMALLEST, _SAMPLE, _FEWEST = 2.0, 1e-3, 400, 5
#: Share of the values of a band, besides known fill values, that may be invalid.
_MOST_INVALID = 0.2
#: Difference below which two values of one day are the same: half a step of the stored numbers.
_SAME = 6e-5


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
            valid = (stored >= 0) & (stored <= 1)
            bands[name] = np.where(gone | ~valid, np.nan, stored).astype(np.float32)
            continue
        factor = observations.scale.get(name, 1.0) if scale is None else scale
        shift = observations.offset.get(name, 0.0) if scale is None else 0.0
        values = stored * np.float64(factor) + shift if factor != 1.0 or shift else stored
        for fill in FILLS:  # a fill value that was scaled like a reflectance
            gone |= np.abs(values - fill * 1e-4) < 1e-6
        _check_scale(observations, name, np.where(gone, np.nan, values)[order], bounds, factor)
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
        sample = np.abs(sample[np.isfinite(sample)])
        if not sample.size:
            continue
        sample = sample[:: max(sample.size // _SAMPLE, 1)]
        median = float(np.median(sample))
        tiny = sample.size >= _FEWEST and 0 < np.quantile(sample, 0.95) < _SMALLEST
        if median <= _LARGEST_MEDIAN and not tiny:
            continue
        fits = [f for f in (1.0, 1e-4, 1e-2, 1e-3) if 0.003 <= median / factor * f <= 1.2]
        fault = "were scaled twice" if tiny else "are not scaled"
        raise SourceError(
            f"{observations.source}: {band} of {observations.sites[site]} has a median of {median:.3g}, where a "
            f"reflectance from 0 to 1 is expected: the values {fault} (factor {factor:g})"
            + (f"; pass scale={fits[0]:g}." if fits else "; pass the scale= that the product documents.")
        )


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
    if count > _MOST_INVALID * total:
        raise SourceError(
            f"{text}: fill values were taken for values, or averaged into them. Pass missing= with the fill value, or "
            "scale= if the values are in other units."
        )
    log.warning("%s: they are missing", text)


def select_sites(observations: Observations, names: Sequence[str]) -> Observations:
    """Return the entries of some sites."""
    kept = [i for i, name in enumerate(observations.sites) if name in set(names)]
    new = np.full(len(observations.sites), -1, np.intp)
    new[kept] = np.arange(len(kept))
    use = new[observations.site] >= 0
    return replace(
        observations,
        sites=tuple(observations.sites[i] for i in kept),
        site=new[observations.site][use],
        day=observations.day[use],
        bands={name: values[use] for name, values in observations.bands.items()},
        flags={name: values[use] for name, values in observations.flags.items()},
        latitude=observations.latitude[kept],
        longitude=observations.longitude[kept],
        pixel=None if observations.pixel is None else observations.pixel[use],
        area=None if observations.area is None else observations.area[kept],
    )


def merge(parts: Sequence[Observations]) -> Observations:
    """Join decoded files to one series, in which each site, day and pixel occurs once.

    Raises
    ------
    SourceError
        If the files are of different products or collections, or contain different values for one site and day.
    """
    first = parts[0]
    product, collection = one_product(parts)
    if not any(set(part.bands) & set(REFLECTANCES) for part in parts):
        raise SourceError(f"{first.source}: expected reflectance beside flags, found none: add the files of the bands.")
    sites = tuple(dict.fromkeys(name for part in parts for name in part.sites))
    position = {name: i for i, name in enumerate(sites)}
    place = np.full((2, len(sites)), np.nan)
    for part in parts:
        at = [position[name] for name in part.sites]
        for row, known in zip(place, (part.latitude, part.longitude), strict=True):
            row[at] = np.where(np.isnan(row[at]), known, row[at])
    joined = replace(
        first,
        source=first.source if len(parts) == 1 else f"{first.source} and {len(parts) - 1} other files",
        sites=sites,
        site=np.concatenate([np.array([position[n] for n in part.sites], np.intp)[part.site] for part in parts]),
        day=np.concatenate([part.day for part in parts]),
        bands=_columns([part.bands for part in parts], [len(part.site) for part in parts]),
        flags=_columns([part.flags for part in parts], [len(part.site) for part in parts]),
        latitude=place[0],
        longitude=place[1],
        product=product,
        collection=collection,
        pixel=_pixels(parts),
        area=None if len(parts) > 1 else first.area,
        period=max(part.period for part in parts),
        screened=all(part.screened for part in parts),
    )
    files = np.repeat(np.arange(len(parts)), [len(part.site) for part in parts])
    return _without_duplicates(joined, [part.source for part in parts], files)


def one_product(parts: Sequence[Observations]) -> tuple[str, str]:
    """Return product and collection of all files; SourceError if they differ."""
    named: dict[tuple[str, str], str] = {}
    for part in parts:
        if part.product or part.collection:
            named.setdefault((_FAMILY.get(part.product, part.product), part.collection), part.source)
    products = {product: source for (product, _), source in named.items() if product}
    collections = {collection: source for (_, collection), source in named.items() if collection}
    for kind, found in (("product", products), ("collection", collections)):
        if len(found) > 1:
            listed = ", ".join(f"{name} ({source})" for name, source in sorted(found.items()))
            raise SourceError(
                f"expected files of one {kind}, found {len(found)}: {listed}: calibration and quality flags differ "
                "between them; read each alone and choose one."
            )
    return next(iter(products), ""), next(iter(collections), "")


def _columns(tables: Sequence[Mapping[str, np.ndarray]], lengths: Sequence[int]) -> dict[str, np.ndarray]:
    """Return the columns of all tables, NaN where a table lacks one."""
    names = dict.fromkeys(name for columns in tables for name in columns)
    return {
        name: np.concatenate(
            [
                columns[name] if name in columns else np.full(length, np.nan, np.float32)
                for columns, length in zip(tables, lengths, strict=True)
            ]
        )
        for name in names
    }


def _pixels(parts: Sequence[Observations]) -> np.ndarray | None:
    if all(part.pixel is None for part in parts):
        return None
    return np.concatenate([np.zeros(len(part.site), np.int64) if part.pixel is None else part.pixel for part in parts])


def _without_duplicates(joined: Observations, sources: Sequence[str], files: np.ndarray) -> Observations:
    """Return entries sorted by site, day and pixel, those of the same pixel and day combined.

    `files` (n,) is the index into `sources` of the file of each entry.
    """
    keys = (joined.day, joined.site) if joined.pixel is None else (joined.pixel, joined.day, joined.site)
    order = np.lexsort(keys)
    new = np.zeros(len(order), bool)
    new[:1] = True
    for key in keys:
        new[1:] |= key[order][1:] != key[order][:-1]
    starts = np.flatnonzero(new)
    repeated = len(order) - len(starts)
    bands = {name: values[order] for name, values in joined.bands.items()}
    flags = {name: values[order] for name, values in joined.flags.items()}
    if repeated:
        _check_same(joined, bands, order, starts, (sources, files))
        bands = {name: np.fmax.reduceat(values, starts) for name, values in bands.items()}
        flags = {name: np.fmax.reduceat(values, starts) for name, values in flags.items()}
        order = order[starts]
    return replace(
        joined,
        site=joined.site[order],
        day=joined.day[order],
        bands=bands,
        flags=flags,
        pixel=None if joined.pixel is None else joined.pixel[order],
    )


def _check_same(
    joined: Observations,
    bands: Mapping[str, np.ndarray],
    order: np.ndarray,
    starts: np.ndarray,
    origin: tuple[Sequence[str], np.ndarray],
) -> None:
    """Refuse two entries for one day with different values; report those with the same values."""
    sources, files = origin
    same = np.zeros(len(starts), bool)
    for name, values in bands.items():
        low, high = np.fmin.reduceat(values, starts), np.fmax.reduceat(values, starts)
        if (differ := np.flatnonzero(high - low > _SAME)).size:
            first = starts[differ[0]]
            at, end = order[first], np.append(starts, len(order))[differ[0] + 1]
            where = " and ".join(sources[int(i)] for i in np.unique(files[order[first:end]]))
            raise SourceError(
                f"{where}: {joined.sites[int(joined.site[at])]} has two entries for {joined.day[at]} with different "
                f"{name}, {low[differ[0]]:.4f} and {high[differ[0]]:.4f} ({differ.size} such days): keep one of the "
                "entries or files; if they are pixels, name their column with columns={'pixel': ...}."
            )
        same |= np.add.reduceat(np.isfinite(values), starts) > 1
    if same.any():
        log.warning("%s: %d entries that occur twice, with the same values, are used once", joined.source, same.sum())


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
