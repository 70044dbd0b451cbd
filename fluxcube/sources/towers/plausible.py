"""What a tower's numbers tell of their units and flags: refuse those that cannot be right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fluxcube import variables as table
from fluxcube.errors import SourceError

#: Fewer values than this prove nothing: a day of half-hours.
ENOUGH = 48
#: Fewer threes of consecutive steps than this do not tell how rough a flux is.
_ENOUGH_RUNS = 200
#: A fill this much rougher than what is called measured is none: at 109 real towers none was rougher than 0.9.
_ROUGHER = 2

# The middle of the values is judged, never a few of them: a broken sensor is not a wrong unit.
_SOIL = tuple(f"TS_{layer}" for layer in range(1, 6))


@dataclass(frozen=True)
class _Rule:
    """`found` of the values (n,) beyond `low` or `high` cannot be in the table's units."""

    what: str
    found: Callable[[np.ndarray], float]
    low: float = -np.inf
    high: float = np.inf
    looks: Callable[[float], str] = lambda value: "another unit"


def _median(values: np.ndarray) -> float:
    return float(np.median(values))


def _tenth_highest(values: np.ndarray) -> float:
    """Return what a tenth of the values above zero exceeds."""
    above = values[values > 0]
    return float(np.quantile(above, 0.9)) if len(above) >= ENOUGH else np.nan


def _highest_percent(values: np.ndarray) -> float:
    return float(np.quantile(values, 0.99))


def _highest(values: np.ndarray) -> float:
    return float(values.max())


def _temperature(value: float) -> str:
    return "kelvin: subtract 273.15" if value > 150 else "degrees Fahrenheit"


_KELVIN = _Rule("median", _median, high=60, looks=_temperature)
_RULES = {
    # No air is drier than 110 hPa of deficit; a tenth of the values above it is another unit.
    "VPD": _Rule("90th percentile", _tenth_highest, high=110, looks=lambda value: "pascal: divide by 100"),
    # The highest towers stand near 5,000 m (54 kPa), the Dead Sea has 106 kPa.
    "PA": _Rule(
        "median",
        _median,
        low=40,
        high=120,
        looks=lambda value: (
            "pascal: divide by 1000"
            if value > 2000
            else "hectopascal: divide by 10"
            if value > 120
            else "another unit, such as bar"
        ),
    ),
    # A tower whose air never holds more than 1.5 % of its vapour is none.
    "RH": _Rule("maximum", _highest, low=1.5, looks=lambda value: "a fraction: multiply by 100"),
    "TA": _KELVIN,
    **dict.fromkeys(_SOIL, _KELVIN),
    # The sun gives 1361 W m-2 above the atmosphere; clouds' edges add a few minutes of half as much again.
    "SW_IN": _Rule("99th percentile", _highest_percent, high=2000, looks=lambda value: "joules, or another unit"),
}


def check_units(name: str, values: np.ndarray, where: str) -> None:
    """Refuse values that cannot be in the units of the variable table.

    Parameters
    ----------
    name : str
        Of the variable table.
    values : (n,) float
        In any order; NaN where missing. Fewer than `ENOUGH` pass.
    where : str
        File and column, for the message.

    Raises
    ------
    SourceError
        If VPD is in Pa, PA in hPa or Pa, RH a fraction, a temperature in K or degrees F, or SW_IN beyond sunlight.

    Notes
    -----
    What overlaps with what could be is not told: VPD in kPa, SWC as a fraction of a desert, NEE in other units.

    Examples
    --------
    >>> check_units("PA", np.full(100, 1013.0), "a.csv, column PA")
    Traceback (most recent call last):
    fluxcube.errors.SourceError: a.csv, column PA: expected kPa, and a median of 1013 looks like hectopascal: divide by
    10. Convert the column, or get the file as its network publishes it
    """
    rule = _RULES.get(name)
    if rule is None:
        return
    finite = values[np.isfinite(values)]
    if len(finite) < ENOUGH:
        return
    found = rule.found(finite)
    if found < rule.low or found > rule.high:
        raise SourceError(
            f"{where}: expected {table.variable(name).units}, and a {rule.what} of {found:.4g} looks like "
            f"{rule.looks(found)}. Convert the column, or get the file as its network publishes it"
        )


def as_float32(values: np.ndarray, where: str) -> np.ndarray:
    """Return values as float32.

    Parameters
    ----------
    values : (n,) float
        NaN where missing.
    where : str
        File and column, for the message.

    Raises
    ------
    SourceError
        If a value is infinite, or too large to be one of float32.

    Examples
    --------
    >>> as_float32(np.array([1.0, 1e39]), "a.csv, column NEE")
    Traceback (most recent call last):
    fluxcube.errors.SourceError: a.csv, column NEE: found 1e+39, which no measurement is; correct it
    """
    with np.errstate(over="ignore"):
        small = values.astype(np.float32)
    if np.isinf(small).any():
        raise SourceError(f"{where}: found {values[np.isinf(small)][0]:g}, which no measurement is; correct it")
    return small


def check_flags(flags: np.ndarray, present: np.ndarray, where: str) -> None:
    """Refuse flags that count the wrong way, as far as that can be told.

    Parameters
    ----------
    flags : (time,) float
        As in the file, NaN where blank.
    present : (time,) bool
        Where there is a value.
    where : str
        File and column, for the message.

    Raises
    ------
    SourceError
        If 0, which means measured, is on steps without a value only, as where 0 means none and more is better.

    Notes
    -----
    Fractions are refused before, and NEE's flags are judged by `check_fills`. What cannot be told of other variables: a
    column in which 3 is on most values may be of a tower whose gaps were long, or of a scale that counts the other way;
    it is taken as it says.
    """
    zero = flags == 0
    gaps = ~present & np.isfinite(flags)
    some = int(zero[present].sum()) == 0 and int((flags[present] > 0).sum()) >= ENOUGH
    if some and gaps.sum() >= ENOUGH and zero[gaps].all():
        raise SourceError(
            f"{where}: flag 0 is on the {int(gaps.sum())} steps without a value and on none that has one, where it "
            "means measured; these flags seem to count the other way. Turn them round, or get the file as its network "
            "publishes it"
        )


def check_fills(values: np.ndarray, flags: np.ndarray, where: str) -> None:
    """Refuse flags of NEE that call fills measured: turbulence makes a measured flux rough, and a fill is a mean.

    Parameters
    ----------
    values, flags : (time,)
        Of consecutive half-hours or hours; NaN and -1 where missing.
    where : str
        File and column of flags, for the message.

    Raises
    ------
    SourceError
        If fluxes of a flag above 0 are more than twice as rough (median of their second differences) as those of 0.

    Notes
    -----
    On 109 towers of FLUXNET2015: none was refused; with flags turned round (0 as 3, ...) the 70 whose poor fills are
    frequent enough were, and with 1 for measured and 0 for filled all of them.
    """
    middle = np.abs(values[2:] - 2 * values[1:-1] + values[:-2])

    def roughness(flag: int) -> float:
        same = flags == flag
        runs = middle[same[2:] & same[1:-1] & same[:-2]]
        return float(np.median(runs)) if len(runs) >= _ENOUGH_RUNS else np.nan

    measured = roughness(0)
    for flag in (1, 2, 3):
        found = roughness(flag)
        if found > _ROUGHER * measured:
            raise SourceError(
                f"{where}: fluxes of flag {flag} are {found / measured:.1f} times as rough as those of flag 0, which "
                "means measured; fills are smooth, so these flags seem to count the other way. Turn them round, or get "
                "the file as its network publishes it"
            )
