"""Recognise bands, flags, dates and places from the names of columns and NetCDF variables of reflectance."""

from __future__ import annotations

import re
from calendar import isleap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fluxcube.errors import ConfigError, SourceError
from fluxcube.variables import SURFACE_BANDS

#: MODIS bands by number.
BAND_NUMBERS = {i: name for i, name in enumerate(SURFACE_BANDS[:7], 1)} | {11: "green531", 12: "green551"}
#: Keys of the option `columns` that are no bands and no flags.
PLACES = ("site", "day", "year", "doy", "latitude", "longitude", "pixel")
FLAGS = ("state_1km", "QC_500m", "mandatory_quality", "view_zenith")

#: The product and collection before the layer in the columns of AppEEARS: ``MOD09GA_061_sur_refl_b01_1``.
_PREFIX = re.compile(r"^(m[a-z]d(?:\d\d[a-z]\w*?|ocga))[_.](\d{3})_(.+)$")
_PRODUCT = re.compile(r"(?<![a-z0-9])(m[coy][a-z]?d?(?:\d\d(?:ga|gq|a[1-4]|q1)|ocga))(?:[._ -]+v?(\d{3})(?!\d))?", re.I)
_BAND = re.compile(
    r"(?:(?:sur_?refl(?:ectance)?_?)?b(?:and)?_?0*(?P<number>\d{1,2})|nadir_?refl(?:ectance)?_?b(?:and)?_?(?P<nadir>\d))(?:_1)?"
)
_MANDATORY = re.compile(r"brdf_albedo_band_mandatory_quality_(?:band)?(\w+)")
_OTHER_SENSOR = re.compile(r"b0?8a", re.IGNORECASE)
_COLOURS = {"swir_1": "swir1", "swir_2": "swir2", "swir_3": "swir3", "near_infrared": "nir"}
_PATTERNS = {
    "snow": re.compile(r"snow(_frac|_fraction|_share|_cover)?"),
    "state_1km": re.compile(r"state_?1km(_1)?|state_?qa|sur_refl_state_500m"),
    "QC_500m": re.compile(r"qc_?500m(_1)?"),
    "view_zenith": re.compile(r"sensor_?zenith(_1)?|view_?zenith(_angle)?|vza"),
    "latitude": re.compile(r"lat|latitude"),
    "longitude": re.compile(r"lon|long|lng|longitude"),
    "pixel": re.compile(r"pixel|pixel_?id|pixel_?number"),
    "year": re.compile(r"year|yr"),
    "doy": re.compile(r"doy|day_?of_?year|yday|julian_?day"),
}
#: Columns of sites and dates in order of preference.
_SITES = (
    "site",
    "site_id",
    "siteid",
    "site_code",
    "fluxnetid",
    "site_name",
    "station",
    "tower",
    "id",
    "category",
    "aid",
)
_DAYS = ("calendar_date", "date", "day", "datetime", "timestamp", "time", "system:time_start", "modis_date")
_IMAGES = "system:index"

_YEAR_DAY = re.compile(r"A?(\d{4})[-_]?(\d{3})", re.IGNORECASE)
_CALENDAR = re.compile(r"(\d{4})[-_/]?(\d{2})[-_/]?(\d{2})(?:[T ].*)?")
#: The date in the name of an image of Earth Engine, such as ``2018_07_04`` or ``1_2018_07_04_0000``.
_IMAGE = re.compile(r"(?<!\d)(\d{4})_(\d{2})_(\d{2})(?!\d)")
_SLASHES = re.compile(r"(\d{1,2})[/.](\d{1,2})[/.](\d{4})(?: .*)?")


@dataclass(frozen=True)
class Column:
    """The meaning of a column.

    Attributes
    ----------
    key : str
        Band of `SURFACE_BANDS`, one of `FLAGS` (``mandatory_quality:red`` for that of a band), or one of `PLACES`.
    product, collection : str
        Of the name, as "MOD09GA" and "061"; "" where it does not contain them.
    """

    key: str
    product: str = ""
    collection: str = ""


