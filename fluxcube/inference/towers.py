"""Predictions at towers, site by site."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from fluxcube.cubes.drivers import use_drivers
from fluxcube.cubes.own import with_supplied
from fluxcube.cubes.selection import Cube, as_cube
from fluxcube.errors import ConfigError
from fluxcube.inference.checks import check_absent, check_product, check_static_units, note_timing
from fluxcube.inference.embedding import check_support_years
from fluxcube.inference.loading import AnyModel, as_predictor, load_reference
from fluxcube.inference.options import PredictionOptions, Uncertainty
from fluxcube.inference.outputs import (
    CALIBRATION_SITES,
    absent_inputs,
    as_fluxes,
    check_calibrated,
    computed_by,
    flux_names,
    known_applicability,
    log_masked,
    masked_inputs,
    provenance,
    trained_drivers,
)
from fluxcube.inference.predictor import Predictor, Reference
from fluxcube.resolution import check_resolution
from fluxcube.samples.features import cube_block
from fluxcube.schema import DRIVERS_MISSING, DRIVERS_SOURCE, TOWER, USED_DRIVERS, check_units, validate_cube
from fluxcube.stores.origin import named, origin

if TYPE_CHECKING:
    import dask.array as da

log = logging.getLogger(__name__)


def predict(
    model: AnyModel,
    cube: Cube,
    *,
    stride: int | None = None,
    min_context: int | None = None,
    precision: str | None = None,
    uncertainty: Uncertainty = False,
    applicability: bool | None = False,
    allow_missing: bool = False,
    allow_other_product: bool = False,
    drivers: str | None = None,
    device: str | None = None,
    deterministic: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> xr.Dataset:
    """Predict the fluxes of towers, the same way as maps.

    Parameters
    ----------
    model : Predictor, path or Run, or a sequence of these
        A trained model; several are mixed with equal weights (`fluxcube.load_model`).
    cube : xr.Dataset, path or URL
        A tower cube or a selection of it. Windows and trailing means begin at its first time step: select some time
        before the period of interest, too, or no period.
    stride : int, optional
        Number of time steps that one window emits; see `Predictor.stride_or_default`.
    min_context : int, optional
        Predict the first time steps of a record, too, whose window would begin before it, if the record has this number
        of steps up to each, its own included; by default they are missing.
    precision : {"float32", "tf32", "bfloat16"}, optional
        Precision of a network's matrix products; float32 by default. Others are compared with float32 on a part of the
        first tower: the attribute `precision_error` of a computed result is the root mean square difference of the
        worst flux, in standard deviations of the training fluxes; it is warned of above 0.05.
    uncertainty : bool, "std" or "spread"
        Whether to return NAME_std as well, the calibrated standard deviation of the error of each target; and
        NAME_spread, the standard deviation between the members of an ensemble, which is not the error. NAME_std exists
        only for targets whose standard deviation was calibrated, on validation towers by `fluxcube.fit` or on
        predictions of held-out towers by `fluxcube.calibrate`; "std" refuses a model in which nothing calibrated it.
        The attribute `calibration_sites` of NAME_std lists these towers.
        Neither exists for a derived RECO, since the correlation between the errors of NEE and GPP is unknown.
    applicability : bool, optional
        Whether to return `dissimilarity` and `applicable`, as `fluxcube.upscale` does; None is if the model can.
    allow_missing : bool
        Whether predictors, surface reflectance, images or static inputs that the model was trained on may be absent
        from the cube; they are then treated as missing, as `fluxcube.upscale` treats them. Values that are missing at
        some or all towers are no reason for a refusal.
    allow_other_product : bool
        Whether the reflectance of the cube may be of another satellite product than the model was trained on.
    drivers : str, optional
        Drivers to predict with: "tower", or a source that the cube has, such as "era5" (`fluxcube.add_drivers`); by
        default those that the cube was opened with. They may be others than those of the training: this is logged, and
        the attributes ``drivers`` and ``trained_drivers`` of the result record both. Predictors of the model that the
        drivers lack are missing; they are logged, and named in the attribute ``drivers_missing``.
    device : str, optional
        Device that computes, as `fluxcube.load_model` takes it; by default that of a model that is loaded already, else
        "auto". The attribute `device` is its name in this process.
    deterministic : bool
        Whether only algorithms that repeat their results bit by bit are used on a GPU.
    progress : callable, optional
        ``progress(done, total, text)``, per site.

    Returns
    -------
    xr.Dataset
        One float32 variable (site, time) per flux, in the units of the variable table, with the cube's
        coordinates on site; NaN outside a site's record, where the window begins before it, and in time steps
        without an observed predictor. RECO is NEE + GPP_NT (attribute `derived`) where the model has no head for
        it, clipped at zero in daily predictions; without GPP_NT there is none, and the attribute `RECO_absent` of the
        Dataset reports why. The coordinate `in_training` (site) is True where the model was trained on the tower.
        Lazy, one chunk per site, if the cube is lazy and `progress` is None; computed otherwise.

    Raises
    ------
    SchemaError
        If `cube` is not a tower cube.
    ConfigError
        If the cube lacks inputs of the model (all predictors, or any input without `allow_missing`), has another clock
        or another resolution than the model was trained on, predictors in other units than the variable table's, or
        reflectance of another satellite product (without `allow_other_product`); if the model does not estimate its
        error; if there is no such device.
    DeviceError
        If a GPU fails, or its memory is too small for one window.

    Examples
    --------
    >>> import tempfile
    >>> import fluxcube as fc
    >>> from fluxcube.simulation.example import example_cube
    >>> cube = example_cube(sites=12, days=6)
    >>> run = fc.fit(cube, model="sw-linear", out=tempfile.mkdtemp())
    >>> predicted = predict(run, cube.sel(site=list(run.split.test)))
    >>> predicted.NEE.dims, predicted.NEE.attrs["units"], bool(predicted.in_training.any())
    (('site', 'time'), 'umol m-2 s-1', False)
    """
    cube = as_cube(cube)
    predictor = as_predictor(model, device)
    validate_cube(cube)
    source = named(origin(cube), "cube")
    cube = cube if drivers is None else use_drivers(cube, drivers)
    check_resolution(cube, predictor.resolution, "this model")
    cube = with_supplied(cube, (*predictor.spec.predictors, *predictor.spec.static))
    check_units(cube[["predictors"]])
    check_static_units(predictor.spec, cube)
    _check_clock(cube, predictor)
    note_timing(predictor, cube)
    options = predictor.options(
        stride=stride,
        min_context=min_context,
        precision=precision,
        uncertainty=uncertainty,
        applicability=known_applicability(predictor, applicability),
        deterministic=deterministic,
    )
    names = flux_names(predictor)
    check_calibrated(predictor, names, uncertainty)
    masked = masked_inputs(predictor, cube, "cube")
    check_absent(absent_inputs(masked, cube), allow_missing, predictor.spec, "cube")
    log_masked(masked, "cube")
    products = check_product(predictor, cube, allow_other_product, unknown_level=logging.INFO)
    satellite = [name for name in predictor.spec.satellite_arrays if name in cube]
    flags = [name for name in ("predictors_qc", "predictors_quality") if name in cube]
    present = [name for name in cube["variable"].values if name in predictor.spec.predictors]
    needed = cube[["predictors", *flags, *satellite]].sel(variable=present)
    values: np.ndarray | da.Array
    if cube.predictors.chunks is not None and progress is None:
        values = _lazy(predictor, needed, options)
    else:
        values = _eager(predictor, needed, options, progress)
    coords = {k: v for k, v in cube.coords.items() if set(v.dims) <= {"site", "time"}} | _in_training(cube, predictor)
    stacked = xr.DataArray(values, dims=("site", "time", "target"), coords=coords)
    fluxes = as_fluxes(stacked, predictor, names, options)
    for name in names:
        if f"{name}_std" in fluxes:
            fluxes[f"{name}_std"].attrs[CALIBRATION_SITES] = " ".join(predictor.calibration_sites(name))
    return fluxes.assign_attrs({"kind": "predictions", "title": "fluxes predicted at towers"}).assign_attrs(
        provenance(predictor, options, masked)
        | computed_by(predictor, options)
        | source
        | products
        | _drivers(predictor, cube, chosen=drivers is not None)
    )


def _drivers(predictor: Predictor, cube: xr.Dataset, *, chosen: bool) -> dict[str, str]:
    """Return the attributes that record the drivers of a prediction and of the training, unless all are the towers'."""
    used, trained = str(cube.attrs.get(USED_DRIVERS, TOWER)), trained_drivers(predictor)
    if trained == used == TOWER:
        return {}
    if trained != used:
        level = logging.INFO if chosen else logging.WARNING
        log.log(level, "predicted with drivers %s; the model was trained on drivers %s", used, trained)
    lacking = [name for name in str(cube.attrs.get(DRIVERS_MISSING, "")).split() if name in predictor.spec.predictors]
    if lacking:
        log.warning("missing, since drivers %s do not have them: %s", used, ", ".join(lacking))
    source = {DRIVERS_SOURCE: str(cube.attrs[DRIVERS_SOURCE])} if DRIVERS_SOURCE in cube.attrs else {}
    return {
        USED_DRIVERS: used,
        "trained_drivers": trained,
        DRIVERS_MISSING: ", ".join(lacking),
    } | source


