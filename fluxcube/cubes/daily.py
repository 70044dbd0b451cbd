"""Read one daily tower: its daily files, and days aggregated from its hours where it has none, fused like hours."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import xarray as xr

from fluxcube.cubes.checks import SunLag, places_apart, reversed_flags, sun_lag, within_bounds
from fluxcube.cubes.clocks import Clock, clock_of_archive, with_clocks
from fluxcube.cubes.fusion import CARBON_UNIT, fuse
from fluxcube.cubes.latitude import daily_doubts
from fluxcube.cubes.localdays import to_daily
from fluxcube.cubes.places import location, other_places, standard_offset
from fluxcube.cubes.tower_data import (
    LIGHT,
    WARN_SHARE,
    Stack,
    Tower,
    TowerOptions,
    add_codes,
    add_counts,
    check_units_and_signs,
    codes_of,
    compared,
    contributors,
    doubts_of,
    join_stacks,
    lost_of,
    repeats_of,
    stack_of,
    trim,
)
from fluxcube.errors import SourceError
from fluxcube.solar import potential_radiation
from fluxcube.sources.towers.archive_metadata import archive_places, completed, log_notes, name_archives
from fluxcube.sources.towers.archives import is_zip, list_members
from fluxcube.sources.towers.badm import SiteInfo
from fluxcube.sources.towers.codes import Codes, possible, sentence
from fluxcube.sources.towers.networks import Archive
from fluxcube.sources.towers.overlap import name_among
from fluxcube.sources.towers.readers import read_archive, read_daily_archive
from fluxcube.sources.towers.selection import choose_member, covers_years
from fluxcube.timestamps import HOUR, offsets_at
from fluxcube.variables import COMPUTED, table

_log = logging.getLogger(__name__)

#: Thresholds of `min_quality` for which the report says what remains.
_SHARES = (0.5, 0.75, 1.0)
_DAILY, _HOURLY = "DD", ("HH", "HR")


def read_daily_tower(archives: Sequence[Archive], info: SiteInfo, options: TowerOptions) -> Tower:
    """Read one site from all of its archives, in local days.

    The days of a publication come from its daily files. Variables and years that these lack, such as TA_RANGE, are
    aggregated from the publication's hours, if those are among `archives`, or in the same zip or folder.

    Parameters
    ----------
    archives : sequence of Archive
        Archives of this site, from ``discover(..., resolution="daily")``.
    info : SiteInfo
        Metadata with latitude and longitude (degrees).
    options : TowerOptions
        Variables of the daily table to read, and how. Its ``clock`` has no effect: days, and so DOY, follow the
        tower's standard time. With ``rule="quality"``, the publication with the higher quality supplies a day.

    Returns
    -------
    Tower
        Its ``time`` are local dates without gaps; predictors have the parts "" and "_quality", fluxes also
        "_randunc" and "_jointunc" where any day has one. ``out_of_bounds`` counts native time
        steps for days aggregated from hours, else days; ``flags_assumed`` native steps whose flag was assumed.
        ``quality`` contains, by stack and variable, ``days``: the number of days with a value, and shares of them,
        where not 0: ``from_hours`` (aggregated from hours) and ``unknown`` (without a quality); ``remain``: shares
        whose quality is at least 0.5, 0.75 and 1.

    Raises
    ------
    SourceError
        If no archive can be read, or none has a value; with ``options.strict``, if any archive cannot be read, for
        hours with an unknown or wrong clock or reversed flags, or if sources place the site in different locations.
    """
    places = archive_places(archives)
    info = completed(info, places)
    log_notes(info)
    apart = places_apart(info, other_places(info) | places)
    if options.strict and (apart or info.doubts):
        raise SourceError(f"{info.site}: {'; '.join((*info.doubts, *apart))}")
    unread: dict[str, str] = {}
    publications = _without_double(list(_read(archives, _Reading(info, places, options), unread)))
    if not publications:
        raise SourceError("; ".join(unread.values()) or f"{info.site}: no archive to make a tower of")
    info = with_clocks(info, {p.label: p.clock for p in publications if p.clock is not None})
    return _assemble(publications, info, options, apart, unread)


@dataclass(frozen=True)
class _Reading:
    """What to read of a site, and with which clocks."""

    info: SiteInfo
    places: Mapping[str, SiteInfo]
    options: TowerOptions

    @property
    def bounded(self) -> tuple[str, ...]:
        """Predictors whose native steps must be within bounds; a target stays as published, even if also predictor."""
        return tuple(name for name in (*self.options.predictors, "TA") if name not in self.options.targets)


@dataclass(frozen=True, kw_only=True)
class _Days:
    """The days of one archive, and what was removed before they were aggregated.

    `spoiled` are the variables of which more than a few native values were out of bounds, `clock` is that of its hours.
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
    missing_codes: dict[str, Codes] = field(default_factory=dict)
    clock: Clock | None = None


