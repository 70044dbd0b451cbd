"""Land-cover classes (IGBP, with the numbers of MCD12Q1, Collection 6 and later) and Köppen-Geiger climate classes."""

from __future__ import annotations

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
