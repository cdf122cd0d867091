"""Every shipped config, found by looking: it composes, what it names can be imported, and takes what it gives."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from introspect import cli
from tests.composing import CONFIGS, compose_config

FILES = sorted(path for path in CONFIGS.rglob("*.yaml") if "local" not in path.parts)
ROOTS = ("train", "evaluate", "dissect")
EXPERIMENTS = sorted(
    str(p.relative_to(CONFIGS / "experiment").with_suffix("")) for p in FILES if "experiment" in p.parts
)
# Groups of train.yaml with more than one option; the experiment is composed apart.
OPTIONS = sorted(
    (group, path.stem)
    for group in (
        "data",
        "datamodule",
        "model",
        "recipe",
        "teacher",
        "judge",
        "trainer",
        "task",
        "scale",
        "logger",
        "callbacks",
        "debug",
        "hparams_search",
    )
    for path in (CONFIGS / group).glob("*.yaml")
)
# Packages that only some sweeps need.
OPTIONAL = ("optuna", *(f"hydra_plugins.hydra_{name}_launcher" for name in ("joblib", "submitit", "ray")))
# Settings that a test on any machine must give: a model folder in place of one that is embedded or on a hub.
MODEL = "model.model=folder"
# Experiments on images, and the options that only they take.
METHODS = tuple(name + base for name in ("at", "ft", "crd", "sskd") for base in ("", "_logit"))
CLASSIFIERS = ("kd", "label_smoothing", "ls_teacher_kd", "scratch", "self_kd", *METHODS)
PUBLISHED = (*METHODS, "ls_teacher_kd", "self_kd")  # with settings of their own under experiment=paper/
IMAGES = (*CLASSIFIERS, *(f"paper/{name}" for name in PUBLISHED), "kd_shuffled", "teacher")
IMAGE_OPTIONS = {
    "data": {"shapeworld", "cells", "cifar10", "cifar100", "imagenet", "places365", "image_folders"},
    "datamodule": {"images"},
    "model": {"distillation"},
    "task": {"images"},
    "scale": {"imagenet", "places365", "cifar100"},
    "callbacks": {
        "distillation",
        "teaching",
        "class_similarity",
        "concept_detectors",
        "metrics_file",
        "five_band",
        "diffroar",
        "gradients",
    },
}
# What image_folders can not know.
FOLDERS = ["data.root=folder", "data.side=32", "data.classes=10"]


def experiment_of(group: str, option: str) -> list[str]:
    """Overrides with which an option of train.yaml makes sense."""
    if option in IMAGE_OPTIONS.get(group, ()):
        return ["experiment=kd", *(FOLDERS if option == "image_folders" else [])]
    if group == "hparams_search":
        return ["experiment=kd" if option.startswith("kd") else "experiment=mbt_r"]
    if option == "rollouts":
        return ["experiment=grpo"]
    return ["experiment=base"] if option in ("pretraining", "hopworld_scratch") else [MODEL]


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def targets(node: Any, key: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Every node with a `_target_`, and where it stands."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield key, node
        for child in node:
            if not OmegaConf.is_missing(node, child) and not OmegaConf.is_interpolation(node, child):
                yield from targets(node[child], f"{key}.{child}" if key else str(child))
    elif isinstance(node, ListConfig):
        for index in range(len(node)):
            if not OmegaConf.is_interpolation(node, index):
                yield from targets(node[index], f"{key}[{index}]")


def check_target(key: str, node: DictConfig) -> None:
    """The target exists, and each setting is one of its arguments."""
    if node._target_.startswith("optuna"):
        pytest.importorskip("optuna", reason="a package that only searches need")
    target = get_object(node._target_)
    given = {str(child) for child in node if not str(child).startswith("_")}
    if target is timedelta:  # which has no signature
        assert timedelta(**{name: node[name] for name in given})
        return
    arguments = inspect.signature(target).parameters
    if not any(a.kind is inspect.Parameter.VAR_KEYWORD for a in arguments.values()):
        assert given <= set(arguments), f"{key}: {node._target_} takes no {sorted(given - set(arguments))}"
    required = {n for n, a in arguments.items() if a.default is a.empty and a.kind is a.KEYWORD_ONLY}
    if not node.get("_partial_"):
        assert required <= given, f"{key}: {node._target_} also needs {sorted(required - given)}"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_targets_exist_and_take_what_they_are_given(path: Path, tmp_path: Path) -> None:
    cfg = OmegaConf.load(path)
    named = [line for line in path.read_text().splitlines() if "_target_" in line and not line.lstrip().startswith("#")]
    found = list(targets(cfg))
    assert len(found) == len(named)
    for key, node in found:
        optional = next((name for name in OPTIONAL if node._target_.startswith(name)), None)
        if optional:
            pytest.importorskip(optional, reason="a package that only some sweeps need")
        target = get_object(node._target_)
        assert callable(target), key


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiments_compose_and_fit_their_targets(experiment: str, tmp_path: Path) -> None:
    cfg = compose_config(
        "train", [f"experiment={experiment}", *([] if experiment in ("base", *IMAGES) else [MODEL])], tmp_path
    )
    cli.check(cfg)
    nodes = list(targets(OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))))
    assert len(nodes) > 5
    for key, node in nodes:
        check_target(key, node)


@pytest.mark.parametrize("scale", ["imagenet", "places365", "cifar100"])
@pytest.mark.parametrize("experiment", CLASSIFIERS)
def test_published_methods_compose_at_other_scales(experiment: str, scale: str, tmp_path: Path) -> None:
    name = f"paper/{experiment}" if experiment in PUBLISHED else experiment
    cfg = compose_config("train", [f"experiment={name}", f"scale={scale}"], tmp_path)
    cli.check(cfg)
    assert cfg.data.get("name", f"cifar{cfg.data.classes}") == scale
    assert "paper" in cfg.tags or experiment not in PUBLISHED
    layers = cfg.model.objective.get("layers", [cfg.model.objective.get("layer", cfg.stages[1])])
    assert cfg.callbacks.concept_detectors.layer == layers[-1] == ("layer3" if scale == "cifar100" else "layer4")
    for key, node in targets(OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))):
        check_target(key, node)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_options_compose_and_fit_their_targets(group: str, option: str, tmp_path: Path) -> None:
    given, *needed = experiment_of(group, option)
    cfg = compose_config("train", [given, f"{group}={option}", *needed], tmp_path)
    cli.check(cfg)
    for key, node in targets(OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))):
        check_target(key, node)


@pytest.mark.parametrize(
    ("group", "option"),
    [(group, path.stem) for group in ("objective", "backbone") for path in sorted((CONFIGS / group).glob("*.yaml"))],
)
def test_parts_of_a_distillation_compose_and_fit(group: str, option: str, tmp_path: Path) -> None:
    place = {"objective": "objective@model.objective", "backbone": "backbone@model.student"}[group]
    cfg = compose_config("train", ["experiment=kd", f"{place}={option}"], tmp_path)
    cli.check(cfg)
    for key, node in targets(OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))):
        check_target(key, node)


STUDIES = sorted(str(p.relative_to(CONFIGS / "study").with_suffix("")) for p in FILES if "study" in p.parts)


@pytest.mark.parametrize("study", STUDIES)
def test_the_first_and_last_job_of_a_study_compose(study: str, tmp_path: Path) -> None:
    cfg = OmegaConf.load(CONFIGS / "study" / f"{study}.yaml")
    assert isinstance(cfg, DictConfig)
    values = {name: str(value).split(",") for name, value in cfg.hydra.sweeper.params.items()}
    root, needed = ("evaluate", ["ckpt_path=x"]) if study == "paper/mbt_benchmarks" else ("train", [])
    for at in (0, -1):
        job = [f"{name}={value[at]}" for name, value in values.items()]
        composed = compose_config(root, [f"study={study}", *needed, *job], tmp_path)
        assert composed.study == study.replace("/", "_")
        cli.check(composed)
        for key, node in targets(OmegaConf.create(OmegaConf.to_container(composed, resolve=True))):
            check_target(key, node)


@pytest.mark.parametrize("root", ROOTS)
def test_a_command_names_no_part_of_either_half(root: str) -> None:
    cfg = OmegaConf.load(CONFIGS / f"{root}.yaml")
    assert isinstance(cfg, DictConfig)
    groups = {str(key).removeprefix("optional ") for entry in cfg.defaults if entry != "_self_" for key in entry}
    assert not groups & {"data", "datamodule", "recipe", "teacher", "engine", "judge", "model", "objective", "concepts"}


def test_no_config_takes_back_what_another_one_chose() -> None:
    assert not [path for path in FILES if re.search(r"override .*: null", path.read_text())]


def test_an_experiment_on_images_has_nothing_of_reasoning(tmp_path: Path) -> None:
    cfg = compose_config("train", ["experiment=kd"], tmp_path)
    assert not {"recipe", "teacher", "judge", "judging", "sampling", "drafting", "teaching", "engine"} & set(cfg)
    assert "reasoning" not in OmegaConf.to_yaml(cfg)


@pytest.mark.parametrize(
    "data", sorted({path.stem for path in (CONFIGS / "data").glob("*.yaml")} - IMAGE_OPTIONS["data"])
)
def test_evaluations_compose_and_fit_their_targets(data: str, tmp_path: Path) -> None:
    cfg = compose_config("evaluate", [f"data={data}", "ckpt_path=x"], tmp_path)
    cli.check(cfg)
    for key, node in targets(OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))):
        check_target(key, node)


@pytest.mark.parametrize("measure", sorted(path.stem for path in (CONFIGS / "measure").glob("*.yaml")))
def test_measures_compose_and_fit_their_targets(measure: str, tmp_path: Path) -> None:
    cfg = compose_config("dissect", [f"measure={measure}", "ckpt_path=x", "layer=layer3"], tmp_path)
    cli.check(cfg)
    for key, node in targets(OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))):
        check_target(key, node)


def test_without_a_measure_it_is_the_dissection(tmp_path: Path) -> None:
    cfg = compose_config("dissect", ["ckpt_path=x", "layer=layer3", "dissection.quantile=0.01"], tmp_path)
    assert cfg.measure == cfg.dissection
    assert cfg.measure.quantile == 0.01
    with pytest.raises(cli.InputError, match="layer is required"):
        cli.check(compose_config("dissect", ["ckpt_path=x"], tmp_path))


@pytest.mark.parametrize("judge", sorted(path.stem for path in (CONFIGS / "judge").glob("*.yaml")))
def test_every_judge_judges_saved_rollouts(judge: str, tmp_path: Path) -> None:
    cfg = compose_config("evaluate", ["rollouts=run", f"judge={judge}"], tmp_path)
    cli.check(cfg)
    assert cfg.evaluation.rescore == "run"
    assert "_target_" in cfg.evaluation.judging.judge
    for key, node in targets(OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))):
        check_target(key, node)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_begins_with_its_command(experiment: str) -> None:
    first, second, *_ = (CONFIGS / "experiment" / f"{experiment}.yaml").read_text().splitlines()
    assert first == "# @package _global_"
    assert second.startswith(f"# python train.py experiment={experiment}")


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_file_says_what_it_is_for(path: Path) -> None:
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("path", FILES, ids=name)
def test_every_setting_says_what_it_does(path: Path) -> None:
    text = path.read_text()
    if text.startswith("# @package") or "defaults:\n" in text or "hydra" in path.parts:
        return  # sets what another file declares and explains
    # Beside the setting, or beside the one that it belongs to; what is taken from elsewhere is explained there.
    explained = re.compile(r"#|_target_|_partial_|: \$\{[^}]+\}$|^\{\}$|:$")
    groups: list[str] = []
    for line in filter(str.strip, text.splitlines()):
        depth = (len(line) - len(line.lstrip())) // 2
        groups = [*groups[:depth], line]
        assert any(explained.search(group) and (group is line or "#" in group) for group in groups), line


def test_commands_in_comments_compose(tmp_path: Path) -> None:
    """The commands that the configs show are those that work."""
    shown = re.findall(
        r"python (train|evaluate)\.py((?: [^\s\\;:`]+=[^\s\\;`]*)*)", "".join(p.read_text() for p in FILES)
    )
    assert len(shown) > 10
    for command, overrides in sorted(set(shown)):
        compose_config(command, [o.rstrip(".,;:)") for o in overrides.split() if "…" not in o], tmp_path)


def test_small_parts_can_be_built(tmp_path: Path) -> None:
    cfg = compose_config("train", [MODEL, "trainer=cpu", "logger=csv"], tmp_path)
    for part in (cfg.trainer, cfg.logger.csv, cfg.sampling, cfg.teacher, cfg.recipe, cfg.data):
        assert instantiate(part) is not None


def test_hardware_choices() -> None:
    ddp = OmegaConf.merge(*(OmegaConf.load(CONFIGS / f"trainer/{name}.yaml") for name in ("default", "gpu", "ddp")))
    assert (ddp.strategy, ddp.accelerator, ddp.precision) == ("ddp", "gpu", "bf16-mixed")
