"""``python launch.py`` and ``vlae launch``: one command under two names."""

import os
import sys
from typing import Any

import hydra

from vlae.config.compose import COMPOSITION_ERRORS, composition_error, resolve
from vlae.config.help import PROGRAM, print_help
from vlae.config.options import check_command, completion
from vlae.config.overrides import commands, hydra_arguments
from vlae.config.sweep_file import with_sweep_file
from vlae.errors import OutOfMemory, UserError, out_of_memory
from vlae.system.locations import CONF
from vlae.system.streams import finish_printing, guard

statuses: list[int] = []
"""Exit status of the run of this command, because hydra.main drops the return value of its task."""


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def carry_out(composed: Any) -> None:
    """Carry out or plan the run of the configuration that Hydra has composed; its status is in ``statuses``."""
    try:
        container = resolve(composed)
        if container["dry_run"]:
            from vlae.launching.composed_runs import ComposedRuns
            from vlae.launching.launch import launch_runs
            from vlae.launching.local_launcher import LocalQueue

            composed_run = ComposedRuns([[]], lambda overrides: container)
            statuses.append(launch_runs(composed_run, LocalQueue(), "this command"))
        else:
            statuses.append(run_command(container))
    except UserError as error:  # before Hydra comments on it
        statuses.append(complain(error))


def run_command(container: dict[str, Any]) -> int:
    """Bring the run of this configuration to its results. Returns 0, or 128 + the number of the signal that stopped it.

    OutOfMemory: the run needs more memory than there is.
    """
    from vlae.experiment.single_run import run_configuration
    from vlae.system.interruption import Interrupted

    try:
        run_configuration(container)
    except Interrupted as interrupted:
        return 128 + interrupted.number
    except Exception as error:
        if text := out_of_memory(error):
            advice = "a smaller trainer.batch_size or evaluate.memory_budget needs less"
            raise OutOfMemory(f"{text}; {advice}") from error
        raise
    return 0


def complain(error: UserError) -> int:
    """Print an error that a user can fix; its exit status."""
    print(f"vlae: {error}", file=sys.stderr)
    return error.exit_status


def complete(what: str, shell: str, program: str) -> int:
    """Print or install Hydra's completion script (``-sc install=bash``), or its candidates (``-sc query=bash``)."""
    if what == "query":
        from vlae.cli.completion import query

        print(query(shell))
    elif program != PROGRAM:
        raise UserError(f"{program} is completed with the other commands: vlae --install-completion")
    else:
        sys.argv[1:] = ["-sc", f"{what}={shell}"]
        carry_out()
    return 0


def main(program: str = PROGRAM) -> int:
    """Execute the command in ``sys.argv``, started under this name; the exit status."""
    guard()
    statuses.clear()
    arguments = sys.argv[1:]
    if "--version" in arguments:
        from vlae.cli.options import version_line

        print(version_line())
        return finish_printing(0)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them
    try:
        if not {"--help", "-h"}.isdisjoint(arguments):
            return finish_printing(print_help(arguments, program))
        if asked := completion(arguments):
            return finish_printing(complete(*asked, program))
        arguments = with_sweep_file(arguments)
        check_command(arguments)
        sys.argv[1:] = hydra_arguments(arguments)
        carry_out()
    except UserError as error:
        return complain(error)
    except COMPOSITION_ERRORS as error:
        return complain(composition_error(error))
    except KeyboardInterrupt:  # before the run handles its signals, or a second one
        text = "vlae: stopped; the same command resumes from the last checkpoint, if there is one"
        print(text, file=sys.stderr)
        return 130
    if commands(arguments):  # --cfg and --info only print
        return finish_printing(0)
    return max(statuses, default=0)
