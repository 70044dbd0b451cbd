"""The list of tower archives that services offer: the FLUXNET Shuttle's snapshot, and selections from such a list."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fluxcube.errors import ConfigError, FetchError, printable, unknown
from fluxcube.fetch.items import fault_of_name
from fluxcube.fetch.periods import Box, Years, parse_box, parse_years
from fluxcube.stores.files import replacing

#: Names of the Shuttle's archives, as its client defines them (network, site, years, version of ONEFlux, run).
ARCHIVE = re.compile(
    r"([A-Z]{2,10})_([A-Z]{2}-[A-Za-z0-9]{3})_FLUXNET_(\d{4})-(\d{4})_(v\d+(?:\.\d+)?)_(r\d+)\.zip", re.ASCII
)
#: Columns of a snapshot, of which the Shuttle's have three more: names, roles and addresses of persons.
_COLUMNS = (
    *(
        "data_hub",
        "site_id",
        "site_name",
        "location_lat",
        "location_long",
        "igbp",
        "network",
        "first_year",
        "last_year",
    ),
    *("download_link", "fluxnet_product_name", "product_citation", "product_id", "oneflux_code_version"),
    "product_source_network",
)
_REQUIRED = ("site_id", "first_year", "last_year", "download_link", "fluxnet_product_name")


@dataclass(frozen=True, kw_only=True)
class TowerArchive:
    """One archive of one site, as a service lists it.

    Attributes
    ----------
    hub : str
        Data hub that has the file: AmeriFlux, ICOS or TERN.
    site, site_name : str
    name : str
        Name of the file.
    url : str
    latitude, longitude : float or None
        Degrees north and east.
    igbp : str
    network : tuple of str
        Networks of the site.
    first_year, last_year : int
    citation, product_id : str
        How the archive is cited, and its DOI or PID.
    size : int or None
        Bytes, as the service reports them.
    """

    hub: str
    site: str
    name: str
    url: str
    first_year: int
    last_year: int
    site_name: str = ""
    latitude: float | None = None
    longitude: float | None = None
    igbp: str = ""
    network: tuple[str, ...] = ()
    citation: str = ""
    product_id: str = ""
    size: int | None = None

    @property
    def years(self) -> int:
        """Number of years."""
        return self.last_year - self.first_year + 1

    def row(self) -> dict[str, object]:
        """Return the row of a snapshot; a user name that AmeriFlux appends to a link (``?=USER``) is left out."""
        match = ARCHIVE.fullmatch(self.name)
        place = ("" if value is None else value for value in (self.latitude, self.longitude))
        row = (self.hub, self.site, self.site_name, *place, self.igbp, ";".join(self.network), self.first_year)
        row = (*row, self.last_year, self.url.partition("?=")[0], self.name, self.citation, self.product_id)
        return dict(zip(_COLUMNS, (*row, match[5] if match else "", match[1] if match else ""), strict=True))


def read_snapshot(text: str, name: str) -> tuple[list[TowerArchive], list[str]]:
    """Read a snapshot of the FLUXNET Shuttle.

    Citations contain commas and line ends inside quotation marks, which the Shuttle's own client does not respect.

    Parameters
    ----------
    text : str
        Content of the CSV file.
    name : str
        Its name, for messages.

    Returns
    -------
    archives, notes : list
        Archives, and why rows were left out.

    Raises
    ------
    FetchError
        If it is no snapshot.
    """
    columns, rows = read_table(text, name)
    if absent := [column for column in _REQUIRED if column not in columns]:
        raise FetchError(
            f"{name}: expected a snapshot of the FLUXNET Shuttle (a CSV table that `fluxnet-shuttle listall` writes), "
            f"found a table without the column {absent[0]}."
        )
    archives, notes = [], []
    for number, row in enumerate(rows, start=2):
        archive = _archive(row)
        if isinstance(archive, TowerArchive):
            archives.append(archive)
        else:
            notes.append(f"{name}, row {number}: {archive}; left out")
    return archives, notes


def read_table(text: str, name: str) -> tuple[list[str], list[dict[str, str]]]:
    """Return the columns and the rows of a CSV table.

    Parameters
    ----------
    text : str
    name : str
        Name of the table, for messages.

    Raises
    ------
    FetchError
        If it is damaged, such as a table that ends within quotation marks.
    """
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""))
    try:
        rows = list(reader)
    except csv.Error as error:
        raise FetchError(
            f"{name}: the table is damaged near line {reader.line_num} ({error}); fetch it again."
        ) from None
    return list(reader.fieldnames or ()), rows


def _archive(row: dict[str, str]) -> TowerArchive | str:
    """Return the archive of a row, or why it is none."""
    values = {key: (value or "").strip() for key, value in row.items() if isinstance(key, str)}
    name, site = values["fluxnet_product_name"], values["site_id"]
    if fault := fault_of_archive(name, site):
        return fault
    if not re.fullmatch(r"https?://\S+", values["download_link"]):
        return f"the link of {site} is not a web address"
    if not all(re.fullmatch("[0-9]{4}", values[name]) for name in ("first_year", "last_year")):
        return f"the years of {site} are not numbers"
    return TowerArchive(
        hub=values.get("data_hub", ""),
        site=site,
        name=name,
        url=values["download_link"],
        first_year=int(values["first_year"]),
        last_year=int(values["last_year"]),
        site_name=values.get("site_name", ""),
        latitude=degrees(values.get("location_lat")),
        longitude=degrees(values.get("location_long")),
        igbp=values.get("igbp", ""),
        network=networks_of(values.get("network", "").split(";")),
        citation=" ".join(values.get("product_citation", "").split()),
        product_id=values.get("product_id", ""),
    )


def fault_of_archive(name: str, site: str) -> str:
    """Return why a name is not that of a Shuttle archive of a site; "" if it is."""
    match = ARCHIVE.fullmatch(name)
    if match is None or fault_of_name(name):
        return f"{printable(repr(name)[:80])} is not the name of an archive"
    return "" if match[2] == site else f"{name} is not an archive of the site {printable(site[:40])}"


def newest(archives: Iterable[TowerArchive]) -> list[TowerArchive]:
    """Return the newest version and run of each site at each hub; of equal ones the last of the list."""
    best: dict[tuple[str, str], tuple[tuple[int, ...], TowerArchive]] = {}
    for archive in archives:
        match = ARCHIVE.fullmatch(archive.name)
        version = tuple(map(int, re.findall(r"\d+", f"{match[5]}.{match[6]}"))) if match else ()
        key = archive.hub, archive.site
        if key not in best or version >= best[key][0]:
            best[key] = version, archive
    return list({archive.name: archive for _, archive in best.values()}.values())


def degrees(value: object) -> float | None:
    """Return a coordinate; None if it is missing or not a number."""
    try:
        return float(str(value))
    except ValueError:
        return None


def networks_of(names: Iterable[object]) -> tuple[str, ...]:
    """Return names of networks, without repetitions and empty ones."""
    return tuple(dict.fromkeys(str(name).strip() for name in names if str(name).strip()))


def write_snapshot(archives: Iterable[TowerArchive], path: Path) -> None:
    """Write archives as a snapshot, in which a build finds places, classes and citations of the sites.

    Rows of an existing file stay, unless the same site of the same hub is written anew.
    """
    every = {}
    if path.is_file():
        every = {(a.hub, a.site): a for a in read_snapshot(path.read_text("utf-8"), path.name)[0]}
    every |= {(archive.hub, archive.site): archive for archive in archives}
    write_table([archive for _, archive in sorted(every.items())], path)


def write_table(archives: Iterable[TowerArchive], path: Path) -> None:
    """Write a list of archives as CSV, with the columns of a snapshot: place, class, years, link, citation, DOI."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(archive.row() for archive in archives)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which archives to fetch; None selects all.

    Attributes
    ----------
    sites, igbp, network : tuple of str or None
        Sites; IGBP classes; networks (of the site, or the hub that has the file), in any case.
    years : tuple of int or None
        Archives are whole, so that those with at least one of these years are selected.
    bbox : (west, south, east, north) or None
        Degrees, as `fluxcube.fetch.periods.parse_box` returns it.
    """

    sites: tuple[str, ...] | None = None
    igbp: tuple[str, ...] | None = None
    network: tuple[str, ...] | None = None
    years: tuple[int, ...] | None = None
    bbox: Box | None = None

    @classmethod
    def create(
        cls,
        sites: str | Sequence[str] | None,
        igbp: str | Sequence[str] | None,
        years: Years,
        network: str | Sequence[str] | None,
        bbox: Sequence[float] | None,
    ) -> Choice:
        """Return the choice of the arguments of a function, checked (ConfigError)."""
        return cls(
            sites=_texts(sites),
            igbp=_texts(igbp),
            network=_texts(network),
            years=parse_years(years),
            bbox=None if bbox is None else parse_box(bbox),
        )


def _texts(value: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    return tuple(dict.fromkeys(text.strip() for text in ([value] if isinstance(value, str) else value)))


def select(archives: Sequence[TowerArchive], choice: Choice, where: str) -> tuple[list[TowerArchive], list[str]]:
    """Return the chosen archives in the order of their sites, and notes about what a choice leaves out.

    Parameters
    ----------
    archives : sequence of TowerArchive
    choice : Choice
    where : str
        The list, for messages.

    Raises
    ------
    UnknownNameError
        If no archive is of a chosen site, class or network.
    ConfigError
        If no archive is left.
    """
    chosen, notes = list(archives), []
    if choice.sites is not None:
        _check(choice.sites, {a.site for a in archives}, f"site of {where}")
        chosen = [a for a in chosen if a.site in choice.sites]
    if choice.igbp is not None:
        classes = {text.upper() for text in choice.igbp}
        _check(classes, {a.igbp.upper() for a in archives}, f"IGBP class of {where}")
        chosen = [a for a in chosen if a.igbp.upper() in classes]
    if choice.network is not None:
        networks = {text.lower() for text in choice.network}
        _check(networks, {name.lower() for a in archives for name in _networks(a)}, f"network of {where}")
        chosen = [a for a in chosen if networks & {name.lower() for name in _networks(a)}]
    if choice.years is not None:
        chosen = [a for a in chosen if any(a.first_year <= year <= a.last_year for year in choice.years)]
        if chosen:
            notes.append("archives are whole: years outside of the requested ones are in them, too")
    if choice.bbox is not None:
        unplaced = [a.site for a in chosen if a.latitude is None or a.longitude is None]
        chosen = [a for a in chosen if _inside(a, choice.bbox)]
        notes += [f"without coordinates in the list, so not in the box: {', '.join(unplaced[:20])}"] if unplaced else []
    if not chosen:
        raise ConfigError(f"no archive of {where} fits all of the sites, classes, years, networks and box: widen one.")
    return sorted(chosen, key=lambda a: (a.site, a.hub, a.name)), notes


def _networks(archive: TowerArchive) -> set[str]:
    return {*archive.network, archive.hub, archive.name.partition("_")[0]} - {""}


def _check(names: Iterable[str], known: set[str], kind: str) -> None:
    for name in names:
        if name not in known:
            raise unknown(kind, name, known - {""})


def _inside(archive: TowerArchive, bbox: Box) -> bool:
    if archive.latitude is None or archive.longitude is None:
        return False
    west, south, east, north = bbox
    return (archive.longitude - west) % 360 <= east - west and south <= archive.latitude <= north
