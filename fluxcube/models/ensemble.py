"""Ensembles of one kind, whose members differ in their seed, and mixed ensembles, whose members differ in kind.

The estimate of an ensemble is the mean of its members, that of a mixed ensemble the weighted mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fluxcube.errors import ConfigError
from fluxcube.models.base import BaseModel, Batch, Model, Sizes
from fluxcube.models.settings import from_known_keys

if TYPE_CHECKING:
    from torch import nn

#: First parts of the names of fluxes whose daily means end at zero.
NEVER_NEGATIVE = ("GPP", "RECO")


def floors(
    targets: Sequence[str], mean: Sequence[float], spread: Sequence[float], *, daily: bool
) -> tuple[float, ...] | None:
    """Return the scaled value of zero for each target that is never negative, minus infinity for the others.

    Daily means of GPP and RECO are hardly ever negative, so that estimates of them end at zero. Hourly ones are
    differences of noisy measurements and do go below zero.

    Parameters
    ----------
    targets : sequence of str
        Fluxes.
    mean, spread : sequences of float
        Scaling of each flux.
    daily : bool
        Whether the time steps are days.

    Returns
    -------
    tuple of float or None
        One number per target; None if no estimate has a lower end.

    Examples
    --------
    >>> floors(["NEE", "GPP_NT"], [0.0, 4.0], [1.0, 2.0], daily=True)
    (-inf, -2.0)
    """
    if not daily or not any(name.startswith(NEVER_NEGATIVE) for name in targets):
        return None
    rows = zip(targets, mean, spread, strict=True)
    return tuple(-m / s if name.startswith(NEVER_NEGATIVE) else -np.inf for name, m, s in rows)


class _Members(BaseModel):
    """What ensembles of one kind and mixed ones have in common: members, which have their own files."""

    _members: tuple[Model, ...]

    @property
    def members(self) -> tuple[Model, ...]:
        """Models of the ensemble."""
        return self._members

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """Torch modules of all members."""
        return tuple(network for member in self.members for network in member.networks)

    @property
    def embedding_size(self) -> int:
        """Length of a place's embedding: those of all members together."""
        return sum(member.embedding_size for member in self.members)

    def weights(self) -> dict[str, bytes]:
        """Refuse: each member has its own files."""
        raise ConfigError("an ensemble has no weights of its own: save its members, or a mix by fluxcube.save_mixed.")

    def load_weights(self, files: Mapping[str, bytes]) -> None:
        """Refuse: each member has its own files."""
        raise ConfigError("an ensemble has no weights of its own: load its members.")


def takes_table(model: Model) -> bool:
    """Return whether a model, or each member of an ensemble, takes a table of images (`Batch.image_row`)."""
    return all(bool(getattr(one, "image_table", False)) for one in model.members or (model,))


