"""The local web service of the simulation, under the name that tests use."""

from fluxcube.simulation.services.web import Answer, Fault, Request, Service, page, raw, redirect, status

__all__ = ["Answer", "Fault", "Request", "Service", "page", "raw", "redirect", "status"]
