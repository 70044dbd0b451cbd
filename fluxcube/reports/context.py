"""Sections on what the scores depend on: drivers, computation, citations and versions."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

import pandas as pd

from fluxcube import __version__
from fluxcube.errors import SchemaError
from fluxcube.plotting.canvas import model_styles
from fluxcube.plotting.points import plot_drivers
from fluxcube.reports.evidence import Evidence
from fluxcube.reports.section import Column, Figure, Section, Table, slug
from fluxcube.stores.origin import origin
from fluxcube.tabletext import counted

#: Power of one busy processor core with its share of memory and cooling (W), from which energy is estimated.
WATTS = 15.0
#: Names in a description of a run that contain measured times of training.
_SECONDS = "seconds"


def compute_section(evidence: Evidence) -> Section:
    """Return the section on the energy and computation that training took."""
    title = "Energy and computation"
    rows = [row for model in evidence.models if (row := _compute_row(model, evidence.records.get(model, ())))]
    if not rows:
        return Section(
            "compute",
            title,
            absent="Not shown: the runs of the models were not passed; pass run folders instead of predictions.",
        )
    data, time, energy = _in_fitting_units(pd.DataFrame(rows))
    columns = [
        Column("model", "model"),
        Column("runs", "trained networks or trees", ",d"),
        Column("timed", "with a recorded time", ",d"),
        Column("time", f"time of training ({time})", ".3g"),
        Column("energy", f"energy, estimate ({energy})", ".2g"),
        *([Column("device", "device")] if any(row["device"] for row in rows) else []),
        Column("versions", "versions"),
    ]
    text = (
        "Times are the wall-clock times that the runs recorded, summed over folds and members; runs without a recorded "
        "time (trees and simple models) are counted only.",
        f"Energy is an estimate, not a measurement: the time multiplied by {WATTS:g} W, the power of one busy "
        "processor core with its share of memory and cooling. A GPU, or training with several cores, uses more.",
    )
    table = Table("compute", "Training that the models took", data, columns)
    return Section("compute", title, text, tables=(table,))


def _in_fitting_units(rows: pd.DataFrame) -> tuple[pd.DataFrame, str, str]:
    """Add time and energy of each model; return the table and the units of both, small ones after short training."""
    hours = rows["hours"]
    if hours.max() * WATTS >= 1000:
        return rows.assign(time=hours, energy=hours * WATTS / 1000), "hours", "kWh"
    return rows.assign(time=60 * hours, energy=hours * WATTS), "minutes", "Wh"


def _compute_row(model: str, records: Sequence[Mapping]) -> dict[str, object]:
    """Return the number of runs of a model, and their recorded time in hours; nothing without runs."""
    if not records:
        return {}
    seconds = [time for record in records if (time := _seconds_of(record)) is not None]
    hours = sum(seconds) / 3600 if seconds else float("nan")
    devices = sorted({str((record.get("training") or {}).get("device", "")) for record in records} - {"", "auto"})
    versions = records[0].get("versions") or {}
    names = [f"{name} {versions[name]}" for name in ("fluxcube", "torch", "xgboost-cpu", "xgboost") if name in versions]
    return {
        "model": model,
        "runs": len(records),
        "timed": len(seconds),
        "hours": hours,
        "device": ", ".join(devices),
        "versions": ", ".join(names),
    }


def _seconds_of(record: Mapping) -> float | None:
    """Return the seconds that the last log entry of a run recorded since its beginning; None without one."""
    history = [entry for entry in record.get("history") or () if isinstance(entry, Mapping) and entry.get(_SECONDS)]
    return max(float(entry[_SECONDS]) for entry in history) if history else None


def citations_section(evidence: Evidence) -> Section:
    """Return the section with the citation of the data of every scored tower."""
    title = "Citations and licences of the data"
    try:
        rows = evidence.cube.fluxcube.citations()
    except SchemaError as error:
        return Section("citations", title, absent=f"Not shown: {error}")
    columns = [
        Column("site", "tower", "site"),
        Column("network", "publication"),
        Column("citation", "citation", "long"),
        Column("doi", "DOI", "doi"),
        Column("site_doi", "DOI of the tower", "doi"),
        Column("licence", "licence"),
    ]
    text = ("Please cite the data of every tower that a result uses; the file citations.bib is beside this page.",)
    table = Table("citations", f"Data of {counted(rows['site'].nunique(), 'tower')}", rows, columns)
    return Section("citations", title, text, tables=(table,))


def provenance_section(evidence: Evidence) -> Section:
    """Return the section on versions, and on what every prediction records of itself."""
    rows = []
    for model in evidence.models:
        attrs = evidence.predictions[model].attrs
        known = {"model": model, "kind": attrs.get("model", ""), "digest": str(attrs.get("model_digest", ""))[:12]}
        known |= {name: str(attrs.get(name, "")) for name in ("predictors", "memory_days", "title")}
        rows.append(known)
    columns = [
        Column("model", "model"),
        Column("kind", "kind"),
        Column("predictors", "predictors"),
        Column("memory_days", "memory (days)"),
        Column("digest", "digest of the weights"),
    ]
    packages = ("numpy", "xarray", "pandas", "torch", "xgboost-cpu", "xgboost")
    versions = [f"{name} {found}" for name in packages if (found := _version(name))]
    text = [f"Made with fluxcube {__version__}, Python {platform.python_version()}, {', '.join(versions)}."]
    attrs = evidence.cube.attrs
    text.append(
        f"Cube: {attrs.get('title', '')}; {evidence.resolution.name}, clock {attrs.get('clock', 'unknown')}, built "
        f"with fluxcube {attrs.get('fluxcube_version', 'unknown')}"
        + "".join(f"; {key} {value}" for key, value in origin(evidence.cube).items())
        + "."
    )
    table = Table("provenance", "What the predictions record", pd.DataFrame(rows), columns)
    return Section("provenance", "Versions and provenance", tuple(text), tables=(table,))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def drivers_section(evidence: Evidence) -> Section:
    """Return the section that compares models driven by the weather of towers and by reanalysis."""
    title = "Tower weather against reanalysis weather"
    pairs = driver_pairs(evidence)
    if not pairs:
        return Section(
            "drivers",
            title,
            absent="Not shown: no model is there twice, driven by the weather of the towers and by reanalysis. Predict "
            'with drivers="tower" and drivers="era5", and pass both.',
        )
    tables = []
    for target in evidence.targets:
        rows = evidence.scores()[evidence.scores()["target"] == target].set_index("model")
        lines = [
            {"model": f"{tower} → {era5}", "n": rows.loc[tower, "n"], "n_sites": rows.loc[tower, "n_sites"]}
            | {f"{s}_tower": rows.loc[tower, s] for s in ("nse", "rmse")}
            | {f"{s}_era5": rows.loc[era5, s] for s in ("nse", "rmse")}
            | {f"{s}_lost": rows.loc[era5, s] - rows.loc[tower, s] for s in ("nse", "rmse")}
            for tower, era5 in pairs
        ]
        columns = [Column("model", "models"), Column("n_sites", "towers", ",d"), Column("n", evidence.steps, ",d")]
        for score, head in (("nse", "NSE"), ("rmse", f"RMSE ({evidence.units(target)})")):
            columns += [
                Column(f"{score}_tower", f"{head}, tower", ".3f"),
                Column(f"{score}_era5", f"{head}, era5", ".3f"),
            ]
            columns.append(Column(f"{score}_lost", "difference", "+.3f"))
        name = f"drivers-{slug(target)}"
        tables.append(
            Table(name, f"{target}: weather of towers and of reanalysis", pd.DataFrame(lines), columns, target)
        )
    text = (
        "A map is driven by reanalysis: the difference is what it loses because its weather is not that of the tower."
    )
    figures = [figure for target in evidence.targets for figure in _driver_figures(evidence, pairs, target)]
    return Section("drivers", title, (text,), tuple(figures), tuple(tables))


def _driver_figures(evidence: Evidence, pairs: Sequence[tuple[str, str]], target: str) -> list[Figure]:
    rows = evidence.scores()[evidence.scores()["target"] == target]
    parts = [
        rows[rows["model"] == name].assign(model=pair[0], drivers=source)
        for pair in pairs
        for name, source in zip(pair, ("tower", "era5"), strict=True)
    ]
    table = pd.concat(parts, ignore_index=True)
    if not table["nse"].notna().any():
        return []
    return [
        Figure(
            f"drivers-{slug(target)}",
            f"{target}: NSE with the weather of the tower (filled) and of the reanalysis (hollow).",
            f"Points of the NSE of every model for {target} with two sources of weather.",
            lambda: plot_drivers(table, target=target, styles=model_styles(evidence.models)),
            target,
        )
    ]


def driver_pairs(evidence: Evidence) -> list[tuple[str, str]]:
    """Return pairs of models of one kind: driven by the weather of towers, and by reanalysis.

    The attribute `drivers` of predictions records the source. Models form a pair if their labels are the same without
    the words tower, era5 and reanalysis.
    """
    found: dict[str, dict[str, str]] = {}
    for model in evidence.models:
        source = str(evidence.predictions[model].attrs.get("drivers", "tower"))
        words = [w for w in model.lower().replace("(", " ").replace(")", " ").replace(",", " ").split()]
        base = " ".join(w for w in words if w not in ("tower", "era5", "reanalysis", "weather"))
        found.setdefault(base, {}).setdefault("tower" if source == "tower" else "era5", model)
    return [(one["tower"], one["era5"]) for one in found.values() if len(one) == 2]
