"""Random search: settings of the trees, drawn at random and scored on towers that did not train them.

The training towers are divided into folds of whole clusters; the towers of each fold are predicted by trees of the
others. Nothing of the test towers is read. The best draws can be scored again on more rows, since more rows support
deeper and more trees; the number of trees is chosen there, so that no validation towers are needed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube.errors import CheckpointError, ConfigError, SplitError
from fluxcube.models.boosting import (
    SPACE,
    Boosting,
    BoostingConfig,
    Feed,
    add_tree,
    new_booster,
    parameters,
    rmse,
)
from fluxcube.models.checkpoint import write_atomically
from fluxcube.models.rows import WholeRows
from fluxcube.models.treedevice import find_tree_device
from fluxcube.moments import efficiency
from fluxcube.parsing import parse_json, read_text
from fluxcube.resolution import DEFAULT, HOURLY, Default, QualityLimit, quality_limit, resolution_of
from fluxcube.samples.features import FeatureSpec
from fluxcube.samples.splits import kfold
from fluxcube.stores.lock import check_held
from fluxcube.stores.origin import origin, source_of
from fluxcube.training.digest import data_digest
from fluxcube.training.plan import sizes_of
from fluxcube.training.rows import ModelRows, SiteRows, row_weights
from fluxcube.training.run import differences
from fluxcube.training.weights import FILLED

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Size of a random search, and how a draw is scored.

    Attributes
    ----------
    draws : int
        Number of settings that are tried.
    folds : int
        Number of parts of the towers.
    rows : int or None
        Number of feature rows of the towers, drawn at random; None takes all.
    trees : int
        Maximum number of trees per target and fold.
    patience : int
        Stop a draw after this number of trees without a better score.
    seed : int
        Seed of folds, rows, settings and trees.
    buffer_km : float
        Towers closer than this are in one fold.
    workers : int or None
        Number of threads, one draw each; None is the number of cores, and 1 on a GPU.
    finalists : int
        Number of draws, the best ones, that are scored again on `final_rows`; the best of them is chosen.
    final_rows : int or None
        Number of feature rows for these, best as many as trees are then trained on; None scores no draw again, nor does
        a number that is not above `rows`.

    Raises
    ------
    ConfigError
        If a number is too small.
    """

    draws: int = 50
    folds: int = 5
    rows: int | None = 200_000
    trees: int = 1000
    patience: int = 30
    seed: int = 0
    buffer_km: float = 50.0
    workers: int | None = None
    finalists: int = 3
    final_rows: int | None = None

    def __post_init__(self):
        for name in ("draws", "folds", "rows", "patience", "workers", "finalists", "final_rows"):
            value, minimum = getattr(self, name), 2 if name == "folds" else 1
            if value is not None and value < minimum:
                raise ConfigError(f"{name} must be {minimum} or more, found {value}.")


@dataclass(frozen=True)
class Search:
    """Result of a random search.

    Attributes
    ----------
    config : BoostingConfig
        Settings of the best draw, with the number of trees that scored best (the mean over targets) and no early
        stopping.
    draws : tuple of dict
        One table row per draw, in order: ``draw``, ``from`` ("published", "xbase" or "random"), ``nse`` (objective),
        ``nse_targets``, ``nse_folds`` (of each fold alone), ``trees`` (per target), ``settings``, ``seconds``.
    about : mapping
        Sites, folds, rows and seed of the search.
    finals : tuple of dict
        Table rows of the finalists, scored again on ``rows`` feature rows; empty if none was.
    """

    config: BoostingConfig
    draws: tuple[Mapping, ...]
    about: Mapping = field(default_factory=dict, repr=False)
    finals: tuple[Mapping, ...] = ()

    @property
    def best(self) -> Mapping:
        """Table row of the best draw: of the finalists, if there are any."""
        return max(self.finals or self.draws, key=lambda row: row["nse"])

    def to_dict(self) -> dict:
        """Return the record of the search, as JSON can represent it."""
        record = {"about": dict(self.about), "best": dict(self.best), "draws": [dict(row) for row in self.draws]}
        return record | ({"finals": [dict(row) for row in self.finals]} if self.finals else {})


