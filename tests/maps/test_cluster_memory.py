"""RAM of the process that hands out regions: Dask must not keep the graphs of the tasks that have ended."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import dask
import pytest

from fluxcube.maps import workers


@pytest.mark.parametrize("scheduler", ["processes", "tcp://127.0.0.1:1"])
def test_dask_keeps_few_messages_while_it_runs_regions(scheduler, monkeypatch, tmp_path):
    pytest.importorskip("distributed")
    seen: list[int] = []

    def length() -> int:
        return dask.config.get("distributed.admin.low-level-log-length")

    class Client:
        dashboard_link, scheduler = "", None

    @contextlib.contextmanager
    def started(count: int) -> Iterator[tuple[Client, str, None]]:
        seen.append(length())
        yield Client(), "", None

    @contextlib.contextmanager
    def connected(address: str, patience: float) -> Iterator[Client]:
        seen.append(length())
        yield Client()

    monkeypatch.setattr(workers, "_processes", started)
    monkeypatch.setattr(workers, "_connected", connected)
    monkeypatch.setattr(workers, "_check_cluster", lambda *_: None)
    before = length()
    with workers.workers_for(scheduler, 2, 1, 0, tmp_path):
        seen.append(length())
    assert max(seen) <= 10
    assert length() == before  # the settings of the caller are restored
