"""Find the period over which ERA5 parameters are accumulated: an hour (ERA5), or the time since 00 UTC (ERA5-Land).

Each parameter of each source is judged by itself, since archives are continued with other products and users convert
some parameters but not others. Parameters or sources that differ are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fluxcube.errors import SourceError
from fluxcube.sources.era5.header import Header
from fluxcube.sources.era5.open import Source
from fluxcube.sources.era5.parameters import ACCUMULATED
from fluxcube.sources.era5.sampling import Days

# Never negative by nature: parameters that distinguish hourly amounts from running totals of a day. A day counts above
# the first number; a decrease counts above the second, which packing stays below (4e-8 m, 500 J m-2).
_DECISIVE = {"ssrd": (1e5, 2e3), "strd": (1e5, 2e3), "ssr": (1e5, 2e3), "tp": (1e-4, 1e-6)}
_MEANING = {"hour": "amounts of single hours", "day": "totals since 00 UTC"}
# Of either sign: where the values of a day differ by more than the first number (J m-2), a day that changes from 01 to
# 24 UTC by more than the second number of its largest hourly changes is a running total, by less than the third one of
# amounts. At two towers with latent heat, totals change by 1.5 or more, and amounts by 3.6 or less. Sensible heat may
# cancel within a day, so that it never shows amounts.
_SIGNED = {"str": (7e4, 8.0, 4.0), "slhf": (3.6e5, 4.0, 1.5), "sshf": (3.6e5, 5.0, 0.0)}
#: A running total of radiation grows by more than this factor from 01 to 24 UTC; a constant amount does not.
_GROWTH = 3.0
#: Rain that began this many hours before midnight and never decreased until then is a running total.
_LONG_RAIN = 6


@dataclass(frozen=True)
class _Evidence:
    """A period that one parameter of a source shows, and the days that show it ("" for a declaration)."""

    period: str
    name: str
    source: Source
    days: str = ""

    def __str__(self) -> str:
        days = f" ({self.days})" if self.days else ""
        return f"{self.name} in {self.source}{days} contains {_MEANING[self.period]}"


def find_accumulation(days: Sequence[Days], headers: Sequence[Header], requested: str | None) -> str:
    """Find the period over which parameters are accumulated: as requested, or from the values and the files' origin.

    Parameters
    ----------
    days : sequence of Days
        Sampled days.
    headers : sequence of Header
    requested : {"hour", "day"} or None
        The caller's `accumulation`.

    Returns
    -------
    {"hour", "day", ""}
        "" where nothing is accumulated.

    Raises
    ------
    SourceError
        If neither values nor names show the period, or two parameters or sources differ.
    """
    accumulated = [header for header in headers if set(header.parameters) & set(ACCUMULATED)]
    if not accumulated:
        return ""
    if requested:
        _check_hourly(accumulated, requested)
        return requested
    declared = list(_declared(accumulated))
    known = {(one.name, one.source) for one in declared}
    shown = [one for part in days if (part.name, part.source) not in known for one in _shown(part)]
    _check_one_period([*declared, *shown])
    period = next((one.period for one in [*declared, *shown]), None) or _of_all_rain(days)
    # The series of one point may be of the hour although it is ERA5-Land's: its values alone decide.
    land = any(header.land and not header.point for header in headers)
    if land and period == "hour" and not declared:
        raise SourceError(
            f"{accumulated[0].source}: the files are named ERA5-Land, whose accumulations run from 00 UTC, but the "
            "values look like amounts of single hours: pass accumulation='hour' or accumulation='day'."
        )
    if period is None and not land:
        raise SourceError(
            f"{accumulated[0].source}: cannot determine whether accumulated values cover an hour (ERA5) or run from 00 "
            f"UTC (ERA5-Land); at least two whole UTC days of {', '.join(_DECISIVE)} that are not all zero are needed. "
            "Pass accumulation='hour' or accumulation='day'."
        )
    return period or "day"


def _declared(headers: Sequence[Header]) -> Iterator[_Evidence]:
    """Yield the periods that sources declare: by a parameter's name, or in the attributes of a copy by fluxcube."""
    for header in headers:
        recorded = str(header.source.open().attrs.get("accumulation", ""))
        for name in header.parameters:
            if name in header.hourly or (name in ACCUMULATED and recorded in _MEANING):
                yield _Evidence("hour" if name in header.hourly else recorded, name, header.source)


def _check_hourly(headers: Sequence[Header], requested: str) -> None:
    """Refuse a requested period that mean rates, and amounts of hours by name, cannot have."""
    for header in headers:
        if header.hourly and requested == "day":
            raise SourceError(
                f"{header.source}: {header.hourly[0]} is stored as a mean rate or an hourly amount, which is of an "
                "hour, not of the time since 00 UTC: leave out accumulation='day', or pass files without such names."
            )


def _check_one_period(evidence: Sequence[_Evidence]) -> None:
    """Refuse evidence of both periods, naming one example of each."""
    first = next(iter(evidence), None)
    other = next((one for one in evidence if first and one.period != first.period), None)
    if first is None or other is None:
        return
    # The most similar pair says best what changes: the same parameter, or the same source.
    same = [one for one in evidence if one.period == first.period]
    pairs = [(a, b) for a in same for b in evidence if b.period != first.period]
    first, other = max(pairs, key=lambda pair: (pair[0].name == pair[1].name, pair[0].source == pair[1].source))
    raise SourceError(
        f"{first}, but {other}: both must be accumulated alike. Download one of them again, convert it, or open the "
        "files one group at a time; if all are accumulated alike, pass accumulation='hour' or accumulation='day'."
    )


