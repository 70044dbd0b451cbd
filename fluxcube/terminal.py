"""What commands share: options that mean the same everywhere, texts that become values, and progress."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated

import typer

from fluxcube.errors import ConfigError

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there; without it nothing is replaced.")]


@contextlib.contextmanager
def bar(title: str) -> Iterator[object]:
    """Draw progress on standard error where a person watches; yield None where none does."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as drawn:
        task = drawn.add_task(title, total=None)

        def progress(done: int, total: int, text: str) -> None:
            drawn.update(task, completed=done, total=total, description=f"{title}: {text}" if text else title)

        yield progress


def period(text: str | None) -> slice | None:
    """Turn first/last into a slice of times (ConfigError if it is none)."""
    if text is None:
        return None
    first, slash, last = text.partition("/")
    if not slash:
        raise ConfigError(f"--time must be first/last, as 2018-06-01/2018-06-30; found {text!r}.")
    return slice(first, last)
