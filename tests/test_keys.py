"""Keys are used and never written: a whole run with teacher and judge on servers, and a look into all its files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.chat.remote import serving
from tests.chat.remote.serving import Serving
from tests.composing import ROOT
from tests.tuning.tiny import tiny_folder

# Of no known form: only what it stands under tells that it is a secret.
TEACHER_KEY, JUDGE_KEY, ENGINE_KEY = "correct-horse-battery-9f31", "staple-purple-monkey-77aa", "plain-words-as-key-42"
KEYS = (TEACHER_KEY, JUDGE_KEY, ENGINE_KEY)


def completion(prompt: str, style: str, *, is_long: bool = False) -> dict[str, Any]:
    """A trace that passes the gate, for prompts that tell the answer; a reply that no judge would give, for others."""
    found = re.search(r"<correct_answer>\s*(.*?)\s*</correct_answer>", prompt, re.DOTALL)
    content = f"We read the documents with care. So it is {found[1]}." if found else "I would rather not say."
    message = {"role": "assistant", "content": content, "reasoning": "Private thoughts."}
    usage = {"prompt_tokens": 10, "completion_tokens": 20}
    return {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}


@pytest.mark.slow
def test_no_file_of_a_run_holds_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "completion", completion)
    # A few requests fail, in ways in which servers repeat what they were sent.
    shares = {"500": 0.1, "429": 0.1, "truncated": 0.1}
    with Serving(shares=shares) as server:
        configs = tmp_path / "configs" / "teacher"
        configs.mkdir(parents=True)
        (configs / "mine.yaml").write_text(
            "defaults:\n  - openai_api\n  - _self_\n"
            f"api_key: {TEACHER_KEY}\napi_key_env: null\nmodel: big\nbase_url: {server.url}\nretry:\n  base_s: 0.01\n"
        )
        student = tiny_folder(tmp_path / "student", context=2048, tags=True)
        options = [
            f"--config-dir={tmp_path / 'configs'}",
            "experiment=mbt_s",
            "teacher=mine",
            "teacher.price.prompt=1",
            "teacher.price.completion=2",
            "judge=openai_api",
            f"judge.base_url={server.url}",
            "judge.api_key_env=MY_JUDGE_KEY",
            "judge.retry.base_s=0.01",
            "engine=openai",  # the baseline, whose rollouts have something to be judged
            f"engine.base_url={server.url}",
            "engine.api_key_env=MY_ENGINE_KEY",
            "engine.retry.base_s=0.01",
            f"model.model={student}",
            "data.sizes.train=8",
            "data.sizes.validation=2",
            "data.sizes.test=2",
            "sampling.max_tokens=8",
            "datamodule.max_length=2048",
            "datamodule.batch_size=4",
            "trainer=cpu",
            "trainer.max_epochs=1",
        ]
        environment = {
            **os.environ,
            "PROJECT_ROOT": str(tmp_path / "run"),
            "PYTHONPATH": str(ROOT / "src"),
            "WANDB_MODE": "offline",
            "MY_JUDGE_KEY": JUDGE_KEY,
            "MY_ENGINE_KEY": ENGINE_KEY,
        }
        done = subprocess.run(
            [sys.executable, str(ROOT / "train.py"), *options], env=environment, cwd=tmp_path, capture_output=True
        )
        used = {headers.get("authorization") for headers in server.app.headers}
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert used == {f"Bearer {key}" for key in KEYS}
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    kinds = {path.suffix for path in files}
    assert {".yaml", ".log", ".sqlite", ".ckpt", ".wandb", ".parquet", ".json", ".csv"} <= kinds, kinds
    for key in map(str.encode, KEYS):
        assert [path for path in files if key in path.read_bytes()] == []
        assert key not in done.stdout + done.stderr
    # And what it cost is there.
    manifest = next(path for path in files if path.name == "manifest.json").read_text()
    assert '"teacher/cost"' in manifest
