"""The simulation's ICOS Carbon Portal, under the name that tests use."""

from fluxcube.simulation.services.icos import Icos, identifier

__all__ = ["Icos", "identifier"]