class Ensemble(_Members):
    """Mean of the members, with their error estimates and the spread between them.

    Each member's estimates are raised to `floor` before they are combined, as those of a single model are.

    Parameters
    ----------
    members : sequence of Model
        At least one; all have the same inputs, targets, context and scaling.
    factors : sequence of (targets,) float, optional
        Calibration factor of each member's standard deviations; 1 by default.
    floor : sequence of (targets,) float, optional
        Smallest estimate of each target in scaled units (`floors`); none by default.

    References
    ----------
    Lakshminarayanan et al. 2017 (deep ensembles), arXiv:1612.01474.
    """

    def __init__(
        self,
        members: Sequence[Model],
        factors: Sequence[Sequence[float]] | np.ndarray | None = None,
        floor: Sequence[float] | None = None,
    ):
        if not members:
            raise ConfigError("an ensemble needs at least one member.")
        self._members = tuple(members)
        first = self._members[0]
        for member in self._members:
            if _windows(member) != _windows(first):
                raise ConfigError("the members of an ensemble must be of one kind, with the same inputs and context.")
        self.kind, self.config, self.sizes = first.kind, first.config, first.sizes
        self.factors = np.ones((len(self.members), self.n_targets)) if factors is None else np.asarray(factors, float)
        self.floor = None if floor is None else np.asarray(floor, np.float32)

    @property
    def context(self) -> int:
        """Number of time steps of a window."""
        return self.members[0].context

    @property
    def emits(self) -> int:
        """Number of time steps, the last ones of a window, that `predict` fills."""
        return self.members[0].emits

    @property
    def quantities(self) -> tuple[str, ...]:
        """What `predict_all` returns of each target."""
        return ("mean", "std", "spread")

    @property
    def sliding_window(self) -> bool:
        """Whether all members accept more time steps than a window has."""
        return all(member.sliding_window for member in self.members)

    @property
    def streams(self) -> bool:
        """Whether one pass of each member estimates all time steps of a series."""
        return self.members[0].streams

    def predict(self, batch: Batch) -> np.ndarray:
        """Return the members' mean (B, T, targets) float32 in scaled units."""
        return self.combine(self.each(batch))

    def each(self, batch: Batch, *, uncertainty: bool = False) -> list[np.ndarray]:
        """Return the estimates of each member, raised to the floor.

        Parameters
        ----------
        batch : Batch
            Windows.
        uncertainty : bool
            Whether to return all quantities of the members (`predict_all`), or their means (`predict`).
        """
        parts = self._parts(self.members[0].on_device(batch))  # once for all members
        estimates = [member.predict_all(part) if uncertainty else member.predict(part) for member, part in parts]
        if self.floor is not None:
            for one in estimates:
                np.maximum(one[..., : self.n_targets], self.floor, out=one[..., : self.n_targets])
        return estimates

    def combine(self, estimates: Sequence[np.ndarray], *, uncertainty: bool = False) -> np.ndarray:
        """Return the estimates of the ensemble from those that `each` returned, as `predict` or `predict_all` do."""
        if uncertainty:
            return self._with_spread([one.astype(np.float64) for one in estimates])
        return np.asarray(np.mean(estimates, 0, dtype=np.float64), np.float32)

    @property
    def support_windows(self) -> int:
        """Number of support windows that an embedding is made from."""
        return self.members[0].support_windows

    def encode(self, support: np.ndarray) -> np.ndarray:
        """Return all members' embeddings (n, embedding_size) of support windows (n, K, T, V)."""
        return np.concatenate([member.encode(support) for member in self.members], 1)

    def _parts(self, batch: Batch) -> Iterator[tuple[Model, Batch]]:
        """Yield each member and the batch with the member's own embeddings only."""
        static = self.sizes.numbers
        for i, member in enumerate(self.members):
            size = member.embedding_size
            columns = np.r_[:static, static + i * size : static + (i + 1) * size]
            yield member, batch._replace(numbers=batch.numbers[:, columns]) if size else batch

    def predict_all(self, batch: Batch) -> np.ndarray:
        """Return mean, total standard deviation and spread, (B, T, 3 targets) float32 in scaled units.

        The spread is the standard deviation of the members (n - 1); the total adds the mean of the variances that the
        members estimate, if they do.
        """
        return self.combine(self.each(batch, uncertainty=True), uncertainty=True)

    def _with_spread(self, estimates: Sequence[np.ndarray]) -> np.ndarray:
        """Return mean, total standard deviation and spread of the members' estimates (B, T, quantities x targets)."""
        n = self.n_targets
        means = np.stack([one[..., :n] for one in estimates])
        spread = means.std(0, ddof=1) if len(means) > 1 else np.where(np.isfinite(means[0]), 0.0, np.nan)
        variance = np.square(spread)
        if "std" in self.members[0].quantities:
            own = [np.square(one[..., n : 2 * n] * f) for one, f in zip(estimates, self.factors, strict=True)]
            variance = variance + np.mean(own, 0)
        return np.concatenate([means.mean(0), np.sqrt(variance), spread], -1).astype(np.float32)


def _windows(model: Model) -> tuple[str, Sizes, int, bool]:
    """Return what the members of an ensemble have in common, so that a batch serves all of them."""
    return model.kind, model.sizes, model.context, model.streams


