"""Measure the speed of EcoPerceiver relative to a plain implementation with the same weights, forward and in training.

    OMP_NUM_THREADS=1 python benchmarks/forward.py [--preset published] [--rounds 7] [--bands 9] [--run FOLDER]
        [--towers CUBE] [--parts all|forward|training|none]

The input is one place with some days of random weather with gaps and one chip per day. All variants run one after
another in each round, in one process on one thread. Results are medians over the rounds of predictions per second and
of the ratio to the plain implementation in the same round (`naive.py`), whose batch size and attention are tuned
before. Predictions are the hours that a map would keep; of the banded form, which has other weights, those of a piece
of 4,096 hours that have their full history. CPU time is measured, since the machine may be shared. Limits: every window
separately 2 times, dense at the default stride 12 times, at stride T 75 times; a training step with the dense head 25
times the supervised hours per second of the plain last head, of which batches take less than 10 %. bfloat16 is measured
separately, with its error; --run uses the weights and the shape of a trained run, because random weights are not
representative, and --towers measures the error of shipped weights on 200 days of a real tower.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from naive import ATTENTION, NaiveEcoPerceiver
from torch import Tensor
from windows import shape, simulate

from fluxcube.models.base import Batch, Sizes
from fluxcube.models.ecoperceiver import EcoPerceiver
from fluxcube.models.sliding import predict_sliding
from fluxcube.samples.loader import Windows
from fluxcube.samples.windows import Series, gather
from fluxcube.timestamps import HOUR

#: Numbers of windows per pass of the plain implementation; the fastest is used.
BATCHES = (4, 8, 16, 24, 32, 64)
#: Number of windows per pass of fluxcube, as in the predictor.
OURS = 128
STRETCH = 128
#: Number of hours of one pass of the banded form, as in the predictor.
PIECE = 4096


def tensors(arrays: dict) -> Batch:
    return Batch.of(arrays).map(lambda a: torch.from_numpy(np.ascontiguousarray(a)))


def windows(series: Series, stops: np.ndarray, length: int) -> Batch:
    """Return the windows of the first place."""
    return tensors(gather(series, np.zeros_like(stops), stops, length))


def split(batch: Batch, size: int) -> list[Batch]:
    return [batch.take(slice(at, at + size)) for at in range(0, len(batch.inputs), size)]


def cpu(run: Callable) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def compared(variants: dict[str, tuple[Callable, int]], base: str, rounds: int) -> dict[str, tuple[float, float]]:
    """Return hours per second of each variant, and the median of its ratio to another in the same round."""
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, (run, hours) in variants.items():
            rate = hours / cpu(run)
            rates[name] += [rate] * (turn > 0)  # the first round warms up
    ratio = {name: np.median(np.divide(found, rates[base])) for name, found in rates.items()}
    return {name: (float(np.median(found)), float(ratio[name])) for name, found in rates.items()}


def tuned(make: Callable[[str], torch.nn.Module], run: Callable, sizes: tuple[int, ...]) -> tuple[str, int]:
    """Return the attention and batch size with which the plain implementation is fastest, best of four."""
    best: dict[tuple[str, int], float] = {}
    models = {attention: make(attention) for attention in ATTENTION}
    for attention, size in [*itertools.product(ATTENTION, sizes)] * 4:
        seconds = cpu(lambda: run(models[attention], size)) / size  # noqa: B023
        best[attention, size] = min(seconds, best.get((attention, size), np.inf))
    return min(best, key=best.get)


def build(preset: str, run: Path | None, bands: int) -> tuple[EcoPerceiver, Series]:
    """Return a model with random or trained weights, and a place for prediction."""
    torch.manual_seed(0)
    series = unplaced(simulate(1, 1, 21, bool(bands)).series)
    sizes = Sizes(inputs=21, bands=bands)
    if run is None:
        model = EcoPerceiver(shape(preset), sizes)
        torch.nn.init.normal_(model.head.weight)
        return model.eval(), series
    from fluxcube.inference.loading import load_model

    model = load_model(run).model
    return model.eval(), _as_trained(series, model.sizes)


def unplaced(series: Series) -> Series:
    """Return a series without static numbers, which the published model does not use."""
    return dataclasses.replace(series, numbers=series.numbers[:, :0])


def _as_trained(series: Series, sizes: Sizes) -> Series:
    """Return the place with the number of inputs of a trained model; smooth, so that its values resemble weather."""
    rng = np.random.default_rng(0)
    hour = np.arange(len(series.inputs))[:, None]
    phase, days = rng.random(sizes.inputs), rng.choice([1, 5, 30], sizes.inputs)
    met = 0.3 * np.sin(2 * np.pi * (hour / (24 * days) + phase)) + rng.normal(0, 0.03, (len(hour), sizes.inputs))
    met[rng.random(met.shape) < 0.05] = np.nan
    numbers = rng.uniform(-0.3, 0.3, (1, sizes.numbers)).astype(np.float32)
    classes = np.array([[rng.integers(n) for n in sizes.classes]], np.int64).reshape(1, -1)
    return dataclasses.replace(series, inputs=met.astype(np.float32), numbers=numbers, classes=classes)


def twin(model: EcoPerceiver, head: str) -> EcoPerceiver:
    """Return a model with the same weights and another head."""
    other = EcoPerceiver(dataclasses.replace(model.config, head=head, distribution="none"), model.sizes)
    other.load_state_dict(model.state_dict(), strict=False)
    return other.eval()


def plain(model: EcoPerceiver, attention: str, head: str = "last") -> NaiveEcoPerceiver:
    config = dataclasses.replace(model.config, head=head, distribution="none")
    other = NaiveEcoPerceiver(config, model.sizes, attention)
    other.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("spread")})
    return other.eval()


@torch.inference_mode()
def forward(model: EcoPerceiver, series: Series, rounds: int) -> None:
    """Print predictions per second and ratios of the forward pass."""
    length = model.context
    last, dense = twin(model, "last"), twin(model, "dense")
    stops = np.arange(STRETCH) + 240
    own = windows(series, stops, length)
    attention, size = tuned(lambda a: plain(model, a), lambda m, n: m(own.take(slice(n))), BATCHES)
    naive = plain(model, attention)
    hours = length + STRETCH - 1
    stretch = windows(series, stops[-1:], hours)
    step = max(1, length - 24)
    apart = {step: windows(series, 240 + step * np.arange(OURS), length)}
    apart[length] = windows(series, 240 + length * np.arange(OURS), length)
    count = max(STRETCH // 2 // size, 1) * size
    some = split(own.take(slice(count)), size)
    variants = {
        f"plain, last head, batch {size}, {attention}": (lambda: [naive(b) for b in some], count),
        "ours, window by window": (lambda: [last(b) for b in split(own, 32)], STRETCH),
        "ours, sliding windows": (lambda: predict_sliding(last, stretch)[0], STRETCH),
    } | {
        f"ours, dense head, stride {n}": (lambda b=b: [dense(x) for x in split(b, 32)], n * OURS)
        for n, b in apart.items()
    }
    pieces = {model.config.context: banded(model)} | {model.config.context // 2: banded(model, 2)}
    streams = {band: (net, windows(series, np.array([PIECE]), PIECE)) for band, net in pieces.items()}
    variants |= {
        f"ours, banded, T {band}, {net.context} h of history": (lambda net=net, b=b: net(b), PIECE + 1 - net.context)
        for band, (net, b) in streams.items()
    }
    base = next(iter(variants))
    found = compared(variants, base, rounds)
    expected = torch.cat([naive(b) for b in split(own, size)])[:, -1]
    spread = expected.std(0).max()
    errors = {"ours, window by window": last(own)[:, -1], "ours, sliding windows": predict_sliding(last, stretch)[0]}
    for at, n in enumerate(apart):
        reference = plain(model, attention, "dense")(apart[n].take(slice(32)))
        errors[list(variants)[3 + at]] = dense(apart[n].take(slice(32))), reference
    for name, (rate, ratio) in found.items():
        line = f"  {name:<42} {rate:9,.0f} /s   x {ratio:6.2f}"
        if name in errors:
            pair = errors[name]
            ours, theirs = pair if isinstance(pair, tuple) else (pair, expected)
            line += f"   difference {error(ours, theirs, spread):.1e}"
        print(line, flush=True)
    half(last, dense, streams[length], own, stretch, apart[length], rounds)


def banded(model: EcoPerceiver, part: int = 1) -> EcoPerceiver:
    """Return a banded form with the settings of a model, random weights, and a band of T hours or a part of them."""
    band = model.config.context // part
    config = dataclasses.replace(model.config, attention="banded", head="dense", distribution="none", context=band)
    other = EcoPerceiver(config, model.sizes)
    torch.nn.init.normal_(other.head.weight)
    return other.eval()


def error(ours: Tensor, theirs: Tensor, spread: Tensor) -> float:
    return ((ours - theirs).abs().max() / spread).item()


def half(
    last: EcoPerceiver,
    dense: EcoPerceiver,
    stream: tuple[EcoPerceiver, Batch],
    own: Batch,
    stretch: Batch,
    apart: Batch,
    rounds: int,
) -> None:
    """Print speed and error of bfloat16 products relative to float32 products."""

    def with_half(run: Callable) -> Callable:
        def inner() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return run().float()

        return inner

    runs = {
        "window by window": lambda: torch.cat([last(b) for b in split(own, 32)]),
        "sliding windows": lambda: predict_sliding(last, stretch)[0],
        "dense head, stride T": lambda: torch.cat([dense(b) for b in split(apart, 32)]),
        "banded, one piece": lambda: stream[0](stream[1]),
    }
    for name, run in runs.items():
        reference, found = run(), with_half(run)()
        rms = ((found - reference).square().mean().sqrt() / reference.std()).item()
        both = compared({"float32": (run, 1), "bfloat16": (with_half(run), 1)}, "float32", min(rounds, 5))
        print(
            f"  bfloat16, {name:<32} x {both['bfloat16'][1]:.2f} of float32   rms difference {rms:.1e}, "
            f"largest {error(found, reference, reference.std()):.1e}"
        )


def real(cube: Path, name: str = "ecoperceiver-towers", site: str = "DE-Tha", days: int = 200) -> None:
    """Print the error and the speed of bfloat16 with shipped weights at a tower, by flux."""
    import fluxcube as fc

    hours = np.datetime64("2010-03-01", "ns") + np.arange(24 * days) * HOUR
    data = fc.open_carbonsense(cube).sel(site=[site], time=slice(hours[0], hours[-1]))
    found, seconds = {}, {}
    for _ in range(2):  # the first round warms up
        for precision in ("float32", "bfloat16"):
            began = time.process_time()
            found[precision] = fc.predict(name, data, precision=precision, applicability=False).load()
            seconds[precision] = time.process_time() - began
    print(f"{name} at {site}, {days} days from 2010-03-01; float32 takes {seconds['float32']:.1f} s with reading")
    for flux in fc.load_model(name).spec.targets:
        exact, rounded = (found[precision][flux].values for precision in ("float32", "bfloat16"))
        apart = (rounded - exact) / np.nanstd(exact)
        print(f"  bfloat16, {flux}: rms {np.sqrt(np.nanmean(apart**2)):.2%}, largest {np.nanmax(np.abs(apart)):.1%}")


def training(model: EcoPerceiver, rounds: int) -> None:
    """Print supervised hours per second of a step with the plain last head and with the dense head of fluxcube."""
    length, bands, threads = model.context, model.sizes.bands, torch.get_num_threads()
    towers = simulate(2, 1, model.sizes.inputs, bool(bands))
    towers = dataclasses.replace(towers, series=unplaced(towers.series))
    loaders = {n: Windows(towers, length=length, batch_size=n, emits=length, limit=100_000) for n in (8, 16, 32, 64)}
    ready = {n: loader[0] for n, loader in loaders.items()}

    def step(net: torch.nn.Module, optimizer: torch.optim.Optimizer, arrays: dict) -> None:
        out = net(tensors(arrays))
        target = torch.from_numpy(arrays["targets"])[:, -out.shape[1] :]
        optimizer.zero_grad(set_to_none=True)
        (out - target).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

    def trained(net: torch.nn.Module) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        return net.train(), torch.optim.AdamW(net.parameters(), 1e-5)

    nets = {a: trained(plain(model, a)) for a in ATTENTION}
    attention, size = tuned(lambda a: nets[a], lambda pair, n: step(*pair, ready[n]), tuple(loaders)[:-1])
    ours = trained(twin(model, "dense"))
    variants = {
        f"plain step, last head, batch {size}, {attention}": (lambda: step(*nets[attention], ready[size]), size),
        **{f"our step, dense head, batch {n}": (lambda n=n: step(*ours, ready[n]), n * length) for n in (16, 32, 64)},
    }
    found = compared(variants, next(iter(variants)), max(3, rounds // 2))
    for name, (rate, ratio) in found.items():
        print(f"  {name:<42} {rate:9,.0f} supervised hours/s   x {ratio:6.2f}")
    numbers = itertools.count(1)
    loading = np.median([cpu(lambda: loaders[32][next(numbers)]) for _ in range(9)])
    whole = 32 * length / found["our step, dense head, batch 32"][0]
    print(f"  batches of 32 take {loading / (whole + loading):.2%} of such a step, on {threads} thread(s)")


def main(preset: str, rounds: int, bands: int, run: Path | None, parts: str, towers: Path | None) -> None:
    torch.set_num_threads(1)
    model, series = build(preset, run, bands)
    config, sizes = model.config, model.sizes
    inputs = sizes.inputs + sizes.numbers + len(sizes.classes)
    print(
        f"{run or preset}: {sum(p.numel() for p in model.parameters()):,} parameters, T {config.context}, "
        f"H {config.latent}, {config.blocks} + {config.self_layers} layers, {inputs} inputs, {sizes.bands} bands; "
        f"float32, one thread, {rounds} rounds, load {os.getloadavg()[0]:.1f}"
    )
    if parts in ("all", "forward"):
        forward(model, series, rounds)
    if parts in ("all", "training") and run is None:
        training(model, rounds)
    if towers is not None:
        real(towers)
    print(f"  load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=("published", "small"), default="published")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--bands", type=int, choices=(0, 9), default=9)
    parser.add_argument("--run", type=Path, help="folder of a trained run")
    parser.add_argument("--parts", choices=("all", "forward", "training", "none"), default="all")
    parser.add_argument("--towers", type=Path, help="cube of towers, for the error of bfloat16")
    arguments = parser.parse_args()
    main(arguments.preset, arguments.rounds, arguments.bands, arguments.run, arguments.parts, arguments.towers)
