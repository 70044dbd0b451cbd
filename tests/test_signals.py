"""Signals end every command within seconds: its status, its line, its processes and what it leaves."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from processes import environment

from fluxcube.interrupts import GRACE, Interrupted, postponed

MARK = "FLUXCUBE_SIGNALS_TEST"
PROGRAM = str(Path(sys.executable).parent / "fluxcube")


def started(*words: object, mark: str) -> subprocess.Popen:
    """Start a command in a session of its own; a mark in the environment identifies its children."""
    command = [str(word) for word in words]
    command = [PROGRAM, *command] if command[0] != sys.executable else command
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a child inherits that it is ignored, as under nohup
    try:
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**{MARK: mark}),
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGHUP, before)


def running(mark: str) -> list[int]:
    """Return the processes with a mark that are no zombies."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            zombie = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0") and not zombie:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


def ended(process: subprocess.Popen, mark: str, limit: float = 5.0) -> tuple[int, str]:
    """Return the status and the errors of a process that ends in time, with all its children."""
    begun = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - begun < limit, errors
    wait_for(lambda: not running(mark), 3.0)
    return process.returncode, errors


def script(text: str) -> list[str]:
    return [sys.executable, "-c", text]


#: A command whose main thread is in a library that does not return, and whose other thread writes to a folder.
STUCK = """
import hashlib, os, sys, threading, time
from pathlib import Path
from fluxcube.interrupts import removed_at_end
from fluxcube.terminal import run_app
folder = removed_at_end(Path(sys.argv.pop()))
def write():
    for number in range(100000):
        folder.mkdir(exist_ok=True)
        (folder / str(number)).touch()
        time.sleep(0.01)
def app():
    threading.Thread(target=write).start()
    print("begun", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
run_app(app)
"""


@pytest.mark.parametrize("times", [1, 2])
def test_a_command_in_a_library_ends_as_well(tmp_path, times):
    process = started(*script(STUCK), tmp_path / "building", mark=f"stuck{times}")
    assert process.stdout.readline() == "begun\n"
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    status, errors = ended(process, f"stuck{times}", GRACE + 1.5 if times == 1 else 2.5)
    assert status == 130 and errors == "fluxcube: interrupted: no result was written; run the command again.\n"


@pytest.mark.parametrize(("name", "status"), [("SIGHUP", 129), ("SIGUSR1", 138)])
def test_other_signals_and_what_a_program_leaves(name, status):
    text = "import time\nfrom fluxcube.terminal import command_line\n"
    text += "with command_line('half is done'):\n    print('begun', flush=True)\n    time.sleep(100)\n"
    process = started(*script(text), mark=name)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(getattr(signal, name))
    assert ended(process, name) == (status, f"fluxcube: ended by {name}: half is done.\n")


def test_a_build_leaves_nothing(planet_files, tmp_path):
    process = started("build", planet_files / "towers", tmp_path / "s.zarr", mark="build")
    wait_for(lambda: list(tmp_path.glob(".s.zarr.building-*")))
    time.sleep(random.uniform(0, 0.3))
    process.send_signal(signal.SIGINT)
    status, errors = ended(process, "build")
    errors = "".join(line for line in errors.splitlines(True) if not line.startswith(("fluxcube: note: ", "build: ")))
    assert status == 130 and errors == "fluxcube: interrupted: no store was changed; run the command again.\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_maps_end_with_their_processes_and_continue(tmp_path, number, status):
    """The program of the tests on clusters, here with processes of its own."""
    from cluster_job import make_maps

    from fluxcube.maps.store import write_maps
    from fluxcube.stores.ledger import done_regions

    store = tmp_path / "maps.zarr"
    text = (
        "import cluster_job, fluxcube.terminal as t\n"
        f"t.run_app(lambda: cluster_job.write_maps(cluster_job.make_maps(0.3, 6), {str(store)!r}, "
        "scheduler='processes', workers=1))"
    )
    mark = f"maps{status}"
    process = started(*script(text), mark=mark)
    wait_for(lambda: (store / "ledger").exists() and done_regions(store))
    before = len(done_regions(store))
    process.send_signal(number)
    found, errors = ended(process, mark, 10.0)
    assert found == status
    if number == signal.SIGTERM:
        (line,) = (line for line in errors.splitlines() if not line.startswith("fluxcube: note: "))
        assert f"{len(done_regions(store))} of 24 regions" in line and len(done_regions(store)) > before
    write_maps(make_maps(days=6), store, workers=1)


def test_processes_of_a_pool_end_with_this_one():
    text = (
        "import os, time\n"
        "from fluxcube.processes import process_pool, without_interrupts\n"
        "if __name__ == '__main__':\n"
        "    with process_pool(1) as (pool, _), without_interrupts():\n"
        "        pid = pool.submit(os.getpid).result()\n"
        "        pool.submit(time.sleep, 100)\n"
        "        print(pid, flush=True)\n"
        "        time.sleep(100)\n"
    )
    process = started(*script(text), mark="pool")
    pool = int(process.stdout.readline())
    assert pool in running("pool")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: not for the pool
    time.sleep(0.2)
    assert pool in running("pool")
    process.kill()
    wait_for(lambda: not running("pool"), 5.0)


