"""Totals of flux maps: of all land, or by region, biome or latitude; by month or year."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError, unknown
from fluxcube.geometry import cell_area, cell_bounds
from fluxcube.maps.group_means import GroupMeans, group_areas, group_means
from fluxcube.maps.means import refuse_standard_deviation
from fluxcube.maps.periods import Periods, check_every, steps_of
from fluxcube.maps.shares import Groups, by_class, by_latitude, by_region, everywhere
from fluxcube.maps.store import Maps, as_maps
from fluxcube.maps.wetland import FLUX, needs_wetland, wetland_steps
from fluxcube.units import convert

#: Heat that evaporates a kilogram of water at 20 degC, J kg-1 (Allen et al. 1998, FAO Irrigation and Drainage Paper 56,
#: annex 3, equation 3-1); 2.50e6 at 0 degC.
LATENT_HEAT = 2.45e6

_CELLS = ("latitude", "longitude")
_DIMS = ("time", *_CELLS)


@dataclass(frozen=True)
class _Kind:
    """Units of the total of a flux: `factor` converts `mass` times m2 into `units`, per year where `yearly`."""

    units: str
    mass: str
    factor: float
    yearly: bool = True


#: By the first part of a flux's name.
_CARBON = _Kind("PgC yr-1", "gC m-2 s-1", 1e-15)
_KINDS = {
    "NEE": _CARBON,
    "GPP": _CARBON,
    "RECO": _CARBON,
    "FCH4": _Kind("TgCH4 yr-1", "gCH4 m-2 s-1", 1e-12),
    "LE": _Kind("W", "W m-2", 1.0, yearly=False),
    "H": _Kind("W", "W m-2", 1.0, yearly=False),
}


def totals(
    maps: Maps,
    *,
    by: str | None = None,
    regions: str | os.PathLike | Mapping[str, object] | None = None,
    every: str | None = None,
    targets: Sequence[str] | None = None,
    name: str = "name",
    latitude_step: float = 10.0,
    min_coverage: float = 0.9,
    wetland: xr.DataArray | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> xr.Dataset:
    """Return totals of flux maps: the sum of flux times land fraction times cell area times seconds.

    FCH4 is a flux per area of wetland, so that its total is the sum of flux times wetland fraction times cell area.

    Missing values never count as zero. In each time step, land without a value gets the mean of the group's land with
    values, if that is at least half of it; a step with less gets the mean of the same hour (UTC) on the other days of
    its period, so that a missing night does not count as a missing day. ``coverage`` reports the share of values;
    where it is below `min_coverage`, an error is raised instead.

    Parameters
    ----------
    maps : xr.Dataset, path or URL
        Hourly (or daily, or monthly) flux maps (time, latitude, longitude) with the coordinate land_fraction, as
        returned by `fluxcube.upscale` and `fluxcube.open_maps`. Cell areas come from the coordinate cell_area (m2)
        if there is one, else from the WGS84 ellipsoid between latitude_bnds and longitude_bnds, or between the
        midpoints of cells.
    by : {"region", "igbp", "latitude"}, optional
        Kind of groups. By default all land is one group.
    regions : path or mapping, optional
        GeoJSON file, or GeoJSON geometries by name. A cell that a border crosses counts for its part on each side
        (exactly, as edges that are straight in longitude and latitude cut it); the land of a cell is assumed to be
        spread evenly.
    every : {"month", "year"}, optional
        One total for each calendar month or year (UTC). By default one total for the whole period of the maps.
    targets : sequence of str, optional
        By default all of NEE, GPP, RECO, FCH4, LE and H in the maps.
    name : str
        Property of a GeoJSON feature that contains its name.
    latitude_step : float
        Height of the bands of `by="latitude"`, degrees.
    min_coverage : float
        Minimum share of a group's land and time steps that must have values, and of a region that must lie within the
        grid; the maps must also cover that share of a month or year. 0 returns every total. Of FCH4, wetlands count in
        place of land.
    wetland : xr.DataArray, optional
        Share of the area of each cell that is wetland (`fluxcube.weight_by_wetland` documents it). A total of FCH4
        needs it, unless the maps are weighted already.
    progress : callable, optional
        ``progress(done, total, text)``.

    Returns
    -------
    xr.Dataset
        Loaded arrays with the dimension of the groups (region, igbp or band) and time, where there are such. For each
        flux NAME its total and NAME_coverage (0 to 1). Carbon is in PgC yr-1, positive towards the atmosphere for NEE;
        FCH4 in TgCH4 yr-1; LE and H in W; beside LE, ET, the water that it evaporates at 2.45 MJ kg-1, in km3 yr-1.
        NAME_spread, where the maps contain it, is the total of the ensemble's spread, as if the errors of a member were
        equal everywhere and always: an upper bound of the spread of the members' own totals. ``applicable``, where the
        maps contain it, is the share of land and time in the area of applicability. Coordinates: ``area``, the group's
        land (m2); ``wetland_area``, with `wetland`, the group's largest area of wetland (m2); ``inside``, the share of
        a region within the grid; ``years``, the length of the period, an hour of a leap year being 1/8784 of it: a
        total times ``years`` is the amount.

    Raises
    ------
    SchemaError
        If the maps have no flux, no land or no land_fraction, or times that are not in order; or if the coverage of a
        group and period is too low.
    ConfigError
        If the value of an option is not valid, a region is not a polygon, or a flux has no units or unknown ones; if
        FCH4 is among the fluxes without a wetland fraction, or the wetland fraction does not fit; if NAME_std is among
        the fluxes.
    UnknownNameError
        If the maps do not contain one of `targets`.

    Notes
    -----
    There is no total of NAME_std: it describes single hours at the scale of a tower, and the correlation of such
    errors in space and time is not known. The spread of members' own totals needs maps of each member:
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
    maps = as_maps(maps)
    names = _names(maps, targets)
    _check_units(maps, names)
    _check_wetland(maps, names, wetland)
    check_every(every, ("month", "year"))
    if not 0 <= min_coverage <= 1:
        raise ConfigError(f"min_coverage: expected 0 to 1, found {min_coverage!r}.")
    area, latitude_bnds, longitude_bnds = _cells(maps)
    groups = _groups(by, regions, maps, latitude_bnds, longitude_bnds, name=name, latitude_step=latitude_step)
    land = _land(maps, area)
    steps = steps_of(maps, names[0])
    periods = Periods.of(steps, every)
    layers = [n for n in (*names, *(f"{flux}_spread" for flux in names), "applicable") if n in maps]
    areas = dict.fromkeys(layers, land)
    if wetland is not None:
        largest, share = _wetland(maps, wetland)
        for layer in {FLUX, f"{FLUX}_spread"} & set(layers):
            areas[layer] = largest * area.ravel()
            if share is not None:
                maps = maps.assign({layer: (maps[layer] * share).transpose(*_DIMS).assign_attrs(maps[layer].attrs)})
    means = {layer: group_means(maps[layer], groups, areas[layer], periods, progress) for layer in layers}
    _check_coverage({n: means[n] for n in names}, groups, periods, min_coverage)
    sizes = {layer: group_areas(groups, areas[layer]) for layer in layers}
    return _labelled(maps, names, means, groups, periods, group_areas(groups, land), sizes, min_coverage)


