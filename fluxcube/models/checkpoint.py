"""Checkpoints: a folder with the weights and one JSON file that describes them; no pickle.

`run.json` is written last, so that a folder that contains one is complete. It contains the SHA-256 of each file of
weights and a seal, the SHA-256 of its own content. An ensemble is a folder of such folders and an `ensemble.json`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from fluxcube.errors import CheckpointError, ConfigError, FluxcubeError, MissingPackageError
from fluxcube.models import registry
from fluxcube.models.applicability import Applicability, combined
from fluxcube.models.base import Model
from fluxcube.models.ensemble import Ensemble, floors

RUN = "run.json"
ENSEMBLE = "ensemble.json"
#: Training days, from which maps compute the area of applicability.
APPLICABILITY = "applicability.safetensors"
FORMAT = 1
_NEEDED = {
    RUN: ("format", "kind", "config", "sizes", "files", "digest", "features"),
    ENSEMBLE: ("format", "kind", "members", "digest", "features"),
}


def save(
    model: Model, folder: str | os.PathLike, metadata: Mapping, applicability: Applicability | None = None
) -> Path:
    """Write a model into a folder.

    Parameters
    ----------
    model : Model
        Trained.
    folder : path
        Created if it does not exist; files of an earlier checkpoint are replaced.
    metadata : mapping
        Further content of `run.json`, as JSON can represent it; "features" is required.
    applicability : Applicability, optional
        Training days and threshold of its area of applicability.

    Returns
    -------
    Path
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (RUN, APPLICABILITY):
        (folder / name).unlink(missing_ok=True)
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
    if applicability is not None:
        about["applicability"] = _write_applicability(applicability, folder)
    _write_about(folder / RUN, about | dict(metadata))
    return folder


def _write_applicability(part: Applicability, folder: Path) -> dict:
    content = part.to_bytes()
    write_atomically(folder / APPLICABILITY, content)
    return {
        "sha256": hashlib.sha256(content).hexdigest(),
        "days": len(part.centres),
        "threshold": part.threshold,
        "weights": dict(zip(part.names, part.weight.tolist(), strict=True)),
    }


def save_ensemble(folder: str | os.PathLike, names: Sequence[str], metadata: Mapping) -> None:
    """Combine finished checkpoints in a folder into one model.

    Parameters
    ----------
    folder : path
        Contains the folders of the members.
    names : sequence of str
        Names of these folders.
    metadata : mapping
        As for `save`; "features" is required, "calibration" is that of the ensemble.
    """
    folder = Path(folder)
    digests = {name: digest(folder / name) for name in names}
    about = {
        "format": FORMAT,
        "kind": _read_about(folder / names[0], RUN)["kind"],
        "members": digests,
        "digest": _combined(digests),
        "versions": versions(),
    }
    _write_about(folder / ENSEMBLE, about | dict(metadata))


def members(folders: Sequence[str | os.PathLike]) -> tuple[Ensemble, list[dict]]:
    """Read checkpoints as one model; return it and the metadata of each.

    Raises
    ------
    CheckpointError
        If one is damaged, or they have different features, targets or scaling.
    """
    models, abouts = zip(*(load(folder) for folder in folders), strict=True)
    for folder, about in zip(folders, abouts, strict=True):
        if about["features"] != abouts[0]["features"]:
            raise CheckpointError(f"{folder} was trained on other features than {folders[0]}: train it again.")
    try:
        return Ensemble(models, [factors(about) for about in abouts], _floors(abouts[0]["features"])), list(abouts)
    except ConfigError as error:
        raise CheckpointError(f"{folders[0]} and the other members do not fit together: {error}") from error


def _floors(features: Mapping) -> tuple[float, ...] | None:
    """Return the smallest scaled estimate of each target, from the features of a checkpoint."""
    names = features.get("targets", ())
    scaling = [
        features.get(key) or [default] * len(names) for key, default in (("target_mean", 0.0), ("target_scale", 1.0))
    ]
    return floors(names, *scaling, daily=features.get("resolution", "hourly") != "hourly")


def factors(about: Mapping) -> list[float]:
    """Return the factor that calibrates the standard deviation of each target; 1 where a checkpoint records none."""
    calibration = about.get("calibration") or {}
    return [float(calibration.get(name, {}).get("factor", 1.0)) for name in about["features"].get("targets", ())]


def is_ensemble(folder: str | os.PathLike) -> bool:
    """Return whether a folder contains a finished ensemble."""
    return (Path(folder) / ENSEMBLE).is_file()


