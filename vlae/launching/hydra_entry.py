"""A sweep as the command line starts it: settings of the launcher checked, runs composed, the launch made."""

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

from vlae.config.checks import wrong_leaves
from vlae.config.overrides import added_directories
from vlae.config.problems import ConfigError, Problem, problems_of, section_of, shown, with_suggestions
from vlae.config.run_id import OF_A_COMMAND, OPERATIONAL
from vlae.config.schema import LONGEST_NAME, wrong_name
from vlae.config.sweep_compose import Composer
from vlae.config.sweep_file import read, replacements
from vlae.launching.launch import Launcher, launch_runs
from vlae.launching.plan import ComposedRuns
from vlae.system.console import Console
from vlae.system.files import check_writable

MANY = 100
"""Runs that take so long to compose that it is said."""


def launch_sweep(
    kind: str, settings: dict[str, Any], overrides: Sequence[Sequence[str]], hydra_context: Any, composed: Any
) -> int:
    """Entry point of the launcher plugins. kind: local or slurm; composed: the configuration of the command."""
    sweeper, problems, given = composed.hydra.sweeper, [], list(composed.hydra.overrides.task)
    file = Path(sweeper.file) if sweeper.file else None
    notes = replacements(read(file), given) if file else []
    try:
        launcher = launcher_of(kind, settings)
    except ConfigError as error:
        launcher, problems = None, error.problems
    if wrong := wrong_sweep_name(sweeper.name, file):
        problems = [*problems, str(wrong)]
    compose = Composer(
        lambda chosen: hydra_context.config_loader.load_sweep_config(composed, chosen),
        added_directories(composed),
    )
    with contextlib.suppress(ConfigError):  # all problems of all runs are reported below
        first = compose(overrides[0]) if overrides else None
        if first is not None and not first["dry_run"]:
            check_writable(Path(first["runs_dir"]))
    if len(overrides) > MANY:
        Console(stderr=True, highlight=False).print(f"composing {len(overrides)} runs")
    try:
        jobs = ComposedRuns(overrides, compose, file and file.name, notes)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from error
    if launcher is None or problems:
        raise ConfigError(problems)
    return launch_runs(jobs, launcher, sweeper.name or name_of(sweeper.file, given))


def launcher_of(kind: str, settings: dict[str, Any]) -> Launcher:
    """The launcher with these settings. ConfigError: everything that is wrong with them."""
    if kind == "slurm":
        from vlae.launching.slurm_launcher import SlurmArrays as chosen
    else:
        from vlae.launching.local_launcher import LocalQueue as chosen
    hints = {k: h for k, h in get_type_hints(chosen.__init__, include_extras=True).items() if k != "return"}
    problems = problems_of(section_of(hints), settings, "hydra.launcher")
    if problems := problems or wrong_leaves(settings, "hydra.launcher"):
        raise ConfigError(with_suggestions(problems, [f"hydra.launcher.{key}" for key in hints]))
    return chosen(**settings)


def name_of(file: str | None, overrides: Sequence[str]) -> str | None:
    """The name of the file, and a hash of the overrides that change its runs."""
    if file is None:
        return None
    name = Path(file).stem
    keys = (*OPERATIONAL, *OF_A_COMMAND)
    changing = sorted(text for text in overrides if text.lstrip("+").partition("=")[0] not in keys)
    if not changing:
        return name
    digest = hashlib.sha256(" ".join(changing).encode()).hexdigest()[:6]
    return f"{name[: LONGEST_NAME - len(digest) - 1]}-{digest}"


def wrong_sweep_name(given: str | None, file: Path | None) -> Problem | None:
    """The problem with the name of a sweep, if any: the ``given`` one, or that of its file."""
    if given == "None":
        return Problem("hydra.sweeper.name", "expected null where there is none, got the text 'None'")
    name = given if given is not None else file and file.stem
    if name is None or not (wrong := wrong_name(name, file=True)):
        return None
    if given is not None:
        return Problem("hydra.sweeper.name", f"expected {wrong}, got {shown(given)}")
    text = f"the sweep has the name of its file: expected {wrong}, got {shown(name)}; or add hydra.sweeper.name=NAME"
    return Problem("sweeps", text)
