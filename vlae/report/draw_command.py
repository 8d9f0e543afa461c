"""``vlae figure``: from run directories to a file."""

import os
import sys
from pathlib import Path
from typing import Any

from vlae.errors import UserError
from vlae.files import RecordError, StrPath, write_atomically
from vlae.report.collect import collect
from vlae.report.directories import RunDirectories
from vlae.report.drawings import WITHOUT_TIME, draw, written
from vlae.report.keys import near


def draw_figure(runs_dir: StrPath, name: str | None, kind: str, out: Path, **asked: Any) -> None:
    """``asked``: the keywords of `draw`. UserError: as there, or a file that cannot be written."""
    suffix = suffix_of(out)
    figure = draw(kind, collect(RunDirectories(runs_dir, name)), tell=warn, **asked)
    write_atomically(out, written(figure, suffix))
    print(out)


def suffix_of(out: Path) -> str:
    """The format that the name of a file asks for. UserError: there is no such one, or it cannot be written there."""
    suffix, choices = out.suffix.lower().removeprefix("."), tuple(WITHOUT_TIME)
    if suffix not in choices:
        raise UserError(
            f"--out: expected a file that ends in .{', .'.join(choices)}, came {str(out)!r}{near(suffix, choices)}"
        )
    if out.is_dir():
        raise RecordError(f"cannot write {out}: it is a directory")
    if not out.parent.is_dir():
        raise RecordError(f"cannot write {out}: the directory {out.parent} does not exist")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise RecordError(f"cannot write {out}: no permission to write in {out.parent}")
    return suffix


def warn(text: str) -> None:
    print(f"vlae: {text}", file=sys.stderr)
