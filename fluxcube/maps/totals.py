"""Totals of flux maps: over the land, by region, biome or latitude, and by month or year."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import dask
import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError, unknown
from fluxcube.geometry import cell_area, cell_bounds
from fluxcube.maps.periods import Periods, check_every, steps_of
from fluxcube.maps.shares import Groups, by_class, by_latitude, by_region, everywhere
from fluxcube.units import convert

#: Heat that evaporates a kilogram of water at 20 degC, J kg-1 (Allen et al. 1998, FAO Irrigation and Drainage Paper 56,
#: annex 3, equation 3-1); 2.50e6 at 0 degC.
LATENT_HEAT = 2.45e6

_CELLS = ("latitude", "longitude")
_DIMS = ("time", *_CELLS)
#: Hours that are read before sums of them are put together: what is held in memory is of so many.
_SLAB = 8784
#: An hour of a group counts if this share of its land has a value; others are filled as hours without one.
_PRESENT = 0.5
#: Values that a block turns to float64 at once.
_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class _Kind:
    """What a flux adds up to: `factor` turns its unit times m2 into `units`, per year where `yearly`."""

    units: str
    what: str
    mass: str | None
    factor: float
    yearly: bool = True


#: By the first part of a flux's name.
_CARBON = _Kind("PgC yr-1", "carbon", "gC m-2 s-1", 1e-15)
_KINDS = {
    "NEE": _CARBON,
    "GPP": _CARBON,
    "RECO": _CARBON,
    "FCH4": _Kind("TgCH4 yr-1", "methane", "gCH4 m-2 s-1", 1e-12),
    "LE": _Kind("W", "latent heat", "W m-2", 1.0, yearly=False),
}


def totals(
    maps: xr.Dataset,
    *,
    by: str | None = None,
    regions: str | os.PathLike | Mapping[str, object] | None = None,
    every: str | None = None,
    fluxes: Sequence[str] | None = None,
    name: str = "name",
    latitude_step: float = 10.0,
    min_coverage: float = 0.9,
    progress: Callable[[int, int, str], None] | None = None,
) -> xr.Dataset:
    """Add flux maps up: land fraction times cell area times seconds.

    What has no value is never taken for zero. In an hour, land without a value is given the mean of the group's land
    that has one, if that is half of it or more; an hour that has less is given the mean of the same hour (UTC) of
    the other days of its period, so that a missing night does not count as a missing day. How much was there is told
    as ``coverage``, and where it is less than `min_coverage` nothing is told but an error.

    Parameters
    ----------
    maps : xr.Dataset
        Hourly (or daily, or monthly) flux maps (time, latitude, longitude) with the coordinate land_fraction, as
        `fluxcube.upscale` and `fluxcube.open_maps` give them. Cell areas are those of the coordinate cell_area (m2)
        where there is one, else of the WGS84 ellipsoid between latitude_bnds and longitude_bnds, or half-way between
        cells.
    by : {"region", "igbp", "latitude"}, optional
        Groups. By default all land is one.
    regions : path or mapping, optional
        GeoJSON file, or GeoJSON geometries by name. A cell that a border crosses counts for its part on each side
        (exactly, as edges that are straight in longitude and latitude cut it); its land is taken to be spread evenly.
    every : {"month", "year"}, optional
        One total for each calendar month or year (UTC). By default one for the whole period of the maps.
    fluxes : sequence of str, optional
        By default all of NEE, GPP, RECO, FCH4 and LE that the maps have.
    name : str
        Property of a GeoJSON feature that names it.
    latitude_step : float
        Height of the bands of `by="latitude"`, degrees.
    min_coverage : float
        Least share of a group's land and hours that must have values, and of a region that must lie within the grid;
        months and years must be covered by the maps to that share, too. With 0 everything is told.
    progress : callable, optional
        ``progress(done, total, text)``.

    Returns
    -------
    xr.Dataset
        In memory, on the groups' dimension (region, igbp or band) and time, where there are such. Per flux NAME its
        total and NAME_coverage (0 to 1). Carbon is in PgC yr-1, positive towards the atmosphere for NEE; FCH4 in TgCH4
        yr-1; LE in W, with ET, the water that it evaporates at 2.45 MJ kg-1, in km3 yr-1. NAME_spread, where the maps
        have it, is the total of the ensemble's spread, as if each member erred alike everywhere and always: an upper
        bound of the spread of the members' own totals. ``applicable``, where the maps have it, is the share of land
        and hours in the area of applicability. Coordinates: ``area``, the group's land (m2); ``inside``, the share of a
        region within the grid; ``years``, the length of the period, an hour of a leap year being 1/8784 of it: a total
        times ``years`` is the amount.

    Raises
    ------
    SchemaError
        If the maps have no flux, no land or no land_fraction, or times that are not in order; or if values cover too
        little, naming where and when.
    ConfigError
        If an option has a value it cannot have, or a region is no polygon.
    UnknownNameError
        If the maps do not hold one of `fluxes`.

    Notes
    -----
    NAME_std is not added up: it is of single hours at a tower's scale, and how such errors hang together in space
    and time is not known. The spread of members' own totals needs maps of each member:
    ``xr.concat([totals(m) for m in members], "member").std("member", ddof=1)``.

    References
    ----------
    Nelson and Walther et al. 2024, doi:10.5194/bg-21-5079-2024 (totals of X-BASE, likewise land fraction times area).

    Examples
    --------
    >>> from fluxcube.simulation.example import example_maps
    >>> maps = example_maps()
    >>> total = totals(maps)
    >>> total.NEE.attrs["units"], float(total.NEE_coverage)
    ('PgC yr-1', 1.0)
    """
    names = _names(maps, fluxes)
    check_every(every, ("month", "year"))
    if not 0 <= min_coverage <= 1:
        raise ConfigError(f"min_coverage must be from 0 to 1, found {min_coverage!r}.")
    area, latitude_bnds, longitude_bnds = _cells(maps)
    groups = _groups(by, regions, maps, latitude_bnds, longitude_bnds, name=name, latitude_step=latitude_step)
    land = _land(maps, area)
    steps = steps_of(maps, names[0])
    periods = Periods.of(steps, every)
    layers = [n for n in (*names, *(f"{flux}_spread" for flux in names), "applicable") if n in maps]
    means = {layer: _group_means(maps[layer], groups, land, periods, progress, layer) for layer in layers}
    _check_coverage({n: means[n] for n in names}, groups, periods, min_coverage)
    return _labelled(maps, names, means, groups, periods, _areas(groups, land), min_coverage)


@dataclass(frozen=True)
class _Means:
    """Mean flux (period, group) of a group's land, and the share (period, group) of land and time that has values."""

    mean: np.ndarray
    coverage: np.ndarray
    gaps: np.ndarray


