"""Experiments: several models on the same folds, resumable, scored on one row mask.

A run and its predictions are kept under a name made of everything that decides them, so that what is finished is not
done again, and what several comparisons share is done once. `recipes/towers` and `recipes/ablations` hold settings.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError
from fluxcube.evaluation.hiding import hide_predictors
from fluxcube.evaluation.report import read_predictions, read_sums, write_predictions, write_sums
from fluxcube.evaluation.sums import Sums, site_sums
from fluxcube.inference.loading import load_model
from fluxcube.inference.towers import predict
from fluxcube.models import registry
from fluxcube.models.checkpoint import ENSEMBLE, RUN
from fluxcube.models.settings import from_known_keys
from fluxcube.resolution import (
    DEFAULT,
    HOURLY,
    Default,
    QualityLimit,
    Resolution,
    quality_limit,
    refuse_other_option,
    resolution_of,
)
from fluxcube.samples.quality import best_flags
from fluxcube.samples.splits import Split
from fluxcube.training.config import TrainingConfig
from fluxcube.training.fit import fit
from fluxcube.training.settings import changed, choose_config
from fluxcube.variables import COMPUTED

log = logging.getLogger(__name__)

#: Worst flag of a predictor, whatever flags of targets train.
_PREDICTOR_QC = 1
#: Settings that came later, and that a name holds only where they are set: earlier runs keep their names.
_ADDED = {"min_quality": None, "separately": False, "bag": 1.0}
#: Settings that decide predictions, but not what is trained.
_LATER = ("label", "stride", "hide", "hide_unit")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One model of an experiment: what it is given, how it is trained, and how it is asked.

    Attributes
    ----------
    label : str
        Its name in tables.
    model : str
        As `fluxcube.fit` takes it.
    target, predictors, static : tuple of str
        As `fluxcube.fit` takes them.
    memory_days : tuple of int
        As `fluxcube.fit` takes it.
    bands : tuple of str or None
        As `fluxcube.fit` takes it: () for no chips.
    preset : str or None
        Where `config` begins; by default the model's own.
    config, training : mapping
        Changes of the model's config and of `TrainingConfig`.
    train_igbp : str or None
        Train on this class alone.
    target_qc : int or None
        Of an hourly cube: maximum flag of the fluxes used for training, whatever that of the predictors; by default
        that of `fluxcube.fit`.
    search : int or None
        Draws of XGBoost's settings inside the training sites.
    seed : int
        Of the weights.
    seeds : int or None
        Members of an ensemble.
    stride : int or None
        Hours that one window gives.
    hide : float
        Share of the predictors' values that are hidden from the model when it is asked.
    hide_unit : {"variable", "token"}
        As `fluxcube.evaluation.hiding.hide_predictors` takes it.
    min_quality : float or None
        Of a daily cube: minimum quality of the fluxes used for training; by default that of `fluxcube.fit`.
    bag : float
        As `fluxcube.fit` takes it.
    separately : bool
        Train a model for each target, each with settings of its own where they are searched.
    """

    label: str
    model: str = "ecoperceiver"
    target: tuple[str, ...] = ("NEE",)
    predictors: tuple[str, ...] | None = None
    memory_days: tuple[int, ...] = ()
    static: tuple[str, ...] = ("igbp",)
    bands: tuple[str, ...] | None = ()
    preset: str | None = None
    config: Mapping = field(default_factory=dict)
    training: Mapping = field(default_factory=dict)
    train_igbp: str | None = None
    target_qc: int | None = None
    search: int | None = None
    seed: int = 0
    seeds: int | None = None
    stride: int | None = None
    hide: float = 0.0
    hide_unit: str = "variable"
    min_quality: float | None = None
    bag: float = 1.0
    separately: bool = False

    def __post_init__(self):
        registry.config_class(self.model)
        for name in ("target", "predictors", "memory_days", "static", "bands"):
            value = getattr(self, name)
            object.__setattr__(self, name, value if value is None else tuple(value))

    @classmethod
    def from_dict(cls, values: Mapping) -> Variant:
        """Make a variant of a mapping, refusing unknown keys (UnknownNameError)."""
        return from_known_keys(cls, values)

    def changed(self, changes: Mapping) -> Variant:
        """Return the variant with some settings changed; those of `config` and `training` are added to what is set."""
        merged = {key: {**getattr(self, key), **changes[key]} for key in ("config", "training") if key in changes}
        return self.from_dict(
            {**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}, **changes, **merged}
        )

    @property
    def parts(self) -> list[Variant]:
        """What is trained for it: itself, or itself for each target."""
        if not self.separately:
            return [self]
        return [self.changed({"separately": False, "target": [name]}) for name in self.target]

    def run_name(self, cube: xr.Dataset, split: Split) -> str:
        """Return a name of everything that decides the weights."""
        settings = {k: v for k, v in dataclasses.asdict(self).items() if k not in _LATER}
        settings = {k: v for k, v in settings.items() if k not in _ADDED or v != _ADDED[k]}
        sides = {"train": split.train, "val": split.val, "periods": split.to_dict()["periods"]}
        ends = [str(cube["time"].values[i]) for i in (0, -1)]
        return f"{self.model}-{_digest([settings, sides, ends, sorted(map(str, cube['site'].values))])}"

    def prediction_name(self, cube: xr.Dataset, split: Split, part: str) -> str:
        """Return a name of everything that decides the predictions."""
        asked = {name: getattr(self, name) for name in _LATER[1:]}
        return f"{self.run_name(cube, split)}-{part}-{_digest([asked, getattr(split, part)])}"


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=list).encode()).hexdigest()[:12]


