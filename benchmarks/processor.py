"""Measure where the forward pass of EcoPerceiver spends a core, its distance from the floor, and what makes it faster.

    OMP_NUM_THREADS=1 python benchmarks/processor.py [--preset small] [--bands 9] [--rounds 5] [--only NAME,...]

Windows of 32 hours of random weather with gaps and daily chips, dense head at its default stride, one thread, CPU time,
variants in turn, medians of paired rounds. Printed are

floor     GFLOP/s of the largest matrix product of the model, alone, in the same run; FLOPs of a window by torch's own
          counter; and the time that these would take, relative to the time of the pass
profile   share of each kind of operation in the CPU time of a pass
variants  windows per second relative to passes of 128 windows, and the largest and the rms difference of the output
          relative to its standard deviation: other numbers of windows in a pass, denormal numbers flushed to zero,
          bfloat16 (autocast), int8 (dynamic quantisation of linear layers), `torch.compile` (needs a C++ compiler; the
          time to compile is printed)

Weights are random: nothing here describes skill.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import time
from collections.abc import Callable

import numpy as np
import torch
from forward import build, cpu, split, twin, windows
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from fluxcube.models.base import Batch
from fluxcube.models.ecoperceiver import EcoPerceiver

#: Number of windows of a pass in maps, and number of windows of a variant's run.
USUAL, WINDOWS = 128, 1024
#: Layers that are not quantised.
KEPT = ("key", "value", "head")


class Traffic(TorchDispatchMode):
    """Counts the bytes of the arrays that operations read and write, except views."""

    total = 0

    def __torch_dispatch__(self, func: object, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        out = func(*args, **(kwargs or {}))
        written, read = ({t.data_ptr(): t.nbytes for t in tree_leaves(x) if isinstance(t, Tensor)} for x in (out, args))
        if not written.keys() <= read.keys():  # otherwise a view, or in place, which writes what it reads
            self.total += sum(written.values()) + sum(read.values())
        elif func.__name__.split(".")[0].endswith("_"):
            self.total += 2 * sum(written.values())
        return out


def gigabytes() -> float:
    """Return the GB/s of a copy of an array that is larger than the caches, read and written."""
    source = torch.ones(2**26)
    target = source.clone()
    return max(2 * source.nbytes / cpu(lambda: target.copy_(source)) for _ in range(5)) / 1e9


def gflops(model: EcoPerceiver) -> float:
    """Return GFLOP/s of the first layer of an MLP alone, for the rows of a usual pass."""
    layer = model.cross[0].mlp[0]
    rows = torch.randn(USUAL * model.context, layer.in_features)
    work = 2 * rows.shape[0] * layer.in_features * layer.out_features
    layer(rows)
    return max(work / cpu(lambda: layer(rows)) for _ in range(20)) / 1e9


def flops(model: EcoPerceiver, batch: Batch) -> float:
    """Return the FLOPs of matrix products for each window."""
    with FlopCounterMode(display=False) as counter:
        model(batch)
    return counter.get_total_flops() / len(batch.inputs)


def profile(model: EcoPerceiver, batch: Batch) -> None:
    """Print the share of the operations that take the most time."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as record:
        for part in split(batch, USUAL):
            model(part)
    rows = sorted(record.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    print(
        "profile: "
        + ", ".join(f"{row.key.removeprefix('aten::')} {row.self_cpu_time_total / total:.0%}" for row in rows[:14])
    )


@contextlib.contextmanager
def flushed() -> None:
    torch.set_flush_denormal(True)
    yield
    torch.set_flush_denormal(False)


def in_passes(model: Callable[[Batch], Tensor], batch: Batch, size: int) -> Callable[[], Tensor]:
    parts = split(batch, size)
    return lambda: torch.cat([model(part).float() for part in parts])


def within(context: Callable[[], contextlib.AbstractContextManager], run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def inner() -> Tensor:
        with context():
            return run()

    return inner


def variants(model: EcoPerceiver, batch: Batch) -> dict[str, Callable[[], Tensor]]:
    """Return the runs to compare by name; the first is the base."""
    usual = in_passes(model, batch, USUAL)
    # Keys and values are not called as layers: their weights are used by themselves.
    linear = {
        k for k, m in model.named_modules() if isinstance(m, torch.nn.Linear) and k.rpartition(".")[2] not in KEPT
    }
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), linear, dtype=torch.qint8)
    compiled = torch.compile(copy.deepcopy(model), dynamic=False)
    found = {f"{USUAL} windows": usual}
    found |= {f"{size} windows": in_passes(model, batch, size) for size in (8, 16, 32, 64, 256, 512)}
    found["denormal numbers flushed"] = within(flushed, usual)
    found["bfloat16"] = within(lambda: torch.autocast("cpu", torch.bfloat16), usual)
    found["int8"] = in_passes(quantised, batch, USUAL)
    found["torch.compile"] = in_passes(compiled, batch, USUAL)
    found["torch.compile, bfloat16"] = within(
        lambda: torch.autocast("cpu", torch.bfloat16), in_passes(compiled, batch, USUAL)
    )
    return found


@torch.inference_mode()
def main(preset: str, bands: int, rounds: int, only: list[str]) -> None:
    torch.set_num_threads(1)
    model, series = build(preset, None, bands)
    model = twin(model, "dense")
    stops = np.arange(WINDOWS) * 8 + 240
    batch = windows(series, stops, model.context)
    rate, work = gflops(model), flops(model, split(batch, USUAL)[0])
    with Traffic() as traffic:
        model(split(batch, USUAL)[0])
    moved, speed = traffic.total / USUAL, gigabytes()
    usual = in_passes(model, batch, USUAL)
    usual()
    seconds = np.median([cpu(usual) for _ in range(rounds)]) / WINDOWS
    print(
        f"{preset}: {work / 1e6:.1f} MFLOP a window, {rate:.0f} GFLOP/s in a matrix product alone, "
        f"{1e6 * seconds:.0f} us a window: matrix products at that rate are {work / rate / 1e9 / seconds:.0%} of it; "
        f"{moved / 1e6:.1f} MB a window, {speed:.0f} GB/s of a copy in RAM: {moved / speed / 1e9 / seconds:.0%} of it"
    )
    profile(model, batch)
    runs = {k: run for k, run in variants(model, batch).items() if not only or any(k.startswith(o) for o in only)}
    answers, times = {}, {name: [] for name in runs}
    for name, run in runs.items():
        start = time.process_time()
        answers[name] = run()
        if name.startswith("torch.compile"):
            print(f"  {name}: compiled in {time.process_time() - start:.0f} s")
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(cpu(run))
    base = next(iter(runs))
    for name, found in times.items():
        error = (answers[name] - answers[base]) / answers[base].std()
        ratio = np.median(np.divide(times[base], found))
        print(
            f"  {name:<28} x {ratio:5.2f}   rms {error.square().mean().sqrt():.1e}, largest {error.abs().max():.1e}",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--bands", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="beginnings of the names of variants, comma-separated")
    arguments = parser.parse_args()
    main(arguments.preset, arguments.bands, arguments.rounds, [o for o in arguments.only.split(",") if o])
