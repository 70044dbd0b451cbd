"""Labelled scores: masks, groups, laziness, and the same numbers as the kernels."""

from __future__ import annotations

import logging

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from kernels import KERNELS

from fluxcube.errors import ConfigError, SchemaError, UnknownNameError
from fluxcube.evaluation.skill import SEASONS, common_rows, compare, evaluate, skill_table
from fluxcube.simulation.example import example_cube, example_forcing


@pytest.fixture
def cube():
    ds = example_cube(sites=6, days=12)
    return ds.assign_coords(
        koppen=("site", np.array(["Cfb", "Dfb", "Cfb", "", "Dfb", "Cfb"], object)),
        network=("site", np.array(["AMF", "AMF;ICOS", "ICOS", "ICOS", "FLX", "AMF"], object)),
        latitude=("site", np.array([50.0, -30.0, 10.0, -5.0, 60.0, 0.0])),
    )


def predicted(cube, seed=0, names=("NEE", "GPP_NT")):
    """A noisy prediction with holes, as `predict` labels it."""
    rng = np.random.default_rng(seed)
    out = {}
    for name in names:
        truth = cube.fluxes.sel(target=name, drop=True)
        noisy = truth + rng.normal(0.3, 2.0, truth.shape).astype("float32")
        out[name] = noisy.where(rng.random(truth.shape) > 0.1).reset_coords(drop=True)
    return xr.Dataset(out)


def rows(cube, pred, name, max_qc=0):
    """Observations and predictions that count, by the plain definition."""
    obs, flags = (cube[k].sel(target=name).values for k in ("fluxes", "fluxes_qc"))
    use = np.isfinite(obs) & np.isfinite(pred[name].values) & (flags >= 0) & (flags <= max_qc)
    return np.where(use, obs, np.nan), pred[name].values


def test_labelled_equals_kernel(cube):
    pred = predicted(cube)
    found = evaluate(cube, pred)
    assert found.nse.dims == ("target",)
    for target in ("NEE", "GPP_NT"):
        obs, p = rows(cube, pred, target)
        for name, kernel in KERNELS.items():
            np.testing.assert_allclose(found[name].sel(target=target), kernel(obs, p), rtol=1e-10)
            np.testing.assert_allclose(
                found[f"{name}_site_median"].sel(target=target), np.median(kernel(obs, p, axis=1)), rtol=1e-10
            )
        assert found.n.sel(target=target) == np.isfinite(obs + p).sum() and found.n_sites.sel(target=target) == 6
    assert found.units.values.tolist() == ["umol m-2 s-1"] * 2


@pytest.mark.parametrize("by", ["igbp", "koppen", "site", "network"])
def test_groups_are_pooled_rows(cube, by):
    pred = predicted(cube)
    obs, p = rows(cube, pred, "NEE")
    found = evaluate(cube, pred, by=by).sel(target="NEE")
    labels = [str(v).split(";") for v in cube[by].values]
    assert set(found.group.values) == {x or "unknown" for several in labels for x in several}
    for group in found.group.values:
        here = [group in several or (group == "unknown" and several == [""]) for several in labels]
        np.testing.assert_allclose(found.nse.sel(group=group), KERNELS["nse"](obs[here], p[here]), rtol=1e-10)
        assert found.n_sites.sel(group=group) == sum(here)


def test_a_site_of_two_networks_counts_in_both(cube):
    found = evaluate(cube, predicted(cube), by="network").sel(target="NEE")
    assert dict(zip(found.group.values, found.n_sites.values.tolist(), strict=True)) == {"AMF": 3, "FLX": 1, "ICOS": 3}


def test_seasons_are_local():
    """One value per month, told apart by its error; the south is half a year away."""
    time = pd.date_range("2019-01-01", "2019-12-31T23", freq="h").values
    cube = example_cube(sites=2, days=365).assign_coords(
        time=time, latitude=("site", [45.0, -45.0]), longitude=("site", [0.0, 0.0])
    )
    month = pd.DatetimeIndex(time).month.values.astype(float)
    pred = (cube.fluxes.sel(target="NEE", drop=True) * 0 + xr.DataArray(month, dims="time")).rename("NEE")
    obs = pred * 0
    for site, names in ((0, SEASONS), (1, ("summer", "autumn", "winter", "spring"))):
        found = evaluate(obs.isel(site=[site]), pred.isel(site=[site]), by="season").isel(target=0)
        assert found.group.values.tolist() == list(SEASONS)
        for name, months in zip(names, ([12, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]), strict=True):
            expected = month[np.isin(month, months)].mean()
            np.testing.assert_allclose(found.bias.sel(group=name), expected)


