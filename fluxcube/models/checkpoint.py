"""Checkpoints: a folder with the weights and one JSON that says all about them; no pickle.

`run.json` is written last, so that a folder which holds one is complete. It holds the SHA-256 of each file of weights
and a seal, that of all it says itself. An ensemble is a folder of such folders and an `ensemble.json`, likewise.
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
from fluxcube.models.ensemble import Ensemble

RUN = "run.json"
ENSEMBLE = "ensemble.json"
#: Training days, from which maps tell where a model should not be believed.
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
        Made if need be; files of an earlier checkpoint are replaced.
    metadata : mapping
        What else to keep, as JSON can hold it; "features" is needed.
    applicability : Applicability, optional
        Where it may be believed.

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
    """Make finished checkpoints in a folder one model.

    Parameters
    ----------
    folder : path
        Holds the members' folders.
    names : sequence of str
        Of these folders.
    metadata : mapping
        As for `save`; "features" is needed, "calibration" is that of the whole.
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
    """Read checkpoints as one model; return it and what was kept with each.

    Raises
    ------
    CheckpointError
        If one is damaged, or they were not given the same features and targets, scaled alike.
    """
    models, abouts = zip(*(load(folder) for folder in folders), strict=True)
    for folder, about in zip(folders, abouts, strict=True):
        if about["features"] != abouts[0]["features"]:
            raise CheckpointError(f"{folder} was trained on other features than {folders[0]}: train the members anew.")
    try:
        return Ensemble(models, [factors(about) for about in abouts]), list(abouts)
    except ConfigError as error:
        raise CheckpointError(f"{folders[0]} and the other members do not fit together: {error}") from error


def factors(about: Mapping) -> list[float]:
    """Return what calibrates the standard deviation of each target, as a checkpoint says; 1 where it says nothing."""
    said = about.get("calibration") or {}
    return [float(said.get(name, {}).get("factor", 1.0)) for name in about["features"].get("targets", ())]


def is_ensemble(folder: str | os.PathLike) -> bool:
    """Return whether a folder holds a finished ensemble."""
    return (Path(folder) / ENSEMBLE).is_file()


def load(folder: str | os.PathLike) -> tuple[Model, dict]:
    """Read a model and what was kept with it.

    Raises
    ------
    CheckpointError
        If the folder holds no finished model, one that is damaged or changed, or one of another version.
    """
    folder = Path(folder)
    if is_ensemble(folder):
        return _load_ensemble(folder)
    about = _read_about(folder, RUN)
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
    _check_seal(folder / RUN, about, about["files"])
    return model, about


def applicability(folder: str | os.PathLike) -> Applicability | None:
    """Read where a model may be believed; of an ensemble, what its members have in common.

    None where the checkpoint, or a member, has no such part, or the members' stem from different days.

    Raises
    ------
    CheckpointError
        If the part is missing though the checkpoint names it, or damaged.
    """
    folder = Path(folder)
    if is_ensemble(folder):
        parts = [applicability(folder / Path(name).name) for name in _read_about(folder, ENSEMBLE)["members"]]
        return None if any(part is None for part in parts) else combined(parts)
    said = _read_about(folder, RUN).get("applicability")
    if said is None:
        return None
    content = _read_weights(folder, APPLICABILITY, said["sha256"])
    try:
        return Applicability.from_bytes(content)
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{folder / APPLICABILITY} is of another version of fluxcube: {error}.") from error


def _load_ensemble(folder: Path) -> tuple[Ensemble, dict]:
    about = _read_about(folder, ENSEMBLE)
    _check_seal(folder / ENSEMBLE, about, about["members"])
    for name, wanted in about["members"].items():
        if Path(name).name != name:
            raise CheckpointError(f"{folder / ENSEMBLE} names a folder outside its own, {name!r}: do not use it.")
        if (found := digest(folder / name)) != wanted:
            raise CheckpointError(
                f"{folder / name} holds other weights ({found[:12]}) than the ensemble was made of ({wanted[:12]}): "
                "train the ensemble again."
            )
    return members([folder / name for name in about["members"]])[0], about


def digest(folder: str | os.PathLike) -> str:
    """Return the digest of a checkpoint's weights, from its JSON alone."""
    folder = Path(folder)
    return _read_about(folder, ENSEMBLE if is_ensemble(folder) else RUN)["digest"]


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


def _write_about(path: Path, about: dict) -> None:
    about = json.loads(json.dumps(about))
    write_atomically(path, json.dumps(about | {"seal": _seal(about)}, indent=1).encode())


def _read_about(folder: Path, name: str) -> dict:
    if not folder.is_dir():
        there = "is a file" if folder.exists() else "does not exist"
        raise CheckpointError(f"{folder} {there}: give the folder of a run that `fit` wrote.")
    path = folder / name
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no {name}: its training did not end, or it is no run; run `fit` again.")
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
    """Refuse a JSON that is not what was written: order of features, scaling and calibration count like weights."""
    if about["digest"] != _combined(parts):
        raise CheckpointError(f"{path} was changed: its digest is not that of its {len(parts)} parts; train it again.")
    if "seal" in about and about["seal"] != _seal(about):
        raise CheckpointError(f"{path} was changed since it was written: copy or train it again.")


def _seal(about: Mapping) -> str:
    said = {key: value for key, value in about.items() if key != "seal"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


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
