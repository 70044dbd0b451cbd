"""The planet's weather at any place and time, determined by a seed, with the real sun's position."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fluxcube.humidity import relative_humidity, saturation_vapour_pressure, vapour_pressure_deficit
from fluxcube.simulation.fields import Field, make_field
from fluxcube.solar import potential_radiation
from fluxcube.timestamps import local_clock

_EPOCH = np.datetime64("2018-01-01T00", "s")
_LAPSE_RATE = 6.5e-3  # K m-1
_DAY = 24.0


@dataclass(frozen=True)
class Climate:
    """The random fields of one planet."""

    synoptic: Field  # fronts: wet and dry air
    mesoscale: Field  # showers
    cumulus: Field  # clouds that last for hours
    warmth: Field  # warm and cold spells
    season: Field  # wet and dry months
    eastward: Field
    northward: Field
    hills: Field
    mountains: Field
    continental: Field
    warm_land: Field
    wet_land: Field


@functools.lru_cache(maxsize=8)
def climate(seed: int) -> Climate:
    """Draw the fields of one planet."""
    rng = np.random.default_rng([seed, 7])
    return Climate(
        synoptic=make_field(rng, (1500, 5000), (40, 240)),
        mesoscale=make_field(rng, (300, 900), (6, 40)),
        cumulus=make_field(rng, (150, 500), (2.5, 8)),
        warmth=make_field(rng, (1500, 5000), (60, 400)),
        season=make_field(rng, (3000, 8000), (15 * _DAY, 70 * _DAY)),
        eastward=make_field(rng, (1000, 4000), (20, 200)),
        northward=make_field(rng, (1000, 4000), (20, 200)),
        hills=make_field(rng, (120, 500)),
        mountains=make_field(rng, (1500, 6000)),
        continental=make_field(rng, (3000, 9000)),
        warm_land=make_field(rng, (1000, 5000)),
        wet_land=make_field(rng, (400, 4000)),
    )


def elevation(seed: int, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Return the height of the land (place,), m."""
    fields = climate(seed)
    relief = 0.4 * fields.mountains.at(latitude, longitude) + 0.35 * fields.hills.at(latitude, longitude)
    return 350.0 * np.exp(relief)


def weather(
    seed: int, time: np.ndarray, latitude: ArrayLike, longitude: ArrayLike, *, step_hours: float = 1.0
) -> dict[str, np.ndarray]:
    """Return the weather over steps that start at `time`.

    Radiation is the mean and rain the sum over the step; other variables are those at the middle of the step.

    Parameters
    ----------
    seed : int
    time : (time,) datetime64
        UTC, at the start of the step.
    latitude, longitude : (place,) float
        Degrees.
    step_hours : float
        Length of a step, hours.

    Returns
    -------
    dict of (place, time) float64
        TA, TD (degC), VPD (hPa), RH (%), PA (kPa), P (mm in the step), SW_IN, SW_IN_POT, LW_IN (W m-2), U, V,
        WS (m s-1), WD (degree).

    References
    ----------
    Brutsaert 1975, doi:10.1029/WR011i005p00742 (clear-sky emissivity).
    """
    lat, lon = (np.atleast_1d(np.asarray(x, float)) for x in (latitude, longitude))
    moment = time.astype("datetime64[s]") + np.timedelta64(round(step_hours * 1800), "s")
    out = atmosphere(seed, moment, lat, lon)
    potential = potential_radiation(time, lat, lon, hours=step_hours)
    out["SW_IN_POT"], out["SW_IN"] = potential, potential * out.pop("clearness")
    out["P"] = out.pop("rain") * step_hours
    return out


def atmosphere(seed: int, moment: np.ndarray, latitude: np.ndarray, longitude: np.ndarray) -> dict[str, np.ndarray]:
    """Return the state of the air at each time, as `weather`, but `clearness` and `rain` (mm h-1) for SW_IN and P."""
    fields = climate(seed)
    hours = (moment.astype("datetime64[s]") - _EPOCH).astype(float) / 3600.0
    wetness = _wetness(fields, hours, latitude, longitude)
    season = fields.season.over(hours, latitude, longitude)
    front = 0.8 * fields.synoptic.over(hours, latitude, longitude) + 0.75 * season
    shower = 0.8 * front + 0.55 * fields.mesoscale.over(hours, latitude, longitude)
    cloud = shower + 0.35 * fields.cumulus.over(hours, latitude, longitude)
    clearness = 0.77 - 0.63 * _sigmoid((cloud - 1.15 + 0.95 * wetness) / 0.4)
    mean = _mean_temperature(seed, hours, latitude, longitude)
    swing = (2.6 + 3.4 * _sigmoid(-(front - 0.6 + 0.8 * wetness) / 0.5)) * _diurnal(moment, longitude)
    ta = mean + swing
    td = np.minimum(mean - 1.5 - 10.5 * _sigmoid(-(1.2 * front + 2.2 * (wetness - 0.55)) / 0.8), ta - 0.3)
    pressure = _pressure(elevation(seed, latitude, longitude)[:, None], mean, front)
    return {
        "TA": ta,
        "TD": td,
        "VPD": vapour_pressure_deficit(ta, td),
        "RH": relative_humidity(ta, td),
        "PA": pressure,
        "LW_IN": _longwave(ta, td, clearness),
        "clearness": clearness,
        "rain": _rain(shower, wetness),
        **_wind(fields, moment, hours, latitude, longitude),
    }


