"""The rules of the architecture, read from the code: imports go one way, few modules write files, importing is free."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import fluxcube

PACKAGE = Path(fluxcube.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

#: Each part of the package may import parts of the layers before its own, and itself; see `docs/architecture.md`.
LAYERS = [
    {"cards", "errors", "interrupts", "parsing", "processes"},
    {"variables", "biomes", "knownsites", "devices", "extensions", "messages", "progress", "tabletext"},
    {"citations", "timestamps", "humidity", "indices", "normalisation", "units", "decimals", "moments"},
    {"solar", "resolution", "scores"},
    {"schema", "geometry"},
    {"stores"},
    {"exports"},
    {"sources", "simulation"},
    {"cubes"},
    {"samples"},
    {"models", "maps"},
    {"training", "inference"},
    {"fetch"},
    {"plotting"},
    {"evaluation", "baselines"},
    {"figures"},
    {"distillation"},
    {"reports"},
    {"catalog", "inventory"},
    {"demo_fetch"},
    {"demo", "experiments", "terminal"},
    {"recipes", "shipping", "protocol_runs"},
    {"planning"},
    {"catalogfile"},
    {
        "cli_extensions",
        "cli_fetch_era5",
        "cli_fetch_modis",
        "cli_fetch_towers",
        "cli_grids",
        "cli_maps",
        "cli_models",
        "cli_protocols",
        "cli_report",
        "cli_sites",
        "cli_split",
        "cli_train",
    },
    {"cli_fetch", "cli_demo", "cli_plot"},
    {"cli"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

#: Modules that may open a file for writing, and what they write.
WRITERS = {
    "stores/": "cubes, forcing and maps, and the folders they are built in",
    "sources/era5/unpacked.py": "NetCDF from a zip file, in the user's temporary folder",
    "models/checkpoint.py": "weights",
    "samples/partition.py": "a split is a small file",
    "training/": "training state and logs",
    "exports/": "files for other programs",
    "maps/export.py": "the folder of exported maps",
    "fetch/": "downloads, their ledger and their licence",
    "plotting/": "figures",
    "evaluation/report.py": "score tables",
    "evaluation/protocols/files.py": "the files that benchmarks take",
    "reports/write.py": "the page of a report, its tables and its figures",
    "reports/gather.py": "predictions of the runs of a report",
    "simulation/": "the simulated planet's raw files",
    "devices.py": "locks of the temporary folder, by which processes of a machine share its cards",
    "demo.py": "the demo's summary",
    "experiments.py": "folders of runs and predictions",
    "shipping.py": "shipped models",
    "recipes.py": "the output folder of a recipe",
    "protocol_runs.py": "the folder of a sample",
    "catalogfile.py": "the catalog",
    "tabletext.py": "no file: CSV as text",
    "cli.py": "tables that the user requests",
    "cli_maps.py": "tables that the user requests",
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


#: Modules that import modules of fluxcube by a name in a string, which the tests below cannot follow, and why.
IMPORT_BY_NAME = {
    "__init__.py": "the public names, on first use",
    "fetch/__init__.py": "the public names, on first use",
    "models/registry.py": "a model's class, on first use",
    "samples/lightning.py": "lightning, where it is installed",
    "training/loggers.py": "the package of a logger, which is no module of fluxcube",
    "simulation/__init__.py": "the public names, on first use",
}
#: Maximum number of lines of a module.
LONGEST_MODULE = 600


def module_name(path: Path) -> str:
    """Dotted name of a module: `cubes/hourly.py` -> `fluxcube.cubes.hourly`."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part(module: str) -> str:
    """Part of the package that contains a module: `fluxcube.cubes.hourly` -> `cubes`."""
    return module.split(".")[1]


@functools.cache
def source(path: Path) -> str:
    """Text of a module."""
    return path.read_text("utf-8")


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    """Every node of a module's syntax tree; each module is parsed once, by the first test that needs it."""
    return list(ast.walk(ast.parse(source(path))))


@pytest.fixture(scope="module", autouse=True)
def _release():
    """Release the syntax trees afterwards, which would slow down every collection of garbage."""
    yield
    nodes.cache_clear()


def imported_modules(path: Path) -> set[str]:
    """Modules of fluxcube that a module imports: at its top, inside functions, or for type checking only."""
    modules = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: relative import; write the full name"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            modules |= submodules & NAMES or {str(node.module)}
    return modules & NAMES - {"fluxcube"}  # `from fluxcube import __version__` is always possible


NAMES = {module_name(path) for path in MODULES}


@functools.cache
def imports() -> dict[str, set[str]]:
    """Modules of fluxcube that each module imports."""
    return {module_name(path): imported_modules(path) for path in MODULES}


def imported(path: Path) -> set[str]:
    """Parts of fluxcube that a module imports."""
    return {part(name) for name in imports()[module_name(path)]}


