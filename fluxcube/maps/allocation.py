"""Let worker processes keep the memory that a task frees for their next task, instead of returning it to the system.

A forward pass allocates and frees arrays of some megabytes thousands of times. The C library (glibc) keeps freed memory
by itself, and keeps more of it the larger the arrays are that a program frees. Dask's nanny starts its workers with
``MALLOC_TRIM_THRESHOLD_=65536``, which switches this off: every array above 128 KiB is then mapped and unmapped by the
system, and every page of it is cleared again when it is next used. Maps took 1.7 times as much CPU.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

#: Environment variable by which Dask's nanny changes glibc, and the value that it sets.
_TRIM, _DASK = "MALLOC_TRIM_THRESHOLD_", "65536"
_MMAP = "MALLOC_MMAP_THRESHOLD_"
#: Largest array (bytes) that is taken from kept memory: the maximum that glibc accepts. Larger ones are mapped.
_LARGEST = 32 * 2**20
#: Free memory (bytes) at the end of the heap beyond which it is returned to the system: the transient arrays of a pass.
_KEPT = 256 * 2**20
#: Numbers of the two parameters for `mallopt` in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def allocator_environment(environ: Mapping[str, str], nanny: Mapping[str, object] | None = None) -> dict[str, str]:
    """Return an environment in which new processes keep freed memory, unless it has settings for that already.

    Parameters
    ----------
    environ : mapping of str to str
        Environment of the process that starts others. Dask's nanny keeps a value that it finds there. Dask's own
        default is replaced.
    nanny : mapping, optional
        What Dask's nanny is configured to set, ``distributed.nanny.pre-spawn-environ``.

    Returns
    -------
    dict of str to str
        With two more variables, which only glibc reads.

    Examples
    --------
    >>> allocator_environment({})["MALLOC_MMAP_THRESHOLD_"]
    '33554432'
    >>> allocator_environment({"MALLOC_TRIM_THRESHOLD_": "1000000"})
    {'MALLOC_TRIM_THRESHOLD_': '1000000'}
    """
    if _has_own_settings(environ) or (nanny and str(nanny.get(_TRIM)) != _DASK):
        return dict(environ)
    return {**environ, _TRIM: str(_KEPT), _MMAP: str(_LARGEST)}


def keep_freed_memory(environ: Mapping[str, str] | None = None) -> bool:
    """Undo the setting of Dask's nanny in this process, for workers of a cluster that others started.

    The setting of a process is changed only if it is Dask's default. It lasts until the process ends: up to 256 MiB of
    freed memory stay in it.

    Parameters
    ----------
    environ : mapping of str to str, optional
        Environment of this process.

    Returns
    -------
    bool
        Whether the setting was changed; False where there is no glibc (macOS, Windows, musl).
    """
    environ = os.environ if environ is None else environ
    if environ.get(_TRIM) != _DASK or _has_own_settings(environ):
        return False
    try:
        library = ctypes.CDLL(None)
        _ = library.gnu_get_libc_version
        mallopt = library.mallopt
    except (OSError, AttributeError, TypeError):  # Windows has no library of the process itself
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST) and mallopt(_M_TRIM_THRESHOLD, _KEPT))


def _has_own_settings(environ: Mapping[str, str]) -> bool:
    """Return whether an environment has settings of these two thresholds that are not Dask's default."""
    tunables = environ.get("GLIBC_TUNABLES", "")
    own = any(f"glibc.malloc.{name}" in tunables for name in ("trim_threshold", "mmap_threshold", "mmap_max"))
    return own or environ.get(_TRIM, _DASK) != _DASK or any(name in environ for name in (_MMAP, "MALLOC_MMAP_MAX_"))
