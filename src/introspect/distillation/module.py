"""A classifier that learns from labels and, with some objectives, from a teacher.

Shapes: b images of h x w pixels, c classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torchmetrics.classification import MulticlassAccuracy

from introspect.core.distributed import Mean, check_whole
from introspect.core.errors import InputError
from introspect.core.nested import to_plain
from introspect.core.resuming import reseed
from introspect.distillation.cache import make_once
from introspect.distillation.datamodule import ImageDataModule
from introspect.distillation.objectives import CrossEntropy, LabelSmoothing, Objective
from introspect.distillation.stages import load_stage, make_stage, stage_file
from introspect.distillation.teacher import Teacher
from introspect.distillation.teacher_logits import TeacherLogits, check_fixed, logits_file, make_logits
from introspect.distillation.training import is_trial, sgd, train_separately
from introspect.vision.backbones import Backbone
from introspect.vision.features import CompiledFeatures, Features, features, outline
from introspect.vision.preprocessing import preprocessing

log = logging.getLogger(__name__)

Batch = Sequence[Tensor]
Normalization = Literal["imagenet", "reference"]


class Distillation(LightningModule):
    """Trains `student` with an objective; the teacher is frozen, in evaluation mode, and in no checkpoint.

    SGD with momentum; the learning rate is multiplied by `gamma` at each milestone (He et al. 2016). A checkpoint holds
    the student's weights, the settings to build it again, as plain text and numbers, and the weights of the objective,
    to resume the training.

    Args:
        student: which network is trained.
        objective: its losses.
        teacher: what it learns from, if the objective needs a teacher. Without weights it is trained first, and kept
            for later runs.
        normalization: of the pixels of student and teacher: `imagenet` or `reference`, or mean and deviation.
        lr: learning rate of the first epochs.
        momentum: of SGD.
        weight_decay: of SGD.
        milestones: fractions of the training after which the learning rate falls.
        gamma: the factor by which it falls.
        warmup_steps: optimizer steps in which it rises to `lr`.
        channels_last: the memory format of images and networks; results are equal up to rounding, and convolutions are
            faster with it on CPUs, and on GPUs with 16 bits.
        compile: whether torch compiles the forward passes of student and teacher in training; the weights keep their
            names, and validation and test are not compiled.

    Raises:
        InputError: a number is out of range, the objective needs a teacher and there is none, or the teacher's logits
            cannot be kept because the objective needs more of it.
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
        channels_last: bool = True,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if objective.needs_teacher and teacher is None:
            raise InputError("model.teacher is required: the objective learns from a teacher")
        if teacher is not None and teacher.cache and (objective.teacher_layers or objective.inputs_per_image > 1):
            raise InputError(
                f"model.teacher.cache: {type(objective).__name__} learns from more than the teacher's logits of each "
                "image; set model.teacher.cache=false"
            )
        if not lr > 0 or not all(0 < fraction < 1 for fraction in milestones):
            raise InputError(
                f"model: lr={lr}, milestones={list(milestones)}: expected more than 0, and fractions between 0 and 1"
            )
        self.save_hyperparameters(
            {
                "student": asdict(student),
                "objective": type(objective).__name__,
                "teacher": asdict(teacher.backbone) if teacher and objective.needs_teacher else None,
                "normalization": to_plain(normalization),
                "lr": lr,
                "momentum": momentum,
                "weight_decay": weight_decay,
                "milestones": list(milestones),
                "gamma": gamma,
                "warmup_steps": warmup_steps,
            }
        )
        # How fast it is trained is not a property of the student: it is in no checkpoint.
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self._compiles = compile
        self._readers: list[Callable[[Tensor], Features]] = []
        self.student = student.build().to(memory_format=self._layout)
        self.objective = objective
        if teacher is not None and objective.needs_teacher:
            objective.build(
                outline(student, objective.student_layers), outline(teacher.backbone, objective.teacher_layers)
            )
        self.preprocess = preprocessing(normalization)
        self.train_accuracy, self.val_accuracy, self.test_accuracy = (
            MulticlassAccuracy(student.classes, average="micro") for _ in range(3)
        )
        self.val_loss, self.test_loss = Mean(), Mean()
        self._source = teacher if objective.needs_teacher else None
        # In a list, so that it is not a submodule: it is not trained, not saved, not counted.
        self._teacher: list[nn.Module] = []

    @property
    def identity(self) -> str:
        """A text of the data and pixels that a teacher of this run is trained on."""
        return _identity(self.datamodule, self.hparams["normalization"])

    def prepare(self, data: ImageDataModule, trainer: Trainer) -> None:
        """Train the teacher, if it is trained here and has not been yet, and then the first stage of the objective.

        To be called in one process, before Lightning starts others, which would wait for this one, and it for them.

        Args:
            data: the images.
            trainer: of the student; the teacher is trained on its kind of device.
        """
        source, normalization = self._source, self.hparams["normalization"]
        if source is None or is_trial(trainer):
            return
        if source.cache:
            check_fixed(data)
        device = trainer.strategy.root_device.type
        if source.is_trained_here:
            make_teacher(source, data, normalization, device)
        load = partial(source.load, _identity(data, normalization) if source.is_trained_here else "", normalization)
        if (stage := self.objective.stage) is not None:
            make_stage(stage, source.cache_dir, self._stage_identity(data), load, self.preprocess, data, device)
        if source.cache:
            with torch.random.fork_rng():  # as in setup
                network = load().to(memory_format=self._layout)
                make_logits(source, network, data, trainer, self._prepared, normalization)

    def _stage_identity(self, data: ImageDataModule) -> str:
        """Return a text of everything but its own settings that decides what a stage learns."""
        source, whole = cast(Teacher, self._source), _identity(data, self.hparams["normalization"])
        return f"{source.backbone}, {source.origin(whole)}; {whole}"

    def prepare_data(self) -> None:
        """Do the same in a training that was started without `prepare`, if there is only one process."""
        if self.trainer.training and self.trainer.world_size == 1:
            self.prepare(self.trainer.datamodule, self.trainer)  # type: ignore[attr-defined]

    def setup(self, stage: str) -> None:
        """Load the teacher and the first stage.

        Raises:
            InputError: their weights cannot be read, the student's are sharded over devices, or its batch norm is to be
                synchronized on CPUs.
        """
        if stage != "fit":
            return
        check_whole(self.trainer)
        self._check_batch_norm()
        data: Any = getattr(self.trainer, "datamodule", None)
        if isinstance(data, ImageDataModule):
            data.add_to_batch = None  # an earlier student may have set it
        if self._source is not None:
            with torch.random.fork_rng():  # the teacher's initial weights must not change the student's random state
                self._teacher = [self._loaded()]
            self._load_stage()
            if self._source.cache:
                self._open_logits()
        if self.objective.needs_indices:
            self.objective.begin(self.datamodule.train_classes())
        # The buffers of an objective are the same in every process, and may be large.
        buffers = [f"objective.{name}" for name, _ in self.objective.named_buffers()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, buffers)

    def _load_stage(self) -> None:
        stage = self.objective.stage
        if stage is None:
            return
        stage.eval().requires_grad_(False)
        folder, identity = cast(Teacher, self._source).cache_dir, self._stage_identity(self.datamodule)
        if is_trial(self.trainer) and not stage_file(stage, folder, identity).is_file():
            log.warning("a trial run, and there is no first stage yet: the student learns from an untrained one")
            return
        load_stage(stage, folder, identity)

    def _loaded(self) -> nn.Module:
        source = cast(Teacher, self._source)
        identity = self.identity if source.is_trained_here else ""
        if source.is_trained_here and is_trial(self.trainer) and not source.file(identity).is_file():
            log.warning("a trial run, and there is no teacher yet: the student learns from an untrained one")
            return source.backbone.build().eval().requires_grad_(False)
        return source.load(identity, self.hparams["normalization"])

    def _open_logits(self) -> None:
        """Add the teacher's logits to each training batch."""
        data, source = self.datamodule, cast(Teacher, self._source)
        check_fixed(data)
        path = logits_file(source, self._teacher[0], data, self.trainer, self.hparams["normalization"])
        if is_trial(self.trainer) and not path.is_file():
            log.warning("a trial run, and the teacher's logits are not kept yet: they are computed for each batch")
        else:
            data.add_to_batch = TeacherLogits(path, len(data.train_classes()), source.backbone.classes).of

    def on_fit_start(self) -> None:
        """Move the teacher and the first stage to the device of the student, and evaluate the teacher."""
        if self.objective.stage is not None:
            self.objective.stage.to(self.device)
        for teacher in self._teacher:
            self.trainer.precision_plugin.convert_module(teacher.to(self.device).to(memory_format=self._layout))
            if self.trainer.is_global_zero:
                with torch.random.fork_rng():  # a loader draws a number: the student's random state must not change
                    self._evaluate_teacher(teacher)

    def _check_batch_norm(self) -> None:
        """Refuse or report batch norm in several CPU processes: torch synchronizes it over GPUs only."""
        strategy = self.trainer.strategy
        has_batch_norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.modules())
        if strategy.root_device.type != "cpu" or not has_batch_norm or not isinstance(strategy, ParallelStrategy):
            return
        if strategy._layer_sync is not None:
            raise InputError("trainer.sync_batchnorm: works on GPUs only; on CPUs set trainer.sync_batchnorm=false")
        if self.trainer.world_size > 1 and self.trainer.is_global_zero:
            log.warning(
                "batch norm takes its statistics over the images of one process, not of all %d: the training differs "
                "from one on one device; use one CPU process (trainer=cpu) or GPUs (trainer=ddp)",
                self.trainer.world_size,
            )

    @torch.no_grad()
    def _evaluate_teacher(self, teacher: nn.Module, most: int = 1000) -> None:
        """Log the teacher's accuracy: weights of another network, or of other pixels, run without an error."""
        correct: list[Tensor] = []
        for images, targets in self.datamodule.held_out():
            predicted = teacher(self._prepared(images.to(self.device), teacher)).argmax(1).cpu()
            correct.append((predicted == targets).float())
            if sum(map(len, correct)) >= most:
                break
        accuracy = float(torch.cat(correct).mean())
        source = cast(Teacher, self._source)
        origin = source.ckpt_path or source.backbone.weights or source.file(self.identity)
        log.info("teacher %s: validation accuracy %.1f %%", origin, 100 * accuracy)
        for logger in self.loggers:
            logger.log_metrics({"teacher/val_accuracy": accuracy})

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [b, c] of uint8 images [b, 3, h, w]."""
        return features(self.student, self._prepared(images, self.student)).logits

    def _prepared(self, images: Tensor, network: nn.Module) -> Tensor:
        """Return the inputs of a network, in its number format, which `trainer.precision=*-true` changes."""
        dtype = next(network.parameters()).dtype
        return self.preprocess(images).to(dtype).contiguous(memory_format=self._layout)

    def on_train_start(self) -> None:
        """Compile, if `compile` is set; not before, because a strategy may still replace modules."""
        pairs = zip(
            (self.student, *self._teacher), (self.objective.student_layers, self.objective.teacher_layers), strict=False
        )
        read = CompiledFeatures if self._compiles else lambda network, layers: partial(features, network, layers=layers)
        self._readers = [read(network, layers) for network, layers in pairs]

    def on_train_end(self) -> None:
        """Remove the hooks from the networks."""
        for reader in self._readers:
            if isinstance(reader, CompiledFeatures):
                reader.close()
        self._readers = []

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed what is random in the networks, such as dropout: see `reseed`."""
        reseed(self.trainer)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss, a scalar. Logs `train/loss`, `train/loss/<part>`, `train/accuracy` (of the epoch)."""
        images, targets, *others = batch
        indices, kept = others[:1], others[1:]
        inputs = self.objective.inputs(self._prepared(images, self.student))
        read_student, *read_teacher = self._readers
        student = read_student(inputs)
        teacher = Features(kept[0]) if kept else None
        for read in () if kept else read_teacher:
            with torch.no_grad():
                teacher = read(inputs)
        losses = self.objective(student, teacher, targets, *indices)
        loss = torch.stack(list(losses.values())).sum()
        self.train_accuracy(student.logits[:: self.objective.inputs_per_image], targets)
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        if len(losses) > 1:
            self.log_dict({f"train/loss/{name}": value for name, value in losses.items()}, sync_dist=True)
        self.log("train/accuracy", self.train_accuracy, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log `val/loss` (cross-entropy, nats) and `val/accuracy`."""
        self._evaluate(batch, "val", self.val_accuracy, self.val_loss)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Log `test/loss` and `test/accuracy`; return the logits [b, c] for callbacks."""
        return self._evaluate(batch, "test", self.test_accuracy, self.test_loss)

    def teacher_logits(self, images: Tensor) -> Tensor | None:
        """Return the teacher's logits [b, c] of uint8 images; None without a teacher, or before one is loaded."""
        for teacher in self._teacher:
            with torch.no_grad():
                return features(teacher.to(self.device), self._prepared(images, teacher)).logits
        return None

    def _evaluate(self, batch: Batch, split: str, accuracy: MulticlassAccuracy, loss: Mean) -> Tensor:
        images, targets = batch
        logits: Tensor = self(images)
        accuracy(logits, targets)
        loss(functional.cross_entropy(logits, targets), weight=len(images))
        self.log(f"{split}/loss", loss, prog_bar=split == "val", batch_size=len(images))
        self.log(f"{split}/accuracy", accuracy, prog_bar=split == "val", batch_size=len(images))
        return logits

    def configure_optimizers(self) -> Any:
        """See `sgd`."""
        names = ("lr", "momentum", "weight_decay", "milestones", "gamma", "warmup_steps")
        return sgd(
            [*self.student.parameters(), *self.objective.parameters()],
            int(self.trainer.estimated_stepping_batches),
            **{name: self.hparams[name] for name in names},
        )

    @property
    def datamodule(self) -> ImageDataModule:
        """The data of the running training.

        Raises:
            InputError: it has none of this package's.
        """
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, ImageDataModule):
            raise InputError("model: a teacher, or an objective that needs indices of images, needs an ImageDataModule")
        return data


