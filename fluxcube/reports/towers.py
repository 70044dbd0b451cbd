"""Sections on single towers: the map with their series, the worst ten, and the nearest training towers."""

from __future__ import annotations

import functools
import json

import numpy as np
import pandas as pd

from fluxcube.evaluation.neighbours import error_by_distance, nearest_training_tower
from fluxcube.evaluation.series import series_json
from fluxcube.plotting.canvas import model_styles, new_axes
from fluxcube.plotting.curves import plot_rank, plot_series
from fluxcube.plotting.points import plot_by_distance
from fluxcube.plotting.towers import plot_site_map
from fluxcube.reports.evidence import Evidence
from fluxcube.reports.section import Column, Figure, Section, Table, score_columns, slug
from fluxcube.tabletext import counted

#: Number of towers that the section on the worst ones lists.
_WORST = 10
#: Minimum number of scored time steps of a tower that can be among the worst.
_MIN_STEPS = 30
#: Distance (km) below which a training tower is reported as near.
_NEAR_KM = 50.0


def map_section(evidence: Evidence) -> Section:
    """Return the section with the map of towers, their series, and the scores of every tower."""
    text = (
        "Choose a score and a model, or the difference between two models; click a tower, or choose it from the list, "
        "to see its series below the map. The table contains the scores of every tower.",
    )
    tables = [_site_table(evidence, target) for target in evidence.targets]
    figures = [figure for target in evidence.targets for figure in _map_figures(evidence, target)]
    return Section("towers", "Towers: map and series", text, tuple(figures), tuple(tables), widget="map")


def _map_figures(evidence: Evidence, target: str) -> list[Figure]:
    """Return the distribution of the scores of towers, and the map as files: the page has its own."""
    scores, best = evidence.sites, evidence.best[target]
    rows = scores[(scores["target"] == target) & (scores["n"] >= _MIN_STEPS)]
    if not rows["nse"].notna().any():
        return []
    out = [
        Figure(
            f"rank-{slug(target)}",
            f"{target}: NSE of the towers from the worst to the best.",
            f"Cumulative distribution of the NSE of the towers for {target}, a line for each model.",
            lambda: plot_rank(rows, target=target, styles=model_styles(evidence.models), ax=new_axes(None, (8.5, 4.5))),
            target,
            wide=True,
        )
    ]
    pairs: dict[str, str | None] = {f"map-{slug(target)}": None}
    if evidence.against and evidence.against != best:
        pairs[f"map-difference-{slug(target)}"] = evidence.against
    placed = {"latitude", "longitude"} <= set(rows) and np.isfinite(rows["latitude"].astype(float)).any()
    for name, against in pairs.items() if placed else ():
        out.append(
            Figure(
                name,
                f"{target}: NSE of {best}{f' minus that of {against}' if against else ''} at every tower.",
                f"Map of the towers, coloured by the NSE of {best} for {target}.",
                functools.partial(plot_site_map, rows, target=target, model=best, against=against),
                target,
                on_page=False,
            )
        )
    return out


def _site_table(evidence: Evidence, target: str) -> Table:
    """Return a row per tower: its class, place, n, and the NSE of every model."""
    rows = evidence.sites[(evidence.sites["target"] == target) & (evidence.sites["n"] > 0)]
    wide = rows.drop_duplicates("site").reset_index(drop=True)
    columns = [Column("site", "tower", "site")]
    columns += [Column(c, h) for c, h in (("igbp", "class"), ("koppen", "climate")) if c in wide]
    columns.append(Column("n", evidence.steps, ",d"))
    for score, heading in (("nse", "NSE"), ("rmse", "RMSE")):
        for model in evidence.models:
            one = rows[rows["model"] == model].set_index("site")[score].reindex(wide["site"])
            wide[f"{model} {score}"] = one.to_numpy()
            columns.append(Column(f"{model} {score}", f"{heading} {model}", ".3f" if score == "nse" else ".2f"))
    order = wide[f"{evidence.best[target]} nse"].sort_values(ascending=False, na_position="last").index
    caption = f"{target}: scores of every tower; RMSE in {evidence.units(target) or 'its units'}"
    return Table(f"sites-{slug(target)}", caption, wide.loc[order], columns, target)


def worst_section(evidence: Evidence) -> Section:
    """Return the section on the ten towers at which the best model is worst."""
    title = "Worst ten towers"
    tables: list[Table] = []
    figures: list[Figure] = []
    for target in evidence.targets:
        best = evidence.best[target]
        rows = evidence.sites[(evidence.sites["target"] == target) & (evidence.sites["n"] >= _MIN_STEPS)]
        worst = rows[(rows["model"] == best) & rows["nse"].notna()].nsmallest(_WORST, "nse")
        if not len(worst):
            continue
        columns = [Column("site", "tower", "site")]
        columns += [Column(c, h) for c, h in (("igbp", "class"), ("koppen", "climate")) if c in worst]
        columns += score_columns(("nse", "rmse", "bias", "corr2"), worst, units=evidence.units(target))
        columns.append(Column("n", evidence.steps, ",d"))
        caption = f"{target}: the ten towers with the lowest NSE of {best}"
        tables.append(Table(f"worst-{slug(target)}", caption, worst, columns, target))
        figures += _worst_series(evidence, target, [str(site) for site in worst["site"]])
    if not tables:
        return Section("worst", title, absent=f"Not shown: no tower has {_MIN_STEPS} scored time steps and an NSE.")
    text = (
        "A low NSE can have three causes: errors of the model, errors of the observations, and observations that "
        f"hardly vary. Towers with fewer than {_MIN_STEPS} scored {evidence.steps} are left out. Click a tower to see "
        "its series.",
    )
    return Section("worst", title, text, tuple(figures), tuple(tables))


