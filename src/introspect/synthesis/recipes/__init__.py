"""How traces are made: the requests of each recipe, and the traces that it makes of the responses."""

from introspect.synthesis.recipes.distill import SelfDistill, TeacherDistill
from introspect.synthesis.recipes.mbt import MBTR, MBTS, DirectR, DistillR
from introspect.synthesis.recipes.metacognitive_prompt import MetacognitivePrompt
from introspect.synthesis.recipes.published import Published, PublishedGuides

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
