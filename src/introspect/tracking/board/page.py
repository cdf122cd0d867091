"""Runs as one HTML file, which a browser opens without a server and without a network.

What runs have to say travels as gzipped JSON, which the page's script puts in place as text; none of it is ever markup.
The policy of the page lets no other script run than the two whose hashes it names: ours and Plotly's.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from introspect.core.files import write_text
from introspect.tracking.board.curves import Curve
from introspect.tracking.board.dissections import Layer
from introspect.tracking.board.runs import Run

_SCRIPTS = ("base.js", "charts.js", "reasoning.js", "images.js", "viewer.js", "main.js")
# Charts are scatters and bars: the npm package plotly.js-basic-dist-min 4.1.1 as it is, gzipped. Python's `plotly` has
# only the bundle of everything, four times as large, which a browser reads before it draws anything.
_PLOTLY = "plotly-basic.min.js.gz"
_DIGITS = 5  # significant ones of a number on the page


def write_page(runs: Iterable[Run], root: Path, path: Path) -> None:
    """Write the page.

    Args:
        runs: in their order; none is kept longer than it takes to pack it.
        root: the folder that they were found in.
        path: of the page; links to reports are relative to it.
    """
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup

    environment = Environment(loader=PackageLoader("introspect.tracking", "board"), autoescape=True)
    assets = files("introspect.tracking.board")
    script = "".join((assets / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    plotly = (assets / _PLOTLY).read_bytes()
    blobs: dict[str, str] = {}
    packed = [(_of_run(run, path, blobs), _curves(run)) for run in runs]
    content = {
        "root": root.resolve().name,
        "made": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        "runs": [shown for shown, _ in packed],
    }
    blobs["board"], blobs["curves"] = _packed_json(content), _packed_json([curves for _, curves in packed])
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
    """Of a script, as a Content-Security-Policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode('ascii')}"


def _packed(content: bytes) -> str:
    """Gzipped, always to the same bytes, in base64."""
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode("ascii")


def _packed_json(content: Any) -> str:
    return _packed(json.dumps(content, separators=(",", ":"), allow_nan=False).encode())


def _of_run(run: Run, path: Path, blobs: dict[str, str]) -> dict[str, Any]:
    """A run as the page's script reads it; its rollouts go to the blobs, equal ones once."""
    sides = {}
    for name, side in run.sides.items():
        packed = _packed_json(side.rows)
        key = f"t{hashlib.sha256(packed.encode()).hexdigest()[:16]}"
        blobs[key] = packed
        sides[name] = {"blob": key, "shown": len(side.rows), "total": side.total, "presence": side.presence}
    settings = asdict(run.settings)
    return {
        "name": run.name,
        "status": run.status,
        "reasons": run.reasons,
        **{name: settings[name] for name in ("task", "experiment", "tags", "seed", "data", "overrides")},
        "metrics": {name: _short(value) for name, value in run.metrics.items()},
        "bounds": {name: [_short(low), _short(high)] for name, (low, high) in run.bounds.items()},
        "judge": run.judge,
        "layers": [_of_layer(layer, path) for layer in run.layers],
        "sides": sides,
    }


def _of_layer(layer: Layer, path: Path) -> dict[str, Any]:
    report = None
    if layer.report is not None:
        report = quote(Path(os.path.relpath(layer.report.resolve(), path.resolve().parent)).as_posix())
    return {**asdict(layer), "report": report}


def _curves(run: Run) -> dict[str, list[Any]]:
    """Metric to steps, values, and how many values a point is the mean of."""
    return {name: [*_columns(curve), curve.values_per_point] for name, curve in run.curves.items()}


def _columns(curve: Curve) -> list[list[float | None]]:
    points = curve.points()
    return [[_short(step) for step, _ in points], [_short(value) for _, value in points]]


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")
