"""Predictors that other packages supply, at towers and on grids, by name.

A package offers one by an entry point of the group ``fluxcube.predictors`` that names a `SuppliedPredictor`. It is
added wherever a model is trained with its name or needs it: by `fluxcube.fit`, `fluxcube.predict` and
`fluxcube.upscale`, or by `fluxcube.add_predictor` without values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import xarray as xr

from fluxcube.errors import ConfigError
from fluxcube.extensions import Extended, Extension, find
from fluxcube.variables import declare


@dataclass(frozen=True, kw_only=True)
class SuppliedPredictor:
    """A declaration, and the values that follow from a cube or forcing.

    Attributes
    ----------
    values : callable or what `fluxcube.add_predictor` takes
        ``values(cube)`` returns what `fluxcube.add_predictor` takes for a tower cube (it has the dimension ``site``) or
        a forcing (it has ``latitude`` and ``longitude``): a table, an array or the path of a file. Instead of a
        function, the same for both, such as the path of a map.
    units, bounds, long_name, aggregate, kind, cyclic
        As `fluxcube.declare` takes them.
    hold_days, delay_days
        As `fluxcube.add_predictor` takes them.
    """

    values: Callable[[xr.Dataset], Any] | Any
    units: str
    bounds: tuple[float, float]
    long_name: str = ""
    aggregate: str = "mean"
    kind: str = "daily"
    cyclic: bool = False
    hold_days: int = 1
    delay_days: int | None = None


def supplied_predictors() -> Extended[SuppliedPredictor]:
    """Return the predictors that other packages supply, by name."""
    return Extended("predictors", {}, _predictor_of)


def _predictor_of(extension: Extension) -> SuppliedPredictor:
    found = extension.load()
    if not isinstance(found, SuppliedPredictor):
        raise ConfigError(f"expected a fluxcube.cubes.supplied.SuppliedPredictor, found {found!r:.80}")
    _declare(extension.name, found)
    return found


def _declare(name: str, one: SuppliedPredictor) -> None:
    declare(
        name,
        units=one.units,
        bounds=one.bounds,
        long_name=one.long_name,
        aggregate=one.aggregate,
        kind=one.kind,
        cyclic=one.cyclic,
    )


def supplied_values(name: str, cube: xr.Dataset) -> tuple[SuppliedPredictor, Any]:
    """Declare a predictor, and return it with its values for a cube or forcing.

    Raises
    ------
    ConfigError
        If no installed package supplies it.
    ExtensionError
        If the package cannot be used, or its function fails; the message names it.
    """
    table, extension = supplied_predictors(), find("predictors", name)
    if extension is None:
        known = ", ".join(table.names()) or "none"
        raise ConfigError(
            f"{name}: no values were passed, and no installed package supplies it (supplied: {known}): pass values."
        )
    one = table.made(extension)
    _declare(name, one)  # it may have been forgotten since the package was imported
    return one, extension.call(one.values, cube) if callable(one.values) else one.values
