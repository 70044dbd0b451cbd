"""Convert numbers to CSV text, a whole table at a time: towers' files contain tens of millions of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: Text of a missing value in ONEFlux files.
MISSING = "-9999"
_GROUPS = np.frombuffer("".join(f"{n:04d}" for n in range(10000)).encode(), np.uint8).reshape(10000, 4)


def number_text(values: np.ndarray, decimals: int) -> np.ndarray:
    """Write numbers as bytes, NaN as -9999, padded with zero bytes.

    Parameters
    ----------
    values : (n,) float
        Between -9999 and 9999.
    decimals : int
        0 to 4, always written in full.

    Returns
    -------
    (n, width) uint8

    Examples
    --------
    >>> [bytes(row[row > 0]).decode() for row in number_text(np.array([-0.5, 12.3456, np.nan]), 2)]
    ['-0.50', '12.35', '-9999']
    """
    missing = ~np.isfinite(values)
    scaled = np.rint(np.where(missing, 0.0, values) * 10**decimals).astype(np.int64)
    whole, rest = np.divmod(np.abs(scaled), 10**decimals)
    out = np.zeros((len(values), 5 + (decimals + 1 if decimals else 0)), np.uint8)
    out[:, 0] = np.where(scaled < 0, ord("-"), 0)
    out[:, 1:5] = _GROUPS[whole]
    for place in range(3):
        out[whole < 10 ** (3 - place), 1 + place] = 0
    if decimals:
        out[:, 5] = ord(".")
        out[:, 6:] = _GROUPS[rest][:, 4 - decimals :]
    out[missing] = 0
    out[missing, :5] = np.frombuffer(MISSING.encode(), np.uint8)
    return out


def stamp_text(stamps: np.ndarray) -> np.ndarray:
    """Write times as YYYYMMDDHHMM: (n,) datetime64 to (n, 12) uint8.

    Examples
    --------
    >>> bytes(stamp_text(np.array(["2018-02-01T09:30"], "datetime64[m]"))[0]).decode()
    '201802010930'
    """
    months = stamps.astype("datetime64[M]")
    year, month = np.divmod(months.astype(int), 12)
    day = (stamps.astype("datetime64[D]") - months.astype("datetime64[D]")).astype(int) + 1
    minute = (stamps.astype("datetime64[m]") - stamps.astype("datetime64[D]")).astype(int)
    groups = (year + 1970, 100 * (month + 1) + day, 100 * (minute // 60) + minute % 60)
    return np.concatenate([_GROUPS[group] for group in groups], 1)


def csv_bytes(names: Sequence[str], columns: Sequence[np.ndarray]) -> bytes:
    r"""Join columns of padded text, (n, width) uint8 each, under a header line.

    Examples
    --------
    >>> csv_bytes(["A", "B"], [number_text(np.array([1.0]), 0), number_text(np.array([2.5]), 1)])
    b'A,B\n1,2.5\n'
    """
    rows = len(columns[0])
    comma, end = (np.full((rows, 1), ord(mark), np.uint8) for mark in ",\n")
    parts = [part for column in columns for part in (column, comma)]
    text = np.concatenate([*parts[:-1], end], 1)
    return ",".join(names).encode() + b"\n" + text[text != 0].tobytes()
