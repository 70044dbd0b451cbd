"""One path from features to fluxes: a numpy block in, a numpy block out, for towers and grids alike.

Windows end at hours that do not depend on where a block begins, so that a series cut into pieces (each with
the hours before it that its windows need) gives what the whole gives.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fluxcube.errors import CheckpointError, ConfigError
from fluxcube.models.applicability import Applicability
from fluxcube.models.base import Batch, Model, predict_all, quantities
from fluxcube.samples import support
from fluxcube.samples.daymeans import block_days, steps_of_a_day
from fluxcube.samples.features import Block, FeatureSpec
from fluxcube.samples.windows import flatten, gather

if TYPE_CHECKING:
    import xarray as xr

    from fluxcube.samples.splits import Split

#: Windows of one forward pass: 64 to 256 are fastest on a CPU, and a window of one hour is next to nothing.
_WINDOWS = 128
_ROWS = 16384
#: A GPU has room for more, and takes as long for few.
_WINDOWS_GPU = 2048
#: Fewer windows that follow each other hour by hour are not worth a pass of their own.
_SHORT_RUN = 16

_loaded: dict[tuple[str, str], Predictor] = {}
_lock = threading.Lock()

#: Name of the layer that tells how far an hour's day is from the training days.
DISSIMILARITY = "dissimilarity"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is wanted of a model; `Predictor.wanted` settles it.

    Attributes
    ----------
    stride : int
        Steps that one window gives.
    min_context : int
        Steps of history, its own included, that a step must have: the model's context, or fewer in the first ones.
    precision : {"float32", "bfloat16"}
        Of matrix products.
    uncertainty : bool
        Whether standard deviations are given, too.
    applicability : bool
        Whether the dissimilarity to the training days is given, too.
    """

    stride: int
    min_context: int
    precision: str = "float32"
    uncertainty: bool = False
    applicability: bool = False


