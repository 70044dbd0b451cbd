"""Training of models of feature rows: one row per time step with an observed flux.

Feature rows are computed site by site at each pass, so that neither the features of all towers nor all rows are in RAM
at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube.errors import CheckpointError, ConfigError, overwrite_option
from fluxcube.models.base import Batch
from fluxcube.models.checkpoint import write_atomically
from fluxcube.models.rows import Growth, Progress, RowModel, whole
from fluxcube.parsing import parse_json
from fluxcube.resolution import QualityLimit
from fluxcube.samples.features import FeatureSpec
from fluxcube.samples.scaling import scale, standardise
from fluxcube.samples.towers import Towers, good_fluxes, load_towers, site_years
from fluxcube.samples.windows import gather
from fluxcube.stores.lock import check_held
from fluxcube.training.callbacks import Told
from fluxcube.training.run import differences
from fluxcube.training.weights import Labels, flux_weights

#: Number of windows that are converted to rows at a time: chips of all time steps at once would fill the RAM.
_CHUNK = 16384
#: Bytes of rows that are kept for the next pass; further ones are computed again.
KEPT = 2**29
_HASH = 32


@dataclass(eq=False)
class SiteRows:
    """Some sites of a cube, read one at a time whenever their rows are requested.

    It replaces `Towers` for models that learn from feature rows; only the fluxes are in RAM, 4 bytes per time step and
    target.

    Parameters
    ----------
    cube : xr.Dataset
        A cube (`fluxcube.schema`), best opened lazily.
    sites : sequence of str
        Names of the sites.
    spec : FeatureSpec
        Inputs, targets and their scaling.
    limit : QualityLimit
        Quality of the fluxes that are used.
    progress : callable, optional
        ``progress(done, total, text)``, at the first reading.
    cache : dict, optional
        Towers that are read already, by site and scaling. If it is set, each site is read once and stays in RAM, for
        several models of the same features.
    """

    cube: xr.Dataset = field(repr=False)
    sites: Sequence[str]
    spec: FeatureSpec
    limit: QualityLimit
    progress: Callable | None = field(default=None, repr=False)
    cache: dict[tuple[str, FeatureSpec], Towers] | None = field(default=None, repr=False)

    @cached_property
    def _rows(self) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Return the fluxes of all rows, and for each site which of its time steps are rows."""
        parts = list(self._read(self.limit))
        kept = tuple(np.isfinite(part).any(1) for part in parts)
        return np.concatenate([part[k] for part, k in zip(parts, kept, strict=True)]), kept

    @property
    def fluxes(self) -> np.ndarray:
        """Scaled fluxes (N, targets) of all time steps with an observed one."""
        return self._rows[0]

    @property
    def counts(self) -> np.ndarray:
        """Number of such time steps of each site (n,)."""
        return np.array([np.count_nonzero(kept) for kept in self._rows[1]])

    def labels(self) -> Labels:
        """Return the fluxes and the time steps that they belong to, for `flux_weights`."""
        return Labels(tuple(self.sites), self.spec, self.fluxes, self.counts, self._rows[1])

    def observed(self) -> np.ndarray:
        """Return whether any target is observed in each row (N,): True for all."""
        return np.isfinite(self.fluxes).any(1)

    def measured(self) -> np.ndarray:
        """Return which fluxes (N, targets) are measured."""
        strict = self.spec.time_resolution.limit(self.spec.time_resolution.measured)
        parts = zip(self._read(self.limit), self._read(strict), strict=True)
        return np.concatenate([np.isfinite(good[np.isfinite(part).any(1)]) for part, good in parts])

    def scaled(self) -> SiteRows:
        """Return the same sites with targets of mean 0 and standard deviation 1; the new `spec` records the scaling.

        Raises
        ------
        ConfigError
            If a target is observed in no time step, or if the fluxes are scaled already.
        """
        spec, fluxes = standardise(self.spec, self.fluxes)
        out = dataclasses.replace(self, spec=spec)
        out.__dict__["_rows"] = fluxes, self._rows[1]  # equal to what reading again would return
        return out

    def towers(self) -> Iterator[Towers]:
        """Yield each site's towers."""
        for site in self.sites:
            key = site, self.spec
            kept = None if self.cache is None else self.cache.get(key)
            towers = load_towers(self.cube, [site], self.spec, self.limit) if kept is None else kept
            if self.cache is not None:
                self.cache[key] = towers
            yield towers

    def _read(self, limit: QualityLimit) -> Iterator[np.ndarray]:
        """Yield the scaled fluxes of each site, all its time steps."""
        for done, site in enumerate(self.sites, 1):
            values = good_fluxes(site_years(self.cube, site), self.spec.targets, limit)
            if self.progress:
                self.progress(done, len(self.sites), f"reading fluxes of {site}")
            yield scale(values, self.spec.target_mean, self.spec.target_scale)


