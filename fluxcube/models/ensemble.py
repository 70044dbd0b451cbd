"""Ensembles: models of one kind that differ in their seed; the estimate is the mean of the members."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fluxcube.errors import ConfigError
from fluxcube.models.base import BaseModel, Batch, Model

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


class Ensemble(BaseModel):
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
            if (member.kind, member.sizes, member.context) != (first.kind, first.sizes, first.context):
                raise ConfigError("the members of an ensemble must be of one kind, with the same inputs and context.")
        self.kind, self.config, self.sizes = first.kind, first.config, first.sizes
        self.factors = np.ones((len(self.members), self.n_targets)) if factors is None else np.asarray(factors, float)
        self.floor = None if floor is None else np.asarray(floor, np.float32)

    @property
    def members(self) -> tuple[Model, ...]:
        """Models of the ensemble."""
        return self._members

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """Torch modules of all members."""
        return tuple(network for member in self.members for network in member.networks)

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
        parts = self._parts(batch)
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
    def embedding_size(self) -> int:
        """Length of a place's embedding: those of all members together."""
        return sum(member.embedding_size for member in self.members)

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

    def weights(self) -> dict[str, bytes]:
        """Refuse: each member has its own files."""
        raise ConfigError("an ensemble has no weights of its own: save its members.")

    def load_weights(self, files: Mapping[str, bytes]) -> None:
        """Refuse: each member has its own files."""
        raise ConfigError("an ensemble has no weights of its own: load its members.")
