"""Sources of the surface reflectance of a cube: files and Datasets of series, and folders of MOD09GA tiles.

Series come first: a tower that has one is not cut from tiles. Every source is opened before any tower is read, so that
a wrong file stops a build at once.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.cubes.chips import extent_of, touched
from fluxcube.cubes.layout import Place
from fluxcube.cubes.satellite import Progress
from fluxcube.cubes.surface import (
    SURFACE_ATTRS,
    SURFACE_PRODUCTS,
    read_surface_blocks,
    surface_comment,
    surface_days,
    surface_pixels,
    tile_bands,
)
from fluxcube.cubes.surface_layout import SOURCE_ATTRS, SurfaceParts, in_order, spill_surface
from fluxcube.cubes.surface_series import (
    MAX_DISTANCE_KM,
    SURFACE_NOTE,
    Series,
    find_series,
    join_series,
    letters_of,
    named_after_towers,
    read_series,
)
from fluxcube.errors import SourceError
from fluxcube.sources.modis.grid import TILE, Raster
from fluxcube.sources.modis.names import collection_of
from fluxcube.sources.modis.rasters import check_raster, survey_rasters
from fluxcube.sources.modis.surface import read_surface
from fluxcube.sources.modis.surface_areas import is_area_file
from fluxcube.stores.files import visible_files

#: A file or folder, or data in RAM or lazy.
SurfaceSource: TypeAlias = str | os.PathLike | xr.Dataset | xr.DataArray | pd.DataFrame

#: Suffixes of rasters.
_RASTERS = (".hdf", ".tif", ".tiff")
#: Maximum number of bytes of one span of days in RAM.
_BYTES = 256 << 20
#: Minimum time of a year that a tower measured for the year to be named if it has no clear view.
_HALF_YEAR = np.timedelta64(183, "D")
#: Number of names in an error.
_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class SurfaceSources:
    """What the surface reflectance of a cube is read from.

    Attributes
    ----------
    series : mapping of str to Series
        Series by `fluxcube.cubes.surface_series.letters_of` their names.
    rasters : tuple of Raster
        Rasters of MOD09GA with state flags.
    attrs : mapping
        Attributes of the array `surface`.
    max_distance_km : float
        Maximum distance of a series from its tower.
    """

    series: Mapping[str, Series] = field(default_factory=dict)
    rasters: tuple[Raster, ...] = ()
    attrs: Mapping[str, object] = field(default_factory=dict)
    max_distance_km: float = MAX_DISTANCE_KM

    def series_of(self, place: Place) -> tuple[Series | None, str]:
        """Return `find_series` of a tower."""
        return find_series(self.series, place, self.max_distance_km)

    def stamp(self, place: Place) -> str:
        """Return a digest of what a tower's reflectance is read from; "" if there is none."""
        series, _ = self.series_of(place)
        return series.digest() if series is not None else self._stamp_rasters(place)

    def _stamp_rasters(self, place: Place) -> str:
        """Return a digest of the rasters that may contain a tower; "" if there are none."""
        if not self.rasters:
            return ""
        rows, cols = surface_pixels(np.array([place["latitude"]]), np.array([place["longitude"]]))
        extent = extent_of(rows, cols)
        digests = [
            digest
            for tile, digest in self._digests.items()
            if tile is None or touched((tile[1] * TILE, tile[0] * TILE, TILE, TILE), extent).any()
        ]
        return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:16] if digests else ""

    @functools.cached_property
    def _digests(self) -> dict[tuple[int, int] | None, str]:
        """Digests of the names and sizes of rasters by tile; those without a tile may contain any place."""
        names: dict[tuple[int, int] | None, list[str]] = defaultdict(list)
        for raster in self.rasters:
            names[raster.tile] += [f"{path.name} {raster.product} {path.stat().st_size}" for path in raster.files]
        order = sorted(names, key=lambda tile: tile or (-1, -1))
        return {tile: hashlib.sha256("\n".join(sorted(names[tile])).encode()).hexdigest() for tile in order}


def as_sources(surface: SurfaceSource | Sequence[SurfaceSource]) -> tuple[SurfaceSource, ...]:
    """Return one source or several as a tuple."""
    if isinstance(surface, (str, os.PathLike, xr.Dataset, xr.DataArray, pd.DataFrame)):
        return (surface,)
    return tuple(surface)


