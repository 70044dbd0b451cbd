"""Cubes and forcings with one array for each variable, instead of stacks of them."""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr

from fluxcube.resolution import resolution_of
from fluxcube.schema import DRIVERS, PARTS, STACKS, Part, driver_sources
from fluxcube.variables import table


def is_stacked(ds: xr.Dataset) -> bool:
    """Return whether a Dataset has the stacked arrays of a cube or forcing."""
    return any(stack in ds and dim in ds.coords for stack, dim in STACKS.items())


def to_variables(ds: xr.Dataset) -> xr.Dataset:
    """Return a cube or forcing with one data variable per name, as ``ds.fluxcube.to_variables()`` documents it."""
    out = ds.drop_dims([dim for dim in STACKS.values() if dim in ds.dims])
    for stack, dim in STACKS.items():
        if stack in ds:
            out = out.assign({k: v for k, v in _unstacked(ds, stack, dim).items() if k not in out})
    return out.assign(_other_drivers(ds))


def _other_drivers(ds: xr.Dataset) -> dict[str, xr.Variable]:
    """Return the variables that other sources of drivers have, by names such as TA_ERA5."""
    arrays, known = {}, table(resolution_of(ds).name)
    labels = [str(name) for name in ds["variable"].values] if "variable" in ds.coords else []
    for source in driver_sources(ds):
        array = ds[DRIVERS + source]
        for name in (name for name in str(array.attrs.get("variables", "")).split() if name in labels):
            one = array.variable.isel(variable=labels.index(name))
            row = known[name].attrs if name in known else {}
            one.attrs = {**row, "long_name": f"{row.get('long_name', name)} ({array.attrs.get('source', source)})"}
            arrays[f"{name}_{source.upper()}"] = one
    return arrays


def _unstacked(ds: xr.Dataset, stack: str, dim: str) -> dict[str, xr.Variable]:
    arrays = {}
    known, scaled = table(resolution_of(ds).name), "normalized" in ds.attrs
    for i, name in enumerate(ds[dim].values):
        row = known[name].attrs if name in known else {}
        row = row | {"units": "1"} if scaled else row
        for ending, part in PARTS.items():
            if stack + ending in ds:
                one = ds[stack + ending].variable.isel({dim: i})
                one.attrs |= _part_attrs(str(name), ending, part, row)
                arrays[f"{name}{ending.upper()}"] = one
    return arrays


def _part_attrs(name: str, ending: str, part: Part, row: Mapping[str, object]) -> dict[str, object]:
    """Return the attributes of one array of a variable: those of the variable, or those of the kind of array."""
    if not ending:
        return dict(row)
    attrs = {key: value for key, value in part.attrs.items() if key != "scale_factor"}
    units = {"units": row["units"]} if ending in ("_randunc", "_jointunc") and "units" in row else {}
    return attrs | units | {"long_name": f"{part.attrs['long_name']} {name}".replace("flags of", "flag of")}
