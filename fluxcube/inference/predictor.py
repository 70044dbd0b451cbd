"""One path from features to fluxes: a numpy block in, a numpy block out, for towers and grids alike.

Windows end at hours that do not depend on where a block begins, so that a series cut into pieces (each with
the hours before it that its windows need) gives what the whole gives.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fluxcube.errors import CheckpointError, ConfigError
from fluxcube.models.base import Batch, Model, predict_all, quantities
from fluxcube.samples.features import Block, FeatureSpec
from fluxcube.samples.windows import flatten, gather

if TYPE_CHECKING:
    from fluxcube.samples.splits import Split

#: Windows of one forward pass: 64 to 256 are fastest on a CPU, and a window of one hour is next to nothing.
_WINDOWS = 128
_ROWS = 16384
#: Fewer windows that follow each other hour by hour are not worth a pass of their own.
_SHORT_RUN = 16

_loaded: dict[tuple[str, str], Predictor] = {}
_lock = threading.Lock()


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
    """

    model: Model
    spec: FeatureSpec
    metadata: Mapping = field(default_factory=dict, repr=False)
    path: Path | None = None
    digest: str = ""

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
    def factors(self) -> np.ndarray:
        """What standard deviations are multiplied by to be as wide as the validation towers' errors (targets,)."""
        said = self.metadata.get("calibration") or {}
        return np.array([said.get(name, {}).get("factor", 1.0) for name in self.spec.targets], np.float32)

    def outputs(self, uncertainty: bool = False) -> tuple[str, ...]:
        """Return the names of what `predict_block` gives: the targets; and NAME_std, NAME_spread with `uncertainty`.

        Raises
        ------
        ConfigError
            If the model knows nothing about its errors.
        """
        targets = self.spec.targets
        if not uncertainty:
            return targets
        if len(self.quantities) == 1:
            raise ConfigError(
                "this model gives no uncertainty: train with distribution='gaussian' in its config, or several seeds."
            )
        return (*targets, *(f"{name}_{kind}" for kind in self.quantities[1:] for name in targets))

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

    def predict_block(self, block: Block, *, stride: int | None = None, uncertainty: bool = False) -> np.ndarray:
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

        Returns
        -------
        (n, t, outputs) float32
            One column for each of `outputs`, in the targets' units. NaN where a window would begin before the block,
            and in hours without a single observed predictor.
        """
        stride, columns = self.stride_or_default(stride), self.outputs(uncertainty)
        length, hours = self.model.context, block.met.shape[1]
        place, stop = _windows(block, length, stride)
        out = np.full((*block.met.shape[:2], len(columns)), np.nan, np.float32)
        series = flatten(_lengthened(block, int(stop.max(initial=0)) - hours))
        size = _WINDOWS if self.model.emits > 1 or hasattr(self.model, "parameters") else max(_WINDOWS, _ROWS // length)
        slides = stride == 1 and getattr(self.model, "slides", False)
        for p, s, seen, kept in _passes(place, stop, length, stride, size, slides):
            batch = Batch.of(gather(series, p, s, seen))
            given = predict_all(self.model, batch) if uncertainty else self.model.predict(batch)
            scaled = given[:, seen - kept :]
            hour = s[:, None] + np.arange(-kept, 0)
            inside = hour < hours
            out[np.broadcast_to(p[:, None], hour.shape)[inside], hour[inside]] = scaled[inside]
        out[~block.observed] = np.nan
        n = len(self.spec.targets)
        scale = np.float32(self.spec.target_scale)
        out[..., :n] = out[..., :n] * scale + np.float32(self.spec.target_mean)
        if uncertainty:
            out[..., n : 2 * n] *= scale * self.factors
            out[..., 2 * n :] *= np.tile(scale, len(self.quantities) - 2)
        return out


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
    run : path or Run
        What `fluxcube.fit` returned, or its folder.

    Returns
    -------
    Predictor

    Raises
    ------
    CheckpointError
        If the folder holds no finished model.
    """
    from fluxcube.models import checkpoint

    path = Path(os.fspath(run)).resolve()
    return ModelReference(str(path), checkpoint.digest(path)).load()


def as_predictor(model: Predictor | str | os.PathLike) -> Predictor:
    """Return a model as it is, or load it from its run."""
    return model if isinstance(model, Predictor) else load_model(model)


def _read(path: Path, digest: str) -> Predictor:
    from fluxcube.models import checkpoint

    model, metadata = checkpoint.load(path)
    return Predictor(model, FeatureSpec.from_dict(metadata["features"]), metadata, path, digest)


def _windows(block: Block, length: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Place and end (exclusive) of every window that lies in the block and gives an observed hour."""
    hours = block.met.shape[1]
    first = -((block.first_hour + length) // -stride) * stride - block.first_hour  # rounded up to a whole stride
    stops = np.arange(first, hours + stride, stride)
    stops = stops[stops - stride < hours]
    seen = np.zeros((len(block.observed), hours + 1), np.int64)
    np.cumsum(block.observed, axis=1, out=seen[:, 1:])
    useful = seen[:, np.minimum(stops, hours)] > seen[:, stops - stride]
    place, window = np.nonzero(useful)
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
