"""Land-cover classes (IGBP, with the numbers of MCD12Q1, Collection 6 and later) and Köppen-Geiger climate classes."""

from __future__ import annotations

import re

import numpy as np

from fluxcube.errors import unknown

#: IGBP code to MCD12Q1 LC_Type1 number (C6 and C6.1; C5 had water as 0).
IGBP_NUMBERS = {
    "ENF": 1,
    "EBF": 2,
    "DNF": 3,
    "DBF": 4,
    "MF": 5,
    "CSH": 6,
    "OSH": 7,
    "WSA": 8,
    "SAV": 9,
    "GRA": 10,
    "WET": 11,
    "CRO": 12,
    "URB": 13,
    "CVM": 14,
    "SNO": 15,
    "BSV": 16,
    "WAT": 17,
}

#: MCD12Q1 number to IGBP code.
IGBP_CODES = {number: code for code, number in IGBP_NUMBERS.items()}


def _singular(word: str) -> str:
    return f"{word[:-3]}y" if word.endswith("ies") else word.removesuffix("s")


#: Words of the names in the IGBP legend of MCD12Q1, singular, without `_FILLERS`.
_IGBP_WORDS = {
    frozenset(map(_singular, words.split())): code
    for code, names in {
        "ENF": ("evergreen needleleaf forest",),
        "EBF": ("evergreen broadleaf forest",),
        "DNF": ("deciduous needleleaf forest",),
        "DBF": ("deciduous broadleaf forest",),
        "MF": ("mixed forest",),
        "CSH": ("closed shrubland",),
        "OSH": ("open shrubland",),
        "WSA": ("woody savanna",),
        "SAV": ("savanna",),
        "GRA": ("grassland",),
        "WET": ("wetland",),
        "CRO": ("cropland",),
        "URB": ("urban built up", "urban"),
        "CVM": ("cropland natural vegetation mosaic",),
        "SNO": ("snow ice",),
        "BSV": ("barren sparse vegetation", "barren sparsely vegetated", "barren"),
        "WAT": ("water body", "water"),
    }.items()
    for words in names
}
_FILLERS = {"and", "or", "permanent", "land", "area"}
_LONGEST_NAME = 100
_NUMBER = re.compile(r"(\d{1,2})(?:\.0*)?")
_WITH_CODE = (
    re.compile(r"(?P<code>[A-Z]{2,3})\s*[:;,(\[\u2013\u2014-]\s*(?P<rest>.*?)[)\]]?", re.IGNORECASE),
    re.compile(r"(?P<rest>.*?)\s*[(\[]\s*(?P<code>[A-Z]{2,3})\s*[)\]]", re.IGNORECASE),
    re.compile(r"(?P<code>\d{1,2})\s*[.:;,)\u2013\u2014 -]\s*(?P<rest>.*)"),
)


def igbp_class(text: str) -> str:
    """Return the IGBP code that a text names: a code, a number of MCD12Q1, or a name written out; "" if it is none.

    Upper and lower case, singular and plural, hyphens, slashes and blanks make no difference; a code beside a name must
    agree with it.

    Examples
    --------
    >>> [igbp_class(text) for text in ("cro", "Croplands", "12", "Evergreen needle-leaf forest", "CRO - Croplands")]
    ['CRO', 'CRO', 'CRO', 'ENF', 'CRO']
    >>> [igbp_class(text) for text in ("TBD", "Forest", "ENF/GRA", "GRA (Croplands)", "18")]
    ['', '', '', '', '']
    """
    text = text.strip()
    if len(text) > _LONGEST_NAME:
        return ""
    if text.upper() in IGBP_NUMBERS:
        return text.upper()
    if number := _NUMBER.fullmatch(text):
        return igbp_code(int(number.group(1)))
    words = re.sub(r"(needle|broad)[^a-z]*lea(?:f|ved|ves)", r"\1leaf ", text.lower())
    words = re.sub(r"(grass|crop|shrub|wet)[^a-z]*land", r"\1land", words).replace("savannah", "savanna")
    found = {_singular(word) for word in re.findall(r"[a-z]+", words)} - _FILLERS
    if code := _IGBP_WORDS.get(frozenset(found), ""):
        return code if not re.search(r"\d", text) else _with_code(text)
    return _with_code(text)


