"""Sign addresses of blobs with tokens of the Planetary Computer, which are kept in RAM only."""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import requests

from fluxcube.errors import FetchError, QuotaError
from fluxcube.fetch.addresses import host_of, origin_of, public
from fluxcube.fetch.answers import TRANSIENT, retry_after, snippet
from fluxcube.fetch.control import pause
from fluxcube.fetch.sending import reason, send

_BLOBS = re.compile(r"[a-z0-9]+\.blob\.core\.windows\.net")
_EARLY = timedelta(minutes=5)
_TRIES, _TIMEOUT = 5, 30.0


class Signer:
    """Adds a shared access signature to addresses, one for each container, and renews it before it expires.

    Parameters
    ----------
    service : str
        Address of the service that issues tokens.
    session : requests.Session
    own : str, optional
        Address of another server, whose files are signed, too.
    """

    def __init__(self, service: str, session: requests.Session, own: str | None = None) -> None:
        self._service, self._session, self._own = service, session, own
        self._tokens: dict[tuple[str, str], tuple[str, datetime]] = {}
        self._guard = threading.Lock()

    def __repr__(self) -> str:
        return f"Signer({self._service!r})"

    def signed(self, url: str, *, new: bool = False) -> str:
        """Return an address with a token; with `new`, with another one than before.

        Raises
        ------
        FetchError
            If the address is none of Azure's blobs: a token is sent to no other server.
        """
        own = self._own is not None and origin_of(url) == origin_of(self._own)
        if not own and not (_BLOBS.fullmatch(host_of(url)) and url.startswith("https://")):
            raise FetchError(
                f"{public(url)}: the catalogue names a file on another server than Azure's; it is not read."
            )
        account = host_of(url).partition(".")[0]
        container = urlsplit(url).path.lstrip("/").partition("/")[0]
        with self._guard:
            token, expires = self._tokens.get((account, container), ("", datetime.min.replace(tzinfo=UTC)))
            if new or expires < datetime.now(UTC) + _EARLY:
                token, expires = self._request(account, container)
                self._tokens[account, container] = token, expires
        return f"{url}?{token}"

    def _request(self, account: str, container: str) -> tuple[str, datetime]:
        problem: FetchError | None = None
        wait = 0.0
        for attempt in range(_TRIES):
            if attempt:
                pause(min(max(wait, 2.0**attempt), 60.0))
            try:
                response = send(self._session, "GET", f"{self._service}/{account}/{container}", timeout=_TIMEOUT)
            except requests.RequestException as error:
                problem = FetchError(f"Planetary Computer: no token was received ({reason(error)}).")
                continue
            if response.status_code == 200:
                return _parsed(response)
            kind = QuotaError if response.status_code == 429 else FetchError
            problem = kind(
                f"Planetary Computer: no token was issued for {account}/{container} ({response.status_code}): "
                f"{snippet(response.content)}; run the same command later."
            )
            if response.status_code not in TRANSIENT:
                break
            wait = retry_after(response.headers) or 0.0
        assert problem is not None
        raise problem


def _parsed(response: requests.Response) -> tuple[str, datetime]:
    """Return the token and the time at which it expires."""
    try:
        answer = response.json()
        token, expiry = str(answer["token"]), str(answer["msft:expiry"])
        time = datetime.fromisoformat(expiry)
        return token, time if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, KeyError, TypeError):
        pass
    raise FetchError("Planetary Computer: expected a token and the time at which it expires, found another answer.")
