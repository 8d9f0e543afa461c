"""Train, evaluate and record one model: ``python launch.py --help``."""

import os
import sys

import hydra
from omegaconf import DictConfig

from vlae import config
from vlae.errors import UserError
from vlae.files import print_anywhere

RUNNING = -1
statuses: list[int] = []
"""Exit statuses of the runs of this command, RUNNING at first: hydra.main drops what its task returns."""


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="config")
def run(composed: DictConfig) -> None:
    statuses.append(RUNNING)
    try:
        container = config.resolve(composed)
        from vlae.job import launch

        statuses[-1] = launch(container)
    except UserError as error:
        statuses[-1] = complain(error)
    if statuses[-1] > 128:  # a signal: the runs that are left of a --multirun do not start
        raise SystemExit(statuses[-1])


def complain(error: UserError) -> int:
    print(f"vlae: {error}", file=sys.stderr)
    return error.exit_status


def main() -> int:
    print_anywhere()
    arguments = sys.argv[1:]
    if not {"--help", "-h"}.isdisjoint(arguments):
        from vlae.help import show

        return show(arguments)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them
    try:
        sys.argv[1:] = config.lenient(arguments)
        config.check_command(arguments)
        run()
    except config.ConfigError as error:
        return complain(error)
    except config.COMPOSITION_ERRORS as error:
        return complain(config.composition_error(error))
    except OSError as error:
        if RUNNING in statuses:
            raise
        problem = f"{error.filename} cannot be made for Hydra's sweep ({error.strerror})"
        return complain(config.ConfigError([f"runs_dir: {problem}"]))
    except KeyboardInterrupt:  # before the run took its signals in hand, or a second time
        text = "vlae: stopped; the same command goes on from the last checkpoint, if there is one"
        print(text, file=sys.stderr)
        return 130
    return max(statuses, default=0)


if __name__ == "__main__":
    sys.exit(main())
