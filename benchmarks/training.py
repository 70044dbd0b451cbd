"""Measure the cost of a training step: RAM by batch and window, supervised hours of both heads, and the loader's share.

    OMP_NUM_THREADS=1 python benchmarks/training.py [--preset small|published] [--batch 128] [--rounds 5] [--device cpu]
        [--parts memory,heads,plain]

RAM is the peak of one whole step (forward, backward, AdamW), each setting in a separate process: resident memory
beyond that of a step of one window (on a GPU, torch's own count). Linear means that twice the number of windows, or
twice the hours of each, take at most 2.2 times as much. The heads are compared at equal context and batch size, steps
in turns, best of the rounds. The loader's share is the time for which a step waits for its next batch, prepared as in
`fit`.

"plain" compares whole steps of the training loop (dropout, forward, backward, clipping, AdamW, reading of the sums)
with steps of the plain implementation (`naive.py`) with the last head, whose batch size and attention are tuned before:
supervised hours per second of CPU time on one thread, interleaved, medians of the rounds. Limit: 75 times. The share of
the batches is that of windows that are cut by NumPy, and by torch out of data on the device.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import time

import numpy as np
import torch
from forward import compared, cpu, plain, tensors, tuned, unplaced
from naive import ATTENTION
from windows import shape, simulate

from fluxcube.models.base import Batch, Sizes
from fluxcube.models.ecoperceiver import EcoPerceiver, EcoPerceiverConfig
from fluxcube.samples.features import Block, FeatureSpec
from fluxcube.samples.loader import Windows
from fluxcube.samples.towers import Towers
from fluxcube.samples.windows import join
from fluxcube.training.config import TrainingConfig
from fluxcube.training.job import Job
from fluxcube.training.loop import _Run
from fluxcube.training.loss import squared_error
from fluxcube.training.parallel import World
from fluxcube.training.resident import ResidentWindows, on_device
from fluxcube.variables import BANDS, predictors

COLUMNS, HOURS, SITES = 21, 8760, 4
MAX_RATIO = 2.2


def towers() -> Towers:
    """Return random towers with the published 21 inputs, nine bands and one target."""
    rng = np.random.default_rng(0)
    spec = FeatureSpec(predictors=tuple(predictors())[:COLUMNS], bands=BANDS, static=("latitude",))

    def site() -> Block:
        met = rng.random((1, HOURS, COLUMNS), dtype=np.float32) - np.float32(0.5)
        met[rng.random(met.shape, dtype=np.float32) < 0.05] = np.nan
        days = HOURS // 24
        return Block(
            inputs=met,
            observed=np.ones((1, HOURS), bool),
            numbers=rng.random((1, 1), dtype=np.float32),
            classes=np.empty((1, 0), np.int64),
            chips=rng.random((1, days, len(BANDS), 64), dtype=np.float32),
            chip_hour=18 + 24 * np.arange(days)[None],
            first_hour=300_000,
        )

    fluxes = rng.normal(size=(SITES * HOURS, 1)).astype(np.float32)
    fluxes[rng.random(fluxes.shape) < 0.3] = np.nan
    names = tuple(f"XX-{i:03d}" for i in range(SITES))
    first = np.full(SITES, 300_000)
    return Towers(spec, names, join(site() for _ in range(SITES)), np.arange(SITES), first, fluxes)


class Trainer:
    """Return a model, its optimizer and its windows."""

    def __init__(self, data: Towers, config: EcoPerceiverConfig, batch: int, device: str):
        torch.manual_seed(0)
        self.model = EcoPerceiver(config, Sizes(inputs=COLUMNS, bands=len(BANDS), numbers=1)).to(device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-4, fused=True)
        self.device = torch.device(device)
        self.windows = Windows(data, length=config.context, batch_size=batch, emits=self.model.emits, seed=1)
        self.half = self.device.type == "cuda"

    def step(self, arrays: dict[str, np.ndarray]) -> int:
        """Make a step; return its supervised hours."""
        features = Batch.of(arrays).map(lambda a: torch.from_numpy(a).to(self.device))
        target = torch.from_numpy(arrays["targets"]).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            out = self.model(features)
        count = torch.isfinite(target).sum()
        loss = squared_error(out, target) / count
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return int(count)


def config_of(preset: str, **changes: object) -> EcoPerceiverConfig:
    return dataclasses.replace(shape(preset), **changes)


def peak(preset: str, head: str, batch: int, context: int, device: str) -> None:
    """Print the RAM of a step beyond that of one window; run in a separate process."""
    trainer = Trainer(towers(), config_of(preset, head=head, context=context), batch, device)
    one = {name: array[:1] for name, array in trainer.windows[0].items()}
    trainer.step(one)
    arrays = trainer.windows[1]
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        trainer.step(arrays)
        print(torch.cuda.max_memory_allocated() - before)
        return
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    trainer.step(arrays)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)


def memory(args: argparse.Namespace) -> bool:
    """Print the table of peaks; return whether they grow linearly."""
    linear, sizes = True, {}
    print(f"peak memory of a step, {args.preset}, dense head (MiB)")
    cases = [(args.batch // 2, 32), (args.batch, 32), (2 * args.batch, 32), (args.batch, 16), (args.batch, 64)]
    for batch, context in cases:
        command = [sys.executable, __file__, "--peak", json.dumps([args.preset, "dense", batch, context, args.device])]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        sizes[batch, context] = int(done.stdout.split()[-1])
        each = sizes[batch, context] / batch / context
        print(
            f"  batch {batch:5d}  T {context:3d}  {sizes[batch, context] / 2**20:8.0f}  {each / 1024:6.1f} KiB an hour"
        )
    b = args.batch
    for what, small, large in (
        ("batch", (b // 2, 32), (b, 32)),
        ("batch", (b, 32), (2 * b, 32)),
        ("T", (b, 16), (b, 32)),
        ("T", (b, 32), (b, 64)),
    ):
        ratio = sizes[large] / sizes[small]
        linear &= ratio <= MAX_RATIO
        print(f"  twice the {what} ({small} to {large}): {ratio:.2f} times the memory")
    return linear


def heads(args: argparse.Namespace, data: Towers) -> None:
    """Print steps and supervised hours per second of both heads, and the loader's share."""
    trainers = {h: Trainer(data, config_of(args.preset, head=h), args.batch, args.device) for h in ("last", "dense")}
    best = {name: (np.inf, 0.0, 0) for name in trainers}
    for turn in range(args.rounds):
        for name, trainer in trainers.items():
            started = time.perf_counter()
            arrays = trainer.windows[turn]
            loaded = time.perf_counter()
            hours = trainer.step(arrays)
            if args.device == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - started
            if turn and seconds < best[name][0]:
                best[name] = seconds, loaded - started, hours
    for name, (seconds, loading, hours) in best.items():
        share = loading / seconds
        print(
            f"{name:5s} head: {seconds * 1e3:7.1f} ms a step of {args.batch} windows, {hours / seconds:9,.0f} learnt"
            f" hours/s, loader {share:.1%} of a step"
        )
    (a, _, last), (b, _, dense) = best["last"], best["dense"]
    print(f"dense over last: {dense / b / (last / a):.1f} times the supervised hours/s, {b / a:.2f} times the step")


