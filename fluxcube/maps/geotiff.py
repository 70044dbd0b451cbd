"""Write maps as cloud-optimised GeoTIFF."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError, missing_package
from fluxcube.exports.names import plain_attrs
from fluxcube.exports.netcdf import FILL

if TYPE_CHECKING:
    import dask.array as da
    from rasterio.io import DatasetWriter

_CELLS = ("latitude", "longitude")
_MAX_BANDS = 1024
#: (maximum number of bands, tile size): GDAL reads a tile of all bands at once, so tiles of many bands are small.
_TILES = ((16, 512), (128, 256), (_MAX_BANDS, 128))


def write_geotiff(ds: xr.Dataset, path: Path) -> None:
    """Write one variable with cell bounds to a GeoTIFF file, one band for each time.

    Raises
    ------
    MissingPackageError
        If rasterio is not installed.
    SchemaError
        If the dimensions are others, or the grid is not evenly spaced.
    ConfigError
        If there would be more than 1024 bands.
    OSError
        If the disk does not accept the file.
    """
    try:
        import rasterio
        import rasterio._err
        import rasterio.errors
        import rasterio.shutil
    except ImportError:
        raise missing_package("rasterio", "grid", "writing GeoTIFF") from None
    ((name, array),) = ds.data_vars.items()
    stack, labels = _bands(array)
    edges = [_even(ds, dim) for dim in _CELLS]
    tile = next(size for bands, size in _TILES if len(labels) <= bands)
    work = path.with_name(f"{path.stem}.work.tif")
    try:
        with rasterio.open(work, "w", **_profile(stack.shape, edges, tile)) as tiff:
            _describe(tiff, str(name), array, ds.attrs, labels)
            _fill(tiff, stack)
        _copy_as_cog(work, path, tile)
        _check_whole(path)
    except (rasterio.errors.RasterioError, rasterio._err.CPLE_BaseError) as error:
        # The error of the operating system is at the end of the chain of causes.
        raise OSError(errno.EIO, str(_first_cause(error)), str(path)) from error
    finally:
        work.unlink(missing_ok=True)


def _profile(shape: tuple[int, ...], edges: Sequence[tuple[float, float]], tile: int) -> dict[str, Any]:
    """Return the options of a GeoTIFF of bands, rows and columns between edges (north, south) and (west, east)."""
    from rasterio.crs import CRS
    from rasterio.transform import from_bounds

    bands, height, width = shape
    (north, south), (west, east) = edges
    return {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": bands,
        "dtype": "float32",
        "nodata": float(FILL),
        "crs": CRS.from_epsg(4326),
        "interleave": "band",
        "tiled": True,
        "blockxsize": tile,
        "blockysize": tile,
        "BIGTIFF": "IF_SAFER",
        "transform": from_bounds(west, south, east, north, width, height),
    }


def _copy_as_cog(work: Path, path: Path, tile: int) -> None:
    """Copy a GeoTIFF as a cloud-optimised one, with overviews."""
    import rasterio
    import rasterio.shutil

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


def _check_whole(path: Path) -> None:
    """Check that no tile ends beyond the end of the file: GDAL does not report a disk that is full when it closes one.

    Raises
    ------
    OSError
        If the file was cut short.
    """
    import rasterio

    size = path.stat().st_size
    with rasterio.open(path, driver="GTiff") as tiff:
        for band in {1, tiff.count}:
            high, wide = tiff.block_shapes[band - 1]
            for row, column in np.ndindex(-(-tiff.height // high), -(-tiff.width // wide)):
                begin, length = (
                    int(tiff.get_tag_item(f"BLOCK_{kind}_{column}_{row}", "TIFF", bidx=band) or 0)
                    for kind in ("OFFSET", "SIZE")
                )
                if begin + length > size:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _bands(array: xr.DataArray) -> tuple[da.Array, list[str]]:
    """Return a lazy array (band, latitude, longitude), and the description of each band."""
    import dask.array as da

    times = [d for d in ("time", "hour") if d in array.dims]
    if set(array.dims) != {*times, *_CELLS}:
        raise SchemaError(
            f"{array.name}: expected the dimensions time, [hour,] latitude and longitude, found {array.dims}."
        )
    array = array.transpose(*times, *_CELLS)
    labels = [_moment(t, array) for t in np.atleast_1d(array.time.values)] if "time" in array.coords else [""]
    if "hour" in times:
        hours = [f"{float(h):02.0f} h" for h in array.hour.values]
        labels = [f"{label} {hour}".strip() for label in (labels if "time" in times else [""]) for hour in hours]
    if len(labels) > _MAX_BANDS:
        raise ConfigError(
            f"{array.name} would have {len(labels)} bands, and the maximum is {_MAX_BANDS}: average it first "
            "(mean_maps), choose a shorter time, or write NetCDF."
        )
    return da.asarray(array.data).reshape(len(labels), *array.shape[-2:]), labels


def _moment(time: np.datetime64, array: xr.DataArray) -> str:
    if not array.time.ndim:
        return ""
    text = str(time.astype("datetime64[m]"))
    return text[:10] if (array.time.values == array.time.values.astype("datetime64[D]")).all() else f"{text}Z"


def _even(ds: xr.Dataset, dim: str) -> tuple[float, float]:
    """Return the first and last edge of an evenly spaced axis; a cell at a pole extends half its height beyond it."""
    centres = ds[dim].values.astype(float)
    if len(centres) == 1:
        first, last = ds[f"{dim}_bnds"].values[0]
        return first, last
    step = (centres[-1] - centres[0]) / (len(centres) - 1)
    off = np.abs(centres - (centres[0] + step * np.arange(len(centres)))).max()
    if off > 0.02 * abs(step):
        raise SchemaError(
            f"a GeoTIFF needs an evenly spaced {dim}; this one deviates by up to {off:g} degrees: write NetCDF."
        )
    return centres[0] - step / 2, centres[-1] + step / 2


def _describe(tiff: DatasetWriter, name: str, array: xr.DataArray, attrs: Mapping, labels: list[str]) -> None:
    tiff.descriptions = [f"{name} {label}".strip() for label in labels]
    tiff.units = [str(array.attrs.get("units", ""))] * len(labels)
    own = {"long_name": array.attrs.get("long_name", name), "cell_methods": array.attrs.get("cell_methods", "")}
    tiff.update_tags(variable=name, **{k: str(v) for k, v in (_tags(attrs) | own).items()})


def _tags(attrs: Mapping) -> dict[str, object]:
    """Return the attributes of maps that a GeoTIFF has as tags: no empty ones, and nothing about the kind of store."""
    left_out = ("kind", "complete", "Conventions")
    return {key: value for key, value in plain_attrs(attrs).items() if key not in left_out and str(value)}


def _fill(tiff: DatasetWriter, stack: da.Array) -> None:
    """Write the Dask chunks one after the other."""
    from rasterio.windows import Window

    edges = [np.concatenate([[0], np.cumsum(sizes)]) for sizes in stack.chunks]
    for block in np.ndindex(*stack.numblocks):
        bands, rows, columns = ((int(e[i]), int(e[i + 1])) for e, i in zip(edges, block, strict=True))
        values = np.asarray(stack.blocks[block].compute(), "float32")
        values = np.where(np.isfinite(values), values, FILL)
        window = Window(columns[0], rows[0], columns[1] - columns[0], rows[1] - rows[0])
        tiff.write(values, indexes=list(range(bands[0] + 1, bands[1] + 1)), window=window)
