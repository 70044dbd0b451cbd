"""Baselines: train and predict the ladder of simple models that any model of fluxes has to be compared with.

The rungs, from the mean to trees, are those of PLUMBER (Best et al. 2015, doi:10.1175/JHM-D-14-0158.1; Abramowitz et
al. 2024, doi:10.5194/bg-21-5517-2024) and the mean cycle of each class. All of them learn from one reading of the
towers.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, unknown
from fluxcube.inference.loading import load_model
from fluxcube.inference.towers import predict
from fluxcube.models.checkpoint import RUN, read_about
from fluxcube.resolution import (
    DEFAULT,
    Default,
    QualityLimit,
    quality_limit,
    resolution_of,
)
from fluxcube.samples.splits import Split, split_for
from fluxcube.samples.towers import accepted_predictors, site_years
from fluxcube.schema import validate_cube
from fluxcube.training.config import TrainingConfig
from fluxcube.training.plan import Plan, make_plan
from fluxcube.training.request import FitRequest
from fluxcube.training.run import Run, differences
from fluxcube.training.single import Data, train_one

_log = logging.getLogger(__name__)

#: Inputs of the baselines. Each baseline uses some of them, and trees use all.
_INPUTS = {
    "hourly": ("DOY", "TOD", "TA", "SW_IN", "VPD", "SW_IN_POT"),
    "daily": ("DOY", "TA", "SW_IN", "VPD", "SW_IN_POT"),
}
#: Latitude is used by the mean cycle alone, to shift the months of the southern hemisphere.
_STATIC = ("latitude", "igbp")
#: Number of sites whose inputs are in RAM at once for predictions.
_SITES = 16


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """One rung of the ladder.

    Attributes
    ----------
    label : str
        Name in tables.
    model : str
        Model, as in `fluxcube.fit`.
    needs : tuple of str
        Predictors that it cannot do without.
    config : mapping
        Settings of the model that differ from its default.
    """

    label: str
    model: str
    needs: tuple[str, ...] = ()
    config: Mapping = field(default_factory=dict)


#: The ladder, lowest rung first.
LADDER = (
    Baseline(label="mean", model="mean"),
    Baseline(label="line of SW_IN", model="sw-linear", needs=("SW_IN",)),
    Baseline(label="mean cycle of the class", model="mean-cycle", config={"latitude": _STATIC.index("latitude")}),
    Baseline(label="regression on TA, SW_IN and VPD", model="met-regression", needs=("TA", "SW_IN", "VPD")),
    Baseline(label="27 clusters of weather", model="met-clusters", needs=("TA", "SW_IN", "VPD")),
    Baseline(
        label="XGBoost of that step",
        model="xgboost",
        config={"n_estimators": 200, "max_depth": 6, "min_child_weight": 20, "max_rows": 200_000},
    ),
)


def fit_baselines(
    cube: xr.Dataset,
    split: Split | str | os.PathLike,
    targets: str | Sequence[str] = "NEE",
    out: str | os.PathLike = "baselines",
    *,
    models: Iterable[str] | None = None,
    seed: int = 0,
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Run]:
    """Train the baselines on the training towers of a split, from one reading of the towers.

    Parameters
    ----------
    cube : xr.Dataset
        Tower cube, hourly or daily.
    split : Split, str or path
        Split, as `fluxcube.fit` takes it.
    targets : str or sequence of str
        Fluxes.
    out : path
        Folder with a run folder for each baseline. Finished runs of the same settings and data are used again.
    models : iterable of str, optional
        Models of `LADDER` to train ("mean", "sw-linear", "mean-cycle", "met-regression", "met-clusters", "xgboost");
        by default all whose predictors the cube has. Those left out are logged.
    seed : int
        Seed of the clusters and of the trees.
    max_qc, min_quality : optional
        Quality of the fluxes that are learnt from, as `fluxcube.fit` takes it.
    progress : callable, optional
        ``progress(done, total, text)``.

    Returns
    -------
    dict of str to Run
        Runs by label, lowest rung first; for `predict_baselines` or `fluxcube.load_model`. While they are trained, the
        inputs of all training towers are in RAM: 4 bytes per time step and input, 800 MB for 27 million hours.

    Raises
    ------
    ConfigError
        If a finished run in `out` has other settings or data, or no baseline can be trained.
    UnknownNameError
        If there is no such baseline or target.

    Examples
    --------
    >>> import tempfile
    >>> from fluxcube.simulation.example import example_cube
    >>> cube, out = example_cube(sites=4), tempfile.mkdtemp()
    >>> split = Split(train=("XX-S00", "XX-S01"), test=("XX-S02", "XX-S03"))
    >>> runs = fit_baselines(cube, split, out=out, models=["mean", "sw-linear"])
    >>> list(runs), sorted(predict_baselines(runs, cube, split.test)["mean"])
    (['mean', 'line of SW_IN'], ['NEE'])
    """
    cube, resolution = validate_cube(cube), resolution_of(cube)
    split = split if isinstance(split, Split) else split_for(cube, split, seed=seed)
    limit = quality_limit(resolution, max_qc, min_quality, default=resolution.training_limit)
    names = (targets,) if isinstance(targets, str) else tuple(targets)
    split.check([str(site) for site in cube["site"].values])
    lean = _lean(cube, names, split, limit)
    present = set(map(str, lean["variable"].values))
    plans = {rung.label: _plan(lean, rung, names, split, limit, seed) for rung in _chosen(models, present)}
    folder, data, runs = Path(out), None, {}
    for label, plan in plans.items():
        data = Data(plan, progress, shared=True) if data is None else data.of(plan)
        runs[label] = _trained(data, folder / plan.model, seed, progress)
        _log.info("%s: %s", label, runs[label].summary)
    return runs


def predict_baselines(
    runs: Mapping[str, Run | str | os.PathLike], cube: xr.Dataset, sites: Sequence[str] | None = None
) -> dict[str, xr.Dataset]:
    """Predict towers with several baselines, from one reading of the towers.

    Parameters
    ----------
    runs : mapping of str to Run or path
        Runs by label, as `fit_baselines` returns them; other models of the same inputs may be among them.
    cube : xr.Dataset
        Tower cube.
    sites : sequence of str, optional
        Sites to predict; by default all of the cube.

    Returns
    -------
    dict of str to xr.Dataset
        Predictions by label, in RAM, as `fluxcube.predict` returns them; for `fluxcube.compare`.
    """
    cube = cube if sites is None else cube.sel(site=list(sites))
    models = {label: load_model(run) for label, run in runs.items()}
    needed = {name for model in models.values() for name in model.spec.predictors}
    present = [str(name) for name in cube["variable"].values if str(name) in needed]
    parts: dict[str, list[xr.Dataset]] = {label: [] for label in models}
    for at in range(0, cube.sizes["site"], _SITES):
        batch = cube.isel(site=slice(at, at + _SITES)).sel(variable=present)
        arrays = [name for name in ("predictors", "predictors_qc", "predictors_quality") if name in batch]
        batch = batch.assign({name: batch[name].load() for name in arrays})
        for label, model in models.items():
            parts[label].append(predict(model, batch))
    return {
        label: xr.concat(several, "site", join="exact", combine_attrs="override", data_vars="minimal")
        for label, several in parts.items()
    }


def _chosen(models: Iterable[str] | None, present: set[str]) -> list[Baseline]:
    """Return the requested rungs, or all whose predictors are present."""
    known = {rung.model: rung for rung in LADDER}
    if models is not None:
        if unknowns := [name for name in models if name not in known]:
            raise unknown("baseline", unknowns[0], known)
        return [rung for rung in LADDER if rung.model in set(models)]
    lacking = {rung.label: [name for name in rung.needs if name not in present] for rung in LADDER}
    for label, names in lacking.items():
        if names:
            _log.warning("%s: left out, the training towers have no %s", label, " and no ".join(names))
    return [rung for rung in LADDER if not lacking[rung.label]]


def _lean(cube: xr.Dataset, targets: Sequence[str], split: Split, limit: QualityLimit) -> xr.Dataset:
    """Return the part of a cube that baselines use: inputs that any training site has, targets and their quality."""
    if unknowns := [name for name in targets if name not in cube["target"].values]:
        raise unknown("target of the cube", unknowns[0], cube["target"].values)
    quality = resolution_of(cube).quality
    arrays = [f"{stack}{ending}" for stack in ("predictors", "fluxes") for ending in ("", quality)]
    names = [name for name in _INPUTS[resolution_of(cube).name] if name in cube["variable"].values]
    lean = cube[arrays].sel(variable=names, target=list(targets))
    missing = list(names)
    for site in split.train:
        one = site_years(lean[arrays[:2]], site).sel(variable=missing)
        has = accepted_predictors(one, limit).any((0, 1))
        missing = [name for name, any_value in zip(missing, np.atleast_1d(has), strict=True) if not any_value]
        if not missing:
            break
    return lean.sel(variable=[name for name in names if name not in missing])


def _plan(
    cube: xr.Dataset,
    rung: Baseline,
    targets: tuple[str, ...],
    split: Split,
    limit: QualityLimit,
    seed: int,
) -> Plan:
    """Return the plan of one rung; the features of all rungs are the same."""
    request = FitRequest(
        model=rung.model,
        limit=limit,
        target=targets,
        predictors=tuple(map(str, cube["variable"].values)),
        static=_STATIC,
        bands=(),
        surface=(),
        images=(),
        split=split,
        config=dict(rung.config) or None,
        training=TrainingConfig(),
        seed=seed,
    )
    plan = make_plan(cube, request)
    # Models fill the pixels of chips differently; without chips the features are the same, and can be shared.
    return dataclasses.replace(plan, spec=dataclasses.replace(plan.spec, fill_chips=True))


def _trained(data: Data, folder: Path, seed: int, progress: Callable | None) -> Run:
    """Return the run in a folder if it is of the same settings and data; train it otherwise."""
    if not (folder / RUN).exists():
        return train_one(data, seed, folder, overwrite=False, resume=True, progress=progress)
    about = read_about(folder)
    named = differences(about["request"], data.plan.request(seed))
    if not named and about["cube"]["data_digest"] != data.digest:
        named = "the values of its towers in this cube are others"
    if named:
        raise ConfigError(f"{folder} contains another run: {named}. Remove it, or pass another `out`.")
    return Run(folder, data.plan.split, summary="finished before")
