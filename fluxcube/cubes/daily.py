"""One tower in days: its daily files, and days made from its hours where it has none, fused as hours are."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from fluxcube.cubes.checks import SunLag, places_apart, reversed_flags, sun_lag, within_bounds
from fluxcube.cubes.fusion import CARBON_UNIT, fuse
from fluxcube.cubes.localdays import to_daily
from fluxcube.cubes.tower import (
    LIGHT,
    Stack,
    Tower,
    added,
    completed,
    contributors,
    join_stacks,
    lost_of,
    name_archives,
    other_places,
    repeats_of,
    stack_of,
    told_places,
    with_values,
)
from fluxcube.errors import SourceError
from fluxcube.normalisation import inside
from fluxcube.solar import potential_radiation
from fluxcube.sources.towers.archives import is_zip
from fluxcube.sources.towers.badm import SiteInfo, clock_of
from fluxcube.sources.towers.networks import Archive
from fluxcube.sources.towers.readers import read_archive, read_daily_archive
from fluxcube.sources.towers.selection import choose_member
from fluxcube.timestamps import HOUR, Offset, offsets_at
from fluxcube.variables import COMPUTED, table

__all__ = ["read_daily_tower", "to_daily"]

_log = logging.getLogger(__name__)

#: Shares of a day that a reader may ask for, in the report of what they leave.
_SHARES = (0.5, 0.75, 1.0)
#: More of a predictor out of bounds than this is worth a warning.
_WARN_SHARE = 0.001
_DAILY, _HOURLY = "DD", ("HH", "HR")


def read_daily_tower(
    archives: Sequence[Archive],
    info: SiteInfo,
    *,
    predictors: Sequence[str],
    targets: Sequence[str],
    rule: str = "newest",
    clock: str = "solar",
    strict: bool = False,
) -> Tower:
    """Read one site from all of its archives, in local days.

    A publication's daily files give its days. What they do not have, such as TA_RANGE, or years, is made of the
    publication's hours, where those are among `archives`, or in the same zip or folder.

    Parameters
    ----------
    archives : sequence of Archive
        Of this site, from ``discover(..., resolution="daily")``.
    info : SiteInfo
        With latitude and longitude (degrees).
    predictors, targets : sequence of str
        Names of the daily variable table to read.
    rule : {"newest", "quality"}
        Where publications overlap, the newest that has a value wins, or the one with the higher quality.
    clock : str
        Without effect: a day is a day of the tower's standard time, and so is its DOY.
    strict : bool
        Raise for an archive that cannot be read even where another one can, where the sun contradicts the clock of
        hours that days are made of, or their flags look reversed, or where sources have the site in places apart.

    Returns
    -------
    Tower
        Its ``time`` are local dates without holes; predictors have the parts "" and "_quality", fluxes
        "_randunc" and "_jointunc" beside them where any day has one. ``out_of_bounds`` counts native steps of days made
        from hours, and days; ``flags_assumed`` native steps whose flag was assumed.
        ``quality`` has by stack and variable: ``days`` with a value, and shares of them, where not 0: ``from_hours``
        (made of hours) and ``unknown`` (without a quality); ``remain``: shares whose quality is at least 0.5, 0.75, 1.

    Raises
    ------
    SourceError
        If no archive can be read, or there is no value in any.
    """
    told = told_places(archives)
    info = completed(info, told)
    apart = places_apart(info, other_places(info) | told)
    if apart and strict:
        raise SourceError(f"{info.site}: {'; '.join(apart)}")
    unread: dict[str, str] = {}
    reading = _Reading(info, told, predictors, targets, strict)
    made = _without_double(list(_read(archives, reading, unread)))
    if not made:
        raise SourceError("; ".join(unread.values()) or f"{info.site}: no archive to make a tower of")
    fused, given = fuse([(p.rank, p.label, p.days) for p in made], rule=rule, resolution="daily")
    fused = with_values(fused, [p.file for p in made], "daily")
    stack, beyond = _masked(stack_of(fused, "predictors", predictors, "daily"))
    fluxes = stack_of(fused, "fluxes", targets, "daily")
    return Tower(
        info=info,
        utc_offset=_offset(info),
        networks=contributors(made, given),
        time=fused.time.values,
        predictors=join_stacks(_computed(fused.time.values, info), stack),
        fluxes=fluxes,
        given=given,
        out_of_bounds=added([*(p.out_of_bounds for p in made), beyond]),
        flags_assumed=added(p.flags_assumed for p in made if p.from_hours),
        warnings=_warnings(info, made, apart, stack, beyond),
        lost=tuple(f"{p.label}: {sentence}" for p in made for sentence in p.lost),
        unread=unread,
        quality={"predictors": _report(stack, made, given), "fluxes": _report(fluxes, made, given)},
        sun_lag={p.label: round(p.lag.hours, 2) for p in made if p.lag is not None},
    )


@dataclass(frozen=True)
class _Reading:
    """What to read of a site."""

    info: SiteInfo
    told: Mapping[str, SiteInfo]
    predictors: Sequence[str]
    targets: Sequence[str]
    strict: bool

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.predictors, *self.targets]))

    @property
    def bounded(self) -> tuple[str, ...]:
        """Predictors whose native steps must be possible; a target stays as it is, and what is both is so as a day."""
        return tuple(name for name in (*self.predictors, "TA") if name not in self.targets)

    def clock(self, label: str) -> Offset:
        """Return the offset to decode an archive with: its own where it tells one, else the site's."""
        place = self.told.get(label)
        return clock_of(self.info if place is None or place.utc_offset is None else place)


