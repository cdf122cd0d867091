from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils.data import DataLoader

from introspect.benchmarks.examples import Document, MultiHopExample
from introspect.callbacks.token_usage import TokenUsage
from introspect.chat.protocol import Sampling
from introspect.core.errors import InputError
from introspect.evaluation.rollouts import Rollout
from introspect.tuning.grpo.advantages import GRPO
from introspect.tuning.grpo.datamodule import RolloutDataModule
from introspect.tuning.grpo.rollout_collection import collect_rollouts
from introspect.tuning.grpo.student import GRPOStudent
from introspect.tuning.packing import collate
from introspect.tuning.student import ReasoningStudent, load_student
from introspect.tuning.supervision import Supervised
from tests.tuning.tiny import quiet_trainer, tiny_folder, tiny_tokenizer

LORA = {"r": 4, "alpha": 8}
SAMPLING = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_tokens=8, seed=3)


class Made:
    """Short questions: prompts of a byte-level model are long enough."""

    name = "made"

    def load(self, split: str, limit: int | None = None) -> list[MultiHopExample]:
        document = Document("T", ("S.",), 1)
        numbers = range(limit or 8)
        return [MultiHopExample(f"{split}-{n}", "made", f"Q{n}?", "a", (document,), (), 2, "easy") for n in numbers]


def letters(rollout: Rollout) -> float:
    """A reward that any model can learn: the share of what it says that is lower-case letters."""
    said = rollout.content + rollout.reasoning
    return sum("a" <= letter <= "z" for letter in said) / max(len(said), 1)


SETTINGS = GRPO(group_size=4, sampling=SAMPLING, reward=letters, kl_weight=0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("base"))


def build(folder: Path, grpo: GRPO = SETTINGS, **options: Any) -> GRPOStudent:
    return GRPOStudent(grpo=grpo, model=str(folder), **{"lr": 1e-3, "schedule": "constant", **options})


def rounds(**options: Any) -> RolloutDataModule:
    return RolloutDataModule(benchmark=Made(), **{"questions": 2, "batch_size": 8, "train_examples": 4, **options})


class Recorder(Callback):
    """Keeps what is logged in every step, and every batch."""

    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []
        self.batches: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})
        self.batches.append(batch)