def against_plain(preset: str, rounds: int) -> None:
    """Print supervised hours per second of steps of the training loop, and of the plain last head."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = simulate(2, 1, COLUMNS, True)
    data = dataclasses.replace(data, series=unplaced(data.series))
    model = EcoPerceiver(config_of(preset, head="dense"), Sizes(inputs=COLUMNS, bands=len(BANDS)))
    length = model.context

    def windows(size: int) -> Windows:
        return Windows(data, length=length, batch_size=size, emits=length, limit=100_000)

    ready = {size: windows(size)[0] for size in (8, 16, 32, 64)}

    def plain_step(net: torch.nn.Module, optimizer: torch.optim.Optimizer, arrays: dict[str, np.ndarray]) -> None:
        out = net(tensors(arrays))
        target = torch.from_numpy(arrays["targets"])[:, -1:]
        optimizer.zero_grad(set_to_none=True)
        (out - target).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

    def trained(net: torch.nn.Module) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        return net.train(), torch.optim.AdamW(net.parameters(), 1e-5, fused=True)

    nets = {a: trained(plain(model, a)) for a in ATTENTION}
    attention, best = tuned(lambda a: nets[a], lambda pair, n: plain_step(*pair, ready[n]), (8, 16, 32))
    world = World(torch.device("cpu"))

    def loop(size: int) -> _Run:
        config = TrainingConfig(batch_size=size, lr=1e-5)
        job = Job(model=model, windows=windows(size), config=config, world=world, request={"seed": 0})
        return _Run(job, trained(model)[1])

    def step(run: _Run, arrays: dict[str, np.ndarray]) -> None:
        run._step(on_device(arrays, world.device))
        run._read()

    runs = {size: loop(size) for size in (16, 32, 64)}
    base = f"plain step, last head, batch {best}, {attention}"
    variants = {base: (lambda: plain_step(*nets[attention], ready[best]), best)}
    variants |= {
        f"step of the loop, dense head, batch {n}": (lambda n=n: step(runs[n], ready[n]), n * length) for n in runs
    }
    found = compared(variants, base, rounds)
    for name, (rate, ratio) in found.items():
        print(f"  {name:<42} {rate:9,.0f} supervised hours/s   x {ratio:6.2f}")
    seconds = 32 * length / found["step of the loop, dense head, batch 32"][0]
    for name, batches in (("NumPy", iter(windows(32))), ("data on the device", _resident(windows(32)))):
        loading = np.median([cpu(lambda: next(batches)) for _ in range(20)])  # noqa: B023
        print(f"  batches of 32, {name}: {loading * 1e6:,.0f} us, {loading / seconds:.2%} of such a step")


def _resident(windows: Windows):
    return ResidentWindows(windows, torch.device("cpu")).epoch(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="small", choices=("small", "published"))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--parts", default="memory,heads,plain")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        peak(*json.loads(args.peak))
        return
    if "plain" in args.parts:
        against_plain(args.preset, args.rounds)
    if "heads" in args.parts:
        heads(args, towers())
    if "memory" in args.parts:
        print(f"memory grows linearly: {'yes' if memory(args) else 'NO'}")


if __name__ == "__main__":
    main()
