"""How many processes a command had better use: as many as there are cores, if there is enough to do for them."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from localsgd._checks import require
from localsgd.cli.formats import format_count, format_seconds
from localsgd.errors import ArgumentError, DataError, LocalSGDError
from localsgd.lab.algorithms import make_topology
from localsgd.lab.checkpoints import find_checkpoint, load_shared
from localsgd.lab.config import RunConfig
from localsgd.lab.data import Corpus, FeatureSet, load
from localsgd.lab.models import FeatureInputs, ImageInputs, TextInputs, build, count_flops
from localsgd.lab.plan import make_plan
from localsgd.lab.tasks import count_samples

__all__ = [
    "WORTH_SECONDS",
    "Choice",
    "choose_processes",
    "latest_checkpoint",
    "parse_processes",
    "predict_batch_seconds",
    "predict_seconds",
    "processes_before",
]

_FLOPS_PER_SECOND = 60e9
"""What one core does of a forward and backward pass; within a factor of two on every recipe and machine tried."""

_SECONDS_PER_BATCH = 1e-3
"""What a batch takes besides: Python, the optimizer."""

WORTH_SECONDS = 30.0
"""Work for one core below which starting processes, some seconds, does not pay."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How many processes, and why."""

    num_processes: int
    """1 is this process alone."""

    reason: str
    """Why not another number."""

    def describe(self, workers: int, num_threads: int) -> str:
        """Word it for the progress.

        Args:
            workers: K.
            num_threads: Of each process.

        Returns:
            One line.
        """
        each = format_count(workers // self.num_processes, "worker")
        threads = format_count(num_threads, "thread")
        return f"{self.num_processes} processes with {each} and {threads} each: {self.reason}"


def parse_processes(text: str) -> int | None:
    """Read what --processes says.

    Args:
        text: ``auto`` or a number.

    Returns:
        The number; ``None`` for ``auto``.

    Raises:
        ArgumentError: If it is neither.
    """
    require(
        text == "auto" or (text.isdecimal() and int(text) >= 1),
        f"--processes={text} must be auto or a number >= 1; 1 trains in this process alone.",
    )
    return None if text == "auto" else int(text)


def choose_processes(
    wanted: int | None, configs: Sequence[RunConfig], *, data_root: Path, num_cores: int, before: int | None
) -> Choice:
    """Choose how many processes train on the CPU.

    Args:
        wanted: What the user asks for; ``None`` for nothing.
        configs: The runs, all of the same workers, data and model.
        data_root: Where data sets lie.
        num_cores: Cores that may be used.
        before: How many processes the runs were begun with; ``None`` if they are new.

    Returns:
        What was asked for; else as many as before, if there are as many cores, since only these give the same bits; else the
        largest number that has a core for each process and holds whole blocks, if the work is worth it.

    Raises:
        ArgumentError: If the workers or their blocks cannot be dealt out evenly to as many processes as are asked for.
    """
    if wanted is not None:
        for config in configs:
            _require_fit(config, wanted)
        return Choice(num_processes=wanted, reason="as asked")
    if before is not None and before <= num_cores:
        return Choice(num_processes=before, reason="as many as the run was begun with")
    number = max((n for n in range(1, num_cores + 1) if all(_fits(config, n) for config in configs)), default=1)
    if number == 1:
        return Choice(num_processes=1, reason="the workers cannot be dealt out to the cores")
    try:
        seconds = predict_seconds(configs, data_root)
    except LocalSGDError:  # which is raised again, and told, where it matters
        return Choice(num_processes=1, reason="nothing can be trained")
    work = f"about {format_seconds(seconds)} of work for one core"
    return Choice(num_processes=number if seconds >= WORTH_SECONDS else 1, reason=work)


def predict_seconds(configs: Sequence[RunConfig], data_root: Path) -> float:
    """Foretell how long runs take on one core, roughly, and always alike: nothing is timed.

    Args:
        configs: The runs, all of the same data and model.
        data_root: Where data sets lie.

    Returns:
        Seconds of training.

    Raises:
        LocalSGDError: If the data are missing, or nothing can be trained so.
    """
    first = configs[0]
    data = load(first.data.name, data_root, train_limit=first.data.train_limit, test_limit=first.data.test_limit)
    num_samples = count_samples(first, data)
    num_batches = sum(
        plan.num_batches(plan.num_steps) * plan.config.workers
        for plan in (make_plan(config, num_samples=num_samples) for config in configs)
    )
    inputs: ImageInputs | TextInputs | FeatureInputs
    if isinstance(data, Corpus):
        inputs = TextInputs(vocabulary_size=len(data.vocabulary))
        example = torch.empty(1, first.data.context or 1, dtype=torch.int64, device="meta")
    elif isinstance(data, FeatureSet):
        inputs = FeatureInputs(num_features=data.num_features)
        example = torch.empty(1, data.num_features, device="meta")
    else:
        inputs = ImageInputs(num_classes=data.num_classes, image_shape=data.image_shape)
        example = torch.empty(1, *data.image_shape, device="meta")
    model = build(first.model.name, seed=0, inputs=inputs)
    return num_batches * predict_batch_seconds(model, example, batch_size=first.batch_size)


def predict_batch_seconds(model: nn.Module, example: Tensor, *, batch_size: int) -> float:
    """Foretell how long one core trains on a batch: its arithmetic at a usual speed, and a millisecond of overhead.

    Args:
        model: What is trained.
        example: A batch of one sample, of any device.
        batch_size: Samples in the batch.

    Returns:
        Seconds.
    """
    return 3 * count_flops(model, example) * batch_size / _FLOPS_PER_SECOND + _SECONDS_PER_BATCH


def processes_before(folder: Path) -> int | None:
    """Find out how many processes wrote the latest checkpoint below a folder.

    Args:
        folder: That of a run, or of several.

    Returns:
        The number; ``None`` if there is no checkpoint that tells. 1 if the folder is that of a finished run, since nothing
        is left to do.
    """
    if (folder / "summary.json").is_file():
        return 1
    latest = latest_checkpoint(folder)
    try:
        number = None if latest is None else load_shared(latest).get("num_processes")
    except DataError:  # told where the run is resumed
        return None
    return number if isinstance(number, int) else None


def latest_checkpoint(folder: Path) -> Path | None:
    """Find the checkpoint below a folder that was saved last.

    Args:
        folder: That of a run, or of several.

    Returns:
        The checkpoint; ``None`` if there is none that is complete.
    """
    found = []
    for checkpoints in folder.rglob("checkpoints"):
        with contextlib.suppress(DataError):
            found.append(find_checkpoint(checkpoints))
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _fits(config: RunConfig, num_processes: int) -> bool:
    try:
        _require_fit(config, num_processes)
    except ArgumentError:
        return False
    return True


def _require_fit(config: RunConfig, num_processes: int) -> None:
    require(
        config.workers % num_processes == 0,
        f"--processes={num_processes} must divide workers={config.workers}, so that each process holds as many; use another "
        "number, or auto.",
    )
    make_topology(config).process_block_sizes(config.workers // num_processes)
