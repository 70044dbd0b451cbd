"""Tables and pictures of scores, as files a paper can take."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from fluxcube.errors import ConfigError, StoreError
from fluxcube.evaluation.kernels import SCORES

_KEYS = ("target", "units", "group", "zero_shot", "model")
_HEADINGS = {
    "nse": "NSE", "rmse": "RMSE", "mae": "MAE", "bias": "bias", "corr2": "corr²", "n": "hours", "n_sites": "sites",
}  # fmt: skip
_MEDIANS = ("nse_site_median", "rmse_site_median")  # the others are in the CSV


def format_table(table: pd.DataFrame) -> str:
    """Return a table of scores as Markdown, to be read by a person.

    Parameters
    ----------
    table : pd.DataFrame
        As `fluxcube.compare` or `skill_table` makes it, or any table with some of its columns. Classes that
        training lacked are marked; rows without a single scored hour are counted below, not shown.

    Returns
    -------
    str
        A Markdown table; below it the row mask, where ``table.attrs`` holds it.

    Examples
    --------
    >>> print(format_table(pd.DataFrame({"model": ["a"], "nse": [0.75], "n": [1000]})))
    | model | NSE | hours |
    | --- | ---: | ---: |
    | a | 0.750 | 1,000 |
    """
    shown = table[table["n"] > 0] if "n" in table else table
    columns = [c for c in shown if c in (*_KEYS, *_HEADINGS, *_MEDIANS) and c != "zero_shot"]
    pooled = any(c in shown for c in _MEDIANS)
    rule = ["---" if c in _KEYS else "---:" for c in columns]
    rows = [[_cell(c, row[c], bool(row.get("zero_shot"))) for c in columns] for _, row in shown.iterrows()]
    lines = [[_heading(c, pooled) for c in columns], rule, *rows]
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + _notes(table, len(table) - len(shown)))


def write_report(
    table: pd.DataFrame, folder: str | Path, *, overwrite: bool = False, title: str = "Scores"
) -> tuple[Path, ...]:
    """Write a scores table as CSV and Markdown, and a bar chart of NSE per group for each target.

    Parameters
    ----------
    table : pd.DataFrame
        As `fluxcube.compare` makes it.
    folder : path
        Made if absent; its parent must exist.
    overwrite : bool
        Replace files of an earlier report.
    title : str
        Heading of the Markdown.

    Returns
    -------
    tuple of Path
        ``scores.csv``, ``scores.md``, then one ``scores_<TARGET>.png`` per target with a scored hour.

    Raises
    ------
    StoreError
        If a file is in the way, or the folder's parent does not exist.
    """
    from fluxcube.plotting import plot_scores

    if missing := {"target", "group", "model", "n", *SCORES} - set(table):
        raise ConfigError(f"a report needs the table that compare() makes; it lacks {', '.join(sorted(missing))}.")
    folder = Path(folder)
    targets = [t for t, rows in table.groupby("target", sort=False) if np.isfinite(rows["nse"]).any()]
    files = [folder / "scores.csv", folder / "scores.md", *(folder / f"scores_{target}.png" for target in targets)]
    _clear_way(folder, files, overwrite)
    table.to_csv(files[0], index=False)
    pictures = "\n\n".join(f"![NSE of {t}]({path.name})" for t, path in zip(targets, files[2:], strict=True))
    files[1].write_text(f"# {title}\n\n{format_table(table)}\n\n{pictures}\n", "utf-8")
    for target, path in zip(targets, files[2:], strict=True):
        plot_scores(table, target=target, path=path)
    return tuple(files)


def _clear_way(folder: Path, files: Iterable[Path], overwrite: bool) -> None:
    if not folder.parent.is_dir():
        raise StoreError(f"{folder}: its parent folder does not exist; make it first.")
    there = [path for path in files if path.exists()]
    if there and not overwrite:
        raise StoreError(f"{there[0]} exists: give overwrite=True to replace an earlier report, or another folder.")
    folder.mkdir(exist_ok=True)


def _heading(column: str, pooled: bool) -> str:
    name = _HEADINGS.get(column.removesuffix("_site_median"), column)
    if column.endswith("_site_median"):
        return f"{name} (site median)"
    return f"{name} (pooled)" if pooled and column in SCORES else name


def _cell(column: str, value: object, zero_shot: bool) -> str:
    if column == "group" and zero_shot:
        return f"{value} (not in training)"
    if column in _KEYS:
        return str(value)
    if pd.isna(value):
        return "–"
    return f"{int(value):,}" if column in ("n", "n_sites") else f"{value:.3f}"


def _notes(table: pd.DataFrame, hidden: int) -> list[str]:
    notes = [f"Rows: {table.attrs['row_mask']}."] if "row_mask" in table.attrs else []
    notes += [f"Not shown: {hidden} lines without a scored hour."] if hidden else []
    return ["", " ".join(notes)] if notes else []
