"""The data of a tuning run: examples, to traces by a recipe, to batches."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import tee
from pathlib import Path
from typing import Any, Literal, get_args

from torch.utils.data import DataLoader

from introspect.benchmarks.base import Benchmark
from introspect.benchmarks.examples import MultiHopExample
from introspect.chat.lazy import LazyChatModel, spent_by
from introspect.chat.protocol import ChatModel
from introspect.chat.templates import Conversation, TemplateChoice, load_tokenizer, pad_id
from introspect.core.distributed import SharedLoader, batches, processes
from introspect.core.errors import InputError
from introspect.core.files import write_json
from introspect.core.resuming import check_same, place
from introspect.synthesis.recipes.base import Models, Recipe
from introspect.synthesis.traces import Trace, TraceSet, load_traces, save_traces
from introspect.tuning.loading import GroupedDataset, LengthBucketSampler, ResumableLoader, SupervisedDataset, hold_out
from introspect.tuning.packing import Batch, Group, Packing, collate_groups
from introspect.tuning.questions import QuestionsDataModule
from introspect.tuning.supervision import Supervised, supervise_all

log = logging.getLogger(__name__)

Overlong = Literal["drop", "error"]


class TraceDataModule(QuestionsDataModule):
    """Makes the traces once (`prepare_data`), then serves them tokenised, masked and batched.

    `prepare_data` generates with student and teacher through the store, so that a run that was killed goes on where it
    stopped. It writes the traces to a Parquet file and their counts to `manifest.json` next to it. The validation loss
    is that of traces of examples that no training trace is about.

    Args:
        benchmark: where the questions come from.
        recipe: how a question becomes a trace.
        student: the untuned student that drafts, or a factory of it: then it is made when a recipe first needs it,
            and closed when the traces are made.
        teacher: the model that writes traces, or a factory of it.
        store: file in which every response is kept.
        tokenizer: model folder or hub id of the student's tokenizer, or the tokenizer itself.
        traces: Parquet file of the traces.
        export: folder for a copy of the traces under the published column names, as `datasets.load_dataset` reads it;
            None makes none.
        batch_size: sequences per step and device; with `packing=shared_prompt` as many questions as have about so many.
        packing: `shared_prompt` reads the prompt of several traces once (`introspect.tuning.packing`), `sequence`
            packs sequences into rows, `none` gives each a row. What is learnt is the same.
        row_tokens: tokens of a packed row; None takes the longest question of a batch with its traces.
        max_length: tokens; a longer conversation is never cut.
        overlong: what happens to it: `drop` leaves it out and counts it, `error` refuses to train.
        train_examples: how many training questions are used; None uses all.
        validation_examples: how many validation questions `examples("validation")` gives; None gives all.
        test_examples: how many test questions the student answers; None takes all.
        validation_share: fraction of the questions with traces whose traces are held out for the validation loss.
        chat_template: see `chat.templates.load_tokenizer`.
        revision: of a hub tokenizer.
        trust_remote_code: whether code that comes with the tokenizer may run.
        num_workers: processes that prepare batches; 0 prepares them in the training process.
        seed: decides what is held out and the order of training.
    """

    def __init__(
        self,
        *,
        benchmark: Benchmark,
        recipe: Recipe,
        student: ChatModel | Callable[[], ChatModel],
        teacher: ChatModel | Callable[[], ChatModel],
        store: str | Path,
        tokenizer: Any,
        traces: str | Path,
        export: str | Path | None = None,
        batch_size: int = 8,
        packing: Packing = "shared_prompt",
        row_tokens: int | None = None,
        max_length: int = 4096,
        overlong: Overlong = "drop",
        train_examples: int | None = None,
        validation_examples: int | None = None,
        test_examples: int | None = None,
        validation_share: float = 0.05,
        chat_template: TemplateChoice = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            benchmark,
            train_examples=train_examples,
            validation_examples=validation_examples,
            test_examples=test_examples,
        )
        self.prepare_data_per_node = False  # traces lie where all machines see them
        _check_settings(batch_size, packing, row_tokens, max_length, overlong, validation_share)
        self.recipe = recipe
        self.student = student
        self.teacher = teacher
        self.store = Path(store)
        self.traces = Path(traces)
        self.export = export
        self.batch_size = batch_size
        self.packing: Packing = packing
        self.row_tokens = row_tokens
        self.max_length = max_length
        self.overlong = overlong
        self.validation_share = validation_share
        self.num_workers = num_workers
        self.seed = seed
        self.counts: dict[str, int] = {}
        self._tokenizer = tokenizer
        self._load_tokenizer = partial(
            load_tokenizer, revision=revision, trust_remote_code=trust_remote_code, chat_template=chat_template
        )
        self._prepared = False
        self._train: SupervisedDataset | None = None
        self._validation: SupervisedDataset | None = None

    @property
    def tokenizer(self) -> Any:
        """The student's tokenizer, loaded when it is first needed."""
        if isinstance(self._tokenizer, str | Path):
            self._tokenizer = self._load_tokenizer(self._tokenizer)
        return self._tokenizer

    @property
    def trains(self) -> bool:
        """Whether there is anything to train on; a recipe may only prompt differently."""
        return self.recipe.trains

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The file of traces, which may be another run's."""
        return (self.traces,)

    @property
    def manifest(self) -> Path:
        """The JSON file with the number of traces and the reasons of rejections."""
        return self.traces.with_name("manifest.json")

    def prepare_data(self) -> None:
        """Make the traces. Lightning calls this in one process of each machine; a second call does nothing.

        Nothing is made for a test, which needs no traces, or by a recipe that does not train.

        Raises:
            InputError: there are no training questions, or no trace is left of them.
        """
        if self._prepared or not self.trains or (self.trainer is not None and self.trainer.testing):
            return
        from introspect.chat.store import ResponseStore

        reads = self.recipe.reads_questions
        examples = self.examples("train") if reads else []
        if reads and not examples:
            raise InputError(f"{self.benchmark.name}: there are no training questions")
        student, teacher = LazyChatModel(self.student), LazyChatModel(self.teacher)
        with ResponseStore(self.store) as store, closing(student), closing(teacher):
            made = self.recipe.synthesize(examples, Models(student, teacher, store))
            spent = spent_by(student=student, teacher=teacher)
        save_traces(made.traces, self.traces)
        self._report(made, len(examples) if reads else len({trace.example_id for trace in made.traces}), spent)
        if self.export is not None:
            self._export(self.export, made.traces, examples)
        self._prepared = True

    def _report(self, made: TraceSet, questions: int, spent: Mapping[str, float]) -> None:
        """Write the manifest; an InputError if there is nothing to train on."""
        rejections = dict(sorted(made.rejections.items()))
        self._write_manifest(
            {
                "benchmark": self.benchmark.name,
                "recipe": self.recipe.name,
                "settings": dict(self.recipe.settings),
                "examples": questions,
                "traces": len(made.traces),
                "rejections": rejections,
                **({"spent": dict(spent)} if spent else {}),
            }
        )
        reasons = ", ".join(f"{count} {reason}" for reason, count in rejections.items()) or "none"
        log.info("%d traces of %d questions; rejected: %s", len(made.traces), questions, reasons)
        if not made.traces:
            raise InputError(
                f"{self.traces}: no trace is left of {questions} {self.benchmark.name} questions with recipe"
                f" {self.recipe.name} (rejected: {reasons})"
            )

    def _export(self, folder: str | Path, traces: Sequence[Trace], examples: Sequence[MultiHopExample]) -> None:
        from introspect.synthesis.published import export_traces

        if self.recipe.kind is None:
            raise InputError(f"datamodule.export: recipe {self.recipe.name} makes no traces that could be exported")
        facts = {"data": self.benchmark.name, "recipe": self.recipe.name, **self.recipe.settings}
        export_traces(traces, examples, folder, kind=self.recipe.kind, facts=facts)

    def setup(self, stage: str | None = None) -> None:
        """Tokenise the traces and hold some out for the validation loss.

        Raises:
            InputError: the traces cannot be read, cannot be supervised, or are all longer than `max_length`.
        """
        if stage not in ("fit", "validate", None) or self._train is not None:
            return
        traces = load_traces(self.traces)
        held_out = hold_out([trace.example_id for trace in traces], self.validation_share, self.seed)
        self.counts = {"traces": len(traces), "overlong": 0}
        train = SupervisedDataset(self._supervised(t for t in traces if t.example_id not in held_out))
        validation = self._supervised(t for t in traces if t.example_id in held_out)
        # In order of length, so that batches are full of tokens and not of padding.
        self._validation = SupervisedDataset(sorted(validation, key=lambda item: len(item.input_ids)))
        self._train = train
        self._count()
        if not len(train):
            raise InputError(
                f"{self.traces}: no trace is left to train on: of {len(traces)}, {self.counts['overlong']} are longer"
                f" than max_length={self.max_length} tokens and {self.counts['validation']} are held out"
            )

    def train_dataloader(self) -> ResumableLoader:
        """Batches of like length in an order that only the seed and the epoch decide; resumes within an epoch."""
        assert self._train is not None
        trainer = self.trainer
        groups = GroupedDataset(self._train, by_prompt=self.packing == "shared_prompt")
        sampler = LengthBucketSampler(
            groups.lengths,
            # As many groups as have about as many sequences, however they are shared out.
            max(round(self._step * len(groups) / len(self._train)), 1),
            seed=self.seed,
            replicas=self._world_size,
            rank=trainer.global_rank if trainer else 0,
            shuffle=not (trainer and trainer.overfit_batches),  # type: ignore[attr-defined]
        )
        return ResumableLoader(
            groups,
            sampler,
            collate=self._collate,
            num_workers=self.num_workers,
            pin_memory=self._pin_memory,
            place=(lambda: place(trainer)) if trainer else None,
        )

    def val_dataloader(self) -> SharedLoader | list[Any]:
        """The held-out traces in order of length, each on one device; no loader where none are held out."""
        assert self._validation is not None
        if not len(self._validation):
            return []
        load = partial(
            DataLoader,
            GroupedDataset(self._validation, by_prompt=False),
            collate_fn=partial(collate_groups, pad_id=self.pad_id, packing="none"),
            num_workers=self.num_workers,
            pin_memory=self._pin_memory,
        )
        return SharedLoader(load, batches(len(self._validation), self.batch_size, *processes(self.trainer)))

    @property
    def _collate(self) -> Callable[[Sequence[Group]], Batch]:
        return partial(collate_groups, pad_id=self.pad_id, packing=self.packing, row_tokens=self.row_tokens)

    @property
    def pad_id(self) -> int:
        """The token that fills short sequences up; no attention and no loss sees it."""
        return pad_id(self.tokenizer)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must have in common with this one."""
        if self._train is None:
            return {}
        return {"fingerprint": self._train.fingerprint, "step": self._step, "packing": self.packing, "seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Check that a resumed run trains on the same tokens.

        Raises:
            InputError: the traces, their tokens, what is held out, the number of sequences in a step, how they are
                packed, or the seed of their order differ.
        """
        if self._train is None or not state:
            return
        now = self.state_dict()
        complaints = {
            "fingerprint": f"on other traces than {self.traces} now gives; resume with the same data, recipe,"
            " tokenizer, max_length and seed, or start from the exported student",
            "step": f"on {state['step']} sequences a step, not {now['step']}; resume with the same"
            " datamodule.batch_size and number of devices",
        } | {
            name: f"with datamodule.{name}={state[name]}, not {now[name]}, and its batches were others; resume with the"
            " same, or start from the exported student"
            for name in ("packing", "seed")
        }
        check_same(state, now, complaints)

    @property
    def _step(self) -> int:
        """Sequences of a step, of all processes together."""
        return self.batch_size * self._world_size

    @property
    def _world_size(self) -> int:
        return int(self.trainer.world_size) if self.trainer else 1

    @property
    def _pin_memory(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def _supervised(self, traces: Iterable[Trace]) -> Iterator[Supervised]:
        """The traces that fit, tokenised; the others are counted or refused."""
        chosen, named = tee(
            Conversation(f"{self.traces}: trace {t.example_id}/{t.rollout_id}/{t.trace_id}", t.messages, t.target)
            for t in traces
        )
        for conversation, item in zip(named, supervise_all(self.tokenizer, chosen), strict=True):
            length = len(item.input_ids)
            if length <= self.max_length:
                yield item
            elif self.overlong == "drop":
                self.counts["overlong"] += 1
            else:
                raise InputError(f"{conversation.name} has {length} tokens, more than max_length={self.max_length}")

    def _count(self) -> None:
        assert self._train is not None
        assert self._validation is not None
        tokens, prompts = int(self._train.lengths.sum()), int(self._train.prompts.sum())
        self.counts |= {
            "train": len(self._train),
            "validation": len(self._validation),
            "train_tokens": tokens,
            "train_supervised_tokens": tokens - prompts,
            "longest": max(self._train.lengths.tolist(), default=0),
        }
        log.info("tokenised traces: %s", ", ".join(f"{name} {count}" for name, count in self.counts.items()))
        if self.trainer is None or self.trainer.is_global_zero:
            known = json.loads(self.manifest.read_text(encoding="utf-8")) if self.manifest.is_file() else {}
            self._write_manifest({**known, "tokenised": {**self.counts, "max_length": self.max_length}})
            rejected = {f"rejected/{reason}": count for reason, count in known.get("rejections", {}).items()}
            shown = {f"traces/{name}": float(count) for name, count in {**rejected, **self.counts}.items()}
            shown |= {f"traces/{name}": number for name, number in known.get("spent", {}).items()}
            for logger in self.trainer.loggers if self.trainer else ():
                logger.log_metrics(shown, step=0)

    def _write_manifest(self, content: Mapping[str, Any]) -> None:
        write_json(self.manifest, content)


def _check_settings(
    batch_size: int, packing: str, row_tokens: int | None, max_length: int, overlong: str, validation_share: float
) -> None:
    faults = []
    if packing not in get_args(Packing):
        faults.append(f"packing is {packing!r}, expected {', '.join(get_args(Packing))}")
    if row_tokens is not None and row_tokens < 2:
        faults.append(f"row_tokens is {row_tokens}, expected 2 or more tokens, or null")
    if batch_size < 1:
        faults.append(f"batch_size is {batch_size}, expected 1 or more")
    if max_length < 2:
        faults.append(f"max_length is {max_length}, expected 2 or more tokens")
    if overlong not in get_args(Overlong):
        faults.append(f"overlong is {overlong!r}, expected {' or '.join(get_args(Overlong))}")
    if not 0 <= validation_share < 1:
        faults.append(f"validation_share is {validation_share}, expected 0 or more and less than 1")
    if faults:
        raise InputError("datamodule: " + "; ".join(faults))
