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
from fluxcube.resolution import HOURLY, check_resolution
from fluxcube.samples.images import ImageRecord, Images, complete_images, expire, image_tokens, reflectance_bands
from fluxcube.samples.inputs import model_inputs
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
from fluxcube.timestamps import DAY

log = logging.getLogger(__name__)

#: A Köppen class: its main climate and up to three letters, before anything that is no letter.
_KOPPEN = re.compile(r"([A-E])[fmswhkntabcd]{0,3}(?![A-Za-z])", re.IGNORECASE)


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
    images : tuple of Images
        Images of each of `FeatureSpec.images`, in their order: pixels (n, d, b, p) and hours (n, d), as of the chips.
    """

    inputs: np.ndarray
    observed: np.ndarray
    numbers: np.ndarray
    classes: np.ndarray
    chips: np.ndarray
    chip_hour: np.ndarray
    first_hour: int
    images: tuple[Images, ...] = ()


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
    images: Mapping[str, ImageRecord] = MappingProxyType({}),
    qc: np.ndarray | None = None,
    best: int | np.ndarray = 0,
    lead: int = 0,
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
    images : mapping of str to ImageRecord
        Images of the places by the name of their kind (`spec.images`); a kind without images is missing.
    qc : (n, t, P) int, optional
        Flags; a value flagged above `spec.predictor_max_qc` is masked.
    best : int or (n, 1, 1) int
        Best flag that a place can have (`fluxcube.samples.quality.best_flags`); it is not masked.
    lead : int
        Number of first time steps that only enter the trailing means: the block begins after them.

    Returns
    -------
    Block
    """
    if values.shape[1:] != (len(time), len(spec.predictors)):
        expected = f"(n, {len(time)}, {len(spec.predictors)})"
        raise ConfigError(
            f"expected values {expected}, one column for each of the predictors, found {values.shape}; select the "
            "predictors of the model in their order."
        )
    columns = surface_columns(
        surface,
        spec.surface,
        time[lead:],
        longitude,
        resolution=spec.time_resolution,
        lookahead=spec.lookahead,
        # Daily inputs are scaled by their mean and standard deviation instead.
        scaled=not spec.time_resolution.scaled_inputs,
    )
    inputs, observed = model_inputs(values, columns, spec, qc=qc, best=best, lead=lead)
    first = int(np.asarray(time[lead]).astype(f"datetime64[{spec.step}]").astype(np.int64))
    if spec.pixels == POINT_PIXELS:
        chips, days = _points(surface, spec)
    pixels, hour = _chips(chips, days, longitude, first, spec)
    numbers = {"latitude": latitude, **surface_statics(surface, spec.static), **statics}
    return Block(
        inputs=inputs,
        observed=observed,
        numbers=_numbers(numbers, len(values), spec),
        classes=_classes(statics, len(values), spec),
        chips=pixels,
        chip_hour=hour,
        first_hour=first,
        images=tuple(
            image_tokens(images.get(kind.name), kind, longitude, first, fill=spec.fill_chips) for kind in spec.images
        ),
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
        images=cube_images(cube, spec),
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


def cube_images(cube, spec: FeatureSpec) -> dict[str, ImageRecord]:
    """Return the images of a cube that a model needs, by the name of their kind; without those that the cube lacks.

    Only the days that its time steps can use are read; bands that the cube lacks are missing.

    Parameters
    ----------
    cube : xr.Dataset
        A cube (`fluxcube.schema`), lazy or in memory.
    spec : FeatureSpec
        Kinds of images.
    """
    records = {}
    for kind in spec.images:
        if kind.array not in cube:
            continue
        days = cube[kind.dims[0]].values
        # A cube with holes in its time axis is read stretch by stretch, and all stretches share the images.
        last = max(cube["time"].values[-1], cube["time_stop"].values.max())
        used = slice(*np.searchsorted(days, [cube["time"].values[0] - (kind.hold_days + 2) * DAY, last + DAY]))
        array = cube[kind.array].transpose("site", *kind.dims).isel({kind.dims[0]: used})
        values = array.reindex({kind.dims[1]: list(kind.bands)}).values
        records[kind.name] = ImageRecord(values, days[used], kind.bands)
    return records


def absent_satellite(ds, spec: FeatureSpec) -> list[str]:
    """Return the bands, columns and percentiles that a model uses and that a cube or forcing cannot supply."""
    dims = {"modis": "band", "surface": SURFACE_DIMS[spec.resolution][1]}
    present = {name: set(map(str, ds[name][dim].values)) if name in ds else set() for name, dim in dims.items()}
    tokens = "modis" if spec.pixels == CHIP_PIXELS else "surface"
    absent = [f"band {name}" for name in spec.bands if name not in present[tokens]]
    needed = {name: bands_needed([name]) for name in spec.surface}
    needed |= {name: bands_needed([], [name]) for name in spec.static}
    absent += [name for name, bands in needed.items() if not present["surface"].issuperset(bands)]
    for kind in spec.images:
        known = set(map(str, ds[kind.dims[1]].values)) if kind.array in ds else set()
        absent += [f"band {name} of {kind.array}" for name in kind.bands if name not in known]
    return absent


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
    reflectances = reflectance_bands(spec.bands) if spec.pixels > 1 else None
    images = complete_images(raw, reflectances, days, longitude, first_hour, fill=spec.fill_chips)
    return images if spec.pixels > 1 else expire(*images, OLDEST * spec.steps(1))
