"""Write a report: the page, its tables as CSV, NetCDF and LaTeX, its figures as PNG and SVG, and the citations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

import fluxcube
from fluxcube.cubes.selection import Cube, as_cube
from fluxcube.errors import ConfigError, SchemaError, StoreError, missing_package, overwrite_option
from fluxcube.evaluation.common_rows import OBSERVED
from fluxcube.evaluation.sums import QualityOptions
from fluxcube.maps.store import Maps, as_maps
from fluxcube.reports import behaviour, context, paper, reference, scales, scores, towers
from fluxcube.reports.evidence import Evidence, evidence_of
from fluxcube.reports.folds import describe_splits, kind_of, scored_towers, seen_by
from fluxcube.reports.gather import Gathered, ModelInput, Progress, check_models, gather, in_memory, ladder, records_of
from fluxcube.reports.latex import latex_table
from fluxcube.reports.page import Picture, picture, render
from fluxcube.reports.scoretable import score_dataset, score_frame
from fluxcube.reports.section import Section, slug
from fluxcube.resolution import DEFAULT, Default, quality_limit, resolution_of
from fluxcube.samples.splits import Split, load_folds
from fluxcube.stores.files import names_disk_errors, replacing

#: Sections of the page, in their order.
SECTIONS: tuple[Callable[[Evidence], Section], ...] = (
    scores.rows_section,
    scores.scores_section,
    towers.map_section,
    behaviour.density_section,
    behaviour.cycles_section,
    scales.scales_section,
    behaviour.interannual_section,
    behaviour.reliability_section,
    towers.leakage_section,
    context.drivers_section,
    behaviour.carbon_section,
    scales.subsets_section,
    behaviour.applicability_section,
    reference.ceiling_section,
    paper.zero_shot_section,
    towers.worst_section,
    paper.paper_section,
    reference.published_section,
    context.compute_section,
    context.citations_section,
    context.provenance_section,
)


@names_disk_errors("out")
def report(
    models: Mapping[str, ModelInput],
    cube: Cube,
    out: str | Path,
    *,
    maps: Mapping[str, Maps] | None = None,
    products: Mapping[str, Maps] | None = None,
    split: str | Path | Split | Sequence[Split] | None = None,
    baselines: bool | Sequence[str] = False,
    part: str = "test",
    targets: Sequence[str] | None = None,
    against: str | None = None,
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
    clusters: float = 50.0,
    draws: int = 1000,
    seed: int = 0,
    runs: Mapping[str, Sequence[str | Path]] | None = None,
    title: str | None = None,
    allow_missing: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Score models, maps and products at towers on the same rows, and write a page that opens without a network.

    Parameters
    ----------
    models : mapping of str
        By label: a run (its folder, or the name of a shipped model), which predicts the towers of a part of its own
        split; a NetCDF file of predictions; a Dataset of predictions; a folder of runs or of such files; or a sequence
        of these, one for each fold, whose towers are joined.
    cube : xr.Dataset, path or URL
        Cube with the measured fluxes, and with the inputs of the runs.
    out : path
        Folder to write: ``report.html``, ``scores.csv``, ``scores.nc``, ``citations.bib``, ``tables/*.tex``,
        ``figures/*.png`` and ``*.svg``, and ``predictions/*.nc`` of the runs.
    maps, products : mapping of str to xr.Dataset, path or URL, optional
        Maps and products by label, which are sampled at the towers (`fluxcube.sample_at_sites`). Paths are opened as
        `fluxcube.open_maps` does; `fluxcube.open_product` has further options for products.
    split : path, Split or sequence of Split, optional
        Split, or folds, of predictions that are passed without their runs, for the leakage check and scored periods.
    baselines : bool or sequence of str
        Whether to train the ladder of baselines (`fluxcube.baselines.fit_baselines`), or some of them, on the training
        towers of the same split, and to show them beside the models.
    part : {"test", "val", "train", "all"}
        Part of a run's split whose towers it predicts.
    targets : sequence of str, optional
        Fluxes; by default all that every model predicts and the cube has.
    against : str, optional
        Model from which differences are computed; by default the first.
    max_qc, min_quality
        Limit of quality of the observations, as `fluxcube.evaluate` takes it.
    clusters : float
        Distance (km) within which towers are in one cluster of the intervals; 0: single towers.
    draws, seed : int
        Number of resampled sets of towers (0: no intervals), and their seed.
    runs : mapping of str to sequence of path, optional
        Run folders of models that are passed as predictions, from which the time of training is read.
    title : str, optional
        Title of the page.
    allow_missing : bool
        Whether inputs of a run that the cube does not have are treated as missing.
    overwrite : bool
        Whether to replace an earlier report.
    progress : callable, optional
        ``progress(done, total, text)``.

    Returns
    -------
    Path
        ``report.html``.

    Raises
    ------
    StoreError
        If the folder contains a report and `overwrite` is false, its parent does not exist, or a path has no model.
    ConfigError
        If no model is passed, a label is there twice, or the models and the cube have no tower in common.
    SchemaError
        If the models and the cube have no flux or time step in common.

    Examples
    --------
    >>> import fluxcube as fc
    >>> fc.report({"eco": "runs/eco", "trees": "runs/xgb"}, cube, "report")  # doctest: +SKIP
    """
    cube = as_cube(cube)
    if not models and not maps and not products:
        raise ConfigError("nothing to report: expected at least one model, map or product by label, found none.")
    quality_limit(resolution_of(cube), max_qc, min_quality, default=None)  # refused before anything is written
    _check_labels([*models, *(maps or {}), *(products or {})])
    grids = {label: as_maps(one) for label, one in {**(maps or {}), **(products or {})}.items()}
    check_models(models)
    folder = _prepared(Path(out), overwrite)
    options: dict[str, Any] = {"part": part, "allow_missing": allow_missing, "progress": progress}
    gathered = {
        label: gather(label, one, cube, folder / "predictions", name=f"{i}-{slug(label)}", **options)
        for i, (label, one) in enumerate(models.items(), 1)
    }
    gathered |= _sampled(grids, cube)
    passed = _splits(split)
    splits = passed or next((one.splits for one in gathered.values() if one.splits), ())
    if baselines:
        found = _targets(gathered, cube, targets)
        chosen = None if baselines is True else list(baselines)
        rungs = ladder(cube, splits, found, folder / "baselines", models=chosen, part=part, progress=progress)
        gathered |= {label: one for label, one in rungs.items() if label not in gathered}
    scored = scored_towers(cube, gathered, splits, part)
    records = {label: one.records for label, one in gathered.items()}
    records |= {label: records_of(paths) for label, paths in (runs or {}).items()}
    limits: QualityOptions = {}
    if max_qc != DEFAULT:
        limits["max_qc"] = max_qc
    if min_quality != DEFAULT:
        limits["min_quality"] = min_quality
    evidence = evidence_of(
        scored,
        in_memory({label: _only(one.predictions, targets) for label, one in gathered.items()}, scored),
        seen=seen_by(gathered, passed, [str(site) for site in scored["site"].values]),
        limits=limits,
        against=against,
        draws=draws,
        clusters=clusters,
        seed=seed,
        records=records,
        towers=_places(cube),
        split=describe_splits(splits),
        split_kind=kind_of(splits[0]) if splits else "",
        left_out=_left_out(gathered, cube, targets),
        in_time=any(one.periods for one in splits),
        title=title or f"{', '.join(gathered)} at towers",
    )
    return write_report(evidence, folder, progress=progress)


