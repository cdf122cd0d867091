"""The chain of evidence from what the benchmarks annotate: the place of each fact, and the order of the reasoning.

The oracle teacher writes its traces from these chains, so they read as a solution does.
"""

from __future__ import annotations

import html
import re
import unicodedata
from functools import lru_cache
from typing import NamedTuple

from introspect.benchmarks.examples import Document, EvidenceStep
from introspect.benchmarks.rows import Row

_ACCENTS = re.compile("[\u0300-\u036f]")
_WORD = re.compile(r"\w+")
_QUALIFIER = re.compile(r"\s*\([^()]*\)\s*$")
_SENTENCE_END = re.compile(r"""[.!?]["'”’)\]]*\s+(?=["'“‘(\[]*[A-Z0-9À-ÞŁŠŽ])""")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:[A-Z]|(?:[A-Z]\.)+[A-Z]|Mr|Mrs|Ms|Dr|St|Jr|Sr|Prof|Gen|Sen|Rep|Gov|Lt|Col|Capt|Sgt|Rev|Mt|Ft|No|vs|ca|c|b|d)\.$"
)

# Wikidata's names of relations that are not nouns one can be "the … of".
_RELATIONS = {
    "applies to jurisdiction": "the jurisdiction that {} applies to",
    "award received": "the award that {} received",
    "cast member": "a cast member of {}",
    "capital of": "what {} is the capital of",
    "conflict": "the conflict that {} took part in",
    "contains administrative territorial entity": "an administrative territorial entity that {} contains",
    "crosses": "what {} crosses",
    "educated at": "where {} was educated",
    "follows": "what {} follows",
    "has part": "a part of {}",
    "instance of": "what kind of thing {} is",
    "licensed to broadcast to": "the place that {} is licensed to broadcast to",
    "located in or next to body of water": "the body of water that {} lies in or next to",
    "located in the administrative territorial entity": "the administrative territorial entity that {} is located in",
    "located on terrain feature": "the terrain feature that {} is located on",
    "lyrics by": "the writer of the lyrics of {}",
    "member of": "what {} is a member of",
    "member of political party": "the political party of {}",
    "member of sports team": "the sports team of {}",
    "named after": "what {} is named after",
    "participant of": "what {} took part in",
    "position held": "the position that {} held",
    "shares border with": "what {} shares a border with",
}
_PREPOSITIONS = {"after", "at", "by", "for", "from", "in", "of", "on", "to", "with"}


class Fact(NamedTuple):
    """A supporting sentence: `sentence` of `documents[document]`, both counted from 0."""

    document: int
    sentence: int


@lru_cache(maxsize=4096)  # the same few sentences and names are compared again and again
def words(text: str) -> str:
    """Normalise a text to its lower-case words, without accents and punctuation, between blanks: ` emile chautard `."""
    plain = _ACCENTS.sub("", unicodedata.normalize("NFKD", text.casefold()))
    return f" {' '.join(_WORD.findall(plain))} "


def mentions(text: str, phrase: str) -> bool:
    """Whether the words of `phrase` occur in `text` in a row; false for a phrase without words."""
    sought = words(phrase)
    return bool(sought.strip()) and sought in words(text)


def tells(text: str, answer: str) -> bool:
    """Whether a text states the answer. The word "no" in a sentence is not the answer "no"."""
    return answer.strip().casefold() not in ("yes", "no") and mentions(text, answer)


def states(text: str, finding: str) -> bool:
    """Whether a text gives a finding, even as part of another word (`Indian` gives `India`)."""
    return mentions(text, finding) or (len(finding) > 3 and finding.casefold() in text.casefold())


def bare(title: str) -> str:
    """Strip a title of its qualifier and HTML escapes: `Petra (film)` -> `Petra`."""
    return html.unescape(_QUALIFIER.sub("", title) or title)


def same_name(one: str, other: str) -> bool:
    """Whether two names are equal but for case, accents, punctuation and qualifiers."""
    name = words(bare(one))
    return one == other or (bool(name.strip()) and name == words(bare(other)))


def names(title: str, answer: str) -> bool:
    """Whether an answer is a title or a longer form of it: `Otto Ludwig Preminger` is that of `Otto Preminger`."""
    parts = set(words(bare(title)).split())
    return bool(parts) and parts <= set(words(answer).split())


def split_sentences(text: str) -> list[str]:
    """Split a paragraph into sentences at `.`, `!` or `?` before a capital, but not after initials and titles."""
    sentences, start = [], 0
    for match in _SENTENCE_END.finditer(text):
        if not _ABBREVIATION.search(text[start : match.start() + 1]):
            sentences.append(text[start : match.end()].strip())
            start = match.end()
    return [*sentences, text[start:].strip()] if text[start:].strip() else sentences


