"""Inputs that were made by hand to mean harm: each must end with an error that names the file, or have no effect.

`HOSTILE` contains a function for each, by a name that begins with its kind. It receives an empty folder, writes its
files and reads them. An input is right if it ends with an error of fluxcube, is left out with a reason, or if its
values are those of the harmless input; no message may contain a control character.
"""

import bz2
import functools
import gzip
import io
import os
import pickle
import sqlite3
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory

import netCDF4
import numpy as np
from faults_formats import (
    PLACE,
    formats,
    read_own,
    read_places,
    read_product,
    read_rasters,
    read_reflectance,
    read_towers,
    read_weather,
)
from hostile_hdf5 import Hdf5, write_netcdf

from fluxcube.errors import FluxcubeError
from fluxcube.sources.towers.archives import list_members
from fluxcube.sources.towers.discovery import discover
from fluxcube.sources.towers.sheets import read_sheet
from fluxcube.sources.towers.sitenames import check_site
from fluxcube.sources.towers.table import read_table
from fluxcube.sources.towers.tarball import list_tar

HOSTILE = {}
REFUSED, LEFT_OUT, HARMLESS = "error that names the file", "left out with a reason", "values equal"
#: Names that lead out of a folder, that a system does not know, or that steer a terminal.
NAMES = {
    "parent folder": "../../victim",
    "parent folder of Windows": "..\\..\\victim",
    "absolute": "/tmp/victim",
    "drive": "C:\\victim",
    "network share": "\\\\server\\share\\victim",
    "folder": "a/b",
    "two dots": "..",
    "dot": ".",
    "empty": "",
    "blank": " ",
    "device": "CON",
    "device with an ending": "NUL.txt",
    "dot at the end": "victim.",
    "blank at the end": "victim ",
    "stream of NTFS": "victim:stream",
    "300 letters": "x" * 300,
    "4,000 letters": "é" * 4000,
    "line end": "XX-Abc\n",
    "escape sequence": "\x1b[31mX\x1b]0;TITLE\x07",
    "zero byte": "XX\0Abc",
    "direction of writing": "XX\u202egpj.exe",
    "invisible": "XX\u200bAbc",
    "variable": "$HOME",
    "home": "~root",
    "shell": "$(touch victim)",
    "glob": "*",
    "formula": "=cmd|'/c calc'!A1",
    "script": "<script>alert(1)</script>",
    "mathematics": "$\\frac{$",
    "name in the store": "zarr.json",
    "hidden": ".lock",
    "option": "--overwrite",
    "SQL": "x'; DROP TABLE ec_data; --",
    "format": "{0.__class__}%s%n",
    "surrogate": "XX\udc80",
}


def hostile(kind, name=""):
    """Register a function under a kind and its own name, or the given one."""

    def register(function):
        HOSTILE[f"{kind}: {name or function.__name__.replace('_', ' ')}"] = function
        return function

    return register


def expect_refused(name, folder, log):
    """Return what happened with an input, and its message; `log` receives the warnings that are logged meanwhile."""
    try:
        result = HOSTILE[name](folder)
    except FluxcubeError as error:
        return (REFUSED if is_printable(str(error)) else "control characters in the message"), str(error)
    if result is True:
        return HARMLESS, ""
    notes = [*(result[1] if isinstance(result, tuple) else []), *log]
    if notes:
        return (LEFT_OUT if is_printable("".join(notes)) else "control characters in the message"), notes[-1]
    return "accepted without a word", str(result)[:200]


def is_printable(text):
    return all(character.isprintable() or character in "\n\t\N{NO-BREAK SPACE}\u3000" for character in text)


@functools.cache
def valid_files():
    with TemporaryDirectory() as root:
        return formats(Path(root) / "made")


def valid(name):
    return valid_files()[name]


def put(folder, name, data):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# Names

for about, text in NAMES.items():

    @hostile("name of a site", f"{about}, checked")
    def checked(folder, text=text):
        check_site(text)

    @hostile("name of a site", f"{about}, SQLite")
    def in_sqlite(folder, text=text):
        return read_towers(write_sqlite(folder, text).parent)[0], [why for _, why in discover(folder).bad_sites]

    @hostile("name of a site", f"{about}, own table")
    def in_own_table(folder, text=text):
        put(folder, "own.csv", valid("own table, CSV").files["own.csv"])
        units = {"TA": "degC", "NEE": "umol m-2 s-1"}
        columns = {name: name for name in units}
        place = {"latitude": 40, "longitude": -90, "utc_offset": -6}
        read_table(folder / "own.csv", site=text, columns=columns, units=units, stamp="end", **place)

    @hostile("name in a zip", about)
    def in_zip(folder, text=text):
        good = valid("tower archive, zip")
        data = zipfile.ZipFile(io.BytesIO(good.files[good.changed]))
        with zipfile.ZipFile(folder / good.changed, "w") as archive:
            for entry in data.infolist():
                archive.writestr(entry.filename, data.read(entry))
            archive.writestr(text.encode("utf-8", "replace").decode() or "/", b"victim")
        values, notes = read_towers(folder)
        return values == read_good(good, folder / "good") or (values, notes)

    @hostile("name in a tar", about)
    def in_tar(folder, text=text):
        with tarfile.open(folder / "a.tar", "w") as tar:
            entry = tarfile.TarInfo(text)
            tar.addfile(entry, io.BytesIO())
        return [list_tar(folder / "a.tar")] and True


