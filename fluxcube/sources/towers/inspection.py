"""Say what a folder of raw archives holds, and what a build will use of it, without reading it all."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from fluxcube.errors import SourceError
from fluxcube.sources.towers.archives import Location
from fluxcube.sources.towers.badm import SiteInfo, merge_places, read_badm
from fluxcube.sources.towers.discovery import Discovery, discover
from fluxcube.sources.towers.networks import Archive, parse_name
from fluxcube.sources.towers.readers import reader_of

Progress = Callable[[int, int, str], None]

COLUMNS = (
    "site",
    "network",
    "product",
    "resolution",
    "first_year",
    "last_year",
    "step_minutes",
    "rows",
    "variables",
    "measured",
    "latitude",
    "longitude",
    "igbp",
    "utc_offset",
    "used",
    "why",
    "path",
)


def inspect_raw(
    raw: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    order: str = "newest",
    resolution: str = "hourly",
    progress: Progress | None = None,
) -> pd.DataFrame:
    """List the archives of one or more folders, what is in them, and whether a build will use them.

    Names, the directories of zips, site metadata, and of each table its header and some rows of its first 4 MiB are
    read, not the tables.

    Parameters
    ----------
    raw, order, resolution
        As in `fluxcube.sources.towers.networks.discover`.
    progress : callable, optional
        ``progress(done, total, text)``.

    Returns
    -------
    pandas.DataFrame
        One row an archive or file that was left aside, by site and then preference; unknown values are missing.

        ========================  ========================================================================
        site, network, product    from its name; empty where that is of no network
        resolution                as its name says: HH, HR, DD
        first_year, last_year     from its name, or of its first row
        step_minutes              from its first stamps
        rows                      estimated from its size
        variables                 tuple of names of the variable table that its header has columns of
        measured                  dict of name to share, 0 to 1: how many of the rows looked at were measured (of a
                                  daily table: the mean share of their days that was measured or well filled); an
                                  estimate that knows nothing of what lies beyond a file's first 4 MiB, which is some
                                  3 years of half-hours of a SUBSET and some 40 days of a FULLSET
        latitude, longitude       of its site (degrees), from all site metadata found
        igbp, utc_offset          likewise; hours east of UTC
        used                      whether a build reads it
        why                       why not, or what is assumed
        path                      the file, with its entry in a zip
        ========================  ========================================================================

    Raises
    ------
    SourceError
        If a path does not exist.
    ConfigError
        If there is no such order or resolution.
    """
    discovery = discover(raw, order=order, resolution=resolution)
    aside: list[tuple[str, str]] = list(discovery.ignored)
    with _quiet():
        infos = read_badm(discovery.badm, on_error=lambda at, error: aside.append((str(at), str(error))))
    rows = [*_of_archives(discovery, infos, progress), *(_of_ignored(path, why) for path, why in aside)]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    whole = ("first_year", "last_year", "step_minutes", "rows")
    return table.astype({**dict.fromkeys(whole, "Int64"), "used": bool})


def format_inspection(table: pd.DataFrame, *, most: int | None = 10) -> str:
    """Return what `inspect_raw` found as text: a line an archive, a summary, and what was left aside and why.

    Parameters
    ----------
    table : pandas.DataFrame
        From `inspect_raw`.
    most : int or None
        Files to name for each reason to leave them aside; None: all.
    """
    named = table[table.site.ne("") & (table.used | table.step_minutes.notna() | table.variables.map(len).gt(0))]
    lines = _aligned([_HEADINGS, *(_cells(row) for row in named.itertuples())]) if len(named) else []
    used = table[table.used]
    years = (used.last_year - used.first_year + 1).sum()
    lines += [
        "",
        f"{used.site.nunique()} sites in {len(used)} archives will be used: {years} site-years, about "
        f"{int(used.rows.fillna(0).sum()):,} rows. '~' marks estimates from part of each file.",
    ]
    notes = [f"  {row.site}: {row.why}" for row in used.itertuples() if row.why]
    left = table[~table.used]
    lines += ["", f"{len(notes)} with a note:", *notes] if notes else []
    lines += ["", f"{len(left)} left aside:", *_reasons(left, most)] if len(left) else []
    return "\n".join(lines).lstrip("\n")


_HEADINGS = (
    "site",
    "network",
    "product",
    "years",
    "step",
    "~rows",
    "~NEE measured",
    "place",
    "UTC",
    "used",
    "variables",
)


def _cells(row: object) -> tuple[str, ...]:
    """Return the texts of one line."""
    known = row.latitude is not None and row.longitude is not None
    share = row.measured.get("NEE", row.measured.get("FCH4"))
    return (
        row.site,
        row.network,
        row.product,
        "" if pd.isna(row.first_year) else f"{row.first_year}-{'' if pd.isna(row.last_year) else row.last_year}",
        "" if pd.isna(row.step_minutes) else f"{row.step_minutes} min",
        "" if pd.isna(row.rows) else f"{row.rows:,}",
        "" if share is None else f"{100 * share:.0f} %",
        f"{row.latitude:.2f} {row.longitude:.2f} {row.igbp}".strip() if known else "unknown",
        "?" if row.utc_offset is None else f"{row.utc_offset:+g}",
        "yes" if row.used else "no",
        _short(row.variables),
    )


def _reasons(left: pd.DataFrame, most: int | None) -> list[str]:
    """Return a line a reason, and below it the files that it holds for."""
    lines = []
    for why, rows in left.groupby("why", sort=False):
        shown = [f"    {path}" for path in rows.path[:most]]
        more = [f"    and {len(rows) - len(shown)} more"] if len(rows) > len(shown) else []
        lines += [f"  {why}:", *shown, *more]
    return lines


def _short(names: Sequence[str], most: int = 8) -> str:
    return " ".join(names[:most]) + (f" +{len(names) - most}" if len(names) > most else "")


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _of_archives(
    discovery: Discovery, infos: dict[str, SiteInfo], progress: Progress | None
) -> Iterator[dict[str, object]]:
    archives = discovery.archives
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        futures = {pool.submit(_look, archive, infos): archive for archive in archives}
        for done, future in enumerate(as_completed(futures), 1):
            if progress:
                progress(done, len(archives), f"looked at {futures[future].site}")
        yield from (future.result() for future in futures)


def _look(archive: Archive, infos: dict[str, SiteInfo]) -> dict[str, object]:
    """Return the row of an archive that discovery kept."""
    row = _row(archive)
    try:
        reader = reader_of(archive)
        info = merge_places(infos.get(archive.site), reader.place(archive))
        if info is not None:
            row |= {name: getattr(info, name) for name in ("latitude", "longitude", "igbp", "utc_offset")}
        summary = reader.summarise(archive)
    except SourceError as error:
        return row | {"used": False, "why": str(error).removeprefix(f"{archive.location}: ")}
    if summary is not None:
        row |= {name: getattr(summary, name) for name in ("step_minutes", "rows", "variables", "measured")}
        row["first_year"] = row["first_year"] or int(str(summary.first)[:4])
    if row["latitude"] is None or row["longitude"] is None:
        return row | {"used": False, "why": _NO_PLACE}
    return row | {"why": _NO_CLOCK if row["utc_offset"] is None and archive.resolution != "DD" else ""}


_NO_PLACE = "no latitude and longitude of its site in any metadata file (BIF, SITEINFO, or a sites.csv)"
_NO_CLOCK = "no UTC_OFFSET in its metadata: its clock is taken from its longitude"


def _row(archive: Archive) -> dict[str, object]:
    return {
        "site": archive.site,
        "network": archive.network,
        "product": archive.product,
        "resolution": archive.resolution,
        "first_year": archive.first_year,
        "last_year": archive.last_year,
        "step_minutes": None,
        "rows": None,
        "variables": (),
        "measured": {},
        "latitude": None,
        "longitude": None,
        "igbp": "",
        "utc_offset": None,
        "used": True,
        "why": "",
        "path": str(archive.location),
    }


def _of_ignored(path: str, why: str) -> dict[str, object]:
    """Return the row of a file that was left aside."""
    name = Location(Path(path.partition("!")[0]), path.partition("!")[2] or None).name
    archive = parse_name(name) or Archive(path=Path(path), site="", network="", product="", resolution="")
    return _row(archive) | {"used": False, "why": why, "path": path}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what metadata warn of out of the log: a build says it."""
    log = logging.getLogger("fluxcube.sources.towers.badm")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before
