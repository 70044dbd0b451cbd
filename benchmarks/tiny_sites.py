"""Measure builds of cubes with thousands of short records: is the cost linear in the number of sites?

    python benchmarks/tiny_sites.py [--counts 750 1500 3000] [--days 4] [--profile]

Each count runs in a separate process: files in the format of FLUXNET2015 are written, built into a cube, which is
opened, inspected, verified, and to which one more site is appended. CPU times include child processes; they are what
counts on a machine that is busy. ``--profile`` prints the functions that take the most time of the largest build.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
HEADER = "TIMESTAMP_START,TIMESTAMP_END,TA_F,TA_F_QC,SW_IN_F,SW_IN_F_QC,VPD_F,VPD_F_QC,NEE_VUT_REF,NEE_VUT_REF_QC"


def name(at: int) -> str:
    return "XX-" + DIGITS[at // 36**2] + DIGITS[at // 36 % 36] + DIGITS[at % 36]


def write_raw(folder: Path, sites: range, days: int) -> None:
    """Write the tables of some sites, and their description."""
    folder.mkdir()
    stamps = np.datetime_as_string(
        np.datetime64("2020-06-01T00:00", "m") + np.arange(48 * days + 1) * np.timedelta64(30, "m"), unit="m"
    )
    texts = [stamp.translate(str.maketrans("", "", "-:T")) for stamp in stamps]
    lines = ["SITE_ID,GROUP_ID,VARIABLE_GROUP,VARIABLE,DATAVALUE"]
    for at in sites:
        rng, site = np.random.default_rng(at), name(at)
        sun = np.maximum(np.sin((np.arange(48 * days) / 48 - 0.25) * 2 * np.pi), 0)
        values = np.stack([15 + 5 * sun, 800 * sun, 5 + 5 * sun, -10 * sun], 1) + rng.normal(0, 0.1, (48 * days, 4))
        values[:, 1] = np.where(sun > 0, np.maximum(values[:, 1], 0), 0)
        rows = (f"{t:.3f},0,{s:.2f},0,{v:.3f},0,{n:.3f},0" for t, s, v, n in values)
        text = "\n".join(f"{a},{b},{row}" for a, b, row in zip(texts[:-1], texts[1:], rows, strict=True))
        path = folder / f"FLX_{site}_FLUXNET2015_SUBSET_HH_2020-2020_1-4.csv"
        path.write_text(f"{HEADER}\n{text}\n", "utf-8")
        described = {"LOCATION_LAT": f"{rng.uniform(-50, 60):.4f}", "LOCATION_LONG": "0.0", "LOCATION_ELEV": "100.0"}
        lines += [f"{site},{3 * at},GRP_LOCATION,{key},{value}" for key, value in described.items()]
        lines += [f"{site},{3 * at + 1},GRP_IGBP,IGBP,GRA", f"{site},{3 * at + 2},GRP_UTC_OFFSET,UTC_OFFSET,0.0"]
    (folder / "FLX_AA-Flx_BIF_HH_20260101.csv").write_text("\n".join(lines) + "\n", "utf-8")


def cost(job: Callable[[], object]) -> tuple[float, float]:
    """Return the wall time and the CPU time (s) of a call, with its child processes."""
    before, start = _cpu(), time.perf_counter()
    job()
    return time.perf_counter() - start, _cpu() - before


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def measure(sites: int, days: int, folder: Path, profile: bool) -> dict[str, float]:
    """Build a cube of simulated sites, and use it; return the times and sizes."""
    import fluxcube as fc
    from fluxcube.stores.manifest import verify

    raw, more, store = folder / "raw", folder / "more", folder / "cube.zarr"
    write_raw(raw, range(sites), days)
    write_raw(more, range(sites, sites + 1), days)
    profiler = cProfile.Profile()
    if profile:
        profiler.enable()
    wall, cpu = cost(lambda: fc.build_carbonsense(raw, store))
    if profile:
        profiler.disable()
        pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(25)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    files = [file.stat() for file in store.rglob("*") if file.is_file()]
    out = {"sites": sites, "wall": wall, "cpu": cpu, "MiB": peak, "files": len(files)}
    out["MB"] = sum(file.st_size for file in files) / 1e6
    out["open"] = min(cost(lambda: fc.open_carbonsense(store))[1] for _ in range(3))
    command = [str(Path(sys.executable).with_name("fluxcube")), "inspect", str(store)]
    out["inspect"] = cost(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))[1]
    out["verify"] = cost(lambda: verify(store))[1]
    before = {file.stat().st_ino for file in store.rglob("*") if file.is_file()}
    out["append"] = cost(lambda: fc.build_carbonsense(more, store, append=True))[1]
    after = [file.stat() for file in store.rglob("*") if file.is_file()]
    written = [file.st_size for file in after if file.st_ino not in before]
    return out | {"new files": len(written), "new MB": sum(written) / 1e6}


def child(sites: int, days: int, profile: bool) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", ".")) as folder:
        arguments = [__file__, "--measure", str(sites), "--days", str(days), "--folder", folder]
        done = subprocess.run(
            [sys.executable, *arguments, *(["--profile"] if profile else [])],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return json.loads(done.stdout.splitlines()[-1])


def main(counts: list[int], days: int, profile: bool) -> None:
    rows = []
    for sites in counts:
        rows.append(child(sites, days, profile and sites == max(counts)))
        if len(rows) == 1:
            print(" ".join(f"{key:>9}" for key in rows[0]))
        print(" ".join(f"{value:9.2f}" if value % 1 else f"{value:9.0f}" for value in rows[-1].values()), flush=True)
    first, last = rows[0], rows[-1]
    if last["sites"] > first["sites"]:
        growth = {key: last[key] / first[key] for key in ("cpu", "append", "inspect", "open")}
        print(f"times the first, of {last['sites'] / first['sites']:.1f} times its sites:", growth)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="*", default=[750, 1500, 3000])
    parser.add_argument("--days", type=int, default=4)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.days, arguments.folder, arguments.profile)))
    else:
        main(arguments.counts, arguments.days, arguments.profile)
