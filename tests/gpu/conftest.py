"""The devices of tests that run on the CPU in every run, and on a GPU with `pytest -m gpu`."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """The device of a test: "cpu", and "cuda" where `-m gpu` selects it; skipped on a machine without a card."""
    torch = pytest.importorskip("torch")
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch finds no GPU")
    return request.param


@pytest.fixture(scope="session")
def cube():
    """Twelve towers and as many days."""
    from training_helpers import small_cube

    return small_cube()


@pytest.fixture(scope="session")
def run(cube, tmp_path_factory) -> Path:
    """A run of two small EcoPerceivers that were trained on the CPU; tests must not change it."""
    import dataclasses

    from training_helpers import FAST, eco

    from fluxcube.training import applicability

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(applicability, "_WINDOWS", (8, 8))
        patch.setattr(applicability, "_ROWS", 64)
        training = dataclasses.replace(FAST, epochs=1, windows_per_epoch=64)
        return eco(cube, tmp_path_factory.mktemp("runs") / "eco", training=training, device="cpu", seeds=2).path
