"""Tables as text: aligned columns for a terminal, Markdown, CSV and JSON."""

from __future__ import annotations

import itertools
import json
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from fluxcube.errors import ConfigError, printable

if TYPE_CHECKING:
    import pandas as pd

Form = Literal["table", "md", "csv", "json"]
FORMS: tuple[Form, ...] = ("table", "md", "csv", "json")

#: Number of characters of a line of a table, where no terminal is narrower.
WIDTH = 100
#: Columns between two columns of a table.
_GAP = "  "
#: Number of characters to which a column of text may be folded, and of the longest word that is never folded.
_NARROW, _LONG = 12, 26
#: Characters of a cell in a column of numbers, an interval included.
_NUMERIC = re.compile(r"[-+–−]?(?:(?:\d|nan|inf).*)?$")


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun, which takes an s in the plural if no `plural` is passed.

    Examples
    --------
    >>> counted(1, "epoch"), counted(1200, "step")
    ('1 epoch', '1,200 steps')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {plural or f'{noun}s'}"


def table_text(frame: pd.DataFrame, form: Form = "table", *, width: int = WIDTH) -> str:
    """Return a table as text, without its index.

    In CSV and JSON every number has all its digits. In the others, the numbers of a column have equal decimals: three
    significant digits of the largest one. Names of columns that end in a unit in parentheses keep it, as "RMSE (gC)".

    Parameters
    ----------
    frame : pd.DataFrame
        The table; columns of numbers stand to the right.
    form : {"table", "md", "csv", "json"}
        Columns of a terminal; Markdown; CSV; JSON, a list of one object for each line.
    width : int
        Maximum number of characters of a line of a "table". Long texts are folded; columns that do not fit then follow
        below, with the first columns of text repeated.

    Raises
    ------
    ConfigError
        If there is no such form.

    Examples
    --------
    >>> import pandas as pd
    >>> print(table_text(pd.DataFrame({"model": ["a", "b"], "NSE": [0.5, -0.25], "hours": [1000, 20000]})))
    model     NSE   hours
    -----  ------  ------
    a       0.500   1,000
    b      -0.250  20,000
    """
    if form == "csv":
        return frame.to_csv(index=False).rstrip("\n")
    if form == "json":
        return json.dumps(_records(frame), indent=2, ensure_ascii=False, allow_nan=False)
    if form not in FORMS:
        raise ConfigError(f"format: expected {', '.join(FORMS)}; found {form!r}.")
    columns = [[str(name), *_cells(frame.iloc[:, i])] for i, name in enumerate(frame.columns)]
    return _markdown(columns) if form == "md" else "\n\n".join(_blocks(columns, width))


def folded(text: str, width: int = WIDTH) -> str:
    """Return a note below a table, folded at blanks.

    Examples
    --------
    >>> print(folded("one two three", 8))
    one two
    three
    """
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the lines of a table as objects of JSON: what is missing, or not finite, is null."""
    rows = json.loads(frame.reset_index(drop=True).to_json(orient="records", date_format="iso", double_precision=15))
    exact = [str(name) for name in frame if frame[name].dtype.kind == "f"]
    for name in exact:  # pandas would round a double
        for row, value in zip(rows, frame[name].tolist(), strict=True):
            row[name] = value if math.isfinite(value) else None
    return rows


def _cells(column: pd.Series) -> list[str]:
    """Return the values of a column as text: what is missing is a dash."""
    missing = column.isna().tolist()
    kind = column.dtype.kind
    texts = _numbers(column) if kind in "iuf" else [str(value) for value in column.tolist()]
    if kind == "M":
        texts = [text.removesuffix(" 00:00:00") for text in texts]
    return ["–" if gone else printable(text) for gone, text in zip(missing, texts, strict=True)]


def _numbers(column: pd.Series) -> list[str]:
    """Return numbers with equal decimals; the thousands are marked in columns that have tens of them (not in years)."""
    largest = float(column.abs().max())
    comma = "," if largest >= 10_000 else ""
    if column.dtype.kind != "f":
        return [f"{value:{comma}d}" for value in column.tolist()]
    digits = 2 - math.floor(math.log10(largest)) if 0 < largest < math.inf else 0
    kind = "f" if digits <= 6 else "e"  # a column of tiny numbers has exponents
    return [f"{value:{comma}.{min(max(digits, 0), 6) if kind == 'f' else 2}{kind}}" for value in column.tolist()]


def _is_numeric(cells: Sequence[str]) -> bool:
    return all(_NUMERIC.match(cell) for cell in cells)


def _markdown(columns: Sequence[Sequence[str]]) -> str:
    rule = ["---:" if _is_numeric(cells[1:]) else "---" for cells in columns]
    rows = [[cell.replace("|", r"\|").replace("\n", " ") for cell in row] for row in zip(*columns, strict=True)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], rule, *rows[1:]])


def _blocks(columns: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return the columns side by side, as one text, or as several with the first columns repeated."""
    numeric = [_is_numeric(cells[1:]) for cells in columns]
    keys = numeric.index(True) if True in numeric else len(columns)
    widths = _fitted(columns, numeric, keys, width)
    blocks = [list(range(keys))]
    for i in range(keys, len(columns)):
        if _total([widths[j] for j in (*blocks[-1], i)]) > width and len(blocks[-1]) > keys:
            blocks.append(list(range(keys)))
        blocks[-1].append(i)
    return [_aligned([columns[i] for i in b], [widths[i] for i in b], [numeric[i] for i in b]) for b in blocks]


