"""One word for each concept: public signatures and options of the shell follow the table in CONTRIBUTING.md."""

from __future__ import annotations

import functools
import inspect
import re
from pathlib import Path

import pytest
import typer

import fluxcube as fc
from fluxcube import simulation

TABLE = Path(__file__).resolve().parents[1] / "CONTRIBUTING.md"

#: Options whose word is another one in Python, or that only the shell has, and why.
ONLY_IN_THE_SHELL = {
    "also": "further folders; in Python the first argument is a list",
    "set": "one setting of a dataclass",
    "chips": "bands= chooses channels in Python",
    "mix": "in Python a mixed model is an object",
    "digest": "an argument of load_model",
    "clusters_km": "clusters= also takes the cluster of each site in Python",
    "part": "in Python the cube is selected",
    "against": "further runs",
    "maps": "in Python a prediction like others",
    "protocol": "another task than evaluate",
    "out": "the printed table as a file",
    "device": "an argument of load_model",
    "drivers": "an argument of predict",
    "allow_missing": "an argument of predict",
    "allow_other_product": "an argument of predict",
    "plan": "plan_maps",
    "dry_run": "plan_training",
    "format": "how a table is printed",
    "verbose": "messages of libraries on a terminal",
    "koppen": "a coordinate of the forcing in Python",
    "time": "in Python the maps are selected",
    "cycle": "mean_cycle in place of mean_maps",
}
#: Commands, and the functions that they call.
PAIRS = {
    "build": ["build_carbonsense"],
    "train": ["fit"],
    "evaluate": ["evaluate", "compare"],
    "energy": ["energy_balance"],
    "calibrate": ["calibrate", "predict"],
    "demo": ["run_demo"],
    "report": ["report"],
    "forcing": ["open_forcing", "write_forcing"],
    "upscale": ["open_forcing", "upscale", "write_maps", "plan_maps"],
    "totals": ["totals"],
    "export": ["export_maps", "mean_maps", "mean_cycle", "weight_by_wetland"],
    "fetch towers": ["fetch.towers"],
    "fetch era5": ["fetch.era5"],
    "fetch era5-land": ["fetch.era5_land"],
    "fetch modis": ["fetch.modis"],
}


@functools.cache
def refused() -> dict[str, str]:
    """Return each refused word, and the word that replaces it, from the table."""
    words = {}
    for line in TABLE.read_text("utf-8").split("## Vocabulary")[1].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and "`" in cells[1]:
            words |= dict.fromkeys(filter(None, cells[4].split(", ")), cells[1].replace("`", ""))
    return words


@functools.cache
def functions() -> dict[str, list[str]]:
    """Return the parameters of every public function, by its name."""
    found = {name: getattr(fc, name) for name in fc.__all__}
    for module, names in (
        ("fetch", fc.fetch.__all__),
        ("scores", fc.scores.__all__),
        ("simulation", simulation.__all__),
    ):
        home = simulation if module == "simulation" else getattr(fc, module)
        found |= {f"{module}.{name}": getattr(home, name) for name in names}
    accessor = fc.open_carbonsense.__globals__["xr"].Dataset.fluxcube
    found |= {f"ds.fluxcube.{name}": one for name, one in vars(accessor).items() if not name.startswith("_")}
    return {name: list(inspect.signature(one).parameters) for name, one in found.items() if inspect.isroutine(one)}


@functools.cache
def options() -> dict[str, list[object]]:
    """Return the options of every command, by its name."""
    from fluxcube.cli import app

    def commands(group, above=""):
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from commands(command, f"{above}{name} ")
            else:
                yield above + name, [one for one in command.params if one.param_type_name == "option"]

    return dict(commands(typer.main.get_command(app)))


def word(option):
    """Return the word of an option's first spelling, as Python has it."""
    return option.opts[0].removeprefix("--").replace("-", "_")


def test_the_table_refuses_what_it_lists():
    assert {"stations": "sites", "features": "predictors", "memory": "memory_days"}.items() <= refused().items()
    kept = {name for line in TABLE.read_text("utf-8").splitlines() for name in re.findall(r"\| `(\w+)` \|", line)}
    assert not kept & set(refused()), "a word of the table is refused by another row"


def test_no_public_function_has_a_refused_word():
    assert len(functions()) > 60
    found = [
        f"{name}({parameter}=): {refused()[parameter]}"
        for name, parameters in functions().items()
        for parameter in parameters
        if parameter in refused()
    ]
    assert not found, found


def test_no_option_has_a_refused_word():
    found = [
        f"{command} {one.opts[0]}: {refused()[word(one)]}"
        for command, all_of_it in options().items()
        for one in all_of_it
        if word(one) in refused()
    ]
    assert not found, found


def test_options_that_may_be_repeated_are_singular():
    """A repeated option has one value each time: no plural of a word that is selected by."""
    plural = {"sites", "targets", "variables", "products", "predictors"}
    found = [
        f"{c} {one.opts[0]}" for c, every in options().items() for one in every if one.multiple and word(one) in plural
    ]
    assert not found, found


@pytest.mark.parametrize("command", PAIRS)
def test_an_option_has_the_word_of_python(command):
    known = {name for function in PAIRS[command] for name in functions()[function]}
    known |= {name.removesuffix("s") for name in known}  # repeated options are singular
    unknown = [
        one.opts[0] for one in options()[command] if word(one) not in known and word(one) not in ONLY_IN_THE_SHELL
    ]
    assert not unknown, f"{command}: the function has {sorted(known)}"
