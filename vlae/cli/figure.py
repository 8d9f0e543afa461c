"""``vlae figure``: from run directories to a file."""

import sys
from pathlib import Path
from typing import Any

from vlae.cli.output_file import ending_of
from vlae.report.plots.draw import draw
from vlae.report.plots.frame import WITHOUT_TIME, Captioned, file_content
from vlae.report.runs import collect
from vlae.report.sources.run_directories import RunDirectories
from vlae.report.tables.latex import comment, tex
from vlae.system.files import StrPath, write_output


def draw_figure(runs_dir: StrPath, name: str | None, kind: str, out: Path, **asked: Any) -> None:
    """``asked``: the keywords of `draw`. UserError: as there, or a file that cannot be written."""
    suffix = ending_of(out, tuple(WITHOUT_TIME))
    figure = draw(kind, collect(RunDirectories(runs_dir, name)), warn=warn, **asked)
    write_figure(figure, out, suffix)
    print(out)


def write_figure(figure: Captioned, out: Path, suffix: str) -> None:
    """The picture, and beside it its caption for a paper: ``curves.pdf`` and ``curves.caption.tex``."""
    caption = out.with_suffix(".caption.tex")
    lines = [comment(figure.provenance), f"In a paper: \\caption{{\\protect\\input{{{caption.stem}}}}}"]
    text = "".join(f"% {line}\n" for line in lines) + f"{tex(figure.full_caption)}%\n"
    write_output(out, file_content(figure, suffix))
    write_output(caption, text.encode())


def warn(text: str) -> None:
    print(f"vlae: {text}", file=sys.stderr)
