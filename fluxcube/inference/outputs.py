"""Names, attributes and provenance of predictions, at towers and on maps alike."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import xarray as xr

import fluxcube.exports.accessor  # noqa: F401  (registers ds.fluxcube)
from fluxcube.devices import device_name
from fluxcube.errors import ConfigError, unknown
from fluxcube.inference.devices import device_of
from fluxcube.inference.options import PredictionOptions, Uncertainty
from fluxcube.inference.precision import known_error
from fluxcube.inference.predictor import DISSIMILARITY, Predictor
from fluxcube.inference.respiration import DERIVED, derived_from, why_absent
from fluxcube.samples.features import FeatureSpec, absent_satellite
from fluxcube.samples.teacher import TEACHER
from fluxcube.schema import TOWER, USED_DRIVERS
from fluxcube.stores.origin import named
from fluxcube.variables import COMPUTED, statics, table

logger = logging.getLogger(__name__)

#: Name of the layer that is 1 inside the area of applicability.
APPLICABLE = "applicable"
#: Attribute of NAME_std with the names of the towers that calibrated it, separated by blanks.
CALIBRATION_SITES = "calibration_sites"


def flux_names(predictor: Predictor, targets: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the fluxes of a model, including RECO where it follows from NEE and GPP_NT.

    If the model estimates NEE and GPP_DT, from which RECO does not follow, this is logged.

    Parameters
    ----------
    predictor : Predictor
        The model.
    targets : sequence of str, optional
        Only these.

    Raises
    ------
    ConfigError
        If RECO is one of `targets` and cannot be derived; the message has the reason.
        If some members of a mixed ensemble lack one of `targets`.
    UnknownNameError
        If the model lacks another one of `targets`.
    """
    have = predictor.spec.targets
    every = (*have, DERIVED) if derived_from(have) else have
    reason = why_absent(have)
    if reason and targets is None and _expects_respiration(have):
        logger.warning("no RECO: %s", reason)
    for name in targets or ():
        if name == DERIVED and reason:
            raise ConfigError(f"{name} is no flux of this model: {reason}. Train it with GPP_NT, or RECO, as a target.")
        if name.rpartition("_")[0] in every and name.endswith(("_std", "_spread")):
            raise ConfigError(f"{name} is no flux: request it by uncertainty={name.rpartition('_')[2]!r}.")
        if name not in every and any(name in single.spec.targets for single in predictor.singles):
            raise ConfigError(
                f"{name} is estimated by some members of this mixed ensemble only: request {' or '.join(every)}, or "
                "use a member that estimates it."
            )
        if name not in every:
            raise unknown("flux of this model", name, every)
    return every if targets is None else tuple(targets)


def known_applicability(predictor: Predictor, requested: bool | None) -> bool:
    """Return whether dissimilarity is computed: as requested, by default if the model can (else this is logged)."""
    if requested is None and not predictor.has_training_days:
        logger.warning(
            "no dissimilarity or area of applicability: the model has no record of its training days; it was trained "
            "at towers of one cluster, or by an earlier version"
        )
    return predictor.has_training_days if requested is None else requested


def as_fluxes(
    stacked: xr.DataArray, predictor: Predictor, names: tuple[str, ...], options: PredictionOptions
) -> xr.Dataset:
    """Split predictions by flux, with CF attributes; lazy stays lazy.

    Parameters
    ----------
    stacked : xr.DataArray
        (..., target), one entry per output of the model.
    predictor : Predictor
        The model.
    names : tuple of str
        As `flux_names` returned them.
    options : PredictionOptions
        Options of the prediction: with standard deviations, NAME_std and NAME_spread are added for each of `names` that
        is a target; with dissimilarity, `applicable` is added. Entries beyond the model's outputs are the variances of
        its targets among the blocks of a cell: NAME_variance.
    """
    targets = predictor.spec.targets
    outputs = predictor.outputs(options.uncertainty)
    if options.uncertainty is True:
        _report_uncalibrated(predictor, names)
    rows = table(predictor.resolution)
    one = {t: stacked.isel(target=i).assign_attrs(rows[t].attrs) for i, t in enumerate(targets)}
    if DERIVED in names and (gpp := derived_from(targets)):
        attrs = rows[gpp.replace("GPP", "RECO")].attrs | {"derived": f"NEE + {gpp}"}
        clipped = DERIVED in outputs  # daily: computed for each member and clipped at zero
        reco = stacked.isel(target=outputs.index(DERIVED)) if clipped else one["NEE"] + one[gpp]
        # xarray keeps the attributes of NEE in a sum, such as its standard name.
        one[DERIVED] = reco.drop_attrs(deep=False).assign_attrs(attrs | {"long_name": "ecosystem respiration"})
    for i, name in enumerate(outputs[len(targets) :], len(targets)):
        if name == DERIVED:
            continue
        flux, _, kind = name.rpartition("_")
        one[name] = stacked.isel(target=i).assign_attrs(_uncertainty_attrs(flux, kind, predictor))
    names = (*names, *(n for n in outputs[len(targets) :] if n.rpartition("_")[0] in names))
    every = len(predictor.outputs(options.uncertainty, options.applicability))
    if stacked.sizes["target"] > every:
        for i, name in enumerate(targets, every):
            one[f"{name}_variance"] = stacked.isel(target=i).assign_attrs(
                units=f"({rows[name].units})2", long_name=f"variance of {name} among the blocks of a cell"
            )
        names = (*names, *(f"{name}_variance" for name in targets if name in names))
    if options.applicability:
        one |= _applicability(stacked.isel(target=len(outputs)), predictor)
        names = (*names, DISSIMILARITY, APPLICABLE)
    return xr.Dataset({name: one[name].rename(name) for name in names})