def read_good(form, folder):
    for name, data in form.files.items():
        put(folder, name, data)
    return form.read(folder)[0]


def write_sqlite(folder, site, change=""):
    form = valid("CarbonSense V2, SQLite")
    path = put(folder, "carbonsense_v2.sql", form.files[form.changed])
    with sqlite3.connect(path) as base:
        with_text = site.encode("utf-8", "replace").decode()
        base.execute("UPDATE ec_data SET site = ?", (with_text,))
        base.execute("UPDATE site_data SET site = ?", (with_text,))
        base.executescript(f"BEGIN; {change}; COMMIT")
    base.close()
    return path


# SQLite

SQL = {
    "virtual column": "ALTER TABLE ec_data ADD COLUMN WTD2 REAL GENERATED ALWAYS AS (TA + 1) VIRTUAL",
    "huge virtual column": "ALTER TABLE ec_data ADD COLUMN X AS (hex(zeroblob(90000000))) VIRTUAL",
    "view instead of a table": "ALTER TABLE ec_data RENAME TO other; CREATE VIEW ec_data AS SELECT * FROM other",
    "endless view": "DROP TABLE site_data; CREATE VIEW site_data AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL "
    "SELECT x+1 FROM c) SELECT x AS site, 1 AS lat, 1 AS lon, 1 AS elev, 'GRA' AS igbp FROM c",
    "trigger": "CREATE TRIGGER t AFTER UPDATE ON ec_data BEGIN DELETE FROM ec_data; END",
    "10,000 tables": "".join(f"CREATE TABLE t{i} (a);" for i in range(10_000)),
    "2,000 columns": "".join(f"ALTER TABLE site_data ADD COLUMN c{i};" for i in range(1500)),
    "text as number": "UPDATE ec_data SET TA = 'x' WHERE id = 5",
    "blob as number": "UPDATE ec_data SET TA = zeroblob(1000000) WHERE id = 5",
    "huge number": "UPDATE ec_data SET TA = 9e999 WHERE id = 5",
    "huge time": "UPDATE ec_data SET timestamp = 9223372036854775807 WHERE id = 5",
    "negative time": "UPDATE ec_data SET timestamp = -1 WHERE id = 5",
    "text as time": "UPDATE ec_data SET timestamp = 'now' WHERE id = 5",
    "site that is no text": "UPDATE ec_data SET site = x'ff00ff'; UPDATE site_data SET site = x'ff00ff'",
    "place outside the globe": "UPDATE site_data SET lat = 1e300",
    "place as text": "UPDATE site_data SET lat = '../x'",
    "no rows": "DELETE FROM ec_data",
    "index on an expression": "CREATE INDEX i ON ec_data (hex(TA))",
    "table with a condition": "CREATE TABLE other (a CHECK (a > 0))",
    "full text table": "CREATE VIRTUAL TABLE modis_text USING fts5(a)",
    "virtual table": "DROP TABLE ec_data; CREATE VIRTUAL TABLE ec_data USING fts5(id, site, timestamp, TA)",
    "huge image": "INSERT INTO modis_data (row_id, data) SELECT id, zeroblob(50000000) FROM ec_data LIMIT 1",
    "image that is text": "INSERT INTO modis_data (row_id, data) VALUES (5, 'image')",
    "class with escape sequence": "UPDATE site_data SET igbp = char(27) || '[31m'",
}
HARMLESS_SQL = {
    "virtual column",
    "huge virtual column",
    "trigger",
    "10,000 tables",
    "2,000 columns",
    "index on an expression",
    "table with a condition",
    "full text table",
}
for about, statements in SQL.items():

    @hostile("SQLite", about)
    def changed_base(folder, statements=statements, about=about):
        values, notes = read_towers(write_sqlite(folder, PLACE.site, statements).parent)
        bad = [why for _, why in discover(folder).bad_sites]
        if "escape" in about:
            return "\x1b" not in values
        if about in HARMLESS_SQL:
            good = valid("CarbonSense V2, SQLite")
            return values == read_good(good, folder / "good") or (values, notes + bad)
        return values, notes + bad


