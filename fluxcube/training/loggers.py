"""Loggers by name: callbacks that write what training does for TensorBoard, W&B, MLflow, or as CSV.

Each package is imported when a run begins. Where W&B and MLflow write, and as whom, is theirs to decide: by their own
environment variables (``WANDB_MODE``, ``WANDB_PROJECT``, ``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME``) and
accounts, which fluxcube neither reads nor stores. A resumed run continues theirs: `LOGGED` has its identifier.
"""

from __future__ import annotations

import contextlib
import csv
import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fluxcube.errors import MissingPackageError, missing_package, unknown
from fluxcube.models.checkpoint import write_atomically
from fluxcube.training.callbacks import Callback
from fluxcube.training.run import EVENTS, LOGGED, STEPS

#: Number of steps between two that TensorBoard, W&B and MLflow are told of.
_EVERY = 10
#: Maximum number of characters of a parameter in MLflow, all versions of which accept it.
_LONGEST = 250
_PROJECT = "fluxcube"


class Csv(Callback):
    """Writes loss and learning rate of each step into ``steps.csv`` in the folder of the run."""

    def __init__(self, folder: Path):
        self._path = folder / STEPS

    def on_start(self, about: Mapping[str, Any]) -> None:
        """Open the file; of a resumed run, the lines of the steps that it repeats are removed."""
        done = (about["resumed"] or {}).get("updates", 0)
        rows = self._path.read_text("utf-8").splitlines()[1:] if done and self._path.is_file() else []
        kept = [row for row in rows if row.partition(",")[0].isdigit() and int(row.partition(",")[0]) <= done]
        write_atomically(self._path, "\n".join(["update,loss,lr", *kept, ""]).encode())
        self._file = self._path.open("a", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")

    def on_step(self, row: Mapping[str, Any]) -> None:
        """Write one line."""
        self._writer.writerow([row["update"], row["loss"], row["lr"]])

    def on_validation(self, row: Mapping[str, Any]) -> None:
        """Write what is buffered."""
        self._file.flush()

    def on_end(self, about: Mapping[str, Any]) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard(Callback):
    """Writes event files into the folder of the run; a resumed run adds a file."""

    def __init__(self, folder: Path):
        self._folder = folder / EVENTS

    def on_start(self, about: Mapping[str, Any]) -> None:
        """Create the folder and a file."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(os.fspath(self._folder))

    def on_step(self, row: Mapping[str, Any]) -> None:
        """Write loss and learning rate, every tenth step."""
        if row["update"] % _EVERY == 0:
            self._write("step", row, row["update"], leave="update")

    def on_validation(self, row: Mapping[str, Any]) -> None:
        """Write a line of the log."""
        self._write("epoch", row, int(row.get("epoch", 1)), leave="epoch")

    def on_end(self, about: Mapping[str, Any]) -> None:
        """Write the buffered events and close the files."""
        self._writer.close()

    def _write(self, prefix: str, row: Mapping[str, Any], at: int, leave: str) -> None:
        for name, value in row.items():
            if name != leave:
                self._writer.add_scalar(f"{prefix}/{name}", value, at)


class WeightsAndBiases(Callback):
    """Writes a run of W&B; with ``WANDB_MODE=offline`` into the folder ``wandb``, which ``wandb sync`` sends."""

    def __init__(self, folder: Path):
        self._folder = folder

    def on_start(self, about: Mapping[str, Any]) -> None:
        """Begin a run of W&B, or continue that of a resumed run."""
        import wandb

        known = _logged(self._folder).get("wandb") if about["resumed"] else None
        project = os.environ.get("WANDB_PROJECT", _PROJECT)
        self._run = wandb.init(
            project=project, name=_title(about), config=_flat(about), id=known, resume="allow", reinit="create_new"
        )
        _record(self._folder, "wandb", str(self._run.id))

    def on_step(self, row: Mapping[str, Any]) -> None:
        """Write loss and learning rate, every tenth step."""
        if row["update"] % _EVERY == 0:
            self._run.log({"update": row["update"], "step/loss": row["loss"], "step/lr": row["lr"]})

    def on_validation(self, row: Mapping[str, Any]) -> None:
        """Write a line of the log."""
        self._run.log({f"epoch/{name}": value for name, value in row.items()})

    def on_end(self, about: Mapping[str, Any]) -> None:
        """End the run of W&B."""
        self._run.summary["state"] = about["state"]
        self._run.finish(exit_code=int(about["state"] != "complete"))


class MLflow(Callback):
    """Writes a run of MLflow to its tracking server, by default into a database of the working folder."""

    def __init__(self, folder: Path):
        self._folder = folder

    def on_start(self, about: Mapping[str, Any]) -> None:
        """Begin a run of MLflow with the settings as parameters, or continue that of a resumed run."""
        from mlflow import MlflowClient

        self._client = MlflowClient()
        known = _logged(self._folder).get("mlflow") if about["resumed"] else None
        if known is not None:
            self._run = known
            self._client.update_run(known, status="RUNNING")
            return
        self._run = self._client.create_run(self._experiment(), run_name=_title(about)).info.run_id
        _record(self._folder, "mlflow", self._run)
        for name, value in _flat(about).items():
            self._client.log_param(self._run, name, str(value)[:_LONGEST])

    def on_step(self, row: Mapping[str, Any]) -> None:
        """Write loss and learning rate, every tenth step."""
        if row["update"] % _EVERY == 0:
            self._write("step", row, row["update"])

    def on_validation(self, row: Mapping[str, Any]) -> None:
        """Write a line of the log."""
        self._write("epoch", row, int(row.get("epoch", 1)))

    def on_end(self, about: Mapping[str, Any]) -> None:
        """End the run of MLflow."""
        self._client.set_terminated(self._run, "FINISHED" if about["state"] == "complete" else "KILLED")

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        found = self._client.get_experiment_by_name(name)
        return self._client.create_experiment(name) if found is None else found.experiment_id

    def _write(self, prefix: str, row: Mapping[str, Any], at: int) -> None:
        for name, value in row.items():
            self._client.log_metric(self._run, f"{prefix}/{name}", float(value), step=at)


#: Each logger, and the module that it needs.
_LOGGERS: dict[str, tuple[Callable[[Path], Callback], str]] = {
    "csv": (Csv, ""),
    "tensorboard": (TensorBoard, "tensorboard"),
    "wandb": (WeightsAndBiases, "wandb"),
    "mlflow": (MLflow, "mlflow"),
}
NAMES = tuple(_LOGGERS)


def check_logs(log: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of loggers, each once, whose packages are installed.

    Raises
    ------
    MissingPackageError
        If a package is not installed.
    UnknownNameError
        If there is no such logger.

    Examples
    --------
    >>> check_logs("csv"), check_logs(None)
    (('csv',), ())
    """
    names = (log,) if isinstance(log, str) else tuple(dict.fromkeys(log or ()))
    for name in names:
        if name not in _LOGGERS:
            raise unknown("log", name, _LOGGERS)
        if module := _LOGGERS[name][1]:
            _check_installed(module)
    return names


def make_loggers(names: Sequence[str], folder: Path) -> list[Callback]:
    """Return the loggers of a run by their names, as `check_logs` returns them."""
    return [_LOGGERS[name][0](folder) for name in names]


def _check_installed(module: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        if module == "tensorboard":
            raise missing_package(module, "log", "log='tensorboard'") from error
        raise MissingPackageError(f"log={module!r} needs {module}: pip install {module}.") from error


def _title(about: Mapping[str, Any]) -> str:
    return f"{Path(str(about['run'])).name}, seed {about['seed']}"


def _flat(about: Mapping[str, Any]) -> dict[str, object]:
    """Return the settings of a run as one level of dotted keys, lists as text."""
    out: dict[str, object] = {}
    for key, value in about.items():
        if isinstance(value, Mapping):
            out |= {f"{key}.{name}": inner for name, inner in _flat(value).items()}
        elif key != "resumed":
            out[key] = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
    return out


def _logged(folder: Path) -> dict[str, str]:
    """Return the identifiers of this run at loggers; {} if none are recorded."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((folder / LOGGED).read_text("utf-8"))
        return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}
    return {}


def _record(folder: Path, name: str, identifier: str) -> None:
    write_atomically(folder / LOGGED, json.dumps(_logged(folder) | {name: identifier}).encode())
