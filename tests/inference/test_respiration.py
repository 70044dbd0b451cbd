"""Derived respiration: from the night-time partition alone, clipped as GPP is, for each member of an ensemble."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
from daily_cubes import daily_cube

from fluxcube.errors import ConfigError
from fluxcube.inference.predictor import Predictor
from fluxcube.inference.towers import predict
from fluxcube.models.base import BaseModel, Batch, Sizes
from fluxcube.models.ensemble import Ensemble, floors
from fluxcube.samples.features import FeatureSpec
from fluxcube.simulation.example import example_cube

CALIBRATED = {"factor": 2.0, "calibrated": {"0.8": 0.8}}


@dataclasses.dataclass(frozen=True)
class Slope(BaseModel):
    """Every target is its own multiple of the normalised air temperature."""

    slopes: tuple[float, ...]
    kind: str = "slope"
    std: bool = False
    config: None = None

    @property
    def sizes(self):
        return Sizes(inputs=1, targets=len(self.slopes))

    @property
    def quantities(self):
        return ("mean", "std") if self.std else ("mean",)

    def predict(self, batch: Batch) -> np.ndarray:
        return np.asarray(batch.inputs[:, -1:, :1] * np.array(self.slopes), np.float32)

    def predict_all(self, batch: Batch) -> np.ndarray:
        means = self.predict(batch)
        return np.concatenate([means, np.ones_like(means)], -1) if self.std else means


def spec(targets, resolution="daily"):
    mean, scale = (tuple(np.arange(1.0, 1 + len(targets)) * k) for k in (0.25, 2.0))
    return FeatureSpec(predictors=("TA",), targets=targets, target_mean=mean, target_scale=scale, resolution=resolution)


def predictor(model, features, calibration=None):
    about = {"kind": "slope", "cube": {"resolution": features.resolution}, "calibration": calibration or {}}
    return Predictor(model, features, about)


@pytest.fixture(scope="module")
def cubes():
    daily = daily_cube(sites=3, days=40)
    ta = daily.predictors.sel(variable="TA")  # cold and warm days, so that fluxes of both signs are predicted
    daily["predictors"] = daily.predictors.where(daily["variable"] != "TA", (ta - ta.mean()) * 8)
    return {"daily": daily, "hourly": example_cube(sites=2, days=3)}


TARGETS = ("NEE", "GPP_NT")
STEEP, FLAT = (-20.0, 9.0), (6.0, -7.0)


def test_daily_respiration_is_clipped_and_the_hourly_one_is_not(cubes):
    daily = predict(predictor(Slope(STEEP), spec(TARGETS)), cubes["daily"])
    assert float(daily.NEE.min()) < 0 and float((daily.NEE + daily.GPP_NT).min()) < 0
    np.testing.assert_allclose(daily.RECO, np.maximum(daily.NEE + daily.GPP_NT, 0), rtol=1e-5, atol=1e-5)
    assert daily.RECO.attrs["units"] == "gC m-2 d-1" and daily.RECO.attrs["derived"] == "NEE + GPP_NT"
    hourly = predict(predictor(Slope((-90.0, 30.0)), spec(TARGETS, "hourly")), cubes["hourly"])
    np.testing.assert_array_equal(hourly.RECO, hourly.NEE + hourly.GPP_NT)
    assert float(hourly.RECO.min()) < 0


@pytest.mark.parametrize("uncertainty", [False, True])
def test_an_ensemble_is_the_mean_of_clipped_members(cubes, uncertainty):
    features = spec(TARGETS)
    floor = floors(features.targets, features.target_mean, features.target_scale, daily=True)
    members = [Slope(STEEP), Slope(FLAT)]
    both = predict(predictor(Ensemble(members, floor=floor), features), cubes["daily"], uncertainty=uncertainty)
    alone = [predict(predictor(member, features), cubes["daily"]) for member in members]
    for name in ("NEE", "GPP_NT", "RECO"):
        each = np.stack([one[name].values for one in alone])
        np.testing.assert_allclose(both[name], each.mean(0), rtol=1e-4, atol=1e-4)
        if uncertainty and name != "RECO":
            np.testing.assert_allclose(both[f"{name}_spread"], each.std(0, ddof=1), rtol=1e-4, atol=1e-4)
    clipped_mean = np.maximum(both.NEE + both.GPP_NT, 0)
    assert float(np.abs(both.RECO - clipped_mean).max()) > 0.1  # which the mean of the clipped members is not


@pytest.mark.parametrize("resolution", ["hourly", "daily"])
def test_the_day_time_partition_yields_no_respiration_and_the_reason_is_reported(cubes, resolution, caplog):
    model = predictor(Slope(STEEP), spec(("NEE", "GPP_DT"), resolution))
    with caplog.at_level(logging.WARNING):
        made = predict(model, cubes[resolution])
    assert "RECO" not in made and "GPP_DT is not RECO" in caplog.text and "GPP_NT" in made.attrs["RECO_absent"]
    from fluxcube.inference.outputs import flux_names

    with pytest.raises(ConfigError, match=r"RECO is no flux of this model.*GPP_NT"):
        flux_names(model, ["NEE", "RECO"])
    both = predict(predictor(Slope((*STEEP, 5.0)), spec(("NEE", "GPP_DT", "GPP_NT"), resolution)), cubes[resolution])
    assert both.RECO.attrs["derived"] == "NEE + GPP_NT" and "RECO_absent" not in both.attrs


def test_a_head_of_respiration_is_used_and_nothing_derived(cubes):
    made = predict(predictor(Slope((*STEEP, 5.0)), spec(("NEE", "GPP_NT", "RECO_NT"))), cubes["daily"])
    assert "RECO" not in made and float(made.RECO_NT.min()) == 0.0 and "RECO_absent" not in made.attrs


def test_standard_deviations_exist_only_where_they_are_calibrated(cubes):
    features, model = spec(TARGETS), Slope(STEEP, std=True)
    with pytest.raises(ConfigError, match="no validation tower"):
        predict(predictor(model, features), cubes["daily"], uncertainty=True)
    with pytest.raises(ConfigError, match="no validation tower"):
        predict(predictor(model, features, {"NEE": {"factor": 1.0}}), cubes["daily"], uncertainty=True)
    one = predict(predictor(model, features, {"GPP_NT": CALIBRATED}), cubes["daily"], uncertainty=True)
    assert {n for n in one if n.endswith(("_std", "_spread"))} == {"GPP_NT_std"} and "RECO" in one
    np.testing.assert_allclose(one.GPP_NT_std.max(), 2.0 * features.target_scale[1])
    assert one.GPP_NT_std.attrs["calibration_factor"] == 2.0
    plain = predict(predictor(model, features), cubes["daily"])
    np.testing.assert_array_equal(one.RECO, plain.RECO)


def test_an_ensemble_that_nothing_calibrated_has_its_spread_alone(cubes):
    ensemble = Ensemble([Slope(STEEP), Slope(FLAT)])
    made = predict(predictor(ensemble, spec(TARGETS)), cubes["daily"], uncertainty=True)
    assert {n for n in made if n.endswith(("_std", "_spread"))} == {"NEE_spread", "GPP_NT_spread"}
    known = predict(predictor(ensemble, spec(TARGETS), {"NEE": CALIBRATED}), cubes["daily"], uncertainty=True)
    assert {n for n in known if n.endswith("_std")} == {"NEE_std"}
    np.testing.assert_allclose(known.NEE_std, 2 * known.NEE_spread, rtol=1e-5)
    np.testing.assert_array_equal(known.RECO, made.RECO)
