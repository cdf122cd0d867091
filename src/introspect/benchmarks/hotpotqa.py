"""HotpotQA, distractor setting (Yang et al. 2018, arXiv 1809.09600): ten Wikipedia paragraphs, two of which matter.

Reads `hotpot_train_v1.1.json` and `hotpot_dev_distractor_v1.json`, or the same items from the hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from introspect.benchmarks.evidence import chain_facts, read_documents, read_support
from introspect.benchmarks.examples import MultiHopExample, Tier
from introspect.benchmarks.published import PublishedBenchmark
from introspect.benchmarks.rows import Row


class HotpotQA(PublishedBenchmark):
    """90,447 training and 7,405 test questions; no aliases."""

    name = "hotpotqa"
    published_at = ("hotpotqa/hotpot_qa", "distractor")

    def parse(self, row: Row) -> MultiHopExample:
        """See `PublishedBenchmark.parse`."""
        documents = read_documents(row)
        support = read_support(row, documents)
        answer = row.text("answer")
        compares = row.text("type") == "comparison"
        row.text("level")  # part of the format: without it the tier would be a guess
        return MultiHopExample(
            id=row.text("_id", "id"),
            benchmark=self.name,
            question=row.text("question"),
            answer=answer,
            documents=documents,
            evidence=chain_facts(documents, support.facts, answer, compares),
            hops=support.hops,
            tier=tier(row.values),
        )


def tier(row: Mapping[str, Any]) -> Tier:
    """Difficulty by the reference's rule: an easy or medium `level` stands; the rest is judged by its structure.

    Three or more supporting sentences are hard, else a comparison is easy and anything else medium (the whole public
    validation part has `level` hard). Total: a key that is missing counts as empty.
    """
    level = row.get("level")
    if level in ("easy", "medium"):
        return level
    facts = row.get("supporting_facts") or ()
    count = len(facts.get("title") or ()) if isinstance(facts, Mapping) else len(facts)
    if count >= 3:
        return "hard"
    return "easy" if row.get("type") == "comparison" else "medium"