def _in_training(cube: xr.Dataset, predictor: Predictor) -> dict[str, xr.DataArray]:
    """Return the coordinate `in_training` of towers; nothing if the model has no record of its training towers."""
    if "training_sites" not in predictor.metadata:
        return {}
    training = set(predictor.metadata["training_sites"])
    known = np.array([str(site) in training for site in cube["site"].values], bool)
    attrs = {"long_name": "whether the model was trained on the tower"}
    return {"in_training": xr.DataArray(known, {"site": cube["site"]}, ("site",), attrs=attrs)}


def _check_clock(cube: xr.Dataset, predictor: Predictor) -> None:
    clock = cube.attrs.get("clock", predictor.spec.clock)
    if clock != predictor.spec.clock:
        raise ConfigError(
            f"the model was trained on DOY and TOD of clock={predictor.spec.clock!r}, this cube has {clock!r}: "
            f"build the cube with clock={predictor.spec.clock!r}, or train on this one."
        )


def _eager(predictor: Predictor, cube: xr.Dataset, options: PredictionOptions, progress: Callable | None) -> np.ndarray:
    out = np.full((cube.sizes["site"], cube.sizes["time"], _columns(predictor, options)), np.nan, np.float32)
    for i, site in enumerate(cube.site.values):
        out[i] = _one_site(predictor, cube.isel(site=[i]), options)[0]
        if progress is not None:
            progress(i + 1, cube.sizes["site"], str(site))
    return out


