"""How a tower cube lies in its store: coordinates, arrays and their files, and one site's part of them.

A store's time axis begins at a fixed epoch, 1980-01-01, and a shard holds 60 years of one site: a new year makes the
axis longer, a new site gets files of its own, and no other site's file changes. Empty years take no room, and
`fluxcube.open_carbonsense` shows none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube.cubes.tower import Tower
from fluxcube.decimals import snap
from fluxcube.errors import SourceError
from fluxcube.schema import CHIP_X, CHIP_Y, PARTS, STACKS, stack_parts, variable_coords
from fluxcube.stores.arrays import ArraySpec
from fluxcube.stores.building import spill, spilled, unspill
from fluxcube.stores.shards import write_run
from fluxcube.timestamps import DAY, HOUR
from fluxcube.variables import BANDS

#: Where every store's time axis begins; no tower is older.
EPOCH = np.datetime64("1980-01-01", "h")
#: Where every store's day axis (of satellite data) begins: the year of MODIS's first light.
DAY_EPOCH = np.datetime64("2000-01-01", "D")
#: One step of the time axis, by resolution.
STEPS = {"hourly": HOUR, "daily": DAY}

#: Steps that are read and decompressed at once: two months of hours, four years of days.
CHUNK = 1461
#: Chunks in a file: 60 years. Those of days have as many.
_SHARD = {"hourly": 360, "daily": 15}
#: Reflectance in steps of 0.0001, as MODIS itself packs it.
_CHIP_SCALE, _CHIP_FILL = 1e-4, -32768
#: Satellite data: name of the array, its shape a day, its title, and days read at once.
_SATELLITE = {
    "hourly": (
        "modis",
        (len(BANDS), len(CHIP_Y), len(CHIP_X)),
        "reflectance (MCD43A4 bands 1-7), snow and water (MCD43A2)",
        32,
    ),
    "daily": ("surface", (7,), "reflectance under a clear sky, mean of 2 km x 2 km (MOD09GA bands 1-7)", 1370),
}
#: Days in a file: 60 years.
_DAYS_SHARD = 32 * 685

#: What `write_tower` needs to know of a site once its values are put aside; JSON can hold it, and the store keeps it.
Record = Mapping[str, object]


def span(tower: Tower, resolution: str = "hourly") -> tuple[np.datetime64, np.datetime64]:
    """Return the first step of a tower and the one after its last."""
    return tower.time[0], tower.time[-1] + STEPS[resolution]


def check_epoch(tower: Tower) -> None:
    """Refuse a tower that is older than the time axis (SourceError)."""
    if tower.time[0] < EPOCH:
        raise SourceError(
            f"{tower.info.site}: its values begin at {np.datetime64(tower.time[0], 'h')}, before {EPOCH}, where every "
            "store's time begins and no flux tower yet stood; check the file's years."
        )


def placed(tower: Tower, resolution: str = "hourly") -> dict[str, object]:
    """Return what the coordinates and arrays of a cube need to know of a tower, as JSON can hold it."""
    info, (start, stop) = tower.info, span(tower, resolution)
    return {
        "site": info.site,
        "latitude": float(info.latitude),
        "longitude": float(info.longitude),
        "elevation": None if info.elevation is None else float(info.elevation),
        "igbp": info.igbp,
        "koppen": info.koppen,
        "networks": list(tower.networks),
        "utc_offset": float(tower.utc_offset),
        "start": str(start.astype("datetime64[h]")),
        "stop": str(stop.astype("datetime64[h]")),
        "arrays": [stack + ending for stack in STACKS for ending in getattr(tower, stack).parts],
    }


def time_axis(places: Sequence[Record], resolution: str = "hourly") -> np.ndarray:
    """Return the time axis of a store that holds these sites: from the epoch to the last step, datetime64[ns]."""
    stop = max(np.datetime64(place["stop"], "h") for place in places)
    return np.arange(EPOCH, stop, STEPS[resolution].astype("timedelta64[h]")).astype("datetime64[ns]")


def cube_coords(
    places: Sequence[Record],
    time: np.ndarray,
    labels: Mapping[str, Sequence[str]],
    days: np.ndarray | None,
    resolution: str = "hourly",
) -> xr.Dataset:
    """Return the coordinates of a cube of these sites.

    Parameters
    ----------
    places : sequence of mapping
        As `placed` gives them, with their ``citations``, ``dois`` and ``licences`` by network, in the order of the
        `site` axis.
    time : (time,) datetime64[ns]
        UTC hours, or local dates.
    labels : mapping of str to sequence of str
        Labels of each stack (`STACKS`).
    days : (day,) datetime64 or None
        Days of satellite data; None makes a cube without.
    resolution : str
        "hourly" or "daily".
    """
    coords = {name: ("site", *parts) for name, parts in _on_site(places).items()}
    coords |= _on_time(time, resolution)
    for stack, dim in STACKS.items():
        coords |= variable_coords(labels[stack], dim, resolution)
    if days is not None:
        coords |= _on_day(days, resolution)
    return xr.Dataset(coords=coords)


def _on_site(places: Sequence[Record]) -> dict[str, tuple]:
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
    what = {"hourly": "start of the hour, UTC", "daily": "date, local standard time"}[resolution]
    return {
        "time": ("time", time, {"standard_name": "time", "long_name": what}),
        "time_bnds": (("time", "bnds"), np.stack([time, time + STEPS[resolution]], 1)),
    }


def _on_day(days: np.ndarray, resolution: str) -> dict[str, tuple]:
    """Return the coordinates of satellite data: every day from the epoch on, and which of them have any."""
    held = np.sort(days.astype("datetime64[D]"))
    axis = day_axis(held)
    coords = {
        "day": ("day", axis.astype("datetime64[ns]"), {"long_name": "date of the satellite product"}),
        "day_held": ("day", np.isin(axis, held), {"long_name": "days of which some site has a value"}),
        "band": ("band", np.array(BANDS[: _SATELLITE[resolution][1][0]], object)),
    }
    if resolution == "hourly":
        coords["y"] = ("y", CHIP_Y, {"units": "m", "long_name": "distance north of the tower"})
        coords["x"] = ("x", CHIP_X, {"units": "m", "long_name": "distance east of the tower"})
    return coords


def day_axis(days: np.ndarray) -> np.ndarray:
    """Return every day (day,) datetime64[D] from `DAY_EPOCH` to the last of `days`."""
    if days.min() < DAY_EPOCH:
        raise SourceError(f"satellite data of {days.min()}: before {DAY_EPOCH}, when MODIS did not fly; check dates.")
    return np.arange(DAY_EPOCH, days.max() + 1)


def _cf(name: str, units: str) -> dict[str, str]:
    return {"standard_name": name, "long_name": name, "units": units}


def cube_arrays(
    places: Sequence[Record],
    steps: int,
    labels: Mapping[str, Sequence[str]],
    days: int | None,
    resolution: str = "hourly",
    *,
    compact: bool = False,
) -> dict[str, ArraySpec]:
    """Return the arrays of a cube of these sites and so many steps, as `fluxcube.stores.arrays.create` takes them.

    `compact` keeps values as `fluxcube.decimals` does. Those that a cube need not have are there if any site has them.
    """
    held = {name for place in places for name in place["arrays"]}
    arrays = {}
    for stack, dim in STACKS.items():
        wide = len(labels[stack])
        like = {
            "dims": ("site", "time", dim),
            "shape": (len(places), steps, wide),
            "chunks": (1, CHUNK, wide),
            "shards": (1, CHUNK * _SHARD[resolution], wide),
        }
        for ending in stack_parts(stack, resolution):
            part = PARTS[ending]
            if part.required or stack + ending in held:
                attrs = {**part.attrs, "long_name": f"{part.attrs.get('long_name', '')} {stack}".strip()}
                decimals = compact and part.dtype == "float32"
                arrays[stack + ending] = ArraySpec(
                    dtype=part.dtype, fill_value=part.fill, attrs=attrs, decimals=decimals, **like
                )
    if days is not None:
        arrays[_SATELLITE[resolution][0]] = _satellite_array(len(places), days, resolution)
    return arrays


def _satellite_array(sites: int, days: int, resolution: str) -> ArraySpec:
    _, inner, title, chunk = _SATELLITE[resolution]
    attrs = {"long_name": title, "units": "1"}
    chips = resolution == "hourly"
    return ArraySpec(
        dims=("site", "day", *("band", "y", "x")[: len(inner)]),
        shape=(sites, days, *inner),
        dtype="int16" if chips else "float32",
        chunks=(1, chunk, *inner),
        shards=(1, _DAYS_SHARD, *inner),
        fill_value=_CHIP_FILL if chips else np.nan,
        attrs=attrs | ({"scale_factor": _CHIP_SCALE, "_FillValue": _CHIP_FILL} if chips else {}),
    )


def put_aside(building: Path, tower: Tower, *, compact: bool = False) -> None:
    """Spill a tower's values, as `write_tower` wants them; `compact` takes rounding errors off decimal fractions."""
    arrays = {}
    for stack in STACKS:
        held = getattr(tower, stack)
        arrays[f"{stack}_names"] = np.array(held.names, str)
        for ending, values in held.parts.items():
            scale = PARTS[ending].attrs.get("scale_factor")
            values = (np.rint(values / scale) if scale else values).astype(PARTS[ending].dtype)
            if compact and values.dtype == np.float32:
                values = np.stack([snap(column) for column in values.T], 1) if values.size else values
            arrays[stack + ending] = values
    spill(building, tower.info.site, arrays)


