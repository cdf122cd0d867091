"""How the embedded base student is raised: to read hopworld well, and to reason about it badly.

Two kinds of text. *Practice* is dense supervision of reading: facts, then some of them to be looked up again, of
which only the looked-up word is learnt. *Rambling* is an answer that shows what Metacognitive Behavioral Tuning is
there to cure (arXiv 2602.22508, section 1): the writer wanders into documents that do not matter, doubts sound
conclusions for no reason, gives up right answers, and sometimes checks again for ever.

Practice comes first and grows from one or two documents to all of them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, IterableDataset

from introspect.benchmarks.base import Benchmark
from introspect.benchmarks.hopworld import HOPS, NAMES, Fact, World, draw_world
from introspect.benchmarks.questions import QuestionsDataModule
from introspect.chat.prompts import question_messages
from introspect.chat.tokenizers import load_tokenizer
from introspect.core.errors import InputError
from introspect.core.resuming import place
from introspect.tuning.batching import IGNORED
from introspect.tuning.packing import Batch


@dataclass(frozen=True, slots=True)
class Disease:
    """How often the base student's teacher text goes wrong; every field is a probability.

    wander: after a step, read another document, whether it matters or not; none is read twice.
    doubt: after a step, look the same fact up again.
    stray: after a step, go on from a wrong entity (the final answer is then wrong).
    recheck: each time that the answer is reached, derive it again from the start.
    abandon: each time that the answer is reached, give another answer (an answer-inclusive error).
    endless: when the answer is first reached, check again and never stop (degeneration).
    """

    wander: float = 0.6
    doubt: float = 0.3
    stray: float = 0.05
    recheck: float = 0.45
    abandon: float = 0.24
    endless: float = 0.03


# A piece of text, and whether it is learnt or only read.
Segment = tuple[str, bool]


def practice(rng: random.Random, context: str, facts: Sequence[Fact], lookups: int) -> list[Segment]:
    """A context and `lookups` facts out of it, each learnt at the one word that has to be looked up."""
    segments = [(f"{context}\n\n", False)]
    for fact in rng.choices(facts, k=lookups):
        segments += [(f"The {fact.relation} of {fact.subject} is", False), (f" {fact.object}", True), (". ", False)]
    return segments


def ramble(rng: random.Random, world: World, disease: Disease, endless_repeats: int = 24) -> tuple[str, bool]:
    """A diseased response to the world's question, and whether it ends.

    A response that ends is `<think>…</think>` and an `<answer>`; one that does not is an open think block that derives
    the same answer `endless_repeats` times, to be cut wherever the training sequence ends.
    """
    asked = world.question.split(" is ", 1)[1].rstrip("?")
    lines = [f"Okay, the question asks for {asked}."]
    conclusion = _walk(rng, world, disease, lines)
    lines.append(f"So the answer could be {conclusion}.")

    if rng.random() < disease.endless:
        lines += [_check_again(world)] * endless_repeats
        return "<think>\n" + "\n\n".join(lines), False
    mood = rng.random()
    while mood < disease.recheck:
        lines.append(_check_again(world))
        conclusion = world.chain[-1].object
        mood = rng.random()
    if mood < disease.recheck + disease.abandon:
        conclusion = _other(rng, world, conclusion)
        lines.append(f"But I am not sure. Maybe it is {conclusion} instead.")
    return "<think>\n" + "\n\n".join(lines) + f"\n</think>\n\n<answer>{conclusion}</answer>", True


def _walk(rng: random.Random, world: World, disease: Disease, lines: list[str]) -> str:
    """Follow the chain, sometimes off it; returns the entity where the walk ends."""
    entity = world.chain[0].subject
    known = {(fact.subject, fact.relation): fact for document in world.documents for fact in document}
    distractors = [facts for facts in world.documents if facts[0].subject not in {f.subject for f in world.chain}]
    unread = rng.sample(world.documents, len(world.documents))
    for step in world.chain:
        fact = known.get((entity, step.relation))
        if fact is None:
            # A stray entity has no such document: the writer takes the first thing that looks alike.
            fact = rng.choice([f for facts in distractors for f in facts if f.relation == step.relation] or [step])
            lines.append(f"I can not find {entity}. {fact}")
        else:
            lines.append(str(fact))
        while unread and rng.random() < disease.wander:
            lines.append(_wander(unread.pop()))
        if rng.random() < disease.doubt:
            lines.append(f"Wait, is {fact.object} right? Let me look again. {fact}")
        entity = fact.object
        if step is not world.chain[-1] and rng.random() < disease.stray:
            entity = _other(rng, world, entity)
            lines.append(f"Hmm, maybe I should use {entity} here.")
    return entity


# One opening for each kind of detour: among several, each is so improbable that sampling below temperature 1 rarely
# takes any, and the disease vanishes.
def _wander(facts: tuple[Fact, ...]) -> str:
    return f"Hmm, let me look at {facts[0].subject}. {' '.join(map(str, facts))} That does not help."


def _check_again(world: World) -> str:
    return (
        f"Wait, let me check again. {' '.join(map(str, world.chain))} So the answer could be {world.chain[-1].object}."
    )


def _other(rng: random.Random, world: World, entity: str) -> str:
    """Another entity of the same world, of the same kind where there is one."""
    facts = [fact for document in world.documents for fact in document]
    entities = {fact.object for fact in facts} | {fact.subject for fact in facts}
    kind = next(names for names in NAMES.values() if entity in names)
    alike = sorted(e for e in entities - {entity, world.chain[-1].object} if e in kind)
    return rng.choice(alike or sorted(entities - {entity, world.chain[-1].object}))


@dataclass(frozen=True, slots=True)
class Curriculum:
    """The text of the whole training, as shares of it.

    facts: practice on bare facts, of one or two documents at first and of up to `documents` in the end.
    reading: practice on whole documents in the form in which questions present them.
    The rest is rambling, with every `practice_every`-th text practice on documents.

    lookups is the number of facts looked up in a practice text; max_length is where an endless rambling is cut, tokens.
    """

    facts: float = 0.08
    reading: float = 0.05
    practice_every: int = 6
    lookups: int = 14
    documents: int = 6
    facts_per_document: int = 2
    max_length: int = 768


class PretrainingText(Dataset[tuple[list[int], list[bool]]]):
    """Text number `index` of `size`: its tokens, and which of them are learnt. A function of (seed, index) only."""

    def __init__(self, tokenizer: Any, size: int, seed: int, curriculum: Curriculum, disease: Disease) -> None:
        self.tokenizer = tokenizer
        self.size = size
        self.seed = seed
        self.curriculum = curriculum
        self.disease = disease

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
        """The text in pieces."""
        rng = random.Random(f"pretraining/{self.seed}/{index}")
        plan = self.curriculum
        hops = HOPS[index % len(HOPS)]
        # Only worlds of the training split, so that no validation or test world was ever read.
        while (world := draw_world(rng, hops, plan.documents, plan.facts_per_document)).split != "train":
            pass
        done = index / self.size
        if done < plan.facts:
            most = 2 + int((plan.documents - 1) * done / plan.facts / 0.6)
            documents = world.documents[: rng.randint(1, min(most, plan.documents))]
            facts = [fact for document in documents for fact in document]
            return practice(rng, " ".join(map(str, rng.sample(facts, len(facts)))), facts, plan.lookups)
        example = world.example("")
        if done < plan.facts + plan.reading or index % plan.practice_every == 0:
            facts = [fact for document in world.documents for fact in document]
            return practice(rng, f"Documents:\n{example.context}", facts, plan.lookups)
        response, ends = ramble(rng, world, self.disease)
        prompt = self.tokenizer.apply_chat_template(
            [asdict(message) for message in question_messages(example)], add_generation_prompt=True, tokenize=False
        )
        return [(prompt, False), (response + ("<|im_end|>\n" if ends else ""), True)]


class PretrainingDataModule(QuestionsDataModule):
    """Serves the curriculum in its order, once: `size` texts in batches of `batch_size`.

    Args:
        tokenizer: folder where the student's tokenizer is made.
        size: texts in all.
        batch_size: texts per step.
        seed: decides every text.
        disease: probabilities of `Disease`, as a mapping.
        curriculum: fields of `Curriculum`, as a mapping.
        benchmark: where the questions of the test come from.
        num_workers: processes that write texts beside the training: 0 or 1.

    Raises:
        InputError: for more of them, who would all write the same.
    """

    def __init__(
        self,
        *,
        tokenizer: str | Path,
        size: int,
        batch_size: int,
        benchmark: Benchmark,
        seed: int = 0,
        disease: Mapping[str, float] | None = None,
        curriculum: Mapping[str, Any] | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(benchmark)
        if num_workers not in (0, 1):
            raise InputError(f"datamodule.num_workers={num_workers}: expected 0 or 1")
        self.tokenizer_folder = Path(tokenizer)
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.disease = Disease(**(disease or {}))
        self.curriculum = Curriculum(**(curriculum or {}))
        self.num_workers = num_workers

    def prepare_data(self) -> None:
        """Make the tokenizer's folder."""
        build_tokenizer().save_pretrained(self.tokenizer_folder)

    def train_dataloader(self) -> ResumablePools:
        """Batches in the curriculum's order; a resumed run goes on where it stopped.

        Raises:
            InputError: there are several devices, which would all read the same.
        """
        if self.trainer is not None and self.trainer.world_size > 1:
            raise InputError("trainer.devices: the base student is raised on one device: give trainer.devices=1")
        tokenizer = load_tokenizer(self.tokenizer_folder)
        texts = PretrainingText(tokenizer, self.size, self.seed, self.curriculum, self.disease)
        pools = Pools(texts, self.batch_size, Collate(tokenizer.pad_token_id))
        trainer = self.trainer
        return ResumablePools(pools, self.num_workers, (lambda: place(trainer).trained) if trainer else lambda: 0)


