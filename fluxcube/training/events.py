"""Event files for TensorBoard, where it is installed."""

from __future__ import annotations

import os
from collections.abc import Mapping

from fluxcube.errors import missing_package

#: Steps between two of the events of single steps.
_EVERY = 10


class Events:
    """A writer of one run's numbers.

    Parameters
    ----------
    folder : path
        Made if need be; a run that goes on adds a file to it.

    Raises
    ------
    MissingPackageError
        If tensorboard is not installed.
    """

    def __init__(self, folder: str | os.PathLike):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing_package("tensorboard", "log", "tensorboard=True") from error
        self._writer = SummaryWriter(os.fspath(folder))

    def step(self, steps: int, row: Mapping[str, float]) -> None:
        """Write what a step gave, each tenth step."""
        if steps % _EVERY == 0:
            self._write("step", row, steps)

    def epoch(self, row: Mapping[str, float]) -> None:
        """Write a row of the log."""
        self._write("epoch", {k: v for k, v in row.items() if k != "epoch"}, int(row["epoch"]))

    def close(self) -> None:
        """Write what is still in memory."""
        self._writer.close()

    def _write(self, prefix: str, row: Mapping[str, float], at: int) -> None:
        for name, value in row.items():
            self._writer.add_scalar(f"{prefix}/{name}", value, at)
