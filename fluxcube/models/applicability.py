"""Area of applicability: how far a day is from the days a model was trained on (the dissimilarity index).

Arrays in, arrays out; `fluxcube.samples.daymeans` defines the columns. The file has the safetensors format, which numpy
alone can read and write, so that models without torch have it, too.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from fluxcube.errors import ConfigError

#: Maximum number of training days that are kept.
MAX_CENTRES = 4096
#: Number of days that are compared with all centres at once, so that their distances fit the cache of the processor.
_ROWS = 128
#: Number of days that are scaled at once.
_DAYS = 16384
#: Number of days that are compared with all centres at once on a card: 64 MiB of distances.
_DAYS_ON_DEVICE = 4096
#: Minimum number of days with the same known columns that are compared with centres of these columns alone.
_ALIKE = 512
#: Number of columns whose masks are one whole number.
_BITS = 62
_DTYPES = {"F32": "<f4", "F64": "<f8", "I32": "<i4"}
_ARRAYS = {"centres": "F32", "cluster": "I32", "mean": "F64", "scale": "F64", "weight": "F64"}


@dataclass(frozen=True, eq=False)
class Applicability:
    """Training days, and the threshold of dissimilarity from them.

    Attributes
    ----------
    names : tuple of str
        Names of the F columns of a day.
    centres : (K, F) float32
        Days of training towers, not scaled; NaN is unknown, and counts as the training mean in a centre.
    cluster : (K,) int32
        Cluster of neighbouring towers of each centre.
    mean, scale : (F,) float64
        Mean and standard deviation of the centres: a column enters as (x - mean) / scale, unless it does not vary.
    weight : (F,) float64
        Weight of a column's difference, in units of its scale.
    mean_distance : float
        Mean distance of any two centres: the unit of the index.
    threshold : float
        Dissimilarity above which a model is not applicable.
    """

    names: tuple[str, ...]
    centres: np.ndarray = field(repr=False)
    cluster: np.ndarray = field(repr=False)
    mean: np.ndarray = field(repr=False)
    scale: np.ndarray = field(repr=False)
    weight: np.ndarray = field(repr=False)
    mean_distance: float
    threshold: float

    @classmethod
    def of(cls, names: Sequence[str], centres: np.ndarray, cluster: np.ndarray, weight: np.ndarray) -> Applicability:
        """Compute the threshold from training days and the weights of their columns.

        The index of each centre is computed from the centres of other clusters alone, as if its own had been held out;
        the threshold is the largest of these that is no outlier: at most the third quartile plus 1.5 times the
        interquartile range. It is never above the largest index of a training day.

        Parameters
        ----------
        names : sequence of str
            Names of the columns.
        centres : (K, F) float
            Days of training towers; NaN is unknown.
        cluster : (K,) int
            Cluster of each day; at least two.
        weight : (F,) float
            Weights of 0 or more; if all are 0, all columns count equally.

        Raises
        ------
        ConfigError
            If there are fewer than two clusters, or no column varies.

        References
        ----------
        Meyer & Pebesma 2021, doi:10.1111/2041-210X.13650, sections 2.2 to 2.4.

        Examples
        --------
        >>> x = np.array([[0.0], [1.0], [3.0], [4.0]])
        >>> found = Applicability.of(["TA"], x, np.array([0, 0, 1, 1]), np.ones(1))
        >>> bool(found.index(np.array([[3.0]]))[0] == 0), bool(found.index(np.array([[9.0]]))[0] > found.threshold)
        (True, True)
        """
        centres, cluster = np.asarray(centres, np.float32), np.asarray(cluster, np.int32)
        if len(np.unique(cluster)) < 2:
            raise ConfigError("a threshold of dissimilarity needs training days of at least two clusters of towers.")
        known = np.isfinite(centres)
        mean, scale = np.zeros(centres.shape[1]), np.zeros(centres.shape[1])
        some = known.any(0)
        mean[some] = np.nanmean(centres[:, some], 0, dtype=np.float64)
        scale[some] = np.nanstd(centres[:, some], 0, dtype=np.float64)
        varies = scale > 1e-6 * np.maximum(1.0, np.abs(mean))
        if not varies.any():
            raise ConfigError("no input varies between the training days: dissimilarity is not defined.")
        weight = np.where(varies, np.maximum(np.asarray(weight, np.float64), 0.0), 0.0)
        if not weight.any():
            weight = varies.astype(np.float64)
        raw = cls(tuple(names), centres, cluster, mean, scale, weight, 1.0, np.inf)
        distance, held_out = raw._among()
        index = held_out[np.isfinite(held_out)] / distance
        low, high = np.quantile(index, (0.25, 0.75))
        threshold = float(index[index <= high + 1.5 * (high - low)].max())
        return cls(tuple(names), centres, cluster, mean, scale, weight, distance, threshold)

    def index(self, days: np.ndarray, device: str | None = None) -> np.ndarray:
        """Return the dissimilarity of days: distance to the nearest centre in units of the mean distance of centres.

        Parameters
        ----------
        days : (N, F) float
            NaN is unknown: the known columns then count for it, too.
        device : str, optional
            Card on which torch finds the nearest centre; by default NumPy does.

        Returns
        -------
        (N,) float32
            NaN where no column with a weight is known.
        """
        days = np.asarray(days, np.float32)
        out = np.full(len(days), np.nan, np.float32)
        for at in range(0, len(days), _DAYS):
            x, seen, share = self._scaled(days[at : at + _DAYS])
            nearest = self._nearest(x, seen) if device is None else self._nearest_on(device, x, seen)
            # Computed again for the nearest alone, without the rounding where large squares cancel.
            apart = np.where(seen, x - self._centres[nearest], np.float32(0.0))
            out[at : at + _DAYS] = np.sqrt(np.square(apart).sum(1) / share) / self.mean_distance
        return out

    def _nearest(self, x: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Return the centre (N,) that is nearest to each scaled day, over what is known of it.

        Days of which the same columns are known are compared together, with centres of these columns alone; the rest
        takes products twice as wide. A tree of the centres (scipy's cKDTree) takes four times as long at 27 and 37
        columns, and a third of the centres remain if the distance to the middle of eight days in a row excludes the
        others, so that neither pays.
        """
        nearest = np.zeros(len(x), np.intp)
        first, of_day = _patterns(seen)
        alike = np.bincount(of_day, minlength=len(first)) >= _ALIKE
        for i in np.flatnonzero(alike):
            rows, known = np.flatnonzero(of_day == i), seen[first[i]]
            if known.all():
                _write_nearest(nearest, rows, x, self._factors)
            elif known.any():
                _write_nearest(nearest, rows, x[:, known], _factors(self._centres[:, known]))
        rows = np.flatnonzero(~alike[of_day])
        if len(rows):
            both = np.concatenate([x[rows], seen[rows]], 1)
            found = np.zeros(len(rows), np.intp)
            _write_nearest(found, np.arange(len(rows)), both, self._wide_factors)
            nearest[rows] = found
        return nearest

    def _nearest_on(self, device: str, x: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Return what `_nearest` does, computed by torch on a device: one product for all days."""
        import torch

        factors = torch.from_numpy(self._wide_factors).to(device)
        both = torch.from_numpy(np.concatenate([x, seen], 1, dtype=np.float32)).to(device)
        parts = [(part @ factors).argmin(1) for part in both.split(_DAYS_ON_DEVICE)]
        return torch.cat(parts).cpu().numpy()

    @cached_property
    def _factors(self) -> np.ndarray:
        return _factors(self._centres)

    @cached_property
    def _wide_factors(self) -> np.ndarray:
        """Factors of columns that are 0 where they are unknown, followed by columns that are 1 where they are known."""
        return np.concatenate([-2 * self._centres, np.square(self._centres)], 1).T.copy()

    @cached_property
    def _counts(self) -> np.ndarray:
        return np.flatnonzero(self.weight)

    @cached_property
    def _centres(self) -> np.ndarray:
        """Centres in weighted units (K, columns with a weight); unknown values are at the mean, 0."""
        x, seen, _ = self._scaled(self.centres)
        return np.where(seen, x, np.float32(0.0))

    def _scaled(self, days: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return days in weighted units, 0 where unknown; what is known; and its fraction of all squared weights."""
        at = self._counts
        x = ((days[:, at] - self.mean[at]) / self.scale[at] * self.weight[at]).astype(np.float32)
        seen = np.isfinite(x)
        squares = np.square(self.weight[at])
        share = (seen @ squares) / squares.sum()
        return np.where(seen, x, np.float32(0.0)), seen, np.where(share > 0, share, np.nan)

    def _among(self) -> tuple[float, np.ndarray]:
        """Return the mean distance of any two centres, and that of each to the nearest of another cluster."""
        total, pairs, nearest = 0.0, -len(self.centres), np.full(len(self.centres), np.inf)
        wide = self._centres.astype(np.float64)
        for at in range(0, len(wide), _ROWS):
            part = slice(at, at + _ROWS)
            x, seen, share = self._scaled(self.centres[part])
            x = x.astype(np.float64)
            squares = np.concatenate([x, seen], 1) @ np.concatenate([-2 * wide, np.square(wide)], 1).T
            squares = np.maximum(squares + np.square(x).sum(1)[:, None], 0.0)
            distance = np.sqrt(squares / share[:, None])
            np.fill_diagonal(distance[:, at:], 0.0)  # a centre and itself are no pair
            total += float(np.nansum(distance))
            pairs += int(np.isfinite(distance).sum())
            distance[self.cluster[part, None] == self.cluster] = np.inf
            nearest[part] = distance.min(1)
        return max(total / max(pairs, 1), np.finfo(float).tiny), nearest

    def to_bytes(self) -> bytes:
        """Return the content of a safetensors file; `from_bytes` is its inverse."""
        blobs, header, at = [], {}, 0
        for name, dtype in _ARRAYS.items():
            array = np.ascontiguousarray(getattr(self, name), _DTYPES[dtype])
            blobs.append(array.tobytes())
            header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [at, at + array.nbytes]}
            at += array.nbytes
        about = {"names": list(self.names), "mean_distance": self.mean_distance, "threshold": self.threshold}
        header["__metadata__"] = {key: json.dumps(value) for key, value in about.items()}
        head = json.dumps(header).encode()
        head += b" " * (-len(head) % 8)
        return struct.pack("<Q", len(head)) + head + b"".join(blobs)

    @classmethod
    def from_bytes(cls, content: bytes) -> Applicability:
        """Read what `to_bytes` wrote (ValueError or KeyError for other content)."""
        size = struct.unpack_from("<Q", content)[0] if len(content) >= 8 else 0
        header = json.loads(content[8 : 8 + size])
        arrays = {name: _array(header[name], content[8 + size :]) for name in _ARRAYS}
        about = {key: json.loads(value) for key, value in header["__metadata__"].items()}
        columns = len(about["names"])
        shapes = {"centres": (len(arrays["cluster"]), columns)} | dict.fromkeys(("mean", "scale", "weight"), (columns,))
        for name, shape in shapes.items():
            if arrays[name].shape != shape:
                raise ValueError(f"{name} must have shape {shape}, found {arrays[name].shape}")
        return cls(
            names=tuple(about["names"]),
            centres=arrays["centres"],
            cluster=arrays["cluster"],
            mean=arrays["mean"],
            scale=arrays["scale"],
            weight=arrays["weight"],
            mean_distance=float(about["mean_distance"]),
            threshold=float(about["threshold"]),
        )


