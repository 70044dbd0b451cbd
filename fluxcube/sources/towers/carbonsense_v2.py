"""Read CarbonSense V2 as published: one SQLite file, which is opened read-only; only known columns are queried."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube import variables as table
from fluxcube.errors import SourceError
from fluxcube.sources.towers import published
from fluxcube.sources.towers.badm import SiteInfo, clock_of
from fluxcube.sources.towers.completion import completed_from_table
from fluxcube.sources.towers.networks import Archive
from fluxcube.sources.towers.stamped import STEPS, parse_stamps, to_utc
from fluxcube.timestamps import Offset
from fluxcube.variables import BANDS

_log = logging.getLogger(__name__)

#: Tables, and the columns of each that are read. `site_data` is missing from files of early versions.
_NEEDED = {"ec_data": ("id", "site", "timestamp")}
_OPTIONAL = {"modis_data": ("row_id", "data"), "site_data": ("site", "lat", "lon", "elev", "igbp")}
_CLOCKS = ("DOY", "TOD")
_TARGETS = ("NEE", "GPP_DT", "GPP_NT", "RECO_DT", "RECO_NT", "FCH4")
_IMAGE = (len(BANDS), 8, 8)
_ROWS = 20_000
_MAX_BLOB = 64 << 20

#: Flag of every value: V2 did not read flags, and published values that it considered to have a flag of at most 2.
_UNKNOWN = 2
#: Flag of precipitation, which was scaled by 0 to 100 mm or, in an older version of the code, by 0 to 50 mm.
_DOUBTFUL = 3
#: Variables whose limits were reversed, so that no value passed them.
_REVERSED = (*(f"SWC_{layer}" for layer in range(1, 6)), "WTD")

#: Information that was lost when the dataset was published, for reports.
LOST = (
    "Flags of the sources were not read (their columns were searched in lower case), so that measured and filled "
    "values are mixed: every value is of unknown quality and has flag 2.",
    "Columns filled by MDS were treated as poor and dropped: where a site has no other column, CO2, G, H, LE and soil "
    "temperature are missing.",
    "Soil water and water table were removed: their limits were reversed.",
    "Sites whose source files are hourly were left out.",
    "Predictors outside their limits were removed, soil temperature beyond 40 degrees from zero among them.",
    "Precipitation was scaled by 0 to 100 mm in the newest public code and by 0 to 50 mm in an older one, and the file "
    "does not contain which: the former is assumed, values may be twice too large, and have flag 3.",
    "In MODIS images reflectances above 1 were set to 1, and pixels of unknown land or water were set to land.",
    "Values of several networks were merged; the network of a value was not published.",
)
_AGGREGATED = "Half-hours were averaged in pairs of rows, wind direction as a number: its means across north are wrong."
_AS_PUBLISHED = "get carbonsense_v2.sql as Zenodo record 15586300 has it"


def list_sites(path: str | os.PathLike) -> list[str]:
    """Return the sites of a CarbonSense V2 file, sorted.

    Parameters
    ----------
    path : path
        ``carbonsense_v2.sql``, or its folder.

    Raises
    ------
    SourceError
        If it is not an SQLite file, or its tables are not those of V2; the message contains what was found.
    """
    with _opened(path) as base:
        where = "site_data" if "site_data" in base.columns else "ec_data"
        return sorted(str(site) for (site,) in base.query(f"SELECT DISTINCT site FROM {where}"))


def read_hours(
    archive: Archive,
    *,
    utc_offset: Offset | None = None,
    variables: Iterable[str] | None = None,
) -> xr.Dataset:
    """Read one site's half-hours or hours, in physical units.

    Parameters
    ----------
    archive : Archive
        Its path is the file or its folder, its site one of `list_sites`.
    utc_offset : float or sequence of (start, float), optional
        Hours east of UTC of the time stamps' local standard time, as in `read_oneflux`. The publication has none:
        default that of the table of known sites, else from the longitude, with a warning.
    variables : iterable of str, optional
        Names of the variable table; default all that the file has.

    Returns
    -------
    xarray.Dataset
        As `read_oneflux` returns it. Every flag is 2: the sources' flags were not read, so that measured values, good
        fills and poor fills are mixed and cannot be distinguished. It is the best flag of the publication and counts as
        measured when a model is trained or scored (`fluxcube.samples.quality`); `open_carbonsense(max_qc=1)` leaves no
        value. Precipitation has flag 3. Attribute ``lost`` (JSON) lists the information that was lost in the
        publication.

    Raises
    ------
    SourceError
        If the file is not one of V2, does not contain the site, or is a daily file.

    References
    ----------
    Zenodo record 15586300.
    """
    with _opened(archive.path) as base:
        names = [name for name in published.names_to_read(variables) if name in base.columns["ec_data"]]
        clocks = [name for name in _CLOCKS if name in base.columns["ec_data"]]
        stamps, columns = base.read_site(archive.site, [*clocks, *names])
        where = f"{base.path}, {archive.site}"
    start, step = _clock(stamps, where)
    columns, dropped, scaled = _physical(start, columns, where)
    offset = clock_of(completed_from_table(read_place(archive))) if utc_offset is None else utc_offset
    time, kept = to_utc(start, step, offset)
    arrays = {
        name: (columns[name][kept], np.full(kept.sum(), _DOUBTFUL if name == "P" and scaled else _UNKNOWN))
        for name in names
        if name in columns
    }
    lost = [*LOST, *([_AGGREGATED] if step == 60 else []), *dropped]
    attrs = {
        "step_minutes": step,
        "source_file": base.path.name,
        "site": archive.site,
        "network": archive.network,
        "columns": {name: name for name in arrays},
        "flags_assumed": {name: int(np.isfinite(values).sum()) for name, (values, _) in arrays.items()},
        "clock_repeats": int((~kept).sum()),
        "lost": lost,
        "scaled_by": "v2" if scaled else "",
    }
    return published.record(time, arrays, attrs)


def read_place(archive: Archive) -> SiteInfo:
    """Return the coordinates and class of a site from table ``site_data``.

    Raises
    ------
    SourceError
        If the site is not in the file, or its row contains an impossible number.
    """
    with _opened(archive.path) as base:
        if "site_data" not in base.columns:
            _log.warning("%s: has no table site_data, so the coordinates of %s are unknown", base.path, archive.site)
            return SiteInfo(site=archive.site)
        rows = base.query("SELECT lat, lon, elev, igbp FROM site_data WHERE site = ?", archive.site)
        if len(rows) != 1:
            raise SourceError(
                f"{base.path}, table site_data: {len(rows)} rows of {archive.site}, expected one; {_AS_PUBLISHED}"
            )
        latitude, longitude, elevation, igbp = rows[0]
        return published.site_info(archive.site, latitude, longitude, elevation, igbp, f"{base.path}, table site_data")


def read_chips(archive: Archive) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the MODIS chips of one site; None if the file has no table of chips.

    Returns
    -------
    days : (D,) datetime64[D]
        Local dates, ascending.
    chips : (D, 9, 8, 8) float32
        Bands as `fluxcube.variables.BANDS`: reflectances, snow and water from 0 to 1, NaN where missing.

    Raises
    ------
    SourceError
        If an image is not 9 x 8 x 8 float32 or has impossible values, or two images of a day differ.
    """
    with _opened(archive.path) as base:
        if "modis_data" not in base.columns:
            return None
        where = f"{base.path}, {archive.site}, table modis_data"
        stamps = dict(base.query("SELECT id, timestamp FROM ec_data WHERE site = ?", archive.site))
        if not stamps:
            raise base.no_site(archive.site)
        # The rows of a site have consecutive numbers, so that its images are a range of the index.
        rows = base.query("SELECT row_id, data FROM modis_data WHERE row_id BETWEEN ? AND ?", min(stamps), max(stamps))
        images = [(stamps[row], blob) for row, blob in rows if row in stamps]
    times = parse_stamps(_whole_numbers([stamp for stamp, _ in images], where))
    pairs = [(time, _image(blob, f"{where}, image of {time}")) for time, (_, blob) in zip(times, images, strict=True)]
    return published.stacked_chips(pairs, where)


