"""hopworld: the embedded benchmark. Small generated worlds in HotpotQA's document form, 2 to 4 hops.

Every question comes with a world of its own: a chain of people, companies, cities and countries that answers it,
and distractor documents about entities of the same kinds. The same name means something else in the next world, so
nothing can be answered from memory, and every hop of every answer can be checked by a program.

Worlds of different splits never coincide, whatever the seeds: a world belongs to the split that a hash of its facts
says (80 % train, 10 % validation, 10 % test).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from introspect.benchmarks.examples import Document, EvidenceStep, MultiHopExample, Tier
from introspect.core.errors import InputError
from introspect.core.seeds import derived_seed

NAMES: dict[str, tuple[str, ...]] = {
    "person": tuple(
        """Ada Alma Amir Astrid Boris Bruno Celia Clara Cyrus Dana Dora Edgar Elias Emma Enzo Ezra Fiona Flora Freya
        Gideon Greta Hana Hector Hugo Ingrid Iris Ivan Joan Jonas Julia Karl Lena Leo Lola Lucas Maria Milo Nadia Nina
        Omar Oscar Petra Rosa Silas Sven Tilda Vera Zoe""".split()
    ),
    "company": tuple(
        """Acumen Altair Axiom Boreal Cobalt Cygnus Ember Fathom Galleon Halcyon Helix Juniper Kestrel Lumen Meridian
        Nimbus Orbis Parsec Quartz Rubicon Solara Tessera Vertex Zephyr""".split()
    ),
    "city": tuple(
        """Aarhus Bergen Brno Cadiz Cork Cuzco Delft Evora Galway Ghent Graz Hanoi Izmir Kyoto Lagos Leiden Lima Lund
        Metz Minsk Oslo Padua Porto Quito Riga Rouen Tartu Tours Turin Utica Varna Zagreb""".split()
    ),
    "country": tuple(
        """Benin Bhutan Canada Chile Cuba Egypt Fiji Ghana Iceland Japan Kenya Latvia Malta Nepal Norway Peru""".split()
    ),
}

# subject kind -> relation -> object kind
RELATIONS: dict[str, dict[str, str]] = {
    "person": {"employer": "company", "spouse": "person", "birthplace": "city", "teacher": "person"},
    "company": {"founder": "person", "seat": "city", "rival": "company"},
    "city": {"mayor": "person", "country": "country", "architect": "person"},
    "country": {"capital": "city", "president": "person"},
}

HOPS = (2, 3, 4)
TIERS: dict[int, Tier] = {2: "easy", 3: "medium", 4: "hard"}
SPLITS = {"train": range(8), "validation": range(8, 9), "test": range(9, 10)}


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact, in words: `The <relation> of <subject> is <object>`."""

    subject: str
    relation: str
    object: str

    def __str__(self) -> str:
        return f"The {self.relation} of {self.subject} is {self.object}."


@dataclass(frozen=True, slots=True)
class World:
    """A chain of facts that answers a question, and the documents (facts by subject) in which it is hidden."""

    chain: tuple[Fact, ...]
    documents: tuple[tuple[Fact, ...], ...]

    @property
    def question(self) -> str:
        """The chain as a question: `Who is the founder of the employer of Ada?`."""
        path = " of ".join(f"the {fact.relation}" for fact in reversed(self.chain))
        word = "Who" if self.chain[-1].object in NAMES["person"] else "What"
        return f"{word} is {path} of {self.chain[0].subject}?"

    @property
    def split(self) -> str:
        """The split that this world belongs to, by a hash of its facts."""
        facts = "|".join(sorted(str(fact) for document in self.documents for fact in document))
        bucket = derived_seed(facts, size=4) % 10
        return next(split for split, buckets in SPLITS.items() if bucket in buckets)

    def example(self, identifier: str) -> MultiHopExample:
        """Make a benchmark item of the world."""
        documents = tuple(
            Document(title=facts[0].subject, sentences=tuple(map(str, facts)), label=label)
            for label, facts in enumerate(self.documents)
        )
        place = {document.title: document.label for document in documents}
        evidence = tuple(
            EvidenceStep(
                document=place[fact.subject],
                statement=str(fact),
                goal=f"the {fact.relation} of {f'#{step}' if step else fact.subject}",
                finding=fact.object,
            )
            for step, fact in enumerate(self.chain)
        )
        return MultiHopExample(
            id=identifier,
            benchmark="hopworld",
            question=self.question,
            answer=self.chain[-1].object,
            documents=documents,
            evidence=evidence,
            hops=len(self.chain),
            tier=TIERS[len(self.chain)],
        )


