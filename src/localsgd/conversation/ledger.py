"""The books of a run: what each sync told, sums over all of them, losses reported in between."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, final

from torch import Tensor

from localsgd.averaging.averager import Averager
from localsgd.averaging.facts import Facts
from localsgd.errors import StateError
from localsgd.reports import SyncKind, SyncReport, Totals
from localsgd.topology import Topology

__all__ = ["Ledger"]

_MOST_UNREAD = 64
_MOST_RECENT = 256
_AGREED = ("learning_rate", "train_loss")


@final
class Ledger:
    """Keeps account of syncs. Reports are put together when somebody asks for them, not while other workers wait.

    Attributes:
        told: What the last sync told every worker of the block, as far as there was something to tell: ``learning_rate`` and
            ``train_loss``.
    """

    def __init__(self, topology: Topology) -> None:
        """Open the books.

        Args:
            topology: Who averages with whom.
        """
        self._topology = topology
        self._latest: dict[str, Any] | None = None
        self.told: dict[str, Any] = {}
        self._unread: deque[dict[str, Any]] = deque()
        self._recent: deque[dict[str, Any]] = deque(maxlen=_MOST_RECENT)
        self._carried: list[dict[str, Any]] = []
        self._totals = Totals()
        self._rounds = 0
        self._losses: list[tuple[Tensor | float, int]] = [(0.0, 0)] * topology.num_levels

    @property
    def last_sync(self) -> SyncReport | None:
        """The latest report; ``None`` before the first."""
        return None if self._latest is None else SyncReport(**self._latest)

    @property
    def recent(self) -> list[SyncReport]:
        """The latest reports since construction or `load`, at most 256, the earliest first."""
        return [SyncReport(**about) for about in self._recent]

    def latest(self) -> SyncReport:
        """Give the latest report.

        Returns:
            The report.

        Raises:
            StateError: If there is none.
        """
        if self._latest is None:
            raise StateError("there was no sync to report on.")
        return SyncReport(**self._latest)

    @property
    def totals(self) -> Totals:
        """Sums over all syncs."""
        while self._unread:
            self._totals = self._totals.plus(SyncReport(**self._unread.popleft()))
        return self._totals

    @property
    def num_rounds(self) -> int:
        """Syncs so far."""
        return self._rounds

    def observe(self, loss: Tensor | float) -> None:
        """Note the training loss of a step.

        Args:
            loss: The loss, a tensor of one element or a number; a tensor is not read before the next sync.
        """
        value = loss.detach().double() if isinstance(loss, Tensor) else float(loss)
        self._losses = [(total + value, number + 1) for total, number in self._losses]

    def losses(self, level: int) -> tuple[float, int]:
        """Sum the losses noted since the last sync of a level.

        Args:
            level: Level of the topology.

        Returns:
            The sum, and how many there are.
        """
        total, number = self._losses[level - 1]
        return float(total), number

    def begin(self, blocks: Sequence[Averager], *, step: int, level: int, kind: SyncKind) -> dict[str, Any]:
        """Open the account of one sync.

        Args:
            blocks: This process's blocks at the level.
            step: Steps taken by each worker.
            level: Level of the topology.
            kind: Why this sync happens.

        Returns:
            The fields of its report, as far as they are known.
        """
        about: dict[str, Any] = {
            "step": step,
            "level": level,
            "kind": kind,
            "drift_norm": None,
            "cosine": None,
            "seconds": -time.perf_counter(),
            "seconds_waited": 0.0,
            "wire_bytes": -blocks[0].communicator.wire_bytes,
        }
        for block in blocks:
            about["seconds_waited"] -= block.seconds_waited
        return about

    def begin_late(self, *, step: int, level: int, kind: SyncKind) -> dict[str, Any]:
        """Open the account of one sync that goes on while workers step.

        Args:
            step: Steps taken by each worker.
            level: Level of the topology.
            kind: Why this sync happens.

        Returns:
            The fields of its report, as far as they are known. Seconds and bytes are added to it by those who spend them;
            what was carried to this sync so far is with it, under ``carried``.
        """
        carried, self._carried = self._carried, []
        return {
            "step": step,
            "level": level,
            "kind": kind,
            "drift_norm": None,
            "cosine": None,
            "seconds": 0.0,
            "seconds_waited": 0.0,
            "wire_bytes": 0,
            "carried": carried,
        }

    def note(self, about: dict[str, Any], total: Facts, vectors: Sequence[Tensor]) -> None:
        """Write down what an exchange told; of several blocks in this process the first one counts.

        Args:
            about: The account.
            total: Facts summed over the block.
            vectors: What was exchanged.
        """
        if "finite_workers" in about:
            return
        about["finite_workers"], about["learning_rate"] = total.finite_workers, total.learning_rate
        about["train_loss"] = total.loss_sum / total.num_losses if total.num_losses else None
        # Means of half-precision parameters are formed, and travel, in float32.
        payload = 0
        for vector in vectors:
            payload += vector.numel() * max(vector.element_size(), 4)
        about["bytes_by_level"] = self._topology.bytes_by_level(payload, about["level"])

    def close(self, about: dict[str, Any], blocks: Sequence[Averager], *, is_sync: bool) -> None:
        """Close the account of one sync.

        Args:
            about: The account.
            blocks: As for `begin`.
            is_sync: Whether it ends a round; otherwise it is added to the next one that does.
        """
        about["seconds"] += time.perf_counter()
        for block in blocks:
            about["seconds_waited"] += block.seconds_waited
        about["wire_bytes"] += blocks[0].communicator.wire_bytes
        if not is_sync:
            self._carried.append(about)
            return
        self.clear_losses(about["level"])
        carried: Sequence[dict[str, Any]] = ()
        if self._carried:
            carried, self._carried = self._carried, []
        self._enter(about, carried)

    def close_late(self, about: dict[str, Any]) -> None:
        """Close the account of one sync that has landed.

        Args:
            about: The account, from `begin_late`.
        """
        self._enter(about, about.pop("carried"))

    def clear_losses(self, level: int) -> None:
        """Begin to sum losses anew.

        Args:
            level: Level whose round has ended; so have the rounds of the levels below.
        """
        self._losses[:level] = [(0.0, 0)] * level

    def state(self) -> dict[str, Any]:
        """Give what has to be saved."""
        levels = range(1, self._topology.num_levels + 1)
        agreed = {name: self.told.get(name) for name in _AGREED}
        return {"totals": asdict(self.totals), "losses": [self.losses(level) for level in levels], "agreed": agreed}

    def load(self, state: dict[str, Any]) -> None:
        """Take a saved state.

        Args:
            state: What `state` returned.
        """
        self._totals, self._latest = Totals(**state["totals"]), None
        self.told = dict(state.get("agreed", {}))
        self._rounds = self._totals.rounds
        self._unread.clear()
        self._recent.clear()
        self._losses = [(total, number) for total, number in state["losses"]]

    def _enter(self, about: dict[str, Any], carried: Sequence[dict[str, Any]]) -> None:
        """Make a sync the latest one, with what came before as part of it."""
        for earlier in carried:
            for name in ("seconds", "seconds_waited", "wire_bytes"):
                about[name] += earlier[name]
            both = zip(about["bytes_by_level"], earlier["bytes_by_level"], strict=True)
            about["bytes_by_level"] = tuple(one + other for one, other in both)
        self._rounds += 1
        about["round"] = self._rounds
        if self._latest is None or self._latest["step"] != about["step"]:
            self.told = {}
        for name in _AGREED:
            # A second sync after the same step, as of the fragments that were not whole, has no losses of its own to tell.
            if about[name] is not None:
                self.told[name] = about[name]
        self._latest = about
        self._unread.append(about)
        self._recent.append(about)
        if len(self._unread) == _MOST_UNREAD:
            _ = self.totals
