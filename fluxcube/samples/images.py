"""Images of places: chips, and images of other kinds that a user added; each is a token per band at its local noon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fluxcube.errors import ConfigError, unknown
from fluxcube.schema import IMAGES, image_dims
from fluxcube.timestamps import solar_noon
from fluxcube.variables import BANDS

#: Hour of an entry without an image; larger than any time step.
NO_CHIP = 2**38

_REFLECTANCES = BANDS[:7]
_DAY_HOURS = 24


@dataclass(frozen=True, kw_only=True)
class ImageKind:
    """A kind of images beside the chips, such as those of another sensor, or embeddings of images.

    Attributes
    ----------
    name : str
        Such as "sentinel2"; a cube has these images in the array ``images_sentinel2``.
    bands : tuple of str
        Bands that a model uses, in order.
    pixels : int
        p, number of pixels of a band.
    bounds : (float, float)
        Limits of the values, which scale them to 0..1; values beyond are missing.
    hold_days : int
        Number of days after which an image is no longer used, even without a newer one.

    Examples
    --------
    >>> kind = ImageKind(name="sentinel2", bands=("B4", "B8"), pixels=64)
    >>> kind.array, ImageKind.from_dict(kind.to_dict()) == kind
    ('images_sentinel2', True)
    """

    name: str
    bands: tuple[str, ...]
    pixels: int
    bounds: tuple[float, float] = (0.0, 1.0)
    hold_days: int = 32

    def __post_init__(self) -> None:
        if not self.bands or len(set(self.bands)) != len(self.bands):
            raise ConfigError(f"images {self.name}: expected each band once, and at least one, found {self.bands}.")
        if self.pixels < 1 or self.hold_days < 1:
            raise ConfigError(
                f"images {self.name}: expected at least 1 pixel and 1 day, found {self.pixels} and {self.hold_days}."
            )
        if not self.bounds[0] < self.bounds[1]:
            raise ConfigError(f"images {self.name}: expected bounds (low, high), found {self.bounds}.")

    @property
    def array(self) -> str:
        """Name of the array of a cube or forcing."""
        return f"{IMAGES}{self.name}"

    @property
    def dims(self) -> tuple[str, str, str, str]:
        """Dimensions of the array after those of places: days, bands, y and x."""
        return image_dims(self.name)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-compatible values; `from_dict` is the inverse."""
        return {
            "name": self.name,
            "bands": list(self.bands),
            "pixels": self.pixels,
            "bounds": list(self.bounds),
            "hold_days": self.hold_days,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ImageKind:
        """Return a kind from the values that `to_dict` returned (UnknownNameError for another key)."""
        for key in values:
            if key not in cls.__dataclass_fields__:
                raise unknown("setting of images", key, cls.__dataclass_fields__)
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**settings)


class Images(NamedTuple):
    """Images of one kind, of several places.

    Attributes
    ----------
    pixels : (n, d, b, p) float32
        Bands of each place on d days, those that are present first and by time. In a `Series`: (M, b, p).
    hour : (n, d) int64
        Hour that holds local solar noon of the image's day, as `Block.chip_hour`. In a `Series`: keys (M,).
    """

    pixels: np.ndarray
    hour: np.ndarray


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """Images of places, as a cube or forcing has them.

    Attributes
    ----------
    values : (n, d, b, y, x) float
        Physical values; NaN is missing.
    days : (d,) datetime64
        Local dates from whose solar noon on the images are known, ascending.
    bands : tuple of str
        Names of the b bands.
    """

    values: np.ndarray
    days: np.ndarray
    bands: tuple[str, ...]


def image_kinds(ds) -> dict[str, ImageKind]:
    """Return the kinds of images of a cube or forcing by name; empty if it has none.

    Parameters
    ----------
    ds : xr.Dataset
        Cube or forcing, to which `fluxcube.add_images` added images.
    """
    kinds = {}
    for array in ds.data_vars:
        if not str(array).startswith(IMAGES):
            continue
        name = str(array).removeprefix(IMAGES)
        _, band, y, x = image_dims(name)
        attrs = ds[array].attrs
        low, high = (float(value) for value in attrs.get("value_bounds", (0.0, 1.0)))
        kinds[name] = ImageKind(
            name=name,
            bands=tuple(map(str, ds[band].values)),
            pixels=ds.sizes[y] * ds.sizes[x],
            bounds=(low, high),
            hold_days=int(attrs.get("hold_days", 32)),
        )
    return kinds