def score_variants(
    cube: xr.Dataset,
    splits: Mapping[str, Split],
    variants: Sequence[Variant],
    out: str | Path,
    *,
    part: str = "test",
    igbp: str | None = None,
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
    say: Callable[[str], None] | None = None,
) -> Sums:
    """Train, predict and score variants on every fold, on rows common to all of them.

    Parameters
    ----------
    cube : xr.Dataset
        Towers.
    splits : mapping of str to Split
        By name of the fold.
    variants : sequence of Variant
        Of different labels.
    out : path
        Folder; gets ``runs/``, ``predictions/`` and ``sums/``. What is finished there is not done again.
    part : {"test", "val"}
        Sites to score. What is chosen by these scores must be chosen on "val".
    igbp : str, optional
        Score the sites of this class alone; folds without one are left out.
    max_qc : int, None or "default"
        Maximum flag of the hourly fluxes that are scored, by default 0 (measured).
    min_quality : float, None or "default"
        Minimum quality of the daily fluxes that are scored, by default 1 (whole days).
    say : callable, optional
        Gets a line for each step that is done.

    Returns
    -------
    Sums
        Of all folds; models by label.

    Raises
    ------
    ConfigError
        If two variants share a label, no fold has a site to score, or an option of the other resolution is passed.
    """
    resolution = resolution_of(cube)
    limit = quality_limit(resolution, max_qc, min_quality, default=resolution.measured)
    for variant in variants:
        _check_limits(resolution, variant)
    labels = [variant.label for variant in variants]
    if len(set(labels)) < len(labels):
        raise ConfigError(f"variants need different labels, found {', '.join(labels)}.")
    found = []
    for name, split in splits.items():
        kept = _of_class(cube, split, part, igbp)
        if kept:
            found.append(_fold_sums(cube, name, split, kept, variants, Path(out), part, limit, say or log.info))
    if not found:
        raise ConfigError(f"no fold has a {part} site{f' of {igbp}' if igbp else ''}.")
    return Sums.join(found, repeated=part == "val")


def _of_class(cube: xr.Dataset, split: Split, part: str, igbp: str | None) -> list[str]:
    classes = dict(zip(map(str, cube["site"].values), map(str, cube["igbp"].values), strict=True))
    return [site for site in getattr(split, part) if igbp is None or classes.get(site) == igbp]


def _fold_sums(cube, name, split, sites, variants, out, part, limit: QualityLimit, say) -> Sums:
    """Sums of one fold, read where they are kept."""
    names = [variant.prediction_name(cube, split, part) for variant in variants]
    rows = [] if limit.value == limit.resolution.measured else [limit.value]
    path = out / "sums" / f"{name}-{_digest([names, [v.label for v in variants], sites, *rows])}.csv"
    if path.exists():
        return read_sums(path)
    scored = split.part(cube, part).sel(site=sites)
    predictions = {v.label: predictions_of(cube, split, v, out, part=part, say=say) for v in variants}
    sums = site_sums(scored, {label: ds.sel(site=sites) for label, ds in predictions.items()}, **limit.to_dict())
    path.parent.mkdir(parents=True, exist_ok=True)
    say(f"{name}: scored on {int(next(iter(sums.moments.values())).n.max(initial=0))} rows of the longest site")
    write_sums(sums, path)
    return sums


