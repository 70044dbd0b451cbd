"""Archives are read without being unpacked, and refused where they could harm or are broken."""

from __future__ import annotations

import gzip
import stat
import zipfile
import zlib

import pytest

from fluxcube.errors import SourceError
from fluxcube.sources.towers import archives
from fluxcube.sources.towers.archives import Location, list_members, open_stream

BODY = b"TIMESTAMP_START,TIMESTAMP_END,TA_F\n" + b"200501010000,200501010030,1.5\n" * 5000


def make_zip(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def read(location):
    with open_stream(location) as stream:
        return stream.read()


def test_plain_gz_and_zip_hold_the_same_bytes(tmp_path):
    (tmp_path / "a.csv").write_bytes(BODY)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(BODY))
    make_zip(tmp_path / "a.zip", [("folder/a.csv", BODY)])
    found = {read(Location(tmp_path / name)) for name in ("a.csv", "a.csv.gz")}
    assert found | {read(Location(tmp_path / "a.zip", "folder/a.csv"))} == {BODY}


def test_a_watch_sees_every_byte_once(tmp_path):
    path = make_zip(tmp_path / "a.zip", [("a.csv", BODY * 20)])
    seen = []
    with open_stream(Location(path, "a.csv"), seen.append) as stream:
        assert stream.readline() == BODY.split(b"\n")[0] + b"\n"
        stream.read()
    assert b"".join(seen) == BODY * 20


def test_folders_are_no_members(tmp_path):
    path = make_zip(tmp_path / "a.zip", [("folder/", b""), ("folder/a.csv", BODY)])
    assert list_members(path) == ("folder/a.csv",)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../evil.csv", "'..'"),
        ("a/../../evil.csv", "'..'"),
        ("a\\..\\evil.csv", "'..'"),
        ("/etc/evil.csv", "absolute"),
        ("C:/evil.csv", "absolute"),
    ],
)
def test_names_that_leave_the_archive_are_refused(tmp_path, name, why):
    path = make_zip(tmp_path / "FLX.zip", [("good.csv", BODY)])
    with zipfile.ZipFile(path, "a") as archive:
        entry = zipfile.ZipInfo("x")
        entry.filename = name  # ZipInfo's own constructor would tidy the name
        archive.writestr(entry, b"1")
    with pytest.raises(SourceError) as raised:
        list_members(path)
    message = str(raised.value)
    assert str(path) in message and why in message and "publisher" in message and "evil.csv" in message


def test_dots_inside_a_name_are_fine(tmp_path):
    assert list_members(make_zip(tmp_path / "a.zip", [("a..b.csv", BODY)])) == ("a..b.csv",)


def test_links_are_refused(tmp_path):
    entry = zipfile.ZipInfo("link.csv")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(SourceError, match=r"a\.zip.*link\.csv.*symbolic link"):
        list_members(make_zip(tmp_path / "a.zip", [(entry, "/etc/passwd")]))


def test_an_entry_that_grows_beyond_any_table_is_refused(tmp_path):
    bomb = make_zip(tmp_path / "bomb.zip", [("a.csv", bytes(80 << 20))])
    assert bomb.stat().st_size < 1 << 20
    with pytest.raises(SourceError, match=r"bomb\.zip.*a\.csv.*grows"):
        list_members(bomb)


def test_a_gzip_that_grows_beyond_any_table_is_refused_while_it_is_read(tmp_path):
    path = tmp_path / "bomb.csv.gz"
    path.write_bytes(gzip.compress(bytes(80 << 20)))
    with pytest.raises(SourceError, match=r"bomb\.csv\.gz.*far more bytes"):
        read(Location(path))


def test_a_real_table_of_missing_values_is_no_bomb(tmp_path):
    """The most compressible file that is still a tower's: every value -9999."""
    stamps = [f"20050101{h:02d}{m:02d}" for h in range(24) for m in (0, 30)]
    row = ",-9999" * 265
    data = "\n".join(f"{a},{a}{row}" for a in stamps * 1000).encode()
    assert len(data) > 64 << 20
    assert list_members(make_zip(tmp_path / "a.zip", [("a.csv", data)])) == ("a.csv",)


def test_an_entry_that_is_there_twice_is_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = make_zip(tmp_path / "a.zip", [("a.csv", b"1"), ("a.csv", b"2")])
    with pytest.raises(SourceError, match="twice"):
        list_members(path)


def test_too_many_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_MAX_ENTRIES", 3)
    with pytest.raises(SourceError, match="4 entries"):
        list_members(make_zip(tmp_path / "a.zip", [(f"{i}.csv", b"") for i in range(4)]))


@pytest.mark.parametrize("suffix", [".zip", ".csv.gz"])
def test_cut_archives_at_every_length_are_refused_or_whole(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".zip":
        make_zip(path, [("a.csv", BODY)])
    else:
        path.write_bytes(gzip.compress(BODY))
    whole, location = path.read_bytes(), Location(path, "a.csv" if suffix == ".zip" else None)
    assert read(location) == BODY
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(SourceError, match=r"cut or broken.*download it again"):
            read(location)


def test_a_changed_byte_of_the_data_is_noticed(tmp_path):
    path = make_zip(tmp_path / "a.zip", [("a.csv", BODY)])
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"a\.zip!a\.csv: cut or broken"):
        read(Location(path, "a.csv"))


def test_missing_file_and_missing_entry(tmp_path):
    with pytest.raises(SourceError, match=r"nowhere\.csv.*check its path"):
        read(Location(tmp_path / "nowhere.csv"))
    path = make_zip(tmp_path / "a.zip", [("a.csv", BODY)])
    with pytest.raises(SourceError, match=r"no entry 'b\.csv'.*a\.csv"):
        read(Location(path, "b.csv"))


def with_method(path, method):
    """Change the method of every entry of a zip in its directory and in front of its data."""
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x01\x02", 10), (b"PK\x03\x04", 8)):
        at = data.find(signature)
        while at >= 0:
            data[at + offset : at + offset + 2] = method.to_bytes(2, "little")
            at = data.find(signature, at + 4)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("method", "name"), [(9, "Deflate64"), (95, "XZ"), (98, "PPMd"), (77, "method 77")])
def test_a_method_that_python_does_not_read_is_named_with_what_to_do(tmp_path, method, name):
    path = with_method(make_zip(tmp_path / "a.zip", [("a.csv", BODY)]), method)
    assert list_members(path) == ("a.csv",)
    with pytest.raises(SourceError, match=r"a\.zip!a\.csv: packed with a method .*: unpack it") as raised:
        read(Location(path, "a.csv"))
    assert f"({name})" in str(raised.value) and "download" not in str(raised.value)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_python_reads(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("a.csv", BODY)
    assert read(Location(tmp_path / "a.zip", "a.csv")) == BODY


def test_the_checksum_of_a_zip_and_of_a_gzip_are_those_of_the_bytes(tmp_path):
    make_zip(tmp_path / "a.zip", [("a.csv", BODY)])
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(BODY))
    (entry,) = archives.list_entries(tmp_path / "a.zip")
    assert entry.checksum == archives.checksum_of_gzip(tmp_path / "a.csv.gz") == zlib.crc32(BODY)
    assert entry.size == archives.size_of(Location(tmp_path / "a.csv.gz")) == len(BODY)
    (tmp_path / "a.csv.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(SourceError, match="cut or broken"):
        archives.checksum_of_gzip(tmp_path / "a.csv.gz")
