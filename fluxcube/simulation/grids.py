"""Write the planet's grids in their providers' formats: ERA5 as from the CDS, MODIS composites, land cover."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fluxcube.errors import missing_package
from fluxcube.simulation import sinusoidal
from fluxcube.simulation.places import Region, Tower
from fluxcube.simulation.planet import Planet
from fluxcube.simulation.surface import Ground, Scene, region_ground, region_scenes, tower_scenes
from fluxcube.simulation.weather import elevation
from fluxcube.stores.files import replacing
from fluxcube.timestamps import HOUR

if TYPE_CHECKING:
    import netCDF4
    import rasterio.io

# name: (long name, units, paramId, CF name, step type)
_ERA5 = {
    "t2m": ("2 metre temperature", "K", 167, "unknown", "instant"),
    "d2m": ("2 metre dewpoint temperature", "K", 168, "unknown", "instant"),
    "sp": ("Surface pressure", "Pa", 134, "surface_air_pressure", "instant"),
    "u10": ("10 metre U wind component", "m s**-1", 165, "unknown", "instant"),
    "v10": ("10 metre V wind component", "m s**-1", 166, "unknown", "instant"),
    "ssrd": (
        "Surface short-wave (solar) radiation downwards",
        "J m**-2",
        169,
        "surface_downwelling_shortwave_flux_in_air",
        "accum",
    ),
    "strd": ("Surface long-wave (thermal) radiation downwards", "J m**-2", 175, "unknown", "accum"),
    "tp": ("Total precipitation", "m", 228, "unknown", "accum"),
    "z": ("Geopotential", "m**2 s**-2", 129, "geopotential", "instant"),
    "lsm": ("Land-sea mask", "(0 - 1)", 172, "land_binary_mask", "instant"),
}
#: Fields that do not change.
STATIC = ("z", "lsm")
_STREAM = {"instant": "data_stream-oper_stepType-instant.nc", "accum": "data_stream-oper_stepType-accum.nc"}
_INTERVAL = np.timedelta64(8, "D")  # between composites


def write_era5(planet: Planet, folder: str | Path) -> list[Path]:
    """Write hourly ERA5 of the region as the CDS delivers it since 2024.

    Instantaneous fields are those at `valid_time`; radiation and rain are accumulated over the hour that ends there.

    Parameters
    ----------
    planet : Planet
    folder : path
        Created if missing.

    Returns
    -------
    list of Path
        The files of instantaneous fields, of accumulations, and of geopotential and land mask.
    """
    folder = create_folder(folder)
    cells = planet.region
    valid = np.arange(planet.forcing_start, planet.period[1] + HOUR, HOUR)
    files = {
        file: (valid, [name for name, about in _ERA5.items() if about[4] == kind and name not in STATIC])
        for kind, file in _STREAM.items()
    }
    files["invariant.nc"] = (valid[:1], list(STATIC))
    axes = cells.latitude, cells.longitude
    return [
        write_cds(folder / file, planet, hours, *axes, era5_fields(planet, names, hours, *axes))
        for file, (hours, names) in files.items()
    ]


def era5_fields(
    planet: Planet, names: Sequence[str], valid: np.ndarray, latitude: np.ndarray, longitude: np.ndarray
) -> dict[str, np.ndarray]:
    """Return fields of ERA5 by their short names, each (time, latitude, longitude) float64, in ERA5's units.

    Parameters
    ----------
    planet : Planet
    names : sequence of str
        Such as "t2m".
    valid : (time,) datetime64[h]
        Consecutive hours; accumulations are those of the hour that ends there.
    latitude, longitude : (latitude,), (longitude,) float
        Cell centres, degrees. Cells that are not mapped are land.
    """
    lat, lon = (x.ravel() for x in np.meshgrid(latitude, longitude, indexing="ij"))
    fields: dict[str, np.ndarray] = {}
    if any(_ERA5[name][4] == "instant" and name not in STATIC for name in names):
        fields |= _instantaneous(planet, valid, lat, lon)
    if any(_ERA5[name][4] == "accum" for name in names):
        fields |= _accumulated(planet, valid, lat, lon)
    if any(name in STATIC for name in names):
        static = {"z": elevation(planet.seed, lat, lon) * 9.80665, "lsm": _is_land(planet.region, lat, lon)}
        fields |= {name: values[:, None].repeat(len(valid), 1) for name, values in static.items()}
    shape = len(valid), len(latitude), len(longitude)
    return {name: fields[name].T.reshape(shape) for name in names}


def _is_land(cells: Region, lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """Return 1 for land and 0 for a lake of the region, (place,)."""
    rows, columns = np.nonzero(cells.igbp == "WAT")
    near = np.abs(lat[:, None] - cells.latitude[rows]) + np.abs(lon[:, None] - cells.longitude[columns])
    return 1.0 - (near < 1e-3).any(1)


def _instantaneous(planet: Planet, valid: np.ndarray, lat: np.ndarray, lon: np.ndarray) -> dict[str, np.ndarray]:
    # A step of one minute centred on the time: instantaneous values do not depend on its length.
    air = planet.weather(valid - np.timedelta64(30, "s"), lat, lon, step_hours=1 / 60)
    return {
        "t2m": air["TA"] + 273.15,
        "d2m": air["TD"] + 273.15,
        "sp": 1e3 * air["PA"],
        "u10": air["U"],
        "v10": air["V"],
    }


def _accumulated(planet: Planet, valid: np.ndarray, lat: np.ndarray, lon: np.ndarray) -> dict[str, np.ndarray]:
    half_hours = np.arange(valid[0] - HOUR, valid[-1], np.timedelta64(30, "m"))
    air = planet.weather(half_hours, lat, lon, step_hours=0.5)
    sums = {name: air[name].reshape(len(lat), -1, 2).sum(-1) for name in ("SW_IN", "LW_IN", "P")}
    return {"ssrd": 1800 * sums["SW_IN"], "strd": 1800 * sums["LW_IN"], "tp": 1e-3 * sums["P"]}


def write_cds(
    path: Path,
    planet: Planet,
    valid: np.ndarray,
    latitude: np.ndarray,
    longitude: np.ndarray,
    fields: Mapping[str, np.ndarray],
) -> Path:
    """Write fields (time, latitude, longitude) by their short names in the layout of the CDS, as NetCDF-4."""
    try:
        import netCDF4
    except ImportError:
        raise missing_package("netCDF4", "grid", "writing the planet's ERA5 files") from None
    with replacing(path) as temporary, netCDF4.Dataset(temporary, "w", format="NETCDF4") as nc:
        nc.setncatts(
            {
                "GRIB_centre": "ecmf",
                "GRIB_centreDescription": "European Centre for Medium-Range Weather Forecasts",
                "GRIB_subCentre": 0,
                "Conventions": "CF-1.7",
                "institution": "European Centre for Medium-Range Weather Forecasts",
                "history": f"simulated planet, seed {planet.seed}: not a product of ECMWF",
            }
        )
        _coordinates(nc, valid, latitude, longitude)
        for name, values in fields.items():
            var = nc.createVariable(
                name,
                "f4",
                ("valid_time", "latitude", "longitude"),
                zlib=True,
                complevel=1,
                shuffle=True,
                fill_value=np.float32(np.nan),
                chunksizes=(min(len(valid), 744), len(latitude), len(longitude)),
            )
            var.setncatts(_grib_attributes(name, latitude, longitude))
            var[:] = values.astype("float32")
    return path


def _coordinates(nc: netCDF4.Dataset, valid: np.ndarray, latitude: np.ndarray, longitude: np.ndarray) -> None:
    """Write the dimensions and coordinates of a CDS file."""
    axes: dict[str, tuple[np.ndarray, str, dict[str, str]]] = {
        "valid_time": (
            valid.astype("datetime64[s]").astype("i8"),
            "i8",
            {
                "long_name": "time",
                "standard_name": "time",
                "units": "seconds since 1970-01-01",
                "calendar": "proleptic_gregorian",
            },
        ),
        "latitude": (
            latitude,
            "f8",
            {
                "units": "degrees_north",
                "standard_name": "latitude",
                "long_name": "latitude",
                "stored_direction": "decreasing",
            },
        ),
        "longitude": (
            longitude,
            "f8",
            {"units": "degrees_east", "standard_name": "longitude", "long_name": "longitude"},
        ),
    }
    number = nc.createVariable("number", "i8", ())
    number.setncatts({"long_name": "ensemble member numerical id", "units": "1", "standard_name": "realization"})
    number[...] = 0
    for name, (values, dtype, attributes) in axes.items():
        nc.createDimension(name, len(values))
        var = nc.createVariable(name, dtype, (name,), fill_value=np.nan if dtype == "f8" else None)
        var.setncatts(attributes)
        var[:] = values
    nc.createVariable("expver", str, ("valid_time",))[:] = np.full(len(valid), "0001", object)


def _grib_attributes(name: str, latitude: np.ndarray, longitude: np.ndarray) -> dict[str, object]:
    long_name, units, number, cf_name, step = _ERA5[name]
    return {
        "GRIB_paramId": number,
        "GRIB_dataType": "an" if step == "instant" else "fc",
        "GRIB_numberOfPoints": latitude.size * longitude.size,
        "GRIB_typeOfLevel": "surface",
        "GRIB_stepUnits": 1,
        "GRIB_stepType": step,
        "GRIB_gridType": "regular_ll",
        "GRIB_Nx": longitude.size,
        "GRIB_Ny": latitude.size,
        "GRIB_cfName": cf_name,
        "GRIB_cfVarName": name,
        "GRIB_gridDefinitionDescription": "Latitude/Longitude Grid",
        "GRIB_iDirectionIncrementInDegrees": 0.25,
        "GRIB_jDirectionIncrementInDegrees": 0.25,
        "GRIB_latitudeOfFirstGridPointInDegrees": latitude[0],
        "GRIB_latitudeOfLastGridPointInDegrees": latitude[-1],
        "GRIB_longitudeOfFirstGridPointInDegrees": longitude[0],
        "GRIB_longitudeOfLastGridPointInDegrees": longitude[-1],
        "GRIB_missingValue": 3.4028234663852886e38,
        "GRIB_name": long_name,
        "GRIB_units": units,
        "long_name": long_name,
        "units": units,
        "standard_name": cf_name,
        "coordinates": "number valid_time latitude longitude expver",
    }


def composite_days(start: np.datetime64, stop: np.datetime64) -> np.ndarray:
    """Return every eighth day of each year, from 16 days before `start` up to `stop`, datetime64[D]."""
    first, stop = start.astype("datetime64[D]") - np.timedelta64(16, "D"), stop.astype("datetime64[D]")
    years = np.arange(first.astype("datetime64[Y]"), stop.astype("datetime64[Y]") + 1)
    days = np.concatenate(
        [np.arange(y.astype("datetime64[D]"), (y + 1).astype("datetime64[D]"), _INTERVAL) for y in years]
    )
    return days[(days >= first) & (days < stop)]


def write_region_modis(planet: Planet, folder: str | Path) -> int:
    """Write MCD43A4 and MCD43A2 of the whole region, one file for each product and day; return the number of files."""
    folder = create_folder(folder)
    days = composite_days(planet.forcing_start, planet.period[1])
    ground, scene = region_scenes(planet, days)

    def write(n: int) -> None:
        for product, values in _products(scene(n)).items():
            with open_tiff(modis_path(folder, product, days[n], ground), product, ground, compress="deflate") as tiff:
                tiff.write(values)

    each_day(write, len(days))
    return 2 * len(days)


def each_day(write: Callable[[int], None], count: int) -> None:
    """Call a function for the number of each day, two at a time: a region is the longest part of a planet's files."""
    with ThreadPoolExecutor(2) as pool:
        for done in as_completed([pool.submit(write, n) for n in range(count)]):
            done.result()


