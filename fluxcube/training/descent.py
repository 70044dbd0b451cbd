"""Training by gradient descent: windows, validation and loop of one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from fluxcube.errors import ConfigError
from fluxcube.models import registry
from fluxcube.models.base import Model, quantities
from fluxcube.samples.loader import Windows
from fluxcube.samples.towers import Towers
from fluxcube.training.calibration import calibrate_on
from fluxcube.training.events import Events
from fluxcube.training.loop import Validation, bring_codes, mean_nse, scored_rows, train
from fluxcube.training.loss import Balance
from fluxcube.training.parallel import World
from fluxcube.training.plan import Plan
from fluxcube.training.run import EVENTS, LOG, STATE, write_log
from fluxcube.training.state import Counters
from fluxcube.training.weights import SupportedWindows, WeightedWindows, flux_weights

#: Hours of history that each validated hour of a dense head sees at least.
_HISTORY = 24


def descend(
    plan: Plan,
    train_towers: Towers,
    val: Towers | None,
    world: World,
    *,
    seed: int,
    folder: Path,
    request: Mapping,
    progress: Callable | None,
) -> tuple[Model, list, str, dict]:
    """Train a model; return it with its history, a summary and the calibration of its standard deviations."""
    with torch.random.fork_rng():  # the caller's generator is left as it was
        torch.manual_seed(seed)
        made = registry.build(plan.model, plan.config, plan.sizes())
        if plan.start is not None:
            plan.start.put(made, train_towers.spec)
        windows = _windows(plan, made, train_towers, world, seed)
        held = validation_windows(made, val, plan.training.val_windows, plan.training.batch_size, seed)
        events = Events(folder / EVENTS) if plan.training.tensorboard and not world.rank else None

        def on_epoch(rows: list[dict]) -> None:
            write_log(folder / LOG, rows)
            if events:
                events.epoch(rows[-1])

        try:
            counters = train(
                made,
                windows,
                None if held is None else Validation(held),
                plan.training,
                world=world,
                state=folder / STATE,
                request=request,
                on_epoch=on_epoch,
                on_step=events.step if events else None,
                progress=None if world.rank else progress,
                balance=_balance(plan, train_towers),
                alpha=plan.balance,
                pretrain=plan.pretrain_epochs,
            )
        finally:
            if events:
                events.close()
        wanted = held is not None and "std" in quantities(made)
        calibration = world.first(lambda: calibrate_on(made, held)) if wanted else {}
    return made, counters.history, _summary(made, counters, plan.training.keep), calibration


def validation_windows(model: Model, val: Towers | None, limit: int, batch_size: int, seed: int) -> Windows | None:
    """Return the fixed windows of validation towers that a model is scored on, each hour with a day of history.

    Windows of days are whole, as they are where a model predicts.
    """
    if val is None:
        return None
    scored = min(model.emits, max(1, model.context - _HISTORY))
    options = {"length": model.context, "batch_size": batch_size, "partial": not val.spec.daily, "seed": seed}
    windows = Windows(val, emits=scored, limit=limit, **options)
    bring_codes(model, windows)
    return windows


def _balance(plan: Plan, towers: Towers) -> Balance | None:
    return Balance(*plan.balanced, towers.spec.target_mean, towers.spec.target_scale) if plan.balance else None


def _windows(plan: Plan, made: Model, towers: Towers, world: World, seed: int) -> Windows:
    config = plan.training
    emits = getattr(made, "supervised", made.emits)
    stride = config.stride or getattr(made, "stride", max(1, made.context // 2) if made.emits > 1 else 1)
    if config.effective_batch and config.effective_batch % world.size:
        raise ConfigError(
            f"effective_batch must be a multiple of the number of processes, found {config.effective_batch} and "
            f"{world.size}."
        )
    options = {
        "length": made.context,
        "emits": emits,
        "stride": stride,
        "limit": config.windows_per_epoch,
        "batch_size": config.effective_batch // world.size if config.effective_batch else config.batch_size,
        "partial": not towers.spec.daily,
        "seed": seed,
        "rank": world.rank,
        "world_size": world.size,
    }
    supported = getattr(made, "code_size", 0)
    if not plan.weigh and not supported:
        return Windows(towers, **options)
    weights = flux_weights(plan.split.part(plan.cube, "train"), towers, plan.weigh)
    if supported:
        return SupportedWindows.of(towers, weights, made.support, made.config.queries, **options)
    return WeightedWindows.of(towers, weights, **options)


def _summary(model, counters: Counters, keep: str) -> str:
    parameters = sum(p.numel() for p in model.parameters())
    text = f"{model.kind}, {parameters:,} parameters, {counters.epoch} epochs in {counters.seconds:.0f} s"
    rows = scored_rows(counters.history)
    scored = [row for row in rows if any(k.startswith("val_nse_") and v == v for k, v in row.items())]
    if not scored:
        return f"{text}; no validation, the last epoch is kept"
    kept = scored[-1] if keep == "last" else max(scored, key=mean_nse)
    values = ", ".join(f"{k.removeprefix('val_nse_')} {v:.3f}" for k, v in kept.items() if k.startswith("val_nse_"))
    return f"{text}; {keep} epoch ({kept['epoch']}) kept, validation NSE {values}"
