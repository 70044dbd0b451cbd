"""Checkpoints: a folder with the weights and one JSON file that describes them; no pickle.

`run.json` is written last, so that a folder that contains one is complete. It contains the SHA-256 of each file of
weights and a seal, the SHA-256 of its own content. An ensemble is a folder of such folders and an `ensemble.json`. So
is a mixed ensemble, whose members are of different kinds, each with its own features. A file of weights may be stored
compressed, as ``NAME.gz``; its SHA-256 is that of its content.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from fluxcube.errors import (
    CheckpointError,
    ConfigError,
    ExtensionError,
    FluxcubeError,
    MissingPackageError,
    StoreError,
    to_type,
)
from fluxcube.models import registry, shipped
from fluxcube.models.applicability import Applicability, combined
from fluxcube.models.base import Model
from fluxcube.models.ensemble import MIXED, Ensemble, floors
from fluxcube.parsing import read_json

log = logging.getLogger(__name__)

RUN = "run.json"
ENSEMBLE = "ensemble.json"
#: Training days, from which maps compute the area of applicability.
APPLICABILITY = "applicability.safetensors"
FORMAT = 1
#: Ending of a compressed file, and the maximum ratio of its content to its size; trees have about 2.5.
PACKED, _MAX_RATIO = ".gz", 30
_NEEDED = {
    RUN: ("format", "kind", "config", "sizes", "files", "digest", "features"),
    ENSEMBLE: ("format", "kind", "members", "digest", "features"),
}
#: Types of the entries that are used; entries that are None count as absent if they are not needed.
_TYPES: dict[str, type] = {
    "kind": str,
    "digest": str,
    "seal": str,
    **dict.fromkeys(("config", "sizes", "files", "members", "shipped", "features"), dict),
    **dict.fromkeys(("calibration", "applicability", "split", "request", "training", "cube", "versions"), dict),
    "package": dict,
    "weights": list,
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
        "sizes": model.sizes.to_dict(),
        "files": sums,
        "digest": _combined(sums),
        "versions": versions(),
        **package_record(model.kind),
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
        "kind": (kind := _read_about(folder / names[0], RUN)["kind"]),
        "members": digests,
        "digest": _combined(digests),
        "versions": versions(),
        **package_record(kind),
    }
    _write_about(folder / ENSEMBLE, about | dict(metadata))


def save_mixed(
    folder: str | os.PathLike, members: Mapping[str, Path], weights: Sequence[float], metadata: Mapping
) -> None:
    """Copy the checkpoints of several runs into a folder, and combine them into a mixed ensemble.

    Of each run, the files that predictions need are copied. A model that ships with the package is not copied: its name
    and digest are stored.

    Parameters
    ----------
    folder : path
        Created if it does not exist.
    members : mapping of str to Path
        Folder of the run of each member, by the name of its folder in `folder`.
    weights : sequence of float
        Weight of each member; they add up to 1.
    metadata : mapping
        As for `save`; "features" describes the inputs of all members together, and their common targets.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ENSEMBLE).unlink(missing_ok=True)
    names = {
        name: path.resolve().relative_to(shipped.FOLDER.resolve()).as_posix()
        for name, path in members.items()
        if shipped.is_shipped(path)
    }
    for name, path in members.items():
        if name not in names:
            _copy(path, folder / name)
    digests = {name: digest(path) for name, path in members.items()}
    about = {
        "format": FORMAT,
        "kind": MIXED,
        "members": digests,
        "weights": list(weights),
        "digest": mixed_digest(list(digests.values()), weights),
        "versions": versions(),
    }
    about |= {"shipped": names} if names else {}
    _write_about(folder / ENSEMBLE, about | dict(metadata))


def make_parent(folder: Path) -> None:
    """Create the folder that contains that of a checkpoint, in which it can be locked."""
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)


def _copy(source: Path, target: Path) -> None:
    """Copy the files of a checkpoint that predictions need; the JSON file last."""
    about = read_about(source)
    target.mkdir(parents=True, exist_ok=True)
    if is_ensemble(source):
        for name in about["members"]:
            if name not in about.get("shipped", {}):
                _copy(source / name, target / name)
        names = [ENSEMBLE]
    else:
        names = [*about["files"], *([APPLICABILITY] if "applicability" in about else []), RUN]
    for name in names:
        path = _path_of(source, name)
        write_atomically(target / path.name, path.read_bytes())


def mixed_digest(digests: Sequence[str], weights: Sequence[float]) -> str:
    """Return the digest of a mixed ensemble, from the digests and the weights of its members."""
    return _combined({found: repr(float(weight)) for found, weight in zip(digests, weights, strict=True)})


def is_mixed(folder: str | os.PathLike) -> bool:
    """Return whether a folder contains a mixed ensemble."""
    return is_ensemble(folder) and read_about(folder)["kind"] == MIXED


