"""Intervals over clusters and seeds: they follow from the products of the members' errors."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from fluxcube.errors import ConfigError, UnknownNameError
from fluxcube.evaluation.seeds import MemberSums, member_sums, seed_table
from fluxcube.evaluation.skill import evaluate, score_table
from fluxcube.evaluation.sums import site_sums
from fluxcube.simulation.example import example_cube


@pytest.fixture(scope="module")
def cube():
    return example_cube(sites=8, days=6)


def ensemble(cube, count, error, shared, seed=0):
    """Predictions of members whose errors have a part of their own, and a part that they share."""
    rng = np.random.default_rng(seed)
    truth = cube.fluxes.sel(target="NEE", drop=True)
    common = shared * rng.standard_normal(truth.shape)
    return [xr.Dataset({"NEE": truth + common + error * rng.standard_normal(truth.shape)}) for _ in range(count)]


def mean(members):
    return sum(one.NEE for one in members).to_dataset(name="NEE") / len(members)


def test_the_scores_are_those_of_the_mean_of_the_members(cube):
    models = {
        "trees": ensemble(cube, 3, 2.0, 0.5),
        "network": ensemble(cube, 4, 1.0, 0.5, 1),
        "cycle": ensemble(cube, 1, 3, 0),
    }
    table = seed_table(member_sums(cube, models), draws=200).set_index("model")
    plain = score_table(
        site_sums(cube, {name: mean(several) for name, several in models.items()}), clusters=50.0, draws=200
    )
    plain = plain.set_index("model")
    for name in models:
        for score in ("nse", "rmse", "nse_site_median"):
            assert table.loc[name, score] == pytest.approx(plain.loc[name, score], rel=1e-5)
        assert table.loc[name, ["nse_low", "nse_high"]].tolist() == pytest.approx(
            plain.loc[name, ["nse_low", "nse_high"]].tolist(), rel=1e-5
        )
    single = score_table(site_sums(cube, {str(i): one for i, one in enumerate(models["trees"])}), draws=20)
    assert table.loc["trees", "nse_one"] == pytest.approx(single.nse.mean(), rel=1e-5)
    assert table.loc["trees", "nse_one_std"] == pytest.approx(single.nse.std(), rel=1e-3)
    assert table.members.tolist() == [3, 4, 1] and np.isnan(table.loc["cycle", "nse_one_std"])
    assert table.loc["trees", "nse_diff"] == 0 and table.loc["network", "nse_diff_low"] > 0


def test_seeds_widen_an_interval_as_far_as_members_differ(cube):
    alike, unlike = ensemble(cube, 5, 0.0, 1.5), ensemble(cube, 5, 1.5, 0.0)
    # towers on which one member is far off make the mean depend on which members there are
    unlike[0]["NEE"] = unlike[0].NEE + 4
    table = seed_table(member_sums(cube, {"alike": alike, "unlike": unlike}), draws=300).set_index("model")
    width = {kind: table[f"nse{kind}_high"] - table[f"nse{kind}_low"] for kind in ("", "_seeds")}
    assert width["_seeds"]["alike"] == pytest.approx(width[""]["alike"], rel=1e-6)
    assert width["_seeds"]["unlike"] > 1.5 * width[""]["unlike"]


def test_folds_are_joined_and_models_named(cube):
    models = {"a": ensemble(cube, 2, 1, 1), "b": ensemble(cube, 2, 1, 1, 3)}
    whole = member_sums(cube, models)["NEE"]
    halves = []
    for sites in (slice(0, 3), slice(3, None)):
        some = {name: [one.isel(site=sites) for one in several] for name, several in models.items()}
        halves.append(member_sums(cube.isel(site=sites), some)["NEE"])
    joined = MemberSums.join(halves)
    np.testing.assert_allclose(joined.products["b"], whole.products["b"])
    assert seed_table({"NEE": joined}, draws=50).equals(seed_table({"NEE": whole}, draws=50))
    with pytest.raises(UnknownNameError, match="unknown model 'c'"):
        seed_table({"NEE": whole}, draws=10, against="c")
    fewer = member_sums(cube.isel(site=[0]), {"a": models["a"][:1], "b": models["b"]})
    with pytest.raises(ConfigError, match="a: expected the same models"):
        MemberSums.join([whole, MemberSums(**vars(fewer["NEE"]))])


def test_evaluate_takes_ensembles_as_a_dimension(cube):
    """The mean of the members is scored, with intervals over clusters and members beside those over clusters."""
    models = {"trees": ensemble(cube, 3, 2.0, 0.5), "cycle": ensemble(cube, 1, 3, 0)}
    stacked = {"trees": xr.concat(models["trees"], "member"), "cycle": models["cycle"][0]}
    options = {"clusters": 50.0, "draws": 200, "against": "cycle"}
    found = evaluate(cube, stacked, by="igbp", **options).sel(target="NEE")
    plain = evaluate(cube, {"trees": mean(models["trees"]), "cycle": models["cycle"][0]}, by="igbp", **options)
    np.testing.assert_allclose(found.nse, plain.nse.sel(target="NEE"), rtol=1e-5)
    np.testing.assert_allclose(found.nse_low, plain.nse_low.sel(target="NEE"), rtol=1e-5)
    assert "nse_seeds_low" not in plain
    table = seed_table(member_sums(cube, models), by="igbp", draws=200, against="cycle")
    rows = table.set_index(["model", "group"])
    for group in found.group.values:
        one = found.sel(group=group, model="trees")
        assert float(one.nse_member_std) == pytest.approx(rows.loc[("trees", group), "nse_one_std"])
    whole = evaluate(cube, stacked, **options).sel(target="NEE")
    row = seed_table(member_sums(cube, models), draws=200, against="cycle").set_index("model").loc["trees"]
    assert float(whole.nse_seeds_low.sel(model="trees")) == pytest.approx(row.nse_seeds_low)
    assert float(whole.rmse_diff_seeds_high.sel(model="trees")) == pytest.approx(row.rmse_diff_high)
    assert np.isnan(whole.nse_member_std.sel(model="cycle"))
    assert "over clusters and members" in whole.nse_seeds_low.attrs["long_name"]
    scales = evaluate(cube, stacked, scales=["hourly"], **options)
    assert "nse_seeds_low" not in scales
    with pytest.raises(UnknownNameError, match="group of sites"):
        seed_table(member_sums(cube, models), by="season")
