"""The house's rules, read from the code: imports go one way, few modules write files, importing is free."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fluxcube

PACKAGE = Path(fluxcube.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

#: Each layer may import those before it and, where marked, its own; `docs/architecture.md` draws it.
LAYERS = [
    {"errors"},
    {"variables", "biomes"},
    {"timestamps", "humidity", "indices", "normalisation", "units", "decimals", "scores"},
    {"solar"},
    {"schema", "geometry"},
    {"stores"},
    {"sources", "simulation"},
    {"cubes"},
    {"samples"},
    {"models", "maps"},
    {"training", "inference"},
    {"plotting"},
    {"evaluation"},
    {"catalog", "inventory"},
    {"demo", "experiments", "terminal"},
    {"cli_maps"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

#: Who may open a file for writing, and why.
WRITERS = {
    "stores/": "cubes, forcing and maps, and the folders they are built in",
    "sources/era5/unpacked.py": "a zip's NetCDF, in the user's own temporary folder",
    "models/checkpoint.py": "weights",
    "samples/partition.py": "a split is a small file",
    "training/": "training state and logs",
    "maps/netcdf.py": "maps for other programs",
    "plotting/": "pictures",
    "evaluation/report.py": "score tables",
    "simulation/": "the simulated planet's raw files",
    "demo.py": "the demo's summary",
    "experiments.py": "folders of runs and predictions",
    "cli.py": "tables a user asked for",
    "cli_maps.py": "tables a user asked for",
}
WRITING_CALLS = {
    "write_text",
    "write_bytes",
    "to_netcdf",
    "to_csv",
    "to_zarr",
    "savez",
    "savefig",
    "mkdir",
    "save_file",
}


def part(path: Path) -> str:
    """First component below the package: `cubes/hourly.py` -> `cubes`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Every fluxcube part that a module imports, lazily or not."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names = [
                f"{node.module}.{alias.name}" if node.module == "fluxcube" else node.module for alias in node.names
            ]
        found |= {name.split(".")[1] for name in names if name.startswith("fluxcube.")}
    return found - {"__version__"}


@pytest.mark.parametrize("path", [p for p in MODULES if p.parent != PACKAGE or p.name != "__init__.py"], ids=str)
def test_imports_go_one_way(path):
    here = part(path)
    assert here in LEVEL, f"{here} has no place in the order of layers"
    for other in imported(path):
        assert LEVEL[other] < LEVEL[here] or other == here, f"{path.name} ({here}) must not import {other}"


def test_models_see_tensors_only():
    for path in (PACKAGE / "models").glob("*.py"):
        assert imported(path) <= {"errors", "models"}, path
        text = path.read_text("utf-8")
        assert "import xarray" not in text and "import pandas" not in text, path


def test_maps_know_no_model_and_models_know_no_map_store():
    for path in (PACKAGE / "maps").glob("*.py"):
        assert not imported(path) & {"models", "samples", "training", "inference"}, path
    for path in (PACKAGE / "inference").glob("*.py"):
        assert "maps" not in imported(path), path


def test_kernels_are_numpy_only():
    tree = ast.parse((PACKAGE / "scores.py").read_text("utf-8"))
    modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    modules |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert modules <= {"__future__", "numpy", "collections.abc", "typing"}


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_only_known_modules_write_files(path):
    name = path.relative_to(PACKAGE).as_posix()
    if any(name == writer or (writer.endswith("/") and name.startswith(writer)) for writer in WRITERS):
        return
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr not in WRITING_CALLS, f"{name}:{node.lineno} writes a file"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
            mode = [a.value for a in node.args[1:2] if isinstance(a, ast.Constant)] or ["r"]
            assert not set("wax+") & set(mode[0]), f"{name}:{node.lineno} opens a file for writing"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_nothing_unsafe_and_nothing_swallowed(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ExceptHandler):
            caught = getattr(node.type, "id", "everything" if node.type is None else "")
            assert caught not in ("everything", "Exception", "BaseException"), (
                f"{path}:{node.lineno} catches everything"
            )
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec"), f"{path}:{node.lineno}"
            assert node.func.id != "print" or path.name == "cli.py", f"{path}:{node.lineno} prints"
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [a.name for a in node.names] + [getattr(node, "module", "") or ""]
            assert not any(n.split(".")[0] in ("pickle", "dill", "joblib") for n in names), f"{path}:{node.lineno}"
            # Lists the opcodes of a pickle without running them; one module reads arrays out of that list.
            listed = any(n.split(".")[0] == "pickletools" for n in names)
            assert not listed or path.name == "arraypickle.py", f"{path}:{node.lineno}"


def test_import_is_free():
    code = "import sys, fluxcube; print(sorted(m for m in ('xarray', 'torch', 'numpy', 'yaml') if m in sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_face_is_there():
    missing = [name for name in fluxcube.__all__ if not getattr(fluxcube, name, None)]
    assert not missing
    with pytest.raises(AttributeError, match="upscale"):
        _ = fluxcube.upscail