def open_surface(
    sources: Sequence[SurfaceSource], towers: Sequence[Place] = (), max_distance_km: float = MAX_DISTANCE_KM
) -> SurfaceSources:
    """Open the sources of surface reflectance; tiles of MOD09GA are listed, everything else is read.

    Parameters
    ----------
    sources : sequence of path, xr.Dataset, xr.DataArray or pandas.DataFrame
        Folders of MOD09GA tiles; files, folders and data that `fluxcube.read_surface` reads; Datasets such as it
        returns, or their array `surface`.
    towers : sequence of mapping
        Site, latitude and longitude of the towers, where they are known: tiles of other products are cut around them,
        and series that have no name of any tower are named after the tower at their place.
    max_distance_km : float
        Maximum distance of a series from its tower.

    Raises
    ------
    SourceError
        If a source cannot be read, or two have different products, or different values of one place, day and band.
    """
    rasters: list[Raster] = []
    by_name: dict[str, list[Series]] = defaultdict(list)
    attrs: dict[str, object] = {}
    for source in sources:
        where = str(source) if isinstance(source, (str, os.PathLike)) else "surface"
        found = _tiles(source) if isinstance(source, (str, os.PathLike)) else ()
        if found:
            rasters += found
            new: dict[str, object] = {**SURFACE_ATTRS, **_collection(found), "comment": surface_comment()}
        else:
            series, new = read_series(_dataset(source, towers, max_distance_km), where)
            for one in named_after_towers(series, towers, max_distance_km):
                by_name[letters_of(one.name)].append(one)
        _check_same_product(attrs, new, where)
        attrs = {**new, **attrs}
    return SurfaceSources(
        series={name: join_series(parts, "surface") for name, parts in by_name.items()},
        rasters=tuple(rasters),
        attrs=attrs,
        max_distance_km=max_distance_km,
    )


def _tiles(path: str | os.PathLike) -> tuple[Raster, ...]:
    """Return the rasters of MOD09GA in a folder that has state flags for them; none for other folders and files.

    AppEEARS's areas are read as tiles if they are on the sinusoidal grid, else `fluxcube.read_surface` averages them.
    """
    if not Path(path).is_dir():
        return ()
    rasters = survey_rasters(path, products=SURFACE_PRODUCTS).rasters
    if not len(surface_days(rasters)):
        return ()
    if is_area_file(rasters[0].path):
        try:
            check_raster(rasters[0])
        except SourceError:
            return ()
    return rasters


def _dataset(source: SurfaceSource, towers: Sequence[Place], max_distance_km: float) -> xr.Dataset:
    """Return a source as a Dataset of series."""
    if isinstance(source, xr.DataArray):
        return source.to_dataset(name="surface")
    if isinstance(source, xr.Dataset) and "surface" in source:
        return source
    if isinstance(source, (xr.Dataset, pd.DataFrame)):
        return read_surface(source)
    path = Path(source)
    inside = visible_files(path) if path.is_dir() else [path]
    if not any(file.suffix.lower() in _RASTERS for file in inside):
        return read_surface(path)
    # Rasters have no names of sites: they are cut around the towers.
    sites = {str(place["site"]): (float(place["latitude"]), float(place["longitude"])) for place in towers}
    return read_surface(path, sites=sites or None, max_distance_km=max_distance_km)


def _collection(rasters: Sequence[Raster]) -> dict[str, object]:
    """Return the attribute `collection`, where the names of all files have the same one."""
    found = {collection_of(path) for path in {raster.path for raster in rasters}} - {""}
    return {"collection": found.pop()} if len(found) == 1 else {}


def _check_same_product(before: Mapping[str, object], new: Mapping[str, object], where: str) -> None:
    """Refuse a source of another product or collection than those before it."""
    for key in SOURCE_ATTRS:
        if key in before and key in new and str(before[key]) != str(new[key]):
            raise SourceError(
                f"{where}: its surface reflectance has {key} {new[key]}, and the files before it have {before[key]}: "
                "expected one product and collection in a cube; build a cube for each."
            )


def cut_surface(
    sources: SurfaceSources, building: Path, places: Sequence[Place], progress: Progress | None = None
) -> SurfaceParts:
    """Spill the reflectance of towers, that of their whole record, to a store that is being built.

    Parameters
    ----------
    sources : SurfaceSources
    building : path
        Store that is being built.
    places : sequence of mapping
        Towers, as `fluxcube.cubes.layout.placed` returns them.
    progress : callable, optional
        ``progress(done, total, text)``.

    Returns
    -------
    SurfaceParts
        Towers without reflectance are not among its days.
    """
    days: dict[str, np.ndarray] = {}
    bands: set[str] = set()
    quality, cut = False, []
    for place in places:
        series, _ = sources.series_of(place)
        if series is None:
            cut.append(place)
            continue
        arrays = series.days, series.values, series.bands, series.quality
        days[place["site"]] = spill_surface(building, place, *arrays)
        bands |= set(series.bands)
        quality = quality or series.quality is not None
    for place, day, values, share in _cut_tiles(sources.rasters, cut, progress):
        now = spill_surface(building, place, day, values, tile_bands(sources.rasters), share)
        days[place["site"]] = np.concatenate([days.get(place["site"], np.empty(0, "datetime64[D]")), now])
        bands |= set(tile_bands(sources.rasters))
        quality = True
    return SurfaceParts(bands=in_order(bands), quality=quality, attrs=sources.attrs, days=days)


