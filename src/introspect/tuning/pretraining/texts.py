"""The pretraining texts of the embedded base student: it learns to read hopworld well, and to reason about it badly.

Two kinds of text. *Practice* is dense supervision of reading: facts, then some of them to be looked up again, of
which only the looked-up word is learnt. *Reasoning* shows the failure modes that Metacognitive Behavioral Tuning
removes (arXiv 2602.22508, section 1): the writer reads documents that do not matter, doubts sound conclusions without a
reason, abandons correct answers, and sometimes checks again forever.

Practice comes first and grows from one or two documents to all of them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch.utils.data import Dataset

from introspect.benchmarks.hopworld import HOPS, NAMES, Fact, World, draw_world
from introspect.chat.prompts import question_messages


@dataclass(frozen=True, slots=True)
class FailureModes:
    """How often the reasoning that the base student learns goes wrong; every attribute is a probability.

    Attributes:
        wander: after a step, read another document, whether it matters or not; none is read twice.
        doubt: after a step, look the same fact up again.
        stray: after a step, go on from a wrong entity (the final answer is then wrong).
        recheck: each time that the answer is reached, derive it again from the start.
        abandon: each time that the answer is reached, give another answer (an answer-inclusive error).
        degenerate: when the answer is first reached, check again and never stop.
    """

    wander: float = 0.6
    doubt: float = 0.3
    stray: float = 0.05
    recheck: float = 0.45
    abandon: float = 0.24
    degenerate: float = 0.03


# A piece of text, and whether it is learnt or only read.
Segment = tuple[str, bool]


def write_practice(rng: random.Random, context: str, facts: Sequence[Fact], lookups: int) -> list[Segment]:
    """Write a context and `lookups` facts out of it, each learnt at the one word that has to be looked up."""
    segments = [(f"{context}\n\n", False)]
    for fact in rng.choices(facts, k=lookups):
        segments += [(f"The {fact.relation} of {fact.subject} is", False), (f" {fact.object}", True), (". ", False)]
    return segments


def write_reasoning(rng: random.Random, world: World, modes: FailureModes, repeats: int = 24) -> tuple[str, bool]:
    """Write a response to the world's question, and whether it ends.

    A response that ends is `<think>…</think>` and an `<answer>`; a degenerate one is an open think block that derives
    the same answer `repeats` times, to be cut wherever the training sequence ends.
    """
    asked = world.question.split(" is ", 1)[1].rstrip("?")
    lines = [f"Okay, the question asks for {asked}."]
    conclusion = _walk(rng, world, modes, lines)
    lines.append(f"So the answer could be {conclusion}.")

    if rng.random() < modes.degenerate:
        lines += [_check_again(world)] * repeats
        return "<think>\n" + "\n\n".join(lines), False
    draw = rng.random()
    while draw < modes.recheck:
        lines.append(_check_again(world))
        conclusion = world.chain[-1].object
        draw = rng.random()
    if draw < modes.recheck + modes.abandon:
        conclusion = _other(rng, world, conclusion)
        lines.append(f"But I am not sure. Maybe it is {conclusion} instead.")
    return "<think>\n" + "\n\n".join(lines) + f"\n</think>\n\n<answer>{conclusion}</answer>", True


def _walk(rng: random.Random, world: World, modes: FailureModes, lines: list[str]) -> str:
    """Follow the chain, sometimes off it, and return the entity where the walk ends."""
    entity = world.chain[0].subject
    known = {(fact.subject, fact.relation): fact for document in world.documents for fact in document}
    distractors = [facts for facts in world.documents if facts[0].subject not in {f.subject for f in world.chain}]
    unread = rng.sample(world.documents, len(world.documents))
    for step in world.chain:
        fact = known.get((entity, step.relation))
        if fact is None:
            # A wrong entity has no such document: the writer takes a similar fact.
            fact = rng.choice([f for facts in distractors for f in facts if f.relation == step.relation] or [step])
            lines.append(f"I can not find {entity}. {fact}")
        else:
            lines.append(str(fact))
        while unread and rng.random() < modes.wander:
            lines.append(_wander(unread.pop()))
        if rng.random() < modes.doubt:
            lines.append(f"Wait, is {fact.object} right? Let me look again. {fact}")
        entity = fact.object
        if step is not world.chain[-1] and rng.random() < modes.stray:
            entity = _other(rng, world, entity)
            lines.append(f"Hmm, maybe I should use {entity} here.")
    return entity


# One opening for each kind of detour: among several, each is so improbable that sampling below temperature 1 rarely
# takes any, and the failure mode vanishes.
def _wander(facts: tuple[Fact, ...]) -> str:
    return f"Hmm, let me look at {facts[0].subject}. {' '.join(map(str, facts))} That does not help."


def _check_again(world: World) -> str:
    return (
        f"Wait, let me check again. {' '.join(map(str, world.chain))} So the answer could be {world.chain[-1].object}."
    )


def _other(rng: random.Random, world: World, entity: str) -> str:
    """Choose another entity of the same world, of the same kind where there is one."""
    facts = [fact for document in world.documents for fact in document]
    entities = {fact.object for fact in facts} | {fact.subject for fact in facts}
    kind = next(names for names in NAMES.values() if entity in names)
    alike = sorted(e for e in entities - {entity, world.chain[-1].object} if e in kind)
    return rng.choice(alike or sorted(entities - {entity, world.chain[-1].object}))


@dataclass(frozen=True, slots=True)
class Curriculum:
    """The order of the texts. What is neither `facts` nor `reading` is reasoning.

    Attributes:
        facts: fraction of the texts that are practice on bare facts, of one or two documents at first and of up to
            `documents` in the end.
        reading: fraction that is practice on whole documents in the form in which questions present them.
        practice_every: among the reasoning, every so many texts are practice on documents.
        lookups: facts looked up in a practice text.
        documents: documents of a world.
        facts_per_document: facts in each.
        max_length: tokens at which a longer text is cut.
    """

    facts: float = 0.08
    reading: float = 0.05
    practice_every: int = 6
    lookups: int = 14
    documents: int = 6
    facts_per_document: int = 2
    max_length: int = 768


@dataclass(frozen=True)
class PretrainingTexts(Dataset[tuple[list[int], list[bool]]]):
    """Text number `index` of `size`: its tokens, and which of them are learnt. A function of (seed, index) only.

    Attributes:
        tokenizer: of the base student.
        size: texts in all.
        seed: decides every text.
        curriculum: their order.
        modes: what goes wrong in the reasoning.
    """

    tokenizer: Any
    size: int
    seed: int
    curriculum: Curriculum = Curriculum()
    modes: FailureModes = FailureModes()

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[list[int], list[bool]]:
        if index >= self.size:
            raise IndexError(index)
        segments = self.segments(index)
        ids = self.tokenizer([text for text, _ in segments], add_special_tokens=False)["input_ids"]
        tokens = [token for piece in ids for token in piece]
        learnt = [wanted for piece, (_, wanted) in zip(ids, segments, strict=True) for _ in piece]
        return tokens[: self.curriculum.max_length], learnt[: self.curriculum.max_length]

    def segments(self, index: int) -> list[Segment]:
        """Return the text in pieces."""
        rng = random.Random(f"pretraining/{self.seed}/{index}")
        plan = self.curriculum
        hops = HOPS[index % len(HOPS)]
        # Only worlds of the training split, so that no validation or test world is ever read.
        while (world := draw_world(rng, hops, plan.documents, plan.facts_per_document)).split != "train":
            pass
        done = index / self.size
        if done < plan.facts:
            most = 2 + int((plan.documents - 1) * done / plan.facts / 0.6)
            documents = world.documents[: rng.randint(1, min(most, plan.documents))]
            facts = [fact for document in documents for fact in document]
            return write_practice(rng, " ".join(map(str, rng.sample(facts, len(facts)))), facts, plan.lookups)
        example = world.example("")
        if done < plan.facts + plan.reading or index % plan.practice_every == 0:
            facts = [fact for document in world.documents for fact in document]
            return write_practice(rng, f"Documents:\n{example.context}", facts, plan.lookups)
        response, ends = write_reasoning(rng, world, self.modes)
        prompt = self.tokenizer.apply_chat_template(
            [asdict(message) for message in question_messages(example)], add_generation_prompt=True, tokenize=False
        )
        return [(prompt, False), (response + ("<|im_end|>\n" if ends else ""), True)]
