"""Surface reflectance of the cells of a grid from a Dataset on the grid, and long-term statistics of such a record."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import xarray as xr

from fluxcube.cubes.climatology import STATISTICS, surface_climatology, surface_features
from fluxcube.cubes.forcing_blocks import Chunks
from fluxcube.errors import SourceError, unknown
from fluxcube.resolution import HOURLY
from fluxcube.schema import SURFACE_BEFORE, SURFACE_DIMS
from fluxcube.sources.era5.open import contents_of
from fluxcube.sources.era5.series import Files
from fluxcube.sources.modis.surface_checks import warn_swapped_bands
from fluxcube.variables import SURFACE_BANDS

#: Names of the dimensions of `surface` in an hourly forcing, where `day` and `band` are those of the chips.
DAY, BAND = SURFACE_DIMS[HOURLY.name]
#: Number of days of a chunk.
DAYS_PER_CHUNK = 184

logger = logging.getLogger(__name__)

_CELLS = ("latitude", "longitude")
_DAY_NAMES, _BAND_NAMES = (DAY, "day", "time"), (BAND, "band")
#: Valid reflectance of MODIS products, widened; and the 95th percentile below which values were scaled twice.
_VALID, _TOO_DARK = (-0.2, 2.0), 0.003
#: The same of a single band: water is dark in the short-wave infrared, but not as dark as what was scaled twice.
_BAND_TOO_DARK = 1e-4
#: Number of cells along each side, and of days, of the sample that is checked.
_SAMPLE_CELLS, _SAMPLE_DAYS = 4, 64
#: Maximum distance (degrees) of a cell of a Dataset from the same cell of the grid.
_APART = 1e-3
#: Number of cells along each side, and of days, of a chunk in which a Dataset without chunks is read.
_CELLS_READ, _DAYS_READ = 32, 366
#: Attributes of the reflectance of a Dataset, unless it has its own.
_DATASET_ATTRS = {"long_name": "surface reflectance under a clear sky", "units": "1", "lookahead_days": 0}


def period_of_use(grid: Files) -> tuple[np.datetime64, np.datetime64]:
    """Return the first and last day of views that are of use to a grid's hours."""
    begin, end = (grid.time[i].astype("datetime64[D]") for i in (0, -1))
    return begin - SURFACE_BEFORE, end


def from_dataset(ds: xr.Dataset, grid: Files, sizes: Chunks) -> xr.Dataset:
    """Return the reflectance of a Dataset on the cells of a grid, in its chunks.

    Parameters
    ----------
    ds : xr.Dataset
        ``surface (latitude, longitude, day, band)``, optionally surface_quality and surface_climatology.
    grid : Files
        ERA5 files.
    sizes : mapping
        Chunks of latitude and longitude.

    Returns
    -------
    xr.Dataset
        As `fluxcube.cubes.forcing_surface.grid_surface`.

    Raises
    ------
    SourceError
        If dimensions, days, bands, units or sampled values are not those of reflectance on the grid.
    """
    surface = _checked(ds, grid)
    begin, end = period_of_use(grid)
    days = surface[DAY].values.astype("datetime64[D]")
    of_use = (days >= begin) & (days <= end)
    if not of_use.any():
        raise SourceError(
            f"surface: no day of {begin} to {end}, which the grid's hours need; its days are {days[0]} to {days[-1]}: "
            f"pass reflectance from {SURFACE_BEFORE.astype(int)} days before the first hour."
        )
    cells = {dim: sizes[dim] for dim in _CELLS}
    out = xr.Dataset({"surface": surface.isel({DAY: of_use}).astype("float32")})
    if "surface_quality" in ds:
        array = _lazy_array(ds, "surface_quality")
        quality = _with_dates(array.rename({name: DAY for name in _DAY_NAMES[1:] if name in array.dims}))
        quality = _at_cells(quality, grid).transpose(*_CELLS, DAY)
        out["surface_quality"] = quality.sel({DAY: out[DAY].values}).astype("float32")
    out = out.chunk(cells | {DAY: DAYS_PER_CHUNK, BAND: -1})
    if "surface_climatology" in ds:
        dims = (*_CELLS, "statistic", "feature")
        out["surface_climatology"] = (
            _at_cells(_lazy_array(ds, "surface_climatology"), grid).transpose(*dims).chunk(cells)
        )
    else:
        out["surface_climatology"] = record_climatology(surface.chunk(cells))
    return out


