"""Read GRIB messages with eccodes, in a process of its own: beside rasterio, some versions of it abort at exit.

`fluxcube.sources.era5.grib` starts this module as a program and sends it requests; `READERS` are the functions that it
can call. Nothing is decoded by cfgrib, which drops parameters of other step types than the first one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fluxcube.errors import SourceError, missing_package
from fluxcube.sources.era5.parameters import meaning_of_number
from fluxcube.sources.reader_process import Readers, serve

#: Columns of the index of messages, int64.
COLUMNS = ("parameter", "grid", "time", "step", "preliminary", "member", "offset", "length")
#: Value of cells without one while a message is decoded.
_MISSING = 1e37
_AGAIN = "download it again"
#: Number of messages after which a caller learns that the index of a long file is still being read.
_SIGN_OF_LIFE = 5000
#: Kinds of level whose fields are not at the surface; the geopotential has one number at all of them.
_ALOFT = ("isobaricInhPa", "isobaricInPa", "hybrid", "theta", "potentialVorticity")


def read_index(path: Path) -> Iterator[Any]:
    """Yield the parameters and grids of a file as one dict, and the index of its messages; None before, as it goes on.

    The dict has ``parameters`` (paramId and units of each that is used), ``grids`` (latitude and longitude of each),
    ``others`` (names of parameters that are not used) and ``land`` (whether the data are ERA5-Land). The index is an
    array (message, column) int64, with the columns `COLUMNS`: positions in the lists, time of validity (s since 1970),
    step (h), whether the message is preliminary (ERA5T), ensemble member, offset and length in the file (bytes).

    Raises
    ------
    SourceError
        If the file is damaged, or a grid is not of latitudes and longitudes.
    """
    ec = _eccodes()
    parameters: dict[int, dict[str, Any]] = {}
    grids: dict[str, dict[str, Any]] = {}
    others: dict[str, None] = {}
    rows, land = [], False
    for number_read, message in enumerate(_messages(ec, path), 1):
        if number_read % _SIGN_OF_LIFE == 0:
            yield None
        number = ec.codes_get(message, "paramId")
        if meaning_of_number(number) is None or _key(ec, message, "typeOfLevel", "") in _ALOFT:
            others[ec.codes_get(message, "shortName")] = None
            continue
        land = land or _key(ec, message, "class", "") == "l5"
        entry = parameters.setdefault(number, {"number": number, "units": ec.codes_get(message, "units")})
        key = ec.codes_get(message, "md5GridSection")
        if key not in grids:
            grids[key] = _grid(ec, message, path)
        rows.append(
            (
                list(parameters).index(entry["number"]),
                list(grids).index(key),
                _validity(ec, message),
                ec.codes_get_long(message, "endStep"),
                int(_key(ec, message, "expver", "0001") != "0001"),
                int(_key(ec, message, "number", "0") or 0),
                ec.codes_get_long(message, "offset"),
                ec.codes_get_long(message, "totalLength"),
            )
        )
    yield {
        "parameters": list(parameters.values()),
        "grids": list(grids.values()),
        "others": list(others),
        "land": land,
    }
    yield np.array(rows, np.int64).reshape(-1, len(COLUMNS))


def read_fields(
    path: Path, messages: Sequence[tuple[int, int]], rows: Sequence[int], columns: Sequence[int]
) -> Iterator[np.ndarray]:
    """Yield a box (row, column) float32 of each message; NaN where a cell has no value.

    Parameters
    ----------
    path : Path
    messages : sequence of (offset, length)
        Bytes, as in the index.
    rows, columns : (start, stop, step)
        Positions on the grid of the message, as it is stored.
    """
    ec = _eccodes()
    box = slice(*rows), slice(*columns)
    with open(path, "rb") as file:
        for offset, length in messages:
            file.seek(offset)
            with _handled(path):
                yield _values(ec, ec.codes_new_from_message(file.read(length)))[box]


#: Functions that a request can name.
READERS: Readers = {"index": read_index, "fields": read_fields}


def _messages(ec: Any, path: Path) -> Iterator[Any]:
    """Yield the handle of each message, which is released afterwards."""
    with open(path, "rb") as file, _handled(path):
        while (message := ec.codes_grib_new_from_file(file, headers_only=True)) is not None:
            try:
                yield message
            finally:
                ec.codes_release(message)


@contextlib.contextmanager
def _handled(path: Path) -> Iterator[None]:
    """Turn an error of eccodes into a SourceError that names the file."""
    try:
        yield
    except (_eccodes().CodesInternalError, OSError) as problem:
        raise SourceError(
            f"{path}: cannot be read as GRIB, it is damaged or cut short ({problem}): {_AGAIN}."
        ) from problem


def _key(ec: Any, message: Any, name: str, default: str) -> str:
    """Return a key of the message as text, or the default where it has none."""
    try:
        return str(ec.codes_get_string(message, name))
    except ec.KeyValueNotFoundError:
        return default


def _validity(ec: Any, message: Any) -> int:
    """Return the time at which a value is valid, or at which its accumulation ends: seconds since 1970."""
    date, time = (ec.codes_get_long(message, key) for key in ("validityDate", "validityTime"))
    day = np.datetime64(f"{date // 10000:04d}-{date // 100 % 100:02d}-{date % 100:02d}", "D")
    return int(day.astype("datetime64[s]").astype(np.int64)) + 3600 * (time // 100) + 60 * (time % 100)


def _grid(ec: Any, message: Any, path: Path) -> dict[str, list[float]]:
    """Return the latitudes and longitudes of a regular grid, in the order in which values are stored."""
    kind = ec.codes_get(message, "gridType")
    if kind != "regular_ll":
        raise SourceError(
            f"{path}: the grid is {kind}, expected one of latitudes and longitudes (regular_ll): request "
            "grid=0.25/0.25, or interpolate with cdo remapbil."
        )
    if ec.codes_get_long(message, "jPointsAreConsecutive"):
        raise SourceError(f"{path}: values are stored by columns, expected by rows: convert it to NetCDF.")
    rows, columns = (ec.codes_get_long(message, key) for key in ("Nj", "Ni"))
    (north, west), (south, east) = (
        [ec.codes_get_double(message, f"{axis}Of{end}GridPointInDegrees") for axis in ("latitude", "longitude")]
        for end in ("First", "Last")
    )
    span = -((west - east) % 360) if ec.codes_get_long(message, "iScansNegatively") else (east - west) % 360
    return {
        "latitude": np.round(np.linspace(north, south, rows), 6).tolist(),
        "longitude": np.round(west + np.linspace(0, span, columns), 6).tolist(),
    }


def _values(ec: Any, message: Any) -> np.ndarray:
    """Decode a message (row, column) float32, and release it."""
    try:
        ec.codes_set(message, "missingValue", _MISSING)
        rows, columns = (ec.codes_get_long(message, key) for key in ("Nj", "Ni"))
        values = ec.codes_get_values(message).reshape(rows, columns)
        if ec.codes_get_long(message, "bitmapPresent"):
            values = np.where(values == _MISSING, np.nan, values)
        if ec.codes_get_long(message, "alternativeRowScanning"):
            values[1::2] = values[1::2, ::-1]
        return values.astype("float32")
    finally:
        ec.codes_release(message)


def _eccodes() -> Any:
    try:
        import eccodes
    except (ImportError, RuntimeError):  # RuntimeError: the Python package is there, but not its library
        raise missing_package("eccodes", "grib", "reading ERA5 in GRIB") from None
    return eccodes


if __name__ == "__main__":
    serve(READERS)
