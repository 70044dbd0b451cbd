"""Sample maps at towers: the nearest cell or bilinear interpolation, with the distance and class of the cell."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from typing import Literal, overload

import numpy as np
import xarray as xr

from fluxcube.cubes.selection import as_cube
from fluxcube.errors import ConfigError, SchemaError, unknown
from fluxcube.maps.axes import Grid, standard_names
from fluxcube.maps.hours import join_hours
from fluxcube.maps.pixels import read_cells
from fluxcube.maps.site_cells import (
    STATIC,
    SiteCells,
    class_lookup,
    data_lookup,
    igbp_codes,
    places_of,
    property_of,
    static_property,
)
from fluxcube.maps.store import as_maps
from fluxcube.stores.origin import derived_attrs

Labelled = xr.Dataset | xr.DataArray
Method = Literal["nearest", "bilinear"]
METHODS = ("nearest", "bilinear")
#: Attribute of sampled maps that describes how they were sampled.
SAMPLING = "sampling"
#: Minimum share of the bilinear weights whose cells have a value.
_MIN_WEIGHT = 0.5
_CELLS = {"latitude", "longitude"}
#: Name of an array without a Dataset, meanwhile.
_ARRAY = "values"
#: Attributes of stores of maps that do not describe sampled values.
_STORE_ATTRS = ("kind", "complete", "regions", "regions_done")


@overload
def sample_at_sites(
    maps: xr.Dataset | str | os.PathLike,
    cube: Labelled | str | os.PathLike,
    *,
    method: Method = ...,
    match_igbp: bool | xr.DataArray | None = ...,
    max_distance_km: float | None = ...,
) -> xr.Dataset: ...


@overload
def sample_at_sites(
    maps: xr.DataArray,
    cube: Labelled | str | os.PathLike,
    *,
    method: Method = ...,
    match_igbp: bool | xr.DataArray | None = ...,
    max_distance_km: float | None = ...,
) -> xr.DataArray: ...


def sample_at_sites(
    maps: Labelled | str | os.PathLike,
    cube: Labelled | str | os.PathLike,
    *,
    method: Method = "nearest",
    match_igbp: bool | xr.DataArray | None = None,
    max_distance_km: float | None = None,
) -> Labelled:
    """Sample maps, or any gridded product, at the towers of a cube.

    Maps in a file or of Dask arrays are sampled lazily: only the chunks that contain a tower are read.

    Parameters
    ----------
    maps : xr.Dataset, xr.DataArray, path or URL
        Maps with dimensions latitude and longitude (or lat and lon, or axes with these standard names), in any order
        and direction, longitudes from -180 to 180 or from 0 to 360, across the antimeridian or not. A dimension hour
        beside time steps of a day is joined with time to hourly time steps.
    cube : xr.Dataset, xr.DataArray, path or URL
        Towers: a cube, or other data with the coordinates site, latitude and longitude along the dimension site.
    method : {"nearest", "bilinear"}
        The cell that contains a tower, or interpolation between the centres of the four cells around it. Beyond the
        outermost centres (at most half a cell) the values are those of the outermost cells. Cells without a value are
        left out of the interpolation; if they have more than half of the weight, the result is NaN. Flags, integers
        and text are those of the cell that contains the tower.
    match_igbp : bool or xr.DataArray, optional
        Use the nearest cell of the tower's IGBP class, at most 2 cells away along each axis, instead of the cell that
        contains the tower; True: by the variable or coordinate igbp of the maps (codes, or numbers of MCD12Q1); an
        array (latitude, longitude): by these classes, on any grid. A tower without such a cell has no value.
    max_distance_km : float, optional
        Where the cell of a tower has no value at any time (sea, lake), use the nearest cell that has one, if its centre
        is at most this distance (km) from the tower. For this, the values of the towers' cells are read. By default no
        other cell is used.

    Returns
    -------
    xr.Dataset or xr.DataArray
        Dims (site, time, ...), as `maps` a Dataset or an array. Towers outside the grid, or without a suitable cell,
        are NaN. The attribute ``sampling`` reports the method and the number of such towers, which are logged, too.
        Coordinates of `cube` along the dimension site alone (latitude, igbp, ...) are kept. Coordinates of the cell:
        ``cell_latitude`` and ``cell_longitude`` (its centre); ``cell_distance`` (km, from the tower to the centre,
        along a great circle); ``cell_note`` (what is special about it, "" for nothing); and, if the maps have the
        property, ``cell_igbp``, ``cell_land_fraction``, ``cell_elevation`` and ``cell_elevation_difference`` (m, cell
        minus tower).

    Raises
    ------
    SchemaError
        If the maps have no latitude-longitude grid, the towers have no coordinates, or a class is needed and missing.
    ConfigError
        If an option is not valid, or `match_igbp` is combined with bilinear interpolation.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube, example_maps
    >>> cube = example_cube(sites=1, days=1).assign_coords(latitude=("site", [46.9]), longitude=("site", [8.3]))
    >>> towers = sample_at_sites(example_maps(days=1), cube)
    >>> towers.NEE.dims, towers.cell_longitude.item(), round(towers.cell_distance.item(), 1)
    (('site', 'time'), 8.25, 11.7)
    """
    maps = maps if isinstance(maps, xr.DataArray) else as_maps(maps)
    cube = cube if isinstance(cube, xr.DataArray) else as_cube(cube)
    _check_options(maps, method, match_igbp, max_distance_km)
    towers = _towers(cube)
    named = _with_chunks(standard_names(maps if isinstance(maps, xr.Dataset) else maps.to_dataset(name=_ARRAY)))
    grid = Grid.of(named)
    cells = SiteCells.at(grid, towers)
    if match_igbp is not None and match_igbp is not False:
        cells.match(towers, class_lookup(named, grid, match_igbp), max_distance_km)
    elif max_distance_km is not None:
        cells.move_to_data(towers, data_lookup(named, grid), max_distance_km)
    of_cells = _cell_coords(named, grid, towers, cells)
    if max_distance_km is None and "cell_land_fraction" in of_cells:
        cells.note_sea(of_cells["cell_land_fraction"][1])
    values = {
        str(name): _sampled(array, grid, towers, cells, method)
        for name, array in named.data_vars.items()
        if set(array.dims) >= _CELLS and name not in STATIC
    }
    if not values:
        raise SchemaError(
            f"maps: expected variables with the dimensions latitude and longitude, found {list(named.data_vars)}."
        )
    coords: dict[Hashable, object] = {**_kept_coords(named), **towers.coords}
    coords.update(of_cells)
    text = cells.report(method, match_igbp, max_distance_km)
    attrs = {key: value for key, value in derived_attrs(named.attrs).items() if key not in _STORE_ATTRS} | {
        SAMPLING: text
    }
    out = join_hours(xr.Dataset(values, coords, attrs))
    if isinstance(maps, xr.Dataset):
        return out
    return out[_ARRAY].rename(maps.name).assign_attrs({**maps.attrs, SAMPLING: text})


def _check_options(
    maps: object, method: str, match_igbp: bool | xr.DataArray | None, max_distance_km: float | None
) -> None:
    if not isinstance(maps, xr.Dataset | xr.DataArray):
        raise SchemaError(f"maps: expected an xarray Dataset or DataArray, found {type(maps).__name__}.")
    if "site" in maps.dims:
        raise SchemaError("maps: expected latitude and longitude, found the dimension site: they are sampled already.")
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if not (match_igbp is None or isinstance(match_igbp, bool | xr.DataArray)):
        raise ConfigError(f"match_igbp: expected True or an array of classes, found {type(match_igbp).__name__}.")
    if method == "bilinear" and match_igbp is not None and match_igbp is not False:
        raise ConfigError('match_igbp selects one cell: use it with method="nearest", without interpolation.')
    if max_distance_km is not None and not 0 <= max_distance_km < np.inf:
        raise ConfigError(f"max_distance_km: expected a distance of at least 0 km, or None, found {max_distance_km!r}.")


def _towers(cube: Labelled) -> xr.Dataset:
    """Return the coordinates of the towers along the dimension site."""
    if not isinstance(cube, xr.Dataset | xr.DataArray) or "site" not in cube.dims:
        raise SchemaError("expected towers, with the dimension site: pass a tower cube.")
    coords = {str(name): coord.variable for name, coord in cube.coords.items() if coord.dims == ("site",)}
    for name in ("latitude", "longitude"):
        if name not in coords:
            raise SchemaError(f"towers: expected the coordinate {name} along the dimension site; assign it.")
    return xr.Dataset(coords=coords)


def _with_chunks(maps: xr.Dataset) -> xr.Dataset:
    """Return maps of which variables without known chunks, such as derived ones, have those of another variable."""
    key = "preferred_chunks"
    grids = {name: array for name, array in maps.data_vars.items() if set(array.dims) >= _CELLS}
    known = {array.dims: array.encoding[key] for array in grids.values() if array.encoding.get(key)}
    changed = {}
    for name, array in grids.items():
        if not array.encoding.get(key) and array.dims in known:
            changed[name] = array.copy(deep=False)
            changed[name].encoding = {**array.encoding, key: known[array.dims]}
    return maps.assign(changed)


def _sampled(array: xr.DataArray, grid: Grid, towers: xr.Dataset, cells: SiteCells, method: str) -> xr.DataArray:
    """Return the values (site, ...) of one variable."""
    if method == "bilinear" and array.dtype.kind == "f":
        out = _interpolated(array, grid, towers, cells)
    else:
        out = read_cells(array, *grid.positions(cells.cells))
    first = [dim for dim in ("site", "time") if dim in out.dims]
    return out.transpose(*first, ...)


def _interpolated(array: xr.DataArray, grid: Grid, towers: xr.Dataset, cells: SiteCells) -> xr.DataArray:
    """Return bilinear means (..., site); of a tower that uses another cell, the value of that cell."""
    corners, weights = grid.corners(*places_of(towers), cells.cells)
    corners = np.where(cells.moved[:, None, None], cells.cells[:, None], corners)
    weights = np.where(cells.moved[:, None], np.eye(4)[0], weights)
    # A corner without weight is that of the tower's cell, so that nothing else is read.
    corners = np.where((weights > 0)[..., None], corners, corners[:, :1])
    used = [k for k in range(4) if (weights[:, k] > 0).any()] or [0]
    count = len(weights)
    # All corners at once, so that a chunk with several of them is read once.
    read = read_cells(array, *grid.positions(np.concatenate([corners[:, k] for k in used])))
    parts = [read.isel(site=slice(i * count, (i + 1) * count)) for i in range(len(used))]
    return xr.apply_ufunc(
        _weighted_mean,
        *parts,
        *(xr.DataArray(weights[:, k], dims="site") for k in used),
        dask="parallelized",
        output_dtypes=[array.dtype],
        keep_attrs=True,
    )


def _weighted_mean(*parts: np.ndarray) -> np.ndarray:
    """Return the mean of values (several arrays) with weights (as many arrays), without the missing ones.

    Deviations from the largest value are averaged, so that the mean of equal values is exactly that value.
    """
    values, weights = parts[: len(parts) // 2], parts[len(parts) // 2 :]
    largest = np.fmax.reduce(values).astype(np.float64)
    total, known = np.zeros(largest.shape), np.zeros(largest.shape)
    for value, weight in zip(values, weights, strict=True):
        there = np.isfinite(value) & (weight > 0)
        total += np.where(there, weight * (value - largest), 0.0)
        known += np.where(there, weight, 0.0)
    mean = largest + total / np.where(known > 0, known, 1.0)
    return np.where(known >= _MIN_WEIGHT - 1e-9, mean, np.nan).astype(values[0].dtype)


def _kept_coords(maps: xr.Dataset) -> dict[Hashable, xr.Variable]:
    """Return the coordinates of the maps that do not depend on the cell, time bounds included."""
    names = [
        name for name in maps.coords if not _CELLS & set(maps[name].dims) and name not in ("latitude", "longitude")
    ]
    bounds = maps["time"].attrs.get("bounds", "time_bnds") if "time" in maps.coords else ""
    if bounds in maps.data_vars:
        names.append(bounds)
    used = {dim for name, array in maps.data_vars.items() if set(array.dims) >= _CELLS for dim in array.dims}
    kept = [name for name in names if set(maps[name].dims) & used or not maps[name].dims]
    return {name: maps[name].variable for name in kept if name not in ("crs", "spatial_ref", "site")}


def _cell_coords(maps: xr.Dataset, grid: Grid, towers: xr.Dataset, cells: SiteCells) -> Mapping[str, tuple]:
    """Return the coordinates that describe the cell of each tower."""
    latitude, longitude = grid.centres(cells.cells)
    distance = grid.distance(*places_of(towers), cells.cells)
    coords: dict[str, tuple] = {
        "cell_latitude": ("site", latitude, {"long_name": "latitude of the cell's centre", "units": "degrees_north"}),
        "cell_longitude": ("site", longitude, {"long_name": "longitude of the cell's centre", "units": "degrees_east"}),
        "cell_distance": ("site", distance, {"long_name": "distance of the cell's centre", "units": "km"}),
        "cell_note": ("site", cells.note, {"long_name": "what is special about the cell"}),
    }
    for name in STATIC:
        if (array := static_property(maps, name)) is None:
            continue
        values = property_of(array, grid, cells.cells)
        values = igbp_codes(values) if name == "igbp" else values
        attrs = {key: array.attrs[key] for key in ("long_name", "units") if key in array.attrs}
        coords[f"cell_{name.removeprefix('cell_')}"] = ("site", values, attrs)
    if "cell_elevation" in coords and "elevation" in towers.coords:
        difference = coords["cell_elevation"][1] - np.asarray(towers["elevation"].values, float)
        attrs = {"long_name": "elevation of the cell minus that of the tower", "units": "m"}
        coords["cell_elevation_difference"] = ("site", difference, attrs)
    return coords
