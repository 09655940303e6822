"""Facts survive the way through slots, sync after sync."""

import math

import pytest
import torch

from localsgd.averaging.facts import Facts, Words, from_slots, to_slots
from localsgd.buffers.layout import NUM_SLOTS

FACTS = Facts(
    finite_workers=3,
    stop_votes=1,
    squared_drift=0.25,
    broken_workers=2,
    learning_rate=0.1,
    loss_sum=2.5,
    num_losses=4,
    tag=60,
    tag_squared=3600,
    weight=1.5,
    spoiled=1,
    unnoticed=2,
)


def test_facts_come_back_as_they_were_told():
    told = torch.tensor(to_slots(FACTS, is_first=True), dtype=torch.float32)
    assert from_slots(told.tolist()) == FACTS._replace(learning_rate=pytest.approx(0.1, abs=1e-12))


def test_only_the_first_process_tells_its_learning_rate():
    assert from_slots(to_slots(FACTS, is_first=False)) == FACTS._replace(learning_rate=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_words_are_written_anew_when_the_facts_change_or_the_slots_did(dtype):
    words, slots = Words(dtype, is_first=True), torch.full((NUM_SLOTS,), 7.0, dtype=dtype)
    for facts in [Facts(finite_workers=0), FACTS, FACTS, FACTS._replace(tag=1), FACTS]:
        slots.add_(1)  # what an exchange leaves there
        words.write_(facts, slots)
        assert torch.equal(slots, torch.tensor(to_slots(facts, is_first=True), dtype=dtype))


@pytest.mark.parametrize("loss", [math.nan, math.inf, 1e39])
def test_losses_that_are_not_finite_travel_as_such(loss):
    slots = torch.zeros(NUM_SLOTS)
    Words(torch.float32, is_first=True).write_(FACTS._replace(loss_sum=loss), slots)
    assert not math.isfinite(from_slots(slots.tolist()).loss_sum)
