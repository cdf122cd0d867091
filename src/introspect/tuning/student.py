"""The student: a Hugging Face causal language model, tuned on traces.

Legend: b sequences, s tokens, n supervised tokens of a batch, v tokens of the vocabulary, h width of the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities.enums import GradClipAlgorithmType
from torch import Tensor
from torch.nn import functional

from introspect.benchmarks.examples import MultiHopExample
from introspect.chat.local.loading import load_pretrained
from introspect.chat.templates import TemplateChoice, load_tokenizer
from introspect.core.distributed import Mean, check_whole
from introspect.core.errors import InputError, first_line
from introspect.core.nested import to_plain
from introspect.core.resuming import read_checkpoint, reseed
from introspect.evaluation.generation import EvaluationSettings
from introspect.evaluation.runs import Runs
from introspect.tuning.export import ModelCard, save_folder
from introspect.tuning.likelihood import likelihood
from introspect.tuning.network import compile_blocks, random_network, recompute_activations, use_liger, with_lora
from introspect.tuning.optimization import Schedule, adamw
from introspect.tuning.packing import IGNORED, Batch, attention_mask

if TYPE_CHECKING:
    from introspect.chat.local.transformers import TransformersChat

Precision = Literal["float32", "bfloat16"]

# How a student is tested, and how fast it is trained, are no properties of it.
_NOT_SAVED = ("self", "__class__", "testing", "compile", "liger")


class ReasoningStudent(LightningModule):
    """Completion-only supervised fine-tuning of a causal language model, whole or with LoRA.

    The loss of an optimizer step is the mean negative log-likelihood over its supervised tokens, in float32: every
    token counts alike, in whichever micro-batch, process or packed row. What is logged is the mean of a micro-batch,
    over its tokens in all processes.

    A checkpoint holds the weights that were trained, and of the rest only what it takes to build it again (plain text
    and numbers): with LoRA the base model is read anew from `model`.

    Args:
        model: model folder or hub id. Where `architecture` is given, only its tokenizer is read.
        revision: branch, tag or commit on the hub.
        dtype: of the weights; mixed precision (`trainer.precision=bf16-mixed`) keeps them in float32.
        attn_implementation: `eager`, `sdpa`, `flash_attention_2`, …; None leaves the choice to transformers.
        gradient_checkpointing: compute activations again in the backward pass, for less memory and more time.
        lora: None tunes every weight; a mapping with `r`, `alpha`, `dropout` and `target_modules` tunes adapters.
        lr: peak learning rate.
        betas, eps, weight_decay: of AdamW; vectors (norms, biases) never decay.
        warmup_ratio: fraction of the optimizer steps in which the learning rate rises linearly to `lr`.
        schedule: how it falls afterwards.
        min_lr_ratio: the fraction of `lr` at which it ends.
        trust_remote_code: whether code that comes with the model may run.
        architecture: None reads the weights of `model`; a mapping with `model_type` and fields of that type's
            configuration begins with random weights, with the vocabulary of the tokenizer; its `induction_ready` is
            the seed of `initialization.induction_ready`, absent for the usual random weights.
        chat_template: see `chat.templates.load_tokenizer`.
        compile: whether torch compiles the blocks of the network, see `network.compile_blocks`.
        liger: whether training uses Liger's kernels, see `network.use_liger`; needs a CUDA GPU.
        testing: how the student answers the questions of `trainer.test`.
    """

    network: Any
    tokenizer: Any

    def __init__(
        self,
        *,
        model: str,
        revision: str | None = None,
        dtype: Precision = "float32",
        attn_implementation: str | None = None,
        gradient_checkpointing: bool = False,
        lora: Mapping[str, Any] | None = None,
        lr: float = 1e-4,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        warmup_ratio: float = 0.1,
        schedule: Schedule = "cosine",
        min_lr_ratio: float = 0.0,
        trust_remote_code: bool = False,
        architecture: Mapping[str, Any] | None = None,
        chat_template: TemplateChoice = "auto",
        compile: bool = False,
        liger: bool = False,
        testing: EvaluationSettings | None = None,
    ) -> None:
        settings = {name: to_plain(value) for name, value in locals().items() if name not in _NOT_SAVED}
        super().__init__()
        _check_settings(settings)
        self.save_hyperparameters(settings)
        self.network = None
        self.tokenizer = None
        self._compiles, self._liger, self._is_fast = compile, liger, False
        self.testing = testing or EvaluationSettings()
        self.val_loss, self.val_token_accuracy = Mean(), Mean()
        self.test_runs = Runs()

    def configure_model(self) -> None:
        """Build tokenizer and network; the trainer calls it when it knows the device of the weights.

        Raises:
            InputError: `model` is neither a model folder nor a hub id that can be reached, or has no chat template;
                the architecture or the LoRA settings do not fit.
        """
        if self.network is None:
            self._build()
        self._matrices = {name for name, p in self.named_parameters() if p.ndim >= 2}

    def _build(self) -> None:
        settings = self.hparams
        self.tokenizer = load_tokenizer(
            settings["model"],
            revision=settings["revision"],
            trust_remote_code=settings["trust_remote_code"],
            chat_template=settings["chat_template"],
        )
        network = self._load_network()
        if settings["gradient_checkpointing"]:
            recompute_activations(network)
        self.network = with_lora(network, settings["lora"]) if settings["lora"] else network
        self.network.train()

    def on_fit_start(self) -> None:
        """Make the network faster, once, with what is wanted.

        Raises:
            InputError: it cannot be done with this network, or on this device.
        """
        if self._is_fast:
            return
        if self._liger:
            if self.device.type != "cuda":
                raise InputError(f"model.liger: runs on a CUDA GPU, not on {self.device.type}; set model.liger=false")
            use_liger(self.network)
        if self._compiles:
            compile_blocks(self.network)
        self._is_fast = True

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Reseed what is random beside the data, such as dropout: see `reseed`."""
        reseed(self.trainer)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a micro-batch, scalar.

        Logs `train/loss`, `train/token_accuracy` (the fraction of supervised tokens that are the most likely ones) and
        `train/lr`.
        """
        loss, accuracy, count = self._losses(batch)
        over_all = self._over_processes(torch.stack([loss.detach(), accuracy]), count)
        self.log("train/loss", over_all[0], prog_bar=True)
        self.log("train/token_accuracy", over_all[1])
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss * count * batch["share"] if "share" in batch else loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Logs `val/loss` and `val/token_accuracy`, means over all supervised tokens of the held-out traces."""
        loss, accuracy, count = self._losses(batch)
        self.val_loss(loss, weight=count)
        self.val_token_accuracy(accuracy, weight=count)
        self.log("val/loss", self.val_loss, prog_bar=True, batch_size=count)
        self.log("val/token_accuracy", self.val_token_accuracy, batch_size=count)

    def on_test_start(self) -> None:
        """Forget the rollouts of an earlier test.

        Raises:
            InputError: the weights are spread over devices.
        """
        check_whole(self.trainer)
        self.test_runs = Runs(baseline=() if self.testing.baseline else None)

    def test_step(self, batch: Sequence[MultiHopExample], batch_idx: int) -> None:
        """Let the student answer the questions, and its baseline too; `RolloutReport` scores both."""
        answered = self.testing.compare(self.chat_model(**self.testing.options), batch)
        self.test_runs = Runs.merge([self.test_runs, answered])

    def _over_processes(self, means: Tensor, count: int) -> Tensor:
        """Means [k] over `count` tokens here, as means over those of all processes."""
        if self.trainer.world_size == 1:
            return means
        sums = torch.cat([means * count, means.new_tensor([count])])
        sums = cast(Tensor, self.trainer.strategy.reduce(sums, reduce_op="sum"))
        return sums[:-1] / sums[-1]

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor, int]:
        """Mean loss and accuracy over the supervised tokens, and their number; 0 of none."""
        if "source" in batch:
            inputs = {name: batch[name] for name in ("input_ids", "position_ids")}
            inputs["attention_mask"] = self._packed_mask(batch)
            keep, targets = batch["source"], batch["target"]  # [n], [n]
        else:
            # Padding stands on the right, where no causal model looks; without a mask the fast attention kernels apply.
            inputs = {"input_ids": batch["input_ids"]}
            following = functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)  # [b, s]: what each predicts
            keep = following != IGNORED
            targets = following[keep]  # [n]
        log_probabilities, hits = likelihood(self.network, inputs, keep, targets)
        count = max(len(targets), 1)
        return -log_probabilities.sum() / count, hits.float().sum() / count, len(targets)

    def _packed_mask(self, batch: Batch) -> Any:
        """The attention mask of a packed batch; an InputError for a model that would not obey it."""
        from introspect.chat.local.cache import takes_rows

        if not takes_rows(self.network):
            raise InputError(
                f"datamodule.packing: {self.hparams['model']} has layers other than full attention, or takes no"
                " positions, and would not obey the mask of packed rows; set datamodule.packing=none"
            )
        return attention_mask(batch, self.network.config._attn_implementation, self._score_dtype())

    def _score_dtype(self) -> torch.dtype:
        """What the attention computes in: under mixed precision not what the weights are in."""
        kind = self.device.type
        if torch.is_autocast_enabled(kind):
            return torch.get_autocast_dtype(kind)
        return next(p.dtype for p in self.network.parameters() if p.is_floating_point())

    def configure_optimizers(self) -> Any:
        """AdamW, fused where that is available, with a learning rate that changes every optimizer step."""
        total = self.trainer.estimated_stepping_batches
        if math.isinf(total):
            raise InputError("trainer: the learning rate schedule needs an end: set trainer.max_steps or max_epochs")
        names = ("lr", "betas", "eps", "weight_decay", "warmup_ratio", "schedule", "min_lr_ratio")
        # By name: a strategy that spreads weights over devices makes vectors of them.
        trained = {n.replace("_fsdp_wrapped_module.", ""): p for n, p in self.named_parameters() if p.requires_grad}
        return adamw(
            [p for name, p in trained.items() if name in self._matrices],
            [p for name, p in trained.items() if name not in self._matrices],
            int(total),
            # A fused optimizer would undo the loss scale of float16 itself, which is too late for clipping.
            fused=self.device.type in ("cpu", "cuda") and self.trainer.precision != "16-mixed",
            **{name: self.hparams[name] for name in names},
        )

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """As Lightning does; also of a fused optimizer without a loss scale (bf16-mixed), and of spread weights."""
        plugin, strategy = self.trainer.precision_plugin, self.trainer.strategy
        if isinstance(strategy, FSDPStrategy) and gradient_clip_val:
            cast(Any, strategy.model).clip_grad_norm_(gradient_clip_val)  # the norm over all devices
            return
        if isinstance(plugin, MixedPrecision) and plugin.scaler is None:
            how = GradClipAlgorithmType(gradient_clip_algorithm or GradClipAlgorithmType.NORM)
            # The plugin's own method refuses every fused optimizer.
            super(MixedPrecision, plugin).clip_gradients(optimizer, gradient_clip_val or 0.0, how)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    @property
    def base_model(self) -> str | None:
        """The folder or hub id of the model that is tuned; None where it begins with random weights."""
        return None if self.hparams["architecture"] else self.hparams["model"]

    def chat_model(self, **options: Any) -> TransformersChat:
        """The student as it stands, as a chat model on the live weights.

        Args:
            options: of `TransformersChat`, such as `batch_size` and `identity`.
        """
        from introspect.chat.local.transformers import TransformersChat

        self.configure_model()
        return TransformersChat(self.network, self.tokenizer, **options)

    def export(self, folder: str | Path, card: ModelCard | None = None) -> Path:
        """Write a Hugging Face folder that `transformers` loads without this package; adapters are merged.

        Args:
            folder: made where it is missing; files of an earlier export are overwritten.
            card: content of the model card besides the settings of the tuning.

        Returns:
            The folder.
        """
        self.configure_model()
        card = card or ModelCard()
        return save_folder(self._merged(), self.tokenizer, folder, card.render(self.hparams))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """With LoRA, leave the frozen base out of the checkpoint."""
        if self.hparams["lora"]:
            trained = self._trained_names()
            checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights; with LoRA exactly those that are trained, the base being there already.

        Raises:
            RuntimeError: strict, and weights are missing or unknown.
        """
        if strict and self.hparams["lora"]:
            if unfit := self._trained_names() ^ state_dict.keys():
                raise RuntimeError(f"the checkpoint's adapters are not those of the student: {sorted(unfit)[:3]}")
            strict = False
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def _trained_names(self) -> set[str]:
        return {name for name, parameter in self.named_parameters() if parameter.requires_grad}

    def _load_network(self) -> Any:
        settings = self.hparams
        options = {name: settings[name] for name in ("dtype", "attn_implementation", "trust_remote_code")}
        if settings["architecture"] is None:
            # On the CPU: the trainer moves it to its device.
            return load_pretrained(settings["model"], revision=settings["revision"], device="cpu", **options)[0]
        return random_network(settings["architecture"], self.tokenizer, **options)

    def _merged(self) -> Any:
        """The network without adapters. Merging goes on in a copy, so that training may go on in this one."""
        if not self.hparams["lora"]:
            return self.network
        copy = ReasoningStudent(**self.hparams)
        copy.configure_model()
        trained = self._trained_names()
        copy.load_state_dict({name: value.cpu() for name, value in self.state_dict().items() if name in trained})
        return copy.network.merge_and_unload()


def load_student(ckpt_path: str | Path, *, trust_remote_code: bool = False) -> ReasoningStudent:
    """The student of a checkpoint, in evaluation mode on the CPU. Nothing in the file is executed.

    Args:
        ckpt_path: the checkpoint.
        trust_remote_code: whether code that comes with the base model may run. The caller decides: the
            checkpoint's own setting is ignored.

    Raises:
        InputError: there is no such file, it is no checkpoint of a `ReasoningStudent`, or the base model that it names
            cannot be loaded.
    """
    checkpoint = read_checkpoint(ckpt_path)
    try:
        student = ReasoningStudent(**{**checkpoint["hyper_parameters"], "trust_remote_code": trust_remote_code})
    except (InputError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"ckpt_path={ckpt_path}: not a checkpoint of a reasoning student ({first_line(error)})"
        ) from error
    try:
        student.configure_model()
        student.load_state_dict(checkpoint["state_dict"])
    except (InputError, RuntimeError) as error:
        raise InputError(f"ckpt_path={ckpt_path}: the student cannot be rebuilt ({first_line(error)})") from error
    return student.eval()


def _check_settings(settings: Mapping[str, Any]) -> None:
    """Collect every complaint about the numbers and raise once."""
    below_one = ("warmup_ratio", "min_lr_ratio")
    faults = [f"{name} is {settings[name]}, expected 0 to 1" for name in below_one if not 0 <= settings[name] <= 1]
    positive = ("lr", "eps")
    faults += [f"{name} is {settings[name]}, expected more than 0" for name in positive if not settings[name] > 0]
    if settings["weight_decay"] < 0:
        faults.append(f"weight_decay is {settings['weight_decay']}, expected 0 or more")
    if len(settings["betas"]) != 2 or not all(0 <= beta < 1 for beta in settings["betas"]):
        faults.append(f"betas are {settings['betas']}, expected two numbers of 0 or more and less than 1")
    for name, choices in (("schedule", get_args(Schedule)), ("dtype", get_args(Precision))):
        if settings[name] not in choices:
            faults.append(f"{name} is {settings[name]!r}, expected one of {', '.join(choices)}")
    if faults:
        raise InputError("model: " + "; ".join(faults))
