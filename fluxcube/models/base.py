"""The interface of every model: a batch of windows in, scaled fluxes of their time steps out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Protocol, Self, TypeVar, runtime_checkable

import numpy as np

from fluxcube.errors import ConfigError
from fluxcube.models.settings import check_types, from_known_keys

if TYPE_CHECKING:
    from torch import nn

#: The arrays of a batch are all numpy arrays, or all torch tensors.
Array = TypeVar("Array")
Other = TypeVar("Other")


class Batch(NamedTuple, Generic[Array]):
    """Windows, as `fluxcube.samples.windows.gather` cuts them: all numpy arrays, or all torch tensors.

    Attributes
    ----------
    inputs : (B, T, V) float32
        Model inputs: normalised predictors and their trailing means; NaN is a masked token.
    images : (B, K, b, p) float32
        Chips, pixels flattened, or bands of one pixel; a band that is all NaN is a masked token. K may be 0.
        Of a model with other kinds of images beside: (B, kinds x K, 1, F), see `split_images`.
    image_step : (B, K) int64
        Time step of the window (0..T-1) of each chip, or -1 for none; no two images of a kind share a time step.
    numbers : (B, S) float32
        Normalised static numbers; NaN is a masked token. For a model with embeddings they follow after these.
    classes : (B, C) int64
        Static classes as indices, or -1 for unknown.
    image_row : (B, K) int64, or None
        If there is one, `images` is a table (M, b, p) of the distinct images of all windows, M >= 1 (of a model with
        other kinds of images beside: (M, 1, F)), and slot k of window i contains row ``image_row[i, k]``: any row of
        the table where `image_step` is -1. An image that many windows share is then stored and encoded once.
    """

    inputs: Array
    images: Array
    image_step: Array
    numbers: Array
    classes: Array
    image_row: Array | None = None

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> Batch[Array]:
        """Build a batch from the arrays that `gather` returns."""
        return cls(**{name: arrays[name] for name in cls._fields[:5]}, image_row=arrays.get("image_row"))

    def map(self, function: Callable[[Array], Other]) -> Batch[Other]:
        """Return the batch with a function applied to each of its arrays; a missing `image_row` stays missing.

        Examples
        --------
        >>> batch = Batch(*(np.zeros((2, 3)) for _ in range(5)))
        >>> batch.map(np.ones_like).image_row is None
        True
        """
        row = None if self.image_row is None else function(self.image_row)
        inputs, images, step, numbers, classes = (function(array) for array in self[:5])
        return Batch(inputs, images, step, numbers, classes, row)

    def take(self, windows: slice | list[int] | np.ndarray) -> Batch[Array]:
        """Return the batch of some of its windows; they share the whole table of images, if there is one."""
        whole: Batch[Any] = self
        part: Batch[Array] = whole.map(lambda array: array[windows] if array is not whole.images else array)
        return part if self.image_row is not None else part._replace(images=whole.images[windows])

    def without_table(self) -> Batch[Array]:
        """Return the batch with an image in each slot (B, K, b, p), instead of a table of images."""
        whole: Batch[Any] = self
        if whole.image_row is None:
            return self
        return self._replace(images=whole.images[whole.image_row], image_row=None)

    def present(self) -> dict[str, Array]:
        """Return the arrays by name, without a missing `image_row`."""
        return {name: array for name, array in self._asdict().items() if array is not None}


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Numbers of model inputs and targets; a model knows them by position, never by name.

    Attributes
    ----------
    inputs : int
        V, number of input columns per time step.
    bands : int
        b, number of bands of a chip.
    pixels : int
        p, number of pixels of a band: 64 of a chip, or 1.
    numbers : int
        S, number of static numbers.
    classes : tuple of int
        Number of classes of each static class.
    targets : int
        Number of fluxes per time step.
    protected : tuple of int
        Input columns that observational dropout never masks (the clocks).
    means : int
        Number of input columns, the last ones, that change daily: surface columns and trailing means.
    cyclic : tuple of int
        Cyclic input columns, normalised to [-1, 1), for models that encode them as sine and cosine.
    image_bands, image_pixels : tuple of int
        Number of bands, and of pixels of a band, of each other kind of images beside `bands`.
    """

    inputs: int
    bands: int = 0
    numbers: int = 0
    classes: tuple[int, ...] = ()
    targets: int = 1
    protected: tuple[int, ...] = ()
    means: int = 0
    cyclic: tuple[int, ...] = ()
    pixels: int = 64
    image_bands: tuple[int, ...] = ()
    image_pixels: tuple[int, ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping) -> Sizes:
        """Build sizes from a mapping, refusing unknown keys (UnknownNameError)."""
        return from_known_keys(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """Return the sizes as JSON-compatible values; those of images are left out of a model without other kinds."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v or not k.startswith("image_")}

    def __post_init__(self) -> None:
        check_types(self)
        if self.inputs < 1 or self.targets < 1:
            raise ConfigError(f"a model needs an input and a target, found {self.inputs} and {self.targets}.")
        if self.pixels < 1:
            raise ConfigError(f"pixels must be 1 or more, found {self.pixels}.")
        if len(self.image_bands) != len(self.image_pixels):
            raise ConfigError(
                "image_bands and image_pixels must have one number for each kind of images, found "
                f"{self.image_bands} and {self.image_pixels}."
            )
        if any(not 0 <= column < self.inputs for column in self.protected):
            raise ConfigError(f"protected columns must lie in 0..{self.inputs - 1}, found {self.protected}.")

    @property
    def image_kinds(self) -> tuple[tuple[int, int], ...]:
        """Bands and pixels of each kind of images, in the order of their slots in a batch: chips, then the others."""
        others = zip(self.image_bands, self.image_pixels, strict=True)
        return (*(((self.bands, self.pixels),) if self.bands else ()), *others)


def split_images(images: Array, step: Array, sizes: Sizes) -> list[tuple[Array, Array]]:
    """Return the images (B, K, b, p) and time steps (B, K) of each kind of a batch, in the order of their slots.

    Parameters
    ----------
    images, step : array or Tensor
        `Batch.images` and `Batch.image_step`.
    sizes : Sizes
        Bands and pixels of each kind.

    Examples
    --------
    >>> sizes = Sizes(inputs=1, bands=2, image_bands=(3,), image_pixels=(1,))
    >>> parts = split_images(np.zeros((5, 4, 1, 128)), np.zeros((5, 4)), sizes)
    >>> [(images.shape, step.shape) for images, step in parts]
    [((5, 2, 2, 64), (5, 2)), ((5, 2, 3, 1), (5, 2))]
    """
    whole: Any = images
    steps: Any = step
    if not sizes.image_bands:
        return [(whole, steps)]
    kinds = sizes.image_kinds
    slots = whole.shape[1] // len(kinds)
    parts = []
    for i, (bands, pixels) in enumerate(kinds):
        own = slice(i * slots, (i + 1) * slots)
        one = whole[:, own, 0, : bands * pixels].reshape(whole.shape[0], slots, bands, pixels)
        parts.append((one, steps[:, own]))
    return parts


class Config(Protocol):
    """Settings of a model: a frozen dataclass that can be read from JSON."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @classmethod
    def from_dict(cls, values: Mapping) -> Self:
        """Build the settings from a mapping, refusing unknown keys (UnknownNameError)."""
        ...


@runtime_checkable
class Model(Protocol):
    """A model, as training, inference and checkpoints see it; `BaseModel` has defaults for most of it.

    Attributes
    ----------
    needed_columns : mapping
        Settings of its configuration that are positions of input columns, and the variable of each.
    averages_chips : bool
        Whether it averages the valid pixels of a chip itself, so that missing pixels need not be filled.
    image_table : bool
        Whether its batches may contain a table of images (`Batch.image_row`).
    searchable : bool
        Whether `fluxcube.training.search.random_search` can search for its settings.
    uses_support : bool
        Whether it makes an embedding of a place from support windows: windows of the place's own model inputs.
    bounds : str
        Bounds by which `fluxcube.fit` scales its predictors by default (`fluxcube.normalisation.bounds_of`).
    stages : int
        Number of stages in which it is trained, 1 or 2.
    length_setting : str
        For a model that is not trained in epochs, the setting that determines how long it is trained; "" if none.
    kind : str
        Its name in the registry.
    config : Config
        Its settings.
    sizes : Sizes
        Numbers of inputs and targets.
    context : int
        T, number of time steps of a window.
    n_targets : int
        Number of fluxes per time step.
    emits : int
        Number of time steps, the last ones of a window, that `predict` fills: T for a dense head, 1 for others.
    supervised : int
        Number of time steps, the last ones of a window, that training learns from.
    training_stride : int
        Time steps between two windows of a training epoch, unless the training settings have another number.
    quantities : tuple of str
        What `predict_all` returns of each target: "mean"; "std" if the model estimates its error; "spread" if it
        has members.
    sliding_window : bool
        Whether `predict` accepts more than `context` time steps (sliding-window inference) and then returns each time
        step from its own window.
    streams : bool
        Whether one pass estimates all time steps of a series of any length, each from the `context` time steps up to
        it, so that the results do not depend on where a series is cut. `predict` then fills all time steps, and the
        latest image is repeated every 24 hours (`fluxcube.samples.windows.gather`).
    training_length : int
        Number of time steps of a training window; `context` for a model without streams.
    embedding_size : int
        Length of a place's embedding; 0 for a model that uses none.
    support_windows : int
        Number of support windows that an embedding is made from.
    members : tuple of Model
        Models of an ensemble; empty for a single model.
    networks : tuple of nn.Module
        Torch modules of the model; empty if it has none.
    """

    needed_columns: ClassVar[Mapping[str, str]]
    averages_chips: ClassVar[bool]
    searchable: ClassVar[bool]
    image_table: ClassVar[bool]
    uses_support: ClassVar[bool]
    bounds: ClassVar[str]
    stages: ClassVar[int]
    length_setting: ClassVar[str]

    @property
    def kind(self) -> str: ...  # noqa: D102

    @property
    def config(self) -> Config: ...  # noqa: D102

    @property
    def sizes(self) -> Sizes: ...  # noqa: D102

    @property
    def context(self) -> int: ...  # noqa: D102

    @property
    def n_targets(self) -> int: ...  # noqa: D102

    @property
    def emits(self) -> int: ...  # noqa: D102

    @property
    def supervised(self) -> int: ...  # noqa: D102

    @property
    def training_stride(self) -> int: ...  # noqa: D102

    @property
    def quantities(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def sliding_window(self) -> bool: ...  # noqa: D102

    @property
    def streams(self) -> bool: ...  # noqa: D102

    @property
    def training_length(self) -> int: ...  # noqa: D102

    @property
    def embedding_size(self) -> int: ...  # noqa: D102

    @property
    def support_windows(self) -> int: ...  # noqa: D102

    @property
    def members(self) -> tuple[Model, ...]: ...  # noqa: D102

    @property
    def networks(self) -> tuple[nn.Module, ...]: ...  # noqa: D102

    @classmethod
    def standardises(cls, config: Config) -> bool: ...  # noqa: D102

    def on_device(self, batch: Batch) -> Batch:
        """Return a batch where the model computes: tensors on its device for a network."""
        ...

    def predict(self, batch: Batch) -> np.ndarray:
        """Return (B, T, n_targets) float32 in scaled units; NaN in the time steps that are not emitted."""
        ...

    def predict_all(self, batch: Batch) -> np.ndarray:
        """Return `quantities` of each target, (B, T, quantities x targets) float32, scaled; all means come first."""
        ...

    def encode(self, support: np.ndarray) -> np.ndarray:
        """Return embeddings (n, embedding_size) float32 of the support windows (n, K, T, V) of n places."""
        ...

    def weights(self) -> dict[str, bytes]:
        """Return the weights as files: name and content."""
        ...

    def load_weights(self, files: Mapping[str, bytes]) -> None:
        """Load weights that `weights` returned (ValueError or KeyError if they do not fit)."""
        ...


class BaseModel:
    """Defaults of `Model`: a single model that estimates the mean of the last time step of a window.

    A subclass sets `kind`, `config` and `sizes`, and defines `context`, `predict`, `weights` and `load_weights`. The
    files of its weights are named model.json, model.safetensors or model.<n>.ubj, the names that a run may remove.

    A model of another package states `settings`, the class of its configuration, `resolutions`, the cubes that it works
    on, and, if it has any, `presets`: names of class methods of its settings, each with that of the matching training
    settings (`fluxcube.models.registry.Row`). The first preset is the default.
    """

    trainer: ClassVar[str] = ""
    settings: ClassVar[type[Config] | None] = None
    resolutions: ClassVar[tuple[str, ...]] = ("hourly", "daily")
    presets: ClassVar[Mapping[str, str]] = {}

    needed_columns: ClassVar[Mapping[str, str]] = {}
    averages_chips: ClassVar[bool] = False
    searchable: ClassVar[bool] = False
    image_table: ClassVar[bool] = False
    uses_support: ClassVar[bool] = False
    bounds: ClassVar[str] = "table"
    stages: ClassVar[int] = 1
    length_setting: ClassVar[str] = ""

    kind: str = ""
    config: Config
    sizes: Sizes

    @classmethod
    def standardises(cls, config: Config) -> bool:
        """Whether hourly inputs are standardised for a model with these settings; daily ones always are."""
        return False

    @property
    def context(self) -> int:
        """Number of time steps of a window."""
        return 1

    @property
    def n_targets(self) -> int:
        """Number of fluxes per time step."""
        return self.sizes.targets

    @property
    def emits(self) -> int:
        """Number of time steps, the last ones of a window, that `predict` fills."""
        return 1

    @property
    def supervised(self) -> int:
        """Number of time steps, the last ones of a window, that training learns from."""
        return self.emits

    @property
    def training_stride(self) -> int:
        """Time steps between training windows: half a window for a dense head, 1 for others."""
        return max(1, self.context // 2) if self.emits > 1 else 1

    @property
    def quantities(self) -> tuple[str, ...]:
        """What `predict_all` returns of each target."""
        return ("mean",)

    @property
    def sliding_window(self) -> bool:
        """Whether `predict` accepts more time steps than a window has."""
        return False

    @property
    def streams(self) -> bool:
        """Whether one pass estimates all time steps of a series."""
        return False

    @property
    def training_length(self) -> int:
        """Number of time steps of a training window."""
        return self.context

    @property
    def embedding_size(self) -> int:
        """Length of a place's embedding."""
        return 0

    @property
    def support_windows(self) -> int:
        """Number of support windows that an embedding is made from."""
        return 0

    @property
    def members(self) -> tuple[Model, ...]:
        """Models of an ensemble."""
        return ()

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """Torch modules of the model."""
        return ()

    def on_device(self, batch: Batch) -> Batch:
        """Return a batch where the model computes: unchanged for a model that is no network."""
        return batch

    def predict(self, batch: Batch) -> np.ndarray:
        """Return (B, T, n_targets) float32 in scaled units; NaN in the time steps that are not emitted."""
        raise NotImplementedError

    def predict_all(self, batch: Batch) -> np.ndarray:
        """Return `quantities` of each target: here the mean, as `predict` does."""
        return self.predict(batch)

    def encode(self, support: np.ndarray) -> np.ndarray:
        """Refuse: this model makes no embeddings (ConfigError)."""
        raise ConfigError(f"{self.kind} makes no embeddings; use a model that has support windows.")

    def weights(self) -> dict[str, bytes]:
        """Return the weights as files: name and content."""
        raise NotImplementedError

    def load_weights(self, files: Mapping[str, bytes]) -> None:
        """Load weights that `weights` returned (ValueError or KeyError if they do not fit)."""
        raise NotImplementedError
