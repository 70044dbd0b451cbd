"""The three hubs of the FLUXNET Shuttle: AmeriFlux, ICOS, and TERN's THREDDS folder."""

from __future__ import annotations

import contextlib
import csv
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

from services.ameriflux import AmeriFlux
from services.icos import Icos
from services.web import Service
from services.zenodo import Zenodo

_FOLDER = "/thredds/fileServer/ecosystem_process/fluxnet"
_BIF = ("SITE_ID", "GROUP_ID", "VARIABLE_GROUP", "VARIABLE", "DATAVALUE")
_CATALOGUE = ("SITE_ID", "PRODUCT_URL", "PRODUCT_ID", "PRODUCT_CITATION")


def archive(site: str, text: str = "TIMESTAMP_START,TA_F\n") -> bytes:
    """A small zip with a table of a site."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr(zipfile.ZipInfo(f"FLX_{site}_FLUXNET_FLUXMET_HH_2010-2011_v1.3_r1.csv"), text + site)
        file.writestr(zipfile.ZipInfo("README.txt"), "read me")
    return out.getvalue()


class Tern(Service):
    """TERN's folder: a catalogue of products, a BIF of all sites, and the archives."""

    def __init__(self) -> None:
        self.products: list[tuple[str, str, str]] = []
        self.places: list[tuple[str, str, str]] = []
        super().__init__()

    def add(self, site: str, name: str, content: bytes, **facts: object) -> None:
        """Add an archive; facts: igbp, latitude, longitude, network."""
        self.files[f"{_FOLDER}/2026_r1/{name}"] = content
        self.products.append((site, name, f'Person, C. (2026): "{site}", a release.\n Version 2026_r1'))
        rows = {"SITE_NAME": f"Site {site}, TERN", "LOCATION_LAT": facts["latitude"], "IGBP": facts["igbp"]}
        rows |= {"LOCATION_LONG": facts["longitude"], "NETWORK": "OzFlux", "TEAM_MEMBER_EMAIL": "person@example.org"}
        self.places += [(site, key, str(value)) for key, value in rows.items()]
        self._write()

    def _write(self) -> None:
        folder = f"{self.url}{_FOLDER}/2026_r1"
        rows = [(s, f"{folder}/{name}", f"https://dx.doi.org/10.25901/{s}", cited) for s, name, cited in self.products]
        self.files[f"{_FOLDER}/TERN_THREDDS_catalogue.csv"] = _table(_CATALOGUE, rows)
        places = [(s, "1", "GRP", key, value) for s, key, value in self.places]
        self.files[f"{_FOLDER}/BIF_all_sites.csv"] = _table(_BIF, places)


def _table(columns: tuple[str, ...], rows: list[tuple]) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerows([columns, *rows])
    return out.getvalue().encode()


@dataclass
class Hubs:
    """Running services, and their addresses for `fluxcube.fetch.towers(services=...)`."""

    ameriflux: AmeriFlux
    icos: Icos
    tern: Tern
    zenodo: Zenodo

    @property
    def services(self):
        from fluxcube.fetch.towers_hubs import Services

        return Services(
            ameriflux=f"{self.ameriflux.url}/api",
            icos_meta=self.icos.url,
            icos_data=self.icos.url,
            tern=f"{self.tern.url}{_FOLDER}",
            zenodo=self.zenodo.url,
        )

    @property
    def all(self) -> list[Service]:
        return [self.ameriflux, self.icos, self.tern, self.zenodo]


@contextlib.contextmanager
def running(accounts: dict[str, str] | None = None) -> Iterator[Hubs]:
    """Start all services of towers, without content."""
    with AmeriFlux(accounts) as ameriflux, Icos() as icos, Tern() as tern, Zenodo() as zenodo:
        yield Hubs(ameriflux, icos, tern, zenodo)


def add_examples(hubs: Hubs) -> None:
    """Add five sites: two of AmeriFlux, two of ICOS, one of TERN in two versions."""
    name = "{}_{}_FLUXNET_{}-{}_v1.3_{}.zip".format
    rows = [
        (hubs.ameriflux, "AMF", "US-Ha1", "DBF", 42.5, -72.2, (1991, 2020), {}),
        (hubs.ameriflux, "AMF", "US-xAA", "GRA", 40.0, -105.0, (2017, 2024), {"network": ["AmeriFlux", "NEON"]}),
        (hubs.icos, "EUF", "DE-Hai", "DBF", 51.1, 10.5, (2000, 2019), {}),
        (hubs.icos, "SAEON", "ZA-Kru", "SAV", -25.0, 31.5, (2000, 2013), {}),
        (hubs.tern, "TERN", "AU-How", "WSA", -12.5, 131.2, (2002, 2015), {}),
    ]
    for hub, prefix, site, igbp, latitude, longitude, years, more in rows:
        facts = {"igbp": igbp, "latitude": latitude, "longitude": longitude, "years": years, **more}
        hub.add(site, name(prefix, site, *years, "r1"), archive(site), **facts)
    facts = {"igbp": "WSA", "latitude": -12.5, "longitude": 131.2}
    hubs.tern.add("AU-How", name("TERN", "AU-How", 2002, 2018, "r2"), archive("AU-How", "newer"), **facts)
