"""Folders, ledgers and names in unusual states: a named error or a resume, and nothing half-written under its name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fluxcube.errors import FetchError, StoreError
from fluxcube.fetch import http, run
from fluxcube.fetch.items import Item, Licence, Plan, fault_of_name
from fluxcube.fetch.ledger import Ledger


def items(web, number=2):
    for i in range(number):
        web.files[f"/{i}.bin"] = bytes([65 + i]) * 100
    return [Item(f"sub/{i}.bin", f"{web.url}/{i}.bin") for i in range(number)]


def fetch(web, folder):
    plan = run.make_plan("test", folder, items(web), licence=Licence("MIT"))
    return run.fetch_all(plan, folder, lambda item, path: http.download(item.key, path))


def whole(folder):
    return [(folder / f"sub/{i}.bin").read_bytes() for i in range(2)] == [b"A" * 100, b"B" * 100]


@pytest.mark.parametrize("name", ["sub", ".fetching", "fetch.jsonl", "fetch.lock"])
def test_a_file_or_folder_in_the_place_of_another(web, tmp_path, name):
    path = tmp_path / name
    path.mkdir() if name.startswith("fetch.") else path.write_bytes(b"mine")
    with pytest.raises((FetchError, StoreError), match=name):
        fetch(web, tmp_path)
    path.rmdir() if path.is_dir() else path.unlink()
    fetch(web, tmp_path)
    assert whole(tmp_path)


def test_a_licence_file_of_the_user_that_is_a_folder(web, tmp_path):
    (tmp_path / "LICENCE.md").mkdir()
    fetch(web, tmp_path)
    assert whole(tmp_path) and "MIT" in (tmp_path / "LICENCE-fetched.md").read_text()


@pytest.mark.parametrize("link", ["", ".fetching", "sub"])
def test_folders_that_are_links_to_another_disk(web, tmp_path, link):
    """The staging folder and the folder of the files can be on different disks."""
    disk = Path("/dev/shm")
    if not disk.is_dir() or disk.stat().st_dev == tmp_path.stat().st_dev or not os.access(disk, os.W_OK):
        disk = tmp_path
    other = disk / f"fluxcube-test-{os.getpid()}-{tmp_path.name}"
    other.mkdir()
    try:
        folder = tmp_path / "raw"
        folder.mkdir() if link else None
        (folder / link if link else folder).symlink_to(other)
        fetch(web, folder)
        assert whole(folder) and len(web.requests) == 2 and not list(folder.rglob("*.part"))
        fetch(web, folder)
        assert len(web.requests) == 2
    finally:
        for path in sorted(other.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        other.rmdir()


GOOD = {"kind": "file", "name": "sub/0.bin", "key": "KEY", "size": 100, "sha256": "x"}
EDITED = [
    *({**GOOD, key: value} for key in ("name", "key", "size", "sha256") for value in (None, [], {}, 5.5)),
    *({**GOOD, "checksum": value} for value in (5, "md5", ["md5"], [1, 2])),
    {**GOOD, "about": [1]},
    {**GOOD, "name": "../../outside", "size": 0},
    {"kind": "request", "key": {}, "id": "x"},
    {"kind": "new in another version", "key": "KEY"},
]


def test_edited_ledgers_are_read_as_far_as_they_can_be(web, tmp_path):
    (tmp_path / "sub").mkdir()
    wanted = items(web)
    lines = [json.dumps(entry).replace("KEY", wanted[0].key) for entry in EDITED]
    lines += ["[" * 10_000, '{"kind": "file"', "", "\x00\x00", "null", '"text"', "1e999", "NaN"]
    (tmp_path / "fetch.jsonl").write_text("\n".join(lines) + "\n")
    ledger = Ledger(tmp_path)
    assert not any(ledger.done(item) for item in wanted) and ledger.request_id(wanted[0]) is None
    fetch(web, tmp_path)
    assert whole(tmp_path) and len(web.requests) == 2
    path = tmp_path / "fetch.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))  # an editor of Windows
    fetch(web, tmp_path)
    assert len(web.requests) == 2


@pytest.mark.parametrize(
    "name",
    [
        *("a\u202egpj.zip", "a\u200b.zip", "a\ud800.zip", "a\u2028b", "a\xa0b", "COM\xb9.zip", "conin$", "nul .txt"),
        *("LICENCE-fetched.md", "Fetch.JSONL", "a\r\nb", "a/\x7f", "sub/.hidden/a", "ü" * 130, "a:stream", "..\\a"),
    ],
)
def test_names_that_other_systems_or_readers_take_for_something_else(name):
    assert fault_of_name(name)
    with pytest.raises(FetchError, match="nothing was written"):
        Item(name, "k")


def test_names_with_letters_of_other_languages_are_accepted():
    for name in ("Wälder/Hyytiälä.zip", "データ.nc", "CH-Dav (2018) v1.2+r3.zip", "a'b,c;d=e@f#g%20.tif"):
        assert not fault_of_name(name)


def test_two_spellings_of_one_name_are_the_same_file():
    for one, other in (("\u00fc.zip", "u\u0308.zip"), ("Straße.zip", "STRASSE.ZIP"), ("a/B.zip", "A/b.zip")):
        with pytest.raises(FetchError, match="same name"):
            Plan("t", (Item(one, "1"), Item(other, "2")))


@pytest.mark.parametrize("step", ["record", "replace", "unlink"])
def test_a_kill_at_any_step_leaves_nothing_half_written(web, tmp_path, monkeypatch, step):
    """An old release is there; whatever comes at the moment of the kill, the next call has the new one."""
    fetch(web, tmp_path)
    web.files["/0.bin"] = b"N" * 100

    def newer():
        return [Item("sub/0.bin", f"{web.url}/0.bin?v=2")]

    def kill(*arguments, **options):
        raise KeyboardInterrupt

    owner = {"record": Ledger, "replace": run.os, "unlink": run.Path}[step]
    original = getattr(owner, step)

    def only_target(path, *arguments, **options):
        target = str(arguments[0] if step == "replace" else path)
        if step != "record" and not target.endswith("sub/0.bin"):
            return original(path, *arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, only_target if step != "record" else kill)
        with pytest.raises(KeyboardInterrupt):
            run.fetch_all(run.make_plan("test", tmp_path, newer()), tmp_path, lambda i, p: http.download(i.key, p))
    target = tmp_path / "sub/0.bin"
    assert not target.exists() or (target.read_bytes() == b"A" * 100 and not Ledger(tmp_path).done(newer()[0]))
    run.fetch_all(run.make_plan("test", tmp_path, newer()), tmp_path, lambda i, p: http.download(i.key, p))
    assert target.read_bytes() == b"N" * 100 and Ledger(tmp_path).done(newer()[0])
