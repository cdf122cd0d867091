"""What a user sees who types something wrong: one line, soon, and a status that says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from introspect import cli
from introspect.core import command
from introspect.core.errors import InputError
from tests.composing import ROOT, compose_config


def call(command: str, *arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder`, where it must answer without importing torch, which takes seconds."""
    (folder / "no_torch").mkdir(exist_ok=True)
    (folder / "no_torch" / "torch.py").write_text("raise AssertionError('torch was imported')\n")
    path = os.pathsep.join([str(folder / "no_torch"), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, str(ROOT / f"{command}.py"), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "arguments", "expected"),
    [
        ("train", ["experiment=mbt_x"], "there is no experiment=mbt_x: experiment can be at, "),
        ("train", ["trainer.foo=1"], "trainer.foo"),
        ("train", ["seed=abc", "train=maybe"], "seed=abc is not a whole number from 0 to 4294967295; train=maybe is"),
        ("train", ["+teacher.api_key=abcdef"], "environment variable"),
        ("train", ["-m", "trainer=ddp", "seed=1,2"], "-m does not go with trainer.strategy=ddp"),
        ("train", ["-m", "trainer=fsdp", "seed=1,2"], "-m does not go with trainer.strategy=fsdpstrategy"),
        (
            "train",
            ["-m", "experiment=kd,scratch", "model.objective.temperature=3"],
            "job 1 (experiment=scratch model.objective.temperature=3): Could not override 'model.objective",
        ),
        ("evaluate", [], "ckpt_path is required"),
        ("evaluate", ["data=hotpot"], "there is no data=hotpot: data can be cells, cifar10, "),
    ],
)
def test_a_mistake_is_answered_in_one_line(tmp_path: Path, command: str, arguments: list[str], expected: str) -> None:
    # A sweep composes and checks each of its jobs before the first one starts.
    done = call(command, *arguments, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    line, *more = done.stderr.splitlines()
    assert all(text.startswith("Error executing job with overrides") for text in more)
    assert line.startswith("error: ")
    assert expected in line
    assert "abcdef" not in line


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["trainer=tpu"], "there is no trainer=tpu: trainer can be cpu"),
        (["seed"], "'seed' is not key=value"),
        (["ckpt_path=/x/epoch=01.ckpt"], "needs quotes"),
        (["seed=1,2"], "--multirun"),
        (["logger=null"], "~GROUP"),
        (["~nothing"], "nothing"),
        (["trainer.max_epochs=${nope}"], "nope"),
        (["model=student", "model.model=???"], "model.model is required"),
        (["model.model=${asset:nothing}"], "there is no embedded model 'nothing'"),
        (["tags=dev"], "tags=dev is not a list"),
    ],
)
def test_a_config_that_does_not_compose_is_explained_in_one_line(
    tmp_path: Path, overrides: list[str], expected: str
) -> None:
    with pytest.raises(Exception) as caught:
        cli.check(compose_config("train", ["model.model=x", *overrides], tmp_path))
    message = command.explain(caught.value)
    assert message is not None
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_help_is_answered_at_once(tmp_path: Path, command: str) -> None:
    done = call(command, "--help", folder=tmp_path)
    assert done.returncode == 0
    assert "experiment: " in done.stdout
    assert "mbt_r" in done.stdout
    # With anything else beside it, Hydra makes the text.
    assert done.stdout == call(command, "--help", "extras=default", folder=tmp_path).stdout


