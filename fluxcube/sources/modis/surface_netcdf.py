"""Read reflectance from NetCDF files: series at sites, one variable for each band or one with a dimension of bands.

Areas with dimensions of latitude and longitude, as AppEEARS writes them, are read by `surface_areas`.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube.errors import SourceError
from fluxcube.sources.modis.surface_columns import FLAGS, agreed, find_columns, product_in
from fluxcube.sources.modis.surface_observations import Observations
from fluxcube.sources.modis.surface_tables import ReadOptions, last_days, with_angles
from fluxcube.variables import SURFACE_BANDS

_TIMES = ("time", "day", "date", "surface_day")
_SITES = ("site", "site_id", "station", "tower", "id")
_UNITS = re.compile(r"(days|hours|minutes|seconds) since (\d{4})-(\d{1,2})-(\d{1,2})")
_SECONDS = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}


def days_in(ds: xr.Dataset, name: str, where: str) -> np.ndarray:
    """Return the dates (n,) datetime64[D] of a coordinate of stored or decoded times.

    The calendar is not used: AppEEARS writes "julian" and means the Gregorian dates that the days count to.
    """
    values = ds[name].values
    if np.issubdtype(values.dtype, np.datetime64):
        return values.astype("datetime64[D]")
    if values.dtype.kind in "OUS":
        try:
            return np.array([str(v)[:10] for v in values], "datetime64[D]")
        except ValueError as problem:
            raise SourceError(f"{where}: {name} contains no dates ({problem}).") from problem
    match = _UNITS.match(str(ds[name].attrs.get("units", "")))
    if match is None:
        raise SourceError(
            f"{where}: expected {name} with units such as 'days since 2000-01-01', found "
            f"{ds[name].attrs.get('units')!r}."
        )
    start = np.datetime64(f"{match[2]}-{int(match[3]):02d}-{int(match[4]):02d}", "s")
    seconds = np.rint(values.astype(np.float64) * _SECONDS[match[1]]).astype(np.int64)
    return (start + seconds).astype("datetime64[D]")


def read_series(ds: xr.Dataset, where: str, options: ReadOptions) -> Observations:
    """Return the observations of a Dataset of series at sites.

    Parameters
    ----------
    ds : xr.Dataset
        With stored numbers, or decoded. Variables of bands and flags have the dimensions (site, time) in any order, or
        time alone; or there is one variable ``surface`` with a dimension ``band``, as `fluxcube.read_surface` returns.
    where : str
        The file, for messages.
    options : ReadOptions

    Raises
    ------
    SourceError
        If there are no bands, dates or sites.
    """
    ds = _with_bands_apart(ds)
    names = [str(name) for name in ds.variables]
    found, product, collection = find_columns(names, options.columns, where)
    variables = {k: v for k, v in found.items() if k in SURFACE_BANDS or k.split(":")[0] in FLAGS}
    variables |= {name: name for name in options.flags if name in ds and name not in variables}
    if not set(variables) & set(SURFACE_BANDS[:-1]):
        raise SourceError(
            f"{where}: expected variables of reflectance, such as sur_refl_b01 or red; found {', '.join(names[:20])}: "
            "name them with columns={'red': ..., 'nir': ...}."
        )
    first = next(name for key, name in variables.items() if key in SURFACE_BANDS[:-1])
    time, rest = _dimensions(ds, first, options.columns.get("day"), where)
    sites = _names(ds, rest, options, where)
    day = days_in(ds, time, where)
    shape = (len(sites), len(day))
    order = [*rest, time]
    values = {key: _flat(ds[name], order, shape, where) for key, name in variables.items()}
    bands = {key: array for key, array in values.items() if key in SURFACE_BANDS}
    site = np.repeat(np.arange(shape[0]), shape[1])
    days, period = last_days(np.tile(day, shape[0]), site, options.period, where)
    named = _product(ds, where)
    return Observations(
        source=where,
        sites=sites,
        site=site,
        day=days,
        bands=bands,
        flags=with_angles({key: _decoded(ds[variables[key]], a) for key, a in values.items() if key not in bands}),
        latitude=_place(ds, found.get("latitude"), shape[0]),
        longitude=_place(ds, found.get("longitude"), shape[0]),
        product=agreed("product", options.product, product, where) or named[0],
        collection=agreed("collection", options.collection, collection, where) or named[1],
        scale=declared(ds, variables, "scale_factor"),
        offset=declared(ds, variables, "add_offset"),
        fills=declared(ds, variables, "_FillValue"),
        period=period,
    )


def _dimensions(ds: xr.Dataset, name: str, time: str | None, where: str) -> tuple[str, list[str]]:
    """Return the dimension of times of a variable, and its other one, if it has one."""
    dims = ds[name].dims
    time = time or next((str(d) for d in dims if str(d).lower() in _TIMES), None)
    rest = [str(d) for d in dims if d != time]
    if time is None or time not in ds or len(rest) > 1:
        raise SourceError(
            f"{where}: expected dimensions site and time, found {', '.join(map(str, dims))}: rename them, or write one "
            "variable for each band."
        )
    return time, rest


def declared(ds: xr.Dataset, variables: dict[str, str], attribute: str) -> dict[str, float]:
    """Return an attribute of each variable that has it, by key."""
    return {k: float(ds[v].attrs[attribute]) for k, v in variables.items() if attribute in ds[v].attrs}


def _with_bands_apart(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset whose variable with a dimension of bands is replaced by one variable for each band."""
    if "surface" not in ds or "band" not in ds["surface"].dims or "band" not in ds.coords | dict(ds.data_vars):
        return ds
    attrs = {
        key: ds["surface"].attrs[key]
        for key in ("scale_factor", "add_offset", "_FillValue")
        if key in ds["surface"].attrs
    }
    bands = {
        str(name): ds["surface"].isel(band=i, drop=True).assign_attrs(attrs) for i, name in enumerate(ds["band"].values)
    }
    about = {k: v for k, v in ds["surface"].attrs.items() if k in ("product", "collection")}
    return ds.drop_vars(["surface", "band", "surface_quality"], errors="ignore").assign(bands).assign_attrs(about)


