"""Measure how fast TAM-RL predicts if a place is encoded once, relative to encoding it for every window.

    OMP_NUM_THREADS=1 python benchmarks/daily.py [--places 20] [--days 200] [--rounds 5] [--preset small]

Weights and weather are random, because the time does not depend on them. There are 8 support windows of 45 days each,
as in the paper. Both methods run one after the other in each round, in one process on one thread, over the same
windows, one for each day. Results are medians over the rounds of windows per second of CPU time, since the machine may
be shared, and of the ratio in each round. Limits: 5 times the throughput, and results that agree to 1e-5 of the
standard deviation of the fluxes. Then a training step is measured with support windows that four neighbouring windows
share, with separate ones, and for the forward model alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from fluxcube.models.base import Batch, Sizes
from fluxcube.models.tamrl import TAMRL, TAMRLConfig
from fluxcube.samples.features import Block
from fluxcube.samples.support import block_with_embeddings, series_support
from fluxcube.samples.windows import flatten, gather

SIZES = Sizes(inputs=5, classes=(11, 5), targets=3)
PASS = 128
LIMIT = 5.0


def model_of(preset: str) -> TAMRL:
    torch.manual_seed(0)
    model = TAMRL(getattr(TAMRLConfig, preset)(), SIZES)
    torch.nn.init.normal_(model.generator[-1].weight, std=0.3)
    return model.eval()


def weather(places: int, days: int) -> Block:
    rng = np.random.default_rng(0)
    return Block(
        inputs=rng.normal(size=(places, days, SIZES.inputs)).astype("float32"),
        observed=np.ones((places, days), bool),
        numbers=np.empty((places, 0), np.float32),
        classes=np.stack([rng.integers(0, n, places) for n in (11, 5)], 1),
        chips=np.empty((places, 0, 0, 64), np.float32),
        chip_hour=np.empty((places, 0), np.int64),
        first_hour=12000,
    )


def each_window(block: Block, length: int):
    whole = block.inputs.shape[1] - length + 1
    place, stop = np.divmod(np.arange(len(block.inputs) * whole), whole)
    return [(place[at : at + PASS], stop[at : at + PASS] + length) for at in range(0, len(place), PASS)]


def once(model: TAMRL, block: Block) -> np.ndarray:
    """Predict as in the predictor: every place is encoded once, and its windows have its embedding as an input."""
    series = flatten(block_with_embeddings(block, model))
    parts = [gather(series, p, s, model.context) for p, s in each_window(block, model.context)]
    return np.concatenate([model.predict(Batch.of(part))[:, -1] for part in parts])


def every_time(model: TAMRL, block: Block) -> np.ndarray:
    """Encode the support windows of its place for each window."""
    series = flatten(block)
    first = np.full(len(block.inputs), block.first_hour)
    support = series_support(series, first, block.observed.ravel(), model.context, model.support_windows)
    out = []
    with torch.inference_mode():
        for p, s in each_window(block, model.context):
            batch = Batch.of(gather(series, p, s, model.context)).map(torch.from_numpy)
            out.append(model(batch, torch.from_numpy(support[p]))[:, -1].numpy())
    return np.concatenate(out)


def cpu(run: Callable) -> tuple[float, object]:
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def mapping(model: TAMRL, block: Block, rounds: int) -> bool:
    seconds, apart = [], 0.0
    for _ in range(rounds):
        (a, one), (b, other) = cpu(lambda: once(model, block)), cpu(lambda: every_time(model, block))
        seconds.append((a, b))
        apart = max(apart, float(np.abs(one - other).max() / one.std()))
    count = len(one)
    ratio = float(np.median([b / a for a, b in seconds]))
    first, second = (count / float(np.median([s[i] for s in seconds])) for i in (0, 1))
    print(f"{count:,} windows of {len(block.inputs)} places: {first:,.0f} windows/s encoded once a place, ", end="")
    print(f"{second:,.0f} encoded for each window: {ratio:.1f} times (limit {LIMIT:g}); ", end="")
    print(f"apart by {apart:.1e} of the spread")
    return ratio >= LIMIT and apart < 1e-5


def steps(model: TAMRL, block: Block, rounds: int) -> None:
    series = flatten(block)
    stop = np.full(64, block.inputs.shape[1])
    place = np.arange(64) % len(block.inputs)
    batch = Batch.of(gather(series, place, stop, model.context)).map(torch.from_numpy)
    shape = (model.support, model.context, SIZES.inputs)
    ways = {
        "support shared by four": (torch.randn(16, *shape), torch.arange(64) // 4),
        "support of its own for each": (torch.randn(64, *shape), torch.arange(64)),
        "forward model alone": None,
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    model.train()
    for _ in range(rounds):
        for name, extra in ways.items():
            model.joint = extra is not None
            found[name].append(cpu(lambda extra=extra: model(batch, *(extra or ())).square().mean().backward())[0])
    model.joint = True
    model.eval()
    base = found["forward model alone"]
    for name, times in found.items():
        ratio = np.median([t / b for t, b in zip(times, base, strict=True)])
        print(f"a step of 64 windows, {name}: {1000 * np.median(times):.0f} ms, {ratio:.1f} times the forward model's")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--places", type=int, default=20)
    parser.add_argument("--days", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--preset", choices=("small", "published"), default="small")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, block = model_of(options.preset), weather(options.places, options.days)
    good = mapping(model, block, options.rounds)
    steps(model, block, options.rounds)
    if not good:
        raise SystemExit("below the limit")


if __name__ == "__main__":
    main()
