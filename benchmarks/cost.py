"""How cost grows: seconds and peak memory with traces, length of the prompt, rows, units and images.

    python benchmarks/cost.py                                   all of it; a few minutes on one core
    python benchmarks/cost.py --only traces units --repeats 5   some of it
    python benchmarks/cost.py --plot docs/pictures/cost.png     the same as a picture

Models are small and random: what is shown is how cost grows, not how large it is. Each point is a process of its own,
forked from one that has imported everything; memory is the most that it has held beyond what it began with.

    traces    a step of training on one question with n traces of 100 tokens, its prompt of 600 read once, or n times
    prompt    the same with 4 traces and a longer and longer prompt
    rows      answers of at most 64 tokens by the embedded student, to so many questions at once
    units     a dissection of 64 images (maps of 8 x 8, masks of 112 x 112) with so many units
    images    a dissection of so many images, with 64 units
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

import torch  # noqa: E402
from dissection import Noise, Repeated  # noqa: E402
from torch import nn  # noqa: E402

from introspect.benchmarks.hopworld import Hopworld  # noqa: E402
from introspect.chat.local.loading import load_pretrained  # noqa: E402
from introspect.chat.local.transformers import TransformersChat  # noqa: E402
from introspect.chat.prompts import question_messages  # noqa: E402
from introspect.chat.protocol import ChatRequest, Sampling  # noqa: E402
from introspect.dissection.engine import dissect  # noqa: E402
from introspect.tuning.packing import collate_groups  # noqa: E402
from introspect.tuning.student import ReasoningStudent  # noqa: E402
from introspect.tuning.supervision import Supervised  # noqa: E402

BASE = ROOT / "src" / "introspect" / "assets" / "hopworld_base"
VOCABULARY, TRACE = 4096, 100


def training(traces: int, prompt: int, packing: Any) -> Callable[[], object]:
    """A step of a small student on one question."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=384,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    student = ReasoningStudent(model="unused")
    student.network = AutoModelForCausalLM.from_config(config)
    optimizer = torch.optim.AdamW(student.network.parameters(), 1e-4, fused=True)
    start = torch.randint(10, VOCABULARY, (prompt,)).tolist()
    ends = torch.randint(10, VOCABULARY, (traces, TRACE)).tolist()
    group = tuple(Supervised((*start, *end), prompt) for end in ends)
    batch = collate_groups([group], 0, packing)

    def step() -> None:
        student._losses(batch)[0].backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def rollouts(rows: int) -> Callable[[], object]:
    """Answers to so many questions, all at once."""
    model, tokenizer = load_pretrained(str(BASE), dtype="float32")
    examples = Hopworld(seed=1, sizes={"train": 0, "validation": 0, "test": rows}).load("test")
    sampling = Sampling(max_tokens=64, seed=0)
    requests = [ChatRequest(e.id, tuple(question_messages(e)), sampling) for e in examples]

    chat = TransformersChat(model, tokenizer, batch_size=rows, identity="benchmark")
    return lambda: list(chat.draw(requests))


def dissection(units: int, images: int) -> Callable[[], object]:
    """A dissection of random units."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, units, 28, stride=28))
    concepts = Repeated(Noise(32), images)
    return lambda: dissect(network, ["0"], concepts, quantile=0.01, progress=False)


@dataclass(frozen=True)
class Sweep:
    """What grows, how it is called, and the ways that are compared: label to a maker of an action."""

    values: Sequence[int]
    axis: str
    ways: dict[str, Callable[[int], Callable[[], object]]]


SWEEPS = {
    "traces": Sweep(
        (1, 2, 4, 8),
        "traces of a question",
        {
            "prompt once": lambda n: training(n, 600, "shared_prompt"),
            "prompt with each": lambda n: training(n, 600, "none"),
        },
    ),
    "prompt": Sweep(
        (150, 300, 600, 1200),
        "tokens of the prompt",
        {
            "prompt once": lambda n: training(4, n, "shared_prompt"),
            "prompt with each": lambda n: training(4, n, "none"),
        },
    ),
    "rows": Sweep((1, 4, 16, 64), "answers at once", {"rollouts": rollouts}),
    "units": Sweep((32, 128, 512), "units", {"dissection": lambda n: dissection(n, 64)}),
    "images": Sweep((64, 128, 256, 512), "images", {"dissection": lambda n: dissection(64, n)}),
}


def megabytes() -> float:
    """The most memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def point(sweep: str, way: str, value: int, repeats: int, out: Any) -> None:
    """Measure one point and send (seconds, megabytes); the first run does not count."""
    before = megabytes()
    action = SWEEPS[sweep].ways[way](value)
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    out.send((statistics.median(times[1:]), megabytes() - before))


def apart(*arguments: Any) -> tuple[float, float]:
    """`point` in a process of its own.

    Raises:
        SystemExit: it failed.
    """
    context = multiprocessing.get_context("fork")
    inlet, outlet = context.Pipe(duplex=False)
    process = context.Process(target=point, args=(*arguments, outlet))
    process.start()
    outlet.close()
    try:
        found: tuple[float, float] = inlet.recv()
    except EOFError:
        raise SystemExit(f"{arguments[:3]} failed") from None
    finally:
        process.join()
    return found


def plot(found: dict[tuple[str, str], list[tuple[float, float]]], path: Path) -> None:
    """Seconds above, megabytes below, a column for each sweep; all axes begin at 0."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    names = [name for name in SWEEPS if any(name == sweep for sweep, _ in found)]
    figure, axes = pyplot.subplots(2, len(names), figsize=(3 * len(names), 5), squeeze=False, layout="constrained")
    for column, name in enumerate(names):
        sweep = SWEEPS[name]
        for row, unit in enumerate(("seconds", "MB more at the peak")):
            axis = axes[row][column]
            for way in sweep.ways:
                axis.plot(sweep.values, [values[row] for values in found[name, way]], marker="o", label=way)
            axis.set_xlim(left=0)
            axis.set_ylim(bottom=0)
            axis.set_xlabel(sweep.axis)
            axis.set_ylabel(unit)
            axis.grid(alpha=0.3)
        axes[0][column].legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=70)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=SWEEPS, default=list(SWEEPS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plot", type=Path, help="PNG file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)  # before anything runs: threads do not survive a fork
    print(f"torch {torch.__version__}, {options.threads} threads, medians of {options.repeats}", flush=True)
    print("| varied | what runs | value | seconds | MB more |\n|---|---|---|---|---|", flush=True)
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for name in options.only:
        for way in SWEEPS[name].ways:
            for value in SWEEPS[name].values:
                seconds, memory = apart(name, way, value, options.repeats)
                found.setdefault((name, way), []).append((seconds, memory))
                print(f"| {name} | {way} | {value:,} | {seconds:.3f} | {memory:,.0f} |", flush=True)
    if options.plot:
        plot(found, options.plot)


if __name__ == "__main__":
    main()
