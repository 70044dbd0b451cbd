"""Mixed ensembles: runs of different kinds opened as one model, the weighted mean of their predictions.

Each member computes its own features, with its own windows and strides, so that the mean is exactly that of the
predictions of the members.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError
from fluxcube.inference.options import PredictionOptions, Uncertainty
from fluxcube.inference.predictor import DISSIMILARITY, MixedReference, Predictor, Reference
from fluxcube.inference.respiration import DERIVED
from fluxcube.models import checkpoint
from fluxcube.models.applicability import Applicability
from fluxcube.models.base import Sizes
from fluxcube.models.ensemble import MIXED, MixedEnsemble, normalised_weights, weighted_mean, weighted_spread
from fluxcube.models.errormodel import with_error_models
from fluxcube.samples.features import Block, FeatureSpec
from fluxcube.samples.images import ImageKind
from fluxcube.samples.splits import Split

logger = logging.getLogger(__name__)

#: Settings of features that the members of a mixed ensemble must share, and why.
_COMMON = {
    "resolution": "hourly and daily models have different time steps",
    "clock": "a cube has one clock",
}
#: Settings of features of which the description of all inputs has those of every member.
_UNITED = ("predictors", "memory_days", "bands", "surface", "static", "igbp_classes", "koppen_classes")
#: Settings of features that scale the values of one member, and describe no input.
_SCALING = ("target_mean", "target_scale", "input_mean", "input_scale")


@dataclass(frozen=True, repr=False)
class MixedPredictor(Predictor):
    """A mixed ensemble; `mix` and `fluxcube.load_model` build it.

    `spec` describes the inputs of all members together, and their common targets. `dissimilarity` is the largest of the
    members' own, each divided by the threshold of the member, so that the threshold of the ensemble is 1: it is
    applicable where every member is.

    Attributes
    ----------
    parts : tuple of Predictor
        Members, each with its own features, context and stride.
    names : tuple of str
        Names of the members.
    weights : tuple of float
        Weights of the members; they add up to 1.
    """

    parts: tuple[Predictor, ...] = ()
    names: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()

    def __repr__(self) -> str:
        """Return targets, members and folder."""
        members = ", ".join(f"{w:.3g} {name} ({p.model.kind})" for name, p, w in self._members())
        return f"<Predictor {MIXED}: {', '.join(self.spec.targets)} from {members}; {self.place}>"

    def _members(self) -> list[tuple[str, Predictor, float]]:
        return list(zip(self.names, self.parts, self.weights, strict=True))

    @property
    def singles(self) -> tuple[Predictor, ...]:
        """Predictors with features of their own: all members."""
        return tuple(single for part in self.parts for single in part.singles)

    @property
    def settings(self) -> dict[str, object]:
        """Settings on which predictions depend, besides the weights: those of all members."""
        members = [part.settings for part in self.parts]
        return {"calibration": self.metadata.get("calibration"), "members": members}

    @property
    def reference(self) -> Reference:
        """What a Dask graph contains: the folder, or those of the members."""
        if self.path is not None or self.bucket is not None:
            return super().reference
        return MixedReference(tuple(part.reference for part in self.parts), self.names, self.weights)

    @property
    def has_training_days(self) -> bool:
        """Whether all members have a record of their training days."""
        return all(part.has_training_days for part in self.parts)

    @property
    def dissimilarity_name(self) -> str:
        """Description of the layer of dissimilarity."""
        return "largest distance of the day's inputs to the training days of a member, in thresholds of the member"

    @property
    def threshold(self) -> float:
        """Dissimilarity above which the model is not applicable: 1 (ConfigError if a member has no training days)."""
        for part in self.parts:
            _ = part.threshold
        return 1.0

    def training_days(self) -> Applicability:
        """Refuse: each member has its own training days (ConfigError)."""
        raise ConfigError(f"each member of {self.path or 'a mixed ensemble'} has its own training days: use `parts`.")

    @property
    def support_years(self) -> tuple[int, ...] | None:
        """Calendar years of the support windows of the members that use them; None if no member does."""
        years = [single.support_years for single in self.singles if single.support_years is not None]
        return tuple(sorted({year for one in years for year in one})) if years else None

    def with_support(self, years: Sequence[int]) -> MixedPredictor:
        """Return this model with support windows from some calendar years alone, in the members that use them."""
        if self.support_years is None:
            raise ConfigError("no member of this mixed ensemble uses support windows: it has no support years.")
        parts = (part if part.support_years is None else part.with_support(years) for part in self.parts)
        return dataclasses.replace(self, parts=tuple(parts), path=None, bucket=None)

    def embed(self, cube: xr.Dataset) -> xr.DataArray:
        """Refuse: members make embeddings of their own (ConfigError)."""
        raise ConfigError(f"a mixed ensemble makes no embeddings: use those of a member ({', '.join(self.names)}).")

    def options(
        self,
        *,
        stride: int | None = None,
        min_context: int | None = None,
        precision: str | None = None,
        uncertainty: Uncertainty = False,
        applicability: bool = False,
        deterministic: bool = False,
    ) -> PredictionOptions:
        """Return prediction options, checked and completed by the defaults of each member.

        Parameters
        ----------
        stride : int, optional
            Number of time steps of one window, of the members whose windows emit that many; the others emit one time
            step, or their default.
        min_context : int, optional
            As for a single model; for a member of a shorter context, its context.
        precision : {"float32", "tf32", "bfloat16"}, optional
            Precision of the matrix products of those members that are networks.
        uncertainty, applicability, deterministic
            Fields of `PredictionOptions`.

        Raises
        ------
        ConfigError
            If no member supports an option.
        """
        self._check_options(min_context, precision, uncertainty, applicability)
        if stride is not None and not 1 <= stride <= self.model.emits:
            raise ConfigError(
                f"stride must be 1..{self.model.emits} for this mixed ensemble (the windows of no member emit more "
                f"steps), found {stride}."
            )
        members = tuple(
            part.options(
                stride=stride if stride is None or stride <= part.model.emits else None,
                min_context=None if min_context is None else min(min_context, part.model.context),
                precision=precision if part.model.networks else None,
                applicability=applicability,
                deterministic=deterministic,
            )
            for part in self.parts
        )
        return PredictionOptions(
            stride=math.lcm(*(one.stride for one in members)),
            min_context=max(one.min_context for one in members),
            precision=precision or "float32",
            uncertainty=uncertainty,
            applicability=applicability,
            device=self.device,
            deterministic=deterministic,
            members=members,
        )

    def stride_or_default(self, stride: int | None) -> int:
        """Return the number of time steps after which the windows of all members end together."""
        return self.options(stride=stride).stride

    def hours_before(self, stride: int | None = None) -> int:
        """Return the number of earlier time steps that fluxes depend on, of the member that needs most."""
        return max(part.hours_before(1) for part in self.parts)

    def predict(
        self,
        block: Block,
        options: PredictionOptions,
        keep: slice = slice(None),
        embeddings: np.ndarray | None = None,
    ) -> np.ndarray:
        """Refuse: the features of one block do not serve all members (ConfigError)."""
        raise ConfigError("each member of a mixed ensemble has its own features: use fluxcube.predict, or `parts`.")

    def dissimilarity(self, block: Block) -> np.ndarray:
        """Refuse: the features of one block do not serve all members (ConfigError)."""
        raise ConfigError("each member of a mixed ensemble has its own features: use fluxcube.predict, or `parts`.")

    def predict_places(
        self,
        features: Callable[[FeatureSpec], Block],
        options: PredictionOptions,
        keep: slice = slice(None),
        embeddings: np.ndarray | None = None,
    ) -> np.ndarray:
        """Predict some time steps of places: the weighted mean of the members' own predictions.

        Parameters
        ----------
        features : callable
            Computes the block of the places from the features of a member.
        options, keep
            As `Predictor.predict` takes them; options come from `options`.
        embeddings : (n, embedding_size) float32, optional
            Embeddings of the members that use them, one after the other.

        Returns
        -------
        (n, kept time steps, outputs) float32
            NaN where a member has no prediction.
        """
        every = []
        at = 0
        features = _shared(features)
        for part, own in zip(self.parts, options.members, strict=True):
            size = sum(single.model.embedding_size for single in part.singles)
            given = embeddings[:, at : at + size] if embeddings is not None and size else None
            at += size
            values = part.predict_places(features, own, keep, given)
            names = part.outputs(own.uncertainty, own.applicability)
            every.append({name: values[..., i] for i, name in enumerate(names)})
        return self.combine(every, options)

    def combine(self, every: Sequence[Mapping[str, np.ndarray]], options: PredictionOptions) -> np.ndarray:
        """Return the outputs of the ensemble (..., outputs) from those of each member (...) by name."""
        names = self.outputs(options.uncertainty, options.applicability)
        arrays = {}
        for target in self.spec.targets:
            values = np.stack([one[target] for one in every])
            arrays[target] = weighted_mean(values, self.weights).astype(np.float32)
            if options.uncertainty:
                arrays[f"{target}_spread"] = weighted_spread(values, self.weights).astype(np.float32)
        if DERIVED in names:
            values = np.stack([_respiration(one) for one in every])
            arrays[DERIVED] = weighted_mean(values, self.weights).astype(np.float32)
        if options.applicability:
            shares = [one[DISSIMILARITY] / np.float32(p.threshold) for one, p in zip(every, self.parts, strict=True)]
            arrays[DISSIMILARITY] = np.max(shares, 0)  # NaN where one of them is unknown
        return np.stack([*with_error_models(arrays, names, self.error_models)], -1)


def _shared(features: Callable[[FeatureSpec], Block]) -> Callable[[FeatureSpec], Block]:
    """Return `features` that are not computed again for a member whose inputs are those of the previous one."""
    known: list[tuple[Mapping[str, Any], Block]] = []

    def block(spec: FeatureSpec) -> Block:
        # Targets and their scaling are no features.
        inputs = {name: value for name, value in vars(spec).items() if not name.startswith("target")}
        if not known or known[0][0] != inputs:
            known[:] = []  # before the next one takes RAM
            known.append((inputs, features(spec)))
        return known[0][1]

    return block


def _respiration(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return daily RECO of a member; of one that has a head for respiration of another name, from its NEE and GPP."""
    if DERIVED in outputs:
        return outputs[DERIVED]
    return np.maximum(outputs["NEE"] + np.maximum(outputs["GPP_NT"], 0), 0)


