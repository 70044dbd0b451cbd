"""Maps as files that other programs read: NetCDF with X-BASE's conventions, and cloud-optimised GeoTIFF."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube.biomes import IGBP_NUMBERS
from fluxcube.errors import ConfigError, SchemaError, StoreError, missing_package, unknown
from fluxcube.geometry import FLATTENING, SEMI_MAJOR, cell_area, cell_bounds, west_to_east
from fluxcube.maps.periods import steps_of
from fluxcube.units import convert

#: Stands where there is no value, as in tower files.
FILL = np.float32(-9999.0)

_CELLS = ("latitude", "longitude")
_SUFFIXES = {".nc": "netcdf", ".tif": "geotiff", ".tiff": "geotiff"}
_MOST_BANDS = 1024
#: Attributes of a store, and those that are written anew.
_NOT_KEPT = ("kind", "complete", "bounds", "_FillValue", "grid_mapping")
#: Values of a NetCDF chunk, at most: 4 MB.
_CHUNK = 1_000_000
#: GDAL reads a tile of all bands at once: their tiles are small where bands are many.
_TILES = ((16, 512), (128, 256), (_MOST_BANDS, 128))
_STEPS = {3600: "hourly", 86400: "daily"}


def export_maps(
    maps: xr.Dataset,
    path: str | os.PathLike,
    *,
    format: str | None = None,
    variables: Sequence[str] | None = None,
    units: str | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Path]:
    """Write maps, or means of maps, as NetCDF or GeoTIFF; lazy maps are computed block by block.

    Parameters
    ----------
    maps : xr.Dataset
        As `fluxcube.open_maps`, `fluxcube.mean_maps` or `fluxcube.mean_cycle` give them.
    path : path
        A file (``.nc``; ``.tif`` for one variable), or a folder that exists: then one file for each variable and year,
        named as X-BASE's are, e.g. ``NEE_2018_025_monthly.nc``.
    format : {"netcdf", "geotiff"}, optional
        What to write into a folder; files tell it by their ending.
    variables : sequence of str, optional
        By default all that have latitude and longitude.
    units : str, optional
        Turn fluxes into these units where they can be, e.g. ``gC m-2 d-1``, X-BASE's of daily and monthly NEE and GPP.
    overwrite : bool
        Replace files that are there; each stays until its successor is whole.
    progress : callable, optional
        ``progress(done, total, text)`` after each file.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    ConfigError
        If an ending or format is not known, a GeoTIFF would have several variables or more than 1024 bands, or no
        variable has units that can become `units`.
    SchemaError
        If a grid is not evenly spaced (GeoTIFF), or nothing is left to write.
    StoreError
        If a file exists and `overwrite` is not set, or its folder does not exist.
    UnknownNameError
        If the maps do not hold one of `variables`.

    Notes
    -----
    Both: float32, fill value -9999, north up, longitudes from -180 (a region across the antimeridian keeps rising, to
    above 180). NetCDF-4: CF-1.8, dimensions time, [hour,] lat and lon with bounds, land_fraction, cell_area (m2) and
    igbp (MCD12Q1 numbers) beside, deflated chunks of at most 4 MB. GeoTIFF: EPSG:4326, cloud-optimised (tiles of 128 to
    512, overviews by average, deflate), a band for each time (and hour) that is described by it and has the units.

    References
    ----------
    CF-1.8, https://cfconventions.org; Nelson and Walther et al. 2024 (X-BASE), doi:10.5194/bg-21-5079-2024; OGC
    21-026, Cloud Optimized GeoTIFF.

    Examples
    --------
    >>> import tempfile
    >>> from fluxcube.maps.means import mean_maps
    >>> from fluxcube.simulation.example import example_maps
    >>> days = mean_maps(example_maps(days=3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in export_maps(days, folder, format="netcdf", variables=["NEE"])]
    ['NEE_2018_025_daily.nc']
    """
    path = Path(path)
    format = _format(path, format)
    ds = _with_units(_normal(_chosen(maps, variables)), units)
    files = dict(_files(ds, path, format))
    for file in files:
        if file.exists() and not overwrite:
            raise StoreError(f"{file} exists: give overwrite (--overwrite) to replace it, or another path.")
    write = _write_netcdf if format == "netcdf" else _write_geotiff
    for done, (file, part) in enumerate(files.items(), 1):
        with _replacing(file) as making:
            write(part, making)
        if progress is not None:
            progress(done, len(files), file.name)
    return list(files)


def _format(path: Path, format: str | None) -> str:
    if format not in (None, "netcdf", "geotiff"):
        raise ConfigError(f"format must be netcdf or geotiff, found {format!r}.")
    if path.is_dir():
        if format is None:
            raise ConfigError(f"{path} is a folder: say which files to write into it, format='netcdf' or 'geotiff'.")
        return format
    told = _SUFFIXES.get(path.suffix.lower())
    if told is None or format not in (None, told):
        wanted = format or "netcdf or geotiff"
        raise ConfigError(
            f"{path} is no folder, and its ending is not one of {wanted}: give a file ending in "
            f"{', '.join(s for s, f in _SUFFIXES.items() if format in (None, f))}, or a folder that exists."
        )
    if not path.absolute().parent.is_dir():
        raise StoreError(f"cannot write {path}: the folder {path.parent} does not exist; make it first.")
    return told


def _chosen(maps: xr.Dataset, variables: Sequence[str] | None) -> xr.Dataset:
    """Maps with the arrays to write, and with areas and bounds."""
    held = [str(n) for n, a in maps.data_vars.items() if set(_CELLS) <= set(a.dims) and a.dtype.kind in "fiub"]
    for name in variables or ():
        if name not in held:
            raise unknown("map", name, held)
    if not held:
        raise SchemaError(f"nothing to write: no array of {', '.join(_CELLS)}; found {list(maps.data_vars)}.")
    return _only(maps, list(variables or held))


def _only(maps: xr.Dataset, names: Sequence[str]) -> xr.Dataset:
    """Maps without other arrays, but with all coordinates: `maps[names]` would lose bounds."""
    return maps.drop_vars([name for name in maps.data_vars if name not in names])


def _normal(maps: xr.Dataset) -> xr.Dataset:
    """Turn rows north up, columns from west to east, and give cells their edges and areas."""
    order, east = west_to_east(maps.longitude.values)
    turns = east - maps.longitude.values[order]
    turned = maps.isel(longitude=order)
    turned = turned.assign_coords(longitude=("longitude", east, maps.longitude.attrs))
    turned = turned.sortby("latitude", ascending=False)
    axes = {dim: turned[dim].values.astype(float) for dim in _CELLS}
    width = next((abs(axis[1] - axis[0]) for axis in axes.values() if len(axis) > 1), 0.25)
    bounds = {}
    for (dim, axis), limits in zip(axes.items(), ((-90, 90), None), strict=True):
        if f"{dim}_bnds" in turned.coords:
            edges = turned[f"{dim}_bnds"].values + (turns[:, None] if dim == "longitude" else 0.0)
            rising = dim == "longitude"
            bounds[f"{dim}_bnds"] = ((dim, "bnds"), np.sort(edges, axis=1)[:, :: 1 if rising else -1])
        else:
            bounds[f"{dim}_bnds"] = ((dim, "bnds"), cell_bounds(axis, limits, width=width))
    area = {} if "cell_area" in turned.coords else {"cell_area": (_CELLS, cell_area(*(b for _, b in bounds.values())))}
    return turned.assign_coords(bounds | area)


def _with_units(maps: xr.Dataset, units: str | None) -> xr.Dataset:
    if units is None:
        return maps
    out, turned = maps, 0
    for name, array in maps.data_vars.items():
        try:
            scale, shift = (float(convert(x, array.attrs.get("units", ""), units)) for x in (1.0, 0.0))
        except ConfigError:
            continue
        turned += 1
        values = (array * np.float32(scale - shift) + np.float32(shift)).astype("float32")
        out = out.assign({name: values.assign_attrs(array.attrs | {"units": units})})
    if not turned:
        found = sorted({str(a.attrs.get("units", "none")) for a in maps.data_vars.values()})
        raise ConfigError(f"nothing can become {units!r}: these maps are in {', '.join(found)}.")
    return out


def _files(ds: xr.Dataset, path: Path, format: str) -> Iterator[tuple[Path, xr.Dataset]]:
    """Files to write and what is in each."""
    if not path.is_dir():
        if format == "geotiff" and len(ds.data_vars) > 1:
            raise ConfigError(
                f"a GeoTIFF holds one variable, and these maps have {', '.join(map(str, ds.data_vars))}: choose one "
                "(variables=), or give a folder."
            )
        yield path, ds
        return
    kind, degrees = _kind(ds), abs(float(np.diff(ds.latitude_bnds.values[len(ds.latitude) // 2])[0]))
    for name in ds.data_vars:
        one = _only(ds, [str(name)])
        years = {"": one}
        if "time" in one.coords:
            time = np.atleast_1d(one.time.values).astype("datetime64[Y]")
            years = {f"_{y}": one.isel(time=time == y) if one.time.ndim else one for y in np.unique(time)}
        for year, part in years.items():
            yield path / f"{name}{year}_{round(degrees * 100):03d}_{kind}.{'nc' if format == 'netcdf' else 'tif'}", part


def _kind(ds: xr.Dataset) -> str:
    """Word for the steps of maps in the names of files: hourly, daily, monthly, annual, monthlycycle, mean."""
    over = str(ds.attrs.get("averaged_over", ""))
    if "hour" in ds.dims:
        return {"month": "monthlycycle", "year": "annualcycle"}.get(over, "cycle")
    if over in ("day", "month", "year"):
        return {"day": "daily", "month": "monthly", "year": "annual"}[over]
    if "time" not in ds.dims:
        return "mean"
    return _STEPS.get(int(steps_of(ds, str(next(iter(ds.data_vars)))).seconds[0]), "steps")


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a place beside `path` to write at; it takes its place when the block ends well."""
    making = path.with_name(f".{path.stem}.making-{os.getpid()}{path.suffix}")
    try:
        yield making
        os.replace(making, path)
    finally:
        making.unlink(missing_ok=True)


def _write_netcdf(ds: xr.Dataset, path: Path) -> None:
    try:
        import netCDF4  # noqa: F401
    except ImportError:
        raise missing_package("netCDF4", "grid", "writing NetCDF") from None
    out = _cf(ds)
    encoding: dict[str, dict[str, object]] = {str(n): _encoding(a) for n, a in out.data_vars.items()}
    encoding |= {str(n): {"_FillValue": None} for n in out.coords}
    if "time" in out.coords:
        told = {"units": "hours since 1970-01-01 00:00:00", "calendar": "standard", "dtype": "int64"}
        encoding["time"] = {**told, "_FillValue": None}
        encoding["time_bnds"] = {**told, "_FillValue": None}
    unlimited = ["time"] if "time" in out.dims else []
    out.to_netcdf(path, engine="netcdf4", format="NETCDF4", encoding=encoding, unlimited_dims=unlimited)


def _cf(ds: xr.Dataset) -> xr.Dataset:
    """Maps as CF-1.8 has them, and with X-BASE's names of dimensions."""
    beside = [n for n in ("land_fraction", "cell_area", "elevation") if n in ds.coords]
    igbp = ds.igbp if "igbp" in ds.coords else None
    bounds = [str(n) for n in ds.coords if str(n).endswith("_bnds")]
    out = ds.drop_vars("igbp") if igbp is not None else ds
    # Bounds are no coordinates in CF: their own coordinate names them.
    out = out.reset_coords([*beside, *bounds]).drop_encoding()
    for name in (*ds.data_vars, *beside):
        kind = "float64" if name == "cell_area" else "float32"
        out[name] = out[name].astype(kind).assign_attrs(_attrs(ds[name].attrs))
    for name in ds.data_vars:
        layers = [n for n in ds.data_vars if str(n).startswith(f"{name}_")] + ["land_fraction"]
        methods = str(ds[name].attrs.get("cell_methods", "time: mean"))
        out[name] = out[name].assign_attrs(
            cell_methods=f"{methods} area: mean where land",
            cell_measures="area: cell_area",
            grid_mapping="crs",
            ancillary_variables=" ".join(str(n) for n in layers if n in out),
        )
    if igbp is not None:
        out["igbp"] = _numbered(igbp)
    out["crs"] = xr.DataArray(np.int32(0), attrs=_CRS)
    for name, told in _COORDINATES.items():
        if name in out:
            out[name] = out[name].assign_attrs(told)
    for name in bounds:
        dim = name.removesuffix("_bnds")
        out[dim] = out[dim].assign_attrs(bounds=_XBASE.get(name, name))
    out = out.rename({old: new for old, new in _XBASE.items() if old in out.variables or old in out.dims})
    out.attrs = _attrs(ds.attrs) | {"Conventions": "CF-1.8"}
    return out


_XBASE = {
    "latitude": "lat",
    "longitude": "lon",
    "latitude_bnds": "lat_bnds",
    "longitude_bnds": "lon_bnds",
    "bnds": "nv",
}
_CRS = {
    "grid_mapping_name": "latitude_longitude",
    "longitude_of_prime_meridian": 0.0,
    "semi_major_axis": SEMI_MAJOR,
    "inverse_flattening": 1 / FLATTENING,
}
_COORDINATES = {
    "latitude": {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north", "axis": "Y"},
    "longitude": {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east", "axis": "X"},
    "land_fraction": {"standard_name": "land_area_fraction", "long_name": "fraction of land in the cell", "units": "1"},
    "cell_area": {"standard_name": "cell_area", "long_name": "area of the cell on the WGS84 ellipsoid", "units": "m2"},
    "elevation": {"standard_name": "surface_altitude", "long_name": "elevation", "units": "m"},
}


def _numbered(igbp: xr.DataArray) -> xr.DataArray:
    numbers = np.vectorize(lambda code: IGBP_NUMBERS.get(str(code), 0), otypes=["uint8"])(igbp.values)
    attrs = {
        "long_name": "IGBP class of the cell (MCD12Q1 numbers)",
        "flag_values": np.arange(0, 18, dtype="uint8"),
        "flag_meanings": " ".join(["unknown", *IGBP_NUMBERS]),
    }
    return xr.DataArray(numbers, dims=igbp.dims, attrs=attrs)


def _attrs(attrs: dict) -> dict[str, object]:
    """Attributes that NetCDF can hold: no empty ones, no truth values, nothing about the store they come from."""
    kept = {}
    for key, value in attrs.items():
        if key not in _NOT_KEPT and value is not None and not (isinstance(value, str) and not value):
            kept[str(key)] = int(value) if isinstance(value, bool | np.bool_) else value
    return kept


def _encoding(array: xr.DataArray) -> dict[str, object]:
    """How an array is stored: deflated, in the chunks of Dask where they are small enough."""
    if array.dtype.kind != "f" or array.name in ("lat_bnds", "lon_bnds", "hour_bnds", "cell_area"):
        return {"_FillValue": None}
    chunks = [max(part) for part in array.chunks] if array.chunks else list(array.shape)
    while chunks and np.prod(chunks) > _CHUNK:
        at = int(np.argmax(chunks))
        chunks[at] = -(-chunks[at] // 2)
    return (
        {
            "dtype": "float32",
            "_FillValue": FILL,
            "zlib": True,
            "complevel": 4,
            "shuffle": True,
            "chunksizes": tuple(chunks),
        }
        if array.ndim
        else {"_FillValue": FILL}
    )


def _write_geotiff(ds: xr.Dataset, path: Path) -> None:
    try:
        import rasterio
        import rasterio.shutil
        from rasterio.crs import CRS
        from rasterio.transform import from_bounds
    except ImportError:
        raise missing_package("rasterio", "grid", "writing GeoTIFF") from None
    ((name, array),) = ds.data_vars.items()
    stack, labels = _bands(array)
    edges = [_even(ds, dim) for dim in _CELLS]
    (north, south), (west, east) = edges
    tile = next(size for most, size in _TILES if len(labels) <= most)
    work = path.with_name(f"{path.stem}.work.tif")
    profile = {
        "driver": "GTiff",
        "height": stack.shape[1],
        "width": stack.shape[2],
        "count": len(labels),
        "dtype": "float32",
        "nodata": float(FILL),
        "crs": CRS.from_epsg(4326),
        "interleave": "band",
        "tiled": True,
        "blockxsize": tile,
        "blockysize": tile,
        "BIGTIFF": "IF_SAFER",
        "transform": from_bounds(west, south, east, north, stack.shape[2], stack.shape[1]),
    }
    try:
        with rasterio.open(work, "w", **profile) as tiff:
            _describe(tiff, str(name), array, ds.attrs, labels)
            _fill(tiff, stack)
        with rasterio.Env(GDAL_CACHEMAX=256):
            rasterio.shutil.copy(
                work,
                path,
                driver="COG",
                COMPRESS="DEFLATE",
                PREDICTOR="YES",
                BLOCKSIZE=tile,
                BIGTIFF="IF_SAFER",
                OVERVIEWS="IGNORE_EXISTING",
                RESAMPLING="AVERAGE",
                NUM_THREADS="1",
            )
    finally:
        work.unlink(missing_ok=True)


def _bands(array: xr.DataArray):
    """Lazy (band, latitude, longitude), and what each band is."""
    import dask.array as da

    times = [d for d in ("time", "hour") if d in array.dims]
    if set(array.dims) != {*times, *_CELLS}:
        raise SchemaError(f"{array.name} must have dims time, [hour,] latitude and longitude; found {array.dims}.")
    array = array.transpose(*times, *_CELLS)
    labels = [_moment(t, array) for t in np.atleast_1d(array.time.values)] if "time" in array.coords else [""]
    if "hour" in times:
        hours = [f"{float(h):02.0f} h" for h in array.hour.values]
        labels = [f"{label} {hour}".strip() for label in (labels if "time" in times else [""]) for hour in hours]
    if len(labels) > _MOST_BANDS:
        raise ConfigError(
            f"{array.name} would have {len(labels)} bands, and a GeoTIFF can have {_MOST_BANDS} here: average it first "
            "(mean_maps), take a shorter time, or write NetCDF."
        )
    return da.asarray(array.data).reshape(len(labels), *array.shape[-2:]), labels


def _moment(time: np.datetime64, array: xr.DataArray) -> str:
    if not array.time.ndim:
        return ""
    text = str(time.astype("datetime64[m]"))
    return text[:10] if (array.time.values == array.time.values.astype("datetime64[D]")).all() else f"{text}Z"


def _even(ds: xr.Dataset, dim: str) -> tuple[float, float]:
    """First and last edge of an evenly spaced axis; a cell at a pole is as high as the others, half of it beyond."""
    centres = ds[dim].values.astype(float)
    if len(centres) == 1:
        return tuple(ds[f"{dim}_bnds"].values[0])
    step = (centres[-1] - centres[0]) / (len(centres) - 1)
    off = np.abs(centres - (centres[0] + step * np.arange(len(centres)))).max()
    if off > 0.02 * abs(step):
        raise SchemaError(
            f"a GeoTIFF needs evenly spaced {dim}s; these are off by up to {off:g} degrees: write NetCDF."
        )
    return centres[0] - step / 2, centres[-1] + step / 2


def _describe(tiff, name: str, array: xr.DataArray, attrs: dict, labels: list[str]) -> None:
    tiff.descriptions = [f"{name} {label}".strip() for label in labels]
    tiff.units = [str(array.attrs.get("units", ""))] * len(labels)
    told = {"long_name": array.attrs.get("long_name", name), "cell_methods": array.attrs.get("cell_methods", "")}
    tiff.update_tags(variable=name, **{k: str(v) for k, v in (_attrs(attrs) | told).items() if k != "Conventions"})


def _fill(tiff, stack) -> None:
    """Write blocks, a row of tiles' worth of Dask chunks at a time."""
    from rasterio.windows import Window

    edges = [np.concatenate([[0], np.cumsum(sizes)]) for sizes in stack.chunks]
    for block in np.ndindex(*stack.numblocks):
        bands, rows, columns = ((int(e[i]), int(e[i + 1])) for e, i in zip(edges, block, strict=True))
        values = np.asarray(stack.blocks[block].compute(), "float32")
        values = np.where(np.isfinite(values), values, FILL)
        window = Window(columns[0], rows[0], columns[1] - columns[0], rows[1] - rows[0])
        tiff.write(values, indexes=list(range(bands[0] + 1, bands[1] + 1)), window=window)
