"""How a tower cube lies in its store: coordinates, arrays and their files, and one site's part of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube.cubes.tower import Tower, span
from fluxcube.schema import CHIP_X, CHIP_Y, PARTS, STACKS, stack_parts, variable_coords
from fluxcube.stores import ArraySpec, spill, unspill, write_region
from fluxcube.timestamps import HOUR
from fluxcube.variables import BANDS

#: Hours that are read and decompressed at once: two months.
CHUNK = 1461

#: Chunks in a file (eight years), and days of chips read at once.
_SHARD, _CHIP_CHUNK = 48, 32
#: Reflectance in steps of 0.0001, as MODIS itself packs it.
_CHIP_SCALE, _CHIP_FILL = 1e-4, -32768


def cube_coords(
    towers: Sequence[Tower], time: np.ndarray, labels: Mapping[str, Sequence[str]], days: np.ndarray | None
) -> xr.Dataset:
    """Return the coordinates of a cube of these towers.

    Parameters
    ----------
    towers : sequence of Tower
        In the order of the `site` axis.
    time : (time,) datetime64[ns]
        UTC hours.
    labels : mapping of str to sequence of str
        Labels of each stack (`STACKS`).
    days : (day,) datetime64[ns] or None
        Days of chips; None makes a cube without.
    """
    infos = [tower.info for tower in towers]
    elevation = [np.nan if info.elevation is None else info.elevation for info in infos]
    on_site = {
        "site": (np.array([i.site for i in infos], object), {"long_name": "site", "cf_role": "timeseries_id"}),
        "latitude": (np.array([i.latitude for i in infos]), _cf("latitude", "degrees_north")),
        "longitude": (np.array([i.longitude for i in infos]), _cf("longitude", "degrees_east")),
        "elevation": (np.array(elevation, float), {"long_name": "elevation above sea level", "units": "m"}),
        "igbp": (np.array([i.igbp for i in infos], object), {"long_name": "IGBP land-cover class"}),
        "koppen": (np.array([i.koppen for i in infos], object), {"long_name": "Koeppen-Geiger climate class"}),
        "network": (np.array([";".join(t.networks) for t in towers], object), {"long_name": "sources, newest first"}),
        "utc_offset": (
            np.array([t.utc_offset for t in towers]),
            {"long_name": "standard time minus UTC", "units": "h"},
        ),
        "time_start": (np.array([span(t)[0] for t in towers]), {"long_name": "first hour with a value"}),
        "time_stop": (np.array([span(t)[1] for t in towers]), {"long_name": "hour after the last with a value"}),
    }
    coords = {name: ("site", *parts) for name, parts in on_site.items()}
    coords["time"] = ("time", time, {"standard_name": "time", "long_name": "start of the hour, UTC"})
    coords["time_bnds"] = (("time", "bnds"), np.stack([time, time + HOUR], 1))
    for stack, dim in STACKS.items():
        coords |= variable_coords(labels[stack], dim)
    if days is not None:
        coords["day"] = ("day", days, {"long_name": "date of the satellite product"})
        coords["band"] = ("band", np.array(BANDS, object))
        coords["y"] = ("y", CHIP_Y, {"units": "m", "long_name": "distance north of the tower"})
        coords["x"] = ("x", CHIP_X, {"units": "m", "long_name": "distance east of the tower"})
    return xr.Dataset(coords=coords)


def _cf(name: str, units: str) -> dict[str, str]:
    return {"standard_name": name, "long_name": name, "units": units}


def cube_arrays(
    towers: Sequence[Tower], hours: int, labels: Mapping[str, Sequence[str]], days: np.ndarray | None
) -> dict[str, ArraySpec]:
    """Return the arrays of a cube of these towers and so many hours, as `fluxcube.stores.create` takes them.

    Those that a cube need not have are there if any tower has them.
    """
    sites = len(towers)
    arrays = {}
    for stack, dim in STACKS.items():
        wide = len(labels[stack])
        chunk = min(CHUNK, hours)
        like = {
            "dims": ("site", "time", dim), "shape": (sites, hours, wide), "chunks": (1, chunk, wide),
            "shards": (1, _shard(hours, chunk, _SHARD), wide),
        }  # fmt: skip
        held = {ending for tower in towers for ending in getattr(tower, stack).parts}
        for ending in (ending for ending in stack_parts(stack) if PARTS[ending].required or ending in held):
            part = PARTS[ending]
            name = f"{part.attrs.get('long_name', '')} {stack}".strip()
            attrs = {**part.attrs, "long_name": name}
            arrays[stack + ending] = ArraySpec(dtype=part.dtype, fill_value=part.fill, attrs=attrs, **like)
    if days is not None:
        arrays["modis"] = _chip_array(sites, len(days))
    return arrays


def _shard(size: int, chunk: int, most: int) -> int:
    """Return how long a shard is: `most` chunks, or as many as the axis needs."""
    return chunk * min(most, -(-size // chunk))


def _chip_array(sites: int, days: int) -> ArraySpec:
    chunk = min(_CHIP_CHUNK, days)
    inner = (len(BANDS), len(CHIP_Y), len(CHIP_X))
    return ArraySpec(
        dims=("site", "day", "band", "y", "x"),
        shape=(sites, days, *inner),
        dtype="int16",
        chunks=(1, chunk, *inner),
        shards=(1, _shard(days, chunk, days), *inner),
        fill_value=_CHIP_FILL,
        attrs={
            "long_name": "reflectance (MCD43A4 bands 1-7), snow and water (MCD43A2)", "units": "1",
            "scale_factor": _CHIP_SCALE, "_FillValue": _CHIP_FILL,
        },
    )  # fmt: skip


def put_aside(building: Path, tower: Tower) -> None:
    """Spill a tower's hours, as `write_tower` wants them."""
    arrays = {}
    for stack in STACKS:
        held = getattr(tower, stack)
        arrays[f"{stack}_names"] = np.array(held.names, str)
        for ending, values in held.parts.items():
            scale = PARTS[ending].attrs.get("scale_factor")
            arrays[stack + ending] = (np.rint(values / scale) if scale else values).astype(PARTS[ending].dtype)
    spill(building, tower.info.site, arrays)


