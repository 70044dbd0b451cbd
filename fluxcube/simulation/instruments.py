"""Derive towers' records from the true fluxes: noise, calm nights, broken sensors, and ONEFlux-like processing."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fluxcube.simulation.places import FLUXNET, Tower
from fluxcube.simulation.planet import Planet

_STATES = (
    "TA",
    "TD",
    "VPD",
    "RH",
    "PA",
    "P",
    "SW_IN",
    "SW_IN_POT",
    "LW_IN",
    "WS",
    "WD",
    "NEE",
    "GPP",
    "RECO",
    "LAI",
    "WATER",
    "TS",
    "ET",
    "COLD",
)
# Noise of each sensor: standard deviation as a share of the value, and standard deviation at zero.
_SENSORS = {
    "TA": (0.0, 0.15),
    "SW_IN": (0.012, 0.0),
    "LW_IN": (0.0, 3.0),
    "VPD": (0.03, 0.05),
    "PA": (0.0, 0.02),
    "P": (0.0, 0.0),
    "WS": (0.04, 0.05),
}
_SOIL_SENSORS = {"TS": (0.0, 0.1), "SWC": (0.01, 0.2), "CO2": (0.0, 1.5), "G": (0.05, 2.0)}
_WINDOWS = ((3, 1), (7, 1), (14, 2), (45, 3), (400, 3))  # days on each side, and the flag of values filled from them
_ROUGH = {"ENF": 0.13, "EBF": 0.13, "DBF": 0.13, "MF": 0.13, "SAV": 0.1, "OSH": 0.08}


@dataclass(frozen=True, kw_only=True)
class Record:
    """The numbers of a tower's file.

    Attributes
    ----------
    start : (time,) datetime64[m]
        Local standard time at the start of each step.
    columns : mapping of str to (time,) float64
        Values by ONEFlux column; NaN where missing.
    """

    start: np.ndarray
    columns: Mapping[str, np.ndarray]


#: Function that returns the record of a network for its first and last year.
Recorder = Callable[[str, list[int]], Record]


def batches(planet: Planet, size: int = 6) -> list[tuple[Tower, ...]]:
    """Group the towers into batches with the same time axis (step, phase, years), which are simulated together."""
    clocks: dict[tuple, list[Tower]] = {}
    for tower in planet.towers:
        clocks.setdefault((tower.step_minutes, 60 * tower.utc_offset % tower.step_minutes, tower.years), []).append(
            tower
        )
    return [tuple(same[i : i + size]) for same in clocks.values() for i in range(0, len(same), size)]


def observe(planet: Planet, towers: Sequence[Tower]) -> list[Recorder]:
    """Simulate the records of towers with the same time axis.

    Parameters
    ----------
    planet : Planet
    towers : sequence of Tower
        One of `batches`.

    Returns
    -------
    list of callable
        For each tower a function of a network and its first and last year, which returns that network's `Record`.
    """
    minutes, years = towers[0].step_minutes, towers[0].years
    step = np.timedelta64(minutes, "m")
    start = np.arange(_edge(planet, years[0], 0), _edge(planet, years[1], 1), step)
    offsets = [round(60 * tower.utc_offset) for tower in towers]
    utc = np.arange(
        start[0] - np.timedelta64(max(offsets), "m"), start[-1] + step - np.timedelta64(min(offsets), "m"), step
    )
    states = planet.states(
        utc,
        [tower.latitude for tower in towers],
        [tower.longitude for tower in towers],
        [tower.igbp for tower in towers],
        step_hours=minutes / 60,
        names=_STATES,
    )
    records: list[Recorder] = []
    for n, (tower, offset) in enumerate(zip(towers, offsets, strict=True)):
        first = (max(offsets) - offset) // minutes
        own = {name: values[n, first : first + len(start)] for name, values in states.items()}
        records.append(functools.partial(_record, planet, tower, start, own))
    return records


def _record(
    planet: Planet, tower: Tower, start: np.ndarray, states: Mapping[str, np.ndarray], network: str, years: list[int]
) -> Record:
    site = [planet.seed, zlib.crc32(tower.site.encode())]
    measured = _measure(states, tower, np.random.default_rng(site))
    rng = np.random.default_rng([*site, 1 if network == FLUXNET else 2])
    columns = _publish(states, measured, tower, rng, newer=network != FLUXNET)
    inside = (start >= _edge(planet, years[0], 0)) & (start < _edge(planet, years[1], 1))
    return Record(start=start[inside], columns={name: values[inside] for name, values in columns.items()})


def _edge(planet: Planet, year: int, which: int) -> np.datetime64:
    """Return the local time at which a year's record begins (which = 0) or ends (1)."""
    year += which if not planet.quick else 0
    return np.datetime64(f"{year}-{planet.record[which]}", "m")


