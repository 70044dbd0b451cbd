"""Load trained models: from a run folder, by the name of a shipped model, or by reference in a Dask worker."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from fluxcube.errors import CheckpointError
from fluxcube.inference.passes import to_gpu
from fluxcube.inference.predictor import ModelReference, Predictor
from fluxcube.models import checkpoint, shipped
from fluxcube.samples.features import FeatureSpec
from fluxcube.variables import DECLARED, declare_again

_loaded: dict[tuple[str, str], Predictor] = {}
_lock = threading.Lock()


def load_model(run: str | os.PathLike) -> Predictor:
    """Load a trained model.

    Parameters
    ----------
    run : path, Run or str
        Result of `fluxcube.fit`, or its folder; or the name of a model that ships with the package, such as
        "ecoperceiver-towers" (`fluxcube.models.shipped.names`).

    Returns
    -------
    Predictor

    Raises
    ------
    CheckpointError
        If the folder contains no finished model.
    """
    path = shipped.find(run)
    return load_reference(ModelReference(str(path), checkpoint.digest(path)))


def as_predictor(model: Predictor | str | os.PathLike) -> Predictor:
    """Return a predictor unchanged, or load it from its run."""
    return _declaring(model) if isinstance(model, Predictor) else load_model(model)


def load_reference(reference: Predictor | ModelReference) -> Predictor:
    """Return the model of a reference, read once per process; a predictor is returned unchanged.

    Parameters
    ----------
    reference : Predictor or ModelReference
        As `Predictor.reference` returns it.

    Raises
    ------
    CheckpointError
        If the folder now contains other weights.
    """
    if isinstance(reference, Predictor):
        return reference
    key = (reference.path, reference.digest)
    with _lock:  # threads of Dask request it at the same time; one of them reads
        if key not in _loaded:
            path = Path(reference.path)
            if (found := checkpoint.digest(path)) != reference.digest:
                raise CheckpointError(
                    f"{path} has other weights than when this was set up: expected digest {reference.digest[:12]}, "
                    f"found {found[:12]}; load the model again."
                )
            _loaded[key] = _read(path, reference.digest)
        return _declaring(_loaded[key])


def _declaring(predictor: Predictor) -> Predictor:
    """Return a predictor after declaring the user's predictors that it was trained on, as `FeatureSpec.from_dict` does.

    A predictor that is read once is used again and again, perhaps after its declarations were removed.
    """
    declare_again(predictor.metadata.get("features", {}).get(DECLARED), f"the model {predictor.path}")
    return predictor


def _read(path: Path, digest: str) -> Predictor:
    model, metadata = checkpoint.load(path)
    to_gpu(model)
    spec = FeatureSpec.from_dict(metadata["features"])
    return Predictor(model, spec, metadata, path, digest, checkpoint.applicability(path))
