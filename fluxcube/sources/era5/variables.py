"""Read ERA5 and ERA5-Land from the Climate Data Store or Zarr stores as tower variables on UTC hours.

An output hour covers [t, t + 1 h). Accumulated parameters (radiation, rain, heat fluxes) cover the hour that ends at
their stamp, so they come from the stamp t + 1 h. Instantaneous parameters (temperature, pressure, wind, soil) are
averaged over the stamps t and t + 1 h. A file of N hourly stamps therefore yields N - 1 hours.

Reading is in blocks: one task opens the files it needs, reads a box of each parameter and returns tower variables. A
graph has one task for each block, and RAM is used by the blocks in work only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from fluxcube.errors import ConfigError, unknown
from fluxcube.humidity import relative_humidity, vapour_pressure_deficit
from fluxcube.sources.era5.files import read_files
from fluxcube.sources.era5.open import ERA5Paths
from fluxcube.sources.era5.parameters import PARAMETERS
from fluxcube.sources.era5.series import Box, Files, Period
from fluxcube.variables import COMPUTED, table

if TYPE_CHECKING:
    import dask.array as da

#: Default size of the blocks in which files are read: 92 days of 16 x 16 cells.
DEFAULT_CHUNKS = {"time": 2208, "latitude": 16, "longitude": 16}

_KELVIN = 273.15
# umol of photosynthetic photons per joule of sunlight; eight towers with both measured 1.88 to 2.15 (mean 1.98).
_PHOTONS = 2.0
# Packing to 16 bits leaves small negatives (W m-2 and mm); larger ones are no rounding error and stay visible.
_ROUNDING = {"W m-2": 1.0, "mm": 0.01}


class _Block:
    """ERA5 parameters of one box at its stamps (time + 1, latitude, longitude), and their hourly amounts."""

    def __init__(self, read: Callable[[str], np.ndarray], daily_totals: bool, first_hour: int):
        self._read, self._daily_totals, self._first = functools.cache(read), daily_totals, first_hour

    def at(self, name: str) -> np.ndarray:
        """Return the values at the stamps."""
        return self._read(name)

    def hourly(self, name: str) -> np.ndarray:
        """Return the amount accumulated in each hour (time, latitude, longitude)."""
        stamps = self._read(name)
        if not self._daily_totals:
            return stamps[1:]
        # A running total restarts after 00 UTC: from the hour that begins there nothing is subtracted.
        restarts = (self._first + np.arange(len(stamps) - 1)) % 24 == 0
        return stamps[1:] - np.where(restarts[:, None, None], 0.0, stamps[:-1])

    def watts(self, name: str) -> np.ndarray:
        """Return the mean rate in each hour, W m-2."""
        return self.hourly(name) / 3600.0


def _mean(stamps: np.ndarray) -> np.ndarray:
    """Return the mean of the stamps at the start and the end of each hour."""
    return 0.5 * (stamps[:-1] + stamps[1:])


def _unsigned(values: np.ndarray, units: str) -> np.ndarray:
    """Set the small negatives that packing leaves to zero."""
    return np.where((values < 0) & (values >= -_ROUNDING[units]), 0.0, values)


def _wind_direction(m: _Block) -> np.ndarray:
    """Return the direction from which the wind blows (degrees), averaged as a unit vector; NaN in calm."""
    u, v = m.at("u10"), m.at("v10")
    speed = np.hypot(u, v)
    with np.errstate(invalid="ignore", divide="ignore"):
        east, north = (_mean(np.where(speed > 0, part / speed, part)) for part in (u, v))
    direction = (180.0 + np.degrees(np.arctan2(east, north))) % 360.0
    # In float32 an angle just below 360 rounds up to it, which is north: 0.
    return np.where(np.hypot(east, north) < 1e-6, np.nan, np.where(direction.astype("float32") >= 360, 0.0, direction))


def _celsius(m: _Block, name: str) -> np.ndarray:
    return m.at(name) - _KELVIN


def _sw_in(m: _Block) -> np.ndarray:
    return _unsigned(m.watts("ssrd"), "W m-2")


def _ground_heat(m: _Block) -> np.ndarray:
    """Return the residual of the energy balance; over snow, part of it melts snow."""
    return m.watts("ssr") + m.watts("str") + m.watts("sshf") + m.watts("slhf")


_Rule = Callable[[_Block], np.ndarray]
# Tower variable, the ERA5 parameters from which it is derived, and the derivation; the first rule whose parameters are
# all present applies. ERA5's vertical fluxes are positive downwards, towers' upwards. VPD is in hPa, PA in kPa.
_RULES: tuple[tuple[str, tuple[str, ...], _Rule], ...] = (
    ("TA", ("t2m",), lambda m: _mean(_celsius(m, "t2m"))),
    ("SW_IN", ("ssrd",), _sw_in),
    ("LW_IN", ("strd",), lambda m: _unsigned(m.watts("strd"), "W m-2")),
    ("VPD", ("t2m", "d2m"), lambda m: _mean(vapour_pressure_deficit(_celsius(m, "t2m"), _celsius(m, "d2m")))),
    ("PA", ("sp",), lambda m: _mean(m.at("sp")) / 1000.0),
    ("P", ("tp",), lambda m: _unsigned(m.hourly("tp") * 1000.0, "mm")),
    ("WS", ("u10", "v10"), lambda m: _mean(np.hypot(m.at("u10"), m.at("v10")))),
    ("WD", ("u10", "v10"), _wind_direction),
    ("RH", ("t2m", "d2m"), lambda m: _mean(relative_humidity(_celsius(m, "t2m"), _celsius(m, "d2m")))),
    ("USTAR", ("zust",), lambda m: _mean(m.at("zust"))),
    ("NETRAD", ("ssr", "str"), lambda m: m.watts("ssr") + m.watts("str")),
    ("SW_OUT", ("ssrd", "ssr"), lambda m: _unsigned(m.watts("ssrd") - m.watts("ssr"), "W m-2")),
    ("SW_OUT", ("ssrd", "fal"), lambda m: _sw_in(m) * _mean(m.at("fal"))),
    ("LW_OUT", ("strd", "str"), lambda m: m.watts("strd") - m.watts("str")),
    ("PPFD_IN", ("ssrd",), lambda m: _PHOTONS * _sw_in(m)),
    ("LE", ("slhf",), lambda m: -m.watts("slhf")),
    ("H", ("sshf",), lambda m: -m.watts("sshf")),
    ("H", ("ishf",), lambda m: -_mean(m.at("ishf"))),
    # All four are positive downwards, as towers' G is.
    ("G", ("ssr", "str", "sshf", "slhf"), _ground_heat),
    *((f"SWC_{i}", (f"swvl{i}",), lambda m, i=i: 100.0 * _mean(m.at(f"swvl{i}"))) for i in range(1, 5)),
    *((f"TS_{i}", (f"stl{i}",), lambda m, i=i: _mean(_celsius(m, f"stl{i}"))) for i in range(1, 5)),
)


#: Variables that `fluxcube.daily_forcing` computes from others.
_FROM_OTHERS = {"TA_RANGE": "TA"}


def needed_parameters(names: Sequence[str], without: Collection[str] = ()) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the ERA5 parameters from which tower variables are derived.

    Parameters
    ----------
    names : sequence of str
        Tower variables of the variable table, hourly or daily.
    without : collection of str
        Parameters that a product does not contain, so that other rules apply.

    Returns
    -------
    parameters : tuple of str
        In the order of the table of parameters; none for variables that are computed from time and place.
    missing : tuple of str
        Variables that cannot be derived from ERA5.

    Examples
    --------
    >>> needed_parameters(("TA", "VPD", "TOD", "CO2"))
    (('t2m', 'd2m'), ('CO2',))
    """
    found: set[str] = set()
    missing = []
    for name in names:
        variable = _FROM_OTHERS.get(name, name)
        rules = [needs for derived, needs, _ in _RULES if derived == variable and not set(needs) & set(without)]
        if rules:
            found |= set(rules[0])
        elif name not in COMPUTED:
            missing.append(name)
    return tuple(name for name in PARAMETERS if name in found), tuple(missing)