def fit(
    student: Any, data: LightningDataModule | DataLoader[Any], ckpt_path: Path | None = None, **options: Any
) -> tuple[Trainer, Recorder]:
    recorder = Recorder()
    chosen = {"max_epochs": 1, "enable_checkpointing": False, **options}
    trainer = quiet_trainer(**{**chosen, "callbacks": [*options.get("callbacks", []), recorder]})
    trainer.fit(student, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer, recorder


def weights(student: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in student.state_dict().items()}


def log_probs(network: Any, batch: dict[str, torch.Tensor], temperature: float) -> torch.Tensor:
    """The long way: all logits, with the mask that padding has."""
    with torch.no_grad():
        logits = network(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    rows = (logits / temperature).log_softmax(-1)[:, :-1].gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    return rows[batch["labels"][:, 1:] != -100]


@pytest.mark.parametrize("lora", [None, LORA])
def test_training_raises_the_reward(folder: Path, lora: Any) -> None:
    student = build(folder, replace(SETTINGS, group_size=8), lr=1e-2 if lora is None else 3e-2, lora=lora)
    _, recorder = fit(student, rounds(questions=4, batch_size=16), max_epochs=16, accumulate_grad_batches=2)

    rewards = [logged["train/reward"] for logged in recorder.logged[1::2]]
    assert len(rewards) == 16
    assert rewards[0] < 0.25
    assert sum(rewards[-3:]) / 3 > rewards[0] + 0.3


def test_what_is_logged(folder: Path) -> None:
    _, recorder = fit(build(folder), rounds(passes=2), callbacks=[TokenUsage()])

    first, second = recorder.logged[:2]
    assert {"train/reward", "train/reward_std", "train/completion_tokens", "train/degeneration_rate"} <= first.keys()
    assert {"train/informative_groups", "train/clip_fraction", "train/entropy", "train/kl", "train/lr"} <= first.keys()
    assert first["train/reward"] == second["train/reward"]  # two passes over one round
    assert first["train/reward"] != recorder.logged[2]["train/reward"]
    assert first["train/kl"] == pytest.approx(0, abs=1e-6)
    assert second["train/kl"] > 0
    assert first["train/clip_fraction"] == 0
    assert 3 < first["train/entropy"] < 5.6  # of 259 tokens at most ln 259 = 5.56
    assert first["train/supervised_tokens"] == first["train/completion_tokens"] * 8


def test_a_step_that_goes_too_far_is_clipped(folder: Path) -> None:
    _, recorder = fit(build(folder, lr=1e-2), rounds(passes=3))
    assert recorder.logged[0]["train/clip_fraction"] == 0
    assert recorder.logged[2]["train/clip_fraction"] > 0.05


def test_scores_equal_those_of_all_logits_and_of_what_was_drawn(folder: Path) -> None:
    settings = replace(SETTINGS, sampling=replace(SAMPLING, temperature=0.7))
    student = build(folder, settings)
    student.configure_model()
    before = weights(student)
    _, recorder = fit(student, rounds(batch_size=4, passes=2))

    batch = recorder.batches[0]
    fresh = build(folder, settings)
    fresh.configure_model()
    assert weights(fresh).keys() == before.keys()
    expected = log_probs(fresh.network, batch, 0.7)
    torch.testing.assert_close(batch["sampled"], expected)
    torch.testing.assert_close(batch["reference"], expected)
    assert len(expected) == int((batch["labels"] != -100).sum())


def test_the_tokens_learnt_are_those_drawn(folder: Path) -> None:
    student = build(folder)
    student.configure_model()
    examples = Made().load("train", 4)
    experience = collect_rollouts(student.chat_model(), examples, SETTINGS, 0)

    tokenizer = tiny_tokenizer()
    drifted = 0
    for item in experience.sequences:
        drawn = list(item.input_ids[item.prompt_length :])
        text = tokenizer.decode(drawn, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        drifted += tokenizer(text, add_special_tokens=False)["input_ids"] != drawn
        assert 1 <= len(drawn) <= 8
        assert len(drawn) == 8 or drawn[-1] == tokenizer.eos_token_id
    assert drifted  # the text would have given others


def naive_loss(student: GRPOStudent, batch: dict[str, torch.Tensor], settings: GRPO) -> torch.Tensor:
    """Token by token, over a whole round in one batch: DAPO's mean over tokens."""
    logits = student.network(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    rows = logits.log_softmax(-1)
    total, count = torch.zeros(()), 0
    flat = 0
    for row, advantage in enumerate(batch["advantages"]):
        for position in range(1, batch["labels"].shape[1]):
            if (token := int(batch["labels"][row, position])) == -100:
                continue
            now = rows[row, position - 1, token]
            ratio = (now - batch["sampled"][flat]).exp()
            gain = min(ratio * advantage, ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high) * advantage)
            difference = batch["reference"][flat] - now
            total = total - gain + settings.kl_weight * (difference.exp() - difference - 1)
            count, flat = count + 1, flat + 1
    return total / count


def test_loss_and_gradients_equal_those_taken_token_by_token(folder: Path) -> None:
    student = build(folder)
    _, recorder = fit(student, rounds(passes=2))
    batch = recorder.batches[0]  # drawn from other weights than the student has by now
    student.log = lambda *_, **__: None  # type: ignore[assignment]
    parameters = list(student.parameters())

    loss = student.training_step(batch, 0)
    naive = naive_loss(student, batch, SETTINGS)

    torch.testing.assert_close(loss, naive)
    torch.testing.assert_close(torch.autograd.grad(loss, parameters), torch.autograd.grad(naive, parameters))


@pytest.mark.parametrize("normalization", ["token", "sequence", "constant"])
def test_a_step_does_not_depend_on_how_it_is_split(folder: Path, normalization: Any) -> None:
    settings = replace(SETTINGS, normalization=normalization, mask_truncated=True)
    trained = []
    for batch_size, accumulate in ((8, 1), (1, 8)):
        student = build(folder, settings, eps=1e-3)  # so that Adam does not blow up what rounding leaves of zeros
        fit(student, rounds(batch_size=batch_size), max_steps=1, accumulate_grad_batches=accumulate)
        trained.append(weights(student))
    torch.testing.assert_close(*trained, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_two_processes_do_what_one_does(folder: Path) -> None:
    trained = []
    for questions, options in ((4, {}), (2, {"strategy": "ddp_spawn", "devices": 2})):
        student = build(folder, eps=1e-3)
        student.configure_model()  # here, where the weights are handed back to
        data = rounds(questions=questions)
        trainer = Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            max_epochs=2,
            accumulate_grad_batches=4 // (2 * options.get("devices", 1)),
            **{"devices": 1, **options},
        )
        trainer.fit(student, data)
        trained.append((weights(student), float(trainer.callback_metrics["train/reward"])))
    torch.testing.assert_close(trained[0][0], trained[1][0], rtol=1e-3, atol=1e-5)
    assert trained[0][1] == pytest.approx(trained[1][1])


def test_a_resumed_training_goes_on_as_if_nothing_had_happened(folder: Path, tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    whole = build(folder, schedule="cosine")
    _, all_of_it = fit(whole, rounds(passes=2), max_epochs=3, enable_checkpointing=True, callbacks=[keep])

    resumed = build(folder, schedule="cosine")
    _, rest = fit(resumed, rounds(passes=2), tmp_path / "epoch=0.ckpt", max_epochs=3)

    assert [logged["train/reward"] for logged in rest.logged] == [
        logged["train/reward"] for logged in all_of_it.logged[4:]
    ]
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=0)


def test_between_two_rounds_of_an_epoch_too(folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_epochs": 1, "enable_checkpointing": True}
    whole = build(folder)
    keep = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    fit(whole, rounds(), callbacks=[keep], **options)

    resumed = build(folder)
    _, rest = fit(resumed, rounds(), tmp_path / "step=1.ckpt")

    assert len(rest.logged) == 1
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=0)


def test_within_a_round_that_round_is_drawn_again(folder: Path, tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    fit(build(folder, lr=1e-2), rounds(passes=2), enable_checkpointing=True, callbacks=[keep])

    _, rest = fit(build(folder, lr=1e-2), rounds(passes=2), tmp_path / "step=3.ckpt")

    assert len(rest.logged) == 1
    assert rest.logged[0]["train/clip_fraction"] == 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"questions": 4}, r"in rounds of \[questions.*\] \[2, 4, 8\], not \[4, 4, 8\]"),
        ({"train_examples": 6}, "was trained on other questions"),
    ],
)
def test_other_rounds_are_not_resumed(folder: Path, tmp_path: Path, options: dict[str, int], complaint: str) -> None:
    trainer, _ = fit(build(folder), rounds())
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    with pytest.raises(InputError, match=rf"^ckpt_path: the checkpoint .*{complaint}"):
        fit(build(folder), rounds(**options), tmp_path / "x.ckpt", max_epochs=2)


