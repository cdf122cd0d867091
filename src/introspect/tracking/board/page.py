"""Runs as one HTML file, which a browser opens without a server and without a network.

The data of the runs travel as gzipped JSON, which the page's script inserts as text; none of it is ever markup. The
Content-Security-Policy of the page allows no script but the two whose hashes it names: ours and Plotly's.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
from dataclasses import asdict
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from introspect.core.errors import InputError
from introspect.core.files import write_text
from introspect.core.progress import track
from introspect.tracking.board.dissections import Layer
from introspect.tracking.board.runs import Run, find_runs, read_run

_SCRIPTS = ("base.js", "charts.js", "reasoning.js", "images.js", "viewer.js", "main.js")
# Charts are scatters and bars: the npm package plotly.js-basic-dist-min 4.1.1 as it is, gzipped. Python's `plotly` has
# only the bundle of everything, four times as large, which a browser reads before it draws anything.
_PLOTLY = "plotly-basic.min.js.gz"
_DIGITS = 5  # significant ones of a number on the page


def write_board(root: Path, path: Path, *, rollouts: int) -> None:
    """Write a page about every run in and under a folder.

    Args:
        root: the folder, usually `logs`; or the folder of one run.
        path: the page to write; its links to reports are relative to it.
        rollouts: rollouts of each run and side in the trace viewer at most.

    Raises:
        InputError: there is no such folder, or no run in it.
    """
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup

    if rollouts < 1:
        raise InputError(f"--rollouts is {rollouts}, expected 1 or more")
    folders = list(find_runs(root))
    if not folders:
        raise InputError(f"{root}: there is no run in it; a run's folder holds .hydra, metrics.json, csv or rollouts")
    environment = Environment(loader=PackageLoader("introspect.tracking", "board"), autoescape=True)
    assets = files("introspect.tracking.board")
    script = "".join((assets / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    plotly = (assets / _PLOTLY).read_bytes()
    blobs: dict[str, str] = {}
    runs = (read_run(folder, root, rollouts) for folder in folders)  # packed one at a time: rollouts are large
    packed = [(_run(run, path, blobs), _curves(run)) for run in track(runs, description="runs", total=len(folders))]
    content = {
        "root": root.resolve().name,
        "made": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        "runs": [shown for shown, _ in packed],
    }
    blobs["board"], blobs["curves"] = _packed(content), _packed([curves for _, curves in packed])
    blobs["plotly"] = base64.b64encode(plotly).decode("ascii")
    text = environment.get_template("board.html.jinja").render(
        root=root.resolve().name,
        style=Markup((assets / "board.css").read_text(encoding="utf-8")),
        script=Markup(script),
        hashes=[_hash(script), _hash(gzip.decompress(plotly).decode())],
        blobs=blobs,
    )
    write_text(path, text)


def _hash(script: str) -> str:
    """Return the hash of a script, as a Content-Security-Policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode('ascii')}"


def _packed(content: Any) -> str:
    """Return JSON, gzipped to the same bytes each time, in base64."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode("ascii")


def _run(run: Run, path: Path, blobs: dict[str, str]) -> dict[str, Any]:
    """Return a run as the page's script reads it; its rollouts go to the blobs, equal ones once."""
    sides = {}
    for name, side in run.sides.items():
        packed = _packed(side.rows)
        key = f"t{hashlib.sha256(packed.encode()).hexdigest()[:16]}"
        blobs[key] = packed
        sides[name] = {"blob": key, "shown": len(side.rows), "total": side.total, "presence": side.presence}
    settings = asdict(run.settings)
    return {
        "name": run.name,
        "status": run.status,
        "reasons": run.reasons,
        **{name: settings[name] for name in ("experiment", "tags", "seed", "overrides")},
        "metrics": {name: _short(value) for name, value in run.metrics.items()},
        "bounds": {name: [_short(low), _short(high)] for name, (low, high) in run.bounds.items()},
        "judge": run.judge,
        "layers": [_layer(layer, path) for layer in run.layers],
        "sides": sides,
    }


def _layer(layer: Layer, path: Path) -> dict[str, Any]:
    report = None
    if layer.report is not None:
        report = quote(Path(os.path.relpath(layer.report.resolve(), path.resolve().parent)).as_posix())
    return {**asdict(layer), "report": report}


def _curves(run: Run) -> dict[str, list[Any]]:
    """Return for each metric: steps, values, values per point."""
    return {
        name: [[*map(_short, curve.steps)], [*map(_short, curve.values)], curve.values_per_point]
        for name, curve in run.curves.items()
    }


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")
