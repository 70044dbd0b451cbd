"""Training and using models of days: stages, weights, balance, support, ensembles; towers and grids alike."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import safetensors.torch
import torch
from daily_cubes import DRIVERS, FAST, TARGETS, TINY_TAM, daily_cube, daily_forcing, train

from fluxcube.errors import ConfigError
from fluxcube.evaluation.skill import compare
from fluxcube.inference.grid import upscale
from fluxcube.inference.loading import load_model
from fluxcube.inference.towers import predict
from fluxcube.models.base import Batch
from fluxcube.models.tamrl import TAMRLConfig
from fluxcube.resolution import DAILY
from fluxcube.samples.splits import per_igbp
from fluxcube.samples.towers import cube_spec, load_towers
from fluxcube.simulation.example import example_cube
from fluxcube.training.fit import fit
from fluxcube.training.job import Job
from fluxcube.training.loop import _Run
from fluxcube.training.loss import Balance
from fluxcube.training.parallel import World
from fluxcube.training.plan import Plan, make_plan
from fluxcube.training.request import FitRequest
from fluxcube.training.resident import on_device
from fluxcube.training.weights import SupportedWindows, class_weights, flux_weights, spread_weights

torch.set_num_threads(1)  # tests run beside each other

CPU = World(torch.device("cpu"))


@pytest.fixture(scope="module")
def cube():
    return daily_cube()


@pytest.fixture(scope="module")
def run(cube, tmp_path_factory):
    """A trained TAM-RL."""
    return train(cube, tmp_path_factory.mktemp("tam") / "run", training=dataclasses.replace(FAST, keep="last"))


def tensors(run):
    return safetensors.torch.load((run.path / "model.safetensors").read_bytes())


def same(one, other):
    return all(torch.equal(value, tensors(other)[name]) for name, value in tensors(one).items())


def values(ds, name="NEE"):
    return ds[name].transpose("site", "time").values


def test_stages_are_what_the_log_says(run):
    assert [row["stage"] for row in run.history] == [1, 1, 2, 2]
    assert [row["lr"] < 2e-3 for row in run.history] == [False, True, False, True], "the rate falls in either stage"
    assert all(np.isfinite(row["val_nse_NEE"]) for row in run.history)


def test_joint_training_starts_from_what_was_trained_before(cube, tmp_path, monkeypatch):
    seen = {}
    whole = _Run._set_stage

    def watched(self):
        whole(self)
        if not self.counters.step:
            seen[self.counters.epoch] = {k: v.clone() for k, v in self.model.state_dict().items()}, self.model.joint

    monkeypatch.setattr(_Run, "_set_stage", watched)
    done = train(cube, tmp_path / "two", training=dataclasses.replace(FAST, epochs=2, pretrain_epochs=1, keep="last"))
    (first, joint_1), (second, joint_2) = seen[0], seen[1]
    assert (joint_1, joint_2) == (False, True)
    own = ("encoder", "code", "generator")
    assert all(torch.equal(first[n], second[n]) for n in first if n.startswith(own)), "stage 1 is of the forward model"
    assert not any(torch.equal(first[n], second[n]) for n in first if not n.startswith(own) and n != "lstm.bias_hh_l0")
    assert not second["generator.2.weight"].any() and not second["generator.2.bias"].any(), "gamma 1, beta 0: no jump"
    ended = tensors(done)
    assert ended["generator.2.weight"].any() and not torch.equal(
        ended["encoder.weight_hh_l0"], second["encoder.weight_hh_l0"]
    )
    none = train(cube, tmp_path / "one", training=dataclasses.replace(FAST, epochs=2, pretrain_epochs=0, keep="last"))
    assert "stage" not in none.history[0] and not same(done, none)


def test_predictions_look_at_no_flux_are_the_same_twice_and_change_with_the_support(cube, run):
    model = load_model(run)
    given = predict(model, cube)
    finite = np.isfinite(values(given))
    assert not finite[:, :19].any() and finite[:, 19:].all()
    rng = np.random.default_rng(1)
    blind = cube.assign(fluxes=cube.fluxes * np.nan, fluxes_quality=cube.fluxes_quality * 0)
    shuffled = cube.assign(fluxes=cube.fluxes.copy(data=rng.permuted(cube.fluxes.values, axis=1)))
    for other in (blind, shuffled, cube):
        assert predict(model, other).equals(given)
    alone = predict(model, cube.isel(site=[5]))
    np.testing.assert_allclose(values(alone), values(given)[[5]], atol=1e-5)
    codes = model.embed(cube)
    assert codes.dims == ("site", "embedding") and codes.shape == (12, 3) and (codes.std("site") > 0).all()
    assert model.embed(blind).equals(codes)
    # The forward model alone, told nothing of the place:
    plain = dataclasses.replace(model.model.config, modulate=False)
    other = dataclasses.replace(model, model=type(model.model)(plain, model.model.sizes), path=None)
    other.model.load_weights(model.model.weights())
    assert np.nanmax(np.abs(values(predict(other, cube)) - values(given))) > 1e-4


def test_support_is_of_the_years_asked_for(run):
    long = daily_cube(sites=2, days=800)
    model = load_model(run)
    every, one = model.embed(long), model.with_support([2005]).embed(long)
    assert not np.allclose(every, one)
    only = long.sel(time="2005")
    within = only.assign_coords(time_start=("site", only.time.values[[0, 0]]))
    np.testing.assert_allclose(one, model.embed(within), atol=1e-6)
    a, b = predict(model, long), predict(model.with_support([2005]), long)
    assert np.nanmax(np.abs(values(a) - values(b))) > 1e-5
    with pytest.raises(ConfigError, match=r"XX-D00 has no day in the support years 1999: it has 2004, 2005, 2006"):
        predict(model.with_support([1999]), long)


def test_a_grid_of_the_same_drivers_gives_the_same(cube, run):
    model = load_model(run)
    maps = upscale(model, daily_forcing(cube), time_chunk=90, applicability=False)
    towers = predict(model, cube)
    for name in TARGETS:
        cells = maps[name].isel(latitude=0).transpose("longitude", "time").values
        np.testing.assert_allclose(cells, values(towers, name), atol=1e-5)
    assert maps.NEE.attrs["units"] == "gC m-2 d-1"


def test_gpp_and_respiration_are_clipped_when_predicted_and_not_before(cube, run):
    model = load_model(run)
    low = dataclasses.replace(model.spec, target_mean=(0.0, -1.0, -1.0))
    given = predict(dataclasses.replace(model, spec=low, path=None), cube)
    free = predict(model, cube)
    mean = dict(zip(TARGETS, model.spec.target_mean, strict=True))
    for name in ("GPP_NT", "RECO_NT"):
        unclipped = values(free, name) - mean[name] - 1
        inside = values(free, name) > 0
        assert np.nanmin(values(given, name)) == 0 and (unclipped[inside] < 0).any()
        np.testing.assert_allclose(values(given, name)[inside], np.maximum(unclipped[inside], 0), atol=1e-4)
    assert np.nanmin(values(given)) < 0, "NEE has either sign"


@pytest.mark.parametrize("model", ["ct-lstm", "lstm", "tam-lstm"])
def test_the_other_models_of_days_learn_too(cube, tmp_path, model):
    done = train(cube, tmp_path / model, model)
    table = compare(cube, {model: predict(done, cube)})
    assert table.set_index("target").nse["GPP_NT"] > 0.3 and set(table.units) == {"gC m-2 d-1"}
    assert "quality >= 1" in table.attrs["row_mask"]
    more = compare(cube, {model: predict(done, cube)}, min_quality=0.5)
    assert (more.n > table.n).all()


def test_trees_and_the_mean_cycle_take_days(cube, tmp_path):
    options = {"target": TARGETS, "seed": 3, "static": ("igbp", "koppen"), "memory_days": (20,)}
    trees = fit(cube, model="xgboost", out=tmp_path / "x", predictors=DRIVERS, config={"n_estimators": 30}, **options)
    cycle = fit(cube, model="mean-cycle", out=tmp_path / "c", predictors=("DOY", "TA"), **options)
    table = compare(cube, {"trees": predict(trees, cube), "cycle": predict(cycle, cube)}).set_index(["target", "model"])
    assert (table.nse.xs("trees", level=1) > 0.5).all() and table.nse["GPP_NT", "cycle"] > 0.1


def test_classes_weigh_by_how_rare_they_are(cube):
    classes = ["A"] * 6 + ["B"] * 3 + ["C"]
    weights = class_weights(classes)
    assert weights.mean() == pytest.approx(1) and weights[9] == pytest.approx(6 * weights[0])
    assert weights[:6].sum() == pytest.approx(weights[6:9].sum()) == pytest.approx(weights[9])
    spec = cube_spec(cube, targets=TARGETS, predictors=DRIVERS)
    towers = load_towers(cube, list(spec_sites(cube)), spec, DAILY.limit(0.5))
    by = {names: flux_weights(cube, towers, names) for names in ((), ("quality",), ("igbp",), ("koppen",))}
    seen = np.isfinite(towers.fluxes)
    poor, whole = np.unique(by["quality",][seen])
    assert (by[()] == 1).all() and poor / whole == pytest.approx(0.6)
    product = flux_weights(cube, towers, ("quality", "igbp", "koppen"))
    product, separately = product[seen], (by["quality",] * by["igbp",] * by["koppen",])[seen]
    np.testing.assert_allclose(product / product.max(), separately / separately.max(), rtol=1e-5)
    for found in by.values():
        np.testing.assert_allclose(found[:, 0].mean(where=seen[:, 0]), 1, rtol=1e-5)
    sites = by["koppen",][towers.series.start, 0]
    assert len(set(sites.tolist())) == 2
    short = cube.where((cube.time < cube.time[90]) | (cube.site != cube.site[0]))[["fluxes", "fluxes_quality"]]
    cut = cube.assign(short)
    towers = load_towers(cut, list(spec_sites(cube)), spec, DAILY.limit(0.5))
    alike = flux_weights(cut, towers, ("site",))
    seen = np.isfinite(towers.fluxes)
    rows = np.repeat(towers.site, towers.series.hours)
    for i in range(seen.shape[1]):
        sums = np.bincount(rows[seen[:, i]], alike[seen[:, i], i])
        assert alike[seen[:, i], i].mean() == pytest.approx(1) and np.ptp(sums) < 1e-3 * sums.mean()
    assert (alike[~seen] == 0).all() and not (alike[seen] == 1).all()


def test_fluxes_weigh_by_how_large_their_towers_are():
    rng = np.random.default_rng(0)
    site = np.repeat([0, 1, 2], [200, 50, 100])
    fluxes = rng.standard_normal((350, 2)) * np.array([2.0, 0.5, 1e-3])[site][:, None]
    fluxes[::7, 1] = np.nan
    weights = spread_weights(site, fluxes)
    seen = np.isfinite(fluxes)
    np.testing.assert_allclose([weights[seen[:, i], i].mean() for i in (0, 1)], 1, rtol=1e-5)
    assert (weights[~seen] == 0).all()
    # what a mean over sites of RMSEs makes of errors that are as large as fluxes: no site counts more than its hours
    root = [np.sqrt(np.nanmean(fluxes[site == k, 0] ** 2)) for k in (0, 1)]
    assert weights[0, 0] * root[0] == pytest.approx(weights[200, 0] * root[1], rel=1e-4)
    assert weights[250, 0] * 0.2 == pytest.approx(weights[0, 0] * root[0], rel=1e-4), "tiny fluxes do not rule"


@pytest.mark.parametrize("model", ["lstm", "xgboost"])
def test_seeds_learn_from_towers_of_their_own(cube, model, tmp_path):
    """What a tower that was not drawn holds changes nothing but the scaling, and that is of all towers."""
    brief = dataclasses.replace(FAST, keep="last")
    small = {"config": {"n_estimators": 5}} if model == "xgboost" else {"training": brief}
    options = {"model": model, "target": ("NEE",), "predictors": DRIVERS, "static": (), **small}
    split = dataclasses.replace(per_igbp(cube), val=())
    request = FitRequest(limit=DAILY.limit(0.5), split=split, bag=0.5, **{"training": brief, **options})
    plan = make_plan(cube, request)
    drawn, other = plan.sites(0), plan.sites(1)
    assert len(drawn) == len(other) == round(0.5 * len(split.train)) and drawn != other == plan.sites(1)
    assert set(drawn) < set(split.train)
    unseen = next(site for site in split.train if site not in drawn)
    order = np.random.default_rng(1).permutation(cube.sizes["time"])  # the same values, on other days
    mixed = cube.fluxes.sel(site=unseen).isel(time=order).values
    moved = cube.assign(fluxes=cube.fluxes.where(cube.site != unseen, mixed))
    runs = [
        fit(data, out=tmp_path / name, split=split, bag=bag, **options)
        for name, data, bag in (("a", cube, 0.5), ("b", moved, 0.5), ("c", cube, 1.0), ("d", moved, 1.0))
    ]
    pred = [values(predict(load_model(run.path), cube)) for run in runs]
    np.testing.assert_allclose(pred[0], pred[1], rtol=1e-5, atol=1e-5)
    assert not np.allclose(pred[2], pred[3], rtol=1e-3, atol=1e-3, equal_nan=True)
    assert not np.allclose(pred[0], pred[2], rtol=1e-3, atol=1e-3, equal_nan=True)


def test_a_bag_says_what_it_holds_and_lacks_no_target(cube, tmp_path):
    split = dataclasses.replace(per_igbp(cube), val=())
    options = {"model": "xgboost", "predictors": DRIVERS, "static": (), "config": {"n_estimators": 2}, "split": split}
    two = fit(cube, out=tmp_path / "two", bag=0.34, seeds=2, **options)
    own = [load_model(two.path / f"seed-{seed}").metadata["training_sites"] for seed in (0, 1)]
    assert [len(sites) for sites in own] == [2, 2] and own[0] != own[1]
    assert set(load_model(two.path).metadata["training_sites"]) == {*own[0], *own[1]}
    assert load_model(fit(cube, out=tmp_path / "all", **options)).metadata["training_sites"] == list(split.train)
    held = (cube.target != "GPP_NT") | (cube.site == own[0][0])
    one = cube.assign(fluxes=cube.fluxes.where(held), fluxes_quality=cube.fluxes_quality.where(held))
    fit(one, out=tmp_path / "there", bag=0.34, target=("NEE", "GPP_NT"), **options)
    absent = next(seed for seed, sites in enumerate(own) if own[0][0] not in sites)
    for more in ({"seed": absent}, {"seeds": 2}):
        with pytest.raises(ConfigError, match=f"GPP_NT: observed at none of the 2 training towers of seed {absent}"):
            fit(one, out=tmp_path / "lacking", bag=0.34, target=("NEE", "GPP_NT"), **options | more)
    assert not (tmp_path / "lacking").exists()


def test_batches_of_no_weight_teach_nothing_and_break_nothing(cube, tmp_path):
    """Days of quality 0 may train, if asked for: they weigh nothing."""
    first = cube.time < cube.time[150]
    poor = cube.assign(fluxes_quality=cube.fluxes_quality.where(~first, 0.0))
    one = dataclasses.replace(FAST, batch_size=1, epochs=1, windows_per_epoch=40, weigh=("quality",))
    options = {"model": "lstm", "target": ("NEE",), "predictors": DRIVERS, "training": one, "min_quality": None}
    done = fit(poor, out=tmp_path / "a", **options)
    assert np.isfinite(done.history[-1]["loss"])
    order = np.random.default_rng(1).permutation(int(first.sum()))  # the same fluxes, which scale alike, on other days
    early = poor.fluxes.isel(time=order).values
    mixed = poor.fluxes.copy()
    mixed[{"time": slice(0, len(order))}] = early
    pred = [
        values(predict(load_model(run.path), poor))
        for run in (
            done,
            fit(poor.assign(fluxes=mixed), out=tmp_path / "b", **options),
            fit(cube.assign(fluxes=mixed), out=tmp_path / "c", **options),
            fit(cube, out=tmp_path / "d", **options),
        )
    ]
    np.testing.assert_allclose(pred[0], pred[1], rtol=1e-3, atol=1e-4)
    assert not np.allclose(pred[2], pred[3], rtol=1e-3, atol=1e-4, equal_nan=True), "with their weight they teach"


def spec_sites(cube):
    return map(str, cube.site.values)


PARTS = [{"weigh": ()}, {"weigh": ("quality",)}, {"weigh": ("igbp",)}, {"balance": 0.0}, {"balance": 1.0}]


@pytest.mark.parametrize("change", PARTS, ids=str)
def test_each_part_of_the_loss_can_be_switched(cube, change, tmp_path):
    few = dataclasses.replace(FAST, epochs=1, windows_per_epoch=64, keep="last")
    whole = train(cube, tmp_path / "whole", "ct-lstm", training=few)
    assert not same(whole, train(cube, tmp_path / "other", "ct-lstm", training=dataclasses.replace(few, **change)))
    named = {"weigh": ("quality", "igbp", "koppen"), "balance": 0.1}
    assert same(whole, train(cube, tmp_path / "named", "ct-lstm", training=dataclasses.replace(few, **named)))


def test_the_balance_of_consistent_fluxes_is_nothing_whatever_they_are_scaled_by():
    rng = np.random.default_rng(0)
    gpp, reco = rng.uniform(0, 12, (2, 5, 3))
    mean, scale = rng.normal(size=3), rng.uniform(0.5, 3, 3)
    balance = Balance(0, 1, 2, mean, scale)
    fluxes = np.stack([reco - gpp, gpp, reco], -1)
    assert balance.squares(torch.from_numpy((fluxes - mean) / scale)) < 1e-8
    fluxes[..., 0] += 0.5
    relative = balance.squares(torch.from_numpy((fluxes - mean) / scale)).item()
    assert relative == pytest.approx(15 * 0.25 / scale[0] ** 2, rel=1e-4), "in units of the variance of NEE"
    wrong_way = np.stack([gpp - reco, gpp, reco], -1)
    assert balance.squares(torch.from_numpy((wrong_way - mean) / scale)) > 1


def test_balance_in_training_makes_fluxes_of_unseen_towers_add_up(cube, tmp_path):
    split = per_igbp(cube, seed=3)
    left = {}
    for alpha in (0.0, 0.1):
        training = dataclasses.replace(FAST, epochs=6, balance=alpha, keep="last")
        done = train(cube, tmp_path / str(alpha), "ct-lstm", split=split, training=training)
        out = predict(done, split.part(cube, "test"))
        left[alpha] = np.nanmean(np.abs(values(out) - (values(out, "RECO_NT") - values(out, "GPP_NT"))))
    assert left[0.1] < 0.9 * left[0.0]


def test_passes_add_up_with_support_that_several_windows_share(cube):
    spec = cube_spec(cube, targets=TARGETS, predictors=DRIVERS, static=("igbp",))
    towers = load_towers(cube, list(spec_sites(cube)), spec, DAILY.limit(0.5)).scaled()
    config = TAMRLConfig(**TINY_TAM, dropout=0.0)
    grads = []
    for size in (48, 16):
        torch.manual_seed(0)
        plan = Plan(None, "tam-rl", towers.spec, None, config, FAST, DAILY.limit(0.5))
        from fluxcube.models import registry

        model = registry.build("tam-rl", config, plan.sizes())
        torch.nn.init.normal_(model.generator[-1].weight)
        weights = flux_weights(cube, towers, ("quality", "igbp"))
        windows = SupportedWindows(towers, weights, 3, 4, length=20, stride=5, batch_size=48, seed=1)
        batch = windows[0]
        assert len(batch["support"]) < 48 and batch["support"].shape[1:] == (3, 20, 5)
        training = dataclasses.replace(FAST, effective_batch=48, batch_size=size, grad_clip=0.0)
        balance = Balance(*plan.balanced, towers.spec.target_mean, towers.spec.target_scale)
        job = Job(
            model=model.train(),
            windows=windows,
            config=training,
            world=CPU,
            request={"seed": 0},
            balance=balance,
            alpha=0.1,
        )
        run = _Run(job, torch.optim.SGD(model.parameters(), 0.0))
        run._step(on_device(batch, CPU.device))
        grads.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name, gradient in grads[0].items():
        assert gradient.abs().sum() > 0, name
        torch.testing.assert_close(grads[1][name], gradient, rtol=1e-3, atol=1e-6, msg=name)


class Stopped(BaseException):
    """As a kill."""


@pytest.mark.parametrize("at", [16, 29])
def test_a_killed_run_ends_as_if_it_had_not_been(cube, run, tmp_path, at):
    """In the first stage and in the second."""
    training = dataclasses.replace(FAST, keep="last", checkpoint_seconds=0.0)

    def stop(done, total, text):
        if text.startswith("epoch") and done == at:
            raise Stopped

    with pytest.raises(Stopped):
        train(cube, tmp_path / "run", training=training, progress=stop)
    assert same(run, train(cube, tmp_path / "run", training=training))


def test_an_ensemble_is_its_members_mean(cube, tmp_path):
    few = dataclasses.replace(FAST, epochs=2, windows_per_epoch=64)
    done = train(cube, tmp_path / "seeds", seeds=2, training=few)
    cube = cube.isel(site=slice(0, 2))
    both = predict(done, cube, uncertainty=True)
    alone = [predict(tmp_path / "seeds" / f"seed-{s}", cube) for s in (3, 4)]
    inside = np.isfinite(values(both)) & (values(alone[0]) != 0)
    mean = np.mean([values(one) for one in alone], 0)
    np.testing.assert_allclose(values(both)[inside], mean[inside], atol=1e-5)
    np.testing.assert_allclose(
        both.NEE_spread.values[inside], np.abs(values(alone[0]) - values(alone[1]))[inside] / np.sqrt(2), atol=1e-4
    )
    assert load_model(done).embed(cube).shape == (2, 6)


def test_what_cannot_be_is_named(cube, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"the model tam-rl works on days.*contains hours.*resolution='daily'"):
        fit(example_cube(sites=12, days=6), model="tam-rl", out=out)
    with pytest.raises(ConfigError, match="the model ecoperceiver works on hours"):
        fit(cube, model="ecoperceiver", out=out)
    with pytest.raises(ConfigError, match="RECO_NT is no target"):
        train(cube, out, target=("NEE", "GPP_NT"), training=dataclasses.replace(FAST, balance=0.1))
    with pytest.raises(ConfigError, match="pretrain_epochs is for models of two stages"):
        train(cube, out, "lstm", training=dataclasses.replace(FAST, pretrain_epochs=1))
    with pytest.raises(ConfigError, match=r"balance: settings of gradient descent.* xgboost"):
        fit(cube, model="xgboost", out=out, training=dataclasses.replace(FAST, weigh=("spread",), balance=0.0))
    with pytest.raises(ConfigError, match=r"weigh and weight_by_randunc: settings of gradient descent.* mean-cycle"):
        unused = dataclasses.replace(FAST, weigh=("site",), weight_by_randunc=True)
        fit(cube, model="mean-cycle", out=out, training=unused)
    with pytest.raises(ConfigError, match="cannot contain trailing means"):
        train(cube, out, memory_days=(7,))
    with pytest.raises(ConfigError, match="0 to 1, found 3"):
        train(cube.assign(fluxes_quality=cube.fluxes_quality * 0 + 3), out)
    with pytest.raises(ConfigError, match="no training site has a support window of 20 days besides 60 windows"):
        train(cube, out, config={"queries": 60})
    with pytest.raises(ConfigError, match="makes no embeddings"):
        load_model(train(cube, out, "lstm", training=dataclasses.replace(FAST, epochs=1))).embed(cube)


def test_a_batch_says_what_day_it_is(cube):
    spec = cube_spec(cube, targets=TARGETS, predictors=DRIVERS, static=())
    towers = load_towers(cube, ["XX-D03"], spec, DAILY.limit(0.5))
    windows = SupportedWindows(towers, np.ones_like(towers.fluxes), 2, 1, length=20, stride=5, batch_size=8)
    batch = windows[0]
    last = batch["time"].astype("datetime64[D]")
    wanted = cube.predictors.sel(site="XX-D03", variable="TA", time=last)
    met = Batch.of(batch).inputs[:, -1, spec.inputs.index("TA")] * 160
    np.testing.assert_allclose(met, wanted.values, atol=1e-3)


def test_daily_respiration_of_an_ensemble_is_the_mean_of_its_clipped_members(cube, tmp_path):
    few = dataclasses.replace(FAST, epochs=1, windows_per_epoch=16)
    done = train(cube, tmp_path / "seeds", "lstm", seeds=2, training=few, target=("NEE", "GPP_NT"))
    both = predict(done, cube)
    alone = [predict(tmp_path / "seeds" / f"seed-{s}", cube) for s in (3, 4)]
    for name in ("NEE", "GPP_NT", "RECO"):
        mean = np.mean([one[name].values for one in alone], 0)
        np.testing.assert_allclose(both[name].values, mean, atol=1e-4, rtol=1e-4)
    assert float(both.RECO.min()) >= 0
    assert load_model(done).model.floor.tolist()[0] == -np.inf


@pytest.mark.parametrize(("name", "title"), [("koppen", "Köppen climate"), ("igbp", "IGBP class")])
def test_towers_without_a_class_are_named(cube, name, title, caplog):
    spec = cube_spec(cube, targets=TARGETS, predictors=DRIVERS)
    sites = list(spec_sites(cube))
    towers = load_towers(cube, sites, spec, DAILY.limit(0.5))
    rows = np.repeat(towers.site, towers.series.hours)
    codes = cube[name].values.astype(object)
    flux_weights(cube, towers, (name,))
    assert "mean weight" not in caplog.text
    codes[list(cube.site.values).index(sites[1])] = ""
    weights = flux_weights(cube.assign_coords({name: ("site", codes)}), towers, (name,))
    assert f"1 of {len(sites)} training towers have no known {title}" in caplog.text and sites[1] in caplog.text
    assert (weights[rows == 1] == 1).all()
    each = [weights[rows == i][0, 0] for i in range(len(sites)) if i != 1]
    assert np.mean(each) == pytest.approx(1, rel=1e-5)  # so that 1 is their mean
    caplog.clear()
    none = flux_weights(cube.assign_coords({name: ("site", np.full(len(codes), "", object))}), towers, (name,))
    assert (none == 1).all() and "has no effect: none of the" in caplog.text
