"""Write maps as NetCDF-4 with the CF conventions and the names of X-BASE."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube.biomes import IGBP_NUMBERS
from fluxcube.errors import missing_package
from fluxcube.geometry import FLATTENING, SEMI_MAJOR
from fluxcube.stores.origin import derived_attrs

#: Value of missing data, as in tower files.
FILL = np.float32(-9999.0)

#: Attributes of a store, and those that are written anew.
_NOT_KEPT = ("kind", "complete", "bounds", "_FillValue", "grid_mapping")
#: Maximum number of values of a NetCDF chunk: 4 MB.
_CHUNK = 1_000_000


def write_netcdf(ds: xr.Dataset, path: Path) -> None:
    """Write maps with cell bounds and areas to a NetCDF file; MissingPackageError if netCDF4 is not installed."""
    try:
        import netCDF4  # noqa: F401
    except ImportError:
        raise missing_package("netCDF4", "grid", "writing NetCDF") from None
    out = _cf(ds)
    encoding: dict[str, dict[str, object]] = {str(n): _encoding(a) for n, a in out.data_vars.items()}
    encoding |= {str(n): {"_FillValue": None} for n in out.coords}
    if "time" in out.coords:
        encoded = {"units": "hours since 1970-01-01 00:00:00", "calendar": "standard", "dtype": "int64"}
        present = [name for name in ("time", "time_bnds") if name in out.variables]
        encoding |= {name: {**encoded, "_FillValue": None} for name in present}
    unlimited = ["time"] if "time" in out.dims else []
    out.to_netcdf(path, engine="netcdf4", format="NETCDF4", encoding=encoding, unlimited_dims=unlimited)


def _cf(ds: xr.Dataset) -> xr.Dataset:
    """Return maps that follow CF-1.11, with the dimension names of X-BASE."""
    beside = [n for n in ("land_fraction", "cell_area", "elevation") if n in ds.coords]
    igbp = ds.igbp if "igbp" in ds.coords else None
    bounds = [str(n) for n in ds.coords if str(n).endswith("_bnds")]
    out = ds.drop_vars("igbp") if igbp is not None else ds
    # In CF bounds are not coordinates: an attribute of their coordinate refers to them.
    out = out.reset_coords([*beside, *bounds]).drop_encoding()
    for name in (*ds.data_vars, *beside):
        kind = "float64" if name == "cell_area" else "float32"
        out[name] = out[name].astype(kind).assign_attrs(file_attrs(ds[name].attrs))
        if "flag_values" in out[name].attrs:  # in the type of the variable
            out[name].attrs["flag_values"] = np.asarray(out[name].attrs["flag_values"], kind)
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
    for name, attrs in _COORDINATES.items():
        if name in out:
            out[name] = out[name].assign_attrs(attrs)
    for name in bounds:
        dim = name.removesuffix("_bnds")
        out[dim] = out[dim].assign_attrs(bounds=_XBASE.get(name, name))
    out = out.rename({old: new for old, new in _XBASE.items() if old in out.variables or old in out.dims})
    out.attrs = file_attrs(ds.attrs) | {"Conventions": "CF-1.11", "history": _history(ds.attrs)}
    return out


def _history(attrs: Mapping) -> str:
    """Return the history of a file: that of the maps, and a line on the export."""
    from fluxcube import __version__

    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    earlier = str(attrs.get("history", ""))
    return f"{earlier}\n{now} fluxcube {__version__}: exported from maps".strip()


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
    numbers = np.vectorize(lambda label: IGBP_NUMBERS.get(str(label), 0), otypes=["uint8"])(igbp.values)
    attrs = {
        "long_name": "IGBP class of the cell (MCD12Q1 numbers)",
        "flag_values": np.arange(0, 18, dtype="uint8"),
        "flag_meanings": " ".join(["unknown", *IGBP_NUMBERS]),
    }
    return xr.DataArray(numbers, dims=igbp.dims, attrs=attrs)


def file_attrs(attrs: Mapping) -> dict[str, object]:
    """Return the attributes that a file can contain: no empty ones, no booleans, nothing about the source store."""
    kept = {}
    for key, value in derived_attrs(attrs).items():
        if key not in _NOT_KEPT and value is not None and not (isinstance(value, str) and not value):
            kept[str(key)] = int(value) if isinstance(value, bool | np.bool_) else value
    return kept


def _encoding(array: xr.DataArray) -> dict[str, object]:
    """Return the encoding of an array: deflated, in the chunks of Dask where they are small enough."""
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
