"""The two forms of a batch: a row per sequence, or packed rows that hold several traces and a prompt only once.

In MBT a question with its documents is long, is not learnt, and has several traces. A row holds the prompt, then its
traces one after the other; each trace looks at the prompt and at itself only, and its positions go on where the prompt
ends. So every trace sees what it would see alone: loss and gradients are those of separate sequences, and the prompt is
read once instead of once per trace. Rows may hold several such groups, which do not see each other.

Legend: b rows, s tokens of the longest row, m supervised tokens.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from introspect.core.errors import InputError
from introspect.tuning.supervision import Supervised

Group = tuple[Supervised, ...]  # traces of one prompt
Batch = dict[str, Tensor]
Packing = Literal["shared_prompt", "sequence", "none"]

IGNORED = -100  # a label that no loss counts


def pad_batch(sequences: Sequence[tuple[Sequence[int], Any]], pad_id: int) -> Batch:
    """Pad sequences on the right to one batch.

    Args:
        sequences: tokens of each, and which of them are learnt: bools, or a bool tensor.
        pad_id: the token that fills short sequences up.

    Returns:
        `input_ids` [b, s] int64; `attention_mask` [b, s] int64, 1 on tokens and 0 on padding; `labels` [b, s] int64,
        the token itself where it is learnt and -100 elsewhere. Labels are not shifted.
    """
    ids = pad_sequence([torch.tensor(tokens) for tokens, _ in sequences], batch_first=True, padding_value=pad_id)
    learnt = pad_sequence([torch.as_tensor(wanted) for _, wanted in sequences], batch_first=True, padding_value=False)
    lengths = torch.tensor([len(tokens) for tokens, _ in sequences])[:, None]
    return {
        "input_ids": ids,
        "attention_mask": (torch.arange(ids.shape[1]) < lengths).long(),
        "labels": ids.where(learnt, IGNORED),
    }


def collate(items: Sequence[Supervised], pad_id: int) -> Batch:
    """Give each sequence a row of its own: see `pad_batch`."""
    return pad_batch(
        [(item.input_ids, torch.arange(len(item.input_ids)) >= item.prompt_length) for item in items], pad_id
    )


def collate_groups(groups: Sequence[Group], pad_id: int, packing: Packing, row_tokens: int | None = None) -> Batch:
    """A batch of groups: that of `collate` where every sequence has a row of its own, else that of `pack`.

    With `shared_prompt` rows are packed where at least one group has several traces: only then is anything saved.

    Args:
        groups: a prompt's traces each; none gives a blank row, without supervised tokens, for a process that has to
            take part in a step.
        pad_id: the token that fills up short rows.
        packing: `none` gives every sequence a row; `sequence` packs sequences, each with its own prompt, into rows;
            `shared_prompt` packs groups.
        row_tokens: of a packed row at most; None takes the longest group.
    """
    if not groups:
        blank = collate([Supervised((pad_id, pad_id), 2)], pad_id)
        return {**blank, "attention_mask": torch.zeros_like(blank["attention_mask"])}
    if packing == "none" or (packing == "shared_prompt" and all(len(group) == 1 for group in groups)):
        return collate([item for group in groups for item in group], pad_id)
    return pack(groups, pad_id, row_tokens)


def group_tokens(group: Group) -> int:
    """Tokens of a group in a row: its prompt once, and every trace."""
    return group[0].prompt_length + sum(len(item.input_ids) - item.prompt_length for item in group)


def best_fit(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Distribute lengths over rows of at most `budget`: best-fit decreasing.

    The longest comes first, and each goes where the least room is left behind it (Johnson, Demers, Ullman, Garey,
    Graham, Worst-Case Performance Bounds for Simple One-Dimensional Packing Algorithms, SIAM J. Comput. 1974: at most
    11/9 of the fewest rows, and 4 more). What is longer than the budget gets a row of its own.

    Returns:
        For each row, the indices of the lengths in it.
    """
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (room left, row), in order
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        at = bisect_left(rooms, (lengths[index], -1))
        if at < len(rooms):
            room, row = rooms.pop(at)
        else:
            room, row = budget, len(rows)
            rows.append([])
        rows[row].append(index)
        insort(rooms, (room - lengths[index], row))
    return rows


