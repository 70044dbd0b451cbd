"""One tower: every archive of a site, read, turned into hours, fused, checked and completed with what place gives."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import xarray as xr

from fluxcube.cubes.checks import SunLag, places_apart, reversed_flags, sun_lag, within_bounds
from fluxcube.cubes.fusion import fuse
from fluxcube.cubes.hourly import to_hourly
from fluxcube.errors import SourceError
from fluxcube.schema import PARTS, stack_parts
from fluxcube.solar import potential_radiation
from fluxcube.sources.towers.badm import SiteInfo, clock_of
from fluxcube.sources.towers.networks import Archive
from fluxcube.sources.towers.readers import place_of, read_archive
from fluxcube.timestamps import HOUR, local_clock
from fluxcube.variables import COMPUTED, table

_log = logging.getLogger(__name__)

#: Rank (lower is newer), label and native record of one publication.
Record = tuple[int, str, xr.Dataset]

#: Read, whether asked for or not, to check the clock.
LIGHT = "SW_IN"

CLOCKS = ("solar", "standard")
#: Of a daily cube: towers' days, as their daily files have them, begin at midnight of standard time.
DAY_CLOCK = "standard"

#: More of a predictor out of bounds than this is worth a warning.
_WARN_SHARE = 0.001


@dataclass(frozen=True)
class Stack:
    """Some variables of one site: `parts` has an array (time, name) by ending (`fluxcube.schema.PARTS`)."""

    names: tuple[str, ...]
    parts: Mapping[str, np.ndarray]

    @property
    def values(self) -> np.ndarray:
        """Values (time, name) float32, in the table's units."""
        return self.parts[""]


