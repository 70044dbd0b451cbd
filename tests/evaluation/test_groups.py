"""Groups of sites and time steps, several models, time scales, rows that each step left, and reasons of NaN."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from kernels import KERNELS

import fluxcube as fc
from fluxcube.errors import ConfigError, SchemaError, UnknownNameError
from fluxcube.evaluation import periods as periods_module
from fluxcube.evaluation.continents import CONTINENTS, continent_at, continents_of
from fluxcube.evaluation.groups import GROUPS
from fluxcube.evaluation.masks import subset_masks
from fluxcube.evaluation.periods import SEASONS, TIMES_OF_DAY
from fluxcube.evaluation.report import read_sums, write_sums
from fluxcube.evaluation.skill import evaluate_sums, score_table
from fluxcube.evaluation.sums import Sums, site_sums
from fluxcube.evaluation.timescales import SCALES, scale_sums
from fluxcube.simulation.example import example_cube

CLASSES = ("DBF", "GRA", "DBF", "ENF")


@pytest.fixture(scope="module")
def cube():
    """Four towers of two years, every third hour missing at random; one is in the south."""
    rng = np.random.default_rng(0)
    time = np.arange("2003-03-01", "2005-03-01", dtype="datetime64[h]").astype("datetime64[ns]")
    hour = np.arange(len(time))
    values = 3 * np.sin(2 * np.pi * hour / 24) + 4 * np.sin(2 * np.pi * hour / 8766) + rng.normal(0, 1, (4, len(time)))
    values[rng.random(values.shape) < 0.3] = np.nan
    coords = {
        "site": np.array(["US-Ha1", "DE-Tha", "AU-Tum", "my tower"], object),
        "time": time,
        "latitude": ("site", [42.5, 51.0, -35.7, 60.0]),
        "longitude": ("site", [-72.2, 13.6, 148.2, 100.0]),
        "igbp": ("site", np.array(CLASSES, object)),
        "koppen": ("site", np.array(["Dfb", "Cfb", "Cfb", ""], object)),
    }
    return xr.Dataset({"NEE": (("site", "time"), values, {"units": "umol m-2 s-1"})}, coords=coords)


@pytest.fixture(scope="module")
def predictions(cube):
    rng = np.random.default_rng(1)
    noise = xr.DataArray(rng.normal(0, 1, cube.NEE.shape), dims=("site", "time"))
    holes = xr.DataArray(rng.random(cube.NEE.shape) > 0.1, dims=("site", "time"))
    good, bad = cube.NEE + noise, (cube.NEE * 0.5 + 1).where(holes)
    return {name: one.fillna(0.0).where(holes).to_dataset(name="NEE") for name, one in (("good", good), ("bad", bad))}


def common(cube, predictions):
    obs, preds = cube.NEE.values, [p.NEE.values for p in predictions.values()]
    return np.where(np.isfinite([obs, *preds]).all(0), obs, np.nan), preds


def local(cube):
    """Local mean solar times (site, time) of the beginning of each hour."""
    shift = np.round(cube.longitude.values * 240).astype("timedelta64[s]")
    return cube.time.values.astype("datetime64[s]") + shift[:, None]


def periods(cube):
    """The label of each (site, time), by kind, from pandas."""
    out: dict[str, list] = {"season": [], "year": [], "time_of_day": []}
    for time, latitude in zip(local(cube), cube.latitude.values, strict=True):
        stamp = pd.DatetimeIndex(time)
        season = np.array([0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 0])[stamp.month - 1]
        out["season"].append(np.array(SEASONS)[(season + 2 * (latitude < 0)) % 4])
        out["year"].append(stamp.year.astype(str).to_numpy())
        middle = (stamp + pd.Timedelta("30min")).hour
        edges = ((22, 30), (6, 10), (10, 14), (14, 18), (18, 22))
        label = np.array(["night"] * len(stamp), object)
        for name, (start, stop) in zip(TIMES_OF_DAY[1:], edges[1:], strict=True):
            label[(middle >= start) & (middle < stop)] = name
        out["time_of_day"].append(label)
    return {kind: np.array(values, object) for kind, values in out.items()}


@pytest.mark.parametrize("by", ["season", "year", "time_of_day"])
def test_periods_are_those_of_the_local_time(cube, predictions, by):
    found = fc.evaluate(cube, predictions, by=by, max_qc=None).sel(target="NEE")
    label = periods(cube)[by]
    obs, preds = common(cube, predictions)
    assert found.nse.dims == ("model", "group")
    assert set(found.group.values) == set(np.unique(label.astype(str))), "no year without a time step"
    for group, (i, pred) in itertools.product(found.group.values, enumerate(preds)):
        inside = np.where(label == group, obs, np.nan)
        for name, kernel in KERNELS.items():
            np.testing.assert_allclose(found[name].sel(group=group)[i], kernel(inside, pred), rtol=1e-9)
    assert int(found.n.isel(model=0).sum()) == np.isfinite(obs).sum()


def test_two_groupings_at_once(cube, predictions):
    found = fc.evaluate(cube, predictions, by=("igbp", "season"), max_qc=None).sel(target="NEE", model="good")
    assert found.group.values[:2].tolist() == ["DBF, winter", "DBF, spring"] and found.sizes["group"] == 12
    obs, (pred, _) = common(cube, predictions)
    season = periods(cube)["season"]
    for igbp, name in itertools.product(sorted(set(CLASSES)), SEASONS):
        inside = np.where((season == name) & (np.array(CLASSES) == igbp)[:, None], obs, np.nan)
        one = found.sel(group=f"{igbp}, {name}")
        np.testing.assert_allclose(one.nse, KERNELS["nse"](inside, pred), rtol=1e-9)
        assert one.igbp == igbp and one.season == name
    table = found.set_index(group=["igbp", "season"]).unstack("group").rmse
    assert table.sel(igbp="ENF", season="summer") == found.rmse.sel(group="ENF, summer")
    swapped = fc.evaluate(cube, predictions, by="season,igbp", max_qc=None).sel(target="NEE", model="good")
    assert swapped.nse.sel(group="winter, DBF") == found.nse.sel(group="DBF, winter")
    both = fc.evaluate(cube, predictions["good"], by=("igbp", "koppen"), max_qc=None)
    classes = np.array(["DBF", np.nan, None, ""], object)
    unknown = fc.evaluate(cube.assign_coords(igbp=("site", classes)), predictions["good"], by="igbp", max_qc=None)
    assert unknown.group.values.tolist() == ["unknown", "DBF"]
    assert both.group.values.tolist() == ["DBF, Cfb", "DBF, Dfb", "ENF, unknown", "GRA, Cfb"], "no empty combination"


def test_continents_of_towers_and_of_places(cube, predictions):
    found = fc.evaluate(cube, predictions["good"], by="continent", max_qc=None)
    assert found.group.values.tolist() == ["Asia", "Europe", "North America", "Oceania"]
    assert found.n_sites.values.ravel().tolist() == [1, 1, 1, 1]
    named = cube.assign_coords(continent=("site", np.array(["x", "x", "y", ""], object)))
    assert fc.evaluate(named, predictions["good"], by="continent", max_qc=None).group.values.tolist() == (
        ["unknown", "x", "y"]
    )
    bare = cube.drop_vars(["latitude", "longitude"]).isel(site=[0, 1])
    assert fc.evaluate(bare, predictions["good"], by="continent", max_qc=None).sizes["group"] == 2
    assert continents_of(None, None, ["RU-Fyo", "GF-Guy", "GL-ZaH", "x"]).tolist() == (
        ["Europe", "South America", "North America", ""]
    )
    assert continents_of(np.array([62.0]), np.array([129.0]), ["RU-SkP"]).tolist() == ["Asia"]


def test_coordinates_of_the_known_towers_lie_on_the_continent_of_their_country():
    """Hawaii is the only one of 848 towers where coordinates and the country of the ID differ."""
    known = fc.known_sites()
    by_country = continents_of(known.latitude.values, known.longitude.values, known.site)
    by_place = continent_at(known.latitude.values, known.longitude.values)
    assert known.site[by_country != by_place].tolist() == ["US-xPU"]
    assert set(by_country) == set(CONTINENTS) - {"Antarctica"}
    assert continent_at(np.array([-75.0, np.nan]), np.array([0.0, 0.0])).tolist() == ["Antarctica", ""]
    assert continent_at(np.array([40.0]), np.array([280.0])).tolist() == ["North America"], "longitudes from 0 to 360"


def test_subsets_by_percentile():
    cube = example_cube(days=40)
    pred = {"a": cube.fluxes + 1}
    found = fc.evaluate(cube, pred, by="subset").sel(target="NEE", model="a")
    masks = subset_masks(cube)
    assert found.group.values.tolist() == ["all", *masks]
    heat = fc.evaluate(cube.assign(fluxes=cube.fluxes.where(masks.heat)), pred["a"]).sel(target="NEE")
    assert found.n.sel(group="heat") == heat.n > 0
    np.testing.assert_allclose(found.nse.sel(group="heat"), heat.nse, rtol=1e-9)
    assert found.n.sel(group="all") == fc.evaluate(cube, pred["a"]).n.sel(target="NEE")
    own = xr.Dataset({"first": masks.heat | True}).isel(time=slice(48))
    mine = fc.evaluate(cube, pred, by=("igbp", "subset"), subsets=own).sel(target="NEE", model="a")
    assert mine.group.values[:2].tolist() == ["CRO, all", "CRO, first"]
    assert 0 < mine.n.sel(group="CRO, first") <= 48
    with pytest.raises(SchemaError, match="subsets="):
        fc.evaluate(cube.fluxes, pred, by="subset", max_qc=None)
    sums = site_sums(cube, pred, periods=("subset",), subsets=masks)
    assert score_table(sums).n.tolist() == fc.compare(cube, pred).n.tolist(), "subsets overlap: they are not added"


def test_scales_and_groups_together(cube, predictions):
    found = fc.evaluate(cube, predictions, by="season", scales=True, max_qc=None)
    assert found.nse.dims == ("model", "scale", "group", "target") and found.scale.values.tolist() == list(SCALES)
    plain = fc.evaluate(cube, predictions, by="season", max_qc=None)
    xr.testing.assert_allclose(found.sel(scale="hourly", drop=True), plain)
    n = found.n.sel(model="good", target="NEE")
    whole = fc.evaluate(cube, predictions, scales=True, max_qc=None).n.sel(model="good", target="NEE")
    several = ["hourly", "daily", "weekly", "monthly", "seasonal", "anomaly"]
    assert (n.sel(scale=several).sum("group") == whole.sel(scale=several)).all()
    assert (n.sel(scale=["interannual", "spatial"]) == 0).all()
    assert (found.reason.sel(scale="spatial") == "groups of time steps are not defined at this scale").all()
    assert (found.reason.sel(scale=several) == "").all()
    by_class = fc.evaluate(cube, predictions, by="igbp", scales=["daily"], max_qc=None)
    one = fc.evaluate(cube.isel(site=[0, 2]), predictions, scales=["daily"], max_qc=None)
    np.testing.assert_allclose(by_class.nse.sel(group="DBF"), one.nse)
    hours = fc.evaluate(cube, predictions, by="time_of_day", scales=["hourly", "daily"], max_qc=None)
    assert hours.n.sel(scale="hourly").min() > 0 and hours.n.sel(scale="daily").max() == 0
    with pytest.raises(UnknownNameError, match="hourly, interannual"):
        fc.evaluate(cube, predictions, scales=["yearly"], max_qc=None)
    with pytest.raises(ConfigError, match="found none"):
        fc.evaluate(cube, predictions, scales=[], max_qc=None)


def test_values_of_scales_are_in_the_period_of_their_date(cube):
    """Monthly means of 2004 alone, computed with pandas from hours in local time."""
    one = cube.isel(site=[1])
    found = fc.evaluate(one, one.NEE * 0.5, by="year", scales=["monthly"], max_qc=None).isel(target=0)
    series = pd.Series(one.NEE.values[0], pd.DatetimeIndex(local(one)[0])).dropna()
    days = series.resample("D").agg(["mean", "count"])
    days = days["mean"][days["count"] >= 12]
    months = days.resample("MS").agg(["mean", "count"])
    months = months["mean"][(months["count"] >= 15)]
    for year in ("2003", "2004", "2005"):
        inside = months[months.index.year == int(year)].to_numpy()
        value = found.sel(scale="monthly", group=year)
        assert value.n == len(inside)
        np.testing.assert_allclose(value.bias, (inside * 0.5 - inside).mean(), rtol=1e-9)


def test_every_grouping_follows_from_one_pass(cube, predictions):
    sums = scale_sums(cube, predictions, max_qc=None, periods=("year", "season"))
    for by in (None, "igbp", "season", "year", ("igbp", "season"), ("year", "continent")):
        xr.testing.assert_allclose(
            evaluate_sums(sums, by=by), fc.evaluate(cube, predictions, by=by, scales=True, max_qc=None)
        )


def test_sums_of_periods_are_written_and_read(cube, predictions, tmp_path):
    parts = []
    for sites in ([0, 1], [2, 3]):
        part = cube.isel(site=sites, time=slice(0, 9000 if sites[0] else None))
        parts.append(site_sums(part, predictions, max_qc=None, periods=("year", "time_of_day")))
    joined = Sums.join(parts)
    back = read_sums(write_sums(joined, tmp_path / "sums.csv"))
    whole = site_sums(cube, predictions, max_qc=None, periods=("year", "time_of_day"))
    assert back.attrs["rows_scored"]["NEE"] == sum(part.attrs["rows_scored"]["NEE"] for part in parts)
    for by in (None, "year", "time_of_day", ("site", "year")):
        one, other = evaluate_sums(back, by=by), evaluate_sums(joined, by=by)
        xr.testing.assert_identical(one.drop_attrs(), other.drop_attrs())
    site = evaluate_sums(back, by=("site", "year")).rmse.sel(group="US-Ha1, 2004")
    np.testing.assert_allclose(site, evaluate_sums(whole, by=("site", "year")).rmse.sel(group="US-Ha1, 2004"))
    before = dataclasses.replace(parts[1], attrs={"row_mask": "as before"})
    assert Sums.join([parts[0], before]).attrs.keys() == parts[0].attrs.keys() - {
        f"rows_{step}" for step in ("observed", "after_quality", "common", "scored")
    }
    old = site_sums(cube, predictions, max_qc=None).to_frame()
    assert (old["season"] == "all").all() and "year" not in old
    seasonal = site_sums(cube, predictions, max_qc=None, seasons=True).to_frame()
    assert set(seasonal["season"]) == set(SEASONS)
    assert evaluate_sums(Sums.from_frame(seasonal), by="season").nse.shape == (2, 4, 1)
    with pytest.raises(ConfigError, match="periods"):
        evaluate_sums(Sums.from_frame(old), by="year")


def test_several_models_and_statistics_over_sites(cube, predictions, tmp_path):
    found = fc.evaluate(cube, predictions, max_qc=None)
    each = fc.evaluate(cube, predictions, by="site", max_qc=None)
    assert found.nse.dims == ("model", "target") and found.model.values.tolist() == ["good", "bad"]
    for name in ("nse", "rmse", "bias"):
        low, middle, high = (np.percentile(each[name], q, axis=1) for q in (10, 50, 90))
        np.testing.assert_allclose(found[f"{name}_site_p10"], low)
        np.testing.assert_allclose(found[f"{name}_site_median"], middle)
        np.testing.assert_allclose(found[f"{name}_site_p90"], high)
    metrics = found.to_array("metric")
    assert metrics.dtype == float and "rmse_site_p90" in metrics.metric.values
    assert found.rmse.attrs["units"] == "umol m-2 s-1" and found.nse.attrs["units"] == "1"
    assert found.nse_site_p10.attrs["long_name"] == (
        "Nash-Sutcliffe efficiency, 10th percentile over sites of the score of each"
    )
    found.to_netcdf(tmp_path / "scores.nc")
    with xr.open_dataset(tmp_path / "scores.nc") as back:
        np.testing.assert_allclose(back.rmse, found.rmse)
        assert back.attrs["rows_scored"] == found.attrs["rows_scored"]
    alone = fc.evaluate(cube, predictions["good"].where(predictions["bad"].NEE.notnull()), max_qc=None)
    assert alone.nse.dims == ("target",)
    xr.testing.assert_allclose(alone, found.sel(model="good", drop=True))


def test_intervals_are_those_of_the_table(cube, predictions):
    options = {"clusters": 0, "draws": 200, "against": "bad", "max_qc": None}
    found = fc.evaluate(cube, predictions, by="igbp", **options)
    table = fc.compare(cube, predictions, by="igbp", **options).set_index(["model", "group"])
    for name in ("nse_low", "nse_high", "rmse_diff", "nse_site_median_diff_low", "n_clusters"):
        expected = table[name].unstack("group").loc[["good", "bad"]]
        np.testing.assert_allclose(found[name].isel(target=0), expected)
    assert found.rmse_diff.attrs["long_name"].endswith("difference from bad") and found.attrs["against"] == "bad"
    scales = fc.compare(cube, predictions, scales=["daily", "hourly"], clusters=0, max_qc=None)
    assert scales.scale.tolist() == ["hourly", "hourly", "daily", "daily"] and (scales.nse_low <= scales.nse).all()
    with pytest.raises(UnknownNameError, match="model"):
        fc.evaluate(cube, predictions, max_qc=None, against="best")


def test_rows_that_each_step_left(cube, predictions):
    flags = xr.full_like(cube.NEE, 0).astype("int8")
    flags[:, ::5] = 2
    obs = cube.assign(NEE_QC=flags)
    short = predictions["good"].isel(time=slice(100, None), site=[0, 1, 3])
    for lazy in (False, True):
        data = (obs.chunk(site=1, time=5000), short.chunk(site=1)) if lazy else (obs, short)
        found = fc.evaluate(*data)
        sites = obs.isel(site=[0, 1, 3])
        good = sites.NEE.notnull() & (sites.NEE_QC == 0)
        steps = {
            "observed": sites.NEE.notnull().sum(),
            "after_quality": good.sum(),
            "common": good.isel(time=slice(100, None)).sum(),
            "scored": (good & short.NEE.notnull()).sum(),
        }
        assert {name: found.attrs[f"rows_{name}"] for name in steps} == {name: [int(n)] for name, n in steps.items()}
        assert found.attrs["rows_scored"] == found.n.values.tolist()
        scales = fc.evaluate(*data, scales=["hourly", "monthly"])
        assert scales.attrs["rows_common"] == found.attrs["rows_common"]
        assert scales.attrs["rows_scored"] == found.attrs["rows_scored"]


def test_reasons_of_undefined_scores(cube, predictions):
    obs = cube.NEE.copy(deep=True)
    obs[1] = 0.1
    obs[2, 1:] = np.nan
    obs[2, 0] = 1.0
    obs[3] = np.nan
    pred = xr.full_like(obs, 2.0)
    found = fc.evaluate(obs, pred, by="site", max_qc=None).isel(target=0)
    assert found.reason.values.tolist() == [
        "predictions do not vary",
        "observations do not vary",
        "one time step",
        "no common time step with an accepted observation",
    ]
    assert found.n.values.tolist() == [int(obs[0].notnull().sum()), len(obs.time), 1, 0]
    assert np.isnan(found.nse[1:]).all() and np.isnan(found.corr2).all() and np.isfinite(found.nse[0])
    assert np.isfinite(found.rmse[:3]).all() and np.isnan(found.rmse[3])
    nothing = fc.evaluate(obs, pred * np.nan, max_qc=None)
    assert nothing.n == 0 and nothing.n_sites == 0 and nothing.attrs["rows_common"] == nothing.attrs["rows_observed"]
    ok = fc.evaluate(cube, predictions, by="site", max_qc=None)
    assert (ok.reason == "").all() and "reason" not in fc.compare(cube, predictions, max_qc=None)


def test_data_without_a_common_time_step_are_refused_by_name(cube, predictions):
    pred = predictions["good"]
    half = pred.assign_coords(time=pred.time + np.timedelta64(30, "m"))
    with pytest.raises(SchemaError, match=r"time differs, observations from 2003-03-01 00:00:00 and .* 00:30:00"):
        fc.evaluate(cube, half, max_qc=None)
    with pytest.raises(SchemaError, match="site differs, observations from US-Ha1 and predictions from 0"):
        fc.evaluate(cube, pred.assign_coords(site=np.arange(4)), max_qc=None)
    dates = {"periods": pred.sizes["time"], "freq": "h", "use_cftime": True}
    calendar = pred.assign_coords(time=xr.date_range("2003-03-01", **dates))
    same = fc.evaluate(cube, calendar, by="year", max_qc=None)
    xr.testing.assert_identical(same, fc.evaluate(cube, pred, by="year", max_qc=None))
    with pytest.raises(SchemaError, match="found noleap"):
        fc.evaluate(cube, pred.assign_coords(time=xr.date_range("2003-03-01", calendar="noleap", **dates)), max_qc=None)
    with pytest.raises(ConfigError, match="NEE"):
        fc.evaluate(cube, pred.NEE.assign_attrs(units="W m-2").to_dataset(name="NEE"), max_qc=None)
    with pytest.raises(SchemaError, match="ndarray"):
        fc.evaluate(cube, pred.NEE.values, max_qc=None)
    with pytest.raises(ConfigError, match="none"):
        fc.evaluate(cube, {}, max_qc=None)
    daily = cube.NEE.resample(time="D").mean().to_dataset().assign_attrs(resolution="daily")
    with pytest.raises(SchemaError, match="hourly data"):
        fc.evaluate(daily, daily * 2, by="time_of_day", min_quality=None)


@pytest.mark.parametrize("by", ["season", "year", "time_of_day", ("igbp", "year")])
def test_lazy_equals_eager(cube, predictions, by, monkeypatch):
    eager = fc.evaluate(cube, predictions, by=by, max_qc=None)
    with monkeypatch.context() as patch:
        patch.setattr(periods_module, "_BLOCK", 20_000)
        xr.testing.assert_allclose(fc.evaluate(cube, predictions, by=by, max_qc=None), eager)
    lazy = {name: one.chunk(site=2, time=4000) for name, one in predictions.items()}
    xr.testing.assert_allclose(fc.evaluate(cube.chunk(site=1), lazy, by=by, max_qc=None), eager)


def test_cells_of_maps_are_grouped_by_continent_and_year():
    time = np.arange("2004-12-30", "2005-01-03", dtype="datetime64[h]").astype("datetime64[ns]")
    rng = np.random.default_rng(0)
    maps = xr.DataArray(
        rng.normal(size=(2, 3, len(time))),
        dims=("latitude", "longitude", "time"),
        coords={"latitude": [50.0, -10.0], "longitude": [-60.0, 10.0, 100.0], "time": time},
        name="NEE",
    )
    found = fc.evaluate(maps, maps + 1, by=("continent", "year"), max_qc=None).isel(target=0)
    assert set(found.continent.values) == {"North America", "South America", "Europe", "Africa", "Asia"}
    assert found.n.sum() == maps.size and (found.bias.where(found.n > 0, 1).round(9) == 1).all()
    assert set(GROUPS) > {"continent", "year", "time_of_day", "subset"}


def test_coverage_is_grouped_as_the_other_scores(cube, predictions):
    wide = predictions["good"].assign(NEE_std=xr.full_like(cube.NEE, 1.0))
    found = fc.evaluate(cube, {"good": wide, "bad": predictions["bad"]}, by=("igbp", "year"), max_qc=None)
    assert found.coverage_80.dims == ("model", "group", "target")
    assert found.coverage_80.sel(model="bad").isnull().all()
    own = found.coverage_80.sel(model="good", target="NEE")
    np.testing.assert_allclose(own, 0.8, atol=0.03)
    whole = fc.evaluate(cube, wide.where(predictions["bad"].NEE.notnull()), max_qc=None).coverage_80
    np.testing.assert_allclose(np.average(own, weights=found.n.sel(model="good", target="NEE")), whole, rtol=1e-9)
