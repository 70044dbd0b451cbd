"""All services of a planet: towers, ERA5 and MODIS from local servers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from fluxcube.simulation.planet import Planet
from fluxcube.simulation.services.earthengine import EarthEngine
from fluxcube.simulation.services.planet_era5 import PlanetEra5
from fluxcube.simulation.services.planet_modis import PlanetImages
from fluxcube.simulation.services.planet_towers import PlanetTowers
from fluxcube.simulation.services.web import Service


@dataclass(frozen=True)
class PlanetServices:
    """Running services of a planet, each on a port of its own on 127.0.0.1.

    Attributes
    ----------
    towers : PlanetTowers
        ICOS Carbon Portal, a hub of the FLUXNET Shuttle.
    era5 : PlanetEra5
        Climate Data Store.
    modis : EarthEngine
    """

    towers: PlanetTowers
    era5: PlanetEra5
    modis: EarthEngine

    @property
    def all(self) -> tuple[Service, ...]:
        """Every service."""
        return self.towers, self.era5, self.modis


@contextlib.contextmanager
def planet_services(planet: Planet, *, every: int = 1) -> Iterator[PlanetServices]:
    """Serve the towers, ERA5 and MODIS of a planet to the clients of the real services, until the block ends.

    No service requires an account, and none computes anything before it is requested.

    Parameters
    ----------
    planet : Planet
    every : int
        Days between the images of MOD09GA, as of `fluxcube.simulation.write_reflectance`.

    Examples
    --------
    >>> with planet_services(Planet(seed=1, quick=True)) as services:
    ...     services.era5.url.startswith("http://127.0.0.1:")
    True
    """
    with PlanetTowers(planet) as towers, PlanetEra5(planet) as era5, EarthEngine(PlanetImages(planet, every)) as modis:
        yield PlanetServices(towers, era5, modis)
