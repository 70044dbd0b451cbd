"""Zarr stores: creating, writing, locking and opening them; the only package that writes Zarr.

A store is a Zarr (format 3) group without consolidated metadata. Its attributes name its ``kind`` and, once everything
is written, mark it as ``complete``; a store that is not complete does not open unless the caller allows it.
"""

from zarr.registry import register_codec

from fluxcube.decimals import DecimalColumns

# Also by entry point, for readers that do not import fluxcube.
register_codec("fluxcube.decimals", DecimalColumns)
