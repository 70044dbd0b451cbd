"""Code blocks of the docs: found in pages, compared with the interface, and run line by line as a reader would.

A block that starts with three backticks and ``python`` or ``bash`` is run, unless the line before it is a comment
``<!-- not run: REASON -->`` with one of `REASONS`. Output is a block of ``text``. Pages of MyST-NB (with
``{code-cell}``) are run by the build of the docs.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import inspect
import io
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

import fluxcube
from fluxcube import cli

ROOT = Path(__file__).parents[2]
#: Why a block is not run.
REASONS = (
    "needs a service",  # a network, with or without an account
    "needs a card",
    "needs a cluster",
    "needs published data",  # of towers, satellites or products, which cannot be simulated under their names
    "needs a package that is not installed",
    "another test runs it",  # the demo, or the samples of the recipes
    "hours",
    "minutes of training",
    "a part of a program",  # a pattern, whose names the reader fills in
)
_FENCE = re.compile(r"^```(python|bash)\s*$")
_REASON = re.compile(r"^<!-- not run: (.*) -->$")


@dataclass(frozen=True)
class Block:
    """One code block.

    Attributes
    ----------
    page : str
        Path of the page, relative to the checkout.
    line : int
        Line of its first line of code.
    language : {"python", "bash"}
    text : str
        Its code.
    reason : str or None
        Why it is not run.
    """

    page: str
    line: int
    language: str
    text: str
    reason: str | None

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def padded(self) -> str:
        """The code behind empty lines, so that errors name the line of the page."""
        return "\n" * (self.line - 1) + self.text


def pages() -> list[Path]:
    """Return the pages whose blocks are run."""
    every = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("recipes/*/README.md"))]
    return [page for page in every if "{code-cell}" not in page.read_text("utf-8")]


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page, in their order."""
    lines, found = page.read_text("utf-8").splitlines(), []
    at = 0
    while at < len(lines):
        if fence := _FENCE.match(lines[at]):
            end = lines.index("```", at)
            reason = _REASON.match(lines[at - 1]) if at else None
            code = "\n".join(lines[at + 1 : end])
            name = page.relative_to(ROOT).as_posix()
            found.append(Block(name, at + 2, fence[1], code, reason[1] if reason else None))
            at = end
        at += 1
    return found


def commands(block: Block) -> Iterator[tuple[int, list[str]]]:
    """Yield the line and the words of each command of a bash block, without comments."""
    line, whole = block.line, ""
    for number, text in enumerate(block.text.splitlines()):
        whole = whole or ""
        if not whole:
            line = block.line + number
        if text.rstrip().endswith("\\"):
            whole += text.rstrip()[:-1] + " "
            continue
        words = shlex.split(whole + text, comments=True)
        whole = ""
        if words:
            yield line, words


# Compared with the interface, without running anything.


def faults(block: Block) -> list[str]:
    """Return what a block asks of fluxcube that does not exist: names, arguments, commands and options."""
    return _python_faults(block) if block.language == "python" else _bash_faults(block)


def _python_faults(block: Block) -> list[str]:
    try:
        tree = ast.parse(block.padded)
    except SyntaxError as error:
        return [f"{block.page}:{error.lineno}: {error.msg}"]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fluxcube"):
            absent = [alias.name for alias in node.names if not _is_in(str(node.module), alias.name)]
            found += [f"{node.lineno}: {node.module} has no {name}" for name in absent]
        elif isinstance(node, ast.Call) and (name := _public(node.func)):
            found += [f"{node.lineno}: {fault}" for fault in _call_faults(name, node)]
    return [f"{block.page}:{fault}" for fault in found]


def _is_in(module: str, name: str) -> bool:
    """Return whether a module has a name, or a package has a module of that name."""
    found = importlib.import_module(module)
    return hasattr(found, name) or (
        hasattr(found, "__path__") and importlib.util.find_spec(f"{module}.{name}") is not None
    )


def _public(node: ast.expr) -> str:
    """Return NAME of ``fc.NAME`` or ``fluxcube.NAME``; "" for anything else."""
    is_face = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    return node.attr if is_face and node.value.id in ("fc", "fluxcube") else ""


def _call_faults(name: str, call: ast.Call) -> list[str]:
    function = getattr(fluxcube, name, None)
    if function is None:
        return [f"fluxcube has no {name}"]
    if any(isinstance(part, ast.Starred) for part in call.args) or any(key.arg is None for key in call.keywords):
        return []
    try:
        inspect.signature(function).bind(*call.args, **{key.arg: key.value for key in call.keywords})
    except TypeError as error:
        return [f"fc.{name}: {error}"]
    return []


def _bash_faults(block: Block) -> list[str]:
    found = []
    for line, words in commands(block):
        if "fluxcube" in words[:6]:  # also after torchrun or srun
            found += [f"{block.page}:{line}: {fault}" for fault in _option_faults(words[words.index("fluxcube") + 1 :])]
        elif words[0] == "python" and words[1].startswith("recipes/") and not (ROOT / words[1]).is_file():
            found.append(f"{block.page}:{line}: there is no {words[1]}")
        elif words[0] == "make" and not all(_is_target(word) for word in words[1:]):
            found.append(f"{block.page}:{line}: {' '.join(words)}: no such target of the Makefile")
    return found


def _is_target(word: str) -> bool:
    return "=" in word or bool(re.search(rf"^{word}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def _option_faults(words: list[str]) -> list[str]:
    """Return what the command line refuses in the words of a command, before it does anything."""
    words = words[: next((i for i, word in enumerate(words) if word in (">", "|", ">>", "&&")), len(words))]
    command: Any = typer.main.get_command(cli.app)  # click's, or typer's own copy of it
    context = command.context_class(command, info_name="fluxcube")
    try:
        while hasattr(command, "resolve_command"):
            while words and words[0].startswith("--"):
                if words.pop(0) in ("--help", "--version"):
                    return []
            if not words:
                return []
            _, command, words = command.resolve_command(context, words)
            context = command.context_class(command, info_name=command.name, parent=context)
        if "--help" not in words:
            command.make_context(command.name, list(words), parent=context.parent)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return [error.format_message()]
    return []


# Run, in the current folder.


def run(block: Block, names: dict) -> str:
    """Run a block with the names that earlier blocks of its page defined; return what it prints.

    Raises
    ------
    AssertionError
        If a command fails, or is not one that is run here.
    Exception
        As Python code raises it; its traceback has the line of the page.
    """
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        if block.language == "python":
            exec(compile(block.padded, block.page, "exec"), names)
        for line, words in commands(block) if block.language == "bash" else ():
            _command(f"{block.page}:{line}", words, out)
    return out.getvalue()


def _command(where: str, words: list[str], out: io.StringIO) -> None:
    """Run one command in this process."""
    assert words[0] == "fluxcube", (
        f"{where}: {words[0]} is not run here: give the block a reason ({', '.join(REASONS)})"
    )
    target = Path(words[words.index(">") + 1]) if ">" in words else None
    words = words[: words.index(">")] if target else words
    before, sys.argv, printed = sys.argv, words, io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            cli.main()
    except SystemExit as end:
        assert not end.code, f"{where}: {' '.join(words)}: {end.code}"
    finally:
        sys.argv = before
    if target:
        target.write_text(printed.getvalue())
    else:
        out.write(printed.getvalue())
