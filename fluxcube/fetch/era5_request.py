"""Requests to the Climate Data Store (CDS) for ERA5: what is requested, split so that the service accepts it.

A request has one month, and either instantaneous or accumulated parameters: a mixed request is answered with a zip of
two files. The number of fields (parameters x hours) is below what the service accepts.

References
----------
https://cds.climate.copernicus.eu/how-to-api; splits and limits as users of the service report them (2025, 2026)
"""

from __future__ import annotations

import calendar
import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from fluxcube.errors import ConfigError
from fluxcube.fetch.items import Item, Licence, fault_of_name, file_names, request_key
from fluxcube.fetch.periods import Box, parse_box
from fluxcube.sources.era5.parameters import PARAMETERS

#: Fields (parameters x hours) of one request: the CDS has refused 8928 and accepted 5952; its documentation says 12000.
MAX_FIELDS = 5952
#: Bytes of one value in files of the service: 1.4 to 2.3 in four NetCDF files with several parameters, 2.8 in a series
#: of a point; GRIB packs 16 bits.
BYTES_PER_VALUE = {"netcdf": 2.0, "grib": 2.0, "timeseries": 2.8}
#: Bytes of a file without its values.
_HEADER = 20_000
#: Days after which the preliminary release (ERA5T) of a day is available.
_DELAY = timedelta(days=6)
SUFFIX = {"netcdf": "nc", "grib": "grib"}


@dataclass(frozen=True)
class Product:
    """A data set of the CDS, hourly on a grid, and the one of its series at points.

    Attributes
    ----------
    name, title : str
        Beginning of file names, and name in texts.
    dataset, points : str
        Names of the data sets in requests.
    step : float
        Cell size, degrees.
    first_year : int
    without : frozenset of str
        Parameters of `fluxcube.sources.era5.parameters` that it does not contain.
    at_points : frozenset of str
        Parameters of the data set of series.
    reanalysis : bool
        Whether requests have a product type.
    licence : Licence
    """

    name: str
    title: str
    dataset: str
    points: str
    step: float
    first_year: int
    without: frozenset[str]
    at_points: frozenset[str]
    reanalysis: bool
    licence: Licence


_TERMS = (
    "Results contain modified Copernicus Climate Change Service information; neither the European Commission nor ECMWF "
    "is responsible for any use of it. State this, and cite the data set, wherever results are published."
)


def _licence(citation: str, doi: str) -> Licence:
    return Licence(
        name="CC-BY-4.0 (Copernicus)",
        url="https://creativecommons.org/licenses/by/4.0/",
        text=_TERMS,
        citation=f"{citation} Copernicus Climate Change Service (C3S) Climate Data Store (CDS).",
        doi=doi,
    )


_SURFACE = frozenset({"t2m", "d2m", "sp", "u10", "v10", "tp", "ssrd", "strd"})
_SOIL = frozenset({f"{name}{level}" for name in ("stl", "swvl") for level in range(1, 5)})
ERA5 = Product(
    name="era5",
    title="ERA5",
    dataset="reanalysis-era5-single-levels",
    points="reanalysis-era5-single-levels-timeseries",
    step=0.25,
    first_year=1940,
    without=frozenset(),
    at_points=_SURFACE,
    reanalysis=True,
    licence=_licence(
        "Hersbach, H., et al. (2023): ERA5 hourly data on single levels from 1940 to present.",
        "10.24381/cds.adbb2d47",
    ),
)
ERA5_LAND = Product(
    name="era5-land",
    title="ERA5-Land",
    dataset="reanalysis-era5-land",
    points="reanalysis-era5-land-timeseries",
    step=0.1,
    first_year=1950,
    without=frozenset({"zust", "ishf", "z", "lsm"}),
    at_points=_SURFACE | _SOIL,
    reanalysis=False,
    licence=_licence("Muñoz Sabater, J. (2019): ERA5-Land hourly data from 1950 to present.", "10.24381/cds.e2161bac"),
)


