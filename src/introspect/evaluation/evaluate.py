"""What `evaluate.py` does: any student on any benchmark, with a baseline; or saved rollouts, without a model."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from introspect.benchmarks.base import Benchmark
from introspect.benchmarks.examples import MultiHopExample
from introspect.chat.prompts import Style, check_style
from introspect.chat.protocol import ChatModel, Sampling
from introspect.core.errors import InputError
from introspect.evaluation.generation import EvaluationSettings
from introspect.evaluation.judging.running import Examples, Judging
from introspect.evaluation.report import write_report
from introspect.evaluation.rollouts import Rollout
from introspect.evaluation.runs import AUTO, Runs
from introspect.evaluation.students import Engine, LoadCheckpoint, open_model

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

log = logging.getLogger(__name__)


class ExportRollouts(Protocol):
    """Writes rollouts under the published column names, as `introspect.synthesis.published.export_rollouts` does."""

    def __call__(
        self,
        rollouts: Sequence[Rollout],
        examples: Sequence[MultiHopExample],
        folder: str | Path,
        *,
        split: str,
        facts: dict[str, str | None],
        prompt: Style,
    ) -> object:
        """Write the folder; `facts` are listed in its README."""
        ...


def evaluate(
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
    load_checkpoint: LoadCheckpoint | None = None,
    export: str | Path | None = None,
    export_rollouts: ExportRollouts | None = None,
    table_rows: int = 100,
    loggers: Iterable[Logger] = (),
) -> dict[str, float]:
    """Evaluate a student and its baseline: let them answer, let a judge read what they said, and report.

    Args:
        ckpt_path: the student: a checkpoint (.ckpt), a model folder, a hub id, or a model's name at a server.
        benchmark: where the questions come from.
        folder: where `metrics.json` and `rollouts/` go.
        store: file of all responses; what it holds is not generated again.
        baseline: as `ckpt_path`; `auto` takes the model that the student was tuned from, if that is known; None
            evaluates the student alone.
        rescore: saved rollouts to be scored again, without any model: a Parquet file, or the folder of a run with its
            `rollouts/`. `baseline` is then such a file too.
        split: of the benchmark.
        questions: how many of them; None takes all.
        samples: answers per question.
        sampling: how they are drawn; None takes the paper's settings.
        prompt: how the student is prompted, `plain` or `metacognitive` with a system turn that prescribes the five
            phases. The baseline is prompted plainly; `auto` takes the student itself, where its origin is unknown.
        engine: what lets the models answer, as a `functools.partial`; None is `TransformersChat.from_pretrained`. Only
            that runs a checkpoint.
        judging: how the rollouts are judged, when all are made; None leaves it out. A judge that reads the benchmark's
            items finds those of saved rollouts by their ids.
        load_checkpoint: opens a checkpoint of a training.
        export: folder for a copy of the student's rollouts under the published column names, as `datasets.load_dataset`
            reads it; None makes none.
        export_rollouts: writes that copy.
        table_rows: questions in the W&B table at most; 0 logs none.
        loggers: of the run.

    Returns:
        `test/accuracy`, … of the student and `test/baseline/accuracy`, … of the baseline.

    Raises:
        InputError: there is neither student nor saved rollouts, one of them cannot be read, or there are no questions.
    """
    examples: Examples
    style = check_style(prompt, "evaluation.prompt")
    if rescore is not None:
        runs, examples = Runs.load(rescore, baseline), partial(benchmark.load, split)
    elif ckpt_path is None:
        raise InputError("ckpt_path is required: a checkpoint, a model folder or a hub id; or give rollouts=…")
    else:
        asked = benchmark.load(split, questions)
        if not asked:
            raise InputError(f"{benchmark.name}: there are no {split} questions")
        settings = EvaluationSettings(sampling or Sampling(), samples, store, prompt=style)
        runs, examples = _generate(settings, asked, ckpt_path, baseline, engine, load_checkpoint), lambda: asked
    if export is not None:
        if export_rollouts is None:
            raise InputError("evaluation.export: evaluation.export_rollouts is null; nothing can write that folder")
        facts = {"data": benchmark.name, "student": ckpt_path or rescore, "prompt": style}
        export_rollouts(runs.model, list(examples()), export, split=split, facts=facts, prompt=style)
    judged = None
    if judging is not None and judging.judge is not None:
        runs.save(folder)  # a judge that fails costs no rollout
        try:
            judged = judging.judge_runs(runs.baseline, runs.model, examples)
        finally:
            judging.close()
    numbers = write_report(runs, folder, loggers, judged=judged, table_rows=table_rows)
    metrics = {f"test/{name}": number for name, number in numbers.items()}
    metrics |= {f"test/judge/{name}": number for name, number in (judging.spent() if judging else {}).items()}
    return metrics


def _generate(
    settings: EvaluationSettings,
    examples: Sequence[MultiHopExample],
    ckpt_path: str,
    baseline: str | None,
    engine: Engine | None,
    load_checkpoint: LoadCheckpoint | None,
) -> Runs:
    """Let the student answer, and its baseline if there is one; one is released before the other is opened."""

    def generate(model: ChatModel, description: str, prompt: Style) -> list[Rollout]:
        try:
            return settings.generate(model, examples, description, prompt=prompt)
        finally:
            model.close()

    student = open_model(ckpt_path, engine, load_checkpoint)
    origin = student.base or (None if settings.prompt == "plain" else ckpt_path)
    base = origin if baseline == AUTO else baseline
    if base is None and baseline == AUTO:
        log.warning("what %s was tuned from is not known here: no baseline; give baseline=…", ckpt_path)
    answered = generate(student.model, "student answers", settings.prompt)
    del student  # there may be room for one model only
    before = None
    if base is not None:
        log.info("the baseline is %s", base)
        opened = open_model(base, engine if base == ckpt_path else _newest(engine), load_checkpoint)
        before = generate(opened.model, "baseline answers", "plain")
    return Runs.of(settings.samples * len(examples), answered, before)


def _newest(engine: Engine | None) -> Engine | None:
    """Drop the revision from an engine, which is that of the student, for another model."""
    return partial(engine, revision=None) if isinstance(engine, partial) and "revision" in engine.keywords else engine