def make_teacher(
    teacher: Teacher, data: ImageDataModule, normalization: Any = "imagenet", device: str = "auto"
) -> Path:
    """Train a teacher on labels alone and keep it, if there is none yet.

    Args:
        teacher: its network and its `training`.
        data: the images.
        normalization: of the pixels, the same as that of its students.
        device: the kind of device, as Lightning's `accelerator`.

    Returns:
        The file of its weights.
    """
    training, identity = teacher.training, _identity(data, normalization)
    path = teacher.file(identity)

    def train() -> None:
        log.info("there is no teacher yet: training %s for %d epochs, once", teacher.backbone.name, training.epochs)
        with torch.random.fork_rng():
            torch.manual_seed(training.seed)
            module = Distillation(
                student=teacher.backbone,
                objective=LabelSmoothing(training.label_smoothing) if training.label_smoothing else CrossEntropy(),
                normalization=normalization,
                lr=training.lr,
                momentum=training.momentum,
                weight_decay=training.weight_decay,
                milestones=training.milestones,
            )
            train_separately(module, data, training, device, path.with_suffix(".partial"))
        teacher.save(module.student, identity)

    return make_once(path, train)


def _identity(data: ImageDataModule, normalization: Any) -> str:
    return f"{data.identity}; normalization {to_plain(normalization)}"
