"""Small valid files of every format of others that fluxcube reads, and functions that read all of their values."""

import gzip
import hashlib
import io
import pickle
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))

from grib_files import write_grib
from modis_files import A4, nadir, name_of, tile_of, write_hdf, write_tiff

import fluxcube as fc
from fluxcube.simulation.archives import write_archive, write_bif
from fluxcube.simulation.published import write_v1, write_v2
from fluxcube.simulation.records import Place, simulate_record
from fluxcube.sources.era5.variables import open_era5
from fluxcube.sources.modis.rasters import find_tiles, read_tile
from fluxcube.sources.towers.badm import read_badm
from fluxcube.sources.towers.discovery import discover
from fluxcube.sources.towers.readers import chips_of, place_of, read_archive
from fluxcube.sources.towers.table import read_table

PLACE = Place(site="US-Zzz", latitude=40.0, longitude=-90.0, utc_offset=-6.0)
CORNER = (9900, 43500)


@dataclass(frozen=True)
class Format:
    """Files of a valid input, the one that is changed, and how the input is read.

    Attributes
    ----------
    files : dict of str to bytes
        By path in the folder.
    changed : str
    read : callable
        Receives the folder; returns a digest of all values, and texts that the reader reports about what it left aside.
    checked : bool
        Whether the format has checksums of the values.
    cost : int
        How many mutations of the cheapest format take as long as one of this.
    """

    files: dict
    changed: str
    read: object
    checked: bool = False
    cost: int = 1


def digest(*datasets):
    out = hashlib.sha256()
    for ds in datasets:
        for name in sorted(map(str, ds.variables)):
            values = np.ascontiguousarray(ds[name].values)
            out.update(f"{name} {values.dtype} {values.shape}".encode())
            out.update(str(values.tolist()).encode() if values.dtype.kind == "O" else values.tobytes())
    return out.hexdigest()


def read_towers(folder):
    """Read every archive that is found: its hours, its place and its images."""
    found = discover(folder)
    notes, parts = [why for _, why in found.ignored], []
    for archive in found.archives:
        with_place = archive.site == PLACE.site
        parts.append(digest(read_archive(archive, utc_offset=-6.0)))
        parts.append(str(place_of(archive)) if with_place else "")
        if (chips := chips_of(archive)) is not None:
            parts.append(hashlib.sha256(chips[0].tobytes() + chips[1].tobytes()).hexdigest())
    return "".join(parts), notes


def read_places(folder):
    found = discover(folder)
    return repr(sorted(read_badm(found.badm).items())), [why for _, why in found.ignored]


def read_own(folder):
    (path,) = [path for path in folder.iterdir() if path.name.startswith("own")]
    units = {"TA": "degC", "NEE": "umol m-2 s-1", "SW_IN": "W m-2"}
    names = {name: name for name in units}
    return digest(
        read_table(
            path, site="US-Zzz", utc_offset=-6, columns=names, units=units, latitude=40, longitude=-90, stamp="end"
        )
    ), []


def read_weather(folder):
    (path,) = folder.iterdir()
    return digest(open_era5(path, accumulation="hour", check=False).compute(scheduler="synchronous")), []


def read_rasters(folder):
    tiles = find_tiles(folder)
    return "".join(hashlib.sha256(read_tile(tile).tobytes()).hexdigest() for tile in tiles) + str(len(tiles)), []


def read_reflectance(folder):
    (path,) = folder.iterdir()
    return digest(fc.read_surface(path)), []


def read_product(folder):
    (path,) = folder.iterdir()
    return digest(fc.open_product(path, "cf").compute(scheduler="synchronous")), []


