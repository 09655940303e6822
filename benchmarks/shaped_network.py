"""What do longer rounds save on a network that really is slow?

Two hosts, made of network namespaces of this machine's kernel and joined by a veth pair each and a bridge, hold what
they send to each other to 100 Mbit/s or 1 Gbit/s (`tc tbf`); inside a host nothing is slowed down. Processes of one thread,
one or two a host, train ResNet-20 behind 2 x 2 patches on images of CIFAR-10, B = 32, joined by Gloo; all contestants have
the arithmetic, optimizer and allocator that `localsgd train` gives such a model here. They train blocks of steps in turn,
whole rounds, each after a barrier, in an order drawn anew every repetition; a block takes as long as in its slowest process,
and ratios are formed within each repetition. DDP is held against without the broadcast of BatchNorm's statistics in each
forward pass, the least that it can do; in one network it runs a second time under another name: how far that ratio is from 1
says what the others are worth. Compute only are the same steps, and nobody says a word. An epoch is extrapolated from the
median step to 50,000 images. Predicted is compute + T / H, with T of one raw `all_reduce` of as many bytes, measured in the
same repetitions after a pause. Of the wait, which is what a blocking H = 8 adds to compute only, overlap hides
(blocking - overlapped) / (blocking - compute), compressed or not. Context switches and interrupts are the whole machine's,
by the kernel's count: it shapes frame by frame, on the cores that train, and no overlap can hide what that costs; one
network has larger frames, and only the contestants that show the difference. What crosses between the hosts is counted by
the kernel at the first host's veth, Ethernet's headers included (segments that the interface would cut count as one); what a
worker says that it sent contains what stays inside its host. Before it is timed, every contestant has to end with equal
parameters everywhere, and H = 1 with DDP's.

Needs Linux, root, and iproute2; is skipped with the reason otherwise. Nothing is made outside the namespaces, which have no
names and end with the processes.
"""

import argparse
import functools
import hashlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from _command import make_parser, parse
from _namespaces import Host, can_build, require_frame_bytes, sent_bytes, shaped_hosts
from _processes import run_in_processes
from _report import Report
from _timing import interleave
from _wire_contestants import ALONE, BESIDE, DDP, Task, Trainee, summing_ways, training_ways
from _wire_network import DEFAULT_NETWORKS, SMOKE_NETWORKS, Network, choose_networks
from _wire_tables import RAW, Found, Hiding, draw_training, present_hiding, present_sums, present_training
from torch import Tensor

from localsgd.lab.config import RunConfig
from localsgd.lab.cores import usable_cores
from localsgd.lab.data import DATA_SETS, DataSet, Split, load, training_images
from localsgd.lab.engine.allocator import keep_freed_memory
from localsgd.lab.forward import Forward
from localsgd.lab.models import ImageInputs, build
from localsgd.lab.precision import choose_arithmetic, describe_arithmetic, find_ability
from localsgd.lab.recipes import recipe

NUM_WARMUPS = 1
PAUSE_SECONDS = 0.03
TIMEOUT_SECONDS = 1800
SAME_WAY = 0.1  # in float32 rounding alone grows to 0.02 in 8 steps of ResNet-20; who averages nothing is about 1 away


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured, in one network."""

    recipe: str
    """Name of the recipe whose model and optimizer are taken."""
    image_shape: tuple[int, int, int]
    """Channels, height and width."""
    batch_size: int
    """Samples in the batch of one process."""
    num_steps: int
    """Steps in a block of a contestant that does not sync at each step: whole rounds of all of them."""
    num_quick_steps: int
    """Steps in a block of one that syncs at each step."""
    num_raw_calls: int
    """Raw collectives in a block."""
    num_repeats: int
    """Blocks of each contestant."""
    large_vector: int
    """Values of the vector that is summed beside one of the model's size."""
    num_sum_repeats: int
    """Times that this is done with the one of the model's size."""
    num_large_repeats: int
    """Times that this is done with the large one."""
    network: Network = DEFAULT_NETWORKS[0]
    """Where."""
    seed: int = 0
    """Seed of weights, data, and order of contestants."""


