"""Modules reduced to what a sync sees: parameters of given shapes, and nothing that computes. Needs torch alone."""

from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["Shape", "num_elements", "with_parameters"]

Shape = tuple[int, ...]


def num_elements(shapes: Sequence[Shape]) -> int:
    """Count the values of all parameters.

    Args:
        shapes: Their shapes.

    Returns:
        The sum of their sizes.
    """
    return sum(torch.Size(shape).numel() for shape in shapes)


def with_parameters(shapes: Sequence[Shape]) -> nn.Module:
    """Make a module that holds parameters and does nothing.

    Args:
        shapes: Their shapes.

    Returns:
        The module; every parameter is zero, touched, and has a gradient: PyTorch's averager skips those without.
    """
    module = nn.Module()
    for index, shape in enumerate(shapes):
        parameter = nn.Parameter(torch.full(shape, 0.0))
        parameter.grad = torch.zeros(()).expand(shape)  # takes no memory: nobody reads it
        module.register_parameter(f"parameter_{index}", parameter)
    return module
