"""The command `fluxcube fetch modis`."""

from __future__ import annotations

import json

import pandas as pd
from packages import optional
from typer.testing import CliRunner

optional("requests")


def test_a_plan_is_printed_and_nothing_is_written(tmp_path):
    from fluxcube.cli import app

    table = tmp_path / "sites.csv"
    pd.DataFrame({"site": ["DE-Tha"], "latitude": [50.96], "longitude": [13.57], "years": ["2018-2019"]}).to_csv(table)
    command = ["fetch", "modis", str(tmp_path / "out"), "--at-sites", str(table), "--plan"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    for text in ("MCD43A4.061.DE-Tha.2018.tif", "2 of 2 files", "12 requests", "licence", "seconds"):
        assert text in result.output
    assert not (tmp_path / "out").exists()
    files = CliRunner().invoke(app, [*command, "--format", "json"])
    assert [row["file"].split(".")[-2] for row in json.loads(files.stdout)] == ["2018", "2019"]
    assert "2 of 2 files" in files.stderr and "--format" in str(
        CliRunner().invoke(app, [*command[:-1], "--format", "csv"]).exception
    )
    wrong = CliRunner().invoke(app, [*command[:-1], "--products", "MCD43A5", "--plan"])
    assert wrong.exit_code and "MCD43A4" in str(wrong.output) + str(wrong.exception)
