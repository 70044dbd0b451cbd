"""Fetch tower data from the services that publish them: the public function `fluxcube.fetch.towers`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fluxcube.errors import ConfigError, FetchError, unknown
from fluxcube.fetch.http import download
from fluxcube.fetch.items import Item, Plan
from fluxcube.fetch.ledger import Ledger
from fluxcube.fetch.run import Progress, fetch_all
from fluxcube.fetch.towers_ameriflux import EMAIL, USER, account, order, plan_ameriflux
from fluxcube.fetch.towers_archives import fetch_archive, key_of, log_download, plan_icos, plan_shuttle
from fluxcube.fetch.towers_catalogue import ARCHIVE, Choice, TowerArchive, write_snapshot, write_table
from fluxcube.fetch.towers_hubs import Services
from fluxcube.fetch.towers_zenodo import plan_zenodo

#: Services that a program can fetch from, and publications that a person downloads: the page, and what to choose there.
SOURCES = ("shuttle", "icos", "ameriflux", "zenodo")
BY_HAND = {
    "fluxnet2015": (
        "https://fluxnet.org/data/download-historical-data/",
        "log in with a free account, choose FLUXNET2015, all sites, CC-BY-4.0, FULLSET or SUBSET, and download the "
        "files FLX_<SITE>_FLUXNET2015_FULLSET_<YEARS>_<VERSION>.zip",
    ),
    "fluxnet-ch4": (
        "https://fluxnet.org/data/fluxnet-ch4-community-product/",
        "log in with a free account, and download the files FLX_<SITE>_FLUXNET-CH4_<YEARS>_<VERSION>.zip and the table "
        "of sites (FLX_AA-Flx_CH4-META_<DATE>.csv)",
    ),
    "japanflux": (
        "https://ads.nipr.ac.jp/japan-flux2024/",
        "register at the Arctic Data archive System, and download the half-hourly files "
        "FLX_<SITE>_JapanFLUX2024_ALLVARS with the folder BADM of each site",
    ),
}
#: Snapshot of the fetched archives, in which a build finds places, classes and citations.
SNAPSHOT = "fluxnet_shuttle_snapshot_fetched.csv"


def towers(
    out: str | os.PathLike[str],
    *,
    source: str = "shuttle",
    sites: str | Sequence[str] | None = None,
    igbp: str | Sequence[str] | None = None,
    years: int | str | Sequence[int] | None = None,
    network: str | Sequence[str] | None = None,
    bbox: Sequence[float] | None = None,
    snapshot: str | Path | None = None,
    release: str = "v1",
    table: str | Path | None = None,
    plan: bool = False,
    jobs: int = 2,
    verify: bool = False,
    progress: Progress | None = None,
    services: Services | None = None,
    endpoint: str | None = None,
) -> Plan | list[Path]:
    """Fetch archives of flux towers; `fluxcube.build_carbonsense` builds a cube from the folder.

    Parameters
    ----------
    out : path
        Folder of the archives. It also receives the ledger, the licence with the citation of each site, and a snapshot
        from which the build reads places, classes and citations.
    source : {"shuttle", "icos", "ameriflux", "zenodo"}
        ``shuttle``: FLUXNET archives of AmeriFlux, ICOS and TERN, without an account. ``icos``: ICOS Carbon Portal.
        ``ameriflux``: AmeriFlux's data API, with an account (``AMF_USER`` and ``AMF_EMAIL`` in the environment).
        ``zenodo``: the published CarbonSense.
    sites, igbp, network : str or sequence of str, optional
        Sites, IGBP classes and networks (also the data hub); default: all.
    years : int, str or sequence of int, optional
        ``2018``, ``"2015-2020"`` or ``range(2015, 2021)``: archives with at least one of these years.
    bbox : (west, south, east, north), optional
        Degrees; a box with ``west > east`` crosses the antimeridian.
    snapshot : path or URL, optional
        Snapshot that ``fluxnet-shuttle listall`` wrote; default: what the hubs list today.
    release : {"v1", "v2"}
        Release of the published CarbonSense, for ``zenodo``.
    table : path, optional
        Write the selected archives there as CSV (site, place, class, networks, years, link, citation, DOI); of
        ``shuttle``, it is also a `snapshot` that a later call can pass to fetch the same list.
    plan : bool
        Return what would be fetched; lists of the services are read, and nothing is ordered or downloaded.
    jobs : int
        Number of archives fetched at the same time.
    verify : bool
        Compute the checksums of the archives that are there, and fetch those that changed.
    progress : callable, optional
        Receives the number of complete archives, of all archives, and the one that reported last.
    services : Services, optional
        Other addresses of the services, for mirrors.
    endpoint : str, optional
        Address of a mirror or of a test server that has all of the services.

    Returns
    -------
    Plan or list of Path
        With `plan`, the plan; otherwise the archives.

    Raises
    ------
    CredentialsError, LicenceError, QuotaError
        If a service requires an account or a licence, or limits its use.
    FetchError
        If an archive could not be fetched; the others are, and the next call continues. Also for publications that a
        person must download: the message names the page and the files.
    ConfigError, UnknownNameError
        If a selection is malformed, or selects nothing.

    Examples
    --------
    >>> import fluxcube
    >>> print(fluxcube.fetch.towers("raw", sites=["DE-Hai", "US-Ha1"], plan=True).text())  # doctest: +SKIP
    """
    choice = Choice.create(sites, igbp, years, network, bbox)
    _check(source, choice, snapshot)
    addresses = _addresses(services, endpoint)
    task = _task(source, Path(out), choice, addresses, snapshot, release, verify=verify, estimate=plan)
    if table is not None:
        _write_table(task, Path(table))
    if plan:
        return task.plan
    again = f"`fluxcube fetch towers {Path(out)} --source {source}` with the same options"
    return task.run(jobs, progress, again)


def _check(source: str, choice: Choice, snapshot: str | Path | None) -> None:
    if source in BY_HAND:
        page, what = BY_HAND[source]
        raise FetchError(
            f"{source} can only be downloaded by a person: open {page}, {what}, move them into one folder, and check "
            "it with `fluxcube inspect FOLDER`."
        )
    if source not in SOURCES:
        raise unknown("source of towers", source, (*SOURCES, *BY_HAND))
    if source == "zenodo" and choice != Choice():
        raise ConfigError(
            "source zenodo is one file with all sites: select sites, years or a box when the cube is built."
        )
    if snapshot is not None and source != "shuttle":
        raise ConfigError(f"a snapshot is a list of source shuttle, not of {source}: leave it out.")


def _addresses(services: Services | None, endpoint: str | None) -> Services:
    if services is not None and endpoint is not None:
        raise ConfigError("pass services, or the address that has all of them as endpoint, not both.")
    return services or (Services.at(endpoint) if endpoint is not None else Services())


def _write_table(task: _Task, path: Path) -> None:
    if path.exists():
        raise ConfigError(f"{path} exists: choose another file for the list.")
    if not task.archives:
        raise ConfigError(f"{task.plan.source} has no list of sites: leave out the table.")
    write_table(task.archives, path)


def _task(
    source: str,
    folder: Path,
    choice: Choice,
    services: Services,
    snapshot: str | Path | None,
    release: str,
    **options: bool,
) -> _Task:
    if source == "zenodo":
        plan, urls = plan_zenodo(folder, services, release, verify=options["verify"])
        return _Task(folder, services, plan, [], urls)
    if source == "ameriflux":
        plan, archives = plan_ameriflux(folder, choice, services, verify=options["verify"])
        return _Order(folder, services, plan, archives, {})
    if source == "icos":
        plan, archives = plan_icos(folder, choice, services, **options)
    else:
        plan, archives = plan_shuttle(folder, choice, services, snapshot, **options)
    return _Archives(folder, services, plan, archives, {key_of(a.url): a.url for a in archives})


class _Task:
    """A plan with what fetches it: files of the addresses `urls`, by the keys of the items."""

    def __init__(
        self, folder: Path, services: Services, plan: Plan, archives: list[TowerArchive], urls: dict[str, str]
    ) -> None:
        self.folder, self.services, self.plan, self.archives, self.urls = folder, services, plan, archives, urls

    def run(self, jobs: int, progress: Progress | None, again: str) -> list[Path]:
        """Fetch what is missing."""
        return fetch_all(self.plan, self.folder, self.one, jobs=jobs, progress=progress, again=again)

    def one(self, item: Item, path: Path) -> dict[str, str]:
        """Fetch one file."""
        size = item.size if item.exact else None
        result = download(self.urls[item.key], path, size=size, checksum=item.checksum)
        return {"sha256": result.sha256, "etag": result.etag, "url": self.urls[item.key]}


class _Archives(_Task):
    """Archives of a list: each is a zip, and the list is written beside them."""

    def run(self, jobs: int, progress: Progress | None, again: str) -> list[Path]:
        """Report the downloads to AmeriFlux, fetch what is missing, and write the snapshot."""
        Ledger(self.folder).check_unlocked()
        missing = [item for item in self.plan.missing if item.about.get("hub") == "AmeriFlux"]
        if missing:
            user = {"user_name": os.environ.get(USER, ""), "user_email": os.environ.get(EMAIL, "")}
            log_download(self.services, missing, {key: value for key, value in user.items() if value})
        try:
            return super().run(jobs, progress, again)
        finally:
            self._write_snapshot()

    def _write_snapshot(self) -> None:
        rows = [a for a in self.archives if ARCHIVE.fullmatch(a.name) and (self.folder / a.name).is_file()]
        if rows:
            write_snapshot(rows, self.folder / SNAPSHOT)

    def one(self, item: Item, path: Path) -> dict[str, str]:
        """Fetch and test one archive."""
        result = fetch_archive(item, path, self.urls[item.key])
        return {"sha256": result.sha256, "etag": result.etag, "url": self.urls[item.key]}


class _Order(_Archives):
    """Archives that AmeriFlux sends after an order, which states their names."""

    def run(self, jobs: int, progress: Progress | None, again: str) -> list[Path]:
        """Order what is missing, and fetch it."""
        if self.plan.missing:
            Ledger(self.folder).check_unlocked()
            self.plan, self.urls = order(self.plan, self.services, account(os.environ))
        return _Task.run(self, jobs, progress, again)
