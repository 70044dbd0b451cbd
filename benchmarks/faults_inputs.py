"""Damaged and hostile files of others: `python benchmarks/faults_inputs.py [--count 10000] [--seed 1] [--only NAME]`.

Every format that fluxcube reads is written by the simulator, its bytes are changed at random, and all values are read
in a process of their own with limits of time and memory. A second table counts inputs that were made by hand to mean
harm (`faults_hostile`). The changes depend on the seed, the format and the number only.
"""

import argparse
import contextlib
import logging
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

from faults_formats import formats
from faults_hostile import HOSTILE, expect_refused, valid_files

from fluxcube.errors import FluxcubeError

SECONDS, MEMORY = float(os.environ.get("FAULTS_SECONDS", 20)), 3 << 30
#: What may happen; the first three are right.
EQUAL, NAMED, WARNED = "values equal", "error that names the file", "left out with a reason"
OTHER = "other values, no checksum in the format"
WRONG = ("other values despite a checksum", "traceback", "crash", "no answer in 20 s", "file written outside")
COLUMNS = (EQUAL, NAMED, WARNED, OTHER, *WRONG)


def change(data, number):
    """Return bytes with some of them changed, lost, moved, or replaced by numbers at the limits of their types."""
    out, size = bytearray(data), len(data)
    for _ in range(number.choice((1, 1, 1, 2, 4))):
        at, kind = number.randrange(size), number.random()
        length = number.choice((1, 2, 4, 8, 16, 64))
        if kind < 0.25:
            out[at : at + 1] = bytes((out[at] ^ 1 << number.randrange(8),)) if at < len(out) else b""
        elif kind < 0.45:
            out[at : at + length] = number.randbytes(length)
        elif kind < 0.65:
            limit = number.choice((b"\xff", b"\0", b"\x7f" + b"\xff" * 7, b"\xff" * 7 + b"\x7f", b"\x80" + bytes(7)))
            out[at : at + length] = (limit * 8)[:length]
        elif kind < 0.75:
            del out[at:]
        elif kind < 0.85:
            del out[at : at + length]
        elif kind < 0.95:
            start = number.randrange(size)
            out[at : at + length] = data[start : start + length]
        else:
            out[at:at] = data[at : at + length]
    return bytes(out)


