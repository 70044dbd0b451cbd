"""Bytes changed at random in every kind of file: a SourceError or a sound record, soon, in little memory."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import pickle
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fuzz_limits import cases, many, timed
from fuzz_tables import NAME, OFFSET, base_table, check_invariants
from hypothesis import given
from hypothesis import strategies as st

from fluxcube.errors import SourceError
from fluxcube.simulation.archives import write_archive, write_bif
from fluxcube.simulation.published import write_v1, write_v2
from fluxcube.simulation.records import Place, simulate_record
from fluxcube.sources.towers.archives import Location, list_members, open_stream
from fluxcube.sources.towers.arraypickle import read_array_pickle
from fluxcube.sources.towers.badm import read_badm
from fluxcube.sources.towers.discovery import discover
from fluxcube.sources.towers.inspection import inspect_raw
from fluxcube.sources.towers.readers import chips_of, place_of, read_archive

PLACE = Place(site="US-Zzz", latitude=40.0, longitude=-90.0, utc_offset=OFFSET)
ZIP = NAME.replace("_HH", "").replace(".csv", ".zip")


def _table() -> bytes:
    table = base_table()
    return "\n".join(",".join(row) for row in [table.header, *table.rows[:40]]).encode() + b"\n"


def _zipped(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(NAME, data)
    return out.getvalue()


TABLE = _table()
TOWERS = {NAME: TABLE, f"{NAME}.gz": gzip.compress(TABLE, mtime=0), ZIP: _zipped(TABLE)}


@st.composite
def damages(draw) -> Callable[[bytes], bytes]:
    """A few changes of some bytes: set, flipped, put in, taken away, repeated, zeroed, or all that follows cut off."""
    steps = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["set", "flip", "insert", "delete", "repeat", "zero", "cut"]),
                st.floats(0, 1),
                st.integers(1, 64),
                st.binary(min_size=1, max_size=8),
            ),
            min_size=1,
            max_size=4,
        )
    )

    def damage(data: bytes) -> bytes:
        for kind, where, length, new in steps:
            at = int(where * len(data))
            data = _CHANGES[kind](data, at, length, new)
        return data

    damage.__repr__ = lambda: str(steps)
    return damage


_CHANGES = {
    "set": lambda data, at, n, new: data[:at] + new + data[at + len(new) :],
    "flip": lambda data, at, n, new: data[:at] + bytes(b ^ 1 << n % 8 for b in data[at : at + 1]) + data[at + 1 :],
    "insert": lambda data, at, n, new: data[:at] + new + data[at:],
    "delete": lambda data, at, n, new: data[:at] + data[at + n :],
    "repeat": lambda data, at, n, new: data[: at + n] + data[at:],
    "zero": lambda data, at, n, new: data[:at] + bytes(len(data[at : at + n])) + data[at + n :],
    "cut": lambda data, at, n, new: data[:at],
}


def emptied(folder: Path) -> Path:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    return folder


def check_tower(folder: Path, name: str, data: bytes) -> None:
    """Read whatever is found; what is packed has checksums, so its values are the right ones or none."""
    (emptied(folder) / name).write_bytes(data)
    with timed(), contextlib.suppress(SourceError):
        for archive in discover(folder).archives:
            found = read_archive(archive, utc_offset=OFFSET)
            check_invariants(found)
            if name != NAME:
                assert found.equals(UNTOUCHED[name]), "packed bytes were changed, and so were the values"


def _untouched(tmp: Path) -> dict:
    found = {}
    for name, data in TOWERS.items():
        (emptied(tmp) / name).write_bytes(data)
        (archive,) = discover(tmp).archives
        found[name] = read_archive(archive, utc_offset=OFFSET)
        check_invariants(found[name])
        assert len(found[name].time) == 40
    return found


UNTOUCHED: dict = {}


@pytest.fixture(autouse=True, scope="module")
def _read_untouched(tmp_path_factory):
    UNTOUCHED.update(_untouched(tmp_path_factory.mktemp("untouched")))


@given(st.sampled_from(sorted(TOWERS)), damages())
@cases(150)
def test_damaged_towers(tmp_path, name, damage):
    check_tower(tmp_path, name, damage(TOWERS[name]))


@pytest.mark.slow
@given(st.sampled_from(sorted(TOWERS)), damages())
@many()
def test_ten_thousand_damaged_towers(tmp_path, name, damage):
    check_tower(tmp_path, name, damage(TOWERS[name]))


@given(st.sampled_from(sorted(TOWERS)), damages())
@cases(50)
def test_damaged_towers_are_listed(tmp_path, name, damage):
    """Looking into a folder tells of every file, broken or not."""
    (emptied(tmp_path) / name).write_bytes(damage(TOWERS[name]))
    with timed():
        listed = inspect_raw(tmp_path)
    assert list(listed.path.str.contains(name, regex=False)) == [True]
    assert (listed.why.str.len() > 0)[~listed.used].all()


# ---- site metadata


@pytest.fixture(scope="module")
def metadata(tmp_path_factory) -> dict[str, bytes]:
    """Every kind of file that tells of sites."""
    folder = tmp_path_factory.mktemp("badm")
    write_bif(folder, [PLACE])
    record = simulate_record(PLACE, "2012-01-01", days=1)
    for network in ("ICOS 2023 L2", "AmeriFlux FLUXNET", "JapanFlux2024"):
        write_archive(folder, network, record, place=PLACE, form="folder")
    found = {str(badm.path.relative_to(folder)): badm.path.read_bytes() for badm in discover(folder).badm}
    found["sites.csv"] = b"site_id,latitude,longitude,elevation,igbp,utc_offset\nUS-Zzz,40.0,-90.0,120,DBF,-6\n"
    assert {Path(name).suffix for name in found} == {".csv", ".xlsx"} and len(found) == 5
    return found


_LIMITS = {"latitude": (-90, 90), "longitude": (-180, 180), "elevation": (-500, 9000), "utc_offset": (-14, 14)}


def check_metadata(folder: Path, name: str, data: bytes) -> None:
    path = emptied(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    with timed(), contextlib.suppress(SourceError):
        for site, info in read_badm(discover(folder).badm).items():
            assert info.site == site
            for name, (low, high) in _LIMITS.items():
                value = getattr(info, name)
                assert value is None or low <= value <= high
            assert all(-14 <= hours <= 14 for _, hours in info.utc_offsets)


@given(st.integers(0, 4), damages())
@cases(80)
def test_damaged_metadata(tmp_path, metadata, which, damage):
    name = sorted(metadata)[which]
    check_metadata(tmp_path, name, damage(metadata[name]))


_CELLS = [
    "",
    "-9999",
    "NaN",
    "91",
    "-181",
    "1e400",
    "N 40",
    "40,5",
    "٤٠",
    "\x00",
    "é",
    "US-Zzz",
    "LOCATION_LAT",
    "UTC_OFFSET",
    "UTC_OFFSET_DATE_START",
    "2012",
    "20120231",
    "20121301",
    "99999999",
    "0000",
    "LOCATION_LONG",
    '"',
    "\n",
    "-6.75",
    "15",
]


@given(
    st.lists(st.lists(st.sampled_from(_CELLS), max_size=7), max_size=12),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp932"]),
    st.booleans(),
)
@cases(80)
def test_metadata_of_any_cells(tmp_path, rows, comma, encoding, headed):
    header = ["SITE_ID", "GROUP_ID", "VARIABLE_GROUP", "VARIABLE", "DATAVALUE"]
    rows = [header, *rows] if headed else rows
    text = "\n".join(comma.join(row) for row in rows)
    check_metadata(tmp_path, "FLX_AA-Flx_BIF_HH_20200501.csv", text.encode(encoding, "replace"))


def test_metadata_that_are_a_bomb_are_refused_before_they_are_taken_apart(tmp_path):
    rows = b"SITE_ID,GROUP_ID,VARIABLE_GROUP,VARIABLE,DATAVALUE\n" + b"US-Zzz,1,GRP_IGBP,IGBP,DBF\n" * (3 << 20)
    path = tmp_path / "raw.zip"
    path.write_bytes(_zipped_as("FLX_US-Zzz_BIF_HH_20200501.csv", rows))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(SourceError, match=r"FLX_US-Zzz_BIF.*"):
        read_badm(discover(path).badm or [Location(path, "FLX_US-Zzz_BIF_HH_20200501.csv")])


# ---- archives


_EVIL = [
    "../evil.csv",
    "/etc/evil.csv",
    "C:\\evil.csv",
    "a/../../x.csv",
    "..",
    "nested.zip",
    "\x00.csv",
    "a" * 300,
    "",
    "é.csv",
]
_METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2]
_MODES = [stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO, 0]
_LIES = [0, 1, 99, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]
_BODIES = [TABLE, b"", b"/etc/passwd", bytes(1 << 20), _zipped(TABLE)]


@st.composite
def hostile_zips(draw) -> bytes:
    """A zip with a tower's table, and with entries, sizes, checksums and flags that no honest program writes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", draw(st.sampled_from(_METHODS))) as archive, _without_warnings():
        for name in [NAME, *draw(st.lists(st.sampled_from([*_EVIL, NAME]), max_size=3))]:
            entry = zipfile.ZipInfo("x")
            entry.filename = name
            entry.compress_type = archive.compression
            entry.external_attr = (draw(st.sampled_from(_MODES)) | 0o644) << 16
            archive.writestr(entry, TABLE if name == NAME else draw(st.sampled_from(_BODIES)))
    data = bytearray(out.getvalue())
    for _ in range(draw(st.integers(0, 2))):  # lies in the central directory: flags, method, checksum, sizes, offset
        where, value = draw(st.sampled_from([8, 10, 16, 20, 24, 42])), draw(st.sampled_from(_LIES))
        at, size = data.rfind(b"PK\x01\x02") + where, 2 if where in (8, 10) else 4
        data[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
    return bytes(data)


@contextlib.contextmanager
def _without_warnings():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@given(hostile_zips())
@cases(80)
def test_hostile_zips(tmp_path, data):
    folder = tmp_path / "raw"
    folder.mkdir(exist_ok=True)
    before = set(tmp_path.rglob("*"))
    (emptied(folder) / ZIP).write_bytes(data)
    with timed(), contextlib.suppress(SourceError):
        for archive in discover(folder).archives:
            check_invariants(read_archive(archive, utc_offset=OFFSET))
    with timed(), contextlib.suppress(SourceError):
        for member in list_members(folder / ZIP):
            with contextlib.suppress(SourceError), open_stream(Location(folder / ZIP, member)) as stream:
                while stream.read(1 << 20):
                    pass
    assert set(tmp_path.rglob("*")) - before <= {folder / ZIP}, "something was unpacked"


@pytest.mark.parametrize("lie", [1 << 20, 0xFFFFFFF0])
def test_a_zip_that_lies_about_a_bomb_is_refused_while_it_is_read(tmp_path, lie):
    """40 MiB of zeros that call themselves 1 MiB: reading stops at what was promised."""
    data = bytearray(_zipped_as(NAME, bytes(40 << 20)))
    for at in (data.find(b"PK\x03\x04") + 22, data.rfind(b"PK\x01\x02") + 24):
        data[at : at + 4] = struct.pack("<I", lie)
    (tmp_path / ZIP).write_bytes(data)
    with pytest.raises(SourceError, match="FLX_US-Zzz"):
        for archive in discover(tmp_path).archives:
            read_archive(archive, utc_offset=OFFSET)


def _zipped_as(name: str, data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return out.getvalue()


def test_a_gzip_of_many_members_is_read_whole_or_refused(tmp_path):
    half = len(TABLE) // 2
    joined = gzip.compress(TABLE[:half]) + gzip.compress(TABLE[half:])
    check_tower(tmp_path, f"{NAME}.gz", joined)
    (archive,) = discover(tmp_path).archives
    assert read_archive(archive, utc_offset=OFFSET).equals(UNTOUCHED[f"{NAME}.gz"])


@pytest.mark.parametrize("tail", [b"\0" * 512, b"garbage", gzip.compress(b"201202282000,1\n", mtime=0)])
def test_what_follows_a_gzip_is_not_passed_over(tmp_path, tail):
    path = tmp_path / f"{NAME}.gz"
    path.write_bytes(TOWERS[f"{NAME}.gz"] + tail)
    (archive,) = discover(tmp_path).archives
    if tail.strip(b"\0"):
        with pytest.raises(SourceError, match=NAME):
            read_archive(archive, utc_offset=OFFSET)
    else:  # tapes pad with zeros
        assert read_archive(archive, utc_offset=OFFSET).equals(UNTOUCHED[path.name])


# ---- pickles and the published CarbonSense


PLAIN = {
    "chips": {pd.Timestamp(2012, 1, day, 12): np.arange(18, dtype=np.float32).reshape(2, 3, 3) for day in (1, 2, 3)},
    "more": [1, 2.5, None, "é", b"\0", (True, np.int16(3), np.float64(1.5)), np.arange(6).reshape(2, 3).T],
}
_SAFE = (dict, list, tuple, str, bytes, bytearray, int, float, complex, type(None), np.ndarray, np.generic)


def check_plain(data: bytes) -> None:
    with timed(), contextlib.suppress(SourceError):
        waiting, seen = [read_array_pickle(data, "a.pkl")], set()
        while waiting:
            item = waiting.pop()
            assert isinstance(item, _SAFE), type(item)
            if isinstance(item, np.ndarray):
                assert item.dtype.kind in "biufM" and item.nbytes < 1 << 24
            if isinstance(item, dict | list | tuple) and id(item) not in seen:
                seen.add(id(item))
                waiting += [*item, *(item.values() if isinstance(item, dict) else ())]


@given(st.integers(0, 5), damages())
@cases(150)
def test_damaged_pickles(protocol, damage):
    check_plain(damage(pickle.dumps(PLAIN, protocol)))


_LONG = b"\xff\xff\xff\xff\xff\xff\xff\x7f"
_OPCODES = [
    b"(",
    b".",
    b"0",
    b"1",
    b"2",
    b"N",
    b"K\x05",
    b"J\xff\xff\xff\x7f",
    b"]",
    b"}",
    b")",
    b"a",
    b"e",
    b"s",
    b"u",
    b"t",
    b"R",
    b"b",
    b"q\x00",
    b"h\x00",
    b"\x94",
    b"\x85",
    b"\x86",
    b"\x87",
    b"\x93",
    b"\x8c\x05numpy",
    b"\x8c\x07ndarray",
    b"\x8c\x08builtins",
    b"\x8c\x04eval",
    b"cnumpy\nndarray\n",
    b"cos\nsystem\n",
    b"cbuiltins\nexec\n",
    b"C\x04abcd",
    b"cnumpy.core.multiarray\n_reconstruct\n",
    b"cnumpy\ndtype\n",
    b"\x8c\x02f4",
    b"i__builtin__\neval\n",
    b"o",
    b"P1\n",
    b"Q",
    b"\x82\x01",
    b"\x8b\x04\x00\x00\x00\xff\xff\xff\x7f",
    b"G" + b"\x7f" * 8,
    b"\x81",
    b"\x92",
    b"\x8f",
    b"\x90",
    b"\x80\x05",
    b"\x95" + _LONG,
    b"\x8d" + _LONG,
    b"\x96" + _LONG,
    b"r\xff\xff\xff\x7f",
    b"F1e999\n",
    b"I99999999999999999999\n",
    b"L" + b"9" * 5000 + b"L\n",
    b"Vabc\\ud800\n",
    b"S'x'\n",
]


@given(st.lists(st.sampled_from(_OPCODES), max_size=40))
@cases(150)
def test_any_opcodes(opcodes):
    check_plain(b"".join(opcodes) + b".")


class _Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "function", [os.system, os.mkdir, eval, getattr, np.load, pd.read_pickle, bytearray, list, np.zeros]
)
def test_a_pickle_that_calls_something_is_refused_and_calls_nothing(tmp_path, protocol, function):
    target = tmp_path / "made"
    argument = str(target) if function is not eval else f"__import__('os').mkdir({str(target)!r})"
    data = pickle.dumps({"a": _Call(function, argument)}, protocol)
    with pytest.raises(SourceError, match=r"a\.pkl"):
        read_array_pickle(data, "a.pkl")
    assert not target.exists()


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> dict[str, bytes]:
    """Version 1 as tars, version 2 as SQLite, two days each."""
    folder = tmp_path_factory.mktemp("published")
    record = simulate_record(PLACE, "2012-01-01", days=2, step_minutes=60)
    chips = {pd.Timestamp(2012, 1, 1, 12): np.zeros((9, 8, 8), np.float32)}
    write_v1(folder / "carbonsense", record, PLACE, dump=pickle.dumps, chips=chips)
    found = {"carbonsense_v2.sql": write_v2(folder / "v2.sql", [(PLACE, record)]).read_bytes()}
    for ending, mode in (("tar", "w"), ("tar.gz", "w:gz")):
        with tarfile.open(folder / f"x.{ending}", mode) as tar:
            tar.add(folder / "carbonsense", "carbonsense")
        found[f"carbonsense.{ending}"] = (folder / f"x.{ending}").read_bytes()
    return found


@given(st.integers(0, 2), damages())
@cases(80)
def test_damaged_carbonsense(tmp_path, published, which, damage):
    name = sorted(published)[which]
    (emptied(tmp_path) / name).write_bytes(damage(published[name]))
    check_published(tmp_path)


@given(st.sampled_from(["meta.json", "predictors.csv", "targets.csv", "modis.pkl"]), damages())
@cases(80)
def test_damaged_carbonsense_folders(tmp_path, published, name, damage):
    with tarfile.open(fileobj=io.BytesIO(published["carbonsense.tar"])) as tar:
        tar.extractall(emptied(tmp_path), filter="data")
    (path,) = tmp_path.rglob(name)
    path.write_bytes(damage(path.read_bytes()))
    check_published(tmp_path)


def check_published(folder: Path) -> None:
    with timed(), contextlib.suppress(SourceError):
        for archive in discover(folder).archives:
            with contextlib.suppress(SourceError):
                check_invariants(read_archive(archive, utc_offset=OFFSET))
            with contextlib.suppress(SourceError):
                place_of(archive)
            with contextlib.suppress(SourceError):
                chips = chips_of(archive)
                assert chips is None or (chips[1].dtype == np.float32 and chips[1].shape[1:] == (9, 8, 8))


def test_checksums_are_what_the_packed_towers_are_held_to():
    """The claim that packed values are right or refused rests on them being there."""
    with zipfile.ZipFile(io.BytesIO(TOWERS[ZIP])) as archive:
        assert zlib.crc32(TABLE) == archive.infolist()[0].CRC
