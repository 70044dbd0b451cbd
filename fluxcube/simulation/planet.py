"""The planet: weather, leaf area and fluxes at any place and time, all determined by one seed."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from fluxcube.errors import ConfigError
from fluxcube.simulation import places, weather
from fluxcube.simulation.ecosystem import respond
from fluxcube.simulation.fields import Field, make_field
from fluxcube.timestamps import HOUR, hour_axis
from fluxcube.variables import table

#: Days simulated before the first requested hour, so that the initial state no longer matters.
SPIN_UP = np.timedelta64(100, "D")
_CHUNK = 24  # number of places computed at a time, to limit the use of RAM


@dataclass(frozen=True)
class Planet:
    """A world whose true fluxes are known at any place, class and hour.

    Attributes
    ----------
    seed : int
        Determines everything.
    quick : bool
        Fewer towers, a smaller region and a shorter period, for tests.

    Examples
    --------
    >>> planet = Planet(seed=1)
    >>> time = np.arange("2018-06-01T00", "2018-06-02T00", dtype="datetime64[h]")
    >>> flux = planet.fluxes(time, [40.0], [-5.0], ["GRA"])
    >>> flux["NEE"].shape, bool((flux["NEE"] == flux["RECO"] - flux["GPP"]).all())
    ((1, 24), True)
    """

    seed: int = 0
    quick: bool = False

    @property
    def towers(self) -> tuple[places.Tower, ...]:
        """The sites: 36, or 12 of four classes."""
        return places.towers(self.seed, self.quick)

    @property
    def region(self) -> places.Region:
        """The mapped cells."""
        return places.region(self.seed, self.quick)

    @property
    def period(self) -> tuple[np.datetime64, np.datetime64]:
        """First hour of the maps and the hour after their last, UTC."""
        start, stop = ("2018-05-01", "2018-08-01") if self.quick else ("2018-01-01", "2019-01-01")
        return np.datetime64(start, "h"), np.datetime64(stop, "h")

    @property
    def forcing_start(self) -> np.datetime64:
        """First hour of the grids, early enough for the land's memory of about a month."""
        return np.datetime64("2018-04-01" if self.quick else "2017-11-01", "h")

    @property
    def record(self) -> tuple[str, str]:
        """Month and day at which each year of a tower's record begins, and of the day after it ends."""
        return ("05-01", "09-01") if self.quick else ("01-01", "01-01")

    def weather(
        self, time: np.ndarray, latitude: ArrayLike, longitude: ArrayLike, *, step_hours: float = 1.0
    ) -> dict[str, np.ndarray]:
        """Return the weather (place, time) by name; see `fluxcube.simulation.weather.weather`."""
        return weather.weather(self.seed, time, latitude, longitude, step_hours=step_hours)

    def fluxes(
        self, time: np.ndarray, latitude: ArrayLike, longitude: ArrayLike, igbp: ArrayLike
    ) -> dict[str, np.ndarray]:
        """Return the true fluxes.

        Parameters
        ----------
        time : (time,) datetime64
            Starts of consecutive UTC hours.
        latitude, longitude : (place,) float
            Degrees.
        igbp : (place,) str
            Classes that grow on the planet.

        Returns
        -------
        dict of (place, time) float64
            NEE, GPP and RECO, hourly means, umol m-2 s-1, positive towards the air for NEE and RECO; NEE = RECO - GPP.

        Raises
        ------
        ConfigError
            If `time` is not a series of consecutive hours.
        """
        time = np.asarray(time).astype("datetime64[m]")
        if len(time) == 0 or (np.diff(time) != HOUR).any():
            raise ConfigError(
                f"time must be consecutive UTC hours, found {len(time)} values with other steps than 1 h: add the "
                "missing hours."
            )
        half_hours = np.arange(time[0], time[-1] + HOUR, np.timedelta64(30, "m"))
        states = self.states(half_hours, latitude, longitude, igbp, step_hours=0.5, names=("GPP", "RECO"))
        out = {name: values.reshape(len(values), -1, 2).mean(-1) for name, values in states.items()}
        return {"NEE": out["RECO"] - out["GPP"], **out}

    def states(
        self,
        time: np.ndarray,
        latitude: ArrayLike,
        longitude: ArrayLike,
        igbp: ArrayLike,
        *,
        step_hours: float,
        names: tuple[str, ...] | None = None,
    ) -> dict[str, np.ndarray]:
        """Return the weather and the land's response over consecutive steps, (place, time) by name.

        Parameters
        ----------
        time : (time,) datetime64
            Starts of consecutive steps, UTC.
        latitude, longitude, igbp
            As of `fluxes`.
        step_hours : float
            Length of a step, hours.
        names : tuple of str, optional
            Outputs of `fluxcube.simulation.weather.weather` and `fluxcube.simulation.ecosystem.respond` to return; by
            default all.
        """
        lat, lon = (np.atleast_1d(np.asarray(x, float)) for x in (latitude, longitude))
        classes = np.broadcast_to(np.atleast_1d(igbp), lat.shape)
        chunks = [slice(i, i + _CHUNK) for i in range(0, len(lat), _CHUNK)]
        parts = [self._states(time, lat[part], lon[part], classes[part], step_hours, names) for part in chunks]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _states(
        self,
        time: np.ndarray,
        latitude: np.ndarray,
        longitude: np.ndarray,
        igbp: np.ndarray,
        step_hours: float,
        names: tuple[str, ...] | None,
    ) -> dict[str, np.ndarray]:
        step = np.timedelta64(round(step_hours * 60), "m")
        before = int(SPIN_UP / step)
        time = np.asarray(time).astype("datetime64[m]")
        axis = np.concatenate([time[0] - step * np.arange(before, 0, -1), time])
        air = self.weather(axis, latitude, longitude, step_hours=step_hours)
        land = respond(
            air,
            igbp,
            season=weather.solar_season(axis, latitude),
            daylight=weather.day_length(axis, latitude),
            step_hours=step_hours,
            vigour=self.vigour(latitude, longitude),
            sowing=self.sowing(latitude, longitude),
        )
        both = {**air, **land}
        return {name: both[name][:, before:] for name in names or both}

    def vigour(self, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
        """Return the factor on leaf area (place,) that stands for soil and history; a satellite can see its effect."""
        return np.exp(0.33 * _soils(self.seed)[0].at(latitude, longitude))

    def sowing(self, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
        """Return the delay of crops (place,), days."""
        return 7.0 * _soils(self.seed)[1].at(latitude, longitude)


@functools.lru_cache(maxsize=8)
def _soils(seed: int) -> tuple[Field, Field]:
    rng = np.random.default_rng([seed, 13])
    return make_field(rng, (80, 800)), make_field(rng, (150, 900))


def has_tower(planet: Planet) -> np.ndarray:
    """Return whether each cell (latitude, longitude) contains a tower, bool."""
    cells = planet.region
    lat = np.array([tower.latitude for tower in planet.towers])
    lon = np.array([tower.longitude for tower in planet.towers])
    near = (np.abs(cells.latitude[:, None, None] - lat) <= 0.125) & (
        np.abs(cells.longitude[None, :, None] - lon) <= 0.125
    )
    return near.any(-1)


def truth(planet: Planet, time: slice | None = None, *, quick: bool = False) -> xr.Dataset:
    """Compute the region's true hourly fluxes, which are never written next to the raw files.

    Parameters
    ----------
    planet : Planet
    time : slice of two dates, optional
        Requested hours, stop excluded; by default the period of the maps.
    quick : bool
        As for `write_raw`.

    Returns
    -------
    xr.Dataset
        NEE, GPP_NT and RECO_NT (time, latitude, longitude) float32, umol m-2 s-1, NaN over water, with `igbp` and
        `has_tower` on (latitude, longitude).
    """
    planet = replace(planet, quick=planet.quick or quick)
    cells = planet.region
    start, stop = planet.period if time is None else (np.datetime64(time.start, "h"), np.datetime64(time.stop, "h"))
    hours = hour_axis(start, stop)
    lat, lon = np.meshgrid(cells.latitude, cells.longitude, indexing="ij")
    land = cells.igbp != "WAT"
    flux = planet.fluxes(hours, lat[land], lon[land], cells.igbp[land])
    dims = ("time", "latitude", "longitude")
    arrays = {}
    for name, source in (("NEE", "NEE"), ("GPP_NT", "GPP"), ("RECO_NT", "RECO")):
        values = np.full((len(hours), *land.shape), np.nan, "float32")
        values[:, land] = flux[source].T
        arrays[name] = (dims, values, table()[name].attrs)
    return xr.Dataset(
        arrays,
        coords={
            "time": hours,
            "latitude": cells.latitude,
            "longitude": cells.longitude,
            "igbp": (dims[1:], cells.igbp),
            "has_tower": (dims[1:], has_tower(planet)),
        },
        attrs={"title": f"true fluxes of the simulated planet, seed {planet.seed}"},
    )
