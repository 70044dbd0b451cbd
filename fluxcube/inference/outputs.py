"""What predictions are called and where they come from, on towers and maps alike."""

from __future__ import annotations

import logging

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, unknown
from fluxcube.inference.predictor import DISSIMILARITY, Predictor, Wanted
from fluxcube.variables import BANDS, COMPUTED, table

logger = logging.getLogger(__name__)

#: Respiration that no head gives: NEE + GPP, of either partitioning.
DERIVED = "RECO"
#: Name of the layer that tells where a model may be believed.
APPLICABLE = "applicable"


def flux_names(predictor: Predictor, targets: list[str] | tuple[str, ...] | None = None) -> tuple[str, ...]:
    """Return the fluxes a model gives, RECO included where it follows from NEE and GPP.

    Parameters
    ----------
    predictor : Predictor
        The model.
    targets : sequence of str, optional
        Only these.

    Raises
    ------
    UnknownNameError
        If the model does not give one of `targets`.
    """
    have = predictor.spec.targets
    every = (*have, DERIVED) if _gpp(have) else have
    for name in targets or ():
        if name not in every:
            raise unknown("flux of this model", name, every)
    return every if targets is None else tuple(targets)


def known_applicability(predictor: Predictor, asked: bool | None) -> bool:
    """Return whether dissimilarity is given: what was asked for, or by default wherever the model can (else logged)."""
    if asked is None and predictor.applicability is None:
        logger.warning(
            "no dissimilarity and no area of applicability: the model does not hold its training days; train it anew"
        )
    return predictor.applicability is not None if asked is None else asked


def as_fluxes(stacked: xr.DataArray, predictor: Predictor, names: tuple[str, ...], wanted: Wanted) -> xr.Dataset:
    """Split predictions by flux, with CF attributes; lazy stays lazy.

    Parameters
    ----------
    stacked : xr.DataArray
        (..., target), one entry per output of the model.
    predictor : Predictor
        The model.
    names : tuple of str
        As `flux_names` returned them.
    wanted : Wanted
        What was asked of the model: with standard deviations, NAME_std and NAME_spread come with each of `names` that
        is a target; with dissimilarity, so does `applicable`. Entries beyond the model's outputs are the variances of
        its targets among the blocks of a cell: NAME_variance.
    """
    targets = predictor.spec.targets
    outputs = predictor.outputs(wanted.uncertainty)
    rows = table(predictor.resolution)
    one = {t: stacked.isel(target=i).assign_attrs(rows[t].attrs) for i, t in enumerate(targets)}
    if DERIVED in names:
        gpp = _gpp(targets)
        attrs = rows[gpp.replace("GPP", "RECO")].attrs | {"derived": f"NEE + {gpp}"}
        one[DERIVED] = (one["NEE"] + one[gpp]).assign_attrs(attrs | {"long_name": "ecosystem respiration"})
    for i, name in enumerate(outputs[len(targets) :], len(targets)):
        flux, _, kind = name.rpartition("_")
        one[name] = stacked.isel(target=i).assign_attrs(_uncertainty_attrs(flux, kind, predictor))
    names = (*names, *(n for n in outputs[len(targets) :] if n.rpartition("_")[0] in names))
    every = len(predictor.outputs(wanted.uncertainty, wanted.applicability))
    if stacked.sizes["target"] > every:
        for i, name in enumerate(targets, every):
            one[f"{name}_variance"] = stacked.isel(target=i).assign_attrs(
                units=f"({rows[name].units})2", long_name=f"variance of {name} among the blocks of a cell"
            )
        names = (*names, *(f"{name}_variance" for name in targets if name in names))
    if wanted.applicability:
        one |= _applicability(stacked.isel(target=len(outputs)), predictor)
        names = (*names, DISSIMILARITY, APPLICABLE)
    return xr.Dataset({name: one[name].rename(name) for name in names})


