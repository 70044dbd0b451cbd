"""Cut the chips of a cube's sites, in spans of days, each for its own time, and detect changed rasters."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube.cubes.chips import build_chips, chip_days, source_rasters
from fluxcube.cubes.layout import spill_chips
from fluxcube.resolution import resolution_of

Progress = Callable[[int, int, str], None]

#: Name of a MODIS product in a description.
_NAME = re.compile(r"\bM[COY]D\d\d[A-Z]\w")
#: Maximum number of bytes in RAM at once.
_BYTES = 256 << 20
#: Satellite data are kept from this long before the first hour.
BEFORE = np.timedelta64(32, "D")


@dataclass(frozen=True)
class Product:
    """Satellite product that is cut around the sites of a cube.

    Attributes
    ----------
    name : str
        Name of the product, as its publisher calls it.
    rasters : callable
        ``rasters(folder)`` returns the rasters found.
    days : callable
        ``days(rasters)`` returns the dates (day,) datetime64[D] for which there can be a value.
    build : callable
        ``build(rasters, latitude, longitude, progress=)`` returns values (place, day, ...) float32.
    size : int
        Number of values per day and place.
    """

    name: str
    rasters: Callable[[str | os.PathLike], list]
    days: Callable[[Sequence], np.ndarray]
    build: Callable[..., xr.DataArray]
    size: int


#: The product of chips, which hourly cubes have.
CHIPS = Product("MCD43A4", source_rasters, chip_days, build_chips, 9 * 64)


def satellite_product(ds: xr.Dataset, array: str | None = None) -> str | None:
    """Return the product of the reflectance in a cube or forcing, such as "MOD09GA"; None if it is not recorded.

    Parameters
    ----------
    ds : xr.Dataset
        Cube or forcing. The attribute `product` of its satellite data counts, else their description.
    array : {"modis", "surface"}, optional
        Array of satellite data; by default that of the resolution: chips (hourly), or surface reflectance (daily).

    Examples
    --------
    >>> satellite_product(xr.Dataset({"modis": ((), 0.0, {"long_name": "reflectance (MCD43A4 bands 1-7)"})}))
    'MCD43A4'
    """
    name = array or resolution_of(ds).satellite
    if name not in ds:
        return None
    attrs = ds[name].attrs
    if attrs.get("product"):
        return str(attrs["product"])
    match = _NAME.search(" ".join(str(attrs.get(key, "")) for key in ("long_name", "comment")))
    return match[0] if match else None


def span_of_use(place: Mapping) -> tuple[np.datetime64, np.datetime64]:
    """Return the first and last day of satellite data that a site can use: its own time, and a month before."""
    start, stop = np.datetime64(str(place["start"]), "h"), np.datetime64(str(place["stop"]), "h")
    return (start - BEFORE).astype("datetime64[D]"), (stop - np.timedelta64(1, "h")).astype("datetime64[D]")


def _of_use(rasters: Sequence, place: Mapping) -> list:
    """Return the rasters that a site can use."""
    first, last = span_of_use(place)
    return [raster for raster in rasters if first <= np.datetime64(raster.day, "D") <= last]


def stamp_rasters(rasters: Sequence, place: Mapping) -> str:
    """Return a digest of the names and sizes of the rasters that a site can use, "" if there are none."""
    names = sorted(
        f"{path.name} {r.product} {path.stat().st_size}" for r in _of_use(rasters, place) for path in r.files
    )
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16] if names else ""


def cut_sites(
    building: Path, product: Product, rasters: Sequence, places: Sequence[Mapping], progress: Progress | None
) -> dict[str, np.ndarray]:
    """Cut the satellite data of each site, spill them, and return its days (day,) datetime64[D].

    Spans of days are cut for all sites at once, so that a raster is opened once for all sites on it; RAM contains one
    span.
    """
    cut: dict[str, list[np.ndarray]] = {place["site"]: [] for place in places}
    days = product.days(rasters)
    length = max(1, _BYTES // max(len(places) * product.size * 4, 1))
    for start in range(0, len(days), length):
        span = days[start : start + length]
        near = [place for place in places if _meets(place, span)]
        mine = [raster for raster in rasters if span[0] <= np.datetime64(raster.day, "D") <= span[-1]]
        if near:
            shown = _later(progress, start, len(days))
            for place, day, values in _cut_span(product, mine, near, shown):
                spill_chips(building, place["site"], day, values)
                cut[place["site"]].append(day)
    return {site: np.concatenate([*parts, np.empty(0, "datetime64[D]")]) for site, parts in cut.items()}


def _meets(place: Mapping, days: np.ndarray) -> bool:
    first, last = span_of_use(place)
    return bool(((days >= first) & (days <= last)).any())


def _later(progress: Progress | None, before: int, total: int) -> Progress | None:
    """Return a callable that reports progress within a span of days as progress within all days."""
    return progress and (lambda done, _, text: progress(before + done, total, text))


def _cut_span(
    product: Product, rasters: Sequence, places: Sequence[Mapping], progress: Progress | None
) -> Iterator[tuple]:
    """Yield the place, days and values of each site, for the days of its time on which it has a value."""
    latitude, longitude = (np.array([place[key] for place in places]) for key in ("latitude", "longitude"))
    array = product.build(rasters, latitude, longitude, progress=progress)
    days = array.day.values.astype("datetime64[D]")
    for place, values in zip(places, array.values, strict=True):
        first, last = span_of_use(place)
        mine = (days >= first) & (days <= last) & np.isfinite(values).any(tuple(range(1, values.ndim)))
        if mine.any():
            yield place, days[mine], values[mine]
