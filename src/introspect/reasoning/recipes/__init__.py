"""How traces are made: which requests an example gives rise to, and which replies become traces."""

from introspect.reasoning.recipes.distill import SelfDistill, TeacherDistill
from introspect.reasoning.recipes.metacognitive_prompt import MetacognitivePrompt
from introspect.reasoning.recipes.published import Published, PublishedGuides
from introspect.reasoning.recipes.rewriting import MBTR, DirectR, DistillR
from introspect.reasoning.recipes.synthesis import MBTS

__all__ = [
    "MBTR",
    "MBTS",
    "DirectR",
    "DistillR",
    "MetacognitivePrompt",
    "Published",
    "PublishedGuides",
    "SelfDistill",
    "TeacherDistill",
]
