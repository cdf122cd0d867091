"""How traces are made: which requests an example gives rise to, and which replies become traces."""

from introspect.reasoning.recipes.mbt import MBTR, MBTS
from introspect.reasoning.recipes.self_distill import SelfDistill

__all__ = ["MBTR", "MBTS", "SelfDistill"]