def put_chips_aside(building: Path, site: str, day: np.ndarray, chips: np.ndarray) -> None:
    """Spill a site's chips (day, band, y, x) float32, as `write_chips` wants them."""
    packed = np.where(np.isfinite(chips), np.rint(chips / _CHIP_SCALE), _CHIP_FILL).astype(np.int16)
    spill(building, f"{site}.chips", {"day": day.astype("datetime64[D]"), "chips": packed})


def write_tower(building: Path, at: int, tower: Tower, time: np.ndarray, labels: Mapping[str, Sequence[str]]) -> None:
    """Write what `put_aside` kept of a site: values, flags and coverage.

    Parameters
    ----------
    building : path
        Store that is being made.
    at : int
        The site's place on the axis.
    tower : Tower
        Of which the first and last hour are read here.
    time : (time,) datetime64
        The store's axis.
    labels : mapping of str to sequence of str
        Labels of each stack.
    """
    parts = unspill(building, tower.info.site)
    start = int((span(tower)[0] - time[0]) / HOUR)
    for stack in STACKS:
        columns = [labels[stack].index(name) for name in parts[f"{stack}_names"]]
        for ending in stack_parts(stack):
            name, shape = stack + ending, (len(time), len(labels[stack]))
            if name in parts:
                _write_hours(building, name, at, parts[name], start, shape, columns, PARTS[ending].fill)


def _write_hours(
    building: Path, name: str, at: int, values: np.ndarray, start: int, shape: tuple[int, int],
    columns: Sequence[int], fill: float,
) -> None:  # fmt: skip
    """Write one array of a site, file by file; a file in which the site has no hour is not made."""
    hours, wide = shape
    length = _shard(hours, min(CHUNK, hours), _SHARD)
    stop = start + len(values)
    for low in range(start // length * length, stop, length):
        high = min(low + length, hours)
        first, last = max(start, low), min(stop, high)
        shard = np.full((1, high - low, wide), fill, values.dtype)
        shard[0][first - low : last - low, columns] = values[first - start : last - start]
        write_region(building, name, (slice(at, at + 1), slice(low, high), slice(0, wide)), shard)


def write_chips(building: Path, at: int, site: str, days: np.ndarray) -> None:
    """Write what `put_chips_aside` kept of a site, on the store's axis (day,)."""
    parts = unspill(building, f"{site}.chips")
    chips = parts["chips"]
    values = np.full((1, len(days), *chips.shape[1:]), _CHIP_FILL, np.int16)
    values[0, np.searchsorted(days.astype("datetime64[D]"), parts["day"])] = chips
    write_region(building, "modis", (slice(at, at + 1), *(slice(0, n) for n in values.shape[1:])), values)
