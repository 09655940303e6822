"""Syncs that land later than they start, that go by fragments, or both."""

from localsgd.late.overlap import Overlap, find_overlap, require_overlap
from localsgd.late.syncs import LateSyncs

__all__ = ["LateSyncs", "Overlap", "find_overlap", "require_overlap"]
