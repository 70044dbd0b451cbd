"""Targets, models and classes of tables of scores, in the order in which figures draw them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from fluxcube.errors import unknown


def chosen_names(kind: str, names: Sequence[str] | None, column: Iterable[object]) -> list[str]:
    """Return the requested names of a column, or all of them in the order of the column.

    Parameters
    ----------
    kind : str
        What the names are, for the message: "target" or "model".
    names : sequence of str, optional
        Requested names.
    column : iterable
        Names in the table.

    Raises
    ------
    UnknownNameError
        If the column lacks a requested name.
    """
    known = list(dict.fromkeys(map(str, column)))
    if unknowns := [name for name in names or () if name not in known]:
        raise unknown(kind, unknowns[0], known)
    return list(known if names is None else names)


def ordered_groups(rows: pd.DataFrame) -> list[str]:
    """Return the groups: all sites first, then classes by decreasing number of sites, then by name."""
    sites = _sites(rows)
    return sorted(sites.index, key=lambda group: (group != "all", -sites[group], group))


def group_labels(rows: pd.DataFrame, groups: Sequence[str]) -> list[str]:
    """Return the label of each group: its name and its number of sites, 0 if it has no row."""
    counts = _sites(rows).reindex(groups).fillna(0).astype(int)
    return [f"{'all sites' if group == 'all' else group} ({counts[group]})" for group in groups]


def legend_width(models: Sequence[str]) -> float:
    """Return the inches that a legend beside a figure needs for long names of models; 0 for names of 20 letters."""
    return 0.07 * max(0, max(map(len, models), default=0) - 20)


def _sites(rows: pd.DataFrame) -> pd.Series:
    return rows.groupby("group")["n_sites"].max()
