"""The MODIS products that can be fetched: layers, fill values, first days, sizes and citations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

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
    title, authors : str
    released : int
        Year of the collection's release; title, authors and year are those of the citation.
    tile_bytes : int
        Size of an HDF4 tile, rounded; for services that do not report it.
    fills : tuple of int
        Value of missing pixels of each part, outside of the part's valid range.
    further : tuple of str
        Keys of `fluxcube.sources.modis.grid.PRODUCTS` of what is read as a product of its own: state flags.
    first : np.datetime64[D]
        First day.
    yearly : bool
        Whether there is one image a year, on 1 January.
    """

    name: str
    title: str
    authors: str
    released: int
    tile_bytes: int
    fills: tuple[int, ...]
    further: tuple[str, ...] = ()
    first: np.datetime64 = field(default_factory=lambda: np.datetime64("2000-02-24"))
    yearly: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """Keys of `fluxcube.sources.modis.grid.PRODUCTS`: the product itself, and what is read as another one."""
        return (self.name, *self.further)

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
    def citation(self) -> str:
        """How the product is cited."""
        return (
            f"{self.authors} ({self.released}). {self.title} V{COLLECTION} [Data set]. NASA EOSDIS Land Processes "
            f"Distributed Active Archive Center. https://doi.org/{self.doi}"
        )

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


_SCHAAF, _VERMOTE, _FRIEDL = "Schaaf, C., & Wang, Z.", "Vermote, E., & Wolfe, R.", "Friedl, M., & Sulla-Menashe, D."
_PRODUCTS = (
    Product(
        name="MCD43A4",
        title="MODIS/Terra+Aqua BRDF/Albedo Nadir BRDF Adjusted Ref Daily L3 Global - 500m",
        authors=_SCHAAF,
        released=2021,
        tile_bytes=75_000_000,
        fills=(32767,),
    ),
    Product(
        name="MCD43A2",
        title="MODIS/Terra+Aqua BRDF/Albedo Quality Daily L3 Global - 500m",
        authors=_SCHAAF,
        released=2021,
        tile_bytes=10_000_000,
        fills=(255,),
    ),
    Product(
        name="MOD09GA",
        title="MODIS/Terra Surface Reflectance Daily L2G Global 1km and 500m SIN Grid",
        authors=_VERMOTE,
        released=2021,
        tile_bytes=85_000_000,
        fills=(-28672, 65535),
        further=("MOD09GA_STATE",),
    ),
    Product(
        name="MODOCGA",
        title="MODIS/Terra Ocean Reflectance Daily L2G-Lite Global 1km SIN Grid",
        authors=_VERMOTE,
        released=2021,
        tile_bytes=25_000_000,
        fills=(-28672,),
    ),
    Product(
        name="MCD12Q1",
        title="MODIS/Terra+Aqua Land Cover Type Yearly L3 Global 500m SIN Grid",
        authors=_FRIEDL,
        released=2022,
        tile_bytes=5_000_000,
        fills=(255,),
        first=np.datetime64("2001-01-01"),
        yearly=True,
    ),
)
#: Products by name.
FETCHED = {product.name: product for product in _PRODUCTS}


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
        text=" ".join(("NASA requests that each product is cited by its DOI.", terms)).strip(),
        citation=" ".join(product.citation for product in products),
        doi=products[0].doi if len(products) == 1 else "",
    )
