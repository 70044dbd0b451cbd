"""Record of a teacher: a cube whose fluxes are predictions of another model says so in one attribute.

`fluxcube.distil` writes the attribute, `fluxcube.fit` checks the split of the student against it and copies it into the
run, and scores and calibration refuse the towers whose fluxes are labels of a teacher.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fluxcube.errors import ConfigError, SchemaError, SplitError
from fluxcube.samples.partition import Split, share_hours

if TYPE_CHECKING:
    import xarray as xr

#: Attribute of a cube whose fluxes are, at some towers, predictions of a model; and key of the record in `run.json`.
TEACHER = "teacher"
#: Parts of a split from which a model learns: weights from the first, when to stop from the second.
_LEARNED = ("train", "val")
#: Maximum number of towers that a message names.
_NAMED = 10


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """Model whose predictions replace the fluxes of some towers of a cube.

    Attributes
    ----------
    model_digest : str
        Digest of its weights (`Predictor.digest`).
    kind : str
        Its kind, such as ecoperceiver or mixed.
    members : int
        Number of its members; 1 for a single model.
    targets : tuple of str
        Fluxes with labels.
    split : mapping
        The student's split, as `Split.to_dict` returns it: its training towers have the labels.
    splits : tuple of mapping
        The splits that the teacher, or each of its members with a split of its own, was trained on.
    training_sites : tuple of str
        Towers whose fluxes the teacher learned from, by itself or through a teacher of its own.
    observed : float
        Weight of a measured flux in the label of its time step; that of the teacher is 1 minus it.
    share_of_labels : mapping of str to float
        For each target, the share of the training fluxes that are the teacher's alone, without a measured flux.
    """

    model_digest: str
    kind: str
    members: int
    targets: tuple[str, ...]
    split: Mapping
    splits: tuple[Mapping, ...]
    training_sites: tuple[str, ...]
    observed: float = 0.0
    share_of_labels: Mapping[str, float] = field(default_factory=dict)

    @property
    def sites(self) -> tuple[str, ...]:
        """Towers whose fluxes are labels."""
        return tuple(self.split["train"])

    def to_dict(self) -> dict:
        """Return the record as JSON-compatible values."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def check(self, split: Split) -> None:
        """Refuse a student's split whose held-out towers the teacher learned from, or that have labels.

        Parameters
        ----------
        split : Split
            The split that the student is trained with.

        Raises
        ------
        SplitError
            With the names of the towers.
        """
        own, taught = Split.from_dict(dict(self.split)), [Split.from_dict(dict(one)) for one in self.splits]
        for part, words in (("test", "test towers"), ("val", "validation towers")):
            sites = getattr(split, part)
            parts = _LEARNED if part == "test" else _LEARNED[:1]
            if seen := [s for s in sites if self._learned_from(split, part, taught, parts, s)]:
                raise SplitError(
                    f"the teacher {self.model_digest[:12]} was trained or validated on {words} of the student: "
                    f"{_names(seen)}. Pass the teacher's own split (the default of fluxcube.distil), or a teacher that "
                    "was trained on the training towers of this split."
                )
            if labelled := [s for s in sites if share_hours(split, part, own, "train", s)]:
                raise SplitError(
                    f"the fluxes of {words} are labels of the teacher {self.model_digest[:12]}: {_names(labelled)}. "
                    "Pass the split that the cube was labelled for (the default), or label the cube for this one."
                )

    def _learned_from(self, split: Split, part: str, taught: Sequence[Split], parts: Sequence[str], site: str) -> bool:
        """Return whether the teacher learned from a tower of a part of the split, in the periods of that part."""
        if any(share_hours(split, part, one, its_part, site) for one in taught for its_part in parts):
            return True
        return site in self.training_sites and not any(site in one.train for one in taught)


def teacher_of(ds: xr.Dataset | xr.DataArray) -> Teacher | None:
    """Return the record of the teacher of a cube; None if its fluxes are those of towers.

    Raises
    ------
    SchemaError
        If the attribute is no such record.
    """
    text = ds.attrs.get(TEACHER)
    if text is None:
        return None
    try:
        values = dict(json.loads(str(text)))
        lists = {name: tuple(values[name]) for name in ("targets", "splits", "training_sites")}
        return Teacher(**{**values, **lists})
    except (ValueError, TypeError, KeyError) as error:
        raise SchemaError(
            f"attribute {TEACHER}: expected the record that fluxcube.distil writes, found {str(text)[:60]!r} "
            f"({error}): label the cube again."
        ) from error


def labelled_targets(one: xr.Dataset) -> np.ndarray:
    """Return which targets of a cube of one tower are labels of a teacher, (targets,) bool."""
    teacher = teacher_of(one)
    names = list(map(str, one["target"].values))
    if teacher is None or str(one["site"].values[0]) not in teacher.sites:
        return np.zeros(len(names), bool)
    return np.isin(names, list(teacher.targets))


def check_measured(obs: xr.Dataset | xr.DataArray, predictions: Mapping[str, xr.Dataset | xr.DataArray]) -> None:
    """Refuse to compare predictions with the labels of a teacher.

    Parameters
    ----------
    obs : xr.Dataset or xr.DataArray
        Observations; any but a cube with labels are accepted.
    predictions : mapping of str to xr.Dataset or xr.DataArray
        Predictions by model.

    Raises
    ------
    ConfigError
        If fluxes of one of them are labels.
    """
    teacher = teacher_of(obs)
    if teacher is None or "site" not in obs.coords:
        return
    compared = set(_sites(obs)) & {site for one in predictions.values() if "site" in one.coords for site in _sites(one)}
    if found := sorted(compared & set(teacher.sites)):
        raise ConfigError(
            f"expected measured fluxes, found labels of the teacher {teacher.model_digest[:12]} at {_names(found)}: "
            "pass the cube that was labelled, or predictions of held-out towers only."
        )


def _sites(ds: xr.Dataset | xr.DataArray) -> list[str]:
    return np.atleast_1d(ds["site"].values).astype(str).tolist()


def _names(sites: Sequence[str]) -> str:
    more = f" and {len(sites) - _NAMED} more" if len(sites) > _NAMED else ""
    return ", ".join(sites[:_NAMED]) + more
