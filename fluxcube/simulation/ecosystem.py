"""The planet's ecosystems: leaf area, photosynthesis and respiration by class, from present and past weather."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike

from fluxcube.errors import unknown
from fluxcube.simulation.memory import soil_water, trailing_mean


@dataclass(frozen=True, kw_only=True)
class Traits:
    """Parameters of a land-cover class.

    Attributes
    ----------
    uptake : float
        Photosynthesis of a closed canopy in full light, umol m-2 s-1.
    half_light : float
        Light at which half of `uptake` is reached, W m-2.
    dry_air : float
        Vapour pressure deficit at which half of `uptake` is lost, hPa.
    thirst : float
        Degree to which an empty soil-water store closes stomata, 0 to 1.
    leaf_low, leaf_high : float
        Minimum and maximum leaf area, m2 m-2.
    by_warmth, by_water, by_light : float
        Degree to which leaf area follows warmth, soil water and day length, 0 to 1.
    crop : float
        1 for a sown field that is harvested, else 0.
    breath : float
        Respiration at 15 degC soil temperature, umol m-2 s-1.
    q10 : float
        Factor by which respiration increases per 10 K.
    pulse : float
        Degree to which rain after drought increases respiration.
    """

    uptake: float
    half_light: float
    dry_air: float
    thirst: float
    leaf_low: float
    leaf_high: float
    by_warmth: float = 0.0
    by_water: float = 0.0
    by_light: float = 0.0
    crop: float = 0.0
    breath: float = 2.0
    q10: float = 2.0
    pulse: float = 0.0


TRAITS: Mapping[str, Traits] = {
    "ENF": Traits(
        uptake=40,
        half_light=200,
        dry_air=15,
        thirst=0.75,
        leaf_low=2.6,
        leaf_high=4.0,
        by_warmth=1.0,
        breath=2.8,
        q10=2.3,
        pulse=0.5,
    ),
    "EBF": Traits(
        uptake=43,
        half_light=240,
        dry_air=18,
        thirst=0.7,
        leaf_low=2.6,
        leaf_high=4.6,
        by_water=0.9,
        breath=3.0,
        q10=1.9,
        pulse=0.7,
    ),
    "DBF": Traits(
        uptake=59,
        half_light=260,
        dry_air=14,
        thirst=0.85,
        leaf_low=0.4,
        leaf_high=5.2,
        by_warmth=1.0,
        by_light=1.0,
        breath=2.8,
        q10=2.1,
        pulse=0.6,
    ),
    "MF": Traits(
        uptake=50,
        half_light=240,
        dry_air=14.5,
        thirst=0.8,
        leaf_low=1.5,
        leaf_high=4.8,
        by_warmth=1.0,
        by_light=0.7,
        breath=2.9,
        q10=2.2,
        pulse=0.6,
    ),
    "OSH": Traits(
        uptake=26,
        half_light=260,
        dry_air=22,
        thirst=0.9,
        leaf_low=0.3,
        leaf_high=1.7,
        by_warmth=0.4,
        by_water=0.9,
        breath=1.2,
        q10=1.7,
        pulse=1.5,
    ),
    "SAV": Traits(
        uptake=36,
        half_light=300,
        dry_air=22,
        thirst=0.92,
        leaf_low=0.5,
        leaf_high=2.8,
        by_warmth=0.3,
        by_water=1.0,
        breath=2.2,
        q10=1.8,
        pulse=1.4,
    ),
    "GRA": Traits(
        uptake=46,
        half_light=240,
        dry_air=15,
        thirst=0.95,
        leaf_low=0.4,
        leaf_high=3.8,
        by_warmth=0.9,
        by_water=1.0,
        breath=3.1,
        q10=2.0,
        pulse=1.1,
    ),
    "CRO": Traits(
        uptake=68,
        half_light=380,
        dry_air=18,
        thirst=0.8,
        leaf_low=0.2,
        leaf_high=5.2,
        by_warmth=1.0,
        crop=1.0,
        breath=2.6,
        q10=1.9,
        pulse=0.9,
    ),
    "WET": Traits(
        uptake=32,
        half_light=190,
        dry_air=20,
        thirst=0.3,
        leaf_low=0.5,
        leaf_high=3.6,
        by_warmth=1.0,
        breath=1.8,
        q10=2.6,
    ),
}

#: Classes that grow on the planet.
CLASSES = tuple(TRAITS)


def traits(igbp: ArrayLike) -> dict[str, np.ndarray]:
    """Return each trait as an array (place,) for classes (place,).

    Raises
    ------
    UnknownNameError
        If a class does not grow on the planet.
    """
    classes = [str(name) for name in np.atleast_1d(igbp)]
    for name in classes:
        if name not in TRAITS:
            raise unknown("class of the simulated planet", name, TRAITS)
    return {f.name: np.array([getattr(TRAITS[name], f.name) for name in classes]) for f in fields(Traits)}


def respond(
    weather: Mapping[str, np.ndarray],
    igbp: ArrayLike,
    *,
    season: np.ndarray,
    daylight: np.ndarray,
    step_hours: float,
    vigour: np.ndarray | float = 1.0,
    sowing: np.ndarray | float = 0.0,
) -> dict[str, np.ndarray]:
    """Compute the land's response to a period of weather.

    Every output at a step depends on that step and the past only; the influence of the past fades within about a month.

    Parameters
    ----------
    weather : mapping of (place, time)
        TA (degC), SW_IN (W m-2), VPD (hPa), P (mm in the step), as of `fluxcube.simulation.weather.weather`.
    igbp : (place,) str
        Classes.
    season : (place, time) float
        Phase of the year, radians, 0 at midsummer.
    daylight : (place, time) float
        Length of the day, hours.
    step_hours : float
        Length of a time step, hours.
    vigour, sowing : (place,) float
        Factor on leaf area; delay of crops, days.

    Returns
    -------
    dict of (place, time) float64
        NEE, GPP, RECO (umol m-2 s-1; NEE = RECO - GPP exactly), LAI (m2 m-2), WATER (0 to 1), TS (degC),
        ET (mm in the step), COLD (degC, for snow).

    References
    ----------
    Michaelis and Menten's light response as in Lasslop et al. 2010, doi:10.1111/j.1365-2486.2009.02041.x;
    acclimation to mean temperature as in Makela et al. 2004, doi:10.1093/treephys/24.4.369; rain pulses as in
    Birch 1958, doi:10.1007/BF01343734.
    """
    trait = {name: value[:, None] for name, value in traits(igbp).items()}
    past = past_weather(weather, step_hours)
    leaves = leaf_area(igbp, past, season=season, daylight=daylight, vigour=vigour, sowing=sowing)
    gpp = _photosynthesis(trait, weather, past, leaves) * np.reshape(vigour, (-1, 1)) ** 0.5
    reco = _respiration(trait, past, trailing_mean(gpp, 36 / step_hours))
    return {
        "NEE": reco - gpp,
        "GPP": gpp,
        "RECO": reco,
        "LAI": leaves,
        "WATER": past["water"],
        "TS": past["soil"],
        "ET": past["evaporation"],
        "COLD": past["cold"],
    }


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def past_weather(weather: Mapping[str, np.ndarray], step_hours: float) -> dict[str, np.ndarray]:
    """Summarise the past weather on which every class depends; arguments as of `respond`.

    Returns
    -------
    dict of (place, time) float64
        Temperatures (degC) `soil`, `acclimation`, `growth`, `cold`; soil water (0 to 1) `water`, and its mean of a
        week, `moisture`; `wetting`, the last day's rain (mm); `evaporation` (mm in the step).
    """
    ta, day = weather["TA"], 24 / step_hours
    # A good fifth of the sunlight's energy evaporates water (28.4 W m-2 for a day is 1 mm), more in dry air.
    demand = weather["SW_IN"] * (0.22 + 0.008 * np.minimum(weather["VPD"], 30.0)) / 28.4 * step_hours / 24
    store, evaporation = soil_water(weather["P"], demand, step_hours=step_hours)
    return {
        "soil": 0.72 * trailing_mean(ta, 3.5 * day) + 0.28 * trailing_mean(ta, 7 / step_hours),
        "acclimation": trailing_mean(ta, 10 * day),
        "growth": trailing_mean(ta, 14 * day),
        "moisture": trailing_mean(store, 6 * day),
        "cold": trailing_mean(ta, 4 * day),
        "wetting": trailing_mean(weather["P"] / step_hours, 1.2 * day) * 24,
        "water": store,
        "evaporation": evaporation,
    }


def leaf_area(
    igbp: ArrayLike,
    past: Mapping[str, np.ndarray],
    *,
    season: np.ndarray,
    daylight: np.ndarray,
    vigour: np.ndarray | float = 1.0,
    sowing: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Return leaf area (place, time), m2 m-2, between minimum and maximum, by warmth, water, day length and tillage.

    `past` is the result of `past_weather` (its `growth` and `moisture`); the other arguments are those of `respond`.
    """
    trait = {name: value[:, None] for name, value in traits(igbp).items()}
    late = np.angle(np.exp(1j * (season - 2 * np.pi * (np.reshape(sowing, (-1, 1)) - 8.0) / 365.25)))
    field = np.exp(-((late / 0.95) ** 2))
    growth = (
        (1 - trait["by_warmth"] * _sigmoid(-(past["growth"] - 8.0) / 1.8))
        * (1 - trait["by_water"] * _sigmoid(-(past["moisture"] - 0.4) / 0.08))
        * (1 - trait["by_light"] * _sigmoid(-(daylight - 11.0) / 0.4))
        * (1 - trait["crop"] * (1 - field))
    )
    return np.reshape(vigour, (-1, 1)) * (trait["leaf_low"] + (trait["leaf_high"] - trait["leaf_low"]) * growth)


