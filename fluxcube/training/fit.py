"""Fit: from a cube and a model's name to a run folder that predicts."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from fluxcube.errors import ConfigError, unknown
from fluxcube.models import checkpoint, registry
from fluxcube.models.base import Model, RowModel, Sizes
from fluxcube.samples.features import FeatureSpec
from fluxcube.samples.loader import Windows
from fluxcube.samples.splits import Split, per_igbp, split_for
from fluxcube.samples.towers import cube_spec, load_towers
from fluxcube.schema import check_resolution, validate_cube
from fluxcube.training.config import TrainingConfig
from fluxcube.training.run import LOG, SPLIT, STATE, Run, prepare, write_log
from fluxcube.variables import COMPUTED, table

log = logging.getLogger(__name__)

#: Columns that a model cannot do without: setting of its config, variable.
_COLUMNS = {
    "sw-linear": {"column": "SW_IN"},
    "mean-cycle": {"doy_column": "DOY", "tod_column": "TOD"},
}
#: Hours of history that each validated hour of a dense head sees at least.
_HISTORY = 24


def fit(
    cube,
    *,
    model: str = "ecoperceiver",
    target: str | Sequence[str] = "NEE",
    out: str | os.PathLike,
    predictors: Sequence[str] | None = None,
    memory_days: Sequence[int] = (),
    bands: Sequence[str] | None = None,
    static: Sequence[str] = ("latitude", "elevation", "igbp"),
    split: Split | str | os.PathLike | None = None,
    config: object | Mapping | None = None,
    training: TrainingConfig | None = None,
    epochs: int | None = None,
    seed: int = 0,
    max_qc: int | None = 1,
    resume: bool = True,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> Run:
    """Train a model on the towers of a cube.

    EcoPerceiver, if killed, goes on where it was when the same call is made again; the other models, which take seconds
    to minutes, start anew.

    Parameters
    ----------
    cube : xr.Dataset
        A cube (`fluxcube.schema`), lazy or in memory.
    model : {"ecoperceiver", "xgboost", "sw-linear", "mean-cycle"}
        What to train.
    target : str or sequence of str
        Fluxes to learn, together.
    out : path
        Folder of the run.
    predictors : sequence of str, optional
        Met inputs; by default all with data in more than 1 % of the training hours that are not targets.
    memory_days : sequence of int
        Spans, in days, of trailing means that are added as inputs.
    bands : sequence of str, optional
        Bands of the chips; by default all where the cube has chips, and () for none.
    static : sequence of str
        Some of "latitude", "elevation", "igbp".
    split : Split, str or path, optional
        Also a word or a file, as `split_for` takes it; by default `per_igbp(cube, seed=seed)`.
    config : config or mapping, optional
        Of the model; by default `EcoPerceiverConfig.small()`, or `BoostingConfig()`.
    training : TrainingConfig, optional
        Of gradient descent.
    epochs : int, optional
        Instead of the number in `training`.
    seed : int
        Of the split, the weights, the order of windows and dropout: equal seeds give equal weights.
    max_qc : int or None
        Worst flag of a predictor or flux to train on; validation uses measured fluxes (flag 0) only.
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
        If `out` holds a finished run, or something else.
    ConfigError
        If the settings contradict each other, an unfinished run in `out` has other ones, or the cube is daily.
    SplitError
        If the sites cannot be split.
    UnknownNameError
        At a name that the cube or a table does not hold.

    Examples
    --------
    >>> import tempfile
    >>> from fluxcube.simulation.example import example_cube
    >>> cube = example_cube(sites=12, days=6)
    >>> run = fit(cube, model="sw-linear", out=tempfile.mkdtemp())
    >>> sorted(path.name for path in run.path.iterdir())
    ['model.json', 'run.json', 'split.json']
    """
    cube, folder = validate_cube(cube), Path(out)
    check_resolution(cube, "hourly", f"the model {model}")
    split = _split(cube, split, seed)
    spec = cube_spec(
        cube, split.train, targets=target, predictors=predictors, memory_days=memory_days, bands=bands, static=static,
        max_qc=max_qc,
    )  # fmt: skip
    config = _config(model, config, spec)
    training = training or TrainingConfig()
    training = training if epochs is None else dataclasses.replace(training, epochs=epochs)
    request = _request(model, config, training, spec, split, seed, max_qc)
    prepare(folder, request, overwrite=overwrite, resume=resume)
    split.save(folder / SPLIT)
    train = load_towers(split.part(cube, "train"), split.train, spec, max_qc, progress).scaled()
    spec = train.spec
    val = load_towers(split.part(cube, "val"), split.val, spec, 0, progress) if split.val else None
    val = val if val is not None and val.observed().any() else None
    trained, history, summary = _train(model, config, spec, train, val, training, seed, folder, request, progress)
    checkpoint.save(trained, folder, _metadata(cube, spec, split, request, history, trained))
    (folder / STATE).unlink(missing_ok=True)
    return Run(folder, split, tuple(history), summary)


def preset_config(model: str, preset: str | None) -> object | None:
    """Return a model's config by the name of a preset; None, with which `fit` takes its default, without one.

    Parameters
    ----------
    model : str
        Name of the model.
    preset : str or None
        "small" or "published" of ecoperceiver; "published" or "xbase" of xgboost.

    Raises
    ------
    UnknownNameError
        If the model has no such preset.

    Examples
    --------
    >>> preset_config("ecoperceiver", "published").latent
    128
    """
    presets = {"ecoperceiver": ("small", "published"), "xgboost": ("published", "xbase")}.get(model, ())
    cls = registry.config_class(model)
    if preset is None:
        return None
    if preset not in presets:
        raise unknown(f"preset of {model}", preset, presets)
    return getattr(cls, preset)()


def _split(cube, split: Split | str | os.PathLike | None, seed: int) -> Split:
    if split is None:
        return per_igbp(cube, seed=seed)
    split = split if isinstance(split, Split) else split_for(cube, split, seed=seed)
    split.check(cube["site"].values)
    return split


def _config(model: str, config: object | Mapping | None, spec: FeatureSpec) -> object:
    """Return the model's config, its columns filled in."""
    cls = registry.config_class(model)
    if config is not None and not isinstance(config, (cls, Mapping)):
        raise ConfigError(f"config must be a {cls.__name__} or a mapping for {model}, found {type(config).__name__}.")
    if config is None and model == "ecoperceiver":
        return cls.small()
    if isinstance(config, cls):
        return config
    columns = {}
    for setting, name in _COLUMNS.get(model, {}).items():
        if name not in spec.inputs:
            raise ConfigError(f"{model} needs {name} among the predictors, found {', '.join(spec.predictors)}.")
        columns[setting] = spec.inputs.index(name)
    return cls.from_dict(columns | dict(config or {}))


