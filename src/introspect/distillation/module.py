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
from introspect.core.errors import InputError, one_line
from introspect.core.nested import to_plain
from introspect.core.resuming import read_checkpoint, reseed
from introspect.distillation.objectives import CrossEntropy, LabelSmoothing, Objective
from introspect.distillation.optimization import sgd
from introspect.distillation.stages import is_trial, load_stage, make_stage, stage_file, train_apart
from introspect.distillation.teacher import Teacher, locked
from introspect.distillation.teacher_logits import TeacherLogits, check_fixed, logits_file, make_logits
from introspect.vision.backbones import Backbone
from introspect.vision.features import CompiledFeatures, Features, features, outline
from introspect.vision.networks import Network
from introspect.vision.preprocessing import preprocessing

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
        channels_last: whether the pixels of a channel lie apart in memory; what is computed is the same but for
            rounding, and convolutions are faster with it on CPUs, and on GPUs with 16 bits.
        compile: whether torch compiles the forward passes of training, of student and teacher; the weights keep their
            names, and validation and test run as they are.

    Raises:
        InputError: a number is out of range, or the objective needs a teacher and there is none, or one whose logits
            can not be kept.
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
        if teacher is not None and teacher.cache and (objective.teacher_layers or objective.views_per_image > 1):
            raise InputError(
                f"model.teacher.cache: {type(objective).__name__} learns from more than the teacher's logits of each "
                "image; set model.teacher.cache=false"
            )
        if not lr > 0 or not all(0 < share < 1 for share in milestones):
            raise InputError(f"model: lr={lr}, milestones={list(milestones)}: expected more than 0, and shares below 1")
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
        # How fast it is trained is no property of a student: it is in no checkpoint.
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
        if source.cache:
            check_fixed(data)
        device = trainer.strategy.root_device.type
        identity = _identity(data, normalization) if source.is_trained_here else ""
        if source.is_trained_here:
            make_teacher(source, data, normalization, device)
        if (stage := self.objective.stage) is not None:
            made_of = self._made_of(data)
            teacher = partial(source.load, identity, normalization)
            make_stage(stage, source.cache_dir, made_of, teacher, self.preprocess, data, device)
        if source.cache:
            with torch.random.fork_rng():  # as in setup
                network = source.load(identity, normalization).to(memory_format=self._layout)
                make_logits(source, network, data, trainer, self._prepared, normalization)

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
            InputError: their weights can not be read; or the student's are spread over devices; or its batch norm is
                to be synchronized on CPUs.
        """
        if stage != "fit":
            return
        check_whole(self.trainer)
        self._check_batch_norm()
        data: Any = getattr(self.trainer, "datamodule", None)
        if hasattr(data, "beside"):
            data.beside = None  # what an earlier student has set
        if self._source is not None:
            with torch.random.fork_rng():  # weights are drawn before they are read: the student's luck stays as it is
                self._teacher = [self._loaded()]
            self._load_stage()
            if self._source.cache:
                self._open_logits()
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

    def _open_logits(self) -> None:
        """Have what the teacher has said added to each training batch."""
        data, source = self._datamodule(), cast(Teacher, self._source)
        check_fixed(data)
        path = logits_file(source, self._teacher[0], data, self.trainer, self.hparams["normalization"])
        if is_trial(self.trainer) and not path.is_file():
            log.warning("a trial run, and the teacher's logits are not kept yet: it is asked about each batch")
        else:
            data.beside = TeacherLogits(path, len(data.train_classes()), source.backbone.classes).of

    def on_fit_start(self) -> None:
        """The teacher, with the stage on it, goes to where the student is, and shows what it knows."""
        if self.objective.stage is not None:
            self.objective.stage.to(self.device)
        for teacher in self._teacher:
            self.trainer.precision_plugin.convert_module(teacher.to(self.device).to(memory_format=self._layout))
            if self.trainer.is_global_zero:
                with torch.random.fork_rng():  # a loader draws a number, which the student shall not miss
                    self._examine(teacher)

    def _check_batch_norm(self) -> None:
        """Torch synchronizes batch norm over GPUs only: on CPUs each process has statistics of its own."""
        strategy = self.trainer.strategy
        has_batch_norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.modules())
        if strategy.root_device.type != "cpu" or not has_batch_norm or not isinstance(strategy, ParallelStrategy):
            return
        if strategy._layer_sync is not None:
            raise InputError("trainer.sync_batchnorm: works on GPUs only; on CPUs set trainer.sync_batchnorm=false")
        if self.trainer.world_size > 1 and self.trainer.is_global_zero:
            log.warning(
                "batch norm takes its statistics over the images of one process, not of all %d: the training differs "
                "from that on one device; use one CPU process (trainer=cpu) or GPUs (trainer=ddp)",
                self.trainer.world_size,
            )

    @torch.no_grad()
    def _examine(self, teacher: nn.Module, most: int = 1000) -> None:
        """Say how good the teacher is: weights of another network, or of other pixels, run without complaint."""
        images, targets = [], []
        for batch in self._datamodule().held_out():
            images.append(teacher(self._prepared(batch[0].to(self.device), teacher)).argmax(1).cpu())
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
        return features(self.student, self._prepared(images, self.student)).logits

    def _prepared(self, images: Tensor, network: nn.Module) -> Tensor:
        """What a network takes in, in its number format, which is no longer float32 with `trainer.precision=*-true`."""
        dtype = next(network.parameters()).dtype
        return self.preprocess(images).to(dtype).contiguous(memory_format=self._layout)

    def on_train_start(self) -> None:
        """Compile, where that is wanted; not before, because a strategy may still replace modules."""
        pairs = zip(
            (self.student, *self._teacher), (self.objective.student_layers, self.objective.teacher_layers), strict=False
        )
        read = CompiledFeatures if self._compiles else lambda network, layers: partial(features, network, layers=layers)
        self._readers = [read(network, layers) for network, layers in pairs]

    def on_train_end(self) -> None:
        """Leave the networks as they were."""
        for reader in self._readers:
            if isinstance(reader, CompiledFeatures):
                reader.close()
        self._readers = []

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Reseed what is random beside the data, such as dropout: see `reseed`."""
        reseed(self.trainer)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss, a scalar. Logs `train/loss`, `train/loss/<part>`, `train/accuracy` (share of the epoch)."""
        images, targets, *others = batch
        numbers, kept = others[:1], others[1:]
        prepared = self.objective.views(self._prepared(images, self.student))
        read_student, *read_teacher = self._readers
        student = read_student(prepared)
        taught = Features(kept[0]) if kept else None
        for read in () if kept else read_teacher:
            with torch.no_grad():
                taught = read(prepared)
        losses = self.objective(student, taught, targets, *numbers)
        loss = torch.stack(list(losses.values())).sum()
        self.train_accuracy(student.logits[:: self.objective.views_per_image], targets)
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        if len(losses) > 1:
            self.log_dict({f"train/loss/{name}": value for name, value in losses.items()}, sync_dist=True)
        self.log("train/accuracy", self.train_accuracy, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Logs `val/loss` (cross-entropy, nats) and `val/accuracy` (share)."""
        self._evaluate(batch, "val", self.val_accuracy, self.val_loss)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Logs `test/loss` and `test/accuracy`; the logits [b, c] are for callbacks."""
        return self._evaluate(batch, "test", self.test_accuracy, self.test_loss)

    def taught(self, images: Tensor) -> Tensor | None:
        """The teacher's logits [b, c] of uint8 images; None if there is none, or it has not been wanted yet."""
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
            raise InputError("model: what trains before the student, or numbers images, needs an ImageDataModule")
        return data


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
    return f"{data.identity}; normalization {to_plain(normalization)}"


def load_student(ckpt_path: str | Path) -> Network:
    """Return the student of a checkpoint.

    Raises:
        InputError: there is no such file, or it is no checkpoint of a `Distillation`.
    """
    checkpoint = read_checkpoint(ckpt_path)
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
        reason = one_line(error, 200)
        raise InputError(f"ckpt_path={ckpt_path}: not a checkpoint of a classifier ({reason})") from error
    return Network(
        network.eval(), settings["student"]["name"], str(ckpt_path), preprocessing(settings["normalization"])
    )
