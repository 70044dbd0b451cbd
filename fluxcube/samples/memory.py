"""Memory: trailing means of the model inputs, which represent past weeks without a longer window."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: Minimum fraction of the time steps of a mean that must be observed.
_SHARE = 0.5


def trailing_mean(values: np.ndarray, steps: int, *, share: float = _SHARE) -> np.ndarray:
    """Return the mean of the observed values among the last `steps` time steps, including the current one.

    Parameters
    ----------
    values : (..., time) float
        NaN where missing.
    steps : int
        Number of time steps of the mean.
    share : float
        Minimum fraction of the time steps that must be observed; those before the record count as missing.

    Returns
    -------
    (..., time) float32
        NaN where less than `share` of the span is observed.

    Examples
    --------
    >>> trailing_mean(np.array([1.0, 3.0, np.nan, 5.0]), 2)
    array([1., 2., 3., 5.], dtype=float32)
    """
    values = np.asarray(values)
    length = values.shape[-1]
    rows = values.reshape(1, int(np.prod(values.shape[:-1])), length)
    return trailing_means(rows, (steps,), share=share).reshape(values.shape)


def trailing_means(
    values: np.ndarray,
    spans: Sequence[int],
    *,
    first: int = 0,
    share: float = _SHARE,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Return the trailing means of several columns over several spans, as `trailing_mean` returns one.

    Sums over any span are differences of running sums in double precision, which all spans share.

    Parameters
    ----------
    values : (n, columns, time) float
        NaN where missing.
    spans : sequence of int
        Number of time steps of each mean.
    first : int
        First time step to return.
    share : float
        Minimum fraction of the time steps of a mean that must be observed.
    out : (n, spans, columns, time - first) float32, optional
        Array to write to.

    Returns
    -------
    (n, spans, columns, time - first) float32

    Examples
    --------
    >>> trailing_means(np.array([[[1.0, 3.0, np.nan, 5.0]]]), (1, 2), first=2)[0, :, 0]
    array([[nan,  5.],
           [ 3.,  5.]], dtype=float32)
    """
    n, columns, length = values.shape
    if out is None:
        out = np.empty((n, len(spans), columns, max(0, length - first)), np.float32)
    present = np.isfinite(values)
    complete, seen = present.all((0, 2)), present.any((0, 2))
    if complete.all():
        _write_means(out, values, None, spans, first, share)
        return out
    out[:, :, ~seen] = np.nan
    for part, gaps in ((complete & seen, False), (seen & ~complete, True)):
        if part.any():
            means = np.empty((n, len(spans), int(part.sum()), out.shape[-1]), np.float32)
            _write_means(means, values[:, part], present[:, part] if gaps else None, spans, first, share)
            out[:, :, part] = means
    return out


def _write_means(
    out: np.ndarray,
    values: np.ndarray,
    present: np.ndarray | None,
    spans: Sequence[int],
    first: int,
    share: float,
) -> None:
    """Write the means of columns; all values are present if `present` is None."""
    for span, mean in enumerate(_means_of_pairs(values, present, spans, first, share)):
        out[:, span, 0::2] = mean[..., 0]
        out[:, span, 1::2] = mean[:, : out.shape[2] // 2, :, 1]


def _means_of_pairs(values: np.ndarray, present: np.ndarray | None, spans: Sequence[int], first: int, share: float):
    """Yield the means of each span, (n, pairs of columns, time - first, 2) float64.

    All values are present if `present` is None.
    """
    total = _running_sums(values if present is None else np.where(present, values, 0.0))
    seen = None if present is None else _running_sums(present)
    for steps in spans:
        sums = _over(total, steps, first)
        if seen is None:
            # Only the first means of a record cover fewer steps.
            count = np.minimum(np.arange(first + 1, values.shape[2] + 1), steps)[:, None]
            short = int(np.searchsorted(count[:, 0], steps))
            sums[:, :, :short] /= count[:short]
            sums[:, :, short:] /= steps
            sums[:, :, : int(np.searchsorted(count[:, 0], share * steps))] = np.nan
        else:
            counts = _over(seen, steps, first)
            few = (counts == 0) | (counts < share * steps)
            sums /= np.maximum(counts, 1)
            sums[few] = np.nan
        yield sums


def _running_sums(values: np.ndarray) -> np.ndarray:
    """Return the sums of all time steps up to each, (n, pairs of columns, time) complex128.

    The real part is the sum of one column, the imaginary part that of the next: each addition of a running sum waits
    for the previous one, so that a processor adds two numbers as fast as one.
    """
    n, columns, length = values.shape
    pairs = np.zeros((n, (columns + 1) // 2, length), np.complex128)
    pairs.real = values[:, 0::2]
    pairs.imag[:, : columns // 2] = values[:, 1::2]
    return np.cumsum(pairs, axis=2, out=pairs)


def _over(sums: np.ndarray, steps: int, first: int) -> np.ndarray:
    """Return the sums over the last `steps` steps, fewer at the start, as numbers (n, pairs, time - first, 2)."""
    out = sums[:, :, first:].copy()
    before = sums[:, :, max(0, first - steps) : sums.shape[2] - steps] if steps < sums.shape[2] else sums[:, :, :0]
    out[:, :, out.shape[2] - before.shape[2] :] -= before
    return out.view(np.float64).reshape(*out.shape, 2)
