"""A checkpoint to train further: what it was given must be what it is given now, by name and order."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fluxcube.errors import CheckpointError, ConfigError, FluxcubeError
from fluxcube.models import checkpoint, registry
from fluxcube.models.checkpoint import RUN
from fluxcube.samples.features import FeatureSpec
from fluxcube.training.run import STATE

log = logging.getLogger(__name__)

#: Features that the weights are tied to.
_TIED = ("predictors", "memory_days", "bands", "static", "targets", "clock", "resolution")
#: Settings of a config that no weight is tied to.
_FREE = ("dropout", "dropout_unit", "head", "distribution", "causal", "stride", "supervised")


@dataclass(frozen=True)
class Start:
    """Weights to begin with.

    Attributes
    ----------
    spec : FeatureSpec
        What they were trained on; its targets' scaling is kept, since the weights give scaled fluxes.
    config : object
        Of the model.
    files : mapping
        The weights, as the model's `weights` gives them.
    digest, path : str, Path
        Of the checkpoint.
    """

    spec: FeatureSpec
    config: object
    files: Mapping[str, bytes] = field(repr=False)
    digest: str
    path: Path

    @classmethod
    def read(cls, run: str | os.PathLike) -> Start:
        """Read a run's checkpoint; of a run that did not end, the best weights of its last saved state.

        Raises
        ------
        CheckpointError
            If there is none, or it is damaged.
        ConfigError
            If it holds another kind of model, or several.
        """
        path = Path(os.fspath(run))
        if checkpoint.is_ensemble(path):
            raise ConfigError(f"init must be one model, {path} holds several: give one of its seed folders.")
        if not (path / RUN).exists() and (path / STATE).is_file():
            return _of_state(path)
        model, about = checkpoint.load(path)
        if not hasattr(model, "parameters"):
            raise ConfigError(f"init must be a model that gradient descent trains, {path} holds {model.kind}.")
        return cls(FeatureSpec.from_dict(about["features"]), model.config, model.weights(), about["digest"], path)

    def agree(self, spec: FeatureSpec, config: object) -> FeatureSpec:
        """Return the features to train on: those of the checkpoint, if `spec` and `config` fit them.

        Raises
        ------
        ConfigError
            Naming the features or settings that differ, or whose order does.
        """
        for name in _TIED:
            was, now = getattr(self.spec, name), getattr(spec, name)
            if was != now:
                order = "in another order: " if isinstance(was, tuple) and sorted(was) == sorted(now) else ""
                raise ConfigError(
                    f"{name} of the checkpoint {self.path} are {order}{_said(was)}, given are {_said(now)}: "
                    "give those of the checkpoint, in its order."
                )
        was, now = (dataclasses.asdict(c) for c in (self.config, config))
        differ = [k for k in was if k not in _FREE and was[k] != now[k]]
        if differ:
            raise ConfigError(
                f"config of the checkpoint {self.path} differs: "
                + ", ".join(f"{k} was {was[k]!r}, is {now[k]!r}" for k in differ)
                + "; its weights fit only what they were trained as."
            )
        if new := sorted(set(spec.igbp_classes) - set(self.spec.igbp_classes)):
            log.warning("%s: unknown to the checkpoint, so without a class token", ", ".join(new))
        changes = {"igbp_classes": self.spec.igbp_classes, "predictor_max_qc": spec.predictor_max_qc}
        return dataclasses.replace(self.spec, **changes)

    def put(self, model) -> None:
        """Give a model the weights; what only its head for variances has stays as it is."""
        own, given = model.weights(), dict(self.files)
        model.load_weights(_with_spread(own, given))
        model.train()


def _of_state(path: Path) -> Start:
    import safetensors.torch

    from fluxcube.training.state import read_weights

    weights, features, request = read_weights(path / STATE)
    files = {"model.safetensors": safetensors.torch.save(weights)}
    digest = hashlib.sha256(files["model.safetensors"]).hexdigest()
    try:
        config = registry.config_class(request["model"]).from_dict(request["config"])
        spec = FeatureSpec.from_dict(features)
    except FluxcubeError as error:
        raise CheckpointError(f"{path / STATE} is of another version of fluxcube or damaged: {error}") from error
    return Start(spec, config, files, digest, path)


def _with_spread(own: Mapping[str, bytes], given: Mapping[str, bytes]) -> dict[str, bytes]:
    """Give the checkpoint's tensors, and a new model's own of the head for variances; drop those it has not."""
    import safetensors.torch

    (name,) = own
    mine, theirs = (safetensors.torch.load(files[name]) for files in (own, given))
    spread = {k: v for k, v in mine.items() if k.startswith("spread.")}
    kept = {k: v for k, v in theirs.items() if k in mine or not k.startswith("spread.")}
    return {name: safetensors.torch.save(spread | kept)}


def _said(value: object) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, tuple) else repr(value)
