"""Send requests: sessions without credentials, redirects, and the errors of a connection in the user's words."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

from fluxcube import __version__
from fluxcube.errors import FetchError, missing_package
from fluxcube.fetch.addresses import HARMLESS_HEADERS, credentials_in, hide_credentials, origin_of, public, without
from fluxcube.fetch.answers import is_login, login_error, wait_error
from fluxcube.fetch.control import pause

try:
    import requests
except ImportError:
    raise missing_package("requests", "fetch", "fetching data") from None

_log = logging.getLogger(__name__)

#: Seconds to connect, and between two packets.
TIMEOUT = (30.0, 120.0)
#: Longest wait that a server may request, and longest of our own, in seconds.
_LONGEST_WAIT, _LONGEST_PAUSE = 300.0, 60.0
_MAX_REDIRECTS = 10
#: Some services (AmeriFlux) refuse agents that do not begin as browsers do.
_AGENT = f"Mozilla/5.0 (compatible; fluxcube/{__version__})"

T = TypeVar("T")


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
    for host in ("127.0.0.1", "localhost", "[::1]"):
        for end in (":", "/"):
            for scheme in ("http", "https"):
                session.mount(f"{scheme}://{host}{end}", _Direct())
    session.auth = no_auth
    session.headers["User-Agent"] = _AGENT
    return session


class _Direct(requests.adapters.HTTPAdapter):
    """Connects without a proxy."""

    def send(self, request: requests.PreparedRequest, *arguments: Any, **options: Any) -> requests.Response:
        """Send a request."""
        return super().send(request, *arguments, **{**options, "proxies": None})


def no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Return a request as it is: as the authentication of a session, it keeps requests from reading ``.netrc``."""
    return request


class _Timed(requests.adapters.HTTPAdapter):
    """Waits `TIMEOUT` for an answer where no other time is passed."""

    def send(self, request: requests.PreparedRequest, *arguments: Any, **options: Any) -> requests.Response:
        """Send a request."""
        return super().send(request, *arguments, **{**options, "timeout": options.get("timeout") or TIMEOUT})


def limit_waiting(session: requests.Session) -> None:
    """Let the session of a client wait for an answer as long as a download does, not without an end."""
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Timed())


def attempt_once(url: str, action: Callable[[], T]) -> T | Failed:
    """Do once what sends a request; return a failure after which another attempt can succeed, and raise any other.

    Errors of requests contain the whole address: none may become the context of an error that a user sees.
    """
    problem: FetchError | None = None
    try:
        return action()
    except Failed as failure:
        return failure
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        why = reason(error)
        if not _concerns_certificate(error):
            return Failed(FetchError(f"{public(url)}: {why}; run the same command again to continue."))
        problem = FetchError(f"{public(url)}: {why}; nothing was sent.")
    except requests.RequestException as error:
        problem = FetchError(f"{public(url)}: the request failed ({type(error).__name__}); {_advice(error)}.")
    raise problem


def _concerns_certificate(error: BaseException) -> bool:
    """Return whether an error is about the certificate of a server, so that another attempt would fail, too."""
    return isinstance(error, requests.exceptions.SSLError) and "certificate" in str(error).lower()


def reason(error: BaseException | None) -> str:
    """Return what went wrong with a connection, without the address that the error contains."""
    if not isinstance(error, (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)):
        return f"the request failed ({type(error).__name__})"
    text = str(error).lower()
    if _concerns_certificate(error):
        clock = " (is the clock of this computer right?)" if "expired" in text or "not yet valid" in text else ""
        return f"the certificate of the server is not accepted{clock}"
    if isinstance(error, requests.exceptions.SSLError):
        return "the encrypted connection failed"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy of the environment could not be reached"
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return f"no connection within {TIMEOUT[0]:.0f} s"
    if isinstance(error, requests.Timeout) or "timed out" in text:
        return f"the server sent nothing for {TIMEOUT[1]:.0f} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError) or "incompleteread" in text:
        return "the connection ended before the file was complete"
    if "resolve" in text or "name or service" in text:
        return "the name of the server could not be resolved (is this computer online?)"
    return "the server could not be reached, or closed the connection"


