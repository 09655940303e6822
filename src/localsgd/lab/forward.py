"""How images go through a model: memory format, arithmetic, and the randomness of dropout."""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from localsgd.lab.config import RunConfig
from localsgd.lab.data import derive_seed
from localsgd.lab.precision import choose_arithmetic, find_ability

__all__ = ["Forward", "has_active_dropout", "seed_dropout"]


@final
class Forward:
    """Runs models as a configuration says, for training and evaluation alike.

    Attributes:
        device: Where models and inputs are.
    """

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        """Prepare.

        Args:
            config: The run. What it leaves to ``auto`` is chosen for this device alone.
            device: Where models and images are.
        """
        self.device = device
        chosen = choose_arithmetic(config, [find_ability(device)])
        self._low_precision = chosen.precision == "bfloat16"
        self._format = torch.channels_last if chosen.channels_last is True else torch.contiguous_format

    def place(self, model: nn.Module) -> nn.Module:
        """Move a model to the device and into the memory format.

        Args:
            model: Changed in place.

        Returns:
            The same model.
        """
        return model.to(device=self.device, memory_format=self._format)  # type: ignore[call-overload, no-any-return]  # the stub lacks this pair

    def arrange(self, images: Tensor) -> Tensor:
        """Bring images into the memory format.

        Args:
            images: Shape (B, C, height, width), on the device.

        Returns:
            The same values; a copy only if they lie otherwise.
        """
        return images.contiguous(memory_format=self._format)

    def arithmetic(self) -> torch.autocast:
        """Make the context in which models compute."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._low_precision)

    def __call__(self, model: nn.Module, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            model: On the device.
            images: Shape (B, C, height, width), float32, on the device.

        Returns:
            Logits, shape (B, classes), float32.
        """
        with self.arithmetic():
            logits: Tensor = model(self.arrange(images))
        return logits.float()


def has_active_dropout(model: nn.Module) -> bool:
    """Tell whether a model draws random numbers while it trains, as far as its layers show.

    Args:
        model: Any module.

    Returns:
        Whether a dropout, recurrent or attention layer has a probability above 0.
    """
    rates = [module.p for module in model.modules() if isinstance(module, _DropoutNd)]
    rates += [module.dropout for module in model.modules() if isinstance(module, nn.RNNBase | nn.MultiheadAttention)]
    return any(rate > 0 for rate in rates)


def seed_dropout(seed: int, *, step: int, worker: int) -> None:
    """Seed torch's global generators for one worker's step, so that its masks depend on nothing else.

    Args:
        seed: The run's seed.
        step: Steps taken before.
        worker: Number of the worker.
    """
    torch.manual_seed(derive_seed(seed, "dropout", step, worker))
