"""Windows of towers in batches: shuffled, sharded, reproducible and resumable; for NumPy or a torch DataLoader."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np

from fluxcube.cards import card, few
from fluxcube.cubes.selection import Cube, as_cube
from fluxcube.errors import ConfigError, missing_package, unknown
from fluxcube.resolution import DEFAULT, Default, quality_limit, resolution_of
from fluxcube.samples.features import FeatureSpec
from fluxcube.samples.towers import Towers, cube_spec, load_towers, sites_with_hours
from fluxcube.samples.windows import cut, gather
from fluxcube.tabletext import counted

if TYPE_CHECKING:
    import torch
    from torch.utils.data import DataLoader

#: Settings that must be equal for a saved position to be valid: same epochs and same batches.
_SAME = (
    "length",
    "emits",
    "stride",
    "batch_size",
    "partial",
    "shuffle",
    "drop_last",
    "limit",
    "seed",
    "world_size",
)


class WindowOptions(TypedDict, total=False):
    """Keyword arguments of `Windows`, which documents them."""

    length: int
    batch_size: int
    emits: int
    stride: int
    partial: bool
    repeat_images: bool
    shuffle: bool
    drop_last: bool
    limit: int | None
    seed: int
    rank: int
    world_size: int


def load_windows(
    cube: Cube,
    spec: FeatureSpec | None = None,
    *,
    sites: Sequence[str] | None = None,
    targets: str | Sequence[str] | None = None,
    predictors: str | Sequence[str] | None = None,
    labels: bool = False,
    max_qc: int | Default | None = DEFAULT,
    min_quality: float | Default | None = DEFAULT,
    progress: Callable[[int, int, str], None] | None = None,
    **options: Unpack[WindowOptions],
) -> Windows:
    """Read towers of a cube into memory and make windows of them.

    Parameters
    ----------
    cube : xr.Dataset, path or URL
        As `fluxcube.open_carbonsense` returns it, or a selection of it; the time axis may have gaps. Or its store.
    spec : FeatureSpec, optional
        Inputs and targets, e.g. ``train.spec`` for the validation towers; by default `cube_spec`'s: all predictors with
        data, the chips, and NEE.
    sites : sequence of str, optional
        Towers; by default all with an hour in the cube.
    targets : str or sequence of str, optional
        Fluxes of the default `spec`.
    predictors : str or sequence of str, optional
        Inputs of the default `spec`, as `fluxcube.fit` takes them: names, "grid" or "common".
    labels : bool
        Whether batches also have labels, for a training loop of your own: ``y`` (B, emits, targets) float32, the fluxes
        with 0 where none is observed, and ``y_mask`` (B, emits, targets) bool, True where one is. Without a `spec` they
        are scaled to mean 0 and standard deviation 1, as for `fluxcube.fit`, and so are the inputs of a daily cube;
        pass ``train.spec`` for validation towers.
    max_qc : int, None or "default"
        Maximum flag of the hourly fluxes that are used, by default 1; None uses all. The spec has that of the
        predictors.
    min_quality : float, None or "default"
        Minimum quality of the daily fluxes that are used, by default 0.5; None uses all.
    progress : callable, optional
        ``progress(done, total, text)``.
    **options
        Of `Windows`: ``length``, ``batch_size`` and so on.

    Returns
    -------
    Windows

    Raises
    ------
    ConfigError
        If a setting is invalid, a site has no hour, the cube is of another resolution than the spec, normalised or in
        other units than the variable table, or the option of the other resolution is passed.
    UnknownNameError
        If the cube does not contain a name.

    Examples
    --------
    >>> from fluxcube.simulation.example import example_cube
    >>> windows = load_windows(example_cube(), length=48, batch_size=16, seed=1)
    >>> batch = next(iter(windows))
    >>> batch["inputs"].shape, batch["images"].shape, batch["targets"].shape
    ((16, 48, 6), (16, 4, 9, 64), (16, 1, 1))
    """
    for name, value in (("targets", targets), ("predictors", predictors)):
        if spec is not None and value is not None:
            raise ConfigError(f"{name}: the spec has its own; pass {name} without spec.")
    cube = as_cube(cube)
    resolution = resolution_of(cube)
    limit = quality_limit(resolution, max_qc, min_quality, default=resolution.training_limit)
    check_options(options)
    sites = sites_with_hours(cube) if sites is None else sites
    chosen = cube_spec(cube, sites, targets=targets or "NEE", predictors=predictors) if spec is None else spec
    towers = load_towers(cube, sites, chosen, limit, progress)
    if not labels:
        return Windows(towers, **options)
    return LabelledWindows(towers.scaled(inputs=resolution.scaled_inputs) if spec is None else towers, **options)


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options that windows do not have, and a length that is not named, before towers are read."""
    for name in options:
        if name not in WindowOptions.__annotations__:
            raise unknown("option of windows", name, WindowOptions.__annotations__)
    if "length" not in options:
        raise ConfigError("windows need a length: pass the number of time steps, such as length=24.")


