"""Tables changed in ways that have a right answer: it is given, or the table is refused; never anything else.

The right answer is worked out from the changed bytes by `fuzz_tables.meaning`, which shares nothing with the reader.
What cannot be told from the bytes stays so: a file cut within its last number reads as a file with another last number.
"""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from fuzz_limits import cases, many, timed
from fuzz_tables import COLUMNS, END, NAME, OFFSET, START, Refused, Table, base_table, check_same, meaning
from hypothesis import given
from hypothesis import strategies as st

from fluxcube.errors import SourceError
from fluxcube.sources.towers.discovery import discover
from fluxcube.sources.towers.readers import read_archive

BASE = base_table()
HARMLESS, DOUBTFUL = True, False
WEIRD = (
    "abc",
    "1.2.3",
    "--5",
    "1e400",
    "1e39",
    "0x10",
    "١٢",
    "1 2",
    "TRUE",
    "1_0",
    "∞",
    "inf",
    "-Infinity",
    "nan",
    "NULL",
    "N/A",
    "#N/A",
    "#REF!",
    "=A1",
    "-",
    "+",
    ".",
    "1.",
    ".5",
    "+1.5",
    "1e-3",
    "-0",
    "00012",
    "-9999",
    "-9999.0",
    "-9999.00",
    "-99990e-1",
    " 1.5",
    "1.5\t",
    "",
    " ",
    "1,5",
    "4",
    "-1",
    "0.5",
    "2.0",
    "1e0",
    "9" * 40,
    "1e-60",
    "é",
    "5%",
    "None",
    "NaN",
    "-999",
    "99999",
    "201202280000",
    '"',
    "'1'",
    "1;2",
    "\u22121.5",
    "1.5d0",
    "1e",
    "1e+",
)
#: What makes the middle of a variable impossible: columns, and how a number of it is written in another unit.
UNITS = {
    "VPD in Pa": (("VPD_F",), lambda x: 100 * x),
    "PA in hPa": (("PA", "PA_F"), lambda x: 10 * x),
    "PA in Pa": (("PA", "PA_F"), lambda x: 1000 * x),
    "RH as a fraction": (("RH",), lambda x: x / 100),
    "TA in K": (("TA_F",), lambda x: x + 273.15),
}


