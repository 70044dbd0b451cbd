"""CarbonSense v1 as published: what was scaled comes back, what was lost is said, what is hostile is refused."""

from __future__ import annotations

import gzip
import io
import json
import logging
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcube.cubes.hourly import to_hourly
from fluxcube.errors import SourceError
from fluxcube.sources.towers import carbonsense_v1, published, tarball
from fluxcube.sources.towers.carbonsense_v1 import LOST, list_sites, read_chips, read_hours, read_place
from fluxcube.sources.towers.discovery import discover
from fluxcube.sources.towers.networks import Archive
from fluxcube.sources.towers.readers import chips_of, place_of, read_archive

#: A column of the publication, the variable, and what the paper's code takes its limits to be: middle and width.
COLUMNS = {
    "TA_F": ("TA", 0, 160),
    "SW_IN_F": ("SW_IN", 1000, 2000),
    "LW_IN_F": ("LW_IN", 1000, 2000),
    "VPD_F": ("VPD", 55, 110),
    "PA_F": ("PA", 85, 130),
    "P_F": ("P", 150, 300),
    "WS_F": ("WS", 50, 100),
    "WD": ("WD", 180, 180),
    "RH": ("RH", 50, 100),
    "USTAR": ("USTAR", 5, 10),
    "NETRAD": ("NETRAD", 500, 3000),
    "PPFD_IN": ("PPFD_IN", 1400, 3200),
    "PPFD_OUT": ("PPFD_OUT", 1400, 3200),
    "SW_OUT": ("SW_OUT", 950, 2100),
    "LW_OUT": ("LW_OUT", 950, 2100),
    "CO2_F_MDS": ("CO2", 1000, 2000),
    "G_F_MDS": ("G", 500, 3000),
    "LE_F_MDS": ("LE", 500, 3000),
    "H_F_MDS": ("H", 500, 3000),
}
RANGES = {
    "TA": (-30, 40),
    "SW_IN": (0, 1000),
    "LW_IN": (150, 450),
    "VPD": (0, 40),
    "PA": (80, 103),
    "P": (0, 5),
    "WS": (0, 12),
    "WD": (0, 359),
    "RH": (10, 100),
    "USTAR": (0, 2),
    "NETRAD": (-100, 800),
    "PPFD_IN": (0, 2000),
    "PPFD_OUT": (0, 200),
    "SW_OUT": (0, 300),
    "LW_OUT": (250, 600),
    "CO2": (350, 500),
    "G": (-50, 100),
    "LE": (-50, 500),
    "H": (-100, 500),
    "NEE": (-30, 15),
    "GPP_DT": (-1, 35),
    "GPP_NT": (-1, 35),
    "RECO_DT": (0, 20),
    "RECO_NT": (0, 20),
}
META = {
    "SITE_ID": "CZ-BK1",
    "LOCATION_LAT": 49.5,
    "LOCATION_LON": 18.5,
    "LOCATION_ELEV": 875.0,
    "IGBP": "ENF",
    "SOURCES": "icos-ww",
}


def truth(start: str, hours: int, seed: int = 0) -> pd.DataFrame:
    """Physical values of every variable by local time, a tenth of them missing."""
    rng = np.random.default_rng(seed)
    time = pd.date_range(start, periods=hours, freq="h", name="timestamp")
    frame = pd.DataFrame({name: rng.uniform(low, high, hours) for name, (low, high) in RANGES.items()}, index=time)
    return frame.mask(rng.random(frame.shape) < 0.1)


def write_window(
    folder: Path, frame: pd.DataFrame, *, scaled: bool = True, meta: dict = META, chips: dict | None = None
):
    """Write one window as the publication has it, by the paper's §3.2."""
    folder.mkdir(parents=True)
    predictors = pd.DataFrame(index=frame.index)
    predictors["DOY"] = frame.index.day_of_year - 1.0
    predictors["TOD"] = frame.index.hour * 1.0
    for column, (name, middle, width) in COLUMNS.items():
        predictors[column] = (frame[name] - middle) / width if scaled else frame[name]
    if scaled:
        predictors["DOY"], predictors["TOD"] = (predictors["DOY"] - 183) / 183, (predictors["TOD"] - 12) / 12
    predictors.to_csv(folder / "predictors.csv")
    targets = [name for name in ("NEE", "GPP_DT", "GPP_NT", "RECO_DT", "RECO_NT") if name in frame]
    frame[targets].add_suffix("_VUT_REF").to_csv(folder / "targets.csv")
    (folder / "meta.json").write_text(json.dumps(meta))
    (folder / "modis.pkl").write_bytes(pickle.dumps(images(frame.index) if chips is None else chips))


