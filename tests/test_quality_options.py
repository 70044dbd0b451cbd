"""Every option of quality does something or is refused, in every public function and every command."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys

import numpy as np
import pytest
import xarray as xr

import fluxcube
from fluxcube import catalog, cli
from fluxcube.cubes import selection
from fluxcube.errors import ConfigError
from fluxcube.experiments import Variant, score_variants, trained
from fluxcube.resolution import ALL, DAILY, HOURLY, quality_limit, resolution_of
from fluxcube.samples.splits import per_igbp
from fluxcube.samples.towers import cube_spec
from fluxcube.simulation.example import example_cube

OPTIONS = {row.option for row in ALL.values()}
#: Functions of one option, or that are the rule itself; whoever calls them has refused the other option before.
RULE = {
    "fluxcube.resolution.quality_limit",
    "fluxcube.cubes.masks.mask_flags",
    "fluxcube.cubes.masks.mask_quality",
    "fluxcube.evaluation.common_steps.in_common_steps",
}
OTHER = {"max_qc": "min_quality", "min_quality": "max_qc"}
VALUES = {"max_qc": (0, 1, 3, None), "min_quality": (0.0, 0.5, 1.0, None)}


def with_options(functions: dict) -> dict:
    return {name: f for name, f in functions.items() if OPTIONS & set(inspect.signature(f).parameters)}


def public_functions() -> dict:
    """Every function of every module whose name has no underscore, by where it is defined."""
    found = {}
    for info in pkgutil.walk_packages(fluxcube.__path__, "fluxcube."):
        for name, item in vars(importlib.import_module(info.name)).items():
            if inspect.isfunction(item) and not name.startswith("_") and item.__module__ == info.name:
                found[f"{info.name}.{name}"] = item
    return found


def commands() -> dict:
    """Every command's function, by its name on the command line."""
    apps = [cli.app, *(group.typer_instance for group in cli.app.registered_groups)]
    return {c.name or c.callback.__name__: c.callback for app in apps for c in app.registered_commands}


@pytest.fixture(scope="module")
def hourly():
    return example_cube(sites=12, days=8)


@pytest.fixture(scope="module")
def daily(hourly):
    """A daily cube of the same sites, as small as it can be and be one."""
    cube = hourly.isel(time=slice(0, None, 24)).sel(variable=["DOY", "TA", "SW_IN", "VPD"], target=["NEE"])
    keep = cube[["predictors", "fluxes"]]
    share = keep.rename({name: f"{name}_quality" for name in keep}) * 0 + 1
    days = cube.time.values.astype("datetime64[D]").astype("datetime64[ns]")
    units = ("target", np.array(["gC m-2 d-1"], object))
    made = keep.assign(share).assign_coords(time=days, target_units=units)
    return made.assign_attrs(hourly.attrs | {"resolution": "daily"})


@pytest.fixture
def cube_of(hourly, daily):
    return {HOURLY: hourly, DAILY: daily}.__getitem__


def arguments(function, cube, folder) -> dict:
    """Values of the parameters that a function needs, by name; a new name must be added here."""
    known = {
        "cube": cube,
        "ds": cube,
        "obs": cube,
        "pred": cube.fluxes,
        "models": {"one": cube.fluxes, "two": cube.fluxes},
        "predictions": {"one": cube.fluxes, "two": cube.fluxes},
        "masks": xr.Dataset(),
        "members": {"one": [cube.fluxes, cube.fluxes]},
        "sites": [str(site) for site in cube.site.values],
        "split": per_igbp(cube, seed=0),
        "splits": {"fold": per_igbp(cube, seed=0)},
        "variants": [Variant(label="one", model="xgboost")],
        "out": folder / "out",
        "run": folder / "run",
        "qc": None,
        "max_fill_days": None,
        "store": folder / "cube.zarr",
        "max_qc": None,
        "min_quality": None,
    }
    needed = [p for p in inspect.signature(function).parameters.values() if p.kind != p.VAR_KEYWORD]
    needed = [p.name for p in needed if p.default is p.empty or p.name in ("sites", "store", "predictions")]
    if "spec" in inspect.signature(function).parameters:
        known["spec"] = cube_spec(cube)
        needed.append("spec")
    assert set(needed) <= set(known), f"tell this test what to pass as {set(needed) - set(known)}"
    return {name: known[name] for name in needed}


PUBLIC = {f"fluxcube.{name}": getattr(fluxcube, name) for name in fluxcube.__all__ if name != "__version__"}
PUBLIC = {name: f for name, f in PUBLIC.items() if inspect.isfunction(f)} | public_functions()
PUBLIC = {name: f for name, f in with_options(PUBLIC).items() if name not in RULE and f not in commands().values()}


def test_what_is_walked_is_there():
    names = {"fit", "evaluate", "compare", "load_windows", "open_carbonsense"}
    assert {f"fluxcube.{name}" for name in names} <= set(PUBLIC)
    assert {"train", "evaluate"} <= set(with_options(commands()))
    for name in ("evaluation.sums.site_sums", "evaluation.scales.scale_table", "training.search.random_search"):
        assert f"fluxcube.{name}" in PUBLIC


