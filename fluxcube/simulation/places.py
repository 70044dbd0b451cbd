"""The planet's towers and their climate classes, and the region that is mapped."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from fluxcube.biomes import koppen
from fluxcube.simulation.ecosystem import CLASSES
from fluxcube.simulation.fields import make_field
from fluxcube.simulation.weather import elevation, weather

FLUXNET, AMERIFLUX = "FLUXNET2015", "AmeriFlux"


@dataclass(frozen=True, kw_only=True)
class Tower:
    """A site with an eddy-covariance tower.

    Attributes
    ----------
    site : str
        Site identifier; no such real site exists.
    latitude, longitude : float
        Degrees.
    elevation : float
        m.
    igbp, koppen : str
        Classes.
    utc_offset : float
        Standard time minus UTC, hours.
    step_minutes : int
        30, or 60 at a natively hourly site.
    years : (int, int)
        First and last year of its record.
    networks : tuple of (str, int, int)
        Networks that publish it, each with the first and last year of the publication.
    """

    site: str
    latitude: float
    longitude: float
    elevation: float
    igbp: str
    koppen: str
    utc_offset: float
    step_minutes: int
    years: tuple[int, int]
    networks: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Region:
    """The cells that are mapped.

    Attributes
    ----------
    latitude, longitude : (latitude,), (longitude,) float64
        Cell centres, degrees; latitude descends, as in ERA5.
    igbp : (latitude, longitude) str
        Dominant class of each cell; "WAT" for a lake.
    elevation : (latitude, longitude) float64
        m.
    """

    latitude: np.ndarray
    longitude: np.ndarray
    igbp: np.ndarray
    elevation: np.ndarray


# site, class, latitude, longitude, UTC offset, networks (F: FLUXNET2015, A: AmeriFlux) with years, minutes.
# The first of each class is in or near the region.
_TOWERS = """
ES-Zen ENF  40.62  -5.12  1     F:2018       30
US-Zen ENF  44.32 -121.61 -8    F:2017-2018,A:2018 30
TR-Zen ENF  40.62   32.51  3    F:2018       30
CA-Zen ENF  47.10  -56.02 -3.5  A:2018       30
ES-Zeb EBF  39.42  -5.94  1     F:2017-2018  30
IT-Zeb EBF  41.20   14.36  1    F:2018       30
AU-Zeb EBF -37.43  145.19 10    F:2018       30
BR-Zeb EBF  -2.61  -60.21 -4    F:2018,A:2018 60
ES-Zdb DBF  40.05  -3.90  1     F:2018       30
US-Zdb DBF  39.32  -86.41 -5    F:2017,A:2017-2018 60
IT-Zdb DBF  43.85   11.59  1    F:2017-2018  30
JP-Zdb DBF  42.74  141.52  9    F:2018       30
ES-Zmf MF   41.62  -2.74  1     F:2018       30
US-Zmf MF   45.81  -90.25 -6    A:2018       30
CN-Zmf MF   40.40  120.10  8    F:2018       60
NP-Zmf MF   30.12   81.33  5.75 F:2018       30
ES-Zos OSH  39.06  -4.02  1     F:2018       30
US-Zos OSH  36.61 -116.62 -8    F:2017-2018,A:2018 30
ZA-Zos OSH -34.12   20.53  2    F:2018       30
MX-Zos OSH  32.10 -110.14 -7    A:2018       30
ES-Zsa SAV  39.86  -5.20  1     F:2017-2018  30
US-Zsa SAV  38.43 -120.97 -8    F:2017-2018,A:2018 30
AU-Zsa SAV -35.02  139.63  9.5  F:2018       30
PT-Zsa SAV  38.52   -8.02  0    F:2018       30
ES-Zgr GRA  40.95  -4.10  1     F:2018       30
US-Zgr GRA  39.06  -96.58 -6    F:2018,A:2018 60
AR-Zgr GRA -36.61  -60.32 -3    A:2017-2018  30
DE-Zgr GRA  47.90   11.05  1    F:2018       30
ES-Zcr CRO  38.30  -5.55  1     F:2018       30
US-Zcr CRO  41.16  -96.47 -6    A:2017-2018  30
FR-Zcr CRO  43.49    1.23  1    F:2018       30
IN-Zcr CRO  30.90   75.81  5.5  F:2018       30
ES-Zwt WET  38.62  -3.30  1     F:2018       30
US-Zwt WET  39.20  -86.10 -5    A:2018       30
CZ-Zwt WET  45.02   14.77  1    F:2017-2018  30
CL-Zwt WET -40.93  -73.02 -4    F:2018       30
"""
_QUICK_CLASSES = ("ENF", "DBF", "GRA", "CRO")
_QUICK_LEFT_OUT = ("TR-Zen", "JP-Zdb", "DE-Zgr", "FR-Zcr")


@functools.lru_cache(maxsize=8)
def towers(seed: int, quick: bool = False) -> tuple[Tower, ...]:
    """Return the sites of a planet: 36, or 12 of four classes for a quick planet, all of them in 2018."""
    entries = [line.split() for line in _TOWERS.strip().splitlines()]
    if quick:
        entries = [entry for entry in entries if entry[1] in _QUICK_CLASSES and entry[0] not in _QUICK_LEFT_OUT]
    latitude, longitude = (np.array([float(entry[column]) for entry in entries]) for column in (2, 3))
    height = elevation(seed, latitude, longitude).round(0)
    # Together, because the waves in time are then computed once and not for each place.
    climates = koppen(*monthly_climate(seed, latitude, longitude), latitude)
    return tuple(_tower(*of_tower, quick) for of_tower in zip(entries, height, climates, strict=True))


def _tower(entry: list[str], height: float, climate: str, quick: bool) -> Tower:
    site, igbp, latitude, longitude, offset, networks, minutes = entry
    published = tuple(_publication(text, quick) for text in networks.split(","))
    return Tower(
        site=site,
        latitude=float(latitude),
        longitude=float(longitude),
        elevation=float(height),
        igbp=igbp,
        koppen=str(climate),
        utc_offset=float(offset),
        step_minutes=int(minutes),
        years=(min(p[1] for p in published), max(p[2] for p in published)),
        networks=published,
    )


def _publication(text: str, quick: bool) -> tuple[str, int, int]:
    network, years = text.split(":")
    first, _, last = ("2018" if quick else years).partition("-")
    return {"F": FLUXNET, "A": AMERIFLUX}[network], int(first), int(last or first)


@functools.lru_cache(maxsize=8)
def region(seed: int, quick: bool = False) -> Region:
    """Return the mapped cells: 10 x 12 at 0.25 degree, or 4 x 5 of them with four classes for a quick planet."""
    latitude = 41.0 - 0.25 * np.arange(10)
    longitude = -6.25 + 0.25 * np.arange(12)
    lat, lon = (x.ravel() for x in np.meshgrid(latitude, longitude, indexing="ij"))
    igbp = _mosaic(seed, lat, lon).reshape(10, 12)
    whole = Region(
        latitude=latitude, longitude=longitude, igbp=igbp, elevation=elevation(seed, lat, lon).reshape(10, 12)
    )
    return _cut(whole, slice(0, 4), slice(4, 9)) if quick else whole


def _cut(whole: Region, rows: slice, columns: slice) -> Region:
    """Return part of a region in which only the classes of a quick planet grow."""
    igbp = whole.igbp[rows, columns].copy()
    other = ~np.isin(igbp, (*_QUICK_CLASSES, "WAT"))
    igbp[other] = np.resize(_QUICK_CLASSES, other.sum())
    return Region(
        latitude=whole.latitude[rows],
        longitude=whole.longitude[columns],
        igbp=igbp,
        elevation=whole.elevation[rows, columns],
    )


def _mosaic(seed: int, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Return the class of each cell (cell,), in patches, each class about equally often; three cells are lakes."""
    rng = np.random.default_rng([seed, 11])
    suit = np.stack([make_field(rng, (60, 220)).at(latitude, longitude) for _ in CLASSES], 1)
    bias = np.zeros(len(CLASSES))
    for _ in range(300):  # favour rare classes until all are about equally common
        count = np.bincount((suit + bias).argmax(1), minlength=len(CLASSES))
        bias -= 0.02 * (count - len(suit) / len(CLASSES))
    igbp = np.array(CLASSES, object)[(suit + bias).argmax(1)]
    edge = (np.abs(latitude - 39.875) > 1.0) | (np.abs(longitude + 4.875) > 1.2)
    igbp[np.where(edge, -np.inf, make_field(rng, (60, 220)).at(latitude, longitude)).argsort()[-3:]] = "WAT"
    return igbp


def monthly_climate(seed: int, latitude: np.ndarray, longitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean temperature (place, month) in degC and rain (place, month) in mm over 2016 to 2018."""
    time = np.arange("2016-01-01T00", "2019-01-01T00", 6, dtype="datetime64[h]")
    air = weather(seed, time, latitude, longitude, step_hours=6.0)
    month = time.astype("datetime64[M]").astype(int) % 12
    of_month = (month == np.arange(12)[:, None]).astype(float)
    return air["TA"] @ of_month.T / of_month.sum(1), air["P"] @ of_month.T / 3.0
