"""Variables of products as fluxes: which is which, in which units, and with which sign."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, SourceError
from fluxcube.sources.products.axes import days_of
from fluxcube.sources.products.table import PARTITIONED, Product, Rule
from fluxcube.units import convert
from fluxcube.variables import table

#: Heat of vaporisation (J kg-1), as `fluxcube.maps.totals` uses it for the water of LE.
LATENT_HEAT = 2.45e6
#: Water fluxes, which no tower cube contains as such, and their units.
WATER = ("ET", "ET_T")
_WATER_UNITS = {"hourly": "mm h-1", "daily": "mm d-1"}
_WATER_NAMES = {"ET": "evapotranspiration", "ET_T": "transpiration"}
LAND = "land_fraction"
_LAND_NAMES = (LAND, "land_area_fraction", "sftlf", "landfrac", "land_frac")
#: Units per month, per year or per eight days: the rest, and the period.
_PER_PERIOD = re.compile(
    r"(?:[ /.]|(?<=\d))\s*(?:per\s+)?(?P<period>months?|mon|mo|yr|years?|a|y|8\s?-?(?:d|days?))(?:\^?-1|(?=$))\s*$",
    re.IGNORECASE,
)
#: The mass at the start of units, whose substance may not be named.
_MASS = re.compile(r"^\s*([kmun]?g)(?=[ /.]|m-?2)")


@dataclass(frozen=True)
class Found:
    """A variable of a file that is a flux.

    Attributes
    ----------
    flux : str
        fluxcube's name, such as "GPP_NT" or "GPP_NT_spread".
    base : str
        The flux without its ending, whose units it has.
    name : str
        Name in the file.
    rule : Rule
        Rule that found it.
    """

    flux: str
    base: str
    name: str
    rule: Rule


def find(
    data: xr.Dataset, product: Product, partition: str, chosen: Mapping[str, str], where: str
) -> tuple[list[Found], list[str]]:
    """Return the fluxes of a file, and the names of the variables that are none.

    Parameters
    ----------
    data : xr.Dataset
        File.
    product : Product
        Whose rules find them; the first rule that matches counts.
    partition : str
        Ending of GPP and RECO: NT or DT.
    chosen : mapping of str to str
        Name in the file of fluxes that the caller chooses.
    where : str
        The file, for messages.

    Raises
    ------
    SourceError
        If several variables are the same flux, or a chosen one does not exist.
    """
    fields = {str(name): array.variable for name, array in data.data_vars.items() if array.ndim >= 2}
    found: dict[str, Found] = {}
    for flux, name in chosen.items():
        if name in fields:
            found[name] = _chosen(flux, name, fields[name], product, partition)
    taken = {one.flux for one in found.values()}
    for rule in product.rules:
        names = [name for name, variable in fields.items() if name not in found and rule.matches(name, variable)]
        flux, base = _named(rule, partition)
        if not names or flux in taken:
            continue
        if len(names) > 1:
            raise SourceError(
                f"{where}: {' and '.join(names)} are both {rule.flux}: choose one, "
                f"variables={{{rule.flux!r}: {names[0]!r}}}."
            )
        found[names[0]] = Found(flux, base, names[0], rule)
        taken.add(flux)
    extra = [name for name in fields if name not in found and not _is_other(name, fields[name])]
    return list(found.values()), extra


def _is_other(name: str, variable: xr.Variable) -> bool:
    """Return whether a variable is a bound, the land fraction or a map projection, which are no left-out fluxes."""
    return name.lower() in _LAND_NAMES or name.endswith(("_bnds", "_bounds")) or "time" not in map(str, variable.dims)


def _chosen(flux: str, name: str, variable: xr.Variable, product: Product, partition: str) -> Found:
    base = flux.removesuffix("_NT").removesuffix("_DT")
    rules = [rule for rule in product.rules if rule.flux == base and not rule.suffix]
    if not rules:
        known = sorted({rule.flux for rule in product.rules})
        raise ConfigError(f"variables={{{flux!r}: ...}}: expected a flux among {', '.join(known)}.")
    rule = next((one for one in rules if one.matches(name, variable)), replace(rules[0], names=(name.lower(),)))
    full, _ = _named(rule, partition)
    return Found(flux if flux != base else full, flux if flux != base else full, name, rule)


def _named(rule: Rule, partition: str) -> tuple[str, str]:
    base = f"{rule.flux}_{partition}" if rule.flux in PARTITIONED else rule.flux
    return base + rule.suffix, base


def land_fraction(data: xr.Dataset) -> str | None:
    """Return the name of the land fraction of a file; None if it has none."""
    by_name = {str(name).lower(): str(name) for name in data.variables}
    found = next((by_name[name] for name in _LAND_NAMES if name in by_name), None)
    standard = (str(n) for n, v in data.variables.items() if v.attrs.get("standard_name") == "land_area_fraction")
    return found or next(standard, None)


def units_of(found: Found, variable: xr.Variable, own: Mapping[str, str], where: str) -> str:
    """Return the units of a variable: those that the caller passes, its attribute, or those of the table of products.

    Raises
    ------
    SourceError
        If it has none.
    """
    for key in (found.flux, found.base, found.rule.flux, found.name):
        if key in own:
            return own[key]
    attribute = str(variable.attrs.get("units", variable.attrs.get("unit", ""))).strip()
    if attribute or found.rule.units:
        return attribute or found.rule.units
    raise SourceError(f"{where}: {found.name} has no units: pass them, units={{{found.rule.flux!r}: 'gC m-2 d-1'}}.")


def target_units(base: str, step: str) -> str:
    """Return fluxcube's units of a flux: those of hourly cubes for hourly data, else those of daily cubes."""
    resolution = "hourly" if step == "hourly" else "daily"
    return _WATER_UNITS[resolution] if base in WATER else table(resolution)[base].units