def images(index: pd.DatetimeIndex, side: int = 10) -> dict:
    """One image a day at 12:00, with gaps, in the form of the paper's pipeline."""
    rng = np.random.default_rng(7)
    found = {}
    for day in index.normalize().unique():
        image = rng.random((9, side, side)).astype("f4")
        image[7:] = rng.integers(0, 2, (2, side, side))
        image[:8][rng.random((8, side, side)) < 0.2] = -1
        found[day + pd.Timedelta(hours=12)] = image
    return found


FIRST, SECOND = truth("2004-02-27", 200), truth("2010-12-30", 100, seed=1)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("v1") / "carbonsense"
    write_window(root / "CZ-BK1" / "2004-02-27_2004-03-06", FIRST)
    write_window(root / "CZ-BK1" / "2010-12-30_2011-01-03", SECOND)
    write_window(
        root / "US-Ha1" / "2010-12-30_2011-01-03", SECOND, meta=META | {"SITE_ID": "US-Ha1", "LOCATION_LON": -72.2}
    )
    return root


@pytest.fixture(scope="module")
def packed(unpacked, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tar") / "carbonsense.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(unpacked, "carbonsense")
    return path


def archive(path: Path, site: str = "CZ-BK1", member: str | None = None) -> Archive:
    return Archive(path=path, member=member, site=site, network="CarbonSense v1", product="", resolution="")


def test_sites_of_a_folder_a_tar_and_a_packed_tar(unpacked, packed, tmp_path):
    small = tmp_path / "carbonsense.tar.gz"
    small.write_bytes(gzip.compress(packed.read_bytes()))
    for path in (unpacked, packed, small):
        assert list_sites(path) == ["CZ-BK1", "US-Ha1"]
    assert list_sites(unpacked / "US-Ha1") == ["US-Ha1"]
    record = read_hours(archive(small), utc_offset=1)
    assert record.equals(read_hours(archive(packed), utc_offset=1))


def test_scaling_is_undone_and_time_is_utc(unpacked):
    record = read_hours(archive(unpacked), utc_offset=1)
    both = pd.concat([FIRST, SECOND])
    assert (record.time.values == both.index.values - np.timedelta64(1, "h")).all()
    for name in RANGES:
        low, high = RANGES[name]
        np.testing.assert_allclose(record[name], both[name], rtol=1e-6, atol=2e-7 * (high - low) + 1e-5)
        assert record[name].dtype == np.float32
    assert record.attrs["step_minutes"] == 60 and record.attrs["scaled_by"] == "v1"
    assert json.loads(record.attrs["columns"])["TA"] == "TA_F" and record.attrs["published_from"] == "icos-ww"


def test_tar_and_folder_are_one(unpacked, packed):
    for site in ("CZ-BK1", "US-Ha1"):
        one, other = (read_hours(archive(path, site), utc_offset=-5) for path in (unpacked, packed))
        assert one.equals(other)
        for part, same in zip(read_chips(archive(unpacked, site)), read_chips(archive(packed, site)), strict=True):
            np.testing.assert_array_equal(part, same)
        assert read_place(archive(unpacked, site)) == read_place(archive(packed, site))


def test_flags_are_what_can_be_known(unpacked):
    record = read_hours(archive(unpacked), utc_offset=1)
    for name in RANGES:
        present, flags = np.isfinite(record[name].values), record[f"{name}_QC"].values
        assert (flags[~present] == -1).all() and flags.dtype == np.int8
        if name.startswith(("GPP", "RECO")):
            without_nee = np.isnan(record.NEE.values)
            assert (flags[present & without_nee] == 3).all() and (flags[present & ~without_nee] == 1).all()
        else:
            assert (flags[present] == 1).all()
    alone = read_hours(archive(unpacked), utc_offset=1, variables=["GPP_NT", "TA"])
    assert set(alone.data_vars) == {"GPP_NT", "GPP_NT_QC", "TA", "TA_QC"}
    assert alone.GPP_NT_QC.equals(record.GPP_NT_QC)  # NEE decides, asked for or not
    assert json.loads(record.attrs["lost"]) == list(LOST)
    assert json.loads(record.attrs["flags_assumed"])["TA"] == int(np.isfinite(record.TA).sum())


def test_values_that_were_not_scaled_stay(tmp_path):
    write_window(tmp_path / "CZ-BK1" / "w", FIRST, scaled=False)
    record = read_hours(archive(tmp_path), utc_offset=0)
    np.testing.assert_allclose(record.PA, FIRST.PA.astype("f4"))
    assert record.attrs["scaled_by"] == ""


def test_limits_of_v2_are_told_from_those_of_v1(tmp_path):
    """A file scaled by the newer limits gives the same values: wind, friction and sun show which they are."""
    folder = tmp_path / "CZ-BK1" / "w"
    write_window(folder, FIRST)
    frame = pd.read_csv(folder / "predictors.csv")
    for column, (name, _, _) in COLUMNS.items():
        low, high = published.BOUNDS["v2"][name]
        width = (high - low) / (2 if name == "WD" else 1)
        frame[column] = (FIRST[name].to_numpy() - (low + high) / 2) / width
    frame.to_csv(folder / "predictors.csv", index=False)
    record = read_hours(archive(tmp_path), utc_offset=0)
    assert record.attrs["scaled_by"] == "v2"
    np.testing.assert_allclose(record.PA, FIRST.PA, rtol=1e-5)
    np.testing.assert_allclose(record.SW_IN, FIRST.SW_IN, atol=1e-3)


@given(st.sampled_from(sorted(COLUMNS)), st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_every_variable_is_undone_by_the_papers_formula(column, shares):
    name, middle, width = COLUMNS[column]
    low, high = published.BOUNDS["v1"][name]
    physical = low + np.array(shares) * (high - low)
    scaled = (physical - middle) / width
    assert np.abs(scaled).max() <= (1 if name == "WD" else 0.5) + 1e-9
    np.testing.assert_allclose(published.unscaled(name, scaled, (low, high)), physical, atol=1e-9 * (high - low))


def test_hours_go_on_to_the_cube(unpacked):
    record = read_hours(archive(unpacked), utc_offset=1)
    hourly = to_hourly(record)
    kept = hourly.TA.sel(time=record.time)
    np.testing.assert_array_equal(kept, record.TA)


def test_without_an_offset_that_of_the_known_site_is_used_or_the_longitude_s(unpacked, tmp_path, caplog):
    record = read_hours(archive(unpacked))
    assert "no UTC_OFFSET" not in caplog.text
    assert record.equals(read_hours(archive(unpacked), utc_offset=1))
    write_window(tmp_path / "XX-Own" / "a", FIRST, meta={**META, "SITE_ID": "XX-Own"})
    with caplog.at_level(logging.WARNING):
        record = read_hours(archive(tmp_path, "XX-Own"))
    assert "no UTC_OFFSET" in caplog.text
    assert record.equals(read_hours(archive(tmp_path, "XX-Own"), utc_offset=1))


def test_an_hour_in_two_windows_is_taken_once_and_said(tmp_path):
    write_window(tmp_path / "CZ-BK1" / "a", FIRST)
    late = truth(str(FIRST.index[-10]), 30, seed=5)
    write_window(tmp_path / "CZ-BK1" / "b", late)
    record = read_hours(archive(tmp_path), utc_offset=0)
    assert len(record.time) == len(FIRST) + 20 and (np.diff(record.time.values) > np.timedelta64(0)).all()
    np.testing.assert_allclose(record.TA[: len(FIRST)], FIRST.TA, atol=1e-4)
    assert "10 hours are in two windows" in json.loads(record.attrs["lost"])[-1]


def test_place(unpacked):
    info = read_place(archive(unpacked))
    assert (info.latitude, info.longitude, info.elevation, info.igbp) == (49.5, 18.5, 875.0, "ENF")
    assert info.utc_offset is None  # it does not tell
    with pytest.raises(SourceError, match="no window of site XX-Xxx; it has CZ-BK1"):
        read_place(archive(unpacked, "XX-Xxx"))


def test_chips_are_the_middle_of_each_image(unpacked):
    days, chips = read_chips(archive(unpacked))
    written = images(FIRST.index) | images(SECOND.index)
    assert days.dtype == "datetime64[D]" and (np.diff(days) > np.timedelta64(0)).all() and len(days) == len(written)
    for day, chip in zip(days, chips, strict=True):
        image = written[pd.Timestamp(day) + pd.Timedelta(hours=12)][:, 1:9, 1:9]
        np.testing.assert_array_equal(chip, np.where(image == -1, np.nan, image))
    assert chips.dtype == np.float32 and np.isnan(chips).any()
    assert set(np.unique(chips[:, 8])) <= {0.0, 1.0}


def test_chips_of_eight_pixels_are_whole(tmp_path):
    index = FIRST.index
    write_window(tmp_path / "CZ-BK1" / "w", FIRST, chips=images(index, side=8))
    _, chips = read_chips(archive(tmp_path))
    image = images(index, side=8)[index[0].normalize() + pd.Timedelta(hours=12)]
    np.testing.assert_array_equal(chips[0], np.where(image == -1, np.nan, image))


def noon(day: float) -> pd.Timestamp:
    return pd.Timestamp("2010-01-01 12:00") + pd.Timedelta(days=day)


@pytest.mark.parametrize(
    ("held", "match"),
    [
        ([1, 2], "expected a dict of images by time, found a list"),
        ({"2010-01-01": np.zeros((9, 8, 8))}, "expected times as keys"),
        ({noon(0): np.zeros((8, 8, 8), "f4")}, r"expected numbers of \(9, 8, 8\)"),
        ({noon(0): np.zeros((9, 7, 8), "f4")}, r"expected numbers of \(9, 8, 8\)"),
        ({noon(0): 3}, "found int"),
        ({noon(0): np.full((9, 8, 8), 7000, "i2")}, "from 0 to 1 .*, found other values"),
        ({noon(0): np.full((9, 8, 8), -0.5)}, "from 0 to 1 .*, found other values"),
        (
            {noon(0): np.zeros((9, 8, 8)), noon(0.1): np.ones((9, 8, 8))},
            "two images of 2010-01-01 that differ",
        ),
        ({noon(0): np.full((9, 9, 8), 0.5)}, None),
        ({noon(0): np.ones((9, 8, 8)), noon(0.1): np.ones((9, 8, 8))}, None),  # the same twice is one
    ],
)
def test_chips_that_are_none_are_refused(held, match, tmp_path):
    write_window(tmp_path / "CZ-BK1" / "w", FIRST, chips=held)
    if match is None:
        assert read_chips(archive(tmp_path))[1].shape == (1, 9, 8, 8)
        return
    with pytest.raises(SourceError, match=match):
        read_chips(archive(tmp_path))


class Runs:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def test_a_hostile_pickle_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_window(tmp_path / "CZ-BK1" / "w", FIRST, chips={noon(0): Runs()})
    with pytest.raises(SourceError, match=r"modis\.pkl: the global 'pathlib"):
        read_chips(archive(tmp_path))
    assert not Path("ran").exists()


def test_no_images_are_no_chips(tmp_path):
    write_window(tmp_path / "CZ-BK1" / "w", FIRST, chips={})
    days, chips = read_chips(archive(tmp_path))
    assert days.shape == (0,) and chips.shape == (0, 9, 8, 8)


def change(folder: Path, name: str, old: str, new: str) -> None:
    path = folder / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "old", "new", "match"),
    [
        ("predictors.csv", "timestamp,", "time,", "line 1: expected the columns of CarbonSense v1"),
        ("predictors.csv", "TA_F", "DOY", "each once"),
        (
            "predictors.csv",
            "2004-02-28 03:00:00",
            "28/02/2004 03:00",
            "line 29, column timestamp: found '28/02/2004 03:00'",
        ),
        ("predictors.csv", "2004-02-28 03:00:00", "2004-02-28 02:00:00", "line 29, column timestamp"),
        ("predictors.csv", "2004-02-28 03:00:00,", "2004-02-28 03:00:00,,", "has not 22 fields"),
        (
            "predictors.csv",
            "\n2004-02-28 03:00:00,",
            "\n2004-02-28 03:00:00,x",
            "line 29, column DOY: expected a number",
        ),
        ("predictors.csv", "\n2004-02-28 03:00:00,-", "\n2004-02-28 03:00:00,", "neither the time of the stamp"),
        (
            "targets.csv",
            "2004-03-06 07:00:00",
            "2004-03-06 09:00:00",
            "time stamps are not those of predictors.csv",
        ),
        ("meta.json", "{", "[", "expected JSON"),
        ("meta.json", "49.5", "149.5", "latitude of CZ-BK1: expected a number from -90 to 90, found '149.5'"),
        ("meta.json", "49.5", '"north"', "latitude of CZ-BK1: expected a number"),
        ("meta.json", "CZ-BK1", "CZ-BK2", "expected SITE_ID CZ-BK1, .* found 'CZ-BK2'"),
    ],
)
def test_faults_are_named(name, old, new, match, tmp_path):
    folder = tmp_path / "CZ-BK1" / "2004-02-27_2004-03-06"
    write_window(folder, FIRST)
    change(folder, name, old, new)
    with pytest.raises(SourceError, match=match):
        read_hours(archive(tmp_path))


