"""Check sampled ERA5 values against their declared units, and sunlight against the sun.

Arithmetic keeps the attributes of a file: values in W m-2 under the unit J m-2, or stamps in local time, look valid.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fluxcube.errors import SourceError
from fluxcube.solar import potential_radiation
from fluxcube.sources.era5.open import storage_chunks
from fluxcube.sources.era5.parameters import UNITS
from fluxcube.sources.era5.sampling import Days, Region
from fluxcube.sources.era5.series import Files, FileSeries, sample

log = logging.getLogger(__name__)

# Wider than any weather on Earth, narrower than values in another unit (degC, hPa, mm, %, W m-2 for a day).
_LIMITS = {
    "t2m": (150, 350),
    "d2m": (100, 350),
    "sp": (3e4, 1.2e5),
    "u10": (-150, 150),
    "v10": (-150, 150),
    "zust": (-0.1, 20),
    "fal": (-0.01, 1.01),
    "ishf": (-5e3, 5e3),
    **{f"stl{i}": (150, 380) for i in range(1, 5)},
    **{f"swvl{i}": (-0.02, 1.01) for i in range(1, 5)},
    "ssrd": (-5e6, 6e7),
    "strd": (-1e6, 6e7),
    "ssr": (-5e6, 6e7),
    "str": (-6e7, 6e7),
    "sshf": (-1e8, 1e8),
    "slhf": (-1e8, 1e8),
    "tp": (-0.01, 2.5),
}
#: Limits of static fields; packing leaves a mask slightly outside 0 to 1.
STATIC_LIMITS = {"z": (-1e4, 9e4), "lsm": (-0.01, 1.01)}
#: Amounts of an hour: not less than packing and differencing leave, and not more than the sun (1.4 kW m-2) or any
#: weather (0.305 m of rain in 42 minutes, a record of one gauge) gives.
_AMOUNTS = {
    "ssrd": (-5e4, 5.2e6),
    "strd": (-5e4, 3e6),
    "ssr": (-5e4, 5.2e6),
    "str": (-3e6, 3e6),
    "slhf": (-8e6, 8e6),
    "sshf": (-8e6, 8e6),
    "tp": (-1e-4, 0.5),
}
#: Mean amounts of an hour over all sampled days and cells: long-wave radiation of 30 to 600 W m-2.
_MEANS = {"strd": (30 * 3600.0, 600 * 3600.0)}
#: Minimum mean magnitude (J m-2) of an hour of parameters of either sign: 0.3 W m-2. Values in W m-2 or kJ m-2 under
#: the unit J m-2 are below it.
_FAINTEST = {"str": 1000.0, "sshf": 1000.0}
#: Codes of missing values, which the limits of parameters that are never negative do not exclude.
_CODES = (-9999.0, -9999.9, -6999.0, -999.0, -999.9, -99.0, -99.9, -32767.0, -32768.0)
_NEVER_NEGATIVE = ("ssrd", "strd", "ssr")
#: Degrees by which the dewpoint may be above the temperature in the mean of a day: it is over water, also below 0 degC.
_MOISTER = 1.0
#: Mean rain (m) of a day over some number of sampled days or more: above any record of a cell.
_WETTEST = {1: 1.9, 5: 0.3, 20: 0.12}
#: Minimum share of the potential radiation that reaches the ground in some number of days or more. In four real files
#: single days have 0.04 to 0.72 of it, ten days 0.2 to 0.7; at 157 towers, ten days have 0.12 and more.
_DARKEST = {1: 0.01, 3: 0.03, 5: 0.05, 10: 0.08, 20: 0.12}
#: The same of one day among others, of which 5248 of single cells in these files have 0.03 and more; W m-2 under the
#: unit J m-2 are 0.0002, kJ m-2 0.0007.
_DARK_DAY = 0.003
#: Maximum hours between the daily cycles of light and of the potential radiation over at least some number of days,
#: and minimum amplitude (W m-2) of the latter. In real files five days differ by 0.8 hours at most.
_LATE, _CYCLE_DAYS, _CYCLE = 1.5, 10, 15.0
#: Net radiation is at least this share of the radiation downwards: no surface reflects more.
_ABSORBED = 0.05
#: Maximum share of the light above the potential radiation: 1e-6 in real files (a day: 4e-5), 0.014 and more one hour
#: late or early. Less light than `_FAINT` (W m-2 on average) is not tested.
_ABOVE, _FAINT = 0.005, 0.2
#: Degrees by which the sun may be higher than computed: the declination of ONEFlux lags by 0.4, and light is refracted.
_HIGHER = 1.0
_LIGHT = ("ssrd", "ssr")
#: Maximum number of series, beyond three, that are tested of temperature, which is converted most often, and of others.
_FURTHER = {"t2m": 31}
_FURTHER_OTHERS = 4
_OVERRIDE = "if the values are right all the same, pass check=False"


def check_ranges(files: Files, region: Region) -> None:
    """Check parameters at sampled stamps and cells for values that their units cannot have.

    Parameters
    ----------
    files : Files
        The requested hours.
    region : (slice, slice)
        Rows and columns of the common grid.

    Raises
    ------
    SourceError
        Naming the parameter, the value and its time.
    """
    means: dict[str, dict[tuple[int, int], float]] = {}
    for turn, (name, all_series) in enumerate(files.parameters.items()):
        low, high = _LIMITS[name]
        known = means.setdefault(name, {})
        for series, stamps in _test_stamps(all_series, name, len(files.stamps), turn):
            values = sample(series, name, stamps, region)
            if np.isfinite(values).any():
                known[stamps.start, stamps.stop] = float(np.nanmean(values)) if name in ("t2m", "d2m") else 0.0
            wrong = (values < low) | (values > high)
            if wrong.any():
                at = np.argwhere(wrong)[0]
                raise SourceError(
                    f"{series.source}: {name} is {values[tuple(at)]:g} at "
                    f"{files.stamps[stamps.start + at[0]].astype('datetime64[h]')} UTC, which cannot be {UNITS[name]} "
                    f"(expected {low:g} to {high:g}): the file declares wrong units, or the value is a code of missing "
                    "values that it does not declare; convert it, or download it again."
                )
        if not known:
            log.warning("%s: %s has no value at any of the sampled hours and cells", all_series[0].source, name)
    _check_dewpoint(files, means.get("t2m", {}), means.get("d2m", {}))


def _check_dewpoint(
    files: Files, temperature: Mapping[tuple[int, int], float], dewpoint: Mapping[tuple[int, int], float]
) -> None:
    """Refuse a dewpoint above the temperature in the mean of the same stamps and cells."""
    for stamps in temperature.keys() & dewpoint.keys():
        if dewpoint[stamps] > temperature[stamps] + _MOISTER:
            raise SourceError(
                f"{files.parameters['d2m'][0].source}: d2m is {dewpoint[stamps]:.1f} K in the mean of the hours from "
                f"{files.stamps[stamps[0]].astype('datetime64[h]')} UTC, above t2m with {temperature[stamps]:.1f} K: "
                f"the two are exchanged, or one is of another place or time; correct the file; {_OVERRIDE}."
            )


def _test_stamps(
    all_series: Sequence[FileSeries], name: str, size: int, turn: int
) -> Iterator[tuple[FileSeries, slice]]:
    """Yield a day of stamps at the beginning, middle and end of the period, and one in some of the other series.

    Parameters differ by `turn` in the series that are tested. Fewer stamps are yielded where fewer are stored in one
    chunk, such as one hour of the globe.
    """
    series_at: dict[int, FileSeries] = {}
    for at in (0, size // 2, size - 1):
        for series in all_series:
            if series.start <= at < series.stop:
                series_at[at] = series
    tested = set(map(id, series_at.values()))
    others = [one for one in all_series if id(one) not in tested and one.stop > 0 and one.start < size]
    step = max(1, -(-len(others) // _FURTHER.get(name, _FURTHER_OTHERS)))
    for one in others[turn % step :: step]:
        series_at[(max(one.start, 0) + min(one.stop, size)) // 2] = one
    stored = storage_chunks(all_series[0].source.open().variables[name]) or (24,)
    hours = min(24, stored[0])
    for at, series in series_at.items():
        stop = min(at + hours, series.stop, size)
        yield series, slice(max(stop - hours, series.start, 0), stop)


def check_amounts(days: Sequence[Days], accumulation: str) -> None:
    """Check the amounts of sampled hours for values that cannot be: negative ones, and more rain than any record.

    Parameters
    ----------
    days : sequence of Days
    accumulation : {"hour", "day", ""}
        Period over which the stored values are accumulated.

    Raises
    ------
    SourceError
        Naming the source, the parameter, the value and its date.
    """
    for part in days:
        amounts = part.amounts(accumulation)
        low, high = _AMOUNTS[part.name]
        wrong = (amounts < low) | (amounts > high)
        if part.name in _NEVER_NEGATIVE and (part.values < 0).any():
            wrong |= np.isin(part.values, _CODES)
        if wrong.any():
            at = tuple(np.argwhere(wrong)[0])
            period = "differences of totals since 00 UTC" if accumulation == "day" else "amounts of single hours"
            raise SourceError(
                f"{part.source}: {part.name} of an hour of {part.dates[at[0]]} is {amounts[at]:g} {UNITS[part.name]} "
                f"({period}), expected {low:g} to {high:g}: the values are in other units, in local time, accumulated "
                "over another period, or a code of missing values; convert them, or pass accumulation='hour' or "
                f"'day'; {_OVERRIDE}."
            )
        if np.isfinite(amounts).any():
            _check_mean(part, amounts)


def _check_mean(part: Days, amounts: np.ndarray) -> None:
    """Check the mean hourly amount, and its mean magnitude, over the sampled days of one source."""
    mean = float(np.nanmean(amounts))
    low, high = _MEANS.get(part.name, (-np.inf, np.inf))
    if part.name == "tp":
        high = min(depth for days, depth in _WETTEST.items() if len(part.dates) >= days) / 24
    if part.name in _MEANS:  # of each day
        known = np.isfinite(amounts).any((1, 2, 3))
        daily = np.nanmean(amounts[known], axis=(1, 2, 3))
        mean = float(daily[np.abs(daily - (low + high) / 2).argmax()])
    if not low <= mean <= high:
        raise SourceError(
            f"{part.source}: {part.name} is {mean:g} {UNITS[part.name]} in a mean hour of the days from "
            f"{part.dates[0]} to {part.dates[-1]}, or of one of them, expected {low:g} to {high:g}: the file declares "
            f"wrong units; convert it, or download it again; {_OVERRIDE}."
        )
    if part.name in _FAINTEST and (magnitude := float(np.nanmean(np.abs(amounts)))) < _FAINTEST[part.name]:
        raise SourceError(
            f"{part.source}: the magnitude of {part.name} is {magnitude:g} {UNITS[part.name]} in a mean hour of "
            f"{len(part.dates)} days from {part.dates[0]} to {part.dates[-1]}, expected {_FAINTEST[part.name]:g} at "
            f"least: the values are in W m-2 or kJ m-2; convert them, or download the file again; {_OVERRIDE}."
        )


@dataclass(frozen=True)
class _Sunlight:
    """Sums over sampled hours of one source, W m-2.

    Attributes
    ----------
    light, potential : float
        Radiation at the ground and above the atmosphere.
    above, night : float
        Light above the potential radiation, and light without any sun.
    hours, days, dark_days : int
        Number of values, of days, and of days that are too dark by themselves.
    cycle : float
        Amplitude of the potential radiation's daily cycle, times the number of values.
    phase : complex
        Daily cycle of the light times the conjugate of that of the potential radiation, summed over the cells.
    """

    light: float
    potential: float
    above: float
    night: float
    hours: int
    days: int
    dark_days: int
    cycle: float
    phase: complex

    def __add__(self, other: _Sunlight) -> _Sunlight:
        return _Sunlight(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def brighter(self) -> bool:
        """Whether too much light is above the potential radiation."""
        return self.above > _ABOVE * self.light and self.above > _FAINT * self.hours

    def darker(self, share: float) -> bool:
        """Whether less than a share of the lowest possible light is there, by day."""
        least = share * max(part for days, part in _DARKEST.items() if self.days >= days)
        return self.potential > 100 * _FAINT * self.hours and self.light < least * self.potential

    @property
    def late(self) -> float:
        """Hours by which the light is later than the sun; 0.0 where too few days or too flat a cycle show it."""
        if self.days < _CYCLE_DAYS or self.cycle < _CYCLE * self.hours:
            return 0.0
        return float(np.angle(self.phase)) * 24 / (2 * np.pi)


def check_light(days: Sequence[Days], accumulation: str, latitude: np.ndarray, longitude: np.ndarray) -> None:
    """Compare sunlight with the potential radiation (SW_IN_POT), in each source and in all of them.

    Light in W m-2 or kJ under the unit J m-2 is too dark; other accumulations, stamps in local time, exchanged axes
    and turned rows have light above the atmosphere's, or at night. A polar night passes.

    Parameters
    ----------
    days : sequence of Days
    accumulation : {"hour", "day", ""}
        Period over which the stored values are accumulated.
    latitude, longitude : (row,), (column,)
        Degrees of the common grid.

    Raises
    ------
    SourceError
        Naming the source and the evidence.
    """
    for name in _LIGHT:
        parts = [part for part in days if part.name == name]
        found = [_sunlight(part, accumulation, latitude, longitude) for part in parts]
        for part, sunlight in zip(parts, found, strict=True):
            _check_sunlight(str(part.source), name, sunlight)
        if len(found) > 1:
            total = found[0]
            for sunlight in found[1:]:
                total += sunlight
            _check_sunlight(f"{parts[0].source} and {len(parts) - 1} more", name, total)


def check_darkness(days: Sequence[Days], latitude: np.ndarray, longitude: np.ndarray) -> None:
    """Refuse sunlight that is too dark for its units whatever its accumulation, since totals are above amounts.

    Parameters and errors are those of `check_light`.
    """
    for part in days:
        if part.name in _LIGHT:
            sunlight = _sunlight(part, "hour", latitude, longitude)
            _check_darkness(str(part.source), part.name, sunlight)


def _sunlight(part: Days, accumulation: str, latitude: np.ndarray, longitude: np.ndarray) -> _Sunlight:
    # Every other cell: the sun of a cell is computed, which takes longer than to read its values.
    light = part.amounts(accumulation)[:, :, ::2, ::2] / 3600.0
    north, east = latitude[part.rows[::2]][:, None], longitude[part.columns[::2]][None, :]
    first = part.dates.astype("datetime64[h]")
    time = (first[:, None] + np.arange(24)).ravel().astype("datetime64[ns]")
    potential = _potential(time, north, east, light.shape)
    known = np.isfinite(light)
    wave = np.exp(2j * np.pi * np.arange(24) / 24)[:, None, None]
    cycles = [(np.where(known, values, 0.0).sum(0) * wave).sum(0) for values in (light, potential)]
    exact = _Sunlight(
        light=float(light[known].sum()),
        potential=float(potential[known].sum()),
        above=float(np.maximum(light - potential, 0.0)[known].sum()),
        night=float(light[known & (potential == 0)].sum()),
        hours=int(known.sum()),
        days=len(part.dates),
        dark_days=_dark_days(part.name, light, potential),
        cycle=float(np.abs(cycles[1]).sum()),
        phase=complex((cycles[0] * cycles[1].conj()).sum()),
    )
    if not exact.brighter:
        return exact
    for shift in (-_HIGHER, _HIGHER):
        potential = np.maximum(potential, _potential(time, np.clip(north + shift, -90.0, 90.0), east, light.shape))
    return replace(
        exact,
        above=float(np.maximum(light - potential, 0.0)[known].sum()),
        night=float(light[known & (potential == 0)].sum()),
    )


def _dark_days(name: str, light: np.ndarray, potential: np.ndarray) -> int:
    """Return the number of days (day, 24, row, column) with less light than any day has, such as days in W m-2."""
    known = np.isfinite(light)
    number = known.sum((1, 2, 3))
    above, below = (np.where(known, values, 0.0).sum((1, 2, 3)) for values in (potential, light))
    return int(((above > 100 * _FAINT * number) & (below < _least(name) * _DARK_DAY * above)).sum())


def _least(name: str) -> float:
    """Return the share of the radiation downwards that a parameter of sunlight has at least."""
    return _ABSORBED if name == "ssr" else 1.0


def _potential(time: np.ndarray, north: np.ndarray, east: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return SW_IN_POT (day, 24, row, column), W m-2."""
    cells = np.broadcast_arrays(north, east)
    return np.moveaxis(potential_radiation(time, *cells), -1, 0).reshape(shape)


