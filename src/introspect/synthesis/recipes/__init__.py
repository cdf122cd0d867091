"""How traces are made: which requests an example gives rise to, and which replies become traces."""

from introspect.synthesis.recipes.distill import SelfDistill, TeacherDistill
from introspect.synthesis.recipes.metacognitive_prompt import MetacognitivePrompt
from introspect.synthesis.recipes.published import Published, PublishedGuides
from introspect.synthesis.recipes.rewriting import MBTR, DirectR, DistillR
from introspect.synthesis.recipes.synthesis import MBTS

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
