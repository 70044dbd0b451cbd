"""Reports: tables of scores as Markdown and CSV, bar charts, and files of predictions and of sums."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import ConfigError, StoreError
from fluxcube.evaluation.bootstrap import INTERVALS
from fluxcube.evaluation.common_steps import AVERAGING
from fluxcube.evaluation.coverage import COVERAGE, COVERAGE_NOTE
from fluxcube.evaluation.rows import inputs_of
from fluxcube.evaluation.skill import MIN_SITES
from fluxcube.evaluation.sums import Sums
from fluxcube.exports.cf import from_cf
from fluxcube.exports.netcdf import write_netcdf
from fluxcube.maps.at_sites import SAMPLING
from fluxcube.moments import SCORES, Moments
from fluxcube.parsing import FILE_FAULTS, parse_json, read_text
from fluxcube.sources.netcdf import open_netcdf
from fluxcube.stores.files import names_disk_errors, replacing, write_csv, write_text

#: Number of clusters below which resampling them underestimates the spread (Cameron, Gelbach and Miller 2008,
#: doi:10.1162/rest.90.3.414).
_FEW_CLUSTERS = 10
_KEYS = ("target", "units", "scale", "group", "zero_shot", "model")
_HEADINGS = {
    "nse": "NSE",
    "rmse": "RMSE",
    "mae": "MAE",
    "bias": "bias",
    "corr2": "corr²",
    "n": "values",  # of hours, days or longer periods
    "n_sites": "sites",
    COVERAGE: "coverage of 80 % intervals",
}
_NUMBERS = (*Moments._fields, "latitude", "longitude", "elevation", "utc_offset")
#: Scores that a terminal shows; the others are in the CSV.
_SHOWN = ("n", "n_sites", "nse", "rmse", "bias", "nse_site_median")
_MEDIANS = ("nse_site_median", "rmse_site_median")  # the others are in the CSV


def format_table(table: pd.DataFrame) -> str:
    """Return a table of scores as Markdown.

    Parameters
    ----------
    table : pd.DataFrame
        Table that `fluxcube.compare` or `skill_table` returns, or any table with some of its columns. Classes without
        training sites and classes of too few sites are marked. Table rows without a scored time step are not shown;
        their number is reported below the table. Of the intervals only those of the differences from the reference
        model are shown.

    Returns
    -------
    str
        A Markdown table, followed by the row mask if ``table.attrs`` contains it.

    Examples
    --------
    >>> print(format_table(pd.DataFrame({"model": ["a"], "nse": [0.75], "n": [1000]})))
    | model | NSE | values |
    | --- | ---: | ---: |
    | a | 0.750 | 1,000 |
    """
    shown = table[table["n"] > 0] if "n" in table else table
    columns = [c for c in shown if c in (*_KEYS, *_HEADINGS, *_MEDIANS) and c != "zero_shot"]
    pooled = any(c in shown for c in _MEDIANS)
    differences = [score for score in INTERVALS if f"{score}_diff" in shown]
    rule = ["---" if c in _KEYS else "---:" for c in [*columns, *differences]]
    rows = [
        [*(_cell(c, row[c], row) for c in columns), *(_difference(row, score) for score in differences)]
        for _, row in shown.iterrows()
    ]
    heads = [f"{_heading(c, pooled)}, difference" for c in differences]
    lines = [[*(_heading(c, pooled) for c in columns), *heads], rule, *rows]
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + _notes(table, len(table) - len(shown)))


def shown_scores(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return what a terminal shows of a table of scores: fewer columns, with units and intervals, and the notes below.

    Parameters
    ----------
    table : pd.DataFrame
        Table that `fluxcube.compare` or `skill_table` returns.

    Returns
    -------
    DataFrame
        One line for each line of `table` with a scored time step. An interval is the text "[low, high]": of the NSE of
        each model, and of its difference from the reference model, if there is one.
    list of str
        Row mask, inputs, and what the intervals are.
    """
    rows = table[table["n"] > 0] if "n" in table else table
    keys = [c for c in rows if c in _KEYS and c != "zero_shot" and not (c in ("target", "units") and _is_one(rows[c]))]
    units = f" ({rows['units'].iloc[0]})" if "units" in rows and _is_one(rows["units"]) and len(rows) else ""
    shown = {c: [_cell(c, row[c], row) for _, row in rows.iterrows()] for c in keys}
    for score in [c for c in (*_SHOWN, COVERAGE) if c in rows]:
        name = f"{_HEADINGS[score]}{units}" if score in ("rmse", "bias") else _heading(score, False)
        shown[name] = [_cell(score, row[score], row) for _, row in rows.iterrows()]
        if score == "nse" and "nse_low" in rows and rows["nse_low"].notna().any():
            shown["NSE, interval"] = [_interval(row, score) for _, row in rows.iterrows()]
    for score in [score for score in ("nse", "rmse") if f"{score}_diff" in rows]:
        shown[f"{_HEADINGS[score]}, difference"] = [_difference(row, score) for _, row in rows.iterrows()]
    one = [f"Flux: {rows['target'].iloc[0]}."] if "target" in rows and "target" not in keys and len(rows) else []
    notes = [*one, *(note for note in _notes(table, len(table) - len(rows)) if note)]
    if any(str(cell).endswith("]") for cells in shown.values() for cell in cells):
        notes = [note.replace(f"; intervals: {table.attrs['intervals']}", "") for note in notes]
        notes.append(_of_intervals(rows, str(table.attrs["intervals"])))
    return pd.DataFrame(shown), notes


