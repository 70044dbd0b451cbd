"""Collect doctests from source text, and choose the part of the long proofs that a run does.

pytest's own `--doctest-modules` imports every module of the package, torch included, before the first test runs; here a
module is imported when its doctest runs.

Tests marked `proof` repeat, at length, what shorter tests show in part. A run does one of three parts of them, which
follow each other by the ISO week, so that all runs of a week do the same and three weeks of runs do all. The first line
of a run reports the part; `--proofs` chooses: all, none, or one part by its number. The marker can name the part,
`proof(part=2)`, so that the longest proofs are in different parts; the others are divided by their names. The tests
that `tests/long_tests.txt` lists take turns like proofs because they are long; the main paths are not among them.
"""

from __future__ import annotations

import ast
import datetime
import doctest
import importlib
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent / "fluxcube"
LONG = Path(__file__).parent / "tests" / "long_tests.txt"
PARTS = 3
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--proofs`."""
    choices = ["all", "none", *map(str, range(1, PARTS + 1))]
    parser.addoption(
        "--proofs", choices=choices, help=f"long proofs to do; by default one of {PARTS} parts, by the ISO week"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose the part once, so that all workers of pytest-xdist do the same."""
    if config.option.proofs is None:
        weeks = (datetime.date.today().toordinal() - 1) // 7  # since a Monday; the number never begins anew
        part = str(weeks % PARTS + 1)
        config.option.proofs = "all" if "proof" in config.option.markexpr.replace("not proof", "") else part


def pytest_report_header(config: pytest.Config) -> str:
    """Report the part that is done."""
    return f"long proofs: {config.option.proofs} (of {PARTS} parts; --proofs chooses)"


@pytest.hookimpl(tryfirst=True)  # before pytest selects by markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the proofs of other parts."""
    part, left_out, long = config.option.proofs, [], long_tests()
    for item in items:
        marker = item.get_closest_marker("proof")
        if marker is None and {item.nodeid, item.nodeid.partition("[")[0]} & long:
            item.add_marker(pytest.mark.proof)
            marker = item.get_closest_marker("proof")
        if marker and part not in ("all", str(marker.kwargs.get("part", zlib.crc32(item.nodeid.encode()) % PARTS + 1))):
            left_out.append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


def long_tests() -> set[str]:
    """Return the tests of `tests/long_tests.txt`, with or without their parameters."""
    return {line for line in LONG.read_text("utf-8").splitlines() if not line.startswith("#")}


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect the doctests of a module of the package that has any."""
    if file_path.suffix != ".py" or not file_path.is_relative_to(PACKAGE) or ">>>" not in file_path.read_text("utf-8"):
        return None
    return DoctestSource.from_parent(parent, path=file_path)


class DoctestSource(pytest.File):
    """The source text of a module with doctests."""

    def collect(self) -> Iterator[pytest.Item]:
        """Yield one item per docstring with examples, named as by the standard library's finder."""
        module = module_name(self.path)
        for name, docstring, line in docstrings(self.path.read_text("utf-8"), module):
            examples = doctest.DocTestParser().get_doctest(docstring, {}, name, str(self.path), line)
            if examples.examples:
                yield DoctestExamples.from_parent(self, name=name, module=module, examples=examples)


class DoctestExamples(pytest.Item):
    """The examples of one docstring."""

    def __init__(self, *, module: str, examples: doctest.DocTest, **options: object) -> None:
        super().__init__(**options)
        self.module, self.examples = module, examples

    def runtest(self) -> None:
        """Import the module, and run the examples with its names."""
        if all(example.options.get(doctest.SKIP) for example in self.examples.examples):
            pytest.skip("every example is marked to be skipped")
        self.examples.globs = vars(importlib.import_module(self.module)).copy()
        doctest.DebugRunner(verbose=False, optionflags=FLAGS).run(self.examples)

    def repr_failure(self, excinfo: pytest.ExceptionInfo, style: object = None) -> object:
        """Show the example that failed, with its expected and its actual output."""
        error = excinfo.value
        if isinstance(error, doctest.DocTestFailure):
            text = doctest.OutputChecker().output_difference(error.example, error.got, FLAGS | doctest.REPORT_NDIFF)
        elif isinstance(error, doctest.UnexpectedException):
            text = f"raised {error.exc_info[0].__name__}: {error.exc_info[1]}"
        else:
            return super().repr_failure(excinfo, style)
        line = self.examples.lineno + error.example.lineno + 1
        return f"{self.path}:{line}\n>>> {error.example.source}{text}"

    def reportinfo(self) -> tuple[Path, int, str]:
        """Return where the docstring is."""
        return self.path, self.examples.lineno, f"[doctest] {self.name}"


def module_name(path: Path) -> str:
    """Return the dotted name of a module of the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def docstrings(source: str, module: str) -> Iterator[tuple[str, str, int]]:
    """Yield name, text and line (from 0) of the docstrings of a module, its classes and its functions."""
    todo: list[tuple[str, ast.AST]] = [(module, ast.parse(source))]
    while todo:
        name, node = todo.pop(0)
        text = ast.get_docstring(node, clean=False)
        if text is not None:
            yield name, text, node.body[0].lineno - 1
        if not isinstance(node, ast.FunctionDef):
            members = [n for n in node.body if isinstance(n, ast.ClassDef | ast.FunctionDef)]
            todo += [(f"{name}.{member.name}", member) for member in members]
