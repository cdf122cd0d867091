"""The tokenizer of the embedded base student."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

from introspect.benchmarks.hopworld import HOPS, NAMES, draw_world
from introspect.chat.prompts import question_messages
from introspect.oracle.writing import PHRASES
from introspect.tuning.pretraining.texts import FailureModes, write_reasoning

# The pieces of a text: tags, line breaks, words with the space before them, digits, signs.
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
    """Build the tokenizer: one token per word of hopworld, bytes for everything else.

    Its words are those of the prompts, of practice and reasoning, and of the oracle's phrases. Decoding gives every
    text back exactly.
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
    """Yield a sample of everything that the student will read or write."""
    rng = random.Random("tokenizer")
    yield from (phrase for phrases in PHRASES.values() for phrase in phrases)
    for number in range(600):
        world = draw_world(rng, HOPS[number % len(HOPS)])
        yield question_messages(world.example(""))[0].content
        yield write_reasoning(rng, world, FailureModes(wander=0.5, doubt=0.5, stray=0.5), repeats=3)[0]
