"""Respiration of models that have no head for it: RECO = NEE + GPP of the night-time partition.

The identity NEE = RECO - GPP holds for the night-time partition. It does not hold for the day-time one, whose GPP and
RECO are two fits: NEE + GPP_DT differs from RECO_DT by 0.2 to 2.7 gC m-2 d-1 (RMSE of ten published daily files).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fluxcube.samples.features import FeatureSpec

#: Name of the derived respiration.
DERIVED = "RECO"
_GPP = "GPP_NT"


def derived_from(targets: Sequence[str]) -> str | None:
    """Return the GPP that yields respiration with NEE; None if a head estimates respiration, or it cannot be derived.

    Examples
    --------
    >>> derived_from(("NEE", "GPP_DT", "GPP_NT")), derived_from(("NEE", "GPP_DT")), derived_from(("NEE", "RECO_DT"))
    ('GPP_NT', None, None)
    """
    if "NEE" not in targets or _GPP not in targets or any(name.startswith(DERIVED) for name in targets):
        return None
    return _GPP


def why_absent(targets: Sequence[str]) -> str:
    """Return why a model has no derived respiration; "" if it has one, or estimates respiration itself."""
    if derived_from(targets) or any(name.startswith(DERIVED) for name in targets):
        return ""
    missing = [name for name in ("NEE", _GPP) if name not in targets]
    why = f"RECO is derived as NEE + {_GPP}, and the model estimates no {' and no '.join(missing)}"
    if "GPP_DT" in targets and "NEE" in targets:
        why += "; NEE + GPP_DT is not RECO, since the identity does not hold for the day-time partition"
    return why


def daily_respiration(spec: FeatureSpec) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return the function that computes daily RECO from the scaled estimates of one model or one member.

    Like GPP, daily RECO ends at zero. Since the mean of clipped values is not the clipped mean, each member of an
    ensemble is clipped by itself. Hourly RECO is not clipped: it is the sum of the two fluxes.

    Parameters
    ----------
    spec : FeatureSpec
        Features of the model.

    Returns
    -------
    callable or None
        From scaled estimates (..., targets or more) to RECO (..., 1) in its units, float32; None for an hourly model
        and for one without derived respiration.
    """
    gpp = derived_from(spec.targets)
    if gpp is None or not spec.time_resolution.gross_fluxes_positive:
        return None
    at = [spec.targets.index(name) for name in ("NEE", gpp)]
    mean, scale = (np.array(values, np.float32)[at] for values in (spec.target_mean, spec.target_scale))

    def respiration(estimates: np.ndarray) -> np.ndarray:
        fluxes = estimates[..., at].astype(np.float32) * scale + mean
        return np.maximum(fluxes[..., :1] + np.maximum(fluxes[..., 1:], 0), 0)

    return respiration