def _fitted(columns: Sequence[Sequence[str]], numeric: Sequence[bool], keys: int, width: int) -> list[int]:
    """Return the width of each column: headings of numbers are folded, and long texts if all columns then fit."""
    widths = [
        max([_longest_word(cells[0]) if numbers else len(cells[0]), *map(len, cells[1:])])
        for cells, numbers in zip(columns, numeric, strict=True)
    ]
    words = [min(max(_longest_word(cell) for cell in cells), _LONG) for cells in columns]
    least = [
        wide if numbers else max(_NARROW, word) for wide, word, numbers in zip(widths, words, numeric, strict=True)
    ]
    narrow = _narrowed(widths, least, width)
    if _total(narrow) <= width:
        return narrow
    heads = _narrowed(widths[:keys], least, width // 2)
    return heads + [min(wide, width - _total(heads) - len(_GAP)) for wide in widths[keys:]]


def _narrowed(widths: Sequence[int], least: Sequence[int], width: int) -> list[int]:
    """Return widths of columns side by side: the widest that may be narrower gives way until all fit."""
    widths = list(widths)
    while _total(widths) > width and (wide := [i for i in range(len(widths)) if widths[i] > least[i]]):
        widths[max(wide, key=widths.__getitem__)] -= 1
    return widths


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _longest_word(text: str) -> int:
    return max(map(len, _whole_units(text).split(" ")), default=0)


def _whole_units(text: str) -> str:
    """Return a heading whose unit in parentheses is not folded, since its blanks do not break."""
    return re.sub(r"\([^)]*\)", lambda unit: unit[0].replace(" ", "\N{NO-BREAK SPACE}"), text)


def _aligned(columns: Sequence[Sequence[str]], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    rows = list(zip(*columns, strict=True))
    rule = _GAP.join("-" * wide for wide in widths)
    head = _lines([_whole_units(name) for name in rows[0]], widths, numeric)
    return "\n".join([*head, rule, *(line for row in rows[1:] for line in _lines(row, widths, numeric))])


def _lines(row: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> list[str]:
    """Return the cells of a row side by side, folded to the widths of their columns."""
    folds = [textwrap.wrap(cell, max(wide, 1)) or [""] for cell, wide in zip(row, widths, strict=True)]
    lines = []
    for parts in itertools.zip_longest(*folds, fillvalue=""):
        cells = zip(parts, widths, numeric, strict=True)
        padded = [text.rjust(wide) if right else text.ljust(wide) for text, wide, right in cells]
        lines.append(_GAP.join(padded).rstrip().replace("\N{NO-BREAK SPACE}", " "))
    return lines


def with_units(frame: pd.DataFrame, units: Mapping[str, str]) -> pd.DataFrame:
    """Return a table whose headings have units: "RMSE" becomes "RMSE (umol m-2 s-1)".

    Examples
    --------
    >>> import pandas as pd
    >>> list(with_units(pd.DataFrame({"region": ["EU"], "NEE": [-1.0]}), {"NEE": "PgC yr-1"}))
    ['region', 'NEE (PgC yr-1)']
    """
    return frame.rename(columns={name: f"{name} ({unit})" for name, unit in units.items()})
