"""Copies of ERA5 in clouds, as Zarr over HTTP: ARCO-ERA5, Earth Data Hub, and stores like them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube.sources.era5.parameters import PARAMETERS
from services.cds import weather
from services.web import Answer, Request, Service


class ZarrService(Service):
    """Serves the files of Zarr stores below a folder; with `token`, only to requests with basic authentication."""

    def __init__(self, folder: Path, token: str = "") -> None:
        self.folder, self.token = folder, token
        super().__init__()

    def routes(self) -> None:
        self.route("GET", r"/(.+)", self.file)

    def file(self, request: Request, name: str) -> Answer:
        if self.token and not request.headers.get("authorization", "").startswith("Basic "):
            return Answer({"error": "unauthorized"}, 401)
        path = self.folder / name
        if not path.is_file():
            return Answer(b"", 404)
        return Answer(path.read_bytes(), file=True)

    def chunks(self, name: str = "") -> list[str]:
        """Paths of the chunks that were read, in order."""
        return [r.path for r in self.asked(method="GET") if f"/{name}" in r.path and "/c/" in r.path and self.has(r)]

    def has(self, request: Request) -> bool:
        return (self.folder / request.path.lstrip("/")).is_file()

    @property
    def bytes(self) -> int:
        """Bytes of all files that were sent."""
        return sum(
            (self.folder / request.path.lstrip("/")).stat().st_size
            for request in self.asked(method="GET")
            if self.has(request)
        )


def globe(first: str, hours: int, names: tuple[str, ...], step: float = 5.0) -> xr.Dataset:
    """Return weather of the globe, from north to south and from 0 degrees to the east."""
    time = (np.datetime64(first, "h") + np.arange(hours)).astype("datetime64[ns]")
    return weather(names, time, np.arange(90.0, -90.1, -step), np.arange(0.0, 360.0, step))


def write_arco(folder: Path, *, before: int = 48, hours: int = 72, after: int = 24, step: float = 5.0) -> Path:
    """Write a store like ARCO-ERA5: names of requests, one hour of the globe in each chunk, empty hours around."""
    ds = globe("2019-07-01", hours, ("t2m", "d2m", "ssrd", "tp"), step)
    static = globe("2019-07-01", 1, ("z", "lsm"), step).isel(time=0, drop=True)
    full = (np.datetime64("2019-07-01", "h") + np.arange(-before, hours + after)).astype("datetime64[ns]")
    ds = ds.reindex(time=full).merge(static)
    names = {name: PARAMETERS[name].request for name in ds.data_vars} | {"z": "geopotential_at_surface"}
    ds = ds.rename(names)
    ds["geopotential"] = (("level", "latitude", "longitude"), np.zeros((2, *ds.land_sea_mask.shape), "float32"))
    last = str((full[before + hours - 1]).astype("datetime64[D]"))
    ds.attrs = {"valid_time_start": "2019-07-01", "valid_time_stop": last, "valid_time_stop_era5t": last}
    return _write(ds, folder / "arco.zarr", {"time": 1})


def write_earth_data_hub(folder: Path, hours: int = 72) -> Path:
    """Write a store like those of Earth Data Hub: short names, ``valid_time``, long and narrow chunks."""
    ds = globe("2019-07-01", hours, ("t2m", "d2m", "ssrd")).rename(time="valid_time")
    return _write(ds, folder / "era5-edh.zarr", {"valid_time": hours, "latitude": 8, "longitude": 8})


def _write(ds: xr.Dataset, path: Path, chunks: dict[str, int]) -> Path:
    encoding = {
        name: {"chunks": tuple(chunks.get(str(dim), size) for dim, size in array.sizes.items())}
        for name, array in ds.data_vars.items()
    }
    ds.to_zarr(path, encoding=encoding, consolidated=True, zarr_format=3)
    return path
