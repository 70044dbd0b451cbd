"""Plan: what a run learns, decided and checked before anything long is done."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import xarray as xr

from fluxcube.cubes.driver_choice import sites_without_drivers
from fluxcube.cubes.own import with_supplied
from fluxcube.errors import ConfigError
from fluxcube.models import registry
from fluxcube.models.base import Config, Sizes
from fluxcube.normalisation import TABLE
from fluxcube.resolution import DAILY, DEFAULT, Default, QualityLimit, resolution_of
from fluxcube.samples.features import CHIP_PIXELS, FeatureSpec
from fluxcube.samples.splits import Split, default_split, one_split
from fluxcube.samples.teacher import Teacher, teacher_of
from fluxcube.samples.towers import WORDS, choose_predictors, cube_spec
from fluxcube.schema import USED_DRIVERS, check_units
from fluxcube.training import checks
from fluxcube.training.checks import BALANCED
from fluxcube.training.config import TrainingConfig
from fluxcube.training.finetune import Start
from fluxcube.training.request import FitRequest
from fluxcube.training.settings import complete_config
from fluxcube.training.weights import FILLED
from fluxcube.variables import COMPUTED, PUBLISHED_PREDICTORS

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Distinguishes the draw of a seed's towers from other random draws; the published scores depend on this number.
_BAG = 8


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that determines what a run learns, except the seed.

    Attributes
    ----------
    cube : xr.Dataset
        Cube of the towers.
    model : str
        Name of the model.
    spec : FeatureSpec
        Inputs and targets; scaled only if a checkpoint is trained further.
    split : Split
        Sites.
    config : Config
        Settings of the model.
    training : TrainingConfig
        Settings of gradient descent.
    limit : QualityLimit
        Quality of the fluxes used for training.
    start : Start or None
        Checkpoint that is trained further.
    search : int or None
        Number of settings that a random search tries before training.
    found : mapping or None
        Best draw of that search, once it is done.
    bag : float
        Fraction of the training sites that a seed learns from.
    source : mapping
        The store of the cube (`fluxcube.stores.origin.origin`).
    """

    cube: xr.Dataset
    model: str
    spec: FeatureSpec
    split: Split
    config: Config
    training: TrainingConfig
    limit: QualityLimit
    start: Start | None = None
    search: int | None = None
    found: Mapping | None = None
    bag: float = 1.0
    source: Mapping[str, str] = field(default_factory=dict)

    def request(self, seed: int) -> dict:
        """Return everything that determines the weights, as JSON represents it."""
        features = {k: v for k, v in self.spec.to_dict().items() if not k.startswith("target_")}
        config = dataclasses.asdict(self.config)
        config.pop("inputs", None)  # the features have what it chose
        if config.get("attention") == "window":  # without it, the request of runs of earlier versions is unchanged
            del config["attention"]
        request: dict = {
            "model": self.model,
            "config": config,
            "training": self.training.learned,
            "features": features,
            "split": {"train": self.split.train, "val": self.split.val},
            "seed": seed,
            **self.limit.to_dict(),
            "init": self.start.digest if self.start else None,
        }
        if self.search:
            request["search"] = self.search
        if self.bag < 1:  # without it, the request of runs of all towers is unchanged
            request["bag"] = self.bag
        if name := self.cube.attrs.get(USED_DRIVERS):  # only where these are not the towers' own
            request["drivers"] = name
        if self.balance:  # versions that did not record it weighed squared fluxes, not their share of the variance
            request["balance"] = {"alpha": self.balance, "relative_to": "variance of NEE"}
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

    @property
    def teacher(self) -> Teacher | None:
        """Model whose predictions are the training fluxes; None if these are those of the towers."""
        return teacher_of(self.cube)

    @property
    def val_limit(self) -> QualityLimit:
        """Quality of the fluxes that are scored at validation towers: measured ones, or those that training uses."""
        if self.by_descent and self.training.val_quality == "training":
            return self.limit
        return self.limit.resolution.limit(self.limit.resolution.measured)

    @property
    def by_descent(self) -> bool:
        """Whether gradient descent trains the model."""
        return registry.by_descent(self.model)

    def sizes(self) -> Sizes:
        """Return the numbers of inputs and targets of the model."""
        return sizes_of(self.spec, cyclic=self.standardises)

    @property
    def standardises(self) -> bool:
        """Whether the model inputs are scaled by their mean and standard deviation over the training towers."""
        of_model = registry.model_class(self.model).standardises(self.config)
        return of_model or self.spec.time_resolution.scaled_inputs

    @property
    def weigh(self) -> tuple[str, ...]:
        """Names of the weights of training fluxes, as `fluxcube.training.weights.flux_weights` takes them."""
        chosen = self.training.weigh
        default = self.limit.resolution.loss_weights if self.by_descent else ()
        names = default if chosen is None else chosen
        return (*(["randunc"] if self.training.weight_by_randunc else []), *names)

    @property
    def filled_weight(self) -> float:
        """Weight of gap-filled hours relative to measured ones, where the weight "quality" is used."""
        return FILLED if self.training.filled_weight is None else self.training.filled_weight

    @property
    def balance(self) -> float:
        """Weight of the carbon balance in the loss, in units of NEE's variance; 0 for models without descent."""
        if not self.by_descent:
            return 0.0
        if self.training.balance is not None:
            return self.training.balance
        return self.limit.resolution.balance if set(BALANCED) <= set(self.spec.targets) else 0.0

    @property
    def balanced(self) -> tuple[int, ...]:
        """Positions of NEE, GPP and RECO among the targets."""
        return tuple(self.spec.targets.index(name) for name in BALANCED)

    @property
    def pretrain_epochs(self) -> int:
        """Number of the first epochs, in which the forward model is trained alone."""
        if registry.model_class(self.model).stages < 2:
            return 0
        half = (
            self.training.epochs // 2 if self.start is None else 0
        )  # the forward model of a checkpoint is trained already
        return half if self.training.pretrain_epochs is None else self.training.pretrain_epochs


