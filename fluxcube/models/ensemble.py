"""Ensembles: models of one kind that differ in their seed, used as one; its estimate is the members' mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fluxcube.errors import ConfigError
from fluxcube.models.base import Batch, Model, predict_all, quantities


class Ensemble:
    """Members' mean; with their own errors and how far they are apart.

    Parameters
    ----------
    members : sequence of Model
        At least one; all of the same inputs, targets, context and scaling.
    factors : sequence of (targets,) float, optional
        What calibrates each member's standard deviations; 1 by default.

    References
    ----------
    Lakshminarayanan et al. 2017 (deep ensembles), arXiv:1612.01474.
    """

    quantities = ("mean", "std", "spread")

    def __init__(self, members: Sequence[Model], factors: Sequence[np.ndarray] | None = None):
        if not members:
            raise ConfigError("an ensemble needs at least one member.")
        self.members = tuple(members)
        first = self.members[0]
        for member in self.members:
            if (member.kind, member.sizes, member.context) != (first.kind, first.sizes, first.context):
                raise ConfigError("the members of an ensemble must be of one kind, with the same inputs and context.")
        self.kind, self.config, self.sizes = first.kind, first.config, first.sizes
        self.context, self.n_targets, self.emits = first.context, first.n_targets, first.emits
        self.slides = all(getattr(member, "slides", False) for member in self.members)
        self.factors = np.ones((len(self.members), self.n_targets)) if factors is None else np.asarray(factors, float)

    def predict(self, batch: Batch) -> np.ndarray:
        """Return the members' mean (B, T, targets) float32 in scaled units."""
        given = [member.predict(part) for member, part in self._parts(batch)]
        return np.mean(given, 0, dtype=np.float64).astype(np.float32)

    @property
    def code_size(self) -> int:
        """Numbers of a place's embedding, all members' together; 0 where they make none."""
        return sum(getattr(member, "code_size", 0) for member in self.members)

    @property
    def support(self) -> int:
        """Windows of a place that its embedding is made of."""
        return self.members[0].support

    def encode(self, support: np.ndarray) -> np.ndarray:
        """Return all members' embeddings (n, code_size) of support windows (n, K, T, V)."""
        return np.concatenate([member.encode(support) for member in self.members], 1)

    def _parts(self, batch: Batch) -> Iterator[tuple[Model, Batch]]:
        """Give each member the batch, with its own embeddings alone."""
        own = self.sizes.numbers
        for i, member in enumerate(self.members):
            size = getattr(member, "code_size", 0)
            columns = np.r_[:own, own + i * size : own + (i + 1) * size]
            yield member, batch._replace(numbers=batch.numbers[:, columns]) if size else batch

    def predict_all(self, batch: Batch) -> np.ndarray:
        """Return mean, total standard deviation and spread, (B, T, 3 targets) float32 in scaled units.

        The spread is the members' standard deviation (of n - 1); the total adds the mean of their own variances, where
        they have any.
        """
        n = self.n_targets
        given = [predict_all(member, part).astype(np.float64) for member, part in self._parts(batch)]
        means = np.stack([g[..., :n] for g in given])
        spread = means.std(0, ddof=1) if len(means) > 1 else np.where(np.isfinite(means[0]), 0.0, np.nan)
        variance = np.square(spread)
        if "std" in quantities(self.members[0]):
            own = [np.square(g[..., n : 2 * n] * f) for g, f in zip(given, self.factors, strict=True)]
            variance = variance + np.mean(own, 0)
        return np.concatenate([means.mean(0), np.sqrt(variance), spread], -1).astype(np.float32)

    def weights(self) -> dict[str, bytes]:
        """Refuse: each member has its own files."""
        raise ConfigError("an ensemble has no weights of its own: save its members.")

    def load_weights(self, files) -> None:
        """Refuse: each member has its own files."""
        raise ConfigError("an ensemble has no weights of its own: load its members.")
