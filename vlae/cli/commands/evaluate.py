"""The evaluation of trained models with other settings."""

from pathlib import Path
from typing import Annotated, Any

import typer

from vlae.cli.options import RunsDir
from vlae.errors import UserError


def evaluate(
    name: Annotated[str, typer.Argument(metavar="RUN|SWEEP", help="A run, an id prefix, or a sweep.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="evaluate=..., evaluate.*, device, num_threads, dataset.root, dataset.path, dataset.url, force, "
            "retry, dry_run, hydra/launcher, hydra.launcher.*.",
        ),
    ] = None,
    runs_dir: RunsDir = "runs",
) -> None:
    """Score trained models again with other settings.

    Examples: vlae evaluate RUN evaluate.num_samples=1000; vlae evaluate smoke evaluate=thorough hydra/launcher=slurm

    Other settings make other runs, which train nothing: they take over the weights, and all scores that have the same
    settings. The tables of a sweep then show its newest scores.
    """
    from vlae.launching.rescore import rescored_runs, split_words

    if any(text.startswith("runs_dir=") for text in overrides or ()):
        raise UserError("runs_dir: the directory of the runs is named by --runs-dir here")
    launcher, settings, others = split_words(overrides or [])
    sweep, found, note = _trained_runs(name, Path(runs_dir).absolute())
    runs = rescored_runs(found, others, note)
    if len(found) == 1 and others == (overrides or []) and not (sweep or runs.common("dry_run")):
        from vlae.cli.hydra_main import run_command

        raise typer.Exit(run_command(next(iter(runs.containers.values()))))
    from vlae.launching.launch import launch_runs

    raise typer.Exit(launch_runs(runs, _launcher(launcher, settings), sweep))


def _trained_runs(name: str, runs_dir: Path) -> tuple[str | None, list[tuple[str, dict[str, Any]]], str]:
    """The name of the sweep, each run with its label and its configuration, and a note on those that are not done.

    RecordError: no such run or sweep, or a run is named that is not trained to its end.
    """
    from vlae.config.targets import check_targets
    from vlae.launching.sweep_index import read_sweep
    from vlae.runs.directory import find, run_names
    from vlae.system.console import count_of
    from vlae.system.disk import RecordError

    sweep = read_sweep(runs_dir, name)
    labels = sweep["runs"] if sweep else dict.fromkeys(run_names(runs_dir, name), "") or {name: ""}
    found, untrained = [], 0
    for run, label in labels.items():
        directory = find(runs_dir, run, to_write=True)
        config = directory.config()
        if directory.path.name != directory.run_id:
            raise RecordError(
                f"{directory.path} was {directory.run_id}, and was renamed: give it that name again"
            )
        check_targets(config, directory.path / "config.yaml")
        if directory.results() is None or not (directory.path / "checkpoints" / "last.pt").is_file():
            untrained, state = untrained + 1, directory.state()
            if not sweep:
                why = (
                    "its checkpoint is missing"
                    if state == "done"
                    else f"state: {state}; launch it again first"
                )
                raise RecordError(f"{directory.path} has no trained model yet ({why})")
        found.append((label or f"run={directory.run_id}", {**config, "runs_dir": str(directory.path.parent)}))
    note = (
        f"{untrained} of {count_of(len(found), 'run')} not trained to the end: they train, too"
        if untrained
        else ""
    )
    return sweep and sweep["name"], found, note


def _launcher(name: str, settings: dict[str, Any]) -> Any:
    from vlae.launching.launcher import launcher_of
    from vlae.launching.local_launcher import LocalQueue
    from vlae.launching.slurm_launcher import SlurmArrays

    return launcher_of({"local": LocalQueue, "slurm": SlurmArrays}[name], settings)