FULL = Scale(
    recipe="cifar10-resnet20-patch",
    image_shape=(3, 32, 32),
    batch_size=32,
    num_steps=32,
    num_quick_steps=6,
    num_raw_calls=4,
    num_repeats=9,
    large_vector=4 << 20,
    num_sum_repeats=9,
    num_large_repeats=5,
)
SMOKE = Scale(
    recipe="digits-cnn",
    image_shape=(1, 8, 8),
    batch_size=4,
    num_steps=32,
    num_quick_steps=2,
    num_raw_calls=1,
    num_repeats=1,
    large_vector=1 << 16,
    num_sum_repeats=1,
    num_large_repeats=1,
)
NUM_BATCHES = 8


def images(scale: Scale, data_root: Path | None) -> tuple[Tensor, Tensor, str]:
    """Make a few batches for each process: augmented images of CIFAR-10, or random ones of their shape."""
    shape = (scale.network.num_processes, NUM_BATCHES, scale.batch_size)
    count, generator = shape[0] * shape[1] * shape[2], torch.Generator().manual_seed(scale.seed)
    folder = DATA_SETS["cifar10"].folder
    loaded = None
    if scale.image_shape == (3, 32, 32) and data_root is not None and folder and (data_root / folder).is_dir():
        loaded = load("cifar10", data_root, train_limit=count)
    if isinstance(loaded, DataSet):
        pixels = training_images(loaded).batch(torch.arange(count), generator)
        labels, source = loaded.train.labels, "images of CIFAR-10, cropped and mirrored at random"
    else:
        split = Split(
            images=torch.rand(count, *scale.image_shape, generator=generator),
            labels=torch.randint(10, (count,), generator=generator),
        )
        pixels, labels, source = split.images - 0.5, split.labels, "random images (name CIFAR-10 by --data-root)"
    return pixels.view(*shape, *scale.image_shape), labels.view(shape), source


def arithmetic(scale: Scale) -> RunConfig:
    """Settle the recipe's arithmetic as `localsgd train` would on this machine."""
    return choose_arithmetic(recipe(scale.recipe), [find_ability(torch.device("cpu"))])


def measure(scale: Scale, pixels: Tensor, labels: Tensor) -> dict[str, Any]:
    """Count, verify and time all contestants; every process calls this."""
    keep_freed_memory()
    config, rank = arithmetic(scale), dist.get_rank()
    batches = list(zip(pixels[rank].clone(), labels[rank].clone(), strict=True))
    task = Task(config=config, forward=Forward(config, torch.device("cpu")), batches=batches)
    ways = training_ways(scale.network)
    inputs = ImageInputs(num_classes=10, image_shape=scale.image_shape)
    trainees = {
        name: way.make(task.forward.place(build(config.model.name, seed=scale.seed, inputs=inputs)), task)
        for name, way in ways.items()
    }
    lengths = {name: scale.num_quick_steps if way.period == 1 else scale.num_steps for name, way in ways.items()}
    start, counted = trainees[ALONE].parameters(), {}
    for name, trainee in trainees.items():
        trainee.train(ways[name].num_lead_steps)
        counted[name] = _counted(functools.partial(trainee.train, lengths[name]), trainee.wire_bytes)
        trainee.finish()
        _verify(name, trainee, trainees[DDP], start=start)
    for name, trainee in trainees.items():  # back to where nothing is under way
        trainee.train(-trainee.num_steps % (ways[name].period or 1) + ways[name].num_lead_steps)
    model = trainees[ALONE].model
    num_values = sum(t.numel() for t in [*model.parameters(), *model.buffers()] if t.is_floating_point())
    raw_seconds: list[float] = []
    activity: dict[str, list[list[float]]] = {name: [] for name in ways}
    blocks: dict[str, Callable[[], None]] = {
        name: functools.partial(_watched, trainee.train, lengths[name], activity[name])
        for name, trainee in trainees.items()
    }
    raw = functools.partial(dist.all_reduce, torch.zeros(num_values))
    blocks[RAW] = functools.partial(_rested, raw, scale.num_raw_calls, raw_seconds)
    seconds = interleave(
        blocks, num_warmups=NUM_WARMUPS, num_repeats=scale.num_repeats, seed=scale.seed, before=dist.barrier
    )
    del seconds[RAW]
    sizes = {num_values: scale.num_sum_repeats, scale.large_vector: scale.num_large_repeats}
    return {
        "seconds": {name: [s / lengths[name] for s in found] for name, found in seconds.items()},
        "activity": {name: found[NUM_WARMUPS:] for name, found in activity.items()},
        "counted": {name: _per(lengths[name], found) for name, found in counted.items()},
        "raw": raw_seconds[NUM_WARMUPS * scale.num_raw_calls :],
        "sums": {4 * size: _measure_sums(scale, size, num_repeats) for size, num_repeats in sizes.items()}
        if scale.network.is_plain
        else {},
    }


