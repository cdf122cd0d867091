"""What a student is trained to do: one class per method, all of one form (`base.Objective`)."""

from introspect.distillation.objectives.base import Features, Objective
from introspect.distillation.objectives.cross_entropy import CrossEntropy
from introspect.distillation.objectives.label_smoothing import LabelSmoothing
from introspect.distillation.objectives.logit import LogitDistillation

__all__ = ["CrossEntropy", "Features", "LabelSmoothing", "LogitDistillation", "Objective"]
