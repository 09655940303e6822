"""How the runs of `make bench` ended, kept beside their report, so that another day can go on where this one stopped."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from _headlines import Goal, Headline

__all__ = ["FILE_NAME", "Outcome", "read_record", "write_record"]

FILE_NAME = "outcomes.json"
_FINISHED = ("done", "skipped")


@dataclass(kw_only=True)
class Outcome:
    """How one run ended."""

    name: str
    """The run."""
    state: str = "not run"
    """``done``, ``running``, ``skipped``, ``failed``, ``too long``, ``stopped``, or ``not run``."""
    reason: str = ""
    """Why, where it is not done."""
    seconds: float = 0.0
    """How long it ran."""
    started: str = ""
    """When it began."""
    commit: str = ""
    """What was measured."""
    load: str = ""
    """Load averages when it began."""
    page: str | None = None
    """Its own page, as seen from the report."""
    log: Sequence[str] = ()
    """The last lines that it wrote, where it failed."""
    headlines: list[Headline] = field(default_factory=list)
    """Its figures."""
    goals: list[Goal] = field(default_factory=list)
    """Its goals, as its page words them."""

    @property
    def is_finished(self) -> bool:
        """Whether running it again on this machine would tell nothing new."""
        return self.state in _FINISHED


def write_record(folder: Path, outcomes: Sequence[Outcome], known: Mapping[str, str]) -> None:
    """Write the record anew, whole or not at all.

    Args:
        folder: Where the pages of the scripts are.
        outcomes: All runs, in order, finished or not.
        known: What the numbers have to be read beside, by name.
    """
    record = {"known": dict(known), "outcomes": [asdict(outcome) for outcome in outcomes]}
    unfinished = folder / f".{FILE_NAME}.part"
    unfinished.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(folder / FILE_NAME)


def read_record(folder: Path) -> tuple[list[Outcome], dict[str, str]]:
    """Read a record.

    Args:
        folder: Where the pages of the scripts are.

    Returns:
        All runs, in order, and what the numbers have to be read beside.

    Raises:
        OSError: If there is no record.
    """
    record = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
    outcomes = []
    for saved in record["outcomes"]:
        headlines = [Headline(**one) for one in saved.pop("headlines")]
        goals = [Goal(**one) for one in saved.pop("goals")]
        outcomes.append(Outcome(**saved, headlines=headlines, goals=goals))
    return outcomes, record["known"]
