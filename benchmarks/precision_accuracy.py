"""Do bfloat16, channels_last and the fused optimizer change what comes out, and what do they gain?

`precision`, `channels_last` and `optimizer.fused` of `localsgd train`, one at a time and all together, against the plainest
arithmetic there is: float32, contiguous images, torch's loop over the tensors. **Accuracy**: four workers with local SGD on
small pieces of real data; the same seeds for everybody, and a paired t-test of each option against the plainest. Options
that change nothing but rounding still lead to another run, as a new seed does. So the row **bfloat16, both runs** takes the
mean of the two runs of a seed that have it, minus the mean of those that do not: the same question, with less noise. A
claim of no effect is worth as much as its interval is narrow: the last column is the largest effect, in either direction,
that the 95% interval leaves room for. Text has no images, and is judged by the test loss. **Rounding**: how far bfloat16
moves the gradient of a batch, squared, over how far gradients of other batches are from their mean, squared: rounding adds
that share to the noise which SGD has anyway. **Speed**: one training step on noise, one thread, all options in turn, as
ratios to the plainest.

Accuracies do not depend on what else the machine does, and several runs share its cores. Times do: for the part on
speed, leave it alone (`--parts speed`).
"""

import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from _command import make_parser, parse
from _report import Report, ratio_text, seconds_text
from _seeds import Difference, difference, difference_text, scatter_text
from _timing import interleave, ratios, spread
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from localsgd.lab.data import load, status
from localsgd.lab.engine.allocator import keep_freed_memory
from localsgd.lab.forward import Forward
from localsgd.lab.models import MODELS, ImageInputs, TextInputs, build
from localsgd.lab.optimizers import make_optimizer
from localsgd.lab.recipes import recipe
from localsgd.lab.tasks import CarriesState, Task, make_task
from localsgd.lab.trainer import train

