"""One truth in every publisher's dialect: found by name, read back to the last digit, and fused as it should be.

What is written here comes from `fluxcube.simulation.archives`, which knows the formats and imports no reader.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from counting import count_calls

import fluxcube as fc
from fluxcube.simulation.archives import PUBLISHERS, write_archive, write_bif
from fluxcube.simulation.instruments import Record
from fluxcube.simulation.published import write_v1, write_v2
from fluxcube.simulation.records import Place, decimals_of, mds_column, simulate_record
from fluxcube.sources.towers.badm import clock_of, read_badm
from fluxcube.sources.towers.discovery import discover
from fluxcube.sources.towers.networks import networks
from fluxcube.sources.towers.readers import chips_of, place_of, read_archive, read_daily_archive

US = Place(site="US-Zzz", latitude=40.0, longitude=-90.0, elevation=231, igbp="CRO", koppen="Dfa", utc_offset=-6)
#: JapanFlux2024 stamps UTC+9 wherever a tower stands, here in Mongolia.
MN = Place(site="MN-Zzz", latitude=47.9, longitude=106.9, elevation=1310, igbp="GRA", koppen="BSk", utc_offset=9)
NEPAL = Place(site="NP-Zzz", latitude=28.0, longitude=84.0, igbp="MF", utc_offset=5.75)

_FILLED = ("TA", "SW_IN", "LW_IN", "VPD")
_RAW = ("WD", "RH", "USTAR", "NETRAD", "PPFD_IN", "PPFD_OUT", "SW_OUT", "LW_OUT")
_MDS = ("CO2", "TS_1", "TS_2", "SWC_1", "SWC_2", "G", "LE", "H")
_PARTS = ("RECO_NT", "GPP_NT", "RECO_DT", "GPP_DT")


def place_for(network: str) -> Place:
    return MN if network == "JapanFlux2024" else US


def truth(network: str, product: str | None, record: Record) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What a reader must give of a record: values and flags by the table's names, as each publisher means them."""
    return _methane_truth(record) if network == "FLUXNET-CH4" else _oneflux_truth(record, raw=product != "SUBSET")


def _oneflux_truth(record, *, raw):
    c, out = record.columns, {}
    for name in (*_FILLED, "PA", "P", "WS"):
        values, flags = c[f"{name}_F"], c[f"{name}_F_QC"]
        if raw and name in ("PA", "P", "WS"):
            values, flags = (np.where(np.isfinite(c[name]), one, two) for one, two in ((c[name], values), (0, flags)))
        out[name] = values, flags
    out |= {name: (c[name], 0) for name in _RAW}
    out |= {name: (c[mds_column(name)], c[f"{mds_column(name)}_QC"]) for name in _MDS}
    out |= {name: (c[f"{name}_VUT_REF"], c["NEE_VUT_REF_QC"]) for name in ("NEE", *_PARTS)}
    return out


def _methane_truth(record):
    """Measured where the plain column has a value; a fill is a fill of medium quality, in a long gap a poor one."""
    c, out = record.columns, {}
    for name in (*_FILLED, "PA", "P", "WS"):
        out[name] = (c[f"{name}_F"], np.where(c[f"{name}_F_QC"] > 0, 2, 0))
    out |= {name: (c[name], 0) for name in _RAW}
    out |= {name: (c[mds_column(name)], 0) for name in ("TS_1", "TS_2", "SWC_1", "SWC_2")}
    out |= {name: (c[mds_column(name)], np.where(c[f"{mds_column(name)}_QC"] > 0, 2, 0)) for name in ("LE", "H")}
    out |= {name: (c[f"{name}_VUT_REF"], np.where(c["NEE_VUT_REF_QC"] > 0, 2, 0)) for name in ("NEE", *_PARTS)}
    out["FCH4"] = (c["FCH4_F"], np.select([c["FCH4_FILL"] == 0, c["FCH4_FILL"] == 1], [0, 2], 3))
    return out


def printed(values: np.ndarray, column: str) -> np.ndarray:
    """The float32 nearest to the text in the file."""
    return np.round(values, decimals_of(column)).astype(np.float32)


