"""The folder of a run: its files, and whether a run may be trained into it."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fluxcube.cards import card, few
from fluxcube.errors import CheckpointError, ConfigError, StoreError, overwrite_option, to_type, without_secrets
from fluxcube.models.checkpoint import RUN, write_atomically
from fluxcube.parsing import read_json
from fluxcube.resolution import DAILY
from fluxcube.samples.partition import PARTS
from fluxcube.samples.splits import Split
from fluxcube.stores.files import disk_errors
from fluxcube.stores.lock import check_held, writer_lock
from fluxcube.stores.objects import Bucket
from fluxcube.stores.origin import other_source

log = logging.getLogger(__name__)

STATE = "state.safetensors"
SPLIT = "split.json"
LOG = "log.csv"
EVENTS = "tensorboard"
#: Complete options of the run.
RUN_FILE = "run.toml"
#: Loss and learning rate of each step, if they are logged as CSV.
STEPS = "steps.csv"
#: Identifiers of the run at loggers outside its folder.
LOGGED = "logged.json"
#: Unfinished trees, from which training resumes.
ROWS_STATE = ".rows.state"
#: Draws of a random search.
SEARCH = "search.jsonl"
#: Digest of the data of an unfinished run, and the store that they are of.
DATA = "data.json"
#: All files that a run writes, and those that a kill leaves; no other file is ever removed.
_NAMES = re.compile(
    r"run\.json|data\.json|state\.safetensors|split\.json|log\.csv|steps\.csv|logged\.json|run\.toml|tensorboard|search\.jsonl|\.rows\.state"
    r"|model\.(safetensors|json|\d+\.ubj)|applicability\.safetensors|\..+\.(part|lock)"
)

#: Environment variables that `torchrun` sets for each process that it starts.
_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Run:
    """A finished training run; it can be passed wherever the path of its folder is accepted.

    Attributes
    ----------
    path : Path or Bucket
        Folder with the checkpoint, `split.json` and `log.csv`, on a disk or in a bucket.
    split : Split
        Training, validation and test sites.
    history : tuple of dict
        One log entry per epoch, or one of a model without epochs.
    summary : str
        One line on the result.
    calibration : mapping
        For each target of a model with standard deviations: the factor that calibrates them on the validation towers,
        and the fraction of measured values within intervals of 50, 80, 90 and 95 %; see
        `fluxcube.training.calibration.calibration_factors`.
    """

    path: Path | Bucket
    split: Split
    history: tuple[Mapping, ...] = field(default=(), repr=False)
    summary: str = ""
    calibration: Mapping[str, Mapping] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        """Return the folder, the result and the split in one line."""
        return f"<Run {self.path}: {self.summary or 'no summary'}; {self.split!r}>"

    def _repr_html_(self) -> str:
        """Return the result of the run as HTML."""
        last = self.history[-1] if self.history else {}
        scores = {name: value for name, value in last.items() if name.startswith("val_")}
        path = without_secrets(str(self.path))
        facts = {
            "folder": path,
            "result": self.summary,
            "epochs": len(self.history) if len(self.history) > 1 else "",
            "validation": ", ".join(f"{name.removeprefix('val_')} {_short(value)}" for name, value in scores.items()),
            "calibrated": ", ".join(self.calibration),
            **{part: f"{len(getattr(self.split, part))}: {few(getattr(self.split, part))}" for part in PARTS},
        }
        return card("Run", facts, (f'model = fc.load_model("{path}")', "fc.evaluate(cube, fc.predict(model, cube))"))

    def __fspath__(self) -> str:
        return str(self.path)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def prepare(folder: Path, request: Mapping, *, overwrite: bool, resume: bool) -> None:
    """Prepare the folder of a run: new, cleared, or as a killed run of the same request left it.

    It is refused as `check_folder` does.
    """
    check_folder(folder, request, overwrite=overwrite, resume=resume)
    if overwrite and folder.exists():
        clear(folder)
    folder.mkdir(parents=True, exist_ok=True)
    clear_parts(folder)


def check_folder(folder: Path, request: Mapping, *, overwrite: bool, resume: bool) -> None:
    """Refuse a folder into which a run of a request cannot be trained, or resumed; nothing is changed.

    Raises
    ------
    CheckpointError
        If it contains a finished run, a state that is not to be resumed, or other files.
    ConfigError
        If a killed run in it has another request; the message names the first settings that differ.
    """
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file: pass a folder for the run.")
    found = {path.name for path in folder.iterdir()} if folder.exists() else set()
    foreign = sorted(name for name in found if not _ours(name))
    if foreign:
        raise CheckpointError(f"{folder} contains other files ({', '.join(foreign[:3])}): use a folder of its own.")
    if overwrite:
        return
    if RUN in found:
        raise complete_run(folder)
    if found & {STATE, ROWS_STATE, SEARCH}:
        if not resume:
            raise CheckpointError(
                f"{folder} contains an unfinished run: pass resume=True to resume it, or {overwrite_option()}."
            )
        if STATE in found:
            _check_same(folder, request)


def complete_run(folder: Path, kind: str = "run") -> CheckpointError:
    """Return the error for a run, or an ensemble, that is complete: how to use it, and how to train it again."""
    use = to_type(
        python=f'score it with fluxcube.compare(cube, {{"run": fluxcube.predict("{folder}", cube)}})',
        shell=f"score it with `fluxcube evaluate {folder} STORE`",
    )
    again = to_type(python="overwrite=True", shell="--overwrite")
    more = ", more seeds" if kind == "ensemble" else ""
    return CheckpointError(
        f"{folder} contains a finished {kind}, which is complete: {use}, or pass {again} to train it again{more}, or "
        "another folder."
    )


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Make the folder of a run, and lock it against other processes that would train into it.

    Raises
    ------
    CheckpointError
        If it is a file.
    StoreError
        If another process is training into it, the disk is full, or the folder may not be written.
    """
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file: pass a folder for the run.")
    is_new = not folder.exists()
    try:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with writer_lock(folder):
                yield
    except StoreError:
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()  # only if nothing was written
        raise


