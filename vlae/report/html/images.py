"""The images inside a page: figures, and reconstructions and samples of each model."""

import base64
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from vlae.errors import UserError
from vlae.report.plots.draw import draw
from vlae.report.plots.frame import file_content
from vlae.report.plots.registry import PLOTS
from vlae.report.runs import LeftOut, Run, Runs
from vlae.report.tables.groups import Configuration
from vlae.system.files import check_inside, read_bytes

LOADED = 12  # models, at most, for kinds that load trained models: each takes seconds
INCH = 96  # pixels per inch in a browser
LARGEST_SVG = 1_000_000  # bytes of an SVG; a larger one becomes a PNG
PICTURES = {
    "reconstructions": "reconstructions",
    "prior_samples": "samples from the prior",
    "refinements": "refinements: the data, then each update of inference",
}
LARGEST = 60_000  # bytes; a larger picture is scaled down
WIDEST = 480  # pixels
MOST = 24  # models
ALL = 4_000_000  # bytes of all pictures together


class Picture(NamedTuple):
    """An ``img``, which executes nothing and has styles of its own."""

    title: str
    uri: str
    width: int  # pixels
    height: int = 0  # 0: it follows from the width
    caption: str = ""


def embed(runs: Runs, models: int) -> tuple[list[Picture], list[LeftOut]]:
    """All figures that can be drawn of these runs, and the kinds that cannot, with the reason."""
    found, left_out = [], []
    for kind, plot_kind in PLOTS.items():
        if kind == "curves":  # which the page shows in another form
            continue
        try:
            if plot_kind.images and models > LOADED:
                text = f"{models} trained models are too many to load; vlae figure draws some of them"
                raise UserError(text)
            figure = draw(kind, runs, narrow=True)
            width = round(INCH * figure.get_figwidth())  # so that letters are as large as on paper
            uri = _data("svg+xml", svg := file_content(figure, "svg"))
            if len(svg) > LARGEST_SVG:
                uri = _data("png", file_content(figure, "png"))
            found.append(Picture(plot_kind.shows, uri, width, caption=figure.caption))
        except Exception as error:  # whatever it is, the page is worth more than one figure
            left_out.append(LeftOut(kind, str(error) or type(error).__name__))
    return found, left_out


def _data(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


class Shown(NamedTuple):
    """The pictures of one run of a model."""

    title: str
    run: Run
    pictures: tuple[Picture, ...]


class Gallery(NamedTuple):
    """The pictures of a page; test images, which many models share, are shown once."""

    data: tuple[Picture, ...]
    models: tuple[Shown, ...]
    more: int  # number of models whose pictures are too many for one page


def gallery(runs_dir: Path, models: Sequence[Configuration]) -> Gallery:
    """The pictures of one seed of each model, by column; the first models where there are too many.

    Pictures that cannot be read are skipped.
    """
    data: dict[str, Picture] = {}
    shown: dict[tuple[Any, ...], list[Shown]] = {model.column: [] for model in models}
    number, used, more = 0, 0, 0
    for model in models:
        run = next((run for run in model.runs if (runs_dir / run.id / "images").is_dir()), None)
        if run is None:
            continue
        own = tuple(_pictures(runs_dir / run.id, PICTURES))
        of_data = [p for p in _pictures(runs_dir / run.id, {"data": "test images"}) if p.uri not in data]
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
                yield _picture_of(title, content)
        except Exception:  # Pillow raises many kinds for a damaged file
            continue


def _picture_of(title: str, content: bytes) -> Picture:
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
        return Picture(title, _data(kind, content), image.width, image.height)
