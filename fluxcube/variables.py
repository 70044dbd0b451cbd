"""The variable table: units, bounds, aliases and aggregation of every variable, from one file.

Names are ONEFlux's. The table is read on first use; importing this module reads nothing. `declare` adds a user's own
predictor to the table for the rest of the process.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from types import MappingProxyType
from typing import Any

import yaml

from fluxcube.errors import ConfigError, unknown
from fluxcube.parsing import parse_json

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
#: Weather that towers measure and ERA5 supplies in the same sense and units; `fluxcube fetch era5` fetches it.
WEATHER = ("TA", "TA_RANGE", "SW_IN", "LW_IN", "VPD", "PA", "P", "WS")
#: The part of it from which models are trained for maps. LW_IN, PA and WS differ between towers more than they explain:
#: with them, models of few towers learn at which tower they are (docs/training.md has the scores).
MAPPED = ("TA", "TA_RANGE", "SW_IN", "VPD", "P")

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
        ONEFlux name, e.g. ``"SW_IN"``, or the name of a declared predictor.
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
    kind : {"hourly", "daily", "static"} or None
        Time step of the series of a declared predictor (`declare`); None for a variable of the table.
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
    kind: str | None = None

    @property
    def attrs(self) -> dict[str, str]:
        """CF attributes of an array of this variable."""
        attrs = {"long_name": self.long_name, "units": self.units}
        return attrs | ({"standard_name": self.standard_name} if self.standard_name else {})


#: Valid resolutions of a cube.
RESOLUTIONS = ("hourly", "daily")

_TUPLES = {"bounds", "limits", "aliases", "roles", "randunc", "jointunc"}


def table(resolution: str = "hourly") -> Mapping[str, Variable]:
    """Return the variable table of hourly or daily cubes, by name, in file order; declared predictors come last.

    Examples
    --------
    >>> table()["VPD"].units, table("daily")["NEE"].units
    ('hPa', 'gC m-2 d-1')
    """
    own = tuple(row for row in _DECLARED.values() if row.kind != STATIC)
    return _with_declared(resolution, own) if own else _file_table(resolution)


@functools.cache
def _file_table(resolution: str) -> Mapping[str, Variable]:
    """Return the variable table of the file, without declared predictors."""
    if resolution not in RESOLUTIONS:
        raise unknown("resolution", resolution, RESOLUTIONS)
    text = resources.files("fluxcube").joinpath("data/variables.yml").read_text("utf-8")
    rows = {name: _row(name, row, resolution) for name, row in yaml.safe_load(text).items()}
    return MappingProxyType({name: row for name, row in rows.items() if row is not None})


@functools.lru_cache(64)
def _with_declared(resolution: str, own: tuple[Variable, ...]) -> Mapping[str, Variable]:
    """Return the variable table with declared predictors; a daily sum has 24 times the bounds of an hourly one."""
    rows = dict(_file_table(resolution))
    for row in own:
        hourly_sum = row.aggregate == "sum" and row.kind == "hourly" and resolution == "daily"
        low, high = (24 * end if hourly_sum else end for end in row.bounds)
        rows[row.name] = replace(row, bounds=(low, high), limits=(low, high))
    return MappingProxyType(rows)


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


def predictors(resolution: str = "hourly", *, declared: bool = True) -> tuple[str, ...]:
    """Return every predictor's name, in table order; with `declared`, those of `declare` that vary in time, too."""
    rows = table(resolution) if declared else _file_table(resolution)
    return tuple(name for name, v in rows.items() if "predictor" in v.roles)


def grid_predictors(resolution: str = "hourly") -> tuple[str, ...]:
    """Return the predictors from which models are trained for maps: weather, place and time, in table order.

    Examples
    --------
    >>> grid_predictors("daily")
    ('DOY', 'TA', 'TA_RANGE', 'SW_IN', 'VPD', 'P', 'SW_IN_POT')
    """
    return tuple(name for name in predictors(resolution, declared=False) if name in (*MAPPED, *COMPUTED))


def targets(resolution: str = "hourly") -> tuple[str, ...]:
    """Return every target's name, in the order NEE, GPP, RECO, FCH4, LE, H."""
    names = [name for name, v in _file_table(resolution).items() if "target" in v.roles]
    return tuple(sorted(names, key=lambda name: (name == "LE") + 2 * (name == "H")))


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


