"""A Lightning data module of the windows of a cube: training, validation and test towers by a split."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from fluxcube.cubes.selection import Cube, as_cube
from fluxcube.errors import missing_package
from fluxcube.resolution import resolution_of
from fluxcube.samples.loader import WindowOptions, Windows, load_windows
from fluxcube.samples.splits import SplitChoice, one_split

if TYPE_CHECKING:
    from lightning import LightningDataModule as _Base
elif importlib.util.find_spec("lightning"):
    _Base = importlib.import_module("lightning").LightningDataModule
else:
    _Base = object


class ModuleOptions(WindowOptions, total=False):
    """Keyword arguments of `WindowsDataModule`: those of windows, and the quality of the training fluxes."""

    max_qc: int | None
    min_quality: float | None


class WindowsDataModule(_Base):
    """Labelled windows of the towers of a cube, for `lightning.Trainer`.

    Batches are those of `fluxcube.load_windows` with labels, as tensors. Each pass of the training loader is the next
    epoch; the windows of an epoch and their order depend on the seed and the epoch alone. Validation and test windows
    are the same in each pass, with measured fluxes only, scaled as the training fluxes are (``spec.target_mean`` and
    ``spec.target_scale``).

    Parameters
    ----------
    cube : xr.Dataset, path or URL
        A cube.
    split : Split, str or path
        Training, validation and test towers: a split (`fluxcube.split`), or a kind or file as `fluxcube.fit` takes it.
    targets, predictors : str or sequence of str, optional
        As `fluxcube.load_windows` takes them.
    **options
        Of `fluxcube.samples.loader.Windows`: ``length``, ``batch_size``, ``emits``, ``stride``, ``seed`` and so on; and
        ``max_qc`` or ``min_quality`` of the training fluxes, as `fluxcube.load_windows` takes them.

    Attributes
    ----------
    train, val, test : Windows or None
        After `setup`; None for a part without towers.

    Raises
    ------
    MissingPackageError
        If lightning is not installed.
    """

    def __init__(
        self,
        cube: Cube,
        split: SplitChoice,
        *,
        targets: str | Sequence[str] | None = None,
        predictors: str | Sequence[str] | None = None,
        **options: Unpack[ModuleOptions],
    ):
        if _Base is object:
            raise missing_package("lightning", "lightning", "WindowsDataModule")
        super().__init__()
        self.cube, self.options = as_cube(cube), options
        self.split = one_split(self.cube, split)
        self.names: dict[str, Any] = {"targets": targets, "predictors": predictors}
        self.train: Windows | None = None
        self.val: Windows | None = None
        self.test: Windows | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read the towers, once."""
        if self.train is not None:
            return
        part = self.split.part(self.cube, "train")
        self.train = load_windows(part, sites=self.split.train, labels=True, **self.names, **self.options)
        self.val, self.test = (self._scored(name) for name in ("val", "test"))

    def train_dataloader(self) -> Any:
        """Return the loader of the training windows."""
        return self._read().loader()

    def val_dataloader(self) -> Any:
        """Return the loader of the validation windows; no loader if the split has no validation towers."""
        return _from_start(self.val)

    def test_dataloader(self) -> Any:
        """Return the loader of the test windows; no loader if the split has no test towers."""
        return _from_start(self.test)

    def _read(self) -> Windows:
        self.setup()
        assert self.train is not None
        return self.train

    def _scored(self, name: str) -> Windows | None:
        """Return the windows of validation or test towers: measured fluxes, in their order."""
        sites = getattr(self.split, name)
        if not sites:
            return None
        resolution = resolution_of(self.cube)
        options: dict[str, Any] = {**self.options, "shuffle": False, resolution.option: resolution.measured}
        part = self.split.part(self.cube, name)
        return load_windows(part, self._read().spec, sites=sites, labels=True, **options)


def _from_start(windows: Windows | None) -> Any:
    """Return a loader of the first epoch of windows; an empty list, which is no loader, if there are none."""
    if windows is None:
        return []
    windows.set_epoch(0)
    return windows.loader()
