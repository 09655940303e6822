"""How rows and processes become one mean, and what lies between two of them."""

from localsgd.averaging.averager import Averager, BufferPolicy, Offender
from localsgd.averaging.consensus import Consensus
from localsgd.averaging.facts import Facts

__all__ = ["Averager", "BufferPolicy", "Consensus", "Facts", "Offender"]
