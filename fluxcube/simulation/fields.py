"""Smooth random fields on the sphere and in time: sums of waves, which have a value at any place and time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

#: Mean radius of the Earth, km.
RADIUS_KM = 6371.0


@dataclass(frozen=True)
class Field:
    """A sum of travelling waves with zero mean and unit variance.

    Each wave is ``cos(k·x - f t - p)`` with x on the unit sphere. It is the sum of products of a function of place and
    a function of time, so that a whole (place, time) block takes two matrix products.

    Attributes
    ----------
    wavevector : (wave, 3) float64
        Radians per unit of the sphere's radius.
    frequency : (wave,) float64
        Radians per hour; 0 for a field that is constant in time.
    phase : (wave,) float64
    """

    wavevector: np.ndarray
    frequency: np.ndarray
    phase: np.ndarray

    def at(self, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
        """Return the value at each place (place,) of a field that is constant in time."""
        places, out = unit_vectors(latitude, longitude), np.empty(len(latitude))
        for part in _pieces(len(places), self.wavevector.size):  # all waves of a region's pixels would take 500 MB
            angle = np.matmul(places[part], self.wavevector.T) - self.phase
            out[part] = np.cos(_within_turn(angle)).sum(-1, dtype=float)
        return np.sqrt(2.0 / len(self.phase)) * out

    def over(self, hours: np.ndarray, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
        """Return the values (place, time) at times in `hours` (time,) and places in degrees (place,)."""
        place = matrix_product(unit_vectors(latitude, longitude), self.wavevector)
        moment = np.multiply.outer(np.asarray(hours, float), self.frequency) + self.phase
        (cos_p, sin_p), (cos_m, sin_m) = _circle(place), _circle(moment)
        waves = matrix_product(cos_m, cos_p) + matrix_product(sin_m, sin_p)
        return np.sqrt(2.0 / len(self.phase)) * np.ascontiguousarray(waves.T)


def matrix_product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the matrix product ``left @ right.T`` of 2-D arrays.

    It is computed in pieces too small for BLAS to start threads, which would compete with the two threads that write
    the planet's files.
    """
    out = np.empty((len(left), len(right)), np.result_type(left, right))
    for part in _pieces(len(left), right.size):
        np.matmul(left[part], right.T, out=out[part])
    return out


def _pieces(rows: int, size: int) -> Iterator[slice]:
    """Yield slices of the rows of a matrix whose product with a matrix of `size` elements is small."""
    step = max(1, 2**18 // max(1, size))
    for row in range(0, rows, step):
        yield slice(row, row + step)


def _circle(angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosine and sine of angles, computed in float32: ten times as fast."""
    small = _within_turn(angle)
    return np.cos(small).astype(float), np.sin(small).astype(float)


def _within_turn(angle: np.ndarray) -> np.ndarray:
    """Return angles reduced to one turn, -pi to pi, as float32."""
    turn = np.multiply(angle, 1 / (2 * np.pi))
    np.rint(turn, out=turn)
    turn *= -2 * np.pi
    turn += angle
    return turn.astype("float32")


def make_field(
    rng: np.random.Generator,
    wavelength: tuple[float, float],
    period: tuple[float, float] | None = None,
    waves: int = 40,
) -> Field:
    """Draw a field whose waves have lengths (km) and periods (hours) between two limits.

    Parameters
    ----------
    rng : numpy Generator
    wavelength : (float, float)
        Shortest and longest wave, km.
    period : (float, float), optional
        Shortest and longest period, hours; without it the field is constant in time.
    waves : int
        Number of waves.

    Returns
    -------
    Field

    References
    ----------
    Rahimi and Recht 2007, "Random features for large-scale kernel machines".
    """
    direction = rng.standard_normal((waves, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    length = _log_uniform(rng, wavelength, waves)
    frequency = np.zeros(waves) if period is None else 2 * np.pi / _log_uniform(rng, period, waves)
    return Field(direction * (2 * np.pi * RADIUS_KM / length)[:, None], frequency, rng.uniform(0, 2 * np.pi, waves))


def _log_uniform(rng: np.random.Generator, limits: tuple[float, float], size: int) -> np.ndarray:
    """Draw numbers whose logarithm is uniform between the limits' logarithms."""
    low, high = np.log(limits)
    return np.exp(rng.uniform(low, high, size))


def unit_vectors(latitude: ArrayLike, longitude: ArrayLike) -> np.ndarray:
    """Return the points (..., 3) on the unit sphere at coordinates in degrees."""
    phi, lam = np.deg2rad(np.asarray(latitude, float)), np.deg2rad(np.asarray(longitude, float))
    return np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], -1)
