"""The evaluation of trained models with other settings."""

from pathlib import Path
from typing import Annotated, Any

import typer

from vlae.cli.options import RunsDir


def evaluate(
    name: Annotated[str, typer.Argument(metavar="RUN|SWEEP", help="A run, an id prefix, or a sweep.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="evaluate=..., evaluate.*, device, num_threads, dry_run, hydra/launcher, hydra.launcher.*, where the "
            "data lies (dataset.root, dataset.path, dataset.url).",
        ),
    ] = None,
    runs_dir: RunsDir = "runs",
) -> None:
    """Score trained models again with other settings.

    Examples: vlae evaluate RUN evaluate.num_samples=1000; vlae evaluate smoke evaluate=thorough hydra/launcher=slurm

    Other settings make other runs, which train nothing: they take over the weights, and all scores that have the same
    settings. The tables of a sweep then show its newest scores.
    """
    from vlae.launching import sweep_index
    from vlae.launching.rescore import rescored_runs, split_words
    from vlae.launching.status_table import select_runs
    from vlae.runs.directory import find

    words, folder = overrides or [], Path(runs_dir).absolute()
    launcher, settings, others = split_words(words)
    title, labels = select_runs(folder, name)
    sweep = title if sweep_index.read_sweep(folder, title) else None
    found = [
        (label or f"run={run}", _config(find(folder, run, to_write=True), folder))
        for run, label in labels.items()
    ]
    runs = rescored_runs(found, others)
    if sweep is None and len(found) == 1 and len(others) == len(words) and not runs.common("dry_run"):
        from vlae.cli.hydra_main import run_command

        raise typer.Exit(run_command(next(iter(runs.containers.values()))))
    from vlae.launching.launch import launch_runs

    raise typer.Exit(launch_runs(runs, _launcher(launcher, settings), sweep))


def _config(directory: Any, folder: Path) -> dict[str, Any]:
    from vlae.config.targets import check_targets

    config = directory.config()
    check_targets(config, directory.path / "config.yaml")
    return {**config, "runs_dir": str(folder)}


def _launcher(name: str, settings: dict[str, Any]) -> Any:
    from vlae.launching.launcher import launcher_of
    from vlae.launching.local_launcher import LocalQueue
    from vlae.launching.slurm_launcher import SlurmArrays

    return launcher_of({"local": LocalQueue, "slurm": SlurmArrays}[name], settings)
