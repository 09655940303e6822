"""The convex study: how much sooner local SGD on many workers reaches a given accuracy."""

from localsgd.lab.convex.config import StudyConfig
from localsgd.lab.convex.objective import LogisticObjective
from localsgd.lab.convex.optimum import Optimum, minimise
from localsgd.lab.convex.race import Cell
from localsgd.lab.convex.search import Arrival, CellResult
from localsgd.lab.convex.simulate import Simulation
from localsgd.lab.convex.speedups import COMMUNICATION, Entry, entries, report
from localsgd.lab.convex.stepsizes import StepSize
from localsgd.lab.convex.study import Study, Watcher, run_study

__all__ = [
    "COMMUNICATION",
    "Arrival",
    "Cell",
    "CellResult",
    "Entry",
    "LogisticObjective",
    "Optimum",
    "Simulation",
    "StepSize",
    "Study",
    "StudyConfig",
    "Watcher",
    "entries",
    "minimise",
    "report",
    "run_study",
]
