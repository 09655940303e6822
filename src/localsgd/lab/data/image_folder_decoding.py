"""Turns image files into pixels: decoded, cropped at random or in the middle, mirrored or not."""

import math
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from localsgd.errors import DataError

__all__ = ["Decoder", "DecodingRequest", "Undecodable", "centre_box", "random_crop", "read_image"]

_SMALLEST_AREA = 0.08
_ASPECTS = (3 / 4, 4 / 3)
_NUM_TRIES = 10
_NUM_DRAWS = 2 * _NUM_TRIES + 3
"""For each image: an area and an aspect a try, then a row, a column and a side."""

_FORMATS = ("JPEG", "PNG")
"""What is in ImageNet's files; one of the second kind is named like the others."""

_CORRUPT = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    TypeError,
    struct.error,
    Image.DecompressionBombError,
)
"""What Pillow raises on files that are damaged, depending on where."""


@dataclass(frozen=True, kw_only=True)
class DecodingRequest:
    """A batch that is wanted: small, and all that another process needs to make it."""

    paths: tuple[str, ...]
    """The image files, in the batch's order."""

    seed: int | None
    """What all crops and mirror images come from; ``None`` shows the images as they are evaluated."""


@dataclass(frozen=True, kw_only=True)
class Undecodable:
    """What comes in place of a batch that failed; plain text crosses processes better than exceptions."""

    message: str
    """What `DataError` should say."""


@final
class Decoder:
    """Makes batches of pixels from image files; a dataset of torch's whose items are requests.

    Args:
        image_size: Height and width of what comes out.
        short_side: What the shorter side of a test image is resized to before its middle is cut out.

    Source:
        Training: a crop of 8% to 100% of the area and of an aspect from 3/4 to 4/3, resized, mirrored half of the time
        (Szegedy et al. 2015, arXiv:1409.4842); test: shorter side 256, middle 224. So the authors of Lin et al. 2020 do in
        their published code (ChocoSGD), with torchvision's transforms and neither colour nor lighting noise. Note that
        He et al. 2016, whom the paper cites, crop from images resized to a side of 256 to 480, and change colours.
    """

    def __init__(self, *, image_size: int, short_side: int) -> None:
        self._image_size = image_size
        self._short_side = short_side

    def __getitem__(self, request: DecodingRequest) -> Tensor | Undecodable:
        """Decode a batch wherever this is called.

        Args:
            request: Which images, and how.

        Returns:
            As `decode` does, in shared memory; or, if that fails, why.
        """
        try:
            pixels = self.decode(request)
        except DataError as error:
            return Undecodable(message=str(error))
        # Here, not in the thread that sends it: torch copies without the interpreter's lock, and a thread that wants the
        # lock back while its process ends is unwound by force, which torch answers with std::terminate.
        try:
            pixels.share_memory_()  # type: ignore[no-untyped-call]  # torch has no annotation for it
        except RuntimeError as error:
            return Undecodable(
                message=f"a decoded batch found no room in shared memory ({error}); give more of it (on Linux /dev/shm), or"
                " use fewer processes or smaller batches."
            )
        return pixels

    def decode(self, request: DecodingRequest) -> Tensor:
        """Decode a batch.

        Args:
            request: Which images, and how. What is random about an image is a function of the request's seed and of the
                image's place in the batch.

        Returns:
            Shape (B, height, width, 3), uint8, red, green and blue.

        Raises:
            DataError: If a file is missing or cannot be decoded.
        """
        size = self._image_size
        pixels = np.empty((len(request.paths), size, size, 3), dtype=np.uint8)
        draws = _draw(request)
        for place, path in enumerate(request.paths):
            with read_image(path) as image:
                if draws is None:
                    box = centre_box(image.width, image.height, image_size=size, short_side=self._short_side)
                    pixels[place] = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))
                    continue
                crop = image.crop(random_crop(image.width, image.height, draws=draws[place]))
                shown = np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR))
                pixels[place] = shown[:, ::-1] if draws[place][-1] < 0.5 else shown
        return torch.from_numpy(pixels)