def load(folder: str | os.PathLike) -> tuple[Model, dict]:
    """Read a model and its metadata.

    Raises
    ------
    CheckpointError
        If the folder contains no finished model, or one that is damaged, changed or of another version.
    """
    folder = Path(folder)
    if is_ensemble(folder):
        return _load_ensemble(folder)
    about = _read_about(folder, RUN)
    files = {name: _read_weights(folder, name, expected) for name, expected in about["files"].items()}
    try:
        model = registry.build(about["kind"], about["config"], about["sizes"])
        model.load_weights(files)
    except MissingPackageError:
        raise
    except FluxcubeError as error:
        raise CheckpointError(f"{folder / RUN} is damaged or of another version of fluxcube: {error}") from error
    except KeyError as error:
        raise CheckpointError(f"{folder}: the checkpoint lacks {error}; train the model again.") from error
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{folder}: the weights do not fit {RUN}: {error}; train the model again.") from error
    _check_seal(folder / RUN, about, about["files"])
    return model, about


def applicability(folder: str | os.PathLike) -> Applicability | None:
    """Read the area of applicability of a model; for an ensemble, that which its members share.

    It is None if the checkpoint or a member has none, or if the members were trained on different days.

    Raises
    ------
    CheckpointError
        If the file is damaged, or missing although the checkpoint names it.
    """
    folder = Path(folder)
    if is_ensemble(folder):
        parts = [applicability(folder / Path(name).name) for name in _read_about(folder, ENSEMBLE)["members"]]
        known = [part for part in parts if part is not None]
        return combined(known) if len(known) == len(parts) else None
    about = _read_about(folder, RUN).get("applicability")
    if about is None:
        return None
    content = _read_weights(folder, APPLICABILITY, about["sha256"])
    try:
        return Applicability.from_bytes(content)
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{folder / APPLICABILITY} is of another version of fluxcube: {error}.") from error


def _load_ensemble(folder: Path) -> tuple[Ensemble, dict]:
    about = _read_about(folder, ENSEMBLE)
    _check_seal(folder / ENSEMBLE, about, about["members"])
    for name, expected in about["members"].items():
        if Path(name).name != name:
            raise CheckpointError(f"{folder / ENSEMBLE} names a folder outside its own, {name!r}: do not use it.")
        if (found := digest(folder / name)) != expected:
            raise CheckpointError(
                f"{folder / name} has other weights than the ensemble was built from: expected digest "
                f"{expected[:12]}, found {found[:12]}; train the ensemble again."
            )
    return members([folder / name for name in about["members"]])[0], about


def digest(folder: str | os.PathLike) -> str:
    """Return the digest of a checkpoint's weights, from its JSON file alone."""
    return read_about(folder)["digest"]


def read_about(folder: str | os.PathLike) -> dict:
    """Return the content of a checkpoint's JSON file, without its weights (CheckpointError as `load` raises it)."""
    folder = Path(folder)
    return _read_about(folder, ENSEMBLE if is_ensemble(folder) else RUN)


def versions() -> dict[str, str]:
    """Return the versions of the packages that a result may depend on."""
    found = {"python": platform.python_version()}
    for package in ("fluxcube", "numpy", "torch", "xgboost", "xgboost-cpu", "safetensors"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a kill leaves the old one or the new one, never an incomplete one."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # no two processes write one file
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _write_about(path: Path, about: dict) -> None:
    about = json.loads(json.dumps(about))
    write_atomically(path, json.dumps(about | {"seal": _seal(about)}, indent=1).encode())


def _read_about(folder: Path, name: str) -> dict:
    if not folder.is_dir():
        there = "is a file" if folder.exists() else "does not exist"
        raise CheckpointError(f"{folder} {there}: pass the folder of a run that `fit` wrote.")
    path = folder / name
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {name}: it is no run, or its training is unfinished; run `fit` again.")
    try:
        about = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}): the file is damaged; train the model again.") from error
    missing = [key for key in _NEEDED[name] if not isinstance(about, dict) or key not in about]
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}: it is not a checkpoint of fluxcube.")
    if about["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {about['format']}, this fluxcube reads {FORMAT}: update fluxcube.")
    return about


def _check_seal(path: Path, about: Mapping, parts: Mapping[str, str]) -> None:
    """Refuse a changed JSON file: the order of features, scaling and calibration matter as much as weights do."""
    if about["digest"] != _combined(parts):
        raise CheckpointError(f"{path} was changed: its digest is not that of its {len(parts)} parts; train it again.")
    if "seal" in about and about["seal"] != _seal(about):
        raise CheckpointError(f"{path} was changed since it was written: copy or train it again.")


def _seal(about: Mapping) -> str:
    content = {key: value for key, value in about.items() if key != "seal"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_weights(folder: Path, name: str, expected: str) -> bytes:
    path = folder / name
    if Path(name).name != name:
        raise CheckpointError(f"{folder / RUN} names a file outside its folder, {name!r}: do not use this checkpoint.")
    if not path.is_file():
        raise CheckpointError(f"{path} is missing, although {RUN} names it: train the model again.")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise CheckpointError(
            f"{path} is damaged: sha256 {found[:12]}, expected {expected[:12]}; copy or train it again."
        )
    return content


def _combined(sums: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(sorted(sums.items()))).encode()).hexdigest()
