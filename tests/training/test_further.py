"""Training further: from a checkpoint's weights, if its features are those given; one biome; and bad input."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import safetensors.torch
import torch
from training_helpers import FAST, TARGETS, TINY, eco, small_cube, weights

from fluxcube.errors import CheckpointError, ConfigError, MissingPackageError, SplitError, UnknownNameError
from fluxcube.inference.loading import load_model
from fluxcube.inference.towers import predict
from fluxcube.models import checkpoint
from fluxcube.samples import towers as reading
from fluxcube.samples.splits import Split, per_igbp
from fluxcube.training.fit import fit
from fluxcube.training.settings import configure

torch.set_num_threads(1)  # tests run beside each other


@pytest.fixture(scope="module")
def cube():
    return small_cube()


@pytest.fixture(scope="module")
def first(cube, tmp_path_factory):
    return eco(cube, tmp_path_factory.mktemp("first") / "run")


def still(**changes):
    """A training that changes no weight, to see where it began."""
    return dataclasses.replace(FAST, epochs=1, lr=1e-30, weight_decay=0.0, keep="last", **changes)


def test_it_begins_where_the_checkpoint_ended(cube, first, tmp_path):
    one = eco(cube, tmp_path / "one", init=first, training=still())
    a, b = (safetensors.torch.load(weights(run.path)) for run in (first, one))
    assert all(torch.allclose(a[name], b[name]) for name in a)
    assert checkpoint.load(one)[1]["init"] == checkpoint.digest(first)
    assert load_model(one).spec == load_model(first).spec
    more = eco(cube, tmp_path / "more", init=first.path, training=dataclasses.replace(FAST, epochs=1))
    assert more.history[0]["loss"] < 0.9 * first.history[0]["loss"]


def test_the_scaling_and_the_classes_stay_the_checkpoints(cube, first, tmp_path):
    """On fluxes twice as large and sites of one class: the same weights still mean what they meant."""
    other = cube.copy(deep=True)
    other["fluxes"] = other.fluxes * 2
    run = eco(other, tmp_path / "run", init=first, training=still(), train_igbp="GRA", config=None)
    spec, was = load_model(run).spec, load_model(first).spec
    assert (spec.target_mean, spec.target_scale) == (was.target_mean, was.target_scale)
    assert spec.igbp_classes == was.igbp_classes and len(was.igbp_classes) > 1
    towers = cube.sel(site=list(first.split.test))
    np.testing.assert_allclose(predict(run, towers).NEE.values, predict(first, towers).NEE.values, rtol=1e-4, atol=1e-4)


def test_a_head_for_variances_can_be_added_and_dropout_changed(cube, first, tmp_path):
    config = dataclasses.replace(TINY, distribution="gaussian", dropout=0.1, head="last")
    run = eco(cube, tmp_path / "run", init=first, config=config, training=still())
    model, was = checkpoint.load(run)[0], checkpoint.load(first)[0]
    assert torch.allclose(model.head.weight, was.head.weight) and (model.spread.weight == 0).all()
    back = eco(cube, tmp_path / "back", init=run, config=TINY, training=still())
    assert set(checkpoint.load(back)[0].state_dict()) == set(was.state_dict())


MET = ("TA", "SW_IN", "VPD", "SW_IN_POT")


@pytest.mark.parametrize(
    ("match", "changes"),
    [
        (
            "predictors .* in its order: expected DOY, TOD, TA",
            {"predictors": ("TOD", "DOY", *MET)},
        ),
        ("predictors .* in its order", {"predictors": ("VPD", "TA", "SW_IN")}),
        ("targets .* in its order", {"target": ("GPP_NT", "NEE")}),
        ("targets .* in its order", {"target": ("RECO_NT", "GPP_NT", "NEE")}),
        ("static .* in its order", {"static": ("igbp", "latitude")}),
        ("bands .* in its order", {"bands": "turned"}),
        ("latent was 16, is 32", {"config": dataclasses.replace(TINY, latent=32)}),
        ("latent was 16, is 32", {"config": {"latent": 32}}),
        ("sw-linear cannot be", {"model": "sw-linear", "config": None}),
    ],
)
def test_what_does_not_fit_the_checkpoint_is_named(cube, first, tmp_path, match, changes):
    if "bands" in changes:
        spec = load_model(first).spec
        changes = {"bands": (*reversed(spec.bands),)}
    with pytest.raises(ConfigError, match=match):
        eco(cube, tmp_path / "run", init=first, **changes)
    assert not (tmp_path / "run").exists()


def test_what_is_not_given_is_the_checkpoints(cube, first, tmp_path):
    run = fit(cube, out=tmp_path / "run", init=first, training=still(), split=first.split, config={"dropout": 0.2})
    assert load_model(run).spec == load_model(first).spec
    assert checkpoint.load(run)[0].config == dataclasses.replace(TINY, dropout=0.2)


def test_other_inputs_and_targets_keep_what_is_known_of_those_in_common(cube, first, tmp_path):
    """Without VPD, with trailing means, one target less and one more, and one band: each tensor's rows by name."""
    changes = {
        "predictors": ("DOY", "TOD", "TA", "SW_IN", "SW_IN_POT"),
        "memory_days": (3,),
        "bands": ("red",),
        "target": ("GPP_NT", "LE"),
        "static": ("latitude", "igbp"),
    }
    le = cube.copy(deep=True)
    nee, at = (list(cube.target.values).index(name) for name in ("NEE", "LE"))
    le.fluxes[:, :, at] = 20 + 5 * cube.fluxes[:, :, nee]
    le.fluxes_qc[:, :, at] = 0
    run = eco(le, tmp_path / "run", init=first, training=still(), **changes)
    was, now = load_model(first).spec, load_model(run).spec
    assert (now.target_mean[0], now.target_scale[0]) == (was.target_mean[1], was.target_scale[1])
    observed = le.sel(site=list(run.split.train)).fluxes.sel(target="LE").values
    np.testing.assert_allclose([now.target_mean[1], now.target_scale[1]], [observed.mean(), observed.std()], rtol=1e-4)
    a, b = (safetensors.torch.load(weights(one.path)) for one in (first, run))
    names = [(*spec.inputs, *spec.numbers) for spec in (was, now)]
    for row, name in enumerate(names[1]):
        known = name in names[0]
        assert known == (not name.endswith("_MEAN_3D"))
        if known:
            assert torch.allclose(b["variables"][row], a["variables"][names[0].index(name)])
    assert torch.allclose(b["head.weight"][0], a["head.weight"][1]) and not b["head.weight"][1].abs().max() > 1e-6
    assert torch.allclose(b["bands"][0], a["bands"][was.bands.index("red")])
    same = [k for k in a if k.split(".")[0] in ("cross", "block_self", "self_layers", "met_norm", "latents", "classes")]
    assert len(same) > 20 and all(torch.allclose(a[k], b[k]) for k in same)
    towers = cube.sel(site=list(first.split.test))
    full = eco(cube, tmp_path / "full", init=first, training=still(), target=("NEE", "GPP_NT", "RECO_NT"))
    np.testing.assert_allclose(
        predict(full, towers).NEE.values, predict(first, towers).NEE.values, rtol=1e-4, atol=1e-4
    )