class ModelRows:
    """Feature rows that a model computes from towers, in parts (`fluxcube.models.rows.Rows`).

    Parameters
    ----------
    model : RowModel
        Model that computes the rows.
    source : SiteRows or Towers
        Towers, read site by site, or in RAM.
    kept : int
        Bytes of rows that are kept for the next pass.
    weight : (N, targets) float, optional
        Weights of the targets of all rows.
    """

    def __init__(self, model: RowModel, source: SiteRows | Towers, kept: int = KEPT, weight: np.ndarray | None = None):
        self.model, self.source, self.room, self._weight = model, source, kept, weight
        self._kept: dict[int, list] = {}

    def targets(self) -> np.ndarray:
        """Return the targets (N, targets) of all rows."""
        return _kept(self.source.fluxes)

    def weights(self) -> np.ndarray | None:
        """Return the weights (N, targets) of all rows, or None for equal weights."""
        return self._weight

    def chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield rows (n, F) and targets (n, targets)."""
        if isinstance(self.source, Towers):
            yield from _pieces(self.model, self.source)
            return
        for at, site in enumerate(self.source.sites):
            if at in self._kept:
                yield from self._kept[at]
                continue
            one = dataclasses.replace(self.source, sites=[site], progress=None)
            pieces = [piece for towers in one.towers() for piece in _pieces(self.model, towers)]
            size = sum(array.nbytes for piece in pieces for array in piece)
            if size <= self.room:
                self.room -= size
                self._kept[at] = pieces
            yield from pieces

    def release(self) -> None:
        """Free the rows and weights that are kept."""
        self._kept.clear()
        self._weight = None


def fit_rows(
    model: RowModel,
    train: Towers | SiteRows,
    val: Towers | SiteRows | None,
    *,
    seed: int,
    progress: Progress | None = None,
    state: Path | None = None,
    request: Mapping | None = None,
    kept: int = KEPT,
    weight: np.ndarray | None = None,
    told: Told | None = None,
) -> dict:
    """Train a model of feature rows on towers whose fluxes are scaled; return its log entry.

    Parameters
    ----------
    model : RowModel
        An untrained model.
    train, val : SiteRows or Towers
        Towers to learn from, and towers for early stopping.
    seed : int
        Seed of all random draws.
    progress : callable, optional
        ``progress(done, total, text)``.
    state : path, optional
        File in which a model that takes long saves its progress, and from which a killed call resumes with the same
        result. Removed at the end.
    request : mapping, optional
        Everything that determines the result: a state of another request is refused.
    kept : int
        Bytes of training rows that may stay in RAM from pass to pass.
    weight : (N, targets) float, optional
        Weights of the training rows (`fluxcube.training.weights.flux_weights`).
    told : Told, optional
        Callbacks.

    Raises
    ------
    CheckpointError
        If the state's file is damaged.
    ConfigError
        If it is of another request, or a target is observed in no training hour.
    """
    start = load_growth(state, request) if state is not None and state.exists() else None
    if start is not None and progress:
        progress(
            start.rounds, max(start.rounds, 1), f"resumes after {len(start.done)} targets and {start.rounds} rounds"
        )
    if told is not None:
        told.start(None if start is None else {"targets": len(start.done), "rounds": start.rounds})
    val_rows = None if val is None else ModelRows(model, val)
    keep = None if state is None else lambda growth: save_growth(state, growth, request)
    train_rows = ModelRows(model, train, kept, weight)
    logged = model.learn(train_rows, val_rows, seed=seed, start=start, keep=keep, progress=progress)
    if state is not None:
        check_held(state)
        state.unlink(missing_ok=True)
    return logged


def row_weights(cube: xr.Dataset, source: SiteRows | Towers, names: Sequence[str], filled: float) -> np.ndarray | None:
    """Return the weights (N, targets) of the rows of some towers (`flux_weights`); None for equal weights.

    Parameters
    ----------
    cube : xr.Dataset
        Cube that the towers were read from.
    source : SiteRows or Towers
        Towers.
    names, filled
        As for `flux_weights`.
    """
    if not names:
        return None
    if isinstance(source, SiteRows):
        return flux_weights(cube, source.labels(), names, filled=filled)
    return flux_weights(cube, source, names, filled=filled)[np.isfinite(source.fluxes).any(1)]


def table(model: RowModel, towers: Towers | SiteRows) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (M, F) and targets (M, targets) of every time step with an observed flux."""
    return whole(ModelRows(model, towers, kept=0))


