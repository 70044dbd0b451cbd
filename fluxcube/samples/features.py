"""Features: the model inputs, and their computation from a tower cube or a grid.

Towers and grids use the same function, `make_block`, so that their features are computed identically.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from fluxcube.errors import ConfigError
from fluxcube.normalisation import normalise, within_bounds
from fluxcube.resolution import HOURLY, check_resolution
from fluxcube.samples.memory import trailing_mean
from fluxcube.samples.quality import best_flags
from fluxcube.samples.spec import CHIP_PIXELS, POINT_PIXELS, FeatureSpec, static_bounds
from fluxcube.samples.surface import (
    OLDEST,
    STATISTICS,
    SurfaceRecord,
    bands_needed,
    static_feature,
    surface_columns,
    surface_statics,
)
from fluxcube.schema import SURFACE_DIMS
from fluxcube.timestamps import solar_noon
from fluxcube.variables import BANDS, COMPUTED

log = logging.getLogger(__name__)

#: A Köppen class: its main climate and up to three letters, before anything that is no letter.
_KOPPEN = re.compile(r"([A-E])[fmswhkntabcd]{0,3}(?![A-Za-z])", re.IGNORECASE)

#: `Block.chip_hour` of an entry without a chip; larger than any time step.
NO_CHIP = 2**38

_REFLECTANCES = BANDS[:7]


@dataclass(frozen=True)
class Block:
    """Features of several places over consecutive time steps (`FeatureSpec.resolution`), in RAM.

    Attributes
    ----------
    inputs : (n, t, V) float32
        `FeatureSpec.inputs`, normalised; NaN is missing.
    observed : (n, t) bool
        Whether at least one predictor that is not computed is present.
    numbers : (n, S) float32
        Static numbers, normalised; NaN is missing.
    classes : (n, C) int64
        Index into `FeatureSpec.igbp_classes` and `koppen_classes`, or -1; a column for each that is a static input.
    chips : (n, d, b, p) float32
        Bands of p = `FeatureSpec.pixels` pixels of each place on d days, those that are present first and by time; gaps
        filled, unless the spec's `fill_chips` is False. d may be 0.
    chip_hour : (n, d) int64
        Hour, on the block's own axis, that holds local solar noon of the chip's day; it may be negative
        or beyond the end. `NO_CHIP` where there is no chip.
    first_hour : int
        Steps from 1970-01-01T00 to the block's first: UTC hours, or days.
    """

    inputs: np.ndarray
    observed: np.ndarray
    numbers: np.ndarray
    classes: np.ndarray
    chips: np.ndarray
    chip_hour: np.ndarray
    first_hour: int


def make_block(
    values: np.ndarray,
    time: np.ndarray,
    latitude: np.ndarray,
    longitude: np.ndarray,
    *,
    spec: FeatureSpec,
    statics: Mapping[str, np.ndarray | Sequence[str]] = MappingProxyType({}),
    chips: np.ndarray | None = None,
    days: np.ndarray | None = None,
    surface: SurfaceRecord | None = None,
    qc: np.ndarray | None = None,
    best: int | np.ndarray = 0,
) -> Block:
    """Compute features from physical values, identically for towers and grid cells.

    Parameters
    ----------
    values : (n, t, P) float
        `spec.predictors` in the units of the variable table; NaN is missing.
    time : (t,) datetime64
        UTC hours, or local dates.
    latitude, longitude : (n,) float
        Degrees.
    spec : FeatureSpec
        Columns and masks.
    statics : mapping of str to (n,) array
        Static inputs by name: "elevation" (metres; NaN is unknown), the classes "igbp" and "koppen" ("" is unknown),
        and numbers in their units. Latitude, and percentiles of the surface reflectance, need not be passed.
    chips : (n, d, b, 8, 8) float, optional
        `spec.bands` on `days`; NaN is missing.
    days : (d,) datetime64, optional
        Local dates of the chips, ascending.
    surface : SurfaceRecord, optional
        Surface reflectance of the places, `spec.surface_days` before the first time step included.
    qc : (n, t, P) int, optional
        Flags; a value flagged above `spec.predictor_max_qc` is masked.
    best : int or (n, 1, 1) int
        Best flag that a place can have (`fluxcube.samples.quality.best_flags`); it is not masked.

    Returns
    -------
    Block
    """
    values = np.array(values, np.float32)
    if values.shape[1:] != (len(time), len(spec.predictors)):
        expected = f"(n, {len(time)}, {len(spec.predictors)})"
        raise ConfigError(
            f"expected values {expected}, one column for each of the predictors, found {values.shape}; select the "
            "predictors of the model in their order."
        )
    if qc is not None:
        values[~HOURLY.limit(spec.predictor_max_qc).accepts(qc, best)] = np.nan
    columns = surface_columns(
        surface,
        spec.surface,
        time,
        longitude,
        resolution=spec.time_resolution,
        lookahead=spec.lookahead,
        # Daily inputs are scaled by their mean and standard deviation instead.
        scaled=not spec.time_resolution.scaled_inputs,
    )
    inputs = _inputs(values, columns, spec)
    first = int(np.asarray(time[0]).astype(f"datetime64[{spec.step}]").astype(np.int64))
    if spec.pixels == POINT_PIXELS:
        chips, days = _points(surface, spec)
    pixels, hour = _chips(chips, days, longitude, first, spec)
    numbers = {"latitude": latitude, **surface_statics(surface, spec.static), **statics}
    return Block(
        inputs=inputs,
        observed=_observed(inputs, spec),
        numbers=_numbers(numbers, len(values), spec),
        classes=_classes(statics, len(values), spec),
        chips=pixels,
        chip_hour=hour,
        first_hour=first,
    )


def cube_block(cube, spec: FeatureSpec) -> Block:
    """Compute features from a cube or a selection of it, loading only the arrays needed.

    A predictor that the cube does not contain is missing everywhere, which is logged as a warning.

    Parameters
    ----------
    cube : xr.Dataset
        A cube (`fluxcube.schema`), lazy or in memory.
    spec : FeatureSpec
        Columns and masks.

    Returns
    -------
    Block

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> spec = FeatureSpec(predictors=("TOD", "TA"), static=("latitude",))
    >>> cube_block(example_cube(sites=2, days=3), spec).inputs.shape
    (2, 72, 2)
    """
    clock = cube.attrs.get("clock", spec.clock)
    if clock != spec.clock:
        raise ConfigError(
            f"the model's clock is {spec.clock}, the cube's is {clock}: build it with clock={spec.clock}."
        )
    if absent := sorted(set(spec.predictors).difference(cube["variable"].values)):
        log.warning("the cube does not contain %s: masked", ", ".join(absent))
    check_resolution(cube, spec.resolution, "this set of features")
    flags = f"predictors{HOURLY.quality}"
    with_chips = bool(spec.bands) and spec.pixels == CHIP_PIXELS and "modis" in cube
    return make_block(
        cube["predictors"].reindex(variable=list(spec.predictors)).values,
        cube["time"].values,
        cube["latitude"].values,
        cube["longitude"].values,
        spec=spec,
        statics={name: cube[name].values for name in spec.static if name != "latitude" and name in cube},
        chips=cube["modis"].sel(band=list(spec.bands)).values if with_chips else None,
        days=cube["day"].values if with_chips else None,
        surface=cube_surface(cube, spec),
        qc=cube[flags].reindex(variable=list(spec.predictors), fill_value=-1).values if flags in cube else None,
        best=best_flags(cube)[:, None, None],
    )


def cube_surface(cube, spec: FeatureSpec) -> SurfaceRecord | None:
    """Return the surface reflectance of a cube that a model needs; None if it needs none, or the cube has none.

    Parameters
    ----------
    cube : xr.Dataset
        A cube (`fluxcube.schema`), lazy or in memory. Bands that it lacks are missing.
    spec : FeatureSpec
        Columns, static numbers and band tokens.
    """
    if not spec.surface_bands or "surface" not in cube:
        return None
    surface = cube["surface"]
    dim, band = SURFACE_DIMS[spec.resolution]
    present = [name for name in spec.surface_bands if name in surface[band].values]
    climatology: np.ndarray | None = None
    features: tuple[str, ...] = ()
    if "surface_climatology" in cube:
        statistics = cube["surface_climatology"].transpose("site", "statistic", "feature")
        climatology = statistics.reindex(statistic=list(STATISTICS)).values
        features = tuple(map(str, statistics["feature"].values))
    return SurfaceRecord(
        values=surface.sel({band: present}).transpose("site", dim, band).values,
        days=surface[dim].values,
        bands=tuple(present),
        climatology=climatology,
        features=features,
    )


def absent_satellite(ds, spec: FeatureSpec) -> list[str]:
    """Return the bands, columns and percentiles that a model uses and that a cube or forcing cannot supply."""
    dims = {"modis": "band", "surface": SURFACE_DIMS[spec.resolution][1]}
    present = {name: set(map(str, ds[name][dim].values)) if name in ds else set() for name, dim in dims.items()}
    tokens = "modis" if spec.pixels == CHIP_PIXELS else "surface"
    absent = [f"band {name}" for name in spec.bands if name not in present[tokens]]
    needed = {name: bands_needed([name]) for name in spec.surface}
    needed |= {name: bands_needed([], [name]) for name in spec.static}
    return absent + [name for name, bands in needed.items() if not present["surface"].issuperset(bands)]


def _inputs(values: np.ndarray, surface: np.ndarray, spec: FeatureSpec) -> np.ndarray:
    """Return normalised predictors, surface columns as they are, and trailing means, concatenated (n, t, V)."""
    for i, name in enumerate(spec.predictors):  # before the means: one value of -9999 spoils a month of them
        values[..., i] = within_bounds(values[..., i], name, resolution=spec.resolution, bounds=spec.bounds)
    inputs = np.empty((*values.shape[:2], len(spec.inputs)), np.float32)
    inputs[..., : len(spec.predictors)] = values
    at = len(spec.predictors) + len(spec.surface)
    for days in spec.memory_days:
        for name in spec.memory_predictors:
            inputs[..., at] = trailing_mean(values[..., spec.predictors.index(name)], spec.steps(days))
            at += 1
    if not spec.surface:
        inputs = normalise(inputs, spec.input_variables, resolution=spec.resolution, bounds=spec.bounds)
        inputs = inputs.astype(np.float32, copy=False)
    else:
        first, last = len(spec.predictors), len(spec.predictors) + len(spec.surface)
        for part in (slice(None, first), slice(last, None)):
            names = spec.input_variables[part]
            if names:
                inputs[..., part] = normalise(inputs[..., part], names, resolution=spec.resolution, bounds=spec.bounds)
        inputs[..., first:last] = surface
    if spec.input_scale:
        inputs = (inputs - np.array(spec.input_mean, np.float32)) / np.array(spec.input_scale, np.float32)
    return inputs


def _observed(inputs: np.ndarray, spec: FeatureSpec) -> np.ndarray:
    measured = [i for i, name in enumerate(spec.predictors) if name not in COMPUTED]
    return np.isfinite(inputs[..., measured or list(range(len(spec.predictors)))]).any(-1)


def _numbers(values: Mapping[str, Any], n: int, spec: FeatureSpec) -> np.ndarray:
    out = np.full((n, len(spec.numbers)), np.nan, np.float32)
    for i, name in enumerate(spec.numbers):
        bounds = static_bounds(name)
        if bounds is not None and values.get(name) is not None:
            low, high = bounds
            x = np.asarray(values[name], float)
            # Percentiles of reflectance may lie slightly outside the bounds that scale them.
            known = np.isfinite(x) if static_feature(name) else (x >= low) & (x <= high)
            out[:, i] = np.where(known, (x - (low + high) / 2) / (high - low), np.nan)
    return out


def _classes(values: Mapping[str, Any], n: int, spec: FeatureSpec) -> np.ndarray:
    out = np.full((n, len(spec.class_lists)), -1, np.int64)
    for column, (name, classes) in enumerate(spec.class_lists.items()):
        index = {code: i for i, code in enumerate(classes)}
        codes = values.get(name)
        if codes is not None:
            out[:, column] = [index.get(class_of(name, code), -1) for code in codes]
    return out


def class_of(name: str, code: str) -> str:
    """Return the class used as input: the IGBP class, or the main climate of the Köppen class, "" if it is unknown.

    Text that is no Köppen class, such as "nan" or "arid", is unknown: its first letter is no climate.

    Examples
    --------
    >>> class_of("igbp", "DBF"), class_of("koppen", "Dfb"), class_of("koppen", ""), class_of("koppen", "nan")
    ('DBF', 'D', '', '')
    """
    return _main_climate(str(code)) if name == "koppen" else str(code)


@functools.lru_cache(1024)
def _main_climate(code: str) -> str:
    found = _KOPPEN.match(code.strip())
    return found[1].upper() if found else ""


def _points(surface: SurfaceRecord | None, spec: FeatureSpec) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return the bands (n, d, b, 1) of the surface reflectance, and the days on which they are known (d,).

    On grids and at towers alike, a band token is masked when it is `OLDEST` days old.
    """
    if surface is None or not spec.bands:
        return None, None
    values = np.stack([surface.feature(name) for name in spec.bands], -1)
    days = np.asarray(surface.days).astype("datetime64[D]") - spec.lookahead
    return values[..., None], days


