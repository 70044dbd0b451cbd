"""A checkpoint to train further: what it was given must be what it is given now, by name and order."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fluxcube.errors import CheckpointError, ConfigError, FluxcubeError
from fluxcube.models import checkpoint, registry, shipped
from fluxcube.models.checkpoint import RUN
from fluxcube.samples.features import FeatureSpec
from fluxcube.training.run import STATE

log = logging.getLogger(__name__)

#: Features that are lists of names, in the order in which the weights know them.
_NAMES = ("predictors", "memory_days", "bands", "static", "targets")
#: Features that all weights are tied to.
_TIED = ("clock", "resolution")
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
    rows : mapping
        Tensors whose rows stand for inputs or targets ("inputs", "bands", "targets"), where the model has such and
        may be given others.
    """

    spec: FeatureSpec
    config: object
    files: Mapping[str, bytes] = field(repr=False)
    digest: str
    path: Path
    rows: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, run: str | os.PathLike, kind: str) -> Start:
        """Read a run's checkpoint; of a run that did not end, the best weights of its last saved state.

        Raises
        ------
        CheckpointError
            If there is none, or it is damaged.
        ConfigError
            If it holds another kind of model, or several.
        """
        path = shipped.find(run)
        if checkpoint.is_ensemble(path):
            raise ConfigError(f"init must be one model, {path} holds several: give one of its seed folders.")
        if not (path / RUN).exists() and (path / STATE).is_file():
            return _of_state(path, kind)
        model, about = checkpoint.load(path)
        _check_kind(path, model.kind, kind)
        spec = FeatureSpec.from_dict(about["features"])
        return cls(spec, model.config, model.weights(), about["digest"], path, getattr(model, "rows", {}))

    def changed(self, changes: Mapping | None) -> object:
        """Return the checkpoint's config with some settings changed."""
        return type(self.config).from_dict(dataclasses.asdict(self.config) | dict(changes or {}))

    def agree(self, spec: FeatureSpec, config: object) -> FeatureSpec:
        """Return the features to train on: those of the checkpoint, if `spec` and `config` fit them.

        Raises
        ------
        ConfigError
            Naming the features or settings that differ, or whose order does.
        """
        for name in (*_TIED, *_NAMES):
            self._check(name, getattr(self.spec, name), getattr(spec, name))
        was, now = (dataclasses.asdict(c) for c in (self.config, config))
        differ = [k for k in was if k not in _FREE and was[k] != now[k]]
        if differ:
            raise ConfigError(
                f"config of the checkpoint {self.path} differs: "
                + ", ".join(f"{k} was {was[k]!r}, is {now[k]!r}" for k in differ)
                + "; its weights fit only what they were trained as."
            )
        if new := sorted(set(spec.igbp_classes) - set(self.spec.igbp_classes)) if "igbp" in self.spec.static else ():
            log.warning("%s: unknown to the checkpoint, so without a class token", ", ".join(new))
        return self._scaled(spec)

    def _check(self, name: str, was: object, now: object) -> None:
        """Refuse names in another order, and others than the checkpoint's where its model knows no others."""
        if was == now:
            return
        turned = name in _NAMES and [n for n in was if n in now] != [n for n in now if n in was]
        if not turned and name in _NAMES and self.rows:
            return
        raise ConfigError(
            f"{name} of the checkpoint {self.path} are {'in another order: ' if turned else ''}{_said(was)}, given are "
            f"{_said(now)}: give those of the checkpoint, in its order."
        )

    def _scaled(self, spec: FeatureSpec) -> FeatureSpec:
        """The features, fluxes that the checkpoint knows scaled as it knows them; its classes, where it has any."""
        changes = {name: getattr(self.spec, name) for name in ("input_mean", "input_scale")}
        for name, classes in self.spec.class_lists.items():
            if name in spec.static:
                changes[f"{name}_classes"] = classes
        for name, unscaled in (("target_mean", 0.0), ("target_scale", 1.0)):
            known = dict(zip(self.spec.targets, getattr(self.spec, name), strict=True))
            changes[name] = tuple(known.get(target, unscaled) for target in spec.targets)
        return dataclasses.replace(spec, **changes)

    def put(self, model, spec: FeatureSpec) -> None:
        """Give a model of `spec` the weights; what only it has stays as it is."""
        import safetensors.torch

        own = model.weights()
        (name,) = own
        mine, theirs = (safetensors.torch.load(files[name]) for files in (own, self.files))
        inputs = [(*s.inputs, *s.numbers) for s in (self.spec, spec)]
        lists = {"inputs": inputs, "bands": (self.spec.bands, spec.bands), "targets": (self.spec.targets, spec.targets)}
        places = {what: _places(*names) for what, names in lists.items()}
        for key, value in mine.items():
            if key in theirs and key in self.rows:
                for row, at in places[self.rows[key]]:
                    value[row] = theirs[key][at]
            elif key in theirs:
                mine[key] = theirs[key]
        model.load_weights({name: safetensors.torch.save(mine)})
        model.train()


def _places(was: Sequence[str], now: Sequence[str]) -> list[tuple[int, int]]:
    """Where each name in common stands now, and where it stood.

    Examples
    --------
    >>> _places(("TA", "VPD"), ("TA", "CO2", "VPD"))
    [(0, 0), (2, 1)]
    """
    return [(i, was.index(name)) for i, name in enumerate(now) if name in was]


def _check_kind(path: Path, found: str, wanted: str) -> None:
    if found != wanted:
        raise ConfigError(f"init must be a run of {wanted}, the model to train: {path} holds {found}.")


def _of_state(path: Path, kind: str) -> Start:
    import safetensors.torch

    from fluxcube.training.state import read_weights

    weights, features, request = read_weights(path / STATE)
    _check_kind(path, request["model"], kind)
    files = {"model.safetensors": safetensors.torch.save(weights)}
    digest = hashlib.sha256(files["model.safetensors"]).hexdigest()
    try:
        config = registry.config_class(request["model"]).from_dict(request["config"])
        spec = FeatureSpec.from_dict(features)
    except FluxcubeError as error:
        raise CheckpointError(f"{path / STATE} is of another version of fluxcube or damaged: {error}") from error
    return Start(spec, config, files, digest, path, getattr(registry.model_class(kind), "rows", {}))


def _said(value: object) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, tuple) else repr(value)
