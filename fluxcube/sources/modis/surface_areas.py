"""Read areas as AppEEARS extracts them, NetCDF or one GeoTIFF for each layer and day, and average their pixels.

An area is a site, named by its number (``aid0001``), or by the option `site` if there is one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube.errors import SourceError, missing_package
from fluxcube.sources.modis.grid import SPHERE
from fluxcube.sources.modis.names import FileName, parse_name
from fluxcube.sources.modis.surface_columns import FLAGS, agreed, column_meaning, find_columns, product_in
from fluxcube.sources.modis.surface_merge import FAMILY
from fluxcube.sources.modis.surface_netcdf import days_in, declared
from fluxcube.sources.modis.surface_observations import Observations
from fluxcube.sources.modis.surface_tables import ReadOptions, with_angles
from fluxcube.sources.netcdf import open_netcdf
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


@dataclass(frozen=True, kw_only=True)
class _Area:
    """The layers of an area, by band of `SURFACE_BANDS` or flag."""

    name: str
    source: str
    product: str
    collection: str
    layers: Mapping[str, _Layer]

    @property
    def kind(self) -> tuple[str, str]:
        """Product and collection; bands 11 and 12 are from MODOCGA, and belong to MOD09GA."""
        return FAMILY.get(self.product, self.product), self.collection


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
        areas: list[_Area] = []
        for path in sorted(paths):
            if path.suffix.lower() not in (".tif", ".tiff"):
                _join(areas, _netcdf_area(path, stack.enter_context(open_netcdf(path, decode_cf=False)), options))
        for area in _tiff_areas([path for path in paths if path.suffix.lower() in (".tif", ".tiff")]):
            _join(areas, area)
        names = sorted({area.name for area in areas})
        if options.site and len(names) > 1:
            raise SourceError(
                f"site={options.site!r} names one site, found {len(names)} areas: {', '.join(names)}; read each alone."
            )
        for area in areas:
            yield from _observations(options.site or area.name, area, options)


def _join(areas: list[_Area], new: _Area) -> None:
    """Add the layers of a file to an area that lacks them, such as the flags of 1 km; else as another area."""
    for i, area in enumerate(areas):
        if area.name == new.name and not set(area.layers) & set(new.layers) and area.kind == new.kind:
            areas[i] = replace(area, layers={**area.layers, **new.layers})
            return
    areas.append(new)


def _netcdf_area(path: Path, ds: xr.Dataset, options: ReadOptions) -> _Area:
    """Return the area in a NetCDF file."""
    x, y = (next(str(d) for d in ds.dims if str(d).lower() in names) for names in (_X, _Y))
    found, product, collection = find_columns([str(n) for n in ds.data_vars], options.columns, str(path))
    used = {k: v for k, v in found.items() if k in SURFACE_BANDS or k.split(":")[0] in FLAGS or k in options.flags}
    used |= {name: name for name in options.flags if name in ds}
    title = str(ds.attrs.get("title", ""))
    match = _AID.search(path.name) or _AID.search(title)
    named = product_in(path.name)
    area = _Area(
        name=match[0].lower() if match else path.stem,
        source=str(path),
        product=product or named[0] or product_in(title)[0],
        collection=collection or named[1],
        layers={},
    )
    scales, offsets, fills = (declared(ds, used, name) for name in ("scale_factor", "add_offset", "_FillValue"))
    time = next((str(d) for d in ds.dims if str(d).lower() in ("time", "day", "date")), None)
    if time is None:
        raise SourceError(f"{path}: expected a dimension time, found {', '.join(map(str, ds.dims))}.")
    days = days_in(ds, time, str(path))
    layers = {}
    for key, name in used.items():
        layers[key] = _Layer(
            source=str(path),
            x=ds[x].values.astype(np.float64),
            y=ds[y].values.astype(np.float64),
            days=days,
            read=partial(_read_variable, ds[name].transpose(time, y, x)),
            degrees=y.lower() in ("lat", "latitude"),
            scale=scales.get(key),
            offset=offsets.get(key, 0.0),
            fill=fills.get(key),
        )
    return replace(area, layers=layers)


def _read_variable(array: xr.DataArray, days: slice) -> np.ndarray:
    """Return the stored numbers (day, row, column) of some days."""
    return array[days].values


def _tiff_areas(paths: Sequence[Path]) -> list[_Area]:
    """Return the areas in GeoTIFFs, each of one layer and day; those in one folder belong together."""
    files: dict[tuple[Path, str, str, str], dict[str, dict[np.datetime64, Path]]] = defaultdict(dict)
    for path in paths:
        name = parse_name(path)
        meaning = column_meaning(name.layer) if name is not None else None
        if name is None or meaning is None or meaning.key.split(":")[0] not in (*SURFACE_BANDS, *FLAGS):
            continue
        by_layer = files[path.parent, _area_of(name), name.product, name.collection]
        by_layer.setdefault(meaning.key, {})[name.day] = path
    return [
        _Area(
            name=area,
            source=str(folder),
            product=product,
            collection=collection,
            layers={k: _tiff_layer(v, 1e-4 if k in SURFACE_BANDS else 1.0) for k, v in by_layer.items()},
        )
        for (folder, area, product, collection), by_layer in files.items()
    ]


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
    except (rasterio.errors.RasterioError, UnicodeDecodeError) as problem:
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
    except (rasterio.errors.RasterioError, UnicodeDecodeError) as problem:
        raise SourceError(f"{path}: cannot be read as a GeoTIFF ({problem}): download it again.") from problem


def _observations(site: str, area: _Area, options: ReadOptions) -> Iterator[Observations]:
    """Yield the pixels of an area in blocks of days."""
    layers = area.layers
    bands = [layers[key] for key in layers if key in SURFACE_BANDS[:-1]]
    if not bands:
        raise SourceError(
            f"{area.source}: expected layers of reflectance of the area {area.name}, such as sur_refl_b01_1 or "
            f"Nadir_Reflectance_Band1; found {', '.join(layers) or 'none'}."
        )
    base = max(bands, key=lambda layer: len(layer.y) * len(layer.x))
    inside = _inside(base)
    rows, cols = np.nonzero(inside)
    index = {key: _positions(layer, base, rows, cols) for key, layer in layers.items()}
    days = np.unique(np.concatenate([band.days for band in bands]))
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
            product=agreed("product", options.product, area.product, base.source),
            collection=agreed("collection", options.collection, area.collection, base.source),
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