def _request(model, config, training, spec: FeatureSpec, split: Split, seed: int, max_qc) -> dict:
    """Return everything that decides what the weights become, as JSON gives it back."""
    features = {k: v for k, v in spec.to_dict().items() if not k.startswith("target_")}
    request = {
        "model": model, "config": dataclasses.asdict(config), "training": dataclasses.asdict(training),
        "features": features, "split": {"train": split.train, "val": split.val}, "seed": seed, "max_qc": max_qc,
    }  # fmt: skip
    if split.periods:
        request["split"]["periods"] = split.to_dict()["periods"]
    return json.loads(json.dumps(request))


def _sizes(spec: FeatureSpec) -> Sizes:
    return Sizes(
        inputs=len(spec.inputs),
        bands=len(spec.bands),
        numbers=len(spec.numbers),
        classes=(len(spec.igbp_classes),) if "igbp" in spec.static else (),
        targets=len(spec.targets),
        protected=tuple(i for i, name in enumerate(spec.inputs) if name in COMPUTED and table()[name].cyclic),
    )


def _train(model, config, spec, train, val, training, seed, folder, request, progress) -> tuple[Model, list, str]:
    """Train either kind of model: by gradient descent, or on rows at once."""
    if model != "ecoperceiver":
        from fluxcube.training.rows import fit_rows

        made = registry.build(model, config, _sizes(spec))
        logged = fit_rows(made, train, val, seed=seed, progress=progress)
        if logged:
            write_log(folder / LOG, [logged])
        return made, [logged] if logged else [], _row_summary(made, logged)
    return _train_torch(model, config, spec, train, val, training, seed, folder, request, progress)


def _train_torch(model, config, spec, train, val, training, seed, folder, request, progress):
    import torch

    from fluxcube.training.loop import Validation
    from fluxcube.training.loop import train as run_loop

    with torch.random.fork_rng():  # the caller's generator is left as it was
        torch.manual_seed(seed)
        made = registry.build(model, config, _sizes(spec))
        stride = training.stride or (max(1, made.context // 2) if made.emits > 1 else 1)
        common = {"length": made.context, "batch_size": training.batch_size, "partial": True, "seed": seed}
        validation = None
        if val is not None:
            scored = min(made.emits, max(1, made.context - _HISTORY))
            validation = Validation(Windows(val, emits=scored, limit=training.val_windows, **common))
        windows = Windows(train, emits=made.emits, stride=stride, limit=training.windows_per_epoch, **common)
        counters = run_loop(
            made, windows, validation, training, state=folder / STATE, request=request,
            on_epoch=lambda rows: write_log(folder / LOG, rows), progress=progress,
        )  # fmt: skip
    return made, counters.history, _torch_summary(made, counters, training.keep)


def _torch_summary(model, counters, keep: str) -> str:
    parameters = sum(p.numel() for p in model.parameters())
    text = f"{model.kind}, {parameters:,} parameters, {counters.epoch} epochs in {counters.seconds:.0f} s"
    scored = [row for row in counters.history if any(k.startswith("val_nse_") and v == v for k, v in row.items())]
    if not scored:
        return f"{text}; no validation, the last epoch is kept"
    kept = scored[-1] if keep == "last" else max(scored, key=_mean_nse)
    values = ", ".join(f"{k.removeprefix('val_nse_')} {v:.3f}" for k, v in kept.items() if k.startswith("val_nse_"))
    return f"{text}; {keep} epoch ({kept['epoch']}) kept, validation NSE {values}"


def _mean_nse(row: Mapping) -> float:
    values = [v for k, v in row.items() if k.startswith("val_nse_") and v == v]
    return sum(values) / len(values) if values else -np.inf


def _row_summary(model: RowModel, logged: Mapping) -> str:
    details = ", ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in logged.items())
    return f"{model.kind}: {details}" if details else f"{model.kind}: fitted"


def _metadata(cube, spec: FeatureSpec, split: Split, request: Mapping, history: list, model: Model) -> dict:
    """Return what a checkpoint keeps beside the weights."""
    inputs = [
        {"name": name, "units": table()[variable].units}
        for name, variable in zip(spec.inputs, spec.input_variables, strict=True)
    ]
    kept = ("title", "resolution", "clock", "fluxcube_version", "sources", "licences")
    return {
        "features": spec.to_dict(),
        "inputs": inputs,
        "target_units": {name: table()[name].units for name in spec.targets},
        "split": split.to_dict(),
        "training_sites": list(split.train),
        "seed": request["seed"],
        "max_qc": request["max_qc"],
        "training": request["training"] if hasattr(model, "parameters") else None,
        "history": history,
        "cube": {key: cube.attrs[key] for key in kept if key in cube.attrs},
    }
