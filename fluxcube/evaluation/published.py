"""Published scores as data: what other studies reported, and whether it can be compared with a table of one's own.

The table is ``data/published_scores.csv``; ``data/published_scores.md`` describes its sources.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from importlib import resources

import numpy as np
import pandas as pd

from fluxcube.errors import ConfigError
from fluxcube.resolution import find_resolution
from fluxcube.units import same_unit

#: How scores of several sites are combined.
POOLED, SITE_MEAN, SITE_MEDIAN = "pooled", "mean over sites", "median over sites"
#: Scores of a table of one's own with which a published score is compared; an R2 without a definition is compared with
#: the squared correlation.
_OWN_SCORE = {"r2": "corr2"}
_NUMBERS = ("value", "n")
#: Columns of tables of scores, and what they are: the score and its aggregation.
_POOLED_COLUMNS = {
    **{name: (name, POOLED) for name in ("nse", "rmse", "mae", "bias", "corr2")},
    "nse_site_median": ("nse", SITE_MEDIAN),
    "rmse_site_median": ("rmse", SITE_MEDIAN),
}
_MEAN_COLUMNS = {
    **{name: (name, SITE_MEAN) for name in ("nse", "rmse", "corr2")},
    **{f"{name}_median": (name, SITE_MEDIAN) for name in ("nse", "corr2")},
}
_WITHOUT_UNITS = ("nse", "corr2")


def published_scores() -> pd.DataFrame:
    """Return the scores of published models.

    Returns
    -------
    pd.DataFrame
        A row per score with columns source, doi, table, target, units (of the score), resolution, split, mask (as
        `fluxcube.resolution.QualityLimit` prints it), aggregation ("pooled", "mean over sites" or "median over
        sites"), group (an IGBP class, or "all"), model, score ("nse", "rmse", or "r2" where the source does not define
        its R2), value, n (number of test sites, NaN where not published) and note.

    References
    ----------
    Fortier et al. 2025, arXiv:2406.04940 (Table 2, and Table 1 of its manuscript); Rozanov, Renganathan & Kumar 2026,
    arXiv:2603.09974 (Table 1); CarbonFluxBench 2026, arXiv:2603.09868.

    Examples
    --------
    >>> rows = published_scores().query("split == 'xbase' and target == 'NEE' and score == 'rmse'")
    >>> dict(zip(rows.model, rows.value))["TAM-RL"]
    1.62
    """
    return _published().copy()


@functools.cache
def _published() -> pd.DataFrame:
    place = resources.files("fluxcube").joinpath("data/published_scores.csv")
    with place.open("r", encoding="utf-8") as file:
        out = pd.read_csv(file, dtype=str, keep_default_na=False)
    return out.assign(**{name: pd.to_numeric(out[name]).astype(float) for name in _NUMBERS})


def comparable(published: Mapping, own: Mapping) -> tuple[bool, str]:
    """Return whether a published score can be compared with one's own, and if not, why.

    Both must be of the same target, score, units, group, time step, split, row mask and aggregation.

    Parameters
    ----------
    published : mapping
        A row of `published_scores`.
    own : mapping
        What is known of one's own score: a row of `own_scores`, or the ``attrs`` of a table of scores with "split", the
        name of the split as `published_scores` has it ("sites:" before it is ignored). target, score, units
        and group are compared only if they are there. What else is missing counts as unknown, which cannot be compared.

    Returns
    -------
    (bool, str)
        True and "", or a caveat; or False and "not comparable: ...", with every difference.

    Examples
    --------
    >>> row = published_scores().query("split == 'xbase' and score == 'rmse'").iloc[0]
    >>> comparable(row, {"resolution": "daily", "min_quality": 0.5, "split": "xbase", "aggregation": "mean over sites"})
    (False, 'not comparable: row mask quality >= 1 in the source, quality >= 0.5 here')
    """
    here = _described(own)
    score = _OWN_SCORE.get(str(published["score"]), str(published["score"]))
    expected = {"target": published["target"], "score": score, "group": published["group"]}
    differences = [
        f"{name} {there} in the source, {here[name]} here"
        for name, there in expected.items()
        if name in here and here[name] != there
    ]
    there, units = str(published.get("units", "")), str(own.get("units", ""))
    if score not in _WITHOUT_UNITS and there and units and not same_unit(there, units):
        differences.append(f"units {there} in the source, {units} here")
    names = {"resolution": "time step", "split": "split", "mask": "row mask", "aggregation": "aggregation"}
    for name, words in names.items():
        found = here.get(name, "unknown")
        if found != published[name]:
            differences.append(f"{words} {published[name]} in the source, {found} here")
    if differences:
        return False, "not comparable: " + "; ".join(differences)
    return True, "" if score == published["score"] else "the source does not define its R2; corr2 is set beside it"


def _described(own: Mapping) -> dict[str, str]:
    """Return what is known of one's own score in the words of `published_scores`."""
    out = {str(name): str(own[name]) for name in ("target", "score", "group", "split", "mask") if _known(own, name)}
    out["resolution"] = str(own.get("resolution") or "hourly")  # tables of hourly scores have no such attribute
    if "split" in out:
        out["split"] = out["split"].removeprefix("sites:").lower()
    if _known(own, "aggregation"):
        words = str(own["aggregation"])
        out["aggregation"] = POOLED if "pooled" in words else words
    elif "min_steps" in own:  # a table of site means
        out["aggregation"] = SITE_MEAN
    if "mask" not in out and (limit := _limit(own, out["resolution"])):
        out["mask"] = limit
    return out


