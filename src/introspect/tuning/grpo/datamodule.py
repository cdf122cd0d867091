"""The data of a GRPO training: from questions to rollouts of the current student to batches.

Training goes in rounds. A round draws questions, lets the student answer each a few times, scores the answers, and cuts
the rollouts into micro-batches, which Lightning trains on like on any other data.

Legend: b sequences, s tokens (padded length), n supervised tokens of a batch, q questions, g rollouts of a question.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from introspect.benchmarks.base import Benchmark
from introspect.benchmarks.examples import MultiHopExample
from introspect.chat.prompts import question_messages
from introspect.chat.protocol import ChatRequest
from introspect.chat.templates import ChatTemplate, pad_id
from introspect.core.errors import InputError
from introspect.core.resuming import EpochLoader, Place, check_same, place
from introspect.tuning.grpo.advantages import GRPO, token_weights
from introspect.tuning.grpo.rollout_collection import Experience, Plan, collect_rollouts
from introspect.tuning.grpo.student import GRPOStudent
from introspect.tuning.packing import Batch, collate
from introspect.tuning.questions import QuestionsDataModule

log = logging.getLogger(__name__)


class RoundLoader(EpochLoader):
    """The micro-batches of an epoch, each round of them drawn when it is reached, from the student as it then is.

    A batch is that of `loading.collate`, with `advantages` [b] float32; `weights` [b] float32, of each of its tokens
    in the loss of its micro-batch; `statistics` of the round over all processes; where the student is held near a
    reference, `reference` [n], the log-probabilities of the tokens under it; and where a round has several optimizer
    steps, `sampled` [n], those under the student that drew them.

    A training that is resumed within a round draws that round again, from the weights that it is resumed with, and goes
    on at its place in it.

    Args:
        examples: the training questions.
        plan: how they become batches.
        student: who answers them and is trained.
        pad_id: the token that fills up short sequences.
        options: of the student's chat model.
        reduce: sums a tensor over all processes.
        place: see `EpochLoader`.
    """

    def __init__(
        self,
        examples: Sequence[MultiHopExample],
        plan: Plan,
        student: GRPOStudent,
        *,
        pad_id: int,
        options: Mapping[str, Any],
        reduce: Callable[[Tensor], Tensor],
        place: Callable[[], Place],
    ) -> None:
        super().__init__(place)
        self.examples = examples
        self.plan = plan
        self.student = student
        self.pad_id = pad_id
        self.options = options
        self._sum = reduce

    def __len__(self) -> int:
        """Micro-batches of a whole epoch, also while one is being resumed."""
        return self.plan.rounds * self.plan.batches

    def batches(self, place: Place) -> Iterator[Batch]:
        """See `EpochLoader.batches`."""
        first, done = divmod(place.trained, self.plan.batches)
        for index, questions in enumerate(self.plan.order(place.epoch)[first:], start=first):
            examples = [self.examples[question] for question in questions]
            batches = self.round(examples, place.epoch * self.plan.rounds + index)
            for position, batch in enumerate(batches):
                if index > first or position >= done:
                    yield batch

    def round(self, examples: Sequence[MultiHopExample], number: int) -> Iterator[Batch]:
        """The micro-batches of one round."""
        student, plan = self.student, self.plan
        with student.precision():
            experience = collect_rollouts(student.chat_model(**self.options), examples, student.grpo, number)
        statistics = self._sum(experience.statistics) / plan.replicas
        steps = plan.steps(torch.tensor([len(item.input_ids) for item in experience.sequences]), number)
        scores = self._scores(experience)
        for step in steps:
            weights = self._weights(experience, [index for batch in step for index in batch])
            for batch in step:
                yield {
                    **collate([experience.sequences[index] for index in batch], self.pad_id),
                    "advantages": experience.advantages[batch],
                    "weights": weights[batch],
                    "statistics": statistics,
                    **{name: torch.cat([rows[index] for index in batch]) for name, rows in scores.items()},
                }

    def _weights(self, experience: Experience, step: Sequence[int]) -> Tensor:
        """Of the tokens of every rollout, as far as they are in an optimizer step, [q·g]."""
        counted = experience.counted[list(step)]
        totals = self._sum(torch.stack([(counted > 0).sum(), counted.sum()]))
        weights = token_weights(
            experience.counted,
            self.student.grpo.normalization,
            rollouts=int(totals[0]),
            tokens=int(totals[1]),
            max_tokens=self.student.grpo.sampling.max_tokens,
        )
        # Lightning takes the mean over micro-batches and processes, and a sum is wanted.
        return (weights * self.plan.accumulate * self.plan.replicas).float()

    def _scores(self, experience: Experience) -> dict[str, list[Tensor]]:
        """Log-probabilities of the drawn tokens of each rollout, before the student is changed by them."""
        wanted = {"reference": self.student.has_reference, "sampled": self.plan.updates > 1}
        sequences = experience.sequences
        scores = {name: [torch.empty(0)] * len(sequences) for name, needed in wanted.items() if needed}
        order = sorted(range(len(sequences)), key=lambda index: len(sequences[index].input_ids))
        for start in range(0, len(order) if scores else 0, self.plan.batch_size):
            chosen = order[start : start + self.plan.batch_size]
            items = [sequences[index] for index in chosen]
            batch = {name: value.to(self.student.device) for name, value in collate(items, self.pad_id).items()}
            lengths = [len(item.input_ids) - item.prompt_length for item in items]
            for name, rows in scores.items():
                parts = self.student.score(batch, reference=name == "reference").split(lengths)
                for index, part in zip(chosen, parts, strict=True):
                    rows[index] = part
        return scores


class RolloutDataModule(QuestionsDataModule):
    """Serves rounds of rollouts that the student itself makes of the training questions.

    Args:
        benchmark: where the questions come from.
        questions: of a round, per device.
        passes: how often the rollouts of a round are trained on. An optimizer step takes `batch_size` x
            `trainer.accumulate_grad_batches` of them, so there are `passes` x questions x group_size divided by that
            many optimizer steps between two rounds.
        batch_size: sequences per micro-batch and device.
        max_length: tokens of a question and its rollout, at which the rollout is cut off; a question that leaves no
            room for one is left out, and counted. None leaves only the student's context.
        options: of the student's `TransformersChat`, such as `batch_size`.
        train_examples: how many training questions are used; None uses all.
        validation_examples: how many validation questions `examples("validation")` gives; None gives all.
        test_examples: how many test questions the student answers; None takes all.
        seed: decides the order of the questions.
    """

    def __init__(
        self,
        *,
        benchmark: Benchmark,
        questions: int = 16,
        passes: int = 1,
        batch_size: int = 8,
        max_length: int | None = None,
        options: Mapping[str, Any] | None = None,
        train_examples: int | None = None,
        validation_examples: int | None = None,
        test_examples: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            benchmark,
            train_examples=train_examples,
            validation_examples=validation_examples,
            test_examples=test_examples,
        )
        numbers = {"questions": questions, "passes": passes, "batch_size": batch_size}
        if faults := [f"{name} is {value}, expected 1 or more" for name, value in numbers.items() if value < 1]:
            raise InputError("datamodule: " + "; ".join(faults))
        self.questions = questions
        self.passes = passes
        self.batch_size = batch_size
        self.max_length = max_length
        self.options = {"max_length": max_length, **(options or {})}
        self.seed = seed
        self._fitting: list[MultiHopExample] | None = None

    def train_dataloader(self) -> RoundLoader:
        """Rounds of rollouts; resumes between any two of them as if nothing had happened.

        Raises:
            InputError: the student is none that learns from rollouts, there are too few questions, or a round is no
                whole number of optimizer steps.
        """
        trainer, student = self._trainer, self._trainer.lightning_module
        if not isinstance(student, GRPOStudent):
            raise InputError("datamodule: rollouts are what GRPO learns from; this student is tuned on traces")
        return RoundLoader(
            self._questions(),
            self._plan(student.grpo),
            student,
            pad_id=pad_id(student.tokenizer),
            options=self.options,
            reduce=lambda values: _sum(trainer, values),
            place=lambda: place(trainer),
        )

    def val_dataloader(self) -> list[Any]:
        """None: callbacks look at how the student answers."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must have in common with this one."""
        if self.trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            return {}
        plan = self._plan(cast(Any, self.trainer.lightning_module).grpo)
        return {"questions": self._fingerprint(), "round": [plan.questions * plan.replicas, plan.group_size, plan.step]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Check that a resumed run draws the same rounds.

        Raises:
            InputError: the questions, or how they become rounds and steps, differ.
        """
        if not state or not (now := self.state_dict()):
            return
        complaints = {
            "questions": "on other questions; resume with the same data and train_examples, or start from the exported"
            " student",
            "round": "in rounds of [questions, rollouts of each, sequences of a step]"
            f" {state['round']}, not {now['round']}; resume with the same settings and number of devices",
        }
        check_same(state, now, complaints)

    @property
    def _trainer(self) -> Trainer:
        assert self.trainer is not None, "rollouts are drawn while a trainer trains the student"
        return self.trainer

    def _plan(self, settings: GRPO) -> Plan:
        trainer = self._trainer
        plan = Plan(
            count=len(self._questions()),
            questions=self.questions,
            group_size=settings.group_size,
            passes=self.passes,
            batch_size=self.batch_size,
            accumulate=int(trainer.accumulate_grad_batches),
            seed=self.seed,
            shuffle=not trainer.overfit_batches,  # type: ignore[attr-defined]
            replicas=int(trainer.world_size),
            rank=int(trainer.global_rank),
        )
        plan.check()
        return plan

    def _questions(self) -> list[MultiHopExample]:
        """The training questions that leave room for an answer."""
        if self._fitting is None:
            examples = self.examples("train")
            self._fitting = examples if self.max_length is None else self._short_enough(examples, self.max_length)
        return self._fitting

    def _short_enough(self, examples: Sequence[MultiHopExample], max_length: int) -> list[MultiHopExample]:
        student = cast(GRPOStudent, self._trainer.lightning_module)
        template = ChatTemplate(student.tokenizer, str(student.hparams["model"]))
        requests = [ChatRequest(example.id, question_messages(example)) for example in examples]
        prompts = template.render(requests) if requests else []
        chosen = [example for example, ids in zip(examples, prompts, strict=True) if len(ids) < max_length]
        if overlong := len(examples) - len(chosen):
            log.warning(
                "%d of %d training questions have %d tokens (datamodule.max_length) or more and are left out",
                overlong,
                len(examples),
                max_length,
            )
        return chosen

    def _fingerprint(self) -> str:
        ids = "\n".join(example.id for example in self._questions())
        return hashlib.blake2b(ids.encode(), digest_size=16).hexdigest()


def _sum(trainer: Trainer, values: Tensor) -> Tensor:
    """Over all processes, and back on the CPU."""
    return cast(Tensor, trainer.strategy.reduce(values.to(trainer.strategy.root_device), reduce_op="sum")).cpu()