def image_tokens(
    record: ImageRecord | None, kind: ImageKind, longitude: np.ndarray, first_hour: int, *, fill: bool = True
) -> Images:
    """Return the images of places in the order of time, scaled by the bounds of their kind.

    Missing pixels take the mean of their band's valid ones if `fill`; an image with more than half of its pixels
    missing is left out. Where the latest image is `ImageKind.hold_days` old, an empty one follows it.

    Parameters
    ----------
    record : ImageRecord or None
        None for places without images.
    kind : ImageKind
        Bands and number of pixels.
    longitude : (n,) float
        Degrees.
    first_hour : int
        Hours from 1970-01-01T00 UTC to the block's first.
    fill : bool
        Whether missing pixels are filled.

    Raises
    ------
    ConfigError
        If the images have another number of pixels than those of the kind.
    """
    n, b = len(longitude), len(kind.bands)
    if record is None or not len(record.days):
        return Images(np.empty((n, 0, b, kind.pixels), np.float32), np.empty((n, 0), np.int64))
    found = int(np.prod(record.values.shape[3:], dtype=np.int64))
    if found != kind.pixels:
        raise ConfigError(
            f"{kind.array}: the model was trained on images of {kind.pixels} pixels, found {found} "
            f"{record.values.shape[3:]}: add images of the same size and pixel width."
        )
    values = np.full((n, len(record.days), b, kind.pixels), np.nan, np.float32)
    for i, name in enumerate(kind.bands):
        if name in record.bands:
            values[:, :, i] = record.values[:, :, record.bands.index(name)].reshape(n, len(record.days), -1)
    low, high = kind.bounds
    raw = np.where((values >= low) & (values <= high), (values - low) / (high - low), np.nan).astype(np.float32)
    # A band that the record lacks is no reason to leave out the others.
    known = [i for i, name in enumerate(kind.bands) if name in record.bands]
    images = complete_images(raw, known if kind.pixels > 1 else None, record.days, longitude, first_hour, fill=fill)
    return Images(*expire(*images, _DAY_HOURS * kind.hold_days))


def complete_images(
    raw: np.ndarray,
    reflectances: list[int] | None,
    days: np.ndarray,
    longitude: np.ndarray,
    first_hour: int,
    *,
    fill: bool = True,
) -> Images:
    """Return images whose gaps are filled, in the order of their time, with the hours (n, d) of their local solar noon.

    Only the images with a missing pixel are looked at twice, and nothing is copied if there is none.

    Parameters
    ----------
    raw : (n, d, b, p) float32
        NaN is missing; an image that is all NaN is not present.
    reflectances : list of int or None
        Positions of the bands of which an image needs half of the pixels. None fills no pixel and leaves no image out.
    days : (d,) datetime64
        Local dates, ascending.
    longitude : (n,) float
        Degrees.
    first_hour : int
        Hours from 1970-01-01T00 UTC to hour 0.
    fill : bool
        Whether missing pixels take the mean of their band's valid ones.

    Returns
    -------
    Images
        Those that are present first; the hour of others is `NO_CHIP`.
    """
    noon = solar_noon(np.asarray(days), np.asarray(longitude, float)).astype("datetime64[h]").astype(np.int64)
    hour = noon - first_hour
    place, day = np.nonzero(np.isnan(raw.sum(-1)).any(-1))  # NaN, like no other value, remains in any sum
    if not len(place):
        return Images(raw, hour)
    some = raw[place, day]
    gaps = np.isnan(some)
    absent = gaps.all((-1, -2))
    hour[place[absent], day[absent]] = NO_CHIP
    place, day, some, gaps = place[~absent], day[~absent], some[~absent], gaps[~absent]
    if reflectances is not None:
        some = _filled(some, reflectances)
        if not fill:
            some[gaps] = np.nan
        absent = ~np.isfinite(some).any((-1, -2))
        hour[place[absent], day[absent]] = NO_CHIP
    order = np.argsort(hour, axis=1, kind="stable")
    position = np.argsort(order, axis=1, kind="stable")[place, day]
    # What is absent in all places follows at the end and is left out.
    order = order[:, : int((hour < NO_CHIP).sum(1).max(initial=0))]
    pixels = raw[np.arange(len(raw))[:, None], order]
    kept = position < order.shape[1]
    pixels[place[kept], position[kept]] = some[kept]
    return Images(pixels, np.take_along_axis(hour, order, 1))


def expire(pixels: np.ndarray, hour: np.ndarray, age: int, *, until: int = NO_CHIP) -> tuple[np.ndarray, np.ndarray]:
    """Insert an empty image where another is `age` time steps old and there is no newer one.

    Parameters
    ----------
    pixels : (n, d, b, p) float32
        Images, in the order of their time.
    hour : (n, d) int64
        Time step of each image, as in `Block.chip_hour`.
    age : int
        Maximum age of an image.
    until : int
        Time step from which on nothing is inserted, since no image is used any more.

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
    ends[ends >= until] = NO_CHIP
    if (ends == NO_CHIP).all():
        return pixels, hour
    hours = np.concatenate([hour, ends], 1)
    order = np.argsort(hours, axis=1, kind="stable")[:, : int((hours < NO_CHIP).sum(1).max(initial=0))]
    images = pixels[np.arange(len(pixels))[:, None], np.minimum(order, hour.shape[1] - 1)]
    images[order >= hour.shape[1]] = np.nan
    return images, np.take_along_axis(hours, order, 1)


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
    return _filled(pixels, reflectance_bands(bands))


def reflectance_bands(bands: Sequence[str]) -> list[int]:
    """Return the positions of the bands that are reflectances."""
    return [i for i, name in enumerate(bands) if name in _REFLECTANCES]


def _filled(pixels: np.ndarray, reflectances: list[int]) -> np.ndarray:
    """Fill missing pixels; drop images with more than half of the pixels of the bands `reflectances` missing."""
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
    if reflectances:
        partly = gaps.any(-1)
        gone = np.zeros(partly.shape, bool)
        gone[partly] = missing[partly][..., reflectances, :].mean((-1, -2)) > 0.5
        filled[gone] = np.nan
    return filled
