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
# Spellings of units that CDS, cfgrib and other converters use and `fluxcube.units` does not know.
SPELLINGS = {
    **dict.fromkeys(("(0 - 1)", "(0-1)", "0-1", "", "~"), "1"),
    "m of water equivalent": "m",
}
#: Symbols of units that some files write as words.
UNIT_WORDS = {
    **dict.fromkeys(("meter", "meters", "metre", "metres"), "m"),
    **dict.fromkeys(("joule", "joules"), "J"),
    **dict.fromkeys(("watt", "watts"), "W"),
    **dict.fromkeys(("pascal", "pascals"), "Pa"),
    **dict.fromkeys(("kelvin", "kelvins"), "K"),
    **dict.fromkeys(("second", "seconds", "sec"), "s"),
}
#: Mean rates of the hour that ends at the stamp (names before and since 2024): the accumulated parameter to which they
#: are converted. They have these units, and the factor converts them to the amount of an hour.
_RATES = {
    "ssrd": ("msdwswrf", "avg_sdswrf", "mean_surface_downward_short_wave_radiation_flux"),
    "strd": ("msdwlwrf", "avg_sdlwrf", "mean_surface_downward_long_wave_radiation_flux"),
    "ssr": ("msnswrf", "avg_snswrf", "mean_surface_net_short_wave_radiation_flux"),
    "str": ("msnlwrf", "avg_snlwrf", "mean_surface_net_long_wave_radiation_flux"),
    "sshf": ("msshf", "avg_ishf", "mean_surface_sensible_heat_flux"),
    "slhf": ("mslhf", "avg_slhtf", "mean_surface_latent_heat_flux"),
    "tp": ("mtpr", "avg_tprate", "mean_total_precipitation_rate"),
}
RATES = {name: parameter for parameter, names in _RATES.items() for name in names}
# Requests to the CDS have called them time-mean since 2024.
RATES |= {f"time_{name}": parameter for name, parameter in RATES.items() if name.startswith("mean_")}
RATE_UNITS = {parameter: "kg m-2 s-1" if parameter == "tp" else "W m-2" for parameter in _RATES}
RATE_FACTORS = {parameter: 3.6 if parameter == "tp" else 3600.0 for parameter in _RATES}
#: Attribute that marks an accumulated parameter whose stored values are mean rates.
RATE = "fluxcube_mean_rate"
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