def test_the_season_turns_with_the_local_month():
    time = np.array(["2019-02-28T22", "2019-02-28T23"], "datetime64[ns]")
    for longitude, season in ((0.0, "winter"), (30.0, "spring")):
        obs = xr.DataArray(
            [[0.0, 1.0]],
            dims=("site", "time"),
            name="NEE",
            coords={"time": time, "latitude": ("site", [50.0]), "longitude": ("site", [longitude])},
        )
        found = evaluate(obs, obs, by="season")
        assert found.n.sel(group=season).item() == 2 and found.n.sum() == 2


def test_only_measured_hours_unless_told(cube):
    pred = predicted(cube)
    counts = {}
    for max_qc in (0, 1, 2, None):
        found = evaluate(cube, pred, max_qc=max_qc).sel(target="NEE")
        counts[max_qc] = int(found.n)
        obs, p = rows(cube, pred, "NEE", 9 if max_qc is None else max_qc)
        np.testing.assert_allclose(found.rmse, KERNELS["rmse"](obs, p), rtol=1e-10)
    assert counts[0] == counts[1] < counts[2] == counts[None]
    assert "flag <= 0" in evaluate(cube, pred).attrs["row_mask"]


def test_a_value_that_is_not_scored_cannot_change_a_score(cube):
    pred = predicted(cube)
    before = evaluate(cube, pred, by="igbp")
    spoiled = cube.copy(deep=True)
    spoiled["fluxes"] = cube.fluxes.where(cube.fluxes_qc == 0, 1e6)
    xr.testing.assert_identical(evaluate(spoiled, pred, by="igbp"), before)


def test_flags_given_with_an_array_and_none_at_all(cube, caplog):
    pred = predicted(cube)
    xr.testing.assert_equal(evaluate(cube.fluxes, pred, qc=cube.fluxes_qc), evaluate(cube, pred))
    assert "no quality flags" not in caplog.text
    bare = evaluate(cube.fluxes, pred)
    assert "no quality flags" in caplog.text and "no flags" in bare.attrs["row_mask"]
    xr.testing.assert_equal(bare, evaluate(cube, pred, max_qc=None))
    caplog.clear()
    evaluate(cube.fluxes, pred, max_qc=None)
    assert "quality" not in caplog.text


def test_flags_of_some_fluxes_only(cube, caplog):
    variables = cube.fluxcube.to_variables().drop_vars("GPP_NT_QC")
    found = evaluate(variables, predicted(cube))
    assert "observations of GPP_NT carry no quality flags" in caplog.text
    assert "of GPP_NT every finite one" in found.attrs["row_mask"] and found.attrs["max_qc"] == 0
    whole = {q: evaluate(cube, predicted(cube), max_qc=q) for q in (0, None)}
    assert found.n.sel(target="NEE") == whole[0].n.sel(target="NEE")
    assert found.n.sel(target="GPP_NT") == whole[None].n.sel(target="GPP_NT")


def test_the_cube_as_variables_gives_the_same(cube):
    pred = predicted(cube)
    xr.testing.assert_equal(evaluate(cube.fluxcube.to_variables(), pred, by="igbp"), evaluate(cube, pred, by="igbp"))


def test_one_flux_as_an_array(cube):
    pred = predicted(cube).NEE
    obs = cube.fluxes.sel(target="NEE", drop=True)
    named = evaluate(cube, pred)
    qc = cube.fluxes_qc.sel(target="NEE", drop=True)
    for o, p in ((obs.rename("NEE"), pred.rename(None)), (obs.rename("NEE"), pred)):
        xr.testing.assert_equal(evaluate(o, p, qc=qc.rename("NEE")), named)


@pytest.mark.parametrize("by", [None, "igbp", "season", "site"])
@pytest.mark.parametrize("chunks", [{"site": 1}, {"site": 4, "time": 37}])
def test_lazy_equals_eager(cube, by, chunks):
    pred = predicted(cube)
    eager = evaluate(cube, pred, by=by)
    for c, p in ((cube.chunk(chunks), pred), (cube, pred.chunk(chunks)), (cube.chunk(chunks), pred.chunk(time=100))):
        xr.testing.assert_allclose(evaluate(c, p, by=by), eager, rtol=1e-10)


