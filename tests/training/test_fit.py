"""Fit: every model from a cube to a checkpoint, resumable, seeded, and careful with folders."""

from __future__ import annotations

import csv
import dataclasses
import inspect
import json

import kernels
import numpy as np
import pytest
import torch

from fluxcube.errors import CheckpointError, ConfigError, UnknownNameError
from fluxcube.models import checkpoint, registry
from fluxcube.models.base import Batch
from fluxcube.models.boosting import BoostingConfig
from fluxcube.models.ecoperceiver import EcoPerceiverConfig
from fluxcube.models.registry import preset_config
from fluxcube.samples.features import FeatureSpec, cube_block
from fluxcube.samples.splits import Split
from fluxcube.samples.windows import gather
from fluxcube.simulation.example import example_cube
from fluxcube.training.config import TrainingConfig
from fluxcube.training.fit import fit, planned
from fluxcube.training.settings import complete_config, configure
from fluxcube.training.validation import observed_nse as nse

torch.set_num_threads(1)  # tests run beside each other

TINY = EcoPerceiverConfig(
    latent=16, frequencies=4, embedding=4, context=24, heads=2, blocks=1, self_layers=1, head="dense"
)
FAST = TrainingConfig(epochs=3, batch_size=16, val_windows=64, lr=5e-3)


class Killed(Exception):
    """Stands for a kill."""


def killer(at):
    """A progress that stops the run after so many training steps."""
    steps = []

    def progress(done, total, text):
        if text.startswith("epoch"):
            steps.append(done)
            if len(steps) == at:
                raise Killed

    return progress


@pytest.fixture(scope="module")
def cube():
    return example_cube(sites=12, days=12)


def eco(cube, out, **changes):
    settings = {"model": "ecoperceiver", "config": TINY, "training": FAST, "target": ("NEE", "GPP_NT"), "seed": 4}
    return fit(cube, out=out, **settings | changes)


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(cube, tmp_path_factory):
    return eco(cube, tmp_path_factory.mktemp("whole") / "run")