def _measure_sums(scale: Scale, num_values: int, num_repeats: int) -> dict[str, Any]:
    """Count and time one sync of a vector."""
    ways = summing_ways(scale.network, num_values)
    for way in ways.values():
        way.sync()
    counted = {name: _counted(way.sync, way.wire_bytes) for name, way in ways.items()}
    own_seconds: dict[str, list[float]] = {name: [] for name in ways}
    blocks = {name: functools.partial(_rested, way.sync, 1, own_seconds[name]) for name, way in ways.items()}
    interleave(blocks, num_warmups=NUM_WARMUPS, num_repeats=num_repeats, seed=scale.seed, before=dist.barrier)
    return {"seconds": {name: found[NUM_WARMUPS:] for name, found in own_seconds.items()}, "counted": counted}


def _watched(train: Callable[[int], None], num_steps: int, activity: list[list[float]]) -> None:
    """Train, and note the machine's context switches and interrupts a step; one process's account is enough."""
    if dist.get_rank() != 0:
        train(num_steps)
        return
    before = _kernel_counts()
    train(num_steps)
    activity.append([(now - then) / num_steps for now, then in zip(_kernel_counts(), before, strict=True)])


def _kernel_counts() -> tuple[int, int]:
    """Read the machine's context switches and interrupts since it started."""
    lines = (line.split(maxsplit=2) for line in Path("/proc/stat").read_text().splitlines())
    counts = {words[0]: words[1] for words in lines}
    return int(counts["ctxt"]), int(counts["intr"])


def _rested(work: Callable[[], object], num_calls: int, seconds: list[float]) -> None:
    """Time calls that come after a pause, as a sync comes after steps: the network has its burst to spend again."""
    for _ in range(num_calls):
        dist.barrier()
        time.sleep(PAUSE_SECONDS)
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)


def _counted(work: Callable[[], object], wire_bytes: Callable[[], int | None]) -> list[int | None]:
    """Count what this host sends during some work of all processes, and what this worker says that it sent."""
    dist.barrier()
    host_before, own_before = sent_bytes(), wire_bytes()
    dist.barrier()  # nobody begins before everybody has looked
    work()
    dist.barrier()
    own = wire_bytes()
    return [sent_bytes() - host_before, None if own is None or own_before is None else own - own_before]


def _per(num_steps: int, counted: Sequence[int | None]) -> list[float | None]:
    return [None if count is None else count / num_steps for count in counted]


def _verify(name: str, trainee: Trainee, reference: Trainee, *, start: Tensor) -> None:
    """Insist on equal parameters everywhere, and on those of mini-batch training where each step syncs."""
    own = trainee.parameters()
    digests: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(digests, hashlib.sha256(own.numpy().tobytes()).hexdigest())
    if name not in (ALONE, BESIDE) and len({*digests}) > 1:
        raise RuntimeError(f"{name} left different parameters on different processes.")
    if not own.isfinite().all():
        raise RuntimeError(f"{name} does not train: there are parameters that are not finite.")
    if trainee.num_steps == reference.num_steps:
        expected = reference.parameters()
        apart = float((own - expected).norm() / (expected - start).norm())
        if apart > SAME_WAY:
            raise RuntimeError(f"{name} went elsewhere than {DDP}: {apart:.3f} of the way lie between them.")


