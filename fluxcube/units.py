"""Convert values from the units of a file to the units of the variable table, in any usual spelling of the units."""

from __future__ import annotations

import difflib
import math
import re
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from fluxcube.errors import ConfigError

if TYPE_CHECKING:
    import xarray as xr

#: Powers of length, mass, time, temperature, amount of substance and angle.
_Powers = tuple[int, ...]
_NONE: _Powers = (0, 0, 0, 0, 0, 0)
_LENGTH, _MASS, _TIME = (1, 0, 0, 0, 0, 0), (0, 1, 0, 0, 0, 0), (0, 0, 1, 0, 0, 0)
_KELVIN, _AMOUNT, _ANGLE = (0, 0, 0, 1, 0, 0), (0, 0, 0, 0, 1, 0), (0, 0, 0, 0, 0, 1)
_ENERGY, _POWER, _PRESSURE = (2, 1, -2, 0, 0, 0), (2, 1, -3, 0, 0, 0), (-1, 1, -2, 0, 0, 0)
_POWER_PER_AREA = (0, 1, -3, 0, 0, 0)

#: Water of 1000 kg m-3: factors from mass per area to depth and back, and the powers of length and mass before each.
_WATER: dict[_Powers, Fraction] = {(3, -1, 0, 0, 0, 0): Fraction(1, 1000), (-3, 1, 0, 0, 0, 0): Fraction(1000)}
_DEPTH: dict[_Powers, _Powers] = {(3, -1, 0, 0, 0, 0): (-2, 1), (-3, 1, 0, 0, 0, 0): (1, 0)}

_PREFIX = {"": 0, "M": 6, "k": 3, "h": 2, "c": -2, "m": -3, "u": -6, "n": -9}

#: Symbol: its prefixes, its size in SI units, its powers. Sizes are fractions, so that hPa to kPa is exactly one
#: tenth. Grams of a substance are converted to moles (g mol-1: C 12.011, CO2 44.009, CH4 16.043; IUPAC
#: 2021). E is the einstein, a mole of photons.
_SYMBOLS: dict[str, tuple[str, str | Fraction, _Powers]] = {
    "m": (" kcm", "1", _LENGTH),
    "ha": (" ", "10000", (2, 0, 0, 0, 0, 0)),
    "g": (" kmun", "1/1000", _MASS),
    "gC": (" kmun", "1000/12011", _AMOUNT),
    "gCOO": (" kmun", "1000/44009", _AMOUNT),
    "gCHHHH": (" kmun", "1000/16043", _AMOUNT),
    "mol": (" kmun", "1", _AMOUNT),
    "E": (" mu", "1", _AMOUNT),
    "Pa": (" hkM", "1", _PRESSURE),
    "bar": (" m", "100000", _PRESSURE),
    "W": (" mkM", "1", _POWER),
    "J": (" kM", "1", _ENERGY),
    "s": (" ", "1", _TIME),
    "min": (" ", "60", _TIME),
    "h": (" ", "3600", _TIME),
    "d": (" ", "86400", _TIME),
    "K": (" ", "1", _KELVIN),
    "degC": (" ", "1", _KELVIN),
    "degF": (" ", "5/9", _KELVIN),
    "rad": (" ", "1", _ANGLE),
    "degree": (" ", Fraction(math.pi) / 180, _ANGLE),
    "%": (" ", "1/100", _NONE),
    "ppm": (" ", "1/1000000", _NONE),
    "ppb": (" ", "1/1000000000", _NONE),
    "one": (" ", "1", _NONE),
}
_UNITS = {
    prefix.strip() + name: (Fraction(size) * Fraction(10) ** _PREFIX[prefix.strip()], powers)
    for name, (prefixes, size, powers) in _SYMBOLS.items()
    for prefix in prefixes
}
_ZERO = {"degC": Fraction("273.15"), "degF": Fraction("459.67") * 5 / 9}