def record_climatology(surface: xr.DataArray) -> xr.DataArray:
    """Return the lazy climatology of a record of reflectance, a task for each block of cells.

    Parameters
    ----------
    surface : DataArray (latitude, longitude, [block,] day, band)
        Of Dask arrays; the last dimensions may have the names of an hourly or a daily forcing.

    Returns
    -------
    DataArray (latitude, longitude, [block,] statistic, feature) float32
    """
    day, band = surface.dims[-2:]
    bands = tuple(map(str, surface[band].values))
    days, features = surface[day].values.astype("datetime64[D]"), surface_features(bands)
    lazy = xr.apply_ufunc(
        _statistics,
        surface.chunk({day: -1, band: -1}),
        input_core_dims=[[day, band]],
        output_core_dims=[["statistic", "feature"]],
        dask="parallelized",
        output_dtypes=[np.float32],
        kwargs={"days": days, "bands": bands},
        dask_gufunc_kwargs={"output_sizes": {"statistic": len(STATISTICS), "feature": len(features)}},
    )
    return lazy.assign_coords(label_coords(features)).assign_attrs(climatology_attrs(days))


def _statistics(values: np.ndarray, days: np.ndarray, bands: tuple[str, ...]) -> np.ndarray:
    flat = surface_climatology(values.reshape(-1, *values.shape[-2:]), days, bands)
    return flat.reshape(*values.shape[:-2], *flat.shape[1:])


def _checked(ds: xr.Dataset, grid: Files) -> xr.DataArray:
    """Return the array `surface` of a Dataset on the cells of the grid, under the names of an hourly forcing.

    Raises
    ------
    SourceError
        If dimensions, days, bands, units or sampled values are not those of reflectance on the grid.
    """
    if "surface" not in ds:
        raise SourceError(
            f"surface: expected a Dataset with the array surface (latitude, longitude, day, band), found "
            f"{', '.join(map(str, ds.data_vars)) or 'no array'}: rename the array of reflectance."
        )
    surface = _lazy_array(ds, "surface")
    names = {old: DAY for old in _DAY_NAMES[1:] if old in surface.dims} | {
        old: BAND for old in _BAND_NAMES[1:] if old in surface.dims
    }
    surface = surface.rename(names)
    if set(surface.dims) != {*_CELLS, DAY, BAND}:
        raise SourceError(
            f"surface: expected dims (latitude, longitude, day, band), found {ds['surface'].dims}"
            + (": that is a table of sites, for the cube of towers" if "site" in surface.dims else "")
            + "; pass reflectance on the cells of the grid."
        )
    if (units := str(surface.attrs.get("units", "1"))) not in ("1", "", "-", "reflectance"):
        raise SourceError(f"surface: expected reflectance from 0 to 1 (units 1), found units {units!r}: scale it.")
    for name in (bands := [str(name) for name in surface[BAND].values]):
        if name not in SURFACE_BANDS:
            raise unknown("band of surface", name, SURFACE_BANDS)
    if len(set(bands)) < len(bands):
        raise SourceError(f"surface: expected each band once, found {', '.join(bands)}; drop repeats.")
    surface = _at_cells(_with_dates(surface), grid).transpose(*_CELLS, DAY, BAND)
    _check_scale(surface)
    coords = {name: surface[name].variable for name in (*_CELLS, DAY, BAND)}
    surface = xr.DataArray(surface.variable, coords=coords, attrs=_DATASET_ATTRS | surface.attrs)
    return surface.assign_coords({BAND: np.array(bands, object)})


def _lazy_array(ds: xr.Dataset, name: str) -> xr.DataArray:
    """Return an array in Dask chunks, whose name is the same in each process, so that a stopped run can be resumed."""
    from dask.base import tokenize

    array = ds[name]
    if array.chunks is not None:
        return array
    sizes = {dim: _CELLS_READ if dim in _CELLS else _DAYS_READ if dim in _DAY_NAMES else -1 for dim in array.dims}
    return array.chunk(sizes, name_prefix=f"{name}-", token=tokenize(name, contents_of(ds, array.variable)))


def _with_dates(surface: xr.DataArray) -> xr.DataArray:
    """Return reflectance in the order of its dates, which must be dates, each once."""
    days = surface[DAY].values
    if not np.issubdtype(days.dtype, np.datetime64):
        raise SourceError(
            f"surface: expected dates (datetime64) on its day axis, found {days.dtype}, such as {days[:1]}: convert "
            "days of the year to dates."
        )
    dates = days.astype("datetime64[D]")
    if len(np.unique(dates)) < len(dates):
        values, counts = np.unique(dates, return_counts=True)
        raise SourceError(f"surface: expected each day once, found {values[counts > 1][0]} twice; drop repeats.")
    order = np.argsort(dates)
    surface = surface if (order == np.arange(len(order))).all() else surface.isel({DAY: order})
    return surface.assign_coords({DAY: dates[order].astype("datetime64[ns]")})