def test_a_student_without_a_reference_needs_none(folder: Path) -> None:
    student = build(folder, replace(SETTINGS, kl_weight=0.0))
    _, recorder = fit(student, rounds())
    assert not student.has_reference
    assert "train/kl" not in recorder.logged[0]
    assert not {"reference", "sampled"} & recorder.batches[0].keys()


def test_the_reference_is_what_the_student_was_and_no_part_of_it(folder: Path, tmp_path: Path) -> None:
    student = build(folder)
    student.configure_model()
    before = weights(student)
    student.on_fit_start()
    with torch.no_grad():
        student.network.lm_head.weight.add_(1)
    assert student._reference is not None
    torch.testing.assert_close(student._reference[0].state_dict(), {k[8:]: v for k, v in before.items()})
    assert weights(student).keys() == before.keys()
    student.on_fit_end()
    assert student._reference is None


def test_with_adapters_the_reference_is_the_student_without_them(folder: Path) -> None:
    student = build(folder, lora=LORA, lr=0.1)
    _, recorder = fit(student, rounds(passes=2))
    base = ReasoningStudent(model=str(folder))
    base.configure_model()
    batch = recorder.batches[-1]
    torch.testing.assert_close(batch["reference"], log_probs(base.network, batch, 1.0))
    assert (batch["reference"] - batch["sampled"]).abs().max() > 0.01
    assert student._reference is None


