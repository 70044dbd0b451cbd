"""Networks that publish tower data, and the content of a file as its name states it.

The file ``data/networks.yml`` describes every network that the package knows; `register_network` adds one in this
process, and an entry point of the group ``fluxcube.networks`` of another package one in every process.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from fluxcube.errors import ConfigError
from fluxcube.extensions import Extended, Extension
from fluxcube.sources.towers.archives import Location

#: Resolutions (as file names write them) of half-hourly and hourly tables, and of daily tables.
HOURLY_TABLES, DAILY_TABLE = ("HH", "HR"), "DD"

_TOKENS = {
    "<site>": r"(?P<site>(?-i:[A-Z]{2}-[A-Za-z0-9]{3}))",
    "<product>": r"(?P<product>[A-Z0-9]+)",
    "<resolution>": r"(?P<resolution>HH|HR|DD|WW|MM|YY)",
    "<years>": r"(?P<first>\d{4})-(?P<last>\d{4})",
}
_COPY = r"(?:[ .(].*)?"
_ENDING = re.compile(r"(?i)\.(zip|csv|csv\.gz)$")


@dataclass(frozen=True, kw_only=True)
class Network:
    r"""One publication of tower data: an entry of ``data/networks.yml``, or of `register_network`.

    Attributes
    ----------
    name : str
        Name of the publication, which is stored with every value that comes from it.
    names : tuple of str
        Regular expressions of file names without their extension (.csv, .csv.gz or .zip), in any case. ``<site>`` (such
        as ``XX-Abc``), ``<product>``, ``<resolution>`` (HH, HR, DD, ...) and ``<years>`` (``2001-2009``) stand for
        named groups; a group ``(?P<version>...)`` is optional.
    files : tuple of str
        Regular expressions of whole file names, in any case, of files that contain many sites; the reader's
        ``list_sites`` returns the sites.
    products : tuple of str
        Products that contain measurements, best first. Files of other products are ignored. Empty: all are read.
    product, resolution : str
        Product and resolution of files whose names do not state them.
    reader : str, Reader or None
        Name of the reader of its files (`fluxcube.sources.towers.readers`), or the reader itself. None: its files are
        refused.
    daily : bool
        Whether its daily (DD) tables are read for a daily cube.
    daily_quality : bool
        Whether its daily tables state which share of a day was measured. Where they do not, its half-hours are
        preferred to them, and so are all other networks.
    why_no_days : str
        Why its daily tables are not read.
    best_flag : int
        Best quality flag that a value can have, where the publication kept no flags: it counts as measured
        (`fluxcube.samples.quality.best_flags`).
    why : str
        Why its files are refused.
    licence, citation, doi : str
        Written to every store that contains values of the network.
    """

    name: str
    names: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    products: tuple[str, ...] = ()
    product: str = ""
    resolution: str = ""
    reader: str | object | None = None
    daily: bool = False
    daily_quality: bool = True
    why_no_days: str = ""
    best_flag: int = 0
    why: str = ""
    licence: str = ""
    citation: str = ""
    doi: str = ""

    @property
    def refused(self) -> bool:
        """Whether no reader reads its files: they look like tower files and are another product."""
        return self.reader is None


@dataclass(frozen=True, kw_only=True)
class Archive:
    """One site's data in one file of a network, as the file's name describes it.

    Attributes
    ----------
    path : Path
        The file. For the published CarbonSense: the folder of a site, or the file of all sites.
    member : str or None
        Entry of a zip; None for a plain or gzip file, and for a zip that cannot be listed (reading it reports why).
        In a file of many sites, the site.
    site, network, product, resolution, version : str
        From the name; `resolution` is "" where the name does not state it.
    first_year, last_year : int or None
        None where the name does not state them.
    rank : int
        Where several archives contain a site, the lower rank is preferred: the newest publication, then the newest
        version.
    """

    path: Path
    member: str | None = None
    site: str
    network: str
    product: str
    resolution: str
    first_year: int | None = None
    last_year: int | None = None
    version: str = ""
    rank: int = 0

    @property
    def location(self) -> Location:
        """The file, and the entry in it where the file is a zip."""
        return Location(self.path, self.member)


#: Networks that were added by `register_network`, in the order of registration.
_REGISTERED: dict[str, Network] = {}


def networks() -> Extended[Network]:
    """Return every network by name: those of ``data/networks.yml``, registered ones, then those of other packages.

    Examples
    --------
    >>> networks()["FLUXNET2015"].doi
    '10.1038/s41597-020-0534-3'
    """
    return Extended("networks", {**_shipped(), **_REGISTERED}, _network_of)


def _network_of(extension: Extension) -> Network:
    """Return the network of an entry point, which names a `Network` or a function that returns one."""
    found = extension.load()
    network = found() if callable(found) else found
    if not isinstance(network, Network):
        raise ConfigError(f"expected a Network, or a function that returns one, found {network!r:.80}")
    if network.name != extension.name:
        raise ConfigError(f"the network is named {network.name!r}: give the entry point the same name")
    _check(network)
    return network


def register_network(network: Network) -> None:
    """Add a network from outside the package for the rest of the process.

    `fluxcube.sources.towers.discovery.discover` then finds its files, and all functions that read archives use the
    reader that it names (`fluxcube.sources.towers.readers.register_reader`). Where a site is also in other networks,
    registered networks rank after those of ``data/networks.yml``, in the order of registration.

    Raises
    ------
    ConfigError
        If a network of that name exists, `reader` is None, or a name is no regular expression with ``<site>``.

    Examples
    --------
    >>> register_network(Network(name="FLUXNET2015", names=("<site>_<years>",), reader="oneflux"))
    Traceback (most recent call last):
    fluxcube.errors.ConfigError: network 'FLUXNET2015' exists already; choose another name
    """
    if network.name in networks():
        raise ConfigError(f"network {network.name!r} exists already; choose another name")
    _check(network)
    _REGISTERED[network.name] = network


def _check(network: Network) -> None:
    if network.refused or not (network.names or network.files):
        raise ConfigError(f"network {network.name!r}: expected a reader, and names or files that it reads")
    for name in (*network.names, *network.files):
        _check_pattern(network, name)


def _check_pattern(network: Network, name: str) -> None:
    try:
        groups = _compile(name).groupindex
    except re.error as error:
        raise ConfigError(f"network {network.name!r}: {name!r} is not a regular expression ({error})") from error
    if name in network.names and "site" not in groups:
        raise ConfigError(f"network {network.name!r}: expected <site> in the file name {name!r}; add it")


def parse_name(name: str) -> Archive | None:
    """Return what a file name states; None if it is not a name of any network.

    Parameters
    ----------
    name : str
        File name with its extension (.csv, .csv.gz or .zip).

    Returns
    -------
    Archive or None
        Site, network, product, resolution, years and version; its path is the name.

    Examples
    --------
    >>> archive = parse_name("FLX_US-MMS_FLUXNET2015_SUBSET_HR_2012-2014_1-4.zip")
    >>> archive.network, archive.site, archive.product, archive.resolution, archive.last_year
    ('FLUXNET2015', 'US-MMS', 'SUBSET', 'HR', 2014)
    >>> parse_name("AMF_US-Ha1_FLUXNET_FLUXMET_HR_1991-2025_v1.3_r1.csv").network
    'FLUXNET Shuttle 2026'
    """
    return parse_stem(_ENDING.sub("", name), Path(name)) if has_table_ending(name) else None


def has_table_ending(name: str) -> bool:
    """Return whether a file name ends as those of tables do: .zip, .csv or .csv.gz."""
    return _ENDING.search(name) is not None


def parse_stem(stem: str, path: Path) -> Archive | None:
    """Return what a file name without its extension states, as an Archive at `path`; None if it is of no network."""
    for network in networks().values():  # other packages are imported for names of no network of ours only
        for name in network.names:
            if match := _compile(name).fullmatch(stem):
                return _archive_from(network, match.groupdict(), path)
    return None


def network_of_file(name: str) -> Network | None:
    """Return the network of a file that contains many sites, by the file's name; None if it is none."""
    patterns = ((network, pattern) for network in networks().values() for pattern in network.files)
    return next((network for network, pattern in patterns if re.fullmatch(pattern, name, re.IGNORECASE)), None)


