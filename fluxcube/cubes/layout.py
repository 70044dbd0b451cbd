"""Layout of a tower cube in its store: coordinates, arrays and their files, and the part of each site.

The time axis of every store begins at a fixed epoch, 1980-01-01, and a shard contains 60 years of one site. A new year
makes the axis longer, a new site has files of its own, and the files of other sites do not change. Empty years take no
space, and `fluxcube.open_carbonsense` omits them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from fluxcube.cubes.places import location
from fluxcube.cubes.tower_data import Stack, Tower, TowerOptions
from fluxcube.decimals import snap
from fluxcube.errors import SourceError
from fluxcube.resolution import ALL, HOURLY
from fluxcube.schema import CHIP_X, CHIP_Y, PARTS, STACKS, stack_parts, variable_coords
from fluxcube.stores.arrays import ArraySpec
from fluxcube.stores.building import spill, spilled, unspill
from fluxcube.stores.shards import write_run

#: Start of every store's time axis; no flux tower is older.
EPOCH = np.datetime64("1980-01-01", "h")
#: Start of every store's day axis (of satellite data): the year of the first MODIS images.
DAY_EPOCH = np.datetime64("2000-01-01", "D")
#: One step of the time axis, by resolution.
STEPS = {name: row.step for name, row in ALL.items()}

#: Attribute of cubes whose chunks have a checksum.
CHECKSUMS = "crc32c of each chunk"
#: Number of time steps per chunk, which is read and decompressed as a whole: two months hourly, four years daily.
CHUNK = 1461
#: Number of chunks in a file, which is 60 years.
SHARD = {name: 15 * row.steps_per_day for name, row in ALL.items()}
#: Reflectance is stored in steps of 0.0001, as in the MODIS products.
_CHIP_SCALE, _CHIP_FILL = 1e-4, -32768
#: Number of days in a file: 60 years.
DAYS_SHARD = 32 * 685

#: What `write_tower` needs to know about a site, as `placed` returns it. It can be written as JSON; the store keeps it.
Place = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class CubeSettings:
    """How a cube is built; appending to it must not change this.

    Attributes
    ----------
    predictors, fluxes : tuple of str
        Labels of the stacks.
    resolution : {"hourly", "daily"}
        Step of the time axis.
    clock : {"solar", "standard"}
        Clock of DOY and TOD.
    order, rule : str
        Order of publications, and rule of fusion, as in `fluxcube.build_carbonsense`.
    compact : bool
        Whether values are stored as scaled integers (`fluxcube.decimals`).
    checksum : bool
        Whether each chunk has a CRC-32C. Cubes of earlier versions have none, and what is appended to them has none.
    """

    predictors: tuple[str, ...]
    fluxes: tuple[str, ...]
    resolution: str = "hourly"
    clock: str = "solar"
    order: str = "newest"
    rule: str = "newest"
    compact: bool = False
    checksum: bool = True

    @classmethod
    def of(cls, cube: xr.Dataset, attrs: Mapping[str, str]) -> CubeSettings:
        """Return the settings of an opened cube with the attributes `attrs`."""
        labels = {stack: tuple(str(name) for name in cube[dim].values) for stack, dim in STACKS.items()}
        return cls(
            predictors=labels["predictors"],
            fluxes=labels["fluxes"],
            resolution=attrs["resolution"],
            clock=attrs["clock"],
            order=attrs["order"],
            rule=attrs["fusion_rule"],
            compact=attrs["packing"] == "decimals",
            checksum=attrs.get("checksums") == CHECKSUMS,
        )

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """Labels by stack (`STACKS`)."""
        return {"predictors": self.predictors, "fluxes": self.fluxes}

    @property
    def attrs(self) -> dict[str, str]:
        """Attributes of the store that record the settings."""
        return {
            "resolution": self.resolution,
            "clock": self.clock,
            "order": self.order,
            "fusion_rule": self.rule,
            "predictors": " ".join(self.predictors),
            "packing": "decimals" if self.compact else "floats",
        } | ({"checksums": CHECKSUMS} if self.checksum else {})

    def tower_options(self, *, strict: bool = False, trust: tuple[str, ...] = ()) -> TowerOptions:
        """Return the options to read a tower of this cube with."""
        return TowerOptions(
            predictors=self.predictors,
            targets=self.fluxes,
            rule=self.rule,
            clock=self.clock,
            strict=strict,
            trust=trust,
        )


def span(tower: Tower, resolution: str = "hourly") -> tuple[np.datetime64, np.datetime64]:
    """Return the first time step of a tower and the one after its last."""
    return tower.time[0], tower.time[-1] + STEPS[resolution]


def check_epoch(tower: Tower) -> None:
    """Raise a SourceError if a tower has values before the time axis begins."""
    if tower.time[0] < EPOCH:
        raise SourceError(
            f"{tower.info.site}: expected values from {EPOCH} on, since there were no flux towers before, found values "
            f"from {np.datetime64(tower.time[0], 'h')}; check the years in the file."
        )


def placed(tower: Tower, resolution: str = "hourly") -> dict[str, object]:
    """Return what the coordinates and arrays of a cube need to know about a tower, in values that JSON can contain."""
    info, (start, stop) = tower.info, span(tower, resolution)
    latitude, longitude = location(info)
    return {
        "site": info.site,
        "latitude": float(latitude),
        "longitude": float(longitude),
        "elevation": None if info.elevation is None else float(info.elevation),
        "igbp": info.igbp,
        "koppen": info.koppen,
        "networks": list(tower.networks),
        "utc_offset": float(tower.utc_offset),
        "start": str(start.astype("datetime64[h]")),
        "stop": str(stop.astype("datetime64[h]")),
        "arrays": [stack + ending for stack in STACKS for ending in getattr(tower, stack).parts],
    }


def time_axis(places: Sequence[Place], resolution: str = "hourly") -> np.ndarray:
    """Return the time axis (time,) datetime64[ns] of a store of these sites, from the epoch to the last step."""
    stop = max(np.datetime64(place["stop"], "h") for place in places)
    return np.arange(EPOCH, stop, STEPS[resolution].astype("timedelta64[h]")).astype("datetime64[ns]")


def cube_coords(
    places: Sequence[Place], time: np.ndarray, settings: CubeSettings, days: np.ndarray | None
) -> xr.Dataset:
    """Return the coordinates of a cube of these sites.

    Parameters
    ----------
    places : sequence of mapping
        As `placed` returns them, with their ``citations``, ``dois`` and ``licences`` by network, in the order of the
        `site` axis.
    time : (time,) datetime64[ns]
        UTC hours, or local dates.
    settings : CubeSettings
        Of the cube.
    days : (day,) datetime64 or None
        Days of chips; None for a cube without chips.

    Returns
    -------
    xr.Dataset
        Without data variables.
    """
    coords: dict[str, tuple] = {name: ("site", *parts) for name, parts in _on_site(places).items()}
    coords |= _on_time(time, settings.resolution)
    for stack, dim in STACKS.items():
        coords |= variable_coords(settings.labels[stack], dim, settings.resolution)
    if days is not None:
        coords |= _on_day(days)
    return xr.Dataset(coords=coords)


def _on_site(places: Sequence[Place]) -> dict[str, tuple]:
    def text(key: str, join: str = "") -> np.ndarray:
        return np.array([join.join(p[key]) if join else p[key] for p in places], object)

    def number(key: str) -> np.ndarray:
        return np.array([np.nan if p[key] is None else p[key] for p in places], float)

    def hour(key: str) -> np.ndarray:
        return np.array([np.datetime64(p[key], "ns") for p in places])

    return {
        "site": (text("site"), {"long_name": "site", "cf_role": "timeseries_id"}),
        "latitude": (number("latitude"), _cf("latitude", "degrees_north")),
        "longitude": (number("longitude"), _cf("longitude", "degrees_east")),
        "elevation": (number("elevation"), {"long_name": "elevation above sea level", "units": "m"}),
        "igbp": (text("igbp"), {"long_name": "IGBP land-cover class"}),
        "koppen": (text("koppen"), {"long_name": "Koeppen-Geiger climate class"}),
        "network": (text("networks", ";"), {"long_name": "sources, newest first"}),
        "citation": (text("citations", "\n"), {"long_name": "how to cite each source, one a line"}),
        "doi": (text("dois", ";"), {"long_name": "DOI of each source"}),
        "licence": (text("licences", "\n"), {"long_name": "licence of each source, one a line"}),
        "utc_offset": (number("utc_offset"), {"long_name": "standard time minus UTC", "units": "h"}),
        "time_start": (hour("start"), {"long_name": "first hour with a value"}),
        "time_stop": (hour("stop"), {"long_name": "hour after the last with a value"}),
    }


def _on_time(time: np.ndarray, resolution: str) -> dict[str, tuple]:
    what = ALL[resolution].time_name
    return {
        "time": ("time", time, {"standard_name": "time", "long_name": what}),
        "time_bnds": (("time", "bnds"), np.stack([time, time + STEPS[resolution]], 1)),
    }


def _on_day(days: np.ndarray) -> dict[str, tuple]:
    """Return the coordinates of chips: every day from the epoch on, and which of these have data."""
    with_data = np.sort(days.astype("datetime64[D]"))
    axis = day_axis(with_data)
    return {
        "day": ("day", axis.astype("datetime64[ns]"), {"long_name": "date of the satellite product"}),
        "day_held": ("day", np.isin(axis, with_data), {"long_name": "days of which some site has a value"}),
        "band": ("band", np.array(HOURLY.bands, object)),
        "y": ("y", CHIP_Y, {"units": "m", "long_name": "distance north of the tower"}),
        "x": ("x", CHIP_X, {"units": "m", "long_name": "distance east of the tower"}),
    }


def day_axis(days: np.ndarray) -> np.ndarray:
    """Return every day (day,) datetime64[D] from `DAY_EPOCH` to the last of `days`."""
    if days.min() < DAY_EPOCH:
        raise SourceError(
            f"expected MODIS data from {DAY_EPOCH} on, found some of {days.min()}; check the dates of the rasters."
        )
    return np.arange(DAY_EPOCH, days.max() + 1)


def _cf(name: str, units: str) -> dict[str, str]:
    return {"standard_name": name, "long_name": name, "units": units}


def cube_arrays(places: Sequence[Place], steps: int, settings: CubeSettings, days: int | None) -> dict[str, ArraySpec]:
    """Return the arrays of a cube, as `fluxcube.stores.arrays.create` expects them.

    Parameters
    ----------
    places : sequence of mapping
        Sites, as `placed` returns them. An optional array exists if any site has it.
    steps : int
        Number of time steps.
    settings : CubeSettings
        Of the cube.
    days : int or None
        Number of days of chips; None for a cube without.

    Returns
    -------
    dict of str to ArraySpec
        By the name of the array.
    """
    resolution, present = settings.resolution, {name for place in places for name in place["arrays"]}
    arrays = {}
    for stack, dim in STACKS.items():
        width = len(settings.labels[stack])
        for ending in stack_parts(stack, resolution):
            part = PARTS[ending]
            if part.required or stack + ending in present:
                arrays[stack + ending] = ArraySpec(
                    dims=("site", "time", dim),
                    shape=(len(places), steps, width),
                    dtype=part.dtype,
                    chunks=(1, CHUNK, width),
                    shards=(1, CHUNK * SHARD[resolution], width),
                    fill_value=part.fill,
                    attrs={**part.attrs, "long_name": f"{part.attrs.get('long_name', '')} {stack}".strip()},
                    decimals=settings.compact and part.dtype == "float32",
                )
    if days is not None:
        arrays[HOURLY.satellite] = _chip_array(len(places), days)
    return arrays


def _chip_array(sites: int, days: int) -> ArraySpec:
    """Return the array of chips: scaled images (band, y, x) of each day."""
    inner = (len(HOURLY.bands), len(CHIP_Y), len(CHIP_X))
    return ArraySpec(
        dims=("site", "day", "band", "y", "x"),
        shape=(sites, days, *inner),
        dtype="int16",
        chunks=(1, HOURLY.satellite_chunk, *inner),
        shards=(1, DAYS_SHARD, *inner),
        fill_value=_CHIP_FILL,
        attrs={
            "long_name": HOURLY.satellite_title,
            "units": "1",
            "scale_factor": _CHIP_SCALE,
            "_FillValue": _CHIP_FILL,
        },
    )


def spill_tower(building: Path, tower: Tower, *, compact: bool = False) -> None:
    """Spill a tower's values for `write_tower`; with `compact`, without the rounding errors of decimal fractions."""
    arrays = {}
    for name in STACKS:
        stack: Stack = getattr(tower, name)
        arrays[f"{name}_names"] = np.array(stack.names, str)
        for ending, values in stack.parts.items():
            scale = PARTS[ending].attrs.get("scale_factor")
            values = (np.rint(values / scale) if scale else values).astype(PARTS[ending].dtype)
            if compact and values.dtype == np.float32:
                values = np.stack([snap(column) for column in values.T], 1) if values.size else values
            arrays[name + ending] = values
    spill(building, tower.info.site, arrays)


