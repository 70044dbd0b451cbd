"""Tables as text: they fit a terminal, and nothing is lost in the forms that programs read."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest

from fluxcube.errors import ConfigError
from fluxcube.tabletext import FORMS, WIDTH, counted, folded, table_text, with_units


def scores(columns: int = 9) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    names = pd.DataFrame(
        {
            "target": ["NEE"] * 3,
            "group": ["evergreen needleleaf forest of the north", "GRA", "mean"],
            "model": list("abc"),
        }
    )
    numbers = pd.DataFrame(rng.normal(size=(3, columns)), columns=[f"score {i} of sites" for i in range(columns)])
    return pd.concat([names, with_units(numbers, {"score 0 of sites": "umol m-2 s-1"})], axis=1)


@pytest.mark.parametrize("columns", [1, 5, 9, 30])
@pytest.mark.parametrize("width", [60, WIDTH])
def test_lines_fit_and_every_value_is_shown(columns, width):
    frame = scores(columns)
    text = table_text(frame, width=width)
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.split())
    for value in frame.select_dtypes("number").to_numpy().ravel():
        assert f"{value:.2f}" in words or f"{value:.3f}" in words
    assert "(umol m-2 s-1)" in text  # a unit is in one piece
    blocks = text.split("\n\n")
    assert all("target" in block and "model" in block for block in blocks) and (len(blocks) > 1 or columns < 9)


def test_numbers_are_aligned_and_texts_stand_left():
    lines = table_text(pd.DataFrame({"name": ["a", "long name"], "n": [7, 120_000], "x": [0.5, -12.25]})).splitlines()
    ends = [line.rstrip() for line in lines]
    assert len({len(line) for line in ends}) == 1 and ends[2].startswith("a  ") and "120,000" in ends[3]
    assert ends[2].endswith("0.5") and ends[3].endswith("-12.2")  # equal decimals


def test_years_have_no_comma_and_missing_values_are_a_dash():
    text = table_text(pd.DataFrame({"year": [2018, 2019], "x": [np.nan, 1.0], "y": [np.nan, np.nan]}))
    assert "2018" in text and text.splitlines()[2].split() == ["2018", "–", "–"]


def test_programs_read_every_digit_back():
    frame = scores().assign(n=[1, 2, 2**40], gone=[np.nan, 0.1 + 0.2, np.inf])
    csv = pd.read_csv(io.StringIO(table_text(frame, "csv")))
    pd.testing.assert_frame_equal(csv, frame, check_dtype=False, check_exact=True)
    rows = json.loads(table_text(frame, "json"))
    assert list(rows[0]) == list(frame) and [row["n"] for row in rows] == [1, 2, 2**40]
    assert [row["gone"] for row in rows] == [None, 0.1 + 0.2, None]
    assert [row["score 3 of sites"] for row in rows] == frame["score 3 of sites"].tolist()


def test_markdown_has_a_cell_for_each_value():
    frame = pd.DataFrame({"name": ["a|b", "c"], "n": [1, 2]})
    lines = table_text(frame, "md").splitlines()
    assert lines[1] == "| --- | ---: |" and lines[2] == r"| a\|b | 1 |"


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_table_has_its_headings(form):
    text = table_text(pd.DataFrame({"name": [], "n": []}), form)
    assert text.startswith("[]") if form == "json" else "name" in text


def test_a_name_cannot_steer_a_terminal_and_forms_are_checked():
    assert "\x1b" not in table_text(pd.DataFrame({"name": ["\x1b[31m"]}))
    with pytest.raises(ConfigError, match="table, md, csv, json"):
        table_text(scores(), "html")  # type: ignore[arg-type]


def test_notes_are_folded():
    assert max(map(len, folded("a word " * 60).splitlines())) <= WIDTH


def test_one_thing_is_not_several():
    assert counted(1, "IGBP class", "IGBP classes") == "1 IGBP class"
    assert counted(2, "IGBP class", "IGBP classes") == "2 IGBP classes"
