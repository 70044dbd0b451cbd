"""Gradient-boosted trees: one row per hour, one model per target."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fluxcube.errors import ConfigError, missing_package
from fluxcube.models.base import Batch, RowModel, Sizes, from_known_keys

_SIDE = 8


@dataclass(frozen=True, kw_only=True)
class BoostingConfig:
    """Settings of `Boosting`; the names and meanings are XGBoost's.

    Attributes
    ----------
    n_estimators : int
        Most trees per target.
    early_stopping : int
        Rounds without gain on the validation sites after which to stop; 0 grows all trees.
    context : int
        Hours of weather in a row: 1 is the hour alone; 32 shows what history is worth to trees.
    max_rows : int or None
        Train on at most so many rows per target, drawn at random.
    learning_rate, max_depth, max_leaves, min_child_weight, gamma, reg_alpha, reg_lambda, subsample,
    colsample_bytree, colsample_bylevel : float or int
        See https://xgboost.readthedocs.io/en/stable/parameter.html.
    """

    n_estimators: int = 300
    learning_rate: float = 0.1
    max_depth: int = 8
    max_leaves: int = 0
    min_child_weight: float = 5.0
    gamma: float = 0.0
    reg_alpha: float = 0.0
    reg_lambda: float = 1.0
    subsample: float = 0.8
    colsample_bytree: float = 0.8
    colsample_bylevel: float = 1.0
    early_stopping: int = 20
    context: int = 1
    max_rows: int | None = None

    def __post_init__(self):
        for name in ("n_estimators", "context"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, found {getattr(self, name)}.")

    @classmethod
    def published(cls) -> BoostingConfig:
        """Return CarbonSense's baseline (its scale_pos_weight, of classification, left out).

        References
        ----------
        Fortier et al. 2024, arXiv:2406.04940.
        """
        return cls(
            n_estimators=150, learning_rate=0.1, max_depth=9, min_child_weight=9, gamma=0.4, reg_alpha=0.1,
            reg_lambda=0.0, subsample=0.7, colsample_bytree=0.7, colsample_bylevel=0.8, early_stopping=0,
        )  # fmt: skip

    @classmethod
    def xbase(cls) -> BoostingConfig:
        """Return settings like X-BASE's, as CarbonBench's baseline has them (second-hand).

        References
        ----------
        Nelson, Walther et al. 2024, doi:10.5194/bg-21-5079-2024; arXiv:2603.09868.
        """
        return cls(
            n_estimators=1000, learning_rate=0.05, max_depth=10, max_leaves=31, min_child_weight=5,
            subsample=1.0, colsample_bytree=1.0, early_stopping=10,
        )  # fmt: skip

    @classmethod
    def from_dict(cls, values: Mapping) -> BoostingConfig:
        """Make a config of a mapping, refusing unknown keys (UnknownNameError)."""
        return from_known_keys(cls, values)


class Boosting(RowModel):
    """XGBoost on met columns, distance-weighted chip means, static numbers and one-hot classes.

    Parameters
    ----------
    config : BoostingConfig
    sizes : Sizes

    References
    ----------
    Chen & Guestrin 2016, doi:10.1145/2939672.2939785.
    """

    kind = "xgboost"

    def __init__(self, config: BoostingConfig, sizes: Sizes):
        self.config, self.sizes = config, sizes
        self.boosters: list = []

    @property
    def context(self) -> int:
        """Hours of a window."""
        return self.config.context

    def rows(self, batch: Batch) -> np.ndarray:
        """Return (B, F) float32: met of all hours, chip means, numbers, classes; NaN where missing."""
        met = np.asarray(batch.met, np.float32).reshape(len(batch.met), -1)
        one_hot = [np.arange(n) == batch.classes[:, i : i + 1] for i, n in enumerate(self.sizes.classes)]
        chips = chip_means(batch.images, batch.image_step, self.sizes.bands)
        return np.concatenate([met, chips, batch.numbers, *one_hot], 1, dtype=np.float32)

    def fit(self, rows, targets, val_rows=None, val_targets=None, *, seed=0, progress=None) -> dict:
        """Grow the trees of each target on its observed rows; return the trees kept and the validation RMSE."""
        log = {}
        self.boosters = []
        for i in range(self.n_targets):
            seen = np.flatnonzero(np.isfinite(targets[:, i]))
            if not len(seen):
                raise ConfigError(f"target {i} is observed in no training hour.")
            if self.config.max_rows and len(seen) > self.config.max_rows:
                chosen = np.random.default_rng((seed, i)).choice(seen, self.config.max_rows, replace=False)
                seen = np.sort(chosen)
            val = None if val_rows is None else _observed(val_rows, val_targets[:, i])
            booster, scores = self._grow(rows[seen], targets[seen, i], val, seed, _shifted(progress, i, self))
            self.boosters.append(booster)
            log[f"trees_{i}"] = booster.num_boosted_rounds()
            if scores:
                log[f"val_rmse_{i}"] = min(scores)
        return log

    def _grow(self, x, y, val, seed: int, progress):
        xgboost = _xgboost()
        train = xgboost.QuantileDMatrix(x, y)
        early = self.config.early_stopping if val is not None else 0
        # The last set is the one that early stopping watches.
        sets = [(xgboost.QuantileDMatrix(*val, ref=train), "val")] if val is not None else []
        scores: dict = {}
        callbacks = [_progress_callback(progress)] if progress else []
        if early:
            callbacks.append(xgboost.callback.EarlyStopping(rounds=early, save_best=True))
        booster = xgboost.train(
            self._parameters(seed), train, self.config.n_estimators, evals=sets, evals_result=scores,
            verbose_eval=False, callbacks=callbacks,
        )  # fmt: skip
        return booster, scores.get("val", {}).get("rmse")

    def _parameters(self, seed: int) -> dict:
        ours = ("n_estimators", "early_stopping", "context", "max_rows")
        given = {k: v for k, v in dataclasses.asdict(self.config).items() if k not in ours}
        policy = "lossguide" if self.config.max_leaves else "depthwise"
        fixed = {"objective": "reg:squarederror", "tree_method": "hist", "grow_policy": policy, "seed": seed}
        return given | fixed | {"verbosity": 0}

    def predict_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return (B, targets) float32 in scaled units."""
        if len(self.boosters) != self.n_targets:
            raise ConfigError(f"the model has {len(self.boosters)} of {self.n_targets} targets' trees: train it first.")
        if not len(rows):
            return np.empty((0, self.n_targets), np.float32)
        return np.stack([booster.inplace_predict(rows) for booster in self.boosters], 1).astype(np.float32)

    def weights(self) -> dict[str, bytes]:
        """Return one UBJSON file per target."""
        return {f"model.{i}.ubj": bytes(booster.save_raw("ubj")) for i, booster in enumerate(self.boosters)}

    def load_weights(self, files: Mapping[str, bytes]) -> None:
        """Take the trees that `weights` gave."""
        xgboost = _xgboost()
        boosters = []
        for i in range(self.n_targets):
            booster = xgboost.Booster()
            try:
                booster.load_model(bytearray(files[f"model.{i}.ubj"]))
            except xgboost.core.XGBoostError as error:
                raise ValueError(f"model.{i}.ubj is not XGBoost's UBJSON: {str(error).splitlines()[0]}") from error
            boosters.append(booster)
        self.boosters = boosters


