"""ERA5 of a region and a period, copied once into a store that is cut as maps read it.

Stores such as ARCO-ERA5 keep one hour of the globe together: a map of a region would read and unpack each such hour for
every block of its cells. The copy reads each once.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube.errors import StoreError
from fluxcube.sources.era5.files import GRAVITY, Files, read_files
from fluxcube.sources.era5.open import STATIC, UNITS, storage_chunks
from fluxcube.stores.arrays import ArraySpec, create
from fluxcube.stores.building import finish, remove, write_lock
from fluxcube.stores.ledger import done_regions, mark_done
from fluxcube.stores.reading import store_attrs
from fluxcube.stores.shards import write_region
from fluxcube.stores.swap import building_place, clear_leftovers

#: Cells a side of a chunk: what `open_forcing` reads at once by default.
_CELLS = 16
#: Most bytes of a member that are in memory at once, and most hours of a file.
_BYTES, _HOURS = 256 << 20, 744

Task = tuple[str, int, int]


def copy_era5(
    source: object,
    store: str | os.PathLike,
    *,
    bbox: tuple[float, float, float, float] | None = None,
    time: slice | tuple | None = None,
    accumulation: str | None = None,
    allow_gaps: bool = False,
    storage_options: Mapping[str, object] | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> Path:
    """Copy the members that are used of some ERA5, each stored hour read once; the same call after a kill goes on.

    Parameters
    ----------
    source, bbox, time, accumulation, allow_gaps, storage_options
        As in `fluxcube.open_forcing`. For a finer grid later, take a box one cell wider.
    store : path
        Zarr store to write; `fluxcube.open_forcing` and `open_era5` read it like any other ERA5.
    overwrite : bool
        Replace a store that is there.
    progress : callable, optional
        ``progress(done, total, text)`` after each piece.

    Returns
    -------
    Path
        The store: float32 (time, latitude, longitude), a chunk 16 x 16 cells.

    Raises
    ------
    SourceError
        As `open_era5`.
    StoreError
        If a store is in the way, or the disk is full.
    """
    files = read_files(
        source, bbox=bbox, time=time, accumulation=accumulation, allow_gaps=allow_gaps, storage_options=storage_options
    )
    path, hours = Path(store).absolute(), _hours(files)
    _prepare(path, files, hours, overwrite)
    with write_lock(path):
        done = done_regions(path)
        tasks = list(_tasks(files, hours))
        for n, (name, start, stop) in enumerate(tasks, 1):
            if (key := f"{name}:{start}:{stop}") in done:
                continue
            values = files.read_cells(name, slice(start, stop), files.rows.low, files.columns.low)
            region = slice(start, stop), *(slice(0, len(axis)) for axis in (files.rows, files.columns))
            try:
                write_region(path, name, region, values.astype("float32"))
                mark_done(path, {key: int(np.isnan(values).sum())})
            except OSError as error:
                raise StoreError(f"{path}: {key}: {error}; the same call goes on.") from error
            if progress is not None:
                progress(n, len(tasks), key)
        finish(path)
    return path


def _tasks(files: Files, hours: int) -> Iterator[Task]:
    """Members and stamps of each file, in the order of time."""
    for start in range(0, files.count, hours):
        for name in files.members:
            yield name, start, min(start + hours, files.count)


def _hours(files: Files) -> int:
    """Hours of a file: whole chunks of the source where they fit."""
    most = max(1, min(_HOURS, _BYTES // (8 * len(files.rows) * len(files.columns))))
    name, runs = next(iter(files.members.items()))
    stored = (storage_chunks(runs[0].source.open()[name]) or (1,))[0]
    return most // stored * stored or most


def _prepare(path: Path, files: Files, hours: int, overwrite: bool) -> None:
    """See that an unfinished copy of just this is at `path`."""
    clear_leftovers(path)
    token = repr([[str(run.source), run.at, run.stop] for runs in files.members.values() for run in runs])
    attrs = {
        "kind": "era5",
        "accumulation": files.accumulation,
        "hours": hours,
        "copied_from": token,
        "begin": str(files.begin),
        "count": files.count,
    }
    if path.exists():
        there = store_attrs(path)
        same = all(there.get(key) == value for key, value in attrs.items())
        if same and there.get("complete") is not True and not overwrite:
            return
        if not overwrite or there.get("kind") != "era5":
            raise StoreError(f"{path} exists: give overwrite to replace a copy of ERA5, or another path.")
        remove(path)
    making = building_place(path)
    shutil.rmtree(making, ignore_errors=True)
    try:
        create(making, _coords(files), _specs(files, hours), attrs)
        for name, values in _static(files).items():
            write_region(making, name, tuple(slice(0, n) for n in values.shape), values)
        os.replace(making, path)
    except OSError as error:
        raise StoreError(f"cannot write {path} ({error.strerror or error}).") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _coords(files: Files) -> xr.Dataset:
    return xr.Dataset(
        coords={
            "time": ("time", files.stamps, {"long_name": "stamp, UTC", "standard_name": "time"}),
            "latitude": ("latitude", files.latitude, {"units": "degrees_north", "standard_name": "latitude"}),
            "longitude": ("longitude", files.longitude, {"units": "degrees_east", "standard_name": "longitude"}),
        }
    )


def _specs(files: Files, hours: int) -> dict[str, ArraySpec]:
    cells = len(files.rows), len(files.columns)
    shards = tuple(-(-n // _CELLS) * _CELLS for n in cells)
    specs = {
        name: ArraySpec(
            dims=("time", "latitude", "longitude"),
            shape=(files.count, *cells),
            dtype="float32",
            fill_value=np.nan,
            chunks=(hours, _CELLS, _CELLS),
            shards=(hours, *shards),
            attrs={"units": UNITS[name]},
            checksum=True,
        )
        for name in files.members
    }
    still = {
        name: ArraySpec(
            dims=("latitude", "longitude"),
            shape=cells,
            dtype="float32",
            fill_value=np.nan,
            chunks=cells,
            attrs={"units": STATIC[name]},
        )
        for name in _static(files)
    }
    return specs | still


def _static(files: Files) -> dict[str, np.ndarray]:
    """Geopotential and land mask, where there are any."""
    fields = {}
    if np.isfinite(files.elevation).any():
        fields["z"] = (files.elevation * GRAVITY).astype("float32")
    if files.masked:
        fields["lsm"] = files.land_fraction.astype("float32")
    return fields
