"""Batches of an image folder: which images a worker trains on in a step, and the parts that are evaluated."""

from collections.abc import Iterable
from types import TracebackType
from typing import Self, final

import torch
from torch import Tensor

from localsgd._checks import require, require_at_least
from localsgd.lab.cores import usable_cores
from localsgd.lab.data.image_folder import ImageFiles, ImageFolder
from localsgd.lab.data.image_folder_ahead import DecodingAhead
from localsgd.lab.data.image_folder_decoding import Decoder, DecodingRequest
from localsgd.lab.data.sampling import Sampling
from localsgd.lab.data.seeds import derive_seed

__all__ = ["FolderEvaluationBatches", "FolderTrainingBatches", "default_num_processes"]


def default_num_processes(num_local_processes: int = 1) -> int:
    """Choose how many processes should decode for one that trains.

    Args:
        num_local_processes: Processes that train on this machine, >= 1.

    Returns:
        An equal share of the cores that this process may use, less one to train on, and at least one.

    Raises:
        ArgumentError: If ``num_local_processes`` is below 1.
    """
    require_at_least("num_local_processes", num_local_processes, 1)
    num_cores = usable_cores()
    return max(1, num_cores // num_local_processes - 1)


@final
class FolderTrainingBatches:
    """Training batches, a function of seed, step and worker, whatever process decodes them and in whichever order.

    Announce with :meth:`expect` what this process will ask for, so that it is decoded beforehand; and :meth:`close` in the
    end, or use it in a ``with`` statement.

    Args:
        folder: Where the images are.
        sampling: Which of them a worker trains on in a step.
        seed: Seed of the run.
        device: Where batches come out.
        num_processes: Processes that decode, >= 0; with 0, all is decoded here. See `default_num_processes`.

    Raises:
        ArgumentError: If ``num_processes`` is negative.
    """

    def __init__(
        self,
        folder: ImageFolder,
        sampling: Sampling,
        *,
        seed: int,
        device: torch.device,
        num_processes: int,
    ) -> None:
        self._sampling, self._seed = sampling, seed
        self._images = _Images(folder, folder.train, device=device, num_processes=num_processes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def expect(self, places: Iterable[tuple[int, int]], *, purpose: str = "augment") -> None:
        """Begin to decode the batches that will be asked for, in this order; those expected before no longer are.

        Args:
            places: Pairs of step and worker: of a whole run, say, for only as many are looked at as are decoded ahead.
            purpose: What the augmentation's randomness is for.
        """
        self._images.expect(self._request(step, worker, purpose) for step, worker in places)

    def batch(self, step: int, worker: int, *, purpose: str = "augment") -> tuple[Tensor, Tensor]:
        """Make the batch of one worker for one step.

        Args:
            step: Steps taken before.
            worker: Number of the worker.
            purpose: What the augmentation's randomness is for.

        Returns:
            Images, shape (B, 3, height, width), float32, augmented and normalised, with the channels last in memory; and
            their labels, shape (B,), int64; both on the device.

        Raises:
            ArgumentError: If ``step`` is negative or there is no such worker.
            DataError: If an image is missing or cannot be decoded, or a process that decodes has died.
        """
        return self._images.batch(self._request(step, worker, purpose))

    def close(self) -> None:
        """End the processes that decode; what is asked for afterwards is decoded here, unless it is expected anew."""
        self._images.close()

    def _request(self, step: int, worker: int, purpose: str) -> tuple[Tensor, int]:
        return self._sampling.indices(step, worker), derive_seed(self._seed, purpose, step, worker)


@final
class FolderEvaluationBatches:
    """All test images in their order, in parts of a fixed size, each decoded whenever it is asked for.

    Args:
        folder: Where the images are.
        batch_size: Images in a part, >= 1; the last one may have fewer.
        device: Where batches come out.
        num_processes: Processes that decode, >= 0; with 0, all is decoded here.

    Raises:
        ArgumentError: If a number is out of range.
    """

    def __init__(self, folder: ImageFolder, *, batch_size: int, device: torch.device, num_processes: int) -> None:
        require_at_least("batch_size", batch_size, 1)
        self._parts = torch.split(torch.arange(len(folder.test)), batch_size)
        self._images = _Images(folder, folder.test, device=device, num_processes=num_processes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def num_parts(self) -> int:
        """How many parts there are."""
        return len(self._parts)

    def expect(self, parts: Iterable[int]) -> None:
        """Begin to decode the parts that will be asked for, in this order; those expected before no longer are.

        Args:
            parts: Their numbers.
        """
        self._images.expect((self._parts[part], None) for part in parts)

    def batch(self, part: int) -> tuple[Tensor, Tensor]:
        """Decode a part.

        Args:
            part: Its number, in [0, ``num_parts``).

        Returns:
            Images, shape (B, 3, height, width), float32, normalised, not augmented, with the channels last in memory; and
            their labels, shape (B,), int64; both on the device.

        Raises:
            ArgumentError: If there is no such part.
            DataError: If an image is missing or cannot be decoded, or a process that decodes has died.
        """
        require(0 <= part < len(self._parts), f"part={part} must be in [0, {len(self._parts)}).")
        return self._images.batch((self._parts[part], None))

    def close(self) -> None:
        """End the processes that decode; what is asked for afterwards is decoded here, unless it is expected anew."""
        self._images.close()


@final
class _Images:
    """Pixels of one split, normalised on the device: there it costs least, and bytes are a quarter of the way."""

    def __init__(self, folder: ImageFolder, files: ImageFiles, *, device: torch.device, num_processes: int) -> None:
        self._files, self._device = files, device
        decoder = Decoder(image_size=folder.image_size, short_side=folder.short_side)
        self._ahead = DecodingAhead(decoder, num_processes=num_processes, pins_memory=device.type == "cuda")
        # For a whole line of pixels: red, green and blue, again and again, so that the innermost loop is long.
        spread = torch.tensor(folder.std, dtype=torch.float64).repeat(folder.image_size)
        centre = torch.tensor(folder.mean, dtype=torch.float64).repeat(folder.image_size)
        self._gain = (1 / (spread * 255)).to(device, torch.float32)
        self._shift = (-centre / spread).to(device, torch.float32)

    def expect(self, requests: Iterable[tuple[Tensor, int | None]]) -> None:
        self._ahead.announce(self._decoding(indices, seed) for indices, seed in requests)

    def batch(self, request: tuple[Tensor, int | None]) -> tuple[Tensor, Tensor]:
        indices, seed = request
        pixels = self._ahead.take(self._decoding(indices, seed)).to(self._device, non_blocking=True)
        values = pixels.flatten(2).to(torch.float32).mul_(self._gain).add_(self._shift)
        labels = self._files.labels[indices].to(self._device, non_blocking=True)
        return values.view(pixels.shape).permute(0, 3, 1, 2), labels

    def close(self) -> None:
        self._ahead.close()

    def _decoding(self, indices: Tensor, seed: int | None) -> DecodingRequest:
        return DecodingRequest(paths=self._files.paths(indices), seed=seed)
