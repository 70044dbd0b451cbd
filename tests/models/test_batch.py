"""A batch of windows: its arrays, its parts, and the table of the images that windows share."""

import numpy as np

from fluxcube.models.base import Batch


def batch(*, table: bool) -> Batch:
    images = np.arange(4 if table else 6, dtype=np.float32)[:, None, None] * np.ones((1, 2, 1), np.float32)
    return Batch(
        inputs=np.zeros((3, 5, 4), np.float32),
        images=images if table else images.reshape(3, 2, 2, 1),
        image_step=np.zeros((3, 2), np.int64),
        numbers=np.zeros((3, 0), np.float32),
        classes=np.zeros((3, 0), np.int64),
        image_row=np.array([[0, 1], [1, 2], [2, 3]]) if table else None,
    )


def test_windows_of_a_batch_share_its_table_of_images():
    part = batch(table=True).take([2, 0])
    assert part.images.shape == (4, 2, 1)
    np.testing.assert_array_equal(part.images[part.image_row][..., 0, 0], [[2, 3], [0, 1]])
    assert batch(table=False).take(slice(1)).images.shape == (1, 2, 2, 1)
    np.testing.assert_array_equal(batch(table=False).take([1]).images[..., 0, 0], [[2, 3]])


def test_a_missing_row_stays_missing():
    assert batch(table=False).map(np.ones_like).image_row is None
    assert "image_row" not in batch(table=False).present()
    assert Batch.of(batch(table=True).present()).image_row is not None
    assert Batch.of(batch(table=False).present()).image_row is None
