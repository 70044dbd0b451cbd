"""Other kinds of images in models: slots of a batch, tokens, masks, causality, sliding-window inference."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fluxcube.errors import ConfigError
from fluxcube.models.base import Batch, Sizes, split_images
from fluxcube.models.boosting import Boosting, BoostingConfig, chip_means
from fluxcube.models.ecoperceiver import EcoPerceiver, EcoPerceiverConfig
from fluxcube.models.sliding import predict_sliding
from fluxcube.samples.features import Block
from fluxcube.samples.images import NO_CHIP, Images
from fluxcube.samples.windows import flatten, gather, join

CONFIG = EcoPerceiverConfig(latent=16, frequencies=3, embedding=4, context=24, heads=2, blocks=2, self_layers=1)
SIZES = Sizes(inputs=4, bands=2, targets=1, image_bands=(3, 5), image_pixels=(9, 1))
ALONE = dataclasses.replace(SIZES, bands=0)


def make_block(sizes, hours=120, places=1, seed=0):
    """Places whose kinds of images have days of their own, some of them shared, and images without a valid pixel."""
    rng = np.random.default_rng(seed)
    noon = rng.integers(0, 24, (places, 1))

    def images(bands, pixels, every):
        hour = noon + 24 * np.arange(-2, hours // 24, every)
        values = rng.random((places, hour.shape[1], bands, pixels), dtype=np.float32)
        values[rng.random(values.shape[:3]) < 0.2] = np.nan
        values[:, 1::3] = np.nan  # an empty image is the latest one, too
        return Images(values, hour)

    chips = images(sizes.bands, 64, 2)
    others = zip(sizes.image_bands, sizes.image_pixels, strict=True)
    inputs = rng.uniform(-0.5, 0.5, (places, hours, sizes.inputs)).astype(np.float32)
    inputs[rng.random(inputs.shape) < 0.2] = np.nan
    return Block(
        inputs=inputs,
        observed=np.isfinite(inputs).any(-1),
        numbers=np.empty((places, 0), np.float32),
        classes=np.empty((places, 0), np.int64),
        chips=chips.pixels if sizes.bands else chips.pixels[:, :0],
        chip_hour=chips.hour if sizes.bands else chips.hour[:, :0],
        first_hour=500_000,
        images=tuple(images(*kind, 1 + i) for i, kind in enumerate(others)),
    )


def make_model(sizes=SIZES, **changes):
    torch.manual_seed(1)
    model = EcoPerceiver(dataclasses.replace(CONFIG, dropout=0.0, **changes), sizes).eval()
    torch.nn.init.normal_(model.head.weight)
    return model


def tensors(arrays):
    return Batch.of(arrays).map(lambda a: torch.from_numpy(np.asarray(a)))


def run(model, batch):
    with torch.no_grad():
        return model(batch)


@pytest.mark.parametrize("length", [1, 24, 30])
def test_each_kind_has_the_slots_that_it_would_have_alone(length):
    block = make_block(SIZES, places=3)
    place, stop = np.array([0, 2, 1]), np.array([40, 120, 7])
    got = gather(block, place, stop, length)
    for at, (images, step) in enumerate(split_images(got["images"], got["image_step"], SIZES)):
        own = (Images(block.chips, block.chip_hour), *block.images)[at]
        one = dataclasses.replace(block, chips=own.pixels, chip_hour=own.hour, images=())
        alone = gather(one, place, stop, length)
        np.testing.assert_array_equal(images, alone["images"])
        np.testing.assert_array_equal(step, alone["image_step"])


def test_joined_places_have_their_own_images():
    parts = [make_block(SIZES, hours, seed=hours) for hours in (60, 100)]
    series = join(parts)
    for i, part in enumerate(parts):
        for name, array in gather(part, np.zeros(2, int), np.array([30, 55]), 24).items():
            np.testing.assert_array_equal(gather(series, np.full(2, i), np.array([30, 55]), 24)[name], array)


def test_a_place_without_images_of_a_kind_has_empty_slots():
    block = make_block(SIZES)
    none = [Images(kind.pixels[:, :0], kind.hour[:, :0]) for kind in block.images]
    absent = [Images(np.full_like(k.pixels, np.nan), np.full_like(k.hour, NO_CHIP)) for k in block.images]
    one, other = (dataclasses.replace(block, images=tuple(kinds)) for kinds in (none, absent))
    a, b = (gather(x, np.zeros(1, int), np.array([50]), 24) for x in (one, other))
    np.testing.assert_array_equal(a["image_step"], b["image_step"])
    np.testing.assert_array_equal(a["images"], b["images"])
    torch.testing.assert_close(run(make_model(), tensors(a)), run(make_model(), tensors(b)))


@pytest.mark.parametrize("sizes", [SIZES, ALONE], ids=["with chips", "without chips"])
@pytest.mark.parametrize("change", [{}, {"share": False, "distribution": "gaussian"}, {"summary": 8}], ids=str)
def test_a_stretch_gives_what_its_windows_give(sizes, change):
    sizes = dataclasses.replace(sizes, means=1) if "summary" in change else sizes
    model, block = make_model(sizes, **change), make_block(sizes)
    series, hours = flatten(block), block.inputs.shape[1]
    with torch.inference_mode():
        stretch = predict_sliding(model, tensors(gather(series, np.array([0]), np.array([hours]), hours)))[0]
        stops = np.arange(24, hours + 1)
        windows = torch.cat([model(tensors(gather(series, np.array([0]), np.array([s]), 24)))[:, -1] for s in stops])
    torch.testing.assert_close(stretch, windows, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_each_kind_counts_from_its_own_hour_on(kind):
    model, block = make_model(head="dense"), make_block(SIZES)
    own = (Images(block.chips, block.chip_hour), *block.images)[kind]
    hour = next(int(h) for h, x in zip(own.hour[0], own.pixels[0], strict=True) if h >= 24 and np.isfinite(x).any())
    batch = tensors(gather(block, np.zeros(1, int), np.array([hour + 10]), 24))
    step = split_images(batch.images, batch.image_step, SIZES)[kind][1]
    slot = int((step[0] == 14).nonzero())
    changed = batch._replace(images=batch.images.clone())
    at = kind * step.shape[1] + slot
    changed.images[0, at] -= 0.3
    before, after = run(model, batch)[0], run(model, changed)[0]
    torch.testing.assert_close(before[:14], after[:14], rtol=0, atol=0)
    assert (before[14:] != after[14:]).all()


def test_order_of_bands_and_kinds_is_that_of_the_weights():
    model, block = make_model(), make_block(SIZES)
    order = torch.tensor([2, 0, 1])
    moved = make_model()
    moved.load_state_dict(model.state_dict())
    with torch.no_grad():
        for name in ("bands", "band_weight", "band_bias"):
            getattr(moved.image_encoders[0], name).copy_(getattr(model.image_encoders[0], name)[order])
    kinds = (Images(block.images[0].pixels[:, :, order.numpy()], block.images[0].hour), block.images[1])
    a, b = (
        tensors(gather(x, np.zeros(2, int), np.array([40, 90]), 24))
        for x in (block, dataclasses.replace(block, images=kinds))
    )
    torch.testing.assert_close(run(model, a), run(moved, b))
    assert not torch.allclose(run(model, a), run(model, b))


def test_what_a_masked_band_contains_has_no_effect(monkeypatch):
    from fluxcube.models import tokens

    model, batch = make_model(), tensors(gather(make_block(SIZES), np.zeros(3, int), np.array([40, 60, 99]), 24))
    before = run(model, batch)
    monkeypatch.setattr(tokens, "_PLACEHOLDER", 7.5)
    torch.testing.assert_close(run(model, batch), before, rtol=0, atol=0)


def test_without_images_a_model_is_that_without_the_kind():
    """An image token that is masked is the same as none: nothing but tokens reaches the latents."""
    model, block = make_model(), make_block(SIZES)
    plain = EcoPerceiver(model.config, Sizes(inputs=4, bands=2, targets=1)).eval()
    own = {name: value for name, value in model.state_dict().items() if not name.startswith("image_encoders")}
    plain.load_state_dict(own)
    masked = [Images(np.full_like(kind.pixels, np.nan), kind.hour) for kind in block.images]
    a = tensors(gather(dataclasses.replace(block, images=tuple(masked)), np.zeros(1, int), np.array([90]), 24))
    b = tensors(gather(dataclasses.replace(block, images=()), np.zeros(1, int), np.array([90]), 24))
    torch.testing.assert_close(run(model, a), run(plain, b))


def test_trees_get_the_weighted_mean_of_every_band_of_every_kind():
    model = Boosting(BoostingConfig(), SIZES)
    batch = Batch.of(gather(make_block(SIZES), np.zeros(3, int), np.array([40, 60, 99]), 1))
    rows = model.rows(batch)
    assert rows.shape == (3, 4 + 2 + 3 + 5)
    images, step = split_images(batch.images, batch.image_step, SIZES)[2]
    latest = images[np.arange(3), step.argmax(1), :, 0]
    np.testing.assert_array_equal(rows[:, -5:], latest)


@pytest.mark.parametrize("pixels", [1, 9, 10, 64])
def test_the_mean_of_a_uniform_image_is_its_value(pixels):
    mean = chip_means(np.full((1, 1, 2, pixels), 0.25, np.float32), np.zeros((1, 1), int), 2)
    np.testing.assert_allclose(mean, 0.25, rtol=1e-6)


def test_sizes_without_other_images_are_those_of_old_checkpoints():
    old = {"inputs": 4, "bands": 2, "numbers": 0, "classes": [], "targets": 1, "protected": [], "means": 0}
    assert Sizes.from_dict(old).image_kinds == ((2, 64),)
    model = EcoPerceiver(EcoPerceiverConfig.published(), Sizes(inputs=21, bands=9, targets=1))
    assert sum(p.numel() for p in model.parameters()) == 988_633
    assert not [name for name in model.state_dict() if "image_encoders" in name]
    with pytest.raises(ConfigError, match="one number for each kind"):
        Sizes(inputs=1, image_bands=(2,))
