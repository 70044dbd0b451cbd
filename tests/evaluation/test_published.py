"""Published scores: the numbers of their sources, and what can be compared with them."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from packages import optional

from fluxcube.errors import ConfigError
from fluxcube.evaluation.published import beside_published, comparable, own_scores, published_scores
from fluxcube.evaluation.sitemeans import site_mean_table
from fluxcube.evaluation.skill import score_table
from fluxcube.evaluation.sums import site_sums
from fluxcube.resolution import find_resolution
from fluxcube.simulation.example import example_cube


def values(**query):
    rows = published_scores()
    for name, value in query.items():
        rows = rows[rows[name] == value]
    return rows


def test_sums_over_each_table_are_those_of_the_sources():
    """Sums of the columns of each table, added up from the printed tables."""
    for split, model, nse, rmse in (
        ("carbonsense-v1", "XGBoost", -2.7298, 45.8671),
        ("carbonsense-v1", "EcoPerceiver", -5.1874, 43.4390),
        ("carbonsense-manuscript", "XGBoost", -18.1203, 47.2960),
        ("carbonsense-manuscript", "EcoPerceiver", -38.4759, 45.2279),
    ):
        sums = values(split=split, model=model).groupby("score").value.sum()
        assert (sums["nse"], sums["rmse"]) == pytest.approx((nse, rmse), abs=1e-6)
    assert len(values(split="carbonsense-v1")) == len(values(split="carbonsense-manuscript")) == 60
    assert len(values(split="xbase")) == 20
    assert len(values(split="carbonfluxbench-igbp")) == 30 and len(values(split="carbonfluxbench-koppen")) == 24


def test_rows_are_complete_and_in_the_words_of_the_package():
    rows = published_scores()
    assert not rows.duplicated(["split", "target", "group", "model", "score"]).any()
    assert np.isfinite(rows.value).all() and set(rows.score) == {"nse", "rmse", "r2"}
    assert (rows.doi.str.match(r"10\.\d{4,}/")).all()
    assert set(rows.aggregation) == {"pooled", "mean over sites", "median over sites"}
    for resolution, mask in set(zip(rows.resolution, rows["mask"], strict=True)):
        assert mask == str(find_resolution(resolution).limit(int(mask.split()[-1])))
    assert set(rows[rows.score != "rmse"].units) == {"1"}
    rows.loc[0, "value"] = 99.0  # a copy
    assert published_scores().value[0] != 99.0


def test_numbers_are_those_of_the_papers(shared_data):
    """Parse the tables of both papers."""
    papers = shared_data.parent / "papers"
    if not papers.is_dir():
        pytest.skip("no papers beside the data")
    first = next(papers.glob("000_*.txt")).read_text("utf-8")
    found = 0
    for name, *numbers in re.findall(r"^([A-Z]{2,3})\t(\S+)\t(\S+)\t(\S+)\t(\S+)$", first, re.MULTILINE):
        rows = values(split="carbonsense-manuscript", group=name).set_index(["model", "score"]).value
        keys = [(m, s) for m in ("XGBoost", "EcoPerceiver") for s in ("nse", "rmse")]
        assert [rows[key] for key in keys] == [float(x) for x in numbers]
        found += 1
    assert found == 15
    second = next(papers.glob("002_*.txt")).read_text("utf-8")
    lines = re.findall(r"^([A-Za-z-]+) (\d\.\d\d) (\d\.\d\d) (\d\.\d\d) (\d\.\d\d)$", second, re.MULTILINE)
    assert len(lines) == 5
    for name, *numbers in lines:
        rows = values(split="xbase", model=name).set_index(["target", "score"]).value
        keys = [(t, s) for t in ("GPP_NT", "NEE") for s in ("rmse", "r2")]
        assert [rows[key] for key in keys] == [float(x) for x in numbers]


def test_numbers_are_those_of_the_facts(shared_data):
    facts = shared_data.parent / "design" / "facts.md"
    if not facts.is_file():
        pytest.skip("no facts beside the data")
    text = facts.read_text("utf-8").replace("−", "-").replace("*", "")
    cells = re.findall(r"^\| ([A-Z]{2,3}) \| ([-.\d]+)/([.\d]+) \| ([-.\d]+)/([.\d]+) \|$", text, re.MULTILINE)
    assert len(cells) == 15
    for name, *numbers in cells:
        rows = values(split="carbonsense-v1", group=name)
        assert rows.value.tolist() == [float(x) for x in numbers]
    lines = re.findall(r"^\| (IGBP|Köppen) (\S+) \| (.*?) \| (.*?) \| (.*?) \|$", text, re.MULTILINE)
    assert len(lines) == 9
    for kind, model, *pairs in lines:
        split = {"IGBP": "carbonfluxbench-igbp", "Köppen": "carbonfluxbench-koppen"}[kind]
        rows = values(split=split, model={"XGB": "XGBoost"}.get(model, model))
        assert rows.value.tolist() == [float(x) for pair in pairs for x in pair.split("/")]


@pytest.fixture(scope="module")
def sums():
    cube = example_cube(sites=9, days=4)
    fluxes = cube.fluxes.sel(target=["NEE", "GPP_NT"])
    return site_sums(cube, {"a": fluxes + 1, "b": fluxes * 0.5}, max_qc=1)


def test_the_same_protocol_is_comparable_and_every_difference_is_named(sums):
    row = values(split="carbonsense-v1", group="DBF", model="XGBoost", score="nse").iloc[0]
    same = score_table(sums, by="igbp").attrs | {"split": "sites:CarbonSense-v1"}
    assert comparable(row, same) == (True, "")
    yes, why = comparable(row, score_table(sums).attrs)
    assert not yes and why == "not comparable: split carbonsense-v1 in the source, unknown here"
    changes = {"max_qc": 0, "resolution": "hourly", "split": "towers157", "target": "GPP_NT", "group": "all"}
    why = comparable(row, same | changes)[1]
    assert all(word in why for word in ("target NEE", "group DBF", "split", "flag <= 1 in the source, flag <= 0 here"))
    assert "time step hourly in the source, daily here" in comparable(row, same | {"resolution": "daily"})[1]
    error = values(split="carbonsense-v1", group="DBF", model="XGBoost", score="rmse").iloc[0]
    assert comparable(error, same | {"units": "µmol m-2 s-1"})[0] and comparable(row, same | {"units": "1"})[0]
    assert "units umol m-2 s-1 in the source, gC m-2 d-1" in comparable(error, same | {"units": "gC m-2 d-1"})[1]
    assert "every value here" in comparable(row, same | {"max_qc": "none"})[1]
    assert "aggregation pooled in the source, unknown here" in comparable(row, {"max_qc": 1, "split": row.split})[1]


def test_an_undefined_r2_is_compared_with_corr2_and_says_so():
    row = values(split="xbase", target="NEE", model="XGBoost", score="r2").iloc[0]
    own = {"resolution": "daily", "min_quality": 1.0, "split": "xbase", "aggregation": "mean over sites"}
    assert comparable(row, own | {"score": "corr2"}) == (
        True,
        "the source does not define its R2; corr2 is set beside it",
    )
    assert "score corr2 in the source, nse here" in comparable(row, own | {"score": "nse"})[1]


def test_own_tables_become_rows_of_the_same_columns(sums):
    pooled = own_scores(score_table(sums, by="igbp"), split="sites:xbase")
    assert set(pooled.aggregation) == {"pooled", "median over sites"} and set(pooled["mask"]) == {"flag <= 1"}
    assert set(pooled.split) == {"xbase"} and set(pooled[pooled.score == "nse"].units) == {"1"}
    table = score_table(sums, by="igbp").query("target == 'NEE' and model == 'a'").set_index("group")
    found = pooled.query("target == 'NEE' and model == 'a' and score == 'rmse' and aggregation == 'pooled'")
    np.testing.assert_allclose(found.set_index("group").value, table.rmse)
    means = own_scores(site_mean_table(sums, clusters=0, draws=200))
    assert set(means.aggregation) == {"mean over sites", "median over sites"} and set(means.split) == {"unknown"}
    with pytest.raises(ConfigError, match="expected a table of scores"):
        own_scores(pd.DataFrame({"target": ["NEE"]}))
    with pytest.raises(ConfigError, match="a score among nse"):
        own_scores(pd.DataFrame({"target": ["NEE"], "group": ["all"], "model": ["a"], "n_sites": [1]}))


def test_published_rows_stand_below_own_ones_with_a_reason(sums):
    table = beside_published(score_table(sums, by="igbp"), split="carbonsense-v1")
    own = table[table.source == "this evaluation"]
    assert own.comparable.all() and set(own.aggregation) == {"pooled"}
    v1, old = (table[table.split == s] for s in ("carbonsense-v1", "carbonsense-manuscript"))
    assert v1[v1.source != "this evaluation"].comparable.all() and set(v1.group) <= {"DBF", "GRA", "ENF", "CRO"}
    assert not old.comparable.any() and old.reason.str.contains("row mask flag <= 2 in the source, flag <= 1").all()
    daily = beside_published(score_table(sums))
    assert set(daily.source) == {"this evaluation"}  # no published score of all hourly sites


def test_figure_greys_what_cannot_be_compared(sums, tmp_path):
    optional("matplotlib")
    from fluxcube.plotting.published import plot_published

    table = beside_published(score_table(sums, by="igbp"), split="carbonsense-v1")
    nee = table[table.target == "NEE"]
    ax = plot_published(nee, tmp_path / "scores.png")
    assert (tmp_path / "scores.png").read_bytes()[:4] == b"\x89PNG"
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    grey = [c for c in ax.containers if c[0].get_hatch()]
    assert len(labels) == 6 and len(grey) == sum("(not comparable)" in label for label in labels) == 2
    widths = [bar.get_width() for bar in ax.containers[labels.index("a: this evaluation, pooled")]]
    shown = nee.query("model == 'a' and score == 'nse'").value
    np.testing.assert_allclose(widths, np.maximum(shown, -1))
    with pytest.raises(ConfigError, match="found 'GPP_NT' and 'nse'"):
        plot_published(nee, target="GPP_NT", score="nse")
    with pytest.raises(ConfigError, match="beside_published"):
        plot_published(score_table(sums))


def test_daily_site_means_stand_beside_those_of_the_paper():
    sums = site_sums(*_daily())
    table = beside_published(site_mean_table(sums, clusters=0, draws=200), split="xbase", scores=("rmse", "corr2"))
    paper = table[table.split.eq("xbase") & table.source.str.contains("TAM-RL")]
    assert paper.comparable.all() and set(paper.target) == {"NEE"} and len(paper) == 10
    assert paper[paper.score == "r2"].reason.str.contains("corr2").all()
    other = table[table.split.str.startswith("carbonflux")]
    assert not other.comparable.any() and other.reason.str.contains("split").all()


def _daily():
    time = pd.date_range("2018-01-01", periods=40)
    obs = np.random.default_rng(0).normal(size=(4, 40))
    dims = {"site": [f"S{i}" for i in range(4)], "time": time}
    obs = xr.DataArray(obs, dims, ("site", "time"), name="NEE", attrs={"units": "gC m-2 d-1", "resolution": "daily"})
    obs = obs.assign_coords(latitude=("site", np.arange(4.0)), longitude=("site", np.arange(4.0)))
    quality = xr.ones_like(obs)
    ds = xr.Dataset({"NEE": obs, "NEE_QUALITY": quality}, attrs={"resolution": "daily"})
    return ds, {"a": ds[["NEE"]] + 0.1}
