"""Fixtures of the tests that fetch: a local service, and no waiting."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from packages import optional

optional("requests")


@pytest.fixture
def web() -> Iterator:
    """A local service without routes; ``web.files["/name"] = content`` adds a file."""
    from services.web import Service

    with Service() as service:
        yield service


@pytest.fixture(autouse=True)
def quick(monkeypatch, caplog) -> list[float]:
    """Do not wait: the pauses of a fetch are recorded instead. Log everything, for the search of credentials."""
    from fluxcube.fetch import control, sending

    pauses: list[float] = []
    monkeypatch.setattr(sending, "pause", pauses.append)
    monkeypatch.setattr(control.time, "sleep", pauses.append)
    for name in ("AMF_USER", "AMF_EMAIL", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    caplog.set_level(logging.DEBUG)
    return pauses
