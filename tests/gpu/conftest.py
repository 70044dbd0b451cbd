"""The devices of tests that run on the CPU in every run, and on a GPU with `pytest -m gpu`."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """The device of a test: "cpu", and "cuda" where `-m gpu` selects it; skipped on a machine without a card."""
    torch = pytest.importorskip("torch")
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch finds no GPU")
    return request.param
