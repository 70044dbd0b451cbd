"""Test figures of towers: they show the values of their input."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from packages import optional

from fluxcube.biomes import IGBP_NUMBERS
from fluxcube.errors import ConfigError, SchemaError, StoreError, UnknownNameError
from fluxcube.evaluation.sitemeans import site_mean_table, site_scores
from fluxcube.evaluation.sums import site_sums
from fluxcube.plotting.canvas import class_styles, new_panels
from fluxcube.plotting.sites import plot_class_changes, plot_embedding, plot_site_changes
from fluxcube.simulation.example import example_cube

optional("matplotlib")
CLASSES = ["DBF", "DBF", "WET", "CRO", "", "WET", "DBF"]


def embedding(values, classes=CLASSES):
    coords = {
        "igbp": ("site", np.array(classes, object)),
        "koppen": ("site", np.array(["Dfb", "Cfa"] * 9)[: len(classes)]),
    }
    return xr.DataArray(np.asarray(values, float), coords, ("site", "embedding"))


def dots(ax):
    """Where the dots of each class are, by the class's name."""
    from matplotlib.collections import PathCollection

    found = [c for c in ax.collections if isinstance(c, PathCollection)]
    return {c.get_label().split(" (")[0]: np.asarray(c.get_offsets()) for c in found}


