"""Make codes for missing values, and values that no instrument can measure, missing; count them by code.

Files that another program saved, converted or merged contain other codes than -9999: -9999.9, -99999, -6999, -999, -99,
9999, 1e20. A known code is recognised where it cannot be a value of its variable. Any other value beyond
`IMPOSSIBLE` times the bounds of its variable is a code too, whatever it is. Values between that and the bounds are
kept by this module: real fluxes have such peaks, and for predictors the physical limits follow when a cube is built.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fluxcube.variables import Variable, variable

#: A value beyond this multiple of the largest bound of its variable is a code for a missing value.
IMPOSSIBLE = 10.0
#: Known codes for missing values. Readers whose files document -9999 remove it before.
_SIZES = (99.0, 99.9, 99.99, 999.0, 999.9, 999.99, 6999.0, 6999.9, 7999.0, 8888.0, 9990.0, 9999.9, 9999.99, 99999.0)
CODES = (
    *(-size for size in _SIZES),
    *_SIZES,
    *(-9999.0, -888.0, -7777.0, -9900.0, 9999.0, -32767.0, 32767.0, -32768.0, 65535.0, 1e20, 1e36),
)
#: No variable reaches this value in its own units, even if its bounds, which serve to scale it, include it.
_LOWEST = -900.0
#: Variables of which a negative code is never a measurement, although their bounds, which serve to scale them, are
#: symmetric around zero; and the largest wind speed (m s-1) at a tower.
_POSITIVE = frozenset({"SW_IN", "LW_IN", "PPFD_IN", "PPFD_OUT", "SW_OUT", "LW_OUT", "WS", "USTAR"})
_SMALLEST_CODE, _STRONGEST_WIND = -90.0, 90.0
#: A negative code, or a positive one from `_LARGEST_VALUE` on, that is a possible value (a latent heat flux of -99 or
#: 999 W m-2) counts as a code where it occurs at least this often, and more often than all other values within 5 of it.
_REPEATED, _NEAR, _LARGEST_VALUE = 6, 5.0, 900.0
#: A positive code below `_LARGE` counts in a flux only where it occurs at least this often.
_LARGE, _SEVERAL = 100.0, 3
#: No variable has a larger value in any unit; such codes are removed before units are checked.
_ABSURD = 1e10
#: Relative humidity above 100 % up to this value is that of a sensor in fog, and becomes 100 %.
SATURATED = 105.0
#: Maximum number of different codes that are listed by their value.
_LISTED = 4

Codes = dict[str, int]


def possible(values: np.ndarray, name: str, resolution: str = "hourly") -> np.ndarray:
    """Return which values (...) lie within the physical limits of their variable, ends included; False for NaN.

    Examples
    --------
    >>> possible(np.array([20.0, 99.0]), "TA"), possible(np.array([1391.0]), "H")
    (array([ True, False]), array([ True]))
    """
    low, high = variable(name, resolution).limits
    return (values >= low) & (values <= high)


def without_known_codes(
    name: str, values: np.ndarray, resolution: str = "hourly", *, raw: np.ndarray | None = None
) -> tuple[np.ndarray, Codes]:
    """Return values without known codes, and the number of each code.

    Parameters
    ----------
    name : str
        Name in the variable table.
    values : (n,) float
        In the units of the variable table, NaN where missing.
    resolution : {"hourly", "daily"}
        Resolution of the variable table.
    raw : (n,) float, optional
        The same values in the units of the file, in which codes are written; default `values`.

    Returns
    -------
    values : (n,) float
        The same array if it has no code.
    codes : dict of str to int
        Number of values by code.

    Examples
    --------
    >>> without_known_codes("NEE", np.array([-9999.9, -99.0, 1.5]))
    (array([nan, nan, 1.5]), {'-99': 1, '-9999.9': 1})
    >>> without_known_codes("LE", np.array([-99.0, 999.0, 1.5]))
    (array([-99. , 999. ,   1.5]), {})
    """
    raw = values if raw is None else raw
    found: Codes = {}
    if not raw.size or not _may_have_codes(raw):
        return values, found
    low, high = _limits_of_codes(name, resolution)
    bad = np.zeros(values.shape, bool)
    for code in CODES:
        at = raw == raw.dtype.type(code)
        if not at.any():
            continue
        if 0 < code < _LARGE and "target" in variable(name, resolution).roles and at.sum() < _SEVERAL:
            continue  # GPP of real towers reaches 98.5
        at &= (values < low) | (values > high) | _is_repeated(values, at, code)
        if at.any():
            found[_text(code)] = int(at.sum())
            bad |= at
    absurd = (np.abs(values) > _ABSURD) & ~bad
    for number, count in zip(*np.unique(values[absurd], return_counts=True), strict=True):
        found[_text(float(number))] = int(count)
    bad |= absurd
    return (np.where(bad, values.dtype.type(np.nan), values), found) if bad.any() else (values, found)


def without_impossible_values(name: str, values: np.ndarray, resolution: str = "hourly") -> tuple[np.ndarray, Codes]:
    """Return values without those beyond `IMPOSSIBLE` times their bounds, and their number by value.

    Relative humidity above 100 % and up to `SATURATED` becomes 100 %.

    Parameters
    ----------
    name, values, resolution
        As in `without_known_codes`. Wrong units are to be refused before.

    Returns
    -------
    values : (n,) float
        The same array if nothing changed.
    codes : dict of str to int
        Number of such values, by value where these are few.

    Examples
    --------
    >>> without_impossible_values("NEE", np.array([-9990.0, -9990.0, 70.0]))
    (array([nan, nan, 70.]), {'-9990': 2})
    >>> without_impossible_values("RH", np.array([100.6, 106.0]))
    (array([100., 106.]), {})
    """
    if name == "RH":
        values = _without_supersaturation(values)
    largest = IMPOSSIBLE * max(map(abs, variable(name, resolution).bounds))
    lowest = _SMALLEST_CODE if name in _POSITIVE else -largest
    if not values.size or not (np.fmax.reduce(values) > largest or np.fmin.reduce(values) < lowest):
        return values, {}
    bad = (values > largest) | (values < lowest)
    numbers, counts = np.unique(values[bad], return_counts=True)
    first = np.argsort(-counts, kind="stable")[:_LISTED]
    codes = {_text(float(numbers[at])): int(counts[at]) for at in first}
    others = int(bad.sum()) - sum(codes.values())
    codes |= {"others": others} if others else {}
    return np.where(bad, values.dtype.type(np.nan), values), codes


def standard_deviations(
    values: np.ndarray, row: Variable, column: str, resolution: str = "hourly"
) -> tuple[np.ndarray, str]:
    """Return uncertainties (n,) without negative and impossible ones, and a note on these; "" if there is none.

    Examples
    --------
    >>> standard_deviations(np.array([0.5, -0.5]), variable("NEE"), "NEE_VUT_REF_RANDUNC")
    (array([0.5, nan]), 'column NEE_VUT_REF_RANDUNC: 1 negative or impossible standard deviations became missing')
    """
    largest = max(map(abs, variable(row.name, resolution).bounds))
    bad = (values < 0) | (values > IMPOSSIBLE * largest)
    beyond = values > largest
    bad |= beyond & np.isin(values, np.array(CODES, values.dtype)) if beyond.any() else False
    if not bad.any():
        return values, ""
    text = f"column {column}: {int(bad.sum())} negative or impossible standard deviations became missing"
    return np.where(bad, values.dtype.type(np.nan), values), text


def added(codes: Mapping[str, int], more: Mapping[str, int]) -> Codes:
    """Return the sums of two counts by code."""
    return {code: codes.get(code, 0) + more.get(code, 0) for code in {**codes, **more}}


def sentence(name: str, codes: Mapping[str, int]) -> str:
    """Return what was made missing of a variable, for notes and messages.

    Examples
    --------
    >>> sentence("NEE", {"-9999.9": 12, "others": 3})
    'NEE: 15 values that are codes or impossible became missing (-9999.9: 12, others: 3)'
    """
    listed = ", ".join(f"{code}: {count}" for code, count in codes.items())
    return f"{name}: {sum(codes.values())} values that are codes or impossible became missing ({listed})"


def _may_have_codes(raw: np.ndarray) -> bool:
    """Return whether any value is as large as the smallest code."""
    smallest = min(map(abs, CODES))
    return bool(np.fmax.reduce(raw) >= smallest or np.fmin.reduce(raw) <= -smallest)


def _limits_of_codes(name: str, resolution: str) -> tuple[float, float]:
    """Return the limits beyond which a known code cannot be a value of a variable."""
    row = variable(name, resolution)
    # No daily mean of a heat flux exceeds the bounds, which serve to scale it; its half-hours do.
    low, high = row.bounds if resolution == "daily" else row.limits
    low = max(low, _SMALLEST_CODE if name in _POSITIVE else _LOWEST)
    return low, min(high, _STRONGEST_WIND) if name == "WS" else high


def _is_repeated(values: np.ndarray, at: np.ndarray, code: float) -> bool:
    """Return whether a code occurs too often, compared with the values near it, to be a measurement."""
    if _SMALLEST_CODE < code < _LARGEST_VALUE or at.sum() < _REPEATED or not np.isclose(values[at][0], code):
        return False  # of a file in other units, the code is another value
    near = np.abs(values - values[at][0]) <= _NEAR
    return int(near.sum()) < 2 * int(at.sum())


def _without_supersaturation(values: np.ndarray) -> np.ndarray:
    fog = (values > 100) & (values <= SATURATED)
    return np.where(fog, values.dtype.type(100), values) if fog.any() else values


def _text(code: float) -> str:
    return f"{code:.7g}"
