"""Dropout of inputs: its share, what it spares, and that no division of a batch and no device changes it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fluxcube.models.base import Batch, Sizes, split_images
from fluxcube.models.dropout import DropoutKey
from fluxcube.models.ecoperceiver import EcoPerceiver, EcoPerceiverConfig

torch.set_num_threads(1)  # tests run beside each other

KEY = DropoutKey(seed=3, epoch=1, step=2)
CONFIG = EcoPerceiverConfig(
    latent=16, frequencies=4, embedding=4, context=12, heads=2, blocks=2, self_layers=1, head="dense", dropout=0.3
)
PLAIN = Sizes(inputs=6, bands=3, numbers=2, classes=(4,), targets=2, protected=(0, 1))
KINDS = dataclasses.replace(PLAIN, bands=2, image_bands=(3, 4), image_pixels=(9, 1))
OTHERS = dataclasses.replace(KINDS, bands=0)


def make_model(sizes=PLAIN, **changes):
    torch.manual_seed(0)
    model = EcoPerceiver(dataclasses.replace(CONFIG, **changes), sizes)
    torch.nn.init.normal_(model.head.weight)
    return model


def make_batch(count, sizes=PLAIN):
    """Windows of which no value is missing, except of the narrower kinds of images."""
    kinds = sizes.image_kinds
    width = max((b * p for b, p in kinds), default=0)
    shape = (count, 3 * len(kinds), 1, width) if sizes.image_bands else (count, 3, sizes.bands, 64)
    images = torch.rand(shape)
    for i, (bands, pixels) in enumerate(kinds if sizes.image_bands else ()):
        images[:, 3 * i : 3 * i + 3, :, bands * pixels :] = torch.nan
    return Batch(
        inputs=torch.rand(count, 12, sizes.inputs) - 0.5,
        images=images,
        image_step=torch.tensor([0, 6, -1]).repeat(count, max(len(kinds), 1)),
        numbers=torch.rand(count, sizes.numbers),
        classes=torch.zeros(count, len(sizes.classes), dtype=torch.int64),
    )


def equal(one, other):
    np.testing.assert_array_equal(one.numpy(), other.numpy())


@pytest.mark.parametrize("sizes", [PLAIN, KINDS, OTHERS], ids=["chips", "kinds", "no chips"])
@pytest.mark.parametrize("unit", ["token", "variable"])
def test_what_is_dropped_does_not_depend_on_the_division_of_a_batch(unit, sizes):
    model, whole = make_model(sizes, dropout_unit=unit), make_batch(400, sizes)
    dropped = model.drop(whole, KEY, torch.arange(400))
    for rows in (torch.arange(1, 400, 2), torch.arange(390, 400), torch.tensor([7])):
        part = model.drop(Batch(*(a if a is None else a[rows] for a in whole)), KEY, rows)
        equal(part.inputs, dropped.inputs[rows])
        equal(part.images, dropped.images[rows])


@pytest.mark.parametrize("sizes", [PLAIN, KINDS, OTHERS], ids=["chips", "kinds", "no chips"])
@pytest.mark.parametrize("unit", ["token", "variable"])
def test_dropout_takes_its_share_and_spares_the_clocks(unit, sizes):
    model, whole = make_model(sizes, dropout_unit=unit), make_batch(1000, sizes)
    dropped = model.drop(whole, KEY, torch.arange(1000))
    gone = torch.isnan(dropped.inputs)
    assert not gone[..., :2].any() and abs(gone[..., 2:].float().mean() - 0.3) < 0.02
    whole_windows = (gone == gone[:, :1]).all(1)[:, 2:]
    assert whole_windows.all() if unit == "variable" else not whole_windows.all(0).any()
    equal(dropped.inputs[~gone], whole.inputs[~gone])
    before = split_images(whole.images, whole.image_step, sizes)
    for (images, _), (old, _) in zip(split_images(dropped.images, dropped.image_step, sizes), before, strict=True):
        bands = torch.isnan(images)
        assert (bands.all(-1) == bands.any(-1)).all(), "whole bands are dropped"
        assert abs(bands.float().mean() - 0.3) < 0.04
        assert (bands == bands[:, :1]).all() == (unit == "variable")
        equal(images[~bands], old[~bands])
    assert dropped.images.shape == whole.images.shape


def test_numbers_are_as_random_as_a_generator_would_draw_them():
    """Shares, pairs of neighbours, windows and steps are independent: within four standard deviations."""
    rows, shape, share = torch.arange(2000), (16, 8), 0.25
    draws = KEY.dropped(rows, shape, share, part=0).float()
    n = draws.numel()
    limit = 4 * (share * (1 - share) / n) ** 0.5
    assert abs(draws.mean() - share) < limit
    assert (abs(draws.mean(0) - share) < 4.5 * (share * (1 - share) / 2000) ** 0.5).all()
    others = {
        "hour": draws.roll(1, 1),
        "column": draws.roll(1, 2),
        "window": draws.roll(1, 0),
        "part": KEY.dropped(rows, shape, share, part=1).float(),
        "step": dataclasses.replace(KEY, step=3).dropped(rows, shape, share, part=0).float(),
        "epoch": dataclasses.replace(KEY, epoch=2).dropped(rows, shape, share, part=0).float(),
        "seed": dataclasses.replace(KEY, seed=4).dropped(rows, shape, share, part=0).float(),
    }
    for name, other in others.items():
        correlation = ((draws - share) * (other - share)).mean() / (share * (1 - share))
        assert abs(correlation) < 4 / n**0.5, name
    assert abs(KEY.dropped(torch.arange(10**9, 10**9 + 2000), shape, share, part=0).float().mean() - share) < limit


def test_numbers_never_change():
    """The first numbers of a key: an unfinished run continues with the masks that it began with."""
    rows = KEY.dropped(torch.arange(4), (8,), 0.5, part=0).int().tolist()
    assert rows == [
        [1, 1, 0, 0, 0, 1, 1, 0],
        [0, 0, 1, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 1, 1, 0, 1],
        [1, 1, 1, 1, 0, 1, 1, 0],
    ]


def test_a_dropped_token_leaves_no_trace():
    """With all else dropped the estimates are those with all else missing, and training mode alone drops nothing."""
    model, batch = make_model(dropout=0.999999).train(), make_batch(3)
    bare = batch._replace(inputs=batch.inputs.clone(), images=torch.full_like(batch.images, torch.nan))
    bare.inputs[..., 2:] = torch.nan
    with torch.no_grad():
        dropped = model(model.drop(batch, KEY, torch.arange(3)))
        torch.testing.assert_close(dropped, model(bare), atol=1e-6, rtol=0)
        torch.testing.assert_close(model(batch), model.eval()(batch), atol=0, rtol=0)


def test_nothing_is_dropped_without_dropout():
    model, batch = make_model(dropout=0.0), make_batch(3)
    assert not model.drops_inputs and model.drop(batch, KEY, torch.arange(3)) is batch
