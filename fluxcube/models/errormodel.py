"""Error model: the standard deviation of an estimate's error, from the size of the flux and the members' spread.

Errors of fluxes grow with the flux (Richardson et al. 2006), and with the disagreement of the members of an ensemble.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fluxcube.errors import CheckpointError, ConfigError


@dataclass(frozen=True, kw_only=True)
class ErrorModel:
    """Standard deviation of the error: ``floor + flux * |estimate| + spread * NAME_spread + std * NAME_std``.

    Attributes
    ----------
    floor : float
        Smallest standard deviation, in the units of the flux.
    flux : float
        Increase per unit of the absolute value of the estimate.
    spread : float
        Increase per unit of the spread between the members; 0 for a model without members.
    std : float
        Increase per unit of the model's own standard deviation; 0 for a model without a Gaussian head.

    References
    ----------
    Richardson et al. 2006 (errors of fluxes grow linearly with the flux), doi:10.1016/j.agrformet.2006.01.007

    Examples
    --------
    >>> ErrorModel(floor=0.5, flux=0.25).apply({"mean": np.array([-4.0, 0.0])})
    array([1.5, 0.5])
    """

    floor: float
    flux: float = 0.0
    spread: float = 0.0
    std: float = 0.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not (np.isfinite(value) and value >= 0):
                raise ConfigError(f"error model: {name} must be a number of 0 or more, found {value!r}.")
        if self.floor == 0:
            raise ConfigError("error model: floor must be above 0, since an estimate of 0 has an error, too.")

    @classmethod
    def from_dict(cls, values: Mapping) -> ErrorModel:
        """Return the error model that a checkpoint stores (CheckpointError for other content)."""
        try:
            return cls(**{str(name): float(value) for name, value in values.items()})
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"the calibration of this run is damaged or of another version: {error}") from error

    def to_dict(self) -> dict[str, float]:
        """Return the coefficients; `from_dict` is the inverse."""
        return dataclasses.asdict(self)

    def apply(self, estimates: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return standard deviations from arrays of one shape: "mean", and "spread" and "std" where they are used."""
        out = self.floor + self.flux * np.abs(estimates["mean"])
        for name in ("spread", "std"):
            if factor := getattr(self, name):
                out = out + factor * estimates[name]
        return out

    def formula(self, flux: str) -> str:
        """Return the formula as text.

        Examples
        --------
        >>> ErrorModel(floor=0.5, flux=0.25, spread=1.5).formula("NEE")
        '0.5 + 0.25 * |NEE| + 1.5 * NEE_spread'
        """
        parts = [f"{self.floor:.4g}"]
        parts += [f"{self.flux:.4g} * |{flux}|"] if self.flux else []
        parts += [f"{self.spread:.4g} * {flux}_spread"] if self.spread else []
        parts += [f"{self.std:.4g} * own standard deviation"] if self.std else []
        return " + ".join(parts)


def with_error_models(
    arrays: Mapping[str, np.ndarray], names: Sequence[str], models: Mapping[str, ErrorModel]
) -> Iterator[np.ndarray]:
    """Yield the outputs of a model by name; NAME_std from the error model of NAME, if it has one.

    Parameters
    ----------
    arrays : mapping of str to array
        What a model computed: NAME, NAME_std and NAME_spread where it has them.
    names : sequence of str
        Names of the outputs.
    models : mapping of str to ErrorModel
        Error models by target.
    """
    for name in names:
        target, _, kind = name.rpartition("_")
        if kind == "std" and target in models:
            kinds = {one: arrays[f"{target}_{one}"] for one in ("std", "spread") if f"{target}_{one}" in arrays}
            yield models[target].apply({"mean": arrays[target], **kinds}).astype(np.float32)
        else:
            yield arrays[name]