def check_record(found: xr.Dataset, network: str, product: str | None, record: Record, place: Place) -> None:
    step = int(np.diff(record.start[:2]).astype(int)[0])
    utc = record.start - np.timedelta64(round(60 * place.utc_offset), "m")
    np.testing.assert_array_equal(found.time.values, utc.astype("datetime64[ns]"))
    assert (found.step_minutes, found.site, found.network) == (step, place.site, network)
    expected = truth(network, product, record)
    values = {n for n in found.data_vars if not n.endswith(("_QC", "UNC"))}
    assert values == set(expected)
    for name, (column, flags) in expected.items():
        np.testing.assert_array_equal(found[name], printed(column, "NEE"), err_msg=name)
        there = np.isfinite(column)
        np.testing.assert_array_equal(found[f"{name}_QC"], np.where(there, flags, -1), err_msg=f"{name}_QC")


def unc(record, column):
    return printed(record.columns[column], column)


CASES = [
    *((network, None, "zip") for network in PUBLISHERS if network != "JapanFlux2024"),
    *((network, None, form) for network in PUBLISHERS for form in ("gzip", "folder")),
    ("FLUXNET2015", "SUBSET", "zip"),
    ("AmeriFlux FLUXNET", "SUBSET", "zip"),
    ("JapanFlux2024", "COREVARS", "folder"),
    ("FLUXNET Shuttle 2026", "TERN", "zip"),
    ("FLUXNET Shuttle 2026", "ICOSETC", "folder"),
]


@pytest.mark.parametrize(("network", "product", "form"), CASES)
def test_half_hours_of_every_publisher(tmp_path, network, product, form):
    place = place_for(network)
    record = simulate_record(place, "2011-12-20", days=21, seed=1)
    write_archive(tmp_path / "raw", network, record, place=place, product=product, form=form)
    found = discover(tmp_path / "raw")
    assert [(a.site, a.network) for a in found.archives] == [(place.site, network)]
    years = (None, None) if network == "ICOS 2023 L2" else (2011, 2012)  # its names do not tell
    assert (found.archives[0].first_year, found.archives[0].last_year) == years
    ds = read_archive(found.archives[0], utc_offset=place.utc_offset)
    product = "SUBSET" if network == "JapanFlux2024" else product
    check_record(ds, network, product, record, place)


def test_an_offset_of_quarters_of_an_hour(tmp_path):
    record = simulate_record(NEPAL, "2012-02-28", days=4)
    write_archive(tmp_path, "FLUXNET2015", record, place=NEPAL)
    write_bif(tmp_path, [NEPAL])
    found = discover(tmp_path)
    ds = read_archive(found.archives[0], utc_offset=clock_of(read_badm(found.badm)["NP-Zzz"]))
    check_record(ds, "FLUXNET2015", None, record, NEPAL)
    assert str(ds.time.values[0]) == "2012-02-27T18:15:00.000000000"


@pytest.mark.parametrize("network", [n for n in PUBLISHERS if n not in ("FLUXNET-CH4", "JapanFlux2024")])
def test_uncertainties_of_every_publisher(tmp_path, network):
    record = simulate_record(US, "2011-12-20", days=5, seed=2)
    write_archive(tmp_path, network, record, place=US)
    ds = read_archive(discover(tmp_path).archives[0], utc_offset=-6)
    for name, column in (
        ("NEE_RANDUNC", "NEE_VUT_REF_RANDUNC"),
        ("NEE_JOINTUNC", "NEE_VUT_REF_JOINTUNC"),
        ("LE_RANDUNC", "LE_RANDUNC"),
    ):
        np.testing.assert_array_equal(ds[name], unc(record, column))
    known = np.isfinite(ds.NEE_RANDUNC.values)
    assert known.any() and not known.all() and (ds.NEE_JOINTUNC.values >= ds.NEE_RANDUNC.values)[known].all()


@pytest.mark.parametrize("named_step", ["HR", "HH"])
@pytest.mark.parametrize("network", PUBLISHERS)
def test_hours_whatever_the_name_says(tmp_path, network, named_step):
    place = place_for(network)
    record = simulate_record(place, "2012-02-25", days=14, step_minutes=60, seed=3)
    write_archive(tmp_path, network, record, place=place, named_step=named_step)
    archives = discover(tmp_path).archives
    assert [a.resolution for a in archives] == [named_step]
    ds = read_archive(archives[0], utc_offset=place.utc_offset)
    check_record(ds, network, "SUBSET" if network == "JapanFlux2024" else None, record, place)


@pytest.mark.parametrize("network", PUBLISHERS)
def test_what_is_no_tower_table_is_named_and_left_aside(tmp_path, network):
    place = place_for(network)
    path = write_archive(tmp_path, network, simulate_record(place, "2012-01-01", days=2), place=place, form="folder")
    found = discover(tmp_path)
    tables = {p for p in path.rglob("*.csv")} - {a.path for a in found.archives} - {b.path for b in found.badm}
    aside = {name: why for name, why in found.ignored}
    assert {str(p) for p in tables} == {name for name in aside if name.endswith(".csv")}
    assert all(aside.values())


