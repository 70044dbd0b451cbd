"""Write the raw files of a planet: all data from which its fluxes are to be learned."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

from fluxcube.simulation import grids, reflectance, towers
from fluxcube.simulation.instruments import batches
from fluxcube.simulation.places import Tower
from fluxcube.simulation.planet import Planet

_WORKERS = 2  # numpy, zlib and GDAL release the interpreter's lock, so threads run in parallel
#: Text, function and arguments of a part of the files.
_Job = tuple[str, Callable[..., object], tuple]


def write_raw(
    planet: Planet,
    folder: str | Path,
    *,
    quick: bool = False,
    views: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Path:
    """Write towers, ERA5, MODIS and land cover of a planet in their providers' formats, without the true fluxes.

    Parameters
    ----------
    planet : Planet
    folder : path
        Folder in which ``raw/towers``, ``raw/era5``, ``raw/modis`` and ``raw/land_cover`` are written.
    quick : bool
        Fewer towers, a smaller region and four months, as ``Planet(seed, quick=True)``.
    views : int, optional
        Also write surface reflectance of each n-th day, in ``raw/reflectance`` (`write_reflectance`).
    progress : callable, optional
        Called as ``progress(done, total, text)`` after each job.

    Returns
    -------
    Path
        ``folder/raw``.
    """
    planet = replace(planet, quick=planet.quick or quick)
    raw = Path(folder) / "raw"
    jobs: list[_Job] = [
        ("MODIS of the region", grids.write_region_modis, (planet, raw / "modis")),
        ("ERA5", grids.write_era5, (planet, raw / "era5")),
        ("land cover", grids.write_land_cover, (planet, raw / "land_cover")),
        ("site descriptions", towers.write_badm, (planet, raw / "towers")),
        *((_sites(batch), _write_sites, (planet, batch, raw)) for batch in batches(planet)),
    ]
    if views is not None:
        jobs = _reflectance_jobs(planet, raw / "reflectance", views) + jobs
    _run(jobs, progress)
    return raw


def write_towers(
    planet: Planet, folder: str | Path, *, progress: Callable[[int, int, str], None] | None = None
) -> Path:
    """Write every tower's zips and the sites' descriptions into `folder`; return it."""
    jobs = [(_sites(batch), towers.write_records, (planet, batch, folder)) for batch in batches(planet)]
    _run([("site descriptions", towers.write_badm, (planet, folder)), *jobs], progress)
    return Path(folder)


def write_modis(planet: Planet, folder: str | Path, *, progress: Callable[[int, int, str], None] | None = None) -> Path:
    """Write the MODIS files of the region and of every tower into `folder`; return it."""
    jobs = [
        (f"MODIS of {_sites(batch)}", grids.write_tower_modis, (planet, batch, folder)) for batch in batches(planet)
    ]
    _run([("MODIS of the region", grids.write_region_modis, (planet, folder)), *jobs], progress)
    return Path(folder)


def write_reflectance(
    planet: Planet,
    folder: str | Path,
    *,
    every: int = 1,
    progress: Callable[[int, int, str], None] | None = None,
) -> Path:
    """Write MOD09GA, daily surface reflectance, of the region and of every tower into `folder`; return it.

    Parameters
    ----------
    planet : Planet
    folder : path
        Created if missing.
    every : int
        Write each n-th day only. The region takes about 0.7 s and 6 MB per day.
    progress : callable, optional
        Called as ``progress(done, total, text)`` after each job.

    Returns
    -------
    Path
        `folder`.
    """
    _run(_reflectance_jobs(planet, Path(folder), every), progress)
    return Path(folder)


def _reflectance_jobs(planet: Planet, folder: Path, every: int) -> list[_Job]:
    region = functools.partial(reflectance.write_region_reflectance, every=every)
    of_towers = functools.partial(reflectance.write_tower_reflectance, every=every)
    towers = [(f"MOD09GA of {_sites(batch)}", of_towers, (planet, batch, folder)) for batch in batches(planet)]
    return [("MOD09GA of the region", region, (planet, folder)), *towers]


def _sites(batch: Sequence[Tower]) -> str:
    return f"towers {', '.join(tower.site for tower in batch)}"


def _write_sites(planet: Planet, batch: Sequence[Tower], raw: Path) -> None:
    towers.write_records(planet, batch, raw / "towers")
    grids.write_tower_modis(planet, batch, raw / "modis")


def _run(jobs: Sequence[_Job], progress: Callable[[int, int, str], None] | None) -> None:
    """Run all jobs (text, function, arguments), two at a time; no job depends on another."""
    with ThreadPoolExecutor(_WORKERS) as pool:
        waiting = {pool.submit(work, *arguments): text for text, work, arguments in jobs}
        for done, future in enumerate(as_completed(waiting), 1):
            future.result()
            if progress:
                progress(done, len(jobs), waiting[future])