def is_badm(name: str | os.PathLike[str]) -> bool:
    """Return whether a file, by its name and folder, is site metadata that `read_badm` reads.

    Examples
    --------
    >>> is_badm("AMF_US-Ha1_BIF_20201218.xlsx"), is_badm("DATA/BDAM/JP-Tak_General.xlsx"), is_badm("General.xlsx")
    (True, True, False)
    """
    path = Path(name).as_posix().replace("\\", "/")
    if is_hidden(path.rpartition("/")[2]):
        return False
    patterns = ((pattern, path if "/" in pattern else path.rpartition("/")[2]) for pattern in _tables()["badm"])
    return any(re.fullmatch(pattern, text, re.IGNORECASE) for pattern, text in patterns)


def is_hidden(name: str) -> bool:
    """Return whether a file is hidden or temporary, as macOS and spreadsheet programs write beside the real one."""
    return name.startswith((".", "~$"))


def orders() -> Mapping[str, Sequence[str]]:
    """Return the orders of preference of networks: names of networks, the preferred one first, by name of the order."""
    return {order: [*names, *_REGISTERED] for order, names in _tables()["orders"].items()}


@functools.cache
def _tables() -> Mapping[str, Mapping]:
    return yaml.safe_load(resources.files("fluxcube").joinpath("data/networks.yml").read_text("utf-8"))


@functools.cache
def _shipped() -> Mapping[str, Network]:
    """Return the networks of ``data/networks.yml``."""
    return {name: _network(name, row) for name, row in {**_tables()["networks"], **_tables()["refused"]}.items()}


def _network(name: str, row: Mapping[str, Any]) -> Network:
    lists = {key: tuple(row[key]) for key in ("names", "products", "files") if key in row}
    return Network(name=name, **{**row, **lists})


@functools.cache
def _compile(name: str) -> re.Pattern[str]:
    for token, group in _TOKENS.items():
        name = name.replace(token, group)
    return re.compile(name + _COPY, re.IGNORECASE)


def _archive_from(network: Network, groups: Mapping[str, str | None], path: Path) -> Archive:
    first, last = groups.get("first"), groups.get("last")
    return Archive(
        path=path,
        site=groups["site"] or "",
        network=network.name,
        product=(groups.get("product") or network.product).upper(),
        resolution=(groups.get("resolution") or network.resolution).upper(),
        first_year=int(first) if first else None,
        last_year=int(last) if last else None,
        version=groups.get("version") or "",
    )
