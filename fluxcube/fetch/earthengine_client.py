"""The Earth Engine client: start it with the user's credentials, request pixels, and name its errors."""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import requests

from fluxcube.errors import CredentialsError, FetchError, QuotaError, missing_package, to_type
from fluxcube.fetch.addresses import hide_credentials, public_text
from fluxcube.fetch.answers import MALFORMED, clock_hint
from fluxcube.fetch.control import check_stop, pause
from fluxcube.fetch.modis_tiff import corner
from fluxcube.fetch.sending import new_session, reason
from fluxcube.parsing import read_json
from fluxcube.sources.modis.grid import PIXEL

#: Endpoint for many small requests of programs.
HIGH_VOLUME = "https://earthengine-highvolume.googleapis.com"
#: Limits of a request: bytes of pixels without compression, and bands.
MAX_BYTES, MAX_BANDS = 50_331_648, 1024
#: The native projection of MODIS.
NATIVE = "SR-ORG:6974"
#: Pages on which an account is opened.
_SIGN_UP = "https://code.earthengine.google.com/register"
_QUOTA = re.compile(r"(?i)quota|too many|rate.?limit|\b429\b|concurrent|resource.?exhausted")
_ACCOUNT = re.compile(
    r"(?i)authoriz|authenticat|credential|permission|not registered|not signed up|\b40[13]\b|refresh|reauth|expired"
    r"|invalid_grant|no project|has not been used in project|not allowed"
)
_TRANSIENT = re.compile(r"(?i)internal error|unavailable|timed out|deadline|\b50[0234]\b|backend|connection")
_HEAVY = re.compile(r"(?i)memory limit|computation timed out|request size|number of bands|too large")
#: Attempts beyond those of the client, and seconds before the second one.
_TRIES, _PAUSE = 4, 15.0
#: Maximum length of the header of an answer: 1024 names of up to 60 characters, with room to spare.
#: NumPy parses a header with `ast`, whose counter of levels Python 3.11 shares between threads (SystemError).
_PARSING = threading.Lock()
_MAX_HEADER = 200_000
#: Seconds until an answer to a request of pixels must begin.
_TIMEOUT = 300.0
_STARTING = threading.Lock()

_Result = TypeVar("_Result")


class TooHeavy(FetchError):
    """Earth Engine cannot compute a request; one of fewer days can succeed."""


def start(project: str | None = None, endpoint: str | None = None) -> ModuleType:
    """Start the client, and return its module.

    Parameters
    ----------
    project : str, optional
        Google Cloud project; by default that of the environment (``EARTHENGINE_PROJECT``, ``GOOGLE_CLOUD_PROJECT``) or
        of the credentials.
    endpoint : str, optional
        Address of another server, which is used without credentials unless it is one of Google's.

    Raises
    ------
    CredentialsError
        If there are no credentials, they have expired, or the project is not registered.
    MissingPackageError
        If earthengine-api is not installed.
    """
    try:
        import ee
    except ImportError:
        raise missing_package("earthengine-api", "fetch-modis", "fetching MODIS from Earth Engine") from None
    hide_credentials("googleapiclient.discovery", "googleapiclient.http", "google.auth", "urllib3.connectionpool")
    url = (endpoint or HIGH_VOLUME).rstrip("/")
    project = project or os.environ.get("EARTHENGINE_PROJECT") or os.environ.get("GOOGLE_CLOUD_PROJECT")
    known = url.endswith(".googleapis.com")
    options: dict[str, Any] = {} if known else {"credentials": None, "http_transport": _Transport()}
    if known:
        _check_credentials(ee)
    with _STARTING:
        _call(lambda: ee.Initialize(url=url, project=project, **options), tries=1)
        if known:  # the client itself waits without an end
            _call(lambda: ee.data.setDeadline(1000 * _TIMEOUT), tries=1)
    return ee


def _check_credentials(ee: ModuleType) -> None:
    """Raise CredentialsError if the client's file is damaged; if there is none, the client itself reports it."""
    path = Path(ee.oauth.get_credentials_path())
    try:
        good = bool(read_json(path, dict))
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        good = False
    if not good:
        raise CredentialsError(
            f"Earth Engine: {path} cannot be read: run `earthengine authenticate`, which writes it anew."
        )


class _Transport:
    """What the client sends requests with, for a server that is not Google's: nothing of ``~/.netrc`` is sent there."""

    def __init__(self) -> None:
        self._session = new_session()

    def request(
        self, uri: str, method: str = "GET", body: Any = None, headers: Mapping[str, str] | None = None, **ignored: Any
    ) -> tuple[Any, bytes]:
        """Send a request, and return the answer as httplib2 does."""
        import httplib2

        try:
            answer = self._session.request(method, uri, data=body, headers=headers, timeout=_TIMEOUT)
            content = answer.content
        except requests.Timeout as error:
            raise TimeoutError(type(error).__name__) from None
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
            raise ConnectionError(type(error).__name__) from None
        return httplib2.Response({**answer.headers, "status": answer.status_code}), content


