"""Train, evaluate and record one model: ``python launch.py --help``."""

import os
import sys

import hydra
from omegaconf import DictConfig

from vlae import config

statuses: list[int] = []
"""Exit statuses of the runs of this command: hydra.main drops what its task returns."""


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="config")
def run(composed: DictConfig) -> None:
    try:
        container = config.resolve(composed)
        from vlae.job import launch

        statuses.append(launch(container))
    except user_errors() as error:
        statuses.append(complain(error))
    if statuses[-1] > 128:  # a signal: the runs that are left of a --multirun do not start
        raise SystemExit(statuses[-1])


def user_errors() -> tuple[type[Exception], ...]:
    """What a user can put right, and so is said without a traceback."""
    found: list[type[Exception]] = [config.ConfigError]
    for module, name in (("files", "RecordError"), ("download", "DataError"), ("train", "NonFiniteError")):
        if f"vlae.{module}" in sys.modules:  # not imported for this: it would cost seconds
            found.append(getattr(sys.modules[f"vlae.{module}"], name))
    return tuple(found)


def complain(error: Exception) -> int:
    print(f"vlae: {error}", file=sys.stderr)
    return 1 if type(error).__name__ == "NonFiniteError" else 2


def main() -> int:
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
    return max(statuses, default=0)


if __name__ == "__main__":
    sys.exit(main())
