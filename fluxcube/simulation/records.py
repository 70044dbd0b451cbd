"""Simulate some weeks of a tower's ONEFlux record: gaps, flags, gap-filled values, uncertainties, real solar angles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fluxcube.simulation.instruments import Record
from fluxcube.solar import potential_radiation

#: Filled from similar hours or reanalysis (``_F``): mean, daily swing, noise and decimals.
WEATHER = {
    "TA": (12.0, 6.0, 1.0, 3),
    "SW_IN": (0.0, 0.0, 0.0, 2),
    "LW_IN": (320.0, 20.0, 9.0, 2),
    "VPD": (9.0, 5.0, 1.0, 3),
    "PA": (98.0, 0.1, 0.4, 3),
    "P": (0.0, 0.0, 0.0, 3),
    "WS": (3.0, 1.0, 0.5, 3),
}
#: Measured and never filled: mean, daily swing, noise and decimals.
RAW = {
    "WD": (180.0, 120.0, 25.0, 2),
    "RH": (60.0, 25.0, 4.0, 2),
    "USTAR": (0.4, 0.2, 0.05, 4),
    "NETRAD": (150.0, 200.0, 20.0, 2),
    "PPFD_IN": (600.0, 500.0, 30.0, 2),
    "PPFD_OUT": (60.0, 40.0, 5.0, 2),
    "SW_OUT": (60.0, 50.0, 5.0, 2),
    "LW_OUT": (380.0, 30.0, 5.0, 2),
}
#: Filled from similar hours (MDS), one flag each: mean, daily swing, noise and decimals.
MDS = {
    "CO2": (410.0, 8.0, 3.0, 3),
    "TS_1": (11.0, 2.0, 0.3, 3),
    "TS_2": (10.5, 1.0, 0.2, 3),
    "SWC_1": (24.0, 0.5, 1.0, 3),
    "SWC_2": (27.0, 0.2, 0.6, 3),
    "G": (5.0, 30.0, 4.0, 3),
    "LE": (90.0, 80.0, 15.0, 3),
    "H": (60.0, 90.0, 15.0, 3),
}


@dataclass(frozen=True, kw_only=True)
class Place:
    """A site's metadata as published: degrees, metres, classes, and standard time minus UTC in hours."""

    site: str
    latitude: float
    longitude: float
    elevation: float = 120.0
    igbp: str = "DBF"
    koppen: str = "Dfb"
    utc_offset: float = 0.0


