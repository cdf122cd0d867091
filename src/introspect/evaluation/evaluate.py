"""What `evaluate.py` does: any student on any benchmark, beside a baseline; or saved rollouts, without a model."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from introspect.assets import asset
from introspect.benchmarks.base import Benchmark
from introspect.benchmarks.examples import MultiHopExample
from introspect.chat.prompts import Style, check_style
from introspect.chat.protocol import ChatModel, Sampling
from introspect.chat.store import ResponseStore
from introspect.core.errors import InputError
from introspect.core.inference import chosen_device
from introspect.evaluation.judging.running import Examples, Judging
from introspect.evaluation.rollouts import Rollout, failed_requests, load_rollouts
from introspect.evaluation.testing import Failures, flat, report, rollout, save_runs

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

log = logging.getLogger(__name__)

AUTO = "auto"

# Makes the chat model of the folder, the hub id or, on a server, the name that is given to it as `name_or_path`.
Engine = Callable[..., ChatModel]


class Opened(NamedTuple):
    """A chat model, and the folder or hub id of the model that it was tuned from, where that is known."""

    model: ChatModel
    base: str | None


class Runs(NamedTuple):
    """Rollouts of a model and of its baseline, if there is one."""

    baseline: list[Rollout] | None
    model: list[Rollout]


def measure(
    *,
    ckpt_path: str | None,
    benchmark: Benchmark,
    folder: str | Path,
    store: str | Path,
    baseline: str | None = AUTO,
    rescore: str | None = None,
    split: str = "test",
    questions: int | None = None,
    samples: int = 1,
    sampling: Sampling | None = None,
    prompt: Style = "plain",
    engine: Engine | None = None,
    judging: Judging | None = None,
    load_checkpoint: Callable[..., Any] | None = None,
    export: str | Path | None = None,
    export_rollouts: Callable[..., object] | None = None,
    table_rows: int = 100,
    loggers: Iterable[Logger] = (),
) -> dict[str, float]:
    """Measure a student beside its baseline, let a judge read what they said, and report.

    Args:
        ckpt_path: the student: a checkpoint (.ckpt), a model folder, a hub id, or a model's name at a server.
        benchmark: where the questions come from.
        folder: where `metrics.json` and `rollouts/` go.
        store: file of all responses; what it holds is not generated again.
        baseline: as `ckpt_path`; `auto` takes the model that the student was tuned from, if that is known; None
            measures the student alone.
        rescore: saved rollouts to be scored again, without any model: a Parquet file, or the folder of a run with its
            `rollouts/`. `baseline` is then such a file too.
        split: of the benchmark.
        questions: how many of them; None takes all.
        samples: answers per question.
        sampling: how they are drawn; None is the paper's way.
        prompt: how the student is asked, `plain` or `metacognitive` with a system turn that prescribes the five phases.
            The baseline is asked plainly; `auto` takes the student itself, where nothing is known of its origin.
        engine: what lets the models answer, as a `functools.partial`; None is `TransformersChat.from_pretrained`. A
            checkpoint is run by that alone.
        judging: how the rollouts are judged, when all are made; None leaves it out. A judge that reads the benchmark's
            items finds those of saved rollouts by their ids.
        load_checkpoint: opens a checkpoint of a training: `introspect.tuning.student.load_student`.
        export: folder for a copy of the student's rollouts under the published column names, as `datasets.load_dataset`
            reads it; None makes none.
        export_rollouts: writes that copy: `introspect.synthesis.published.export_rollouts`.
        table_rows: questions in the W&B table at most; 0 logs none.
        loggers: of the run.

    Returns:
        `test/accuracy`, … of the student and `test/baseline/accuracy`, … of the baseline.

    Raises:
        InputError: there is neither student nor saved rollouts, one of them can not be read, or there are no questions.
    """
    examples: Examples
    style = check_style(prompt, "evaluation.prompt")
    if rescore is not None:
        runs, failures = saved_runs(rescore, baseline), saved_failures(rescore, baseline)
        examples = partial(benchmark.load, split)
    elif ckpt_path is None:
        raise InputError("ckpt_path is required: a checkpoint, a model folder or a hub id; or give rollouts=…")
    else:
        asked = benchmark.load(split, questions)
        if not asked:
            raise InputError(f"{benchmark.name}: there are no {split} questions")
        asking = _Asking(asked, store, samples, sampling, style, engine, load_checkpoint)
        runs = asking.runs(ckpt_path, baseline)
        failures, examples = Failures().plus(samples * len(asked), *runs), lambda: asked
    if export is not None:
        if export_rollouts is None:
            raise InputError("evaluation.export: evaluation.export_rollouts is null; nothing can write that folder")
        facts = {"data": benchmark.name, "student": ckpt_path or rescore, "prompt": style}
        export_rollouts(runs.model, list(examples()), export, split=split, facts=facts, prompt=style)
    verdicts = None
    if judging is not None and judging.judge is not None:
        save_runs(folder, runs.baseline, runs.model, failures)
        try:
            verdicts = judging.judge_runs(runs.baseline, runs.model, examples)
        finally:
            judging.close()
    comparison = report(
        runs.baseline, runs.model, folder, loggers, verdicts=verdicts, failures=failures, table_rows=table_rows
    )
    metrics = {f"test/{name}": float(value) for name, value in flat(comparison).items()}
    metrics |= {f"test/judge/{name}": number for name, number in (judging.spent() if judging else {}).items()}
    for logger in loggers:
        logger.log_metrics(metrics)
        logger.save()
    return metrics


@dataclass(frozen=True, slots=True)
class _Asking:
    """Putting the questions to models. Models are let go when they have answered: there may be room for one only."""

    examples: Sequence[MultiHopExample]
    store: str | Path
    samples: int
    sampling: Sampling | None
    prompt: Style
    engine: Engine | None
    load_checkpoint: Callable[..., Any] | None

    def runs(self, ckpt_path: str, baseline: str | None) -> Runs:
        """Let the student answer, and its baseline if there is one."""
        student = open_model(ckpt_path, self.engine, self.load_checkpoint)
        origin = student.base or (None if self.prompt == "plain" else ckpt_path)
        base = origin if baseline == AUTO else baseline
        if base is None and baseline == AUTO:
            log.warning("what %s was tuned from is not known here: no baseline; give baseline=…", ckpt_path)
        answered = self._rollouts(student.model, "student answers", self.prompt)
        del student
        if base is None:
            return Runs(None, answered)
        log.info("the baseline is %s", base)
        engine = self.engine if base == ckpt_path else _newest(self.engine)
        before = open_model(base, engine, self.load_checkpoint).model
        return Runs(self._rollouts(before, "baseline answers", "plain"), answered)

    def _rollouts(self, model: ChatModel, description: str, prompt: Style) -> list[Rollout]:
        options: dict[str, Any] = {"samples": self.samples, "sampling": self.sampling, "prompt": prompt}
        try:
            with ResponseStore(self.store) as kept:
                return rollout(model, self.examples, store=kept, description=description, **options)
        finally:
            model.close()


def _newest(engine: Engine | None) -> Engine | None:
    """The engine for another model than the one whose revision it was told."""
    return partial(engine, revision=None) if isinstance(engine, partial) and "revision" in engine.keywords else engine


def open_model(source: str, engine: Engine | None = None, load_checkpoint: Callable[..., Any] | None = None) -> Opened:
    """The chat model of a checkpoint, a model folder, a hub id, or a name at a server.

    Args:
        source: where it is.
        engine: as of `measure`. A checkpoint knows its own number format and origin: of the engine's options it takes
            `batch_size`, `max_new_tokens`, `device` and `trust_remote_code`.
        load_checkpoint: as of `measure`.

    Raises:
        InputError: it can not be loaded, or the engine runs no checkpoints.
    """
    from introspect.chat.local.transformers import TransformersChat
    from introspect.chat.remote.openai import OpenAIChat

    own = TransformersChat.from_pretrained
    made = engine if isinstance(engine, partial) else partial(engine or own)
    if Path(source).suffix != ".ckpt" and not Path(source).is_file():
        model = made(name_or_path=source)
        # The names of a server elsewhere are its own: they say nothing about folders here.
        is_elsewhere = isinstance(model, OpenAIChat) and model.server is None
        return Opened(model, None if is_elsewhere else base_of(Path(source)))
    if made.func != own:
        raise InputError(
            f"{source}: only engine=transformers runs a checkpoint: give the folder that was exported beside it, or"
            " export it with ReasoningStudent.export"
        )
    if load_checkpoint is None:
        raise InputError(
            f"{source}: a checkpoint of a training; evaluation.load_checkpoint names nothing that opens it"
        )
    options = made.keywords
    trusted = bool(options.get("trust_remote_code", False))
    student = load_checkpoint(source, trust_remote_code=trusted).to(chosen_device(options.get("device", AUTO)))
    base = None if student.hparams["architecture"] else student.hparams["model"]
    chosen = {name: options[name] for name in ("batch_size", "max_new_tokens") if name in options}
    return Opened(student.chat_model(**chosen), base)


def base_of(folder: Path) -> str | None:
    """The model that the one in a folder was tuned from, as its model card tells; None if it does not."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    text = card.read_text(encoding="utf-8")
    if named := re.search(r"^base_model: *['\"]?([\w./-]+)", text, re.MULTILINE):
        return named[1]
    if embedded := re.search(r"^- base model: ([\w.-]+)$", text, re.MULTILINE):
        try:
            return asset(embedded[1])
        except InputError:
            return None
    return None


