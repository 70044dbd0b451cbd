"""Fit: from a cube and a model's name to a run folder that predicts."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fluxcube.errors import ConfigError, unknown
from fluxcube.models import registry
from fluxcube.resolution import DEFAULT, Default, quality_limit, resolution_of
from fluxcube.samples.splits import Split
from fluxcube.schema import validate_cube
from fluxcube.training.config import TrainingConfig
from fluxcube.training.plan import DESCENT, check_bag, make_plan
from fluxcube.training.run import Run
from fluxcube.training.seeds import train_seeds
from fluxcube.training.single import Data, train_one

#: What to set instead of epochs.
_TREES = " (config.n_estimators sets how many trees are grown)"


def fit(
    cube,
    *,
    model: str = "ecoperceiver",
    target: str | Sequence[str] | None = None,
    out: str | os.PathLike,
    predictors: Sequence[str] | None = None,
    memory_days: Sequence[int] | None = None,
    bands: Sequence[str] | None = None,
    static: Sequence[str] | None = None,
    split: Split | str | os.PathLike | None = None,
    config: object | Mapping | None = None,
    training: TrainingConfig | None = None,
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
    resume: bool = True,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> Run:
    """Train a model on the towers of a cube.

    EcoPerceiver and xgboost, if killed, go on where they were when the same call is made again, and end as if they had
    not been; the other models, which take seconds, start anew. Several processes train one EcoPerceiver where
    `torchrun` starts the script that calls this (or the command ``fluxcube train``), on GPUs or not.

    Parameters
    ----------
    cube : xr.Dataset
        A cube (`fluxcube.schema`), lazy or in memory.
    model : {"ecoperceiver", "xgboost", "sw-linear", "mean-cycle", "tam-rl", "tam-lstm", "ct-lstm", "lstm"}
        What to train: the first four on hours, all but the first on days.
    target : str or sequence of str, optional
        Fluxes to learn, together; by default NEE.
    out : path
        Folder of the run.
    predictors : sequence of str, optional
        Met inputs; by default all with data in more than 1 % of the training hours that are not targets.
    memory_days : sequence of int, optional
        Spans, in days, of trailing means that are added as inputs; by default none.
    bands : sequence of str, optional
        Bands of the chips; by default all where the cube has chips, and () for none.
    static : sequence of str, optional
        Some of "latitude", "elevation", "igbp", by default these three.
    split : Split, str or path, optional
        Also a word or a file, as `split_for` takes it; by default `per_igbp(cube, seed=seed)`.
    config : config or mapping, optional
        Of the model; by default its `small()` where gradient descent trains it, or `BoostingConfig()`.
    training : TrainingConfig, optional
        Of gradient descent.
    epochs : int, optional
        Instead of the number in `training`; of models that gradient descent trains.
    seed : int
        Of the split, the weights, the order of windows and dropout: equal seeds give equal weights.
    seeds : int or sequence of int, optional
        Train an ensemble: so many models, from `seed` up, or those of these seeds. All share the split of `seed`. `out`
        gets a folder ``seed-<n>`` for each; `fluxcube.load_model` opens it as one model, the members' mean. Given more
        seeds than before, the same call adds the missing ones.
    jobs : int
        How many of `seeds` are trained side by side, in processes.
    init : path or Run, optional
        A checkpoint of the same model to train further. Features and settings that are not given are its own, and a
        mapping as `config` changes its own. Its classes, and the scaling of the targets it knows, are kept. An
        EcoPerceiver may be given other inputs and targets, too: what it knows of those in common is kept, and what is
        new begins untrained. Names in common must stand in the checkpoint's order.
    train_igbp : str or sequence of str, optional
        Train and validate on the split's sites of these IGBP classes only.
    search : int, optional
        Of xgboost: first try so many settings at random on folds of the training sites, and train with the best
        (`fluxcube.training.search.random_search`); the draws are kept in `out`, as ``search.jsonl``.
    bag : float
        Share of the training towers that each seed learns from, drawn by the seed without replacement: members of an
        ensemble then err differently at a tower that none knows. Inputs and fluxes are scaled by all of them, and the
        area of applicability is of all of them.
    max_qc : int, None or "default"
        Maximum flag of the predictors and fluxes of an hourly cube used for training, by default 1; None uses all.
        Validation uses measured fluxes (flag 0) only. Where a publication kept no better flag (CarbonSense v1: 1, v2:
        2), that flag counts as measured.
    min_quality : float, None or "default"
        Minimum quality of the fluxes of a daily cube used for training, by default 0.5; None uses all. Validation uses
        whole days (quality 1). Predictors are used whatever their quality.
    resume : bool
        Whether to go on with an unfinished run in `out`.
    overwrite : bool
        Whether to replace a run in `out`.
    progress : callable, optional
        ``progress(done, total, text)``.

    Returns
    -------
    Run

    Raises
    ------
    CheckpointError
        If `out` holds a finished run, or something else; if `init` is damaged or of another version.
    ConfigError
        If the settings contradict each other, an unfinished run in `out` or `init` has other ones, or the model does
        not work on hours, or on days, that the cube has.
    MissingPackageError
        If a package that is asked for is not installed.
    SplitError
        If the sites cannot be split, or no site is left to train or validate on.
    TrainingError
        If the loss is not a finite number; the state of the last save is kept.
    UnknownNameError
        At a name that the cube or a table does not hold.

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
    ['applicability.safetensors', 'model.json', 'run.json', 'split.json']
    """
    _check_used(model, epochs, seeds, jobs)
    cube, folder = validate_cube(cube), Path(out)
    resolution = resolution_of(cube)
    limit = quality_limit(resolution, max_qc, min_quality, default=resolution.training_limit)
    training = training or TrainingConfig()
    training = training if epochs is None else dataclasses.replace(training, epochs=epochs)
    plan = make_plan(
        cube,
        model=model,
        target=target,
        predictors=predictors,
        memory_days=memory_days,
        bands=bands,
        static=static,
        split=split,
        train_igbp=train_igbp,
        config=config,
        training=training,
        init=init,
        seed=seed,
        limit=limit,
        search=search,
        bag=bag,
    )
    options = {"overwrite": overwrite, "resume": resume, "progress": progress}
    if seeds is not None:
        return train_seeds(plan, seeds, seed, folder, jobs=jobs, **options)
    check_bag(plan, seed)
    return train_one(Data(plan, progress), seed, folder, **options)


def _check_used(model: str, epochs: int | None, seeds: object, jobs: int) -> None:
    """Refuse what would change nothing."""
    if epochs is not None and model not in DESCENT:
        raise ConfigError(f"{model} has no epochs: leave them out{_TREES if model == 'xgboost' else ''}.")
    if jobs != 1 and seeds is None:
        raise ConfigError(f"jobs says how many seeds are trained side by side: give seeds, too; found jobs={jobs}.")


def preset_config(model: str, preset: str | None) -> object | None:
    """Return a model's config by the name of a preset; None, with which `fit` takes its default, without one.

    Parameters
    ----------
    model : str
        Name of the model.
    preset : str or None
        "published", "xbase" or "small" of xgboost; "small" or "published" of what gradient descent trains.

    Raises
    ------
    UnknownNameError
        If the model has no such preset.

    Examples
    --------
    >>> preset_config("ecoperceiver", "published").latent
    128
    """
    known = {"xgboost": ("published", "xbase", "small")} | dict.fromkeys(DESCENT, ("small", "published"))
    presets = known.get(model, ())
    cls = registry.config_class(model)
    if preset is None:
        return None
    if preset not in presets:
        raise unknown(f"preset of {model}", preset, presets)
    return getattr(cls, preset)()


def configure(
    model: str,
    preset: str | None,
    settings: Sequence[str] = (),
    search: int | None = None,
    init: object = None,
    epochs: int | None = None,
) -> tuple[object | None, TrainingConfig]:
    """Return what `fit` takes as config and training, by the words of a command.

    Parameters
    ----------
    model : str
        Name of the model.
    preset : str or None
        As `preset_config` takes it; "published" of ecoperceiver stands for `TrainingConfig.published()`, too.
    settings : sequence of str
        ``config.<key>=<value>`` and ``training.<key>=<value>``: values as JSON, or as Python writes them, or
        numbers or words with commas between; what is none of these is text.
    search : int, optional
        As `fit` takes it: settings that it draws are refused.
    init : path or Run, optional
        As `fit` takes it: without a preset, settings change those of the checkpoint.
    epochs : int, optional
        As `fit` takes it: other settings of training must agree with it.

    Raises
    ------
    ConfigError
        If a setting is no such assignment, has a value it cannot have, or would change nothing.
    UnknownNameError
        If there is no such preset or key.

    Examples
    --------
    >>> config, training = configure("ecoperceiver", None, ["config.dropout=0.3", "training.keep=last"])
    >>> config.dropout, training.keep
    (0.3, 'last')
    """
    given: dict[str, dict] = {"config": {}, "training": {}}
    for text in settings:
        name, equals, value = text.partition("=")
        part, _, key = name.strip().partition(".")
        if not equals or part not in given or not key:
            raise ConfigError(f"a setting must be config.<key>=<value> or training.<key>=<value>, found {text!r}.")
        given[part][key] = _value(value.strip())
    _check_free(model, given, search)
    config = preset_config(model, preset)
    if config is None and given["config"] and model in DESCENT and init is None:
        config = registry.config_class(model).small()
    if config is None:
        config = given["config"] or None
    elif given["config"]:
        config = _changed(config, given["config"])
    published = model == "ecoperceiver" and preset == "published"
    training = TrainingConfig.published() if published else TrainingConfig()
    given["training"] |= {"epochs": epochs} if epochs is not None and model in DESCENT else {}
    return config, _changed(training, given["training"])


def _check_free(model: str, given: Mapping[str, Mapping], search: int | None) -> None:
    """Refuse settings that the model does not look at, or that a search overrules."""
    if given["training"] and model not in DESCENT:
        names = ", ".join(f"training.{key}" for key in given["training"])
        raise ConfigError(f"{names}: gradient descent does not train {model}; its settings are config.<key>=<value>.")
    if search is None:
        return
    from fluxcube.training.search import SPACE

    if drawn := [key for key in given["config"] if key in SPACE or key in ("n_estimators", "early_stopping")]:
        raise ConfigError(f"{', '.join(drawn)}: search finds what is best itself; leave this out, or the search.")


def _changed(config, changes: Mapping):
    """Return a config with some settings changed, its own names and kinds of values alone."""
    return type(config).from_dict(dataclasses.asdict(config) | dict(changes))


def _value(text: str) -> object:
    """JSON, or true, false and null as Python writes them, or a list without its brackets (or quotes), or text."""
    for written in ({"True": "true", "False": "false", "None": "null"}.get(text, text), f"[{text}]"):
        with contextlib.suppress(ValueError):
            return json.loads(written)
    return text.split(",") if "," in text else text
