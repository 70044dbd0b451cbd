"""Resolution of a cube, hourly or daily: everything that differs between the two, and the rule of quality of each.

Hourly values have quality flags (0 measured, 1 to 3 filled), of which a maximum is accepted: ``max_qc=``. Daily values
have a quality, the share of the day that is measured or good fill, of which a minimum is accepted: ``min_quality=``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypedDict

import numpy as np

from fluxcube.errors import ConfigError, unknown
from fluxcube.timestamps import DAY, HOUR
from fluxcube.variables import BANDS

if TYPE_CHECKING:
    import xarray as xr

#: Default of `max_qc` and `min_quality`: the limit of the resolution at hand. None cannot be it, as it accepts all.
Default = Literal["default"]
DEFAULT: Final = "default"

#: Accepted difference of shares of a day that are stored as float32.
ROUNDING = 1e-4
#: Local mean solar time is later by this much for each degree east.
_SECONDS_PER_DEGREE = 240


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """One of the two resolutions that a cube can have, `HOURLY` or `DAILY`.

    Attributes
    ----------
    name : {"hourly", "daily"}
        Value of the attribute ``resolution`` of cubes, and of ``resolution=`` of the public functions.
    noun : str
        Word for one time step in messages.
    unit : str
        NumPy unit of a time step.
    step : timedelta64
        Length of a time step.
    steps_per_day : int
        Number of time steps of a day.
    clock : str
        Kind of times on the time axis, for messages.
    local : bool
        Whether times are local dates; if not, they are UTC.
    time_name : str
        CF ``long_name`` of the time axis of a cube.
    map_time_name : str
        The same, of flux maps.
    satellite : str
        Array of satellite data.
    satellite_words : str
        What that array contains, for messages.
    satellite_title : str
        CF ``long_name`` of that array.
    satellite_chunk : int
        Number of its days per chunk.
    bands : tuple of str
        Bands of that array.
    surface_dim : str
        Dimension of the days of the array ``surface``; in hourly data the dimension ``day`` is that of the chips.
    quality : str
        Ending of the name of the arrays of quality.
    quality_noun : str
        Word for the quality of one value, in the plural.
    quality_words : str
        What such an array contains, for messages.
    option : str
        Name of the argument that limits quality.
    measured : float
        Quality of a measured value.
    training_limit : float
        Limit of the fluxes used for training, by default.
    accepted : tuple of float
        Lowest and highest limit of quality.
    accepted_words : str
        These limits, for messages.
    store : str
        File name of the cube in the default folder.
    loss_weights : tuple of str
        Weights of the training fluxes, by default (`fluxcube.training.weights`).
    balance : float
        Weight of the carbon balance in the loss, by default, of models that estimate NEE, GPP and RECO.
    partial_windows : bool
        Whether training windows may begin before the first time step of a tower.
    scaled_inputs : bool
        Whether the model inputs are scaled by the mean and standard deviation of the training towers.
    gross_fluxes_positive : bool
        Whether estimates of GPP and RECO below 0 become 0. Measured hourly values are negative, too; daily ones are
        seldom, and by little.
    """

    name: str
    noun: str
    unit: Literal["h", "D"]
    step: np.timedelta64
    steps_per_day: int
    clock: str
    local: bool
    time_name: str
    map_time_name: str
    satellite: str
    satellite_words: str
    satellite_title: str
    satellite_chunk: int
    bands: tuple[str, ...]
    surface_dim: str
    quality: str
    quality_noun: str
    quality_words: str
    option: Literal["max_qc", "min_quality"]
    measured: float
    training_limit: float
    accepted: tuple[float, float]
    accepted_words: str
    store: str
    loss_weights: tuple[str, ...]
    balance: float
    partial_windows: bool
    scaled_inputs: bool
    gross_fluxes_positive: bool

    def __str__(self) -> str:
        return self.name

    @property
    def steps(self) -> str:
        """Plural of `noun`."""
        return f"{self.noun}s"

    def solar_shift(self, longitude: np.ndarray | float) -> np.ndarray:
        """Return by how much local mean solar time is ahead of the time axis: 0 where it has local dates.

        Parameters
        ----------
        longitude : array or float
            Degrees east.

        Returns
        -------
        array of timedelta64[s], of the shape of `longitude`

        Examples
        --------
        >>> HOURLY.solar_shift(15.0), DAILY.solar_shift(15.0)
        (np.timedelta64(3600,'s'), np.timedelta64(0,'s'))
        """
        seconds = np.round(np.asarray(longitude, float) * _SECONDS_PER_DEGREE) * (not self.local)
        return seconds.astype("timedelta64[s]")

    @property
    def zone(self) -> str:
        """Ending of a time in messages: " UTC", or nothing after a local date."""
        return "" if self.local else " UTC"

    @property
    def attrs(self) -> dict[str, str]:
        """Attributes that mark data of this resolution; hourly data, the rule, have none."""
        return {} if self is HOURLY else {"resolution": self.name}

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller number is a better quality, as of flags."""
        return self.option == "max_qc"

    def limit(self, value: float | None) -> QualityLimit:
        """Return the limit of quality of this resolution; None accepts every value.

        Raises
        ------
        ConfigError
            If `value` is no flag from 0 to 3, or no share from 0 to 1.
        """
        if value is not None:
            self.check_limit(value)
        return QualityLimit(self, value)

    def check_limit(self, value: object) -> None:
        """Refuse a limit of quality that is no possible quality (ConfigError)."""
        low, high = self.accepted
        number = float(value) if isinstance(value, int | float | np.integer | np.floating) else np.nan
        fits = low <= number <= high and not (self.lower_is_better and not number.is_integer())
        if isinstance(value, bool) or not fits:
            raise ConfigError(
                f"{self.option}={value!r}: expected {self.accepted_words}, or None to accept every value."
            )


