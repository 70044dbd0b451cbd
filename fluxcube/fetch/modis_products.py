"""The MODIS products that can be fetched: layers, fill values, first days, sizes and citations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fluxcube.errors import ConfigError, unknown
from fluxcube.fetch.items import Licence
from fluxcube.sources.modis.grid import PRODUCTS

#: Collection of all products.
COLLECTION = "061"


@dataclass(frozen=True, kw_only=True)
class Product:
    """A product as the archives publish it.

    Attributes
    ----------
    name : str
        Short name, such as "MCD43A4".
    parts : tuple of str
        Keys of `fluxcube.sources.modis.grid.PRODUCTS`: state flags are read as a product of their own.
    fills : tuple of int
        Value of missing pixels of each part, outside of the part's valid range.
    first : np.datetime64[D]
        First day.
    yearly : bool
        Whether there is one image a year, on 1 January.
    tile_bytes : int
        Size of an HDF4 tile, rounded; of use where a service does not report it.
    citation : str
    """

    name: str
    parts: tuple[str, ...]
    fills: tuple[int, ...]
    first: np.datetime64
    yearly: bool = False
    tile_bytes: int
    citation: str

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers of all parts."""
        return tuple(layer for part in self.parts for layer in PRODUCTS[part].layers)

    @property
    def layer_fills(self) -> tuple[int, ...]:
        """Value of missing pixels of each layer."""
        return tuple(fill for part, fill in zip(self.parts, self.fills, strict=True) for _ in PRODUCTS[part].layers)

    @property
    def doi(self) -> str:
        """DOI of the collection."""
        return f"10.5067/MODIS/{self.name}.{COLLECTION}"

    @property
    def dtype(self) -> str:
        """Type with room for the values of all layers."""
        return "int32" if max(self.layer_fills) > np.iinfo("int16").max else "int16"

    def days(self, year: int, every: int = 1) -> np.ndarray:
        """Return the days of a year on which there can be an image, (day,) datetime64[D], up to yesterday.

        Parameters
        ----------
        year : int
        every : int
            Each n-th day of the year, from 1 January.
        """
        first, last = np.datetime64(f"{year}-01-01"), np.datetime64(f"{year + 1}-01-01")
        days = np.arange(first, first + 1 if self.yearly else last)[::every]
        return days[(days >= self.first) & (days < np.datetime64("today", "D"))]


def _citation(authors: str, year: int, title: str, name: str) -> str:
    return (
        f"{authors} ({year}). {title} V{COLLECTION} [Data set]. NASA EOSDIS Land Processes Distributed Active Archive "
        f"Center. https://doi.org/10.5067/MODIS/{name}.{COLLECTION}"
    )


_SCHAAF = "Schaaf, C., & Wang, Z."
_VERMOTE = "Vermote, E., & Wolfe, R."
_FRIEDL = "Friedl, M., & Sulla-Menashe, D."

#: Products by name.
FETCHED = {
    product.name: product
    for product in (
        Product(
            name="MCD43A4",
            parts=("MCD43A4",),
            fills=(32767,),
            first=np.datetime64("2000-02-24"),
            tile_bytes=75_000_000,
            citation=_citation(
                _SCHAAF, 2021, "MODIS/Terra+Aqua BRDF/Albedo Nadir BRDF Adjusted Ref Daily L3 Global - 500m", "MCD43A4"
            ),
        ),
        Product(
            name="MCD43A2",
            parts=("MCD43A2",),
            fills=(255,),
            first=np.datetime64("2000-02-24"),
            tile_bytes=10_000_000,
            citation=_citation(_SCHAAF, 2021, "MODIS/Terra+Aqua BRDF/Albedo Quality Daily L3 Global - 500m", "MCD43A2"),
        ),
        Product(
            name="MOD09GA",
            parts=("MOD09GA", "MOD09GA_STATE"),
            fills=(-28672, 65535),
            first=np.datetime64("2000-02-24"),
            tile_bytes=85_000_000,
            citation=_citation(
                _VERMOTE, 2021, "MODIS/Terra Surface Reflectance Daily L2G Global 1km and 500m SIN Grid", "MOD09GA"
            ),
        ),
        Product(
            name="MODOCGA",
            parts=("MODOCGA",),
            fills=(-28672,),
            first=np.datetime64("2000-02-24"),
            tile_bytes=25_000_000,
            citation=_citation(
                _VERMOTE, 2021, "MODIS/Terra Ocean Reflectance Daily L2G-Lite Global 1km SIN Grid", "MODOCGA"
            ),
        ),
        Product(
            name="MCD12Q1",
            parts=("MCD12Q1",),
            fills=(255,),
            first=np.datetime64("2001-01-01"),
            yearly=True,
            tile_bytes=5_000_000,
            citation=_citation(
                _FRIEDL, 2022, "MODIS/Terra+Aqua Land Cover Type Yearly L3 Global 500m SIN Grid", "MCD12Q1"
            ),
        ),
    )
}


def find_products(names: Iterable[str]) -> tuple[Product, ...]:
    """Return products by their names, each once.

    Raises
    ------
    UnknownNameError
        If a name is not that of a product.
    ConfigError
        If there is none.
    """
    products: dict[str, Product] = {}
    for name in [names] if isinstance(names, str) else names:
        short = str(name).strip().upper().partition(".")[0]
        if short not in FETCHED:
            raise unknown("MODIS product", name, FETCHED)
        products[short] = FETCHED[short]
    if not products:
        raise ConfigError(f"products: expected one or more of {', '.join(FETCHED)}, found none.")
    return tuple(products.values())


def licence(products: Iterable[Product], terms: str = "") -> Licence:
    """Return the licence and the citations of products.

    Parameters
    ----------
    products : iterable of Product
    terms : str
        Terms of the service through which they are fetched.
    """
    products = tuple(products)
    return Licence(
        name="no restriction on use or redistribution (NASA LP DAAC)",
        url="https://lpdaac.usgs.gov/data/data-citation-and-policies/",
        text=" ".join(("NASA asks that each product is cited by its DOI.", terms)).strip(),
        citation=" ".join(product.citation for product in products),
        doi=products[0].doi if len(products) == 1 else "",
    )
