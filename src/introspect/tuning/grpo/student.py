"""The student that learns from its own rollouts: a `ReasoningStudent` with another loss."""

from __future__ import annotations

import dataclasses
import logging
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from introspect.core.distributed import check_whole
from introspect.core.errors import InputError
from introspect.core.inference import evaluating
from introspect.tuning.export import ModelCard
from introspect.tuning.grpo.advantages import GRPO, clipped_surrogate, kl_estimate
from introspect.tuning.grpo.rollout_collection import STATISTICS
from introspect.tuning.likelihood import likelihood
from introspect.tuning.packing import IGNORED, Batch
from introspect.tuning.student import ReasoningStudent

log = logging.getLogger(__name__)


class GRPOStudent(ReasoningStudent):
    """Tunes a student by group-relative policy optimisation, on the rounds of a `RolloutDataModule`.

    The loss of an optimizer step is the weighted sum over the tokens of its rollouts of the clipped surrogate and, with
    a weight, the divergence from the student as it was at first; see `introspect.tuning.grpo.advantages`.

    Its checkpoints are those of a `ReasoningStudent`, and hold neither the settings of the method nor the reference,
    which is read anew from `model`; with LoRA the reference is the student without its adapters.

    Args:
        grpo: settings of the method.
        student: settings of `ReasoningStudent`.
    """

    def __init__(self, *, grpo: GRPO, **student: Any) -> None:
        super().__init__(**student)
        if self.hparams["architecture"] is not None:
            raise InputError("model.architecture: GRPO improves a student that can answer; give model.model=<folder>")
        self.grpo = grpo
        self._reference: tuple[Any] | None = None  # in a tuple, so that it is no part of this module
        if grpo.sampling.top_p < 1 or grpo.sampling.top_k > 0:
            log.warning(
                "rollouts are drawn with top_p=%s and top_k=%s, but the gradient is that of the whole distribution:"
                " model.grpo.sampling.top_p=1 and top_k=0 are what GRPO assumes",
                grpo.sampling.top_p,
                grpo.sampling.top_k,
            )

    @property
    def has_reference(self) -> bool:
        """Whether the student is held near what it was at first."""
        return self.grpo.kl_weight > 0

    def setup(self, stage: str) -> None:
        """Refuse to draw rollouts with parts of weights.

        Raises:
            InputError: the strategy spreads the weights over devices.
        """
        check_whole(self.trainer)

    def on_fit_start(self) -> None:
        """As every student; and load the reference, where there is one."""
        super().on_fit_start()
        if self.has_reference and not self.hparams["lora"]:
            reference = self._load_network().requires_grad_(False).eval()
            self._reference = (reference.to(self.device),)

    def on_fit_end(self) -> None:
        """Let it go."""
        self._reference = None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a micro-batch, scalar: its part of the loss of the optimizer step.

        The keys of the batch are those of `RoundLoader`. Logs `train/loss`, `train/lr`; of the round `train/reward`
        (mean), `train/reward_std` (mean over the questions), `train/completion_tokens` (mean),
        `train/degeneration_rate`, `train/informative_groups` (the fraction of questions whose rollouts did not all earn
        the same); of the micro-batch `train/clip_fraction` (the fraction of tokens whose gradient is cut off),
        `train/entropy` (nats per token, estimated from the tokens drawn) and `train/kl` (from the reference, nats per
        token; only where there is one).

        Raises:
            InputError: the batch holds no rollouts.
        """
        if "advantages" not in batch:
            raise InputError("model: GRPO learns from rollouts, not from traces: set datamodule=rollouts")
        log_probs = self._log_probs(self.network, batch)  # [n]
        per_sequence = (batch["labels"][:, 1:] != IGNORED).sum(-1)  # [b]
        advantages, weights = (batch[name].repeat_interleave(per_sequence) for name in ("advantages", "weights"))
        sampled = batch["sampled"] if "sampled" in batch else log_probs.detach()
        surrogate = clipped_surrogate(
            log_probs, sampled, advantages, clip_low=self.grpo.clip_low, clip_high=self.grpo.clip_high
        )
        losses = surrogate.loss
        if self.has_reference:
            divergence = kl_estimate(log_probs, batch["reference"])
            losses = losses + self.grpo.kl_weight * divergence
            self.log("train/kl", _mean(divergence.detach()))
        loss = (losses * weights).sum()
        for name, value in zip(STATISTICS, batch["statistics"], strict=True):
            self.log(f"train/{name}", value, prog_bar=name == "reward")
        self.log("train/loss", loss)
        self.log("train/clip_fraction", _mean(surrogate.clipped.float()))
        self.log("train/entropy", _mean(-sampled))
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    @torch.no_grad()
    def score(self, batch: Batch, *, reference: bool) -> Tensor:
        """Log-probabilities of the drawn tokens of a batch, [n], row by row, under the reference or the student."""
        with self.precision(), evaluating(self.network):  # without dropout, as the policy that draws
            if not reference:
                return self._log_probs(self.network, batch)
            if self._reference is not None:
                return self._log_probs(self._reference[0], batch)
            with self.network.disable_adapter():
                return self._log_probs(self.network, batch)

    def precision(self) -> AbstractContextManager[None]:
        """The number format of the training, for what is computed outside its steps."""
        return nullcontext() if self._trainer is None else self.trainer.precision_plugin.forward_context()

    def export(self, folder: str | Path, card: ModelCard | None = None) -> Path:
        """As every student; the card also tells the settings of the method."""
        card = card or ModelCard()
        settings = {field.name: getattr(self.grpo, field.name) for field in dataclasses.fields(self.grpo)}
        told = ", ".join(f"{name} {_told(value)}" for name, value in settings.items())
        facts = {**card.facts, "method": f"GRPO (arXiv 2402.03300): {told}"}
        return super().export(folder, dataclasses.replace(card, facts=facts))

    def _log_probs(self, network: Any, batch: Batch) -> Tensor:
        """Of the drawn tokens at the temperature at which they were drawn, [n], float32, row by row."""
        following = functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)  # [b, s]: what each token predicts
        keep = following != IGNORED
        temperature = self.grpo.sampling.temperature
        return likelihood(network, {"input_ids": batch["input_ids"]}, keep, following[keep], temperature=temperature)[0]


def _mean(values: Tensor) -> Tensor:
    """0 of none: a micro-batch may hold nothing but questions that fill the context."""
    return values.sum() / max(len(values), 1)


def _told(value: Any) -> str:
    """A setting in a model card: a function by its name, and no path of this machine."""
    return getattr(value, "__name__", type(value).__name__) if callable(value) else str(value)
