"""Time steps of maps, and the calendar periods that contain them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError

_DAY = 86400
#: numpy's calendar units by the name of a period.
_CALENDAR: dict[str, Literal["D", "M", "Y"]] = {"day": "D", "month": "M", "year": "Y"}


def check_every(every: str | None, valid: Sequence[str]) -> None:
    """Raise ConfigError if a period is not one of `valid` (or None)."""
    if every is not None and every not in valid:
        raise ConfigError(f"every: expected one of {', '.join(valid)}, or None for the whole period; found {every!r}.")


@dataclass(frozen=True)
class Steps:
    """Start and end of each time step (time,), datetime64[s]."""

    start: np.ndarray
    stop: np.ndarray

    @property
    def seconds(self) -> np.ndarray:
        """Length of each step (time,)."""
        return (self.stop - self.start).astype(np.int64).astype(float)


def steps_of(maps: xr.Dataset, name: str) -> Steps:
    """Return the time steps of maps, from their time bounds or else from the differences between times.

    Parameters
    ----------
    maps : xr.Dataset
        Maps with the coordinate time, in UTC.
    name : str
        Array whose times are used.

    Returns
    -------
    Steps

    Raises
    ------
    SchemaError
        If times are no dates, are not in order or overlap, or if there is a single time without bounds.
    """
    time = maps[name]["time"].values if "time" in maps[name].coords else np.array([])
    if not np.issubdtype(time.dtype, np.datetime64) or not len(time) or np.isnat(time).any():
        raise SchemaError(f"{name}: expected the coordinate time with dates in UTC, found none: assign it.")
    if "time_bnds" in maps.coords and maps.time_bnds.shape == (len(time), 2):
        bounds = maps.time_bnds.values.astype("datetime64[s]")
        steps = Steps(bounds[:, 0], bounds[:, 1])
    else:
        start = time.astype("datetime64[s]")
        if len(time) == 1:
            raise SchemaError(
                f"{name}: the length of the single time step {start[0]} is unknown: assign the coordinate time_bnds."
            )
        steps = Steps(start, np.append(start[1:], start[-1] + (start[-1] - start[-2])))
    if (steps.seconds <= 0).any() or (steps.start[1:] < steps.stop[:-1]).any():
        at = int(np.argmin(np.diff(steps.start).astype(np.int64))) if len(time) > 1 else 0
        raise SchemaError(
            f"{name}: expected times in rising order without overlap, found others near {steps.start[at]}: "
            "sort them with ds.sortby('time')."
        )
    return steps


@dataclass(frozen=True)
class Periods:
    """Assignment of time steps to calendar periods.

    Attributes
    ----------
    every : str or None
        Calendar unit; None for one period of all steps.
    period, slot : (time,) int64
        Index of the period of each step, and of its hour of the day; steps of a day or longer have one slot.
    slots : int
        Number of slots.
    seconds : (time,) float64
        Length of each step.
    start, stop : (period,) datetime64[s]
        Start and end of each period; months and years are whole, whatever the steps.
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
        """Assign steps to periods, by their start."""
        slot, slots = _slots(steps)
        if every is None:
            start, stop = steps.start[:1], steps.stop[-1:]
            return cls(None, np.zeros(len(slot), np.int64), slot, slots, steps.seconds, start, stop)
        units = steps.start.astype(f"datetime64[{_CALENDAR[every]}]")
        names, period = np.unique(units, return_inverse=True)
        start, stop = names.astype("datetime64[s]"), (names + 1).astype("datetime64[s]")
        if (steps.stop > stop[period]).any():
            raise ConfigError(
                f"every={every!r}: some time steps of the maps extend beyond the end of a {every}: choose a "
                "longer period."
            )
        return cls(every, period, slot, slots, steps.seconds, start, stop)

    @property
    def count(self) -> int:
        """Number of periods."""
        return len(self.start)

    @property
    def nominal(self) -> np.ndarray:
        """Length (period,) of each period in seconds."""
        return (self.stop - self.start).astype(np.int64).astype(float)

    @property
    def years(self) -> np.ndarray:
        """Length (period,) in years, an hour of a leap year being 1/8784 of one: whole years are whole numbers."""
        return _years(self.stop) - _years(self.start)

    def label(self, at: int) -> str:
        """Return the name of a period for messages."""
        unit = {"month": "M", "year": "Y"}.get(self.every or "", "h")
        first = str(self.start[at].astype(f"datetime64[{unit}]"))
        return first if self.every else f"{first} to {self.stop[at].astype('datetime64[h]')}"

    def coords(self) -> dict[str, tuple]:
        """Return the coordinates time, end and years of results."""
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
