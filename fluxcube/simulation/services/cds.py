"""The Climate Data Store: catalogue messages, processes, jobs, results and files, as cdsapi's client requests them."""

from __future__ import annotations

import itertools
import threading

from fluxcube.simulation.services.web import Answer, Request, Service

#: Data sets of the service.
DATASETS = (
    "reanalysis-era5-single-levels",
    "reanalysis-era5-land",
    "reanalysis-era5-single-levels-timeseries",
    "reanalysis-era5-land-timeseries",
)


class ClimateDataStore(Service):
    """A CDS whose key is `KEY`. Derived classes create the file of a request in `content`.

    `key` is the key that requests must have, None for any. `waits` is the number of answers "accepted" before a job is
    successful; `ends` the final status of jobs; `licences` the data sets whose licence is accepted; `most` the number
    of fields that a request may have.
    """

    KEY = "5ecret-personal-access-token"

    def __init__(self) -> None:
        self.jobs: dict[str, dict] = {}
        self.waits, self.ends, self.licences, self.most = 0, "successful", set(DATASETS), 12000
        self.key: str | None = self.KEY
        self._numbers = itertools.count(1)
        self._one_writer = threading.Lock()  # HDF5 is not safe in threads
        super().__init__()

    def content(self, dataset: str, body: dict) -> bytes:
        """Return the file of a request."""
        raise NotImplementedError

    def routes(self) -> None:
        """Add the routes of the service."""
        self.route("GET", "/api/catalogue/v1/messages", lambda request: Answer({"messages": []}))
        self.route("GET", r"/api/retrieve/v1/processes/([\w-]+)", self._process)
        self.route("POST", r"/api/retrieve/v1/processes/([\w-]+)/execution", self._execute)
        self.route("GET", r"/api/retrieve/v1/jobs/([\w-]+)", self._job)
        self.route("GET", r"/api/retrieve/v1/jobs/([\w-]+)/results", self._results)

    @property
    def orders(self) -> list[dict]:
        """Bodies of submitted requests, in order."""
        return [request.json()["inputs"] for request in self.asked("/execution", "POST")]

    def _process(self, request: Request, name: str) -> Answer:
        if refused := self._refused(request):
            return refused
        if name not in DATASETS:
            return _problem(404, "process not found", f"dataset {name} not found")
        return Answer({"id": name, "links": []})

    def _execute(self, request: Request, name: str) -> Answer:
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

    def _job(self, request: Request, job: str) -> Answer:
        if refused := self._refused(request):
            return refused
        if job not in self.jobs:
            return _problem(404, "job not found", f"job {job} not found")
        entry = self.jobs[job]
        if entry["status"] == "accepted":
            entry["status"] = "accepted" if entry["left"] > 0 else self.ends
            entry["left"] -= 1
        return Answer(self._state(job))

    def _results(self, request: Request, job: str) -> Answer:
        entry = self.jobs[job]
        if entry["status"] != "successful":
            return _problem(400, "The job has failed", traceback="MARS returned no data for this request")
        path = f"/files/{job}.nc"
        with self._one_writer:
            if path not in self.files:
                self.files[path] = self.content(entry["dataset"], entry["body"])
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
        if self.key is None or request.headers.get("private-token") == self.key:
            return None
        return _problem(401, "operation not allowed", "Authentication failed")


def _problem(status: int, title: str, detail: str = "", **more: str) -> Answer:
    return Answer({"type": "error", "title": title, "status": status, "detail": detail, **more}, status)
