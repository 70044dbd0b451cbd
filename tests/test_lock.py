"""One writer of a path: threads, processes, containers with equal numbers of processes, machines that share a disk."""

from __future__ import annotations

import dataclasses
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
from fluxcube.stores.lock import lock_file, this_process, writer_lock


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
    left_by(path, pid=1, start=locks._start(1))
    with writer_lock(path):
        pass


def test_another_machine_is_believed_while_it_touches_its_lock(path, monkeypatch):
    left_by(path, host="node7", boot="another")
    with pytest.raises(StoreError, match=r"process \d+ on node7.* is writing it.*active \d+ s ago"), writer_lock(path):
        pytest.fail("must be refused")
    monkeypatch.setattr(locks, "_RACE", 0.01)
    os.utime(lock_file(path), (time.time() - 70,) * 2)
    with writer_lock(path) as lock:
        lock.check()


def test_a_writer_notices_that_it_lost_its_lock(path):
    with writer_lock(path) as lock:
        left_by(path, nonce="x")
        with pytest.raises(StoreError, match="took it over"):
            lock.check()
    assert lock_file(path).exists()  # the other's


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
    left_by(path, host="another container")
    with pytest.raises(StoreError, match="is writing it"), writer_lock(path):
        pytest.fail("must be refused")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "x"}', b"\xff" * 100, b"[" * 100_000])
def test_a_damaged_lock_is_taken_over(path, content):
    lock_file(path).write_bytes(content)
    with writer_lock(path):
        pass


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(StoreError, match="does not exist"), writer_lock(tmp_path / "no" / "s.zarr"):
        pytest.fail("must be refused")
