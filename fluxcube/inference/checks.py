"""Checks before maps are computed: absent inputs, impossible values, and the RAM that a chunk takes."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from fluxcube.cubes.products import ARRAYS, check_bias, product_record, record_names
from fluxcube.errors import ConfigError, to_type
from fluxcube.resolution import HOURLY, resolution_of
from fluxcube.samples.features import FeatureSpec
from fluxcube.samples.surface import static_feature
from fluxcube.units import same_unit
from fluxcube.variables import TIMING, declared, statics, table

if TYPE_CHECKING:
    from fluxcube.inference.predictor import Predictor

logger = logging.getLogger(__name__)

#: Number of float32 copies of a chunk's inputs in RAM at once while features are computed: as read, of the land cells
#: in order, with trailing means in double precision, normalised.
_COPIES = 4
#: Number of time steps whose values are compared as one row.
_LONG = 64
#: Bytes that a forward pass takes besides: 128 windows of the published preset.
_FORWARD = 400 * 2**20


def check_absent(absent: Iterable[str], allow_missing: bool, spec: FeatureSpec, kind: str = "forcing") -> None:
    """Refuse a forcing or a tower cube that lacks inputs of a model, unless that is allowed.

    Parameters
    ----------
    absent : iterable of str
        Names, as `fluxcube.inference.outputs.masked_inputs` returns them.
    allow_missing : bool
        Whether these inputs may be missing.
    spec : FeatureSpec
        Features of the model.
    kind : {"forcing", "cube"}
        What lacks them.

    Raises
    ------
    ConfigError
        If inputs are absent; the message names them.
    """
    absent = tuple(absent)
    if absent and not allow_missing:
        without = to_type(
            python="predictors=, static=, bands=(), surface=()",
            shell="--predictors, --static, --no-chips, --surface ''",
        )
        accept = to_type(python="allow_missing=True", shell="--allow-missing")
        raise ConfigError(
            f"the model was trained on {', '.join(absent)}, which the {kind} lacks: add files that have them"
            f"{_advice(absent, spec, kind)}, train without them ({without}), or "
            f"treat them as missing ({accept}), which costs skill."
        )


def _advice(absent: tuple[str, ...], spec: FeatureSpec, kind: str = "forcing") -> str:
    """Return which options and functions add the inputs that are absent, where they are not weather."""
    opener = {"forcing": "open_forcing", "cube": "build_carbonsense"}[kind]

    def option(name: str) -> str:
        return to_type(python=f"{opener}({name}=)", shell=f"--{name.replace('_', '-')}")

    bands = any(name.startswith("band ") for name in absent)
    columns = any(name in spec.surface or static_feature(name) for name in absent)
    advice = [f"chips: {option('modis')}"] if bands and "modis" in spec.satellite_arrays else []
    if any(f"of {kind.array}" in name for kind in spec.images for name in absent):
        advice.append(f"images: fluxcube.add_images on the {kind}")
        bands = any(f"band {name}" in absent for name in spec.bands)
    if columns or (bands and "modis" not in spec.satellite_arrays):
        advice.append(f"surface reflectance: {option('surface')}")
    if "igbp" in absent:
        advice.append("igbp: " + to_type(python="open_forcing(land_cover=)", shell="--land-cover or --igbp"))
    if own := [name for name in absent if name in declared()]:
        advice.append(f"{', '.join(own)}: fluxcube.add_predictor({kind}, {own[0]!r}, ...)")
    return f" ({'; '.join(advice)})" if advice else ""


def check_product(
    predictor: Predictor,
    ds: xr.Dataset,
    allow_other_product: bool,
    *,
    bias: xr.Dataset | None = None,
    unknown_level: int = logging.WARNING,
) -> dict[str, str]:
    """Refuse data whose reflectance is of another satellite product than a model was trained on.

    Products differ in view angle, in clouds and in composition: the same place has another reflectance in each.

    Parameters
    ----------
    predictor : Predictor
        The model, which records the products of the cube that it was trained on.
    ds : xr.Dataset
        Forcing or cube of its resolution.
    allow_other_product : bool
        Whether the products may differ.
    bias : xr.Dataset, optional
        Bias between the two products at towers (`fluxcube.product_bias`), to be recorded.
    unknown_level : int
        Level of the log message on a product that is not recorded.

    Returns
    -------
    dict of str to str
        Attributes of the estimates: both products of each array that the model uses (`satellite_product` and
        `satellite_product_of_training`; `surface_product` likewise, for the surface reflectance of hourly models);
        "unknown" if one is not recorded, which is logged. Their collections, where these differ, which is logged as a
        warning; the number of days of later views that a product contains, such as 8 of MCD43A4, if any; and
        `product_bias`, if it is passed.

    Raises
    ------
    ConfigError
        If the products differ, and that is not allowed; the message names both.
    """
    attrs: dict[str, str] = {}
    notes: list[tuple[int, str]] = []
    for single in predictor.singles:
        for key, value in _compared_products(single, ds, allow_other_product, unknown_level, notes).items():
            # Members may have been trained on different products.
            attrs[key] = ", ".join(dict.fromkeys([*attrs[key].split(", "), value])) if key in attrs else value
    for level, note in dict.fromkeys(notes):
        logger.log(level, "%s", note)
    if bias is not None:
        mapped = {key: value for key, value in attrs.items() if key.endswith("_product")}
        attrs["product_bias"] = check_bias(bias, {key: attrs[f"{key}_of_training"] for key in mapped}, mapped)
    return attrs


def _compared_products(
    predictor: Predictor, ds: xr.Dataset, allowed: bool, unknown_level: int, notes: list[tuple[int, str]]
) -> dict[str, str]:
    """Return the attributes of `check_product` on the products that one model uses; refuse those that differ.

    Log messages are appended to `notes`, with their level.
    """
    resolution, record = predictor.spec.time_resolution, predictor.metadata.get("cube") or {}
    found = product_record(ds)
    attrs: dict[str, str] = {}
    for array in (*ARRAYS, *(kind.array for kind in predictor.spec.images)):
        if array not in predictor.spec.satellite_arrays or array not in ds:
            continue
        product, collection = record_names(resolution, array)
        trained, mapped = str(record.get(product) or ""), found.get(product, "")
        notes += _compare_products(trained, mapped, array, allowed, unknown_level)
        attrs |= {product: mapped or "unknown", f"{product}_of_training": trained or "unknown"}
        pair = found.get(collection, ""), str(record.get(collection) or "")
        if trained == mapped and all(pair) and pair[0] != pair[1]:
            note = f"the model was trained on collection {pair[1]} of {mapped}, found collection {pair[0]}"
            notes.append((logging.WARNING, note))
            attrs |= {collection: pair[0], f"{collection}_of_training": pair[1]}
        if days := int(ds[array].attrs.get("lookahead_days", 0)):
            attrs[f"{product}_lookahead_days"] = str(days)
    return attrs


def _compare_products(
    trained: str, mapped: str, array: str, allowed: bool, unknown_level: int
) -> list[tuple[int, str]]:
    """Refuse two products of an array that differ, or return a log message on them, or on one that is unknown ("")."""
    if trained and mapped and trained != mapped and not allowed:
        remedies = {
            "modis": to_type(python="bands=()", shell="--no-chips"),
            "surface": to_type(python="surface=()", shell="--surface ''"),
        }
        remedy = remedies.get(array, "images=()")
        accept = to_type(python="allow_other_product=True", shell="--allow-other-product")
        raise ConfigError(
            f"the model was trained on {trained}, and the reflectance of the data ({array}) is {mapped}: use the same "
            f"product, train without reflectance ({remedy}), or accept the difference ({accept}), which the "
            "maps record; fluxcube.product_bias reports how far products differ."
        )
    if not trained or not mapped:
        note = (
            "it cannot be checked that the model was trained on the satellite product of the data, since it is not "
            f"recorded: model {trained or 'unknown'}, data {mapped or 'unknown'}"
        )
        return [(unknown_level, note)]
    if trained != mapped:
        return [(logging.WARNING, f"the model was trained on {trained}, and is used with {mapped} as allowed")]
    return []


def note_timing(predictor: Predictor, ds: xr.Dataset) -> None:
    """Log a warning if declared daily predictors are known earlier or later in some data than in training.

    Parameters
    ----------
    predictor : Predictor
        The model, which records the timing of the cube that it was trained on (`fluxcube.add_predictor`).
    ds : xr.Dataset
        Tower cube or forcing.
    """
    found = json.loads(str(ds.attrs.get(TIMING, "{}")))
    differing: dict[str, list[int]] = {}
    for single in predictor.singles:
        trained = json.loads(str((single.metadata.get("cube") or {}).get(TIMING, "{}")))
        for name in sorted(set(trained) & set(found) & set(single.spec.predictors)):
            if trained[name] != found[name]:
                differing[name] = trained[name]
    for name, days in differing.items():
        logger.warning(
            "%s: the model was trained with hold_days=%s and delay_days=%s, these data have %s and %s: add it with "
            "the same values",
            *(name, *days, *found[name]),
        )


def check_static_units(spec: FeatureSpec, ds: xr.Dataset) -> None:
    """Refuse static predictors of the user in other units than those that they were declared in.

    Predictors with a time axis are checked by `fluxcube.schema.check_units`.

    Parameters
    ----------
    spec : FeatureSpec
        Features of the model.
    ds : xr.Dataset
        Cube or forcing.

    Raises
    ------
    ConfigError
        If the attribute ``units`` of a static predictor differs; the message names it.
    """
    for name, row in statics().items():
        if name not in spec.static or name not in ds:
            continue
        found = str(ds[name].attrs.get("units", row.units))
        if found != row.units and not same_unit(found, row.units):
            raise ConfigError(
                f"{name} must be in {row.units}, as at the towers of the model, found {found}: convert "
                "the values, or add them with fluxcube.add_predictor, which converts them."
            )


def check_values(forcing: xr.Dataset, *, hours: int = 48) -> None:
    """Read a sample of a forcing cube's land and refuse values that cannot be in the units of the variable table.

    Parameters
    ----------
    forcing : xr.Dataset
        A forcing cube.
    hours : int
        Number of time steps to read, from the middle of the record, at up to 64 land cells of one chunk.

    Raises
    ------
    ConfigError
        If more than half of the values of a predictor lie outside its bounds, such as kelvin for degrees Celsius or
        pascal for hectopascal, or one is infinite; the message names the first one.
    """
    row, column = (index[:1].tolist() for index in np.nonzero(forcing.land_fraction.values > 0))
    if not row:
        return
    at = {"latitude": slice(row[0], row[0] + 8), "longitude": slice(column[0], column[0] + 8)}
    middle = forcing.sizes["time"] // 2
    values = forcing.predictors.isel(at | {"time": slice(middle, middle + hours)}).values
    check_chunk(values, list(map(str, forcing["variable"].values)), resolution_of(forcing).name, margin=0.0)


def check_chunk(values: np.ndarray, names: Sequence[str], resolution: str, *, margin: float = 0.1) -> None:
    """Refuse values of predictors that are infinite, or cannot be in the units of the variable table.

    Parameters
    ----------
    values : (..., variable) array
        Values of land cells; NaN where they are missing.
    names : sequence of str
        Variables.
    resolution : str
        Resolution of the values, which determines their bounds.
    margin : float
        Fraction of its range by which a value may lie outside its bounds; small errors of numerics at night are not
        other units.

    Raises
    ------
    ConfigError
        If more than half of the values of a predictor lie outside its bounds, or one is infinite, which would otherwise
        be treated as missing; the message names the first predictor.
    """
    rows = table(resolution)
    for i, name in enumerate(names) if not _all_within(values, names, resolution) else ():
        found = values[..., i][~np.isnan(values[..., i])]
        if (count := int(np.isinf(found).sum())) > 0:
            raise ConfigError(
                f"{name} has {count} infinite values among {found.size} of the forcing: set them to NaN if they are "
                "missing, or correct what computes them."
            )
        if name not in rows or not found.size:
            continue
        low, high = rows[name].bounds
        beyond = margin * (high - low)
        if ((found < low - beyond) | (found > high + beyond)).mean() > 0.5:
            raise ConfigError(
                f"{name} has values such as {np.median(found):g}, which cannot be {rows[name].units} "
                f"({low:g} to {high:g}): it is in other units; convert it."
            )


def _all_within(values: np.ndarray, names: Sequence[str], resolution: str) -> bool:
    """Return whether all values (..., variable) that are not missing lie within the bounds of their variables."""
    if not values.size:
        return True
    rows = table(resolution)
    low, high = np.array([rows[x].bounds if x in rows else (-np.inf, np.inf) for x in names], np.float64).T
    # Many time steps beside each other make long rows, which are compared much faster than many short ones.
    flat = values.reshape(-1, len(names))
    long = flat[: len(flat) // _LONG * _LONG].reshape(-1, _LONG * len(names))
    rest = flat[len(flat) // _LONG * _LONG :]
    smallest, largest = (
        end.reduce(np.concatenate([end.reduce(long, axis=0, initial=np.nan).reshape(-1, len(names)), rest]), axis=0)
        for end in (np.fmin, np.fmax)
    )
    # Infinite values are refused even of a variable without bounds.
    within = np.isnan(smallest) | ((smallest >= low) & (largest <= high) & np.isfinite(smallest) & np.isfinite(largest))
    return bool(within.all())


def region_bytes(forcing: xr.Dataset, spec: FeatureSpec, *, hours: int, before: int, outputs: int) -> int:
    """Estimate the RAM that one chunk of maps takes while it is computed.

    Parameters
    ----------
    forcing : xr.Dataset
        Forcing cube, in chunks.
    spec : FeatureSpec
        Features of the model.
    hours : int
        Number of time steps of a chunk of maps.
    before : int
        Number of earlier time steps that are read, too.
    outputs : int
        Number of arrays that are written.

    Returns
    -------
    int
        Bytes, without those that a worker always needs.
    """
    chunks = forcing.predictors.chunksizes or dict.fromkeys(("latitude", "longitude"), (32,))
    cells = max(chunks["latitude"]) * max(chunks["longitude"])
    whole = max(chunks.get("time", (0,)))  # Dask reads whole chunks, then cuts
    span = hours + before
    read = 4 * (span + 2 * whole) * forcing.sizes["variable"]
    made = 4 * span * len(spec.inputs) * _COPIES + 4 * hours * outputs * 3
    images = 0
    if "modis" in forcing and spec.bands:
        days = sum(forcing.modis.sizes[d] for d in ("day",))
        days = min(days, (forcing.modis.chunksizes or {"day": (days,)})["day"][0] + span // HOURLY.steps_per_day + 2)
        images = 3 * 4 * 64 * len(spec.bands) * days * forcing.modis.sizes.get("block", 1)
    if "surface" in forcing and spec.surface_bands:
        days = span // spec.steps(1) + max(spec.surface_days, 32) + 4
        # As read, and in double precision: each band, each feature, and the columns of each day.
        columns = 3 * len(spec.surface_bands) + 3 * len(spec.surface)
        images += 8 * days * columns * forcing.surface.sizes.get("block", 1)
    for kind in spec.images:
        if kind.array in forcing:
            days = min(forcing.sizes[kind.dims[0]], span // spec.steps(1) + kind.hold_days + 4)
            images += 4 * 4 * kind.pixels * len(kind.bands) * days
    return int(cells * (read + made + images)) + _FORWARD