@pytest.mark.parametrize("name", [*PUBLIC, *with_options(commands())])
def test_both_options_are_there(name):
    function = PUBLIC.get(name) or commands()[name]
    assert set(inspect.signature(function).parameters) >= OPTIONS, "one option would be wrong for half of all cubes"


@pytest.mark.parametrize("row", ALL.values(), ids=str)
@pytest.mark.parametrize("name", PUBLIC)
def test_a_function_refuses_the_option_of_the_other_resolution(name, row, cube_of, tmp_path, monkeypatch):
    cube, other = cube_of(row), OTHER[row.option]
    function = PUBLIC[name]
    monkeypatch.setattr(selection, "open_store", lambda *args, **options: cube)
    passed = arguments(function, cube, tmp_path)
    # None is "all" where the default is something else, and the default where nothing is masked by default
    values = [v for v in VALUES[other] if v is not None or inspect.signature(function).parameters[other].default]
    for value in values:
        if value is None and other in passed:
            continue
        with pytest.raises(ConfigError, match=rf"{other}=.*{row.option}="):
            function(**passed | {other: value})
    assert not (tmp_path / "out").exists(), "refused before anything is written"


@pytest.mark.parametrize("row", ALL.values(), ids=str)
@pytest.mark.parametrize("name", with_options(commands()))
def test_a_command_refuses_the_option_of_the_other_resolution(name, row, cube_of, tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "open_carbonsense", lambda store, **selection: cube_of(row))
    folder = tmp_path / "run"
    settings = "--set config.n_estimators=3 --model xgboost --no-chips --predictors TA,SW_IN --static igbp --target NEE"

    def run(line: str) -> str:
        """Return the error of a command; "" where it succeeds."""
        monkeypatch.setattr(sys, "argv", ["fluxcube", *line.split()])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return str(ended.value.code or "")

    lines = {"train": f"train c.zarr {folder} {settings}", "evaluate": f"evaluate {folder} c.zarr --part all --draws 0"}
    lines["report"] = f"report one={folder} --cube c.zarr --out {tmp_path / 'page'} --part all --draws 0"
    lines["energy"] = "energy c.zarr"
    lines["calibrate"] = f"calibrate {folder} c.zarr {folder}"
    lines["plot"] = f"plot c.zarr {tmp_path / 'cycle.png'} --kind cycle --by all"
    assert name in lines, f"write here how {name} is called"
    if name != "train":
        assert run(lines["train"]) == ""
    own, other = (option.replace("_", "-") for option in (row.option, OTHER[row.option]))
    for value in ("all", "1"):
        text = run(f"{lines[name]} --{other} {value}")
        assert f"{OTHER[row.option]}=" in text and f"expected {row.option}=" in text
    assert folder.exists() == (name != "train")
    assert "must be a number, or all" in run(f"{lines[name]} --{own} many")
    accepted = run(f"{lines[name]} --{own} all")
    lacking = {"energy": "LE, H, NETRAD", "plot": "no tower has a complete"}  # what these towers lack
    assert lacking[name] in accepted if name in lacking else accepted == "", accepted


@pytest.mark.parametrize("row", ALL.values(), ids=str)
def test_an_experiment_refuses_the_option_of_the_other_resolution(row, cube_of, tmp_path):
    cube = cube_of(row)
    other = {HOURLY: {"min_quality": 0.5}, DAILY: {"target_qc": 1}}[row]
    variant, split = Variant(label="one", model="xgboost", **other), per_igbp(cube, seed=0)
    for call in (
        lambda: trained(cube, split, variant, tmp_path),
        lambda: score_variants(cube, {"fold": split}, [variant], tmp_path),
    ):
        with pytest.raises(ConfigError, match=f"{next(iter(other))}=.*{row.option}"):
            call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("row", "value"),
    [(HOURLY, 4), (HOURLY, 0.5), (HOURLY, True), (DAILY, 1.5), (DAILY, -1), (DAILY, "0.5"), (DAILY, True)],
)
def test_impossible_limits_are_named(row, value):
    with pytest.raises(ConfigError, match=rf"{row.option}={value!r}: expected"):
        quality_limit(row, **{row.option: value}, default=None)


def test_an_option_changes_what_is_used(hourly, daily):
    noise = np.random.default_rng(0).choice(np.float32([0, 0.5, 1]), daily.fluxes.shape)
    cubes = {HOURLY: hourly, DAILY: daily.assign(fluxes_quality=daily.fluxes_quality * 0 + noise)}
    for row, cube in cubes.items():
        counts, fluxes = [], ("NEE",)
        for value in sorted(v for v in VALUES[row.option] if v is not None):
            spec = cube_spec(cube, targets=fluxes)
            windows = fluxcube.load_windows(cube, spec, length=1, partial=True, **{row.option: value})
            counts.append(int(windows.towers.observed().sum()))
            scored = fluxcube.evaluate(cube, cube.fluxes.sel(target=list(fluxes)), **{row.option: value})
            assert scored.attrs[row.option] == value and resolution_of(scored) is row
            assert int(scored.n.sum()) == int(np.isfinite(windows.towers.fluxes).sum())
        assert counts == sorted(counts, reverse=not row.lower_is_better) and len(set(counts)) > 1
