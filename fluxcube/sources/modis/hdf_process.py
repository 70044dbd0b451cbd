"""Call the HDF4 library in a process of its own: a damaged file can crash it, which must not end the build of a cube.

One process, `fluxcube.sources.modis.hdf_read`, reads all files, one request at a time.
"""

from __future__ import annotations

from fluxcube.sources.reader_process import ReaderProcess

process = ReaderProcess("fluxcube.sources.modis.hdf_read", "HDF4")
#: Yield the values that a reader of `fluxcube.sources.modis.hdf_read.READERS` yields for a file.
call = process.call
