"""Scores of sites, and their means by class: hand-worked numbers, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from fluxcube.errors import ConfigError, SchemaError, UnknownNameError
from fluxcube.evaluation.sitemeans import site_mean_table, site_scores
from fluxcube.evaluation.sums import site_sums

#: Offsets of two models at each site, which are its RMSE.
FIRST = [1.0, 2.0, 3.0, 4.0, 4.0, 1.0, 2.0]
SECOND = [0.5, 1.0, 3.0, 5.0, 7.0, 0.5, 1.0]
CLASSES = ["DBF", "DBF", "DBF", "WET", "WET", "", ""]


def made(rows=40, classes=CLASSES, apart=2.0):
    """Observations that alternate between 1 and -1, and two models that are off by so much."""
    n = len(classes)
    values = np.tile([1.0, -1.0], (n, rows // 2))
    obs = xr.DataArray(
        values,
        dims=("site", "time"),
        name="NEE",
        coords={
            "site": [f"XX-{i}" for i in range(n)],
            "time": np.datetime64("2010-01-01", "ns") + np.arange(rows) * np.timedelta64(1, "D"),
            "igbp": ("site", np.array(classes, object)),
            "koppen": ("site", np.array(["Dfb", "Dfc", "Cfa", "Cfb", "Csa", "Dwc", "ET"][:n], object)),
            "latitude": ("site", np.zeros(n)),
            "longitude": ("site", apart * np.arange(n)),
        },
    )
    models = {"first": FIRST, "second": SECOND}
    return obs, {name: obs + xr.DataArray(off[:n], dims="site") for name, off in models.items()}


def sums_of(**options):
    obs, predictions = made(**options)
    return site_sums(obs, predictions, min_quality=None)


def rows_of(table, **at):
    return table[(table[list(at)] == list(at.values())).all(axis=1)].iloc[0]


def test_each_site_has_its_scores():
    table = site_scores(sums_of())
    second = table[table.model == "second"]
    np.testing.assert_allclose(second.rmse, SECOND)
    np.testing.assert_allclose(second.nse, 1 - np.square(SECOND))
    assert list(second.igbp) == CLASSES and set(table.n) == {40} and list(second.site) == [f"XX-{i}" for i in range(7)]
    assert set(table.units) == {"umol m-2 s-1"} and table.attrs["against"] == "first"


def test_means_of_a_class_are_those_of_its_sites():
    table = site_mean_table(sums_of(), by="igbp", clusters=0, draws=200)
    assert list(dict.fromkeys(table.group)) == ["unknown", "DBF", "WET"]
    row = rows_of(table, group="DBF", model="second")
    assert [row.rmse, row.rmse_change, row.n_sites, row.n_clusters] == pytest.approx([4.5 / 3, 1.5 / 2 - 1, 3, 3])
    assert [row.nse, row.nse_diff] == pytest.approx([1 - 10.25 / 3, (14 - 10.25) / 3])
    # by site the change is -50, -50 and 0 %
    assert -0.5 <= row.rmse_change_low < row.rmse_change < row.rmse_change_high <= 1e-12
    wet = rows_of(table, group="WET", model="second")
    assert wet.rmse_change == pytest.approx(0.5) and np.isnan(wet.rmse_change_low), "two sites have no interval"
    assert not table.counted.any(), "no class has five sites"


def test_a_class_does_not_depend_on_the_others_and_classes_add_up_to_all():
    sums = sums_of()
    alone = site_mean_table(sums_of(classes=CLASSES[:3]), by="igbp", clusters=0, draws=200)
    together = site_mean_table(sums, by="igbp", clusters=0, draws=200)
    among = together[together.group == "DBF"].reset_index(drop=True)
    assert among.equals(alone)
    whole = rows_of(site_mean_table(sums, clusters=0), model="second")
    second = together[together.model == "second"]
    assert whole.group == "all" and whole.n_sites == second.n_sites.sum()
    assert whole.rmse == pytest.approx(np.average(second.rmse, weights=second.n_sites))


def test_what_is_alike_at_every_site_has_no_width():
    obs, predictions = made()
    predictions["second"] = obs + 0.9 * (predictions["first"] - obs)
    table = site_mean_table(site_sums(obs, predictions, min_quality=None), by="igbp", clusters=0, draws=200)
    row = rows_of(table, group="DBF", model="second")
    assert row[["rmse_change", "rmse_change_low", "rmse_change_high"]].tolist() == pytest.approx([-0.1] * 3)
    assert row.rmse_low < row.rmse < row.rmse_high


def test_classes_are_main_climates_and_clusters_those_of_the_class():
    sums = sums_of(apart=0.2)  # 22 km: all sites in a row are one cluster of 50 km
    table = site_mean_table(sums, by="koppen", draws=200)
    assert list(dict.fromkeys(table.group)) == ["C", "D", "E"] and set(table.n_clusters) == {1}
    assert rows_of(table, group="D", model="first").rmse == pytest.approx((1 + 2 + 1) / 3)
    apart = site_mean_table(sums, by="koppen", clusters=0, draws=200)
    assert apart.drop_duplicates("group").n_clusters.tolist() == [3, 3, 1]
    assert apart.rmse.equals(table.rmse)


def test_the_model_of_reference_can_be_chosen():
    one, other = (site_mean_table(sums_of(), by="igbp", against=name) for name in ("first", "second"))
    there = rows_of(one, group="WET", model="second").rmse_change + 1
    back = rows_of(other, group="WET", model="first").rmse_change + 1
    assert there * back == pytest.approx(1) and other.attrs["against"] == "second"


def test_a_class_without_rows_enough_is_told():
    obs, predictions = made()
    few = obs.where((obs.igbp != "WET") | (obs.time < obs.time[29]))
    sums = site_sums(few, predictions, min_quality=None)
    table = site_mean_table(sums, by="igbp", clusters=0, draws=100)
    row = rows_of(table, group="WET", model="second")
    assert row.n_sites == 0 and np.isnan([row.rmse, row.nse, row.rmse_change, row.rmse_low]).all()
    assert set(site_scores(sums).site) == {"XX-0", "XX-1", "XX-2", "XX-5", "XX-6"}
    assert len(site_scores(sums, min_steps=29)) == 14
    with pytest.raises(ConfigError, match="no site has 99 scored"):
        site_scores(sums, min_steps=99)


def test_what_cannot_be_grouped_is_named():
    with pytest.raises(UnknownNameError, match="igbp"):
        site_mean_table(sums_of(), by="igpb")
    obs, predictions = made()
    with pytest.raises(SchemaError, match="koppen"):
        site_mean_table(site_sums(obs.drop_vars("koppen"), predictions, min_quality=None), by="koppen")
