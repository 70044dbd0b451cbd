"""What the command line says: our own lines, each once; libraries and tracebacks on request only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import cluster_job
import pytest
from typer.testing import CliRunner

from fluxcube.cli import app

PROGRAM = (
    "import logging, sys, threading, warnings\n"
    "import fluxcube.terminal as t\n"
    "def work():\n"
    "    if '--verbose' in sys.argv:\n"
    "        t.show_all()\n"
    "    warnings.warn('of a library')\n"
    "    logging.getLogger('distributed.worker').error('of a library')\n"
    "    for _ in range(2):\n"
    "        logging.getLogger('fluxcube.maps').warning('ours s3://key:secret@b/x \\x1b[31m')\n"
    "    {end}\n"
    "t.run_app(work)\n"
)


def program(end: str, *words: str) -> tuple[int, list[str]]:
    """Exit status and lines of a command that ends with a statement."""
    command = [sys.executable, "-c", PROGRAM.format(end=end), "upscale", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stderr.splitlines()


def test_only_our_lines_appear_each_once():
    status, lines = program("pass")
    assert status == 0 and lines == [r"fluxcube: note: ours s3://***@b/x \x1b[31m"]


def test_a_fault_of_ours_is_one_line_on_how_to_report_it():
    status, lines = program("{}['key']", "runs/a", "s3://key:secret@b/x y")
    assert status == 1 and len(lines) == 2 and "KeyError: 'key'" in lines[1] and "Python 3." in lines[1]
    assert lines[1].endswith("fluxcube --verbose upscale runs/a 's3://***@b/x y'")


def test_verbose_shows_libraries_and_the_traceback():
    status, lines = program("{}['key']", "--verbose")
    text = "\n".join(lines)
    assert status == 1 and text.count("of a library") == 2 and "Traceback" in text and "fluxcube.maps" in text
    assert lines[-1].startswith("fluxcube: unexpected error") and lines[-1].count("--verbose") == 1


def test_a_fault_in_a_thread_and_too_little_memory_are_lines():
    status, lines = program("threading.Thread(target=lambda: 1 / 0).start()")
    assert status == 0 and len(lines) == 2 and "ZeroDivisionError" in lines[1]
    status, lines = program("raise MemoryError('of 8 GiB')")
    assert status == 1 and "not enough memory" in lines[1] and "fewer workers" in lines[1]


def test_a_reader_that_has_read_enough_is_no_error():
    code = "import fluxcube.terminal as t\nt.run_app(lambda: [print('x' * 9999, flush=True) for _ in range(999)])"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait(30) == 128 + signal.SIGPIPE


def test_workers_and_their_end_are_silent(tmp_path):
    """Maps in two processes of a scheduler of this machine, of which Dask logs how they start and end."""
    code = (
        "import sys, cluster_job, fluxcube.terminal as t\n"
        "t.run_app(lambda: cluster_job.write_maps(cluster_job.make_maps(0, 2), sys.argv[1], "
        "scheduler='processes', workers=2))"
    )
    path = [str(Path(cluster_job.__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
    command = [sys.executable, "-c", code, str(tmp_path / "maps.zarr")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert [line for line in done.stderr.splitlines() if not line.startswith("fluxcube: note: ")] == []


@pytest.mark.parametrize("words", ["--verbose {}", "{} --verbose"])
@pytest.mark.parametrize("command", ["totals nowhere", "fetch towers raw --source nowhere", "protocols"])
def test_verbose_comes_before_or_after_the_command(words, command, monkeypatch):
    shown: list[bool] = []
    monkeypatch.setattr("fluxcube.terminal.show_all", lambda: shown.append(True))
    CliRunner().invoke(app, words.format(command).split())
    assert shown == [True]


def test_every_command_has_verbose():
    from typer.main import get_command

    def walk(command):
        yield command
        for one in getattr(command, "commands", {}).values():
            yield from walk(one)

    for command in walk(get_command(app)):
        assert sum("--verbose" in option.opts for option in command.params) == 1, command.name


def test_the_library_changes_no_messages_of_a_program():
    code = (
        "import logging, sys, warnings, threading\n"
        "before = (warnings.showwarning, sys.excepthook, threading.excepthook, list(logging.getLogger().handlers))\n"
        "import fluxcube.cli, fluxcube.maps.workers\n"
        "after = (warnings.showwarning, sys.excepthook, threading.excepthook, list(logging.getLogger().handlers))\n"
        "assert before == after\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
