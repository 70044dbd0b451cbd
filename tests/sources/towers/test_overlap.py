"""Of several files of a site and network, every time step that only one has is read, and the rest has a true reason."""

from __future__ import annotations

import gzip
import itertools
import zipfile

import numpy as np
import pytest
from test_archives import with_method

from fluxcube.errors import SourceError
from fluxcube.sources.towers import overlap, timesteps
from fluxcube.sources.towers.archives import Location
from fluxcube.sources.towers.discovery import discover
from fluxcube.sources.towers.inspection import inspect_raw
from fluxcube.sources.towers.selection import choose_member

ICOS = "ICOSETC_XX-Tst_FLUXNET_HH_L2.csv"
ARCHIVE = "ICOSETC_XX-Tst_ARCHIVE_L2.zip"
FLX = "FLX_XX-Tst_FLUXNET2015_{}_{}_2015-2015_{}.csv"
JUNE, MID_JUNE, JULY = "2015-06-01", "2015-06-11", "2015-07-01"


def stamps(start, days, step):
    edges = np.datetime64(start, "m") + np.arange(days * 1440 // step + 1) * np.timedelta64(step, "m")
    text = [str(edge).translate(str.maketrans("", "", "-T:")) for edge in edges]
    return list(itertools.pairwise(text))


def table(start, days, *, step=30, value=1.0, skip=()):
    """Return a table of some days, without the rows of some days."""
    if step == 1440:
        rows = [a[:8] for a, _ in stamps(start, days, step)]
        return "TIMESTAMP,TA_F,TA_F_QC\n" + "".join(f"{a},{value},1\n" for a in rows)
    rows = [(a, b) for a, b in stamps(start, days, step) if a[:8] not in skip]
    return "TIMESTAMP_START,TIMESTAMP_END,TA_F,TA_F_QC\n" + "".join(f"{a},{b},{value},0\n" for a, b in rows)


def write(path, text, member=None, date=(2022, 1, 1, 0, 0, 0)):
    """Write a table as it is, as gzip, or into a zip, to which more tables can be added."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(zipfile.ZipInfo(member, date), text, zipfile.ZIP_DEFLATED)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def found(folder, **options):
    """Return the archives that are read, newest first, and the reasons for the others, by paths inside the folder."""
    discovery = discover(folder, **options)
    ranks = [archive.rank for archive in discovery.archives]
    assert ranks == sorted(ranks) and len(set(ranks)) == len(ranks)
    start = f"{folder}/"
    read = [str(archive.location).replace(start, "") for archive in discovery.archives]
    return read, {path.replace(start, ""): why.replace(start, "") for path, why in discovery.ignored}


@pytest.mark.parametrize("folders", [("a_2024", "b_2022"), ("z_2024", "b_2022"), ("new", "old"), ("old", "new")])
@pytest.mark.parametrize("zipped", [True, False])
def test_of_two_releases_of_one_name_the_fuller_is_read(tmp_path, folders, zipped):
    newer, older = (f"{folder}/{ARCHIVE if zipped else ICOS}" for folder in folders)
    write(tmp_path / newer, table(JUNE, 40, value=1.5), ICOS)
    write(tmp_path / older, table(JUNE, 20), ICOS)
    ending = f"!{ICOS}" if zipped else ""
    read, ignored = found(tmp_path)
    assert read == [newer + ending] and list(ignored) == [older + ending]
    why = ignored[older + ending]
    assert why.startswith(f"{newer} has all of its time steps") and "the same data" not in why
    assert "ends at 2015-06-21T00:00, the other one at 2015-07-11T00:00" in why


def test_a_release_whose_older_one_begins_earlier_is_read_first_and_both_are_read(tmp_path):
    write(tmp_path / "a" / ICOS, table(JUNE, 20))
    write(tmp_path / "b" / ICOS, table(MID_JUNE, 30))
    assert found(tmp_path) == ([f"b/{ICOS}", f"a/{ICOS}"], {})


def test_three_releases_leave_those_with_a_step_of_their_own(tmp_path):
    write(tmp_path / "a" / ICOS, table(JUNE, 20))
    write(tmp_path / "b" / ICOS, table(JUNE, 10))
    write(tmp_path / "c" / ICOS, table(MID_JUNE, 30))
    read, ignored = found(tmp_path)
    assert read == [f"c/{ICOS}", f"a/{ICOS}"] and list(ignored) == [f"b/{ICOS}"]


@pytest.mark.parametrize("interim", [ICOS.replace("_L2", "_INTERIM_L2"), ARCHIVE.replace("_L2", "_INTERIM_L2")])
def test_interim_months_join_the_final_ones_which_come_first(tmp_path, interim):
    write(tmp_path / ICOS, table(JUNE, 20))
    write(tmp_path / interim, table(MID_JUNE, 30), ICOS.replace("_L2", "_INTERIM_L2"))
    read, ignored = found(tmp_path)
    assert [name.partition("!")[0] for name in read] == [ICOS, interim] and not ignored
    write(tmp_path / ICOS, table(JUNE, 60))
    read, ignored = found(tmp_path)
    assert read == [ICOS] and "INTERIM table, the other one the final table" in next(iter(ignored.values()))


def test_every_table_of_a_zip_is_read(tmp_path):
    names = [f"FLX_XX-Tst_FLUXNET2015_SUBSET_HH_{year}-{year}_1-4.csv" for year in (2013, 2014, 2015)]
    for name, year in zip(names, (2013, 2014, 2015), strict=True):
        write(tmp_path / "towers.zip", table(f"{year}-06-01", 2), name)
    read, ignored = found(tmp_path)
    assert sorted(read) == [f"towers.zip!{name}" for name in names] and not ignored
    with pytest.raises(SourceError, match=r"expected one table of XX-Tst.*member="):
        choose_member(tmp_path / "towers.zip")


def test_tables_of_one_name_in_two_folders_of_a_zip_are_compared(tmp_path):
    name = FLX.format("SUBSET", "HH", "1-4")
    write(tmp_path / "towers.zip", table(JUNE, 10), f"a/{name}")
    write(tmp_path / "towers.zip", table(JULY, 10), f"b/{name}")
    write(tmp_path / "towers.zip", table(JULY, 10), f"c/{name}")
    read, ignored = found(tmp_path)
    assert len(read) == 2 and f"towers.zip!a/{name}" in read
    assert [why for why in ignored.values()] == [f"the same data as b/{name}, which is read instead"]


@pytest.mark.parametrize("second", ["HR", "HH"])
def test_names_of_equal_years_hide_no_months(tmp_path, second):
    """A table of hours or an older version whose months the preferred table lacks is read, too."""
    names = [FLX.format("SUBSET", "HH", "1-4"), FLX.format("SUBSET", second, "1-4" if second == "HR" else "1-3")]
    write(tmp_path / names[0], table(JULY, 10))
    write(tmp_path / names[1], table(JUNE, 10, step=60 if second == "HR" else 30))
    assert found(tmp_path) == (names, {})
    write(tmp_path / names[1], table(JULY, 5, step=60 if second == "HR" else 30))
    read, ignored = found(tmp_path)
    assert read == names[:1] and "of the same site and years is read instead" in ignored[names[1]]


def test_a_gap_of_the_newer_table_is_filled_from_the_older(tmp_path):
    write(tmp_path / "a" / ICOS, table(JUNE, 20))
    write(tmp_path / "b" / ICOS, table(JUNE, 30, skip=("20150605",)))
    assert found(tmp_path)[0] == [f"b/{ICOS}", f"a/{ICOS}"]
    write(tmp_path / "a" / ICOS, table(JUNE, 20, skip=("20150605",)))
    assert found(tmp_path)[0] == [f"b/{ICOS}"]


@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
def test_the_same_data_are_equal_bytes_in_whatever_packing(tmp_path, ending):
    text, name = table(JUNE, 10), FLX.format("SUBSET", "HH", "1-4")
    write(tmp_path / "z.zip", text, name)
    other = name.replace(".csv", ending)
    write(tmp_path / other, text)
    read, ignored = found(tmp_path)
    assert read == [f"z.zip!{name}"] and ignored == {other: "the same data as z.zip, which is read instead"}
    write(tmp_path / other, text.replace("\n", "\r\n"))
    read, ignored = found(tmp_path)
    assert len(read) == 1 and "has all of its time steps" in "".join(ignored.values())
    assert "the same data" not in "".join(ignored.values())


def test_of_equal_time_steps_the_later_packed_or_released_is_read(tmp_path):
    dates = {"a": (2024, 5, 1, 0, 0, 0), "b": (2022, 5, 1, 0, 0, 0)}
    for folder, date in dates.items():
        write(tmp_path / folder / ARCHIVE, table(JUNE, 10, value=date[0]), ICOS, date)
    read, ignored = found(tmp_path)
    assert read == [f"a/{ARCHIVE}!{ICOS}"]
    assert "packed on 2022-05-01, the other one on 2024-05-01" in ignored[f"b/{ARCHIVE}!{ICOS}"]


def test_of_equal_time_steps_without_dates_the_folder_of_the_newer_release_is_read(tmp_path):
    for folder in ("icos_2022-1", "icos_2024-1"):
        write(tmp_path / folder / ICOS, table(JUNE, 10, value=int(folder[5:9])))
    read, ignored = found(tmp_path)
    assert read == [f"icos_2024-1/{ICOS}"] and "newer release" in ignored[f"icos_2022-1/{ICOS}"]
    inner = "FLX_XX-Zip_FLUXNET2015_SUBSET_HH_2015-2015_1-4.csv"
    for release in ("2022-1", "2024-1"):
        write(tmp_path / "both.zip", table(JULY, 10, value=int(release[:4])), f"{release}/{inner}")
    assert [name for name in found(tmp_path)[0] if "both" in name] == [f"both.zip!2024-1/{inner}"]
    (tmp_path / "both.zip").unlink()
    (tmp_path / "icos_2022-1").rename(tmp_path / "x")
    (tmp_path / "icos_2024-1").rename(tmp_path / "y")
    read, ignored = found(tmp_path)
    assert len(read) == 1 and "neither names nor dates state which table is newer" in "".join(ignored.values())


def test_daily_tables_of_two_releases_and_hours_beside_them(tmp_path):
    days, hours = ICOS.replace("_HH_", "_DD_"), ICOS
    write(tmp_path / "a" / days, table(JUNE, 20, step=1440))
    write(tmp_path / "b" / days, table(JUNE, 40, step=1440))
    write(tmp_path / "b" / hours, table(JUNE, 40))
    read, ignored = found(tmp_path, resolution="daily")
    assert read == [f"b/{days}"] and set(ignored) == {f"a/{days}", f"b/{hours}"}
    write(tmp_path / "b" / hours, table(JUNE, 50))
    assert found(tmp_path, resolution="daily")[0] == [f"b/{days}", f"b/{hours}"]


def test_what_a_publisher_packs_into_one_zip_needs_no_reasons(tmp_path):
    path = tmp_path / FLX.format("FULLSET", "HH", "1-4").replace("_HH", "").replace(".csv", ".zip")
    for product, kind in itertools.product(("FULLSET", "SUBSET"), ("HH", "DD")):
        member = FLX.format(product, kind, "1-4")
        write(path, table(JUNE, 2, step=30 if kind == "HH" else 1440), member)
    for resolution, kind in (("hourly", "HH"), ("daily", "DD")):
        read, ignored = found(tmp_path, resolution=resolution)
        assert read == [f"{path.name}!{FLX.format('FULLSET', kind, '1-4')}"] and not ignored
        assert choose_member(path, resolution=resolution) == FLX.format("FULLSET", kind, "1-4")


def test_large_tables_of_other_versions_are_told_apart_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(overlap, "MAX_COMPARED", 100)
    monkeypatch.setattr(overlap, "read_slots", None)
    for version in ("1-3", "1-4"):
        write(tmp_path / FLX.format("SUBSET", "HH", version), table(JUNE, 2, value=version[-1]))
    read, ignored = found(tmp_path)
    assert read == [FLX.format("SUBSET", "HH", "1-4")] and "version 1-3: 1-4 of" in "".join(ignored.values())


def test_one_file_of_a_site_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(overlap, "open_stream", None)
    monkeypatch.setattr(overlap, "size_of", None)
    write(tmp_path / ICOS, table(JUNE, 2))
    write(tmp_path / "FLX_XX-Tst_FLUXNET2015_SUBSET_HH_2014-2014_1-4.csv", table("2014-06-01", 2))
    assert len(found(tmp_path)[0]) == 2


@pytest.mark.parametrize("block", [40, 1 << 20])
@pytest.mark.parametrize("change", [None, "crlf", "blank", "unfinished", "second", "bom"])
def test_time_stamps_are_read_wherever_blocks_end(tmp_path, monkeypatch, block, change):
    monkeypatch.setattr(timesteps, "_BLOCK", block)
    text = table(JUNE, 2)
    rows = text.splitlines()
    changed = {
        "crlf": text.replace("\n", "\r\n"),
        "blank": text + "\n\r\n\n",
        "unfinished": text.rstrip("\n"),
        "second": "\n".join(f"x,{row}" for row in rows) + "\n",
        "bom": "\ufeff" + text,
    }
    path = write(tmp_path / "t.csv", changed.get(change, text))
    slots = timesteps.read_slots(Location(path))
    assert len(slots) == 96 and (np.diff(slots) == 1).all()
    assert timesteps.time_of(slots[0]) == np.datetime64(JUNE)


@pytest.mark.parametrize("text", ["", "nothing\n", "TIMESTAMP_START,TA_F\n", "TIMESTAMP_START,TA_F\nx,1\n", "\xe9,\n"])
def test_a_table_whose_stamps_cannot_be_read_stays_so_that_the_reason_is_reported(tmp_path, text):
    write(tmp_path / "a" / ICOS, table(JUNE, 20))
    write(tmp_path / "b" / ICOS, text)
    assert sorted(found(tmp_path)[0]) == [f"a/{ICOS}", f"b/{ICOS}"]


def test_nothing_in_a_zip_is_lost_beside_its_metadata(tmp_path):
    """A zip whose metadata are read may still have towers that are not."""
    bif, name = "FLX_AA-Flx_BIF_HH_20200501.csv", FLX.format("SUBSET", "{}", "1-4")
    write(tmp_path / "bulk.zip", "SITE_ID\n", bif)
    write(tmp_path / "bulk.zip", "PK", "FLX_XX-One_FLUXNET2015_SUBSET_2015-2015_1-4.zip")
    write(tmp_path / "some.zip", "SITE_ID\n", bif)
    write(tmp_path / "some.zip", table(JUNE, 1), name.format("HH"))
    write(tmp_path / "some.zip", "PK", "FLX_XX-Two_FLUXNET2015_SUBSET_2015-2015_1-4.zip")
    write(tmp_path / "days.zip", "SITE_ID\n", bif)
    write(tmp_path / "days.zip", table(JUNE, 1, step=1440), name.format("DD").replace("XX-Tst", "XX-Day"))
    write(tmp_path / "metadata.zip", "SITE_ID\n", bif)
    read, ignored = found(tmp_path)
    assert read == [f"some.zip!{name.format('HH')}"] and set(ignored) == {"bulk.zip", "some.zip", "days.zip"}
    assert "unpack the outer one" in ignored["bulk.zip"] and "unpack the outer one" in ignored["some.zip"]
    assert "expected a half-hourly or hourly table" in ignored["days.zip"]


def test_a_publication_of_many_sites_is_read_from_one_of_its_copies(tmp_path):
    for folder in ("a", "b"):
        for name in ("meta.json", "predictors.csv", "targets.csv"):
            write(tmp_path / folder / "XX-Tst" / "2005_2006" / name, folder)
    read, ignored = found(tmp_path)
    assert read == ["a/XX-Tst"]
    assert ignored == {"b/XX-Tst": "CarbonSense v1 has one publication of a site, which is read from a/XX-Tst instead"}


def test_files_of_a_product_that_is_not_read_are_reported_once(tmp_path):
    for version in ("1-5", "2-5"):
        write(tmp_path / f"AMF_XX-Tst_BASE_HH_{version}.csv", table(JUNE, 1))
    read, ignored = found(tmp_path)
    assert read == ["AMF_XX-Tst_BASE_HH_2-5.csv"] and "AmeriFlux BASE, which is not read" in "".join(ignored.values())


def test_the_unpacked_table_is_read_instead_of_a_zip_that_python_does_not_read(tmp_path):
    name = FLX.format("SUBSET", "HH", "1-4")
    packed = with_method(write(tmp_path / name.replace("_HH", "").replace(".csv", ".zip"), table(JUNE, 2), name), 9)
    read, ignored = found(tmp_path)
    assert read == [f"{packed.name}!{name}"] and not ignored  # reading it reports what to do
    write(tmp_path / name, table(JUNE, 2))
    read, ignored = found(tmp_path)
    assert read == [name] and "(Deflate64): unpack it" in ignored[f"{packed.name}!{name}"]


def test_inspect_lists_what_discovery_reads(tmp_path):
    write(tmp_path / "a" / ICOS, table(JUNE, 20))
    write(tmp_path / "b" / ICOS, table(MID_JUNE, 30))
    write(tmp_path / "c" / ICOS, table(MID_JUNE, 20))
    (tmp_path / "sites.csv").write_text("site_id,latitude,longitude,utc_offset\nXX-Tst,50,10,1\n")
    listed = inspect_raw(tmp_path)
    read, ignored = found(tmp_path)
    assert [path.replace(f"{tmp_path}/", "") for path in listed[listed.used].path] == read
    assert [path.replace(f"{tmp_path}/", "") for path in listed[~listed.used].path] == list(ignored)


def test_tables_of_unknown_names_in_a_zip_are_listed(tmp_path):
    for member in (FLX.format("SUBSET", "HH", "1-4"), "mine_2014.csv", "readme.txt", "__MACOSX/._mine_2014.csv"):
        write(tmp_path / "towers.zip", table(JUNE, 2), member)
    discovery = discover(tmp_path)
    assert len(discovery.archives) == 1
    ((path, why),) = discovery.ignored
    assert path.endswith("towers.zip!mine_2014.csv") and why.startswith("its name matches no network")
