"""Daily means of the model inputs, over UTC days, from which distances between places and seasons are computed.

A mean over 24 hours holds one noon and one night wherever on Earth its day begins, so that days of UTC serve towers and
grids alike, and no day is cut where a region or a chunk ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fluxcube.samples.features import Block, FeatureSpec
from fluxcube.samples.images import NO_CHIP, Images
from fluxcube.samples.surface import column_of
from fluxcube.samples.towers import Towers
from fluxcube.variables import COMPUTED

#: Minimum fraction of the time steps of a day that a mean needs.
_SHARE = 0.75
_CLOCK = "TOD"


class Column(NamedTuple):
    """One column of the description of a day.

    Attributes
    ----------
    name : str
        Such as "TA", "TA_MEAN_7D", "DOY cos", "band red", "latitude" or "igbp DBF".
    group : str
        Model input that the column is computed from; permutations keep the columns of one group together.
    """

    name: str
    group: str


def day_columns(spec: FeatureSpec) -> tuple[Column, ...]:
    """Return the columns that describe a day: all model inputs except the time of day, whose daily mean is constant.

    Examples
    --------
    >>> spec = FeatureSpec(predictors=("DOY", "TOD", "TA"), memory_days=(7,), static=("igbp",), igbp_classes=("GRA",))
    >>> [column.name for column in day_columns(spec)]
    ['DOY cos', 'DOY sin', 'TA', 'TA_MEAN_7D', 'igbp GRA']
    """
    columns = []
    for i, (name, group) in enumerate(zip(spec.inputs, input_groups(spec), strict=True)):
        parts = (f"{name} cos", f"{name} sin") if i in spec.cyclic_columns else (name,)
        columns += [Column(part, group) for part in parts if group != _CLOCK]
    columns += [Column(f"band {name}", f"band {name}") for name in spec.bands]
    for kind in spec.images:
        columns += [Column(f"{kind.array} {band}", f"{kind.array} {band}") for band in kind.bands]
    columns += [Column(name, name) for name in spec.numbers]
    columns += [Column(f"{name} {code}", name) for name, codes in spec.class_lists.items() for code in codes]
    return tuple(columns)


def input_groups(spec: FeatureSpec) -> tuple[str, ...]:
    """Return the group of each model input: the variable, or the band or index of a surface column.

    Examples
    --------
    >>> input_groups(FeatureSpec(predictors=("TA",), memory_days=(7,), surface=("NDVI", "NDVI_MEAN_64D")))
    ('TA', 'NDVI', 'NDVI', 'TA')
    """
    features = {name: column_of(name).feature or name for name in spec.surface}
    return tuple(features.get(name, name) for name in spec.input_variables)


def block_days(block: Block, spec: FeatureSpec) -> tuple[np.ndarray, int]:
    """Describe every UTC day that overlaps with a block; time steps of a daily model are used unchanged.

    Parameters
    ----------
    block : Block
        Features of n places over t steps.
    spec : FeatureSpec
        Columns of the block.

    Returns
    -------
    (n, d, `day_columns`) float32
        Means of the hours' normalised values, cyclic ones as cosine and sine; of each band, the mean pixel of the
        latest image by the day's end; static numbers; classes as 0 and 1. NaN where less than three quarters of the
        day's hours have a value, and throughout for a day without a single predictor that is not computed.
    int
        Steps of the first day that lie before the block: step i is of day ``(i + lead) // spec.steps(1)``.

    Examples
    --------
    >>> from fluxcube.samples.features import cube_block
    >>> from fluxcube.simulation.example import example_cube
    >>> spec = FeatureSpec(predictors=("TOD", "TA"), static=("latitude",))
    >>> days, lead = block_days(cube_block(example_cube(sites=2, days=3).isel(time=slice(5, None)), spec), spec)
    >>> days.shape, lead
    ((2, 3, 2), 5)
    """
    per_day = spec.steps(1)
    lead = block.first_hour % per_day
    means, columns = _input_means(block.inputs, spec, lead, per_day), day_columns(spec)
    days = means.shape[1]
    ends = np.arange(1, days + 1) * per_day - lead
    same = [np.repeat(part[:, None], days, axis=1) for part in (block.numbers, _one_hot(block, spec))]
    images = [_latest(kind, ends) for kind in (Images(block.chips, block.chip_hour), *block.images)]
    out = np.concatenate([means, *images, *same], axis=-1, dtype=np.float32)
    measured = [i for i, column in enumerate(columns[: means.shape[-1]]) if column.group not in COMPUTED]
    out[~np.isfinite(means[..., measured or slice(None)]).any(-1)] = np.nan
    return out, lead


def tower_days(towers: Towers) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield position in `towers.sites`, date and description of the days with an observed flux, stretch by stretch.

    Yields
    ------
    int
        Position of the tower.
    (d,) datetime64[D]
        Dates.
    (d, `day_columns`) float32
        As `block_days` returns them; days without any value are left out.
    """
    series, observed, per_day = towers.series, towers.observed(), towers.spec.steps(1)
    for i, (start, hours) in enumerate(zip(series.start, series.hours, strict=True)):
        block = _stretch(towers, i)
        days, lead = block_days(block, towers.spec)
        seen = np.zeros(days.shape[1] * per_day, bool)
        seen[lead : lead + hours] = observed[start : start + hours]
        kept = seen.reshape(-1, per_day).any(1) & np.isfinite(days[0]).any(-1)
        dates = np.datetime64(block.first_hour // per_day, "D") + np.arange(days.shape[1])
        yield int(towers.site[i]), dates[kept], days[0][kept]


def day_means(values: np.ndarray, lead: int, per_day: int = 24) -> np.ndarray:
    """Return daily means (n, d, C) of time steps (n, t, C); the first day lacks its first `lead` steps.

    NaN where less than three quarters of a day's steps have a value.

    Examples
    --------
    >>> day_means(np.array([1.0, 2.0, 3.0, 4.0, np.nan, np.nan, 8.0])[None, :, None], 1, 4)[0, :, 0]
    array([ 2., nan])
    """
    n, t, columns = values.shape
    days = -(-(lead + t) // per_day)
    if lead or days * per_day != t:
        padded = np.full((n, days * per_day, columns), np.nan, values.dtype)
        padded[:, lead : lead + t] = values
        values = padded
    steps = values.reshape(n, days, per_day, columns)
    mean = steps.mean(2)
    gaps = np.isnan(mean)
    if gaps.any():
        some = gaps.any(-1)
        part = steps[some]
        seen = np.isfinite(part)
        count = seen.sum(1)
        total = np.where(seen, part, 0.0).sum(1)
        mean[some] = np.where(count >= _SHARE * per_day, total / np.maximum(count, 1), np.nan)
    return mean


def _input_means(inputs: np.ndarray, spec: FeatureSpec, lead: int, per_day: int) -> np.ndarray:
    """Return daily means (n, d, columns) of the model inputs, cyclic ones as cosine and sine."""
    plain = day_means(inputs, lead, per_day)
    out = []
    for i, variable in enumerate(spec.input_variables):
        if variable == _CLOCK:
            continue
        if i in spec.cyclic_columns:
            turn = inputs[..., i] * spec.input_scale[i] + spec.input_mean[i] if spec.input_scale else inputs[..., i]
            angle = np.float32(np.pi) * turn
            both = day_means(np.stack([np.cos(angle), np.sin(angle)], -1), lead, per_day)
            out += [both[..., 0], both[..., 1]]
        else:
            out.append(plain[..., i])
    return np.stack(out, -1) if out else np.empty((*plain.shape[:2], 0), np.float32)


def _latest(images: Images, ends: np.ndarray) -> np.ndarray:
    """Return the mean pixel (n, d, b) of the latest image before each of the time steps `ends`."""
    (n, count), bands = images.hour.shape, images.pixels.shape[2]
    out = np.full((n, len(ends), bands), np.nan, np.float32)
    if not count or not bands:
        return out
    mean = _pixel_means(images.pixels)
    for place in range(n):
        latest = np.searchsorted(images.hour[place], ends, side="left") - 1
        out[place, latest >= 0] = mean[place, latest[latest >= 0]]
    return out


def _pixel_means(pixels: np.ndarray) -> np.ndarray:
    """Return the means of the valid pixels (..., p), NaN where there is none."""
    total = pixels.sum(-1)
    mean = (total / np.float64(pixels.shape[-1])).astype(np.float32)
    gaps = ~np.isfinite(total)
    if gaps.any():
        some = pixels[gaps]
        seen = np.isfinite(some)
        total = np.where(seen, some, np.float32(0.0)).sum(-1)
        mean[gaps] = np.divide(total, seen.sum(-1), out=np.full(total.shape, np.nan, np.float32), where=seen.any(-1))
    return mean


def _one_hot(block: Block, spec: FeatureSpec) -> np.ndarray:
    """Return one-hot classes (n, all classes); all are 0 where the class is unknown."""
    codes = enumerate(spec.class_lists.values())
    parts = [block.classes[:, [i]] == np.arange(len(classes)) for i, classes in codes]
    return np.concatenate([np.empty((len(block.inputs), 0), bool), *parts], 1).astype(np.float32)


def _stretch(towers: Towers, i: int) -> Block:
    """Return one gap-free series of a tower as a block."""
    series = towers.series
    rows = slice(int(series.start[i]), int(series.start[i] + series.hours[i]))
    zero = series.chip_zero[i]

    def of_place(kind: Images) -> Images:
        low, high = np.searchsorted(kind.hour, zero + np.array([-NO_CHIP, NO_CHIP]))
        return Images(kind.pixels[low:high][None], (kind.hour[low:high] - zero)[None])

    chips = of_place(Images(series.chips, series.chip_key))
    inputs = series.inputs[rows][None]
    return Block(
        inputs=inputs,
        observed=np.isfinite(inputs).any(-1),
        numbers=series.numbers[[i]],
        classes=series.classes[[i]],
        chips=chips.pixels,
        chip_hour=chips.hour,
        first_hour=int(towers.first_hour[i]),
        images=tuple(map(of_place, series.images)),
    )
