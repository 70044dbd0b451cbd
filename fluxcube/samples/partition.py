"""A split: training, validation and test sites, with periods for splits in time; saved as JSON with a checkpoint."""

from __future__ import annotations

import dataclasses
import json
import os
import types
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fluxcube.cards import card, few
from fluxcube.errors import SplitError, to_type, unknown
from fluxcube.parsing import read_json
from fluxcube.samples import periods as spans
from fluxcube.samples.periods import Period
from fluxcube.stores.files import write_text

#: Parts of a split.
PARTS = ("train", "val", "test")
#: Types of the values of a split in a JSON file, and their description.
_TYPES: dict[str, tuple[type | types.UnionType | list[type], str]] = {
    **dict.fromkeys((*PARTS, "zero_shot", "notes"), ([str], "a list of names")),
    "kind": (str, "text"),
    "seed": (int | None, "a whole number"),
    "buffer_km": (int | float, "a number"),
    "counts": (dict, "a mapping of classes to numbers of sites"),
    "periods": (dict, "a mapping of parts to sites and their periods"),
}


@dataclass(frozen=True)
class Split:
    """Training, validation and test sites.

    Attributes
    ----------
    train, val, test : tuple of str
        Lists of sites; disjoint, unless `periods` separate the parts of a site in time.
    kind : str
        Method that made the split.
    seed : int or None
        Seed of the random draw.
    buffer_km : float
        Sites closer than this are in the same part.
    counts : mapping
        Class to its numbers of train, val and test sites.
    zero_shot : tuple of str
        Classes with test sites but without training sites.
    periods : mapping
        Part to site to its periods (first, stop), UTC as ISO text, the stop not included. A site of a part without
        any is used whole.
    notes : tuple of str
        Sentences that explain which sites were left out and why.
    """

    train: tuple[str, ...]
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    kind: str = "given"
    seed: int | None = None
    buffer_km: float = 0.0
    counts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    zero_shot: tuple[str, ...] = ()
    periods: Mapping[str, Mapping[str, Sequence[Period]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        for name in (*PARTS, "zero_shot", "notes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "counts", {c: list(n) for c, n in self.counts.items()})
        object.__setattr__(self, "periods", spans.normal(self.periods))
        for part in PARTS:
            self._check_twice([s for s, n in Counter(getattr(self, part)).items() if n > 1])
        self._check_twice([s for s in self._several() if self._overlaps(s)])
        for part, sites in self.periods.items():
            if part not in PARTS:
                raise unknown("part of a split", part, PARTS)
            if foreign := sorted(set(sites) - set(getattr(self, part))):
                raise SplitError(f"{part} has periods of sites that it does not list: {', '.join(foreign)}.")
        if not self.train:
            raise SplitError("a split must have at least one training site; its list is empty.")

    def __repr__(self) -> str:
        """Return the method and the number of sites of each part."""
        return f"<Split {self.kind}: {self._sizes()}>"

    def _repr_html_(self) -> str:
        """Return the parts and their sites as HTML."""
        facts = {part: f"{len(getattr(self, part))}: {few(getattr(self, part))}" for part in PARTS}
        facts |= {"method": self.kind, "seed": "" if self.seed is None else str(self.seed)}
        facts |= {"buffer": f"{self.buffer_km:g} km" if self.buffer_km else ""}
        facts |= {"classes without training sites": ", ".join(self.zero_shot), "notes": " ".join(self.notes)}
        return card("Split", facts, ("fc.fit(cube, split=split, ...)",))

    def _sizes(self) -> str:
        sizes = {part: len(getattr(self, part)) for part in PARTS if getattr(self, part)}
        noun = "site" if sum(sizes.values()) == 1 else "sites"
        return f"{', '.join(f'{size} {part}' for part, size in sizes.items())} {noun}"

    def _several(self) -> list[str]:
        """Sites of more than one part."""
        return [site for site, n in Counter((*self.train, *self.val, *self.test)).items() if n > 1]

    def _overlaps(self, site: str) -> bool:
        """Return whether two parts of the split overlap in time at a site."""
        listed = [part for part in PARTS if site in getattr(self, part)]
        periods = [self.periods[part][site] for part in listed if site in self.periods.get(part, {})]
        if len(periods) < len(listed):  # a part without periods has the whole record
            return True
        return any(spans.overlap(a, b) for i, a in enumerate(periods) for b in periods[:i])

    @staticmethod
    def _check_twice(twice: Sequence[str]) -> None:
        if twice:
            raise SplitError(
                f"{', '.join(sorted(twice))}: listed more than once in the split; list each site once, or give each "
                "part periods of it that do not overlap."
            )

    def part(self, cube, part: str):
        """Return the sites of a part; where the split cuts through time, fluxes outside of its periods are missing.

        Predictors are not masked, so that the first windows and trailing means of a period use the time before it.

        Parameters
        ----------
        cube : xr.Dataset
            A cube that contains the sites; lazy arrays stay lazy.
        part : {"train", "val", "test"}
            Which.

        Raises
        ------
        UnknownNameError
            If there is no such part, or the cube lacks a site of it.
        """
        if part not in PARTS:
            raise unknown("part of a split", part, PARTS)
        known = set(map(str, cube["site"].values))
        for site in getattr(self, part):
            if site not in known:
                raise unknown("site of the split", site, known)
        chosen = cube.sel(site=list(getattr(self, part)))
        return _within(chosen, self.periods[part]) if self.periods.get(part) else chosen

    def only(self, cube, classes: str | Iterable[str]) -> Split:
        """Return the split with training and validation sites of some IGBP classes only, and the same test sites.

        Raises
        ------
        SplitError
            If no training site is of one of these classes.
        UnknownNameError
            If the cube lacks a site of the split.
        """
        self.check(cube["site"].values)
        wanted = {classes} if isinstance(classes, str) else set(classes)
        igbp = dict(zip(map(str, cube["site"].values), map(str, cube["igbp"].values), strict=True))
        kept = {part: tuple(s for s in getattr(self, part) if igbp.get(s) in wanted) for part in ("train", "val")}
        there = {igbp[site] for site in self.train}
        if absent := sorted(wanted - there):
            raise SplitError(
                f"no training site of the split is {' or '.join(absent)}: its classes are {', '.join(sorted(there))}."
            )
        return self._of(kept, igbp, f"trained on {', '.join(sorted(wanted))} alone")

    def without(self, cube, sites: Iterable[str], why: str) -> Split:
        """Return the split without some training and validation sites, and with the same test sites.

        Parameters
        ----------
        cube : xr.Dataset
            A cube that contains the sites of the split.
        sites : iterable of str
            Sites to leave out.
        why : str
            Reason, for the notes of the split.

        Raises
        ------
        SplitError
            If no training site is left.
        """
        gone = set(sites)
        igbp = dict(zip(map(str, cube["site"].values), map(str, cube["igbp"].values), strict=True))
        kept = {part: tuple(s for s in getattr(self, part) if s not in gone) for part in ("train", "val")}
        if not kept["train"]:
            raise SplitError(f"no training site is left: {why}.")
        count_gone = len(self.train) + len(self.val) - sum(map(len, kept.values()))
        return self._of(kept, igbp, f"{count_gone} training and validation sites left out: {why}")

    def _of(self, kept: Mapping[str, tuple[str, ...]], igbp: Mapping[str, str], note: str) -> Split:
        """Return the split with some of its training and validation sites, and a note."""
        periods = {
            p: {s: v for s, v in held.items() if p == "test" or s in kept[p]} for p, held in self.periods.items()
        }
        trained = {igbp[s] for s in kept["train"]}
        counts = {
            c: count(igbp, (*kept.values(), self.test), c) for c in sorted({igbp[s] for s in self.test} | trained)
        }
        return dataclasses.replace(
            self,
            train=kept["train"],
            val=kept["val"],
            periods=periods,
            counts=counts,
            zero_shot=tuple(sorted({igbp[s] for s in self.test} - trained)),
            notes=(*self.notes, note),
        )

    def to_dict(self) -> dict:
        """Return the split as JSON-compatible values; `from_dict` is the inverse."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}
        values["periods"] = {
            part: {site: [list(period) for period in several] for site, several in sites.items()}
            for part, sites in self.periods.items()
        }
        return values

    @classmethod
    def from_dict(cls, values: Mapping) -> Split:
        """Return a split from the values that `to_dict` returned.

        Raises
        ------
        UnknownNameError
            At unknown keys.
        SplitError
            If a value has another type.
        """
        valid = [f.name for f in dataclasses.fields(cls)]
        for key in values:
            if key not in valid:
                raise unknown("split key", key, valid)
        for key, (kind, words) in _TYPES.items():
            if key in values and not _fits(values[key], kind):
                raise SplitError(f"{key}: expected {words}, found {values[key]!r:.60}.")
        if not all(_fits(numbers, [int]) for numbers in values.get("counts", {}).values()):
            raise SplitError(f"counts: expected numbers of sites by class, found {values['counts']!r:.60}.")
        try:
            return cls(**values)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise SplitError(f"expected lists of sites and their periods as Split.save writes them: {error}") from error

    def save(self, path: str | os.PathLike) -> None:
        """Write the split as JSON, in one step (StoreError if the disk does not accept it)."""
        _write(path, self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike) -> Split:
        """Read a split that `save` wrote.

        Raises
        ------
        SplitError
            If the file is missing or is not a split.
        """
        values = _read(path)
        if "folds" in values:
            raise SplitError(f"{path} holds {len(values['folds'])} folds: select one, for example {path}:1.")
        try:
            return cls.from_dict(values)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise SplitError(f"{path} is not a split file (JSON with train, val and test lists): {error}") from error

    def check(self, sites: Sequence[str]) -> None:
        """Raise UnknownNameError if the split names a site that is not among `sites`."""
        known = set(map(str, sites))
        for site in (*self.train, *self.val, *self.test):
            if site not in known:
                raise unknown("site of the split", site, known)


def _within(chosen, periods: Mapping[str, Sequence[Period]]):
    """Mask the fluxes outside the periods; sites without periods keep all fluxes."""
    import xarray as xr

    time = chosen["time"].values
    every = np.ones(len(time), bool)
    rows = [spans.inside(periods[s], time) if s in periods else every for s in map(str, chosen["site"].values)]
    mask = xr.DataArray(np.array(rows), dims=("site", "time"))
    fluxes = {
        name: array for name, array in chosen.data_vars.items() if "target" in array.dims and "time" in array.dims
    }
    absent = {name: -1 if array.dtype.kind == "i" else 0.0 for name, array in fluxes.items()}
    absent |= {name: np.nan for name in absent if not name.endswith(("_qc", "_coverage"))}
    kept = {n: a.where(mask, np.asarray(absent[n], a.dtype)).transpose(*a.dims) for n, a in fluxes.items()}
    return chosen.assign({name: kept[name].assign_attrs(array.attrs) for name, array in fluxes.items()})


def share_hours(one: Split, part: str, other: Split, its_part: str, site: str) -> bool:
    """Return whether a part of one split and a part of another overlap in time at a site."""
    if site not in getattr(one, part) or site not in getattr(other, its_part):
        return False
    periods, its_periods = one.periods.get(part, {}).get(site), other.periods.get(its_part, {}).get(site)
    return periods is None or its_periods is None or spans.overlap(periods, its_periods)


def _write(path: str | os.PathLike, values: Mapping) -> None:
    write_text(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def _read(path: str | os.PathLike) -> dict:
    try:
        return read_json(path, dict)
    except FileNotFoundError as error:
        how = to_type(python=f'fc.kfold(cube)[0].save("{path}")', shell=f"`fluxcube split STORE {path}`")
        raise SplitError(f"there is no file {path}: check the path, or write a split with {how}.") from error
    except (OSError, ValueError) as error:
        raise SplitError(f"{path} is not a split file (JSON with train, val and test lists): {error}") from error


def _fits(value: object, kind: type | types.UnionType | list[type]) -> bool:
    """Return whether a value of a JSON file is of a kind: a type, or ``[type]`` for a list of it."""
    if not isinstance(kind, list):
        return isinstance(value, kind)
    return isinstance(value, list | tuple) and all(isinstance(one, kind[0]) for one in value)


def save_folds(folds: Sequence[Split], path: str | os.PathLike, *, notes: Sequence[str] = ()) -> None:
    """Write several splits as one JSON file, with notes on their origin."""
    _write(path, {"notes": list(notes), "folds": [fold.to_dict() for fold in folds]})


def load_folds(path: str | os.PathLike) -> list[Split]:
    """Read the splits that `save_folds` wrote; a file with one split returns a list of one.

    Raises
    ------
    SplitError
        If the file is missing or holds something else.
    """
    values = _read(path)
    if "folds" not in values:
        return [Split.load(path)]
    try:
        return [Split.from_dict(fold) for fold in list(values["folds"])]
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise SplitError(f"{path} is not a file of folds: {error}") from error


def count(igbp: Mapping[str, str], parts: Iterable[Sequence[str]], name: str) -> list[int]:
    """Return the number of sites of a class in each part."""
    return [sum(igbp[site] == name for site in part) for part in parts]