def _product(ds: xr.Dataset, where: str) -> tuple[str, str]:
    """Return product and collection in the attributes of a Dataset, or the name of its file."""
    if "product" in ds.attrs:
        return str(ds.attrs["product"]), str(ds.attrs.get("collection", ""))
    product = collection = ""
    for text in (Path(where).name, *(str(ds.attrs.get(key, "")) for key in ("source", "title", "product"))):
        one, edition = product_in(text)
        product = product or one
        collection = collection or (edition if one == product else "")
    return product, collection


def _names(ds: xr.Dataset, rest: list[str], options: ReadOptions, where: str) -> tuple[str, ...]:
    """Return the names of the sites of a Dataset."""
    chosen = options.columns.get("site") or (options.site if options.site in ds.variables else "")
    if not rest:
        if options.site and not chosen:
            return (options.site,)
        name = chosen or next((n for n in _SITES if n in ds.variables and ds[n].size == 1), None)
        if name:
            return (_text(ds[name].values.reshape(-1)[0]),)
        raise SourceError(f"{where}: expected a dimension of sites, found one series: pass site= with its name.")
    name = chosen or next((n for n in (rest[0], *_SITES) if n in ds.variables and ds[n].dims == (rest[0],)), "")
    if name:
        return tuple(_text(value) for value in ds[name].values)
    if ds.sizes[rest[0]] == 1 and options.site:
        return (options.site,)
    raise SourceError(f"{where}: {rest[0]} has no names: add a coordinate site({rest[0]}) with the names of the sites.")


def _text(value: object) -> str:
    return value.decode("utf-8").strip() if isinstance(value, bytes) else str(value).strip()


def _flat(array: xr.DataArray, order: list[str], shape: tuple[int, int], where: str) -> np.ndarray:
    """Return stored numbers (site x time,) in the order of sites and times."""
    if set(map(str, array.dims)) != set(order):
        raise SourceError(
            f"{where}: expected the dimensions {', '.join(order)} for {array.name}, found "
            f"{', '.join(map(str, array.dims))}."
        )
    values = array.transpose(*order).values.reshape(shape)
    return values.reshape(-1).astype(np.float32 if values.dtype.itemsize <= 2 else np.float64)


def _decoded(array: xr.DataArray, values: np.ndarray) -> np.ndarray:
    """Return flags or angles, NaN where they are fill, multiplied by their declared scale."""
    out = np.asarray(values, np.float64)
    if "_FillValue" in array.attrs:
        out = np.where(out == float(array.attrs["_FillValue"]), np.nan, out)
    return out * float(array.attrs.get("scale_factor", 1.0))


def _place(ds: xr.Dataset, name: str | None, count: int) -> np.ndarray:
    """Return a coordinate of the sites (site,), NaN where the file lacks it."""
    if name is None:
        return np.full(count, np.nan)
    values = np.atleast_1d(ds[name].values).astype(np.float64)
    return values if values.shape == (count,) else np.full(count, np.nan)
