"""A training loop of one's own, on labelled windows, computes the loss of `fit`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from training_helpers import FAST, TARGETS, TINY, small_cube

from fluxcube.models.base import Batch
from fluxcube.resolution import HOURLY
from fluxcube.samples.loader import load_windows
from fluxcube.training.descent import new_network
from fluxcube.training.fit import fit
from fluxcube.training.plan import make_plan
from fluxcube.training.request import FitRequest


def test_the_first_loss_of_fit_is_that_of_a_loop_on_labelled_windows(tmp_path):
    cube, config = small_cube(), replace(TINY, dropout=0.0)
    training = replace(FAST, epochs=1, windows_per_epoch=16)  # one step: its loss is that of the untrained network
    run = fit(cube, model="ecoperceiver", config=config, training=training, target=TARGETS, seed=4, out=tmp_path)
    request = FitRequest(
        model="ecoperceiver",
        config=config,
        training=training,
        target=TARGETS,
        split=run.split,
        limit=HOURLY.limit(1),
    )
    torch.manual_seed(4)
    network = new_network(make_plan(cube, request))
    windows = load_windows(
        cube,
        sites=run.split.train,
        targets=TARGETS,
        labels=True,
        length=network.training_length,
        emits=network.supervised,
        stride=network.training_stride,
        repeat_images=network.streams,
        partial=True,
        batch_size=16,
        limit=16,
        seed=4,
    )
    batch = next(iter(windows.loader()))
    estimate = network.train()(Batch.of(batch))
    loss = ((estimate - batch["y"]).square() * batch["y_mask"]).sum() / batch["y_mask"].sum()
    assert loss.item() == pytest.approx(run.history[0]["loss"], rel=1e-5)