def enter(hosts: Sequence[Host], workers: int, rank: int) -> None:
    """Move a process onto its host."""
    hosts[rank // workers].enter()


def run(scale: Scale, data_root: Path | None) -> tuple[list[Found], str]:
    """Build the network and measure on it."""
    pixels, labels, source = images(scale, data_root)
    network = scale.network
    rate, frame_bytes = network.megabits * 1e6, network.frame_bytes
    with shaped_hosts(network.hosts, bits_per_second=rate, frame_bytes=frame_bytes) as hosts:
        found = run_in_processes(
            measure,
            network.num_processes,
            scale,
            pixels,
            labels,
            timeout_seconds=TIMEOUT_SECONDS,
            enter=functools.partial(enter, hosts, network.workers),
        )
    return found, source


def describe(scale: Scale, source: str) -> str:
    """Say what was measured."""
    num_processes, num_cores, config = scale.network.num_processes, usable_cores(), arithmetic(scale)
    shared = (
        f" They share {num_cores} cores, which stretches the computation of all alike."
        if num_cores < num_processes
        else ""
    )
    control = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    return (
        f"{num_processes} processes train {config.model.name} on {source}, B = {scale.batch_size}.{shared} They compute as "
        f"`localsgd train` chooses here: {describe_arithmetic(config) or 'float32'}; parameters, and what is sent of them "
        f"uncompressed, are float32. Blocks of {scale.num_steps} steps ({scale.num_quick_steps} where each step syncs), "
        f"{scale.num_repeats} repetitions; TCP with {control}, frames of {scale.network.frame_bytes:,} bytes."
    )


def main() -> None:
    options = parse(_parser())
    obstacle = can_build()
    if obstacle is not None:
        print(f"skipped: {obstacle}")
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # as tidy as Ctrl-C
    data_root = options.data_root or (Path(os.environ["LOCALSGD_DATA"]) if "LOCALSGD_DATA" in os.environ else None)
    report = Report(__doc__ or "", seed=options.seed, smoke=options.smoke)
    base = replace(SMOKE if options.smoke else FULL, seed=options.seed)
    if options.repeats:
        repeats = dict.fromkeys(("num_repeats", "num_sum_repeats", "num_large_repeats"), options.repeats)
        base = replace(base, **repeats)
    networks = choose_networks(
        options.rates,
        options.workers,
        options.frames,
        default=SMOKE_NETWORKS if options.smoke else DEFAULT_NETWORKS,
    )
    hiding: list[Hiding] = []
    for network in networks:
        scale = replace(base, network=network)
        found, source = run(scale, data_root)
        report.add_heading(network.title)
        report.add_text(describe(scale, source))
        num_samples = network.num_processes * scale.batch_size
        hiding += present_training(report, found, network=network, num_samples=num_samples)
        if options.out is not None:
            draw_training(report, found, network, page=options.out)
        present_sums(report, found, network)
    present_hiding(report, hiding)
    report.write(options.out)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__ or "")
    for name, kind, meta, text in (
        ("workers", _at_least_one, "N", "processes a host; default: 2 1"),
        ("rates", _rate, "MBIT", "Mbit/s between hosts; default: 100 1000"),
        ("frames", _frame, "BYTES", "what a frame carries (MTU); default: 1500, and 9000 in one network"),
    ):
        parser.add_argument(f"--{name}", type=kind, nargs="+", metavar=meta, help=text)
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="default: the environment variable LOCALSGD_DATA")
    return parser


def _at_least_one(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text} must be a whole number >= 1.")
    return int(text)


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} must be a number of Mbit/s > 0.")
    return value


def _frame(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} must be a whole number of bytes.")
    value = int(text)
    try:
        require_frame_bytes(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return value


if __name__ == "__main__":
    main()