def chip_means(images: np.ndarray, step: np.ndarray, bands: int) -> np.ndarray:
    """Mean of each band of a window's latest chip, weighted by inverse distance from the chip's centre.

    Parameters
    ----------
    images : (B, K, b, 64) float32
        Chips; a band that is all NaN stays NaN.
    step : (B, K) int64
        Hour of each chip, or -1.
    bands : int
        b.

    Returns
    -------
    (B, b) float32
        NaN where a window has no chip.
    """
    if not images.shape[1] or not bands:
        return np.full((len(images), bands), np.nan, np.float32)
    offset = np.arange(_SIDE) - (_SIDE - 1) / 2
    weight = (1 / np.hypot(offset[:, None], offset)).ravel()
    latest = np.argmax(step, axis=1)
    windows = np.arange(len(images))
    chip = images[windows, latest]
    mean = (chip @ (weight / math.fsum(weight))).astype(np.float32)
    return np.where(step[windows, latest][:, None] >= 0, mean, np.float32(np.nan))


def _observed(rows: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    seen = np.isfinite(target)
    return (rows[seen], target[seen]) if seen.any() else None


def _shifted(progress, target: int, model: Boosting):
    """Progress of one target's trees as part of all."""
    if progress is None:
        return None
    total = model.config.n_estimators
    return lambda done: progress(target * total + done, model.n_targets * total, f"tree {done} of target {target}")


def _progress_callback(progress):
    xgboost = _xgboost()

    class Report(xgboost.callback.TrainingCallback):
        def after_iteration(self, model, epoch, evals_log):
            progress(epoch + 1)
            return False

    return Report()


def _xgboost():
    try:
        import xgboost
    except ModuleNotFoundError as error:
        raise missing_package("xgboost", "train", "the model xgboost") from error
    return xgboost