def circles(modules: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others (strongly connected components)."""

    def reachable(start: str) -> set[str]:
        seen, todo = set(), [start]
        while todo:
            new = modules[todo.pop()] - seen
            seen |= new
            todo += new
        return seen

    reach = {name: reachable(name) for name in modules}
    groups = {frozenset(n for n in reach[name] if name in reach[n]) for name in modules if name in reach[name]}
    return sorted(sorted(group) for group in groups)


def test_no_modules_import_each_other():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}) == [["a", "b", "c"]]
    assert circles(imports()) == []


def test_imports_go_one_way():
    faults = []
    for path in MODULES:
        if path == PACKAGE / "__init__.py":
            continue
        here = part(module_name(path))
        assert here in LEVEL, f"{here} has no place in the order of layers"
        wrong = sorted(other for other in imported(path) if LEVEL[other] >= LEVEL[here] and other != here)
        faults += [f"{path} ({here}) must not import {other}" for other in wrong]
    assert not faults, faults


def test_only_known_modules_import_by_name():
    by_name = {p for p in MODULES if "import_module(" in source(p) or "__import__(" in source(p)}
    names = {path.relative_to(PACKAGE).as_posix() for path in by_name}
    assert names == set(IMPORT_BY_NAME), names ^ set(IMPORT_BY_NAME)


def test_modules_are_short():
    lengths = {path: len(source(path).splitlines()) for path in MODULES}
    faults = {path.name: n for path, n in lengths.items() if n > LONGEST_MODULE}
    assert not faults, f"split these modules by task: {faults}"


def test_models_see_tensors_only():
    for path in (PACKAGE / "models").glob("*.py"):
        assert imported(path) <= {"devices", "errors", "extensions", "interrupts", "models", "moments", "parsing"}, path
        text = source(path)
        assert "import xarray" not in text and "import pandas" not in text, path


def test_maps_know_no_model_and_models_know_no_map_store():
    for path in (PACKAGE / "maps").rglob("*.py"):
        assert not imported(path) & {"models", "samples", "training", "inference", "evaluation"}, path
    for folder in ("models", "samples", "training", "inference"):
        for path in (PACKAGE / folder).rglob("*.py"):
            assert "maps" not in imported(path), path


def test_kernels_are_numpy_only():
    found = nodes(PACKAGE / "moments.py")
    modules = {n.module for n in found if isinstance(n, ast.ImportFrom)}
    modules |= {a.name for n in found if isinstance(n, ast.Import) for a in n.names}
    assert modules <= {"__future__", "numpy", "collections.abc", "typing"}


def is_writer(path: Path) -> bool:
    """Return whether a module is listed in WRITERS, itself or by its folder."""
    name = path.relative_to(PACKAGE).as_posix()
    return any(name == writer or (writer.endswith("/") and name.startswith(writer)) for writer in WRITERS)


def writes(node: ast.AST) -> bool:
    """Return whether a node is a call that writes a file."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr in WRITING_CALLS
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
        mode = [a.value for a in node.args[1:2] if isinstance(a, ast.Constant)] or ["r"]
        return bool(set("wax+") & set(mode[0]))
    return False


def test_only_known_modules_write_files():
    others = [path for path in MODULES if not is_writer(path)]
    faults = [f"{path}:{node.lineno}" for path in others for node in nodes(path) if writes(node)]
    assert not faults, faults


def unsafe(path: Path, node: ast.AST) -> str:
    """Return what a node does that no module may do, or an empty text."""
    if isinstance(node, ast.ExceptHandler):
        caught = getattr(node.type, "id", "everything" if node.type is None else "")
        return "catches everything" if caught in ("everything", "Exception", "BaseException") else ""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        printing = node.func.id == "print" and path.name != "cli.py"
        return node.func.id if printing or node.func.id in ("eval", "exec") else ""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        names = [a.name for a in node.names] + [getattr(node, "module", "") or ""]
        roots = {name.split(".")[0] for name in names}
        # pickletools lists the opcodes of a pickle without running them; one module reads arrays out of that list.
        forbidden = {"pickle", "dill", "joblib"} | ({"pickletools"} if path.name != "arraypickle.py" else set())
        return ", ".join(sorted(roots & forbidden))
    return ""


def test_nothing_unsafe_and_nothing_swallowed():
    assert not [
        f"{path}:{node.lineno}: {what}" for path in MODULES for node in nodes(path) if (what := unsafe(path, node))
    ]
    # The check finds what it is to find.
    bad = "try:\n    eval('1')\nexcept Exception:\n    print(1)\nimport pickle, pickletools\n"
    examples = {unsafe(Path("any.py"), node) for node in ast.walk(ast.parse(bad))} - {""}
    assert examples == {"eval", "catches everything", "print", "pickle, pickletools"}


def test_import_is_free():
    code = "import sys, fluxcube; print(sorted(m for m in ('xarray', 'torch', 'numpy', 'yaml') if m in sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_public_names_exist():
    missing = [name for name in fluxcube.__all__ if not getattr(fluxcube, name, None)]
    assert not missing
    with pytest.raises(AttributeError, match="upscale"):
        _ = fluxcube.upscail
