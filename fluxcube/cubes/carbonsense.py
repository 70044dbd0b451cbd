"""Build the CarbonSense cube: raw archives in, one store out, that opens only when all of it is written.

Sites are read one by one and put aside on disk, since the time axis is known only when the last was read: the years
in a file's name are a promise, not a fact. Then each site's shards are written. Memory holds one site a worker.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fluxcube.cubes.fusion import RULES
from fluxcube.cubes.layout import cube_arrays, cube_coords, put_aside, put_chips_aside, write_chips, write_tower
from fluxcube.cubes.selection import open_carbonsense
from fluxcube.cubes.tower import CLOCKS, Stack, Tower, read_tower, span
from fluxcube.errors import ConfigError, SourceError, unknown
from fluxcube.schema import STACKS
from fluxcube.sources.archives import Location
from fluxcube.sources.badm import read_badm, require_location
from fluxcube.sources.networks import Archive, Discovery, discover, networks
from fluxcube.sources.oneflux import read_oneflux
from fluxcube.stores import create, staging
from fluxcube.timestamps import hour_axis
from fluxcube.variables import BANDS, COMPUTED, check_role, predictors, targets

__all__ = ["BuildReport", "build_carbonsense", "open_carbonsense"]

Progress = Callable[[int, int, str], None]

#: Chips in memory at once, and how long before the first hour one may still be of use.
_CHIP_BYTES = 256 << 20
_CHIP_BEFORE = np.timedelta64(32, "D")


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What a build made.

    Attributes
    ----------
    store : Path
        The cube.
    sites : tuple of str
        Sites in it.
    left_out : dict of str to str
        Sites (or, beside others of a site that could be read, ``"SITE: file"``) that are not in it, and why.
    report : dict
        ``fusion`` (hours and flags each publication gave, by site and variable), ``out_of_bounds`` (hours of a
        predictor made missing, by site), ``flags_assumed`` (native values without a flag, by site), ``warnings`` (by
        site) and ``ignored`` (files left aside, and why).
    """

    store: Path
    sites: tuple[str, ...]
    left_out: dict[str, str]
    report: dict


