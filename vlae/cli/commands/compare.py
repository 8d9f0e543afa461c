"""Two runs beside each other."""

from pathlib import Path
from typing import Annotated

import typer

from vlae.cli.options import RunsDir, out_option

SETTINGS = {"short_help": "Compare two runs: settings, metrics, paired difference."}


def compare(
    one: Annotated[str, typer.Argument(metavar="RUN_A", help="A run directory, an id, or an id prefix.")],
    other: Annotated[str, typer.Argument(metavar="RUN_B", help="The run it is compared with.")],
    out: Annotated[Path | None, out_option("The file for both learning curves: .pdf, .svg or .png.")] = None,
    runs_dir: RunsDir = "runs",
) -> None:
    """Compare two runs: settings that differ, metrics side by side, and their paired difference over test images."""
    from vlae.cli.compare import compare_runs

    compare_runs(runs_dir, one, other, out)
