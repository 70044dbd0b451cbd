"""Read the time steps of a table without reading its values."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np

from fluxcube.sources.towers.archives import Location, open_stream
from fluxcube.sources.towers.stamped import parse_stamps

#: Minutes of a slot: time steps of all tables are multiples of it.
SLOT = 30
#: Columns of time stamps, in upper case: of half-hourly and hourly tables, and of daily ones.
_STAMPS = (b"TIMESTAMP_START", b"TIMESTAMP")
_LONGEST_LINE, _BLOCK = 1 << 20, 4 << 20
_NEWLINE, _RETURN, _COMMA, _ZERO = b"\n\r,0"
_MAX_DIGITS = 12


def read_slots(location: Location) -> np.ndarray | None:
    """Return the half-hours that a table has a row for: an hour counts as two of them, a day as 48.

    Parameters
    ----------
    location : Location
        A table whose time stamps are YYYYMMDDHHMM or YYYYMMDD.

    Returns
    -------
    (n,) int64 or None
        Half-hours since 1970 in the clock of the table, ascending (`time_of`). None if its stamps cannot be read.

    Raises
    ------
    SourceError
        If the file is missing, cut, broken or unsafe.
    """
    with open_stream(location) as stream:
        header = [name.strip(b' "\r\n\xef\xbb\xbf').upper() for name in stream.readline(_LONGEST_LINE).split(b",")]
        column = next((header.index(name) for name in _STAMPS if name in header), None)
        if column is None:
            return None
        try:
            blocks = [_stamps_of(block) if column == 0 else _cells_of(block, column) for block in _lines(stream)]
        except (ValueError, IndexError, OverflowError):
            return None
    return _slots_of(np.concatenate(blocks)) if blocks else None


def _lines(stream: io.BufferedIOBase) -> Iterator[bytes]:
    """Yield the rest of a table in blocks of whole lines."""
    rest = b""
    while block := stream.read(_BLOCK):
        lines, newline, rest = (rest + block).rpartition(b"\n")
        if newline and lines.strip():
            yield lines
    if rest.strip():
        yield rest


def _stamps_of(lines: bytes) -> np.ndarray:
    """Return the numbers (n,) int64 at the beginning of lines, which must have the same number of digits."""
    text = np.frombuffer(lines, np.uint8)
    starts = np.concatenate([[0], np.flatnonzero(text == _NEWLINE) + 1])
    starts = starts[starts < len(text)]
    starts = starts[~np.isin(text[starts], (_NEWLINE, _RETURN))]  # without blank lines
    width = lines.index(b",", int(starts[0])) - int(starts[0])
    cells = text[starts[:, None] + np.arange(width + 1)]
    digits = cells[:, :-1] - np.int64(_ZERO)
    if (cells[:, -1] != _COMMA).any() or (digits < 0).any() or (digits > 9).any() or width > _MAX_DIGITS:
        raise ValueError("expected the same number of digits in every row")
    return digits @ 10 ** np.arange(width - 1, -1, -1, dtype=np.int64)


def _cells_of(lines: bytes, column: int) -> np.ndarray:
    """Return the numbers (n,) int64 of one column of lines."""
    return np.array([int(line.split(b",", column + 1)[column]) for line in lines.splitlines() if line.strip()])


def _slots_of(stamps: np.ndarray) -> np.ndarray | None:
    """Return the half-hours of rows whose stamps are YYYYMMDD or YYYYMMDDHHMM, (n,) int64, ascending; None if not."""
    days = bool(len(stamps)) and bool((stamps < 10**8).all())
    start = parse_stamps(stamps * 10_000 if days else stamps)
    if not len(start) or np.isnat(start).any():
        return None
    minutes = start.astype(np.int64)
    moves = np.diff(minutes)
    step = 1440 if days else int(moves.min()) if len(moves) else SLOT
    if step < SLOT or step % SLOT:
        return None
    return np.unique((minutes[:, None] // SLOT + np.arange(step // SLOT)).ravel())


def time_of(slot: int) -> np.datetime64:
    """Return the local time at which a slot begins."""
    return np.datetime64(int(slot) * SLOT, "m")