class Changes:
    """Ways to change a table in place. Each returns whether a reader must still understand it, if it has a meaning."""

    def drop_columns(self, table: Table, draw: Callable) -> bool:
        often = 5 * [name for name in table.header if not name.startswith("TIMESTAMP")]
        for name in draw(st.lists(st.sampled_from(often + table.header), min_size=1, max_size=4, unique=True)):
            self._drop(table, table.column(name))
        return HARMLESS

    def reorder_columns(self, table: Table, draw: Callable) -> bool:
        order = draw(st.permutations(range(len(table.header))))
        table.header = [table.header[i] for i in order]
        table.rows = [[row[i] for i in order] if len(row) == len(order) else row for row in table.rows]
        return HARMLESS

    def repeat_column(self, table: Table, draw: Callable) -> bool:
        at = draw(st.integers(0, len(table.header) - 1))
        table.header.append(table.header[at])
        for row in table.rows:
            row.append(row[min(at, len(row) - 1)])
        return DOUBTFUL

    def add_column(self, table: Table, draw: Callable) -> bool:
        name, text = (
            draw(st.sampled_from(["X", "NEE_VUT_USTAR50", "site", "NOTE"])),
            draw(st.sampled_from(["1", "", "abc"])),
        )
        table.header.append(name)
        for row in table.rows:
            row.append(text)
        return HARMLESS

    def rename_column(self, table: Table, draw: Callable) -> bool:
        at = draw(st.integers(0, len(table.header) - 1))
        how = draw(st.sampled_from([str.lower, str.title, str.swapcase, " {} ".format, "{}_X".format]))
        table.header[at] = how(table.header[at])
        return HARMLESS

    def swap_names(self, table: Table, draw: Callable) -> bool:
        one, other = draw(st.sampled_from([(START, END), ("TA_F", "TA_F_QC"), ("NEE_VUT_REF", "NEE_VUT_REF_QC")]))
        swap = {one: other, other: one}
        table.header = [swap.get(name, name) for name in table.header]
        return DOUBTFUL

    def drop_rows(self, table: Table, draw: Callable) -> bool:
        first = draw(st.integers(0, len(table.rows) - 1))
        del table.rows[first : first + draw(st.integers(1, 60))]
        return HARMLESS

    def repeat_row(self, table: Table, draw: Callable) -> bool:
        at, to = (draw(st.integers(0, max(0, len(table.rows) - 1))) for _ in range(2))
        table.rows[to:to] = [list(row) for row in table.rows[at : at + 1]]
        return DOUBTFUL

    def reorder_rows(self, table: Table, draw: Callable) -> bool:
        at, by = draw(st.integers(0, max(0, len(table.rows) - 1))), draw(st.integers(1, 50))
        table.rows = table.rows[at : at + by][::-1] + table.rows[:at] + table.rows[at + by :]
        return DOUBTFUL

    def keep_few_rows(self, table: Table, draw: Callable) -> bool:
        del table.rows[draw(st.integers(0, 4)) :]
        return HARMLESS

    def write_in_cell(self, table: Table, draw: Callable) -> bool:
        if table.rows:
            row = table.rows[draw(st.integers(0, len(table.rows) - 1))]
            row[draw(st.integers(0, len(row) - 1))] = draw(st.sampled_from(WEIRD))
        return DOUBTFUL

    def shorten_row(self, table: Table, draw: Callable) -> bool:
        if table.rows:
            row = table.rows[draw(st.integers(0, len(table.rows) - 1))]
            if draw(st.booleans()):
                row.append(draw(st.sampled_from(["", "1"])))
            else:
                del row[draw(st.integers(1, max(1, len(row) - 1))) :]
        return DOUBTFUL

    def shift_all(self, table: Table, draw: Callable) -> bool:
        minutes = draw(st.sampled_from([30, -30, 15, 60, 1440, -525600, 7]))
        for name in {START, END} & set(table.header):
            self._shift(table, name, range(len(table.rows)), minutes)
        return HARMLESS if {START, END} <= set(table.header) else DOUBTFUL

    def shift_some(self, table: Table, draw: Callable) -> bool:
        names = draw(st.sampled_from([(START,), (END,), (START, END)]))
        first = draw(st.integers(0, max(0, len(table.rows) - 1)))
        rows = range(first, min(len(table.rows), first + draw(st.integers(1, 100))))
        for name in set(names) & set(table.header):
            self._shift(table, name, rows, draw(st.sampled_from([30, -30, 15, 60, 1])))
        return DOUBTFUL

    def rewrite_missing(self, table: Table, draw: Callable) -> bool:
        text = draw(st.sampled_from(["-9999.0", "-9999.00", "", "NaN", "-9999.000000", "NA"]))
        table.rows = [[text if cell == "-9999" else cell for cell in row] for row in table.rows]
        return HARMLESS

    def lose_flags(self, table: Table, draw: Callable) -> bool:
        name = draw(st.sampled_from([name for name in COLUMNS if name.endswith("_QC")]))
        text = draw(st.sampled_from(["-9999", "", "0.75", "1.0", "5"]))
        if name in table.header:
            for row in table.rows:
                if table.column(name) < len(row):
                    row[table.column(name)] = text
        return DOUBTFUL

    def other_unit(self, table: Table, draw: Callable) -> bool:
        columns, change = UNITS[draw(st.sampled_from(sorted(UNITS)))]
        for name in set(columns) & set(table.header):
            for row in table.rows:
                at = table.column(name)
                if at < len(row) and _is_number(row[at]) and float(row[at]) != -9999:
                    row[at] = f"{change(float(row[at])):.4f}"
        return DOUBTFUL

    @staticmethod
    def _drop(table: Table, at: int) -> None:
        del table.header[at]
        for row in table.rows:
            del row[at : at + 1]

    @staticmethod
    def _shift(table: Table, name: str, rows: range, minutes: int) -> None:
        at = table.column(name)
        for row in (table.rows[i] for i in rows):
            if at < len(row) and len(row[at]) == 12 and row[at].isdigit():
                time = np.datetime64(f"{row[at][:4]}-{row[at][4:6]}-{row[at][6:8]}T{row[at][8:10]}:{row[at][10:]}", "m")
                row[at] = str(time + np.timedelta64(minutes, "m")).translate(str.maketrans("", "", "-T:"))


