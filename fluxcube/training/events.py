"""Event files for TensorBoard, if it is installed."""

from __future__ import annotations

import os
from collections.abc import Mapping

from fluxcube.errors import missing_package

#: Number of steps between two events of single steps.
_EVERY = 10


class Events:
    """Writer of the event files of one run.

    Parameters
    ----------
    folder : path
        Created if it does not exist; a resumed run adds a file to it.

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
        """Write loss and learning rate, every tenth step."""
        if steps % _EVERY == 0:
            self._write("step", row, steps)

    def epoch(self, row: Mapping[str, float]) -> None:
        """Write a log entry."""
        self._write("epoch", {k: v for k, v in row.items() if k != "epoch"}, int(row["epoch"]))

    def close(self) -> None:
        """Write the buffered events and close the files."""
        self._writer.close()

    def _write(self, prefix: str, row: Mapping[str, float], at: int) -> None:
        for name, value in row.items():
            self._writer.add_scalar(f"{prefix}/{name}", value, at)
