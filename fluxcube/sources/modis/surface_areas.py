"""Read areas as AppEEARS extracts them, NetCDF or one GeoTIFF for each layer and day, and average their pixels.

An area is a site, named by its number (``aid0001``), or by the option `site` if there is one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube.errors import SourceError, missing_package
from fluxcube.sources.modis.grid import SPHERE
from fluxcube.sources.modis.names import FileName, parse_name
from fluxcube.sources.modis.surface_columns import FLAGS, column_meaning, find_columns, product_in
from fluxcube.sources.modis.surface_netcdf import days_in, declared, open_netcdf
from fluxcube.sources.modis.surface_observations import Observations
from fluxcube.sources.modis.surface_tables import ReadOptions, with_angles
from fluxcube.variables import SURFACE_BANDS

_AID = re.compile(r"aid\d+", re.IGNORECASE)
_X, _Y = ("lon", "longitude", "x", "xdim"), ("lat", "latitude", "y", "ydim")
#: Maximum number of values in RAM: days are read in blocks.
_VALUES = 2**24
#: Number of days from which the pixels inside the area are found.
_DAYS = 32


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """One layer of an area: its pixels' centres, its days, and a function that reads stored numbers of some days."""

    source: str
    x: np.ndarray  # (column,) degrees east, or m
    y: np.ndarray  # (row,) degrees north, or m
    days: np.ndarray  # (day,) datetime64[D]
    read: Callable[[slice], np.ndarray]  # days -> (day, row, column)
    degrees: bool
    scale: float | None = None
    offset: float = 0.0
    fill: float | None = None


def is_area(ds: xr.Dataset) -> bool:
    """Return whether a Dataset has variables with dimensions of latitude and longitude, or y and x."""
    dims = {str(d).lower() for d in ds.dims}
    return bool(dims & set(_X)) and bool(dims & set(_Y))


def is_area_file(path: Path) -> bool:
    """Return whether a GeoTIFF is a layer of an area by its name, as AppEEARS writes it."""
    name = parse_name(path) if path.suffix.lower() in (".tif", ".tiff") else None
    return name is not None and _AID.search(name.rest) is not None


def read_areas(paths: Sequence[Path], options: ReadOptions) -> Iterator[Observations]:
    """Yield the observations of areas in blocks of days.

    Parameters
    ----------
    paths : sequence of Path
        NetCDF files and GeoTIFFs of one layer, of any number of areas. Layers of 500 m and 1 km of an area, which
        AppEEARS writes to different files, are joined: a pixel has the flags of the coarser one that contains it.
    options : ReadOptions

    Raises
    ------
    SourceError
        If a file cannot be read, or an area has no reflectance.
    """
    with ExitStack() as stack:
        areas: dict[str, dict[str, _Layer]] = defaultdict(dict)
        products: dict[str, tuple[str, str]] = {}
        for path in paths:
            if path.suffix.lower() not in (".tif", ".tiff"):
                _add_netcdf(path, stack.enter_context(open_netcdf(path)), options, areas, products)
        _add_tiffs([path for path in paths if path.suffix.lower() in (".tif", ".tiff")], areas, products)
        if options.site and len(areas) > 1:
            raise SourceError(
                f"site={options.site!r} names one site, found {len(areas)} areas: {', '.join(sorted(areas))}; read "
                "each area alone."
            )
        for area, layers in areas.items():
            yield from _observations(options.site or area, layers, products[area], options)