def test_nothing_heavy_is_imported_before_the_config_is_checked(tmp_path: Path) -> None:
    program = (
        "import sys; sys.argv = ['train.py', 'seed=abc']; import runpy\n"
        f"try: runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
        "except SystemExit: print(sorted({'torch', 'lightning', 'transformers', 'wandb', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "seed=abc" in done.stderr
    assert done.stdout.strip() == "[]"


def test_the_traceback_is_there_for_who_wants_it(tmp_path: Path) -> None:
    done = call("train", "seed=abc", folder=tmp_path, HYDRA_FULL_ERROR="1")
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "InputError: seed=abc" in done.stderr


def test_a_saved_config_holds_no_secret(tmp_path: Path) -> None:
    configs = tmp_path / "more"
    (configs / "local").mkdir(parents=True)
    (configs / "local/default.yaml").write_text(
        "# @package _global_\nserver: {api_key: s3cret, other: '${oc.env:HOME}'}\nseed: wrong\n"
    )
    done = call("train", "--config-dir", str(configs), folder=tmp_path)
    assert done.returncode == 2
    (saved,) = tmp_path.glob("logs/train/runs/*/.hydra/config.yaml")
    text = saved.read_text()
    assert "s3cret" not in "".join(path.read_text() for path in saved.parent.iterdir())
    assert "api_key: '***'" in text
    assert "${oc.env:HOME}" in text


def test_the_command_line_beats_the_experiment_which_beats_the_defaults(tmp_path: Path) -> None:
    assert compose_config("train", ["experiment=mbt_s"], tmp_path).recipe._target_.endswith("MBTS")
    assert compose_config("train", ["experiment=mbt_s", "recipe=mbt_r"], tmp_path).recipe._target_.endswith("MBTR")
    assert compose_config("train", ["experiment=mbt_s"], tmp_path).tags == ["mbt_s"]
    assert compose_config("train", ["experiment=mbt_s", "tags=[x]"], tmp_path).tags == ["x"]


def test_variables_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KNOWN", "stays")
    monkeypatch.delenv("QUOTED", raising=False)
    file = tmp_path / ".env"
    file.write_text("# a comment\n\nexport QUOTED='a = b'\nKNOWN=changed\n")
    command.read_environment(file)
    assert (os.environ.pop("QUOTED"), os.environ["KNOWN"]) == ("a = b", "stays")
    command.read_environment(tmp_path / "nothing")
    file.write_text("KEY=1\nnonsense\n")
    with pytest.raises(InputError, match=r"\.env: line 2: expected NAME=value"):
        command.read_environment(file)
    os.environ.pop("KEY")


class Bad:
    """Cannot be built."""

    def __init__(self, kind: str) -> None:
        raise InputError("file.json: row 3: no question") if kind == "input" else ValueError("two\n  lines")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("input", "part.inner: file.json: row 3: no question"),
        ("bug", f"part.inner: ValueError: two lines {command.MORE}"),
    ],
)
def test_a_part_that_cannot_be_built_is_named_by_its_key(kind: str, expected: str) -> None:
    cfg = OmegaConf.create(
        {"part": {"_target_": "builtins.dict", "inner": {"_target_": "tests.test_cli.Bad", "kind": kind}}}
    )
    with pytest.raises(InstantiationException) as caught:
        instantiate(cfg.part)
    assert command.explain(caught.value) == expected


def test_a_target_that_is_not_there_is_named() -> None:
    with pytest.raises(InstantiationException) as caught:
        instantiate(OmegaConf.create({"part": {"_target_": "introspect.nowhere.Nothing"}}).part)
    message = command.explain(caught.value)
    assert message is not None
    assert message.startswith("part: ")
    assert "introspect.nowhere" in message


def test_a_bug_is_not_explained_away() -> None:
    assert command.explain(ValueError("a bug")) is None
    assert command.explain(RuntimeError("a bug")) is None


def test_the_objective_of_a_sweep() -> None:
    metrics = {"test/accuracy": 0.5}
    assert cli.objective(OmegaConf.create({"optimized_metric": None}), metrics) is None
    assert cli.objective(OmegaConf.create({"optimized_metric": "test/accuracy"}), metrics) == 0.5
    with pytest.raises(InputError, match="optimized_metric=val/loss was never logged; logged were: test/accuracy"):
        cli.objective(OmegaConf.create({"optimized_metric": "val/loss"}), metrics)


@pytest.mark.parametrize(
    "override", ["model.model=/data/x", "teacher.api_key=${oc.env:KEY}", "+a.hf_token=null", "sampling.max_tokens=5"]
)
def test_ordinary_overrides_are_no_secrets(override: str) -> None:
    command.refuse_secrets([override])


@pytest.mark.parametrize(
    "override", ["a.api_key=x", "++b.password='y'", "server=https://me:pw@host/", "x=sk-abcdefgh12345678"]
)
def test_secrets_on_the_command_line_are_refused(override: str) -> None:
    with pytest.raises(InputError, match=r"oc\.env:NAME"):
        command.refuse_secrets([override])


@pytest.mark.parametrize(("given", "fails"), [({}, True), ({"a": 0}, False), ({"b": {"c": "x"}}, False)])
def test_one_of_the_keys_that_a_config_needs_must_be_given(given: dict, fails: bool) -> None:
    needs = [{"one_of": ["a", "b.c"], "otherwise": "a is required, or b.c"}]
    cfg = OmegaConf.create({"needs": needs, "a": None, **given})
    if fails:
        with pytest.raises(InputError, match="a is required, or b"):
            cli.check(cfg)
    else:
        cli.check(cfg)


@pytest.mark.parametrize(
    "module",
    [
        "introspect.tracking.board",
        "introspect.tracking.dashboard",
        "introspect.dissection",
        "introspect.chat.store",
    ],
)
def test_tools_of_the_package_have_help_of_their_own(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"python -m {module}" in done.stdout
