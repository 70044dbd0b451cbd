"""Units, standard names and attributes as CF and UDUNITS know them, and the way back to those of fluxcube."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping

import numpy as np

from fluxcube.errors import ConfigError
from fluxcube.stores.origin import derived_attrs
from fluxcube.units import convert
from fluxcube.variables import RESOLUTIONS, table

#: Attribute that names the substance whose mass is stated: UDUNITS knows "g m-2 d-1", and no "gC m-2 d-1".
MASS_OF = "mass_of"
_SUBSTANCES = {"C": "carbon", "CO2": "carbon dioxide", "CH4": "methane", "H2O": "water"}
_MASS = re.compile(r"\b([kMGTPmun]?g) ?(CO2|CH4|H2O|C)(?=[ _)]|$)")
_MOLES = re.compile(r"\b([kmun]?mol) ?\(?(?:CO2|CH4|H2O|C)\)?(?=[ _)]|$)")
_GRAMS = re.compile(r"\b([kMGTPmun]?g)(?= |\)|$)")
_BLANK = re.compile(r"[^\w.+@-]")


def udunits(units: str) -> tuple[str, str]:
    """Return units as UDUNITS knows them, and the substance that they name ("" if none).

    Examples
    --------
    >>> udunits("gC m-2 d-1"), udunits("PgC yr-1"), udunits("umol CO2 m-2 s-1"), udunits("W m-2")
    (('g m-2 d-1', 'C'), ('Pg yr-1', 'C'), ('umol m-2 s-1', ''), ('W m-2', ''))
    """
    found = _MASS.search(units)
    return _MOLES.sub(r"\1", _MASS.sub(r"\1", units)), found[2] if found else ""


def full_units(units: str, substance: str) -> str:
    """Return units with the substance whose mass they state.

    Examples
    --------
    >>> full_units("g m-2 d-1", "C"), full_units("(g m-2 d-1)2", "C"), full_units("W m-2", "")
    ('gC m-2 d-1', '(gC m-2 d-1)2', 'W m-2')
    """
    return _GRAMS.sub(rf"\1{substance}", units, count=1) if substance else units


def mass_note(substance: str) -> str:
    """Return the end of a long name that says whose mass is meant.

    Examples
    --------
    >>> mass_note("C")
    ', as mass of carbon'
    """
    return f", as mass of {_SUBSTANCES.get(substance, substance)}" if substance else ""


def standard_name(name: str, units: str) -> str:
    """Return the standard name of a variable in units, "" where CF has none of that quantity, substance and sign.

    Examples
    --------
    >>> standard_name("NEE", "umol m-2 s-1"), standard_name("NEE", "gC m-2 d-1")
    ('surface_upward_mole_flux_of_carbon_dioxide', '')
    """
    for resolution in RESOLUTIONS:
        row = table(resolution).get(name)
        if row is not None and _same_quantity(units, row.units):
            return row.standard_name or ""
    return ""


def _same_quantity(one: str, other: str) -> bool:
    """Return whether values in one unit can become values in the other, and the mass of a substance only the same."""
    if udunits(one)[1] != udunits(other)[1]:
        return False
    try:
        convert(np.zeros(1), one, other)
    except ConfigError:
        return one == other
    return True


def cf_attrs(name: str, attrs: Mapping) -> dict[str, object]:
    """Return the attributes of a variable as a file has them: units of UDUNITS, a standard name that agrees with them.

    Examples
    --------
    >>> cf_attrs("NEE", {"long_name": "net ecosystem exchange", "units": "gC m-2 d-1"})
    {'long_name': 'net ecosystem exchange, as mass of carbon', 'units': 'g m-2 d-1', 'mass_of': 'C'}
    """
    out = plain_attrs(attrs)
    if "units" not in out:
        return out
    full = str(out["units"])
    out["units"], substance = udunits(full)
    if substance:
        out["long_name"] = f"{out.get('long_name', name)}{mass_note(substance)}"
        out[MASS_OF] = substance
    if name in table() or name in table("daily"):
        out.pop("standard_name", None)
        out |= {"standard_name": known} if (known := standard_name(name, full)) else {}
    if re.search(r"\bdeg[CF]\b|\bK\b", full) and "standard_name" in out:
        out["units_metadata"] = "temperature: on_scale"
    return out


def fluxcube_attrs(attrs: Mapping) -> dict[str, object]:
    """Return the attributes of a variable of a file as fluxcube has them; the reverse of `cf_attrs`."""
    out = {key: plain(value) for key, value in attrs.items() if key != "units_metadata"}
    substance = str(out.pop(MASS_OF, ""))
    if substance:
        out["units"] = full_units(str(out["units"]), substance)
        out["long_name"] = str(out.get("long_name", "")).removesuffix(mass_note(substance))
    return out


def plain(value: object) -> object:
    """Return an attribute of a file as Python's own type; arrays stay lists."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value


def plain_attrs(attrs: Mapping) -> dict[str, object]:
    """Return attributes that every NetCDF file can contain, in the name of what was computed from the store.

    None is left out, truth values are 0 or 1, lists of numbers are arrays; other lists, mappings and objects are JSON
    or plain text.

    Examples
    --------
    >>> plain_attrs({"a": None, "b": True, "c": {"x": [1, None]}, "d": [1, 2], "store_id": "ab12"})
    {'b': 1, 'c': '{"x": [1, null]}', 'd': array([1, 2]), 'derived_from': 'ab12'}
    """
    found = {_key(key): _value(value) for key, value in derived_attrs(attrs).items() if value is not None}
    return {key: value for key, value in found.items() if value is not None}


def _key(key: object) -> str:
    """Return a name that NetCDF accepts."""
    text = _BLANK.sub("_", str(key)).lstrip(".+-@") or "_"
    return f"_{text}" if text[0].isdigit() else text


def _value(value: object) -> object:
    if isinstance(value, bool | np.bool_):
        return int(value)
    if isinstance(value, str | float | np.floating) or (
        isinstance(value, int | np.integer) and abs(int(value)) < 2**63
    ):
        return value
    if isinstance(value, np.datetime64 | datetime.date):
        return str(value)
    if isinstance(value, list | tuple | np.ndarray):
        array = np.asarray(value) if _are_numbers(value) else None
        return json.dumps(list(value), default=str) if array is None else array if array.size else None
    return json.dumps(value, default=str)


def _are_numbers(values: list | tuple | np.ndarray) -> bool:
    if isinstance(values, np.ndarray):
        return values.ndim < 2 and values.dtype.kind in "iuf"
    return all(isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in values)
