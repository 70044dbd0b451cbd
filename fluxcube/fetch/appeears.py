"""MODIS from AppEEARS: tasks for areas around sites, or for the pixel at each site, and download of their bundles.

A task waits in a queue, minutes to days; its id is in the ledger, so that a stopped fetch finds it again. The list of
its files is kept as ``TASK/bundle.json``, so that a later call knows them when the service has deleted them, after 30
days.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fluxcube.errors import FetchError
from fluxcube.fetch.appeears_client import Client, Gone, checked_id, is_id
from fluxcube.fetch.control import pause
from fluxcube.fetch.http import Downloaded
from fluxcube.fetch.items import Item, Plan, check_name, request_key, size_text, within
from fluxcube.fetch.ledger import Ledger
from fluxcube.fetch.modis_places import Window
from fluxcube.fetch.modis_products import COLLECTION, Product, licence
from fluxcube.fetch.modis_request import Request
from fluxcube.fetch.run import fetch_all, make_plan, whole
from fluxcube.parsing import read_json
from fluxcube.sources.modis.grid import COLS, ROWS

#: Products and options of the service, as `fluxcube.fetch.modis` checks them.
PRODUCTS = ("MCD43A4", "MCD43A2", "MOD09GA", "MODOCGA", "MCD12Q1")
OPTIONS = ("series",)
SOURCE = "MODIS from AppEEARS"
TERMS = "AppEEARS requires a citation, too: https://appeears.earthdatacloud.nasa.gov/help#citing."
#: Maximum number of areas, or of points, in a task.
_AREAS, _POINTS = 50, 500
#: Seconds between two questions for the state of a task, at first and at most.
_FIRST_POLL, _LONGEST_POLL = 10.0, 120.0
_FAILED = ("error", "failed", "deleted", "expired", "cancelled", "canceled")
#: Layers whose names AppEEARS ends with the number of the observation.
_NUMBERED = ("MOD09GA", "MODOCGA")


@dataclass(frozen=True)
class Task:
    """A task: the body of its request, the item of the list of its files, and the estimated bytes of these."""

    body: Mapping[str, Any]
    item: Item
    bytes: int


def plan(request: Request) -> Plan:
    """Return the plan: the files of finished tasks, and tasks to submit. Nothing is sent."""
    items: list[Item] = []
    waiting = estimate = 0
    for task in make_tasks(request):
        files = _listed(request.folder, task)
        waiting += files is None
        estimate += task.bytes if files is None else 0
        items += [task.item] if files is None else [task.item, *files]
    hours = "minutes to days in the queue of the service" if waiting else "no wait"
    return make_plan(
        SOURCE,
        request.folder,
        items,
        licence=licence(request.products, TERMS),
        notes=(*request.places.notes, f"the time is that of the service: {hours}"),
        cost=f"{waiting} tasks to submit, with files of about {size_text(estimate)}",
    )


def fetch(request: Request) -> list[Path]:
    """Submit the tasks, wait, and download; see `fluxcube.fetch.modis`."""
    client = Client(request.endpoint)
    tasks = make_tasks(request)
    lists = make_plan(SOURCE, request.folder, [t.item for t in tasks], licence=licence(request.products, TERMS))
    _wait_for(lists, tasks, client, request)
    try:
        return _download(tasks, client, request)
    except FetchError as error:
        if "is not there any more" not in str(error):
            raise
    # The service has deleted files that were not downloaded in time: submit these tasks again.
    ledger = Ledger(request.folder)
    for task in tasks:
        if any(not ledger.done(item) for item in _listed(request.folder, task) or ()):
            ledger.forget(task.item)
            within(request.folder, task.item).unlink(missing_ok=True)
    lists = make_plan(SOURCE, request.folder, [t.item for t in tasks], licence=licence(request.products, TERMS))
    _wait_for(lists, tasks, client, request)
    return _download(tasks, client, request)


def make_tasks(request: Request) -> list[Task]:
    """Return the tasks of a request: one for each year and group of places."""
    size = _POINTS if request.series else _AREAS
    tasks: list[Task] = []
    for year in request.places.years:
        windows = [window for window in request.places.windows if year in window.years]
        if request.series:
            windows = list({window.site: window for window in windows}.values())
        for n in range(0, len(windows), size):
            tasks += _task(request, windows[n : n + size], year)
    return tasks


def _task(request: Request, windows: Sequence[Window], year: int) -> Iterator[Task]:
    days = [product.days(year) for product in request.products]
    days = [found for found in days if len(found)]
    if not days:
        return
    first, last = min(found[0] for found in days), max(found[-1] for found in days)
    params: dict[str, Any] = {
        "dates": [{"startDate": _date(first), "endDate": _date(last)}],
        "layers": [_layer(product, layer) for product in request.products for layer in product.layers],
    }
    if request.series:
        params["coordinates"] = [
            {"id": window.site, "category": "", "latitude": window.latitude, "longitude": window.longitude}
            for window in windows
        ]
    else:
        features = [_feature(window) for window in windows]
        params["geo"] = {"type": "FeatureCollection", "features": features}
        params["output"] = {"format": {"type": "geotiff"}, "projection": "native"}
    kind = "point" if request.series else "area"
    key = request_key({"service": "AppEEARS", "type": kind, "params": params})
    name = f"appeears-{kind}-{year}-{_digest(key)}"
    about = {"year": year, "citation": " ".join(product.citation for product in request.products)}
    item = Item(name=f"{name}/bundle.json", key=key, about=about)
    yield Task({"task_type": kind, "task_name": name, "params": params}, item, _estimate(request, windows, year))


def _estimate(request: Request, windows: Sequence[Window], year: int) -> int:
    """Return the bytes of the files of a task: a GeoTIFF has a header of 1.5 kB, a cell of a table 8 characters."""
    images = sum(len(product.days(year)) * len(product.layers) for product in request.products)
    if request.series:
        return images * len(windows) * 8
    return images * sum(window.height * window.width * 2 + 1500 for window in windows)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _date(day: np.datetime64) -> str:
    year, month, number = str(day).split("-")
    return f"{month}-{number}-{year}"


def _layer(product: Product, layer: str) -> dict[str, str]:
    return {"product": f"{product.name}.{COLLECTION}", "layer": f"{layer}_1" if product.name in _NUMBERED else layer}


def _feature(window: Window) -> dict[str, Any]:
    """Return a polygon that contains a window of pixels: its corners on the sinusoidal grid, one pixel further out.

    AppEEARS masks pixels outside of the polygon, so a box of latitude and longitude would not do: columns are oblique.
    """
    r0, r1 = max(window.row - 1, 0), min(window.row + window.height + 1, ROWS)
    c0, c1 = max(window.col - 1, 0), min(window.col + window.width + 1, COLS)
    corners = [_lonlat(row, col) for row, col in ((r0, c0), (r1, c0), (r1, c1), (r0, c1), (r0, c0))]
    geometry = {"type": "Polygon", "coordinates": [corners]}
    return {"type": "Feature", "properties": {"name": window.name}, "geometry": geometry}


def _lonlat(row: int, col: int) -> list[float]:
    latitude = 90 - row * 180 / ROWS
    width = max(float(np.cos(np.deg2rad(latitude))), 1e-9)
    longitude = (col * 360 / COLS - 180) / width
    return [round(min(max(longitude, -180.0), 180.0), 7), round(latitude, 7)]


def _wait_for(lists: Plan, tasks: Sequence[Task], client: Client, request: Request) -> None:
    """Submit the tasks that are not under way, wait until they are done, and keep the lists of their files."""
    ledger = Ledger(request.folder)
    by_name = {task.item.name: task for task in tasks}

    def one(item: Item, path: Path) -> None:
        task_id = _finished(client, ledger, by_name[item.name], request.wait_hours)
        files = [_file(found) for found in client.bundle(task_id) if _is_used(found, request.series)]
        if not files:
            raise FetchError(
                f"AppEEARS: task {task_id} has no file of the requested kind; open the task on "
                "https://appeears.earthdatacloud.nasa.gov/explore."
            )
        with whole(path) as part:
            part.write_text(json.dumps({"task_id": task_id, "files": files}, indent=1), "utf-8")

    fetch_all(lists, request.folder, one, jobs=max(len(tasks), 1), progress=request.progress)


def _finished(client: Client, ledger: Ledger, task: Task, wait_hours: float) -> str:
    """Return the id of a finished task; it is submitted unless it is under way."""
    task_id = ledger.request_id(task.item)
    task_id = task_id if task_id is not None and is_id(task_id) else None  # the ledger can have been edited
    resumed = task_id is not None
    if task_id is None:
        task_id = client.submit(task.body)
        ledger.submitted(task.item, task_id)
    stop, wait = time.monotonic() + 3600 * wait_hours, _FIRST_POLL
    while True:
        try:
            state = client.status(task_id)
        except Gone:
            if not resumed:
                raise
            ledger.forget(task.item)
            return _finished(client, ledger, task, wait_hours)
        status = str(state["status"]).lower()
        if status == "done":
            return task_id
        if status in _FAILED:
            ledger.forget(task.item)
            reason = f"{state.get('error') or 'no reason was sent'}"[:200]
            raise FetchError(
                f"AppEEARS: task {task_id} ended with {status} ({reason}); the next call submits it again."
            )
        if time.monotonic() + wait > stop:
            raise FetchError(
                f"AppEEARS: task {task_id} is still {status} after {wait_hours:g} hours; run the same command later: "
                "it continues with this task."
            )
        pause(wait)
        wait = min(wait * 1.5, _LONGEST_POLL)


def _is_used(found: Mapping[str, Any], series: bool) -> bool:
    name = str(found.get("file_name", "")).lower()
    return name.endswith("-results.csv") if series else name.endswith((".tif", ".tiff"))


def _file(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of a file of a bundle; its name is checked, folders in it are left out."""
    name = str(found.get("file_name", "")).rpartition("/")[2]
    check_name(name)
    size = found.get("file_size")
    return {
        "file_id": checked_id(found["file_id"]),
        "file_name": name,
        "file_size": size if isinstance(size, int) else None,
        "sha256": str(found.get("sha256", "")),
    }


