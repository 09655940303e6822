"""One run, from its first step or the one it is resumed at to its summary."""

from bisect import bisect_right
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from localsgd._checks import require
from localsgd.batch_norm import reestimate_batch_norm
from localsgd.communicators import Communicator
from localsgd.errors import ArgumentError, DataError, NonFiniteError, StateError
from localsgd.lab.checkpoints import save_checkpoint
from localsgd.lab.evaluation import Evaluator
from localsgd.lab.forward import Forward
from localsgd.lab.interrupted import Interrupted
from localsgd.lab.listener import Listener
from localsgd.lab.plan import RunPlan
from localsgd.lab.records import Recorder, without_non_finite
from localsgd.lab.run_folder import RunFolder
from localsgd.lab.stopwatch import Stopwatch
from localsgd.lab.summary import summarise
from localsgd.lab.tasks import FeedsBatchNorm, HasLabels, ReadsAhead, Task, score_of
from localsgd.lab.together import on_first_process
from localsgd.lab.workers import Workers

__all__ = ["Run"]

_STATE_VERSION = 1


@final
class Run:
    """Trains, records, evaluates and saves, in the same order on every process.

    Attributes:
        workers: Those of this process.
        num_recorded: Lines of the record at the moment the run is resumed from.
        warnings: What is to be said of the devices, whether the run begins or goes on.
    """

    def __init__(
        self,
        plan: RunPlan,
        task: Task,
        model: nn.Module,
        *,
        forward: Forward,
        folder: RunFolder | None,
        communicator: Communicator,
    ) -> None:
        """Stand before the first step.

        Args:
            plan: What to do.
            task: What to learn, on the device to compute on.
            model: What all workers start from.
            forward: How inputs go through a model, and on which device.
            folder: Where to write; it must exist when `complete` is called.
            communicator: The processes.

        Raises:
            ArgumentError: If the configuration does not fit the model or the number of processes.
            DisagreementError: If the processes differ; on every process.
        """
        config = plan.config
        require(
            config.reestimate_batches is None or any(isinstance(module, _BatchNorm) for module in model.modules()),
            f"reestimate_batches={config.reestimate_batches} needs a model with BatchNorm, and {config.model.name!r} has "
            "none; set it to none.",
        )
        self._plan, self._folder, self._communicator = plan, folder, communicator
        self._task, self._forward = task, forward
        self._score = score_of(config.model.name).key
        self._evaluator = Evaluator(task, communicator)
        self.workers = Workers(plan, task, model=model, forward=forward, communicator=communicator)
        self._local = self.workers.local
        self.num_recorded = 0
        self.warnings: tuple[str, ...] = ()
        self._num_syncs = 0
        self._window_start = 0
        self._train_loss: float | None = None
        self._watch = Stopwatch()
        self._stop_wanted = self._stop_agreed = False

    def load(self, shared: Mapping[str, Any], workers: Mapping[int, Mapping[str, Any]]) -> None:
        """Go on where a checkpoint was saved.

        Args:
            shared: What all workers have in common.
            workers: What each worker of this process has for itself, by its number.

        Raises:
            DataError: If the checkpoint was written by another version of this package.
        """
        if shared.get("version") != _STATE_VERSION:
            raise DataError(
                f"the checkpoint has version {shared.get('version')}, and only version {_STATE_VERSION} can be read; resume "
                "it with the localsgd that wrote it."
            )
        self.workers.load(shared["local"], workers)
        self._plan = self._plan.resumed(self._local.steps)
        self._num_syncs = self._local.totals.rounds
        self.num_recorded = shared["num_recorded"]
        self._window_start, self._train_loss = shared["window_start"], shared["train_loss"]
        self._watch = Stopwatch(seconds=shared["seconds"], seconds_aside=shared["seconds_aside"])

    def label_counts(self) -> list[list[int]] | None:
        """Count what each worker trains on in the first epoch, by class: one list a worker, one number a class.

        Returns:
            ``None`` if the samples have no classes.
        """
        return self._task.label_counts() if isinstance(self._task, HasLabels) else None

    def complete(self, listener: Listener) -> dict[str, object]:
        """Train to the end.

        Args:
            listener: Who watches.

        Returns:
            The summary.

        Raises:
            Interrupted: If the listener asked to stop.
            NonFiniteError: If the run diverged.
            StateError: If the schedule cannot be followed with the losses that were observed.
            SyncError: If an exchange between processes failed.
        """
        plan = self._plan
        writes = self._folder is not None and self._communicator.rank == 0
        path = self._folder.record if self._folder is not None and writes else None
        with Recorder(path, listener, num_lines=self.num_recorded) as self._recorder:
            listener.begin(plan)
            if plan.first_step:
                self._recorder.write("resumed", step=plan.first_step)
            else:
                for message in plan.warnings:
                    self._recorder.write("warning", step=0, message=message)
            for message in self.warnings:
                self._recorder.write("warning", step=plan.first_step, message=message)
            try:
                self._train(listener)
                return self._conclude()
            except NonFiniteError as error:
                self._recorder.write("warning", step=self._local.steps, message=str(error))
                raise
            except ArgumentError as error:
                # What could be known before was checked before: this was learnt from the run, whose record is there.
                message = f"{plan.config.algorithm}: {error}".replace("lowest_loss", "schedule.lowest_loss")
                self._recorder.write("warning", step=self._local.steps, message=message)
                raise StateError(message) from error
            finally:
                if isinstance(self._task, ReadsAhead):
                    self._task.close()

    def _train(self, listener: Listener) -> None:
        plan, config = self._plan, self._plan.config
        epoch_ends = plan.steps_after_epochs(1)
        evaluations = plan.steps_after_epochs(config.evaluate_every_epochs) - {plan.num_steps}
        saves = plan.steps_after_epochs(config.checkpoint_every_epochs)
        if isinstance(self._task, ReadsAhead):
            batches = range(plan.num_batches(plan.first_step), plan.num_batches(plan.num_steps))
            self._task.expect(
                batches, range(self.workers.first_worker, self.workers.first_worker + len(self.workers.models))
            )
        moments = sorted(epoch_ends | evaluations | saves)
        step = plan.first_step
        while step < plan.num_steps:
            step += self.workers.take_steps(step, moments[bisect_right(moments, step)] - step)
            self._record_sync()
            listener.step(step)
            if listener.stop_wanted():
                self._stop_wanted = True
                self._local.request_stop()
            if step in epoch_ends:
                self._end_epoch(step)
            if step in evaluations:
                self._evaluate(step)
            stops = (self._local.stop_requested or self._stop_agreed) and step < plan.num_steps
            checkpoint = self._save(step) if step in saves or stops else None
            if stops:
                raise Interrupted(step, checkpoint)

    def _record_sync(self) -> None:
        num_before, self._num_syncs = self._num_syncs, self._local.totals.rounds
        if self._num_syncs == num_before:  # in nearly every step: nothing has to be put together
            return
        for report in self._local.recent_syncs[num_before - self._num_syncs :]:
            # A list, so that a listener hears what can be read in the file.
            details = vars(report) | {"bytes_by_level": list(report.bytes_by_level), "bytes_sent": report.bytes_sent}
            self._recorder.write("sync", **details)

    def _end_epoch(self, step: int) -> None:
        """Share the losses of all workers; by the way, learn whether somebody wants to stop."""
        told = self._communicator.gather((self.workers.take_loss_sums(), self._stop_wanted))
        self._stop_agreed = any(wants for _, wants in told)
        # In the order of the workers, so that the sum does not depend on how they are spread over processes.
        losses: list[float] = [loss for sums, _ in told for loss in sums]
        self._train_loss = sum(losses) / (len(losses) * (step - self._window_start))
        self._window_start = step
        self._recorder.write(
            "epoch",
            step=step,
            epoch=self._plan.epoch(step),
            train_loss=self._train_loss,
            learning_rate=self._plan.learning_rate(step - 1),
            wall_seconds=self._watch.seconds,
        )

    def _evaluate(self, step: int) -> None:
        with self._watch.aside(), self._local.averaged() as model:
            scores = self._evaluator.shared(model)
        self._record_scores(step, **scores)

    def _record_scores(self, step: int, **scores: float | None) -> None:
        epoch, seconds = self._plan.epoch(step), self._watch.seconds
        self._recorder.write("evaluation", step=step, epoch=epoch, **scores, wall_seconds=seconds)

    def _save(self, step: int) -> Path | None:
        """Save everything that `load` needs; ``None`` without a folder."""
        if self._folder is None:
            return None
        with self._watch.aside():
            shared = {
                "version": _STATE_VERSION,
                "num_processes": self._communicator.world_size,
                "local": self.workers.shared_state(),
                "num_recorded": self._recorder.num_lines,
                "window_start": self._window_start,
                "train_loss": self._train_loss,
                "seconds": self._watch.seconds,
                "seconds_aside": self._watch.seconds_aside,
            }
            path = save_checkpoint(
                self._folder.checkpoints, self._communicator, step=step, shared=shared, workers=self.workers.state()
            )
        self._recorder.write("checkpoint", step=step, path=path.relative_to(self._folder.path).as_posix())
        return path

    def _conclude(self) -> dict[str, object]:
        """Evaluate the workers' own models, flush, evaluate the consensus, and sum up."""
        plan, models = self._plan, self.workers.models
        with self._watch.aside():
            # After a sync all workers are alike, BatchNorm statistics included unless they stay local.
            are_alike = self._local.is_synced and plan.config.buffers != "local"
            local_mean = None if are_alike else self._evaluator.mean_score(models, self._score)
        self._local.finish()
        self._record_sync()
        with self._watch.aside(), self._local.averaged() as model:
            scores = self._evaluator.shared(model)
            reestimated = self._reestimate(model)
        results = scores | {
            f"{self._score}_local_mean": scores[self._score] if local_mean is None else local_mean,
            f"{self._score}_reestimated": reestimated,
        }
        self._record_scores(plan.num_steps, **results)
        summary, _ = without_non_finite(
            summarise(
                plan,
                {"train_loss": self._train_loss, **results},
                self._local.totals,
                watch=self._watch,
                num_parameters=self.workers.num_parameters,
                num_processes=self._communicator.world_size,
                device=self._forward.device,
                engine=self.workers.engine,
            )
        )
        if self._folder is not None:
            folder = self._folder
            on_first_process(self._communicator, lambda: folder.finish(summary))
        return summary

    def _reestimate(self, model: nn.Module) -> float | None:
        """Evaluate with BatchNorm statistics taken anew from training batches; the same ones on every process."""
        number = self._plan.config.reestimate_batches
        if number is None or not isinstance(self._task, FeedsBatchNorm):
            return None
        with torch.no_grad(), self._forward.arithmetic():
            reestimate_batch_norm(model, self._task.reestimation_batches(number), num_batches=number)
        return self._evaluator.shared(model)[self._score]