def solar_season(moment: np.ndarray, latitude: np.ndarray) -> np.ndarray:
    """Return the phase of the year (place, time) in radians: 0 at midsummer of the place's hemisphere."""
    days = (moment.astype("datetime64[s]") - _EPOCH).astype(float) / 86400.0
    return 2 * np.pi * (days - 171.0) / 365.25 + np.where(np.asarray(latitude) < 0, np.pi, 0.0)[:, None]


def day_length(moment: np.ndarray, latitude: np.ndarray) -> np.ndarray:
    """Return the hours from sunrise to sunset (place, time), from a sinusoidal declination."""
    tilt = np.deg2rad(23.44) * np.cos(solar_season(moment, latitude))
    return 24 / np.pi * np.arccos(np.clip(-np.tan(np.deg2rad(np.abs(latitude)))[:, None] * np.tan(tilt), -1, 1))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _mean_temperature(seed: int, hours: np.ndarray, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Return the temperature without its daily cycle (place, time), degC."""
    fields = climate(seed)
    steep = np.sin(np.deg2rad(latitude)) ** 2
    annual = -16.0 + 46.0 * np.cos(np.deg2rad(latitude)) ** 1.3 + 0.6 * fields.warm_land.at(latitude, longitude)
    annual = annual - _LAPSE_RATE * elevation(seed, latitude, longitude)
    width = (1.5 + 19.0 * steep) * (1.0 + 0.12 * fields.continental.at(latitude, longitude))
    moment = _EPOCH + np.round(hours * 3600).astype("timedelta64[s]")
    lag = np.cos(solar_season(moment, latitude) - np.deg2rad(28.0))
    spells = 5.4 * fields.warmth.over(hours, latitude, longitude) + 1.8 * fields.season.over(hours, latitude, longitude)
    return annual[:, None] + width[:, None] * lag + (0.3 + 1.2 * steep)[:, None] * spells


def _wetness(fields: Climate, hours: np.ndarray, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Return the influence of the season's rain belts (place, time): about 0.1 in a desert, 1 in a rain forest."""
    moment = _EPOCH + np.round(hours * 3600).astype("timedelta64[s]")
    northern = np.cos(solar_season(moment, np.ones(1)) - np.deg2rad(25.0))
    tropics = np.exp(-(((latitude[:, None] - 11.0 * northern) / 13.0) ** 2))
    local = northern * np.sign(latitude)[:, None]
    storms = np.exp(-(((np.abs(latitude)[:, None] - 47.0 - 4.0 * local) / 14.0) ** 2))
    return np.maximum(tropics, 0.9 * storms) + 0.05 * fields.wet_land.at(latitude, longitude)[:, None]


def _diurnal(moment: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Return the shape of the daily cycle (place, time): -1 before dawn, 1 at about 14:30."""
    _, tod = local_clock(moment, longitude / 15.0)
    angle = 2 * np.pi * (tod - 14.5) / 24.0
    return np.cos(angle) + 0.22 * np.cos(2 * angle) - 0.1


def _rain(shower: np.ndarray, wetness: np.ndarray) -> np.ndarray:
    """Return the rain rate, mm h-1."""
    return 1.9 * np.maximum(shower - (1.88 - 1.05 * wetness), 0.0) ** 1.2


def _pressure(height: np.ndarray, ta: np.ndarray, front: np.ndarray) -> np.ndarray:
    """Return the surface pressure (kPa) by the hypsometric equation, lower in unsettled weather."""
    return (101.4 - 0.7 * front) * np.exp(-9.80665 * height / (287.05 * (ta + 273.15)))


def _longwave(ta: np.ndarray, td: np.ndarray, clearness: np.ndarray) -> np.ndarray:
    """Return the downwelling longwave radiation, W m-2: Brutsaert's clear sky, higher under clouds."""
    kelvin = ta + 273.15
    clear = 1.24 * (saturation_vapour_pressure(td) / kelvin) ** (1 / 7)
    cover = np.clip((0.77 - clearness) / 0.63, 0.0, 1.0)
    return 5.67e-8 * kelvin**4 * (clear + (0.98 - clear) * cover**1.5)


def _wind(
    fields: Climate, moment: np.ndarray, hours: np.ndarray, latitude: np.ndarray, longitude: np.ndarray
) -> dict[str, np.ndarray]:
    """Return wind components, speed (m s-1) and the direction from which it blows (degrees), stronger by day."""
    _, tod = local_clock(moment, longitude / 15.0)
    gust = 1.0 + 0.35 * np.cos(2 * np.pi * (tod - 14.0) / 24.0)
    u = gust * (0.8 + 2.2 * fields.eastward.over(hours, latitude, longitude))
    v = gust * 2.2 * fields.northward.over(hours, latitude, longitude)
    return {"U": u, "V": v, "WS": np.hypot(u, v), "WD": (180.0 + np.degrees(np.arctan2(u, v))) % 360.0}