def test_a_physical_column_among_scaled_ones_is_refused(tmp_path):
    folder = tmp_path / "CZ-BK1" / "w"
    write_window(folder, FIRST)
    frame = pd.read_csv(folder / "predictors.csv")
    frame["PA_F"] = FIRST.PA.to_numpy()
    frame.to_csv(folder / "predictors.csv", index=False)
    with pytest.raises(SourceError, match=r"column of PA: .* among scaled values"):
        read_hours(archive(tmp_path), utc_offset=0)


def test_every_cut_of_a_table_is_refused(tmp_path):
    folder = tmp_path / "CZ-BK1" / "w"
    write_window(folder, truth("2004-02-27", 5))
    whole = (folder / "predictors.csv").read_bytes()
    ends = [end for end in range(len(whole)) if whole[end - 1 : end] != b"\n"]
    for end in ends[::7] + ends[-3:]:
        (folder / "predictors.csv").write_bytes(whole[:end])
        with pytest.raises(SourceError):
            read_hours(archive(tmp_path), utc_offset=0)


def test_metadata_of_older_letters_and_of_depth(tmp_path, caplog):
    folder = tmp_path / "CZ-BK1" / "w"
    write_window(folder, FIRST)
    (folder / "meta.json").write_bytes(json.dumps(META | {"NAME": "?"}).replace("?", "Bílý Kříž").encode("cp1250"))
    with caplog.at_level(logging.WARNING):
        assert read_place(archive(tmp_path)).latitude == 49.5
    assert "not in UTF-8" in caplog.text
    (folder / "meta.json").write_text("[" * 100_000)
    with pytest.raises(SourceError, match="expected JSON"):
        read_place(archive(tmp_path))


