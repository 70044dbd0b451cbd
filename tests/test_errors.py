"""Test that each error is also the built-in exception that a caller would catch."""

from __future__ import annotations

import pickle
import time

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


@pytest.mark.parametrize("kind", [errors.SourceError, errors.StoreError, errors.UnknownNameError, errors.FetchError])
def test_messages_contain_no_credentials(kind):
    text = "s3://KEY:S3cret@bucket/x?a=1&X-Amz-Signature=S3cret: no store; https://user@host/a?token=S3cret;sig=S3cret"
    for error in (kind(text), pickle.loads(pickle.dumps(kind(text)))):
        assert "S3cret" not in str(error) + repr(error) and "KEY" not in str(error)
        assert "bucket/x?a=1&X-Amz-Signature=***" in str(error)


def test_other_arguments_of_errors_stay():
    error = errors.StoreError(2, "No such file", "a.txt")
    assert error.errno == 2 and error.filename == "a.txt"
    assert errors.MissingPackageError("x needs y").msg == "x needs y"


@pytest.mark.parametrize(
    "text",
    [
        "s3://AKIA:wJa/lr/SECRET@bucket/x.zarr: no store",
        "https://user:SEC@SECRET@host/x",
        "s3:/AKIA:SECRET@bucket/x",  # as a Path prints it
        "https://h/x#access_token=SECRET",
        "https://h/x?pwd=SECRET",
        "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=SECRET==;EndpointSuffix=c",
        "options {'key': 'SECRET', 'secret': 'SECRET'}",
        "{'Authorization': 'Bearer SECRET'}",
    ],
)
def test_credentials_of_any_form_are_masked(text):
    assert "SECRET" not in errors.without_secrets(text) and "***" in errors.without_secrets(text)


@pytest.mark.parametrize(
    "text",
    [
        "http://localhost:8080/x@2x.png",
        "C:/Users/a@b/x",
        "s3://bucket/a@b.zarr: the field 'key': expected 'keys': 'x'",
        "see https://doi.org/10.5281/zenodo.123: write to a@b.org",
    ],
)
def test_other_text_stays(text):
    assert errors.without_secrets(text) == text


@pytest.mark.parametrize("text", ["https://" + "a:" * 20_000, "xx:/" * 20_000, "://?" + "key" * 20_000])
def test_masking_takes_linear_time(text):
    started = time.process_time()
    errors.without_secrets(text)
    assert time.process_time() - started < 2
