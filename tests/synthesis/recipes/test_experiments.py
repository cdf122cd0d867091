"""Every recipe as an experiment: what `train.py` would build, without training."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from introspect import cli
from tests.composing import CONFIGS, compose_config

RECIPES = sorted(path.stem for path in (CONFIGS / "recipe").glob("*.yaml"))
# At the paper's scale by `scale=paper`, but for those with settings of their own.
OWN = {path.stem for path in (CONFIGS / "experiment" / "paper").glob("*.yaml")}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_an_experiment(name: str, tmp_path: Path) -> None:
    cfg = compose_config("train", [f"experiment={name}", "seed=7"], tmp_path)
    cli.check(cfg)
    data = instantiate(cfg.datamodule)
    assert data.recipe.name == name
    assert data.trains == (name != "metacognitive_prompt")
    assert data.benchmark.name == "hopworld"
    assert data.teacher.identity["model"] == "oracle"
    assert dict(data.recipe.settings)  # what is recorded with the traces
    assert cfg.tags == [name]
    prompt = instantiate(cfg.model.testing).prompt
    assert prompt == ("metacognitive" if name == "metacognitive_prompt" else "plain")
    recipe = OmegaConf.to_container(cfg.recipe, resolve=True)
    assert isinstance(recipe, dict)
    assert all(values["seed"] == 7 for key, values in recipe.items() if str(key).endswith("_sampling"))


# Every recipe, and every model once.
SCALES = [*((name, "qwen3_4b") for name in RECIPES), ("mbt_r", "qwen3_0_6b"), ("mbt_r", "qwen3_1_7b")]


@pytest.mark.parametrize(("name", "model"), SCALES)
def test_every_recipe_at_the_scale_of_the_paper(name: str, model: str, tmp_path: Path) -> None:
    experiment = [f"experiment=paper/{name}"] if name in OWN else [f"experiment={name}", "scale=paper"]
    cfg = compose_config("train", [*experiment, f"model={model}"], tmp_path)
    cli.check(cfg)
    values = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(values, dict)
    assert values["model"]["model"] == {"qwen3_0_6b": "Qwen/Qwen3-0.6B", "qwen3_1_7b": "Qwen/Qwen3-1.7B"}.get(
        model, "Qwen/Qwen3-4B"
    )
    for group in ("sampling", "drafting", "teaching"):
        del values[group]["_target_"]
        assert values[group] == {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "max_tokens": None, "seed": 42}
    assert instantiate(cfg.datamodule).recipe.name == name
    if name == "metacognitive_prompt":
        return
    trainer, data, student = values["trainer"], values["datamodule"], values["model"]
    assert data["batch_size"] * trainer["accumulate_grad_batches"] * trainer["devices"] == 128
    assert (trainer["max_epochs"], trainer["gradient_clip_val"], trainer["precision"]) == (1, 0.3, "bf16-mixed")
    assert (data["max_length"], data["train_examples"], data["validation_share"]) == (32768, None, 0)
    assert values["data"]["held_out"] == 0
    assert (student["lr"], student["schedule"], student["warmup_ratio"]) == (1e-4, "cosine", 0.1)
    assert (student["betas"], student["eps"], student["weight_decay"]) == ([0.9, 0.999], 1e-8, 0.0)
    assert (student["gradient_checkpointing"], student["lora"]) == (True, None)
    assert student["chat_template"] == "verbatim"
    assert (values["teacher"]["model"], values["teacher"]["reasoning_effort"]) == ("openai/gpt-oss-120b", "high")
