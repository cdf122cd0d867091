"""Rollout collection in rounds: the student answers questions, the answers are scored and become batches by a plan.

Legend: q questions of a round, g rollouts of a question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from introspect.benchmarks.examples import MultiHopExample
from introspect.chat.prompts import question_messages
from introspect.chat.protocol import ChatRequest
from introspect.core.errors import InputError
from introspect.core.seeds import row_seed
from introspect.evaluation.outcomes import is_degenerate
from introspect.evaluation.rollouts import Rollout
from introspect.tuning.grpo.advantages import GRPO, group_advantages, is_flat
from introspect.tuning.supervision import Supervised

if TYPE_CHECKING:
    from introspect.chat.local.transformers import TransformersChat

# What is logged of a round, in this order.
STATISTICS = ("reward", "reward_std", "completion_tokens", "degeneration_rate", "informative_groups")


@dataclass(frozen=True, slots=True)
class Experience:
    """The rollouts of a round, the g of a question in a row: [q·g].

    Attributes:
        sequences: the tokens that were read and drawn.
        advantages: of each rollout, float32.
        counted: tokens of each that are learnt from, int64; 0 for a rollout that is masked.
        statistics: the values of `STATISTICS`, float32.
    """

    sequences: list[Supervised]
    advantages: Tensor
    counted: Tensor
    statistics: Tensor


def collect_rollouts(
    model: TransformersChat, examples: Sequence[MultiHopExample], settings: GRPO, number: int
) -> Experience:
    """Let the model answer each question `group_size` times, and score the answers.

    The tokens are those that were drawn, never those of the text that they spell.

    Args:
        model: the student as it stands.
        examples: the questions of the round, [q].
        settings: how answers are drawn and scored.
        number: of the round; every round draws anew.
    """
    sampling = replace(settings.sampling, seed=row_seed(settings.sampling.seed, number, ()))
    requests = {
        f"{example.id}/{sample}": ChatRequest(
            f"{example.id}/{sample}", question_messages(example), sampling, sample, example
        )
        for example in examples
        for sample in range(settings.group_size)
    }
    drawn = {item.response.request_id: item for item in model.draw(requests.values())}
    rollouts, sequences = [], []
    for name, request in requests.items():
        response, prompt, completion = drawn[name]
        rollouts.append(Rollout.of(cast(MultiHopExample, request.example), request, response))
        sequences.append(Supervised((*prompt, *completion), len(prompt)))
    scores = [settings.score(rollout) for rollout in rollouts]
    rewards = torch.tensor(scores, dtype=torch.float32).view(-1, settings.group_size)  # a reward may count
    tokens = torch.tensor([rollout.completion_tokens for rollout in rollouts])
    degenerate = torch.tensor([is_degenerate(rollout) for rollout in rollouts])
    return Experience(
        sequences=sequences,
        advantages=group_advantages(rewards, scale=settings.scale_rewards).flatten(),
        counted=tokens.masked_fill(degenerate, 0) if settings.mask_truncated else tokens,
        statistics=torch.stack(
            [
                rewards.mean(),
                rewards.std(-1, correction=0).mean(),
                tokens.float().mean(),
                degenerate.float().mean(),
                1 - is_flat(rewards).float().mean(),
            ]
        ),
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """How the questions of a training become rounds, and a round becomes batches; the same in every process.

    Attributes:
        count: training questions.
        questions: questions of a round, per process.
        group_size: rollouts of each question.
        passes: how often the rollouts of a round are trained on.
        batch_size: sequences of a micro-batch.
        accumulate: micro-batches of an optimizer step.
        seed: of every order.
        shuffle: whether questions come in another order in each epoch.
        replicas: processes that train together.
        rank: the number of this process.
    """

    count: int
    questions: int
    group_size: int
    passes: int
    batch_size: int
    accumulate: int
    seed: int
    shuffle: bool = True
    replicas: int = 1
    rank: int = 0

    @property
    def rollouts(self) -> int:
        """Of a round, in this process."""
        return self.questions * self.group_size

    @property
    def step(self) -> int:
        """Sequences of an optimizer step, in this process."""
        return self.batch_size * self.accumulate

    @property
    def updates(self) -> int:
        """Optimizer steps of a round."""
        return self.passes * self.rollouts // self.step

    @property
    def batches(self) -> int:
        """Micro-batches of a round."""
        return self.updates * self.accumulate

    @property
    def rounds(self) -> int:
        """Of an epoch."""
        return -(-self.count // (self.questions * self.replicas))

    def check(self) -> None:
        """Refuse what does not go into whole rounds.

        Raises:
            InputError: a round is no whole number of optimizer steps, or there are too few questions for one.
        """
        if self.rollouts % self.step:
            raise InputError(
                f"datamodule: a round of {self.questions} questions x {self.group_size} rollouts is no whole number of"
                f" optimizer steps of batch_size {self.batch_size} x accumulate_grad_batches {self.accumulate}"
            )
        if self.count < self.questions * self.replicas:
            raise InputError(
                f"datamodule: there are {self.count} training questions, but a round takes {self.questions} on each of"
                f" {self.replicas} devices: lower datamodule.questions"
            )

    def order(self, epoch: int) -> list[list[int]]:
        """The questions of each round of an epoch, for this process.

        Every question comes once, and a few come twice where they do not make whole rounds; none twice in one round.
        """
        generator = torch.Generator().manual_seed(row_seed(self.seed, epoch, ()))
        order = torch.randperm(self.count, generator=generator) if self.shuffle else torch.arange(self.count)
        size = self.questions * self.replicas
        order = torch.cat([order, order[: -self.count % size]])
        return [round_[self.rank :: self.replicas].tolist() for round_ in order.split(size)]

    def steps(self, lengths: Tensor, number: int) -> list[list[list[int]]]:
        """The rollouts of the micro-batches of the optimizer steps of a round, those of like length together.

        Args:
            lengths: tokens of each rollout with its prompt, [q·g].
            number: of the round.
        """
        steps = []
        for pass_ in range(self.passes):
            generator = torch.Generator().manual_seed(row_seed(self.seed, number, (pass_,)))
            for part in torch.randperm(self.rollouts, generator=generator).split(self.step):
                ordered = part[lengths[part].argsort(stable=True)]
                steps.append([batch.tolist() for batch in ordered.split(self.batch_size)])
        return steps