def available(files: Files) -> tuple[str, ...]:
    """Return the tower variables that can be derived from the files, in the order of the variable table."""
    derivable = {name for name, needs, _ in _RULES if set(needs) <= set(files.parameters)}
    return tuple(name for name in table() if name in derivable)


def parameters_read(files: Files, names: Sequence[str]) -> set[str]:
    """Return the parameters (short names) from which `read_block` computes tower variables."""
    rules = {name: needs for name, needs, _ in reversed(_RULES) if set(needs) <= set(files.parameters)}
    return {parameter for name in names for parameter in rules.get(name, ())}


def read_block(files: Files, names: Sequence[str], time: slice, rows: slice, cols: slice) -> np.ndarray:
    """Read tower variables of a box.

    Parameters
    ----------
    files : Files
    names : sequence of str
        Of `available`.
    time, rows, cols : slice
        Into the files' `time`, `latitude` and `longitude`, with start and stop.

    Returns
    -------
    (name, time, latitude, longitude) float32
    """
    stamps = slice(time.start, time.stop + 1)
    first = int(files.stamps[time.start].astype("datetime64[h]").astype(np.int64))

    def read(parameter: str) -> np.ndarray:
        return files.read(parameter, stamps, rows, cols)

    block = _Block(read, files.accumulation == "day", first)
    rules = {name: rule for name, needs, rule in reversed(_RULES) if set(needs) <= set(files.parameters)}
    shape = (time.stop - time.start, rows.stop - rows.start, cols.stop - cols.start)
    out = np.empty((len(names), *shape), "float32")
    for i, name in enumerate(names):
        out[i] = rules[name](block)
    return out


