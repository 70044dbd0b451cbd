"""Read product, date, tile, edition and layer from the names of MODIS files.

``MCD43A4.A2019185.h18v04.061.2019194040325.hdf`` is LP DAAC's name; GeoTIFFs cut from it add the layer or a region
(``..._Nadir_Reflectance_Band1.tif``, ``..._B01.tif``). AppEEARS writes
``MCD43A4.061_Nadir_Reflectance_Band1_doy2019185000000_aid0001.tif``.
"""

from __future__ import annotations

import re
from calendar import isleap
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fluxcube.errors import SourceError
from fluxcube.sources.modis.grid import PRODUCTS
from fluxcube.sources.modis.layers import read_name

_ARCHIVE = re.compile(
    r"^(?P<product>M[A-Z]D(?:\d\d[A-Z]|OC)\w*)\.A(?P<year>\d{4})(?P<day>\d{3})\.(?:h(?P<h>\d\d)v(?P<v>\d\d)\.)?"
    r"(?P<edition>.*)\.(?P<kind>tiff?|hdf)$",
    re.IGNORECASE,
)
_APPEEARS = re.compile(
    r"^(?P<product>M[A-Z]D(?:\d\d[A-Z]|OC)\w*)\.(?P<collection>\d{3})_(?P<layer>.+)_doy(?P<year>\d{4})(?P<day>\d{3})"
    r"(?:\d{6})?(?P<rest>_.*)?\.(?P<kind>tiff?)$",
    re.IGNORECASE,
)
#: Collection and time of production at the beginning of an edition.
_EDITION = re.compile(r"^(?P<collection>\d{3})?(?:(?:^|\.)(?P<production>\d{13}))?(?P<tail>.*)$")
#: Layer in the rest of a name, after a separator: its name anywhere; a band's number or a colour at the end.
_LAYER = re.compile(
    r"(?:^|[._-])(?P<layer>Nadir_?Reflectance_?Band_?\d+|sur_?refl_?b\d+(?:_1)?|Snow_BRDF_Albedo|state_1km(?:_1)?"
    r"|BRDF_Albedo_LandWaterType|LC_(?:Type|Prop)_?\d(?:_Assessment)?|Land_Cover_Type_\d"
    r"|(?:BRDF_Albedo|Majority|Land_Cover|Sensor|Solar|num_obs|QC|LW|obscov|orbit|gran|iobs|q_scan)\w*)(?=[._-]|$)",
    re.IGNORECASE,
)
_BAND = re.compile(
    r"[._-](?P<layer>B(?:and)?_?0*[1-9]\d?(?:_?qa)?|red|green|blue|nir\d?|swir\d)$",
    re.IGNORECASE,
)
#: The product, a date and the edition anywhere in other names, such as ``MCD43A4_2019_07_04_B01.tif``.
_PRODUCT = re.compile("|".join(sorted((name for name in PRODUCTS if "_" not in name), reverse=True)), re.IGNORECASE)
_CALENDAR_DATE = re.compile(r"(?<!\d)(?P<year>\d{4})[_-](?P<month>\d{2})[_-](?P<day>\d{2})(?!\d)")
_COMPACT_DATE = re.compile(r"(?<!\d)(?P<year>(?:19|20)\d\d)(?P<month>\d{2})(?P<day>\d{2})(?!\d)")
_DAY_OF_YEAR = re.compile(r"(?:A|doy|(?<!\d))(?P<year>(?:19|20)\d\d)[_-]?(?P<day>\d{3})(?!\d)", re.IGNORECASE)
_COLLECTION = re.compile(r"(?<!\d)(?P<collection>00[56]|061)(?:\.(?P<production>\d{13}))?(?!\d)")
_RANGE = re.compile(r"b(?:and)?_?\d+[-_]*(?:to)?[-_]*b(?:and)?_?\d+$", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class FileName:
    """The parts of the name of a file.

    Attributes
    ----------
    product : str
        Name of the product, which may be one that is not used.
    day : np.datetime64[D]
        Date.
    tile : (h, v), optional
        Tile.
    collection, production : str
        Collection such as "061", and time of production; "" where unknown. Later editions sort last.
    layer : str
        Text that names the only layer of the file, "" if there is none.
    rest : str
        Rest of the name, which distinguishes regions.
    hdf : bool
        Whether it is an HDF4 file.
    """

    product: str
    day: np.datetime64
    tile: tuple[int, int] | None = None
    collection: str = ""
    production: str = ""
    layer: str = ""
    rest: str = ""
    hdf: bool = False

    @property
    def edition(self) -> tuple[str, str, bool]:
        """Order of editions: collection, time of production, and HDF4 before a copy of it."""
        return self.collection, self.production, self.hdf


def parse_name(path: Path) -> FileName | None:
    """Parse the name of a file of LP DAAC or AppEEARS; return None for other names.

    Raises
    ------
    SourceError
        If the day in the name is impossible.

    Examples
    --------
    >>> name = parse_name(Path("MCD43A4.A2018185.h10v07.006.2018194033728_B01.TIF"))
    >>> name.collection, name.tile, name.layer, name.rest
    ('006', (10, 7), 'B01', '')
    """
    if match := _ARCHIVE.match(path.name):
        edition = _EDITION.match(match["edition"])
        assert edition is not None  # every part of the pattern is optional
        hdf = match["kind"].lower() == "hdf"
        tail = edition["tail"]
        layer = None if hdf or _RANGE.search(tail) else _LAYER.search(tail) or _BAND.search(tail)
        return FileName(
            product=match["product"].upper(),
            day=_date(path, match),
            tile=(int(match["h"]), int(match["v"])) if match["h"] else None,
            collection=edition["collection"] or "",
            production=edition["production"] or "",
            layer=layer["layer"] if layer else "",
            rest=tail[: layer.start()] + tail[layer.end() :] if layer else tail,
            hdf=hdf,
        )
    if match := _APPEEARS.match(path.name):
        return FileName(
            product=match["product"].upper(),
            day=_date(path, match),
            collection=match["collection"],
            layer=match["layer"],
            rest=match["rest"] or "",
        )
    return None


def loose_name(path: Path) -> FileName | None:
    """Parse the name of a file of one layer that is named as by no archive; return None if a part is missing.

    Examples
    --------
    >>> loose_name(Path("alps_MCD43A4_Nadir_Reflectance_Band1_2019_185.tif")).layer
    'Nadir_Reflectance_Band1'
    """
    named, date = _PRODUCT.search(path.stem), find_date(path.stem)
    if date is None:
        return None
    rest = path.stem.replace(date[1], "", 1).replace(named[0] if named else "\0", "", 1)
    layer = None if _RANGE.search(rest) else _LAYER.search(rest) or _BAND.search(rest)
    product = named[0].upper() if named else _product_of(layer["layer"] if layer else "")
    if layer is None or product is None:
        return None
    edition = _COLLECTION.search(rest)
    return FileName(
        product=product,
        day=date[0],
        collection=edition["collection"] if edition else "",
        production=(edition["production"] or "") if edition else "",
        layer=layer["layer"],
        rest=(rest[: layer.start()] + rest[layer.end() :]).replace(edition[0] if edition else "\0", ""),
    )


def _product_of(layer: str) -> str | None:
    """Return the product that has a layer of this name, without the state flags' own name for MOD09GA."""
    possible = read_name(layer, "MCD43A4").layers or frozenset()
    found = [name for name, product in PRODUCTS.items() if possible and possible <= set(product.layers)]
    return found[0].removesuffix("_STATE") if found and _LAYER.fullmatch(layer) else None


def find_date(text: str) -> tuple[np.datetime64, str] | None:
    """Return the date in a text and the characters that contain it: a calendar date, or year and day of the year.

    Examples
    --------
    >>> find_date("MCD43A4_2019_07_04"), find_date("MCD43A4_A2019185_h18v04"), find_date("site_12")
    ((np.datetime64('2019-07-04'), '2019_07_04'), (np.datetime64('2019-07-04'), 'A2019185'), None)
    """
    if match := _CALENDAR_DATE.search(text) or _COMPACT_DATE.search(text):
        try:
            return np.datetime64("{}-{}-{}".format(*match.groups()), "D"), match[0]
        except ValueError:
            return None
    if (match := _DAY_OF_YEAR.search(text)) and 1 <= int(match["day"]) <= 365 + isleap(int(match["year"])):
        return _day_of_year(int(match["year"]), int(match["day"])), match[0]
    return None


def collection_of(path: Path) -> str:
    """Return the collection in the name of a file, such as "061"; "" if there is none.

    Examples
    --------
    >>> collection_of(Path("MODIS_061_MCD43A4_2019_07_04.tif")), collection_of(Path("MCD43A4_2019_07_04.tif"))
    ('061', '')
    """
    if name := parse_name(path) or loose_name(path):
        return name.collection
    date = find_date(path.stem)
    match = _COLLECTION.search(path.stem.replace(date[1], "", 1) if date else path.stem)
    return match["collection"] if match else ""


def used_layer(name: FileName) -> tuple[str, str] | None:
    """Return the product and the layer of a file of one layer; None if it is a layer that is not used.

    Examples
    --------
    >>> used_layer(parse_name(Path("MOD09GA.061_state_1km_1_doy2019185_aid0001.tif")))
    ('MOD09GA_STATE', 'state_1km')
    """
    for product in (name.product, "MOD09GA_STATE") if name.product == "MOD09GA" else (name.product,):
        layers, reading = PRODUCTS[product].layers, read_name(name.layer, product)
        possible = reading.layers or frozenset()
        if reading.layers is None and reading.number is not None and 1 <= reading.number <= len(layers) > 1:
            possible = frozenset({layers[reading.number - 1]})
        if len(possible) == 1 and possible <= set(layers):
            return product, next(iter(possible))
    return None


def _date(path: Path, match: re.Match[str]) -> np.datetime64:
    year, day = int(match["year"]), int(match["day"])
    if not 1 <= day <= 365 + isleap(year):
        raise SourceError(
            f"{path}: the day in the name must be 001 to {365 + isleap(year)}, found day {match['day']} of "
            f"{match['year']}: download the file again."
        )
    return _day_of_year(year, day)


def _day_of_year(year: int, day: int) -> np.datetime64:
    return np.datetime64(f"{year:04d}-01-01", "D") + np.timedelta64(day - 1, "D")