class Watched(logging.Handler):
    """The warnings that are logged while a file is read."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


def outcome(form, folder, good, usual):
    """Read an input; return what happened, and the message or the end of the traceback."""
    log = Watched()
    logging.getLogger().addHandler(log)
    try:
        values, notes = form.read(folder)
    except FluxcubeError as error:
        return NAMED, str(error)
    except BaseException:
        return "traceback", traceback.format_exc(limit=-4)
    finally:
        logging.getLogger().removeHandler(log)
    texts = [text.replace(str(folder), "") for text in [*notes, *log.texts]]
    if values == good:
        return EQUAL, ""
    if [text for text in texts if text not in usual]:
        return WARNED, texts[-1]
    return ("other values despite a checksum" if form.checked else OTHER), ""


def put(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def listing(root):
    return {str(path): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def limit():
    used = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


def isolated(work, count, case):
    """Yield (number, outcome, text) of each case, which another process calculates; after a crash, a new one goes on.

    Parameters
    ----------
    work : Path
        Folder of the cases; the process works in its subfolder `cwd`.
    count : int
    case : callable
        Receives the number, returns outcome and text; called in the other process.
    """
    number = 0
    while number < count:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            os.setsid()
            os.chdir(work / "cwd")
            limit()
            for one in range(number, count):
                result, text = case(one)
                os.write(writing, f"{one}\t{result}\t{text!r}\n".encode(errors="replace")[:3000].rstrip() + b"\n")
            os._exit(0)
        os.close(writing)
        with open(reading, "rb", buffering=0) as answers:
            for line in lines(answers):
                at, result, text = line.split("\t", 2)
                number = int(at) + 1
                yield int(at), result, text
            hung = number < count and os.waitpid(child, os.WNOHANG)[0] == 0
        with contextlib.suppress(ProcessLookupError):
            if hung:
                time.sleep(0.05)
            os.killpg(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            status = os.waitpid(child, 0)[1]
            hung = hung and status == signal.SIGKILL
        if number < count:
            yield number, "no answer in 20 s" if hung else "crash", ""
            number += 1


def lines(answers):
    """Yield the lines of a pipe until its end, or until none has come for some time."""
    rest = b""
    while select.select([answers], [], [], SECONDS)[0] and (block := answers.read(1 << 16)):
        *whole, rest = (rest + block).split(b"\n")
        yield from (line.decode(errors="replace") for line in whole if line)


def mutate(name, form, work, seed, count):
    """Return the number of each outcome of a format, and the cases that are wrong."""
    good_folder = work / "good"
    put(good_folder, form.files)
    log = Watched()
    logging.getLogger().addHandler(log)
    good, notes = form.read(good_folder)
    logging.getLogger().removeHandler(log)
    usual = {text.replace(str(good_folder), "") for text in [*notes, *log.texts]}

    def case(number):
        folder = work / "inputs" / str(number)
        rng = random.Random(f"{seed} {name} {number}")
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was stopped
        put(folder, {**form.files, form.changed: change(form.files[form.changed], rng)})
        before = listing(work / "cwd")
        try:
            result = outcome(form, folder, good, usual)
            return ("file written outside", "") if listing(work / "cwd") != before else result
        finally:
            shutil.rmtree(folder)

    counts, wrong = Counter(), []
    for number, result, text in isolated(work, count, case):
        counts[result] += 1
        if result in WRONG:
            wrong.append((name, number, result, text))
    shutil.rmtree(good_folder)
    return counts, wrong


def attack(work, kind):
    """Return the number of hostile inputs that were refused, and those that were not."""
    names = [name for name in HOSTILE if name.startswith(kind)]
    valid_files()  # once, not in each process

    def case(number):
        folder = work / "inputs" / f"h{number}"
        folder.mkdir()
        before, log = listing(work / "cwd"), Watched()
        logging.getLogger().addHandler(log)
        try:
            result = expect_refused(names[number], folder, log.texts)
        except BaseException:
            result = "traceback", traceback.format_exc(limit=-4)
        logging.getLogger().removeHandler(log)
        return ("file written outside", "") if listing(work / "cwd") != before else result

    found = []
    for number, result, text in isolated(work, len(names), case):
        found.append((names[number], result, text))
        if result not in (NAMED, WARNED, EQUAL):
            print(names[number], result, ending(text), sep=" | ", flush=True)
    return found


def shares(made, count, only):
    """Return how many changes each format gets: as many as possible of `count`, fewer of those that take longer."""
    chosen = {name: form for name, form in made.items() if not only or only in name}
    weights = {name: 1 / form.cost**0.5 for name, form in chosen.items()}
    total = sum(weights.values())
    return {name: max(1, round(count * weight / total)) for name, weight in weights.items()}


def main(seed=1, count=10_000, only=""):
    """Print both tables; return the number of cases that are wrong."""
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger().addHandler(logging.NullHandler())
    root = Path(tempfile.mkdtemp(prefix="fluxcube-faults-"))
    bad = 0
    try:
        (root / "cwd").mkdir()
        (root / "inputs").mkdir()
        if only.partition(":")[0] in ("", "hostile"):
            found = attack(root, only.partition(":")[2])
            bad += report_attack(found)
        if not only.startswith("hostile"):
            made = formats(root / "made")
            total, wrong = Counter(), []
            print("| format | changes | " + " | ".join(COLUMNS) + " |\n|" + "---|" * (len(COLUMNS) + 2))
            for name, number in shares(made, count, only).items():
                start = time.monotonic()
                counts, failures = mutate(name, made[name], root, seed, number)
                total += counts
                wrong += failures
                print(row(name, number, counts), f"<!-- {time.monotonic() - start:.0f} s -->", flush=True)
            print(row("**all**", sum(total.values()), total))
            for format_name, number, result, text in wrong:
                print(format_name, number, result, ending(text), sep=" | ")
            bad += len(wrong)
    finally:
        shutil.rmtree(root)
    return bad


def ending(text):
    """Return the last line of a message or traceback."""
    return (text.strip("'\"").replace("\\n", "\n").strip().splitlines() or [""])[-1][-300:]


def row(name, number, counts):
    return f"| {name} | {number} | " + " | ".join(str(counts[column]) for column in COLUMNS) + " |"


def report_attack(found):
    """Print how many hostile inputs of each kind were refused, and those that were not; return the number of these."""
    kinds = Counter(name.partition(":")[0] for name, _, _ in found)
    good = Counter(name.partition(":")[0] for name, result, _ in found if result in (NAMED, WARNED, EQUAL))
    print("| hostile inputs | made | refused or harmless |\n|---|---|---|")
    for kind, number in kinds.items():
        print(f"| {kind} | {number} | {good[kind]} |")
    print(f"| **all** | {len(found)} | {sum(good.values())} |\n")
    return len(found) - sum(good.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=10_000, help="number of changes over all formats")
    parser.add_argument("--only", default="", help="part of the name of a format, or 'hostile', or 'hostile:KIND'")
    options = parser.parse_args()
    sys.exit(main(options.seed, options.count, options.only) > 0)
