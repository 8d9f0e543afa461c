"""Train, evaluate and record one model, or all of a sweep: ``python launch.py --help``."""

import os
import sys

from vlae.system.interruption import stopped_in_one_line

with stopped_in_one_line():  # importing takes seconds
    import hydra
    from omegaconf import DictConfig

    from vlae.config.compose import COMPOSITION_ERRORS, check_command, composition_error, resolve
    from vlae.config.options import completion
    from vlae.config.overrides import CONF, commands, lenient
    from vlae.config.sweep_file import with_sweep_file
    from vlae.errors import UserError
    from vlae.system.streams import guard, printed

statuses: list[int] = []
"""Exit status of the run of this command: hydra.main drops what its task returns."""


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def run(composed: DictConfig) -> None:
    try:
        container = resolve(composed)
        if container["dry_run"]:
            from vlae.launching.hydra_entry import show_plan

            statuses.append(show_plan(container))
        else:
            from vlae.experiment.run import launch

            statuses.append(launch(container))
    except UserError as error:  # which Hydra would comment on
        statuses.append(complain(error))


def complain(error: UserError) -> int:
    print(f"vlae: {error}", file=sys.stderr)
    return error.exit_status


def complete(what: str, shell: str) -> int:
    """``-sc install=bash`` and the like: Hydra's script, which asks for candidates by ``-sc query=bash``."""
    if what == "query":
        from vlae.cli.completion import query

        print(query(shell))
    else:
        sys.argv[1:] = ["-sc", f"{what}={shell}"]
        run()
    return 0


def main() -> int:
    guard()
    arguments = sys.argv[1:]
    if "--version" in arguments:
        from vlae.cli.app import version_line

        print(version_line())
        return printed(0)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them
    try:
        if not {"--help", "-h"}.isdisjoint(arguments):
            from vlae.config.help import show

            return printed(show(arguments))
        if asked := completion(arguments):
            return printed(complete(*asked))
        arguments = with_sweep_file(arguments)
        check_command(arguments)
        sys.argv[1:] = lenient(arguments)
        run()
    except UserError as error:
        return complain(error)
    except COMPOSITION_ERRORS as error:
        return complain(composition_error(error, arguments))
    except KeyboardInterrupt:  # before the run took its signals in hand, or a second time
        text = "vlae: stopped; the same command goes on from the last checkpoint, if there is one"
        print(text, file=sys.stderr)
        return 130
    if commands(arguments):  # --cfg and --info print, and run nothing
        return printed(0)
    return max(statuses, default=0)


if __name__ == "__main__":
    with stopped_in_one_line():
        sys.exit(main())