def _with_code(text: str) -> str:
    """Return the class of a text that consists of a code or a number and a name, if both are of the same class."""
    for pattern in _WITH_CODE:
        if match := pattern.fullmatch(text):
            code, rest = igbp_class(match["code"]), match["rest"]
            other = igbp_class(rest) if rest else code
            codes = {word for word in re.findall(r"[A-Z]+", rest) if word in IGBP_NUMBERS} - {code}
            if code and not codes and (other == code or (not other and not match["code"].isdigit())):
                return code
    return ""


def igbp_code(number: int) -> str:
    """Return the IGBP code of an MCD12Q1 number; "" for fill (255) and unclassified (0 in C6).

    Examples
    --------
    >>> igbp_code(17), igbp_code(255)
    ('WAT', '')
    """
    return IGBP_CODES.get(int(number), "")


def igbp_number(code: str) -> int:
    """Return the MCD12Q1 number of an IGBP code.

    Raises
    ------
    UnknownNameError
        If the code is not one of the 17 IGBP codes.
    """
    try:
        return IGBP_NUMBERS[code]
    except KeyError:
        raise unknown("IGBP class", code, IGBP_NUMBERS) from None


def koppen(temperature: np.ndarray, rain: np.ndarray, latitude: np.ndarray) -> np.ndarray:
    """Return the Köppen-Geiger climate class of each place.

    Parameters
    ----------
    temperature, rain : (place, month) float
        Monthly means in degC and sums in mm, January first.
    latitude : (place,) float
        Degrees; south of the equator summer is October to March.

    Returns
    -------
    (place,) object
        Köppen-Geiger classes such as "Csa"; "" where a month is missing.

    References
    ----------
    Peel et al. 2007, doi:10.5194/hess-11-1633-2007.

    Examples
    --------
    >>> koppen(np.full((1, 12), 26.0), np.full((1, 12), 200.0), np.array([0.0]))
    array(['Af'], dtype=object)
    """
    south = (np.asarray(latitude) < 0)[:, None]
    t, p = (np.where(south, np.roll(x, 6, axis=1), x) for x in (np.asarray(temperature), np.asarray(rain)))
    mean, year = t.mean(1), p.sum(1)
    wet_half = p[:, 3:9].sum(1) / np.maximum(year, 1e-9)
    dryness = 2 * mean + np.where(wet_half >= 0.7, 28, np.where(wet_half <= 0.3, 0, 14))
    desert = np.where(year < 5 * dryness, "BW", "BS").astype(object) + np.where(mean >= 18, "h", "k")
    polar = np.where(t.max(1) > 0, "ET", "EF")
    tropical = np.where(p.min(1) >= 60, "Af", np.where(p.min(1) >= 100 - year / 25, "Am", "Aw"))
    other = np.where(t.min(1) > 0, "C", "D").astype(object) + _seasons_of_rain(p) + _heat(t)
    known = np.isfinite(t).all(1) & np.isfinite(p).all(1)
    return np.select(
        [~known, year < 10 * dryness, t.max(1) < 10, t.min(1) >= 18], ["", desert, polar, tropical], other
    ).astype(object)


def _seasons_of_rain(p: np.ndarray) -> np.ndarray:
    warm, cold = p[:, 3:9], np.delete(p, np.s_[3:9], axis=1)
    dry_summer = (warm.min(1) < 40) & (warm.min(1) < cold.max(1) / 3)
    return np.where(dry_summer, "s", np.where(cold.min(1) < warm.max(1) / 10, "w", "f"))


def _heat(t: np.ndarray) -> np.ndarray:
    cool = np.where((t >= 10).sum(1) >= 4, "b", np.where(t.min(1) < -38, "d", "c"))
    return np.where(t.max(1) >= 22, "a", cool)
