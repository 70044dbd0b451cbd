"""Drivers of towers from another source than the tower itself, such as reanalysis: add them to a cube, and use them."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from fluxcube.cubes.driver_choice import choose_drivers
from fluxcube.cubes.driver_comparison import ERA5, compare_drivers, doubts
from fluxcube.cubes.driver_sources import DriverSource, JoinedDrivers, open_drivers
from fluxcube.cubes.drivers_layout import drivers_attrs
from fluxcube.cubes.layout import Place
from fluxcube.cubes.selection import Cube, as_cube
from fluxcube.errors import ConfigError, SourceError
from fluxcube.resolution import resolution_of
from fluxcube.schema import (
    DRIVERS,
    PARTS,
    TOWER,
    USED_DRIVERS,
    validate_cube,
)
from fluxcube.sources.towers.codes import possible
from fluxcube.variables import COMPUTED, table

log = logging.getLogger(__name__)

_NAME = re.compile(r"[a-z][a-z0-9]{0,19}")
#: Names that would be those of other arrays of a cube, or mean the tower's own drivers.
_TAKEN = frozenset([TOWER, *(ending.strip("_") for ending in PARTS if ending)])
#: Values are refused if more than this share is impossible, as in other units.
_MOST = 0.5
#: Number of sites named in a message.
_NAMED = 5
#: Maximum number of towers that are compared when drivers are added.
_COMPARED_SITES = 5


@dataclass(frozen=True, eq=False)
class SiteDrivers:
    """Drivers of one tower in the time steps of its record.

    Attributes
    ----------
    values : (time, variable) float32
        In the units of the variable table; NaN where missing, and for variables that the source lacks.
    variables : tuple of str
        Variables that have a value.
    """

    values: np.ndarray
    variables: tuple[str, ...]

    @property
    def share(self) -> float:
        """Share of the time steps that have a value of any variable."""
        return float(np.isfinite(self.values).any(1).mean()) if len(self.values) else 0.0


def check_name(name: str) -> str:
    """Return the name of a source of drivers.

    Raises
    ------
    ConfigError
        If it is not made of small letters and digits, or has another meaning.
    """
    if not _NAME.fullmatch(name) or name in _TAKEN:
        raise ConfigError(
            f"name={name!r}: expected small letters and digits such as era5, and none of {', '.join(sorted(_TAKEN))}."
        )
    return name


def drivers_at(sources: JoinedDrivers, place: Place, names: Sequence[str], resolution: str) -> SiteDrivers | None:
    """Return the drivers of a tower in the time steps of its record; None if the sources have no value of its time.

    Parameters
    ----------
    sources : JoinedDrivers
        From `open_drivers`.
    place : mapping
        Site, latitude, longitude (degrees), utc_offset (h), start and stop of its record.
    names : sequence of str
        Variables of the cube.
    resolution : {"hourly", "daily"}
        Resolution of the cube.
    """
    record = sources.record(place, resolution)
    if record is None:
        return None
    step = np.timedelta64(1, "h" if resolution == "hourly" else "D")
    time = np.arange(_stamp(place["start"]), _stamp(place["stop"]), step).astype("datetime64[ns]")
    inside = record.reindex(time=time)
    values = np.full((len(time), len(names)), np.nan, np.float32)
    for i, name in enumerate(names):
        if name in inside and name not in COMPUTED:
            values[:, i] = _possible(inside[name].values, name, resolution, str(place["site"]))
    found = tuple(name for i, name in enumerate(names) if np.isfinite(values[:, i]).any())
    return SiteDrivers(values, found) if found else None


def read_drivers(
    sources: JoinedDrivers, place: Place, names: Sequence[str], resolution: str, *, strict: bool
) -> tuple[SiteDrivers | None, str]:
    """Return `drivers_at`, and why the drivers of a tower cannot be read ("" if they can); raise that if strict."""
    try:
        return drivers_at(sources, place, names, resolution), ""
    except SourceError as error:
        if strict:
            raise
        log.warning("%s", error)
        return None, str(error)


def _possible(values: np.ndarray, name: str, resolution: str, site: str) -> np.ndarray:
    """Return values (time,) without impossible ones; raise a SourceError if most of them are."""
    good, present = possible(values, name, resolution), np.isfinite(values)
    if (present & ~good).sum() > _MOST * present.sum():
        row = table(resolution)[name]
        raise SourceError(
            f"drivers of {site}: {name} must be in {row.units}, found values such as {values[present & ~good][0]:g} "
            f"beyond {row.limits[0]:g} to {row.limits[1]:g}; convert them, or set the attribute units of a Dataset."
        )
    return np.where(good, values, np.nan)


def _stamp(time: object) -> np.datetime64:
    return np.datetime64(str(time), "h")


def add_drivers(
    cube: Cube, source: DriverSource | Sequence[DriverSource], *, name: str = ERA5, sites: str = "some"
) -> xr.Dataset:
    """Return a tower cube with a second source of predictors, such as reanalysis at the towers.

    The tower's own predictors stay as they are. ``drivers=name`` of `fluxcube.open_carbonsense`, `fluxcube.fit` and
    `fluxcube.predict`, or `fluxcube.use_drivers`, then uses these instead.

    Parameters
    ----------
    cube : xr.Dataset, path or URL
        A tower cube, hourly or daily; it is not changed.
    source : path, xr.Dataset, pandas.DataFrame or sequence of these
        * a folder, zip or file with the reanalysis that publishers add to archives: ``..._ERAI_{HH,HR,DD}_...csv`` of
          FLUXNET2015, AmeriFlux and Warm Winter 2020, ``..._ERA5_...csv`` of the FLUXNET Shuttle and JapanFlux;
        * a table of several sites (CSV or DataFrame), with the columns site, date or time, and TA or TA_ERA, ...;
        * a Dataset or NetCDF file with such variables (site, time), or another tower cube;
        * a forcing (`fluxcube.open_forcing`, or a store of it): each tower has the values of the cell that contains it.

        Times are local dates, or UTC at the start of the hour; ONEFlux's files are in local standard time, and are
        converted. Values have the units of the variable table, or those of the attribute ``units`` of a Dataset. Of
        several sources, the first one that has a site supplies it.
    name : str
        Name of the source.
    sites : {"some", "all"}
        Whether towers without drivers, or with a file that cannot be read, are accepted (their drivers are missing, and
        the log names them), or refused.

    Returns
    -------
    xr.Dataset
        The cube with the array ``predictors_NAME`` (site, time, variable), in RAM, or lazy if the cube is. Its
        attributes are ``source``, ``variables`` (those with a value) and ``sites`` (those with drivers). Values beyond
        a tower's own record are left out, and values beyond the limits of the variable table are missing.

    Raises
    ------
    ConfigError
        If the name is taken, the cube is normalised, or no tower (with ``sites="all"``, not every tower) has drivers.
    SourceError
        If a source cannot be read, has no drivers, or has days where the cube has hours; if the files of no tower can
        be read.
    SchemaError
        If `cube` is not a tower cube.

    Notes
    -----
    Half-hours are aggregated as those of towers are (`fluxcube.cubes.hourly.to_hourly`,
    `fluxcube.cubes.localdays.to_daily`). TA_RANGE exists only where a source has half-hours or hours. DOY, TOD and
    SW_IN_POT, and predictors that `fluxcube.add_predictor` added, are the same for all sources of drivers.

    Examples
    --------
    >>> import pandas as pd
    >>> from fluxcube.simulation.example import example_cube
    >>> cube = example_cube(sites=2, days=2)
    >>> table = pd.DataFrame({"site": "XX-S00", "time": cube.time.values, "TA_ERA": 5.0})
    >>> both = add_drivers(cube, table)
    >>> both.predictors_era5.attrs["variables"], both.predictors_era5.attrs["sites"]
    ('TA', 'XX-S00')
    >>> float(use_drivers(both, "era5").predictors.sel(site="XX-S00", variable="TA").mean())
    5.0
    """
    cube = validate_cube(as_cube(cube))
    array = DRIVERS + check_name(name)
    if "normalized" in cube.attrs or cube.attrs.get(USED_DRIVERS, TOWER) != TOWER:
        raise ConfigError("expected a cube of the tower's own drivers in physical units: open it without options.")
    if array in cube:
        raise ConfigError(f'the cube has drivers {name} already: remove them with .drop_vars("{array}") first.')
    resolution, names = resolution_of(cube).name, [str(label) for label in cube["variable"].values]
    opened = open_drivers(source)
    found, faults = {}, []
    for place in places_of(cube):
        site = str(place["site"])
        found[site], fault = read_drivers(opened, place, names, resolution, strict=sites == "all")
        faults += [fault] if fault else []
    have = [site for site, one in found.items() if one is not None]
    check_sites(name, have, list(found), faults, whole=sites == "all")
    variables = {variable for one in found.values() if one is not None for variable in one.variables}
    attrs = drivers_attrs(opened.product, [label for label in names if label in variables], have)
    log_missing(name, attrs["variables"], names)
    values = xr.DataArray(_stacked(cube, found), dims=("site", "time", "variable"), attrs=attrs)
    out = validate_cube(cube.assign({array: values}))
    for doubt in doubts(compare_drivers(out.sel(site=have[:_COMPARED_SITES]), name)):
        log.warning("drivers %s: %s", name, doubt)
    return out


def places_of(cube: xr.Dataset) -> list[dict[str, object]]:
    """Return what `drivers_at` needs to know of each tower of an opened cube, in order; spans within its time axis."""
    first, last = cube["time"].values[[0, -1]]
    step = resolution_of(cube).step
    columns = {key: cube[key].values for key in ("site", "latitude", "longitude", "utc_offset")}
    starts, stops = np.maximum(cube.time_start.values, first), np.minimum(cube.time_stop.values, last + step)
    return [
        {key: column[i] for key, column in columns.items()} | {"start": starts[i], "stop": stops[i]}
        for i in range(cube.sizes["site"])
    ]


def check_sites(
    name: str, have: Sequence[str], every: Sequence[str], faults: Sequence[str] = (), *, whole: bool = False
) -> None:
    """Refuse drivers of none of the towers (with `whole`, of not all); log the towers that have none.

    Raises
    ------
    SourceError
        If no tower has drivers, with the first of the `faults` in their files.
    ConfigError
        If no tower has drivers, and nothing is wrong with their files.
    """
    if not have and faults:
        raise SourceError(faults[0])
    lacking = [site for site in every if site not in set(have)]
    named = f"{', '.join(lacking[:_NAMED])}{', ...' if len(lacking) > _NAMED else ''}"
    if not have or (whole and lacking):
        raise ConfigError(
            f"drivers {name}: {len(lacking)} of {len(every)} towers have no value in the time of their record "
            f"({named}): check the names of the sites, the years and the places of the source; an hourly cube needs "
            "half-hours or hours."
        )
    if lacking:
        log.warning("drivers %s: %d of %d towers have none: %s", name, len(lacking), len(every), named)


def log_missing(name: str, variables: str, names: Sequence[str]) -> None:
    """Log the variables of a cube that a source of drivers lacks, which are missing with these drivers."""
    if missing := [one for one in names if one not in (*variables.split(), *COMPUTED)]:
        log.info("drivers %s: missing, since the source does not have them: %s", name, ", ".join(missing))


def _stacked(cube: xr.Dataset, found: dict[str, SiteDrivers | None]) -> np.ndarray:
    """Return the drivers of all towers (site, time, variable), NaN beyond their records; lazy if the cube is."""
    shape = (cube.sizes["time"], cube.sizes["variable"])
    begins = np.searchsorted(cube["time"].values, np.array([_stamp(place["start"]) for place in places_of(cube)]))
    if cube["predictors"].chunks is None:
        return np.stack([_placed(one, int(at), shape) for one, at in zip(found.values(), begins, strict=True)])
    import dask
    import dask.array as da

    placed = dask.delayed(_placed, pure=True)
    sites = [
        da.from_delayed(placed(one, int(at), shape), shape, np.float32)
        for one, at in zip(found.values(), begins, strict=True)
    ]
    return da.stack(sites).rechunk(dict(enumerate(cube["predictors"].chunks)))


def _placed(one: SiteDrivers | None, begin: int, shape: tuple[int, int]) -> np.ndarray:
    out = np.full(shape, np.nan, np.float32)
    if one is not None:
        out[begin : begin + len(one.values)] = one.values
    return out


def use_drivers(cube: Cube, name: str) -> xr.Dataset:
    """Return a tower cube whose predictors are those of one of its sources of drivers.

    Parameters
    ----------
    cube : xr.Dataset, path or URL
        A tower cube, lazy or in RAM.
    name : str
        "tower", or a source that `fluxcube.add_drivers` or a build added, such as "era5".

    Returns
    -------
    xr.Dataset
        The same cube for "tower". Else `predictors` has the values of the array ``predictors_NAME``, and that array is
        left out; variables that the source lacks, and towers without drivers, are missing. DOY, TOD, SW_IN_POT and
        predictors that `fluxcube.add_predictor` added stay. The flag of a value is 0 and its quality 1, since a
        reanalysis has no gaps to fill. The attributes ``drivers``, ``drivers_source``, ``drivers_sites`` (sites that
        have any) and ``drivers_missing`` (predictors that the source lacks) record the choice; models and predictions
        record it, too.

    Raises
    ------
    UnknownNameError
        If the cube has no such drivers.
    ConfigError
        If the predictors of the cube are drivers of another source already.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> cube = example_cube(sites=2, days=2)
    >>> cube = add_drivers(cube, xr.Dataset({"TA": cube.predictors.sel(variable="TA", drop=True) + 1}), name="warmer")
    >>> warmer = use_drivers(cube, "warmer")
    >>> float((warmer.predictors - cube.predictors).sel(variable="TA").mean().round(3))
    1.0
    """
    return choose_drivers(as_cube(cube), name)