def _assemble(
    publications: Sequence[_Days],
    info: SiteInfo,
    options: TowerOptions,
    apart: Sequence[str],
    unread: dict[str, str],
) -> Tower:
    """Fuse publications to a daily tower."""
    fused, fusion = fuse([(p.rank, p.label, p.days) for p in publications], rule=options.rule, resolution="daily")
    fused = trim(fused, [p.file for p in publications], "daily")
    stack, removed = _within_bounds(stack_of(fused, "predictors", options.predictors, "daily"))
    fluxes = stack_of(fused, "fluxes", options.targets, "daily")
    return Tower(
        info=info,
        utc_offset=standard_offset(info),
        networks=contributors(publications, fusion),
        time=fused.time.values,
        predictors=join_stacks(_computed(fused.time.values, info), stack),
        fluxes=fluxes,
        fusion=fusion,
        out_of_bounds=add_counts([*(p.out_of_bounds for p in publications), removed]),
        flags_assumed=add_counts(p.flags_assumed for p in publications if p.from_hours),
        missing_codes=add_codes(p.missing_codes for p in publications),
        warnings=_warnings(info, publications, apart, stack, removed),
        lost=tuple(f"{p.label}: {sentence}" for p in publications for sentence in p.lost),
        unread=unread,
        quality={
            "predictors": _report(stack, publications, fusion),
            "fluxes": _report(fluxes, publications, fusion),
        },
        sun_lag={p.label: round(p.lag.hours, 2) for p in publications if p.lag is not None},
    )


def _read(archives: Sequence[Archive], reading: _Reading, unread: dict[str, str]) -> Iterator[_Days]:
    """Read each archive, and the hours beside a daily one; note in `unread` why one could not be read."""
    label, names = name_archives(archives), reading.options.names
    hourly = [archive for archive in archives if archive.resolution in _HOURLY]
    for archive in archives:
        place = reading.places.get(label(archive))
        try:
            needed = (*compared(names, "daily"), LIGHT)
            days = None if archive.resolution in _HOURLY else read_daily_archive(archive, variables=needed)
            if days is None:
                yield _from_hours(archive, label(archive), place, reading, names)
                continue
            doubts = (*_place_doubts(days, reading), *doubts_of(days), *check_units_and_signs(days, reading.options))
            yield replace(_from_days(archive, label(archive), days, names), warnings=(*doubts, *repeats_of(days)))
            beside = _hours_beside(archive, hourly)
            lacking = _lacking(days, names)
            if beside is not None and lacking:
                yield _from_hours(beside, f"{label(archive)} (hours)", place, reading, lacking)
        except SourceError as error:
            if reading.options.strict or len(archives) == 1:
                raise
            unread[name_among(archive, archives) if archive.path.name in unread else archive.path.name] = str(error)


def _place_doubts(days: xr.Dataset, reading: _Reading) -> tuple[str, ...]:
    """Return sentences on a latitude that the measured daily light contradicts; raise a SourceError if strict."""
    if LIGHT not in days or f"{LIGHT}_QUALITY" not in days:
        return ()
    quality = days[f"{LIGHT}_QUALITY"].values
    good = (quality >= _SHARES[1]) | ~np.isfinite(quality).any()  # a table without any quality is checked whole
    doubts = daily_doubts(days.time.values[good], days[LIGHT].values[good], location(reading.info)[0])
    if doubts and reading.options.strict:
        raise SourceError(f"{days.attrs['source_file']}: {'; '.join(doubts)}")
    return doubts


