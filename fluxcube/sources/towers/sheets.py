"""Read the cells of a spreadsheet (XLSX) as text, or as a table of CSV; formulas and zip bombs are refused."""

from __future__ import annotations

import csv
import datetime
import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePath
from typing import Protocol
from xml.etree.ElementTree import ParseError

from fluxcube.errors import SourceError, missing_package
from fluxcube.sources.towers.archives import Location, check_zip, open_stream

#: Maximum size of a spreadsheet on disk in bytes: the metadata of 1,000 sites have some 5 MB.
MAX_SHEET = 64 << 20

#: Maximum number of rows, which is that of the format, and of cells: those of 30 years of half-hours in 50 columns.
#: A cell far from the others makes as many blank ones as are between them.
MAX_ROWS, MAX_CELLS = 1 << 20, 30_000_000

#: First bytes of a workbook of Excel 97 to 2003, and of a zip, which an XLSX file is.
_OLD_EXCEL, _ZIP = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"PK\x03\x04"

# Errors of openpyxl for files that are cut or are not spreadsheets.
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    IndexError,
    OSError,
    ParseError,
)


def is_sheet(location: Location) -> bool:
    """Return whether a file is a spreadsheet: an XLSX by its name, or by its content under another name.

    Raises
    ------
    SourceError
        If the file is an old Excel workbook.
    """
    with open_stream(location) as stream:
        start = stream.read(len(_OLD_EXCEL))
    if start == _OLD_EXCEL:
        raise SourceError(
            f"{location}: an old Excel workbook (.xls), which is not read; open it in a spreadsheet program and save "
            "it as .xlsx or CSV"
        )
    return PurePath(location.name).suffix.lower() in (".xlsx", ".xlsm") or start.startswith(_ZIP)


def read_sheet(location: Location) -> Iterator[tuple[int, list[str]]]:
    """Yield row number and cells of every row that is not blank, sheet after sheet.

    Parameters
    ----------
    location : Location
        An XLSX file, or one in a zip.

    Yields
    ------
    (int, list of str)
        Row number (from 1) and texts of the cells: numbers and dates as in a CSV file, such as 9, 9.5, 201205310000.

    Raises
    ------
    SourceError
        If the file is cut, broken, too large, or contains a formula (the message contains the sheet and the cell).
    MissingPackageError
        If openpyxl is not installed.
    """
    yield from ((number, cells) for _, number, cells in _read(location, lambda cell: _text(cell.value)))


def sheet_as_csv(location: Location) -> bytes:
    """Return the cells of a spreadsheet as CSV in UTF-8: a line per row, blank rows as blank lines.

    Parameters
    ----------
    location : Location
        An XLSX file with one sheet.

    Returns
    -------
    bytes
        Dates and times as 2020-01-31 23:30:00 (with seconds, rounded), 2020-01-31 or 23:30:00; numbers in full.

    Raises
    ------
    SourceError
        As `read_sheet`; also if there are several sheets with cells.
    MissingPackageError
        If openpyxl is not installed.
    """
    rows: list[list[str]] = []
    titles: set[str] = set()
    for title, number, cells in _read(location, _table_text):
        titles.add(title)
        if len(titles) > 1:
            raise SourceError(
                f"{location}: expected one sheet, found several with cells; save the sheet of the table as CSV"
            )
        rows += [[]] * (number - len(rows) - 1) + [cells]
    width = max(map(len, rows), default=0)
    text = io.StringIO()
    # Rows of a spreadsheet end with the last cell that is not blank.
    csv.writer(text, lineterminator="\n").writerows(
        [*cells, *[""] * (width - len(cells))] if cells else [] for cells in rows
    )
    return text.getvalue().encode()


def _read(location: Location, text: Callable[[_Cell], str]) -> Iterator[tuple[str, int, list[str]]]:
    """Yield the sheet's title, row number and cells of every row that is not blank."""
    try:
        import openpyxl
    except ImportError as error:
        raise missing_package("openpyxl", "sources", "reading XLSX") from error
    data = _bytes(location)
    try:
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=False, keep_links=False)
        for sheet in book.worksheets:
            yield from ((sheet.title, *row) for row in _rows(sheet, location, text))
    except SourceError:
        raise
    except _BROKEN as error:
        raise SourceError(
            f"{location}: cut, broken or no spreadsheet ({error}), where an XLSX file was expected; download it again, "
            "or save it as a CSV file"
        ) from error


def _bytes(location: Location) -> bytes:
    with open_stream(location) as stream:
        data = stream.read(MAX_SHEET + 1)
    if len(data) > MAX_SHEET:
        raise SourceError(f"{location}: more than {MAX_SHEET >> 20} MiB; save the sheet as CSV")
    check_zip(data, location)
    return data


class _Cell(Protocol):
    """A cell of openpyxl."""

    @property
    def data_type(self) -> str: ...
    @property
    def coordinate(self) -> str: ...
    @property
    def value(self) -> object: ...
    @property
    def number_format(self) -> str: ...


class _Sheet(Protocol):
    """A sheet of openpyxl that was opened with ``read_only=True``."""

    @property
    def title(self) -> str: ...
    def reset_dimensions(self) -> None: ...
    def iter_rows(self) -> Iterable[Iterable[_Cell]]: ...


def _rows(sheet: _Sheet, location: Location, text: Callable[[_Cell], str]) -> Iterator[tuple[int, list[str]]]:
    # Without this, rows are as wide as the sheet states: a format in a distant cell makes millions of cells.
    sheet.reset_dimensions()
    count = 0
    for number, row in enumerate(map(tuple, sheet.iter_rows()), 1):
        count += len(row)
        if number > MAX_ROWS or count > MAX_CELLS:
            raise SourceError(
                f"{location}, sheet {sheet.title!r}: expected at most {MAX_ROWS} rows and {MAX_CELLS} cells, found "
                "more; save the rows with values as CSV"
            )
        for cell in row:
            if cell.data_type == "f":
                raise SourceError(
                    f"{location}, sheet {sheet.title!r}, cell {cell.coordinate}: a formula, where a value was "
                    "expected; save the sheet as values, or as CSV"
                )
        cells = [text(cell) for cell in row]
        if any(cells):
            yield number, cells


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime.datetime):
        return value.strftime("%Y%m%d%H%M")
    if isinstance(value, datetime.date):
        return value.strftime("%Y%m%d")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _table_text(cell: _Cell) -> str:
    """Return a cell's text; its format states whether it is a date, a time of day or both."""
    value = cell.value
    if isinstance(value, datetime.datetime):
        value = (value + datetime.timedelta(microseconds=500_000)).replace(microsecond=0)
        return f"{value:%Y-%m-%d %H:%M:%S}" if "h" in cell.number_format.lower() else f"{value:%Y-%m-%d}"
    if isinstance(value, datetime.time):
        return f"{value:%H:%M:%S}"
    return str(value).strip() if isinstance(value, float) else _text(value)
