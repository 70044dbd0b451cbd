"""The CF form of a Dataset, as a file for other programs contains it, and the way back to the form of fluxcube.

In the CF form

- each variable has its own array, the dimensions of time, latitude and longitude are the last ones, in this order;
- units are those of UDUNITS, flags have the integer type of their variable, bounds belong to their coordinate;
- text labels of a dimension such as ``site`` are an auxiliary coordinate, ``site_name``: coordinates are numbers;
- the grid has the names of X-BASE's files (``lat``, ``lon``, ``nv``), the land, area and class of its cells, and a grid
  mapping.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from fluxcube.biomes import IGBP_NUMBERS
from fluxcube.exports.names import cf_attrs, fluxcube_attrs, plain
from fluxcube.exports.origin import ADDED, global_attrs
from fluxcube.exports.unstack import is_stacked, to_variables
from fluxcube.geometry import FLATTENING, SEMI_MAJOR
from fluxcube.variables import table

_CONVENTIONS = "CF-1.11"
_CELLS = ("latitude", "longitude")
#: Coordinates of cells that are variables of a file.
_BESIDE = ("land_fraction", "cell_area", "elevation")
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
_COORDINATES: Mapping[str, Mapping[str, object]] = {
    "latitude": {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north"},
    "longitude": {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east"},
    "land_fraction": {"standard_name": "land_area_fraction", "long_name": "fraction of land in the cell", "units": "1"},
    "cell_area": {"standard_name": "cell_area", "long_name": "area of the cell on the WGS84 ellipsoid", "units": "m2"},
    "elevation": {"standard_name": "surface_altitude", "long_name": "elevation above sea level", "units": "m"},
    "time": {"standard_name": "time", "units_metadata": "leap_seconds: none"},
    "end": {"units_metadata": "leap_seconds: none"},
    "day": {"long_name": "date of the satellite product"},
}
#: Ending of the coordinate with the text labels of a dimension.
_NAME = "_name"
_LAND = " area: mean where land"
_WHOLE = "the whole period"


def as_cf(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset in its CF form; lazy arrays stay lazy.

    Parameters
    ----------
    ds : xr.Dataset
        A cube, a forcing, maps or means of maps, predictions, totals, scores, or any other labelled Dataset.

    Returns
    -------
    xr.Dataset
        With the attributes that CF-1.11 asks of a file.
    """
    on_grid = set(_CELLS) <= set(ds.dims)
    out = to_variables(ds) if is_stacked(ds) else ds
    out = _with_time(out.drop_encoding())
    out = _without_labels(_bounds(_numbered(out)))
    out = out.assign({name: _of_cells(array) for name, array in out.data_vars.items()}) if on_grid else out
    out = _described(out)
    if on_grid:
        out = _on_grid(out)
    out = _ordered(out)
    out.attrs = global_attrs(ds) | {"Conventions": _CONVENTIONS} | _feature_type(out)
    return out


