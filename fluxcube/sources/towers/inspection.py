"""List the archives in folders of downloads, and which of them a build will use, without reading them whole."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from fluxcube.errors import SourceError, printable
from fluxcube.sources.towers.archive_metadata import describe_site, of_records
from fluxcube.sources.towers.archives import Location
from fluxcube.sources.towers.badm import SiteInfo, read_badm
from fluxcube.sources.towers.discovery import Discovery, discover
from fluxcube.sources.towers.networks import Archive, parse_name
from fluxcube.sources.towers.readers import reader_of
from fluxcube.tabletext import counted

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
    """List the archives of one or more folders, their content, and whether a build will use them.

    File names, the directories of zips and site metadata are read, and for each table its header and a sample of the
    rows in its first 4 MiB.

    Parameters
    ----------
    raw : path or sequence of paths
        Folders, which are searched with their subfolders, or files.
    order : {"newest", "paper"}
        Which network is preferred where several contain a site, as in `fluxcube.build_carbonsense`.
    resolution : {"hourly", "daily"}
        Resolution of the cube that would be built.
    progress : callable, optional
        Called as ``progress(done, total, text)``, where `done` and `total` are numbers of archives.

    Returns
    -------
    pandas.DataFrame
        One row per archive or ignored file, by site and then preference; unknown values are missing.

        ========================  ========================================================================
        site, network, product    from the file name; empty if the name is not that of a network
        resolution                from the file name: HH, HR, DD
        first_year, last_year     from the file name, or from the first row
        step_minutes              from the first time stamps
        rows                      number of rows, estimated from the size of the file
        variables                 tuple of names of the variable table for which the header has columns
        measured                  dict of name to share, 0 to 1: the share of the sampled rows that was measured
                                  (for a daily table: the mean share of the sampled days that was measured or well
                                  filled); an estimate from the first 4 MiB of a file, which are some 3 years of
                                  half-hours of a SUBSET and some 40 days of a FULLSET
        latitude, longitude       coordinates of the site (degrees), from all site metadata found
        igbp, utc_offset          class and hours east of UTC, from all site metadata found
        used                      whether a build reads the file
        why                       why a file is not used, or what is assumed
        path                      the file, with its entry in a zip
        ========================  ========================================================================

    Raises
    ------
    SourceError
        If a path does not exist.
    ConfigError
        If there is no such order or resolution.

    Examples
    --------
    >>> table = inspect_raw("downloads/")  # doctest: +SKIP
    >>> table.query("used")[["site", "network", "first_year", "last_year"]]  # doctest: +SKIP
    """
    discovery = discover(raw, order=order, resolution=resolution)
    ignored: list[tuple[str, str]] = [*discovery.bad_sites, *discovery.ignored]
    with _quiet():
        infos = read_badm(discovery.badm, on_error=lambda at, error: ignored.append((str(at), str(error))))
        infos = of_records(infos, discovery.archives)
    rows = [*_archive_rows(discovery, infos, progress), *(_ignored_row(path, why) for path, why in ignored)]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    whole = ("first_year", "last_year", "step_minutes", "rows")
    return table.astype({**dict.fromkeys(whole, "Int64"), "used": bool})


def format_inspection(table: pd.DataFrame, *, max_files: int | None = 10) -> str:
    """Return the table of `inspect_raw` as text: a line per archive, a summary, and the ignored files with reasons.

    Parameters
    ----------
    table : pandas.DataFrame
        From `inspect_raw`.
    max_files : int or None
        Maximum number of files to list for each reason to ignore them; None: all.
    """
    named = table[table.site.ne("") & (table.used | table.step_minutes.notna() | table.variables.map(len).gt(0))]
    lines = _aligned([_HEADINGS, *(_cells(row) for row in named.to_dict("records"))]) if len(named) else []
    used = table[table.used]
    lines += ["", _summary(used)]
    notes = [f"  {site}: {note}" for site, note in zip(used.site, used.why, strict=True) if note]
    ignored = table[~table.used]
    lines += ["", f"{len(notes)} with a note:", *notes] if notes else []
    lines += ["", f"{len(ignored)} ignored:", *_reasons(ignored, max_files)] if len(ignored) else []
    return printable("\n".join(lines).lstrip("\n"), keep="\n")


def _summary(used: pd.DataFrame) -> str:
    """Return a sentence on what a build uses."""
    text = f"{counted(used.site.nunique(), 'site')} in {counted(len(used), 'archive')} will be used"
    if not len(used):
        return f"{text}."
    known, years, estimated = 0, set(), False
    for row in used.to_dict("records"):
        if (span := _years(row)) is not None:
            years |= {(row["site"], year) for year in range(span[0], span[1] + 1)}
            estimated |= bool(pd.isna(row["last_year"]))
            known += 1
    parts = [f"{'about ' if estimated else ''}{counted(len(years), 'site-year')}"] if known else []
    parts += [f"the years of {counted(len(used) - known, 'archive')} are unknown"] if known < len(used) else []
    if used.rows.notna().any():
        parts.append(f"about {int(used.rows.fillna(0).sum()):,} rows")
    return f"{text}: {', '.join(parts)}. '~' marks estimates from part of each file."


def _years(row: Mapping[Hashable, Any]) -> tuple[int, int] | None:
    """Return the first and last year of an archive, the last one estimated from its rows if its name has none."""
    if pd.isna(row["first_year"]):
        return None
    first = int(row["first_year"])
    if not pd.isna(row["last_year"]):
        return first, int(row["last_year"])
    if pd.isna(row["rows"]) or pd.isna(row["step_minutes"]):
        return None
    return first, first + max(0, round(int(row["rows"]) * int(row["step_minutes"]) / _MINUTES_OF_YEAR) - 1)


_MINUTES_OF_YEAR = 365.25 * 1440

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


def _cells(row: Mapping[Hashable, Any]) -> tuple[str, ...]:
    """Return the texts of one line."""
    located = pd.notna(row["latitude"]) and pd.notna(row["longitude"])
    share = row["measured"].get("NEE", row["measured"].get("FCH4"))
    span = _years(row)
    estimated = "~" if pd.isna(row["last_year"]) else ""
    return (
        row["site"],
        row["network"],
        row["product"],
        "" if span is None else f"{span[0]}-{estimated}{span[1]}",
        "" if pd.isna(row["step_minutes"]) else f"{row['step_minutes']} min",
        "" if pd.isna(row["rows"]) else f"{row['rows']:,}",
        "" if share is None else f"{100 * share:.0f} %",
        f"{row['latitude']:.2f} {row['longitude']:.2f} {row['igbp']}".strip() if located else "unknown",
        "?" if pd.isna(row["utc_offset"]) else f"{row['utc_offset']:+g}",
        "yes" if row["used"] else "no",
        _first_names(row["variables"]),
    )


def _reasons(ignored: pd.DataFrame, max_files: int | None) -> list[str]:
    """Return a line for each reason, followed by its files."""
    lines = []
    for why, rows in ignored.groupby("why", sort=False):
        shown = [f"    {path}" for path in rows.path[:max_files]]
        more = [f"    and {len(rows) - len(shown)} more"] if len(rows) > len(shown) else []
        lines += [f"  {why}:", *shown, *more]
    return lines


def _first_names(names: Sequence[str], count: int = 8) -> str:
    return " ".join(names[:count]) + (f" +{len(names) - count}" if len(names) > count else "")


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _archive_rows(
    discovery: Discovery, infos: dict[str, SiteInfo], progress: Progress | None
) -> Iterator[dict[str, object]]:
    archives = discovery.archives
    by_site: dict[str, list[Archive]] = {}
    for archive in archives:
        by_site.setdefault(archive.site, []).append(archive)
    known = {site: describe_site(infos, site, files) for site, files in by_site.items()}
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        futures = {pool.submit(_inspect_archive, archive, known[archive.site]): archive for archive in archives}
        for done, future in enumerate(as_completed(futures), 1):
            if progress:
                progress(done, len(archives), f"inspected {futures[future].site}")
        yield from (future.result() for future in futures)


def _inspect_archive(archive: Archive, info: SiteInfo) -> dict[str, object]:
    """Return the row of an archive that discovery selected, with the metadata of its site."""
    row = _row(archive) | {name: getattr(info, name) for name in ("latitude", "longitude", "igbp", "utc_offset")}
    try:
        summary = reader_of(archive).summarise(archive)
    except SourceError as error:
        return row | {"used": False, "why": str(error).removeprefix(f"{archive.location}: ")}
    if summary is not None:
        row |= {name: getattr(summary, name) for name in ("step_minutes", "rows", "variables", "measured")}
        row["first_year"] = row["first_year"] or int(str(summary.first)[:4])
    if row["latitude"] is None or row["longitude"] is None:
        return row | {"used": False, "why": _NO_PLACE}
    sentences = [*info.doubts, *info.notes]
    sentences += [f"{file} has it at {lat:g}, {lon:g}" for file, lat, lon in info.elsewhere]
    sentences += [_NO_CLOCK] if row["utc_offset"] is None and archive.resolution != "DD" else []
    sentences += summary.notes if summary is not None else ()
    return row | {"why": "; ".join(sentences)}


_NO_PLACE = (
    "no latitude and longitude of its site in any metadata file (BIF, SITEINFO, or a sites.csv), nor in the table of "
    "known sites"
)
_NO_CLOCK = "no source has its UTC_OFFSET: a build estimates it from the light"


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


def _ignored_row(path: str, why: str) -> dict[str, object]:
    """Return the row of an ignored file."""
    name = Location(Path(path.partition("!")[0]), path.partition("!")[2] or None).name
    archive = parse_name(name) or Archive(path=Path(path), site="", network="", product="", resolution="")
    return _row(archive) | {"used": False, "why": why, "path": path}


@contextmanager
def _quiet() -> Iterator[None]:
    """Disable the log of site metadata: a build logs the same warnings."""
    log = logging.getLogger("fluxcube.sources.towers.badm")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before
