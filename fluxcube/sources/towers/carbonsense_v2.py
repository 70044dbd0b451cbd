"""Read CarbonSense V2 as published: one SQLite file, opened for reading only, of which known columns are asked for."""

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

#: What is known of a value: V2 read no flag, kept what it took for at most 2, and does not say more.
_UNKNOWN = 2
#: Precipitation was scaled by 0 to 100 mm or, in an older version of the code, by 0 to 50: no one should lean on it.
_DOUBTFUL = 3
#: Their limits were written the wrong way round, so that no value passed.
_REVERSED = (*(f"SWC_{layer}" for layer in range(1, 6)), "WTD")

#: What the publication had lost before it came here.
LOST = (
    "Flags of the sources were not read (their columns were looked for in lower case), so that filled NEE counts as "
    "measured: every value is a mixture of unknown quality and counts as 2.",
    "Columns filled by MDS were taken for poor and dropped: where a site has no other, CO2, G, H, LE and soil "
    "temperature are missing.",
    "Soil water and water table were wiped out: their limits were written the wrong way round.",
    "Sites whose files are hourly from the start were left out.",
    "Predictors outside their limits were removed, soil temperature beyond 40 degrees from zero among them.",
    "Precipitation was scaled by 0 to 100 mm in the newest public code and by 0 to 50 mm in an older one, and the file "
    "does not tell: it is undone by the former, may be twice too large, and counts as 3.",
    "Of MODIS, reflectances above 1 were cut to 1, and unknown land or water taken as land.",
    "Values of several networks were merged; which network gave a value was not kept.",
)
_AGGREGATED = "Half-hours were joined in pairs of rows, wind direction as a number: its means across north are wrong."
_AS_PUBLISHED = "get carbonsense_v2.sql as Zenodo record 15586300 has it"


def list_sites(path: str | os.PathLike) -> list[str]:
    """Return the sites of a CarbonSense V2 file, sorted.

    Parameters
    ----------
    path : path
        ``carbonsense_v2.sql``, or the folder that it lies in.

    Raises
    ------
    SourceError
        If it is no SQLite file, or its tables are not V2's; the message says what was found.
    """
    with _opened(path) as base:
        where = "site_data" if "site_data" in base.columns else "ec_data"
        return sorted(str(site) for (site,) in base.ask(f"SELECT DISTINCT site FROM {where}"))


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
        Hours east of UTC of the stamps' local standard time, as `read_oneflux` takes it; default from the longitude,
        with a warning, since the publication does not tell.
    variables : iterable of str, optional
        Names of the variable table; default all that the file has.

    Returns
    -------
    xarray.Dataset
        As `read_oneflux` gives it. Every flag is 2: the sources' flags were not read, so good and poor fills are mixed
        and cannot be told apart; what asks for measured or well filled values (`max_qc` 0 or 1, the default) gets none.
        Precipitation has 3. Attribute ``lost`` (JSON) lists what the publication itself had lost.

    Raises
    ------
    SourceError
        If the file is not V2's, the site is not in it, or it is a daily file.

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
    offset = clock_of(read_place(archive)) if utc_offset is None else utc_offset
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
    """Return a site's place and class, as table ``site_data`` tells them.

    Raises
    ------
    SourceError
        If the site is not in the file, or a number of its row cannot be.
    """
    with _opened(archive.path) as base:
        if "site_data" not in base.columns:
            _log.warning("%s: has no table site_data, so it does not tell where %s is", base.path, archive.site)
            return SiteInfo(site=archive.site)
        rows = base.ask("SELECT lat, lon, elev, igbp FROM site_data WHERE site = ?", archive.site)
        if len(rows) != 1:
            raise SourceError(f"{base.path}, table site_data: {len(rows)} rows of {archive.site}, expected one")
        return published.site_info(archive.site, *rows[0], f"{base.path}, table site_data")