def _factors(centres: np.ndarray) -> np.ndarray:
    """Return factors (columns + 1, K): a day and a final 1, times these, are its squared distances less its square."""
    return np.concatenate([-2 * centres, np.square(centres).sum(1, keepdims=True)], 1).T.copy()


def _patterns(seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return one day of each set of known columns, and the number of the set of each day (N,)."""
    if seen.all():
        return np.zeros(1, np.intp), np.zeros(len(seen), np.intp)
    number = np.zeros(len(seen), np.intp)
    for at in range(0, seen.shape[1], _BITS):  # numbers are sorted much faster than rows
        bits = seen[:, at : at + _BITS] @ (1 << np.arange(min(_BITS, seen.shape[1] - at)))
        distinct, of_bits = np.unique(bits, return_inverse=True)
        number = np.unique(number * len(distinct) + of_bits, return_inverse=True)[1]
    return np.unique(number, return_index=True)[1], number


def _write_nearest(nearest: np.ndarray, rows: np.ndarray, x: np.ndarray, factors: np.ndarray) -> None:
    """Write the position of the smallest product of some rows of x and the factors; a 1 follows if x lacks a column."""
    padded = np.ones((len(rows), len(factors)), np.float32)
    padded[:, : x.shape[1]] = x[rows]
    products = np.empty((min(_ROWS, len(rows)), factors.shape[1]), np.float32)
    for at in range(0, len(rows), _ROWS):
        part = padded[at : at + _ROWS]
        found = np.matmul(part, factors, out=products[: len(part)])
        nearest[rows[at : at + _ROWS]] = found.argmin(1)


def combined(parts: Sequence[Applicability]) -> Applicability | None:
    """Return the common area of applicability of models: their training days, the mean of weights, its threshold.

    None if their training days differ.
    """
    first = parts[0]
    for other in parts[1:]:
        same = other.names == first.names and np.array_equal(other.centres, first.centres, equal_nan=True)
        if not same or not np.array_equal(other.cluster, first.cluster):
            return None
    if len(parts) == 1:
        return first
    weight = np.mean([part.weight / np.linalg.norm(part.weight) for part in parts], 0)
    return Applicability.of(first.names, first.centres, first.cluster, weight)


def _array(about: Mapping, content: bytes) -> np.ndarray:
    start, stop = about["data_offsets"]
    return np.frombuffer(content[start:stop], _DTYPES[about["dtype"]]).reshape(about["shape"])