def read_image(path: str | Path) -> Image.Image:
    """Read a JPEG or PNG file, whatever its name and its colours.

    Args:
        path: The file.

    Returns:
        The image in red, green and blue, 8 bits each. Rotations noted in the file are ignored and transparency is dropped.

    Raises:
        DataError: If the file is missing, is no image, or is damaged.
    """
    try:
        # Pillow warns of notes of the camera that it cannot read; the pixels are sound.
        with (
            warnings.catch_warnings(action="ignore", category=UserWarning),
            Image.open(path, formats=_FORMATS) as image,
        ):
            return image.convert("RGBA").convert("RGB") if image.mode == "P" else image.convert("RGB")
    except FileNotFoundError:
        raise DataError(f"{path} is missing, and was there when its folder was looked through; start anew.") from None
    except _CORRUPT as error:
        raise DataError(f"{path} {_describe(error)}; put a sound copy in its place, or remove it.") from error


def random_crop(width: int, height: int, *, draws: Sequence[float]) -> tuple[int, int, int, int]:
    """Choose a part of an image to train on.

    Args:
        width: Of the image, >= 1.
        height: Of the image, >= 1.
        draws: Numbers in [0, 1): ten for areas, ten for aspects, one for the row, one for the column.

    Returns:
        Left, top, right and bottom, inside of the image.

    Source:
        torchvision's RandomResizedCrop: the first of ten tries that fits into the image; if none does, as in a very long
        image, the largest part in its middle whose aspect is in the range.
    """
    low, high = _ASPECTS
    for area, aspect in zip(draws[:_NUM_TRIES], draws[_NUM_TRIES : 2 * _NUM_TRIES], strict=True):
        wanted_area = width * height * (_SMALLEST_AREA + (1 - _SMALLEST_AREA) * area)
        wanted_aspect = math.exp(math.log(low) + (math.log(high) - math.log(low)) * aspect)
        wide, tall = round(math.sqrt(wanted_area * wanted_aspect)), round(math.sqrt(wanted_area / wanted_aspect))
        if 0 < wide <= width and 0 < tall <= height:
            top = int(draws[2 * _NUM_TRIES] * (height - tall + 1))
            left = int(draws[2 * _NUM_TRIES + 1] * (width - wide + 1))
            return left, top, left + wide, top + tall
    wide, tall = width, height
    if width / height < low:
        tall = round(width / low)
    elif width / height > high:
        wide = round(height * high)
    top, left = (height - tall) // 2, (width - wide) // 2
    return left, top, left + wide, top + tall


def centre_box(width: int, height: int, *, image_size: int, short_side: int) -> tuple[float, float, float, float]:
    """Find the part of an image that is left when it is resized and its middle is cut out.

    To resize this part alone gives the same pixels, for Pillow looks beyond its edges where the filter does, and is spared
    what would be cut away.

    Args:
        width: Of the image, >= 1.
        height: Of the image, >= 1.
        image_size: Side of the middle that is cut out.
        short_side: What the shorter side is resized to.

    Returns:
        Left, top, right and bottom in the image as it was.
    """
    shorter = min(width, height)
    edges: list[tuple[float, float]] = []
    for length in (width, height):
        resized = short_side if length == shorter else int(short_side * length / shorter)
        first = round((resized - image_size) / 2)
        edges.append((first * length / resized, min(length, (first + image_size) * length / resized)))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def _describe(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "is neither a JPEG nor a PNG image"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})"
    return f"cannot be decoded ({error})"


def _draw(request: DecodingRequest) -> list[list[float]] | None:
    """Draw as many numbers for every image, whatever its size: so one image's never depend on another's."""
    if request.seed is None:
        return None
    source = torch.Generator().manual_seed(request.seed)
    draws: list[list[float]] = torch.rand(
        len(request.paths), _NUM_DRAWS, generator=source, dtype=torch.float64
    ).tolist()
    return draws
