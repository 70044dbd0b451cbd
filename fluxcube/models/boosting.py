"""Gradient-boosted trees: one feature row per time step, one model per target.

Rows come in parts that are built anew at each pass, so that they are never in RAM as a whole: XGBoost keeps bins of
them. Training can resume after a kill and then grows exactly the trees of an uninterrupted run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fluxcube.devices import check_device
from fluxcube.errors import ConfigError
from fluxcube.interrupts import Postponed, StopRequested, postponed
from fluxcube.models.base import Batch, Sizes
from fluxcube.models.imagemeans import latest_means
from fluxcube.models.rows import Growth, Progress, RowModel, Rows, WholeRows
from fluxcube.models.settings import check_types, from_known_keys
from fluxcube.models.treecheck import checked_trees
from fluxcube.models.treedevice import find_tree_device, is_built_for_cards, predict_on, xgboost_package
from fluxcube.moments import efficiency

#: Rounds between the points from which training can resume. Random draws restart there, killed or not.
ROUNDS = 25

_NEVER_NEGATIVE = (
    "early_stopping",
    "max_depth",
    "max_leaves",
    "min_child_weight",
    "gamma",
    "reg_alpha",
    "reg_lambda",
)
_SHARES = ("learning_rate", "subsample", "colsample_bytree", "colsample_bylevel")
_OURS = ("n_estimators", "early_stopping", "context", "lags", "max_rows", "search_rows", "device")
#: Settings that are drawn, and their limits, around the published and the X-BASE-like settings (which are points of
#: this space): "log" is uniform in the logarithm, "choice" one of the following values.
SPACE: Mapping[str, tuple] = {
    "learning_rate": ("log", 0.03, 0.2),
    "max_depth": ("whole", 4, 12),
    "max_leaves": ("choice", 0, 31, 127),
    "min_child_weight": ("log", 1.0, 300.0),
    "gamma": ("uniform", 0.0, 1.0),
    "reg_alpha": ("log", 0.01, 10.0),
    "reg_lambda": ("log", 0.01, 30.0),
    "subsample": ("uniform", 0.5, 1.0),
    "colsample_bytree": ("uniform", 0.5, 1.0),
    "colsample_bylevel": ("uniform", 0.5, 1.0),
}


@dataclass(frozen=True, kw_only=True)
class BoostingConfig:
    """Settings of `Boosting`; the names and meanings are XGBoost's.

    Attributes
    ----------
    n_estimators : int
        Maximum number of trees per target.
    early_stopping : int
        Stop after this number of rounds without a better score on the validation sites; 0 grows all trees, and so does
        a split without validation sites. A search chooses the number of trees inside the training sites instead.
    context : int
        Number of time steps of inputs in a feature row: 1 is the present step alone.
    lags : tuple of int
        Instead of `context`: earlier time steps whose inputs are in a row, e.g. (1, 2, 3, 6, 12, 24, 31). Clocks and
        trailing means are not repeated.
    max_rows : int or None
        Maximum number of training rows per target, drawn at random.
    search_rows : int
        Number of feature rows of the training towers, drawn at random, on which a search scores settings. Its best
        draws are scored again on `max_rows`, at most 500,000 by default.
    device : str
        Device that grows trees: "auto" is a GPU if there is one and XGBoost is built for it; "cpu", "cuda", or "cuda:1"
        for a GPU by its number.
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
    lags: tuple[int, ...] = ()
    max_rows: int | None = None
    search_rows: int = 200_000
    device: str = "auto"

    def __post_init__(self):
        object.__setattr__(self, "lags", tuple(self.lags))
        check_types(self)
        for name in ("n_estimators", "context", "max_rows", "search_rows"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, found {getattr(self, name)}.")
        for name in _NEVER_NEGATIVE:
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be 0 or more, found {getattr(self, name)}.")
        for name in _SHARES:
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be above 0 and at most 1, found {getattr(self, name)}.")
        if any(lag < 1 for lag in self.lags) or len(set(self.lags)) < len(self.lags):
            raise ConfigError(f"lags must be different whole numbers of time steps, 1 or more; found {self.lags}.")
        if self.lags and self.context > 1:
            raise ConfigError(f"lags and context exclude each other, found {self.lags} and {self.context}: set one.")
        check_device(self.device)

    @property
    def steps_back(self) -> tuple[int, ...]:
        """Earlier time steps whose inputs are in a row, nearest first."""
        return tuple(sorted(self.lags)) or tuple(range(1, self.context))

    @classmethod
    def small(cls) -> BoostingConfig:
        """Return settings for a laptop: shallow trees on at most half a million rows, a few minutes per target."""
        return cls(
            n_estimators=300, learning_rate=0.1, max_depth=6, min_child_weight=20, early_stopping=20, max_rows=500_000
        )

    @classmethod
    def quick(cls) -> BoostingConfig:
        """Return settings for a first score: shallow trees on at most 100,000 rows, seconds per target."""
        return cls(
            n_estimators=100, learning_rate=0.2, max_depth=6, min_child_weight=20, early_stopping=10, max_rows=100_000
        )

    @classmethod
    def published(cls) -> BoostingConfig:
        """Return the settings of CarbonSense's baseline, without scale_pos_weight, which is for classification.

        References
        ----------
        Fortier et al. 2024, arXiv:2406.04940.
        """
        return cls(
            n_estimators=150,
            learning_rate=0.1,
            max_depth=9,
            min_child_weight=9,
            gamma=0.4,
            reg_alpha=0.1,
            reg_lambda=0.0,
            subsample=0.7,
            colsample_bytree=0.7,
            colsample_bylevel=0.8,
            early_stopping=0,
        )

    @classmethod
    def xbase(cls) -> BoostingConfig:
        """Return settings like those of X-BASE, as CarbonBench's baseline reports them (second-hand).

        References
        ----------
        Nelson, Walther et al. 2024, doi:10.5194/bg-21-5079-2024; arXiv:2603.09868.
        """
        return cls(
            n_estimators=1000,
            learning_rate=0.05,
            max_depth=10,
            max_leaves=31,
            min_child_weight=5,
            subsample=1.0,
            colsample_bytree=1.0,
            early_stopping=10,
        )

    @classmethod
    def from_dict(cls, values: Mapping) -> BoostingConfig:
        """Build the settings from a mapping, refusing unknown keys (UnknownNameError)."""
        return from_known_keys(cls, values)


class Boosting(RowModel):
    """XGBoost on model inputs, distance-weighted chip means, static numbers and one-hot classes.

    Parameters
    ----------
    config : BoostingConfig
    sizes : Sizes

    References
    ----------
    Chen & Guestrin 2016, doi:10.1145/2939672.2939785.
    """

    kind = "xgboost"
    averages_chips = True
    image_table = True
    searchable = True
    uses_weights = True
    length_setting = "config.n_estimators"
    config: BoostingConfig

    def __init__(self, config: BoostingConfig, sizes: Sizes):
        self.config, self.sizes = config, sizes
        self.boosters: list = []
        self._repeated = [c for c in range(sizes.inputs - sizes.means) if c not in sizes.protected]

    @property
    def context(self) -> int:
        """Number of time steps of a window."""
        return 1 + max(self.config.steps_back, default=0)

    def rows(self, batch: Batch) -> np.ndarray:
        """Return (B, F) float32: inputs of this step and earlier ones, chip means, numbers, classes; NaN is missing."""
        inputs = np.asarray(batch.inputs, np.float32)
        back = [inputs[:, -1 - lag, self._repeated] for lag in self.config.steps_back]
        one_hot = [np.arange(n) == batch.classes[:, i : i + 1] for i, n in enumerate(self.sizes.classes)]
        chips = latest_means(batch, self.sizes)
        return np.concatenate([inputs[:, -1], *back, *chips, batch.numbers, *one_hot], 1, dtype=np.float32)

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
        """Grow the trees of each target on its observed rows; return the trees kept and the validation RMSE."""
        val = None if val_rows is None or val_targets is None else WholeRows(val_rows, val_targets)
        return self.learn(WholeRows(rows, targets), val, seed=seed, progress=progress)

    def learn(
        self,
        train: Rows,
        val: Rows | None = None,
        *,
        seed: int = 0,
        start: Growth | None = None,
        keep: Callable[[Growth], None] | None = None,
        progress: Progress | None = None,
    ) -> dict:
        """Grow the trees of each target on rows that come in parts, with their weights.

        The parameters are those of `RowModel.learn`; `keep` is called every `ROUNDS` rounds and after each target.

        Returns
        -------
        dict
            Number of trees of each target and, for the validation rows, RMSE (scaled) and NSE.

        Raises
        ------
        ConfigError
            If a target is observed in no row, or only with weight 0, or the device is not available.
        """
        find_tree_device(self.config.device)  # before rows are read
        state = start or Growth()
        targets, weights = train.targets(), train.weights()
        val_targets = None if val is None else val.targets()
        for i in range(len(state.done), self.n_targets):
            weight = None if weights is None else weights[:, i]
            chosen = _chosen(targets[:, i], i, self.config.max_rows, seed, weight)
            matrix = Feed(train, i, chosen, weight).matrix()
            spread, scored = 0.0, None
            if val is not None and val_targets is not None and np.isfinite(val_targets[:, i]).any():
                spread = float(np.nanvar(val_targets[:, i], dtype=np.float64))
                scored = Feed(val, i).matrix(matrix)
            if i == self.n_targets - 1:
                del targets, weights
                for rows in (train, val):
                    if rows is not None:
                        rows.release()
            booster, scores = self._grow(matrix, scored, seed, state, keep, _shifted(progress, i, self))
            state = with_target(state, booster, scores, spread)
            if keep:
                keep(state)
        self.boosters = [_booster(trees) for trees in state.done]
        return state.log

    def _grow(self, train, val, seed: int, state: Growth, keep, progress):
        def after(rounds: int, booster, scores: list[float]) -> None:
            if progress:
                progress(rounds)
            if keep and rounds % ROUNDS == 0:
                keep(
                    dataclasses.replace(
                        state, rounds=rounds, scores=tuple(scores), trees=bytes(booster.save_raw("ubj"))
                    )
                )

        return grow(
            parameters(self.config, seed),
            train,
            val,
            rounds=self.config.n_estimators,
            early=self.config.early_stopping,
            scores=state.scores,
            start=state.trees,
            first=state.rounds,
            after=after,
        )

    def predict_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return (B, targets) float32 in scaled units."""
        if len(self.boosters) != self.n_targets:
            raise ConfigError(f"{len(self.boosters)} of {self.n_targets} targets have trees: train the model first.")
        if not len(rows):
            return np.empty((0, self.n_targets), np.float32)
        return np.stack(predict_on(self.device, self.boosters, rows), 1).astype(np.float32)

    @classmethod
    def can_use_cards(cls) -> bool:
        """Return whether XGBoost is built for cards."""
        return is_built_for_cards()

    def device_for(self, device: str) -> str:
        """Return the device that predicts if a user names `device`: the CPU where XGBoost is not built for cards."""
        return find_tree_device(device, instead=True)

    def weights(self) -> dict[str, bytes]:
        """Return one UBJSON file per target."""
        return {f"model.{i}.ubj": bytes(booster.save_raw("ubj")) for i, booster in enumerate(self.boosters)}

    def load_weights(self, files: Mapping[str, bytes]) -> None:
        """Load trees that `weights` returned."""
        xgboost = xgboost_package()
        boosters = []
        for i in range(self.n_targets):
            try:
                boosters.append(_booster(files[f"model.{i}.ubj"]))
            except (ValueError, xgboost.core.XGBoostError) as error:
                raise ValueError(f"model.{i}.ubj is not XGBoost's UBJSON: {str(error).splitlines()[0]}") from error
        self.boosters = boosters


def with_target(state: Growth, booster, scores: list[float], variance: float) -> Growth:
    """Return the state after the last tree of a target; `variance` is that of its validation rows."""
    i = len(state.done)
    log = {**state.log, f"trees_{i}": booster.num_boosted_rounds()}
    if scores:
        log[f"val_rmse_{i}"] = error = scores[booster.num_boosted_rounds() - 1]
        if variance > 0:
            log[f"val_nse_{i}"] = efficiency(error**2, variance)
    return Growth((*state.done, bytes(booster.save_raw("ubj"))), log)


@dataclass(frozen=True)
class Feed:
    """Rows of one target, as XGBoost reads them.

    Attributes
    ----------
    rows : Rows
        Rows of all targets.
    target : int
        Position of the target.
    chosen : (n,) int64 or None
        Positions of the rows, ascending; None takes those where the target is observed.
    weight : (N,) float or None
        Weight of each of all rows in the loss; None for equal weights.
    """

    rows: Rows
    target: int
    chosen: np.ndarray | None = None
    weight: np.ndarray | None = None

    def matrix(self, ref=None):
        """Return the rows as a binned matrix, read part by part; `ref` is a matrix whose bins are used.

        Signals take effect between two parts: XGBoost ignores a KeyboardInterrupt in a function that it calls, and
        would take the parts so far for all of them.
        """
        with postponed() as waiting:
            try:
                return self._matrix(ref, waiting)
            except StopRequested:
                waiting.deliver()
                raise

    def _matrix(self, ref, waiting: Postponed):
        xgboost, feed = xgboost_package(), self
        data_iter: Any = xgboost.DataIter

        class Parts(data_iter):
            def __init__(self):
                super().__init__(release_data=True)
                self.parts = feed.parts()

            def next(self, input_data):
                for x, y, weight in self.parts:
                    waiting.check()
                    input_data(data=x, label=y, weight=weight)
                    return True
                return False

            def reset(self):
                self.parts = feed.parts()

        return xgboost.QuantileDMatrix(Parts(), ref=ref)

    def parts(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        """Yield chosen rows (n, F), their target (n,) and their weight (n,) or None."""
        at = 0
        for x, y in self.rows.chunks():
            if self.chosen is None:
                kept = np.flatnonzero(np.isfinite(y[:, self.target]))
            else:
                first, last = np.searchsorted(self.chosen, (at, at + len(x)))
                kept = self.chosen[first:last] - at
            if len(kept):
                weight = None if self.weight is None else np.asarray(self.weight[at + kept], np.float32)
                yield np.ascontiguousarray(x[kept], np.float32), np.asarray(y[kept, self.target], np.float32), weight
            at += len(x)


def parameters(config: BoostingConfig, seed: int, threads: int = 0) -> dict:
    """Return the settings as parameters of XGBoost; 0 threads means all cores."""
    own = {k: v for k, v in dataclasses.asdict(config).items() if k not in _OURS}
    policy = "lossguide" if config.max_leaves else "depthwise"
    fixed = {"objective": "reg:squarederror", "tree_method": "hist", "grow_policy": policy, "verbosity": 0}
    draws = {"seed": seed, "seed_per_iteration": True}
    return own | fixed | draws | {"device": find_tree_device(config.device), "nthread": threads}


def grow(
    params: Mapping,
    train,
    val=None,
    *,
    rounds: int,
    early: int = 0,
    scores: Sequence[float] = (),
    start: bytes | None = None,
    first: int = 0,
    after: Callable[[int, object, list[float]], None] | None = None,
) -> tuple[Any, list[float]]:
    """Grow trees round by round; a restart at a multiple of `ROUNDS` changes nothing.

    Parameters
    ----------
    params : mapping
        Parameters of XGBoost, from `parameters`.
    train, val : xgboost.DMatrix
        Rows to learn from, and rows to score each round on.
    rounds : int
        Maximum number of trees.
    early : int
        Stop after this number of rounds without a better score; 0 grows all trees.
    scores : sequence of float
        Validation RMSE of the rounds before `first`.
    start, first : bytes, int
        Trees so far (UBJSON), and their number.
    after : callable, optional
        ``after(rounds, booster, scores)`` after each round.

    Returns
    -------
    xgboost.Booster
        Trees up to the best round if `early` is above 0, else all; on the CPU.
    list of float
        Validation RMSE of all rounds.
    """
    scores = list(scores)
    booster = new_booster(params, train, val, start)
    for done in range(first, rounds):
        if early and scores and len(scores) - 1 - int(np.argmin(scores)) >= early:
            break
        add_tree(booster, train, done)
        if val is not None:
            scores.append(rmse(booster, val))
        if after:
            after(done + 1, booster, scores)
    if early and scores:
        booster = booster[: int(np.argmin(scores)) + 1]
    booster.set_param({"device": "cpu"})
    return booster, scores


def new_booster(params: Mapping, train, val=None, start: bytes | None = None):
    """Return a booster without trees, or with those of `start` (UBJSON), that caches predictions of both matrices."""
    matrices = [train] if val is None else [train, val]
    return xgboost_package().Booster(
        dict(params), matrices, model_file=bytearray(checked_trees(start)) if start else None
    )


def add_tree(booster, train, done: int) -> None:
    """Grow one more tree in place, after the first `done` trees."""
    if done % ROUNDS == 0:
        _forget_draws(booster)
    booster.update(train, done)


def rmse(booster, matrix) -> float:
    """Return the root mean square error on a matrix."""
    return float(booster.eval(matrix).rpartition(":")[2])


def _forget_draws(booster) -> None:
    """Let XGBoost create its updaters anew: the state of their column sampler is in no file."""
    booster.set_param({"tree_method": "approx"})
    booster.save_config()  # configures, which drops the updaters of another method
    booster.set_param({"tree_method": "hist"})


def _chosen(
    target: np.ndarray, i: int, limit: int | None, seed: int, weight: np.ndarray | None = None
) -> np.ndarray | None:
    """Return the rows to train target i on: `limit` of those observed with a weight above 0, or None for all."""
    seen = np.isfinite(target)
    if not seen.any():
        raise ConfigError(f"target {i} is observed in no training row; choose another target.")
    if weight is not None and not weight[seen].all():
        seen &= weight > 0
        if not seen.any():
            raise ConfigError(f"all training rows of target {i} have weight 0; leave out a weight (training.weigh).")
        if limit is None or seen.sum() <= limit:
            return np.flatnonzero(seen)
    if limit is None or seen.sum() <= limit:
        return None
    return np.sort(np.random.default_rng((seed, i)).choice(np.flatnonzero(seen), limit, replace=False))


def _booster(trees: bytes):
    booster = xgboost_package().Booster()
    booster.load_model(bytearray(checked_trees(trees)))
    return booster


def _shifted(progress, target: int, model: Boosting):
    """Return a callback that reports the progress of one target as part of all."""
    if progress is None:
        return None
    total = model.config.n_estimators
    return lambda done: progress(target * total + done, model.n_targets * total, f"tree {done} of target {target}")
