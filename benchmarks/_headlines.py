"""Headline figures: what a script hands to `_bench.py` beside its page, one JSON line each, as soon as it is known."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["VARIABLE", "Goal", "Headline", "read_records", "record"]

VARIABLE = "LOCALSGD_HEADLINES"
"""Environment variable that names the file; scripts that run without it keep their figures to themselves."""


@dataclass(frozen=True, kw_only=True)
class Headline:
    """A contestant held against a reference, in words that a stranger understands."""

    question: str
    """What is compared: `time of one sync, ResNet-20 on 2 processes`."""
    contestant: str
    """Who: ours, or a peer."""
    reference: str
    """What it is held against."""
    ratio: float | None
    """Contestant over reference; ``None`` where there is no figure."""
    low: float | None = None
    """Where the ratio lies with a confidence of 95%, or its quartiles: the lower end."""
    high: float | None = None
    """The upper end."""
    goal: str = ""
    """What the ratio should be, for example ``at most 1.10``; empty for peers."""
    met: bool | None = None
    """Whether it is."""
    note: str = ""
    """What stands in for the figure, such as the reason for which there is none."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A goal as a page words it."""

    question: str
    """Title of the page."""
    what: str
    """What was measured."""
    value: str
    """The number."""
    goal: str
    """What it should be."""
    met: bool
    """Whether it is."""


def record(figure: Headline | Goal) -> None:
    """Append a figure to the file that `_bench.py` named, if it did.

    Args:
        figure: The figure.
    """
    path = os.environ.get(VARIABLE)
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": type(figure).__name__, **asdict(figure)}) + "\n")


def read_records(path: Path) -> tuple[list[Headline], list[Goal]]:
    """Read what a script has recorded so far; a last line that was cut off is left out.

    Args:
        path: The file; may be absent.

    Returns:
        Its headlines and its goals, in order.
    """
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    found: list[Mapping[str, Any]] = [json.loads(line) for line in lines if line.endswith("\n")]
    fields = [(one["kind"], {name: value for name, value in one.items() if name != "kind"}) for one in found]
    headlines = [Headline(**values) for kind, values in fields if kind == "Headline"]
    return headlines, [Goal(**values) for kind, values in fields if kind == "Goal"]
