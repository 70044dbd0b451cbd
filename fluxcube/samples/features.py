"""Features: the model inputs, and their computation from a tower cube or a grid.

Towers and grids use the same function, `make_block`, so that their features are computed identically.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from fluxcube.errors import ConfigError, unknown
from fluxcube.indices import bounds_of
from fluxcube.normalisation import TABLE, check_bounds, normalise, within_bounds
from fluxcube.resolution import HOURLY, Resolution, check_resolution, find_resolution
from fluxcube.samples.memory import trailing_mean
from fluxcube.samples.quality import best_flags
from fluxcube.samples.surface import (
    STATISTICS,
    SurfaceRecord,
    bands_needed,
    column_of,
    scaled,
    static_feature,
    surface_columns,
    surface_statics,
)
from fluxcube.timestamps import solar_noon
from fluxcube.variables import BANDS, COMPUTED, SURFACE_BANDS, check_role, table

log = logging.getLogger(__name__)

#: Limits that scale the static numbers of a place to [-0.5, 0.5): degrees north, metres above the sea.
STATIC_BOUNDS = {"latitude": (-90.0, 90.0), "elevation": (-500.0, 9000.0)}

#: A Köppen class: its main climate and up to three letters, before anything that is no letter.
_KOPPEN = re.compile(r"([A-E])[fmswhkntabcd]{0,3}(?![A-Za-z])", re.IGNORECASE)

#: `Block.chip_hour` of an entry without a chip; larger than any time step.
NO_CHIP = 2**38

_REFLECTANCES = BANDS[:7]
_CLASSES = ("igbp", "koppen")
#: Settings that `to_dict` omits at their default, so that files of hourly models do not change.
_LATER = ("resolution", "koppen_classes", "input_mean", "input_scale", "bounds", "surface", "lookahead", "pixels")
_LISTS = ("predictors", "memory_days", "bands", "surface", "static", "targets")
#: Number of pixels of a band token: those of a chip, or the one of a point or area mean.
CHIP_PIXELS, POINT_PIXELS = 64, 1


def static_bounds(name: str) -> tuple[float, float] | None:
    """Return the limits (low, high) that scale a static number to [-0.5, 0.5]; None if it is no static number.

    Examples
    --------
    >>> static_bounds("latitude"), static_bounds("NDVI_P10"), static_bounds("igbp")
    ((-90.0, 90.0), (-1.0, 1.0), None)
    """
    if pair := static_feature(name):
        return bounds_of(pair[0])
    return STATIC_BOUNDS.get(name)


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """Inputs and targets of a model: fixed by `fit` and saved in the checkpoint.

    Attributes
    ----------
    predictors : tuple of str
        Predictors, in order.
    memory_days : tuple of int
        Number of days of the trailing means that are added for each predictor, in any order.
    bands : tuple of str
        Bands of hourly models: those of the chips, or with `pixels` = 1 those of the surface reflectance of a point or
        area, at local solar noon of each clear day; empty for a model without band tokens.
    static : tuple of str
        Any of "latitude", "elevation", "igbp", "koppen" (the main climates A to E), and long-term percentiles of the
        surface reflectance such as "NDVI_P10" (`fluxcube.samples.surface.static_feature`).
    igbp_classes, koppen_classes : tuple of str
        Classes seen in training, in the order of their indices.
    targets : tuple of str
        Fluxes, in order.
    target_mean, target_scale : tuple of float
        scaled = (flux - mean) / scale, in the flux's units.
    predictor_max_qc : int or None
        Maximum quality flag of the predictors; others are masked. None keeps all.
    clock : {"solar", "standard"}
        Time of DOY and TOD.
    fill_chips : bool
        Whether a missing pixel of a chip takes the mean of its band's valid ones; False leaves it NaN, for models that
        average a band themselves.
    resolution : {"hourly", "daily"}
        Resolution of the cubes. Time steps are hours or days.
    input_mean, input_scale : tuple of float
        Mean and standard deviation of the model inputs after scaling by bounds, fitted on the daily values of the
        training towers; empty for no second scaling.
    bounds : {"table", "v1", "v2", "ours"}
        Bounds by which predictors are scaled, and beyond which they are missing (`fluxcube.normalisation.bounds_of`).
    surface : tuple of str
        Columns of the surface reflectance, after the predictors (`fluxcube.samples.surface.column_of`).
    lookahead : int
        Number of days by which views of the surface reflectance are known earlier; 0 uses no later view.
    pixels : {64, 1}
        Number of pixels of a band: 64 of a chip, or 1 of the surface reflectance.

    Examples
    --------
    >>> spec = FeatureSpec(predictors=("TOD", "TA"), memory_days=(7,), targets=("NEE",))
    >>> spec.inputs
    ('TOD', 'TA', 'TA_MEAN_7D')
    """

    predictors: tuple[str, ...]
    memory_days: tuple[int, ...] = ()
    bands: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    igbp_classes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ("NEE",)
    target_mean: tuple[float, ...] = ()
    target_scale: tuple[float, ...] = ()
    predictor_max_qc: int | None = 1
    clock: str = "solar"
    fill_chips: bool = True
    resolution: str = HOURLY.name
    koppen_classes: tuple[str, ...] = ()
    input_mean: tuple[float, ...] = ()
    input_scale: tuple[float, ...] = ()
    bounds: str = TABLE
    surface: tuple[str, ...] = ()
    lookahead: int = 0
    pixels: int = CHIP_PIXELS

    def __post_init__(self):
        check_bounds(self.bounds, self.resolution)
        check_role(self.predictors, "predictor", self.resolution)
        check_role(self.targets, "target", self.resolution)
        self._check_names()
        self._check()
        if not self.target_scale:
            object.__setattr__(self, "target_mean", (0.0,) * len(self.targets))
            object.__setattr__(self, "target_scale", (1.0,) * len(self.targets))

    def _check_names(self) -> None:
        """Refuse bands, surface columns and static inputs that do not exist (UnknownNameError)."""
        valid = SURFACE_BANDS if self.pixels == POINT_PIXELS else BANDS
        for name in self.bands:
            if name not in valid:
                raise unknown("band", name, valid)
        for name in self.surface:
            column_of(name)
        for name in self.static:
            if name not in _CLASSES and static_bounds(name) is None:
                raise unknown("static input", name, (*STATIC_BOUNDS, *_CLASSES, "NDVI_P10"))

    def _check(self) -> None:
        if self.bands and self.time_resolution.local:
            raise ConfigError(
                f"bands={self.bands}: daily models have no band tokens; pass the bands and indices as surface=."
            )
        if self.pixels not in (CHIP_PIXELS, POINT_PIXELS):
            raise ConfigError(f"pixels must be {CHIP_PIXELS} (chips) or {POINT_PIXELS}, found {self.pixels!r}.")
        if not isinstance(self.lookahead, int) or isinstance(self.lookahead, bool) or self.lookahead < 0:
            raise ConfigError(f"lookahead must be whole days of 0 or more, found {self.lookahead!r}.")
        if both := sorted(set(self.predictors) & set(self.targets)):
            raise ConfigError(f"{', '.join(both)}: a variable cannot be predictor and target of one model; drop one.")
        if not self.predictors or not self.targets:
            raise ConfigError("a model needs at least one predictor and one target.")
        for name in (*_LISTS, "igbp_classes", "koppen_classes"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise ConfigError(f"{name}: expected each name once, found {getattr(self, name)}; remove duplicates.")
        if any(not isinstance(d, int) or d < 1 for d in self.memory_days):
            raise ConfigError(f"memory_days must be whole days of 1 or more, found {self.memory_days}.")
        if self.clock not in ("solar", "standard"):
            raise ConfigError(f"clock must be solar or standard, found {self.clock!r}.")
        if self.target_scale and not len(self.target_mean) == len(self.target_scale) == len(self.targets):
            raise ConfigError("target_mean and target_scale must have one number for each target.")
        if self.input_scale and not len(self.input_mean) == len(self.input_scale) == len(self.inputs):
            raise ConfigError(f"input_mean and input_scale must have one number for each of {len(self.inputs)} inputs.")

    @property
    def time_resolution(self) -> Resolution:
        """Resolution of its cubes."""
        return find_resolution(self.resolution)

    @property
    def step(self) -> str:
        """NumPy's code of a time step: "h" or "D"."""
        return self.time_resolution.unit

    @property
    def memory_predictors(self) -> tuple[str, ...]:
        """Predictors that get trailing means: those neither computed nor cyclic."""
        rows = table(self.resolution)
        return tuple(n for n in self.predictors if n not in COMPUTED and not rows[n].cyclic)

    @property
    def surface_bands(self) -> tuple[str, ...]:
        """Bands of the surface reflectance that columns, static numbers and band tokens are computed from."""
        return bands_needed(self.surface, self.static, self.bands if self.pixels == POINT_PIXELS else ())

    @property
    def satellite_arrays(self) -> dict[str, tuple[str, ...]]:
        """Arrays of a cube or forcing with satellite data that the model uses, and the bands that it needs of each."""
        chips = self.bands if self.pixels == CHIP_PIXELS else ()
        surface = self.surface_bands
        used = {"modis": chips, "surface": surface, "surface_climatology": surface}
        return {name: bands for name, bands in used.items() if bands}

    @property
    def surface_days(self) -> int:
        """Number of days of surface reflectance, the present one included, that the columns of a day depend on."""
        return max((column_of(name).days for name in self.surface), default=0)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the model inputs: predictors, surface columns, then the trailing means of each span."""
        means = [f"{name}_MEAN_{days}D" for days in self.memory_days for name in self.memory_predictors]
        return (*self.predictors, *self.surface, *means)

    @property
    def input_variables(self) -> tuple[str, ...]:
        """The variable, or surface column, that each of `inputs` is a value or a mean of."""
        return (*self.predictors, *self.surface, *self.memory_predictors * len(self.memory_days))

    @property
    def input_units(self) -> tuple[str, ...]:
        """Units of each of `inputs` before scaling."""
        rows, surface = table(self.resolution), self.surface
        return tuple(column_of(x).units if x in surface else rows[x].units for x in self.input_variables)

    @property
    def cyclic_columns(self) -> tuple[int, ...]:
        """Positions of the cyclic model inputs."""
        rows, names = table(self.resolution), self.input_variables
        return tuple(i for i, n in enumerate(names) if n not in self.surface and rows[n].cyclic)

    @property
    def numbers(self) -> tuple[str, ...]:
        """Names of the static numbers."""
        return tuple(name for name in self.static if name not in _CLASSES)

    @property
    def class_lists(self) -> dict[str, tuple[str, ...]]:
        """Names of the static class inputs, and the classes of each."""
        every = {"igbp": self.igbp_classes, "koppen": self.koppen_classes}
        return {name: classes for name, classes in every.items() if name in self.static}

    @property
    def memory_steps(self) -> int:
        """Number of time steps before a block that its trailing means need."""
        return self.steps(max(self.memory_days, default=0))

    def steps(self, days: int) -> int:
        """Return the number of time steps of a number of days."""
        return self.time_resolution.steps_per_day * days

    def to_dict(self) -> dict:
        """Return the settings as JSON-compatible values; `from_dict` is the inverse."""
        values = dataclasses.asdict(self)
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        kept = {k: v for k, v in values.items() if k not in _LATER or v != defaults[k]}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in kept.items()}

    @classmethod
    def from_dict(cls, values: Mapping) -> FeatureSpec:
        """Return a spec from the values that `to_dict` returned.

        Raises
        ------
        UnknownNameError
            If a key is not a setting of a spec.
        """
        valid = [f.name for f in dataclasses.fields(cls)]
        for key in values:
            if key not in valid:
                raise unknown("feature setting", key, valid)
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        if find_resolution(settings.get("resolution", HOURLY.name)).local and settings.get("bands"):
            # Earlier versions recorded the surface columns of daily models as bands.
            settings |= {"surface": settings["bands"], "bands": ()}
        return cls(**settings)


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
        wanted = f"(n, {len(time)}, {len(spec.predictors)})"
        raise ConfigError(f"values must be {wanted}, one column for each of the predictors, found {values.shape}.")
    if qc is not None:
        values[~HOURLY.limit(spec.predictor_max_qc).accepts(qc, best)] = np.nan
    columns = surface_columns(
        surface, spec.surface, time, longitude, resolution=spec.time_resolution, lookahead=spec.lookahead
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
    held = [name for name in spec.predictors if name in cube["variable"].values]
    if absent := sorted(set(spec.predictors) - set(held)):
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
    surface, dim = cube["surface"], spec.time_resolution.surface_dim
    present = [name for name in spec.surface_bands if name in surface["band"].values]
    climatology: np.ndarray | None = None
    features: tuple[str, ...] = ()
    if "surface_climatology" in cube:
        statistics = cube["surface_climatology"].transpose("site", "statistic", "feature")
        climatology = statistics.reindex(statistic=list(STATISTICS)).values
        features = tuple(map(str, statistics["feature"].values))
    return SurfaceRecord(
        values=surface.sel(band=present).transpose("site", dim, "band").values,
        days=surface[dim].values,
        bands=tuple(present),
        climatology=climatology,
        features=features,
    )


def _inputs(values: np.ndarray, surface: np.ndarray, spec: FeatureSpec) -> np.ndarray:
    """Return normalised predictors, surface columns and trailing means, concatenated (n, t, V)."""
    for i, name in enumerate(spec.predictors):  # before the means: one value of -9999 spoils a month of them
        values[..., i] = within_bounds(values[..., i], name, resolution=spec.resolution, bounds=spec.bounds)
    met = np.empty((*values.shape[:2], len(spec.inputs)), np.float32)
    met[..., : len(spec.predictors)] = values
    at = len(spec.predictors) + len(spec.surface)
    for days in spec.memory_days:
        for name in spec.memory_predictors:
            met[..., at] = trailing_mean(values[..., spec.predictors.index(name)], spec.steps(days))
            at += 1
    if not spec.surface:
        met = normalise(met, spec.input_variables, resolution=spec.resolution, bounds=spec.bounds)
        met = met.astype(np.float32, copy=False)
    else:
        first, last = len(spec.predictors), len(spec.predictors) + len(spec.surface)
        for part in (slice(None, first), slice(last, None)):
            names = spec.input_variables[part]
            if names:
                met[..., part] = normalise(met[..., part], names, resolution=spec.resolution, bounds=spec.bounds)
        # Daily inputs are scaled by their mean and standard deviation instead.
        met[..., first:last] = surface if spec.time_resolution.scaled_inputs else scaled(surface, spec.surface)
    if spec.input_scale:
        met = (met - np.array(spec.input_mean, np.float32)) / np.array(spec.input_scale, np.float32)
    return met


def _observed(met: np.ndarray, spec: FeatureSpec) -> np.ndarray:
    measured = [i for i, name in enumerate(spec.predictors) if name not in COMPUTED]
    return np.isfinite(met[..., measured or list(range(len(spec.predictors)))]).any(-1)


def _numbers(values: Mapping[str, Any], n: int, spec: FeatureSpec) -> np.ndarray:
    out = np.full((n, len(spec.numbers)), np.nan, np.float32)
    for i, name in enumerate(spec.numbers):
        bounds = static_bounds(name)
        if bounds is not None and values.get(name) is not None:
            low, high = bounds
            x = np.asarray(values[name], float)
            out[:, i] = np.where((x >= low) & (x <= high), (x - (low + high) / 2) / (high - low), np.nan)
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
    """Return the bands (n, d, b, 1) of the surface reflectance, and the days on which they are known (d,)."""
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
    return pixels, hour


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
