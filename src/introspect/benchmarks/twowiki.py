"""2WikiMultiHopQA (Ho et al. 2020, arXiv 2011.01060): ten Wikipedia paragraphs, two or four of which matter.

Reads `train.json` and `dev.json` of the published release, or the same items from the hub. The items annotate their
reasoning as Wikidata triples, `evidences`. The separate table of answer aliases is not used, as in the reference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from introspect.benchmarks.evidence import (
    Fact,
    Support,
    chain_facts,
    describe_relation,
    mentions,
    read_documents,
    read_support,
    same_name,
    states,
)
from introspect.benchmarks.examples import Document, EvidenceStep, MultiHopExample, Tier
from introspect.benchmarks.published import PublishedBenchmark
from introspect.benchmarks.rows import Row

_TIERS: dict[str, Tier] = {
    "comparison": "easy",
    "inference": "medium",
    "compositional": "medium",
    "bridge_comparison": "hard",
}


_SECOND_HALF = re.compile(r"\s*[a-z(,;]")


class TwoWiki(PublishedBenchmark):
    """167,454 training and 12,576 test questions; no aliases."""

    name = "2wikimultihopqa"
    published_at = ("framolfese/2WikiMultihopQA", None)

    def parse(self, row: Row) -> MultiHopExample:
        """See `PublishedBenchmark.parse`."""
        documents = read_documents(row)
        support = read_support(row, documents)
        answer = row.text("answer")
        compares = "comparison" in row.text("type")
        evidence = _chain_triples(documents, support, _read_triples(row), compares)
        return MultiHopExample(
            id=row.text("_id", "id"),
            benchmark=self.name,
            question=row.text("question"),
            answer=answer,
            documents=documents,
            evidence=evidence or chain_facts(documents, support.facts, answer, compares),
            hops=support.hops,
            tier=tier(row.values),
        )


class Triple(NamedTuple):
    """One entry of `evidences`: the `relation` of `subject` is `object`."""

    subject: str
    relation: str
    object: str


def tier(row: Mapping[str, Any]) -> Tier:
    """Difficulty by the reference's rule, from `type`. Total: any other type, or none, is medium."""
    return _TIERS.get(str(row.get("type")), "medium")


def _read_triples(row: Row) -> list[Triple]:
    """The `evidences`; none if the item has no such field."""
    if row.values.get("evidences") is None:
        row.note("item without evidences")
        return []
    table = row.table("evidences", "fact|subject", "relation", "entity|object")
    names = Triple._fields
    return [
        Triple(*(row.cell(cell, str, f"evidences[{i}].{name}") for name, cell in zip(names, cells, strict=True)))
        for i, cells in enumerate(table)
    ]


def _chain_triples(
    documents: tuple[Document, ...], support: Support, triples: list[Triple], compares: bool
) -> tuple[EvidenceStep, ...]:
    """One step per triple that stands in some document; a subject that an earlier step found is called `#k`."""
    chain: list[EvidenceStep] = []
    for position, triple in enumerate(triples):
        # Triples and supporting facts are annotated in the same order, which settles what names leave open.
        likely = support.annotated[position] if len(support.annotated) == len(triples) else None
        fact = _locate(documents, support, triple, likely)
        if fact is None:
            continue
        known = next((k for k, done in enumerate(chain, start=1) if _found(done, triple.subject)), None)
        if known is None and chain and not compares:
            known = len(chain)  # such items are one chain by construction, however the entity is spelt
        chain.append(
            EvidenceStep(
                document=fact.document,
                statement=_passage(documents[fact.document], fact.sentence, triple.object),
                goal=describe_relation(triple.relation, f"#{known}" if known else triple.subject),
                finding=triple.object,
            )
        )
    return tuple(chain)


def _locate(documents: tuple[Document, ...], support: Support, triple: Triple, likely: Fact | None) -> Fact | None:
    """The supporting sentence that states the triple, in the document about its subject wherever there is one."""

    def fitness(fact: Fact) -> tuple[bool, bool, bool, bool]:
        document = documents[fact.document]
        sentence = document.sentences[fact.sentence]
        return (
            same_name(document.title, triple.subject),
            states(sentence, triple.object),
            fact == likely,
            mentions(sentence, triple.subject),
        )

    # Where the annotation points beyond the end of a document, any sentence of that document may be meant.
    titles = support.missing
    missing = [
        Fact(d, sentence)
        for d, document in enumerate(documents)
        if document.title in titles
        for sentence in range(len(document.sentences))
    ]
    return max([*support.facts, *missing], key=fitness, default=None)


def _found(done: EvidenceStep, subject: str) -> bool:
    """Whether a step found `subject`, ranks after a comma apart: `Thomas Stanley, 1st Earl of Derby`."""
    found = done.finding or ""
    return same_name(found, subject) or same_name(found.split(",")[0], subject.split(",")[0])


def _passage(document: Document, sentence: int, finding: str) -> str:
    """The sentence that is annotated, if it gives the finding.

    The published sentences are often cut in two (`Oscar "Budd"`) or miscounted. Then: as many of the next two as it
    takes, or the first sentence of the document that gives it, or after all the sentence that is annotated. The second
    half of a sentence gets its first half back.
    """
    sentences = document.sentences
    start = sentence
    while start > 0 and _SECOND_HALF.match(sentences[start]):
        start -= 1
    passages = [" ".join(sentences[start : sentence + length]) for length in (1, 2, 3)]
    return next((text for text in [*passages, *sentences] if states(text, finding)), passages[0]).strip()
