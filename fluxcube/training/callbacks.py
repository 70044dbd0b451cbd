"""Callbacks: objects of the user that are told, by plain dicts, what a training run does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any, Protocol

from fluxcube.errors import CallbackError, ConfigError, FluxcubeError

log = logging.getLogger(__name__)

#: Methods of a callback.
EVENTS = ("on_start", "on_step", "on_validation", "on_end")


class Callback(Protocol):
    """What a callback may have; a class derived from this one inherits methods that do nothing.

    The members of an ensemble are told apart by the ``seed`` in `on_start`. In a training of several processes the
    first one alone calls them. With ``jobs`` above 1 each member gets a copy of the callback, in its own process.
    """

    def on_start(self, about: Mapping[str, Any]) -> None:
        """Training begins or resumes.

        Parameters
        ----------
        about : dict
            ``model``, ``run`` (its place), ``seed``, ``targets``, ``inputs``, ``config``, ``training`` (None without
            gradient descent), ``train_sites`` and ``val_sites`` (numbers of towers), ``epochs`` and ``steps_per_epoch``
            (None without gradient descent), and ``resumed``: None for a new run, or the finished ``epochs``, ``steps``
            of the next epoch and ``updates`` of a network, or the ``rounds`` of trees.
        """
        return None

    def on_step(self, row: Mapping[str, Any]) -> None:
        """A step of gradient descent was made.

        Parameters
        ----------
        row : dict
            ``update`` (number of the step in the run, from 1), ``loss`` and ``lr``.
        """
        return None

    def on_validation(self, row: Mapping[str, Any]) -> None:
        """An epoch was scored on the validation towers, or a model without epochs is trained.

        Parameters
        ----------
        row : dict
            The line of ``log.csv``: ``epoch``, ``loss``, ``val_nse_<target>``, ``lr`` and so on.
        """
        return None

    def on_end(self, about: Mapping[str, Any]) -> None:
        """The run is complete, or was stopped by a signal or an error.

        Parameters
        ----------
        about : dict
            ``state``, "complete" or "stopped", and ``summary``: one line on the result, or the error.
        """
        return None


def check_callbacks(callbacks: Sequence[object]) -> tuple[object, ...]:
    """Return callbacks as a tuple (ConfigError if one is a class, or has none of the methods of `Callback`)."""
    if not isinstance(callbacks, Sequence):
        raise ConfigError(f"callbacks must be a list of callbacks, found {type(callbacks).__name__}: pass [callback].")
    for one in callbacks:
        if isinstance(one, type):
            raise ConfigError(f"a callback is an object, found the class {one.__name__}: pass {one.__name__}().")
        if not any(callable(getattr(one, name, None)) for name in EVENTS):
            raise ConfigError(f"a callback has methods named {', '.join(EVENTS)}, found {type(one).__name__}.")
    return tuple(callbacks)


def check_copies(callbacks: Sequence[object], jobs: int) -> None:
    """Refuse callbacks that cannot be copied to other processes (ConfigError), for more than one job."""
    for one in callbacks if jobs > 1 else ():
        with _Renamed(_not_copied):
            ForkingPickler.dumps(one)


def _not_copied(error: Exception) -> ConfigError:
    return ConfigError(
        f"a callback cannot be copied to the process of a member ({error}): define its class in a module, open files "
        "in on_start, or pass jobs=1."
    )


@dataclass(frozen=True)
class Watch:
    """Callbacks and loggers of a run; they do not influence its weights.

    Attributes
    ----------
    callbacks : tuple of Callback
        Callbacks.
    log : tuple of str
        Names of loggers (`fluxcube.training.loggers.NAMES`).
    store : str
        Place of the cube, for the file of the run; "" for a cube in memory.
    """

    callbacks: tuple[object, ...] = ()
    log: tuple[str, ...] = ()
    store: str = ""


class Told:
    """The callbacks of one run, which are told of each event in their order.

    Parameters
    ----------
    callbacks : sequence of Callback
        Callbacks; a method that one lacks is not called.
    about : mapping
        Argument of `on_start`, without the progress of a resumed run.

    Raises
    ------
    CallbackError
        By all methods, if a callback raises an error.
    """

    def __init__(self, callbacks: Sequence[object] = (), about: Mapping[str, Any] | None = None):
        self.callbacks, self.about, self._begun = tuple(callbacks), dict(about or {}), False

    def start(
        self, resumed: Mapping[str, int] | None, epochs: int | None = None, steps_per_epoch: int | None = None
    ) -> None:
        """Report that training begins, or resumes after what was done before."""
        self._begun = True
        self._tell("on_start", self.about | {"epochs": epochs, "steps_per_epoch": steps_per_epoch, "resumed": resumed})

    def step(self, update: int, row: Mapping[str, float]) -> None:
        """Report a step of gradient descent."""
        if self.callbacks:
            self._tell("on_step", {"update": update, **row})

    def validation(self, row: Mapping[str, Any]) -> None:
        """Report a line of the log."""
        self._tell("on_validation", row)

    def complete(self, summary: str) -> None:
        """Report that the run is complete."""
        try:
            for one in self.callbacks if self._begun else ():
                _call(one, "on_end", {"state": "complete", "summary": summary})
            self._begun = False
        except CallbackError as error:
            raise CallbackError(f"{error}; the run is complete.") from error.__cause__

    def stopped(self, why: str) -> None:
        """Report that the run was stopped; errors of callbacks are logged, since another one ends the run."""
        for one in self.callbacks if self._begun else ():
            try:
                _call(one, "on_end", {"state": "stopped", "summary": why})
            except FluxcubeError as error:
                log.warning("%s", error)

    def __enter__(self) -> Told:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Report that the run was stopped, if the block is left by an error or a signal."""
        if error is not None:
            self.stopped(str(error) or type(error).__name__)

    def _tell(self, event: str, row: Mapping[str, Any]) -> None:
        for one in self.callbacks:
            _call(one, event, row)


def _call(callback: object, event: str, row: Mapping[str, Any]) -> None:
    """Call a method of a callback, if it has it; its errors become CallbackError."""
    method = getattr(callback, event, None)
    if method is None:
        return
    name = f"{type(callback).__name__}.{event}"
    with _Renamed(lambda error: CallbackError(f"{name} failed ({type(error).__name__}: {error})")):
        method(dict(row))


@dataclass
class _Renamed:
    """Replaces any error of a user's object in a block by one of fluxcube, whose cause it is."""

    as_ours: Callable[[Exception], FluxcubeError]

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, FluxcubeError):
            raise self.as_ours(error) from error
