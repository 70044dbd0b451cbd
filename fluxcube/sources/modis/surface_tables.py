"""Read reflectance from tables: one column for each band, as AppEEARS and Earth Engine write points, or a user.

Long tables are read by `surface_long`.
"""

from __future__ import annotations

import csv
import io
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from fluxcube.errors import SourceError
from fluxcube.sources.modis.surface_checks import SAME_PLACE, distance_km
from fluxcube.sources.modis.surface_columns import (
    FLAGS,
    agreed,
    day_of_year,
    find_columns,
    line_of,
    parse_days,
    product_in,
)
from fluxcube.sources.modis.surface_observations import Observations
from fluxcube.sources.towers.archives import Location, open_stream
from fluxcube.variables import SURFACE_BANDS

log = logging.getLogger(__name__)

#: Columns of the tables of ORNL's web service with one column for each pixel, which may have no header line.
ORNL_COLUMNS = ("HDFname", "Product", "Date", "Site", "ProcessDate", "Band")
_ORNL_FILE = re.compile(r"M[COY]D\w+\.A\d{7}\.")
#: Columns of quality of products without rules of their own, such as SummaryQA and pixel_reliability of MOD13A1.
_QUALITY = re.compile(r"(?:summary|detailed)_?qa$|pixel_?reliability$|vi_?quality$|_q[ac]$", re.IGNORECASE)
#: Number of characters at the beginning of a file that contain its header.
_START = 1 << 20
_BLANKS = ("", "NA", "NaN", "nan", "None", "null", "F", "Not Available")
_GET_REGION = {"id", "time", "latitude", "longitude"}
#: Lengths of composites, whose periods begin on days 1, 1 + length, ... of the year; number of dates that show them.
_PERIODS, _FEWEST_DATES = (16, 8), 8


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Options of `fluxcube.read_surface` that concern the form of a file.

    Attributes
    ----------
    columns : mapping of str to str
        Columns by key (`fluxcube.sources.modis.surface_columns`).
    flags : tuple of str
        Further columns that rules of quality use.
    site : str
        Column of the sites, or the name of the only site; "" if the file contains the names.
    time_format : str, optional
        Format of the dates.
    period : int, optional
        Number of days that a date stands for, of which it is the first; None: recognised.
    product, collection : str
        "" where the file states them.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    site: str = ""
    time_format: str | None = None
    period: int | None = None
    product: str = ""
    collection: str = ""


def read_frame(path: Path) -> pd.DataFrame:
    """Return a text table (optionally ``.gz``) with its own columns; the separator is recognised.

    Raises
    ------
    SourceError
        If it cannot be read as a table.
    """
    try:
        encoding, skipped, header, second = _first_lines(path)
        if not header.strip():
            raise SourceError(f"{path}: expected a table with a header line, found an empty line: download it again.")
        separator = max(",;\t", key=header.count)
        names = next(csv.reader([header.rstrip("\r\n")], delimiter=separator))
        if _ORNL_FILE.match(names[0]):  # a table without a header line
            names = [*ORNL_COLUMNS, *map(str, range(1, len(names) - len(ORNL_COLUMNS) + 1))]
            with open_stream(Location(path)) as stream:
                table = pd.read_csv(
                    stream, names=names, na_values=list(_BLANKS), keep_default_na=False, low_memory=False
                )
            return table.set_axis(table.index - 1)
        if twice := sorted(name for name, count in Counter(names).items() if count > 1 and name):
            raise SourceError(f"{path}: expected different column names, found {', '.join(twice)} twice: rename one.")
        with open_stream(Location(path)) as stream:
            table = pd.read_csv(
                stream,
                sep=separator,
                index_col=False,  # lines may end with a separator
                skiprows=skipped,
                decimal="," if separator == ";" and "." not in second else ".",
                encoding=encoding,
                na_values=list(_BLANKS),
                keep_default_na=False,
                skipinitialspace=True,
                low_memory=False,
            )
        return table.set_axis(table.index + skipped)  # so that messages name the line of the file
    except SourceError:
        raise
    except (
        OSError,
        EOFError,
        ValueError,
        StopIteration,
        csv.Error,
    ) as problem:  # pandas' errors of parsing are ValueErrors
        reason = str(problem) or "it is empty"
        raise SourceError(
            f"{path}: cannot be read as a table ({reason}): expected CSV with a header line."
        ) from problem


def _first_lines(path: Path) -> tuple[str, int, str, str]:
    """Return a text's encoding, the number of lines of comments before its header, the header, and the next line."""
    with open_stream(Location(path)) as binary:
        start = binary.read(_START)
    encoding = "utf-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    if encoding != "utf-16" and b"\0" in start:
        raise SourceError(f"{path}: expected a text table, found a binary file: correct its suffix.")
    try:
        with _text(path, encoding) as file:
            while file.read(_START):
                pass
    except UnicodeDecodeError:
        encoding = "cp1252"
    skipped = 0
    with _text(path, encoding) as file:
        while (header := str(file.readline(_START))).startswith("#"):
            skipped += 1
        return encoding, skipped, header, str(file.readline(_START))


