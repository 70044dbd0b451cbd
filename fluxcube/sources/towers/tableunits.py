"""Compare the units that a table states, in a row below its header or in column names, with those that users pass."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from fluxcube.errors import ConfigError, SourceError
from fluxcube.sources.towers.anycsv import Table
from fluxcube.units import is_unit, same_unit

#: Words of a header row in which a logger reports how it aggregated its values.
_AGGREGATIONS = frozenset(
    ("", "smp", "avg", "tot", "min", "max", "std", "mean", "sum", "med", "cov", "maj", "wvc", "ts", "rn")
)
#: Texts of a row of units that state no unit.
_UNSTATED = frozenset(("", "-", "--", "---", "#", "[-]", "[--]", "[#]", "(-)", "na", "n/a", "nan", "none"))
_IN_NAME = re.compile(r"[\[(]([^\[\]()]+)[\])]\s*$|_(degC|degF|hPa|kPa|Pa|mbar|ppm|ppb|percent)$")


def is_row_of_units(table: Table, columns: Mapping[str, str], times: Sequence[str], fields: Sequence[str]) -> bool:
    """Return whether a row below the header contains units, or how a logger aggregated its values, and no data.

    Parameters
    ----------
    table : Table
        The file.
    columns : mapping of str to str
        Column of each variable.
    times : sequence of str
        Columns of times.
    fields : sequence of str
        The row.
    """
    if not any(character.isdigit() for name in times for character in fields[table.header.index(name)]):
        return True
    return _has_unit(table, columns, fields)


def _has_unit(table: Table, columns: Mapping[str, str], fields: Sequence[str]) -> bool:
    cells = {fields[table.header.index(column)].strip() for column in columns.values()}
    return any(cell.lower() not in _UNSTATED and cell[:1] not in "0123456789+-." and is_unit(cell) for cell in cells)


def check_row_of_units(
    table: Table, columns: Mapping[str, str], units: Mapping[str, str], line: int, fields: Sequence[str]
) -> None:
    """Compare a row of units with the units that were passed.

    Parameters
    ----------
    table : Table
        The file.
    columns, units : mapping of str to str
        Column of each variable, and its units as passed.
    line : int
        Line number of the row.
    fields : sequence of str
        The row.

    Raises
    ------
    SourceError
        If the row contains neither units nor data.
    ConfigError
        If a unit is another one than passed, or is not known.
    """
    texts = {name: fields[table.header.index(column)].strip() for name, column in columns.items()}
    if all(text.lower() in _AGGREGATIONS for text in texts.values()):
        return
    stated = {name: text for name, text in texts.items() if text.lower() not in _UNSTATED}
    where = f"{table.path}, line {line}"
    if stated and not any(is_unit(text) for text in stated.values()):
        raise SourceError(
            f"{where}: neither a row of data nor of units that are known (found {', '.join(texts.values())[:100]}); "
            "remove the line"
        )
    for name, text in stated.items():
        if not is_unit(text):
            raise ConfigError(
                f"{where}, column {columns[name]}: the unit {text!r} of the file is not known. If units[{name!r}] = "
                f"{units[name]!r} is right, clear this cell, or write the unit as fluxcube.units.convert accepts it"
            )
        _compare(text, units[name], name, f"{where}, column {columns[name]}")


def check_rows_above(table: Table, columns: Mapping[str, str], units: Mapping[str, str]) -> None:
    """Compare a row of units above the header, where there is one, with the units that were passed.

    Raises
    ------
    ConfigError
        If a unit is another one than passed, or is not known.
    """
    for line, text in enumerate(table.above, start=1):
        fields = table.split(text)
        if len(fields) == len(table.header) and _has_unit(table, columns, fields):
            check_row_of_units(table, columns, units, line, fields)


def check_units_in_names(table: Table, columns: Mapping[str, str], units: Mapping[str, str]) -> None:
    """Compare units at the end of column names, such as ``NEE (umol m-2 s-1)`` and ``VPD_kPa``, with those passed.

    Raises
    ------
    ConfigError
        If a unit is another one than passed. Brackets that contain no known unit are not checked.
    """
    for name, column in columns.items():
        if text := without_unit(column)[1]:
            _compare(text, units[name], name, f"{table.path}, line {table.line}, column {column}")


def without_unit(column: str) -> tuple[str, str]:
    """Return the name of a column without the unit at its end, and that unit; empty if none that is known is there.

    Examples
    --------
    >>> without_unit("VPD_kPa"), without_unit("NEE (umol m-2 s-1)"), without_unit("Rg")
    (('VPD', 'kPa'), ('NEE', 'umol m-2 s-1'), ('Rg', ''))
    """
    match = _IN_NAME.search(column)
    text = (match[1] or match[2]).strip() if match else ""
    # A single letter or a word such as min may be something else than a unit.
    stated = (len(text) > 1 or text in ("K", "C", "%")) and text.lower() not in _AGGREGATIONS | _UNSTATED
    return (column[: match.start()].strip(), text) if match and stated and is_unit(text) else (column, "")


def _compare(text: str, unit: str, name: str, where: str) -> None:
    if is_unit(unit) and not same_unit(text, unit):
        raise ConfigError(
            f"{where}: the file has {text!r}, and units[{name!r}] is {unit!r}: correct the one that is wrong"
        )
