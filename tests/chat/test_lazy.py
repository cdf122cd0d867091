from __future__ import annotations

from introspect.chat.lazy import LazyChatModel, spent_by
from introspect.chat.protocol import ChatRequest, Message
from introspect.chat.usage import Usage, UsageCounter
from tests.chat.asking import Scripted


def test_a_model_is_created_when_it_is_used_and_again_after_it_was_closed() -> None:
    class Closing(Scripted):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    made: list[Closing] = []
    lazy = LazyChatModel(lambda: made.append(Closing([1])) or made[-1])  # type: ignore[func-returns-value]
    lazy.close()
    assert made == []
    assert lazy.identity == {"model": "scripted"}
    (response,) = lazy.generate([ChatRequest("q1/0", (Message("user", "?"),))])
    assert response.request_id == "q1/0"
    assert len(made) == 1
    lazy.close()
    lazy.close()
    assert lazy.identity == {"model": "scripted"}
    assert [model.closed for model in made] == [1, 0]


def test_every_setting_is_the_models() -> None:
    model = Scripted()
    model.concurrency, model.max_failure_rate, model.usage = 7, 0.5, UsageCounter()
    model.reads_examples = model.starts_server = True
    lazy = LazyChatModel(model)
    assert (lazy.concurrency, lazy.max_failure_rate, lazy.usage) == (7, 0.5, model.usage)
    assert lazy.reads_examples
    assert lazy.starts_server


def test_what_is_spent_is_that_of_the_models_that_were_asked() -> None:
    class Costly(Scripted):
        def __init__(self) -> None:
            super().__init__()
            self.usage = UsageCounter()
            self.usage.attempt(Usage(3, 4, 1))

    asked, never, free = LazyChatModel(lambda: Costly()), LazyChatModel(lambda: Costly()), LazyChatModel(Scripted())
    assert asked.identity
    assert free.identity
    numbers = spent_by(teacher=asked, student=never, judge=free)
    assert {name.split("/")[0] for name in numbers} == {"teacher"}
    assert (numbers["teacher/prompt_tokens"], numbers["teacher/completion_tokens"]) == (3.0, 4.0)
    # Those that were let go have cost what they cost, and once only.
    given = LazyChatModel(Costly())
    for lazy in (asked, given):
        assert lazy.identity
        lazy.close()
        assert lazy.spent()["prompt_tokens"] == 3.0
        assert lazy.identity
    assert asked.spent()["prompt_tokens"] == 6.0  # another model, made anew
    assert given.spent()["prompt_tokens"] == 3.0  # the same one
