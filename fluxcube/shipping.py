"""Train a model on every tower, calibrate it on predictions of folds, and copy it with a card: steps of `ship.py`.

The recipes `towers` and `daily` ship the models in `fluxcube/data/models` with these steps.
"""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import xarray as xr

from fluxcube.errors import ConfigError
from fluxcube.experiments import Variant, member_predictions
from fluxcube.models.checkpoint import PACKED
from fluxcube.models.ensemble import weighted_spread
from fluxcube.samples.splits import Split

#: Maximum size of a shipped model (bytes).
LARGEST = 8_000_000
#: Endings of the files that a model consists of.
_PARTS = (".json", ".safetensors", ".ubj")
#: Minimum number of towers of a class whose coverage a card reports.
FEWEST = 5
#: Ending of trees, which compression halves; weights of networks hardly change.
_TREES = ".ubj"
#: Records of a training that a model does not need.
_RECORDS = ("data.json", "search.json")


def every_tower(cube: xr.Dataset) -> Split:
    """Return a split in which every tower is used for training, and none is left to score."""
    sites = tuple(map(str, cube["site"].values))
    return Split(train=sites, kind="all", notes=("every tower is used for training; none is left to score",))


def average(predictions: Sequence[xr.Dataset]) -> xr.Dataset:
    """Return the mean of the predictions of several models, of the fluxes that all of them have."""
    names = [name for name in predictions[0] if all(name in one for one in predictions)]
    together = xr.concat([one[names] for one in predictions], "model", join="exact", combine_attrs="override")
    return together.mean("model", skipna=False, keep_attrs=True)


def with_spread(members: Sequence[xr.Dataset]) -> xr.Dataset:
    """Return the mean of the predictions of several models, and ``NAME_spread`` between them."""
    mean = average(members)
    for name in tuple(mean):
        stacked = xr.concat([one[name] for one in members], "model", join="exact")
        shares = [1 / len(members)] * len(members)
        mean[f"{name}_spread"] = stacked[0].copy(data=weighted_spread(stacked.values, shares).astype("float32"))
    return mean


def held_out_predictions(
    cube: xr.Dataset,
    folds: Sequence[Split],
    variant: Variant,
    out: str | Path,
    *,
    log: Callable[[str], object] = print,
) -> xr.Dataset:
    """Return predictions of the test towers of all folds, each by the models that were trained without it.

    Parameters
    ----------
    cube : xr.Dataset
        Cube of towers.
    folds : sequence of Split
        Folds whose test towers do not overlap.
    variant : Variant
        The model.
    out : path
        Folder of runs and predictions; what is finished there is not repeated.
    log : callable
        Called with one line of text for each finished step.

    Returns
    -------
    xr.Dataset
        ``NAME`` and ``NAME_spread`` (site, time) of each flux, as `fluxcube.calibrate` takes them.
    """
    made = [with_spread(member_predictions(cube, fold, variant, out, log=log)) for fold in folds]
    return xr.concat(made, "site", join="outer")


def ship(run: str | Path, folder: str | Path) -> None:
    """Copy the files of a run that a model consists of, without the records of its training; trees are compressed.

    Raises
    ------
    ConfigError
        If they are larger than `LARGEST`.
    """
    run, folder = Path(run), Path(folder)
    paths = [path for path in sorted(run.rglob("*")) if path.suffix in _PARTS and path.name not in _RECORDS]
    files = dict(_shipped_file(path, run) for path in paths)
    if (size := sum(map(len, files.values()))) > LARGEST:
        raise ConfigError(f"{run} has {size / 1e6:.1f} MB: at most {LARGEST / 1e6:.0f} MB are shipped.")
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _shipped_file(path: Path, run: Path) -> tuple[Path, bytes]:
    """Return the relative path and the content of a file that is shipped."""
    name, content = path.relative_to(run), path.read_bytes()
    if path.suffix != _TREES:
        return name, content
    return name.with_name(f"{name.name}{PACKED}"), gzip.compress(content, mtime=0)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; the first row is its header.

    Examples
    --------
    >>> print(markdown([["flux", "towers"], ["NEE", "125"]]))
    | flux | towers |
    | --- | --- |
    | NEE | 125 |
    """
    rows = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def coverage_table(calibration: Mapping[str, Mapping]) -> str:
    """Return what intervals contain of the values of towers in clusters that did not calibrate them, in Markdown.

    Parameters
    ----------
    calibration : mapping of str to mapping
        Calibration of each flux, as `fluxcube.calibrate` returns it.

    Returns
    -------
    str
        The shares of all towers, by level, and those of 80 % intervals for classes with at least `FEWEST` towers.
    """
    levels = list(next(iter(calibration.values()))["held_out"])
    head = ["flux", "towers", *(f"{float(level):.0%} intervals" for level in levels)]
    rows = [[n, str(v["sites"]), *(f"{v['held_out'][level]:.1%}" for level in levels)] for n, v in calibration.items()]
    first = next(iter(calibration.values()))["by_class"]
    classes = [name for name, one in first.items() if one["sites"] >= FEWEST]
    shares = [
        [name, *(f"{v['by_class'][c]['0.8']:.0%}" if c in v["by_class"] else "" for c in classes)]
        for name, v in calibration.items()
    ]
    return f"{markdown([head, *rows])}\n\n80 % intervals by class:\n\n{markdown([['flux', *classes], *shares])}"