def _check_sunlight(source: str, name: str, sun: _Sunlight) -> None:
    if sun.brighter:
        raise SourceError(
            f"{source}: {100 * sun.above / sun.light:.2g} % of the sunlight ({name}) of {sun.days} sampled days is "
            f"above the potential radiation at its hour and place, {100 * sun.night / sun.light:.2g} % at night; "
            f"expected less than {100 * _ABOVE:g} %. Stamps may be in local time instead of UTC, latitude and "
            f"longitude exchanged or in another order, or amounts accumulated otherwise: correct the file; {_OVERRIDE}."
        )
    if abs(sun.late) > _LATE:
        raise SourceError(
            f"{source}: the daily cycle of the sunlight ({name}) of {sun.days} sampled days is {abs(sun.late):.1f} "
            f"hours {'later' if sun.late > 0 else 'earlier'} than that of the potential radiation, expected {_LATE:g} "
            f"at most: stamps may be in local time instead of UTC; correct the file; {_OVERRIDE}."
        )
    _check_darkness(source, name, sun)


def _check_darkness(source: str, name: str, sun: _Sunlight) -> None:
    units = f"the values are not in {UNITS[name]} (W m-2, kJ m-2 or MJ m-2 under its name)"
    if sun.darker(_least(name)):
        raise SourceError(
            f"{source}: the sunlight ({name}) of {sun.days} sampled days is {sun.light / sun.potential:.2g} of the "
            f"potential radiation, expected 0.2 to 0.8: {units}; convert them, or download the file again; {_OVERRIDE}."
        )
    if sun.dark_days:
        raise SourceError(
            f"{source}: the sunlight ({name}) of {sun.dark_days} of {sun.days} sampled days is less than "
            f"{_least(name) * _DARK_DAY:.2g} of the potential radiation: {units} on these days; convert them, or "
            f"download the file again; {_OVERRIDE}."
        )