def _cut_tiles(rasters: Sequence[Raster], places: Sequence[Place], progress: Progress | None) -> Iterator[tuple]:
    """Yield the place, days, values and quality of each tower that tiles contain, in spans of days.

    A raster is opened once for all towers on it; RAM contains one span.
    """
    if not places or not rasters:
        return
    days = surface_days(rasters)
    rows, cols = surface_pixels(*(np.array([place[key] for place in places]) for key in ("latitude", "longitude")))
    bands = tile_bands(rasters)
    length = max(1, _BYTES // (len(places) * len(bands) * 4))
    for start in range(0, len(days), length):
        span = days[start : start + length]
        mine = [raster for raster in rasters if span[0] <= raster.day <= span[-1]]
        shown = _later(progress, start, len(days))
        values, quality, _ = read_surface_blocks(mine, rows, cols, span, bands=bands, progress=shown)
        for i, place in enumerate(places):
            known = np.isfinite(quality[i])
            if known.any():
                yield place, span[known], values[i, known], quality[i, known]


def _later(progress: Progress | None, before: int, total: int) -> Progress | None:
    """Return a callable that reports progress within a span of days as progress within all days."""
    return progress and (lambda done, _, text: progress(before + done, total, text))


def surface_entries(sources: SurfaceSources, parts: SurfaceParts, doc: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a tower's document that record the source of its reflectance, and warn if it has none."""
    place = doc["place"]
    others = [text for text in doc["warnings"] if not text.startswith(SURFACE_NOTE)]
    stamp = sources.stamp(place) if place["site"] in parts.days else ""
    return {"warnings": [*others, *_notes(sources, parts, place)], "surface": stamp}


def _notes(sources: SurfaceSources, parts: SurfaceParts, place: Place) -> tuple[str, ...]:
    """Return sentences on what is missing or unusual about the reflectance of a tower."""
    site = str(place["site"])
    series, note = sources.series_of(place)
    if site not in parts.days:
        if not sources.series:
            note = f"{SURFACE_NOTE}{site} lies outside the tiles"
        elif sources.rasters:
            note = f"{note}, and it lies outside the tiles"
        return (f"{note}; its surface reflectance is missing",)
    notes = [note] if note and series is not None else []
    if years := _cloudy_years(parts.days[site], place):
        notes.append(f"{SURFACE_NOTE}{site} has no clear view in {', '.join(map(str, years))}")
    if not len(parts.days[site]):
        first, last = (str(place[key])[:10] for key in ("start", "stop"))
        notes.append(f"{SURFACE_NOTE}{site} has none of its own time, {first} to {last}, only that of other years")
    return tuple(notes)


def _cloudy_years(days: np.ndarray, place: Place) -> list[int]:
    """Return the years of which the tower measured at least half, without a clear view among `days` (day,)."""
    first, last = (np.datetime64(str(place[key])[:10], "D") for key in ("start", "stop"))
    seen = set(days.astype("datetime64[Y]").astype(int) + 1970)
    years = range(int(str(first)[:4]), int(str(last)[:4]) + 1) if len(days) else ()
    measured = {
        year: min(last, np.datetime64(f"{year + 1}-01-01")) - max(first, np.datetime64(f"{year}-01-01"))
        for year in years
    }
    return [year for year, length in measured.items() if year not in seen and length >= _HALF_YEAR]


def check_any(sources: SurfaceSources, places: Sequence[Place]) -> None:
    """Refuse sources that contain none of the towers (SourceError)."""
    if not places or any(sources.stamp(place) for place in places):
        return
    towers = ", ".join(str(place["site"]) for place in places[:_NAMED])
    names = ", ".join(series.name for series in list(sources.series.values())[:_NAMED])
    have = f"series of {names}" if names else "tiles elsewhere"
    raise SourceError(f"surface: expected reflectance of the towers ({towers} ...), found {have} ...; check the names.")