def test_lazy_inputs_are_computed_once_and_predictors_never(cube):
    read = []

    def noted(name, array):
        def reader(block, block_info):
            read.append((name, tuple(block_info[0]["chunk-location"])))
            return block

        chunks = dict.fromkeys(array.dims[1:], -1) | {"site": 1}
        data = array.chunk(chunks).data
        return array.copy(data=da.map_blocks(reader, data, dtype=array.dtype, meta=np.empty((0,) * data.ndim)))

    pred = predicted(cube)
    watched = cube.assign({name: noted(name, cube[name]) for name in ("predictors", "modis", "fluxes", "fluxes_qc")})
    watched = watched.assign_coords({name: c.compute() for name, c in watched.coords.items()})
    compare(watched, {"a": pred.map(lambda a: noted("pred", a)), "b": pred}, by="igbp")
    assert {name for name, _ in read} == {"fluxes", "fluxes_qc", "pred"}
    counted = pd.Series(read).value_counts()
    assert (counted[[k for k in counted.index if k[0] != "pred"]] == 1).all()
    assert sum(k[0] == "pred" for k in read) == 2 * 6  # two fluxes, six sites


def test_models_are_compared_on_the_rows_that_all_have(cube):
    a, b = predicted(cube, 1), predicted(cube, 2)
    table = compare(cube, {"a": a, "b": b}, by="igbp")
    both = np.isfinite(a.NEE.values) & np.isfinite(b.NEE.values)
    for name, pred in (("a", a), ("b", b)):
        alone = evaluate(cube, pred.assign(NEE=pred.NEE.where(both)), by="igbp").sel(target="NEE")
        mine = table[(table.model == name) & (table.target == "NEE")].set_index("group")
        np.testing.assert_allclose(mine.nse, alone.nse.sel(group=mine.index), rtol=1e-10)
    assert table.groupby(["target", "group"]).n.nunique().eq(1).all()
    assert "a, b all have" in table.attrs["row_mask"]


def test_the_order_of_models_and_of_sites_does_not_matter(cube):
    a, b = predicted(cube, 1), predicted(cube, 2)
    key = ["target", "group", "model"]
    one = compare(cube, {"a": a, "b": b}, by="igbp").sort_values(key).reset_index(drop=True)
    two = compare(cube.isel(site=[3, 1, 0, 5, 4, 2]), {"b": b, "a": a}, by="igbp").sort_values(key)
    pd.testing.assert_frame_equal(one, two.reset_index(drop=True), rtol=1e-10)


def test_common_rows_is_the_mask_that_counts(cube):
    a, b = predicted(cube, 1), predicted(cube, 2)
    mask = common_rows(a.NEE, b.NEE) & (cube.fluxes_qc.sel(target="NEE") == 0)
    table = compare(cube, {"a": a[["NEE"]], "b": b[["NEE"]]})
    assert table.n.tolist() == [int(mask.sum())] * 2
    assert common_rows(a.NEE.chunk(time=50), b.NEE).chunks is not None
    with pytest.raises(ValueError, match="exact"):
        common_rows(a.NEE, b.NEE.isel(time=slice(1, None)))


def test_fluxes_that_only_one_side_has(cube, caplog):
    caplog.set_level(logging.INFO)
    extra = predicted(cube).assign(RECO=predicted(cube).NEE)
    assert evaluate(cube, extra).target.values.tolist() == ["NEE", "GPP_NT"]
    assert "RECO" in caplog.text
    with pytest.raises(SchemaError, match="RECO"):
        evaluate(cube, extra[["RECO"]])
    table = compare(cube, {"a": extra, "b": predicted(cube, names=("NEE",))})
    assert table.target.unique().tolist() == ["NEE"]


def test_sites_and_hours_that_only_one_side_has(cube, caplog):
    caplog.set_level(logging.INFO)
    pred = predicted(cube)
    part = evaluate(cube, pred.isel(site=[4, 1], time=slice(10, 200)), by="site")
    same = evaluate(cube.isel(site=[1, 4], time=slice(10, 200)), pred, by="site")
    xr.testing.assert_allclose(part.sel(group=same.group), same)
    assert "common sites and time steps" in caplog.text
    with pytest.raises(SchemaError, match="share no site"):
        evaluate(cube.isel(site=[0]), pred.isel(site=[1]))


