"""One writer of a path: threads, processes, containers with equal numbers of processes, machines that share a disk."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
import threading
import time

import pytest
from processes import Fork

from fluxcube.errors import StoreError
from fluxcube.stores import lock as locks
from fluxcube.stores.lock import InUseError, check_held, check_owner, lock_file, owner_of, writer_lock
from fluxcube.stores.owners import read_owner, start_of, this_process


def hold(path):
    def run(output):
        with writer_lock(path):
            print("locked", file=output)
            time.sleep(60)

    return run


def left_by(path, **changes):
    """Leave the lock of another process, which no system keeps."""
    lock_file(path).write_text(json.dumps(dataclasses.asdict(dataclasses.replace(this_process(), **changes))))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.zarr"


def test_one_thread_at_a_time(path):
    with writer_lock(path):
        problems = []

        def other():
            try:
                with writer_lock(path):
                    problems.append("entered")
            except StoreError as error:
                problems.append(str(error))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(problems) == 1 and f"process {os.getpid()} on" in problems[0]
    with writer_lock(path):
        pass
    assert not os.listdir(path.parent)


def test_the_lock_of_a_killed_process_is_free_at_once(path):
    with pytest.raises(StoreError, match="is writing it"):
        held = Fork(hold(path))
        assert held.output.readline() == "locked\n"
        with writer_lock(path):
            pytest.fail("must be refused")
    held.kill()
    start = time.monotonic()
    with writer_lock(path):
        assert time.monotonic() - start < 1


UNSHARED = """
import sys, os
from fluxcube.stores.lock import writer_lock
with writer_lock(sys.argv[1]):
    print(os.getpid(), flush=True)
    sys.stdin.readline()