def mix(
    parts: Sequence[Predictor],
    weights: Sequence[float] | None = None,
    *,
    names: Sequence[str] | None = None,
    about: Mapping[str, Any] | None = None,
    **stored: Any,
) -> MixedPredictor:
    """Open several models as one.

    Parameters
    ----------
    parts : sequence of Predictor
        Members.
    weights : sequence of float, optional
        Weight of each member, above 0; equal by default.
    names : sequence of str, optional
        Names of the members; by default those of their folders.
    about : mapping, optional
        Metadata that is stored with the ensemble.
    **stored
        Fields `path` and `digest` of a stored ensemble.

    Raises
    ------
    ConfigError
        If there are fewer than two members, one of them is there twice, weights do not fit, or the members have no
        common target, or different time steps or clocks.
    """
    if len(parts) < 2:
        raise ConfigError(f"a mixed ensemble needs at least two members, found {len(parts)}.")
    shares = normalised_weights(weights, len(parts))
    chosen = tuple(names or distinct_names(parts))
    for i, part in enumerate(parts):
        if part.digest and part.digest in [other.digest for other in parts[:i]]:
            raise ConfigError(f"{chosen[i]} is there twice: mix different models, and use weights to count one more.")
    spec = united_spec([part.spec for part in parts], chosen)
    digest = checkpoint.mixed_digest([part.digest for part in parts], shares)
    metadata = mixed_metadata(parts, chosen, shares, spec) | dict(about or {})
    sizes = Sizes(inputs=len(spec.inputs), targets=len(spec.targets))
    model = MixedEnsemble([part.model for part in parts], shares, sizes)
    fields = {"digest": digest, "path": None, "device": parts[0].device} | stored
    return MixedPredictor(model, spec, metadata, parts=tuple(parts), names=chosen, weights=shares, **fields)


