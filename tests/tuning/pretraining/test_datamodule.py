from __future__ import annotations

import pytest

from introspect.core.resuming import Place
from introspect.tuning.packing import IGNORED
from introspect.tuning.pretraining.datamodule import PoolLoader, Pools
from introspect.tuning.pretraining.texts import PretrainingTexts
from introspect.tuning.pretraining.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def served(tokenizer, size, batch_size, trained=0, num_workers=0):
    pools = Pools(PretrainingTexts(tokenizer, size, seed=0), batch_size, tokenizer.pad_token_id)
    loader = PoolLoader(pools, num_workers, lambda: Place(0, trained))
    batches = [{name: value.tolist() for name, value in batch.items()} for batch in loader]
    assert len(loader) == trained + len(batches)
    return batches


def test_every_text_is_served_once_and_what_is_only_read_has_no_label(tokenizer):
    texts = [
        (tokens, [token if wanted else IGNORED for token, wanted in zip(tokens, learnt, strict=True)])
        for tokens, learnt in PretrainingTexts(tokenizer, 50, seed=0)
    ]
    batches = served(tokenizer, 50, 8)
    assert len(batches) == 7
    found = []
    for batch in batches:
        for ids, mask, labels in zip(*(batch[name] for name in ("input_ids", "attention_mask", "labels")), strict=True):
            length = sum(mask)
            assert mask == [1] * length + [0] * (len(mask) - length)
            assert set(ids[length:]) <= {tokenizer.pad_token_id}
            assert set(labels[length:]) <= {IGNORED}
            found.append((ids[:length], labels[:length]))
    assert sorted(found) == sorted(texts)


@pytest.mark.parametrize("trained", [1, 16, 17, 30])
def test_batches_go_on_where_training_stopped(tokenizer, trained):
    whole = served(tokenizer, 70, 2)
    assert len(whole) == 35
    assert served(tokenizer, 70, 2, trained) == whole[trained:]


def test_workers_write_the_same_texts(tokenizer):
    assert served(tokenizer, 70, 2, num_workers=2) == served(tokenizer, 70, 2)
