"""Commands that list the models, and what other installed packages add to fluxcube."""

from __future__ import annotations

from collections.abc import Mapping

import typer

from fluxcube.errors import ExtensionError
from fluxcube.extensions import KINDS, Extended, Extension, installed
from fluxcube.terminal import Format, show_table

app = typer.Typer(rich_markup_mode="markdown")


@app.command()
def models(form: Format = "table") -> None:
    """List the models that `train` takes, those of other packages too.

    Example: `fluxcube models`, then `fluxcube train carbonsense.zarr runs/xgb --model xgboost`.
    """
    import pandas as pd

    from fluxcube.models import registry

    rows = [
        {
            "model": name,
            "cubes": ", ".join(row.resolutions),
            "trained by": {"descent": "gradient descent", "rows": "fit on feature rows"}[row.trainer],
            "presets": ", ".join(row.presets),
            "package": _package(name),
        }
        for name, row in registry.every().items()
    ]
    show_table(pd.DataFrame(rows), form)


def _package(model: str) -> str:
    from fluxcube.models import registry

    extension = registry.extension_of(model)
    return "fluxcube" if extension is None else f"{extension.package} {extension.version}"


@app.command()
def extensions(form: Format = "table") -> None:
    """List what installed packages add: models, networks of towers, products and predictors, and what fails.

    Example: `fluxcube extensions`.
    """
    import pandas as pd

    found, tables, failed = installed(), _tables(), []
    rows = []
    for one in found:
        fault = _fault(tables[one.kind], one)
        failed += [fault] if fault else []
        rows.append(
            {"kind": one.kind, "name": one.name, "package": one.package, "version": one.version}
            | {"state": "cannot be used" if fault else "works"}
        )
    if not rows and form == "table":
        groups = ", ".join(f"fluxcube.{kind}" for kind in KINDS)
        typer.echo(f"no installed package adds anything to fluxcube (entry points of the groups {groups})")
        return
    show_table(pd.DataFrame(rows, columns=["kind", "name", "package", "version", "state"]), form, notes=failed)


def _tables() -> Mapping[str, Extended]:
    """Return the table that extensions of each kind are added to."""
    from fluxcube.cubes.supplied import supplied_predictors
    from fluxcube.models import registry
    from fluxcube.sources.products.table import products
    from fluxcube.sources.towers.networks import networks

    return {
        "models": registry.every(),
        "networks": networks(),
        "products": products(),
        "predictors": supplied_predictors(),
    }


def _fault(table: Extended, extension: Extension) -> str:
    """Return why an extension cannot be used; "" if it can."""
    try:
        table.made(extension)
    except ExtensionError as error:
        return str(error)
    return ""