def _of_intervals(rows: pd.DataFrame, kind: str) -> str:
    """Return what the intervals are, and whether there are too few clusters to resample."""
    clusters = int(rows["n_clusters"].max()) if "n_clusters" in rows else 0
    few = clusters and clusters < _FEW_CLUSTERS
    number = f", of which there are {clusters}: so few make intervals too narrow" if few else ""
    return f"[low, high] is an interval: {kind}{number}."


def _is_one(column: pd.Series) -> bool:
    return column.nunique(dropna=False) <= 1


def _interval(row: pd.Series, score: str) -> str:
    low, high = row[f"{score}_low"], row[f"{score}_high"]
    return "" if pd.isna(low) else f"[{low:.3f}, {high:.3f}]"


@names_disk_errors("folder")
def write_report(
    table: pd.DataFrame, folder: str | Path, *, overwrite: bool = False, title: str = "Scores"
) -> tuple[Path, ...]:
    """Write a scores table as CSV and Markdown, and a bar chart of NSE per group for each target.

    Parameters
    ----------
    table : pd.DataFrame
        Table that `fluxcube.compare` returns.
    folder : path
        Output folder; its parent must exist.
    overwrite : bool
        Whether to replace the files of an earlier report.
    title : str
        Heading of the Markdown.

    Returns
    -------
    tuple of Path
        ``scores.csv``, ``scores.md``, then one ``scores_<TARGET>.png`` per target with a scored time step.

    Raises
    ------
    StoreError
        If a file exists and `overwrite` is false, or the parent of the folder does not exist.
    ConfigError
        If the table lacks columns.
    """
    from fluxcube.plotting.scorebars import plot_scores

    if missing := {"target", "group", "model", "n", *SCORES} - set(table):
        raise ConfigError(f"expected the table of compare(), found no {', '.join(sorted(missing))}; pass that table.")
    folder = Path(folder)
    targets = [t for t, rows in table.groupby("target", sort=False) if np.isfinite(rows["nse"]).any()]
    files = [folder / "scores.csv", folder / "scores.md", *(folder / f"scores_{target}.png" for target in targets)]
    _check_output(folder, files, overwrite)
    write_csv(files[0], table)
    pictures = "\n\n".join(f"![NSE of {t}]({path.name})" for t, path in zip(targets, files[2:], strict=True))
    write_text(files[1], f"# {title}\n\n{format_table(table)}\n\n{pictures}\n")
    for target, path in zip(targets, files[2:], strict=True):
        plot_scores(table, target=target, path=path)
    return tuple(files)


def _check_output(folder: Path, files: Iterable[Path], overwrite: bool) -> None:
    """Make the folder; refuse to replace files unless `overwrite` is set (StoreError)."""
    if not folder.parent.is_dir():
        raise StoreError(f"{folder}: its parent folder does not exist; make it first.")
    existing = [path for path in files if path.exists()]
    if existing and not overwrite:
        raise StoreError(f"{existing[0]} exists: pass overwrite=True to replace the report, or another folder.")
    folder.mkdir(exist_ok=True)


def _heading(column: str, pooled: bool) -> str:
    name = _HEADINGS.get(column.removesuffix("_site_median"), column)
    if column.endswith("_site_median"):
        return f"{name} (site median)"
    return f"{name} (pooled)" if pooled and column in SCORES else name


def _cell(column: str, value: Any, row: pd.Series) -> str:
    if column == "group":
        marks = ["not in training"] * bool(row.get("zero_shot")) + ["few sites"] * (not row.get("counted", True))
        return f"{value} ({', '.join(marks)})" if marks else str(value)
    if column in _KEYS:
        return str(value)
    if pd.isna(value):
        return "–"
    return f"{int(value):,}" if column in ("n", "n_sites") else f"{value:.3f}"


