"""Names tell networks apart, one archive wins for each site and network, and nothing is left aside silently."""

from __future__ import annotations

import csv
import gzip
import itertools
import zipfile

import pytest
from counting import count_calls

from fluxcube.errors import ConfigError, SourceError
from fluxcube.sources.towers.badm import read_badm
from fluxcube.sources.towers.discovery import discover
from fluxcube.sources.towers.networks import is_badm, networks, parse_name
from fluxcube.sources.towers.oneflux import read_oneflux
from fluxcube.sources.towers.selection import choose_member

HEAD = "TIMESTAMP_START,TIMESTAMP_END,TA_F,TA_F_QC\n"
TABLE = HEAD + "200501010000,200501010030,1.5,0\n200501010030,200501010100,1.25,1\n"
STEM = "FLX_XX-One_FLUXNET2015_FULLSET"
BIF = "SITE_ID,GROUP_ID,VARIABLE_GROUP,VARIABLE,DATAVALUE\n"


def write(folder, name, text=TABLE, member=None):
    """Write one tower file; a zip holds `member`, or a csv of its own name with the resolution HH."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".zip"):
        members = member if isinstance(member, dict) else {member or name.replace(".zip", ".csv"): text}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for key, value in members.items():
                archive.writestr(key, value)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


NAMES = """
FLX_AR-SLu_FLUXNET2015_FULLSET_2009-2011_1-4.zip | FLUXNET2015 | FULLSET |  | 2009-2011 | 1-4
FLX_AR-SLu_FLUXNET2015_SUBSET_HH_2009-2011_1-3.csv | FLUXNET2015 | SUBSET | HH | 2009-2011 | 1-3
FLX_AR-SLu_FLUXNET2015_AUXMETEO_2009-2011_1-3.csv | FLUXNET2015 | AUXMETEO |  | 2009-2011 | 1-3
FLX_BE-Bra_FLUXNET2015_FULLSET_HH_1996-2020_beta-3.csv.gz | ICOS Warm Winter 2020 | FULLSET | HH | 1996-2020 | beta-3
AMF_US-Ha1_FLUXNET_FULLSET_HR_1991-2020_3-5.csv | AmeriFlux FLUXNET | FULLSET | HR | 1991-2020 | 3-5
AMF_US-Ha1_FLUXNET_SUBSET_1991-2020_3-5.zip | AmeriFlux FLUXNET | SUBSET |  | 1991-2020 | 3-5
ICOSETC_BE-Bra_ARCHIVE_L2.zip | ICOS 2023 L2 | ARCHIVE |  | - | L2
ICOSETC_BE-Bra_FLUXNET_HH_L2.csv | ICOS 2023 L2 | FLUXNET | HH | - | L2
ICOSETC_BE-Bra_FLUXNET_HH_INTERIM_L2.csv | ICOS 2023 L2 | FLUXNET | HH | - | L2
AMF_US-Ha1_FLUXNET_1991-2025_v1.3_r1.zip | FLUXNET Shuttle 2026 | FLUXMET |  | 1991-2025 | v1.3_r1
EUF_CH-Oe2_FLUXNET_FLUXMET_HH_2004-2024_v1.3_r1.csv | FLUXNET Shuttle 2026 | FLUXMET | HH | 2004-2024 | v1.3_r1
AMF_US-A10_FLUXNET_ERA5_DD_1981-2025_v1.3_r1.csv | FLUXNET Shuttle 2026 | ERA5 | DD | 1981-2025 | v1.3_r1
FLX_KR-CRK_FLUXNET-CH4_HH_2015-2018_1-1.csv | FLUXNET-CH4 | CH4 | HH | 2015-2018 | 1-1
FLX_JP-Ozm_JapanFLUX2024_ALLVARS_HH_2015-2017_1-3.csv | JapanFlux2024 | ALLVARS | HH | 2015-2017 | 1-3
AMF_US-CRT_BASE-BADM_2-5.zip | AmeriFlux BASE |  |  | - | 2-5
AMF_US-CRT_BASE_HH_2-5.csv | AmeriFlux BASE |  | HH | - | 2-5
FLX_AR-SLu_FLUXNET2015_FULLSET_2009-2011_1-4 (1).zip | FLUXNET2015 | FULLSET |  | 2009-2011 | 1-4
FLX_JP-Ozm_JapanFlux2024_AllVars_hh_2015-2017_1-3.CSV | JapanFlux2024 | ALLVARS | HH | 2015-2017 | 1-3
OzFlux_AU-Tum_FLUXNET_2002-2024_v1.3_r1.zip | FLUXNET Shuttle 2026 | FLUXMET |  | 2002-2024 | v1.3_r1
"""


@pytest.mark.parametrize("row", NAMES.strip().splitlines())
def test_names_as_the_networks_write_them(row):
    name, network, product, resolution, years, version = (cell.strip() for cell in row.split("|"))
    archive = parse_name(name)
    assert (archive.network, archive.product, archive.resolution) == (network, product, resolution)
    assert f"{archive.first_year or ''}-{archive.last_year or ''}" == years
    assert (archive.version, archive.site) == (version, name.split("_")[1])


@pytest.mark.parametrize(
    "name",
    [
        "cube.csv",
        "FLX_AR-SLu_FLUXNET2015_FULLSET_2009-2011_1-4.zip.part",
        "AMF_US-Ha1_FLUXNET.zip",
        "FLX_AA_x.csv",
        "flx_ar-slu_FLUXNET2015_FULLSET_2009-2011_1-4.zip",
    ],
)
def test_other_names_are_of_no_network(name):
    assert parse_name(name) is None


def test_every_name_in_the_shuttles_own_list_is_understood(shared_data):
    path = next((shared_data / "meta").glob("fluxnet_shuttle_snapshot_*.csv"))
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 767
    for row in rows:
        archive = parse_name(row["fluxnet_product_name"])
        assert archive.network == "FLUXNET Shuttle 2026"
        assert archive.site == row["site_id"]
        assert (archive.first_year, archive.last_year) == (int(row["first_year"]), int(row["last_year"]))
        assert archive.version.startswith(row["oneflux_code_version"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("FLX_AA-Flx_BIF_HH_20200501.csv", True),
        ("AMF_US-Ha1_FLUXNET_BIF_1991-2025_v1.3_r1.csv", True),
        ("AMF_US-Ha1_FLUXNET_BIFVARINFO_HH_1991-2025_v1.3_r1.csv", False),
        ("ICOSETC_BE-Bra_SITEINFO_L2.csv", True),
        ("ICOSETC_BE-Bra_VARINFO_FLUXNET_HH_L2.csv", False),
        ("sites.csv", True),
        ("my_sites.csv", True),
        ("websites_of_towers.csv", False),
        ("fluxnet_shuttle_snapshot_20260624.csv", True),
    ],
)
def test_names_of_site_metadata(name, expected):
    assert is_badm(name) is expected


def test_every_network_that_is_read_has_a_place_in_every_order(tmp_path):
    read = {name for name, network in networks().items() if network.reader}
    for order in ("newest", "paper"):
        write(tmp_path, "FLX_XX-One_FLUXNET2015_FULLSET_HH_2005-2006_1-4.csv")
        write(tmp_path, "AMF_XX-One_FLUXNET_FULLSET_HH_2005-2006_3-5.csv")
        write(tmp_path, "FLX_XX-One_FLUXNET2015_FULLSET_HH_2005-2006_beta-3.csv")
        write(tmp_path, "ICOSETC_XX-One_FLUXNET_HH_L2.csv")
        write(tmp_path, "EUF_XX-One_FLUXNET_FLUXMET_HH_2005-2006_v1.3_r1.csv")
        write(tmp_path, "FLX_XX-One_FLUXNET-CH4_HH_2005-2006_1-1.csv")
        write(tmp_path, "FLX_XX-One_JapanFLUX2024_ALLVARS_HH_2005-2006_1-3.csv")
        for name in ("meta.json", "predictors.csv", "targets.csv"):
            write(tmp_path, f"carbonsense/XX-One/2005_2006/{name}")
        archives = discover(tmp_path, order=order).archives
        assert {archive.network for archive in archives} == read - {"CarbonSense v2"}
        ranks = [archive.rank for archive in archives]
        assert ranks == sorted(ranks) and len(set(ranks)) == len(ranks)


def test_newest_first_is_the_order_of_the_specification(tmp_path):
    for name in (
        "FLX_XX-One_FLUXNET2015_FULLSET_HH_2005-2006_1-4.csv",
        "FLX_XX-One_FLUXNET2015_FULLSET_HH_2005-2006_beta-3.csv",
        "AMF_XX-One_FLUXNET_FULLSET_HH_2005-2006_3-5.csv",
        "ICOSETC_XX-One_FLUXNET_HH_L2.csv",
        "EUF_XX-One_FLUXNET_FLUXMET_HH_2005-2006_v1.3_r1.csv",
    ):
        write(tmp_path, name)
    newest = [archive.network for archive in discover(tmp_path).archives]
    assert newest == [
        "FLUXNET Shuttle 2026",
        "ICOS 2023 L2",
        "AmeriFlux FLUXNET",
        "ICOS Warm Winter 2020",
        "FLUXNET2015",
    ]
    paper = [archive.network for archive in discover(tmp_path, order="paper").archives]
    assert paper == [
        "AmeriFlux FLUXNET",
        "FLUXNET2015",
        "ICOS 2023 L2",
        "ICOS Warm Winter 2020",
        "FLUXNET Shuttle 2026",
    ]
    with pytest.raises(ConfigError, match="newest, paper"):
        discover(tmp_path, order="oldest")


def test_every_network_says_how_to_cite_it():
    for name, network in networks().items():
        if name != "AmeriFlux BASE":
            assert network.licence and network.citation


@pytest.mark.parametrize(
    "names",
    list(
        itertools.permutations(
            [
                "FLX_XX-One_FLUXNET2015_SUBSET_2005-2006_1-4.zip",
                "FLX_XX-One_FLUXNET2015_FULLSET_2005-2006_1-4.zip",
                "FLX_XX-One_FLUXNET2015_FULLSET_HH_2005-2006_1-4.csv",
            ]
        )
    ),
)
def test_fullset_and_zip_win_and_the_others_are_named(tmp_path, names):
    for name in names:
        write(tmp_path, name, member=name.replace("SET_2005", "SET_HH_2005").replace(".zip", ".csv"))
    found = discover([tmp_path / name for name in names])
    assert [a.path.name for a in found.archives] == ["FLX_XX-One_FLUXNET2015_FULLSET_2005-2006_1-4.zip"]
    reasons = {path.split("/")[-1].split("!")[0]: why for path, why in found.ignored}
    assert "FULLSET of the same site" in reasons["FLX_XX-One_FLUXNET2015_SUBSET_2005-2006_1-4.zip"]
    assert "the same data as" in reasons["FLX_XX-One_FLUXNET2015_FULLSET_HH_2005-2006_1-4.csv"]


@pytest.mark.parametrize("copy", ["{} (1)", "{} copy", "{}.1", "{}(2)"])
@pytest.mark.parametrize("ending", [".zip", ".csv", ".csv.gz"])
def test_of_a_file_and_its_copy_the_original_is_read(tmp_path, copy, ending):
    stem = f"{STEM}_HH_2005-2006_1-4"
    write(tmp_path, stem + ending)
    write(tmp_path, copy.format(stem) + ending)
    found = discover(tmp_path)
    assert [archive.path.name for archive in found.archives] == [stem + ending]
    ((path, why),) = found.ignored
    assert copy.format(stem) in path and f"the same data as {stem}{ending}" in why


def test_a_whole_copy_is_read_where_the_original_is_cut(tmp_path):
    stem = f"{STEM}_HH_2005-2006_1-4"
    write(tmp_path, f"{stem}.zip").write_bytes(b"PK")
    write(tmp_path, f"{stem} (1).zip")
    assert [archive.path.name for archive in discover(tmp_path).archives] == [f"{stem} (1).zip"]


def test_an_older_version_gives_way_unless_it_has_other_years(tmp_path):
    write(tmp_path, "AMF_XX-One_FLUXNET_FULLSET_HH_2005-2009_4-5.csv")
    write(tmp_path, "AMF_XX-One_FLUXNET_FULLSET_HH_2005-2008_3-5.csv")
    write(tmp_path, "AMF_XX-One_FLUXNET_FULLSET_HH_2001-2009_2-5.csv")
    found = discover(tmp_path)
    assert [archive.version for archive in found.archives] == ["4-5", "2-5"]
    assert found.archives[0].rank < found.archives[1].rank
    ((path, why),) = found.ignored
    assert path.endswith("_3-5.csv") and why.startswith("version 3-5: 4-5 of the same site and years is read instead")


def test_half_hours_win_over_hours_of_the_same_years(tmp_path):
    write(tmp_path, "AMF_US-UMB_FLUXNET_FULLSET_HH_2007-2017_3-5.csv")
    write(tmp_path, "AMF_US-UMB_FLUXNET_FULLSET_HR_2007-2017_3-5.csv")
    found = discover(tmp_path)
    assert [archive.resolution for archive in found.archives] == ["HH"]
    assert "resolution HR: HH" in found.ignored[0][1]


def test_hourly_sites_are_found(tmp_path):
    write(tmp_path, "AMF_US-Ha1_FLUXNET_FULLSET_HR_1991-2020_3-5.csv")
    assert discover(tmp_path).archives[0].resolution == "HR"


def test_a_shuttle_zip_gives_its_half_hours_and_its_metadata(tmp_path):
    stem = "EUF_CH-Oe2_FLUXNET"
    tail = "2004-2024_v1.3_r1.csv"
    members = {
        f"{stem}_{kind}_{res}_{tail}": HEAD for kind in ("FLUXMET", "ERA5", "BIFVARINFO") for res in ("HH", "DD")
    }
    members[f"{stem}_FLUXMET_HH_{tail}"] = TABLE
    members[f"{stem}_BIF_{tail}"] = BIF + "CH-Oe2,1,GRP_UTC_OFFSET,UTC_OFFSET,1\n"
    write(tmp_path, f"{stem}_2004-2024_v1.3_r1.zip", member={**members, "README.txt": "text"})
    found = discover(tmp_path)
    assert [archive.member for archive in found.archives] == [f"{stem}_FLUXMET_HH_{tail}"]
    assert read_oneflux(found.archives[0], utc_offset=1.0).site == "CH-Oe2"
    assert read_badm(found.badm)["CH-Oe2"].utc_offset == 1.0
    assert found.ignored == ()


def test_an_icos_archive_gives_its_half_hours_and_its_metadata(tmp_path):
    members = {
        f"ICOSETC_BE-Bra_{kind}_L2.csv": HEAD for kind in ("FLUXNET_DD", "METEOSENS", "FLUXES", "VARINFO_FLUXNET_HH")
    }
    members["ICOSETC_BE-Bra_FLUXNET_HH_L2.csv"] = TABLE
    members["ICOSETC_BE-Bra_SITEINFO_L2.csv"] = "SITE_ID,GROUP_ID,VARIABLE,DATAVALUE\nBE-Bra,1,LOCATION_LAT,51.3\n"
    write(tmp_path, "ICOSETC_BE-Bra_ARCHIVE_L2.zip", member=members)
    found = discover(tmp_path)
    assert [archive.member for archive in found.archives] == ["ICOSETC_BE-Bra_FLUXNET_HH_L2.csv"]
    assert read_badm(found.badm)["BE-Bra"].latitude == 51.3


def test_one_zip_of_several_sites_gives_them_all(tmp_path):
    names = [f"FLX_XX-{site}_FLUXNET2015_FULLSET_HH_2005-2005_1-4.csv" for site in ("One", "Two")]
    path = write(tmp_path, "everything.zip", member={name: TABLE for name in names})
    assert discover(tmp_path).sites == ("XX-One", "XX-Two")
    with pytest.raises(SourceError, match=r"XX-One, XX-Two.*member="):
        choose_member(path)


@pytest.mark.parametrize(
    ("name", "member", "why"),
    [
        ("FLX_XX-One_FLUXNET2015_FULLSET_DD_2005-2006_1-4.csv", None, "resolution DD"),
        ("FLX_XX-One_FLUXNET2015_ERAI_HH_1989-2014_1-4.csv", None, "ERAI contains no tower"),
        ("FLX_XX-One_FLUXNET-CH4_DD_2005-2006_1-1.csv", None, "resolution DD"),
        ("FLX_XX-One_JapanFLUX2024_ERA5_HH_1990-2024_1-3.csv", None, "ERA5 contains no tower"),
        ("FLX_XX-One_FLUXNET2015_FULLSET_2005-2006_1-4", None, "add the extension"),
        ("EUF_XX-One_FLUXNET_2004-2024_v1.3_r1", None, "add the extension"),
        ("FLX_XX-One_FLUXNET2015_FULLSET_2005-2006_1-4.zip.part", None, "add the extension"),
        ("towers.tar.gz", None, "unpack it"),
        ("notes.csv", None, "no network"),
        ("bulk.zip", "FLX_XX-One_FLUXNET2015_FULLSET_2005-2006_1-4.zip", "unpack the outer one"),
        (f"{STEM}_2005-2006_1-4.zip", f"{STEM}_DD_2005-2006_1-4.csv", "expected a half-hourly or hourly table"),
    ],
)
def test_what_is_left_aside_is_named_with_a_reason(tmp_path, name, member, why):
    write(tmp_path, name, member=member)
    found = discover(tmp_path)
    assert found.archives == () and found.badm == ()
    ((path, reason),) = found.ignored
    assert path.endswith(name) and why in reason


def test_excel_metadata_is_found_in_a_zip_and_beside_one(tmp_path):
    stem = "AMF_US-Ha1_FLUXNET_FULLSET"
    members = {f"{stem}_HR_1991-2020_3-5.csv": TABLE, "AMF_US-Ha1_BIF_20201218.xlsx": "x"}
    write(tmp_path, f"{stem}_1991-2020_3-5.zip", member=members)
    write(tmp_path, "FLX_AA-Flx_BIF_HH_20200501.xlsx")
    write(tmp_path, "notes.xlsx")
    found = discover(tmp_path)
    assert len(found.archives) == 1 and found.ignored == ()
    assert {where.name for where in found.badm} == {"AMF_US-Ha1_BIF_20201218.xlsx", "FLX_AA-Flx_BIF_HH_20200501.xlsx"}


@pytest.mark.parametrize("folder", ["BADM", "BDAM"])
@pytest.mark.parametrize("zipped", [True, False])
def test_japanflux_as_its_archive_ships_it(tmp_path, folder, zipped):
    """Folders of any name hold DATA, with tables by resolution and BADM, whose folder is misspelt in some."""
    table = "A20240722-001/DATA/ALLVARS/FLX_JP-Ozm_JapanFLUX2024_ALLVARS_HH_2015-2017_1-3.csv"
    days = table.replace("_HH_", "_DD_")
    core = table.replace("ALLVARS", "COREVARS")
    sheet = f"A20240722-001/DATA/{folder}/JP-Ozm_General.xlsx"
    names = (table, days, core, sheet)
    if zipped:
        write(tmp_path, "A20240722-001.zip", member=dict.fromkeys(names, TABLE))
    else:
        for name in names:
            write(tmp_path, name)
    for resolution in ("hourly", "daily"):
        found = discover(tmp_path, resolution=resolution)
        (archive,) = found.archives
        assert (archive.network, archive.site, archive.product) == ("JapanFlux2024", "JP-Ozm", "ALLVARS")
        assert archive.location.name == "FLX_JP-Ozm_JapanFLUX2024_ALLVARS_HH_2015-2017_1-3.csv"
        assert [where.name for where in found.badm] == ["JP-Ozm_General.xlsx"]


def test_a_broken_zip_stays_so_that_its_site_is_reported(tmp_path):
    name = "FLX_XX-One_FLUXNET2015_FULLSET_2005-2006_1-4.zip"
    path = write(tmp_path, name, member=name.replace("SET_", "SET_HH_").replace(".zip", ".csv"))
    path.write_bytes(path.read_bytes()[:-30])
    (archive,) = discover(tmp_path).archives
    assert (archive.site, archive.member) == ("XX-One", None)
    with pytest.raises(SourceError, match=rf"{name}: cut or broken.*download it again"):
        read_oneflux(archive, utc_offset=0)


def test_a_broken_zip_gives_way_to_its_unpacked_copy(tmp_path):
    write(tmp_path, "FLX_XX-One_FLUXNET2015_FULLSET_2005-2006_1-4.zip").write_bytes(b"PK")
    write(tmp_path, "FLX_XX-One_FLUXNET2015_FULLSET_HH_2005-2006_1-4.csv")
    found = discover(tmp_path)
    assert [archive.path.suffix for archive in found.archives] == [".csv"]
    assert found.ignored[0][0].endswith(".zip")


def test_an_unsafe_zip_stays_so_that_its_site_is_reported(tmp_path):
    path = write(tmp_path, "FLX_XX-One_FLUXNET2015_FULLSET_2005-2006_1-4.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../outside.csv", "1")
    (found,) = discover(tmp_path).archives
    with pytest.raises(SourceError, match=r"'\.\./outside\.csv' has '\.\.' in its name"):
        read_oneflux(found, utc_offset=0)


def test_base_is_listed_for_the_reader_to_refuse_unless_the_site_has_better(tmp_path):
    write(tmp_path, "AMF_US-CRT_BASE-BADM_2-5.zip", member="AMF_US-CRT_BASE_HH_2-5.csv")
    (archive,) = discover(tmp_path).archives
    with pytest.raises(SourceError, match=r"AmeriFlux BASE.*FLUXNET product"):
        read_oneflux(archive, utc_offset=-5)
    write(tmp_path, "AMF_US-CRT_FLUXNET_FULLSET_HH_2011-2013_3-5.csv")
    found = discover(tmp_path)
    assert [archive.network for archive in found.archives] == ["AmeriFlux FLUXNET"]
    assert "BASE" in found.ignored[0][1]


# ---- days


FULL = "FLX_XX-One_FLUXNET2015_FULLSET_{}_2005-2006_1-4.csv"


def test_days_are_asked_for_and_hours_stand_in_where_there_are_none(tmp_path):
    write(tmp_path, FULL.format("HH"))
    (hours,) = discover(tmp_path, resolution="daily").archives
    assert hours.resolution == "HH"
    write(tmp_path, FULL.format("DD"))
    found = discover(tmp_path, resolution="daily")
    assert [archive.resolution for archive in found.archives] == ["DD"]
    assert "resolution HH: DD of the same site" in found.ignored[0][1]
    assert [archive.resolution for archive in discover(tmp_path).archives] == ["HH"]


def test_hours_of_other_years_networks_and_newer_versions_are_kept_beside_days(tmp_path):
    write(tmp_path, FULL.format("DD"))
    other = FULL.format("HH").replace("2005-2006", "2005-2009")
    newer = FULL.format("HH").replace("XX-One", "XX-Two").replace("1-4", "2-4")
    older = FULL.format("DD").replace("XX-One", "XX-Two")
    shuttle = "EUF_XX-One_FLUXNET_FLUXMET_HH_2005-2006_v1.3_r1.csv"
    for name in (other, newer, older, shuttle):
        write(tmp_path, name)
    found = {archive.path.name for archive in discover(tmp_path, resolution="daily").archives}
    assert found == {FULL.format("DD"), other, newer, shuttle}


def test_a_zip_gives_its_days_or_its_hours(tmp_path):
    members = {FULL.format(kind): TABLE for kind in ("HH", "DD", "WW")}
    path = write(tmp_path, FULL.format("HH").replace("_HH", "").replace("csv", "zip"), member=members)
    assert (
        discover(tmp_path, resolution="daily").archives[0].member
        == FULL.format("DD")
        == choose_member(path, resolution="daily")
    )
    assert discover(tmp_path).archives[0].member == FULL.format("HH") == choose_member(path)
    with pytest.raises(ConfigError, match="hourly, daily"):
        discover(tmp_path, resolution="weekly")


@pytest.mark.parametrize("stem", ["FLX_XX-One_JapanFLUX2024_ALLVARS_DD_2005-2006_1-3"])
def test_days_whose_flags_are_unclear_are_left_aside_with_the_reason(tmp_path, stem):
    write(tmp_path, f"{stem}.csv")
    write(tmp_path, f"{stem.replace('_DD', '')}.zip", member=f"{stem}.csv")
    found = discover(tmp_path, resolution="daily")
    assert found.archives == () and len(found.ignored) == 2
    assert all("flag" in why and "half-hourly" in why for _, why in found.ignored)


@pytest.mark.parametrize("zipped", [True, False])
def test_hours_and_other_networks_come_before_days_without_a_quality(tmp_path, zipped):
    stem = "FLX_XX-One_FLUXNET-CH4_{}_2005-2006_1-1.csv"
    days = "TIMESTAMP,TA_F\n20050101,1.5\n"
    write(tmp_path, stem.format("DD"), days)
    (archive,) = discover(tmp_path, resolution="daily").archives
    assert archive.resolution == "DD" and discover(tmp_path).archives == ()
    write(tmp_path, FULL.format("HH"))
    found = discover(tmp_path, resolution="daily")
    assert [archive.network for archive in found.archives] == ["FLUXNET2015", "FLUXNET-CH4"]
    (tmp_path / stem.format("DD")).unlink()
    if zipped:
        write(tmp_path, "x.zip", member={stem.format("DD"): days, stem.format("HH"): TABLE})
    else:
        write(tmp_path, stem.format("DD"), days)
        write(
            tmp_path, stem.format("HH"), HEAD + "".join(f"20050101{h:02}00,20050101{h:02}30,1,0\n" for h in range(24))
        )
    found = discover(tmp_path, resolution="daily")
    assert (found.archives[0].network, found.archives[0].resolution) == ("FLUXNET-CH4", "HH")


def test_the_work_of_finding_zips_grows_with_their_number(tmp_path):
    data = write(tmp_path, "one.zip", member="x.csv").read_bytes()
    folder, calls = tmp_path / "many", []
    folder.mkdir()
    for first in (0, 150):
        for number in range(first, first + 150):
            (folder / f"FLX_XX-{number:03x}_FLUXNET2015_FULLSET_2005-2006_1-4.zip").write_bytes(data)
            (folder / f"AMF_XX-{number:03x}_FLUXNET_FULLSET_HH_2005-2006_3-5.csv").write_text("")
        found, count = count_calls(lambda: discover(folder))
        assert len(found.archives) == len(found.ignored) == first + 150
        calls.append(count)
    assert calls[1] < 2.2 * calls[0], "twice the files take twice the work, not four times"
    assert calls[1] < 600 * 1500, "a file takes some hundred calls"


# ---- the published CarbonSense


def test_folders_of_windows_are_one_archive_a_site(tmp_path):
    for folder in ("US-MMS/2001_2003", "US-MMS/2005_2006", "AU-Ade/2007_2009"):
        for name in ("meta.json", "predictors.csv", "targets.csv", "modis.pkl"):
            write(tmp_path, f"carbonsense/{folder}/{name}")
    found = discover(tmp_path)
    assert [(a.site, a.network, a.path.name, a.member) for a in found.archives] == [
        ("AU-Ade", "CarbonSense v1", "AU-Ade", None),
        ("US-MMS", "CarbonSense v1", "US-MMS", None),
    ]
    assert found.ignored == () and found.badm == ()


@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("carbonsense.tar", "carbonsense_v1"),
        ("CarbonSense.tar.gz", "carbonsense_v1"),
        ("carbonsense_v2.sql", "carbonsense_v2"),
        ("my_carbonsense.sqlite", "carbonsense_v2"),
    ],
)
def test_files_of_many_sites_are_listed_by_their_own_reader(tmp_path, monkeypatch, name, reader):
    path = write(tmp_path, name)
    write(tmp_path, "FLX_US-MMS_FLUXNET2015_FULLSET_HH_2005-2006_1-4.csv")
    write(tmp_path, "carbonsense_raw.tar.gz")
    monkeypatch.setattr(
        f"fluxcube.sources.towers.{reader}.list_sites", lambda found: ["AU-Ade", "US-MMS"] if found == path else []
    )
    found = discover(tmp_path)
    of_reader = [a for a in found.archives if networks()[a.network].reader == reader]
    assert [(a.site, a.path, a.member) for a in of_reader] == [("AU-Ade", path, "AU-Ade"), ("US-MMS", path, "US-MMS")]
    # Its values are those of the networks, which come first.
    assert next(a.network for a in found.archives if a.site == "US-MMS") == "FLUXNET2015"
    assert [where for where, _ in found.ignored] == [str(tmp_path / "carbonsense_raw.tar.gz")]


def test_a_file_of_many_sites_that_is_none_is_left_aside_with_the_reason(tmp_path, monkeypatch):
    def refuse(path):
        raise SourceError(f"{path}: no table ec_data")

    write(tmp_path, "carbonsense_v2.sql")
    monkeypatch.setattr("fluxcube.sources.towers.carbonsense_v2.list_sites", refuse)
    ((_, why),) = discover(tmp_path).ignored
    assert "no table ec_data" in why


def test_hidden_files_and_other_kinds_are_no_candidates(tmp_path):
    write(tmp_path, "._FLX_XX-One_FLUXNET2015_FULLSET_HH_2005-2006_1-4.csv")
    write(tmp_path, "__MACOSX/FLX_XX-One_FLUXNET2015_FULLSET_HH_2005-2006_1-4.csv")
    write(tmp_path, "era5.nc")
    assert discover(tmp_path) == discover([])


def test_linked_folders_are_named_not_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert "link to a folder" in discover(tmp_path).ignored[0][1]


def test_a_folder_given_twice_counts_once(tmp_path):
    write(tmp_path, "sub/FLX_XX-One_FLUXNET2015_FULLSET_HH_2005-2006_1-4.csv")
    assert discover([tmp_path, tmp_path / "sub", tmp_path]) == discover(tmp_path)
    assert discover(str(tmp_path)) == discover(tmp_path)


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="nowhere"):
        discover(tmp_path / "nowhere")


def test_all_real_towers_are_found_and_nothing_is_silent(shared_data):
    folders = [shared_data / name for name in ("towers", "daily", "formats")]
    found = discover(folders)
    towers = [archive for archive in found.archives if archive.path.parent.name == "towers"]
    assert len(towers) == len({archive.site for archive in towers}) == 109
    assert {(a.network, a.product, a.version) for a in towers} == {("FLUXNET2015", "SUBSET", "1-4")}
    assert sum(archive.resolution == "HR" for archive in towers) == 7
    named = {str(archive.path) for archive in found.archives} | {str(where.path) for where in found.badm}
    named |= {path.split("!")[0] for path, _ in found.ignored}
    candidates = [
        p for f in folders for p in f.rglob("*") if p.suffix in (".zip", ".csv") or p.name.endswith(".csv.gz")
    ]
    assert {str(path) for path in candidates} == named
    assert all(why for _, why in found.ignored)
    assert sum("daily/FLX_" in path for path, _ in found.ignored) == 19
    assert {where.name for where in found.badm} == {"FLX_AA-Flx_BIF_HH_20261121.csv", "sites.csv"}


@pytest.mark.parametrize("ending", [".xlsx", ".XLS", ".ods", ".csv.xlsx"])
def test_a_table_as_spreadsheet_is_listed_with_the_advice_to_save_it_as_csv(tmp_path, ending):
    write(tmp_path, f"FLX_XX-One_FLUXNET2015_SUBSET_HH_2015-2015_1-4{ending}")
    found = discover(tmp_path)
    ((path, why),) = found.ignored
    assert not found.archives and path.endswith(ending) and why.startswith("a spreadsheet: save it as CSV")


def test_spreadsheets_in_a_zip_and_with_the_name_of_a_text_file(tmp_path):
    stem = "FLX_XX-One_FLUXNET2015_SUBSET_HH_2015-2015_1-4"
    write(tmp_path, "FLX_XX-One_FLUXNET2015_SUBSET_2015-2015_1-4.zip", member={f"{stem}.xlsx": "PK"})
    ((_, why),) = discover(tmp_path).ignored
    assert "found spreadsheets" in why and why.endswith("save them as CSV")
    path = tmp_path / f"{stem}.csv"
    path.write_bytes(b"PK\x03\x04\x14\0\x06\0\n")
    with pytest.raises(SourceError, match=r"a spreadsheet or zip with the name of a text file; save the table as CSV"):
        read_oneflux(path, utc_offset=1)


@pytest.mark.parametrize(
    ("ending", "advice"), [(".csv.bz2", "unpack it"), (".7z", "unpack it"), (".nc", "save it as CSV")]
)
def test_a_table_in_another_form_is_listed_with_the_right_advice(tmp_path, ending, advice):
    write(tmp_path, f"FLX_XX-One_FLUXNET2015_SUBSET_HH_2015-2015_1-4{ending}")
    ((path, why),) = discover(tmp_path).ignored
    assert path.endswith(ending) and advice in why
