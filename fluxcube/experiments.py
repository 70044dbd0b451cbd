"""Experiments: train several models on the same folds, resumably, and score them on a common row mask.

Runs and predictions are stored under names that are derived from all settings that affect them. Finished steps are not
repeated, and several comparisons share them. `recipes/towers` and `recipes/ablations` contain such settings.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.cubes.drivers import use_drivers
from fluxcube.errors import ConfigError
from fluxcube.evaluation.hiding import hide_predictors
from fluxcube.evaluation.report import read_predictions, read_sums, write_predictions, write_sums
from fluxcube.evaluation.rows import inputs_of
from fluxcube.evaluation.seeds import MemberSums, member_sums
from fluxcube.evaluation.sums import QualityOptions, Sums, site_sums
from fluxcube.inference.loading import load_model
from fluxcube.inference.towers import predict
from fluxcube.models import registry
from fluxcube.models.checkpoint import ENSEMBLE, RUN, read_about
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
from fluxcube.samples.features import FeatureSpec
from fluxcube.samples.quality import best_flags
from fluxcube.samples.splits import Split
from fluxcube.schema import TOWER
from fluxcube.stores.origin import check_origin, origin_of
from fluxcube.training.checks import BALANCED
from fluxcube.training.config import TrainingConfig
from fluxcube.training.digest import data_digest
from fluxcube.training.fit import fit
from fluxcube.training.run import Run
from fluxcube.training.settings import changed, choose_config
from fluxcube.variables import COMPUTED, predictors

_log = logging.getLogger(__name__)

#: Largest flag of the predictors used for training, whatever flags of the targets are used.
_PREDICTOR_QC = 1
#: Settings that were added later. They are part of a name only if they are set, so that earlier runs keep their names.
_ADDED: dict[str, object] = {"min_quality": None, "separately": False, "bag": 1.0, "bounds": "table"}
_ADDED |= {"surface": (), "lookahead": 0, "pixels": 64, "drivers": TOWER}
#: Settings that affect predictions, but not training.
_LATER = ("label", "stride", "hide", "hide_unit", "predict_drivers")
#: Attribute of predictions that contains the digest of the data that they were computed from.
_DATA = "data_digest"
_REMEDY = "Remove it, or pass another `out`."


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One model of an experiment: its inputs, how it is trained, and how it predicts.

    Attributes
    ----------
    label : str
        Name of the model in tables.
    model : str
        Model to train, as in `fluxcube.fit`.
    target, predictors, static : tuple of str
        Targets, predictors and static inputs, as in `fluxcube.fit`.
    memory_days : tuple of int
        Lengths (days) of the trailing means of the inputs, as in `fluxcube.fit`.
    bounds : str or None
        Bounds that scale the predictors, as in `fluxcube.fit`. Default: those of the model.
    bands : tuple of str or None
        Satellite bands, as in `fluxcube.fit`: () for none.
    preset : str or None
        Preset that `config` changes. Default: the default preset of the model.
    config, training : mapping
        Changes to the model's config and to `TrainingConfig`.
    train_igbp : str or None
        Train on the sites of this IGBP class only.
    target_qc : int or None
        Maximum flag of the hourly fluxes used for training, independent of the flags of predictors. None: the default
        of `fluxcube.fit`.
    search : int or None
        Number of random draws of XGBoost's settings, scored inside the training sites.
    seed : int
        Random seed of the weights.
    seeds : int or None
        Number of members of an ensemble.
    stride : int or None
        Number of time steps predicted by each window.
    hide : float
        Share of the predictors' values that are hidden from the model for prediction.
    hide_unit : {"variable", "token"}
        What is hidden at once, as in `fluxcube.evaluation.hiding.hide_predictors`.
    min_quality : float or None
        Minimum quality of the daily fluxes used for training. None: the default of `fluxcube.fit`.
    bag : float
        Share of the training towers that each member of an ensemble is trained on, as in `fluxcube.fit`.
    separately : bool
        Train one model for each target; a search then chooses settings for each target.
    surface : tuple of str or "default"
        Columns of the surface reflectance, as in `fluxcube.fit`; () for none.
    lookahead, pixels : int
        As in `fluxcube.fit`.
    drivers, predict_drivers : str, str or None
        Drivers to train and to predict with, as in `fluxcube.fit`. Default of the latter: those of the training.
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
    bounds: str | None = None
    surface: tuple[str, ...] | Default = ()
    lookahead: int = 0
    pixels: int = 64
    drivers: str = TOWER
    predict_drivers: str | None = None

    def __post_init__(self) -> None:
        registry.config_class(self.model)
        for name in ("target", "predictors", "memory_days", "static", "bands"):
            value = getattr(self, name)
            object.__setattr__(self, name, value if value is None else tuple(value))
        if self.surface != DEFAULT:
            object.__setattr__(self, "surface", tuple(self.surface))

    @classmethod
    def from_dict(cls, values: Mapping) -> Variant:
        """Return a variant from a mapping; unknown keys raise UnknownNameError."""
        return from_known_keys(cls, values)

    def changed(self, changes: Mapping) -> Variant:
        """Return the variant with some settings changed; `config` and `training` are merged with the present ones."""
        merged = {key: {**getattr(self, key), **changes[key]} for key in ("config", "training") if key in changes}
        return self.from_dict(
            {**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}, **changes, **merged}
        )

    @property
    def parts(self) -> list[Variant]:
        """Variants that are trained separately: the variant itself, or one for each target."""
        if not self.separately:
            return [self]
        return [self.changed({"separately": False, "target": [name]}) for name in self.target]

    def run_name(self, cube: xr.Dataset, split: Split) -> str:
        """Return a run name derived from everything that affects the weights."""
        settings = {k: v for k, v in dataclasses.asdict(self).items() if k not in _LATER}
        settings["bounds"] = self.bounds or registry.model_class(self.model).bounds
        settings = {k: v for k, v in settings.items() if k not in _ADDED or v != _ADDED[k]}
        if self._balanced(cube):  # runs of earlier versions have another loss, and are not taken for these
            settings["balance"] = "relative to the variance of NEE"
        sides = {"train": split.train, "val": split.val, "periods": split.to_dict()["periods"]}
        ends = [str(cube["time"].values[i]) for i in (0, -1)]
        return f"{self.model}-{_digest([settings, sides, ends, sorted(map(str, cube['site'].values))])}"

    def _balanced(self, cube: xr.Dataset) -> bool:
        """Return whether the carbon balance is part of the loss."""
        balance = self.training.get("balance")
        weight = resolution_of(cube).balance if balance is None else balance
        return bool(weight) and registry.by_descent(self.model) and set(BALANCED) <= set(self.target)

    def prediction_name(self, cube: xr.Dataset, split: Split, part: str) -> str:
        """Return a name derived from everything that affects the predictions."""
        settings = {name: getattr(self, name) for name in _LATER[1:]}
        if self.predict_drivers in (None, self.drivers):  # earlier predictions keep their names
            del settings["predict_drivers"]
        return f"{self.run_name(cube, split)}-{part}-{_digest([settings, getattr(split, part)])}"


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
    log: Callable[[str], object] | None = None,
) -> Sums:
    """Train variants, predict and score them on every fold, on the time steps that all of them predict.

    Parameters
    ----------
    cube : xr.Dataset
        Cube of towers.
    splits : mapping of str to Split
        Splits by name of the fold.
    variants : sequence of Variant
        Models to compare, with different labels.
    out : path
        Output folder for ``runs/``, ``predictions/`` and ``sums/``. Steps that are finished there are not repeated.
    part : {"test", "val"}
        Sites to score. Use "val" while any setting is chosen by these scores.
    igbp : str, optional
        Score the sites of this class only; folds without such a site are left out.
    max_qc : int, None or "default"
        Maximum flag of the hourly fluxes that are scored, by default 0 (measured).
    min_quality : float, None or "default"
        Minimum quality of the daily fluxes that are scored, by default 1 (whole days).
    log : callable, optional
        Called with one line of text for each finished step. Default: the log of this module.

    Returns
    -------
    Sums
        Sums of all folds; models by label.

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
        raise ConfigError(f"expected variants with different labels, found {', '.join(labels)}; rename some.")
    folds = []
    for name, split in splits.items():
        if sites := _of_class(cube, split, part, igbp):
            folds.append(_fold_sums(cube, name, split, sites, variants, Path(out), part, limit, log or _log.info))
    if not folds:
        raise ConfigError(f"no fold has a {part} site{f' of {igbp}' if igbp else ''}; choose another class or part.")
    return Sums.join(folds, repeated=part == "val")


