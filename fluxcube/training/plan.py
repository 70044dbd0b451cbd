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
from fluxcube.resolution import DAILY, QualityLimit, check_resolution, resolution_of
from fluxcube.samples.features import FeatureSpec
from fluxcube.samples.splits import Split, per_igbp, split_for
from fluxcube.samples.towers import accepted_predictors, cube_spec, good_fluxes, site_years
from fluxcube.training.config import DAILY_WEIGHTS, TrainingConfig
from fluxcube.training.finetune import Start
from fluxcube.training.run import by_torchrun
from fluxcube.variables import COMPUTED

log = logging.getLogger(__name__)

#: Columns that a model cannot do without: setting of its config, variable.
_COLUMNS = {
    "sw-linear": {"column": "SW_IN"},
    "mean-cycle": {"doy_column": "DOY", "tod_column": "TOD"},
}
#: Models that average a chip's valid pixels themselves.
_AVERAGES = ("xgboost",)
#: Models that gradient descent trains.
DESCENT = registry.names(descent=True)
#: Models that are trained in two stages.
STAGED = ("tam-rl",)
#: NEE = RECO - GPP holds for these, and not for the day-time partitioning.
_BALANCED = ("NEE", "GPP_NT", "RECO_NT")
#: alpha, how much the carbon balance counts where nothing else is said.
_ALPHA = 0.1
#: Parts of the loss, of gradient descent alone.
_LOSS = ("weigh", "balance", "pretrain_epochs")
#: Beside the seed, what a seed's towers are drawn by; another number would give other towers than scores are of.
_BAG = 8

