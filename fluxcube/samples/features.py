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
from typing import Any

import numpy as np

from fluxcube.errors import ConfigError, unknown
from fluxcube.normalisation import TABLE, check_bounds, normalise, within_bounds
from fluxcube.resolution import HOURLY, Resolution, check_resolution, find_resolution
from fluxcube.samples.memory import trailing_mean
from fluxcube.samples.quality import best_flags
from fluxcube.samples.reflectance import INDICES, carried
from fluxcube.timestamps import solar_noon
from fluxcube.variables import BANDS, COMPUTED, check_role, table

log = logging.getLogger(__name__)

#: Limits that scale the static numbers to [-0.5, 0.5): degrees north, metres above the sea.
STATIC_BOUNDS = {"latitude": (-90.0, 90.0), "elevation": (-500.0, 9000.0)}

#: A Köppen class: its main climate and up to three letters, before anything that is no letter.
_KOPPEN = re.compile(r"([A-E])[fmswhkntabcd]{0,3}(?![A-Za-z])", re.IGNORECASE)

#: `Block.chip_hour` of an entry without a chip; larger than any time step.
NO_CHIP = 2**38

_REFLECTANCES = BANDS[:7]
_STATIC = (*STATIC_BOUNDS, "igbp", "koppen")
#: Settings that `to_dict` omits at their default, so that files of hourly models do not change.
_LATER = ("resolution", "koppen_classes", "input_mean", "input_scale", "bounds")


