"""Order and download from the Climate Data Store (CDS) with its own client, cdsapi.

A request waits in a queue. Its id is recorded in the ledger when it is submitted, so that a later call finds it again.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from fluxcube.errors import CredentialsError, FetchError, LicenceError, QuotaError, missing_package, to_type
from fluxcube.fetch import http
from fluxcube.fetch.addresses import credentials_in, hidden, hide_credentials, public, public_text
from fluxcube.fetch.answers import MALFORMED, clock_hint, snippet
from fluxcube.fetch.check_era5 import check_complete
from fluxcube.fetch.control import check_stop, pause
from fluxcube.fetch.items import Item, duration_text
from fluxcube.fetch.ledger import Ledger
from fluxcube.fetch.sending import new_session, reason

_log = logging.getLogger(__name__)

HOW_TO = "https://cds.climate.copernicus.eu/how-to-api"
#: Attempts of one call of the client, and seconds between them. Its own defaults are 500 attempts in 17 hours.
_TRIES, _BETWEEN = 5, 10.0
#: First and longest wait between two questions whether a request is ready, seconds, and the factor between them.
_POLL, _LONGEST_POLL, _SLOWER = 2.0, 60.0, 1.5
#: Key that is sent to another server than the CDS, in place of the user's.
_ANONYMOUS = "anonymous"
#: Ids of requests, which are part of addresses; the ledger can have been edited.
_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
_OVER = ("failed", "rejected", "dismissed", "deleted")
#: Formats of what the service delivers.
_FORMATS = ("NetCDF", "GRIB", "zip")


class _Expired(FetchError):
    """The file of a finished request was removed by the service."""


class DataStore:
    """A connection to the CDS.

    Parameters
    ----------
    timeout : float
        Seconds that a request may wait in the queue.
    endpoint : str, optional
        Address of a mirror or of a test server, to which no account of the user is sent.

    Raises
    ------
    MissingPackageError
        If cdsapi is not installed.
    CredentialsError
        If the client finds no account in its file or in the environment.
    """

    def __init__(self, timeout: float, endpoint: str | None = None) -> None:
        self.timeout = timeout
        self._not_accepted: dict[str, str] = {}
        self._client = _connect(endpoint)
        self.url = str(self._client.url).rstrip("/")

    def __repr__(self) -> str:
        return f"DataStore({public(self.url)!r})"

    @property
    def pages(self) -> str:
        """Address of the pages for people."""
        parts = urlsplit(public(self.url))
        return f"{parts.scheme}://{parts.netloc}"

    def fetch(self, item: Item, path: Path, *, dataset: str, body: Mapping[str, object], ledger: Ledger) -> object:
        """Order a file, or find the order of an earlier call, wait for it, and download it.

        Parameters
        ----------
        item : Item
        path : Path
            File to write.
        dataset, body
            The request.
        ledger : Ledger
            Of the folder; the id of the request is recorded there.

        Returns
        -------
        mapping
            Address, ETag and checksum for the ledger.

        Raises
        ------
        CredentialsError, LicenceError, QuotaError
            If the service requires an account or a licence, or refuses requests of this size or number.
        FetchError
            If the request fails, does not end in time, or the file is not what was requested.
        """
        for attempt in (1, 2):
            remote = self._remote(item, dataset, body, ledger)
            self._wait(remote, item, dataset, ledger)
            with self._named_errors(dataset):
                results = remote.get_results()
                location, size = str(results.location), int(results.content_length)
            try:
                got = http.download(location, path, size=size, formats=_FORMATS, explain=_explain)
            except _Expired:
                ledger.forget(item)
                if attempt == 2:
                    raise
                continue
            try:
                check_complete(path)
            except FetchError:
                ledger.forget(item)  # the next call orders the file anew
                raise
            return {"url": location, "etag": got.etag, "sha256": got.sha256}
        raise AssertionError("unreachable")

    def _remote(self, item: Item, dataset: str, body: Mapping[str, object], ledger: Ledger) -> Any:
        """Return the request of an earlier call if it can still be used, or a new one."""
        request_id = ledger.request_id(item)
        if request_id is not None:
            remote = self._found(request_id, dataset) if _ID.fullmatch(request_id) else None
            if remote is not None:
                return remote
            ledger.forget(item)
        if dataset in self._not_accepted:  # every other request would be refused, too
            raise LicenceError(self._not_accepted[dataset])
        try:
            with self._named_errors(dataset):
                remote = self._client.submit(dataset, dict(body))
                request_id = str(remote.request_id)
        except LicenceError as error:
            self._not_accepted[dataset] = str(error)
            raise
        ledger.submitted(item, request_id)
        return remote

    def _found(self, request_id: str, dataset: str) -> Any | None:
        try:
            with self._named_errors(dataset):
                remote = self._client.get_remote(request_id)
                return None if remote.status in _OVER else remote
        except _Expired:
            return None

    def _wait(self, remote: Any, item: Item, dataset: str, ledger: Ledger) -> None:
        """Wait until a request is ready; raise if it failed, or is not ready in time."""
        waited, seconds = 0.0, _POLL
        while True:
            check_stop()
            with self._named_errors(dataset):
                status = str(remote.status)
            if status == "successful":
                return
            if status in _OVER:
                ledger.forget(item)
                raise self._failed(remote, status, dataset)
            if waited >= self.timeout:
                raise FetchError(
                    f"request {remote.request_id} is {status} after {duration_text(self.timeout)}: the queue of the "
                    f"CDS is long. It stays there ({self.pages}/requests): "
                    f"{to_type(python='call fetch again', shell='run the same command')} later, which finds it again, "
                    f"or wait longer with {to_type(python='timeout_hours=', shell='--timeout-hours')}."
                )
            _log.debug("request %s is %s", remote.request_id, status)
            pause(seconds)
            waited += seconds
            seconds = min(seconds * _SLOWER, _LONGEST_POLL)

    def _failed(self, remote: Any, status: str, dataset: str) -> FetchError:
        try:
            with self._named_errors(dataset):
                remote.get_results()
        except (QuotaError, LicenceError, CredentialsError) as error:
            return error
        except FetchError as error:
            return FetchError(f"request {remote.request_id} {status} at the service: {error}")
        return FetchError(f"request {remote.request_id} is {status} at the service: run the same command again.")

    @contextmanager
    def _named_errors(self, dataset: str) -> Iterator[None]:
        """Raise errors of the client as errors of fluxcube, without what the client knows of the account."""
        from ecmwf.datastores.processing import LinkError, ProcessingFailedError

        problem: FetchError
        try:
            yield
            return
        except requests.HTTPError as error:
            problem = self._refused(error.response, dataset)
        except requests.exceptions.JSONDecodeError as error:
            text = str(error.doc)
            problem = self._no_answer(text)
        except (requests.ConnectionError, requests.Timeout) as error:
            problem = FetchError(f"{public(self.url)}: {reason(error)}; run the same command again to continue.")
        except requests.RequestException as error:
            problem = FetchError(f"{public(self.url)}: the request failed ({type(error).__name__}).")
        except ProcessingFailedError as error:
            problem = _by_text(public_text(str(error)), dataset, self.pages)
        except (LinkError, AssertionError, *MALFORMED) as error:
            problem = FetchError(
                f"{public(self.url)}: the CDS answered in an unknown form ({type(error).__name__}): update cdsapi, or "
                "check the address in ~/.cdsapirc."
            )
        # The service can repeat the key that it refuses.
        raise type(problem)(hidden(str(problem), [str(self._client.key), *credentials_in(self.url, {})]))

    def _no_answer(self, text: str) -> FetchError:
        shown = snippet(text.encode()[:4096])
        if "password" in text.lower() or "log in" in text.lower() or "login" in text.lower():
            return CredentialsError(
                f"{public(self.url)}: the service sent a login page instead of an answer ({shown}): check url and key "
                f"in ~/.cdsapirc ({HOW_TO})."
            )
        return FetchError(f"{public(self.url)}: expected an answer of the CDS, found a web page ({shown}).")

    def _refused(self, response: requests.Response | None, dataset: str) -> FetchError:
        if response is None:
            return FetchError(f"{public(self.url)}: the CDS refused the request.")
        try:
            answer = response.json()
        except ValueError:
            answer = {}
        answer = answer if isinstance(answer, dict) else {}
        texts = [str(answer[key]) for key in ("title", "detail", "traceback") if answer.get(key)]
        text = public_text(". ".join(texts)) or snippet(response.content[:4096])
        text += clock_hint(text)
        if response.status_code == 401:
            return CredentialsError(
                f"the CDS does not accept the key (401: {text}): copy the personal access token from {HOW_TO} into "
                "~/.cdsapirc, as url and key."
            )
        if response.status_code in (403, 404, 410) and "/jobs/" in str(response.url):
            return _Expired(f"the CDS has no such request of this account: {text}")
        if response.status_code == 404 and not answer:
            return FetchError(
                f"{public(self.url)} is not the address of the CDS (404: {text}): check url in ~/.cdsapirc."
            )
        if response.status_code == 404:
            return FetchError(f"{public(str(response.url))}: the CDS has no data set {dataset} (404): {text}")
        if response.status_code == 429:
            return QuotaError(f"the CDS accepts no more requests for now (429: {text}): run the same command later.")
        return _by_text(f"{response.status_code}: {text}", dataset, self.pages)


def _by_text(text: str, dataset: str, pages: str) -> FetchError:
    """Return the error for a refusal: a licence and a size that is too large have the same status."""
    lower = text.lower()
    if "licence" in lower or "license" in lower or "site policies" in lower:
        return LicenceError(
            f"the licence of {dataset} is not accepted yet: log in, accept it at the end of "
            f"{pages}/datasets/{dataset}?tab=download#manage-licences, and run the same command again ({text[:300]})."
        )
    if "cost limit" in lower or "too large" in lower or "exceeds" in lower or "limit of" in lower:
        return QuotaError(
            f"the CDS refuses a request of this size or number ({text[:300]}): request fewer variables or a smaller "
            "box, or wait until earlier requests have ended."
        )
    return FetchError(f"the CDS refused the request ({text[:600]})")


def _explain(response: requests.Response, body: bytes) -> FetchError | None:
    """Return the error for a file that the service has removed, which it does days after the request."""
    if response.status_code in (403, 404, 410):
        return _Expired(
            f"{public(response.url)}: the file of the request is not there any more ({response.status_code}: "
            f"{snippet(body)}): run the same command again, which orders it anew."
        )
    return None


def _connect(endpoint: str | None) -> Any:
    """Return the client of the data stores behind cdsapi, which reads the account itself; for an endpoint, none."""
    try:
        import cdsapi
    except ImportError:
        raise missing_package("cdsapi", "fetch-era5", "fetching ERA5 from the Climate Data Store") from None
    if endpoint is None:
        _check_account()
    account: dict[str, Any] = {}
    if endpoint is not None:  # the client's own session would send what ~/.netrc has for the server
        account = {"url": endpoint.rstrip("/"), "key": _ANONYMOUS, "session": new_session()}
    hide_credentials("ecmwf.datastores.processing", "ecmwf.datastores.legacy_client", "multiurl.retry", "cdsapi")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of messages of the service, which could not be read
        client = cdsapi.Client(
            **account, quiet=True, progress=False, wait_until_complete=False, retry_max=_TRIES, sleep_max=_BETWEEN
        )
    return client.client


def _check_account() -> None:
    """Raise CredentialsError if the client will find no account, or an outdated one."""
    from cdsapi.api import read_config

    rc = os.environ.get("CDSAPI_RC", os.path.expanduser("~/.cdsapirc"))
    try:
        config = read_config(rc) if os.path.isfile(rc) else {}
    except (OSError, UnicodeError) as error:  # an error of encodings contains the text of the file
        problem = f"{rc} cannot be read as text ({type(error).__name__}): write url and key into it, from {HOW_TO}."
        config = None
    if config is None:
        raise CredentialsError(problem)
    url, key = (os.environ.get(f"CDSAPI_{name.upper()}") or config.get(name) for name in ("url", "key"))
    if not url or not key:
        raise CredentialsError(
            f"no account of the Climate Data Store was found: expected url and key in {rc}, or in CDSAPI_URL and "
            f"CDSAPI_KEY. Create a free account, and copy the two lines from {HOW_TO}."
        )
    if not url.startswith(("https://", "http://")):
        raise CredentialsError(f"the url in {rc} or CDSAPI_URL must begin with https://: copy it from {HOW_TO}.")
    if not key.isascii() or not key.isprintable() or any(mark in key for mark in " \"'"):
        raise CredentialsError(
            f"the key in {rc} or CDSAPI_KEY contains quotation marks, blanks or other characters that no key has: copy "
            f"it again from {HOW_TO}."
        )
    if ":" in key:
        raise CredentialsError(
            f"the key in {rc} or CDSAPI_KEY has the form UID:KEY, which the CDS does not accept since 2024: copy the "
            f"personal access token from {HOW_TO}."
        )
