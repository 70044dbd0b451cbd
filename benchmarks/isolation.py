"""Compare ways in which readers of a cube are kept apart from a writer that appends a site.

    python benchmarks/isolation.py CUBE FOLDER [--packages ICECHUNK]

The sites of CUBE are written by four prototypes, with the same arrays, chunks, shards and codecs; then one more site is
appended, once by a process that is killed before it commits, and once to the end.

in place
    Positions never move: the new site gets the next one, in the same folder. The number of sites is written last, and
    a reader sorts the sites.
generations
    Each state is a folder with hard links to unchanged files, and a symbolic link points to the newest.
replaced
    As fluxcube does: a new folder with hard links to unchanged files is renamed to the path of the old one.
icechunk
    Snapshots of Icechunk, if it is installed (``pip install --target ICECHUNK --no-deps icechunk``).

CPU times are those of this process; reading CUBE is not included.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
import zarr

from fluxcube.errors import StoreError
from fluxcube.stores import arrays
from fluxcube.stores.building import finish, staging, store_lock
from fluxcube.stores.reading import open_store
from fluxcube.stores.shards import adopt

ATTRS = {"kind": "cube", "Conventions": "CF-1.11"}
ROUNDS = 15


@dataclass(frozen=True)
class Cube:
    """The cube that is written again: `sites` are positions in it, whose coordinates and values are read as needed."""

    path: Path
    sites: tuple[int, ...]

    @property
    def coords(self) -> xr.Dataset:
        with open_store(self.path, kind="cube", dask=False) as ds:
            return ds.drop_vars(ds.data_vars).isel(site=list(self.sites)).load()

    @property
    def specs(self) -> dict[str, arrays.ArraySpec]:
        group = zarr.open_group(self.path, mode="r")
        names = [name for name, array in group.arrays() if array.shards is not None]
        return {name: self._spec(group[name]) for name in sorted(names)}

    def _spec(self, array: zarr.Array) -> arrays.ArraySpec:
        return arrays.ArraySpec(
            dims=array.metadata.dimension_names,
            shape=(len(self.sites), *array.shape[1:]),
            dtype=array.dtype,
            chunks=array.chunks,
            shards=array.shards,
            fill_value=array.fill_value.item(),
            attrs=dict(array.attrs),
            checksum=True,
        )

    def values(self, site: int) -> tuple[int, dict[str, np.ndarray]]:
        """Return the start of a site's record on the time axis, and its values as stored."""
        with open_store(self.path, kind="cube", dask=False) as ds:
            ends = (ds.time_start.values[site], ds.time_stop.values[site])
            start, stop = np.searchsorted(ds.time.values, ends)
        group = zarr.open_group(self.path, mode="r")
        return int(start), {name: group[name][site, start:stop] for name in self.specs}


