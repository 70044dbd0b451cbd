"""Download a file by HTTP: resumable, checked, and never taken for whole before it is.

A download is written to ``NAME.part``, with ``NAME.part.json`` beside it (the address without credentials, the
validator of the server's file, its size), and is renamed when its length, its checksum and its kind are right.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urljoin, urlsplit

from fluxcube import __version__
from fluxcube.errors import FetchError, missing_package
from fluxcube.fetch.addresses import HARMLESS_HEADERS, credentials_in, hide_credentials, origin_of, public, without
from fluxcube.fetch.answers import (
    SNIFFED,
    TRANSIENT,
    is_login,
    kind_error,
    login_error,
    retry_after,
    status_error,
    wait_error,
)
from fluxcube.fetch.control import check_stop, pause, report_bytes
from fluxcube.fetch.items import PART, PART_STATE, size_text
from fluxcube.stores.swap import unwritable

try:
    import requests
except ImportError:
    raise missing_package("requests", "fetch", "fetching data") from None

if TYPE_CHECKING:
    from hashlib import _Hash

_log = logging.getLogger(__name__)

_CHUNK = 1 << 20
#: Seconds to connect, and between two packets.
_TIMEOUT = (30.0, 120.0)
#: Consecutive attempts without a new byte, and attempts in total.
_TRIES, _MAX_TRIES = 5, 60
#: Longest wait that a server may request, and longest of our own, in seconds.
_LONGEST_WAIT, _LONGEST_PAUSE = 300.0, 60.0
_MAX_REDIRECTS = 10
#: Some services (AmeriFlux) refuse agents that do not begin as browsers do.
_AGENT = f"Mozilla/5.0 (compatible; fluxcube/{__version__})"

T = TypeVar("T")
Explain = Callable[["requests.Response", bytes], "FetchError | None"]


@dataclass(frozen=True)
class Downloaded:
    """A complete download.

    Attributes
    ----------
    size : int
        Bytes.
    sha256 : str
        Hexadecimal digest.
    etag : str
        Validator of the server's file; "" if the server sent none.
    """

    size: int
    sha256: str
    etag: str = ""


class Failed(Exception):
    """A failed attempt after which another one can succeed; `wait` is what the server requests."""

    def __init__(self, error: FetchError, wait: float | None = None) -> None:
        super().__init__()
        self.error, self.wait = error, wait


def new_session() -> requests.Session:
    """Return a session without credentials: it uses the environment's proxies, and no ``.netrc``.

    Servers of this computer are reached without a proxy, which could not find them.
    """
    hide_credentials("urllib3.connectionpool", "urllib3.util.retry")
    session = requests.Session()
    for host in ("127.0.0.1", "localhost"):
        for end in (":", "/"):
            session.mount(f"http://{host}{end}", _Direct())
    session.auth = _no_auth
    session.headers["User-Agent"] = _AGENT
    return session


class _Direct(requests.adapters.HTTPAdapter):
    """Connects without a proxy."""

    def send(self, request: requests.PreparedRequest, *arguments: Any, **options: Any) -> requests.Response:
        """Send a request."""
        return super().send(request, *arguments, **{**options, "proxies": None})


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def download(
    url: str,
    path: Path,
    *,
    session: requests.Session | None = None,
    headers: Mapping[str, str] | None = None,
    size: int | None = None,
    checksum: tuple[str, str] | None = None,
    expect: Sequence[str] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    explain: Explain | None = None,
    tries: int = _TRIES,
    backoff: float = 1.0,
) -> Downloaded:
    """Download a file; a stopped download continues where it ended, if the server still has the same file.

    Parameters
    ----------
    url : str
        It may contain credentials; messages, logs and files contain it without them.
    path : Path
        File to write; its folder must exist. The download replaces an existing file when it is complete.
    session : requests.Session, optional
        A client's own session, which decides itself what it sends after a redirect. Without one, `headers` with
        credentials are sent to the host of `url` only.
    headers : mapping, optional
        Further headers, such as a token.
    size : int, optional
        Exact size of the file, if it is known.
    checksum : (str, str), optional
        Algorithm (a name of hashlib) and hexadecimal digest.
    expect : sequence of str, optional
        Content types of the data. A web page is refused in any case, unless ``"text/html"`` is one of them.
    progress : callable, optional
        Receives bytes, total bytes (0 if unknown) and the name of the file.
    explain : callable, optional
        Receives a refused response and the beginning of its body; returns the error in the words of its service, or
        None for the general one.
    tries : int
        Consecutive attempts without a new byte before the download fails.
    backoff : float
        Seconds before the second attempt; doubled with each further one, plus a random part.

    Returns
    -------
    Downloaded

    Raises
    ------
    CredentialsError, LicenceError, QuotaError
        If the service requires an account or a licence, or a quota is used up.
    FetchError
        If the service does not send the file, or what it sends is not the file. The received part stays in the
        ``.part`` file, unless it is wrong.
    StoreError
        If the disk does not accept the file.
    """
    transfer = _Transfer(url, Path(path), headers or {}, size, checksum, expect, progress, explain)
    with _own_or(session) as (client, own):
        failures, problem = 0, FetchError(f"{public(url)}: not tried.")
        for attempt in range(1, _MAX_TRIES + 1):
            before = transfer.position
            failure = attempt_once(url, lambda: transfer.run(client, own))
            if isinstance(failure, Downloaded):
                return failure
            problem = failure.error
            failures = failures + 1 if transfer.position <= before else 1
            if failures >= tries or attempt == _MAX_TRIES:
                break
            wait_before(url, failure, failures, backoff)
    raise problem


@contextmanager
def _own_or(session: requests.Session | None) -> Iterator[tuple[requests.Session, bool]]:
    if session is not None:
        hide_credentials("urllib3.connectionpool", "urllib3.util.retry")
        yield session, False
        return
    with new_session() as own:
        yield own, True


def attempt_once(url: str, action: Callable[[], T]) -> T | Failed:
    """Do once what sends a request; return a failure after which another attempt can succeed, and raise any other.

    Errors of requests contain the whole address: none may become the context of an error that a user sees.
    """
    problem: FetchError | None = None
    try:
        return action()
    except Failed as failure:
        return failure
    except requests.exceptions.SSLError as error:
        problem = _certificate_error(url, error)
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        why = _reason(error)
        failed = FetchError(f"{public(url)}: {why}; run the same command again to continue.")
        return Failed(failed)
    except requests.RequestException as error:
        problem = FetchError(f"{public(url)}: the request failed ({type(error).__name__}).")
    raise problem


def wait_before(url: str, failure: Failed, failures: int, backoff: float) -> None:
    """Wait before the next attempt: longer after each failure, and as long as the server requests."""
    if failure.wait is not None and failure.wait > _LONGEST_WAIT:
        raise wait_error(url, failure.wait)
    own = min(backoff * 2 ** (failures - 1), _LONGEST_PAUSE) * (1 + random.random() / 4)
    seconds = max(own, failure.wait or 0.0)
    _log.info("%s; attempt %d in %.1f s", failure.error, failures + 1, seconds)
    pause(seconds)


def _certificate_error(url: str, error: Exception) -> FetchError:
    text = str(error).lower()
    clock = " (is the clock of this computer right?)" if "expired" in text or "not yet valid" in text else ""
    return FetchError(f"{public(url)}: the certificate of the server is not accepted{clock}; nothing was sent.")


def _reason(error: Exception) -> str:
    """Return what went wrong with a connection, without the address that the error contains."""
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy of the environment could not be reached"
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return f"no connection within {_TIMEOUT[0]:.0f} s"
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return f"the server sent nothing for {_TIMEOUT[1]:.0f} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError) or "IncompleteRead" in str(error):
        return "the connection ended before the file was complete"
    if "resolve" in str(error).lower() or "name or service" in str(error).lower():
        return "the name of the server could not be resolved (is this computer online?)"
    return "the server could not be reached, or closed the connection"


class _Transfer:
    """One download, over all its attempts."""

    def __init__(
        self,
        url: str,
        path: Path,
        headers: Mapping[str, str],
        size: int | None,
        checksum: tuple[str, str] | None,
        expect: Sequence[str] | None,
        progress: Callable[[int, int, str], None] | None,
        explain: Explain | None,
    ) -> None:
        self.url, self.path, self.headers, self.size, self.checksum = url, path, headers, size, checksum
        self.expect, self.progress, self.explain = expect, progress, explain
        self.part = path.with_name(path.name + PART)
        self.state_file = path.with_name(path.name + PART_STATE)

    def __repr__(self) -> str:
        return f"_Transfer({public(self.url)!r}, {str(self.path)!r})"

    @property
    def position(self) -> int:
        """Bytes that are there."""
        return self.part.stat().st_size if self.part.exists() else 0

    def run(self, client: requests.Session, own: bool) -> Downloaded:
        """Request what is missing, write it, and check and rename the file."""
        check_stop()
        state = self._state()
        start = self._resume_at(state)
        with self._open(client, own, start, state) as response:
            start = self._check_answer(response, start, state)
            blocks = response.iter_content(_CHUNK)
            first = next(blocks, b"")
            if not start:  # first, because another file replaces the part that is there
                self._check_kind(response, first)
            total = self._total(response, start)
            self._check_space(total, start)
            etag = _validator(response)
            if not start:
                self._write_state(etag, total)
            sha = self._copy(chain([first], blocks), start, total)
        return self._finish(sha, total, etag)

    def _state(self) -> dict[str, Any]:
        try:
            state = json.loads(self.state_file.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def _resume_at(self, state: dict[str, Any]) -> int:
        """Return where to continue: only in a file that is recognised by its validator, or by its checksum."""
        same = state.get("url") == public(self.url)
        if not same or not (_strong(state.get("etag", "")) or self.checksum):
            return 0
        start = self.position
        total = state.get("size") or self.size
        return start if not total or start < total else 0

    def _open(self, client: requests.Session, own: bool, start: int, state: dict[str, Any]) -> requests.Response:
        headers = {"Accept-Encoding": "identity", **self.headers}
        if start:
            headers["Range"] = f"bytes={start}-"
            if _strong(state.get("etag", "")):
                headers["If-Range"] = state["etag"]
        options: dict[str, Any] = {"stream": True, "timeout": _TIMEOUT}
        if not own:
            return client.get(self.url, headers=headers, **options)
        return within_redirects(client, self.url, headers, options)

    def _check_answer(self, response: requests.Response, start: int, state: dict[str, Any]) -> int:
        """Return where the answer's body begins; raise if it is no part of the file."""
        if public(response.url) != public(self.url) and is_login(response.url):
            raise login_error(self.url, response.url)
        if response.status_code == 416 and start:
            self._discard()
            raise Failed(FetchError(f"{public(self.url)}: the server's file has changed."), wait=0.0)
        if response.status_code not in (200, 206):
            raise self._refused(response)
        if response.status_code == 200:
            return 0
        first = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
        changed = state.get("etag") and _validator(response) and _validator(response) != state["etag"]
        if not start or first != str(start) or changed:
            self._discard()
            raise Failed(FetchError(f"{public(self.url)}: the server sent another part than requested."), wait=0.0)
        return start

    def _refused(self, response: requests.Response) -> FetchError | Failed:
        body = self._shown(_beginning(response))
        error = self.explain(response, body) if self.explain else None
        error = error or status_error(self.url, response.status_code, body)
        if response.status_code not in TRANSIENT or (error.stops and response.status_code != 429):
            return error
        return Failed(error, retry_after(response.headers.get("Retry-After")))

    def _total(self, response: requests.Response, start: int) -> int | None:
        """Return the size of the whole file as the server reports it, or None."""
        if response.headers.get("Content-Encoding", "identity") != "identity":
            return self.size
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdigit() else None
        whole = response.headers.get("Content-Range", "").rpartition("/")[2]
        if start and whole.isdigit():
            total = int(whole)
        if total is not None and self.size is not None and total != self.size:
            if start:
                self._discard()
            raise FetchError(
                f"{public(self.url)}: expected {self.size} bytes, the server has a file of {total}: it has changed, or "
                "the list is outdated; make a new plan."
            )
        if total == 0:
            raise FetchError(f"{public(self.url)}: the server sent an empty file.")
        return total if total is not None else self.size

    def _shown(self, body: bytes) -> bytes:
        """Return the beginning of a body as an error may show it: servers repeat the credentials that they refuse."""
        return without(body, credentials_in(self.url, self.headers))

    def _check_space(self, total: int | None, start: int) -> None:
        free = shutil.disk_usage(self.path.parent).free
        if total is not None and total - start > free:
            error = OSError(errno.ENOSPC, f"{size_text(total - start)} needed, {size_text(free)} free")
            raise unwritable(self.path, error)

    def _write_state(self, etag: str, total: int | None) -> None:
        self._discard()
        state = {"url": public(self.url), "etag": etag, "size": total}
        try:
            self.state_file.write_text(json.dumps(state), "utf-8")
        except OSError as error:
            raise unwritable(self.path, error) from error

    def _copy(self, blocks: Iterable[bytes], start: int, total: int | None) -> str:
        """Write the body to the part file, and return the SHA-256 of the whole."""
        sha, done = _digest_of(self.part, start), start
        try:
            with open(self.part, "r+b" if start else "wb") as file:
                file.seek(start)
                for block in blocks:
                    check_stop()
                    self._write(file, block)
                    sha.update(block)
                    done += len(block)
                    self._report(done, total)
                    if total is not None and done > total:
                        break
                file.truncate()
                os.fsync(file.fileno())
        except requests.RequestException:
            raise
        except OSError as error:
            if isinstance(error, FetchError):
                raise
            raise unwritable(self.path, error) from error
        return sha.hexdigest()

    def _write(self, file: Any, block: bytes) -> None:
        file.write(block)

    def _check_kind(self, response: requests.Response, block: bytes) -> None:
        head = self._shown(block[:SNIFFED])
        error = kind_error(self.url, response.headers.get("Content-Type", ""), head, self.expect)
        if error:
            raise (self.explain and self.explain(response, head)) or error

    def _report(self, done: int, total: int | None) -> None:
        report_bytes(done, total)
        if self.progress:
            self.progress(done, total or 0, self.path.name)

    def _finish(self, sha: str, total: int | None, etag: str) -> Downloaded:
        done = self.position
        if not done:
            self._discard()
            raise FetchError(f"{public(self.url)}: the server sent an empty file.")
        if total is not None and done != total:
            if done > total:
                self._discard()
            problem = FetchError(f"{public(self.url)}: expected {total} bytes, received {done}.")
            raise Failed(problem)
        self._check_sum(sha)
        try:
            os.replace(self.part, self.path)
        except OSError as error:
            raise unwritable(self.path, error) from error
        self.state_file.unlink(missing_ok=True)
        return Downloaded(done, sha, etag)

    def _check_sum(self, sha: str) -> None:
        if not self.checksum:
            return
        algorithm, expected = self.checksum
        found = sha if algorithm == "sha256" else _digest_of(self.part, self.position, algorithm).hexdigest()
        if found != expected.lower():
            self._discard()
            raise Failed(
                FetchError(
                    f"{public(self.url)}: the file is damaged or has changed: expected {algorithm} {expected}, "
                    f"found {found}; it was removed."
                )
            )

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.state_file.unlink(missing_ok=True)