"""


def test_two_containers_with_equal_numbers_of_processes(path):
    try:
        subprocess.run(["unshare", "--fork", "--pid", "--mount-proc", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this system does not let a user make containers")
    command = ["unshare", "--fork", "--pid", "--mount-proc", sys.executable, "-c", UNSHARED, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as first:
        assert first.stdout.readline() == "1\n"
        second = subprocess.run(command, input="\n", capture_output=True, text=True)
        assert second.returncode and "process 1 on" in second.stderr and "is writing it" in second.stderr
        first.communicate("\n")
        assert first.returncode == 0
    third = subprocess.run(command, input="\n", capture_output=True, text=True)
    assert third.stdout == "1\n"


def test_a_leftover_of_process_1_does_not_block(path):
    left_by(path, pid=1, start=start_of(1))
    with writer_lock(path):
        pass


@pytest.fixture
def quick(monkeypatch):
    """Heartbeats and waits of some milliseconds."""
    for name, seconds in {"_RACE": 0.01, "HEARTBEAT": 0.02, "_APART": 0.001}.items():
        monkeypatch.setattr(locks, name, seconds)


def test_another_machine_is_believed_while_it_touches_its_lock(path, monkeypatch):
    left_by(path, host="node7", boot="another")
    with pytest.raises(InUseError, match=r"process \d+ on node7.* is writing it.*active \d+ s ago"), writer_lock(path):
        pytest.fail("must be refused")


@pytest.mark.parametrize("age", [70, -1e6])
def test_a_silent_lock_of_another_machine_is_watched_and_taken_over(path, quick, monkeypatch, age, caplog):
    """The clock of that machine may be wrong: what counts in the end is whether the lock is touched while watched."""
    monkeypatch.setattr(locks, "SILENCE", 0.1)
    left_by(path, host="node7", boot="another")
    os.utime(lock_file(path), (time.time() - age,) * 2)
    with writer_lock(path) as lock:
        lock.check()
    assert "watching it" in caplog.text and "node7" in caplog.text


@pytest.mark.parametrize("age", [3600, -3600])
def test_a_machine_whose_clock_is_wrong_keeps_its_lock(path, monkeypatch, age):
    left_by(path, host="node7", boot="another")
    for name, seconds in {"HEARTBEAT": 0.2, "SILENCE": 0.5}.items():
        monkeypatch.setattr(locks, name, seconds)
    ended = threading.Event()

    def beat():
        while not ended.wait(0.02):
            os.utime(lock_file(path), (time.time() - age,) * 2)

    os.utime(lock_file(path), (time.time() - age,) * 2)
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(InUseError, match="node7"), writer_lock(path):
            pytest.fail("must be refused")
    finally:
        ended.set()
        thread.join()


def test_a_folder_that_is_mounted_twice_does_not_rely_on_the_system(path, quick):
    """Each mount of a FUSE disk has its own locks: the process decides, or its touches in another container."""
    left_by(path, disk=12345)
    with pytest.raises(InUseError), writer_lock(path):
        pytest.fail("must be refused")
    left_by(path, disk=12345, start=1)  # ended, in this list of processes
    with writer_lock(path):
        pass
    left_by(path, disk=12345, start=1, space="pid:[1]", host="another container")
    with pytest.raises(InUseError, match="another container"), writer_lock(path):
        pytest.fail("must be refused")


def test_a_writer_notices_that_it_lost_its_lock(path):
    with writer_lock(path) as lock:
        left_by(path, nonce="x")
        with pytest.raises(StoreError, match="took it over"):
            lock.check()
    assert lock_file(path).exists()  # the other's


def test_a_writer_notices_that_its_lock_was_removed(path, quick):
    with writer_lock(path):
        lock_file(path).unlink()
        with pytest.raises(StoreError, match=r"\.s\.zarr\.lock was removed"):
            check_held(path)


def test_what_lies_in_a_locked_folder_is_checked_by_any_name_of_it(path, tmp_path):
    path.mkdir()
    (tmp_path / "link").symlink_to(path)
    with writer_lock(tmp_path / "link"):
        for name in ("s.zarr/ledger/regions.jsonl", "link/zarr.json", "other"):
            check_held(tmp_path / name)
        with pytest.raises(InUseError), writer_lock(path):
            pytest.fail("must be refused")
        left_by(path, nonce="x")
        for name in ("s.zarr/ledger/regions.jsonl", "link/zarr.json"):
            with pytest.raises(StoreError, match="took it over"):
                check_held(tmp_path / name)
        check_held(tmp_path / "other")


def test_an_error_after_the_loss_of_a_lock_names_the_loss(path):
    """The other run removed what this one was building: the missing file is not the cause."""
    with pytest.raises(StoreError, match="took it over") as caught, writer_lock(path):
        left_by(path, nonce="x")
        (path / "gone").read_bytes()
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_a_worker_writes_for_the_owner_only(path, quick):
    with writer_lock(path):
        owner = owner_of(path)
        check_owner(path, owner)
        left_by(path, nonce="x")
        with pytest.raises(StoreError, match="took it over"):
            check_owner(path, owner)
    lock_file(path).unlink()
    with pytest.raises(StoreError, match="removed"):
        check_owner(path, owner)
    assert owner_of(path) is None


def test_a_forked_process_does_not_keep_the_lock_of_a_killed_one(path):
    """Copies of an open file share its lock: a worker that survives its parent would block the path."""

    def parent(output):
        with writer_lock(path):
            child = Fork(lambda inner: time.sleep(60))
            print(child.pid, file=output)
            time.sleep(60)

    first = Fork(parent)
    child = int(first.output.readline())
    try:
        with pytest.raises(InUseError), writer_lock(path):
            pytest.fail("must be refused")
        first.kill()
        os.kill(child, 0)
        with writer_lock(path):
            pass
    finally:
        os.kill(child, 9)


def test_a_forked_process_does_not_release_the_lock_of_its_parent(path):
    with writer_lock(path) as lock:
        Fork(lambda output: lock.release()).wait()
        lock.check()
        with pytest.raises(InUseError), writer_lock(path):
            pytest.fail("must be refused")


def test_a_living_writer_touches_its_lock(path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT", 0.01)
    with writer_lock(path):
        os.utime(lock_file(path), (0, 0))
        deadline = time.monotonic() + 10
        while lock_file(path).stat().st_mtime < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lock_file(path).stat().st_mtime > 1


@pytest.fixture
def no_locks(monkeypatch):
    """A disk whose system locks no files."""
    monkeypatch.setattr(locks, "_flock", lambda handle: None)
    monkeypatch.setattr(locks, "_RACE", 0.01)


def test_without_locks_of_the_system_a_living_process_is_told_from_a_dead_one(path, no_locks):
    with writer_lock(path), pytest.raises(StoreError, match="is writing it"), writer_lock(path):
        pytest.fail("must be refused")
    left_by(path, start=this_process().start - 1)  # the number was given to this process later
    with writer_lock(path):
        pass
    left_by(path, host="another container", space="pid:[1]")
    with pytest.raises(StoreError, match="is writing it"), writer_lock(path):
        pytest.fail("must be refused")


@pytest.mark.parametrize("content", [b"", b"{", b'{"pid": "x"}', b"\0" * 100, b'{"a":' * 100_000])
def test_a_damaged_lock_is_taken_over(path, quick, content):
    lock_file(path).write_bytes(content)
    with writer_lock(path):
        pass


@pytest.mark.parametrize("content", [b"my notes", b"[" * 100_000, "folder", "link", "fifo"])
def test_what_is_no_lock_of_fluxcube_stays(path, content):
    file = lock_file(path)
    make = {"folder": file.mkdir, "link": lambda: file.symlink_to("/etc/passwd"), "fifo": lambda: os.mkfifo(file)}
    make.get(content, lambda: file.write_bytes(content))()
    with pytest.raises(StoreError, match="expected a lock of fluxcube"), writer_lock(path):
        pytest.fail("must be refused")
    assert os.listdir(path.parent) == [file.name]


def test_without_hard_links_one_writer_gets_the_lock(path, quick, monkeypatch):
    def link(*names):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with writer_lock(path):
        assert read_owner(lock_file(path)) == owner_of(path)
        with pytest.raises(InUseError), writer_lock(path):
            pytest.fail("must be refused")
    assert not os.listdir(path.parent)


def test_a_kill_before_the_lock_has_its_name_blocks_nothing(path, monkeypatch):
    def kill(output):
        monkeypatch.setattr(os, "link", lambda *names: os.kill(os.getpid(), 9))
        with writer_lock(path):
            pass

    assert Fork(kill).wait() == -9
    assert len(os.listdir(path.parent)) == 1
    with writer_lock(path):
        pass
    assert not os.listdir(path.parent)


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EIO, errno.ENAMETOOLONG])
def test_a_disk_that_takes_no_lock_is_named(path, monkeypatch, number):
    def fail(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(StoreError, match="cannot write"), writer_lock(path):
        pytest.fail("must be refused")
    assert not os.listdir(path.parent)


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(StoreError, match="does not exist"), writer_lock(tmp_path / "no" / "s.zarr"):
        pytest.fail("must be refused")
