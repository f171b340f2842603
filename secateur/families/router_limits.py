"""How few experts a router can do with."""

from __future__ import annotations


def fewest_experts(top_k: int, groups: int = 1, used_groups: int = 1, group_best: int = 1) -> int:
    """The smallest number of experts per layer with which the model still runs.

    A token is sent to `top_k` experts out of `used_groups` of `groups` equal groups, and groups
    are ranked by the sum of their `group_best` best scores; 1 group means no groups.
    """
    if groups == 1:
        return top_k
    return groups * max(-(-top_k // used_groups), group_best)
