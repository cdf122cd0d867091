"""A dissection as one HTML file, which a browser opens without a server and without a network."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

from introspect.core.files import write_text
from introspect.dissection.concepts.base import ConceptDataset
from introspect.dissection.report.pictures import SIDE, pictures
from introspect.dissection.result import Dissection, display

if TYPE_CHECKING:
    from PIL.Image import Image

_QUALITY = 80


def write_report(dissection: Dissection, concepts: ConceptDataset, path: str | Path, *, side: int = SIDE) -> None:
    """Write the report: every detector with its concept, IoU and top-activating images.

    Units can be sorted by any column and filtered by concept and category. All text is escaped, all images are inside.

    Args:
        dissection: with examples, or there are no images.
        concepts: the data set that it was made with.
        path: of the file; its folder is made if it is absent.
        side: longer side of the images, in pixels.
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("introspect.dissection", "report"), autoescape=True)
    detectors = dissection.detectors()
    shown = pictures(dissection, concepts, [detector.unit for detector in detectors], side)
    units = [
        {
            "unit": detector.unit,
            "label": display(detector.label),
            "category": detector.category,
            "iou": detector.iou,
            "threshold": float(dissection.thresholds[detector.unit]),
            "images": [
                {"source": _embedded(image), "name": name, "peak": peak} for image, name, peak in shown[detector.unit]
            ],
        }
        for detector in detectors
    ]
    text = environment.get_template("report.html.jinja").render(
        dissection=dissection, settings=dissection.settings(), summary=dissection.summary(), units=units, side=side
    )
    write_text(path, text)


def _embedded(image: Image) -> str:
    """Encode an image as JPEG in a data URI."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
