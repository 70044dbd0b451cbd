"""Open GRIB files as Datasets whose values are read lazily, by a process of its own (`grib_read`).

A file usually has analyses (temperature) and accumulations of forecasts (sunlight) at different times. Parameters with
the same grid and stamps form one group, which is opened like a NetCDF file of its own.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from fluxcube.errors import SourceError
from fluxcube.sources.era5.grib_read import COLUMNS
from fluxcube.sources.era5.parameters import RATES, STATIC, UNITS, meaning_of_number
from fluxcube.sources.reader_process import ReaderProcess

#: Suffixes of GRIB files; inside a zip, files are recognised by them.
SUFFIXES = (".grib", ".grb", ".grib1", ".grb1", ".grib2", ".grb2")
process = ReaderProcess("fluxcube.sources.era5.grib_read", "eccodes (GRIB)")
_RATE_NAMES = {to: name for name, to in reversed(RATES.items())}


@dataclass(frozen=True, eq=False)
class Series:
    """The messages of one parameter.

    Attributes
    ----------
    name : str
        Name in `fluxcube.sources.era5.parameters`; of a mean rate, its name in files of the Climate Data Store.
    units : str
    latitude, longitude : tuple of float
        Degrees, in the order in which values are stored.
    stamps : (stamp,) int64
        Ascending, s since 1970.
    messages : (stamp, 2) int64
        Offset and length in the file, bytes.
    """

    name: str
    units: str
    latitude: tuple[float, ...]
    longitude: tuple[float, ...]
    stamps: np.ndarray
    messages: np.ndarray


@dataclass(frozen=True, eq=False)
class Index:
    """The contents of a GRIB file: a series of each parameter that is used, and the names of the others."""

    series: tuple[Series, ...]
    others: tuple[str, ...]
    land: bool

    @property
    def groups(self) -> list[tuple[str, ...]]:
        """Names of the parameters that have the same grid and stamps, in the order of the file."""
        groups: dict[tuple, list[str]] = {}
        for one in self.series:
            groups.setdefault((one.latitude, one.longitude, one.stamps.tobytes()), []).append(one.name)
        return [tuple(names) for names in groups.values()]


def read_index(path: Path) -> Index:
    """Read which parameters, stamps and grids a file has; it is kept until the file changes.

    Where a stamp has ERA5 and ERA5T, the former is used; where it has an analysis and a forecast, or forecasts of
    several steps, the shortest step.

    Raises
    ------
    SourceError
        If the file cannot be read, has no message, several ensemble members, or a message twice.
    MissingPackageError
        If eccodes is not installed.
    """
    state = path.stat()
    return _index(path, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _index(path: Path, size: int, changed: int) -> Index:
    contents, table = (answer for answer in process.call("index", path) if answer is not None)
    columns = dict(zip(COLUMNS, table.T, strict=True))
    if not len(table) and not contents["others"]:
        raise SourceError(f"{path}: no GRIB message was found in {size} bytes: download it again.")
    if len(members := np.unique(columns["member"])) > 1:
        raise SourceError(f"{path}: has {len(members)} ensemble members: request product_type 'reanalysis'.")
    series = [
        _series(
            path,
            entry,
            contents["grids"],
            {name: values[columns["parameter"] == at] for name, values in columns.items()},
        )
        for at, entry in enumerate(contents["parameters"])
    ]
    return Index(tuple(series), tuple(contents["others"]), contents["land"])


def _series(path: Path, entry: dict[str, Any], grids: list[dict[str, Any]], columns: dict[str, np.ndarray]) -> Series:
    """Return the series of one parameter: of each stamp the preferred message."""
    meaning = meaning_of_number(entry["number"])
    assert meaning is not None  # the reader returns no other
    name = _RATE_NAMES[meaning.parameter] if meaning.rate else meaning.parameter
    if len(np.unique(columns["grid"])) > 1:
        raise SourceError(f"{path}: {name} is on several grids: split the file by grid (grib_copy).")
    preference = np.column_stack([columns[key] for key in ("time", "preliminary", "step")])
    order = np.lexsort(preference.T[::-1])
    repeated = (np.diff(preference[order], axis=0) == 0).all(1)
    stamps = columns["time"][order]
    if repeated.any():
        raise SourceError(
            f"{path}: {name} of {np.datetime64(int(stamps[:-1][repeated][0]), 's')} appears twice: the file was "
            "concatenated with itself, or with one that overlaps; download it again."
        )
    order = order[np.concatenate([[True], np.diff(stamps) > 0])]
    grid = grids[int(columns["grid"][0])]
    return Series(
        name=name,
        units=entry["units"],
        latitude=tuple(grid["latitude"]),
        longitude=tuple(grid["longitude"]),
        stamps=columns["time"][order],
        messages=np.column_stack([columns["offset"], columns["length"]])[order],
    )


def open_grib(path: Path, names: tuple[str, ...] = ()) -> xr.Dataset:
    """Open parameters of a GRIB file lazily.

    Parameters
    ----------
    path : Path
    names : tuple of str
        A group of `Index.groups`; by default the first one.

    Returns
    -------
    xr.Dataset
        float32 (valid_time, latitude, longitude), in the order in which values are stored; fields that do not change
        (latitude, longitude). Each message is one chunk.

    Raises
    ------
    SourceError, MissingPackageError
        As `read_index`.
    """
    index = read_index(path)
    names = names or (index.groups[0] if index.groups else ())
    chosen = [one for one in index.series if one.name in names]
    attrs = {"dataset": "ERA5-Land"} if index.land else {}
    if not chosen:
        return xr.Dataset({name: ((), np.nan) for name in index.others}, attrs=attrs)
    arrays = {one.name: _variable(path, one) for one in chosen}
    first = chosen[0]
    coords = {
        "valid_time": ("valid_time", first.stamps.astype("datetime64[s]").astype("datetime64[ns]")),
        "latitude": ("latitude", np.array(first.latitude), {"units": "degrees_north"}),
        "longitude": ("longitude", np.array(first.longitude), {"units": "degrees_east"}),
    }
    variables = {name: xr.Variable(*value) for name, value in coords.items()}
    return xr.Dataset(arrays, attrs=attrs).assign(variables).set_coords(list(variables))


def _variable(path: Path, series: Series) -> xr.Variable:
    array = _Messages(path, series)
    units = UNITS[series.name] if series.name in STATIC else series.units
    return xr.Variable(
        ("valid_time", "latitude", "longitude"),
        indexing.LazilyIndexedArray(array),
        {"units": units},
        encoding={"chunks": (1, *array.shape[1:]), "source": str(path)},
    )


class _Messages(BackendArray):
    """The values of a series (stamp, latitude, longitude), of which the requested messages are read."""

    def __init__(self, path: Path, series: Series) -> None:
        self._path, self._messages = path, series.messages
        self.shape = (len(series.stamps), len(series.latitude), len(series.longitude))
        self.dtype = np.dtype("float32")

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key: tuple[int | slice, ...]) -> np.ndarray:
        spans = [
            range(size)[part] if isinstance(part, slice) else range(part, part + 1)
            for part, size in zip(key, self.shape, strict=True)
        ]
        out = np.empty([len(span) for span in spans], self.dtype)
        rows, columns = ([span.start, span.stop, span.step] for span in spans[1:])
        messages = self._messages[list(spans[0])].tolist()
        if out.size:
            fields = process.call("fields", self._path, messages=messages, rows=rows, columns=columns)
            for at, field in enumerate(fields):
                out[at] = field
        return out[tuple(slice(None) if isinstance(part, slice) else 0 for part in key)]
