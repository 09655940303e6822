"""Does the input slow training down?

Sets in memory: a whole training step, B=32, one thread, on a new augmented batch each time, beside the same step on one
batch that is made once and kept. By default of ResNet-20 behind 2 x 2 patches, the quickest network for such images here;
--model resnet20 is the paper's, with four times the work. Once in float32 and once as fast as it goes, in bfloat16 with
channels last. The batches are those that the lab trains on, from stand-ins of the shapes and sizes of the real sets: what
the pixels show does not change the time. The floor is the kept batch; it takes part twice, which shows how far two equal
contestants lie apart here.

Image folder: JPEG files of 500 x 375, written for the occasion and in the page cache, are decoded and augmented to
224 x 224 by n processes and served to this one as normalised floating batches. The clock runs while the pipeline is
full at the beginning and at the end. Beside it n bare loops in n processes at once, that only decode; they are the floor,
for n processes share caches and clock speed whoever feeds them. One bare loop on an otherwise idle machine is shown as well.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType

import torch
from _command import make_parser, parse
from _report import Report, ratio_text, seconds_text
from _timing import interleave, ratios, spread
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from localsgd.lab import recipe
from localsgd.lab.batches import TrainingBatches
from localsgd.lab.cores import usable_cores
from localsgd.lab.data import Augmentation, DataSet, SampleStream, Split
from localsgd.lab.data.image_folder import ImageFolder
from localsgd.lab.data.image_folder_batches import FolderTrainingBatches
from localsgd.lab.data.image_folder_decoding import Decoder, DecodingRequest
from localsgd.lab.data.image_folder_scan import scan_image_folder
from localsgd.lab.models import ImageInputs, build

SLOWDOWN_LIMIT = 1.02
SATURATION_LIMIT = 0.90
NEW, KEPT, AGAIN = "a new batch", "a kept batch", "a kept batch, again"
NUM_AHEAD = 2  # of FolderTrainingBatches
WIDTH, HEIGHT, QUALITY = 500, 375, 90


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Shape and size of a set that is held in memory."""

    image_shape: tuple[int, int, int]
    """Channels, height and width."""
    num_train: int
    """Training images."""
    num_classes: int
    """Classes."""


SETS: Mapping[str, Kind] = MappingProxyType(
    {
        "cifar10": Kind(image_shape=(3, 32, 32), num_train=50_000, num_classes=10),
        "cifar100": Kind(image_shape=(3, 32, 32), num_train=50_000, num_classes=100),
        "fashion-mnist": Kind(image_shape=(1, 28, 28), num_train=60_000, num_classes=10),
    }
)