def read_mixed(folder: str | os.PathLike) -> tuple[dict[str, Path], dict]:
    """Return the folder of each member of a mixed ensemble, and its metadata.

    Raises
    ------
    CheckpointError
        If the JSON file was changed, or a member has other weights than were stored.
    """
    folder = Path(folder)
    about = _read_about(folder, ENSEMBLE)
    if "weights" not in about or len(about["weights"]) != len(about["members"]):
        raise CheckpointError(f"{folder / ENSEMBLE} lacks the weights of its members: store the mixed ensemble again.")
    if about["digest"] != mixed_digest(list(about["members"].values()), about["weights"]):
        raise CheckpointError(
            f"{folder / ENSEMBLE} was changed: its digest is not that of its members; store it again."
        )
    _check_unchanged(folder / ENSEMBLE, about)
    paths = {name: _member(folder, about, name) for name in about["members"]}
    for name, path in paths.items():
        _check_member(path, about["members"][name])
    return paths, about


def _member(folder: Path, about: Mapping, name: str) -> Path:
    """Return the folder of a member of an ensemble: within its own, or that of a shipped model."""
    if stored := about.get("shipped", {}).get(name):
        return shipped.find_shipped(stored)
    return folder / name


def _check_member(path: Path, expected: str) -> None:
    if (found := digest(path)) != expected:
        raise CheckpointError(
            f"{path} has other weights than the ensemble was built from: expected digest "
            f"{expected[:12]}, found {found[:12]}; train or store the ensemble again."
        )


def update_calibration(folder: str | os.PathLike, calibration: Mapping[str, Mapping]) -> None:
    """Replace the calibration of some targets of a finished run; weights and their digest do not change."""
    folder = Path(folder)
    name = ENSEMBLE if is_ensemble(folder) else RUN
    about = _read_about(folder, name)
    about.pop("seal", None)
    _write_about(folder / name, about | {"calibration": {**(about.get("calibration") or {}), **calibration}})


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
    _check_package(folder, about)
    files = {name: _read_weights(folder, name, expected) for name, expected in about["files"].items()}
    try:
        model = registry.build(about["kind"], about["config"], about["sizes"])
        model.load_weights(files)
    except (MissingPackageError, ExtensionError):
        raise
    except FluxcubeError as error:
        raise CheckpointError(f"{folder / RUN} is damaged or of another version of fluxcube: {error}") from error
    except KeyError as error:
        raise CheckpointError(f"{folder}: the checkpoint lacks {error}; train the model again.") from error
    except (ValueError, TypeError, AttributeError, RuntimeError, MemoryError, OverflowError) as error:
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
        about = _read_about(folder, ENSEMBLE)
        parts = [applicability(_member(folder, about, name)) for name in about["members"]]
        known = [part for part in parts if part is not None]
        return combined(known) if len(known) == len(parts) else None
    stored = _read_about(folder, RUN).get("applicability")
    if stored is None:
        return None
    content = _read_weights(folder, APPLICABILITY, stored["sha256"])
    try:
        return Applicability.from_bytes(content)
    except (LookupError, ValueError, TypeError, AttributeError, struct.error, RecursionError) as error:
        raise CheckpointError(f"{folder / APPLICABILITY} is of another version of fluxcube: {error}.") from error


def _load_ensemble(folder: Path) -> tuple[Ensemble, dict]:
    about = _read_about(folder, ENSEMBLE)
    if about["kind"] == MIXED:
        raise CheckpointError(
            f"{folder} is a mixed ensemble, whose members have their own features: open it by load_model, or pass the "
            f"folder of one member ({', '.join(about['members'])})."
        )
    _check_seal(folder / ENSEMBLE, about, about["members"])
    for name, expected in about["members"].items():
        _check_member(_member(folder, about, name), expected)
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


def package_record(kind: str) -> dict[str, dict[str, str]]:
    """Return the entry "package" of a checkpoint: the package of a model that is not of fluxcube, and its version."""
    extension = registry.extension_of(kind)
    return {} if extension is None else {"package": {"name": extension.package, "version": extension.version}}


