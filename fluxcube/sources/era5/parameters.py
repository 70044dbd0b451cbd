"""The ERA5 parameters that are used: short names, units, and the long names of requests to the CDS."""

from __future__ import annotations

STATIC = {"z": "m2 s-2", "lsm": "1"}
INSTANT = {
    "t2m": "K",
    "d2m": "K",
    "sp": "Pa",
    "u10": "m s-1",
    "v10": "m s-1",
    "zust": "m s-1",
    "fal": "1",
    "ishf": "W m-2",
    "stl1": "K",
    "stl2": "K",
    "stl3": "K",
    "stl4": "K",
    "swvl1": "m3 m-3",
    "swvl2": "m3 m-3",
    "swvl3": "m3 m-3",
    "swvl4": "m3 m-3",
}
ACCUMULATED = {
    "ssrd": "J m-2",
    "strd": "J m-2",
    "ssr": "J m-2",
    "str": "J m-2",
    "sshf": "J m-2",
    "slhf": "J m-2",
    "tp": "m",
}
UNITS = INSTANT | ACCUMULATED | STATIC
# Other spellings of units that CDS, cfgrib and other converters use.
SPELLINGS = {"kelvin": "K", "(0 - 1)": "1", "(0-1)": "1", "0-1": "1", "dimensionless": "1", "": "1", "~": "1"}
# Long names as in requests to the CDS; ARCO-ERA5's stores use them.
LONG_NAMES = {
    "2m_temperature": "t2m",
    "2m_dewpoint_temperature": "d2m",
    "surface_pressure": "sp",
    "10m_u_component_of_wind": "u10",
    "10m_v_component_of_wind": "v10",
    "friction_velocity": "zust",
    "forecast_albedo": "fal",
    "instantaneous_surface_sensible_heat_flux": "ishf",
    "surface_solar_radiation_downwards": "ssrd",
    "surface_thermal_radiation_downwards": "strd",
    "surface_net_solar_radiation": "ssr",
    "surface_net_thermal_radiation": "str",
    "surface_sensible_heat_flux": "sshf",
    "surface_latent_heat_flux": "slhf",
    "total_precipitation": "tp",
    "geopotential_at_surface": "z",
    "land_sea_mask": "lsm",
    **{f"soil_temperature_level_{i}": f"stl{i}" for i in range(1, 5)},
    **{f"volumetric_soil_water_layer_{i}": f"swvl{i}" for i in range(1, 5)},
}
