"""Write a record in the formats of the published CarbonSense: version 1 as folders, version 2 as one SQLite file.

Both omit what CarbonSense's own processing drops: flags, values outside its ranges, and in version 1 values with a poor
flag of their own (a partitioned flux has no flag of its own).
"""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from fluxcube.simulation.instruments import Record
from fluxcube.simulation.records import Place, mds_column

#: Ranges (low, high) by which version 1 scales its predictors, by the variable table's names.
V1_RANGES: Mapping[str, tuple[float, float]] = {
    "DOY": (0, 366),
    "TOD": (0, 24),
    "TA": (-80, 80),
    "SW_IN": (0, 2000),
    "LW_IN": (0, 2000),
    "VPD": (0, 110),
    "PA": (20, 150),
    "P": (0, 300),
    "WS": (0, 100),
    "WD": (0, 360),
    "RH": (0, 100),
    "USTAR": (0, 10),
    "NETRAD": (-1000, 2000),
    "PPFD_IN": (-200, 3000),
    "PPFD_OUT": (-200, 3000),
    "SW_OUT": (-100, 2000),
    "LW_OUT": (-100, 2000),
    "CO2": (0, 2000),
    "G": (-1000, 2000),
    "LE": (-1000, 2000),
    "H": (-1000, 2000),
}
#: The same of version 2, which loses soil water and the water table because these ranges are reversed.
V2_RANGES: Mapping[str, tuple[float, float]] = {
    "DOY": (0, 366),
    "TOD": (0, 24),
    "TA": (-80, 80),
    "P": (0, 100),
    "RH": (0, 100),
    "VPD": (0, 110),
    "PA": (0, 110),
    "CO2": (0, 750),
    "SW_IN": (-1500, 1500),
    "SW_IN_POT": (-1500, 1500),
    "SW_OUT": (-500, 500),
    "LW_IN": (-1000, 1000),
    "LW_OUT": (-1000, 1000),
    "NETRAD": (-1000, 1000),
    "PPFD_IN": (-2500, 2500),
    "PPFD_OUT": (-1000, 1000),
    "WS": (-100, 100),
    "WD": (0, 360),
    "USTAR": (-4, 4),
    **{f"SWC_{n}": (100, 0) for n in range(1, 6)},
    **{f"TS_{n}": (-40, 40) for n in range(1, 6)},
    "WTD": (3, -3),
    "G": (-700, 700),
    "H": (-700, 700),
    "LE": (-700, 700),
}
_CYCLIC = ("DOY", "TOD", "WD")
_V2_TARGETS = ("NEE", "GPP_DT", "GPP_NT", "RECO_DT", "RECO_NT", "FCH4")
_V1_PREDICTORS = (
    "DOY",
    "TOD",
    "TA_F",
    "SW_IN_F",
    "LW_IN_F",
    "VPD_F",
    "PA_F",
    "P_F",
    "WS_F",
    "WD",
    "RH",
    "USTAR",
    "NETRAD",
    "PPFD_IN",
    "PPFD_OUT",
    "SW_OUT",
    "LW_OUT",
    "CO2_F_MDS",
    "G_F_MDS",
    "LE_F_MDS",
    "H_F_MDS",
)
_V1_TARGETS = ("NEE_VUT_REF", "GPP_DT_VUT_REF", "GPP_NT_VUT_REF", "RECO_DT_VUT_REF", "RECO_NT_VUT_REF")
_MAX_QC = 1


def write_v1(
    folder: str | Path,
    record: Record,
    place: Place,
    *,
    dump: Callable[[dict], bytes],
    chips: Mapping[object, np.ndarray] = {},
    ranges: Mapping[str, tuple[float, float]] = V1_RANGES,
) -> Path:
    """Write ``{site}/{start_end}/{meta.json, predictors.csv, targets.csv, modis.pkl}`` of a natively hourly record.

    Parameters
    ----------
    folder : path
        Folder in which a folder with the site's name is written.
    record : Record
        Hourly; it must begin at midnight.
    place : Place
    dump : callable
        Function that pickles a dict, since this package must not use pickle.
    chips : mapping
        (9, 8, 8) float32 with -1 where missing, by day at noon in the type that the pickle shall contain.
    ranges : mapping
        Ranges by which the predictors are scaled, by the table's names.

    Returns
    -------
    Path
        Folder of the period.
    """
    first, last = (str(t)[:10] for t in record.start[[0, -1]])
    path = Path(folder) / place.site / f"{first}_{last}"
    path.mkdir(parents=True, exist_ok=True)
    scaled = {name: _scaled(_plain(name), _good(record, name, _MAX_QC), ranges) for name in _V1_PREDICTORS}
    for name, table in (
        ("predictors", scaled),
        ("targets", {name: _good(record, name, _MAX_QC) for name in _V1_TARGETS}),
    ):
        (path / f"{name}.csv").write_bytes(_pandas_csv(record.start, table))
    meta = {
        "SITE_ID": place.site,
        "LOCATION_LAT": place.latitude,
        "LOCATION_LON": place.longitude,
        "LOCATION_ELEV": place.elevation,
        "IGBP": place.igbp,
        "SOURCES": "fluxnet",
        "TIME": [first, last],
    }
    (path / "meta.json").write_text(json.dumps(meta), "utf-8")
    (path / "modis.pkl").write_bytes(dump(dict(chips)))
    return path