REFERENCE, BF16, ALL = "float32", "bfloat16", "all"
POOLED = "bfloat16, both runs"
OPTIONS: Mapping[str, tuple[str, str, str]] = {
    REFERENCE: ("precision=float32", "channels_last=false", "optimizer.fused=false"),
    "channels_last": ("precision=float32", "channels_last=true", "optimizer.fused=false"),
    "fused": ("precision=float32", "channels_last=false", "optimizer.fused=true"),
    BF16: ("precision=bfloat16", "channels_last=false", "optimizer.fused=false"),
    ALL: ("precision=bfloat16", "channels_last=true", "optimizer.fused=true"),
}
"""The plainest first."""
CONVOLUTIONS = tuple(OPTIONS)
NO_IMAGES = (REFERENCE, "fused", BF16, ALL)
"""Where there are no convolutions, a memory format says nothing."""
WIDEST = {"test_accuracy": 0.01, "test_loss": 0.02}
"""Room for an effect that is still called none: one point of accuracy, 2% of perplexity."""
NUM_GRADIENTS, STEPS_BEFORE = 8, 40
"""Batches whose gradients are compared, and steps before they are compared again."""
MOST_ROUNDING = 0.05
"""Share of the gradients' variance that rounding may add: as much as a batch smaller by a twentieth would."""
CIFAR, DIGITS = (ImageInputs(num_classes=10, image_shape=shape) for shape in ((3, 32, 32), (1, 8, 8)))
CHARACTERS = TextInputs(vocabulary_size=65)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A small training task."""

    recipe: str
    """What it is cut down from."""
    changes: tuple[str, ...]
    """How."""
    num_seeds: int
    """How often it is repeated."""
    options: tuple[str, ...] = CONVOLUTIONS
    """What is compared."""

    @property
    def model(self) -> str:
        """Name of the network."""
        return recipe(self.recipe).overridden(self.changes).model.name

    @property
    def score(self) -> str:
        """What is compared, besides the training loss."""
        return "test_loss" if MODELS[self.model].reads == "text" else "test_accuracy"


@dataclass(frozen=True, kw_only=True)
class Step:
    """A network whose training step is timed."""

    recipe: str
    """Where its optimizer comes from."""
    inputs: ImageInputs | TextInputs
    """What it reads."""
    batch_size: int
    """Samples in a step."""
    num_steps: int = 1
    """Steps that are timed together."""
    options: tuple[str, ...] = CONVOLUTIONS
    """What is compared."""


COMMON = (
    "algorithm=local",
    "workers=4",
    "period=8",
    "engine=plain",
    "evaluate_every_epochs=none",
    "checkpoint_every_epochs=none",
)
PATCH = ("data.train_limit=5000", "epochs=5", "optimizer.warmup_epochs=1", "reestimate_batches=none")
TEXT = ("data.train_limit=60000", "data.test_limit=10000")
LSTM = (*TEXT, "model.name=lstm64", "epochs=4", "optimizer.learning_rate=0.005")
TRIALS: tuple[Trial, ...] = (
    Trial(recipe="cifar10-resnet20-patch", changes=PATCH, num_seeds=6),
    Trial(recipe="digits-cnn", changes=("epochs=12", "reestimate_batches=none"), num_seeds=12),
    Trial(recipe="digits-mlp", changes=("epochs=12",), num_seeds=12, options=NO_IMAGES),
    Trial(recipe="tinyshakespeare-transformer", changes=LSTM, num_seeds=6, options=NO_IMAGES),
    Trial(
        recipe="tinyshakespeare-transformer",
        changes=(*TEXT, "epochs=2"),
        num_seeds=4,
        options=(REFERENCE, BF16),
    ),
)
STEPS: tuple[Step, ...] = (
    Step(recipe="digits-mlp", inputs=DIGITS, batch_size=8, num_steps=100, options=NO_IMAGES),
    Step(recipe="digits-cnn", inputs=DIGITS, batch_size=8, num_steps=50),
    Step(recipe="cifar10-resnet20-patch", inputs=CIFAR, batch_size=32, num_steps=4),
    Step(recipe="cifar10-resnet20", inputs=CIFAR, batch_size=128),
    Step(recipe="cifar10-densenet40", inputs=CIFAR, batch_size=16),
    Step(recipe="cifar10-wrn28", inputs=CIFAR, batch_size=4),
    Step(recipe="imagenet-resnet50", inputs=ImageInputs(num_classes=1000, image_shape=(3, 224, 224)), batch_size=4),
    Step(recipe="wikitext2-lstm", inputs=TextInputs(vocabulary_size=33_278), batch_size=8, options=NO_IMAGES),
    Step(recipe="tinyshakespeare-transformer", inputs=CHARACTERS, batch_size=8, options=NO_IMAGES),
)
SMOKE_TRIALS: tuple[Trial, ...] = (
    Trial(
        recipe="digits-cnn",
        changes=("epochs=1", "optimizer.warmup_epochs=0", "reestimate_batches=none"),
        num_seeds=2,
        options=(REFERENCE, ALL),
    ),
)
SMOKE_STEPS = (Step(recipe="digits-cnn", inputs=DIGITS, batch_size=8),)


def run(trial: Trial, option: str, *, seed: int, data_root: Path, device: str) -> dict[str, float]:
    """Train once; belongs into a process of one thread."""
    config = recipe(trial.recipe).overridden([*COMMON, *trial.changes, *OPTIONS[option], f"seed={seed}"])
    summary = train(config, data_root=data_root, device=torch.device(device))
    return {name: value for name in (trial.score, "train_loss") if isinstance(value := summary[name], float)}


def _begin_process() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()


def train_all(
    trials: Sequence[Trial], *, first_seed: int, num_processes: int, data_root: Path, device: str
) -> Iterator[tuple[Trial, dict[str, list[dict[str, float]]]]]:
    """Train everything, as many runs at once as there are processes; give the results task by task, by option and seed."""
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn"), initializer=_begin_process) as pool:
        waiting = {
            trial: {
                option: [
                    pool.submit(run, trial, option, seed=first_seed + index, data_root=data_root, device=device)
                    for index in range(trial.num_seeds)
                ]
                for option in trial.options
            }
            for trial in trials
        }
        for trial, by_option in waiting.items():
            yield trial, {option: [one.result() for one in runs] for option, runs in by_option.items()}


def present_accuracy(
    report: Report, trial: Trial, found: Mapping[str, list[dict[str, float]]], *, num_tests: int
) -> None:
    """Show how each option ended, and test it against the plainest."""
    config = recipe(trial.recipe).overridden([*COMMON, *trial.changes])
    report.add_heading(f"Accuracy: {trial.model}")
    report.add_text(
        f"Recipe `{trial.recipe}` with `{' '.join([*COMMON, *trial.changes])}`: {config.workers} workers of "
        f"{config.batch_size}, {config.epochs:g} epochs, {trial.num_seeds} seeds."
    )
    metrics = (trial.score, "train_loss")
    columns = {name: {option: [run[name] for run in runs] for option, runs in found.items()} for name in metrics}
    rows = [[option, *(scatter_text(columns[name][option]) for name in metrics)] for option in trial.options]
    words = [name.replace("_", " ") for name in metrics]
    report.add_table(["option", *words], rows)
    differences = {name: _differences(columns[name]) for name in metrics}
    rows = []
    for option in differences[trial.score]:
        own = [differences[name][option] for name in metrics]
        cells = [cell for one in own for cell in (difference_text(one), f"{one.p_value:.3g}")]
        rows.append([option, *cells, f"+-{_bound(own[0]):.4f}"])
    report.add_table(["option - float32", words[0], "p", words[1], "p", f"{words[0]} within"], rows)
    for option, effect in differences[trial.score].items():
        bound, widest = _bound(effect), WIDEST[trial.score]
        report.add_goal(
            f"the effect of {option} on the {words[0]} of {trial.model}",
            f"{difference_text(effect)}, p = {effect.p_value:.3g}",
            limit=f"p >= {0.05 / num_tests:.2g}, for {num_tests} tests at 5%, and 95% interval within +-{widest}",
            met=effect.p_value >= 0.05 / num_tests and bound <= widest,
        )


def _differences(columns: Mapping[str, list[float]]) -> dict[str, Difference]:
    """Compare each option with the plainest, seed by seed; and all that has bfloat16 with all that has not."""
    found = {
        option: difference(values, columns[REFERENCE]) for option, values in columns.items() if option != REFERENCE
    }
    low = [columns[option] for option in columns if option in (BF16, ALL)]
    full = [columns[option] for option in columns if option not in (BF16, ALL)]
    means = [[statistics.fmean(same_seed) for same_seed in zip(*runs, strict=True)] for runs in (low, full)]
    return found | ({POOLED: difference(*means)} if ALL in columns else {})


def _bound(effect: Difference) -> float:
    return abs(effect.mean) + effect.reach


def present_rounding(report: Report, trials: Sequence[Trial], *, seed: int, data_root: Path) -> None:
    """Compare what bfloat16 does to gradients with what the choice of the batch does to them."""
    report.add_heading("Rounding")
    rows, goals = [], []
    for trial in trials:
        at_start, later = rounding_shares(trial, seed=seed, data_root=data_root)
        rows.append([trial.model, f"{at_start:.2%}", f"{later:.2%}"])
        goals.append((f"what bfloat16 adds to the variance of the gradients of {trial.model}", max(at_start, later)))
    report.add_table(["network", "at the first step", f"after {STEPS_BEFORE} steps"], rows)
    for what, value in goals:
        report.add_goal(what, f"{value:.2%}", limit=f"at most {MOST_ROUNDING:.0%}", met=value <= MOST_ROUNDING)


def rounding_shares(trial: Trial, *, seed: int, data_root: Path) -> tuple[float, float]:
    """Give the variance of the rounding over that of the batches, before and after some steps in float32."""
    config = recipe(trial.recipe).overridden([*COMMON, *trial.changes, *OPTIONS[REFERENCE], f"seed={seed}"])
    data = load(config.data.name, data_root, train_limit=config.data.train_limit, test_limit=config.data.test_limit)
    device = torch.device("cpu")
    full, low = (
        make_task(made, data, Forward(made, device), num_processes=1)
        for made in (config, config.overridden(["precision=bfloat16"]))
    )
    model = build(config.model.name, seed=seed, inputs=full.inputs).train()
    optimizer = make_optimizer(model, config.optimizer, learning_rate=config.optimizer.learning_rate)
    at_start = _rounding_share(model, full, low, first=0)
    for step in range(STEPS_BEFORE):
        _gradient(model, full, step=step)
        optimizer.step()
    return at_start, _rounding_share(model, full, low, first=STEPS_BEFORE)


def _rounding_share(model: nn.Module, full: Task, low: Task, *, first: int) -> float:
    steps = range(first, first + NUM_GRADIENTS)
    exact, rounded = (torch.stack([_gradient(model, task, step=step) for step in steps]) for task in (full, low))
    noise = (exact - exact.mean(0)).square().sum() / (NUM_GRADIENTS - 1)
    return float((rounded - exact).square().sum() / NUM_GRADIENTS / noise)


def _gradient(model: nn.Module, task: Task, *, step: int) -> Tensor:
    model.zero_grad(set_to_none=True)
    torch.manual_seed(step)  # the same masks of dropout in both arithmetics, and the same recurrent state
    if isinstance(task, CarriesState):
        task.load_worker_state(0, {"recurrent": []})
    loss: Any = task.loss(model, step=step, worker=0)
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def step_block(step: Step, option: str, *, seed: int, device: str) -> Callable[[], None]:
    """Give some training steps on noise, as the lab takes them."""
    config = recipe(step.recipe).overridden([*OPTIONS[option], f"batch_size={step.batch_size}"])
    forward = Forward(config, torch.device(device))
    model = forward.place(build(config.model.name, seed=seed, inputs=step.inputs)).train()
    optimizer = make_optimizer(model, config.optimizer, learning_rate=1e-4)
    generator = torch.Generator().manual_seed(seed)
    inputs, labels = (part.to(device) for part in _noise(step, config.data.context, generator))

    def take() -> None:
        for _ in range(step.num_steps):
            if isinstance(step.inputs, TextInputs):
                with forward.arithmetic():
                    logits = model(inputs, None)[0].float().flatten(0, 1)
            else:
                logits = forward(model, inputs)
            cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]  # torch has no annotation for it
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if device != "cpu":
            torch.cuda.synchronize()

    return take


def _noise(step: Step, context: int | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    if isinstance(step.inputs, TextInputs):
        shape = (step.batch_size, (context or 0) + 1)
        tokens = torch.randint(step.inputs.vocabulary_size, shape, generator=generator)
        return tokens[:, :-1], tokens[:, 1:].flatten()
    images = torch.randn((step.batch_size, *step.inputs.image_shape), generator=generator)
    return images, torch.randint(step.inputs.num_classes, (step.batch_size,), generator=generator)


def present_speed(report: Report, steps: Sequence[Step], *, num_repeats: int, seed: int, device: str) -> None:
    """Time all steps with all options."""
    report.add_heading("Speed")
    rows, goals = [], []
    for step in steps:
        blocks = {option: step_block(step, option, seed=seed, device=device) for option in step.options}
        seconds = interleave(blocks, num_warmups=2, num_repeats=num_repeats, seed=seed)
        name = recipe(step.recipe).model.name
        for option, own in seconds.items():
            ratio = ratios(own, seconds[REFERENCE])
            cells = ["", "", ""]
            if option != REFERENCE:
                cells = [f"{ratio.median:.3f}", ratio_text(*ratio.median_interval), f"{1 / ratio.median:.2f}"]
            rows.append(
                [f"{name}, B={step.batch_size}, {option}", seconds_text(spread(own).median / step.num_steps), *cells]
            )
        best = ratios(seconds[step.options[-1]], seconds[REFERENCE]).median
        goals.append((f"the time of a step of {name} with {step.options[-1]} over the plainest", best))
    report.add_table(["network, option", "step", "ratio to float32", "95% of median", "times as fast"], rows)
    for what, value in goals:
        report.add_goal(what, f"{value:.3f}", limit="below 1", met=value < 1)


def main() -> None:
    parser = make_parser(__doc__ or "")
    parts = ("accuracy", "rounding", "speed")
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts), help="default: all")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="only these networks; default: all")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="runs at the same time; default: 2")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="default: cpu")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="default: the environment variable LOCALSGD_DATA")
    options = parse(parser)
    torch.set_num_threads(1)
    keep_freed_memory()
    data_root = options.data_root or Path(os.environ.get("LOCALSGD_DATA", "data"))
    trials, steps = (SMOKE_TRIALS, SMOKE_STEPS) if options.smoke else (TRIALS, STEPS)
    if options.models:
        trials = tuple(trial for trial in trials if trial.model in options.models)
        steps = tuple(step for step in steps if recipe(step.recipe).model.name in options.models)
    report = Report(__doc__ or "", seed=options.seed, smoke=options.smoke)
    there = [trial for trial in trials if _has_data(trial, data_root)]
    for trial in trials:
        if trial not in there:
            report.add_text(f"No accuracy of {trial.model}: its data are not there (--data-root).")
    if "rounding" in options.parts and there:
        present_rounding(report, there, seed=options.seed, data_root=data_root)
    if "accuracy" in options.parts and there:
        if options.repeats:
            there = [_with_seeds(trial, max(2, options.repeats)) for trial in there]
        num_tests = sum(len(trial.options) - (ALL not in trial.options) for trial in there)
        found = train_all(
            there,
            first_seed=options.seed,
            num_processes=1 if options.smoke or options.device == "cuda" else options.processes,
            data_root=data_root,
            device=options.device,
        )
        for trial, runs in found:
            present_accuracy(report, trial, runs, num_tests=num_tests)
    if "speed" in options.parts and steps:
        num_repeats = options.repeats or (2 if options.smoke else 9)
        present_speed(report, steps, num_repeats=num_repeats, seed=options.seed, device=options.device)
    report.write(options.out)


def _has_data(trial: Trial, data_root: Path) -> bool:
    return status(recipe(trial.recipe).data.name, data_root).state in ("embedded", "present")


def _with_seeds(trial: Trial, num_seeds: int) -> Trial:
    return Trial(recipe=trial.recipe, changes=trial.changes, num_seeds=num_seeds, options=trial.options)


if __name__ == "__main__":
    main()
