"""Reading columns of numbers: what a line may be, in whatever blocks the bytes come, and what is told of the last."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from counting import count_calls
from hypothesis import given
from hypothesis import strategies as st

from fluxcube.errors import SourceError
from fluxcube.sources.towers.archives import Location
from fluxcube.sources.towers.csvfile import _LineWatch, read_numbers

HEAD = "when,a,b\n"


def read(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_numbers(Location(path), lambda header: header, integers=("when",))


def watched(text, sizes):
    """Return a watch that has seen a text in blocks of such sizes, the last one repeated."""
    watch, at, sizes = _LineWatch(), 0, list(sizes)
    while at < len(text):
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        watch(text[at : at + size])
        at += size
    return watch


@given(
    st.lists(st.sampled_from(["1,2,3", "", "1,2", "1,2,3,4", " ", "x"]), max_size=8),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", "1,2,3", "1,2", " ", "\r"]),
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
)
def test_every_line_is_looked_at_whatever_the_blocks(rows, end, last, sizes):
    watch = watched((end.join([HEAD.strip(), *rows]) + end + last).encode(), sizes)
    odd = any(row and row.count(",") != 2 for row in rows)
    assert watch.suspicious is (odd or last in ("1,2", " "))
    assert watch.unfinished is (last not in ("", "\r"))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_empty_lines_cost_little_and_change_nothing(tmp_path, end):
    rows = "".join(f"{i},{i}.5,-9999{end}" for i in range(100))
    plain = read(tmp_path / "a.csv", HEAD + rows)
    empty = end * 400_000
    found, calls = count_calls(lambda: read(tmp_path / "a.csv", HEAD + empty + rows + empty))
    assert calls < 10_000, "some calls for each block of the file, not for each of its lines"
    np.testing.assert_array_equal(plain, found)


def test_a_last_row_without_an_end_is_told(tmp_path, caplog):
    rows = "1,2,-9999\n2,3,-9999\n"
    read(tmp_path / "a.csv", HEAD + rows)
    read(tmp_path / "a.csv", HEAD + rows + "\n\r\n")
    assert not caplog.records
    assert read(tmp_path / "a.csv", HEAD + rows[:-3]).b.tolist() == [-9999, -99]
    assert "a.csv: no line end after the last row, whose last number may be cut" in caplog.text
    with pytest.raises(SourceError, match=r"a\.csv, line 3: 2 fields"):
        read(tmp_path / "a.csv", HEAD + rows[:-7])


def test_numbers_too_large_are_infinite_without_a_word(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(tmp_path / "a.csv", HEAD + "1,1e39,-4e38\n").iloc[0, 1:].tolist() == [np.inf, -np.inf]
