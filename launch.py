"""Train, evaluate and record one model, or all of a sweep: ``python launch.py --help``."""

import os
import sys

from vlae.interruption import stopped_in_one_line

with stopped_in_one_line():  # importing takes seconds
    import hydra
    from omegaconf import DictConfig

    from vlae import config
    from vlae.errors import UserError
    from vlae.flags import completion
    from vlae.launching.grids import with_sweep_file
    from vlae.overrides import commands
    from vlae.streams import guard, printed

statuses: list[int] = []
"""Exit status of the run of this command: hydra.main drops what its task returns."""


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="config")
def run(composed: DictConfig) -> None:
    try:
        container = config.resolve(composed)
        if container["dry_run"]:
            from vlae.launching.command import show_plan

            statuses.append(show_plan(container))
        else:
            from vlae.job import launch

            statuses.append(launch(container))
    except UserError as error:  # which Hydra would comment on
        statuses.append(complain(error))


def complain(error: UserError) -> int:
    print(f"vlae: {error}", file=sys.stderr)
    return error.exit_status


def complete(what: str, shell: str) -> int:
    """``-sc install=bash`` and the like: Hydra's script, which asks for candidates by ``-sc query=bash``."""
    if what == "query":
        from vlae.completion import query

        print(query(shell))
    else:
        sys.argv[1:] = ["-sc", f"{what}={shell}"]
        run()
    return 0


def main() -> int:
    guard()
    arguments = sys.argv[1:]
    if "--version" in arguments:
        from vlae.cli import version_line

        print(version_line())
        return printed(0)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them
    try:
        if not {"--help", "-h"}.isdisjoint(arguments):
            from vlae.help import show

            return printed(show(arguments))
        if asked := completion(arguments):
            return printed(complete(*asked))
        arguments = with_sweep_file(arguments)
        config.check_command(arguments)
        sys.argv[1:] = config.lenient(arguments)
        run()
    except UserError as error:
        return complain(error)
    except config.COMPOSITION_ERRORS as error:
        return complain(config.composition_error(error, arguments))
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