def _photosynthesis(
    trait: Mapping[str, np.ndarray],
    weather: Mapping[str, np.ndarray],
    past: Mapping[str, np.ndarray],
    leaves: np.ndarray,
) -> np.ndarray:
    """Return gross uptake (place, time), umol m-2 s-1."""
    light = weather["SW_IN"] / (weather["SW_IN"] + trait["half_light"])
    best = 11.0 + 0.65 * past["acclimation"]
    warmth = np.exp(-(((weather["TA"] - best) / 8.5) ** 2)) * _sigmoid((past["acclimation"] - 3.0) / 1.6)
    air = 1.0 / (1.0 + (weather["VPD"] / trait["dry_air"]) ** 2)
    soil = 1.0 - trait["thirst"] * _sigmoid(-(past["water"] - 0.37) / 0.06)
    return trait["uptake"] * (1.0 - np.exp(-0.5 * leaves)) * light * warmth * air * soil


def _respiration(trait: Mapping[str, np.ndarray], past: Mapping[str, np.ndarray], recent: np.ndarray) -> np.ndarray:
    """Return the respiration of soil and plants (place, time), umol m-2 s-1; `recent` is the past day's uptake."""
    warmth = trait["q10"] ** ((past["soil"] - 15.0) / 10.0)
    moisture = 0.35 + 0.65 * _sigmoid((past["water"] - 0.38) / 0.08)
    pulse = 1.0 + trait["pulse"] * np.tanh(past["wetting"] / 4.0) * _sigmoid(-(past["moisture"] - 0.5) / 0.12)
    return trait["breath"] * warmth * moisture * pulse + 0.28 * recent
