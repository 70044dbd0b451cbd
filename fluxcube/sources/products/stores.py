"""Open the files and stores of a product: NetCDF and Zarr, on a disk, by HTTP or from S3; requests are counted."""

from __future__ import annotations

import asyncio
import glob
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from fluxcube.errors import SourceError, missing_package
from fluxcube.sources.era5.clouds import describe, extra_of, public_address, remote_errors, without_user
from fluxcube.sources.netcdf import open_netcdf
from fluxcube.stores.reading import is_url

_NETCDF = (".nc", ".nc4", ".nc3", ".cdf", ".h5", ".hdf5")
_ZARR = ("zarr.json", ".zgroup", ".zmetadata")
#: Requests that failed for a reason that passes are repeated after 1, 2, 4 and 8 seconds.
_TRIES, _FIRST_WAIT = 5, 1.0
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_LAZY: dict[str, Any] = {"decode_times": False, "decode_timedelta": False, "chunks": None, "cache": False}
#: Seconds for a connection, and without any byte: a chunk of X-BASE may take longer than aiohttp's five minutes in all.
_CONNECT, _SILENT = 30.0, 120.0


@dataclass
class Traffic:
    """Requests and bytes that were received to read a product in place.

    Attributes
    ----------
    requests : int
        Number of requests that returned a file or a part of one. Requests for files that do not exist are not counted.
    bytes : int
        Bytes of their bodies, as sent (compressed).
    retries : int
        Number of requests that were repeated.
    """

    requests: int = 0
    bytes: int = 0
    retries: int = 0


