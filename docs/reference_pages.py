"""Write the pages of docs/reference/ that follow from the package: public names, commands, tables and models.

Sphinx runs this before each build (`conf.py`); the folder is not in version control. A page whose text is the same as
before keeps its file, so that Sphinx reads only what changed.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path

import typer

import fluxcube
from fluxcube import fetch, scores
from fluxcube.cli import app
from fluxcube.sources.era5.variables import needed_parameters
from fluxcube.sources.products.table import products
from fluxcube.sources.towers.networks import networks
from fluxcube.variables import COMPUTED, Variable, table

#: Heading of a group of public functions, and the modules or packages that define them; the first that fits is taken.
GROUPS = {
    "Towers and their files": ("inventory", "knownsites", "sources"),
    "Cubes and forcing": ("variables", "cubes", "catalog"),
    "Samples and training": ("samples", "training", "distillation", "planning.training"),
    "Predictions": ("inference",),
    "Maps": ("maps", "planning"),
    "Scores and reports": ("evaluation", "reports"),
    "Figures": ("plotting", "figures"),
    "Further functions": (),
}

#: Classes that public functions return or take, under the modules that they are imported from.
CLASSES = (
    "fluxcube.cubes.carbonsense.BuildReport",
    "fluxcube.training.run.Run",
    "fluxcube.training.config.TrainingConfig",
    "fluxcube.models.ecoperceiver_config.EcoPerceiverConfig",
    "fluxcube.models.boosting.BoostingConfig",
    "fluxcube.models.tamrl.TAMRLConfig",
    "fluxcube.samples.partition.Split",
    "fluxcube.samples.loader.Windows",
    "fluxcube.samples.lightning.WindowsDataModule",
    "fluxcube.inference.predictor.Predictor",
    "fluxcube.inference.options.PredictionOptions",
    "fluxcube.planning.maps.MapPlan",
    "fluxcube.planning.training.TrainingPlan",
    "fluxcube.training.callbacks.Callback",
    "fluxcube.cubes.own_site.OwnSite",
    "fluxcube.exports.accessor.FluxcubeAccessor",
)

Pages = dict[str, str]


def write_pages(folder: Path) -> None:
    """Write every page, and remove those of earlier builds that are no longer written."""
    pages = {**api_pages(), **command_pages(), **table_pages(), **model_pages(), **recipe_pages()}
    for old in set(folder.rglob("*.md")) - {folder / name for name in pages}:
        old.unlink()
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


# --- the public functions -------------------------------------------------------------------------------------------


def public_names() -> dict[str, str]:
    """Return every public function, `fluxcube.fit` and so on, with the module that defines it."""
    names = {f"fluxcube.{name}": module for name, module in fluxcube._PUBLIC.items()}
    names |= {f"fluxcube.fetch.{name}": module for name, module in fetch._PUBLIC.items()}
    own = [value for value in vars(scores).values() if getattr(value, "__module__", "") == "fluxcube.scores"]
    kernels = [value.__name__ for value in own if inspect.isfunction(value) and not value.__name__.startswith("_")]
    return names | {f"fluxcube.scores.{name}": "fluxcube.scores" for name in kernels}


def api_pages() -> Pages:
    """Return the overview of the public functions, one page for each, and one for each class."""
    pages = {f"api/{name}.md": _object_page(name, "autofunction") for name in public_names() if _is_function(name)}
    pages |= {f"api/{path.rpartition('.')[2]}.md": _class_page(path) for path in CLASSES}
    pages["api/errors.md"] = _directive("Errors", "automodule", "fluxcube.errors", members=True)
    return pages | {"api/index.md": _overview(set(pages))}


def _is_function(name: str) -> bool:
    return not inspect.isclass(_resolve(name))


def _object_page(name: str, directive: str) -> str:
    return _directive(name, directive, name)


def _class_page(path: str) -> str:
    return _directive(_title(path), "autoclass", path, members=True)


def _title(path: str) -> str:
    return "ds.fluxcube" if path.endswith("FluxcubeAccessor") else path.rpartition(".")[2]


def _directive(title: str, directive: str, path: str, *, members: bool = False) -> str:
    options = "   :members:\n" if members else ""
    return f"# {title}\n\n```{{eval-rst}}\n.. {directive}:: {path}\n{options}```\n"


def _overview(pages: set[str]) -> str:
    """Return the page that lists all functions and classes with their first sentences, in the order of the pipeline."""
    names = public_names()
    text = [
        "# Python",
        "",
        "Every public function, in the order of the pipeline: `import fluxcube as fc`, then `fc.NAME`.",
        "",
    ]
    for group in [*GROUPS, "Fetching: fluxcube.fetch", "Scores of labelled arrays: fluxcube.scores"]:
        rows = [n for n, module in names.items() if _group(n, module) == group and f"api/{n}.md" in pages]
        text += _section(group, [(n.removeprefix("fluxcube."), n, _summary(_resolve(n))) for n in rows])
    text += _section("Classes", [(_title(path), path.rpartition(".")[2], _summary(_resolve(path))) for path in CLASSES])
    text += [
        "## Errors",
        "",
        "[All errors](errors.md) that fluxcube raises on purpose, each of which is also a built-in exception.",
        "",
        *_toctree(
            [f"{n.removeprefix('fluxcube.')} <{n}>" for n in names if f"api/{n}.md" in pages]
            + [path.rpartition(".")[2] for path in CLASSES]
            + ["errors"]
        ),
    ]
    return "\n".join(text)


def _section(heading: str, rows: Sequence[tuple[str, str, str]]) -> list[str]:
    if not rows:
        return []
    lines = [f"| [`{label}`]({page}.md) | {_cell(summary)} |" for label, page, summary in rows]
    return [f"## {heading}", "", "| | |", "|---|---|", *lines, ""]


def _group(name: str, module: str) -> str:
    """Return the heading under which a public function is listed."""
    if name.startswith("fluxcube.fetch."):
        return "Fetching: fluxcube.fetch"
    if name.startswith("fluxcube.scores."):
        return "Scores of labelled arrays: fluxcube.scores"
    inside = f"{module.removeprefix('fluxcube.')}."
    return next(
        (g for g, parts in GROUPS.items() if any(inside.startswith(f"{p}.") for p in parts)), "Further functions"
    )


def _summary(value: object) -> str:
    """Return the first sentence of a docstring, without the markup of reStructuredText."""
    first = (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ")
    return re.sub(r"``(.+?)``", r"`\1`", first)


def _resolve(path: str) -> object:
    """Return the object of a dotted name."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


