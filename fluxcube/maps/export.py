"""Export maps to files for other programs: NetCDF with X-BASE's conventions, and cloud-optimised GeoTIFF."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError, StoreError, overwrite_option, unknown
from fluxcube.exports.netcdf import write_netcdf
from fluxcube.geometry import cell_area, cell_bounds, west_to_east
from fluxcube.maps.geotiff import write_geotiff
from fluxcube.maps.means import refuse_standard_deviation
from fluxcube.maps.periods import steps_of
from fluxcube.maps.store import Maps, as_maps
from fluxcube.stores.files import replacing
from fluxcube.units import convert
from fluxcube.variables import targets

logger = logging.getLogger(__name__)

_CELLS = ("latitude", "longitude")
_SUFFIXES = {".nc": "netcdf", ".tif": "geotiff", ".tiff": "geotiff"}
#: First parts of the names of fluxes, which need units to be converted; other layers keep theirs.
_FLUXES = ("NEE", "GPP", "RECO", "FCH4", "LE", "H")
_STEPS = {3600: "hourly", 86400: "daily"}


def export_maps(
    maps: Maps,
    path: str | os.PathLike,
    *,
    format: str | None = None,
    variables: str | Sequence[str] | None = None,
    units: str | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Path]:
    """Write maps, or means of maps, as NetCDF (the default) or GeoTIFF; lazy maps are computed block by block.

    Parameters
    ----------
    maps : xr.Dataset, path or URL
        Result of `fluxcube.open_maps`, `fluxcube.mean_maps` or `fluxcube.mean_cycle`.
    path : path
        A file (``.nc``; ``.tif`` for one variable), or a folder, which is made: one file for each variable and year,
        named as X-BASE's are, e.g. ``NEE_2018_025_monthly.nc``.
    format : {"netcdf", "geotiff"}, optional
        Format of files in a folder, by default netcdf; the ending of a file determines its format.
    variables : str or sequence of str, optional
        Arrays to write; "all" for all that have latitude and longitude. By default the fluxes, without their
        uncertainty, the dissimilarity and the area of applicability; what is left out is logged.
    units : str, optional
        Convert fluxes into these units where possible, e.g. ``gC m-2 d-1``, X-BASE's of daily and monthly NEE and GPP.
    overwrite : bool
        Replace existing files; each stays until the new one is complete.
    progress : callable, optional
        ``progress(done, total, text)``: hundredths of a NetCDF file while it is written, or files of a folder.

    Returns
    -------
    list of Path
        The files. `fluxcube.open_maps` opens NetCDF files again.

    Raises
    ------
    ConfigError
        If an ending or format is unknown, a GeoTIFF would have several variables or more than 1024 bands, or no
        variable can be converted into `units`, or a flux has no attribute units; if NAME_std is requested of means.
    SchemaError
        If a grid is not evenly spaced (GeoTIFF), or there is nothing to write.
    StoreError
        If a file exists and `overwrite` is not set, its folder does not exist, or the disk is full.
    UnknownNameError
        If the maps do not contain one of `variables`.

    Notes
    -----
    Both formats: float32, fill value -9999, north up, longitudes from -180 (a region across the antimeridian keeps
    rising, to above 180). NetCDF-4: CF-1.11, dimensions time, [hour,] lat and lon with bounds, land_fraction, cell_area
    (m2) and igbp (MCD12Q1 numbers) as further variables, deflated chunks of at most 4 MB; units of UDUNITS, such as
    ``g m-2 d-1`` with the substance in the attribute mass_of; institution as in ``maps.attrs["institution"]``. GeoTIFF:
    EPSG:4326, cloud-optimised (tiles of 128 to 512, overviews by average, deflate), a band for each time (and hour),
    with its description and units.

    References
    ----------
    CF-1.11, https://cfconventions.org; Nelson and Walther et al. 2024 (X-BASE), doi:10.5194/bg-21-5079-2024; OGC
    21-026, Cloud Optimized GeoTIFF.

    Examples
    --------
    >>> import tempfile
    >>> from fluxcube.maps.means import mean_maps
    >>> from fluxcube.simulation.example import example_maps
    >>> days = mean_maps(example_maps(days=3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in export_maps(days, folder, variables="NEE")]
    ['NEE_2018_025_daily.nc']
    """
    maps = as_maps(maps)
    path = Path(path)
    format = _format(path, format)
    if variables is None:
        variables, left_out = default_variables(maps)
        if left_out:
            logger.warning('not exported: %s; pass variables="all", or names, to write them', ", ".join(left_out))
    ds = _with_units(_normal(_chosen(maps, variables)), units)
    if not path.suffix:
        path.mkdir(exist_ok=True)
    files = dict(_files(ds, path, format))
    for file in files:
        if file.exists() and not overwrite:
            raise StoreError(f"{file} exists: pass {overwrite_option()} to replace it, or choose another path.")
    for done, (file, part) in enumerate(files.items(), 1):
        with replacing(file) as temporary:
            if format == "geotiff":
                write_geotiff(part, temporary)
            else:
                write_netcdf(part, temporary, progress=progress if len(files) == 1 else None)
        if progress is not None:
            progress(done, len(files), file.name)
    return list(files)


def default_variables(maps: xr.Dataset) -> tuple[list[str], list[str]]:
    """Return the arrays that are exported by default, the fluxes, and those that are left out.

    Maps without a flux, such as those of a wetland fraction, are exported as a whole.

    Examples
    --------
    >>> layers = {name: (("latitude", "longitude"), np.ones((2, 2))) for name in ("NEE", "NEE_std", "applicable")}
    >>> default_variables(xr.Dataset(layers))
    (['NEE'], ['NEE_std', 'applicable'])
    """
    present = _present(maps)
    fluxes = [name for name in present if name in targets() or name in ("RECO", "ET")]
    return (fluxes, [name for name in present if name not in fluxes]) if fluxes else (present, [])


def _format(path: Path, format: str | None) -> str:
    if format not in (None, "netcdf", "geotiff"):
        raise ConfigError(f"format: expected netcdf or geotiff, found {format!r}.")
    if path.is_dir() or (not path.suffix and path.absolute().parent.is_dir() and not path.exists()):
        return format or "netcdf"
    by_ending = _SUFFIXES.get(path.suffix.lower())
    if by_ending is None or format not in (None, by_ending):
        expected = format or "netcdf or geotiff"
        raise ConfigError(
            f"{path} is not a folder, and its ending is not one of {expected}: choose a file ending in "
            f"{', '.join(s for s, f in _SUFFIXES.items() if format in (None, f))}, or a folder."
        )
    if not path.absolute().parent.is_dir():
        raise StoreError(f"cannot write {path}: the folder {path.parent} does not exist; make it first.")
    return by_ending


def _present(maps: xr.Dataset) -> list[str]:
    return [str(n) for n, a in maps.data_vars.items() if set(_CELLS) <= set(a.dims) and a.dtype.kind in "fiub"]


def _chosen(maps: xr.Dataset, variables: str | Sequence[str]) -> xr.Dataset:
    """Return maps with the arrays to write, and with all coordinates."""
    present = _present(maps)
    names = present if variables == "all" else [variables] if isinstance(variables, str) else list(variables)
    for name in names:
        if name not in present and "averaged_over" in maps.attrs:
            refuse_standard_deviation(name)
        if name not in present:
            raise unknown("map", name, present)
    if not present:
        raise SchemaError(f"nothing to write: no array of {', '.join(_CELLS)}; found {list(maps.data_vars)}.")
    return _only(maps, names)


def _only(maps: xr.Dataset, names: Sequence[str]) -> xr.Dataset:
    """Return maps without other arrays, but with all coordinates: `maps[names]` would lose the bounds."""
    return maps.drop_vars([name for name in maps.data_vars if name not in names])


def _normal(maps: xr.Dataset) -> xr.Dataset:
    """Sort rows from north to south and columns from west to east, and add the bounds and areas of cells."""
    order, east = west_to_east(maps.longitude.values)
    added = east - maps.longitude.values[order]
    turned = maps.isel(longitude=order)
    turned = turned.assign_coords(longitude=("longitude", east, maps.longitude.attrs))
    turned = turned.sortby("latitude", ascending=False)
    axes = {dim: turned[dim].values.astype(float) for dim in _CELLS}
    width = next((abs(axis[1] - axis[0]) for axis in axes.values() if len(axis) > 1), 0.25)
    bounds = {}
    for (dim, axis), limits in zip(axes.items(), ((-90, 90), None), strict=True):
        if f"{dim}_bnds" in turned.coords:
            edges = turned[f"{dim}_bnds"].values + (added[:, None] if dim == "longitude" else 0.0)
            rising = dim == "longitude"
            bounds[f"{dim}_bnds"] = ((dim, "bnds"), np.sort(edges, axis=1)[:, :: 1 if rising else -1])
        else:
            bounds[f"{dim}_bnds"] = ((dim, "bnds"), cell_bounds(axis, limits, width=width))
    area = {} if "cell_area" in turned.coords else {"cell_area": (_CELLS, cell_area(*(b for _, b in bounds.values())))}
    return turned.assign_coords(bounds | area)


def _with_units(maps: xr.Dataset, units: str | None) -> xr.Dataset:
    if units is None:
        return maps
    out, converted, kept = maps, 0, []
    for name, array in maps.data_vars.items():
        is_flux = str(name).partition("_")[0] in _FLUXES
        if is_flux and not array.attrs.get("units"):
            raise ConfigError(
                f"{name} has no attribute units, so that it cannot be converted into {units!r}: set it, "
                f'maps["{name}"].attrs["units"] = "...", or choose other variables.'
            )
        try:
            scale, shift = (float(convert(np.asarray(x), array.attrs.get("units", ""), units)) for x in (1.0, 0.0))
        except ConfigError:
            kept += [f"{name} ({array.attrs['units']})"] if is_flux else []
            continue
        converted += 1
        values = (array * np.float32(scale - shift) + np.float32(shift)).astype("float32")
        out = out.assign({name: values.assign_attrs(array.attrs | {"units": units})})
    if not converted:
        present = sorted({str(a.attrs.get("units", "none")) for a in maps.data_vars.values()})
        raise ConfigError(
            f"no variable can be converted into {units!r}: these maps are in {', '.join(present)}; choose other units."
        )
    if kept:
        logger.warning("fluxes in their own units, not in %s: %s", units, ", ".join(kept))
    return out


def _files(ds: xr.Dataset, path: Path, format: str) -> Iterator[tuple[Path, xr.Dataset]]:
    """Yield the files to write, and the maps in each."""
    if not path.is_dir():
        if format == "geotiff" and len(ds.data_vars) > 1:
            raise ConfigError(
                f"a GeoTIFF contains one variable, and these maps have {', '.join(map(str, ds.data_vars))}: choose one "
                "(variables=), or write to a folder."
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
    """Return the word for the steps of maps in file names: hourly, daily, monthly, annual, monthlycycle, mean."""
    over = str(ds.attrs.get("averaged_over", ""))
    if "hour" in ds.dims:
        return {"month": "monthlycycle", "year": "annualcycle"}.get(over, "cycle")
    if over in ("day", "month", "year"):
        return {"day": "daily", "month": "monthly", "year": "annual"}[over]
    if "time" not in ds.dims:
        return "mean"
    return _STEPS.get(int(steps_of(ds, str(next(iter(ds.data_vars)))).seconds[0]), "steps")
