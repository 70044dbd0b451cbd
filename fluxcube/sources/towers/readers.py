"""Readers of tower archives: one for each dialect, and the functions that read an archive with the right one.

A network's entry (`fluxcube.sources.towers.networks.Network`) names its reader, or contains it. To add a network, write
a class that derives from `Reader`. An installed package offers the network by an entry point of the group
``fluxcube.networks``; in one process, an instance of the reader and the network are registered::

    class ToyReader(Reader):
        def read(self, archive, *, utc_offset, variables=None):
            ...  # an xarray.Dataset

    register_reader("toy", ToyReader())
    register_network(Network(name="Toy network", names=("TOY_<site>_<years>",), resolution="HH", reader="toy"))
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Protocol, cast

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, SourceError
from fluxcube.sources.towers import carbonsense_v1, carbonsense_v2, fluxnet_ch4, japanflux, oneflux, oneflux_daily
from fluxcube.sources.towers.badm import SiteInfo
from fluxcube.sources.towers.networks import DAILY_TABLE, Archive, Network, networks
from fluxcube.sources.towers.stamped import (
    Dialect,
    TableSummary,
    find_source,
    read_stamped,
    summarise_stamped,
)
from fluxcube.timestamps import Offset

#: Days (D,) datetime64[D] and chips (D, 9, 8, 8) float32, NaN where missing.
Chips = tuple[np.ndarray, np.ndarray]


class Reader(Protocol):
    """Reads the archives of one dialect.

    `read` is required; a class that derives from this one inherits the other methods, which report that the dialect has
    nothing of that kind.
    """

    def read(self, archive: Archive, *, utc_offset: Offset, variables: Iterable[str] | None = None) -> xr.Dataset:
        """Read the half-hourly or hourly record of one site at its own time step.

        Parameters
        ----------
        archive : Archive
            From `fluxcube.sources.towers.discovery.discover`.
        utc_offset : float or sequence of (start, float)
            Hours east of UTC of the site's standard time, or dated entries (`fluxcube.sources.towers.badm.clock_of`).
            `fluxcube.sources.towers.stamped.to_utc` applies both.
        variables : iterable of str, optional
            Names of the variable table to read; default all that the archive has.

        Returns
        -------
        xarray.Dataset
            Dimension ``time``: start of the period in UTC, datetime64[ns], strictly increasing. For each variable
            ``<NAME>`` float32 (time,) in the units of the variable table, NaN where missing, and ``<NAME>_QC`` int8
            (time,): 0 measured, 1 to 3 good to poor fill, -1 where there is no value. Attributes: ``step_minutes``
            (30 or 60), ``source_file``, ``site``, ``network``, ``columns`` (JSON, name to column), ``flags_assumed``
            (JSON, name to number of values without a flag) and ``clock_repeats`` (number of rows left out because
            their UTC time is already there).

        Raises
        ------
        SourceError
            If the file is not of the dialect, or its content is not what it should be.
        """
        ...

    def read_daily(self, archive: Archive, *, variables: Iterable[str] | None = None) -> xr.Dataset | None:
        """Read the daily table of one site, as `read_daily_archive` describes it; None if the archive has none."""
        return None

    def summarise(self, archive: Archive) -> TableSummary | None:
        """Return a summary of the table from a sample of it, for `inspect`; None if there is none."""
        return None

    def place(self, archive: Archive) -> SiteInfo | None:
        """Return the site information that the archive itself contains; None if it contains none."""
        return None

    def chips(self, archive: Archive) -> Chips | None:
        """Return days (D,) datetime64[D] and satellite chips (D, 9, 8, 8) of the archive; None if it has none."""
        return None

    def list_sites(self, path: str | os.PathLike[str]) -> Sequence[str]:
        """Return the sites of a file that contains many sites (`Network.files`).

        Raises
        ------
        SourceError
            If the file is broken, or files of the dialect contain one site each.
        """
        raise SourceError(f"{path}: expected a file of many sites, found a dialect of one file per site")


def register_reader(name: str, reader: Reader) -> None:
    """Add a reader from outside the package for the rest of the process.

    Parameters
    ----------
    name : str
        Name by which a network refers to it (`Network.reader`).
    reader : Reader
        An object with the methods of `Reader`.

    Raises
    ------
    ConfigError
        If a reader of that name exists.
    """
    if name in _READERS:
        raise ConfigError(f"reader {name!r} exists already; choose another name")
    _READERS[name] = reader


def read_archive(archive: Archive, *, utc_offset: Offset, variables: Iterable[str] | None = None) -> xr.Dataset:
    """Read one archive of any network at its own time step.

    Parameters
    ----------
    archive : Archive
        From `fluxcube.sources.towers.discovery.discover`.
    utc_offset : float or sequence of (start, float)
        Hours east of UTC of the site's standard time, or dated entries, as `fluxcube.sources.towers.badm.clock_of`
        returns them.
    variables : iterable of str, optional
        Names of the variable table; default all that the archive has.

    Returns
    -------
    xarray.Dataset
        As `Reader.read` describes it: ``time`` in UTC, values in the units of the variable table, flags 0 (measured) to
        3 (poor fill), whatever scale the network uses.

    Raises
    ------
    SourceError
        If the archive is of a product that is not read, or its content is not what it should be.
    """
    return reader_of(archive).read(archive, utc_offset=utc_offset, variables=variables)


def read_daily_archive(archive: Archive, *, variables: Iterable[str] | None = None) -> xr.Dataset | None:
    """Read the daily table of one archive; None where it has none, and daily values are computed from its hours.

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
        If the archive is of a product that is not read, or its content is not what it should be.
    """
    return reader_of(archive).read_daily(archive, variables=variables)


def place_of(archive: Archive) -> SiteInfo | None:
    """Return the site information that an archive itself contains; None where only site metadata (BADM) has it."""
    return reader_of(archive).place(archive)


def chips_of(archive: Archive) -> Chips | None:
    """Return the days (D,) datetime64[D] and chips (D, 9, 8, 8) float32 that an archive contains; None if none."""
    return reader_of(archive).chips(archive)


def reader_of(archive: Archive) -> Reader:
    """Return the reader of an archive.

    Raises
    ------
    SourceError
        If the network is unknown, or no reader reads this product.
    """
    network = networks().get(archive.network)
    if network is None:
        raise SourceError(
            f"{archive.location}: network {archive.network!r} is not in networks.yml and not registered; use discover"
        )
    if network.refused:
        raise SourceError(f"{archive.location}: {network.why}")
    return reader_of_network(network)


def reader_of_network(network: Network) -> Reader:
    """Return the reader of a network.

    Raises
    ------
    ConfigError
        If no reader is registered by the name that the network has for it.
    """
    if network.reader is not None and not isinstance(network.reader, str):
        return cast(Reader, network.reader)
    if network.reader not in _READERS:
        raise ConfigError(
            f"network {network.name!r}: there is no reader {network.reader!r}; add it with register_reader, or use one "
            f"of {', '.join(_READERS)}"
        )
    return _READERS[str(network.reader)]


class StampedReader(Reader):
    """Reads half-hourly and hourly tables with time stamps; a `Dialect` describes their columns."""

    def __init__(self, dialect: Dialect):
        self._dialect = dialect

    def read(self, archive: Archive, *, utc_offset: Offset, variables: Iterable[str] | None = None) -> xr.Dataset:
        """Read the table as `fluxcube.sources.towers.stamped.read_stamped` does."""
        return read_stamped(find_source(archive), self._dialect, utc_offset=utc_offset, variables=variables)

    def summarise(self, archive: Archive) -> TableSummary | None:
        """Return a summary as `fluxcube.sources.towers.stamped.summarise_stamped` does."""
        return summarise_stamped(find_source(archive), self._dialect)


class _OneFlux(StampedReader):
    """Reads FLUXNET2015, AmeriFlux FLUXNET, ICOS and the FLUXNET Shuttle."""

    def read(self, archive: Archive, *, utc_offset: Offset, variables: Iterable[str] | None = None) -> xr.Dataset:
        return oneflux.read_oneflux(archive, utc_offset=utc_offset, variables=variables)

    def read_daily(self, archive: Archive, *, variables: Iterable[str] | None = None) -> xr.Dataset | None:
        if archive.resolution != DAILY_TABLE:
            return None
        return oneflux_daily.read_oneflux_daily(archive, variables=variables)

    def summarise(self, archive: Archive) -> TableSummary | None:
        if archive.resolution == DAILY_TABLE:
            return oneflux_daily.summarise_oneflux_daily(archive)
        return oneflux.summarise_oneflux(archive)


class _FluxnetCh4(StampedReader):
    """Reads FLUXNET-CH4, whose daily tables state no quality."""

    def read_daily(self, archive: Archive, *, variables: Iterable[str] | None = None) -> xr.Dataset | None:
        is_daily = archive.resolution == DAILY_TABLE
        return fluxnet_ch4.read_daily(archive, variables=variables) if is_daily else None

    def summarise(self, archive: Archive) -> TableSummary | None:
        if archive.resolution == DAILY_TABLE:
            return fluxnet_ch4.summarise_daily(archive)
        return super().summarise(archive)


class _JapanFlux(StampedReader):
    """Reads JapanFlux2024, whose stamps are in UTC+9."""

    def place(self, archive: Archive) -> SiteInfo | None:
        return japanflux.read_place(archive)


class _CarbonSense1(Reader):
    """Reads the published CarbonSense v1."""

    def read(self, archive: Archive, *, utc_offset: Offset, variables: Iterable[str] | None = None) -> xr.Dataset:
        return carbonsense_v1.read_hours(archive, utc_offset=utc_offset, variables=variables)

    def place(self, archive: Archive) -> SiteInfo | None:
        return carbonsense_v1.read_place(archive)

    def chips(self, archive: Archive) -> Chips | None:
        return carbonsense_v1.read_chips(archive)

    def list_sites(self, path: str | os.PathLike[str]) -> Sequence[str]:
        return carbonsense_v1.list_sites(path)


class _CarbonSense2(Reader):
    """Reads the published CarbonSense V2."""

    def read(self, archive: Archive, *, utc_offset: Offset, variables: Iterable[str] | None = None) -> xr.Dataset:
        return carbonsense_v2.read_hours(archive, utc_offset=utc_offset, variables=variables)

    def place(self, archive: Archive) -> SiteInfo | None:
        return carbonsense_v2.read_place(archive)

    def chips(self, archive: Archive) -> Chips | None:
        return carbonsense_v2.read_chips(archive)

    def list_sites(self, path: str | os.PathLike[str]) -> Sequence[str]:
        return carbonsense_v2.list_sites(path)


#: Every reader by the name that networks refer to.
_READERS: dict[str, Reader] = {
    "oneflux": _OneFlux(oneflux.DIALECT),
    "japanflux": _JapanFlux(japanflux.DIALECT),
    "fluxnet_ch4": _FluxnetCh4(fluxnet_ch4.DIALECT),
    "carbonsense_v1": _CarbonSense1(),
    "carbonsense_v2": _CarbonSense2(),
}
