"""A report of runs."""

from pathlib import Path
from typing import Annotated

import typer

from vlae.cli.options import Runs, RunsDir, out_option
from vlae.errors import UserError

SETTINGS = {"short_help": "Write a report of runs: one HTML file."}


def report(
    name: Runs = None,
    out: Annotated[Path | None, out_option("The HTML file to write; default: report.html.")] = None,
    wandb: Annotated[
        bool, typer.Option("--wandb", help="A report on Weights & Biases instead, which is made or replaced.")
    ] = False,
    runs_dir: RunsDir = "runs",
) -> None:
    """Write a report of runs: one HTML file with tables, curves, images, failures, which needs no network."""
    if not wandb:
        from vlae import report

        print(report(name, out or "report.html", runs_dir))
        return
    if out is not None:
        raise UserError(f"--wandb writes no file: leave out --out {out}")
    if name is None:
        raise UserError("--wandb: expected a sweep: vlae report SWEEP --wandb")
    from vlae.report.filter import choose_runs
    from vlae.report.runs import collect
    from vlae.report.sources.run_directories import RunDirectories
    from vlae.report.wandb_report import check_extra, publish

    check_extra(name)
    source = RunDirectories(runs_dir, name)
    print(publish(source.runs_dir, choose_runs(collect(source))))