for ending in ("-wal", "-journal"):

    @hostile("SQLite", f"changes beside it, {ending}")
    def beside(folder, ending=ending):
        path = write_sqlite(folder, PLACE.site)
        put(folder, path.name + ending, bytes(100))
        return read_towers(folder)


# HDF5 and NetCDF

REFERENCES = {
    "external link": lambda file: file.external_link("extra", "other.nc"),
    "external link to a device": lambda file: file.external_link("extra", "/dev/zero"),
    "external link in a group": lambda file: file.external_link("inner/extra", "other.nc"),
    "external link to itself": lambda file: file.external_link("extra", "a.nc", "/extra"),
    "soft link": lambda file: file.soft_link("extra", "/v0"),
    "soft link to nothing": lambda file: file.soft_link("extra", "/nowhere"),
    "soft link to itself": lambda file: file.soft_link("extra", "/extra"),
    "external storage": lambda file: file.external_storage("extra", "secret.bin"),
    "external storage outside": lambda file: file.external_storage("extra", "/etc/passwd"),
    "virtual dataset": lambda file: file.virtual_dataset("extra", "other.nc"),
    "virtual dataset of itself": lambda file: file.virtual_dataset("extra", "."),
    "group within itself": lambda file: file.hard_link("inner/again", "/inner"),
    "root within a group": lambda file: file.hard_link("inner/again", "/"),
}
READERS = {"ERA5": read_weather, "reflectance": read_reflectance, "product": read_product}
for about, add in REFERENCES.items():
    for where, read in READERS.items():

        @hostile("HDF5", f"{about}, {where}")
        def reference(folder, add=add, read=read):
            put(folder, "inputs/a.nc", write_netcdf(folder / "b.nc").read_bytes())
            with Hdf5(folder / "inputs" / "a.nc") as file:
                add(file)
            return read(folder / "inputs")


def with_netcdf(about, write, read=read_weather, **options):
    @hostile("NetCDF", about)
    def made(folder):
        (folder / "inputs").mkdir()
        with netCDF4.Dataset(folder / "inputs" / "a.nc", "w", **options) as file:
            write(file)
        return read(folder / "inputs")


def absurd_time(size, kind="f8", **attributes):
    def write(file):
        file.createDimension("valid_time", size)
        variable = file.createVariable("valid_time", kind, ("valid_time",), chunksizes=(min(size, 1000),))
        variable.setncatts({"units": "hours since 2018-01-01", **attributes})
        file.createVariable("t2m", "f4", ("valid_time",), chunksizes=(min(size, 1000),)).units = "K"

    return write


def attributes_of(**attributes):
    def write(file):
        for name, size in (("valid_time", 30), ("latitude", 2), ("longitude", 2)):
            file.createDimension(name, size)
            file.createVariable(name, "f8", (name,))[:] = np.arange(size)
        file["valid_time"].units = "hours since 2018-01-01"
        variable = file.createVariable("t2m", "f4", ("valid_time", "latitude", "longitude"))
        variable[:] = 280
        variable.setncatts({"units": "K", **attributes})

    return write


for size in (10**9, 10**12, 2**62):
    with_netcdf(f"time of {size} steps", absurd_time(size))
for units in ("", "hours since", "hours since 99999-01-01", "fortnights since 2018-01-01", "hours since \x1b[31m", "K"):
    with_netcdf(f"unit of time {units!r}", absurd_time(30, units=units))
with_netcdf("calendar without an end", absurd_time(30, calendar="x" * 100_000))
with_netcdf("text as time", absurd_time(30, str))
for about, attributes in {
    "scale as text": {"scale_factor": "1e-3"},
    "scale not a number": {"scale_factor": np.nan},
    "scale without an end": {"scale_factor": np.inf},
    "scale of two numbers": {"scale_factor": [1.0, 2.0]},
    "unit with escape sequence": {"units": "\x1b[31mK"},
    "unit of 1 MB": {"units": "K" * 1_000_000},
    "unit as a number": {"units": 3},
    "offset as text": {"add_offset": "\x1b[2J"},
}.items():
    with_netcdf(about, attributes_of(**attributes))
with_netcdf("1,000 groups within each other", lambda file: file.createGroup("/".join("g" * 200)))
with_netcdf("no variables", lambda file: None)