def _check_wetland(maps: xr.Dataset, names: Sequence[str], wetland: xr.DataArray | None) -> None:
    """Refuse a total of FCH4 without a wetland fraction, and a wetland fraction without FCH4 (ConfigError)."""
    if wetland is None and needs_wetland(tuple(names), maps):
        others = [name for name in names if name != FLUX]
        raise ConfigError(
            f"totals: {FLUX} is measured over wetlands, so that its total needs the area of wetland: pass "
            "wetland=, the share of each cell that is wetland (such as WAD2M, doi:10.5194/essd-13-2001-2021)"
            + (f", or targets={others} for the others." if others else ".")
        )
    if wetland is not None and FLUX not in names:
        raise ConfigError(f"totals: wetland= weighs {FLUX}, which is not among the fluxes: leave it out.")


def _wetland(maps: xr.Dataset, wetland: xr.DataArray) -> tuple[np.ndarray, xr.DataArray | None]:
    """Return the largest wetland fraction of each cell (cell,), 0 without land, and each step's share of it if any."""
    fraction, share = wetland_steps(maps, wetland), None
    largest = fraction.max("time") if "time" in fraction.dims else fraction
    largest = largest.where(maps.land_fraction > 0, 0.0).fillna(0).compute()
    if "time" in fraction.dims:
        share = (fraction / largest.where(largest > 0)).astype("float32")
    return largest.transpose(*_CELLS).values.astype(float).ravel(), share


