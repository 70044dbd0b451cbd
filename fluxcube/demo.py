"""The whole pipeline on a simulated planet: raw files, cube, training, scores, maps, and a comparison with the truth.

The module only combines functions of the library. `recipes/demo` contains its parameters.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.catalog import open_carbonsense
from fluxcube.cubes.carbonsense import build_carbonsense
from fluxcube.cubes.forcing import open_forcing
from fluxcube.cubes.forcing_store import write_forcing
from fluxcube.errors import ConfigError, MissingPackageError, StoreError, missing_package, overwrite_option, to_type
from fluxcube.evaluation.report import format_table, write_report
from fluxcube.evaluation.skill import compare
from fluxcube.inference.grid import upscale
from fluxcube.inference.loading import load_model
from fluxcube.inference.outputs import APPLICABLE
from fluxcube.inference.predictor import DISSIMILARITY, Predictor
from fluxcube.inference.towers import predict
from fluxcube.maps.store import open_maps, write_maps
from fluxcube.plotting.maps import plot_map
from fluxcube.simulation import Planet, truth, write_raw
from fluxcube.stores.files import names_disk_errors, write_csv, write_text
from fluxcube.timestamps import HOUR
from fluxcube.training.config import TrainingConfig
from fluxcube.training.fit import fit
from fluxcube.training.run import Run

if TYPE_CHECKING:
    from fluxcube.models.ecoperceiver import EcoPerceiverConfig

#: Predictors that towers and reanalysis both have. Their trailing means inform a model of the weather of past weeks.
PREDICTORS = ("DOY", "TOD", "TA", "SW_IN", "VPD", "P", "SW_IN_POT")
MEMORY_DAYS = (1, 7, 30)
TARGETS = ("NEE", "GPP_NT")
STATIC = ("igbp",)
#: Days between the views of surface reflectance that are written: daily ones would take minutes.
EVERY = 8

#: Members of EcoPerceiver's ensemble, which two cores train side by side.
SEEDS = 2
MODELS = ("ecoperceiver", "xgboost", "sw-linear", "mean-cycle")
#: Simple models that every demo has, too.
BASELINES = MODELS[2:]
#: The mean of EcoPerceiver and XGBoost, opened as one model; its maps are the product of the demo.
MIXED, MEMBERS = "mixed", ("ecoperceiver", "xgboost")
#: What `model` may be: one of the two, with its maps as the product, or both and their mean.
CHOICES = (*MEMBERS, "both")
#: Packages that the demo needs beyond the required ones: the models that need them ("" for all), and their extra.
_PACKAGES = {
    "torch": ("ecoperceiver", "train"),
    "xgboost": ("xgboost", "train"),
    "rasterio": ("", "grid"),
    "netCDF4": ("", "grid"),
    "matplotlib": ("", "plot"),
}

#: File that marks the folder of a demo, so that `overwrite` never removes any other folder.
_MARK = "demo.json"


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """Results of a demo.

    Attributes
    ----------
    out : Path
        Folder with all files: raw files, `carbonsense.zarr`, `runs/`, `maps.zarr`, figures, `scores.md`.
    towers : pandas.DataFrame
        Scores on held-out towers, per IGBP class, target and model.
    skill : pandas.DataFrame
        Hourly scores of each model's map against the truth, on cells without a tower.
    trust : pandas.DataFrame
        For each model, whether its errors are larger where the map is dissimilar to the training data, on the same
        cells: rank correlation of mean absolute error and mean dissimilarity, and share of cells and hours within the
        area of applicability.
    seconds : dict
        Duration of each stage (s).
    """

    out: Path
    towers: pd.DataFrame
    skill: pd.DataFrame
    trust: pd.DataFrame
    seconds: dict[str, float]

    @property
    def text(self) -> str:
        """The tables and durations as Markdown."""
        stages = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in self.seconds.items())
        return (
            f"## NSE on held-out towers, measured hours, per IGBP class\n\n{_side_by_side(self.towers)}\n\n"
            f"## Maps against the truth, hourly, on cells without a tower\n\n{format_table(self.skill)}\n\n"
            f"## Are errors larger where maps are dissimilar to the training days?\n\n{_trusted(self.trust)}\n\n"
            f"{sum(self.seconds.values()):.0f} s: {stages}. Everything is in {self.out}/.\n"
        )


@names_disk_errors("out")
def run_demo(
    out: str | Path = "demo",
    *,
    seed: int = 0,
    quick: bool = False,
    model: str = "both",
    from_services: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
    log: Callable[[str], object] | None = None,
) -> DemoResult:
    """Run the whole pipeline on a simulated planet, from raw files to scored maps.

    Parameters
    ----------
    out : path
        Folder to write.
    seed : int
        Random seed of the planet's weather, of the split and of training.
    quick : bool
        Use a smaller planet and shorter training. This tests that the pipeline runs; the scores mean nothing.
    model : {"both", "ecoperceiver", "xgboost"}
        Model to train beside two simple ones; XGBoost needs no torch. The maps of the mean of both, or those of the
        only one, are drawn.
    from_services : bool
        Begin with `fluxcube.fetch`: towers, ERA5 and MODIS are fetched with the clients of the real services from
        servers of the planet on this computer (``pip install 'fluxcube[fetch]'``). No account is read or sent.
    overwrite : bool
        Replace an earlier demo in `out`. A folder that was not written by a demo is never changed.
    progress : callable, optional
        ``progress(done, total, text)``, called while a stage runs.
    log : callable, optional
        ``log(line)``, called when a stage begins.

    Returns
    -------
    DemoResult

    Raises
    ------
    StoreError
        If `out` exists and `overwrite` is not set, or if it was not written by a demo.
    ConfigError
        If there is no such model.
    MissingPackageError
        If a package is not installed that the demo needs.

    Examples
    --------
    >>> import fluxcube as fc
    >>> result = fc.run_demo("demo", quick=True)  # doctest: +SKIP
    >>> result.skill  # doctest: +SKIP
    """
    names, product = _chosen(model), MIXED if model == "both" else model
    if from_services:
        from fluxcube.demo_fetch import fetch_raw  # requires the packages of the extra `fetch`
    out, log = Path(out), log or (lambda line: None)
    _prepare(out, seed, quick, overwrite)
    planet = Planet(seed=seed, quick=quick)
    watch = _Watch(log, progress)
    if from_services:
        with watch("fetch", "fetching towers, ERA5, MODIS and land cover from the planet's services"):
            fetch_raw(planet, out / "raw", every=EVERY, progress=progress)
    else:
        with watch("raw", "writing the planet's towers, ERA5, MODIS and land cover"):
            write_raw(planet, out, views=EVERY, progress=progress)
    with watch("cube", "building the CarbonSense cube"):
        cube = _cube(out, log, progress)
    runs: dict[str, Run] = {}
    for name in names:
        with watch(name, f"training {name}"):
            runs[name] = _train(cube, name, out, seed, quick, runs, progress)
            log(f"  {runs[name].summary}")
    models = {name: load_model(run) for name, run in runs.items()}
    if product == MIXED:
        models[MIXED] = load_model([runs[name] for name in MEMBERS])
    with watch("towers", "scoring on held-out towers"):
        towers = _score(cube.sel(site=list(runs[names[0]].split.test)), models, progress)
    with watch("forcing", "writing the forcing of the region"):
        forcing = open_forcing(write_forcing(_forcing(out / "raw", planet), out / "forcing.zarr", progress=progress))
    with watch("maps", "upscaling the region"):
        period = slice(planet.period[0], planet.period[1] - HOUR)
        maps: dict[str, xr.Dataset] = {}
        for name, one in models.items():
            maps[name] = _upscale(one, name, forcing, period, out, progress, maps, product)
    with watch("truth", "comparing with the truth, which is read only now"):
        true = truth(planet)
        maps = {name: _on_truth(ds, true) for name, ds in maps.items()}
        skill, trust = _skill(maps, true), _trust(maps, true)
        _draw(maps[product], true, out)
    result = DemoResult(out=out, towers=towers, skill=skill, trust=trust, seconds=watch.seconds)
    write_text(out / "scores.md", result.text)
    write_report(towers, out / "towers", title="Held-out towers of the simulated planet")
    write_csv(out / "scores_maps.csv", skill)
    return result


def _chosen(model: str) -> tuple[str, ...]:
    """Return the models to train (ConfigError if there is no such choice, MissingPackageError if a package lacks)."""
    if model not in CHOICES:
        raise ConfigError(f"model: expected {', '.join(CHOICES)}; found {model!r}.")
    main = MEMBERS if model == "both" else (model,)
    for package, (needed_by, extra) in _PACKAGES.items():
        if find_spec(package) is None and needed_by in ("", *main):
            what = {"torch": "EcoPerceiver", "xgboost": "XGBoost"}.get(package, "the demo")
            error = missing_package(package, extra, f"{what} of the demo" if needed_by else what)
            other = next((name for name in MEMBERS if name != needed_by), "") if needed_by else ""
            raise MissingPackageError(f"{error} Or leave it out: {_call(other)}." if other else str(error))
    return (*main, *BASELINES)


def _call(model: str) -> str:
    return to_type(python=f"fc.run_demo(model={model!r})", shell=f"fluxcube demo --model {model}")


def _side_by_side(table: pd.DataFrame) -> str:
    """Return NSE as Markdown, one row per flux and class, one column per model; towers/scores.csv has all scores."""
    models = list(dict.fromkeys(table.model))
    lines = [
        f"| flux | class | hours | sites | {' | '.join(models)} |",
        "| --- | --- |" + " ---: |" * (2 + len(models)),
    ]
    for (target, group), rows in table[table.n > 0].groupby(["target", "group"], sort=False):
        scores = rows.set_index("model").nse
        cells = [f"{int(rows.n.iloc[0]):,}", str(int(rows.n_sites.iloc[0])), *(f"{scores[m]:.3f}" for m in models)]
        lines.append(f"| {target} | {group} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _trusted(table: pd.DataFrame) -> str:
    """Return rank correlations as Markdown, one row per flux and model."""
    lines = [
        "| flux | model | cells | rank correlation of errors and dissimilarity | within the area of applicability |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for row in table.itertuples():
        lines.append(
            f"| {row.target} | {row.model} | {row.n_cells} | {row.rank_correlation:.2f} | {row.applicable:.0%} |"
        )
    return "\n".join(lines)


class _Watch:
    """Logs when a stage begins, ends the progress of the one before, and records how long it took."""

    def __init__(self, log: Callable[[str], object], progress: Callable[[int, int, str], None] | None):
        self.seconds: dict[str, float] = {}
        self._log, self._progress = log, progress

    def __call__(self, stage: str, line: str) -> _Watch:
        self._stage = stage
        self._log(f"{line} ...")
        if self._progress:
            self._progress(0, 0, line)
        return self

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *exc: object) -> None:
        self.seconds[self._stage] = time.perf_counter() - self._start


def _prepare(out: Path, seed: int, quick: bool, overwrite: bool) -> None:
    """Make the folder, or replace that of an earlier demo if `overwrite` is set."""
    if out.exists() and any(out.iterdir()):
        if not (out / _MARK).is_file():
            raise StoreError(f"{out} exists and was not written by a demo: {_elsewhere()}.")
        if not overwrite:
            raise StoreError(
                f"{out} contains an earlier demo: replace it with {overwrite_option()}, or {_elsewhere()}."
            )
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARK).write_text(json.dumps({"seed": seed, "quick": quick}), "utf-8")


def _elsewhere() -> str:
    return f"choose another folder with {to_type(python='out=', shell='--out')}"


def _cube(out: Path, log: Callable[[str], object], progress: Callable | None) -> xr.Dataset:
    raw = out / "raw"
    report = build_carbonsense(
        raw / "towers", out / "carbonsense.zarr", modis=raw / "modis", surface=raw / "reflectance", progress=progress
    )
    for site, reason in report.left_out.items():
        log(f"  left out {site}: {reason}")
    return open_carbonsense(out / "carbonsense.zarr").load()  # 260 MB, which four trainings and the scores read


def _train(
    cube: xr.Dataset, name: str, out: Path, seed: int, quick: bool, runs: dict[str, Run], progress: Callable | None
) -> Run:
    """Train one model; all models share the split of the first one."""
    split = next((run.split for run in runs.values()), None)
    config, training = _ecoperceiver(quick) if name == "ecoperceiver" else (None, None)
    return fit(
        cube,
        model=name,
        target=TARGETS,
        out=out / "runs" / name,
        predictors=PREDICTORS,
        memory_days=MEMORY_DAYS,
        static=STATIC,
        split=split,
        seed=seed,
        seeds=SEEDS if name == "ecoperceiver" and not quick else None,
        jobs=SEEDS if name == "ecoperceiver" and not quick else 1,
        config=config,
        training=training,
        progress=progress,
    )


def _ecoperceiver(quick: bool) -> tuple[EcoPerceiverConfig, TrainingConfig]:
    """Return settings for one and a half minutes of training of two members on two cores.

    With few towers and little time, a short band (16 hours), smooth features (4 frequencies) and no dropout are best.
    The settings were chosen on maps of a planet with another seed (7) than those that are reported.
    """
    from fluxcube.models.ecoperceiver import EcoPerceiverConfig  # needs torch, which xgboost alone does not

    config = replace(EcoPerceiverConfig.small(), frequencies=4, summary=128)
    training = TrainingConfig(
        epochs=2, windows_per_epoch=10500, batch_size=16, warmup_epochs=0.25, ema=0.995, keep="last", val_windows=512
    )
    return config, replace(training, epochs=1, windows_per_epoch=400, val_windows=200) if quick else training


def _score(test: xr.Dataset, models: Mapping[str, Predictor], progress: Callable | None) -> pd.DataFrame:
    """Score every model on measured hours of the test towers, on a common row mask."""
    predictions = {name: predict(model, test, progress=progress) for name, model in models.items()}
    return compare(test, predictions, by="igbp", seen=next(iter(models.values())).spec.igbp_classes)


def _forcing(raw: Path, planet: Planet) -> xr.Dataset:
    """Open the forcing of the region: a fetched box has one cell more on each side, and whole years."""
    forcing = open_forcing(
        raw / "era5",
        modis=raw / "modis",
        surface=raw / "reflectance",
        land_cover=raw / "land_cover",  # a fetched box can lie in several tiles
        predictors=PREDICTORS,
    )
    cells = planet.region
    return forcing.sel(time=slice(planet.forcing_start, planet.period[1] - HOUR)).sel(
        latitude=cells.latitude, longitude=cells.longitude, method="nearest", tolerance=1e-3
    )


def _upscale(
    model: Predictor,
    name: str,
    forcing: xr.Dataset,
    period: slice,
    out: Path,
    progress: Callable | None,
    others: Mapping[str, xr.Dataset],
    product: str = MIXED,
) -> xr.Dataset:
    """Write the maps of one model; those of the mixed model are computed from the maps of its members."""
    store = out / ("maps.zarr" if name == product else f"maps_{name}.zarr")
    members = [others[member] for member in MEMBERS] if name == MIXED else None
    maps = upscale(model, forcing, time=period, member_maps=members)
    # For a region as small as this one, processes take longer to start than they save.
    return open_maps(write_maps(maps, store, scheduler="threads", progress=progress))


def _skill(maps: dict[str, xr.Dataset], true: xr.Dataset) -> pd.DataFrame:
    """Score maps against the truth in cells without a tower, on hours that every model predicts."""
    away = true[list(TARGETS)].where(~true.has_tower)
    table = compare(away, {name: ds[list(TARGETS)] for name, ds in maps.items()}, max_qc=None)
    return table.drop(columns="group").rename(columns={"n_sites": "n_cells"})


def _trust(maps: dict[str, xr.Dataset], true: xr.Dataset) -> pd.DataFrame:
    """Compare the dissimilarity of cells without a tower with their true errors."""
    rows = []
    for name, ds in maps.items():
        if APPLICABLE not in ds:
            continue
        away = ds.where(~true.has_tower)
        index = away[DISSIMILARITY].mean("time").to_series()
        for target in TARGETS:
            error = abs(away[target] - true[target]).mean("time").to_series()
            known = error.notna() & index.notna()
            ranks = np.corrcoef(error[known].rank(), index[known].rank())[0, 1]
            rows.append(
                {
                    "target": target,
                    "model": name,
                    "n_cells": int(known.sum()),
                    "rank_correlation": ranks,
                    "applicable": float(away[APPLICABLE].mean()),
                }
            )
    return pd.DataFrame(rows)


def _on_truth(maps: xr.Dataset, true: xr.Dataset) -> xr.Dataset:
    """Return maps on the cells and hours of the truth (coordinates of a grid may differ by rounding)."""
    layers = [name for name in (*TARGETS, DISSIMILARITY, APPLICABLE) if name in maps]
    kept = maps[layers].sel(time=true.time)
    return kept.reindex(latitude=true.latitude, longitude=true.longitude, method="nearest", tolerance=1e-3).load()


def _draw(maps: xr.Dataset, true: xr.Dataset, out: Path) -> None:
    """Draw the mean NEE and GPP of the maps, and model minus truth."""
    for target in TARGETS:
        pred = maps[target]
        plot_map(pred.mean("time", keep_attrs=True), out / f"{target}.png")
        error = (pred - true[target]).mean("time").assign_attrs(maps[target].attrs)
        error.attrs["long_name"] = f"{target}, model minus truth"
        plot_map(error.rename(f"{target} error"), out / f"{target}_model_minus_truth.png", diverging=True)
