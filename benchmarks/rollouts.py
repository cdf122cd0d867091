"""Rollouts of the embedded student, beside plain batched `generate`: `python benchmarks/rollouts.py`.

Both answer the same hopworld questions with the same sampling settings, in turns in one process. Plain `generate` takes
the questions in batches of the same size, sorted by the length of the prompt, and waits for the longest answer of each;
the rows of ours come and go. Their random numbers differ, so the answers do: what is compared is completion tokens per
second of answers that a stop token or the limit ended.

    python benchmarks/rollouts.py --questions 200 --limit 3072 --rounds 3
    python benchmarks/rollouts.py --model FOLDER --batch 8 --limit 256 --questions 16
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

import torch  # noqa: E402
from memory import peak  # noqa: E402

from introspect.benchmarks.hopworld import Hopworld  # noqa: E402
from introspect.chat.local.loading import load_pretrained  # noqa: E402
from introspect.chat.local.transformers import TransformersChat  # noqa: E402
from introspect.chat.prompts import question_messages  # noqa: E402
from introspect.chat.protocol import ChatRequest, Sampling  # noqa: E402

BASE = ROOT / "src" / "introspect" / "assets" / "hopworld_base"


def plain(model: Any, tokenizer: Any, requests: Sequence[ChatRequest], batch: int) -> int:
    """Completion tokens of `generate`, up to each row's first stop token."""
    texts = [
        tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in request.messages],
            add_generation_prompt=True,
            tokenize=False,
        )
        for request in requests
    ]
    texts.sort(key=len, reverse=True)
    sampling, count = requests[0].sampling, 0
    settings = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    for start in range(0, len(texts), batch):
        inputs = tokenizer(
            texts[start : start + batch],
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=False,
        )
        inputs = {name: inputs[name].to(model.device) for name in ("input_ids", "attention_mask")}
        width = inputs["input_ids"].shape[1]
        room = model.config.max_position_embeddings - width
        limit = min(sampling.max_tokens or room, room)
        with torch.inference_mode():
            ids = model.generate(
                **inputs, do_sample=True, **settings, max_new_tokens=limit, pad_token_id=tokenizer.pad_token_id
            )
        ended = ids[:, width:] == tokenizer.eos_token_id
        count += int((ended.long().cumsum(1) - ended.long() == 0).sum())
    return count


def ours(model: Any, tokenizer: Any, requests: Sequence[ChatRequest], batch: int) -> int:
    """Completion tokens of the framework's own engine."""
    chat = TransformersChat(model, tokenizer, batch_size=batch, identity="benchmark")
    return sum(len(drawn.completion_ids) for drawn in chat.draw(requests))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(BASE))
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--limit", type=int, default=3072)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    model, tokenizer = load_pretrained(options.model, dtype="float32")
    examples = Hopworld(seed=1, sizes={"train": 0, "validation": 0, "test": options.questions}).load("test")
    speeds: dict[str, list[float]] = {}
    memory: dict[str, list[float]] = {}
    for number in range(options.rounds):
        sampling = Sampling(max_tokens=options.limit, seed=number)
        requests = [ChatRequest(e.id, tuple(question_messages(e)), sampling) for e in examples]
        ways: dict[str, Callable[[], int]] = {
            "ours": lambda asked=requests: ours(model, tokenizer, asked, options.batch),
            "plain generate": lambda asked=requests: plain(model, tokenizer, asked, options.batch),
        }
        for name, way in ways.items():
            tokens, seconds = 0, 0.0

            def timed(way: Callable[[], int] = way) -> None:
                nonlocal tokens, seconds
                start = time.perf_counter()
                tokens = way()
                seconds = time.perf_counter() - start

            memory.setdefault(name, []).append(peak(timed, model.device.type))
            speeds.setdefault(name, []).append(tokens / seconds)
            print(f"round {number}: {name}: {tokens} tokens in {seconds:.1f} s", file=sys.stderr, flush=True)
    median = {name: statistics.median(values) for name, values in speeds.items()}
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {model.device}")
    print("| | completion tokens/s | ratio to plain generate | MB |\n|---|---|---|---|")
    for name, value in median.items():
        held = statistics.median(memory[name])
        print(f"| {name} | {value:,.0f} | {value / median['plain generate']:.2f} | {held:,.0f} |")


if __name__ == "__main__":
    main()
