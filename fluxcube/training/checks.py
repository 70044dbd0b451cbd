"""Checks of a fit against its cube, before towers are read."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, SplitError, missing_package, to_type, unknown
from fluxcube.models import registry
from fluxcube.models.treedevice import xgboost_package
from fluxcube.resolution import DAILY, QualityLimit, check_resolution, resolution_of
from fluxcube.samples.features import CHIP_PIXELS
from fluxcube.samples.splits import Split
from fluxcube.samples.towers import WORDS, accepted_predictors, good_fluxes, site_years
from fluxcube.schema import SURFACE_DIMS
from fluxcube.training.config import TrainingConfig

log = logging.getLogger(__name__)

#: NEE = RECO - GPP holds for these, and not for the day-time partitioning.
BALANCED = ("NEE", "GPP_NT", "RECO_NT")


def check_model(cube: xr.Dataset, model: str) -> None:
    """Refuse a cube of a resolution that the model does not work on (ConfigError)."""
    resolutions = registry.find(model).resolutions
    if resolution_of(cube).name not in resolutions:
        check_resolution(cube, resolutions[0], f"the model {model}")


def check_names(
    cube: xr.Dataset,
    targets: Sequence[str],
    predictors: Sequence[str] | None,
    bands: Sequence[str] | None,
    pixels: int = CHIP_PIXELS,
) -> None:
    """Refuse names that the cube lacks (UnknownNameError), or that are both predictor and target (ConfigError)."""
    for name in targets:
        if name not in cube["target"].values:
            raise unknown("target of the cube", name, cube["target"].values)
    for name in predictors or ():
        if name in targets:
            raise ConfigError(f"{name}: a variable cannot be predictor and target of one model; drop one.")
        if name not in cube["variable"].values:
            raise unknown("predictor of the cube", name, (*cube["variable"].values, *WORDS))
    array, dim = ("modis", "band") if pixels == CHIP_PIXELS else ("surface", SURFACE_DIMS[resolution_of(cube).name][1])
    for name in bands or () if array in cube else ():
        if name not in cube[array][dim].values:
            raise unknown("band of the cube", name, cube[array][dim].values)


def check_training(cube: xr.Dataset, model: str, training: TrainingConfig, targets: Sequence[str]) -> None:
    """Refuse settings of training that the cube, the targets or this installation do not support.

    Raises
    ------
    ConfigError
        If the cube or the targets lack what a part of the loss needs.
    MissingPackageError
        If TensorBoard is requested and not installed.
    """
    if training.weight_by_randunc and "fluxes_randunc" not in cube:
        raise ConfigError("weight_by_randunc needs the random uncertainty of the fluxes, which this cube lacks.")
    if training.filled_weight is not None and resolution_of(cube) is DAILY:
        raise ConfigError(
            f"filled_weight={training.filled_weight} is the weight of gap-filled hours, and the cube is daily: leave "
            "it out; the weight of a day is its measured or well filled share."
        )
    if model == "xgboost":
        xgboost_package()
    if not registry.by_descent(model):
        return
    if training.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise missing_package("tensorboard", "log", "tensorboard=True")
    if training.balance and (missing := [name for name in BALANCED if name not in targets]):
        raise ConfigError(
            f"balance needs the targets {', '.join(BALANCED)}, {', '.join(missing)} is no target: add it, or set "
            "balance=0."
        )


def check_sides(
    cube: xr.Dataset, split: Split, targets: Sequence[str], limit: QualityLimit, model: str, training: TrainingConfig
) -> None:
    """Refuse a split without towers to train on or, if they are needed, to validate on.

    Raises
    ------
    ConfigError
        If a target is observed at no training site.
    SplitError
        If validation is needed and has no measured flux.
    """
    if missing := never_observed(cube, split, "train", targets, limit):
        raise ConfigError(
            f"{', '.join(missing)}: observed in no {limit.resolution.noun} of the training sites; choose another "
            "target."
        )
    measured = limit.resolution.limit(limit.resolution.measured)
    if registry.by_descent(model) and training.val_quality == "training":
        measured = limit
    if split.val and len(never_observed(cube, split, "val", targets, measured)) < len(targets):
        return
    found = (
        f"none of its {len(split.val)} validation sites has a measured {' or '.join(targets)}"
        if split.val
        else "it has no validation sites"
    )
    if registry.by_descent(model) and (training.keep == "best" or training.patience):
        needs = "patience" if training.patience else "keep='best'"
        last = to_type(python="TrainingConfig(keep='last')", shell="--set training.keep=last")
        raise SplitError(
            f"the split leaves a side empty: {found}, which {needs} needs: pass a split that has some, or "
            f"{last} without patience."
        )
    log.warning("the split leaves a side empty: %s, so that nothing is validated", found)


def check_predictors(
    cube: xr.Dataset, sites: Sequence[str], predictors: Sequence[str], limit: QualityLimit, *, further: bool
) -> None:
    """Refuse predictors that no training site has (ConfigError); those of a checkpoint trained `further` are logged."""
    missing = list(predictors)
    for site in sites:
        one = site_years(cube, site).sel(variable=missing)
        good = accepted_predictors(one, limit)
        missing = [
            name for name, any_good in zip(missing, np.atleast_1d(good.any((0, 1))), strict=True) if not any_good
        ]
        if not missing:
            return
    flagged = "" if limit.predictor_flag is None else f" of flag {limit.predictor_flag} or better"
    named = f"{', '.join(missing)}: no training site has a value{flagged}"
    if not further:
        raise ConfigError(f"{named}; leave it out, or pass {_typed_grid()} for those of a grid that the towers have.")
    log.warning("%s: the checkpoint's weights for it are not trained further", named)


def _typed_grid() -> str:
    return to_type(python="predictors='grid'", shell="--predictors grid")


def never_observed(
    cube: xr.Dataset,
    split: Split,
    part: str,
    targets: Sequence[str],
    limit: QualityLimit,
    sites: Sequence[str] | None = None,
) -> list[str]:
    """Return the targets that none of the sites of a part has; sites are read until all targets are found."""
    missing = list(targets)
    cube = split.part(cube, part) if split.periods.get(part) else cube  # a selection of a cube in RAM is a copy
    for site in sites or getattr(split, part):
        good = np.isfinite(good_fluxes(site_years(cube, site), missing, limit))
        missing = [name for name, any_good in zip(missing, good.any(0), strict=True) if not any_good]
        if not missing:
            break
    return missing