# --- tars ---------------------------------------------------------------------------------------------------------


def tar_of(*entries: tuple[str, dict]) -> bytes:
    """A tar of one good window and other entries: name, and what of the header is odd."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, odd in (("c/CZ-BK1/w/predictors.csv", {}), *entries):
            info = tarfile.TarInfo(name)
            info.size = len(odd.get("data", b""))
            for key, value in odd.items():
                if key != "data":
                    setattr(info, key, value)
            tar.addfile(info, io.BytesIO(odd.get("data", b"")))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "odd", "match"),
    [
        ("/etc/passwd", {}, "has an absolute name"),
        ("C:/x", {}, "has an absolute name"),
        ("c/../../x", {}, "has '..' in its name"),
        ("c\\..\\x", {}, "has '..' in its name"),
        ("c/link", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "is a link"),
        ("c/link", {"type": tarfile.LNKTYPE, "linkname": "c/CZ-BK1/w/predictors.csv"}, "is a link"),
        ("c/pipe", {"type": tarfile.FIFOTYPE}, "is not a plain file"),
        ("c/disk", {"type": tarfile.BLKTYPE}, "is not a plain file"),
        ("c/CZ-BK1/w/predictors.csv", {}, "occurs twice"),
        ("c/big", {"size": 1 << 40}, "bytes large|cut or broken"),
    ],
)
def test_tars_with_harmful_entries_are_refused(name, odd, match, tmp_path):
    path = tmp_path / "carbonsense.tar"
    path.write_bytes(tar_of())
    assert list_sites(path) == ["CZ-BK1"]
    size = odd.pop("size", None)
    raw = bytearray(tar_of((name, odd)))
    if size is not None:
        raw = with_size(raw, name, size)
    path.write_bytes(raw)
    with pytest.raises(SourceError, match=match):
        list_sites(path)


def with_size(raw: bytearray, name: str, size: int) -> bytearray:
    """The tar with another size in one header, its checksum put right."""
    at = raw.index(name.encode() + b"\0")
    raw[at + 124 : at + 136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    raw[at + 148 : at + 156] = b"        "
    raw[at + 148 : at + 156] = b"%06o\0 " % sum(raw[at : at + 512])
    return raw


def test_every_cut_of_a_tar_is_refused(packed, tmp_path):
    whole = packed.read_bytes()
    path = tmp_path / "carbonsense.tar"
    last = len(whole.rstrip(b"\0"))
    for end in [0, 1, 511, 512, 1024, 5120, *np.linspace(600, last, 60).astype(int)]:
        path.write_bytes(whole[:end])
        with pytest.raises(SourceError):
            list_sites(path)


def test_a_bomb_of_zeros_is_refused_by_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr(tarball, "_RATIO_FROM", 1 << 16)
    path = tmp_path / "carbonsense.tar.gz"
    path.write_bytes(gzip.compress(tar_of(("c/CZ-BK1/w/modis.pkl", {"data": bytes(1 << 20)}))))
    with pytest.raises(SourceError, match="bytes large, more than it can be"):
        list_sites(path)


def test_a_header_of_gigabytes_is_refused(tmp_path):
    raw = with_size(bytearray(tar_of(("longname", {"type": tarfile.GNUTYPE_LONGNAME}))), "longname", 1 << 33)
    path = tmp_path / "carbonsense.tar"
    path.write_bytes(raw)
    with pytest.raises(SourceError, match=r"a header of|cut or broken"):
        list_sites(path)


def test_a_file_too_large_for_what_it_is(packed, monkeypatch):
    monkeypatch.setitem(carbonsense_v1._LIMITS, "meta.json", 10)
    with pytest.raises(SourceError, match="more than the 10 that such a file may have"):
        read_place(archive(packed))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_changed_bytes_of_a_tar_never_crash(packed, tmp_path_factory, data):
    raw = bytearray(packed.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("fuzz") / "carbonsense.tar"
    path.write_bytes(raw)
    try:
        for site in list_sites(path):
            read_hours(archive(path, site), utc_offset=0)
            read_chips(archive(path, site))
    except SourceError:
        return


def test_a_folder_without_windows_says_what_was_expected(tmp_path):
    with pytest.raises(SourceError, match="as CarbonSense v1 has"):
        list_sites(tmp_path)
    with pytest.raises(SourceError, match="expected a tar file, found none"):
        list_sites(tmp_path / "carbonsense.tar")


def test_found_and_read_with_all_other_networks(unpacked, packed, tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "carbonsense.tar").write_bytes(packed.read_bytes())
    for root in (unpacked, folder):
        found = discover(root)
        assert found.sites == ("CZ-BK1", "US-Ha1")
        for one in found.archives:
            record = read_archive(one, utc_offset=1)
            assert record.attrs["network"] == "CarbonSense v1" and record.attrs["site"] == one.site
            assert place_of(one).igbp == "ENF" and chips_of(one)[1].shape[1:] == (9, 8, 8)