def _names(maps: xr.Dataset, fluxes: Sequence[str] | None) -> tuple[str, ...]:
    held = [str(n) for n in maps.data_vars if _flux_kind(str(n)) and set(maps[n].dims) == set(_DIMS)]
    for wanted in fluxes or ():
        if wanted not in held:
            raise unknown("flux of these maps that can be added up", wanted, held)
    if not held:
        raise SchemaError(
            f"totals need a flux ({', '.join(_KINDS)}) of dims {_DIMS}; found {', '.join(map(str, maps.data_vars))}."
        )
    return tuple(held if fluxes is None else fluxes)


def _flux_kind(name: str) -> _Kind | None:
    head, _, tail = name.partition("_")
    return _KINDS.get(head) if tail in ("", "DT", "NT") else None


def _cells(maps: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Areas (latitude, longitude), m2, and the edges of rows and columns, degrees."""
    if any(dim not in maps.coords for dim in _CELLS):
        raise SchemaError("totals need the coordinates latitude and longitude, in degrees.")
    axes = {dim: maps[dim].values.astype(float) for dim in _CELLS}
    width = next((abs(axis[1] - axis[0]) for axis in axes.values() if len(axis) > 1), None)
    bounds = {
        dim: maps[f"{dim}_bnds"].values
        if f"{dim}_bnds" in maps.coords
        else cell_bounds(axis, (-90, 90) if dim == "latitude" else None, width=width)
        for dim, axis in axes.items()
    }
    area = maps.cell_area.transpose(*_CELLS).values if "cell_area" in maps.coords else cell_area(*bounds.values())
    return area, bounds["latitude"], bounds["longitude"]


def _land(maps: xr.Dataset, area: np.ndarray) -> np.ndarray:
    """Land (cell,) of each cell, m2; a cell whose land fraction is not known has none, and no flux either."""
    if "land_fraction" not in maps.coords:
        raise SchemaError(
            "totals need the coordinate land_fraction (latitude, longitude), 0 to 1: fluxes are those of a cell's land."
        )
    share = np.nan_to_num(maps.land_fraction.transpose(*_CELLS).values.astype(float))
    if share.min() < 0 or share.max() > 1 + 1e-6:
        raise SchemaError(f"land_fraction must be from 0 to 1, found {share.min():g} to {share.max():g}.")
    if not share.any():
        raise SchemaError("these maps have no land: land_fraction is 0 everywhere.")
    return (share * area).ravel()


def _groups(
    by: str | None,
    regions: object,
    maps: xr.Dataset,
    latitude_bnds: np.ndarray,
    longitude_bnds: np.ndarray,
    *,
    name: str,
    latitude_step: float,
) -> Groups:
    by = "region" if by is None and regions is not None else by
    if by not in (None, "region", "igbp", "latitude"):
        raise ConfigError(f"by must be region, igbp or latitude, or None; found {by!r}.")
    if (by == "region") != (regions is not None):
        raise ConfigError("by='region' and regions go together: give a GeoJSON file or a mapping of polygons.")
    if by == "region":
        return by_region(regions, latitude_bnds, longitude_bnds, name)
    if by == "latitude":
        return by_latitude(latitude_bnds, len(longitude_bnds), latitude_step)
    if by == "igbp":
        if "igbp" not in maps.coords:
            raise SchemaError("by='igbp' needs the coordinate igbp (latitude, longitude).")
        return by_class(maps.igbp.transpose(*_CELLS).values)
    return everywhere(len(latitude_bnds) * len(longitude_bnds))


def _areas(groups: Groups, land: np.ndarray) -> np.ndarray:
    """Land (group,) of each group, m2."""
    return np.bincount(groups.group, groups.share * land[groups.cell], len(groups.labels))


def _group_means(
    array: xr.DataArray, groups: Groups, land: np.ndarray, periods: Periods, progress: Callable | None, name: str
) -> _Means:
    """Read maps once, slab of time by slab, and keep no more than sums of groups."""
    array = array.transpose(*_DIMS)
    array = array if array.chunks else array.chunk(time=240)
    area, count = _areas(groups, land), len(groups.labels)
    sums, seconds = np.zeros((2, periods.count, periods.slots, count))
    present = np.zeros((periods.count, count))
    slabs = list(_slabs(array.chunksizes["time"]))
    for done, (start, stop) in enumerate(slabs):
        weighted, weight = _slab_sums(array.isel(time=slice(start, stop)).data, groups, land)
        with np.errstate(invalid="ignore", divide="ignore"):
            share, mean = weight / area, weighted / weight
        length = periods.seconds[start:stop, None]
        kept = share >= _PRESENT
        where = periods.period[start:stop], periods.slot[start:stop]
        np.add.at(sums, where, np.where(kept, mean, 0.0) * length)
        np.add.at(seconds, where, kept * length)
        np.add.at(present, where[0], share * length)
        if progress is not None:
            progress(done + 1, len(slabs), name)
    with np.errstate(invalid="ignore"):
        slots = sums / seconds
    there = np.isfinite(slots).sum(1)
    with np.errstate(invalid="ignore"):
        mean = np.nansum(slots, 1) / np.where(there > 0, there, np.nan)
    return _Means(mean, present / periods.nominal[:, None], there < periods.slots)


def _slabs(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Begin and end of runs of whole chunks, of up to `_SLAB` steps or of one chunk."""
    start = stop = 0
    for size in sizes:
        if stop > start and stop + size - start > _SLAB:
            yield start, stop
            start = stop
        stop += size
    yield start, stop


def _slab_sums(array, groups: Groups, land: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums (time, group) of value times land, and of the land that has a value; blocks without land are not read."""
    tasks = []
    blocks = array.to_delayed(optimize_graph=False)
    edges = [np.concatenate([[0], np.cumsum(sizes)]) for sizes in array.chunks]
    sums = dask.delayed(_block_sums, pure=True)
    for i, j, entries in _blocks(groups, land, edges[1], edges[2]):
        tasks += [(k, sums(blocks[k, i, j], *entries)) for k in range(len(edges[0]) - 1)]
    shape = int(edges[0][-1]), len(groups.labels)
    weighted, weight = np.zeros(shape), np.zeros(shape)
    for (k, _), (found, value, held) in zip(tasks, dask.compute(*(task for _, task in tasks)), strict=True):
        weighted[edges[0][k] : edges[0][k + 1], found] += value
        weight[edges[0][k] : edges[0][k + 1], found] += held
    return weighted, weight


def _blocks(groups: Groups, land: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> Iterator[tuple]:
    """Blocks (i, j) that have land of a group, with their cells' positions, weights and groups, in groups' order."""
    weight = groups.share * land[groups.cell]
    row, column = np.divmod(groups.cell, columns[-1])
    block = np.stack([np.searchsorted(e, at, "right") - 1 for e, at in ((rows, row), (columns, column))])
    kept = np.flatnonzero(weight > 0)
    order = kept[np.lexsort((groups.cell[kept], groups.group[kept], block[1, kept], block[0, kept]))]
    cuts = np.flatnonzero(np.diff(block[:, order], axis=1).any(0)) + 1
    for part in np.split(order, cuts) if len(order) else ():
        i, j = block[:, part[0]]
        width = columns[j + 1] - columns[j]
        yield (
            int(i),
            int(j),
            ((row[part] - rows[i]) * width + column[part] - columns[j], weight[part], groups.group[part]),
        )


def _block_sums(values: np.ndarray, cell: np.ndarray, weight: np.ndarray, group: np.ndarray) -> tuple:
    """Groups of a block, and of each (time, group) the sums that `_slab_sums` wants."""
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    flat = values.reshape(len(values), -1)
    step = max(1, _AT_ONCE // max(1, len(cell)))
    out = np.empty((2, len(values), len(starts)))
    for at in range(0, len(values), step):
        part = flat[at : at + step, cell].astype(float)
        there = np.isfinite(part)
        out[0, at : at + step] = np.add.reduceat(np.where(there, part, 0.0) * weight, starts, axis=1)
        out[1, at : at + step] = np.add.reduceat(there * weight, starts, axis=1)
    return group[starts], out[0], out[1]


def _check_coverage(means: Mapping[str, _Means], groups: Groups, periods: Periods, least: float) -> None:
    if least == 0:
        return
    for label, inside in zip(groups.labels, groups.inside, strict=True):
        if inside < least:
            raise SchemaError(
                f"region {label!r} lies within the maps to {inside:.1%} only, less than min_coverage={least:g}: "
                "give a smaller min_coverage, or 0, to have the total of that part."
            )
    for name, one in means.items():
        poor = (one.coverage < least) | one.gaps
        poor &= np.isfinite(one.coverage)  # groups without land have no total
        if poor.any():
            at, group = np.unravel_index(np.argmin(np.where(poor, one.coverage, np.inf)), poor.shape)
            why = f"{one.coverage[at, group]:.1%} of land and time have a value"
            if one.coverage[at, group] >= least:
                why = "some hour of the day has no value on any day"
            raise SchemaError(
                f"{name}: in {int(poor.sum())} of {poor.size} totals too little is known; the poorest is "
                f"{groups.labels[group]!r} in {periods.label(at)}, where {why} (min_coverage={least:g}). "
                "Give a smaller min_coverage, or 0, to have them all, with their coverage."
            )


def _labelled(
    maps: xr.Dataset,
    names: tuple[str, ...],
    means: Mapping[str, _Means],
    groups: Groups,
    periods: Periods,
    area: np.ndarray,
    least: float,
) -> xr.Dataset:
    dims = ("time", groups.dim or "group")
    out = xr.Dataset(coords={dims[1]: list(groups.labels), **periods.coords(), "area": (dims[1], area, _AREA)})
    if groups.dim == "region":
        told = {"long_name": "share of the region that lies within the maps", "units": "1"}
        out = out.assign_coords(inside=("region", groups.inside, told))
    for flux in names:
        for layer in (flux, f"{flux}_spread"):
            if layer in means:
                for label, values, attrs in _amounts(maps[layer], layer, means[layer].mean * area, periods):
                    out[label] = (dims, values, attrs)
        told = {"long_name": f"share of land and time that has a value of {flux}", "units": "1"}
        out[f"{flux}_coverage"] = (dims, means[flux].coverage, told)
    if "applicable" in means:
        told = {"long_name": "share of land and time in the area of applicability", "units": "1"}
        out["applicable"] = (dims, means["applicable"].mean, told)
    out = out.isel({dims[1]: np.flatnonzero(area > 0)})
    out = out if groups.dim else out.isel(group=0).drop_vars("group")
    out = out if periods.every else out.isel(time=0)
    return out.assign_attrs(
        title="totals of flux maps",
        min_coverage=least,
        missing="land without a value has the mean of its group's in that hour, hours without one that of their hour "
        "of the day in the period",
        **{k: maps.attrs[k] for k in ("model", "model_digest", "masked_predictors") if k in maps.attrs},
    )


_AREA = {"long_name": "land", "units": "m2"}


def _amounts(array: xr.DataArray, name: str, power: np.ndarray, periods: Periods) -> Iterator[tuple]:
    """Name, values (period, group) and attributes of what a flux times area (period, group) adds up to."""
    flux = name.removesuffix("_spread")
    kind, units = _flux_kind(flux), str(array.attrs.get("units", ""))
    yearly = (periods.nominal / periods.years)[:, None]
    value = power * float(convert(1.0, units, kind.mass, name=name)) * kind.factor * (yearly if kind.yearly else 1.0)
    told = {"long_name": f"total {array.attrs.get('long_name', name)}", "units": kind.units}
    if name != flux:
        told |= {
            "long_name": f"spread of {flux} between the members of the ensemble, added up",
            "error_correlation": "1 in space and time within a member: an upper bound",
        }
    yield name, value, told
    if kind.what == "latent heat":
        tail = name.removeprefix("LE")
        told = {
            "long_name": "evaporated water" + (" (spread)" if tail else ""),
            "units": "km3 yr-1",
            "derived": f"{name} / {LATENT_HEAT:g} J kg-1",
        }
        yield f"ET{tail}", value * yearly / LATENT_HEAT * 1e-12, told
