"""Fetch the raw files of a simulated planet from its own services, as a researcher fetches those of the Earth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fluxcube.fetch.era5_fetch import era5
from fluxcube.fetch.modis_fetch import modis
from fluxcube.fetch.towers_fetch import SNAPSHOT, towers
from fluxcube.simulation.planet import Planet
from fluxcube.simulation.services import planet_services
from fluxcube.timestamps import HOUR

#: Predictors of the demo that ERA5 contains; the others follow from time and place.
REANALYSED = ("TA", "SW_IN", "VPD", "P")
#: Time before the first hour of a record or of the maps from which images are used.
LEAD = np.timedelta64(96, "D")


def fetch_raw(
    planet: Planet,
    raw: str | Path,
    *,
    every: int = 8,
    progress: Callable[[int, int, str], None] | None = None,
) -> Path:
    """Fetch the planet's towers, ERA5, MODIS and land cover from its own services, with the clients of the real ones.

    Parameters
    ----------
    planet : Planet
    raw : path
        Folder that receives ``towers``, ``era5``, ``modis``, ``reflectance`` and ``land_cover``.
    every : int
        Days between the images of MOD09GA.
    progress : callable, optional
        ``progress(done, total, text)``.

    Returns
    -------
    Path
        `raw`.

    Raises
    ------
    MissingPackageError
        If a client is not installed (``pip install 'fluxcube[fetch]'``).
    """
    raw = Path(raw)
    with planet_services(planet, every=every) as services:
        towers(raw / "towers", source="icos", endpoint=services.towers.url, progress=progress)
        first, last = (int(str(at)[:4]) for at in (planet.forcing_start, planet.period[1] - HOUR))
        era5(
            raw / "era5",
            years=range(first, last + 1),
            bbox=_box(planet, 0.0),
            variables=REANALYSED,
            endpoint=f"{services.era5.url}/api",
            progress=progress,
        )
        _fetch_modis(planet, raw, services.modis.url, progress)
    return raw


def _fetch_modis(planet: Planet, raw: Path, endpoint: str, progress: Callable[[int, int, str], None] | None) -> None:
    """Fetch the pixels around towers, and the region."""
    first, last = (int(str(day)[:4]) for day in (planet.forcing_start - LEAD, planet.period[1] - HOUR))
    sites = pd.read_csv(raw / "towers" / SNAPSHOT)
    begin = [np.datetime64(f"{year}-{planet.record[0]}") - LEAD for year in sites.first_year]
    sites["first_year"] = [int(str(day)[:4]) for day in begin]
    area: dict[str, Any] = {"bbox": _box(planet, 0.2), "years": range(first, last + 1)}
    places: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
        ("modis", ("MCD43A4", "MCD43A2"), {"at_sites": sites}),
        ("modis", ("MCD43A4", "MCD43A2"), area),
        ("reflectance", ("MOD09GA",), {"at_sites": sites}),
        ("reflectance", ("MOD09GA",), area),
        ("land_cover", ("MCD12Q1",), area),
    ]
    for folder, products, place in places:
        # Two jobs: the server computes an image while the client writes the one before.
        modis(raw / folder, products=products, jobs=2, endpoint=endpoint, project="planet", progress=progress, **place)


def _box(planet: Planet, margin: float) -> tuple[float, float, float, float]:
    """Return west, south, east and north of the centres of the region's cells, and a margin around them, degrees."""
    cells = planet.region
    west, east = float(cells.longitude[0]) - margin, float(cells.longitude[-1]) + margin
    return west, float(cells.latitude[-1]) - margin, east, float(cells.latitude[0]) + margin
