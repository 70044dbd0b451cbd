"""Compose a cube: reuse the files of sites that stay, unchanged, and write those of sites that were spilled to disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fluxcube.cubes.drivers_layout import driver_arrays, spilled_drivers, write_drivers
from fluxcube.cubes.layout import CubeSettings, cube_arrays, cube_coords, time_axis, write_chips, write_tower
from fluxcube.cubes.report import cube_attrs, write_report
from fluxcube.cubes.surface_layout import (
    SurfaceLayout,
    SurfaceParts,
    surface_arrays,
    surface_coords,
    surface_layout,
    write_surface,
)
from fluxcube.resolution import HOURLY
from fluxcube.stores.arrays import create
from fluxcube.stores.manifest import check_present
from fluxcube.stores.reading import open_store
from fluxcube.stores.shards import adopt

#: ``each(function, sites)`` calls a function for each site, perhaps in several threads.
Each = Callable[[Callable[[str], None], Sequence[str]], None]


@dataclass(frozen=True)
class CubeSites:
    """Documents of the sites of a cube, by site: those that stay as they are, and those whose values were spilled."""

    kept: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    fresh: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def documents(self) -> dict[str, Mapping[str, Any]]:
        """All documents, in the order of the site axis."""
        return dict(sorted({**self.kept, **self.fresh}.items()))


def compose(
    building: Path,
    settings: CubeSettings,
    sites: CubeSites,
    *,
    log: Mapping[str, Any],
    source: Path | None = None,
    chip_days: Mapping[str, np.ndarray] | None = None,
    surface: SurfaceParts | None = None,
    each: Each | None = None,
) -> None:
    """Write a cube from the sites of another one, which stay as they are, and from sites that were spilled.

    Parameters
    ----------
    building : path
        The folder that `fluxcube.stores.building.staging` yields.
    settings : CubeSettings
        Of the cube.
    sites : CubeSites
        Documents; the values of the fresh sites, and new drivers of any site, were spilled to `building`.
    log : mapping
        The log that `build_document` returns.
    source : path, optional
        The store that has the kept sites; needed if there are any.
    chip_days : mapping of str to (day,) datetime64, optional
        Days of the chips that were spilled to `building`, by site.
    surface : SurfaceParts, optional
        The surface reflectance that was spilled to `building`.
    each : callable, optional
        ``each(function, sites)`` calls a function for each site, perhaps in several threads; by default one by one.
    """
    documents = sites.documents
    old = source if sites.kept else None
    parts = {site: days for site, days in (chip_days or {}).items() if len(days)}
    days = np.unique(np.concatenate(list(parts.values()))) if parts else None
    if old is not None and settings.resolution == HOURLY.name:
        days = _all_days(old, days)
    layout = surface_layout(old, surface)
    order = {site: at for at, site in enumerate(documents)}
    _create(building, settings, documents, days, layout)
    if old is not None:
        check_present(old)
        with open_store(old, kind="cube", dask=False) as before:
            places = {str(site): at for at, site in enumerate(before.site.values)}
        adopt(building, old, {places[site]: order[site] for site in sites.kept})
    cut = () if layout is None or surface is None else tuple(surface.days)
    driven = [site for site in documents if spilled_drivers(building, site)]

    def write(site: str) -> None:
        if site in sites.fresh:
            write_tower(building, order[site], documents[site]["place"], settings)
        if site in parts:
            write_chips(building, order[site], site)
        if layout is not None and site in cut:
            write_surface(building, order[site], documents[site]["place"], layout)
        if site in driven:
            write_drivers(building, order[site], documents[site]["place"], settings)

    (each or _one_by_one)(write, sorted({*sites.fresh, *parts, *cut, *driven}))
    write_report(building, documents, log)


def _one_by_one(function: Callable[[str], None], sites: Sequence[str]) -> None:
    for site in sites:
        function(site)


def _create(
    building: Path,
    settings: CubeSettings,
    documents: Mapping[str, Mapping],
    days: np.ndarray | None,
    layout: SurfaceLayout | None,
) -> None:
    """Create the coordinates and the empty arrays of a cube."""
    places = [doc["place"] for doc in documents.values()]
    time = time_axis(places, settings.resolution)
    coords = cube_coords(places, time, settings, days)
    arrays = cube_arrays(places, len(time), settings, None if days is None else coords.sizes["day"])
    arrays |= driver_arrays(places, len(time), settings)
    if layout is not None:
        coords = coords.assign_coords(surface_coords(layout, settings.resolution))
        arrays |= surface_arrays(layout, len(places), settings.resolution)
    arrays = {name: replace(spec, checksum=settings.checksum) for name, spec in arrays.items()}
    create(building, coords, arrays, cube_attrs(documents, settings.attrs))


def _all_days(source: Path, days: np.ndarray | None) -> np.ndarray | None:
    """Return the days of new chips and of those that stay."""
    with open_store(source, kind="cube", dask=False) as old:
        if "day_held" not in old.coords:
            return days
        present = old.day.values[old.day_held.values].astype("datetime64[D]")
    return present if days is None else np.union1d(present, days.astype("datetime64[D]"))
