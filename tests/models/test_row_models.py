"""Trees and the two yardsticks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fluxcube.errors import ConfigError, DeviceError, UnknownNameError
from fluxcube.models import boosting, registry, treedevice
from fluxcube.models.base import Batch, Model, Sizes
from fluxcube.models.boosting import ROUNDS, Boosting, BoostingConfig
from fluxcube.models.imagemeans import chip_means
from fluxcube.models.simple import MeanCycle, MeanCycleConfig, SWLinear, SWLinearConfig

SIZES = Sizes(inputs=3, bands=2, numbers=1, classes=(2,), targets=2)


def make_batch(count, seed=0, hours=1):
    rng = np.random.default_rng(seed)
    met = rng.uniform(-1, 1, (count, hours, 3)).astype("float32")
    return Batch(
        inputs=met,
        images=rng.random((count, 2, 2, 64), dtype="float32"),
        image_step=np.tile([0, -1], (count, 1)),
        numbers=rng.uniform(-0.5, 0.5, (count, 1)).astype("float32"),
        classes=rng.integers(0, 2, (count, 1)),
    )


def test_swlinear_recovers_a_line():
    model, batch = SWLinear(SWLinearConfig(column=1), SIZES), make_batch(200)
    sun = batch.inputs[:, -1, 1]
    targets = np.stack([2 * sun - 1, -3 * sun], 1)
    targets[::7, 0] = np.nan
    batch.inputs[3, 0, 1] = np.nan
    targets[3] = [5.0, 5.0]
    model.fit(model.rows(batch), targets)
    out = model.predict(batch)[:, -1]
    keep = np.arange(200) != 3
    np.testing.assert_allclose(out[keep, 1], -3 * sun[keep], atol=1e-5)
    np.testing.assert_allclose(out[keep, 0], 2 * sun[keep] - 1, atol=1e-5)
    np.testing.assert_allclose(out[3], np.nanmean(targets, 0), atol=1e-5)


def test_mean_cycle_is_the_mean_of_its_bin_with_fallbacks():
    model = MeanCycle(MeanCycleConfig(doy_column=0, tod_column=1), SIZES)
    rows = np.array([[0, 0, 5], [0, 0, 5], [1, 0, 5], [0, 3, 5], [0, 0, 6]], "float32")
    targets = np.array([[1.0, 1], [3.0, 3], [8.0, 8], [20.0, np.nan], [100.0, 100]])
    model.fit(rows, targets)
    asked = np.array([[0, 0, 5], [1, 3, 5], [2, 0, 5], [1, 7, 5], [1, 7, 20]], "float32")
    #            bin     month and hour  unknown class   hour             all
    np.testing.assert_allclose(model.predict_rows(asked)[:, 0], [2.0, 20.0, 4.0, 8.0, 26.4], rtol=1e-6)


def test_mean_cycle_reads_the_clocks():
    model = MeanCycle(MeanCycleConfig(doy_column=0, tod_column=1), SIZES)
    doy = np.array([0.0, 30.6, 183.0, 365.9])
    tod = np.array([0.0, 13.0, 23.0, 23.9])
    batch = make_batch(4)._replace(classes=np.array([[0], [1], [-1], [0]]))
    batch.inputs[:, 0, 0] = doy / 183 - 1
    batch.inputs[:, 0, 1] = tod / 12 - 1
    assert model.rows(batch).tolist() == [[0, 0, 0], [1, 1, 13], [2, 6, 23], [0, 11, 23]]


def test_chip_means_weigh_by_distance_from_the_centre():
    images = np.zeros((2, 2, 1, 64), "float32")
    images[0, 0, 0, 27] = 1.0  # next to the centre
    images[1, 0, 0, 0] = 1.0  # a corner
    images[0, 1] = 50.0
    mean = chip_means(images, np.array([[0, -1], [0, -1]]), 1)[:, 0]
    distance = [np.hypot(3.5 - i, 3.5 - j) for i in range(8) for j in range(8)]
    total = sum(1 / d for d in distance)
    np.testing.assert_allclose(mean, [1 / distance[27] / total, 1 / distance[0] / total], rtol=1e-5)
    np.testing.assert_allclose(chip_means(np.full((1, 2, 1, 64), 0.3, "float32"), np.array([[0, 5]]), 1), 0.3)
    assert np.isnan(chip_means(images, np.full((2, 2), -1), 1)).all()


def test_chip_means_leave_missing_pixels_out():
    rng = np.random.default_rng(0)
    images = rng.random((1, 1, 2, 64)).astype("float32")
    images[0, 0, 0, rng.permutation(64)[:30]] = np.nan
    images[0, 0, 1] = np.nan
    mean = chip_means(images, np.array([[0]]), 2)[0]
    rows, cols = np.mgrid[:8, :8] - 3.5
    weight = 1 / np.sqrt(rows**2 + cols**2).ravel()
    seen = np.isfinite(images[0, 0, 0])
    np.testing.assert_allclose(mean[0], np.average(images[0, 0, 0, seen], weights=weight[seen]), rtol=1e-5)
    assert np.isnan(mean[1])


def test_boosting_learns_each_target_and_takes_gaps():
    model = Boosting(BoostingConfig(n_estimators=40, max_depth=4), SIZES)
    batch = make_batch(3000)
    batch.inputs[::5, 0, 2] = np.nan
    targets = np.stack([batch.inputs[:, 0, 0] ** 2, batch.classes[:, 0] + batch.images[:, 0, 1].mean(-1)], 1)
    targets[::3, 1] = np.nan
    logged = model.fit(model.rows(batch), targets, seed=3)
    assert set(logged) == {"trees_0", "trees_1"}
    out = model.predict(batch)[:, 0]
    seen = np.isfinite(targets)
    assert np.abs(out[seen] - targets[seen]).mean() < 0.05
    again = Boosting(model.config, SIZES)
    again.fit(again.rows(batch), targets, seed=3)
    assert again.weights() == model.weights()


def test_boosting_stops_early():
    model = Boosting(BoostingConfig(n_estimators=200, early_stopping=5), SIZES)
    rng = np.random.default_rng(0)
    rows, noise = model.rows(make_batch(500)), rng.normal(size=(500, 2))
    logged = model.fit(rows, noise, model.rows(make_batch(300, 1)), rng.normal(size=(300, 2)))
    assert logged["trees_0"] < 100


def test_a_row_holds_the_hour_and_earlier_ones_without_their_clocks():
    sizes = dataclasses.replace(SIZES, protected=(0,))
    batch = make_batch(2, hours=6)
    whole, some = (
        Boosting(config, sizes) for config in (BoostingConfig(context=4), BoostingConfig(lags=(5, 2), context=1))
    )
    assert whole.context == 4 and some.context == 6
    static = 2 + 1 + 2
    last = batch.inputs[:, -1]
    rows = some.rows(batch)
    assert rows.shape == (2, 3 + 2 * 2 + static)
    np.testing.assert_array_equal(
        rows[:, :7], np.concatenate([last, batch.inputs[:, 3, 1:], batch.inputs[:, 0, 1:]], 1)
    )
    rows = whole.rows(batch)
    assert rows.shape == (2, 3 + 3 * 2 + static)
    np.testing.assert_array_equal(rows[:, 3:9], batch.inputs[:, [4, 3, 2], 1:].reshape(2, 6))
    without = Boosting(BoostingConfig(lags=(5, 2)), dataclasses.replace(sizes, means=1)).rows(batch)
    np.testing.assert_array_equal(
        without[:, :5], np.concatenate([last, batch.inputs[:, 3, 1:2], batch.inputs[:, 0, 1:2]], 1)
    )
    same = Boosting(BoostingConfig(lags=(3, 1, 2)), sizes)
    np.testing.assert_array_equal(same.rows(batch), rows)


def test_lags_show_what_the_hour_does_not():
    batch = make_batch(4000, hours=4)
    target = np.repeat(batch.inputs[:, 0, 1:2], 2, axis=1)
    errors = []
    for lags in ((), (3,)):
        model = Boosting(BoostingConfig(n_estimators=40, max_depth=4, lags=lags), SIZES)
        model.fit(model.rows(batch), target)
        errors.append(np.abs(model.predict(batch)[:, -1] - target).mean())
    assert errors[1] < 0.1 * errors[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"lags": (0,)},
        {"lags": (1, 1)},
        {"lags": (2,), "context": 3},
        {"device": "gpu"},
        {"max_rows": 0},
        {"lags": (1.5,)},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        BoostingConfig(**wrong)
    if "lags" in wrong:
        with pytest.raises(ConfigError, match="lags"):
            BoostingConfig.from_dict({name: list(v) if isinstance(v, tuple) else v for name, v in wrong.items()})


class Pieces:
    """Rows given in parts of odd sizes."""

    def __init__(self, rows, targets):
        self.rows, self.y, self.passes, self.released = rows, targets, 0, False

    def targets(self):
        return self.y

    def weights(self):
        return None

    def chunks(self):
        self.passes += 1
        for at in range(0, len(self.rows), 37):
            yield self.rows[at : at + 37], self.y[at : at + 37]

    def release(self):
        self.released = True


def some_rows(count=600, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, 5)).astype("float32")
    rows[rng.random(rows.shape) < 0.1] = np.nan
    targets = np.nan_to_num(rows[:, :2]) ** 2 + rng.normal(0, 0.1, (count, 2))
    targets[::3, 1] = np.nan
    targets[37:74, 1] = np.nan  # a part without any
    return rows, targets.astype("float32")


def test_rows_in_parts_give_the_trees_of_rows_at_once():
    rows, targets = some_rows()
    config = BoostingConfig(n_estimators=30, max_rows=300)
    whole, parts = Boosting(config, SIZES), Boosting(config, SIZES)
    logged = whole.fit(rows, targets, *some_rows(300, 1), seed=5)
    pieces = Pieces(rows, targets)
    assert parts.learn(pieces, Pieces(*some_rows(300, 1)), seed=5) == logged
    assert parts.weights() == whole.weights() and pieces.passes > 1 and pieces.released


def test_each_target_learns_from_its_own_hours():
    rows, targets = some_rows()
    config = BoostingConfig(n_estimators=5)
    both, one = Boosting(config, SIZES), Boosting(config, dataclasses.replace(SIZES, targets=1))
    both.fit(rows, targets)
    seen = np.isfinite(targets[:, 1])
    one.fit(rows[seen], targets[seen, 1:])
    np.testing.assert_array_equal(both.predict_rows(rows)[:, 1], one.predict_rows(rows)[:, 0])
    with pytest.raises(ConfigError, match="target 1 is observed in no"):
        both.fit(rows, np.stack([targets[:, 0], np.full(len(rows), np.nan)], 1))


class Killed(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("changes", [{}, {"max_leaves": 15, "early_stopping": 0}], ids=["depth-wise", "leaf-wise"])
@pytest.mark.parametrize("at", [1, 2, 4])
def test_trees_taken_up_again_are_those_of_an_unbroken_run(changes, at):
    """Columns and rows are drawn in every tree, so that a draw out of step would show."""
    settings = {"n_estimators": 2 * ROUNDS + 6, "colsample_bylevel": 0.7, "early_stopping": 15, "learning_rate": 0.02}
    config = BoostingConfig(**settings | changes)
    data = (Pieces(*some_rows()), Pieces(*some_rows(300, 1)))
    whole = Boosting(config, SIZES)
    logged = whole.learn(*data, seed=1)
    states = []

    def keep(growth):
        states.append(growth)
        if len(states) == at:
            raise Killed

    with pytest.raises(Killed):
        Boosting(config, SIZES).learn(*data, seed=1, keep=keep)
    assert (states[-1].rounds, len(states[-1].done)) == {1: (ROUNDS, 0), 2: (2 * ROUNDS, 0), 4: (ROUNDS, 1)}[at]
    again = Boosting(config, SIZES)
    assert again.learn(*data, seed=1, start=states[-1]) == logged
    assert again.weights() == whole.weights()


def test_validation_scores_are_those_of_the_trees_kept():
    model = Boosting(BoostingConfig(n_estimators=60, early_stopping=5), SIZES)
    rows, targets = some_rows(300, 1)
    logged = model.fit(*some_rows(), rows, targets)
    for i in range(2):
        seen = np.isfinite(targets[:, i])
        error = (model.predict_rows(rows)[seen, i] - targets[seen, i]).astype(float)
        np.testing.assert_allclose(logged[f"val_rmse_{i}"], np.sqrt((error**2).mean()), rtol=1e-4)
        nse = 1 - (error**2).mean() / targets[seen, i].astype(float).var()
        np.testing.assert_allclose(logged[f"val_nse_{i}"], nse, rtol=1e-4)


def test_a_gpu_is_used_where_there_is_one_and_xgboost_is_built_for_it(monkeypatch):
    import xgboost

    for built, cards, device in ((True, 1, "cuda:0"), (True, 0, "cpu"), (False, 1, "cpu")):
        monkeypatch.setattr(xgboost, "build_info", lambda built=built: {"USE_CUDA": built})
        monkeypatch.setattr(treedevice, "_gpus", lambda cards=cards: cards)
        assert boosting.parameters(BoostingConfig(), 0)["device"] == device
        assert boosting.parameters(BoostingConfig(device="cpu"), 0)["device"] == "cpu"
        if device == "cpu":
            with pytest.raises(ConfigError, match="no GPU" if built else "built for CPUs"):
                Boosting(BoostingConfig(device="cuda"), SIZES).fit(*some_rows())
        else:
            assert boosting.parameters(BoostingConfig(device="cuda"), 0)["device"] == "cuda:0"
    assert boosting.parameters(BoostingConfig(), 0)["tree_method"] == "hist"


@pytest.mark.parametrize(("init", "count", "found"), [(0, 2, 2), (0, 0, 0), (100, 2, 0)])
def test_gpus_are_counted_by_the_driver(monkeypatch, init, count, found):
    class Driver:
        def cuInit(self, flags):
            return init

        def cuDeviceGetCount(self, pointer):
            pointer._obj.value = count
            return 0

    monkeypatch.setattr(treedevice.ctypes, "CDLL", lambda name: Driver())
    assert treedevice._gpus() == found


def test_a_machine_without_driver_has_no_gpu(monkeypatch):
    def absent(name):
        raise OSError(name)

    monkeypatch.setattr(treedevice.ctypes, "CDLL", absent)
    assert treedevice._gpus() == 0


def test_max_rows_are_drawn_by_seed():
    rows, targets = np.random.default_rng(0).normal(size=(500, 4)).astype("float32"), np.arange(1000.0).reshape(500, 2)
    weights = []
    for seed in (0, 0, 1):
        model = Boosting(BoostingConfig(max_rows=50, n_estimators=3, subsample=1.0, colsample_bytree=1.0), SIZES)
        model.fit(rows, targets, seed=seed)
        weights.append(model.weights()["model.0.ubj"])
    assert weights[0] == weights[1] != weights[2]


def test_presets_differ_and_configs_refuse_what_they_do_not_know():
    presets = [
        BoostingConfig(),
        BoostingConfig.published(),
        BoostingConfig.xbase(),
        BoostingConfig.small(),
        BoostingConfig.quick(),
    ]
    assert len({tuple(dataclasses.asdict(p).values()) for p in presets}) == 5
    assert (presets[1].n_estimators, presets[1].max_depth, presets[2].max_leaves) == (150, 9, 31)
    with pytest.raises(UnknownNameError, match="max_depth"):
        BoostingConfig.from_dict({"maxdepth": 3})
    with pytest.raises(ConfigError, match=r"column must be one of the 3 .*found 9"):
        SWLinear(SWLinearConfig(column=9), SIZES)
    with pytest.raises(ConfigError, match="train the model first"):
        Boosting(BoostingConfig(), SIZES).predict(make_batch(1))


def test_all_models_keep_one_protocol():
    configs = {
        "ecoperceiver": {},
        "xgboost": {},
        "mean": {},
        "sw-linear": {"column": 0},
        "mean-cycle": {"doy_column": 0, "tod_column": 1},
        "met-regression": {"ta_column": 0, "sw_column": 1, "vpd_column": 2},
        "met-clusters": {"ta_column": 0, "sw_column": 1, "vpd_column": 2},
        **{name: {} for name in ("tam-rl", "tam-lstm", "ct-lstm", "lstm")},
    }
    assert set(configs) == set(registry.names())
    for name, config in configs.items():
        model = registry.build(name, config, SIZES)
        assert isinstance(model, Model) and model.kind == name
        assert model.n_targets == 2 and 1 <= model.emits <= model.context
    with pytest.raises(UnknownNameError, match="did you mean 'xgboost'"):
        registry.build("xgbost", {}, SIZES)


def test_trees_fall_back_to_the_cpu_with_a_message_where_xgboost_is_built_for_it(monkeypatch, caplog):
    import xgboost

    treedevice._warn.cache_clear()
    model = Boosting(BoostingConfig(n_estimators=2), SIZES)
    monkeypatch.setattr(xgboost, "build_info", lambda: {"USE_CUDA": False})
    assert model.device_for("auto") == "cpu" and not model.can_use_cards() and not caplog.text
    assert model.device_for("cuda") == model.device_for("cuda:1") == "cpu"
    assert "built for CPUs" in caplog.text and "trees use the CPU" in caplog.text
    monkeypatch.setattr(xgboost, "build_info", lambda: {"USE_CUDA": True})
    monkeypatch.setattr(treedevice, "_gpus", lambda: 2)
    assert (model.device_for("auto"), model.device_for("cuda:1"), model.device_for("cpu")) == (
        "cuda:0",
        "cuda:1",
        "cpu",
    )
    with pytest.raises(ConfigError, match="this machine shows 2 GPU"):
        model.device_for("cuda:2")
    assert model.device_for("cuda:2,cpu") == "cpu"


@pytest.mark.parametrize(
    ("text", "message"), [("Memory allocation error: out of memory", "too small for 5"), ("cudaErrorLaunch", "failed")]
)
def test_errors_of_a_card_that_predicts_trees_are_named(monkeypatch, text, message):
    import xgboost

    class Broken:
        def set_param(self, parameters):
            assert parameters == {"device": "cuda:0"}

        def predict(self, matrix):
            raise xgboost.core.XGBoostError(text)

    with pytest.raises(DeviceError, match=message):
        treedevice.predict_on("cuda:0", [Broken()], np.zeros((5, 2), np.float32))


def test_trees_on_a_card_predict_what_they_do_on_the_cpu():
    """On a machine without a card, XGBoost itself answers for the other device."""
    model = Boosting(BoostingConfig(n_estimators=5), SIZES)
    rows, targets = some_rows()
    model.fit(rows, targets)
    expected = model.predict_rows(rows)
    found = np.stack(treedevice.predict_on("cpu:0", _named_cpu(model.boosters), rows), 1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def _named_cpu(boosters):
    """Boosters that compute on the CPU, whatever their device is called."""

    class Named:
        def __init__(self, booster):
            self.predict = booster.predict

        def set_param(self, parameters):
            pass

    return [Named(booster) for booster in boosters]