class CountingStore(WrapperStore[Store]):
    """Zarr store that counts what is read from another one, and repeats requests that failed for a reason that passes.

    A chunk that does not exist is missing values. A chunk that cannot be read is an error, never missing values.
    """

    def __init__(self, store: Store, traffic: Traffic | None = None) -> None:
        super().__init__(store)
        self.traffic = Traffic() if traffic is None else traffic

    def _with_store(self, store: Store) -> CountingStore:
        return type(self)(store, self.traffic)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return one file, or a part of it; None if it does not exist."""
        for attempt in range(_TRIES):
            try:
                found = await super().get(key, prototype, byte_range)
                break
            except remote_errors() as problem:
                if attempt + 1 == _TRIES or not _passes(problem):
                    raise
                self.traffic.retries += 1
                await asyncio.sleep(_FIRST_WAIT * 2**attempt)
        if found is not None:
            self.traffic.requests += 1
            self.traffic.bytes += len(found)
        return found

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return parts of files."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))


def _passes(problem: Exception) -> bool:
    """Return whether a request may succeed when it is repeated."""
    status = getattr(problem, "status", None)
    if isinstance(status, int) and status:
        return status in _PASSING
    broken = getattr(sys.modules.get("aiohttp"), "ClientError", OSError)  # a body that ended early is no OSError
    return isinstance(problem, (OSError, broken)) and not isinstance(problem, (FileNotFoundError, PermissionError))


@dataclass(frozen=True)
class Raw:
    """One opened file or store.

    Attributes
    ----------
    data : xr.Dataset
        Lazy; times are numbers.
    name : str
        Name of the file or store, without folders.
    source : str
        Path or address without credentials.
    threads : bool
        Whether several threads read faster than one.
    """

    data: xr.Dataset
    name: str
    source: str
    threads: bool


def open_all(
    source: str | os.PathLike | Iterable[str | os.PathLike],
    *,
    members: tuple[str, ...] = (),
    options: Mapping[str, object] | None = None,
    traffic: Traffic | None = None,
) -> list[Raw]:
    """Open the files and stores of a product.

    Parameters
    ----------
    source : path, URL, pattern or list of these
        NetCDF files, Zarr stores, and folders of either.
    members : tuple of str
        Names of the stores to search below an address that is no store itself.
    options : mapping, optional
        Options of fsspec for URLs.
    traffic : Traffic, optional
        Counts what is read from Zarr stores; NetCDF files by HTTP are not counted.

    Raises
    ------
    SourceError
        If there is no file, or one cannot be opened.
    """
    several = [source] if isinstance(source, str | os.PathLike) else list(source)
    traffic = Traffic() if traffic is None else traffic
    found: list[Raw] = []
    for one in several:
        if is_url(one):
            found += _remote(str(one), members, dict(options or {}), traffic)
        else:
            found += [_local(path, traffic) for path in _paths(Path(one))]
    if not found:
        raise SourceError("the list of files of a product is empty: pass at least one path or URL.")
    return found


def names_of(source: object) -> tuple[str, ...]:
    """Return the names of files and stores by which a product can be recognised before anything is opened."""
    several = (
        [source] if isinstance(source, str | os.PathLike) else list(source) if isinstance(source, list | tuple) else []
    )
    return tuple(part for one in several for part in Path(str(one).partition("?")[0]).parts[-2:])


def _paths(path: Path) -> Iterator[Path]:
    """Find the files and stores of a path: itself, those in the folder, or those that a pattern matches."""
    if path.is_file() or _is_zarr(path):
        yield path
        return
    inside = sorted(path.iterdir()) if path.is_dir() else [Path(one) for one in sorted(glob.glob(str(path)))]
    found = [one for one in inside if _is_zarr(one) or (one.is_file() and one.suffix.lower() in _NETCDF)]
    if not found:
        what = (
            "a folder without NetCDF files or Zarr stores" if path.is_dir() else "no file, folder or pattern of files"
        )
        raise SourceError(f"{path} is {what}: pass a NetCDF file, a Zarr store, a folder of them or a pattern.")
    yield from found


def _is_zarr(path: Path) -> bool:
    return path.is_dir() and any((path / name).is_file() for name in _ZARR)


def _local(path: Path, traffic: Traffic) -> Raw:
    if path.is_dir():
        store = CountingStore(LocalStore(path, read_only=True), traffic)
        return Raw(_zarr(store, str(path)), path.name, str(path), True)
    return Raw(open_netcdf(path, **_LAZY), path.name, str(path), False)


def _remote(url: str, members: tuple[str, ...], options: dict[str, Any], traffic: Traffic) -> list[Raw]:
    address, options = without_user(url.rstrip("/"), options)
    shown = public_address(address)
    name = shown.removesuffix("?***").rpartition("/")[2]
    try:
        if name.lower().endswith(_NETCDF):
            return [Raw(_remote_netcdf(address, options), name, shown, False)]
        if one := _remote_zarr(address, options, traffic):
            return [Raw(one, name, shown, True)]
        below = {member: _remote_zarr(f"{address}/{member}", options, traffic) for member in members}
    except ImportError as problem:
        package = str(getattr(problem, "name", None) or "fsspec")
        raise missing_package(package, extra_of(address), f"opening {shown}") from None
    except SourceError:
        raise
    except remote_errors() as problem:
        raise SourceError(f"{shown}: cannot be opened ({describe(problem)}); check the address.") from None
    found = [Raw(data, member, f"{shown}/{member}", True) for member, data in below.items() if data is not None]
    if not found:
        tried = f", nor any of {', '.join(members)} below it" if members else ""
        raise SourceError(f"{shown} is no Zarr store{tried}: check the address; a NetCDF file must end in .nc.")
    return found


def _remote_zarr(address: str, options: dict[str, Any], traffic: Traffic) -> xr.Dataset | None:
    """Open a Zarr store at an address; None if there is none."""
    if "?" in address:
        raise SourceError(
            f"{public_address(address)}: the files of a Zarr store cannot be reached by a signed address: pass it "
            "without its query, and the credentials in storage_options."
        )
    store = CountingStore(
        FsspecStore.from_url(address, storage_options=_patient(address, options), read_only=True), traffic
    )
    try:
        return _zarr(store, public_address(address))
    except FileNotFoundError:
        return None


def _zarr(store: CountingStore, shown: str) -> xr.Dataset:
    with warnings.catch_warnings():
        # A store without consolidated metadata is opened all the same.
        warnings.filterwarnings("ignore", message="Failed to open Zarr store with consolidated metadata")
        data = xr.open_dataset(_as_source(store), engine="zarr", **_LAZY)
    if not data.data_vars:
        raise SourceError(
            f"{shown}: found a Zarr store without an array; by HTTP a store needs consolidated metadata (.zmetadata)."
        )
    return data


def _as_source(store: CountingStore) -> Any:
    """Return a store as xarray's function accepts it, whose annotation lacks stores of zarr."""
    return store


def _patient(address: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return options of fsspec that let a request by HTTP last as long as bytes arrive."""
    client = options.get("client_kwargs", {})
    if not address.startswith(("http://", "https://")) or "timeout" in client:
        return options
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=_SILENT)
    return {**options, "client_kwargs": {**client, "timeout": timeout}}


def _remote_netcdf(address: str, options: Mapping[str, object]) -> xr.Dataset:
    """Open a NetCDF file by HTTP; the library reads parts of it by ranges, without an account."""
    shown = public_address(address)
    if not address.startswith(("http://", "https://")) or options:
        raise SourceError(f"{shown}: a NetCDF file is read in place by HTTP without an account only: download it.")
    if importlib.util.find_spec("netCDF4") is None:
        raise missing_package("netCDF4", "grid", f"reading {shown}")
    return xr.open_dataset(f"{address}#mode=bytes", engine="netcdf4", **_LAZY)
