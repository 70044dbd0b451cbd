"""Baselines: the mean, a linear regression on sunlight, and the mean daily cycle of each month and class.

`fluxcube.models.regressions` contains those with several inputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fluxcube.errors import ConfigError
from fluxcube.models.base import Batch, Sizes
from fluxcube.models.rows import Progress, RowModel
from fluxcube.models.settings import from_known_keys

_FILE = "model.json"


@dataclass(frozen=True, kw_only=True)
class MeanConfig:
    """Settings of `Mean`: none."""

    @classmethod
    def from_dict(cls, values: Mapping) -> MeanConfig:
        """Build the settings from a mapping, refusing unknown keys (UnknownNameError)."""
        return from_known_keys(cls, values)


class Mean(RowModel):
    """Mean of each flux over all training time steps, everywhere and always; it uses no input."""

    kind = "mean"
    config: MeanConfig

    def __init__(self, config: MeanConfig, sizes: Sizes):
        self.config, self.sizes = config, sizes
        self.mean = np.zeros(sizes.targets)

    def rows(self, batch: Batch) -> np.ndarray:
        """Return rows without columns (B, 0)."""
        return np.zeros((len(batch.inputs), 0), np.float32)

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
        """Average each target over its observed rows."""
        self.mean = observed_mean(targets)
        return {}

    def predict_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return (B, targets) float32 in scaled units."""
        return np.tile(self.mean.astype(np.float32), (len(rows), 1))

    def weights(self) -> dict[str, bytes]:
        """Return the means as one JSON file."""
        return to_json({"mean": self.mean})

    def load_weights(self, files: Mapping[str, bytes]) -> None:
        """Load means that `weights` returned."""
        self.mean = from_json(files, {"mean": self.mean.shape})["mean"]


@dataclass(frozen=True, kw_only=True)
class SWLinearConfig:
    """Settings of `SWLinear`.

    Attributes
    ----------
    column : int
        Input column of SW_IN.
    """

    column: int

    @classmethod
    def from_dict(cls, values: Mapping) -> SWLinearConfig:
        """Build the settings from a mapping, refusing unknown keys (UnknownNameError)."""
        return from_known_keys(cls, values)


class SWLinear(RowModel):
    """Least squares of each flux on incoming shortwave radiation; the training mean where it is missing.

    This is the benchmark 1lin of PLUMBER.

    References
    ----------
    Best et al. 2015, doi:10.1175/JHM-D-14-0158.1; Abramowitz et al. 2024, doi:10.5194/bg-21-5517-2024.
    """

    kind = "sw-linear"
    needed_columns: ClassVar = {"column": "SW_IN"}
    config: SWLinearConfig

    def __init__(self, config: SWLinearConfig, sizes: Sizes):
        check_columns(sizes, config.column)
        self.config, self.sizes = config, sizes
        self.mean = np.zeros(sizes.targets)
        self.slope = np.zeros(sizes.targets)
        self.offset = np.zeros(sizes.targets)

    def rows(self, batch: Batch) -> np.ndarray:
        """Return sunlight (B, 1), normalised."""
        return np.asarray(batch.inputs[:, -1, self.config.column : self.config.column + 1], np.float32)

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
        """Fit each target to the rows where both the target and sunlight are observed."""
        for i in range(self.n_targets):
            y, x = targets[:, i].astype(float), rows[:, 0].astype(float)
            seen = np.isfinite(y)
            self.mean[i] = y[seen].mean() if seen.any() else 0.0
            x, y = x[seen & np.isfinite(x)], y[seen & np.isfinite(x)]
            spread = x.var() if len(x) else 0.0
            self.slope[i] = ((x - x.mean()) * (y - y.mean())).mean() / spread if spread > 0 else 0.0
            self.offset[i] = y.mean() - self.slope[i] * x.mean() if len(x) else self.mean[i]
        return {}

    def predict_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return (B, targets) float32 in scaled units."""
        line = rows * self.slope + self.offset
        return np.where(np.isfinite(line), line, self.mean).astype(np.float32)

    def weights(self) -> dict[str, bytes]:
        """Return the coefficients as one JSON file."""
        return to_json({"mean": self.mean, "slope": self.slope, "offset": self.offset})

    def load_weights(self, files: Mapping[str, bytes]) -> None:
        """Load coefficients that `weights` returned."""
        shape = (self.n_targets,)
        found = from_json(files, {"mean": shape, "slope": shape, "offset": shape})
        self.mean, self.slope, self.offset = found["mean"], found["slope"], found["offset"]


@dataclass(frozen=True, kw_only=True)
class MeanCycleConfig:
    """Settings of `MeanCycle`: columns of the clocks, and resolution of the cycle.

    Attributes
    ----------
    doy_column : int
        Input column of the day of year, normalised to [-1, 1).
    tod_column : int or None
        Input column of the time of day; None for daily models, which have none.
    months, hours : int
        Number of parts of the year and of the day; `months` must be even with `latitude`.
    latitude : int or None
        Position of the latitude among the static numbers: south of the equator the year then begins half a year later,
        so that a month is in the same season in both hemispheres. None: calendar months everywhere.
    """

    doy_column: int
    tod_column: int | None = None
    months: int = 12
    hours: int = 24
    latitude: int | None = None

    @classmethod
    def from_dict(cls, values: Mapping) -> MeanCycleConfig:
        """Build the settings from a mapping, refusing unknown keys (UnknownNameError)."""
        return from_known_keys(cls, values)


class MeanCycle(RowModel):
    """Mean flux by class, month and hour of day.

    A class or a month of it that is absent from training has the mean of all classes in that month and hour; if that is
    absent, too, the mean of all classes and months in that hour, or else of everything.
    """

    kind = "mean-cycle"
    needed_columns: ClassVar = {"doy_column": "DOY", "tod_column": "TOD"}
    config: MeanCycleConfig

    def __init__(self, config: MeanCycleConfig, sizes: Sizes):
        check_columns(sizes, *(c for c in (config.doy_column, config.tod_column) if c is not None))
        _check_latitude(sizes, config)
        self.config, self.sizes = config, sizes
        self.cycle = np.zeros((self._classes + 1, config.months, config.hours, sizes.targets))

    @property
    def _classes(self) -> int:
        return self.sizes.classes[0] if self.sizes.classes else 0

    def rows(self, batch: Batch) -> np.ndarray:
        """Return class, month and hour (B, 3); the last class number means unknown."""
        doy = batch.inputs[:, -1, self.config.doy_column]
        column = self.config.tod_column
        tod = np.full(len(doy), -1.0) if column is None else batch.inputs[:, -1, column]
        known = batch.classes[:, 0] if batch.classes.shape[1] else np.full(len(doy), -1)
        kind = np.where(known < 0, self._classes, known)
        month = _part(doy, self.config.months)
        if self.config.latitude is not None:
            south = np.asarray(batch.numbers)[:, self.config.latitude] < 0  # normalised symmetrically; NaN is north
            month = (month + south * (self.config.months // 2)) % self.config.months
        return np.stack([kind, month, _part(tod, self.config.hours)], 1).astype(np.float32)

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
        """Average each target over its observed rows."""
        at = tuple(rows.astype(np.int64).T)
        for i in range(self.n_targets):
            seen = np.isfinite(targets[:, i])
            total, count = np.zeros(self.cycle.shape[:3]), np.zeros(self.cycle.shape[:3])
            np.add.at(total, tuple(a[seen] for a in at), targets[seen, i])
            np.add.at(count, tuple(a[seen] for a in at), 1)
            self.cycle[..., i] = _with_fallbacks(total, count)
        return {}

    def predict_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return (B, targets) float32 in scaled units."""
        return self.cycle[tuple(rows.astype(np.int64).T)].astype(np.float32)

    def weights(self) -> dict[str, bytes]:
        """Return the cycle as one JSON file."""
        return to_json({"cycle": self.cycle})

    def load_weights(self, files: Mapping[str, bytes]) -> None:
        """Load a cycle that `weights` returned."""
        self.cycle = from_json(files, {"cycle": self.cycle.shape})["cycle"]


