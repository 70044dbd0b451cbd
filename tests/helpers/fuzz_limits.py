"""A case that hangs or eats memory fails, instead of taking the machine with it."""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import seed as seeded

#: The run that is recorded: `SEED` gives the same cases each time, for one version of Hypothesis.
SEED = 20261121
SECONDS = 5  # a case takes some 20 ms
BYTES = 1 << 30  # beyond what the process has when a test begins


def cases(normal: int):
    """Decorate a test to try `normal` cases, the same ones each time."""
    return _decorate(normal)


def many(cases: int = 10_000):
    """Decorate a slow test."""
    return _decorate(cases)


def _decorate(examples: int):
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    profile = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=False,
        suppress_health_check=checks,
        print_blob=True,
    )
    return lambda test: seeded(SEED)(profile(test))


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Let the process have no more than `BYTES` more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0]) if Path("/proc/self/statm").exists() else 0
    if not pages:
        yield
        return
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextlib.contextmanager
def timed() -> Iterator[None]:
    """Interrupt a case after `SECONDS`."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"a case took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
