"""Metrics of rollouts. docs/metrics.md and docs/judges.md define every number; `summary` gives them all at once.

Every class is a `torchmetrics.Metric` whose `update` takes a sequence of `Rollout`; those of `judged` take `Judged`.
"""

from introspect.reasoning.metrics.aes import AccuracyEfficiencyScore
from introspect.reasoning.metrics.answer_hit import (
    AnswerHitRate,
    AnswerInclusiveErrorRate,
    AnswerInclusiveErrorShareOfFailures,
    WithoutReasoningRate,
)
from introspect.reasoning.metrics.answers import F1, ExactMatch, SubstringMatch
from introspect.reasoning.metrics.degeneration import DegenerationCount, DegenerationRate, UnparsedCount, UnparsedRate
from introspect.reasoning.metrics.judged import (
    JudgedAnswers,
    JudgedRun,
    JudgeMetrics,
    MetacognitionScore,
    MetacognitiveQuality,
    ReachRedundancyProfile,
    ThinkingWaste,
)
from introspect.reasoning.metrics.sampling import SamplingScores
from introspect.reasoning.metrics.summary import Comparison, RolloutMetrics, compare, confidence_intervals, summarize
from introspect.reasoning.metrics.tokens import TokenUsage

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
    "compare",
    "confidence_intervals",
    "summarize",
]
