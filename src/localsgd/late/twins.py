"""The group in which syncs of everyone's parameters are under way, beside the one in which processes meet."""

from localsgd.communicators import Communicator, Nested, NestedTwin, OverlappingCommunicator
from localsgd.errors import ArgumentError

__all__ = ["find_twin"]


def find_twin(communicator: Communicator, *, is_threaded: bool) -> OverlappingCommunicator | None:
    """Make the group in which syncs overlap.

    Args:
        communicator: All processes.
        is_threaded: Whether another thread will use it, so that what it sends must not pass for what this one sends.

    Returns:
        The same processes in a group of their own; ``None`` where there is one process, which needs none.

    Raises:
        ArgumentError: If the communicator cannot sum while this process computes.

    Cost:
        One new group of processes. Every process must call this.
    """
    if communicator.world_size == 1:
        return None
    if isinstance(communicator, Nested):
        return NestedTwin(communicator.levels, counts=not is_threaded)
    if not isinstance(communicator, OverlappingCommunicator):
        raise ArgumentError(
            f"overlap_steps cannot be combined with a communicator of {type(communicator).__name__}, which cannot sum while "
            "this process computes (it has no twin()); use overlap_steps=0, or Processes()."
        )
    return communicator.twin()
