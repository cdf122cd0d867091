from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from introspect.benchmarks.examples import Document, MultiHopExample
from introspect.callbacks.resume_point import ResumePoint
from introspect.chat.protocol import ChatModel, Message, join_reasoning, tag_answer
from introspect.core.errors import InputError
from introspect.synthesis.recipes.base import Recipe
from introspect.synthesis.traces import Trace, TraceSet, load_traces
from introspect.tuning.datamodule import TraceDataModule
from introspect.tuning.loading import SupervisedDataset
from introspect.tuning.student import ReasoningStudent
from introspect.tuning.supervision import Supervised
from tests.tuning.tiny import quiet_trainer, tiny_folder, tiny_tokenizer


class Questions:
    name = "questions"

    def __init__(self, count=12):
        self.count = count

    def load(self, split, limit=None):
        def example(number):
            document = Document("T", ("S.",), 0)
            return MultiHopExample(f"{split}-{number}", self.name, f"Who is {number}?", "A", (document,), (), 1, "easy")

        return [example(number) for number in range(self.count)][:limit]


class Dictation(Recipe):
    """A recipe whose traces need no model: `length` says how long that of each example is."""

    name = "dictation"
    settings = {"speed": "slow"}  # noqa: RUF012

    def __init__(self, length=lambda number: 3 + number % 5, reject=lambda number: False):
        self.length, self.reject, self.asked = length, reject, []

    def synthesize(self, examples, models):
        self.asked.append((len(examples), models.student, models.teacher))
        numbers = [int(example.id.rpartition("-")[2]) for example in examples]
        kept = [(example, n) for example, n in zip(examples, numbers, strict=True) if not self.reject(n)]
        traces = [
            Trace(e.id, 0, 0, self.name, (Message("user", e.question),), "no " * self.length(n) + tag_answer("A"))
            for e, n in kept
        ]
        return TraceSet(traces, {"wrong": len(examples) - len(kept)} if len(kept) < len(examples) else {})


class Mute(ChatModel):
    identity = {"model": "mute"}  # noqa: RUF012

    def generate(self, requests):
        return iter(())


def build(path, **options):
    settings = {
        "benchmark": Questions(),
        "recipe": Dictation(),
        "student": Mute(),
        "teacher": Mute(),
        "store": path / "responses.sqlite",
        "traces": path / "traces.parquet",
        "tokenizer": tiny_tokenizer(),
        "batch_size": 2,
        "max_length": 200,
        "validation_share": 0.25,
    }
    return TraceDataModule(**{**settings, **options})


def ready(path, **options):
    data = build(path, **options)
    data.prepare_data()
    data.setup("fit")
    return data


def manifest(path):
    return json.loads((path / "manifest.json").read_text())


def decoded(batches, tokenizer):
    return [tokenizer.decode(row, skip_special_tokens=True) for batch in batches for row in batch["input_ids"]]


def test_traces_and_their_counts_are_written(tmp_path):
    data = build(tmp_path, recipe=Dictation(reject=lambda number: number < 3), train_examples=10)

    data.prepare_data()

    assert len(load_traces(tmp_path / "traces.parquet")) == 7
    assert manifest(tmp_path) == {
        "benchmark": "questions",
        "recipe": "dictation",
        "settings": {"speed": "slow"},
        "examples": 10,
        "traces": 7,
        "rejections": {"wrong": 3},
    }


def test_traces_are_made_once_by_models_made_when_needed(tmp_path):
    student, recipe = Mute(), Dictation()
    data = build(tmp_path, student=lambda: student, recipe=recipe, train_examples=4)

    data.prepare_data()
    data.prepare_data()

    ((questions, drafter, teacher),) = recipe.asked
    assert (questions, drafter.model, teacher.model) == (4, student, data.teacher)


def test_models_are_closed_whether_the_traces_are_made_or_not(tmp_path):
    closed = []

    class Held(Mute):
        def close(self):
            closed.append(self)

    class Asking(Dictation):
        def synthesize(self, examples, models):
            assert models.student.identity == models.teacher.identity
            raise ConnectionAbortedError

    teacher, student = Held(), Held()
    with pytest.raises(ConnectionAbortedError):
        build(tmp_path, recipe=Asking(), teacher=teacher, student=lambda: student).prepare_data()

    assert closed == [teacher, student]


def test_a_model_that_no_recipe_uses_is_not_made(tmp_path):
    build(tmp_path, student=lambda: pytest.fail("made"), teacher=lambda: pytest.fail("made")).prepare_data()


