"""Predictor: a trained model with its features and scaling; a numpy block in, a numpy block of fluxes out.

Towers and grids use it alike. Windows end at time steps that do not depend on where a block begins, so that a series
cut into pieces, each with the time steps before it that its windows need, yields the same as the whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fluxcube.devices import deterministic
from fluxcube.errors import CheckpointError, ConfigError, to_type, unknown
from fluxcube.inference.devices import PRECISIONS, matrix_precision
from fluxcube.inference.embedding import tower_embeddings
from fluxcube.inference.moved import card_of
from fluxcube.inference.options import PredictionOptions, Uncertainty
from fluxcube.inference.passes import predict_scaled
from fluxcube.inference.precision import check_precision
from fluxcube.inference.respiration import DERIVED, daily_respiration
from fluxcube.models.applicability import Applicability
from fluxcube.models.base import Model
from fluxcube.models.ensemble import NEVER_NEGATIVE
from fluxcube.models.errormodel import ErrorModel, with_error_models
from fluxcube.resolution import check_resolution
from fluxcube.samples.daymeans import block_days
from fluxcube.samples.features import Block, FeatureSpec
from fluxcube.samples.splits import Split
from fluxcube.samples.support import block_with_embeddings, with_embeddings
from fluxcube.schema import validate_cube
from fluxcube.stores.objects import Bucket
from fluxcube.stores.origin import named, origin

if TYPE_CHECKING:
    import xarray as xr

#: Name of the layer with the distance of a time step's day from the training days.
DISSIMILARITY = "dissimilarity"


@dataclass(frozen=True)
class ModelReference:
    """A model by its folder and the digest of its weights: what Dask sends to its workers.

    Attributes
    ----------
    path : str
        Run folder, as this machine finds it, or its URL.
    digest : str
        Digest of the weights, so that a folder that was trained again is not mistaken for the original.
    seal : str
        Digest of the JSON file, so that a run that was calibrated again is not mistaken for the original; "" for runs
        of earlier versions.
    options : mapping
        `storage_options` of fsspec, if the path is the URL of a bucket.
    device : str
        Device on which a process that reads the model computes (`fluxcube.devices.check_device`).
    """

    path: str
    digest: str
    seal: str = ""
    options: Mapping[str, object] = field(default_factory=dict, repr=False, compare=False)
    device: str = "auto"


@dataclass(frozen=True)
class MixedReference:
    """A mixed ensemble that is in no folder, by its members: what Dask sends to its workers.

    Attributes
    ----------
    members : tuple of ModelReference or Predictor
        References of the members.
    names : tuple of str
        Names of the members.
    weights : tuple of float
        Weights of the members.
    """

    members: tuple[Reference, ...]
    names: tuple[str, ...]
    weights: tuple[float, ...]

    @property
    def in_folders(self) -> bool:
        """Whether all members are in folders, so that the reference contains no model."""
        return all(
            one.in_folders if isinstance(one, MixedReference) else isinstance(one, ModelReference)
            for one in self.members
        )


@dataclass(frozen=True)
class Predictor:
    """A trained model and all that is needed to use it.

    Attributes
    ----------
    model : Model
        Tensors in, tensors out.
    spec : FeatureSpec
        Features of the model, and scaling of its targets.
    metadata : mapping
        Record of `fit`: config, training sites, split, versions.
    path : Path or None
        Run folder; None for a model in RAM.
    digest : str
        Digest of the weights.
    applicability : Applicability or None
        Training days; None for a checkpoint without them.
    bucket : Bucket or None
        Run in a bucket that the model was read from.
    device : str
        Device of the model as the user named it (`fluxcube.devices.check_device`), here and in Dask workers.
    """

    model: Model
    spec: FeatureSpec
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)
    path: Path | None = None
    digest: str = ""
    applicability: Applicability | None = None
    bucket: Bucket | None = None
    device: str = "auto"

    def __repr__(self) -> str:
        """Return targets, inputs and folder, not the weights."""
        spec, members = self.spec, len(self.model.members)
        memory = f", means of {', '.join(map(str, spec.memory_days))} days" if spec.memory_days else ""
        images = (kind.array for kind in spec.images)
        inputs = ", ".join((*spec.predictors, *spec.surface, *spec.bands, *images, *spec.static))
        kind = f"{members} of {self.model.kind}" if members else self.model.kind
        return f"<Predictor {kind}: {', '.join(spec.targets)} from {inputs}{memory}; {self.place}>"

    def _repr_html_(self) -> str:
        """Return what the model predicts, and from what, as HTML."""
        from fluxcube.inference.card import predictor_card

        return predictor_card(self)

    @property
    def place(self) -> str:
        """Where the model was read from, as text."""
        return str(self.path or self.bucket or "in memory")

    @property
    def split(self) -> Split:
        """The split of sites it was trained on.

        Raises
        ------
        CheckpointError
            If none was recorded.
        """
        if not self.metadata.get("split"):
            raise CheckpointError(f"{self.path or 'this model'} records no split; choose the sites to score yourself.")
        return Split.from_dict(self.metadata["split"])

    @property
    def resolution(self) -> str:
        """Whether it was trained on an "hourly" or a "daily" cube; without a record, "hourly"."""
        return self.spec.resolution

    @property
    def quantities(self) -> tuple[str, ...]:
        """Quantities that it estimates of each target: "mean", and where it estimates them "std" and "spread"."""
        return self.model.quantities

    @property
    def calibrated(self) -> tuple[str, ...]:
        """Targets whose standard deviations were calibrated on validation towers, or on held-out predictions."""
        usable = set(self.spec.targets) if "std" in self.quantities else set(self.error_models)
        return tuple(
            name for name in self.spec.targets if name in usable and "calibrated" in self._calibration.get(name, {})
        )

    @property
    def error_models(self) -> dict[str, ErrorModel]:
        """Error models of the targets that `fluxcube.calibrate` calibrated on held-out predictions."""
        found = ((name, self._calibration.get(name, {}).get("error_model")) for name in self.spec.targets)
        return {name: ErrorModel.from_dict(values) for name, values in found if values}

    def calibration_sites(self, target: str) -> tuple[str, ...]:
        """Return the towers whose measured values calibrated the standard deviation of a target; () if none did.

        Runs that earlier versions calibrated on held-out predictions have no record of the towers: these are then all
        towers of the run's split.
        """
        entry, split = self._calibration.get(target, {}), self.metadata.get("split") or {}
        if target not in self.calibrated:
            return ()
        if "error_model" not in entry:
            return tuple(split.get("val", ()))
        every = [site for part in ("train", "val", "test") for site in split.get(part, ())]
        return tuple(entry.get("towers") or dict.fromkeys([*self.metadata.get("training_sites", ()), *every]))

    @property
    def _calibration(self) -> Mapping[str, Any]:
        return self.metadata.get("calibration") or {}

    @property
    def singles(self) -> tuple[Predictor, ...]:
        """Predictors with features of their own: this one, or the members of a mixed ensemble."""
        return (self,)

    @property
    def settings(self) -> dict[str, object]:
        """Settings on which predictions depend, besides the weights."""
        return {"support_years": self.support_years, "calibration": self.metadata.get("calibration")}

    @property
    def has_training_days(self) -> bool:
        """Whether there is a record of the training days, from which dissimilarity is computed."""
        return self.applicability is not None

    @property
    def dissimilarity_name(self) -> str:
        """Description of the layer of dissimilarity."""
        return "distance of the day's inputs to the nearest training day, in mean distances"

    @property
    def threshold(self) -> float:
        """Dissimilarity above which the model is not applicable (ConfigError without a record of training days)."""
        return self.training_days().threshold

    @property
    def support_years(self) -> tuple[int, ...] | None:
        """Calendar years of the support windows, () for all; None for a model without embeddings."""
        if not self.model.embedding_size:
            return None
        return tuple(self.metadata.get("support_years") or ())

    def with_support(self, years: Sequence[int]) -> Predictor:
        """Return this model with support windows from some calendar years alone.

        Parameters
        ----------
        years : sequence of int
            Such as (2001, 2011, 2021); none for the whole record.

        Raises
        ------
        ConfigError
            If the model uses no support windows.
        """
        if self.support_years is None:
            raise ConfigError(f"{self.model.kind} uses no support windows: it has no support years to choose.")
        changed = {**self.metadata, "support_years": [int(year) for year in years]}
        # A graph then contains the model itself, not a reference to its file, which does not record the years.
        return dataclasses.replace(self, metadata=changed, path=None, bucket=None)

    def embed(self, cube: xr.Dataset) -> xr.DataArray:
        """Return the embedding of each tower, from its model inputs alone; no flux is used.

        Parameters
        ----------
        cube : xr.Dataset
            A daily tower cube or a selection of it.

        Returns
        -------
        xr.DataArray
            (site, embedding) float32; see `fluxcube.inference.embedding.tower_embeddings`.

        Raises
        ------
        ConfigError
            If the model makes no embeddings, the cube is hourly, or a tower has no days in the support years.
        """
        if self.support_years is None:
            raise ConfigError(f"{self.model.kind} makes no embeddings; use a model that has support windows.")
        check_resolution(validate_cube(cube), self.resolution, "this model")
        embeddings = tower_embeddings(self.model, self.spec, cube, self.support_years)
        return embeddings.assign_attrs(model_digest=self.digest, **named(origin(cube), "cube"))

    @property
    def factors(self) -> np.ndarray:
        """Calibration factors of the standard deviations (targets,), found on the validation towers."""
        found = self._calibration
        return np.array([found.get(name, {}).get("factor", 1.0) for name in self.spec.targets], np.float32)

    def outputs(self, uncertainty: Uncertainty = False, applicability: bool = False) -> tuple[str, ...]:
        """Return the names of the outputs: targets; with `uncertainty` NAME_std and NAME_spread; RECO; dissimilarity.

        NAME_std is an output only where it was calibrated. RECO is one of a daily model that derives it.

        Parameters
        ----------
        uncertainty : bool, "std" or "spread"
            True for all measures of uncertainty that the model has; "std" or "spread" for one of them.
        applicability : bool
            Whether dissimilarity is an output.

        Raises
        ------
        ConfigError
            If the model has no measure of uncertainty, or not the requested one; if it has no record of its training
            days.
        """
        measures = self._measures(uncertainty)
        if applicability:
            _ = self.threshold  # refused without a record of training days
        derived = () if daily_respiration(self.spec) is None else (DERIVED,)
        return (*self.spec.targets, *measures, *derived, *((DISSIMILARITY,) if applicability else ()))

    def _measures(self, uncertainty: Uncertainty) -> tuple[str, ...]:
        """Return the names of the measures of uncertainty: NAME_std of each calibrated target, then NAME_spread."""
        if not isinstance(uncertainty, bool) and uncertainty not in ("std", "spread"):
            raise unknown("measure of uncertainty", str(uncertainty), ("std", "spread"))
        if not uncertainty:
            return ()
        std = tuple(f"{name}_std" for name in self.calibrated)
        spread = tuple(f"{name}_spread" for name in self.spec.targets if "spread" in self.quantities)
        if uncertainty == "spread" and not spread:
            several = to_type(python="fit(seeds=5)", shell="--seeds 5")
            raise ConfigError(f"this model has no spread, since it has no members: train several seeds ({several}).")
        if uncertainty == "std" and not std:
            raise ConfigError(self.why_uncalibrated(self.spec.targets))
        if not std and not spread:
            raise ConfigError(f"this model returns no uncertainty: {self.why_uncalibrated(self.spec.targets)}")
        return {"std": std, "spread": spread}.get(str(uncertainty), (*std, *spread))

    def why_uncalibrated(self, targets: Sequence[str]) -> str:
        """Return why there is no standard deviation of some targets, and what to do."""
        names = ", ".join(targets)
        calibrate = "calibrate the run on predictions of held-out towers, fluxcube.calibrate(run, cube, predictions)"
        if "spread" in self.quantities:
            return (
                f"nothing calibrated a standard deviation of {names}: {calibrate}, or pass uncertainty='spread', the "
                "disagreement of the members, which is not the error."
            )
        if "std" in self.quantities:
            return (
                f"no validation tower had enough measured values to calibrate the standard deviation of {names}. Train "
                f"with a split that has validation towers, or {calibrate}."
            )
        return (
            f"the model does not estimate the error of {names}. Train with distribution='gaussian' in its config, or "
            f"several seeds, or {calibrate}."
        )

    def _columns(self, uncertainty: Uncertainty) -> tuple[str, ...]:
        """Return the names of everything that the model computes, in the order of its arrays."""
        kinds = self.quantities[1:] if uncertainty else ()
        derived = () if daily_respiration(self.spec) is None else (DERIVED,)
        return (*self.spec.targets, *(f"{name}_{kind}" for kind in kinds for name in self.spec.targets), *derived)

    def training_days(self) -> Applicability:
        """Return the record of the training days (ConfigError if there is none)."""
        if self.applicability is None:
            raise ConfigError(
                f"{self.path or 'this model'} has no record of its training days: pass applicability=False, or train "
                "it with this version at towers of two clusters or more."
            )
        return self.applicability

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
        """Return prediction options, checked and completed by the defaults of the model.

        Parameters
        ----------
        stride, min_context, precision, uncertainty, applicability, deterministic
            Fields of `PredictionOptions`; None is the default of the model.

        Raises
        ------
        ConfigError
            If the model does not support an option.
        """
        self._check_options(min_context, precision, uncertainty, applicability)
        return PredictionOptions(
            stride=self.stride_or_default(stride),
            min_context=self.model.context if min_context is None else min_context,
            precision=precision or "float32",
            uncertainty=uncertainty,
            applicability=applicability,
            device=self.device,
            deterministic=deterministic,
        )

    def _check_options(
        self, min_context: int | None, precision: str | None, uncertainty: Uncertainty, applicability: bool
    ) -> None:
        """Refuse options that a model of this context, networks and outputs does not support (ConfigError)."""
        self.outputs(uncertainty, applicability)
        context = self.model.context
        if min_context is not None and not 1 <= min_context <= context:
            raise ConfigError(f"min_context must be 1..{context} for this model, found {min_context}.")
        if precision not in (None, *PRECISIONS):
            raise ConfigError(f"precision must be float32, tf32 or bfloat16, found {precision!r}.")
        if precision not in (None, "float32") and not self.model.networks:
            raise ConfigError(f"precision={precision!r} is for neural networks: this model has none, use float32.")

    @property
    def reference(self) -> Reference:
        """What a Dask graph contains: path and digest, or the model itself if it is in no file."""
        seal = str(self.metadata.get("seal", ""))
        if self.bucket is not None:
            return ModelReference(self.bucket.url, self.digest, seal, self.bucket.options, self.device)
        return self if self.path is None else ModelReference(str(self.path), self.digest, seal, device=self.device)

    def stride_or_default(self, stride: int | None) -> int:
        """Return the number of time steps that each window emits.

        The default is 1, unless the head emits all time steps of a window: then it leaves each time step at least 24
        steps of history.

        Raises
        ------
        ConfigError
            If a window cannot emit that many time steps.
        """
        emits = self.model.emits
        if stride is None:
            return 1 if emits == 1 else max(1, self.model.context - 24)
        if not 1 <= stride <= emits:
            why = "its head emits the last step of a window only" if emits == 1 else f"a window emits {emits} steps"
            if self.model.streams:
                why = "one pass estimates every step from its whole context, leave out stride"
            raise ConfigError(f"stride must be 1..{emits} for this model ({why}), found {stride}.")
        return stride

    def hours_before(self, stride: int | None = None) -> int:
        """Return the number of earlier time steps that fluxes depend on: from windows and trailing means."""
        return self.model.context - self.stride_or_default(stride) + max(0, self.spec.memory_steps - 1)

    def predict_block(
        self,
        block: Block,
        *,
        stride: int | None = None,
        uncertainty: Uncertainty = False,
        min_context: int | None = None,
        precision: str | None = None,
    ) -> np.ndarray:
        """Predict every time step of a block whose window lies in it.

        A window of T steps ends after each step h with (h + 1) % stride == 0, h counted from 1970, and emits the last
        `stride` of its steps. The last window may end beyond the block: its later steps are missing, and a causal model
        does not use them.

        Parameters
        ----------
        block : Block
            Features of n places over t time steps.
        stride : int, optional
            Number of time steps that one window emits; see `stride_or_default`.
        uncertainty : bool, "std" or "spread"
            Whether to return measures of uncertainty, too; see `outputs`.
        min_context : int, optional
            Predict time steps whose window begins before the block, too, if the block has this number of steps up to
            them, their own included: the other steps of the window are missing, as they were in training at the start
            of a record.
        precision : {"float32", "tf32", "bfloat16"}, optional
            Precision of a network's matrix products; float32 by default.

        Returns
        -------
        (n, t, outputs) float32
            One column for each of `outputs`, in the units of the targets. NaN where a window would begin before the
            block, and in time steps without a single observed predictor.
        """
        options = self.options(stride=stride, min_context=min_context, precision=precision, uncertainty=uncertainty)
        return self.predict(block, options)

    def predict_places(
        self,
        features: Callable[[FeatureSpec], Block],
        options: PredictionOptions,
        keep: slice = slice(None),
        embeddings: np.ndarray | None = None,
    ) -> np.ndarray:
        """Predict some time steps of places whose features are computed as the model needs them.

        Parameters
        ----------
        features : callable
            Computes the block of the places from the features of a model; a mixed ensemble calls it for each member.
        options, keep, embeddings
            As `predict` takes them.

        Returns
        -------
        (n, kept time steps, outputs) float32
        """
        return self.predict(features(self.spec), options, keep, embeddings)

    def predict(
        self,
        block: Block,
        options: PredictionOptions,
        keep: slice = slice(None),
        embeddings: np.ndarray | None = None,
    ) -> np.ndarray:
        """Predict some time steps of a block, as `predict_block` predicts all.

        Parameters
        ----------
        block : Block
            Features of n places over t time steps.
        options : PredictionOptions
            From `options`.
        keep : slice
            Time steps to return; the others are only read.
        embeddings : (n, embedding_size) float32, optional
            Embeddings of the places, for a model that uses them; by default they are computed from the block itself.

        Returns
        -------
        (n, kept time steps, outputs) float32
        """
        keep = slice(*keep.indices(block.inputs.shape[1])[:2])
        columns = self._columns(options.uncertainty)
        count = len(columns) + options.applicability
        out = np.full((len(block.inputs), max(0, keep.stop - keep.start), count), np.nan, np.float32)
        if out.size:
            fluxes, derive = out[..., : len(columns)], daily_respiration(self.spec)
            complete = self._with_embeddings(block, embeddings)
            with deterministic(options.deterministic):
                check_precision(self.model, complete, options, keep, self.digest)
                with matrix_precision(self.model, options.precision):
                    predict_scaled(self.model, complete, options, keep, fluxes, derive)
            self._unscale(fluxes, bool(options.uncertainty))
            fluxes[~block.observed[:, keep]] = np.nan
            if options.applicability:
                out[..., -1] = self.dissimilarity(block)[:, keep]
        return self._chosen(out, options)

    def _chosen(self, computed: np.ndarray, options: PredictionOptions) -> np.ndarray:
        """Return the outputs from everything that the model computed (..., columns); error models are applied."""
        names = self.outputs(options.uncertainty, options.applicability)
        columns = (*self._columns(options.uncertainty), *((DISSIMILARITY,) if options.applicability else ()))
        models = self.error_models if options.uncertainty else {}
        if names == columns and not models:
            return computed
        arrays = {name: computed[..., i] for i, name in enumerate(columns)}
        return np.stack([*with_error_models(arrays, names, models)], -1)

    def dissimilarity(self, block: Block) -> np.ndarray:
        """Return how far the UTC day of each time step is from the training days.

        Parameters
        ----------
        block : Block
            Features of n places over t time steps, whole days where they are known.

        Returns
        -------
        (n, t) float32
            The same for all hours of a day, in multiples of the mean distance between training days; NaN where the day
            has less than three quarters of the hours of every predictor.
        """
        days, lead = block_days(block, self.spec)
        index = (
            self.training_days().index(days.reshape(-1, days.shape[-1]), card_of(self.model)).reshape(days.shape[:2])
        )
        steps = np.arange(block.inputs.shape[1])
        return index[:, (steps + lead) // self.spec.steps(1)]

    def _with_embeddings(self, block: Block, embeddings: np.ndarray | None) -> Block:
        """Return a block with the embeddings of its places, if the model uses them."""
        if self.support_years is None:
            return block
        if embeddings is None:
            return block_with_embeddings(block, self.model, years=self.support_years)
        return with_embeddings(block, embeddings)

    def _unscale(self, out: np.ndarray, uncertainty: bool) -> None:
        """Convert scaled outputs to the units of the targets."""
        n = len(self.spec.targets)
        scale = np.array(self.spec.target_scale, np.float32)
        out[..., :n] = out[..., :n] * scale + np.array(self.spec.target_mean, np.float32)
        if self.spec.time_resolution.gross_fluxes_positive:
            for i, name in enumerate(self.spec.targets):
                if name.startswith(NEVER_NEGATIVE):
                    np.maximum(out[..., i], 0, out=out[..., i])
        if uncertainty and len(self.quantities) > 1:
            out[..., n : 2 * n] *= scale * self.factors
            size = len(self.quantities) * n
            out[..., 2 * n : size] *= np.tile(scale, len(self.quantities) - 2)


#: What a Dask graph contains: references to folders, or a model that is in none.
Reference = Predictor | ModelReference | MixedReference
