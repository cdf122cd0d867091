"""The HTML report, also in a browser."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from introspect.dissection.report import write_report
from introspect.dissection.report.pictures import outlined, pictures
from introspect.dissection.report.tables import log_units
from introspect.dissection.result import Dissection, Examples
from introspect.tracking.loggers import finish_wandb, wandb_logger
from tests.browsing import HOSTILE, opened
from tests.dissection.made import Made, dissection


def dissected() -> tuple[Dissection, Made]:
    """Unit 0 detects a label with a hostile name (IoU 1), 1 `zebra` (0.5), 2 `apple-c` (0.25), and 3 nothing."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(256, (3, 40, 60), generator=generator, dtype=torch.uint8) for _ in range(3)]
    concepts = Made(
        [torch.ones(1, 10, 10)] * 3,
        categories={"object": [1, 2], "color": [3]},
        images=images,
        names={1: HOSTILE, 2: "zebra", 3: "apple-c"},
    )
    intersections = torch.tensor([[0, 8, 0, 0], [0, 0, 8, 0], [0, 0, 0, 8], [0, 0, 0, 0]])
    areas = torch.tensor([[8, 0], [12, 0], [0, 20], [5, 5]])
    maps = torch.zeros(4, 2, 2, 2)
    maps[..., 0, 0] = 4.0
    examples = Examples(torch.tensor([[0, 1], [1, 2], [2, 0], [0, 1]]), torch.full((4, 2), 4.0), maps)
    pixels = torch.tensor([0, 8, 12, 20])
    found = dissection(concepts, intersections, areas, pixels, layer="layer<4>", examples=examples)
    return found, concepts


def test_labels_are_escaped(tmp_path: Path) -> None:
    found, concepts = dissected()
    write_report(found, concepts, tmp_path / "sub/report.html")
    text = (tmp_path / "sub/report.html").read_text()
    assert "<script>document.title" not in text
    assert "<img src=x" not in text
    assert "&lt;script&gt;document.title" in text
    assert text.count("data:image/jpeg;base64,") == 6
    assert "http://" not in text
    assert "https://" not in text


def test_the_region_is_outlined() -> None:
    maps = torch.zeros(4, 4)
    maps[0, 0] = 4.0
    picture = outlined(torch.full((3, 32, 32), 200, dtype=torch.uint8), maps, 2.0)
    pixels = torch.from_numpy(np.array(picture)).int()
    outside = torch.tensor([90, 90, 90], dtype=torch.int32)
    assert torch.equal(pixels[31, 31], outside)
    assert torch.equal(pixels[1, 1], torch.tensor([200, 200, 200], dtype=torch.int32))
    line = (pixels == torch.tensor([255, 221, 0])).all(-1)
    assert line.any()
    assert not line[16:].any()


def test_pictures_read_each_image_once() -> None:
    found, concepts = dissected()
    read: list[int] = []

    class Counting(Made):
        def __getitem__(self, index: int):
            read.append(index)
            return super().__getitem__(index)

    concepts.__class__ = Counting
    shown = pictures(found, concepts, [0, 1])
    assert sorted(read) == [0, 1, 2]
    assert [[picture.name for picture in shown[unit]] for unit in (0, 1)] == [
        ["image 0", "image 1"],
        ["image 1", "image 2"],
    ]


def test_without_examples_there_are_no_pictures(tmp_path: Path) -> None:
    found, concepts = dissected()
    bare = Dissection(**{**found.__dict__, "examples": None})
    write_report(bare, concepts, tmp_path / "report.html")
    assert "data:image" not in (tmp_path / "report.html").read_text()


@pytest.mark.browser
def test_in_a_browser(tmp_path: Path) -> None:
    found, concepts = dissected()
    write_report(found, concepts, tmp_path / "report.html")
    with opened(tmp_path / "report.html") as found:
        page = found.page

        def units() -> list[str]:
            return page.eval_on_selector_all("#units tbody tr:not([hidden])", "rows => rows.map(r => r.dataset.unit)")

        assert page.title() == "layer<4>: 3 concept detectors"
        assert units() == ["0", "1", "2"]
        page.click("th[data-key=iou] button")
        assert units() == ["2", "1", "0"]
        assert page.get_attribute("th[data-key=iou]", "aria-sort") == "ascending"
        page.click("th[data-key=label] button")
        assert units() == ["0", "2", "1"]
        page.click("th[data-key=label] button")
        assert units() == ["1", "2", "0"]
        page.click("th[data-key=unit] button")
        assert units() == ["0", "1", "2"]
        page.fill("#concept", "ZEB")
        assert units() == ["1"]
        assert page.inner_text("#shown") == "1 of 3 units"
        page.fill("#concept", "")
        page.select_option("#category", "color")
        assert units() == ["2"]
        page.select_option("#category", "")
        assert page.inner_text("tr[data-unit='0'] td.label") == HOSTILE
        assert page.title() == "layer<4>: 3 concept detectors"
        widths = page.eval_on_selector_all(
            "td.images img", "all => all.map(i => (i.loading = 'eager', i.naturalWidth))"
        )
        assert len(widths) == 6
        page.wait_for_function("[...document.querySelectorAll('td.images img')].every(i => i.naturalWidth === 128)")


def test_wandb_gets_a_chart_and_the_units_with_their_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    found, concepts = dissected()
    log_units([wandb_logger(project="p", save_dir=tmp_path)], found, concepts, 2, "dissect")
    finish_wandb()
    [media] = tmp_path.glob("wandb/offline-run-*/files/media")
    [chart] = media.glob("table/dissect/by_category_table*.json")
    assert json.loads(chart.read_text())["data"] == [["object", 2], ["color", 1]]
    [units] = media.glob("table/dissect/units*.json")
    content = json.loads(units.read_text())
    assert content["columns"] == ["unit", "concept", "category", "IoU", "image 1", "image 2"]
    assert [row[0] for row in content["data"]] == [0, 1]
    assert content["data"][1][1:3] == ["zebra", "object"]
    assert content["data"][1][3] == pytest.approx(0.5)
    # W&B keeps the pictures themselves in the table's artifact.
    assert [row[4:] for row in content["data"]] == [["Image", "Image"]] * 2