def within_redirects(
    client: requests.Session, url: str, headers: dict[str, str], options: dict[str, Any], method: str = "GET"
) -> requests.Response:
    """Send a request and follow its redirects; headers with credentials are sent to the first origin only.

    Raises
    ------
    CredentialsError
        If it is redirected to a login page.
    FetchError
        If it is redirected without encryption, or without an end.
    """
    options = {"timeout": _TIMEOUT, **options}
    first, here = origin_of(url), url
    for _ in range(_MAX_REDIRECTS):
        sent = (
            headers if origin_of(here) == first else {k: v for k, v in headers.items() if k.lower() in HARMLESS_HEADERS}
        )
        response = client.request(method, here, headers=sent, allow_redirects=False, **options)
        if not response.is_redirect:
            return response
        target = urljoin(here, response.headers["Location"])
        response.close()
        if is_login(target):
            raise login_error(url, target)
        scheme = urlsplit(target).scheme
        if scheme not in ("http", "https") or (first[0] == "https" and scheme != "https"):
            raise FetchError(
                f"{public(url)}: redirected to {public(target)}, which is not encrypted; it was not followed."
            )
        here = target
    raise FetchError(f"{public(url)}: more than {_MAX_REDIRECTS} redirects; open the address in a browser.")


def _beginning(response: requests.Response) -> bytes:
    """Return the first bytes of a body, as far as they arrive."""
    try:
        return next(response.iter_content(SNIFFED), b"")
    except requests.RequestException:
        return b""


def _validator(response: requests.Response) -> str:
    return response.headers.get("ETag") or response.headers.get("Last-Modified") or ""


def _strong(validator: str) -> bool:
    """Return whether a validator promises equal bytes, as If-Range requires."""
    return bool(validator) and not validator.startswith("W/")


def _digest_of(path: Path, length: int, algorithm: str = "sha256") -> _Hash:
    """Return the digest of the first bytes of a file, as an object to be updated."""
    total = hashlib.new(algorithm)
    if length:
        with open(path, "rb") as file:
            while length and (block := file.read(min(_CHUNK, length))):
                total.update(block)
                length -= len(block)
    return total
