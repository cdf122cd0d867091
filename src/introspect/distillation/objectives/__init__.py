"""What a student is trained to do: one class per method, all of one form (`base.Objective`)."""

from introspect.distillation.objectives.attention import AttentionTransfer
from introspect.distillation.objectives.base import CrossEntropy, Objective, Stage, Transfer
from introspect.distillation.objectives.contrastive import ContrastiveDistillation
from introspect.distillation.objectives.factor import FactorTransfer
from introspect.distillation.objectives.label_smoothing import LabelSmoothing
from introspect.distillation.objectives.logit import LogitDistillation, ShuffledLogitDistillation
from introspect.distillation.objectives.self_supervised import SelfSupervisedDistillation
from introspect.vision.features import Features

__all__ = [
    "AttentionTransfer",
    "ContrastiveDistillation",
    "CrossEntropy",
    "FactorTransfer",
    "Features",
    "LabelSmoothing",
    "LogitDistillation",
    "Objective",
    "SelfSupervisedDistillation",
    "ShuffledLogitDistillation",
    "Stage",
    "Transfer",
]