CHANGES = sorted(name for name in vars(Changes) if not name.startswith("_"))
#: Changes that most tables survive: drawn more often, so that there are answers to compare.
KIND = ["reorder_columns", "add_column", "drop_rows", "rewrite_missing", "shift_all", "rename_column", "drop_columns"]


def _is_number(text: str) -> bool:
    try:
        return np.isfinite(float(text)) and "_" not in text
    except ValueError:
        return False


#: Ways to write a table: name, (function of text lines to bytes, whether it must be understood).
def _joined(end: str = "\n", last: bool = True, **quoting):
    def write(table: Table) -> bytes:
        text = io.StringIO()
        csv.writer(text, lineterminator=end, **quoting).writerows([table.header, *table.rows])
        return (text.getvalue() if last else text.getvalue().removesuffix(end)).encode()

    return write


def _lines(change: Callable[[list[str]], list[str]]):
    return lambda table: "\n".join(change(_joined()(table).decode().split("\n"))).encode()


WRITERS = {
    "plain": (_joined(), HARMLESS),
    "CRLF": (_joined("\r\n"), HARMLESS),
    "CR": (_joined("\r"), DOUBTFUL),
    "no end of line at the end": (_joined(last=False), HARMLESS),
    "all quoted": (_joined(quoting=csv.QUOTE_ALL), HARMLESS),
    "text quoted": (_joined(quoting=csv.QUOTE_NONNUMERIC), HARMLESS),
    "BOM": (lambda table: b"\xef\xbb\xbf" + _joined()(table), HARMLESS),
    "UTF-16": (lambda table: _joined()(table).decode().encode("utf-16"), DOUBTFUL),
    "UTF-32": (lambda table: _joined()(table).decode().encode("utf-32"), DOUBTFUL),
    "latin-1": (lambda table: _joined()(table).decode().encode("latin-1", "replace"), DOUBTFUL),
    "semicolons": (_joined(delimiter=";"), DOUBTFUL),
    "tabs": (_joined(delimiter="\t"), DOUBTFUL),
    "blank lines": (_lines(lambda lines: [*lines[:1], "", *lines[1:40], "", "", *lines[40:]]), HARMLESS),
    "blank lines at the end": (_lines(lambda lines: [*lines, "", "", ""]), HARMLESS),
    "lines of blanks": (_lines(lambda lines: [*lines[:9], "   ", *lines[9:], "  "]), DOUBTFUL),
    "a comma after every line": (_lines(lambda lines: [f"{line}," if line else line for line in lines]), DOUBTFUL),
    "a comma after every row": (_lines(lambda lines: [lines[0], *(f"{x}," if x else x for x in lines[1:])]), DOUBTFUL),
    "blanks after commas": (_lines(lambda lines: [line.replace(",", ", ") for line in lines]), DOUBTFUL),
    "a comment first": (_lines(lambda lines: ["# Site: US-Zzz", *lines]), DOUBTFUL),
    "the header twice": (_lines(lambda lines: [lines[0], *lines]), DOUBTFUL),
    "no header": (_lines(lambda lines: lines[1:]), DOUBTFUL),
    "an end-of-file mark": (lambda table: _joined()(table) + b"\x1a", DOUBTFUL),
    "zero bytes at the end": (lambda table: _joined()(table) + bytes(100), DOUBTFUL),
}


