"""Baselines with three inputs: linear regressions on air temperature, shortwave radiation and vapour pressure deficit.

With the mean and the regression on shortwave radiation (`fluxcube.models.simple`) they form the ladder of PLUMBER: what
a model gains from each input and from nonlinearity.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fluxcube.errors import ConfigError
from fluxcube.models.base import Batch, Sizes
from fluxcube.models.rows import Progress, RowModel
from fluxcube.models.settings import from_known_keys
from fluxcube.models.simple import check_columns, from_json, observed_mean, to_json

#: Number of rows of which distances to all centres are computed at a time.
_BLOCK = 65536
#: Minimum number of rows of a cluster that has its own regression; a smaller one has that of all rows.
_CLUSTER_ROWS = 30
#: Number of rows on which the centres are computed, and maximum number of passes over them.
_SAMPLE, _PASSES = 50_000, 50


@dataclass(frozen=True, kw_only=True)
class MetRegressionConfig:
    """Settings of `MetRegression`: input columns of air temperature, shortwave radiation and vapour pressure deficit.

    Attributes
    ----------
    ta_column, sw_column, vpd_column : int
        Input columns of TA, SW_IN and VPD.
    """

    ta_column: int
    sw_column: int
    vpd_column: int

    @classmethod
    def from_dict(cls, values: Mapping) -> MetRegressionConfig:
        """Build the settings from a mapping, refusing unknown keys (UnknownNameError)."""
        return from_known_keys(cls, values)


@dataclass(frozen=True, kw_only=True)
class MetClustersConfig(MetRegressionConfig):
    """Settings of `MetClusters`.

    Attributes
    ----------
    ta_column, sw_column, vpd_column : int
        Input columns of TA, SW_IN and VPD.
    clusters : int
        Number of clusters of weather.
    """

    clusters: int = 27

    def __post_init__(self) -> None:
        if self.clusters < 1:
            raise ConfigError(f"clusters must be 1 or more, found {self.clusters}.")


class MetRegression(RowModel):
    """Linear regression of each flux on air temperature, shortwave radiation and vapour pressure deficit.

    There is one regression for each set of the three inputs, on the training rows that have these inputs: where an
    input is missing, the regression on the others is used, and the training mean where all three are missing.

    References
    ----------
    Abramowitz et al. 2024, doi:10.5194/bg-21-5517-2024 (PLUMBER2's ladder of empirical benchmarks).
    """

    kind = "met-regression"
    needed_columns: ClassVar = {"ta_column": "TA", "sw_column": "SW_IN", "vpd_column": "VPD"}
    config: MetRegressionConfig

    def __init__(self, config: MetRegressionConfig, sizes: Sizes):
        check_columns(sizes, *self._columns(config))
        self.config, self.sizes = config, sizes
        #: Coefficients (set of inputs, input, target); the last input is the constant 1. Sets are numbered in binary.
        self.coefficients = np.zeros((8, 4, sizes.targets))

    @staticmethod
    def _columns(config: MetRegressionConfig) -> list[int]:
        return [config.ta_column, config.sw_column, config.vpd_column]

    def rows(self, batch: Batch) -> np.ndarray:
        """Return TA, SW_IN and VPD (B, 3), normalised."""
        return np.asarray(batch.inputs[:, -1, self._columns(self.config)], np.float32)

    def fit(
        self,
        rows: np.ndarray,
        targets: np.ndarray,
        val_rows: np.ndarray | None = None,
        val_targets: np.ndarray | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> dict:
        """Fit each target by least squares, once for each set of inputs."""
        self.coefficients[:] = 0.0
        self.coefficients[0, -1] = observed_mean(targets)
        seen = np.isfinite(rows)
        for subset in range(1, 8):
            inputs = [i for i in range(3) if subset >> i & 1]
            has = seen[:, inputs].all(1)
            x = rows[has][:, inputs]
            for i in range(self.n_targets):
                slopes, constant = _line(x, targets[has, i], float(self.coefficients[0, -1, i]))
                self.coefficients[subset, inputs, i], self.coefficients[subset, -1, i] = slopes, constant
        return {}

    def predict_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return (B, targets) float32 in scaled units."""
        subset = np.isfinite(rows) @ np.array([1, 2, 4])
        return _evaluate(rows, self.coefficients, subset)

    def weights(self) -> dict[str, bytes]:
        """Return the coefficients as one JSON file."""
        return to_json({"coefficients": self.coefficients})

    def load_weights(self, files: Mapping[str, bytes]) -> None:
        """Load coefficients that `weights` returned."""
        self.coefficients = from_json(files, {"coefficients": self.coefficients.shape})["coefficients"]


class MetClusters(MetRegression):
    """A linear regression in each of 27 clusters of weather: PLUMBER's benchmark 3km27.

    K-means divides the training rows by their standardised air temperature, shortwave radiation and vapour pressure
    deficit (PLUMBER's third input was relative humidity), and each cluster has its own regression on the three. Where
    an input is missing, the regressions of `MetRegression` are used.

    References
    ----------
    Best et al. 2015, doi:10.1175/JHM-D-14-0158.1; Abramowitz et al. 2024, doi:10.5194/bg-21-5517-2024.
    """

    kind = "met-clusters"
    config: MetClustersConfig

    def __init__(self, config: MetClustersConfig, sizes: Sizes):
        super().__init__(config, sizes)
        self.mean, self.spread = np.zeros(3), np.ones(3)
        self.centres = np.zeros((config.clusters, 3))
        #: Coefficients (cluster, input, target); the last input is the constant 1.
        self.of_cluster = np.zeros((config.clusters, 4, sizes.targets))

    def fit(
        self,
        rows: np.ndarray,
        targets: np.ndarray,
        val_rows: np.ndarray | None = None,
        val_targets: np.ndarray | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> dict:
        """Cluster the rows with all inputs, and fit each target in each cluster by least squares."""
        super().fit(rows, targets)
        self.of_cluster[:] = self.coefficients[-1]
        whole = np.isfinite(rows).all(1)
        x, y = rows[whole], targets[whole]
        if not len(x):
            return {}
        self.mean, self.spread = x.mean(0, dtype=float), np.maximum(x.std(0, dtype=float), 1e-6)
        self.centres = _centres(self._standardised(x), self.config.clusters, np.random.default_rng(seed))
        cluster = self._cluster(x)
        for k in np.unique(cluster):
            for i in range(self.n_targets):
                mine = (cluster == k) & np.isfinite(y[:, i])
                if np.count_nonzero(mine) >= _CLUSTER_ROWS:
                    self.of_cluster[k, :3, i], self.of_cluster[k, 3, i] = _line(x[mine], y[mine, i], 0.0)
        return {}

    def predict_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return (B, targets) float32 in scaled units."""
        out = super().predict_rows(rows)
        whole = np.isfinite(rows).all(1)
        out[whole] = _evaluate(rows[whole], self.of_cluster, self._cluster(rows[whole]))
        return out

    def weights(self) -> dict[str, bytes]:
        """Return the coefficients and the clusters as one JSON file."""
        return to_json({name: getattr(self, name) for name in self._shapes()})

    def load_weights(self, files: Mapping[str, bytes]) -> None:
        """Load coefficients and clusters that `weights` returned."""
        for name, array in from_json(files, self._shapes()).items():
            setattr(self, name, array)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        names = ("coefficients", "mean", "spread", "centres", "of_cluster")
        return {name: getattr(self, name).shape for name in names}

    def _standardised(self, rows: np.ndarray) -> np.ndarray:
        return (rows - self.mean) / self.spread

    def _cluster(self, rows: np.ndarray) -> np.ndarray:
        """Return the cluster of each row without a missing input."""
        return _nearest(self._standardised(rows), self.centres)


def _line(x: np.ndarray, y: np.ndarray, otherwise: float) -> tuple[np.ndarray, float]:
    """Return slopes and constant of the least squares of y (n,) on x (n, inputs); a constant if there is no y."""
    seen = np.isfinite(y)
    if not seen.any():
        return np.zeros(x.shape[1]), otherwise
    x, y = x[seen].astype(float), y[seen].astype(float)
    mean_x, mean_y = x.mean(0), y.mean()
    centred = x - mean_x
    # An input that is constant, as light at night is, has slope 0: the pseudoinverse takes the smallest slopes.
    slopes = np.linalg.pinv(centred.T @ centred, rcond=1e-9, hermitian=True) @ (centred.T @ (y - mean_y))
    return slopes, float(mean_y - slopes @ mean_x)


def _evaluate(rows: np.ndarray, coefficients: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Return the estimates (B, targets) float32 of rows (B, 3) by the coefficients (set, 4, targets) of their sets."""
    out = np.empty((len(rows), coefficients.shape[2]), np.float32)
    for part in _blocks(len(rows)):
        chosen = coefficients[which[part]]
        out[part] = np.einsum("bi,bit->bt", np.nan_to_num(rows[part]), chosen[:, :3]) + chosen[:, 3]
    return out


def _centres(points: np.ndarray, clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Return the centres (clusters, inputs) of k-means on a sample of points (n, inputs).

    The first centres are drawn with probabilities proportional to the squared distance from those drawn before.

    References
    ----------
    Lloyd 1982, doi:10.1109/TIT.1982.1056489; Arthur and Vassilvitskii 2007, "k-means++".
    """
    sample = points if len(points) <= _SAMPLE else points[rng.choice(len(points), _SAMPLE, replace=False)]
    centres = sample[rng.integers(len(sample))][None]
    for _ in range(clusters - 1):
        distance = _squared(sample, centres).min(1)
        share = distance / distance.sum() if distance.sum() > 0 else None
        centres = np.concatenate([centres, sample[rng.choice(len(sample), p=share)][None]])
    for _ in range(_PASSES):
        cluster = _nearest(sample, centres)
        count = np.bincount(cluster, minlength=clusters)
        total = np.stack([np.bincount(cluster, column, clusters) for column in sample.T], 1)
        moved = np.where(count[:, None] > 0, total / np.maximum(count, 1)[:, None], centres)
        if np.allclose(moved, centres, atol=1e-4):
            break
        centres = moved
    return centres


def _nearest(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return the position of the nearest centre of each point."""
    out = np.empty(len(points), np.int64)
    for part in _blocks(len(points)):
        out[part] = _squared(points[part], centres).argmin(1)
    return out


def _squared(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return the squared distances (points, centres), up to rounding."""
    return np.maximum((points**2).sum(1)[:, None] - 2 * points @ centres.T + (centres**2).sum(1), 0.0)


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, count, _BLOCK))