def long_name(base: str) -> str:
    """Return the long name of a flux."""
    return _WATER_NAMES[base] if base in WATER else table()[base].long_name


def scale(found: Found, units: str, step: str, time: np.ndarray, where: str) -> float | np.ndarray:
    """Return the factor from a variable to a flux in fluxcube's units and sign; of each time step if they differ.

    Parameters
    ----------
    found : Found
    units : str
        Units of the file.
    step : str
        Time step of the product.
    time : array of datetime64 (time,)
        Starts of its periods.
    where : str
        The file, for messages.

    Raises
    ------
    SourceError
        If the units cannot be converted to those of the flux.
    """
    target = target_units(found.base, step)
    per_day: float | np.ndarray = 1.0
    rate = units = units.replace("−", "-").replace("⁻", "-").replace("¹", "1")
    if match := _PER_PERIOD.search(units):
        word = match["period"].lower()
        period = "month" if word.startswith("mo") else "year" if word[0] in "ya" else "8 days"
        per_day, rate = 1.0 / days_of(time, period), f"{units[: match.start()]} d-1"
    minutes = {"hourly": 60.0, "daily": 1440.0}.get(step)
    problem: ConfigError | None = None
    for text in dict.fromkeys((rate, _with_substance(rate, found.rule.substance))):
        try:
            factor = _factor(text, target, minutes)
            return (1 if found.rule.suffix else found.rule.sign) * factor * per_day
        except ConfigError as error:
            problem = problem or error
    raise SourceError(
        f"{where}: {found.name} in {units!r} cannot be converted to {target} ({problem}); if the file's units are "
        f"wrong, pass the right ones, units={{{found.rule.flux!r}: ...}}."
    )


def _factor(units: str, target: str, minutes: float | None) -> float:
    """Return what 1 of some units is in others; an amount of water or energy in the step is a rate."""
    try:
        return float(convert(np.array(1.0), units, target, step_minutes=minutes))
    except ConfigError:
        if minutes is None or not target.startswith("mm"):
            raise
        # An amount in the step: its inverse is the amount of one unit of the rate.
        return 1.0 / float(convert(np.array(1.0), target, units, step_minutes=minutes))


def _with_substance(units: str, substance: str) -> str:
    return _MASS.sub(rf"\g<1>{substance} ", units) if substance else units


def respiration(names: Sequence[str]) -> tuple[str, str] | None:
    """Return the GPP that yields respiration with NEE, and the name of the latter; None if it cannot be derived.

    Examples
    --------
    >>> respiration(["NEE", "GPP_NT", "LE"]), respiration(["NEE", "GPP_NT", "RECO_NT"])
    (('GPP_NT', 'RECO_NT'), None)
    """
    gpp = [name for name in names if name in ("GPP_NT", "GPP_DT")]
    if "NEE" not in names or len(gpp) != 1 or any(name.startswith("RECO") for name in names):
        return None
    return gpp[0], gpp[0].replace("GPP", "RECO")
