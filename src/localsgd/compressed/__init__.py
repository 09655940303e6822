"""Means of which only payloads cross the wire."""

from localsgd.compressed.mean import CompressedMean
from localsgd.compressed.payload_sums import PayloadSums
from localsgd.compressed.sum import CompressedSum

__all__ = ["CompressedMean", "CompressedSum", "PayloadSums"]