@dataclass(frozen=True, repr=False)
class Case:
    """A table's bytes, whether they must be understood if they have a meaning, and what was done."""

    data: bytes
    sure: bool
    changes: tuple[str, ...]

    def __repr__(self) -> str:
        return f"{len(self.data)} bytes after {', '.join(self.changes)}"


@st.composite
def changed_tables(draw) -> Case:
    """A table changed in up to three ways, written in one of many, and now and then cut."""
    table = Table(list(BASE.header), [list(row) for row in BASE.rows])
    names = draw(st.lists(st.sampled_from(CHANGES + 2 * KIND), max_size=3))
    sure = True
    for name in names:
        if table.header and table.rows:
            sure &= getattr(Changes(), name)(table, draw)
    how = draw(st.sampled_from([*["plain"] * 12, *sorted(WRITERS)]))
    write, safe = WRITERS[how]
    data = write(table)
    if draw(st.integers(0, 7)) == 0:
        data, safe, names = data[: draw(st.integers(0, len(data)))], DOUBTFUL, [*names, "cut"]
    return Case(data, sure and safe, (*names, how))


def put(folder, data: bytes, form: str) -> None:
    """Write a table as it might lie on a disk, and nothing else."""
    for path in folder.iterdir():
        path.unlink()
    if form == "zip":
        path = folder / NAME.replace("_HH", "").replace(".csv", ".zip")
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(NAME, data)
    elif form == "gz":
        (folder / f"{NAME}.gz").write_bytes(gzip.compress(data, 1))
    else:
        (folder / NAME).write_bytes(data)


def check_answer(folder, case: Case, form: str) -> None:
    data = case.data
    put(folder, data, form)
    (archive,) = discover(folder).archives
    try:
        right = meaning(data)
    except Refused as error:
        right = error
    with timed():
        try:
            found = read_archive(archive, utc_offset=OFFSET)
        except SourceError as error:
            assert NAME in str(error), error
            assert not (case.sure and isinstance(right, dict)), f"refused what it must understand: {error}"
            return
    assert isinstance(right, dict), f"understood what has no meaning ({right})"
    check_same(found, right)


@given(changed_tables(), st.sampled_from(["csv", "csv", "csv", "zip", "gz"]))
@cases(150)
def test_a_changed_table_gives_the_right_answer_or_none(tmp_path, table, form):
    check_answer(tmp_path, table, form)


@pytest.mark.slow
@given(changed_tables(), st.sampled_from(["csv", "csv", "csv", "zip", "gz"]))
@many()
def test_ten_thousand_changed_tables(tmp_path, table, form):
    check_answer(tmp_path, table, form)


@pytest.mark.parametrize("how", sorted(WRITERS))
def test_every_way_to_write_a_table(tmp_path, how):
    write, sure = WRITERS[how]
    check_answer(tmp_path, Case(write(BASE), sure, (how,)), "csv")


@pytest.mark.parametrize("unit", sorted(UNITS))
def test_units_that_cannot_be_right(tmp_path, unit):
    table = base_table(days=4)  # a day's worth of values, gaps aside, is the least that tells
    columns, change = UNITS[unit]
    for row in table.rows:
        for at in (table.column(name) for name in columns):
            row[at] = row[at] if row[at] == "-9999" else f"{change(float(row[at])):.4f}"
    put(tmp_path, _joined()(table), "csv")
    with pytest.raises(SourceError, match=unit.split()[0]):
        read_archive(discover(tmp_path).archives[0], utc_offset=OFFSET)


def test_the_untouched_table_has_a_meaning_and_is_understood(tmp_path):
    """So that none of the above passes by refusing everything."""
    data = _joined()(BASE)
    answer = meaning(data)
    assert len(answer["time"]) == len(BASE.rows) and {"NEE", "PA", "NEE_JOINTUNC", "GPP_NT_QC"} <= set(answer)
    check_answer(tmp_path, Case(data, HARMLESS, ()), "zip")