#: Kind of a declared predictor without a time axis.
STATIC = "static"
KINDS = (*RESOLUTIONS, STATIC)
#: Key of declarations in the features of a checkpoint, and attribute of cubes that contains them as JSON.
DECLARED = "declared"
#: Attribute of cubes with the `hold_days` and `delay_days` of each declared daily predictor, as JSON.
TIMING = "declared_timing"

#: Predictors declared in this process. Cubes, forcing stores and checkpoints contain the declarations that they need
#: and declare them again when they are opened, also in worker processes; nothing is kept between processes.
_DECLARED: dict[str, Variable] = {}

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
#: Endings that mark an array or a column derived from a variable.
_DERIVED = re.compile(
    r".*_(MEAN_\d+D|SEASON|P\d\d|QC|QUALITY|COVERAGE|RANDUNC|JOINTUNC|std|spread|variance)", re.IGNORECASE
)
#: Names of the dimensions, coordinates and arrays of cubes, forcings and maps, of bands, and of indices.
_RESERVED = frozenset(
    (
        "site time day date band bnds block variable target x y latitude longitude elevation igbp koppen network "
        "citation doi licence utc_offset time_start time_stop time_bnds latitude_bnds longitude_bnds day_held "
        "surface_day units long_name cyclic target_units target_long_name land_fraction cell_area block_weight "
        "block_igbp predictors fluxes modis surface surface_quality surface_climatology statistic feature "
        "applicable dissimilarity declared red nir blue green swir1 swir2 swir3 green531 green551 snow water NDVI "
        "EVI NIRv NDWI LSWI CCI NDSI surface_age "
    )
    .lower()
    .split()
)


def declare(
    name: str,
    *,
    units: str,
    bounds: tuple[float, float],
    long_name: str = "",
    aggregate: str = "mean",
    kind: str = "daily",
    cyclic: bool = False,
) -> Variable:
    """Add a predictor of your own to the variable table, for towers and grids alike.

    Afterwards `fluxcube.add_predictor` adds its values to cubes and forcings, and it is a predictor like those of the
    table: for features, models and maps. The declaration is stored in cubes, forcing stores and checkpoints, and made
    again when these are opened.

    Parameters
    ----------
    name : str
        Letters, digits and underscores; no name of the variable table, and none that cubes use otherwise.
    units : str
        Units of its values in cubes and forcings; values in other units are converted. Units that
        `fluxcube.units.convert` does not know are accepted, and must be spelled alike for towers and grids.
    bounds : (float, float)
        Limits in `units` that scale a value for a model; a value beyond them is missing.
    long_name : str
        Description for people.
    aggregate : {"mean", "sum", "vector"}
        How hours are aggregated to days: mean, sum, or mean direction of a cyclic predictor. Means over the area of a
        cell are always means.
    kind : {"hourly", "daily", "static"}
        Whether its values have a time (UTC) every hour, a local date, or no time. Static predictors are used by models
        whose ``static=`` contains the name; the others by models whose ``predictors=`` do, which is the default.
    cyclic : bool
        Whether the upper bound is the same value as the lower one, as of a direction or a day of the year.

    Returns
    -------
    Variable
        The row of the variable table.

    Raises
    ------
    ConfigError
        If the name is not possible, an option is invalid, or another declaration of the name differs.

    Examples
    --------
    >>> row = declare("LAI", units="m2 m-2", bounds=(0, 10), long_name="leaf area index")
    >>> "LAI" in predictors("hourly"), "LAI" in predictors("daily")
    (True, True)
    >>> forget("LAI")
    """
    return _add(_declaration(name, units, bounds, long_name, aggregate, kind, cyclic), "")


def forget(*names: str) -> None:
    """Remove declarations from this process (all without `names`), so that a name can be declared anew."""
    for name in names or tuple(_DECLARED):
        _DECLARED.pop(name, None)


def declared(names: Iterable[str] | None = None) -> dict[str, Variable]:
    """Return the declared predictors by name, of all kinds; with `names`, those of them that are declared."""
    return {name: _DECLARED[name] for name in (_DECLARED if names is None else names) if name in _DECLARED}


def statics() -> Mapping[str, Variable]:
    """Return the declared predictors without a time axis, by name."""
    return {name: row for name, row in _DECLARED.items() if row.kind == STATIC}


def declarations(names: Iterable[str]) -> list[dict[str, Any]]:
    """Return the declarations of those `names` that are declared, as JSON can contain them; see `declare_again`."""
    return [
        {
            "name": row.name,
            "units": row.units,
            "bounds": list(row.bounds),
            "long_name": row.long_name,
            "aggregate": row.aggregate,
            "kind": row.kind,
            "cyclic": row.cyclic,
        }
        for row in declared(names).values()
    ]