def sizes_of(spec: FeatureSpec, *, cyclic: bool = False) -> Sizes:
    """Return the numbers of inputs and targets of a model; cyclic ones are named for daily data, or with `cyclic`."""
    return Sizes(
        inputs=len(spec.inputs),
        bands=len(spec.bands),
        pixels=spec.pixels,
        image_bands=tuple(len(kind.bands) for kind in spec.images),
        image_pixels=tuple(kind.pixels for kind in spec.images),
        numbers=len(spec.numbers),
        classes=tuple(map(len, spec.class_lists.values())),
        targets=len(spec.targets),
        protected=tuple(i for i in spec.cyclic_columns if spec.inputs[i] in COMPUTED),
        means=len(spec.inputs) - len(spec.predictors),
        cyclic=spec.cyclic_columns if cyclic or spec.time_resolution.scaled_inputs else (),
    )


def make_plan(cube: xr.Dataset, request: FitRequest) -> Plan:
    """Return the plan of a fit; its errors are raised here, before towers are read.

    Parameters
    ----------
    cube : xr.Dataset
        A cube (`fluxcube.schema`).
    request : FitRequest
        What to learn, from what and how.
    """
    model, training, limit = request.model, request.training, request.limit
    checks.check_model(cube, model)
    check_units(cube)
    start = None if request.init is None else Start.read(request.init, model)
    request = _with_features(cube, request, start)
    cube = with_supplied(cube, (*(request.predictors or ()), *(request.static or ())))
    targets = (request.target,) if isinstance(request.target, str) else tuple(request.target or ())
    named = [name for name in request.predictors or () if name not in WORDS]
    checks.check_names(cube, targets, named, request.bands, request.pixels or CHIP_PIXELS)
    checks.check_training(cube, model, training, targets)
    split = _split(cube, request)
    checks.check_sides(cube, split, targets, limit, model, training)
    if request.predictors is None and _published(request):
        request = dataclasses.replace(request, predictors=_published_predictors(cube, split, targets, limit))
    if request.predictors:
        chosen = choose_predictors(cube, split.train, targets, limit, request.predictors)
        request = dataclasses.replace(request, predictors=chosen)
        checks.check_predictors(cube, split.train, chosen, limit, further=start is not None)
    spec = cube_spec(
        cube,
        split.train,
        targets=targets,
        predictors=request.predictors,
        memory_days=request.memory_days or (),
        bands=request.bands,
        static=request.static,
        surface=DEFAULT if request.surface is None else request.surface,
        lookahead=request.lookahead or 0,
        pixels=request.pixels or CHIP_PIXELS,
        images=request.images,
        limit=limit,
        bounds=request.bounds or TABLE,
    )
    if registry.model_class(model).averages_chips:
        spec = dataclasses.replace(spec, fill_chips=False)
    config = request.config
    if start is not None and (config is None or isinstance(config, Mapping)):
        config = start.changed(config)
    else:
        config = complete_config(model, config, spec)
    spec = spec if start is None else start.agree(spec, config)
    return Plan(cube, model, spec, split, config, training, limit, start, search=request.search, bag=request.bag)


