"""What an exchange of a fragment carries, and how that arrives in rows which have moved on meanwhile."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from localsgd.averaging.averager import BufferPolicy
from localsgd.buffers.arithmetic import CHUNK_ELEMENTS, add_scaled_, scale_and_flag_
from localsgd.buffers.flat import FlatRows, RowGroup
from localsgd.buffers.fragments import Fragment
from localsgd.buffers.layout import NUM_SLOTS

__all__ = ["Parcel", "Portion"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Portion:
    """The part of a fragment that lies in one group, and where it lies in the group's vector."""

    group: RowGroup
    """The group."""
    parameters: slice
    """Its parameters in a row."""
    buffers: slice
    """Its module buffers in a row; an empty slice where they do not take part."""
    begin: int
    """Where the parameters begin in the vector; the buffers follow them."""

    @property
    def num_parameters(self) -> int:
        """Number of parameters."""
        return int(self.parameters.stop - self.parameters.start)

    @property
    def num_values(self) -> int:
        """Length of the vector."""
        return self.begin + self.num_parameters + int(self.buffers.stop - self.buffers.start)

    def parts(self, vector: Tensor, begin: int) -> tuple[Tensor, Tensor]:
        """Cut a vector in two.

        Args:
            vector: Shape (..., n).
            begin: Where the parameters begin in it.

        Returns:
            Views: of the parameters, and of the buffers.
        """
        return vector[..., begin : begin + self.num_parameters], vector[..., begin + self.num_parameters :]


