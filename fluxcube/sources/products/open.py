"""Open a published flux product: names, units and signs as in fluxcube, lazily, from a disk, by HTTP or from S3."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from xarray.core import indexing

import fluxcube.exports.accessor  # noqa: F401  (registers ds.fluxcube)
from fluxcube.errors import ConfigError, SourceError
from fluxcube.sources.era5.clouds import public_address
from fluxcube.sources.products import axes, fluxes
from fluxcube.sources.products.axes import CYCLE_HOUR, HOUR, Grid
from fluxcube.sources.products.fluxes import LAND, Found
from fluxcube.sources.products.lazy import FluxArray, Gate, Part, SumArray
from fluxcube.sources.products.stores import Raw, Traffic, names_of, open_all
from fluxcube.sources.products.table import PARTITIONED, Product, product_named, products, recognised, recognising
from fluxcube.stores.reading import is_url

logger = logging.getLogger(__name__)

Source = str | os.PathLike | xr.Dataset | Iterable[str | os.PathLike]
_PARTITIONS = {"NT": "night-time", "DT": "day-time"}


def open_product(
    source: Source,
    product: str | None = None,
    *,
    partition: str | None = None,
    variables: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    storage_options: Mapping[str, object] | None = None,
    traffic: Traffic | None = None,
) -> xr.Dataset:
    """Open a published flux product as maps with fluxcube's names, units and signs.

    Nothing but axes is read until values are selected. A selection of towers, such as
    ``maps.sel(latitude=cube.latitude, longitude=cube.longitude, method="nearest")``, reads the stored chunks of their
    cells, each once; select the time before the towers.

    Parameters
    ----------
    source : path, URL, pattern, list of these, or xr.Dataset
        NetCDF files (all years of several variables together), Zarr stores, folders of either; ``"x-base"`` is the
        public address of FLUXCOM-X-BASE, hourly at 0.05 degrees. A Dataset must be open with its own names.
    product : {"x-base", "fluxcom-rs-meteo", "metaflux", "gloflux", "upch4", "cf"}, optional
        By default the names of the files and their global attributes identify it. "cf" is any file: CF standard names,
        else usual names, find its fluxes. Installed packages may offer others (`fluxcube.extensions`).
    partition : {"NT", "DT"}, optional
        Partition that the names of GPP and RECO end with; by default the product's, or NT where it states none.
    variables : mapping of str to str, optional
        Name in the files of a flux, where the rules find none or several: ``{"GPP": "GPP_mean"}``.
    units : mapping of str to str, optional
        Units of a flux, where the files have none or wrong ones: ``{"GPP": "gC m-2 d-1"}``.
    storage_options : mapping, optional
        Options of fsspec for URLs, such as ``{"anon": True}``; they are neither stored in the Dataset nor logged.
    traffic : Traffic, optional
        Counts requests and bytes while values of Zarr stores are read.

    Returns
    -------
    xr.Dataset
        Lazy fluxes (time, latitude, longitude): NEE (positive towards the atmosphere), GPP_NT, RECO_NT, LE, H, FCH4 in
        the units of hourly or daily cubes, ET in mm. Hourly stores of days have (time, hour, latitude, longitude), time
        being days and hour the start of the hour; mean diurnal cycles have the dimension hour_of_day. ``time`` is the
        start of each period, latitude and longitude ascend. RECO is NEE + GPP where the product has no respiration, and
        LE is ET times 2.45 MJ kg-1 where it has no LE; the attribute ``derived`` states this. ``land_fraction`` is a
        coordinate if the files have one. Attributes: ``product``, ``source``, ``citation``, ``doi``, ``licence``,
        ``time_step``, ``note``.

    Raises
    ------
    SourceError
        If there is no file, a file cannot be read, the product is not recognised, files contain the same time twice or
        have different grids, or units cannot be converted.
    ConfigError
        If an option is wrong.
    UnknownNameError
        If there is no such product.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> coords = {"time": pd.date_range("2001-01", periods=2, freq="MS"), "lat": [1.0, 0.0], "lon": [0.0, 359.0]}
    >>> dims = ("time", "lat", "lon")
    >>> fields = {"NEE": (dims, np.full((2, 2, 2), -1.0)), "GPP": (dims, np.full((2, 2, 2), 3.0))}
    >>> units = {"NEE": "gC m-2 d-1", "GPP": "gC m-2 d-1"}
    >>> maps = open_product(xr.Dataset(fields, coords), "cf", units=units)
    >>> float(maps.RECO_NT.sel(latitude=0, longitude=-1).mean()), maps.RECO_NT.derived
    (2.0, 'NEE + GPP_NT')
    """
    if partition not in (None, *_PARTITIONS):
        raise ConfigError(f"partition: expected NT or DT, found {partition!r}.")
    known, raws = _opened(source, product, dict(storage_options or {}), traffic)
    opened = _Opened(known, partition or known.partition or "NT", variables or {}, units or {}, raws)
    return opened.dataset()


def _opened(
    source: Source, name: str | None, options: Mapping[str, object], traffic: Traffic | None
) -> tuple[Product, list[Raw]]:
    """Open the files of a product, and return which product it is."""
    known = product_named(name) if name else None
    if isinstance(source, xr.Dataset):
        raws = [Raw(_undecoded(source), "", str(source.encoding.get("source", "Dataset")), True)]
        return known or recognised([Path(raws[0].source).name], source.attrs, "the Dataset"), raws
    if isinstance(source, str) and source in products() and products()[source].address and not Path(source).exists():
        known = known or product_named(source)
        source = products()[source].address
    names = names_of(source)
    members = known.members if known else tuple({member for one in recognising(names, {}) for member in one.members})
    raws = open_all(source, members=members, options=options, traffic=traffic)
    shown = public_address(str(source)) if is_url(str(source)) else str(source)
    return known or recognised([*names, *(raw.name for raw in raws)], raws[0].data.attrs, shown), raws


def _undecoded(data: xr.Dataset) -> xr.Dataset:
    """Return an open Dataset with bounds of time among its variables, as a file has them."""
    return data.reset_coords([name for name in data.coords if name not in data.dims and data[name].ndim > 1])


@dataclass(frozen=True)
class _Opened:
    """Files of a product, and the options by which they become one Dataset."""

    product: Product
    partition: str
    variables: Mapping[str, str]
    units: Mapping[str, str]
    raws: list[Raw]

    def dataset(self) -> xr.Dataset:
        """Return the product."""
        found, left_out = self._found()
        grid = self._grid(found)
        time, step, starts = self._times(found)
        hours = self._hours(found)
        if hours is not None and time.size == 1 and step in ("hourly", "unknown"):  # a single day of hours
            step = "daily"
        if hours is not None and step not in ("daily", "monthly"):
            raise SourceError(f"{self._where}: expected days or months beside the dimension hour, found steps: {step}.")
        cycle = hours is not None and step == "monthly"
        kind = "hourly" if hours is not None and not cycle else step
        dims = ("time", *(() if hours is None else (CYCLE_HOUR if cycle else HOUR,)), "latitude", "longitude")
        arrays: dict[str, FluxArray | SumArray] = {}
        attrs: dict[str, dict[str, object]] = {}
        parts = {flux: [self._part(*one, hours is not None) for one in files] for flux, files in found.items()}
        gate = Gate.of([part for some in parts.values() for part in some])
        shape = (time.size, *(() if hours is None else (hours.size,)), grid.latitude.size, grid.longitude.size)
        for flux, files in found.items():
            steps = self._steps(files, time, starts)
            factor, attrs[flux] = self._scale(files, time, kind)
            arrays[flux] = FluxArray(parts[flux], steps, factor, shape, gate)
        self._derive(arrays, attrs, kind)
        coords = self._coords(grid, time, hours, dims[1] if hours is not None else "", kind)
        data = xr.Dataset({name: _variable(dims, array, attrs[name]) for name, array in arrays.items()}, coords)
        if (land := self._land(grid, gate)) is not None:
            data = data.assign_coords({LAND: land})
        return data.assign_attrs(self._attrs("monthly mean diurnal cycle" if cycle else kind, left_out))

    @property
    def _where(self) -> str:
        return self.raws[0].source if len(self.raws) == 1 else f"{self.raws[0].source} and {len(self.raws) - 1} more"

    def _grid(self, found: Mapping[str, list[tuple[Raw, Found]]]) -> Grid:
        """Return the cells of the product, which all files with fluxes share."""
        raws = list({id(raw): raw for files in found.values() for raw, _ in files}.values())
        first, *others = (axes.grid_of(raw.data, raw.source) for raw in raws)
        for raw, grid in zip(raws[1:], others, strict=True):
            if not axes.same_grid(first, grid):
                raise SourceError(
                    f"{raws[0].source} and {raw.source} have different grids ({first.latitude.size} x "
                    f"{first.longitude.size} and {grid.latitude.size} x {grid.longitude.size} cells): open them "
                    "separately."
                )
        return first

    def _found(self) -> tuple[dict[str, list[tuple[Raw, Found]]], list[str]]:
        """Return the files of each flux, and the names of variables that are none."""
        out: dict[str, list[tuple[Raw, Found]]] = {}
        left_out: set[str] = set()
        for raw in self.raws:
            found, others = fluxes.find(raw.data, self.product, self.partition, self.variables, raw.source)
            left_out.update(others)
            for one in found:
                out.setdefault(one.flux, []).append((raw, one))
        missing = [name for name in self.variables.values() if not any(name in raw.data for raw in self.raws)]
        if missing or not out:
            what = f"no variable {missing[0]}" if missing else "no variable that is a flux"
            has = sorted({str(name) for raw in self.raws for name in raw.data.data_vars})
            raise SourceError(
                f"{self._where}: {what} among {', '.join(has)}: pass variables={{'GPP': 'its name in the files'}}."
            )
        return out, sorted(left_out)

    def _times(self, found: Mapping[str, list[tuple[Raw, Found]]]) -> tuple[np.ndarray, str, dict[int, np.ndarray]]:
        """Return the time axis of all files together, its step, and the starts of the periods of each file."""
        used = {id(raw): raw for files in found.values() for raw, _ in files}
        stamps = {key: axes.starts(raw.data, raw.source) for key, raw in used.items()}
        every = np.unique(np.concatenate(list(stamps.values())))
        hint = " ".join(f"{raw.name} {raw.data.attrs.get('frequency', '')}" for raw in used.values())
        step = axes.step_of(every, hint)
        starts = {key: axes.at_start(time, step) for key, time in stamps.items()}
        return np.unique(np.concatenate(list(starts.values()))), step, starts

    def _hours(self, found: Mapping[str, list[tuple[Raw, Found]]]) -> np.ndarray | None:
        """Return the starts of the hours of the dimension hour; None if the fluxes have none."""
        raws = [raw for files in found.values() for raw, one in files if HOUR in raw.data[one.name].dims]
        count = sum(len(files) for files in found.values())
        if raws and len(raws) < count:
            raise SourceError(
                f"{self._where}: some fluxes have the dimension hour and others do not: open them separately."
            )
        return axes.hour_starts(raws[0].data, raws[0].source) if raws else None

    def _steps(self, files: list[tuple[Raw, Found]], time: np.ndarray, starts: Mapping[int, np.ndarray]) -> np.ndarray:
        """Return the file of each time step, and its position there; -1 for a time step without a file."""
        steps = np.full((time.size, 2), -1)
        for number, (raw, one) in enumerate(files):
            at = np.searchsorted(time, starts[id(raw)])
            self._check_times(starts[id(raw)], steps[at, 0] >= 0, files, raw, one)
            steps[at] = np.column_stack([np.full(at.size, number), np.arange(at.size)])
        return steps

    def _scale(
        self, files: list[tuple[Raw, Found]], time: np.ndarray, kind: str
    ) -> tuple[float | np.ndarray, dict[str, object]]:
        """Return the factor of a flux to fluxcube's units and sign, and its attributes."""
        spellings = {
            fluxes.units_of(one, raw.data[one.name].variable, self.units, raw.source): (raw, one) for raw, one in files
        }
        if len(spellings) > 1:
            raise SourceError(
                f"{files[0][1].flux}: files have different units ({' and '.join(spellings)}): open them separately."
            )
        ((unit, (raw, one)),) = spellings.items()
        return fluxes.scale(one, unit, kind, time, raw.source), self._flux_attrs(one, unit, kind, raw)

    def _check_times(
        self, time: np.ndarray, taken: np.ndarray, files: list[tuple[Raw, Found]], raw: Raw, one: Found
    ) -> None:
        """Refuse a time that is there twice, in one file or in two."""
        values, counts = np.unique(time, return_counts=True)
        twice = [*values[counts > 1], *time[taken]]
        if twice:
            others = [other.source for other, _ in files if other is not raw]
            beside = f" and in another of {len(others) + 1} files" if taken.any() else " twice"
            raise SourceError(
                f"{one.flux}: {np.datetime_as_string(twice[0], 'D')} is in {raw.source}{beside}: pass each period once."
            )

    def _part(self, raw: Raw, one: Found, hourly: bool) -> Part:
        """Return one file of a flux, with its dimensions in the order of the product."""
        grid, array = axes.grid_of(raw.data, raw.source), raw.data[one.name]
        time = axes.time_name(raw.data, raw.source)
        dims = (time, *((HOUR,) if hourly else ()), *grid.names)
        others = [dim for dim in array.dims if dim not in dims]
        if any(array.sizes[dim] > 1 for dim in others):
            raise SourceError(
                f"{raw.source}: {one.name} has the dimension {others[0]} ({array.sizes[others[0]]} entries): select "
                f"one of it, ds.isel({others[0]}=0), and pass the Dataset."
            )
        if array.encoding.get("_FillValue") == 0 and array.dtype.kind == "f":
            logger.warning("%s: zeros of %s are missing values, since the file declares 0 so", raw.source, one.name)
        variable = array.variable.isel(dict.fromkeys(others, 0))
        variable.encoding = _encoding(array.variable, others)
        if time not in variable.dims:  # one map of a file, whose time is a scalar coordinate
            variable = variable.set_dims((time, *variable.dims))
        orders = (*((None,) if hourly else ()), *grid.orders)
        return Part(variable, tuple(map(str, dims)), orders, raw.source, raw.threads)

    def _flux_attrs(self, one: Found, unit: str, kind: str, raw: Raw) -> dict[str, object]:
        attrs: dict[str, object] = {
            "units": fluxes.target_units(one.base, kind),
            "long_name": fluxes.long_name(one.base),
        }
        if one.rule.suffix:
            noun = "spread of the ensemble" if one.rule.suffix == "_spread" else "standard deviation"
            attrs["long_name"] = f"{noun}: {attrs['long_name']}"
        attrs |= {"name_in_product": one.name, "units_in_product": unit, "cell_methods": "time: mean"}
        if one.rule.sign < 0:
            attrs["sign"] = "changed: positive towards the land in the product"
        if one.rule.flux in PARTITIONED and not self.product.partition:
            attrs["partition"] = (
                f"not stated by the product; named as {_PARTITIONS[self.partition]} partition, to be compared with it"
            )
        if self.product.name == "upch4" and not one.rule.suffix:
            attrs["area"] = _methane_area(raw.name)
        return attrs

    def _derive(self, arrays: dict[str, FluxArray | SumArray], attrs: dict[str, dict[str, object]], kind: str) -> None:
        """Add RECO = NEE + GPP and LE = heat of vaporisation x ET where the product does not have them."""
        if (names := fluxes.respiration(list(arrays))) is not None:
            gpp, reco = names
            arrays[reco] = SumArray([(arrays["NEE"], 1.0), (arrays[gpp], 1.0)])
            attrs[reco] = {
                "units": attrs["NEE"]["units"],
                "long_name": fluxes.long_name(reco),
                "derived": f"NEE + {gpp}",
                "comment": "NEE is positive towards the atmosphere, so that NEE = RECO - GPP; the product has no RECO",
                "cell_methods": "time: mean",
            }
        if "ET" in arrays and "LE" not in arrays:
            seconds = 3600.0 if kind == "hourly" else 86400.0
            arrays["LE"] = SumArray([(arrays["ET"], fluxes.LATENT_HEAT / seconds)])
            attrs["LE"] = {
                "units": "W m-2",
                "long_name": fluxes.long_name("LE"),
                "derived": f"ET x {fluxes.LATENT_HEAT / 1e6:g} MJ kg-1",
                "cell_methods": "time: mean",
            }

    def _coords(
        self, grid: Grid, time: np.ndarray, hours: np.ndarray | None, hour: str, kind: str
    ) -> dict[str, tuple[str, np.ndarray, dict[str, str]]]:
        clock = self.product.clock or "clock not stated by the product"
        noun = "day" if hours is not None and kind == "hourly" else "period"
        coords: dict[str, tuple[str, np.ndarray, dict[str, str]]] = {
            "time": ("time", time, {"long_name": f"start of the {noun} ({clock})", "standard_name": "time"}),
            "latitude": ("latitude", grid.latitude, {"units": "degrees_north", "standard_name": "latitude"}),
            "longitude": ("longitude", grid.longitude, {"units": "degrees_east", "standard_name": "longitude"}),
        }
        if hours is not None:
            coords[hour] = (hour, hours, {"long_name": f"start of the hour ({clock})", "units": "h"})
        return coords

    def _land(self, grid: Grid, gate: Gate) -> xr.Variable | None:
        """Return the land fraction of the first file that has one, from 0 to 1."""
        for raw in self.raws:
            name = fluxes.land_fraction(raw.data)
            if name is None or raw.data[name].ndim != 2:
                continue
            own = axes.grid_of(raw.data, raw.source)
            if set(raw.data[name].dims) != set(own.names) or not axes.same_grid(grid, own):
                continue
            array = raw.data[name].variable
            part = Part(array, own.names, own.orders, raw.source, raw.threads)
            percent = 0.01 if str(array.attrs.get("units", "1")).strip() in ("%", "percent") else 1.0
            # X-BASE declares 0 as the fill value of its land fraction: no value is no land.
            field = FluxArray([part], None, percent, (grid.latitude.size, grid.longitude.size), gate, missing=0.0)
            about = {key: array.attrs[key] for key in ("description",) if key in array.attrs}
            attrs = {"units": "1", "long_name": "land fraction", "standard_name": "land_area_fraction", **about}
            return _variable(("latitude", "longitude"), field, attrs)
        return None

    def _attrs(self, step: str, left_out: list[str]) -> dict[str, object]:
        product = self.product
        citation = product.citation or str(self.raws[0].data.attrs.get("references", ""))
        attrs: dict[str, object] = {
            "title": product.title,
            "product": product.name,
            "source": self._where,
            "citation": citation,
            "doi": product.doi,
            "licence": product.licence or str(self.raws[0].data.attrs.get("license", "")),
            "time_step": step,
        }
        attrs |= {"note": product.note} if product.note else {}
        if left_out:
            attrs["variables_left_out"] = ", ".join(left_out)
            logger.info("%s: variables that are no flux were left out: %s", self._where, ", ".join(left_out))
        return attrs


