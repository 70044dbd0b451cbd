"""Addresses without credentials: every URL in a message, a log or the ledger goes through `public`."""

from __future__ import annotations

import base64
import binascii
import logging
import re
from collections.abc import Iterable, Mapping
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

#: Names of query values that are credentials: tokens, keys, signatures, shared access signatures (sig, se, sp ...), and
#: no name: AmeriFlux appends ``?=USER`` to its links.
_SECRET = re.compile(
    r"(?i)(.*(token|secret|passw|signature|credential|api_?key|access_?key|auth|session|cookie|email).*"
    r"||x-amz-.*|x-goog-.*|key|sig|se|sp|sv|sr|st|skoid|sktid|skt|ske|sks|skv|user|user_id|pwd|code|jwt|policy|key-pair-id)"
)
_URL = re.compile(r"""[a-z][a-z0-9+.-]*://[^\s"'<>]+""", re.IGNORECASE)
_PATH_QUERY = re.compile(r"""(?<![\w:/])(/[^\s"'<>?]*)\?([^\s"'<>]+)""")
#: A member of JSON, which can be cut off, whose value is a token.
_JSON_TOKEN = re.compile(r"""(?i)("[\w-]*(?:token|secret|passw\w*|api_?key|signature)"\s*:\s*)"[^"]*"?""")
#: The value of a header that authorises a request.
_SCHEME = re.compile(r"\b((?i:basic|bearer)) (?=\S*[A-Z0-9])[A-Za-z0-9+/=._~-]{8,}")
#: Headers that contain no credentials, and follow a redirect to another host.
HARMLESS_HEADERS = frozenset(
    {"accept", "accept-encoding", "range", "if-range", "user-agent", "connection", "content-length", "content-type"}
)
_HIDDEN = "***"


def public(url: str) -> str:
    """Return a URL without credentials: without user:password@, and with hidden values of token-like query names.

    Examples
    --------
    >>> public("https://me:secret@host.org/file.zip?year=2018&token=abc#part")
    'https://host.org/file.zip?year=2018&token=***#part'
    """
    if "://" not in url:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return _HIDDEN
    host = parts.netloc.rpartition("@")[2]
    fragment = _HIDDEN if "=" in parts.fragment else parts.fragment
    return urlunsplit((parts.scheme, host, parts.path, _public_query(parts.query), fragment))


def _public_query(query: str) -> str:
    if not query:
        return query
    pairs = parse_qsl(query, keep_blank_values=True)
    return "&".join(
        f"{_quoted(name)}={_HIDDEN if _SECRET.fullmatch(name) else _quoted(value, '/:,+')}" for name, value in pairs
    )


def _quoted(text: str, safe: str = "") -> str:
    return quote(text, safe=safe, errors="replace")


def public_text(text: str) -> str:
    """Return a text in which every URL, and every path with a query, is public, and tokens in JSON are hidden.

    Examples
    --------
    >>> public_text('GET /data?token=abc failed at https://a:b@host.org/x')
    'GET /data?token=*** failed at https://host.org/x'
    >>> public_text('{"access_token": "abc", "type": "Bearer"}')
    '{"access_token": "***", "type": "Bearer"}'
    >>> public_text("Basic authentication is required, found Basic bWU6cGFzcw==")
    'Basic authentication is required, found Basic ***'
    """
    text = _JSON_TOKEN.sub(rf'\1"{_HIDDEN}"', text)
    text = _SCHEME.sub(rf"\1 {_HIDDEN}", text)
    text = _URL.sub(lambda match: public(match[0]), text)
    return _PATH_QUERY.sub(lambda match: f"{match[1]}?{_public_query(match[2])}", text)


class _PublicFilter(logging.Filter):
    """Removes credentials from the URLs of log records."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = public_text(record.getMessage()), ()
        return True


_FILTER = _PublicFilter()


def hide_credentials(*loggers: str) -> None:
    """Let loggers of client libraries, which log the URLs they request, log public ones.

    Parameters
    ----------
    *loggers : str
        Names; the filter is added to each once.
    """
    for name in loggers:
        logging.getLogger(name).addFilter(_FILTER)


def credentials_in(url: str, headers: Mapping[str, str]) -> list[str]:
    """Return the credentials of a request: of its URL, and of its headers, also as they are before their encoding.

    Examples
    --------
    >>> credentials_in("https://me:pass1@host.org/x?token=abc1&year=2018", {"Authorization": "Bearer xyz1"})
    ['me', 'pass1', 'abc1', 'Bearer xyz1', 'xyz1']
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return [url]
    found = [unquote(text or "") for text in (parts.username, parts.password)]
    found += [value for name, value in parse_qsl(parts.query) if _SECRET.fullmatch(name)]
    for name, value in headers.items():
        if name.lower() not in HARMLESS_HEADERS:
            found += [value, value.rpartition(" ")[2], *_basic(value)]
    return [text for text in found if len(text) > 1]


def _basic(value: str) -> list[str]:
    """Return the user, the password and both together in the value of a header for basic authentication."""
    scheme, _, encoded = value.partition(" ")
    if scheme.lower() != "basic":
        return []
    try:
        pair = base64.b64decode(encoded).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return []
    user, _, password = pair.partition(":")
    return [pair, user, password]


def without(body: bytes, credentials: Iterable[str]) -> bytes:
    """Return the beginning of a body in which credentials are hidden, the longest first."""
    for text in sorted(filter(None, credentials), key=len, reverse=True):
        body = body.replace(text.encode(), _HIDDEN.encode())
    return body


def hidden(text: str, credentials: Iterable[str]) -> str:
    """Return a text in which credentials are hidden.

    Examples
    --------
    >>> hidden("the key abc1 has expired", ["abc1"])
    'the key *** has expired'
    """
    return without(text.encode("utf-8", "replace"), credentials).decode("utf-8", "replace")


def host_of(url: str) -> str:
    """Return the host of a URL, lower case; "" if it has none."""
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


def origin_of(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port of a URL: credentials are sent to one origin only (ValueError if malformed)."""
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or default