def column_meaning(name: str) -> Column | None:
    """Return the meaning of the name of a column; None for others.

    Examples
    --------
    >>> column_meaning("MOD09GA_061_sur_refl_b02_1")
    Column(key='nir', product='MOD09GA', collection='061')
    >>> column_meaning("b11").key, column_meaning("MCD43A4_061_BRDF_Albedo_Band_Mandatory_Quality_Band1").key
    ('green531', 'mandatory_quality:red')
    >>> column_meaning("MOD09GA_061_state_1km_1_bitmask") is None
    True
    """
    plain = re.sub(r"[^a-z0-9:]+", "_", name.strip().lower()).strip("_")
    product = collection = ""
    if match := _PREFIX.match(plain):
        product, collection, plain = match[1].upper(), match[2], match[3]
    if plain in SURFACE_BANDS[:-1] or plain in _COLOURS:
        return Column(_COLOURS.get(plain, plain), product, collection)
    if match := _BAND.fullmatch(plain):
        band = BAND_NUMBERS.get(int(match["number"] or match["nadir"]))
        return Column(band, product, collection) if band else None
    if match := _MANDATORY.fullmatch(plain):
        band = BAND_NUMBERS.get(int(match[1])) if match[1].isdigit() else None
        return Column(f"mandatory_quality:{band}", product, collection) if band else None
    for key, pattern in _PATTERNS.items():
        if pattern.fullmatch(plain):
            return Column(key, product, collection)
    return None


def product_in(text: str) -> tuple[str, str]:
    """Return product and collection in the name or title of a file; "" where there is none.

    Examples
    --------
    >>> product_in("MOD09GA (bands 1-7) v006 daily"), product_in("MCD43A4.061_500m_aid0001.nc")
    (('MOD09GA', ''), ('MCD43A4', '061'))
    """
    match = _PRODUCT.search(text)
    if match is None or not match[1].upper().startswith(("MOD", "MYD", "MCD")):
        return "", ""
    return match[1].upper(), match[2] or ""


def agreed(name: str, passed: str, found: str, where: str) -> str:
    """Return the product or collection of a file: the one that the user passed, or that the file states.

    Raises
    ------
    SourceError
        If both are known and differ.

    Examples
    --------
    >>> agreed("collection", "6", "006", "a.csv"), agreed("product", "", "MOD09GA", "a.csv")
    ('006', 'MOD09GA')
    """
    if passed and found and passed.upper().lstrip("0") != found.upper().lstrip("0"):
        raise SourceError(
            f"{where}: expected the {name} {passed!r} that was passed, the file states {found!r}: pass none."
        )
    return found or passed


def find_columns(names: Iterable[str], columns: Mapping[str, str], where: str) -> tuple[dict[str, str], str, str]:
    """Return the column of each key, and the product and collection in the names.

    Parameters
    ----------
    names : iterable of str
        Columns of the file.
    columns : mapping of str to str
        Columns by key that the user names.
    where : str
        The file, for messages.

    Raises
    ------
    ConfigError
        If `columns` has an unknown key.
    SourceError
        If the file lacks a column that `columns` names, or has two for one key.
    """
    names = list(names)
    known = (*SURFACE_BANDS, *PLACES, *FLAGS, *(f"mandatory_quality:{band}" for band in SURFACE_BANDS[:7]))
    for key, name in columns.items():
        if key not in known:
            raise ConfigError(f"columns: unknown key {key!r}; known: {', '.join(known[: len(known) - 7])}.")
        if name not in names:
            raise SourceError(f"{where}: expected the column {name!r} for {key}, found {', '.join(names[:30])}.")
    found = dict(columns)
    product, collection = _one_product(names, where)
    only_named = bool(set(columns) & set(SURFACE_BANDS[:-1]))
    if any(_OTHER_SENSOR.fullmatch(name.strip()) for name in names) and not only_named:
        raise SourceError(
            f"{where}: the column B8A is one of Sentinel-2, whose bands have other numbers than those of MODIS: name "
            "them with columns={'red': 'B4', 'nir': 'B8A', ...}."
        )
    for name in names:
        meaning = column_meaning(name)
        if meaning is None or name in columns.values() or meaning.key in columns:
            continue
        if only_named and meaning.key in SURFACE_BANDS[:-1]:
            continue
        if meaning.key in found:
            raise SourceError(
                f"{where}: the columns {found[meaning.key]!r} and {name!r} both contain {meaning.key}: choose one with "
                f"columns={{{meaning.key!r}: ...}}."
            )
        found[meaning.key] = name
    lower = {name.strip().lower().replace(" ", "_"): name for name in reversed(names)}
    for key, wanted in (("site", _SITES), ("day", (*_DAYS, _IMAGES))):
        if key not in found and (chosen := next((lower[n] for n in wanted if n in lower), None)):
            found[key] = chosen
    return found, product, collection


def _one_product(names: Iterable[str], where: str) -> tuple[str, str]:
    """Return the product and collection in the names of columns; SourceError if there are several."""
    meanings = [meaning for name in names if (meaning := column_meaning(name)) and meaning.product]
    collections = {meaning.collection for meaning in meanings}
    if len(collections) > 1:
        raise SourceError(
            f"{where}: expected columns of one collection, found {', '.join(sorted(collections))}: calibration and "
            "quality flags differ between them; keep the columns of one."
        )
    products = {meaning.product for meaning in meanings}
    products = {"MOD09GA"} if products == {"MOD09GA", "MODOCGA"} else products
    if len(products) > 1:
        raise SourceError(
            f"{where}: expected columns of one product, found {', '.join(sorted(products))}: keep the columns of one."
        )
    return next(iter(products), ""), next(iter(collections), "")


