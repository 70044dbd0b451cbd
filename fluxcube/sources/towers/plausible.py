"""Check the units and flags of a tower's values, and refuse impossible ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fluxcube import variables as table
from fluxcube.errors import SourceError, to_type
from fluxcube.sources.towers import codes
from fluxcube.units import is_unit, same_unit

#: Minimum number of values for a check of units: a day of half-hours.
ENOUGH = 48
#: Share of different impossible values of a flux above which its unit is wrong.
_MOST_VALUES = 0.2
#: Minimum number of groups of three consecutive steps for an estimate of a flux's roughness.
_ENOUGH_TRIPLES = 200
#: Maximum ratio of the roughness of fills to that of measured values: at 109 real towers it was at most 0.9.
_MAX_ROUGHNESS = 2

# Rules use the bulk of the values, never a few of them: a broken sensor is not a wrong unit.
_SOIL = tuple(f"TS_{layer}" for layer in range(1, 6))


@dataclass(frozen=True)
class _Rule:
    """A statistic of the values (n,) and its limits in the units of the variable table.

    `likely_unit` returns the probable unit (and its conversion) of a statistic beyond the limits.
    """

    what: str
    statistic: Callable[[np.ndarray], float]
    low: float = -np.inf
    high: float = np.inf
    likely_unit: Callable[[float], str] = lambda value: "another unit"


def _median(values: np.ndarray) -> float:
    return float(np.median(values))


def _tenth_highest(values: np.ndarray) -> float:
    """Return the 90th percentile of the values above zero, NaN if there are few."""
    above = values[values > 0]
    return float(np.quantile(above, 0.9)) if len(above) >= ENOUGH else np.nan


def _highest_percent(values: np.ndarray) -> float:
    return float(np.quantile(values, 0.99))


def _highest(values: np.ndarray) -> float:
    return float(values.max())


def _temperature(value: float) -> str:
    return "kelvin: subtract 273.15" if value > 150 else "degrees Fahrenheit"


def _pressure(value: float) -> str:
    if value > 2000:
        return "pascal: divide by 1000"
    return "hectopascal: divide by 10" if value > 120 else "another unit, such as bar"


_KELVIN = _Rule("median", _median, high=60, likely_unit=_temperature)
_RULES = {
    # The deficit of real air stays below 110 hPa; if a tenth of the values is above, the unit is another one.
    "VPD": _Rule("90th percentile", _tenth_highest, high=110, likely_unit=lambda value: "pascal: divide by 100"),
    # The highest towers are near 5,000 m (54 kPa); at the Dead Sea pressure is 106 kPa.
    "PA": _Rule("median", _median, low=40, high=120, likely_unit=_pressure),
    # No tower's relative humidity stays below 1.5 %.
    "RH": _Rule("maximum", _highest, low=1.5, likely_unit=lambda value: "a fraction: multiply by 100"),
    "TA": _KELVIN,
    **dict.fromkeys(_SOIL, _KELVIN),
    # Sunlight is 1361 W m-2 above the atmosphere; cloud edges increase it by half for a few minutes.
    "SW_IN": _Rule("99th percentile", _highest_percent, high=2000, likely_unit=lambda value: "joules, or another unit"),
}


#: Symbols of the units that `likely_unit` names.
_SYMBOLS = {
    "kelvin": "K", "degrees Fahrenheit": "degF", "pascal": "Pa", "hectopascal": "hPa", "a fraction": "1",
}  # fmt: skip


def check_units(name: str, values: np.ndarray, where: str, stated: str | None = None) -> None:
    """Refuse values that cannot be in the units of the variable table.

    Parameters
    ----------
    name : str
        Name in the variable table.
    values : (n,) float
        In any order; NaN where missing. Fewer than `ENOUGH` values are not checked.
    where : str
        File and column, for the message.
    stated : str, optional
        Unit that the user of an own table stated, whose remedy is another one.

    Raises
    ------
    SourceError
        If VPD is in Pa, PA in hPa or Pa, RH a fraction, a temperature in K or degrees F, or SW_IN beyond sunlight.

    Notes
    -----
    Wrong units whose values are possible are not recognised here: VPD in kPa, which
    `fluxcube.sources.towers.contradictions` recognises by RH and TA; SWC of a desert as a fraction; NEE in other units.

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
    value = rule.statistic(finite)
    if value < rule.low or value > rule.high:
        likely = rule.likely_unit(value)
        remedy = f"{likely}. Convert the column, or get the file as its network publishes it"
        raise SourceError(
            f"{where}: expected {table.variable(name).units}, and a {rule.what} of {value:.4g} looks like "
            f"{remedy if stated is None else _restate(name, likely.partition(':')[0], stated)}"
        )


def _restate(name: str, likely: str, stated: str) -> str:
    """Return the likely unit, and how the user of an own table states it."""
    row = table.variable(name).units
    # The values are judged after conversion from the stated unit, so that the likely one is sure only without any.
    unconverted = is_unit(stated) and same_unit(stated, row)
    if not unconverted or likely not in _SYMBOLS:
        what = likely if unconverted else f"another unit than {stated}"
        return (
            what
            + ". State the unit of the file with "
            + to_type(python=f"units={{{name!r}: ...}}", shell=f"{name} = ... under [units] in the declaration")
        )
    unit = _SYMBOLS[likely]
    return f"{likely}. State that unit: " + to_type(
        python=f"units={{{name!r}: {unit!r}}} instead of {stated!r}",
        shell=f'{name} = "{unit}" under [units] in the declaration (or {name}={unit} in --units), instead of {stated}',
    )


