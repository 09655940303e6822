"""Train PyTorch models on many workers that talk rarely: local, post-local and hierarchical SGD.

>>> from localsgd import LocalSGD, PostLocal, replicate
"""

from localsgd.attachment import Attachment
from localsgd.batch_norm import reestimate_batch_norm
from localsgd.buffers import replicate
from localsgd.communicators import Communicator, OneProcess, Processes
from localsgd.compression import BFloat16, Compressor, ErrorFeedback, Float16, Int4, Int8, Sign, TopK
from localsgd.errors import (
    ArgumentError,
    BrokenViewError,
    DataError,
    DisagreementError,
    LocalSGDError,
    NonFiniteError,
    StateError,
    SyncError,
)
from localsgd.local_sgd import LocalSGD
from localsgd.outer import Averaging, BlockMomentum, Nesterov, Outer, OuterOptimizer, SlowMo
from localsgd.reports import SyncReport, Totals
from localsgd.schedules import (
    Decreasing,
    DriftTriggered,
    Every,
    EverySeconds,
    Hierarchical,
    LearningRates,
    Never,
    Observation,
    PostLocal,
    QuadraticRule,
    RoundSoFar,
    Schedule,
    Sequence,
    Warmup,
    WatchingSchedule,
    sync_steps,
)
from localsgd.topology import Topology

__all__ = [
    "ArgumentError",
    "Attachment",
    "Averaging",
    "BFloat16",
    "BlockMomentum",
    "BrokenViewError",
    "Communicator",
    "Compressor",
    "DataError",
    "Decreasing",
    "DisagreementError",
    "DriftTriggered",
    "ErrorFeedback",
    "Every",
    "EverySeconds",
    "Float16",
    "Hierarchical",
    "Int4",
    "Int8",
    "LearningRates",
    "LocalSGD",
    "LocalSGDError",
    "Nesterov",
    "Never",
    "NonFiniteError",
    "Observation",
    "OneProcess",
    "Outer",
    "OuterOptimizer",
    "PostLocal",
    "Processes",
    "QuadraticRule",
    "RoundSoFar",
    "Schedule",
    "Sequence",
    "Sign",
    "SlowMo",
    "StateError",
    "SyncError",
    "SyncReport",
    "TopK",
    "Topology",
    "Totals",
    "Warmup",
    "WatchingSchedule",
    "reestimate_batch_norm",
    "replicate",
    "sync_steps",
]
