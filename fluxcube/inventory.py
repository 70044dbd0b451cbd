"""Describe raw archives, a cube or maps as text, without reading them whole."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.cubes.report import open_report
from fluxcube.errors import SourceError, StoreError, printable, to_type
from fluxcube.inference.loading import load_model
from fluxcube.inference.predictor import Predictor
from fluxcube.models import checkpoint, shipped
from fluxcube.resolution import DAILY, HOURLY, Resolution, resolution_of
from fluxcube.schema import DRIVERS, SURFACE_DIMS, USED_DRIVERS, driver_sources
from fluxcube.sources.towers.inspection import format_inspection, inspect_raw
from fluxcube.stores.ledger import done_regions
from fluxcube.stores.manifest import STORE_ID, verify
from fluxcube.stores.objects import Bucket, is_bucket, place
from fluxcube.stores.origin import DERIVED_FROM
from fluxcube.stores.reading import current_place, is_url, kept_ids, open_store, store_attrs
from fluxcube.stores.remote import verify_remote
from fluxcube.tabletext import counted

Progress = Callable[[int, int, str], None]

#: Maximum number of faults that are listed.
_FAULTS = 20
#: Maximum number of endings of files that a folder without towers is described by.
_ENDINGS = 5
#: Endings of files that are not of towers, what they may be, and what reads that, in Python and in the shell.
_READ_BY = (
    (".nc", "ERA5 in NetCDF is read by", "fc.open_forcing", "`fluxcube forcing` and `fluxcube upscale`"),
    (".hdf", "MODIS in HDF4 is read by", "fc.build_carbonsense(modis=...)", "`fluxcube build --modis`"),
    (".tif", "MODIS in GeoTIFF is read by", "fc.build_carbonsense(modis=...)", "`fluxcube build --modis`"),
)
#: Columns of the table of variables: shares of hours with each flag, or shares of days with some minimum quality.
_HEADINGS = {
    HOURLY: ("variable", "sites", "hours", "measured", "good", "medium", "poor", "sources"),
    DAILY: ("variable", "sites", "days", "quality 0.5", "0.75", "1", "sources"),
}


def inspect(
    path: str | os.PathLike,
    *,
    order: str = "newest",
    resolution: str = "hourly",
    max_files: int | None = 10,
    progress: Progress | None = None,
) -> str:
    """Describe the contents of a folder of raw archives, a cube, maps or a run: what is used, what is not, and why.

    No file is read whole: of archives, the names, headers and some table rows are read (`fluxcube.inspect_raw` returns
    the same as a table); of stores, the coordinates and the report.

    Parameters
    ----------
    path : path or URL
        Folder of raw archives, a store, the folder of a run, or the name of a model that ships with the package.
    order, resolution
        Options of the build to describe (raw archives only).
    max_files : int or None
        Maximum number of files to list for each reason why they are not used; None: all.
    progress : callable, optional
        ``progress(done, total, text)``.

    Returns
    -------
    str
        Several lines of text.

    Raises
    ------
    SourceError, StoreError
        If there is nothing at the path, it cannot be opened, or a folder contains no archives of towers.

    Examples
    --------
    >>> import fluxcube as fc
    >>> print(fc.inspect("downloads/"))  # doctest: +SKIP
    """
    if is_bucket(path) and is_run_in(place(path)):
        return "\n".join(_model(load_model(path)))
    if not is_url(path) and _is_run(Path(path)):
        return "\n".join(_model(load_model(path)))
    if not is_url(path) and not (Path(path) / "zarr.json").is_file():
        table = inspect_raw(path, order=order, resolution=resolution, progress=progress)
        text = format_inspection(table, max_files=max_files)
        if not table.site.ne("").any():
            raise SourceError(_no_tower(Path(path), f"\n{text}" if len(table) else ""))
        return text
    state = current_place(path)  # one for all that is read, also if a writer replaces it meanwhile
    kind = store_attrs(state).get("kind")
    return "\n".join(_cube(path, state, max_files) if kind == "cube" else _other(state, str(kind)))


def _no_tower(path: Path, ignored: str) -> str:
    """Return that a path has no archives of towers, what was expected, what was found instead, and what reads that."""
    names = [path.name] if path.is_file() else [name for _, _, names in os.walk(path) for name in names]
    endings = Counter(printable(Path(name).suffix.lower()) or "other" for name in names)
    found = ", ".join(counted(n, f"{ending} file") for ending, n in endings.most_common(_ENDINGS)) or "no file"
    add = to_type(python="fc.add_site", shell="`fluxcube add-site`")
    hints = [f" {what} {to_type(python=p, shell=s)}." for end, what, p, s in _READ_BY if end in endings]
    return (
        f"{path}: no archive of a tower was found. Expected archives as networks publish them, such as "
        "FLX_US-MMS_FLUXNET2015_FULLSET_1999-2014_1-4.zip; a table of your own is added to a cube by "
        f"{add}. Found {found}.{''.join(hints)}{ignored}"
    )


def verify_store(store: str | os.PathLike, *, progress: Progress | None = None) -> str:
    """Read every file of a cube, a forcing or maps, and compare it with the checksums that were written with it.

    Parameters
    ----------
    store : path or URL
        A complete store.
    progress : callable, optional
        ``progress(done, total, text)``.

    Returns
    -------
    str
        One line with the identifier of the content.

    Raises
    ------
    StoreError
        If a file is missing, was changed or is damaged (the message lists the first ones), or if the store has no
        manifest.
    """
    found = verify_remote(str(store), progress=progress) if is_url(store) else verify(store, progress=progress)
    if found.faults:
        listed = "\n  ".join(found.faults[:_FAULTS])
        more = f"\n  and {len(found.faults) - _FAULTS} more" if len(found.faults) > _FAULTS else ""
        raise StoreError(f"{store}: {len(found.faults)} files are not as they were written:\n  {listed}{more}")
    return f"{store}: {found.files} files are as they were written; store_id {found.store_id}"


def is_run_in(folder: Path | Bucket) -> bool:
    """Return whether a bucket contains a finished run at a URL."""
    names = (checkpoint.RUN, checkpoint.ENSEMBLE)
    return isinstance(folder, Bucket) and any(folder.read(name) is not None for name in names)


def _is_run(path: Path) -> bool:
    """Return whether a path is the folder of a run, or the name of a shipped model."""
    if any((path / name).is_file() for name in (checkpoint.RUN, checkpoint.ENSEMBLE)):
        return True
    return not path.exists() and path.parts[:1] != () and path.parts[0] in shipped.names()


def _model(predictor: Predictor, indent: str = "") -> Iterator[str]:
    """Yield the targets, inputs, windows, training towers and uncertainty of a run, and those of its members."""
    spec, inner = predictor.spec, f"{indent}  "
    yield f"{indent}{predictor!r}"
    yield f"{inner}resolution {spec.resolution}, context {predictor.model.context} {spec.time_resolution.steps}"
    bands = [f"band {band}" for band in spec.bands]
    bands += [f"band {band} of {kind.array}" for kind in spec.images for band in kind.bands]
    yield f"{inner}inputs: {', '.join((*spec.inputs, *bands, *spec.static))}"
    if sites := predictor.metadata.get("training_sites"):
        drivers = (predictor.metadata.get("cube") or {}).get(USED_DRIVERS)
        yield f"{inner}trained on {counted(len(sites), 'tower')}{f' with drivers {drivers}' if drivers else ''}"
    yield from (f"{inner}{line}" for line in _data_of(predictor))
    yield from (f"{inner}uncertainty of {name}: {_uncertainty(predictor, name)}" for name in spec.targets)
    if predictor.has_training_days:
        yield f"{inner}area of applicability: dissimilarity up to {predictor.threshold:.3g}"
    if predictor.singles != (predictor,):
        for part in predictor.singles:
            yield from _model(part, inner)


def _data_of(predictor: Predictor) -> Iterator[str]:
    """Yield the store that a run was trained on."""
    record = predictor.metadata.get("cube") or {}
    if STORE_ID in record:
        yield f"cube: {STORE_ID} {record[STORE_ID]}"
    elif DERIVED_FROM in record:
        yield f"cube: selected or changed after it was opened from {STORE_ID} {record[DERIVED_FROM]}"


def _uncertainty(predictor: Predictor, name: str) -> str:
    """Return the measures of uncertainty of a target, with the formula of its standard deviation."""
    measures = [f"{name}_spread"] if "spread" in predictor.quantities else []
    if model := predictor.error_models.get(name):
        measures.append(f"{name}_std = {model.formula(name)}")
    elif name in predictor.calibrated:
        measures.append(f"{name}_std, calibrated on validation towers")
    return "; ".join(measures) or "none"


def _cube(path: str | os.PathLike, store: str | os.PathLike, max_files: int | None) -> Iterator[str]:
    ds = open_store(store, kind="cube", dask=False)
    resolution = resolution_of(ds)
    first, last = ds.time_start.values.min(), ds.time_stop.values.max()
    yield f"{path}: {resolution} cube of {counted(ds.sizes['site'], 'site')}, {_day(first)} to {_day(last)}"
    settings = ("clock", "fusion_rule", "fluxcube_version")
    yield "  " + ", ".join(f"{name} {ds.attrs[name]}" for name in settings if name in ds.attrs)
    yield from _states(path, ds.attrs.get(STORE_ID))
    yield "  classes: " + _counted(ds.igbp.values)
    yield "  networks: " + _counted([name for text in ds.network.values for name in text.split(";")])
    yield from _of_satellite(ds, resolution)
    yield from _of_drivers(ds)
    yield ""
    shares = {HOURLY: _of_hours, DAILY: _of_days}[resolution]
    yield from _aligned([_HEADINGS[resolution], *_of_variables(open_report(store), shares(store))])
    yield from _left_out(store, max_files)


def _states(path: str | os.PathLike, store_id: object) -> Iterator[str]:
    """Yield the identifier of a cube, and those of its earlier states that are kept."""
    if store_id:
        yield f"  store_id {store_id}"
    if earlier := [name for name in kept_ids(path) if name != store_id]:
        yield f"  earlier states that are kept: {', '.join(earlier)}"


def _of_drivers(ds: xr.Dataset) -> Iterator[str]:
    """Yield the other sources of drivers of a cube: sites, variables and what they were read from."""
    for name in driver_sources(ds):
        attrs = {key: str(value) for key, value in ds[DRIVERS + name].attrs.items()}
        sites = f"{len(attrs.get('sites', '').split())} of {counted(ds.sizes['site'], 'site')}"
        yield f"  drivers {name}: {sites}, {attrs.get('variables', '')} ({attrs.get('source', 'unknown')})"


def _of_satellite(ds: xr.Dataset, resolution: Resolution) -> Iterator[str]:
    """Yield the satellite data of a cube: product and days; of surface reflectance also bands and clear days."""
    for name, day in (("modis", "day"), ("surface", resolution.surface_dim)):
        if name in ds:
            days = int(ds[f"{day}_held"].values.sum()) if f"{day}_held" in ds.coords else ds.sizes[day]
            product = " ".join(str(ds[name].attrs[key]) for key in ("product", "collection") if ds[name].attrs.get(key))
            yield f"  satellite: {name}{f' ({product})' if product else ''} on {counted(days, 'day')}"
    if "surface" in ds:
        yield from _of_reflectance(ds, resolution)


def _of_reflectance(ds: xr.Dataset, resolution: Resolution) -> Iterator[str]:
    """Yield the bands of the surface reflectance of a cube, and the share of clear days at its towers."""
    day, band = SURFACE_DIMS[resolution.name]
    yield f"    bands: {', '.join(map(str, ds[band].values))}"
    clear = ds.surface.isel({band: 0}).notnull().transpose("site", day).values
    first, last = (ds[name].values.astype("datetime64[D]")[:, None] for name in ("time_start", "time_stop"))
    dates = ds[day].values.astype("datetime64[D]")
    share = (clear & (dates >= first) & (dates <= last)).sum(1) / ((last - first).astype(int)[:, 0] + 1)
    without = ds.site.values[~clear.any(1)]
    yield (
        f"    clear on {np.median(share):.0%} of the days of the median tower ({share.min():.0%} to {share.max():.0%})"
        + (f"; none at {', '.join(map(str, without))}" if len(without) else "")
    )


def _of_variables(fusion: pd.DataFrame, shares: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """Yield one line per variable: number of sites and values, their quality, and their sources."""
    for name, rows in fusion.groupby("variable", sort=False):
        percentages = (f"{100 * share:.0f} %" if pd.notna(share) else "" for share in shares.loc[name])
        yield (
            str(name),
            str(rows.site.nunique()),
            f"{int(rows.hours.sum()):,}",
            *percentages,
            ", ".join(sorted(set(rows.source))),
        )


def _of_hours(store: str | os.PathLike) -> pd.DataFrame:
    """Return the shares of each variable's hours with each flag."""
    fusion = open_report(store)
    sums = fusion.groupby("variable")[["hours", "flag0", "flag1", "flag2", "flag3"]].sum()
    return sums.iloc[:, 1:].div(sums.hours, axis=0)


