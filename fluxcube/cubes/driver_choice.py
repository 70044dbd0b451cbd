"""Choose the drivers of an opened cube: its predictors become those of one of its sources of drivers."""

from __future__ import annotations

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, unknown
from fluxcube.resolution import resolution_of
from fluxcube.schema import (
    DRIVERS,
    DRIVERS_MISSING,
    DRIVERS_SITES,
    DRIVERS_SOURCE,
    PARTS,
    TOWER,
    USED_DRIVERS,
    driver_sources,
)
from fluxcube.variables import COMPUTED, table


def choose_drivers(cube: xr.Dataset, name: str) -> xr.Dataset:
    """Return `fluxcube.use_drivers` of an open cube (UnknownNameError, ConfigError as there)."""
    used = cube.attrs.get(USED_DRIVERS, TOWER)
    if name == used:
        return cube
    if used != TOWER:
        raise ConfigError(f"the predictors of this cube are drivers {used}: open the cube again with drivers={name!r}.")
    known = driver_sources(cube)
    if name not in known:
        raise unknown("source of drivers of this cube (fluxcube.add_drivers adds one)", name, (TOWER, *known))
    source = cube[DRIVERS + name]
    labels = [str(label) for label in cube["variable"].values]
    stay = [label in COMPUTED or _is_own(label, resolution_of(cube).name) for label in labels]
    present = str(source.attrs.get("variables", " ".join(labels))).split()
    missing = [label for label, stays in zip(labels, stay, strict=True) if not stays and label not in present]
    arrays = _swapped(cube, source, xr.DataArray(np.array(stay), dims="variable"))
    attrs = {USED_DRIVERS: name, DRIVERS_SOURCE: source.attrs.get("source", name)}
    attrs |= {DRIVERS_SITES: source.attrs.get("sites", " ".join(map(str, cube["site"].values)))}
    attrs |= {DRIVERS_MISSING: " ".join(missing)}
    return cube.assign(arrays).drop_vars(DRIVERS + name).assign_attrs(attrs)


def _is_own(name: str, resolution: str) -> bool:
    """Return whether a variable is a predictor that the user declared."""
    row = table(resolution).get(name)
    return row is None or row.kind is not None


def _swapped(cube: xr.Dataset, source: xr.DataArray, stay: xr.DataArray) -> dict[str, xr.DataArray]:
    """Return the predictors of a source of drivers, and their flags or qualities and coverage, lazily."""
    source, arrays = source.drop_vars(list(source.coords)), {}
    present = source.notnull()
    best = {"": source, "_qc": 0, "_coverage": 1, "_quality": 1}
    for ending, value in best.items():
        name = f"predictors{ending}"
        if name in cube:
            old = cube[name].drop_vars(list(cube[name].coords))
            worst = old.dtype.type(PARTS[ending].fill)
            scaled = value if ending != "_coverage" or old.dtype.kind == "f" else 100  # packed in percent
            new = xr.where(stay, old, xr.where(present, scaled, worst)).transpose(*old.dims)
            arrays[name] = new.astype(old.dtype).assign_attrs(cube[name].attrs)
    return arrays


def sites_without_drivers(cube: xr.Dataset) -> tuple[str, ...]:
    """Return the towers without a value of the drivers that a cube uses; none where these are the towers' own."""
    if cube.attrs.get(USED_DRIVERS, TOWER) == TOWER:
        return ()
    known = set(str(cube.attrs.get(DRIVERS_SITES, "")).split())
    return tuple(str(site) for site in cube["site"].values if str(site) not in known)