def _names(maps: xr.Dataset, fluxes: Sequence[str] | None) -> tuple[str, ...]:
    present = [str(n) for n in maps.data_vars if _is_flux(str(n)) and set(maps[n].dims) == set(_DIMS)]
    for name in fluxes or ():
        refuse_standard_deviation(name)
        if name not in present:
            raise unknown("flux of these maps that has a total", name, present)
    if not present:
        raise SchemaError(
            f"totals: expected a flux ({', '.join(_KINDS)}) of dims {_DIMS}, found "
            f"{', '.join(map(str, maps.data_vars))}: choose other maps."
        )
    return tuple(present if fluxes is None else fluxes)


def _check_units(maps: xr.Dataset, names: Sequence[str]) -> None:
    """Refuse fluxes whose units are missing or have no total, before anything is computed (ConfigError)."""
    for name in names:
        units, mass = str(maps[name].attrs.get("units", "")), _KINDS[name.partition("_")[0]].mass
        if not units:
            raise ConfigError(
                f"totals: {name} has no attribute units, such as {mass!r}: set it, "
                f'maps["{name}"].attrs["units"] = "...".'
            )
        convert(np.asarray(1.0), units, mass, name=name)


def _is_flux(name: str) -> bool:
    head, _, tail = name.partition("_")
    return head in _KINDS and tail in ("", "DT", "NT")


