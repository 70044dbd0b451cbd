"""AppEEARS' interface: login, tasks, bundles. Tokens are kept in RAM only.

References
----------
https://appeears.earthdatacloud.nasa.gov/api/
"""

from __future__ import annotations

import netrc
import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests

from fluxcube.errors import CredentialsError, FetchError, LicenceError, QuotaError
from fluxcube.fetch.addresses import host_of, public
from fluxcube.fetch.answers import SNIFFED, TRANSIENT, is_login, retry_after, snippet
from fluxcube.fetch.control import check_stop, pause
from fluxcube.fetch.http import Downloaded, download
from fluxcube.fetch.sending import new_session, reason, send, shown

API = "https://appeears.earthdatacloud.nasa.gov/api"
_LOGIN_HOST = "urs.earthdata.nasa.gov"
_TRIES, _TIMEOUT, _LONGEST_WAIT = 6, (30.0, 120.0), 120.0
_HELP = (
    "Open a free account on https://urs.earthdata.nasa.gov/users/new, and write the line `machine "
    "urs.earthdata.nasa.gov login NAME password PASSWORD` into ~/.netrc (chmod 600), or set EARTHDATA_USERNAME and "
    "EARTHDATA_PASSWORD."
)


class Gone(FetchError):
    """A task or its files are not at the service any more (they are kept for 30 days)."""


class Client:
    """A session with AppEEARS; it logs in on first use, and again when the token has expired.

    Parameters
    ----------
    endpoint : str, optional
        Address of another server.
    """

    def __init__(self, endpoint: str | None = None) -> None:
        self._url = (endpoint or API).rstrip("/")
        self._host = host_of(endpoint) if endpoint else _LOGIN_HOST
        self._token = ""
        self._guard = threading.Lock()

    def __repr__(self) -> str:
        return f"Client({public(self._url)!r})"

    def submit(self, task: Mapping[str, Any]) -> str:
        """Submit a task, and return its id."""
        answer = self._call("POST", "/task", json=task)
        if not isinstance(answer, dict) or not isinstance(answer.get("task_id"), str):
            raise FetchError("AppEEARS: expected the id of the submitted task, found another answer.")
        return checked_id(answer["task_id"])

    def status(self, task_id: str) -> Mapping[str, Any]:
        """Return the state of a task: its ``status`` is queued, pending, processing, done, error and the like."""
        answer = self._call("GET", f"/task/{checked_id(task_id)}")
        if not isinstance(answer, dict) or not isinstance(answer.get("status"), str):
            raise FetchError(f"AppEEARS: expected the state of task {task_id}, found another answer.")
        return answer

    def bundle(self, task_id: str) -> list[Mapping[str, Any]]:
        """Return the files of a finished task: ``file_id``, ``file_name``, ``file_size``, ``sha256``."""
        answer = self._call("GET", f"/bundle/{checked_id(task_id)}")
        files = answer.get("files") if isinstance(answer, dict) else None
        if not isinstance(files, list) or not all(isinstance(f, dict) and "file_id" in f for f in files):
            raise FetchError(f"AppEEARS: expected the list of the files of task {task_id}, found another answer.")
        return files

    def download(self, task_id: str, file_id: str, path: Path, size: int | None, sha256: str) -> Downloaded:
        """Download a file of a bundle; the token is sent to AppEEARS only, not to the storage it redirects to."""
        url = f"{self._url}/bundle/{checked_id(task_id)}/{checked_id(file_id)}"
        checksum = ("sha256", sha256) if len(sha256) == 64 else None
        for attempt in range(2):
            headers = {"Authorization": f"Bearer {self._login(again=attempt > 0)}"}
            try:
                return download(url, path, headers=headers, size=size, checksum=checksum, explain=_explain)
            except CredentialsError:
                if attempt:
                    raise
            except FetchError as error:
                if "(404)" in str(error) or "(410)" in str(error):
                    raise Gone(f"AppEEARS: a file of task {task_id} is not there any more.") from None
                raise
        raise AssertionError("unreachable")

    def _call(self, method: str, path: str, **options: Any) -> Any:
        """Send a request, and return its JSON; try again after errors that pass, and after an expired token."""
        problem: FetchError | None = None
        renewed = False
        for attempt in range(_TRIES):
            check_stop()
            headers = {"Authorization": f"Bearer {self._login()}"}
            response = self._send(method, path, headers=headers, **options)
            if isinstance(response, FetchError):
                problem, wait = response, 0.0
                if method == "POST":
                    break  # the task may have been accepted
            elif response.status_code in (401, 403) and not renewed:
                renewed, problem, wait = True, self._named(response), 0.0
                self._login(again=True)
                continue
            elif response.status_code < 300:
                return self._json(response)
            else:
                problem = self._named(response)
                wait = retry_after(response.headers) or 0.0
                if response.status_code not in TRANSIENT or wait > _LONGEST_WAIT:
                    break
            if attempt < _TRIES - 1:
                pause(max(wait, min(2.0**attempt, 60.0)))
        assert problem is not None
        raise problem

    def _send(self, method: str, path: str, **options: Any) -> requests.Response | FetchError:
        try:
            with new_session() as session:
                options = {"timeout": _TIMEOUT, "allow_redirects": False, **options}
                return send(session, method, self._url + path, **options)
        except FetchError as error:
            return error
        except requests.RequestException as error:
            return FetchError(f"AppEEARS: {reason(error)}; run the same command again to continue.")

    def _json(self, response: requests.Response) -> Any:
        try:
            return response.json()
        except ValueError:
            pass
        body = shown(response, response.content[:SNIFFED])
        raise FetchError(f"{public(response.url)}: expected JSON, found {snippet(body)}.")

    def _named(self, response: requests.Response) -> FetchError:
        """Return the error for a refused request."""
        body = shown(response, response.content[:SNIFFED])
        text = f"AppEEARS: {snippet(body)} ({response.status_code})"
        if error := _explain(response, body):
            return error
        if response.status_code in (401, 403) or is_login(response.headers.get("Location", "")):
            return CredentialsError(f"{text}: the login was not accepted. {_HELP}")
        if response.status_code == 429:
            return QuotaError(f"{text}: too many requests or tasks; run the same command later.")
        if response.status_code in (404, 410):
            return Gone(f"{text}: there is no such task.")
        return FetchError(f"{text}.")

    def _login(self, *, again: bool = False) -> str:
        """Return the token; log in if there is none, or with `again`."""
        with self._guard:
            if not self._token or again:
                self._token = self._new_token()
            return self._token

    def _new_token(self) -> str:
        response = self._send("POST", "/login", auth=_account(self._host), headers={"Content-Length": "0"})
        if isinstance(response, FetchError):
            raise response
        if response.status_code in (400, 401, 403):
            raise CredentialsError(
                f"AppEEARS does not accept the login of NASA Earthdata ({response.status_code}: "
                f"{snippet(shown(response, response.content[:SNIFFED]))}). {_HELP}"
            )
        if response.status_code != 200:
            raise self._named(response)
        answer = self._json(response)
        if not isinstance(answer, dict) or not isinstance(answer.get("token"), str):
            raise FetchError("AppEEARS: expected a token after the login, found another answer.")
        return answer["token"]


