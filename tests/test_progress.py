"""Progress: a bar on a terminal, lines with the time left elsewhere, whatever and how rarely the work reports."""

from __future__ import annotations

import io
import re
import sys
import threading

import pytest

import fluxcube as fc
from fluxcube import progress
from fluxcube.progress import TimeLeft, lines


class Clock:
    """A clock that a test sets."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def written(monkeypatch, reports, *, first=1e-3):
    """The first line that is written after the reports."""
    clock, told, ready = Clock(monkeypatch), [], threading.Event()
    with lines("build", lambda line: (told.append(line), ready.set()), first=first, every=1e-3) as report:
        for after, *what in reports:
            clock.now += after
            report(*what)
        told.clear()
        ready.clear()
        assert ready.wait(10)
        ready.clear()
        assert ready.wait(10)  # a line that was begun before the last report may come first
    return told[-1]


def test_the_time_left_follows_from_the_pace(monkeypatch):
    assert written(monkeypatch, [(2, 1, 10, "a"), (2, 2, 10, "b")]) == "build: 20 % (2 of 10), about 16 s left, b"


def test_no_time_is_left_to_tell_after_the_last_part_which_other_work_may_follow(monkeypatch):
    assert written(monkeypatch, [(2, 1, 2, "a"), (2, 2, 2, "b")]) == "build: 100 % (2 of 2), b"


def test_parts_of_an_earlier_run_are_not_taken_for_speed(monkeypatch):
    clock, left = Clock(monkeypatch), TimeLeft()
    left.update(50, 100)
    assert left.seconds is None
    clock.now += 10
    left.update(51, 100)
    assert left.seconds == 490


def test_the_time_left_begins_anew_with_another_stage(monkeypatch):
    clock, left = Clock(monkeypatch), TimeLeft()
    for done in (1, 2, 3):
        clock.now += 100
        left.update(done, 3)
    for done in (1, 2):
        clock.now += 1
        left.update(done, 5)
    assert left.seconds == pytest.approx(3)


def test_work_that_reports_nothing_is_seen_to_run(monkeypatch):
    assert written(monkeypatch, []) == "build: running for 0 s"


def test_work_that_knows_the_time_left_is_believed(monkeypatch):
    told = written(monkeypatch, [(2, 1, 10, "a"), (2, 2, 10, "speed 5/s, 1:00 left")])
    assert told == "build: 20 % (2 of 10), speed 5/s, 1:00 left"


def test_works_side_by_side_are_shown_as_one():
    told = []
    both = progress.SideBySide(["seed 0", "seed 1", "seed 2"], lambda *report: told.append(report))
    both.update("seed 0", 5, 5, "reading")
    both.update("seed 0", 10, 100, "epoch 1, 3 s left")  # of this seed alone
    both.update("seed 1", 5, 5, "reading")
    both.update("seed 1", 20, 100, "epoch 1")
    both.update("seed 0", 2, 7, "reading")
    both.end("seed 1")
    assert told == [
        (5, 15, "seed 0: reading"),
        (10, 300, "seed 0: epoch 1"),
        (10, 300, "seed 1: reading"),
        (30, 300, "seed 1: epoch 1"),
        (30, 300, "seed 0: reading"),
        (110, 300, "seed 1 has ended"),
    ]
    progress.SideBySide(["seed 0"], None).update("seed 0", 1, 2, "unseen")


def test_not_every_report_is_passed_on(monkeypatch):
    clock, told = Clock(monkeypatch), []
    report = progress.now_and_then(lambda *what: told.append(what), 10)
    for done in range(1, 6):
        report(done, 5, "step")
        clock.now += 3
    assert told == [(1, 5, "step"), (5, 5, "step")]


def test_a_stage_without_parts_is_named_and_leaves_no_time_of_the_one_before(monkeypatch):
    told = written(monkeypatch, [(2, 1, 2, "a"), (2, 2, 2, "b"), (2, 0, 0, "training")])
    assert told.startswith("build: running for ") and told.endswith(", training") and "left" not in told


def test_a_pipe_gets_lines_and_a_terminal_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(progress, "FIRST", 1e-3)
    monkeypatch.setattr(progress, "EVERY", 1e-3)
    for stream in (io.StringIO(), Terminal()):
        monkeypatch.setattr(sys, "stderr", stream)
        with fc.show_progress("totals") as report:
            while "1 of 3" not in stream.getvalue() and "1/3" not in stream.getvalue():
                report(1, 3, "NEE")
        shown = "1/3" if stream.isatty() else "(1 of 3)"
        assert "totals" in stream.getvalue() and shown in stream.getvalue()
        assert bool(re.search("\x1b", stream.getvalue())) == stream.isatty()


def test_a_command_without_progress_is_seen_to_run_until_progress_is_shown(monkeypatch):
    monkeypatch.setattr(progress, "FIRST", 1e-3)
    monkeypatch.setattr(progress, "EVERY", 1e-3)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress.show_running("plot"):
        while "plot: running for" not in sys.stderr.getvalue():
            pass
        with fc.show_progress("export") as report:
            report(1, 3, "NEE")
            sys.stderr.truncate(0)  # a line that was begun before may come first
            while sys.stderr.getvalue().count("export: 33 %") < 2:
                pass
            assert "plot" not in sys.stderr.getvalue().partition("33 %")[2]


def test_no_line_follows_the_end(monkeypatch):
    told: list[str] = []
    with pytest.raises(KeyError), lines("build", told.append, first=1e-3, every=1e-3):
        raise KeyError
    before = len(told)
    assert "fluxcube-progress" not in {thread.name for thread in threading.enumerate()} and len(told) == before
