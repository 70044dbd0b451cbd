"""The clock of a tower's time stamps: from metadata, or, where no source has it, estimated from the measured light."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from fluxcube.cubes.checks import SEASON_CHANGE, SUN_LAG, SunLag, sun_lag
from fluxcube.cubes.places import location, standard_offset
from fluxcube.errors import SourceError, to_type
from fluxcube.sources.towers.badm import SiteInfo, clock_of
from fluxcube.sources.towers.networks import Archive
from fluxcube.sources.towers.readers import read_archive
from fluxcube.timestamps import Offset

_log = logging.getLogger(__name__)

#: Variables that an offset from UTC is estimated from, the preferred one first.
_LIGHTS = ("SW_IN", "PPFD_IN")
#: Standard times that are no whole hour, by country: offset, the whole hours that it replaces there, and the longitudes
#: between which it applies.
_PARTS_OF_HOURS: Mapping[str, tuple[float, tuple[int, ...], tuple[float, float]]] = {
    "AF": (4.5, (4, 5), (60, 75)),
    "AU": (9.5, (9, 10), (129, 141)),
    "CA": (-3.5, (-3, -4), (-59.5, -52)),  # Newfoundland
    "IN": (5.5, (5, 6), (68, 98)),
    "IR": (3.5, (3, 4), (44, 64)),
    "LK": (5.5, (5, 6), (79, 82)),
    "MM": (6.5, (6, 7), (92, 102)),
    "NP": (5.75, (5, 6), (80, 89)),
}
#: Queensland, north of this latitude and east of this longitude, has the whole hour.
_QUEENSLAND = (-26.0, 138.0)
#: An estimate that is farther than this (hours) from the light is uncertain: a shaded or turned sensor delays the light
#: by up to 0.56 h at the 157 towers of FLUXNET2015, and by at most 0.17 h at nine of ten.
_UNCERTAIN = 0.35
#: Maximum difference in hours of a standard time from longitude / 15 (western China: 3.1).
_FARTHEST = 3.25


@dataclass(frozen=True, kw_only=True)
class Clock:
    """The clock of the time stamps of one archive.

    Attributes
    ----------
    offset : float or sequence of (start, float)
        Hours east of UTC, as `fluxcube.sources.towers.readers.read_archive` accepts them.
    windows : int
        Number of half-months of light from which it was estimated; 0 if it was not estimated.
    note : str
        Sentence on a clock that no source has; "" if one has it.
    """

    offset: Offset
    windows: int = 0
    note: str = ""

    @property
    def estimated(self) -> bool:
        """Whether it was estimated from the light."""
        return self.windows > 0


def clock_of_archive(archive: Archive, info: SiteInfo, place: SiteInfo | None, *, strict: bool = False) -> Clock:
    """Return the clock of an archive: its own, else that of the site's metadata, else an estimate from its light.

    Parameters
    ----------
    archive : Archive
        Half-hours or hours.
    info : SiteInfo
        Metadata of the site, with latitude and longitude.
    place : SiteInfo or None
        Metadata that the archive itself contains.
    strict : bool
        Refuse a clock that no source has.

    Returns
    -------
    Clock
        Without enough light it is the whole hour nearest to longitude / 15, with a note.

    Raises
    ------
    SourceError
        If no source has the clock and `strict` is set.
    """
    known = info if place is None or place.utc_offset is None else place
    if known.utc_offset is not None:
        return Clock(offset=clock_of(known))
    if strict:
        raise SourceError(
            f"{info.site}: no source has its UTC_OFFSET, and strict refuses to estimate it; add a line with site_id, "
            "latitude, longitude and utc_offset (hours east of UTC of standard time) to a sites.csv, or UTC_OFFSET to "
            "a BIF file"
        )
    return estimated_clock(archive, info) or _from_longitude(info)


def clocks_of_site(
    archives: Mapping[str, Archive], info: SiteInfo, places: Mapping[str, SiteInfo], *, strict: bool = False
) -> dict[str, Clock]:
    """Return the clock of each archive of a site; without light of its own, an archive has the estimate of another.

    Parameters
    ----------
    archives : mapping of str to Archive
        Archives with half-hours or hours, by label.
    info : SiteInfo
        Metadata of the site, with latitude and longitude.
    places : mapping of str to SiteInfo
        Metadata that archives themselves contain, by label.
    strict : bool
        Refuse a clock that no source has.

    Raises
    ------
    SourceError
        If no source has a clock and `strict` is set.
    """
    clocks = {label: clock_of_archive(file, info, places.get(label), strict=strict) for label, file in archives.items()}
    best = best_clock(clocks)
    if best is None:
        return clocks
    note = f"no source has its UTC_OFFSET, and it has too little light: {best.offset:+g} h is that of another archive"
    return {
        label: Clock(offset=best.offset, note=note) if clock.note and not clock.estimated else clock
        for label, clock in clocks.items()
    }


def estimated_clock(archive: Archive, info: SiteInfo) -> Clock | None:
    """Estimate the offset from UTC of an archive's time stamps from its light; None if there is too little light.

    The light of each half-month is compared with the sun's (`fluxcube.cubes.checks.sun_lag`), and the standard time in
    use in the country that is nearest to the light's clock is chosen. With daylight saving in the stamps, it is that of
    winter.
    """
    assumed = standard_offset(replace(info, utc_offset=None))
    try:
        record = read_archive(archive, utc_offset=assumed, variables=_LIGHTS)
    except SourceError:
        return None  # no light; if the archive is broken, reading it whole raises the same error
    return clock_from_light(record, info, assumed)


def clock_from_light(record: xr.Dataset, info: SiteInfo, assumed: float) -> Clock | None:
    """Return the clock that the light of a record shows, which was decoded with an assumed offset (hours); or None."""
    latitude, longitude = location(info)
    lag = sun_lag(record, latitude, longitude)
    if lag is None or not lag.windows:
        return None
    shown = assumed + _standard_lag(lag)
    offset = min(standard_times(info.site, latitude, longitude), key=lambda hours: abs(hours - shown))
    doubts = [f"its light fits {shown:+.2f} h, so that the estimate is uncertain"] * (abs(offset - shown) > _UNCERTAIN)
    if len(lag.seasons) < 2:
        doubts.append("its light is of one season only, in which daylight saving in the stamps cannot be seen")
    if abs(offset - longitude / 15) > _FARTHEST:
        doubts.append("no country at this longitude has this time: the stamps are of another place, or in UTC")
    note = (
        f"no source has its UTC_OFFSET: {offset:+g} h was estimated from the light, which fits {shown:+.2f} h "
        f"({lag.windows} half-months); add utc_offset to a sites.csv if it is another"
    )
    return Clock(offset=offset, windows=lag.windows, note="; ".join([note, *doubts]))


def standard_times(site: str, latitude: float, longitude: float) -> tuple[float, ...]:
    """Return the offsets from UTC that the time stamps of a site can have.

    They are whole hours and, in countries whose standard time is another, that one instead of its neighbours. The
    country is that of the site's ID.

    Examples
    --------
    >>> 9.5 in standard_times("AU-ASM", -22.3, 133.2), 9.5 in standard_times("DE-Tha", 50.96, 13.6)
    (True, False)
    """
    hours: list[float] = [float(hour) for hour in range(-12, 15)]
    part, replaced, (west, east) = _PARTS_OF_HOURS.get(site[:2], (0.0, (), (0.0, 0.0)))
    if replaced and west <= longitude <= east:
        queensland = site.startswith("AU") and latitude > _QUEENSLAND[0] and longitude > _QUEENSLAND[1]
        hours = [hour for hour in hours if hour not in replaced] + [10.0 if queensland else part]
    return tuple(hours)


def check_own_clock(record: xr.Dataset, where: str) -> None:
    """Refuse the table of an own site whose sunlight contradicts its clock.

    Parameters
    ----------
    record : xr.Dataset
        As `fluxcube.read_table` returns it.
    where : str
        The file, for the message.

    Raises
    ------
    SourceError
        With the evidence, the offset from UTC that fits the light, and what accepts the one that was stated.
    """
    attrs = record.attrs
    lag = sun_lag(record, attrs["latitude"], attrs["longitude"])
    if lag is None or not lag.clock_faults:
        return
    evidence = "; ".join(evidence for evidence, _ in lag.clock_faults)
    accept = to_type(python="trust='utc_offset'", shell="--trust utc_offset")
    raise SourceError(
        f"{where}: with utc_offset = {attrs['utc_offset']:g}, {evidence}. {_clock_remedy(attrs, lag)}, or, if times "
        f"and offset are right, accept them with {accept}."
    )


def _clock_remedy(attrs: Mapping[str, Any], lag: SunLag) -> str:
    """Return the start of a sentence on what corrects the clock of an own table."""
    if abs(lag.hours) <= SUN_LAG or len(lag.clock_faults) > 1 or _standard_lag(lag) != lag.hours:
        return "Write the times in standard time with one offset from UTC all year"
    shown = attrs["utc_offset"] + lag.hours
    fit = min(standard_times(attrs["site"], attrs["latitude"], attrs["longitude"]), key=lambda at: abs(at - shown))
    how = to_type(
        python=f"pass utc_offset={fit:g}",
        shell=f"write utc_offset = {fit:g} in the file of --declaration, or pass --utc-offset {fit:g}",
    )
    rest = ", and check stamp, as half an hour may be its fault" if abs(fit - shown) > _UNCERTAIN else ""
    return f"The light fits an offset of {shown:+.1f} h{lag.hint}{rest}: {how}"


def with_clocks(info: SiteInfo, clocks: Mapping[str, Clock]) -> SiteInfo:
    """Return the metadata of a site with the offset from UTC that was estimated from most light, and its notes.

    Parameters
    ----------
    info : SiteInfo
        Metadata of the site.
    clocks : mapping of str to Clock
        Clocks of its archives, by label.
    """
    notes = [f"{label}: {clock.note}" for label, clock in clocks.items() if clock.note]
    if info.utc_offset is None and (best := best_clock(clocks)) is not None and isinstance(best.offset, float):
        info = replace(info, utc_offset=best.offset, utc_offsets=((None, best.offset),))
    for note in notes:
        _log.warning("%s: %s", info.site, note)
    return replace(info, notes=tuple(dict.fromkeys((*info.notes, *notes)))) if notes else info


def best_clock(clocks: Mapping[str, Clock]) -> Clock | None:
    """Return the clock that was estimated from the largest number of half-months; None if none was estimated."""
    estimated = [clock for clock in clocks.values() if clock.estimated]
    return max(estimated, key=lambda clock: clock.windows) if estimated else None


def _standard_lag(lag: SunLag) -> float:
    """Return the lag of standard time: that of winter where the stamps follow daylight saving, else that of all."""
    lags = list(lag.seasons.values())
    change = float(np.ptp(lags)) if len(lags) > 1 else 0.0
    return min(lags) if SEASON_CHANGE < change < 24 - SEASON_CHANGE else lag.hours


def _from_longitude(info: SiteInfo) -> Clock:
    note = "no UTC_OFFSET, and too little light: stamps were decoded with the whole hour nearest to longitude / 15"
    return Clock(offset=standard_offset(info), note=note)
