"""Read the names and places of sites, and find the sites of series of reflectance among them."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import ConfigError, SourceError
from fluxcube.sources.modis.surface_checks import distance_km
from fluxcube.sources.modis.surface_merge import select_sites
from fluxcube.sources.modis.surface_observations import Observations
from fluxcube.sources.modis.surface_tables import read_frame

log = logging.getLogger(__name__)

#: Sites and their places: a table (or its path) with columns of sites, latitude and longitude, a cube, or a mapping.
Sites: TypeAlias = str | os.PathLike | pd.DataFrame | xr.Dataset | Mapping[str, tuple[float, float]]

_COLUMNS = (
    ("site", "site_id", "siteid", "id"),
    ("latitude", "lat", "location_lat"),
    ("longitude", "lon", "long", "location_long"),
)


def read_sites(sites: Sites) -> dict[str, tuple[float, float]]:
    """Return the latitude and longitude of each site of a table, cube or mapping.

    Raises
    ------
    ConfigError
        If there are no columns of sites, latitude and longitude, or no site.
    SourceError
        If the table cannot be read.
    """
    if isinstance(sites, xr.Dataset):
        if not {"site", "latitude", "longitude"} <= {*sites.coords, *sites.data_vars}:
            raise ConfigError("sites: expected a Dataset with site, latitude and longitude; pass a cube or a table.")
        sites = pd.DataFrame({name: sites[name].values for name in ("site", "latitude", "longitude")})
    if isinstance(sites, (str, os.PathLike)):
        sites = read_frame(Path(sites))
    if isinstance(sites, pd.DataFrame):
        found = {str(n): (float(a), float(b)) for n, a, b in zip(*_columns(sites), strict=True)}
    else:
        found = {str(name): (float(place[0]), float(place[1])) for name, place in sites.items()}
    if not found:
        raise ConfigError("sites: expected at least one site, found none; leave the option out to read all sites.")
    return found


def _columns(frame: pd.DataFrame) -> list[pd.Series]:
    """Return the columns of names, latitudes and longitudes of a table."""
    lower = {str(name).strip().lower(): name for name in frame.columns}
    names = [next((lower[name] for name in choices if name in lower), None) for choices in _COLUMNS]
    if None in names:
        raise ConfigError(
            f"sites: expected columns site, latitude and longitude, found {', '.join(map(str, frame.columns[:20]))}."
        )
    return [frame[name] for name in names]


def only_known_sites(
    part: Observations, places: Mapping[str, tuple[float, float]], max_distance_km: float
) -> Observations:
    """Return the entries of known sites; where no name is known, series are named after the site at their place.

    Parameters
    ----------
    part : Observations
        Of one file.
    places : mapping of str to (latitude, longitude)
        The known sites, degrees.
    max_distance_km : float
        Maximum distance of a series from its site, km.

    Raises
    ------
    SourceError
        If the file has none of the sites.
    """
    if not set(part.sites) & set(places):
        part = replace(part, sites=tuple(_name_at(part, i, places, max_distance_km) for i in range(len(part.sites))))
    left_out = [name for name in part.sites if name not in places]
    if len(left_out) == len(part.sites):
        raise SourceError(
            f"{part.source}: none of its {len(part.sites)} sites ({', '.join(part.sites[:10])}) is one of the "
            f"{len(places)} of sites=: rename them, or pass site= with the column of their names."
        )
    if left_out:
        log.info("%s: %d sites that are not in sites= are not read", part.source, len(left_out))
    return select_sites(part, [name for name in part.sites if name in places]) if left_out else part


def _name_at(part: Observations, index: int, places: Mapping[str, tuple[float, float]], max_distance_km: float) -> str:
    """Return the name of the nearest site within `max_distance_km` of a series, else its own name."""
    names, known = list(places), np.array(list(places.values()), np.float64)
    km = distance_km(part.latitude[index], part.longitude[index], known[:, 0], known[:, 1])
    if not (np.nan_to_num(km, nan=np.inf) <= max_distance_km).any():
        return part.sites[index]
    nearest = names[int(np.nanargmin(km))]
    log.info("%s: %s is named %s, whose place it has", part.source, part.sites[index], nearest)
    return nearest
