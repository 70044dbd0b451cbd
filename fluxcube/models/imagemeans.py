"""Means of images, as models of feature rows use them."""

from __future__ import annotations

import math

import numpy as np

from fluxcube.models.base import Batch, Sizes, split_images


def latest_means(batch: Batch, sizes: Sizes) -> list[np.ndarray]:
    """Return the means (B, b) of the latest image of each window, of each kind of images, by `chip_means`.

    Parameters
    ----------
    batch : Batch of arrays
        Windows. If images are in a table (`Batch.image_row`), each is averaged once, however many windows show it.
    sizes : Sizes
        Bands and pixels of each kind.
    """
    if batch.image_row is None:
        parts = split_images(batch.images, batch.image_step, sizes)
        counts = [kind[0] for kind in sizes.image_kinds] if sizes.image_bands else [sizes.bands]
        return [chip_means(*part, count) for part, count in zip(parts, counts, strict=True)]
    kinds = sizes.image_kinds
    if not kinds:
        return []
    out, windows = [], np.arange(len(batch.image_step))
    slots = batch.image_step.shape[1] // len(kinds)
    for i, (bands, pixels) in enumerate(kinds):
        step, row = (array[:, i * slots : (i + 1) * slots] for array in (batch.image_step, batch.image_row))
        if not slots:
            out.append(np.full((len(windows), bands), np.nan, np.float32))
            continue
        latest = np.argmax(step, axis=1)
        distinct, of_window = np.unique(row[windows, latest], return_inverse=True)
        images = batch.images[distinct].reshape(len(distinct), -1)[:, : bands * pixels]
        means = chip_means(images.reshape(len(distinct), 1, bands, pixels), np.zeros((len(distinct), 1)), bands)
        out.append(np.where(step[windows, latest][:, None] >= 0, means[of_window], np.float32(np.nan)))
    return out


def chip_means(images: np.ndarray, step: np.ndarray, bands: int) -> np.ndarray:
    """Return the mean of each band of a window's latest chip, weighted by inverse distance from the chip's centre.

    Parameters
    ----------
    images : (B, K, b, p) float32
        Images, or bands of one pixel; missing pixels, NaN, do not count. Those that are not square have equal weights.
    step : (B, K) int64
        Time step of each chip, or -1.
    bands : int
        b.

    Returns
    -------
    (B, b) float32
        NaN where a window has no chip, or a band of it has no valid pixel.
    """
    if not images.shape[1] or not bands:
        return np.full((len(images), bands), np.nan, np.float32)
    side = math.isqrt(images.shape[-1])
    offset = np.arange(side) - (side - 1) / 2
    # The pixel in the middle of an odd number of pixels counts as half a pixel away from the centre.
    distance = np.maximum(np.hypot(offset[:, None], offset), 0.5).ravel()
    weight = 1 / distance if side > 1 and side**2 == images.shape[-1] else np.ones(images.shape[-1])
    latest, windows = np.argmax(step, axis=1), np.arange(len(images))
    chip = images[windows, latest]
    mean = chip.astype(np.float64) @ (weight / weight.sum())
    gaps = ~np.isfinite(mean)
    if gaps.any():  # else no pixel is missing, and one product is enough
        valid = np.isfinite(chip[gaps])
        total = valid @ weight
        mean[gaps] = np.where(valid, chip[gaps], 0) @ weight / np.where(total > 0, total, np.nan)
    return np.where(step[windows, latest][:, None] >= 0, mean, np.nan).astype(np.float32)
