"""Devices: the processor that computes, by the names that users pass, and the GPUs that this process may use.

A GPU is called a card here. torch is imported where a device is looked for, not before.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from fluxcube.errors import ConfigError, DeviceError, to_type

log = logging.getLogger(__name__)

#: Environment variable with the cards that a process may use, by number or identifier, separated by commas.
VISIBLE = "CUDA_VISIBLE_DEVICES"
#: Environment variable that cuBLAS reads before its first product: its workspace, with which it repeats its results.
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
#: Error of a precision above which it is warned of: root mean square difference from float32, in standard deviations of
#: the fluxes of the training.
PRECISION_LIMIT = 0.05
#: Largest error of a precision of each model that this process measured, by the digest of its weights.
_precision_errors: dict[str, float] = {}
#: Parts of the messages of errors that mean that memory is exhausted, and that a card or its driver failed.
_EXHAUSTED = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
_FAILED = ("CUDA error", "CUDNN_STATUS", "CUBLAS_STATUS", "HIP error")
#: Time of bfloat16 divided by that of float32 on a CPU without bfloat16, measured with the published preset.
_EMULATED = 6.6
_NAMES = re.compile(r"auto|cpu|cuda(:\d+)?(,cpu)?")
_EXPECTED = "'auto', 'cpu', 'cuda', a card by its number such as 'cuda:1', or 'cuda,cpu'"


def check_device(device: str) -> str:
    """Return the name of a device unchanged (ConfigError if it is none).

    Parameters
    ----------
    device : str
        "auto" is a card if there is one, else the CPU; "cuda" is the card of this process; "cuda:1" is a card by its
        number; "cuda,cpu" (or "cuda:1,cpu") is a card, and the CPU where there is no card, or one whose memory is too
        small.

    Examples
    --------
    >>> check_device("cuda:1")
    'cuda:1'
    """
    if not isinstance(device, str) or not _NAMES.fullmatch(device):
        also = " (Apple's mps is not supported)" if str(device).startswith("mps") else ""
        raise ConfigError(f"device: expected {_EXPECTED}, found {device!r}{also}.")
    return device


def check_deterministic(value: bool) -> bool:
    """Return the option `deterministic` unchanged (ConfigError if it is neither True nor False).

    Examples
    --------
    >>> check_deterministic(True)
    True
    """
    if not isinstance(value, bool):
        raise ConfigError(f"deterministic: expected True or False, found {value!r}.")
    return value


def needs_card(device: str) -> bool:
    """Return whether a name requires a card, so that the CPU is no substitute."""
    return device.startswith("cuda") and not allows_cpu(device)


def allows_cpu(device: str) -> bool:
    """Return whether a name requests the CPU where the card is absent or too small ("cuda,cpu")."""
    return device.endswith(",cpu")


def find_device(device: str = "auto") -> str:
    """Return the device of this process that a name means: "cpu", or a card with its number, such as "cuda:0".

    Parameters
    ----------
    device : str
        As `check_device` takes it. Of several cards, "auto" and "cuda" mean the current card of torch; for a process
        that `torchrun` or Dask started, or for one of several that train seeds, a card of its own.

    Raises
    ------
    ConfigError
        If the name is none, or if there is no such card.
    """
    if check_device(device) == "cpu":
        return "cpu"
    count, number = card_count(), device.partition(",")[0].partition(":")[2]
    if not count or (number and int(number) >= count):
        why = _why_no_card() if not count else _why_not_that_card(count)
        if needs_card(device):
            raise ConfigError(f"device is {device!r}, but {why}.")
        if allows_cpu(device):
            _tell(f"device is {device!r}, but {why}: computing on the CPU")
        return "cpu"
    return f"cuda:{number or own_card(count)}"


@functools.cache
def _tell(text: str) -> None:
    """Log a warning, once in this process: the device is looked up for every model and every run."""
    log.warning("%s", text)


def card_count() -> int:
    """Return the number of cards that torch can use in this process."""
    try:
        import torch
    except ModuleNotFoundError:
        return 0
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def card_ids(device: str = "auto") -> tuple[str, ...]:
    """Return the cards of this process that a name allows, as CUDA_VISIBLE_DEVICES identifies them.

    A child process whose CUDA_VISIBLE_DEVICES is one of them has that card only, and calls it "cuda".

    Raises
    ------
    ConfigError
        If the name requires a card that does not exist.
    """
    if find_device(device) == "cpu":
        return ()
    number = device.partition(",")[0].partition(":")[2]
    every = _visible_ids(card_count())
    return (every[int(number)],) if number else every


def device_name(device: str) -> str:
    """Return the name of a device that `find_device` returned, for users: "CPU", or that of the card."""
    if device == "cpu":
        return "CPU"
    import torch

    return str(torch.cuda.get_device_name(device))


def own_card(count: int) -> int:
    """Return the number of the card of this process, of a number of cards."""
    if count == 1:
        return 0
    if os.environ.get("LOCAL_RANK", "").isdigit():  # of a process that torchrun started
        return int(os.environ["LOCAL_RANK"]) % count
    if multiprocessing.parent_process() is not None or _is_dask_worker():
        return _claimed(_visible_ids(count))
    torch = sys.modules.get("torch")
    return torch.cuda.current_device() if torch is not None and torch.cuda.is_initialized() else 0


def _why_no_card() -> str:
    """Return why torch finds no card, and what to do."""
    option = to_type(python="device='cpu'", shell="--device cpu")
    instead = f"or pass {option}"
    try:
        import torch
    except ModuleNotFoundError:
        return f"torch is not installed: install fluxcube[gpu], {instead}"
    if torch.version.cuda is None and torch.version.hip is None:
        return (
            f"this torch ({torch.__version__}) is built for CPUs: install a build for your card "
            f"(https://pytorch.org/get-started/locally), {instead}"
        )
    if VISIBLE in os.environ and os.environ[VISIBLE].split(",")[0].strip() in ("", "-1"):
        return f"{VISIBLE}={os.environ[VISIBLE]!r} hides all cards: unset it, {instead}"
    return (
        f"torch {torch.__version__} (CUDA {torch.version.cuda}) finds no card: check that nvidia-smi lists one and "
        f"that the driver is recent enough, {instead}"
    )


def _why_not_that_card(count: int) -> str:
    """Return that there are fewer cards, and which ones there are."""
    known = f" ({VISIBLE}={os.environ[VISIBLE]})" if VISIBLE in os.environ else ""
    return f"this process has {count} card{'s'[: count > 1]}, cuda:0 to cuda:{count - 1}{known}: pass one of these"


def _visible_ids(count: int) -> tuple[str, ...]:
    """Return the identifiers of the cards that this process may use."""
    names = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return tuple(names[:count]) if len(names) >= count else tuple(map(str, range(count)))


def _is_dask_worker() -> bool:
    """Return whether this process is a worker of Dask."""
    worker = sys.modules.get("distributed.worker")
    return worker is not None and bool(worker.Worker._instances)


@functools.cache
def _claimed(cards: tuple[str, ...]) -> int:
    """Claim the card that the fewest processes of this user and machine use, and return its number.

    A claim is a lock on a file of the temporary folder. The system releases it when this process ends, however it ends,
    so that a worker that is started again finds the card of the one that it replaces.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        return os.getpid() % len(cards)
    folder = Path(tempfile.gettempdir()) / f"fluxcube-cards-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for turn in range(1000):
        for i, card in enumerate(cards):
            claim = os.open(folder / f"{re.sub(r'[^A-Za-z0-9-]', '_', card)}.{turn}", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return i  # the file stays open, and the claim valid, until this process ends
            except OSError:
                os.close(claim)
    return 0


@contextlib.contextmanager
def deterministic(enabled: bool = True) -> Iterator[None]:
    """Let torch use only algorithms that repeat their results bit by bit; its settings are restored afterwards.

    An operation without such an algorithm raises RuntimeError. cuBLAS reads its setting before its first product in a
    process: begin before the card is used. The settings are those of the whole process, for all of its threads.

    Parameters
    ----------
    enabled : bool
        Whether anything is changed.
    """
    with _deterministic.used() if enabled else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def tf32(enabled: bool = True) -> Iterator[None]:
    """Compute matrix products of float32 in TF32 (10 bits of the mantissa) on a card; the setting is restored.

    The setting is that of the whole process, for all of its threads.

    Parameters
    ----------
    enabled : bool
        Whether anything is changed.
    """
    with _tf32.used() if enabled else contextlib.nullcontext():
        yield


class _ProcessSetting:
    """A setting of the process that several threads may use at once: the last one restores what the first one found.

    Parameters
    ----------
    change : callable
        Changes the setting, and returns a function that restores it.
    """

    def __init__(self, change: Callable[[], Callable[[], None]]):
        self._change, self._lock, self._users = change, threading.Lock(), 0

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Use the setting within the block."""
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._restore = self._change()
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._restore()


def _use_tf32() -> Callable[[], None]:
    import torch

    matmul = torch.backends.cuda.matmul
    name, value = ("fp32_precision", "tf32") if hasattr(matmul, "fp32_precision") else ("allow_tf32", True)
    before = getattr(matmul, name)
    setattr(matmul, name, value)
    return functools.partial(setattr, matmul, name, before)


def _use_deterministic() -> Callable[[], None]:
    import torch

    before, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark, is_set = torch.backends.cudnn.benchmark, _WORKSPACE in os.environ
    os.environ.setdefault(_WORKSPACE, ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False

    def restore() -> None:
        torch.use_deterministic_algorithms(before, warn_only=warns)
        torch.backends.cudnn.benchmark = benchmark
        if not is_set:
            os.environ.pop(_WORKSPACE, None)

    return restore


_tf32, _deterministic = _ProcessSetting(_use_tf32), _ProcessSetting(_use_deterministic)


def cpu_has_bfloat16() -> bool | None:
    """Return whether this processor computes in bfloat16; None if that is unknown.

    Without it, torch emulates bfloat16, which is several times slower than float32.
    """
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return None
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return None if found is None else bool({"avx512_bf16", "amx_bf16", "bf16"} & set(found[1].split()))


def warn_of_precision(device: str, precision: str) -> None:
    """Warn of a precision from which a device does not gain.

    Parameters
    ----------
    device : str
        As `fluxcube.devices.find_device` returns it.
    precision : str
        "float32", "tf32" or "bfloat16".
    """
    if device != "cpu" and precision == "bfloat16":
        import torch

        if not torch.cuda.is_bf16_supported(including_emulation=False):
            log.warning("precision is bfloat16, which %s emulates: pass precision='float32'", device_name(device))
    if device != "cpu" or precision == "float32":
        return
    if precision == "tf32":
        log.warning("precision is tf32, which only cards have: the CPU computes in float32")
    elif cpu_has_bfloat16() is False:
        log.warning(
            "precision is bfloat16, which this CPU does not have: torch emulates it, which took %.1f times as long as "
            "float32 where it was measured; pass precision='float32'",
            _EMULATED,
        )


def record_precision(digest: str, error: float) -> None:
    """Record the error of a precision of a model that this process measured, by the digest of its weights."""
    _precision_errors[digest] = max(error, _precision_errors.get(digest, 0.0))


def recorded_precision(digests: str) -> float | None:
    """Return the largest error of a precision that this process recorded of some models; None without a record.

    Parameters
    ----------
    digests : str
        Text that contains the digests of the models, or their first 12 characters.
    """
    errors = [error for digest, error in list(_precision_errors.items()) if digest and digest[:12] in digests]
    return max(errors, default=None)


def is_exhausted(error: BaseException) -> bool:
    """Return whether an error means that the memory of a device is exhausted."""
    return isinstance(error, MemoryError) or any(part in str(error) for part in _EXHAUSTED)


def is_card_failure(error: BaseException) -> bool:
    """Return whether an error means that a card or its driver failed, so that this process can no longer use it."""
    import torch

    failures = getattr(torch, "AcceleratorError", ())
    return isinstance(error, failures) or any(part in str(error) for part in _FAILED)


def card_failure(device: str, error: BaseException) -> DeviceError:
    """Return the error of a card that failed, for users."""
    with contextlib.suppress(RuntimeError, AssertionError, ImportError):  # a driver that failed may not answer
        device = device_name(device)
    why = (str(error).splitlines() or [type(error).__name__])[0]
    return DeviceError(
        f"{device} failed ({why}): this process can no longer use it. Check it with nvidia-smi, start the program "
        "again, and repeat the call: maps and training continue where they were saved."
    )
