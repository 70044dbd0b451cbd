"""Sections on single towers: the map with their series, the worst ten, and the nearest training towers."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from fluxcube.evaluation.neighbours import nearest_training_tower
from fluxcube.evaluation.series import series_json, site_series
from fluxcube.reports.evidence import Evidence
from fluxcube.reports.section import Column, Section, Table, score_columns

#: Number of towers that the section on the worst ones lists.
_WORST = 10
#: Minimum number of scored time steps of a tower that can be among the worst.
_MIN_STEPS = 30
#: Maximum number of values of the series that a page contains; finer series are left out.
_MAX_VALUES = 400_000
#: Distance (km) below which a training tower is reported as near.
_NEAR_KM = 50.0


def map_section(evidence: Evidence) -> Section:
    """Return the section with the map of towers, their series, and the scores of every tower."""
    text = (
        "Choose a score and a model, or the difference between two models; click a tower, or choose it from the list, "
        "to see its series below the map. The table contains the scores of every tower.",
    )
    tables = [_site_table(evidence, target) for target in evidence.targets]
    return Section("towers", "Towers: map and series", text, tables=tuple(tables), widget="map")


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
    return Table(f"sites-{target.lower().replace('_', '-')}", caption, wide.loc[order], columns, target)


def worst_section(evidence: Evidence) -> Section:
    """Return the section on the ten towers at which the best model is worst."""
    title = "Worst ten towers"
    tables = []
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
        tables.append(Table(f"worst-{target.lower().replace('_', '-')}", caption, worst, columns, target))
    if not tables:
        return Section("worst", title, absent=f"Not shown: no tower has {_MIN_STEPS} scored time steps and an NSE.")
    text = (
        "A low NSE can have three causes: errors of the model, errors of the observations, and observations that "
        f"hardly vary. Towers with fewer than {_MIN_STEPS} scored {evidence.steps} are left out. Click a tower to see "
        "its series.",
    )
    return Section("worst", title, text, tables=tuple(tables))


def leakage_section(evidence: Evidence) -> Section:
    """Return the section on the distance of scored towers from the training towers of the models."""
    title = "Leakage check: nearest training towers"
    if not evidence.seen:
        return Section(
            "leakage",
            title,
            absent="Not checked: the predictions do not record which towers the models were trained on. Pass the runs, "
            "or the split of the predictions.",
        )
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
    return Section("leakage", title, (_verdict(near),), tables=tuple(tables))


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


def _verdict(near: pd.DataFrame) -> str:
    """Return the result of the check in one sentence."""
    same = sorted(set(near.loc[near["same_site"], "site"]))
    close = sorted(set(near.loc[(near["distance_km"] < _NEAR_KM) & ~near["same_site"], "site"]))
    if same:
        return (
            f"Leakage: {len(same)} scored towers are training towers of a model that predicted them "
            f"({', '.join(same[:10])}{' ...' if len(same) > 10 else ''}); their scores are not those of new places."
        )
    if close:
        return (
            f"No scored tower is a training tower; {len(close)} have a training tower within {_NEAR_KM:g} km "
            f"({', '.join(close[:10])}{' ...' if len(close) > 10 else ''}), so that their scores may be too high."
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
        parts.append(f"{row['latitude']:.2f}° N, {row['longitude']:.2f}° E".replace("-", "−"))
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
    """Return the series of all towers by flux: of 8 days, or of months if those would be too many values."""
    data = site_series(evidence.rows, step="8D")
    if sum(int(np.isfinite(data[name].values).sum()) for name in data.data_vars) > _MAX_VALUES:
        data = site_series(evidence.rows, step="month")
    out = {}
    for target in evidence.targets:
        one = json.loads(series_json(data, target))
        sites = {site.pop("site"): site for site in one["sites"]}
        out[target] = {"scale": one["scale"], "sites": sites}
    return {"step": data.attrs["step"], "series": out}


def _rounded(value: float) -> float | None:
    """Return a number with three significant digits, and at most three decimals; None if it is missing."""
    if not np.isfinite(value):
        return None
    return round(float(f"{value:.3g}"), 3)
