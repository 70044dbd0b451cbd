"""Periods of time steps by which scores are grouped: local season, year, time of day, and subsets such as heat."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from fluxcube.errors import SchemaError
from fluxcube.resolution import Resolution

#: Kinds of periods.
KINDS = ("season", "year", "time_of_day", "subset")
#: Local seasons, in order; June is summer north of the equator and winter south of it.
SEASONS = ("winter", "spring", "summer", "autumn")
#: Times of the day by the local mean solar time of the middle of an hour: 22 to 6 h, then 4 hours each.
TIMES_OF_DAY = ("night", "morning", "midday", "afternoon", "evening")
#: Subset with all time steps.
ALL = "all"

_BLOCK = 2_000_000  # number of local times in RAM at once

_HALF_DAY, _HALF_HOUR = np.timedelta64(12, "h"), np.timedelta64(30, "m")


@dataclass(frozen=True)
class Periods:
    """Periods of time steps; they are disjoint, except for those of different subsets.

    Attributes
    ----------
    kinds : tuple of str
        Kinds of periods that are combined, of `KINDS`.
    labels : tuple of tuple of str
        Label of each kind, for each period, e.g. ``("winter", "2004")``; "" for values that have no such period, as the
        mean of a year has no season.
    first_year : int
        First year, if years are a kind.
    """

    kinds: tuple[str, ...] = ()
    labels: tuple[tuple[str, ...], ...] = ((),)
    first_year: int = 0

    @property
    def subsets(self) -> tuple[str, ...]:
        """Names of the subsets, if they are a kind."""
        return self._names("subset") if "subset" in self.kinds else ()

    @property
    def disjoint(self) -> int:
        """Number of the disjoint periods, which are those of each subset."""
        return len(self.labels) // max(1, len(self.subsets))

    def _names(self, kind: str) -> tuple[str, ...]:
        at = self.kinds.index(kind)
        return tuple(dict.fromkeys(label[at] for label in self.labels))

    def numbers(self, local: np.ndarray, latitude: np.ndarray | float, *, undefined: Sequence[str] = ()) -> np.ndarray:
        """Return the number of the disjoint period of each time step.

        Parameters
        ----------
        local : (...) datetime64
            Local time of the beginning of each time step, or its date.
        latitude : array or float
            Degrees, broadcastable to `local`.
        undefined : sequence of str
            Kinds that the values do not have, such as the season of the mean of a year: their label is "".
        """
        number = np.zeros(np.broadcast_shapes(np.shape(local), np.shape(latitude)), np.int32)
        for kind in self.kinds:
            if kind == "subset":
                continue
            names = self._names(kind)
            if kind in undefined:
                index = np.array(names.index(""))
            elif kind == "season":
                index = season_of(local, latitude)
            elif kind == "year":
                index = local.astype("datetime64[Y]").astype(int) + 1970 - self.first_year
            else:
                index = time_of_day(local + _HALF_HOUR)
            number = number * len(names) + index
        return number


def season_of(local: np.ndarray, latitude: np.ndarray | float) -> np.ndarray:
    """Return the index into `SEASONS` of local times: by month, half a year later in the south.

    Examples
    --------
    >>> season_of(np.array(["2004-12-01", "2004-06-30"], "datetime64[D]"), np.array([50.0, -50.0])).tolist()
    [0, 0]
    """
    month = local.astype("datetime64[M]").astype(int) % 12 + 1
    return ((month % 12) // 3 + 2 * (np.asarray(latitude) < 0)) % 4


def time_of_day(local: np.ndarray) -> np.ndarray:
    """Return the index into `TIMES_OF_DAY` of local times.

    Examples
    --------
    >>> time_of_day(np.array(["2004-12-01T05:59", "2004-12-01T06:00", "2004-12-01T22:00"], "datetime64[m]")).tolist()
    [0, 1, 0]
    """
    hour = local.astype("datetime64[h]").astype(int) % 24
    return np.where((hour < 6) | (hour >= 22), 0, (hour - 6) // 4 + 1)


def periods_of(
    kinds: Sequence[str],
    time: np.ndarray,
    resolution: Resolution,
    subsets: xr.Dataset | None,
    *,
    undefined: bool = False,
) -> Periods:
    """Return the periods of a time axis, for every combination of the kinds.

    Parameters
    ----------
    kinds : sequence of str
        Kinds of periods, of `KINDS`.
    time : (T,) datetime64
        Time axis.
    resolution : Resolution
        Resolution of the time axis.
    subsets : xr.Dataset, optional
        Boolean arrays by name of the subset.
    undefined : bool
        Whether there are values that have no period of a kind.

    Raises
    ------
    SchemaError
        If a kind is not defined for these time steps, or there are no subsets.
    """
    if set(kinds) - {"subset"} and time.dtype.kind != "M":
        raise SchemaError(f'by="{kinds[0]}" needs times that are dates, found {time.dtype}; assign a coordinate time.')
    years: list[str] = []
    first = 0
    names: list[Sequence[str]] = []
    for kind in kinds:
        if kind == "year":
            spread = _HALF_DAY if not resolution.local else np.timedelta64(0, "h")
            ends = [(time[0] - spread), (time[-1] + spread)] if len(time) else []
            found = [int(end.astype("datetime64[Y]").astype(int)) + 1970 for end in ends] or [0, -1]
            first, years = found[0], [str(year) for year in range(found[0], found[1] + 1)]
        if kind == "time_of_day" and resolution.steps_per_day == 1:
            raise SchemaError(f'by="time_of_day" needs hourly data, found {resolution} data; leave it out.')
        if kind == "subset" and subsets is None:
            raise SchemaError('by="subset" needs boolean arrays (site, time), found none; pass subsets=.')
        chosen = {
            "season": SEASONS,
            "year": years,
            "time_of_day": TIMES_OF_DAY,
            "subset": (ALL, *(map(str, subsets or ()))),
        }
        names.append((*chosen[kind], "") if undefined and kind != "subset" else chosen[kind])
    ordered = sorted(range(len(kinds)), key=lambda i: kinds[i] != "subset")  # subsets are the slowest axis
    kinds = tuple(kinds[i] for i in ordered)
    return Periods(kinds, tuple(itertools.product(*(names[i] for i in ordered))), first)


def period_numbers(
    obs: xr.DataArray, periods: Periods, resolution: Resolution, subsets: xr.Dataset | None
) -> list[xr.DataArray]:
    """Return the number of the disjoint period of each (place, time): one array, or one for each subset.

    Raises
    ------
    SchemaError
        If the places lack the coordinates that local times and seasons need.
    """
    if not periods.kinds:
        return []
    number = xr.full_like(obs["time"], 0, np.int32).reset_coords(drop=True)
    if set(periods.kinds) - {"subset"}:
        check_coordinates(obs, periods.kinds, resolution)
        local = local_times(obs, resolution)
        latitude = obs["latitude"] if "season" in periods.kinds else xr.zeros_like(obs["time"], float)
        number = xr.apply_ufunc(
            periods.numbers, local, latitude, dask="parallelized", output_dtypes=[np.int32]
        ).reset_coords(drop=True)
    number = number.broadcast_like(obs.reset_coords(drop=True)).transpose(*obs.dims)
    if subsets is None or not periods.subsets:
        return [number]
    return [number if name == ALL else number.where(within(subsets, name, obs), -1) for name in periods.subsets]


def local_times(obs: xr.DataArray, resolution: Resolution) -> xr.DataArray:
    """Return the local times of the beginning of the hours (place, time), or the dates of daily data."""
    time = obs["time"].reset_coords(drop=True)
    if resolution.local:
        return time
    longitude = obs["longitude"]
    if obs.size > _BLOCK and longitude.dims and longitude.chunks is None:  # times of all places at once take much RAM
        blocks = math.ceil(obs.size / _BLOCK)
        longitude = longitude.chunk({longitude.dims[0]: max(1, longitude.sizes[longitude.dims[0]] // blocks)})
    shift = xr.apply_ufunc(resolution.solar_shift, longitude, dask="parallelized", output_dtypes=["timedelta64[s]"])
    return time + shift.reset_coords(drop=True)


def within(subsets: xr.Dataset, name: str, obs: xr.DataArray) -> xr.DataArray:
    """Return the time steps of a subset (site, time) at those of observations; the others are False."""
    mask = subsets[name].reset_coords(drop=True).astype(bool)
    return mask.reindex({d: obs[d] for d in mask.dims}, fill_value=False)


def check_coordinates(obs: xr.DataArray, kinds: Sequence[str], resolution: Resolution) -> None:
    """Refuse places without the coordinates that local times and seasons need (SchemaError)."""
    needed = [] if resolution.local else ["longitude"]
    needed += ["latitude"] if "season" in kinds else []
    for name in needed:
        if name not in obs.coords:
            raise SchemaError(f'by="{kinds[0]}" needs the coordinate {name}; found {sorted(map(str, obs.coords))}.')
        unknown_places = ~np.isfinite(np.asarray(obs[name].values, float))
        if unknown_places.any():
            where = obs["site"].values[unknown_places] if obs[name].dims == ("site",) else [int(unknown_places.sum())]
            raise SchemaError(
                f'by="{kinds[0]}" needs the {name} of every place, which is missing at '
                f"{', '.join(map(str, where[:5]))}: leave these places out, or assign it."
            )
