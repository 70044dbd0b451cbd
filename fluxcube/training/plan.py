"""What a run is to learn, settled and checked before anything long is done."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fluxcube.errors import ConfigError, SplitError, missing_package, unknown
from fluxcube.models import registry
from fluxcube.models.base import Sizes
from fluxcube.samples.features import FeatureSpec
from fluxcube.samples.splits import Split, per_igbp, split_for
from fluxcube.samples.towers import cube_spec, site_years
from fluxcube.training.config import TrainingConfig
from fluxcube.training.finetune import Start
from fluxcube.training.run import by_torchrun
from fluxcube.variables import COMPUTED, table

log = logging.getLogger(__name__)

#: Columns that a model cannot do without: setting of its config, variable.
_COLUMNS = {
    "sw-linear": {"column": "SW_IN"},
    "mean-cycle": {"doy_column": "DOY", "tod_column": "TOD"},
}
#: Models that average a chip's valid pixels themselves.
_AVERAGES = ("xgboost",)
#: Models that gradient descent trains.
DESCENT = ("ecoperceiver",)


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that decides what a run learns, but the seed.

    Attributes
    ----------
    cube : xr.Dataset
        Where the towers are.
    model : str
        Name of the model.
    spec : FeatureSpec
        Inputs and targets; scaled only where a checkpoint is trained further.
    split : Split
        Sites.
    config : object
        Of the model.
    training : TrainingConfig
        Of gradient descent.
    max_qc : int or None
        Worst flag of a training flux.
    start : Start or None
        What is trained further.
    search : int or None
        How many settings are tried before.
    found : mapping or None
        The best of them, with its score, once they are.
    """

    cube: object
    model: str
    spec: FeatureSpec
    split: Split
    config: object
    training: TrainingConfig
    max_qc: int | None
    start: Start | None = None
    search: int | None = None
    found: Mapping | None = None

    def request(self, seed: int) -> dict:
        """Return everything that decides what the weights become, as JSON gives it back."""
        features = {k: v for k, v in self.spec.to_dict().items() if not k.startswith("target_")}
        request = {
            "model": self.model, "config": dataclasses.asdict(self.config), "training": self.training.learned,
            "features": features, "split": {"train": self.split.train, "val": self.split.val}, "seed": seed,
            "max_qc": self.max_qc, "init": self.start.digest if self.start else None,
        }  # fmt: skip
        if self.search:
            request["search"] = self.search
        if self.split.periods:
            request["split"]["periods"] = self.split.to_dict()["periods"]
        return json.loads(json.dumps(request))

    def sizes(self) -> Sizes:
        """Return how many inputs and targets the model has."""
        return sizes_of(self.spec)


def sizes_of(spec: FeatureSpec) -> Sizes:
    """Return how many inputs and targets a model of these features has."""
    return Sizes(
        inputs=len(spec.inputs),
        bands=len(spec.bands),
        numbers=len(spec.numbers),
        classes=(len(spec.igbp_classes),) if "igbp" in spec.static else (),
        targets=len(spec.targets),
        protected=tuple(i for i, name in enumerate(spec.inputs) if name in COMPUTED and table()[name].cyclic),
        means=len(spec.inputs) - len(spec.predictors),
    )


def make_plan(
    cube,
    *,
    model: str,
    target: str | Sequence[str],
    predictors: Sequence[str] | None,
    memory_days: Sequence[int],
    bands: Sequence[str] | None,
    static: Sequence[str],
    split: Split | str | os.PathLike | None,
    train_igbp: str | Sequence[str] | None,
    config: object | Mapping | None,
    training: TrainingConfig,
    init: str | os.PathLike | None,
    seed: int,
    max_qc: int | None,
    search: int | None = None,
) -> Plan:
    """Settle what `fluxcube.training.fit.fit` was asked for; its errors are raised here, before towers are read."""
    registry.config_class(model)
    _check_search(model, search)
    start = _start(init, model)
    if start is not None:
        predictors = start.spec.predictors if predictors is None else predictors
        bands = start.spec.bands if bands is None else bands
    targets = (target,) if isinstance(target, str) else tuple(target)
    _check_names(cube, targets, predictors, bands)
    _check_training(model, training, cube)
    split = _split(cube, split, seed, train_igbp)
    _check_sides(cube, split, targets, max_qc, model, training)
    if predictors:
        _check_present(cube, split.train, predictors, max_qc, start)
    spec = cube_spec(
        cube, split.train, targets=targets, predictors=predictors, memory_days=memory_days, bands=bands, static=static,
        max_qc=max_qc,
    )  # fmt: skip
    if model in _AVERAGES:
        spec = dataclasses.replace(spec, fill_chips=False)
    if start is None:
        return Plan(cube, model, spec, split, _config(model, config, spec), training, max_qc, search=search)
    config = start.config if config is None else _config(model, config, spec)
    return Plan(cube, model, start.agree(spec, config), split, config, training, max_qc, start)


def _check_search(model: str, draws: int | None) -> None:
    if draws is None:
        return
    if model != "xgboost":
        raise ConfigError(f"search draws settings of xgboost; it knows none of {model}.")
    if draws < 1:
        raise ConfigError(f"search must be 1 draw or more, found {draws}.")