def _difference(row: pd.Series, score: str) -> str:
    """Return the difference from the reference model and its interval as text, "" for the reference itself."""
    value, low, high = (row[f"{score}_diff{end}"] for end in ("", "_low", "_high"))
    if pd.isna(value):
        return ""
    return f"{value:+.3f}" if pd.isna(low) else f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def format_pair(table: pd.DataFrame, model: str, against: str) -> str:
    """Return a Markdown table of two models, one line per group: sites, values, NSE and RMSE, and their differences.

    Parameters
    ----------
    table : pd.DataFrame
        Table of one flux that `fluxcube.compare` returns, with intervals and `against` as the reference.
    model, against : str
        Names of the two models; differences are scores of `model` minus scores of `against`.

    Raises
    ------
    ConfigError
        If the table lacks a model or intervals, or has another reference.
    """
    if {model, against} - set(table["model"]) or table.attrs.get("against") != against:
        raise ConfigError(f"expected a table of {model} and {against}, with against={against!r}; compute it so.")
    pair = {name: table[(table["model"] == name) & (table["n"] > 0)].set_index("group") for name in (model, against)}
    head = ["", "sites", "values"]
    head += [f"{score} {part}" for score in ("NSE", "RMSE") for part in (model, against, "difference")]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for group, row in pair[model].iterrows():
        cells = [_cell("group", group, row), f"{int(row['n_sites'])}", f"{int(row['n']):,}"]
        for score in ("nse", "rmse"):
            cells += [f"{pair[name].loc[group, score]:.3f}" for name in (model, against)] + [_difference(row, score)]
        lines.append(cells)
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + _notes(table, 0))


def write_predictions(predictions: xr.Dataset, path: str | Path) -> Path:
    """Write predictions at towers as one compressed NetCDF file, in one step: an interrupted call leaves no file.

    Raises
    ------
    MissingPackageError
        If netcdf4 is not installed.
    StoreError
        If the folder does not exist, or the disk does not accept the file.
    """
    with replacing(path) as temporary:
        write_netcdf(predictions, temporary)
    return Path(path)


def read_predictions(path: str | Path) -> xr.Dataset:
    """Read predictions that `write_predictions` wrote, into RAM (StoreError if the file contains none)."""
    try:
        with open_netcdf(path) as ds:
            return from_cf(ds.load())
    except FILE_FAULTS as error:
        raise StoreError(f"{path} contains no predictions: {error}") from error


def write_sums(sums: Sums, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write sums, from which every table is computed, as CSV with all digits.

    Raises
    ------
    StoreError
        If the file exists and `overwrite` is false, its folder does not exist, or the disk does not accept the file.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise StoreError(f"{path} exists: pass overwrite=True to replace it.")
    frame = sums.to_frame()
    text = f"# {json.dumps(frame.attrs)}\n{frame.to_csv(index=False)}"
    write_text(path, text)
    return path


def read_sums(path: str | Path) -> Sums:
    """Read sums that `write_sums` wrote.

    Raises
    ------
    StoreError
        If the file is missing, or contains no sums.
    """
    try:
        with io.StringIO(read_text(path)) as file:
            about = parse_json(file.readline().removeprefix("# "), dict)
            # A class or network may be called NA or nan: only an empty field is missing.
            frame = pd.read_csv(file, dtype=str, keep_default_na=False, na_values=[""])
        # Python reads back every bit of a number; the CSV reader may not.
        frame = frame.assign(**{name: frame[name].astype(float) for name in _NUMBERS if name in frame})
        frame.attrs = about
        return Sums.from_frame(frame)
    except (OSError, ValueError, AttributeError, LookupError, TypeError, ArithmeticError) as error:
        raise StoreError(f"{path} contains no sums of sites: {error}") from error


def _inputs(records: Mapping[str, Mapping[str, str]]) -> str:
    """Return the stores and digests of models that a table was computed from, as text."""
    parts = []
    for name, record in records.items():
        parts += [f"{name} {key} {' '.join(one[:12] for one in value.split())}" for key, value in record.items()]
    return ", ".join(parts)


def _notes(table: pd.DataFrame, hidden: int) -> list[str]:
    notes = [f"Rows: {table.attrs['row_mask']}."] if "row_mask" in table.attrs else []
    notes += [f"Maps at towers: {table.attrs[SAMPLING]}."] if SAMPLING in table.attrs else []
    notes += [f"Inputs: {text}."] if (text := _inputs(inputs_of(table.attrs))) else []
    notes += [f"Averaged: {table.attrs[AVERAGING]}."] if AVERAGING in table.attrs else []
    if "against" in table.attrs and len(set(table["model"])) > 1:
        notes.append(f"Differences are from {table.attrs['against']}; intervals: {table.attrs['intervals']}.")
    if "counted" in table and not table["counted"].all():
        notes.append(f"Groups of fewer than {MIN_SITES} sites are shown, but count in no mean over groups.")
    notes += [table.attrs[COVERAGE_NOTE]] if COVERAGE_NOTE in table.attrs else []
    notes += [f"Not shown: {hidden} lines without a scored hour."] if hidden else []
    return ["", " ".join(notes)] if notes else []
