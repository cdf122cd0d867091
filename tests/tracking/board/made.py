"""Folders as runs leave them, made without a run."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from introspect.dissection.files import save
from introspect.dissection.result import Dissection
from introspect.evaluation.judging.judgments import Judged, Profile, Quality
from introspect.evaluation.judging.running import save_judgments
from introspect.evaluation.rollouts import Rollout, save_rollouts
from tests.dissection.made import Made
from tests.dissection.made import dissection as made_dissection

PLANNED = (
    "We are asked: Who is the king of Rome? The document on Rome matters; the others can wait.\n\n"
    "The plan: find the king of Rome.\n\nThe king of Rome is Numa. Is this sound? Yes.\n\n"
    "Wait, did we mix up any documents? No.\n\nWe verify: Rome leads to Numa. The answer is Numa."
)


def hydra(folder: Path, experiment: str, seed: int = 1, tags: Sequence[str] = (), **config: Any) -> None:
    """What Hydra writes beside a run."""
    place = folder / ".hydra"
    place.mkdir(parents=True, exist_ok=True)
    # JSON is YAML.
    content = {"task_name": "train", "seed": seed, "tags": list(tags), "train": True, "test": True, **config}
    (place / "config.yaml").write_text(json.dumps(content))
    choices = {"experiment": experiment, "data": "hopworld"}
    (place / "hydra.yaml").write_text(json.dumps({"hydra": {"runtime": {"choices": choices}}}))
    (place / "overrides.yaml").write_text(json.dumps([f"experiment={experiment}", f"seed={seed}"]))


def curves(folder: Path, rows: Sequence[Mapping[str, object]], version: int = 0) -> Path:
    """A table as the CSV logger writes it."""
    path = folder / f"csv/version_{version}/metrics.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    names = sorted({name for row in rows for name in row})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return path


def rollout(number: int = 0, reasoning: str = PLANNED, answer: str = "Numa", **changes: Any) -> Rollout:
    """An answer to a question about kings."""
    values: dict[str, Any] = {
        "example_id": f"q{number}",
        "rollout_id": 0,
        "benchmark": "made",
        "question": f"Who is the king of Rome{number or ''}?",
        "answer": "Numa",
        "aliases": (),
        "hops": 1,
        "tier": "easy",
        "reasoning": reasoning,
        "content": f"<answer>{answer}</answer>",
        "finish_reason": "stop",
        "prompt_tokens": 10,
        "reasoning_tokens": 20,
        "completion_tokens": 30,
    }
    return Rollout(**{**values, **changes})


def reasoning_run(
    folder: Path,
    experiment: str = "mbt_r",
    *,
    base: Sequence[Rollout] = (),
    tuned: Sequence[Rollout] = (),
    accuracy: tuple[float, float] = (0.4, 0.9),
    tokens: tuple[float, float] = (400.0, 150.0),
    judged: bool = False,
    **options: Any,
) -> Path:
    """A finished run that answered questions."""
    hydra(folder, experiment, **options)
    sides: dict[str, Any] = {}
    for index, side in enumerate(("baseline", "model")):
        spread = [accuracy[index] - 0.1, accuracy[index] + 0.1]
        sides[side] = {
            "accuracy": accuracy[index],
            "completion_tokens": tokens[index],
            "degeneration_rate": 0.1,
            "n": 10,
        }
        sides[side]["ci95"] = {"accuracy": spread}
        if judged:
            sides[side] |= {"rrp_rho": 0.5 - 0.2 * index, "rrp_delta": 0.4 - 0.3 * index, "phase_planning_rate": index}
    sides["model"]["aes"] = 3.0
    sides["judge"] = {"identity": {"model": "a judge"}} if judged else None
    (folder / "metrics.json").write_text(json.dumps(sides))
    for side, rollouts in (("baseline", base), ("model", tuned)):
        if rollouts:
            save_rollouts(rollouts, folder / f"rollouts/{side}.parquet")
        if rollouts and judged:
            said = {"rrp": Profile(3, (4,), 0.9), "mqi": Quality(5, (1, 2), 0.9)}
            save_judgments([Judged(each, said) for each in rollouts], folder / f"judgments/{side}.parquet")
    return folder


def dissection(name: str = "zebra", control: str = "") -> Dissection:
    """Unit 0 detects the label of this name (IoU 1), 1 `oak` (0.5), 2 and 3 nothing."""
    concepts = Made([torch.ones(1, 10, 10)] * 3, categories={"object": [1, 2], "color": [3]}, names={1: name, 2: "oak"})
    areas = torch.tensor([[8, 0], [12, 0], [0, 20], [5, 5]])
    intersections = torch.tensor([[0, 8, 0, 0], [0, 0, 8, 0], [0] * 4, [0] * 4])
    return made_dissection(concepts, intersections, areas, torch.tensor([0, 8, 12, 20]), control=control)


def image_run(
    folder: Path, experiment: str = "kd", *, concept: str = "zebra", accuracy: float = 0.8, **options: Any
) -> Path:
    """A finished run that trained and dissected a classifier."""
    hydra(folder, experiment, **options)
    found = {"test/accuracy": accuracy, "dissect/detectors/total": 2.0, "dissect/detectors/unique": 2.0}
    (folder / "metrics.json").write_text(json.dumps(found))
    place = folder / "dissection/layer3"
    save(dissection(concept), place)
    save(dissection(concept, "rotation"), place / "rotation-1")
    save(dissection(concept, "rotation"), place / "rotation-2")
    (place / "report.html").write_text("<!doctype html><title>report</title>")
    return folder