def test_a_coordinate_that_differs_is_the_observations(cube):
    pred = predicted(cube).assign_coords(igbp=("site", np.full(6, "WAT", object)), latitude=("site", np.zeros(6)))
    xr.testing.assert_equal(evaluate(cube, pred, by="igbp"), evaluate(cube, predicted(cube), by="igbp"))
    xr.testing.assert_equal(evaluate(cube, pred, by="season"), evaluate(cube, predicted(cube), by="season"))


def test_classes_that_training_lacked_are_marked(cube):
    found = evaluate(cube, predicted(cube), by="igbp", seen=["DBF", "GRA"])
    marked = dict(zip(found.group.values, found.zero_shot.values.tolist(), strict=True))
    assert marked == {"CRO": True, "DBF": False, "ENF": True, "GRA": False}
    assert "zero_shot" in skill_table({"a": found})
    with pytest.raises(ConfigError, match="seen"):
        evaluate(cube, predicted(cube), by="site", seen=["DBF"])


def test_maps_are_scored_like_towers():
    forcing = example_forcing(shape=(3, 4), days=4)
    rng = np.random.default_rng(0)
    truth = xr.Dataset(
        {"NEE": (("latitude", "longitude", "time"), rng.normal(0, 5, (3, 4, 96)))},
        coords={"latitude": forcing.latitude, "longitude": forcing.longitude, "time": forcing.time},
    ).assign_coords(igbp=(("latitude", "longitude"), forcing.igbp.values))
    maps = (truth + rng.normal(0, 1, (3, 4, 96))).transpose("time", "latitude", "longitude").drop_vars("igbp")
    maps["NEE"] = maps.NEE.where(forcing.land_fraction > 0).transpose("time", ...)
    for m in (maps, maps.chunk(time=24, latitude=2, longitude=3)):
        found = evaluate(truth, m, by="igbp").sel(target="NEE")
        for group in found.group.values:
            here = forcing.igbp.values == group
            expected = KERNELS["nse"](truth.NEE.values[here], maps.NEE.transpose(*truth.NEE.dims).values[here])
            np.testing.assert_allclose(found.nse.sel(group=group), expected, rtol=1e-10)
        assert found.n_sites.sum() == 11  # one cell is ocean


def test_strange_groups_are_refused(cube):
    with pytest.raises(UnknownNameError, match="igbp"):
        evaluate(cube, predicted(cube), by="igpb")
    with pytest.raises(SchemaError, match="koppen"):
        evaluate(cube.drop_vars("koppen"), predicted(cube), by="koppen")
    with pytest.raises(SchemaError, match="longitude"):
        evaluate(cube.drop_vars("longitude"), predicted(cube), by="season")
    with pytest.raises(ConfigError):
        compare(cube, {})


def test_the_table_has_a_row_per_target_group_and_model(cube):
    table = compare(cube, {"a": predicted(cube, 1), "b": predicted(cube, 2)}, by="igbp")
    assert len(table) == 2 * 4 * 2
    assert table.model.tolist() == ["a", "b"] * 8
    assert table.target.tolist() == ["NEE"] * 8 + ["GPP_NT"] * 8
    assert compare(cube, {"a": predicted(cube)}).group.tolist() == ["all", "all"]


def test_a_group_without_a_measured_hour_is_there_and_empty(cube):
    none = cube.copy(deep=True)
    none.fluxes_qc[3] = 2
    found = evaluate(none, predicted(cube), by="igbp").sel(target="NEE", group="CRO")
    assert found.n == 0 and found.n_sites == 0 and np.isnan(found.nse) and np.isnan(found.nse_site_median)


def test_scores_at_training_towers_are_told(cube, caplog):
    pred = predicted(cube)
    seen = pred.assign_coords(in_training=("site", [True, True, False, False, False, False]))
    evaluate(cube, pred)
    assert "trained on" not in caplog.text
    compare(cube.isel(site=slice(1, 6)), {"trees": seen.isel(site=slice(1, 6))})
    assert "trees was trained on 1 of the 5 scored towers" in caplog.text and "held-out" in caplog.text
