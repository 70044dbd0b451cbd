"""Read a CSV table whose form is known, with errors that name the file."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import pandas as pd

from fluxcube.errors import SourceError
from fluxcube.sources.towers.archives import Location, open_stream


def read_plain_table(path: str | os.PathLike, **options: Any) -> pd.DataFrame:
    """Return a CSV table, optionally compressed by gzip (``.gz``).

    Parameters
    ----------
    path : path
    options
        Further arguments of `pandas.read_csv`.

    Raises
    ------
    SourceError
        If the file is missing, cut, no text, no table, or far larger than any table when it is unpacked.
    """
    try:
        with open_stream(Location(Path(path))) as stream:
            return pd.read_csv(stream, **options)
    except SourceError:
        raise
    except (OSError, ValueError, OverflowError, MemoryError, csv.Error) as problem:  # pandas' are ValueErrors
        reason = str(problem).partition("\n")[0]
        raise SourceError(
            f"{path}: cannot be read as a table ({reason}): expected CSV in UTF-8 with a header line."
        ) from problem