def _image(blob: object, where: str) -> np.ndarray:
    if not isinstance(blob, bytes) or len(blob) != 4 * int(np.prod(_IMAGE)):
        found = f"{len(blob)} bytes" if isinstance(blob, bytes) else type(blob).__name__
        raise SourceError(f"{where}: expected {_IMAGE} float32, found {found}; {_AS_PUBLISHED}")
    return np.frombuffer(blob, "<f4").reshape(_IMAGE)


def _whole_numbers(stamps: Sequence[object], where: str) -> np.ndarray:
    bad = next((stamp for stamp in stamps if type(stamp) is not int or not 0 <= stamp < 10**12), None)
    if bad is not None:
        raise SourceError(f"{where}, column timestamp: expected YYYYMMDDHHMM, found {str(bad)[:40]!r}; {_AS_PUBLISHED}")
    return np.array(stamps, np.int64)


def _clock(stamps: np.ndarray, where: str) -> tuple[np.ndarray, int]:
    """Return the local start of every row (time,) datetime64[m], and the step in minutes."""
    start = parse_stamps(stamps)
    moves = np.diff(start).astype("timedelta64[m]").astype(np.int64)
    bad = np.isnat(start) | np.concatenate([[False], moves <= 0])
    if bad.any():
        raise SourceError(
            f"{where}, column timestamp: expected times as YYYYMMDDHHMM, each once, found {stamps[bad.argmax()]}; "
            f"{_AS_PUBLISHED}"
        )
    steps, counts = np.unique(moves, return_counts=True)
    step = int(steps[counts.argmax()]) if len(steps) else 30
    if step not in STEPS or (moves % step).any():
        raise SourceError(
            f"{where}: most rows are {step} minutes apart, expected 30 or 60; a daily V2 file is not read, get the "
            "half-hourly one"
        )
    return start, step