def test_a_recipe_that_does_not_train_makes_no_traces(tmp_path):
    class Prompt(Dictation):
        trains = False

    data = build(tmp_path, recipe=Prompt(), benchmark=Questions(0))
    data.prepare_data()

    assert not data.trains
    assert build(tmp_path).trains
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_that_reads_its_traces_needs_no_questions(tmp_path):
    class Found(Dictation):
        reads_questions = False

        def synthesize(self, examples, models):
            assert examples == []
            return super().synthesize(Questions(5).load("x"), models)

    data = ready(tmp_path, recipe=Found(), benchmark=Questions(0))

    assert data.counts["traces"] == 5
    assert manifest(tmp_path)["examples"] == 5


def test_traces_are_exported_under_the_published_names(tmp_path):
    class Written(Dictation):
        kind = "synthesis"

    ready(tmp_path, recipe=Written(), export=tmp_path / "out")

    card = (tmp_path / "out" / "README.md").read_text()
    assert "- data: questions\n- recipe: dictation\n- speed: slow\n" in card
    assert len(list((tmp_path / "out" / "data").glob("train-*.parquet"))) == 1
    with pytest.raises(
        InputError, match=r"^datamodule.export: recipe dictation makes no traces that could be exported$"
    ):
        build(tmp_path, export=tmp_path / "x").prepare_data()


class Quiz(LightningModule):
    """Takes questions as they are."""

    def test_step(self, batch, batch_idx):
        self.asked = [example.id for example in batch]


def test_a_test_serves_questions_and_makes_no_traces(tmp_path):
    data, quiz = build(tmp_path, test_examples=3), Quiz()

    Trainer(accelerator="cpu", logger=False, barebones=True).test(quiz, data)

    assert quiz.asked == ["test-0", "test-1", "test-2"]
    assert data.recipe.asked == []


def test_no_questions_give_one_line(tmp_path):
    with pytest.raises(InputError, match=r"^questions: there are no training questions$"):
        build(tmp_path, benchmark=Questions(0)).prepare_data()


def test_no_trace_left_gives_one_line_and_a_manifest(tmp_path):
    data = build(tmp_path, recipe=Dictation(reject=lambda number: True))
    with pytest.raises(InputError, match=r"no trace is left of 12 questions questions .*\(rejected: 12 wrong\)$"):
        data.prepare_data()

    assert manifest(tmp_path)["rejections"] == {"wrong": 12}


def test_overlong_traces_are_dropped_whole_and_counted(tmp_path):
    data = ready(tmp_path, recipe=Dictation(length=lambda number: 100 if number < 4 else 3), validation_share=0)

    assert data.counts["overlong"] == 4
    assert data.counts["train"] == 8
    assert manifest(tmp_path)["tokenised"]["overlong"] == 4
    texts = decoded(data.train_dataloader(), data.tokenizer)
    assert len(texts) == 8
    assert all(text.count("<answer>A</answer>\n") == 1 for text in texts)


def test_overlong_traces_can_be_refused_by_name(tmp_path):
    recipe = Dictation(length=lambda number: 100 if number == 3 else 3)
    with pytest.raises(InputError, match=r"trace train-3/0/0 has \d+ tokens, more than max_length=200$"):
        ready(tmp_path, recipe=recipe, overlong="error", validation_share=0)


def test_nothing_but_overlong_traces_gives_one_line(tmp_path):
    with pytest.raises(InputError, match=r"no trace is left to train on: of 12, 12 are longer than max_length=20 tok"):
        ready(tmp_path, max_length=20)


def test_held_out_traces_are_of_other_examples(tmp_path):
    data = ready(tmp_path)
    trained, held_out = (
        set(decoded(loader, data.tokenizer)) for loader in (data.train_dataloader(), data.val_dataloader())
    )

    assert len(trained) == 9
    assert len(held_out) == 3
    assert not trained & held_out


def test_without_a_share_there_is_no_validation_loader(tmp_path):
    assert ready(tmp_path, validation_share=0).val_dataloader() == []


def test_questions_of_a_split_are_limited(tmp_path):
    data = build(tmp_path, validation_examples=2)

    assert [example.id for example in data.examples("validation")] == ["validation-0", "validation-1"]
    assert len(data.examples("train")) == 12


