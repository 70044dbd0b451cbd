"""The Climate Data Store: catalogue messages, processes, jobs, results and files, as cdsapi's client requests them."""

from __future__ import annotations

import io
import itertools
import tempfile
import threading
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import xarray as xr

from fluxcube.solar import potential_radiation
from fluxcube.sources.era5.parameters import PARAMETERS, meaning_of
from services.web import Answer, Request, Service

DATASETS = (
    "reanalysis-era5-single-levels",
    "reanalysis-era5-land",
    "reanalysis-era5-single-levels-timeseries",
    "reanalysis-era5-land-timeseries",
)


class ClimateDataStore(Service):
    """A CDS whose key is `KEY`; it delivers plausible weather of any request.

    `waits` is the number of answers "accepted" before a job is successful; `ends` the final status of jobs; `licences`
    the data sets whose licence is accepted; `most` the number of fields that a request may have.
    """

    KEY = "5ecret-personal-access-token"

    def __init__(self) -> None:
        self.jobs: dict[str, dict] = {}
        self.waits, self.ends, self.licences, self.most = 0, "successful", set(DATASETS), 12000
        self._numbers = itertools.count(1)
        self._one_writer = threading.Lock()  # HDF5 is not safe in threads
        super().__init__()

    def routes(self) -> None:
        self.route("GET", "/api/catalogue/v1/messages", lambda request: Answer({"messages": []}))
        self.route("GET", r"/api/retrieve/v1/processes/([\w-]+)", self.process)
        self.route("POST", r"/api/retrieve/v1/processes/([\w-]+)/execution", self.execute)
        self.route("GET", r"/api/retrieve/v1/jobs/([\w-]+)", self.job)
        self.route("GET", r"/api/retrieve/v1/jobs/([\w-]+)/results", self.results)

    @property
    def orders(self) -> list[dict]:
        """Bodies of submitted requests, in order."""
        return [request.json()["inputs"] for request in self.asked("/execution", "POST")]

    def process(self, request: Request, name: str) -> Answer:
        if refused := self._refused(request):
            return refused
        if name not in DATASETS:
            return _problem(404, "process not found", f"dataset {name} not found")
        return Answer({"id": name, "links": []})

    def execute(self, request: Request, name: str) -> Answer:
        if refused := self._refused(request):
            return refused
        if name not in self.licences:
            page = f"{self.url}/datasets/{name}?tab=download#manage-licences"
            return _problem(403, "required licences not accepted", f"please visit {page} to accept the licence(s).")
        body = request.json()["inputs"]
        fields = len(body["variable"]) * len(body.get("day", [1])) * len(body.get("time", [1]))
        if fields > self.most:
            return _problem(403, "cost limits exceeded", "Your request is too large, please reduce your selection.")
        job = f"job-{next(self._numbers):04d}"
        self.jobs[job] = {"dataset": name, "body": body, "left": self.waits, "status": "accepted"}
        return Answer(self._state(job), 201)

    def job(self, request: Request, job: str) -> Answer:
        if refused := self._refused(request):
            return refused
        if job not in self.jobs:
            return _problem(404, "job not found", f"job {job} not found")
        entry = self.jobs[job]
        if entry["status"] == "accepted":
            entry["status"] = "accepted" if entry["left"] > 0 else self.ends
            entry["left"] -= 1
        return Answer(self._state(job))

    def results(self, request: Request, job: str) -> Answer:
        entry = self.jobs[job]
        if entry["status"] != "successful":
            return _problem(400, "The job has failed", traceback="MARS returned no data for this request")
        path = f"/files/{job}.nc"
        with self._one_writer:
            if path not in self.files:
                self.files[path] = content(entry["dataset"], entry["body"])
        value = {"href": f"{self.url}{path}", "file:size": len(self.files[path]), "type": "application/netcdf"}
        return Answer({"asset": {"value": value}})

    def _state(self, job: str) -> dict:
        url = f"{self.url}/api/retrieve/v1/jobs/{job}"
        links = [{"rel": "self", "href": url}, {"rel": "monitor", "href": url}]
        status = self.jobs[job]["status"]
        if status == "successful":
            links.append({"rel": "results", "href": f"{url}/results"})
        return {"jobID": job, "processID": self.jobs[job]["dataset"], "status": status, "links": links}

    def _refused(self, request: Request) -> Answer | None:
        if request.headers.get("private-token") == self.KEY:
            return None
        return _problem(401, "operation not allowed", "Authentication failed")


def _problem(status: int, title: str, detail: str = "", **more: str) -> Answer:
    return Answer({"type": "error", "title": title, "status": status, "detail": detail, **more}, status)


