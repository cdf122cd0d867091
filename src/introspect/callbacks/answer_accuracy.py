"""Accuracy and length of the student's answers during training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from introspect.callbacks.gathering import gather
from introspect.chat.protocol import Sampling
from introspect.core.distributed import check_whole, processes, share
from introspect.core.errors import InputError
from introspect.core.inference import evaluating
from introspect.evaluation.comparison import summarize
from introspect.evaluation.generation import EvaluationSettings
from introspect.evaluation.students import TestedStudent

LOGGED = ("accuracy", "f1", "completion_tokens", "degeneration_rate", "answer_inclusive_error_rate")


class AnswerAccuracy(Callback):
    """Lets the student answer validation questions at the end of an epoch, always the same ones.

    Logs `val/accuracy` (exact matches), `val/f1`, `val/completion_tokens` (mean), `val/degeneration_rate` and
    `val/answer_inclusive_error_rate`; a checkpoint can be chosen by any of them. The questions are those of
    `datamodule.examples("validation")`, the student is `module.chat_model()`.

    Args:
        questions: how many; several devices divide them.
        every_n_epochs: epochs between two evaluations.
        batch_size: rollouts that are generated at once; None leaves it to the chat model.
        sampling: how answers are drawn; None takes the paper's settings.
        store: the file that keeps responses, so that none is generated twice; None keeps none.
    """

    def __init__(
        self,
        *,
        questions: int = 60,
        every_n_epochs: int = 1,
        batch_size: int | None = None,
        sampling: Sampling | None = None,
        store: str | Path | None = None,
    ) -> None:
        for name, value in {"questions": questions, "every_n_epochs": every_n_epochs}.items():
            if value < 1:
                raise InputError(f"callbacks.answer_accuracy.{name} is {value}, expected 1 or more")
        self.questions = questions
        self.every_n_epochs = every_n_epochs
        self.options = {} if batch_size is None else {"batch_size": batch_size}
        self.settings = EvaluationSettings(sampling=sampling or Sampling(), store=store)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse sharded weights before the training."""
        check_whole(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Generate answers and log their metrics, every few epochs."""
        if (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        examples = cast(Any, trainer).datamodule.examples("validation")[: 2 if trainer.fast_dev_run else self.questions]
        if not examples:
            rank_zero_warn("there are no validation questions: val/accuracy is not computed")
            return
        mine = share(examples, *processes(trainer))
        with evaluating(pl_module), torch.no_grad(), trainer.precision_plugin.val_step_context():  # as in the test
            model = cast(TestedStudent, pl_module).chat_model(**self.options)
            answered = self.settings.generate(model, mine, "validation rollouts") if mine else []
        scores = summarize(gather(answered))
        for name in LOGGED:
            pl_module.log(f"val/{name}", scores[name], prog_bar=name == "accuracy")