def predictions_of(
    cube: xr.Dataset, split: Split, variant: Variant, out: str | Path, *, part: str = "test", say: Callable = log.info
) -> xr.Dataset:
    """Return a variant's predictions of a part's sites, trained and predicted only if they are not kept in `out`."""
    if variant.separately:
        made = [predictions_of(cube, split, one, out, part=part, say=say) for one in variant.parts]
        return xr.merge(made, join="exact", compat="override", combine_attrs="drop_conflicts")
    out = Path(out)
    path = out / "predictions" / f"{variant.prediction_name(cube, split, part)}.nc"
    if not path.exists():
        run = trained(cube, split, variant, out, say=say)
        asked = _for_variant(split.part(cube, part), variant)
        if variant.hide:
            asked = _hidden(asked, load_model(run).spec.predictors, variant)
        path.parent.mkdir(parents=True, exist_ok=True)
        made = predict(load_model(run), asked, stride=variant.stride, progress=_quiet)
        write_predictions(made, path)
        say(f"{split.kind}: {variant.label} predicted")
    return read_predictions(path)


def trained(cube: xr.Dataset, split: Split, variant: Variant, out: str | Path, *, say: Callable = log.info) -> Path:
    """Train a variant, going on with an unfinished run, unless its run is finished; return the run's folder.

    Raises
    ------
    ConfigError
        If the variant is of several runs (`Variant.parts`).
    """
    if variant.separately:
        raise ConfigError(f"{variant.label} is a run for each of its targets: train each of its parts.")
    _check_limits(resolution_of(cube), variant)
    folder = Path(out) / "runs" / variant.run_name(cube, split)
    if any((folder / mark).exists() for mark in (RUN, ENSEMBLE)):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    done = fit(
        _for_variant(cube, variant),
        model=variant.model,
        target=variant.target,
        out=folder,
        predictors=variant.predictors,
        memory_days=variant.memory_days,
        bands=variant.bands,
        static=variant.static,
        split=split,
        config=choose_config(variant.model, variant.preset, variant.config),
        training=changed(TrainingConfig(), variant.training),
        train_igbp=variant.train_igbp,
        search=variant.search,
        bag=variant.bag,
        seed=variant.seed,
        seeds=variant.seeds,
        **_limits(variant),
    )
    say(f"{split.kind}: {variant.label}: {done.summary}")
    return folder


def _limits(variant: Variant) -> dict:
    """Return the limit of quality for `fluxcube.fit`; the fluxes above `target_qc` are masked already."""
    passed = {} if variant.target_qc is None else {"max_qc": 3}
    return passed if variant.min_quality is None else passed | {"min_quality": variant.min_quality}


def _check_limits(resolution: Resolution, variant: Variant) -> None:
    """Refuse the limit of quality of the other resolution (ConfigError)."""
    if variant.target_qc is not None and resolution is not HOURLY:
        raise ConfigError(
            f"{variant.label}: target_qc={variant.target_qc!r} limits flags, and the cube is {resolution}: expected "
            "min_quality, the minimum share of a day; set it, or leave target_qc out."
        )
    if variant.min_quality is not None:
        refuse_other_option(resolution, {"min_quality": variant.min_quality})


def _for_variant(cube: xr.Dataset, variant: Variant) -> xr.Dataset:
    """The cube with the flags of targets that a variant trains on, predictors as for any other."""
    if variant.target_qc is None:
        return cube
    out = {}
    for name, worst in (("predictors", _PREDICTOR_QC), ("fluxes", variant.target_qc)):
        flags = cube[f"{name}_qc"]
        best = xr.DataArray(best_flags(cube), dims="site")
        good = xr.apply_ufunc(HOURLY.limit(worst).accepts, flags, best, dask="parallelized", output_dtypes=[bool])
        good = good.transpose(*flags.dims)
        out |= {name: cube[name].where(good), f"{name}_qc": flags.where(good, np.int8(-1))}
    return cube.assign(out)


def _hidden(cube: xr.Dataset, predictors: Sequence[str], variant: Variant) -> xr.Dataset:
    names = [n for n in predictors if n not in COMPUTED and n in cube["variable"].values]
    return hide_predictors(cube, variant.hide, names=names, unit=variant.hide_unit, seed=variant.seed)


def _quiet(done: int, total: int, text: str) -> None:
    """Take progress and show none: predictions are then computed at once, site by site."""