def _with_fallbacks(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return means (class, month, hour); an empty one is filled by the mean of a wider group."""
    mean = np.full(total.shape, np.nan)
    for axes in ((), (0,), (0, 1), (0, 1, 2)):
        wider_total, wider_count = total.sum(axes, keepdims=True), count.sum(axes, keepdims=True)
        wider = np.divide(wider_total, wider_count, out=np.full(wider_total.shape, np.nan), where=wider_count > 0)
        mean = np.where(np.isnan(mean), wider, mean)
    return np.nan_to_num(mean)


def _part(clock: np.ndarray, parts: int) -> np.ndarray:
    """Return which of equal parts a cyclic value in [-1, 1) is in; a missing clock counts as the first."""
    share = (np.nan_to_num(np.asarray(clock, float), nan=-1.0) + 1) / 2
    # float32 may place the start of an hour slightly before it.
    return np.clip(np.floor(share * parts + 1e-4), 0, parts - 1)


def observed_mean(targets: np.ndarray) -> np.ndarray:
    """Return the mean of each target (N, targets) over its observed rows; 0 where there is none."""
    seen = np.isfinite(targets)
    total = np.where(seen, targets, 0.0).sum(0, dtype=np.float64)
    return total / np.maximum(seen.sum(0), 1)


def _check_latitude(sizes: Sizes, config: MeanCycleConfig) -> None:
    """Refuse a latitude that is no static number, and an odd number of months with it (ConfigError)."""
    if config.latitude is None:
        return
    if not 0 <= config.latitude < sizes.numbers:
        raise ConfigError(f"latitude must be one of the {sizes.numbers} static numbers, found {config.latitude}.")
    if config.months % 2:
        raise ConfigError(f"months must be even to be shifted by half a year, found {config.months}.")


def check_columns(sizes: Sizes, *columns: int) -> None:
    """Refuse positions that are no input columns (ConfigError)."""
    for column in columns:
        if not 0 <= column < sizes.inputs:
            raise ConfigError(f"column must be one of the {sizes.inputs} input columns, found {column}.")


def to_json(arrays: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """Return arrays as one JSON file."""
    return {_FILE: json.dumps({name: array.tolist() for name, array in arrays.items()}).encode()}


def from_json(files: Mapping[str, bytes], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Return the float64 arrays that `to_json` wrote (ValueError if one is missing or has another shape)."""
    found = {name: np.array(value, float) for name, value in json.loads(files[_FILE]).items()}
    for name, shape in shapes.items():
        if name not in found or found[name].shape != shape:
            raise ValueError(f"{name} must have shape {shape}")
    return found
