"""Tars and spreadsheets that would never end, nest without end, or hide changed bytes."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile

import pytest

from fluxcube.errors import SourceError
from fluxcube.sources.towers.archives import Location
from fluxcube.sources.towers.sheets import read_sheet
from fluxcube.sources.towers.tarball import list_tar

END = bytes(10240)


def block(kind: bytes, body: bytes = b"x", name: str = "a") -> bytes:
    entry = tarfile.TarInfo(name)
    entry.type, entry.size = kind, len(body)
    return entry.tobuf(tarfile.USTAR_FORMAT) + body + bytes(-len(body) % 512)


@pytest.mark.parametrize("kind, body", [(b"x", b"9 path=a\n"), (b"g", b"9 path=a\n"), (b"L", b"a\0"), (b"K", b"a\0")])
def test_headers_that_describe_each_other_are_refused(tmp_path, kind, body):
    (tmp_path / "a.tar").write_bytes(block(kind, body) * 3000 + block(b"0") + END)
    with pytest.raises(SourceError, match=r"a\.tar: cut or broken"):
        list_tar(tmp_path / "a.tar")


def test_the_checksum_of_a_compressed_tar_is_compared(tmp_path):
    data = bytearray(gzip.compress(block(b"0", b"12345") + END, mtime=0))
    data[-8] ^= 1
    (tmp_path / "a.tar.gz").write_bytes(data)
    with pytest.raises(SourceError, match="CRC"):
        list_tar(tmp_path / "a.tar.gz")


def test_files_behind_the_end_are_not_passed_over(tmp_path):
    (tmp_path / "a.tar").write_bytes(block(b"0") + bytes(1024) + block(b"0", name="b") + END)
    with pytest.raises(SourceError, match="two tars in one"):
        list_tar(tmp_path / "a.tar")


def test_zeros_without_an_end_are_refused(tmp_path):
    with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
        file.write(block(b"0"))
        for _ in range(80):
            file.write(bytes(1 << 20))
    with pytest.raises(SourceError, match="far more bytes"):
        list_tar(tmp_path / "a.tar.gz")


def workbook(path, rows: str):
    """Write a spreadsheet whose rows are given as XML."""
    openpyxl = pytest.importorskip("openpyxl")
    data = io.BytesIO()
    openpyxl.Workbook().save(data)
    with zipfile.ZipFile(data) as good, zipfile.ZipFile(path, "w") as archive:
        for entry in good.infolist():
            text = good.read(entry)
            if entry.filename == "xl/worksheets/sheet1.xml":
                space = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
                text = f'<worksheet xmlns="{space}"><sheetData>{rows}</sheetData></worksheet>'.encode()
            archive.writestr(entry.filename, text)
    return Location(path)


def test_a_row_far_below_does_not_make_a_thousand_million_others(tmp_path, monkeypatch):
    monkeypatch.setattr("fluxcube.sources.towers.sheets.MAX_ROWS", 1000)
    far = workbook(tmp_path / "a.xlsx", '<row r="999999999"><c r="A999999999"><v>1</v></c></row>')
    with pytest.raises(SourceError, match="expected at most 1000 rows"):
        list(read_sheet(far))


def test_cells_far_to_the_right_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("fluxcube.sources.towers.sheets.MAX_CELLS", 20_000)
    rows = "".join(f'<row r="{i}"><c r="XFD{i}"><v>1</v></c></row>' for i in (1, 2))
    with pytest.raises(SourceError, match="20000 cells"):
        list(read_sheet(workbook(tmp_path / "a.xlsx", rows)))
    (row,) = read_sheet(workbook(tmp_path / "b.xlsx", '<row r="1"><c r="XFD1"><v>1</v></c></row>'))
    assert len(row[1]) == 16_384