def write_tower_modis(planet: Planet, towers: Sequence[Tower], folder: str | Path) -> int:
    """Write MCD43A4 and MCD43A2 of the pixels around towers of the same years; return the number of files."""
    folder = create_folder(folder)
    first, last = towers[0].years
    days = composite_days(np.datetime64(f"{first}-{planet.record[0]}"), end_of_record(planet, last))
    for ground, scene in tower_scenes(planet, towers, days):
        encoders = {product: tiff_encoder(product, ground) for product in _COMPOSITES}
        for n, day in enumerate(days):
            for product, values in _products(scene(n)).items():
                modis_path(folder, product, day, ground).write_bytes(encoders[product](values))
    return 2 * len(days) * len(towers)


def end_of_record(planet: Planet, year: int) -> np.datetime64:
    """Return the day after the record of a tower whose last year is `year`."""
    return np.datetime64(f"{year if planet.quick else year + 1}-{planet.record[1]}")


def write_land_cover(planet: Planet, folder: str | Path) -> Path:
    """Write MCD12Q1's IGBP classes (LC_Type1) of the region; return the file."""
    folder = create_folder(folder)
    ground = region_ground(planet)
    path = folder / f"MCD12Q1.A{planet.period[0].astype('datetime64[Y]')}001.{ground.tile}.061.region.tif"
    with open_tiff(path, "MCD12Q1", ground, compress="deflate") as tiff:
        tiff.write(ground.number[None])
    return path