def in_folder(root, write):
    """Return the files that a function writes into a folder."""
    root.mkdir(parents=True)
    write(root)
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def weather():
    time = np.datetime64("2019-07-01T00", "ns") + np.arange(48) * np.timedelta64(1, "h")
    rng = np.random.default_rng(0)
    light = 3.6e6 * np.maximum(0, np.sin(2 * np.pi * (np.arange(48) - 6.5) / 24))
    fields = {"t2m": (280, "K"), "d2m": (275, "K"), "sp": (9e4, "Pa"), "ssrd": (0, "J m**-2")}
    ds = xr.Dataset(coords={"time": time, "latitude": [47.25, 47.0], "longitude": [7.0, 7.25, 7.5]})
    for name, (mean, units) in fields.items():
        noise = rng.random((48, 2, 3))
        values = light[:, None, None] * (0.5 + noise / 2) if name == "ssrd" else mean + noise
        ds[name] = (("time", "latitude", "longitude"), values.astype("f4"), {"units": units})
    return ds


def as_netcdf(ds, root, name, **options):
    path = root / name
    ds.to_netcdf(path, engine="netcdf4", **options)
    data = path.read_bytes()
    path.unlink()
    return data


def zipped(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def tower_formats(root):
    record = simulate_record(PLACE, "2012-06-01", days=3)
    hourly = simulate_record(PLACE, "2012-06-01", days=2, step_minutes=60)
    out = {}
    for form, ending in (("zip", ".zip"), ("gzip", "_HH_2012-2012_1-4.csv.gz"), ("folder", "_HH_2012-2012_1-4.csv")):
        files = in_folder(
            root / form, lambda path, form=form: write_archive(path, "FLUXNET2015", record, place=PLACE, form=form)
        )
        changed = next(name for name in files if name.endswith(ending) and "ERAI" not in name)
        out[f"tower archive, {form}"] = Format({changed: files[changed]}, changed, read_towers, form != "folder")
    chips = {pd.Timestamp(2012, 6, 1, 12): np.full((9, 8, 8), 0.2, np.float32)}
    v1 = in_folder(
        root / "v1", lambda path: write_v1(path / "carbonsense", hourly, PLACE, dump=pickle.dumps, chips=chips)
    )
    pickled = next(name for name in v1 if name.endswith("modis.pkl"))
    out["CarbonSense V1, pickle"] = Format(v1, pickled, read_towers)
    for ending, mode in (("tar", "w"), ("tar.gz", "w:gz")):
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode=mode) as tar:
            tar.add(root / "v1" / "carbonsense", "carbonsense")
        name = f"carbonsense.{ending}"
        out[f"CarbonSense V1, {ending}"] = Format({name: data.getvalue()}, name, read_towers, ending == "tar.gz")
    write_v2(root / "v2" / "carbonsense_v2.sql", [(PLACE, hourly)])
    v2 = {"carbonsense_v2.sql": (root / "v2" / "carbonsense_v2.sql").read_bytes()}
    out["CarbonSense V2, SQLite"] = Format(v2, "carbonsense_v2.sql", read_towers)
    return out


def metadata_formats(root):
    record = simulate_record(PLACE, "2012-06-01", days=1)
    bif = in_folder(root / "bif", lambda path: write_bif(path, [PLACE]))
    icos = in_folder(
        root / "badm", lambda path: write_archive(path, "AmeriFlux FLUXNET", record, place=PLACE, form="folder")
    )
    sheet = next(name for name in icos if name.endswith(".xlsx"))
    times = pd.date_range("2018-06-01 00:30", periods=96, freq="30min")
    frame = pd.DataFrame({"TIMESTAMP": times, "TA": 10.0 + np.arange(96) % 7, "NEE": -1.5, "SW_IN": 100.0})
    sites = b"site_id,latitude,longitude,elevation,igbp,utc_offset\nUS-Zzz,40.0,-90.0,120,DBF,-6\n"
    book = io.BytesIO()
    frame.to_excel(book, index=False)
    return {
        "metadata, BIF": Format(bif, next(iter(bif)), read_places),
        "metadata, XLSX": Format({sheet: icos[sheet]}, sheet, read_places, True),
        "metadata, sites.csv": Format({"sites.csv": sites}, "sites.csv", read_places),
        "own table, CSV": Format({"own.csv": frame.to_csv(index=False).encode()}, "own.csv", read_own),
        "own table, gzip": Format(
            {"own.csv.gz": gzip.compress(frame.to_csv(index=False).encode(), mtime=0)}, "own.csv.gz", read_own, True
        ),
        "own table, XLSX": Format({"own.xlsx": book.getvalue()}, "own.xlsx", read_own, True, 3),
    }