def test_a_checkpoint_that_cannot_be_begun_with_is_refused(cube, first, tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        eco(cube, tmp_path / "run", init=tmp_path / "nothing")
    rows = fit(cube, model="sw-linear", out=tmp_path / "rows")
    with pytest.raises(ConfigError, match="run of ecoperceiver, the model to train"):
        eco(cube, tmp_path / "run", init=rows)
    several = eco(cube, tmp_path / "several", seeds=1, epochs=1)
    with pytest.raises(ConfigError, match="seed folders"):
        eco(cube, tmp_path / "run", init=several)


def test_another_checkpoint_is_another_request(cube, first, tmp_path):
    class Killed(Exception):
        pass

    def progress(done, total, text):
        if text.startswith("epoch 2"):
            raise Killed

    with pytest.raises(Killed):
        eco(cube, tmp_path / "run", init=first, progress=progress)
    with pytest.raises(ConfigError, match="init was"):
        eco(cube, tmp_path / "run")
    eco(cube, tmp_path / "run", init=first)


def test_a_run_that_broke_is_gone_on_with_otherwise_from_its_best_weights(cube, first, tmp_path):
    """A run stopped in its second epoch: what is begun with is the first one's, as if it had been the only one."""

    class Killed(Exception):
        pass

    def progress(done, total, text):
        if text.startswith("epoch 2"):
            raise Killed

    with pytest.raises(Killed):
        eco(cube, tmp_path / "broken", progress=progress)
    one = eco(cube, tmp_path / "one", init=tmp_path / "broken", training=still())
    state = safetensors.torch.load((tmp_path / "broken/state.safetensors").read_bytes())
    for name, value in safetensors.torch.load(weights(one.path)).items():
        torch.testing.assert_close(value, state[f"best/{name}"])
    assert load_model(one).spec == load_model(first).spec
    path = tmp_path / "broken/state.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"state\.safetensors is damaged"):
        eco(cube, tmp_path / "two", init=tmp_path / "broken")


def test_one_biome_trains_and_validates_on_its_sites_alone(cube, tmp_path):
    split = per_igbp(cube, seed=4)
    igbp = dict(zip(cube.site.values.tolist(), cube.igbp.values.tolist(), strict=True))
    run = fit(cube, model="sw-linear", out=tmp_path / "run", split=split, train_igbp=("GRA", "CRO"))
    assert run.split.train == tuple(site for site in split.train if igbp[site] in ("GRA", "CRO"))
    assert run.split.test == split.test and {igbp[s] for s in run.split.val} <= {"GRA", "CRO"}
    with pytest.raises(SplitError, match="no training site"):
        fit(cube, model="sw-linear", out=tmp_path / "bare", split=split, train_igbp="BSV")


@pytest.fixture
def nothing_long(monkeypatch):
    """Towers are never read whole."""

    def read(*arguments, **options):
        raise AssertionError("long work was begun")

    monkeypatch.setattr("fluxcube.training.single.load_towers", read)
    monkeypatch.setattr(reading, "_present", read)


SITES = per_igbp(small_cube(), seed=4)


@pytest.mark.parametrize(
    ("error", "match", "changes"),
    [
        (UnknownNameError, "predictor of the cube 'SWC_9'", {"predictors": ("TA", "SWC_9")}),
        (UnknownNameError, "target of the cube 'NEEE'", {"target": "NEEE"}),
        (UnknownNameError, "target of the cube 'FOO'", {"target": ("NEE", "FOO")}),
        (ConfigError, "LE: a variable cannot be predictor and target", {"target": "LE", "predictors": ("TA", "LE")}),
        (ConfigError, "FCH4: observed in no hour", {"target": "FCH4"}),
        (SplitError, "no validation sites", {"split": Split(train=SITES.train, test=SITES.test)}),
        (SplitError, "at least one training site", {"split": {"train": (), "val": SITES.val}}),
        (UnknownNameError, "ZZ-Zzz", {"split": Split(train=("ZZ-Zzz",), val=SITES.val)}),
        (UnknownNameError, "band of the cube 'ultraviolet'", {"bands": ("ultraviolet",)}),
        (ConfigError, "random uncertainty", {"training": dataclasses.replace(FAST, weight_by_randunc=True)}),
    ],
)
def test_bad_input_is_named_before_any_long_work(cube, tmp_path, nothing_long, error, match, changes):
    with pytest.raises(error, match=match):
        if isinstance(changes.get("split"), dict):
            changes = {"split": Split(**changes["split"])}
        eco(cube, tmp_path / "run", **{"predictors": ("TA", "SW_IN"), **changes})
    assert not (tmp_path / "run").exists()


def test_a_cube_without_what_is_asked_for_is_named(cube, tmp_path, nothing_long):
    for error, match, lacking, changes in (
        (UnknownNameError, "band of the cube 'nir'", cube.sel(band=["red", "green"]), {"bands": ("red", "nir")}),
        (UnknownNameError, "target of the cube 'GPP_NT'", cube.sel(target=["NEE"]), {}),
        (ConfigError, "no chips", cube.drop_vars("modis"), {"bands": ("red",)}),
    ):
        with pytest.raises(error, match=match):
            eco(lacking, tmp_path / "run", **{"predictors": ("TA", "SW_IN")} | changes)


def test_validation_sites_without_a_measured_flux_are_an_empty_side(cube, tmp_path, nothing_long):
    filled = cube.copy(deep=True)
    at = [list(cube.site.values).index(site) for site in SITES.val]
    filled.fluxes_qc[at] = 1
    with pytest.raises(SplitError, match=f"none of its {len(at)} validation sites has a measured NEE or GPP_NT"):
        eco(filled, tmp_path / "run", split=SITES, predictors=("TA", "SW_IN"))


def test_a_target_that_some_towers_lack_is_learnt_where_it_is(cube, tmp_path):
    """One target without a flux at half of the training sites: the other's loss and scores go on as before."""
    holes = cube.copy(deep=True)
    at = [list(cube.site.values).index(site) for site in SITES.train[: len(SITES.train) // 2]]
    targets = list(cube.target.values)
    for values, change in ((holes.fluxes, lambda nee: 50 - 10 * nee), (holes.fluxes_qc, lambda nee: nee)):
        values[:, :, targets.index("LE")] = change(values[:, :, targets.index("NEE")])
    holes.fluxes[at, :, targets.index("GPP_NT")] = np.nan
    run = eco(holes, tmp_path / "run", split=SITES, target=("NEE", "GPP_NT", "RECO_NT", "LE"))
    assert all(np.isfinite(run.history[-1][f"val_nse_{t}"]) for t in (*TARGETS, "RECO_NT", "LE"))
    assert run.history[-1]["val_nse_GPP_NT"] > run.history[0]["val_nse_GPP_NT"]


def changed(folder, change):
    path = folder / "run.json"
    about = json.loads(path.read_text("utf-8"))
    change(about)
    path.write_text(json.dumps(about), "utf-8")


@pytest.mark.parametrize(
    ("match", "change"),
    [
        ("changed since", lambda a: a["features"]["predictors"].reverse()),
        ("changed since", lambda a: a["features"]["target_scale"].__setitem__(0, 99.0)),
        ("changed since", lambda a: a["training_sites"].pop()),
        ("digest is not that", lambda a: a.update(digest="0" * 64)),
        ("has format 7", lambda a: a.update(format=7)),
        ("another version", lambda a: a["config"].update(wings=2)),
        ("damaged: sha256", lambda a: a["files"].update({"model.safetensors": "0" * 64})),
    ],
)
def test_a_tampered_checkpoint_is_refused(cube, first, tmp_path, match, change):
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(first.path, folder)
    changed(folder, change)
    with pytest.raises(CheckpointError, match=match):
        load_model(folder)
    with pytest.raises(CheckpointError, match=match):
        eco(cube, tmp_path / "more", init=folder)


def test_events_are_written_where_tensorboard_is_installed(cube, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    training = dataclasses.replace(FAST, tensorboard=True)
    run = eco(cube, tmp_path / "run", training=training)
    found = EventAccumulator(str(run.path / "tensorboard"))
    found.Reload()
    written = [event.value for event in found.Scalars("epoch/val_nse_NEE")]
    np.testing.assert_allclose(written, [row["val_nse_NEE"] for row in run.history], rtol=1e-5)
    assert [event.step for event in found.Scalars("step/loss")] == [10, 20]
    plain = eco(cube, tmp_path / "plain")
    assert weights(plain.path) == weights(run.path)
    eco(cube, tmp_path / "run", epochs=1, overwrite=True)
    assert not (tmp_path / "run/tensorboard").exists()


def test_without_tensorboard_it_is_named(cube, tmp_path, nothing_long, monkeypatch):
    monkeypatch.setattr("fluxcube.training.checks.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="tensorboard"):
        eco(cube, tmp_path / "run", predictors=("TA",), training=dataclasses.replace(FAST, tensorboard=True))


def test_settings_by_words():
    config, training = configure("ecoperceiver", "published", ["training.batch_size=64", "config.dropout=0"])
    assert (config.latent, config.dropout, training.batch_size, training.effective_batch) == (128, 0, 64, 4096)
    assert configure("ecoperceiver", None) == (None, configure("xgboost", None)[1])
    assert configure("xgboost", None, ["config.max_depth=3"])[0] == {"max_depth": 3}
    assert configure("ecoperceiver", None, ["config.attention=window", "config.head=last"])[0].head == "last"
    for bad in ("lr=1", "training.lr", "model.lr=1", "training.=1"):
        with pytest.raises(ConfigError, match="a setting must be"):
            configure("ecoperceiver", None, [bad])
    with pytest.raises(UnknownNameError, match="did you mean 'epochs'"):
        configure("ecoperceiver", None, ["training.epoch=3"])
    with pytest.raises(ConfigError, match="lr must be a number, found 'fast'"):
        configure("ecoperceiver", None, ["training.lr=fast"])
