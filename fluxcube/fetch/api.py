"""Small requests to the interfaces of services: lists, orders and sizes, with the same care as downloads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fluxcube.errors import FetchError
from fluxcube.fetch.addresses import credentials_in, public, without
from fluxcube.fetch.answers import SNIFFED, TRANSIENT, kind_error, retry_after, snippet, status_error, whole_number
from fluxcube.fetch.control import check_stop
from fluxcube.fetch.sending import (
    Failed,
    attempt_once,
    new_session,
    redirect_target,
    send,
    wait_before,
    within_redirects,
)
from fluxcube.parsing import parse_json

#: Largest answer that is read, in bytes: the longest list known is 1 MB.
_MAX_ANSWER = 1 << 27


def request_text(
    url: str,
    *,
    body: Mapping[str, object] | None = None,
    form: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    expect: Sequence[str] | None = None,
    hide: Sequence[str] = (),
    tries: int = 4,
    backoff: float = 1.0,
) -> str:
    """Send a small request, and return the text of the answer.

    Parameters
    ----------
    url : str
    body, form : mapping, optional
        Sent with POST, as JSON or as a form; without either the request is a GET.
    headers : mapping, optional
    expect : sequence of str, optional
        Content types of the answer; a web page is refused in any case.
    hide : sequence of str
        Credentials that an error message must not contain even if the service repeats them.
    tries, backoff
        As in `fluxcube.fetch.http.download`.

    Returns
    -------
    str

    Raises
    ------
    CredentialsError, LicenceError, QuotaError, FetchError
        If the service does not answer, refuses, or answers with something else.
    """
    problem = FetchError(f"{public(url)}: not tried.")
    for number in range(1, tries + 1):
        answer = attempt_once(url, lambda: _send(url, body, form, headers or {}, expect, hide))
        if isinstance(answer, str):
            return answer
        problem = answer.error
        if number < tries:
            wait_before(url, answer, number, backoff)
    raise problem


def request_json(url: str, **options: Any) -> Any:
    """Send a small request, and return the JSON of the answer; the options are those of `request_text`.

    Raises
    ------
    FetchError
        Also if the answer is not JSON.
    """
    text = request_text(url, expect=("application/json", "application/sparql-results+json"), **options)
    try:
        return parse_json(text, object)
    except ValueError:
        pass
    shown = snippet(without(text.encode()[:SNIFFED], options.get("hide", ())))
    raise FetchError(f"{public(url)}: expected JSON, found {shown}; try again later.")


def _send(
    url: str,
    body: Mapping[str, object] | None,
    form: Mapping[str, str] | None,
    headers: Mapping[str, str],
    expect: Sequence[str] | None,
    hide: Sequence[str],
) -> str:
    check_stop()
    sent = {"Accept": "application/json, */*;q=0.5", **headers}
    with new_session() as client:
        if body is None and form is None:
            response = within_redirects(client, url, sent, {"stream": True})
        else:
            data: Any = dict(body) if body is not None else None
            options: dict[str, Any] = {"json": data, "data": form, "timeout": (30, 120), "stream": True}
            response = send(client, "POST", url, headers=sent, allow_redirects=False, **options)
        with response:
            return _checked(url, response, expect, [*hide, *credentials_in(url, headers)])


def _checked(url: str, response: Any, expect: Sequence[str] | None, hide: Sequence[str]) -> str:
    if response.is_redirect:
        target = redirect_target(url, url, response)
        raise FetchError(f"{public(url)}: redirected to {public(target)}; orders are not sent there: report this.")
    if expect is None and not (response.headers.get("Content-Length") or response.headers.get("Transfer-Encoding")):
        raise Failed(FetchError(f"{public(url)}: the server does not state the length of the list; try again later."))
    content = _content(url, response)
    shown = without(content[:SNIFFED], hide)
    if response.status_code != 200:
        error = status_error(url, response.status_code, shown)
        if response.status_code in TRANSIENT:
            raise Failed(error, retry_after(response.headers))
        raise error
    if wrong := kind_error(url, response.headers.get("Content-Type", ""), shown, expect):
        raise wrong
    return content.decode("utf-8-sig", "replace")


def _content(url: str, response: Any) -> bytes:
    parts, size = [], 0
    for part in response.iter_content(1 << 20):
        parts.append(part)
        size += len(part)
        if size > _MAX_ANSWER:
            raise FetchError(f"{public(url)}: expected a list, found an answer of more than {_MAX_ANSWER} bytes.")
    return b"".join(parts)


def size_of(url: str, headers: Mapping[str, str] | None = None) -> int | None:
    """Return the size of a file as its server reports it (a HEAD request); None if it does not."""
    try:
        answer = attempt_once(url, lambda: _head(url, headers or {}))
    except FetchError:
        return None
    return None if isinstance(answer, Failed) else answer


def _head(url: str, headers: Mapping[str, str]) -> int | None:
    with new_session() as client, within_redirects(client, url, dict(headers), {}, method="HEAD") as response:
        length, kind = whole_number(response.headers.get("Content-Length")), response.headers.get("Content-Type", "")
        return length if response.status_code == 200 and "html" not in kind else None
