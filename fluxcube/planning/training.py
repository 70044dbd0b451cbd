"""Public API: foretell what training takes, from the towers that it reads and a few measured steps."""

from __future__ import annotations

import dataclasses
import inspect
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxcube.cubes.selection import Cube, as_cube
from fluxcube.errors import ConfigError, to_type, unknown
from fluxcube.fetch.items import duration_text, size_text
from fluxcube.models import checkpoint, registry
from fluxcube.models.base import Batch, Model
from fluxcube.models.rows import RowModel
from fluxcube.planning.sample import peak_memory
from fluxcube.samples.towers import Towers
from fluxcube.stores.objects import place
from fluxcube.tabletext import counted
from fluxcube.training.applicability import fit_applicability
from fluxcube.training.fit import fit, planned
from fluxcube.training.plan import Plan, check_bag
from fluxcube.training.rows import ModelRows, load_growth, row_weights
from fluxcube.training.run import ROWS_STATE, STATE, by_torchrun, check_folder
from fluxcube.training.seeds import chosen_seeds, finished_seeds
from fluxcube.training.single import Data, metadata

#: Seconds and number of steps, or of boosting rounds, that are measured; the first step is left out.
_SECONDS, _STEPS, _ROUNDS = 4.0, 16, 8
#: Number of batches of the validation windows that are measured.
_BATCHES = 3


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What a training run will take.

    Attributes
    ----------
    model : str
        Name of the model.
    targets, inputs : tuple of str
        Fluxes, and model inputs that change with time.
    sites : mapping
        Number of towers: "train", "val" and "test".
    windows : mapping
        Number of training windows of an epoch, or of feature rows, and of windows that are scored: "train", "val".
    epochs : int or None
        Number of epochs; None without gradient descent.
    steps : int
        Number of steps of all epochs, or of boosting rounds of all targets; 0 for a model that is fitted at once.
    parameters : int
        Number of weights of a network; 0 for other models.
    seconds : mapping
        Seconds on this machine: "preparing" once, and for each member "training", "validation" (of all epochs) and
        "finishing" (the area of applicability). Early stopping can shorten training.
    members : int
        Number of models that are still to be trained, 1 without seeds.
    done : float
        Share of the training that an unfinished run has behind it.
    resumes : str
        From where the run would be resumed; "" if it would begin anew.
    memory : int
        Peak RAM of this process while it measured, bytes.
    written : int
        Bytes of the finished run, of all members.
    state : int
        Bytes of the state that an unfinished run has beside it.
    """

    model: str
    targets: tuple[str, ...]
    inputs: tuple[str, ...]
    sites: Mapping[str, int]
    windows: Mapping[str, int]
    epochs: int | None
    steps: int
    parameters: int
    seconds: Mapping[str, float]
    members: int = 1
    done: float = 0.0
    resumes: str = ""
    memory: int = 0
    written: int = 0
    state: int = 0

    @property
    def minutes(self) -> float:
        """Minutes in all that are left, of all members, one after the other."""
        each = sum(self.seconds[name] for name in ("training", "validation")) * (1 - self.done)
        return (self.seconds["preparing"] + self.members * (each + self.seconds["finishing"])) / 60

    def __str__(self) -> str:
        sites, seconds, unit = self.sites, self.seconds, "windows an epoch" if self.epochs else "feature rows"
        times = ", ".join(f"{name} {duration_text(value)}" for name, value in seconds.items())
        kind = f", {self.parameters:,} parameters" if self.parameters else ""
        lines = [
            f"model      {self.model}{kind}: {', '.join(self.targets)} from {len(self.inputs)} inputs",
            f"towers     {sites['train']} train, {sites['val']} validate, {sites['test']} are held out",
            f"samples    {self.windows['train']:,} {unit}, {self.windows['val']:,} validation windows",
            f"steps      {self._steps()}",
            f"memory     {size_text(self.memory)} at the peak",
            f"time       {duration_text(60 * self.minutes)} on this machine ({times})",
            f"disk       {size_text(self.written)} at the end, {size_text(self.state)} more while it trains",
        ]
        return "\n".join([*lines, f"resumes    {self.resumes}"] if self.resumes else lines)

    def _steps(self) -> str:
        members = f", for each of {self.members} members" if self.members != 1 else ""
        if self.epochs:
            return f"{self.steps // self.epochs:,} an epoch, {self.steps:,} in {counted(self.epochs, 'epoch')}{members}"
        return f"at most {self.steps:,} boosting rounds{members}" if self.steps else f"fitted at once{members}"


def plan_training(cube: Cube, *, out: Any = None, progress: Callable | None = None, **options: Any) -> TrainingPlan:
    """Foretell time, memory and disk of `fluxcube.fit` with the same arguments; nothing is written.

    The towers are read as for training, a few steps are made and a few windows are scored, and their times are
    multiplied by the numbers that training has.

    Parameters
    ----------
    cube : xr.Dataset, path or URL
        As `fluxcube.fit` takes it.
    out : path or URL, optional
        The run: if it is unfinished, the plan says from where it is resumed.
    progress : callable, optional
        ``progress(done, total, text)`` while towers are read.
    **options
        All other arguments of `fluxcube.fit`.

    Returns
    -------
    TrainingPlan

    Raises
    ------
    CheckpointError
        If `out` is complete, as `fluxcube.fit` raises it.
    ConfigError
        As `fluxcube.fit` raises it, and for a `search`, whose time cannot be foretold, and under `torchrun`.
    UnknownNameError
        If `fluxcube.fit` has no such argument.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> plan = plan_training(example_cube(sites=12, days=6), model="sw-linear")
    >>> plan.sites["train"] > 0, plan.steps
    (True, 0)
    """
    options = _with_defaults(options)
    if options["search"] is not None:
        leave = to_type(python="search", shell="--search")
        raise ConfigError(f"the time of a search cannot be foretold: leave {leave} out to plan the training after it.")
    if by_torchrun():
        raise ConfigError("a plan is measured in one process: start it without torchrun.")
    cube = as_cube(cube)
    begun = time.monotonic()
    plan, seed = planned(cube, options), options["seed"]
    if options["seeds"] is None:
        check_bag(plan, seed)
    members, resumed = _left(plan, out, options)
    data = Data(plan, progress)
    train, val, _ = data.drawn(seed), data.val_windows, data.digest
    preparing = time.monotonic() - begun
    found = (_descent if plan.by_descent else _rows)(plan, data, seed, train, val)
    finishing, written = _finished(plan, data, found, seed)
    split, resumed = plan.split, resumed or _Resumed()
    return TrainingPlan(
        model=plan.model,
        targets=plan.spec.targets,
        inputs=plan.spec.inputs,
        sites={"train": len(plan.sites(seed)), "val": len(split.val), "test": len(split.test)},
        windows=found.windows,
        epochs=plan.training.epochs if plan.by_descent else None,
        steps=found.steps,
        parameters=found.parameters,
        seconds={
            "preparing": preparing,
            "training": found.training,
            "validation": found.validation,
            "finishing": finishing,
        },
        members=members,
        done=min(1.0, resumed.updates / found.steps) if found.steps else 0.0,
        resumes=resumed.text,
        memory=peak_memory(),
        written=written * max(members, 1),
        state=found.state,
    )


@dataclass(frozen=True)
class _Measured:
    """What a few steps of a model took, scaled to all of them."""

    model: Model
    windows: Mapping[str, int]
    steps: int
    training: float
    validation: float
    parameters: int = 0
    state: int = 0


@dataclass(frozen=True)
class _Resumed:
    """Progress of an unfinished run: its number of steps or rounds, and the same as text."""

    updates: int = 0
    text: str = ""


def _with_defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arguments of `fit` (UnknownNameError for another name)."""
    known = inspect.signature(fit).parameters
    for name in options:
        if name not in known or name == "cube":
            raise unknown("argument of fit", name, [one for one in known if one != "cube"])
    defaults = {name: one.default for name, one in known.items() if one.default is not inspect.Parameter.empty}
    return defaults | dict(options)


