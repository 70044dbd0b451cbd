"""Compare `fluxcube.decimals` with the codecs of zarr and numcodecs: size, write and read speed, exactness, openness.

    python benchmarks/codecs.py ../shared/data/towers [--sites 109]

Two cubes are built from the same towers, the default one and a compact one. Every codec then stores the float32 arrays
(predictors and fluxes) in the cube's own chunks and shards, site by site, all codecs in turn on each site, so that a
busy machine slows all of them alike. Codecs other than the first two store the values of the compact cube, which have
the decimals of the source file (`fluxcube.decimals.snap`). Sizes and CPU times of the process are compared with the
first line, the default layout. "exact" reports whether every bit came back; "NaN" reports whether missing values did.
"open" reports who can read the store: "zarr" is any reader of Zarr format 3, "numcodecs" needs zarr-python with
numcodecs, "pcodec" needs the package pcodec as well, and "fluxcube" needs fluxcube. PCodec is skipped where the package
pcodec is not installed. Limit: decimals keeps its place while it is exact and at least 10 % smaller than every exact
codec that opens without fluxcube.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import BloscCodec, TransposeCodec, ZstdCodec
from zarr.codecs import numcodecs as wrapped
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import NDBuffer

sys.path.insert(0, str(Path(__file__).parent))
from store import size_of, spread

import fluxcube as fc
from fluxcube.cubes.layout import CHUNK
from fluxcube.decimals import DecimalColumns
from fluxcube.schema import STACKS

#: Steps per unit of the codecs with one scale for a whole array: half-hourly values of three decimals, averaged.
SCALE = 2000


@dataclass(frozen=True)
class Codec:
    """A way to store an array.

    Attributes
    ----------
    make : callable
        Return the arguments `filters`, `serializer` and `compressors` of `zarr.create_array`.
    open_with : str
        What a reader needs.
    cube : str
        The cube whose values it stores.
    """

    make: Callable[[], dict[str, object]]
    open_with: str
    cube: str = "compact"


def blosc(shuffle: str = "shuffle", level: int = 5, typesize: int = 4) -> list[BloscCodec]:
    return [BloscCodec(cname="zstd", clevel=level, shuffle=shuffle, typesize=typesize)]


class Transpose(TransposeCodec):
    """The transpose codec of zarr, with a contiguous copy of each chunk.

    The codec of zarr passes a view. The codecs of numcodecs that flatten their input (PCodec, FixedScaleOffset, Delta)
    flatten a view in the order of memory, which undoes the transposition, so that the values return in a wrong order.
    """

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> NDBuffer:
        view = chunk_array.transpose(np.array(self.order)).as_ndarray_like()
        return chunk_spec.prototype.nd_buffer.from_ndarray_like(np.ascontiguousarray(view))


def columns(*filters: object) -> list[object]:
    """Filters of an array (site, time, variable) with time innermost, as the default layout has it."""
    return [Transpose(order=(0, 2, 1)), *filters]


def fixed() -> object:
    return wrapped.FixedScaleOffset(scale=SCALE, offset=0, dtype="<f4", astype="<i4")


CODECS = {
    "float32, shuffle, zstd 5 (default)": Codec(
        lambda: {"filters": columns(), "compressors": blosc()}, "zarr", "floats"
    ),
    "decimals, values not snapped": Codec(
        lambda: {"filters": None, "serializer": DecimalColumns(), "compressors": None}, "fluxcube", "floats"
    ),
    "decimals (compact=True)": Codec(
        lambda: {"filters": None, "serializer": DecimalColumns(), "compressors": None}, "fluxcube"
    ),
    "snapped, shuffle, zstd 5": Codec(lambda: {"filters": columns(), "compressors": blosc()}, "zarr"),
    "snapped, shuffle, zstd 9": Codec(lambda: {"filters": columns(), "compressors": blosc(level=9)}, "zarr"),
    "snapped, bit shuffle, zstd 5": Codec(lambda: {"filters": columns(), "compressors": blosc("bitshuffle")}, "zarr"),
    "snapped, zstd 9 without shuffle": Codec(
        lambda: {"filters": columns(), "compressors": [ZstdCodec(level=9)]}, "zarr"
    ),
    "snapped, shuffle, LZMA 6": Codec(
        lambda: {"filters": columns(), "compressors": [wrapped.Shuffle(elementsize=4), wrapped.LZMA(preset=6)]},
        "numcodecs",
    ),
    f"FixedScaleOffset {SCALE}, shuffle, zstd 5": Codec(
        lambda: {"filters": columns(fixed()), "compressors": blosc()}, "numcodecs"
    ),
    f"FixedScaleOffset {SCALE}, Delta, shuffle, zstd 5": Codec(
        lambda: {"filters": columns(fixed(), wrapped.Delta(dtype="<i4")), "compressors": blosc()}, "numcodecs"
    ),
    "Quantize 3 digits, shuffle, zstd 5": Codec(
        lambda: {"filters": columns(wrapped.Quantize(digits=3, dtype="<f4")), "compressors": blosc()}, "numcodecs"
    ),
    "snapped, PCodec level 8": Codec(
        lambda: {"filters": columns(), "serializer": wrapped.PCodec(level=8), "compressors": None}, "pcodec"
    ),
    "snapped, PCodec level 8, a page per column": Codec(
        lambda: {
            "filters": columns(),
            "serializer": wrapped.PCodec(level=8, equal_pages_up_to=CHUNK),
            "compressors": None,
        },
        "pcodec",
    ),
}


@dataclass
class Cost:
    """What a codec cost so far: bytes on disk, CPU seconds, and whether bits and missing values came back."""

    size: int = 0
    write: float = 0.0
    read: float = 0.0
    exact: bool = True
    missing: bool = True


def try_codec(folder: Path, codec: Codec, like: zarr.Array, values: np.ndarray, cost: Cost) -> None:
    """Write the values of one site (1, time, variable), read them back, and add to the cost."""
    shape = (1, -(-len(values[0]) // like.chunks[1]) * like.chunks[1], values.shape[2])
    array = zarr.create_array(
        folder / "x",
        shape=shape,
        dtype="float32",
        chunks=like.chunks,
        shards=shape,
        fill_value=np.nan,
        overwrite=True,
        config={"write_empty_chunks": False},
        **codec.make(),
    )
    padded = np.full(shape, np.nan, np.float32)
    padded[:, : values.shape[1]] = values
    start = time.process_time()
    array[...] = padded
    cost.write += time.process_time() - start
    start = time.process_time()
    back = np.asarray(array[...])
    cost.read += time.process_time() - start
    cost.size += size_of(folder, "x")
    cost.exact &= np.array_equal(back.view(np.uint32), padded.view(np.uint32))
    cost.missing &= np.array_equal(np.isnan(back), np.isnan(padded))


def compare(folder: Path) -> dict[str, Cost]:
    installed = importlib.util.find_spec("pcodec") is not None
    costs = {name: Cost() for name, codec in CODECS.items() if installed or codec.open_with != "pcodec"}
    ds = fc.open_carbonsense(folder / "floats.zarr")
    first = np.datetime64("1980-01-01", "h")
    start, stop = (
        ((ds[f"time_{end}"].values - first) / np.timedelta64(1, "h")).astype(int) for end in ("start", "stop")
    )
    for stack in STACKS:
        arrays = {cube: zarr.open_array(folder / f"{cube}.zarr" / stack, mode="r") for cube in ("floats", "compact")}
        for site in range(len(start)):
            values = {cube: np.asarray(a[site : site + 1, start[site] : stop[site]]) for cube, a in arrays.items()}
            for name, cost in costs.items():
                codec = CODECS[name]
                try_codec(folder, codec, arrays["floats"], values[codec.cube], cost)
    return costs


def snapping(folder: Path) -> tuple[float, float]:
    """Return the share of values that snapping changes, and the largest change relative to the variable's maximum."""
    changed = count = 0
    largest = 0.0
    floats, compact = (fc.open_carbonsense(folder / f"{cube}.zarr") for cube in ("floats", "compact"))
    for stack in STACKS:
        for site in range(floats.sizes["site"]):
            one, other = (ds[stack].isel(site=site).values.astype(float) for ds in (floats, compact))
            observed, change = np.isfinite(one), np.abs(np.nan_to_num(one - other))
            maximum = np.abs(np.nan_to_num(one)).max(0)
            changed, count = changed + int((change > 0).sum()), count + int(observed.sum())
            largest = max(largest, float((change / np.where(maximum > 0, maximum, 1)).max()))
    return changed / count, largest


