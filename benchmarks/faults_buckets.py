"""Kill runs that write maps to a bucket, and compare what the next run finishes with the maps of a disk.

`python benchmarks/faults_buckets.py --seed 1 --count 20`. An S3 server (moto) runs in a process of its own, and so do
the client, its workers and, for the draws on a TCP cluster, the scheduler.
In each draw one of them is killed (SIGKILL) shortly after a random number of regions was written, or while the store is
created. The same command is then run until it succeeds. It must end with the objects that a run on a disk writes, byte
for byte.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from fluxcube.errors import StoreError
from fluxcube.stores.ledger import done_regions
from fluxcube.stores.objects import Bucket

HELPERS = Path(__file__).parents[1] / "tests" / "helpers"
JOB = str(HELPERS / "cluster_job.py")
#: Days of the maps, of which each has four regions, and seconds that the model sleeps for each window.
DAYS, PAUSE, REGIONS = "3", "0.02", 12
ATTEMPTS, PATIENCE = 4, 240.0
DRAWS = {
    "threads": ("client",),
    "processes": ("client", "worker", "worker's nanny"),
    "tcp": ("client", "worker", "scheduler"),
}


def environment(port):
    """Return the variables by which every process finds the server."""
    path = os.pathsep.join((str(HELPERS), str(HELPERS.parents[1])))
    own = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "writer", "AWS_REGION": "us-east-1"}
    own |= {"AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_EC2_METADATA_DISABLED": "true", "PYTHONPATH": path}
    own |= {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "10s", "OMP_NUM_THREADS": "1"}
    return os.environ | own


def started(*command):
    """Start a process in a group of its own, without its output."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "start_new_session": True}
    return subprocess.Popen([sys.executable, *command], **quiet)


def stopped(process):
    """Kill a process that this program started, and its group, which may have outlived it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def server():
    """Start moto; return its process and its port."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return process, port
        except OSError:
            time.sleep(0.1)
    raise SystemExit("moto did not start")


class Cluster:
    """A scheduler and two workers with their nannies; the scheduler can be started again at its port."""

    def __init__(self, port):
        self.address = f"tcp://127.0.0.1:{port}"
        self.scheduler = self._scheduler()
        options = ("--nthreads", "1", "--no-dashboard", "--memory-limit", "0", "--nworkers", "2")
        self.workers = started("-m", "distributed.cli.dask_worker", self.address, *options, "--death-timeout", "120")

    def _scheduler(self):
        port = self.address.rpartition(":")[2]
        options = ("--host", "127.0.0.1", "--port", port, "--no-dashboard")
        return started("-m", "distributed.cli.dask_scheduler", *options)

    def renew(self):
        if self.scheduler.poll() is not None:
            stopped(self.workers)
            self.__init__(self.address.rpartition(":")[2])

    def close(self):
        stopped(self.workers)
        stopped(self.scheduler)


def victim_of(name, job, cluster, rng):
    """Return the process to kill; None if there is none yet."""
    if name == "client":
        return psutil.Process(job.pid)
    if name == "scheduler":
        return psutil.Process(cluster.scheduler.pid)
    root = psutil.Process(cluster.workers.pid if cluster else job.pid)
    children = [p for p in root.children(recursive=True) if "resource_tracker" not in " ".join(p.cmdline())]
    nannies = [p for p in children if "dask_worker" in " ".join(p.cmdline())]
    found = nannies if name == "worker's nanny" else [p for p in children if p not in nannies]
    return rng.choice(found) if found else None


def draw(number, rng, base, expected):
    """Kill one process of one run; return a row of the table."""
    kind = rng.choice(sorted(DRAWS))
    name = rng.choice(DRAWS[kind])
    bucket = base / f"draw-{number}" / "maps.zarr"
    cluster = Cluster(rng.randrange(20000, 30000)) if kind == "tcp" else None
    command = (JOB, bucket.url, cluster.address if cluster else kind, PAUSE, DAYS)
    count = rng.randint(-1, REGIONS)
    try:
        job = started(*command)
        await_regions(job, bucket, count)
        time.sleep(rng.uniform(0, 0.5))
        state = killed(name, job, cluster, rng)
        left = regions_of(bucket)
        status = ended(job)
        runs = 1
        while status != 0 and runs < ATTEMPTS and not is_finished(bucket):
            if cluster:
                cluster.renew()
            job = started(*command)
            status, runs = ended(job), runs + 1
        return kind, name, count, state, left, runs, outcome(bucket, expected, job)
    finally:
        if cluster:
            cluster.close()


def await_regions(job, bucket, count):
    """Wait until a run has recorded a number of regions; -1: until it creates the store."""
    while job.poll() is None:
        done = regions_of(bucket) if bucket.read("zarr.json") is not None else -1
        if done >= count and (done >= 0 or bucket.entries()):
            return
        time.sleep(0.1)


def is_finished(bucket):
    """Return whether the store is complete: the run may be killed when only its lock was left."""
    root = bucket.read("zarr.json")
    return root is not None and json.loads(root)["attributes"]["complete"] == 1


def killed(name, job, cluster, rng):
    """Kill a process; return "killed", or why not."""
    try:
        if job.poll() is not None:
            return "run had ended"
        if (process := victim_of(name, job, cluster, rng)) is None:
            return "not started"
        process.kill()
    except psutil.NoSuchProcess:
        return "run had ended"
    return "killed"


def regions_of(bucket):
    try:
        return len(done_regions(bucket)) if bucket.read("zarr.json") is not None else 0
    except StoreError as error:
        return str(error)


def ended(job):
    """Wait for a run, and return its exit status; "hangs" if it does not end."""
    try:
        job.error = job.communicate(timeout=PATIENCE)[1].decode(errors="replace")
        return job.returncode
    except subprocess.TimeoutExpired:
        return "hangs"
    finally:
        stopped(job)


def outcome(bucket, expected, job):
    """Return "equal", or what differs."""
    if not is_finished(bucket):
        return f"status {job.returncode}: {getattr(job, 'error', '').strip().splitlines()[-1:]}"
    found = {key: bucket.read(key) for key in bucket.entries() if not key.startswith("ledger/")}
    if differing := [key for key in sorted(found.keys() | expected.keys()) if found.get(key) != expected.get(key)]:
        return f"{len(differing)} objects differ, such as {differing[0]}"
    return "equal"


def main(seed, count):
    """Print a table of `count` draws; return the number of those that did not end equal."""
    process, port = server()
    os.environ.update(environment(port))
    rng = random.Random(seed)
    try:
        import s3fs

        s3fs.S3FileSystem().mkdir("faults")
        base = Bucket("s3://faults")
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, JOB, f"{folder}/maps.zarr", "threads", "0", DAYS], check=True)
            disk = Path(folder, "maps.zarr")
            files = {file.relative_to(disk).as_posix(): file.read_bytes() for file in disk.rglob("*") if file.is_file()}
        expected = {key: value for key, value in files.items() if not key.startswith("ledger/")}
        print(f"seed {seed}")
        print("draw | workers | killed | after regions | state | regions then | runs | outcome")
        bad = 0
        for number in range(1, count + 1):
            row = draw(number, rng, base, expected)
            bad += row[-1] != "equal"
            print(number, *row, sep=" | ", flush=True)
        print(f"{count - bad} of {count} ended equal")
        return bad
    finally:
        stopped(process)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=20)
    options = parser.parse_args()
    sys.exit(1 if main(options.seed, options.count) else 0)
