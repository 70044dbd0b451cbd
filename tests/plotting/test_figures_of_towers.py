"""Maps, series, cycles and scatter of towers show the values of their cube, and say what to type if they cannot."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from packages import optional

import fluxcube as fc
from fluxcube.errors import ConfigError, MissingPackageError, SchemaError, UnknownNameError
from fluxcube.plotting.canvas import class_styles, new_axes, save_picture
from fluxcube.simulation.example import example_cube

optional("matplotlib")


@pytest.fixture(scope="module")
def cube():
    return example_cube(sites=4, days=20, gaps=0.05).load()


@pytest.fixture(scope="module")
def predicted(cube):
    noise = np.random.default_rng(0).normal(size=(4, 480))
    nee = (cube.fluxes.sel(target="NEE", drop=True).fillna(0.0) + noise).assign_attrs(units="umol m-2 s-1")
    return xr.Dataset({"NEE": nee, "NEE_std": xr.full_like(nee, 2.0)})


def places_drawn(ax):
    """Offsets of all markers, by the label of their class."""
    from matplotlib.collections import PathCollection

    found = [c for c in ax.collections if isinstance(c, PathCollection)]
    return {c.get_label().split(" (")[0]: np.asarray(c.get_offsets()) for c in found}


def test_every_tower_is_at_its_place_in_the_colour_of_its_class(cube):
    ax = fc.plot_sites(cube, by="igbp", names=True)
    drawn = places_drawn(ax)
    for name in np.unique(cube.igbp):
        here = cube.igbp.values == name
        np.testing.assert_allclose(drawn[name], np.stack([cube.longitude, cube.latitude], 1)[here])
    colors = {
        t.get_text().split(" (")[0]: h
        for t, h in zip(ax.get_legend().get_texts(), ax.get_legend().legend_handles, strict=True)
    }
    from matplotlib.colors import to_hex

    for name, (color, _) in class_styles(np.unique(cube.igbp)).items():
        assert to_hex(colors[name].get_facecolor()[0]).lower() == color.lower()
    assert {t.get_text() for t in ax.texts} == set(cube.site.values)


def test_known_towers_are_drawn_with_their_number_per_class():
    known = fc.known_sites()
    ax = fc.plot_sites(known, by="network")
    first = known.networks.str.split(";").str[0].replace("", "unknown")
    texts = {t.get_text() for t in ax.get_legend().get_texts()}
    assert texts == {f"{name} ({n})" for name, n in first.value_counts().items()}
    assert sum(len(points) for points in places_drawn(ax).values()) == len(known) == 848
    assert ax.get_title() == "848 towers"
    europe = fc.plot_sites(known, bbox=(-12, 35, 35, 71))
    inside = known.longitude.between(-12, 35) & known.latitude.between(35, 71)
    assert europe.get_title() == f"{inside.sum()} towers"


def test_colours_of_a_score_are_those_of_its_values(cube, predicted):
    scores = fc.evaluate(cube, predicted, by="site")
    ax = fc.plot_sites(cube, by=scores.nse.sel(target="NEE"))
    dots = list(places_drawn(ax).values())[-1]
    drawn = next(c for c in ax.collections if c.get_array() is not None)
    by_place = dict(zip(map(tuple, np.round(dots, 6)), drawn.get_array(), strict=True))
    for site, lon, lat in zip(cube.site.values, cube.longitude.values, cube.latitude.values, strict=True):
        expected = float(scores.nse.sel(group=site, target="NEE"))
        assert by_place[round(float(lon), 6), round(float(lat), 6)] == pytest.approx(expected)
    assert ax.child_axes[0].get_ylabel() == "NSE"
    frame = pd.DataFrame({"site": cube.site, "latitude": cube.latitude, "longitude": cube.longitude, "elevation": 5.0})
    assert fc.plot_sites(frame, by="elevation").child_axes[0].get_ylabel() == "elevation (m)"


def test_towers_across_the_antimeridian_are_in_one_region():
    table = pd.DataFrame({"site": ["a", "b"], "latitude": [65.0, 66.0], "longitude": [175.0, -172.0]})
    ax = fc.plot_sites(table, by=None)
    west, east = ax.get_xlim()
    assert 165 < west < 175 < 188 < east < 200


def test_towers_without_places_or_values_are_refused(cube):
    with pytest.raises(SchemaError, match="known_sites"):
        fc.plot_sites(pd.DataFrame({"site": ["a"]}))
    with pytest.raises(UnknownNameError, match="igbp"):
        fc.plot_sites(cube, by="igpb")
    with pytest.raises(SchemaError, match='by="site"'):
        fc.plot_sites(cube, by=pd.Series([1.0], ["other"]))
    with pytest.raises(ConfigError, match="none of the 4 towers"):
        fc.plot_sites(cube, bbox=(100, -40, 120, -20))
    with pytest.raises(SchemaError, match="latitude"):
        fc.plot_sites(cube.drop_vars("latitude"))


def lines_of(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def test_a_series_shows_measured_and_filled_values_apart_and_gaps_as_gaps(cube, predicted):
    gone = predicted.isel(time=[i for i in range(480) if not 100 <= i < 130])
    (ax,) = fc.plot_series(cube, gone, sites="XX-S01", targets="NEE")
    drawn = lines_of(ax)
    one = cube.sel(site="XX-S01", target="NEE")
    for label, flagged in (("observed", one.fluxes_qc == 0), ("filled", one.fluxes_qc > 0)):
        expected = one.fluxes.where(flagged).dropna("time")
        if len(expected):
            np.testing.assert_allclose(drawn[label].get_ydata(), expected.values)
    y = drawn["predicted"].get_ydata()
    assert np.isnan(y).sum() == 1, "the line is interrupted once"
    np.testing.assert_allclose(y[~np.isnan(y)], gone.NEE.sel(site="XX-S01").values)
    band = next(c for c in ax.collections if "90 %" in c.get_label())
    heights = band.get_paths()[0].get_extents().height
    assert heights >= np.ptp(gone.NEE.sel(site="XX-S01").values[:100]) + 2 * 1.6 * 2.0
    assert ax.get_ylabel() == "µmol m⁻² s⁻¹"


def test_daily_means_are_those_of_xarray(cube, predicted):
    (ax,) = fc.plot_series(cube, predicted, sites="XX-S00", targets="NEE", every="day")
    expected = predicted.NEE.sel(site="XX-S00").resample(time="D").mean()
    np.testing.assert_allclose(lines_of(ax)["predicted"].get_ydata(), expected.values, rtol=1e-5)
    assert ax.get_title(loc="left") == "XX-S00: NEE, daily means"
    assert not [c for c in ax.collections if "90 %" in c.get_label()], "an interval of an hour is none of a day"
    other = predicted.NEE * 1e-3
    (ax,) = fc.plot_series(
        cube, {"milli": other.assign_attrs(units="mmol m-2 s-1").to_dataset(name="NEE")}, sites="XX-S00"
    )
    np.testing.assert_allclose(lines_of(ax)["milli"].get_ydata(), predicted.NEE.sel(site="XX-S00").values, rtol=1e-5)


def test_series_of_variables_and_of_predictions_alone(cube, predicted, tmp_path):
    axes = fc.plot_series(cube, path=tmp_path / "ta.png", variables=["TA", "VPD"], sites=["XX-S00", "XX-S02"])
    assert [ax.get_title(loc="left") for ax in axes] == ["XX-S00: TA", "XX-S00: VPD", "XX-S02: TA", "XX-S02: VPD"]
    assert (tmp_path / "ta.png").read_bytes()[:4] == b"\x89PNG"
    assert len(fc.plot_series(predicted)) == 3
    with pytest.raises(UnknownNameError, match="XX-S00"):
        fc.plot_series(cube, sites="XX-S0")
    with pytest.raises(UnknownNameError, match="NEE"):
        fc.plot_series(cube, targets="NE")
    with pytest.raises(ConfigError, match="2018-06-01 to"):
        fc.plot_series(cube, time="2019")
    with pytest.raises(UnknownNameError, match="day"):
        fc.plot_series(cube, every="week")


def test_towers_without_values_in_the_period_are_left_out(cube, caplog):
    empty = cube.assign(fluxes=cube.fluxes.where((cube.site != "XX-S00") & (cube.time >= cube.time[240])))
    axes = fc.plot_series(empty, targets="NEE", sites=["XX-S00", "XX-S01"], time=slice("2018-06-12", "2018-06-13"))
    assert [ax.get_title(loc="left") for ax in axes] == ["XX-S01: NEE"]
    assert "observed" in [text.get_text() for text in axes[0].get_legend().get_texts()]
    limits = [str(np.datetime64(round(24 * x), "h")) for x in axes[0].get_xlim()]
    assert limits == ["2018-06-12T00", "2018-06-14T00"]
    assert "no value in the period: XX-S00" in caplog.text
    fc.plot_series(cube, targets="NEE")
    assert "3 of 4 towers are drawn, XX-S00, XX-S01, XX-S02: name others with sites=[...]" in caplog.text
    with pytest.raises(ConfigError, match="XX-S01 has values from 2018-06-11 to"):
        fc.plot_series(empty, targets="NEE", sites="XX-S01", time="2018-06-02")


def test_ticks_of_dates_give_no_warning():
    from matplotlib.dates import AutoDateLocator

    ax = new_axes(None, (4, 3))
    ax.plot([np.datetime64("2018-01-01"), np.datetime64("2018-12-31")], [0, 1])
    ax.xaxis.set_major_locator(AutoDateLocator(minticks=1, maxticks=1, interval_multiples=False))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_picture(ax, None)


def test_the_diurnal_cycle_is_the_mean_of_each_local_hour(cube, predicted):
    axes = fc.plot_cycle(cube, predicted, by=None)
    assert [ax.get_xlabel() for ax in axes] == ["local solar hour"], "twenty days have no seasonal cycle"
    drawn = lines_of(axes[0])
    one = cube.sel(target="NEE")
    flux = one.fluxes.where(one.fluxes_qc == 0).stack(row=("site", "time")).dropna("row")
    middle = flux.time + np.timedelta64(30, "m") + (flux.longitude * 240 * 1e9).astype("timedelta64[ns]")
    frame = pd.DataFrame({"site": flux.site, "hour": middle.dt.hour, "value": flux.values})
    expected = frame.groupby(["site", "hour"]).value.mean().groupby("hour").mean()
    np.testing.assert_allclose(drawn["observed"].get_ydata(), expected.values, rtol=1e-4)
    assert set(drawn) >= {"observed", "predicted"}
    (ax,) = fc.plot_cycle(cube, by=None)
    assert [t.get_text() for t in ax.figure.legends[0].get_texts()] == [
        "observed, 10th to 90th percentile of sites",
        "observed",
    ]


def test_cycles_by_class_and_by_site(cube, predicted):
    axes = fc.plot_cycle(cube, predicted, by="igbp")
    assert next(ax.get_title() for ax in axes) == "all sites (4)" and len(axes) == 1 + len(np.unique(cube.igbp))
    axes = fc.plot_cycle(cube, by="site", panels=["XX-S01", "XX-S02"])
    assert [ax.get_title() for ax in axes] == ["XX-S01 (1)", "XX-S02 (1)"]
    with pytest.raises(ConfigError, match='cycle="diurnal"'):
        fc.plot_cycle(cube, cycle="seasonal")
    with pytest.raises(ConfigError, match='"both"'):
        fc.plot_cycle(cube, cycle="annual")
    with pytest.raises(SchemaError, match="second argument"):
        fc.plot_cycle(predicted)


def test_groups_that_are_not_drawn_are_named(cube, caplog, monkeypatch):
    monkeypatch.setattr("fluxcube.figures.cycles._GROUPS", 3)
    assert len(fc.plot_cycle(cube, by="site")) == 3
    assert "3 of 5 groups are drawn, not XX-S02, XX-S03: draw them with panels=[...]" in caplog.text
    caplog.clear()
    fc.plot_cycle(cube, by="site", panels=["XX-S02"])
    assert not caplog.text


def test_scatter_has_the_rows_and_scores_of_evaluate(cube, predicted):
    (ax,) = fc.plot_scatter(cube, predicted)
    scores = fc.evaluate(cube, predicted).sel(target="NEE")
    text = ax.texts[0].get_text()
    assert f"NSE {float(scores.nse):.2f}, RMSE {float(scores.rmse):.2f}" in text and f"n = {int(scores.n):,}" in text
    axes = fc.plot_scatter(cube, predicted, by="igbp")
    names = {ax.get_title() for ax in axes}
    assert names == {f"{name} (1 site)" for name in np.unique(cube.igbp)}
    total = sum(int(ax.texts[0].get_text().split("n = ")[1].split()[0].replace(",", "")) for ax in axes)
    assert total == int(scores.n)
    two = fc.plot_scatter(cube, {"one": predicted, "two": predicted * 1.1})
    assert [ax.get_title() for ax in two] == ["one", "two"]
    assert {ax.collections[0].get_clim() for ax in two} == {ax.collections[0].get_clim() for ax in two[:1]}
    with pytest.raises(ConfigError, match="pass the predictions of one"):
        fc.plot_scatter(cube, {"one": predicted, "two": predicted}, by="igbp")
    with pytest.raises(UnknownNameError, match="NEE"):
        fc.plot_scatter(cube, predicted, target="NE")


@pytest.mark.parametrize("draw", ["plot_sites", "plot_series", "plot_cycle"])
def test_without_matplotlib_every_figure_names_the_extra(draw, cube, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(MissingPackageError, match=r"fluxcube\[plot\]"):
        getattr(fc, draw)(cube)


def test_a_notebook_shows_figures_and_leaves_those_of_others_alone(cube, predicted):
    from matplotlib.figure import Figure

    (one,) = panels = fc.plot_series(cube, predicted, sites="XX-S00", targets="NEE")
    assert isinstance(panels, tuple) and panels.figure is one.figure
    for shown in (panels, one, one.figure, fc.plot_sites(cube), fc.plot_cycle(cube, by=None)):
        assert shown._repr_png_().startswith(b"\x89PNG")
    theirs = Figure().subplots()
    assert not hasattr(fc.plot_sites(cube, ax=theirs), "_repr_png_") and not hasattr(theirs.figure, "_repr_png_")


def test_rows_outside_the_axes_of_a_scatter_are_counted(cube, predicted):
    far = predicted.copy(deep=True)
    far["NEE"][0, 0] = 1e4
    (ax,) = fc.plot_scatter(cube, far, target="NEE")
    shown, total = int(ax.collections[0].get_array().sum()), int(fc.evaluate(cube, far).n.sel(target="NEE"))
    assert 0 < total - shown < 20 and f"n = {total:,} ({total - shown} not shown)" in ax.texts[0].get_text()


def test_towers_without_a_value_are_named(cube):
    values = pd.Series([0.5, 0.25, np.nan], cube.site.values[:3])
    texts = fc.plot_sites(cube.isel(site=[0, 1, 2]), by=values).get_legend().get_texts()
    assert [text.get_text() for text in texts] == ["no value"]
    assert fc.plot_sites(cube.isel(site=[0, 1]), by=values[:2]).get_legend() is None


def test_lines_of_a_scatter_are_named(cube, predicted):
    (ax,) = fc.plot_scatter(cube, predicted, target="NEE")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["1:1", "regression"]