def test_a_pool_ends_when_its_block_ends_by_an_error():
    from fluxcube.processes import process_pool

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt), process_pool(1) as (pool, _):
        pool.submit(time.sleep, 100)
        raise KeyboardInterrupt
    assert time.monotonic() - begun < 5


def test_processes_of_a_pool_tell_what_they_do():
    from fluxcube.processes import as_told, process_pool, tell

    heard = []
    with process_pool(2) as (pool, messages):
        asked = {pool.submit(tell, "part", number): number for number in range(40)}
        asked[pool.submit(tell, "x" * 5000)] = 40  # too long to be written at once
        ended = [asked[future] for future in as_told(asked, messages, lambda *message: heard.append(message))]
    assert sorted(ended) == list(range(41))
    assert heard and {name for name, _ in heard} == {"part"} and len(set(heard)) == len(heard)
    tell("outside of a pool, nobody listens")


def test_a_helper_process_ends_with_its_parent(tmp_path):
    (tmp_path / "busy.py").write_text("import hashlib\nhashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)\n")
    text = (
        "import subprocess, sys, time\n"
        "from fluxcube.processes import child_command, child_environment\n"
        "subprocess.Popen(child_command('busy'), stdin=subprocess.PIPE, env=child_environment(), "
        "start_new_session=True)\n"
        "print('begun', flush=True)\n"
        "time.sleep(100)\n"
    )
    process = subprocess.Popen(
        script(text), env=environment(tmp_path, **{MARK: "helper"}), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "begun\n"
    wait_for(lambda: len(running("helper")) == 2)
    process.kill()
    process.wait()
    wait_for(lambda: not running("helper"), 3.0)


def test_signals_wait_for_the_end_of_a_block():
    done = []
    with pytest.raises(KeyboardInterrupt), postponed() as waiting:
        signal.raise_signal(signal.SIGINT)
        done.append(waiting.number)
    assert done == [signal.SIGINT]
    with pytest.raises(KeyboardInterrupt), postponed(), postponed() as waiting:  # an inner block passes it on
        signal.raise_signal(signal.SIGINT)
        waiting.deliver()
        done.append(waiting.number)
    assert done == [signal.SIGINT, 0]
    thread = threading.Thread(target=lambda: done.append(postponed().__enter__().number))
    thread.start()
    thread.join()
    assert done == [signal.SIGINT, 0, 0] and not isinstance(Interrupted(15), Exception)


def test_an_ignored_signal_stays_ignored():
    """`nohup` ignores SIGHUP."""
    text = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\nfrom fluxcube.terminal import run_app\n"
    text += "run_app(lambda: signal.raise_signal(signal.SIGHUP))\n"
    assert subprocess.run(script(text), check=False).returncode == 0


def test_a_scheduler_that_is_not_there_is_reported(caplog, monkeypatch):
    pytest.importorskip("distributed")
    from fluxcube.errors import StoreError
    from fluxcube.maps import workers

    monkeypatch.setattr(workers, "_NOTICE", 0.3)
    with pytest.raises(
        StoreError,
        match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9 within 2 s.*dask scheduler --port 9.*patience=SEC",
    ):
        workers._connected("tcp://127.0.0.1:9", 2.0)
    with pytest.raises(StoreError, match=r"no address of a Dask scheduler"):
        workers._connected("tcp://127.0.0.1:x", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(StoreError, match=rf"{address}: the Dask scheduler gave no answer for 1 s"):
            workers._connected(address, 1.0)
    assert "the Dask scheduler does not answer" in caplog.text


def test_silent_workers_are_reported(caplog, monkeypatch):
    from fluxcube.maps import workers

    now = [0.0]
    monkeypatch.setattr(workers.time, "monotonic", lambda: now[0])
    signs = workers._SignsOfLife()
    for second in range(0, 30, 5):
        now[0] = second
        signs.update({"tcp://a": 7.0, "tcp://b": 7.0 + second})  # by another clock
        signs.report(900)
        assert ("tcp://a" in caplog.text) == (second >= 10) and "tcp://b" not in caplog.text
    assert signs.silence() == 0 and len(caplog.records) == 1
    now[0] = 600
    signs.update({})
    signs.report(900)
    assert "no worker is connected" in caplog.text and signs.silence() == 575


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_end_of_a_command_is_no_traceback(number):
    code = (
        "import atexit, os, time\nfrom fluxcube.terminal import run_app\n"
        f"atexit.register(lambda: (os.kill(os.getpid(), {int(number)}), time.sleep(5)))\n"
        "run_app(lambda: print('complete'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "complete\n", "")


def test_signals_end_a_command_that_is_being_imported():
    """An import that takes long stands for a slow disk."""
    slow = "import sys, time, types\nclass Slow:\n    def find_spec(self, name, path=None, target=None):\n"
    slow += "        if name == 'fluxcube.cli':\n            print('begun', flush=True)\n            time.sleep(100)\n"
    slow += "sys.meta_path.insert(0, Slow())\nfrom fluxcube.__main__ import main\nmain()\n"
    process = started(*script(slow), mark="import")
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    assert ended(process, "import") == (130, "")
