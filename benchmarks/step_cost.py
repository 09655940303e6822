"""What does a `local.step()` that does not sync cost beside `optimizer.step()`?

ResNet-20, SGD with Nesterov momentum (as it comes, `foreach` and `fused`), real gradients of a batch of 128, one
thread. Three contestants step in turn, a block of steps each, in an order drawn anew every repetition: the optimizer of
a plain model; `local.step()` of an equal model that LocalSGD holds; and, on that same model, its optimizer called
directly. The first two answer the question. The last two do the same arithmetic on the same memory, so that their
difference is what the wrapper itself costs. The whole training step is there for scale. The floor is the optimizer's
own step.
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from _command import make_parser, parse
from _report import Report, ratio_text, seconds_text
from _timing import interleave, ratios, spread
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from localsgd import Every, LocalSGD
from localsgd.lab.models import ImageInputs, build

RATIO_LIMIT = 1.01
LONG_PERIOD = 1 << 40
"""No sync ever comes, but the clock has to look each time."""
LEARNING_RATE = 1e-7
"""The same gradient is applied many thousand times; the parameters should stay where they are."""
IMPLEMENTATIONS: Mapping[str, dict[str, bool]] = {
    "SGD()": {},  # on a CPU one parameter after the other
    "SGD(foreach=True)": {"foreach": True},
    "SGD(fused=True)": {"fused": True},
}
PLAIN, OURS, DIRECT = "optimizer.step()", "local.step()", "optimizer.step(), LocalSGD's model"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured."""

    model: str
    """Name of the model."""
    image_shape: tuple[int, int, int]
    """Channels, height and width."""
    batch_size: int
    """Samples in the batch whose gradients are applied."""
    num_calls: int
    """Steps in a block."""
    num_repeats: int
    """Blocks of each contestant."""
    num_training_steps: int
    """Whole training steps that are timed, for scale."""


FULL = Scale(
    model="resnet20", image_shape=(3, 32, 32), batch_size=128, num_calls=20, num_repeats=600, num_training_steps=9
)
SMOKE = Scale(model="digits-cnn", image_shape=(1, 8, 8), batch_size=8, num_calls=3, num_repeats=5, num_training_steps=2)


def measure(report: Report, scale: Scale, *, implementation: str, seed: int) -> None:
    """Compare the contestants for one implementation of the optimizer."""
    plain, plain_optimizer = _make(scale, implementation=implementation, seed=seed)
    held, held_optimizer = _make(scale, implementation=implementation, seed=seed)
    local = LocalSGD(held, held_optimizer, Every(LONG_PERIOD))
    images, labels = _batch(scale, seed)
    for model in (plain, held):
        loss = cross_entropy(model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation for it
    _require_equal_gradients(plain, held)
    steps: dict[str, Callable[[], object]] = {
        PLAIN: plain_optimizer.step,
        OURS: local.step,
        DIRECT: held_optimizer.step,
    }
    blocks = {name: _repeated(step, scale.num_calls) for name, step in steps.items()}
    seconds = interleave(blocks, num_warmups=5, num_repeats=scale.num_repeats, seed=seed)
    per_step = {name: [block / scale.num_calls for block in found] for name, found in seconds.items()}
    report.add_heading(implementation)
    rows = []
    for name, found in per_step.items():
        time, ratio = spread(found), ratios(found, per_step[PLAIN])
        rows.append(
            [
                f"{name} (floor)" if name == PLAIN else name,
                seconds_text(time.median),
                f"{seconds_text(time.lowest)}..{seconds_text(time.highest)}",
                f"{ratio.median:.4f}",
                ratio_text(ratio.lower_quartile, ratio.upper_quartile),
                ratio_text(*ratio.median_interval),
            ]
        )
    report.add_table(["contestant", "median", "min..max", "ratio", "quartiles", "95% of median"], rows)
    overhead = spread([ours - direct for ours, direct in zip(per_step[OURS], per_step[DIRECT], strict=True)])
    low, high = overhead.median_interval
    whole = _training_seconds(local, held, (images, labels), scale=scale)
    report.add_text(
        f"Blocks of {scale.num_calls} steps, {scale.num_repeats} repetitions. The wrapper itself takes "
        f"{seconds_text(overhead.median)} a step (95% of the median: {seconds_text(low)}..{seconds_text(high)}), which is "
        f"{overhead.median / whole:.4%} of a whole training step of {seconds_text(whole)}."
    )
    ratio = ratios(per_step[OURS], per_step[PLAIN])
    what = f"{OURS} / {PLAIN}, {implementation}"
    limit, met = f"at most {RATIO_LIMIT}", ratio.median <= RATIO_LIMIT
    report.add_goal(what, f"{ratio.median:.4f}", limit=limit, met=met)
    report.add_headline(
        f"time of a step without a sync, {implementation}", OURS, PLAIN, ratio=ratio, goal=limit, met=met
    )
    uncertainty = (ratio.median_interval[1] - ratio.median_interval[0]) / 2
    quiet = uncertainty < RATIO_LIMIT - 1
    report.add_text(
        f"The median is known to within {uncertainty:.2%}: "
        + ("enough to judge." if quiet else "too little to judge; run on a quiet machine, or with more --repeats.")
    )


def main() -> None:
    parser = make_parser(__doc__ or "")
    options = parse(parser)
    torch.set_num_threads(1)
    scale = SMOKE if options.smoke else FULL
    if options.repeats:
        scale = replace(scale, num_repeats=options.repeats)
    report = Report(__doc__ or "", seed=options.seed, smoke=options.smoke)
    for implementation in IMPLEMENTATIONS:
        measure(report, scale, implementation=implementation, seed=options.seed)
    report.write(options.out)


def _make(scale: Scale, *, implementation: str, seed: int) -> tuple[nn.Module, SGD]:
    model = build(scale.model, seed=seed, inputs=ImageInputs(num_classes=10, image_shape=scale.image_shape))
    optimizer = SGD(
        model.parameters(),
        lr=LEARNING_RATE,
        momentum=0.9,
        nesterov=True,
        weight_decay=1e-4,
        **IMPLEMENTATIONS[implementation],
    )
    return model, optimizer


def _batch(scale: Scale, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn((scale.batch_size, *scale.image_shape), generator=generator)
    return images, torch.randint(10, (scale.batch_size,), generator=generator)


def _require_equal_gradients(first: nn.Module, second: nn.Module) -> None:
    for mine, other in zip(first.parameters(), second.parameters(), strict=True):
        if mine.grad is None or other.grad is None or not torch.allclose(mine.grad, other.grad, atol=1e-5):
            raise RuntimeError("the two models do not have the same gradients; the comparison would mean nothing")


def _training_seconds(local: LocalSGD, model: nn.Module, batch: tuple[Tensor, Tensor], *, scale: Scale) -> float:
    images, labels = batch

    def train() -> None:
        loss = cross_entropy(model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation for it
        local.step()
        model.zero_grad(set_to_none=True)

    found = interleave({"train": train}, num_warmups=1, num_repeats=scale.num_training_steps)
    return statistics.median(found["train"])


def _repeated(step: Callable[[], object], num_calls: int) -> Callable[[], None]:
    def block() -> None:
        for _ in range(num_calls):
            step()

    return block


if __name__ == "__main__":
    main()
