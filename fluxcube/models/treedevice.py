"""The device that grows trees and predicts with them, and XGBoost's part in it."""

from __future__ import annotations

import ctypes
import functools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from fluxcube.devices import allows_cpu, card_failure, check_device, is_exhausted, needs_card, own_card
from fluxcube.errors import ConfigError, DeviceError, missing_package

log = logging.getLogger(__name__)


def find_tree_device(device: str = "auto", *, instead: bool = False) -> str:
    """Return the device of XGBoost that a name means: "cpu", or a card with its number, such as "cuda:0".

    Parameters
    ----------
    device : str
        As `fluxcube.devices.check_device` takes it.
    instead : bool
        Whether the CPU is used, with a message, where XGBoost is not built for cards.

    Raises
    ------
    ConfigError
        If a card is requested that does not exist, or XGBoost is not built for cards (unless `instead`).
    """
    if check_device(device) == "cpu":
        return device
    built = is_built_for_cards()
    cards, (card, _, number) = _gpus() if built else 0, device.partition(",")[0].partition(":")
    if cards and (not number or int(number) < cards):
        return f"cuda:{number or own_card(cards)}"
    if not built:
        why = "this XGBoost is built for CPUs (xgboost-cpu?): install xgboost"
    else:
        why = f"this machine shows {f'{cards} GPU, counted from cuda:0' if cards else 'no GPU'}"
    if allows_cpu(device) or (instead and not built and card == "cuda"):
        _warn(f"device is {device!r}, but {why}; trees use the CPU")
    elif needs_card(device):
        raise ConfigError(f"device is {device!r}, but {why}, or pass device=auto.")
    return "cpu"


def is_built_for_cards() -> bool:
    """Return whether this build of XGBoost can use cards."""
    return bool(xgboost_package().build_info().get("USE_CUDA"))


@functools.cache
def _warn(text: str) -> None:
    """Log a warning once."""
    log.warning(text)


def predict_on(device: str, boosters: Sequence[Any], rows: np.ndarray) -> list[np.ndarray]:
    """Return the predictions (n,) of each booster for feature rows (n, F), computed on a device.

    Parameters
    ----------
    device : str
        As `find_tree_device` returns it.
    boosters : sequence of xgboost.Booster
        Trees of each target.
    rows : (n, F) float32
        NaN is missing.

    Raises
    ------
    DeviceError
        If a card fails, or has not enough memory.
    """
    if device == "cpu":
        return [booster.inplace_predict(rows) for booster in boosters]
    xgboost = xgboost_package()
    try:
        matrix = xgboost.DMatrix(rows)  # one copy for all targets; on a card, arrays in RAM need it
        for booster in boosters:
            booster.set_param({"device": device})
        return [booster.predict(matrix) for booster in boosters]
    except xgboost.core.XGBoostError as error:
        if is_exhausted(error):
            raise DeviceError(
                f"the memory of {device} is too small for {len(rows)} feature rows ({str(error).splitlines()[0]}): end "
                "other programs that use it, or pass device='cpu'."
            ) from error
        if "cuda" in str(error).lower():
            raise card_failure(device, error) from error
        raise


def xgboost_package() -> Any:
    """Return the package xgboost (MissingPackageError if it is not installed)."""
    try:
        import xgboost
    except ModuleNotFoundError as error:
        raise missing_package("xgboost", "train", "the model xgboost") from error
    return xgboost


def _gpus() -> int:
    """Return the number of GPUs that this process may use, from NVIDIA's driver."""
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value
