"""Find units and signs that a tower's own record contradicts: VPD in kPa, fluxes whose sign is turned.

A contradiction is an error unless the user states that the variable is right (`trust`). The limits are derived from the
157 towers of FLUXNET2015 that the tests know, of which none is refused; see the comments below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fluxcube.errors import SourceError, to_type
from fluxcube.humidity import saturation_vapour_pressure
from fluxcube.variables import variable

#: Values (time,) by name of the variable table, in its units, NaN where missing.
Values = Mapping[str, np.ndarray]

#: Minimum number of pairs of values for any evidence.
_ENOUGH = 48
#: Number of parts of a record in which VPD and NEE are checked again.
_PARTS = 4
#: Of longer records, about this number of steps is used.
_SAMPLED = 16_384
#: Length of a record (days with values) from which it is long: it has more than one part of the year's cycle.
_LONG = 90.0
#: Wrong unit of VPD by the factor to the deficit that RH and TA imply. Real ratios lie within 30 % of 1.
_VPD_UNITS = {0.1: "kPa", 10.0: "ten times too large", 100.0: "Pa"}
#: Maximum median distance (in decimal logarithms) of the ratios from such a factor; deficits below 2 hPa are not used.
_SAME_FACTOR, _MIN_DEFICIT = 0.1, 2.0
#: A record of VPD whose 99th percentile stays below this share of saturation (above 5 degC) seems to be in kPa. The
#: minimum of 157 real records is 0.38.
_MOIST = 0.125
#: GPP or RECO is turned if its 5th percentile is below zero by more than this multiple of its 95th percentile (at least
#: 1): in long records, and in short ones. Over their whole records, no real tower exceeds even 1.
_TAIL_LONG, _TAIL_SHORT, _MIN_TAIL = 2.0, 5.0, 1.0
#: NEE and RECO - GPP, or -GPP, of real records correlate with 0.72 to 1 (night-time partition) and 0.10 to 0.97
#: (day-time partition, which is a model, so that short records need more).
_TURNED, _TURNED_MODEL_SHORT = -0.5, -0.9
#: If NEE correlates with RECO_NT - GPP_NT by more than this, the two are proportional, with a factor of 1; a factor
#: outside these limits shows another unit of NEE.
_PROPORTIONAL, _FACTORS = 0.9, (0.5, 2.0)
#: Correlation of a flux of energy with light below which its sign is turned, in long and in short records, if its
#: median by day (light above `_DAYLIGHT`, for LE also a daily mean above `_DAILY_DAYLIGHT`, W m-2) is also below
#: `_NEGATIVE` (W m-2). The minimum of 29 real records is 0.09 (LE, US-Var) and -0.25 (H of an irrigated orchard,
#: AU-Lox, whose daily means can be negative in summer).
_AGAINST_LIGHT = {"LE": (-0.3, -0.5), "H": (-0.5, -0.7), "NETRAD": (-0.5, -0.7), "PPFD_IN": (-0.5, -0.7)}
_DAYLIGHT, _DAILY_DAYLIGHT, _NEGATIVE = 200.0, 50.0, -10.0
#: Correlation of NEE with light above which there is a note, in long and in short records: NEE is turned, or the tower
#: is in a dry place. At 157 real towers it is at most 0.40 over the whole record, and 0.94 in one month.
_NEE_WITH_LIGHT, _NEE_WITH_LIGHT_SHORT = 0.5, 0.8

#: Variables that the check of a variable compares it with.
_COMPARED: Mapping[str, tuple[str, ...]] = {
    "VPD": ("TA", "RH"),
    "NEE": ("GPP_NT", "RECO_NT", "GPP_DT", "RECO_DT", "SW_IN"),
    "GPP_NT": ("SW_IN",),
    "GPP_DT": ("SW_IN",),
    **dict.fromkeys(("LE", "H", "NETRAD", "PPFD_IN"), ("SW_IN",)),
}

#: All variables that are checked, or that others are compared with.
CHECKED = frozenset(_COMPARED).union(*_COMPARED.values())


@dataclass(frozen=True)
class Findings:
    """Contradictions by variable, each a sentence with the evidence; and doubts, which only deserve a note.

    `own` has the doubts, by variable, that are contradictions in a table of one's own, which no network has checked.
    """

    contradictions: Mapping[str, str]
    doubts: tuple[str, ...]
    own: Mapping[str, str] = field(default_factory=dict)


def compared_with(names: Iterable[str]) -> tuple[str, ...]:
    """Return the variables that must be read for the checks of others.

    Examples
    --------
    >>> compared_with(["VPD"])
    ('TA', 'RH')
    """
    return tuple(dict.fromkeys(other for name in names for other in _COMPARED.get(name, ())))


def check_trust(trust: Iterable[str], resolution: str = "hourly") -> tuple[str, ...]:
    """Return the names in the option `trust` as a tuple.

    Raises
    ------
    UnknownNameError
        If a name is not in the variable table.
    """
    names = (trust,) if isinstance(trust, str) else tuple(trust)
    return tuple(variable(name, resolution).name for name in names)


def find_contradictions(values: Values, *, step_minutes: float) -> Findings:
    """Find variables whose unit or sign contradicts the other variables of the record.

    Parameters
    ----------
    values : mapping of str to (time,) float
        Values of one record.
    step_minutes : float
        Its time step; 1440 for daily values.

    Returns
    -------
    Findings

    Examples
    --------
    >>> ta, rh = np.full(100, 20.0), np.linspace(30, 80, 100)
    >>> vpd = saturation_vapour_pressure(ta) * (1 - rh / 100) / 10
    >>> found = find_contradictions({"TA": ta, "RH": rh, "VPD": vpd}, step_minutes=30)
    >>> found.contradictions["VPD"]
    'VPD is 0.1 times the deficit that RH and TA imply (median of 100 values): it looks like kPa, where hPa is expected'
    """
    length = max((len(array) for array in values.values()), default=0)
    every = length // _SAMPLED | 1  # an odd step reaches every time of the day
    values = {name: array[::every] for name, array in values.items()}
    days = every * step_minutes / 1440
    found: dict[str, str] = {}
    doubts: list[str] = []
    found |= _of_deficit(values)
    found |= _of_partition(values, days)
    turned = frozenset(found)
    found |= _of_exchange(values, turned, days)
    if not found:
        found |= _of_parts(values, days)
    found |= _of_energy(values, days, is_daily=step_minutes >= 1440)
    if step_minutes >= 1440 and "H" in found:
        doubts.append(found.pop("H"))  # daily means over an irrigated orchard (AU-Lox) can be negative in summer
    doubts += _moist(values, found, days)
    risen, is_long = _with_light(values, days) if "NEE" not in found else ([], False)
    return Findings(found, (*doubts, *risen), {"NEE": risen[0]} if risen and is_long else {})


def _of_parts(values: Values, days: float) -> dict[str, str]:
    """Find a unit of VPD or a sign of NEE that changes within the record, in each quarter of it."""
    length = max((len(array) for array in values.values()), default=0)
    for start in range(0, length, -(-length // _PARTS) or 1):
        part = {name: array[start : start - (-length // _PARTS)] for name, array in values.items()}
        if found := _of_deficit(part) | _of_exchange(part, frozenset(), days):
            return {name: f"in a part of the record, {text}" for name, text in found.items()}
    return {}


def checked(
    values: Values,
    *,
    step_minutes: float,
    where: str,
    trust: Sequence[str] = (),
    names: Iterable[str] | None = None,
    own: bool = False,
) -> tuple[str, ...]:
    """Refuse contradictions of variables that are not trusted; return sentences for the notes on all others.

    Parameters
    ----------
    values, step_minutes
        As in `find_contradictions`.
    where : str
        The file, for the message.
    trust : sequence of str
        Variables that the user states to be right.
    names : iterable of str, optional
        Variables to check; default all.
    own : bool
        Whether it is a table of one's own.

    Raises
    ------
    SourceError
        With the evidence, and what to do.
    """
    findings = find_contradictions(values, step_minutes=step_minutes)
    requested = set(values if names is None else names)
    every = {**findings.contradictions, **(findings.own if own else {})}
    found = {name: text for name, text in every.items() if name in requested}
    refused = [name for name in found if name not in trust]
    if refused:
        accept = to_type(python=f"trust={tuple(refused)!r}", shell=" ".join(f"--trust {name}" for name in refused))
        raise SourceError(
            f"{where}: {'; '.join(found[name] for name in refused)}. Correct the column, or, if it is right, accept it "
            f"with {accept}"
        )
    doubts = [text for text in findings.doubts if text not in every.values()]
    return (*(f"{text}; accepted by trust" for text in found.values()), *doubts)


def _of_deficit(values: Values) -> dict[str, str]:
    """Compare VPD with the deficit that RH and TA imply."""
    if not {"VPD", "RH", "TA"} <= set(values):
        return {}
    vpd, rh, ta = (values[name].astype(np.float64) for name in ("VPD", "RH", "TA"))
    with np.errstate(invalid="ignore", over="ignore"):
        implied = saturation_vapour_pressure(ta) * (1 - rh / 100)
        used = (implied > _MIN_DEFICIT) & (vpd > 0)
    if used.sum() < _ENOUGH:
        return {}
    ratio = np.log10(vpd[used] / implied[used])
    for factor, unit in _VPD_UNITS.items():
        if np.median(np.abs(ratio - np.log10(factor))) < _SAME_FACTOR:
            return {
                "VPD": f"VPD is {10 ** np.median(ratio):.2g} times the deficit that RH and TA imply (median of "
                f"{int(used.sum())} values): it looks like {unit}, where hPa is expected"
            }
    return {}


def _moist(values: Values, found: Mapping[str, str], days: float) -> list[str]:
    """Doubt a VPD that is never more than an eighth of saturation, where no RH shows its unit."""
    if "VPD" in found or "VPD" not in values or "TA" not in values or "RH" in values:
        return []
    vpd, ta = values["VPD"], values["TA"]
    used = (ta > 5) & (ta < 60) & np.isfinite(vpd)
    if used.sum() < _ENOUGH or used.sum() * days < _LONG:
        return []
    share = float(np.quantile(vpd[used] / saturation_vapour_pressure(ta[used]), 0.99))
    if share > _MOIST:
        return []
    return [f"VPD is at most {share:.2g} of saturation (99 % of the values above 5 degC): it may be in kPa, not hPa"]


def _of_partition(values: Values, days: float) -> dict[str, str]:
    """Find GPP and RECO that are negative where they should be positive."""
    found: dict[str, str] = {}
    for name in ("RECO_NT", "RECO_DT", "GPP_NT", "GPP_DT"):
        present = _finite(values, name)
        if len(present) < _ENOUGH:
            continue
        low, middle, high = (float(q) for q in np.quantile(present, (0.05, 0.5, 0.95)))
        tail = _TAIL_LONG if len(present) * days >= _LONG else _TAIL_SHORT
        if name.startswith("RECO"):
            turned = -low > max(high, 0.3) and middle < -0.3
        else:
            turned = -low > tail * max(high, _MIN_TAIL)
            # Without a single value above zero among 95 %, light need not show it.
            turned = turned and (high <= 0 or not _correlation(values, name, "SW_IN", np.negative) < 0.2)
            reco = name.replace("GPP", "RECO")
            turned = turned and (reco in found or not _closes(values, name, reco))
        if turned:
            found[name] = (
                f"{name} is negative (5th percentile {low:.3g}, 95th percentile {high:.3g}), "
                "where it is positive by definition: its sign seems to be turned"
            )
    return found


def _closes(values: Values, gpp: str, reco: str) -> bool:
    """Return whether NEE = RECO - GPP holds far better than it would with the other sign of GPP and NEE."""
    if not {"NEE", gpp, reco} <= set(values):
        return False
    gap = np.abs(values["NEE"] - (values[reco] - values[gpp]))
    both = np.isfinite(gap)
    if both.sum() < _ENOUGH:
        return False
    # At night GPP is zero, and the identity holds with either sign.
    return float(np.quantile(gap[both], 0.9)) < 0.2 * float(np.median(values[reco][both]))


def _of_exchange(values: Values, turned: frozenset[str], days: float) -> dict[str, str]:
    """Compare NEE with RECO - GPP, or with -GPP where there is no RECO."""
    if "NEE" not in values:
        return {}
    for method in ("NT", "DT"):
        gpp, reco = f"GPP_{method}", f"RECO_{method}"
        if not np.isfinite(values.get(gpp, np.array([np.nan]))).any():
            continue
        expected = (1 if gpp in turned else -1) * values[gpp].astype(np.float64)
        what = f"-{gpp}"
        if np.isfinite(values.get(reco, np.array([np.nan]))).any():
            expected, what = expected + (-1 if reco in turned else 1) * values[reco], f"{reco} - {gpp}"
        both = np.isfinite(expected) & np.isfinite(values["NEE"])
        short = both.sum() * days < _LONG
        correlation = _correlation_of(values["NEE"][both], expected[both])
        if correlation < (_TURNED_MODEL_SHORT if method == "DT" and short else _TURNED):
            return {
                "NEE": f"NEE correlates with {what} by {correlation:.2f}, where NEE = RECO - GPP (positive towards the "
                "atmosphere) is expected: the sign of NEE seems to be turned"
            }
        proportional = method == "NT" and what != f"-{gpp}" and correlation > _PROPORTIONAL
        return _of_scale(values["NEE"][both], expected[both], what) if proportional else {}
    return {}


def _of_scale(nee: np.ndarray, expected: np.ndarray, what: str) -> dict[str, str]:
    """Compare the size of NEE (n,) with that of RECO - GPP (n,), with which it is correlated."""
    factor = float(np.std(nee, dtype=np.float64) / np.std(expected, dtype=np.float64))
    if _FACTORS[0] < factor < _FACTORS[1]:
        return {}
    return {
        "NEE": f"NEE is {factor:.3g} times {what}, where NEE = RECO - GPP is expected: NEE seems to be in another unit "
        "than GPP and RECO"
    }


def _of_energy(values: Values, days: float, *, is_daily: bool) -> dict[str, str]:
    """Find fluxes of energy that are negative by day, and LE that is negative on the whole."""
    found: dict[str, str] = {}
    for name, (long, short) in _AGAINST_LIGHT.items():
        if name not in values:
            continue
        is_long = np.isfinite(values[name]).sum() * days >= _LONG
        correlation = _correlation(values, name, "SW_IN")
        if name == "LE" and not correlation > 0:
            found |= _negative_evaporation(values, _TAIL_LONG if is_long else _TAIL_SHORT)
        if name in found or np.isnan(correlation):
            continue
        daylight = _DAILY_DAYLIGHT if is_daily and name == "LE" else _DAYLIGHT
        day = values[name][(values["SW_IN"] > daylight) & np.isfinite(values[name])]
        middle = float(np.median(day)) if len(day) >= _ENOUGH else np.nan
        if correlation < (long if is_long else short) and middle < _NEGATIVE:
            found[name] = (
                f"{name} decreases with light (correlation {correlation:.2f}) and its median by day is {middle:.3g} "
                f"{variable(name).units}, where it is positive: its sign seems to be turned"
            )
    return found


def _negative_evaporation(values: Values, tail: float) -> dict[str, str]:
    present = _finite(values, "LE")
    if len(present) < _ENOUGH:
        return {}
    low, high = np.quantile(present, (0.05, 0.95))
    if -low <= tail * max(high, -_NEGATIVE):
        return {}
    return {
        "LE": f"LE is negative (5th percentile {low:.3g}, 95th percentile {high:.3g} W m-2), where evaporation is "
        "positive: its sign seems to be turned"
    }


def _with_light(values: Values, days: float) -> tuple[list[str], bool]:
    """Doubt the sign of NEE that increases with light; return also whether the record is long."""
    if "NEE" not in values or "SW_IN" not in values:
        return [], False
    both = np.isfinite(values["NEE"]) & np.isfinite(values["SW_IN"])
    is_long = bool(both.sum() * days >= _LONG)
    limit = _NEE_WITH_LIGHT if is_long else _NEE_WITH_LIGHT_SHORT
    correlation = _correlation_of(values["NEE"][both], values["SW_IN"][both])
    if not correlation > limit:
        return [], is_long
    text = (
        f"NEE increases with light (correlation {correlation:.2f}), although photosynthesis takes up CO2: check that "
        "it is positive towards the atmosphere"
    )
    return [text], is_long


def _finite(values: Values, name: str) -> np.ndarray:
    array = values.get(name, np.array([]))
    return array[np.isfinite(array)]


def _correlation(
    values: Values, one: str, other: str, change: Callable[[np.ndarray], np.ndarray] = np.positive
) -> float:
    """Return the correlation of a changed variable with another one, NaN where it cannot be computed."""
    if one not in values or other not in values:
        return np.nan
    both = np.isfinite(values[one]) & np.isfinite(values[other])
    return _correlation_of(change(values[one][both]), values[other][both])


def _correlation_of(one: np.ndarray, other: np.ndarray) -> float:
    """Return the correlation of finite values (n,), NaN if there are too few or they do not vary."""
    if len(one) < _ENOUGH:
        return np.nan
    one, other = (array.astype(np.float64) - float(array.mean(dtype=np.float64)) for array in (one, other))
    size = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / size if size > 0 else np.nan
