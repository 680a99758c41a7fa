"""Attention over a Key-Graph: one operator, one file an implementation, one dispatcher."""

from kgt.attention.dispatch import Choice, choose, forced
from kgt.attention.operator import key_graph_attention

__all__ = ["Choice", "choose", "forced", "key_graph_attention"]