def _account(host: str) -> tuple[str, str]:
    """Return the user and password of NASA Earthdata, of the environment or of ~/.netrc."""
    user, password = os.environ.get("EARTHDATA_USERNAME"), os.environ.get("EARTHDATA_PASSWORD")
    if user and password:
        return user, password
    path = Path(os.environ.get("NETRC") or Path.home() / ("_netrc" if os.name == "nt" else ".netrc"))
    found, where = None, ""
    try:
        found = netrc.netrc(str(path)).authenticators(host)
    except OSError:
        pass
    except UnicodeError:
        where = f" ({path} cannot be read as text)"
    except netrc.NetrcParseError as error:
        # The text of the error can contain a word of the file, such as a password.
        where = f" (line {error.lineno} of {path} cannot be read)"
    if found is not None:
        return found[0], found[2] or ""
    raise CredentialsError(f"no login of NASA Earthdata was found{where}. {_HELP}")


def _explain(response: requests.Response, body: bytes) -> FetchError | None:
    if response.status_code in (401, 403) and b"eula" in body.lower():
        return LicenceError(
            "AppEEARS: a licence must be accepted first: open https://urs.earthdata.nasa.gov/profile (EULAs) in a "
            "browser, and run the same command again."
        )
    return None


def is_id(text: object) -> bool:
    """Return whether a text can be an id, which is part of addresses."""
    return isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,100}", text) is not None


def checked_id(text: object) -> str:
    """Return an id that can be part of an address (FetchError if it cannot)."""
    if not isinstance(text, str) or not is_id(text):
        raise FetchError(f"AppEEARS: expected an id, found {str(text)[:40]!r}.")
    return text
