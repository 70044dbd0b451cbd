"""CarbonSense V2 as published: an SQLite file that is only read, whose scaling is undone and whose losses are said."""

from __future__ import annotations

import json
import logging
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcube.cubes.hourly import to_hourly
from fluxcube.errors import SourceError
from fluxcube.sources.towers.carbonsense_v2 import LOST, list_sites, read_chips, read_hours, read_place
from fluxcube.sources.towers.discovery import discover
from fluxcube.sources.towers.networks import Archive
from fluxcube.sources.towers.readers import chips_of, place_of, read_archive

#: Middle and width of the limits that the public code scales by (2025), and values that a tower has.
SCALES = {
    "TA": (0, 160, -30, 38),
    "P": (50, 100, 0, 5),
    "RH": (50, 100, 10, 100),
    "VPD": (55, 110, 0, 40),
    "PA": (55, 110, 80, 103),
    "CO2": (375, 750, 350, 500),
    "SW_IN": (0, 3000, 0, 1000),
    "SW_IN_POT": (0, 3000, 0, 1300),
    "SW_OUT": (0, 1000, 0, 300),
    "LW_IN": (0, 2000, 150, 450),
    "LW_OUT": (0, 2000, 250, 600),
    "NETRAD": (0, 2000, -100, 800),
    "PPFD_IN": (0, 5000, 0, 2000),
    "PPFD_OUT": (0, 2000, 0, 200),
    "WS": (0, 200, 0, 12),
    "WD": (180, 180, 0, 359),
    "USTAR": (0, 8, 0, 2),
    "TS_1": (0, 80, -10, 30),
    "G": (0, 1400, -50, 100),
    "H": (0, 1400, -100, 500),
    "LE": (0, 1400, -50, 500),
}
WIPED = ("SWC_1", "SWC_2", "WTD")
TARGETS = {
    "NEE": (-30, 15),
    "GPP_DT": (-1, 35),
    "GPP_NT": (-1, 35),
    "RECO_DT": (0, 20),
    "RECO_NT": (0, 20),
    "FCH4": (-20, 300),
}
ORDER = ("DOY", "TOD", *SCALES, *WIPED, *TARGETS)


def truth(start: str, rows: int, seed: int = 0, step: int = 30) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    time = pd.date_range(start, periods=rows, freq=f"{step}min")
    frame = pd.DataFrame(
        {name: rng.uniform(*scale[-2:], rows) for name, scale in (SCALES | TARGETS).items()}, index=time
    )
    return frame.mask(rng.random(frame.shape) < 0.1)


def scaled(frame: pd.DataFrame) -> pd.DataFrame:
    """What the public code writes of physical values: predictors scaled, soil water wiped out, targets as they are."""
    out = pd.DataFrame(index=frame.index)
    out["DOY"] = (frame.index.day_of_year - 1 - 183) / 183
    out["TOD"] = (frame.index.hour + frame.index.minute / 60 - 12) / 12
    for name, (middle, width, _, _) in SCALES.items():
        out[name] = (frame[name] - middle) / width
    for name in WIPED:
        out[name] = np.nan
    return out.join(frame[list(TARGETS)])


