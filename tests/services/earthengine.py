"""The simulation's Earth Engine, under the name that tests use."""

from packages import optional

from fluxcube.simulation.services.earthengine import MAX_BANDS, MAX_BYTES, EarthEngine, Evaluation

optional("rasterio")
optional("ee")
__all__ = ["MAX_BANDS", "MAX_BYTES", "EarthEngine", "Evaluation"]