def _hours_beside(archive: Archive, hourly: Sequence[Archive]) -> Archive | None:
    """Return the half-hours or hours in the zip of a daily table, or in its folder if it is unpacked; or None.

    None also where one of the `hourly` archives, which are read anyway, has them.
    """
    same = [other for other in hourly if other.network == archive.network]
    if any(other.first_year is not None and covers_years(other, archive) for other in same):
        return None
    if is_zip(archive.path):
        beside = _hours_in_zip(archive)
    else:
        names = (archive.path.name.replace(f"_{_DAILY}_", f"_{step}_", 1) for step in _HOURLY)
        found = next((path for path in map(archive.path.with_name, names) if path.exists()), archive.path)
        beside = None if found == archive.path else replace(archive, path=found, resolution="")
    return None if beside is None or beside.location in {other.location for other in same} else beside


def _hours_in_zip(archive: Archive) -> Archive | None:
    """Return the half-hours or hours in the zip of a daily table: those of its name, else the only ones; or None."""
    try:
        members = list_members(archive.path)
        names = [(archive.member or "").replace(f"_{_DAILY}_", f"_{step}_") for step in _HOURLY]
        member = next((name for name in names if name in members), "") or choose_member(archive.path)
    except SourceError:
        return None
    return replace(archive, member=member, resolution="")


def _lacking(days: xr.Dataset, names: Sequence[str]) -> list[str]:
    """Return the variables without any value in a daily file; NEE and its parts only if it has none of them."""
    present = {name for name in names if name in days and np.isfinite(days[name].values).any()}
    carbon = set(CARBON_UNIT) if present.intersection(CARBON_UNIT) else set()
    return [name for name in names if name not in present | carbon | set(COMPUTED)]


def _from_hours(archive: Archive, label: str, place: SiteInfo | None, reading: _Reading, names: Sequence[str]) -> _Days:
    """Read half-hours or hours, check their clock and flags, and aggregate them to days."""
    clock = clock_of_archive(archive, reading.info, place, strict=reading.options.strict)
    latitude, longitude = location(reading.info)
    needed = [*names, LIGHT, *(["TA"] if "TA_RANGE" in names else [])]
    needed = [name for name in compared(needed) if name in table() and name not in COMPUTED]
    native = read_archive(archive, utc_offset=clock.offset, variables=needed)
    lag = sun_lag(native, latitude, longitude)
    noted = (*doubts_of(native), *check_units_and_signs(native, reading.options))
    doubts = (*(lag.doubts if lag else ()), *reversed_flags(native, longitude))
    if doubts and reading.options.strict:
        raise SourceError(f"{native.attrs['source_file']}: {'; '.join(doubts)}")
    bounded, counts = within_bounds(native, reading.bounded)
    spoiled = tuple(name for name, count in counts.items() if count > WARN_SHARE * int(native[name].count()))
    days = _from_days(archive, label, to_daily(bounded, utc_offset=clock.offset), names)
    return replace(
        days,
        from_hours=True,
        out_of_bounds=counts,
        warnings=(*doubts, *noted, *days.warnings),
        lag=lag,
        spoiled=spoiled,
        clock=clock,
    )


def _from_days(archive: Archive, label: str, days: xr.Dataset, names: Sequence[str]) -> _Days:
    """Return the days of one archive with the variables requested."""
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
        missing_codes=codes_of(days, names),
        warnings=repeats_of(days),
        lost=lost_of(days),
    )


def _arrays_of(name: str) -> tuple[str, ...]:
    return tuple(name + ending for ending in ("", "_QUALITY", "_RANDUNC", "_JOINTUNC"))


def _without_double(publications: Sequence[_Days]) -> list[_Days]:
    """Remove from days aggregated from hours what a daily file of the same publication has, even where it is worse."""
    published = [p for p in publications if not p.from_hours]
    out = []
    for p in publications:
        for other in published if p.from_hours else ():
            p = replace(p, days=_cleared(p.days, other.days)) if other.network == p.network else p
        out.append(p)
    return out


