"""Metrics of rollouts. docs/metrics.md and docs/judges.md define every number; `summary` gives them all at once.

Every class is a `torchmetrics.Metric` whose `update` takes a sequence of `Rollout`; those of `judged` take `Judged`.
"""

from introspect.evaluation.metrics.aes import AccuracyEfficiencyScore
from introspect.evaluation.metrics.answer_hit import (
    AnswerHitRate,
    AnswerInclusiveErrorRate,
    AnswerInclusiveErrorShareOfFailures,
    WithoutReasoningRate,
)
from introspect.evaluation.metrics.answers import F1, ExactMatch, SubstringMatch
from introspect.evaluation.metrics.degeneration import DegenerationCount, DegenerationRate, UnparsedCount, UnparsedRate
from introspect.evaluation.metrics.judged import (
    JudgedAnswers,
    JudgedRun,
    JudgeMetrics,
    MetacognitionScore,
    MetacognitiveQuality,
    ReachRedundancyProfile,
    ThinkingWaste,
)
from introspect.evaluation.metrics.sampling import SamplingScores
from introspect.evaluation.metrics.summary import (
    Comparison,
    RolloutMetrics,
    compare_runs,
    confidence_intervals,
    summarize,
)
from introspect.evaluation.metrics.tokens import TokenUsage

__all__ = [
    "F1",
    "AccuracyEfficiencyScore",
    "AnswerHitRate",
    "AnswerInclusiveErrorRate",
    "AnswerInclusiveErrorShareOfFailures",
    "Comparison",
    "DegenerationCount",
    "DegenerationRate",
    "ExactMatch",
    "JudgeMetrics",
    "JudgedAnswers",
    "JudgedRun",
    "MetacognitionScore",
    "MetacognitiveQuality",
    "ReachRedundancyProfile",
    "RolloutMetrics",
    "SamplingScores",
    "SubstringMatch",
    "ThinkingWaste",
    "TokenUsage",
    "UnparsedCount",
    "UnparsedRate",
    "WithoutReasoningRate",
    "compare_runs",
    "confidence_intervals",
    "summarize",
]
