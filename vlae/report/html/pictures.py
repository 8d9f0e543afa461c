"""Reconstructions and samples of each model, as images inside the page."""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from vlae.report.html.models import Model
from vlae.report.runs import Run
from vlae.report.tables.cells import Values
from vlae.system.disk import RecordError
from vlae.system.files import check_inside, read_bytes

DATA = "data"
KINDS = {
    "reconstructions": "reconstructions",
    "prior_samples": "samples from the prior",
    "refinements": "refinements: the data, then each update of inference",
}
LARGEST = 60_000
"""Bytes; a larger picture is scaled down."""
WIDEST = 480
"""Pixels."""
MOST = 24
"""Models."""
ALL = 4_000_000
"""Bytes of all pictures together."""


class Picture(NamedTuple):
    """An ``img``."""

    title: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Shown:
    """The pictures of one run of a model."""

    title: str
    run: Run
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Gallery:
    """The pictures of a page; test images, which many models share, are shown once."""

    data: tuple[Picture, ...]
    models: tuple[Shown, ...]
    more: int
    """Number of models whose pictures are too many for one page."""


def gallery(runs_dir: Path, models: Sequence[Model]) -> Gallery:
    """The pictures of one seed of each model, by column; the first models where there are too many.

    Pictures that cannot be read are skipped.
    """
    data: dict[str, Picture] = {}
    shown: dict[Values, list[Shown]] = {model.column: [] for model in models}
    number = 0
    used, more = 0, 0
    for model in models:
        run = next((run for run in model.runs if (runs_dir / run.id / "images").is_dir()), None)
        if run is None:
            continue
        own = tuple(_pictures(runs_dir / run.id, KINDS))
        of_data = [
            each for each in _pictures(runs_dir / run.id, {DATA: "test images"}) if each.uri not in data
        ]
        size = sum(len(picture.uri) for picture in (*own, *of_data))
        if used + size > ALL or number == MOST:
            more += 1
        elif own:
            used, number = used + size, number + 1
            data |= {each.uri: each for each in of_data}
            shown[model.column].append(Shown(model.name, run, own))
    return Gallery(tuple(data.values()), tuple(each for column in shown.values() for each in column), more)


def _pictures(run: Path, kinds: dict[str, str]) -> Iterator[Picture]:
    for name, title in kinds.items():
        try:
            content = read_bytes(check_inside(run, "images") / f"{name}.png")
            if content is not None:
                yield _picture(title, content)
        except (RecordError, OSError, ValueError, SyntaxError):
            continue


def _picture(title: str, content: bytes) -> Picture:
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        image.load()
        kind = "png"
        if len(content) > LARGEST or image.width > WIDEST:
            image = image.convert("RGB")
            image.thumbnail((WIDEST, 4 * WIDEST))
            buffer = io.BytesIO()
            image.save(buffer, format="JPEG", quality=85, optimize=True)
            if len(buffer.getvalue()) < len(content):
                content, kind = buffer.getvalue(), "jpeg"
        uri = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
        return Picture(title, uri, image.width, image.height)