def check_calibrated(predictor: Predictor, names: Sequence[str], uncertainty: Uncertainty) -> None:
    """Refuse to return standard deviations alone if those of some fluxes are not calibrated.

    Parameters
    ----------
    predictor : Predictor
        The model.
    names : sequence of str
        Fluxes that are requested.
    uncertainty : bool, "std" or "spread"
        Measures of uncertainty that are requested.

    Raises
    ------
    ConfigError
        If `uncertainty` is "std" and nothing calibrated the standard deviation of a target in `names`.
    """
    absent = [name for name in predictor.spec.targets if name in names and name not in predictor.calibrated]
    if uncertainty == "std" and absent:
        raise ConfigError(predictor.why_uncalibrated(absent))


def _report_uncalibrated(predictor: Predictor, names: Sequence[str]) -> None:
    """Log the fluxes whose standard deviation is absent although uncertainty is requested."""
    absent = [name for name in predictor.spec.targets if name in names and name not in predictor.calibrated]
    if absent:
        logger.warning(
            "no standard deviation of %s: nothing calibrated it on validation towers or on predictions of held-out "
            "towers (fluxcube.calibrate). The spread, where there is one, is that between the members of the ensemble, "
            "and not the error of the mean",
            ", ".join(absent),
        )


def _applicability(index: xr.DataArray, predictor: Predictor) -> dict[str, xr.DataArray]:
    """Return dissimilarity, and whether it is within the threshold."""
    threshold = predictor.threshold
    within = xr.where(index <= threshold, np.float32(1.0), np.float32(0.0)).where(index.notnull())
    attrs = {"threshold": round(threshold, 6), "references": "Meyer & Pebesma 2021, doi:10.1111/2041-210X.13650"}
    return {
        DISSIMILARITY: index.assign_attrs(units="1", long_name=predictor.dissimilarity_name, **attrs),
        APPLICABLE: within.assign_attrs(
            units="1",
            long_name="area of applicability: dissimilarity is within the training towers' own",
            flag_values=[0.0, 1.0],
            flag_meanings="outside inside",
            **attrs,
        ),
    }


def _uncertainty_attrs(flux: str, kind: str, predictor: Predictor) -> dict[str, object]:
    attrs: dict[str, object] = {"units": table(predictor.resolution)[flux].attrs["units"]}
    if kind == "spread":
        return attrs | {"long_name": f"standard deviation of {flux} between the members of the ensemble"}
    calibration = (predictor.metadata.get("calibration") or {}).get(flux, {})
    coverage = calibration.get("held_out") or calibration.get("calibrated") or {}
    shares = {f"coverage_{float(level):.0%}".replace("%", ""): round(share, 4) for level, share in coverage.items()}
    attrs["long_name"] = f"standard deviation of the error of {flux}"
    if model := predictor.error_models.get(flux):
        return attrs | {"error_model": model.formula(flux)} | shares
    if "spread" in predictor.quantities:
        attrs["long_name"] = f"{attrs['long_name']}, with members' spread"
    attrs["calibration_factor"] = float(predictor.factors[predictor.spec.targets.index(flux)])
    return attrs | shares


def masked_inputs(predictor: Predictor, ds: xr.Dataset, kind: str) -> tuple[str, ...]:
    """Return the inputs that a cube or forcing lacks, which are missing for the model.

    Raises
    ------
    ConfigError
        If no input is left but those that place and time alone determine.
    """
    spec = predictor.spec
    present = set(map(str, ds["variable"].values))
    for single in predictor.singles:
        needed = [name for name in single.spec.predictors if name not in COMPUTED]
        if needed and not present.intersection(needed):
            model = "the model" if single is predictor else f"a member ({single.path or single.model.kind})"
            raise ConfigError(
                f"the {kind} supplies none of the predictors {model} was trained on ({', '.join(needed)})."
            )
    masked = [name for name in spec.predictors if name not in present]
    masked += absent_satellite(ds, spec)
    masked += [name for name in _static_coords(spec) if name not in ds.coords or _is_empty(ds[name])]
    return tuple(masked)


