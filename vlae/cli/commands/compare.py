"""Two runs beside each other."""

from pathlib import Path
from typing import Annotated

import typer

from vlae.cli.commands.figure import FORMATS, warn, write_figure
from vlae.cli.options import RunsDir, out_option


def compare(
    one: Annotated[str, typer.Argument(metavar="RUN_A", help="A run directory, an id, or an id prefix.")],
    other: Annotated[str, typer.Argument(metavar="RUN_B", help="The run it is compared with.")],
    out: Annotated[
        Path | None, out_option("The file for both learning curves: .pdf, .svg or .png.", *FORMATS)
    ] = None,
    runs_dir: RunsDir = "runs",
) -> None:
    """Compare two runs: settings, metrics, paired difference.

    Shown are the settings that differ, the metrics side by side, and their paired difference over test images.
    """
    from vlae.cli.comparison import comparable_run, tables_of
    from vlae.report.compare import compare_runs
    from vlae.report.runs import Runs
    from vlae.system.console import Console

    comparison = compare_runs(comparable_run(runs_dir, one), comparable_run(runs_dir, other))
    Console(highlight=False).print(tables_of(comparison))
    if out:
        from vlae.report.plots.draw import draw

        both = Runs("", (comparison.one, comparison.other))
        write_figure(draw("curves", both, rows=["model", "id"], warn=warn), out)
