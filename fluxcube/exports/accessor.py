"""The accessor ``ds.fluxcube``: what fluxcube adds to every labelled Dataset of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import numpy as np
import xarray as xr

from fluxcube.citations import bibtex, own_citation, site_doi
from fluxcube.errors import ConfigError, SchemaError
from fluxcube.exports import netcdf, sites, unstack

if TYPE_CHECKING:
    import pandas as pd


@xr.register_dataset_accessor("fluxcube")
class FluxcubeAccessor:
    """Methods that fluxcube adds to a Dataset, as ``ds.fluxcube``."""

    def __init__(self, ds: xr.Dataset):
        self._ds = ds

    def to_variables(self) -> xr.Dataset:
        """Return the cube with one data variable per ONEFlux name instead of stacked arrays.

        Each has its CF attributes and units. The other arrays of a stack become ``<NAME>_QC`` and
        ``<NAME>_COVERAGE``, of a daily cube ``<NAME>_QUALITY``, and where there are any ``<NAME>_RANDUNC`` and
        ``<NAME>_JOINTUNC``. A name that is both predictor and target (LE) appears once, as the predictor. Drivers of
        another source become ``<NAME>_ERA5`` and so on. Nothing is computed.

        Returns
        -------
        xr.Dataset
            Variables of dims (site, time), or (latitude, longitude, time) for a forcing cube.

        Examples
        --------
        >>> from fluxcube.simulation.example import example_cube
        >>> example_cube().fluxcube.to_variables().TA.attrs["units"]
        'degC'
        """
        return unstack.to_variables(self._ds)

    def to_netcdf(
        self,
        path: str | os.PathLike,
        *,
        overwrite: bool = False,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> Path:
        """Write the Dataset as one NetCDF-4 file that follows CF-1.11, whatever it contains.

        A cube or forcing becomes one array a variable, as `to_variables` returns it. Units are those of UDUNITS
        (``g m-2 d-1``, with the substance in the attribute ``mass_of``), flags are integers, text labels of a dimension
        such as ``site`` become an auxiliary coordinate (``site_name``), and what NetCDF attributes cannot contain is
        JSON text. `fluxcube.open_maps` opens files of maps again, `xarray.open_dataset` every file.

        Parameters
        ----------
        path : path
            File to write, ending in ``.nc``; its folder must exist.
        overwrite : bool
            Replace an existing file, which stays until the new one is complete.
        progress : callable, optional
            ``progress(done, total, text)`` while lazy arrays are computed.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        StoreError
            If the file exists and `overwrite` is not set, its folder does not exist, or the disk is full.
        ConfigError
            If the path does not end in ``.nc``.

        Examples
        --------
        >>> import tempfile
        >>> from fluxcube.simulation.example import example_cube
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = example_cube().fluxcube.to_netcdf(f"{folder}/towers.nc")
        ...     with xr.open_dataset(path) as file:
        ...         file.NEE.attrs["standard_name"], file.attrs["Conventions"]
        ('surface_upward_mole_flux_of_carbon_dioxide', 'CF-1.11')
        """
        return netcdf.write_file(self._ds, path, overwrite=overwrite, progress=progress)

    def to_sites(
        self,
        folder: str | os.PathLike,
        *,
        format: Literal["csv", "netcdf"] = "csv",
        overwrite: bool = False,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> list[Path]:
        """Write one file for each tower, and tables of the towers and of the variables.

        Parameters
        ----------
        folder : path
            Folder of the files; it is made if its parent exists.
        format : {"csv", "netcdf"}
            CSV as ONEFlux has it: ``TIMESTAMP_START`` and ``TIMESTAMP_END`` in the tower's local standard time
            (``TIMESTAMP`` of daily data), missing values -9999, the columns of ONEFlux with their ``_QC``, of the
            variables that have a value at the tower. Or CF NetCDF as `to_netcdf` writes it, in UTC.
        overwrite : bool
            Replace existing files.
        progress : callable, optional
            ``progress(done, total, text)`` after each tower.

        Returns
        -------
        list of Path
            A file for each tower, then ``sites.csv`` (place, class, time zone, licence and citation of each tower) and
            ``variables.csv`` (column, variable, units, description), which only CSV needs.

        Raises
        ------
        ConfigError
            If the format is another, or the Dataset has no towers.
        StoreError
            If a file exists and `overwrite` is not set, the parent of the folder does not exist, or the disk is full.

        Notes
        -----
        Columns of a cube have ONEFlux's names (``TA_F``, ``NEE_VUT_REF``), under which
        `fluxcube.sources.towers.oneflux.read_oneflux` reads them again: the values are the same, to the last bit.
        ``NEE_VUT_REF`` is the cube's NEE, whatever its USTAR threshold was. Fluxes of predictions keep their own names.

        Examples
        --------
        >>> import tempfile
        >>> from fluxcube.simulation.example import example_cube
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [path.name for path in example_cube(sites=1).fluxcube.to_sites(folder)]
        ['XX-S00_HR_2018-2018.csv', 'sites.csv', 'variables.csv']
        """
        return sites.write_sites(self._ds, folder, format=format, overwrite=overwrite, progress=progress)

    @overload
    def citations(self, format: Literal["table"] = "table") -> pd.DataFrame: ...

    @overload
    def citations(self, format: Literal["bibtex"]) -> str: ...

    def citations(self, format: Literal["table", "bibtex"] = "table") -> pd.DataFrame | str:
        """Return the citations and data licences of the sites of this Dataset.

        Parameters
        ----------
        format : {"table", "bibtex"}
            A table, or the text of a BibTeX file with an entry for each tower's own data and for each publication.

        Returns
        -------
        pandas.DataFrame or str
            One row per site and publication: ``site``, ``network``, ``citation``, ``doi``, ``licence`` and
            ``site_doi``. Citation and DOI are those of the site's own product where it is known (from the Shuttle's
            snapshot, or `fluxcube.known_sites`), else of the publication. ``site_doi`` is the DOI of the tower's own
            data, also where the publication is compiled from others (CarbonSense); "" where it is not known. Products
            without a DOI have the URL of their handle instead.

        Raises
        ------
        SchemaError
            If the Dataset has no citations, as in cubes that older versions of fluxcube built.
        ConfigError
            If `format` is another.
        """
        import pandas as pd

        if format not in ("table", "bibtex"):
            raise ConfigError(f"format={format!r}: expected table or bibtex")
        joins = {"network": ";", "citation": "\n", "doi": ";", "licence": "\n"}
        if missing := [name for name in ("site", *joins) if name not in self._ds.coords]:
            raise SchemaError(
                f"citations need the coordinates site, {', '.join(joins)} of a cube; {', '.join(missing)} is not among "
                "them. Select from the original cube, or rebuild the cube."
            )
        rows = []
        for site, *texts in zip(*(np.atleast_1d(self._ds[name].values) for name in ("site", *joins)), strict=True):
            parts = [str(text).split(join) for text, join in zip(texts, joins.values(), strict=True)]
            rows += [_citation(str(site), *row) for row in zip(*parts, strict=True)]
        return bibtex(rows) if format == "bibtex" else pd.DataFrame(rows, columns=["site", *joins, "site_doi"])


def _citation(site: str, network: str, citation: str, doi: str, licence: str) -> dict[str, str]:
    """Return the row of a site and publication, with the identifiers of the tower's own data where they are known."""
    citation, doi = own_citation(site, network, citation, doi)
    row = {"site": site, "network": network, "citation": citation, "doi": doi, "licence": licence}
    return row | {"site_doi": site_doi(site, network, doi)}
