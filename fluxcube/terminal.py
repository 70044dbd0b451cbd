"""Shared parts of the commands: common options, parsing of option texts, progress, and how a command ends."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from fluxcube.errors import ConfigError, FluxcubeError, from_shell, without_secrets
from fluxcube.interrupts import Ending, Interrupted, leave_on_signals
from fluxcube.sources.towers.sitenames import printable

if TYPE_CHECKING:
    import pandas as pd

    from fluxcube.evaluation.sums import QualityOptions

Progress = Callable[[int, int, str], None]

Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace existing output; without it nothing is replaced.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all random numbers.")]
Digest = Annotated[
    str | None, typer.Option(help="Digest that the model's weights must have, or at least its first 12 characters.")
]
Mix = Annotated[
    list[str] | None,
    typer.Option(help="Another run to mix with the first: the mean of their predictions; may be repeated."),
]
AllowMissing = Annotated[
    bool, typer.Option("--allow-missing", help="Treat inputs that the data do not contain as missing.")
]
Device = Annotated[
    str | None,
    typer.Option(
        help="Device that computes: auto (the default: a GPU if there is one), cpu, cuda, cuda:1, or cuda,cpu for the "
        "CPU where a GPU is absent or too small."
    ),
]
Deterministic = Annotated[
    bool, typer.Option("--deterministic", help="Use only algorithms that repeat their results bit by bit on a GPU.")
]
MaxQc = Annotated[
    str | None,
    typer.Option(
        help="Maximum quality flag of hourly fluxes, 0 (measured) to 3, or all; default 1 to train, 0 to evaluate."
    ),
]
MinQuality = Annotated[
    str | None,
    typer.Option(
        help="Minimum quality of daily fluxes, 0 to 1 (whole days), or all; default 0.5 to train, 1 to evaluate."
    ),
]


@contextlib.contextmanager
def bar(title: str) -> Iterator[Progress | None]:
    """Draw a progress bar on standard error if it is a terminal; yield None if not."""
    from rich import progress as rich_progress
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
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
    with rich_progress.Progress(*columns, console=console) as drawn:
        task = drawn.add_task(title, total=None)

        def progress(done: int, total: int, text: str) -> None:
            drawn.update(task, completed=done, total=total, description=f"{title}: {text}" if text else title)

        yield progress


def line_progress(every: float = 60.0) -> Progress:
    """Return progress that writes one line per `every` seconds to standard error, for the logs of batch jobs."""
    last = time.monotonic()

    def progress(done: int, total: int, text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= every:
            last = time.monotonic()
            typer.echo(f"{done} of {total}: {text}", err=True)

    return progress


def check_output_file(path: Path) -> None:
    """Raise ConfigError if a file cannot be written, before its contents are computed."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: add the name of a file.")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"{path}: the folder {path.absolute().parent} does not exist: create it first.")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table without its index as CSV, in one step (StoreError if the disk does not accept it)."""
    from fluxcube.stores.files import write_csv

    write_csv(path, table)


def names(text: str | None) -> tuple[str, ...] | None:
    """Split comma-separated names; None stays None.

    Examples
    --------
    >>> names("TA, SW_IN"), names("")
    (('TA', 'SW_IN'), ())
    """
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def days(text: str | None) -> tuple[int, ...] | None:
    """Parse the comma-separated whole days of --memory (ConfigError if it is not such a list)."""
    if text is None:
        return None
    try:
        return tuple(int(day) for day in names(text) or ())
    except ValueError:
        raise ConfigError(f"--memory: expected whole days such as 1,7,30; found {text!r}.") from None


def box(text: str | None) -> tuple[float, float, float, float] | None:
    """Parse west,south,east,north (ConfigError if it is not such a list)."""
    if text is None:
        return None
    try:
        west, south, east, north = map(float, text.split(","))
    except ValueError:
        raise ConfigError(f"--bbox: expected west,south,east,north in degrees; found {text!r}.") from None
    return west, south, east, north


def period(text: str | None) -> slice | None:
    """Parse first/last into a slice of times (ConfigError if it is not such a period)."""
    if text is None:
        return None
    first, slash, last = text.partition("/")
    if not slash:
        raise ConfigError(f"--time: expected first/last such as 2018-06-01/2018-06-30; found {text!r}.")
    return slice(first, last)


def quality_options(flag: str | None, share: str | None) -> QualityOptions:
    """Return the texts of --max-qc and --min-quality as the options of the library; "all" is None there."""
    limits: QualityOptions = {}
    if flag is not None:
        maximum = _limit("max_qc", flag)
        limits["max_qc"] = None if maximum is None else int(maximum)
    if share is not None:
        limits["min_quality"] = _limit("min_quality", share)
    return limits


def _limit(name: str, text: str) -> float | None:
    if text == "all":
        return None
    try:
        return int(text) if name == "max_qc" else float(text)
    except ValueError:
        option = f"--{name.replace('_', '-')}"
        raise ConfigError(f"{option} must be a number, or all to use every value; found {text!r}.") from None


#: What an interrupted command leaves, and how to continue, by its name.
_AFTER = {
    "train": "the last saved state stays; the same command continues",
    "upscale": "regions that are written stay; the same command writes the others",
    "forcing": "files that are written stay; the same command writes the others",
    "fetch": "complete files stay; the same command fetches the others",
    "demo": "its folder is incomplete; run the command again with --overwrite",
    "build": "no store was changed; run the command again",
}


class _Printable(logging.Formatter):
    """Escapes control characters of names from files, and masks credentials in URLs."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(without_secrets(super().format(record)), keep="\n\t")