def spill_chips(building: Path, site: str, day: np.ndarray, values: np.ndarray) -> None:
    """Spill some days of a site's chips (day, band, y, x) float32 for `write_chips`.

    The days of several calls must be in ascending order.
    """
    values = np.where(np.isfinite(values), np.rint(values / _CHIP_SCALE), _CHIP_FILL).astype(np.int16)
    if len(day):
        day = day.astype("datetime64[D]")
        spill(building, f"{site}.chips.{day[0]}", {"day": day, "values": values})


def write_tower(building: Path, at: int, place: Place, settings: CubeSettings) -> None:
    """Write the values of a site that `spill_tower` spilled.

    Parameters
    ----------
    building : path
        Store that is being built.
    at : int
        Index of the site on its axis.
    place : mapping
        As `placed` returns it.
    settings : CubeSettings
        Of the cube.
    """
    parts = unspill(building, place["site"])
    step = STEPS[settings.resolution].astype("timedelta64[h]")
    start = int((np.datetime64(place["start"], "h") - EPOCH) / step)
    for stack, labels in settings.labels.items():
        columns = [labels.index(name) for name in parts[f"{stack}_names"]]
        for ending in stack_parts(stack, settings.resolution):
            if (values := parts.get(stack + ending)) is not None:
                run = np.full((len(values), len(labels)), PARTS[ending].fill, values.dtype)
                run[:, columns] = values
                write_run(building, stack + ending, at, start, run)


def write_chips(building: Path, at: int, site: str) -> None:
    """Write the chips of a site that `spill_chips` spilled, each day at its position."""
    parts = [unspill(building, key) for key in spilled(building, f"{site}.chips.")]
    if parts:
        days, values = (np.concatenate([part[key] for part in parts]) for key in ("day", "values"))
        write_days(building, HOURLY.satellite, at, days, values, _CHIP_FILL)


def write_days(building: Path, name: str, at: int, days: np.ndarray, values: np.ndarray, fill: float) -> None:
    """Write the values of some days of a site, each at the position of its day.

    Parameters
    ----------
    building : path
        Store that is being built.
    name : str
        Array (site, day, ...).
    at : int
        Index of the site on its axis.
    days : (day,) datetime64[D]
        Dates, ascending, at least one.
    values : (day, ...) array
    fill : float
        Value of the days between them.
    """
    position = (days - DAY_EPOCH).astype(int)
    run = np.full((int(position[-1] - position[0]) + 1, *values.shape[1:]), fill, values.dtype)
    run[position - position[0]] = values
    write_run(building, name, at, int(position[0]), run)
