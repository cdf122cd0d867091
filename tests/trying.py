"""The commands of the documentation in small: few questions, few images, one epoch, in a folder of their own."""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from tests.composing import CONFIGS, ROOT, compose_config
from tests.documented import first_job, sweep_values

HEAVY = [
    "introspect.app",
    "transformers",
    "torchvision",
    "introspect.dissection.measures.detectors",
    "matplotlib.pyplot",
    "scipy",
]
PATIENCE_S = 240

# By the config's name or the class of its `datamodule`; settings that a command does not have are left out.
SMALL: dict[str, dict[str, Any]] = {
    "every": {"extras.print_config": "false", "logger": "csv", "trainer.max_epochs": 1, "data.held_out": 1},
    "TraceDataModule": {
        "data.sizes.train": 8,
        "data.sizes.validation": 2,
        "data.sizes.test": 4,
        "sampling.max_tokens": 128,
        "callbacks.answer_accuracy.questions": 2,
    },
    "RolloutDataModule": {
        "data.sizes.train": 2,
        "data.sizes.validation": 2,
        "data.sizes.test": 2,
        "datamodule.questions": 2,
        "datamodule.batch_size": 2,
        "model.grpo.group_size": 2,
        "drafting.max_tokens": 16,
        "sampling.max_tokens": 16,
    },
    "PretrainingDataModule": {"datamodule.size": 32, "data.sizes.test": 2, "sampling.max_tokens": 16},
    "ImageDataModule": {
        "data.sizes.train": 64,
        "data.sizes.validation": 16,
        "data.sizes.test": 20,
        "datamodule.batch_size": 16,
        "model.teacher.training.epochs": 1,
        "model.objective.negatives": 8,
        "model.objective.head.epochs": 1,
        "concepts.size": 20,
        "callbacks.concept_detectors.watched.size": 10,
    },
    "evaluate": {"data.sizes.test": 4, "sampling.max_tokens": 16},
    "dissect": {
        "data.sizes.train": 64,
        "data.sizes.validation": 16,
        "data.sizes.test": 20,
        "concepts.size": 20,
        "measure.limit": 8,
        "measure.methods": "[saliency,integrated_gradients]",
        "measure.integration_steps": 4,
        "measure.steps": 4,
        "measure.kept": "[0.2]",
        "measure.runs": 1,
        "measure.training.epochs": 1,
        "measure.draws": 2,
    },
}


@dataclass(frozen=True, slots=True)
class Done:
    """A command that was run: its exit status, what it printed, and the folders of runs and sweeps that it left."""

    status: int | None
    output: str
    folders: tuple[Path, ...]

    @property
    def folder(self) -> Path:
        """The one folder that it left.

        Raises:
            AssertionError: it left none, or several.
        """
        assert len(self.folders) == 1, f"{self.folders}\n{self.output[-3000:]}"
        return self.folders[0]


@dataclass
class Lab:
    """A folder in which commands are run as a reader would; each is run once."""

    folder: Path
    done: dict[tuple[str, ...], Done] = field(default_factory=dict)

    def run(self, *words: str) -> Done:
        """Run a command as it is given.

        Raises:
            AssertionError: it failed, or took too long.
        """
        if words not in self.done:
            self.done[words] = self._run(words)
        return self.done[words]

    def _run(self, words: tuple[str, ...]) -> Done:
        before = set(self.folder.glob("logs/*/*/*"))
        log = self.folder / f"command_{len(self.done)}.log"
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(HEAVY)
        process = context.Process(target=call, args=(words, self.folder, log))
        process.start()
        process.join(PATIENCE_S)
        status = process.exitcode
        process.kill()
        output = log.read_text(encoding="utf-8", errors="replace")
        assert status == 0, f"{' '.join(words)}: {status}\n{output[-3000:]}"
        return Done(status, output, tuple(sorted(set(self.folder.glob("logs/*/*/*")) - before)))


