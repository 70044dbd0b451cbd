"""Schema of tower cubes, forcing cubes and maps: dimensions, coordinates and validation.

========  =========================================================  ==================================
kind      arrays                                                     coordinates beside the dimensions
========  =========================================================  ==================================
cube      predictors, predictors_qc, predictors_coverage             on site: latitude, longitude,
          (site, time, variable); fluxes, fluxes_qc,                 elevation, igbp, koppen, network,
          fluxes_coverage (site, time, target); where there are      utc_offset, time_start, time_stop
          any: fluxes_randunc, fluxes_jointunc (likewise), modis
          (site, day, band, y, x), surface (site, surface_day,
          surface_band), surface_quality (site, surface_day),
          surface_climatology (site, statistic, feature);
          predictors_NAME (site, time, variable)
daily     the same, but predictors_quality and fluxes_quality        the same
cube      instead of _qc and _coverage; no modis; and surface
          (site, day, band), surface_quality (site, day)
forcing   predictors (latitude, longitude, time, variable); modis    on (latitude, longitude):
          (latitude, longitude, day, band, y, x) and surface, its    elevation, igbp, land_fraction;
          quality and climatology likewise                           koppen where there is one
maps      one array per flux (time, latitude, longitude)             land_fraction
========  =========================================================  ==================================

`surface` is the reflectance of a point or an area under a clear sky. In hourly data its days and bands have dimensions
of their own, because `day` and `band` are those of the chips (`SURFACE_DIMS`).

`predictors_NAME` are drivers from another source than the tower, such as `predictors_era5` (`fluxcube.add_drivers`).

A cube or forcing to which `fluxcube.add_images` added images of a kind has them as ``images_NAME``, with the dimensions
of its places and NAME_day, NAME_band, NAME_y, NAME_x (`image_dims`).

A forcing with several chips a cell has ``modis (latitude, longitude, block, day, band, y, x)``, and on (latitude,
longitude, block) block_weight, the share of the cell's land that a block stands for, and block_igbp.

Times are UTC at the start of the hour, one step per hour, without gaps. A daily cube, whose attributes contain
``resolution: daily``, has local dates instead, one step per day. Cubes that fluxcube built also have,
on site, citation, doi and licence: one a publication, in the order of network; see ``ds.fluxcube.citations()``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError
from fluxcube.resolution import Resolution, resolution_of
from fluxcube.units import same_unit
from fluxcube.variables import DECLARED, declare_again, table

#: Attribute of lazy maps, never of a store: the largest number of bytes that computing one of their chunks takes.
REGION_BYTES = "region_bytes"
#: Attribute of maps with the device that computes them, as the user named it.
DEVICE = "device"

#: Pixel centres of a chip: metres north (y, from north to south) and east (x) of its centre.
CHIP_Y = np.arange(1750.0, -2000.0, -500.0)
CHIP_X = -CHIP_Y


#: Dimensions of the days and of the bands of `surface`, by resolution.
SURFACE_DIMS: Mapping[str, tuple[str, str]] = {
    "hourly": ("surface_day", "surface_band"),
    "daily": ("day", "band"),
}
#: Surface reflectance is kept from this many days before the first time step: means look back, at most as far.
SURFACE_BEFORE = np.timedelta64(96, "D")
#: Beginning of the names of arrays of other images than chips, which `fluxcube.add_images` adds.
IMAGES = "images_"
#: Beginning of the names of arrays of drivers from other sources than the tower, which `fluxcube.add_drivers` adds.
DRIVERS = "predictors_"
#: Source of the drivers that a tower measured itself.
TOWER = "tower"
#: Attributes of a cube: which drivers its predictors are (only where they are not the tower's own), what these were
#: read from, and the sites that have any.
USED_DRIVERS, DRIVERS_SOURCE, DRIVERS_SITES = "drivers", "drivers_source", "drivers_sites"
#: Attribute of such a cube: predictors that these drivers lack.
DRIVERS_MISSING = "drivers_missing"
#: Arrays of surface reflectance, in their standard order.
SURFACE_ARRAYS = ("surface", "surface_quality", "surface_climatology")


def image_dims(name: str) -> tuple[str, str, str, str]:
    """Return the dimensions of images of a kind, after those of places: days, bands, y and x.

    Examples
    --------
    >>> image_dims("sentinel2")[:2]
    ('sentinel2_day', 'sentinel2_band')
    """
    return f"{name}_day", f"{name}_band", f"{name}_y", f"{name}_x"


@dataclass(frozen=True)
class Part:
    """Description of one kind of array of a stack.

    Attributes
    ----------
    dtype : str
        Data type of the stored values.
    fill : float
        Value that marks missing data.
    resolution : {"hourly", "daily", "both"}
        Resolution of the cubes that have the array.
    stacks : tuple of str
        Stacks that have the array.
    required : bool
        False if a cube has the array only when at least one site has data for it.
    attrs : mapping
        CF attributes; ``long_name`` goes before the stack's name.
    """

    dtype: str
    fill: float
    resolution: str = "both"
    stacks: tuple[str, ...] = ("predictors", "fluxes")
    required: bool = True
    attrs: Mapping[str, object] = field(default_factory=dict)


#: CF attributes of hourly quality flags.
QC_ATTRS = {
    "flag_values": [-1, 0, 1, 2, 3],
    "flag_meanings": "no_value measured good_fill medium_fill_or_era poor_fill",
}

#: The stacks of a tower cube, and the dimension of each one's labels.
STACKS = {"predictors": "variable", "fluxes": "target"}

#: The arrays of a stack, by the ending of their names.
PARTS: Mapping[str, Part] = {
    "": Part("float32", np.nan),
    "_qc": Part("int8", -1, "hourly", attrs={"long_name": "quality flags of", **QC_ATTRS}),
    "_coverage": Part(
        "uint8",
        0,
        "hourly",
        attrs={"long_name": "share of the hour that was observed, of", "units": "1", "scale_factor": 0.01},
    ),
    "_quality": Part(
        "float32",
        np.nan,
        "daily",
        attrs={"long_name": "share of the day that is measured or good fill (1 is best), of", "units": "1"},
    ),
    "_randunc": Part(
        "float32",
        np.nan,
        "both",
        ("fluxes",),
        False,
        {"long_name": "random uncertainty (one standard deviation) of"},
    ),
    "_jointunc": Part(
        "float32",
        np.nan,
        "both",
        ("fluxes",),
        False,
        {"long_name": "random and USTAR-filtering uncertainty (one standard deviation) of"},
    ),
}


def stack_parts(stack: str, resolution: str = "hourly", *, required: bool = False) -> tuple[str, ...]:
    """Return the endings of a stack's arrays in cubes of a resolution; only those of required arrays if `required`.

    Examples
    --------
    >>> stack_parts("predictors"), stack_parts("fluxes", "daily", required=True)
    (('', '_qc', '_coverage'), ('', '_quality'))
    """
    return tuple(
        ending
        for ending, part in PARTS.items()
        if stack in part.stacks and part.resolution in ("both", resolution) and (part.required or not required)
    )


def driver_sources(ds: xr.Dataset) -> tuple[str, ...]:
    """Return the names of the other sources of drivers of a cube, such as "era5"."""
    parts = {f"predictors{ending}" for ending in PARTS}
    names = (str(name) for name in ds.data_vars)
    return tuple(name.removeprefix(DRIVERS) for name in names if name.startswith(DRIVERS) and name not in parts)


_SITE_COORDS = (
    "latitude",
    "longitude",
    "elevation",
    "igbp",
    "koppen",
    "network",
    "utc_offset",
    "time_start",
    "time_stop",
)
_CELL_COORDS = ("elevation", "igbp", "land_fraction")
_FORCING_DIMS = {"predictors": ("latitude", "longitude", "time", "variable")}
_CHIP_DIMS = ("day", "band", "y", "x")


def variable_coords(names: Iterable[str], dim: str = "variable", resolution: str = "hourly") -> dict[str, tuple]:
    """Return the coordinates of a `variable` or `target` dimension: labels, units, long names, cyclic.

    Names on `target` carry the prefix ``target_``, since a Dataset has one ``units`` coordinate.
    """
    names = list(names)
    prefix = "" if dim == "variable" else "target_"
    rows = [table(resolution)[name] for name in names]
    coords = {
        dim: (dim, np.array(names, object)),
        f"{prefix}units": (dim, np.array([row.units for row in rows], object)),
        f"{prefix}long_name": (dim, np.array([row.long_name for row in rows], object)),
    }
    return coords | ({"cyclic": (dim, np.array([row.cyclic for row in rows], bool))} if dim == "variable" else {})


def validate_cube(ds: xr.Dataset) -> xr.Dataset:
    """Return `ds` if it is a valid tower cube, hourly or daily.

    Raises
    ------
    SchemaError
        Naming the first array, dimension or coordinate that is missing or in another order.
    """
    declare_again(ds.attrs.get(DECLARED), "the cube")
    resolution = resolution_of(ds)
    for stack, dim in STACKS.items():
        names = (stack + ending for ending in stack_parts(stack, resolution.name, required=True))
        _check_arrays(ds, dict.fromkeys(names, ("site", "time", dim)), "cube")
    others = (DRIVERS + name for name in driver_sources(ds))
    _check_arrays(ds, dict.fromkeys(others, ("site", "time", "variable")), "cube")
    _check_chips(ds, "site")
    _check_surface(ds, resolution, "site")
    _check_images(ds, "site")
    _check_coords(ds, _SITE_COORDS, ("site",), "cube")
    _check_steps(ds, "cube", resolution)
    return ds


def check_units(ds: xr.Dataset) -> None:
    """Refuse a cube or forcing cube whose variables or targets have other units than the variable table.

    Models are trained in the units of the variable table, and label their estimates with them.

    Raises
    ------
    ConfigError
        If units differ, with the name of the first such variable; or if the cube is normalised.
    """
    if "normalized" in ds.attrs:
        raise ConfigError("the cube is normalised, and features are normalised here: open it with normalized=False.")
    declare_again(ds.attrs.get(DECLARED), "the cube")
    rows = table(resolution_of(ds).name)
    for dim, coord in (("variable", "units"), ("target", "target_units")):
        if coord not in ds.coords or ds[coord].dims != (dim,):
            continue
        for name, found in zip(ds[dim].values, ds[coord].compute(scheduler="synchronous").values, strict=True):
            expected = rows[str(name)].units if str(name) in rows else str(found)
            if str(found) != expected and not same_unit(str(found), expected):
                raise ConfigError(
                    f"{name} must be in {expected}, found {found} (coordinate {coord}): convert the values, and set "
                    f"the coordinate to {expected!r}; or build the data with fluxcube."
                )


def validate_forcing(ds: xr.Dataset) -> xr.Dataset:
    """Return `ds` if it is a valid forcing cube; otherwise raise SchemaError."""
    declare_again(ds.attrs.get(DECLARED), "the forcing")
    _check_arrays(ds, _FORCING_DIMS, "forcing")
    _check_chips(ds, "latitude", "longitude")
    _check_surface(ds, resolution_of(ds), "latitude", "longitude")
    _check_images(ds, "latitude", "longitude")
    _check_coords(ds, _CELL_COORDS, ("latitude", "longitude"), "forcing")
    _check_steps(ds, "forcing", resolution_of(ds))
    return ds


def validate_maps(ds: xr.Dataset) -> xr.Dataset:
    """Return `ds` if it contains valid flux maps; otherwise raise SchemaError."""
    if not ds.data_vars:
        raise SchemaError("maps must contain at least one flux, found no data variable; select the flux variables.")
    for name, array in ds.data_vars.items():
        if array.dims != ("time", "latitude", "longitude"):
            raise SchemaError(f"maps: {name} must have dims (time, latitude, longitude), found {array.dims}.")
    _check_coords(ds, ("land_fraction",), ("latitude", "longitude"), "maps")
    return ds


def _check_arrays(ds: xr.Dataset, arrays: Mapping[str, tuple[str, ...]], kind: str) -> None:
    for name, dims in arrays.items():
        if name not in ds:
            raise SchemaError(f"a {kind} must contain {name} {dims}; found {sorted(map(str, ds.data_vars))}.")
        if ds[name].dims != dims:
            raise SchemaError(f"{kind}: {name} must have dims {dims}, found {ds[name].dims}: transpose it.")


def _check_chips(ds: xr.Dataset, *places: str) -> None:
    if "modis" not in ds:
        return
    expected = (*places, *(("block",) if "block" in ds.modis.dims and len(places) > 1 else ()), *_CHIP_DIMS)
    if ds.modis.dims != expected:
        raise SchemaError(f"modis must have dims {expected}, found {ds.modis.dims}.")
    if "block" in expected and "block_weight" not in ds.coords:
        raise SchemaError("modis has blocks: the coordinate block_weight (latitude, longitude, block) must weigh them.")


def _check_surface(ds: xr.Dataset, resolution: Resolution, *places: str) -> None:
    """Check the dimensions of the arrays of surface reflectance that a cube or forcing has."""
    day, band = SURFACE_DIMS[resolution.name]
    inner = {"surface": (day, band), "surface_quality": (day,), "surface_climatology": ("statistic", "feature")}
    for name, dims in inner.items():
        if name not in ds:
            continue
        block = ("block",) if "block" in ds[name].dims and len(places) > 1 else ()
        expected = (*places, *block, *dims)
        if ds[name].dims != expected:
            raise SchemaError(f"{name} of {resolution} data must have dims {expected}, found {ds[name].dims}.")


def _check_images(ds: xr.Dataset, *places: str) -> None:
    """Check the dimensions of the images that `fluxcube.add_images` added, and that their days ascend."""
    for name in (str(name) for name in ds.data_vars if str(name).startswith(IMAGES)):
        inner = image_dims(name.removeprefix(IMAGES))
        if ds[name].dims != (*places, *inner):
            raise SchemaError(f"{name} must have dims {(*places, *inner)}, found {ds[name].dims}: transpose it.")
        if missing := [dim for dim in inner[:2] if dim not in ds.coords]:
            raise SchemaError(f"{name} must have the coordinate {missing[0]}: add the images with fluxcube.add_images.")
        if not (np.diff(ds[inner[0]].values) > np.timedelta64(0)).all():
            raise SchemaError(f"{name}: the dates on {inner[0]} must ascend: sort them, and leave out duplicates.")


def _check_coords(ds: xr.Dataset, names: tuple[str, ...], dims: tuple[str, ...], kind: str) -> None:
    for name in names:
        if name not in ds.coords:
            raise SchemaError(
                f"a {kind} must have the coordinate {name} on {dims}; found {sorted(map(str, ds.coords))}."
            )
        if ds[name].dims != dims:
            raise SchemaError(f"{kind}: coordinate {name} must be on {dims}, found {ds[name].dims}.")


def _check_steps(ds: xr.Dataset, kind: str, resolution: Resolution) -> None:
    step = resolution.step
    steps = np.diff(ds.time.values)
    if not np.issubdtype(ds.time.dtype, np.datetime64) or not (steps == step).all():
        at = "" if not len(steps) else f"; first other step after {ds.time.values[:-1][steps != step][:1]}"
        raise SchemaError(f"{kind}: time must be {resolution.clock}, without holes{at}.")