def _prepared(folder: Path, overwrite: bool) -> Path:
    """Make the folder of a report; refuse to replace one unless `overwrite` is set (StoreError)."""
    if not folder.absolute().parent.is_dir():
        raise StoreError(f"{folder}: its parent folder does not exist; make it first.")
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder} is a file: pass a folder for the report.")
    if (folder / "report.html").exists() and not overwrite:
        raise StoreError(f"{folder} contains a report: pass {overwrite_option()}, or another folder.")
    folder.mkdir(exist_ok=True)
    return folder


def _check_labels(labels: Sequence[str]) -> None:
    """Refuse a label that is there twice, or that is the name of the observations (ConfigError)."""
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise ConfigError(f"{twice[0]} is the label of two models, maps or products: give them different labels.")
    if bad := [label for label in labels if label == OBSERVED or not label.strip()]:
        raise ConfigError(f"the label {bad[0]!r} cannot be that of a model: choose another one.")


def _sampled(maps: Mapping[str, xr.Dataset], cube: xr.Dataset) -> dict[str, Gathered]:
    """Return maps and products sampled at the towers of the cube."""
    if not maps:
        return {}
    sample: Any = fluxcube.sample_at_sites
    return {label: Gathered(sample(one, cube)) for label, one in maps.items()}