def read_chips(archive: Archive) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the MODIS chips of one site; None where the file has no table of them.

    Returns
    -------
    days : (D,) datetime64[D]
        Local dates, ascending.
    chips : (D, 9, 8, 8) float32
        Bands as `fluxcube.variables.BANDS`: reflectances, snow and water from 0 to 1, NaN where missing.

    Raises
    ------
    SourceError
        If an image is not 9 x 8 x 8 float32 or has values that none has, or two images of a day differ.
    """
    with _opened(archive.path) as base:
        if "modis_data" not in base.columns:
            return None
        where = f"{base.path}, {archive.site}, table modis_data"
        stamps = dict(base.ask("SELECT id, timestamp FROM ec_data WHERE site = ?", archive.site))
        if not stamps:
            raise base.no_site(archive.site)
        # A site's rows stand together, so that its images are found by a range of the index.
        rows = base.ask("SELECT row_id, data FROM modis_data WHERE row_id BETWEEN ? AND ?", min(stamps), max(stamps))
        images = [(stamps[row], blob) for row, blob in rows if row in stamps]
    times = parse_stamps(_whole([stamp for stamp, _ in images], where))
    pairs = [(time, _image(blob, f"{where}, image of {time}")) for time, (_, blob) in zip(times, images, strict=True)]
    return published.stacked_chips(pairs, where)


def _image(blob: object, where: str) -> np.ndarray:
    if not isinstance(blob, bytes) or len(blob) != 4 * int(np.prod(_IMAGE)):
        found = f"{len(blob)} bytes" if isinstance(blob, bytes) else type(blob).__name__
        raise SourceError(f"{where}: expected {_IMAGE} float32, found {found}; {_AS_PUBLISHED}")
    return np.frombuffer(blob, "<f4").reshape(_IMAGE)


def _whole(stamps: Sequence[object], where: str) -> np.ndarray:
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
            f"{where}, column timestamp: {stamps[bad.argmax()]} is no time as YYYYMMDDHHMM, or is there twice; "
            f"{_AS_PUBLISHED}"
        )
    steps, counts = np.unique(moves, return_counts=True)
    step = int(steps[counts.argmax()]) if len(steps) else 30
    if step not in STEPS or (moves % step).any():
        raise SourceError(
            f"{where}: rows mostly {step} minutes apart, where half-hours or hours were expected; a daily V2 file is "
            "not read, get the half-hourly one"
        )
    return start, step


def _physical(
    start: np.ndarray, columns: dict[str, np.ndarray], where: str
) -> tuple[dict[str, np.ndarray], list[str], bool]:
    """Return physical values, what more is to be said of them, and whether they were scaled."""
    clocks = {name: columns.pop(name) for name in _CLOCKS if name in columns}
    if not published.is_scaled(start, clocks, where):
        return columns, [], False
    wiped = [name for name in _REVERSED if name in columns]
    filled = [name for name in wiped if np.isfinite(columns[name]).any()]
    fluxes = {name: columns[name] for name in _TARGETS if name in columns}
    predictors = {name: values for name, values in columns.items() if name not in (*wiped, *fluxes)}
    said = [f"{name} has values that no published limits could give; they are left out." for name in filled]
    # LE is a predictor in one version of the public code and a target, which is not scaled, in another.
    if "LE" in predictors and np.nanmax(np.abs(predictors["LE"]), initial=0) > 0.5 + 1e-6:
        fluxes["LE"] = predictors.pop("LE")
    return fluxes | published.unscaled_columns(predictors, published.BOUNDS["v2"], where), said, True


class _Base:
    """An open V2 file: which tables and columns it has, and questions to them."""

    def __init__(self, connection: sqlite3.Connection, path: Path):
        self._connection, self.path = connection, path
        self.columns: dict[str, tuple[str, ...]] = {}
        self._check_layout()

    def ask(self, question: str, *values: object) -> list[tuple]:
        """Return all rows of an answer."""
        return [row for rows in self._blocks(question, *values) for row in rows]

    def read_site(self, site: str, names: Sequence[str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return stamps (time,) int64 and columns (time,) float64 of a site, by time."""
        question = f"SELECT {', '.join(('timestamp', *names))} FROM ec_data WHERE site = ? ORDER BY timestamp"
        stamps, blocks = [], []
        for rows in self._blocks(question, site):
            stamps.append(_whole([row[0] for row in rows], f"{self.path}, {site}"))
            blocks.append(self._numbers(rows, names, site))
        if not stamps:
            raise self.no_site(site)
        values = np.concatenate(blocks)
        return np.concatenate(stamps), {name: values[:, index] for index, name in enumerate(names)}

    def no_site(self, site: str) -> SourceError:
        return SourceError(f"{self.path}: no row of site {site}; list_sites says which there are")

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

    def _blocks(self, question: str, *values: object) -> Iterator[list[tuple]]:
        try:
            cursor = self._connection.execute(question, values)
            while rows := cursor.fetchmany(_ROWS):
                yield rows
        except (sqlite3.Error, OverflowError) as error:
            raise SourceError(f"{self.path}: cut or broken ({error}); {_AS_PUBLISHED}") from error

    def _check_layout(self) -> None:
        """Find the known tables and columns, and refuse a file that lacks what is needed."""
        kinds = dict(self.ask("SELECT name, upper(coalesce(sql, '')) FROM sqlite_schema WHERE type = 'table'"))
        plain = [name for name, sql in kinds.items() if str(sql).startswith("CREATE TABLE")]
        for name, wanted in {**_NEEDED, **_OPTIONAL}.items():
            if name in plain:
                held = self._columns_of(name)
                if set(wanted) <= set(held):
                    self.columns[name] = held
        if set(_NEEDED) - set(self.columns) or not set(self.columns["ec_data"]) & set(table.table()):
            raise SourceError(f"{self.path}: {self._what_is_there(plain)}; {_AS_PUBLISHED}")

    def _columns_of(self, name: str) -> tuple[str, ...]:
        quoted = str(name).replace('"', '""')
        return tuple(str(row[1]) for row in self.ask(f'PRAGMA table_info("{quoted}")'))

    def _what_is_there(self, plain: Sequence[str]) -> str:
        found = []
        for name in plain[:6]:
            found.append(f"{str(name)[:40]} ({', '.join(self._columns_of(name))[:120]})")
        return (
            "expected CarbonSense V2's table ec_data (id, site, timestamp, TA, ..., NEE), found "
            f"{'; '.join(found) or 'no table'}"
        )


@contextmanager
def _opened(path: str | os.PathLike) -> Iterator[_Base]:
    """Open a V2 file for reading only: nothing in it can run, write, or reach another file."""
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
    """Allow questions to known tables, and not through a view or a trigger."""
    good = action in _READS and (action == sqlite3.SQLITE_SELECT or first in _TABLES) and through is None
    good |= action == sqlite3.SQLITE_FUNCTION and second in _FUNCTIONS
    good |= action == sqlite3.SQLITE_PRAGMA and first == "table_info"
    return sqlite3.SQLITE_OK if good else sqlite3.SQLITE_DENY


def _file(path: Path) -> Path:
    if path.is_dir():
        found = sorted(path.glob("*carbonsense*.sql"))
        if len(found) != 1:
            raise SourceError(f"{path}: {len(found)} files like carbonsense_v2.sql in this folder, expected one")
        path = found[0]
    if not path.is_file():
        raise SourceError(f"{path}: expected CarbonSense V2's SQLite file, found none; check its path")
    with open(path, "rb") as stream:
        if stream.read(16) != b"SQLite format 3\0":
            raise SourceError(f"{path}: not an SQLite file, as its first bytes say; {_AS_PUBLISHED}")
    return path
