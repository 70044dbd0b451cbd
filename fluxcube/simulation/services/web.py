"""A local web service: routes, files with ranges and validators, recorded requests, and faults to inject."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs, urlsplit


@dataclass
class Request:
    """A recorded request."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes = b""

    def json(self) -> dict:
        """Return the body, read as JSON."""
        return json.loads(self.body)

    def form(self) -> dict[str, str]:
        """Return the fields of a form."""
        return {name: values[-1] for name, values in parse_qs(self.body.decode()).items()}


@dataclass
class Answer:
    """An answer. A body that is neither bytes nor text is sent as JSON; `file` adds ranges, ETag and length."""

    body: object = b""
    status: int = 200
    type: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    file: bool = False


@dataclass
class Fault:
    """What goes wrong with a request: an answer instead of the right one, or a broken right one.

    `truncate` is the number of bytes of the body after which the connection closes; `length` and `type` are the
    Content-Length and Content-Type of the answer; `slow` is the number of seconds before it; `drop` closes without an
    answer; `raw` are the bytes of a whole answer, which need not be HTTP.
    """

    answer: Answer | None = None
    truncate: int | None = None
    length: int | None = None
    type: str | None = None
    slow: float = 0.0
    drop: bool = False
    raw: bytes | None = None


def raw(body: bytes, **headers: object) -> Fault:
    """Headers as they are, without those that the service adds; with underscores for dashes."""
    lines = ["HTTP/1.1 200 OK", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return Fault(raw="\r\n".join([*lines, "", ""]).encode("latin-1") + body)


def status(code: int, body: object = b"", **headers: str) -> Fault:
    """A status instead of the answer; headers with underscores for dashes."""
    return Fault(Answer(body, code, headers={name.replace("_", "-"): value for name, value in headers.items()}))


def page(text: str) -> Fault:
    """A web page instead of the data, with status 200."""
    return Fault(Answer(f"<!DOCTYPE html><html><body>{text}</body></html>", type="text/html"))


def redirect(url: str) -> Fault:
    """A redirect, for example to a login page."""
    return Fault(Answer(status=302, headers={"Location": url}))


Handler = Callable[..., Answer]


class Service:
    """A web service on 127.0.0.1. Derived classes add routes in `routes`.

    Use it as a context manager, or call `start` and `stop`. `requests` lists what was requested; `fail` injects faults.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.files: dict[str, bytes] = {}
        self.etags = True
        self._routes: list[tuple[str, re.Pattern, Handler]] = []
        self._faults: list[tuple[re.Pattern, str, list[Fault]]] = []
        self._guard = threading.Lock()
        self.routes()

    def routes(self) -> None:
        """Add the routes of a service: ``self.route("GET", r"/data/(.+)", self.data)``."""

    def route(self, method: str, pattern: str, handler: Handler) -> None:
        """Answer requests whose whole path matches: ``handler(request, *groups)``."""
        self._routes.append((method, re.compile(pattern), handler))

    def fail(self, pattern: str, *faults: Fault, times: int = 1, method: str = "") -> None:
        """Inject faults into the next requests (of a method) whose path contains a pattern, one fault each."""
        self._faults.append((re.compile(pattern), method, list(faults) * times))

    def start(self) -> Self:
        """Start to serve on a free port of 127.0.0.1."""
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def stop(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Address without a slash at the end."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def asked(self, pattern: str = "", method: str = "") -> list[Request]:
        """Requests whose path contains a pattern."""
        return [r for r in self.requests if re.search(pattern, r.path) and method in ("", r.method)]

    def answer(self, request: Request) -> tuple[Answer, Fault]:
        """The answer to a request, and what goes wrong with it."""
        with self._guard:
            self.requests.append(request)
            fault = self._next_fault(request)
        if fault.answer is not None:
            return fault.answer, fault
        for method, pattern, handler in self._routes:
            match = pattern.fullmatch(request.path)
            if match and method in (request.method, "GET" if request.method == "HEAD" else request.method):
                return handler(request, *match.groups()), fault
        if request.method in ("GET", "HEAD") and request.path in self.files:
            return Answer(self.files[request.path], file=True), fault
        return Answer({"message": "not found"}, 404), fault

    def _next_fault(self, request: Request) -> Fault:
        for pattern, method, faults in self._faults:
            if faults and method in ("", request.method) and pattern.search(request.path):
                return faults.pop(0)
        return Fault()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *details: object) -> None:
        """A client that leaves early is what some tests are about."""


def _handler(service: Service) -> type[BaseHTTPRequestHandler]:
    class Handling(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *text: object) -> None: ...

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            query = parse_qs(url.query, keep_blank_values=True)
            answer, fault = service.answer(Request(self.command, url.path, query, headers, body))
            if fault.slow:
                threading.Event().wait(fault.slow)
            if fault.drop or fault.raw is not None:
                self.close_connection = True
                self.wfile.write(fault.raw or b"")
                return
            try:
                self._send(answer, fault, headers)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        do_POST = do_HEAD = do_PUT = do_DELETE = do_GET

        def _send(self, answer: Answer, fault: Fault, asked: dict[str, str]) -> None:
            body, kind = _encoded(answer)
            code, headers = answer.status, dict(answer.headers)
            if answer.file:
                code, body, more = _ranged(body, asked, service.etags)
                headers = more | headers
            self.send_response(code)
            self.send_header("Content-Type", fault.type or kind)
            self.send_header("Content-Length", str(len(body) if fault.length is None else fault.length))
            for name, value in headers.items():
                self.send_header(name, value)
            if fault.truncate is not None or fault.length is not None:
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body if fault.truncate is None else body[: fault.truncate])

    return Handling


def _encoded(answer: Answer) -> tuple[bytes, str]:
    body = answer.body
    if isinstance(body, bytes):
        return body, answer.type or "application/octet-stream"
    if isinstance(body, str):
        return body.encode(), answer.type or "text/plain"
    return json.dumps(body).encode(), answer.type or "application/json"


def _ranged(body: bytes, asked: dict[str, str], etags: bool) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers of a file, as a range if it is requested and the file is the same."""
    etag = f'"{hashlib.md5(body).hexdigest()}"'
    headers = {"Accept-Ranges": "bytes"} | ({"ETag": etag} if etags else {})
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.get("range", ""))
    if not match or asked.get("if-range", etag) != etag:
        return 200, body, headers
    first, last = int(match[1]), min(int(match[2] or len(body) - 1), len(body) - 1)
    if first >= len(body):
        return 416, b"", headers | {"Content-Range": f"bytes */{len(body)}"}
    return 206, body[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{len(body)}"}
