"""Count the requests and bytes that FLUXCOM-X-BASE at the towers of its own list costs, and the time of one tower.

    python benchmarks/products.py [--towers 294] [--folder DIR]

The chunks that the towers' cells are in follow from the layout of the public store (7670 days x 24 hours x 3600 x 7200
cells, chunks of 1461 x 24 x 40 x 40). They are counted with a store on a local web server that has the same cells and
as many chunks, but chunks of 8 days; and ten years of one tower are read from chunks of the true size.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import xarray as xr

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("tests/helpers", "tests")]

from services.arco import ZarrService  # noqa: E402
from xbase import CHUNKS, SHAPE, cell_of, write_store  # noqa: E402

from fluxcube.knownsites import known_sites  # noqa: E402
from fluxcube.samples.site_lists import site_list  # noqa: E402
from fluxcube.sources.products.at_sites import read_at_sites  # noqa: E402

#: Size of one flux in the public store as its authors state it, of all chunks together (bytes).
STATED = 3e12


def towers(count: int) -> xr.Dataset:
    """Places of the first training sites of X-BASE that are known, ten metres off cell borders."""
    known = known_sites().set_index("site")
    sites = [site for site in site_list("xbase") if site in known.index][:count]
    places = {name: ("site", known.loc[sites, name].to_numpy(float) + 1e-4) for name in ("latitude", "longitude")}
    return xr.Dataset(coords={"site": np.array(sites, object), **places})


def main(count: int, folder: Path) -> None:
    sites = towers(count)
    cells = [cell_of(*place) for place in zip(sites.latitude.values, sites.longitude.values, strict=True)]
    tiles = {(row // CHUNKS[2], column // CHUNKS[3]) for row, column in cells}
    blocks = -(-SHAPE[0] // CHUNKS[0])
    every = blocks * (SHAPE[2] // CHUNKS[2]) * (SHAPE[3] // CHUNKS[3])
    chunks, chunk = blocks * len(tiles), int(np.prod(CHUNKS)) * 4
    print(f"{len(cells)} towers are in {len(tiles)} tiles of 2 degrees: {chunks} of {every} chunks of each flux")
    print(f"  21 years of one flux: {chunks} requests, {chunks * chunk / 1e9:.0f} GB decoded")
    print(f"  as sent: {chunks * STATED / every / 1e9:.0f} GB if all chunks of the 3 TB were of one size, or more,")
    print("  since chunks over the sea are small or missing")

    layout = {"shape": (8 * blocks, 24, *SHAPE[2:]), "chunks": (8, 24, *CHUNKS[2:])}
    start = time.perf_counter()
    write_store(folder / "short" / "NEE", "NEE", cells, range(blocks), **layout)
    print(f"(wrote {chunks} chunks of 8 days in {time.perf_counter() - start:.0f} s)")
    with ZarrService(folder) as service:
        start = time.perf_counter()
        found = read_at_sites(f"{service.url}/short/NEE", sites)
        taken = time.perf_counter() - start
        requests = service.asked(r"/NEE/NEE/\d", method="GET")
    assert found.NEE.notnull().all()
    assert len(requests) == len({request.path for request in requests}) == chunks
    other = found.attrs["requests"] - chunks - len(tiles)
    print(f"  counted: {len(requests)} requests of chunks, {len(tiles)} of land fraction, {other} of axes and metadata")
    print(f"  {taken:.1f} s, {taken / chunks * 1e3:.1f} ms a chunk of 1.2 MB")

    write_store(folder / "full" / "NEE", "NEE", cells[:1], (1, 2, 3))
    with ZarrService(folder) as service:
        start = time.perf_counter()
        found = read_at_sites(f"{service.url}/full/NEE", sites.isel(site=[0]), time=slice("2005", "2014"))
        taken = time.perf_counter() - start
        requests = service.asked(r"/NEE/NEE/\d", method="GET")
    assert found.NEE.notnull().all() and len(requests) == 3
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"one tower, 2005 to 2014: {len(requests)} chunks of {chunk / 1e6:.0f} MB, {taken:.1f} s, {peak:.2f} GB RAM")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--towers", type=int, default=294)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.folder is not None:
        main(arguments.towers, arguments.folder)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(arguments.towers, Path(temporary))
