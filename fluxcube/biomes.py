"""Land-cover classes: IGBP as MCD12Q1 (Collection 6 and later) numbers them, water being 17."""

from __future__ import annotations

from fluxcube.errors import unknown

#: IGBP code to MCD12Q1 LC_Type1 number (C6 and C6.1; C5 had water as 0).
IGBP_NUMBERS = {
    "ENF": 1, "EBF": 2, "DNF": 3, "DBF": 4, "MF": 5, "CSH": 6, "OSH": 7, "WSA": 8, "SAV": 9, "GRA": 10,
    "WET": 11, "CRO": 12, "URB": 13, "CVM": 14, "SNO": 15, "BSV": 16, "WAT": 17,
}  # fmt: skip

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
        If the code is none of the 17.
    """
    try:
        return IGBP_NUMBERS[code]
    except KeyError:
        raise unknown("IGBP class", code, IGBP_NUMBERS) from None
