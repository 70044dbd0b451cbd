"""Training of one model: a plan and a seed in, a folder with a checkpoint out."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fluxcube.cubes.products import product_record
from fluxcube.devices import deterministic, device_name, tf32, warn_of_precision
from fluxcube.errors import ConfigError, without_secrets
from fluxcube.models import checkpoint, registry
from fluxcube.models.applicability import Applicability
from fluxcube.models.base import Model
from fluxcube.models.rows import RowModel
from fluxcube.resolution import QualityLimit
from fluxcube.samples.features import FeatureSpec
from fluxcube.samples.teacher import TEACHER
from fluxcube.samples.towers import Towers, load_towers
from fluxcube.schema import DRIVERS_SOURCE, USED_DRIVERS
from fluxcube.stores.lock import check_held
from fluxcube.stores.objects import Bucket
from fluxcube.training.applicability import fit_applicability
from fluxcube.training.calibration import summary as coverage
from fluxcube.training.callbacks import Told, Watch
from fluxcube.training.digest import data_digest
from fluxcube.training.loggers import make_loggers
from fluxcube.training.mirror import run_folder
from fluxcube.training.plan import Plan
from fluxcube.training.rows import SiteRows, fit_rows, row_weights
from fluxcube.training.run import (
    DATA,
    LOG,
    ROWS_STATE,
    SEARCH,
    SPLIT,
    STATE,
    Run,
    check_data,
    prepare,
    write_log,
)
from fluxcube.training.runfile import write_run_file
from fluxcube.variables import TIMING, table

if TYPE_CHECKING:
    from fluxcube.training.config import TrainingConfig
    from fluxcube.training.parallel import World

log = logging.getLogger(__name__)

#: Number of feature rows on which a search scores its best draws again, if trees are trained on all rows.
_FINAL_ROWS = 500_000


@dataclass(frozen=True, eq=False)
class Data:
    """Towers of a plan, read when they are first needed; several seeds share them.

    Attributes
    ----------
    plan : Plan
        What to learn.
    progress : callable or None
        ``progress(done, total, text)`` while reading.
    shared : bool
        Whether the features of towers that models of feature rows learn from stay in RAM, for several models (`of`).
    """

    plan: Plan
    progress: Callable | None = None
    shared: bool = False

    def of(self, plan: Plan) -> Data:
        """Return the data of another plan with the same features and towers; what is read already is shared.

        Raises
        ------
        ConfigError
            If its features, split or limit of quality differ.
        """
        for name in ("spec", "split", "limit", "by_descent", "standardises"):
            if getattr(plan, name) != getattr(self.plan, name):
                raise ConfigError(f"{plan.model} and {self.plan.model} cannot share data: their {name} differ.")
        out = dataclasses.replace(self, plan=plan)
        out.__dict__.update({name: self.__dict__[name] for name in ("train", "val", "digest") if name in self.__dict__})
        return out

    @functools.cached_property
    def train(self) -> Towers | SiteRows:
        """Training towers, fluxes scaled."""
        towers = self._read("train", self.plan.spec, self.plan.limit)
        start = self.plan.start
        if isinstance(towers, Towers):
            return towers.scaled(() if start is None else start.spec.targets, inputs=self.plan.standardises)
        return towers.scaled()

    def drawn(self, seed: int) -> Towers | SiteRows:
        """Return those training towers that a seed learns from, scaled as all of them are."""
        sites = self.plan.sites(seed)
        if sites == tuple(self.plan.split.train):
            return self.train
        return self._read("train", self.train.spec, self.plan.limit, sites)

    @functools.cached_property
    def val(self) -> Towers | SiteRows | None:
        """Validation towers with the fluxes that are scored, scaled like the training ones; None if there are none."""
        towers = self._read("val", self.train.spec, self.plan.val_limit) if self.plan.split.val else None
        return towers if towers is not None and towers.observed().any() else None

    @functools.cached_property
    def digest(self) -> str:
        """Digest of the values of the training and validation towers."""
        plan = self.plan
        sites = (*plan.split.train, *plan.split.val)
        return data_digest(plan.cube, sites, plan.spec, sample=not plan.by_descent)

    @functools.cached_property
    def val_windows(self) -> Towers | None:
        """As `val`, in RAM for every model."""
        if isinstance(self.val, SiteRows):
            return load_towers(self.val.cube, self.val.sites, self.val.spec, self.val.limit, self.progress)
        return self.val

    def _read(
        self, part: str, spec: FeatureSpec, limit: QualityLimit, sites: Sequence[str] | None = None
    ) -> Towers | SiteRows:
        cube, sites = self.plan.split.part(self.plan.cube, part), sites or getattr(self.plan.split, part)
        if self.plan.by_descent:
            return load_towers(cube, sites, spec, limit, self.progress)
        return SiteRows(cube, sites, spec, limit, self.progress, {} if self.shared else None)


def train_one(
    data: Data,
    seed: int,
    place: Path | Bucket,
    *,
    overwrite: bool,
    resume: bool,
    progress: Callable | None,
    watch: Watch | None = None,
) -> Run:
    """Train one model into a folder or a bucket; see `fluxcube.training.fit.fit`."""
    world, watch = _world(data.plan), watch or Watch()
    first = world.first if world else (lambda call: call())
    with contextlib.ExitStack() as stack:
        if world:
            stack.enter_context(_computing(data.plan.training, world))
        folder = first(lambda: stack.enter_context(run_folder(place, overwrite=overwrite)))
        told = Told() if world and world.rank else _told(data.plan, seed, place, folder, watch)
        with told:
            run = _train(
                data, seed, folder, world, first, told, watch, overwrite=overwrite, resume=resume, progress=progress
            )
            told.complete(run.summary)
    return dataclasses.replace(run, path=place)


def _train(
    data: Data,
    seed: int,
    folder: Path,
    world: World | None,
    first: Callable,
    told: Told,
    watch: Watch,
    *,
    overwrite: bool,
    resume: bool,
    progress: Callable | None,
) -> Run:
    """Train one model into a locked folder; `first` calls a function in the first process."""
    plan = data.plan
    request = plan.request(seed)
    first(lambda: prepare(folder, request, overwrite=overwrite, resume=resume))
    digest = first(lambda: data.digest)
    first(lambda: check_data(folder, digest, plan.source))
    first(lambda: plan.split.save(folder / SPLIT))
    first(lambda: write_run_file(folder, plan, seed=seed, watch=watch))
    plan = searched(plan, seed, folder, progress)
    if world:
        from fluxcube.training.descent import descend

        train, val = data.drawn(seed), data.val_windows
        if not isinstance(train, Towers):
            raise ConfigError(f"{plan.model}: gradient descent needs towers in RAM, found {type(train).__name__}.")
        model: Model
        model, history, summary, calibration = descend(
            plan, train, val, world, seed=seed, folder=folder, request=request, progress=progress, told=told
        )
    else:
        model, history, summary = _fit_rows(plan, data, seed, folder, progress, told)
        calibration = {}
    training = request["training"] if world else None
    about = metadata(plan, data.train.spec, request, history, calibration, training=training)
    if world:
        about["trained_on"] = _trained_on(plan.training, world)
    about["cube"]["data_digest"] = digest  # of the members that are added to an ensemble later, too
    first(lambda: _finish(model, folder, about, _applicability(model, data, seed, progress)))
    if world:
        world.meet()
    summary = "; ".join(filter(None, (summary, coverage(calibration))))
    return Run(folder, plan.split, tuple(history), summary, calibration)


def _told(plan: Plan, seed: int, place: Path | Bucket, folder: Path, watch: Watch) -> Told:
    """Return the callbacks and loggers of a run, with the argument of `on_start`."""
    about = {
        "model": plan.model,
        "run": without_secrets(str(place)),
        "seed": seed,
        "targets": list(plan.spec.targets),
        "inputs": list(plan.spec.inputs),
        "train_sites": len(plan.sites(seed)),
        "val_sites": len(plan.split.val),
        "config": dataclasses.asdict(plan.config),
        "training": dataclasses.asdict(plan.training) if plan.by_descent else None,
    }
    return Told([*make_loggers(watch.log, folder), *watch.callbacks], about)


def searched(plan: Plan, seed: int, folder: Path, progress: Callable | None) -> Plan:
    """Return the plan with the settings of a random search on the training towers, if one is requested."""
    if not plan.search or plan.found is not None:
        return plan
    from fluxcube.models.boosting import BoostingConfig
    from fluxcube.training.search import SearchOptions, random_search

    if not isinstance(plan.config, BoostingConfig):
        raise ConfigError(f"random search expects a BoostingConfig, found {type(plan.config).__name__}.")
    options = SearchOptions(
        draws=plan.search,
        rows=plan.config.search_rows,
        final_rows=plan.config.max_rows or _FINAL_ROWS,
        seed=seed,
        buffer_km=plan.split.buffer_km,
    )
    found = random_search(
        plan.split.part(plan.cube, "train"),
        plan.split.train,
        spec=plan.spec,
        config=plan.config,
        options=options,
        weigh=plan.weigh,
        filled=plan.filled_weight,
        **plan.limit.to_dict(),
        out=folder / SEARCH,
        progress=progress,
    )
    return dataclasses.replace(plan, config=found.config, found=found.best)


def _world(plan: Plan) -> World | None:
    """Return the processes that train together; None for a model that is not trained by gradient descent."""
    if not plan.by_descent:
        return None
    from fluxcube.training.parallel import World

    return World.join(plan.training.device)


@contextlib.contextmanager
def _computing(training: TrainingConfig, world: World) -> Iterator[None]:
    """Compute in the precision of the settings, repeatably if they require that; name the errors of a card."""
    from fluxcube.training.parallel import card_errors

    if training.precision in ("tf32", "bfloat16"):
        warn_of_precision(world.device.type, training.precision)
    with card_errors(world.device), deterministic(training.deterministic), tf32(training.precision == "tf32"):
        yield


def _trained_on(training: TrainingConfig, world: World) -> dict[str, object]:
    """Return the record of the devices and the precision of a training."""
    precision = training.precision
    if precision == "auto":
        precision = "bfloat16" if world.device.type == "cuda" else "float32"
    return {"device": device_name(str(world.device)), "processes": world.size, "precision": precision}


def _fit_rows(
    plan: Plan, data: Data, seed: int, folder: Path, progress: Callable | None, told: Told
) -> tuple[RowModel, list[dict], str]:
    model = registry.build(plan.model, plan.config, plan.sizes())
    if not isinstance(model, RowModel):
        raise ConfigError(
            f"{plan.model} is registered with trainer='rows', but its class is no fluxcube.models.rows.RowModel: "
            "derive it from RowModel, or register it with trainer='descent'."
        )
    state, request, train = folder / ROWS_STATE, plan.request(seed), data.drawn(seed)
    weight = row_weights(plan.split.part(plan.cube, "train"), train, plan.weigh, plan.filled_weight)
    logged = fit_rows(
        model,
        train,
        data.val,
        seed=seed,
        progress=progress,
        state=state,
        request=request,
        weight=weight,
        told=told,
    )
    logged = _by_name(logged, data.train.spec.targets)
    if logged:
        write_log(folder / LOG, [logged])
    told.validation(logged)
    return model, [logged] if logged else [], _row_summary(model, logged)


def _by_name(logged: Mapping, targets: Sequence[str]) -> dict:
    """Replace the numbers of targets by their names: val_nse_0 becomes val_nse_NEE."""
    ends = {f"_{i}": f"_{name}" for i, name in enumerate(targets)}
    named = {}
    for key, value in logged.items():
        head, underscore, number = key.rpartition("_")
        named[head + ends.get(underscore + number, underscore + number)] = value
    return named


def _row_summary(model: RowModel, logged: Mapping) -> str:
    details = ", ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in logged.items())
    return f"{model.kind}: {details}" if details else f"{model.kind}: fitted"


def _applicability(model: Model, data: Data, seed: int, progress: Callable | None) -> Applicability | None:
    return fit_applicability(model, data.train, data.val, data.plan.cube, seed=seed, progress=progress)


def _finish(model: Model, folder: Path, about: Mapping, applicability: Applicability | None) -> None:
    check_held(folder)
    checkpoint.save(model, folder, about, applicability)
    for name in (STATE, DATA):
        (folder / name).unlink(missing_ok=True)


def learned_sites(plan: Plan, sites: Sequence[str]) -> list[str]:
    """Return the towers that a model learned from: `sites`, and those of its teacher."""
    return list(dict.fromkeys((*sites, *(plan.teacher.training_sites if plan.teacher else ()))))


def metadata(
    plan: Plan,
    spec: FeatureSpec,
    request: Mapping,
    history: list,
    calibration: Mapping,
    *,
    training: Mapping | None,
) -> dict:
    """Return the metadata of a checkpoint; `training` is the settings of gradient descent, if it trained the model."""
    inputs = [{"name": n, "units": units} for n, units in zip(spec.inputs, spec.input_units, strict=True)]
    rows, teacher = table(spec.resolution), plan.teacher
    kept = (
        "title",
        "resolution",
        "clock",
        "fluxcube_version",
        "sources",
        "licences",
        TIMING,
        USED_DRIVERS,
        DRIVERS_SOURCE,
    )
    return {
        "features": spec.to_dict(),
        "inputs": inputs,
        "target_units": {name: rows[name].units for name in spec.targets},
        "split": plan.split.to_dict(),
        "training_sites": learned_sites(plan, plan.sites(request["seed"])),
        "seed": request["seed"],
        **plan.limit.to_dict(),
        **({TEACHER: teacher.to_dict()} if teacher else {}),
        "training": training,
        "init": request["init"],
        "request": dict(request),
        "search": dict(plan.found) if plan.found is not None else None,
        "history": history,
        "calibration": dict(calibration),
        "cube": {key: plan.cube.attrs[key] for key in kept if key in plan.cube.attrs}
        | product_record(plan.cube)
        | dict(plan.source),
    }
