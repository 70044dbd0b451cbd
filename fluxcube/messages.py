"""Messages of the command line: ours as one line each, those of libraries only on request (`--verbose`).

Nothing here acts on import: a program that uses the library keeps its own logging and warnings.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import shlex
import sys
import threading
import traceback
import warnings
from types import TracebackType

from fluxcube.errors import printable, without_secrets

#: The option that shows messages of libraries, and the traceback of an unexpected error.
VERBOSE = "--verbose"
#: Name of our loggers, and of the logger of Python warnings.
_OURS, _WARNINGS = "fluxcube", "py.warnings"


class _Lines(logging.Formatter):
    """Formats a record; escapes control characters of names from files, and masks credentials in URLs."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(without_secrets(super().format(record)), keep="\n\t")


class _OursOnce(logging.Filter):
    """Passes each message of ours once, and none of a library."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] != _OURS:
            return False
        text = record.getMessage()
        known = text in self._seen
        self._seen.add(text)
        return not known


class _Handler(logging.Handler):
    """Handler of the command line, which writes to standard error as it is then: a progress bar replaces it."""

    def __init__(self, level: str) -> None:
        super().__init__()
        self._ours = _OursOnce()
        self.setLevel(level)
        self.addFilter(self._ours)
        self.setFormatter(_Lines("fluxcube: note: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{self.format(record)}\n")

    def show_all(self) -> None:
        """Show the messages of libraries, too, with levels and the names of their loggers."""
        self.removeFilter(self._ours)
        self.setFormatter(_Lines("%(levelname)s %(name)s: %(message)s"))


def begin_messages() -> None:
    """Set up the messages of this process, the command line: logs, Python warnings, and unexpected errors.

    The environment variable FLUXCUBE_LOG sets the level of the logs; DEBUG and INFO show libraries', too.
    """
    level = os.environ.get("FLUXCUBE_LOG", "WARNING")
    handler = _Handler(level)
    logging.basicConfig(level=level, handlers=[handler])
    warnings.showwarning = _warn
    sys.excepthook = _unexpected
    threading.excepthook = lambda error: _unexpected(error.exc_type, error.exc_value, error.exc_traceback)
    sys.unraisablehook = lambda error: logging.getLogger(_WARNINGS).warning("ignored: %r", error.exc_value)
    if logging.getLevelName(handler.level) in ("DEBUG", "INFO"):
        show_all()


def show_all() -> None:
    """Show everything from now on: logs and warnings of libraries, and tracebacks."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Handler):
            handler.show_all()
    global _verbose
    _verbose = True


_verbose = False


def is_verbose() -> bool:
    """Return whether everything is shown."""
    return _verbose


def _warn(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object, **__: object
) -> None:
    """Log a Python warning: fluxcube itself raises none, so that all are of libraries."""
    logging.getLogger(_WARNINGS).warning("%s:%d: %s: %s", filename, lineno, category.__name__, message)


def _unexpected(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """Report an error that no one expected: in one line how to report it, or its traceback if everything is shown."""
    from fluxcube import __version__

    if is_verbose():
        traceback.print_exception(kind, error, trace)
    told = " ".join(f"{kind.__name__}: {error}".split())
    if issubclass(kind, MemoryError):
        print_error(f"not enough memory ({told}): choose fewer workers, a shorter period or a smaller area.")
        return
    command = shlex.join(["fluxcube", VERBOSE, *(word for word in sys.argv[1:] if word != VERBOSE)])
    print_error(
        f"unexpected error: {told}. This is a fault of fluxcube {__version__} (Python {sys.version.split()[0]}); "
        f"please report it{_where()}, with the output of: {command}"
    )


def print_error(text: str) -> None:
    """Print one line to standard error."""
    sys.stderr.write(f"fluxcube: {printable(without_secrets(text))}\n")


def _where() -> str:
    """Return where faults are reported, from the metadata of the package; "" if they do not say."""
    try:
        links = importlib.metadata.metadata("fluxcube").get_all("Project-URL") or []
    except importlib.metadata.PackageNotFoundError:
        return ""
    return next((f" to {link.partition(', ')[2]}" for link in links if "issue" in link.lower()), "")
