"""Read parts of a file on a web server by ranges, as a file object: a window of a GeoTIFF needs few of its bytes."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import requests

from fluxcube.errors import FetchError
from fluxcube.fetch.addresses import public
from fluxcube.fetch.answers import TRANSIENT, kind_error, retry_after, status_error, whole_number
from fluxcube.fetch.control import check_stop, pause
from fluxcube.fetch.sending import reason, send, shown

_BLOCK = 1 << 16
#: Maximum number of blocks in RAM (16 MiB).
_BLOCKS = 256
_TRIES, _TIMEOUT = 5, (30.0, 60.0)
_LONGEST_WAIT = 60.0


class RemoteFile(io.RawIOBase):
    """A file on a server, read by ranges in blocks of 64 KiB, of which the last 256 are kept.

    Parameters
    ----------
    sign : callable
        ``sign(new)`` returns the address to request, which can contain a token; with `new`, with a new token.
    session : requests.Session

    Attributes
    ----------
    problem : FetchError or None
        Error of the last read: GDAL replaces it with one of its own.
    received : int
        Bytes received.
    """

    def __init__(self, sign: Callable[[bool], str], session: requests.Session) -> None:
        super().__init__()
        self._sign, self._session = sign, session
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._position, self._etag = 0, ""
        self.size = 0
        self.received = 0
        self.problem: FetchError | None = None
        self._load(0, 0)

    def __repr__(self) -> str:
        return f"RemoteFile({public(self._sign(False))!r})"

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position, and return it."""
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes from the position on; the blocks that are missing are requested at once."""
        stop = self.size if size < 0 else min(self._position + size, self.size)
        if stop <= self._position:
            return b""
        first, last = self._position // _BLOCK, (stop - 1) // _BLOCK
        missing = [n for n in range(first, last + 1) if n not in self._blocks]
        try:
            if missing:
                self._load(missing[0], missing[-1])
        except FetchError as error:
            self.problem = error
            raise
        content = b"".join(self._blocks[n] for n in range(first, last + 1))
        content = content[self._position - first * _BLOCK : stop - first * _BLOCK]
        self._position = stop
        while len(self._blocks) > _BLOCKS:
            self._blocks.popitem(last=False)
        return content

    def _load(self, first: int, last: int) -> None:
        """Request blocks, and keep them."""
        body = self._request(first * _BLOCK, (last + 1) * _BLOCK - 1)
        for n in range(first, last + 1):
            self._blocks[n] = body[(n - first) * _BLOCK : (n - first + 1) * _BLOCK]

    def _request(self, first: int, last: int) -> bytes:
        """Return bytes `first` to `last`, or to the end of the file; try again after errors that pass."""
        problem: FetchError | None = None
        denied = False
        for attempt in range(_TRIES):
            check_stop()
            url, wait = self._sign(denied), 0.0
            try:
                headers = {"Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"}
                with send(self._session, "GET", url, headers=headers, timeout=_TIMEOUT, stream=True) as response:
                    body = self._checked(response, first, last)
            except requests.RequestException as error:
                problem = FetchError(f"{public(url)}: {reason(error)}; run the same command again.")
            else:
                if isinstance(body, bytes):
                    return body
                problem, wait, passing = body
                if not passing:
                    break
                denied = response.status_code in (401, 403)
            pause(min(max(wait, 2.0**attempt), _LONGEST_WAIT))
        assert problem is not None
        raise problem

    def _checked(self, response: requests.Response, first: int, last: int) -> bytes | tuple[FetchError, float, bool]:
        """Return the body; or what is wrong with it, the seconds to wait, and whether another attempt can succeed."""
        # A server that does not know ranges sends the file from its beginning; the rest of it is not read.
        body = _read(response, last + 1 if response.status_code == 200 else last + 1 - first)
        url = public(response.url)
        wait = retry_after(response.headers) or 0.0
        if response.status_code in (401, 403):
            return FetchError(f"{url}: access was refused, also with a new token."), wait, True
        if response.status_code not in (200, 206):
            answer = shown(response, body[:500])
            return status_error(url, response.status_code, answer), wait, response.status_code in TRANSIENT
        start, total = _range(response)
        head = b"II*\0" if start else shown(response, body[:500])
        if error := kind_error(url, response.headers.get("Content-Type", ""), head, None):
            return error, wait, False
        if start is None or total is None or start > first or start + len(body) <= min(last, total - 1):
            return FetchError(f"{url}: the server sent another part than requested."), wait, True
        etag = response.headers.get("ETag", "")
        if self._etag and etag and etag != self._etag:
            return (
                FetchError(f"{url}: the file on the server has been changed; run the same command again."),
                wait,
                False,
            )
        self._etag, self.size = etag or self._etag, total
        self.received += len(body)
        return body[first - start : min(last, total - 1) - start + 1]


def _read(response: requests.Response, length: int) -> bytes:
    """Return up to `length` bytes of a body."""
    parts, size = [], 0
    for part in response.iter_content(1 << 20):
        parts.append(part)
        size += len(part)
        if size >= length:
            break
    return b"".join(parts)[:length]


def _range(response: requests.Response) -> tuple[int | None, int | None]:
    """Return the first byte of a body, and the size of the file, as far as the server states them."""
    if response.status_code == 200:
        return 0, whole_number(response.headers.get("Content-Length"))
    span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    return whole_number(span.partition("-")[0]), whole_number(total)


def open_raster(remote: RemoteFile) -> Any:
    """Open a remote GeoTIFF by rasterio; close it after use.

    Raises
    ------
    FetchError
        If it cannot be read.
    """
    import rasterio
    from rasterio.errors import RasterioError

    name, problem = f"remote-{id(remote):x}.tif", ""

    def opener(path: str, mode: str = "rb") -> RemoteFile:
        """Return the file; GDAL also looks for files beside it, which are not there."""
        if path.rpartition("/")[2] != name or "r" not in mode:
            raise FileNotFoundError(path)
        remote.seek(0)
        return remote

    try:
        return rasterio.open(name, driver="GTiff", opener=opener)
    except (RasterioError, ValueError, OSError) as error:
        problem = type(error).__name__
    raise remote.problem or FetchError(f"{remote!r}: this is no GeoTIFF ({problem}).")
