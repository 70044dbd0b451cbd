"""Load trained models: from run folders, by the names of shipped models, or by reference in a Dask worker.

Several runs are opened as one mixed ensemble, which `save_mixed` stores in a folder.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import re
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from fluxcube.devices import check_device
from fluxcube.errors import CheckpointError, ConfigError, FluxcubeError, overwrite_option
from fluxcube.inference.devices import is_placed, place
from fluxcube.inference.mixed import MixedPredictor, mix, report_left_out
from fluxcube.inference.predictor import MixedReference, ModelReference, Predictor, Reference
from fluxcube.models import checkpoint, shipped
from fluxcube.models.ensemble import MixedEnsemble
from fluxcube.samples.features import FeatureSpec
from fluxcube.stores.download import bucket_of, downloaded
from fluxcube.stores.files import names_disk_errors
from fluxcube.stores.lock import writer_lock
from fluxcube.stores.objects import Bucket, is_bucket
from fluxcube.variables import DECLARED, declare_again

#: A run, by its folder, by the name of a shipped model, or loaded already.
OneModel = Predictor | Bucket | str | os.PathLike
#: A run, or several that are opened as a mixed ensemble.
AnyModel = OneModel | Sequence[OneModel]

_SHORTEST_DIGEST = 12
#: Files that predictions need.
_MODEL_FILES = re.compile(
    r"(run|ensemble)\.json|(model\.(safetensors|json|\d+\.ubj)|applicability\.safetensors)(\.gz)?"
)
_loaded: dict[tuple[str, str, str, str] | MixedReference, Predictor] = {}
_lock = threading.RLock()


def load_model(
    run: AnyModel,
    *,
    weights: Sequence[float] | None = None,
    digest: str | None = None,
    device: str | None = None,
    storage_options: Mapping[str, object] | None = None,
) -> Predictor:
    """Load a trained model, or several as one mixed ensemble.

    A checkpoint contains numbers and text, and no code; its structure is checked. Whether its numbers are those of the
    author is known only by its digest: compare it where a checkpoint comes from others.

    Parameters
    ----------
    run : path, URL, Run or str, or a sequence of these
        Result of `fluxcube.fit`, or its folder, also in a bucket (``s3://bucket/run``); or the name of a model that
        ships with the package, such as "ecoperceiver-towers" (`fluxcube.models.shipped.names`). Several runs, of any
        kind and with any inputs, are opened as one model: the weighted mean of their predictions, with the spread
        between them as NAME_spread.
    weights : sequence of float, optional
        Weight of each of several runs, above 0; equal by default.
    digest : str, optional
        Expected digest of the model's weights (`Predictor.digest`), or at least its first 12 characters.
    device : str, optional
        Device of the model, here and in workers of Dask: "auto" (the default) is a GPU if there is one, "cpu", "cuda",
        "cuda:1" for a GPU by its number, or "cuda,cpu" for a GPU and the CPU where there is none, or one whose memory
        is too small. A model that is loaded already is moved, in a copy.
    storage_options : mapping, optional
        Options of fsspec to reach a bucket; workers of Dask that read the model receive them.

    Returns
    -------
    Predictor

    Raises
    ------
    CheckpointError
        If a folder contains no finished model, or a damaged one, or weights with another digest.
    ConfigError
        If several runs have no common target, or different time steps or clocks, or one is there twice; if there is no
        such device.
    StoreError
        If a bucket cannot be reached.

    Examples
    --------
    >>> from fluxcube.models.shipped import FOLDER
    >>> load_model([FOLDER / "ecoperceiver-towers" / "seed-0", FOLDER / "ecoperceiver-towers" / "seed-1"])
    <Predictor mixed: NEE, GPP_NT, RECO_NT from 0.5 seed-0 (ecoperceiver), 0.5 seed-1 (ecoperceiver); in memory>
    """
    predictor = _opened(run, weights, device, storage_options)
    if digest is not None:
        _check_digest(predictor, digest)
    return predictor


def _opened(
    run: AnyModel, weights: Sequence[float] | None, device: str | None, options: Mapping[str, object] | None
) -> Predictor:
    if isinstance(run, Predictor | Bucket | str | os.PathLike):
        if weights is not None:
            raise ConfigError("weights are for several runs: pass a list of runs, or no weights.")
        if isinstance(run, Predictor):
            return run if device is None else on_device(run, device)
        return _load(run, "auto" if device is None else check_device(device), options)
    parts = [load_model(one, device=device, storage_options=options) for one in run]
    if len(parts) == 1 and weights is None:
        return parts[0]
    mixed = mix(parts, weights)
    report_left_out(mixed)
    return mixed


def on_device(predictor: Predictor, device: str) -> Predictor:
    """Return a model on another device; the given one stays where it is.

    A model that is in a folder is read once for each device and process; one that is in RAM alone is copied.

    Parameters
    ----------
    predictor : Predictor
        The model.
    device : str
        As `load_model` takes it.

    Raises
    ------
    ConfigError
        If there is no such device.
    """
    check_device(device)
    if isinstance(predictor, MixedPredictor):
        return _moved(predictor, device)
    if device == predictor.device and is_placed(predictor.model, device):
        return predictor
    if isinstance(reference := predictor.reference, ModelReference):
        model = load_reference(dataclasses.replace(reference, device=device)).model
        return dataclasses.replace(predictor, model=model, device=device)
    return _moved(predictor, device)


def _moved(predictor: Predictor, device: str) -> Predictor:
    """Return a model on a device: the same one if it is there, else a copy."""
    if isinstance(predictor, MixedPredictor):
        parts = tuple(on_device(part, device) for part in predictor.parts)
        members = MixedEnsemble([part.model for part in parts], predictor.weights, predictor.model.sizes)
        return dataclasses.replace(predictor, model=members, parts=parts, device=device)
    if is_placed(predictor.model, device):
        return dataclasses.replace(predictor, device=device)
    model = copy.deepcopy(predictor.model)
    place(model, device)
    return dataclasses.replace(predictor, model=model, device=device)


def described(model: AnyModel, device: str | None) -> Predictor:
    """Return a model that this process describes, and that others compute with: it is not moved to a card here.

    A model that is in RAM alone is computed with by threads of this process, too, and is therefore moved.

    Parameters
    ----------
    model : AnyModel
        As `load_model` takes it.
    device : str or None
        Device of the processes that compute; None is that of a model that is loaded already, else "auto".
    """
    if isinstance(model, Predictor):
        return _labelled(as_predictor(model), check_device(model.device if device is None else device))
    if isinstance(model, Bucket | str | os.PathLike):
        return _labelled(as_predictor(model, "cpu"), check_device("auto" if device is None else device))
    parts = [described(one, device) for one in model]
    if len(parts) == 1:
        return parts[0]
    mixed = mix(parts)
    report_left_out(mixed)
    return mixed


def _labelled(predictor: Predictor, device: str) -> Predictor:
    """Return a model whose reference is to a device; one in RAM alone is moved to it."""
    if isinstance(predictor, MixedPredictor) and predictor.path is None and predictor.bucket is None:
        parts = tuple(_labelled(part, device) for part in predictor.parts)
        return dataclasses.replace(predictor, parts=parts, device=device)
    if isinstance(predictor.reference, Predictor):
        return on_device(predictor, device)
    return dataclasses.replace(predictor, device=device)


def _check_digest(predictor: Predictor, digest: str) -> None:
    if len(digest) < _SHORTEST_DIGEST:
        raise ConfigError(f"digest: expected at least {_SHORTEST_DIGEST} characters, found {digest!r}.")
    if not (predictor.digest or "").startswith(digest):
        raise CheckpointError(
            f"{predictor.place} has the digest {predictor.digest}, expected {digest}: it is another "
            "model, or was changed; get it from its author again."
        )


def _load(
    run: str | os.PathLike | Bucket, device: str = "auto", options: Mapping[str, object] | None = None
) -> Predictor:
    if (bucket := bucket_of(run, options)) is not None:
        with downloaded(bucket, lambda name: name in (checkpoint.RUN, checkpoint.ENSEMBLE)) as folder:
            about = checkpoint.read_about(folder)
        path, options = bucket.url, bucket.options
    else:
        path = str(shipped.find(os.fspath(run) if not isinstance(run, Bucket) else run.url))
        about = checkpoint.read_about(path)
    try:
        reference = ModelReference(path, about["digest"], str(about.get("seal", "")), options or {}, device)
        return load_reference(reference)
    except FluxcubeError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged, or of another version of fluxcube ({type(error).__name__}: {error}): copy it again."
        ) from error


def as_predictor(model: AnyModel, device: str | None = None) -> Predictor:
    """Return a predictor unchanged, or load it from its run, or from several runs; on a device, if one is passed."""
    return _declaring(load_model(model, device=device))


@names_disk_errors("folder")
def save_mixed(
    folder: str | os.PathLike,
    runs: Sequence[OneModel],
    *,
    weights: Sequence[float] | None = None,
    overwrite: bool = False,
) -> Path:
    """Store several runs as one model in a folder, which can be used, copied and calibrated like a run.

    The files that predictions need are copied, so that the folder does not depend on the runs. Models that ship with
    the package are not copied, but referred to by name.

    Parameters
    ----------
    folder : path
        Folder to write; created if it does not exist.
    runs : sequence of path, Run or str
        Runs, as `load_model` takes them.
    weights : sequence of float, optional
        Weight of each run, above 0; equal by default.
    overwrite : bool
        Whether to replace a mixed ensemble that the folder contains.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    CheckpointError
        If the folder contains something else, or a mixed ensemble and `overwrite` is false; if a run is not finished.
    ConfigError
        If the runs cannot be mixed, or one of them is in no folder of a disk.
    StoreError
        If another process is writing the folder.

    Examples
    --------
    >>> import tempfile
    >>> import fluxcube as fc
    >>> from fluxcube.simulation.example import example_cube
    >>> cube, folder = example_cube(sites=12, days=6), tempfile.mkdtemp()
    >>> runs = [fc.fit(cube, model=name, out=f"{folder}/{name}") for name in ("mean", "sw-linear")]
    >>> path = save_mixed(f"{folder}/mixed", runs, weights=[1, 3])
    >>> load_model(path)
    <Predictor mixed: NEE from 0.25 mean (mean), 0.75 sw-linear (sw-linear); ...>
    """
    if "://" in str(folder):
        raise ConfigError(f"{folder}: a mixed ensemble is stored on a disk; copy its folder to the bucket afterwards.")
    parts = [load_model(run) for run in runs]
    mixed, target = mix(parts, weights), Path(folder)
    report_left_out(mixed)
    paths = {name: part.path for name, part in zip(mixed.names, parts, strict=True) if part.path is not None}
    if absent := [name for name in mixed.names if name not in paths]:
        raise ConfigError(
            f"{', '.join(absent)} is in no folder of this machine, so that it cannot be copied: pass run folders."
        )
    real = Path(os.path.realpath(target))  # Path.resolve raises RuntimeError for a link to itself
    for path in paths.values():
        inside = Path(os.path.realpath(path))
        if real in (inside, *inside.parents):
            raise CheckpointError(f"{target} contains the run {path}: use another folder for the mixed ensemble.")
    checkpoint.make_parent(target)
    with writer_lock(target):
        _check_replaceable(target, overwrite)
        building = target.absolute().with_name(f".{target.absolute().name}.making-{os.urandom(6).hex()}")
        try:  # an earlier ensemble stays until the new one is complete
            checkpoint.save_mixed(building, paths, mixed.weights, mixed.metadata)
            _clear(target)
            os.replace(building, target)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return target


def _clear(folder: Path) -> None:
    """Remove the mixed ensemble of a folder, and nothing else; the folder itself stays."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    paths, _ = checkpoint.read_mixed(folder)
    (folder / checkpoint.ENSEMBLE).unlink()
    for path in paths.values():
        if path.parent == folder:
            shutil.rmtree(path)


def _check_replaceable(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that contains something else, or a mixed ensemble that may not be replaced (CheckpointError)."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a file: pass a folder for the mixed ensemble.")
    found = sorted(path.name for path in folder.iterdir())
    if not found:
        return
    if not checkpoint.is_mixed(folder):
        raise CheckpointError(f"{folder} contains other files ({', '.join(found[:3])}): use a folder of its own.")
    if not overwrite:
        raise CheckpointError(f"{folder} contains a mixed ensemble: pass {overwrite_option()} or another folder.")


def load_reference(reference: Reference) -> Predictor:
    """Return the model of a reference, read once per process; a predictor is returned unchanged.

    Parameters
    ----------
    reference : Predictor, ModelReference or MixedReference
        As `Predictor.reference` returns it.

    Raises
    ------
    CheckpointError
        If the folder now contains other weights, or was calibrated since.
    """
    if isinstance(reference, Predictor):
        return reference
    if isinstance(reference, MixedReference):
        return _load_mixed_reference(reference)
    key = (reference.path, reference.digest, reference.seal, reference.device)
    with _lock:  # threads of Dask request it at the same time; one of them reads
        if key not in _loaded:  # it is read once, and moved to each device in a copy
            unmoved = (*key[:3], "cpu")
            if unmoved not in _loaded:
                _loaded[unmoved] = _read(dataclasses.replace(reference, device="cpu"))
            _loaded[key] = _moved(_loaded[unmoved], reference.device)
        return _declaring(_loaded[key])


def _declaring(predictor: Predictor) -> Predictor:
    """Return a predictor after declaring the user's predictors that it was trained on, as `FeatureSpec.from_dict` does.

    A predictor that is read once is used again and again, perhaps after its declarations were removed.
    """
    declare_again(predictor.metadata.get("features", {}).get(DECLARED), f"the model {predictor.path}")
    return predictor


def _load_mixed_reference(reference: MixedReference) -> Predictor:
    """Return a mixed ensemble, built once per process if all members are in folders."""
    with _lock:
        if not reference.in_folders:
            return mix([load_reference(one) for one in reference.members], reference.weights, names=reference.names)
        if reference not in _loaded:
            parts = [load_reference(one) for one in reference.members]
            _loaded[reference] = mix(parts, reference.weights, names=reference.names)
        return _loaded[reference]


def _is_of_model(name: str) -> bool:
    """Return whether an object is one that predictions need."""
    return bool(_MODEL_FILES.fullmatch(name.rpartition("/")[2]))


def _read(reference: ModelReference) -> Predictor:
    if not is_bucket(reference.path):
        return _read_folder(reference, Path(reference.path))
    bucket = Bucket(reference.path, reference.options)
    with downloaded(bucket, _is_of_model) as folder:
        predictor = _read_folder(reference, folder)
    return dataclasses.replace(_detached(predictor), bucket=bucket)


def _detached(predictor: Predictor) -> Predictor:
    """Return a predictor, and its members, without the folder that they were read from, unless they are shipped."""
    if isinstance(predictor, MixedPredictor):
        predictor = dataclasses.replace(predictor, parts=tuple(_detached(part) for part in predictor.parts))
    is_copy = predictor.path is not None and not shipped.is_shipped(predictor.path)
    return dataclasses.replace(predictor, path=None) if is_copy else predictor


def _read_folder(reference: ModelReference, path: Path) -> Predictor:
    about = checkpoint.read_about(path)
    if (found := about["digest"]) != reference.digest:
        raise CheckpointError(
            f"{path} has other weights than when this was set up: expected digest {reference.digest[:12]}, "
            f"found {found[:12]}; load the model again."
        )
    if reference.seal and about.get("seal") != reference.seal:
        raise CheckpointError(f"{path} was calibrated again since this was set up: load the model again.")
    return _read_mixed(path) if checkpoint.is_mixed(path) else _read_single(path, reference.digest)


def _read_single(path: Path, digest: str) -> Predictor:
    model, metadata = checkpoint.load(path)
    spec = FeatureSpec.from_dict(metadata["features"])
    expected, found = (len(spec.inputs), len(spec.targets)), (model.sizes.inputs, model.sizes.targets)
    if found != expected:
        raise CheckpointError(
            f"{path}: its features are {expected[0]} inputs and {expected[1]} targets, its weights are for {found[0]} "
            f"and {found[1]}: it is damaged; copy it again."
        )
    return Predictor(model, spec, metadata, path, digest, checkpoint.applicability(path), device="cpu")


def _read_mixed(path: Path) -> MixedPredictor:
    paths, about = checkpoint.read_mixed(path)
    parts = [_load(member, "cpu") for member in paths.values()]
    return mix(parts, about["weights"], names=tuple(paths), about=about, path=path, digest=about["digest"])