def declare_again(records: object, where: str) -> None:
    """Declare the predictors of an opened cube, forcing store or checkpoint.

    Parameters
    ----------
    records : list of dict, str or None
        As `declarations` returned it, or the same as JSON text; None declares nothing.
    where : str
        What contains the records, for error messages.

    Raises
    ------
    ConfigError
        If the records are no declarations, or contradict a declaration of this process.
    """
    if records is None:
        return
    try:
        parsed: Any = parse_json(records, list) if isinstance(records, str) else records
        rows = [_declaration(**record) for record in parsed]
    except (TypeError, ValueError, KeyError) as error:
        raise ConfigError(f"{where}: expected declarations of predictors, found {records!r:.200} ({error}).") from error
    for row in rows:
        _add(row, where)


def _add(row: Variable, where: str) -> Variable:
    """Add a declaration to this process, or refuse it if another one of its name differs."""
    known = _DECLARED.get(row.name)
    if known is not None and _meaning(known) != _meaning(row):
        raise ConfigError(
            f"{f'{where}: ' if where else ''}{row.name} is declared as {_meaning(row)}, but in this process it is "
            f"already declared as {_meaning(known)}: use the same declaration for all cubes and models, or another "
            f'name, or call fluxcube.variables.forget("{row.name}") and open the cubes and models anew.'
        )
    return _DECLARED.setdefault(row.name, row)


def _meaning(row: Variable) -> str:
    """Return what two declarations of a name must share, which is all but the description."""
    cyclic = ", cyclic" if row.cyclic else ""
    return f"{row.kind}, {row.units}, {row.bounds[0]:.17g} to {row.bounds[1]:.17g}, {row.aggregate}{cyclic}"


def _declaration(
    name: str,
    units: str,
    bounds: tuple[float, float],
    long_name: str = "",
    aggregate: str = "mean",
    kind: str = "daily",
    cyclic: bool = False,
) -> Variable:
    """Return the row of a declaration; raise a ConfigError if it is not valid."""
    _check_name(name)
    if not isinstance(units, str) or not units.strip():
        raise ConfigError(f"{name}: expected units as text, such as 'm2 m-2' or '1', found {units!r}.")
    low, high = _limits(name, bounds)
    for option, value, valid in (("aggregate", aggregate, ("mean", "sum", "vector")), ("kind", kind, KINDS)):
        if value not in valid:
            raise ConfigError(f"{name}: {option}={value!r}: expected one of {', '.join(valid)}.")
    if not isinstance(cyclic, bool) or (aggregate == "vector" and not cyclic):
        raise ConfigError(
            f"{name}: cyclic={cyclic!r}, aggregate={aggregate!r}: expected cyclic=True or False, and True for "
            "aggregate='vector', the mean direction."
        )
    return Variable(
        name=name,
        long_name=str(long_name) or name,
        units=units.strip(),
        bounds=(low, high),
        limits=(low, high),
        roles=("predictor",),
        aggregate=aggregate,
        cyclic=cyclic,
        kind=kind,
    )


def _limits(name: str, bounds: object) -> tuple[float, float]:
    numbers = tuple(bounds) if isinstance(bounds, (tuple, list)) else ()
    if (
        len(numbers) != 2
        or any(isinstance(end, (bool, str)) or not isinstance(end, (int, float)) for end in numbers)
        or not -math.inf < numbers[0] < numbers[1] < math.inf
    ):
        raise ConfigError(f"{name}: bounds={bounds!r}: expected two finite numbers (low, high), low below high.")
    return float(numbers[0]), float(numbers[1])


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"name={name!r}: expected a letter, and up to 39 more letters, digits and underscores, such as 'LAI'."
        )
    for resolution in RESOLUTIONS:
        for row in _file_table(resolution).values():
            if name == row.name or name in row.aliases:
                raise ConfigError(
                    f"{name} is a name of the variable table ({row.name}, {row.units}): build the cube with it, or "
                    "declare another name."
                )
    if name.lower() in _RESERVED or _DERIVED.fullmatch(name):
        raise ConfigError(
            f"{name} is a name that cubes use for something else, or ends like a column that is derived from a "
            "variable: declare another name, such as 'MY_" + name.split("_")[0] + "'."
        )