def _add_netcdf(
    path: Path,
    ds: xr.Dataset,
    options: ReadOptions,
    areas: dict[str, dict[str, _Layer]],
    products: dict[str, tuple[str, str]],
) -> None:
    """Add the layers of a NetCDF file of an area."""
    x, y = (next(str(d) for d in ds.dims if str(d).lower() in names) for names in (_X, _Y))
    found, product, collection = find_columns([str(n) for n in ds.data_vars], options.columns, str(path))
    used = {k: v for k, v in found.items() if k in SURFACE_BANDS or k.split(":")[0] in FLAGS or k in options.flags}
    used |= {name: name for name in options.flags if name in ds}
    match = _AID.search(path.name) or _AID.search(str(ds.attrs.get("title", "")))
    area = match[0].lower() if match else path.stem
    named = product_in(path.name)
    products.setdefault(
        area, (product or named[0] or product_in(str(ds.attrs.get("title", "")))[0], collection or named[1])
    )
    scales, offsets, fills = (declared(ds, used, name) for name in ("scale_factor", "add_offset", "_FillValue"))
    time = next((str(d) for d in ds.dims if str(d).lower() in ("time", "day", "date")), None)
    if time is None:
        raise SourceError(f"{path}: expected a dimension time, found {', '.join(map(str, ds.dims))}.")
    days = days_in(ds, time, str(path))
    areas.setdefault(area, {})
    for key, name in used.items():
        array = ds[name].transpose(time, y, x)
        areas[area][key] = _Layer(
            source=str(path),
            x=ds[x].values.astype(np.float64),
            y=ds[y].values.astype(np.float64),
            days=days,
            read=lambda days, array=array: array[days].values,  # type: ignore[misc]
            degrees=y.lower() in ("lat", "latitude"),
            scale=scales.get(key),
            offset=offsets.get(key, 0.0),
            fill=fills.get(key),
        )


def _add_tiffs(
    paths: Sequence[Path], areas: dict[str, dict[str, _Layer]], products: dict[str, tuple[str, str]]
) -> None:
    """Add the layers of GeoTIFFs, each of one layer and day."""
    files: dict[tuple[str, str], dict[np.datetime64, Path]] = defaultdict(dict)
    for path in paths:
        name = parse_name(path)
        meaning = column_meaning(name.layer) if name is not None else None
        if (
            name is None
            or meaning is None
            or (meaning.key not in SURFACE_BANDS and meaning.key.split(":")[0] not in FLAGS)
        ):
            continue
        area = _area_of(name)
        if products.setdefault(area, (name.product, name.collection)) != (name.product, name.collection):
            raise SourceError(
                f"{path}: expected layers of {' '.join(products[area])} for {area}, found {name.product} "
                f"{name.collection}: keep the files of one product and collection."
            )
        files[area, meaning.key][name.day] = path
    for (area, key), by_day in files.items():
        areas[area][key] = _tiff_layer(by_day, 1e-4 if key in SURFACE_BANDS else 1.0)


def _area_of(name: FileName) -> str:
    match = _AID.search(name.rest)
    return match[0].lower() if match else name.rest


def _tiff_layer(by_day: Mapping[np.datetime64, Path], default_scale: float) -> _Layer:
    """Return the layer of GeoTIFFs by day; AppEEARS does not always declare the scale."""
    try:
        import rasterio
    except ModuleNotFoundError as error:
        raise missing_package("rasterio", "grid", "reading GeoTIFFs") from error
    days = np.array(sorted(by_day), "datetime64[D]")
    first = by_day[days[0]]
    try:
        with rasterio.open(first, driver="GTiff") as file:
            transform, shape, fill, scale = file.transform, file.shape, file.nodata, file.scales[0]
            degrees = bool(file.crs) and file.crs.is_geographic
    except rasterio.errors.RasterioError as problem:
        raise SourceError(f"{first}: cannot be read as a GeoTIFF ({problem}): download it again.") from problem

    def read(chosen: slice) -> np.ndarray:
        return np.stack([_read_tiff(by_day[day], shape) for day in days[chosen]])

    return _Layer(
        source=str(first),
        x=transform.c + transform.a * (np.arange(shape[1]) + 0.5),
        y=transform.f + transform.e * (np.arange(shape[0]) + 0.5),
        days=days,
        read=read,
        degrees=degrees,
        scale=scale if scale != 1 else default_scale,
        fill=fill,
    )


def _read_tiff(path: Path, shape: tuple[int, int]) -> np.ndarray:
    import rasterio

    try:
        with rasterio.open(path, driver="GTiff") as file:
            if file.shape != shape:
                raise SourceError(f"{path}: expected {shape} pixels as on the first day, found {file.shape}.")
            return file.read(1)
    except rasterio.errors.RasterioError as problem:
        raise SourceError(f"{path}: cannot be read as a GeoTIFF ({problem}): download it again.") from problem


