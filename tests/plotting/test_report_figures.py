"""Figures of the report: what they draw, in both file formats, for a page of any background."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

matplotlib = pytest.importorskip("matplotlib")

from fluxcube.errors import ConfigError, UnknownNameError  # noqa: E402
from fluxcube.evaluation.applicability_error import applicability_error  # noqa: E402
from fluxcube.evaluation.carbon import carbon_closure  # noqa: E402
from fluxcube.evaluation.common_rows import rows_in_common  # noqa: E402
from fluxcube.evaluation.cycles import mean_cycles  # noqa: E402
from fluxcube.evaluation.density import density  # noqa: E402
from fluxcube.evaluation.neighbours import error_by_distance, nearest_training_tower  # noqa: E402
from fluxcube.evaluation.reliability import reliability  # noqa: E402
from fluxcube.evaluation.scales import scale_table  # noqa: E402
from fluxcube.evaluation.series import site_series  # noqa: E402
from fluxcube.evaluation.sitemeans import site_mean_table, site_scores  # noqa: E402
from fluxcube.evaluation.subsets import subset_masks, subset_table  # noqa: E402
from fluxcube.evaluation.sums import site_sums  # noqa: E402
from fluxcube.plotting.bars import plot_class_errors  # noqa: E402
from fluxcube.plotting.canvas import INK, figure_of, model_styles, picture_bytes, report_style  # noqa: E402
from fluxcube.plotting.curves import (  # noqa: E402
    plot_applicability_error,
    plot_cycles,
    plot_rank,
    plot_reliability,
    plot_series,
)
from fluxcube.plotting.points import plot_by_distance, plot_ceiling, plot_drivers, plot_scales, plot_subsets  # noqa: E402
from fluxcube.plotting.sites import plot_class_changes, plot_site_changes  # noqa: E402
from fluxcube.plotting.towers import plot_closure, plot_density, plot_site_map  # noqa: E402
from fluxcube.simulation.example import example_cube  # noqa: E402


@pytest.fixture(scope="module")
def cube():
    return example_cube(days=40, gaps=0.05).load()


@pytest.fixture(scope="module")
def predictions(cube):
    """A good model with standard deviations and dissimilarity, and a bad one."""
    rng = np.random.default_rng(0)
    fluxes = {t: cube.fluxes.sel(target=t, drop=True).rename(t) for t in ("NEE", "GPP_NT", "RECO_NT")}
    noise = xr.DataArray(rng.normal(size=fluxes["NEE"].shape), fluxes["NEE"].coords, fluxes["NEE"].dims)
    good = xr.Dataset({t: f + noise for t, f in fluxes.items()})
    good = good.assign(NEE_std=xr.full_like(noise, 1.2), dissimilarity=abs(noise))
    return {"good <b>": good, "bad": xr.Dataset({t: f * -2 for t, f in fluxes.items()})}


@pytest.fixture(scope="module")
def rows(cube, predictions):
    return rows_in_common(cube, predictions)


@pytest.fixture(scope="module")
def scores(cube, predictions):
    return site_scores(site_sums(cube, predictions))


@pytest.fixture(scope="module")
def figures(cube, predictions, rows, scores):
    """A function that draws each figure of flux NEE."""
    names = cube.site.values.tolist()
    distances = nearest_training_tower(cube, {"good <b>": names[1:], "bad": names[:1]})
    subsets = subset_table(cube, predictions, subset_masks(cube))
    ceiling = pd.DataFrame({"target": "NEE", "group": subsets.group.unique(), "noise_rmse": 0.5, "nse_ceiling": 0.9})
    drivers = pd.DataFrame({"target": "NEE", "model": "good <b>", "drivers": ["tower", "era5"], "nse": [0.6, 0.5]})
    one = {"target": "NEE"}
    return {
        "map": lambda **to: plot_site_map(scores, model="good <b>", **one, **to),
        "difference": lambda **to: plot_site_map(scores, model="good <b>", against="bad", **one, **to),
        "density": lambda **to: plot_density(density(rows, bins=20), model="good <b>", **one, **to),
        "cycles": lambda **to: plot_cycles(mean_cycles(rows), **one, **to)[0],
        "scales": lambda **to: plot_scales(scale_table(cube, predictions, clusters=50.0, draws=100), **one, **to),
        "subsets": lambda **to: plot_subsets(subsets, **one, **to),
        "ceiling": lambda **to: plot_ceiling(subsets, ceiling, **one, **to),
        "reliability": lambda **to: plot_reliability(reliability(rows), **one, **to)[0],
        "distance": lambda **to: plot_by_distance(error_by_distance(scores, distances), **one, **to),
        "closure": lambda **to: plot_closure(carbon_closure(rows), **to),
        "applicability": lambda **to: plot_applicability_error(applicability_error(rows), **one, **to),
        "rank": lambda **to: plot_rank(scores, **one, **to),
        "series": lambda **to: plot_series(site_series(rows), sites=names[:2], **one, **to)[0],
        "drivers": lambda **to: plot_drivers(drivers, **one, **to),
    }


NAMES = (
    *("map", "difference", "density", "cycles", "scales", "subsets", "ceiling", "reliability", "distance"),
    *("closure", "applicability", "rank", "series", "drivers"),
)


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_a_small_svg_in_one_ink(figures, name, tmp_path):
    with report_style():
        figures[name](path=tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text("utf-8")
    assert INK in text and "<text" in text and len(text) < 100_000
    for dark in ("#000000", "#ffffff", "fill: black", "fill: white"):
        assert dark not in text, "this colour is not legible on one of the two backgrounds"
    assert "<b>" not in text and "<g id" not in text and "T00:" not in text


@pytest.mark.parametrize("name", ["map", "cycles", "density"])
def test_figures_are_drawn_as_png_as_well(figures, name, tmp_path):
    with report_style("#eeeeee"):
        figures[name](path=tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_style_ends_with_its_block(figures):
    before = dict(matplotlib.rcParams)
    with report_style():
        assert matplotlib.rcParams["text.color"] == INK
    assert dict(matplotlib.rcParams) == before


def test_equal_figures_are_equal_files(figures):
    with report_style():
        one, other = (picture_bytes(figures["drivers"](), "svg") for _ in range(2))
    assert one == other


def test_models_keep_their_style_where_some_are_missing(figures, rows):
    styles = model_styles(["observed", "bad", "good <b>"])
    ax = plot_reliability(reliability(rows), target="NEE", styles=styles)[0]
    line = next(line for line in ax.get_lines() if line.get_label() == "good <b>")
    assert line.get_color() == styles["good <b>"].color != styles["bad"].color
    many = model_styles(map(str, range(28)))
    assert len({(s.color, s.marker, s.line) for s in many.values()}) == len(many)


def test_models_that_a_page_does_not_know_have_a_style_of_their_own(scores):
    styles = model_styles(["good <b>"])
    lines = plot_rank(scores, target="NEE", styles=styles).get_lines()
    assert lines[0].get_color() == styles["good <b>"].color and lines[1].get_color() != lines[0].get_color()


def test_scores_below_the_axis_are_arrows(figures):
    ax = figures["scales"]()
    assert ax.get_ylim()[0] >= -1.1 and any(text.get_text().startswith("-") for text in ax.texts)


def test_europe_is_enlarged_where_it_has_many_towers(scores):
    one = scores[(scores.model == "bad") & (scores.target == "NEE")].iloc[:1]
    many = pd.concat([one.assign(site=str(i), latitude=50.0 + i / 3, longitude=9.0) for i in range(9)])
    assert len(plot_site_map(many, model="bad").child_axes) == 2  # the enlarged part and the colour bar
    assert len(plot_site_map(many[:3], model="bad").child_axes) == 1


def test_towers_without_a_score_are_hollow(scores):
    some = scores.assign(nse=scores.nse.where(scores.site != scores.site.iloc[0]))
    ax = plot_site_map(some, model="bad", target="NEE")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["no value"]
    assert len(ax.collections[-2].get_offsets()) == 1


def test_groups_of_cycles_are_panels(rows):
    table = mean_cycles(rows)
    axes = plot_cycles(table, target="NEE", columns=3)
    assert len(axes) == table.group.nunique() and axes[0].get_title().startswith("all sites (")
    assert len(plot_cycles(table, target="NEE", groups=["all"])) == 1
    with pytest.raises(UnknownNameError, match="XYZ"):
        plot_cycles(table, target="NEE", groups=["XYZ"])


def test_series_are_interrupted_at_gaps(rows):
    series = site_series(rows)
    series["NEE"] = series.NEE.where((series.time < series.time[1]) | (series.time > series.time[-2]))
    series = series.assign_coords(time=series.time.values + np.arange(series.sizes["time"]) * np.timedelta64(20, "D"))
    site = series.site.values[0]
    ax = plot_series(series, target="NEE", sites=[site], models=["bad"])[0]
    assert np.isnan(ax.get_lines()[0].get_ydata()).any()
    with pytest.raises(UnknownNameError):
        plot_series(series, target="NEE", sites=["nowhere"])


def test_wrong_tables_are_refused(figures, rows, scores):
    with pytest.raises(ConfigError, match="without nse"):
        plot_scales(pd.DataFrame({"target": [], "model": []}))
    with pytest.raises(ConfigError, match="target from"):
        plot_rank(scores)
    with pytest.raises(ConfigError, match="no nse of NEE"):
        plot_rank(scores.assign(nse=np.nan), target="NEE")
    with pytest.raises(ConfigError, match="drivers"):
        plot_drivers(scores, target="NEE")
    with pytest.raises(ConfigError, match="NEE, GPP and RECO"):
        plot_closure(pd.DataFrame({"target": []}))
    with pytest.raises(UnknownNameError, match="absent"):
        plot_site_map(scores, model="absent", target="NEE")
    with pytest.raises(UnknownNameError, match="daytime"):
        plot_closure(carbon_closure(rows), partition="daytime")
    with pytest.raises(ConfigError, match="places"):
        plot_site_map(scores.drop(columns="latitude"), model="bad", target="NEE")


def test_figures_draw_on_given_axes(scores):
    ax = figure_of(plot_rank(scores, target="NEE")).axes[0]
    ax.clear()
    assert plot_rank(scores, target="NEE", ax=ax) is ax and ax.get_title() == "NEE"


def test_names_are_shown_as_they_are(scores):
    odd = scores.assign(model=scores.model.replace({"bad": "$\\alpha_ & <i>"}))
    with report_style():
        text = picture_bytes(plot_rank(odd, target="NEE"), "svg").decode()
    assert "$\\alpha_ &amp; &lt;i&gt;" in text


def test_figures_of_the_study_take_the_styles_of_a_page(cube, predictions, scores):
    styles = model_styles(["first", "bad", "good <b>"])
    table = site_mean_table(site_sums(cube, predictions), by="igbp", draws=100)
    with report_style():
        ax = plot_class_errors(table, targets=["NEE"], styles=styles)[0]
        assert matplotlib.colors.to_hex(ax.patches[0].get_facecolor()) == styles["good <b>"].color.lower()
        panel = plot_class_changes(table, targets=["NEE"], styles=styles)[0]
        assert styles["bad"].color in picture_bytes(panel, "svg").decode().upper()
        sites = plot_site_changes(scores, targets=["NEE"], model="bad", against="good <b>")[0]
        for drawn in (ax, panel, sites):
            text = picture_bytes(drawn, "svg").decode()
            assert INK in text and "stroke: #000000" not in text and "#ffffff" not in text
