"""Write the scores of a protocol, and the files that the benchmark's leaderboard takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from fluxcube.errors import ConfigError, StoreError, unknown
from fluxcube.evaluation.protocols.carbonsense import paper_table
from fluxcube.evaluation.protocols.rows import ScoredRows
from fluxcube.evaluation.protocols.scoring import ProtocolScores
from fluxcube.evaluation.report import format_table
from fluxcube.stores.files import names_disk_errors, write_csv, write_text

#: How FLUXtrapolation selects a model on its validation environments.
STRATEGIES = ("mean", "max", "discrepancy")
#: Columns of FLUXtrapolation's scores in the Markdown page: medians, and the percentile at the bad end.
_COLUMNS = (
    *("target", "model", "scale", "n_environments", "n_samples", "rmse_median", "rmse_p90", "mae_median", "mae_p90"),
    *("nse_median", "nse_p10", "r2_score_median", "r2_score_p10", "bias_median"),
)
#: Maximum number of rows of the tables in the Markdown page.
_SHOWN = 60


@names_disk_errors("folder")
def write_protocol(
    scores: ProtocolScores,
    folder: str | Path,
    *,
    strategy: str = "mean",
    features: str = "own",
    predictions: bool = True,
    overwrite: bool = False,
) -> tuple[Path, ...]:
    """Write scores by a protocol as CSV and Markdown, and the files of the benchmark's leaderboard.

    Parameters
    ----------
    scores : ProtocolScores
        What `evaluate_protocol` returned.
    folder : path
        Output folder; its parent must exist. Several settings of FLUXtrapolation share one folder: its leaderboard
        takes nine metrics files per model, three settings by three fluxes.
    strategy : {"mean", "max", "discrepancy"}
        FLUXtrapolation: how the model was selected on the validation environments, for the names of the files.
    features : str
        CarbonFluxBench: name of the feature set, for the names of the files.
    predictions : bool
        FLUXtrapolation: whether to write the predictions, too, from which its code finds the experiments.
    overwrite : bool
        Whether to replace files.

    Returns
    -------
    tuple of Path
        ``scores_<setting>.md``, ``benchmark_<setting>.csv``, ``summary_<setting>.csv``, ``own_<setting>.csv``,
        ``removed_<setting>.csv``, then the leaderboard's files: ``results/metrics/*.csv`` and
        ``results/models/*_predictions.csv`` of FLUXtrapolation, ``eval_results/*_ensemble.csv`` of CarbonFluxBench,
        ``table1.csv``, ``table1.md`` and ``table1.tex`` of CarbonSense.

    Raises
    ------
    StoreError
        If a file exists and `overwrite` is false, or the parent of the folder does not exist.
    UnknownNameError
        If there is no such strategy.
    ConfigError
        If a model's name cannot be part of a file name.
    """
    folder = Path(folder)
    if strategy not in STRATEGIES:
        raise unknown("strategy", strategy, STRATEGIES)
    if not folder.parent.is_dir():
        raise StoreError(f"{folder}: its parent folder does not exist; make it first.")
    texts = _pages(scores) | _submission(scores, strategy, features, predictions)
    existing = [folder / name for name in texts if (folder / name).exists()]
    if existing and not overwrite:
        raise StoreError(f"{existing[0]} exists: pass overwrite=True to replace it, or another folder.")
    for name, content in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, pd.DataFrame):
            write_csv(path, content)
        else:
            write_text(path, content)
    return tuple(folder / name for name in texts)


def _pages(scores: ProtocolScores) -> dict[str, str | pd.DataFrame]:
    setting = scores.protocol.setting
    return {
        f"scores_{setting}.md": markdown(scores),
        f"benchmark_{setting}.csv": scores.benchmark,
        f"summary_{setting}.csv": scores.summary,
        f"own_{setting}.csv": scores.own,
        f"removed_{setting}.csv": scores.removed,
    }


def markdown(scores: ProtocolScores) -> str:
    """Return the scores of a protocol as a Markdown page: the benchmark's, fluxcube's, rows and notes."""
    protocol = scores.protocol
    notes = "\n".join(f"* {note}" for note in scores.notes)
    return "\n\n".join(
        [
            f"# {protocol.name}",
            f"{protocol.source}. Scores by the benchmark's own definitions, {protocol.aggregation}:",
            _table(_shown(scores)),
            "Scores by fluxcube's definitions (bias is prediction minus observation, corr² the squared correlation):",
            format_table(scores.own),
            "Rows that each step left:",
            _table(scores.removed),
            f"Notes:\n\n{notes}\n",
        ]
    )


def _shown(scores: ProtocolScores) -> pd.DataFrame:
    """Return the columns of the benchmark's scores that a page shows; the others are in the CSV files."""
    if scores.protocol.benchmark == "carbonsense":
        return scores.benchmark
    if scores.protocol.benchmark == "fluxtrapolation":
        return scores.summary[[name for name in scores.summary if name in _COLUMNS]]
    return scores.summary


def _table(frame: pd.DataFrame) -> str:
    """Return any table as Markdown."""
    rows = [[str(name) for name in frame], ["---"] * frame.shape[1]]
    rows += [[_cell(value) for value in row] for row in frame.head(_SHOWN).itertuples(index=False)]
    more = f"\n\n{len(frame) - _SHOWN} more lines are in the CSV file." if len(frame) > _SHOWN else ""
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + more


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:.4g}"
    return str(value).replace("|", "\\|")


def _submission(
    scores: ProtocolScores, strategy: str, features: str, predictions: bool
) -> dict[str, str | pd.DataFrame]:
    """Return the files of the benchmark's leaderboard by their paths."""
    kind = scores.protocol.benchmark
    if kind == "fluxtrapolation":
        return _fluxtrapolation(scores, strategy, predictions)
    if kind == "carbonfluxbench":
        return _carbonfluxbench(scores, features)
    return _carbonsense(scores)


def _fluxtrapolation(scores: ProtocolScores, strategy: str, predictions: bool) -> dict[str, str | pd.DataFrame]:
    out: dict[str, str | pd.DataFrame] = {}
    setting, table = scores.protocol.setting, scores.benchmark
    names = _file_names(scores.seeds)
    for row in scores.rows:
        for model, pred in row.preds.items():
            name = names[model]
            experiment = f"{setting}_{row.target}_{name}_val_{strategy}"
            chosen = table[(table["target"] == row.target) & (table["model"] == model)]
            first = ["target", "setting", "model", "scale", "env", "n_samples"]
            chosen = chosen.assign(model=name)[first + [c for c in chosen if c not in first]]
            out[f"results/metrics/{experiment}.csv"] = chosen
            if predictions:
                out[f"results/models/{experiment}_predictions.csv"] = _predictions(scores, row, pred)
    return out


def _file_names(models) -> dict[str, str]:
    """Return the names of models in FLUXtrapolation's files, which separate the parts of a name by underscores."""
    out = {model: "".join(c if c.isalnum() or c in "-." else "-" for c in model) for model in models}
    if len(set(out.values())) < len(out) or not all(out.values()):
        raise ConfigError(f"models {', '.join(out)} get the same name in files; rename one (letters, digits, - and .).")
    return out


def _predictions(scores: ProtocolScores, row: ScoredRows, pred) -> pd.DataFrame:
    years = row.time.astype("datetime64[Y]").astype(int) + 1970
    env = [f"('{s}', {y})" for s, y in zip(row.site, years, strict=True)] if scores.protocol.in_time else row.site
    return pd.DataFrame(
        {"y_true": row.obs, "y_pred": pred, "env": env, "site_id": row.site, "time": row.time.astype("datetime64[ns]")}
    )


def _carbonfluxbench(scores: ProtocolScores, features: str) -> dict[str, str | pd.DataFrame]:
    split = {"igbp": "IGBP", "koppen": "Koppen"}[scores.protocol.setting]
    targets = {"GPP_NT": "GPP_NT_VUT_USTAR50", "RECO_NT": "RECO_NT_VUT_USTAR50", "NEE": "NEE_VUT_USTAR50"}
    columns = ["site", "IGBP", "Koppen", "R2", "RMSE", "nMAE", "RAE", "target", "model", "split_type", "n_seeds"]
    out: dict[str, str | pd.DataFrame] = {}
    for model, name in _file_names(scores.seeds).items():
        rows = scores.benchmark[scores.benchmark["model"] == model]
        rows = rows.assign(
            target=rows["target"].map(targets), model=name, split_type=split, n_seeds=scores.seeds[model]
        )
        out[f"eval_results/{name}_{split}_{features}_ensemble.csv"] = rows[columns]
    return out


def _carbonsense(scores: ProtocolScores) -> dict[str, str | pd.DataFrame]:
    table = scores.benchmark
    return {
        "table1.csv": table,
        "table1.md": format_paper_table(table),
        "table1.tex": latex_paper_table(table),
    }


def write_class_table(table: pd.DataFrame, folder: str | Path, *, title: str, notes: Sequence[str] = ()) -> Path:
    """Write a table of scores by class as CSV, as Markdown and as LaTeX in the form of the CarbonSense paper.

    Parameters
    ----------
    table : pd.DataFrame
        Table of one flux that `fluxcube.evaluation.protocols.carbonsense.class_table` returned, or with the columns
        that `beside_published` adds. An existing table is replaced.
    folder : path
        Output folder.
    title : str
        Heading of the Markdown.
    notes : sequence of str
        Sentences below the table.

    Returns
    -------
    Path
        ``scores.md``; ``scores.csv`` and ``table1.tex`` are beside it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    about = [f"Rows: {table.attrs['row_mask']}."] if "row_mask" in table.attrs else []
    about.append(
        "Scores are means over seeds of the score of all hours of a class together, and their standard deviation "
        "between seeds. Intervals (95 %) are over clusters of sites and over seeds."
    )
    page = [f"# {title}", format_paper_table(table), " ".join(about), _table(table)]
    page += ["\n".join(f"* {note}" for note in notes)] if notes else []
    write_csv(folder / "scores.csv", table)
    write_text(folder / "table1.tex", latex_paper_table(table))
    write_text(folder / "scores.md", "\n\n".join(page) + "\n")
    return folder / "scores.md"


def format_paper_table(table: pd.DataFrame) -> str:
    """Return the table of one flux by class in the form of the CarbonSense paper, as Markdown."""
    wide = paper_table(table)
    head = ["IGBP", *(f"{model} {score}" for model, score in wide)]
    rows = [head, ["---"] + ["---:"] * (len(head) - 1)]
    rows += [[str(group), *map(str, line)] for group, line in zip(wide.index, wide.to_numpy(), strict=True)]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows) + "\n"


def latex_paper_table(table: pd.DataFrame) -> str:
    """Return the table of one flux by class in the form of the CarbonSense paper, as a LaTeX tabular."""
    wide = paper_table(table)
    models = list(dict.fromkeys(model for model, _ in wide))
    lines = [
        r"\begin{tabular}{l" + "rr" * len(models) + "}",
        r"\hline",
        "IGBP" + "".join(rf" & \multicolumn{{2}}{{c}}{{{_latex(model)}}}" for model in models) + r" \\",
        " & NSE & RMSE" * len(models) + r" \\",
        r"\hline",
    ]
    lines += [
        " & ".join([_latex(str(group)), *map(_latex, map(str, line))]) + r" \\"
        for group, line in zip(wide.index, wide.to_numpy(), strict=True)
    ]
    return "\n".join([*lines, r"\hline", r"\end{tabular}", ""])


def _latex(text: str) -> str:
    special = {
        "\\": r"\textbackslash{}",
        "±": r"$\pm$",
        "–": "--",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)