@dataclass(frozen=True)
class Predictor:
    """A trained model and all it needs to be used.

    Attributes
    ----------
    model : Model
        Tensors in, tensors out.
    spec : FeatureSpec
        Which features it takes, and how its targets are scaled.
    metadata : mapping
        What `fit` recorded: config, training sites, split, versions.
    path : Path or None
        Run folder; None for a model in memory.
    digest : str
        Of the weights.
    applicability : Applicability or None
        Its training days; None for a checkpoint without them.
    """

    model: Model
    spec: FeatureSpec
    metadata: Mapping = field(default_factory=dict, repr=False)
    path: Path | None = None
    digest: str = ""
    applicability: Applicability | None = None

    def __repr__(self) -> str:
        """Say what it predicts from what, not every number that it holds."""
        spec, members = self.spec, len(getattr(self.model, "members", ()))
        memory = f", means of {', '.join(map(str, spec.memory_days))} days" if spec.memory_days else ""
        inputs = ", ".join((*spec.predictors, *spec.bands, *spec.static))
        kind = f"{members} of {self.model.kind}" if members else self.model.kind
        return f"<Predictor {kind}: {', '.join(spec.targets)} from {inputs}{memory}; {self.path or 'in memory'}>"

    @property
    def split(self) -> Split:
        """The split of sites it was trained on.

        Raises
        ------
        CheckpointError
            If none was recorded.
        """
        from fluxcube.samples.splits import Split

        if not self.metadata.get("split"):
            raise CheckpointError(f"{self.path or 'this model'} records no split; choose the sites to score yourself.")
        return Split.from_dict(self.metadata["split"])

    @property
    def resolution(self) -> str:
        """Whether it was trained on an "hourly" or a "daily" cube; one that does not say is hourly."""
        return self.metadata.get("cube", {}).get("resolution", "hourly")

    @property
    def quantities(self) -> tuple[str, ...]:
        """What it can give of each target: "mean", and where it has them "std" and "spread"."""
        return quantities(self.model)

    @property
    def support_years(self) -> tuple[int, ...] | None:
        """Years whose drivers tell the model what a place is like, () for all; None where it is not told."""
        if not getattr(self.model, "code_size", 0):
            return None
        return tuple(self.metadata.get("support_years") or ())

    def with_support(self, years: Sequence[int]) -> Predictor:
        """Return this model, told what a place is like by its drivers of the given years alone.

        Parameters
        ----------
        years : sequence of int
            Such as (2001, 2011, 2021); none for the whole record.

        Raises
        ------
        ConfigError
            If the model is told nothing of places.
        """
        if self.support_years is None:
            raise ConfigError("support years are of TAM-RL: this model is not told what a place's drivers look like.")
        given = {**self.metadata, "support_years": [int(year) for year in years]}
        # In a graph the model itself is held, not its file, which does not know of the years.
        return dataclasses.replace(self, metadata=given, path=None)

    def embed(self, cube) -> xr.DataArray:
        """Return what TAM-RL makes of each place's drivers, as `fluxcube.inference.embedding.embed` does."""
        from fluxcube.inference.embedding import embed

        return embed(self, cube)

    @property
    def factors(self) -> np.ndarray:
        """What standard deviations are multiplied by to be as wide as the validation towers' errors (targets,)."""
        said = self.metadata.get("calibration") or {}
        return np.array([said.get(name, {}).get("factor", 1.0) for name in self.spec.targets], np.float32)

    def outputs(self, uncertainty: bool = False, applicability: bool = False) -> tuple[str, ...]:
        """Return the names of what `give` gives: the targets; NAME_std, NAME_spread with `uncertainty`; dissimilarity.

        Raises
        ------
        ConfigError
            If the model knows nothing about its errors, or nothing about its training days.
        """
        names = self.spec.targets
        if uncertainty:
            if len(self.quantities) == 1:
                raise ConfigError(
                    "this model gives no uncertainty: train with distribution='gaussian' in its config, or several "
                    "seeds."
                )
            names = (*names, *(f"{name}_{kind}" for kind in self.quantities[1:] for name in self.spec.targets))
        if applicability and self.applicability is None:
            raise ConfigError(
                f"{self.path or 'this model'} was trained by an earlier version and does not hold its training days: "
                "give applicability=False, or train it anew."
            )
        return (*names, DISSIMILARITY) if applicability else names

    def wanted(
        self,
        *,
        stride: int | None = None,
        min_context: int | None = None,
        precision: str | None = None,
        uncertainty: bool = False,
        applicability: bool = False,
    ) -> Wanted:
        """Settle what is wanted, defaults included.

        Raises
        ------
        ConfigError
            If the model cannot give it.
        """
        self.outputs(uncertainty, applicability)
        context = self.model.context
        if min_context is not None and not 1 <= min_context <= context:
            raise ConfigError(f"min_context must be 1..{context} for this model, found {min_context}.")
        if precision not in (None, "float32", "bfloat16"):
            raise ConfigError(f"precision must be float32 or bfloat16, found {precision!r}.")
        if precision == "bfloat16" and not _networks(self.model):
            raise ConfigError("precision='bfloat16' is for neural networks; this model has float32 alone.")
        return Wanted(
            stride=self.stride_or_default(stride),
            min_context=context if min_context is None else min_context,
            precision=precision or "float32",
            uncertainty=uncertainty,
            applicability=applicability,
        )

    @property
    def reference(self) -> Predictor | ModelReference:
        """What a Dask graph holds: two strings, or the model itself where it is in no file."""
        return self if self.path is None else ModelReference(str(self.path), self.digest)

    def load(self) -> Predictor:
        """Return itself, as `ModelReference.load` returns what it names."""
        return self

    def stride_or_default(self, stride: int | None) -> int:
        """Return how many hours each window emits.

        By default 1, unless the head emits all of a window's hours: then as many as leave each at least
        24 hours of history.

        Raises
        ------
        ConfigError
            If a window cannot emit that many hours.
        """
        emits = self.model.emits
        if stride is None:
            return 1 if emits == 1 else max(1, self.model.context - 24)
        if not 1 <= stride <= emits:
            why = "its head gives the last hour of a window only" if emits == 1 else f"a window gives {emits} hours"
            raise ConfigError(f"stride must be 1..{emits} for this model ({why}), found {stride}.")
        return stride

    def hours_before(self, stride: int | None = None) -> int:
        """Return how many hours before the first one of a stride can change its fluxes: window and memory."""
        return self.model.context - self.stride_or_default(stride) + max(0, self.spec.memory_hours - 1)

    def predict_block(
        self,
        block: Block,
        *,
        stride: int | None = None,
        uncertainty: bool = False,
        min_context: int | None = None,
        precision: str | None = None,
    ) -> np.ndarray:
        """Predict every hour of a block whose window lies in it.

        A window of T hours ends after each hour h with (h + 1) % stride == 0, h counted from 1970, and gives the
        last `stride` of its hours. The last window may end beyond the block: what is not there yet is missing,
        and a causal model does not see it.

        Parameters
        ----------
        block : Block
            Features of n places over t hours.
        stride : int, optional
            Hours that one window gives; see `stride_or_default`.
        uncertainty : bool
            Whether to give standard deviations, too.
        min_context : int, optional
            Predict hours whose window begins before the block, too, if the block has so many hours up to them, their
            own included: the window's other hours are missing, as they were in training at the start of a record.
        precision : {"float32", "bfloat16"}, optional
            Of a network's matrix products; float32 by default.

        Returns
        -------
        (n, t, outputs) float32
            One column for each of `outputs`, in the targets' units. NaN where a window would begin before the block,
            and in hours without a single observed predictor.
        """
        options = {"stride": stride, "min_context": min_context, "precision": precision, "uncertainty": uncertainty}
        return self.give(block, self.wanted(**options))

    def give(
        self, block: Block, wanted: Wanted, keep: slice = slice(None), codes: np.ndarray | None = None
    ) -> np.ndarray:
        """Return what is wanted of some hours of a block, as `predict_block` gives it of all.

        Parameters
        ----------
        block : Block
            Features of n places over t hours.
        wanted : Wanted
            As `wanted` settled it.
        keep : slice
            Hours to give; the others are only looked at.
        codes : (n, code) float32, optional
            Embeddings of the places, for a model that asks for them; by default they are made of the block itself.

        Returns
        -------
        (n, kept hours, outputs) float32
        """
        keep = slice(*keep.indices(block.met.shape[1])[:2])
        columns = len(self.outputs(wanted.uncertainty, wanted.applicability))
        out = np.full((len(block.met), max(0, keep.stop - keep.start), columns), np.nan, np.float32)
        if out.size:
            fluxes = out[..., : len(self.outputs(wanted.uncertainty))]
            with _precision(self.model, wanted.precision):
                self._predict(self._embedded(block, codes), wanted, keep, fluxes)
            self._unscale(fluxes, wanted.uncertainty)
            fluxes[~block.observed[:, keep]] = np.nan
            if wanted.applicability:
                out[..., -1] = self.dissimilarity(block)[:, keep]
        return out

    def dissimilarity(self, block: Block) -> np.ndarray:
        """Tell how far each hour's UTC day is from the training days.

        Parameters
        ----------
        block : Block
            Features of n places over t hours, whole days as far as they are known.

        Returns
        -------
        (n, t) float32
            The same for all hours of a day: multiples of the mean distance between training days; NaN where the day
            has less than three quarters of the hours of every predictor.
        """
        days, lead = block_days(block, self.spec)
        index = self.applicability.index(days.reshape(-1, days.shape[-1])).reshape(days.shape[:2])
        hours = np.arange(block.met.shape[1])
        return index[:, (hours + lead) // steps_of_a_day(self.spec)]

    def _embedded(self, block: Block, codes: np.ndarray | None) -> Block:
        """Return a block whose places bring along what the model asks to be told of them."""
        if self.support_years is None:
            return block
        if codes is None:
            return support.block_with_codes(block, self.model, years=self.support_years)
        return support.with_codes(block, codes)

    def _predict(self, block: Block, wanted: Wanted, keep: slice, out: np.ndarray) -> None:
        """Put scaled predictions of the kept hours in `out` (n, kept, quantities x targets)."""
        length, hours = self.model.context, block.met.shape[1]
        place, stop = _windows(block, length, wanted, keep)
        series = flatten(_lengthened(block, int(stop.max(initial=0)) - hours))
        slides = wanted.stride == 1 and getattr(self.model, "slides", False)
        for p, s, seen, kept in _passes(place, stop, length, wanted.stride, self._size(), slides):
            batch = Batch.of(gather(series, p, s, seen))
            given = predict_all(self.model, batch) if wanted.uncertainty else self.model.predict(batch)
            hour = s[:, None] + np.arange(-kept, 0)
            whole = s[:, None] - np.arange(kept - 1, -1, -1) >= wanted.min_context
            inside = (hour >= keep.start) & (hour < keep.stop) & ((s[:, None] >= length) | whole)
            out[np.broadcast_to(p[:, None], hour.shape)[inside], hour[inside] - keep.start] = given[:, -kept:][inside]

    def _size(self) -> int:
        """Windows of one pass."""
        networks = _networks(self.model)
        if networks:
            return _WINDOWS_GPU if _on_gpu(networks[0]) else _WINDOWS
        return _WINDOWS if self.model.emits > 1 else max(_WINDOWS, _ROWS // self.model.context)

    def _unscale(self, out: np.ndarray, uncertainty: bool) -> None:
        """Turn scaled outputs into the targets' units."""
        n = len(self.spec.targets)
        scale = np.float32(self.spec.target_scale)
        out[..., :n] = out[..., :n] * scale + np.float32(self.spec.target_mean)
        if self.spec.daily:  # of hours, measured ones are negative, too; days of them seldom, and by little
            for i, name in enumerate(self.spec.targets):
                if name.startswith(("GPP", "RECO")):
                    np.maximum(out[..., i], 0, out=out[..., i])
        if uncertainty:
            out[..., n : 2 * n] *= scale * self.factors
            out[..., 2 * n :] *= np.tile(scale, len(self.quantities) - 2)


@dataclass(frozen=True)
class ModelReference:
    """A model by the folder and the digest of its weights: what travels to Dask's workers.

    Attributes
    ----------
    path : str
        Run folder, as this machine sees it.
    digest : str
        Of the weights, so that a folder that was trained anew is not taken for what it was.
    """

    path: str
    digest: str

    def load(self) -> Predictor:
        """Return the model, read once per process.

        Raises
        ------
        CheckpointError
            If the folder now holds other weights.
        """
        from fluxcube.models import checkpoint

        key = (self.path, self.digest)
        with _lock:  # Dask's threads ask at once; one of them reads
            if key not in _loaded:
                if (found := checkpoint.digest(Path(self.path))) != self.digest:
                    raise CheckpointError(
                        f"{self.path} holds other weights ({found[:12]}) than when this was set up "
                        f"({self.digest[:12]}): load the model again."
                    )
                _loaded[key] = _read(Path(self.path), self.digest)
            return _loaded[key]


def load_model(run: str | os.PathLike) -> Predictor:
    """Load a trained model.

    Parameters
    ----------
    run : path, Run or str
        What `fluxcube.fit` returned, or its folder; or the name of a model that ships with the package, such as
        "ecoperceiver-towers" (`fluxcube.models.shipped.names`).

    Returns
    -------
    Predictor

    Raises
    ------
    CheckpointError
        If the folder holds no finished model.
    """
    from fluxcube.models import checkpoint, shipped

    path = shipped.find(run)
    return ModelReference(str(path), checkpoint.digest(path)).load()


def as_predictor(model: Predictor | str | os.PathLike) -> Predictor:
    """Return a model as it is, or load it from its run."""
    return model if isinstance(model, Predictor) else load_model(model)


def _read(path: Path, digest: str) -> Predictor:
    from fluxcube.models import checkpoint

    model, metadata = checkpoint.load(path)
    _to_gpu(model)
    spec = FeatureSpec.from_dict(metadata["features"])
    return Predictor(model, spec, metadata, path, digest, checkpoint.applicability(path))


def _networks(model: Model) -> list:
    """Return the torch modules that a model is, or is made of."""
    return [one for one in getattr(model, "members", (model,)) if hasattr(one, "parameters")]


def _on_gpu(network) -> bool:
    return any(parameter.is_cuda for parameter in network.parameters())


def _to_gpu(model: Model) -> None:
    """Move networks to this process's GPU, where there is one."""
    networks = _networks(model)
    if networks:
        import torch

        if torch.cuda.is_available():
            for network in networks:
                network.to("cuda")


@contextlib.contextmanager
def _precision(model: Model, precision: str) -> Iterator[None]:
    """Let networks multiply in a precision."""
    if precision == "float32":
        yield
        return
    import torch

    device = "cuda" if _on_gpu(_networks(model)[0]) else "cpu"
    with torch.autocast(device, getattr(torch, precision)):
        yield


def _windows(block: Block, length: int, wanted: Wanted, keep: slice) -> tuple[np.ndarray, np.ndarray]:
    """Place and end (exclusive) of every window that gives an observed hour among those that are kept."""
    stride, epoch = wanted.stride, block.first_hour
    # The first hour that can be given is the last of the shortest window, or lies within the first whole one.
    earliest = max(keep.start + 1, min(wanted.min_context, length))
    stops = np.arange(-((epoch + earliest) // -stride) * stride - epoch, keep.stop + stride, stride)
    stops = stops[stops - stride < keep.stop]
    low, high = np.maximum(stops - stride, keep.start), np.minimum(stops, keep.stop)
    seen = np.zeros((len(block.observed), block.met.shape[1] + 1), np.int64)
    np.cumsum(block.observed, axis=1, out=seen[:, 1:])
    place, window = np.nonzero(seen[:, high] > seen[:, low])
    return place, stops[window]


def _passes(
    place: np.ndarray, stop: np.ndarray, length: int, stride: int, size: int, slides: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, int, int]]:
    """Yield what passes the model together: places, ends, hours, and how many of them are given.

    Where a model `slides`, windows that end at consecutive hours are one stretch of hours, else each is its own.
    """
    alone = np.ones(len(stop), bool)
    if slides:
        ends = np.flatnonzero((np.diff(stop) != 1) | (np.diff(place) != 0)) + 1
        for run in np.split(np.arange(len(stop)), ends):
            for at in range(0, len(run) - _SHORT_RUN + 1, _WINDOWS):
                part = run[at : at + _WINDOWS]
                alone[part] = False
                yield place[part[-1:]], stop[part[-1:]], length + len(part) - 1, len(part)
    place, stop = place[alone], stop[alone]
    for at in range(0, len(stop), size):
        yield place[at : at + size], stop[at : at + size], length, stride


def _lengthened(block: Block, hours: int) -> Block:
    """Add hours without a value to the end."""
    if hours <= 0:
        return block
    gap = np.full((len(block.met), hours, block.met.shape[2]), np.nan, np.float32)
    return dataclasses.replace(block, met=np.concatenate([block.met, gap], axis=1))
