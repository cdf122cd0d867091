from __future__ import annotations

from introspect.chat.lazy import LazyChatModel, spent_by
from introspect.chat.protocol import ChatRequest, Message
from introspect.chat.usage import Usage, UsageCounter
from tests.chat.asking import Scripted


def test_a_model_is_made_once_when_it_is_asked() -> None:
    made: list[Scripted] = []
    lazy = LazyChatModel(lambda: made.append(Scripted([1])) or made[-1])  # type: ignore[func-returns-value]
    assert made == []
    assert lazy.identity == {"model": "scripted"}
    (response,) = lazy.generate([ChatRequest("q1/0", (Message("user", "?"),))])
    assert response.request_id == "q1/0"
    assert len(made) == 1


def test_a_model_that_is_let_go_is_closed_and_made_anew() -> None:
    class Closing(Scripted):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    made: list[Closing] = []
    lazy = LazyChatModel(lambda: made.append(Closing()) or made[-1])  # type: ignore[func-returns-value]
    lazy.close()
    assert made == []
    assert lazy.identity == {"model": "scripted"}
    lazy.close()
    lazy.close()
    assert lazy.identity == {"model": "scripted"}
    assert [model.closed for model in made] == [1, 0]


def test_every_setting_is_the_models() -> None:
    model = Scripted()
    model.concurrency, model.max_failure_rate, model.reads_examples, model.usage = 7, 0.5, True, UsageCounter()
    lazy = LazyChatModel(model)
    assert (lazy.concurrency, lazy.max_failure_rate, lazy.reads_examples) == (7, 0.5, True)
    assert lazy.usage is model.usage


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