def _worst_series(evidence: Evidence, target: str, sites: list[str]) -> list[Figure]:
    """Return the series of the worst towers; nothing if none has a period with enough values."""
    data = evidence.series[target]
    known = [site for site in sites if np.isfinite(data.sel(site=site).values).any()]
    if not known:
        return []
    best = evidence.best[target]
    models = list(dict.fromkeys([best, evidence.against or best]))
    return [
        Figure(
            f"worst-{slug(target)}",
            f"{target}: observations (dots) and predictions at the worst towers, the worst first.",
            f"Series of {target} at {', '.join(known)}: observations, {', '.join(models)}.",
            lambda: plot_series(
                evidence.series, target=target, sites=known, models=models, styles=model_styles(evidence.models)
            )[0],
            target,
            wide=True,
        )
    ]


def leakage_section(evidence: Evidence) -> Section:
    """Return the section on the distance of scored towers from the training towers of the models."""
    title = "Leakage check: nearest training towers"
    if not evidence.seen:
        return _marked_only(evidence, title)
    if not {"latitude", "longitude"} <= set(evidence.cube.coords):
        return Section("leakage", title, absent="Not checked: the towers have no latitude and longitude.")
    near = nearest_of(evidence)
    summary = _summary(near)
    columns = [
        Column("model", "model"),
        Column("n_sites", "scored towers", ",d"),
        Column("same_site", "trained on the tower itself", ",d"),
        Column("near", f"training tower within {_NEAR_KM:g} km", ",d"),
        Column("median_km", "median distance (km)", ",.0f"),
        Column("minimum_km", "smallest distance (km)", ",.1f"),
    ]
    tables = [Table("leakage", "Distance of scored towers from training towers", summary, columns, latex=True)]
    closest = near.sort_values(["same_site", "distance_km"], ascending=[False, True])
    closest = closest.drop_duplicates("site")
    columns = [
        Column("site", "tower", "site"),
        Column("nearest", "nearest training tower"),
        Column("distance_km", "distance (km)", ",.1f"),
        Column("same", "trained on it"),
    ]
    closest = closest.assign(same=np.where(closest["same_site"], "yes", "no"))
    tables.append(Table("nearest", "Nearest training tower of every scored tower, of any model", closest, columns))
    figures = [figure for target in evidence.targets for figure in _distance_figures(evidence, near, target)]
    return Section("leakage", title, (_verdict(near, evidence.in_time),), tuple(figures), tuple(tables))


def _distance_figures(evidence: Evidence, near: pd.DataFrame, target: str) -> list[Figure]:
    scores = evidence.sites[(evidence.sites["target"] == target) & (evidence.sites["n"] >= _MIN_STEPS)]
    table = error_by_distance(scores.assign(units=evidence.sums.units_of(target)), near)
    if not len(table) or not table["nse"].notna().any():
        return []
    return [
        Figure(
            f"distance-{slug(target)}",
            f"{target}: median NSE of towers by the distance of the nearest training tower (10th to 90th percentile).",
            f"Points of the median NSE of every model for {target} in classes of distance.",
            lambda: plot_by_distance(table, target=target, styles=model_styles(evidence.models)),
            target,
        )
    ]


def _marked_only(evidence: Evidence, title: str) -> Section:
    """Return the section where training towers are not known, except that predictions may mark the scored ones."""
    absent = (
        "Distances are not checked: the towers that the models were trained on are not known. Pass the runs, or the "
        "split of the predictions."
    )
    marks = [one["in_training"] for one in evidence.predictions.values() if "in_training" in one.coords]
    if not marks:
        return Section("leakage", title, absent=absent)
    scored = {str(site) for site in evidence.cube["site"].values}
    same = sorted({str(s) for mark in marks for s in mark["site"].values[mark.values.astype(bool)]} & scored)
    text = _leak(same) if same else "No scored tower is marked as a training tower by the predictions (in_training)."
    return Section("leakage", title, (text,), absent=absent)


def nearest_of(evidence: Evidence) -> pd.DataFrame:
    """Return the nearest training tower of every scored tower that was predicted without it, by model."""
    found = nearest_training_tower(evidence.cube, evidence.seen, towers=evidence.towers)
    known = [site in evidence.seen[model] for model, site in zip(found["model"], found["site"], strict=True)]
    return found[np.array(known, bool)].reset_index(drop=True)


