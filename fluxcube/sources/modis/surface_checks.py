"""Check series of reflectance: places against those of the sites, years without a clear view, swapped bands."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import xarray as xr

from fluxcube.errors import SourceError
from fluxcube.indices import ndvi

log = logging.getLogger(__name__)

_EARTH_KM = 6371.007181
#: Largest distance between coordinates of one site, km.
SAME_PLACE = 2.0
#: Maximum number of sites that a message lists.
_MAX_NAMES = 10
#: Minimum number of days of a year that a record must span for a year without a clear view to be reported.
_HALF_YEAR = 183
#: Minimum median NDVI of land over clear, snow-free views. The lowest of 157 towers is -0.01; with the bands swapped,
#: 155 of them are below -0.1.
_LOWEST_NDVI = -0.1
#: Minimum median of the band called red for a single site to be reported: water has a negative NDVI too, but is darker.
_BRIGHT = 0.1
#: Minimum number of clear, snow-free views of a site for a median, and share of the sites that is nearly all of them.
_MIN_VIEWS, _NEARLY_ALL = 20, 0.9
#: Minimum number of sites for a share of them to count.
_MIN_SITES = 3


def distance_km(
    latitude: np.ndarray, longitude: np.ndarray, other_latitude: np.ndarray, other_longitude: np.ndarray
) -> np.ndarray:
    """Return the great-circle distance of points (degrees) in km, NaN where a coordinate is.

    Examples
    --------
    >>> distance_km(np.array([0.0]), np.array([179.99]), np.array([0.0]), np.array([-179.99])).round(2)
    array([2.22])
    """
    phi, other = np.radians(latitude), np.radians(other_latitude)
    half = np.sin((phi - other) / 2) ** 2
    half = half + np.cos(phi) * np.cos(other) * np.sin(np.radians(longitude - other_longitude) / 2) ** 2
    return 2 * _EARTH_KM * np.arcsin(np.sqrt(np.minimum(half, 1)))


def check_places(
    ds: xr.Dataset,
    latitude: np.ndarray | xr.DataArray,
    longitude: np.ndarray | xr.DataArray,
    *,
    max_distance_km: float = 2.0,
) -> None:
    """Check that each series of reflectance is of the place of its site.

    Parameters
    ----------
    ds : xr.Dataset
        As `fluxcube.read_surface` returns it. Without coordinates ``latitude`` and ``longitude`` nothing is checked.
    latitude, longitude : (site,) array
        Degrees of the sites in `ds.site`, in that order; NaN where unknown. Those of a `DataArray` with the coordinate
        ``site`` are selected by name.
    max_distance_km : float
        Maximum distance in km.

    Raises
    ------
    SourceError
        If a series is of another place; the message lists the sites and the distances.
    """
    if "latitude" not in ds.coords or "longitude" not in ds.coords:
        source = ds["surface"].attrs.get("source", "the reflectance")
        log.warning("%s: no coordinates, so that the places of its series were not compared with the sites", source)
        return
    known = [_aligned(values, ds) for values in (latitude, longitude)]
    km = distance_km(ds.latitude.values, ds.longitude.values, *known)
    far = np.flatnonzero(km > max_distance_km)
    if far.size:
        listed = ", ".join(f"{ds.site.values[i]} ({km[i]:.1f} km)" for i in far[:_MAX_NAMES])
        listed += ", ..." if far.size > _MAX_NAMES else ""
        source = ds["surface"].attrs.get("source", "the reflectance")
        raise SourceError(
            f"{source}: expected series within {max_distance_km:g} km of their sites, found {far.size} farther away: "
            f"{listed}. They are of another place: correct the coordinates, leave "
            "these sites out, or pass a larger max_distance_km."
        )


def _aligned(values: np.ndarray | xr.DataArray, ds: xr.Dataset) -> np.ndarray:
    if isinstance(values, xr.DataArray) and "site" in values.coords:
        return values.reindex(site=ds.site.values).values.astype(np.float64)
    return np.asarray(values, np.float64)


def warn_cloudy_years(
    sites: tuple[str, ...], site: np.ndarray, day: np.ndarray, clear: np.ndarray, where: str
) -> list[str]:
    """Report years of a site without a clear view, between the first and the last entry of the site.

    Parameters
    ----------
    sites : tuple of str
        Names.
    site, day : (n,) int, (n,) datetime64[D]
        Of each entry.
    clear : (n,) bool
        Whether the entry has a clear reflectance.
    where : str
        The file, for the message.

    Returns
    -------
    list of str
        Such as ``"GH-Ank 2003"``; a year counts if the record of the site spans half of it.
    """
    found = []
    order = np.argsort(site, kind="stable")
    bounds = np.searchsorted(site[order], np.arange(len(sites) + 1))
    for name, start, stop in zip(sites, bounds[:-1], bounds[1:], strict=True):
        mine = order[start:stop]
        if not mine.size:
            continue
        first, last = day[mine].min(), day[mine].max()
        seen = set(np.unique(day[mine[clear[mine]]].astype("datetime64[Y]").astype(int)) + 1970)
        for year in range(int(str(first)[:4]), int(str(last)[:4]) + 1):
            begin = max(first, np.datetime64(f"{year}-01-01", "D"))
            end = min(last, np.datetime64(f"{year}-12-31", "D"))
            if year not in seen and (end - begin).astype(int) + 1 >= _HALF_YEAR:
                found.append(f"{name} {year}")
    if found:
        log.warning(
            "%s: %d years of sites without a clear view: %s%s; reflectance is missing in them",
            where,
            len(found),
            ", ".join(found[:_MAX_NAMES]),
            ", ..." if len(found) > _MAX_NAMES else "",
        )
    return found


def swapped_bands(values: np.ndarray, bands: Sequence[str], *, land: bool = True) -> np.ndarray:
    """Return at which places red and near-infrared reflectance seem to be swapped.

    Vegetation and soil reflect more near-infrared than red light. A place is doubtful if the median of its NDVI is
    below -0.1 and its band red is brighter than water, or if nearly all of at least three places have such an NDVI.

    Parameters
    ----------
    values : (place, day, band) float
        Reflectance, NaN where the sky was not clear.
    bands : sequence of str
        Names of the bands; without red or nir no place is doubtful. Views with snow (band snow) are left out.
    land : bool
        Whether nearly all places are land, as towers are: cells of a grid may be sea.

    Returns
    -------
    (place,) bool
        False for places of fewer than 20 views.
    """
    names = [str(name) for name in bands]
    if not {"red", "nir"} <= set(names):
        return np.zeros(len(values), bool)
    snow = values[..., names.index("snow")] > 0 if "snow" in names else np.zeros(values.shape[:2], bool)
    medians = np.full((len(values), 2), np.nan)
    for i, place in enumerate(values):
        red, nir = (place[~snow[i], names.index(name)] for name in ("red", "nir"))
        seen = np.isfinite(red) & np.isfinite(nir)
        if seen.sum() >= _MIN_VIEWS:
            medians[i] = np.nanmedian(ndvi(red[seen], nir[seen])), np.median(red[seen])
    negative, known = medians[:, 0] < _LOWEST_NDVI, np.isfinite(medians[:, 0])
    if land and known.sum() >= _MIN_SITES and negative.sum() >= _NEARLY_ALL * known.sum():
        return negative
    return negative & (medians[:, 1] > _BRIGHT)


def warn_swapped_bands(
    values: np.ndarray, bands: Sequence[str], places: Sequence[str], where: str, *, land: bool = True
) -> None:
    """Log a warning that names the places at which red and near-infrared seem to be swapped (`swapped_bands`).

    Parameters
    ----------
    values : (place, day, band) float
        Reflectance.
    bands, places : sequence of str
        Names of the bands and of the places.
    where : str
        The file, for the message.
    land : bool
        As `swapped_bands` takes it.
    """
    doubtful = [str(places[i]) for i in np.flatnonzero(swapped_bands(values, bands, land=land)).tolist()]
    if doubtful:
        log.warning(
            "%s: the NDVI of %d of %d places is negative under clear, snow-free skies (%s%s): red and near-infrared "
            "are probably swapped, name them by read_surface(columns={'red': ..., 'nir': ...}); or these places are "
            "water or ice",
            where,
            len(doubtful),
            len(places),
            ", ".join(doubtful[:_MAX_NAMES]),
            ", ..." if len(doubtful) > _MAX_NAMES else "",
        )
