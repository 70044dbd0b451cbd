"""Layout of the drivers of other sources in the store of a tower cube: arrays, and the part of each site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fluxcube.cubes.layout import CHUNK, EPOCH, SHARD, STEPS, CubeSettings, Place
from fluxcube.schema import DRIVERS
from fluxcube.stores.arrays import ArraySpec
from fluxcube.stores.building import spilled, unspill
from fluxcube.stores.shards import write_run


def spill_key(site: str, name: str) -> str:
    """Return the key under which the drivers of a site are spilled to a store that is being built."""
    return f"{site}.drivers.{name}"


def has_drivers(place: Place, name: str) -> bool:
    """Return whether a tower has a value of the drivers of a source."""
    return bool(place.get("drivers", {}).get(name, {}).get("variables"))


def spilled_drivers(building: Path, site: str) -> list[str]:
    """Return the names of the sources whose drivers of a site were spilled to a store that is being built."""
    start = spill_key(site, "")
    return [key.removeprefix(start) for key in spilled(building, start)]


def drivers_attrs(product: str, variables: Sequence[str], sites: Sequence[str]) -> dict[str, str]:
    """Return the attributes of an array of drivers: what it was read from, its variables and its sites."""
    return {
        "long_name": f"drivers of the towers from {product}",
        "source": product,
        "variables": " ".join(variables),
        "sites": " ".join(sites),
    }


def driver_arrays(places: Sequence[Place], steps: int, settings: CubeSettings) -> dict[str, ArraySpec]:
    """Return the arrays of drivers of a store, as `fluxcube.stores.arrays.create` expects them.

    Parameters
    ----------
    places : sequence of mapping
        Sites, whose ``drivers`` record variables and source by the name of the source.
    steps : int
        Number of time steps.
    settings : CubeSettings
        Of the cube.
    """
    names = sorted({name for place in places for name in place.get("drivers", {}) if has_drivers(place, name)})
    width, shard = len(settings.predictors), CHUNK * SHARD[settings.resolution]
    return {
        DRIVERS + name: ArraySpec(
            dims=("site", "time", "variable"),
            shape=(len(places), steps, width),
            dtype="float32",
            chunks=(1, CHUNK, width),
            shards=(1, shard, width),
            fill_value=np.nan,
            attrs=_attrs(name, places, settings),
            decimals=settings.compact,
        )
        for name in names
    }


def _attrs(name: str, places: Sequence[Place], settings: CubeSettings) -> dict[str, str]:
    records: Mapping[str, Mapping] = {p["site"]: p["drivers"][name] for p in places if has_drivers(p, name)}
    variables = {variable for record in records.values() for variable in record["variables"]}
    product = "; ".join(dict.fromkeys(str(record["source"]) for record in records.values()))
    return drivers_attrs(product, [one for one in settings.predictors if one in variables], list(records))


def write_drivers(building: Path, at: int, place: Place, settings: CubeSettings) -> None:
    """Write the drivers of a site that were spilled, those of each source to its array.

    Parameters
    ----------
    building : path
        Store that is being built.
    at : int
        Index of the site on its axis.
    place : mapping
        Site and start of its record.
    settings : CubeSettings
        Of the cube.
    """
    start = int((np.datetime64(place["start"], "h") - EPOCH) / STEPS[settings.resolution].astype("timedelta64[h]"))
    for name in spilled_drivers(building, place["site"]):
        write_run(building, DRIVERS + name, at, start, unspill(building, spill_key(place["site"], name))["values"])
