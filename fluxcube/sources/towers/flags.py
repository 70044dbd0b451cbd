"""Decide what an unexpected quality flag says: of a cell, of its column, or of the whole table.

A table all of whose flags are of another scale is another kind of table, and is refused. If one column has such flags,
the quality of its variable is unknown, and the other columns are read as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

#: Numbers at least this far from zero in a column of flags are codes for missing values (-9999.9, -99, 9999).
CODE = 90
#: Different whole numbers that are not flags make a column unreadable if they are in more than this share of its cells.
_FEW = 0.01


def unexpected(raw: np.ndarray, known: tuple[float, ...]) -> np.ndarray:
    """Return which flags (n,) are neither known, nor blank, nor a code for missing values."""
    return ~np.isin(raw, known) & (np.abs(raw) < CODE)


def unreadable(raw: np.ndarray, odd: np.ndarray) -> np.ndarray:
    """Return which flags (n,) of a column with `unexpected` ones have no meaning.

    Fractions are of another scale, and so is the whole column. One other whole number (9 for no value), or a few of
    them, concern their cells only.

    Examples
    --------
    >>> bool(unreadable(np.array([0.0, 0.5]), np.array([False, True])).all())
    True
    """
    return odd if concern_cells(raw, odd) else np.ones(len(raw), bool)


def concern_cells(raw: np.ndarray, odd: np.ndarray) -> bool:
    """Return whether odd flags of a column are one whole number, or in few cells whole numbers."""
    few = odd.sum() <= _FEW * np.isfinite(raw).sum() or len(np.unique(raw[odd])) == 1
    return bool(few and (raw[odd] == np.rint(raw[odd])).all())


def is_of_another_scale(odd: Mapping[str, bool], main: frozenset[str]) -> bool:
    """Return whether a table is refused for its flags.

    Parameters
    ----------
    odd : mapping of str to bool
        Whether each column of flags has `unexpected` ones.
    main : frozenset of str
        Columns of flags of the fluxes that the table is read for.

    Returns
    -------
    bool
        True if more than half of the columns are odd, or half of them including one of `main`.

    Examples
    --------
    >>> is_of_another_scale({"NEE_QC": False, "G_QC": True}, frozenset({"NEE_QC"}))
    False
    >>> is_of_another_scale({"NEE_QC": True, "G_QC": False}, frozenset({"NEE_QC"}))
    True
    """
    count = sum(odd.values())
    return 2 * count > len(odd) or (2 * count == len(odd) and any(odd.get(name, False) for name in main))


def sentence(column: str, name: str, raw: np.ndarray, odd: np.ndarray, expected: str) -> str:
    """Return a note on a column of flags of which some or all have no meaning."""
    first = float(raw[odd][0])
    which = "" if unreadable(raw, odd).all() else "these values of "
    return (
        f"column {column}: found {first:g} ({int(odd.sum())} such rows), expected {expected}; the quality of "
        f"{which}{name} is unknown"
    )
