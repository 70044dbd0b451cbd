"""Predictions as the figures take them: one Dataset, or several by the name of their model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import xarray as xr

from fluxcube.errors import unknown

#: Predictions of one model, or those of several by name.
Predicted: TypeAlias = xr.Dataset | xr.DataArray | Mapping[str, xr.Dataset | xr.DataArray]
#: Name of the predictions of one model.
MODEL = "predicted"


def by_model(predictions: Predicted | None) -> dict[str, xr.Dataset | xr.DataArray]:
    """Return predictions by the name of their model; none for None."""
    if predictions is None:
        return {}
    if isinstance(predictions, xr.Dataset | xr.DataArray):
        return {MODEL: predictions}
    return dict(predictions)


def flux_of(data: xr.Dataset | xr.DataArray, target: str) -> xr.DataArray | None:
    """Return one flux of predictions, a Dataset of fluxes or an array of one or of several; None if they lack it."""
    if isinstance(data, xr.Dataset):
        return data.get(target)
    if "target" in data.dims:
        return data.sel(target=target) if target in data["target"].values else None
    return data if data.name in (target, None) else None


def targets_of(predictions: Mapping[str, xr.Dataset | xr.DataArray], known: Iterable[str]) -> list[str]:
    """Return the fluxes, of those that are known, that every model predicts; all of them without a model."""
    return [name for name in known if all(flux_of(one, name) is not None for one in predictions.values())]


def selected(kind: str, wanted: str | Sequence[str] | None, known: Sequence[str], default: int) -> list[str]:
    """Return the wanted names; the first few of the known ones if none is named.

    Raises
    ------
    UnknownNameError
        If a name is not known.
    """
    if wanted is None:
        return list(known[:default])
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    for name in names:
        if name not in known:
            raise unknown(kind, name, known)
    return names
