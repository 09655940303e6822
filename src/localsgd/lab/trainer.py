"""Trains what a configuration says: opens the data and the run's folder, then runs from the first step to the summary."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from localsgd._checks import require
from localsgd.communicators import Communicator, OneProcess, Processes, require_agreement
from localsgd.lab.checkpoints import load_shared, load_worker
from localsgd.lab.config import RunConfig
from localsgd.lab.data import Loaded, load
from localsgd.lab.forward import Forward
from localsgd.lab.listener import Listener, SilentListener
from localsgd.lab.models import build
from localsgd.lab.plan import make_plan
from localsgd.lab.precision import abilities, choose_arithmetic, find_ability, slow_bfloat16
from localsgd.lab.records import Recorder, cut_record
from localsgd.lab.run import Run
from localsgd.lab.run_folder import RunFolder
from localsgd.lab.tasks import make_task
from localsgd.lab.together import everywhere, on_first_process

__all__ = ["train"]

_BEGUN_ANEW = "the run was stopped before its first checkpoint: it begins anew, and so does its record."


def train(
    config: RunConfig,
    *,
    data_root: Path,
    device: torch.device,
    out: Path | None = None,
    resume: bool = False,
    communicator: Communicator | None = None,
    listener: Listener | None = None,
) -> dict[str, object]:
    """Train K workers, spread evenly over the processes, and evaluate them.

    A run is a function of its configuration: it gives the same result on any split of the workers over processes (to
    rounding), and the same bits when it is interrupted and resumed.

    Args:
        config: What to train.
        data_root: Where data sets lie.
        device: What this process computes on.
        out: The run's folder, the same one for all processes; ``None`` keeps nothing.
        resume: Go on with the run in ``out`` from its latest checkpoint. A run that was stopped before its first one is
            begun anew. A run that is finished is not trained again: its summary is returned.
        communicator: Default: torch.distributed's world if initialised, else one process.
        listener: Who watches, on this process.

    Returns:
        The summary, see `localsgd.lab.summary.summarise`; process 0 also writes it into ``out``.

    Raises:
        ArgumentError: If the configuration cannot be honoured, or differs from that of the run to be resumed.
        DataError: If data are missing or corrupt, ``out`` holds a run already, or there is nothing to resume.
        DisagreementError: If the processes were given different configurations.
        Interrupted: If a listener asked to stop.
        NonFiniteError: If the run diverged; what was recorded until then is kept.
        StateError: If the schedule cannot be followed with the losses that were observed; likewise.
        SyncError: If an exchange between processes failed.

    Cost:
        Every process must call this.
    """
    require(out is not None or not resume, "resume=True needs out, the folder of the run to go on with.")
    require(
        device.type == "cpu" or (device.type == "cuda" and torch.cuda.is_available()),
        f"device={device} is not there; use torch.device('cpu').",
    )
    communicator = communicator or (Processes() if dist.is_available() and dist.is_initialized() else OneProcess())
    require_agreement(
        communicator, {"configuration": [f"{name}={value!r}" for name, value in config.to_dict().items()]}
    )
    folder = None if out is None else RunFolder(out)
    summary = _look(folder, config, communicator, resume=resume)
    if summary is not None:
        return summary
    if folder is not None and resume:
        config = on_first_process(communicator, lambda: folder.settle(config))
    devices = abilities(communicator, find_ability(device))
    config = choose_arithmetic(config, devices)
    dataset = everywhere(communicator, lambda: _load_data(config, data_root))
    run = _prepare(config, dataset, device, folder=folder, communicator=communicator)
    run.warnings = slow_bfloat16(config, devices)
    listener = listener or SilentListener()
    if folder is not None and resume:
        _restore(run, folder, communicator, listener=listener)
    elif folder is not None:
        on_first_process(communicator, lambda: folder.begin(config, run.label_counts()))
    return run.complete(listener)


def _look(
    folder: RunFolder | None, config: RunConfig, communicator: Communicator, *, resume: bool
) -> dict[str, object] | None:
    """Refuse a folder that cannot be used, before anything costs time; give the summary of a finished run."""
    if folder is None:
        return None
    if not resume:
        on_first_process(communicator, folder.require_free)
        return None
    return on_first_process(communicator, lambda: folder.reopen(config))


def _load_data(config: RunConfig, data_root: Path) -> Loaded:
    data = config.data
    return load(data.name, data_root, train_limit=data.train_limit, test_limit=data.test_limit)


def _prepare(
    config: RunConfig, data: Loaded, device: torch.device, *, folder: RunFolder | None, communicator: Communicator
) -> Run:
    forward = Forward(config, device)
    task = make_task(config, data, forward, num_processes=communicator.world_size)
    plan = make_plan(config, num_samples=task.num_samples)
    model = build(config.model.name, seed=config.seed, inputs=task.inputs)
    return Run(plan, task, model, forward=forward, folder=folder, communicator=communicator)


def _restore(run: Run, folder: RunFolder, communicator: Communicator, *, listener: Listener) -> None:
    """Put a run back to its latest checkpoint, and its record with it; to its beginning if it has none."""
    path = on_first_process(communicator, folder.latest_checkpoint)
    if path is None:
        everywhere(communicator, lambda: _begin_anew(run, folder, is_first=communicator.rank == 0, listener=listener))
        return
    workers = run.workers.first_worker + torch.arange(len(run.workers.models))

    def read() -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
        own = {worker: load_worker(path, worker) for worker in workers.tolist()}
        return load_shared(path), own

    shared, own = everywhere(communicator, read)
    run.load(shared, own)
    on_first_process(communicator, lambda: cut_record(folder.record, run.num_recorded))


def _begin_anew(run: Run, folder: RunFolder, *, is_first: bool, listener: Listener) -> None:
    """Let the record begin with the word that it does."""
    if is_first:
        folder.record.unlink(missing_ok=True)
    with Recorder(folder.record if is_first else None, listener) as recorder:
        recorder.write("warning", step=0, message=_BEGUN_ANEW)
        run.num_recorded = recorder.num_lines
