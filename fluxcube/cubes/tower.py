"""Read one hourly tower: read each archive of a site, convert it to UTC hours, fuse, check and complete the record."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from fluxcube.cubes.checks import SunLag, places_apart, reversed_flags, sun_lag, within_bounds, without_codes
from fluxcube.cubes.clocks import Clock, clocks_of_site, with_clocks
from fluxcube.cubes.fusion import fuse
from fluxcube.cubes.hourly import to_hourly
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
    told_of,
    trim,
)
from fluxcube.errors import SourceError
from fluxcube.solar import potential_radiation
from fluxcube.sources.towers.archive_metadata import archive_places, completed, log_notes, name_archives
from fluxcube.sources.towers.badm import SiteInfo
from fluxcube.sources.towers.codes import Codes, sentence
from fluxcube.sources.towers.networks import Archive
from fluxcube.sources.towers.overlap import name_among
from fluxcube.sources.towers.readers import read_archive
from fluxcube.timestamps import local_clock
from fluxcube.variables import COMPUTED, table

_log = logging.getLogger(__name__)

#: Rank (lower is newer), label and native record of one publication.
Record = tuple[int, str, xr.Dataset]


def read_tower(archives: Sequence[Archive], info: SiteInfo, options: TowerOptions) -> Tower:
    """Read one site from all of its archives.

    Parameters
    ----------
    archives : sequence of Archive
        Archives of this site.
    info : SiteInfo
        Metadata with latitude and longitude (degrees).
    options : TowerOptions
        Variables to read, and how.

    Returns
    -------
    Tower
        Hourly.

    Raises
    ------
    SourceError
        If no archive can be read, or none has a value; with ``options.strict``, if any archive cannot be read, or for
        an unknown or wrong clock, location or sense of flags.

    Notes
    -----
    An archive that contains its own clock, as those of JapanFlux2024 do, is decoded with it, others with the site's. If
    no source has one, it is estimated from the light (`fluxcube.cubes.clocks`).
    """
    places = archive_places(archives)
    info = completed(info, places)
    log_notes(info)
    apart = _check_places(info, places, options)
    label = name_archives(archives)
    clocks = clocks_of_site({label(archive): archive for archive in archives}, info, places, strict=options.strict)
    info = with_clocks(info, clocks)
    publications, unread = _read(archives, info, clocks, options)
    return _assemble(publications, info, options, apart, unread)


def tower_of(
    records: Iterable[Record],
    info: SiteInfo,
    options: TowerOptions,
    *,
    places: Mapping[str, SiteInfo] | None = None,
) -> Tower:
    """Build a tower from native records, wherever they were read from.

    Parameters
    ----------
    records : iterable of (rank, label, xr.Dataset)
        Records of this site; a lower rank is a newer publication, and labels are unique. A record is what
        `fluxcube.sources.towers.readers.read_archive` returns. With an iterator, RAM contains one of them at a time.
    info : SiteInfo
        Metadata with latitude and longitude (degrees).
    options : TowerOptions
        Variables to keep, and how.
    places : mapping of str to SiteInfo, optional
        Locations of the site according to other sources.

    Returns
    -------
    Tower
        Hourly.

    Raises
    ------
    SourceError
        If there is no record, or none has a value; with ``options.strict``, for a wrong clock, location or sense of
        flags.
    ConfigError
        If two records have the same label.
    """
    apart = _check_places(info, places or {}, options)
    if info.utc_offset is None:
        note = f"no UTC_OFFSET: the cube states {standard_offset(info):+g}, the whole hour nearest to longitude / 15"
        info = replace(info, notes=(*info.notes, note))
    cleaned = [(rank, label, _cleaned(record, options)) for rank, label, record in records]
    return _assemble([_publication(record, info, options) for record in cleaned], info, options, apart, {})


def _cleaned(record: xr.Dataset, options: TowerOptions) -> xr.Dataset:
    """Return a record that a user may have made or changed without codes for missing values among its fluxes.

    Readers have removed the codes of files, and `within_bounds` removes those of predictors.
    """
    record, codes = without_codes(record, options.targets)
    told = json.dumps(told_of(record, options.names))
    return record.assign_attrs(missing_codes=json.dumps(add_codes((codes_of(record, options.names), codes))), told=told)


def _check_places(info: SiteInfo, places: Mapping[str, SiteInfo], options: TowerOptions) -> tuple[str, ...]:
    """Return sentences on sources that place the site elsewhere; raise a SourceError instead if strict."""
    apart = places_apart(info, other_places(info) | dict(places))
    if options.strict and (apart or info.doubts):
        raise SourceError(f"{info.site}: {'; '.join((*info.doubts, *apart))}")
    return apart


@dataclass(frozen=True, kw_only=True)
class _Publication:
    """One native record, converted to hours.

    Attributes
    ----------
    rank, label, network, file
        Identify the publication.
    hours : xr.Dataset
        Hourly record; predictors within bounds, targets as published.
    both : xr.Dataset
        Hourly record of those variables that are predictor and target, as predictors.
    lag : SunLag or None
        Difference of its clock from the sun's.
    out_of_bounds, sums_out_of_bounds, flags_assumed : dict of str to int
        Numbers of native values, of hourly sums, and of native values.
    missing_codes : dict of str to dict
        Numbers of native values that became missing, by variable and code.
    warnings, lost : tuple of str
        Sentences on what is doubtful, and on what was lost before it was read.
    told : tuple of str
        Sentences that were logged when it was read.
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
    missing_codes: dict[str, Codes]
    warnings: tuple[str, ...]
    lost: tuple[str, ...]
    told: tuple[str, ...] = ()

    def of(self, stack: str, name: str) -> xr.DataArray | None:
        """Return the hourly values of a variable as a stack has them, or None."""
        hours = self.both if stack == "predictors" and name in self.both else self.hours
        return hours.get(name)


