"""Carbon closure: how far NEE is from RECO - GPP, in observations and predictions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError
from fluxcube.evaluation.common_rows import (
    CommonRows,
    Observed,
    Predictions,
    TargetRows,
    groups_of,
    rows_in_common,
)
from fluxcube.evaluation.sums import Labelled, QualityOptions

#: Names of GPP and RECO of each partitioning; maps and products may have only one partition, without a suffix.
PARTITIONS = {
    "night-time": ("GPP_NT", "RECO_NT"),
    "daytime": ("GPP_DT", "RECO_DT"),
    "unnamed": ("GPP", "RECO"),
}
#: Tolerance by default: 0.5 umol m-2 s-1, which is 0.52 gC m-2 d-1.
_TOLERANCE = 0.5
_COLUMNS = (
    "target",
    "units",
    "partition",
    "group",
    "model",
    "n",
    "n_sites",
    "mean",
    "median_abs",
    "p90_abs",
    "share_within",
    "tolerance",
)


def carbon_closure(
    obs: Observed,
    predictions: Predictions = None,
    *,
    by: str | None = "igbp",
    tolerance: float = _TOLERANCE,
    limits: QualityOptions | None = None,
) -> pd.DataFrame:
    """Compute NEE - (RECO - GPP) of observations and of every model, on the rows where all three fluxes are common.

    Measured NEE equals RECO - GPP of the night-time partitioning by construction, except where fluxes were filtered
    separately; that of the daytime partitioning, whose GPP and RECO are both modelled, does not. A model that estimates
    its fluxes independently need not close, and one that computes RECO as NEE + GPP always does.

    Parameters
    ----------
    obs, predictions
        As `fluxcube.compare` takes them; or `fluxcube.evaluation.common_rows.CommonRows`, and no predictions. With a
        cube and no predictions, that of the observations alone.
    by : str, optional
        Coordinate of the groups, as in `fluxcube.evaluation.cycles.mean_cycles`. Default: igbp.
    tolerance : float
        Largest residual that counts as closed, in the units of the fluxes (0.5 by default).
    limits : mapping, optional
        The limit of quality, `max_qc` or `min_quality`, as `fluxcube.compare` takes it.

    Returns
    -------
    pd.DataFrame
        A row per partition ("night-time", "daytime", or "unnamed" for GPP and RECO without a suffix), group and model
        ("observed" first), with columns target ("NEE"), units, partition, group, model, n, n_sites, mean (of the
        residual), median_abs and p90_abs (median and 90th percentile of its absolute value), share_within (within the
        tolerance) and tolerance. Empty if the predictions do not have NEE, GPP and RECO of one partitioning.

    Raises
    ------
    ConfigError
        If the tolerance is not positive, or the three fluxes have different units.
    """
    if not tolerance > 0:
        raise ConfigError(f"tolerance={tolerance!r}: expected a positive number, in the units of the fluxes.")
    rows = _rows(obs, predictions, limits or {})
    out = []
    for partition, (gpp, reco) in PARTITIONS.items():
        if {"NEE", gpp, reco} <= set(rows.targets):
            one, residual = _residuals(rows, gpp, reco)
            out += _partition_rows(partition, one, residual, rows.series, by, tolerance)
    table = pd.DataFrame(out, columns=list(_COLUMNS))
    table.attrs = dict(rows.attrs) | {"by": by, "tolerance": tolerance}
    return table


def _rows(obs: Observed, predictions: Predictions, limits: QualityOptions) -> CommonRows:
    """Return common rows; without predictions, those of the observations alone."""
    if isinstance(obs, CommonRows) or predictions:
        return rows_in_common(obs, predictions, **limits)
    fluxes = _carbon_fluxes(obs["fluxes"] if isinstance(obs, xr.Dataset) and "fluxes" in obs else obs)
    rows = rows_in_common(obs, {"the observations": fluxes}, **limits)
    targets = {name: _observed_alone(one) for name, one in rows.targets.items()}
    return CommonRows((), targets, rows.resolution, rows.attrs)


def _carbon_fluxes(data: Labelled) -> Labelled:
    """Return NEE, GPP and RECO of observations alone: other fluxes need not be read."""
    names = {"NEE", *(name for pair in PARTITIONS.values() for name in pair)}
    if isinstance(data, xr.Dataset):
        return data[[name for name in data.data_vars if name in names]]
    if "target" not in data.dims:
        return data
    return data.isel(target=[i for i, name in enumerate(data["target"].values) if str(name) in names])


def _observed_alone(rows: TargetRows) -> TargetRows:
    return TargetRows(rows.site, rows.time, rows.values[:, :1], {}, {}, rows.places, rows.units)


def _residuals(rows: CommonRows, gpp: str, reco: str) -> tuple[TargetRows, np.ndarray]:
    """Return the rows of NEE that GPP and RECO have as well, and their residuals (N, series)."""
    fluxes = [rows.targets[name] for name in ("NEE", gpp, reco)]
    if len({one.units for one in fluxes}) > 1:
        found = ", ".join(f"{name} in {rows.targets[name].units}" for name in ("NEE", gpp, reco))
        raise ConfigError(f"carbon closure: expected the fluxes in one unit, found {found}; convert them first.")
    if any(not np.array_equal(one.sites, fluxes[0].sites) for one in fluxes[1:]):
        raise SchemaError(f"carbon closure: NEE, {gpp} and {reco} have different sites; select the common ones.")
    keys = [_keys(one) for one in fluxes]
    common = np.intersect1d(np.intersect1d(keys[0], keys[1], True), keys[2], True)
    at = [np.searchsorted(key, common) for key in keys]
    nee, gross, respired = (one.values[where].astype(float) for one, where in zip(fluxes, at, strict=True))
    first = fluxes[0]
    kept = TargetRows(first.site[at[0]], first.time[at[0]], first.values[at[0]], {}, {}, first.places, first.units)
    return kept, nee - (respired - gross)


def _keys(rows: TargetRows) -> np.ndarray:
    """Return one number (N,) for each site and time step, in increasing order."""
    seconds = rows.time.astype("datetime64[s]").astype(np.int64)
    return rows.site.astype(np.int64) * 2**36 + seconds + 2**35


def _partition_rows(
    partition: str, rows: TargetRows, residual: np.ndarray, series: tuple[str, ...], by: str | None, tolerance: float
) -> list[Mapping[str, object]]:
    """Return a table row for each group and series."""
    out: list[Mapping[str, object]] = []
    for group, mask in groups_of(rows.places, by).items():
        chosen = mask[rows.site]
        values, sites = residual[chosen], len(np.unique(rows.site[chosen]))
        about = {"target": "NEE", "units": rows.units, "partition": partition, "group": group, "tolerance": tolerance}
        for j, model in enumerate(series):
            row = about | {"model": model, "n": len(values), "n_sites": sites}
            out.append(row | (_summary(values[:, j], tolerance) if len(values) else {}))
    return out


def _summary(residual: np.ndarray, tolerance: float) -> dict[str, float]:
    size = np.abs(residual)
    median, high = np.percentile(size, (50, 90))
    # Fluxes are stored as float32: a residual of exactly the tolerance may be larger by rounding.
    within = (size <= tolerance * (1 + 1e-6)).mean()
    return {
        "mean": float(residual.mean()),
        "median_abs": float(median),
        "p90_abs": float(high),
        "share_within": float(within),
    }