def _shown(days: Days) -> Iterator[_Evidence]:
    """Yield the periods that the values of one parameter in one source show; two where it changes within the source."""
    if days.name in _SIGNED:
        verdicts = _signed_verdicts(days)
    else:
        verdicts = _rain_verdicts(days) if days.name == "tp" else _radiation_verdicts(days)
    number = {period: int((verdicts == period).sum()) for period in _MEANING}
    for period, count in number.items():
        other = sum(number.values()) - count
        # Amounts of rain that increase until midnight look like a total, but not on most days.
        uncertain = days.name in _SIGNED or (days.name == "tp" and (other or period == "day"))
        enough = max(2, other // 3) if uncertain else 2 if other else 1
        if days.name == "tp" and period == "day" and _plateaus(days).any():
            enough = 1
        if count >= enough:
            dates = days.dates[verdicts == period]
            yield _Evidence(period, days.name, days.source, f"{dates[0]} to {dates[-1]}")


def _radiation_verdicts(days: Days) -> np.ndarray:
    """Judge days (day,): a running total grows and never decreases from 01 to 24 UTC; hourly amounts decrease."""
    active, falls = _active(days), _falls(days)
    first = days.values[:, 0]
    growth = np.nanmax(days.values, axis=1, initial=0.0) > _GROWTH * np.nan_to_num(first)
    # Long-wave radiation is received in every hour: its total always grows.
    constant = active & ~falls & ~growth & (days.name == "strd")
    number, hourly = active.sum((1, 2)), ((active & falls) | constant).sum((1, 2))
    total = (hourly == 0) & ((active & growth).sum((1, 2)) > 0.5 * number)
    return np.where(number == 0, "", np.where(hourly > 0.5 * number, "hour", np.where(total, "day", "")))


def _signed_verdicts(days: Days) -> np.ndarray:
    """Judge days (day,) by the change from 01 to 24 UTC, in units of the largest hourly change."""
    smallest, total, amounts = _SIGNED[days.name]
    step = np.nanmax(np.abs(np.diff(days.values, axis=1)), axis=1, initial=0.0)
    last = np.where(np.isfinite(days.values[:, -1]), days.values[:, -1], days.values[:, -2])
    change = np.abs(last - days.values[:, 0]) / np.where(step > 0, step, 1.0)
    known = np.nan_to_num(days.values)
    active = (known.max(1) - known.min(1) > smallest) & np.isfinite(change)
    number = active.sum((1, 2))
    running, hourly = ((active & shown).sum((1, 2)) for shown in (change > total, change < amounts))
    return np.where(running > 0.5 * number, "day", np.where(hourly > 0.5 * number, "hour", ""))


def _rain_verdicts(days: Days) -> np.ndarray:
    """Judge days (day,): rain that falls for hours and never decreases until midnight is a running total."""
    active, falls = _active(days), _falls(days)
    began = (np.nan_to_num(days.values) > _DECISIVE["tp"][1]).argmax(1)
    # Rain of the first hour that does not increase any more may be a constant amount.
    growth = np.nanmax(days.values, axis=1, initial=0.0) > _GROWTH * np.nan_to_num(days.values[:, 0])
    long = active & growth & (began < 24 - _LONG_RAIN)
    number, decreasing = active.sum((1, 2)), (active & falls).sum((1, 2))
    total = (decreasing == 0) & (long.sum((1, 2)) > 0.5 * number)
    return np.where(number == 0, "", np.where(decreasing > 0.5 * number, "hour", np.where(total, "day", "")))


def _plateaus(days: Days) -> np.ndarray:
    """Return the days (day,) whose rain stays the same for the last hours, after a dry morning: certainly a total."""
    smallest, rounding = _DECISIVE["tp"]
    evening = days.values[:, 22 - _LONG_RAIN : 23]
    flat = (np.ptp(evening, axis=1) < rounding) & (evening[:, 0] > smallest) & (np.abs(days.values[:, 0]) < rounding)
    return flat.sum((1, 2)) > 0.5 * _active(days).sum((1, 2))


def _of_all_rain(days: Sequence[Days]) -> str | None:
    """Return the period that the rain of all sources shows, where no single source shows one."""
    rain = [part for part in days if part.name == "tp"]
    active = sum(int(_active(part).sum()) for part in rain)
    decreasing = sum(int((_active(part) & _falls(part)).sum()) for part in rain)
    return None if not active else "hour" if decreasing > 0.5 * active else "day" if not decreasing else None


def _active(days: Days) -> np.ndarray:
    """Return the cells and days (day, row, column) whose values are above zero for certain."""
    return np.nanmax(days.values, axis=1, initial=0.0) > _DECISIVE[days.name][0]


def _falls(days: Days) -> np.ndarray:
    """Return the cells and days (day, row, column) whose values decrease by more than packing explains."""
    return np.nanmin(np.diff(days.values, axis=1), axis=1, initial=0.0) < -_DECISIVE[days.name][1]
