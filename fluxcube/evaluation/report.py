"""Tables and pictures of scores, as files a paper can take."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import ConfigError, StoreError, missing_package
from fluxcube.evaluation.bootstrap import INTERVALS
from fluxcube.evaluation.skill import MIN_SITES
from fluxcube.evaluation.sums import Sums
from fluxcube.scores import SCORES, Moments

_KEYS = ("target", "units", "group", "zero_shot", "model")
_HEADINGS = {
    "nse": "NSE",
    "rmse": "RMSE",
    "mae": "MAE",
    "bias": "bias",
    "corr2": "corr²",
    "n": "hours",
    "n_sites": "sites",
}
_NUMBERS = (*Moments._fields, "latitude", "longitude", "elevation", "utc_offset")
_MEDIANS = ("nse_site_median", "rmse_site_median")  # the others are in the CSV


def format_table(table: pd.DataFrame) -> str:
    """Return a table of scores as Markdown, to be read by a person.

    Parameters
    ----------
    table : pd.DataFrame
        As `fluxcube.compare` or `skill_table` makes it, or any table with some of its columns. Classes that
        training lacked are marked, and those of too few sites to count; rows without a single scored hour are
        counted below, not shown. Where there are intervals, the difference from the model of reference is shown
        with its own; the CSV has them all.

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
    apart = [score for score in INTERVALS if f"{score}_diff" in shown]
    rule = ["---" if c in _KEYS else "---:" for c in [*columns, *apart]]
    rows = [
        [*(_cell(c, row[c], row) for c in columns), *(_difference(row, score) for score in apart)]
        for _, row in shown.iterrows()
    ]
    heads = [f"{_heading(c, pooled)}, difference" for c in apart]
    lines = [[*(_heading(c, pooled) for c in columns), *heads], rule, *rows]
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
    from fluxcube.plotting.maps import plot_scores

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


def _cell(column: str, value: object, row: pd.Series) -> str:
    if column == "group":
        marks = ["not in training"] * bool(row.get("zero_shot")) + ["few sites"] * (not row.get("counted", True))
        return f"{value} ({', '.join(marks)})" if marks else str(value)
    if column in _KEYS:
        return str(value)
    if pd.isna(value):
        return "–"
    return f"{int(value):,}" if column in ("n", "n_sites") else f"{value:.3f}"


def _difference(row: pd.Series, score: str) -> str:
    """Difference from the reference and its interval; nothing in the reference's own row."""
    value, low, high = (row[f"{score}_diff{end}"] for end in ("", "_low", "_high"))
    if pd.isna(value):
        return ""
    return f"{value:+.3f}" if pd.isna(low) else f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def format_pair(table: pd.DataFrame, model: str, against: str) -> str:
    """Return two models side by side as Markdown, a line per group: sites, hours, NSE and RMSE, and their difference.

    Parameters
    ----------
    table : pd.DataFrame
        As `fluxcube.compare` makes it of one flux, with intervals and `against` as its reference.
    model, against : str
        Whose scores; differences are the first's less the second's.

    Raises
    ------
    ConfigError
        If the table lacks a model, its intervals, or has another reference.
    """
    if {model, against} - set(table["model"]) or table.attrs.get("against") != against:
        raise ConfigError(f"the table must hold {model} and {against}, and its differences be from {against}.")
    pair = {name: table[(table["model"] == name) & (table["n"] > 0)].set_index("group") for name in (model, against)}
    head = ["", "sites", "hours"]
    head += [f"{score} {part}" for score in ("NSE", "RMSE") for part in (model, against, "difference")]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for group, row in pair[model].iterrows():
        cells = [_cell("group", group, row), f"{int(row['n_sites'])}", f"{int(row['n']):,}"]
        for score in ("nse", "rmse"):
            cells += [f"{pair[name].loc[group, score]:.3f}" for name in (model, against)] + [_difference(row, score)]
        lines.append(cells)
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + _notes(table, 0))


def write_predictions(predictions: xr.Dataset, path: str | Path) -> Path:
    """Write predictions at towers as one compressed NetCDF file; a kill leaves none rather than half of one.

    Raises
    ------
    MissingPackageError
        Without netcdf4.
    """
    path = Path(path)
    part = path.with_suffix(".part")
    try:
        predictions.to_netcdf(part, engine="netcdf4", encoding={n: {"zlib": True, "complevel": 1} for n in predictions})
    except ImportError:
        raise missing_package("netcdf4", "grid", "keeping predictions") from None
    part.replace(path)
    return path


def read_predictions(path: str | Path) -> xr.Dataset:
    """Read what `write_predictions` wrote, into memory."""
    try:
        with xr.open_dataset(path, engine="netcdf4") as ds:
            return ds.load()
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} holds no predictions: {error}") from error


def write_sums(sums: Sums, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write the sums that every table follows from as CSV, to the last digit.

    Raises
    ------
    StoreError
        If the file exists and is not to be replaced, or its folder does not.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise StoreError(f"{path}: its folder does not exist; make it first.")
    if path.exists() and not overwrite:
        raise StoreError(f"{path} exists: give overwrite=True to replace it.")
    frame = sums.to_frame()
    text = f"# {json.dumps(frame.attrs)}\n{frame.to_csv(index=False)}"
    part = path.with_suffix(".part")
    part.write_text(text, "utf-8")
    part.replace(path)  # a kill leaves no table that lacks its last sites
    return path


def read_sums(path: str | Path) -> Sums:
    """Read what `write_sums` wrote.

    Raises
    ------
    StoreError
        If the file is missing or is no such table.
    """
    try:
        with open(path, encoding="utf-8") as file:
            about = json.loads(file.readline().removeprefix("# "))
            # A class or network may be called NA or nan: only an empty field is missing.
            frame = pd.read_csv(file, dtype=str, keep_default_na=False, na_values=[""])
        # Python's own reading of a number gives back every bit; that of the CSV reader need not.
        frame = frame.assign(**{name: frame[name].astype(float) for name in _NUMBERS if name in frame})
    except (OSError, ValueError, AttributeError) as error:
        raise StoreError(f"{path} holds no sums of sites: {error}") from error
    frame.attrs = about
    return Sums.from_frame(frame)


def _notes(table: pd.DataFrame, hidden: int) -> list[str]:
    notes = [f"Rows: {table.attrs['row_mask']}."] if "row_mask" in table.attrs else []
    if "against" in table.attrs and len(set(table["model"])) > 1:
        notes.append(f"Differences are from {table.attrs['against']}; intervals: {table.attrs['intervals']}.")
    if "counted" in table and not table["counted"].all():
        notes.append(f"Groups of fewer than {MIN_SITES} sites are shown, but count in no mean over groups.")
    notes += [f"Not shown: {hidden} lines without a scored hour."] if hidden else []
    return ["", " ".join(notes)] if notes else []
