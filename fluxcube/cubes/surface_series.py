"""Series of surface reflectance by place: checked, put together, and matched to towers by name and coordinates."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from fluxcube.cubes.layout import Place
from fluxcube.cubes.surface_layout import SOURCE_ATTRS, in_order
from fluxcube.errors import SourceError, to_type, unknown
from fluxcube.schema import SURFACE_DIMS
from fluxcube.sources.modis.surface_checks import distance_km
from fluxcube.sources.modis.surface_observations import scale_fault
from fluxcube.variables import SURFACE_BANDS

_log = logging.getLogger(__name__)

#: Beginning of the notes on the reflectance of a tower in its document.
SURFACE_NOTE = "surface reflectance: "
#: A series whose place is farther than this from the tower, in km, is that of another place.
MAX_DISTANCE_KM = 2.0
#: Lowest and highest value of reflectance that MODIS products contain.
_LOW, _HIGH = -0.1, 1.6
#: A series whose highest reflectance is below this was scaled twice.
_DARK = 0.01
#: Maximum share of values that are fills; of values that are scaled wrongly, more are impossible.
_FILLS = 0.05
#: Two values of one place, day and band that differ by less than this are the same, rounded.
_SAME = 1e-4
#: Attributes that are kept of a user's array.
_KEPT_ATTRS = ("long_name", "comment", *SOURCE_ATTRS)
#: Number of days after its date whose views a product uses, by product.
_LOOKAHEAD = {"MCD43A4": 8}


@dataclass(frozen=True, kw_only=True)
class Series:
    """Surface reflectance of one place.

    Attributes
    ----------
    name : str
        Name of the place in its file.
    days : (day,) datetime64[D]
        Dates, ascending.
    bands : tuple of str
        Names of the bands, in the order of `fluxcube.variables.SURFACE_BANDS`.
    values : (day, band) float32
        Reflectance; NaN where there is no clear view.
    quality : (day,) float32 or None
        Share of the pixels that are clear and valid.
    latitude, longitude : float or None
        Degrees.
    """

    name: str
    days: np.ndarray
    bands: tuple[str, ...]
    values: np.ndarray
    quality: np.ndarray | None = None
    latitude: float | None = None
    longitude: float | None = None

    def digest(self) -> str:
        """Return a digest of days, bands and values."""
        digest = hashlib.sha256(" ".join(self.bands).encode())
        for array in (self.days.astype(np.int64), self.values, self.quality):
            if array is not None:
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]


def read_series(ds: xr.Dataset, where: str) -> tuple[list[Series], dict[str, object]]:
    """Read the series of a Dataset of surface reflectance.

    Parameters
    ----------
    ds : xr.Dataset
        `surface` (site, day, band), as `fluxcube.read_surface` returns it; optionally `surface_quality` (site, day),
        and `latitude` and `longitude` (site), or lat and lon. The dimensions may have the names that they have in an
        hourly cube, `day` may be called time, and `site` may be a coordinate without a dimension. Lazy arrays are read.
    where : str
        Where it comes from, for messages.

    Returns
    -------
    series : list of Series
        One for each site.
    attrs : dict
        Attributes of the array: its product, collection and look-ahead, where they are known.

    Raises
    ------
    SourceError
        If an array, dimension, date or value is not as expected.
    UnknownNameError
        If a band is none of `fluxcube.variables.SURFACE_BANDS`.
    """
    ds = _in_standard_form(ds, where)
    days, bands = _days(ds, where), [str(band) for band in ds.band.values]
    order, kept = np.argsort(days), [bands.index(band) for band in in_order(bands)]
    values = np.asarray(ds.surface.values, np.float32)[:, order][:, :, kept]
    _check_values(values, [str(site) for site in ds.site.values], days[order], [bands[i] for i in kept], where)
    quality = np.asarray(ds.surface_quality.values, np.float32)[:, order] if "surface_quality" in ds else None
    if quality is not None and (wrong := quality[(quality < 0) | (quality > 1)]).size:
        raise SourceError(
            f"{where}: expected surface_quality as a share of pixels from 0 to 1, found {wrong.size} other values such "
            f"as {wrong[0]:g}: convert percentages, or leave it out."
        )
    series = [
        Series(
            name=str(site),
            days=days[order],
            bands=in_order(bands),
            values=values[i],
            quality=None if quality is None else quality[i],
            latitude=_coordinate(ds, "latitude", i),
            longitude=_coordinate(ds, "longitude", i),
        )
        for i, site in enumerate(ds.site.values)
    ]
    return series, _attrs(ds)


def _in_standard_form(ds: xr.Dataset, where: str) -> xr.Dataset:
    """Return a Dataset whose `surface` has the dimensions (site, day, band)."""
    if "surface" not in ds:
        raise SourceError(
            f"{where}: expected the variable surface (site, day, band), found {sorted(map(str, ds.data_vars))}; read "
            "files with fluxcube.read_surface, or rename the variable."
        )
    hourly, daily = SURFACE_DIMS["hourly"], SURFACE_DIMS["daily"]
    parts = [name for name in ("surface", "surface_quality") if name in ds]
    at = {
        name: ds[other].reset_coords(drop=True)
        for name in ("latitude", "longitude")
        for other in (name[:3], name)
        if other in ds.variables and set(ds[other].dims) <= {"site"}
    }
    names = {old: new for old, new in zip((*hourly, "time"), (*daily, "day"), strict=True) if old in ds.surface.dims}
    ds = ds[parts].rename(names).assign_coords(at)
    if "site" not in ds.dims and "site" in ds.coords:
        ds = ds.expand_dims("site")
    if set(ds.surface.dims) != {"site", "day", "band"}:
        raise SourceError(
            f"{where}: surface must have the dimensions (site, day, band), found {ds.surface.dims}; rename or select "
            "the dimensions."
        )
    for dim in ("site", "day", "band"):
        if dim not in ds.coords:
            raise SourceError(f"{where}: the dimension {dim} of surface has no labels; add the coordinate {dim}.")
    for band in ds.band.values:
        if str(band) not in SURFACE_BANDS:
            raise unknown("band of surface reflectance", str(band), SURFACE_BANDS)
    for dim in ("site", "band"):
        labels = [str(label) for label in ds[dim].values]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise SourceError(f"{where}: {dim} {twice[0]} is there {labels.count(twice[0])} times; keep one of them.")
    return ds.transpose("site", "day", "band", ...)


def _days(ds: xr.Dataset, where: str) -> np.ndarray:
    """Return the dates (day,) datetime64[D] of a Dataset."""
    times = ds.day.values
    if times.dtype.kind != "M":
        raise SourceError(
            f"{where}: day must contain dates (datetime64), found {times.dtype} such as {times[:1].tolist()}; decode "
            "them, for example day of year 185 of 2018 to 2018-07-04."
        )
    if np.isnat(times).any():
        raise SourceError(f"{where}: expected a date for each day, found {int(np.isnat(times).sum())} empty ones.")
    days = times.astype("datetime64[D]")
    unique, count = np.unique(days, return_counts=True)
    if (count > 1).any():
        raise SourceError(
            f"{where}: {int((count > 1).sum())} days are there more than once, the first {unique[count > 1][0]}; keep "
            "one view of each day."
        )
    return days


def _check_values(values: np.ndarray, sites: Sequence[str], days: np.ndarray, bands: Sequence[str], where: str) -> None:
    """Refuse values (site, day, band) that are scaled wrongly, or fills."""
    _check_scales(values, sites, bands, where)
    seen = values[np.isfinite(values)]
    bad = (values < _LOW) | (values > _HIGH)
    if bad.any():
        site, day, band = np.argwhere(bad)[0]
        if len(np.unique(values[bad])) == 1 or bad.sum() <= _FILLS * seen.size:
            what = "it is a fill value, which must be missing (NaN)"
        elif bands[band] == "snow":
            what = "snow is the share of the clear pixels, from 0 to 1"
        else:
            what = "the values are not scaled: multiply them by the scale of the product, such as 0.0001"
        raise SourceError(
            f"{where}: reflectance must be between 0 and 1, found {values[site, day, band]:g} in {bands[band]} of "
            f"{sites[site]} and {int(bad.sum())} values outside {_LOW:g} to {_HIGH:g}; {what}."
        )
    reflectance = values[..., [band != "snow" for band in bands]]
    seen = reflectance[np.isfinite(reflectance)]
    if reflectance.shape[2] > 1 and (black := (reflectance == 0).all(2)).any():
        site, day = np.argwhere(black)[0]
        raise SourceError(
            f"{where}: {int(black.sum())} views have the reflectance 0 in every band, the first of {sites[site]} "
            f"on {days[day]}: 0 is a fill there, which must be missing (NaN)."
        )
    if seen.size and seen.max() < _DARK:
        raise SourceError(
            f"{where}: the highest reflectance is {seen.max():g}, expected values from 0 to 1: they were scaled twice."
        )


def _check_scales(values: np.ndarray, sites: Sequence[str], bands: Sequence[str], where: str) -> None:
    """Refuse values (site, day, band) if those of one band and site are not scaled, or were scaled twice."""
    for band, name in enumerate(bands):
        for site, series in enumerate(values[:, :, band] if name != "snow" else ()):
            fault, median = scale_fault(series)
            if fault:
                raise SourceError(
                    f"{where}: {name} of {sites[site]} has a median of {median:.3g}, expected reflectance from 0 to 1: "
                    f"the values {fault}. Multiply them by the scale of the product, such as 0.0001, once."
                )


def _coordinate(ds: xr.Dataset, name: str, at: int) -> float | None:
    """Return the latitude or longitude of a site, where the Dataset has it."""
    if name not in ds.coords:
        return None
    value = float(np.broadcast_to(np.asarray(ds[name].values, float), (ds.sizes["site"],))[at])
    return value if np.isfinite(value) else None


def _attrs(ds: xr.Dataset) -> dict[str, object]:
    """Return the attributes of the array, as text and numbers."""
    known = {**ds.attrs, **ds.surface.attrs}
    attrs = {key: _plain(known[key]) for key in _KEPT_ATTRS if known.get(key) not in (None, "")}
    if "product" in attrs:
        attrs.setdefault("lookahead_days", _LOOKAHEAD.get(str(attrs["product"]), 0))
    return attrs


def _plain(value: object) -> object:
    """Return a value that JSON can contain."""
    return value.item() if isinstance(value, np.generic) else value if isinstance(value, int | float) else str(value)


def join_series(parts: Sequence[Series], where: str) -> Series:
    """Join series of one place, which may have other days or bands.

    Raises
    ------
    SourceError
        If two of them have different values of a day and band.
    """
    if len(parts) == 1:
        return parts[0]
    days = np.unique(np.concatenate([part.days for part in parts]))
    bands = in_order(band for part in parts for band in part.bands)
    values = np.full((len(days), len(bands)), np.nan, np.float32)
    quality = np.full(len(days), np.nan, np.float32)
    for part in parts:
        mine = np.searchsorted(days, part.days)
        at = mine[:, None], np.array([bands.index(band) for band in part.bands])
        before = values[at]
        other = np.abs(before - part.values) > _SAME
        if other.any():
            day, band = np.argwhere(other)[0]
            raise SourceError(
                f"{where}: {part.name} has two values of {part.bands[band]} on {part.days[day]}, "
                f"{before[day, band]:g} and {part.values[day, band]:g} ({int(other.sum())} such values); pass one file "
                "for each product, place and day."
            )
        values[at] = np.where(np.isnan(before), part.values, before)
        if part.quality is not None:
            quality[mine] = np.fmax(quality[mine], part.quality)
    known = next((part for part in parts if part.latitude is not None), parts[0])
    return Series(
        name=known.name,
        days=days,
        bands=bands,
        values=values,
        quality=quality if any(part.quality is not None for part in parts) else None,
        latitude=known.latitude,
        longitude=known.longitude,
    )


def named_after_towers(
    series: Sequence[Series], towers: Sequence[Place], max_distance_km: float = MAX_DISTANCE_KM
) -> list[Series]:
    """Return the series of a file, named after the towers at their places if none has the name of a tower.

    Parameters
    ----------
    series : sequence of Series
        Of one file.
    towers : sequence of mapping
        Site, latitude and longitude of each tower.
    max_distance_km : float
        Maximum distance of a tower. A series that is not the nearest one of a tower keeps its name.
    """
    known = {letters_of(str(place["site"])) for place in towers}
    if any(letters_of(one.name) in known or letters_of(one.name)[2:] in {name[2:] for name in known} for one in series):
        return list(series)
    names = [one.name for one in series]
    for place in towers:
        km = series_distances(series, place)
        nearest = int(np.argmin(km)) if len(km) else 0
        if len(km) and km[nearest] <= max_distance_km:
            _log.info("the series %s is named %s, %.1f km away", names[nearest], place["site"], km[nearest])
            names[nearest] = str(place["site"])
    return [replace(one, name=name) for one, name in zip(series, names, strict=True)]


def find_series(
    series: Mapping[str, Series], place: Place, max_distance_km: float = MAX_DISTANCE_KM
) -> tuple[Series | None, str]:
    """Return the series of a tower, and a sentence where it has another name, or where there is none.

    A series belongs to a tower of the same name; case and separators do not count (``at_neu`` is AT-Neu). A series of
    another country code (``DK-NuF`` for GL-NuF) belongs to it if its coordinates agree.

    Parameters
    ----------
    series : mapping of str to Series
        By `letters_of` their names.
    place : mapping
        The tower, as `fluxcube.cubes.layout.placed` returns it.
    max_distance_km : float
        Maximum distance of the place of the series from the tower.

    Raises
    ------
    SourceError
        If the place of the series of that name is farther away.
    """
    site = str(place["site"])
    named = series.get(letters_of(site))
    if named is not None:
        km = float(series_distances([named], place)[0])
        if max_distance_km < km < np.inf:
            raise SourceError(
                f"surface reflectance of {site}: its series is of {named.latitude:.4f}, {named.longitude:.4f}, "
                f"{km:.1f} km from the tower at {float(place['latitude']):.4f}, {float(place['longitude']):.4f}; "
                f"expected at most {max_distance_km:g} km: use the series of the tower, or accept it with "
                f"{to_type(python='max_distance_km=', shell='--max-distance-km')}."
            )
        return named, ""
    others = list(series.values())
    distances = series_distances(others, place)
    near = [(others[i], distances[i]) for i in np.argsort(distances) if distances[i] <= max_distance_km]
    for other, km in near:
        if letters_of(other.name)[2:] == letters_of(site)[2:] != "":
            return other, f"{SURFACE_NOTE}the series {other.name}, {km:.1f} km from the tower, is used for {site}"
    hint = [f"; {one.name} is {km:.1f} km away: rename it if it is the same place" for one, km in near][:1]
    return None, f"{SURFACE_NOTE}there is no series of {site}{''.join(hint)}"


def letters_of(name: str) -> str:
    """Return the letters and digits of a name, in upper case: AT-Neu and at_neu are one site.

    Examples
    --------
    >>> letters_of("AT-Neu")
    'ATNEU'
    """
    return "".join(character for character in name.upper() if character.isalnum())


def series_distances(series: Sequence[Series], place: Place) -> np.ndarray:
    """Return the distances (km) of series (series,) from a tower, infinite where one of the two has no coordinates."""
    latitude, longitude = (
        np.array([np.nan if at is None else at for at in column], float)
        for column in ([one.latitude for one in series], [one.longitude for one in series])
    )
    at = [np.nan if place.get(key) is None else float(place[key]) for key in ("latitude", "longitude")]
    km = distance_km(latitude, longitude, np.array(at[0]), np.array(at[1]))
    return np.where(np.isfinite(km), km, np.inf)