def image(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    chip = rng.random((9, 8, 8)).astype("<f4")
    chip[7:] = rng.integers(0, 2, (2, 8, 8))
    chip[:8][rng.random((8, 8, 8)) < 0.2] = -1
    return chip


def write(
    path: Path, sites: dict[str, pd.DataFrame], *, places: bool = True, images: bool = True, raw: bool = False
) -> Path:
    """Write an SQLite file of the layout of V2."""
    base = sqlite3.connect(path)
    reals = ", ".join(f"{name} REAL" for name in ORDER)
    base.executescript(
        "CREATE TABLE ec_data (id INTEGER PRIMARY KEY AUTOINCREMENT, site TEXT NOT NULL, timestamp INTEGER NOT NULL, "
        f"{reals});"
        "CREATE INDEX idx_ec_site ON ec_data(site);"
        "CREATE TABLE phenocam_data (id INTEGER PRIMARY KEY AUTOINCREMENT, row_id INTEGER, files TEXT);"
    )
    if images:
        base.execute("CREATE TABLE modis_data (id INTEGER PRIMARY KEY AUTOINCREMENT, row_id INTEGER, data BLOB)")
    if places:
        base.execute("CREATE TABLE site_data (site TEXT PRIMARY KEY, lat REAL, lon REAL, elev REAL, igbp TEXT)")
    for number, (site, frame) in enumerate(sites.items()):
        rows = (frame if raw else scaled(frame)).reindex(columns=ORDER)
        for time, row in rows.astype(object).where(rows.notna(), None).iterrows():
            marks = ", ".join("?" * (len(ORDER) + 2))
            stamp = int(f"{time:%Y%m%d%H%M}")
            cursor = base.execute(
                f"INSERT INTO ec_data (site, timestamp, {', '.join(ORDER)}) VALUES ({marks})", (site, stamp, *row)
            )
            if images and time.hour == 12 and time.minute == 0:
                chip = image(int(f"{time:%j}") + number)
                base.execute("INSERT INTO modis_data (row_id, data) VALUES (?, ?)", (cursor.lastrowid, chip.tobytes()))
        if places:
            base.execute(
                "INSERT INTO site_data VALUES (?, ?, ?, ?, ?)", (site, 45.0 + number, 10.0 + number, None, "GRA")
            )
    base.commit()
    base.close()
    return path


FRAMES = {"AT-Neu": truth("2012-02-27 12:30", 250), "US-Ha1": truth("2015-12-30", 150, seed=3)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("v2") / "carbonsense_v2.sql", FRAMES)


def archive(path: Path, site: str = "AT-Neu") -> Archive:
    return Archive(path=path, member=site, site=site, network="CarbonSense v2", product="", resolution="")


def changed(whole: Path, tmp_path: Path, *commands: str) -> Path:
    """A copy in which SQL was run."""
    path = tmp_path / "carbonsense_v2.sql"
    path.write_bytes(whole.read_bytes())
    base = sqlite3.connect(path)
    for command in commands:
        base.execute(command)
    base.commit()
    base.close()
    return path


def test_sites(whole):
    assert list_sites(whole) == ["AT-Neu", "US-Ha1"] == list_sites(whole.parent)


@pytest.mark.parametrize("site", list(FRAMES))
def test_scaling_is_undone_and_time_is_utc(whole, site):
    record = read_hours(archive(whole, site), utc_offset=5.5)
    frame = FRAMES[site]
    assert (record.time.values == frame.index.values - np.timedelta64(330, "m")).all()
    for name, (_, width, _, _) in SCALES.items():
        if name != "SW_IN_POT":  # computed, never read
            np.testing.assert_allclose(record[name], frame[name], atol=1e-6 * width)
    for name in TARGETS:
        np.testing.assert_array_equal(record[name], frame[name].astype("f4"))
    assert record.attrs["step_minutes"] == 30 and record.attrs["scaled_by"] == "v2"


def test_flags_say_that_nothing_is_known(whole):
    record = read_hours(archive(whole), utc_offset=1)
    for name in record.data_vars:
        if not name.endswith("_QC"):
            present = np.isfinite(record[name].values)
            assert (record[f"{name}_QC"].values == np.where(present, 3 if name == "P" else 2, -1)).all()
    lost = json.loads(record.attrs["lost"])
    assert lost == list(LOST) and any("water table were removed" in text for text in lost)
    assert not set(WIPED) & set(record.data_vars)


def test_asked_for_variables_only(whole):
    record = read_hours(archive(whole), utc_offset=1, variables=["TA", "NEE", "SWC_1"])
    assert set(record.data_vars) == {"TA", "TA_QC", "NEE", "NEE_QC"}
    np.testing.assert_array_equal(record.TA, read_hours(archive(whole), utc_offset=1).TA)


def test_order_of_rows_and_other_sites_do_not_matter(whole, tmp_path):
    shuffled = changed(
        whole,
        tmp_path,
        "CREATE TABLE other AS SELECT * FROM ec_data ORDER BY timestamp * 7919 % 1009",
        "DELETE FROM ec_data",
        "INSERT INTO ec_data SELECT * FROM other WHERE site = 'AT-Neu'",
        "DROP TABLE other",
    )
    assert read_hours(archive(shuffled), utc_offset=1).equals(read_hours(archive(whole), utc_offset=1))


def test_physical_values_stay_with_their_soil_water(tmp_path):
    frame = FRAMES["AT-Neu"].assign(SWC_1=31.0, WTD=-0.5)
    frame["DOY"] = frame.index.day_of_year - 1
    frame["TOD"] = frame.index.hour + frame.index.minute / 60
    path = write(tmp_path / "carbonsense_v2.sql", {"AT-Neu": frame}, raw=True)
    record = read_hours(archive(path), utc_offset=0)
    np.testing.assert_allclose(record.PA, frame.PA, rtol=1e-6)
    assert (record.SWC_1 == 31).all() and (record.WTD == -0.5).all() and record.attrs["scaled_by"] == ""
    present = np.isfinite(record.P.values)
    assert (record.P_QC.values[present] == 2).all()  # nothing to undo, so nothing to doubt


def test_soil_water_that_no_limits_could_give_is_left_out_and_said(whole, tmp_path):
    path = changed(whole, tmp_path, "UPDATE ec_data SET SWC_1 = 0.2")
    record = read_hours(archive(path), utc_offset=1)
    assert "SWC_1" not in record and json.loads(record.attrs["lost"])[-1].startswith("SWC_1 has values")


def test_latent_heat_as_a_target_is_not_scaled(whole, tmp_path):
    path = changed(whole, tmp_path, "UPDATE ec_data SET LE = LE * 1400")
    np.testing.assert_allclose(read_hours(archive(path), utc_offset=1).LE, FRAMES["AT-Neu"].LE, atol=1e-3)


def test_hourly_files_are_read_and_their_joining_said(tmp_path):
    path = write(tmp_path / "carbonsense_v2.sql", {"AT-Neu": truth("2012-02-27", 100, step=60)})
    record = read_hours(archive(path), utc_offset=1)
    assert record.attrs["step_minutes"] == 60 and "averaged in pairs" in json.loads(record.attrs["lost"])[-1]
    assert to_hourly(record).TA.size == 100


def test_holes_stay_holes(whole, tmp_path):
    path = changed(whole, tmp_path, "DELETE FROM ec_data WHERE timestamp BETWEEN 201202280000 AND 201202281200")
    record = read_hours(archive(path), utc_offset=0)
    assert len(record.time) == len(FRAMES["AT-Neu"]) - 25
    assert record.attrs["step_minutes"] == 30


def test_place(whole, tmp_path, caplog):
    info = read_place(archive(whole, "US-Ha1"))
    assert (info.latitude, info.longitude, info.elevation, info.igbp, info.utc_offset) == (
        46.0,
        11.0,
        None,
        "GRA",
        None,
    )
    with pytest.raises(SourceError, match="0 rows of XX-Xxx"):
        read_place(archive(whole, "XX-Xxx"))
    early = write(tmp_path / "carbonsense_v2.sql", FRAMES, places=False)
    assert list_sites(early) == ["AT-Neu", "US-Ha1"]
    with caplog.at_level(logging.WARNING):
        assert read_place(archive(early)).latitude is None
    assert "the coordinates of AT-Neu are unknown" in caplog.text
    own = write(tmp_path / "own_carbonsense_v2.sql", {"XX-Own": FRAMES["AT-Neu"]}, places=False)
    with pytest.raises(SourceError, match="its coordinates are required"):
        read_hours(archive(own, "XX-Own"))
    assert read_hours(archive(early)).equals(read_hours(archive(early), utc_offset=1))  # from the table of known sites


def test_chips(whole, tmp_path):
    for number, (site, frame) in enumerate(FRAMES.items()):
        days, chips = read_chips(archive(whole, site))
        noons = [time for time in frame.index if time.hour == 12 and time.minute == 0]
        assert list(days) == [np.datetime64(time, "D") for time in noons] and len(days)
        for time, chip in zip(noons, chips, strict=True):
            written = image(int(f"{time:%j}") + number)
            np.testing.assert_array_equal(chip, np.where(written == -1, np.nan, written))
    without = write(tmp_path / "carbonsense_v2.sql", FRAMES, images=False)
    assert read_chips(archive(without)) is None


@pytest.mark.parametrize(
    ("command", "match"),
    [
        ("UPDATE modis_data SET data = x'00'", "expected .* float32, found 1 bytes"),
        ("UPDATE modis_data SET data = 'text'", "expected .* float32, found str"),
        ("UPDATE modis_data SET data = zeroblob(4608)", "found 4608 bytes"),
        (
            "UPDATE modis_data SET row_id = (SELECT row_id FROM modis_data LIMIT 1)",
            "two images of 2012-02-28 that differ",
        ),
    ],
)
def test_images_that_are_none_are_refused(command, match, whole, tmp_path):
    with pytest.raises(SourceError, match=match):
        read_chips(archive(changed(whole, tmp_path, command)))


@pytest.mark.parametrize(
    ("command", "match"),
    [
        ("UPDATE ec_data SET TA = 'warm' WHERE id = 5", "column TA: expected a number, found 'warm'"),
        ("UPDATE ec_data SET TA = x'0001' WHERE id = 5", "column TA: expected a number"),
        ("UPDATE ec_data SET TA = 9e999 WHERE id = 5", "infinite"),
        ("UPDATE ec_data SET TA = 21.5 WHERE id = 5", "column of TA: 21.5 among scaled values"),
        ("UPDATE ec_data SET TOD = 0.9 WHERE id = 5", "neither the time of the stamp"),
        ("UPDATE ec_data SET DOY = NULL, TOD = NULL", "neither DOY nor TOD has a value"),
        ("UPDATE ec_data SET timestamp = 201213011200 WHERE id = 5", "as YYYYMMDDHHMM, each once, found 201213011200"),
        ("UPDATE ec_data SET timestamp = 201202271300 WHERE id = 5", "each once, found 201202271300"),
        ("UPDATE ec_data SET timestamp = 'noon' WHERE id = 5", "expected YYYYMMDDHHMM, found 'noon'"),
        ("UPDATE ec_data SET timestamp = -1 WHERE id = 5", "expected YYYYMMDDHHMM"),
        ("UPDATE site_data SET lat = 95", "latitude of AT-Neu: expected a number from -90 to 90"),
        ("UPDATE site_data SET lon = 'east'", "longitude of AT-Neu: expected a number"),
        ("ALTER TABLE ec_data RENAME TO towers", r"expected CarbonSense V2's table ec_data .* found towers \(id, site"),
        ("ALTER TABLE ec_data RENAME COLUMN timestamp TO time", r"found ec_data \(id, site, time"),
        ("DELETE FROM ec_data WHERE timestamp % 10000 != 0", "most rows are 1440 minutes apart"),
    ],
)
def test_faults_are_named(command, match, whole, tmp_path):
    with pytest.raises(SourceError, match=match):
        read_hours(archive(changed(whole, tmp_path, command)))


def test_an_unknown_site_is_named(whole):
    with pytest.raises(SourceError, match="no row of site XX-Xxx"):
        read_hours(archive(whole, "XX-Xxx"), utc_offset=0)
    with pytest.raises(SourceError, match="no row of site XX-Xxx"):
        read_chips(archive(whole, "XX-Xxx"))
    with pytest.raises(SourceError, match="no row of site"):
        read_hours(archive(whole, "' OR site != '"), utc_offset=0)


# --- hostile files ------------------------------------------------------------------------------------------------


def test_a_file_is_never_written_and_needs_no_right_to(whole):
    before, names = whole.read_bytes(), sorted(whole.parent.iterdir())
    whole.chmod(0o444)
    whole.parent.chmod(0o555)
    try:
        read_hours(archive(whole), utc_offset=0)
        read_chips(archive(whole))
    finally:
        whole.parent.chmod(0o755)
        whole.chmod(0o644)
    assert whole.read_bytes() == before and sorted(whole.parent.iterdir()) == names


@pytest.mark.parametrize(
    "disguise",
    [
        "CREATE VIEW ec_data AS SELECT * FROM towers",
        "CREATE VIEW ec_data AS WITH RECURSIVE t(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM t) "
        "SELECT id, 'AT-Neu' AS site, 201201010000 + id AS timestamp, 0.0 AS TOD, 0.0 AS NEE FROM t",
        "CREATE VIRTUAL TABLE ec_data USING fts5(id, site, timestamp, NEE)",
    ],
)
def test_only_plain_tables_are_asked(disguise, whole, tmp_path):
    path = changed(whole, tmp_path, "ALTER TABLE ec_data RENAME TO towers", disguise)
    for read in (lambda: list_sites(path), lambda: read_hours(archive(path), utc_offset=0)):
        with pytest.raises(SourceError, match="expected CarbonSense V2's table"):
            read()


def test_a_generated_column_that_calls_a_function_is_not_run(whole, tmp_path):
    path = changed(
        whole,
        tmp_path,
        "ALTER TABLE ec_data RENAME COLUMN WS TO other",
        "ALTER TABLE ec_data ADD COLUMN WS REAL GENERATED ALWAYS AS (length(hex(zeroblob(400000000))))",
    )
    # Such a column is hidden from the list of columns, or refused: either way it is not computed.
    try:
        assert "WS" not in read_hours(archive(path), utc_offset=0)
    except SourceError as error:
        assert "prohibited" in str(error) or "not authorized" in str(error)


def test_no_sqlite_file_is_said(tmp_path):
    path = tmp_path / "carbonsense_v2.sql"
    with pytest.raises(SourceError, match="found none"):
        list_sites(path)
    with pytest.raises(SourceError, match=r"0 files like carbonsense_v2\.sql"):
        list_sites(tmp_path)
    path.write_text("CREATE TABLE ec_data;")
    with pytest.raises(SourceError, match="not an SQLite file, according to its first bytes"):
        list_sites(path)
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 4000)
    with pytest.raises(SourceError):
        list_sites(path)
    path.unlink()
    base = sqlite3.connect(path)
    base.execute("CREATE TABLE cats (name)")
    base.close()
    with pytest.raises(SourceError, match=r"found cats \(name\)"):
        list_sites(path)


