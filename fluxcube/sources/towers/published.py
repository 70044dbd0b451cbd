"""Undo the scaling of the published CarbonSense, and build its records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import numpy as np
import xarray as xr

from fluxcube import normalisation
from fluxcube import variables as table
from fluxcube.errors import SourceError
from fluxcube.sources.towers.codes import Codes, added, without_impossible_values, without_known_codes
from fluxcube.sources.towers.plausible import as_float32
from fluxcube.sources.towers.siteinfo import SiteInfo, class_of
from fluxcube.sources.towers.stamped import attrs_of

#: Limits (low, high) by which values were scaled.
BOUNDS: Mapping[str, Mapping[str, tuple[float, float]]] = {name: normalisation.PRESETS[name] for name in ("v1", "v2")}

#: Variables that show which limits were used: quantities that are never much below zero lie at the lower end of the
#: limits of v1 and in the middle of those of V2.
_INDICATORS = ("WS", "USTAR", "SW_IN")
_TOLERANCE = 1e-6  # values were written as text, or rounded to float32


def is_scaled(start: np.ndarray, columns: Mapping[str, np.ndarray], where: str) -> bool:
    """Return whether predictors are scaled: compare their day of year and time of day with the time stamps.

    Parameters
    ----------
    start : (time,) datetime64
        Local time at the start of each row.
    columns : mapping of str to (time,) float
        Contain DOY and TOD where the file has them, scaled or in days and hours.
    where : str
        The file, for messages.

    Raises
    ------
    SourceError
        If neither form agrees with the time stamps, or there is neither DOY nor TOD.

    Examples
    --------
    >>> hours = np.arange("2010-07-01", "2010-07-02", dtype="datetime64[h]")
    >>> is_scaled(hours, {"TOD": np.arange(24) / 12 - 1}, "a.csv"), is_scaled(hours, {"TOD": np.arange(24)}, "a.csv")
    (True, False)
    """
    day = start.astype("datetime64[D]")
    true = {
        "DOY": (day - day.astype("datetime64[Y]").astype("datetime64[D]")).astype(float),
        "TOD": (start - day).astype("timedelta64[m]").astype(float) / 60,
    }
    clocks = [name for name in true if name in columns and np.isfinite(columns[name]).any()]
    if not clocks:
        raise SourceError(
            f"{where}: neither DOY nor TOD has a value, and only they show whether values are scaled; get the file as "
            "published"
        )
    for scaled in (True, False):
        if all(_agrees(name, columns[name], true[name], scaled) for name in clocks):
            return scaled
    name = next(name for name in clocks if not _agrees(name, columns[name], true[name], False))
    row = int(np.argmax(~_near(columns[name], true[name])))
    raise SourceError(
        f"{where}: {name} {columns[name][row]:g} at {start[row]} is neither the time of the stamp "
        f"({true[name][row]:g}) nor that time scaled; its columns or time stamps are not as CarbonSense publishes "
        "them. Get the file as published"
    )


def _agrees(name: str, values: np.ndarray, true: np.ndarray, scaled: bool) -> bool:
    return bool(_near(unscaled(name, values, BOUNDS["v2"][name]) if scaled else values, true).all())


def _near(values: np.ndarray, true: np.ndarray) -> np.ndarray:
    # V1 rounded TOD down to the whole hour, so that it may be half an hour too early.
    return np.isnan(values) | ((values - true < 1e-3) & (values - true > -0.501))


def which_bounds(columns: Mapping[str, np.ndarray], default: str) -> str:
    """Return the version of the limits, "v1" or "v2", by which columns were scaled; `default` if they do not show it.

    Examples
    --------
    >>> which_bounds({"WS": np.array([0.01, 0.02])}, "v1"), which_bounds({"WS": np.array([-0.48, -0.47])}, "v2")
    ('v2', 'v1')
    """
    for name in _INDICATORS:
        values = columns.get(name)
        if values is not None and np.isfinite(values).any():
            return "v1" if np.nanmedian(values) < -0.25 else "v2"
    return default


def unscaled(name: str, values: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """Return physical values from scaled ones.

    Parameters
    ----------
    name : str
        Name in the variable table.
    values : array of float
        Scaled values: in [-1, 1) of a cyclic variable, in [-0.5, 0.5) of any other one.
    bounds : (float, float)
        Limits by which they were scaled.

    Examples
    --------
    >>> unscaled("PA", np.array([0.125]), (20, 150)), unscaled("WD", np.array([-0.5]), (0, 360))
    (array([101.25]), array([90.]))
    """
    low, high = bounds
    width = (high - low) / (2 if table.variable(name).cyclic else 1)
    return values * width + (low + high) / 2


def unscaled_columns(
    columns: Mapping[str, np.ndarray], bounds: Mapping[str, tuple[float, float]], where: str
) -> dict[str, np.ndarray]:
    """Undo the scaling of every column.

    Raises
    ------
    SourceError
        If a value lies outside the range of scaled values, or a column is not in `bounds`.
    """
    physical = {}
    for name, values in columns.items():
        if name not in bounds:
            raise SourceError(f"{where}, column of {name}: its limits are unknown, so its scaling cannot be undone")
        end = (1.0 if table.variable(name).cyclic else 0.5) + _TOLERANCE
        outside = np.abs(values) > end
        if outside.any():
            raise SourceError(
                f"{where}, column of {name}: {values[outside][0]:g} among scaled values, which lie within {end:g} of "
                "0; the file mixes scaled and physical values, get it as published"
            )
        physical[name] = unscaled(name, values, bounds[name])
    return physical


def record(
    time: np.ndarray, arrays: Mapping[str, tuple[np.ndarray, np.ndarray]], attrs: Mapping[str, object]
) -> xr.Dataset:
    """Return the record of one site at its own time step.

    Parameters
    ----------
    time : (time,) datetime64
        UTC start of the period.
    arrays : mapping of str to ((time,) float, (time,) int)
        Values and flags by name of the variable table.
    attrs : mapping
        Attributes as every reader returns them; lists and mappings become JSON.

    Returns
    -------
    xarray.Dataset
        As `fluxcube.sources.towers.readers.Reader.read` describes it.

    Raises
    ------
    SourceError
        If a value is too large to be a measurement.
    """
    data: dict[str, tuple] = {}
    codes: dict[str, Codes] = {}
    for name, (values, flags) in arrays.items():
        small = as_float32(values, f"{attrs['source_file']}, {name} of {attrs['site']}")
        small, known = without_known_codes(name, small)
        small, others = without_impossible_values(name, small)
        codes |= {name: added(known, others)} if known or others else {}
        present = np.isfinite(small)
        data[name] = ("time", small, attrs_of(name))
        data[f"{name}_QC"] = ("time", np.where(present, flags, -1).astype(np.int8), attrs_of(f"{name}_QC"))
    attrs = {**attrs, "missing_codes": codes}
    encoded = {key: json.dumps(value) if isinstance(value, list | dict) else value for key, value in attrs.items()}
    return xr.Dataset(data, coords={"time": ("time", time.astype("datetime64[ns]"))}, attrs=encoded)


def site_info(site: str, latitude: object, longitude: object, elevation: object, igbp: object, where: str) -> SiteInfo:
    """Return the metadata of a site, after checking its coordinates.

    Parameters
    ----------
    site : str
        ID of the site.
    latitude, longitude, elevation, igbp : object
        Values as the file has them: degrees north and east, metres, IGBP class.
    where : str
        The file, for messages.

    Raises
    ------
    SourceError
        If a value is not a number, or out of its range.
    """
    code, note = class_of(igbp, where) if isinstance(igbp, str) else ("", "")
    return SiteInfo(
        site=site,
        latitude=_number(latitude, 90.0, f"{where}, latitude of {site}"),
        longitude=_number(longitude, 180.0, f"{where}, longitude of {site}"),
        elevation=_number(elevation, 9000.0, f"{where}, elevation of {site}"),
        igbp=code,
        notes=(note,) if note else (),
    )


def _number(value: object, limit: float, where: str) -> float | None:
    if value is None or value == "" or (isinstance(value, float) and np.isnan(value)):
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and -limit <= value <= limit:
        return float(value)
    raise SourceError(
        f"{where}: expected a number from {-limit:g} to {limit:g}, found {str(value)[:60]!r}; get the file as published"
    )


def names_to_read(variables: str | Iterable[str] | None) -> tuple[str, ...]:
    """Return the names of the variables to read, each once, without computed ones, which are in no file.

    Raises
    ------
    UnknownNameError
        If a name is not in the table.
    """
    names = table.table() if variables is None else [variables] if isinstance(variables, str) else variables
    return tuple(dict.fromkeys(name for name in names if table.variable(name).aliases))


def stacked_chips(images: Iterable[tuple[np.datetime64, np.ndarray]], where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the published images of a site in the order and form of the cube's chips.

    Parameters
    ----------
    images : iterable of (datetime64, (9, row, column) float)
        Local time and image, -1 where missing. All of an image of 8 x 8 pixels is used; of a larger one (V1 has
        10 x 10), rows and columns 1 to 8, as the published models do.
    where : str
        File and site, for messages.

    Returns
    -------
    days : (D,) datetime64[D]
        Ascending.
    chips : (D, 9, 8, 8) float32
        Reflectances 0 to 1, snow and water 0 or 1; NaN where missing.

    Raises
    ------
    SourceError
        If an image has another shape or other values, or two images of a day differ.
    """
    by_day: dict[np.datetime64, np.ndarray] = {}
    for time, image in images:
        day = time.astype("datetime64[D]")
        chip = _frame(image, f"{where}, image of {day}")
        if not np.array_equal(by_day.setdefault(day, chip), chip, equal_nan=True):
            raise SourceError(f"{where}: two images of {day} that differ, expected one; get the file as published")
    days = np.array(sorted(by_day), "datetime64[D]")
    return days, np.array([by_day[day] for day in days], np.float32).reshape(-1, len(table.BANDS), 8, 8)


def _frame(image: np.ndarray, where: str) -> np.ndarray:
    good = isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[0] == len(table.BANDS)
    if not good or not all(8 <= side <= 12 for side in image.shape[1:]) or image.dtype.kind not in "fiu":
        what = f"{image.dtype} of {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise SourceError(f"{where}: expected numbers of (9, 8, 8) to (9, 12, 12), found {what}")
    rows, columns = (slice(0, 8) if side == 8 else slice(1, 9) for side in image.shape[1:])
    image = image[:, rows, columns].astype(np.float32)
    if image.shape[1:] != (8, 8):
        raise SourceError(f"{where}: fewer than 8 x 8 pixels in the middle of the image; get the file as published")
    image[image == -1] = np.nan
    present = image[np.isfinite(image)]
    if np.isinf(image).any() or ((present < 0) | (present > 1)).any():
        raise SourceError(
            f"{where}: expected reflectances, snow and water from 0 to 1 (-1 where missing), found other values; get "
            "the file as published"
        )
    return image