def clear_parts(folder: Path) -> None:
    """Remove the incomplete files that killed processes left in a locked folder that contains no other files."""
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)


def check_data(folder: Path, digest: str, source: Mapping[str, str] | None = None) -> None:
    """Refuse to resume an unfinished run on other data than it began with; record the digest of the data.

    Parameters
    ----------
    folder : Path
        Folder of a run, or of an ensemble, as `prepare` left it.
    digest : str
        As `fluxcube.training.digest.data_digest` returns it.
    source : mapping, optional
        The store of the cube, as `fluxcube.stores.origin.origin` returns it.

    Raises
    ------
    ConfigError
        If the folder contains an unfinished run on other data, or on the cube of another store or state of a store.
    """
    path, source = folder / DATA, dict(source or {})
    found = {entry.name for entry in folder.iterdir()}
    begun = bool(found & {STATE, ROWS_STATE, SEARCH})
    if begun and DATA in found:
        if other := other_data(_recorded(path), {"digest": digest, **source}):
            raise ConfigError(
                f"{folder} contains an unfinished run on other data: {other}. Pass the cube that it began with, or "
                f"{overwrite_option()} to train again."
            )
    elif begun:
        log.warning("%s was begun by an earlier version, which did not record its data: not compared", folder)
    write_atomically(path, json.dumps({"digest": digest, **source}).encode())


def other_data(was: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return how the data of a run differ from those that are passed now, as text; "" if they do not.

    Parameters
    ----------
    was, now : mapping
        ``digest`` of the values of the towers, and the store of their cube (`fluxcube.stores.origin.origin`); what one
        of them lacks is not compared.

    Examples
    --------
    >>> other_data({"digest": "ab"}, {"digest": "ab", "store_id": "12"})
    ''
    >>> other_data({"digest": "ab", "store_id": "12"}, {"digest": "ab", "store_id": "34"})
    'the cube is another one, or another state of it (it was store_id 12, it is store_id 34)'
    """
    parts = []
    if was.get("digest") and was["digest"] != now["digest"]:
        parts.append(
            f"the values of its training or validation towers had the digest {was['digest'][:8]}, those of this cube "
            f"have {now['digest'][:8]}"
        )
    if other := other_source(was, now):
        parts.append(f"the cube is another one, or another state of it ({other})")
    return "; ".join(parts)


def _recorded(path: Path) -> dict[str, str]:
    try:
        found = read_json(path, dict)
        return {"digest": str(found.pop("digest")), **{str(key): str(value) for key, value in found.items()}}
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): train again with {overwrite_option()}.") from error


def by_torchrun() -> bool:
    """Return whether `torchrun` started this process as one of several."""
    return all(name in os.environ for name in _TORCHRUN) and int(os.environ["WORLD_SIZE"]) > 1


def check_ours(folder: Path) -> None:
    """Raise CheckpointError if a folder contains anything but the files of a run."""
    for path in folder.iterdir():
        if not _ours(path.name):
            raise CheckpointError(f"{path} is not a file of a run: remove it yourself.")


def clear(folder: Path) -> None:
    """Remove the files of a run; refuse a folder with any other file (CheckpointError)."""
    check_ours(folder)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def is_run_file(name: str) -> bool:
    """Return whether a file of this name is one that a run writes, and none that a kill left incomplete."""
    return _ours(name) and not name.endswith((".part", ".lock"))


def _ours(name: str) -> bool:
    return bool(_NAMES.fullmatch(name))


def _check_same(folder: Path, request: Mapping) -> None:
    from fluxcube.training.state import read_request

    if named := differences(read_request(folder / STATE), request):
        raise ConfigError(
            f"{folder} contains an unfinished run of other settings: {named}. Pass {overwrite_option()} to replace it."
        )


def differences(was: Mapping, now: Mapping) -> str:
    """Return the first settings in which two requests differ, as text; "" if none does.

    Examples
    --------
    >>> differences({"training": {"lr": 0.1}}, {"training": {"lr": 0.2}})
    'training.lr was 0.1, is 0.2'
    """
    was, now = _flat(was), _flat(now)
    if "min_quality" in now and "max_qc" in was:  # daily runs recorded their minimum quality so before
        was["min_quality"] = was.pop("max_qc")
    if "features.surface" not in was and was.get("features.resolution") == DAILY.name:
        # Earlier versions recorded the surface columns of daily runs as bands.
        was |= {"features.surface": was["features.bands"], "features.bands": []} if was.get("features.bands") else {}
    differ = [key for key in sorted(was.keys() | now.keys()) if was.get(key) != now.get(key)]
    return "; ".join(f"{key} was {was.get(key)!r}, is {now.get(key)!r}" for key in differ[:3])


def _flat(values: Mapping, prefix: str = "") -> dict[str, object]:
    """Return nested mappings as one level of dotted keys; tuples as lists, as in JSON."""
    out: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return out


def write_log(path: Path, history: Sequence[Mapping]) -> None:
    """Write the complete history as CSV."""
    check_held(path)
    text = io.StringIO()
    columns = list(dict.fromkeys(key for row in history for key in row))
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(history)
    write_atomically(path, text.getvalue().encode())
