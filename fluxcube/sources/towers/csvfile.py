"""Read a table of numbers fast, and report the line and the column of the first fault in it.

The fast pass is pandas' C parser. It accepts rows that are cut (they read as missing values), so that `_LineWatch`
counts the commas of every line while the file is read. If a count differs, or the parser fails, a slow pass finds the
line and the column.
"""

from __future__ import annotations

import csv
import io
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd

from fluxcube.errors import SourceError
from fluxcube.sources.towers.archives import Location, open_stream, size_of

_log = logging.getLogger(__name__)

_BLANKS = ("", "NA", "NaN", "nan")
#: Texts for a missing value with up to 15 blanks behind them; the parser strips those before them.
_PADDED_BLANKS = ["\t", *(text + " " * number for text in _BLANKS for number in range(16))]
_WHOLE = re.compile(r"[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LONGEST_HEADER = 1 << 20
#: Number of bytes at the beginning of a file that `read_sample` draws from: some 3 years of half-hours of a SUBSET's 13
#: columns, 40 days of a FULLSET's 270 columns.
SAMPLE_BYTES = 4 << 20
_SAMPLE_BLOCKS, _SAMPLE_BLOCK = 8, 1 << 16
_NEWLINE, _RETURN, _COMMA = b"\n\r,"


def read_numbers(
    location: Location,
    choose: Callable[[Sequence[str]], Sequence[str]],
    *,
    integers: Sequence[str] = (),
) -> pd.DataFrame:
    """Read some columns of a comma-separated table with one header line.

    Parameters
    ----------
    location : Location
        The file.
    choose : callable
        Called with the names in the header; returns those to read.
    integers : sequence of str
        Columns of whole numbers, which may not be blank. The others are float32, NaN where blank.

    Returns
    -------
    pandas.DataFrame
        One row per line of the file, columns in the order of the file.

    Raises
    ------
    SourceError
        If the file is empty or binary, has no rows, repeated column names, a row of another length, or text where a
        number is expected; the message contains the line and the column.

    Notes
    -----
    A last row without a line end is read, with a logged warning: its last number may be cut. A cell of blanks is blank.
    Commas at the end of every row, or one of the header alone, as spreadsheets write them, have no effect.
    """
    for strip in (False, True):
        watch = _LineWatch()
        with open_stream(location, watch) as stream:
            header = _header(stream.readline(_LONGEST_HEADER), location)
            columns = set(choose(header))
            try:
                table = _parse(stream, header, columns, integers, strip=strip)
                break
            except SourceError:
                raise
            except (ValueError, OverflowError) as error:  # pandas' parser errors and UnicodeDecodeError are ValueErrors
                _find_fault(location, header, columns, integers)
                if strip:
                    raise _not_numbers(location, error) from error
    if watch.suspicious:
        _find_fault(location, header, columns, integers)
    if table.empty:
        raise _without_rows(location)
    if watch.unfinished:
        _log.warning("%s: no line end after the last row, whose last number may be cut; download it again", location)
    return table


def read_sample(
    location: Location,
    choose: Callable[[Sequence[str]], Sequence[str]],
    *,
    integers: Sequence[str] = (),
) -> tuple[pd.DataFrame, int]:
    """Read a sample of rows from a table's first `SAMPLE_BYTES`, and estimate its number of rows.

    Parameters
    ----------
    location, choose, integers
        As in `read_numbers`.

    Returns
    -------
    table : pandas.DataFrame
        The sampled rows in the order of the file: eight blocks of 64 KiB, or all rows of a small file.
    rows : int
        Size of the file divided by the mean length of the sampled rows, rounded; exact for a small file.

    Raises
    ------
    SourceError
        If the sample is not of a table of numbers; the message contains the line and the column.
    """
    size, watch = size_of(location), _LineWatch()
    with open_stream(location) as stream:
        first = stream.readline(_LONGEST_HEADER)
        header = _header(first, location)
        columns = set(choose(header))
        data, whole = _sample(stream, size - len(first))
    for strip in (False, True):
        try:
            table = _parse(io.BufferedReader(io.BytesIO(data)), header, columns, integers, strip=strip)
            break
        except (ValueError, OverflowError) as error:
            _find_fault(location, header, columns, integers)
            if strip:
                raise _not_numbers(location, error) from error
    for block in (first, data):
        watch(block)
    if watch.suspicious:
        _find_fault(location, header, columns, integers)
    if table.empty:
        raise _without_rows(location)
    return table, len(table) if whole else round((size - len(first)) / (len(data) / len(table)))


def _sample(stream: io.BufferedIOBase, size: int) -> tuple[bytes, bool]:
    """Return whole lines from a stream that has `size` more bytes, and whether these are all of its lines."""
    parsed = _SAMPLE_BLOCKS * _SAMPLE_BLOCK
    if size <= parsed:
        return stream.read(parsed), True
    gap = (min(size, SAMPLE_BYTES) - parsed) // (_SAMPLE_BLOCKS - 1)
    blocks = []
    for number in range(_SAMPLE_BLOCKS):
        block = stream.read(_SAMPLE_BLOCK)
        # Lines that are cut at the beginning or the end of the block are left out.
        start = block.find(b"\n") + 1 if number else 0
        blocks.append(block[start : block.rfind(b"\n") + 1])
        for skipped in range(0, gap, _SAMPLE_BLOCK):
            stream.read(min(_SAMPLE_BLOCK, gap - skipped))
    return b"".join(blocks), False


def _without_rows(location: Location) -> SourceError:
    return SourceError(f"{location}: a header and no rows, where data were expected; download it again")


def _not_numbers(location: Location, error: Exception) -> SourceError:
    return SourceError(f"{location}: expected comma-separated numbers ({error}); get the file as published")


def read_header(location: Location) -> list[str]:
    """Return the names of the columns of a table.

    Raises
    ------
    SourceError
        If the first line is not a header.
    """
    with open_stream(location) as stream:
        return _header(stream.readline(_LONGEST_HEADER), location)


def line_of(location: Location, row: int) -> int:
    """Return the line number (the header is line 1) of a row of the table (the first is row 0)."""
    for index, (line, _) in enumerate(_rows(location)):
        if index == row:
            return line
    raise SourceError(f"{location}: changed while it was read")


def text_of(location: Location, row: int, column: str) -> tuple[int, str]:
    """Return line number and text of one value as the file has it; the first row is row 0."""
    header = read_header(location)
    for index, (line, fields) in enumerate(_rows(location)):
        if index == row:
            return line, fields[header.index(column)]
    raise SourceError(f"{location}: changed while it was read")


class _LineWatch:
    """Counts the commas of each line while it is read, and records whether a line differs from the header.

    Empty lines may differ.
    """

    def __init__(self) -> None:
        self.expected: int | None = None
        self._differs = False
        self._open = 0  # number of commas so far in the line in which the last block ended
        self._start = b""  # the first two bytes of that line

    def __call__(self, block: bytes) -> None:
        array = np.frombuffer(block, np.uint8)
        ends = np.flatnonzero(array == _NEWLINE)
        commas = np.flatnonzero(array == _COMMA)
        before = np.searchsorted(commas, ends)
        counts = np.diff(before, prepend=0)
        rest = int(ends[-1]) + 1 if len(ends) else 0
        if len(ends):
            counts[0] += self._open
            self._open = len(commas) - int(before[-1])
            self.expected = int(counts[0]) if self.expected is None else self.expected
            differ = counts != self.expected
            self._differs |= bool(differ.any() and (differ & ~self._empty(array, ends)).any())
            self._start = b""
        else:
            self._open += len(commas)
        self._start = (self._start + block[rest : rest + 2])[:2]
        self._differs |= b"\0" in block

    def _empty(self, array: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Return which lines of a block (line,) are empty, apart from a carriage return as Windows writes it."""
        length = np.diff(ends, prepend=-1) - 1
        empty = (length == 0) | ((length == 1) & (array[ends - 1] == _RETURN))
        empty[0] = self._start + array[: min(ends[0], 2)].tobytes() in (b"", b"\r")
        return empty

    @property
    def suspicious(self) -> bool:
        """Whether any line, including the last unfinished one, may have another number of fields than the header."""
        return self._differs or (self.unfinished and self._open != self.expected)

    @property
    def unfinished(self) -> bool:
        """Whether there are bytes after the last line end."""
        return self._start not in (b"", b"\r")


def _header(line: bytes, location: Location) -> list[str]:
    if line.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise SourceError(
            f"{location}: a spreadsheet or zip with the name of a text file; save the table as CSV (UTF-8)"
        )
    if not line.strip():
        raise SourceError(f"{location}: empty, where a header line of column names was expected; download it again")
    try:
        text = line.decode("utf-8-sig")
        if "\0" in text:
            raise csv.Error("a zero byte")
        names = [name.strip() for name in next(csv.reader([text]))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(
            f"{location}, line 1: not a line of text in UTF-8 ({error}), where column names were expected; "
            "get the CSV file as published"
        ) from error
    if not any(names):
        raise SourceError(f"{location}, line 1: blank, where column names were expected; get the CSV file as published")
    twice = [name for name, count in Counter(names).items() if count > 1 and name]
    if twice:
        places = ", ".join(str(i + 1) for i, name in enumerate(names) if name == twice[0])
        raise SourceError(
            f"{location}, line 1: column {twice[0]} occurs {names.count(twice[0])} times (columns {places}), expected "
            "once; remove the copies or get the file as published"
        )
    return names


def _parse(
    stream: io.BufferedReader, header: list[str], columns: set[str], integers: Sequence[str], *, strip: bool
) -> pd.DataFrame:
    """Parse numbers; with `strip`, which takes a fifth longer, a cell of blanks is blank."""
    if not stream.peek(1):
        return pd.DataFrame(columns=sorted(columns))
    with np.errstate(over="ignore"):  # numbers that are too large become infinite, which readers refuse
        return pd.read_csv(
            stream,
            header=None,
            names=[name or f" {index}" for index, name in enumerate(header[:-1] if not header[-1] else header)],
            usecols=[name for name in header if name in columns],
            dtype={name: np.int64 if name in integers else np.float32 for name in columns},
            index_col=False,
            keep_default_na=False,
            na_values=_PADDED_BLANKS if strip else _BLANKS,
            skipinitialspace=strip,
            low_memory=True,  # in chunks, so that the text of all 270 columns of a record is never in RAM at once
            engine="c",
        )


def _rows(location: Location) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and fields of every row below the header; like pandas, skip blank lines."""
    with open_stream(location) as stream:
        reader = csv.reader(io.TextIOWrapper(stream, "utf-8-sig", errors="replace", newline=""))
        next(reader, None)
        try:
            for fields in reader:
                if len(fields) > 1 or any(field.strip() for field in fields):
                    yield reader.line_num, fields
        except csv.Error as error:
            raise SourceError(
                f"{location}, line {reader.line_num}: not comma-separated text ({error}); get the file as published"
            ) from error


def _find_fault(location: Location, header: list[str], columns: set[str], integers: Sequence[str]) -> None:
    """Raise an error for the first faulty row; return if there is none."""
    places = [(index, name) for index, name in enumerate(header) if name in columns]
    width = None
    for line, fields in _rows(location):
        width = _width(fields, header) if width is None else width
        _check_row(f"{location}, line {line}", fields, (len(header), width), places, integers)


def _width(fields: Sequence[str], header: Sequence[str]) -> int:
    """Return the number of fields that all rows must have, from the first one.

    It is that of the header, except for empty fields at the end of every row, or one of the header alone.
    """
    after_row = len(fields) > len(header) and not any(map(str.strip, fields[len(header) :]))
    after_header = len(fields) == len(header) - 1 and not header[-1]
    return len(fields) if after_row or after_header else len(header)


def _check_row(
    where: str, fields: list[str], widths: tuple[int, int], columns: list[tuple[int, str]], integers: Sequence[str]
) -> None:
    """Refuse a row, if the header and the first row have these widths."""
    of_header, width = widths
    if any("\0" in field for field in fields):
        raise SourceError(f"{where}: binary bytes, where numbers were expected; the file is damaged, download it again")
    if len(fields) != width or any(map(str.strip, fields[of_header:])):
        more = "" if width == of_header else f" and the first row {width}"
        raise SourceError(
            f"{where}: {len(fields)} fields, where the header has {of_header}{more}; the row is cut or has too many "
            "commas. Download the file again, or repair the line"
        )
    for index, name in columns:
        text = fields[index].strip(" \t")
        if name in integers:
            fault = "" if _WHOLE.fullmatch(text) else "a whole number"
        else:
            fault = "" if text in _BLANKS or _NUMBER.fullmatch(text) else "a number (-9999 or blank where missing)"
        if fault:
            raise SourceError(
                f"{where}, column {name}: expected {fault}, found {text!r}; correct it or get the file as published"
            )
