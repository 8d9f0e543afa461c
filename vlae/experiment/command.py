"""The work of ``python launch.py`` on one configuration."""

from typing import Any

from vlae.errors import OutOfMemory, out_of_memory
from vlae.experiment.single_run import run
from vlae.system.interruption import Interrupted

LESS_MEMORY = "a smaller trainer.batch_size or evaluate.memory_budget needs less"


def run_command(container: dict[str, Any]) -> int:
    """`run` for ``python launch.py``. Returns the exit status: 0, or 128 + the number of a signal."""
    try:
        run(container)
    except Interrupted as interrupted:
        return 128 + interrupted.number
    except Exception as error:
        if text := out_of_memory(error):
            raise OutOfMemory(f"{text}; {LESS_MEMORY}") from error
        raise
    return 0