@pytest.mark.parametrize("network", ["AmeriFlux FLUXNET", "ICOS 2023 L2", "FLUXNET Shuttle 2026", "JapanFlux2024"])
def test_the_site_metadata_that_an_archive_brings(tmp_path, network):
    place = place_for(network)
    form = "folder" if network == "JapanFlux2024" else "zip"
    write_archive(tmp_path, network, simulate_record(place, "2012-01-01", days=2), place=place, form=form)
    found = read_badm(discover(tmp_path).badm)
    if network == "ICOS 2023 L2":  # SITEINFO has no column of sites: its name tells
        assert set(found) == {place.site}
    info = found[place.site]
    assert (info.latitude, info.longitude, info.elevation) == (place.latitude, place.longitude, place.elevation)
    assert (info.igbp, info.koppen) == (place.igbp, place.koppen)
    assert clock_of(info) == place.utc_offset


@pytest.mark.parametrize("step", [30, 60])
@pytest.mark.parametrize("network", [n for n, row in networks().items() if row.daily and row.daily_quality])
def test_days_of_every_publisher_that_has_them(tmp_path, network, step):
    """Their daily tables, against means of the half-hours that the truth consists of."""
    record = simulate_record(US, "2012-02-27", days=6, step_minutes=step, seed=4)
    write_archive(tmp_path, network, record, place=US)
    found = discover(tmp_path, resolution="daily")
    assert [(a.site, a.network, a.resolution) for a in found.archives] == [(US.site, network, "DD")]
    ds = read_daily_archive(found.archives[0])
    days = record.start.astype("datetime64[D]").reshape(6, -1)
    np.testing.assert_array_equal(ds.time.values, days[:, 0].astype("datetime64[ns]"))
    gc_per_umol = 12.011e-6 * 86400
    columns = {
        "TA": ("TA_F", 1),
        "P": ("P", 1440 / step),
        "NEE": ("NEE_VUT_REF", gc_per_umol),
        "GPP_NT": ("GPP_NT_VUT_REF", gc_per_umol),
    }
    for name, (column, factor) in columns.items():
        mean = np.nanmean(record.columns[column].reshape(6, -1), 1) * factor
        np.testing.assert_allclose(ds[name], mean, atol=6e-4, err_msg=name)
    flags = record.columns["NEE_VUT_REF_QC"].reshape(6, -1)
    np.testing.assert_allclose(ds.NEE_QUALITY, (flags <= 1).mean(1), atol=6e-4)


@pytest.mark.parametrize("network", ["JapanFlux2024", "FLUXNET-CH4"])
def test_days_that_are_not_read_are_said_so(tmp_path, network):
    place = place_for(network)
    write_archive(tmp_path, network, simulate_record(place, "2012-02-27", days=2), place=place, form="folder")
    found = discover(tmp_path, resolution="daily")
    assert [a.resolution for a in found.archives] == ["HH"], "its half-hours, of which days can be made"
    (why,) = (why for path, why in found.ignored if "_DD_" in path)
    without_quality = why.startswith("resolution DD: HH of the same site and years is read instead")
    assert without_quality if networks()[network].daily else why == networks()[network].why_no_days


# ---- as disks have them


def test_what_macos_and_spreadsheet_programs_leave_beside_files_is_no_metadata(tmp_path):
    record = simulate_record(US, "2012-01-01", days=2)
    path = write_archive(tmp_path, "AmeriFlux FLUXNET", record, place=US)
    with zipfile.ZipFile(path, "a") as archive:
        for name in archive.namelist():
            archive.writestr(f"__MACOSX/._{name}", b"\0\5\26\7" + bytes(60))
    (tmp_path / "~$AMF_US-Zzz_BIF_20230823.xlsx").write_bytes(b"\5user")
    found = discover(tmp_path)
    assert len(found.archives) == 1 and [badm.name for badm in found.badm] == ["AMF_US-Zzz_BIF_20230823.xlsx"]
    assert read_badm(found.badm)["US-Zzz"].latitude == US.latitude


def repacked(path: Path, rename, pack=lambda data: data) -> None:
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo("x")
            entry.filename = rename(name)  # ZipInfo's own constructor would tidy the name
            archive.writestr(entry, pack(data))


