"""HotpotQA, distractor setting (Yang et al. 2018, arXiv 1809.09600): ten Wikipedia paragraphs, two of which matter.

Reads `hotpot_train_v1.1.json` and `hotpot_dev_distractor_v1.json`, or the same items from the hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from introspect.benchmarks.base import Files, Source
from introspect.benchmarks.evidence import chain_facts, read_documents, read_support
from introspect.benchmarks.examples import MultiHopExample, Tier
from introspect.benchmarks.rows import Row


class HotpotQA:
    """90,447 training and 7,405 test questions; no aliases. The arguments are those of `base.Source`."""

    name = "hotpotqa"

    def __init__(
        self,
        *,
        files: Files | None = None,
        hub_id: str | None = "hotpotqa/hotpot_qa",
        hub_config: str | None = "distractor",
        revision: str | None = None,
        held_out: int = 200,
    ) -> None:
        self._source = Source(files=files, hub_id=hub_id, hub_config=hub_config, revision=revision, held_out=held_out)

    def load(self, split: str, limit: int | None = None) -> list[MultiHopExample]:
        """See `base.Benchmark`."""
        return self._source.load(split, limit, parse)


def parse(row: Row) -> MultiHopExample:
    """One item, in the layout of the published files or of the hub.

    Raises:
        InputError: naming the field that is missing, empty or of the wrong type.
    """
    documents = read_documents(row)
    support = read_support(row, documents)
    answer = row.text("answer")
    compares = row.text("type") == "comparison"
    row.text("level")  # part of the format: without it the tier would be a guess
    return MultiHopExample(
        id=row.text("_id", "id"),
        benchmark=HotpotQA.name,
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
