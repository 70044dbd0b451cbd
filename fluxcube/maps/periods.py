"""Steps of maps in time, and the periods that they are averaged over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError

_DAY = 86400
#: Calendar units of numpy by what a user calls them.
_CALENDAR = {"day": "D", "month": "M", "year": "Y"}


def check_every(every: str | None, valid: Sequence[str]) -> None:
    """Refuse a period that is none of `valid` (ConfigError)."""
    if every is not None and every not in valid:
        raise ConfigError(f"every must be one of {', '.join(valid)}, or None for the whole period; found {every!r}.")


@dataclass(frozen=True)
class Steps:
    """Begin and end of each step (time,), datetime64[s]."""

    start: np.ndarray
    stop: np.ndarray

    @property
    def seconds(self) -> np.ndarray:
        """Length of each step (time,)."""
        return (self.stop - self.start).astype(np.int64).astype(float)


def steps_of(maps: xr.Dataset, name: str) -> Steps:
    """Return the steps of maps: their time bounds, or else the distance from one time to the next.

    Raises
    ------
    SchemaError
        If times are no dates, not in order, overlap, or a single one has no bounds.
    """
    time = maps[name]["time"].values if "time" in maps[name].coords else np.array([])
    if not np.issubdtype(time.dtype, np.datetime64) or not len(time) or np.isnat(time).any():
        raise SchemaError(f"{name} needs the coordinate time, dates in UTC.")
    if "time_bnds" in maps.coords and maps.time_bnds.shape == (len(time), 2):
        bounds = maps.time_bnds.values.astype("datetime64[s]")
        steps = Steps(bounds[:, 0], bounds[:, 1])
    else:
        start = time.astype("datetime64[s]")
        if len(time) == 1:
            raise SchemaError(f"{name}: how long the single step {start[0]} is, is not known: give time_bnds.")
        steps = Steps(start, np.append(start[1:], start[-1] + (start[-1] - start[-2])))
    if (steps.seconds <= 0).any() or (steps.start[1:] < steps.stop[:-1]).any():
        at = int(np.argmin(np.diff(steps.start).astype(np.int64))) if len(time) > 1 else 0
        raise SchemaError(f"{name}: times must rise and not overlap (near {steps.start[at]}): sort them, ds.sortby.")
    return steps


@dataclass(frozen=True)
class Periods:
    """Which period each step belongs to.

    Attributes
    ----------
    every : str or None
        Calendar unit; None for one period, that of all steps.
    period, slot : (time,) int64
        The period of each step, and its hour of the day: steps as long as a day or longer have one slot.
    slots : int
        How many there are.
    seconds : (time,) float64
        Length of each step.
    start, stop : (period,) datetime64[s]
        Of the period; months and years are whole, whatever the steps.
    """

    every: str | None
    period: np.ndarray
    slot: np.ndarray
    slots: int
    seconds: np.ndarray
    start: np.ndarray
    stop: np.ndarray

    @classmethod
    def of(cls, steps: Steps, every: str | None) -> Periods:
        """Sort steps into periods, by their beginning."""
        slot, slots = _slots(steps)
        if every is None:
            start, stop = steps.start[:1], steps.stop[-1:]
            return cls(None, np.zeros(len(slot), np.int64), slot, slots, steps.seconds, start, stop)
        units = steps.start.astype(f"datetime64[{_CALENDAR[every]}]")
        found, period = np.unique(units, return_inverse=True)
        start, stop = found.astype("datetime64[s]"), (found + 1).astype("datetime64[s]")
        if (steps.stop > stop[period]).any():
            raise ConfigError(f"every={every!r}: some steps of the maps reach over the end of a {every}.")
        return cls(every, period, slot, slots, steps.seconds, start, stop)

    @property
    def count(self) -> int:
        """Number of periods."""
        return len(self.start)

    @property
    def nominal(self) -> np.ndarray:
        """Seconds (period,) of each period."""
        return (self.stop - self.start).astype(np.int64).astype(float)

    @property
    def years(self) -> np.ndarray:
        """Length (period,) in years, an hour of a leap year being 1/8784 of one: whole years are whole numbers."""
        return _years(self.stop) - _years(self.start)

    def label(self, at: int) -> str:
        """Tell a period as text."""
        unit = {"month": "M", "year": "Y"}.get(self.every or "", "h")
        first = str(self.start[at].astype(f"datetime64[{unit}]"))
        return first if self.every else f"{first} to {self.stop[at].astype('datetime64[h]')}"

    def coords(self) -> dict[str, tuple]:
        """Coordinates time, end and years of results."""
        start, stop = (edge.astype("datetime64[ns]") for edge in (self.start, self.stop))
        return {
            "time": ("time", start, {"standard_name": "time", "long_name": "start of the period, UTC"}),
            "end": ("time", stop, {"standard_name": "time", "long_name": "end of the period, UTC"}),
            "years": ("time", self.years, {"long_name": "length of the period in years", "units": "1"}),
        }


def _slots(steps: Steps) -> tuple[np.ndarray, int]:
    length = steps.seconds[0]
    if length >= _DAY or _DAY % length or (steps.seconds != length).any():
        return np.zeros(len(steps.start), np.int64), 1
    of_day = (steps.start - steps.start.astype("datetime64[D]")).astype(np.int64)
    return (of_day // int(length)).astype(np.int64), int(_DAY // length)


def _years(moment: np.ndarray) -> np.ndarray:
    year = moment.astype("datetime64[Y]")
    begin, end = (edge.astype("datetime64[s]") for edge in (year, year + 1))
    share = (moment - begin).astype(np.int64) / (end - begin).astype(np.int64)
    return year.astype(np.int64) + 1970 + share
