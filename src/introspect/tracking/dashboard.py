"""A W&B workspace and a report over a project's runs, as code: `python -m introspect.tracking.dashboard project=NAME`.

`entity=NAME` names the user or team, else the one that is logged in; `report=true` makes a report with the same panels,
as a draft, instead of a workspace; `name=…` is its title. Each call makes a new one: nothing that is there is changed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from introspect.core import command
from introspect.core.errors import InputError, first_line

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import Report
    from wandb_workspaces.workspaces import Workspace

CATEGORIES = ("object", "part", "material", "texture", "color", "scene")
PHASES = ("understanding", "planning", "monitoring", "correction", "verification")
_BY = "Group"  # runs are compared by their group: the study or the experiment


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        kind: `scatter`, `bar`, `line`, `parallel` or `media`.
        title: heading of the panel.
        metrics: what a bar or line plot shows; x and y of a scatter plot; the last axes of parallel coordinates.
        settings: config keys, the first axes of parallel coordinates.
        x: horizontal axis of a line plot; None is the step.
    """

    kind: str
    title: str
    metrics: tuple[str, ...]
    settings: tuple[str, ...] = ()
    x: str | None = None


# Names of metrics are those of docs/metrics.md and docs/dissection.md, as the runs log them.
SECTIONS: dict[str, tuple[Panel, ...]] = {
    "Reasoning": (
        Panel("scatter", "Accuracy and tokens", ("test/completion_tokens", "test/accuracy")),
        Panel("bar", "Accuracy, before and after", ("test/baseline/accuracy", "test/accuracy")),
        Panel("bar", "AES against the base", ("test/aes",)),
        Panel(
            "bar", "Degeneration rate, before and after", ("test/baseline/degeneration_rate", "test/degeneration_rate")
        ),
        Panel("scatter", "RRP: arrival of the answer, redundancy", ("test/rrp_rho", "test/rrp_delta")),
        Panel("bar", "Phases present", tuple(f"test/phase_{phase}_rate" for phase in PHASES)),
        Panel("bar", "MQI, before and after", ("test/baseline/mqi", "test/mqi")),
        Panel("line", "Accuracy of validation rollouts", ("val/accuracy",), x="epoch"),
        Panel("line", "Tokens of validation rollouts", ("val/completion_tokens",), x="epoch"),
        Panel("line", "Loss on the traces", ("train/loss", "val/loss")),
        Panel("media", "Completion tokens", ("test/histogram/model/completion_tokens",)),
    ),
    "Distillation": (
        Panel("bar", "Accuracy", ("test/accuracy",)),
        Panel("line", "Validation accuracy", ("val/accuracy",), x="epoch"),
        Panel("line", "Losses", ("train/loss", "train/loss/cross_entropy", "train/loss/logit")),
        Panel("bar", "Entropy of similar classes", ("test/class_entropy", "test/teacher_class_entropy")),
        Panel("bar", "Agreement with the teacher", ("test/logit_cka", "test/similarity_rank_correlation")),
    ),
    "Dissection": (
        Panel("bar", "Detectors by category", tuple(f"dissect/detectors/{category}" for category in CATEGORIES)),
        Panel("bar", "Detectors, unique concepts", ("dissect/detectors/total", "dissect/detectors/unique")),
        Panel(
            "bar",
            "Controls: rotated units, permuted labels",
            tuple(f"dissect/control/{name}/detectors/total" for name in ("rotation", "labels")),
        ),
        Panel("line", "Detectors during training", ("dissect/detectors/total",), x="epoch"),
        Panel("scatter", "Accuracy and detectors", ("test/accuracy", "dissect/detectors/total")),
        Panel("media", "IoU of all units", ("dissect/histogram/iou",)),
    ),
    "Sweep": (
        Panel(
            "parallel",
            "Settings of reasoning students",
            ("test/accuracy", "test/completion_tokens", "test/aes"),
            settings=("model/lr", "recipe/rollouts", "recipe/traces"),
        ),
        Panel(
            "parallel",
            "Settings of distilled students",
            ("test/accuracy", "dissect/detectors/total", "dissect/detectors/unique"),
            settings=("model/lr", "model/objective/temperature", "model/objective/alpha"),
        ),
    ),
    "System": (
        Panel("line", "Tokens per second", ("perf/tokens_per_second",)),
        Panel("line", "MFU: fraction of the GPU's peak FLOP/s", ("perf/mfu",)),
        Panel("line", "Learning rate", ("train/lr", "lr")),
        Panel("line", "Tokens read", ("train/tokens_seen", "train/supervised_tokens")),
    ),
}


@dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Attributes:
        project: the project at W&B.
        entity: the user or team; None is the one that is logged in.
        report: whether to make a report instead of a workspace.
        name: title of the workspace or report.
    """

    project: str
    entity: str | None = None
    report: bool = False
    name: str = "introspect"


def workspace(request: Request) -> Workspace:
    """Build the workspace, not yet saved: a section per topic, runs grouped by experiment.

    Raises:
        InputError: wandb-workspaces is not installed, or nobody is logged in and no entity is named.
    """
    import_library()
    import wandb_workspaces.workspaces as ws

    return ws.Workspace(
        project=request.project,
        entity=_entity(request),
        name=request.name,
        sections=[ws.Section(name=t, panels=_panels(p), is_open=t != "System") for t, p in SECTIONS.items()],
        runset_settings=ws.RunsetSettings(groupby=[ws.Metric(_BY)]),
    )


def report(request: Request) -> Report:
    """Build the report, not yet saved: a heading and a grid of panels per topic.

    Raises:
        InputError: as `workspace`.
    """
    import_library()
    import wandb_workspaces.reports.v2 as wr

    entity = _entity(request)
    runs = wr.Runset(entity=entity, project=request.project, groupby=[_BY])
    blocks: list[Any] = [wr.TableOfContents()]
    for title, panels in SECTIONS.items():
        blocks += [wr.H1(text=title), wr.PanelGrid(runsets=[runs], panels=_panels(panels))]
    return wr.Report(project=request.project, entity=entity, title=request.name, blocks=blocks, width="fluid")


def _panels(panels: Sequence[Panel]) -> list[Any]:
    """Build panels in two columns of a grid of 24."""
    import wandb_workspaces.reports.v2 as wr

    made = []
    for number, panel in enumerate(panels):
        layout = wr.Layout(x=12 * (number % 2), y=8 * (number // 2), w=12, h=8)
        summaries = [wr.SummaryMetric(name) for name in panel.metrics]
        means: dict[str, Any] = {"groupby": wr.Metric(_BY), "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
        title: dict[str, Any] = {"title": panel.title, "layout": layout}
        if panel.kind == "scatter":
            made.append(wr.ScatterPlot(x=summaries[0], y=summaries[1], **title))
        elif panel.kind == "bar":
            made.append(wr.BarPlot(metrics=list(panel.metrics), orientation="v", **means, **title))
        elif panel.kind == "line":
            over = {"x": panel.x} if panel.x else {}
            made.append(wr.LinePlot(y=list(panel.metrics), **means, **over, **title))
        elif panel.kind == "media":
            made.append(wr.MediaBrowser(media_keys=list(panel.metrics), **title))
        else:
            axes = [*(wr.Config(name) for name in panel.settings), *summaries]
            columns = [wr.ParallelCoordinatesPlotColumn(metric=axis) for axis in axes]
            made.append(wr.ParallelCoordinatesPlot(columns=columns, **title))
    return made


def import_library() -> None:
    """Raise InputError where wandb-workspaces is not installed."""
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError as error:
        raise InputError('dashboards need wandb-workspaces: pip install "introspect[dashboards]"') from error


def _entity(request: Request) -> str:
    """Return the entity that is named, or that of the account that is logged in."""
    if request.entity:
        return request.entity
    import wandb

    try:
        found = wandb.Api(timeout=20).default_entity
    except Exception as error:  # of several libraries
        raise InputError("nobody is logged in at W&B: `wandb login`, or name entity=… with WANDB_API_KEY") from error
    if not found:
        raise InputError("the W&B account has no default entity: name one, entity=…")
    return str(found)


def parse(arguments: Sequence[str]) -> Request:
    """Parse the options `key=value` of the command line.

    Raises:
        InputError: an option is unknown, has no value or one of another kind, or the project is missing.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    expected = "expected project=NAME, and maybe entity=NAME, report=true, name=TITLE"
    if faulty := [word for word in arguments if "=" not in word]:
        raise InputError(f"{faulty[0]}: {expected}")
    if not any(word.startswith("project=") for word in arguments):
        raise InputError(f"project is missing: {expected}")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Request), OmegaConf.from_dotlist(list(arguments)))
        found = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise InputError(f"{first_line(error)}; {expected}") from error
    assert isinstance(found, Request)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Save the workspace or the report and print its address."""
    words = sys.argv[1:] if arguments is None else arguments
    if list(words) in (["--help"], ["-h"]):
        sys.stdout.write(f"{__doc__}\n")
        return
    request = parse(words)
    made: Any = report(request) if request.report else workspace(request)
    try:
        made.save()
    except Exception as error:  # of several libraries: no network, no key, no such project
        reason = first_line(error)
        raise InputError(f"W&B did not take the {'report' if request.report else 'workspace'}: {reason}") from error
    sys.stdout.write(f"{made.url}\n")


if __name__ == "__main__":
    command.run(main)
