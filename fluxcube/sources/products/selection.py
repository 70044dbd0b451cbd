"""Selections of arrays as products of independent axes, so that each axis can be divided by stored chunks."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from xarray.core import indexing


@dataclass(frozen=True)
class Axis:
    """Dimensions of an array that are selected together, and the points along them.

    Attributes
    ----------
    dims : tuple of int
        Positions of the dimensions in the array.
    points : tuple of array of int
        Index of each point along each dimension, arrays of one length.
    shape : tuple of int
        Shape of the points in the result.
    axes : tuple of int
        Positions of these axes in the result.
    """

    dims: tuple[int, ...]
    points: tuple[np.ndarray, ...]
    shape: tuple[int, ...]
    axes: tuple[int, ...]


@dataclass(frozen=True)
class Selection:
    """A selection as a product of axes: every combination of their points is selected.

    Attributes
    ----------
    axes : tuple of Axis
        Independent axes; each dimension of the array belongs to one.
    shape : tuple of int
        Shape of the result.
    """

    axes: tuple[Axis, ...]
    shape: tuple[int, ...]

    @property
    def key(self) -> bytes:
        """Digest of the selection, equal for equal ones."""
        digest = hashlib.blake2b(repr((self.shape, [(axis.dims, axis.axes) for axis in self.axes])).encode())
        for points in itertools.chain.from_iterable(axis.points for axis in self.axes):
            digest.update(np.ascontiguousarray(points, np.int64).tobytes())
        return digest.digest()

    @classmethod
    def of(cls, key: indexing.ExplicitIndexer, shape: tuple[int, ...]) -> Selection:
        """Return the selection of xarray's basic, outer or vectorised indexer of an array of a shape."""
        if isinstance(key, indexing.VectorizedIndexer):
            arrays = _without_slices(key.tuple, shape)
            return cls._of_arrays([np.where(a < 0, a + size, a) for a, size in zip(arrays, shape, strict=True)])
        axes: list[Axis] = []
        out: list[int] = []
        for dim, (one, size) in enumerate(zip(key.tuple, shape, strict=True)):
            index = np.arange(size)[one]
            kept = (index.size,) if index.ndim else ()
            axes.append(Axis((dim,), (index.reshape(-1),), kept, (len(out),) if kept else ()))
            out += kept
        return cls(tuple(axes), tuple(out))

    @classmethod
    def _of_arrays(cls, arrays: Sequence[np.ndarray]) -> Selection:
        """Return the selection of arrays that are broadcast against each other."""
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
        arrays = [
            _reduced(np.asarray(array).reshape((1,) * (len(shape) - array.ndim) + array.shape)) for array in arrays
        ]
        groups: list[tuple[set[int], list[int]]] = []
        for dim, array in enumerate(arrays):
            varying = {axis for axis, size in enumerate(array.shape) if size != 1}
            joined = [group for group in groups if group[0] & varying]
            groups = [group for group in groups if group not in joined]
            groups.append(
                (varying.union(*(g[0] for g in joined)), sorted([dim, *itertools.chain(*(g[1] for g in joined))]))
            )
        axes = []
        for varying, dims in groups:
            order = tuple(sorted(varying))
            part = tuple(size if axis in varying else 1 for axis, size in enumerate(shape))
            points = tuple(np.broadcast_to(arrays[dim], part).reshape(-1) for dim in dims)
            axes.append(Axis(tuple(dims), points, tuple(shape[axis] for axis in order), order))
        return cls(tuple(axes), shape)

    def arranged(self, values: np.ndarray) -> np.ndarray:
        """Return values with one dimension for each axis in the shape of the result."""
        split = values.reshape([n for axis in self.axes for n in axis.shape])
        order = [number for axis in self.axes for number in axis.axes]
        # An axis along which all points are the same, such as two towers of one cell, was read once.
        shape = [size if axis in order else 1 for axis, size in enumerate(self.shape)]
        values = np.transpose(split, np.argsort(order)).reshape(shape)
        return values if values.shape == self.shape else np.broadcast_to(values, self.shape).copy()


def _without_slices(key: Sequence[slice | np.ndarray], shape: Sequence[int]) -> list[np.ndarray]:
    """Return the arrays of a vectorised indexer; the dimensions of slices come last, as xarray arranges them."""
    slices = sum(isinstance(one, slice) for one in key)
    ndim = max((one.ndim for one in key if isinstance(one, np.ndarray)), default=0)
    arrays, seen = [], 0
    for one, size in zip(key, shape, strict=True):
        if isinstance(one, slice):
            arrays.append(np.arange(size)[one].reshape((1,) * (ndim + seen) + (-1,) + (1,) * (slices - seen - 1)))
            seen += 1
        else:
            arrays.append(one.reshape(one.shape + (1,) * slices))
    return arrays


def _reduced(array: np.ndarray) -> np.ndarray:
    """Return an array with size 1 along the axes along which it does not vary.

    A selection of a selection is made of arrays that repeat themselves along most axes.
    """
    for axis, size in enumerate(array.shape):
        first = array.take([0], axis) if size > 1 else array
        if size > 1 and (array.strides[axis] == 0 or bool((array == first).all())):
            array = first
    return array
