"""A sweep as the command line starts it: check the launcher's settings, compose the runs, launch them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlae.config.compose import Composer
from vlae.config.overrides import added_directories
from vlae.config.problems import ConfigError
from vlae.config.sweep_file import expand_file, replacements
from vlae.launching.composed_runs import ComposedRuns
from vlae.launching.launch import launch_runs
from vlae.launching.launcher import Launcher, launcher_of
from vlae.launching.sweep_index import name_of, wrong_sweep_name


def launch_sweep(
    chosen: type[Launcher],
    settings: dict[str, Any],
    overrides: Sequence[Sequence[str]],
    hydra_context: Any,
    composed: Any,
) -> int:
    """Entry point of the launcher plugins; the exit status of the command.

    settings: of the ``chosen`` launcher; overrides: of each run; composed: the configuration of the command.
    """
    sweeper, given = composed.hydra.sweeper, list(composed.hydra.overrides.task)
    file = Path(sweeper.file) if sweeper.file else None
    notes = replacements(expand_file(file), given) if file else []
    launcher, problems = None, list[str]()
    try:
        launcher = launcher_of(chosen, settings)
    except ConfigError as error:
        problems += error.problems
    if wrong := wrong_sweep_name(sweeper.name, file):
        problems.append(str(wrong))
    compose = Composer(
        lambda texts: hydra_context.config_loader.load_sweep_config(composed, texts),
        added_directories(composed),
    )
    try:
        runs = ComposedRuns(overrides, compose, file and file.name, notes)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from error
    if launcher is None or problems:
        raise ConfigError(problems)
    return launch_runs(runs, launcher, sweeper.name or name_of(sweeper.file, given))