def open_era5(
    source: ERA5Paths,
    *,
    variables: str | Sequence[str] | None = None,
    chunks: Mapping[str, int] | None = None,
    accumulation: str | None = None,
    bbox: Box | None = None,
    time: Period | None = None,
    resolution: float | None = None,
    allow_gaps: bool = False,
    check: bool = True,
    storage_options: Mapping[str, object] | None = None,
) -> xr.Dataset:
    """Open ERA5 or ERA5-Land as tower variables, lazily.

    Parameters
    ----------
    source : path, folder, URL, xr.Dataset or list of these
        Hourly NetCDF from the Climate Data Store, old layout (``time``) or new (``valid_time``, ``expver``,
        ``number``), or GRIB, as files or in zips, of a grid or a single point, with accumulations or mean rates; Zarr
        stores such as ARCO-ERA5, also by name (`fluxcube.sources.era5.clouds.STORES`). Names may be those of any
        provider (`fluxcube.sources.era5.parameters`). Parameters spread over files are merged; files of successive
        periods are joined. Hours that two files share must agree. Rows may be turned or longitudes shifted in some of
        the files, and files of static fields may cover more cells. An open Dataset is treated as a file with its
        contents.
    variables : str or sequence of str, optional
        Tower variables; by default all that can be derived from the files.
    chunks : mapping, optional
        Sizes of Dask chunks of time, latitude and longitude (-1: whole); default 2208, 16, 16.
    accumulation : {"hour", "day"}, optional
        Period over which parameters are accumulated: the hour that ends at the stamp (ERA5), or the time since
        00 UTC (ERA5-Land). By default it is determined from the values.
    bbox, time, resolution : optional
        As in `fluxcube.open_forcing`.
    allow_gaps : bool
        Return NaN for hours for which a parameter has no stamps, instead of raising an error.
    check : bool
        Whether values at sampled hours and cells are checked against their declared units, and sunlight against
        SW_IN_POT (`fluxcube.sources.era5.checks`). False only for values that were found to be right all the same.
    storage_options : mapping, optional
        Options that fsspec needs to reach a URL; they are part of the graph.

    Returns
    -------
    xr.Dataset
        One float32 variable (time, latitude, longitude) per tower variable, in the table's units; time is UTC at
        the start of the hour, dense. Coordinates elevation (m) and land_fraction (0..1) on (latitude, longitude).
        An hour next to a missing stamp is NaN.

    Raises
    ------
    SourceError
        If a file is not hourly, or not on a latitude-longitude grid, has a parameter in another unit, or does not fit
        the other files; if nothing usable is found; if stamps are missing; if the accumulation cannot be determined,
        or differs between parameters or files; if values contradict their units or the sun.
    UnknownNameError
        If a variable is not in the table.
    ConfigError
        If a variable cannot be derived from the files, or an option has an invalid value.
    """
    files = read_files(
        source,
        accumulation=accumulation,
        bbox=bbox,
        time=time,
        resolution=resolution,
        allow_gaps=allow_gaps,
        check=check,
        storage_options=storage_options,
    )
    names = check_available(variables, files)
    dims = ("time", "latitude", "longitude")
    shape = (len(files.time), len(files.latitude), len(files.longitude))
    sizes = normal_chunks(chunks, dict(zip(dims, shape, strict=True)))
    arrays = {name: (dims, _lazy(files, name, tuple(sizes.values())), table()[name].attrs) for name in names}
    return xr.Dataset(
        arrays,
        coords={"time": files.time, **cell_coords(files)},
        attrs={"Conventions": "CF-1.11", "accumulation": files.accumulation, "source": "ERA5 or ERA5-Land"},
    )