def _at_cells(values: xr.DataArray, grid: Files) -> xr.DataArray:
    """Return the values of a map at the cells of a grid; longitudes may begin at 0 or at -180."""
    positions = {}
    for dim, centres in zip(_CELLS, (grid.latitude, grid.longitude), strict=True):
        there = np.asarray(values[dim].values, float)
        apart = np.abs(there[None] - centres[:, None])
        apart = np.minimum(apart % 360, -apart % 360) if dim == "longitude" else apart
        nearest = apart.argmin(1)
        distance = apart[np.arange(len(centres)), nearest]
        if distance.max() > _APART:
            at = centres[distance.argmax()]
            raise SourceError(
                f"surface: expected a value at every cell of the grid, found none at {dim} {at:g} (the nearest is "
                f"{there[nearest[distance.argmax()]]:g}): bring it to the grid first."
            )
        positions[dim] = slice(nearest[0], nearest[-1] + 1) if (np.diff(nearest) == 1).all() else nearest
    at_grid = values.isel(positions)
    return at_grid.assign_coords(latitude=grid.latitude, longitude=grid.longitude)


def _check_scale(surface: xr.DataArray) -> None:
    """Refuse reflectance that was not scaled, or scaled twice, or contains fill values, from a sample of it."""
    steps = {dim: slice(None, None, max(1, surface.sizes[dim] // _SAMPLE_CELLS)) for dim in _CELLS}
    steps[DAY] = slice(None, None, max(1, surface.sizes[DAY] // _SAMPLE_DAYS))
    part = surface.isel(steps).compute(scheduler="synchronous")
    _warn_swapped(part)
    bands = [name for name in surface[BAND].values if name != "snow"]
    part = part.sel({BAND: bands})
    values = part.values
    known = values[np.isfinite(values)]
    if not known.size:
        logger.warning(
            "surface: none of %d sampled values is clear and valid: check that it has the grid's land", values.size
        )
    wrong = known[(known < _VALID[0]) | (known > _VALID[1])]
    if wrong.size:
        raise SourceError(
            f"surface: expected reflectance from 0 to 1, found {wrong.flat[np.abs(wrong).argmax()]:g} in {wrong.size} "
            f"of {known.size} sampled values: scale it (MODIS products by 0.0001), and set fill values to NaN."
        )
    if known.size and 0 < np.percentile(np.abs(known), 95) < _TOO_DARK:
        raise SourceError(
            f"surface: expected reflectance from 0 to 1, found at most {known.max():g} in {known.size} sampled values: "
            "it was probably scaled twice; multiply it by 10000."
        )
    for name, of_band in zip(bands, np.moveaxis(values, part.get_axis_num(BAND), 0), strict=True):
        seen = np.abs(of_band[np.isfinite(of_band)])
        if seen.size and 0 < np.percentile(seen, 95) < _BAND_TOO_DARK:
            raise SourceError(
                f"surface: expected reflectance from 0 to 1, found at most {seen.max():g} in {seen.size} sampled "
                f"values of {name}, unlike other bands: it was probably scaled twice; multiply it by 10000."
            )


def _warn_swapped(sample: xr.DataArray) -> None:
    """Warn if red and near-infrared seem to be swapped in a sample of cells and days."""
    cells = sample.transpose(*_CELLS, DAY, BAND).stack(cell=_CELLS).transpose("cell", DAY, BAND)
    names = [f"{latitude:g}, {longitude:g}" for latitude, longitude in cells["cell"].values]
    warn_swapped_bands(cells.values, list(map(str, cells[BAND].values)), names, "surface", land=False)


def climatology_attrs(days: np.ndarray) -> dict[str, str]:
    """Return the attributes of the statistics of a record of some days."""
    return {
        "long_name": "statistics of the surface reflectance and of indices under a clear sky",
        "units": "1",
        "comment": f"Of all views from {days[0]} to {days[-1]}: 10th, 50th and 90th percentile, and monthly means.",
    }


def label_coords(features: Sequence[str]) -> dict[str, tuple]:
    """Return the coordinates of the dimensions statistic and feature."""
    return {
        "statistic": ("statistic", np.array(STATISTICS, object)),
        "feature": ("feature", np.array(features, object)),
    }