def _cleared(days: xr.Dataset, published: xr.Dataset) -> xr.Dataset:
    """Return days without values on the dates of a published table that has the variable; carbon fluxes are a unit."""
    names = {name for name in table("daily") if name in published and np.isfinite(published[name].values).any()}
    names |= set(CARBON_UNIT) if names.intersection(CARBON_UNIT) else set()
    there = np.isin(days.time.values, published.time.values)
    arrays = [array for name in names for array in _arrays_of(name) if array in days]
    return days.assign({array: days[array].where(~there) for array in arrays})


def _computed(time: np.ndarray, info: SiteInfo) -> Stack:
    """Return the predictors that follow from place and date alone: DOY, and daily means of potential radiation."""
    latitude, longitude = location(info)
    offsets = offsets_at(time, info.utc_offsets if len(info.utc_offsets) > 1 else standard_offset(info))
    midnight = time.astype("datetime64[m]") - np.round(offsets * 60).astype("timedelta64[m]")
    hours = midnight[:, None] + np.arange(24) * HOUR
    potential = potential_radiation(hours.ravel(), latitude, longitude).reshape(-1, 24).mean(1)
    date = time.astype("datetime64[D]")
    columns = {"DOY": (date - date.astype("datetime64[Y]")).astype(np.int64), "SW_IN_POT": potential}
    names = tuple(name for name in COMPUTED if name in columns)
    values = np.stack([columns[name] for name in names], -1).astype(np.float32)
    return Stack(names, {"": values, "_quality": np.ones(values.shape, np.float32)})


def _within_bounds(stack: Stack) -> tuple[Stack, dict[str, int]]:
    """Make daily predictors outside their physical limits missing, and count them."""
    if not stack.names:
        return stack, {}
    inside = [possible(stack.values[:, i], name, "daily") for i, name in enumerate(stack.names)]
    bad = np.isfinite(stack.values) & ~np.stack(inside, -1)
    counts = {name: int(n) for name, n in zip(stack.names, bad.sum(0), strict=True) if n}
    return Stack(stack.names, {end: np.where(bad, np.float32(np.nan), a) for end, a in stack.parts.items()}), counts


def _warnings(
    info: SiteInfo, publications: Sequence[_Days], apart: Sequence[str], stack: Stack, removed: Mapping[str, int]
) -> tuple[str, ...]:
    """Return what is doubtful about a site, and log it; doubts about its metadata or clock are logged already."""
    warnings = [*apart, *(f"{p.label}: {doubt}" for p in publications for doubt in p.warnings)]
    warnings += [
        f"{p.label}: {name}: {p.out_of_bounds[name]} values were out of bounds and became missing"
        for p in publications
        for name in p.spoiled
    ]
    days = dict(zip(stack.names, np.isfinite(stack.values).sum(0).tolist(), strict=True))
    for name, count in removed.items():
        if count > WARN_SHARE * (count + days[name]):
            warnings.append(f"{name}: {count} days were out of bounds and became missing")
    found = add_codes(p.missing_codes for p in publications)
    for warning in (*warnings, *(sentence(name, codes) for name, codes in found.items())):
        _log.warning("%s: %s", info.site, warning)
    unknown = add_counts(p.flags_assumed for p in publications if not p.from_hours)
    if unknown:
        counts = ", ".join(f"{name} {count}" for name, count in unknown.items())
        warnings.append(f"quality unknown, days that no min_quality keeps: {counts}")
    warnings += [*info.doubts, *info.notes]
    return tuple(warnings)


def _report(stack: Stack, publications: Sequence[_Days], fusion: Mapping) -> dict[str, dict]:
    """Return, for each variable of a stack, how many days it has, from which source, and of which quality."""
    from_hours = {p.label for p in publications if p.from_hours}
    report: dict[str, dict] = {}
    for i, name in enumerate(stack.names):
        quality = stack.parts["_quality"][:, i]
        days = int(np.isfinite(stack.values[:, i]).sum())
        shares = {
            "from_hours": sum(part["days"] for label, part in fusion.get(name, {}).items() if label in from_hours),
            "unknown": int((np.isfinite(stack.values[:, i]) & np.isnan(quality)).sum()),
        }
        report[name] = {"days": days}
        report[name] |= {what: round(n / days, 6) for what, n in shares.items() if n and days}
        report[name]["remain"] = [round(float((quality >= q - 1e-6).sum() / max(days, 1)), 6) for q in _SHARES]
    return report
