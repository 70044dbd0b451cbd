"""Test that each error is also the built-in exception that a caller would catch."""

from __future__ import annotations

import pytest

from fluxcube import errors


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.SourceError, ValueError),
        (errors.SchemaError, ValueError),
        (errors.StoreError, OSError),
        (errors.ConfigError, ValueError),
        (errors.UnknownNameError, KeyError),
        (errors.MissingPackageError, ImportError),
    ],
)
def test_kinds(error, builtin):
    assert issubclass(error, builtin) and issubclass(error, errors.FluxcubeError)
    assert str(error("what was expected, what to do")) == "what was expected, what to do"


def test_a_message_does_not_list_hundreds_of_names():
    told = str(errors.unknown("site", "XX-Xxx", [f"AA-{i:03d}" for i in range(100)]))
    assert told.count("AA-") == 60 and told.endswith("AA-059 and 40 more.")
    assert "more" not in str(errors.unknown("site", "XX-Xxx", [f"AA-{i:03d}" for i in range(60)]))