#: Other names of a whole unit, in lower case without blanks.
_WORDS = {
    "c": "degC",
    "deg.c": "degC",
    "°c": "degC",
    "celsius": "degC",
    "degreec": "degC",
    "degreesc": "degC",
    "deg_c": "degC",
    "oc": "degC",
    "degc": "degC",
    "degreecelsius": "degC",
    "degree_celsius": "degC",
    "degreescelsius": "degC",
    "f": "degF",
    "°f": "degF",
    "degf": "degF",
    "fahrenheit": "degF",
    "k": "K",
    "kelvin": "K",
    "degk": "K",
    "percent": "%",
    "pct": "%",
    "%rh": "%",
    "vol%": "%",
    "vol.%": "%",
    "%vol": "%",
    "1": "one",
    "fraction": "one",
    "frac": "one",
    "ratio": "one",
    "-": "one",
    "#": "one",
    "unitless": "one",
    "dimensionless": "one",
    "none": "one",
    "°": "degree",
    "deg": "degree",
    "degrees": "degree",
    "deg_from_north": "degree",
    "degn": "degree",
    "ppmv": "ppm",
    "ppbv": "ppb",
    "mb": "mbar",
    "millibar": "mbar",
}
_SYNONYMS = {
    **{"sec": "s", "second": "s", "seconds": "s", "hr": "h", "hour": "h", "hours": "h", "day": "d", "days": "d"},
    **{"minute": "min", "mb": "mbar", "mBar": "mbar", "hpa": "hPa", "HPa": "hPa", "kpa": "kPa", "KPa": "kPa"},
    **{"Kelvin": "K", "kelvin": "K", "watts": "W", "Watts": "W", "meter": "m", "metre": "m", "meters": "m"},
    **{"metres": "m", "moles": "mol", "mols": "mol", "umols": "umol", "umoles": "umol", "micromol": "umol"},
    **{"micromoles": "umol", "nmoles": "nmol", "nanomol": "nmol", "nanomoles": "nmol", "mmoles": "mmol"},
}

#: Coordinates of a target's units, in a cube and in an array that was selected from one.
_COORDS = ("target_units", "units")
#: Spellings of the attribute, in lower case.
_ATTRIBUTES = ("units", "unit")

_SPELLING = str.maketrans(
    {"µ": "u", "μ": "u", "−": "-", "–": "-", "⁻": "-", "^": "", "·": " ", "⋅": " ", "×": " ", "*": " ", "℃": "°C"}
    | {"⁺": "+", "º": "°", "˚": "°", "{": "", "}": "", "$": "", "\u00a0": " "}
    | {raised: str(digit) for digit, raised in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}
)
#: The end of a substance: no further letter or digit, except those of an area that follows without a blank.
_END = r"(?:(?![A-Za-z0-9])|(?=m-?[23](?!\d)))"
_MOLES_OF = re.compile(rf"mol[ _]*\(?(CO2|CH4|H2O|C|[Pp]hotons?)\)?{_END}")
_GRAMS_OF = re.compile(rf"\b([kmun]?g)[ _]*\(?-?(CO2-C|CH4-C|C-CO2|C-CH4|CO2|CH4|C)\)?{_END}")
_ATOMS = {"C": "C", "CO2-C": "C", "CH4-C": "C", "C-CO2": "C", "C-CH4": "C", "CO2": "COO", "CH4": "CHHHH"}
#: EddyPro's mole of moist and of dry air.
_MOLES_OF_AIR = re.compile(r"(?<=mol)_[ad](?![A-Za-z])")
_PIECE = re.compile(r"(/)|(\()|(\))|([A-Za-z%]+)([+-]?\d{1,2})?|(1)(?!\d)| +")

#: Units that the message about an unknown unit lists.
_KNOWN = (
    "degC",
    "K",
    "degF",
    "Pa",
    "hPa",
    "kPa",
    "mbar",
    "W m-2",
    "MJ m-2 d-1",
    "J m-2",
    "mm",
    "m",
    "cm",
    "mm h-1",
    "mm s-1",
    "kg m-2 s-1",
    "m s-1",
    "km h-1",
    "degree",
    "rad",
    "%",
    "1",
    "ppm",
    "umol mol-1",
    "mmol mol-1",
    "m3 m-3",
    "umol m-2 s-1",
    "nmol m-2 s-1",
    "mmol m-2 s-1",
    "mg CO2 m-2 s-1",
    "gC m-2 d-1",
    "gC m-2 s-1",
)


