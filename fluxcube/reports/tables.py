"""Steps that several sections take to print tables of scores."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from fluxcube.reports.evidence import Evidence

_INTERVAL_NOTE = (
    "Brackets contain 95 % intervals from {draws} draws of whole clusters of towers (towers within {km:g} km are one "
    "cluster); differences use the same draws for both models. Intervals describe other test towers, not other seeds. "
    "There is no interval for fewer than 3 clusters."
)


_NO_INTERVAL_NOTE = (
    "There are no intervals, since they need at least 3 clusters of towers (towers within {km:g} km are one cluster)."
)


def interval_note(evidence: Evidence, table: pd.DataFrame) -> str:
    """Return a sentence on the intervals of a table of scores, or why it has none; "" if none were requested."""
    if not evidence.draws:
        return ""
    note = _INTERVAL_NOTE if has_intervals(table, "nse") or has_intervals(table, "rmse") else _NO_INTERVAL_NOTE
    return note.format(draws=evidence.draws, km=evidence.clusters)


def has_intervals(table: pd.DataFrame, score: str) -> bool:
    """Return whether any row of a table has an interval of a score."""
    return f"{score}_low" in table and bool(table[f"{score}_low"].notna().any())


def with_intervals(caption: str, table: pd.DataFrame, score: str) -> str:
    """Return a caption that mentions the intervals of a score where the table has them."""
    return f"{caption}, with 95 % intervals" if has_intervals(table, score) else caption


def rows_of(table: pd.DataFrame, target: str) -> pd.DataFrame:
    """Return the rows of one flux, with the attributes of the table."""
    out = table[table["target"] == target].reset_index(drop=True)
    out.attrs = dict(table.attrs)
    return out


def wide_table(rows: pd.DataFrame, score: str, models: Sequence[str]) -> pd.DataFrame:
    """Return a row for each group, with a column for the score of each model and for its bounds."""
    out = rows.drop_duplicates("group")[["group", "n_sites", "n"]].reset_index(drop=True)
    for model in models:
        one = rows[rows["model"] == model].set_index("group").reindex(out["group"])
        for name in (score, f"{score}_low", f"{score}_high"):
            if name in one:
                out[f"{model} {name}"] = one[name].to_numpy()
    return out
