"""Training of a banded EcoPerceiver: long windows, every hour supervised, scored with whole context, resumable."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from test_fit import Killed, killer, weights

from fluxcube.inference.loading import load_model
from fluxcube.inference.towers import predict
from fluxcube.models import checkpoint
from fluxcube.models.ecoperceiver import EcoPerceiverConfig
from fluxcube.simulation.example import example_cube
from fluxcube.training.config import TrainingConfig
from fluxcube.training.fit import fit
from fluxcube.training.validation import scored_windows

torch.set_num_threads(1)

#: An estimate depends on 15 hours; windows of training have 24.
BANDED = EcoPerceiverConfig(
    latent=16,
    frequencies=4,
    embedding=4,
    context=8,
    heads=2,
    blocks=1,
    self_layers=1,
    head="dense",
    attention="banded",
    distribution="gaussian",
)
FAST = TrainingConfig(epochs=2, batch_size=8, windows_per_epoch=96, val_windows=32, lr=5e-3)


@pytest.fixture(scope="module")
def cube():
    return example_cube(sites=12, days=12)


def banded(cube, out, **changes):
    settings = {"model": "ecoperceiver", "config": BANDED, "training": FAST, "target": ("NEE", "GPP_NT"), "seed": 4}
    return fit(cube, out=out, **settings | changes)


@pytest.fixture(scope="module")
def whole(cube, tmp_path_factory):
    return banded(cube, tmp_path_factory.mktemp("whole") / "run")


def test_a_run_is_trained_validated_calibrated_and_read_again(cube, whole):
    model, metadata = checkpoint.load(whole)
    assert json.loads((whole.path / "run.json").read_text())["config"]["attention"] == "banded"
    assert (model.config, model.context, model.streams, model.training_length) == (BANDED, 15, True, 16)
    assert scored_windows(model) == {"length": 22, "emits": 8, "repeat_images": True}
    losses = [row["loss"] for row in metadata["history"]]
    assert losses[-1] < losses[0] and np.isfinite([row["val_nse_NEE"] for row in metadata["history"]]).all()
    assert load_model(whole.path).applicability is not None


def test_predictions_of_a_run_begin_with_its_context(cube, whole):
    test = cube.sel(site=list(whole.split.test))
    fluxes = predict(whole, test, uncertainty="std" if "NEE" in whole.calibration else False)
    assert np.isnan(fluxes.NEE.values[:, :14]).all() and np.isfinite(fluxes.NEE.values[:, 14:]).any()
    first = predict(whole, test, min_context=1)
    np.testing.assert_array_equal(first.NEE.values[:, 14:], fluxes.NEE.values[:, 14:])
    assert np.isfinite(first.NEE.values[:, :14]).any()


@pytest.mark.parametrize("at", [5, 14])
def test_a_resumed_run_is_an_unbroken_one(cube, whole, tmp_path, at):
    with pytest.raises(Killed):
        banded(cube, tmp_path / "run", progress=killer(at), training=dataclasses.replace(FAST, checkpoint_seconds=0.0))
    run = banded(cube, tmp_path / "run", training=dataclasses.replace(FAST, checkpoint_seconds=0.0))
    assert weights(run.path) == weights(whole.path)


def test_seeds_are_members_of_an_ensemble(cube, tmp_path):
    run = banded(cube, tmp_path / "run", seeds=2, training=dataclasses.replace(FAST, epochs=1))
    test = cube.sel(site=list(run.split.test))
    assert load_model(run.path).model.streams
    assert float(predict(run, test, uncertainty="spread").NEE_spread.max()) > 0


def test_a_run_is_trained_further(cube, whole, tmp_path):
    more = banded(cube, tmp_path / "run", init=whole.path, config=None, training=dataclasses.replace(FAST, epochs=1))
    assert checkpoint.load(more)[0].config.attention == "banded"


def test_requests_of_windows_are_those_of_earlier_versions(cube, whole, tmp_path):
    window = dataclasses.replace(BANDED, attention="window")
    run = banded(cube, tmp_path / "run", config=window, training=dataclasses.replace(FAST, epochs=1))
    requests = [json.loads((one.path / "run.json").read_text())["request"]["config"] for one in (run, whole)]
    assert "attention" not in requests[0] and requests[1]["attention"] == "banded"
