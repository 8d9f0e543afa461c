"""Faults that were mended, brought back: the laws must find each of them."""

import contextlib
import os
from collections.abc import Iterator
from unittest import mock

from vlae.launching import slurm


@contextlib.contextmanager
def the_id_of_an_array_is_taken_for_that_of_its_last_task() -> Iterator[None]:
    def slurm_job() -> tuple[str | None, int]:
        return os.environ.get("SLURM_JOB_ID"), int(os.environ.get("SLURM_RESTART_COUNT") or 0)

    with mock.patch.object(slurm, "slurm_job", slurm_job):
        yield