@contextmanager
def _text(path: Path, encoding: str) -> Iterator[io.TextIOWrapper]:
    """Open a table as text; a SourceError is raised where a packed one is far larger than any table."""
    with open_stream(Location(path)) as stream:
        yield io.TextIOWrapper(stream, encoding)


def observations_of_frame(frame: pd.DataFrame, where: str, options: ReadOptions) -> Observations:
    """Return the observations of a table with one column for each band.

    Parameters
    ----------
    frame : pandas.DataFrame
    where : str
        The file, for messages.
    options : ReadOptions

    Raises
    ------
    SourceError
        If the table has no column of reflectance, sites or dates, or a number cannot be read.
    """
    named = {k: v for k, v in options.columns.items()}
    if options.site in frame.columns:
        named.setdefault("site", options.site)
    found, product, collection = find_columns(map(str, frame.columns), named, where)
    bands = {key: numbers(frame[name], where) for key, name in found.items() if key in SURFACE_BANDS}
    flags = {key: numbers(frame[name], where) for key, name in found.items() if key.split(":")[0] in FLAGS}
    if not set(bands) - {"snow"} and not flags:  # flags may be in a file of their own
        raise SourceError(
            f"{where}: expected columns of reflectance, such as sur_refl_b01, Nadir_Reflectance_Band1 or red; found "
            f"{', '.join(map(str, frame.columns[:20]))}: name them with columns={{'red': ..., 'nir': ...}}."
        )
    for name in options.flags:
        if name not in flags and name in frame.columns:
            flags[name] = numbers(frame[name], where)
    _report_unused_quality(frame, flags, where)
    pixel = pixel_numbers(frame[found["pixel"]], where) if "pixel" in found else None
    if set(frame.columns) >= _GET_REGION:  # of Earth Engine: one row for each image and pixel
        found = {key: name for key, name in found.items() if name != "id"}
        pixel = frame.groupby(["latitude", "longitude"]).ngroup().to_numpy()
    site, sites = sites_of(frame, found, options, where)
    day = days_of(frame, found, options, where)
    day, period = last_days(day, site, options.period, where)
    latitude, longitude = places_of(frame, found, site, sites, where)
    from_name = product_in(Path(where).name)
    return Observations(
        source=where,
        sites=sites,
        site=site,
        day=day,
        bands=bands,
        flags=with_angles(flags),
        latitude=latitude,
        longitude=longitude,
        product=agreed("product", options.product, product, where) or from_name[0],
        collection=agreed("collection", options.collection, collection, where) or from_name[1],
        pixel=pixel,
        period=period,
        screened=not product,  # AppEEARS's columns begin with the product, and contain all views
    )


def _report_unused_quality(frame: pd.DataFrame, flags: Mapping[str, np.ndarray], where: str) -> None:
    """Report columns of quality of products whose flags no default rule knows, if there is no other flag."""
    unused = [str(name) for name in frame.columns if _QUALITY.search(str(name)) and name not in flags]
    if unused and not flags:
        log.warning(
            "%s: every value is used; %s could select those of good quality: pass quality={%r: [accepted values]}",
            where,
            ", ".join(unused),
            unused[0],
        )


def numbers(column: pd.Series, where: str) -> np.ndarray:
    """Return a column as float64, NaN where blank; SourceError for text."""
    if column.dtype.kind in "iufb":
        return column.to_numpy(np.float64)
    values = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    wrong = np.flatnonzero(np.isnan(values) & column.notna().to_numpy())
    if wrong.size:
        raise SourceError(
            f"{where}: line {line_of(column, wrong[0])}: {column.name} must be a number, found "
            f"{column.iloc[wrong[0]]!r}; correct it, or leave it blank where it is missing."
        )
    return values


def pixel_numbers(column: pd.Series, where: str) -> np.ndarray:
    """Return the numbers of pixels (n,) int64; SourceError where one is blank or no whole number."""
    values = numbers(column, where)
    wrong = np.flatnonzero(~(np.abs(values) < 2**53) | (values != np.rint(values)))
    if wrong.size:
        raise SourceError(
            f"{where}: line {line_of(column, wrong[0])}: {column.name} must be the number of a pixel, found "
            f"{column.iloc[wrong[0]]!r}: correct it."
        )
    return values.astype(np.int64)


