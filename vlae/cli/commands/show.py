"""One run in the terminal."""

from vlae.cli.options import Run, RunsDir


def show(run: Run, runs_dir: RunsDir = "runs") -> None:
    """Show a run: its state, progress and metrics."""
    from vlae.experiment.summary import run_summary, status_table
    from vlae.runs.directory import find
    from vlae.system.console import Console

    directory = find(runs_dir, run)
    results, path, console = directory.results(), directory.path, Console(highlight=False)
    console.print(run_summary(results, path) if results else status_table(directory.status(), path))