class Clock:
    """Wall and CPU time of the blocks that it wraps."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def __enter__(self) -> None:
        self.wall -= time.perf_counter()
        self.cpu -= time.process_time()

    def __exit__(self, *_: object) -> None:
        self.wall += time.perf_counter()
        self.cpu += time.process_time()


def write(group: zarr.Group, at: int, start: int, parts: dict[str, np.ndarray]) -> None:
    """Write the values of a site, in whole chunks."""
    for name, values in parts.items():
        array = group[name]
        chunk, stop = array.chunks[1], start + len(values)
        begin, end = start // chunk * chunk, min(-(-stop // chunk) * chunk, array.shape[1])
        block = np.full((1, end - begin, *array.shape[2:]), array.fill_value, array.dtype)
        block[0, start - begin : stop - begin] = values
        array[at : at + 1, begin:end] = block


def write_all(group: zarr.Group, cube: Cube, sites: dict[int, int], clock: Clock) -> None:
    """Write sites of a cube, `sites` maps a position in the cube to that in the group."""
    for site, at in sites.items():
        start, parts = cube.values(site)
        with clock:
            write(group, at, start, parts)


def decoded(store: object) -> xr.Dataset:
    """Open a store as fluxcube does, but without its check that the store was not replaced."""
    ds = xr.open_zarr(store, consolidated=False, zarr_format=3, chunks=None, decode_cf=False)
    for variable in ds.variables.values():
        if "scale_factor" in variable.attrs:
            variable.attrs["scale_factor"] = np.float32(variable.attrs["scale_factor"])
    return xr.decode_cf(ds)


def listed(coords: xr.Dataset) -> dict[str, str]:
    """Return the attribute that lists the coordinates other than axes."""
    return {"coordinates": " ".join(str(name) for name in coords.coords if name not in coords.dims)}


def place(cube: Cube) -> dict[int, int]:
    return {site: at for at, site in enumerate(cube.sites)}


class InPlace:
    """One folder, whose positions never move."""

    def __init__(self, path: Path) -> None:
        self.path = path.with_suffix(".zarr")

    @property
    def plain(self) -> object:
        return self.path

    def build(self, cube: Cube, clock: Clock) -> None:
        with clock:
            coords = cube.coords
            per_site = [name for name in coords.coords if coords[name].dims == ("site",)]
            arrays.create(self.path, coords.drop_vars(per_site), cube.specs, ATTRS)
            group = zarr.open_group(self.path, mode="r+")
            for name in per_site:
                self._create(group, str(name), coords[name])
        write_all(group, cube, place(cube), clock)
        with clock:
            group.update_attributes({"complete": True, "sites": len(cube.sites), **listed(coords)})

    def _create(self, group: zarr.Group, name: str, coord: xr.DataArray) -> None:
        values, more = self._stored(coord)
        array = group.create_array(
            name,
            shape=values.shape,
            dtype=str if values.dtype == object else values.dtype,
            chunks=(64,),
            dimension_names=("site",),
            attributes={**{str(k): v for k, v in coord.attrs.items()}, **more},
        )
        array[...] = values

    def _stored(self, coord: xr.DataArray) -> tuple[np.ndarray, dict[str, str]]:
        if coord.dtype.kind == "M":
            return coord.values.astype("datetime64[h]").astype(np.int64), {"units": "hours since 1970-01-01"}
        return coord.values, {}

    def append(self, cube: Cube, site: int, clock: Clock, commit: Callable[[], None]) -> None:
        group = zarr.open_group(self.path, mode="r+")
        at = int(group.attrs["sites"])
        coords = Cube(cube.path, (site,)).coords
        with clock:
            for name in cube.specs:
                group[name].resize((at + 1, *group[name].shape[1:]))
        write_all(group, cube, {site: at}, clock)
        with clock:
            commit()  # between the arrays and the coordinates, of which each is a file: where a kill leaves both
            for name in coords.coords:
                if coords[name].dims == ("site",):
                    group[str(name)].resize((at + 1,))
                    group[str(name)][at:] = self._stored(coords[name])[0]
            group.update_attributes({"sites": at + 1})

    def open(self) -> xr.Dataset:
        ds = decoded(self.path)
        sites = ds.site.values[: ds.attrs["sites"]]
        return ds.isel(site=np.argsort(sites))


class Generations:
    """A folder for each state, which shares files with the state before; a symbolic link points to the newest."""

    def __init__(self, path: Path) -> None:
        self.path = path.with_suffix(".zarr")

    @property
    def plain(self) -> object:
        return self.path / "current"

    def _new(self) -> Path:
        self.path.mkdir(exist_ok=True)
        return self.path / f"state-{os.urandom(4).hex()}"

    def _publish(self, folder: Path) -> None:
        finish(folder)
        link = self.path / ".next"
        link.unlink(missing_ok=True)
        link.symlink_to(folder.name)
        os.replace(link, self.path / "current")

    def build(self, cube: Cube, clock: Clock) -> None:
        folder = self._new()
        with clock:
            arrays.create(folder, cube.coords, cube.specs, ATTRS)
        write_all(zarr.open_group(folder, mode="r+"), cube, place(cube), clock)
        with clock:
            self._publish(folder)

    def append(self, cube: Cube, site: int, clock: Clock, commit: Callable[[], None]) -> None:
        folder, old = self._new(), self.path / os.readlink(self.path / "current")
        compose(folder, old, cube, site, clock)
        with clock:
            commit()
            self._publish(folder)

    def open(self) -> xr.Dataset:
        return decoded(self.path / os.readlink(self.path / "current"))


def compose(folder: Path, old: Path, cube: Cube, site: int, clock: Clock) -> None:
    """Write a state with one more site than an old one, whose files it shares; sites are sorted as in the cube."""
    grown = Cube(cube.path, tuple(sorted({*cube.sites, site})))
    with clock:
        arrays.create(folder, grown.coords, grown.specs, ATTRS)
        adopt(folder, old, {at: grown.sites.index(kept) for at, kept in enumerate(cube.sites)})
    write_all(zarr.open_group(folder, mode="r+"), cube, {site: grown.sites.index(site)}, clock)


class Replaced:
    """A new folder takes the path of the old one; what fluxcube does."""

    def __init__(self, path: Path) -> None:
        self.path = path.with_suffix(".zarr")

    @property
    def plain(self) -> object:
        return self.path

    def build(self, cube: Cube, clock: Clock) -> None:
        with store_lock(self.path), staging(self.path) as folder:
            with clock:
                arrays.create(folder, cube.coords, cube.specs, ATTRS)
            write_all(zarr.open_group(folder, mode="r+"), cube, place(cube), clock)
            clock.__enter__()  # finish, and rename
        clock.__exit__()

    def append(self, cube: Cube, site: int, clock: Clock, commit: Callable[[], None]) -> None:
        with store_lock(self.path), staging(self.path, overwrite=True) as folder:
            compose(folder, self.path, cube, site, clock)
            commit()
            clock.__enter__()
        clock.__exit__()

    def open(self) -> xr.Dataset:
        return open_store(self.path, kind="cube", dask=False)


class Icechunk:
    """Snapshots in a repository of Icechunk."""

    def __init__(self, path: Path) -> None:
        import icechunk

        self.path = path.with_suffix(".icechunk")
        self.repository = icechunk.Repository.open_or_create(icechunk.local_filesystem_storage(str(self.path)))

    @property
    def plain(self) -> object:
        return self.path

    def build(self, cube: Cube, clock: Clock) -> None:
        with clock:
            session = self.repository.writable_session("main")
            group, coords = zarr.create_group(session.store, attributes=ATTRS), cube.coords
            group.update_attributes(listed(coords))
            for name, coord in coords.coords.items():
                bounds = f"{name}_bnds" if f"{name}_bnds" in coords.coords else None
                arrays._write_coord(group, str(name), coord, bounds)
            for name, spec in cube.specs.items():
                arrays._create_array(group, name, spec)
        write_all(group, cube, place(cube), clock)
        with clock:
            session.commit("build")

    def append(self, cube: Cube, site: int, clock: Clock, commit: Callable[[], None]) -> None:
        """Append at the end: sorting moves no chunk, but would rewrite the references to all of them."""
        with clock:
            session = self.repository.writable_session("main")
            group, at = zarr.open_group(session.store, mode="r+"), len(cube.sites)
            coords = Cube(cube.path, (*cube.sites, site)).coords
            for name in [str(name) for name in coords.coords if coords[name].dims == ("site",)]:
                del group[name]
                arrays._write_coord(group, name, coords[name], None)
            for name in cube.specs:
                group[name].resize((at + 1, *group[name].shape[1:]))
        write_all(group, cube, {site: at}, clock)
        with clock:
            commit()
            session.commit("append")

    def open(self) -> xr.Dataset:
        ds = decoded(self.repository.readonly_session("main").store)
        return ds.isel(site=np.argsort(ds.site.values))


WAYS = {"in place": InPlace, "generations": Generations, "replaced": Replaced, "icechunk": Icechunk}


def files(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for folder, _, names in os.walk(path.parent):
        for name in names:
            if path.name in Path(folder, name).relative_to(path.parent).parts[0]:
                yield Path(folder, name), os.lstat(Path(folder, name))


def state(path: Path) -> dict[tuple[int, int], int]:
    """Return the size of each file on the disk, by its number and its time of change; hard links count once."""
    return {(about.st_ino, about.st_mtime_ns): about.st_size for _, about in files(path)}


def best(job: Callable[[], object]) -> float:
    """Return the shortest CPU time of a call, in ms."""
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        job()
        times.append(time.process_time() - start)
    return 1e3 * min(times)


def year_of(ds: xr.Dataset, at: int) -> xr.Dataset:
    """Return a year of a site."""
    start = np.searchsorted(ds.time.values, ds.time_start.values[at])
    return ds.isel(site=at, time=slice(start, start + 8766))


def outcome(job: Callable[[], object]) -> str:
    """Return what a call returns as text, or the name of its error."""
    try:
        return str(job())
    except StoreError:
        return "StoreError"
    except (ValueError, KeyError, OSError, TypeError) as error:
        return type(error).__name__


def compare(ds: xr.Dataset, truth: xr.Dataset) -> str:
    """Return how many sites have values other than those of the truth, which has the sites that were opened."""
    places = {str(site): at for at, site in enumerate(truth.site.values)}
    wrong = 0
    for at, site in enumerate(ds.site.values):
        ours, theirs = year_of(ds, at).fluxes.load(), year_of(truth, places[str(site)]).fluxes.load()
        wrong += not np.array_equal(ours.values, theirs.values, equal_nan=True)
    return f"{wrong} of {ds.sizes['site']} sites wrong"


def plain_sites(way: object) -> int:
    """Return the number of sites that xarray alone opens, and compare the arrays with the coordinates."""
    zarr.open_group(way.plain, mode="r", zarr_format=3)
    return xr.open_zarr(way.plain, consolidated=False, zarr_format=3).sizes["site"]


def killed(name: str, cube: Path, path: Path, packages: str) -> None:
    """Append in a process that is killed before it commits."""
    code = [sys.executable, __file__, str(cube), str(path.parent), "--packages", packages, "--kill", name]
    assert subprocess.run(code).returncode == -9


def run(name: str, cube: Cube, site: int, folder: Path, packages: str) -> dict[str, str]:
    way, clock = WAYS[name](folder / name.replace(" ", "")), Clock()
    way.build(cube, clock)
    sizes = state(way.path)
    out = {
        "size (MB)": f"{sum(sizes.values()) / 1e6:.1f}",
        "files": f"{len(sizes)}",
        "build, CPU (s)": f"{clock.cpu:.1f}",
        "build, wall (s)": f"{clock.wall:.1f}",
        "plain readers": outcome(lambda: f"{plain_sites(way)} sites"),
    }
    early = way.open()
    first, truth = early.isel(site=0).load(), open_store(cube.path, kind="cube", dask=False)
    killed(name, cube.path, way.path, packages)
    left = state(way.path)
    out["after a kill: files left"] = f"{len(left.keys() - sizes.keys())}"
    out["after a kill: reader"] = outcome(lambda: f"{way.open().sizes['site']} sites")
    out["after a kill: plain readers"] = outcome(lambda: f"{plain_sites(way)} sites")
    clock = Clock()
    way.append(cube, site, clock, lambda: None)
    after = state(way.path)
    fresh = after.keys() - left.keys()
    out["append, CPU (s)"] = f"{clock.cpu:.2f}"
    out["append, wall (s)"] = f"{clock.wall:.2f}"
    out["append, files written"] = f"{len(fresh)}"
    out["append, MB written"] = f"{sum(after[key] for key in fresh) / 1e6:.2f}"
    out["opened before, read after"] = outcome(lambda: compare(early, truth))
    out["opened after"] = outcome(lambda: compare(way.open(), truth))
    out["open, CPU (ms)"] = f"{best(way.open):.0f}"
    late = way.open()
    out["site-year, CPU (ms)"] = f"{best(lambda: year_of(late, 5).load()):.0f}"
    assert first.sizes["time"] == truth.sizes["time"]
    return out


def main(path: Path, folder: Path, packages: str, kill: str) -> None:
    if packages:
        sys.path.append(packages)
    with open_store(path, kind="cube", dask=False) as ds:
        everything = range(ds.sizes["site"])
    new = len(everything) // 3  # a site whose name sorts among the others
    cube = Cube(path, tuple(site for site in everything if site != new))
    if kill:
        way = WAYS[kill](folder / kill.replace(" ", ""))
        way.append(cube, new, Clock(), lambda: os.kill(os.getpid(), 9))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    results = {name: run(name, cube, new, folder, packages) for name in WAYS if name != "icechunk" or packages}
    print("| |" + "".join(f" {name} |" for name in results))
    print("|---|" + "---:|" * len(results))
    for key in next(iter(results.values())):
        print(f"| {key} |" + "".join(f" {result[key]} |" for result in results.values()), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cube", type=Path, help="a cube")
    parser.add_argument("folder", type=Path, help="where to write; it is removed first")
    parser.add_argument("--packages", default="", help="folder of Icechunk")
    parser.add_argument("--kill", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    main(arguments.cube, arguments.folder, arguments.packages, arguments.kill)