def image_days(ee: ModuleType, collection: str, first: np.datetime64, stop: np.datetime64) -> np.ndarray:
    """Return the days of the images of a collection from `first` to before `stop`, (day,) datetime64[D]."""
    images = ee.ImageCollection(collection).filterDate(str(first), str(stop))
    names = _call(lambda: images.aggregate_array("system:index").getInfo())
    if not isinstance(names, list):
        raise FetchError(f"Earth Engine: expected a list of the images of {collection}, found {type(names).__name__}.")
    days = []
    for name in names:
        if not (match := re.fullmatch(r"(\d{4})_(\d{2})_(\d{2})", str(name))):
            raise FetchError(
                f"Earth Engine: expected images named as 2019_07_04 in {collection}, found {str(name)[:40]!r}."
            )
        days.append("-".join(match.groups()))
    return np.array(sorted(set(days)), "datetime64[D]")


def request_pixels(ee: ModuleType, image: Any, row: int, col: int, height: int, width: int) -> np.ndarray:
    """Return the bands of an image over a block of native pixels, as a structured array (height, width).

    Raises
    ------
    FetchError
        If the server does not send the block.
    """
    x, y = corner(row, col)
    request = {
        "expression": image,
        "fileFormat": "NPY",  # the client's own conversion refuses headers with the names of more than 200 bands
        "grid": {
            "dimensions": {"width": width, "height": height},
            "affineTransform": {
                "scaleX": PIXEL,
                "shearX": 0,
                "translateX": x,
                "shearY": 0,
                "scaleY": -PIXEL,
                "translateY": y,
            },
            "crsCode": NATIVE,
        },
    }
    values = _call(lambda: _array(ee.data.computePixels(request)))
    if not isinstance(values, np.ndarray) or values.shape != (height, width) or not values.dtype.names:
        found = f"{values.shape} of {values.dtype}" if isinstance(values, np.ndarray) else type(values).__name__
        raise FetchError(f"Earth Engine: expected {height} x {width} pixels of named bands, found {found[:200]}.")
    return values


def _array(data: object) -> np.ndarray:
    """Return the array in the bytes of an NPY file."""
    if not isinstance(data, bytes):
        raise ValueError(f"expected bytes, found {type(data).__name__}")
    with _PARSING:
        return np.load(io.BytesIO(data), allow_pickle=False, max_header_size=_MAX_HEADER)


def _call(function: Callable[[], _Result], tries: int | None = None) -> _Result:
    """Call the client; try again after errors that pass. The client itself tries five times within a minute."""
    problem: FetchError | None = None
    for attempt in range(tries or _TRIES):
        check_stop()
        if attempt:
            pause(_PAUSE * 2 ** (attempt - 1))
        failure = _attempt(function)
        if not isinstance(failure, _Failure):
            return failure
        problem = failure.error
        if not failure.passing:
            break
    assert problem is not None
    raise problem


class _Failure:
    """A failed call, and whether another attempt can succeed."""

    def __init__(self, error: FetchError, passing: bool) -> None:
        self.error, self.passing = error, passing


def _attempt(function: Callable[[], _Result]) -> _Result | _Failure:
    """Call the client once. Its errors contain addresses: none may become the context of an error that a user sees."""
    import ee
    from google.auth.exceptions import GoogleAuthError
    from googleapiclient.errors import Error as ClientError

    try:
        return function()
    except GoogleAuthError as error:
        return _Failure(_account_error(str(error)), passing=False)
    except (ee.EEException, ClientError) as error:
        return _named(str(error))
    except FetchError:
        raise
    except requests.RequestException as error:
        return _Failure(FetchError(f"Earth Engine: {reason(error)}; run the same command again to continue."), True)
    except (ConnectionError, TimeoutError):
        return _Failure(
            FetchError("Earth Engine: the server could not be reached; run the same command again to continue."), True
        )
    except (EOFError, *MALFORMED) as error:
        text = f"{type(error).__name__}: {public_text(str(error))[:200]}"
        return _Failure(
            FetchError(f"Earth Engine: the answer cannot be read ({text}); run the same command later, or update ee."),
            True,
        )


def _named(text: str) -> _Failure:
    if _HEAVY.search(text):
        return _Failure(TooHeavy(f"Earth Engine: the request is too large ({_shown(text)})."), passing=False)
    if _QUOTA.search(text):
        return _Failure(
            QuotaError(f"Earth Engine: a quota is used up ({_shown(text)}); run the same command later."), True
        )
    if _ACCOUNT.search(text):
        return _Failure(_account_error(text), passing=False)
    passing = bool(_TRANSIENT.search(text))
    return _Failure(FetchError(f"Earth Engine: the request failed ({_shown(text)})."), passing)


def _account_error(text: str) -> CredentialsError:
    return CredentialsError(
        f"Earth Engine does not accept this computer's account ({_shown(text)}): open an account and a project on "
        f"{_SIGN_UP}, run `earthengine authenticate`, which writes ~/.config/earthengine/credentials, and pass the "
        f"project ({to_type(python='project=', shell='--project')}, or EARTHENGINE_PROJECT)."
    )


def _shown(text: str) -> str:
    return " ".join(public_text(text).split())[:300] + clock_hint(text)