@dataclass(frozen=True, kw_only=True)
class Tower:
    """One site's hours, from the first that has a value to the last.

    Attributes
    ----------
    info : SiteInfo
        What is known of it.
    utc_offset : float
        Hours east of UTC of its newest stamps.
    networks : tuple of str
        Publications that gave a value, newest first.
    time : (time,) datetime64[ns]
        UTC hours, without holes.
    predictors, fluxes : Stack
        Names that have a value; the computed ones are among the predictors.
    given : dict
        Fusion report of `fluxcube.cubes.fusion.fuse`.
    out_of_bounds : dict of str to int
        Values of a predictor, at the native step, that became missing because they cannot be, in all publications; and
        hours whose sum cannot be.
    flags_assumed : dict of str to int
        Native steps of a variable that had a value and no flag, and took the one that its column's name implies.
    warnings : tuple of str
        What its users should know; each is logged, too.
    lost : tuple of str
        What publications had lost of it before they were read, each by its label; the same of many sites.
    unread : dict of str to str
        Archives that could not be read beside others that could, and why.
    quality : dict
        What each rule removed, by stack and variable. ``values``: native values in all publications; shares of them,
        where not 0: ``out_of_bounds`` (that cannot be), ``hour_incomplete`` (in an hour that was observed less than
        half, or a sum's not wholly, or of winds without a mean direction), ``split`` (kept, in two hours), ``no_flag``
        (kept, with the flag that their column's name implies). ``hours`` with a value in the tower; shares of the
        hourly values of all publications: ``sum_out_of_bounds`` (of halves that can be) and ``superseded`` (that gave
        way to another's); ``remain``: shares of `hours` whose flag is at most 0, 1 and 2.
    sun_lag : dict of str to float
        Hours by which each publication's clock has light later than the sun, where there is enough light to tell.
    """

    info: SiteInfo
    utc_offset: float
    networks: tuple[str, ...]
    time: np.ndarray
    predictors: Stack
    fluxes: Stack
    given: dict
    out_of_bounds: dict[str, int]
    flags_assumed: dict[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    unread: dict[str, str] = field(default_factory=dict)
    quality: dict = field(default_factory=dict)
    sun_lag: dict[str, float] = field(default_factory=dict)


def read_tower(
    archives: Sequence[Archive],
    info: SiteInfo,
    *,
    predictors: Sequence[str],
    targets: Sequence[str],
    rule: str = "newest",
    clock: str = "solar",
    strict: bool = False,
) -> Tower:
    """Read one site from all of its archives.

    Parameters
    ----------
    archives : sequence of Archive
        Of this site.
    info : SiteInfo
        With latitude and longitude (degrees).
    predictors, targets : sequence of str
        Names of the variable table to read.
    rule, clock : str
        As in `fluxcube.build_carbonsense`.
    strict : bool
        Raise for an archive that cannot be read even where another one can, and as `tower_of` does.

    Raises
    ------
    SourceError
        If no archive can be read, or there is no value in any.

    Notes
    -----
    An archive that tells its own clock, as those of JapanFlux2024 do, is decoded with it, others with the site's.
    """
    names = tuple(dict.fromkeys([*predictors, *targets, LIGHT]))
    unread: dict[str, str] = {}
    told = told_places(archives)
    info = completed(info, told)
    return tower_of(
        _read(archives, info, told, names, strict, unread),
        info,
        predictors=predictors,
        targets=targets,
        rule=rule,
        clock=clock,
        strict=strict,
        places=told,
        unread=unread,
    )


def tower_of(
    records: Iterable[Record],
    info: SiteInfo,
    *,
    predictors: Sequence[str],
    targets: Sequence[str],
    rule: str = "newest",
    clock: str = "solar",
    strict: bool = False,
    places: Mapping[str, SiteInfo] | None = None,
    unread: Mapping[str, str] | None = None,
) -> Tower:
    """Make a tower of native records, wherever they were read from.

    Parameters
    ----------
    records : iterable of (rank, label, xr.Dataset)
        Of this site; a lower rank is a newer publication, and each label is another. A record is what
        `fluxcube.sources.towers.readers.read_archive` gives: one at a time is held, if `records` is an iterator.
    info : SiteInfo
        With latitude and longitude (degrees).
    predictors, targets : sequence of str
        Names of the variable table to keep.
    rule, clock : str
        As in `fluxcube.build_carbonsense`.
    strict : bool
        Raise where the sun contradicts the clock, flags look reversed, or sources have the site in places apart
        (`fluxcube.cubes.checks`); otherwise these are warnings.
    places : mapping of str to SiteInfo, optional
        What other sources tell of where the site is.
    unread : mapping of str to str, optional
        Archives that could not be read, and why; it may grow while `records` are drawn.

    Returns
    -------
    Tower

    Raises
    ------
    SourceError
        If there is no record, or no value in any; with `strict`, for a wrong clock, place or sense of flags.
    ConfigError
        If two records have one label.
    """
    apart = places_apart(info, other_places(info) | dict(places or {}))
    if apart and strict:
        raise SourceError(f"{info.site}: {'; '.join(apart)}")
    made = [_publication(record, info, predictors, targets, strict) for record in records]
    if not made:
        raise SourceError("; ".join((unread or {}).values()) or f"{info.site}: no record to make a tower of")
    fused, given = fuse([(p.rank, p.label, p.hours) for p in made], rule=rule)
    fused = with_values(fused, [p.file for p in made])
    time = fused.time.values
    offset = info.utc_offset if info.utc_offset is not None else float(round(info.longitude / 15))
    stack = stack_of(fused.assign(_as_predictors(made, rule, fused)), "predictors", predictors)
    fluxes = stack_of(fused, "fluxes", targets)
    return Tower(
        info=info,
        utc_offset=offset,
        networks=contributors(made, given),
        time=time,
        predictors=join_stacks(_computed(time, info, info.longitude / 15 if clock == "solar" else offset), stack),
        fluxes=fluxes,
        given=given,
        out_of_bounds=added(counts for p in made for counts in (p.out_of_bounds, p.sums_out_of_bounds)),
        flags_assumed=added(p.flags_assumed for p in made),
        warnings=_warnings(info, made, apart),
        lost=tuple(f"{p.label}: {sentence}" for p in made for sentence in p.lost),
        unread=dict(unread or {}),
        quality={
            "predictors": _quality(made, stack, "predictors"),
            "fluxes": _quality(made, fluxes, "fluxes"),
        },
        sun_lag={p.label: round(p.lag.hours, 2) for p in made if p.lag is not None},
    )


@dataclass(frozen=True, kw_only=True)
class _Publication:
    """What is kept of one native record.

    `hours` are its hours, predictors within bounds and targets as they are; `both` are those variables that are
    predictor and target, as predictors. Counts are of native values; `warnings` tell what is doubtful of it, and `lost`
    what was lost before it was read.
    """

    rank: int
    label: str
    network: str
    file: str
    hours: xr.Dataset
    both: xr.Dataset
    lag: SunLag | None
    out_of_bounds: dict[str, int]
    sums_out_of_bounds: dict[str, int]
    flags_assumed: dict[str, int]
    warnings: tuple[str, ...]
    lost: tuple[str, ...]

    def of(self, stack: str, name: str) -> xr.DataArray | None:
        """Return the hours of a variable as a stack has them, or None."""
        hours = self.both if stack == "predictors" and name in self.both else self.hours
        return hours.get(name)


def _publication(
    record: Record, info: SiteInfo, predictors: Sequence[str], targets: Sequence[str], strict: bool
) -> _Publication:
    """Check a native record and turn it into hours."""
    rank, label, native = record
    asked = {*predictors, *targets}
    lag = sun_lag(native, info.latitude, info.longitude)
    suspect = (*(lag.doubts if lag else ()), *reversed_flags(native, info.longitude))
    if strict and suspect:
        raise SourceError(f"{native.attrs['source_file']}: {'; '.join(suspect)}")
    native = native.drop_vars([str(name) for name in native.data_vars if name in table() and name not in asked])
    bounded, counts = within_bounds(native, predictors)
    shared = [name for name in targets if name in predictors and name in native]
    hours = to_hourly(bounded.assign({name + end: native[name + end] for name in shared for end in ("", "_QC")}))
    spoiled = [name for name in shared if name in counts]
    both = to_hourly(bounded[[name + end for name in spoiled for end in ("", "_QC")]]) if spoiled else xr.Dataset()
    # A mean of what is within bounds is, too; a sum need not be.
    hours, sums = within_bounds(hours, [name for name in predictors if table()[name].aggregate == "sum"])
    assumed = json.loads(native.attrs.get("flags_assumed", "{}"))
    return _Publication(
        rank=rank,
        label=label,
        network=native.attrs["network"],
        file=native.attrs["source_file"],
        hours=hours,
        both=both,
        lag=lag,
        out_of_bounds=counts,
        sums_out_of_bounds=sums,
        flags_assumed={name: count for name, count in assumed.items() if name in asked},
        warnings=(*suspect, *repeats_of(native)),
        lost=lost_of(native),
    )


def repeats_of(record: xr.Dataset) -> tuple[str, ...]:
    """Say how many rows of a record, native or daily, were left out by its clock."""
    repeats = record.attrs.get("clock_repeats", 0)
    return (f"{repeats} rows left out where the clock was set back",) if repeats else ()


def lost_of(record: xr.Dataset) -> tuple[str, ...]:
    """Say what its publication had lost of a record, native or daily, before it was read."""
    return tuple(str(sentence) for sentence in json.loads(record.attrs.get("lost", "[]")))


def _as_predictors(made: Sequence[_Publication], rule: str, fused: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return the variables that are target, too, as predictors, where their bounds made a difference."""
    names = dict.fromkeys(str(name) for p in made for name in p.both.data_vars if name in table())
    sources = []
    for p in made if names else ():
        arrays = {name: p.of("predictors", name) for name in names}
        held = [name for name, array in arrays.items() if array is not None]
        parts = {
            name + end: (p.both if name in p.both else p.hours)[name + end]
            for name in held
            for end in ("", "_QC", "_COVERAGE")
        }
        sources.append((p.rank, p.label, xr.Dataset(parts, coords={"time": p.hours.time})))
    return dict(fuse(sources, rule=rule)[0].sel(time=fused.time).data_vars) if sources else {}


def _quality(made: Sequence[_Publication], stack: Stack, kind: str) -> dict[str, dict]:
    """Say what each rule removed of each variable of a stack (`Tower.quality`)."""
    report = {}
    for i, name in enumerate(stack.names):
        held = [array for p in made if (array := p.of(kind, name)) is not None]
        bounded = made if kind == "predictors" else ()
        bad = sum(p.out_of_bounds.get(name, 0) for p in bounded)
        sums = sum(p.sums_out_of_bounds.get(name, 0) for p in bounded)
        values = sum(array.attrs["values"] for array in held) + bad
        flags = stack.parts["_qc"][:, i]
        hours, offered = int((flags >= 0).sum()), sum(int(np.isfinite(array.values).sum()) for array in held)
        shares = {
            "out_of_bounds": (bad, values),
            "hour_incomplete": (sum(array.attrs["steps_lost"] for array in held), values),
            "split": (sum(array.attrs["steps_split"] for array in held), values),
            "no_flag": (sum(p.flags_assumed.get(name, 0) for p in made), values),
            "sum_out_of_bounds": (sums, offered + sums),
            "superseded": (offered - hours, offered),
        }
        report[name] = {"values": values, "hours": hours}
        report[name] |= {rule: round(n / of, 6) for rule, (n, of) in shares.items() if n}
        report[name]["remain"] = [
            round(float(((flags >= 0) & (flags <= q)).sum() / max(hours, 1)), 6) for q in range(3)
        ]
    return report


def added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add up counts by name."""
    total: dict[str, int] = {}
    for one in counts:
        for name, count in one.items():
            total[name] = total.get(name, 0) + count
    return total


def _read(
    archives: Sequence[Archive],
    info: SiteInfo,
    told: Mapping[str, SiteInfo],
    names: Sequence[str],
    strict: bool,
    unread: dict[str, str],
) -> Iterator[Record]:
    """Read each archive; note in `unread` why one could not be, where others are left."""
    label = name_archives(archives)
    clocks = {name: clock_of(place) for name, place in told.items() if place.utc_offset is not None}
    of_site = clock_of(info)
    for archive in archives:
        try:
            record = read_archive(archive, utc_offset=clocks.get(label(archive), of_site), variables=names)
        except SourceError as error:
            if strict or len(archives) == 1:
                raise
            unread[archive.path.name] = str(error)
            continue
        yield archive.rank, label(archive), record


def told_places(archives: Sequence[Archive]) -> dict[str, SiteInfo]:
    """Return what archives themselves tell of the site, newest first."""
    label = name_archives(archives)
    told = {}
    for archive in sorted(archives, key=lambda archive: archive.rank):
        try:
            place = place_of(archive)
        except SourceError:
            continue  # reading it will say the same
        if place is not None:
            told[label(archive)] = place
    return told


def completed(info: SiteInfo, told: Mapping[str, SiteInfo]) -> SiteInfo:
    """Give a site what its metadata do not tell, but for its place, as the newest archive that does tells it."""
    for place in told.values():
        known = {name: getattr(place, name) for name in ("elevation", "igbp", "koppen", "utc_offset", "utc_offsets")}
        if info.utc_offset is not None:
            del known["utc_offset"], known["utc_offsets"]
        info = replace(info, **{name: value for name, value in known.items() if getattr(info, name) in (None, "", ())})
    return info


def other_places(info: SiteInfo) -> dict[str, SiteInfo]:
    """Return the places that metadata files have of a site beside the one that is used."""
    return {file: SiteInfo(site=info.site, latitude=lat, longitude=lon) for file, lat, lon in info.elsewhere}


def name_archives(archives: Sequence[Archive]) -> Callable[[Archive], str]:
    """Name each archive by its network; where that is not enough, by its file too."""
    networks = [archive.network for archive in archives]
    return lambda a: a.network if networks.count(a.network) == 1 else f"{a.network}: {a.location.name}"


def contributors(made: Sequence, given: dict) -> tuple[str, ...]:
    """Return the networks, newest first, of those of `made` (with rank, label and network) that gave a value."""
    used = {source for sources in given.values() for source in sources}
    ordered = sorted(made, key=lambda p: (p.rank, p.label))
    return tuple(dict.fromkeys(p.network for p in ordered if p.label in used))


def with_values(fused: xr.Dataset, files: Sequence[str], resolution: str = "hourly") -> xr.Dataset:
    """Cut away steps without any value at both ends; SourceError, naming the files, where none is left."""
    values = [v.values for name, v in fused.data_vars.items() if name in table(resolution)]
    observed = np.flatnonzero(np.isfinite(values).any(0)) if values else np.array([], int)
    if not len(observed):
        raise SourceError(
            f"{', '.join(files)}: no value in any of the variables asked for; check that the file is the site's"
        )
    return fused.isel(time=slice(int(observed[0]), int(observed[-1]) + 1))


def stack_of(fused: xr.Dataset, stack: str, names: Sequence[str], resolution: str = "hourly") -> Stack:
    """Put those of some variables that a record (time,) has side by side, as cubes of a resolution have them."""
    present = tuple(name for name in names if name in fused)
    parts = {}
    for ending in stack_parts(stack, resolution):
        columns = [fused.get(name + ending.upper()) for name in present]
        if PARTS[ending].required or any(column is not None for column in columns):
            parts[ending] = _columns(columns, ending, fused.sizes["time"])
    return Stack(present, parts)


def _columns(columns: Sequence[xr.DataArray | None], ending: str, hours: int) -> np.ndarray:
    """Put arrays (time,) side by side (time, name); coverage stays a share, as a cube shows it."""
    dtype = np.float32 if ending == "_coverage" else PARTS[ending].dtype
    out = np.full((hours, len(columns)), PARTS[ending].fill, dtype)
    for i, column in enumerate(columns):
        if column is not None:
            out[:, i] = column.values
    return out


def _warnings(info: SiteInfo, made: Sequence[_Publication], apart: Sequence[str]) -> tuple[str, ...]:
    """Say what is doubtful of a site, and log it; that its clock is assumed was logged by `clock_of`."""
    found = [*apart, *(f"{p.label}: {doubt}" for p in made for doubt in p.warnings)]
    for name, count in added(p.out_of_bounds for p in made).items():
        kept = sum(array.attrs["values"] for p in made if (array := p.of("predictors", name)) is not None)
        share = count / (count + kept)
        if share > _WARN_SHARE:
            percent = f"{100 * share:.2g}" if share < 0.995 else "100"
            found.append(f"{name}: {percent} % of its values were out of bounds and became missing")
    for doubt in found:
        _log.warning("%s: %s", info.site, doubt)
    if info.utc_offset is None:
        found.append("no UTC_OFFSET: stamps were decoded with the whole hour nearest to longitude / 15")
    return tuple(found)


def _computed(time: np.ndarray, info: SiteInfo, offset: float) -> Stack:
    """Return what place and time alone give: the local clock and sunlight above the atmosphere."""
    doy, tod = local_clock(time, offset)
    columns = {"DOY": doy, "TOD": tod, "SW_IN_POT": potential_radiation(time, info.latitude, info.longitude)}
    values = np.stack([columns[name] for name in COMPUTED], -1).astype(np.float32)
    flags, coverage = np.zeros(values.shape, np.int8), np.ones(values.shape, np.float32)
    return Stack(COMPUTED, {"": values, "_qc": flags, "_coverage": coverage})


def join_stacks(one: Stack, other: Stack) -> Stack:
    """Put two stacks with the same parts side by side."""
    parts = {ending: np.concatenate([one.parts[ending], other.parts[ending]], -1) for ending in one.parts}
    return Stack(one.names + other.names, parts)


def span(tower: Tower) -> tuple[np.datetime64, np.datetime64]:
    """Return the first hour and the hour after the last."""
    return tower.time[0], tower.time[-1] + HOUR
