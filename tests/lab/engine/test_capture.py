"""That steps may be captured: a recording of one step's tensor operations, done again, trains as Python does."""

import pytest
import torch

from localsgd.lab.engine import GraphEngine, PlainEngine
from tests.lab.engine.recording import Recording
from tests.lab.engine.test_mini_batches import make_crew, state_of

ADAMW = ["optimizer.name=adamw", "optimizer.nesterov=false", "optimizer.weight_decay=0.1"]
RUNS = {
    "local": ["algorithm=local"],
    "local, AdamW": ["algorithm=local", *ADAMW],
    "local, LARS": ["algorithm=local", "optimizer.name=lars"],
    "local, clipping": ["algorithm=local", "optimizer.clip_norm=0.1"],
    "local, no momentum": ["algorithm=local", "optimizer.momentum=0", "optimizer.nesterov=false"],
    "local, bfloat16": ["algorithm=local", "precision=bfloat16", "channels_last=true"],
    "mini-batch": [],
    "mini-batch, AdamW": ADAMW,
    "mini-batch, LARS": ["optimizer.name=lars"],
    "mini-batch, clipping": ["optimizer.clip_norm=0.1"],
    "mini-batch, bfloat16": ["precision=bfloat16"],
    "mini-batch, an outer optimizer": ["outer.name=nesterov"],
    "mini-batch, one worker": ["workers=1", "batch_size=64"],
    "blocks": ["algorithm=hierarchical", "block_size=2", "block_period=2", "period=1"],
    "post-local": ["algorithm=post-local"],
}


def train(engine, crew, num_steps=12):
    while crew.local.steps < num_steps:
        engine.take_steps(crew.local.steps, min(4, num_steps - crew.local.steps))
    return state_of(crew)


@pytest.mark.parametrize("name", RUNS)
def test_recorded_steps_train_as_the_plain_engine_does(name):
    plain, recorded = (make_crew(*RUNS[name], name="digits-cnn") for _ in range(2))
    expected = train(PlainEngine(plain), plain)
    before = Recording.num_replays
    found = train(GraphEngine(recorded, make_replay=Recording), recorded)
    assert Recording.num_replays - before >= 4
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_recording_notices_what_a_graph_would_not():
    rate, weight = [0.5], torch.ones(2)
    step = Recording(lambda: weight.mul_(rate[0]), torch.device("cpu"))
    for rate[0] in (0.5, 0.25, 0.125, 0.125):
        step()
    assert weight.tolist() == [0.5 * 0.25**3] * 2  # the rate of the call that was recorded
    reads = Recording(lambda: weight.sum().item(), torch.device("cpu"))
    reads()
    with pytest.raises(RuntimeError, match="a value was read on the host"):
        reads()
