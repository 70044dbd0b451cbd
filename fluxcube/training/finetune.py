"""Further training of a checkpoint: its features must equal the new ones in name and order."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxcube.errors import CheckpointError, ConfigError, FluxcubeError
from fluxcube.models import checkpoint, registry, shipped
from fluxcube.models.base import Config
from fluxcube.models.checkpoint import RUN
from fluxcube.samples.features import FeatureSpec
from fluxcube.stores.download import bucket_of, downloaded
from fluxcube.stores.objects import Bucket
from fluxcube.training.run import STATE

if TYPE_CHECKING:
    from fluxcube.models.network import Network

log = logging.getLogger(__name__)

#: Features that are lists of names; their order is that of the weights.
_NAMES = ("predictors", "memory_days", "bands", "surface", "static", "targets")
#: Features that all weights depend on.
_TIED = ("clock", "resolution", "bounds", "lookahead", "pixels")


@dataclass(frozen=True)
class Start:
    """Weights with which training begins.

    Attributes
    ----------
    spec : FeatureSpec
        Features of the checkpoint; the scaling of its targets is kept, since the weights yield scaled fluxes.
    config : Config
        Settings of the model.
    files : mapping
        The weights, as the model's `weights` returns them.
    digest, path : str, Path
        Digest and folder of the checkpoint.
    tensor_rows : mapping
        Tensors whose rows stand for inputs, bands or targets (`Network.tensor_rows`).
    free_settings : tuple of str
        Settings that no weight depends on.
    """

    spec: FeatureSpec
    config: Config
    files: Mapping[str, bytes] = field(repr=False)
    digest: str
    path: Path
    tensor_rows: Mapping[str, str] = field(default_factory=dict, repr=False)
    free_settings: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def read(cls, run: str | os.PathLike | Bucket, kind: str) -> Start:
        """Read the checkpoint of a run; for an unfinished run, the best weights of its last saved state.

        Raises
        ------
        CheckpointError
            If there is none, or it is damaged.
        ConfigError
            If it contains another kind of model, or an ensemble.
        """
        if (bucket := bucket_of(run)) is not None:
            with downloaded(bucket, lambda name: "/" not in name) as folder:
                return dataclasses.replace(cls._read(folder, kind), path=Path(bucket.name))
        return cls._read(shipped.find(run if not isinstance(run, Bucket) else run.url), kind)

    @classmethod
    def _read(cls, path: Path, kind: str) -> Start:
        if checkpoint.is_ensemble(path):
            raise ConfigError(f"init must be one model, but {path} is an ensemble: pass one of its seed folders.")
        if not (path / RUN).exists() and (path / STATE).is_file():
            return _of_state(path, kind)
        model, about = checkpoint.load(path)
        _check_kind(path, model.kind, kind)
        spec = FeatureSpec.from_dict(about["features"])
        return cls._of(kind, spec, model.config, model.weights(), about["digest"], path)

    @classmethod
    def _of(
        cls, kind: str, spec: FeatureSpec, config: Config, files: Mapping[str, bytes], digest: str, path: Path
    ) -> Start:
        network = network_class(kind)
        return cls(spec, config, files, digest, path, network.rows_of_tensors(config), network.free_settings)

    def changed(self, changes: Mapping | None) -> Config:
        """Return the checkpoint's config with some settings changed.

        Raises
        ------
        ConfigError
            If `inputs` is one of them: the features are those of the checkpoint, and the setting would have no effect.
        """
        own = getattr(self.config, "inputs", None)
        if changes and own is not None and changes.get("inputs", own) != own:
            raise ConfigError(
                f"inputs={changes['inputs']!r} has no effect on the checkpoint {self.path}, whose inputs are its own: "
                "leave it out, and choose inputs with predictors= and static=."
            )
        return type(self.config).from_dict(dataclasses.asdict(self.config) | dict(changes or {}))

    def agree(self, spec: FeatureSpec, config: Config) -> FeatureSpec:
        """Return the features to train on, scaled like those of the checkpoint, if `spec` and `config` agree with it.

        Raises
        ------
        ConfigError
            If features, their order, or settings differ; the message names them.
        """
        for name in (*_TIED, *_NAMES):
            self._check(name, getattr(self.spec, name), getattr(spec, name))
        self._check_images(spec)
        was, now = (dataclasses.asdict(c) for c in (self.config, config))
        differ = [k for k in was if k not in self.free_settings and was[k] != now[k]]
        if differ:
            raise ConfigError(
                f"config of the checkpoint {self.path} differs: "
                + ", ".join(f"{k} was {was[k]!r}, is {now[k]!r}" for k in differ)
                + "; its weights fit only these settings."
            )
        if new := sorted(set(spec.igbp_classes) - set(self.spec.igbp_classes)) if "igbp" in self.spec.static else ():
            log.warning("%s: unknown to the checkpoint, so without a learned class", ", ".join(new))
        return self._scaled(spec)

    def _check_images(self, spec: FeatureSpec) -> None:
        """Refuse other kinds of images, unless they come after those of the checkpoint, or are its first ones."""
        was, now = self.spec.images, spec.images
        common = min(len(was), len(now))
        if was != now and (was[:common] != now[:common] or not self.tensor_rows):
            raise ConfigError(
                f"images must begin with those of the checkpoint {self.path}, with equal bands, pixels, bounds and "
                f"hold_days: expected {_text(tuple(kind.name for kind in was))}, found "
                f"{_text(tuple(kind.name for kind in now))}."
            )

    def _check(self, name: str, was: object, now: object) -> None:
        """Refuse names in another order, and other names if the model does not support these."""
        if was == now:
            return
        reordered = False
        if isinstance(was, tuple) and isinstance(now, tuple):
            reordered = [n for n in was if n in now] != [n for n in now if n in was]
            if not reordered and self.tensor_rows:
                return
        raise ConfigError(
            f"{name} must be those of the checkpoint {self.path}{', in its order' if reordered else ''}: expected "
            f"{_text(was)}, found {_text(now)}."
        )

    def _scaled(self, spec: FeatureSpec) -> FeatureSpec:
        """Return the features with the scaling and classes of the checkpoint where it has them."""
        changes: dict[str, Any] = {name: getattr(self.spec, name) for name in ("input_mean", "input_scale")}
        for name, classes in self.spec.class_lists.items():
            if name in spec.static:
                changes[f"{name}_classes"] = classes
        for name, unscaled in (("target_mean", 0.0), ("target_scale", 1.0)):
            known = dict(zip(self.spec.targets, getattr(self.spec, name), strict=True))
            changes[name] = tuple(known.get(target, unscaled) for target in spec.targets)
        return dataclasses.replace(spec, **changes)

    def put(self, model: Network, spec: FeatureSpec) -> None:
        """Load the weights into a model of `spec`; weights that the checkpoint lacks keep their values."""
        import safetensors.torch

        own = model.weights()
        (name,) = own
        mine, theirs = (safetensors.torch.load(files[name]) for files in (own, self.files))
        inputs = [(*s.inputs, *s.numbers) for s in (self.spec, spec)]
        lists = {"inputs": inputs, "bands": (self.spec.bands, spec.bands), "targets": (self.spec.targets, spec.targets)}
        places = {what: _places(*names) for what, names in lists.items()}
        for key, value in mine.items():
            if key in theirs and key in self.tensor_rows:
                for row, at in places[self.tensor_rows[key]]:
                    value[row] = theirs[key][at]
            elif key in theirs:
                mine[key] = theirs[key]
        model.load_weights({name: safetensors.torch.save(mine)})
        model.train()


def _places(was: Sequence[str], now: Sequence[str]) -> list[tuple[int, int]]:
    """Return the new and the old position of each common name.

    Examples
    --------
    >>> _places(("TA", "VPD"), ("TA", "CO2", "VPD"))
    [(0, 0), (2, 1)]
    """
    return [(i, was.index(name)) for i, name in enumerate(now) if name in was]


def _check_kind(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise ConfigError(f"init must be a run of {expected}, the model to train: found {found} in {path}.")


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
        raise CheckpointError(f"{path / STATE} is damaged or of another version of fluxcube: {error}") from error
    return Start._of(kind, spec, config, files, digest, path)


def network_class(kind: str) -> type[Network]:
    """Return the class of a network (ConfigError if the model is none)."""
    from fluxcube.models.network import Network

    cls = registry.model_class(kind)
    if not issubclass(cls, Network):
        raise ConfigError(f"{kind} must be a subclass of fluxcube.models.network.Network to be trained further.")
    return cls


def _text(value: object) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, tuple) else repr(value)
