"""Specification of the inputs and targets of a model: names, order and scaling; `features` computes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fluxcube.errors import ConfigError, unknown
from fluxcube.indices import bounds_of
from fluxcube.normalisation import TABLE, check_bounds
from fluxcube.resolution import HOURLY, Resolution, find_resolution
from fluxcube.samples.images import ImageKind
from fluxcube.samples.surface import bands_needed, column_of, static_feature
from fluxcube.variables import (
    BANDS,
    COMPUTED,
    DECLARED,
    SURFACE_BANDS,
    check_role,
    declarations,
    declare_again,
    statics,
    table,
)

#: Limits that scale the static numbers of a place to [-0.5, 0.5): degrees north, metres above the sea.
STATIC_BOUNDS = {"latitude": (-90.0, 90.0), "elevation": (-500.0, 9000.0)}

_CLASSES = ("igbp", "koppen")
#: Settings that `to_dict` omits at their default, so that files of hourly models do not change.
_LATER = (
    "resolution",
    "koppen_classes",
    "input_mean",
    "input_scale",
    "bounds",
    "surface",
    "lookahead",
    "pixels",
    "images",
)
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
    if own := statics().get(name):
        return own.bounds
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
        surface reflectance such as "NDVI_P10" (`fluxcube.samples.surface.static_feature`), and static predictors that
        `fluxcube.declare` declared.
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
    images : tuple of ImageKind
        Other kinds of images of hourly models, beside `bands`: those of another sensor, or embeddings.

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
    images: tuple[ImageKind, ...] = ()

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
        """Refuse bands, surface columns and static inputs that do not exist (UnknownNameError or ConfigError)."""
        if self.bands and self.time_resolution.local:
            raise ConfigError(
                f"bands={self.bands}: daily models have no band tokens; pass the bands and indices as surface=."
            )
        valid = SURFACE_BANDS if self.pixels == POINT_PIXELS else BANDS
        for name in self.bands:
            if name not in valid:
                raise unknown("band", name, valid)
        for name in self.surface:
            column_of(name)
        for name in self.static:
            if name not in _CLASSES and static_bounds(name) is None:
                raise unknown(
                    "static input", name, (*STATIC_BOUNDS, *_CLASSES, *statics(), "NDVI_P10", "NDVI_P50", "NDVI_P90")
                )

    def _check(self) -> None:
        if self.pixels not in (CHIP_PIXELS, POINT_PIXELS):
            raise ConfigError(f"pixels must be {CHIP_PIXELS} (chips) or {POINT_PIXELS}, found {self.pixels!r}.")
        if not isinstance(self.lookahead, int) or isinstance(self.lookahead, bool) or self.lookahead < 0:
            raise ConfigError(f"lookahead must be whole days of 0 or more, found {self.lookahead!r}.")
        if self.lookahead and not self.surface and not (self.bands and self.pixels == POINT_PIXELS):
            raise ConfigError(
                f"lookahead={self.lookahead} has no effect without surface columns or bands of one pixel: pass "
                "surface=, or leave lookahead out."
            )
        if self.images and self.time_resolution.local:
            raise ConfigError(
                f"images={[kind.name for kind in self.images]}: daily models have no image tokens; pass images=(), or "
                "train on an hourly cube."
            )
        if len({kind.name for kind in self.images}) != len(self.images):
            names = ", ".join(kind.name for kind in self.images)
            raise ConfigError(f"images: expected each name once, found {names}; remove duplicates.")
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
        """NumPy unit of a time step: "h" or "D"."""
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
        return {name: bands for name, bands in used.items() if bands} | {k.array: k.bands for k in self.images}

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
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["images"] = tuple(kind.to_dict() for kind in self.images)
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        kept = {k: v for k, v in values.items() if k not in _LATER or v != defaults[k]}
        own = declarations((*self.predictors, *self.static))
        kept = {k: list(v) if isinstance(v, tuple) else v for k, v in kept.items()}
        return kept | ({DECLARED: own} if own else {})

    def __reduce__(self):
        # Another process declares the predictors of the user before it needs their bounds.
        return FeatureSpec.from_dict, (self.to_dict(),)

    @classmethod
    def from_dict(cls, values: Mapping) -> FeatureSpec:
        """Return a spec from the values that `to_dict` returned.

        Raises
        ------
        UnknownNameError
            If a key is not a setting of a spec.
        ConfigError
            If it declares a predictor that this process declared otherwise.
        """
        values = dict(values)
        declare_again(values.pop(DECLARED, None), "the model")
        valid = [f.name for f in dataclasses.fields(cls)]
        for key in values:
            if key not in valid:
                raise unknown("feature setting", key, valid)
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        if "images" in settings:
            settings["images"] = tuple(map(ImageKind.from_dict, settings["images"]))
        if find_resolution(settings.get("resolution", HOURLY.name)).local and settings.get("bands"):
            # Earlier versions recorded the surface columns of daily models as bands.
            settings |= {"surface": settings["bands"], "bands": ()}
        return cls(**settings)