def _cells(maps: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return areas (latitude, longitude) in m2, and the edges of rows and of columns in degrees."""
    if any(dim not in maps.coords for dim in _CELLS):
        raise SchemaError("totals: expected the coordinates latitude and longitude in degrees: assign them.")
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
    """Return the land (cell,) of each cell in m2; a cell of unknown land fraction has none, and no flux either."""
    if "land_fraction" not in maps.coords:
        raise SchemaError(
            "totals: expected the coordinate land_fraction (latitude, longitude), 0 to 1, since fluxes are per area of "
            "land: assign it."
        )
    share = np.nan_to_num(maps.land_fraction.transpose(*_CELLS).values.astype(float))
    if share.min() < 0 or share.max() > 1 + 1e-6:
        raise SchemaError(f"land_fraction: expected 0 to 1, found {share.min():g} to {share.max():g}.")
    if not share.any():
        raise SchemaError("these maps have no land: land_fraction is 0 everywhere; choose another area.")
    return (share * area).ravel()


def _groups(
    by: str | None,
    regions: str | os.PathLike | Mapping[str, object] | None,
    maps: xr.Dataset,
    latitude_bnds: np.ndarray,
    longitude_bnds: np.ndarray,
    *,
    name: str,
    latitude_step: float,
) -> Groups:
    by = "region" if by is None and regions is not None else by
    if by not in (None, "region", "igbp", "latitude"):
        raise ConfigError(f"by: expected region, igbp or latitude, or None; found {by!r}.")
    if (by == "region") != (regions is not None):
        raise ConfigError("by='region' and regions= need each other: pass a GeoJSON file or a mapping of polygons.")
    if regions is not None:
        return by_region(regions, latitude_bnds, longitude_bnds, name)
    if by == "latitude":
        return by_latitude(latitude_bnds, len(longitude_bnds), latitude_step)
    if by == "igbp":
        if "igbp" not in maps.coords:
            raise SchemaError("by='igbp': expected the coordinate igbp (latitude, longitude): assign it.")
        return by_class(maps.igbp.transpose(*_CELLS).values)
    return everywhere(len(latitude_bnds) * len(longitude_bnds))


def _check_coverage(means: Mapping[str, GroupMeans], groups: Groups, periods: Periods, minimum: float) -> None:
    if minimum == 0:
        return
    for label, inside in zip(groups.labels, groups.inside, strict=True):
        if inside < minimum:
            raise SchemaError(
                f"region {label!r} lies within the maps to {inside:.1%} only, less than min_coverage={minimum:g}: "
                "choose a smaller min_coverage, or 0, for the total of that part."
            )
    for name, one in means.items():
        poor = (one.coverage < minimum) | one.gaps
        poor &= np.isfinite(one.coverage)  # groups without land have no total
        if poor.any():
            at, group = map(int, np.unravel_index(np.argmin(np.where(poor, one.coverage, np.inf)), poor.shape))
            why = f"{one.coverage[at, group]:.1%} of land and time have a value"
            if one.coverage[at, group] >= minimum:
                why = "some hour of the day has no value on any day"
            raise SchemaError(
                f"{name}: the coverage of {int(poor.sum())} of {poor.size} totals is too low; the lowest is "
                f"{groups.labels[group]!r} in {periods.label(at)}, where {why} (min_coverage={minimum:g}). "
                "Choose a smaller min_coverage, or 0, for all totals with their coverage."
            )


def _labelled(
    maps: xr.Dataset,
    names: tuple[str, ...],
    means: Mapping[str, GroupMeans],
    groups: Groups,
    periods: Periods,
    area: np.ndarray,
    sizes: Mapping[str, np.ndarray],
    min_coverage: float,
) -> xr.Dataset:
    """Return the totals: means (period, group) times the area of each group that they are means of, `sizes`."""
    dims = ("time", groups.dim or "group")
    out = xr.Dataset(coords={dims[1]: list(groups.labels), **periods.coords(), "area": (dims[1], area, _AREA)})
    if groups.dim == "region":
        attrs = {"long_name": "share of the region that lies within the maps", "units": "1"}
        out = out.assign_coords(inside=("region", groups.inside, attrs))
    if FLUX in sizes and not np.array_equal(sizes[FLUX], area):
        attrs = {"long_name": "largest area of wetland", "units": "m2"}
        out = out.assign_coords(wetland_area=(dims[1], sizes[FLUX], attrs))
    for flux in names:
        for layer in (flux, f"{flux}_spread"):
            if layer in means:
                power = np.where(sizes[layer] > 0, means[layer].mean * sizes[layer], 0.0)
                for label, values, attrs in _amounts(maps[layer], layer, power, periods):
                    out[label] = (dims, values, attrs)
        attrs = {"long_name": f"share of land and time that has a value of {flux}", "units": "1"}
        out[f"{flux}_coverage"] = (dims, means[flux].coverage, attrs)
    if "applicable" in means:
        attrs = {"long_name": "share of land and time in the area of applicability", "units": "1"}
        out["applicable"] = (dims, means["applicable"].mean, attrs)
    out = out.isel({dims[1]: np.flatnonzero(area > 0)})
    out = out if groups.dim else out.isel(group=0).drop_vars("group")
    out = out if periods.every else out.isel(time=0)
    return out.assign_attrs(
        title="totals of flux maps",
        min_coverage=min_coverage,
        missing="land without a value has the mean of its group's in that hour, hours without one that of their hour "
        "of the day in the period",
        **{k: maps.attrs[k] for k in ("model", "model_digest", "masked_predictors") if k in maps.attrs},
    )


_AREA = {"long_name": "land", "units": "m2"}


def _amounts(array: xr.DataArray, name: str, power: np.ndarray, periods: Periods) -> Iterator[tuple]:
    """Yield name, values (period, group) and attributes of the totals of a flux times area (period, group)."""
    flux = name.removesuffix("_spread")
    kind, units = _KINDS[flux.partition("_")[0]], str(array.attrs.get("units", ""))
    yearly = (periods.nominal / periods.years)[:, None]
    scale = float(convert(np.asarray(1.0), units, kind.mass, name=name))
    value = power * scale * kind.factor * (yearly if kind.yearly else 1.0)
    attrs = {"long_name": f"total {array.attrs.get('long_name', name)}", "units": kind.units}
    if name != flux:
        attrs |= {
            "long_name": f"spread of {flux} between the members of the ensemble, added up",
            "error_correlation": "1 in space and time within a member: an upper bound",
        }
    yield name, value, attrs
    if flux == "LE":
        tail = name.removeprefix("LE")
        attrs = {
            "long_name": "evaporated water" + (" (spread)" if tail else ""),
            "units": "km3 yr-1",
            "derived": f"{name} / {LATENT_HEAT:g} J kg-1",
        }
        yield f"ET{tail}", value * yearly / LATENT_HEAT * 1e-12, attrs