def _known(own: Mapping, name: str) -> bool:
    return name in own and own[name] is not None and str(own[name]) not in ("", "nan")


def _limit(own: Mapping, resolution: str) -> str:
    """Return the row mask of the attributes of a table: its limit of quality in words, "" if there is none."""
    row = find_resolution(resolution)
    if row.option not in own:
        return ""
    value = own[row.option]
    if value is None or value == "none":
        return str(row.limit(None))
    return str(row.limit(int(float(str(value))) if row.lower_is_better else float(str(value))))


def own_scores(table: pd.DataFrame, *, split: str | None = None) -> pd.DataFrame:
    """Return the scores of a table of one's own as one row per score, in the columns of `published_scores`.

    Parameters
    ----------
    table : pd.DataFrame
        Table that `fluxcube.compare`, `fluxcube.evaluation.skill.score_table` or
        `fluxcube.evaluation.sitemeans.site_mean_table` returned, with its ``attrs``.
    split : str, optional
        Name of the split; by default the attribute "split" of the table, if there is one.

    Returns
    -------
    pd.DataFrame
        Columns target, units, resolution, split, mask, aggregation, group, model, score, value and n (sites); scores
        that are NaN are left out.

    Raises
    ------
    ConfigError
        If it is another table.
    """
    if missing := {"target", "group", "model", "n_sites"} - set(table):
        raise ConfigError(f"expected a table of scores, as fluxcube.compare returns it, found none of {missing}.")
    columns = _MEAN_COLUMNS if "min_steps" in table.attrs else _POOLED_COLUMNS
    about = _described({**table.attrs, **({} if split is None else {"split": split})})
    fixed = {name: about.get(name, "unknown") for name in ("resolution", "split", "mask")}
    frames = []
    for column, (score, aggregation) in columns.items():
        if column not in table:
            continue
        units = "1" if score in _WITHOUT_UNITS else table.get("units", "")
        rows = table[["target", "group", "model"]].astype(str).assign(units=units, **fixed, aggregation=aggregation)
        frames.append(rows.assign(score=score, value=table[column].astype(float), n=table["n_sites"].astype(float)))
    if not frames:
        raise ConfigError(f"expected a table with a score among {', '.join(columns)}, found none.")
    out = pd.concat(frames, ignore_index=True)
    names = ["target", "units", "resolution", "split", "mask", "aggregation", "group", "model", "score", "value", "n"]
    return out.loc[np.isfinite(out["value"]), names].reset_index(drop=True)


def beside_published(
    table: pd.DataFrame,
    published: pd.DataFrame | None = None,
    *,
    split: str | None = None,
    scores: Sequence[str] = ("nse", "rmse"),
) -> pd.DataFrame:
    """Return one's own scores, and below them the published ones of the same targets, groups and time step.

    Parameters
    ----------
    table, split
        As `own_scores` takes them.
    published : pd.DataFrame, optional
        Published scores; by default all of `published_scores`.
    scores : sequence of str
        Scores to show.

    Returns
    -------
    pd.DataFrame
        Columns source ("this evaluation" for one's own), doi and those of `own_scores`, comparable (bool) and reason.
        If one's own table has an aggregation of the published scores, its other aggregations are left out.
    """
    own = own_scores(table, split=split)
    own = own[own["score"].isin(scores)]
    rows = published_scores() if published is None else published
    named = rows["score"].replace(_OWN_SCORE)
    keys = set(zip(own["target"], own["group"], own["score"], own["resolution"], strict=True))
    shown = [key in keys for key in zip(rows["target"], rows["group"], named, rows["resolution"], strict=True)]
    rows = rows[shown]
    alike = own["aggregation"].isin(set(rows["aggregation"]))
    own = own[alike] if alike.any() else own
    found = [_best_match(row, own) for row in rows.to_dict("records")]
    others = rows.assign(comparable=[yes for yes, _ in found], reason=[why for _, why in found])
    ours = own.assign(source="this evaluation", doi="", comparable=True, reason="")
    columns = ["source", "doi", *own, "comparable", "reason"]
    out = pd.concat([ours[columns], others[columns]], ignore_index=True)
    return out.assign(comparable=out["comparable"].astype(bool))


def _best_match(row: Mapping, own: pd.DataFrame) -> tuple[bool, str]:
    """Return whether any of one's own scores can be compared with a published one, else the shortest reason."""
    score = _OWN_SCORE.get(str(row["score"]), str(row["score"]))
    same = own[(own["target"] == row["target"]) & (own["group"] == row["group"]) & (own["score"] == score)]
    if same.empty:
        return False, f"not comparable: aggregation {row['aggregation']} in the source, another one here"
    found = [comparable(row, one) for one in same.drop_duplicates("aggregation").to_dict("records")]
    return min(found, key=lambda one: (not one[0], len(one[1])))
