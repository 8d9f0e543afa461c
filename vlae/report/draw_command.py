"""``vlae figure``: from run directories to a file."""

import sys
from pathlib import Path
from typing import Any

from vlae.files import StrPath, write_output
from vlae.report.collect import collect
from vlae.report.directories import RunDirectories
from vlae.report.drawings import WITHOUT_TIME, draw, written
from vlae.report.output import ending_of


def draw_figure(runs_dir: StrPath, name: str | None, kind: str, out: Path, **asked: Any) -> None:
    """``asked``: the keywords of `draw`. UserError: as there, or a file that cannot be written."""
    suffix = ending_of(out, tuple(WITHOUT_TIME))
    figure = draw(kind, collect(RunDirectories(runs_dir, name)), tell=warn, **asked)
    write_output(out, written(figure, suffix))
    print(out)


def warn(text: str) -> None:
    print(f"vlae: {text}", file=sys.stderr)
