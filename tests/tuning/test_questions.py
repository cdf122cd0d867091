from __future__ import annotations

import pytest
import torch

from introspect.core.errors import InputError
from introspect.tuning.questions import QuestionsDataModule
from tests.tuning.test_datamodule import Questions


def test_all_questions_of_a_test_are_one_batch():
    [batch] = QuestionsDataModule(Questions(5), test_examples=3).test_dataloader()
    assert [example.id for example in batch] == ["test-0", "test-1", "test-2"]


def test_a_test_without_questions_gives_one_line():
    with pytest.raises(InputError, match=r"^questions: there are no test questions$"):
        QuestionsDataModule(Questions(0)).test_dataloader()


def test_only_those_of_the_test_are_limited():
    data = QuestionsDataModule(Questions(5), test_examples=3)
    assert (len(data.examples("test")), len(data.examples("train"))) == (3, 5)


def test_questions_stay_and_tensors_move():
    data, questions = QuestionsDataModule(Questions()), Questions().load("test")
    assert data.transfer_batch_to_device(questions, torch.device("meta"), 0) is questions
    moved = data.transfer_batch_to_device({"input_ids": torch.ones(2)}, torch.device("meta"), 0)
    assert moved["input_ids"].device.type == "meta"