HOURLY = Resolution(
    name="hourly",
    noun="hour",
    unit="h",
    step=HOUR,
    steps_per_day=24,
    clock="UTC, one step an hour",
    local=False,
    time_name="start of the hour, UTC",
    map_time_name="start of the hour, UTC",
    satellite="modis",
    satellite_words="chips",
    satellite_title="reflectance (MCD43A4 bands 1-7), snow and water (MCD43A2)",
    satellite_chunk=32,
    bands=BANDS,
    surface_dim="surface_day",
    quality="_qc",
    quality_noun="flags",
    quality_words="quality flags",
    option="max_qc",
    measured=0,
    training_limit=1,
    accepted=(0, 3),
    accepted_words="a whole number from 0 (measured) to 3",
    store="carbonsense.zarr",
    loss_weights=(),
    balance=0.0,
    partial_windows=True,
    scaled_inputs=False,
    gross_fluxes_positive=False,
)

DAILY = Resolution(
    name="daily",
    noun="day",
    unit="D",
    step=DAY,
    steps_per_day=1,
    clock="local dates, one step a day",
    local=True,
    time_name="date, local standard time",
    map_time_name="date, local mean solar time",
    satellite="surface",
    satellite_words="surface reflectance",
    satellite_title="reflectance under a clear sky, mean of 2 km x 2 km (MOD09GA bands 1-7)",
    satellite_chunk=1370,
    bands=BANDS[:7],
    surface_dim="day",
    quality="_quality",
    quality_noun="shares",
    quality_words="the measured or well filled share of each day",
    option="min_quality",
    measured=1.0,
    training_limit=0.5,
    accepted=(0, 1),
    accepted_words="a share of the day from 0 to 1 (best)",
    store="carbonsense_daily.zarr",
    loss_weights=("quality", "igbp", "koppen"),
    balance=0.1,
    partial_windows=False,
    scaled_inputs=True,
    gross_fluxes_positive=True,
)

#: Both resolutions, by name.
ALL: Mapping[str, Resolution] = {row.name: row for row in (HOURLY, DAILY)}


def find_resolution(name: str) -> Resolution:
    """Return a resolution by its name.

    Raises
    ------
    UnknownNameError
        If it is neither "hourly" nor "daily".

    Examples
    --------
    >>> find_resolution("daily").satellite
    'surface'
    """
    if name not in ALL:
        raise unknown("resolution", name, ALL)
    return ALL[name]


def resolution_of(ds: xr.Dataset | xr.DataArray) -> Resolution:
    """Return the resolution of a cube, a forcing cube or maps; one without the attribute ``resolution`` is hourly."""
    return find_resolution(str(ds.attrs.get("resolution", HOURLY.name)))


def check_resolution(ds: xr.Dataset, resolution: str, who: str) -> None:
    """Refuse an hourly cube where a daily one is needed, and a daily one where an hourly one is.

    Parameters
    ----------
    ds : xr.Dataset
        A cube or a forcing cube.
    resolution : {"hourly", "daily"}
        Expected resolution.
    who : str
        What needs it, for the message.

    Raises
    ------
    ConfigError
        If `ds` has the other resolution.
    """
    needed, found = find_resolution(resolution), resolution_of(ds)
    if found is needed:
        return
    what = f"build one with resolution={resolution!r}"
    if "site" not in ds.dims:
        what = {
            HOURLY: "pass the hourly forcing cube",
            DAILY: "turn it into a daily one with fluxcube.daily_forcing",
        }[needed]
    raise ConfigError(f"{who} works on {needed.steps}, and this cube contains {found.steps}: {what}.")


