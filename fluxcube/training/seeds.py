"""Ensembles: one plan, several seeds, a folder for each, and one file that makes them a model."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from fluxcube.errors import CheckpointError, ConfigError
from fluxcube.models import checkpoint
from fluxcube.models.checkpoint import ENSEMBLE, RUN
from fluxcube.training.calibration import calibrate_on
from fluxcube.training.calibration import summary as coverage
from fluxcube.training.plan import DESCENT, Plan, check_bag
from fluxcube.training.run import SEARCH, SPLIT, Run, by_torchrun, check_ours, clear, differences
from fluxcube.training.single import Data, metadata, searched, train_one

log = logging.getLogger(__name__)

_MEMBER = re.compile(r"seed-\d+")
_OWN = re.compile(r"ensemble\.json|split\.json|search\.jsonl|applicability\.safetensors|\..+\.part")


def train_seeds(
    plan: Plan,
    seeds: int | Sequence[int],
    seed: int,
    folder: Path,
    *,
    jobs: int,
    overwrite: bool,
    resume: bool,
    progress: Callable | None,
) -> Run:
    """Train a model per seed into ``seed-<n>`` folders, then write the ensemble's file.

    Finished members of the same request are kept, an unfinished one goes on.

    Parameters
    ----------
    plan : Plan
        What each learns.
    seeds : int or sequence of int
        How many, counted up from `seed`, or which.
    seed : int
        First one.
    folder : Path
        Of the ensemble.
    jobs : int
        How many are trained side by side, each in a process with its own copy of the data and its share of threads.
    overwrite, resume, progress
        As for `fluxcube.training.fit.fit`.

    Raises
    ------
    CheckpointError
        If the folder holds a finished ensemble of the same seeds, or something else.
    ConfigError
        If a member in it was trained otherwise, `seeds` or `jobs` cannot be, or a seed's share of the towers lacks a
        target.
    """
    wanted = _wanted(seeds, seed, jobs)
    for s in wanted:
        check_bag(plan, s)
    first = _first(plan)
    first(lambda: _prepare(folder, wanted, overwrite))
    plan = searched(plan, seed, folder, progress)
    data = Data(plan, progress)
    todo = first(lambda: [s for s in wanted if not _done(folder / _name(s), plan.request(s))])
    if jobs > 1:
        _side_by_side(plan, todo, folder, min(jobs, len(todo)), resume, progress)
    else:
        for s in todo:
            text = f"seed {s} ({wanted.index(s) + 1} of {len(wanted)})"
            train_one(data, s, folder / _name(s), overwrite=False, resume=resume, progress=_named(progress, text))
    return first(lambda: _join(data, folder, wanted))


def _wanted(seeds: int | Sequence[int], seed: int, jobs: int) -> list[int]:
    wanted = list(range(seed, seed + seeds)) if isinstance(seeds, int) else [int(s) for s in seeds]
    if not wanted or len(set(wanted)) < len(wanted) or min(wanted) < 0:
        raise ConfigError(f"seeds must be a number of 1 or more, or different seeds of 0 or more; found {seeds}.")
    if jobs < 1 or (jobs > 1 and by_torchrun()):
        raise ConfigError(f"jobs must be 1 or more, and 1 under torchrun; found {jobs}.")
    return wanted


def _first(plan: Plan) -> Callable:
    if plan.model not in DESCENT or not by_torchrun():
        return lambda call: call()
    from fluxcube.training.parallel import World

    return World.join(plan.training.device).first


def _prepare(folder: Path, wanted: Sequence[int], overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file: give a folder for the ensemble.")
    found = {path.name for path in folder.iterdir()} if folder.exists() else set()
    members = sorted(name for name in found if _MEMBER.fullmatch(name) and (folder / name).is_dir())
    foreign = sorted(name for name in found if name not in members and not _OWN.fullmatch(name))
    if foreign:
        raise CheckpointError(f"{folder} holds other files ({', '.join(foreign[:3])}): give it its own folder.")
    if overwrite:
        for name in members:
            check_ours(folder / name)
        for name in (ENSEMBLE, SEARCH):  # first, so that a kill leaves no ensemble of missing members
            (folder / name).unlink(missing_ok=True)
        for name in members:
            clear(folder / name)
            (folder / name).rmdir()
    elif ENSEMBLE in found and set(members) >= {_name(s) for s in wanted}:
        raise CheckpointError(
            f"{folder} holds a finished ensemble: give overwrite=True (--overwrite), more seeds or another folder."
        )
    folder.mkdir(parents=True, exist_ok=True)


def _done(folder: Path, request: dict) -> bool:
    if not (folder / RUN).is_file():
        return False
    _, about = checkpoint.load(folder)
    if named := differences(about.get("request", {}), request):
        raise ConfigError(
            f"{folder} holds a run of other settings: {named}. Give overwrite=True (--overwrite), or another folder."
        )
    return True


def _side_by_side(plan: Plan, todo, folder: Path, jobs: int, resume: bool, progress) -> None:
    threads = max(1, _threads(plan) // max(jobs, 1))
    with ProcessPoolExecutor(max(jobs, 1), multiprocessing.get_context("spawn")) as pool:
        runs = {pool.submit(_one_of_several, plan, s, folder / _name(s), resume, threads): s for s in todo}
        for done, run in enumerate(as_completed(runs), 1):
            run.result()
            log.info("seed %d is trained", runs[run])
            if progress:
                progress(done, len(todo), f"seed {runs[run]} is trained")


def _threads(plan: Plan) -> int:
    if plan.model not in DESCENT:
        return os.cpu_count() or 1
    import torch

    return torch.get_num_threads()


def _one_of_several(plan: Plan, seed: int, folder: Path, resume: bool, threads: int) -> None:
    if plan.model in DESCENT:
        import torch

        torch.set_num_threads(threads)
    train_one(Data(plan), seed, folder, overwrite=False, resume=resume, progress=None)


def _join(data: Data, folder: Path, wanted: Sequence[int]) -> Run:
    """Write the ensemble's file, with the calibration of its standard deviations."""
    plan = data.plan
    model, abouts = checkpoint.members([folder / _name(s) for s in wanted])
    held = None if data.val_windows is None else _windows(model, data, wanted[0])
    calibration = calibrate_on(model, held) if held is not None and len(wanted) > 1 else {}
    about = metadata(plan, data.train.spec, plan.request(wanted[0]), [], calibration, model)
    plan.split.save(folder / SPLIT)
    learned = {site for s in wanted for site in plan.sites(s)}
    about |= {"seeds": list(wanted), "training_sites": [site for site in plan.split.train if site in learned]}
    checkpoint.save_ensemble(folder, [_name(s) for s in wanted], about)
    histories = tuple(row | {"seed": s} for s, a in zip(wanted, abouts, strict=True) for row in a["history"])
    text = f"{len(wanted)} of {plan.model}, seeds {', '.join(map(str, wanted))}"
    text = "; ".join(filter(None, (text, _score(model, held), coverage(calibration))))
    return Run(folder, plan.split, histories, text, calibration)


def _score(model, held) -> str:
    """How well the members together predict the validation towers, in words."""
    if held is None:
        return ""
    from fluxcube.training.loop import Validation

    scores = Validation(held).score(model)
    return f"validation NSE {', '.join(f'{name} {value:.3f}' for name, value in scores.items())}"


def _windows(model, data: Data, seed: int):
    from fluxcube.training.descent import validation_windows

    training = data.plan.training
    return validation_windows(model, data.val_windows, training.val_windows, training.batch_size, seed)


def _name(seed: int) -> str:
    return f"seed-{seed}"


def _named(progress: Callable | None, prefix: str) -> Callable | None:
    if progress is None:
        return None
    return lambda done, total, text: progress(done, total, f"{prefix}: {text}")
