"""The specification of workspaces and reports, without a server."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from introspect.core.errors import InputError
from introspect.tracking.config import resolved_config
from introspect.tracking.dashboard import SECTIONS, Request, main, parse, report, workspace
from tests.composing import CONFIGS, compose_config

REQUEST = Request("project", entity="team", name="Title")
SHOWN = {name for panels in SECTIONS.values() for panel in panels for name in panel.metrics}


@pytest.fixture
def library() -> None:
    pytest.importorskip("wandb_workspaces", reason="an extra for users, of the dev group")


def spec(made: Any) -> dict[str, Any]:
    return json.loads(made._to_model().model_dump_json(by_alias=True))["spec"]


@pytest.mark.usefixtures("library")
def test_a_workspace_has_every_panel_of_every_section() -> None:
    made = spec(workspace(REQUEST))

    sections = made["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == list(SECTIONS)
    for section, panels in zip(sections, SECTIONS.values(), strict=True):
        assert len(section["panels"]) == len(panels)
        for panel, expected in zip(section["panels"], panels, strict=True):
            text = json.dumps(panel)
            assert expected.title in text
            assert all(name in text for name in (*expected.metrics, *expected.settings))
        places = [(panel["layout"]["x"], panel["layout"]["y"]) for panel in section["panels"]]
        assert len(set(places)) == len(places)
    assert made["section"]["runSets"][0]["grouping"] == [{"section": "run", "name": "group"}]


@pytest.mark.usefixtures("library")
def test_a_report_has_a_grid_under_each_heading() -> None:
    from wandb_workspaces.reports import v2 as wr

    made = report(REQUEST)

    assert (made.title, made.entity, made.project) == ("Title", "team", "project")
    assert [block.text for block in made.blocks if isinstance(block, wr.H1)] == list(SECTIONS)
    grids = [block for block in made.blocks if isinstance(block, wr.PanelGrid)]
    assert [len(grid.panels) for grid in grids] == [len(panels) for panels in SECTIONS.values()]
    assert {(grid.runsets[0].entity, grid.runsets[0].project) for grid in grids} == {("team", "project")}


def test_concept_detectors_are_those_of_a_sweeps_table() -> None:
    known = OmegaConf.load(CONFIGS / "hydra" / "default.yaml").callbacks.study.metrics
    assert {name for name in SHOWN if name.startswith("dissect/") and "histogram" not in name} <= set(known)


@pytest.mark.parametrize(("panel", "experiment"), [(0, "mbt_r"), (1, "kd")])
def test_settings_of_a_sweep_are_settings(tmp_path: Path, panel: int, experiment: str) -> None:
    cfg = resolved_config(compose_config("train", [f"experiment={experiment}"], tmp_path))
    for name in SECTIONS["Sweep"][panel].settings:
        value: Any = cfg
        for key in name.split("/"):
            assert key in value, name
            value = value[key]


def test_options() -> None:
    assert parse(["project=a", "report=true", "name=A b", "entity=c"]) == Request("a", "c", True, "A b")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "^project is missing: expected project=NAME"),
        (["logs/"], "^logs/: expected project=NAME"),
        (["project=a", "panels=3"], "'panels'"),
        (["project=a", "report=maybe"], "maybe"),
    ],
)
def test_options_that_are_wrong(arguments: list[str], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint) as caught:
        parse(arguments)
    assert "\n" not in str(caught.value)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(InputError, match=r'pip install "introspect\[dashboards\]"'):
        workspace(REQUEST)


@pytest.mark.usefixtures("library")
def test_what_the_server_says_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from wandb_workspaces.workspaces import Workspace

    saved: list[Workspace] = []
    monkeypatch.setattr(Workspace, "save", lambda self: saved.append(self))
    monkeypatch.setattr(Workspace, "url", "https://example.org/team/project")
    main(["project=project", "entity=team"])
    assert capsys.readouterr().out == "https://example.org/team/project\n"
    assert saved[0].project == "project"

    def fail(self: Workspace) -> None:
        raise ConnectionError("no network\nand more")

    monkeypatch.setattr(Workspace, "save", fail)
    with pytest.raises(InputError, match=r"^W&B did not take the workspace: no network$"):
        main(["project=project", "entity=team"])