def measured_values(
    name: str, values: np.ndarray, where: str, resolution: str = "hourly"
) -> tuple[np.ndarray, codes.Codes]:
    """Return values without codes for missing values and impossible ones, after checking their units.

    Parameters
    ----------
    name, values, where
        As for `check_units`.
    resolution : {"hourly", "daily"}
        Resolution of the variable table.

    Returns
    -------
    values : (n,) float
    found : dict of str to int
        Number of values that became missing, by code (`fluxcube.sources.towers.codes`).

    Raises
    ------
    SourceError
        If the values cannot be in the units of the variable table.
    """
    values, known = codes.without_known_codes(name, values, resolution)
    check_units(name, values, where)
    present = np.isfinite(values).sum()
    values, others = codes.without_impossible_values(name, values, resolution)
    _check_share(name, int(present), others, where, resolution)
    return values, codes.added(known, others)


def _check_share(name: str, present: int, impossible: codes.Codes, where: str, resolution: str) -> None:
    """Refuse a flux most of whose values are impossible, and different: measurements in another unit, not codes."""
    row, count = table.variable(name, resolution), sum(impossible.values())
    if "target" in row.roles and "others" in impossible and present >= ENOUGH and count > _MOST_VALUES * present:
        raise SourceError(
            f"{where}: expected {row.units}, and {count / present:.0%} of the values are beyond {codes.IMPOSSIBLE:g} "
            f"times the bounds ({row.bounds[0]:g} to {row.bounds[1]:g}), which looks like another unit. Convert the "
            "column, or get the file as its network publishes it"
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
        If a value is infinite, or too large for float32.

    Examples
    --------
    >>> as_float32(np.array([1.0, 1e39]), "a.csv, column NEE")
    Traceback (most recent call last):
    fluxcube.errors.SourceError: a.csv, column NEE: expected a measurement, found 1e+39; correct it
    """
    with np.errstate(over="ignore"):
        small = values.astype(np.float32)
    if np.isinf(small).any():
        raise SourceError(f"{where}: expected a measurement, found {values[np.isinf(small)][0]:g}; correct it")
    return small


def check_flags(flags: np.ndarray, present: np.ndarray, where: str) -> None:
    """Refuse reversed flags, as far as they can be recognised.

    Parameters
    ----------
    flags : (time,) float
        As in the file, NaN where blank.
    present : (time,) bool
        Whether there is a value.
    where : str
        File and column, for the message.

    Raises
    ------
    SourceError
        If only steps without a value have flag 0, which means measured: in a reversed scale 0 means no value.

    Notes
    -----
    Fractions are recognised before, and `check_fills` checks the flags of NEE. Other variables are ambiguous: a column
    in which most values have flag 3 may be of a tower with long gaps, or of a reversed scale; it is accepted.
    """
    zero = flags == 0
    gaps = ~present & np.isfinite(flags)
    some = int(zero[present].sum()) == 0 and int((flags[present] > 0).sum()) >= ENOUGH
    if some and gaps.sum() >= ENOUGH and zero[gaps].all():
        raise SourceError(
            f"{where}: flag 0 is on the {int(gaps.sum())} steps without a value and on none with a value, but it means "
            "measured; these flags seem to be reversed. Reverse them, or get the file as its network publishes it"
        )


def check_fills(values: np.ndarray, flags: np.ndarray, where: str) -> None:
    """Refuse flags of NEE that mark fills as measured.

    Turbulence makes a measured flux rough; a fill is a mean, and smooth.

    Parameters
    ----------
    values, flags : (time,)
        Values and flags of consecutive half-hours or hours; NaN and -1 where missing.
    where : str
        File and column of flags, for the message.

    Raises
    ------
    SourceError
        If fluxes of a flag above 0 are more than twice as rough (median of their absolute second differences) as those
        of flag 0.

    Notes
    -----
    Of 109 towers of FLUXNET2015 none was refused. With reversed flags (0 as 3, ...) the 70 towers with enough poor
    fills were refused, and with 1 for measured and 0 for filled all of them.
    """
    differences = np.abs(values[2:] - 2 * values[1:-1] + values[:-2])

    def roughness(flag: int) -> float:
        same = flags == flag
        triples = differences[same[2:] & same[1:-1] & same[:-2]]
        return float(np.median(triples)) if len(triples) >= _ENOUGH_TRIPLES else np.nan

    measured = roughness(0)
    for flag in (1, 2, 3):
        filled = roughness(flag)
        if filled > _MAX_ROUGHNESS * measured:
            raise SourceError(
                f"{where}: fluxes of flag {flag} are {filled / measured:.1f} times as rough as those of flag 0, which "
                "means measured; fills are smooth, so these flags seem to be reversed. Reverse them, or get the file "
                "as its network publishes it"
            )