def test_checkpoint_and_export_are_those_of_any_student(folder: Path, tmp_path: Path) -> None:
    student = build(folder)
    trainer, _ = fit(student, rounds())
    trainer.save_checkpoint(tmp_path / "x.ckpt")

    again = load_student(tmp_path / "x.ckpt")
    torch.testing.assert_close(weights(again), weights(student))
    assert "grpo" not in torch.load(tmp_path / "x.ckpt", weights_only=True)["hyper_parameters"]

    card = (student.export(tmp_path / "student") / "README.md").read_text()
    assert "- method: GRPO (arXiv 2402.03300): group_size 4, " in card
    assert "reward letters" in card
    exported = ReasoningStudent(model=str(tmp_path / "student"))
    exported.configure_model()
    torch.testing.assert_close(weights(exported), weights(student))


def test_traces_and_rollouts_are_not_mixed_up(folder: Path) -> None:
    with pytest.raises(InputError, match="rollouts are what GRPO learns from; this student is tuned on traces"):
        fit(ReasoningStudent(model=str(folder)), rounds())
    item = Supervised((1, 2, 3), 1)
    traces = DataLoader([item, item], batch_size=2, collate_fn=lambda items: collate(items, 0))
    with pytest.raises(InputError, match="GRPO learns from rollouts, not from traces: set datamodule=rollouts"):
        fit(build(folder), traces)


def test_random_weights_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"^model\.architecture: GRPO improves a student that can answer"):
        build(folder, architecture={"model_type": "qwen3"})


def test_settings_of_rounds(folder: Path) -> None:
    with pytest.raises(InputError, match=r"^datamodule: passes is 0, expected 1 or more; batch_size is 0, expected"):
        rounds(passes=0, batch_size=0)
    with pytest.raises(InputError, match="there are 1 training questions, but a round takes 2"):
        fit(build(folder), rounds(train_examples=1))


def test_drawing_from_a_part_of_the_distribution_is_warned_about(folder: Path, caplog: Any) -> None:
    build(folder, replace(SETTINGS, sampling=replace(SAMPLING, top_k=20)))
    assert "the gradient is that of the whole distribution" in caplog.text
    caplog.clear()
    build(folder)
    assert not caplog.text


def test_sequences_are_cut_at_their_bound(folder: Path) -> None:
    _, free = fit(build(folder), rounds())
    prompt = int((free.batches[0]["labels"][0] == -100).sum())
    _, recorder = fit(build(folder), rounds(max_length=prompt + 3))
    assert recorder.batches[0]["input_ids"].shape[1] == prompt + 3
    assert recorder.logged[0]["train/completion_tokens"] <= 3


def test_questions_without_room_for_an_answer_are_left_out(folder: Path, caplog: Any) -> None:
    _, free = fit(build(folder), rounds())
    prompt = int((free.batches[0]["labels"][0] == -100).sum())
    data = rounds(max_length=prompt + 1, train_examples=12)  # the questions 10 and 11 are a byte longer
    _, recorder = fit(build(folder), data)
    assert "2 of 12 training questions have" in caplog.text
    assert len(recorder.logged) == 5
    with pytest.raises(InputError, match="there are 0 training questions"):
        fit(build(folder), rounds(max_length=20))


def test_a_round_without_any_token_changes_nothing(folder: Path) -> None:
    student = build(folder, replace(SETTINGS, mask_truncated=True, reward=lambda rollout: 0.0))
    student.configure_model()
    before = weights(student)
    _, recorder = fit(student, rounds(options={"max_new_tokens": 1}))
    assert recorder.logged[0]["train/degeneration_rate"] == 1
    assert recorder.logged[0]["train/loss"] == 0
    torch.testing.assert_close(weights(student), before)