def test_template_that_strips_the_trace_stops_the_run_and_names_it(tmp_path):
    class Thinking(Dictation):
        def synthesize(self, *arguments):
            made = super().synthesize(*arguments).traces
            target = join_reasoning("hm", tag_answer("A"))
            return TraceSet([Trace(t.example_id, 0, 0, "r", t.messages, target) for t in made], {})

    template = "{% for m in messages %}<|im_start|>{{ m.content.split('</think>')[-1] }}<|im_end|>{% endfor %}"
    with pytest.raises(InputError, match=r"trace train-\d+/0/0: the chat template of .* chat_template=verbatim$"):
        ready(tmp_path, recipe=Thinking(), tokenizer=tiny_tokenizer(template=template))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            {"batch_size": 0, "overlong": "cut"},
            "^datamodule: batch_size is 0, .*; overlong is 'cut', expected drop",
        ),
        ({"max_length": 1}, "max_length is 1, expected 2 or more tokens"),
        ({"validation_share": 1.0}, "validation_share is 1.0, expected 0 or more and less than 1"),
    ],
)
def test_bad_settings_give_one_line(tmp_path, options, complaint):
    with pytest.raises(InputError, match=complaint):
        build(tmp_path, **options)


class Losses(Callback):
    """Notes the loss of every batch; interrupts after some."""

    def __init__(self, stop_after=None, during_step=False):
        self.values, self.stop_after, self.during_step = [], stop_after, during_step

    def on_before_optimizer_step(self, trainer, module, optimizer):
        if self.during_step and len(self.values) == self.stop_after:
            raise ConnectionAbortedError

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.values.append(outputs["loss"].item())
        if not self.during_step and len(self.values) == self.stop_after:
            trainer.save_checkpoint(trainer.default_root_dir + "/stopped.ckpt")
            raise ConnectionAbortedError


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("base"))


def fit(base, path, losses, ckpt_path=None, callbacks=(), **options):
    limits = {"max_epochs": 3, "enable_checkpointing": bool(callbacks), **options}
    trainer = quiet_trainer(path, callbacks=[losses, *callbacks], **limits)
    student = ReasoningStudent(model=str(base), lr=1e-2)
    trainer.fit(student, build(path, tokenizer=str(base)), ckpt_path=ckpt_path, weights_only=True)
    return student


@pytest.fixture(scope="module")
def uninterrupted(base, tmp_path_factory):
    losses = Losses()
    student = fit(base, tmp_path_factory.mktemp("whole"), losses)
    assert len(losses.values) == 15  # 9 traces, batches of 2, 3 epochs
    return losses.values, student.state_dict()


@pytest.mark.parametrize("batches", [2, 5, 7])
def test_resumed_losses_equal_uninterrupted_ones(base, uninterrupted, tmp_path, batches):
    # Stopped within the first epoch, at its end, within the second.
    expected, weights = uninterrupted
    before, after = Losses(stop_after=batches), Losses()
    with pytest.raises(ConnectionAbortedError):
        fit(base, tmp_path, before)

    student = fit(base, tmp_path, after, ckpt_path=tmp_path / "stopped.ckpt")

    assert before.values + after.values == pytest.approx(expected, abs=1e-6)
    for name, value in student.state_dict().items():
        torch.testing.assert_close(value, weights[name])


@pytest.mark.parametrize(
    ("when", "options"),
    [
        ({"every_n_train_steps": 4}, {}),
        ({"every_n_epochs": 1, "save_on_train_epoch_end": True}, {"max_epochs": -1, "max_steps": 15}),
        ({"every_n_epochs": 1}, {}),
    ],
    ids=["steps", "epoch", "validation"],
)
def test_resumes_from_what_model_checkpoint_saves(base, uninterrupted, tmp_path, when, options):
    expected, _ = uninterrupted
    before, after = Losses(stop_after=9, during_step=True), Losses()
    with pytest.raises(ConnectionAbortedError):
        fit(base, tmp_path, before, callbacks=[ModelCheckpoint(tmp_path, "saved", **when)], **options)
    start = torch.load(tmp_path / "saved.ckpt", weights_only=True)["global_step"]

    fit(base, tmp_path, after, ckpt_path=tmp_path / "saved.ckpt", **options)

    assert start == (8 if "every_n_train_steps" in when else 5)
    assert after.values == pytest.approx(expected[start:], abs=1e-6)