#: `kind` of a mixed ensemble, in its checkpoint and on maps.
MIXED = "mixed"


@dataclass(frozen=True, kw_only=True)
class MixedConfig:
    """Settings of a mixed ensemble.

    Attributes
    ----------
    weights : tuple of float
        Weight of each member; they add up to 1.
    """

    weights: tuple[float, ...]

    @classmethod
    def from_dict(cls, values: Mapping) -> MixedConfig:
        """Build the settings from a mapping, refusing unknown keys (UnknownNameError)."""
        return from_known_keys(cls, values)


def normalised_weights(weights: Sequence[float] | None, members: int) -> tuple[float, ...]:
    """Return the weights of the members of a mixed ensemble, which add up to 1; equal ones by default.

    Raises
    ------
    ConfigError
        If there is not one weight for each member, or a weight is not a positive number.

    Examples
    --------
    >>> normalised_weights([3, 1], 2), normalised_weights(None, 2)
    ((0.75, 0.25), (0.5, 0.5))
    """
    chosen = np.ones(members) if weights is None else np.asarray(weights, np.float64)
    if chosen.shape != (members,):
        raise ConfigError(f"expected one weight for each of the {members} members, found {weights}.")
    if not (np.isfinite(chosen).all() and (chosen > 0).all()):
        raise ConfigError(f"weights must be numbers above 0, found {weights}: leave out a member that has no weight.")
    return tuple((chosen / chosen.sum()).tolist())


def weighted_mean(estimates: np.ndarray, weights: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the weighted mean over the first axis, float64; NaN where a member has no estimate.

    Examples
    --------
    >>> weighted_mean(np.array([[1.0], [5.0]]), (0.75, 0.25))
    array([2.])
    """
    return np.einsum("m,m...->...", np.asarray(weights, np.float64), np.asarray(estimates, np.float64))


def weighted_spread(estimates: np.ndarray, weights: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the weighted standard deviation between members (first axis), without bias: n - 1 for equal weights.

    Examples
    --------
    >>> weighted_spread(np.array([[1.0], [3.0]]), (0.5, 0.5)).round(6)
    array([1.414214])
    """
    values, share = np.asarray(estimates, np.float64), np.asarray(weights, np.float64)
    if len(values) == 1:
        return np.where(np.isfinite(values[0]), 0.0, np.nan)
    squares = np.square(values - weighted_mean(values, share))
    return np.sqrt(weighted_mean(squares, share) / (1 - np.square(share).sum()))


class MixedEnsemble(_Members):
    """Sizes and members of a mixed ensemble; each member computes its own features, so that no batch serves all.

    `fluxcube.inference.mixed.MixedPredictor` predicts with it.

    Parameters
    ----------
    members : sequence of Model
        Models of any kind and context.
    weights : sequence of float
        Weight of each member; they add up to 1.
    sizes : Sizes
        Numbers of inputs of all members together, and of their common targets.
    """

    kind = MIXED

    def __init__(self, members: Sequence[Model], weights: Sequence[float], sizes: Sizes):
        self._members = tuple(members)
        self.config = MixedConfig(weights=tuple(weights))
        self.sizes = sizes

    @property
    def context(self) -> int:
        """Number of time steps of the longest window."""
        return max(member.context for member in self.members)

    @property
    def emits(self) -> int:
        """Number of time steps that a window emits, of the member that emits most."""
        return max(member.emits for member in self.members)

    @property
    def quantities(self) -> tuple[str, ...]:
        """What is estimated of each target: the mean, and the spread between the members."""
        return ("mean", "spread")

    @property
    def support_windows(self) -> int:
        """Number of support windows of the member that uses most."""
        return max(member.support_windows for member in self.members)

    def predict(self, batch: Batch) -> np.ndarray:
        """Refuse: each member has its own features."""
        raise ConfigError("a mixed ensemble has no common features: use fluxcube.predict, or one of its members.")
