"""Overlapped and fragmented local SGD, written down naively in plain torch: the reference of their tests."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from localsgd.compression import Compressor
from tests.equivalence.plain import Batch, OptimizerFactory, loss_of

__all__ = ["Rules", "Wire", "train_late"]


@dataclass(kw_only=True)
class Rules:
    """What the reference is told; ``fragments`` lists the names of each fragment's parameters."""

    period: int
    overlap_steps: int = 0
    mixing: float | None = None
    momentum: float | None = None
    fragments: Sequence[Sequence[str]] | None = None
    finish: bool = True
    wire: "Wire | None" = None
    displacements: dict[str, Tensor] = field(default_factory=dict)
    anchors: dict[str, Tensor] = field(default_factory=dict)


class Wire:
    """Payloads between K workers, each of which owns a share of every fragment."""

    def __init__(self, compressor: Compressor) -> None:
        self.compressor, self.owed = compressor, {}

    def means(self, snapshots: dict[str, list[Tensor]], anchors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The mean of each tensor of a fragment: where everybody began, plus what the payloads tell."""
        names = tuple(name for name in snapshots if name in anchors)
        meant = [_flat([snapshots[name][k] - anchors[name] for name in names]) for k in range(len(snapshots[names[0]]))]
        meant = [change / len(meant) for change in meant]
        zeros = torch.zeros_like(meant[0])
        owed, owed_in_sum = self.owed.setdefault(names, ([zeros.clone() for _ in meant], zeros.clone()))
        told = zeros.clone()
        for owner, share in enumerate(torch.arange(len(zeros)).tensor_split(len(meant))):
            total = torch.zeros_like(zeros[share])
            for worker, change in enumerate(meant):
                part = change[share] + owed[worker][share]
                total += part if worker == owner else self._through(part)
                if self.compressor.keeps_residual and worker != owner:
                    owed[worker][share] = part - self._through(part)
            total += owed_in_sum[share]
            told[share] = self._through(total)
            if self.compressor.keeps_residual:
                owed_in_sum[share] = total - told[share]
        found, begin = {}, 0
        for name in names:
            size = anchors[name].numel()
            found[name] = anchors[name] + told[begin : begin + size].view_as(anchors[name])
            begin += _padded(size)
        return found

    def _through(self, part: Tensor) -> Tensor:
        return self.compressor.decode(self.compressor.encode(part), part.numel()).to(part.dtype)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors one after the other; each begins at a multiple of 64 bytes."""
    return torch.cat([F.pad(t.flatten(), (0, _padded(t.numel()) - t.numel())) for t in tensors])


def _padded(size: int) -> int:
    return -(-size // 8) * 8  # of 8 bytes each


def train_late(
    model: nn.Module, make: OptimizerFactory, data: Sequence[Sequence[Batch]], rules: Rules
) -> list[nn.Module]:
    """Rounds of ``period`` steps; a fragment's mean is taken when it is due and arrives ``overlap_steps`` later."""
    models = [copy.deepcopy(model) for _ in data[0]]
    optimizers = [make(own.parameters()) for own in models]
    tensors = [_tensors(own) for own in models]
    parameters = [name for name, p in model.named_parameters() if p.requires_grad]
    buffers = [name for name, b in model.named_buffers() if b.is_floating_point()]
    rules.anchors = {name: tensors[0][name].clone() for name in parameters}
    rules.displacements = {name: torch.zeros_like(tensors[0][name]) for name in parameters}
    fragments = [list(names) for names in rules.fragments or [parameters]]
    fragments[-1] += buffers
    count, under_way, synced = len(fragments), [], [0] * len(fragments)
    for step, row in enumerate(data, start=1):
        for own, optimizer, batch in zip(models, optimizers, row, strict=True):
            optimizer.zero_grad()
            loss_of(own, batch).backward()
            optimizer.step()
        while under_way and under_way[0][0] == step:
            _land(tensors, under_way.pop(0)[1], rules)
        offset = (step - 1) % rules.period + 1
        for index, names in enumerate(fragments):
            if offset == -(-rules.period * (index + 1) // count):
                snapshots = {name: [own[name].clone() for own in tensors] for name in names}
                under_way.append((step + rules.overlap_steps, snapshots))
                synced[index] = step
        while under_way and under_way[0][0] == step:
            _replace(tensors, under_way.pop(0)[1], rules)
    if rules.finish:
        for due, snapshots in under_way:
            is_fresh = due == len(data) + rules.overlap_steps
            (_replace if is_fresh else _land)(tensors, snapshots, rules)
        for names, step in zip(fragments, synced, strict=True):
            if step != len(data):
                _replace(tensors, {name: [own[name].clone() for own in tensors] for name in names}, rules)
    return models


@torch.no_grad()
def _land(tensors: Sequence[dict[str, Tensor]], snapshots: dict[str, list[Tensor]], rules: Rules) -> None:
    means = _means(snapshots, rules)
    for name, olds in snapshots.items():
        new = _consensus(name, means[name], rules)
        for own, old in zip(tensors, olds, strict=True):
            if rules.mixing is not None:
                own[name].copy_(rules.mixing * own[name] + (1 - rules.mixing) * new)
            elif name in rules.anchors:
                own[name] += new - old
            else:  # a buffer goes towards the mean, and no further
                towards = own[name] + (new - old)
                lowest, highest = torch.minimum(own[name], new), torch.maximum(own[name], new)
                own[name].copy_(torch.clamp(towards, lowest, highest))


@torch.no_grad()
def _replace(tensors: Sequence[dict[str, Tensor]], snapshots: dict[str, list[Tensor]], rules: Rules) -> None:
    for name, mean in _means(snapshots, rules).items():
        new = _consensus(name, mean, rules)
        for own in tensors:
            own[name].copy_(new)


def _means(snapshots: dict[str, list[Tensor]], rules: Rules) -> dict[str, Tensor]:
    means = {name: torch.stack(list(olds)).mean(0) for name, olds in snapshots.items()}
    return means if rules.wire is None else means | rules.wire.means(snapshots, rules.anchors)


def _consensus(name: str, mean: Tensor, rules: Rules) -> Tensor:
    if name not in rules.anchors:
        return mean
    if rules.momentum is None:
        rules.anchors[name] = mean
        return mean
    displacement = rules.displacements[name]
    displacement.mul_(rules.momentum).add_(rules.anchors[name] - mean)
    rules.anchors[name] = rules.anchors[name] - displacement
    return rules.anchors[name].clone()


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    own = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    return own | {name: b for name, b in model.named_buffers() if b.is_floating_point()}