class LimitArgument(TypedDict, total=False):
    """The one argument of the two that sets a limit of quality."""

    max_qc: int | None
    min_quality: float | None


@dataclass(frozen=True)
class QualityLimit:
    """The quality that a value must have to be used; see `Resolution.limit` and `quality_limit`.

    Attributes
    ----------
    resolution : Resolution
        Its kind of quality.
    value : float or None
        Maximum flag of hourly values, minimum share of daily ones; None accepts every value.

    Examples
    --------
    >>> str(HOURLY.limit(1)), str(DAILY.limit(0.5)), DAILY.limit(0.5).to_dict()
    ('flag <= 1', 'quality >= 0.5', {'min_quality': 0.5})
    """

    resolution: Resolution
    value: float | None

    def __str__(self) -> str:
        if self.value is None:
            return "every value"
        return f"flag <= {self.value}" if self.resolution.lower_is_better else f"quality >= {self.value:g}"

    def to_dict(self) -> LimitArgument:
        """Return the limit as runs record it and functions take it: the name of the argument and its value."""
        if self.resolution.lower_is_better:
            return {"max_qc": self.predictor_flag}
        return {"min_quality": self.value}

    @property
    def predictor_flag(self) -> int | None:
        """Maximum flag of the predictors; None where there is no limit, as of daily ones."""
        return None if self.value is None or not self.resolution.lower_is_better else int(self.value)

    def accepts(self, quality: np.ndarray, best: int | np.ndarray = 0) -> np.ndarray:
        """Return which values have the quality, of the same shape as `quality`; an unknown quality never suffices.

        Parameters
        ----------
        quality : array
            Flags (-1 is no value), or shares of a day (NaN is unknown).
        best : int or array
            Best flag that the publication of the values can have (`fluxcube.samples.quality.best_flags`): it counts as
            measured there, so that a smaller limit is raised to it.
        """
        if self.value is None:
            return np.ones(np.shape(quality), bool)
        if self.resolution.lower_is_better:
            return (quality >= 0) & (quality <= np.maximum(self.value, best))
        return quality >= self.value - ROUNDING

    def check(self, quality: np.ndarray, where: str) -> None:
        """Refuse flags from 0 to 3 in place of shares of a day: they count the other way.

        Raises
        ------
        ConfigError
            If a share is above 1.
        """
        if not self.resolution.lower_is_better and (quality > 1 + ROUNDING).any():
            raise ConfigError(
                f"{where}: expected the quality of a day, its measured or well filled share from 0 to 1, found "
                f"{np.nanmax(quality):g}; flags from 0 to 3 count the other way: turn them into shares."
            )


def quality_limit(
    resolution: Resolution,
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
    *,
    default: float | None,
) -> QualityLimit:
    """Return the limit of quality that `max_qc` or `min_quality` set: the one rule for every function and command.

    Parameters
    ----------
    resolution : Resolution
        Of the data.
    max_qc : int, None or "default"
        Maximum flag of hourly values; None accepts every value.
    min_quality : float, None or "default"
        Minimum share of a day that is measured or good fill, of daily values; None accepts every value.
    default : float or None
        Limit where neither is passed: `Resolution.training_limit`, `Resolution.measured`, or None.

    Raises
    ------
    ConfigError
        If the argument of the other resolution is passed, or a limit is no possible quality.

    Examples
    --------
    >>> str(quality_limit(DAILY, min_quality=0.75, default=DAILY.measured))
    'quality >= 0.75'
    """
    passed = {"max_qc": max_qc, "min_quality": min_quality}
    refuse_other_option(resolution, {name: value for name, value in passed.items() if value != DEFAULT})
    value = passed[resolution.option]
    return resolution.limit(default if value == DEFAULT else value)


def refuse_other_option(resolution: Resolution, passed: Mapping[str, object]) -> None:
    """Refuse the argument that limits the quality of the other resolution.

    Raises
    ------
    ConfigError
        With what to pass instead.
    """
    for other in ALL.values():
        if other is not resolution and other.option in passed:
            raise ConfigError(
                f"{other.option}={passed[other.option]!r} limits {other.name} data, and these data are "
                f"{resolution.name}: expected {resolution.option}=, {resolution.accepted_words}, because "
                f"{resolution.name} data have {resolution.quality_words}; pass {resolution.option}= or leave it out."
            )