def call(words: tuple[str, ...], folder: Path, log: Path) -> None:
    """In a process of its own: be the command."""
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)
    for name in ("PROJECT_ROOT", "WANDB_API_KEY"):
        os.environ.pop(name, None)
    program, *rest = words
    assert program == "python", words
    if rest[0] == "-m":
        sys.argv = rest[1:]
        runpy.run_module(rest[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [str(ROOT / rest[0]), *rest[1:]]
        runpy.run_path(sys.argv[0], run_name="__main__")


def small(words: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """A command of train.py, evaluate.py or dissect.py with the settings of a small run; of sweeps two jobs."""
    python, script, *arguments = words
    if any(word in arguments for word in ("--help", "--cfg")):
        return words
    verb = script.removesuffix(".py")
    flags = [word for word in arguments if word.startswith("-")]
    overrides = [word for word in arguments if word not in flags]
    swept = shortened([*study_values(overrides), *overrides]) if "-m" in flags else overrides
    plain = [first_job(word) for word in overrides if not word.startswith("hydra")]
    cfg = compose_config(verb, plain, folder)
    kind = str(OmegaConf.select(cfg, "datamodule._target_") or verb).rsplit(".", 1)[-1]
    chosen = {**SMALL["every"], **SMALL[kind], **files(cfg, folder)}
    if verb == "train" and cfg.ckpt_path:
        chosen["trainer.max_epochs"] = 2  # there is something left to do
    sets = "++" if "-m" in flags else ""  # the default experiment may not have what the swept ones have
    settings = [f"{sets}{key}={value}" for key, value in chosen.items() if key != "logger" and has(cfg, key)]
    settings.append(f"logger={chosen['logger']}")
    trials = ["hydra.sweeper.n_trials=2"] if any("optuna" in word for word in overrides) else []
    return (python, script, *flags, *swept, *settings, *trials)


def has(cfg: DictConfig, key: str) -> bool:
    """Whether a config has a setting, be it null."""
    if key == "logger":
        return True
    above, _, last = key.rpartition(".")
    found = OmegaConf.select(cfg, above, throw_on_missing=False)
    return isinstance(found, DictConfig) and last in found


def shortened(overrides: list[str]) -> list[str]:
    """Of the first setting that is swept two values, of every other one the first; later ones replace earlier ones."""
    given = {word.split("=")[0]: word for word in overrides}
    taken: list[str] = []
    is_first = True
    for key, word in given.items():
        values = sweep_values(word)
        is_range = not values or "(" in word
        taken.append(word if is_range else f"{key}={','.join(values[: 1 + is_first])}")
        is_first = is_first and (is_range or len(values) < 2)
    return taken


def study_values(overrides: list[str]) -> list[str]:
    """What a study sweeps over by itself."""
    chosen = [word.split("=")[1] for word in overrides if word.startswith("study=")]
    if not chosen:
        return []
    content = yaml.safe_load((CONFIGS / "study" / f"{chosen[0]}.yaml").read_text(encoding="utf-8"))
    return [f"{key}={value}" for key, value in content["hydra"]["sweeper"]["params"].items()]


def files(cfg: DictConfig, folder: Path) -> dict[str, str]:
    """Local files for a benchmark that would come from the hub."""
    if not has(cfg, "data.hub_id"):
        return {}
    name = str(cfg.data._target_).rsplit(".", 1)[-1]
    path = folder / f"{name}.json"
    write = {"MuSiQue": musique}.get(name)
    assert write is not None, f"no items of {name} are made here"
    path.write_text(write(), encoding="utf-8")
    return {"data.files.test": str(path)}


def musique() -> str:
    """Three questions in MuSiQue's published form."""
    rows = []
    for number, (painter, town) in enumerate((("Jan Vos", "Leyden"), ("Anna Smit", "Delft"), ("Piet Bos", "Hoorn"))):
        texts = [f"The Mill {number} was painted by {painter}.", f"{painter} was born in {town}.", "Cats sleep."]
        paragraphs = [
            {"idx": at, "title": f"Card {at}", "paragraph_text": text, "is_supporting": at < 2}
            for at, text in enumerate(texts)
        ]
        steps = [("who painted it", painter, 0), ("where was #1 born", town, 1)]
        rows.append(
            {
                "id": f"2hop__{number}_{number}",
                "paragraphs": paragraphs,
                "question": f"Where was the painter of The Mill {number} born?",
                "question_decomposition": [
                    {"id": at, "question": asked, "answer": answer, "paragraph_support_idx": place}
                    for at, (asked, answer, place) in enumerate(steps)
                ],
                "answer": town,
                "answer_aliases": [],
                "answerable": True,
            }
        )
    return "".join(json.dumps(row) + "\n" for row in rows)
