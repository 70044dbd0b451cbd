"""The ERA5 parameters that are used: one table of their names and units in every source.

A *dialect* is the set of names of one provider: the Climate Data Store's files (``t2m``) and requests
(``2m_temperature``, also ARCO-ERA5), MARS and GRIB (``2t``, paramId 167), CDO (``var167``), Earth Engine
(``temperature_2m``), and the copies of ERA5 on AWS and the Planetary Computer (``air_temperature_at_2_metres``). Earth
Data Hub uses the names of the Climate Data Store's files.

References
----------
ECMWF parameter database, https://codes.ecmwf.int/grib/param-db
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Parameter:
    """One physical quantity of ERA5.

    Attributes
    ----------
    name : str
        Name in the NetCDF files of the Climate Data Store, by which it is known here.
    kind : {"instant", "accumulated", "static"}
        Whether values are of the stamp, are accumulated until the stamp, or do not change.
    units : str
    number : int
        paramId of ECMWF's database; up to 255 also the number in table 128 of GRIB 1.
    request : str
        Name in requests to the Climate Data Store, and in ARCO-ERA5.
    others : tuple of str
        Names in other dialects.
    """

    name: str
    kind: str
    units: str
    number: int
    request: str
    others: tuple[str, ...] = ()


def _soil(level: int, water: int, temperature: int) -> tuple[Parameter, Parameter]:
    return (
        Parameter(f"swvl{level}", "instant", "m3 m-3", water, f"volumetric_soil_water_layer_{level}"),
        Parameter(f"stl{level}", "instant", "K", temperature, f"soil_temperature_level_{level}"),
    )


_SUNLIGHT_AWS = "integral_wrt_time_of_surface_direct_downwelling_shortwave_flux_in_air_1hour_Accumulation"
_SOIL = [_soil(level, 38 + level, number) for level, number in ((1, 139), (2, 170), (3, 183), (4, 236))]
_TABLE = (
    Parameter("t2m", "instant", "K", 167, "2m_temperature", ("2t", "temperature_2m", "air_temperature_at_2_metres")),
    Parameter(
        "d2m",
        "instant",
        "K",
        168,
        "2m_dewpoint_temperature",
        ("2d", "dewpoint_temperature_2m", "dew_point_temperature_at_2_metres"),
    ),
    Parameter("sp", "instant", "Pa", 134, "surface_pressure", ("surface_air_pressure",)),
    Parameter(
        "u10",
        "instant",
        "m s-1",
        165,
        "10m_u_component_of_wind",
        ("10u", "u_component_of_wind_10m", "eastward_wind_at_10_metres"),
    ),
    Parameter(
        "v10",
        "instant",
        "m s-1",
        166,
        "10m_v_component_of_wind",
        ("10v", "v_component_of_wind_10m", "northward_wind_at_10_metres"),
    ),
    Parameter("zust", "instant", "m s-1", 228003, "friction_velocity"),
    Parameter("fal", "instant", "1", 243, "forecast_albedo"),
    Parameter("ishf", "instant", "W m-2", 231, "instantaneous_surface_sensible_heat_flux"),
    *(temperature for _, temperature in _SOIL),
    *(water for water, _ in _SOIL),
    Parameter("ssrd", "accumulated", "J m-2", 169, "surface_solar_radiation_downwards", (_SUNLIGHT_AWS,)),
    Parameter("strd", "accumulated", "J m-2", 175, "surface_thermal_radiation_downwards"),
    Parameter("ssr", "accumulated", "J m-2", 176, "surface_net_solar_radiation"),
    Parameter("str", "accumulated", "J m-2", 177, "surface_net_thermal_radiation"),
    Parameter("sshf", "accumulated", "J m-2", 146, "surface_sensible_heat_flux"),
    Parameter("slhf", "accumulated", "J m-2", 147, "surface_latent_heat_flux"),
    Parameter("tp", "accumulated", "m", 228, "total_precipitation", ("precipitation_amount_1hour_Accumulation",)),
    # "geopotential" is also the name of a field on pressure levels, which has other dimensions and is refused.
    Parameter("z", "static", "m2 s-2", 129, "geopotential", ("geopotential_at_surface",)),
    Parameter("lsm", "static", "1", 172, "land_sea_mask"),
)
#: All parameters by their name.
PARAMETERS: Mapping[str, Parameter] = {one.name: one for one in _TABLE}


def _units_of(kind: str) -> dict[str, str]:
    return {one.name: one.units for one in _TABLE if one.kind == kind}


INSTANT, ACCUMULATED, STATIC = _units_of("instant"), _units_of("accumulated"), _units_of("static")
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
#: are converted, and their paramId. They have the units below, and the factor converts them to the amount of an hour.
_RATES = {
    "ssrd": (235035, "msdwswrf", "avg_sdswrf", "mean_surface_downward_short_wave_radiation_flux"),
    "strd": (235036, "msdwlwrf", "avg_sdlwrf", "mean_surface_downward_long_wave_radiation_flux"),
    "ssr": (235037, "msnswrf", "avg_snswrf", "mean_surface_net_short_wave_radiation_flux"),
    "str": (235038, "msnlwrf", "avg_snlwrf", "mean_surface_net_long_wave_radiation_flux"),
    "sshf": (235033, "msshf", "avg_ishf", "mean_surface_sensible_heat_flux"),
    "slhf": (235034, "mslhf", "avg_slhtf", "mean_surface_latent_heat_flux"),
    "tp": (235055, "mtpr", "avg_tprate", "mean_total_precipitation_rate"),
}
RATES = {name: parameter for parameter, (_, *names) in _RATES.items() for name in names}
# Requests to the CDS have called them time-mean since 2024.
RATES |= {f"time_{name}": parameter for name, parameter in RATES.items() if name.startswith("mean_")}
RATE_UNITS = {parameter: "kg m-2 s-1" if parameter == "tp" else "W m-2" for parameter in _RATES}
RATE_FACTORS = {parameter: 3.6 if parameter == "tp" else 3600.0 for parameter in _RATES}
#: Attribute that marks an accumulated parameter whose stored values are mean rates.
RATE = "fluxcube_mean_rate"
#: Attribute that marks an accumulated parameter whose name says that its values are amounts of single hours.
HOURLY = "fluxcube_hourly_amount"

# Names of other dialects, from the one that is preferred where a file has several to the last one.
_OTHERS = {name: one.name for one in _TABLE for name in one.others}
_REQUESTS = {one.request: one.name for one in _TABLE}
# Earth Engine's ERA5-Land has totals since 00 UTC under the names of requests, and amounts of hours under these.
_AMOUNTS = {f"{one.request}_hourly": one.name for one in _TABLE if one.kind == "accumulated"}
_NUMBERS = {one.number: one.name for one in _TABLE}
_RATE_NUMBERS = {number: names[0] for number, *names in _RATES.values()}
#: Rank of names in capitals, which other products have, too: they count only where a file has no other names.
CAPITALS = 6
# CDO's table of ECMWF and the archive of NCAR write names in capitals.
_UPPER_CASE = {
    **{one.name.upper(): one.name for one in _TABLE},
    **{f"VAR_{name.upper()}": one.name for one in _TABLE for name in one.others if len(name) < 4},
    "U10M": "u10",
    "V10M": "v10",
}
#: Names in Earth Engine that differ from those of requests: their assets declare no units.
_WITHOUT_UNITS = {"temperature_2m", "dewpoint_temperature_2m", "u_component_of_wind_10m", "v_component_of_wind_10m"}
_NUMBERED = re.compile(r"(?:var|param)(\d{1,3})(?:\.(\d{1,3}))?", re.IGNORECASE)


@dataclass(frozen=True)
class Meaning:
    """What a name of some dialect means.

    Attributes
    ----------
    parameter : str
        Name in `PARAMETERS`.
    rate : bool
        Whether values are mean rates of the hour, in `RATE_UNITS`.
    hourly : bool
        Whether the name says that values are amounts of single hours.
    implied : bool
        Whether files of the dialect declare no units, which are those of the table then.
    rank : int
        The lowest is preferred where a file has a parameter under several names.
    """

    parameter: str
    rate: bool = False
    hourly: bool = False
    implied: bool = False
    rank: int = 0

    @property
    def units(self) -> str:
        """Units of the stored values."""
        return RATE_UNITS[self.parameter] if self.rate else UNITS[self.parameter]


def meaning_of(name: str, attributes: Mapping[str, object] | None = None) -> Meaning | None:
    """Return the meaning of a variable's name in any dialect; None for a variable that is not used.

    Parameters
    ----------
    name : str
        Name of the variable in a file, a store or a table.
    attributes : mapping, optional
        Its attributes: CDO writes the number of a parameter and its table as ``code`` and ``table``.

    Examples
    --------
    >>> meaning_of("2m_temperature").parameter, meaning_of("var167").parameter, meaning_of("avg_sdswrf").units
    ('t2m', 't2m', 'W m-2')
    """
    if name in PARAMETERS:
        return Meaning(name)
    if name in _AMOUNTS:
        return Meaning(_AMOUNTS[name], hourly=True, implied=True, rank=1)
    if name in _OTHERS:
        return Meaning(_OTHERS[name], implied=name in _WITHOUT_UNITS, rank=1)
    if name in _REQUESTS:
        return Meaning(_REQUESTS[name], rank=2)
    if (number := _number(name, attributes or {})) is not None:
        return meaning_of_number(number)
    if name in RATES:
        return Meaning(RATES[name], rate=True, rank=4)
    return Meaning(_UPPER_CASE[name], rank=CAPITALS) if name in _UPPER_CASE else None


def meaning_of_number(number: int) -> Meaning | None:
    """Return the meaning of a paramId; None for a parameter that is not used."""
    if number in _NUMBERS:
        return Meaning(_NUMBERS[number], implied=True, rank=3)
    if number in _RATE_NUMBERS:
        return Meaning(RATES[_RATE_NUMBERS[number]], rate=True, implied=True, rank=5)
    return None


def _number(name: str, attributes: Mapping[str, object]) -> int | None:
    """Return the paramId of CDO's names ``var167`` and ``param167.128``."""
    if (match := _NUMBERED.fullmatch(name)) is None:
        return None
    table = match[2] or str(attributes.get("table", 128))
    return None if not table.isdigit() else int(match[1]) if int(table) == 128 else 1000 * int(table) + int(match[1])
