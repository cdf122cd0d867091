"""A training step on traces that share their prompt, beside TRL's `SFTTrainer`: `python benchmarks/sft.py`.

Both take steps in turns in one process, on the same tokens and the same random Qwen3 of SmolLM2-135M's shape: a prompt
of 1,200 tokens with n traces of 300. A step is forward, backward and optimizer (AdamW, fused). TRL gets what is fastest
for it here: rows of equal length without padding (its packing needs FlashAttention) and its fused head. The number is
supervised tokens per second, the median over rounds; memory is what one more step takes beyond weights and optimizer.
On a CPU, TRL's fused head computes logits at every position; on a GPU it leaves out those without a label, as ours does
anywhere, and the ratio for one trace is another one there.

    python benchmarks/sft.py --traces 1 4 --rounds 3
    python benchmarks/sft.py --device cuda --dtype bfloat16 --attention flex_attention

TRL is no dependency of the project: `pip install trl` where this runs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT), str(ROOT / "benchmarks")]

import torch  # noqa: E402
from memory import peak  # noqa: E402

from introspect.tuning.packing import collate_groups  # noqa: E402
from introspect.tuning.student import ReasoningStudent  # noqa: E402
from introspect.tuning.supervision import Supervised  # noqa: E402
from tests.tuning.tiny import tiny_tokenizer  # noqa: E402

VOCABULARY = 49152


def network(layers: int, attention: str, dtype: torch.dtype) -> Any:
    """A random Qwen3 of SmolLM2-135M's shape."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=576,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
        intermediate_size=1536,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype)


def sequences(prompt: int, trace: int, count: int) -> tuple[Supervised, ...]:
    """Traces of one prompt, of random tokens."""
    generator = torch.Generator().manual_seed(count)
    start = torch.randint(10, VOCABULARY, (prompt,), generator=generator).tolist()
    ends = torch.randint(10, VOCABULARY, (count, trace), generator=generator).tolist()
    return tuple(Supervised((*start, *end), prompt) for end in ends)


def ours(model: Any, group: tuple[Supervised, ...], device: str) -> Callable[[], float]:
    """A step of the reasoning student."""
    student = ReasoningStudent(model="unused")
    student.network = model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=True)
    batch = {name: value.to(device) for name, value in collate_groups([group], 0, "shared_prompt").items()}

    def step() -> float:
        loss = student._losses(batch)[0]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def trl(model: Any, group: tuple[Supervised, ...], device: str, folder: str) -> Callable[[], float]:
    """A step of TRL's trainer."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    longest = max(len(item.input_ids) for item in group)
    rows = [
        {
            "input_ids": list(item.input_ids),
            "completion_mask": [int(place >= item.prompt_length) for place in range(len(item.input_ids))],
        }
        for item in group
    ]
    config = SFTConfig(
        folder,
        per_device_train_batch_size=len(group),
        max_length=longest,
        completion_only_loss=True,
        report_to=[],
        use_cpu=device == "cpu",
        bf16=False,
        gradient_checkpointing=False,
    )
    trainer = SFTTrainer(model, config, train_dataset=Dataset.from_list(rows), processing_class=tiny_tokenizer())
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=True)
    [batch] = list(trainer.get_train_dataloader())
    trainer.current_gradient_accumulation_steps = 1  # what its own loop sets

    def step() -> float:
        loss = trainer.training_step(trainer.model, dict(batch))  # forward and backward
        optimizer.step()
        optimizer.zero_grad()
        return float(loss)

    return step


def timed(step: Callable[[], float], device: str) -> tuple[float, float]:
    """Seconds of a step, and its loss."""
    start = time.perf_counter()
    loss = step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, loss


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--traces", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--prompt", type=int, default=1200)
    parser.add_argument("--trace", type=int, default=300)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--attention", default="sdpa", help="of ours; TRL has sdpa")
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {threads} threads, {options.device}, {options.dtype}", flush=True)
    print("| traces | ours, supervised tokens/s | TRL | ratio | loss of ours, of TRL | MB of both |", flush=True)
    print("|---|---|---|---|---|---|", flush=True)
    for count in options.traces:
        group = sequences(options.prompt, options.trace, count)
        with tempfile.TemporaryDirectory() as folder:
            steps = {
                "ours": ours(network(options.layers, options.attention, dtype), group, options.device),
                "TRL": trl(network(options.layers, "sdpa", dtype), group, options.device, folder),
            }
            first = {name: timed(step, options.device)[1] for name, step in steps.items()}
            times: dict[str, list[float]] = {name: [] for name in steps}
            for _ in range(options.rounds):
                for name, step in steps.items():
                    times[name].append(timed(step, options.device)[0])
            memory = ", ".join(f"{peak(step, options.device):,.0f}" for step in steps.values())
        speed = {name: count * options.trace / statistics.median(seconds) for name, seconds in times.items()}
        ratio = speed["ours"] / speed["TRL"]
        losses = ", ".join(f"{first[name]:.5f}" for name in steps)
        print(f"| {count} | {speed['ours']:.1f} | {speed['TRL']:.1f} | {ratio:.2f} | {losses} | {memory} |", flush=True)


if __name__ == "__main__":
    main()