def _without_dask(record: logging.LogRecord) -> bool:
    """Return whether a record is no report of Dask: lost connections become an error of fluxcube, in one line."""
    return record.name.partition(".")[0] not in ("distributed", "tornado", "asyncio")


class Commands(TyperGroup):
    """The commands; messages about wrong usage repeat arguments, so they are masked and escaped like other errors."""

    def invoke(self, *arguments: Any) -> Any:  # types of click
        """Run the command that the arguments name."""
        usage = typer.BadParameter.__bases__[0]  # of every error of usage; typer does not export it
        assert issubclass(usage, Exception)
        try:
            with from_shell():
                return super().invoke(*arguments)
        except usage as error:
            about = vars(error)
            about["message"] = printable(without_secrets(str(about["message"])), keep="\n")
            raise


def run_app(app: Callable[[], object]) -> None:
    """Run the command line: errors of the user become one line and exit status 1, signals one line and 128 more.

    Parameters
    ----------
    app : callable
        The commands.

    Raises
    ------
    SystemExit
        With the exit status; a signal ends the process at once.
    """
    # Waiting threads of torch spin and slow down other processes on the same processors, up to 5 times.
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    handler = logging.StreamHandler()
    handler.setFormatter(_Printable("%(levelname)s %(name)s: %(message)s"))
    level = os.environ.get("FLUXCUBE_LOG", "WARNING")
    handler.setLevel(level)  # Dask sets the level of its own loggers
    if logging.getLevelName(handler.level) not in ("DEBUG", "INFO"):
        handler.addFilter(_without_dask)
    logging.basicConfig(level=level, handlers=[handler])
    with command_line():
        try:
            app()
        finally:
            # Python's own handler would print a traceback, or end the process by the signal, while its modules end.
            atexit.register(leave_on_signals)


@contextlib.contextmanager
def command_line(left: str = "") -> Iterator[None]:
    """End the process after a block that a user started: with one line and status 1 for errors, 128 more for signals.

    Parameters
    ----------
    left : str
        What an interruption leaves, and how to continue; by default that of the command of this process.
    """
    with Ending(lambda number: _interrupted(number, left)) as ending:
        try:
            yield
        except FluxcubeError as error:
            sys.exit(f"fluxcube: {printable(str(error), keep=chr(10))}")
        except OSError as error:
            if error.errno is None:
                raise
            sys.exit(
                f"fluxcube: {printable(without_secrets(str(error)))}: check the disk, the path and its permissions."
            )
        except Interrupted as error:
            notes = "; ".join(getattr(error, "__notes__", ()))
            ending.end(error.number, _interrupted(error.number, notes or left))
        except KeyboardInterrupt:
            typer.echo(_interrupted(signal.SIGINT, left), err=True)
            sys.exit(128 + signal.SIGINT)


def _interrupted(number: int, left: str = "") -> str:
    """Return the line that reports a signal: what is left behind, and how to continue."""
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    why = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    return printable(f"fluxcube: {why}: {left or _AFTER.get(command, 'no result was written; run the command again')}.")
