"""What does H = 1 cost beside DDP?

Two processes on this machine, one thread each, joined by Gloo over the loopback, train the same model with a batch each:
forward, backward, SGD with Nesterov momentum, `zero_grad`. DDP averages gradients while backward still runs; so does a
round of one step of `LocalSGD`, and `overlap_gradients=False` averages them after it. DDP runs twice: as it comes, and
without the broadcast of BatchNorm's statistics in each forward pass, which is the least it can do; the second is what the
goal is held against, although the others average these statistics on the way. Compute only is the floor: the same steps,
and nobody says a word. Contestants train blocks of steps in turn, each after a barrier, in an order drawn anew every
repetition; a block takes as long as in its slowest process, and ratios are formed within each repetition. All contestants
start from the same weights and see the same batches: whoever does not end with DDP's parameters wins nothing. DDP runs a
third time, under another name: how far that ratio is from 1 says what the other ratios are worth.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
import torch.distributed as dist
from _command import make_parser, parse
from _processes import run_in_processes
from _report import Report, ratio_text, seconds_text
from _timing import interleave, ratios, spread
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from localsgd import Every, LocalSGD
from localsgd.lab.models import ImageInputs, build

RATIO_LIMIT = 1.05
NUM_WARMUPS = 2
LEARNING_RATE = 0.01
TIMEOUT_SECONDS = 900
DDP, LEAN_DDP, CONTROL = "DDP", "DDP(forward_sync_buffers=False)", "DDP(forward_sync_buffers=False), again"
OURS, STAGED, FLOOR = "localsgd, H = 1", "localsgd, H = 1, overlap_gradients=False", "compute only"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured, for one model."""

    title: str
    """What the model is."""
    make: Callable[[int], nn.Module]
    """Makes it from a seed."""
    image_shape: tuple[int, int, int]
    """Channels, height and width."""
    batch_size: int
    """Samples in the batch of one process."""
    num_steps: int
    """Steps in a block."""
    num_repeats: int
    """Blocks of each contestant."""


def patch_resnet(seed: int) -> nn.Module:
    """ResNet-20 behind patches of 2 x 2: small tensors, many of them, and little to compute."""
    return build("resnet20-patch", seed=seed, inputs=ImageInputs(num_classes=10, image_shape=(3, 32, 32)))


def middling(seed: int) -> nn.Module:
    """A network of 5.2 million parameters: three convolutions and two wide layers, 21 MB of gradients."""
    torch.manual_seed(seed)
    widths = (3, 64, 128, 256)
    layers: list[nn.Module] = []
    for before, width in itertools.pairwise(widths):
        layers += [nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    layers += [nn.Flatten(), nn.Linear(256 * 4 * 4, 1024), nn.ReLU(), nn.Linear(1024, 640), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(640, 10))


def tiny(seed: int) -> nn.Module:
    """The smoke run's network."""
    return build("digits-cnn", seed=seed, inputs=ImageInputs(num_classes=10, image_shape=(1, 8, 8)))


FULL: Mapping[str, Scale] = MappingProxyType(
    {
        "resnet20-patch": Scale(
            title="ResNet-20 on patches, 0.27 million parameters, 32 samples a process",
            make=patch_resnet,
            image_shape=(3, 32, 32),
            batch_size=32,
            num_steps=8,
            num_repeats=60,
        ),
        "middling": Scale(
            title="convolutions and wide layers, 5.2 million parameters, 64 samples a process",
            make=middling,
            image_shape=(3, 32, 32),
            batch_size=64,
            num_steps=3,
            num_repeats=40,
        ),
    }
)
SMOKE: Mapping[str, Scale] = MappingProxyType(
    {
        "digits-cnn": Scale(
            title="a tiny network", make=tiny, image_shape=(1, 8, 8), batch_size=4, num_steps=2, num_repeats=3
        )
    }
)


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A way of training, with a model of its own."""

    model: nn.Module
    """What computes the loss."""
    optimizer: SGD
    """Its optimizer."""
    step: Callable[[], object]
    """Takes the optimizer's step."""

    def train(self, batch: tuple[Tensor, Tensor], num_steps: int) -> None:
        """Take steps on one batch."""
        for _ in range(num_steps):
            loss = cross_entropy(self.model(batch[0]), batch[1])
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation for it
            self.step()
            self.optimizer.zero_grad()

    def parameters(self) -> Tensor:
        """Give all parameters as one vector."""
        return nn.utils.parameters_to_vector(self.model.parameters()).detach()


def _optimizer(model: nn.Module) -> SGD:
    return SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9, nesterov=True, weight_decay=1e-4)