def line_of(table: pd.Series | pd.DataFrame, entry: int) -> int:
    """Return the line of the file that contains an entry of a table; the header is line 1, and its index counts on."""
    return int(table.index[entry]) + 2


def parse_days(column: pd.Series, where: str, time_format: str | None = None) -> np.ndarray:
    """Return the dates (n,) datetime64[D] of a column.

    Calendar dates (``2018-07-04``, also with a time, ``20180704``), year and day of the year (``2018185``,
    ``A2018185``) and milliseconds since 1970 are recognised. Of ``04/07/2018`` the order of day and month must follow
    from the column.

    Raises
    ------
    SourceError
        If a date cannot be read, or can be read in two ways; the message contains the line.

    Examples
    --------
    >>> parse_days(pd.Series(["A2018185", "2018186"]), "example")
    array(['2018-07-04', '2018-07-05'], dtype='datetime64[D]')
    """
    codes, texts = pd.factorize(column)
    if (codes < 0).any():
        line = line_of(column, int(np.flatnonzero(codes < 0)[0]))
        raise SourceError(f"{where}: line {line}: {column.name} has no date; every line needs one.")
    if pd.api.types.is_datetime64_any_dtype(column):
        return pd.DatetimeIndex(texts).to_numpy("datetime64[D]")[codes]
    if time_format is not None:
        try:
            return pd.to_datetime(pd.Index(texts).astype(str), format=time_format).to_numpy("datetime64[D]")[codes]
        except ValueError as problem:
            raise SourceError(f"{where}: {column.name} has not the format {time_format!r} ({problem}).") from problem
    words = [f"{text:.0f}" if isinstance(text, float) else str(text).strip() for text in texts]
    order = _order_of_slashes(words, where, str(column.name))
    days = np.empty(len(words), "datetime64[D]")
    for i, word in enumerate(words):
        day = _day(word, order)
        if day is None:
            line = line_of(column, int(np.flatnonzero(codes == i)[0]))
            advice = (
                "it is a day of the year without its year: pass columns={'year': ..., 'doy': ...}"
                if word.isdigit() and 1 <= int(word) <= 366
                else "expected a date such as 2018-07-04, 2018185 or A2018185; pass time_format= for others"
            )
            raise SourceError(f"{where}: line {line}: {column.name} is {word!r}: {advice}.")
        days[i] = day
    return days[codes]


def _order_of_slashes(words: list[str], where: str, name: str) -> tuple[int, int]:
    """Return the positions of month and day in dates such as 07/04/2018."""
    parts = [match.groups() for word in words if (match := _SLASHES.fullmatch(word))]
    if not parts:
        return 0, 1
    first, second = ({int(part[i]) for part in parts} for i in (0, 1))
    if max(first) > 12:
        return 1, 0
    if max(second) > 12:
        return 0, 1
    raise SourceError(
        f"{where}: {name} can be read as day/month or as month/day ({words[0]!r}): pass time_format='%d/%m/%Y' or "
        "'%m/%d/%Y'."
    )


def _day(word: str, order: tuple[int, int]) -> np.datetime64 | None:
    """Return the date of a text; None if it is none."""
    try:
        if match := _YEAR_DAY.fullmatch(word):
            return day_of_year(int(match[1]), int(match[2]))
        if match := _CALENDAR.fullmatch(word):
            return np.datetime64("{}-{}-{}".format(*match.groups()), "D")
        if match := _SLASHES.fullmatch(word):
            month, day = int(match[1 + order[0]]), int(match[1 + order[1]])
            return np.datetime64(f"{match[3]}-{month:02d}-{day:02d}", "D")
        if (match := _IMAGE.search(word)) is not None:
            return np.datetime64("{}-{}-{}".format(*match.groups()), "D")
        if word.isdigit() and len(word) in (12, 13) and not word.startswith("0"):
            return np.datetime64(int(word), "ms").astype("datetime64[D]")
    except ValueError:
        return None
    return None


def day_of_year(year: int, day: int) -> np.datetime64 | None:
    """Return the date of a day of a year; None if the year has no such day."""
    if not 1 <= day <= 365 + isleap(year):
        return None
    return np.datetime64(f"{year:04d}-01-01", "D") + np.timedelta64(day - 1, "D")
