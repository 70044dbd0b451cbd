"""Splits of towers in time, and of known and new towers: parts of a site are periods with a gap between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fluxcube.errors import SplitError
from fluxcube.samples import periods as spans
from fluxcube.samples.clusters import Places
from fluxcube.samples.partition import PARTS, Split, count
from fluxcube.samples.periods import Period


def described_split(
    places: Places,
    parts: Sequence[Sequence[str]],
    *,
    kind: str,
    seed: int | None = None,
    buffer_km: float = 0.0,
    periods: Mapping[str, Mapping[str, Sequence[Period]]] | None = None,
    notes: tuple[str, ...] = (),
) -> Split:
    """Make a split of the (train, val, test) sites and count its classes."""
    igbp = dict(zip(places.sites, places.igbp, strict=True))
    counts = {c: count(igbp, parts, c) for c in sorted(set(places.igbp))}
    zero = tuple(c for c, (n, _, tested) in counts.items() if not n and tested)
    train, val, test = map(tuple, parts)
    return Split(
        train=train,
        val=val,
        test=test,
        kind=kind,
        seed=seed,
        buffer_km=buffer_km,
        counts=counts,
        zero_shot=zero,
        periods=periods or {},
        notes=notes,
    )


def time_split(cube, *, test_years: int = 1, val_years: int = 1, gap_days: int = 30, year: int | None = None) -> Split:
    """Split each tower's record in time: its first years train, the next ones stop training, its last ones test.

    Years are those of the site's own clock; one counts where the record covers at least half of it. Towers with too
    few years are left out, and named in the notes.

    Parameters
    ----------
    cube : xr.Dataset
        A cube.
    test_years, val_years : int
        Last years that test, and years before them that stop training (0: none).
    gap_days : int
        Days before each later part that no part has, so that weeks of common weather do not tie them together.
    year : int, optional
        Cut at this calendar year at every tower instead: years before it train, it validates, years after it test.

    Returns
    -------
    Split

    Raises
    ------
    SplitError
        If no tower has enough years, or the numbers make no sense.
    """
    if test_years < 1 or val_years < 0 or gap_days < 0:
        raise SplitError("test_years must be 1 or more, val_years and gap_days 0 or more.")
    gap = np.timedelta64(gap_days, "D")
    held: dict[str, list[Period | None]] = {}
    for site, (first, stop, offset) in spans.calendar(cube).items():
        edges = _edges(spans.years(first, stop, offset), test_years, val_years, year)
        pieces = spans.cut(first, stop, [spans.new_year(y, offset) for y in edges], gap) if edges else [None] * 3
        if pieces[0] and pieces[2] and (pieces[1] or not val_years):
            held[site] = pieces
    wanted = "year" if year is None else str(year)
    kind = f"time: first years train, last {test_years} test" if year is None else f"time: tested after {wanted}"
    left = sorted(set(map(str, cube["site"].values)) - set(held))
    if not held:
        how = f"{test_years + val_years + 1} years" if year is None else f"years before, in and after {year}"
        raise SplitError(
            f"no tower has {how}, besides gaps of {gap_days} days: request fewer years, or split by sites."
        )
    return _timed(cube, held, kind=kind, notes=_notes(f"{gap_days} days between parts", left, "too few years"))


def _edges(known: Sequence[int], test_years: int, val_years: int, year: int | None) -> tuple[int, int] | None:
    """Return the first year of validation and of testing, or None if a part would be empty."""
    if year is not None:
        return (year, year + 1) if {year} < {y for y in known} and known[0] < year < known[-1] else None
    if len(known) < test_years + val_years + 1:
        return None
    return known[len(known) - test_years - val_years], known[len(known) - test_years]


def _timed(cube, pieces: Mapping[str, Sequence[Period | None]], *, kind: str, notes: tuple[str, ...]) -> Split:
    """Make a split from the (train, val, test) periods of each site; None is a part that the site is not in."""
    parts = {
        part: {site: (period,) for site, periods in pieces.items() if (period := periods[i]) is not None}
        for i, part in enumerate(PARTS)
    }
    named = [tuple(sites) for sites in parts.values()]
    return described_split(Places.of(cube, 0.0), named, kind=kind, periods=parts, notes=notes)


def _notes(first: str, left: Sequence[str], why: str) -> tuple[str, ...]:
    return (first, f"left out, {why} ({len(left)}): {', '.join(left)}") if left else (first,)


def warm_site(cube, split: Split, *, known_years: int = 1, gap_days: int = 30) -> Split:
    """Add the first years of each test tower to the training set, and test on its later years.

    A model trained on the original `split` and scored on this test part shows, on the same time steps, how much data of
    the tower itself improve predictions. Test towers with too few years are left out, and named in the notes.

    Parameters
    ----------
    cube : xr.Dataset
        A cube.
    split : Split
        Of sites, as `kfold` or `per_igbp` makes it.
    known_years : int
        First years of each test tower that train.
    gap_days : int
        Days before the tested years that neither part has.

    Returns
    -------
    Split

    Raises
    ------
    SplitError
        If the split is in time already, or no test tower has more than `known_years` years.
    """
    if split.periods:
        raise SplitError(
            "expected a split by sites, found one that is in time already: pass a split of kfold or per_igbp."
        )
    if known_years < 1 or gap_days < 0:
        raise SplitError("known_years must be 1 or more, gap_days 0 or more.")
    split.check(cube["site"].values)
    known, tested = {}, {}
    about = spans.calendar(cube)
    for site in split.test:
        first, stop, offset = about[site]
        years = spans.years(first, stop, offset)
        if len(years) > known_years:
            edge = spans.new_year(years[known_years], offset)
            before, after = spans.cut(first, stop, [edge], np.timedelta64(gap_days, "D"))
            if before and after:
                known[site], tested[site] = (before,), (after,)
    left = [site for site in split.test if site not in tested]
    if not tested:
        raise SplitError(f"no test tower has more than {known_years} years: there is nothing left to test.")
    parts = [(*split.train, *known), split.val, tuple(tested)]
    notes = _notes(
        f"{known_years} years of each test tower train, {gap_days} days before the rest", left, "too few years"
    )
    return described_split(
        Places.of(cube, 0.0),
        parts,
        kind=f"warm-site of {split.kind}",
        seed=split.seed,
        buffer_km=split.buffer_km,
        periods={"train": known, "test": tested},
        notes=(*split.notes, *notes),
    )