def _physical(
    start: np.ndarray, columns: dict[str, np.ndarray], where: str
) -> tuple[dict[str, np.ndarray], list[str], bool]:
    """Return physical values, notes about columns that are left out, and whether values were scaled."""
    clocks = {name: columns.pop(name) for name in _CLOCKS if name in columns}
    if not published.is_scaled(start, clocks, where):
        return columns, [], False
    reversed_ = [name for name in _REVERSED if name in columns]
    with_values = [name for name in reversed_ if np.isfinite(columns[name]).any()]
    fluxes = {name: columns[name] for name in _TARGETS if name in columns}
    predictors = {name: values for name, values in columns.items() if name not in (*reversed_, *fluxes)}
    notes = [f"{name} has values that no published limits can produce; they are left out." for name in with_values]
    # LE is a predictor in one version of the public code, and in another a target, which is not scaled.
    if "LE" in predictors and np.nanmax(np.abs(predictors["LE"]), initial=0) > 0.5 + 1e-6:
        fluxes["LE"] = predictors.pop("LE")
    return fluxes | published.unscaled_columns(predictors, published.BOUNDS["v2"], where), notes, True


class _Base:
    """An open V2 file: its known tables and columns, and queries of them."""

    def __init__(self, connection: sqlite3.Connection, path: Path):
        self._connection, self.path = connection, path
        self.columns: dict[str, tuple[str, ...]] = {}
        self._check_layout()

    def query(self, sql: str, *values: str | int) -> list[tuple]:
        """Return all rows of a query."""
        return [row for rows in self._blocks(sql, *values) for row in rows]

    def read_site(self, site: str, names: Sequence[str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return time stamps (time,) int64 and columns (time,) float64 of a site, ordered by time."""
        sql = f"SELECT {', '.join(('timestamp', *names))} FROM ec_data WHERE site = ? ORDER BY timestamp"
        stamps, blocks = [], []
        for rows in self._blocks(sql, site):
            stamps.append(_whole_numbers([row[0] for row in rows], f"{self.path}, {site}"))
            blocks.append(self._numbers(rows, names, site))
        if not stamps:
            raise self.no_site(site)
        values = np.concatenate(blocks)
        return np.concatenate(stamps), {name: values[:, index] for index, name in enumerate(names)}

    def no_site(self, site: str) -> SourceError:
        return SourceError(f"{self.path}: no row of site {site}; choose a site of list_sites")

    def _numbers(self, rows: list[tuple], names: Sequence[str], site: str) -> np.ndarray:
        try:
            values = np.array([row[1:] for row in rows], float).reshape(len(rows), len(names))
        except (ValueError, TypeError) as error:
            cells = ((name, value) for row in rows for name, value in zip(names, row[1:], strict=True))
            name, value = next(cell for cell in cells if isinstance(cell[1], str | bytes))
            raise SourceError(
                f"{self.path}, table ec_data, {site}, column {name}: expected a number, found {str(value)[:40]!r}; "
                f"{_AS_PUBLISHED}"
            ) from error
        if np.isinf(values).any():
            raise SourceError(f"{self.path}, table ec_data, {site}: an infinite value; {_AS_PUBLISHED}")
        return values

    def _blocks(self, sql: str, *values: str | int) -> Iterator[list[tuple]]:
        try:
            cursor = self._connection.execute(sql, values)
            while rows := cursor.fetchmany(_ROWS):
                yield rows
        except (sqlite3.Error, OverflowError, UnicodeDecodeError) as error:
            raise SourceError(f"{self.path}: cut or broken ({error}); {_AS_PUBLISHED}") from error

    def _check_layout(self) -> None:
        """Find the known tables and columns, and refuse a file that lacks a required one."""
        kinds = dict(self.query("SELECT name, upper(coalesce(sql, '')) FROM sqlite_schema WHERE type = 'table'"))
        plain = [name for name, sql in kinds.items() if str(sql).startswith("CREATE TABLE")]
        for name, needed in {**_NEEDED, **_OPTIONAL}.items():
            if name in plain:
                columns = self._columns_of(name)
                if set(needed) <= set(columns):
                    self.columns[name] = columns
        if set(_NEEDED) - set(self.columns) or not set(self.columns["ec_data"]) & set(table.table()):
            raise SourceError(
                f"{self.path}: expected CarbonSense V2's table ec_data (id, site, timestamp, TA, ..., NEE), found "
                f"{self._list_tables(plain)}; {_AS_PUBLISHED}"
            )

    def _columns_of(self, name: str) -> tuple[str, ...]:
        quoted = str(name).replace('"', '""')
        return tuple(str(row[1]) for row in self.query(f'PRAGMA table_info("{quoted}")'))

    def _list_tables(self, names: Sequence[str]) -> str:
        """Return the first tables and their columns as text."""
        shown = [f"{str(name)[:40]} ({', '.join(self._columns_of(name))[:120]})" for name in names[:6]]
        return "; ".join(shown) or "no table"


@contextmanager
def _opened(path: str | os.PathLike) -> Iterator[_Base]:
    """Open a V2 file read-only, so that nothing in it is executed, writes, or accesses another file."""
    path = _file(Path(path))
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    except sqlite3.Error as error:
        raise SourceError(f"{path}: cannot be opened ({error}); check its path and permissions") from error
    try:
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_BLOB)
        for pragma in ("trusted_schema=OFF", "query_only=ON", "cell_size_check=ON", "temp_store=MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
        connection.set_authorizer(_allowed)
        yield _Base(connection, path)
    except sqlite3.Error as error:
        raise SourceError(f"{path}: not an SQLite file, or broken ({error}); {_AS_PUBLISHED}") from error
    finally:
        connection.close()


_READS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ}
_TABLES = {*_NEEDED, *_OPTIONAL, "sqlite_master", "sqlite_schema"}
_FUNCTIONS = {"upper", "coalesce"}


def _allowed(action: int, first: str | None, second: str | None, base: str | None, through: str | None) -> int:
    """Allow queries of known tables, and not through a view or a trigger."""
    good = action in _READS and (action == sqlite3.SQLITE_SELECT or first in _TABLES) and through is None
    good |= action == sqlite3.SQLITE_FUNCTION and second in _FUNCTIONS
    good |= action == sqlite3.SQLITE_PRAGMA and first == "table_info"
    return sqlite3.SQLITE_OK if good else sqlite3.SQLITE_DENY


def _file(path: Path) -> Path:
    if path.is_dir():
        found = sorted(path.glob("*carbonsense*.sql"))
        if len(found) != 1:
            raise SourceError(
                f"{path}: {len(found)} files like carbonsense_v2.sql in this folder, expected one; use the path of the "
                "file"
            )
        path = found[0]
    if not path.is_file():
        raise SourceError(f"{path}: expected CarbonSense V2's SQLite file, found none; check its path")
    with open(path, "rb") as stream:
        if stream.read(16) != b"SQLite format 3\0":
            raise SourceError(f"{path}: not an SQLite file, according to its first bytes; {_AS_PUBLISHED}")
    _check_finished(path)
    return path


def _check_finished(path: Path) -> None:
    """Refuse a file whose last rows are in another file beside it, as a program leaves it that has it open."""
    for ending in ("-wal", "-journal"):
        beside = path.with_name(path.name + ending)
        if beside.is_file() and beside.stat().st_size:
            raise SourceError(
                f"{path}: {beside.name} beside it contains changes that are not in it yet, so rows would be missing: "
                "close the program that has it open, or open and close it once with sqlite3; or " + _AS_PUBLISHED
            )