@dataclass(frozen=True, kw_only=True)
class _Days:
    """What is kept of one archive: its days, and what was removed before they were made.

    `spoiled` are variables of which more than a few native values were out of bounds.
    """

    rank: int
    label: str
    network: str
    file: str
    days: xr.Dataset
    from_hours: bool
    out_of_bounds: dict[str, int]
    flags_assumed: dict[str, int]
    warnings: tuple[str, ...]
    lost: tuple[str, ...]
    lag: SunLag | None = None
    spoiled: tuple[str, ...] = ()


def _read(archives: Sequence[Archive], reading: _Reading, unread: dict[str, str]) -> Iterator[_Days]:
    """Read each archive, and the hours beside a daily one; note in `unread` why one could not be."""
    label = name_archives(archives)
    hourly = {archive.network for archive in archives if archive.resolution in _HOURLY}
    for archive in archives:
        clock = functools.partial(reading.clock, label(archive))  # asked only where hours are read: it may warn
        try:
            days = None if archive.resolution in _HOURLY else read_daily_archive(archive, variables=reading.names)
            if days is None:
                yield _made_of_hours(archive, label(archive), clock, reading, reading.names)
                continue
            yield _kept(archive, label(archive), days, reading.names)
            beside = None if archive.network in hourly else _hours_beside(archive)
            lacking = _lacking(days, reading.names)
            if beside is not None and lacking:
                yield _made_of_hours(beside, f"{label(archive)} (hours)", clock, reading, lacking)
        except SourceError as error:
            if reading.strict or len(archives) == 1:
                raise
            unread[archive.path.name] = str(error)


def _hours_beside(archive: Archive) -> Archive | None:
    """Return the half-hours or hours in the zip of a daily table, or in its folder where it is unpacked; or None."""
    if not is_zip(archive.path):
        names = (archive.path.name.replace(f"_{_DAILY}_", f"_{step}_", 1) for step in _HOURLY)
        found = next((path for path in map(archive.path.with_name, names) if path.exists()), archive.path)
        return None if found == archive.path else replace(archive, path=found, resolution="")
    try:
        return replace(archive, member=choose_member(archive.path), resolution="")
    except SourceError:
        return None


def _lacking(days: xr.Dataset, names: Sequence[str]) -> list[str]:
    """Return the variables of which a daily file has no value; NEE and its parts only if it has none of them."""
    held = {name for name in names if name in days and np.isfinite(days[name].values).any()}
    carbon = set(CARBON_UNIT) if held.intersection(CARBON_UNIT) else set()
    return [name for name in names if name not in held | carbon | set(COMPUTED)]


def _made_of_hours(
    archive: Archive, label: str, clock: Callable[[], Offset], reading: _Reading, names: Sequence[str]
) -> _Days:
    """Read half-hours or hours, hold their clock against the sun and flags against values, and make days of them."""
    offset, info = clock(), reading.info
    wanted = [*names, LIGHT, *(["TA"] if "TA_RANGE" in names else [])]
    wanted = [name for name in dict.fromkeys(wanted) if name in table() and name not in COMPUTED]
    native = read_archive(archive, utc_offset=offset, variables=wanted)
    lag = sun_lag(native, info.latitude, info.longitude)
    doubts = (*(lag.doubts if lag else ()), *reversed_flags(native, info.longitude))
    if doubts and reading.strict:
        raise SourceError(f"{native.attrs['source_file']}: {'; '.join(doubts)}")
    bounded, counts = within_bounds(native, reading.bounded)
    spoiled = tuple(name for name, count in counts.items() if count > _WARN_SHARE * int(native[name].count()))
    made = _kept(archive, label, to_daily(bounded, utc_offset=offset), names)
    return replace(
        made, from_hours=True, out_of_bounds=counts, warnings=(*doubts, *made.warnings), lag=lag, spoiled=spoiled
    )


def _kept(archive: Archive, label: str, days: xr.Dataset, names: Sequence[str]) -> _Days:
    """Keep what was asked for of the days of one archive."""
    known = [str(name) for name in days.data_vars if name in table("daily")]
    others = [name for name in known if name not in names]
    drop = [str(array) for array in days.data_vars for name in others if array in _arrays_of(name)]
    assumed = json.loads(days.attrs.get("flags_assumed", "{}"))
    return _Days(
        rank=archive.rank,
        label=label,
        network=archive.network,
        file=archive.path.name,
        days=days.drop_vars(drop),
        from_hours=False,
        out_of_bounds={},
        flags_assumed={name: count for name, count in assumed.items() if name in names},
        warnings=repeats_of(days),
        lost=lost_of(days),
    )


