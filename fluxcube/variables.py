"""The variable table: units, bounds, aliases and aggregation of every variable, from one file.

Names are ONEFlux's. The table is read on first use; importing this module reads nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from types import MappingProxyType
from typing import Any

import yaml

from fluxcube.errors import unknown

#: The published CarbonSense predictors, in the order the paper's code lists them.
PUBLISHED_PREDICTORS = (
    "DOY",
    "TOD",
    "TA",
    "SW_IN",
    "LW_IN",
    "VPD",
    "PA",
    "P",
    "WS",
    "WD",
    "RH",
    "USTAR",
    "NETRAD",
    "PPFD_IN",
    "PPFD_OUT",
    "SW_OUT",
    "LW_OUT",
    "CO2",
    "G",
    "LE",
    "H",
)

#: Predictors computed from location and time alone: known for every time step of every site and grid cell.
COMPUTED = ("DOY", "TOD", "SW_IN_POT")

#: The bands of a chip: seven MCD43A4 reflectances, snow (MCD43A2) and water (MCD43A2).
BANDS = ("red", "nir", "blue", "green", "swir1", "swir2", "swir3", "snow", "water")

#: Bands of the surface reflectance of a point or an area: MODIS bands 1 to 7, the ocean bands 11 (531 nm) and 12
#: (551 nm), and the share of the clear pixels that are covered by snow.
SURFACE_BANDS = (*BANDS[:7], "green531", "green551", "snow")


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One row of the variable table.

    Attributes
    ----------
    name : str
        ONEFlux name, e.g. ``"SW_IN"``.
    units : str
        UDUNITS string of the values in cubes and maps.
    bounds : tuple of float
        Limits (low, high), in `units`, that scale a value for a model.
    limits : tuple of float
        Physical limits (low, high), in `units`, beyond which a predictor becomes missing in a cube; default `bounds`.
    cyclic : bool
        True for DOY, TOD and WD.
    aggregate : {"mean", "sum", "vector", "range", "computed"}
        How half-hours are aggregated to hours, and hours to days.
    aliases : tuple of str
        Columns that the variable is read from, in order of preference.
    qc_from : str or None
        Column whose ``_QC`` holds the flag, where the variable has none of its own.
    randunc, jointunc : tuple of str
        Columns of its random, and of its random and USTAR-filtering uncertainty (one standard deviation).
    """

    name: str
    long_name: str
    units: str
    bounds: tuple[float, float]
    roles: tuple[str, ...]
    limits: tuple[float, float] = (-math.inf, math.inf)
    standard_name: str | None = None
    cyclic: bool = False
    aggregate: str = "mean"
    aliases: tuple[str, ...] = field(default=())
    qc_from: str | None = None
    randunc: tuple[str, ...] = ()
    jointunc: tuple[str, ...] = ()

    @property
    def attrs(self) -> dict[str, str]:
        """CF attributes of an array of this variable."""
        attrs = {"long_name": self.long_name, "units": self.units}
        return attrs | ({"standard_name": self.standard_name} if self.standard_name else {})


#: Valid resolutions of a cube.
RESOLUTIONS = ("hourly", "daily")

_TUPLES = {"bounds", "limits", "aliases", "roles", "randunc", "jointunc"}


@functools.cache
def table(resolution: str = "hourly") -> Mapping[str, Variable]:
    """Return the variable table of hourly or daily cubes, by name, in file order.

    Examples
    --------
    >>> table()["VPD"].units, table("daily")["NEE"].units
    ('hPa', 'gC m-2 d-1')
    """
    if resolution not in RESOLUTIONS:
        raise unknown("resolution", resolution, RESOLUTIONS)
    text = resources.files("fluxcube").joinpath("data/variables.yml").read_text("utf-8")
    rows = {name: _row(name, row, resolution) for name, row in yaml.safe_load(text).items()}
    return MappingProxyType({name: row for name, row in rows.items() if row is not None})


def _row(name: str, row: dict, resolution: str) -> Variable | None:
    """Return one row of the table at a resolution, or None if cubes of that resolution do not have the variable."""
    if resolution not in row.pop("resolutions", RESOLUTIONS):
        return None
    overrides = {name: row.pop(name, {}) for name in RESOLUTIONS}
    row = row | overrides[resolution]
    row.setdefault("limits", row["bounds"])
    settings: dict[str, Any] = {k: tuple(v) if k in _TUPLES else v for k, v in row.items()}
    return Variable(name=name, **settings)


def variable(name: str, resolution: str = "hourly") -> Variable:
    """Return one variable of the table.

    Raises
    ------
    UnknownNameError
        If there is no such variable; the message suggests the nearest name.
    """
    try:
        return table(resolution)[name]
    except KeyError:
        raise unknown("variable", name, table(resolution)) from None


def predictors(resolution: str = "hourly") -> tuple[str, ...]:
    """Return every predictor's name, in table order."""
    return tuple(name for name, v in table(resolution).items() if "predictor" in v.roles)


def targets(resolution: str = "hourly") -> tuple[str, ...]:
    """Return every target's name, in the order NEE, GPP, RECO, FCH4, LE."""
    names = [name for name, v in table(resolution).items() if "target" in v.roles]
    return tuple(sorted(names, key=lambda name: name == "LE"))


def check_role(names: Iterable[str], role: str, resolution: str = "hourly") -> tuple[str, ...]:
    """Return `names` as a tuple, or raise if one is not a `role` ("predictor" or "target") of the table.

    Raises
    ------
    UnknownNameError
        Naming the variable and the nearest valid one.
    """
    names = tuple(names)
    valid = predictors(resolution) if role == "predictor" else targets(resolution)
    for name in names:
        if name not in valid:
            raise unknown(role, name, valid)
    return names
