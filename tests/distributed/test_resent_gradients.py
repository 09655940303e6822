"""Gradients that had to be sent once more are counted twice."""

import torch.distributed as dist

from localsgd import Every, LocalSGD
from tests.equivalence.overlapping import num_ahead, small_buckets
from tests.equivalence.plain import OPTIMIZERS, batches, loss_of, perceptron


def change_after_backward():
    model = perceptron()
    optimizer = OPTIMIZERS[0](model.parameters())
    with small_buckets():
        local = LocalSGD(model, optimizer, Every(1))
        found = []
        for step, row in enumerate(batches(4, 2), start=1):
            loss_of(model, row[dist.get_rank()]).backward()
            ahead = num_ahead(local)
            if step == 3:
                for gradient in (p.grad for p in model.parameters() if p.grad is not None):
                    gradient.mul_(0.5)
            local.step()
            optimizer.zero_grad()
            found.append((ahead > 0, local.last_sync.wire_bytes, local.last_sync.bytes_sent))
    return found


def test_a_round_that_was_spoiled_tells_the_bytes_of_both_exchanges(processes):
    for _, usual, spoiled, _ in processes(change_after_backward, 2):
        assert usual[0]
        assert spoiled[0]
        assert usual[1] == usual[2] > 0
        assert spoiled[1:] == (2 * usual[1], 2 * usual[2])