def _variable(dims: tuple[str, ...], array: FluxArray | SumArray, attrs: Mapping[str, object]) -> xr.Variable:
    """Return a lazy variable; Dask, if it is asked for, takes the chunks of the first file."""
    variable = xr.Variable(dims, indexing.LazilyIndexedArray(array), dict(attrs))
    variable.encoding["preferred_chunks"] = dict(zip(dims, _first(array).parts[0].chunks, strict=True))
    return variable


def _first(array: FluxArray | SumArray) -> FluxArray:
    """Return the array of files that a flux consists of, or the first one that it is derived from."""
    return array if isinstance(array, FluxArray) else _first(array.terms[0][0])


def _encoding(variable: xr.Variable, dropped: list[object]) -> dict[object, object]:
    """Return the encoding of a variable without the chunks of dropped dimensions."""
    encoding = dict(variable.encoding)
    for key in ("chunks", "chunksizes", "shards"):
        if (sizes := encoding.get(key)) is not None and len(sizes) == variable.ndim:
            encoding[key] = tuple(n for n, dim in zip(sizes, variable.dims, strict=True) if dim not in dropped)
    return encoding


def _methane_area(name: str) -> str:
    """Return what the methane flux of an UpCH4 file refers to, by the file's name."""
    weighted = "_aw" in name.lower() or "weight" in name.lower()
    return "cell, weighted by its wetland" if weighted else "wetland, or the cell: see the file's documentation"
