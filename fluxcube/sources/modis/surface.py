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
from fluxcube.sources.modis.surface_checks import check_places
from fluxcube.sources.modis.surface_columns import column_meaning
from fluxcube.sources.modis.surface_dataset import as_dataset
from fluxcube.sources.modis.surface_long import is_long, is_statistics, is_wide, read_long, read_statistics, read_wide
from fluxcube.sources.modis.surface_merge import merge
from fluxcube.sources.modis.surface_netcdf import read_series
from fluxcube.sources.modis.surface_observations import Observations, decode
from fluxcube.sources.modis.surface_sites import Sites, only_known_sites, read_sites
from fluxcube.sources.modis.surface_summary import summarise
from fluxcube.sources.modis.surface_tables import ReadOptions, observations_of_frame, read_frame
from fluxcube.sources.modis.surface_tiles import read_tiles
from fluxcube.sources.netcdf import open_netcdf
from fluxcube.stores.files import visible_files
from fluxcube.variables import SURFACE_BANDS

__all__ = ["SurfaceSource", "check_places", "read_surface"]

log = logging.getLogger(__name__)

SurfaceSource: TypeAlias = str | os.PathLike | Sequence[str | os.PathLike] | xr.Dataset | pd.DataFrame

_TABLES, _NETCDF, _RASTERS = (".csv", ".csv.gz", ".txt", ".tsv"), (".nc", ".nc4", ".netcdf"), (".tif", ".tiff", ".hdf")
#: Files beside the results of AppEEARS that contain no reflectance.
_BESIDE = ("-lookup.csv", "-statistics-qa.csv", "granule-list.txt")
#: Products that contain every view, clouds too.
_DAILY = ("MOD09GA", "MYD09GA")
#: Maximum share of the days of a year or longer that can be clear. At 157 towers at most 78 % of the days of any year
#: are; half of the towers have a view, clouds included, on 98 % of the days.
_LARGEST_CLEAR_SHARE, _YEAR = 0.9, 365


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
    max_distance_km: float = 2.0,
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
        QC_500m, view_zenith. If it names a reflectance, only the reflectances that it names are read.
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
        the file. Series of AppEEARS with other names are named after the site within `max_distance_km`.
    max_distance_km : float
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
            parts = [only_known_sites(part, places, max_distance_km) for part in parts]
        merged = merge([decode(part, scale=scale, missing=missing) for part in parts])
        _check_screened(merged, rules)
        names = {name: values[:0] for name, values in merged.flags.items()}
        batches.append((replace(merged, bands={}, flags=names), summarise(merged, rules)))
    ds = as_dataset(batches, rules)
    if places:
        known = np.array([places.get(str(name), (np.nan, np.nan)) for name in ds.site.values])
        check_places(ds, known[:, 0], known[:, 1], max_distance_km=max_distance_km)
    return ds


def _batches(
    source: SurfaceSource, options: ReadOptions, places: Mapping[str, tuple[float, float]]
) -> Iterator[list[Observations]]:
    """Yield the observations of files that are joined before their quality is decided."""
    if isinstance(source, xr.Dataset):
        yield [read_series(source, str(source.encoding.get("source", "the Dataset")), options)]
        return
    if isinstance(source, pd.DataFrame):
        yield [_of_frame(_without_index(source), "the table", options)]
        return
    if isinstance(source, (str, os.PathLike)):
        source = [source]
    if not isinstance(source, Sequence) or not all(isinstance(item, (str, os.PathLike)) for item in source):
        raise ConfigError(f"expected a path, paths, one Dataset or one DataFrame, found {type(source).__name__}.")
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
    for part in read_tiles(tiles, places, options.flags) if tiles else ():
        yield [part]


def _without_index(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose index, where it has a name or contains dates, is a column."""
    if isinstance(frame.index, pd.DatetimeIndex) and frame.index.name is None:
        return frame.rename_axis("date").reset_index()
    return frame.reset_index(drop=all(name is None for name in frame.index.names))


def _paths(items: Sequence[Path]) -> list[Path]:
    """Return the files of known formats in folders and lists."""
    paths: list[Path] = []
    suffixes = (*_TABLES, *_NETCDF, *_RASTERS)
    for item in items:
        if item.is_dir():
            inside = [p for p in visible_files(item) if p.name.lower().endswith(suffixes)]
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
    with open_netcdf(path, decode_cf=False) as ds:
        return is_area(ds)


def _read(path: Path, options: ReadOptions) -> Observations:
    """Return the observations of a table or of a NetCDF file of series."""
    if path.suffix.lower() in _NETCDF:
        with open_netcdf(path, decode_cf=False) as ds:
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


def _check_screened(merged: Observations, rules: QualityRules) -> None:
    """Refuse all views of MOD09GA without the flags that distinguish clear ones from clouds.

    Of other surface reflectance of MOD09 and MYD09, such as composites of 8 days, this is only reported.
    """
    without_rule = not rules.optional or not rules.rules
    if not merged.product.startswith(("MOD09", "MYD09")) or without_rule or "state_1km" in merged.flags:
        return
    if merged.product in _DAILY and (not merged.screened or (merged.period == 1 and _is_full(merged))):
        raise SourceError(
            f"{merged.source}: {merged.product} without state flags contains clouds: add the layer state_1km_1 to the "
            "request, or pass quality=None if clouds were removed from the values."
        )
    if merged.period == 1 or not merged.screened:
        log.warning("%s: no state flags, so that every value counts as observed under a clear sky", merged.source)


def _is_full(merged: Observations) -> bool:
    """Return whether a site has values on more days of a year or longer than can be clear."""
    valid = np.logical_or.reduce([np.isfinite(values) for name, values in merged.bands.items() if name != "snow"])
    days = [np.unique(merged.day[valid & (merged.site == i)]) for i in range(len(merged.sites))]
    spans = [int((one[-1] - one[0]).astype(int)) + 1 if len(one) else 0 for one in days]
    return any(span >= _YEAR and len(one) > _LARGEST_CLEAR_SHARE * span for one, span in zip(days, spans, strict=True))
