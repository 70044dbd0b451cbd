"""Local servers that speak the protocols of the services from which fluxcube fetches, and those of a planet."""

from fluxcube.simulation.services.planet import PlanetServices, planet_services

__all__ = ["PlanetServices", "planet_services"]