def _chips(chips, days, longitude, first_hour: int, spec: FeatureSpec) -> tuple[np.ndarray, np.ndarray]:
    """Return bands (n, d, b, pixels), gaps filled if the spec says so, and their hours (n, d), those present first."""
    n, b = len(longitude), len(spec.bands)
    if chips is None or not b or not len(days):
        return np.empty((n, 0, b, spec.pixels), np.float32), np.empty((n, 0), np.int64)
    raw = np.asarray(chips, np.float32).reshape(n, len(days), b, spec.pixels)
    pixels = fill_pixels(raw, spec.bands) if spec.pixels > 1 else raw
    if not spec.fill_chips:
        pixels[np.isnan(raw)] = np.nan
    noon = solar_noon(np.asarray(days), np.asarray(longitude, float)).astype("datetime64[h]").astype(np.int64)
    present = np.isfinite(pixels).any((-1, -2))
    hour = np.where(present, noon - first_hour, NO_CHIP)
    if not present.all():
        order = np.argsort(hour, axis=1, kind="stable")
        hour = np.take_along_axis(hour, order, 1)
        pixels = np.take_along_axis(pixels, order[..., None, None], 1)
    return (pixels, hour) if spec.pixels > 1 else expire(pixels, hour, OLDEST * spec.steps(1))


