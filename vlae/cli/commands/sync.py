"""The upload to Weights & Biases."""

from pathlib import Path
from typing import Annotated

import typer

from vlae.cli.options import Runs, RunsDir


def sync(
    name: Runs = None,
    rebuild: Annotated[
        bool,
        typer.Option("--rebuild", help="Make the runs on Weights & Biases again, and delete the old ones."),
    ] = False,
    runs_dir: RunsDir = "runs",
) -> None:
    """Upload to Weights & Biases what is not there yet.

    That is runs that were offline, or were cut off. Safe to repeat: what is complete is skipped.
    """
    from vlae.launching.status_table import select_runs
    from vlae.runs.directory import RunDirectory
    from vlae.trackers.sync import sync

    _, labels = select_runs(runs_dir, name)
    runs = (RunDirectory(Path(runs_dir) / run_id) for run_id in labels)
    sync(runs, lambda text: print(text, flush=True), rebuild=rebuild)