def _applicability(index: xr.DataArray, predictor: Predictor) -> dict[str, xr.DataArray]:
    """Dissimilarity, and whether it is within the threshold."""
    threshold = predictor.applicability.threshold
    within = xr.where(index <= threshold, np.float32(1.0), np.float32(0.0)).where(index.notnull())
    said = {"threshold": round(threshold, 6), "references": "Meyer & Pebesma 2021, doi:10.1111/2041-210X.13650"}
    return {
        DISSIMILARITY: index.assign_attrs(
            units="1", long_name="distance of the day's inputs to the nearest training day, in mean distances", **said
        ),
        APPLICABLE: within.assign_attrs(
            units="1",
            long_name="area of applicability: dissimilarity is within the training towers' own",
            flag_values=[0.0, 1.0],
            flag_meanings="outside inside",
            **said,
        ),
    }


def _uncertainty_attrs(flux: str, kind: str, predictor: Predictor) -> dict[str, object]:
    attrs = {"units": table(predictor.resolution)[flux].attrs["units"]}
    if kind == "spread":
        return attrs | {"long_name": f"standard deviation of {flux} between the members of the ensemble"}
    members = "spread" in predictor.quantities
    said = predictor.metadata.get("calibration", {}).get(flux, {})
    held = said.get("held_out") or said.get("calibrated") or {}
    shares = {f"coverage_{float(level):.0%}".replace("%", ""): round(share, 4) for level, share in held.items()}
    attrs["long_name"] = f"standard deviation of the error of {flux}" + (", with members' spread" if members else "")
    attrs["calibration_factor"] = float(predictor.factors[predictor.spec.targets.index(flux)])
    return attrs | shares


def masked_inputs(predictor: Predictor, ds: xr.Dataset, kind: str) -> tuple[str, ...]:
    """Return the inputs that a cube or forcing cannot supply, which the model gets as missing; they are logged.

    Raises
    ------
    ConfigError
        If nothing is left but what place and time alone determine.
    """
    spec = predictor.spec
    held = set(map(str, ds["variable"].values))
    used = [name for name in spec.predictors if name in held]
    if all(name in COMPUTED for name in used) and not all(name in COMPUTED for name in spec.predictors):
        wanted = ", ".join(name for name in spec.predictors if name not in COMPUTED)
        raise ConfigError(f"the {kind} supplies none of the predictors the model was trained on ({wanted}).")
    masked = [name for name in spec.predictors if name not in held]
    bands = set(map(str, ds["band"].values)) if spec.row.satellite in ds else set()
    if bands.issuperset(BANDS[:7]) and spec.surface:
        bands = bands.union(spec.bands)  # indices are made of the seven reflectances
    masked += [f"band {name}" for name in spec.bands if name not in bands]
    for name in ("igbp", "koppen"):
        if name in spec.static and not (name in ds.coords and any(map(str, ds[name].values.ravel()))):
            masked.append(name)
    if "elevation" in spec.static and not np.isfinite(ds["elevation"].values).any():
        masked.append("elevation")
    if masked:
        logger.warning("masked, since the %s does not supply them: %s", kind, ", ".join(masked))
    return tuple(masked)


def provenance(predictor: Predictor, wanted: Wanted, masked: tuple[str, ...]) -> dict[str, object]:
    """Return attributes that say which model made a prediction, and how."""
    spec, given = predictor.spec, predictor.metadata
    members = {"ensemble_members": len(given["members"])} if "members" in given else {}
    steps = spec.row.steps
    clock = {} if spec.row.local else {"clock": spec.clock}  # a daily model does not see whose midnight dates begin at
    return members | {
        "model": str(given.get("kind", type(predictor.model).__name__)),
        "model_digest": predictor.digest,
        "training_sites": len(given.get("training_sites", ())),
        f"context_{steps}": predictor.model.context,
        f"stride_{steps}": wanted.stride,
        f"min_context_{steps}": wanted.min_context,
        "precision": wanted.precision,
        "predictors": ", ".join(spec.predictors),
        "memory_days": ", ".join(map(str, spec.memory_days)),
        "masked_predictors": ", ".join(masked),
        **clock,
    }


def _gpp(targets: tuple[str, ...]) -> str | None:
    """Name the GPP that gives respiration with NEE, where no head gives respiration itself."""
    if "NEE" not in targets or any(t.startswith("RECO") for t in targets):
        return None
    return next((name for name in ("GPP_NT", "GPP_DT") if name in targets), None)
