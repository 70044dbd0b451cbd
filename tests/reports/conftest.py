"""One report that all tests of this folder read."""

from __future__ import annotations

from pathlib import Path

import pytest
from once import make_once
from reported import noisy, reported_cube


@pytest.fixture(scope="session")
def report_folder(tmp_path_factory) -> Path:
    """A report of two models of two fluxes; tests must not change it."""
    from fluxcube.reports.write import report
    from fluxcube.samples.splits import Split

    cube = reported_cube()
    sites = [str(site) for site in cube["site"].values]
    # The scored towers are not in training, except the last one: the report must find that.
    split = Split(train=("XX-S02", "XX-S05"), test=tuple(sites[:2]), kind="given")

    def make(folder: Path) -> None:
        folder.mkdir()
        models = {"good & <i>fast</i>": noisy(cube, 1.0, 0), "worse": noisy(cube, 3.0, 1)}
        report(models, cube, folder / "report", split=split, draws=100, title="Towers <1>")

    return make_once(tmp_path_factory, "report", make) / "report"
