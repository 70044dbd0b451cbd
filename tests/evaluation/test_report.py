"""Score tables as files: what is in them can be read back, and nothing is replaced unasked."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fluxcube.errors import ConfigError, StoreError
from fluxcube.evaluation.report import format_table, write_report
from fluxcube.evaluation.skill import compare
from fluxcube.simulation.example import example_cube


@pytest.fixture(scope="module")
def table():
    cube = example_cube(sites=8, days=4)
    none = cube.fluxes.sel(target=["NEE", "GPP_NT", "FCH4"])
    return compare(cube, {"eco": none * 0.9, "far off": none * -0.8}, by="igbp", seen=["DBF", "GRA", "CRO"])


def cells(markdown):
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[c.strip() for c in line.strip("|").split("|")] for line in lines]


def test_markdown_holds_the_numbers(table):
    text = format_table(table)
    head, rule, *rows = cells(text)
    assert len({len(r) for r in (head, rule, *rows)}) == 1
    assert "NSE (pooled)" in head and "NSE (site median)" in head and "corr²" in " ".join(head)
    shown = table[table.n > 0]
    assert len(rows) == len(shown) == 16
    for row, (_, wanted) in zip(rows, shown.iterrows(), strict=True):
        assert row[head.index("NSE (pooled)")] == f"{wanted.nse:.3f}"
        assert row[head.index("NSE (site median)")] == f"{wanted.nse_site_median:.3f}"
        assert row[head.index("values")] == f"{wanted.n:,}"
        assert ("not in training" in row[head.index("group")]) == (wanted.group == "ENF")
    assert "flag <= 0" in text and "8 lines without a scored hour" in text


def test_any_table_of_scores_will_do():
    text = format_table(pd.DataFrame({"target": ["NEE"], "model": ["a"], "nse": [np.nan], "bias": [-0.5], "n": [10]}))
    assert cells(text)[0] == ["target", "model", "NSE", "bias", "values"]
    assert cells(text)[2] == ["NEE", "a", "–", "-0.500", "10"]


def test_report_files(table, tmp_path):
    files = write_report(table, tmp_path / "report", title="Held-out towers")
    assert [f.name for f in files] == ["scores.csv", "scores.md", "scores_NEE.png", "scores_GPP_NT.png"]
    back = pd.read_csv(files[0])
    pd.testing.assert_frame_equal(back, pd.DataFrame(table), check_dtype=False, rtol=1e-12)
    text = files[1].read_text("utf-8")
    assert text.startswith("# Held-out towers\n") and "(scores_GPP_NT.png)" in text
    assert all(f.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for f in files[2:])


def test_a_report_is_replaced_only_when_asked(table, tmp_path):
    (tmp_path / "scores.md").write_text("mine")
    with pytest.raises(StoreError, match=r"scores\.md exists"):
        write_report(table, tmp_path)
    assert (tmp_path / "scores.md").read_text() == "mine" and not (tmp_path / "scores.csv").exists()
    write_report(table, tmp_path, overwrite=True)
    assert (tmp_path / "scores.md").read_text("utf-8").startswith("# Scores")


def test_where_it_cannot_be_written_it_says_so(table, tmp_path):
    with pytest.raises(StoreError, match="parent"):
        write_report(table, tmp_path / "no" / "report")
    with pytest.raises(ConfigError, match="corr2"):
        write_report(table.drop(columns="corr2"), tmp_path / "report")