@dataclass(frozen=True)
class Place:
    """Where data are requested: a box, the globe, or the cell of a site.

    Attributes
    ----------
    box : (west, south, east, north) or None
        Degrees, on cell centres; west is below east, which may be above 180. None is the globe.
    site : str
        Id of the site, which is the folder of its files; "" for a box.
    location : (latitude, longitude) or None
        Degrees, of a site.
    """

    box: Box | None = None
    site: str = ""
    location: tuple[float, float] | None = None

    @classmethod
    def of_box(cls, product: Product, bbox: Sequence[float]) -> Place:
        """Return a box as whole cells, one cell wider on each side: finer grids are interpolated between cells.

        Raises
        ------
        ConfigError
            If the box is not (west, south, east, north) in degrees.
        """
        west, south, east, north = parse_box(bbox)
        if east - west >= 360 - 2 * product.step:
            west, east = -180.0, 180.0 - product.step
            if (south, north) == (-90, 90):
                return cls()
        else:
            west, east = _floor(west, product.step), _ceil(east, product.step)
        south, north = max(_floor(south, product.step), -90.0), min(_ceil(north, product.step), 90.0)
        return cls(box=(west, south, east, north))

    @classmethod
    def of_site(cls, product: Product, site: str, latitude: float, longitude: float) -> Place:
        """Return the cell of a site."""
        longitude = (longitude + 180) % 360 - 180
        north, east = (round(round(at / product.step) * product.step, 4) for at in (latitude, longitude))
        return cls((east, north, east, north), site, (round(latitude, 4), round(longitude, 4)))

    def cells(self, product: Product) -> int:
        """Return the number of cells of the product in the box."""
        west, south, east, north = self.box or (-180.0, -90.0, 180.0 - product.step, 90.0)
        return (round((east - west) / product.step) + 1) * (round((north - south) / product.step) + 1)


def _floor(degrees: float, step: float) -> float:
    return round((math.floor(degrees / step + 1e-9) - 1) * step, 4)


def _ceil(degrees: float, step: float) -> float:
    return round((math.ceil(degrees / step - 1e-9) + 1) * step, 4)


@dataclass(frozen=True)
class Request:
    """One request to the CDS, and the file of its answer.

    Attributes
    ----------
    name : str
        Name of the file in the folder.
    dataset : str
    body : mapping
        What is sent.
    parameters : tuple of str
        Names in `fluxcube.sources.era5.parameters`.
    fields : int
        Number of parameters times hours.
    size : int
        Expected bytes.
    """

    name: str
    dataset: str
    body: Mapping[str, object]
    parameters: tuple[str, ...]
    fields: int
    size: int

    @property
    def days(self) -> list[str]:
        """Days of the month; of a series of years, the period."""
        days = self.body.get("day", self.body.get("date"))
        return [str(day) for day in days] if isinstance(days, list) else []

    @property
    def scope(self) -> str:
        """What two requests have in common that differ by their parameters and days only."""
        kept = {key: value for key, value in self.body.items() if key not in ("variable", "day", "date")}
        return request_key({"dataset": self.dataset, **kept})

    def only(self, parameters: Sequence[str]) -> Request:
        """Return the request for some of its parameters."""
        share = len(parameters) / len(self.parameters)
        body = {**self.body, "variable": [PARAMETERS[name].request for name in parameters]}
        stem, _, suffix = self.name.rpartition(".")
        return Request(
            name=f"{stem.rpartition('_')[0]}_{_digest(body)}.{suffix}",
            dataset=self.dataset,
            body=body,
            parameters=tuple(parameters),
            fields=round(self.fields * share),
            size=_HEADER + round((self.size - _HEADER) * share),
        )

    def item(self) -> Item:
        """Return the request as an item of a plan."""
        about = {
            "dataset": self.dataset,
            "parameters": list(self.parameters),
            "days": self.days,
            "scope": self.scope,
        }
        return Item(self.name, request_key({"dataset": self.dataset, "request": self.body}), self.size, about=about)


@dataclass(frozen=True)
class Period:
    """The days that are requested, both ends included."""

    first: date
    last: date

    @classmethod
    def of_years(cls, years: Sequence[int], lead: int, product: Product, today: date) -> list[Period]:
        """Return the runs of consecutive years, each with days before and one day after, up to what is available.

        The day after has the stamp at the end of the last hour, and hours of the last local day. Earlier days are those
        of the model's trailing means, and of the first local day.

        Raises
        ------
        ConfigError
            If a year is before the product's first one, or not there yet.
        """
        latest = today - _DELAY
        ordered = sorted(set(years))
        if not ordered or not all(isinstance(year, (int, np.integer)) for year in ordered):
            raise ConfigError(f"years must be whole numbers such as 2018, or several of them; found {years!r}.")
        for year in (ordered[0], ordered[-1]):
            if not product.first_year <= year <= latest.year:
                raise ConfigError(
                    f"{product.dataset} has the years from {product.first_year} to {latest.year}, found {year}: "
                    "choose other years."
                )
        periods = []
        for _, run in itertools.groupby(enumerate(ordered), lambda pair: pair[1] - pair[0]):
            all_years = [year for _, year in run]
            first = max(date(all_years[0], 1, 1) - timedelta(days=lead), date(product.first_year, 1, 1))
            periods.append(cls(first, min(date(all_years[-1] + 1, 1, 1), latest)))
        return periods

    @property
    def months(self) -> Iterator[tuple[int, int, list[int]]]:
        """Year, month and days of each month that the period touches."""
        days = [self.first + timedelta(days=n) for n in range((self.last - self.first).days + 1)]
        for (year, month), group in itertools.groupby(days, lambda day: (day.year, day.month)):
            yield year, month, [day.day for day in group]


