"""Training sets under the column names in which those of the paper are published: read and written.

| set | one row per | columns |
|---|---|---|
| solutions | question | `solution_prompt`, `solution` |
| mbt-s | question | `prompt`, `synthesized_trace` |
| rollouts | answer | `rollout_id`, `prompt`, `response`, `valid`, `reasoning_trace`, `predicted_answer`, `evaluation` |
| mbt-r, distill-r | rewrite | those of rollouts, `trace_id`, `refined_trace` |

Each row also has `sample_id`, `metadata`, `question`, `answer` and, where the benchmark has them, `answer_aliases`.
Rollouts and traces are numbered from 1 there, and from 0 everywhere else in this package.
"""

from introspect.synthesis.published.reading import PublishedSet, example_id_of, messages_of
from introspect.synthesis.published.writing import export_rollouts, export_traces

__all__ = ["PublishedSet", "example_id_of", "export_rollouts", "export_traces", "messages_of"]