def saved_runs(model: str | Path, baseline: str | Path | None = AUTO) -> Runs:
    """The rollouts of Parquet files, or of runs' folders with `rollouts/{model,baseline}.parquet`.

    Args:
        model: a file, or a run's folder.
        baseline: another one, whose model is the baseline; `auto` takes the one in the same folder, if `model` is a
            folder; None takes none.

    Raises:
        InputError: there are none, or they are not rollouts.
    """
    before, after = _saved_files(model, baseline)
    return Runs(None if before is None else load_rollouts(before), load_rollouts(after))


def saved_failures(model: str | Path, baseline: str | Path | None = AUTO) -> Failures:
    """How many requests of the same runs were never answered; the arguments are those of `saved_runs`."""
    before, after = _saved_files(model, baseline)
    return Failures(0 if before is None else failed_requests(before), failed_requests(after))


def _saved_files(model: str | Path, baseline: str | Path | None) -> tuple[Path | None, Path]:
    path = _rollouts_file(model)
    beside = path.with_name("baseline.parquet")
    if baseline == AUTO:
        baseline = beside if Path(model).is_dir() and beside.is_file() else None
    return None if baseline is None else _rollouts_file(baseline), path


def _rollouts_file(source: str | Path) -> Path:
    path = Path(source)
    if not path.is_dir():
        return path
    return (path / "rollouts" if (path / "rollouts").is_dir() else path) / "model.parquet"