def draw_world(rng: random.Random, hops: int, documents: int = 6, facts_per_document: int = 2) -> World:
    """Draw a world whose question needs `hops` look-ups among `documents` documents.

    No relation occurs twice in a chain and no entity is visited twice, so each hop has exactly one answer.
    """
    unused = {kind: rng.sample(names, len(names)) for kind, names in NAMES.items()}
    kinds = _draw_kinds(rng, hops)
    subjects = [unused[kind].pop() for kind, _ in kinds]
    answer = unused[RELATIONS[kinds[-1][0]][kinds[-1][1]]].pop()
    chain = tuple(
        Fact(subject, relation, following)
        for subject, (_, relation), following in zip(subjects, kinds, [*subjects[1:], answer], strict=True)
    )
    books = [
        [fact, *_draw_facts(rng, kind, fact.subject, {fact.relation}, facts_per_document - 1)]
        for fact, (kind, _) in zip(chain, kinds, strict=True)
    ]
    # A distractor is of a kind that the chain visits and states the relation that is asked there, of something else.
    for number in range(documents - hops):
        kind, relation = kinds[number % hops] if number < hops else rng.choice(kinds)
        subject = unused[kind].pop()
        asked = _draw_fact(rng, kind, subject, relation)
        books.append([asked, *_draw_facts(rng, kind, subject, {relation}, facts_per_document - 1)])
    for book in books:
        rng.shuffle(book)
    rng.shuffle(books)
    return World(chain, tuple(map(tuple, books)))


def _draw_kinds(rng: random.Random, hops: int) -> list[tuple[str, str]]:
    """A typed path: (kind of subject, relation) per hop, no relation twice."""
    while True:
        kind, path = rng.choice(list(RELATIONS)), []
        for _ in range(hops):
            relation = rng.choice(list(RELATIONS[kind]))
            path.append((kind, relation))
            kind = RELATIONS[kind][relation]
        if len({relation for _, relation in path}) == hops:
            return path


def _draw_facts(rng: random.Random, kind: str, subject: str, taken: set[str], count: int) -> list[Fact]:
    relations = rng.sample([relation for relation in RELATIONS[kind] if relation not in taken], count)
    return [_draw_fact(rng, kind, subject, relation) for relation in relations]


def _draw_fact(rng: random.Random, kind: str, subject: str, relation: str) -> Fact:
    while (drawn := rng.choice(NAMES[RELATIONS[kind][relation]])) == subject:
        pass
    return Fact(subject, relation, drawn)


def worlds(split: str, seed: int, documents: int = 6, facts_per_document: int = 2) -> Iterator[World]:
    """Yield worlds of one split without end, reproducibly, with 2, 3 and 4 hops in turn.

    Raises:
        InputError: for a split that is not train, validation or test.
    """
    if split not in SPLITS:
        raise InputError(f"hopworld has no split {split!r}: expected one of {', '.join(SPLITS)}")
    rng = random.Random(f"hopworld/{seed}/{split}")
    number = 0
    while True:
        world = draw_world(rng, HOPS[number % len(HOPS)], documents, facts_per_document)
        if world.split == split:
            yield world
            number += 1


class Hopworld:
    """The benchmark: a fixed number of generated questions per split, the same for the same seed.

    Args:
        seed: which worlds are drawn. Splits stay disjoint whatever the seeds are.
        sizes: questions per split.
        documents: documents per question, more than 4.
        facts_per_document: sentences per document, 1 or 2.
    """

    name = "hopworld"

    def __init__(
        self, *, seed: int = 0, sizes: Mapping[str, int], documents: int = 6, facts_per_document: int = 2
    ) -> None:
        if unknown := set(sizes) - set(SPLITS):
            raise InputError(f"data.sizes: unknown split {sorted(unknown)[0]!r}, expected {', '.join(SPLITS)}")
        if documents <= max(HOPS) or not 1 <= facts_per_document <= 2:
            raise InputError(
                f"data: hopworld needs more than {max(HOPS)} documents of 1 or 2 facts, "
                f"got documents={documents}, facts_per_document={facts_per_document}"
            )
        self.seed = seed
        self.sizes = dict(sizes)
        self.documents = documents
        self.facts_per_document = facts_per_document

    def load(self, split: str, limit: int | None = None) -> list[MultiHopExample]:
        """Generate the first `limit` questions of a split; ids are `<split>-<seed>-<number>`."""
        size = self.sizes.get(split, 0)
        stream = worlds(split, self.seed, self.documents, self.facts_per_document)
        count = size if limit is None else min(size, limit)
        return [
            world.example(f"{split}-{self.seed}-{number}") for number, world in zip(range(count), stream, strict=False)
        ]
