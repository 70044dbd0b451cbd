"""A short fit of the area of applicability, except in the tests of it."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def _short_applicability(request):
    if "applicability" not in request.module.__name__:
        request.getfixturevalue("short_applicability")
