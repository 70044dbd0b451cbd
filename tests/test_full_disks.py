"""A full disk, or a folder that may not be written: one error that names the path, and nothing is lost."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment

import fluxcube as fc
from fluxcube.errors import FluxcubeError, StoreError
from fluxcube.models.checkpoint import write_atomically
from fluxcube.samples.partition import Split
from fluxcube.simulation.example import example_cube, example_forcing
from fluxcube.stores.files import disk_errors, names_disk_errors, write_text

SCRIPT = """
import resource, signal, sys
import fluxcube as fc
from fluxcube.errors import FluxcubeError
from fluxcube.samples.partition import Split
from fluxcube.simulation.example import example_cube, example_forcing
cube, folder = example_cube(sites=6, days=4), sys.argv[1]
split = Split(train=("XX-S00", "XX-S01"), val=("XX-S02",), test=("XX-S03",))
options = dict(model="sw-linear", target="NEE", predictors=("SW_IN",))
forcing = example_forcing(shape=(2, 2), days=3).chunk(latitude=1)
calls = {
    "run": lambda path: fc.fit(cube, split=split, out=path, **options),
    "seeds": lambda path: fc.fit(cube, split=split, out=path, seeds=2, **options),
    "forcing.zarr": lambda path: fc.write_forcing(forcing, path),
    "mixed": lambda path: fc.save_mixed(path, sys.argv[2:]),
    "split.json": lambda path: split.save(path),
}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the system then refuses to write, as where a disk is full
for limit in (100, 10):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, 100))
    for name, call in calls.items():
        try:
            call(f"{folder}/{name}")
            sys.stdout.write(f"{name} was written\\n")
        except FluxcubeError as error:
            sys.stdout.write(f"{type(error).__name__}: {error}\\n")
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[str]:
    folder, cube = tmp_path_factory.mktemp("runs"), example_cube(sites=6, days=4)
    for name, train in (("a", ("XX-S00", "XX-S01")), ("b", ("XX-S04", "XX-S05"))):
        split = Split(train=train, val=("XX-S02",), test=("XX-S03",))
        fc.fit(cube, split=split, model="sw-linear", target="NEE", predictors=("SW_IN",), out=folder / name)
    return [str(folder / "a"), str(folder / "b")]


def test_every_writer_names_what_the_disk_refuses(tmp_path, runs):
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path), *runs]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    lines = ended.stdout.splitlines()
    assert len(lines) == 10, ended.stdout + ended.stderr
    for line in lines:
        assert line.startswith(f"StoreError: cannot write {tmp_path}"), line
        assert ("File too large" in line or "No space left" in line) and line.endswith(
            "make room there, or write to another disk."
        ), line
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {"run", "seeds"}, left  # what training wrote so far, for the next call
    assert not list(tmp_path.rglob("*.json"))


def test_the_lock_of_a_killed_seed_does_not_block_its_ensemble(tmp_path):
    (tmp_path / "seeds").mkdir()
    (tmp_path / "seeds" / ".seed-0.lock").write_bytes(b"{")
    split = Split(train=("XX-S00", "XX-S01"), val=("XX-S02",), test=("XX-S03",))
    fc.fit(example_cube(sites=6, days=4), split=split, model="sw-linear", out=tmp_path / "seeds", seeds=1)
    assert fc.load_model(tmp_path / "seeds").digest


def test_an_earlier_ensemble_stays_until_the_new_one_is_complete(tmp_path, runs, monkeypatch):
    fc.save_mixed(tmp_path / "m", runs)
    before = {path: path.read_bytes() for path in (tmp_path / "m").rglob("*") if path.is_file()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fluxcube.models.checkpoint.os.fsync", _full)
        with pytest.raises(StoreError, match="No space left"):
            fc.save_mixed(tmp_path / "m", runs, weights=[1, 2], overwrite=True)
    assert {path: path.read_bytes() for path in (tmp_path / "m").rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    fc.save_mixed(tmp_path / "m", runs, weights=[1, 2], overwrite=True)
    assert fc.load_model(tmp_path / "m").digest


def _full(handle: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_lock_that_cannot_be_written_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("fluxcube.stores.lock.os.pwrite", lambda *args: _full(0))
    with pytest.raises(StoreError, match=r"cannot write .*f\.zarr \(No space left"):
        fc.write_forcing(example_forcing(shape=(2, 2), days=1).chunk(latitude=1), tmp_path / "f.zarr")
    with pytest.raises(StoreError, match=r"cannot write .*run \(No space left"):
        fc.fit(example_cube(sites=30, days=2), model="sw-linear", target="NEE", out=tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG])
def test_a_disk_that_accepts_no_more(tmp_path, number):
    with (
        pytest.raises(StoreError, match=r"cannot write .*s\.zarr \(.*make room there"),
        disk_errors(tmp_path / "s.zarr"),
    ):
        raise OSError(number, os.strerror(number))


def test_only_errors_of_what_is_written_are_of_the_disk(tmp_path):
    path = tmp_path / "a" / "s.zarr"
    for denied in (path, path / "x" / "0", path.parent, path.parent / ".s.zarr.lock"):
        with pytest.raises(StoreError, match="cannot write"), disk_errors(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(denied))
    for error in (
        PermissionError(errno.EACCES, "Permission denied", "/data/input.nc"),
        FileNotFoundError(errno.ENOENT, "No such file", str(path)),
        OSError("no number"),
        StoreError("of another kind"),
    ):
        with pytest.raises(type(error)) as caught, disk_errors(path):
            raise error
        assert caught.value is error


def test_a_function_names_its_argument(tmp_path):
    @names_disk_errors("out")
    def write(table: object, out: Path, *, title: str = "") -> str:
        """Write."""
        if title:
            _full(0)
        return str(out)

    assert write.__doc__ == "Write." and write(1, tmp_path) == write(1, out=tmp_path) == str(tmp_path)
    with pytest.raises(StoreError, match=tmp_path.name):
        write(1, tmp_path, title="x")


def test_small_files_are_written_whole(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("old")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fluxcube.stores.files.os.replace", lambda *args: _full(0))
        with pytest.raises(StoreError, match="cannot write"):
            write_text(tmp_path / "a.txt", "new")
    with pytest.raises(FluxcubeError, match="cannot write"):
        write_atomically(tmp_path / "no" / "b", b"1")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]
