"""Fit: train a model on the towers of a cube, into a run folder from which it can be loaded."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypedDict

import xarray as xr

from fluxcube.cubes.drivers import use_drivers
from fluxcube.cubes.selection import Cube, as_cube
from fluxcube.devices import check_device, find_device, needs_card
from fluxcube.errors import ConfigError
from fluxcube.models import registry
from fluxcube.models.base import Config
from fluxcube.models.treedevice import find_tree_device
from fluxcube.resolution import DEFAULT, Default, quality_limit, resolution_of
from fluxcube.samples.splits import SplitChoice
from fluxcube.schema import validate_cube
from fluxcube.stores.download import bucket_of
from fluxcube.stores.objects import Bucket, place
from fluxcube.stores.origin import origin
from fluxcube.training.callbacks import Watch, check_callbacks
from fluxcube.training.config import TrainingConfig
from fluxcube.training.loggers import check_logs
from fluxcube.training.plan import Plan, check_bag, make_plan
from fluxcube.training.request import FitRequest
from fluxcube.training.run import Run
from fluxcube.training.seeds import train_seeds
from fluxcube.training.settings import changed, configure
from fluxcube.training.single import Data, train_one


def fit(
    cube: Cube,
    *,
    model: str = "ecoperceiver",
    target: str | Sequence[str] | None = None,
    out: str | os.PathLike | Bucket,
    predictors: str | Sequence[str] | None = None,
    memory_days: Sequence[int] | None = None,
    bands: Sequence[str] | None = None,
    static: Sequence[str] | None = None,
    bounds: str | None = None,
    surface: str | Sequence[str] = DEFAULT,
    lookahead: int | None = None,
    pixels: int | None = None,
    images: Sequence[str] | None = None,
    split: SplitChoice | None = None,
    preset: str | None = None,
    config: Config | Mapping | None = None,
    training: TrainingConfig | Mapping | None = None,
    epochs: int | None = None,
    seed: int = 0,
    seeds: int | Sequence[int] | None = None,
    jobs: int = 1,
    init: str | os.PathLike | None = None,
    train_igbp: str | Sequence[str] | None = None,
    search: int | None = None,
    bag: float = 1.0,
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
    drivers: str | None = None,
    device: str | None = None,
    deterministic: bool | None = None,
    resume: bool = True,
    overwrite: bool = False,
    callbacks: Sequence[object] = (),
    log: str | Sequence[str] | None = None,
    storage_options: Mapping[str, object] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Run:
    """Train a model on the towers of a cube.

    If training by gradient descent or of trees is killed, the same call resumes it, with the same result as an
    uninterrupted one; the other models, which take seconds, start again. Several processes train one network if
    `torchrun` starts the script that calls this (or the command ``fluxcube train``), on GPUs or not.

    Parameters
    ----------
    cube : xr.Dataset, path or URL
        A cube (`fluxcube.schema`), lazy or in memory, or its store.
    model : str
        Name of a model (`fluxcube.models.registry.names`): ecoperceiver for hourly cubes; tam-rl, tam-lstm, ct-lstm and
        lstm for daily ones; xgboost and the baselines mean, sw-linear, mean-cycle, met-regression and met-clusters for
        both.
    target : str or sequence of str, optional
        Fluxes to learn together; by default NEE.
    out : path or URL
        Folder of the run; also in a bucket, such as ``s3://bucket/run``: it is trained in a temporary folder of this
        machine, and each saved state is copied to the bucket.
    predictors : str or sequence of str, optional
        Model inputs: names, or "grid" for those of `fluxcube.variables.grid_predictors` that the training towers have,
        so that the model can make maps from ERA5, or "common" for those that at least 90 % of the towers have; words
        and names can be combined. Towers that lack one of these are logged. By default all with data in more than 1 %
        of the training time steps that are not targets.
    memory_days : sequence of int, optional
        Spans in days of trailing means that are added as inputs; by default none.
    bands : sequence of str, optional
        Bands of the chips of an hourly cube (or of its surface reflectance, with `pixels` = 1); by default all if the
        cube has chips, and () for none.
    static : sequence of str, optional
        Some of "latitude", "elevation", "igbp", "koppen" and percentiles of the surface reflectance such as "NDVI_P10";
        by default the first three and the static predictors that `fluxcube.add_predictor` added to the cube. None with
        the published preset of EcoPerceiver.
    bounds : {"table", "v1", "v2", "ours"}, optional
        Bounds by which predictors of an hourly cube are scaled, and beyond which they are missing
        (`fluxcube.normalisation.bounds_of`): those of the variable table, of a published CarbonSense, or narrower ones.
        By default "ours" for EcoPerceiver, "v1" for its published preset, and "table" for the other models.
    surface : str or sequence of str
        Columns of the surface reflectance (`fluxcube.samples.surface.column_of`), such as "NDVI", "NDVI_MEAN_64D" and
        "SURFACE_AGE"; () for none. By default `fluxcube.samples.surface.DEFAULT_COLUMNS` if the cube has an array
        ``surface``, as far as its bands allow; none with the published preset of EcoPerceiver.
    lookahead : int, optional
        Number of days by which views of the surface reflectance are known earlier; by default 0, which uses no view of
        a later day.
    pixels : {64, 1}, optional
        1 takes `bands` from the surface reflectance of a point or area, as band tokens of one pixel; by default 64,
        those of a chip.
    images : sequence of str, optional
        Kinds of other images that `fluxcube.add_images` added to an hourly cube, such as "sentinel2"; by default all of
        them, and () for none. None with the published preset of EcoPerceiver.
    split : Split, str or path, optional
        A split (`fluxcube.split`, one of `fluxcube.kfold`), or a kind or file as ``--split`` takes it, such as
        "kfold:1". By default class by class, or a fold of whole clusters where that would leave too few towers to train
        (`fluxcube.samples.default_split.default_split`); which one is logged, and recorded in the run.
    preset : str, optional
        Name of settings of the model, and of its training: "quick" for a first score, "small" (the default of networks)
        or "published"; `config` and `training` are then mappings that change some of them.
    config : config or mapping, optional
        Settings of the model; by default its preset small if gradient descent trains it, else its config's defaults. A
        mapping changes these.
    training : TrainingConfig or mapping, optional
        Settings of gradient descent; a mapping changes the defaults.
    epochs : int, optional
        Replaces the number in `training`; only for models that gradient descent trains.
    seed : int
        Seed of the split, the weights, the order of windows and dropout: equal seeds yield equal weights.
    seeds : int or sequence of int, optional
        Train an ensemble: a number of seeds, counted from `seed`, or the seeds. All share the split of `seed`. `out`
        contains a folder ``seed-<n>`` for each; `fluxcube.load_model` opens it as one model, the mean of the members.
        The same call with more seeds adds the missing ones.
    jobs : int
        Number of seeds that are trained in parallel, in processes.
    init : path or Run, optional
        A checkpoint of the same model to train further. Features and settings default to its own, and a mapping as
        `config` changes these. Its classes, and the scaling of its targets, are kept. An EcoPerceiver can be trained
        further with other inputs and targets: weights of common ones are kept, and those of new ones begin untrained.
        Common names must be in the order of the checkpoint.
    train_igbp : str or sequence of str, optional
        Train and validate on the split's sites of these IGBP classes only.
    search : int, optional
        For xgboost: first try this number of random settings on folds of the training sites, and train with the best
        (`fluxcube.training.search.random_search`); the draws are recorded in `out`, as ``search.jsonl``.
    bag : float
        Fraction of the training towers that each seed learns from, drawn by the seed without replacement: errors of the
        members of an ensemble at an unknown tower then differ. All training towers determine the scaling of inputs and
        fluxes and the area of applicability.
    max_qc : int, None or "default"
        Maximum flag of the predictors and fluxes of an hourly cube used for training, by default 1; None uses all.
        Validation uses measured fluxes (flag 0) only. Where a publication kept no better flag (CarbonSense v1: 1, v2:
        2), that flag counts as measured.
    min_quality : float, None or "default"
        Minimum quality of the fluxes of a daily cube used for training, by default 0.5; None uses all. Validation uses
        whole days (quality 1). Predictors are used whatever their quality.
    drivers : str, optional
        Drivers to train on: "tower", or a source that the cube has, such as "era5" (`fluxcube.add_drivers`); by default
        those that the cube was opened with. Training and validation towers without such drivers are left out. The run
        records its drivers.
    device : str, optional
        Device that trains, for networks and XGBoost: "auto" (the default) is a GPU if there is one, "cpu", "cuda",
        "cuda:1" for a GPU by its number, or "cuda,cpu" for a GPU, and the CPU where there is none. Replaces the
        `device` of `training`, or of the `config` of XGBoost.
    deterministic : bool, optional
        Replaces `deterministic` of `training`.
    resume : bool
        Whether to resume an unfinished run in `out`.
    overwrite : bool
        Whether to replace a run in `out`.
    callbacks : sequence of Callback, optional
        Objects that are told what the run does (`fluxcube.training.callbacks.Callback`). An error of a callback ends
        the run; its state is saved, and the same call resumes it.
    log : str or sequence of str, optional
        Loggers: "tensorboard" (event files in `out`), "wandb", "mlflow", or "csv" (loss and learning rate of each step,
        in ``steps.csv`` of `out`); see `fluxcube.training.loggers`. ``log.csv`` is always written.
    storage_options : mapping, optional
        Options of fsspec to reach a bucket; neither stored nor logged.
    progress : callable, optional
        ``progress(done, total, text)``.

    Returns
    -------
    Run

    Raises
    ------
    CallbackError
        If a callback raises an error.
    CheckpointError
        If `out` contains a finished run, or something else; if `init` is damaged or of another version.
    ConfigError
        If settings contradict each other or would have no effect, an unfinished run in `out` or `init` has other ones
        or was begun on other data, the model does not work on the resolution of the cube, or the cube's predictors or
        fluxes have other units than the variable table's; if there is no such device.
    DeviceError
        If a GPU fails, or has not enough memory.
    MissingPackageError
        If a package that is needed is not installed.
    StoreError
        If another process is training into `out`, or the bucket cannot be reached.
    SplitError
        If the sites cannot be split, or no site is left to train or validate on.
    TrainingError
        If the loss is not a finite number; the last saved state is kept.
    UnknownNameError
        If a name is neither in the cube nor in the table of variables.

    References
    ----------
    bag: Bühlmann & Yu 2002, "Analyzing bagging", doi:10.1214/aos/1031689014.

    Examples
    --------
    >>> import tempfile
    >>> from fluxcube.simulation.example import example_cube
    >>> cube = example_cube(sites=12, days=6)
    >>> run = fit(cube, model="sw-linear", out=tempfile.mkdtemp())
    >>> sorted(path.name for path in run.path.iterdir())
    ['applicability.safetensors', 'model.json', 'run.json', 'run.toml', 'split.json']
    """
    options = dict(locals())  # all arguments
    names, told = check_logs(log), check_callbacks(callbacks)
    cube = as_cube(cube)
    plan, folder = planned(cube, options), place(out, storage_options)
    if plan.by_descent and plan.training.tensorboard:
        names = tuple(dict.fromkeys((*names, "tensorboard")))
    watch = Watch(told, names, store=_store_of(cube, folder))
    beside: Beside = {"overwrite": overwrite, "resume": resume, "progress": progress, "watch": watch}
    if seeds is not None:
        return train_seeds(plan, seeds, seed, folder, jobs=jobs, **beside)
    check_bag(plan, seed)
    return train_one(Data(plan, progress), seed, folder, **beside)


def _store_of(cube: xr.Dataset, folder: Path | Bucket) -> str:
    """Return the place of a cube, absolute for a run in a bucket; "" if it was not opened from a store."""
    store = str(cube.encoding.get("source", ""))
    is_url = not store or "://" in store
    return store if is_url or isinstance(folder, Path) else os.path.abspath(store)


class Beside(TypedDict):
    """Options that change no weight."""

    overwrite: bool
    resume: bool
    progress: Callable[[int, int, str], None] | None
    watch: Watch


def planned(cube: Cube, options: Mapping[str, Any]) -> Plan:
    """Return the plan of a call of `fit`, checked before towers are read.

    Parameters
    ----------
    cube : xr.Dataset
        As `fit` takes it.
    options : mapping
        All arguments of `fit` by name.
    """
    given = SimpleNamespace(**options)
    _check_used(given.model, given.epochs, given.seeds, given.jobs)
    config, training = _settings(given)
    config, training = _on_device(given.model, config, training, given.device, given.deterministic)
    cube = as_cube(cube)
    source, cube = origin(cube), validate_cube(cube)
    cube = cube if given.drivers is None else use_drivers(cube, given.drivers)
    resolution = resolution_of(cube)
    init, surface = given.init, given.surface
    asked = {item.name: options[item.name] for item in dataclasses.fields(FitRequest) if item.name in options}
    request = FitRequest(
        **asked
        | {
            "config": config,
            "training": training,
            "limit": quality_limit(resolution, given.max_qc, given.min_quality, default=resolution.training_limit),
            "surface": surface if surface == DEFAULT else (surface,) if isinstance(surface, str) else tuple(surface),
            "predictors": (given.predictors,) if isinstance(given.predictors, str) else given.predictors,
            "images": given.images if given.images is None else tuple(given.images),
            "init": init if init is None else bucket_of(init, given.storage_options) or init,
        }
    )
    return dataclasses.replace(make_plan(cube, request), source=source)


def _settings(given: SimpleNamespace) -> tuple[Config | Mapping | None, TrainingConfig]:
    """Return the settings of the model and of its training: those of a preset with changes, or those passed."""
    if given.preset is None:
        return given.config, _training(given.training, given.epochs)
    tables = {"config": given.config or {}, "training": given.training or {}}
    if whole := [name for name, table in tables.items() if not isinstance(table, Mapping)]:
        raise ConfigError(f"{whole[0]} has every setting, as preset does: pass a mapping of changes, or leave one out.")
    chosen = {"search": given.search, "init": given.init, "epochs": given.epochs}
    return configure(given.model, given.preset, **chosen, tables=tables)


def _training(training: TrainingConfig | Mapping | None, epochs: int | None) -> TrainingConfig:
    """Return complete settings of gradient descent; `epochs` replaces their number."""
    if training is None or isinstance(training, Mapping):
        training = changed(TrainingConfig(), training or {})
    return training if epochs is None else dataclasses.replace(training, epochs=epochs)


def _on_device(
    model: str,
    config: Config | Mapping | None,
    training: TrainingConfig,
    device: str | None,
    deterministic: bool | None,
) -> tuple[Config | Mapping | None, TrainingConfig]:
    """Return the settings of a model and of its training with a device.

    A device that does not exist, or that would have no effect, is refused before anything is read or written.
    """
    if deterministic is not None:
        training = dataclasses.replace(training, deterministic=deterministic)
    if registry.by_descent(model):
        training = training if device is None else dataclasses.replace(training, device=device)
        find_device(training.device)
        return config, training
    if "device" in {field.name for field in dataclasses.fields(registry.config_class(model))}:
        return _trees_on_device(config, device), training
    if device is not None and needs_card(check_device(device)):
        raise ConfigError(f"{model} is trained on the CPU, not on {device!r}: leave device out.")
    return config, training


def _trees_on_device(config: Config | Mapping | None, device: str | None) -> Config | Mapping | None:
    """Return the settings of trees with a device; refuse a card that XGBoost cannot use."""
    if device is not None:
        if config is None or isinstance(config, Mapping):
            config = {**(config or {}), "device": device}
        else:
            config = changed(config, {"device": device})
    named = config.get("device") if isinstance(config, Mapping) else getattr(config, "device", None)
    if isinstance(named, str) and needs_card(check_device(named)):
        find_tree_device(named)
    return config


def _check_used(model: str, epochs: int | None, seeds: object, jobs: int) -> None:
    """Refuse options that would have no effect (ConfigError)."""
    if epochs is not None and not registry.by_descent(model):
        instead = registry.model_class(model).length_setting
        hint = f"; {instead} determines how long it is trained" if instead else ""
        raise ConfigError(f"{model} is not trained in epochs: leave epochs out{hint}.")
    if jobs != 1 and seeds is None:
        raise ConfigError(f"jobs is the number of seeds that are trained in parallel: pass seeds; found jobs={jobs}.")