def _of_days(store: str | os.PathLike) -> pd.DataFrame:
    """Return the shares of each variable's days of quality at least 0.5, at least 0.75, and 1."""
    quality = open_report(store, "quality")
    kept = [f"remain{i}" for i in range(3)]
    kept_days = quality[kept].mul(quality.days, axis=0).groupby(quality.variable).sum()
    return kept_days.div(quality.groupby("variable").days.sum(), axis=0)


def _left_out(store: str | os.PathLike, max_files: int | None) -> Iterator[str]:
    """Yield the sites and files that are not in a cube, and the warnings about those that are."""
    left, notes = open_report(store, "left_out"), open_report(store, "notes")
    for title, lines in (
        (
            "not in it",
            [f"{row.name}: {row.why}" for row in left.drop(columns="what").itertuples(index=False, name="Row")],
        ),
        ("to know", [f"{row.site}: {row.text}" for row in notes[notes.kind == "warning"].itertuples()]),
        (
            "lost before",
            [f"{text} ({counted(n, 'site')})" for text, n in _by_text(notes[notes.kind == "lost"])],
        ),
    ):
        if lines:
            yield from ("", f"{title} ({len(lines)}):", *(f"  {line}" for line in lines[:max_files]))
            if len(lines) > len(lines[:max_files]):
                yield f"  and {len(lines) - len(lines[:max_files])} more: fluxcube.open_report(store, ...)"


