"""Two machines that share a disk: each with a name, a start and processes of its own, and locks the other does not see.

    sudo python benchmarks/faults_hosts.py [--minute] [--bindfs PATH]

A machine is a set of namespaces (`unshare`) with another host name and another ``boot_id``. The disk is one folder
mounted twice through FUSE (`bindfs`, a package of most distributions): the kernel keeps ``flock`` apart for each mount,
as two NFS clients without a lock server do. It needs root, ``/dev/fuse``, `unshare` and `bindfs`. With ``--minute`` the
lock of a killed machine is really silent for 60 s; by default the times are a twentieth of that.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

#: A writer: it takes the lock, reports, waits for a line, publishes, and reports again.
WRITER = """
import sys, time
import numpy as np, xarray as xr
from fluxcube.errors import StoreError
from fluxcube.stores import lock as locks
from fluxcube.stores.arrays import create
from fluxcube.stores.building import staging, store_lock
locks.HEARTBEAT, locks.SILENCE = locks.HEARTBEAT / float(sys.argv[3]), locks.SILENCE / float(sys.argv[3])
try:
    with store_lock(sys.argv[1]), staging(sys.argv[1], overwrite=True) as building:
        create(building, xr.Dataset(coords={"x": np.arange(3)}), {}, {"kind": "cube", "by": sys.argv[2]})
        print("locked", flush=True)
        sys.stdin.readline()
    print("published", flush=True)
except StoreError as error:
    print("refused:", error, flush=True)
"""


class Host:
    """A writer on a machine of its own."""

    def __init__(self, name: str, disk: Path, boot: Path, speed: float):
        command = f'hostname {name}; mount --bind {boot} /proc/sys/kernel/random/boot_id; exec "$@"'
        python = [sys.executable, "-c", WRITER, str(disk / "s.zarr"), name, str(speed)]
        self.process = subprocess.Popen(
            [
                "unshare",
                "--fork",
                "--kill-child",
                "--pid",
                "--uts",
                "--mount",
                "--mount-proc",
                "sh",
                "-c",
                command,
                "sh",
                *python,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def line(self) -> str:
        return self.process.stdout.readline().strip()

    def publish(self) -> str:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.line()
        self.process.wait()
        return line

    def signal(self, name: str) -> None:
        """Send a signal to the writer, which is process 1 of its machine."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        subprocess.run(["kill", f"-{name}", *children], check=True)


@contextlib.contextmanager
def shared_disk(folder: Path, bindfs: str) -> Iterator[tuple[Path, Path]]:
    """Mount a folder twice, so that the mounts have separate locks of the system."""
    disk, mounts = folder / "disk", (folder / "a", folder / "b")
    disk.mkdir()
    mounted = []
    try:
        for mount in mounts:
            mount.mkdir()
            options = "attr_timeout=0,entry_timeout=0,negative_timeout=0"
            subprocess.run([bindfs, "-o", options, str(disk), str(mount)], check=True)
            mounted.append(mount)
        yield mounts
    finally:
        for mount in mounted:
            subprocess.run(["umount", "-l", str(mount)], check=False)


def possible(bindfs: str | None) -> str:
    """Return why two machines cannot be made here; "" if they can."""
    if os.geteuid() != 0:
        return "only root can mount"
    if not bindfs or not Path("/dev/fuse").exists():
        return "bindfs or /dev/fuse is missing"
    trial = ["unshare", "--fork", "--pid", "--uts", "--mount", "--mount-proc", "true"]
    if not shutil.which("unshare") or subprocess.run(trial, capture_output=True, check=False).returncode:
        return "unshare makes no namespaces"
    return ""


def stored_by(disk: Path) -> str:
    from fluxcube.stores.reading import store_attrs

    return str(store_attrs(disk / "s.zarr")["by"])


def main(seed: int, count: int, *, speed: float = 20, bindfs: str | None = None) -> list[tuple[str, int, int, str]]:
    bindfs = bindfs or shutil.which("bindfs")
    if why := possible(bindfs):
        return [("two machines on one disk", 0, 0, f"not tried: {why}")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        boots = [folder / "boot-a", folder / "boot-b"]
        for boot in boots:
            boot.write_text(f"{os.urandom(16).hex()}\n")
        with shared_disk(folder, str(bindfs)) as (a, b):
            results = {what: function(a, b, boots, speed) for what, function in SCENARIOS.items()}
    held = [what for what, problem in results.items() if not problem]
    notes = "; ".join(f"{what}: {problem or 'as it must be'}" for what, problem in results.items())
    return [("two machines on one disk", len(results), len(held), notes)]


def both_alive(a: Path, b: Path, boots: list[Path], speed: float) -> str:
    first = Host("node-a", a, boots[0], speed)
    if first.line() != "locked":
        return "the first did not get the lock"
    time.sleep(2 * 60 / speed)  # longer than a lock may be silent
    second = Host("node-b", b, boots[1], speed).line()
    if "process 1 on node-a" not in second or "is writing it" not in second:
        return second
    return "" if first.publish() == "published" and stored_by(b) == "node-a" else "the first did not publish"


def killed(a: Path, b: Path, boots: list[Path], speed: float) -> str:
    first = Host("node-a", a, boots[0], speed)
    first.line()
    first.signal("KILL")
    first.process.wait()
    early, start = Host("node-b", b, boots[1], speed).line(), time.monotonic()
    if speed <= 1 and "node-a" not in early:
        return f"no refusal at once: {early}"
    while True:
        second = Host("node-b", b, boots[1], speed)
        if (line := second.line()) == "locked":
            break
        if time.monotonic() - start > 3 * 60 / speed + 60:
            return line
        time.sleep(1)
    took = time.monotonic() - start
    result = second.publish()
    left = sorted(set(os.listdir(a)) - {"s.zarr"})
    return "" if result == "published" and not left else f"{result}, left {left}, after {took:.0f} s"


def suspended(a: Path, b: Path, boots: list[Path], speed: float) -> str:
    first = Host("node-a", a, boots[0], speed)
    first.line()
    first.signal("STOP")
    time.sleep(70 / speed)
    second = Host("node-b", b, boots[1], speed)
    if (line := second.line()) != "locked":
        return line
    first.signal("CONT")
    late = first.publish()
    if "process 1 on node-b" not in late or "took it over" not in late:
        return f"the first: {late}"
    return "" if second.publish() == "published" and stored_by(a) == "node-b" else "the second did not publish"


SCENARIOS = {
    "both alive, the second is refused": both_alive,
    "the first is killed, the second takes over": killed,
    "the first is suspended, loses its lock, and publishes nothing": suspended,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minute", action="store_true")
    parser.add_argument("--bindfs")
    options = parser.parse_args()
    for row in main(0, 0, speed=1 if options.minute else 20, bindfs=options.bindfs):
        print(*row, sep=" | ")