def convert(
    values: np.ndarray, from_unit: str, to_unit: str, *, name: str = "", step_minutes: float | None = None
) -> np.ndarray:
    """Convert values from one unit to another.

    Parameters
    ----------
    values : array
        Values of any shape.
    from_unit, to_unit : str
        Units in any spelling of the field: ``degC``, ``°C``, ``W m-2``, ``W/m2``, ``W m^-2``, ``µmolCO2 m⁻² s⁻¹``,
        EddyPro's ``[µmol+1s-1m-2]``, REddyProc's ``umolm-2s-1``.
    name : str
        Name of the variable, for error messages.
    step_minutes : float, optional
        Length of the period that a value represents. It allows to convert a rate to the amount in the period
        (``mm h-1`` to ``mm``), and the energy received in the period to a flux (``J m-2`` to ``W m-2``).

    Returns
    -------
    array of float
        Converted values, with the shape of `values` and, if that is a float, its dtype.

    Raises
    ------
    ConfigError
        If a unit is unknown, or the two units measure different quantities.

    Notes
    -----
    A millimetre of water is a kilogram per square metre. Names of substances matter for masses only: grams of C, CO2
    and CH4 are converted to moles. A flux of water is not converted to latent heat, nor a flux of photons to a flux of
    energy.

    Examples
    --------
    >>> convert(np.array([295.15]), "K", "°C").round(2)
    array([22.])
    >>> float(convert(1.0, "umol CO2 m-2 s-1", "gC m-2 d-1").round(4))
    1.0378
    >>> convert(np.array([2.0]), "mm h-1", "mm", step_minutes=30)
    array([1.])
    """
    source, target = _parse(from_unit, name), _parse(to_unit, name)
    factor = _bridge(source[1], target[1], step_minutes)
    if factor is None:
        raise _incompatible(from_unit, to_unit, name, _bridge(source[1], target[1], 1) is not None)
    values = np.asarray(values)
    kind = values.dtype if np.issubdtype(values.dtype, np.floating) else np.float64
    scale, shift = source[0] * factor / target[0], (source[2] - target[2]) / target[0]
    return (values.astype(np.float64) * float(scale) + float(shift)).astype(kind)


def linear_conversion(found: str, units: str, name: str) -> tuple[float, float]:
    """Return offset and factor by which values in one unit become values in another: (0, 1) for equal units.

    Parameters
    ----------
    found, units : str
        Unit of the values, and the unit that they shall have.
    name : str
        Variable, for messages.

    Raises
    ------
    ConfigError
        If a unit is unknown, or the values cannot be converted.

    Examples
    --------
    >>> linear_conversion("degC", "K", "TA"), linear_conversion("K", "K", "TA")
    ((273.15, 1.0), (0.0, 1.0))
    """
    if found == units:
        return 0.0, 1.0
    zero, one = convert(np.array([0.0, 1.0]), found, units, name=name).tolist()
    return zero, one - zero


def units_of(array: xr.DataArray) -> str:
    """Return the units of the values of one flux: its attribute, else its coordinate; "" if it has neither.

    Examples
    --------
    >>> import xarray as xr
    >>> units_of(xr.DataArray([1.0], dims="time", attrs={"units": "gC m-2 d-1"})), units_of(xr.DataArray([1.0]))
    ('gC m-2 d-1', '')
    """
    spelled = {str(name).lower(): str(value).strip() for name, value in array.attrs.items()}
    if attribute := next((spelled[name] for name in _ATTRIBUTES if spelled.get(name)), ""):
        return attribute
    known = [array.coords[name] for name in _COORDS if name in array.coords and not array.coords[name].dims]
    return next((str(coord.values) for coord in known if str(coord.values)), "")


def is_unit(text: str) -> bool:
    """Return whether a text is a unit that `convert` knows.

    Examples
    --------
    >>> is_unit("[µmol+1s-1m-2]"), is_unit("bananas")
    (True, False)
    """
    try:
        _parse(text, "")
    except ConfigError:
        return False
    return True


def same_unit(one: str, other: str) -> bool:
    """Return whether two units are the same one; a mass may lack the substance that the other one names.

    A unit that `convert` does not know, such as that of a predictor that a user declared, is the same only if it is
    spelled alike.

    Examples
    --------
    >>> same_unit("[µmol+1s-1m-2]", "umol m-2 s-1"), same_unit("umol m-2 s-1", "nmol m-2 s-1")
    (True, False)
    >>> same_unit("mg m-2 s-1", "mg CO2 m-2 s-1"), same_unit("mgC m-2 s-1", "mg CO2 m-2 s-1")
    (True, False)
    >>> same_unit("gC kg-1 soil", "gC  kg-1 soil"), same_unit("gC kg-1 soil", "kg m-2")
    (True, False)
    """
    if not (is_unit(one) and is_unit(other)):
        return one.split() == other.split()
    if _parse(one, "") == _parse(other, ""):
        return True
    without = [_GRAMS_OF.sub(r"\1", str(unit).translate(_SPELLING)) for unit in (one, other)]
    return _parse(one, "") == _parse(without[1], "") or _parse(without[0], "") == _parse(other, "")