def _by_text(notes: pd.DataFrame) -> list[tuple[str, int]]:
    """Return each text once with its number of sites, in order of first appearance."""
    return list(notes.groupby("text", sort=False).site.nunique().items())


def _other(store: str | os.PathLike, kind: str) -> Iterator[str]:
    """Yield the contents of maps (or of a store of another kind), and whether they are complete."""
    ds = open_store(store, kind=kind, allow_partial=True)
    sizes = ", ".join(f"{name} {size}" for name, size in ds.sizes.items())
    yield f"{store}: {kind}: {', '.join(map(str, ds.data_vars))} on {sizes}"
    if "time" in ds.coords:
        yield f"  {ds.time.values[0].astype('datetime64[h]')} to {ds.time.values[-1].astype('datetime64[h]')} UTC"
    for name in ("model", "masked_predictors", "stride", "fluxcube_version"):
        if ds.attrs.get(name):
            yield f"  {name}: {ds.attrs[name]}"
    if not store_attrs(store).get("complete"):
        total = f" of {ds.attrs['regions']}" if "regions" in ds.attrs else ""
        written = f"{len(done_regions(store))}{total} regions are written"
        yield f"  NOT COMPLETE: {written}; run the command that writes it again to continue"
    for step in ("hours", "days"):
        if land := ds.attrs.get(f"land_cell_{step}"):
            share = ds.attrs[f"missing_cell_{step}"] / land
            yield f"  complete; {share:.1%} of the land's cell-{step} have no value"


def _day(time: np.datetime64) -> str:
    return str(time.astype("datetime64[D]"))


def _counted(labels: Iterable[str]) -> str:
    counts = pd.Series(list(labels), dtype=object).replace("", "unknown").value_counts()
    return ", ".join(f"{label} {count}" for label, count in sorted(counts.items()))


def _aligned(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