def _read(
    archives: Sequence[Archive], info: SiteInfo, clocks: Mapping[str, Clock], options: TowerOptions
) -> tuple[list[_Publication], dict[str, str]]:
    """Read each archive; where others remain, note why one could not be read."""
    label = name_archives(archives)
    names = compared((*options.names, LIGHT))
    publications, unread = [], {}
    for archive in archives:
        try:
            record = read_archive(archive, utc_offset=clocks[label(archive)].offset, variables=names)
            publications.append(_publication((archive.rank, label(archive), record), info, options))
        except SourceError as error:
            if options.strict or len(archives) == 1:
                raise
            unread[name_among(archive, archives) if archive.path.name in unread else archive.path.name] = str(error)
    return publications, unread


def _publication(record: Record, info: SiteInfo, options: TowerOptions) -> _Publication:
    """Check a native record and convert it to hours."""
    rank, label, native = record
    latitude, longitude = location(info)
    doubts = tuple(dict.fromkeys([*doubts_of(native), *check_units_and_signs(native, options)]))
    lag = sun_lag(native, latitude, longitude)
    suspect = (*(lag.doubts if lag else ()), *reversed_flags(native, longitude))
    if options.strict and suspect:
        raise SourceError(f"{native.attrs['source_file']}: {'; '.join(suspect)}")
    native = native.drop_vars([str(n) for n in native.data_vars if n in table() and n not in options.names])
    bounded, counts = within_bounds(native, options.predictors)
    shared = [name for name in options.targets if name in options.predictors and name in native]
    hours = to_hourly(bounded.assign({name + end: native[name + end] for name in shared for end in ("", "_QC")}))
    spoiled = [name for name in shared if name in counts]
    both = to_hourly(bounded[[name + end for name in spoiled for end in ("", "_QC")]]) if spoiled else xr.Dataset()
    # A mean of values within bounds is within bounds; a sum need not be.
    hours, sums = within_bounds(hours, [name for name in options.predictors if table()[name].aggregate == "sum"])
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
        flags_assumed={name: count for name, count in assumed.items() if name in options.names},
        missing_codes=codes_of(native, options.names),
        warnings=(*suspect, *doubts, *repeats_of(native)),
        lost=lost_of(native),
        told=tuple(json.loads(native.attrs.get("told", "[]"))),
    )


def _assemble(
    publications: Sequence[_Publication],
    info: SiteInfo,
    options: TowerOptions,
    apart: Sequence[str],
    unread: Mapping[str, str],
) -> Tower:
    """Fuse publications to a tower."""
    if not publications:
        raise SourceError("; ".join(unread.values()) or f"{info.site}: no record to make a tower of")
    fused, fusion = fuse([(p.rank, p.label, p.hours) for p in publications], rule=options.rule)
    fused = trim(fused, [p.file for p in publications])
    stack = stack_of(fused.assign(_as_predictors(publications, options.rule, fused)), "predictors", options.predictors)
    fluxes = stack_of(fused, "fluxes", options.targets)
    return Tower(
        info=info,
        utc_offset=standard_offset(info),
        networks=contributors(publications, fusion),
        time=fused.time.values,
        predictors=join_stacks(_computed(fused.time.values, info, options.clock), stack),
        fluxes=fluxes,
        fusion=fusion,
        out_of_bounds=add_counts(counts for p in publications for counts in (p.out_of_bounds, p.sums_out_of_bounds)),
        flags_assumed=add_counts(p.flags_assumed for p in publications),
        missing_codes=add_codes(p.missing_codes for p in publications),
        warnings=_warnings(info, publications, apart),
        lost=tuple(f"{p.label}: {sentence}" for p in publications for sentence in p.lost),
        unread=dict(unread),
        quality={
            "predictors": _quality(publications, stack, "predictors"),
            "fluxes": _quality(publications, fluxes, "fluxes"),
        },
        sun_lag={p.label: round(p.lag.hours, 2) for p in publications if p.lag is not None},
    )


