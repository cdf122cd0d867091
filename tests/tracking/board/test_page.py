"""The page, also in a browser."""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from introspect.core.errors import InputError
from introspect.tracking.board.__main__ import ROLLOUTS, main
from introspect.tracking.board.page import write_board
from tests.browsing import HOSTILE, Opened, opened
from tests.tracking.board.made import PLANNED, curves, hydra, image_run, reasoning_run, rollout

DRAFT = "Okay, the king of Rome.\n\nNuma was one. Wait, was Numa the king? Maybe it is Ancus."
CHARTS = "plane aes degeneration rrp phases curve-0 curve-1 accuracy trade detectors iou".split()


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two experiments on questions, one on images, a run that broke and one that did not end."""
    root = tmp_path_factory.mktemp("board") / "logs"
    base = [rollout(0, DRAFT, "Ancus", completion_tokens=90), rollout(1), rollout(2, DRAFT, "")]
    tuned = [rollout(number) for number in range(3)]
    for seed in (1, 2):
        folder = reasoning_run(root / f"mbt-{seed}", seed=seed, tags=("day",), base=base, tuned=tuned, judged=seed == 1)
        curves(folder, [{"step": step, "train/loss": 9 - step, "val/accuracy": step / 9} for step in range(9)])
    reasoning_run(root / "grpo", "grpo", accuracy=(0.4, 0.6), tags=("night",), tuned=[rollout(7, HOSTILE, HOSTILE)])
    image_run(root / "kd <b>", "kd", concept=HOSTILE, tags=(HOSTILE,))
    image_run(root / "scratch", "scratch", accuracy=0.7)
    hydra(root / "stopped", "mbt_r", seed=3)
    broken = reasoning_run(root / "broken", HOSTILE, accuracy=(0.1, 0.2))
    (broken / "metrics.json").write_text(HOSTILE)
    write_board(root, root / "board.html", rollouts=ROLLOUTS)
    return root / "board.html"


def ready(found: Opened) -> Any:
    found.page.wait_for_selector("html[data-ready]")
    return found.page


def rows(page: Any, column: int = 1, table: str = "overview") -> list[str]:
    cells = page.query_selector_all(f"#{table} tbody td:nth-child({column})")
    return [cell.inner_text().split("\n")[0] for cell in cells]


def names(page: Any) -> list[str]:
    return [element.inner_text() for element in page.query_selector_all("#overview td.name > span:first-child")]


def test_no_text_of_a_run_is_markup(board: Path) -> None:
    text = board.read_text()
    assert "taken over" not in html.unescape(re.sub(r"[A-Za-z0-9+/=]{200,}", "", text))
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text)
    assert "unsafe-inline' " not in re.search(r"script-src[^;]*", text)[0]
    assert "unsafe-eval" not in text


def test_equal_rollouts_are_stored_once(board: Path) -> None:
    blobs = re.findall(r'id="blob-(t\w+)"', board.read_text())
    # Bases and tuned ones of the judged run and of the other, whose base is the same but for the judgments; grpo's.
    assert len(blobs) == len(set(blobs)) == 5


def test_the_command(board: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(board.parent), "--output", str(tmp_path / "sub/page.html"), "--rollouts", "1"])
    assert re.search(r"open .*sub/page\.html in a browser \(\d\.\d MB\)", capsys.readouterr().out)
    assert list((tmp_path / "sub").iterdir()) == [tmp_path / "sub/page.html"]
    with pytest.raises(InputError, match="--rollouts is 0, expected 1 or more"):
        main([str(board.parent), "--rollouts", "0"])
    with pytest.raises(InputError, match="there is no run in it"):
        main([str(tmp_path / "sub")])


@pytest.mark.browser
def test_the_overview_is_sorted_and_filtered(board: Path) -> None:
    with opened(board) as found:
        page = ready(found)
        assert names(page) == ["broken", "grpo", "kd <b>", "mbt-1", "mbt-2", "scratch", "stopped"]
        assert page.inner_text("#shown") == "7 of 7 runs, 1 unfinished, 1 broken"
        assert rows(page, 3) == ["✗ broken", *["✓ finished"] * 5, "… unfinished"]
        assert found.texts("#overview .reason")[0].startswith("metrics.json: is not JSON")
        assert "no metrics.json" in found.texts("#overview .reason")[1]
        page.click("#overview th:has-text('accuracy') button")
        assert names(page)[:3] == ["mbt-1", "mbt-2", "kd <b>"]
        assert page.get_attribute("#overview th:has-text('accuracy')", "aria-sort") == "descending"
        page.click("#overview th:has-text('accuracy') button")
        assert names(page)[:3] == ["grpo", "scratch", "kd <b>"]
        assert names(page)[-2:] == ["broken", "stopped"]
        page.select_option("#seed", label="2")
        assert names(page) == ["mbt-2"]
        page.select_option("#seed", label="all")
        page.select_option("#tag", label="day")
        assert names(page) == ["mbt-1", "mbt-2"]
        page.click("#clear")
        found.until("document.querySelectorAll('#overview tbody tr').length === 7")
        page.click("#experiments button:has-text('grpo')")
        assert names(page) == ["grpo"]
        page.click("#experiments button:has-text('grpo')")
        page.fill("#search", "SEED=3")
        found.until("document.querySelectorAll('#overview tbody tr').length === 1")
        assert names(page) == ["stopped"]
        page.fill("#search", "")
        page.select_option("#status", "broken")
        assert names(page) == ["broken"]


@pytest.mark.browser
def test_every_chart_is_drawn_and_follows_the_filters(board: Path) -> None:
    with opened(board) as found:
        page = ready(found)
        drawn = "ids => ids.filter(id => document.querySelector(`#${id} .main-svg`))"
        assert page.evaluate(drawn, CHARTS) == CHARTS
        plane = page.evaluate("document.getElementById('plane').data.map(t => [t.name, t.x, t.y])")
        assert plane == [
            ["grpo", [150, 400, None], [0.6, 0.4, None]],
            ["mbt_r", [150, 400, None] * 2, [0.9, 0.4, None] * 2],
        ]
        shown = "[...document.getElementById('detectors').data].map(t => [t.name, t.y])"
        assert page.evaluate(shown)[:2] == [["object", [2, 2]], ["color", [0, 0]]]
        page.select_option("#bars-by", "category")
        ready(found)
        assert page.evaluate(shown) == [["kd (1)", [2, 0]], ["scratch (1)", [2, 0]]]
        curve = "document.getElementById('curve-0').data.map(t => [t.name, t.x.length])"
        assert page.evaluate(curve) == [["mbt_r", 20]]
        page.select_option("#phase-source", "wording")
        ready(found)
        phases = page.evaluate("document.getElementById('phases').data.map(t => [t.name, t.y])")
        assert ["mbt_r: tuned", [1, 1, 1, 1, 1]] in phases
        page.click("#experiments button:has-text('scratch')")
        ready(found)
        assert page.query_selector("#plane .main-svg") is None
        assert "No run shown here has answered questions" in page.inner_text("#plane")
        page.select_option("#theme", "dark")
        ready(found)
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        table = page.inner_text("#distillation-table")
        assert "scratch" in table
        assert "70.0" in table


@pytest.mark.browser
def test_traces_are_shown_next_to_each_other_in_phases(board: Path) -> None:
    with opened(board) as found:
        page = ready(found)
        page.click("#overview tr:has-text('mbt-1') button:has-text('traces')")
        found.until("document.querySelectorAll('#questions li').length === 3")
        assert page.inner_text(".question") == "Who is the king of Rome?"
        traces = page.evaluate("[...document.querySelectorAll('.reasoning-text')].map(t => t.textContent)")
        assert traces == [DRAFT, PLANNED]
        tuned = page.query_selector("article[data-side=tuned]")
        phases = tuned.evaluate("side => [...side.querySelectorAll('.reasoning-text span')].map(s => s.dataset.phase)")
        assert sorted(set(phases)) == ["1", "2", "3", "4", "5"]
        marks = page.evaluate("[...document.querySelectorAll('.reasoning-text mark')].map(m => m.textContent)")
        assert marks == ["Numa", "Numa"]
        colors = tuned.evaluate(
            "side => [...side.querySelectorAll('.ruler i')].map(i => getComputedStyle(i).backgroundColor)"
        )
        assert len(set(colors)) == 5
        assert "judge: derives the answer in paragraph 3; redundant: paragraphs 4; level 5" in tuned.inner_text()
        assert page.inner_text("article[data-side=base] .outcome") == "answer-inclusive error"
        assert page.inner_text("article[data-side=tuned] .outcome") == "correct"
        page.keyboard.press("n")
        assert page.inner_text(".question") == "Who is the king of Rome1?"
        page.focus("#questions")
        page.keyboard.press("End")
        assert page.inner_text("#position") == "3 of 3"
        page.keyboard.press("p")
        assert page.inner_text("#position") == "2 of 3"
        page.select_option("#outcome", "gained")
        assert found.texts("#questions li small") == ["answer-inclusive error → correct", "no answer → correct"]
        page.fill("#find", "rome2")
        assert found.texts("#questions li small") == ["no answer → correct"]
        page.fill("#find", "carthage")
        assert page.inner_text("#pair") == "No question matches."
        page.fill("#find", "")
        page.click("#phase-legend button:has-text('planning')")
        assert page.get_attribute("#phase-legend button:has-text('planning')", "aria-pressed") == "false"
        assert page.query_selector(".reasoning-text span.uncolored[data-phase='2']") is not None


@pytest.mark.browser
def test_hostile_labels_and_traces_stay_text(board: Path) -> None:
    with opened(board) as found:
        page = ready(found)
        assert page.title() == "logs: runs"
        page.click("#overview tr:has-text('grpo') button:has-text('traces')")
        found.until("document.querySelector('#pair .reasoning-text')?.textContent.includes('taken over')")
        assert page.evaluate("document.querySelector('#pair .reasoning-text').textContent") == HOSTILE
        assert f"answer: {HOSTILE}" in page.inner_text(".final")
        assert "no rollout of this question" in page.inner_text("article[data-side=base]")
        assert any(HOSTILE in text for text in found.texts("#dissections td"))
        assert any(HOSTILE in text for text in found.texts("#experiments button"))
        assert page.eval_on_selector_all("#tag option", "all => all.map(o => o.text)")[1] == HOSTILE
        page.click("#experiments button:has-text('kd')")
        ready(found)
        page.locator("#trade").scroll_into_view_if_needed()
        box = page.locator("#trade .point").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_selector("#trade .hoverlayer text")
        assert page.query_selector("img, #experiments script") is None
        assert page.title() == "logs: runs"


@pytest.mark.browser
def test_links_to_reports_are_relative_to_the_page(board: Path, tmp_path: Path) -> None:
    page_file = tmp_path / "elsewhere/page.html"
    write_board(board.parent, page_file, rollouts=ROLLOUTS)
    for file in (board, page_file):
        with opened(file) as found:
            page = ready(found)
            page.click("#overview tr:has-text('kd <b>') a:has-text('report')")
            page.wait_for_load_state()
            assert page.title() == "report"


@pytest.mark.browser
def test_a_page_that_cannot_be_drawn_shows_the_error(board: Path, tmp_path: Path) -> None:
    text = re.sub(r'(id="blob-board">)[^<]*', r"\1broken", board.read_text())
    (tmp_path / "page.html").write_text(text)
    with opened(tmp_path / "page.html") as found:
        found.page.wait_for_selector("#failure:not([hidden])")
        assert "The page could not be drawn" in found.page.inner_text("#failure")
        assert found.errors  # also in the console, as it should be
        found.errors.clear()


@pytest.mark.browser
@pytest.mark.slow
def test_200_runs_and_2000_rollouts_are_drawn_from_one_megabyte(tmp_path: Path) -> None:
    root = tmp_path / "logs"
    rows = [{"step": step, "train/loss": 1 / (1 + step), "val/accuracy": step / 120} for step in range(120)]
    pattern = image_run(tmp_path / "pattern")
    curves(pattern, rows)
    for number in range(100):
        experiment, seed = f"recipe-{number % 5}", number // 5
        answers = [[rollout(n, f"{PLANNED} {number} {side} {n}") for n in range(10)] for side in ("base", "tuned")]
        folder = reasoning_run(
            root / f"reasoning/{number}",
            experiment,
            seed=seed,
            base=answers[0],
            tuned=answers[1],
            accuracy=(0.4 + seed / 100, 0.8 + seed / 200),
            tokens=(400 + seed, 150 + 10 * (number % 5)),
        )
        curves(folder, rows)
        shutil.copytree(pattern, root / f"images/{number}")
        hydra(root / f"images/{number}", f"method-{number % 4}", seed=number // 4)
    file = root / "board.html"
    write_board(root, file, rollouts=ROLLOUTS)
    with opened(file) as found:
        page = ready(found)
        assert page.inner_text("#shown") == "200 of 200 runs"
        assert len(names(page)) == 200
        drawn = page.evaluate("ids => ids.filter(id => document.querySelector(`#${id} .main-svg`))", CHARTS)
        assert drawn == [name for name in CHARTS if name != "rrp"]  # no run is judged
    assert file.stat().st_size < 2**20  # equal sets of rollouts are stored once