def simulate_record(
    place: Place, start: str | np.datetime64, *, days: int = 21, step_minutes: int = 30, seed: int = 0
) -> Record:
    """Simulate some days of a tower's ONEFlux record, with plausible but unrelated variables and real solar angles.

    Parameters
    ----------
    place : Place
    start : str or datetime64
        Local standard time of the first step.
    days, step_minutes : int
        Length of the record and of a step.
    seed : int

    Returns
    -------
    Record
        Columns of a FULLSET file, rounded as they are printed, with NEE = RECO - GPP for the night-time partitioning;
        and ``FCH4``, ``FCH4_F`` and ``FCH4_FILL`` (0 measured, 1 and 3 filled in a short and a long gap).
    """
    rng = np.random.default_rng([seed, *place.site.encode()])
    begin = np.datetime64(start).astype("datetime64[m]")
    times = begin + np.arange(days * 1440 // step_minutes) * np.timedelta64(step_minutes, "m")
    hour = (times - times.astype("datetime64[D]")).astype(int) / 60.0
    utc = times - np.timedelta64(round(60 * place.utc_offset), "m")
    where = np.asarray(place.latitude), np.asarray(place.longitude)
    potential = np.round(potential_radiation(utc, *where, hours=step_minutes / 60), 2)
    columns: dict[str, np.ndarray] = {"SW_IN_POT": potential}

    def wave(mean: float, swing: float, noise: float, decimals: int) -> np.ndarray:
        daily = swing * np.sin((hour - 8) * np.pi / 12)
        return np.round(mean + daily + noise * rng.standard_normal(len(hour)), decimals)

    for name, shape in WEATHER.items():
        columns |= _weather(name, wave(*shape), potential, rng)
    for name, shape in RAW.items():
        values = np.mod(wave(*shape), 360) if name == "WD" else np.maximum(wave(*shape), 0.0)
        columns[name] = np.where(_outages(len(hour), rng), np.nan, np.minimum(np.round(values, 2), 2400))
    for name, shape in MDS.items():
        columns |= _flagged(mds_column(name), np.maximum(wave(*shape), 0.01), rng)
    columns |= _carbon(len(hour), hour, rng)
    return Record(start=times, columns=columns)


def decimals_of(column: str) -> int:
    """Return the number of decimals with which a column is written.

    Examples
    --------
    >>> decimals_of("TA_F"), decimals_of("NEE_VUT_REF"), decimals_of("NEE_VUT_REF_QC"), decimals_of("NEE_VUT_MEAN_QC")
    (3, 4, 0, 3)
    """
    if column.endswith("_QC") or column == "NIGHT":
        return 3 if "MEAN" in column else 0
    return 4 if column.startswith(("NEE", "GPP", "RECO", "USTAR", "FCH4")) or column.endswith("UNC") else 3


def _outages(steps: int, rng: np.random.Generator) -> np.ndarray:
    """Return the steps at which an instrument is down: four short periods, and the first four steps."""
    down = np.arange(steps) < 4
    for _ in range(4):
        begin = rng.integers(0, steps)
        down[begin : begin + rng.integers(1, 30)] = True
    return down


def _weather(name: str, values: np.ndarray, potential: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the columns of a weather variable: gap-filled values, their flag, and for some the measured values."""
    if name == "SW_IN":
        values = np.round(
            potential * 0.7 * np.repeat(rng.uniform(0.6, 1, len(potential) // 4 + 1), 4)[: len(potential)], 2
        )
    if name == "P":
        values = np.round(np.where(rng.random(len(values)) < 0.06, rng.gamma(0.8, 2.0, len(values)), 0.0), 3)
    values = np.maximum(values, 0.0) if name != "TA" else values
    flags = np.where(_outages(len(values), rng), rng.integers(1, 3, len(values)), 0).astype(float)
    filled = {f"{name}_F": values, f"{name}_F_QC": np.where((flags == 1) & (name == "P"), 2.0, flags)}
    return filled | ({name: np.where(flags > 0, np.nan, values)} if name in ("PA", "P", "WS") else {})


def _flagged(column: str, values: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return a column filled by MDS and its flag; both are missing where no similar value was near enough."""
    values = np.round(values, decimals_of(column))
    flags = np.where(_outages(len(values), rng), rng.integers(1, 4, len(values)), 0).astype(float)
    lost = np.arange(len(values)) < 2
    return {column: np.where(lost, np.nan, values), f"{column}_QC": np.where(lost, np.nan, flags)}


def mds_column(name: str) -> str:
    """Return ONEFlux's column of a variable that is filled from similar hours (MDS).

    Examples
    --------
    >>> mds_column("CO2"), mds_column("TS_2")
    ('CO2_F_MDS', 'TS_F_MDS_2')
    """
    return f"{name[:-2]}_F_MDS_{name[-1]}" if name[-1] in "12" and name != "CO2" else f"{name}_F_MDS"


def _carbon(steps: int, hour: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the columns of carbon fluxes, their flags and uncertainties."""
    light = np.maximum(np.sin((hour - 6) * np.pi / 12), 0.0)
    reco = np.round(3 + 0.8 * rng.standard_normal(steps), 4)
    nee = np.round(reco - 14 * light + 0.6 * rng.standard_normal(steps), 4)
    flags = np.where(_outages(steps, rng), rng.integers(1, 4, steps), 0).astype(float)
    spread = np.round(0.2 + 0.1 * np.abs(nee), 4)
    joint = np.round(np.hypot(spread, 0.3), 4)
    missing = np.where(np.arange(steps) < 6, np.nan, 0.0)
    methane = np.round(np.abs(40 + 15 * rng.standard_normal(steps)), 4)
    gap = np.where(_outages(steps, rng), np.where(np.arange(steps) < steps // 2, 1.0, 3.0), 0.0)
    return {
        "NEE_VUT_REF": nee + missing,
        "NEE_VUT_REF_QC": flags + missing,
        "NEE_VUT_REF_RANDUNC": np.where(flags < 3, spread, np.nan) + missing,
        "NEE_VUT_REF_JOINTUNC": np.where(flags < 3, joint, np.nan) + missing,
        "LE_RANDUNC": np.round(5 + 3 * light, 4) + missing,
        "RECO_NT_VUT_REF": reco + missing,
        "GPP_NT_VUT_REF": np.round(reco - nee, 4) + missing,
        "RECO_DT_VUT_REF": np.round(1.1 * reco, 4) + missing,
        "GPP_DT_VUT_REF": np.round(14 * light, 4) + missing,
        # Alternatives to the reference, which readers must not mistake for it.
        "NEE_VUT_USTAR50": np.round(nee + 0.5, 4) + missing,
        "NEE_VUT_USTAR50_QC": flags + missing,
        "NEE_CUT_REF": np.round(nee - 0.5, 4) + missing,
        "NEE_CUT_REF_QC": flags + missing,
        "NEE_VUT_MEAN": np.round(nee + 0.25, 4) + missing,
        "NEE_VUT_MEAN_QC": np.round(1 - flags / 4, 3) + missing,
        "NIGHT": (light == 0).astype(float),
        "FCH4": np.where(gap > 0, np.nan, methane),
        "FCH4_F": methane,
        "FCH4_FILL": gap,
    }