def _published(request: FitRequest) -> bool:
    """Return whether the settings of the model ask for the published inputs."""
    config = request.config
    chosen = config.get("inputs") if isinstance(config, Mapping) else getattr(config, "inputs", None)
    return chosen == "published" and request.init is None


def _published_predictors(
    cube: xr.Dataset, split: Split, targets: Sequence[str], limit: QualityLimit
) -> tuple[str, ...]:
    """Return those of the 21 published predictors that have data."""
    present = choose_predictors(cube, split.train, targets, limit)
    chosen = tuple(name for name in PUBLISHED_PREDICTORS if name in present)
    if missing := [name for name in PUBLISHED_PREDICTORS if name not in chosen]:
        log.info("published predictors without data: %s", ", ".join(missing))
    return chosen


def _with_features(cube: xr.Dataset, request: FitRequest, start: Start | None) -> FitRequest:
    """Return a request whose features are set: by default those of the checkpoint, else those of `fit`."""
    spec = None if start is None else start.spec
    static: tuple[str, ...] | None = None
    surface: tuple[str, ...] | Default = DEFAULT
    images: tuple[str, ...] | None = None if spec is None else tuple(kind.name for kind in spec.images)
    bounds = registry.model_class(request.model).bounds
    if _published(request):
        static, bounds, surface, images = (), "v1", (), ()
    bounds = TABLE if resolution_of(cube) is DAILY else bounds
    return dataclasses.replace(
        request,
        target=_chosen(request.target, spec.targets if spec else ("NEE",)),
        predictors=_chosen(request.predictors, spec.predictors if spec else None),
        memory_days=_chosen(request.memory_days, spec.memory_days if spec else ()),
        bands=_chosen(request.bands, spec.bands if spec else None),
        static=_chosen(request.static, spec.static if spec else static),
        bounds=_chosen(request.bounds, spec.bounds if spec else bounds),
        surface=(spec.surface if spec else surface) if request.surface == DEFAULT else request.surface,
        lookahead=_chosen(request.lookahead, spec.lookahead if spec else 0),
        pixels=_chosen(request.pixels, spec.pixels if spec else CHIP_PIXELS),
        images=_chosen(request.images, images),
    )


def _chosen(value: T | None, default: T) -> T:
    """Return a value, or a default for None."""
    return default if value is None else value


def check_bag(plan: Plan, seed: int) -> None:
    """Refuse a fraction of the towers in which a target is never observed (ConfigError)."""
    if plan.bag == 1:
        return
    sites = plan.sites(seed)
    if missing := checks.never_observed(plan.cube, plan.split, "train", plan.spec.targets, plan.limit, sites):
        raise ConfigError(
            f"{', '.join(missing)}: observed at none of the {len(sites)} training towers of seed {seed}; choose a "
            f"larger bag than {plan.bag:g}, another seed, or another target."
        )


def _with_drivers(cube: xr.Dataset) -> xr.Dataset:
    """Return the towers of a cube that have the drivers that it uses."""
    lacking = sites_without_drivers(cube)
    return cube.sel(site=[site for site in cube["site"].values if str(site) not in lacking]) if lacking else cube


def _default_split(cube: xr.Dataset, teacher: Teacher | None, seed: int) -> Split:
    """Return the split of a fit without one: that for which a teacher labelled the cube, else by clusters."""
    if teacher is not None:
        return Split.from_dict(dict(teacher.split))
    return default_split(_with_drivers(cube), seed=seed)


def _split(cube: xr.Dataset, request: FitRequest) -> Split:
    teacher = teacher_of(cube)
    chosen = request.split
    split = (
        _default_split(cube, teacher, request.seed) if chosen is None else one_split(cube, chosen, seed=request.seed)
    )
    split.check([str(site) for site in cube["site"].values])
    if teacher is not None:
        teacher.check(split)
    if lacking := [site for site in sites_without_drivers(cube) if site in (*split.train, *split.val)]:
        name = cube.attrs[USED_DRIVERS]
        log.warning("%d training and validation towers have no drivers %s, and are left out", len(lacking), name)
        split = split.without(cube, lacking, f"they have no drivers {name}")
    return split if request.train_igbp is None else split.only(cube, request.train_igbp)