def distinct_names(parts: Sequence[Predictor]) -> list[str]:
    """Return a name for each member: that of its folder, else its kind; numbered where two are alike."""
    plain = [one.name if (one := part.path or part.bucket) is not None else part.model.kind for part in parts]
    return [name if plain.count(name) == 1 else f"{name}-{plain[:i].count(name)}" for i, name in enumerate(plain)]


def united_spec(specs: Sequence[FeatureSpec], names: Sequence[str]) -> FeatureSpec:
    """Return a description of the inputs of all members together, and of their common targets.

    Targets that only some members have are left out.

    Raises
    ------
    ConfigError
        If the members have no common target, or different time steps or clocks.
    """
    first = specs[0]
    for setting, why in _COMMON.items():
        values = [getattr(spec, setting) for spec in specs]
        if len(set(values)) > 1:
            found = ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
            raise ConfigError(f"the members of a mixed ensemble must have one {setting} ({why}); found {found}.")
    targets = tuple(name for name in first.targets if all(name in spec.targets for spec in specs))
    if not targets:
        found = "; ".join(f"{name}: {', '.join(spec.targets)}" for name, spec in zip(names, specs, strict=True))
        raise ConfigError(f"the members of a mixed ensemble must have a common target; found {found}.")
    changed: dict[str, Any] = {"pixels": _pixels(specs, names), "lookahead": max(spec.lookahead for spec in specs)}
    changed |= dict.fromkeys(_SCALING, ()) | {"images": _images(specs)}
    changed |= {name: tuple(dict.fromkeys(v for spec in specs for v in getattr(spec, name))) for name in _UNITED}
    return dataclasses.replace(first, targets=targets, **changed)