def from_cf(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset that was opened from a file in CF form, in the form of fluxcube; others stay as they are.

    Cubes and forcings remain one array a variable, as ``ds.fluxcube.to_variables()`` returns them.
    """
    out = ds.drop_vars("crs", errors="ignore")
    if "lat" in out.dims:
        out = out.rename({new: old for old, new in _XBASE.items() if new in out.variables or new in out.dims})
    out = _with_labels(_with_classes(out))
    bounds = [name for name in out.data_vars if str(name).endswith("_bnds")]
    out = out.set_coords([*bounds, *(name for name in _BESIDE if name in out.data_vars)])
    for name in out.variables:
        out[name].attrs = _restored(out[name].attrs)
    out.attrs = {key: plain(value) for key, value in ds.attrs.items() if key not in ADDED}
    if out.attrs.get("averaged_over") == _WHOLE and out.sizes.get("time") == 1:
        out = out.squeeze("time")
    return out


def is_cf(ds: xr.Dataset) -> bool:
    """Return whether a Dataset was opened from a file that fluxcube wrote in CF form."""
    return "fluxcube_version" in ds.attrs and str(ds.attrs.get("Conventions", "")).startswith("CF")


def _with_time(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset whose only time is a dimension, if it has bounds: programs expect bounds of two dimensions."""
    if "time_bnds" not in ds.coords or "time" not in ds.coords or ds["time"].ndim:
        return ds
    arrays = [name for name, array in ds.data_vars.items() if array.ndim]
    wide = ds.assign_coords(time_bnds=ds["time_bnds"].expand_dims("time"), time=ds["time"].expand_dims("time"))
    return wide.assign({name: ds[name].variable.expand_dims("time") for name in arrays})


def _numbered(ds: xr.Dataset) -> xr.Dataset:
    """Return classes and flags as integers of CF: classes of cells as MCD12Q1's numbers, flags as bytes."""
    out = ds
    if "igbp" in ds.coords and set(ds["igbp"].dims) == set(_CELLS):
        numbers = np.vectorize(lambda label: IGBP_NUMBERS.get(str(label), 0), otypes=["int8"])(ds["igbp"].values)
        attrs = {
            "long_name": "IGBP class of the cell (MCD12Q1 numbers)",
            "flag_values": np.arange(len(IGBP_NUMBERS) + 1, dtype="int8"),
            "flag_meanings": " ".join(["unknown", *IGBP_NUMBERS]),
        }
        out = out.drop_vars("igbp").assign(igbp=(ds["igbp"].dims, numbers, attrs))
    flags = {}  # assigned at once: each assignment compares all variables with each other
    for name, array in out.data_vars.items():
        if "flag_values" in array.attrs:
            values = np.asarray(array.attrs["flag_values"], "int8")
            flags[name] = array.copy(data=array.data).assign_attrs(flag_values=values)
            flags[name].encoding = {"dtype": "int8", "_FillValue": np.int8(-127)} if array.dtype.kind == "f" else {}
    return out.assign(flags)


def _bounds(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset whose bounds are variables that their coordinates refer to."""
    names = [str(name) for name in ds.coords if str(name).endswith("_bnds")]
    out = ds.reset_coords([*names, *(name for name in _BESIDE if name in ds.coords and ds[name].ndim == 2)])
    for name in names:
        dim = name.removesuffix("_bnds")
        out[name].attrs = {}
        if dim in out.coords:
            out[dim] = out[dim].assign_attrs(bounds=name)
    for coord in out.coords.values():
        if coord.attrs.get("bounds", coord.name) not in out.variables:
            coord.attrs.pop("bounds", None)
    return out


def _without_labels(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset whose dimensions have numbers, or none, as coordinates: text becomes ``<dim>_name``."""
    for dim in [str(dim) for dim in ds.dims if dim in ds.indexes and ds[dim].dtype.kind in "OUST"]:
        labels = ds[dim].values.astype(object)
        attrs = {"long_name": ds[dim].attrs.get("long_name", dim)}
        attrs |= {"cf_role": "timeseries_id"} if dim == "site" else {}
        ds = ds.drop_vars(dim).assign_coords({f"{dim}{_NAME}": (dim, labels, attrs)})
    return ds


def _with_labels(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset whose dimensions have their text labels again; the reverse of `_without_labels`."""
    for dim in [str(dim) for dim in ds.dims if f"{dim}{_NAME}" in ds.variables and dim not in ds.variables]:
        labels = ds[f"{dim}{_NAME}"]
        attrs = dict(labels.attrs)
        ds = ds.drop_vars(f"{dim}{_NAME}").assign_coords({dim: (dim, labels.values.astype(object), attrs)})
    return ds


def _with_classes(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset whose cells have labels of their class; the reverse of `_numbered`."""
    if "igbp" not in ds.data_vars or "flag_meanings" not in ds["igbp"].attrs:
        return ds
    labels = np.array(["", *IGBP_NUMBERS], object)[np.nan_to_num(ds["igbp"].values).astype(int)]
    attrs = {"long_name": "IGBP class of the cell"}
    return ds.drop_vars("igbp").assign_coords(igbp=(ds["igbp"].dims, labels, attrs))


def _of_cells(array: xr.DataArray) -> xr.DataArray:
    """Return a variable of a grid with what its values stand for: cell methods, area, grid mapping."""
    if not set(_CELLS) <= set(array.dims) or array.name in ("igbp", *_BESIDE):
        return array
    methods = str(array.attrs.get("cell_methods", "time: mean" if "time" in array.dims else ""))
    methods = methods if _LAND in f" {methods}" else f"{methods}{_LAND}".strip()
    return array.assign_attrs(cell_methods=methods, cell_measures="area: cell_area", grid_mapping="crs")


def _described(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset whose variables have attributes of CF, and refer to the variables that describe them."""
    for name in [str(name) for name in ds.variables]:
        variable, encoding = ds[name].variable, ds[name].encoding
        grid = _COORDINATES.get(name, {}) if variable.dtype.kind in "fiuM" else {}
        attrs = cf_attrs(name, variable.attrs) | dict(grid)
        if name in ds.data_vars and not name.endswith("_bnds"):
            attrs |= _ancillary(ds, name) | _methods(name, variable)
        ds[name].attrs = attrs if name.endswith("_bnds") else _with_long_name(name, attrs)
        ds[name].encoding = encoding
    return ds


def _methods(name: str, variable: xr.Variable) -> dict[str, object]:
    """Return how the values of a variable of the table stand for the time steps of towers; none of other variables."""
    if "time" not in variable.dims or "cell_methods" in variable.attrs or name not in (*table(), *table("daily")):
        return {}
    is_amount = str(variable.attrs.get("units")) == "mm"  # of precipitation in the hour; a day has a rate
    return {"cell_methods": f"time: {'sum' if is_amount else 'mean'}"}


def _with_long_name(name: str, attrs: dict[str, object]) -> dict[str, object]:
    known = {"cyclic": "whether values repeat", "block": "number of the part of the cell"}
    return attrs if {"long_name", "standard_name"} & set(attrs) else {"long_name": known.get(name, name), **attrs}


def _ancillary(ds: xr.Dataset, name: str) -> dict[str, object]:
    """Return the attribute that names the quality, uncertainty and land of a variable."""
    dims = {str(other): set(ds.variables[other].dims) for other in ds.data_vars if str(other).startswith(f"{name}_")}
    near = [o for o, its in dims.items() if its and its <= set(ds.variables[name].dims) and not o.endswith("_bnds")]
    land = ["land_fraction"] if "grid_mapping" in ds[name].attrs and "land_fraction" in ds else []
    return {"ancillary_variables": " ".join([*near, *land])} if [*near, *land] else {}


def _on_grid(ds: xr.Dataset) -> xr.Dataset:
    """Return maps or a forcing with the names of X-BASE's files and a grid mapping."""
    if "cell_area" not in ds:
        for array in ds.data_vars.values():
            array.attrs.pop("cell_measures", None)
    for dim, axis in (("latitude", "Y"), ("longitude", "X")):
        ds[dim].attrs["axis"] = axis
    for dim in [str(dim) for dim in ds.coords if "bounds" in ds[dim].attrs]:
        bounds = str(ds[dim].attrs["bounds"])
        ds[dim].attrs["bounds"] = _XBASE.get(bounds, bounds)
    out = ds.rename({old: new for old, new in _XBASE.items() if old in ds.variables or old in ds.dims})
    return out.assign(crs=xr.DataArray(np.int32(0), attrs={"long_name": "WGS84 ellipsoid", **_CRS}))


def _ordered(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset whose arrays have the dimensions of time, latitude and longitude last, in this order."""
    last = ["time", "day", "surface_day", "hour", "lat", "lon"]
    arrays = {}
    for name, array in ds.data_vars.items():
        if str(name).endswith("_bnds"):
            continue
        dims = sorted(array.dims, key=lambda dim: last.index(str(dim)) if dim in last else -1)
        if dims != list(array.dims):
            arrays[name] = array.transpose(*dims)
    return ds.assign(arrays)


def _feature_type(ds: xr.Dataset) -> dict[str, str]:
    """Return the attribute that says that a file contains series of towers."""
    return {"featureType": "timeSeries"} if "site" in ds.dims and "time" in ds.dims else {}


def _restored(attrs: Mapping) -> dict[str, object]:
    """Return the attributes of a variable of a file without those that refer to others, in fluxcube's units."""
    out = fluxcube_attrs(attrs)
    for name in ("grid_mapping", "cell_measures", "ancillary_variables"):
        out.pop(name, None)
    if "cell_methods" in out:
        out["cell_methods"] = str(out["cell_methods"]).removesuffix(_LAND)
    return out