def build_carbonsense(
    raw: str | os.PathLike | Sequence[str | os.PathLike],
    store: str | os.PathLike,
    *,
    modis: str | os.PathLike | None = None,
    variables: Sequence[str] | None = None,
    rule: str = "newest",
    clock: str = "solar",
    strict: bool = False,
    overwrite: bool = False,
    sites: str | Sequence[str] | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Build the tower cube from downloaded archives.

    Every archive under `raw` is read, turned into UTC hours, fused by site, and written with its flags. A site that
    cannot be read is left out, and the report says why; the others are built.

    Parameters
    ----------
    raw : path or sequence of paths
        Folders of tower archives as published, site metadata (BIF, SITEINFO or a sites.csv) among them.
    store : path
        The cube to write.
    modis : path, optional
        Folder of MCD43A4 and MCD43A2 rasters; without it the cube has no chips, wherever such a folder may lie.
    variables : sequence of str, optional
        Predictors to keep (DOY, TOD and SW_IN_POT always are); default every one of the variable table. Targets are
        always kept.
    rule : {"newest", "quality"}
        Where publications overlap, the newest that has a value wins, or the one with the best flag.
    clock : {"solar", "standard"}
        DOY and TOD in local mean solar time (UTC + longitude / 15), or in the towers' standard time, as the paper has.
    strict : bool
        Raise for the first site or file that cannot be read instead of leaving it out.
    overwrite : bool
        Replace a store that is there, once the new one is whole.
    sites : str or sequence of str, optional
        Only these.
    progress : callable, optional
        ``progress(done, total, text)``.

    Returns
    -------
    BuildReport

    Raises
    ------
    SourceError
        If no site can be read (with `strict`, if any cannot), or `modis` has no raster of the towers' time.
    StoreError
        If `store` exists and `overwrite` is not set.
    UnknownNameError
        If `sites` or `variables` holds a name that there is not.

    References
    ----------
    Fortier et al. 2024, CarbonSense, arXiv:2406.04940; Pastorello et al. 2020, ONEFlux, doi:10.1038/s41597-020-0534-3.
    """
    labels = {"predictors": _predictors(variables), "fluxes": targets()}
    for name, value, valid in (("rule", rule, RULES), ("clock", clock, CLOCKS)):
        if value not in valid:
            raise ConfigError(f"{name}={value!r}: expected one of {', '.join(valid)}.")
    discovery = discover(raw)
    chosen = _chosen(discovery, sites)
    rasters = _rasters(modis) if modis is not None else None
    read = functools.partial(
        read_tower, predictors=labels["predictors"], targets=labels["fluxes"], rule=rule, clock=clock, strict=strict
    )
    with staging(store, overwrite=overwrite) as building:
        towers, left_out = _read_all(building, chosen, discovery.badm, read, strict, progress)
        report = _report(towers, discovery)
        time = hour_axis(min(span(t)[0] for t in towers), max(span(t)[1] for t in towers))
        days = None if rasters is None else _cut_chips(building, rasters, towers, time, progress)
        attrs = _attrs(towers, report | {"left_out": left_out}) | {"clock": clock, "fusion_rule": rule}
        coords = cube_coords(towers, time, labels, days)
        create(building, coords, cube_arrays(towers, len(time), labels, days), attrs)
        _write_all(building, towers, time, labels, days, progress)
    return BuildReport(store=Path(store), sites=tuple(t.info.site for t in towers), left_out=left_out, report=report)


def _predictors(variables: Sequence[str] | None) -> tuple[str, ...]:
    """Return the predictors to keep, in table order."""
    asked = predictors() if variables is None else [variables] if isinstance(variables, str) else variables
    kept = {*check_role(asked, "predictor"), *COMPUTED}
    return tuple(name for name in predictors() if name in kept)


def _chosen(discovery: Discovery, sites: str | Sequence[str] | None) -> dict[str, list[Archive]]:
    """Return the archives of each site asked for, sites in order."""
    if not discovery.archives:
        aside = "; ".join(f"{path}: {why}" for path, why in discovery.ignored[:3]) or "nothing"
        raise SourceError(
            "no half-hourly or hourly tower archive was found by name; expected files such as "
            f"FLX_US-MMS_FLUXNET2015_FULLSET_1999-2014_1-4.zip. Left aside: {aside}."
        )
    known = discovery.sites
    asked = known if sites is None else [sites] if isinstance(sites, str) else sites
    for site in asked:
        if site not in known:
            raise unknown("site", site, known)
    return {site: [a for a in discovery.archives if a.site == site] for site in sorted(set(asked))}


def _rasters(modis: str | os.PathLike) -> list:
    from fluxcube.cubes.chips import source_rasters

    return source_rasters(modis)


def _each(function: Callable, items: Sequence, progress: Progress | None, text: Callable[[object], str]) -> list:
    """Call a function for each item on a few threads; results in the order of the items."""
    pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1))
    try:
        futures = {pool.submit(function, item): item for item in items}
        for done, future in enumerate(as_completed(futures), 1):
            future.result()
            if progress:
                progress(done, len(items), text(futures[future]))
        return [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)


def _read_all(
    building: Path, chosen: Mapping[str, list[Archive]], badm: Sequence[Location], read: Callable[..., Tower],
    strict: bool, progress: Progress | None,
) -> tuple[list[Tower], dict[str, str]]:  # fmt: skip
    """Read every site and put its hours aside; return the towers without them, and what was left out."""
    left_out: dict[str, str] = {}
    infos = read_badm(badm, on_error=None if strict else lambda at, error: left_out.update({at.name: str(error)}))

    def one(site: str) -> Tower | SourceError:
        try:
            for archive in chosen[site]:
                if not networks()[archive.network].reader:  # another product: its error before that of a missing place
                    read_oneflux(archive, utc_offset=0.0)
            tower = read(chosen[site], require_location(infos, site))
        except SourceError as error:
            if strict:
                raise
            return error
        put_aside(building, tower)
        return _without_hours(tower)

    towers = []
    for site, result in zip(chosen, _each(one, list(chosen), progress, lambda site: f"read {site}"), strict=True):
        if isinstance(result, SourceError):
            left_out[site] = str(result)
        else:
            towers.append(result)
            left_out |= {f"{site}: {name}": why for name, why in result.unread.items()}
    if not towers:
        raise SourceError(f"no site could be read: {'; '.join(f'{name}: {why}' for name, why in left_out.items())}")
    return towers, left_out


def _without_hours(tower: Tower) -> Tower:
    """Return what is left of a tower once its hours are put aside: little."""
    bare = {stack: Stack((), dict.fromkeys(getattr(tower, stack).parts, np.empty(0))) for stack in STACKS}
    return replace(tower, time=tower.time[[0, -1]], **bare)


def _report(towers: Sequence[Tower], discovery: Discovery) -> dict:
    return {
        "fusion": {t.info.site: t.given for t in towers},
        "out_of_bounds": {t.info.site: t.out_of_bounds for t in towers if t.out_of_bounds},
        "flags_assumed": {t.info.site: t.flags_assumed for t in towers if t.flags_assumed},
        "warnings": {t.info.site: t.warnings for t in towers if t.warnings},
        "ignored": dict(discovery.ignored),
    }


def _attrs(towers: Sequence[Tower], report: Mapping[str, object]) -> dict[str, object]:
    """Return the store's attributes: what it is, where it is from, and what happened on the way."""
    by_network: dict[str, list[str]] = {}
    for tower in towers:
        for name in tower.networks:
            by_network.setdefault(name, []).append(tower.info.site)
    rows = {name: networks()[name] for name in by_network}
    sources = {
        name: {"citation": row.citation, "doi": row.doi, "licence": row.licence, "sites": by_network[name]}
        for name, row in rows.items()
    }
    hours = {
        site: {name: {source: part["hours"] for source, part in parts.items()} for name, parts in given.items()}
        for site, given in report["fusion"].items()
    }
    kept = {key: report[key] for key in ("left_out", "out_of_bounds", "flags_assumed", "warnings")}
    return {
        "kind": "cube",
        "Conventions": "CF-1.11",
        "title": "CarbonSense: hourly tower fluxes, weather and satellite chips",
        "sources": json.dumps(sources),
        "licences": "; ".join(sorted({row.licence for row in rows.values()} - {""})),
        "report": json.dumps({**kept, "hours": hours}),
    }


def _cut_chips(
    building: Path, rasters: Sequence, towers: Sequence[Tower], time: np.ndarray, progress: Progress | None
) -> np.ndarray:
    """Cut every site's chips, put them aside, and return the days (day,) datetime64[ns] that have any."""
    from fluxcube.cubes.chips import build_chips, chip_days

    first, last = (np.datetime64(t, "D") for t in (time[0] - _CHIP_BEFORE, time[-1]))
    rasters = [raster for raster in rasters if first <= np.datetime64(raster.day, "D") <= last]
    if not len(chip_days(rasters)):
        raise SourceError(
            f"modis: no MCD43A4 raster from {first} to {last}, when the towers measured; give a folder that has some."
        )
    size = max(1, _CHIP_BYTES // (len(chip_days(rasters)) * len(BANDS) * 64 * 4))
    # Neighbours share rasters, so they go together.
    order = sorted(towers, key=lambda tower: (round(tower.info.latitude / 10), tower.info.longitude))
    days: set[np.datetime64] = set()
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        chips = build_chips(
            rasters, np.array([t.info.latitude for t in batch]), np.array([t.info.longitude for t in batch]),
            progress=progress,
        )  # fmt: skip
        for tower, values in zip(batch, chips.values, strict=True):
            put_chips_aside(building, tower.info.site, chips.day.values, values)
        days |= set(chips.day.values.astype("datetime64[D]"))
    if not days:
        raise SourceError("modis: no raster has a valid chip of any of the sites; check where its tiles lie.")
    return np.array(sorted(days), "datetime64[ns]")


def _write_all(
    building: Path, towers: Sequence[Tower], time: np.ndarray, labels: Mapping[str, Sequence[str]],
    days: np.ndarray | None, progress: Progress | None,
) -> None:  # fmt: skip
    def one(at: int) -> None:
        write_tower(building, at, towers[at], time, labels)
        if days is not None:
            write_chips(building, at, towers[at].info.site, days)

    _each(one, range(len(towers)), progress, lambda at: f"write {towers[at].info.site}")