def classic(dimensions, count=1, numrecs=0, kind=5, magic=b"CDF\x01"):
    """Return a NetCDF classic file with given lengths of dimensions, and no values."""
    name = struct.pack(">i4s", 1, b"a\0\0\0")
    header = magic + struct.pack(">I", numrecs) + struct.pack(">II", 10, len(dimensions))
    header += b"".join(name[:4] + bytes([97 + i]) + b"\0\0\0" + struct.pack(">I", n) for i, n in enumerate(dimensions))
    header += struct.pack(">II", 0, 0) + struct.pack(">II", 11, count) + name + struct.pack(">I", len(dimensions))
    header += b"".join(struct.pack(">I", i) for i in range(len(dimensions)))
    return header + struct.pack(">II", 0, 0) + struct.pack(">III", kind, 0xFFFFFFFF, len(header) + 20)


for about, data in {
    "a dimension of 2^32 - 1": classic([0xFFFFFFFF]),
    "a dimension of 2^31 - 1": classic([0x7FFFFFFF]),
    "dimensions whose product is 2^64": classic([0x7FFFFFFF] * 3),
    "2^31 variables": classic([4], count=0x7FFFFFFF),
    "2^32 - 1 records": classic([0], numrecs=0xFFFFFFFF),
    "unknown type": classic([4], kind=99),
    "64-bit header that is cut": classic([4], magic=b"CDF\x05"),
    "magic alone": b"CDF\x01",
    "HDF5 signature alone": b"\x89HDF\r\n\x1a\n",
    "HDF5 of zeros": b"\x89HDF\r\n\x1a\n" + bytes(4096),
    "HDF5 of 0xff": b"\x89HDF\r\n\x1a\n" + b"\xff" * 4096,
    "HTML": b"<html><body>Please log in</body></html>",
    "a script": b"#!/bin/sh\ntouch victim\n",
    "empty": b"",
    "DAP address": b"http://127.0.0.1:9/data.nc",
}.items():
    for where, read in READERS.items():

        @hostile("NetCDF", f"{about}, {where}")
        def raw(folder, data=data, read=read):
            put(folder, "inputs/a.nc", data)
            return read(folder / "inputs")


# Zips, tars, gzip


def bomb(size=1 << 30):
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()


def zip_of(form, change):
    def made(folder):
        good = valid(form)
        put(folder, good.changed, change(good.files[good.changed]))
        values, notes = good.read(folder)
        return values == read_good(good, folder / "good") or (values, notes)

    return made


def edited(data, offset, new, signature=b"PK\x01\x02"):
    at = data.index(signature) + offset
    return data[:at] + new + data[at + len(new) :]


ZIP_CHANGES = {
    "encrypted": lambda data: edited(data, 8, b"\x01\0"),
    "size of 4 GB": lambda data: edited(data, 24, b"\xff\xff\xff\x7f"),
    "packed size of 4 GB": lambda data: edited(data, 20, b"\xfe\xff\xff\x7f"),
    "size of one byte": lambda data: edited(data, 24, b"\x01\0\0\0"),
    "unknown method": lambda data: edited(data, 10, b"\x63\0"),
    "entry at another offset": lambda data: edited(data, 42, b"\xff\xff\xff\x7f"),
    "wrong checksum": lambda data: edited(data, 16, b"\1\2\3\4"),
    "symbolic link": lambda data: edited(edited(data, 5, b"\x03"), 38, b"\0\0\xff\xa1"),
    "65,535 entries stated": lambda data: edited(data, 8, b"\xfe\xff\xfe\xff", b"PK\x05\x06"),
    "directory of 4 GB": lambda data: edited(data, 12, b"\xfe\xff\xff\xff", b"PK\x05\x06"),
    "comment of 64 kB": lambda data: edited(data, 20, b"\xff\xff", b"PK\x05\x06"),
    "no directory": lambda data: data[: data.index(b"PK\x01\x02")],
    "extra field that is cut": lambda data: edited(data, 30, b"\x08\0"),
    "only its end": lambda data: data[data.index(b"PK\x05\x06") :],
}
for form in ("tower archive, zip", "ERA5, zip of NetCDF", "metadata, XLSX", "own table, XLSX"):
    for about, change in ZIP_CHANGES.items():
        hostile("zip", f"{about}, {form}")(zip_of(form, change))


@hostile("zip")
def twice_the_same_name(folder):
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("a.csv", b"1")
        archive.writestr("a.csv", b"2")
    list_members(folder / "a.zip")


@hostile("zip")
def entries_that_overlap(folder):
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("a.csv", b"1" * 1000)
        archive.writestr("b.csv", b"2" * 1000)
    data = (folder / "a.zip").read_bytes()
    at = data.rindex(b"PK\x01\x02")
    put(folder, "a.zip", data[: at + 42] + bytes(4) + data[at + 46 :])
    from fluxcube.sources.towers.archives import Location, open_stream

    with open_stream(Location(folder / "a.zip", "b.csv")) as stream:
        stream.read()