def show(costs: dict[str, Cost]) -> None:
    first = next(iter(costs.values()))
    print(f"{'codec':<46} {'MB':>8} {'size':>6} {'write':>6} {'read':>6}  exact  NaN  open")
    for name, cost in costs.items():
        ratios = f"{cost.size / first.size:6.3f} {cost.write / first.write:6.2f} {cost.read / first.read:6.2f}"
        yes = ["yes" if flag else "no" for flag in (cost.exact, cost.missing)]
        print(f"{name:<46} {cost.size / 1e6:8.2f} {ratios}  {yes[0]:<5}  {yes[1]:<3}  {CODECS[name].open_with}")
    print(f"default: {first.write:.1f} s CPU to write and {first.read:.1f} s to read")
    if len(costs) < len(CODECS):
        print("PCodec was not measured: the package pcodec is not installed.")


def main(raw: Path, sites: int | None) -> None:
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        names = None if sites is None else spread(raw, sites)
        for cube in ("floats", "compact"):
            fc.build_carbonsense(raw, Path(scratch) / f"{cube}.zarr", sites=names, compact=cube == "compact")
        show(compare(Path(scratch)))
        share, largest = snapping(Path(scratch))
        print(
            f"snapping changes {share:.1%} of the values, by at most {largest:.2g} of the variable's maximum at a site"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--sites", type=int, help="build from this number of sites, spread over the list; default all")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="invalid value encountered in cast")  # NaN through FixedScaleOffset
    warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr version 3 specification")
    main(arguments.raw, arguments.sites)
