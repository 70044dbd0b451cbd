"""Add a predictor of the user's own to a tower cube or a forcing, lazily, without copying the cube."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import xarray as xr

from fluxcube.cubes.own_days import add_steps, check_options, chunks_of
from fluxcube.cubes.own_maps import at_towers, on_cells
from fluxcube.cubes.own_values import DATE_DIM, Source, read_values, within_limits
from fluxcube.cubes.selection import Cube, as_cube
from fluxcube.cubes.supplied import supplied_predictors, supplied_values
from fluxcube.errors import ConfigError, SchemaError
from fluxcube.resolution import resolution_of
from fluxcube.schema import DRIVERS, PARTS, STACKS, driver_sources, validate_cube, validate_forcing, variable_coords
from fluxcube.stores.origin import derived
from fluxcube.variables import DECLARED, STATIC, TIMING, Variable, declarations, declared

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

Values: TypeAlias = (
    "xr.DataArray | xr.Dataset | pd.DataFrame | pd.Series | Mapping[str, float] | str | os.PathLike[str]"
)

_CELLS = ("latitude", "longitude")
#: Entry of each array of a stack where the predictor has a value; where it has none, the array's missing value.
_WITH_VALUE = {"_qc": 0, "_coverage": 1, "_quality": 1}


def add_predictor(
    cube: Cube,
    name: str,
    values: xr.DataArray
    | xr.Dataset
    | pd.DataFrame
    | pd.Series
    | Mapping[str, float]
    | str
    | os.PathLike
    | None = None,
    *,
    units: str | None = None,
    column: str | None = None,
    hold_days: int = 1,
    delay_days: int | None = None,
) -> xr.Dataset:
    """Return a cube or forcing with the values of a predictor that `fluxcube.declare` declared.

    It is then a predictor like those of the variable table, which `fluxcube.fit` uses by default: as one of
    ``predictors=`` if it varies in time, and as one of ``static=`` if it does not. Maps need it, too: add it to the
    forcing.

    Parameters
    ----------
    cube : xr.Dataset, path or URL
        A tower cube or forcing, hourly or daily, lazy or in RAM; it is not changed.
    name : str
        Declared name.
    values : DataArray, Dataset, DataFrame, Series, mapping or path, optional
        Series of sites, with the dimensions or columns ``site`` and ``time`` (or ``date``, ``day``), only ``site`` for
        static predictors; a mapping of sites to numbers; or a map with the dimensions ``latitude`` and ``longitude``,
        and ``time`` unless it is static. A Dataset or table has the values in the variable or column `name`. A path is
        a NetCDF file or a CSV table. Sites are matched by name. A tower has the value of the map's pixel that contains
        it. A cell has the mean of the pixels within it, weighted by area, or the value of the pixel that contains its
        centre if pixels are larger than cells. By default those of an installed package that supplies the predictor
        (`fluxcube.extensions`), which declares it and has its own options.
    units : str, optional
        Units of `values`, by default those of its attribute ``units``; a table without units is taken to be in the
        declared ones. Other units are converted.
    column : str, optional
        Variable or column of `values`, by default `name`.
    hold_days : int
        Of daily predictors, the number of days for which a value is used if no later one follows: 8 for a composite of
        8 days.
    delay_days : int, optional
        Of daily predictors, the number of days from a date to the local midnight from which its value is known, by
        default `hold_days`: the value of a date describes the days from that date on, and no model may see it before
        they are over. 1 for a value of a single day that is held for longer, 0 for one that is known in advance.

    Returns
    -------
    xr.Dataset
        The cube with one more entry on ``variable``, or, for a static predictor, with the coordinate `name` on its
        sites or cells. Values beyond the declared bounds are missing. Arrays that were in RAM are Dask arrays without a
        copy of their values.

    Raises
    ------
    ConfigError
        If `name` is not declared or in the cube already; if there are no `values`, and no package supplies them; if
        they have no units, units of another quantity, or mostly values beyond the declared bounds; or if no site has a
        value in its years, or no cell has one.
    ExtensionError
        If the package that supplies the values cannot be used.
    SchemaError
        If `cube` is neither a cube nor a forcing, or `values` have other dimensions, times that are no dates, or two
        values for one site and time.

    Notes
    -----
    Dates are those of local mean solar time (longitude / 15), at towers and on grids alike.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> from fluxcube.variables import declare, forget
    >>> row = declare("SOC", units="kg m-2", bounds=(0, 100), kind="static", long_name="soil organic carbon")
    >>> cube = add_predictor(example_cube(sites=2), "SOC", {"XX-S00": 4.0, "XX-S01": 11.5})
    >>> cube.SOC.values.tolist()
    [4.0, 11.5]
    >>> forget("SOC")
    """
    cube = as_cube(cube)
    if values is None:
        return _supplied(cube, name, units=units, column=column, hold_days=hold_days - 1, delay_days=delay_days)
    row = _declared(name)
    grid = _is_grid(cube)
    _check_absent(cube, name)
    delay = check_options(row, hold_days, delay_days)
    source = read_values(values, name, column, row)
    source = within_limits(source.in_units(row, units), row)
    before = np.timedelta64(delay + int(hold_days), "D")
    placed = _on_grid(cube, source, row, before) if grid else _at_sites(cube, source, row, before)
    if row.kind == STATIC:
        out = _with_static(cube, placed, row)
    else:
        out = _with_column(cube, add_steps(cube, placed, row, hold_days, delay), row)
    out = derived(out)
    records = json.loads(str(cube.attrs.get(DECLARED, "[]")))
    records = [record for record in records if record["name"] != name] + declarations([name])
    out = out.assign_attrs({DECLARED: json.dumps(records)})
    if row.kind == "daily":
        timing = json.loads(str(cube.attrs.get(TIMING, "{}"))) | {name: [int(hold_days), delay]}
        out = out.assign_attrs({TIMING: json.dumps(timing)})
    return validate_forcing(out) if grid else validate_cube(out)


def with_supplied(cube: xr.Dataset, names: Iterable[str]) -> xr.Dataset:
    """Return a cube or forcing with those of some predictors that it lacks and installed packages supply.

    Errors are those of `fluxcube.add_predictor`.
    """
    present, table = {*map(str, cube["variable"].values), *map(str, cube.coords)}, supplied_predictors()
    for name in dict.fromkeys(names):
        if name not in present and name in table:
            cube = add_predictor(cube, name)
    return cube


def _supplied(cube: xr.Dataset, name: str, **options: object) -> xr.Dataset:
    """Return a cube with the values that a package supplies; refuse options, which the package determines."""
    if given := [option for option, value in options.items() if value]:
        raise ConfigError(f"{name}: {', '.join(given)} has no effect without values: pass values, or leave it out.")
    _is_grid(cube)
    _check_absent(cube, name)
    one, values = supplied_values(name, cube)
    return add_predictor(cube, name, values, hold_days=one.hold_days, delay_days=one.delay_days)


def _declared(name: str) -> Variable:
    try:
        return declared()[name]
    except KeyError:
        names = ", ".join(declared()) or "none"
        raise ConfigError(
            f"{name} is not declared (declared: {names}): call fluxcube.declare({name!r}, units=..., bounds=(low, "
            "high), kind='daily') first, so that towers, grids and models agree on its units and bounds."
        ) from None


def _is_grid(cube: xr.Dataset) -> bool:
    """Return whether a Dataset is a forcing; raise a SchemaError if it is neither that nor a tower cube."""
    if "normalized" in cube.attrs:
        raise ConfigError("the cube is normalised: open it with normalized=False, and add the predictor to that.")
    if "predictors" not in cube or not ("site" in cube.dims or set(_CELLS) <= set(cube.dims)):
        raise SchemaError(
            f"expected a tower cube or a forcing with predictors, found the dimensions {tuple(cube.dims)} and the "
            f"arrays {', '.join(map(str, cube.data_vars))}: pass what open_carbonsense or open_forcing returned."
        )
    if "site" in cube.dims:
        validate_cube(cube)
        return False
    validate_forcing(cube)
    return True


def _check_absent(cube: xr.Dataset, name: str) -> None:
    there = name in cube["variable"].values
    if there or name in cube.coords or name in cube:
        drop = f'.drop_sel(variable="{name}")' if there else f'.drop_vars("{name}")'
        raise ConfigError(f"the cube has {name} already: remove it with {drop} to replace it.")


def _at_sites(cube: xr.Dataset, source: Source, row: Variable, before: np.timedelta64) -> xr.DataArray:
    """Return values (site[, date]) of the sites of a cube, in their order; NaN for sites without values.

    A site has values if one lies within its own years, or at most `before` the first of these.
    """
    sites = [str(site) for site in cube.site.values]
    array = source.array
    if "site" in array.dims:
        names = [str(site) for site in array.site.values]
        if twice := sorted({site for site in names if names.count(site) > 1}):
            raise SchemaError(f"{row.name}: expected each site once, found {', '.join(twice[:3])} several times.")
        if not set(names) & set(sites):
            raise ConfigError(
                f"{row.name}: no site of the cube ({', '.join(sites[:3])}...) is among those of the values "
                f"({', '.join(names[:3])}...): sites are matched by name; rename them."
            )
        placed = array.assign_coords(site=np.array(names, object)).reindex(site=np.array(sites, object))
    else:
        placed = at_towers(array, cube.latitude.values, cube.longitude.values, row.name)
        placed = placed.assign_coords(site=np.array(sites, object))
    placed = placed.transpose("site", ...)
    if not isinstance(placed.data, np.ndarray):
        placed = placed.compute()  # a series of each tower; the map that it is read from may be large
    present = np.isfinite(placed.values.reshape(len(sites), -1))
    if DATE_DIM in placed.dims:
        dates, start, stop = placed[DATE_DIM].values, cube.time_start.values - before, cube.time_stop.values
        present &= (dates >= start[:, None]) & (dates < stop[:, None])
    present = present.any(1)
    _note_missing(row.name, [site for site, there in zip(sites, present, strict=True) if not there], len(sites), "site")
    return placed


def _on_grid(cube: xr.Dataset, source: Source, row: Variable, before: np.timedelta64) -> xr.DataArray:
    """Return values (latitude, longitude[, date]) of the cells of a forcing; NaN for cells without values."""
    if not set(_CELLS) <= set(source.array.dims):
        raise SchemaError(
            f"{row.name}: a forcing needs a map with the dimensions latitude and longitude, found {source.array.dims}."
        )
    if DATE_DIM in source.array.dims:
        dates, (first, last) = source.array[DATE_DIM].values, cube.time.values[[0, -1]]
        if not ((dates >= first - before) & (dates <= last)).any():
            raise ConfigError(
                f"{row.name}: its maps are of {_period(dates)}, and the forcing is of {_period(cube.time.values)}: "
                "pass the maps of that period."
            )
    placed = on_cells(source.array, cube, row)
    if DATE_DIM not in placed.dims:
        placed = placed.compute()
        land = np.isfinite(placed.values[cube.land_fraction.transpose(*_CELLS).values > 0])
        _note_missing(row.name, ["cells"] * int((~land).sum()), land.size, "land cell")
    return placed


def _note_missing(name: str, missing: list[str], count: int, noun: str) -> None:
    if missing and len(missing) >= count:
        where = "in its years" if noun == "site" else ""
        raise ConfigError(
            f"{name}: none of the {count} {noun}s has a value {where}".rstrip()
            + ": check the places, dates and units of the values."
        )
    if missing:
        names = f" ({', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''})" if noun == "site" else ""
        log.warning("%s: %d of %d %ss have no value%s", name, len(missing), count, noun, names)


def _period(dates: np.ndarray) -> str:
    return f"{dates.min().astype('datetime64[D]')} to {dates.max().astype('datetime64[D]')}"


def _with_static(cube: xr.Dataset, placed: xr.DataArray, row: Variable) -> xr.Dataset:
    if DATE_DIM in placed.dims:
        raise SchemaError(
            f"{row.name} is declared static, and its values have a time: average them over time, or declare it with "
            "kind='daily' or kind='hourly'."
        )
    dims = tuple(map(str, placed.dims))
    return cube.assign_coords({row.name: (dims, placed.values.astype("float64"), row.attrs)})


def _with_column(cube: xr.Dataset, steps: xr.DataArray, row: Variable) -> xr.Dataset:
    """Return the cube with one more entry on the dimension variable: its values, and their quality at towers."""
    stack = "predictors"
    arrays = {stack: _appended(cube[stack], steps.astype("float32"))}
    for ending, filled in _WITH_VALUE.items():
        if stack + ending in cube:
            old = cube[stack + ending]
            best = filled if ending != "_coverage" or old.dtype.kind == "f" else 100  # packed in percent
            column = xr.where(steps.notnull(), best, PARTS[ending].fill).astype(old.dtype)
            arrays[stack + ending] = _appended(old, column)
    for name in driver_sources(cube):  # own predictors are the same for all sources of drivers
        arrays[DRIVERS + name] = _appended(cube[DRIVERS + name], xr.full_like(steps, np.nan, np.float32))
    dim = STACKS[stack]
    known = {str(n): a for n, a in cube.coords.items() if a.dims == (dim,)}
    more = variable_coords([row.name], dim, resolution_of(cube).name)
    coords = {n: (dim, np.append(a.values, more[n][1]), a.attrs) for n, a in known.items() if n in more}
    others = cube.drop_dims(dim)
    out = xr.Dataset({n: arrays.get(str(n), cube[n]).variable for n in cube.data_vars}, attrs=cube.attrs)
    return out.assign_coords({**others.coords, **coords})


def _appended(old: xr.DataArray, column: xr.DataArray) -> xr.DataArray:
    """Return an array with one more entry on its last dimension, lazily."""
    base = old if old.chunks else old.chunk(chunks_of(old))
    sizes = {dim: base.chunksizes[dim] for dim in base.dims[:-1]}
    more = column.transpose(*base.dims[:-1]).chunk(sizes).expand_dims(base.dims[-1], -1)
    joined = xr.Variable.concat([base.variable, more.variable], base.dims[-1], combine_attrs="override")
    return xr.DataArray(joined, attrs=old.attrs)