def put_chips_aside(building: Path, site: str, day: np.ndarray, values: np.ndarray) -> None:
    """Spill some days of a site's chips (day, band, y, x) float32, or reflectance (day, band), for `write_chips`.

    Days of several calls must follow each other.
    """
    if values.ndim == 4:
        values = np.where(np.isfinite(values), np.rint(values / _CHIP_SCALE), _CHIP_FILL).astype(np.int16)
    if len(day):
        day = day.astype("datetime64[D]")
        spill(building, f"{site}.chips.{day[0]}", {"day": day, "values": values})


def write_tower(
    building: Path, at: int, place: Record, labels: Mapping[str, Sequence[str]], resolution: str = "hourly"
) -> None:
    """Write what `put_aside` kept of a site: values, and all that is said of them.

    Parameters
    ----------
    building : path
        Store that is being made.
    at : int
        The site's place on the axis.
    place : mapping
        As `placed` gives it.
    labels : mapping of str to sequence of str
        Labels of each stack.
    resolution : str
        "hourly" or "daily".
    """
    parts = unspill(building, place["site"])
    step = STEPS[resolution].astype("timedelta64[h]")
    start = int((np.datetime64(place["start"], "h") - EPOCH) / step)
    for stack in STACKS:
        columns = [labels[stack].index(name) for name in parts[f"{stack}_names"]]
        for ending in stack_parts(stack, resolution):
            if (values := parts.get(stack + ending)) is not None:
                run = np.full((len(values), len(labels[stack])), PARTS[ending].fill, values.dtype)
                run[:, columns] = values
                write_run(building, stack + ending, at, start, run)


def write_chips(building: Path, at: int, site: str, resolution: str = "hourly") -> None:
    """Write what `put_chips_aside` kept of a site, each on its day."""
    parts = [unspill(building, key) for key in spilled(building, f"{site}.chips.")]
    if parts:
        at_day = (np.concatenate([part["day"] for part in parts]) - DAY_EPOCH).astype(int)
        values = np.concatenate([part["values"] for part in parts])
        fill = _CHIP_FILL if values.dtype == np.int16 else np.nan
        run = np.full((int(at_day[-1] - at_day[0]) + 1, *values.shape[1:]), fill, values.dtype)
        run[at_day - at_day[0]] = values
        write_run(building, _SATELLITE[resolution][0], at, int(at_day[0]), run)