def test_a_run_holds_what_it_says(cube, whole):
    assert sorted(p.name for p in whole.path.iterdir()) == [
        "applicability.safetensors",
        "log.csv",
        "model.safetensors",
        "run.json",
        "run.toml",
        "split.json",
    ]
    model, metadata = checkpoint.load(whole)
    spec = FeatureSpec.from_dict(metadata["features"])
    assert spec.predictors == ("DOY", "TOD", "TA", "SW_IN", "VPD", "SW_IN_POT")
    assert spec.targets == ("NEE", "GPP_NT")
    assert [row["units"] for row in metadata["inputs"]] == ["d", "h", "degC", "W m-2", "hPa", "W m-2"]
    assert Split.from_dict(metadata["split"]) == whole.split == Split.load(whole.path / "split.json")
    assert metadata["training_sites"] == list(whole.split.train)
    assert model.sizes.protected == (0, 1)
    with open(whole.path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert "validation NSE NEE" in whole.summary


def test_target_scaling_comes_from_the_training_sites_alone(cube, whole):
    _, metadata = checkpoint.load(whole)
    train = cube.sel(site=list(whole.split.train))
    nee = train.fluxes.sel(target="NEE").where(train.fluxes_qc.sel(target="NEE") <= 1).values
    np.testing.assert_allclose(metadata["features"]["target_mean"][0], np.nanmean(nee), rtol=1e-5)
    np.testing.assert_allclose(metadata["features"]["target_scale"][0], np.nanstd(nee), rtol=1e-5)


def test_test_sites_are_never_read(cube, tmp_path):
    whole = eco(cube, tmp_path / "a", epochs=1)
    spoiled = cube.copy(deep=True)
    at = [list(cube.site.values).index(site) for site in whole.split.test]
    spoiled.fluxes[at] = 1e6
    spoiled.predictors[at] = np.nan
    eco(spoiled, tmp_path / "b", epochs=1)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_best_epoch_is_kept(cube, whole):
    model, metadata = checkpoint.load(whole)
    best = max(whole.history, key=lambda row: row["val_nse_NEE"] + row["val_nse_GPP_NT"])
    spec = FeatureSpec.from_dict(metadata["features"])
    val = cube.sel(site=list(whole.split.val))
    block = cube_block(val, spec)
    hours = np.arange(24, block.inputs.shape[1] + 1)
    place, stop = (a.ravel() for a in np.meshgrid(np.arange(val.sizes["site"]), hours, indexing="ij"))
    pred = model.predict(Batch.of(gather(block, place, stop, 24)))[:, -1, 0]
    obs = val.fluxes.sel(target="NEE").where(val.fluxes_qc.sel(target="NEE") == 0).values[place, stop - 1]
    scored = nse(obs, pred * spec.target_scale[0] + spec.target_mean[0])
    assert abs(scored - best["val_nse_NEE"]) < 0.15  # fit scored 64 of these windows


def test_same_seed_same_weights_other_seed_other_weights(cube, whole, tmp_path):
    state = torch.get_rng_state()
    eco(cube, tmp_path / "again")
    assert weights(tmp_path / "again") == weights(whole.path)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's generator is left alone
    eco(cube, tmp_path / "other", seed=5, split=whole.split)
    assert weights(tmp_path / "other") != weights(whole.path)


@pytest.mark.parametrize("steps", [14, pytest.param(21, marks=pytest.mark.proof)])
def test_an_interrupted_run_ends_with_the_weights_of_an_unbroken_one(cube, whole, tmp_path, steps):
    training = dataclasses.replace(FAST, checkpoint_seconds=0.0)
    unbroken = eco(cube, tmp_path / "unbroken", training=training)
    assert weights(unbroken.path) == weights(whole.path)
    with pytest.raises(Killed):
        eco(cube, tmp_path / "broken", training=training, progress=killer(steps))
    with pytest.raises(CheckpointError, match=r"run\.json"):
        checkpoint.load(tmp_path / "broken")
    resumed = eco(cube, tmp_path / "broken", training=training)
    assert weights(resumed.path) == weights(whole.path)
    strip = [{k: v for k, v in row.items() if k != "seconds"} for row in resumed.history]
    assert strip == [{k: v for k, v in row.items() if k != "seconds"} for row in whole.history]


def test_a_run_killed_between_states_goes_on_from_the_last_epoch(cube, whole, tmp_path):
    per_epoch = len_epoch(cube, whole)
    with pytest.raises(Killed):
        eco(cube, tmp_path / "broken", progress=killer(per_epoch + 2))
    done = []
    eco(cube, tmp_path / "broken", progress=lambda d, t, text: text.startswith("epoch") and done.append(d))
    assert len(done) < 2.5 * per_epoch
    assert weights(tmp_path / "broken") == weights(whole.path)


def len_epoch(cube, run):
    """Steps of the first epoch."""
    seen = []
    with pytest.raises(Killed):
        eco(cube, run.path.parent / "count", progress=lambda d, t, text: seen.append(t) or killer(1)(d, t, text))
    return seen[-1] // 3


def test_another_request_does_not_resume(cube, tmp_path):
    with pytest.raises(Killed):
        eco(cube, tmp_path / "run", progress=killer(15))
    with pytest.raises(ConfigError, match=r"training\.lr was 0\.005, is 0\.1"):
        eco(cube, tmp_path / "run", training=dataclasses.replace(FAST, lr=0.1))
    with pytest.raises(CheckpointError, match="resume=True"):
        eco(cube, tmp_path / "run", resume=False)
    eco(cube, tmp_path / "run", training=dataclasses.replace(FAST, lr=0.1, epochs=1), overwrite=True)


def test_a_finished_run_is_not_replaced_unasked(cube, tmp_path):
    first = fit(cube, model="sw-linear", out=tmp_path / "run")
    with pytest.raises(CheckpointError, match="overwrite=True"):
        fit(cube, model="sw-linear", out=tmp_path / "run")
    fit(cube, model="mean-cycle", out=tmp_path / "run", overwrite=True)
    fit(cube, model="sw-linear", out=tmp_path / "new", overwrite=True)  # nothing to replace
    assert checkpoint.load(first)[0].kind == "mean-cycle"


def test_a_folder_of_something_else_is_never_touched(cube, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(CheckpointError, match=r"thesis\.tex"):
            fit(cube, model="sw-linear", out=tmp_path, overwrite=overwrite)
    assert (tmp_path / "thesis.tex").read_text() == "x"
    with pytest.raises(CheckpointError, match="is a file"):
        fit(cube, model="sw-linear", out=tmp_path / "thesis.tex")


def test_a_damaged_state_is_named(cube, tmp_path):
    with pytest.raises(Killed):
        eco(cube, tmp_path / "run", progress=killer(15))
    path = tmp_path / "run" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"state\.safetensors is damaged"):
        eco(cube, tmp_path / "run")


@pytest.mark.parametrize("name", ["xgboost", "sw-linear", "mean-cycle", "met-regression", "met-clusters"])
def test_row_models_are_seeded_and_predict(cube, tmp_path, name):
    config = BoostingConfig(n_estimators=10) if name == "xgboost" else None
    runs = [fit(cube, model=name, out=tmp_path / str(i), config=config, memory_days=(1,), seed=2) for i in range(2)]
    assert checkpoint.digest(runs[0]) == checkpoint.digest(runs[1])
    model, metadata = checkpoint.load(runs[0])
    spec = FeatureSpec.from_dict(metadata["features"])
    test = cube.sel(site=list(runs[0].split.test))
    block = cube_block(test, spec)
    place, stop = (a.ravel() for a in np.meshgrid(range(test.sizes["site"]), np.arange(1, 289), indexing="ij"))
    pred = model.predict(Batch.of(gather(block, place, stop, 1)))[:, -1, 0]
    obs = test.fluxes.sel(target="NEE").values.ravel()
    assert nse(obs, pred * spec.target_scale[0] + spec.target_mean[0]) > 0.5


def test_every_setting_of_training_changes_something(cube, tmp_path):
    short = dataclasses.replace(FAST, epochs=2, windows_per_epoch=32, val_windows=16)
    whole = eco(cube, tmp_path / "whole", training=short)
    changes = {
        "epochs": 1,
        "batch_size": 8,
        "lr": 1e-3,
        "warmup_epochs": 0.5,
        "weight_decay": 0.5,
        "betas": (0.5, 0.9),
        "grad_clip": 0.01,
        "stride": 6,
        "windows_per_epoch": 20,
        "precision": "bfloat16",
        "effective_batch": 32,
        "ema": 0.9,
    }
    for name, value in changes.items():
        eco(cube, tmp_path / name, training=dataclasses.replace(short, **{name: value}))
        assert weights(tmp_path / name) != weights(whole.path), name
    few = eco(cube, tmp_path / "val", training=dataclasses.replace(short, val_windows=5))
    assert few.history[0]["val_nse_NEE"] != whole.history[0]["val_nse_NEE"]
    assert few.history[0]["loss"] == whole.history[0]["loss"]
    gaussian = dataclasses.replace(TINY, distribution="gaussian")
    plain = eco(cube, tmp_path / "gaussian", config=gaussian, training=short)
    for name, value in {"mse_epochs": 0, "nll_beta": 0.5}.items():
        eco(cube, tmp_path / name, config=gaussian, training=dataclasses.replace(short, **{name: value}))
        assert weights(tmp_path / name) != weights(plain.path), name
    # These change no number of a step, or have tests of their own.
    other = {"val_windows", "device", "checkpoint_seconds", "keep", "patience", "tensorboard", "weight_by_randunc"}
    other |= {"val_quality"}
    other |= {"deterministic", "compile"}  # tests/gpu/, tests/training/test_resident.py
    other |= {"weigh", "filled_weight"}  # tests/training/test_weights.py
    other |= {"balance", "pretrain_epochs"}  # of daily models
    gaussians = {"mse_epochs", "nll_beta"}
    assert {f.name for f in dataclasses.fields(TrainingConfig)} == {*changes, *gaussians, *other}


def test_validation_scores_as_evaluation_does():
    rng = np.random.default_rng(0)
    obs, pred = rng.normal(size=500), rng.normal(size=500)
    obs[::7] = np.nan
    assert nse(obs, pred) == pytest.approx(float(kernels.nse(obs, pred)))


def test_the_last_epoch_is_kept_if_asked(cube, whole, tmp_path):
    """The last epoch of a run of two equals the last of the same run without a validation that could choose."""
    last = eco(cube, tmp_path / "last", training=dataclasses.replace(FAST, keep="last"))
    blind = dataclasses.replace(whole.split, train=whole.split.train, val=())
    unseen = eco(cube, tmp_path / "blind", split=blind, training=dataclasses.replace(FAST, keep="last"))
    assert weights(last.path) == weights(unseen.path)


def test_options_reach_the_features(cube, tmp_path):
    run = fit(
        cube,
        model="mean-cycle",
        out=tmp_path / "run",
        predictors=("DOY", "TOD", "TA"),
        memory_days=(1, 3),
        bands=("red", "nir"),
        static=("igbp",),
        max_qc=2,
    )
    spec = FeatureSpec.from_dict(checkpoint.load(run)[1]["features"])
    assert spec.inputs == ("DOY", "TOD", "TA", "TA_MEAN_1D", "TA_MEAN_3D")
    assert (spec.bands, spec.static, spec.predictor_max_qc) == (("red", "nir"), ("igbp",), 2)
    assert spec.igbp_classes == ("CRO", "DBF", "ENF", "GRA")
    bare = fit(cube.drop_vars("modis"), model="sw-linear", out=tmp_path / "bare", static=())
    spec = FeatureSpec.from_dict(checkpoint.load(bare)[1]["features"])
    assert (spec.bands, spec.static, spec.igbp_classes) == ((), (), ())


def test_a_split_file_is_used_and_kept(cube, tmp_path):
    sites = cube.site.values.tolist()
    Split(train=sites[:8], test=sites[8:]).save(tmp_path / "mine.json")
    last = dataclasses.replace(FAST, keep="last", epochs=1)
    run = eco(cube, tmp_path / "run", split=tmp_path / "mine.json", training=last)
    assert run.split.train == tuple(sites[:8])
    assert "no validation" in run.summary
    assert json.loads((run.path / "split.json").read_text())["test"] == sites[8:]


def test_mistakes_are_named(cube, tmp_path):
    out = tmp_path / "run"
    for error, match, settings in (
        (UnknownNameError, "ecoperceiver", {"model": "ecoperciever"}),
        (UnknownNameError, "NEE", {"target": "NEEE"}),
        (UnknownNameError, "SW_IN", {"predictors": ("SW_INN",)}),
        (ConfigError, "LE", {"target": "LE", "predictors": ("TA", "LE")}),
        (ConfigError, "needs SW_IN", {"model": "sw-linear", "predictors": ("TA",)}),
        (ConfigError, "BoostingConfig", {"model": "xgboost", "config": TINY}),
        (UnknownNameError, "latent", {"config": {"latnet": 3}}),
        (ConfigError, "FCH4", {"target": "FCH4"}),
        (UnknownNameError, "ZZ-Zzz", {"split": Split(train=("ZZ-Zzz",))}),
    ):
        with pytest.raises(error, match=match):
            fit(cube, out=out, **settings)
    with pytest.raises(ConfigError, match="no chips"):
        fit(cube.drop_vars("modis"), out=out, bands=("red",))


def test_presets_by_name():
    assert preset_config("ecoperceiver", "small") == EcoPerceiverConfig.small()
    assert preset_config("xgboost", "xbase") == BoostingConfig.xbase()
    assert preset_config("xgboost", None) is None
    with pytest.raises(UnknownNameError, match="published"):
        preset_config("ecoperceiver", "publish")


@pytest.mark.parametrize("model", ["ecoperceiver", "xgboost"])
def test_a_preset_in_python_is_that_of_the_command(model, tmp_path):
    cube = example_cube(sites=12, days=12)
    defaults = {name: p.default for name, p in inspect.signature(fit).parameters.items() if name != "cube"}
    config, training = configure(model, "quick")
    change = next(iter(dataclasses.asdict(config)))
    changed = {change: getattr(config, change)}
    plans = [
        planned(cube, defaults | {"model": model, "out": tmp_path} | options)
        for options in (
            {"config": config, "training": training},
            {"preset": "quick"},
            {"preset": "quick", "config": changed},
        )
    ]
    assert plans[0].config == plans[1].config == plans[2].config
    assert plans[0].training == plans[1].training == plans[2].training
    plain = planned(cube, defaults | {"model": model})
    assert (plain.config, plain.training) != (plans[0].config, plans[0].training)
    with pytest.raises(ConfigError, match="config has every setting, as preset does"):
        planned(cube, defaults | {"model": model, "preset": "quick", "config": config})
    with pytest.raises(UnknownNameError, match="did you mean 'quick'"):
        planned(cube, defaults | {"model": model, "preset": "quik"})


def test_a_split_in_time_trains_on_its_periods_alone(tmp_path):
    """Fluxes after the training period, however wrong, change no weight; those before do."""
    cube = example_cube(sites=3, days=12)
    sites = cube.site.values.tolist()
    train, test = [["2018-06-01", "2018-06-07"]], [["2018-06-08", "2018-06-13"]]
    periods = {"train": dict.fromkeys(sites, train), "test": dict.fromkeys(sites, test)}
    split = Split(train=sites, test=sites, periods=periods)
    after = cube.assign(fluxes=cube.fluxes.where(cube.time < np.datetime64("2018-06-07"), 99.0))
    before = cube.assign(fluxes=cube.fluxes.where(cube.time >= np.datetime64("2018-06-07"), 99.0))
    options = {"model": "sw-linear", "predictors": ("SW_IN",), "bands": (), "split": split}
    weights = [
        (fit(c, out=tmp_path / str(i), **options).path / "model.json").read_text("utf-8")
        for i, c in enumerate((cube, after, before))
    ]
    assert weights[0] == weights[1] != weights[2]
    assert Split.load(tmp_path / "0/split.json") == split


def test_a_mapping_as_config_changes_the_default_preset_as_the_command_does():
    """Settings that a mapping leaves out are those of small(), not of the published form."""
    spec = FeatureSpec(targets=("NEE",), predictors=("TA", "SW_IN"), bounds="ours")
    for model in ("ecoperceiver", "tam-rl"):
        cls = registry.config_class(model)
        expected, _ = configure(model, None, ["config.context=20"])
        assert complete_config(model, {"context": 20}, spec) == expected
        assert complete_config(model, None, spec) == registry.preset_config(model)
        assert complete_config(model, cls.published(), spec) == cls.published()
        with pytest.raises(UnknownNameError, match="context"):
            complete_config(model, {"contxt": 20}, spec)