def save_growth(path: Path, growth: Growth, request: Mapping | None) -> None:
    """Write the progress of training: a line of JSON, then the trees; a kill leaves the last complete state."""
    blobs = [*growth.done, *([growth.trees] if growth.trees else [])]
    body = b"".join(blobs)
    about = {
        "request": request,
        "log": growth.log,
        "rounds": growth.rounds,
        "scores": growth.scores,
        "done": len(growth.done),
        "sizes": [len(blob) for blob in blobs],
    }
    content = json.dumps(about).encode() + b"\n" + body
    check_held(path)
    write_atomically(path, hashlib.sha256(content).digest() + content)


def load_growth(path: Path, request: Mapping | None) -> Growth:
    """Read what `save_growth` wrote.

    Raises
    ------
    CheckpointError
        If the file is damaged.
    ConfigError
        If it is of another request; the first settings that differ are named.
    """
    stored = path.read_bytes()
    content = stored[_HASH:]
    if hashlib.sha256(content).digest() != stored[:_HASH]:
        raise CheckpointError(f"{path} is damaged: train again with {overwrite_option()}.")
    head, _, body = content.partition(b"\n")
    try:
        about = parse_json(head, dict)
        if not about.keys() >= {"request", "log", "rounds", "scores", "done", "sizes"}:
            raise ValueError("it lacks entries")
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}): train again with {overwrite_option()}.") from error
    if named := differences(about["request"] or {}, request or {}):
        raise ConfigError(
            f"{path.parent} contains an unfinished run of other settings: {named}. "
            f"Pass {overwrite_option()} to replace it."
        )
    edges = np.cumsum([0, *about["sizes"]]).tolist()
    blobs = [body[a:b] for a, b in itertools.pairwise(edges)]
    done = about["done"]
    trees = blobs[done] if len(blobs) > done else None
    return Growth(tuple(blobs[:done]), about["log"], trees, about["rounds"], tuple(about["scores"]))


def _kept(fluxes: np.ndarray) -> np.ndarray:
    """Return the fluxes of the time steps that are rows."""
    return fluxes[np.isfinite(fluxes).any(1)]


def _pieces(model: RowModel, towers: Towers) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows and targets of every time step with an observed flux, some windows at a time."""
    series = towers.series
    observed = np.flatnonzero(towers.observed())
    place = np.searchsorted(series.start, observed, side="right") - 1
    stop = observed - series.start[place] + 1
    for at in range(0, len(observed), _CHUNK):
        part = slice(at, at + _CHUNK)
        windows = gather(series, place[part], stop[part], model.context)
        yield model.rows(Batch.of(windows)), towers.fluxes[observed[part]]
