"""Plan the global maps of the recipes before anything is fetched: requests, and maps of a simulated forcing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fluxcube.errors import ConfigError
from fluxcube.inference.loading import load_model
from fluxcube.planning.land import SOUTH, land_cells
from fluxcube.planning.maps import MapPlan, plan_maps
from fluxcube.recipes import plan_forcing
from fluxcube.simulation.globe import global_forcing
from fluxcube.timestamps import HOUR


def plan_global(
    out: str | Path,
    *,
    years: Sequence[int],
    model: str,
    resolution: float,
    period: tuple[str, str],
    project: str | None = None,
    endpoints: Mapping[str, str | None] | None = None,
    cores_per_gpu: float = 100.0,
    price: float = 3.0,
    sample_tasks: int = 4,
) -> str:
    """Return the plan of global maps as text: the fetches, then what the maps take.

    Parameters
    ----------
    out : path
        Folder of the recipe; nothing is written into it.
    years : sequence of int
        Years of ERA5 and land cover.
    model : str
        Run, or name of a shipped model.
    resolution : float
        Step of the grid, degrees.
    period : (str, str)
        First and last time of the maps; both are included.
    project : str, optional
        Google Cloud project, for the land cover.
    endpoints : mapping, optional
        Addresses of mirrors, as of `fluxcube.recipes.read_endpoints`.
    cores_per_gpu, sample_tasks
        As `fluxcube.plan_maps` takes them.
    price : float
        Price of a GPU-hour, USD.

    Returns
    -------
    str

    Raises
    ------
    ConfigError
        If the period or a number is invalid.
    """
    fetches = plan_forcing(out, region="world", years=years, model=model, project=project, endpoints=endpoints)
    plan = plan_globe(
        model,
        resolution=resolution,
        period=period,
        cores_per_gpu=cores_per_gpu,
        price_gpu=price,
        sample_tasks=sample_tasks,
    )
    note = "note: the weather of the sample is simulated, in chunks as of files; reading files takes time, too."
    return "\n".join([*(fetch.text(0) for fetch in fetches), str(plan), note])


def plan_globe(
    model: str,
    *,
    resolution: float,
    period: Sequence[str],
    bbox: tuple[float, float, float, float] = (-180.0, SOUTH, 180.0, 90.0),
    cells: int = 16,
    **options: Any,
) -> MapPlan:
    """Plan maps of the globe, or of a box, from a simulated forcing with the land of Natural Earth.

    Parameters
    ----------
    model : str
        Run, or name of a shipped model. Surface reflectance that it needs is not simulated, but left out.
    resolution : float
        Step of the grid, degrees.
    period : (str, str)
        First and last time of the maps; both are included.
    bbox : (west, south, east, north)
        Degrees.
    cells : int
        Number of cells along each side of a block.
    **options
        Options of `fluxcube.plan_maps`.

    Returns
    -------
    MapPlan

    Raises
    ------
    ConfigError
        If the period or a number is invalid.
    """
    hours = number_of_hours(period)
    if not resolution > 0 or cells < 1:
        raise ConfigError(f"expected positive numbers, found resolution={resolution}, cells={cells}.")
    predictor = load_model(model)
    before = -(-predictor.hours_before() // 24) * 24
    first = pd.Period(str(period[0])).start_time
    forcing = global_forcing(
        land_cells(resolution, bbox),
        resolution=resolution,
        start=str(first - before * pd.Timedelta(HOUR)),
        hours=before + hours,
        predictors=predictor.spec.predictors,
        bands=bool(predictor.spec.bands),
        chunks={"latitude": cells, "longitude": cells},
        north=bbox[3],
        west=bbox[0],
    )
    return plan_maps(predictor, forcing, time=slice(str(first), None), allow_missing=True, **options)


def number_of_hours(period: Sequence[str]) -> int:
    """Return the number of hours from the first to the last time, both included; a date as last time is a whole day.

    Raises
    ------
    ConfigError
        If these are not two times in order.

    Examples
    --------
    >>> number_of_hours(("2018", "2018")), number_of_hours(("2018-06-01", "2018-06-02"))
    (8760, 48)
    """
    try:
        first, last = (pd.Period(str(time)) for time in period)
        hours = round((last.end_time - first.start_time) / pd.Timedelta(1, "h"))
    except (ValueError, TypeError):
        hours = 0
    if hours <= 0:
        raise ConfigError(
            f"period: expected the first and the last time, in order, such as 2018, 2018; found {period}."
        )
    return hours
