"""Every command of the README and the docs is run, in small, or marked with the reason why no test can run it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.composing import ROOT
from tests.documented import Command, documented
from tests.trying import Done, Lab, small

# Run by another test, which is named: a page as a whole, or a command.
ELSEWHERE = {
    "docs/extending.md": "tests/test_extending.py::test_a_benchmark_and_a_recipe",
    "mkdocs serve": "tests/test_docs.py::test_the_site_is_served",
    "pytest tests/distillation": "tests/distillation/test_objectives.py::test_losses_and_gradients_equal_the_reference",
    "pytest": "tests/test_commands.py::test_a_command_does_what_it_promises",
}
INSTALLS = re.compile(r"(?:uv )?pip install (introspect\[(?P<extra>\w+)\]|(?P<package>[\w-]+))|uv sync")
SCRIPTS = ("train.py", "evaluate.py", "dissect.py")

# What other commands begin with.
REASONING = ("python", "train.py", "experiment=mbt_r")
STUDENT = ("python", "train.py", "experiment=kd")
SCRATCH = ("python", "train.py", "experiment=scratch")
CELLS = ("python", "train.py", "experiment=kd", "data=cells")
EXPORTED = ("python", "train.py", "experiment=mbt_r", "train=false", "datamodule.export=FOLDER")
SLICE = ("python", "train.py", "+slice=train", "slice.count=2", "train=false")
BRODEN = ("python", "-m", "introspect.dissection", "export", "data/shapeworld", "--images", "2000")


def to_run() -> list[Command]:
    """Each command once that no page marks and no other test runs."""
    found = documented()
    left_out = {command.text for command in found if command.reason or command.page in ELSEWHERE} | set(ELSEWHERE)
    chosen = {c.text: c for c in found if c.text not in left_out and not INSTALLS.fullmatch(c.text)}
    return list(chosen.values())


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


def run(lab: Lab, words: tuple[str, ...]) -> Done:
    """Fill in what a reader fills in, make it small, run it."""
    filled = tuple(fill(lab, words))
    return lab.run(*(small(filled, lab.folder) if filled[1] in SCRIPTS else filled))


def left_by(lab: Lab, words: tuple[str, ...]) -> str:
    """The folder that a command leaves, as a reader types it."""
    return run(lab, words).folder.relative_to(lab.folder).as_posix()


def fill(lab: Lab, words: tuple[str, ...]) -> Iterator[str]:
    """A command with the names of what others have left."""
    images = CELLS if "data=cells" in words else STUDENT
    dissections = iter((STUDENT, SCRATCH))
    for word in words:
        if "logs/train/runs/DATE" in word:
            made = left_by(lab, images if words[1] == "dissect.py" else REASONING)
            yield word.replace("logs/train/runs/DATE", made)
        elif word in ("ckpt_path=…", "ckpt_path=A,B,C"):
            made_by = (images,) if word.endswith("…") else (STUDENT, SCRATCH)
            yield "ckpt_path=" + ",".join(f"{left_by(lab, made)}/checkpoints/last.ckpt" for made in made_by)
        elif word == "recipe.source=FOLDER":
            run(lab, EXPORTED)
            yield word
        elif word == "concepts.root=data/broden1_224":
            run(lab, BRODEN)
            yield "concepts.root=data/shapeworld"
        elif word == "ckpt_path=resnet20-12fca82f.th":
            resnet20(lab.folder / "resnet20-12fca82f.th")
            yield word
        elif word == "FOLDER" or word.endswith("/layer4"):
            yield f"{left_by(lab, next(dissections))}/dissection/layer3"
        elif "*" in word:
            run(lab, SLICE)
            yield from (path.relative_to(lab.folder).as_posix() for path in lab.folder.glob(word))
        elif word != "…":
            yield {"2000": "20"}.get(word, word)


def resnet20(path: Path) -> None:
    """A state dict as the published one, with random weights."""
    import torch

    from introspect.vision.backbones import Backbone

    torch.save(Backbone("cifar_resnet20", 10).build().state_dict(), path)


def promised(words: tuple[str, ...]) -> list[str]:
    """The files that a command leaves: in its folder or, with ./, where it is given."""
    given = dict(word.split("=", 1) for word in words if "=" in word and not word.startswith("-"))
    exported = [f"./{value}/README.md" for key, value in given.items() if key.endswith(".export")]
    if "--help" in words or "--cfg" in words:
        return []
    if words[1] == "train.py":
        return _of_training(words, given) + exported
    if words[1] == "evaluate.py":
        return ["metrics.json", "judgments/model.parquet", "rollouts/model.parquet", *exported]
    if words[1] == "dissect.py":
        result = f"{given['measure']}.json" if "measure" in given else f"{given['layer']}/report.html"
        return [f"1/{result}" if "-m" in words else result]
    return {
        "introspect.tracking.board": ["./logs/board.html"],
        "introspect.dissection": [f"./{words[4]}/index.csv"] if words[3] == "export" else [],
        "introspect.chat.store": [f"./{words[5]}"] if words[3] == "export" else [],
    }[words[2]]


def _of_training(words: tuple[str, ...], given: dict[str, str]) -> list[str]:
    if "-m" in words:
        return ["study.md", "best.json"] if any("optuna" in word for word in words) else ["study.md", "1/metrics.json"]
    if given.get("train") == "false":
        return ["traces/traces.parquet", "traces/manifest.json"]
    experiment = given.get("experiment", "mbt_r")
    if experiment in ("mbt_r", "mbt_s", "self_distill", "published"):
        return ["metrics.json", "traces/manifest.json", "rollouts/model.parquet", "student/config.json"]
    if experiment in ("grpo", "base"):
        return ["metrics.json", "rollouts/model.parquet", "student/config.json"]
    return ["metrics.json", "dissection/layer3/report.html", "checkpoints/last.ckpt", "class_similarity.json"]


@pytest.mark.slow
@pytest.mark.parametrize("command", to_run(), ids=lambda command: command.text)
def test_a_command_does_what_it_promises(lab: Lab, command: Command) -> None:
    done = run(lab, command.words)
    for name in promised(command.words):
        folder = lab.folder if name.startswith("./") else done.folder
        assert (folder / name).exists(), f"{name} is not there\n{done.output[-2000:]}"


def test_each_install_is_of_an_extra_or_of_a_known_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    known = {"uv", "optuna", "hydra-submitit-launcher"}
    found = [match for command in documented() if (match := INSTALLS.fullmatch(command.text))]
    assert len(found) > 3
    for match in found:
        assert match["extra"] in extras or match["package"] in known or match.group() == "uv sync", match.group()


@pytest.mark.parametrize("test", sorted(set(ELSEWHERE.values())))
def test_a_test_that_is_named_is_there(test: str) -> None:
    path, _, name = test.partition("::")
    assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")


def test_what_runs_elsewhere_is_documented() -> None:
    found = documented()
    assert set(ELSEWHERE) <= {command.text for command in found} | {command.page for command in found}
    assert len(to_run()) > 50