@pytest.mark.parametrize(
    "rename", ["a/b/{}".format, "a\\{}".format, "./{}".format], ids=["slashes", "backslashes", "dot"]
)
def test_folders_within_a_zip(tmp_path, rename):
    record = simulate_record(US, "2012-01-01", days=3)
    repacked(write_archive(tmp_path, "FLUXNET Shuttle 2026", record, place=US), rename)
    found = discover(tmp_path)
    check_record(read_archive(found.archives[0], utc_offset=-6), "FLUXNET Shuttle 2026", None, record, US)
    assert read_badm(found.badm)["US-Zzz"].igbp == "CRO"


def test_gzip_within_a_zip(tmp_path):
    record = simulate_record(US, "2012-01-01", days=3)
    repacked(write_archive(tmp_path, "FLUXNET2015", record, place=US), "{}.gz".format, gzip.compress)
    (archive,) = discover(tmp_path).archives
    check_record(read_archive(archive, utc_offset=-6), "FLUXNET2015", None, record, US)


def test_a_sheet_with_a_format_in_its_last_corner_is_not_read_cell_by_cell(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    write_archive(tmp_path, "AmeriFlux FLUXNET", simulate_record(US, "2012-01-01", days=2), place=US, form="folder")
    (path,) = tmp_path.rglob("*.xlsx")
    book = openpyxl.load_workbook(path)
    book.active.cell(200_000, 16_384).number_format = "0.00"
    book.save(path)
    infos, calls = count_calls(lambda: read_badm(path))
    assert infos["US-Zzz"].latitude == US.latitude
    assert calls < 1_200_000, f"{calls:,} calls: more than a few for each of the 200,000 rows, for each cell of them?"


# ---- the published CarbonSense


def chip_days(record: Record, n: int = 3, seed: int = 5) -> dict[np.datetime64, np.ndarray]:
    """Chips at local noon: reflectance and snow with some fill, and water."""
    rng, noon = np.random.default_rng(seed), record.start[0].astype("datetime64[D]") + np.timedelta64(12, "h")
    chips = {}
    for day in range(n):
        chip = rng.random((9, 8, 8)).astype(np.float32)
        chip[7:] = np.round(chip[7:])
        chip[:8][rng.random((8, 8, 8)) < 0.1] = -1
        chips[(noon + np.timedelta64(day, "D")).astype("datetime64[m]")] = chip
    return chips


def v1_chips(record):
    return {pd.Timestamp(day): chip for day, chip in chip_days(record).items()}


def check_published(
    found: xr.Dataset, record: Record, place: Place, names: tuple[str, ...], *, max_qc: int = 3
) -> None:
    """Compare what is left after CarbonSense's processing with the truth: poor values are lost, the rest is close."""
    utc = (record.start - np.timedelta64(round(60 * place.utc_offset), "m")).astype("datetime64[ns]")
    np.testing.assert_array_equal(found.time.values, utc)
    kept = _oneflux_truth(record, raw=False)
    for name in names:
        values, flags = kept[name]
        expected = values if name in _PARTS else np.where(np.asarray(flags) > max_qc, np.nan, values)
        np.testing.assert_allclose(found[name], expected, rtol=2e-6, atol=2e-4, err_msg=name)
        assert np.isfinite(expected).sum() > 100
        got = found[f"{name}_QC"].values
        np.testing.assert_array_equal(got == -1, np.isnan(expected), err_msg=name)
        assert (got[got >= 0] > 0).all(), "nothing tells that a value was measured"


V1_NAMES = (*_FILLED, "PA", "P", "WS", *_RAW, "CO2", "G", "LE", "H", "NEE", *_PARTS)


@pytest.mark.parametrize("form", ["folder", "tar", "tar.gz"])
def test_carbonsense_v1(tmp_path, form):
    record = simulate_record(US, "2012-02-20", days=14, step_minutes=60, seed=6)
    folder = tmp_path / "raw" / "carbonsense"
    write_v1(folder, record, US, dump=pickle.dumps, chips=v1_chips(record))
    if form != "folder":
        with tarfile.open(tmp_path / "raw" / f"carbonsense.{form}", "w:gz" if form.endswith("gz") else "w") as tar:
            tar.add(folder, "carbonsense")
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    found = discover(tmp_path / "raw").archives
    assert [(a.site, a.network) for a in found] == [(US.site, "CarbonSense v1")]
    info = place_of(found[0])
    assert (info.latitude, info.longitude, info.elevation, info.igbp) == (40.0, -90.0, 231, "CRO")
    ds = read_archive(found[0], utc_offset=-6)
    check_published(ds, record, US, V1_NAMES, max_qc=1)
    assert json.loads(ds.lost), "what the publication lost is said"
    check_chips(chips_of(found[0]), record)


def test_carbonsense_v1_joins_its_windows(tmp_path):
    records = [simulate_record(US, start, days=7, step_minutes=60, seed=7) for start in ("2012-02-20", "2012-03-10")]
    for record in reversed(records):
        write_v1(tmp_path, record, US, dump=pickle.dumps, chips=v1_chips(record))
    (archive,) = discover(tmp_path).archives
    joined = Record(
        start=np.concatenate([r.start for r in records]),
        columns={n: np.concatenate([r.columns[n] for r in records]) for n in records[0].columns},
    )
    check_published(read_archive(archive, utc_offset=-6), joined, US, V1_NAMES, max_qc=1)
    days, chips = chips_of(archive)
    assert len(days) == len(chips) == 6 and (np.diff(days).astype(int) > 0).all()


def test_carbonsense_v2(tmp_path):
    sites = [(US, simulate_record(US, "2012-02-20", days=14, seed=8)), (MN, simulate_record(MN, "2012-02-20", days=14))]
    chips = {US.site: chip_days(sites[0][1])}
    write_v2(tmp_path / "carbonsense_v2.sql", sites, chips=chips)
    found = {a.site: a for a in discover(tmp_path).archives}
    assert {(a.site, a.network) for a in found.values()} == {(p.site, "CarbonSense v2") for p, _ in sites}
    for place, record in sites:
        info = place_of(found[place.site])
        assert (info.latitude, info.longitude, info.igbp) == (place.latitude, place.longitude, place.igbp)
        ds = read_archive(found[place.site], utc_offset=place.utc_offset)
        check_published(ds, record, place, (*V1_NAMES, "TS_1", "TS_2"))
        assert not any(ds[name].notnull().any() for name in ("SWC_1", "SWC_2", "WTD") if name in ds), "lost in V2"
        assert json.loads(ds.lost)
    check_chips(chips_of(found[US.site]), sites[0][1])


def check_chips(found, record: Record) -> None:
    days, chips = found
    written = chip_days(record)
    np.testing.assert_array_equal(days, [day.astype("datetime64[D]") for day in written])
    expected = np.stack([np.where(chip < 0, np.nan, chip) for chip in written.values()])
    np.testing.assert_array_equal(chips, expected)


# ---- all of them at once


EVERYWHERE = dataclasses.replace(US, site="US-All")


def hourly(record: Record, place: Place, network: str, product: str | None = None):
    """Truth of an hourly record by UTC hour: value and flag by name."""
    utc = record.start - np.timedelta64(round(60 * place.utc_offset), "m")
    return utc, truth(network, product, record)


@pytest.fixture(scope="module")
def every_network(tmp_path_factory):
    """A folder of all networks: one site each, and one that all ONEFlux networks, and FLUXNET-CH4, have."""
    raw = tmp_path_factory.mktemp("raw")
    own, shared = {}, {}
    for i, network in enumerate(PUBLISHERS):
        place = dataclasses.replace(place_for(network), site=f"{place_for(network).site[:2]}-N{i:02d}")
        own[network] = (place, simulate_record(place, "2012-01-01", days=10, step_minutes=60, seed=i))
        write_archive(raw / "a", network, own[network][1], place=place)
        if network != "JapanFlux2024":
            start = np.datetime64("2012-03-01") + np.timedelta64(3 * i, "D")
            record = _with_holes(simulate_record(EVERYWHERE, start, days=12, step_minutes=60, seed=100 + i), i)
            write_archive(raw / "b", network, record, place=EVERYWHERE)
            shared[network] = record
    v1 = dataclasses.replace(US, site="US-Nv1")
    own["CarbonSense v1"] = (v1, simulate_record(v1, "2012-01-01", days=10, step_minutes=60, seed=50))
    write_v1(raw / "c", own["CarbonSense v1"][1], v1, dump=pickle.dumps, chips=v1_chips(own["CarbonSense v1"][1]))
    v2 = dataclasses.replace(US, site="US-Nv2")
    own["CarbonSense v2"] = (v2, simulate_record(v2, "2012-01-01", days=10, step_minutes=60, seed=51))
    write_v2(raw / "c" / "carbonsense_v2.sql", [own["CarbonSense v2"]])
    write_bif(raw, [EVERYWHERE, *(place for place, _ in own.values())])
    return raw, own, shared


def _with_holes(record: Record, seed: int) -> Record:
    """Take values of every variable away at random, so that fusion has something to choose."""
    rng = np.random.default_rng(seed)
    lost = {name: rng.random(len(record.start)) < 0.25 for name in ("TA_F", "NEE_VUT_REF", "LE_F_MDS", "RH")}
    columns = {n: np.where(lost[n], np.nan, v) if n in lost else v for n, v in record.columns.items()}
    return Record(start=record.start, columns=columns)


@pytest.fixture(scope="module")
def built(every_network, tmp_path_factory):
    raw, _, _ = every_network
    store = tmp_path_factory.mktemp("store") / "cube.zarr"
    report = fc.build_carbonsense(raw, store)
    return report, fc.open_carbonsense(store)


def test_every_network_in_one_folder_is_found(every_network):
    raw, own, shared = every_network
    found = {(a.site, a.network) for a in discover(raw).archives}
    assert found == {(p.site, n) for n, (p, _) in own.items()} | {("US-All", n) for n in shared}


def test_every_network_in_one_cube(every_network, built):
    _, own, _ = every_network
    report, cube = built
    assert not report.left_out
    assert set(report.sites) == {"US-All", *(place.site for place, _ in own.values())}
    for network, (place, record) in own.items():
        if network.startswith("CarbonSense"):
            continue
        utc, expected = hourly(record, place, network, "SUBSET" if network == "JapanFlux2024" else None)
        site = cube.sel(site=place.site, time=utc.astype("datetime64[ns]")).load()
        for name in ("TA", "P", "RH", "LE"):
            got = site.predictors.sel(variable=name).values
            np.testing.assert_array_equal(got, printed(expected[name][0], "NEE"), err_msg=f"{network} {name}")
        for name in ("NEE", "GPP_NT", "RECO_DT"):
            values, flags = expected[name]
            np.testing.assert_array_equal(site.fluxes.sel(target=name), printed(values, "NEE"), err_msg=network)
            expected_flags = np.where(np.isnan(values), -1, flags)
            np.testing.assert_array_equal(site.fluxes_qc.sel(target=name), expected_flags, err_msg=network)
        assert site.network == network


def test_the_newest_publication_that_has_a_value_wins(every_network, built):
    """Each network's truth put on one axis, and looked through by hand from the newest to the oldest."""
    _, _, shared = every_network
    order = [
        "FLUXNET Shuttle 2026",
        "ICOS 2023 L2",
        "AmeriFlux FLUXNET",
        "ICOS Warm Winter 2020",
        "FLUXNET-CH4",
        "FLUXNET2015",
    ]
    _, cube = built
    site = cube.sel(site="US-All").load()
    at = {hour: i for i, hour in enumerate(site.time.values.astype("datetime64[m]"))}
    expected = {name: np.full(len(at), np.nan, np.float32) for name in ("TA", "LE", "RH", "NEE", "GPP_NT")}
    leader = np.full(len(at), -1)
    for number, network in enumerate(order):
        utc, values = hourly(shared[network], EVERYWHERE, network)
        rows = np.array([at[hour] for hour in utc if hour in at])
        for name in ("TA", "LE", "RH", "NEE"):
            open_ = np.isnan(expected[name][rows])
            new = printed(values[name][0], "NEE")[[i for i, hour in enumerate(utc) if hour in at]]
            if name == "NEE":
                leader[rows[open_ & np.isfinite(new)]] = number
            expected[name][rows[open_]] = new[open_]
    for name in ("TA", "LE", "RH"):
        np.testing.assert_array_equal(site.predictors.sel(variable=name), expected[name], err_msg=name)
    np.testing.assert_array_equal(site.fluxes.sel(target="NEE"), expected["NEE"])
    # The partition is of the publication whose NEE was taken.
    for number, network in enumerate(order):
        utc, values = hourly(shared[network], EVERYWHERE, network)
        mine = np.array([hour in at and leader[at[hour]] == number for hour in utc])
        got = site.fluxes.sel(target="GPP_NT").values[[at[hour] for hour in utc[mine]]]
        np.testing.assert_array_equal(got, printed(values["GPP_NT"][0][mine], "NEE"), err_msg=network)
        assert mine.any(), network
    assert np.isfinite(expected["NEE"]).sum() > 20 * 24


def test_every_publisher_is_a_network_of_the_table():
    assert {*PUBLISHERS, "CarbonSense v1", "CarbonSense v2"} == {n for n, row in networks().items() if row.reader}
