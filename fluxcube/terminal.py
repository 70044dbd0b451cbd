"""Shared parts of the commands: common options, parsing of option texts, progress, and how a command ends."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from fluxcube.errors import ConfigError, FluxcubeError, from_shell, without_secrets
from fluxcube.interrupts import Ending, Interrupted, leave_on_signals
from fluxcube.messages import VERBOSE, begin_messages, show_all
from fluxcube.progress import show_progress, show_running
from fluxcube.sources.towers.sitenames import printable
from fluxcube.tabletext import WIDTH, Form, folded, table_text

if TYPE_CHECKING:
    import pandas as pd

    from fluxcube.evaluation.sums import QualityOptions
    from fluxcube.fetch.items import Plan

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
#: Progress of a command: a bar, or lines where there is no terminal.
bar = show_progress

#: Form of a printed table; a command that prints one has this option, and passes it to `show_table`.
Format = Annotated[
    Form, typer.Option("--format", help="Form of the table: table, md (Markdown), csv or json (every digit).")
]

#: Form of a printed plan of a fetch, which `show_plan` prints.
PlanForm = Annotated[
    Form, typer.Option("--format", help="Form of --plan: table (a summary), or its files as md, csv or json.")
]


def show_table(frame: pd.DataFrame, form: Form = "table", *, notes: Sequence[str] = ()) -> None:
    """Print a table, its notes below it; of CSV and JSON only the table is on standard output.

    Parameters
    ----------
    frame : pd.DataFrame
        The table, without an index of its own; headings of numbers name their units (`fluxcube.tabletext.with_units`).
    form : {"table", "md", "csv", "json"}
        Form: a table is as wide as the terminal, and 100 characters in a file or a pipe.
    notes : sequence of str
        What a reader of the table has to know, such as what its intervals are; one sentence or more each.
    """
    width = max(60, shutil.get_terminal_size((WIDTH, 24)).columns) if sys.stdout.isatty() else WIDTH
    typer.echo(table_text(frame, form, width=width))
    whole = form in ("table", "md")
    if notes and whole:
        typer.echo()
    for note in notes:
        typer.echo(printable(folded(note, width), keep="\n"), err=not whole)


def show_plan(plan: Plan, form: Form = "table") -> None:
    """Print what a fetch will take; in other forms than "table", the table of its files, with its size as a note."""
    if form == "table":
        typer.echo(plan.text())
    else:
        summary = [line for line in plan.text(max_items=0).splitlines() if not line.startswith(" ")]
        show_table(plan.table(), form, notes=summary)


def check_plan_form(form: Form, plan: bool) -> None:
    """Refuse a form of the plan where none is printed (ConfigError)."""
    if form != "table" and not plan:
        raise ConfigError(f"--format {form} is the form of a plan: add --plan, or leave it out.")


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
    """Parse the comma-separated whole days of --memory-days (ConfigError if it is not such a list)."""
    if text is None:
        return None
    try:
        return tuple(int(day) for day in names(text) or ())
    except ValueError:
        raise ConfigError(f"--memory-days: expected whole days such as 1,7,30; found {text!r}.") from None


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


def _verbose(chosen: bool) -> None:
    if chosen:
        show_all()


_Verbose = Annotated[
    bool,
    typer.Option(
        VERBOSE,
        help="Also show messages of libraries, and the traceback of an unexpected error.",
        callback=_verbose,
        expose_value=False,
        is_eager=True,
    ),
]


def _with_verbose(verbose: _Verbose = False) -> None:
    """Have the option --verbose."""


def _verbose_option() -> Any:
    """Return the option --verbose as typer makes it."""
    app = typer.Typer(add_completion=False)
    app.command()(_with_verbose)
    return get_command(app).params[0]


def _add_verbose(command: Any) -> None:
    """Add the option --verbose to a command, and to the commands of a group."""
    command.params.append(_verbose_option())
    for one in getattr(command, "commands", {}).values():
        _add_verbose(one)


class Commands(TyperGroup):
    """The commands, each with --verbose.

    Messages about wrong usage repeat arguments, so they are masked and escaped like other errors.
    """

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        _add_verbose(self)

    def invoke(self, *arguments: Any) -> Any:  # types of click
        """Run the command that the arguments name."""
        usage = typer.BadParameter.__bases__[0]  # of every error of usage; typer does not export it
        assert issubclass(usage, Exception)
        try:
            first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts
            with from_shell(), show_running(_command()) if first else contextlib.nullcontext():
                return super().invoke(*arguments)
        except usage as error:
            about = vars(error)
            _explain_paths(about)
            about["message"] = printable(without_secrets(str(about["message"])), keep="\n")
            raise


def _explain_paths(error: dict[str, Any]) -> None:
    """Say that paths are arguments where an unknown option is the name of one, as in Python: ``fit(..., out=...)``."""
    context, option = error.get("ctx"), str(error.get("option_name", ""))
    command = getattr(context, "command", None)
    paths = [one.name for one in getattr(command, "params", []) if one.param_type_name == "argument"]
    if context is not None and paths and option.lstrip("-") in {"out", "output", "o", *paths}:
        error["possibilities"] = None
        order = f"{context.command_path} {' '.join(map(str.upper, paths))}"
        error["message"] = f"There is no option {option}: paths are arguments, in this order: {order}"


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
    begin_messages()
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
        except BrokenPipeError:  # the reader of a pipe, such as head, has ended
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it at its end
            sys.exit(128 + signal.SIGPIPE)
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
    why = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    return printable(
        f"fluxcube: {why}: {left or _AFTER.get(_command(), 'no result was written; run the command again')}."
    )


def _command() -> str:
    """Return the name of the command of this process; "" if there is none."""
    return next((word for word in sys.argv[1:] if not word.startswith("-")), "")