def _images(specs: Sequence[FeatureSpec]) -> tuple[ImageKind, ...]:
    """Return the kinds of images of all members, with the bands of each that any member uses."""
    kinds: dict[str, ImageKind] = {}
    for kind in (kind for spec in specs for kind in spec.images):
        known = kinds.get(kind.name, kind)
        bands = tuple(dict.fromkeys([*known.bands, *kind.bands]))
        kinds[kind.name] = dataclasses.replace(known, bands=bands, hold_days=max(known.hold_days, kind.hold_days))
    return tuple(kinds.values())


def _pixels(specs: Sequence[FeatureSpec], names: Sequence[str]) -> int:
    """Return the number of pixels of the bands of the members that have bands (ConfigError if they differ)."""
    found = {name: spec.pixels for name, spec in zip(names, specs, strict=True) if spec.bands}
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{name} {pixels}" for name, pixels in found.items())
        raise ConfigError(
            f"members whose bands are chips (64 pixels) and members whose bands are those of a point (1 pixel) cannot "
            f"be mixed yet; found {listed}. Mix members with one number of pixels."
        )
    return next(iter(found.values()), specs[0].pixels)


def report_left_out(mixed: MixedPredictor) -> None:
    """Log the targets that some members have, and others do not."""
    every = dict.fromkeys(name for part in mixed.parts for name in part.spec.targets)
    if some := [name for name in every if name not in mixed.spec.targets]:
        logger.warning("%s: left out of the mixed ensemble, since only some members estimate them", ", ".join(some))


def mixed_metadata(
    parts: Sequence[Predictor], names: Sequence[str], weights: Sequence[float], spec: FeatureSpec
) -> dict[str, Any]:
    """Return the metadata of a mixed ensemble: members, weights, features, training sites of any member, and split."""
    sites = dict.fromkeys(site for part in parts for site in part.metadata.get("training_sites") or ())
    split = common_split([part.metadata.get("split") for part in parts])
    return {
        "kind": MIXED,
        "members": {name: part.digest for name, part in zip(names, parts, strict=True)},
        "weights": list(weights),
        "features": spec.to_dict(),
        "training_sites": list(sites),
        "calibration": {},
        **({"split": split} if split else {}),
    }


def common_split(splits: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Return a split whose test towers no member was trained on; None if the members record no common one.

    Members of one split have that split. Otherwise the training towers are those of any member, and the test towers
    those that are test towers of all members; validation towers are left out.
    """
    if any(split is None for split in splits):
        return None
    known = [Split.from_dict(split) for split in splits if split is not None]
    if all(split == known[0] for split in known):
        return known[0].to_dict()
    if any(split.periods for split in known):
        return None
    train = tuple(dict.fromkeys(site for split in known for site in split.train))
    test = tuple(site for site in known[0].test if all(site in split.test for split in known))
    if not test:
        return None
    return Split(train=train, test=test, kind="mixed", buffer_km=min(split.buffer_km for split in known)).to_dict()