def _as_predictors(publications: Sequence[_Publication], rule: str, fused: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return the variables that are also targets as predictors, where their bounds made a difference."""
    names = dict.fromkeys(str(name) for p in publications for name in p.both.data_vars if name in table())
    sources = []
    for p in publications if names else ():
        present = [name for name in names if p.of("predictors", name) is not None]
        parts = {
            name + end: (p.both if name in p.both else p.hours)[name + end]
            for name in present
            for end in ("", "_QC", "_COVERAGE")
        }
        sources.append((p.rank, p.label, xr.Dataset(parts, coords={"time": p.hours.time})))
    if not sources:
        return {}
    record = fuse(sources, rule=rule)[0].sel(time=fused.time)
    return {str(name): array for name, array in record.data_vars.items()}


def _quality(publications: Sequence[_Publication], stack: Stack, kind: str) -> dict[str, dict]:
    """Return what each rule removed from each variable of a stack (`Tower.quality`)."""
    report: dict[str, dict] = {}
    for i, name in enumerate(stack.names):
        arrays = [array for p in publications if (array := p.of(kind, name)) is not None]
        bounded = publications if kind == "predictors" else ()
        bad = sum(p.out_of_bounds.get(name, 0) for p in bounded)
        sums = sum(p.sums_out_of_bounds.get(name, 0) for p in bounded)
        values = sum(array.attrs["values"] for array in arrays) + bad
        flags = stack.parts["_qc"][:, i]
        hours, offered = int((flags >= 0).sum()), sum(int(np.isfinite(array.values).sum()) for array in arrays)
        shares = {
            "out_of_bounds": (bad, values),
            "hour_incomplete": (sum(array.attrs["steps_lost"] for array in arrays), values),
            "split": (sum(array.attrs["steps_split"] for array in arrays), values),
            "no_flag": (sum(p.flags_assumed.get(name, 0) for p in publications), values),
            "sum_out_of_bounds": (sums, offered + sums),
            "superseded": (offered - hours, offered),
        }
        report[name] = {"values": values, "hours": hours}
        report[name] |= {rule: round(n / of, 6) for rule, (n, of) in shares.items() if n}
        report[name]["remain"] = [
            round(float(((flags >= 0) & (flags <= q)).sum() / max(hours, 1)), 6) for q in range(3)
        ]
    return report


def _warnings(info: SiteInfo, publications: Sequence[_Publication], apart: Sequence[str]) -> tuple[str, ...]:
    """Return what is doubtful about a site, and log it; doubts about its metadata or clock are logged already."""
    warnings = [*apart, *(f"{p.label}: {doubt}" for p in publications for doubt in p.warnings)]
    for name, count in add_counts(p.out_of_bounds for p in publications).items():
        arrays = (p.of("predictors", name) for p in publications)
        remaining = sum(array.attrs["values"] for array in arrays if array is not None)
        share = count / (count + remaining)
        if share > WARN_SHARE:
            percent = f"{100 * share:.2g}" if share < 0.995 else "100"
            warnings.append(f"{name}: {percent} % of its values were out of bounds and became missing")
    found = add_codes(p.missing_codes for p in publications)
    told = {text for p in publications for one in p.told for text in (one, f"{p.label}: {one}")}
    for warning in (*warnings, *(sentence(name, codes) for name, codes in found.items())):
        if warning not in told:
            _log.warning("%s: %s", info.site, warning)
    warnings += [*info.doubts, *info.notes]
    return tuple(warnings)


def _computed(time: np.ndarray, info: SiteInfo, clock: str) -> Stack:
    """Return the predictors that follow from place and time alone: the local clock and potential radiation."""
    latitude, longitude = location(info)
    doy, tod = local_clock(time, longitude / 15 if clock == "solar" else standard_offset(info))
    columns = {"DOY": doy, "TOD": tod, "SW_IN_POT": potential_radiation(time, latitude, longitude)}
    values = np.stack([columns[name] for name in COMPUTED], -1).astype(np.float32)
    flags, coverage = np.zeros(values.shape, np.int8), np.ones(values.shape, np.float32)
    return Stack(COMPUTED, {"": values, "_qc": flags, "_coverage": coverage})
