from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from introspect.core.errors import InputError, Pruned
from introspect.core.files import write_text
from introspect.sweeps.jobs import Record, finish_job, folders, identity, portable, read_record


class Picky(Exception):
    """Can not be made again from its message."""

    def __init__(self, *, response: str) -> None:
        super().__init__(f"no {response}")


def test_an_exception_survives_the_way_from_another_process() -> None:
    assert portable(InputError("a is b")).args == ("a is b",)
    error = portable(Picky(response="answer"))
    assert str(pickle.loads(pickle.dumps(error))) == "Picky: no answer"


def test_identity_is_in_the_settings_alone() -> None:
    one = {"a": {"b": 1}, "place": "${hydra:runtime.output_dir}", "hydra": {"job": {"num": 1}}}
    same = {"place": "${hydra:runtime.output_dir}", "a": {"b": 1}}
    other = {**same, "a": {"b": 2}}
    assert identity(OmegaConf.create(one)) == identity(OmegaConf.create(same)) != identity(OmegaConf.create(other))


def test_identity_does_not_tell_secrets_apart() -> None:
    one, other = ({"api_key": value} for value in ("sk-abcdefgh1234567890", "***"))
    assert identity(OmegaConf.create(one)) == identity(OmegaConf.create(other))


@pytest.mark.parametrize(
    ("status", "result", "expected"),
    [
        (JobStatus.COMPLETED, 0.5, ("finished", 0.5, None)),
        (JobStatus.COMPLETED, None, ("finished", None, None)),
        (JobStatus.COMPLETED, float("nan"), ("finished", None, None)),
        (JobStatus.FAILED, Pruned("slow"), ("pruned", None, None)),
        (JobStatus.FAILED, InputError("a=1:\n no"), ("failed", None, "a=1: no")),
        (JobStatus.FAILED, ValueError("Bearer abcdefgh12345678"), ("failed", None, "ValueError: ***")),
    ],
)
def test_records(tmp_path: Path, status: JobStatus, result: object, expected: tuple[object, ...]) -> None:
    write_text(tmp_path / "0/.hydra/config.yaml", "a: 1\n")
    config = OmegaConf.create({"a": 1, "hydra": {"runtime": {"output_dir": str(tmp_path / "0")}}})
    finish_job(config, JobReturn(status=status, _return_value=result))
    record = read_record(tmp_path / "0")
    assert record is not None
    assert (record.status, record.value, record.error) == expected
    assert record.identity == identity(OmegaConf.create({"a": 1}))


def test_a_folder_without_a_readable_record(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None
    write_text(tmp_path / "0/.hydra/config.yaml", "a: 1\n")
    unfinished = Record("unfinished", identity(OmegaConf.create({"a": 1})))
    assert read_record(tmp_path / "0") == unfinished
    write_text(tmp_path / "0/job.json", '{"status": "finished"')
    assert read_record(tmp_path / "0") == unfinished


def test_folders_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("10", "2", "0"):
        write_text(tmp_path / name / ".hydra/config.yaml", "")
    assert [place.name for place in folders(tmp_path)] == ["0", "2", "10"]
    assert not list(tmp_path.rglob("*.partial"))