def test_odd_letters_in_the_path(whole, tmp_path):
    path = tmp_path / "a?mode=rw#b %20'" / "carbonsense_v2.sql"
    path.parent.mkdir()
    path.write_bytes(whole.read_bytes())
    assert list_sites(path) == ["AT-Neu", "US-Ha1"]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_changed_bytes_never_crash(whole, tmp_path_factory, data):
    raw = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("fuzz") / "carbonsense_v2.sql"
    path.write_bytes(raw[: data.draw(st.integers(len(raw) // 2, len(raw)))])
    for read in (list_sites, lambda p: read_hours(archive(p), utc_offset=0), lambda p: read_chips(archive(p))):
        try:
            read(path)
        except SourceError:
            continue


def test_found_and_read_with_all_other_networks(whole):
    found = discover(whole.parent)
    assert found.sites == ("AT-Neu", "US-Ha1")
    for one in found.archives:
        record = read_archive(one, utc_offset=1)
        assert record.attrs["network"] == "CarbonSense v2" and record.attrs["site"] == one.site
        assert place_of(one).igbp == "GRA" and chips_of(one)[1].shape[1:] == (9, 8, 8)


def test_rows_that_are_still_in_a_journal_are_not_left_out_in_silence(whole, tmp_path):
    path = tmp_path / "carbonsense_v2.sql"
    path.write_bytes(whole.read_bytes())
    base = sqlite3.connect(path)
    base.execute("PRAGMA journal_mode=WAL")
    base.execute("DELETE FROM ec_data WHERE site = 'US-Ha1'")
    base.commit()
    with pytest.raises(SourceError, match=r"carbonsense_v2\.sql-wal beside it contains changes"):
        list_sites(path)
    base.close()  # SQLite moves the changes into the file
    assert list_sites(path)