def _left(plan: Plan, out: Any, options: Mapping[str, Any]) -> tuple[int, _Resumed | None]:
    """Return the number of models that are still to be trained, and the progress of an unfinished one."""
    folder = None if out is None else place(out, options["storage_options"])
    local = folder if isinstance(folder, Path) and folder.is_dir() and not options["overwrite"] else None
    if options["seeds"] is not None:
        chosen = chosen_seeds(options["seeds"], options["seed"], options["jobs"])
        done = finished_seeds(plan, local, chosen) if local else []
        text = f"after {len(done)} of {len(chosen)} members" if done else ""
        return len(chosen) - len(done), _Resumed(text=text)
    if isinstance(folder, Path):
        check_folder(folder, plan.request(options["seed"]), overwrite=options["overwrite"], resume=options["resume"])
    return 1, _progress_of(plan, local, options["seed"]) if local else None


def _progress_of(plan: Plan, folder: Path, seed: int) -> _Resumed | None:
    """Return the progress of an unfinished run in a folder; None if there is none."""
    if (folder / STATE).is_file():
        from fluxcube.training.state import read_counters

        counters = read_counters(folder / STATE)
        text = f"after {counted(counters.epoch, 'epoch')} and {counted(counters.step, 'step')}"
        text += f" ({counters.updates:,} in all)"
        return _Resumed(counters.updates, text)
    if (folder / ROWS_STATE).is_file():
        growth = load_growth(folder / ROWS_STATE, plan.request(seed))
        text = f"after {counted(len(growth.done), 'target')} and {counted(growth.rounds, 'round')}"
        return _Resumed(growth.rounds, text)
    return None


