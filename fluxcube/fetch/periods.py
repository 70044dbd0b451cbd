"""Years and boxes as users pass them: the same forms for every source."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import SupportsIndex, TypeAlias

from fluxcube.errors import ConfigError

Box: TypeAlias = tuple[float, float, float, float]
#: A year, several, or a text such as "2015-2018,2020".
Years: TypeAlias = int | str | Sequence[int] | None

#: A year, or the first and last of several.
PERIOD = re.compile(r"([0-9]{4})(?:\s*[-–/:]\s*([0-9]{4}))?")


def parse_years(years: Years, first: int = 1900, last: int = 2200) -> tuple[int, ...] | None:
    """Return years in ascending order, None if `years` is None.

    Parameters
    ----------
    years : int, str or sequence of int, optional
    first, last : int
        First and last year that there can be.

    Raises
    ------
    ConfigError
        If they are not years.

    Examples
    --------
    >>> parse_years("2015-2017, 2019"), parse_years(2018), parse_years(range(2015, 2017))
    ((2015, 2016, 2017, 2019), (2018,), (2015, 2016))
    """
    if years is None:
        return None
    found: set[int] = set()
    for part in _parts(years):
        start, stop = _period(part)
        if start < first or stop > last:
            wrong = start if start < first else stop
            raise ConfigError(f"years: expected years from {first} to {last}, found {wrong}: choose other years.")
        found.update(range(start, stop + 1))
    if not found:
        raise ConfigError("years: expected at least one year such as 2018 or 2015-2018, found none.")
    return tuple(sorted(found))


def _parts(years: object) -> list[object]:
    if isinstance(years, str):
        return [part.strip() for part in years.split(",")]
    if isinstance(years, SupportsIndex):
        return [years]
    if isinstance(years, Iterable):
        return list(years)
    return [years]


def _period(part: object) -> tuple[int, int]:
    """Return the first and last year of a part of a list."""
    match = PERIOD.fullmatch(str(part).strip())
    if match is None or isinstance(part, float):
        raise ConfigError(f"years: expected years such as 2018, 2015-2018 or 2015,2018; found {part!r}.")
    start, stop = int(match[1]), int(match[2] or match[1])
    if stop < start:
        raise ConfigError(f"years: expected the first year before the last one, found {part!r}.")
    return start, stop


def parse_box(bbox: Sequence[float]) -> Box:
    """Return a box (west, south, east, north), degrees, whose west is in [-180, 180) and whose east is not below it.

    East is above 180 if the box crosses the antimeridian; east - west is at most 360.

    Parameters
    ----------
    bbox : sequence of four numbers
        West > east crosses the antimeridian; longitudes can also be counted from 0 to 360.

    Raises
    ------
    ConfigError
        If it is no such box.

    Examples
    --------
    >>> parse_box((170, -20, -170, -10)), parse_box((350, -20, 10, -10)), parse_box((0, -90, 360, 90))
    ((170.0, -20.0, 190.0, -10.0), (-10.0, -20.0, 10.0, -10.0), (-180.0, -90.0, 180.0, 90.0))
    """
    try:
        west, south, east, north = (float(edge) for edge in bbox)
    except (TypeError, ValueError):
        west = south = east = north = float("nan")
    if not (-90 <= south <= north <= 90 and -360 <= west <= 360 and -360 <= east <= 540):
        raise ConfigError(
            f"bbox: expected (west, south, east, north) in degrees, with -90 <= south <= north <= 90, found {bbox!r}."
        )
    if east - west >= 360:
        return -180.0, south, 180.0, north
    width = (east - west) % 360
    west = (west + 180) % 360 - 180
    return west, south, west + width, north