@final
class Parcel:
    """What an exchange of one fragment carries, how it is packed, and where it goes when it lands."""

    def __init__(
        self, fragment: Fragment, rows: FlatRows, *, num_workers: int, buffers: BufferPolicy, is_first: bool
    ) -> None:
        """Prepare.

        Args:
            fragment: The fragment.
            rows: The workers of this process.
            num_workers: Workers there are (K).
            buffers: What happens to floating module buffers.
            is_first: Whether row 0 of this process is worker 0.
        """
        self.fragment, self._rows, self.buffers = fragment, rows, buffers
        self.num_workers, self._is_first = num_workers, is_first
        self.pieces: list[Portion] = []
        for group, parameters in zip(rows.groups, fragment.regions, strict=True):
            takes_buffers = fragment.is_last and buffers != "local" and group.layout.num_buffers > 0
            region = group.layout.buffer_region if takes_buffers else slice(0, 0)
            if parameters.start < parameters.stop or takes_buffers:
                begin = 0 if self.pieces else NUM_SLOTS
                self.pieces.append(Portion(group=group, parameters=parameters, buffers=region, begin=begin))

    def snapshots(self) -> list[Tensor]:
        """Copy what every row has now.

        Returns:
            One a piece, shape (V, n): parameters, then buffers.

        Cost:
            One copy of this part of the rows.
        """
        found = []
        for piece in self.pieces:
            storage = piece.group.storage
            found.append(torch.cat([storage[:, piece.parameters], storage[:, piece.buffers]], dim=1))
        return found

    def sum_rows(self, broken: Sequence[int], *, only_buffers: bool = False) -> tuple[list[Tensor], Tensor]:
        """Add up this process's share of the mean; the device is not waited for.

        Args:
            broken: Rows that must stay out.
            only_buffers: Whether parameters are only looked at, because they travel as payloads.

        Returns:
            One vector a piece, with empty slots in the first; and for each row how much of it is not finite, so that it
            was left out.

        Cost:
            Two passes over this part of the rows.
        """
        sums = [
            torch.zeros(piece.num_values, dtype=piece.group.layout.accumulation_dtype, device=piece.group.layout.device)
            for piece in self.pieces
        ]
        bad_rows = torch.zeros(self._rows.num_rows, dtype=torch.float32, device=sums[0].device)
        for row in range(self._rows.num_rows):
            flags = {vector.device: torch.zeros((), dtype=torch.float32, device=vector.device) for vector in sums}
            for piece in self.pieces:
                for part in self._parts_of_row(piece, row):
                    scale_and_flag_(part, 1, found=flags[part.device])
            for flag in flags.values():
                bad_rows[row] += flag.to(bad_rows.device, non_blocking=True)
            for piece, vector in zip(self.pieces, sums, strict=True):
                is_out = (bad_rows[row] + float(row in broken) > 0).to(vector.device, non_blocking=True)
                weights = 1 / self.num_workers, self._buffer_weight(row)
                parts = zip(piece.parts(vector, piece.begin), self._parts_of_row(piece, row), weights, strict=True)
                for target, source, weight in list(parts)[only_buffers:]:
                    _add_unless_(target, source, weight, is_out=is_out)
        return sums, bad_rows

    def values(self, index: int, row: int, snapshots: Sequence[Tensor]) -> Tensor:
        """See the parameters of a row.

        Args:
            index: Number of the piece.
            row: Number of the row.
            snapshots: What `snapshots` returned; empty gives what the row has now.

        Returns:
            A view, shape (n,).
        """
        piece = self.pieces[index]
        return piece.parts(snapshots[index][row], 0)[0] if snapshots else self._parts_of_row(piece, row)[0]

    def uncompressed(self, vectors: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """See what travels as it is where parameters travel as payloads: facts and module buffers.

        Args:
            vectors: One a piece.

        Returns:
            Two views a piece, shape (n,).
        """
        return [
            (vector[: piece.begin], piece.parts(vector, piece.begin)[1])
            for piece, vector in zip(self.pieces, vectors, strict=True)
        ]

    def make_up_(self, vectors: Sequence[Tensor], *, weight: float, only_buffers: bool = False) -> None:
        """Turn a mean over all workers, some of which were left out, into the mean over the others.

        Args:
            vectors: One a piece, wholly summed. Overwritten unless nobody was left out.
            weight: Workers that entered it.
            only_buffers: Whether the parameters are the mean over the others already.
        """
        if 0 < weight != self.num_workers:
            for piece, vector in zip(self.pieces, vectors, strict=True):
                parameters, buffers = piece.parts(vector, piece.begin)
                if not only_buffers:
                    parameters.mul_(self.num_workers / weight)
                if self.buffers == "average":
                    buffers.mul_(self.num_workers / weight)

    def means(self, vectors: Sequence[Tensor]) -> list[Tensor]:
        """Give the mean of the parameters.

        Args:
            vectors: One a piece.

        Returns:
            One view a group of the rows, empty where the fragment has nothing.
        """
        found = []
        own = {id(piece.group): (piece, vector) for piece, vector in zip(self.pieces, vectors, strict=True)}
        for group in self._rows.groups:
            if id(group) in own:
                piece, vector = own[id(group)]
                found.append(piece.parts(vector, piece.begin)[0])
            else:
                found.append(group.storage.new_empty(0, dtype=group.layout.accumulation_dtype))
        return found

    def land_(self, vectors: Sequence[Tensor], snapshots: Sequence[Tensor], row: int, *, mixing: float | None) -> None:
        """Let a consensus arrive in a row that has gone on since.

        A parameter moves by what the consensus differs from the row's snapshot, so that its own progress is kept. A module
        buffer does so as well, but never beyond the mean: it stays between what it is and the mean, so that no variance
        becomes negative. With ``mixing`` both become ``mixing * own + (1 - mixing) * consensus``.

        Args:
            vectors: The consensus, one a piece.
            snapshots: What `snapshots` returned; not looked at with ``mixing``.
            row: Number of the row. Overwritten.
            mixing: The row's own share; ``None`` keeps its progress.
        """
        for index, (piece, vector) in enumerate(zip(self.pieces, vectors, strict=True)):
            targets, news = self._parts_of_row(piece, row), piece.parts(vector, piece.begin)
            for target, new in zip(targets, news, strict=True) if mixing is not None else ():
                _mix_(target, new, share=mixing or 0.0)
            if mixing is None:
                olds = piece.parts(snapshots[index][row], 0)
                _move_(targets[0], news[0], olds[0])
                _move_between_(targets[1], news[1], olds[1])

    def replace_(self, vectors: Sequence[Tensor], row: int) -> None:
        """Let a row begin anew from the consensus.

        Args:
            vectors: The consensus, one a piece.
            row: Number of the row. Overwritten.
        """
        for piece, vector in zip(self.pieces, vectors, strict=True):
            for target, new in zip(self._parts_of_row(piece, row), piece.parts(vector, piece.begin), strict=True):
                target.copy_(new)

    def find_bad(self, row: int, snapshots: Sequence[Tensor]) -> str:
        """Name the first tensor of a row that was not finite.

        Args:
            row: Number of the row.
            snapshots: What `snapshots` returned; empty looks at what the row has now.

        Returns:
            Its name.
        """
        for index, piece in enumerate(self.pieces):
            layout = piece.group.layout
            for entries, region, place in (
                (layout.parameters, piece.parameters, 0),
                (layout.buffers, piece.buffers, piece.num_parameters),
            ):
                for entry in entries:
                    if not region.start <= entry.offset < region.stop:
                        continue
                    begin = entry.offset - region.start + place
                    values = snapshots[index][row, begin:] if snapshots else piece.group.storage[row, entry.offset :]
                    if not bool(values[: entry.num_elements].isfinite().all()):
                        return entry.name
        return "a parameter"

    def _parts_of_row(self, piece: Portion, row: int) -> tuple[Tensor, Tensor]:
        storage = piece.group.storage[row]
        return storage[piece.parameters], storage[piece.buffers]

    def _buffer_weight(self, row: int) -> float:
        if self.buffers == "broadcast":
            return float(self._is_first and row == 0)
        return 1 / self.num_workers


def _chunks(*vectors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut vectors of one length into cache-sized parts on a CPU; an accelerator takes them whole."""
    size = CHUNK_ELEMENTS if vectors[0].device.type == "cpu" else max(vectors[0].numel(), 1)
    yield from zip(*(torch.split(vector, size) for vector in vectors), strict=True)


def _add_unless_(target: Tensor, source: Tensor, scale: float, *, is_out: Tensor) -> None:
    is_known = is_out.device.type == "cpu"  # elsewhere to look at it would wait for the device
    if is_known and bool(is_out):
        return
    for mine, other in _chunks(target, source):
        add_scaled_(mine, other if is_known else other.masked_fill(is_out, 0), scale)


def _move_(target: Tensor, new: Tensor, old: Tensor) -> None:
    for mine, to, start in _chunks(target, new, old):
        move = to - start.to(to.dtype)
        if mine.dtype == move.dtype:
            mine.add_(move)
        else:
            mine.copy_(mine.to(move.dtype) + move)


def _move_between_(target: Tensor, new: Tensor, old: Tensor) -> None:
    for mine, to, start in _chunks(target, new, old):
        wide = mine.to(to.dtype)
        moved = wide + (to - start.to(to.dtype))
        mine.copy_(torch.minimum(torch.maximum(moved, torch.minimum(wide, to)), torch.maximum(wide, to)))


def _mix_(target: Tensor, new: Tensor, *, share: float) -> None:
    for mine, to in _chunks(target, new):
        mine.copy_(share * mine.to(to.dtype) + (1 - share) * to)