def _descent(plan: Plan, data: Data, seed: int, train: Any, val: Towers | None) -> _Measured:
    """Measure some steps of gradient descent, and of the scores after an epoch."""
    import torch

    from fluxcube.training.descent import job_of, new_network, training_windows
    from fluxcube.training.loop import time_steps
    from fluxcube.training.parallel import World
    from fluxcube.training.validation import validation_windows

    config, world = plan.training, World.join(plan.training.device)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = new_network(plan)
        if plan.start is not None:
            plan.start.put(model, train.spec)
        windows = training_windows(plan, model, train, world, seed)
        job = job_of(plan, model, windows, world, train, plan.request(seed))
        stages = {0: plan.pretrain_epochs, plan.pretrain_epochs: config.epochs - plan.pretrain_epochs}
        steps, training = len(windows), 0.0
        for first, epochs in stages.items():
            training += epochs * steps * _typical(time_steps(job, first, seconds=_SECONDS, most=_STEPS))
        scored = validation_windows(model, val, config.val_windows, config.batch_size, seed)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return _Measured(
        model=model,
        windows={"train": len(windows.ends(0)), "val": 0 if scored is None else len(scored.ends(0))},
        steps=steps * config.epochs,
        training=training,
        validation=config.epochs * (0.0 if scored is None else _scoring(model, scored)),
        parameters=sum(p.numel() for p in model.parameters()),
        state=(5 if config.ema else 4) * weights,  # weights, two moments, the best weights, and their running mean
    )


def _typical(seconds: Sequence[float]) -> float:
    """Return the mean of some durations."""
    return sum(seconds) / len(seconds)


def _scoring(model: Model, windows: Any) -> float:
    """Return the seconds of scoring all validation windows once."""
    from fluxcube.training.validation import embed_windows

    begun = time.monotonic()
    embed_windows(model, windows)
    fixed, took = time.monotonic() - begun, []
    for batch in [windows[index] for index in range(min(_BATCHES, len(windows)))]:
        begun = time.monotonic()
        model.predict(Batch.of(batch))
        took.append(time.monotonic() - begun)
    return fixed + len(windows) * _typical(took[1:] or took)


def _rows(plan: Plan, data: Data, seed: int, train: Any, val: Towers | None) -> _Measured:
    """Measure some boosting rounds, or fit a model that is fitted at once."""
    config = plan.config
    rounds = getattr(config, "n_estimators", 0)
    if rounds:
        config = dataclasses.replace(config, **{"n_estimators": min(rounds, _ROUNDS)})
    model = registry.build(plan.model, config, plan.sizes())
    assert isinstance(model, RowModel)
    begun, ticks = time.monotonic(), []
    weight = row_weights(plan.split.part(plan.cube, "train"), train, plan.weigh, plan.filled_weight)
    rows = ModelRows(model, train, weight=weight)
    scored = None if data.val is None else ModelRows(model, data.val)
    model.learn(rows, scored, seed=seed, progress=lambda *_: ticks.append(time.monotonic()))
    whole = time.monotonic() - begun
    targets, made = len(plan.spec.targets), len(ticks)
    pace = _pace(ticks, targets) if rounds else 0.0
    return _Measured(
        model=model,
        windows={"train": len(train.fluxes), "val": 0 if val is None else int(val.observed().sum())},
        steps=rounds * targets,
        training=whole - made * pace + rounds * targets * pace,
        validation=0.0,
        state=int(sum(map(len, model.weights().values())) * rounds / max(1, made)) if rounds else 0,
    )


def _pace(ticks: Sequence[float], targets: int) -> float:
    """Return the seconds of a boosting round, from the times at which each ended, target by target."""
    each = len(ticks) // targets
    parts = [ticks[i * each : (i + 1) * each] for i in range(targets)]
    return sum(part[-1] - part[0] for part in parts) / max(1, targets * (each - 1)) if each else 0.0


def _finished(plan: Plan, data: Data, found: _Measured, seed: int) -> tuple[float, int]:
    """Return the seconds of the steps after training, and the bytes of a finished run; its files are removed."""
    begun = time.monotonic()
    area = fit_applicability(found.model, data.train, data.val, plan.cube, seed=seed, progress=None)
    finishing = time.monotonic() - begun
    about = metadata(plan, data.train.spec, plan.request(seed), [], {}, training=None)
    with tempfile.TemporaryDirectory(prefix="fluxcube-plan-") as folder:
        checkpoint.save(found.model, Path(folder), about, area)
        sizes = {path.name: path.stat().st_size for path in Path(folder).iterdir()}
    if plan.by_descent or not found.state:
        return finishing, sum(sizes.values())
    return finishing, found.state + sum(size for name, size in sizes.items() if not name.endswith(".ubj"))