def _listed(folder: Path, task: Task) -> list[Item] | None:
    """Return the items of the files of a finished task, None if its list is not there."""
    if not Ledger(folder).done(task.item):
        return None
    try:
        kept = read_json(within(folder, task.item), dict)
        entries = [(kept["task_id"], entry) for entry in kept["files"]]
        return [_item(task, task_id, entry) for task_id, entry in entries]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _item(task: Task, task_id: str, entry: Mapping[str, Any]) -> Item:
    sha256 = str(entry["sha256"])
    about = {**task.item.about, "task": task_id, "file": entry["file_id"]}
    return Item(
        name=f"{task.item.name.rpartition('/')[0]}/{entry['file_name']}",
        key=request_key({"service": "AppEEARS", "task": task_id, "file": entry["file_id"]}),
        size=entry["file_size"],
        exact=entry["file_size"] is not None,
        about=about,
        checksum=("sha256", sha256) if len(sha256) == 64 else None,
    )


def _download(tasks: Sequence[Task], client: Client, request: Request) -> list[Path]:
    items: list[Item] = []
    for task in tasks:
        files = _listed(request.folder, task)
        if files is None:
            raise FetchError(f"{task.item.name} was removed during the fetch; run the same command again.")
        items += files
    terms = licence(request.products, TERMS)
    planned = make_plan(SOURCE, request.folder, items, licence=terms, notes=request.places.notes)

    def one(item: Item, path: Path) -> Downloaded:
        task, file = str(item.about["task"]), str(item.about["file"])
        sha256 = item.checksum[1] if item.checksum else ""
        return client.download(task, file, path, item.size, sha256)

    return fetch_all(planned, request.folder, one, jobs=request.jobs, progress=request.progress)