#: What is learned, and from what, where neither is said.
_DEFAULTS = {
    "targets": ("NEE",),
    "predictors": None,
    "memory_days": (),
    "bands": None,
    "static": ("latitude", "elevation", "igbp"),
}


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
    limit : QualityLimit
        Quality of the fluxes used for training.
    start : Start or None
        What is trained further.
    search : int or None
        How many settings are tried before.
    found : mapping or None
        The best of them, with its score, once they are.
    bag : float
        Share of the training sites that a seed learns from.
    """

    cube: object
    model: str
    spec: FeatureSpec
    split: Split
    config: object
    training: TrainingConfig
    limit: QualityLimit
    start: Start | None = None
    search: int | None = None
    found: Mapping | None = None
    bag: float = 1.0

    def request(self, seed: int) -> dict:
        """Return everything that decides what the weights become, as JSON gives it back."""
        features = {k: v for k, v in self.spec.to_dict().items() if not k.startswith("target_")}
        request = {
            "model": self.model,
            "config": dataclasses.asdict(self.config),
            "training": self.training.learned,
            "features": features,
            "split": {"train": self.split.train, "val": self.split.val},
            "seed": seed,
            **self.limit.to_dict(),
            "init": self.start.digest if self.start else None,
        }
        if self.search:
            request["search"] = self.search
        if self.bag < 1:  # runs of all towers keep the request they had
            request["bag"] = self.bag
        if self.split.periods:
            request["split"]["periods"] = self.split.to_dict()["periods"]
        return json.loads(json.dumps(request))

    def sites(self, seed: int) -> tuple[str, ...]:
        """Return the training sites that a seed learns from, in their order."""
        sites = tuple(self.split.train)
        if self.bag == 1:
            return sites
        count = max(1, round(self.bag * len(sites)))
        chosen = np.random.default_rng((seed, _BAG)).choice(len(sites), count, replace=False)
        return tuple(sites[i] for i in np.sort(chosen))

    def sizes(self) -> Sizes:
        """Return how many inputs and targets the model has."""
        return sizes_of(self.spec)

    @property
    def weigh(self) -> tuple[str, ...]:
        """What weighs the training fluxes, as `fluxcube.training.weights.flux_weights` takes it."""
        given = self.training.weigh
        names = (DAILY_WEIGHTS if self.spec.daily else ()) if given is None else given
        return (*(["randunc"] if self.training.weight_by_randunc else []), *names)

    @property
    def balance(self) -> float:
        """How much the carbon balance counts."""
        if self.training.balance is not None:
            return self.training.balance
        return _ALPHA if self.spec.daily and set(_BALANCED) <= set(self.spec.targets) else 0.0

    @property
    def balanced(self) -> tuple[int, ...]:
        """Positions of NEE, GPP and RECO among the targets."""
        return tuple(self.spec.targets.index(name) for name in _BALANCED)

    @property
    def pretrain_epochs(self) -> int:
        """First epochs in which the forward model is trained alone."""
        if self.model not in STAGED:
            return 0
        half = self.training.epochs // 2 if self.start is None else 0  # a checkpoint's forward model is trained already
        return half if self.training.pretrain_epochs is None else self.training.pretrain_epochs


def sizes_of(spec: FeatureSpec) -> Sizes:
    """Return how many inputs and targets a model of these features has."""
    return Sizes(
        inputs=len(spec.inputs),
        bands=len(spec.bands) - len(spec.surface),
        numbers=len(spec.numbers),
        classes=tuple(map(len, spec.class_lists.values())),
        targets=len(spec.targets),
        protected=tuple(i for i in spec.cyclic_columns if spec.inputs[i] in COMPUTED),
        means=len(spec.inputs) - len(spec.predictors) - len(spec.surface),
        cyclic=spec.cyclic_columns if spec.daily else (),
    )


def make_plan(
    cube,
    *,
    model: str,
    target: str | Sequence[str] | None,
    predictors: Sequence[str] | None,
    memory_days: Sequence[int] | None,
    bands: Sequence[str] | None,
    static: Sequence[str] | None,
    split: Split | str | os.PathLike | None,
    train_igbp: str | Sequence[str] | None,
    config: object | Mapping | None,
    training: TrainingConfig,
    init: str | os.PathLike | None,
    seed: int,
    limit: QualityLimit,
    search: int | None = None,
    bag: float = 1.0,
) -> Plan:
    """Settle what `fluxcube.training.fit.fit` was asked for; its errors are raised here, before towers are read."""
    registry.config_class(model)
    check_model(cube, model)
    _check_search(model, search)
    if not 0 < bag <= 1:
        raise ConfigError(f"bag must be a share of the training towers, above 0 and at most 1, found {bag}.")
    start = _start(init, model)
    given = {"targets": target, "predictors": predictors, "memory_days": memory_days, "bands": bands, "static": static}
    own = {name: getattr(start.spec, name) for name in given} if start else _DEFAULTS
    target, predictors, memory_days, bands, static = (own[k] if v is None else v for k, v in given.items())
    targets = (target,) if isinstance(target, str) else tuple(target)
    _check_names(cube, targets, predictors, bands)
    _check_training(model, training, cube)
    _check_loss(model, training, cube, targets)
    if model in STAGED and memory_days:
        raise ConfigError(
            f"memory_days: windows that tell {model} of a place are days alone; leave trailing means out."
        )
    split = _split(cube, split, seed, train_igbp)
    _check_sides(cube, split, targets, limit, model, training)
    if predictors:
        _check_present(cube, split.train, predictors, limit, start)
    spec = cube_spec(
        cube,
        split.train,
        targets=targets,
        predictors=predictors,
        memory_days=memory_days,
        bands=bands,
        static=static,
        limit=limit,
    )
    if model in _AVERAGES:
        spec = dataclasses.replace(spec, fill_chips=False)
    if start is None:
        return Plan(cube, model, spec, split, _config(model, config, spec), training, limit, search=search, bag=bag)
    config = start.changed(config) if config is None or isinstance(config, Mapping) else _config(model, config, spec)
    return Plan(cube, model, start.agree(spec, config), split, config, training, limit, start, bag=bag)


def check_bag(plan: Plan, seed: int) -> None:
    """Refuse a share of the towers in which a target is never observed, which would stay unlearned (ConfigError)."""
    if plan.bag == 1:
        return
    sites = plan.sites(seed)
    if missing := _never_observed(plan.cube, plan.split, "train", plan.spec.targets, plan.limit, sites):
        raise ConfigError(
            f"{', '.join(missing)}: observed at none of the {len(sites)} training towers that seed {seed} learns "
            f"from; give a larger bag than {plan.bag:g}, another seed, or another target."
        )


def check_model(cube, model: str) -> None:
    """Refuse a cube of hours for a model of days, and of days for one of hours (ConfigError)."""
    held = registry.resolutions(model)
    if resolution_of(cube).name not in held:
        check_resolution(cube, held[0], f"the model {model}")


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
    return Start.read(init, model)


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
    resolution = resolution_of(cube)
    images = resolution.satellite in cube and not resolution.surface_columns
    for name in bands or () if images else ():
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


def _check_loss(model: str, training: TrainingConfig, cube, targets: Sequence[str]) -> None:
    """Refuse parts of the loss that the model, the cube or the targets have no use for."""
    if model not in DESCENT:
        if unused := [name for name in _LOSS if getattr(training, name) is not None]:
            raise ConfigError(f"{' and '.join(unused)}: of what gradient descent trains; {model} looks at none of it.")
        return
    if "quality" in (training.weigh or ()) and f"fluxes{DAILY.quality}" not in cube:
        raise ConfigError(
            "weigh='quality' weighs daily fluxes by the good share of the day, and this cube has none: leave it out, "
            "hourly fluxes are selected by their flags with max_qc="
        )
    if training.balance and (missing := [name for name in _BALANCED if name not in targets]):
        raise ConfigError(
            f"balance is of {', '.join(_BALANCED)} together, {', '.join(missing)} is no target: add it, or give "
            "balance=0."
        )
    if training.pretrain_epochs is not None and model not in STAGED:
        raise ConfigError(f"pretrain_epochs is of {', '.join(STAGED)}: {model} is trained in one stage.")


def _split(cube, split: Split | str | os.PathLike | None, seed: int, igbp: str | Sequence[str] | None) -> Split:
    if split is None:
        split = per_igbp(cube, seed=seed)
    split = split if isinstance(split, Split) else split_for(cube, split, seed=seed)
    split.check(cube["site"].values)
    return split if igbp is None else split.only(cube, igbp)


def _check_sides(cube, split: Split, targets, limit: QualityLimit, model: str, training: TrainingConfig) -> None:
    """Refuse a split without towers to train on or, where they are needed, to validate on."""
    if missing := _never_observed(cube, split, "train", targets, limit):
        raise ConfigError(f"{', '.join(missing)}: observed in no hour of the training sites; choose another target.")
    measured = limit.resolution.limit(limit.resolution.measured)
    if split.val and len(_never_observed(cube, split, "val", targets, measured)) < len(targets):
        return
    found = (
        f"none of its {len(split.val)} validation sites has a measured {' or '.join(targets)}"
        if split.val
        else "it has no validation sites"
    )
    if model in DESCENT and (training.keep == "best" or training.patience):
        needs = "patience" if training.patience else "keep='best'"
        raise SplitError(
            f"the split leaves a side empty: {found}, which {needs} needs: give a split that has some, or keep='last' "
            "(--set training.keep=last) without patience."
        )
    log.warning("the split leaves a side empty: %s, so that nothing is validated", found)


def _check_present(cube, sites: Sequence[str], predictors: Sequence[str], limit: QualityLimit, start) -> None:
    """Refuse predictors that were named and that no training site has; a checkpoint's may be missing."""
    missing = list(predictors)
    for site in sites:
        one = site_years(cube, site).sel(variable=missing)
        good = accepted_predictors(one, limit)
        missing = [name for name, any_good in zip(missing, good.any((0, 1)), strict=True) if not any_good]
        if not missing:
            return
    flagged = "" if limit.predictor_flag is None else f" of flag {limit.predictor_flag} or better"
    named = f"{', '.join(missing)}: no training site has a value{flagged}"
    if start is None:
        raise ConfigError(f"{named}; leave out what is not there, or give no predictors to take all that are.")
    log.warning("%s: what the checkpoint knows of it is not trained further", named)


def _never_observed(
    cube, split: Split, part: str, targets: Sequence[str], limit: QualityLimit, sites: Sequence[str] | None = None
) -> list[str]:
    """Return the targets that none of a part's sites has; it reads sites until all are found, one as a rule."""
    missing = list(targets)
    cube = split.part(cube, part) if split.periods.get(part) else cube  # a selection of a cube in memory is a copy
    for site in sites or getattr(split, part):
        good = np.isfinite(good_fluxes(site_years(cube, site), missing, limit))
        missing = [name for name, any_good in zip(missing, good.any(0), strict=True) if not any_good]
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
        if name == "TOD" and spec.daily:
            continue
        if name not in spec.inputs:
            raise ConfigError(f"{model} needs {name} among the predictors, found {', '.join(spec.predictors)}.")
        columns[setting] = spec.inputs.index(name)
    return cls.from_dict(columns | dict(config or {}))