def _start(init: str | os.PathLike | None, model: str) -> Start | None:
    if init is None:
        return None
    if model not in DESCENT:
        raise ConfigError(f"init trains a checkpoint of {' or '.join(DESCENT)} further, which {model} cannot be.")
    return Start.read(init)


def _check_names(cube, targets: Sequence[str], predictors: Sequence[str] | None, bands: Sequence[str] | None) -> None:
    """Refuse names that the cube does not hold, or that are asked for as both."""
    for name in targets:
        if name not in cube["target"].values:
            raise unknown("target of the cube", name, cube["target"].values)
    for name in predictors or ():
        if name in targets:
            raise ConfigError(f"{name}: a variable cannot be predictor and target of one model; drop one.")
        if name not in cube["variable"].values:
            raise unknown("predictor of the cube", name, cube["variable"].values)
    for name in bands or () if "modis" in cube else ():
        if name not in cube["band"].values:
            raise unknown("band of the cube", name, cube["band"].values)


def _check_training(model: str, training: TrainingConfig, cube) -> None:
    if model not in DESCENT:
        if by_torchrun():
            raise ConfigError(f"{model} trains in one process: start it without torchrun.")
        return
    if training.weight_by_randunc and "fluxes_randunc" not in cube:
        raise ConfigError("weight_by_randunc needs the fluxes' random uncertainty, which this cube does not have.")
    if training.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise missing_package("tensorboard", "log", "tensorboard=True")


def _split(cube, split: Split | str | os.PathLike | None, seed: int, igbp: str | Sequence[str] | None) -> Split:
    if split is None:
        split = per_igbp(cube, seed=seed)
    split = split if isinstance(split, Split) else split_for(cube, split, seed=seed)
    split.check(cube["site"].values)
    return split if igbp is None else split.only(cube, igbp)


def _check_sides(cube, split: Split, targets, max_qc: int | None, model: str, training: TrainingConfig) -> None:
    """Refuse a split without towers to train on or, where they are needed, to validate on."""
    if missing := _never_observed(cube, split, "train", targets, max_qc):
        raise ConfigError(f"{', '.join(missing)}: observed in no hour of the training sites; choose another target.")
    if split.val and len(_never_observed(cube, split, "val", targets, 0)) < len(targets):
        return
    found = (
        f"none of its {len(split.val)} validation sites has a measured {' or '.join(targets)}"
        if split.val else "it has no validation sites"
    )  # fmt: skip
    if model in DESCENT and (training.keep == "best" or training.patience):
        needs = "patience" if training.patience else "keep='best'"
        raise SplitError(f"the split leaves a side empty: {found}, which {needs} needs. Give keep='last' without it.")
    log.warning("the split leaves a side empty: %s, so that nothing is validated", found)


def _check_present(cube, sites: Sequence[str], predictors: Sequence[str], max_qc: int | None, start) -> None:
    """Refuse predictors that were named and that no training site has; a checkpoint's may be missing."""
    missing = list(predictors)
    for site in sites:
        flags = site_years(cube, site)["predictors_qc"].sel(variable=missing).values
        good = (flags >= 0) & (flags <= max_qc) if max_qc is not None else flags >= 0
        missing = [name for name, any_good in zip(missing, good.any((0, 1)), strict=True) if not any_good]
        if not missing:
            return
    flagged = "" if max_qc is None else f" of flag {max_qc} or better"
    named = f"{', '.join(missing)}: no training site has a value{flagged}"
    if start is None:
        raise ConfigError(f"{named}; leave out what is not there, or give no predictors to take all that are.")
    log.warning("%s: what the checkpoint knows of it is not trained further", named)


def _never_observed(cube, split: Split, part: str, targets: Sequence[str], max_qc: int | None) -> list[str]:
    """Return the targets that no site of a part has; it reads sites until all are found, one as a rule."""
    missing = list(targets)
    cube = split.part(cube, part) if split.periods.get(part) else cube  # a selection of a cube in memory is a copy
    for site in getattr(split, part):
        one = site_years(cube, site)
        values = one["fluxes"].sel(target=missing).values
        flags = one["fluxes_qc"].sel(target=missing).values
        good = np.isfinite(values) & ((flags >= 0) & (flags <= max_qc) if max_qc is not None else True)
        missing = [name for name, any_good in zip(missing, good.any((0, 1)), strict=True) if not any_good]
        if not missing:
            break
    return missing


def _config(model: str, config: object | Mapping | None, spec: FeatureSpec) -> object:
    """Return the model's config, its columns filled in."""
    cls = registry.config_class(model)
    if config is not None and not isinstance(config, (cls, Mapping)):
        raise ConfigError(f"config must be a {cls.__name__} or a mapping for {model}, found {type(config).__name__}.")
    if config is None and model in DESCENT:
        return cls.small()
    if isinstance(config, cls):
        return config
    columns = {}
    for setting, name in _COLUMNS.get(model, {}).items():
        if name not in spec.inputs:
            raise ConfigError(f"{model} needs {name} among the predictors, found {', '.join(spec.predictors)}.")
        columns[setting] = spec.inputs.index(name)
    return cls.from_dict(columns | dict(config or {}))
