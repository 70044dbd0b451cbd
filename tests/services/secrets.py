"""Search logs, files, errors and objects for a credential that must not be there."""

from __future__ import annotations

from pathlib import Path

import pytest


def assert_absent(secret: str, caplog: pytest.LogCaptureFixture, folder: Path, *objects: object) -> None:
    """Check that a secret is in no log record, no file or file name below a folder, and no object.

    Of an error, its text, its traceback's chain of causes and contexts, and its attributes are searched; of other
    objects repr, str and attributes. Call `caplog.set_level(logging.DEBUG)` before what is tested.
    """
    assert len(secret) >= 6, "a secret that short is found by chance"
    for record in caplog.records:
        assert secret not in record.getMessage() and secret not in str(record.exc_info), record
    for path in folder.rglob("*"):
        assert secret not in str(path.relative_to(folder)), path
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path
    for thing in objects:
        for text in _texts(thing):
            assert secret not in text, text


def _texts(thing: object) -> list[str]:
    texts = [repr(thing), str(thing), repr(getattr(thing, "__dict__", ""))]
    if isinstance(thing, BaseException):
        texts += [repr(getattr(thing, "args", "")), *map(str, getattr(thing, "__notes__", []))]
        for other in (thing.__cause__, None if thing.__suppress_context__ else thing.__context__):
            texts += _texts(other) if other is not None else []
    return texts