def _arrays_of(name: str) -> tuple[str, ...]:
    return tuple(name + ending for ending in ("", "_QUALITY", "_RANDUNC", "_JOINTUNC"))


def _without_double(made: Sequence[_Days]) -> list[_Days]:
    """Leave out of days made from hours what a daily file of the same publication gives, whichever is the better."""
    published = [p for p in made if not p.from_hours]
    out = []
    for p in made:
        for other in published if p.from_hours else ():
            p = replace(p, days=_cleared(p.days, other.days)) if other.network == p.network else p
        out.append(p)
    return out


def _cleared(days: xr.Dataset, published: xr.Dataset) -> xr.Dataset:
    """Return days without values on the dates of a published table that has the variable; carbon goes as one."""
    held = {name for name in table("daily") if name in published and np.isfinite(published[name].values).any()}
    held |= set(CARBON_UNIT) if held.intersection(CARBON_UNIT) else set()
    there = np.isin(days.time.values, published.time.values)
    arrays = [array for name in held for array in _arrays_of(name) if array in days]
    return days.assign({array: days[array].where(~there) for array in arrays})


def _offset(info: SiteInfo) -> float:
    return info.utc_offset if info.utc_offset is not None else float(round(info.longitude / 15))


def _computed(time: np.ndarray, info: SiteInfo) -> Stack:
    """Return what place and date alone give: the day of the year, and the mean of the hours' potential radiation."""
    offsets = offsets_at(time, info.utc_offsets if len(info.utc_offsets) > 1 else _offset(info))
    midnight = time.astype("datetime64[m]") - np.round(offsets * 60).astype("timedelta64[m]")
    hours = midnight[:, None] + np.arange(24) * HOUR
    potential = potential_radiation(hours.ravel(), info.latitude, info.longitude).reshape(-1, 24).mean(1)
    date = time.astype("datetime64[D]")
    columns = {"DOY": (date - date.astype("datetime64[Y]")).astype(np.int64), "SW_IN_POT": potential}
    names = tuple(name for name in COMPUTED if name in columns)
    values = np.stack([columns[name] for name in names], -1).astype(np.float32)
    return Stack(names, {"": values, "_quality": np.ones(values.shape, np.float32)})


def _masked(stack: Stack) -> tuple[Stack, dict[str, int]]:
    """Make days of predictors missing whose value cannot be, and count them."""
    if not stack.names:
        return stack, {}
    bad = np.isfinite(stack.values) & ~inside(stack.values, stack.names, resolution="daily")
    counts = {name: int(n) for name, n in zip(stack.names, bad.sum(0), strict=True) if n}
    return Stack(stack.names, {end: np.where(bad, np.float32(np.nan), a) for end, a in stack.parts.items()}), counts


def _warnings(
    info: SiteInfo, made: Sequence[_Days], apart: Sequence[str], stack: Stack, beyond: Mapping[str, int]
) -> tuple[str, ...]:
    """Say what is doubtful of a site, and log it; that its clock is assumed was logged by `clock_of`."""
    found = [*apart, *(f"{p.label}: {doubt}" for p in made for doubt in p.warnings)]
    found += [
        f"{p.label}: {name}: {p.out_of_bounds[name]} values were out of bounds and became missing"
        for p in made
        for name in p.spoiled
    ]
    days = dict(zip(stack.names, np.isfinite(stack.values).sum(0).tolist(), strict=True))
    for name, count in beyond.items():
        if count > _WARN_SHARE * (count + days[name]):
            found.append(f"{name}: {count} days were out of bounds and became missing")
    for doubt in found:
        _log.warning("%s: %s", info.site, doubt)
    unknown = added(p.flags_assumed for p in made if not p.from_hours)
    if unknown:
        counts = ", ".join(f"{name} {count}" for name, count in unknown.items())
        found.append(f"quality unknown, days that no min_quality keeps: {counts}")
    if info.utc_offset is None and any(p.from_hours for p in made):
        found.append("no UTC_OFFSET: stamps were decoded with the whole hour nearest to longitude / 15")
    return tuple(found)


def _report(stack: Stack, made: Sequence[_Days], given: dict) -> dict[str, dict]:
    """Say of each variable of a stack how many days there are, made of what, and how good."""
    hours = {p.label for p in made if p.from_hours}
    report = {}
    for i, name in enumerate(stack.names):
        quality = stack.parts["_quality"][:, i]
        days = int(np.isfinite(stack.values[:, i]).sum())
        shares = {
            "from_hours": sum(part["days"] for label, part in given.get(name, {}).items() if label in hours),
            "unknown": int((np.isfinite(stack.values[:, i]) & np.isnan(quality)).sum()),
        }
        report[name] = {"days": days}
        report[name] |= {what: round(n / days, 6) for what, n in shares.items() if n and days}
        report[name]["remain"] = [round(float((quality >= q - 1e-6).sum() / max(days, 1)), 6) for q in _SHARES]
    return report