def _of_class(cube: xr.Dataset, split: Split, part: str, igbp: str | None) -> list[str]:
    classes = dict(zip(map(str, cube["site"].values), map(str, cube["igbp"].values), strict=True))
    return [site for site in getattr(split, part) if igbp is None or classes.get(site) == igbp]


def _fold_sums(
    cube: xr.Dataset,
    name: str,
    split: Split,
    sites: Sequence[str],
    variants: Sequence[Variant],
    out: Path,
    part: str,
    limit: QualityLimit,
    log: Callable[[str], object],
) -> Sums:
    """Return the sums of one fold, read from their file if it exists."""
    names = [variant.prediction_name(cube, split, part) for variant in variants]
    quality = [] if limit.value == limit.resolution.measured else [limit.value]
    data = _digest_of_part(cube, split, part)
    path = out / "sums" / f"{name}-{_digest([names, [v.label for v in variants], sites, data, *quality])}.csv"
    if path.exists():
        sums = read_sums(path)
        check_origin(path, cube, inputs_of(sums.attrs).get("cube", {}))
        return sums
    scored = split.part(cube, part).sel(site=sites)
    predictions = {v.label: _predictions(cube, split, v, out, part, data, log) for v in variants}
    sums = site_sums(
        scored, {label: ds.sel(site=sites) for label, ds in predictions.items()}, **_quality_options(limit)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    steps = int(next(iter(sums.moments.values())).n.max(initial=0))
    log(f"{name}: scored, with {steps} time steps at the site that has most")
    write_sums(sums, path)
    return sums


def predictions_of(
    cube: xr.Dataset,
    split: Split,
    variant: Variant,
    out: str | Path,
    *,
    part: str = "test",
    log: Callable[[str], object] = _log.info,
) -> xr.Dataset:
    """Return the predictions of a variant at the sites of a part of a split.

    The model is trained, and predicts, only if the predictions are not in `out` yet.

    Raises
    ------
    ConfigError
        If the predictions in `out`, or their run, were computed from other data.
    """
    return _predictions(cube, split, variant, Path(out), part, _digest_of_part(cube, split, part), log)


def member_predictions(
    cube: xr.Dataset,
    split: Split,
    variant: Variant,
    out: str | Path,
    *,
    part: str = "test",
    log: Callable[[str], object] = _log.info,
) -> list[xr.Dataset]:
    """Return the predictions of each member of a variant, in the order of their seeds; of one model, a list of one.

    They are stored in `out` beside those of the ensemble. `fluxcube.evaluation.seeds` computes intervals from them.

    Raises
    ------
    ConfigError
        If the predictions in `out`, or their run, were computed from other data.
    """
    data = _digest_of_part(cube, split, part)
    members = range(variant.seed, variant.seed + variant.seeds) if variant.seeds else (None,)
    return [_predictions(cube, split, variant, Path(out), part, data, log, member) for member in members]


def score_members(
    cube: xr.Dataset,
    splits: Mapping[str, Split],
    variants: Sequence[Variant],
    out: str | Path,
    *,
    part: str = "test",
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
    log: Callable[[str], object] = _log.info,
) -> dict[str, MemberSums]:
    """Return the sums of every member of every variant on all folds, for `fluxcube.evaluation.seeds.seed_table`.

    The parameters are those of `score_variants`; sites must be in one fold only.

    Returns
    -------
    dict of str to MemberSums
        By flux.
    """
    limit = quality_limit(resolution_of(cube), max_qc, min_quality, default=resolution_of(cube).measured)
    folds: list[dict[str, MemberSums]] = []
    for split in splits.values():
        members = {v.label: member_predictions(cube, split, v, out, part=part, log=log) for v in variants}
        sites = list(getattr(split, part))
        several = {label: [one.sel(site=sites) for one in ones] for label, ones in members.items()}
        folds.append(member_sums(split.part(cube, part).sel(site=sites), several, **_quality_options(limit)))
    return {target: MemberSums.join([fold[target] for fold in folds]) for target in folds[0]}


def _predictions(
    cube: xr.Dataset,
    split: Split,
    variant: Variant,
    out: Path,
    part: str,
    data: str,
    log: Callable[[str], object],
    member: int | None = None,
) -> xr.Dataset:
    """Return the predictions of a variant, or of its member with a seed, for a part of which `data` is the digest."""
    if variant.separately:
        by_target = [_predictions(cube, split, one, out, part, data, log, member) for one in variant.parts]
        return xr.merge(by_target, join="exact", compat="override", combine_attrs="drop_conflicts")
    drivers = variant.predict_drivers or variant.drivers
    data = data if drivers == TOWER else _digest_of_part(use_drivers(cube, drivers), split, part)
    ending = "" if member is None else f"-seed-{member}"
    path = out / "predictions" / f"{variant.prediction_name(cube, split, part)}{ending}.nc"
    if not path.exists():
        run = trained(cube, split, variant, out, log=log) / ending.removeprefix("-")
        if member is None and variant.seeds and resolution_of(cube) == HOURLY:
            seeds = range(variant.seed, variant.seed + variant.seeds)
            ds = _mean_of([_predictions(cube, split, variant, out, part, data, log, seed) for seed in seeds], run)
        else:
            inputs = _for_variant(split.part(cube, part), variant, variant.predict_drivers)
            ds = _predicted(run, inputs, variant)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_predictions(ds.assign_attrs({_DATA: data}), path)
        log(f"{split.kind}: {variant.label} predicted{'' if member is None else f' by seed {member}'}")
    ds = read_predictions(path)
    if ds.attrs.get(_DATA, data) != data:  # earlier versions recorded none
        raise ConfigError(
            f"{path} was predicted from other data: the values of its towers in this cube differ. {_REMEDY}"
        )
    check_origin(path, cube, origin_of(ds.attrs, "cube"))
    return ds


def _predicted(run: Path, inputs: xr.Dataset, variant: Variant) -> xr.Dataset:
    """Return the predictions of a run, or of a member of one."""
    if variant.hide:
        present = [n for n in load_model(run).spec.predictors if n not in COMPUTED and n in inputs["variable"].values]
        inputs = hide_predictors(inputs, variant.hide, names=present, unit=variant.hide_unit, seed=variant.seed)
    return predict(load_model(run), inputs, stride=variant.stride, progress=_quiet)


def _mean_of(members: Sequence[xr.Dataset], run: Path) -> xr.Dataset:
    """Return the predictions of an ensemble from those of its members, which tables over seeds need as well.

    This holds for hourly fluxes, which no member derives from another one.
    """
    together = xr.concat(members, "member", join="exact", combine_attrs="override")
    mean = together.mean("member", skipna=False, keep_attrs=True)
    return mean.assign_attrs(ensemble_members=len(members), model_digest=load_model(run).digest)


def _digest_of_part(cube: xr.Dataset, split: Split, part: str) -> str:
    """Return a digest of the fluxes of a part's sites, and of a day of their predictors."""
    resolution = resolution_of(cube).name
    targets = tuple(map(str, cube["target"].values))
    names = tuple(n for n in map(str, cube["variable"].values) if n in predictors(resolution) and n not in targets)
    spec = FeatureSpec(predictors=names, targets=targets, resolution=resolution)
    return data_digest(split.part(cube, part), getattr(split, part), spec, sample=True)


def trained(
    cube: xr.Dataset, split: Split, variant: Variant, out: str | Path, *, log: Callable[[str], object] = _log.info
) -> Path:
    """Return the run folder of a variant; train it, or resume its training, if the run is not finished.

    Raises
    ------
    ConfigError
        If the variant consists of several runs (`Variant.parts`), or its run was trained on other data.
    """
    if variant.separately:
        raise ConfigError(f"{variant.label} has one run for each target: train each of its parts.")
    _check_limits(resolution_of(cube), variant)
    folder = Path(out) / "runs" / variant.run_name(cube, split)
    if any((folder / mark).exists() for mark in (RUN, ENSEMBLE)):
        _check_data(folder, cube, variant)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    train: Callable[..., Run] = fit
    if variant.min_quality is not None:
        train = functools.partial(fit, min_quality=variant.min_quality)
    run = train(
        _for_variant(cube, variant),
        model=variant.model,
        target=variant.target,
        out=folder,
        predictors=variant.predictors,
        memory_days=variant.memory_days,
        bands=variant.bands,
        static=variant.static,
        bounds=variant.bounds,
        surface=variant.surface,
        lookahead=variant.lookahead,
        pixels=variant.pixels,
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
    log(f"{split.kind}: {variant.label}: {run.summary}")
    return folder


def settings_table(
    cube: xr.Dataset, splits: Mapping[str, Split], variants: Sequence[Variant], out: str | Path, *, chosen_on: str
) -> pd.DataFrame:
    """Return the settings of finished runs, and on which towers they were chosen.

    Parameters
    ----------
    cube : xr.Dataset
        Cube that the runs were trained on.
    splits : mapping of str to Split
        Splits by name of the fold.
    variants : sequence of Variant
        Models.
    out : path
        Folder of the experiment.
    chosen_on : str
        The towers on whose scores the settings were chosen that no search determined.

    Returns
    -------
    pd.DataFrame
        A row per model, trained part and fold with columns model, targets, fold, training_towers, members, bag,
        weights, chosen_on, inner_nse and trees (of a search: the NSE of its best draw inside the training towers, and
        the number of trees), searched (draws), settings (JSON: those that the search chose, else the changes of the
        preset).
    """
    rows = []
    for variant in variants:
        for one in variant.parts:
            for fold, split in splits.items():
                about = read_about(trained(cube, split, one, out))
                rows.append({"model": variant.label, "fold": fold} | _settings_row(about, one, chosen_on))
    return pd.DataFrame(rows)


def _settings_row(about: Mapping, variant: Variant, chosen_on: str) -> dict[str, object]:
    """Return the settings of one run, from its description."""
    search, weigh = about.get("search") or {}, about.get("request", {}).get("training", {}).get("weigh")
    default = "the default of its kind" if registry.by_descent(variant.model) else "none"
    where = "a search inside the training towers of the fold" if search else chosen_on
    return {
        "targets": ", ".join(variant.target),
        "training_towers": len(about["split"]["train"]),
        "members": variant.seeds or 1,
        "bag": variant.bag,
        "weights": default if weigh is None else ", ".join(weigh) or "none",
        "chosen_on": where,
        "searched": variant.search,
        "inner_nse": search.get("nse"),
        "trees": ", ".join(map(str, search["trees"])) if search else None,
        "settings": json.dumps(search.get("settings") or {**variant.config, **variant.training}, default=list),
    }


def _check_data(folder: Path, cube: xr.Dataset, variant: Variant) -> None:
    """Refuse a finished run of the same settings, sites and hours, but of other values (ConfigError)."""
    about = read_about(folder)
    was = about.get("cube", {}).get("data_digest")  # earlier versions recorded none
    sites, spec = (*about["split"]["train"], *about["split"]["val"]), FeatureSpec.from_dict(about["features"])
    sample = not registry.by_descent(variant.model)
    if was and was != data_digest(_for_variant(cube, variant), sites, spec, sample=sample):
        raise ConfigError(
            f"{folder} was trained on other data: the values of its towers in this cube differ. {_REMEDY}"
        )
    check_origin(folder, cube, about.get("cube", {}))


def _quality_options(limit: QualityLimit) -> QualityOptions:
    """Return a limit of quality as the argument of `site_sums`."""
    if limit.resolution.lower_is_better:
        return {"max_qc": None if limit.value is None else int(limit.value)}
    return {"min_quality": limit.value}


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


def _for_variant(cube: xr.Dataset, variant: Variant, drivers: str | None = None) -> xr.Dataset:
    """Return the cube with some drivers, those of the training if None, masked by flags: targets by `target_qc`."""
    cube = use_drivers(cube, drivers or variant.drivers)
    if variant.target_qc is None:
        return cube
    out: dict[str, xr.DataArray] = {}
    for name, max_qc in (("predictors", _PREDICTOR_QC), ("fluxes", variant.target_qc)):
        flags = cube[f"{name}_qc"]
        best = xr.DataArray(best_flags(cube), dims="site")
        good = xr.apply_ufunc(HOURLY.limit(max_qc).accepts, flags, best, dask="parallelized", output_dtypes=[bool])
        good = good.transpose(*flags.dims)
        out |= {name: cube[name].where(good), f"{name}_qc": flags.where(good, np.int8(-1))}
    return cube.assign(out)


def _quiet(done: int, total: int, text: str) -> None:
    """Ignore progress. With a callback, predictions are computed at once, site by site."""