def expire(pixels: np.ndarray, hour: np.ndarray, age: int) -> tuple[np.ndarray, np.ndarray]:
    """Insert an empty image where another is `age` time steps old and there is no newer one.

    Parameters
    ----------
    pixels : (n, d, b, p) float32
        Images, in the order of their time.
    hour : (n, d) int64
        Time step of each image, as in `Block.chip_hour`.
    age : int
        Maximum age of an image.

    Returns
    -------
    (n, e, b, p) float32, (n, e) int64
        Unchanged where no image becomes too old.

    Examples
    --------
    >>> expire(np.ones((1, 2, 1, 1)), np.array([[0, 9]]), 5)[1]
    array([[            0,             5,             9,            14]])
    """
    if not hour.size:
        return pixels, hour
    later = np.append(hour[:, 1:], np.full((len(hour), 1), NO_CHIP), 1)
    ends = np.where((hour < NO_CHIP) & (later - hour > age), hour + age, NO_CHIP)
    hours = np.concatenate([hour, ends], 1)
    order = np.argsort(hours, axis=1, kind="stable")[:, : int((hours < NO_CHIP).sum(1).max(initial=0))]
    images = np.concatenate([pixels, np.full_like(pixels, np.nan)], 1)
    return np.take_along_axis(images, order[..., None, None], 1), np.take_along_axis(hours, order, 1)