def _plain(model: nn.Module) -> Contestant:
    optimizer = _optimizer(model)
    return Contestant(model=model, optimizer=optimizer, step=optimizer.step)


def _ddp(model: nn.Module) -> Contestant:
    return _plain(DistributedDataParallel(model))


def _lean_ddp(model: nn.Module) -> Contestant:
    return _plain(DistributedDataParallel(model, forward_sync_buffers=False))


def _ours(model: nn.Module) -> Contestant:
    optimizer = _optimizer(model)
    local = LocalSGD(model, optimizer, Every(1))
    return Contestant(model=model, optimizer=optimizer, step=local.step)


def _staged(model: nn.Module) -> Contestant:
    optimizer = _optimizer(model)
    local = LocalSGD(model, optimizer, Every(1), overlap_gradients=False)
    return Contestant(model=model, optimizer=optimizer, step=local.step)


CONTESTANTS: Mapping[str, Callable[[nn.Module], Contestant]] = MappingProxyType(
    {LEAN_DDP: _lean_ddp, CONTROL: _lean_ddp, DDP: _ddp, OURS: _ours, STAGED: _staged, FLOOR: _plain}
)
"""Every contestant by its name: makes one around a model. Every process must make the same, in the same order."""


def measure(scale: Scale, seed: int) -> dict[str, list[float]]:
    """Time all contestants; every process calls this."""
    contestants = {name: make(scale.make(seed)) for name, make in CONTESTANTS.items()}
    generator = torch.Generator().manual_seed(seed + dist.get_rank())
    images = torch.randn((scale.batch_size, *scale.image_shape), generator=generator)
    batch = images, torch.randint(10, (scale.batch_size,), generator=generator)
    for name, contestant in contestants.items():
        contestant.train(batch, 3)
        if name != FLOOR:
            torch.testing.assert_close(
                contestant.parameters(), contestants[LEAN_DDP].parameters(), rtol=1e-3, atol=1e-5, msg=name
            )
    blocks = {name: _block(contestant, batch, scale.num_steps) for name, contestant in contestants.items()}
    return interleave(blocks, num_warmups=NUM_WARMUPS, num_repeats=scale.num_repeats, seed=seed, before=dist.barrier)


def present(report: Report, found: list[dict[str, list[float]]], scale: Scale) -> None:
    """Show what all processes measured for one model."""
    report.add_heading(scale.title)
    slowest = {
        name: [max(repeat) / scale.num_steps for repeat in zip(*(own[name] for own in found), strict=True)]
        for name in CONTESTANTS
    }
    rows = []
    for name, seconds in slowest.items():
        elapsed, ratio = spread(seconds), ratios(seconds, slowest[LEAN_DDP])
        rows.append(
            [
                f"{name} (floor)" if name == FLOOR else name,
                seconds_text(elapsed.median),
                f"{seconds_text(elapsed.lowest)}..{seconds_text(elapsed.highest)}",
                f"{ratio.median:.3f}",
                ratio_text(ratio.lower_quartile, ratio.upper_quartile),
                ratio_text(*ratio.median_interval),
            ]
        )
    report.add_table(["contestant", "median step", "min..max", "ratio", "quartiles", "95% of median"], rows)
    report.add_text(f"Blocks of {scale.num_steps} steps, {scale.num_repeats} repetitions, {len(found)} processes.")
    ours, limit = ratios(slowest[OURS], slowest[LEAN_DDP]), f"at most {RATIO_LIMIT:.2f}"
    met = ours.median <= RATIO_LIMIT
    report.add_goal(f"{OURS} / {LEAN_DDP}, {scale.title}", f"{ours.median:.3f}", limit=limit, met=met)
    report.add_headline(f"time of a mini-batch step, {scale.title}", OURS, LEAN_DDP, ratio=ours, goal=limit, met=met)


def main() -> None:
    parser = make_parser(__doc__ or "")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="default: 2")
    parser.add_argument("--models", nargs="+", choices=tuple(FULL), help="default: both; --smoke has one of its own")
    options = parse(parser)
    report = Report(__doc__ or "", seed=options.seed, smoke=options.smoke)
    scales = [*SMOKE.values()] if options.smoke else [FULL[name] for name in options.models or FULL]
    for scale in scales:
        wanted = replace(scale, num_repeats=options.repeats or scale.num_repeats)
        found = run_in_processes(measure, options.processes, wanted, options.seed, timeout_seconds=TIMEOUT_SECONDS)
        present(report, found, wanted)
    report.write(options.out)


def _block(contestant: Contestant, batch: tuple[Tensor, Tensor], num_steps: int) -> Callable[[], None]:
    return lambda: contestant.train(batch, num_steps)


if __name__ == "__main__":
    main()
