"""Measure predictions and training steps of EcoPerceiver on a device, with data that lie on it already.

    python benchmarks/card.py [--device cuda] [--preset published] [--windows 2048] [--rounds 9]

Random weights and weather, 21 inputs, 9 bands with daily chips. Printed are, for float32 and for bfloat16 products,
with and without CUDA graphs, predictions per second of sliding windows (exact), of the dense head at strides 8 and T,
and of the banded form; windows per second of a training step with fused AdamW; the share of the rate of a large
bfloat16 product, measured in the same run, that these passes reach, with FLOPs by torch's counter; and the peak of the
memory of the card. Times are those of the wall, between synchronisations of the device; medians of the rounds. On a
CPU (`--device cpu --windows 8`) the same code runs, without graphs. Required on a card: 3 million predictions/s of the
published preset (dense or banded) and 0.4 million exact ones, 10 million of `small()`, and 150,000 windows/s in
training.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable

import numpy as np
import torch
from forward import PIECE, STRETCH, banded, build, twin, windows
from torch.utils.flop_counter import FlopCounterMode

from fluxcube.models.base import Batch
from fluxcube.models.ecoperceiver import EcoPerceiver
from fluxcube.models.graphs import Replayed

#: Hours of a place at which windows end, so that each has its own weather.
FIRST, LAST = 400, 8760


def seconds(run: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Return the median of the wall time of a call, after three calls to warm up."""
    found = []
    for turn in range(rounds + 3):
        _wait(device)
        began = time.perf_counter()
        run()
        _wait(device)
        found += [time.perf_counter() - began] * (turn >= 3)
    return float(np.median(found))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def product_rate(device: torch.device, rounds: int) -> float:
    """Return the FLOP/s of a large product in bfloat16."""
    size = 8192 if device.type == "cuda" else 512
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    return 2 * size**3 / seconds(lambda: a @ a, device, rounds)


def flops(run: Callable[[], object]) -> int:
    """Return the FLOPs of a call."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def precision(device: torch.device, half: bool) -> contextlib.AbstractContextManager:
    """Return the context in which products are computed in bfloat16, or in float32."""
    return torch.autocast(device.type, torch.bfloat16) if half else contextlib.nullcontext()


def passes(preset: str, device: torch.device, count: int) -> dict[str, tuple[EcoPerceiver, Batch, int]]:
    """Return model, batch and number of predictions of each form; `count` windows, or the same number of hours."""
    model, series = build(preset, None, 9)
    length = model.context
    last, dense, band = twin(model, "last"), twin(model, "dense"), banded(model)

    def cut(number: int, hours: int) -> Batch:
        return windows(series, np.linspace(max(FIRST, hours), LAST, number).astype(np.int64), hours).map(_to(device))

    cells, pieces = max(1, count // STRETCH), max(1, count * length // PIECE)
    forms = {
        "exact, sliding windows": (last, cut(cells, length + STRETCH - 1), cells * STRETCH),
        "dense, stride 8": (dense, cut(count, length), 8 * count),
        f"dense, stride {length}": (dense, cut(count, length), length * count),
        f"banded, T {length}": (band, cut(pieces, PIECE), pieces * (PIECE + 1 - band.context)),
    }
    return {name: (net.to(device), batch, number) for name, (net, batch, number) in forms.items()}


def _to(device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda tensor: tensor.to(device)


@torch.inference_mode()
def forward(preset: str, device: torch.device, count: int, rounds: int, rate: float) -> None:
    """Print predictions per second of each form."""
    for name, (model, batch, number) in passes(preset, device, count).items():
        work = flops(lambda: model.estimates(batch))  # noqa: B023
        for half in (False, True):
            runs: dict[str, Callable[[Batch], object]] = {"": model.estimates}
            if device.type == "cuda":
                runs[", graph"] = Replayed(model, model.estimates)
            for graph, run in runs.items():
                with precision(device, half):
                    taken = seconds(lambda: run(batch), device, rounds)  # noqa: B023
                label = f"{name}, {'bfloat16' if half else 'float32'}{graph}"
                print(
                    f"  {label:<42} {number / taken:13,.0f} predictions/s   {work / taken / rate:6.1%} of the rate",
                    flush=True,
                )


def training(preset: str, device: torch.device, count: int, rounds: int, rate: float) -> None:
    """Print windows per second of a training step with the dense head."""
    model, series = build(preset, None, 9)
    model = twin(model, "dense").to(device).train()
    length = model.context
    batch = windows(series, np.linspace(FIRST, LAST, count).astype(np.int64), length).map(_to(device))
    target = torch.randn(count, length, model.n_targets, device=device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=True)

    def step() -> None:
        with precision(device, device.type == "cuda"):
            out = model(batch)
        optimizer.zero_grad(set_to_none=True)
        (out - target).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()

    taken = seconds(step, device, rounds)
    share = flops(step) / taken / rate
    print(f"  {'training step, dense head':<42} {count / taken:13,.0f} windows/s       {share:6.1%} of the rate")


def main(preset: str, name: str, count: int, rounds: int) -> None:
    device = torch.device(name)
    rate = product_rate(device, rounds)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    print(f"{preset}, {count} windows, {card}; a product in bfloat16 makes {rate / 1e12:,.2f} TFLOP/s")
    forward(preset, device, count, rounds, rate)
    training(preset, device, count, rounds, rate)
    if device.type == "cuda":
        print(f"  peak memory {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--preset", choices=("published", "small"), default="published")
    parser.add_argument("--windows", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    main(arguments.preset, arguments.device, arguments.windows, arguments.rounds)
