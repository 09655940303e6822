"""What lies between two syncs of everyone: where the workers started, and what the outer optimizer remembers."""

from collections.abc import Iterable, Sequence
from typing import Any, final

from torch import Tensor

from localsgd._checks import require
from localsgd.averaging.facts import Facts
from localsgd.buffers.arithmetic import squared_distance
from localsgd.buffers.flat import FlatRows
from localsgd.buffers.fragments import Fragment
from localsgd.outer.protocol import OuterOptimizer

__all__ = ["Consensus", "describe_drift"]


@final
class Consensus:
    """Anchors, and one state of the outer optimizer for each fragment in each group.

    Attributes:
        anchors: Parameters after the last sync, one vector (P,) a group; empty where nothing needs them.
    """

    def __init__(
        self, rows: FlatRows, outer: OuterOptimizer, fragments: Sequence[Fragment], *, keeps_anchor: bool
    ) -> None:
        """Begin with the parameters of the rows, which are alike.

        Args:
            rows: The workers of this process.
            outer: What to do with everyone's mean.
            fragments: How rows are cut.
            keeps_anchor: Whether to keep an anchor.
        """
        self._groups, self._outer, self._fragments = rows.groups, outer, fragments
        start = [group.storage[0, : group.layout.num_parameters] for group in rows.groups]
        wide = [group.layout.accumulation_dtype for group in rows.groups]
        self.anchors = [p.to(d, copy=True) for p, d in zip(start, wide, strict=True)] if keeps_anchor else []
        self._states = [
            [outer.init(p[r].to(d)) for p, d, r in zip(start, wide, fragment.regions, strict=True)]
            for fragment in fragments
        ]

    def step_(self, vectors: Sequence[Tensor], *, inner_lr: float, except_for: Iterable[int] = ()) -> None:
        """Turn the mean of whole rows into the next consensus, and start from there.

        Args:
            vectors: The mean, one vector a group, laid out like a row. The parameters are overwritten.
            inner_lr: Learning rate of the round just ended.
            except_for: Numbers of fragments that are to stay as they are: nobody has moved there since their last sync.
        """
        for fragment in self._fragments:
            means = [vector[region] for vector, region in zip(vectors, fragment.regions, strict=True)]
            if fragment.index not in except_for:
                self.step_fragment_(fragment, means, inner_lr=inner_lr)

    def step_fragment_(
        self, fragment: Fragment, means: Sequence[Tensor], *, inner_lr: float, is_rounded: bool = True
    ) -> None:
        """Turn the mean of a fragment into its next consensus, and start from there.

        Args:
            fragment: The fragment.
            means: The mean of its parameters, one vector a group. Overwritten.
            inner_lr: Learning rate of the round just ended.
            is_rounded: Whether rows began the round with the anchor itself, rounded to their dtype.
        """
        for index, (group, mean, region) in enumerate(zip(self._groups, means, fragment.regions, strict=True)):
            anchor = self.anchors[index][region] if self.anchors else mean
            if is_rounded and self.anchors and group.layout.dtype != anchor.dtype:
                # Rows hold the anchor rounded: without this, rounding would pass for a change that the workers made.
                mean.add_(anchor - anchor.to(group.layout.dtype))
            self._outer.update_(mean, anchor, self._states[fragment.index][index], inner_lr=inner_lr)
            if self.anchors:
                anchor.copy_(mean)

    def squared_drift(self, fragment: Fragment) -> float:
        """Sum the squared distances of this process's rows to the anchors, in one fragment.

        Args:
            fragment: The fragment.

        Returns:
            The sum over the rows.
        """
        triples = zip(self._groups, self.anchors, fragment.regions, strict=True)
        return sum(
            squared_distance(row[region], anchor[region]) for group, anchor, region in triples for row in group.storage
        )

    def squared_change(self, fragment: Fragment, means: Sequence[Tensor]) -> float:
        """Give the squared distance of a mean to the anchors, in one fragment.

        Args:
            fragment: The fragment.
            means: The mean of its parameters, one vector a group.

        Returns:
            The squared distance.
        """
        triples = zip(means, self.anchors, fragment.regions, strict=True)
        return sum(squared_distance(mean, anchor[region]) for mean, anchor, region in triples)

    def state(self) -> dict[str, Any]:
        """Give what has to be saved; tensors are not copies."""
        return {"anchors": list(self.anchors), "outer_state": self._flat_states()}

    def require_fit(self, state: dict[str, Any]) -> None:
        """Check that a saved state is of these options.

        Args:
            state: What `state` returned.

        Raises:
            ArgumentError: If it holds more or fewer anchors, or another outer state.
        """
        saved_anchors, saved_outer, own = state["anchors"], state["outer_state"], self._flat_states()
        require(
            len(saved_anchors) == len(self.anchors) and [*map(set, saved_outer)] == [*map(set, own)],
            f"state holds {len(saved_anchors)} anchor(s) and outer state {[*map(sorted, saved_outer)]}, these options need "
            f"{len(self.anchors)} and {[*map(sorted, own)]}; resume with the outer optimizer, fragments and "
            "measure_drift with which it was saved.",
        )

    def load(self, state: dict[str, Any]) -> None:
        """Take a saved state that fits.

        Args:
            state: What `state` returned.
        """
        for mine, saved in zip(self.anchors, state["anchors"], strict=True):
            mine.copy_(saved)
        for own, saved_state in zip(self._flat_states(), state["outer_state"], strict=True):
            for name, tensor in own.items():
                tensor.copy_(saved_state[name])

    def _flat_states(self) -> list[dict[str, Tensor]]:
        return [state for states in self._states for state in states]


def describe_drift(total: Facts, squared_change: float) -> dict[str, float | None]:
    """Word how far the workers had moved, and how much of it they had in common.

    Args:
        total: The facts summed over all processes.
        squared_change: Squared distance of the workers' mean to the anchor.

    Returns:
        ``drift_norm`` and ``cosine``; ``None`` where they are not defined.
    """
    count = total.finite_workers
    drift = (total.squared_drift / count) ** 0.5 if count else None
    cosine = None
    if count > 1 and total.squared_drift > 0:
        cosine = (count**2 * squared_change / total.squared_drift - 1) / (count - 1)
    return {"drift_norm": drift, "cosine": cosine}
