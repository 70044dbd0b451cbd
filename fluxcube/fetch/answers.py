"""What a service answered instead of the data: refusals, login pages, web pages, in the user's words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from fluxcube.errors import CredentialsError, FetchError, LicenceError, QuotaError
from fluxcube.fetch.addresses import host_of, public, public_text
from fluxcube.fetch.items import duration_text

#: Hosts and paths of login pages.
_LOGIN_HOST = re.compile(
    r"(urs\.earthdata\.nasa\.gov|orcid\.org|cpauth\.icos-cp\.eu|accounts\.google\.com|login\..*|auth\..*|sso\..*|idp\..*)"
)
_LOGIN_PATH = re.compile(r"(?i)/(login|signin|sign-in|oauth2?|sso|authenticate|saml)\b")
_LOGIN_TEXT = re.compile(rb"""(?i)(type=["']?password|log ?in|sign ?in|anmelden)""")
_LICENCE_TEXT = re.compile(rb"(?i)(accept[^<]{0,60}licen[cs]e|licen[cs]e[^<]{0,60}accept|data use agreement|EULA)")
_HTML = re.compile(rb"(?i)^(\xef\xbb\xbf)?\s*(<!--.*?-->\s*)*<(!doctype html|html|head|body)", re.DOTALL)
#: Texts of services about requests from a computer with a wrong clock.
_SKEWED = re.compile(
    r"(?i)(time ?too ?skewed|token used (too early|before issued)|not yet valid|clock skew|invalid.{0,10}iat|"
    r"short-lived token .{0,40}reasonable timeframe)"
)
#: First bytes of formats of data.
FORMATS: dict[str, tuple[bytes, ...]] = {
    "zip": (b"PK\x03\x04",),
    "HDF4": (b"\x0e\x03\x13\x01",),
    "HDF5": (b"\x89HDF\r\n\x1a\n",),
    "NetCDF": (b"CDF\x01", b"CDF\x02", b"CDF\x05", b"\x89HDF\r\n\x1a\n"),
    "GRIB": (b"GRIB",),
    "TIFF": (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),
    "gzip": (b"\x1f\x8b",),
    "NumPy": (b"\x93NUMPY",),
}
_MAGIC = tuple(start for starts in FORMATS.values() for start in starts)
_ANY_TYPE = ("application/octet-stream", "binary/octet-stream", "application/x-download", "")
#: Errors of Python that clients raise when a service sends an answer of an unexpected form.
MALFORMED = (ValueError, TypeError, KeyError, IndexError, AttributeError)
#: Number of bytes of a body that decide what it is.
SNIFFED = 4096
#: Statuses after which the same request can succeed.
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


def is_login(url: str) -> bool:
    """Return whether a URL is that of a login page."""
    try:
        return bool(_LOGIN_HOST.fullmatch(host_of(url)) or _LOGIN_PATH.search(urlsplit(url).path))
    except ValueError:
        return False


def login_error(url: str, page: str) -> CredentialsError:
    """Return the error for a request that was sent to a login page."""
    return CredentialsError(
        f"{public(url)}: the service asked for a login ({host_of(page)}) instead of sending the data: there is no "
        "account in the client's file or in the environment, or its password or token has expired."
    )


def kind_error(
    url: str, content_type: str, head: bytes, expect: Sequence[str] | None, formats: Iterable[str] = ()
) -> FetchError | None:
    """Return why a body cannot be the requested data, or None if it can.

    Parameters
    ----------
    url : str
        For the message.
    content_type : str
        As the service reports it; it is not trusted where the first bytes contradict it.
    head : bytes
        First bytes of the body.
    expect : sequence of str or None
        Content types of the data; None accepts any except a web page.
    formats : iterable of str
        Names in `FORMATS`, of which the body must have the first bytes; none accepts any.
    """
    kind = content_type.partition(";")[0].strip().lower()
    starts = tuple(start for name in formats for start in FORMATS[name])
    if head.startswith(starts or _MAGIC):
        return None
    html = kind in ("text/html", "application/xhtml+xml") or bool(_HTML.match(head))
    if html and not (expect and "text/html" in expect):
        return _html_error(url, head)
    if expect and kind not in (*expect, *_ANY_TYPE):
        return FetchError(f"{public(url)}: expected {' or '.join(expect)}, found {kind}: {snippet(head)}")
    if starts:
        return FetchError(f"{public(url)}: expected a {' or '.join(formats)} file, found {kind}: {snippet(head)}")
    return None


def _html_error(url: str, head: bytes) -> FetchError:
    if _LICENCE_TEXT.search(head):
        return LicenceError(
            f"{public(url)}: the service sent a page about a licence instead of the data; open this address in a "
            "browser, accept the licence, and run the same command again."
        )
    if _LOGIN_TEXT.search(head):
        return login_error(url, url)
    return FetchError(
        f"{public(url)}: expected data, found a web page ({snippet(head)}); open the address in a browser."
    )


def status_error(url: str, status: int, body: bytes) -> FetchError:
    """Return the error for a status that is not success."""
    where, answer = public(url), snippet(body)
    answer += clock_hint(body[:SNIFFED].decode("utf-8", "replace"))
    if status == 401:
        return CredentialsError(f"{where}: the service does not accept the credentials, or found none (401): {answer}")
    if status == 403 and _LICENCE_TEXT.search(body):
        return LicenceError(f"{where}: a licence must be accepted first, in a browser (403): {answer}")
    if status == 403:
        return FetchError(f"{where}: access is refused (403); an account, or a right of it, is missing: {answer}")
    if status in (404, 410):
        return FetchError(f"{where}: there is no such file at the service ({status}): {answer}")
    if status == 429:
        return QuotaError(f"{where}: too many requests (429): {answer}; wait, and run the same command again.")
    return FetchError(f"{where}: the service answered with status {status}: {answer}")


def clock_hint(text: str) -> str:
    """Return a hint for the user if a service refuses the time of a request; "" if not.

    Examples
    --------
    >>> clock_hint("Token used too early, 1700000000 < 1700003600")
    ' (is the clock of this computer right?)'
    """
    return " (is the clock of this computer right?)" if _SKEWED.search(text) else ""


def snippet(body: bytes, length: int = 200) -> str:
    """Return the beginning of a body as one printable line, without tags and credentials."""
    text = re.sub(r"(?s)<(script|style).*?</\1>|<[^>]*>", " ", body[:SNIFFED].decode("utf-8", "replace"))
    text = " ".join(public_text(text).split())
    text = "".join(c if c.isprintable() else "?" for c in text)
    return repr(text[:length] + ("..." if len(text) > length else "")) if text else "an empty answer"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of the header Retry-After (a number or a date); None if there is none, or it is malformed.

    A date is compared with the header Date of the same answer, so that a clock that is off does not matter.
    """
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]+)?", value):
        return float(value)
    until, now = _time(value), _time(headers.get("Date", "")) or datetime.now(UTC)
    return None if until is None else max(0.0, (until - now).total_seconds())


def _time(text: str) -> datetime | None:
    """Return the time of a header, which is in UTC where it states no zone; None if it is malformed."""
    try:
        time = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def whole_number(text: object) -> int | None:
    """Return the number that a text of a service is, such as a length in bytes; None if it is none.

    Examples
    --------
    >>> whole_number("12"), whole_number("-5"), whole_number("²"), whole_number(None)
    (12, None, None, None)
    """
    return int(str(text)) if re.fullmatch("[0-9]{1,18}", str(text)) else None


def wait_error(url: str, seconds: float) -> QuotaError:
    """Return the error for a service that requests a longer wait than a fetch makes."""
    return QuotaError(
        f"{public(url)}: the service asks to wait {duration_text(seconds)} (a quota is used up); run the same command "
        "again after that."
    )