def _bridge(powers: _Powers, target: _Powers, step_minutes: float | None) -> Fraction | None:
    """Return the factor that converts SI values to the target quantity, or None if they cannot be converted."""
    seconds = None if step_minutes is None else Fraction(step_minutes) * 60
    for water, factor in ((_NONE, Fraction(1)), *_WATER.items()):
        measured = _times(powers, water)
        if water != _NONE and powers[:2] != _DEPTH[water]:
            continue
        if measured == target:
            return factor
        if seconds is not None and _times(measured, _TIME) == target:
            return factor * seconds
    if seconds is not None and target == _POWER_PER_AREA and powers == _times(target, _TIME):
        return 1 / seconds
    return None


def _times(one: _Powers, other: _Powers, count: int = 1) -> _Powers:
    return tuple(a + count * b for a, b in zip(one, other, strict=True))


def _parse(unit: str, name: str) -> tuple[Fraction, _Powers, Fraction]:
    """Return the size of a unit in SI units, its powers, and its zero in SI units."""
    text = _spelled(unit)
    if text in _ZERO:
        return *_UNITS[text], _ZERO[text]
    size, powers = Fraction(1), _NONE
    depth, below, end = 0, False, 0
    for piece in _PIECE.finditer(text):
        slash, opening, closing, symbol, power, _ = piece.groups()
        symbols = _symbols(symbol, power) if symbol else ()
        if piece.start() != end or symbols is None:
            raise _unknown(unit, name)
        end = piece.end()
        if slash or opening or closing:
            depth += bool(opening) - bool(closing)
            below = bool(slash) or (below and not closing)
        elif symbols:
            for symbol in symbols:
                count = (int(power or 1) if symbol == symbols[-1] else 1) * (-1 if below else 1)
                size, powers = size * _UNITS[symbol][0] ** count, _times(powers, _UNITS[symbol][1], count)
            below = below and depth > 0
    if end != len(text) or depth or not text or below:
        raise _unknown(unit, name)
    return size, powers, Fraction(0)


def _symbols(letters: str, power: str | None) -> tuple[str, ...] | None:
    """Return the symbols that letters stand for; without blanks (``umolm-2``) the power belongs to the last one."""
    letters = _SYNONYMS.get(letters, letters)
    if letters in _UNITS:
        return (letters,)
    if power is None:
        return None
    pairs = [(letters[:n], _SYNONYMS.get(letters[n:], letters[n:])) for n in range(1, len(letters))]
    known = [pair for pair in pairs if pair[0] in _UNITS and pair[1] in _UNITS]
    return known[0] if len(known) == 1 else None


def _spelled(unit: str) -> str:
    """Return a unit in the spelling that `_PIECE` matches: blanks, signed powers, one letter for micro.

    Files that were saved in a wrong encoding have two letters for micro.
    """
    text = str(unit).strip().replace("**", "").replace("Âµ", "u").replace("Î¼", "u").translate(_SPELLING)
    if text[:1] + text[-1:] in ("[]", "()"):
        text = text[1:-1].strip()
    word = _WORDS.get(text.lower().replace(" ", ""))
    if word:
        return word
    text = re.sub(r"\s+per\s+", "/", text)
    text = re.sub(r"(?<=[A-Za-z0-9])\.(?=[A-Za-z])", " ", text)
    text = _MOLES_OF_AIR.sub("", _MOLES_OF.sub("mol", text)).replace("_", " ")
    text = _GRAMS_OF.sub(lambda match: f"{match[1]}{_ATOMS[match[2]]} ", text)
    return re.sub(r"\s+", " ", text).strip()


def _of(name: str) -> str:
    return f"{name}: " if name else ""


def _unknown(unit: object, name: str) -> ConfigError:
    near = difflib.get_close_matches(str(unit), _KNOWN, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return ConfigError(
        f"{_of(name)}unit {unit!r} is not known{hint} Known units, in any usual spelling: {', '.join(_KNOWN)}"
    )


def _incompatible(from_unit: str, to_unit: str, name: str, needs_step: bool) -> ConfigError:
    if needs_step:
        return ConfigError(f"{_of(name)}{from_unit!r} to {to_unit!r} needs the length of a period: pass step_minutes=")
    same = [known for known in _KNOWN if _bridge(_parse(known, "")[1], _parse(to_unit, name)[1], 1) is not None]
    near = difflib.get_close_matches(str(from_unit), same, n=1, cutoff=0.0) or [to_unit]
    return ConfigError(
        f"{_of(name)}{from_unit!r} cannot become {to_unit!r}: they measure different quantities; did you mean "
        f"{near[0]!r}? "
        f"Convertible units: {', '.join(same) or to_unit}"
    )
