"""The planet's ERA5 at a Climate Data Store."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from fluxcube.simulation.grids import era5_fields, write_cds
from fluxcube.simulation.planet import Planet
from fluxcube.simulation.services.cds import ClimateDataStore

#: Short names of the parameters that the planet has, by their names in requests.
_PARAMETERS = {
    "2m_temperature": "t2m",
    "2m_dewpoint_temperature": "d2m",
    "surface_pressure": "sp",
    "10m_u_component_of_wind": "u10",
    "10m_v_component_of_wind": "v10",
    "surface_solar_radiation_downwards": "ssrd",
    "surface_thermal_radiation_downwards": "strd",
    "total_precipitation": "tp",
    "geopotential": "z",
    "land_sea_mask": "lsm",
}
_STEP = 0.25


class PlanetEra5(ClimateDataStore):
    """Serves hourly ERA5 of the planet for any box and month, without an account; files are NetCDF."""

    def __init__(self, planet: Planet) -> None:
        self.planet = planet
        super().__init__()
        self.key = None

    def content(self, dataset: str, body: dict) -> bytes:
        """Return the NetCDF file of a request."""
        north, west, south, east = body["area"]
        latitude = np.round(np.arange(north, south - _STEP / 2, -_STEP), 4)
        longitude = np.round(np.arange(west, east + _STEP / 2, _STEP), 4)
        month = f"{body['year'][0]}-{body['month'][0]}"
        hours = np.array([f"{month}-{day}T{time[:2]}" for day in body["day"] for time in body["time"]], "datetime64[h]")
        fields = era5_fields(self.planet, [_PARAMETERS[name] for name in body["variable"]], hours, latitude, longitude)
        with tempfile.TemporaryDirectory() as folder:
            path = write_cds(Path(folder, "era5.nc"), self.planet, hours, latitude, longitude, fields)
            return path.read_bytes()