def input_bands(resolution: Resolution) -> tuple[str, ...]:
    """Return the valid bands of a model: those of the chips, or reflectances and indices used as columns."""
    return (*resolution.bands, *INDICES) if resolution.surface_columns else resolution.bands


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
        Bands of the chips; empty for a model without chips. Of a daily model: bands and indices of the surface
        reflectance, which are columns after the predictors.
    static : tuple of str
        Any of "latitude", "elevation", "igbp", "koppen" (the main climates A to E).
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

    def __post_init__(self):
        bands = input_bands(find_resolution(self.resolution))
        check_bounds(self.bounds, self.resolution)
        check_role(self.predictors, "predictor", self.resolution)
        check_role(self.targets, "target", self.resolution)
        for kind, names, valid in (("band", self.bands, bands), ("static input", self.static, _STATIC)):
            for name in names:
                if name not in valid:
                    raise unknown(kind, name, valid)
        self._check()
        if not self.target_scale:
            object.__setattr__(self, "target_mean", (0.0,) * len(self.targets))
            object.__setattr__(self, "target_scale", (1.0,) * len(self.targets))

    def _check(self) -> None:
        if both := sorted(set(self.predictors) & set(self.targets)):
            raise ConfigError(f"{', '.join(both)}: a variable cannot be predictor and target of one model; drop one.")
        if not self.predictors or not self.targets:
            raise ConfigError("a model needs at least one predictor and one target.")
        for name in ("predictors", "memory_days", "bands", "static", "targets", "igbp_classes", "koppen_classes"):
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
    def surface(self) -> tuple[str, ...]:
        """Names of the model inputs that are reflectances or indices."""
        return self.bands if self.time_resolution.surface_columns else ()

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
        rows = table(self.resolution)
        return tuple("1" if name in self.surface else rows[name].units for name in self.input_variables)

    @property
    def cyclic_columns(self) -> tuple[int, ...]:
        """Positions of the cyclic model inputs."""
        rows, names = table(self.resolution), self.input_variables
        return tuple(i for i, n in enumerate(names) if n not in self.surface and rows[n].cyclic)

    @property
    def numbers(self) -> tuple[str, ...]:
        """Names of the static numbers."""
        return tuple(name for name in self.static if name in STATIC_BOUNDS)

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
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}
        return {k: v for k, v in values.items() if k not in _LATER or v not in ([], HOURLY.name, TABLE)}

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
    chips : (n, d, b, 64) float32
        Chips of each place, those that are present first and by time; gaps filled, unless the spec's `fill_chips`
        is False. d may be 0.
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
    elevation: np.ndarray | None = None,
    igbp: Sequence[str] | None = None,
    koppen: Sequence[str] | None = None,
    chips: np.ndarray | None = None,
    days: np.ndarray | None = None,
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
    elevation : (n,) float, optional
        Metres; NaN is unknown.
    igbp, koppen : (n,) str, optional
        Classes; "" is unknown.
    chips : (n, d, b, 8, 8) float, optional
        `spec.bands` on `days`; NaN is missing. In days: the seven reflectances (n, d, 7).
    days : (d,) datetime64, optional
        Local dates of the chips, ascending.
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
    surface = carried(chips, days, np.asarray(time), spec.surface) if spec.surface else None
    met = _met(values, surface, spec)
    first = int(np.asarray(time[0]).astype(f"datetime64[{spec.step}]").astype(np.int64))
    pixels, hour = _chips(None if spec.surface else chips, days, longitude, first, spec)
    return Block(
        inputs=met,
        observed=_observed(met, spec),
        numbers=_numbers({"latitude": latitude, "elevation": elevation}, len(values), spec),
        classes=_classes({"igbp": igbp, "koppen": koppen}, len(values), spec),
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
    surface, flags = spec.time_resolution.satellite, f"predictors{HOURLY.quality}"
    with_chips = bool(spec.bands) and surface in cube
    bands = list(_REFLECTANCES if spec.surface else spec.bands)
    return make_block(
        cube["predictors"].reindex(variable=list(spec.predictors)).values,
        cube["time"].values,
        cube["latitude"].values,
        cube["longitude"].values,
        spec=spec,
        elevation=cube["elevation"].values,
        igbp=cube["igbp"].values,
        koppen=cube["koppen"].values,
        chips=cube[surface].sel(band=bands).values if with_chips else None,
        days=cube["day"].values if with_chips else None,
        qc=cube[flags].reindex(variable=list(spec.predictors), fill_value=-1).values if flags in cube else None,
        best=best_flags(cube)[:, None, None],
    )


def _met(values: np.ndarray, surface: np.ndarray | None, spec: FeatureSpec) -> np.ndarray:
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
        bounded = [i for i, name in enumerate(spec.input_variables) if name not in spec.surface]
        names = [spec.input_variables[i] for i in bounded]
        met[..., bounded] = normalise(met[..., bounded], names, resolution=spec.resolution)
        met[..., len(spec.predictors) : len(spec.predictors) + len(spec.surface)] = surface
    if spec.input_scale:
        met = (met - np.array(spec.input_mean, np.float32)) / np.array(spec.input_scale, np.float32)
    return met


def _observed(met: np.ndarray, spec: FeatureSpec) -> np.ndarray:
    measured = [i for i, name in enumerate(spec.predictors) if name not in COMPUTED]
    return np.isfinite(met[..., measured or list(range(len(spec.predictors)))]).any(-1)


def _numbers(given: Mapping[str, np.ndarray | None], n: int, spec: FeatureSpec) -> np.ndarray:
    out = np.full((n, len(spec.numbers)), np.nan, np.float32)
    for i, name in enumerate(spec.numbers):
        if given[name] is not None:
            low, high = STATIC_BOUNDS[name]
            x = np.asarray(given[name], float)
            out[:, i] = np.where((x >= low) & (x <= high), (x - (low + high) / 2) / (high - low), np.nan)
    return out


def _classes(given: Mapping[str, Sequence[str] | None], n: int, spec: FeatureSpec) -> np.ndarray:
    out = np.full((n, len(spec.class_lists)), -1, np.int64)
    for column, (name, classes) in enumerate(spec.class_lists.items()):
        index = {code: i for i, code in enumerate(classes)}
        codes = given[name]
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


def _chips(chips, days, longitude, first_hour: int, spec: FeatureSpec) -> tuple[np.ndarray, np.ndarray]:
    """Chips, gaps filled if the spec says so, (n, d, b, 64) and their hours (n, d), those that are present first."""
    n, b = len(longitude), len(spec.bands)
    if chips is None or not b or not len(days):
        return np.empty((n, 0, b, 64), np.float32), np.empty((n, 0), np.int64)
    given = np.asarray(chips, np.float32).reshape(n, len(days), b, 64)
    pixels = fill_pixels(given, spec.bands)
    if not spec.fill_chips:
        pixels[np.isnan(given)] = np.nan
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
