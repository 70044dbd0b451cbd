"""Exceptions of fluxcube. Each class also inherits from the built-in exception that a caller would expect.

A message states what was expected, what was found, where, and what to type next: a command where a command was typed,
and a call where Python was (`to_type`).
"""

from __future__ import annotations

import contextlib
import difflib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import ClassVar

#: Maximum number of names that a message lists: a whole variable table, but not hundreds of sites.
_MAX_NAMES = 60


#: Whether a command of the shell called the library, so that messages name commands and options.
_in_shell = False


@contextlib.contextmanager
def from_shell() -> Iterator[None]:
    """Let messages name commands and options of the shell while a block runs, instead of calls in Python."""
    global _in_shell
    before, _in_shell = _in_shell, True
    try:
        yield
    finally:
        _in_shell = before


def to_type(*, python: str, shell: str) -> str:
    """Return the part of a message that can be typed, in the language in which fluxcube was called.

    Examples
    --------
    >>> to_type(python="split=fc.kfold(cube)[0]", shell="--split kfold:1")
    'split=fc.kfold(cube)[0]'
    >>> with from_shell():
    ...     print(to_type(python="split=fc.kfold(cube)[0]", shell="--split kfold:1"))
    --split kfold:1
    """
    return shell if _in_shell else python


def overwrite_option() -> str:
    """Return what replaces existing output, in the language in which fluxcube was called."""
    return to_type(python="overwrite=True", shell="--overwrite")


#: Name and password in a URL. A password may contain "/" and "@", as keys of S3 do; a path loses one slash ("s3:/").
#: What follows a colon is no password if it is the number of a port.
_USER = re.compile(
    r"(?<![\w.+-])([A-Za-z][\w+.-]{1,30}:/{1,2})"
    r"(?:[^/\s?#:]{0,200}:(?!\d+/)(?:(?!://)[^\s?#]){0,400}|[^/\s?#'\"]{1,400})@"
)
#: Values of parameters of a URL that may grant access.
_PARAMETER = re.compile(
    r"([?&;#][^=&\s]{0,40}(?:token|key|secret|sig|pass|pw|auth|cred|session|access|jwt|code)[^=&\s]{0,40}=)"
    r"(?:[^&;\s'\":]|:(?!\s|$))+",
    re.IGNORECASE,
)
#: Values of a connection string of Azure, of options of a store as Python prints them, and of a header.
_OPTION = re.compile(
    r"((?:AccountKey|SharedAccess\w{1,10}|secret_access_key|session_token)=)[^;&\s'\"]+"
    r"|(['\"](?:\w{1,30}_)?(?:token|key|secret|password|key_id|connection_string)['\"]: ?['\"])[^'\"]+"
    r"|(\bAuthorization\W{1,5}(?:Bearer|Basic) )[\w+/=.~-]+",
    re.IGNORECASE,
)


def without_secrets(text: str) -> str:
    """Return a text whose URLs, connection strings and store options contain no name, password, key or token.

    Examples
    --------
    >>> without_secrets("s3://KEY:secret@bucket/carbonsense.zarr and https://x.org/a?id=5&token=abc: not found")
    's3://***@bucket/carbonsense.zarr and https://x.org/a?id=5&token=***: not found'
    """
    text = _OPTION.sub(lambda found: f"{found[1] or found[2] or found[3]}***", text)
    if ":/" not in text:
        return text
    return _PARAMETER.sub(r"\1***", _USER.sub(r"\1***@", text))


def printable(text: str, keep: str = "") -> str:
    r"""Return a text with its control characters escaped, so that a name from a file cannot steer a terminal.

    Parameters
    ----------
    text : str
        Text that may contain names of files, of sites or of columns.
    keep : str
        Control characters that stay, such as line ends.

    Examples
    --------
    >>> print(printable("FLX_\x1b[31mred.zip"))
    FLX_\x1b[31mred.zip
    """
    if text.isprintable():
        return text
    return "".join(c if c in keep or _is_visible(c) else c.encode("unicode_escape").decode() for c in text)


