"""Bring the layout of any provider to one: short names of parameters and axes, units, and no dimensions of size one."""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr

from fluxcube.sources.era5.parameters import CAPITALS, HOURLY, RATE, Meaning, meaning_of

#: Names of the dimension of time after `with_short_names`.
TIME = ("time", "valid_time")
#: Names of axes in other dialects. Xee calls them x and y; AWS has one axis of time for each kind of parameter.
_AXES = {"lat": "latitude", "lon": "longitude", "y": "latitude", "x": "longitude"}
TWO_TIMES = ("time0", "time1")
# Dimensions that are not dropped where they have the size one.
_KEPT = (*TIME, "latitude", "longitude", "expver", "number")
#: Dimensions of fields that are not at the surface, although some have the same long name (geopotential).
_LEVELS = ("level", "pressure_level", "isobaricInhPa", "plev", "hybrid")
#: Attribute of the variables of Earth Engine that Xee opens; they have no units.
_EARTH_ENGINE = "crs_transform"


def with_short_names(ds: xr.Dataset) -> xr.Dataset:
    """Return parameters under their short names, mean rates under those of their amounts, without single dimensions.

    Units that a dialect never declares (CDO's numbered names, Earth Engine) are those of the table of parameters; the
    values are tested against them later. Mean rates have the attribute `RATE`, amounts of hours by name `HOURLY`.
    """
    meanings = _meanings(ds)
    earth_engine = any(one.implied for one in meanings.values()) or any(
        _EARTH_ENGINE in ds[name].attrs for name in meanings
    )
    ds = _with_axes(ds.rename({name: one.parameter for name, one in meanings.items() if name != one.parameter}))
    marked = {
        one.parameter: _attributes(name, one, ds[one.parameter].attrs, earth_engine) for name, one in meanings.items()
    }
    ds = ds.assign({name: ds[name].assign_attrs(attributes) for name, attributes in marked.items() if attributes})
    return _without_single_dims(ds)


def split_times(ds: xr.Dataset) -> list[xr.Dataset]:
    """Return the parts of a Dataset with one axis of time each: AWS has one of analyses, and one of forecasts."""
    if not set(TWO_TIMES) <= set(ds.dims):
        return [ds]
    return [ds.drop_dims(other) for other in TWO_TIMES]


def _meanings(ds: xr.Dataset) -> dict[str, Meaning]:
    """Return the variables that are used, with what their names mean: one for each parameter."""
    chosen: dict[str, tuple[str, Meaning]] = {}
    for name, array in ds.data_vars.items():
        meaning = meaning_of(str(name), array.attrs)
        if meaning is None or (meaning.rank and _is_aloft(array)):
            continue
        known = chosen.get(meaning.parameter)
        if known is None or meaning.rank < known[1].rank:
            chosen[meaning.parameter] = str(name), meaning
    lowest = min((one.rank for _, one in chosen.values()), default=0)
    return {name: one for name, one in chosen.values() if one.rank < CAPITALS or lowest == CAPITALS}


def _is_aloft(array: xr.DataArray) -> bool:
    """Return whether a field is on several levels above the surface."""
    return any(array.sizes.get(level, 1) > 1 for level in _LEVELS)


def _attributes(name: str, meaning: Meaning, attributes: Mapping[str, object], earth_engine: bool) -> dict[str, object]:
    """Return the attributes that are added to a parameter."""
    added: dict[str, object] = {}
    if meaning.rate:
        added[RATE] = 1
    if meaning.hourly:
        added[HOURLY] = 1
    implied = meaning.implied or (earth_engine and name != meaning.parameter)
    if implied and str(attributes.get("units", "")).strip() in ("", "unknown", "~", "-"):
        added["units"] = meaning.units
    return added


def _with_axes(ds: xr.Dataset) -> xr.Dataset:
    """Return latitude, longitude and time under these names; axes called x and y only where there are no others."""
    names = {
        old: new for old, new in _AXES.items() if (old in ds.variables or old in ds.dims) and new not in ds.variables
    }
    taken: dict[str, str] = {}
    for old, new in names.items():
        taken.setdefault(new, old)
    for old in TWO_TIMES:
        if old in ds.dims and not {*TIME, *TWO_TIMES} - {old} & set(ds.dims):
            taken["time"] = old
    return ds.rename({old: new for new, old in taken.items()})


def _without_single_dims(ds: xr.Dataset) -> xr.Dataset:
    """Drop dimensions of size one that are neither time nor place, and one of two time dimensions."""
    single = {dim: 0 for dim, size in ds.sizes.items() if size == 1 and dim not in _KEPT}
    if set(TIME) <= set(ds.dims) and (short := [dim for dim in TIME if ds.sizes[dim] == 1]):
        single[short[0]] = 0
    return ds.isel(single, drop=True) if single else ds