class Signal(Callback):
    """The machine is taken away after some batches."""

    def __init__(self, after):
        self.left = after

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("after", "trained"), [(6, 7), (9, 9), (10, 10)])
def test_killed_training_comes_to_the_same_end(base, tmp_path, after, trained):
    # 5 batches an epoch, 2 a step: killed within a step, before the last one of an epoch, at the end of an epoch.
    steps, whole = {"accumulate_grad_batches": 2}, Losses()
    expected = fit(base, tmp_path, whole, **steps).state_dict()
    before, rest = Losses(), Losses()
    point = ResumePoint(tmp_path, "resume", enable_version_counter=False)
    with pytest.raises(SIGTERMException):
        fit(base, tmp_path, before, callbacks=[point, Signal(after)], **steps)
    resumed = fit(base, tmp_path, rest, ckpt_path=tmp_path / "resume.ckpt", **steps)
    assert len(before.values) == trained
    assert before.values + rest.values == pytest.approx(whole.values, abs=1e-6)
    for name, value in resumed.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6)


def test_step_that_was_interrupted_is_made_again(base, uninterrupted, tmp_path):
    expected, _ = uninterrupted
    before, after = Losses(stop_after=7, during_step=True), Losses()
    with pytest.raises(ConnectionAbortedError):
        fit(base, tmp_path, before, callbacks=[ModelCheckpoint(tmp_path, "saved", save_on_exception=True)])
    assert torch.load(tmp_path / "saved.ckpt", weights_only=True)["global_step"] == 7

    fit(base, tmp_path, after, ckpt_path=tmp_path / "saved.ckpt")

    assert before.values + after.values == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"seed": 1}, "trained on other traces than .*; resume with the same data"),
        ({"batch_size": 3}, "trained on 2 sequences a step, not 3; resume with the same datamodule.batch_size"),
        ({"packing": "none"}, "trained with datamodule.packing=shared_prompt, not none"),
        ({"seed": 1, "validation_share": 0.0}, "trained with datamodule.seed=0, not 1"),
    ],
)
def test_resuming_something_else_is_refused(tmp_path, change, complaint):
    kept = {key: value for key, value in change.items() if key == "validation_share"}
    data, changed = ready(tmp_path, **kept), ready(tmp_path, **change)
    with pytest.raises(InputError, match=f"^ckpt_path: the checkpoint was {complaint}"):
        changed.load_state_dict(data.state_dict())

    ready(tmp_path, **kept).load_state_dict(data.state_dict())
    build(tmp_path).load_state_dict(data.state_dict())  # nothing to train on: a test of the checkpoint


def test_a_step_is_the_same_on_any_number_of_devices(tmp_path, monkeypatch):
    traces = SupervisedDataset([Supervised((n, n, 30 + t), 2) for n in range(24) for t in range(3)])
    steps = []
    for batch_size, devices in ((8, 1), (4, 2), (2, 4), (1, 8)):
        monkeypatch.setattr(TraceDataModule, "_world_size", devices)
        data = build(tmp_path / str(devices), batch_size=batch_size)
        data._train = traces
        steps.append(data.train_dataloader().sampler.steps())

    assert len(steps[0]) == 8
    assert {len(step) for step in steps[0]} == {3}  # 9 traces: as near to 8 as whole questions come
    assert steps[1:] == steps[:1] * 3


def test_order_of_batches_is_one_for_all_of_the_training(base, tmp_path):
    data = ready(tmp_path)
    first, again = data.train_dataloader(), data.train_dataloader()

    assert decoded(first, data.tokenizer) == decoded(again, data.tokenizer)
    again.sampler.set_epoch(1)
    assert decoded(first, data.tokenizer) != decoded(again, data.tokenizer)
    assert sorted(decoded(first, data.tokenizer)) == sorted(decoded(again, data.tokenizer))


@pytest.mark.parametrize("options", [{"overfit_batches": 2}, {"limit_train_batches": 2}], ids=["overfit", "limit"])
def test_limited_epochs(base, tmp_path, options):
    class Batches(Losses):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            self.values.append(batch["input_ids"].tolist())

        def on_train_batch_end(self, *arguments):
            pass

    seen = Batches()
    fit(base, tmp_path, seen, **options)

    first, *others = [seen.values[start : start + 2] for start in (0, 2, 4)]
    assert len(seen.values) == 6
    # Overfitting goes over the same batches again and again; a limit is one of epochs that differ.
    assert all(epoch == first for epoch in others) == ("overfit_batches" in options)