def key(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.fixture(scope="module")
def sums():
    cube = example_cube(sites=9, days=4)
    rng = np.random.default_rng(0)
    size = xr.DataArray(rng.uniform(0.5, 2, (3, 9)), dims=("model", "site"))
    predictions = {name: cube.fluxes + size[i] for i, name in enumerate(("trees", "lstm", "tam"))}
    return site_sums(cube, {k: v.sel(target=["NEE", "GPP_NT"]) for k, v in predictions.items()})


@pytest.fixture(scope="module")
def means(sums):
    return pd.concat([site_mean_table(sums, by=by, clusters=0, draws=200) for by in (None, "igbp")])


def test_classes_never_share_both_colour_and_marker():
    for labels in ([*IGBP_NUMBERS, "unknown"], [f"N{i}" for i in range(70)], ["A", "B", "C", "D", "E", "unknown"]):
        styles = class_styles(labels)
        assert list(styles) == sorted(labels) and len(set(styles.values())) == len(labels)


def test_an_embedding_of_two_features_is_only_rotated():
    values = np.random.default_rng(0).normal(size=(7, 2)) * [3, 1] + 5
    ax = plot_embedding(embedding(values))
    drawn = np.concatenate(list(dots(ax).values()))
    order = np.argsort(["unknown" if c == "" else c for c in CLASSES], kind="stable")

    def distances(points):
        return np.linalg.norm(points[:, None] - points[None], axis=-1)

    np.testing.assert_allclose(distances(drawn), distances(values[order]))
    np.testing.assert_allclose(drawn.mean(0), 0, atol=1e-12)
    assert np.ptp(drawn[:, 0]) > np.ptp(drawn[:, 1]) and abs(np.cov(drawn.T)[0, 1]) < 1e-12
    assert key(ax) == ["CRO (1)", "DBF (3)", "WET (2)", "unknown (1)"]


def test_axis_labels_report_shares_of_variance():
    values = np.zeros((5, 3))
    values[:, 0], values[:, 2] = [3, -3, 0, 0, 0], [0, 0, 0, 1, -1]  # 18 and 2 of 20
    ax = plot_embedding(embedding(values, CLASSES[:5]), color="koppen", title="mine")
    assert "(90% of variance)" in ax.get_xlabel() and "(10% of variance)" in ax.get_ylabel()
    assert key(ax) == ["C (2)", "D (3)"] and ax.get_title() == "mine"
    one = plot_embedding(embedding(values[:, :1], CLASSES[:5]))
    assert "(100% of variance)" in one.get_xlabel() and "(0% of variance)" in one.get_ylabel()


def test_figures_are_written_to_path(tmp_path, sums, means):
    plot_embedding(embedding(np.eye(7)), tmp_path / "e.png")
    plot_class_changes(means, tmp_path / "c.png")
    plot_site_changes(site_scores(sums), tmp_path / "s.png", model="tam")
    assert all((tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in "ecs")
    with pytest.raises(StoreError, match="does not exist"):
        plot_embedding(embedding(np.eye(7)), tmp_path / "no/e.png")


def test_invalid_embeddings_are_refused():
    with pytest.raises(SchemaError, match="site, feature"):
        plot_embedding(embedding(np.eye(7)).isel(embedding=0))
    with pytest.raises(SchemaError, match="igbp"):
        plot_embedding(embedding(np.eye(7)).drop_vars("igbp"))
    with pytest.raises(SchemaError, match="same everywhere"):
        plot_embedding(embedding(np.ones((7, 2))))
    with pytest.raises(SchemaError, match="same everywhere"):
        plot_embedding(embedding(np.full((9, 2), 1 / 3), ["DBF"] * 9))  # of which a mean differs by rounding
    with pytest.raises(SchemaError, match="missing"):
        plot_embedding(embedding(np.full((7, 2), np.nan)))
    with pytest.raises(UnknownNameError, match="koppen"):
        plot_embedding(embedding(np.eye(7)), color="biome")


def test_changes_by_class_equal_those_of_the_table(means):
    from matplotlib.collections import LineCollection, PathCollection

    axes = plot_class_changes(means, targets=["GPP_NT", "NEE"])
    assert [ax.get_title() for ax in axes] == ["GPP_NT", "NEE"]
    rows = means[(means.target == "NEE") & (means.model == "tam")].set_index("group")
    sites = rows.n_sites.drop("all").sort_index().sort_values(ascending=False, kind="stable")
    order = ["all", *sites.index]
    lines = [c for c in axes[1].collections if isinstance(c, LineCollection)][1]  # the second model drawn
    ends = np.array([segment[:, 0] for segment in lines.get_segments() if len(segment)])
    known = rows.loc[order].dropna(subset=["rmse_change_low"])
    np.testing.assert_allclose(ends, 100 * known[["rmse_change_low", "rmse_change_high"]])
    # of each model the solid dots, then the hollow ones of classes of few sites
    solid, hollow = [np.asarray(c.get_offsets()) for c in axes[1].collections if isinstance(c, PathCollection)][2:4]
    few = rows.loc[order].counted.isin([False])
    np.testing.assert_allclose(solid[:, 0], 100 * rows.loc[order][~few].rmse_change)
    np.testing.assert_allclose(hollow[:, 0], 100 * rows.loc[order][few].rmse_change)
    labels = [label.get_text() for label in axes[0].get_yticklabels()]
    assert labels == [f"{'all sites' if g == 'all' else g} ({rows.n_sites[g]})" for g in order]
    assert key(axes[1]) == ["lstm", "tam", "hollow: few sites"] and "better than trees" in axes[0].get_xlabel()
    low, high = axes[1].get_xlim()
    both = 100 * means[means.target == "NEE"].rmse_change
    assert low < min(0, both.min()) and high > max(0, both.max())


def test_models_panels_and_classes_can_be_chosen(means, sums):
    panels = new_panels(1, (4, 4))
    (ax,) = plot_class_changes(means, targets=["NEE"], models=["tam"], axes=panels)
    assert ax is panels[0] and key(ax)[0] == "tam" and "lstm" not in key(ax)
    (whole,) = plot_class_changes(site_mean_table(sums, clusters=0), targets=["NEE"])
    assert [t.get_text() for t in whole.get_yticklabels()] == ["all sites (9)"] and "hollow" not in " ".join(key(whole))
    with pytest.raises(UnknownNameError, match="lstm"):
        plot_class_changes(means, models=["lstn"])
    with pytest.raises(UnknownNameError, match="GPP_NT"):
        plot_class_changes(means, targets=["GPP"])
    with pytest.raises(ConfigError, match=r"2 .*found 1 axes"):
        plot_class_changes(means, axes=panels)
    with pytest.raises(ConfigError, match="rmse_change"):
        plot_class_changes(site_scores(sums))
    with pytest.raises(ConfigError, match="second model"):
        plot_class_changes(means[means.model == "trees"])


def test_each_site_is_drawn_at_its_two_errors(sums):
    table = site_scores(sums)
    axes = plot_site_changes(table, model="tam", targets=["NEE"])
    wide = table[table.target == "NEE"].pivot(index=["igbp", "site"], columns="model", values="rmse")
    for name, points in dots(axes[0]).items():
        np.testing.assert_allclose(points, wide.loc[name][["trees", "tam"]])
    better = int((wide.tam < wide.trees).sum())
    assert axes[0].get_title() == f"NEE: lower at {better} of 9 sites ({better / 9:.0%})"
    assert axes[0].get_xlim() == axes[0].get_ylim() and axes[0].get_xlim()[1] > wide[["trees", "tam"]].max().max()
    x, y = axes[0].lines[0].get_data()
    np.testing.assert_array_equal(x, y)
    assert axes[0].get_ylabel() == "RMSE of tam (µmol m⁻² s⁻¹)"
    (turned,) = plot_site_changes(table, model="trees", against="tam", targets=["NEE"])
    assert f"lower at {9 - better} of 9" in turned.get_title()


def test_sites_can_be_coloured_by_climate(sums):
    table = site_scores(sums).assign(koppen="Dfb")
    assert key(plot_site_changes(table, model="tam", color="koppen")[-1]) == ["D (9)"]
    with pytest.raises(UnknownNameError, match="tam"):
        plot_site_changes(table, model="tamm")
    with pytest.raises(ConfigError, match="site_scores"):
        plot_site_changes(table.drop(columns="igbp"), model="tam")
