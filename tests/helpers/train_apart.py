"""A script that trains in processes of its own: under torchrun, or to be killed."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys

import torch
from training_helpers import FAST, TINY, eco, small_cube

torch.set_num_threads(1)

#: What both a broken and an unbroken run train: passes, averages, a Gaussian head, dropout.
KILLED = {
    "config": dataclasses.replace(TINY, distribution="gaussian"),
    "training": dataclasses.replace(
        FAST, effective_batch=32, batch_size=12, ema=0.95, checkpoint_seconds=0.0, windows_per_epoch=150
    ),
}
#: What several processes and one train: two targets of which hours are missing, dropout, a last batch that is smaller.
SHARED = {
    "config": dataclasses.replace(TINY, distribution="gaussian"),
    "training": dataclasses.replace(
        FAST, effective_batch=32, batch_size=8, windows_per_epoch=90, ema=0.9, patience=3, keep="last", device="cpu"
    ),
}
#: The same on a card that the processes share.
CARD = SHARED | {"training": dataclasses.replace(SHARED["training"], device="cuda:0", precision="float32")}


def main(what: str, out: str, at: int) -> None:
    """Train; kill this process without a word after `at` steps."""
    steps = 0

    def progress(done: int, total: int, text: str) -> None:
        nonlocal steps
        steps += text.startswith("epoch")
        if what == "killed" and steps == at:
            os.kill(os.getpid(), signal.SIGKILL)

    eco(small_cube(), out, **{"killed": KILLED, "shared": SHARED, "card": CARD}[what], progress=progress)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