MODELS_IN_MEMORY = ("resnet20-patch", "resnet20")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured."""

    batch_size: int
    """Samples in a batch from memory."""
    most_train: int
    """Training images in memory at most."""
    num_steps: int
    """Training steps in a block."""
    num_repeats: int
    """Blocks of each contestant."""
    num_images: int
    """JPEG files."""
    decoding_batch_size: int
    """Images in a decoded batch."""
    num_decoded: int
    """Batches that each process decodes while the clock runs."""
    num_decoding_repeats: int
    """Times that this is measured."""
    seed: int = 0
    """Seed of weights, data and augmentation."""
    model: str = "resnet20-patch"
    """What trains on the sets in memory."""


FULL = Scale(
    batch_size=32,
    most_train=60_000,
    num_steps=4,
    num_repeats=60,
    num_images=128,
    decoding_batch_size=32,
    num_decoded=8,
    num_decoding_repeats=9,
)
SMOKE = Scale(
    batch_size=8,
    most_train=100,
    num_steps=1,
    num_repeats=2,
    num_images=4,
    decoding_batch_size=2,
    num_decoded=2,
    num_decoding_repeats=2,
)


def training_blocks(kind: Kind, scale: Scale, *, low_precision: bool) -> dict[str, Callable[[], None]]:
    """Make the contestants: blocks of training steps, on new batches or on one."""
    memory_format = torch.channels_last if low_precision else torch.contiguous_format
    inputs = ImageInputs(num_classes=kind.num_classes, image_shape=kind.image_shape)
    model = build(scale.model, seed=scale.seed, inputs=inputs).to(memory_format=memory_format)  # type: ignore[call-overload]  # the stub lacks it
    optimizer = SGD(model.parameters(), lr=1e-4, momentum=0.9, nesterov=True, fused=True)
    batches = TrainingBatches(
        recipe("cifar10-resnet20").overridden([f"batch_size={scale.batch_size}", f"seed={scale.seed}"]),
        _stand_in(kind, scale),
    )
    kept = batches.batch(0, 0)
    steps = iter(range(1 << 40))

    def train(images: Tensor, labels: Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=low_precision):
            logits = model(images.contiguous(memory_format=memory_format))
        cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]  # torch has no annotation for it
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def on_new_batches() -> None:
        for _ in range(scale.num_steps):
            train(*batches.batch(next(steps), 3))

    def on_kept_batch() -> None:
        for _ in range(scale.num_steps):
            train(*kept)

    return {NEW: on_new_batches, KEPT: on_kept_batch, AGAIN: on_kept_batch}


def report_memory_sets(report: Report, scale: Scale) -> None:
    """Measure and show what batches from memory cost beside the training step."""
    report.add_heading("Sets in memory")
    rows, goals = [], []
    for name, kind in SETS.items():
        for arithmetic, low_precision in (("float32", False), ("bfloat16", True)):
            blocks = training_blocks(kind, scale, low_precision=low_precision)
            seconds = interleave(blocks, num_warmups=3, num_repeats=scale.num_repeats, seed=scale.seed)
            ratio, control = (ratios(seconds[contestant], seconds[KEPT]) for contestant in (NEW, AGAIN))
            rows.append(
                [
                    f"{name}, {arithmetic}",
                    seconds_text(spread(seconds[KEPT]).median / scale.num_steps),
                    seconds_text(spread(seconds[NEW]).median / scale.num_steps),
                    f"{ratio.median:.4f}",
                    ratio_text(*ratio.median_interval, digits=4),
                    f"{control.median:.4f}",
                    str(ratio.num_repeats),
                ]
            )
            goals.append((f"a step of {name} in {arithmetic} on new batches over one on a kept batch", ratio))
    header = ["set", "kept (floor)", "new", "ratio", "95% of median", "kept again", "blocks"]
    report.add_table(header, rows)
    for what, ratio in goals:
        limit, met = f"at most {SLOWDOWN_LIMIT}", ratio.median <= SLOWDOWN_LIMIT
        report.add_goal(what, f"{ratio.median:.4f}", limit=limit, met=met)
        question = f"time of {what.removesuffix(' over one on a kept batch')}"
        report.add_headline(question, "new batches", "a kept batch", ratio=ratio, goal=limit, met=met)


def decode_in_a_loop(requests: list[DecodingRequest]) -> float:
    """Decode, and do nothing with it; belongs into a process of its own.

    Returns:
        When it was through, on the clock that all processes share.
    """
    torch.set_num_threads(1)
    decoder = Decoder(image_size=224, short_side=256)
    for request in requests:
        decoder.decode(request)
    return time.monotonic()


def measure_decoding(folder: ImageFolder, scale: Scale, num_processes: int) -> dict[str, list[float]]:
    """Decode in bare loops, at once and alone, and through the pipeline, by turns.

    Returns:
        Images a second, one number a repetition.
    """
    num_batches = num_processes * scale.num_decoded
    size = scale.decoding_batch_size
    sampling = SampleStream(len(folder.train), num_workers=1, batch_size=size, seed=scale.seed)
    share = [_request(folder, sampling, step) for step in range(scale.num_decoded)]
    rates: dict[str, list[float]] = {"alone": [], "at once": [], "served": []}
    device = torch.device("cpu")
    batches = FolderTrainingBatches(folder, sampling, seed=scale.seed, device=device, num_processes=num_processes)
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as pool, batches:
        for repeat in range(scale.num_decoding_repeats + 1):
            found = {
                "at once": num_batches * size / _time_loops(pool, share, num_processes),
                "alone": scale.num_decoded * size / _time_loops(pool, share, 1),
                "served": num_batches * size / _time_served(batches, num_batches, num_processes),
            }
            if repeat:  # the first one starts the processes
                for name, rate in found.items():
                    rates[name].append(rate)
    return rates


def report_image_folder(report: Report, scale: Scale, numbers: tuple[int, ...]) -> None:
    """Measure and show how many images are decoded a second."""
    report.add_heading("Image folder")
    rows, goals = [], []
    with tempfile.TemporaryDirectory(prefix="localsgd-benchmark-") as path:
        folder = _write_images(Path(path), scale)
        for num_processes in numbers:
            rates = measure_decoding(folder, scale, num_processes)
            ratio = ratios(rates["served"], rates["at once"])
            alone = ratios(rates["served"], [num_processes * rate for rate in rates["alone"]])
            rows.append(
                [
                    str(num_processes),
                    *(f"{spread(rates[name]).median:.0f}" for name in ("alone", "at once", "served")),
                    f"{ratio.median:.3f}",
                    ratio_text(*ratio.median_interval),
                    f"{alone.median:.3f}",
                    str(ratio.num_repeats),
                ]
            )
            goals.append((num_processes, ratio.median))
    header = [
        "n",
        "one loop/s",
        "n loops/s (floor)",
        "served/s",
        "ratio",
        "95% of median",
        "over n x one loop",
        "rounds",
    ]
    report.add_table(header, rows)
    for num_processes, value in goals:
        report.add_goal(
            f"images a second served by n={num_processes} processes over those of as many bare loops",
            f"{value:.3f}",
            limit=f"at least {SATURATION_LIMIT}",
            met=value >= SATURATION_LIMIT,
        )


def main() -> None:
    parser = make_parser(__doc__ or "")
    parser.add_argument("--processes", type=int, nargs="+", metavar="N", help="that decode; default: 1, and all cores")
    parser.add_argument("--model", choices=MODELS_IN_MEMORY, default=MODELS_IN_MEMORY[0], help="for the sets in memory")
    options = parse(parser)
    torch.set_num_threads(1)
    scale = SMOKE if options.smoke else FULL
    scale = replace(
        scale,
        num_repeats=options.repeats or scale.num_repeats,
        num_decoding_repeats=options.repeats or scale.num_decoding_repeats,
        seed=options.seed,
        model=options.model,
    )
    num_cores = usable_cores()
    numbers = tuple(sorted(set(options.processes or ([1] if options.smoke else [1, num_cores]))))
    if numbers[0] < 1:
        parser.error(f"--processes {' '.join(map(str, numbers))} must be >= 1.")
    report = Report(__doc__ or "", seed=options.seed, smoke=options.smoke)
    report_memory_sets(report, scale)
    report_image_folder(report, scale, numbers)
    report.write(options.out)


def _stand_in(kind: Kind, scale: Scale) -> DataSet:
    generator = torch.Generator().manual_seed(scale.seed)
    num = min(kind.num_train, scale.most_train)
    images = torch.randint(256, (num, *kind.image_shape), dtype=torch.uint8, generator=generator)
    split = Split(images=images, labels=torch.randint(kind.num_classes, (num,), generator=generator))
    return DataSet(
        name="a stand-in",
        train=split,
        test=split,
        num_classes=kind.num_classes,
        mean=(0.5,) * kind.image_shape[0],
        std=(0.25,) * kind.image_shape[0],
        augmentation=Augmentation(padding=4, flip=True),
    )


def _write_images(folder: Path, scale: Scale) -> ImageFolder:
    """Write pictures with some detail, of 75 kB or so; ImageNet's take 110 kB on average."""
    generator = torch.Generator().manual_seed(scale.seed)
    for part in ("train", "val"):
        (folder / part / "n0").mkdir(parents=True)
        for number in range(scale.num_images if part == "train" else 1):
            coarse, fine = (
                torch.randint(256, (HEIGHT // cell, WIDTH // cell, 3), dtype=torch.uint8, generator=generator).numpy()
                for cell in (25, 3)
            )
            large, small = (
                Image.fromarray(cells).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC) for cells in (coarse, fine)
            )
            Image.blend(large, small, 0.4).save(folder / part / "n0" / f"{number}.JPEG", quality=QUALITY)
    return scan_image_folder(folder, name="made for the occasion")


def _request(folder: ImageFolder, sampling: SampleStream, step: int) -> DecodingRequest:
    return DecodingRequest(paths=folder.train.paths(sampling.indices(step, 0)), seed=step)


def _time_loops(pool: ProcessPoolExecutor, share: list[DecodingRequest], num_loops: int) -> float:
    start = time.monotonic()
    ends = [loop.result() for loop in [pool.submit(decode_in_a_loop, share) for _ in range(num_loops)]]
    return sum(ends) / len(ends) - start


def _time_served(batches: FolderTrainingBatches, num_batches: int, num_processes: int) -> float:
    num_before = (NUM_AHEAD + 1) * num_processes
    batches.expect((step, 0) for step in range(1 << 40))
    for step in range(num_before):
        batches.batch(step, 0)
    start = time.monotonic()
    for step in range(num_before, num_before + num_batches):
        batches.batch(step, 0)
    seconds = time.monotonic() - start
    batches.expect(())  # returns when what was begun is done, so that the next contestant has the machine for itself
    return seconds


if __name__ == "__main__":
    main()