def grid_formats(root):
    root.mkdir(parents=True)
    ds = weather()
    packed = {name: {"zlib": True, "shuffle": True} for name in ds.data_vars}
    four = as_netcdf(ds, root, "a.nc", encoding=packed)
    out = {
        "ERA5, NetCDF-4": Format({"era5.nc": four}, "era5.nc", read_weather, cost=25),
        "ERA5, NetCDF classic": Format(
            {"era5.nc": as_netcdf(ds, root, "b.nc", format="NETCDF3_64BIT")}, "era5.nc", read_weather, cost=12
        ),
        "ERA5, zip of NetCDF": Format({"era5.zip": zipped({"era5.nc": four})}, "era5.zip", read_weather, True, 8),
        "ERA5, GRIB": Format(
            {"era5.grib": write_grib(root / "a.grib", ds.isel(time=slice(0, 26))).read_bytes()},
            "era5.grib",
            read_weather,
            cost=40,
        ),
    }
    days = pd.date_range("2018-07-01", periods=12)
    values = np.round(np.linspace(0.01, 0.4, 84), 4).reshape(12, 7)
    frame = pd.DataFrame({"site": "DE-Hai", "date": days.strftime("%Y-%m-%d"), "lat": 51.08, "lon": 10.45})
    frame = frame.assign(**{f"b{i + 1:02d}": values[:, i] for i in range(7)})
    series = fc.read_surface(write(root / "surface.csv", frame.to_csv(index=False).encode()))
    maps = xr.Dataset(
        {"NEE": (("time", "lat", "lon"), np.ones((12, 4, 5), "f4"), {"units": "gC m-2 d-1"})},
        {"time": pd.date_range("2012-01-01", periods=12, freq="MS"), "lat": np.arange(4.0), "lon": np.arange(5.0)},
    )
    return out | {
        "reflectance, CSV": Format(
            {"own.csv": frame.to_csv(index=False).encode()}, "own.csv", read_reflectance, cost=2
        ),
        "reflectance, NetCDF": Format({"own.nc": as_netcdf(series, root, "c.nc")}, "own.nc", read_reflectance, cost=25),
        "product, NetCDF": Format({"maps.nc": as_netcdf(maps, root, "d.nc")}, "maps.nc", read_product, cost=25),
    }


def raster_formats(root):
    root.mkdir(parents=True)
    values = np.arange(7 * 20 * 20, dtype="int16").reshape(7, 20, 20) % 9000
    tile = tile_of(CORNER)
    corner = CORNER[0] // 2400 * 2400, CORNER[1] // 2400 * 2400
    hdf = name_of("MCD43A4", "2019-07-04", tile)
    tif = hdf.replace(".hdf", ".tif")
    return {
        "MODIS, GeoTIFF": Format(
            {tif: write_tiff(root / tif, values, CORNER, names=A4).read_bytes()}, tif, read_rasters
        ),
        "MODIS, HDF4": Format(
            {hdf: write_hdf(root / hdf, [nadir(values, corner)]).read_bytes()}, hdf, read_rasters, cost=40
        ),
    }


def write(path, data):
    path.write_bytes(data)
    return path


def formats(root):
    """Return every format by name; files are written below a folder and read back.

    Their order is fixed, since the seed of a mutation contains its format.
    """
    return {
        **tower_formats(root / "towers"),
        **metadata_formats(root / "metadata"),
        **grid_formats(root / "grids"),
        **raster_formats(root / "rasters"),
    }
