"""How workers exchange vectors: inside one process, and between processes."""

from localsgd.communicators.agreement import require_agreement
from localsgd.communicators.levels import communicators_by_level
from localsgd.communicators.nested import Nested
from localsgd.communicators.nested_twin import NestedTwin
from localsgd.communicators.one_process import OneProcess
from localsgd.communicators.processes import Processes, ring_bytes
from localsgd.communicators.protocol import (
    Communicator,
    OverlappingCommunicator,
    PayloadCommunicator,
    SplittableCommunicator,
)
from localsgd.communicators.shared_memory import SharedMemory

__all__ = [
    "Communicator",
    "Nested",
    "NestedTwin",
    "OneProcess",
    "OverlappingCommunicator",
    "PayloadCommunicator",
    "Processes",
    "SharedMemory",
    "SplittableCommunicator",
    "communicators_by_level",
    "require_agreement",
    "ring_bytes",
]
