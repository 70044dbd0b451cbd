"""The planet's towers at a hub of the FLUXNET Shuttle: the ICOS Carbon Portal."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from fluxcube.simulation.instruments import batches, observe
from fluxcube.simulation.places import Tower
from fluxcube.simulation.planet import Planet
from fluxcube.simulation.services.icos import Icos
from fluxcube.simulation.services.web import Answer, Request
from fluxcube.simulation.towers import shuttle_archive


def tower_archives(planet: Planet) -> Iterator[tuple[Tower, tuple[int, int], str, bytes]]:
    """Yield for each tower its years, and the name and content of its archive; of several networks, that of most years.

    Parameters
    ----------
    planet : Planet
    """
    for towers in batches(planet):
        for tower, record in zip(towers, observe(planet, towers), strict=True):
            network, first, last = max(tower.networks, key=lambda entry: (entry[2] - entry[1], entry[0] == "AmeriFlux"))
            yield tower, (first, last), *shuttle_archive(tower, record(network, [first, last]), (first, last))


class PlanetTowers(Icos):
    """Serves the archives of the planet's towers, which are simulated when they are first listed."""

    def __init__(self, planet: Planet) -> None:
        self.planet = planet
        self._first = threading.Lock()
        super().__init__()

    def _sparql(self, request: Request) -> Answer:
        with self._first:
            if not self.objects:
                for tower, years, name, content in tower_archives(self.planet):
                    self.add(
                        tower.site,
                        name,
                        content,
                        igbp=tower.igbp,
                        latitude=tower.latitude,
                        longitude=tower.longitude,
                        years=years,
                    )
        return super()._sparql(request)
