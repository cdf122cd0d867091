from __future__ import annotations

import pytest

from introspect.core.errors import InputError
from introspect.oracle.teacher import Oracle
from introspect.synthesis.recipes import MetacognitivePrompt
from introspect.synthesis.recipes.base import Models
from tests.synthesis.recipes.scripted import EXAMPLES, Scripted, right


def test_nobody_is_asked_and_nothing_is_made() -> None:
    student = Scripted(right)
    made = MetacognitivePrompt().synthesize(EXAMPLES, Models(student, Oracle()))
    assert (made.traces, made.rejections, student.asked) == ((), {}, [])
    assert MetacognitivePrompt().settings == {"prompt": "metacognitive"}
    with pytest.raises(InputError, match=r"^recipe.prompt is 'x'"):
        MetacognitivePrompt(prompt="x")  # type: ignore[arg-type]