def write_v2(
    path: str | Path,
    records: Sequence[tuple[Place, Record]],
    *,
    chips: Mapping[str, Mapping[np.datetime64, np.ndarray]] = {},
) -> Path:
    """Write version 2's SQLite file: tables ec_data, modis_data, phenocam_data and site_data.

    Parameters
    ----------
    path : path
        ``carbonsense_v2.sql``.
    records : sequence of (Place, Record)
    chips : mapping
        (9, 8, 8) float32 with -1 where missing, by site and local time of a step of its record.

    Returns
    -------
    Path
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    names = (*V2_RANGES, *_V2_TARGETS)
    with sqlite3.connect(path) as database:
        database.executescript(f"""
            CREATE TABLE ec_data (id INTEGER PRIMARY KEY AUTOINCREMENT, site TEXT NOT NULL, timestamp INTEGER NOT NULL,
                                  {", ".join(f"{name} REAL" for name in names)});
            CREATE TABLE modis_data (id INTEGER PRIMARY KEY AUTOINCREMENT, row_id INTEGER, data BLOB);
            CREATE TABLE phenocam_data (id INTEGER PRIMARY KEY AUTOINCREMENT, row_id INTEGER, files TEXT);
            CREATE TABLE site_data (site TEXT PRIMARY KEY, lat REAL, lon REAL, elev REAL, igbp TEXT);
        """)
        for place, record in records:
            _insert(database, place, record, names, chips.get(place.site, {}))
    database.close()
    return path


def _insert(
    database: sqlite3.Connection,
    place: Place,
    record: Record,
    names: Sequence[str],
    chips: Mapping[np.datetime64, np.ndarray],
) -> None:
    columns = []
    for name in names:
        values = _good(record, _column(name))
        columns.append(_scaled(name, values, V2_RANGES) if name in V2_RANGES else values)
    table = np.stack(columns, -1)
    stamps = [int(str(t).translate(str.maketrans("", "", "-T:"))[:12]) for t in record.start]
    rows = [
        (place.site, stamp, *(None if np.isnan(v) else float(v) for v in row))
        for stamp, row in zip(stamps, table, strict=True)
    ]
    marks = ", ".join("?" * (2 + len(names)))
    database.executemany(f"INSERT INTO ec_data (site, timestamp, {', '.join(names)}) VALUES ({marks})", rows)
    database.execute(
        "INSERT INTO site_data VALUES (?, ?, ?, ?, ?)",
        (place.site, place.latitude, place.longitude, place.elevation, place.igbp),
    )
    ids = dict(database.execute("SELECT timestamp, id FROM ec_data WHERE site = ?", (place.site,)))
    for time, chip in chips.items():
        stamp = stamps[int(np.flatnonzero(record.start == time)[0])]
        data = chip.astype("<f4").tobytes()
        database.execute("INSERT INTO modis_data (row_id, data) VALUES (?, ?)", (ids[stamp], data))


def _plain(column: str) -> str:
    """Return the table's name of a version 1 column."""
    return column.removesuffix("_MDS").removesuffix("_F")


def _column(name: str) -> str:
    """Return the record's column of a variable of version 2."""
    if name in ("TA", "SW_IN", "LW_IN", "VPD", "PA", "P", "WS"):
        return f"{name}_F"
    if name in ("CO2", "G", "H", "LE") or name.startswith(("TS_", "SWC_")):
        return mds_column(name)
    return f"{name}_VUT_REF" if name in _V2_TARGETS and name != "FCH4" else name


def _good(record: Record, column: str, max_qc: int = 3) -> np.ndarray:
    """Return a column without values whose own flag is above `max_qc`; DOY and TOD are computed from the time."""
    day = record.start.astype("datetime64[D]")
    if column == "DOY":
        return (day - day.astype("datetime64[Y]").astype("datetime64[D]")).astype(float)
    if column == "TOD":
        return np.floor((record.start - day).astype(float) / 60)
    if column not in record.columns:
        return np.full(len(day), np.nan)
    flags = record.columns.get(f"{column}_QC")
    return record.columns[column] if flags is None else np.where(flags > max_qc, np.nan, record.columns[column])


def _scaled(name: str, values: np.ndarray, ranges: Mapping[str, tuple[float, float]]) -> np.ndarray:
    """Return values scaled to -0.5..0.5, or -1..1 for cyclic ones; NaN outside the range."""
    low, high = ranges[name]
    inside = np.where((values >= low) & (values <= high), values, np.nan)
    return (inside - (low + high) / 2) / ((high - low) / (2 if name in _CYCLIC else 1))


def _pandas_csv(times: np.ndarray, table: Mapping[str, np.ndarray]) -> bytes:
    """Return a table as pandas writes it: shortest digits, blank where missing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["timestamp", *table])
    for at, time in enumerate(times):
        stamp = f"{str(time)[:10]} {str(time)[11:16]}:00"
        writer.writerow([stamp, *("" if np.isnan(v[at]) else repr(float(v[at])) for v in table.values())])
    return text.getvalue().encode()