def _summary(near: pd.DataFrame) -> pd.DataFrame:
    groups = near.groupby("model", sort=False)
    return pd.DataFrame(
        {
            "n_sites": groups.size(),
            "same_site": groups["same_site"].sum(),
            "near": groups["distance_km"].apply(lambda km: int((km < _NEAR_KM).sum())),
            "median_km": groups["distance_km"].median(),
            "minimum_km": groups["distance_km"].min(),
        }
    ).reset_index()


def _verdict(near: pd.DataFrame, in_time: bool) -> str:
    """Return the result of the check in one sentence."""
    same = sorted(set(near.loc[near["same_site"], "site"]))
    close = sorted(set(near.loc[(near["distance_km"] < _NEAR_KM) & ~near["same_site"], "site"]))
    if same and in_time:
        return (
            f"The split is in time: models were trained on {counted(len(same), 'scored tower')} in other periods, so "
            "that scores are those of known towers in unknown years."
        )
    if same:
        return _leak(same)
    if close:
        return (
            f"No scored tower is a training tower, but training towers are within {_NEAR_KM:g} km of "
            f"{counted(len(close), 'scored tower')} "
            f"({', '.join(close[:10])}{' ...' if len(close) > 10 else ''}), whose scores may be too high."
        )
    return f"No scored tower is a training tower, and none has a training tower within {_NEAR_KM:g} km."


def page_data(evidence: Evidence) -> dict[str, object]:
    """Return the data of the interactive part of the page, as JSON can represent them.

    Returns
    -------
    dict
        models, targets, units by target, sites (name, class, place and a line of facts), scores (target, score, site,
        model), step ("8D" or "month") and series by target: the scale, and for each tower the days since 1970 (t) and
        the values (v) of the observations and of each model, divided by the scale.
    """
    sites = evidence.sites.drop_duplicates("site").reset_index(drop=True)
    names = [str(site) for site in sites["site"]]
    near = nearest_of(evidence) if evidence.seen and {"latitude", "longitude"} <= set(evidence.cube.coords) else None
    return {
        "models": list(evidence.models),
        "targets": list(evidence.targets),
        "units": {target: evidence.units(target) for target in evidence.targets},
        "sites": [
            {"site": str(row["site"]), "igbp": str(row.get("igbp", "")), "facts": _facts(row, near)}
            for row in sites.to_dict("records")
        ],
        "scores": {target: _site_scores(evidence, target, names) for target in evidence.targets},
        **_series(evidence),
    }


def _facts(row: dict, near: pd.DataFrame | None) -> str:
    """Return a line on one tower: class, climate, place, networks, and the nearest training tower."""
    parts = [str(row[name]) for name in ("igbp", "koppen") if row.get(name)]
    if np.isfinite(row.get("latitude", np.nan)) and np.isfinite(row.get("longitude", np.nan)):
        north, east = float(row["latitude"]), float(row["longitude"])
        parts.append(f"{abs(north):.2f}° {'N' if north >= 0 else 'S'}, {abs(east):.2f}° {'E' if east >= 0 else 'W'}")
    if np.isfinite(row.get("elevation", np.nan)):
        parts.append(f"{row['elevation']:.0f} m")
    parts += [str(row["network"]).replace(";", ", ")] if row.get("network") else []
    if near is not None:
        one = near[near["site"] == str(row["site"])]
        if len(one) and np.isfinite(one["distance_km"].iloc[0]):
            parts.append(f"nearest training tower {one['nearest'].iloc[0]}, {one['distance_km'].iloc[0]:,.0f} km")
    return "; ".join(parts)


def _site_scores(evidence: Evidence, target: str, names: list[str]) -> dict[str, list]:
    """Return each score as lists (site, model)."""
    rows = evidence.sites[evidence.sites["target"] == target]
    out = {}
    for score in ("nse", "rmse", "bias", "corr2"):
        wide = rows.pivot(index="site", columns="model", values=score).reindex(names)[list(evidence.models)]
        out[score] = [[_rounded(value) for value in line] for line in wide.to_numpy(float)]
    return out


def _series(evidence: Evidence) -> dict[str, object]:
    """Return the series of all towers by flux, and the length of their periods."""
    out = {}
    for target in evidence.targets:
        one = json.loads(series_json(evidence.series, target))
        sites = {site.pop("site"): site for site in one["sites"]}
        out[target] = {"scale": one["scale"], "sites": sites}
    return {"step": evidence.series.attrs["step"], "series": out}


def _rounded(value: float) -> float | None:
    """Return a number with three significant digits, and at most three decimals; None if it is missing."""
    if not np.isfinite(value):
        return None
    return round(float(f"{value:.3g}"), 3)


def _leak(same: list[str]) -> str:
    return (
        f"Leakage: models were trained on {counted(len(same), 'tower')} that they predict "
        f"({', '.join(same[:10])}{' ...' if len(same) > 10 else ''}); these scores are not those of new places."
    )
