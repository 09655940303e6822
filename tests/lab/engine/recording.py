"""A CUDA graph without a GPU: the tensor operations of one call are recorded, and later calls do only those again."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["Recording"]

aten = torch.ops.aten
FORBIDDEN = {
    aten._local_scalar_dense.default: "a value was read on the host",
    aten.equal.default: "values were compared on the host",
    aten.nonzero.default: "a shape depends on values",
    aten.masked_select.default: "a shape depends on values",
    aten.lift_fresh.default: "numbers of Python were copied to the device",
    aten.random_.default: "numbers were drawn",
    aten.native_dropout.default: "numbers were drawn",
    aten.bernoulli_.float: "numbers were drawn",
}


class Recording:
    """Does what `localsgd.lab.engine.replay.Replay` does on a GPU: direct, then captured, then replayed.

    What a replay computes goes into the tensors that were recorded, wherever they are, and Python is not asked again: a
    number that has changed meanwhile, a tensor that was replaced, a step that Python alone had counted are wrong from then
    on. What a capture forbids is an error.
    """

    num_replays = 0

    def __init__(self, function, device) -> None:
        assert device.type == "cpu"
        self._function, self._has_run = function, False
        self._operations: list[tuple[Any, Any, Any, Any]] | None = None

    def __call__(self) -> None:
        if not self._has_run:
            self._function()
            self._has_run = True
            return
        if self._operations is None:
            self._operations = self._record()
            return  # on a CPU the recording itself has done the work
        Recording.num_replays += 1
        with torch.no_grad():
            for operation, args, kwargs, results in self._operations:
                for old, new in zip(tree_leaves(results), tree_leaves(operation(*args, **kwargs)), strict=True):
                    if isinstance(old, Tensor) and old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                        old.copy_(new)

    def drop(self) -> None:
        self._operations, self._has_run = None, False

    def _record(self):
        operations = []

        class Recorder(TorchDispatchMode):
            def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
                if operation in FORBIDDEN:
                    raise RuntimeError(f"operation not permitted when stream is capturing: {FORBIDDEN[operation]}")
                results = operation(*args, **(kwargs or {}))
                # Lists are copied: their owner may change them.
                operations.append(tree_map(lambda leaf: leaf, (operation, args, kwargs or {}, results)))
                return results

        with Recorder():
            self._function()
        return operations