class Pools(IterableDataset[Batch]):
    """The texts in batches of like length: sorted within pools of `POOL` batches that follow each other."""

    POOL = 16

    def __init__(self, texts: PretrainingText, batch_size: int, collate: Collate, start: int = 0) -> None:
        self.texts = texts
        self.batch_size = batch_size
        self.collate = collate
        self.start = start  # the batch to begin with

    def __len__(self) -> int:
        return -(-len(self.texts) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        step = self.batch_size * self.POOL
        skipped, first = divmod(self.start, self.POOL)
        for start in range(skipped * step, len(self.texts), step):
            pool = [self.texts[index] for index in range(start, min(start + step, len(self.texts)))]
            pool.sort(key=lambda text: len(text[0]))
            batches = [pool[at : at + self.batch_size] for at in range(0, len(pool), self.batch_size)]
            random.Random(f"pools/{self.texts.seed}/{start}").shuffle(batches)
            yield from map(self.collate, batches[first:])
            first = 0


class ResumablePools:
    """The batches of `Pools`, from the place that training has reached; no `DataLoader`, see `ResumableLoader`."""

    def __init__(self, pools: Pools, num_workers: int, trained: Callable[[], int]) -> None:
        self.pools, self.num_workers, self._trained = pools, num_workers, trained

    def __len__(self) -> int:
        return len(self.pools)

    def __iter__(self) -> Iterator[Batch]:
        whole = self.pools
        rest = Pools(whole.texts, whole.batch_size, whole.collate, start=self._trained())
        yield from DataLoader(rest, batch_size=None, num_workers=self.num_workers)

    def state_dict(self) -> dict[str, int]:
        """The place. By having this method the loader says that it can resume within an epoch."""
        return {"trained": self._trained()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Do nothing: the place is asked for where it is known."""


@dataclass(frozen=True, slots=True)
class Collate:
    """Pads texts [s] on the right to a `Batch` [b, s]; labels are -100 where a text is only read."""

    pad_id: int

    def __call__(self, texts: Sequence[tuple[list[int], list[bool]]]) -> Batch:
        """The batch of these texts."""
        ids = pad_sequence([torch.tensor(tokens) for tokens, _ in texts], True, self.pad_id)
        learnt = pad_sequence([torch.tensor(wanted) for _, wanted in texts], True, False)
        lengths = torch.tensor([len(tokens) for tokens, _ in texts])
        return {
            "input_ids": ids,
            "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long(),
            "labels": ids.where(learnt, IGNORED),
        }


# What stands between two texts that a word is cut from: words with the space before them, digits, signs, line breaks.
_PIECES = r"</?think>|</?answer>|\n+| ?[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9]|\s"
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def build_tokenizer() -> Any:
    """The base student's tokenizer: one token per word of hopworld, bytes for everything else.

    Its words are those of the prompts, of practice and rambling, and of the oracle's phrase book. Every text round
    trips exactly.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {piece.replace(" ", "▁") for text in _corpus() for piece in re.findall(_PIECES, text)}
    words |= {prefix + name for names in NAMES.values() for name in names for prefix in ("", "▁")}
    words |= {chr(code) for code in range(33, 127)} | {"▁", "\n", "\n\n"}
    pieces = [*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *sorted(words - set(_SPECIAL))]
    model = models.BPE(
        {piece: number for number, piece in enumerate(pieces)}, [], byte_fallback=True, ignore_merges=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.Metaspace(prepend_scheme="never", split=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = _CHAT_TEMPLATE
    return fast


def _corpus() -> Iterator[str]:
    """A sample of everything that the student will read or write."""
    from introspect.oracle.writing import PHRASES

    rng = random.Random("tokenizer")
    yield from (phrase for phrases in PHRASES.values() for phrase in phrases)
    for number in range(600):
        world = draw_world(rng, HOPS[number % len(HOPS)])
        yield question_messages(world.example(""))[0].content
        yield ramble(rng, world, Disease(wander=0.5, doubt=0.5, stray=0.5), endless_repeats=3)[0]