def _lazy(predictor: Predictor, cube: xr.Dataset, options: PredictionOptions) -> da.Array:
    """Return a Dask array (site, time, output): one task per site, besides those that read it."""
    import dask
    import dask.array as da

    one_site = dask.delayed(_one_site, pure=True)
    shape = (1, cube.sizes["time"], _columns(predictor, options))
    sites = [one_site(predictor.reference, cube.isel(site=[i]), options) for i in range(cube.sizes["site"])]
    return da.concatenate([da.from_delayed(site, shape, np.float32) for site in sites])


def _columns(predictor: Predictor, options: PredictionOptions) -> int:
    return len(predictor.outputs(options.uncertainty, options.applicability))


def _one_site(reference: Reference, cube: xr.Dataset, options: PredictionOptions) -> np.ndarray:
    """Return predictions of a cube of one site, (1, time, output), between its first and last time step."""
    predictor = load_reference(reference)
    out = np.full((1, cube.sizes["time"], _columns(predictor, options)), np.nan, np.float32)
    start, stop = np.searchsorted(cube.time.values, [cube.time_start.values[0], cube.time_stop.values[0]])
    if start < stop:
        for single in predictor.singles:
            check_support_years(cube, single.support_years)
        record = cube.isel(time=slice(start, stop))
        if len(predictor.singles) > 1:
            record = record.compute()  # read once, although each member computes its own features
        out[:, start:stop] = predictor.predict_places(lambda spec: cube_block(record, spec), options)
    return out
