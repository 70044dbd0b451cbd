"""Calibration of a trained run on predictions of held-out towers: an error model per target, stored in the run."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping

import dask
import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.cubes.selection import Cube, as_cube
from fluxcube.errors import ConfigError
from fluxcube.evaluation.sums import aligned_pairs
from fluxcube.inference.loading import OneModel, load_model
from fluxcube.inference.options import Uncertainty
from fluxcube.inference.predictor import Predictor
from fluxcube.inference.towers import predict
from fluxcube.models import checkpoint, shipped
from fluxcube.resolution import DEFAULT, Default, quality_limit, resolution_of
from fluxcube.samples.clusters import cluster_sites
from fluxcube.stores.bucket_lock import bucket_lock
from fluxcube.stores.download import downloaded
from fluxcube.stores.lock import writer_lock
from fluxcube.stores.origin import origin
from fluxcube.training.calibration import LEVEL, error_calibration

log = logging.getLogger(__name__)

#: Distance in km within which towers are in one cluster; clusters are held out together.
CLUSTER_KM = 50.0


def calibrate(
    run: OneModel,
    cube: Cube,
    predictions: xr.Dataset,
    *,
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
    out_of_fold: bool = False,
) -> dict[str, dict]:
    """Calibrate the standard deviations of a run on predictions of held-out towers, and store the result in the run.

    For each target an error model is fitted, ``NAME_std = floor + flux * |NAME| + spread * NAME_spread``, so that 80 %
    intervals contain 80 % of the measured values (`fluxcube.models.errormodel.ErrorModel`). Predictions with
    `uncertainty` then contain NAME_std.

    Parameters
    ----------
    run : path, Run or Predictor
        Run to calibrate: a single model, an ensemble or a stored mixed ensemble. It may have been trained on all
        towers, if `predictions` are of models of the same kind and settings that were not trained on the towers they
        predict.
    cube : xr.Dataset, path or URL
        Tower cube with the measured fluxes.
    predictions : xr.Dataset
        Predictions (site, time) of held-out towers, as `fluxcube.predict` returns them; for an ensemble with
        ``uncertainty="spread"``. Those of several folds are concatenated along site.
    max_qc, min_quality : int, float, None or "default"
        Quality of the fluxes that count, as `fluxcube.evaluate` takes them; by default measured values.
    out_of_fold : bool
        Confirm that the towers were held out from the models that predicted them, for predictions that do not record
        it (coordinate `in_training`).

    Returns
    -------
    dict
        For each target the error model, the numbers of hours, sites and clusters it was fitted on, the names of these
        "towers", and the coverage of
        the intervals: of all values, of each cluster with the error model of the others ("held_out"), and of each IGBP
        class (`fluxcube.training.calibration.error_calibration`).

    Raises
    ------
    ConfigError
        If predictions are of another kind of model, or of training towers, or it is not known whether they are; if an
        ensemble's predictions have no spread, or no target has enough measured values; if the run is in no folder of
        its own.
    SchemaError
        If cube and predictions have no flux, site or time step in common.

    Examples
    --------
    >>> import fluxcube as fc
    >>> folds = [fc.load_model(f"runs/eco-{k}") for k in range(1, 6)]  # doctest: +SKIP
    >>> parts = [fc.predict(m, m.split.part(cube, "test"), uncertainty="spread") for m in folds]  # doctest: +SKIP
    >>> fc.calibrate("runs/eco", cube, xr.concat(parts, "site"))  # doctest: +SKIP
    """
    cube = as_cube(cube)
    quality_limit(resolution_of(cube), max_qc, min_quality, default=None)  # refused before anything is read
    predictor = load_model(run)
    check_folder(predictor)
    names = tuple(name for name in predictor.spec.targets if name in predictions)
    if not names:
        raise ConfigError(
            f"the predictions contain no target of the run ({', '.join(predictor.spec.targets)}), found "
            f"{', '.join(map(str, predictions))}."
        )
    _check_kind(predictor, predictions)
    _check_held_out(predictor, predictions, out_of_fold)
    found, factors = {}, dict(zip(predictor.spec.targets, predictor.factors.tolist(), strict=True))
    for name in names:
        estimates = _estimates(predictor, predictions, name)
        if values := _of_target(cube, estimates, name, max_qc, min_quality):
            entry = (predictor.metadata.get("calibration") or {}).get(name, {})
            # What training found of a Gaussian head is kept: the error model counts on it, and so does a repetition.
            head = {"as_given": entry["as_given"]} if _has_calibrated_head(predictor, name) else {}
            found[name] = (
                values | ({"factor": factors[name], **head} if head or "std" in estimates else {}) | origin(cube)
            )
            log.info("%s: coverage of 80 %% intervals %s", name, values.get("held_out", values["calibrated"])["0.8"])
    if not found:
        raise ConfigError(
            f"{', '.join(names)}: too few measured values with a prediction to calibrate (20 are needed)."
        )
    store_calibration(predictor, found)
    return found


def check_folder(predictor: Predictor) -> None:
    """Refuse a model without a folder of its own, in which a calibration can be stored (ConfigError)."""
    if predictor.bucket is not None:
        return
    if predictor.path is None:
        raise ConfigError(
            "this model is in no folder that stores its calibration: pass a run, or use save_mixed first."
        )
    if shipped.is_shipped(predictor.path):
        raise ConfigError(f"{predictor.path.name} ships with the package: copy its folder, and calibrate the copy.")


def store_calibration(predictor: Predictor, found: Mapping[str, dict]) -> None:
    """Store a calibration in the run of a model, on a disk or in a bucket.

    Raises
    ------
    StoreError
        If another process is writing the run, or it cannot be written.
    """
    if predictor.bucket is None:
        assert predictor.path is not None
        with writer_lock(predictor.path):
            checkpoint.update_calibration(predictor.path, found)
        return
    names = (checkpoint.RUN, checkpoint.ENSEMBLE)
    with bucket_lock(predictor.bucket) as lock, downloaded(predictor.bucket, lambda name: name in names) as folder:
        checkpoint.update_calibration(folder, found)
        name = checkpoint.ENSEMBLE if checkpoint.is_ensemble(folder) else checkpoint.RUN
        lock.check()
        predictor.bucket.write(name, (folder / name).read_bytes())


def fold_predictor(run: OneModel) -> Predictor:
    """Return the model of a fold for `calibrate`: without an error model, which would replace its own NAME_std."""
    predictor = load_model(run)
    if not predictor.error_models:
        return predictor
    entries = {
        name: {key: value for key, value in entry.items() if key != "error_model"}
        for name, entry in (predictor.metadata.get("calibration") or {}).items()
    }
    return dataclasses.replace(
        predictor, metadata={**predictor.metadata, "calibration": entries}, path=None, bucket=None
    )


def predict_fold(
    predictor: Predictor, towers: xr.Dataset, progress: Callable | None = None, *, allow_missing: bool = False
) -> xr.Dataset:
    """Return the predictions of the model of a fold, with the measures of uncertainty that `calibrate` uses.

    Parameters
    ----------
    predictor : Predictor
        As `fold_predictor` returns it.
    towers : xr.Dataset
        Cube of its test towers.
    progress : callable, optional
        ``progress(done, total, text)``, per site.
    allow_missing : bool
        Whether inputs of the model may be absent from the cube (`fluxcube.predict`).
    """
    kind: Uncertainty = "spread" if "spread" in predictor.quantities else False
    if "std" in predictor.quantities and predictor.calibrated:
        kind = True
    return predict(predictor, towers, uncertainty=kind, allow_missing=allow_missing, progress=progress)


def _check_kind(predictor: Predictor, predictions: xr.Dataset) -> None:
    """Refuse predictions of another kind of model than the run, whose errors differ (ConfigError)."""
    own = str(predictor.metadata.get("kind", type(predictor.model).__name__))
    found = str(predictions.attrs.get("model", own))
    if found != own:
        raise ConfigError(
            f"expected predictions of the kind of the run, {own}, found those of {found}, whose errors differ: predict "
            "the held-out towers by models of the same kind and settings, such as the run's own folds."
        )


def _check_held_out(predictor: Predictor, predictions: xr.Dataset, out_of_fold: bool) -> None:
    """Refuse predictions of training towers, and those that do not record whether they are (ConfigError)."""
    if "site" not in predictions.coords:
        raise ConfigError("predictions must have the coordinate site, since they are compared with towers; found none.")
    sites = np.array([str(site) for site in predictions["site"].values])
    if "in_training" in predictions.coords:
        trained = sites[predictions["in_training"].values.astype(bool)]
        why = "of towers that the model which predicted them was trained on"
    elif out_of_fold:
        return
    else:
        trained = sites[np.isin(sites, list(predictor.metadata.get("training_sites") or ()))]
        why = "without the coordinate in_training, of towers that this run was trained on"
    if len(trained):
        some = ", ".join(trained[:5]) + (" ..." if len(trained) > 5 else "")
        raise ConfigError(
            f"predictions {why} ({some}; {len(trained)} towers): their errors are smaller than those at new places. "
            "Predict each tower by a model that was not trained on it, such as those of the other folds"
            + ("." if "in_training" in predictions.coords else ", and pass out_of_fold=True if that is so.")
        )


def _estimates(predictor: Predictor, predictions: xr.Dataset, name: str) -> dict[str, xr.DataArray]:
    """Return the predictions from which the error of a target is estimated.

    They are its mean, the spread of an ensemble, and NAME_std of a Gaussian head that was calibrated in training.
    """
    estimates = {"mean": predictions[name]}
    if "spread" in predictor.quantities:
        if f"{name}_spread" not in predictions:
            raise ConfigError(
                f"predictions of {name} lack {name}_spread, which this ensemble has: predict with "
                'uncertainty="spread", by ensembles of the same number of members.'
            )
        estimates["spread"] = predictions[f"{name}_spread"]
    if _has_calibrated_head(predictor, name) and f"{name}_std" in predictions:
        estimates["std"] = predictions[f"{name}_std"]
    return estimates


def _has_calibrated_head(predictor: Predictor, name: str) -> bool:
    """Return whether the model has a Gaussian head whose standard deviation of a target was calibrated in training."""
    member = predictor.model.members[0] if predictor.model.members else predictor.model
    entry = (predictor.metadata.get("calibration") or {}).get(name, {})
    return "std" in predictor.quantities and "std" in member.quantities and "as_given" in entry


def _of_target(
    cube: xr.Dataset,
    estimates: Mapping[str, xr.DataArray],
    name: str,
    max_qc: int | Default | None,
    min_quality: float | Default | None,
) -> dict:
    """Return the calibration of one target; {} if there are too few measured values."""
    named = {kind: array.to_dataset(name=name) for kind, array in estimates.items()}
    pairs, places, _, _ = aligned_pairs(cube, named, qc=None, max_qc=max_qc, min_quality=min_quality)
    loaded = dask.compute(*(array.data for array in pairs[name]))  # a lazy cube is read once
    seen = np.logical_and.reduce([np.isfinite(array) for array in loaded])
    obs, *values = (array[seen].astype(np.float64) for array in loaded)
    place, site = places[name], np.nonzero(seen)[0]
    cluster = cluster_sites(place["latitude"].values, place["longitude"].values, CLUSTER_KM)
    igbp = np.array([str(code) for code in place["igbp"].values]) if "igbp" in place else np.full(len(cluster), "")
    arrays = dict(zip(estimates, values, strict=True))
    found = error_calibration(obs - arrays["mean"], arrays, site, cluster[site], igbp[site])
    return found | ({"towers": [str(place["site"].values[i]) for i in np.unique(site)]} if found else {})


def coverage_table(calibration: Mapping[str, Mapping]) -> pd.DataFrame:
    """Return the coverage of 80 % intervals: one row for each target and class, and "all" for every class.

    Parameters
    ----------
    calibration : mapping
        As `calibrate` returns it.

    Returns
    -------
    pandas.DataFrame
        Columns ``target``, ``class``, ``hours``, ``sites`` and ``coverage of 80 % intervals (%)``.
    """
    key, lines = f"{LEVEL:g}", []
    for name, found in calibration.items():
        whole = found.get("held_out", found["calibrated"])
        rows = {"all": {"hours": found["hours"], "sites": found["sites"], key: whole[key]}}
        for label, row in (rows | found["by_class"]).items():
            lines.append((name, label, row["hours"], row["sites"], 100 * row[key]))
    return pd.DataFrame(lines, columns=["target", "class", "hours", "sites", "coverage of 80 % intervals (%)"])