def _splits(split: str | Path | Split | Sequence[Split] | None) -> tuple[Split, ...]:
    if split is None:
        return ()
    if isinstance(split, Split):
        return (split,)
    return tuple(load_folds(split)) if isinstance(split, str | Path) else tuple(split)


def _only(predictions: xr.Dataset, targets: Sequence[str] | None) -> xr.Dataset:
    """Return predictions of some fluxes, with their standard deviations and what belongs to no flux."""
    if targets is None:
        return predictions
    beside = {f"{target}{end}" for target in targets for end in ("", "_std", "_spread")}
    beside |= {"dissimilarity", "applicable"}
    return predictions[[name for name in predictions.data_vars if name in beside]]


def _targets(gathered: Mapping[str, Gathered], cube: xr.Dataset, targets: Sequence[str] | None) -> list[str]:
    """Return the fluxes that every model predicts and the cube has; those of `targets` if they are passed."""
    if targets is not None:
        return list(targets)
    common = [str(name) for name in cube["target"].values]
    return [name for name in common if all(name in one.predictions for one in gathered.values())]


def _left_out(gathered: Mapping[str, Gathered], cube: xr.Dataset, targets: Sequence[str] | None) -> tuple[str, ...]:
    """Return the fluxes of the cube that some models predict, but not all."""
    found = [set(map(str, one.predictions.data_vars)) for one in gathered.values()]
    known = [str(name) for name in cube["target"].values if targets is None or name in targets]
    return tuple(name for name in known if any(name in one for one in found) and not all(name in one for one in found))


def _places(cube: xr.Dataset) -> xr.Dataset:
    """Return name, place and class of every tower of a cube."""
    names = [name for name in ("site", "latitude", "longitude", "igbp") if name in cube.coords]
    return cube[names].reset_coords(drop=False)[names].set_coords(names).compute()


@names_disk_errors("folder")
def write_report(evidence: Evidence, folder: str | Path, *, progress: Progress | None = None) -> Path:
    """Write the page of evidence, its tables and its figures into a folder that exists.

    Parameters
    ----------
    evidence : Evidence
        What the report is written from.
    folder : path
        Folder to write; files of an earlier report are replaced.
    progress : callable, optional
        ``progress(done, total, text)``, per section.

    Returns
    -------
    Path
        ``report.html``, which is written last.
    """
    folder = Path(folder)
    sections: list[Section] = []
    pictures: dict[str, str] = {}
    for i, make in enumerate(SECTIONS):
        if progress is not None:
            progress(i, len(SECTIONS), make.__name__.removesuffix("_section"))
        section = make(evidence)
        drawn = {figure.name: made for figure in section.figures if (made := picture(figure)) is not None}
        pictures |= {name: made.inline for name, made in drawn.items()}
        shown = tuple(figure for figure in section.figures if figure.name in drawn and figure.on_page)
        sections.append(dataclasses.replace(section, figures=shown))
        _write_figures(drawn, folder / "figures")
    _write_tables(sections, folder / "tables")
    _write_scores(evidence, folder)
    with replacing(folder / "report.html") as temporary:
        temporary.write_text(render(sections, evidence, pictures), "utf-8")
    return folder / "report.html"


def _write_figures(drawn: Mapping[str, Picture], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name, made in drawn.items():
        for ending, content in (("svg", made.svg), ("png", made.png)):
            with replacing(folder / f"{name}.{ending}") as temporary:
                temporary.write_bytes(content)


def _write_tables(sections: Sequence[Section], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for table in (table for section in sections for table in (*section.first, *section.tables) if table.latex):
        with replacing(folder / f"{table.name}.tex") as temporary:
            temporary.write_text(latex_table(table), "utf-8")


def _write_scores(evidence: Evidence, folder: Path) -> None:
    frame = score_frame(evidence)
    with replacing(folder / "scores.csv") as temporary:
        frame.to_csv(temporary, index=False)
    with replacing(folder / "scores.nc") as temporary:
        try:
            score_dataset(frame, evidence.sums.attrs).to_netcdf(temporary, engine="netcdf4")
        except ImportError:
            raise missing_package("netcdf4", "grid", "writing scores.nc") from None
    try:
        text = evidence.cube.fluxcube.citations("bibtex")
    except SchemaError:
        return  # a cube without citations
    with replacing(folder / "citations.bib") as temporary:
        temporary.write_text(text + "\n", "utf-8")
