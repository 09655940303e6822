"""Holding the consensus model for a while, and putting every worker back as it was."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from localsgd.buffers.flat import FlatRows
from localsgd.snapshot import Snapshot
from localsgd.stepping.stepper import Stepper
from localsgd.synchronizer import Synchronizer

__all__ = ["hold_consensus"]


@contextmanager
def hold_consensus(
    rows: FlatRows, models: Sequence[nn.Module], stepper: Stepper, *, synchronizer: Synchronizer
) -> Iterator[nn.Module]:
    """Replace every row by the workers' mean inside a ``with`` block; see `LocalSGD.averaged`.

    Args:
        rows: The workers of this process.
        models: One module a row.
        stepper: What must not step meanwhile.
        synchronizer: What forms the mean.

    Yields:
        The first row's model.
    """
    stepper.require_idle("averaged()")
    for row in range(rows.num_rows):
        # Takes back buffers that were bound anew; the exchange tells all processes about the rest.
        rows.find_broken(row)
    snapshot = Snapshot(rows, models)
    stepper.is_reading = True
    try:
        synchronizer.read_consensus_(step=stepper.clock.steps)
        with synchronizer.gradients.held():
            yield models[0]
    finally:
        stepper.is_reading = False
        snapshot.restore()
