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
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxcube.errors import FetchError, missing_package
from fluxcube.fetch.addresses import credentials_in, hide_credentials, public, without
from fluxcube.fetch.answers import (
    SNIFFED,
    TRANSIENT,
    is_login,
    kind_error,
    login_error,
    retry_after,
    status_error,
    whole_number,
)
from fluxcube.fetch.control import check_stop, report_bytes
from fluxcube.fetch.items import PART, PART_STATE, size_text
from fluxcube.fetch.sending import (
    Failed,
    attempt_once,
    new_session,
    send,
    shown,
    wait_before,
    within_redirects,
)
from fluxcube.parsing import read_json
from fluxcube.stores.swap import unwritable

try:
    import requests
except ImportError:
    raise missing_package("requests", "fetch", "fetching data") from None

if TYPE_CHECKING:
    from hashlib import _Hash

_log = logging.getLogger(__name__)

_CHUNK = 1 << 20
#: Consecutive attempts without a new byte, and attempts in total.
_TRIES, _MAX_TRIES = 5, 60
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


def download(
    url: str,
    path: Path,
    *,
    session: requests.Session | None = None,
    headers: Mapping[str, str] | None = None,
    size: int | None = None,
    checksum: tuple[str, str] | None = None,
    expect: Sequence[str] | None = None,
    formats: Sequence[str] = (),
    without_length: bool = False,
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
    formats : sequence of str
        Formats that the file can have (`fluxcube.fetch.answers.FORMATS`), recognised by its first bytes.
    without_length : bool
        Accept a file whose length is not known at all (no `size`, no `checksum`, and the server states none), because
        the caller finds out by other means whether it is complete.
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
    check = partial(kind_error, expect=expect, formats=formats)
    transfer = _Transfer(url, Path(path), headers or {}, size, checksum, check, without_length, progress, explain)
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


class _Transfer:
    """One download, over all its attempts."""

    def __init__(
        self,
        url: str,
        path: Path,
        headers: Mapping[str, str],
        size: int | None,
        checksum: tuple[str, str] | None,
        check: Callable[[str, str, bytes], FetchError | None],
        without_length: bool,
        progress: Callable[[int, int, str], None] | None,
        explain: Explain | None,
    ) -> None:
        self.url, self.path, self.headers, self.size, self.checksum = url, path, headers, size, checksum
        self.check, self.without_length, self.progress, self.explain = check, without_length, progress, explain
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
            total = self._total(response, start, state)
            self._check_space(total, start)
            # Ranges count the bytes of an encoded body, not those of the file: such a download cannot continue.
            etag = "" if _is_encoded(response) else _validator(response)
            if not start:
                self._write_state(etag, total)
            sha = self._copy(chain([first], blocks), start, total)
        return self._finish(sha, total, etag)

    def _state(self) -> dict[str, Any]:
        try:
            state = read_json(self.state_file, dict)
        except (OSError, ValueError):
            return {}
        kinds: dict[str, tuple[type, ...]] = {"url": (str,), "etag": (str,), "size": (int, type(None))}
        good = all(isinstance(state.get(key), kind) for key, kind in kinds.items())
        return state if good else {}

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
        options: dict[str, Any] = {"stream": True}
        if not own:
            return send(client, "GET", self.url, headers=headers, **options)
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
        if not start or first != str(start) or changed or _is_encoded(response):
            self._discard()
            raise Failed(FetchError(f"{public(self.url)}: the server sent another part than requested."), wait=0.0)
        return start

    def _refused(self, response: requests.Response) -> FetchError | Failed:
        body = self._shown(response, _beginning(response))
        error = self.explain(response, body) if self.explain else None
        error = error or status_error(self.url, response.status_code, body)
        if response.status_code not in TRANSIENT or (error.stops and response.status_code != 429):
            return error
        return Failed(error, retry_after(response.headers))

    def _total(self, response: requests.Response, start: int, state: dict[str, Any]) -> int | None:
        """Return the size of the whole file as the server reports it, or None."""
        length = whole_number(response.headers.get("Content-Length"))
        chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
        if length is None and not chunked and self.size is None and self.checksum is None and not self.without_length:
            raise FetchError(
                f"{public(self.url)}: the server does not state the length of the file, so that a cut connection could "
                "not be noticed: nothing was written; run the same command later, or report this."
            )
        if _is_encoded(response):
            return self.size
        total = None if length is None else start + length
        whole = whole_number(response.headers.get("Content-Range", "").rpartition("/")[2])
        if start and whole is not None:
            total = whole
        if start and total is not None and state.get("size") not in (None, total):
            self._discard()
            raise Failed(FetchError(f"{public(self.url)}: the server's file has changed."), wait=0.0)
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

    def _shown(self, response: requests.Response, body: bytes) -> bytes:
        """Return the beginning of a body as an error may show it: servers repeat the credentials that they refuse."""
        return without(shown(response, body), credentials_in(self.url, self.headers))

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
        head = self._shown(response, block[:SNIFFED])
        error = self.check(self.url, response.headers.get("Content-Type", ""), head)
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
        for path in (self.part, self.state_file):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise unwritable(path, error) from error


def _is_encoded(response: requests.Response) -> bool:
    """Return whether the body is compressed for the transfer."""
    return response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity")


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