def cell_coords(files: Files) -> dict[str, tuple]:
    """Return the coordinates of the grid: latitude, longitude, and the cells' elevation and land_fraction."""
    cells = ("latitude", "longitude")
    return {
        "latitude": ("latitude", files.latitude, {"units": "degrees_north", "standard_name": "latitude"}),
        "longitude": ("longitude", files.longitude, {"units": "degrees_east", "standard_name": "longitude"}),
        "elevation": (cells, files.elevation, {"units": "m", "long_name": "height of the model's orography"}),
        "land_fraction": (
            cells,
            files.land_fraction,
            {"units": "1", "standard_name": "land_area_fraction", "comment": _LAND_COMMENT[files.masked]},
        ),
    }


_LAND_COMMENT = {True: "ERA5 land-sea mask (lsm)", False: "no lsm given: 1 where the files have values, 0 elsewhere"}


def check_available(names: str | Sequence[str] | None, files: Files) -> tuple[str, ...]:
    """Return `names` as a tuple, by default all variables that can be derived from the files.

    Raises
    ------
    UnknownNameError
        If a name is not in the variable table.
    ConfigError
        If a variable cannot be derived from the files.
    """
    if names is None:
        return available(files)
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if name not in table():
            raise unknown("variable", name, table())
        if name not in available(files):
            alternatives = [" and ".join(needs) for variable, needs, _ in _RULES if variable == name]
            raise ConfigError(
                f"{name} cannot be derived from these files: "
                + (f"it needs {' or '.join(alternatives)}" if alternatives else "no ERA5 parameter corresponds to it")
                + f"; found {', '.join(sorted(files.parameters)) or 'no parameter'}. Add files, or leave {name} out."
            )
    return names


def normal_chunks(chunks: Mapping[str, int] | None, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Return the chunk lengths along each dimension of `sizes`, from requested sizes (-1: whole) and the defaults."""
    chunks = dict(chunks or {})
    for name, size in chunks.items():
        if name not in sizes:
            raise unknown("dimension in chunks", name, sizes)
        if not isinstance(size, (int, np.integer)) or (size < 1 and size != -1):
            raise ConfigError(f"chunks: {name} must be a whole number of at least 1, or -1 for all, found {size!r}.")
    out = {}
    for name, length in sizes.items():
        size = min(int(chunks.get(name, DEFAULT_CHUNKS.get(name, length))), length)
        size = length if size == -1 else size
        out[name] = tuple(min(size, length - start) for start in range(0, length, size)) if length else (0,)
    return out


def _lazy(files: Files, name: str, chunks: tuple[tuple[int, ...], ...]) -> da.Array:
    import dask.array as da
    from dask.base import tokenize

    def read(block_info: Mapping) -> np.ndarray:
        time, rows, cols = (slice(*edges) for edges in block_info[None]["array-location"])
        return read_block(files, (name,), time, rows, cols)[0]

    key = f"era5-{name}-{tokenize(files.token, name, chunks)}"
    return da.map_blocks(read, chunks=chunks, dtype="float32", meta=np.empty((0, 0, 0), "float32"), name=key)
