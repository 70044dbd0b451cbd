"""Sections of a report: text, figures and tables, which the page, the LaTeX tables and the files are written from."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Column:
    """One column of a printed table.

    Attributes
    ----------
    name : str
        Column of the table's data.
    heading : str
        Printed heading.
    form : str
        Format of numbers, such as ".3f", or ".2g" for two significant digits; "" for text, "long" for sentences, "doi"
        for identifiers that become links, "site" for towers whose series the page shows.
    low, high : str
        Columns with the bounds of an interval, which are printed in brackets; "" for none.
    """

    name: str
    heading: str
    form: str = ""
    low: str = ""
    high: str = ""

    @property
    def numeric(self) -> bool:
        """Whether the column contains numbers."""
        return self.form not in ("", "long", "doi", "site")


@dataclass(frozen=True)
class Table:
    """A table of a section.

    Attributes
    ----------
    name : str
        Name of the file and of the anchor; letters, digits and hyphens.
    caption : str
        What the table contains.
    data : pd.DataFrame
        Its rows.
    columns : sequence of Column
        Its columns, in their order.
    target : str
        Flux that the table is about; "" if it is about all.
    note : str
        Text below the table.
    latex : bool
        Whether it is written as a LaTeX table as well.
    """

    name: str
    caption: str
    data: pd.DataFrame
    columns: Sequence[Column]
    target: str = ""
    note: str = ""
    latex: bool = False

    def cells(self) -> list[list[str]]:
        """Return the printed text of each cell, row by row."""
        return [[_text(row, column) for column in self.columns] for row in self.data.to_dict("records")]


@dataclass(frozen=True)
class Figure:
    """A figure of a section.

    Attributes
    ----------
    name : str
        Name of the files and of the anchor.
    caption : str
        Text below the figure.
    alt : str
        Description for readers who do not see it.
    draw : callable
        Draws the figure, and returns its axes.
    target : str
        Flux that it is about; "" if it is about all.
    wide : bool
        Whether it takes the whole width of the page.
    on_page : bool
        Whether the page shows it; else it is a file only.
    """

    name: str
    caption: str
    alt: str
    draw: Callable[[], Axes]
    target: str = ""
    wide: bool = False
    on_page: bool = True


@dataclass(frozen=True)
class Section:
    """A section of a report.

    Attributes
    ----------
    name : str
        Anchor.
    title : str
        Heading.
    text : tuple of str
        Paragraphs of plain text.
    figures : tuple of Figure
        Figures.
    tables : tuple of Table
        Tables below the figures.
    first : tuple of Table
        Tables above the figures.
    absent : str
        Why there is nothing to show, and what would fill the section; "" if there is something.
    widget : str
        Interactive part that the page adds: "map" or "".
    """

    name: str
    title: str
    text: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    first: tuple[Table, ...] = ()
    absent: str = ""
    widget: str = ""


def slug(text: str) -> str:
    """Return a text as part of a file name or anchor: lower-case letters, digits and hyphens.

    Examples
    --------
    >>> slug("TAM-RL (ours) + reflectance")
    'tam-rl-ours-reflectance'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "model"


def number(value: object, form: str) -> str:
    """Return a number as text, with a minus sign; a dash where it is missing.

    Examples
    --------
    >>> number(-0.12345, ".3f"), number(float("nan"), ".3f"), number(1234.0, ",d"), number(1234.0, ".2g")
    ('−0.123', '–', '1,234', '1,200')
    """
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    if form.endswith("g"):  # significant digits, but no power of ten
        value, form = float(format(value, form)), ",.10g"
    text = format(int(value), form) if form.endswith("d") else format(float(value), form)
    if not text.strip("-0.,%"):  # a rounded zero has no sign
        text = text.lstrip("-")
    return text.replace("-", "−")


def plain_number(value: object) -> float | None:
    """Return a cell as a Python number for sorting; None for text and missing values."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _text(row: dict, column: Column) -> str:
    value = row.get(column.name)
    if not column.numeric:
        return "" if value is None or value is pd.NA or value != value else str(value)
    text = number(_python(value), column.form)
    if not column.low or text == "–":
        return text
    low, high = (number(_python(row.get(name)), column.form) for name in (column.low, column.high))
    return text if "–" in (low, high) else f"{text} [{low}, {high}]"


def _python(value: object) -> object:
    """Return a numpy scalar as a Python number."""
    item = getattr(value, "item", None)
    return item() if callable(item) else value


def score_columns(scores: Sequence[str], data: pd.DataFrame, *, units: str = "") -> list[Column]:
    """Return the columns of scores that a table of scores contains, with their intervals.

    Parameters
    ----------
    scores : sequence of str
        Columns, such as "nse" and "rmse_diff".
    data : pd.DataFrame
        Table of `fluxcube.evaluation.skill.score_table`.
    units : str
        Printed units of the flux.
    """
    headings = {
        "nse": "NSE",
        "rmse": "RMSE",
        "mae": "MAE",
        "bias": "bias",
        "corr2": "corr²",
        "nse_site_median": "NSE, median site",
        "rmse_site_median": "RMSE, median site",
        "nse_diff": "NSE, difference",
        "rmse_diff": "RMSE, difference",
        "coverage_80": "coverage of 80 % intervals",
    }
    out = []
    for score in scores:
        if score not in data:
            continue
        has_units = units and score.split("_")[0] in ("rmse", "mae", "bias")
        heading = headings.get(score, score.replace("_", " ")) + (f" ({units})" if has_units else "")
        bounds = (f"{score}_low", f"{score}_high") if f"{score}_low" in data else ("", "")
        out.append(Column(score, heading, "+.3f" if score.endswith("_diff") else ".3f", *bounds))
    return out
