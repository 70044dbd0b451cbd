"""A gridded product of another package: how its files are recognised, and which variable is which flux."""

from __future__ import annotations

PRODUCT = {
    "title": "Toy product",
    "citation": "A toy (2024)",
    "licence": "CC0",
    "files": ["^toyflux_"],
    "attributes": {"project": "^toyflux"},
    "partition": "NT",
    "clock": "UTC",
    "variables": [
        {"flux": "NEE", "names": ["carbon_uptake"], "sign": -1, "units": "gC m-2 d-1"},
        {"flux": "LE", "names": ["wet_heat"], "units": "W m-2"},
    ],
}
