"""One reader for each dialect of tower data: a row of `READERS`, which a row of ``data/networks.yml`` names."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import xarray as xr

from fluxcube.errors import SourceError
from fluxcube.sources.towers.badm import SiteInfo
from fluxcube.sources.towers.networks import Archive, networks
from fluxcube.sources.towers.stamped import Dialect, Peek, find_source, peek_stamped, read_stamped

#: Days (D,) datetime64[D] and chips (D, 9, 8, 8) float32, NaN where missing.
Chips = tuple[np.ndarray, np.ndarray]


def _nothing(*_: object, **__: object) -> None:
    """Stand for what files of a dialect never tell."""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """What can be asked of an archive of one dialect.

    Attributes
    ----------
    hours : callable
        ``hours(archive, *, utc_offset, variables=None)``: the native record, see `read_archive`.
    days : callable
        ``days(archive, *, variables=None)``: the daily record, see `read_days`; None where it has no daily table.
    peek : callable
        ``peek(archive)``: what a look at its table tells, a `fluxcube.sources.towers.stamped.Peek`, or None.
    place : callable
        ``place(archive)``: the SiteInfo that the archive itself tells, or None.
    chips : callable
        ``chips(archive)``: the days (D,) and chips (D, 9, 8, 8) that the archive itself holds, or None.
    """

    hours: Callable[..., xr.Dataset]
    days: Callable[..., xr.Dataset | None] = _nothing
    peek: Callable[[Archive], Peek | None] = _nothing
    place: Callable[[Archive], SiteInfo | None] = _nothing
    chips: Callable[[Archive], Chips | None] = _nothing


def read_archive(
    archive: Archive, *, utc_offset: float | Sequence[tuple[object, float]], variables: Iterable[str] | None = None
) -> xr.Dataset:
    """Read one archive at its own time step, whatever its network's dialect.

    Parameters
    ----------
    archive : Archive
        From `discover`.
    utc_offset : float or sequence of (start, float)
        Hours east of UTC of the site's standard time, or dated entries, as `fluxcube.sources.towers.badm.clock_of`
        returns them.
    variables : iterable of str, optional
        Names of the variable table; default all that the archive has.

    Returns
    -------
    xarray.Dataset
        As `fluxcube.sources.towers.oneflux.read_oneflux` describes it: ``time`` in UTC, values in the table's units,
        flags 0 (measured) to 3 (poor fill), whatever scale the network has.

    Raises
    ------
    SourceError
        If the archive is of a product that is not read, or is not what it should be.
    """
    return reader_of(archive).hours(archive, utc_offset=utc_offset, variables=variables)


def read_days(archive: Archive, *, variables: Iterable[str] | None = None) -> xr.Dataset | None:
    """Read one archive's daily table; None where it has none, and days are to be made from its hours.

    Parameters
    ----------
    archive : Archive
        From ``discover(..., resolution="daily")``.
    variables : iterable of str, optional
        Names of the variable table; default all that the archive has.

    Returns
    -------
    xarray.Dataset or None
        Dimension ``time``: local dates, datetime64[ns]. One float32 variable (time,) per name, in the units of the
        daily table, and ``<NAME>_QUALITY`` float32 (time,): the share of the day that is measured or well filled.

    Raises
    ------
    SourceError
        If the archive is of a product that is not read, or is not what it should be.
    """
    return reader_of(archive).days(archive, variables=variables)


def place_of(archive: Archive) -> SiteInfo | None:
    """Return what an archive itself tells of its site; None where only site metadata (BADM) can tell."""
    return reader_of(archive).place(archive)


def chips_of(archive: Archive) -> Chips | None:
    """Return the days (D,) datetime64[D] and chips (D, 9, 8, 8) float32 that an archive itself holds, or None."""
    return reader_of(archive).chips(archive)


def reader_of(archive: Archive) -> Reader:
    """Return the reader of an archive's dialect.

    Raises
    ------
    SourceError
        If no reader reads this product.
    """
    network = networks().get(archive.network)
    if network is None or network.reader is None:
        why = network.why if network else f"network {archive.network!r} is not in networks.yml; use discover"
        raise SourceError(f"{archive.location}: {why}")
    return READERS[network.reader]


def _later(module: str, function: str) -> Callable[..., object]:
    """Return a function of a module of `fluxcube.sources` that is imported when it is first called."""

    def call(*args: object, **kwargs: object) -> object:
        return getattr(importlib.import_module(f"fluxcube.sources.towers.{module}"), function)(*args, **kwargs)

    call.__name__ = function
    return call


def _stamped(module: str, **others: Callable[..., object]) -> Reader:
    """Return the reader of half-hours and hours of a dialect, the `DIALECT` of a module; `others` come first."""

    def dialect() -> Dialect:
        return importlib.import_module(f"fluxcube.sources.towers.{module}").DIALECT

    def hours(archive: Archive, **options: object) -> xr.Dataset:
        return read_stamped(find_source(archive), dialect(), **options)

    def peek(archive: Archive) -> Peek:
        return peek_stamped(find_source(archive), dialect())

    return Reader(**{"hours": hours, "peek": peek} | others)


def _oneflux_days(archive: Archive, *, variables: Iterable[str] | None = None) -> xr.Dataset | None:
    if archive.resolution != "DD":
        return None
    from fluxcube.sources.towers.oneflux_daily import read_oneflux_days

    return read_oneflux_days(archive, variables=variables)


#: Every dialect, by the name that `data/networks.yml` has for it.
READERS: Mapping[str, Reader] = MappingProxyType(
    {
        "oneflux": _stamped("oneflux", hours=_later("oneflux", "read_oneflux"), days=_oneflux_days),
        "japanflux": _stamped("japanflux", place=_later("japanflux", "read_place")),
        "fluxnet_ch4": _stamped("fluxnet_ch4"),
        "carbonsense_v1": Reader(
            hours=_later("carbonsense_v1", "read_hours"),
            place=_later("carbonsense_v1", "read_place"),
            chips=_later("carbonsense_v1", "read_chips"),
        ),
        "carbonsense_v2": Reader(
            hours=_later("carbonsense_v2", "read_hours"),
            place=_later("carbonsense_v2", "read_place"),
            chips=_later("carbonsense_v2", "read_chips"),
        ),
    }
)
