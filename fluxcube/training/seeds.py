"""Ensembles: one plan, several seeds, a folder for each, and one file that combines them into a model."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fluxcube.errors import CheckpointError, ConfigError, overwrite_option
from fluxcube.models import checkpoint
from fluxcube.models.base import Model
from fluxcube.models.checkpoint import ENSEMBLE, RUN
from fluxcube.processes import as_told, process_pool, tell, without_interrupts
from fluxcube.progress import Progress, SideBySide, now_and_then
from fluxcube.samples.loader import Windows
from fluxcube.samples.towers import Towers
from fluxcube.stores.lock import check_held
from fluxcube.stores.objects import Bucket
from fluxcube.training.calibration import calibrate_on
from fluxcube.training.calibration import summary as coverage
from fluxcube.training.callbacks import Watch, check_copies
from fluxcube.training.mirror import run_folder
from fluxcube.training.plan import Plan, check_bag
from fluxcube.training.run import (
    DATA,
    SEARCH,
    SPLIT,
    Run,
    by_torchrun,
    check_data,
    check_ours,
    clear,
    clear_parts,
    complete_run,
    differences,
    other_data,
)
from fluxcube.training.runfile import write_run_file
from fluxcube.training.single import Data, learned_sites, metadata, searched, train_one
from fluxcube.training.validation import Validation, validation_windows

log = logging.getLogger(__name__)

_MEMBER = re.compile(r"seed-\d+")
_OWN = re.compile(
    r"ensemble\.json|split\.json|search\.jsonl|data\.json|run\.toml|applicability\.safetensors|\..+\.(part|lock)"
)


def train_seeds(
    plan: Plan,
    seeds: int | Sequence[int],
    seed: int,
    place: Path | Bucket,
    *,
    jobs: int,
    overwrite: bool,
    resume: bool,
    progress: Callable | None,
    watch: Watch | None = None,
) -> Run:
    """Train one model per seed into ``seed-<n>`` folders, then write the file of the ensemble.

    Finished members of the same request are kept, an unfinished one resumes.

    Parameters
    ----------
    plan : Plan
        What each model learns.
    seeds : int or sequence of int
        Number of seeds, counted from `seed`, or the seeds.
    seed : int
        First seed.
    place : Path or Bucket
        Folder of the ensemble.
    jobs : int
        Number of models that are trained in parallel, each in a process with its own copy of the data and its share
        of threads.
    overwrite, resume, progress, watch
        As for `fluxcube.training.fit.fit`.

    Raises
    ------
    CheckpointError
        If the folder contains a finished ensemble of the same seeds, or something else.
    ConfigError
        If a member in it has other settings, `seeds` or `jobs` is invalid, or the towers of a seed lack a target.
    """
    chosen, watch = chosen_seeds(seeds, seed, jobs), watch or Watch()
    check_copies(watch.callbacks, jobs)
    for s in chosen:
        check_bag(plan, s)
    first = _first(plan)
    with contextlib.ExitStack() as stack:
        folder = first(lambda: stack.enter_context(run_folder(place, overwrite=overwrite)))
        first(lambda: _prepare(folder, chosen, overwrite))
        digest = first(lambda: Data(plan, progress).digest)
        first(lambda: _check_members(folder, digest, plan.source))
        first(lambda: plan.split.save(folder / SPLIT))
        first(lambda: write_run_file(folder, plan, seed=seed, seeds=chosen, watch=watch))
        run = _train_members(
            plan, chosen, seed, folder, first, digest, watch, jobs=jobs, resume=resume, progress=progress
        )
    return dataclasses.replace(run, path=place)


def _train_members(
    plan: Plan,
    chosen: Sequence[int],
    seed: int,
    folder: Path,
    first: Callable,
    digest: str,
    watch: Watch,
    *,
    jobs: int,
    resume: bool,
    progress: Callable | None,
) -> Run:
    """Train the missing members of an ensemble into a locked folder, and combine them."""
    plan = searched(plan, seed, folder, progress)
    data = Data(plan, progress)
    data.__dict__["digest"] = digest
    todo = first(lambda: [s for s in chosen if not _done(folder / _name(s), plan.request(s))])
    if jobs > 1:
        _side_by_side(plan, todo, folder, min(jobs, len(todo)), resume, progress, watch)
    else:
        for s in todo:
            text = f"{_title(s)} ({chosen.index(s) + 1} of {len(chosen)})"
            named = _named(progress, text)
            train_one(data, s, folder / _name(s), overwrite=False, resume=resume, progress=named, watch=watch)
    return first(lambda: _join(data, folder, chosen))


def finished_seeds(plan: Plan, folder: Path, chosen: Sequence[int]) -> list[int]:
    """Return the seeds whose members are complete (CheckpointError if all are, and so is the ensemble).

    Raises
    ------
    ConfigError
        If a member has other settings.
    """
    done = [s for s in chosen if _done(folder / _name(s), plan.request(s))]
    if len(done) == len(chosen) and (folder / ENSEMBLE).is_file():
        raise complete_run(folder, "ensemble")
    return done


def chosen_seeds(seeds: int | Sequence[int], seed: int, jobs: int) -> list[int]:
    """Return the seeds of an ensemble (ConfigError if they are none)."""
    chosen = list(range(seed, seed + seeds)) if isinstance(seeds, int) else [int(s) for s in seeds]
    if not chosen or len(set(chosen)) < len(chosen) or min(chosen) < 0:
        raise ConfigError(f"seeds must be a number of 1 or more, or different seeds of 0 or more; found {seeds}.")
    if jobs < 1 or (jobs > 1 and by_torchrun()):
        raise ConfigError(f"jobs must be 1 or more, and 1 under torchrun; found {jobs}.")
    return chosen


def _first(plan: Plan) -> Callable:
    if not plan.by_descent or not by_torchrun():
        return lambda call: call()
    from fluxcube.training.parallel import World

    return World.join(plan.training.device).first


def _prepare(folder: Path, chosen: Sequence[int], overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file: pass a folder for the ensemble.")
    found = {path.name for path in folder.iterdir()} if folder.exists() else set()
    members = sorted(name for name in found if _MEMBER.fullmatch(name) and (folder / name).is_dir())
    foreign = sorted(name for name in found if name not in members and not _OWN.fullmatch(name))
    if foreign:
        raise CheckpointError(f"{folder} contains other files ({', '.join(foreign[:3])}): use a folder of its own.")
    if overwrite:
        for name in members:
            check_ours(folder / name)
        for name in (ENSEMBLE, SEARCH, DATA):  # first, so that a kill leaves no ensemble without members
            (folder / name).unlink(missing_ok=True)
        for name in members:
            clear(folder / name)
            (folder / name).rmdir()
    elif ENSEMBLE in found and set(members) >= {_name(s) for s in chosen}:
        raise complete_run(folder, "ensemble")
    folder.mkdir(parents=True, exist_ok=True)
    clear_parts(folder)


def _check_members(folder: Path, digest: str, source: Mapping[str, str]) -> None:
    """Refuse to add members to an ensemble of other data (ConfigError), or to resume its search on them."""
    finished = [path.parent for path in folder.glob(f"seed-*/{RUN}")]
    known = False
    for member in finished:
        record = checkpoint.read_about(member).get("cube") or {}
        was = {"digest": record.get("data_digest", ""), **record}  # earlier versions recorded none
        if other := other_data(was, {"digest": digest, **source}):
            raise ConfigError(
                f"{member} was trained on other data: {other}. Pass the cube of the other members, or "
                f"{overwrite_option()}."
            )
        known |= bool(was["digest"])
    if not known:
        check_data(folder, digest, source)


def _done(folder: Path, request: dict) -> bool:
    if not (folder / RUN).is_file():
        return False
    _, about = checkpoint.load(folder)
    if named := differences(about.get("request", {}), request):
        raise ConfigError(
            f"{folder} contains a run of other settings: {named}. Pass {overwrite_option()} or another folder."
        )
    return True


def _side_by_side(
    plan: Plan,
    todo: Sequence[int],
    folder: Path,
    jobs: int,
    resume: bool,
    progress: Progress | None,
    watch: Watch,
) -> None:
    threads, shown = max(1, _threads(plan) // max(jobs, 1)), SideBySide([_title(s) for s in todo], progress)
    with process_pool(max(jobs, 1)) as (pool, messages):
        with without_interrupts():
            runs = {pool.submit(_one_of_several, plan, s, folder / _name(s), resume, threads, watch): s for s in todo}
        for run in as_told(runs, messages, shown.update):
            run.result()
            log.info("%s is trained", _title(runs[run]))
            shown.end(_title(runs[run]))


def _threads(plan: Plan) -> int:
    if not plan.by_descent:
        return os.cpu_count() or 1
    import torch

    return torch.get_num_threads()


def _one_of_several(plan: Plan, seed: int, folder: Path, resume: bool, threads: int, watch: Watch) -> None:
    if plan.by_descent:
        import torch

        torch.set_num_threads(threads)
    progress = now_and_then(functools.partial(tell, _title(seed)))
    train_one(Data(plan), seed, folder, overwrite=False, resume=resume, progress=progress, watch=watch)


def _join(data: Data, folder: Path, chosen: Sequence[int]) -> Run:
    """Write the file of the ensemble, with the calibration of its standard deviations."""
    plan = data.plan
    model, abouts = checkpoint.members([folder / _name(s) for s in chosen])
    windows = None if data.val_windows is None else _windows(model, data.val_windows, plan, chosen[0])
    calibration = calibrate_on(model, windows) if windows is not None and len(chosen) > 1 else {}
    about = metadata(plan, data.train.spec, plan.request(chosen[0]), [], calibration, training=None)
    about["cube"]["data_digest"] = data.digest
    learned = {site for s in chosen for site in plan.sites(s)}
    sites = [site for site in plan.split.train if site in learned]
    about |= {"seeds": list(chosen), "training_sites": learned_sites(plan, sites)}
    check_held(folder)
    checkpoint.save_ensemble(folder, [_name(s) for s in chosen], about)
    (folder / DATA).unlink(missing_ok=True)
    histories = tuple(row | {"seed": s} for s, a in zip(chosen, abouts, strict=True) for row in a["history"])
    text = f"{len(chosen)} of {plan.model}, seeds {', '.join(map(str, chosen))}"
    text = "; ".join(filter(None, (text, _score(model, windows), coverage(calibration))))
    return Run(folder, plan.split, histories, text, calibration)


def _score(model: Model, windows: Windows | None) -> str:
    """Return the validation scores of the ensemble as text."""
    if windows is None:
        return ""
    scores = Validation(windows).score(model)
    return f"validation NSE {', '.join(f'{name} {value:.3f}' for name, value in scores.items())}"


def _windows(model: Model, val: Towers, plan: Plan, seed: int) -> Windows | None:
    return validation_windows(model, val, plan.training.val_windows, plan.training.batch_size, seed)


def _name(seed: int) -> str:
    return f"seed-{seed}"


def _title(seed: int) -> str:
    return f"seed {seed}"


def _named(progress: Callable | None, prefix: str) -> Callable | None:
    if progress is None:
        return None
    return lambda done, total, text: progress(done, total, f"{prefix}: {text}")