def _observations(
    site: str, layers: Mapping[str, _Layer], product: tuple[str, str], options: ReadOptions
) -> Iterator[Observations]:
    """Yield the pixels of an area in blocks of days."""
    bands = [key for key in layers if key in SURFACE_BANDS[:-1]]
    if not bands:
        raise SourceError(
            f"{next(iter(layers.values())).source if layers else site}: expected layers of reflectance of the area "
            f"{site}, such as sur_refl_b01_1 or Nadir_Reflectance_Band1; found {', '.join(layers) or 'none'}."
        )
    base = layers[bands[0]]
    inside = _inside(base)
    rows, cols = np.nonzero(inside)
    index = {key: _positions(layer, base, rows, cols) for key, layer in layers.items()}
    days = base.days
    block = max(_VALUES // max(inside.size * len(layers), 1), 1)
    latitude, longitude = _centre(base, rows, cols)
    for start in range(0, len(days), block):
        chosen = days[start : start + block]
        columns = {key: _pixels(layer, chosen, *index[key]) for key, layer in layers.items()}
        yield Observations(
            source=base.source,
            sites=(site,),
            site=np.zeros(len(chosen) * len(rows), np.intp),
            day=np.repeat(chosen, len(rows)),
            bands={key: values for key, values in columns.items() if key in SURFACE_BANDS},
            flags=_flags({k: v for k, v in columns.items() if k not in SURFACE_BANDS}, layers),
            latitude=np.array([latitude]),
            longitude=np.array([longitude]),
            product=options.product or product[0],
            collection=options.collection or product[1],
            scale={k: v.scale for k, v in layers.items() if v.scale is not None},
            screened=False,
            offset={k: v.offset for k, v in layers.items()},
            fills={k: v.fill for k, v in layers.items() if v.fill is not None},
            pixel=np.tile(np.arange(len(rows)), len(chosen)),
            area=np.array([len(rows)]),
        )


def _flags(columns: dict[str, np.ndarray], layers: Mapping[str, _Layer]) -> dict[str, np.ndarray]:
    """Return flags as stored, and angles in degrees."""
    if "view_zenith" in columns:
        columns["view_zenith"] = columns["view_zenith"] * (layers["view_zenith"].scale or 1.0)
    return with_angles(columns)


def _inside(base: _Layer) -> np.ndarray:
    """Return which pixels (row, column) have a value on some of the days: the others are outside of the polygon."""
    inside = np.zeros((len(base.y), len(base.x)), bool)
    for i in np.unique(np.linspace(0, len(base.days) - 1, min(_DAYS, len(base.days))).astype(int)):
        values = base.read(slice(int(i), int(i) + 1))[0]
        inside |= np.isfinite(values) & (values != base.fill)
    return inside if inside.any() else np.ones_like(inside)


def _positions(layer: _Layer, base: _Layer, rows: np.ndarray, cols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return row and column of a layer's pixels that contain the centres of pixels of the base layer."""
    found = []
    for own, centres in ((layer.y, base.y[rows]), (layer.x, base.x[cols])):
        step = (own[-1] - own[0]) / (len(own) - 1) if len(own) > 1 else 1.0
        at = np.rint((centres - own[0]) / step).astype(np.intp)
        found.append(np.clip(at, 0, len(own) - 1))
    return found[0], found[1]


def _pixels(layer: _Layer, days: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Return stored numbers (day x pixel,) of some days, NaN on days that the layer lacks."""
    at = np.searchsorted(layer.days, days)
    known = (at < len(layer.days)) & (layer.days[np.minimum(at, len(layer.days) - 1)] == days)
    out = np.full((len(days), len(rows)), np.nan, np.float64)
    if known.any():
        first, last = int(at[known][0]), int(at[known][-1])
        values = layer.read(slice(first, last + 1))[at[known] - first]
        out[known] = values[:, rows, cols]
    return out.reshape(-1)


def _centre(base: _Layer, rows: np.ndarray, cols: np.ndarray) -> tuple[float, float]:
    """Return latitude and longitude of the centre of the pixels, from degrees or metres of the sinusoidal grid."""
    y, x = float(base.y[rows].mean()), float(base.x[cols].mean())
    if base.degrees:
        return y, x
    latitude = np.degrees(y / SPHERE)
    return float(latitude), float(np.degrees(x / (SPHERE * np.cos(np.radians(latitude)))))