def random_search(
    cube: xr.Dataset,
    sites: Sequence[str],
    *,
    spec: FeatureSpec,
    config: BoostingConfig | None = None,
    options: SearchOptions | None = None,
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
    weigh: Sequence[str] = (),
    filled: float = FILLED,
    out: str | os.PathLike | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Search:
    """Draw settings of the trees at random and return those that predict unseen towers best.

    The objective is the NSE of measured fluxes (flag 0) of all towers pooled, each predicted by trees that were not
    trained on its cluster; for several targets it is the mean over these. Weights change what trees learn, not how they
    are scored. All folds grow the same number of trees, the
    one that scores best; since this number is chosen, too, the NSE of the best draw is a little above its score
    elsewhere. The first two draws are the published and the X-BASE-like settings; draw i and its score depend on the
    seed and i alone, not on the number of threads.

    Parameters
    ----------
    cube : xr.Dataset
        A cube (`fluxcube.schema`).
    sites : sequence of str
        Towers to search on: training towers, never test towers.
    spec : FeatureSpec
        Inputs and targets; see `fluxcube.samples.towers.cube_spec`.
    config : BoostingConfig, optional
        Settings that are not drawn: lags or context, device, `max_rows`.
    options : SearchOptions, optional
        Size of the search, and how a draw is scored.
    max_qc : int, None or "default"
        Maximum flag of the hourly fluxes used for training, by default 1; None uses all.
    min_quality : float, None or "default"
        Minimum quality of the daily fluxes used for training, by default 0.5; None uses all.
    weigh : sequence of str
        Weights of the training fluxes (`fluxcube.training.weights.flux_weights`).
    filled : float
        Weight of gap-filled hours, for the weight "quality".
    out : path, optional
        File with one line of JSON per draw and finalist; a killed search resumes from it.
    progress : callable, optional
        ``progress(done, total, text)``.

    Returns
    -------
    Search

    Raises
    ------
    CheckpointError
        If `out` is not a file of a search.
    ConfigError
        If `out` contains another search, or a target is not observed or measured in a fold.
    SplitError
        If there are fewer clusters than folds.

    Examples
    --------
    >>> from fluxcube.samples.towers import cube_spec
    >>> from fluxcube.simulation.example import example_cube
    >>> cube = example_cube(sites=6, days=6)
    >>> sites = [str(s) for s in cube.site.values]
    >>> options = SearchOptions(draws=2, folds=2, rows=300)
    >>> found = random_search(cube, sites, spec=cube_spec(cube, sites), options=options)
    >>> [row["from"] for row in found.draws], found.config.early_stopping
    (['published', 'xbase'], 0)
    """
    resolution, options = resolution_of(cube), options or SearchOptions()
    limit = quality_limit(resolution, max_qc, min_quality, default=resolution.training_limit)
    config = config or BoostingConfig()
    config = dataclasses.replace(config, n_estimators=options.trees, early_stopping=options.patience)
    spec, draws = dataclasses.replace(spec, fill_chips=False), options.draws
    try:
        splits = kfold(cube.sel(site=list(sites)), k=options.folds, seed=options.seed, buffer_km=options.buffer_km)
    except SplitError as error:
        raise SplitError(
            f"a search divides the {len(sites)} training towers into {options.folds} folds of whole clusters, and they "
            f"have too few clusters ({error}) Use more training towers, or train without a search."
        ) from error
    folds = [split.test for split in splits]
    about = _about(spec, config, sites, folds, options, limit)
    if weigh:  # without it, files of earlier versions are unchanged
        about["weigh"] = [*sorted(weigh), *([filled] if resolution is HOURLY and "quality" in weigh else [])]
    path = None if out is None else Path(out)
    if path is not None:  # draws on other data are not compared with these
        about["data"] = data_digest(cube, sites, spec, sample=True)
        if store := source_of(origin(cube)):
            about["store"] = store
    done, finals = _read(path, about) if path is not None and path.exists() else ({}, {})
    source = _Source(cube, tuple(sites), spec, limit, tuple(weigh), filled, progress)
    scoring = _Scoring(source, folds, config, options, about, path, done, finals)
    scoring.score([i for i in range(draws) if i not in done], options.rows)
    rows_done = tuple(done[i] for i in range(draws))
    finalists = scoring.finalists(rows_done)
    scoring.score([i for i in finalists if not scoring.is_final(i)], options.final_rows, count=len(finalists))
    found = Search(config, rows_done, about, tuple(finals[i] for i in finalists))
    count = round(float(np.mean(found.best["trees"])))
    kept = dataclasses.replace(config, **found.best["settings"], n_estimators=count, early_stopping=0)
    return dataclasses.replace(found, config=kept)


def _cores() -> int:
    """Return the number of cores that this process may use, if the system reports it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def draw_settings(i: int, seed: int) -> tuple[str, dict]:
    """Return the origin of draw i, and its settings.

    Examples
    --------
    >>> draw_settings(0, seed=7)[0], draw_settings(7, seed=7) == draw_settings(7, seed=7)
    ('published', True)
    """
    if i < 2:
        name = ("published", "xbase")[i]
        preset = getattr(BoostingConfig, name)()
        return name, {key: getattr(preset, key) for key in SPACE}
    rng = np.random.default_rng((seed, i))
    return "random", {key: _draw(rng, *how) for key, how in SPACE.items()}


def _draw(rng: np.random.Generator, kind: str, *limits: float) -> float:
    if kind == "choice":
        return limits[rng.integers(len(limits))]
    if kind == "whole":
        return int(rng.integers(int(limits[0]), int(limits[1]) + 1))
    low, high = (math.log(x) for x in limits) if kind == "log" else limits
    value = rng.uniform(low, high)
    return float(f"{math.exp(value) if kind == 'log' else value:.4g}")


@dataclass(frozen=True)
class _Fold:
    """Bins of the rows outside a fold and of the measured rows in it; number and flux variance of the latter."""

    train: object
    val: object
    hours: int
    spread: float


@dataclass(frozen=True)
class _Target:
    """The folds of one target, and its variance over all of them."""

    folds: tuple[_Fold, ...]
    spread: float


@dataclass(frozen=True, eq=False)
class _Source:
    """The towers to search on, read when they are first needed, and the weights of their fluxes."""

    cube: xr.Dataset
    sites: tuple[str, ...]
    spec: FeatureSpec
    limit: QualityLimit
    weigh: tuple[str, ...]
    filled: float
    progress: Callable[[int, int, str], None] | None

    @cached_property
    def rows(self) -> SiteRows:
        """Towers with scaled fluxes."""
        return SiteRows(self.cube, self.sites, self.spec, self.limit, self.progress).scaled()

    @cached_property
    def weights(self) -> np.ndarray | None:
        """Weights (N, targets) of the fluxes of all rows."""
        return row_weights(self.cube, self.rows, self.weigh, self.filled)

    @cached_property
    def measured(self) -> np.ndarray:
        """Which fluxes (N, targets) of all rows are measured."""
        return self.rows.measured()


@dataclass(frozen=True, eq=False)
class _Scoring:
    """The draws and finalists that are scored so far, by number, and how further ones are scored and recorded."""

    source: _Source
    folds: Sequence[Sequence[str]]
    config: BoostingConfig
    options: SearchOptions
    about: Mapping
    path: Path | None
    done: dict[int, dict]
    finals: dict[int, dict]

    def score(self, todo: Sequence[int], rows: int | None, *, count: int | None = None) -> None:
        """Score draws on a number of rows and record each; they are finalists if there is a `count` of these."""
        if not todo:
            return
        found, name = (self.done, "draw") if count is None else (self.finals, "finalist")
        total = self.options.draws if count is None else count
        data = _load(self.source, self.folds, self.config, rows, self.options.seed)
        threads = self.options.workers or (_cores() if find_tree_device(self.config.device) == "cpu" else 1)
        for row in _scored(data, self.config, todo, self.options.seed, threads):
            found[row["draw"]] = row if count is None else row | {"rows": rows, "final": True}
            if self.path is not None:
                _write(self.path, self.about, self.done, self.finals)
            if self.source.progress:
                best = max(r["nse"] for r in found.values())
                text = f"{name} {row['draw'] + 1}: NSE {row['nse']:.3f}, best {best:.3f}"
                self.source.progress(min(len(found), total), total, text)

    def finalists(self, draws: Sequence[Mapping]) -> list[int]:
        """Return the numbers of the draws that are scored again, the best first; none if there are no more rows."""
        rows, final_rows = self.options.rows, self.options.final_rows
        if final_rows is None or rows is None or final_rows <= rows:
            return []
        ordered = sorted(draws, key=lambda row: (-row["nse"], row["draw"]))
        best = [row["draw"] for row in ordered[: self.options.finalists]]
        if all(self.is_final(i) for i in best):
            return best
        return best if len(self.source.rows.fluxes) > rows else []  # all rows scored the draws already

    def is_final(self, draw: int) -> bool:
        """Return whether a draw is scored on the final number of rows."""
        return self.finals.get(draw, {}).get("rows") == self.options.final_rows


def _load(
    towers: _Source, folds: Sequence[Sequence[str]], config: BoostingConfig, count: int | None, seed: int
) -> list[_Target]:
    """Read `count` of the rows and bin them, fold by fold."""
    source = towers.rows
    chosen = np.arange(len(source.fluxes))
    if count is not None and len(chosen) > count:
        chosen = np.sort(np.random.default_rng((seed, 0)).choice(len(chosen), count, replace=False))
    model = Boosting(config, sizes_of(source.spec))
    parts = []
    for at, x in _numbered(ModelRows(model, source, kept=0)):
        first, last = np.searchsorted(chosen, (at, at + len(x)))
        parts.append(x[chosen[first:last] - at])
    weight = None if towers.weights is None else towers.weights[chosen]
    data = WholeRows(np.concatenate(parts), source.fluxes[chosen], weight)
    fold_of = {site: k for k, part in enumerate(folds) for site in part}
    fold = np.repeat([fold_of[site] for site in source.sites], source.counts)[chosen]
    measured = towers.measured[chosen]
    return [_target(data, i, name, measured[:, i], fold, len(folds)) for i, name in enumerate(source.spec.targets)]


def _numbered(rows: ModelRows) -> Iterator[tuple[int, np.ndarray]]:
    at = 0
    for x, _ in rows.chunks():
        yield at, x
        at += len(x)


def _target(data: WholeRows, i: int, name: str, measured: np.ndarray, fold: np.ndarray, count: int) -> _Target:
    y = data.y[:, i].astype(float)
    weight = None if data.weight is None else data.weight[:, i]
    used = np.isfinite(y) if weight is None else np.isfinite(y) & (weight > 0)
    folds = []
    for k in range(count):
        learn, score = np.flatnonzero((fold != k) & used), np.flatnonzero((fold == k) & measured)
        if not len(learn) or not len(score):
            where = "measured in" if len(learn) else "observed outside"
            raise ConfigError(f"{name} is not {where} fold {k + 1}: use fewer folds, or more rows.")
        train = Feed(data, i, learn, weight).matrix()
        folds.append(_Fold(train, Feed(data, i, score).matrix(train), len(score), float(y[score].var())))
    if not (spread := float(y[measured].var())):
        raise ConfigError(f"{name} never varies where it is measured: there is nothing to search for.")
    return _Target(tuple(folds), spread)


def _scored(
    data: Sequence[_Target], config: BoostingConfig, todo: Sequence[int], seed: int, threads: int
) -> Iterator[dict]:
    """Score draws, one per thread at a time, and yield each when it is done."""
    stop = threading.Event()
    waiting = iter(todo)
    with ThreadPoolExecutor(threads) as pool:
        running: set[Future] = set()
        try:
            while True:
                for i in waiting:
                    running.add(pool.submit(_score, data, config, i, seed, stop))
                    if len(running) >= threads:
                        break
                if not running:
                    return
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in sorted(finished, key=lambda f: f.result()["draw"]):
                    yield future.result()
        finally:
            stop.set()  # if the caller stops, it does not wait for whole draws


def _score(targets: Sequence[_Target], config: BoostingConfig, i: int, seed: int, stop: threading.Event) -> dict:
    """Grow the trees of one draw on all folds; return its table row."""
    begun = time.perf_counter()
    origin, settings = draw_settings(i, seed)
    params = parameters(dataclasses.replace(config, **settings), seed, threads=1)  # several would add in another order
    nse, folds, trees = [], [], []
    for target in targets:
        hours = [fold.hours for fold in target.folds]
        errors = _grow_folds(params, target, config, stop)
        pooled = errors @ hours / sum(hours)
        best = int(np.argmin(pooled))
        nse.append(efficiency(pooled[best], target.spread))
        folds.append([efficiency(error, fold.spread) for error, fold in zip(errors[best], target.folds, strict=True)])
        trees.append(best + 1)
    return {
        "draw": i,
        "from": origin,
        "nse": float(np.mean(nse)),
        "nse_targets": nse,
        "trees": trees,
        "nse_folds": np.mean(folds, axis=0).tolist(),
        "settings": settings,
        "seconds": round(time.perf_counter() - begun, 2),
    }


def _grow_folds(params: Mapping, target: _Target, config: BoostingConfig, stop: threading.Event) -> np.ndarray:
    """Grow the trees of all folds together until their pooled error stops falling; return it (rounds, folds)."""
    boosters = [new_booster(params, fold.train, fold.val) for fold in target.folds]
    hours = np.array([fold.hours for fold in target.folds], float)
    errors: list[list[float]] = []
    best, at = math.inf, 0
    for done in range(config.n_estimators):
        if stop.is_set():
            raise _Stopped
        for booster, fold in zip(boosters, target.folds, strict=True):
            add_tree(booster, fold.train, done)
        errors.append([rmse(b, fold.val) ** 2 for b, fold in zip(boosters, target.folds, strict=True)])
        if (pooled := float(errors[-1] @ hours)) < best:
            best, at = pooled, done
        elif done - at >= config.early_stopping:
            break
    return np.array(errors)


class _Stopped(RuntimeError):
    """The caller has stopped."""


def _about(
    spec: FeatureSpec,
    config: BoostingConfig,
    sites: Sequence[str],
    folds: Sequence[Sequence[str]],
    options: SearchOptions,
    limit: QualityLimit,
) -> dict:
    """Return everything that determines the score of a draw, as JSON represents it."""
    features = {k: v for k, v in spec.to_dict().items() if not k.startswith("target_")}
    about = {
        "format": _FORMAT,
        "targets": list(spec.targets),
        "sites": len(sites),
        "rows": options.rows,
        "seed": options.seed,
        **limit.to_dict(),
        "buffer_km": options.buffer_km,
        "folds": [sorted(part) for part in folds],
        "features": features,
        "config": dataclasses.asdict(config),
        "space": {key: list(how) for key, how in SPACE.items()},
    }
    return json.loads(json.dumps(about))


def _write(path: Path, about: Mapping, done: Mapping[int, Mapping], finals: Mapping[int, Mapping]) -> None:
    """Write the complete file: a line on the search, one per draw and per finalist; a kill leaves the last file."""
    lines = [json.dumps(about), *(json.dumps(rows[i]) for rows in (done, finals) for i in sorted(rows))]
    path.parent.mkdir(parents=True, exist_ok=True)
    check_held(path)
    write_atomically(path, ("\n".join(lines) + "\n").encode())


def _read(path: Path, about: Mapping) -> tuple[dict[int, dict], dict[int, dict]]:
    """Return the draws and the finalists of an earlier call by number."""
    try:
        was, *rows = [parse_json(line, dict) for line in read_text(path).splitlines()]
        done = {row["draw"]: row for row in rows if not row.get("final")}
        finals = {row["draw"]: row for row in rows if row.get("final")}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CheckpointError(f"{path} is not a file of draws ({error}): remove it, or pass another `out`.") from error
    if "store" not in about:  # the cube is of no store: its values alone are compared
        was.pop("store", None)
    unknown = {key: about[key] for key in ("data", "store") if key in about}  # files of earlier versions lack them
    if named := differences(unknown | was, about):
        raise ConfigError(f"{path} contains a search with other settings: {named}. Remove it, or pass another `out`.")
    return done, finals
