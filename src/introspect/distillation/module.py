"""A classifier that learns from labels and, with some objectives, from a teacher.

Shapes: b images of h x w pixels, c classes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torchmetrics.classification import MulticlassAccuracy

from introspect.checkpoints import check_checkpoint
from introspect.dissection.preprocessing import preprocessing
from introspect.distillation.backbones import Backbone, features, outline
from introspect.distillation.objectives import CrossEntropy, LabelSmoothing, Objective
from introspect.distillation.optimization import sgd
from introspect.distillation.stages import load_stage, make_stage, stage_file, train_apart
from introspect.distillation.teacher import Teacher, locked, plain_settings
from introspect.errors import InputError

log = logging.getLogger(__name__)

Batch = Sequence[Tensor]
Normalization = Literal["imagenet", "reference"]


class Distillation(LightningModule):
    """Trains `student` with an objective; the teacher stands by, frozen, in evaluation mode, and in no checkpoint.

    SGD with momentum; the learning rate falls to `gamma` of itself at each milestone (He et al. 2016). A checkpoint
    holds the student's weights and what it takes to build it again, as plain text and numbers; and what the objective
    has learnt, for a training that goes on.

    Args:
        student: which network is trained.
        objective: what it is trained to do.
        teacher: whom it learns from, where the objective needs one. If its weights are nowhere, it is trained first,
            and kept for later runs.
        normalization: of the pixels: `imagenet` or `reference`, or mean and deviation, for student and teacher alike.
        lr: learning rate of the first epochs.
        momentum, weight_decay: of SGD.
        milestones: shares of the training after which the learning rate falls.
        gamma: the factor by which it does.
        warmup_steps: optimizer steps in which it rises to `lr`.

    Raises:
        InputError: a number is out of range, or the objective needs a teacher and there is none.
    """

    def __init__(
        self,
        *,
        student: Backbone,
        objective: Objective,
        teacher: Teacher | None = None,
        normalization: Normalization | Sequence[Sequence[float]] = "imagenet",
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        milestones: Sequence[float] = (0.3, 0.6, 0.9),
        gamma: float = 0.1,
        warmup_steps: int = 0,
    ) -> None:
        super().__init__()
        if objective.needs_teacher and teacher is None:
            raise InputError("model.teacher is required: the objective learns from a teacher")
        if not lr > 0 or not all(0 < share < 1 for share in milestones):
            raise InputError(f"model: lr={lr}, milestones={list(milestones)}: expected more than 0, and shares below 1")
        self.save_hyperparameters(
            {
                "student": asdict(student),
                "objective": type(objective).__name__,
                "teacher": asdict(teacher.backbone) if teacher and objective.needs_teacher else None,
                "normalization": plain_settings(normalization),
                "lr": lr,
                "momentum": momentum,
                "weight_decay": weight_decay,
                "milestones": list(milestones),
                "gamma": gamma,
                "warmup_steps": warmup_steps,
            }
        )
        # Channels last: on CPUs, and on GPUs with 16 bits, convolutions are faster by a third or more.
        self.student = student.build().to(memory_format=torch.channels_last)
        self.objective = objective
        if teacher is not None and objective.needs_teacher:
            objective.build(
                outline(student, objective.student_layers), outline(teacher.backbone, objective.teacher_layers)
            )
        self.preprocess = preprocessing(normalization)
        self.train_accuracy, self.val_accuracy, self.test_accuracy = (
            MulticlassAccuracy(student.classes, average="micro") for _ in range(3)
        )
        self._source = teacher if objective.needs_teacher else None
        # In a list, so that it is no part of the module: it is not trained, not saved, not counted.
        self._teacher: list[nn.Module] = []

    @property
    def identity(self) -> str:
        """Everything but network and recipe that decides what becomes of a teacher that is trained here."""
        return _identity(self._datamodule(), self.hparams["normalization"])

    def prepare(self, data: Any, trainer: Trainer) -> None:
        """Train the teacher, where it is trained here and has not been yet; then the stage that an objective has on it.

        To be called in one process, before Lightning starts others: they would wait for this one, and it for them.

        Args:
            data: an `ImageDataModule`.
            trainer: of the student; the teacher is trained on its kind of device.
        """
        source, normalization = self._source, self.hparams["normalization"]
        if source is None or is_trial(trainer):
            return
        device = trainer.strategy.root_device.type
        identity = _identity(data, normalization) if source.is_trained_here else ""
        if source.is_trained_here:
            make_teacher(source, data, normalization, device)
        if (stage := self.objective.stage) is not None:
            made_of = self._made_of(data)
            teacher = partial(source.load, identity, normalization)
            make_stage(stage, source.cache_dir, made_of, teacher, self.preprocess, data, device)

    def _made_of(self, data: Any) -> str:
        """Everything but its own settings that decides what becomes of a stage."""
        source, whole = cast(Teacher, self._source), _identity(data, self.hparams["normalization"])
        return f"{source.backbone}, {source.origin(whole)}; {whole}"

    def prepare_data(self) -> None:
        """The same for a training that was started without `prepare`, where there is one process only."""
        if self.trainer.training and self.trainer.world_size == 1:
            self.prepare(self.trainer.datamodule, self.trainer)  # type: ignore[attr-defined]

    def setup(self, stage: str) -> None:
        """Load the teacher, and the stage on it.

        Raises:
            InputError: their weights can not be read.
        """
        if stage != "fit":
            return
        if self._source is not None:
            with torch.random.fork_rng():  # weights are drawn before they are read: the student's luck stays as it is
                self._teacher = [self._loaded()]
            self._load_stage()
        if self.objective.needs_numbers:
            self.objective.begin(self._datamodule().train_classes())
        # What an objective keeps beside its weights is the same in every process, and may be large.
        kept = [f"objective.{name}" for name, _ in self.objective.named_buffers()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, kept)

    def _load_stage(self) -> None:
        stage = self.objective.stage
        if stage is None:
            return
        stage.eval().requires_grad_(False)
        folder, made_of = cast(Teacher, self._source).cache_dir, self._made_of(self._datamodule())
        if is_trial(self.trainer) and not stage_file(stage, folder, made_of).is_file():
            log.warning("a trial run, and there is no first stage yet: the student learns from an untrained one")
            return
        load_stage(stage, folder, made_of)

    def _loaded(self) -> nn.Module:
        source = cast(Teacher, self._source)
        identity = self.identity if source.is_trained_here else ""
        if source.is_trained_here and is_trial(self.trainer) and not source.file(identity).is_file():
            log.warning("a trial run, and there is no teacher yet: the student learns from an untrained one")
            return source.backbone.build().eval().requires_grad_(False)
        return source.load(identity, self.hparams["normalization"])

    def on_fit_start(self) -> None:
        """The teacher, with the stage on it, goes to where the student is, and shows what it knows."""
        if self.objective.stage is not None:
            self.objective.stage.to(self.device)
        for teacher in self._teacher:
            teacher.to(self.device).to(memory_format=torch.channels_last)
            if self.trainer.is_global_zero:
                with torch.random.fork_rng():  # a loader draws a number, which the student shall not miss
                    self._examine(teacher)

    @torch.no_grad()
    def _examine(self, teacher: nn.Module, most: int = 1000) -> None:
        """Say how good the teacher is: weights of another network, or of other pixels, run without complaint."""
        images, targets = [], []
        for batch in self._datamodule().val_dataloader():
            images.append(teacher(self._prepared(batch[0].to(self.device))).argmax(1).cpu())
            targets.append(batch[1])
            if sum(map(len, targets)) >= most:
                break
        share = float((torch.cat(images) == torch.cat(targets)).float().mean())
        source = cast(Teacher, self._source)
        where = source.ckpt_path or source.backbone.weights or source.file(self.identity)
        log.info("the teacher, %s, is right on %.1f %% of the validation images", where, 100 * share)
        for logger in self.loggers:
            logger.log_metrics({"teacher/val_accuracy": share})

    def forward(self, images: Tensor) -> Tensor:
        """Logits [b, c] of uint8 images [b, 3, h, w]."""
        logits: Tensor = self.student(self._prepared(images))
        return logits

    def _prepared(self, images: Tensor) -> Tensor:
        return self.preprocess(images).contiguous(memory_format=torch.channels_last)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss, a scalar. Logs `train/loss`, `train/loss/<part>`, `train/accuracy` (share of the epoch)."""
        images, targets, *numbers = batch
        prepared = self.objective.views(self._prepared(images))
        student = features(self.student, prepared, self.objective.student_layers)
        taught = None
        for teacher in self._teacher:
            with torch.no_grad():
                taught = features(teacher, prepared, self.objective.teacher_layers)
        losses = self.objective(student, taught, targets, *numbers)
        loss = torch.stack(list(losses.values())).sum()
        self.train_accuracy(student.logits[:: self.objective.views_per_image], targets)
        self.log("train/loss", loss, prog_bar=True)
        if len(losses) > 1:
            self.log_dict({f"train/loss/{name}": value for name, value in losses.items()})
        self.log("train/accuracy", self.train_accuracy, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Logs `val/loss` (cross-entropy, nats) and `val/accuracy` (share)."""
        self._evaluate(batch, "val", self.val_accuracy)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Logs `test/loss` and `test/accuracy`; the logits [b, c] are for callbacks."""
        return self._evaluate(batch, "test", self.test_accuracy)

    def taught(self, images: Tensor) -> Tensor | None:
        """The teacher's logits [b, c] of uint8 images; None if there is none, or it has not been wanted yet."""
        for teacher in self._teacher:
            with torch.no_grad():
                logits: Tensor = features(teacher.to(self.device), self._prepared(images)).logits
            return logits
        return None

    def _evaluate(self, batch: Batch, split: str, accuracy: MulticlassAccuracy) -> Tensor:
        images, targets = batch
        logits = self(images)
        accuracy(logits, targets)
        loss = functional.cross_entropy(logits, targets)
        self.log(f"{split}/loss", loss, prog_bar=split == "val", batch_size=len(images), sync_dist=True)
        self.log(f"{split}/accuracy", accuracy, prog_bar=split == "val", batch_size=len(images))
        return logits

    def configure_optimizers(self) -> Any:
        """SGD, and a learning rate that changes at shares of the training's steps."""
        names = ("lr", "momentum", "weight_decay", "milestones", "gamma", "warmup_steps")
        return sgd(
            [*self.student.parameters(), *self.objective.parameters()],
            int(self.trainer.estimated_stepping_batches),
            **{name: self.hparams[name] for name in names},
        )

    def _datamodule(self) -> Any:
        data = getattr(self.trainer, "datamodule", None)
        if not hasattr(data, "identity"):
            raise InputError(
                "model: what is trained before the student, or numbers its images, needs an ImageDataModule"
            )
        return data


def is_trial(trainer: Trainer) -> bool:
    """Whether it trains on a part of the data only, to try something: what it makes is no teacher."""
    limit = trainer.limit_train_batches
    whole = isinstance(limit, float) and limit == 1.0
    return bool(trainer.fast_dev_run or trainer.overfit_batches) or not whole  # type: ignore[attr-defined]


def make_teacher(teacher: Teacher, data: Any, normalization: Any = "imagenet", device: str = "auto") -> Path:
    """Train a teacher on labels alone and keep it, if that has not been done.

    Args:
        teacher: whose `training` says how.
        data: an `ImageDataModule`.
        normalization: of the pixels, as that of its students.
        device: the kind on which it is trained, as Lightning's `accelerator`.

    Returns:
        The file of its weights.
    """
    how, identity = teacher.training, _identity(data, normalization)
    path = teacher.file(identity)
    if path.is_file():
        return path
    with locked(path):
        if path.is_file():
            return path
        log.info("there is no teacher yet: %s is trained for %d epochs, and kept", teacher.backbone.name, how.epochs)
        with torch.random.fork_rng():
            torch.manual_seed(how.seed)
            module = Distillation(
                student=teacher.backbone,
                objective=LabelSmoothing(how.label_smoothing) if how.label_smoothing else CrossEntropy(),
                normalization=normalization,
                lr=how.lr,
                momentum=how.momentum,
                weight_decay=how.weight_decay,
                milestones=how.milestones,
            )
            train_apart(module, data, how, device, path.with_suffix(".partial"))
        return teacher.keep(module.student, identity)


def _identity(data: Any, normalization: Any) -> str:
    return f"{data.identity}; normalization {plain_settings(normalization)}"


def load_student(ckpt_path: str | Path) -> nn.Module:
    """The student of a checkpoint, in evaluation mode on the CPU; its `preprocess` takes uint8 images.

    Raises:
        InputError: there is no such file, or it is no checkpoint of a `Distillation`.
    """
    check_checkpoint(ckpt_path)
    checkpoint = torch.load(ckpt_path, map_location="cpu", weights_only=True)
    try:
        settings = checkpoint["hyper_parameters"]
        network = Backbone(**{**settings["student"], "weights": None}).build()
        state = {
            name.removeprefix("student."): value
            for name, value in checkpoint["state_dict"].items()
            if name.startswith("student.")
        }
        network.load_state_dict(state)
    except (KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"ckpt_path={ckpt_path}: not a checkpoint of a classifier ({reason})") from error
    network.preprocess = preprocessing(settings["normalization"])  # type: ignore[assignment]
    network.origin = (settings["student"]["name"], str(ckpt_path))  # type: ignore[assignment]  # for reports
    return network.eval()