def describe_relation(relation: str, subject: str) -> str:
    """Put a Wikidata relation in words: `director`, `Petra` -> `the director of Petra`."""
    relation, subject = " ".join(relation.split()), " ".join(subject.split())
    if relation in _RELATIONS:
        return _RELATIONS[relation].format(subject)
    if relation.rpartition(" ")[2] in _PREPOSITIONS:
        return f"what {subject} is {relation}"
    return f"the {relation} of {subject}"


def read_documents(row: Row) -> tuple[Document, ...]:
    """Read the `context` of a HotpotQA or 2WikiMultiHopQA item; documents are labelled by their position, from 0."""
    table = row.table("context", "title", "sentences|content")
    if not table:
        raise row.error("context", "holds no documents")
    documents = tuple(
        Document(
            title=row.cell(title, str, f"context[{i}].title"),
            sentences=row.texts(sentences, f"context[{i}].sentences"),
            label=i,
        )
        for i, (title, sentences) in enumerate(table)
    )
    if len({document.title for document in documents}) < len(documents):
        row.note("item with two documents of the same title")
    return documents


class Support(NamedTuple):
    """The `supporting_facts` of an item, in the annotation's order; None for a fact that points at no sentence."""

    annotated: list[Fact | None]
    titles: list[str]

    @property
    def facts(self) -> list[Fact]:
        """The facts that point at a sentence, each once."""
        return list(dict.fromkeys(fact for fact in self.annotated if fact))

    @property
    def missing(self) -> set[str]:
        """The titles of the facts that point at no sentence."""
        return {title for title, fact in zip(self.titles, self.annotated, strict=True) if fact is None}

    @property
    def hops(self) -> int:
        """Distinct documents that the annotation names, at least 1."""
        return max(len(set(self.titles)), 1)


def read_support(row: Row, documents: tuple[Document, ...]) -> Support:
    """Read the `supporting_facts` of a HotpotQA or 2WikiMultiHopQA item.

    The published files hold a few that point beyond the end of their document; they are noted, not refused. Of two
    documents with the same title the first that is long enough is meant.
    """
    annotated: list[Fact | None] = []
    titles: list[str] = []
    for i, (title, sentence) in enumerate(row.table("supporting_facts", "title", "sent_id")):
        titles.append(row.cell(title, str, f"supporting_facts[{i}].title"))
        index = row.cell(sentence, int, f"supporting_facts[{i}].sent_id")
        homes = (d for d, doc in enumerate(documents) if doc.title == title and 0 <= index < len(doc.sentences))
        home = next(homes, None)
        annotated.append(None if home is None else Fact(home, index))
        if home is None:
            row.note("supporting fact that points at no sentence")
    if not any(annotated):
        row.note("item without a usable supporting fact")
    return Support(annotated, titles)


def chain_facts(
    documents: tuple[Document, ...], facts: list[Fact], answer: str, compares: bool
) -> tuple[EvidenceStep, ...]:
    """Make one step per supporting fact, in the order of the reasoning.

    A comparison keeps the annotation's order. Otherwise the documents form a bridge: one that tells the answer comes
    last, and one whose title another document mentions comes after it.

    Only the last step has a finding: the answer, if the step's sentence tells it or its document is about it. The
    winner of a comparison is no such finding; it follows from all steps together.
    """
    facts = list(facts) if compares else _bridge(documents, facts, answer)
    if not facts:
        return ()
    last = documents[facts[-1].document]
    found = tells(last.sentences[facts[-1].sentence], answer)
    if compares:
        titles = [bare(documents[fact.document].title) for fact in facts]
        found = found and not any(names(title, answer) or names(answer, title) for title in titles)
    else:
        found = found or names(last.title, answer)
    return tuple(
        EvidenceStep(
            document=fact.document,
            statement=documents[fact.document].sentences[fact.sentence].strip(),
            finding=answer if found and fact is facts[-1] else None,
        )
        for fact in facts
    )


def _bridge(documents: tuple[Document, ...], facts: list[Fact], answer: str) -> list[Fact]:
    said: dict[int, str] = {}
    for fact in facts:
        said[fact.document] = f"{said.get(fact.document, '')} {documents[fact.document].sentences[fact.sentence]}"

    def lateness(document: int) -> tuple[bool, bool]:
        title = documents[document].title
        told = tells(said[document], answer) or names(title, answer)
        return told, any(mentions(text, bare(title)) for d, text in said.items() if d != document)

    order = sorted(said, key=lateness)
    chain = [fact for document in order for fact in sorted(f for f in facts if f.document == document)]
    if not order or names(documents[order[-1]].title, answer):
        return chain
    # The last document is read in order, but for the sentences that tell the answer: they end the chain.
    return sorted(
        chain,
        key=lambda f: f.document == order[-1] and 1 + tells(documents[f.document].sentences[f.sentence], answer),
    )
