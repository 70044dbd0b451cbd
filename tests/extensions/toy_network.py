"""Networks of another package: one with files of its own dialect, one with files of ONEFlux."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import xarray as xr

from fluxcube.sources.towers.badm import SiteInfo
from fluxcube.sources.towers.networks import Network
from fluxcube.sources.towers.readers import Reader
from fluxcube.sources.towers.stamped import to_utc

COLUMNS = {"TA": "warmth", "NEE": "carbon"}


class ToyReader(Reader):
    """Reads ``when;warmth;carbon;good`` with decimal commas; the first line contains latitude and longitude."""

    def read(self, archive, *, utc_offset, variables=None):
        """Return half-hours in UTC; values that are not good are poor fills (flag 3)."""
        table = pd.read_csv(archive.path, sep=";", decimal=",", skiprows=1, parse_dates=["when"])
        time, kept = to_utc(table.when.to_numpy("datetime64[m]"), 30, utc_offset)
        record = xr.Dataset(coords={"time": time.astype("datetime64[ns]")})
        for name, column in COLUMNS.items():
            if variables is None or name in variables:
                record[name] = "time", table[column].to_numpy(np.float32)[kept]
                record[f"{name}_QC"] = "time", np.where(table.good == "yes", 0, 3).astype(np.int8)[kept]
        return record.assign_attrs(
            step_minutes=30,
            source_file=archive.path.name,
            site=archive.site,
            network=archive.network,
            columns=json.dumps(COLUMNS),
            flags_assumed="{}",
            clock_repeats=int((~kept).sum()),
        )

    def place(self, archive):
        """Return where the tower is."""
        latitude, longitude = map(float, archive.path.read_text().splitlines()[0].split(";"))
        return SiteInfo(
            site=archive.site,
            latitude=latitude,
            longitude=longitude,
            igbp="GRA",
            utc_offset=1.0,
            utc_offsets=((None, 1.0),),
        )


NETWORK = Network(
    name="Toy network",
    names=("TOY_<site>_<years>",),
    resolution="HH",
    reader=ToyReader(),
    licence="CC0",
    citation="A toy (2010)",
)

#: Another name of files that a reader of fluxcube reads.
PLAIN = Network(name="Plain network", names=("PLAIN_<site>_<product>_<resolution>_<years>",), reader="oneflux")
