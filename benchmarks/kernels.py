"""Count the kernels of EcoPerceiver's forward pass, sliding-window inference and training step.

    python benchmarks/kernels.py [--preset published] [--cells 4] [--card]

Every operation that a dispatch mode sees counts as one kernel, except views, allocations and metadata: on a GPU each
costs a launch, of which a card does about 200 thousand a second. Run it with an older version of fluxcube on PYTHONPATH
for its numbers. --card counts the path of a GPU, on the CPU.
"""

from __future__ import annotations

import argparse
import collections

import torch
from forward import build, twin, windows
from torch.utils._python_dispatch import TorchDispatchMode

from fluxcube.models.sliding import predict_sliding

#: Operations that launch no kernel, beside views, which are found by their schema: allocations and scalars of the host.
FREE = {
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "scalar_tensor"),
    *("detach", "alias", "_unsafe_view", "lift_fresh", "_record_function_enter_new", "_record_function_exit"),
}


class Kernels(TorchDispatchMode):
    """Count operations by name; those without a kernel are left out."""

    def __init__(self):
        super().__init__()
        self.counts: collections.Counter = collections.Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if not func.is_view and name not in FREE:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def counted(run) -> collections.Counter:
    with Kernels() as mode:
        run()
    return mode.counts


def printed(name: str, counts: collections.Counter) -> None:
    common = ", ".join(f"{key} {n}" for key, n in counts.most_common(8))
    print(f"  {name:<34} {counts.total():5d}   {common}")


def main(preset: str, cells: int, card: bool) -> None:
    torch.set_num_threads(1)
    model, series = build(preset, None, 9)
    last, dense = twin(model, "last"), twin(model, "dense")
    for module in (*last.modules(), *dense.modules()) if card else ():
        module.few_kernels = True
    length = model.context
    own = windows(series, 240 + length * torch.arange(8).numpy(), length)
    stretch = windows(series, torch.full((cells,), 400).numpy(), 72)
    with torch.no_grad():  # inference mode hides what a linear layer or an einsum is made of
        printed("forward, last head", counted(lambda: last(own)))
        printed("forward, dense head", counted(lambda: dense(own)))
        try:
            printed(f"sliding windows, {cells} cells", counted(lambda: predict_sliding(last, stretch)))
        except (RuntimeError, ValueError, IndexError):
            one = windows(series, torch.full((1,), 400).numpy(), 72)
            printed("sliding windows, 1 cell", counted(lambda: predict_sliding(last, one)))
    dense.train()
    optimizer = torch.optim.AdamW(dense.parameters(), 1e-4, fused=True)
    target = torch.randn(8, length, 1)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        (dense(own) - target).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(dense.parameters(), 1.0, foreach=True)
        optimizer.step()

    step()  # the optimizer makes its state
    printed("training step", counted(step))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=("published", "small"), default="published")
    parser.add_argument("--cells", type=int, default=4)
    parser.add_argument("--card", action="store_true")
    arguments = parser.parse_args()
    main(arguments.preset, arguments.cells, arguments.card)
