"""Find the table in a text file of unknown form: its encoding, its separator, its header and its rows."""

from __future__ import annotations

import csv
import difflib
import io
import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fluxcube.errors import ConfigError, SourceError
from fluxcube.sources.towers.archives import Location, is_zip, open_stream
from fluxcube.sources.towers.sheets import sheet_as_csv

_log = logging.getLogger(__name__)

#: Maximum size of a table in bytes: 30 years of half-hours in 20 columns are 100 MB, of minutes 3 GB.
MAX_BYTES = 1 << 30
#: Number of lines at the beginning of a file that are searched for the header.
HEADER_WITHIN = 100
_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar", " ": "blanks"}
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}


@dataclass(frozen=True)
class Table:
    """A table in a file.

    Attributes
    ----------
    path : Path
    data : bytes
        The whole file, which is text in `encoding`.
    encoding : str
    separator : str
        Between fields.
    header : tuple of str
        Names of the columns.
    line : int
        Line number of the header; the first line is 1.
    """

    path: Path
    data: bytes
    encoding: str
    separator: str
    header: tuple[str, ...]
    line: int

    @property
    def above(self) -> tuple[str, ...]:
        """The lines above the header."""
        return tuple(itertools.islice(_lines(self.data, self.encoding), self.line - 1))

    def split(self, text: str) -> list[str]:
        """Return the fields of a line, without blanks around them."""
        return _split(text, self.separator)

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield line number and fields of each row below the header; blank rows are skipped, blanks in fields kept.

        Separators at the end of every row, or of the header alone, as spreadsheet programs write them, have no effect.

        Raises
        ------
        SourceError
            If a row has another number of fields than the header. Empty fields at the end of every row, which
            spreadsheets add, do not count.
        """
        width, columns = 0, len(self.header)
        for line, fields in _rows(self.data, self.encoding, self.separator, self.path):
            if line <= self.line:
                continue
            if not fields or not (fields[0] or any(map(str.strip, fields))):
                continue
            width = width or self._width(fields)
            if len(fields) != width or any(map(str.strip, fields[columns:])):
                raise SourceError(
                    f"{self.path}, line {line}: {len(fields)} fields, where the header has {columns} (separated by "
                    f"{_SEPARATORS[self.separator]}); repair the line"
                )
            yield line, [*fields[:columns], *[""] * (columns - width)]

    def _width(self, fields: Sequence[str]) -> int:
        """Return the number of fields that every row must have, from the first row below the header."""
        columns = len(self.header)
        spare = fields[columns:] if len(fields) > columns else self.header[len(fields) :]
        return columns if any(map(str.strip, spare)) else len(fields)


def open_table(path: str | os.PathLike, needed: Sequence[str], encoding: str | None = None) -> Table:
    """Find the table that has the requested columns.

    Parameters
    ----------
    path : path
        A text file, or one compressed by gzip (``.gz``), or a spreadsheet (``.xlsx``).
    needed : sequence of str
        Names of columns; the header is the first line that has all of them, by whatever separator.
    encoding : str, optional
        Encoding of the text; default UTF-8, or UTF-16 by its byte order mark, else Western European (Windows-1252),
        with a logged warning.

    Returns
    -------
    Table

    Raises
    ------
    SourceError
        If the file cannot be read as text, or no line has all columns; the message contains the nearest names.
    ConfigError
        If there is no such encoding.
    """
    path = Path(path)
    data, encoding = _read(path, encoding)
    best: tuple[int, int, list[str]] = (0, 0, [])
    for line, raw in enumerate(itertools.islice(_lines(data, encoding), HEADER_WITHIN), start=1):
        for separator in _SEPARATORS:
            names = _split(raw, separator)
            found = len(set(needed) & set(names))
            if found == len(set(needed)):
                _check_once(names, needed, f"{path}, line {line}")
                return Table(path, data, encoding, separator, tuple(names), line)
            best = max(best, (found, len(names) * (line == 1), names), key=lambda one: one[:2])
    raise _without_header(path, needed, best[2])


def header_of(path: str | os.PathLike, encoding: str | None = None) -> tuple[str, ...]:
    """Return the names of the columns of a table: the fields of the line that has the most that are no numbers.

    Raises
    ------
    SourceError
        If the file cannot be read as text, or no line has two names.
    """
    data, encoding = _read(Path(path), encoding)
    best: list[str] = []
    for raw in itertools.islice(_lines(data, encoding), HEADER_WITHIN):
        for separator in _SEPARATORS:
            names = [name for name in _split(raw, separator) if name and not name[0].isdigit() and name[0] not in "+-."]
            if len(names) > len(best) and (separator != " " or not best):
                best = names
    if len(best) < 2:
        raise SourceError(f"{path}: no line among the first {HEADER_WITHIN} has names of columns; add a header.")
    return tuple(best)


def _read(path: Path, encoding: str | None) -> tuple[bytes, str]:
    """Return the bytes of a file, and the encoding of their text."""
    if is_zip(path):
        raise SourceError(f"{path}: a zip, where one table was expected; unpack it and use the path of the table")
    if path.suffix.lower() == ".xlsx":
        return sheet_as_csv(Location(path)), "utf-8"
    with open_stream(Location(path)) as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise SourceError(f"{path}: more than {MAX_BYTES >> 20} MiB; split it into years and append them one by one")
    if not data.strip():
        raise SourceError(f"{path}: empty, where a table was expected")
    encoding = _encoding(data, path, encoding)
    if any("\0" in line for line in _lines(data, encoding)):
        raise SourceError(f"{path}: binary bytes, where text was expected; save the table as CSV")
    return data, encoding


def _lines(data: bytes, encoding: str) -> Iterator[str]:
    yield from io.TextIOWrapper(io.BytesIO(data), encoding, errors="replace", newline="")


def _encoding(data: bytes, path: Path, encoding: str | None) -> str:
    if data[:4] in (b"PK\x03\x04", b"\xd0\xcf\x11\xe0"):
        raise SourceError(f"{path}: expected text, found a spreadsheet or zip; save the table as CSV")
    marked = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        data.decode(encoding or marked)
        return encoding or marked
    except LookupError:
        raise ConfigError(
            f"encoding={encoding!r}: there is no such encoding; usual are utf-8, cp1252, utf-16"
        ) from None
    except UnicodeDecodeError as error:
        if encoding or marked != "utf-8":
            raise SourceError(
                f"{path}, byte {error.start}: not text in {encoding or marked}; set encoding= to that of the file"
            ) from error
        _log.warning(
            "%s: not in UTF-8 (byte %d); read as Windows-1252: set encoding= if that is wrong", path, error.start
        )
        return "cp1252"


def _split(raw: str, separator: str) -> list[str]:
    if separator == " ":
        return raw.split()
    try:
        return [field.strip() for field in next(csv.reader([raw], delimiter=separator), [])]
    except csv.Error:
        return []


def _rows(data: bytes, encoding: str, separator: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    if separator == " ":
        yield from ((line, raw.split()) for line, raw in enumerate(_lines(data, encoding), start=1))
        return
    reader = csv.reader(_lines(data, encoding), delimiter=separator)
    try:
        for fields in reader:
            yield reader.line_num, fields
    except csv.Error as error:
        raise SourceError(f"{path}, line {reader.line_num}: not a row of a table ({error}); repair the line") from error


def _check_once(names: Sequence[str], needed: Sequence[str], where: str) -> None:
    for name in needed:
        if names.count(name) > 1:
            raise SourceError(f"{where}: column {name!r} occurs {names.count(name)} times; rename or remove the others")


def _without_header(path: Path, needed: Sequence[str], found: Sequence[str]) -> SourceError:
    missing = [name for name in dict.fromkeys(needed) if name not in found]
    near = {name: difflib.get_close_matches(name, found, n=1) for name in missing}
    hints = [f"{name!r} (did you mean {close[0]!r}?)" if close else repr(name) for name, close in near.items()]
    return SourceError(
        f"{path}: no line among the first {HEADER_WITHIN} has the requested columns; missing: {', '.join(hints)}. The "
        f"line that is nearest to a header has: {', '.join(found)[:300] or 'nothing'}"
    )
