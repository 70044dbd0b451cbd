"""The options of `fluxcube.open_forcing`, and checks of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from fluxcube.cubes.chips import RasterSource
from fluxcube.cubes.forcing_surface import SurfaceSource
from fluxcube.errors import ConfigError

Box = tuple[float, float, float, float]
#: Folder, file, URL, open Dataset, or list of these.
FileSource = str | os.PathLike | xr.Dataset | Sequence[str | os.PathLike | xr.Dataset]

_MAX_CHIPS = 64
#: Options that a store, unlike the files it was derived from, can still apply.
_STORE_OPTIONS = ("era5", "predictors", "bbox", "time", "storage_options")


@dataclass(frozen=True, kw_only=True, eq=False)
class ForcingRequest:
    """The options of `fluxcube.open_forcing`, which documents them."""

    era5: FileSource
    modis: RasterSource | None = None
    surface: SurfaceSource | None = None
    land_cover: RasterSource | None = None
    igbp: str | xr.DataArray | None = None
    chips_per_cell: int | None = None
    elevation: float | xr.DataArray | None = None
    predictors: str | Sequence[str] | None = None
    bbox: Box | None = None
    time: slice | tuple | None = None
    resolution: float | None = None
    chunks: Mapping[str, int] | None = None
    accumulation: str | None = None
    allow_gaps: bool = False
    check: bool = True
    storage_options: Mapping[str, object] | None = None

    def check_for_store(self) -> None:
        """Check that a forcing store can apply the options.

        Raises
        ------
        ConfigError
            Naming the options that only the original files can apply.
        """
        options = {name: value for name, value in vars(self).items() if name not in (*_STORE_OPTIONS, "check")}
        if names := [name for name, value in options.items() if value is not None and value is not False]:
            raise ConfigError(
                f"{self.era5} is a forcing store: {', '.join(names)} can no longer change it; leave these options out, "
                "or write another store from the original files."
            )

    def check_for_files(self) -> None:
        """Check that the options do not contradict each other.

        Raises
        ------
        ConfigError
            If they do; the message names them.
        """
        if isinstance(self.era5, xr.Dataset) and self.era5.attrs.get("kind") == "forcing":
            raise ConfigError(
                "expected ERA5 in era5=, found a Dataset that is a forcing cube already: pass it as it is to "
                "fluxcube.upscale or fluxcube.write_forcing."
            )
        if self.land_cover is not None and self.igbp is not None:
            raise ConfigError("expected land_cover or igbp, not both: each determines the class of a cell.")
        count = self.chips_per_cell
        if count is None:
            return
        if not isinstance(count, (int, np.integer)) or not 1 <= count <= _MAX_CHIPS:
            raise ConfigError(f"chips_per_cell must be a whole number from 1 to {_MAX_CHIPS}, found {count!r}.")
        if self.land_cover is None or (self.modis is None and self.surface is None):
            raise ConfigError(
                "chips_per_cell needs modis= or surface=, and land_cover=: blocks are stratified by land cover."
            )
