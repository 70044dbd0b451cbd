"""Means of images for models of feature rows, from one image for each window or from a table of them."""

from __future__ import annotations

import numpy as np
import pytest

from fluxcube.models.base import Batch, Sizes
from fluxcube.models.boosting import Boosting, BoostingConfig
from fluxcube.models.ensemble import Ensemble, takes_table
from fluxcube.models.imagemeans import latest_means
from fluxcube.models.simple import SWLinear, SWLinearConfig
from fluxcube.samples.features import Block
from fluxcube.samples.images import NO_CHIP, Images
from fluxcube.samples.windows import gather


def block(bands: int, kinds: int) -> Block:
    rng = np.random.default_rng(0)
    hour = np.array([[-20, 4, 28, 76], [6, 30, NO_CHIP, NO_CHIP], [NO_CHIP] * 4])

    def images(count: int, pixels: int) -> np.ndarray:
        values = rng.random((3, 4, count, pixels), np.float32)
        values[rng.random(values.shape) < 0.3] = np.nan
        return values

    return Block(
        inputs=rng.random((3, 90, 2), np.float32),
        observed=np.ones((3, 90), bool),
        numbers=rng.random((3, 1), np.float32),
        classes=np.array([[0], [1], [-1]]),
        chips=images(bands, 64),
        chip_hour=hour,
        first_hour=0,
        images=tuple(Images(images(2 + kind, 9), hour + kind) for kind in range(kinds)),
    )


@pytest.mark.parametrize(("bands", "kinds"), [(0, 0), (3, 0), (0, 1), (3, 2)])
def test_rows_from_a_table_of_images_equal_those_from_an_image_for_each_window(bands, kinds):
    sizes = Sizes(
        inputs=2, bands=bands, numbers=1, classes=(2,), image_bands=(2, 3)[:kinds], image_pixels=(9, 9)[:kinds]
    )
    model = Boosting(BoostingConfig(), sizes)
    place, stop = np.repeat([0, 1, 2], 90), np.tile(np.arange(1, 91), 3)
    each = Batch.of(gather(block(bands, kinds), place, stop, 1))
    shared = Batch.of(gather(block(bands, kinds), place, stop, 1, table=True))
    assert shared.image_row is not None and len(shared.images) <= 13 * (1 + kinds) < len(each.images)
    np.testing.assert_allclose(model.rows(shared), model.rows(each), rtol=1e-6)
    if bands or kinds:
        rows = np.concatenate(latest_means(shared, sizes), 1)
        assert np.isfinite(rows[60:150]).any(0).all() and np.isnan(rows[180:]).all()


def test_a_batch_is_moved_once_for_all_members(monkeypatch):
    members = [SWLinear(SWLinearConfig(column=0), Sizes(inputs=2)) for _ in range(3)]
    moved, used = [], []
    for member in members:
        monkeypatch.setattr(member, "on_device", lambda batch: moved.append(batch) or batch)
        monkeypatch.setattr(member, "predict", lambda batch: used.append(batch) or np.zeros((4, 1, 1), np.float32))
    batch = Batch(*(np.zeros((4, 1), np.float32) for _ in range(5)))
    Ensemble(members).predict(batch)
    assert len(moved) == 1 and all(one is moved[0] for one in used) and len(used) == 3


def test_an_ensemble_takes_a_table_if_every_member_does():
    trees = [Boosting(BoostingConfig(), Sizes(inputs=2)) for _ in range(2)]
    linear = SWLinear(SWLinearConfig(column=0), Sizes(inputs=2))
    assert takes_table(Ensemble(trees)) and takes_table(trees[0])
    assert not takes_table(linear) and not takes_table(Ensemble([linear]))
