"""In which arithmetic and memory format a run computes: what devices do well, and what is chosen where a run says auto."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from localsgd.communicators import Communicator
from localsgd.errors import ArgumentError
from localsgd.lab.config import RunConfig
from localsgd.lab.models import MODELS

__all__ = ["Ability", "abilities", "choose_arithmetic", "describe_arithmetic", "find_ability", "slow_bfloat16"]

_NATIVE = ("avx512_bf16", "amx_bf16")
"""Instructions of a CPU that multiply bfloat16; without them oneDNN converts every number, and is slower than float32."""


@dataclass(frozen=True, kw_only=True)
class Ability:
    """What a device does well."""

    bfloat16: bool
    """Whether it multiplies bfloat16 by itself, rather than by converting to float32 and back."""

    channels_last: bool
    """Whether its convolutions are made for channels that come last in memory."""


def find_ability(device: torch.device) -> Ability:
    """Find out what a device does well.

    Args:
        device: A CPU or a CUDA device that is there.

    Returns:
        For a GPU, bfloat16 from compute capability 8.0 on. For a CPU, bfloat16 with AVX-512 BF16 or AMX, and both through
        oneDNN alone: neither where torch was built without it, or it is switched off.

    Raises:
        ArgumentError: If it is neither a CPU nor a CUDA device.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return Ability(bfloat16=torch.cuda.is_bf16_supported(including_emulation=False), channels_last=True)
    if device.type != "cpu":
        raise ArgumentError(f"device={device} must be a CPU or a CUDA device; use torch.device('cpu').")
    is_built: Any = torch.backends.mkldnn.is_available  # torch has no annotation for it
    has_library = bool(is_built() and torch.backends.mkldnn.enabled)
    # Younger than the oldest torch that we support; what cannot be asked is not relied upon.
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    is_native = any(capabilities.get(name, False) for name in _NATIVE)
    return Ability(bfloat16=has_library and is_native, channels_last=has_library)


def abilities(communicator: Communicator, own: Ability) -> list[Ability]:
    """Tell each other what all devices do well.

    Args:
        communicator: The processes.
        own: That of this process's device.

    Returns:
        One a process, by rank; the same list on every process.

    Cost:
        One exchange of small objects. Every process must call this.
    """
    return [Ability(**told) for told in communicator.gather(vars(own))]


def choose_arithmetic(config: RunConfig, found: Sequence[Ability]) -> RunConfig:
    """Replace ``auto`` in ``precision`` and ``channels_last`` by what suits the model and all devices.

    A function of what all processes know, so that all choose alike. It is bfloat16 where every device computes that by
    itself and the model is of a kind for which it was measured to be faster and to change nothing else
    (``benchmarks/precision_accuracy.py``), else float32; and channels last where the model has convolutions and every
    device is made for it, unless rows are stacked, which gives images a fifth dimension.

    Args:
        config: The run, with or without ``auto``.
        found: What the device of each process does well.

    Returns:
        The same but for these two fields.
    """
    spec = MODELS[config.model.name]
    precision, channels_last = config.precision, config.channels_last
    if precision == "auto":
        precision = "bfloat16" if spec.suits_bfloat16 and all(one.bfloat16 for one in found) else "float32"
    if channels_last == "auto":
        is_stacked = config.engine == "stacked"
        channels_last = spec.has_convolutions and not is_stacked and all(one.channels_last for one in found)
    return replace(config, precision=precision, channels_last=channels_last)


def slow_bfloat16(config: RunConfig, found: Sequence[Ability]) -> tuple[str, ...]:
    """Warn of devices that have to convert what they are asked to compute.

    Args:
        config: The run, without ``auto``.
        found: What the device of each process does well.

    Returns:
        At most one warning.
    """
    slow = [rank for rank, one in enumerate(found) if not one.bfloat16]
    if config.precision != "bfloat16" or not slow:
        return ()
    who = "this device" if len(found) == 1 else f"the device of process {slow[0]} of {len(found)}"
    if len(slow) > 1:
        who = f"{len(slow)} of the {len(found)} devices, that of process {slow[0]} first,"
    verb = "computes" if len(slow) == 1 else "compute"
    message = (
        f"precision=bfloat16: {who} {verb} it by way of float32, which gives the same results to rounding and is slower "
        "than float32 itself; a new run with precision=auto takes what is fast."
    )
    return (message,)


def describe_arithmetic(config: RunConfig) -> str:
    """Word what is not the plainest: float32 and contiguous images go without saying.

    Args:
        config: The run, without ``auto``.

    Returns:
        ``bfloat16, channels last``, one of them, or nothing.
    """
    words: list[str] = [config.precision] if config.precision == "bfloat16" else []
    words += ["channels last"] if config.channels_last is True else []
    return ", ".join(words)