def pack(groups: Sequence[Group], pad_id: int, budget: int | None = None) -> Batch:
    """Rows of groups, padded on the right.

    Args:
        groups: traces that share their prompt, a prompt per group.
        pad_id: the token that fills up short rows.
        budget: tokens of a row at most; None takes the longest group. A longer group gets a row of its own.

    Returns:
        `input_ids`, `position_ids` [b, s] int64; `group` [b, s] int64, which group of its row a token belongs to, -1
        for padding; `trace` [b, s] int64, which trace of its group, 0 for the prompt; `source` [m] int64, the places in
        the flattened rows whose outputs predict; `target` [m] int64, what they predict. The last token of a prompt
        predicts the first one of each of its traces.
    """
    lengths = [group_tokens(group) for group in groups]
    longest = max(lengths)
    rows = best_fit(lengths, max(budget or longest, 1))
    width = max(sum(lengths[index] for index in row) for row in rows)
    shape = len(rows), width
    ids, positions = torch.full(shape, pad_id), torch.zeros(shape, dtype=torch.int64)
    member, trace = torch.full(shape, -1), torch.zeros(shape, dtype=torch.int64)
    sources, targets = [], []
    for number, row in enumerate(rows):
        at = 0
        for place, index in enumerate(row):
            group = groups[index]
            prompt = group[0].prompt_length
            begin, end = at, at + lengths[index]
            member[number, begin:end] = place
            ids[number, begin : begin + prompt] = torch.tensor(group[0].input_ids[:prompt])
            positions[number, begin : begin + prompt] = torch.arange(prompt)
            at += prompt
            for count, item in enumerate(group, 1):
                completion = torch.tensor(item.input_ids[prompt:])
                span = slice(at, at + len(completion))
                ids[number, span], trace[number, span] = completion, count
                positions[number, span] = torch.arange(prompt, prompt + len(completion))
                first = torch.tensor([begin + prompt - 1])
                source = torch.cat([first, torch.arange(at, at + len(completion) - 1)])
                sources.append(number * width + source)
                targets.append(completion)
                at = span.stop
    return {
        "input_ids": ids,
        "position_ids": positions,
        "group": member,
        "trace": trace,
        "source": torch.cat(sources),
        "target": torch.cat(targets),
    }


def visible(group: Tensor, trace: Tensor) -> Tensor:
    """Which token (third dimension) each token (second) looks at: [b, s], [b, s] -> [b, s, s] bool.

    Those before it, of its group, in the prompt or in its own trace.
    """
    place = torch.arange(group.shape[1], device=group.device)
    same = group[:, :, None] == group[:, None]
    read = (trace[:, None] == 0) | (trace[:, :, None] == trace[:, None])
    return same & read & (place[:, None] >= place)


def attention_mask(batch: Batch, implementation: str, dtype: torch.dtype) -> Any:
    """The mask of a packed batch in the form that an attention implementation of transformers takes.

    Args:
        batch: of `pack`.
        implementation: `flex_attention`: a `BlockMask` [b, 1, s, s], whose empty blocks are not computed; `sdpa`,
            `eager`: [b, 1, s, s] in `dtype`, added to the scores.
        dtype: of the scores.

    Raises:
        InputError: another implementation, which takes no mask.
    """
    group, trace = batch["group"], batch["trace"]
    if implementation == "flex_attention":
        from torch.nn.attention.flex_attention import create_block_mask

        def may_read(row: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
            same = group[row, query] == group[row, key]
            read = (trace[row, key] == 0) | (trace[row, query] == trace[row, key])
            return same & read & (query >= key)

        rows, width = group.shape
        return create_block_mask(may_read, rows, None, width, width, device=str(group.device))
    if implementation not in ("sdpa", "eager"):
        raise InputError(
            f"datamodule.packing: attn_implementation={implementation} takes no mask of packed rows; set"
            " model.attn_implementation to flex_attention (GPU) or sdpa, or datamodule.packing=none"
        )
    hidden = ~visible(group, trace)[:, None]
    return torch.zeros_like(hidden, dtype=dtype).masked_fill_(hidden, torch.finfo(dtype).min)