def fill_pixels(pixels: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    """Fill missing pixels by the mean of their band's valid ones; drop chips that are mostly missing.

    Parameters
    ----------
    pixels : (..., b, 64) float32
        NaN is missing.
    bands : sequence of str
        Names of the b bands.

    Returns
    -------
    (..., b, 64) float32
        A band without any valid pixel is all NaN; so is a chip with more than half of its reflectance missing.

    Examples
    --------
    >>> half = np.where(np.arange(64) < 32, 0.1, np.nan).astype("float32")[None]
    >>> bool(np.isfinite(fill_pixels(half, ["red"])).all()), bool(np.isfinite(fill_pixels(half[:, 1:], ["red"])).any())
    (True, False)
    """
    missing = np.isnan(pixels)
    gaps = missing.any(-1)
    if not gaps.any():
        return pixels.astype(np.float32, copy=False)
    filled = pixels.astype(np.float32)
    rows, holes = pixels[gaps], missing[gaps]  # most bands of most chips have none
    count = (~holes).sum(-1, keepdims=True)
    total = np.where(holes, 0.0, rows).sum(-1, keepdims=True, dtype=np.float64)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
    filled[gaps] = np.where(holes, mean, rows)
    reflectances = [i for i, name in enumerate(bands) if name in _REFLECTANCES]
    if reflectances:
        partly = gaps.any(-1)
        gone = np.zeros(partly.shape, bool)
        gone[partly] = missing[partly][..., reflectances, :].mean((-1, -2)) > 0.5
        filled[gone] = np.nan
    return filled
