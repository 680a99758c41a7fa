"""Attention over a Key-Graph: one file an implementation, one dispatcher."""

from kgt.attention.dispatch import Choice, attend, choose, forced

__all__ = ["Choice", "attend", "choose", "forced"]