def _measure(states: Mapping[str, np.ndarray], tower: Tower, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the values that the instruments measure, NaN while they are broken; both networks start from these."""
    full = {**states, **_energy(states, tower, rng)}
    out = {name: _sense(full[name], *noise, rng) for name, noise in {**_SENSORS, **_SOIL_SENSORS}.items()}
    for name in ("SW_IN", "VPD", "WS"):
        out[name] = np.maximum(out[name], 0.0)
    for name in out:
        out[name] = np.where(_outages(len(out[name]), tower, rng, share=0.03), np.nan, out[name])
    down = _outages(len(full["NEE"]), tower, rng, share=0.1) | _long_gaps(len(full["NEE"]), tower, rng)
    # Water on the sensor's window: most hours with rain are lost.
    down |= (states["P"] > 0.1) & (rng.random(len(down)) < 0.7)
    for name, floor, slope in (("NEE", 0.55, 0.09), ("LE", 8.0, 0.12), ("H", 8.0, 0.12)):
        out[f"{name}_sigma"] = floor + slope * np.abs(full[name])
        noise = rng.laplace(0.0, out[f"{name}_sigma"] / np.sqrt(2))
        out[name] = np.where(down, np.nan, full[name] + noise)
    return {**out, "USTAR": full["USTAR"], "NETRAD": full["NETRAD"]}


def _sense(values: np.ndarray, share: float, floor: float, rng: np.random.Generator) -> np.ndarray:
    """Add noise to values that are not exactly zero (as at night or without rain)."""
    noise = rng.standard_normal(len(values)) * (floor + share * np.abs(values))
    return np.where(values == 0, 0.0, values + noise)


def _energy(states: Mapping[str, np.ndarray], tower: Tower, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return quantities that only towers measure: the energy balance, turbulence, soil moisture and CO2."""
    albedo = np.where(states["COLD"] < -1.0, 0.5, 0.17)
    kelvin = 0.5 * (states["TA"] + states["TS"]) + 273.15
    net = (1 - albedo) * states["SW_IN"] + states["LW_IN"] - 0.97 * 5.67e-8 * kelvin**4
    ground = 0.1 * net
    latent = states["ET"] * 2.45e6 / (60 * tower.step_minutes)
    unstable = np.clip(net / 400, -0.35, 0.6)
    gust = np.exp(0.3 * rng.standard_normal(len(net)))
    return {
        "NETRAD": net,
        "G": ground,
        "LE": latent,
        "H": 0.75 * (net - ground - latent),
        "SWC": 4 + 36 * states["WATER"],
        "USTAR": _ROUGH.get(tower.igbp, 0.07) * states["WS"] * (1 + unstable) * gust,
        "CO2": 408 + 1.2 * np.clip(states["NEE"], -10, 10),
    }


def _outages(steps: int, tower: Tower, rng: np.random.Generator, share: float) -> np.ndarray:
    """Return which steps are lost to short failures, of hours to days, that take about `share` of the time."""
    per_day = 1440 // tower.step_minutes
    out = np.zeros(steps, bool)
    while out.mean() < share:
        length = int(per_day * rng.exponential(0.6)) + 1
        begin = rng.integers(0, steps)
        out[begin : begin + length] = True
    return out


def _long_gaps(steps: int, tower: Tower, rng: np.random.Generator) -> np.ndarray:
    """Return which steps are lost to long failures, of one to four weeks, about once a year."""
    per_day = 1440 // tower.step_minutes
    out = np.zeros(steps, bool)
    for _ in range(rng.poisson(steps / (365 * per_day))):
        begin = rng.integers(0, steps)
        out[begin : begin + per_day * rng.integers(7, 29)] = True
    return out


def _publish(
    states: Mapping[str, np.ndarray],
    measured: Mapping[str, np.ndarray],
    tower: Tower,
    rng: np.random.Generator,
    *,
    newer: bool,
) -> dict[str, np.ndarray]:
    """Process measurements as one release does: filter calm nights, fill gaps, partition, flag.

    The newer release rejects fewer nights and corrects the fluxes and the radiometer a little.
    """
    per_day = 1440 // tower.step_minutes
    night = states["SW_IN_POT"] < 1e-6
    columns = {"SW_IN_POT": states["SW_IN_POT"], "NIGHT": night.astype(float)}
    for name in _SENSORS:
        factor = 1.01 if newer and name == "SW_IN" else 1.0
        columns[f"{name}_F"], columns[f"{name}_F_QC"] = _fill_weather(
            name, states, factor * measured[name], per_day, rng
        )
    columns |= _unfilled(states, measured, columns, tower, rng)
    for name, column in (("CO2", "CO2_F_MDS"), ("TS", "TS_F_MDS_1"), ("SWC", "SWC_F_MDS_1"), ("G", "G_F_MDS")):
        columns[column], columns[f"{column}_QC"] = _fill(measured[name], per_day)
    calm = night & (measured["USTAR"] < (0.13 if newer else 0.15) * (1.4 if tower.igbp in _ROUGH else 0.8))
    scale = 1.02 if newer else 1.0
    for name in ("LE", "H"):
        columns[f"{name}_F_MDS"], columns[f"{name}_F_MDS_QC"] = _fill(scale * measured[name], per_day)
    return {**columns, **_carbon(states, scale * measured["NEE"], measured["NEE_sigma"], calm, per_day, rng)}


def _fill_weather(
    name: str, states: Mapping[str, np.ndarray], values: np.ndarray, per_day: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Fill short gaps from nearby days and the rest from reanalysis: flags 0, 1 and 2."""
    steps = len(values)
    reanalysis = states[name] + _drift(steps, per_day, rng) * (0.05 * np.abs(states[name]) + 0.3 * _SENSORS[name][1])
    if name in ("SW_IN", "VPD", "WS", "P"):
        reanalysis = np.maximum(reanalysis, 0.0)
    if name in ("P", "PA", "WS"):  # ONEFlux fills these from reanalysis alone
        filled, flag = values, np.zeros(steps)
    else:
        filled, flag = _fill(values, per_day)
    era = ~np.isfinite(filled) | (flag > 1) | ~np.isfinite(values) & (name in ("P", "PA", "WS"))
    return np.where(era, reanalysis, filled), np.where(era, 2.0, flag)


def _drift(steps: int, per_day: int, rng: np.random.Generator) -> np.ndarray:
    """Return a smooth random error, -1 to 1, that is correlated over a day."""
    knots = rng.uniform(-1, 1, steps // per_day + 2)
    return np.interp(np.arange(steps) / per_day, np.arange(len(knots)), knots)


def _unfilled(
    states: Mapping[str, np.ndarray],
    measured: Mapping[str, np.ndarray],
    columns: Mapping[str, np.ndarray],
    tower: Tower,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Return the columns that are not gap-filled; some sites lack a sensor altogether."""
    humid = np.where(
        np.isfinite(measured["VPD"]), np.clip(states["RH"] + rng.normal(0, 1.5, len(states["RH"])), 0, 100), np.nan
    )
    light = np.where(measured["SW_IN"] > 0, 2.05 * measured["SW_IN"], measured["SW_IN"])
    out = {
        "WD": np.where(np.isfinite(measured["WS"]), states["WD"], np.nan),
        "RH": humid,
        "PPFD_IN": light,
        "USTAR": np.where(np.isfinite(measured["WS"]), measured["USTAR"], np.nan),
        "NETRAD": np.where(columns["LW_IN_F_QC"] == 0, measured["NETRAD"], np.nan),
    }
    lacks = zlib.crc32(tower.site.encode()) % 7
    absent = {0: "PPFD_IN", 1: "NETRAD", 2: "WD"}.get(lacks)
    return {name: np.full(len(v), np.nan) if name == absent else v for name, v in out.items()}


def _carbon(
    states: Mapping[str, np.ndarray],
    measured: np.ndarray,
    sigma: np.ndarray,
    calm: np.ndarray,
    per_day: int,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Return NEE, its flag and uncertainty, and both partitionings."""
    nee, flag = _fill(np.where(calm, np.nan, measured), per_day)
    # The result of a fit to the nights of some weeks: the true flux with an error that drifts.
    reco = states["RECO"] * (1 + 0.12 * _drift(len(nee), 8 * per_day, rng))
    gpp = states["GPP"] * (1 + 0.12 * _drift(len(nee), 8 * per_day, rng))
    nee, reco = np.round(nee, 4), np.round(reco, 4)  # so that NEE = RECO - GPP is exact in the file, too
    return {
        "NEE_VUT_REF": nee,
        "NEE_VUT_REF_QC": flag,
        "NEE_VUT_REF_RANDUNC": np.where(flag == 0, sigma, 1.2 * sigma),
        "RECO_NT_VUT_REF": reco,
        "GPP_NT_VUT_REF": reco - nee,
        "RECO_DT_VUT_REF": reco * (1 + 0.05 * _drift(len(nee), 8 * per_day, rng)),
        "GPP_DT_VUT_REF": gpp,
    }


def _fill(values: np.ndarray, per_day: int) -> tuple[np.ndarray, np.ndarray]:
    """Fill gaps with the mean of the same time of day on nearby days.

    Returns
    -------
    filled : (time,) float64
        NaN where no day of the record has a value at that time of day.
    flag : (time,) float64
        0 measured; 1, 2 or 3 filled from days increasingly far away; NaN without a value.

    References
    ----------
    Falge et al. 2001, doi:10.1016/S0168-1923(00)00225-2 (mean diurnal variation).
    """
    days = values.reshape(-1, per_day)
    filled, flag = days.copy(), np.where(np.isfinite(days), 0.0, np.nan)
    total, count = (np.vstack([np.zeros(per_day), np.cumsum(x, 0)]) for x in (np.nan_to_num(days), np.isfinite(days)))
    for width, quality in _WINDOWS:
        low, high = _span(len(days), width)
        number = count[high] - count[low]
        take = ~np.isfinite(filled) & (number >= (2 if width < 100 else 1))
        filled[take] = ((total[high] - total[low]) / np.maximum(number, 1))[take]
        flag[take] = quality
    return filled.ravel(), flag.ravel()


@functools.lru_cache(maxsize=32)
def _span(days: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first day, and the day after the last, of the window around each day."""
    day = np.arange(days)
    return np.maximum(day - width, 0), np.minimum(day + width + 1, days)