# --- the commands ---------------------------------------------------------------------------------------------------


def command_pages() -> Pages:
    """Return the overview of the commands, and one page for each with its arguments, options and example."""
    commands = dict(_commands(typer.main.get_command(app)))
    pages = {f"cli/{_slug(name)}.md": _command_page(name, command) for name, command in commands.items()}
    rows = [f"| [`fluxcube {n}`]({_slug(n)}.md) | {_cell(_paragraphs(c)[0])} |" for n, c in commands.items()]
    head = ["# Command line", "", "Each command has `--help` with the same text.", "", "| | |", "|---|---|"]
    pages["cli/index.md"] = "\n".join([*head, *rows, "", *_toctree([f"{name} <{_slug(name)}>" for name in commands])])
    return pages


def _commands(group: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield every command that does something, with its whole name, in the order of the help."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def _slug(name: str) -> str:
    return name.replace(" ", "-")


def _paragraphs(command: object) -> list[str]:
    return [part.replace("\n", " ") for part in inspect.cleandoc(command.help or "").split("\n\n")]


def _command_page(name: str, command: object) -> str:
    arguments = [p for p in command.params if not p.opts[0].startswith("-")]
    options = [p for p in command.params if p.opts[0].startswith("-") and not p.hidden and p.name != "help"]
    usage = " ".join(["fluxcube", name, *map(_usage, arguments), *(["[OPTIONS]"] if options else [])])
    text = [f"# fluxcube {name}", "", "```text", usage, "```", "", "\n\n".join(_paragraphs(command)), ""]
    if arguments:
        rows = [f"| `{p.name.upper()}` | {_cell(_help(p))} |" for p in arguments]
        text += ["## Arguments", "", "| | |", "|---|---|", *rows, ""]
    if options:
        rows = [f"| {_option(p)} | {_cell(_help(p))} | {_default(p)} |" for p in options]
        text += ["## Options", "", "| option | meaning | default |", "|---|---|---|", *rows, ""]
    return "\n".join(text)


def _usage(argument: object) -> str:
    name = argument.name.upper() + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _help(parameter: object) -> str:
    return parameter.help or ""


def _option(option: object) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    return names if option.is_flag else f"{names} {option.name.upper()}"


def _default(option: object) -> str:
    empty = option.default in (None, False, "", ()) or callable(option.default)
    return "" if empty else f"`{getattr(option.default, 'value', option.default)}`"


# --- the tables -----------------------------------------------------------------------------------------------------


def table_pages() -> Pages:
    """Return the pages of variables, networks and products."""
    return {"variables.md": _variables(), "networks.md": _networks(), "products.md": _products()}


_VARIABLES = """All variables of cubes, forcing and maps, as `fluxcube/data/variables.yml` defines them. Names are those
of ONEFlux. *Bounds* scale the input of a model; a predictor beyond them is missing for it. *ERA5* lists the parameters
from which a variable of a grid is derived ([Forcing](../forcing.md)). The flag of a variable is read from `NAME_QC` of
the column that supplied its value."""

_NETWORKS = """Publications of tower data that `inspect` and `build` recognise by the names of their files
(`fluxcube/data/networks.yml`), the preferred ones first. [Archives](../archives.md) describes how they are read."""

_MODELS = """Models that come with the package: `fc.load_model(NAME)`. Scores are those of models with the same
settings, at towers that they were not trained on; each card has scores by class, limits and sources."""


def _variables() -> str:
    hourly, daily = table("hourly"), table("daily")
    text = ["# Variables", "", _VARIABLES, ""]
    for heading, rows in (
        ("Predictors", [row for row in hourly.values() if "predictor" in row.roles]),
        ("Targets", [row for row in hourly.values() if "target" in row.roles]),
        ("What is different in daily cubes", [row for name, row in daily.items() if row != hourly.get(name)]),
    ):
        text += [f"## {heading}", "", *_variable_rows(rows), ""]
    return "\n".join(text)


def _variable_rows(rows: Iterable[Variable]) -> list[str]:
    head = ["| name | meaning | units | bounds | to hours | read from | ERA5 | CF standard name |", "|" + "---|" * 8]
    return [*head, *map(_variable_row, rows)]


def _variable_row(row: Variable) -> str:
    low, high = row.bounds
    parameters = () if row.name in COMPUTED else needed_parameters((row.name,))[0]
    cells = (
        f"`{row.name}`",
        row.long_name,
        row.units,
        f"{low:g} to {high:g}" + (", cyclic" if row.cyclic else ""),
        row.aggregate,
        ", ".join(f"`{alias}`" for alias in row.aliases) or "time and place",
        ", ".join(f"`{name}`" for name in parameters),
        f"`{row.standard_name}`" if row.standard_name else "",
    )
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _networks() -> str:
    text = [
        "# Networks",
        "",
        _NETWORKS,
        "",
        "| network | reader | daily files | licence | citation |",
        "|---|---|---|---|---|",
    ]
    for network in networks().values():
        reader = "not read" if network.refused else f"`{network.reader}`"
        daily = "read" if network.daily else "computed from hours"
        cells = (
            network.name,
            reader,
            "" if network.refused else daily,
            network.licence,
            _cited(network.citation, network.doi),
        )
        text.append("| " + " | ".join(map(_cell, cells)) + " |")
    return "\n".join([*text, ""])


def _products() -> str:
    text = [
        "# Products",
        "",
        "Published maps of fluxes that `fluxcube.open_product` recognises (`fluxcube/data/products.yml`). "
        "[Published products](../products.md) shows how they are opened and scored.",
        "",
        "| name | product | partition | clock | licence | citation | note |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, product in products().items():
        if name == "cf":
            continue
        cells = (
            f"`{name}`", product.title, product.partition, product.clock, product.licence,
            _cited(product.citation, product.doi), product.note,
        )  # fmt: skip
        text.append("| " + " | ".join(map(_cell, cells)) + " |")
    return "\n".join([*text, ""])


def _cited(citation: str, doi: str) -> str:
    return citation if not doi or doi in citation else f"{citation}; [doi:{doi}](https://doi.org/{doi})"


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


# --- the models that ship with the package --------------------------------------------------------------------------


def model_pages() -> Pages:
    """Return the cards of the models that ship with the package, and a page that lists them with their scores."""
    cards = {card.parent.name: card.read_text("utf-8") for card in sorted(_data("models").glob("*/README.md"))}
    pages = {f"models/{name}.md": text for name, text in cards.items()}
    pages["models/index.md"] = _models_overview(cards)
    return pages


def _data(name: str) -> Path:
    return Path(str(resources.files("fluxcube").joinpath("data"))) / name


def _models_overview(cards: Mapping[str, str]) -> str:
    head = [
        "# Shipped models",
        "",
        _MODELS,
        "",
        "| name | what it is | scores at held-out towers |",
        "|---|---|---|",
    ]
    rows = [
        f"| [`{name}`]({name}.md) | {_cell(_lead(text))} | {_cell(_scores(text))} |" for name, text in cards.items()
    ]
    return "\n".join([*head, *rows, "", *_toctree(cards)])


def _lead(card: str) -> str:
    return _cell(card.split("\n\n")[1])


def _scores(card: str) -> str:
    """Return the sentence of a card that begins with the pooled NSE; "" where it has none."""
    found = re.search(r"^NSE .+?(?=; |\. )", card, re.MULTILINE | re.DOTALL)
    return _cell(found[0]) if found else "see the card"


def _toctree(pages: Iterable[str]) -> list[str]:
    return ["```{toctree}", ":hidden:", "", *pages, "```", ""]


# --- the recipes ----------------------------------------------------------------------------------------------------


def recipe_pages() -> Pages:
    """Return the text of each recipe's README, and their overview, with links between pages instead of folders."""
    folder = Path(__file__).resolve().parent.parent / "recipes"
    texts = {readme.parent.name: readme.read_text("utf-8") for readme in sorted(folder.glob("*/README.md"))}
    pages = {f"recipes/{name}.md": _page_links(text, texts) for name, text in texts.items()}
    overview = _page_links((folder / "README.md").read_text("utf-8"), texts)
    pages["recipes/index.md"] = overview + "\n" + "\n".join(_toctree(texts))
    return pages


def _page_links(text: str, names: Iterable[str]) -> str:
    """Return a text whose links to pages, to folders of recipes and to other folders are right among the pages."""
    text = re.sub(r"\]\(\.\./\.\./docs/", "](../../", text)
    text = re.sub(rf"\]\((?:\.\./)?({'|'.join(names)})/?\)", r"](\1.md)", text)
    return re.sub(r"\[([^\]]+)\]\((?!https?:|\.\./\.\./[\w-]+\.md|\w+\.md\))[^)]*\)", r"\1", text)
