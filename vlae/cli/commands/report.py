"""A report of runs."""

from pathlib import Path
from typing import Annotated

import typer

from vlae.cli.options import Evaluation, RunsDir, Sources, out_option
from vlae.errors import UserError


def report(
    names: Sources = None,
    out: Annotated[Path | None, out_option("The HTML file to write; default: report.html.")] = None,
    wandb: Annotated[
        bool, typer.Option("--wandb", help="A report on Weights & Biases instead, which is made or replaced.")
    ] = False,
    evaluation: Evaluation = None,
    runs_dir: RunsDir = "runs",
) -> None:
    """Write a report of runs: one HTML file.

    It has tables, curves, images and failures, and needs no network.
    """
    if not wandb:
        from vlae import report

        print(report(names or None, out or "report.html", runs_dir, evaluation=evaluation))
        return
    if out is not None:
        raise UserError(f"--wandb writes no file: leave out --out {out}")
    if not names or len(names) > 1:
        raise UserError("--wandb: expected a sweep and no more: vlae report SWEEP --wandb")
    [name] = names
    from vlae.report.filter import choose_runs
    from vlae.report.sources.run_directories import collect_runs
    from vlae.report.wandb_report import check_extra, publish

    check_extra(name)
    print(publish(Path(runs_dir).absolute(), choose_runs(collect_runs(name, runs_dir, evaluation))))
