"""The shapes of the parameters of real networks."""

import torch
from _bare_models import Shape

from localsgd.lab.models import ImageInputs, build, resnet_imagenet

__all__ = ["resnet20_shapes", "resnet50_shapes"]


def resnet20_shapes() -> list[Shape]:
    """List the shapes of ResNet-20 for CIFAR-10, taken from the model itself; 0.27 million parameters."""
    model = build("resnet20", seed=0, inputs=ImageInputs(num_classes=10, image_shape=(3, 32, 32)))
    return [tuple(parameter.shape) for parameter in model.parameters()]


def resnet50_shapes() -> list[Shape]:
    """List the shapes of ResNet-50 for ImageNet, likewise; 161 tensors, 25,557,032 parameters."""
    with torch.device("meta"):
        model = resnet_imagenet(50)
    return [tuple(parameter.shape) for parameter in model.parameters()]
