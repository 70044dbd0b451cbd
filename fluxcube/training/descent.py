"""Training of one model by gradient descent: its windows, validation and training loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from fluxcube.errors import ConfigError
from fluxcube.models import registry
from fluxcube.models.network import Network
from fluxcube.samples.loader import Windows
from fluxcube.samples.towers import Towers
from fluxcube.tabletext import counted
from fluxcube.training.calibration import calibrate_on
from fluxcube.training.callbacks import Told
from fluxcube.training.checks import BALANCED
from fluxcube.training.job import Job
from fluxcube.training.loop import train
from fluxcube.training.loss import Balance
from fluxcube.training.parallel import World
from fluxcube.training.plan import Plan
from fluxcube.training.run import LOG, STATE, write_log
from fluxcube.training.state import Counters
from fluxcube.training.validation import Validation, mean_nse, scored_epochs, validation_windows
from fluxcube.training.weights import SupportedWindows, WeightedWindows, WindowOptions, flux_weights


def descend(
    plan: Plan,
    train_towers: Towers,
    val: Towers | None,
    world: World,
    *,
    seed: int,
    folder: Path,
    request: Mapping,
    progress: Callable[[int, int, str], None] | None,
    told: Told,
) -> tuple[Network, list[dict], str, dict]:
    """Train a model; return it with its history, a summary and the calibration of its standard deviations."""
    with torch.random.fork_rng():  # the caller's generator is left as it was
        torch.manual_seed(seed)
        model = new_network(plan)
        if plan.start is not None:
            plan.start.put(model, train_towers.spec)
        windows = training_windows(plan, model, train_towers, world, seed)
        validation = validation_windows(model, val, plan.training.val_windows, plan.training.batch_size, seed)
        job = dataclasses.replace(
            job_of(plan, model, windows, world, train_towers, request),
            validation=None if validation is None else Validation(validation),
            state=folder / STATE,
            on_epoch=lambda rows: write_log(folder / LOG, rows),
            told=told,
            progress=None if world.rank else progress,
        )
        counters = train(job)
        calibration: dict = {}
        if validation is not None and "std" in model.quantities:
            calibration = world.first(lambda: calibrate_on(model, validation))
    return model, counters.history, _summary(model, counters, plan.training.keep), calibration


def new_network(plan: Plan) -> Network:
    """Build the untrained model of a plan (ConfigError if it is no network)."""
    model = registry.build(plan.model, plan.config, plan.sizes())
    if not isinstance(model, Network):
        raise ConfigError(
            f"{plan.model} is registered with trainer='descent', but its class is no fluxcube.models.network.Network: "
            "derive it from Network, or register it with trainer='rows'."
        )
    return model


def _balance(plan: Plan, towers: Towers) -> Balance | None:
    if not set(BALANCED) <= set(plan.spec.targets):
        return None
    nee, gpp, reco = plan.balanced
    return Balance(nee, gpp, reco, towers.spec.target_mean, towers.spec.target_scale)


def job_of(plan: Plan, model: Network, windows: Windows, world: World, towers: Towers, request: Mapping) -> Job:
    """Return the job of a plan, without what is scored, written and told."""
    return Job(
        model=model,
        windows=windows,
        config=plan.training,
        world=world,
        request=request,
        balance=_balance(plan, towers),
        alpha=plan.balance,
        pretrain=plan.pretrain_epochs,
    )


def training_windows(plan: Plan, model: Network, towers: Towers, world: World, seed: int) -> Windows:
    """Return the training windows of a process, with their weights."""
    config = plan.training
    if config.effective_batch and config.effective_batch % world.size:
        raise ConfigError(
            f"effective_batch must be a multiple of the number of processes, found {config.effective_batch} and "
            f"{world.size}."
        )
    options: WindowOptions = {
        "length": model.training_length,
        "emits": model.supervised,
        "stride": config.stride or model.training_stride,
        "limit": config.windows_per_epoch,
        "batch_size": config.effective_batch // world.size if config.effective_batch else config.batch_size,
        "partial": towers.spec.time_resolution.partial_windows,
        "repeat_images": model.streams,
        "seed": seed,
        "rank": world.rank,
        "world_size": world.size,
    }
    if not plan.weigh and not model.embedding_size:
        return Windows(towers, **options)
    weights = flux_weights(plan.split.part(plan.cube, "train"), towers, plan.weigh, filled=plan.filled_weight)
    if model.embedding_size:
        return SupportedWindows(towers, weights, model.support_windows, model.support_queries, **options)
    return WeightedWindows(towers, weights, **options)


def _summary(model: Network, counters: Counters, keep: str) -> str:
    parameters = sum(p.numel() for p in model.parameters())
    text = f"{model.kind}, {parameters:,} parameters, {counted(counters.epoch, 'epoch')} in {counters.seconds:.0f} s"
    rows = scored_epochs(counters.history)
    scored = [row for row in rows if any(k.startswith("val_nse_") and v == v for k, v in row.items())]
    if not scored:
        return f"{text}; no validation, the last epoch is kept"
    kept = scored[-1] if keep == "last" else max(scored, key=mean_nse)
    values = ", ".join(f"{k.removeprefix('val_nse_')} {v:.3f}" for k, v in kept.items() if k.startswith("val_nse_"))
    return f"{text}; {keep} epoch ({kept['epoch']}) kept, validation NSE {values}"
