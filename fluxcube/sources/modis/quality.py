"""Decide from quality flags which observations of MODIS reflectance are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from fluxcube.errors import ConfigError, unknown

#: Fill value of ``state_1km``.
_STATE_FILL = 65535
#: Accepted values of the mandatory quality of MCD43A4: full and magnitude inversions (255 is fill).
INVERTED = (0, 1)
#: Flags by name, and the rule that applies to each by default.
DEFAULT_RULES: Mapping[str, str | tuple[int, ...]] = MappingProxyType(
    {"state_1km": "clear_sky", "mandatory_quality": INVERTED}
)
_NAMED_RULES = ("clear_sky", "modland")


def clear_sky(
    state: np.ndarray, *, assumed_clear: bool = False, cirrus: int = 0, aerosol: int = 3, adjacent: bool = False
) -> np.ndarray:
    """Return whether pixels were observed under a clear sky, according to MOD09GA's state flags.

    ======  =====================================  ======================
    bits    meaning                                clear where
    ======  =====================================  ======================
    0-1     cloud state: clear, cloudy, mixed,     00; and 11 with
            not set (assumed clear)                `assumed_clear`
    2       cloud shadow                           0
    6-7     aerosol: climatology, low, average,    at most `aerosol`
            high
    8-9     cirrus: none, small, average, high     at most `cirrus`
    10      internal cloud algorithm               0
    13      adjacent to cloud                      0; or `adjacent`
    ======  =====================================  ======================

    Land and water (3-5), fire (11), salt pan (14) and snow (12, 15) do not concern clouds.

    Parameters
    ----------
    state : array of int or float
        ``state_1km``; NaN and 65535 are fill.
    assumed_clear : bool
        Treat cloud state 11, for which the cloud mask was not set, as clear.
    cirrus, aerosol : {0, 1, 2, 3}
        Maximum class of cirrus, and of aerosol, that is treated as clear.
    adjacent : bool
        Treat pixels next to a cloud as clear.

    Returns
    -------
    array of bool
        True where clear.

    Raises
    ------
    ConfigError
        If `cirrus` or `aerosol` is not one of these classes.

    References
    ----------
    MODIS Surface Reflectance User's Guide, Collection 6, Table 13 (1 km state QA), and the attribute ``QA index`` of
    ``state_1km_1`` in the files; doi:10.5067/MODIS/MOD09GA.061

    Examples
    --------
    >>> clear_sky(np.array([0, 1, 2, 3, 4, 1 << 8, 1 << 10, 1 << 12, 1 << 13]))
    array([ True, False, False, False, False, False, False,  True, False])
    """
    for name, value in (("cirrus", cirrus), ("aerosol", aerosol)):
        if value not in (0, 1, 2, 3):
            raise ConfigError(f"{name} must be a class from 0 (lowest) to 3 (high), found {value!r}.")
    bits, known = _bits(state)
    cloud = bits & 0b11
    clear = (cloud == 0b00) | (assumed_clear & (cloud == 0b11))
    blocked = (bits >> 2 & 1) | (bits >> 10 & 1)
    if not adjacent:
        blocked |= bits >> 13 & 1
    return known & clear & (blocked == 0) & (bits >> 8 & 0b11 <= cirrus) & (bits >> 6 & 0b11 <= aerosol)


def snow_flag(state: np.ndarray) -> np.ndarray:
    """Return 1 where MOD09GA's state flags report snow or ice (bit 12, of MOD35, or bit 15), else 0; NaN for fill.

    Examples
    --------
    >>> snow_flag(np.array([0, 1 << 12, 1 << 15, 65535]))
    array([ 0.,  1.,  1., nan])
    """
    bits, known = _bits(state)
    return np.where(known, (bits >> 12 & 1) | (bits >> 15 & 1), np.nan)


def _bits(state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return state flags as int32, 0 where unknown, and whether they are known."""
    state = np.asarray(state)
    known = np.isfinite(state) & (state != _STATE_FILL)
    return np.where(known, state, 0).astype(np.int32), known


@dataclass(frozen=True, kw_only=True)
class QualityRules:
    """The rules that decide which observations are used.

    Attributes
    ----------
    rules : mapping of str to (str or tuple of int)
        For each flag, ``"clear_sky"`` (MOD09GA's state flags), ``"modland"`` (bits 0-1 of ``QC_500m`` are 00 or 01), or
        the accepted values. ``mandatory_quality`` is that of each band of MCD43A4. Where the file lacks a flag of
        `optional`, the rule has no effect.
    optional : bool
        Whether flags may be missing from the file: True for the default rules.
    assumed_clear, cirrus, aerosol, adjacent
        As in `clear_sky`.
    max_view_zenith : float, optional
        Maximum angle between the view and the vertical, degrees.
    """

    rules: Mapping[str, str | tuple[int, ...]] = field(default_factory=lambda: DEFAULT_RULES)
    optional: bool = True
    assumed_clear: bool = False
    cirrus: int = 0
    aerosol: int = 3
    adjacent: bool = False
    max_view_zenith: float | None = None

    def passes(self, name: str, values: np.ndarray) -> np.ndarray:
        """Return whether values (n,) of the flag `name` pass its rule; missing flags do not."""
        rule = self.rules[name]
        if not isinstance(rule, str):
            return np.isin(values, np.array(rule))
        if rule == "clear_sky":
            return clear_sky(
                values,
                assumed_clear=self.assumed_clear,
                cirrus=self.cirrus,
                aerosol=self.aerosol,
                adjacent=self.adjacent,
            )
        known = np.isfinite(values)
        return known & (np.where(known, values, 0).astype(np.int64) & 0b11 <= 1)


def with_quality(settings: QualityRules, quality: str | Mapping[str, str | int | Sequence[int]] | None) -> QualityRules:
    """Return settings with the rules of the option `quality` of `fluxcube.read_surface`.

    Raises
    ------
    ConfigError
        If `quality` is neither "default", "none", None nor a mapping.
    UnknownNameError
        If a rule has an unknown name.
    """
    if quality == "default":
        return settings
    if quality is None or quality == "none":
        return replace(settings, rules={})
    if not isinstance(quality, Mapping):
        raise ConfigError(
            f"quality={quality!r}: expected 'default', None (use all values), or a mapping from flags to rules, such "
            "as {'state_1km': 'clear_sky'} or {'SummaryQA': [0, 1]}."
        )
    return replace(settings, rules={name: _rule(rule) for name, rule in quality.items()}, optional=False)


def _rule(rule: str | int | Sequence[int]) -> str | tuple[int, ...]:
    if isinstance(rule, str):
        if rule not in _NAMED_RULES:
            raise unknown("rule of quality", rule, _NAMED_RULES)
        return rule
    return (rule,) if isinstance(rule, int) else tuple(rule)
