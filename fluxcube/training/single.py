"""One run: a plan and a seed in, a folder with a checkpoint out."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fluxcube.models import checkpoint, registry
from fluxcube.models.applicability import Applicability
from fluxcube.models.base import Model, RowModel
from fluxcube.resolution import QualityLimit
from fluxcube.samples.features import FeatureSpec
from fluxcube.samples.towers import Towers, load_towers
from fluxcube.training.applicability import fit_applicability
from fluxcube.training.calibration import summary as coverage
from fluxcube.training.plan import DESCENT, Plan
from fluxcube.training.rows import SiteRows, fit_rows
from fluxcube.training.run import LOG, ROWS_STATE, SEARCH, SPLIT, STATE, Run, prepare, write_log
from fluxcube.variables import table

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Data:
    """A plan's towers, read when they are first asked for: several seeds share them.

    Attributes
    ----------
    plan : Plan
        What to learn.
    progress : callable or None
        ``progress(done, total, text)`` while reading.
    """

    plan: Plan
    progress: Callable | None = None

    @functools.cached_property
    def train(self) -> Towers | SiteRows:
        """Training towers, fluxes scaled."""
        towers = self._read("train", self.plan.spec, self.plan.limit)
        start = self.plan.start
        return towers.scaled(start.spec.targets) if start is not None else towers.scaled()

    def drawn(self, seed: int) -> Towers | SiteRows:
        """Return those training towers that a seed learns from, scaled as all of them are."""
        sites = self.plan.sites(seed)
        if sites == tuple(self.plan.split.train):
            return self.train
        return self._read("train", self.train.spec, self.plan.limit, sites)

    @functools.cached_property
    def val(self) -> Towers | SiteRows | None:
        """Validation towers with their measured fluxes, scaled alike; None where there are none."""
        resolution = self.plan.limit.resolution
        measured = resolution.limit(resolution.measured)
        towers = self._read("val", self.train.spec, measured) if self.plan.split.val else None
        return towers if towers is not None and towers.observed().any() else None

    @functools.cached_property
    def val_windows(self) -> Towers | None:
        """As `val`, in memory whatever the model is."""
        if isinstance(self.val, SiteRows):
            return load_towers(self.val.cube, self.val.sites, self.val.spec, self.val.limit, self.progress)
        return self.val

    def _read(
        self, part: str, spec: FeatureSpec, limit: QualityLimit, sites: Sequence[str] | None = None
    ) -> Towers | SiteRows:
        read = load_towers if self.plan.model in DESCENT else SiteRows
        cube, sites = self.plan.split.part(self.plan.cube, part), sites or getattr(self.plan.split, part)
        return read(cube, sites, spec, limit, self.progress)


def train_one(data: Data, seed: int, folder: Path, *, overwrite: bool, resume: bool, progress: Callable | None) -> Run:
    """Train one model into a folder; see `fluxcube.training.fit.fit`."""
    plan = data.plan
    request = plan.request(seed)
    world = _world(plan)
    first = world.first if world else (lambda call: call())
    first(lambda: prepare(folder, request, overwrite=overwrite, resume=resume))
    first(lambda: plan.split.save(folder / SPLIT))
    plan = searched(plan, seed, folder, progress)
    if world:
        from fluxcube.training.descent import descend

        made, history, summary, calibration = descend(
            plan, data.drawn(seed), data.val, world, seed=seed, folder=folder, request=request, progress=progress
        )
    else:
        made, history, summary = _fit_rows(plan, data, seed, folder, progress)
        calibration = {}
    about = metadata(plan, data.train.spec, request, history, calibration, made)
    first(lambda: _finish(made, folder, about, _applicability(made, data, seed, progress)))
    if world:
        world.meet()
    summary = "; ".join(filter(None, (summary, coverage(calibration))))
    return Run(folder, plan.split, tuple(history), summary, calibration)


def searched(plan: Plan, seed: int, folder: Path, progress: Callable | None) -> Plan:
    """Return the plan with the settings of a random search on the training towers, where one is asked for."""
    if not plan.search or plan.found is not None:
        return plan
    from fluxcube.training.search import random_search

    found = random_search(
        plan.split.part(plan.cube, "train"),
        plan.split.train,
        spec=plan.spec,
        config=plan.config,
        draws=plan.search,
        rows=plan.config.search_rows,
        seed=seed,
        **plan.limit.to_dict(),
        buffer_km=plan.split.buffer_km,
        out=folder / SEARCH,
        progress=progress,
    )
    return dataclasses.replace(plan, config=found.config, found=found.best)


def _world(plan: Plan):
    """Return the processes that train together; None for a model that one process trains at once."""
    if plan.model not in DESCENT:
        return None
    from fluxcube.training.parallel import World

    return World.join(plan.training.device)


def _fit_rows(plan: Plan, data: Data, seed: int, folder: Path, progress) -> tuple[Model, list, str]:
    made = registry.build(plan.model, plan.config, plan.sizes())
    state, request = folder / ROWS_STATE, plan.request(seed)
    logged = fit_rows(made, data.drawn(seed), data.val, seed=seed, progress=progress, state=state, request=request)
    logged = _by_name(logged, data.train.spec.targets)
    if logged:
        write_log(folder / LOG, [logged])
    return made, [logged] if logged else [], _row_summary(made, logged)


def _by_name(logged: Mapping, targets: Sequence[str]) -> dict:
    """Name the targets that a model, which knows no names, has numbered: val_nse_0 is val_nse_NEE."""
    ends = {f"_{i}": f"_{name}" for i, name in enumerate(targets)}
    named = {}
    for key, value in logged.items():
        head, underscore, number = key.rpartition("_")
        named[head + ends.get(underscore + number, underscore + number)] = value
    return named


def _row_summary(model: RowModel, logged: Mapping) -> str:
    details = ", ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in logged.items())
    return f"{model.kind}: {details}" if details else f"{model.kind}: fitted"


def _applicability(made: Model, data: Data, seed: int, progress: Callable | None) -> Applicability | None:
    split = data.plan.split
    return fit_applicability(
        made, data.train, data.val, data.plan.cube, buffer_km=split.buffer_km, seed=seed, progress=progress
    )


def _finish(made: Model, folder: Path, about: Mapping, applicability: Applicability | None) -> None:
    checkpoint.save(made, folder, about, applicability)
    (folder / STATE).unlink(missing_ok=True)


def metadata(plan: Plan, spec: FeatureSpec, request: Mapping, history: list, calibration: Mapping, model) -> dict:
    """Return what a checkpoint keeps beside the weights."""
    inputs = [{"name": n, "units": units} for n, units in zip(spec.inputs, spec.input_units, strict=True)]
    rows = table(spec.resolution)
    kept = ("title", "resolution", "clock", "fluxcube_version", "sources", "licences")
    return {
        "features": spec.to_dict(),
        "inputs": inputs,
        "target_units": {name: rows[name].units for name in spec.targets},
        "split": plan.split.to_dict(),
        "training_sites": list(plan.sites(request["seed"])),
        "seed": request["seed"],
        **plan.limit.to_dict(),
        "training": request["training"] if hasattr(model, "parameters") else None,
        "init": request["init"],
        "request": dict(request),
        "search": dict(plan.found) if plan.found is not None else None,
        "history": history,
        "calibration": dict(calibration),
        "cube": {key: plan.cube.attrs[key] for key in kept if key in plan.cube.attrs},
    }