# product: (bands, dtype, fill)
_LAYOUT = {
    "MCD43A4": (tuple(f"Nadir_Reflectance_Band{n}" for n in range(1, 8)), "int16", 32767),
    "MCD43A2": (("Snow_BRDF_Albedo", "BRDF_Albedo_LandWaterType"), "uint8", 255),
    # Converters write both grids of the product into one file in the type that has room for both.
    "MOD09GA": ((*(f"sur_refl_b{n:02d}_1" for n in range(1, 8)), "state_1km_1"), "int32", None),
}
_LAND_COVER = (("LC_Type1",), "uint8", 255)


#: Products of which a file a day and block is written.
_COMPOSITES = ("MCD43A4", "MCD43A2")


def _products(scene: Scene) -> dict[str, np.ndarray]:
    return {"MCD43A4": scene.bands, "MCD43A2": np.stack([scene.snow, scene.kind])}


def modis_path(folder: Path, product: str, day: np.datetime64, ground: Ground) -> Path:
    """Return the path of a product's file of a day and a block of pixels."""
    year = day.astype("datetime64[Y]")
    number = (day - year.astype("datetime64[D]")).astype(int) + 1
    return folder / f"{product}.A{year}{number:03d}.{ground.tile}.061.{ground.name}.tif"


def open_tiff(path: Path | str, product: str, ground: Ground, **options: str) -> rasterio.io.DatasetWriter:
    """Open a GeoTIFF of a product over a block of pixels for writing."""
    try:
        import rasterio
        from rasterio.transform import from_origin
    except ImportError:
        raise missing_package("rasterio", "grid", "writing the planet's MODIS files") from None
    bands, dtype, fill = _LAYOUT.get(product, _LAND_COVER)
    rows, columns = ground.classes.shape
    tiff = rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=rows,
        width=columns,
        count=len(bands),
        dtype=dtype,
        nodata=fill,
        crs=sinusoidal.CRS,
        interleave="band",
        transform=from_origin(*sinusoidal.corner_of(ground.row, ground.column), sinusoidal.PIXEL, sinusoidal.PIXEL),
        **({"zlevel": 1, **options} if options else {}),
    )
    tiff.descriptions = bands
    if product == "MCD43A4":
        tiff.scales = (1e-4,) * len(bands)
    return tiff


def tiff_encoder(product: str, ground: Ground) -> Callable[[np.ndarray], bytes]:
    """Return a function that returns the bytes of a GeoTIFF for any values over one block.

    GDAL takes 6 ms to write the projection of each of some thousand small files, whose headers are equal. So it writes
    one file, and its pixels are replaced.
    """
    import rasterio.io

    bands, dtype, _ = _LAYOUT[product]
    marker = np.random.default_rng(0).integers(1, 250, (len(bands), *ground.classes.shape)).astype(dtype)
    with rasterio.io.MemoryFile() as buffer:
        with open_tiff(buffer.name, product, ground) as tiff:
            tiff.write(marker)
        whole = buffer.read()
    head, tail = whole.split(marker.tobytes())  # fails unless the pixels are contiguous and appear once

    return lambda values: head + np.ascontiguousarray(values, dtype).tobytes() + tail


def create_folder(folder: str | Path) -> Path:
    """Create a folder if it is missing, and return it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