@dataclass(eq=False)
class Windows:
    """Batches of windows: the last hours before each hour with an observed flux.

    Iterate over it for NumPy arrays, or over `loader()` for torch tensors. A pass is an epoch, the next pass the next.
    (``torch.utils.data.DataLoader(windows, batch_size=None)`` works, too, but repeats an epoch until `set_epoch`.)
    The windows of an epoch and their order depend on `seed` and the epoch alone. No window contains time steps of two
    towers, or spans a gap in the time axis; all values of a missing hour are masked.

    Each batch is a dict of arrays:

    - ``inputs`` (B, T, V) float32, normalised, and ``mask`` (B, T, V) bool, True where there is a value; the others are
      NaN; ``spec.inputs`` names the columns.
    - ``images`` (B, K, b, ``spec.pixels``) float32, pixels of ``spec.bands``; NaN is missing. ``image_step`` (B, K)
      int64 is the hour of the window, 0..T-1, that contains local solar noon of the image's day (0 also for the last
      image before the window), or -1 for no image. With other kinds of images (``spec.images``),
      `fluxcube.models.base.split_images` returns those of each kind.
    - ``numbers`` (B, S) float32 and ``classes`` (B, C) int64: ``spec.numbers``, and the index into
      ``spec.igbp_classes`` or -1.
    - ``targets`` (B, emits, targets) float32: fluxes of the last hours, scaled as `spec` says; NaN is not observed.
    - ``site`` (B,) int64, the position in `sites`, and ``time`` (B,) int64, hours from 1970-01-01T00 UTC to the
      window's last hour: ``time.astype("datetime64[h]")``. With a daily cube, days take the place of hours throughout.

    Parameters
    ----------
    towers : Towers
        Data, shared by all batches and epochs; nothing of it is copied but the windows of a batch.
    length : int
        T, hours of a window.
    batch_size : int
        Windows in a batch of this rank; the last of an epoch may have fewer.
    emits : int
        Last hours of a window that have targets, 1..length; at least one of them is observed.
    stride : int
        Hours between the windows of an epoch, whose phase is drawn anew per place and epoch.
    partial : bool
        Whether a place's first hours get windows too, their hours before the first one masked.
    repeat_images : bool
        Whether the latest image stands in a window once a day, for models with streams (`gather`).
    shuffle : bool
        If False, windows are sorted by place and time, identically in each epoch.
    drop_last : bool
        Whether a last batch with fewer windows is left out.
    limit : int, optional
        Maximum number of windows per epoch, over all ranks together.
    seed : int
        Seed of the order and the phases; the same on all ranks.
    rank, world_size : int
        This process and the number of processes. Ranks take turns along the epoch, so that step i of all ranks together
        is step i of one process with a batch ``world_size`` times as large. All ranks get equally many windows and
        batches: up to ``world_size - 1`` of an epoch go to none (`left_out`).

    Attributes
    ----------
    epoch, first_batch : int
        Where the next pass begins; see `set_epoch`.

    Raises
    ------
    ConfigError
        If a setting is invalid, or the towers have no window.
    """

    towers: Towers = field(repr=False)
    _: KW_ONLY
    length: int
    batch_size: int = 512
    emits: int = 1
    stride: int = 1
    partial: bool = False
    repeat_images: bool = False
    shuffle: bool = True
    drop_last: bool = False
    limit: int | None = None
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    epoch: int = field(default=0, init=False)
    first_batch: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        for name in ("length", "batch_size", "emits", "stride", "world_size", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be 1 or more, found {value}.")
        if self.emits > self.length:
            raise ConfigError(f"emits must be at most length, found {self.emits} of {self.length} hours.")
        if not 0 <= self.rank < self.world_size or self.seed < 0:
            raise ConfigError(
                f"expected 0 <= rank < world_size and seed >= 0, found {self.rank}, {self.world_size}, {self.seed}."
            )
        self._useful = self._find_useful()
        if not self._useful.any():
            resolution = self.spec.time_resolution
            raise ConfigError(
                f"no window of {self.length} {resolution.steps} ends with an observed "
                f"{' or '.join(self.spec.targets)} in its last {self.emits}: shorten it, widen the selection, or "
                f"accept a worse quality with {resolution.option}."
            )
        self._drawn: tuple[int, np.ndarray] | None = None
        self._done = 0

    @property
    def spec(self) -> FeatureSpec:
        """Specification of the columns."""
        return self.towers.spec

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the towers."""
        return self.towers.sites

    @property
    def left_out(self) -> int:
        """Number of windows of the current epoch that no rank uses."""
        used = len(self) * self.batch_size if self.drop_last else len(self.ends(self.epoch))
        return len(self._draw(self.epoch)) - used * self.world_size

    def __repr__(self) -> str:
        """Return the number of towers, and what a window contains."""
        spec = self.spec
        inputs = ", ".join((*spec.predictors, *spec.surface, *spec.bands))
        return (
            f"<Windows of {counted(len(self.sites), 'site')}: {counted(self.length, 'step')} of {inputs} "
            f"for {', '.join(spec.targets)}; batches of {self.batch_size}>"
        )

    def _repr_html_(self) -> str:
        """Return what a window contains as HTML; nothing is drawn or read for it."""
        spec = self.spec
        facts = {
            "sites": f"{len(self.sites)}: {few(self.sites)}",
            "window": f"{self.length} {spec.resolution} time steps, of which the last {self.emits} are predicted",
            "batch": f"{counted(self.batch_size, 'window')}{', shuffled' if self.shuffle else ''}",
            "targets": ", ".join(spec.targets),
            "predictors": few(spec.predictors, 12),
            "satellite": few((*spec.surface, *spec.bands, *(kind.array for kind in spec.images)), 12),
            "epoch": self.epoch,
            "rank": f"{self.rank} of {self.world_size}" if self.world_size > 1 else "",
        }
        return card("Windows", facts, ("for batch in windows: ...", "windows.loader()  # of torch"))

    def __len__(self) -> int:
        """Return the number of batches of the current epoch on this rank."""
        windows = len(self.ends(self.epoch))
        return windows // self.batch_size if self.drop_last else math.ceil(windows / self.batch_size)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield the remaining batches of the current epoch, then advance to the next epoch."""
        return self._counted((self[index] for index in self._indices()), self.epoch, self.first_batch)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, np.ndarray]:
        """Return a batch by its number in the current epoch, or by (epoch, number)."""
        epoch, batch = index if isinstance(index, tuple) else (self.epoch, index)
        ends = self.ends(epoch)[batch * self.batch_size : (batch + 1) * self.batch_size]
        if batch < 0 or not len(ends) or (self.drop_last and len(ends) < self.batch_size):
            raise IndexError(f"epoch {epoch} has no batch {batch}.")
        return self._batch(ends)

    def ends(self, epoch: int) -> np.ndarray:
        """Return the rows of ``towers.series`` with which this rank's windows end, in the order of an epoch."""
        ends = self._draw(epoch)
        return ends[self.rank : len(ends) // self.world_size * self.world_size : self.world_size]

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Start the next pass at a batch of an epoch."""
        if epoch < 0 or first_batch < 0:
            raise ConfigError(f"epoch and first_batch must be 0 or more, found {epoch} and {first_batch}.")
        self.epoch, self.first_batch, self._done = epoch, first_batch, first_batch

    def state_dict(self) -> dict[str, object]:
        """Return the position of the latest pass, equal on all ranks, as JSON-compatible values."""
        return {"epoch": self.epoch, "batch": self._done} | self._settings()

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue the next pass at the position that `state_dict` returned.

        Raises
        ------
        ConfigError
            If the state was saved from different windows.
        """
        for name, value in self._settings().items():
            if state.get(name) != value:
                raise ConfigError(
                    f"expected a state saved from the same windows, but {name} was {state.get(name)!r}, is {value!r}."
                )
        self.set_epoch(_whole(state, "epoch"), _whole(state, "batch"))

    def loader(self, **options: object) -> DataLoader[dict[str, torch.Tensor]]:
        """Return a torch DataLoader over the batches, as tensors; each pass is an epoch, as when iterating here.

        Worker processes share the epoch batch by batch, so their number changes neither the batches nor their order;
        batches that workers have prepared in advance do not count as done in `state_dict`. Windows are cut so fast that
        workers seldom pay. Where processes are forked (Linux) they share the data, elsewhere each has a copy.

        Parameters
        ----------
        **options
            Of `torch.utils.data.DataLoader`, such as ``num_workers`` and ``pin_memory``.

        Raises
        ------
        MissingPackageError
            If torch is not installed.
        """
        try:
            from torch.utils.data import DataLoader
        except ImportError:
            raise missing_package("torch", "train", "Windows.loader") from None
        windows = self

        class Loader(DataLoader):
            """A DataLoader that records the position of its `Windows`."""

            def __iter__(self) -> Any:  # an iterator, where torch declares a class of its own
                len(windows)  # drawn before workers are forked, which then need not do it
                return windows._counted(super().__iter__(), windows.epoch, windows.first_batch)

        # Of a Dataset, torch uses the methods that `Windows` has; being its subclass would import torch.
        settings: dict[str, Any] = {"dataset": self, "batch_size": None, "sampler": _Order(self), **options}
        return Loader(**settings)

    def _settings(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in _SAME} | {"windows": int(self._useful.sum())}

    def _indices(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch  # in the index, for workers that outlive an epoch
        return ((epoch, batch) for batch in range(self.first_batch, len(self)))

    def _counted(self, batches: Iterable, epoch: int, first_batch: int) -> Iterator:
        for done, batch in enumerate(batches, first_batch + 1):
            self.epoch, self._done = epoch, done
            yield batch
        self.set_epoch(epoch + 1)

    def _batch(self, ends: np.ndarray) -> dict[str, np.ndarray]:
        """Return a batch of the windows that end at these time steps of the series."""
        towers, series = self.towers, self.towers.series
        place = np.searchsorted(series.start, ends, side="right") - 1
        stop = ends - series.start[place] + 1
        batch = gather(series, place, stop, self.length, repeat_images=self.repeat_images)
        return batch | {
            "mask": np.isfinite(batch["inputs"]),
            "targets": cut(towers.fluxes, series.start[place], stop, self.emits),
            "site": towers.site[place],
            "time": towers.first_hour[place] + stop - 1,
        }

    def _draw(self, epoch: int) -> np.ndarray:
        """Rows of the last hours of all ranks' windows, in the epoch's order; the latest epoch is kept."""
        if self._drawn is None or self._drawn[0] != epoch:
            rng = np.random.default_rng((self.seed, epoch))
            series = self.towers.series
            phase = (
                rng.integers(0, self.stride, len(series.hours)) if self.shuffle else np.zeros(len(series.hours), int)
            )
            spans = zip(series.start + phase, series.start + series.hours, strict=True)
            ends = np.concatenate([np.arange(first, stop, self.stride) for first, stop in spans])
            ends = ends[self._useful[ends]]
            ends = rng.permutation(ends) if self.shuffle else ends
            self._drawn = epoch, ends[: self.limit]
        return self._drawn[1]

    def _find_useful(self) -> np.ndarray:
        """Return whether the window that ends at each time step is used (N,)."""
        out = self.towers.observed()
        for start, hours in zip(self.towers.series.start, self.towers.series.hours, strict=True):
            seen = np.cumsum(out[start : start + hours])
            seen[self.emits :] -= seen[: -self.emits].copy()
            out[start : start + hours] = seen > 0
            if not self.partial:
                out[start : start + min(self.length - 1, hours)] = False
        return out


class LabelledWindows(Windows):
    """Windows whose batches have labels without missing values, ``y`` and ``y_mask``; see `load_windows`."""

    def _batch(self, ends: np.ndarray) -> dict[str, np.ndarray]:
        batch = super()._batch(ends)
        seen = np.isfinite(batch["targets"])
        return batch | {"y": np.where(seen, batch["targets"], np.float32(0)), "y_mask": seen}


def _whole(state: Mapping[str, object], name: str) -> int:
    value = state.get(name)
    if not isinstance(value, (int, np.integer)):
        raise ConfigError(f"expected a whole number as {name} of the saved state, found {value!r}: save it again.")
    return int(value)


@dataclass(frozen=True)
class _Order:
    """Remaining batches of the current epoch, as a torch sampler."""

    windows: Windows

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return self.windows._indices()

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch: Lightning calls this before each, since it does not read a loader to its end."""
        if epoch != self.windows.epoch:
            self.windows.set_epoch(epoch)

    def __len__(self) -> int:
        return max(0, len(self.windows) - self.windows.first_batch)
