"""Read surface reflectance of points and areas, from files of archives and tables of any form."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import ConfigError, SourceError
from fluxcube.sources.modis.quality import QualityRules, with_quality
from fluxcube.sources.modis.surface_areas import is_area, is_area_file, read_areas
from fluxcube.sources.modis.surface_checks import Sites, check_places, distance_km, read_sites, warn_cloudy_years
from fluxcube.sources.modis.surface_columns import column_meaning
from fluxcube.sources.modis.surface_long import is_long, is_statistics, is_wide, read_long, read_statistics, read_wide
from fluxcube.sources.modis.surface_netcdf import open_netcdf, read_series
from fluxcube.sources.modis.surface_observations import (
    Observations,
    Summary,
    decode,
    merge,
    one_product,
    select_sites,
    summarise,
)
from fluxcube.sources.modis.surface_tables import ReadOptions, observations_of_frame, read_frame
from fluxcube.sources.modis.surface_tiles import read_tiles
from fluxcube.variables import SURFACE_BANDS

__all__ = ["SurfaceSource", "check_places", "read_surface"]

log = logging.getLogger(__name__)

SurfaceSource: TypeAlias = str | os.PathLike | Sequence[str | os.PathLike] | xr.Dataset | pd.DataFrame

_TABLES, _NETCDF, _RASTERS = (".csv", ".csv.gz", ".txt", ".tsv"), (".nc", ".nc4", ".netcdf"), (".tif", ".tiff", ".hdf")
#: Files beside the results of AppEEARS that contain no reflectance.
_BESIDE = ("-lookup.csv", "-statistics-qa.csv", "granule-list.txt")
#: Days after its date that views of a product are from.
_LOOKAHEAD = {"MCD43A4": 8}
_MOD09 = ("MOD09GA", "MYD09GA")


def read_surface(
    path: SurfaceSource,
    *,
    columns: Mapping[str, str] | None = None,
    scale: float | None = None,
    missing: Sequence[float] = (),
    quality: str | Mapping[str, str | int | Sequence[int]] | None = "default",
    cirrus: int = 0,
    aerosol: int = 3,
    adjacent: bool = False,
    assumed_clear: bool = False,
    max_view_zenith: float | None = None,
    site: str = "",
    sites: Sites | None = None,
    max_km: float = 2.0,
    time_format: str | None = None,
    period: int | None = None,
    product: str = "",
    collection: str = "",
) -> xr.Dataset:
    """Read daily surface reflectance of points or areas from files of any of these forms.

    * AppEEARS: results of points (``…-MOD09GA-061-results.csv``), statistics of areas, NetCDF of areas, and GeoTIFFs
      with one layer a file (``MCD43A4.061_Nadir_Reflectance_Band1_doy2018185_aid0001.tif``), of which the mean of the
      area is taken.
    * Tables of MODISTools and of ORNL's web service, long or with one column for each pixel.
    * Tiles of MCD43A4 or MOD09GA (HDF4, GeoTIFF, also one layer a file as of Planetary Computer and pyModis), cut
      around `sites`: the mean of 4 x 4 pixels.
    * Tables and NetCDF of any form with one column or variable for each band. Columns named as bands
      (``red``, ``b01``, ``sur_refl_b01_1``, ``Nadir_Reflectance_Band1``), flags (``state_1km``) and dates
      are recognised.

    Parameters
    ----------
    path : path, sequence of paths, xarray.Dataset or pandas.DataFrame
        File, folder, or data. Files are joined by site and day; one file for each band is possible.
    columns : mapping of str to str, optional
        Columns (or variables, or bands of a long table) that are not recognised, by key: a band (red, nir, blue, green,
        swir1, swir2, swir3, green531, green551, snow), site, day, year, doy, latitude, longitude, pixel, state_1km,
        QC_500m, view_zenith.
    scale : float, optional
        Factor from stored numbers to reflectance (0 to 1), such as 1e-4; by default the one that the file declares,
        else 1. Numbers that are no reflectances after scaling are refused.
    missing : sequence of float
        Stored numbers that mean missing, besides MODIS's fill values and blanks.
    quality : "default", None or mapping
        By default, views under a clear sky according to MOD09GA's state flags are used
        (`fluxcube.sources.modis.quality.clear_sky`), and values of MCD43A4 with mandatory quality 0 or 1. None uses
        every value. A mapping replaces these rules: from flags (state_1km, QC_500m, mandatory_quality, or a column) to
        ``"clear_sky"``, ``"modland"``, or the accepted values, such as ``{"mandatory_quality": 0}`` or
        ``{"SummaryQA": [0, 1]}``.
    cirrus, aerosol, adjacent, assumed_clear
        Options of the clear-sky rule: maximum class of cirrus and of aerosol (0 to 3), and whether pixels next to a
        cloud, and those without a cloud mask, are used.
    max_view_zenith : float, optional
        Maximum view zenith angle, degrees.
    site : str
        Column of the names of sites, or the name of the only site.
    sites : table, path of a table, cube or mapping, optional
        Names, latitudes and longitudes of the sites: only these are read, and their places are compared with those in
        the file. Series of AppEEARS with other names are named after the site within `max_km`.
    max_km : float
        Maximum distance between a series and its site, km.
    time_format : str, optional
        Format of dates that are not recognised, as for `datetime.strptime`.
    period : int, optional
        Number of days that a date stands for, of which it is the first: values count from the last of them, so that
        they contain no later view. By default 8 or 16 where all dates begin such periods, else 1.
    product, collection : str
        Such as "MOD09GA" and "006"; by default as the file states them.

    Returns
    -------
    xarray.Dataset
        ``surface`` (site, day, band) float32, reflectance 0 to 1 under a clear sky, NaN elsewhere; band ``snow`` is the
        share of the clear pixels that are covered by snow. ``surface_quality`` (site, day) float32: share of the pixels
        that were clear and valid (a point: 1 or 0; NaN without an entry). Days are those on which any site has a value.
        ``latitude`` and ``longitude`` (site) where the file states them. Attributes: product, collection,
        lookahead_days (8 for MCD43A4, whose fit uses later views).

    Raises
    ------
    SourceError
        If a file cannot be read, is not scaled or scaled twice, has different values for one day, is of several
        products or collections, or of another place than the site.
    ConfigError
        If an option is invalid.

    Examples
    --------
    Two ways to pass a table of one's own::

        read_surface("reflectance.csv", columns={"red": "R", "nir": "NIR", "site": "tower", "day": "when"}, scale=1e-4)
        read_surface("site-MOD09GA-061-results.csv", site="DE-Hai", sites="towers/sites.csv")
    """
    rules = with_quality(
        QualityRules(
            cirrus=cirrus,
            aerosol=aerosol,
            adjacent=adjacent,
            assumed_clear=assumed_clear,
            max_view_zenith=max_view_zenith,
        ),
        quality,
    )
    options = ReadOptions(
        columns=dict(columns or {}),
        flags=tuple(name for name in rules.rules if not rules.optional),
        site=site,
        time_format=time_format,
        period=period,
        product=product,
        collection=collection,
    )
    places = {} if sites is None else read_sites(sites)
    batches = []
    for parts in _batches(path, options, places):
        if places:
            parts = [_of_sites(part, places, max_km) for part in parts]
        merged = merge([decode(part, scale=scale, missing=missing) for part in parts])
        _check_screened(merged, rules)
        names = {name: values[:0] for name, values in merged.flags.items()}
        batches.append((replace(merged, bands={}, flags=names), summarise(merged, rules)))
    ds = _dataset(batches, rules)
    if places:
        known = np.array([places.get(str(name), (np.nan, np.nan)) for name in ds.site.values])
        check_places(ds, known[:, 0], known[:, 1], max_km=max_km)
    return ds


def _batches(
    source: SurfaceSource, options: ReadOptions, places: Mapping[str, tuple[float, float]]
) -> Iterator[list[Observations]]:
    """Yield the observations of files that are joined before their quality is decided."""
    if isinstance(source, xr.Dataset):
        yield [read_series(source, str(source.encoding.get("source", "the Dataset")), options)]
        return
    if isinstance(source, pd.DataFrame):
        yield [_of_frame(source.reset_index(drop=True), "the table", options)]
        return
    if isinstance(source, (str, os.PathLike)):
        source = [source]
    if not isinstance(source, Sequence):
        raise ConfigError(f"expected a path, paths, a Dataset or a DataFrame, found {type(source).__name__}.")
    paths = _paths([Path(item) for item in source])
    areas = [path for path in paths if is_area_file(path) or (path.suffix.lower() in _NETCDF and _is_area(path))]
    tiles = [path for path in paths if path not in areas and path.suffix.lower() in _RASTERS]
    others = [path for path in paths if path not in {*areas, *tiles}]
    if areas and (beside := [path for path in others if path.name.lower().endswith("statistics.csv")]):
        log.info("%s and %d more are not used: the pixels are beside them", beside[0].name, len(beside) - 1)
        others = [path for path in others if path not in beside]
    if others:
        yield [_read(path, options) for path in others]
    for part in read_areas(areas, options):
        yield [part]
    for part in read_tiles(tiles, places) if tiles else ():
        yield [part]


def _paths(items: Sequence[Path]) -> list[Path]:
    """Return the files of known formats in folders and lists."""
    paths: list[Path] = []
    suffixes = (*_TABLES, *_NETCDF, *_RASTERS)
    for item in items:
        if item.is_dir():
            inside = [p for p in sorted(item.rglob("*")) if p.name.lower().endswith(suffixes) and p.is_file()]
            inside = [p for p in inside if not p.name.lower().endswith(_BESIDE)]
            used = [p for p in inside if not p.name.lower().endswith(_TABLES) or _has_reflectance(p)]
            if len(used) < len(inside):
                log.info("%s: %d tables without reflectance are not used", item, len(inside) - len(used))
            paths += used
        elif not item.exists():
            raise SourceError(f"{item} does not exist: pass a file or folder of surface reflectance.")
        elif not item.name.lower().endswith(suffixes):
            raise SourceError(f"{item}: expected {', '.join(suffixes)}, found {item.suffix!r}.")
        else:
            paths.append(item)
    if not paths:
        raise SourceError(f"{items[0] if items else 'path'}: no file of reflectance found: {', '.join(suffixes)}.")
    return list(dict.fromkeys(paths))


def _has_reflectance(path: Path) -> bool:
    """Return whether a table in a folder can contain reflectance, by its header."""
    frame = read_frame(path)
    if is_statistics(frame) or is_long(frame) or is_wide(frame):
        return True
    meanings = [column_meaning(str(name)) for name in frame.columns]
    return any(meaning is not None and meaning.key in SURFACE_BANDS[:-1] for meaning in meanings)


def _is_area(path: Path) -> bool:
    with open_netcdf(path) as ds:
        return is_area(ds)


def _read(path: Path, options: ReadOptions) -> Observations:
    """Return the observations of a table or of a NetCDF file of series."""
    if path.suffix.lower() in _NETCDF:
        with open_netcdf(path) as ds:
            return read_series(ds, str(path), options)
    return _of_frame(read_frame(path), str(path), options)


def _of_frame(frame: pd.DataFrame, where: str, options: ReadOptions) -> Observations:
    """Return the observations of a table of any form."""
    if frame.empty:
        raise SourceError(f"{where}: expected entries below the header, found none: download it again.")
    if is_statistics(frame):
        return read_statistics(frame, where, options)
    if is_wide(frame):
        return read_wide(frame, where, options)
    return read_long(frame, where, options) if is_long(frame) else observations_of_frame(frame, where, options)


def _of_sites(part: Observations, places: Mapping[str, tuple[float, float]], max_km: float) -> Observations:
    """Return the entries of known sites; where no name is known, series are named after the site at their place."""
    if not set(part.sites) & set(places):
        part = replace(part, sites=tuple(_name_at(part, i, places, max_km) for i in range(len(part.sites))))
    left_out = [name for name in part.sites if name not in places]
    if len(left_out) == len(part.sites):
        raise SourceError(
            f"{part.source}: none of its {len(part.sites)} sites ({', '.join(part.sites[:10])}) is one of the "
            f"{len(places)} of sites=: rename them, or pass site= with the column of their names."
        )
    if left_out:
        log.info("%s: %d sites that are not in sites= are not read", part.source, len(left_out))
    return select_sites(part, [name for name in part.sites if name in places]) if left_out else part


def _name_at(part: Observations, index: int, places: Mapping[str, tuple[float, float]], max_km: float) -> str:
    """Return the name of the nearest site within `max_km` of a series, else its own name."""
    names, known = list(places), np.array(list(places.values()), np.float64)
    km = distance_km(part.latitude[index], part.longitude[index], known[:, 0], known[:, 1])
    if not (np.nan_to_num(km, nan=np.inf) <= max_km).any():
        return part.sites[index]
    nearest = names[int(np.nanargmin(km))]
    log.info("%s: %s is named %s, whose place it has", part.source, part.sites[index], nearest)
    return nearest


def _check_screened(merged: Observations, rules: QualityRules) -> None:
    """Refuse an extract of all views of MOD09GA without the flags that distinguish clear ones from clouds."""
    if merged.product not in _MOD09 or not rules.optional or not rules.rules or "state_1km" in merged.flags:
        return
    if not merged.screened:
        raise SourceError(
            f"{merged.source}: {merged.product} without state flags contains clouds: add the layer state_1km_1 to the "
            "request, or pass quality=None if clouds were removed from the values."
        )
    if merged.period == 1:
        log.warning("%s: no state flags, so that every value counts as observed under a clear sky", merged.source)


def _dataset(batches: Sequence[tuple[Observations, Summary]], rules: QualityRules) -> xr.Dataset:
    """Return the Dataset of all batches, with the days on which any site has a value."""
    if not batches:
        raise SourceError("no reflectance was read: pass at least one file.")
    about = [part for part, _ in batches]
    product, collection = one_product(about)
    sites = tuple(dict.fromkeys(name for part in about for name in part.sites))
    position = {name: i for i, name in enumerate(sites)}
    index = [np.array([position[n] for n in part.sites], np.intp)[summary.site] for part, summary in batches]
    where, site = about[0].source, np.concatenate(index)
    day = np.concatenate([summary.day for _, summary in batches])
    values = np.concatenate([summary.values for _, summary in batches])
    share = np.concatenate([summary.share for _, summary in batches])
    clear = np.isfinite(values).any(axis=1)
    if not clear.any():
        raise SourceError(
            f"{where}: none of {len(day)} entries is clear and valid: check the flags (quality=None uses all values)."
        )
    warn_cloudy_years(sites, site, day, clear, where)
    if lacking := [name for i, name in enumerate(sites) if not clear[site == i].any()]:
        log.warning("%s: no clear view of %d sites: %s", where, len(lacking), ", ".join(lacking[:10]))
    days = np.unique(day[clear])
    on = np.isin(day, days)
    at = np.searchsorted(days, day[on])
    surface = np.full((len(sites), len(days), len(SURFACE_BANDS)), np.nan, np.float32)
    shares = np.full((len(sites), len(days)), np.nan, np.float32)
    _check_separate(site[on] * len(days) + at, sites, days, where)
    surface[site[on], at] = values[on]
    shares[site[on], at] = share[on]
    bands = [i for i in range(len(SURFACE_BANDS)) if np.isfinite(surface[:, :, i]).any()]
    _report_bands([SURFACE_BANDS[i] for i in bands], where)
    coords: dict[str, object] = {
        "site": ("site", np.array(sites, object)),
        "day": ("day", days.astype("datetime64[ns]")),
        "band": ("band", np.array([SURFACE_BANDS[i] for i in bands], object)),
    }
    ds = xr.Dataset(
        {
            "surface": (("site", "day", "band"), surface[:, :, bands], _attrs(about, product, collection, rules)),
            "surface_quality": (("site", "day"), shares, {"units": "1", "long_name": "share of clear, valid pixels"}),
        },
        coords=coords,
    )
    return ds.assign_coords(_places(about, sites))


def _check_separate(keys: np.ndarray, sites: tuple[str, ...], days: np.ndarray, where: str) -> None:
    """Refuse files of different forms that contain the same site and day."""
    unique, count = np.unique(keys, return_counts=True)
    if (twice := unique[count > 1]).size:
        raise SourceError(
            f"{where}: {sites[int(twice[0] // len(days))]} has reflectance for {days[int(twice[0] % len(days))]} in "
            "files of two forms: pass those of one."
        )


def _report_bands(bands: Sequence[str], where: str) -> None:
    """Report which bands are missing: as a warning where NDVI cannot be computed."""
    lacking = [name for name in SURFACE_BANDS[:7] if name not in bands]
    if lacking:
        level = logging.WARNING if {"red", "nir"} & set(lacking) else logging.INFO
        log.log(level, "%s: no values of the bands %s; indices that need them are missing", where, ", ".join(lacking))


def _attrs(about: Sequence[Observations], product: str, collection: str, rules: QualityRules) -> dict[str, str | int]:
    """Return the attributes of `surface`."""
    flags = {name.split(":")[0] for part in about for name in part.flags}
    screening = ", ".join(f"{name}: {rule}" for name, rule in rules.rules.items() if name in flags) or "none"
    comment = f"Rules of quality: {screening}."
    if "clear_sky" in rules.rules.values() and "state_1km" in flags:
        comment += (
            f" Clear sky: cirrus at most {rules.cirrus}, aerosol at most {rules.aerosol}, next to clouds: "
            f"{rules.adjacent}, cloud state 11: {rules.assumed_clear}."
        )
    if (longest := max(part.period for part in about)) > 1:
        comment += f" Composites of {longest} days, at the last of these."
    if product in _LOOKAHEAD:
        comment += f" The fit of a day uses views up to {_LOOKAHEAD[product]} days after it."
    attrs: dict[str, str | int] = {"long_name": "surface reflectance under a clear sky", "units": "1"}
    attrs |= {"product": product} if product else {}
    attrs |= {"collection": collection} if collection else {}
    return attrs | {
        "lookahead_days": _LOOKAHEAD.get(product, 0),
        "source": Path(about[0].source).name,
        "comment": comment,
    }


def _places(about: Sequence[Observations], sites: Sequence[str]) -> dict[str, tuple[str, np.ndarray]]:
    """Return the coordinates of the sites that the files state; none if they state none."""
    place = {name: (np.nan, np.nan) for name in sites}
    for part in about:
        for i, name in enumerate(part.sites):
            if np.isnan(place[name][0]):
                place[name] = (float(part.latitude[i]), float(part.longitude[i]))
    latitude, longitude = np.array([place[name] for name in sites]).T
    if not np.isfinite(latitude).any():
        return {}
    return {"latitude": ("site", latitude), "longitude": ("site", longitude)}