def absent_inputs(masked: Sequence[str], ds: xr.Dataset) -> tuple[str, ...]:
    """Return those of `masked_inputs` for which a tower cube has no array at all.

    A class or static number that is unknown at all of its towers, such as the elevation of the only tower of a
    selection, is a missing value as any other.
    """
    return tuple(name for name in masked if name not in ds.coords)


def _static_coords(spec: FeatureSpec) -> list[str]:
    """Return the static inputs that are coordinates of cubes and forcings: classes, elevation and declared ones."""
    known = ("igbp", "koppen", "elevation", *statics())
    return [name for name in known if name in spec.static]


def _is_empty(array: xr.DataArray) -> bool:
    """Return whether no place has a class (text) or a finite number."""
    values = array.values.ravel()
    return not (np.isfinite(values).any() if array.dtype.kind in "fiu" else any(map(str, values)))


def log_masked(masked: Sequence[str], kind: str) -> None:
    """Log the inputs that a cube or forcing lacks, if any."""
    if masked:
        logger.warning("masked, since the %s does not supply them: %s", kind, ", ".join(masked))


def trained_drivers(predictor: Predictor) -> str:
    """Return the drivers that a model, or each of its members, was trained on: "tower", or for example "era5"."""
    records = (single.metadata.get("cube") or {} for single in predictor.singles)
    return ", ".join(sorted({str(record.get(USED_DRIVERS, TOWER)) for record in records}))


def provenance(predictor: Predictor, options: PredictionOptions, masked: tuple[str, ...]) -> dict[str, object]:
    """Return attributes that record which model made a prediction, and how."""
    spec, record = predictor.spec, predictor.metadata
    members: dict[str, object] = {"ensemble_members": len(record["members"])} if "members" in record else {}
    if "weights" in record:  # of a mixed ensemble
        weighted = zip(record["weights"], record["members"].items(), strict=True)
        members["members"] = "; ".join(f"{weight:.4g} {name} ({digest[:12]})" for weight, (name, digest) in weighted)
    packages = [one.metadata["package"] for one in predictor.singles if one.metadata.get("package")]
    if packages:  # of models that other packages offer
        members["model_package"] = ", ".join(dict.fromkeys(f"{one['name']} {one['version']}" for one in packages))
    steps = spec.time_resolution.steps
    clock = (
        {} if spec.time_resolution.local else {"clock": spec.clock}
    )  # a daily model does not use the clock that dates follow
    return members | {
        "model": str(record.get("kind", type(predictor.model).__name__)),
        "model_digest": predictor.digest,
        **({"teacher_digest": record[TEACHER]["model_digest"]} if TEACHER in record else {}),
        **named(record.get("cube") or {}, "training_cube"),
        **({"training_licences": str(licences)} if (licences := (record.get("cube") or {}).get("licences")) else {}),
        "training_sites": len(record.get("training_sites", ())),
        f"context_{steps}": predictor.model.context,
        f"stride_{steps}": options.strides if options.members else options.stride,
        f"min_context_{steps}": options.min_context,
        "precision": options.precision,
        **({"deterministic": 1} if options.deterministic else {}),
        "predictors": ", ".join(spec.predictors),
        "memory_days": ", ".join(map(str, spec.memory_days)),
        **({"surface_columns": ", ".join(spec.surface)} if spec.surface else {}),
        **({"lookahead_days": spec.lookahead} if spec.lookahead else {}),
        "masked_predictors": ", ".join(masked),
        **({"RECO_absent": why_absent(spec.targets)} if _expects_respiration(spec.targets) else {}),
        **({"trained_drivers": drivers} if (drivers := trained_drivers(predictor)) != TOWER else {}),
        **clock,
    }


def computed_by(predictor: Predictor, options: PredictionOptions) -> dict[str, object]:
    """Return attributes that record where this process predicted: device and, below float32, error of the precision."""
    devices = dict.fromkeys(device_name(device_of(single.model)) for single in predictor.singles)
    errors = [known_error(single.model, options.precision) for single in predictor.singles]
    known = [error for error in errors if error is not None]
    return {"device": ", ".join(devices)} | ({"precision_error": round(max(known), 6)} if known else {})


def _expects_respiration(targets: Sequence[str]) -> bool:
    """Return whether a user may expect RECO from a model that has none: it estimates NEE and a GPP."""
    return bool(why_absent(targets)) and "NEE" in targets and any(name.startswith("GPP") for name in targets)
