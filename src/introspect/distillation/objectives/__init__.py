"""What a student is trained to do: one class per method, all of the form `base.Objective`."""

from introspect.distillation.objectives.attention import AttentionTransfer
from introspect.distillation.objectives.base import Objective, Stage
from introspect.distillation.objectives.contrastive import ContrastiveDistillation
from introspect.distillation.objectives.factor import FactorTransfer
from introspect.distillation.objectives.features import FeatureObjective
from introspect.distillation.objectives.labels import CrossEntropy, LabelSmoothing
from introspect.distillation.objectives.logit import LogitDistillation, ShuffledLogitDistillation
from introspect.distillation.objectives.self_supervised import SelfSupervisedDistillation

__all__ = [
    "AttentionTransfer",
    "ContrastiveDistillation",
    "CrossEntropy",
    "FactorTransfer",
    "FeatureObjective",
    "LabelSmoothing",
    "LogitDistillation",
    "Objective",
    "SelfSupervisedDistillation",
    "ShuffledLogitDistillation",
    "Stage",
]