def _is_visible(character: str) -> bool:
    """Return whether a character is printable or a blank of any width, as file names in Japanese have."""
    return character.isprintable() or unicodedata.category(character) == "Zs"


class FluxcubeError(Exception):
    """Base class of every error that fluxcube raises on purpose.

    Its message contains no credentials of URLs, and no control character of a name that comes from a file.
    """

    def __init__(self, *args: object, **named: object) -> None:
        super().__init__(*(_shown(part) if isinstance(part, str) else part for part in args), **named)


def _shown(text: str) -> str:
    return printable(without_secrets(text), keep="\n\t")


class SourceError(FluxcubeError, ValueError):
    """A source file does not contain what its name or its format promises."""


class SchemaError(FluxcubeError, ValueError):
    """A Dataset lacks a dimension, coordinate or variable that its kind requires."""


class StoreError(FluxcubeError, OSError):
    """A store is missing, incomplete, already exists, or cannot be written."""


class ConfigError(FluxcubeError, ValueError):
    """An option has an invalid value, or conflicts with another option."""


class SplitError(FluxcubeError, ValueError):
    """Sites cannot be split as requested."""


class CheckpointError(FluxcubeError, ValueError):
    """A run folder contains no readable model."""


class DeviceError(FluxcubeError, RuntimeError):
    """A GPU failed, or its memory is too small for the smallest pass of a model."""


class CallbackError(FluxcubeError, RuntimeError):
    """A callback of a training run raised an error; the state of the run is saved."""


class TrainingError(FluxcubeError, ArithmeticError):
    """A loss or a gradient is not finite, so that training cannot continue."""


class FetchError(FluxcubeError, OSError):
    """Data could not be fetched from a service."""

    #: Whether other files of the same service would fail for the same reason, so that they are not tried.
    stops: ClassVar[bool] = False


class CredentialsError(FetchError):
    """A service requires an account, or does not accept the credentials of the user."""

    stops = True


class LicenceError(FetchError):
    """A licence must be accepted, by a person, before a service sends the data."""


class QuotaError(FetchError):
    """A service refuses further requests for now, or a request of this size."""

    stops = True


class UnknownNameError(FluxcubeError, KeyError):
    """A name is not in the table of valid names."""

    def __str__(self) -> str:
        # KeyError prints the repr of its argument; a message should be printed as text.
        return str(self.args[0]) if self.args else ""


class MissingPackageError(FluxcubeError, ImportError):
    """An optional package is needed but not installed."""


class ExtensionError(FluxcubeError, ImportError):
    """An extension of another package cannot be used."""


def unknown(kind: str, name: object, valid: Iterable[object]) -> UnknownNameError:
    """Return the error for a name that is not in a table, with the closest valid name as a suggestion.

    Examples
    --------
    >>> raise unknown("variable", "SW_INN", ["SW_IN", "TA"])
    Traceback (most recent call last):
    fluxcube.errors.UnknownNameError: unknown variable 'SW_INN': did you mean 'SW_IN'? Known: SW_IN, TA.
    """
    known = sorted(map(str, valid))
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f": did you mean {near[0]!r}?" if near else "."
    more = f" and {len(known) - _MAX_NAMES} more" if len(known) > _MAX_NAMES else ""
    return UnknownNameError(f"unknown {kind} {name!r}{hint} Known: {', '.join(known[:_MAX_NAMES]) or 'none'}{more}.")


def missing_package(package: str, extra: str, what: str) -> MissingPackageError:
    """Return the error for an optional package that is not installed.

    Examples
    --------
    >>> raise missing_package("torch", "train", "training EcoPerceiver")
    Traceback (most recent call last):
    fluxcube.errors.MissingPackageError: training EcoPerceiver needs torch: pip install 'fluxcube[train]'.
    """
    return MissingPackageError(f"{what} needs {package}: pip install 'fluxcube[{extra}]'.")
