"""Checkpoints: a folder with the weights and one JSON that says all about them; no pickle.

`run.json` is written last, so that a folder which holds one is complete.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path

from fluxcube.errors import CheckpointError, FluxcubeError, MissingPackageError
from fluxcube.models import registry
from fluxcube.models.base import Model

RUN = "run.json"
FORMAT = 1
_NEEDED = ("format", "kind", "config", "sizes", "files", "digest", "features")


def save(model: Model, folder: str | os.PathLike, metadata: Mapping) -> Path:
    """Write a model into a folder.

    Parameters
    ----------
    model : Model
        Trained.
    folder : path
        Made if need be; files of an earlier checkpoint are replaced.
    metadata : mapping
        What else to keep, as JSON can hold it; "features" is needed.

    Returns
    -------
    Path
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RUN).unlink(missing_ok=True)
    files = model.weights()
    for name, content in files.items():
        write_atomically(folder / name, content)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    about = {
        "format": FORMAT,
        "kind": model.kind,
        "config": dataclasses.asdict(model.config),
        "sizes": dataclasses.asdict(model.sizes),
        "files": sums,
        "digest": _combined(sums),
        "versions": versions(),
    }
    write_atomically(folder / RUN, json.dumps(about | dict(metadata), indent=1).encode())
    return folder


def load(folder: str | os.PathLike) -> tuple[Model, dict]:
    """Read a model and what was kept with it.

    Raises
    ------
    CheckpointError
        If the folder holds no finished model, or one that is damaged.
    """
    folder = Path(folder)
    about = _read_run(folder)
    files = {name: _read_weights(folder, name, wanted) for name, wanted in about["files"].items()}
    try:
        model = registry.build(about["kind"], about["config"], about["sizes"])
        model.load_weights(files)
    except MissingPackageError:
        raise
    except FluxcubeError as error:
        raise CheckpointError(f"{folder / RUN} is of another version of fluxcube or damaged: {error}") from error
    except KeyError as error:
        raise CheckpointError(f"{folder}: the checkpoint lacks {error}; train the model again.") from error
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{folder}: the weights do not fit {RUN}: {error}; train the model again.") from error
    return model, about


def digest(folder: str | os.PathLike) -> str:
    """Return the digest of a checkpoint's weights, from its `run.json` alone."""
    return _read_run(Path(folder))["digest"]


def versions() -> dict[str, str]:
    """Return the versions that a result may depend on."""
    found = {"python": platform.python_version()}
    for package in ("fluxcube", "numpy", "torch", "xgboost", "xgboost-cpu", "safetensors"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a kill leaves the old one or the new one, never a part."""
    part = path.with_name(f".{path.name}.part")
    with open(part, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _read_run(folder: Path) -> dict:
    if not folder.is_dir():
        raise CheckpointError(f"{folder} does not exist: give the folder of a run that `fit` wrote.")
    path = folder / RUN
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no {RUN}: its training did not end, or it is no run; run `fit` again.")
    try:
        about = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}): the file is damaged; train the model again.") from error
    missing = [key for key in _NEEDED if not isinstance(about, dict) or key not in about]
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}: it is not a checkpoint of fluxcube.")
    if about["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {about['format']}, this fluxcube reads {FORMAT}: update fluxcube.")
    return about


def _read_weights(folder: Path, name: str, wanted: str) -> bytes:
    path = folder / name
    if Path(name).name != name:
        raise CheckpointError(f"{folder / RUN} names a file outside its folder, {name!r}: do not use this checkpoint.")
    if not path.is_file():
        raise CheckpointError(f"{path} is missing, though {RUN} names it: train the model again.")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != wanted:
        raise CheckpointError(
            f"{path} is damaged: sha256 {found[:12]}, expected {wanted[:12]}; copy or train it again."
        )
    return content


def _combined(sums: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(sorted(sums.items()))).encode()).hexdigest()