def content(dataset: str, body: dict) -> bytes:
    """Return the file that the service delivers for a request."""
    land = "land" in dataset
    names = [meaning_of(name).parameter for name in body["variable"]]
    if "location" in body:
        return _series(names, body)
    step = 0.1 if land else 0.25
    north, west, south, east = body.get("area", (90.0, -180.0, -90.0, 180.0 - step))
    latitude = np.round(np.arange(north, south - step / 2, -step), 4)
    longitude = np.round(np.arange(west, east + step / 2, step), 4)
    day = f"{body['year'][0]}-{body['month'][0]}"
    hours = [np.datetime64(f"{day}-{d}T{t[:2]}", "ns") for d in body["day"] for t in body["time"]]
    ds = weather(names, np.array(hours), latitude, longitude, totals=land)
    if body["data_format"] == "grib":
        return _grib(ds)
    ds = ds.rename(time="valid_time").assign_coords(number=0, expver=("valid_time", ["0001"] * len(hours)))
    return _netcdf(ds)


def weather(
    names: Iterable[str], time: np.ndarray, latitude: np.ndarray, longitude: np.ndarray, *, totals: bool = False
) -> xr.Dataset:
    """Return weather that depends on time and place only: half of the potential radiation reaches the ground.

    With `totals`, accumulated parameters run from 00 UTC, as in ERA5-Land.
    """
    shape = len(time), len(latitude), len(longitude)
    hour = time.astype("datetime64[h]").astype(np.int64)[:, None, None]
    light = _light(time, latitude, longitude)
    values = {
        "t2m": 283 + 5 * np.sin(2 * np.pi * (hour - 9) / 24) + latitude[:, None] / 100 + longitude / 1000,
        "d2m": 278 + 0 * hour + latitude[:, None] / 100,
        "sp": 95000 + 10 * latitude[:, None] + 0 * hour,
        "u10": 2 + np.sin(hour / 7),
        "v10": 1 + np.cos(hour / 5),
        "ssrd": 3600 * 0.5 * light,
        "strd": 1.1e6 + 0 * light,
        "ssr": 3600 * 0.4 * light,
        "tp": np.where(hour % 5 == 0, 2e-4, 0.0),
        "z": 9.80665 * (10 * np.abs(latitude[:, None]) + longitude + 180),
        "lsm": np.ones(shape),
    }
    arrays = {}
    for name in names:
        one = values.get(name, 0.3 if name.startswith("swvl") else 285.0)
        one = np.broadcast_to(one, shape).astype("float64")
        if totals and PARAMETERS[name].kind == "accumulated":
            one = _since_midnight(one, hour[:, 0, 0] % 24, name, latitude, longitude, time)
        attrs = {"units": PARAMETERS[name].units, "long_name": PARAMETERS[name].request}
        arrays[name] = (("time", "latitude", "longitude"), one.astype("float32"), attrs)
    return xr.Dataset(arrays, {"time": time, "latitude": latitude, "longitude": longitude})


def _light(time: np.ndarray, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Return the potential radiation of the hour that ends at each stamp (time, latitude, longitude), W m-2."""
    cells = np.meshgrid(latitude, longitude, indexing="ij")
    return np.moveaxis(potential_radiation(time - np.timedelta64(1, "h"), *cells), -1, 0)


def _since_midnight(one, hours, name, latitude, longitude, time) -> np.ndarray:
    out = np.zeros_like(one)
    total = 0.0
    for at, hour in enumerate(hours):
        if at == 0 and hour == 0:  # 00 UTC carries the total of the day before
            earlier = time[0] - np.arange(23, -1, -1) * np.timedelta64(1, "h")
            total = weather([name], earlier, latitude, longitude)[name].values[:-1].sum(0)
        total = one[at] + (0.0 if hour == 1 else total)
        out[at] = total
    return out


def _series(names: list[str], body: dict) -> bytes:
    """Return a zip with the series of a point: amounts of hours, of ERA5-Land, too."""
    first, last = body["date"][0].split("/")
    time = np.arange(np.datetime64(first, "h"), np.datetime64(last, "h") + 24).astype("datetime64[ns]")
    step = 0.25
    place = [np.round(np.round(body["location"][a] / step) * step, 4) for a in ("latitude", "longitude")]
    ds = weather(names, time, *(np.array([at]) for at in place)).isel(latitude=0, longitude=0)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("reanalysis-era5-timeseries.nc", _netcdf(ds.rename(time="valid_time")))
    return out.getvalue()


def _netcdf(ds: xr.Dataset) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.nc")
        ds.to_netcdf(path, engine="netcdf4", encoding={name: {"zlib": True} for name in ds.data_vars})
        return path.read_bytes()


def _grib(ds: xr.Dataset) -> bytes:
    from grib_files import write_grib

    with tempfile.TemporaryDirectory() as folder:
        return write_grib(Path(folder, "a.grib"), ds).read_bytes()
