"""Join the observations of several files to one series, in which each site, day and pixel occurs once."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from fluxcube.errors import SourceError
from fluxcube.sources.modis.surface_checks import SAME_PLACE, distance_km
from fluxcube.sources.modis.surface_observations import REFLECTANCES, Observations

log = logging.getLogger(__name__)

#: Products that supply bands of one another.
FAMILY = {"MODOCGA": "MOD09GA", "MYDOCGA": "MYD09GA", "MOD09GA_STATE": "MOD09GA"}
#: Difference below which two values of one day are the same: half a step of the stored numbers.
_SAME = 6e-5


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


def check_same_place(parts: Sequence[Observations]) -> None:
    """Refuse files in which one name is that of different places, such as ``aid0001`` of two requests."""
    known: dict[str, tuple[float, float, str]] = {}
    for part in parts:
        for name, latitude, longitude in zip(part.sites, part.latitude, part.longitude, strict=True):
            before = known.setdefault(name, (latitude, longitude, part.source))
            if np.isnan(before[0]):
                known[name] = (latitude, longitude, part.source)
            km = float(distance_km(*(np.array(v) for v in (latitude, longitude, known[name][0], known[name][1]))))
            if km > SAME_PLACE:
                raise SourceError(
                    f"{part.source}: {name} is {km:.1f} km from {name} of {before[2]}: a site has one place; pass "
                    "sites= with names and places, or read the files separately with site=."
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
    check_same_place(parts)
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
            named.setdefault((FAMILY.get(part.product, part.product), part.collection), part.source)
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