@hostile("zip")
def twenty_thousand_entries(folder):
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for at in range(20_000):
            archive.writestr(f"{at}.csv", b"")
    list_members(folder / "a.zip")


@hostile("zip", "a bomb of 1 GB")
def zip_bomb(folder):
    good = valid("tower archive, zip")
    with zipfile.ZipFile(io.BytesIO(good.files[good.changed])) as archive:
        table = next(name for name in archive.namelist() if "_HH_" in name)
    with zipfile.ZipFile(folder / good.changed, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(table, "w") as file:
        for _ in range(1 << 10):
            file.write(bytes(1 << 20))
    return read_towers(folder)


GZIPS = {
    "tower archive, gzip": read_towers,
    "own table, gzip": read_own,
}
for form in GZIPS:

    @hostile("gzip", f"a bomb of 1 GB, {form}")
    def gzip_bomb(folder, form=form):
        put(folder, valid(form).changed, bomb())
        return valid(form).read(folder)

    @hostile("gzip", f"cut, {form}")
    def gzip_cut(folder, form=form):
        put(folder, valid(form).changed, valid(form).files[valid(form).changed][:-20])
        return valid(form).read(folder)

    @hostile("gzip", f"bytes behind it, {form}")
    def gzip_tail(folder, form=form):
        put(folder, valid(form).changed, valid(form).files[valid(form).changed] + b"tail")
        return valid(form).read(folder)


@hostile("gzip", "a bomb of 4 GB, reflectance")
def gzip_reflectance(folder):
    put(folder, "own.csv.gz", bomb(4 << 30))
    return read_reflectance(folder)


def tar_entry(change):
    def made(folder):
        with tarfile.open(folder / "carbonsense.tar", "w") as tar:
            entry = tarfile.TarInfo("carbonsense/a/b/meta.json")
            change(entry)
            tar.addfile(entry, io.BytesIO(bytes(max(entry.size, 0))))
        return [list_tar(folder / "carbonsense.tar")]

    return made


for about, kind in {
    "symbolic link": tarfile.SYMTYPE,
    "hard link": tarfile.LNKTYPE,
    "character device": tarfile.CHRTYPE,
    "block device": tarfile.BLKTYPE,
    "pipe": tarfile.FIFOTYPE,
    "contiguous file": tarfile.CONTTYPE,
    "unknown type": b"Z",
}.items():

    def change(entry, kind=kind):
        entry.type, entry.linkname = kind, "/etc/passwd"

    hostile("tar", about)(tar_entry(change))


def pax_header(keys, kind=b"x"):
    body = b""
    for key, value in keys.items():
        line = f" {key}={value}\n".encode()
        size = len(line) + len(str(len(line) + len(str(len(line)))))
        body += str(size).encode() + line
    return block(kind, body)


def block(kind, body, name="a", size=None):
    entry = tarfile.TarInfo(name)
    entry.type, entry.size = kind, len(body) if size is None else size
    return entry.tobuf(tarfile.USTAR_FORMAT) + body + bytes(-len(body) % 512)


END = bytes(1024)
for about, data in {
    "20,000 pax headers": pax_header({"path": "a"}) * 20_000 + block(b"0", b"x") + END,
    "20,000 global headers": pax_header({"path": "a"}, b"g") * 20_000 + block(b"0", b"x") + END,
    "20,000 long names": block(b"L", b"a\0") * 20_000 + block(b"0", b"x") + END,
    "20,000 long links": block(b"K", b"a\0") * 20_000 + block(b"0", b"x") + END,
    "long name of 1 GB": block(b"L", b"", size=1 << 30) + END,
    "negative size": pax_header({"size": "-5"}) + block(b"0", b"x") + END,
    "size of 2^70": pax_header({"size": str(2**70)}) + block(b"0", b"x") + END,
    "size that is no number": pax_header({"size": "x"}) + block(b"0", b"x") + END,
    "pax length of 0": block(b"x", b"0 a=b\n") + block(b"0", b"x") + END,
    "pax length of 10^30": block(b"x", b"9" * 30 + b" a=b\n") + block(b"0", b"x") + END,
    "sparse file": pax_header({"GNU.sparse.map": "0,1", "GNU.sparse.size": str(2**60)}) + block(b"0", b"x") + END,
    "sparse file of version 1": pax_header({"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})
    + block(b"0", b"x")
    + END,
    "sparse file of GNU": block(b"S", b"x") + END,
    "header of zeros in between": block(b"0", b"x") + bytes(512) + block(b"0", b"y"),
    "no end": block(b"0", b"x"),
    "wrong checksum": b"x" + block(b"0", b"x")[1:] + END,
    "text": b"hello" * 500,
    "empty": b"",
    "cut gzip": gzip.compress(block(b"0", b"x") + END)[:-10],
    "cut bzip2": bz2.compress(block(b"0", b"x") + END)[:-5],
    "a bomb of 1 GB": bomb(),
}.items():

    @hostile("tar", about)
    def raw_tar(folder, data=data):
        put(folder, "a.tar", data)
        return [list_tar(folder / "a.tar")]


# Spreadsheets

SPACE = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
SHEET = f'<?xml version="1.0"?>{{doctype}}<worksheet xmlns="{SPACE}"><sheetData>{{rows}}</sheetData></worksheet>'
LAUGHS = "<!DOCTYPE x [<!ENTITY a0 'ha'>{}]>".format(
    "".join(f"<!ENTITY a{i + 1} '{f'&a{i};' * 10}'>" for i in range(12))
)


def cell(text, where="A1", kind="inlineStr"):
    return f'<row r="1"><c r="{where}" t="{kind}"><is><t>{text}</t></is></c></row>'


SHEETS = {
    "entities that multiply": (LAUGHS, cell("&a12;")),
    "entity that reads a file": ('<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>', cell("&a;")),
    "entity that reads an address": ('<!DOCTYPE x [<!ENTITY a SYSTEM "http://127.0.0.1:9/">]>', cell("&a;")),
    "parameter entity": ('<!DOCTYPE x [<!ENTITY % a SYSTEM "file:///etc/passwd"> %a;]>', cell("b")),
    "unknown entity": ("", cell("&b;")),
    "formula": ("", '<row r="1"><c r="A1"><f>HYPERLINK("http://x","y")</f><v>1</v></c></row>'),
    "cell in column XFD": ("", cell("x", "XFD1")),
    "cell beyond the last column": ("", cell("x", "ZZZZZZ1")),
    "row 10^9": ("", '<row r="999999999"><c r="A999999999"><v>1</v></c></row>'),
    "row that is no number": ("", '<row r="x"><c r="A1"><v>1</v></c></row>'),
    "negative row": ("", '<row r="-5"><c r="A-5"><v>1</v></c></row>'),
    "100,000 elements within each other": ("", "<x>" * 100_000 + "</x>" * 100_000),
    "shared text 10^9": ("", '<row r="1"><c r="A1" t="s"><v>999999999</v></c></row>'),
    "date of 10^300": ("", '<row r="1"><c r="A1" s="1"><v>1e300</v></c></row>'),
    "number that is text": ("", '<row r="1"><c r="A1" t="n"><v>x</v></c></row>'),
    "zero bytes": ("", cell("a\0b")),
    "tags that do not close": ("", "<row><c>"),
}
for about, (doctype, rows) in SHEETS.items():

    @hostile("XLSX", about)
    def sheet(folder, doctype=doctype, rows=rows):
        from fluxcube.sources.towers.archives import Location

        good = zipfile.ZipFile(io.BytesIO(valid("own table, XLSX").files["own.xlsx"]))
        with zipfile.ZipFile(folder / "own.xlsx", "w", zipfile.ZIP_DEFLATED) as archive:
            for entry in good.infolist():
                data = good.read(entry)
                if entry.filename == "xl/worksheets/sheet1.xml":
                    data = SHEET.format(doctype=doctype, rows=rows).encode()
                archive.writestr(entry.filename, data)
        cells = list(read_sheet(Location(folder / "own.xlsx")))
        assert len(str(cells)) < 100_000 and "root:" not in str(cells)
        return read_own(folder)


# Tables of text

HEAD = b"TIMESTAMP,TA,NEE,SW_IN\n"
ROW = b"2018-06-01 00:30:00,10,-1.5,100\n2018-06-01 01:00:00,10,-1.5,100\n2018-06-01 01:30:00,11,-1.5,100\n"
TEXTS = {
    "a line of 200 MB": HEAD + b"9" * (200 << 20),
    "a header of 200 MB": b"TA" * (100 << 20),
    "100,000 columns": b",".join(b"c%d" % i for i in range(100_000)) + b"\n" + b"1," * 100_000,
    "zero bytes": HEAD + ROW.replace(b"10", b"1\0"),
    "a quote that does not close": HEAD + b'"' + ROW * 1000,
    "a field of 200 kB": HEAD + b'2018-06-01 00:30:00,"' + b"1" * 200_000 + b'",1,1\n',
    "a number of 1 MB": HEAD + b"2018-06-01 00:30:00," + b"1" * 1_000_000 + b",1,1\n",
    "1e999": HEAD + ROW.replace(b"10", b"1e999"),
    "infinite": HEAD + ROW.replace(b"10", b"inf"),
    "hexadecimal": HEAD + ROW.replace(b"10", b"0x1F"),
    "formula": HEAD + ROW.replace(b"10", b"=1+1"),
    "year 10^9": HEAD + ROW.replace(b"2018-06-01 01:00", b"999999999-06-01 01:00"),
    "escape sequence": HEAD.replace(b"TA", b"\x1b[31mTA") + ROW,
    "escape sequence in a cell": HEAD + ROW.replace(b"10", b"\x1b[31m"),
    "UTF-16 that is cut": (HEAD + ROW).decode().encode("utf-16")[:-1],
    "not UTF-8": HEAD + b"\xff\xfe\xfd" + ROW,
    "an HTML page": b"<html>" + HEAD + ROW,
    "no rows": HEAD,
    "nothing": b"",
    "line ends only": b"\r\n" * 100_000,
    "commas only": b",,,,\n" * 1000,
    "column twice": HEAD.replace(b"NEE", b"TA") + ROW,
    "other number of fields": HEAD + ROW + b"1,2\n",
}
for about, data in TEXTS.items():

    @hostile("text", f"{about}, own table")
    def own_text(folder, data=data):
        put(folder, "own.csv", data)
        return read_own(folder)

    @hostile("text", f"{about}, tower table")
    def tower_text(folder, data=data):
        good = valid("tower archive, folder")
        put(folder, good.changed, data.replace(b"TIMESTAMP", b"TIMESTAMP_START"))
        return read_towers(folder)

    @hostile("text", f"{about}, reflectance")
    def reflectance_text(folder, data=data):
        put(folder, "own.csv", data.replace(b"TIMESTAMP,TA,NEE", b"date,red,nir"))
        return read_reflectance(folder)

    @hostile("text", f"{about}, metadata")
    def metadata_text(folder, data=data):
        put(folder, "sites.csv", data.replace(b"TIMESTAMP,TA,NEE", b"site_id,latitude,longitude"))
        return "US-Zzz" not in read_places(folder)[0]  # rows of other sites are not used


# Rasters


def raster(data, name=None):
    def made(folder):
        put(folder, name or valid("MODIS, GeoTIFF").changed, data)
        return read_rasters(folder)

    return made


def tiff(*tags, order="<"):
    """Return a TIFF of tags (number, type, count, value)."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    entries = b"".join(struct.pack(f"{order}HHII", *tag) for tag in tags)
    return head + struct.pack(f"{order}I", 8) + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


VRT = (
    '<VRTDataset rasterXSize="1" rasterYSize="1"><VRTRasterBand dataType="Int16" band="1"><SimpleSource>'
    "<SourceFilename>{}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
)
for about, data in {
    "VRT of a file": VRT.format("/etc/passwd").encode(),
    "VRT of an address": VRT.format("/vsicurl/http://127.0.0.1:9/x.tif").encode(),
    "VRT of a program": VRT.format("/vsisubfile/0,/etc/passwd").encode(),
    "WMS": b"<GDAL_WMS><Service name='TMS'><ServerUrl>http://127.0.0.1:9/</ServerUrl></Service></GDAL_WMS>",
    "address": b"/vsicurl/http://127.0.0.1:9/x.tif",
    "PNG": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "PDF": b"%PDF-1.4\n",
    "directory at 4 GB": b"II*\0\xff\xff\xff\xff",
    "directory within itself": b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
    "65,535 tags": b"II*\0\x08\0\0\0\xff\xff" + bytes(100),
    "tag of 2^32 - 1 values": tiff((256, 4, 1, 9), (257, 4, 1, 9), (33550, 12, 0xFFFFFFFF, 8)),
    "names of 2^32 - 1 bytes": tiff((256, 4, 1, 9), (257, 4, 1, 9), (42112, 2, 0xFFFFFFFF, 8)),
    "size of 2^32 - 1": tiff((256, 4, 1, 0xFFFFFFFF), (257, 4, 1, 0xFFFFFFFF), (258, 3, 1, 16), (273, 4, 1, 8)),
    "2^31 bands": tiff((256, 4, 1, 9), (257, 4, 1, 9), (277, 4, 1, 0x7FFFFFFF), (273, 4, 0x7FFFFFFF, 8)),
    "big-endian and cut": tiff((256, 4, 1, 9), order=">")[:20],
    "BigTIFF that is cut": b"II+\0\x08\0\0\0\xff\xff\xff\xff\xff\xff\xff\x7f",
    "empty": b"",
}.items():
    hostile("raster", about)(raster(data))

for about, data in {
    "HDF4 signature alone": b"\x0e\x03\x13\x01",
    "HDF4 of 0xff": b"\x0e\x03\x13\x01" + b"\xff" * 1000,
    "HDF4 that refers to itself": b"\x0e\x03\x13\x01\0\x01\0\0\0\x04" + bytes(12),
    "HDF5 as HDF4": b"\x89HDF\r\n\x1a\n" + bytes(1000),
    "text": b"hello",
    "empty": b"",
}.items():

    @hostile("raster", f"HDF: {about}")
    def hdf(folder, data=data):
        put(folder, valid("MODIS, HDF4").changed, data)
        return read_rasters(folder)


SIDECARS = {
    ".aux.xml": b"<PAMDataset><PAMRasterBand band='1'><Scale>7</Scale></PAMRasterBand></PAMDataset>",
    ".ovr": b"II*\0",
    ".msk": b"II*\0",
}
for ending, data in SIDECARS.items():

    @hostile("raster", f"file beside it, {ending}")
    def sidecar(folder, ending=ending, data=data):
        good = valid("MODIS, GeoTIFF")
        put(folder, good.changed, good.files[good.changed])
        plain = read_rasters(folder)
        put(folder, good.changed + ending, data)
        os.utime(folder / good.changed, ns=(1, 1))
        return read_rasters(folder) == plain


for about, data in {
    "GRIB signature alone": b"GRIB",
    "GRIB of length 2^24": b"GRIB\xff\xff\xff\x01" + bytes(100),
    "GRIB 2 of length 2^63": b"GRIB\0\0\0\x02" + b"\x7f" + b"\xff" * 7 + bytes(100),
    "GRIB of 0xff": b"GRIB" + b"\xff" * 10_000,
    "10,000 starts of GRIB": b"GRIB" * 10_000,
}.items():

    @hostile("GRIB", about)
    def grib(folder, data=data):
        put(folder, "inputs/a.grib", data)
        return read_weather(folder / "inputs")


# Pickles


class Call:
    def __init__(self, function, *arguments):
        self.parts = function, arguments

    def __reduce__(self):
        return self.parts


def nested(levels, fan=10):
    out = b"\x80\x02]q\x00(" + b"K\x01" * fan + b"e"
    for i in range(1, levels):
        out += b"]q" + bytes([i]) + b"(" + (b"h" + bytes([i - 1])) * fan + b"e"
    return out


BOMB = nested(12)
for about, data in {
    "os.system": pickle.dumps(Call(os.system, "touch victim")),
    "eval": pickle.dumps(Call(eval, "1")),
    "exec in a list": pickle.dumps([1, Call(exec, "import os")]),
    "function of NumPy": pickle.dumps(Call(np.fromfile, "/etc/passwd")),
    "load of NumPy": pickle.dumps(Call(np.load, "/etc/passwd")),
    "array of objects": pickle.dumps(np.array([Call(os.system, "touch victim")], object)),
    "shared structure as a type": BOMB + b"q\x64cnumpy\ndtype\n(" + b"h\x64" + b"tR.",
    "shared structure as a name": b"\x80\x04" + BOMB[2:] + b"\x8c\x01x\x93.",
    "deep structure as a name": b"\x80\x04" + b"]" * 200_000 + b"a" * 199_999 + b"\x8c\x01x\x93.",
    "deep structure as a type": b"\x80\x02cnumpy\ndtype\n(" + b"]" * 200_000 + b"a" * 199_999 + b"tR.",
    "persistent object": b"\x80\x02X\x01\0\0\0aQ.",
    "extension": b"\x80\x02\x82\x01.",
    "text of 2^63 bytes": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f",
    "memo of 2^32": b"\x80\x04Nr\xff\xff\xff\xff.",
    "no end": b"\x80\x04]",
    "empty": b"",
    "number of 10 MB": b"\x80\x02\x8b\x80\x96\x98\0" + b"\1" * 10_000_000 + b".",
}.items():

    @hostile("pickle", about)
    def pickled(folder, data=data):
        form = valid("CarbonSense V1, pickle")
        for name, content in {**form.files, form.changed: data}.items():
            put(folder, name, content)
        return read_towers(folder)


# Files that are none

for about, make in {
    "pipe": os.mkfifo,
    "link to itself": lambda path: os.symlink(path.name, path),
    "link to an endless device": lambda path: os.symlink("/dev/zero", path),
    "link to nothing": lambda path: os.symlink("nowhere", path),
    "folder": os.mkdir,
    "socket": lambda path: __import__("socket").socket(1).bind(os.path.relpath(path)),
}.items():
    for form in ("tower archive, zip", "own table, CSV", "MODIS, GeoTIFF", "ERA5, NetCDF-4", "reflectance, NetCDF"):

        @hostile("special file", f"{about}, {form}")
        def special(folder, make=make, form=form):
            make(folder / valid(form).changed)
            values, notes = valid(form).read(folder)
            return values in ("", "0") or (values, notes)