def monthly_requests(
    product: Product, place: Place, periods: Sequence[Period], parameters: Sequence[str], data_format: str
) -> Iterator[Request]:
    """Yield the requests of a box or a site: static fields once, then the parameters of each month by their kind."""
    static = [name for name in parameters if PARAMETERS[name].kind == "static"]
    if static:
        yield _gridded(product, place, _STATIC_DAY, ["00:00"], static, "static", data_format)
    for month in dict.fromkeys((y, m, tuple(days)) for period in periods for y, m, days in period.months):
        for kind in ("instant", "accumulated"):
            names = [name for name in parameters if PARAMETERS[name].kind == kind]
            number = max(1, MAX_FIELDS // (24 * len(month[2])))
            for start in range(0, len(names), number):
                part = names[start : start + number]
                yield _gridded(product, place, (month[0], month[1], list(month[2])), HOURS, part, kind, data_format)


#: Year, month and days of which fields that do not change are requested: the same for all periods.
_STATIC_DAY = (2020, 1, [1])
#: Hours of a day, as requests state them.
HOURS = [f"{hour:02d}:00" for hour in range(24)]


def _gridded(
    product: Product,
    place: Place,
    month: tuple[int, int, list[int]],
    hours: list[str],
    names: Sequence[str],
    kind: str,
    data_format: str,
) -> Request:
    year, number, days = month
    body: dict[str, object] = {"product_type": ["reanalysis"]} if product.reanalysis else {}
    body |= {
        "variable": [PARAMETERS[name].request for name in names],
        "year": [f"{year}"],
        "month": [f"{number:02d}"],
        "day": [f"{day:02d}" for day in days],
        "time": hours,
        "data_format": data_format,
        "download_format": "unarchived",
    }
    if place.box is not None:
        west, south, east, north = place.box
        body["area"] = [north, west, south, east]
    when = "" if kind == "static" else f"_{month_name(year, number, days[0], days[-1])}"
    fields = len(names) * len(days) * len(hours)
    return Request(
        name=_name(product, place, f"{when}_{kind}", body, SUFFIX[data_format]),
        dataset=product.dataset,
        body=body,
        parameters=tuple(names),
        fields=fields,
        size=_HEADER + round(BYTES_PER_VALUE[data_format] * fields * place.cells(product)),
    )


def month_name(year: int, month: int, first: int, last: int) -> str:
    """Return the part of a file's name that states days of a month: a part of a month must not replace the whole.

    Examples
    --------
    >>> month_name(2018, 2, 1, 28), month_name(2018, 2, 1, 3)
    ('2018-02', '2018-02-01-03')
    """
    whole = (first, last) == (1, calendar.monthrange(year, month)[1])
    return f"{year}-{month:02d}" + ("" if whole else f"-{first:02d}-{last:02d}")


def point_requests(
    product: Product, place: Place, periods: Sequence[Period], parameters: Sequence[str]
) -> Iterator[Request]:
    """Yield the requests of the series of a site: one for each run of years."""
    assert place.location is not None
    for period in periods:
        body: dict[str, object] = {
            "variable": [PARAMETERS[name].request for name in parameters],
            "location": {"latitude": place.location[0], "longitude": place.location[1]},
            "date": [f"{period.first}/{period.last}"],
            "data_format": "netcdf",
        }
        fields = len(parameters) * 24 * ((period.last - period.first).days + 1)
        yield Request(
            name=_name(product, place, f"_{period.first}_{period.last}_series", body, "zip"),
            dataset=product.points,
            body=body,
            parameters=tuple(parameters),
            fields=fields,
            size=_HEADER + round(BYTES_PER_VALUE["timeseries"] * fields),
        )


def _name(product: Product, place: Place, what: str, body: Mapping[str, object], suffix: str) -> str:
    """Return a name that differs for another area or other variables, which would otherwise replace the file."""
    folder = f"{_folder(place.site)}/" if place.site else ""
    return f"{folder}{product.name}{what}_{_digest(body)}.{suffix}"


def _folder(site: str) -> str:
    """Return the folder of a site: its name, or, if that cannot be the name of a folder, a text made from it."""
    return file_names([site])[site] if "/" in site or fault_of_name(f"{site}/file") else site


def _digest(body: Mapping[str, object]) -> str:
    kept = {key: body.get(key) for key in ("area", "variable", "location")}
    return hashlib.sha256(request_key(kept).encode()).hexdigest()[:6]