def _check_package(folder: Path, about: Mapping) -> None:
    """Refuse a model whose package is missing (MissingPackageError); warn of another version of it."""
    kind, record = about["kind"], about.get("package") or {}
    name, version = record.get("name"), record.get("version")
    found = registry.extension_of(kind)
    if not name or (found is None and kind in registry.names()):
        return
    if found is None or found.package != name:
        raise MissingPackageError(
            f"{folder} is a model of the kind {kind}, which the package {name} {version} offers, and that is not "
            f"installed here: pip install '{name}=={version}'."
        )
    if found.version != version:
        log.warning(
            "%s was trained with %s %s, and version %s is installed: if its estimates differ, pip install '%s==%s'",
            *(folder, name, version, found.version, name, version),
        )


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a kill leaves the old one or the new one, never an incomplete one.

    Raises
    ------
    StoreError
        If the disk is full, or the folder may not be written.
    """
    # A random number: processes of two containers, or machines, may have the same number.
    part = path.with_name(f".{path.name}.{os.urandom(6).hex()}.part")
    try:
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise StoreError(
            f"cannot write {path} ({error.strerror or error}): make room there, or write to another disk."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _write_about(path: Path, about: dict) -> None:
    about = json.loads(json.dumps(about))
    write_atomically(path, json.dumps(about | {"seal": _seal(about)}, indent=1).encode())


def _trainer() -> str:
    return to_type(python="`fit`", shell="`fluxcube train`")


def _why_no_run(folder: Path) -> str:
    """Return why a folder is no finished run, and what to do."""
    if (folder / "zarr.json").is_file():
        return "it is a store (a cube or maps), where the folder of a run was expected; check the order of paths."
    again = to_type(python="call `fit` again", shell="repeat the command `fluxcube train` that wrote it")
    return f"it is no run, or its training is unfinished; {again}."


def _read_about(folder: Path, name: str) -> dict:
    if not folder.is_dir():
        there = "is a file" if folder.exists() else "does not exist"
        raise CheckpointError(f"{folder} {there}: pass the folder of a run that {_trainer()} wrote.")
    path = folder / name
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {name}: {_why_no_run(folder)}")
    try:
        about = read_json(path, dict)
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not JSON ({error}): the file is damaged; train the model again.") from error
    missing = [key for key in _NEEDED[name] if key not in about]
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}: it is not a checkpoint of fluxcube.")
    if about["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {about['format']!r:.20}, this one reads {FORMAT}: update fluxcube.")
    _check_structure(path, about)
    return about


def _check_structure(path: Path, about: Mapping) -> None:
    """Refuse entries of another type than `save` writes, and names of files or folders outside the checkpoint."""
    for key, kind in _TYPES.items():
        value = about.get(key)
        if not isinstance(value, kind) and (value is not None or key in _NEEDED[path.name]):
            raise CheckpointError(f"{path}: {key} is {type(value).__name__}, expected {kind.__name__}: it is damaged.")
    parts = about["files" if path.name == RUN else "members"]
    if not (parts or path.name == RUN) or not all(isinstance(value, str) for value in parts.values()):
        raise CheckpointError(f"{path}: expected files or members with their digests, found {parts!r:.60}.")
    if outside := next((name for name in parts if Path(name).name != name or name in ("", "..")), None):
        raise CheckpointError(f"{path} names {outside!r:.60}, which lies outside its folder: do not use it.")
    if not all(isinstance(value, dict) for value in (about.get("calibration") or {}).values()):
        raise CheckpointError(f"{path}: calibration is not one entry for each target: it is damaged.")
    if about.get("applicability") and not isinstance(about["applicability"].get("sha256"), str):
        raise CheckpointError(f"{path}: applicability lacks its sha256: it is damaged.")


def _check_seal(path: Path, about: Mapping, parts: Mapping[str, str]) -> None:
    """Refuse a changed JSON file: the order of features, scaling and calibration matter as much as weights do."""
    if about["digest"] != _combined(parts):
        raise CheckpointError(f"{path} was changed: its digest is not that of its {len(parts)} parts; train it again.")
    _check_unchanged(path, about)


def _check_unchanged(path: Path, about: Mapping) -> None:
    if "seal" in about and about["seal"] != _seal(about):
        raise CheckpointError(f"{path} was changed since it was written: copy or train it again.")


def _seal(about: Mapping) -> str:
    content = {key: value for key, value in about.items() if key != "seal"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_weights(folder: Path, name: str, expected: str) -> bytes:
    path = _path_of(folder, name)
    if not path.is_file():
        raise CheckpointError(f"{path} is missing, although {RUN} names it: train the model again.")
    content = _unpacked(path) if path.name != name else path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise CheckpointError(
            f"{path} is damaged: sha256 {found[:12]}, expected {expected[:12]}; copy or train it again."
        )
    return content


def _path_of(folder: Path, name: str) -> Path:
    """Return the path of a file of a checkpoint, or that of its compressed form where it is stored so."""
    packed = folder / f"{name}{PACKED}"
    return packed if packed.is_file() and not (folder / name).exists() else folder / name


def _unpacked(path: Path) -> bytes:
    """Return the content of a compressed file, of a limited size."""
    packed, reader = path.read_bytes(), zlib.decompressobj(wbits=31)
    try:
        content = reader.decompress(packed, _MAX_RATIO * len(packed))
    except zlib.error as error:
        raise CheckpointError(f"{path} is damaged: {error}; copy it again.") from error
    if not reader.eof:
        raise CheckpointError(f"{path} is cut off, or not a compressed file of weights: copy it again.")
    return content


def _combined(sums: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(sorted(sums.items()))).encode()).hexdigest()