def _advice(error: requests.RequestException) -> str:
    """Return what a user can do about an error after which another attempt would fail, too."""
    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)):
        return "the address, or that of the proxy in the environment, is not valid"
    return "the server does not answer as HTTP requires: run the same command later"


def wait_before(url: str, failure: Failed, failures: int, backoff: float) -> None:
    """Wait before the next attempt: longer after each failure, and as long as the server requests."""
    if failure.wait is not None and failure.wait > _LONGEST_WAIT:
        raise wait_error(url, failure.wait)
    own = min(backoff * 2 ** (failures - 1), _LONGEST_PAUSE) * (1 + random.random() / 4)
    seconds = max(own, failure.wait or 0.0)
    _log.info("%s; attempt %d in %.1f s", failure.error, failures + 1, seconds)
    pause(seconds)


def send(client: requests.Session, method: str, url: str, **options: Any) -> requests.Response:
    """Send a request, of which the address, or the one that the server redirects to, can be malformed.

    Raises
    ------
    FetchError
        If it is. Errors of requests are not changed.
    """
    try:
        return client.request(method, url, **{"timeout": TIMEOUT, **options})
    except requests.RequestException:
        raise
    except ValueError:  # requests and urllib3 raise errors of addresses as they are, with the address
        problem = "the address, or the one that the server redirects to, is not valid"
    except OSError as error:  # the file of REQUESTS_CA_BUNDLE
        problem = f"certificates for encryption cannot be read ({error}); check REQUESTS_CA_BUNDLE and SSL_CERT_FILE"
    raise FetchError(f"{public(url)}: {problem}.")


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
    try:
        first, here = origin_of(url), url
    except ValueError:
        raise FetchError(f"{public(url)}: this is no valid address.") from None
    for _ in range(_MAX_REDIRECTS):
        sent = (
            headers if origin_of(here) == first else {k: v for k, v in headers.items() if k.lower() in HARMLESS_HEADERS}
        )
        response = send(client, method, here, headers=sent, allow_redirects=False, **options)
        if not response.is_redirect:
            return response
        target = redirect_target(url, here, response)
        response.close()
        scheme = urlsplit(target).scheme
        if scheme not in ("http", "https") or (first[0] == "https" and scheme != "https"):
            raise FetchError(
                f"{public(url)}: redirected to {public(target)}, which is not encrypted; it was not followed."
            )
        here = target
    raise FetchError(f"{public(url)}: more than {_MAX_REDIRECTS} redirects; open the address in a browser.")


def redirect_target(url: str, here: str, response: requests.Response) -> str:
    """Return the address to which a request was redirected.

    Parameters
    ----------
    url, here : str
        Address that was requested first, for messages, and last.
    response : requests.Response

    Raises
    ------
    CredentialsError
        If it is a login page.
    FetchError
        If it is malformed.
    """
    location = response.headers.get("Location", "")
    with contextlib.suppress(UnicodeError):  # a header is read as Latin-1, and is in UTF-8 if it has other characters
        location = location.encode("latin-1").decode("utf-8")
    try:
        target = urljoin(here, location)
        origin_of(target)
    except ValueError:
        raise FetchError(f"{public(url)}: redirected to an address that is not valid; report this.") from None
    if is_login(target):
        raise login_error(url, target)
    return target


def shown(response: requests.Response, body: bytes) -> bytes:
    """Return the beginning of a body without the credentials of its request, which servers repeat in refusals."""
    credentials: list[str] = []
    for one in (answer.request for answer in (*response.history, response) if answer.request is not None):
        headers = {k: v if isinstance(v, str) else v.decode("latin-1") for k, v in one.headers.items()}
        credentials += credentials_in(one.url or "", headers)
    return without(body, credentials)
