"""Global attributes of a file for other programs: history, source, references, licence and institution."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping

import numpy as np
import xarray as xr

from fluxcube.exports.names import plain_attrs

#: Attributes that a file has and the Dataset that is opened from it has not.
ADDED = ("featureType",)
#: Attributes of a store that have no meaning in a file.
_NOT_KEPT = ("bounds", "_FillValue", "grid_mapping", "region_bytes", "regions", "report", "packing", "checksums")
_UNKNOWN = "not stated"


def global_attrs(ds: xr.Dataset) -> dict[str, object]:
    """Return the global attributes of a file: those of the Dataset, and those that CF recommends.

    ``institution`` is that of the Dataset's attributes, else "not stated": set ``ds.attrs["institution"]``. ``license``
    contains the licences of all data that the values follow from, as they are recorded.
    """
    from fluxcube import __version__

    kept = {k: v for k, v in plain_attrs(ds.attrs).items() if k not in _NOT_KEPT}
    described = {
        "title": str(kept.get("title") or "data of fluxcube"),
        "institution": str(kept.get("institution") or _UNKNOWN),
        "source": str(kept.get("source") or _source(kept)),
        "references": str(kept.get("references") or _references(ds)),
        "license": str(kept.get("license") or _licences(ds)),
        "history": _history(kept),
    }
    return {"fluxcube_version": __version__} | kept | described


def _history(attrs: Mapping) -> str:
    """Return the history of a file: that of the data, and a line on the export."""
    from fluxcube import __version__

    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    what = attrs.get("kind", "a Dataset")
    return f"{attrs.get('history', '')}\n{now} fluxcube {__version__}: exported from {what}".strip()


def _source(attrs: Mapping) -> str:
    """Return how the values were made, as the attributes record it."""
    if "model" in attrs:
        digest = str(attrs.get("model_digest", ""))[:12]
        inputs = attrs.get("forcing_title") or "a cube of towers"
        return f"model {attrs['model']} {digest} of {attrs.get('training_sites', '?')} towers; inputs: {inputs}"
    if names := _networks(attrs):
        return f"eddy-covariance towers of {', '.join(names)}"
    return str(attrs.get("title") or "fluxcube")


def _networks(attrs: Mapping) -> list[str]:
    found = _json(attrs.get("sources"))
    return [str(name) for name in found] if isinstance(found, dict) else []


def _references(ds: xr.Dataset) -> str:
    """Return the publications of the data as they are recorded: DOIs of products, networks and towers."""
    found = _json(ds.attrs.get("sources"))
    dois = (
        [str(one.get("doi", "")) for one in found.values() if isinstance(one, dict)] if isinstance(found, dict) else []
    )
    dois += [str(ds.attrs.get("doi", "")), *_texts(ds, "doi", ";")]
    names = [f"doi:{doi}" if doi.startswith("10.") else doi for doi in _each(dois)]
    return ", ".join([*names, "fluxcube"])


def _licences(ds: xr.Dataset) -> str:
    """Return the licences of the data, of the towers that a model was trained on, and of its inputs, as recorded."""
    recorded = [ds.attrs.get(name) for name in ("licence", "licences", "training_licences", "forcing_licences")]
    parts = [part.strip() for text in recorded if text for part in str(text).replace("\n", ",").split(",")]
    return ", ".join(_each([*parts, *_texts(ds, "licence", "\n")])) or _UNKNOWN


def _texts(ds: xr.Dataset, name: str, separator: str) -> list[str]:
    """Return the parts of the texts of a coordinate."""
    if name not in ds.coords or ds[name].dtype.kind not in "OUST":
        return []
    return [part.strip() for text in np.atleast_1d(ds[name].values) for part in str(text).split(separator)]


def _each(texts: Iterable[str]) -> list[str]:
    return [text for text in dict.fromkeys(texts) if text]


def _json(text: object) -> object:
    try:
        return json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return None
