"""Windows: the fast gather equals a naive loop."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxcube.errors import ConfigError
from fluxcube.models.base import Batch
from fluxcube.samples.features import Block
from fluxcube.samples.images import NO_CHIP, Images
from fluxcube.samples.windows import cut, flatten, gather, join


def random_block(rng, places=3, hours=100, chips=6):
    hour = np.sort(rng.integers(-60, hours - 24, (places, chips)), axis=1) + 24 * np.arange(chips)
    hour[:, -1:] = np.where(rng.random((places, 1)) < 0.5, NO_CHIP, hour[:, -1:])
    return Block(
        inputs=rng.normal(size=(places, hours, 4)).astype("float32"),
        observed=np.ones((places, hours), bool),
        numbers=rng.normal(size=(places, 2)).astype("float32"),
        classes=rng.integers(0, 3, (places, 1)),
        chips=rng.normal(size=(places, chips, 2, 64)).astype("float32"),
        chip_hour=hour,
        first_hour=400_000,
    )


def naive(block, place, stop, length):
    """One window, hour by hour."""
    met = np.full((length, block.inputs.shape[2]), np.nan, "float32")
    images = {}
    before = [h for h in block.chip_hour[place] if h <= stop - length]
    for step in range(length):
        hour = stop - length + step
        if hour >= 0:
            met[step] = block.inputs[place, hour]
        wanted = before[-1:] if step == 0 else [hour]
        for h in wanted:
            for at in np.flatnonzero(block.chip_hour[place] == h):
                images[step] = block.chips[place, at]
    return met, images


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60))
def test_gather_equals_a_naive_loop(seed, length):
    rng = np.random.default_rng(seed)
    block = random_block(rng)
    place, stop = rng.integers(0, 3, 5), rng.integers(1, 101, 5)
    got = gather(block, place, stop, length)
    for i in range(5):
        met, images = naive(block, place[i], stop[i], length)
        np.testing.assert_array_equal(got["inputs"][i], met)
        found = {s: got["images"][i, k] for k, s in enumerate(got["image_step"][i]) if s >= 0}
        assert sorted(found) == sorted(images)
        for step, chip in images.items():
            np.testing.assert_array_equal(found[step], chip)
        assert np.isnan(got["images"][i][got["image_step"][i] < 0]).all()
    np.testing.assert_array_equal(got["numbers"], block.numbers[place])
    np.testing.assert_array_equal(got["classes"], block.classes[place])


def test_shapes_are_those_of_a_batch():
    block = random_block(np.random.default_rng(0))
    batch = Batch.of(gather(block, [0, 2], [50, 100], 32))
    assert [a.shape for a in batch[:5]] == [(2, 32, 4), (2, 3, 2, 64), (2, 3), (2, 2), (2, 1)]
    bare = dataclasses.replace(block, chips=block.chips[:, :0], chip_hour=block.chip_hour[:, :0])
    assert gather(bare, [0], [50], 32)["images"].shape == (1, 0, 2, 64)


def test_hours_before_the_start_are_missing():
    block = random_block(np.random.default_rng(0))
    met = gather(block, [1], [5], 8)["inputs"][0]
    assert np.isnan(met[:3]).all()
    np.testing.assert_array_equal(met[3:], block.inputs[1, :5])


def test_places_of_different_lengths_are_joined():
    rng = np.random.default_rng(2)
    blocks = [random_block(rng, places=2, hours=100), random_block(rng, places=1, hours=70, chips=3)]
    both = join(blocks)
    got = gather(both, [2, 1], [70, 33], 30)
    for i, (block, place, stop) in enumerate([(blocks[1], 0, 70), (blocks[0], 1, 33)]):
        alone = gather(block, [place], [stop], 30)
        for name, array in alone.items():
            np.testing.assert_array_equal(got[name][i], array[0])
    assert np.shares_memory(flatten(blocks[0]).inputs, blocks[0].inputs)


@pytest.mark.parametrize("stop", [0, 101])
def test_a_window_outside_its_place_is_refused(stop):
    with pytest.raises(ConfigError, match="window"):
        gather(random_block(np.random.default_rng(0)), [0], [stop], 8)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(1, 40), st.integers(1, 3), st.integers(0, 99))
def test_cut_equals_a_naive_loop(places, length, columns, seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(sum(places), columns)).astype("float32")
    place = rng.integers(0, len(places), 9)
    start, stop = np.cumsum([0, *places])[place], rng.integers(1, np.array(places)[place] + 1)
    for got, first, last in zip(cut(rows, start, stop, length), start, stop, strict=True):
        padded = np.concatenate([np.full((length, columns), np.nan, "float32"), rows[first : first + last]])
        np.testing.assert_array_equal(got, padded[-length:])
    before = rows.copy()
    cut(rows, start, stop, length)[:] = 0  # a copy: writing to a window changes no data
    np.testing.assert_array_equal(rows, before)


def test_stretches_of_one_tower_share_its_chips():
    """Hours 0..39 and 60..99 of a tower with chips at 5, 29, 53 and 77: the second stretch begins with that of 53."""
    chips = np.arange(4, dtype="float32")[None, :, None, None] * np.ones((1, 4, 1, 64), "float32")
    block = Block(
        inputs=np.arange(40, dtype="float32").reshape(1, 40, 1),
        observed=np.ones((1, 40), bool),
        numbers=np.empty((1, 0), "float32"),
        classes=np.empty((1, 0), int),
        chips=chips,
        chip_hour=np.array([[5, 29, 53, 77]]),
        first_hour=1000,
    )
    bare = dataclasses.replace(block, chips=chips[:, :0], chip_hour=block.chip_hour[:, :0], first_hour=1060)
    both = join([block, bare])
    both = dataclasses.replace(both, chip_zero=both.chip_zero[0] + np.array([0, 60]))
    for series, place in ((both, [0, 1, 1]), (join([both, both]), [2, 3, 3])):
        got = gather(series, np.array(place), np.array([30, 10, 18]), 10)
        assert got["image_step"].tolist() == [[0, 9], [0, -1], [0, 9]]
        np.testing.assert_array_equal(got["images"][:, :, 0, 0], [[0, 1], [2, np.nan], [2, 3]])


def test_joining_copies_and_leaves_the_parts_alone():
    blocks = [random_block(np.random.default_rng(seed)) for seed in range(3)]
    before = [block.inputs.copy() for block in blocks]
    joined = join(block for block in blocks)
    assert not any(np.shares_memory(joined.inputs, block.inputs) for block in blocks)
    joined.inputs[:] = 0
    for block, met in zip(blocks, before, strict=True):
        np.testing.assert_array_equal(block.inputs, met)
    one = random_block(np.random.default_rng(0), places=1)
    np.testing.assert_array_equal(join([flatten(one)]).chip_key, flatten(one).chip_key)


@pytest.mark.parametrize("kinds", [0, 2])
@pytest.mark.parametrize("length", [5, 40])
def test_a_table_of_images_contains_those_of_all_windows(kinds, length):
    rng = np.random.default_rng(length)
    hour = np.array([[-30, -6, 18, 90], [2, 26, NO_CHIP, NO_CHIP], [NO_CHIP] * 4])
    chips = rng.random((3, 4, 2, 9), np.float32)
    images = tuple(Images(rng.random((3, 4, 3, 4), np.float32), hour + 1) for _ in range(kinds))
    block = Block(
        inputs=np.zeros((3, 100, 1), np.float32),
        observed=np.ones((3, 100), bool),
        numbers=np.zeros((3, 0), np.float32),
        classes=np.zeros((3, 0), np.int64),
        chips=chips,
        chip_hour=hour,
        first_hour=0,
        images=images,
    )
    near = np.repeat([0, 1, 2], 20), np.tile(np.arange(60, 80), 3)
    for place, stop in (near, (np.array([2, 0]), np.array([9, 99])), (np.array([2]), np.array([50]))):
        each = gather(block, place, stop, length)
        shared = gather(block, place, stop, length, table=True)
        for name in ("inputs", "image_step", "numbers", "classes"):
            np.testing.assert_array_equal(shared[name], each[name])
        table, row, present = shared["images"], shared["image_row"], each["image_step"] >= 0
        assert table.shape[1:] == each["images"].shape[2:]
        assert row.shape == each["image_step"].shape
        assert 0 <= row.min() <= row.max() < len(table) <= max(1, 8 * (kinds + 1))
        np.testing.assert_array_equal(table[row][present], each["images"][present])


def test_a_table_of_windows_far_apart_has_no_image_between_them():
    hour = np.arange(0, 24 * 400, 24)[None]
    block = Block(
        inputs=np.zeros((1, 24 * 400, 1), np.float32),
        observed=np.ones((1, 24 * 400), bool),
        numbers=np.zeros((1, 0), np.float32),
        classes=np.zeros((1, 0), np.int64),
        chips=np.arange(400, dtype=np.float32)[None, :, None, None],
        chip_hour=hour,
        first_hour=0,
    )
    found = gather(block, np.zeros(2, int), np.array([100, 9000]), 24, table=True)
    np.testing.assert_array_equal(found["images"].ravel(), [3, 4, 374])
    np.testing.assert_array_equal(found["image_row"][:, 0], [0, 2])
