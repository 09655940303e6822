"""Runs small enough for tests, and somebody who watches them."""

import json
from pathlib import Path
from typing import Any

import torch

from localsgd.lab.recipes import recipe
from localsgd.lab.trainer import train

__all__ = ["CPU", "Watcher", "config", "run", "saved_state", "untimed_record", "untimed_summary"]

CPU = torch.device("cpu")
SMALL = ["workers=4", "batch_size=16", "data.train_limit=200", "data.test_limit=90", "epochs=4", "period=5"]
# Said aloud: what these tests compare bit by bit must not depend on what the machine at hand does well.
SMALL += ["evaluation_batch_size=25", "precision=float32", "channels_last=false"]
TIMES = ("seconds", "seconds_waited", "wall_seconds", "seconds_training", "seconds_syncing", "samples_per_second")


class Watcher:
    """Remembers what a run tells, and may ask it to stop after a certain step."""

    def __init__(self, *, stop_after: int | None = None) -> None:
        self.plan: Any = None
        self.steps: list[int] = []
        self.events: list[dict[str, Any]] = []
        self._stop_after = stop_after

    def begin(self, plan) -> None:
        self.plan = plan

    def step(self, step) -> None:
        self.steps.append(step)

    def event(self, event) -> None:
        self.events.append(dict(event))

    def stop_wanted(self) -> bool:
        return self._stop_after is not None and self.steps[-1] >= self._stop_after

    def of_kind(self, kind):
        return [event for event in self.events if event["event"] == kind]


def config(*overrides, name="digits-mlp"):
    """12 steps of 4 workers: 3.125 steps an epoch, first decay after step 7."""
    return recipe(name).overridden([*SMALL, *overrides])


def run(*overrides, name="digits-mlp", watcher=None, **options):
    """Train a small configuration on the digits, which need no data root."""
    return train(
        config(*overrides, name=name), data_root=Path("nowhere"), device=CPU, listener=watcher or Watcher(), **options
    )


def saved_state(folder, step=12):
    """All files of a checkpoint by name."""
    files = sorted((folder / "checkpoints" / f"step-{step:08d}").iterdir())
    return {path.name: torch.load(path, weights_only=True) for path in files}


def untimed_record(folder):
    """The events of a run that do not depend on interruptions, without their durations."""
    events = [json.loads(line) for line in (folder / "record.jsonl").read_text().splitlines()]
    kept = [event for event in events if event["event"] not in {"checkpoint", "resumed"}]
    return [{name: value for name, value in event.items() if name not in TIMES} for event in kept]


def untimed_summary(summary):
    return {name: value for name, value in summary.items() if name not in TIMES}