def sites_of(
    frame: pd.DataFrame, found: Mapping[str, str], options: ReadOptions, where: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the index of the site of each row (n,), and the names of the sites."""
    if options.site and options.site not in frame.columns:
        _check_one_site(frame, found, options.site, where)
        return np.zeros(len(frame), np.intp), (options.site,)
    if "site" not in found:
        raise SourceError(
            f"{where}: expected a column of sites, found {', '.join(map(str, frame.columns[:20]))}: pass site= with "
            "the name of the column, or of the only site."
        )
    column = frame[_named_sites(frame, found["site"])]
    codes, names = pd.factorize(column)
    if (codes < 0).any():
        raise SourceError(
            f"{where}: line {line_of(frame, np.flatnonzero(codes < 0)[0])}: no site; every line needs one."
        )
    return codes.astype(np.intp), tuple(f"{n:.0f}" if isinstance(n, float) else str(n).strip() for n in names)


def _named_sites(frame: pd.DataFrame, column: str) -> str:
    """Return the column of site names: AppEEARS has them in `Category` where `ID` only counts the points."""
    if column != "ID" or "Category" not in frame or not pd.api.types.is_numeric_dtype(frame["ID"]):
        return column
    one = frame.groupby("Category")["ID"].nunique()
    return "Category" if (one == 1).all() else column


def _check_one_site(frame: pd.DataFrame, found: Mapping[str, str], site: str, where: str) -> None:
    """Refuse the name of one site for a file that contains several."""
    if "site" in found and (names := frame[found["site"]].dropna().unique()).size > 1:
        raise SourceError(
            f"{where}: site={site!r} is no column and names one site, but the column {found['site']!r} contains "
            f"{names.size} ({', '.join(map(str, names[:5]))}): pass the name of the column of sites."
        )


def days_of(frame: pd.DataFrame, found: Mapping[str, str], options: ReadOptions, where: str) -> np.ndarray:
    """Return the date of each row (n,) datetime64[D], from a date, or a year and a day of the year."""
    if "year" in found and "doy" in found and ("day" not in found or "doy" in options.columns):
        year, doy = numbers(frame[found["year"]], where), numbers(frame[found["doy"]], where)
        pairs, index = np.unique(np.stack([year, doy]), axis=1, return_inverse=True)
        days = [None if not np.isfinite(p).all() else day_of_year(int(p[0]), int(p[1])) for p in pairs.T]
        if None in days:
            line = int(np.flatnonzero(index.ravel() == days.index(None))[0])
            raise SourceError(
                f"{where}: line {line_of(frame, line)}: year {year[line]:g} has no day {doy[line]:g}: correct it."
            )
        return np.array(days, "datetime64[D]")[index.ravel()]
    if "day" not in found and "doy" in found:
        raise SourceError(
            f"{where}: {found['doy']!r} is a day of the year without its year: name the column of years with "
            "columns={'year': ..., 'doy': ...}."
        )
    if "day" not in found:
        raise SourceError(
            f"{where}: expected a column of dates, found {', '.join(map(str, frame.columns[:20]))}: name it with "
            "columns={'day': ...}."
        )
    return parse_days(frame[found["day"]], where, options.time_format)


def last_days(day: np.ndarray, site: np.ndarray, period: int | None, where: str) -> tuple[np.ndarray, int]:
    """Return the last day of the period of each entry, and the length of the periods in days.

    The date of a composite is the first day of its period, whose views it contains; as the reflectance of its last day
    it contains no later view. Periods of 8 and 16 days are recognised: they begin on days 1, 9, ..., 361, or 1, 17,
    ..., 353 of the year, and the last of them ends with the year.
    """
    if period is None:
        first = day.astype("datetime64[Y]").astype("datetime64[D]")
        dates = np.unique(day)
        since = (day - first).astype(np.int64)
        regular = [length for length in _PERIODS if (since % length == 0).all()]
        period = regular[0] if regular and len(dates) >= _FEWEST_DATES else 1
        if period > 1:
            log.info("%s: dates are the first of %d days; values count from the last one", where, period)
    if period <= 1:
        return day, 1
    end_of_year = (day.astype("datetime64[Y]") + 1).astype("datetime64[D]") - 1
    return np.minimum(day + (period - 1), end_of_year), period


def places_of(
    frame: pd.DataFrame, found: Mapping[str, str], site: np.ndarray, sites: Sequence[str], where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return latitude and longitude (site,) of a table, NaN where it has none; rows of a site must agree."""
    if "latitude" not in found or "longitude" not in found:
        return np.full(len(sites), np.nan), np.full(len(sites), np.nan)
    latitude, longitude = (numbers(frame[found[key]], where) for key in ("latitude", "longitude"))
    _, first = np.unique(site, return_index=True)
    apart = distance_km(latitude, longitude, latitude[first][site], longitude[first][site])
    if (far := np.flatnonzero(apart > SAME_PLACE)).size:
        at = far[0]
        raise SourceError(
            f"{where}: line {line_of(frame, at)}: {sites[int(site[at])]} is {apart[at]:.1f} km from its first row: a "
            "site has one place; give the places different names."
        )
    return latitude[first], longitude[first]


def with_angles(flags: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return flags with the view zenith angle in degrees: MOD09GA stores hundredths."""
    if "view_zenith" in flags and np.nanmax(flags["view_zenith"], initial=0) > 180:
        angle = flags["view_zenith"]
        flags["view_zenith"] = np.where((angle >= 0) & (angle <= 18000), angle * 0.01, np.nan)
    return flags
